"""ESD, the Emotional Speech Database (Mandarin and English, acted): 35,000 utterances of 20 speakers.

Zhou et al. 2022, Speech Communication 137; github.com/HLTSingapore/Emotional-Speech-Data. Free for research.

Names are `0011/Angry/0011_000351.wav`, in some releases in folders `train`, `evaluation`, `test` below the emotion.
Speakers 0001 to 0010 speak Mandarin, 0011 to 0020 English; 350 parallel texts each, in five emotions, numbered through:
(number - 1) div 350 is 0 neutral, 1 angry, 2 happy, 3 sad, 4 surprise. That number is believed, folders are not needed.
The texts beside them, `0011.txt`, are in many encodings and not read. Sessions are 1 to 5, of four speakers each, a man
and a woman of each language.
"""
import re
from pathlib import PurePosixPath

from framealign.corpus.importers.published_corpus import Counts, Entry, PublishedCorpus, dealt

LABELS = {"neutral": "neutral", "angry": "angry", "happy": "happy", "sad": "sad", "surprise": "surprise"}
TEXTS = 350                                         # of each emotion of a speaker
MEN = ("0004", "0005", "0006", "0008", "0010", "0011", "0012", "0013", "0014", "0020")
WOMEN = ("0001", "0002", "0003", "0007", "0009", "0015", "0016", "0017", "0018", "0019")
SESSIONS = dealt(MEN, 5) | dealt(WOMEN, 5)
COUNTS = Counts(35_000, dict.fromkeys(LABELS.values(), 7000), dict.fromkeys(sorted(SESSIONS), 1750))
_NAME = re.compile(r"(00[012]\d)_(\d{6})", re.ASCII)


def entry(place: PurePosixPath) -> Entry | None:
    """Speaker, emotion and text out of a name."""
    name = _NAME.fullmatch(place.stem)
    if not name or name[1] not in SESSIONS:
        return None
    emotion, text = divmod(int(name[2]) - 1, TEXTS)
    label = list(LABELS)[emotion] if emotion in range(len(LABELS)) else name[2]
    return Entry(str(place), label, name[1], SESSIONS[name[1]], id=place.stem, gender="M" if name[1] in MEN else "F",
                 sentence=f"{'zh' if name[1] <= '0010' else 'en'}-{text + 1:03}")


CORPUS = PublishedCorpus("ESD", "0011/Angry/0011_000351.wav", LABELS,
                         "1 to 5, of two women and two men each, half of them Mandarin", {"": COUNTS}, entry)
