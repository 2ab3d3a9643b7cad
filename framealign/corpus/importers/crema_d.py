"""CREMA-D, the Crowd-sourced Emotional Multimodal Actors Dataset (English, acted): 7,442 utterances of 91 actors.

Cao et al. 2014, IEEE Transactions on Affective Computing 5(4); github.com/CheyneyComputerScience/CREMA-D. Licence: Open
Database License.

Names are `1001_DFA_ANG_XX.wav`: actor, sentence, emotion the actor was asked for, its level (`1040_ITH_SAD_X.wav` lacks
a letter). `AudioWAV` is taken before `AudioMP3`, which holds the same. A few files are blank (`1076_MTI_SAD_XX`): they
count and are left out. Where the tables lie beside them, each utterance has the votes of those who heard the sound
alone: of `processedResults/tabulatedVotes.csv`, else of `finishedResponses.csv`. Sessions are 1 to 5: women and men
dealt in the order of their numbers.
"""
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from framealign.corpus.importers.published_corpus import (CorpusFolder, Counts, Entry, PublishedCorpus, csv_rows, dealt,
                                                          read_names, votes_cell)

LABELS = {"NEU": "neutral", "HAP": "happy", "SAD": "sad", "ANG": "angry", "FEA": "fear", "DIS": "disgust"}
LETTERS = {label[0]: word for label, word in LABELS.items()}       # of a vote
HEARD_ONLY = "1"                                    # votes on the sound alone; 2 on the face, 3 on both
WOMEN = [f"10{number}" for number in (
    "02 03 04 06 07 08 09 10 12 13 18 20 21 24 25 28 29 30 37 43 46 47 49 52 53 54 55 56 58 60 61 63 72 73 74 75 76 78 "
    "79 82 84 89 91").split()]
MEN = [str(actor) for actor in range(1001, 1092) if str(actor) not in WOMEN]
SESSIONS = dealt(WOMEN, 5) | dealt(MEN, 5)
COUNTS = Counts(7442, {label: 1087 if label == "neutral" else 1271 for label in LABELS.values()})
EXAMPLE = "1001_DFA_ANG_XX.wav"
_NAME = re.compile(r"(10\d\d)_([A-Z]{3})_([A-Z]{3})_([A-Z]{1,2})", re.ASCII | re.IGNORECASE)


def entry(place: PurePosixPath) -> Entry | None:
    """Actor, sentence and emotion out of a name."""
    name = _NAME.fullmatch(place.stem)
    if not name or name[1] not in SESSIONS:
        return None
    actor, sentence, emotion, _ = name.groups()
    return Entry(str(place), emotion.upper(), actor, SESSIONS[actor], id=place.stem.upper(),
                 gender="F" if actor in WOMEN else "M", sentence=sentence.upper())


def entries(folder: CorpusFolder, unusable: list[str]) -> Iterator[Entry]:
    """Every name's entry, with its votes."""
    votes = _votes(folder)
    for one in read_names(folder, entry, "CREMA-D", EXAMPLE):
        yield one._replace(votes=votes_cell(votes.get(one.id, {})))


def _votes(folder: CorpusFolder) -> dict[str, Counter[str]]:
    """Votes by id, out of the tables in a folder; {} where there are none."""
    votes: dict[str, Counter[str]] = {}
    for place in folder.named("tabulatedvotes.csv")[:1]:
        for _, row in csv_rows(folder.root / place, "fileName", *LETTERS):
            if row.get("", "").startswith(HEARD_ONLY):      # 100001 to 107442
                counts = {word: int(row[letter]) for letter, word in LETTERS.items()
                          if re.fullmatch("[0-9]{1,6}", row[letter])}
                votes[_id(row["fileName"])] = Counter({word: number for word, number in counts.items() if number})
        return votes
    for place in folder.named("finishedresponses.csv")[:1]:
        for _, row in csv_rows(folder.root / place, "queryType", "clipName", "respEmo"):
            if row["queryType"] == HEARD_ONLY and row["respEmo"] in LETTERS:
                votes.setdefault(_id(row["clipName"]), Counter())[LETTERS[row["respEmo"]]] += 1
    return votes


def _id(name: str) -> str:
    return Path(name).stem.upper()


CORPUS = PublishedCorpus("CREMA-D", EXAMPLE, LABELS, "1 to 5: women and men dealt in the order of their numbers",
                         {"": COUNTS}, entry, entries, has_blank=True)
