"""MSP-IMPROV (English, improvised by actors in pairs): 8,438 utterances of six women and six men.

Busso et al. 2017, IEEE Transactions on Affective Computing 8(1); lab-msp.com. On request, for research.

`Evaluation.txt` (`Evalution.txt` in a release) has a line for each utterance, `UTD-IMPROV-S01A-F01-P-FM01.avi; A;
A:...; V:...; D:...; N:...;`, and below it one for each annotator, `WORKER...; Angry; ...`: the votes. The sound is
`MSP-IMPROV-S01A-F01-P-FM01.wav`, in `session1/S01A/P`: sentence with the emotion that was asked for, speaker with
session, scenario (P between, R read, S improvised, T the target sentence), turn. Labels are the annotators': O is
other, X no agreement. Sessions are the corpus's, 1 to 6, a woman and a man each.
"""
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from framealign.corpus.manifest import excerpt, noting, text_lines
from framealign.corpus.importers.published_corpus import CorpusFolder, Counts, Entry, PublishedCorpus, votes_cell

LABELS = {"A": "angry", "H": "happy", "S": "sad", "N": "neutral", "O": "other", "X": "no agreement"}
TABLES = ("evaluation.txt", "evalution.txt")
_UTTERANCE = re.compile(r"(?:UTD|MSP)-IMPROV-(S\d\d[A-Z]-([FM])(\d\d)-([A-Z])-\w+)\.(?:avi|wav)\s*;\s*(\w+)\s*;.*",
                        re.ASCII | re.IGNORECASE)


def entries(folder: CorpusFolder, unusable: list[str]) -> Iterator[Entry]:
    """Label and votes out of the table, speaker and session out of the name."""
    tables = folder.named(*TABLES)
    if not tables:
        raise ValueError(f"{folder.root}: no Evaluation.txt with MSP-IMPROV's labels; give the folder that holds it")
    sounds = {PurePosixPath(place).stem.upper().removeprefix("MSP-IMPROV-"): place for place in folder.sounds}
    utterance: Entry | None = None
    votes: Counter[str] = Counter()
    for line, text in text_lines(folder.root / tables[0], checked=False):
        where = f"{folder.root / tables[0]}:{line}"
        with noting(unusable):
            if "-IMPROV-" in text.upper():
                if utterance:
                    yield utterance._replace(votes=votes_cell(votes))
                utterance, votes = None, Counter()  # those of a line that cannot be read are nobody's
                utterance = _entry(text, sounds, where)
            elif utterance and ";" in text:
                vote = text.split(";")[1].strip()[:1].upper()
                if vote in LABELS:
                    votes[LABELS[vote]] += 1
    if utterance:
        yield utterance._replace(votes=votes_cell(votes))


def _entry(text: str, sounds: dict[str, str], where: str) -> Entry:
    """What a line says of its utterance. Raises ValueError for another line."""
    match = _UTTERANCE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{where}: must read UTD-IMPROV-S01A-F01-P-FM01.avi; label; ..., got {excerpt(text.strip())}")
    name, gender, number, scenario, label = (part.upper() for part in match.groups())
    place = sounds.get(name, f"session{int(number)}/{name[:4]}/{scenario}/MSP-IMPROV-{name}.wav")
    return Entry(place, label, f"{gender}{number}", session=str(int(number)), id=f"MSP-IMPROV-{name}", gender=gender,
                 sentence=f"{name[:4]}-{scenario}", where=where)


def _is_here(folder: CorpusFolder) -> float:
    named = [place for place in folder.sounds if "MSP-IMPROV-" in place.upper()]
    return float(bool(folder.named(*TABLES)) and bool(named))


CORPUS = PublishedCorpus("MSP-IMPROV", "session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav", LABELS,
                         "the corpus's, 1 to 6, a woman and a man each", {"": Counts(8438)}, entries=entries,
                         looks=_is_here)
