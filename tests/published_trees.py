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


def savee() -> Iterator[File]:
    words = {"a": "angry", "d": "disgust", "f": "fear", "h": "happy", "n": "neutral", "sa": "sad", "su": "surprise"}
    for number, speaker in enumerate(("DC", "JE", "JK", "KL"), 1):
        for letters, word in words.items():
            for text in range(1, 31 if letters == "n" else 16):
                yield File(f"AudioData/{speaker}/{letters}{text:02}.wav", word, speaker, "M", str(number))


def tess() -> Iterator[File]:
    """The common copy: folders named both ways, one file named OA."""
    words = {"angry": "angry", "disgust": "disgust", "fear": "fear", "happy": "happy", "neutral": "neutral",
             "ps": "surprise", "sad": "sad"}
    folders = {("OAF", "ps"): "OAF_Pleasant_surprise", ("YAF", "ps"): "YAF_pleasant_surprised",
               ("OAF", "fear"): "OAF_Fear"}
    for (number, speaker), emotion, word in itertools.product(enumerate(("OAF", "YAF"), 1), words, range(200)):
        text = "bite" if word == 0 else f"word{chr(97 + word // 26)}{chr(97 + word % 26)}"
        prefix = "OA" if (speaker, emotion, text) == ("OAF", "neutral", "bite") else speaker
        folder = folders.get((speaker, emotion), f"{speaker}_{emotion}")
        yield File(f"TESS data/{folder}/{prefix}_{text}_{emotion}.wav", words[emotion], speaker, "F", str(number))


def esd() -> Iterator[File]:
    """The release with folders for parts; session: the k-th woman or man of each five."""
    men = (4, 5, 6, 8, 10, 11, 12, 13, 14, 20)
    folders = ("Neutral", "Angry", "Happy", "Sad", "Surprise")
    of_gender = {"M": 0, "F": 0}
    for speaker in range(1, 21):
        gender = "M" if speaker in men else "F"
        session = str(of_gender[gender] % 5 + 1)
        of_gender[gender] += 1
        for number in range(1, 1751):
            part = ("evaluation", "test", "train")[min(2, (number - 1) % 350 // 20)]
            folder = folders[(number - 1) // 350]
            yield File(f"ESD/{speaker:04}/{folder}/{part}/{speaker:04}_{number:06}.wav", folder.lower(),
                       f"{speaker:04}", gender, session)


def emov_db() -> Iterator[File]:
    """As its README counts the files of each speaker."""
    counts = {"jenie": {"neutral": 417, "amused": 222, "angry": 523, "sleepy": 466, "disgust": 189},
              "bea": {"neutral": 373, "amused": 309, "angry": 317, "sleepy": 520, "disgust": 347},
              "sam": {"neutral": 493, "amused": 501, "angry": 468, "sleepy": 495, "disgust": 497},
              "josh": {"neutral": 302, "amused": 298, "sleepy": 263}}
    words = {"angry": "anger", "sleepy": "sleepiness"}
    people = {"bea": "F1", "jenie": "F2", "josh": "M3", "sam": "M4"}
    for speaker, of_label in counts.items():
        for label, number in of_label.items():
            for text in range(1, number + 1):
                first = (text - 1) // 28 * 28 + 1
                name = f"{words.get(label, label)}_{first}-{first + 27}_{text:04}.wav"
                folder = "Disgusted" if (speaker, label) == ("sam", "disgust") else label.capitalize()
                yield File(f"{speaker}_{folder}/{name}", label, speaker, *people[speaker])


def jl() -> Iterator[File]:
    emotions = ("angry", "sad", "neutral", "happy", "excited", "anxious", "apologetic", "assertive", "concerned",
                "encouraging")
    texts = [f"{number}{part}" for number in range(1, 16) for part in "ab"]
    for (number, speaker), emotion, text, take in itertools.product(
            enumerate(("female1", "female2", "male1", "male2"), 1), emotions, texts, (1, 2)):
        folder = "Raw JL corpus (unchecked and unannotated)/JL(wav+txt)"
        yield File(f"{folder}/{speaker}_{emotion}_{text}_{take}.wav", emotion, speaker, speaker[0].upper(), str(number))


def urdu() -> Iterator[File]:
    """29 speakers; one of them has most files."""
    speakers = [f"SM{number}" for number in range(1, 19)] + [f"SF{number}" for number in range(1, 12)]
    for folder in ("Angry", "Happy", "Neutral", "Sad"):
        for number in range(1, 101):
            speaker = speakers[number - 1] if number <= len(speakers) else "SM5"
            name = f"{speaker}_F{number}_{folder[0]}0{number}.wav"
            yield File(f"{folder}/{name}", folder.lower(), speaker, speaker[1], str((int(speaker[2:]) - 1) % 5 + 1))


def subesco() -> Iterator[File]:
    emotions = ("ANGRY", "DISGUST", "FEAR", "HAPPY", "NEUTRAL", "SAD", "SURPRISE")
    numbers = range(1, 11)
    for gender, number, sentence, emotion, take in itertools.product("FM", numbers, numbers, emotions, range(1, 6)):
        yield File(f"SUBESCO/{gender}_{number:02}_FAHMEE_S_{sentence}_{emotion}_{take}.wav", emotion.lower(),
                   f"{gender}_{number:02}", gender, str((number - 1) % 5 + 1))


def aesdd() -> Iterator[File]:
    """121 122 120 119 122: second takes marked b, two recordings missing, one without its number."""
    folders = {"a": ("anger", "angry"), "d": ("disgust", "disgust"), "f": ("fear", "fear"), "h": ("happiness", "happy"),
               "s": ("sadness", "sad")}
    second = {"a06 (5)b", "d01 (5)b", "d03 (5)b", "d04 (5)b", "f18 (5)b", "s01 (5)b", "s02 (5)b"}
    missing = {"d16 (5)", "f03 (2)", "h11 (3)"}
    for letter, sentence, speaker in itertools.product("adfhs", range(1, 21), "123456"):
        stem = f"{letter}{sentence:02} ({speaker})"
        folder, label = folders[letter]
        for one in {stem, f"{stem}b"} & second | {stem} - missing:
            name = {"s05 (3)": "s05", "f10 (1)": "f10 (01)"}.get(one, one)
            yield File(f"{folder}/{name}.wav", label, speaker, "", speaker)


def emovo() -> Iterator[File]:
    words = {"dis": "disgust", "gio": "happy", "neu": "neutral", "pau": "fear", "rab": "angry", "sor": "surprise",
             "tri": "sad"}
    texts = ("b1", "b2", "b3", "l1", "l2", "l3", "l4", "n1", "n2", "n3", "n4", "n5", "d1", "d2")
    speakers = enumerate(("f1", "f2", "f3", "m1", "m2", "m3"), 1)
    for (number, speaker), emotion, text in itertools.product(speakers, words, texts):
        yield File(f"EMOVO/{speaker}/{emotion}-{speaker}-{text}.wav", words[emotion], speaker, speaker[0].upper(),
                   str(number))


def casia() -> Iterator[File]:
    speakers = ("liuchanhg", "wangzhe", "zhaoquanyin", "ZhaoZuoxiang")
    for (number, speaker), emotion, text in itertools.product(
            enumerate(speakers, 1), ("angry", "fear", "happy", "neutral", "sad", "surprise"), range(201, 251)):
        yield File(f"{speaker}/{emotion}/{text}.wav", emotion, speaker, "", str(number))


def crema_d() -> Iterator[File]:
    """7,442 of 91 actors; who says what is drawn, with the published number of each emotion."""
    women = {2, 3, 4, 6, 7, 8, 9, 10, 12, 13, 18, 20, 21, 24, 25, 28, 29, 30, 37, 43, 46, 47, 49, 52, 53, 54, 55, 56,
             58, 60, 61, 63, 72, 73, 74, 75, 76, 78, 79, 82, 84, 89, 91}
    words = {"NEU": "neutral", "HAP": "happy", "SAD": "sad", "ANG": "angry", "FEA": "fear", "DIS": "disgust"}
    texts = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
    counts = dict.fromkeys(words, 1271) | {"NEU": 1087}
    of_gender = {"M": 0, "F": 0}
    sessions = {}
    for actor in range(1, 92):
        gender = "F" if actor in women else "M"
        sessions[actor] = (gender, str(of_gender[gender] % 5 + 1))
        of_gender[gender] += 1
    for emotion, number in counts.items():
        sayings = itertools.product(("XX", "LO", "HI"), texts, range(1, 92))
        for level, text, actor in itertools.islice(sayings, number):
            name = "1040_ITH_SAD_X" if (actor, text, emotion, level) == (40, "ITH", "SAD", "XX") else (
                f"10{actor:02}_{text}_{emotion}_{level}")
            yield File(f"AudioWAV/{name}.wav", words[emotion], f"10{actor:02}", *sessions[actor])


TREES: dict[str, Callable[[], Iterable[File]]] = {
    "ravdess": ravdess, "emodb": emodb, "nemo": nemo, "savee": savee, "tess": tess, "esd": esd, "emov-db": emov_db,
    "jl": jl, "urdu": urdu, "subesco": subesco, "aesdd": aesdd, "emovo": emovo, "casia": casia, "crema-d": crema_d}


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
