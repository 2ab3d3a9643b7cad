"""MSP-Podcast (English, spontaneous): utterances cut from podcasts, some 100,000 and more, by release.

Lotfian and Busso 2019, IEEE Transactions on Affective Computing 10(4); lab-msp.com. On request, for research.

`Labels/labels_consensus.csv` (`labels_concensus.csv` in older releases) has FileName, EmoClass, SpkrID, Gender and
Split_Set; sounds lie in `Audios`. Votes are each annotator's EmoClass_Major in `labels_detailed.csv`, or the second
field of its EmoDetail, where that table is there. Labels O and X are other and no agreement. `split` is Split_Set:
Train, Development or Validation, and Test1, Test2, Test3 together as test. Sessions are 1 to 5: the speaker's number
modulo 5, plus 1; utterances whose speaker is unknown are a session `unknown`, which may share speakers with others.
Releases differ, so counts are not compared; a sound that is missing is an error all the same.
"""
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from framealign.corpus.importers.published_corpus import CorpusFolder, Entry, PublishedCorpus, csv_rows, votes_cell

LABELS = {"A": "angry", "C": "contempt", "D": "disgust", "F": "fear", "H": "happy", "N": "neutral", "O": "other",
          "S": "sad", "U": "surprise", "X": "no agreement"}
WORDS = {"angry": "angry", "contempt": "contempt", "disgust": "disgust", "fear": "fear", "happy": "happy",
         "neutral": "neutral", "sad": "sad", "surprise": "surprise", "other": "other"}          # of a vote
TABLES = ("labels_consensus.csv", "labels_concensus.csv")


def entries(folder: CorpusFolder, unusable: list[str]) -> Iterator[Entry]:
    """Label, speaker, gender and part of the split out of the table."""
    tables = folder.named(*TABLES)
    if not tables:
        raise ValueError(f"{folder.root}: no labels_consensus.csv with MSP-Podcast's labels; give the folder that "
                         "holds Labels and Audios")
    sounds = {PurePosixPath(place).name.lower(): place for place in folder.sounds}
    votes = _votes(folder)
    for where, row in csv_rows(folder.root / tables[0], "FileName", "EmoClass", "SpkrID", "Gender", "Split_Set"):
        name = row["FileName"].strip()
        number = re.search("[0-9]{1,9}", row["SpkrID"])
        gender = row["Gender"].strip()[:1].upper()
        yield Entry(sounds.get(name.lower(), f"Audios/{name}"), row["EmoClass"].strip().upper(),
                    row["SpkrID"].strip() if number else "",
                    session=str(int(number[0]) % 5 + 1) if number else "unknown", id=PurePosixPath(name).stem,
                    gender=gender if gender in ("F", "M") else "", votes=votes_cell(votes.get(name, {})),
                    split=re.sub(r"\d+$", "", row["Split_Set"].strip().lower()), where=where)


def _votes(folder: CorpusFolder) -> dict[str, Counter[str]]:
    """Votes by file name, out of the table of all annotators; {} where it is not there."""
    votes: dict[str, Counter[str]] = {}
    for place in folder.named("labels_detailed.csv")[:1]:
        for _, row in csv_rows(folder.root / place, "FileName"):
            vote = row.get("EmoClass_Major") or "".join(row.get("EmoDetail", "").split(";")[1:2])
            word = WORDS.get(vote.strip().lower().partition("-")[0])
            if word:
                votes.setdefault(row["FileName"].strip(), Counter())[word] += 1
    return votes


def _is_here(folder: CorpusFolder) -> float:
    return float(bool(folder.named(*TABLES)))


CORPUS = PublishedCorpus("MSP-Podcast", "MSP-PODCAST_0001_0008.wav", LABELS,
                         "1 to 5, the speaker's number modulo 5, plus 1; or unknown, as the speaker; split is "
                         "Split_Set", {}, entries=entries, looks=_is_here)
