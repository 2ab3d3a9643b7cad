"""The time line of one sound as HTML: waveform, spectrogram, emotion over time, attention, units; playable.

The truth about when it is which emotion, where it is known, stands above the segments that were recognised.

Each track is as wide as the page (an SVG or an image that is stretched). All share one time axis and one cursor, which
`web/page.js` moves.
"""
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import soundfile

from framealign.sound.frames import SAMPLE_RATE, milliseconds
from framealign.corpus import frame_truth
from framealign.corpus.utterance import NONE, Stretch
from framealign.emotion.diarization import Labelled
from framealign.emotion.recogniser import Result
from framealign.emotion.segments import Segment, segments
from framealign.report import html_document, tracks
from framealign.report.svg import colours, data_uri, element, escape, ink, number
from framealign.report.tracks import track

MAX_FRAMES = 15_000                                 # with numbers at the cursor: all frames up to 5 minutes
FLAC_BYTES, AUDIO_BYTES = 160_000, 1_200_000        # larger becomes Ogg Vorbis; larger still is left out
MAX_SPEAKERS = 12                                   # with a strip of their own; the first to speak
AUDIO_SECONDS = 600                                 # longer sound is left out at once


@dataclass(frozen=True)
class Annotation:
    """What is known about a sound besides what was recognised; all of it may be missing."""
    title: str = ""
    note: str = ""
    label: str = ""                                 # the true emotion
    truth: Sequence[Stretch] | None = None          # the emotional stretches; all other time is neutral
    speakers: Mapping[str, Sequence[Labelled]] = field(default_factory=dict)    # each one's turns, recognised


@dataclass(frozen=True)
class UnitTrack:
    """Units of a sound's frames and how they are coloured."""
    units: np.ndarray                               # (T,) whole numbers
    order: np.ndarray | None = None                 # (K,) 0..1: a unit's place among the others; None: its number

    def position(self, unit: int) -> float:
        """Where a unit stands among the others, 0..1."""
        if self.order is None:
            return unit / max(1, int(self.units.max()))
        return float(self.order[unit])


def picture(waveform: np.ndarray, result: Result, annotation: Annotation = Annotation(),
            units: UnitTrack | None = None, recognised: Sequence[Segment] | None = None) -> str:
    """The figure of one recognised sound, for the body of a page (`html_document.document`).

    waveform (N,) float in -1..1 at 16 kHz; result: of T frames; recognised: its segments, None for those of
    `segments.segments`. Raises ValueError where lengths do not fit.
    """
    waveform = np.asarray(waveform, np.float32)
    labels, num_frames = list(result.probabilities), len(result.attention)
    check_lengths(waveform, result, units)
    edges = tracks.frame_edges(num_frames, len(waveform), result.framing)
    seconds = len(waveform) / SAMPLE_RATE
    recognised = segments(result) if recognised is None else recognised
    truth = None if annotation.truth is None else frame_truth.throughout(annotation.truth, seconds, labels)
    colour_of = tracks.emotion_colours(labels, [*(truth or ()), *recognised,
                                                *(turn for turns in annotation.speakers.values() for turn in turns)])

    rows = [track("sound", tracks.stretched(tracks.waveform_shapes(waveform)), 62),
            track("spectrum", tracks.spectrogram_image(waveform), 84, "0 to 8 kHz, mel")]
    if truth is not None:
        rows.append(track("truth", tracks.emotion_strip(truth, seconds, colour_of), 30, "known beforehand"))
    posterior = tracks.stretched(tracks.posterior_shapes(result.posterior, edges, labels))
    attention = tracks.stretched(tracks.attention_shapes(result.attention, edges))
    rows += [track("turns", tracks.emotion_strip(tracks.with_gaps(turns), seconds, colour_of | {tracks.GAP: None}), 30,
                   speaker) for speaker, turns in list(annotation.speakers.items())[:MAX_SPEAKERS]]
    rows += [track("segments", tracks.emotion_strip(recognised, seconds, colour_of), 30, "what is recognised"),
             track("posterior", posterior, 96, "of each class"),
             track("attention", attention, 56, "dashed: equal weights")]
    if units is not None:
        strip = tracks.unit_strip(units.units, edges, len(waveform), units.position, result.framing)
        rows.append(track("units", strip, 26, f"one every {milliseconds(result.framing.hop)}"))

    cursor = element("div", "", class_="cursor")
    slider = element("div", [*rows, tracks.axis(seconds), cursor], class_="tracks", tabindex="0", role="slider",
                     aria_label="position in the sound, in seconds", aria_valuemin="0", aria_valuemax=number(seconds),
                     aria_valuenow="0")
    content = [heading(result, annotation), player(waveform, seconds), slider,
               element("p", "", class_="readout", aria_live="off"), tracks.legend(list(colour_of))]
    note = tracks.posterior_note(result.frames_trained, result.window_seconds)
    if note:
        content.append(element("p", note, class_="note"))
    content.append(numbers(result, units, seconds, truth))
    return element("figure", content, class_="timeline card wide")


def check_lengths(waveform: np.ndarray, result: Result, units: UnitTrack | None = None) -> None:
    """Raise ValueError where there are not as many frames of everything, or no waveform (N,)."""
    num_frames = len(result.attention)
    for name, values in (("posterior", result.posterior), ("units", None if units is None else units.units)):
        if values is not None and len(values) != num_frames:
            raise ValueError(f"{name} has {len(values)} frames, attention has {num_frames}")
    least = result.framing.receptive_field
    if waveform.ndim != 1 or len(waveform) < least:
        raise ValueError(f"a waveform must be (N,), N >= {least}, got {waveform.shape}")


def numbers(result: Result, units: UnitTrack | None, seconds: float, truth: Sequence[Stretch] | None) -> str:
    """What `web/page.js` shows at the cursor: posterior in per cent, attention (1: equal weights), units, truth."""
    step = -(-len(result.attention) // MAX_FRAMES)
    content = {"seconds": round(seconds, 4), "labels": list(result.probabilities), "rate": result.framing.rate / step,
               "posterior": np.round(100 * result.posterior[::step]).astype(int).tolist(),
               "attention": np.round(result.attention[::step] * len(result.attention), 2).tolist(),
               "units": None if units is None else units.units[::step].tolist(),
               "truth": None if truth is None else [[round(start, 4), emotion] for start, _, emotion in truth]}
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" class="frames">{text}</script>'


def page(title: str, pictures: Iterable[str], subtitle: str = "") -> str:
    """A whole page of such figures."""
    return html_document.document(title, html_document.head(title, subtitle) + element("main", pictures))


def heading(result: Result, annotation: Annotation) -> str:
    """Title, note, the recognised emotion (or why there is none) and the true one, each class's probability."""
    labels, label = list(result.probabilities), annotation.label
    content = []
    if annotation.title:
        content.append(element("h3", escape(annotation.title)))
    if annotation.note:
        content.append(element("p", escape(annotation.note), class_="note"))

    verdict = [chip(result.emotion, labels, "recognised: ")]
    if result.reason:
        verdict.append(element("span", escape(result.reason), class_="why"))
    if label:
        is_right = label == result.emotion
        verdict += [chip(label, labels, "truth: "),
                    element("span", "✓ right" if is_right else "✗ wrong", class_="right" if is_right else "wrong")]
    content.append(element("p", verdict, class_="verdict"))

    bars = [probability_bar(name, share, colour)
            for (name, share), colour in zip(result.probabilities.items(), colours(labels))]
    return "".join([*content, element("div", bars, class_="probabilities")])


def probability_bar(name: str, share: float, colour: str) -> str:
    """A class's name, a bar as long as its probability, the number."""
    bar = element("i", "", style=f"width:{100 * share:.1f}%;background:{colour}")
    return element("div", [element("span", escape(name), class_="name"), element("span", bar, class_="bar"),
                           element("span", f"{100 * share:.0f} %", class_="share")], class_="probability")


def chip(name: str, labels: Sequence[str], before: str = "") -> str:
    """A class's name on its colour; NONE, which has no colour, on hatching."""
    if name == NONE:
        return escape(before) + element("b", name, class_="chip hatched")
    known = list(dict.fromkeys([*labels, name]))    # a class has its place once, hence one colour everywhere
    colour = dict(zip(known, colours(known)))[name]
    return escape(before) + element("b", escape(name), class_="chip", style=f"background:{colour};color:{ink(colour)}")


def player(waveform: np.ndarray, seconds: float) -> str:
    """A button, the time, and the sound itself where it is short enough to be part of the page."""
    content, kind = encode(waveform)
    clock = element("span", f"0.00 / {seconds:.2f} s", class_="clock")
    if not content:
        return element("div", [clock, element("span", "the sound is too long to be part of this page", class_="note")],
                       class_="player")
    return element("div", [
        element("button", "▶", class_="play", type="button", aria_label="play or pause"), clock,
        element("span", "click or drag in the picture, or use the arrow keys", class_="note hint"),
        element("audio", "", preload="auto", src=data_uri(content, kind))], class_="player")


def encode(waveform: np.ndarray) -> tuple[bytes, str]:
    """The sound as a small file every browser plays, and its type: FLAC, beyond `FLAC_BYTES` Ogg Vorbis.

    (b"", "") for what is larger than `AUDIO_BYTES` even so.
    """
    if len(waveform) > AUDIO_SECONDS * SAMPLE_RATE:
        return b"", ""
    for form, subtype, kind, limit in (("FLAC", "PCM_16", "audio/flac", FLAC_BYTES),
                                       ("OGG", "VORBIS", "audio/ogg", AUDIO_BYTES)):
        file = io.BytesIO()
        with soundfile.SoundFile(file, "w", SAMPLE_RATE, 1, subtype, format=form) as sound:
            for start in range(0, len(waveform), SAMPLE_RATE):      # long blocks overflow libvorbis's stack
                sound.write(np.clip(waveform[start:start + SAMPLE_RATE], -1, 1))
        if len(file.getvalue()) <= limit:
            return file.getvalue(), kind
    return b"", ""
