"""MELD, the Multimodal EmotionLines Dataset (English, from the series Friends): about 13,700 utterances.

Poria et al. 2019, ACL; github.com/declare-lab/MELD. Licence: GPL-3.0 for the annotations; the films are not free.

`train_sent_emo.csv`, `dev_sent_emo.csv` and `test_sent_emo.csv` name speaker and emotion of dialogue and utterance,
whose film is `dia0_utt0.mp4` in `train_splits`, `dev_splits_complete` and `output_repeated_splits_test`. Sound must be
extracted first, into files of the same name and folder (or a folder named train, dev or test). In the test folder some
films are there twice: `final_videos_testdia...` are those that the table means. Two films are damaged, train
dia125_utt3 and dev dia110_utt7; releases differ in whether the tables have them. The published split is kept, though
the six leading speakers are in all its parts. Sessions are by speaker: 1 Chandler, 2 Joey, 3 Monica, 4 Phoebe, 5
Rachel, 6 Ross, 7 all others, whose genders are not told.
"""
import re
from collections.abc import Iterator

from framealign.corpus.importers.published_corpus import CorpusFolder, Counts, Entry, PublishedCorpus, csv_rows, dealt

LABELS = {"neutral": "neutral", "joy": "happy", "surprise": "surprise", "anger": "angry", "sadness": "sad",
          "disgust": "disgust", "fear": "fear"}
PARTS = {"train": "train", "dev": "valid", "test": "test"}
GENDERS = {"Chandler": "M", "Joey": "M", "Monica": "F", "Phoebe": "F", "Rachel": "F", "Ross": "M"}
SESSIONS = dealt(GENDERS, 6)
OTHERS = "7"
DAMAGED = ("train_dia125_utt3", "dev_dia110_utt7")
LABEL_COUNTS = {"neutral": 6436, "happy": 2308, "surprise": 1636, "angry": 1607, "sad": 1002, "disgust": 361,
                "fear": 358}
RELEASES = {f"train {train}, dev {dev}, test 2610": Counts(
                train + dev + 2610, LABEL_COUNTS | {"neutral": 6436 - (9989 - train) - (1109 - dev)},
                split={"train": train, "valid": dev, "test": 2610})
            for train in (9989, 9988) for dev in (1109, 1108)}
EXTRACT = ("find . -name '*.mp4' -exec sh -c "
           """'ffmpeg -i "$1" -vn -ac 1 -ar 16000 "${1%.mp4}.wav" < /dev/null' _ {} \\;""")
_SOUND = re.compile(r"(final_videos_test)?dia(\d+)_utt(\d+)\.\w+", re.ASCII | re.IGNORECASE)


def entries(folder: CorpusFolder, unusable: list[str]) -> Iterator[Entry]:
    """Speaker and emotion out of the tables, each with its sound file."""
    sounds = _sounds(folder)
    if not sounds:
        films = [place for place in folder.files if place.lower().endswith(".mp4")]
        there = f"{len(films)} films and no sound" if films else "no sound dia*_utt*.wav"
        raise ValueError(f"{folder.root}: {there}; extract it first, in this folder: {EXTRACT}")
    for part, split in PARTS.items():
        for table in folder.named(f"{part}_sent_emo.csv")[:1]:
            for where, row in csv_rows(folder.root / table, "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID"):
                name = f"dia{row['Dialogue_ID'].strip()}_utt{row['Utterance_ID'].strip()}"
                speaker = _safe(row["Speaker"])
                yield Entry(sounds.get((part, name), f"{part}/{name}.wav"), row["Emotion"].strip().lower(), speaker,
                            SESSIONS.get(speaker, OTHERS), id=f"{part}_{name}", gender=GENDERS.get(speaker, ""),
                            split=split, where=where)


def _sounds(folder: CorpusFolder) -> dict[tuple[str, str], str]:
    """(train, dev or test; dia0_utt0) -> sound file."""
    sounds = {}
    for place in sorted(folder.sounds, key=lambda place: "final_videos_test" in place):     # those come last and stay
        *folders, file = place.lower().split("/")
        name = _SOUND.fullmatch(file)
        part = next((part for one in reversed(folders) for part in PARTS if part in one), "")
        if name and part:
            sounds[part, f"dia{int(name[2])}_utt{int(name[3])}"] = place
    return sounds


def _safe(speaker: str) -> str:
    """A speaker's name as a manifest can hold it."""
    return " ".join(re.sub(r"[/\\]", " and ", speaker).split()).lstrip(".")


def _is_here(folder: CorpusFolder) -> float:
    return float(bool(folder.named(*(f"{part}_sent_emo.csv" for part in PARTS))))


CORPUS = PublishedCorpus("MELD", "train_splits/dia0_utt0.wav", LABELS,
                         "the speaker: 1 Chandler, 2 Joey, 3 Monica, 4 Phoebe, 5 Rachel, 6 Ross, 7 all others; split "
                         "is the published one, with the same speakers in all its parts", RELEASES, entries=entries,
                         looks=_is_here, absent=DAMAGED)
