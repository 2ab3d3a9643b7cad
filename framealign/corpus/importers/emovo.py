"""EMOVO (Italian, acted): 588 utterances of six actors, 14 sentences.

Costantini et al. 2014, LREC; voice.fub.it (Fondazione Ugo Bordoni). Free for research; no licence is stated.

Names are `dis-f1-b1.wav`: emotion, speaker, sentence, in folders of speakers; 48 kHz, stereo. Each speaker is a session
of its own: 1 f1, 2 f2, 3 f3, 4 m1, 5 m2, 6 m3.
"""
import re
from pathlib import PurePosixPath

from framealign.corpus.importers.published_corpus import Counts, Entry, PublishedCorpus, dealt

LABELS = {"dis": "disgust", "gio": "happy", "neu": "neutral", "pau": "fear", "rab": "angry", "sor": "surprise",
          "tri": "sad"}
SESSIONS = dealt(("f1", "f2", "f3", "m1", "m2", "m3"), 6)
COUNTS = Counts(588, dict.fromkeys(LABELS.values(), 84), dict.fromkeys(SESSIONS, 98))
_NAME = re.compile(r"([a-z]{3})-([fm][123])-([a-z]+\d*)", re.ASCII | re.IGNORECASE)


def entry(place: PurePosixPath) -> Entry | None:
    """Emotion, speaker and sentence out of a name."""
    name = _NAME.fullmatch(place.stem)
    if not name:
        return None
    emotion, speaker, sentence = (part.lower() for part in name.groups())
    return Entry(str(place), emotion, speaker, SESSIONS[speaker], id=place.stem, gender=speaker[0].upper(),
                 sentence=sentence)


CORPUS = PublishedCorpus("EMOVO", "dis-f1-b1.wav", LABELS, "the speaker: 1 f1, 2 f2, 3 f3, 4 m1, 5 m2, 6 m3",
                         {"": COUNTS}, entry)
