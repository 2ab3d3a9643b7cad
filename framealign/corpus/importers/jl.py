"""JL corpus, New Zealand English (acted): 2,400 utterances of two women and two men, ten emotions.

James, Tian and Watson 2018, Interspeech; kaggle.com/tli725/jl-corpus, github.com/tli725/JL-Corpus. Licence: CC0.

Names are `female1_angry_6b_1.wav`: speaker, emotion, sentence, repetition; in the folder `JL(wav+txt)`, with a `.txt`
beside each. Five emotions are primary, five secondary (anxious, apologetic, assertive, concerned, encouraging). Each
speaker is a session of its own: 1 female1, 2 female2, 3 male1, 4 male2.
"""
import re
from pathlib import PurePosixPath

from framealign.corpus.importers.published_corpus import Counts, Entry, PublishedCorpus, dealt

LABELS = {"angry": "angry", "sad": "sad", "neutral": "neutral", "happy": "happy", "excited": "excited",
          "anxious": "anxious", "apologetic": "apologetic", "assertive": "assertive", "concerned": "concerned",
          "encouraging": "encouraging"}
SESSIONS = dealt(("female1", "female2", "male1", "male2"), 4)
COUNTS = Counts(2400, dict.fromkeys(LABELS.values(), 240), dict.fromkeys(SESSIONS, 600))
_NAME = re.compile(r"((?:fe)?male[12])_([a-z]+)_(\d+[ab])_(\d)", re.ASCII | re.IGNORECASE)


def entry(place: PurePosixPath) -> Entry | None:
    """Speaker, emotion and sentence out of a name."""
    name = _NAME.fullmatch(place.stem)
    if not name:
        return None
    speaker = name[1].lower()
    return Entry(str(place), name[2].lower(), speaker, SESSIONS[speaker], id=place.stem, gender=speaker[0].upper(),
                 sentence=name[3].lower())


CORPUS = PublishedCorpus("JL", "female1_angry_6b_1.wav", LABELS,
                         "the speaker: 1 female1, 2 female2, 3 male1, 4 male2", {"": COUNTS}, entry)
