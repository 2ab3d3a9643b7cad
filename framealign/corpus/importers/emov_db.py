"""EmoV-DB, the Emotional Voices Database (English, acted): about 7,000 utterances of two women and two men.

Adigwe et al. 2018, arXiv 1806.09514; openslr.org/115, github.com/numediart/EmoV-DB. Licence: its own, for research.

Folders are `bea_Amused` (openslr) or `bea/Amused` (the sorted release), names in them `amused_1-15_0001.wav`, with the
number of the CMU Arctic sentence. Speaker and emotion are the folder's: names differ (sleepiness in Sleepy, Disgust and
Disgusted). josh has no anger and no disgust. Releases differ: the counts of two are known. Each speaker is a session of
its own: 1 bea, 2 jenie, 3 josh, 4 sam.
"""
import re
from pathlib import PurePosixPath

from framealign.corpus.importers.published_corpus import Counts, Entry, PublishedCorpus, dealt

LABELS = {"amused": "amused", "angry": "angry", "anger": "angry", "disgust": "disgust", "disgusted": "disgust",
          "neutral": "neutral", "sleepy": "sleepy", "sleepiness": "sleepy"}
GENDERS = {"bea": "F", "jenie": "F", "josh": "M", "sam": "M"}
SESSIONS = dealt(GENDERS, 4)
RELEASES = {
    "6,887 utterances": Counts(6887, {"amused": 1315, "sleepy": 1720, "angry": 1267, "disgust": 1019, "neutral": 1566}),
    "7,000 utterances, as its README lists them": Counts(
        7000, {"amused": 1330, "sleepy": 1744, "angry": 1308, "disgust": 1033, "neutral": 1585},
        {"bea": 1866, "jenie": 1817, "josh": 863, "sam": 2454})}
_FOLDER = re.compile(r"(?:.*/)?(bea|jenie|josh|sam)[_/ -]([a-z]+)", re.IGNORECASE)
_SENTENCE = re.compile(r".*?(\d{1,4})", re.ASCII)


def entry(place: PurePosixPath) -> Entry | None:
    """Speaker and emotion out of the folders, the sentence out of the name."""
    folder, sentence = _FOLDER.fullmatch(place.parent.as_posix()), _SENTENCE.fullmatch(place.stem)
    if not folder or not sentence:
        return None
    speaker, emotion = folder[1].lower(), folder[2].lower()
    return Entry(str(place), emotion, speaker, SESSIONS[speaker], id=f"{speaker}_{place.stem.lower()}",
                 gender=GENDERS[speaker], sentence=f"arctic-{sentence[1]}")


CORPUS = PublishedCorpus("EmoV-DB", "bea_Amused/amused_1-15_0001.wav", LABELS,
                         "the speaker: 1 bea, 2 jenie, 3 josh, 4 sam", RELEASES, entry)
