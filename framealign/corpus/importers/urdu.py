"""URDU (Urdu, from talk shows): 400 utterances, four emotions.

Latif et al. 2018, FIT; github.com/siddiquelatif/URDU-Dataset. No licence is stated there; for research.

Names are `Angry/SM1_F10_A010.wav`: the folder is the emotion (its first letter stands in the name too, and is taken
where a copy has other folders), then gender and number of the speaker, file, number. Its description speaks of 38
speakers, the names of 29, some of whom have many files and others one. Sessions are 1 to 5, women and men together:
(number - 1) mod 5 + 1.
"""
import re
from pathlib import PurePosixPath

from framealign.corpus.importers.published_corpus import Counts, Entry, PublishedCorpus

LABELS = {"angry": "angry", "happy": "happy", "neutral": "neutral", "sad": "sad"}
LETTERS = {label[0].upper(): label for label in LABELS}
COUNTS = Counts(400, dict.fromkeys(LABELS.values(), 100))
_NAME = re.compile(r"S([MF])(\d+)_F(\d+)_([A-Z])(\d+)", re.ASCII | re.IGNORECASE)


def entry(place: PurePosixPath) -> Entry | None:
    """Speaker and file out of a name, the emotion out of the folder."""
    name = _NAME.fullmatch(place.stem)
    if not name:
        return None
    folder, letter = place.parent.name.lower(), name[4].upper()
    label = folder if folder in LABELS else LETTERS.get(letter, letter)
    gender, number = name[1].upper(), int(name[2])
    return Entry(str(place), label, f"S{gender}{number}", session=str((number - 1) % 5 + 1), id=place.stem,
                 gender=gender)


CORPUS = PublishedCorpus("URDU", "Angry/SM1_F10_A010.wav", LABELS, "1 to 5, by the speaker: (number - 1) mod 5 + 1",
                         {"": COUNTS}, entry)
