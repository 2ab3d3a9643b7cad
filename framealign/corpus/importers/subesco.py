"""SUBESCO, the SUST Bangla Emotional Speech Corpus (acted): 7,000 utterances of ten women and ten men, ten sentences.

Sultana et al. 2021, PLoS ONE 16(4): e0250173; zenodo.org/records/4526477. Licence: CC BY 4.0.

Names are `F_10_FAHMEE_S_6_FEAR_5.wav`: gender, number and name of the speaker, sentence, emotion, take; a number is
used for a woman and for a man, so the speaker is both. Sessions are 1 to 5, of two women and two men each: (number - 1)
mod 5 + 1.
"""
import re
from pathlib import PurePosixPath

from framealign.corpus.importers.published_corpus import Counts, Entry, PublishedCorpus

LABELS = {"ANGRY": "angry", "DISGUST": "disgust", "FEAR": "fear", "HAPPY": "happy", "NEUTRAL": "neutral", "SAD": "sad",
          "SURPRISE": "surprise"}
COUNTS = Counts(7000, dict.fromkeys(LABELS.values(), 1000))
_NAME = re.compile(r"([FM])_(\d\d?)_[^_]+_S_(\d+)_([A-Z]+)_(\d+)", re.ASCII | re.IGNORECASE)


def entry(place: PurePosixPath) -> Entry | None:
    """Gender, speaker, sentence and emotion out of a name."""
    name = _NAME.fullmatch(place.stem)
    if not name:
        return None
    gender, number, sentence = name[1].upper(), int(name[2]), int(name[3])
    return Entry(str(place), name[4].upper(), f"{gender}_{number:02}", session=str((number - 1) % 5 + 1), id=place.stem,
                 gender=gender, sentence=f"s{sentence:02}")


CORPUS = PublishedCorpus("SUBESCO", "F_10_FAHMEE_S_6_FEAR_5.wav", LABELS,
                         "1 to 5, of two women and two men each: (number - 1) mod 5 + 1", {"": COUNTS}, entry)
