"""SAVEE, Surrey Audio-Visual Expressed Emotion (British English, acted): 480 utterances of four men.

Haq and Jackson 2010, in Machine Audition; kahlan.eps.surrey.ac.uk/savee. Free for research, on registration.

Names are `JE/n23.wav`, or `JE_n23.wav` where a copy has one folder for all (`ALL`): speaker, letters of the emotion,
number of the text. Each speaker is a session of its own: 1 DC, 2 JE, 3 JK, 4 KL.
"""
import re
from pathlib import PurePosixPath

from framealign.corpus.importers.published_corpus import Counts, Entry, PublishedCorpus, dealt

LABELS = {"a": "angry", "d": "disgust", "f": "fear", "h": "happy", "n": "neutral", "sa": "sad", "su": "surprise"}
SESSIONS = dealt(("DC", "JE", "JK", "KL"), 4)
COUNTS = Counts(480, {label: 120 if label == "neutral" else 60 for label in LABELS.values()},
                dict.fromkeys(SESSIONS, 120))
_NAME = re.compile(r"(?:(DC|JE|JK|KL)_)?([a-z]{1,2})(\d\d)", re.ASCII | re.IGNORECASE)


def entry(place: PurePosixPath) -> Entry | None:
    """Speaker, emotion and text out of a name, the speaker out of the folder where the name has none."""
    name = _NAME.fullmatch(place.stem)
    if not name:
        return None
    speaker = (name[1] or place.parent.name).upper()
    emotion = name[2].lower()
    if speaker not in SESSIONS:
        return None
    return Entry(str(place), emotion, speaker, SESSIONS[speaker], id=f"{speaker}_{emotion}{name[3]}", gender="M",
                 sentence=f"{emotion}{name[3]}")


CORPUS = PublishedCorpus("SAVEE", "JE/n23.wav", LABELS, "the speaker: 1 DC, 2 JE, 3 JK, 4 KL", {"": COUNTS}, entry)
