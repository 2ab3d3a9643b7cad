"""The truth about every frame: which emotion an utterance has when.

It stands in the manifest, in the column `truth`, in seconds: `0.39 1.1 angry; 2 3.25 sad`, or the one word `neutral`.
Or beside the sound file: `a.wav` has `a.emotional.tsv`, a row first_frame<TAB>end_frame<TAB>emotion for each emotional
stretch, in frames of 20 ms. What is left out is neutral. Only corpora have it whose sound was made (`synthetic_corpus`)
or put together (`joining`), or whose annotators marked stretches (ZED). No training reads it but that of the bound.
"""
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from framealign.runtime import files
from framealign.sound.frames import EVERY_20_MS, HOP, RECEPTIVE_FIELD, SAMPLE_RATE, Framing
from framealign.corpus.utterance import MERGED, NEUTRAL, Stretch, Utterance, class_of

SUFFIX = ".emotional.tsv"
_STRETCH = re.compile(r"([0-9]+(?:\.[0-9]+)?) +([0-9]+(?:\.[0-9]+)?) +([^;]*[^;\s])")


def exists(utterance: Utterance) -> bool:
    """Whether it is known when this utterance is emotional: by its manifest, or by what lies beside its sound."""
    return utterance.truth is not None or os.path.exists(_beside(utterance.path))


def stretches(utterance: Utterance) -> list[Stretch]:
    """An utterance's emotional stretches. Of a file of frames, frame t is counted as [t / 50, (t + 1) / 50) s.

    Raises ValueError as `rows`.
    """
    if utterance.truth is not None:
        known = utterance.truth
    else:
        rate = EVERY_20_MS.rate
        known = [Stretch(first / rate, end / rate, emotion) for first, end, emotion in rows(utterance.path)]
    return [stretch for stretch in known if class_of(stretch.emotion) != NEUTRAL]


def beside(wav_path: str | Path, seconds: float) -> list[Stretch] | None:
    """The emotional stretches that are written beside a sound of so many seconds; None where nothing is.

    Raises ValueError as `rows` and `check`.
    """
    if not os.path.exists(_beside(wav_path)):       # False for a name that is too long, too
        return None
    known = stretches(Utterance("", str(wav_path), 0))
    try:
        check(known, seconds)
    except ValueError as error:
        raise ValueError(f"{_beside(wav_path)}: {error}") from None
    return known


def throughout(known: Iterable[Stretch], seconds: float, classes: Sequence[str]) -> list[Stretch]:
    """What an utterance of so many seconds is at any time: its emotional stretches, and neutral between them.

    Without gaps, in order; emotions have the names of the classes, where these have one.
    """
    filled, now = [], 0.0
    for start, end, emotion in sorted(known):
        start, end = max(start, now), min(end, seconds)
        if start >= end:
            continue
        if start > now:
            filled.append(Stretch(now, start, NEUTRAL))
        filled.append(Stretch(start, end, emotion))
        now = end
    if now < seconds:
        filled.append(Stretch(now, seconds, NEUTRAL))
    return named(filled, classes)


def named(known: Iterable[Stretch], classes: Sequence[str], merged: Mapping[str, str] = MERGED) -> list[Stretch]:
    """The same stretches, their emotions by the names of the classes, where these have one. merged: as of `class_of`.
    """
    return [stretch._replace(emotion=class_of(stretch.emotion, classes, merged) or stretch.emotion)
            for stretch in known]


def is_emotional(utterance: Utterance, num_frames: int, framing: Framing = EVERY_20_MS) -> np.ndarray:
    """Which frames of an utterance are emotional: (T,) bool with T = num_frames. Raises ValueError as `rows`."""
    return stretch_of_frames(stretches(utterance), num_frames, framing) >= 0


def stretch_of_frames(known: Sequence[Stretch], num_frames: int, framing: Framing = EVERY_20_MS) -> np.ndarray:
    """In which stretch each of T = num_frames frames lies, (T,) int: its number in `known`; -1 in none.

    A frame is what its centre is. That of frame t of 20 ms, which counts as [t / 50, (t + 1) / 50) s, is its middle;
    frames of another `framing` lie beside these.
    """
    centres = framing.hop * np.arange(num_frames) + framing.receptive_field / 2             # (T,) samples
    seconds = (centres - (RECEPTIVE_FIELD - HOP) / 2) / SAMPLE_RATE                         # (T,)
    numbers = np.full(num_frames, -1)
    for number, (start, end, _) in enumerate(known):
        numbers[(seconds >= start) & (seconds < end)] = number
    return numbers


# In a manifest

def cell(truth: Sequence[Stretch] | None) -> str:
    """Stretches as a manifest's cell has them; "" where nothing is known."""
    if truth is None:
        return ""
    numbers = [[np.format_float_positional(time, trim="-") for time in stretch[:2]] for stretch in truth]
    return "; ".join(" ".join([*times, stretch.emotion]) for times, stretch in zip(numbers, truth)) or NEUTRAL


def parsed(text: str) -> tuple[Stretch, ...] | None:
    """What `cell` wrote. Raises ValueError for another text."""
    if not text.strip():
        return None
    if text.strip() == NEUTRAL:
        return ()
    truth = []
    for part in text.split(";"):
        match = _STRETCH.fullmatch(part.strip())
        if not match:
            raise ValueError(f"truth must be start end emotion; start end emotion ... in seconds, or {NEUTRAL}, has "
                             f"{part.strip()[:60]!r}; rename the column if it means something else")
        truth.append(Stretch(float(match[1]), float(match[2]), match[3]))
    return tuple(truth)


def check(truth: Sequence[Stretch], seconds: float) -> None:
    """Raise ValueError for stretches that a sound of so many seconds cannot have, or a manifest's cell not hold."""
    for start, end, emotion in truth:
        if not 0 <= start < end:
            raise ValueError(f"truth: {emotion} must begin at 0 s or later and end after that, is from {start:g} to "
                             f"{end:g} s")
        if start >= seconds:
            raise ValueError(f"truth: {emotion} begins at {start:g} s, the sound ends at {seconds:.2f} s; give seconds")
        if not emotion.strip() or emotion != emotion.strip() or not emotion.isprintable() or ";" in emotion:
            raise ValueError(f"truth: an emotion's name must have no semicolon, no blanks around it, got {emotion!r}")
    for before, after in itertools.pairwise(sorted(truth)):
        if after.start < before.end:
            raise ValueError(f"truth: both {before.emotion} and {after.emotion} at {after.start:g} s")


# Beside a sound file

def write(wav_path: str | Path, rows: Iterable[tuple[int, int, str]]) -> None:
    """Write the emotional stretches (first frame, end frame, emotion) beside a sound file."""
    files.write_text(_beside(wav_path), "".join(f"{first}\t{end}\t{emotion}\n" for first, end, emotion in rows))


def rows(wav_path: str | Path) -> list[tuple[int, int, str]]:
    """What is written beside a sound file: (first frame, end frame, emotion) of each emotional stretch.

    Raises ValueError naming file and line where there is nothing, or not `first<TAB>end<TAB>emotion`.
    """
    path = _beside(wav_path)
    if not path.exists():
        raise ValueError(f"{path}: no such file: {wav_path} has no planted truth (only corpora that were made have)")
    written = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        cells = line.split("\t")
        if (len(cells) != 3 or not all(x.isdecimal() for x in cells[:2]) or not int(cells[0]) < int(cells[1])
                or not cells[2].strip() or not cells[2].isprintable()):
            raise ValueError(f"{path}, line {number}: must be first<TAB>end<TAB>emotion, first < end, is {line!r}")
        written.append((int(cells[0]), int(cells[1]), cells[2]))
    return written


def _beside(wav_path: str | Path) -> Path:
    return Path(wav_path).with_suffix(SUFFIX)
