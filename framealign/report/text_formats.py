"""Results as files: a table, JSON, JSON lines, CSV, Praat TextGrid, Audacity labels, RTTM, subtitles (SRT and WebVTT),
and a picture in SVG.

Each writer gives the text of one sound out of its path, its `Result` and its segments; `timeline` says that the emotion
over time is wanted too. The last six formats are always a time line. A segment without an emotion says what is heard
instead, and has no confidence.
"""
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

import numpy as np

from framealign.sound import audio
from framealign.corpus import frame_truth
from framealign.corpus.utterance import NONE
from framealign.emotion.recogniser import Result
from framealign.emotion.segments import Segment, runs
from framealign.report import timeline_svg
from framealign.report.timeline import Annotation


def shown(path: object) -> str:
    """A path as one line of text: what is no UTF-8 or would break the line is replaced."""
    text = str(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return re.sub(r"[\x00-\x1f\x7f\u2028\u2029]", "?", text)


def table(path: object, result: Result, segments: list[Segment], timeline: bool) -> str:
    """The path, the emotion, each class's probability, why there is no emotion; below it, a line for each segment."""
    shares = "  ".join(f"{label} {share:.2f}" for label, share in result.probabilities.items())
    lines = [f"{shown(path)}\t{result.emotion}\t{shares}" + (f"\t{result.reason}" if result.reason else "")]
    if timeline:
        width = max(map(len, [*result.probabilities, NONE]))
        for one in segments:
            certainty = f"({one.reason})" if one.emotion == NONE else f"confidence {one.confidence:.2f}"
            lines.append(f"{one.start:10.2f} {one.end:8.2f}  {one.emotion:{width}}  {certainty}  "
                         f"attention {100 * one.attention:.0f} %")
    return "\n".join(lines) + "\n"


def json_content(path: object, result: Result, segments: list[Segment], timeline: bool) -> dict:
    """What JSON contains of a sound; numbers over time to 5 significant digits."""
    content = {"path": shown(path), "seconds": result.seconds, "emotion": result.emotion, "reason": result.reason,
               "probabilities": result.probabilities}
    if timeline:
        content |= {"labels": list(result.probabilities), "frames_per_second": result.framing.rate,
                    "frames_trained": result.frames_trained, "window_seconds": result.window_seconds,
                    "segments": [segment_content(one) for one in segments],
                    "posterior": _significant(result.posterior), "attention": _significant(result.attention),
                    "units": None if result.units is None else result.units.tolist()}
    return content


def segment_content(segment: Segment) -> dict:
    """What JSON contains of a segment; seconds to the microsecond."""
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(segment).items()}


def json_text(path: object, result: Result, segments: list[Segment], timeline: bool) -> str:
    """One JSON object."""
    return json.dumps(json_content(path, result, segments, timeline), ensure_ascii=False)


def json_line(path: object, result: Result, segments: list[Segment], timeline: bool) -> str:
    """One JSON object and the end of its line."""
    return json_text(path, result, segments, timeline) + "\n"


def csv_rows(path: object, result: Result, segments: list[Segment], timeline: bool) -> str:
    """One row; with `timeline` one row per frame: when it begins, the smoothed emotion, attention, unit, posterior."""
    if not timeline:
        shares = [f"{share:.6f}" for share in result.probabilities.values()]
        return csv_text([[shown(path), f"{result.seconds:.3f}", result.emotion, result.reason, *shares]])
    num_frames, rate = len(result.attention), result.framing.rate
    digits = 2 if 100 % rate == 0 else 4            # of the seconds: hundredths tell frames of 20 ms apart exactly
    units = [""] * num_frames if result.units is None else result.units.tolist()
    emotions = [segment.emotion for segment in segments for _ in range(_frames(segment, num_frames, rate))]
    rows = []
    for t in range(num_frames):
        posterior = [f"{share:.4f}" for share in result.posterior[t].tolist()]
        rows.append([shown(path), f"{t / rate:.{digits}f}", emotions[t], f"{result.attention[t]:.4e}", units[t],
                     *posterior])
    return csv_text(rows)


def csv_header(labels: list[str], timeline: bool) -> str:
    """The names of the columns."""
    first = ["path", "time", "emotion", "attention", "unit"] if timeline else ["path", "seconds", "emotion", "reason"]
    return csv_text([[*first, *labels]])


def textgrid(path: object, result: Result, segments: list[Segment], timeline: bool) -> str:
    """A Praat TextGrid (long text form): tiers emotion, confidence (or what is heard instead) and, where there are
    units, unit.

    Source: the Praat manual, "TextGrid file formats".
    """
    end, rate = segments[-1].end, result.framing.rate
    tiers = {"emotion": [(one.start, one.end, one.emotion) for one in segments],
             "confidence": [(one.start, one.end, one.reason or f"{one.confidence:.3f}") for one in segments]}
    if result.units is not None:
        tiers["unit"] = [(start / rate, end if stop == len(result.units) else stop / rate, str(unit))
                         for start, stop, unit in runs(result.units)]
    return textgrid_text(tiers, end)


def textgrid_text(tiers: Mapping[str, Sequence[tuple[float, float, str]]], end: float) -> str:
    """A TextGrid of tiers by name, each its intervals (start, end, text) without gaps from 0 to `end` seconds."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end:.6f}",
             "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers.items(), 1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{quoted(name)}"',
                  "        xmin = 0", f"        xmax = {end:.6f}", f"        intervals: size = {len(intervals)}"]
        for index, (start, stop, text) in enumerate(intervals, 1):
            lines += [f"        intervals [{index}]:", f"            xmin = {start:.6f}",
                      f"            xmax = {stop:.6f}", f'            text = "{quoted(text)}"']
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A text as it stands between Praat's quotation marks."""
    return shown(text).replace('"', '""')


def audacity(path: object, result: Result, segments: list[Segment], timeline: bool) -> str:
    """An Audacity label track: start, end and label, separated by tabs."""
    return "".join(f"{one.start:.6f}\t{one.end:.6f}\t{spoken(one)}\n" for one in segments)


def spoken(segment: Segment) -> str:
    """A segment's emotion and confidence in a few words, or why it has none: angry 0.87; none (silence)."""
    certainty = f"({segment.reason})" if segment.emotion == NONE else f"{segment.confidence:.2f}"
    return shown(f"{segment.emotion} {certainty}")


def srt(path: object, result: Result, segments: list[Segment], timeline: bool) -> str:
    """SubRip subtitles: numbered cues, times as 00:00:01,500."""
    cues = [f"{number}\n{clock(one.start, ',')} --> {clock(one.end, ',')}\n{arrowless(spoken(one))}\n"
            for number, one in enumerate(segments, 1)]
    return "\n".join(cues)


def webvtt(path: object, result: Result, segments: list[Segment], timeline: bool) -> str:
    """WebVTT subtitles: cues with times as 00:00:01.500. Source: W3C, "WebVTT: The Web Video Text Tracks Format"."""
    cues = [f"{clock(one.start, '.')} --> {clock(one.end, '.')}\n{escape(arrowless(spoken(one)), quote=False)}\n"
            for one in segments]
    return "WEBVTT\n\n" + "\n".join(cues)


def clock(seconds: float, point: str) -> str:
    """Seconds as a subtitle's time, to the millisecond: 01:02:03,456; hours have two digits or more."""
    milliseconds = round(1000 * seconds)
    return (f"{milliseconds // 3_600_000:02d}:{milliseconds // 60_000 % 60:02d}:{milliseconds // 1000 % 60:02d}{point}"
            f"{milliseconds % 1000:03d}")


def arrowless(text: str) -> str:
    """A cue's text, in which an arrow would be one of times: it is shortened."""
    return text.replace("-->", "->")


def rttm(path: object, result: Result, segments: list[Segment], timeline: bool) -> str:
    """NIST's Rich Transcription Time Marked lines: the emotion stands where a speaker's name would."""
    name = word(Path(str(path)).stem)
    lines = [f"SPEAKER {name} 1 {one.start:.3f} {one.end - one.start:.3f} <NA> <NA> {word(one.emotion)} "
             f"{'<NA>' if one.emotion == NONE else format(one.confidence, '.3f')} <NA>\n" for one in segments]
    return "".join(lines)


def word(text: str) -> str:
    """A text without blanks, as fields of RTTM are."""
    return re.sub(r"\s", "_", shown(text))


def svg(path: object, result: Result, segments: list[Segment], timeline: bool) -> str:
    """A picture: waveform, truth (where it is known), segments, posterior, attention. The sound is read again."""
    annotation = Annotation(shown(Path(str(path)).name), truth=frame_truth.beside(str(path), result.seconds))
    return timeline_svg.picture(audio.load(str(path)).numpy(), result, segments, annotation)


def nothing(labels: list[str], timeline: bool) -> str:
    """What stands before the first sound in most formats."""
    return ""


def json_opening(labels: list[str], timeline: bool) -> str:
    """The beginning of a list of objects."""
    return "[\n"


@dataclass(frozen=True)
class Format:
    """How results are written: one after another, with `first`, `between` and `last` around them."""
    suffix: str                                     # of a file
    write: Callable[..., str]                       # (path, result, segments, timeline) -> text; of turns:
                                                    # (path, conversation) -> text
    first: Callable[[list[str], bool], str] = nothing                   # (labels, timeline) -> text
    between: str = ""
    last: str = ""
    single: bool = False                            # a file of it holds one sound


FORMATS = {"table": Format(".txt", table), "json": Format(".json", json_text, json_opening, ",\n", "\n]\n"),
           "jsonl": Format(".jsonl", json_line), "csv": Format(".csv", csv_rows, csv_header),
           "textgrid": Format(".TextGrid", textgrid, single=True), "rttm": Format(".rttm", rttm),
           "audacity": Format(".txt", audacity, single=True), "srt": Format(".srt", srt, single=True),
           "vtt": Format(".vtt", webvtt, single=True), "svg": Format(".svg", svg, single=True)}


def _frames(segment: Segment, num_frames: int, rate: float) -> int:
    """Frames of a segment, `rate` a second; the last one's end is the sound's, a little after its last frame."""
    return min(num_frames, round(segment.end * rate)) - round(segment.start * rate)


def _significant(x: np.ndarray) -> list:
    """Nested lists of an array's numbers with 5 significant digits: an hour's attention weights are about 5e-6."""
    x = np.asarray(x, np.float64)
    digits = 4 - np.floor(np.log10(np.maximum(np.abs(x), 1e-300)))
    scale = 10.0 ** np.clip(digits, 0, 300)
    return (np.round(x * scale) / scale).tolist()


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
