"""AESDD, the Acted Emotional Speech Dynamic Database (Greek): about 600 utterances of six actors, 20 sentences.

Vryzas et al. 2018, Journal of the Audio Engineering Society 66(6); m3c.web.auth.gr. Free for research.

Names are `anger/a03 (3).wav`: letter of the emotion, sentence, speaker in brackets; a letter behind them marks a second
take. One file has no number: its speaker is the one whose recording of this sentence is missing. It counts in one
release and not in another. Genders are not told. Each speaker is a session of its own, 1 to 6.
"""
import re
from pathlib import PurePosixPath

from framealign.corpus.importers.published_corpus import CorpusFolder, Counts, Entry, PublishedCorpus, read_names

LABELS = {"a": "angry", "d": "disgust", "f": "fear", "h": "happy", "s": "sad"}
SPEAKERS = ("1", "2", "3", "4", "5", "6")
LABEL_COUNTS = {"angry": 121, "disgust": 122, "fear": 120, "happy": 119, "sad": 122}
RELEASES = {"604 utterances": Counts(604, LABEL_COUNTS),
            "605 utterances": Counts(605, LABEL_COUNTS | {"sad": 123})}
EXAMPLE = "a03 (3).wav"
_NAME = re.compile(r"([a-z])(\d\d)(?: ?\(0?([1-6])\) ?([a-z]?))?", re.ASCII | re.IGNORECASE)


def entries(folder: CorpusFolder, unusable: list[str]) -> list[Entry]:
    """Emotion, sentence and speaker out of every name."""
    speakers: dict[tuple[str, str], set[str]] = {}  # of emotion and sentence
    for name in map(_named, folder.sounds):
        if name and name[3]:
            speakers.setdefault((name[1].lower(), name[2]), set()).add(name[3])

    def entry(place: PurePosixPath) -> Entry | None:
        name = _named(str(place))
        if not name:
            return None
        emotion, sentence, take = name[1].lower(), name[2], (name[4] or "").lower()
        possible = [name[3]] if name[3] else sorted(set(SPEAKERS) - speakers.get((emotion, sentence), set()))
        if len(possible) != 1:
            return None
        speaker = possible[0]
        return Entry(str(place), emotion, speaker, session=speaker, id=f"{emotion}{sentence}-{speaker}{take}",
                     sentence=f"s{sentence}")

    return read_names(folder, entry, "AESDD", EXAMPLE)


def share_of(folder: CorpusFolder) -> float:
    """The share of sounds that are named so, with a number in brackets."""
    names = list(map(_named, folder.sounds))
    return sum(bool(name and name[3] and name[1].lower() in LABELS) for name in names) / max(1, len(names))


def _named(place: str) -> re.Match[str] | None:
    """Emotion, sentence, speaker and take in a name; the last two may be None."""
    return _NAME.fullmatch(PurePosixPath(place).stem)


CORPUS = PublishedCorpus("AESDD", EXAMPLE, LABELS, "the speaker, 1 to 6", RELEASES, entries=entries, looks=share_of)
