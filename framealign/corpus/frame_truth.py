"""The truth about every frame: which emotion an utterance has when, written beside its sound file.

`a.wav` has `a.emotional.tsv`, a row first_frame<TAB>end_frame<TAB>emotion for each emotional stretch, in frames of
20 ms; what the rows leave out is neutral. Only corpora have it whose sound was made (`synthetic_corpus`) or put
together (`joining`), or whose annotators marked stretches (ZED). No training reads it.
"""
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from framealign.runtime import files
from framealign.sound.frames import EVERY_20_MS, HOP, RECEPTIVE_FIELD, Framing
from framealign.corpus.utterance import Utterance

SUFFIX = ".emotional.tsv"


class Stretch(NamedTuple):
    """One emotion from `start` to `end`, in seconds from the beginning of the sound."""
    start: float
    end: float
    emotion: str


def exists(utterance: Utterance) -> bool:
    """Whether this utterance has its emotional stretches written beside it."""
    return _place(utterance.path).exists()


def write(wav_path: str | Path, rows: Iterable[tuple[int, int, str]]) -> None:
    """Write the emotional stretches (first frame, end frame, emotion) beside a sound file."""
    files.write_text(_place(wav_path), "".join(f"{first}\t{end}\t{emotion}\n" for first, end, emotion in rows))


def stretches(wav_path: str | Path) -> list[Stretch]:
    """An utterance's emotional stretches, frame t counted as [t / 50, (t + 1) / 50) s. Raises ValueError as `rows`."""
    rate = EVERY_20_MS.rate
    return [Stretch(first / rate, end / rate, emotion) for first, end, emotion in rows(wav_path)]


def is_emotional(wav_path: str | Path, num_frames: int, framing: Framing = EVERY_20_MS) -> np.ndarray:
    """Which frames of an utterance are emotional: (T,) bool with T = num_frames.

    Of frames of another `framing` each is what the frame of 20 ms with the nearest centre is. Raises ValueError as
    `rows`.
    """
    centres = framing.hop * np.arange(num_frames) + framing.receptive_field / 2             # (T,) samples
    places = (centres - (RECEPTIVE_FIELD - HOP) / 2) // HOP                                 # (T,) in the file's frames
    is_inside = np.zeros(num_frames, bool)
    for first, end, _ in rows(wav_path):
        is_inside |= (places >= first) & (places < end)
    return is_inside


def rows(wav_path: str | Path) -> list[tuple[int, int, str]]:
    """What is written beside a sound file: (first frame, end frame, emotion) of each emotional stretch.

    Raises ValueError naming file and line where there is nothing, or not `first<TAB>end<TAB>emotion`.
    """
    path = _place(wav_path)
    if not path.exists():
        raise ValueError(f"{path}: no such file: {wav_path} has no planted truth (only corpora that were made have)")
    written = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        cells = line.split("\t")
        if len(cells) != 3 or not all(x.isdecimal() for x in cells[:2]) or not int(cells[0]) < int(cells[1]):
            raise ValueError(f"{path}, line {number}: must be first<TAB>end<TAB>emotion, first < end, is {line!r}")
        written.append((int(cells[0]), int(cells[1]), cells[2]))
    return written


def _place(wav_path: str | Path) -> Path:
    return Path(wav_path).with_suffix(SUFFIX)
