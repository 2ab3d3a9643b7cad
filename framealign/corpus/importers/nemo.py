"""nEMO, emotional speech in Polish (acted): 4,481 utterances of nine actors, 90 sentences.

Christop 2024, LREC-COLING; github.com/amu-cai/nEMO, huggingface.co/datasets/amu-cai/nEMO. Licence: CC BY-NC-SA 4.0.

Names are `SPK_emotion_sentence.wav` in the folder `samples`; `data.tsv` beside it, with texts and ages, is not needed.
Sessions are 1 to 3, of three speakers each: 1 EB0 IC0 KS0, 2 KD0 MP0 SM0, 3 MK0 TP0 WR0.
"""
import re
from pathlib import PurePosixPath

from framealign.corpus.importers.published_corpus import Counts, Entry, PublishedCorpus

LABELS = {"anger": "angry", "fear": "fear", "happiness": "happy", "sadness": "sad", "surprised": "surprise",
          "neutral": "neutral"}
SESSIONS = {"EB0": "1", "IC0": "1", "KS0": "1", "KD0": "2", "MP0": "2", "SM0": "2", "MK0": "3", "TP0": "3", "WR0": "3"}
GENDERS = {"EB0": "F", "IC0": "F", "KS0": "M", "KD0": "F", "MP0": "M", "SM0": "M", "MK0": "F", "TP0": "M", "WR0": "M"}
COUNTS = Counts(4481, {"neutral": 809, "angry": 749, "happy": 749, "sad": 769, "fear": 736, "surprise": 669})
_NAME = re.compile(r"([A-Z]{2}\d)_([a-z]+)_(\d+)", re.ASCII | re.IGNORECASE)


def entry(place: PurePosixPath) -> Entry | None:
    """Speaker, emotion and sentence out of a name."""
    name = _NAME.fullmatch(place.stem)
    if not name or name[1].upper() not in SESSIONS:
        return None
    speaker, emotion, sentence = name[1].upper(), name[2].lower(), int(name[3])
    return Entry(str(place), emotion, speaker, session=SESSIONS[speaker], id=place.stem, gender=GENDERS[speaker],
                 sentence=f"s{sentence:02}")


CORPUS = PublishedCorpus("nEMO", "EB0_anger_1.wav", LABELS,
                         "1 to 3, of three speakers each: EB0 IC0 KS0, KD0 MP0 SM0, MK0 TP0 WR0", {"": COUNTS}, entry)
