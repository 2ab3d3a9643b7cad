"""Results as text: a table, JSON, JSON lines, CSV, Praat TextGrid, Audacity labels, RTTM.

Each writer gives the text of one sound out of its path, its `recognise.Result` and its segments; `timeline` says that
the answer over time is wanted too. The last three formats are nothing but a time line.
"""
import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from framealign.sound.frames import FRAME_RATE
from framealign.emotion.segments import Segment, runs


@dataclass(frozen=True)
class Format:
    """How results are written: one after another, with `first`, `between` and `last` around them."""
    suffix: str                                     # of a file
    write: Callable                                 # (path, result, segments, timeline) -> text of one sound
    first: Callable = lambda labels, timeline: ""
    between: str = ""
    last: str = ""
    single: bool = False                            # a file of it holds one sound


def shown(path: object) -> str:
    """A path for a line of text: what is no UTF-8 or would break the line is replaced."""
    text = str(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return re.sub(r"[\x00-\x1f\x7f\u2028\u2029]", "?", text)


def table(path: object, result, segments: list[Segment], timeline: bool) -> str:
    """The path, the emotion and each class's probability; below it, a line for each segment."""
    shares = "  ".join(f"{label} {share:.2f}" for label, share in result.probabilities.items())
    lines = [f"{shown(path)}\t{result.emotion}\t{shares}"]
    if timeline:
        width = max(map(len, result.probabilities))
        lines += [f"{one.start:10.2f} {one.end:8.2f}  {one.emotion:{width}}  confidence {one.confidence:.2f}  "
                  f"attention {100 * one.attention:.0f} %" for one in segments]
    return "\n".join(lines) + "\n"


def content(path: object, result, segments: list[Segment], timeline: bool) -> dict:
    """What JSON says of a sound; numbers to 5 significant digits."""
    found = {"path": shown(path), "seconds": result.seconds, "emotion": result.emotion,
             "probabilities": result.probabilities}
    if timeline:
        rounded = [{name: round(x, 6) if isinstance(x, float) else x for name, x in asdict(one).items()}
                   for one in segments]
        found |= {"labels": list(result.probabilities), "frames_per_second": FRAME_RATE, "segments": rounded,
                  "posterior": _significant(result.posterior), "attention": _significant(result.attention),
                  "units": None if result.units is None else result.units.tolist()}
    return found


def json_text(path: object, result, segments: list[Segment], timeline: bool) -> str:
    """One JSON object."""
    return json.dumps(content(path, result, segments, timeline), ensure_ascii=False)


def csv_rows(path: object, result, segments: list[Segment], timeline: bool) -> str:
    """One row; with `timeline` one row per frame: when it begins, the smoothed emotion, attention, unit, posterior."""
    if not timeline:
        return _csv([[shown(path), f"{result.seconds:.3f}", result.emotion,
                      *(f"{share:.6f}" for share in result.probabilities.values())]])
    units = [""] * len(result.attention) if result.units is None else result.units.tolist()
    names = [one.emotion for one in segments for _ in range(_frames(one, len(units)))]
    return _csv([shown(path), f"{t / FRAME_RATE:.2f}", name, f"{a:.4e}", unit, *(f"{p:.4f}" for p in row)]
                for t, (name, a, unit, row) in enumerate(zip(names, result.attention.tolist(), units,
                                                             result.posterior.tolist(), strict=True)))


def csv_header(labels: list[str], timeline: bool) -> str:
    """The names of the columns."""
    return _csv([["path", "time", "emotion", "attention", "unit", *labels] if timeline
                 else ["path", "seconds", "emotion", *labels]])


def textgrid(path: object, result, segments: list[Segment], timeline: bool) -> str:
    """A Praat TextGrid (long text form): tiers emotion, confidence and, where there are units, unit.

    Source: the Praat manual, "TextGrid file formats".
    """
    end = segments[-1].end
    tiers = {"emotion": [(one.start, one.end, one.emotion) for one in segments],
             "confidence": [(one.start, one.end, f"{one.confidence:.3f}") for one in segments]}
    if result.units is not None:
        stretches = runs(result.units)
        tiers["unit"] = [(first / FRAME_RATE, end if last == len(result.units) else last / FRAME_RATE, str(unit))
                         for first, last, unit in stretches]
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end:.6f}",
             "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers.items(), 1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"',
                  "        xmin = 0", f"        xmax = {end:.6f}", f"        intervals: size = {len(intervals)}"]
        for index, (start, stop, text) in enumerate(intervals, 1):
            quoted = shown(text).replace('"', '""')
            lines += [f"        intervals [{index}]:", f"            xmin = {start:.6f}",
                      f"            xmax = {stop:.6f}", f'            text = "{quoted}"']
    return "\n".join(lines) + "\n"


def audacity(path: object, result, segments: list[Segment], timeline: bool) -> str:
    """An Audacity label track: start, end and label, separated by tabs."""
    return "".join(f"{one.start:.6f}\t{one.end:.6f}\t{shown(one.emotion)} {one.confidence:.2f}\n" for one in segments)


def rttm(path: object, result, segments: list[Segment], timeline: bool) -> str:
    """NIST's Rich Transcription Time Marked lines: the emotion stands where a speaker's name would."""
    word = lambda text: re.sub(r"\s", "_", shown(text))
    return "".join(f"SPEAKER {word(Path(str(path)).stem)} 1 {one.start:.3f} {one.end - one.start:.3f} <NA> <NA> "
                   f"{word(one.emotion)} {one.confidence:.3f} <NA>\n" for one in segments)


FORMATS = {"table": Format(".txt", table), "json": Format(".json", json_text, lambda *_: "[\n", ",\n", "\n]\n"),
           "jsonl": Format(".jsonl", lambda *args: json_text(*args) + "\n"),
           "csv": Format(".csv", csv_rows, csv_header),
           "textgrid": Format(".TextGrid", textgrid, single=True), "rttm": Format(".rttm", rttm),
           "audacity": Format(".txt", audacity, single=True)}


def _frames(segment: Segment, num_frames: int) -> int:
    """Frames of a segment; the last one's end is the sound's, a little after its last frame."""
    return min(num_frames, round(segment.end * FRAME_RATE)) - round(segment.start * FRAME_RATE)


def _significant(x: np.ndarray) -> list:
    """Nested lists of an array's numbers with 5 significant digits: an hour's attention weights are about 5e-6."""
    x = np.asarray(x, np.float64)
    digits = 4 - np.floor(np.log10(np.maximum(np.abs(x), 1e-300)))
    scale = 10.0 ** np.clip(digits, 0, 300)
    return (np.round(x * scale) / scale).tolist()


def _csv(rows) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
