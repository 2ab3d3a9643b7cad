"""EMO-DB, the Berlin Database of Emotional Speech (German, acted): 535 utterances of ten actors and ten sentences.

Burkhardt et al. 2005, Interspeech; emodb.bilderbar.info. Licence: free of charge, no terms of use stated there; CC0 in
the audb repository.

Names are `SSxxxLv.wav`: speaker, sentence, letter of the German emotion, version; in the folder `wav`. Sessions are 1
to 5, a man and a woman each, by number: (03, 08), (10, 09), (11, 13), (12, 14), (15, 16).
"""
import re
from pathlib import PurePosixPath

from framealign.corpus.importers.published_corpus import Counts, Entry, PublishedCorpus

LABELS = {"W": "angry", "L": "boredom", "E": "disgust", "A": "fear", "F": "happy", "T": "sad", "N": "neutral"}
MEN, WOMEN = ("03", "10", "11", "12", "15"), ("08", "09", "13", "14", "16")
COUNTS = Counts(
    535, {"angry": 127, "boredom": 81, "disgust": 46, "fear": 69, "happy": 71, "sad": 62, "neutral": 79},
    {"03": 49, "08": 58, "09": 43, "10": 38, "11": 55, "12": 35, "13": 61, "14": 69, "15": 56, "16": 71})
_NAME = re.compile(r"(\d\d)([ab]\d\d)([A-Z])[a-z]?", re.ASCII | re.IGNORECASE)


def entry(place: PurePosixPath) -> Entry | None:
    """Speaker, sentence and emotion out of a name."""
    name = _NAME.fullmatch(place.stem)
    if not name or name[1] not in MEN + WOMEN:
        return None
    speaker, sentence, emotion = name.groups()
    people = MEN if speaker in MEN else WOMEN
    return Entry(str(place), emotion.upper(), speaker, session=str(people.index(speaker) + 1), id=place.stem,
                 gender="M" if speaker in MEN else "F", sentence=sentence.lower())


CORPUS = PublishedCorpus("EMO-DB", "03a01Fa.wav", LABELS,
                         "1 to 5, a man and a woman each: 03 08, 10 09, 11 13, 12 14, 15 16", {"": COUNTS}, entry)
