"""CASIA, its public part (Mandarin, acted): 1,200 utterances of two women and two men, 50 texts in six emotions.

Institute of Automation, Chinese Academy of Sciences; chineseldc.org, CLDC-SPC-2005-010. Licence: of ChineseLDC.

Names are `liuchanhg/angry/201.wav`: speaker, emotion, text 201 to 250. Each speaker is a session of its own: 1
liuchanhg, 2 wangzhe, 3 zhaoquanyin, 4 ZhaoZuoxiang. Names and folders do not say which of them are women.
"""
import re
from pathlib import PurePosixPath

from framealign.corpus.importers.published_corpus import Counts, Entry, PublishedCorpus, dealt

LABELS = {"angry": "angry", "fear": "fear", "happy": "happy", "neutral": "neutral", "sad": "sad",
          "surprise": "surprise"}
SPEAKERS = ("liuchanhg", "wangzhe", "zhaoquanyin", "ZhaoZuoxiang")
SESSIONS = dealt(SPEAKERS, 4)
COUNTS = Counts(1200, dict.fromkeys(LABELS.values(), 200), dict.fromkeys(SPEAKERS, 300))
_BY_LOWER = {speaker.lower(): speaker for speaker in SPEAKERS}


def entry(place: PurePosixPath) -> Entry | None:
    """Speaker and emotion out of the folders, the text out of the name."""
    speaker = _BY_LOWER.get(place.parent.parent.name.lower(), "")
    if not speaker or not re.fullmatch(r"\d{3}", place.stem, re.ASCII):
        return None
    emotion = place.parent.name.lower()
    return Entry(str(place), emotion, speaker, SESSIONS[speaker], id=f"{speaker}_{emotion}_{place.stem}",
                 sentence=place.stem)


CORPUS = PublishedCorpus("CASIA", "liuchanhg/angry/201.wav", LABELS,
                         "the speaker: 1 liuchanhg, 2 wangzhe, 3 zhaoquanyin, 4 ZhaoZuoxiang", {"": COUNTS}, entry)
