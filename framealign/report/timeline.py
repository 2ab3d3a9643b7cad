"""The time line of one sound as HTML: waveform, spectrogram, emotion over time, attention, units; playable.

Each track is as wide as the page (an SVG or an image that is stretched), all share one time axis and one cursor, which
`web/page.js` moves. Words stand beside the tracks as HTML, so that they keep their size on any screen.
"""
import io
import json
import math
from collections.abc import Iterable, Sequence

import numpy as np
import soundfile

from framealign.report import html_document
from framealign.sound.frames import FRAME_RATE, HOP, RECEPTIVE_FIELD, SAMPLE_RATE
from framealign.report.svg import (band, colours, data_uri, element, escape, ink, number, path, png, rect, rgb, shade,
                                   ticks)

WIDTH = 1000                                        # of a track, in its own units
COLUMNS = 1500                                      # at most, of anything drawn over time
MAX_FRAMES = 15_000                                 # whose numbers are kept for the cursor: all of them up to 5 minutes
BANDS, FFT, DECIBELS = 80, 512, 65                  # of the spectrogram: rows, samples, range
FLAC_BYTES, AUDIO_BYTES = 160_000, 1_200_000        # larger becomes Ogg Vorbis; what is larger still is left out


def picture(waveform: np.ndarray, result, units: np.ndarray | None = None, truth: np.ndarray | None = None,
            title: str = "", note: str = "", label: str = "", order: np.ndarray | None = None) -> str:
    """The figure of one recognised sound, for the body of a page (`document.document`).

    waveform (N,) in -1..1 at 16 kHz; result: a `recognise.Result`: emotion, probabilities by class, posterior (T, C),
    attention (T,); units (T,) whole numbers; truth (T,) bool: frames known to be emotional; label: the true emotion;
    order (K,) 0..1: where each unit stands among the others, which gives its colour (default: its number).
    Raises ValueError where these lengths do not fit.
    """
    waveform = np.asarray(waveform, np.float32)
    labels, num_frames = list(result.probabilities), len(result.attention)
    for name, x in (("posterior", result.posterior), ("units", units), ("truth", truth)):
        if x is not None and len(x) != num_frames:
            raise ValueError(f"{name} has {len(x)} frames, attention has {num_frames}")
    if waveform.ndim != 1 or len(waveform) < RECEPTIVE_FIELD:
        raise ValueError(f"a waveform must be (N,), N >= {RECEPTIVE_FIELD}, got {waveform.shape}")
    seconds = len(waveform) / SAMPLE_RATE
    edges = frame_edges(num_frames, len(waveform))
    tracks = [track("sound", waveform_area(waveform), 62),
              track("spectrum", spectrogram_image(waveform), 84, "0 to 8 kHz, mel")]
    if truth is not None:
        name = label or "emotional"
        drawn = coloured_runs(np.asarray(truth, int), edges, [None, colours([name])[0]], ["", name])
        tracks.append(track("planted truth", drawn, 24, "where it was put"))
    step = -(-num_frames // COLUMNS)                # frames of a run at least, where there are too many to be drawn
    means = np.add.reduceat(result.posterior, np.arange(0, num_frames, step))
    drawn = coloured_runs(means.argmax(-1), np.append(edges[:-1:step], 1.0), colours(labels), labels)
    tracks += [track("emotion", drawn, 24, "frame by frame"),
               track("posterior", posterior_areas(result.posterior, edges, labels), 96, "of each class"),
               track("attention", attention_area(result.attention, edges), 56, "a frame's weight")]
    if units is not None:
        units = np.asarray(units, int)
        shades = (lambda u: float(order[u])) if order is not None else (lambda u: u / max(1, units.max()))
        tracks.append(track("units", unit_strip(units, edges, len(waveform), shades), 26, "one every 20 ms"))
    content = [heading(result, title, note, label), player(waveform, seconds),
               element("div", ["".join(tracks), axis(seconds), element("div", "", class_="cursor")], class_="tracks",
                       tabindex="0", role="slider", aria_label="position in the sound, in seconds", aria_valuemin="0",
                       aria_valuemax=number(seconds), aria_valuenow="0"),
               element("p", "", class_="readout", aria_live="off"),
               legend(labels)]
    content.append(numbers(result, units, seconds))
    return element("figure", content, class_="timeline card wide")


def numbers(result, units: np.ndarray | None, seconds: float) -> str:
    """What `web/page.js` says at the cursor: posterior in per cent, attention (1: as if all counted alike), units."""
    step = -(-len(result.attention) // MAX_FRAMES)
    data = {"seconds": round(seconds, 4), "labels": list(result.probabilities), "rate": FRAME_RATE / step,
            "posterior": np.round(100 * result.posterior[::step]).astype(int).tolist(),
            "attention": np.round(result.attention[::step] * len(result.attention), 2).tolist(),
            "units": None if units is None else units[::step].tolist()}
    content = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" class="frames">{content}</script>'


def page(title: str, pictures: Iterable[str], subtitle: str = "") -> str:
    """A whole page of such figures, for `recognise`."""
    return html_document.document(title, html_document.head(title, subtitle) + element("main", "".join(pictures)))


def frame_edges(num_frames: int, num_samples: int) -> np.ndarray:
    """Where frames begin and end, (T + 1,) in 0..1 of the sound: frame t from sample 320 t + 40 to 320 t + 360."""
    inside = (HOP * np.arange(1, num_frames) + (RECEPTIVE_FIELD - HOP) / 2) / num_samples
    return np.concatenate([[0.0], inside, [1.0]])


def heading(result, title: str, note: str, label: str) -> str:
    """What the figure is, the emotion that was recognised (and the true one), each class's probability."""
    labels = list(result.probabilities)
    words = [element("h3", escape(title)) if title else "", element("p", escape(note), class_="note") if note else ""]
    verdict = [chip(result.emotion, labels, "recognised: ")]
    if label:
        right = label == result.emotion
        verdict.append(chip(label, labels, "truth: ") + element("span", "✓ right" if right else "✗ wrong",
                                                            class_="right" if right else "wrong"))
    bars = "".join(element("div", [
        element("span", escape(name), class_="name"),
        element("span", element("i", "", style=f"width:{100 * share:.1f}%;background:{colour}"), class_="bar"),
        element("span", f"{100 * share:.0f} %", class_="share")], class_="probability")
        for (name, share), colour in zip(result.probabilities.items(), colours(labels)))
    return "".join([*words, element("p", verdict, class_="verdict"), element("div", bars, class_="probabilities")])


def chip(name: str, labels: Sequence[str], before: str = "") -> str:
    """A class's name on its colour."""
    colour = dict(zip([*labels, name], colours([*labels, name])))[name]
    return escape(before) + element("b", escape(name), class_="chip", style=f"background:{colour};color:{ink(colour)}")


def legend(labels: Sequence[str]) -> str:
    """Classes beside their colours."""
    return element("p", "".join(element("span", element("i", "", style=f"background:{colour}") + escape(name))
                                for name, colour in zip(labels, colours(labels))), class_="legend")


def player(waveform: np.ndarray, seconds: float) -> str:
    """A button, the time, and the sound itself where it is not too long to be put into the page."""
    content, kind = encode(waveform)
    clock = element("span", f"0.00 / {seconds:.2f} s", class_="clock")
    if not content:
        return element("div", clock + element("span", "too long to be put into this page", class_="note"),
                       class_="player")
    return element("div", [
        element("button", "▶", class_="play", type="button", aria_label="play or pause"), clock,
        element("span", "click or drag in the picture, or use the arrow keys", class_="note hint"),
        element("audio", "", preload="auto", src=data_uri(content, kind))], class_="player")


def encode(waveform: np.ndarray) -> tuple[bytes, str]:
    """The sound as a small file every browser plays, and its type: FLAC, beyond `FLAC_BYTES` Ogg Vorbis.

    (b"", "") for what is larger than `AUDIO_BYTES` even so.
    """
    if len(waveform) > 600 * SAMPLE_RATE:
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


def track(name: str, content: str, height: int, hint: str = "") -> str:
    """A row: its name (and what it is), then what is drawn, `height` pixels high."""
    said = element("small", escape(hint)) if hint else ""
    return element("div", element("div", element("b", escape(name)) + said, class_="label")
                   + element("div", content, class_="lane", style=f"height:{height}px"),
                   class_=f"track {name.split()[0]}")


def axis(seconds: float) -> str:
    """Seconds below the tracks."""
    marks = "".join(element("span", f"{number(x, 3)} s" if x == 0 else number(x, 3),
                            style=f"left:{100 * x / seconds:.3f}%")
                    for x in ticks(0, seconds, 6) if x <= seconds * 0.985)
    return element("div", element("div", "", class_="label") + element("div", marks, class_="lane"),
                   class_="track axis")


def image(values: np.ndarray, low: float | None = None, high: float | None = None, name: str = "") -> str:
    """Numbers over time, (rows, T) with row 0 at the bottom, as an image that fills its lane; low..high: dark..light.

    Default: from the 2nd to the 98th percentile.
    """
    values = np.asarray(values, float)[::-1]
    low, high = (np.percentile(values, q) if x is None else x for x, q in ((low, 2), (high, 98)))
    palette = np.array([rgb(shade(i / 63)) for i in range(64)], np.uint8)
    levels = np.clip((values - low) / max(high - low, 1e-12) * 63, 0, 63).round().astype(int)
    return element("img", "", src=data_uri(png(palette[levels]), "image/png"), alt=name or "image", draggable="false",
                   class_="pixels").replace("</img>", "")


def stretched(content: str | Iterable[str], height: float, **attributes: object) -> str:
    """An SVG that fills its lane; lines keep their width (`vector-effect` in the style)."""
    return element("svg", content, viewBox=f"0 0 {WIDTH} {number(height)}", preserveAspectRatio="none",
                   aria_hidden="true", **attributes)


def waveform_area(waveform: np.ndarray) -> str:
    """Highest and lowest sample of each column, as an area."""
    columns = np.array_split(waveform, min(COLUMNS // 2, len(waveform)))
    high, low = (np.array([f(part) for part in columns]) for f in (np.max, np.min))
    scale = 48 / max(np.abs(waveform).max(), 1e-6)
    x = (np.arange(len(columns)) + 0.5) * WIDTH / len(columns)
    return stretched(element("path", "", d=band(x, 50 - low * scale, 50 - high * scale), class_="wave"), 100)


def mel_bands() -> np.ndarray:
    """Where the spectrogram's rows lie among the FFT's bins, (BANDS,) float: equal steps in mel from 60 Hz to 8 kHz."""
    mel = lambda hertz: 2595 * math.log10(1 + hertz / 700)
    hertz = 700 * (10 ** (np.linspace(mel(60), mel(SAMPLE_RATE / 2), BANDS) / 2595) - 1)
    return hertz * FFT / SAMPLE_RATE


def spectrogram(waveform: np.ndarray) -> np.ndarray:
    """Level of each mel band over time, (BANDS, columns) in 0..1, lowest band first: 0 is DECIBELS below the loudest.

    Windows of 32 ms (Hann) every 8 ms, further apart in a sound too long for COLUMNS of them.
    """
    hop = max(128, math.ceil(len(waveform) / COLUMNS))
    padded = np.pad(waveform, FFT // 2)
    starts = np.arange(0, len(waveform), hop)
    power = np.concatenate([np.abs(np.fft.rfft(padded[part[:, None] + np.arange(FFT)] * np.hanning(FFT))) ** 2
                            for part in np.array_split(starts, -(-len(starts) // 500))])    # (columns, FFT / 2 + 1)
    rows = mel_bands()
    low = np.minimum(rows.astype(int), FFT // 2 - 1)
    part = rows - low
    levels = 10 * np.log10(power[:, low] * (1 - part) + power[:, low + 1] * part + 1e-12).T     # (BANDS, columns)
    return np.clip(1 + (levels - levels.max()) / DECIBELS, 0, 1)


def spectrogram_image(waveform: np.ndarray) -> str:
    """As an image: dark is loud, high is above; a few levels of grey keep it small."""
    grey = 255 - (np.round(spectrogram(waveform)[::-1] * 24) * (255 / 24)).astype(np.uint8)
    return element("img", "", src=data_uri(png(grey), "image/png"), alt="spectrogram", draggable="false").replace(
        "</img>", "")


def runs_of(values: np.ndarray) -> list[tuple[int, int, int]]:
    """Runs of equal values: (value, first, end) each."""
    values = np.asarray(values)
    starts = [0, *(np.flatnonzero(np.diff(values)) + 1), len(values)]
    return [(int(values[a]), int(a), int(b)) for a, b in zip(starts, starts[1:])]


def coloured_runs(values: np.ndarray, edges: np.ndarray, fills: Sequence[str | None], names: Sequence[str]) -> str:
    """A strip of coloured runs, the name in those with room for it."""
    shapes, words = [], []
    for value, first, end in runs_of(values):
        left, width = edges[first], edges[end] - edges[first]
        if fills[value] is not None:
            shapes.append(rect(WIDTH * left, 0, WIDTH * width, 10, fill=fills[value], class_="run"))
            words.append(_word(names[value], left, width, ink(fills[value])))
    return stretched(shapes, 10) + "".join(words)


def _word(name: str, left: float, width: float, colour: str) -> str:
    """A word in the middle of a run, if there is room for it on the narrowest screen or else on a wide one."""
    if width < (0.008 * len(name) + 0.006 if name.isdigit() else 0.0095 * len(name) + 0.008):
        return ""
    kind = "word" if width > 0.03 * len(name) + 0.02 else "word wide-only"
    return element("span", escape(name), class_=kind, style=f"left:{100 * left:.2f}%;width:{100 * width:.2f}%;"
                                                            f"color:{colour}")


def averaged(values: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames as at most COLUMNS columns of means: their centres in 0..1, (n,), and values, (n, ...)."""
    groups = np.array_split(np.arange(len(values)), min(len(values), COLUMNS // 2))
    centres = np.array([(edges[g[0]] + edges[g[-1] + 1]) / 2 for g in groups])
    return centres, np.array([values[g].mean(0) for g in groups])


def posterior_areas(posterior: np.ndarray, edges: np.ndarray, labels: Sequence[str]) -> str:
    """Areas that add up to one, the first class lowest."""
    x, shares = averaged(np.asarray(posterior, float), edges)
    x, shares = np.concatenate([[0.0], x, [1.0]]) * WIDTH, np.concatenate([shares[:1], shares, shares[-1:]])
    tops = 100 - 100 * np.cumsum(shares, 1)
    below = np.full(len(x), 100.0)
    areas = []
    for index, colour in enumerate(colours(labels)):
        areas.append(element("path", element("title", escape(labels[index])), d=band(x, below, tops[:, index]),
                             fill=colour, class_="run"))
        below = tops[:, index]
    return stretched(areas, 100)


def attention_area(attention: np.ndarray, edges: np.ndarray) -> str:
    """An area over time, its highest point near the top; a dashed line where every frame would count alike."""
    x, values = averaged(np.asarray(attention, float) * len(attention), edges)          # 1: as if all counted alike
    x, values = np.concatenate([[0.0], x, [1.0]]) * WIDTH, np.concatenate([values[:1], values, values[-1:]])
    scale = 94 / max(values.max(), 1.5)
    zero = np.full(len(x), 100.0)
    return stretched([element("path", "", d=band(x, zero, 100 - scale * values), class_="attention"),
                      element("path", "", d=path([0, WIDTH], [100 - scale] * 2), class_="even")], 100)


def unit_strip(units: np.ndarray, edges: np.ndarray, num_samples: int, shades) -> str:
    """Units as an image of one pixel per frame, with the number where a run has room for it."""
    pixels = np.array([rgb(shade(shades(u))) for u in units], np.uint8)[None]           # (1, T, 3)
    left, width = 100 * (RECEPTIVE_FIELD - HOP) / 2 / num_samples, 100 * HOP * len(units) / num_samples
    image = element("img", "", src=data_uri(png(pixels), "image/png"), alt="units", class_="strip", draggable="false",
                    style=f"left:{left:.3f}%;width:{width:.3f}%").replace("</img>", "")
    words = [_word(str(unit), edges[first], edges[end] - edges[first], ink(shade(shades(unit))))
             for unit, first, end in runs_of(units)]
    return image + "".join(words)
