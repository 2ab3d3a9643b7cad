"""Generated folders of published corpora, laid out as they are downloaded, with the published counts.

Each function gives the files of a whole corpus, in random order: path, common word of the label, speaker, gender,
session. Written down from the corpora's descriptions, not out of the importers' tables.
"""
import itertools
import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile


class File(NamedTuple):
    path: str
    label: str
    speaker: str
    gender: str
    session: str


def ravdess() -> Iterator[File]:
    words = ["neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise"]
    for actor, emotion, level, text, take in itertools.product(range(1, 25), range(1, 9), (1, 2), (1, 2), (1, 2)):
        if emotion == 1 and level == 2:             # neutral has no strong intensity
            continue
        name = f"Actor_{actor:02}/03-01-{emotion:02}-{level:02}-{text:02}-{take:02}-{actor:02}.wav"
        yield File(name, words[emotion - 1], f"{actor:02}", "FM"[actor % 2], str((actor + 3) // 4))


def emodb() -> Iterator[File]:
    """No description says how the 535 are spread over speakers and labels at once: drawn, with both margins right."""
    speakers = {"03": (49, "M", "1"), "08": (58, "F", "1"), "09": (43, "F", "2"), "10": (38, "M", "2"),
                "11": (55, "M", "3"), "12": (35, "M", "4"), "13": (61, "F", "3"), "14": (69, "F", "4"),
                "15": (56, "M", "5"), "16": (71, "F", "5")}
    labels = {"W": ("angry", 127), "L": ("boredom", 81), "E": ("disgust", 46), "A": ("fear", 69), "F": ("happy", 71),
              "T": ("sad", 62), "N": ("neutral", 79)}
    letters = [letter for letter, (_, number) in labels.items() for _ in range(number)]
    random.Random(1).shuffle(letters)
    versions = [f"{text}{{}}{version}" for version in "abcdefgh" for text in ("a01", "a02", "a04", "a05", "a07", "b01",
                                                                            "b02", "b03", "b09", "b10")]
    for speaker, (number, gender, session) in speakers.items():
        for version in versions[:number]:
            letter = letters.pop()
            yield File(f"wav/{speaker}{version.format(letter)}.wav", labels[letter][0], speaker, gender, session)


def nemo() -> Iterator[File]:
    """All 90 sentences of each speaker and emotion, but for MP0 and two more, of which fewer were published."""
    people = {"EB0": "F1", "IC0": "F1", "KS0": "M1", "KD0": "F2", "MP0": "M2", "SM0": "M2", "MK0": "F3", "TP0": "M3",
              "WR0": "M3"}
    words = {"anger": "angry", "fear": "fear", "happiness": "happy", "neutral": "neutral", "sadness": "sad",
             "surprised": "surprise"}
    fewer = {("MP0", "anger"): 29, ("MP0", "happiness"): 30, ("MP0", "sadness"): 49, ("SM0", "happiness"): 89,
             ("WR0", "neutral"): 89, ("MP0", "fear"): 16, ("MP0", "surprised"): 0, ("TP0", "surprised"): 39}
    for (speaker, person), emotion in itertools.product(people.items(), words):
        for sentence in range(1, 1 + fewer.get((speaker, emotion), 90)):
            yield File(f"samples/{speaker}_{emotion}_{sentence}.wav", words[emotion], speaker, *person)


TREES: dict[str, Callable[[], Iterable[File]]] = {"ravdess": ravdess, "emodb": emodb, "nemo": nemo}


def files_of(kind: str) -> list[File]:
    """The files of a whole corpus, shuffled."""
    files = list(TREES[kind]())
    random.Random(0).shuffle(files)
    return files


def noise(path: Path, num_samples: int = 400) -> Path:
    """A sound file of noise at 16 kHz; 400 samples are the shortest utterance there is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).normal(scale=0.1, size=num_samples), 16_000)
    return path


def write(root: Path, paths: Iterable[str]) -> Path:
    """The files of these paths below `root`, all of them one sound file of 400 samples, linked; returns `root`."""
    sound = noise(root.parent / f"{root.name}.one.wav")
    made = set()
    for path in paths:
        place = os.path.join(root, path)
        folder = os.path.dirname(place)
        if folder not in made:
            os.makedirs(folder, exist_ok=True)
            made.add(folder)
        os.link(sound, place)
    return root
