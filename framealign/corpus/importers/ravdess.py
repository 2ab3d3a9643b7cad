"""RAVDESS, the Ryerson Audio-Visual Database of Emotional Speech and Song: its speech, audio only (English, acted).

Livingstone and Russo 2018, PLoS ONE 13(5): e0196391; zenodo.org/records/1188976. Licence: CC BY-NC-SA 4.0.

Names are `03-01-EE-II-SS-RR-AA.wav`: sound only, speech, emotion, intensity, sentence, repetition, actor; odd actors
are men. 24 actors say two sentences. Songs (`03-02-...`) and sound of the videos (`01-...`) are left out. A copy that
goes round holds everything twice, once below `audio_speech_actors_01-24`. Sessions are 1 to 6, of four actors each, two
men and two women: (actor - 1) // 4 + 1.
"""
import re
from pathlib import PurePosixPath

from framealign.corpus.importers.published_corpus import Counts, Entry, PublishedCorpus

LABELS = {"01": "neutral", "02": "calm", "03": "happy", "04": "sad", "05": "angry", "06": "fear", "07": "disgust",
          "08": "surprise"}
INTENSITIES = {"01": "normal", "02": "strong"}
ACTORS = [f"{number:02}" for number in range(1, 25)]
COUNTS = Counts(1440, {label: 96 if label == "neutral" else 192 for label in LABELS.values()},
                dict.fromkeys(ACTORS, 60))
_NAME = re.compile(r"03-01-(\d\d)-(0[12])-(\d\d)-(\d\d)-(\d\d)", re.ASCII)


def entry(place: PurePosixPath) -> Entry | None:
    """Emotion, intensity, sentence and actor out of a name."""
    name = _NAME.fullmatch(place.stem)
    if not name or name[5] not in ACTORS:
        return None
    emotion, intensity, sentence, _, actor = name.groups()
    number = int(actor)
    return Entry(str(place), emotion, actor, session=str((number - 1) // 4 + 1), id=place.stem,
                 gender="M" if number % 2 else "F", sentence=f"s{int(sentence)}-{INTENSITIES[intensity]}")


CORPUS = PublishedCorpus("RAVDESS", "03-01-06-01-02-01-12.wav", LABELS,
                         "1 to 6, of four actors each: (actor - 1) // 4 + 1", {"": COUNTS}, entry)
