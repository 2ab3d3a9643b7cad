"""TESS, the Toronto emotional speech set (English, acted): 2,800 utterances of two women, "Say the word ...".

Pichora-Fuller and Dupuis 2020, Borealis, doi 10.5683/SP2/E8H2MF. Licence: CC BY-NC-ND 4.0.

Names are `OAF_word_emotion.wav`: the older (OAF, 64) and the younger actress (YAF, 26); `ps` is pleasant surprise.
Folders are named in several ways, and nothing is read out of them. A copy that goes round holds all folders twice, one
within the other, and one file named `OA_bite_neutral.wav`, which is of OAF; one file has 96 kHz. Each speaker is a
session of its own, 1 OAF and 2 YAF; with two of them none is left for validation.
"""
import re
from pathlib import PurePosixPath

from framealign.corpus.importers.published_corpus import Counts, Entry, PublishedCorpus, dealt

LABELS = {"angry": "angry", "disgust": "disgust", "fear": "fear", "happy": "happy", "ps": "surprise", "sad": "sad",
          "neutral": "neutral"}
SESSIONS = dealt(("OAF", "YAF"), 2)
COUNTS = Counts(2800, dict.fromkeys(LABELS.values(), 400), dict.fromkeys(SESSIONS, 1400))
_NAME = re.compile(r"(OA|YA)F?_([a-z'-]+)_([a-z]+)", re.ASCII | re.IGNORECASE)


def entry(place: PurePosixPath) -> Entry | None:
    """Speaker, word and emotion out of a name."""
    name = _NAME.fullmatch(place.stem)
    if not name:
        return None
    speaker, word, emotion = f"{name[1].upper()}F", name[2].lower(), name[3].lower()
    return Entry(str(place), emotion, speaker, SESSIONS[speaker], id=f"{speaker}_{word}_{emotion}", gender="F",
                 sentence=word)


CORPUS = PublishedCorpus("TESS", "OAF_back_angry.wav", LABELS, "the speaker: 1 OAF, 2 YAF", {"": COUNTS}, entry)
