"""What is drawn over time, one function a track: waveform, spectrogram, emotions, posterior, attention, units.

`timeline` and `lesson` put tracks below each other in HTML, `timeline_svg` in one SVG file. Shapes are drawn in a box
of WIDTH x HEIGHT that is stretched to its place. Words on HTML tracks are HTML, so that they keep their size on any
screen.
"""
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from framealign.sound.frames import EVERY_20_MS, SAMPLE_RATE, Framing
from framealign.corpus.utterance import NONE, Stretch
from framealign.emotion.diarization import Labelled
from framealign.emotion.segments import runs
from framealign.report.svg import (band, colours, data_uri, element, escape, ink, number, path, png, rect, rgb, shade,
                                   ticks)

WIDTH, HEIGHT = 1000, 100                           # of a track, in its own units
COLUMNS = 750                                       # at most, of curves over time
BANDS, FFT, DECIBELS = 80, 512, 65                  # of the spectrogram: rows, samples, range
IMAGE_COLUMNS = 1500                                # at most, of a spectrogram
MAX_OUTLINED = 8                                    # classes of a posterior
GAP = ""                                            # the emotion of what is no turn: nothing is drawn
MAX_RUNS = 1500                                     # of emotions in a strip; of more, as many columns are drawn
WITHOUT_FRAMES = ("This recogniser learned from whole utterances: read over time, it mostly repeats their emotion. "
                  "The stage frames trains one that knows when.")
BY_WINDOWS = "Over time this recogniser says what it hears in the {seconds:g} s around each frame."


def posterior_note(frames_trained: bool, window_seconds: float) -> str:
    """What must be said of a posterior over time; "" of one by a classifier that was trained on frames."""
    if window_seconds:
        return BY_WINDOWS.format(seconds=window_seconds)
    return "" if frames_trained else WITHOUT_FRAMES


def track(name: str, content: str, height: int, hint: str = "") -> str:
    """A row in HTML: its name (and a hint), then what is drawn, `height` pixels high."""
    small = element("small", escape(hint)) if hint else ""
    label = element("div", element("b", escape(name)) + small, class_="label")
    lane = element("div", content, class_="lane", style=f"height:{height}px")
    return element("div", label + lane, class_=f"track {name.split()[0]}")


def axis(seconds: float) -> str:
    """Seconds below the tracks, in HTML."""
    marks = []
    for x in second_marks(seconds):
        name = f"{number(x, 3)} s" if x == 0 else number(x, 3)
        marks.append(element("span", name, style=f"left:{100 * x / seconds:.3f}%"))
    return element("div", element("div", "", class_="label") + element("div", marks, class_="lane"),
                   class_="track axis")


def second_marks(seconds: float) -> list[float]:
    """Round numbers of seconds on the axis of a sound; none at the very end, where there is no room."""
    return [x for x in ticks(0, seconds, 6) if x <= seconds * 0.985]


def stretched(shapes: str | Iterable[str], box_height: float = HEIGHT, **attributes: object) -> str:
    """An SVG that fills its place; lines keep their width (`vector-effect` in the style)."""
    return element("svg", shapes, viewBox=f"0 0 {WIDTH} {number(box_height)}", preserveAspectRatio="none",
                   aria_hidden="true", **attributes)


def frame_edges(num_frames: int, num_samples: int, framing: Framing = EVERY_20_MS) -> np.ndarray:
    """Where frames begin and end, (T + 1,) in 0..1 of the sound: frame t from sample 320 t + 40 to 320 t + 360."""
    inside = (framing.hop * np.arange(1, num_frames) + (framing.receptive_field - framing.hop) / 2) / num_samples
    return np.concatenate([[0.0], inside, [1.0]])


def averaged(values: np.ndarray, edges: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, ...) as at most `columns` means, the first and last repeated at the ends of the sound.

    Returns x (n,) in 0..WIDTH and values (n, ...).
    """
    groups = np.array_split(np.arange(len(values)), min(len(values), columns))
    centres = [(edges[group[0]] + edges[group[-1] + 1]) / 2 for group in groups]
    means = np.array([values[group].mean(0) for group in groups])
    return np.array([0.0, *centres, 1.0]) * WIDTH, np.concatenate([means[:1], means, means[-1:]])


def waveform_shapes(waveform: np.ndarray, columns: int = COLUMNS) -> list[str]:
    """Highest and lowest sample of each column, as an area."""
    parts = np.array_split(waveform, min(columns, len(waveform)))
    high = np.array([part.max() for part in parts])
    low = np.array([part.min() for part in parts])
    scale = 0.48 * HEIGHT / max(np.abs(waveform).max(), 1e-6)
    x = (np.arange(len(parts)) + 0.5) * WIDTH / len(parts)
    middle = HEIGHT / 2
    return [element("path", "", d=band(x, middle - low * scale, middle - high * scale), class_="wave")]


def posterior_shapes(posterior: np.ndarray, edges: np.ndarray, labels: Sequence[str], columns: int = COLUMNS
                     ) -> list[str]:
    """Posterior (T, classes) as areas that add up to one, the first class lowest."""
    x, shares = averaged(np.asarray(posterior, float), edges, columns)
    tops = HEIGHT - HEIGHT * np.cumsum(shares, 1)                               # (n, classes)
    below = np.full(len(x), float(HEIGHT))
    areas, kind = [], "run" if len(labels) <= MAX_OUTLINED else None        # outlines would hide thin areas
    for index, colour in enumerate(colours(labels)):
        title = element("title", escape(labels[index]))
        areas.append(element("path", title, d=band(x, below, tops[:, index]), fill=colour, class_=kind))
        below = tops[:, index]
    return areas


def attention_shapes(attention: np.ndarray, edges: np.ndarray, columns: int = COLUMNS) -> list[str]:
    """Attention (T,) as an area, its highest point near the top; a dashed line where all frames count equally."""
    x, values = averaged(np.asarray(attention, float) * len(attention), edges, columns)     # 1: equal weights
    scale = 0.94 * HEIGHT / max(values.max(), 1.5)
    zero = np.full(len(x), float(HEIGHT))
    area = element("path", "", d=band(x, zero, HEIGHT - scale * values), class_="attention")
    equal = element("path", "", d=path([0, WIDTH], [HEIGHT - scale] * 2), class_="even")
    return [area, equal]


def emotion_colours(labels: Sequence[str], stretches: Iterable[Labelled]) -> dict[str, str | None]:
    """The colour of each class, and of each other emotion that there is: {name: "#rrggbb"}; of NONE None, the last."""
    emotions = [stretch.emotion for stretch in stretches]
    names = [name for name in dict.fromkeys([*labels, *emotions]) if name != NONE]
    return dict(zip(names, colours(names))) | ({NONE: None} if NONE in emotions else {})


def emotion_strip(stretches: Sequence[Labelled], seconds: float, colour_of: Mapping[str, str | None]) -> str:
    """A strip of emotions over a sound of so many seconds: stretches or segments, in order and without gaps.

    Those without an emotion are hatched.
    """
    names = list(colour_of)
    edges = np.array([*(stretch.start for stretch in stretches), seconds]) / seconds
    values = np.array([names.index(stretch.emotion) for stretch in stretches])
    if len(values) > MAX_RUNS:
        columns = np.linspace(0, 1, MAX_RUNS + 1)
        values = values[np.searchsorted(edges, (columns[1:] + columns[:-1]) / 2, "right") - 1]
        edges = columns
    return coloured_runs(values, edges, list(colour_of.values()), names)


def with_gaps(turns: Sequence[Labelled]) -> list[Stretch]:
    """Turns in order, of which none overlap, as stretches without gaps from the beginning: between them is `GAP`."""
    filled, now = [], 0.0
    for turn in turns:
        if turn.start > now:
            filled.append(Stretch(now, turn.start, GAP))
        filled.append(Stretch(turn.start, turn.end, turn.emotion))
        now = turn.end
    return [*filled, Stretch(now, math.inf, GAP)]


def coloured_runs(values: np.ndarray, edges: np.ndarray, fills: Sequence[str | None], names: Sequence[str]) -> str:
    """A strip of runs of equal values (T,), each in the colour of its value, the name in those with room for it.

    Nothing is drawn of a value without a colour; if it is NONE, its runs are hatched.
    """
    shapes, words = [], []
    for start, stop, value in runs(values):
        left, width = edges[start], edges[stop] - edges[start]
        if names[value] == NONE:
            place = f"left:{100 * left:.3f}%;width:{100 * width:.3f}%"
            words.append(element("span", "", class_="hatched gap", style=place))
            words.append(_word(NONE, left, width, "var(--soft)"))
        elif fills[value] is not None:
            shapes.append(rect(WIDTH * left, 0, WIDTH * width, 10, fill=fills[value], class_="run"))
            words.append(_word(names[value], left, width, ink(fills[value])))
    return stretched(shapes, 10) + "".join(words)


def unit_strip(units: np.ndarray, edges: np.ndarray, num_samples: int, position: Callable[[int], float],
               framing: Framing = EVERY_20_MS) -> str:
    """Units (T,) as an image of one pixel per frame, with the number where a run has room for it.

    position: of a unit among the others, 0..1, which gives its colour.
    """
    pixels = np.array([rgb(shade(position(unit))) for unit in units], np.uint8)[None]       # (1, T, 3)
    left = 100 * (framing.receptive_field - framing.hop) / 2 / num_samples
    width = 100 * framing.hop * len(units) / num_samples
    words = [_word(str(unit), edges[start], edges[stop] - edges[start], ink(shade(position(unit))))
             for start, stop, unit in runs(units)]
    return pixel_image(pixels, "units", class_="strip", style=f"left:{left:.3f}%;width:{width:.3f}%") + "".join(words)


def _word(name: str, left: float, width: float, colour: str) -> str:
    """A word in the middle of a run, if there is room for it on the narrowest screen or else on a wide one."""
    least = 0.008 * len(name) + 0.006 if name.isdigit() else 0.0095 * len(name) + 0.008
    if width < least:
        return ""
    kind = "word" if width > 0.03 * len(name) + 0.02 else "word wide-only"
    place = f"left:{100 * left:.2f}%;width:{100 * width:.2f}%;color:{colour}"
    return element("span", escape(name), class_=kind, style=place)


def image(values: np.ndarray, low: float | None = None, high: float | None = None, name: str = "image") -> str:
    """Numbers over time, (rows, T) with row 0 at the bottom, as an image that fills its lane; low..high: dark..light.

    Default: the 2nd to the 98th percentile.
    """
    values = np.asarray(values, float)[::-1]
    low = np.percentile(values, 2) if low is None else low
    high = np.percentile(values, 98) if high is None else high
    palette = np.array([rgb(shade(i / 63)) for i in range(64)], np.uint8)
    levels = np.clip((values - low) / max(high - low, 1e-12) * 63, 0, 63).round().astype(int)
    return pixel_image(palette[levels], name, class_="pixels")


def pixel_image(pixels: np.ndarray, name: str, **attributes: object) -> str:
    """An image element that contains its pixels, (rows, columns) grey or (rows, columns, 3), uint8."""
    tag = element("img", "", src=data_uri(png(pixels), "image/png"), alt=name, draggable="false", **attributes)
    return tag.removesuffix("</img>")


def spectrogram_image(waveform: np.ndarray) -> str:
    """The spectrogram as an image: dark is loud, high is above; a few levels of grey keep it small."""
    levels = np.round(spectrogram(waveform)[::-1] * 24)                         # 0..24
    return pixel_image(255 - (levels * (255 / 24)).astype(np.uint8), "spectrogram")


def spectrogram(waveform: np.ndarray) -> np.ndarray:
    """Level of each mel band over time, (BANDS, columns) in 0..1, lowest band first: 0 is DECIBELS below the loudest.

    Windows of 32 ms (Hann) every 8 ms, further apart in a sound too long for IMAGE_COLUMNS of them.
    """
    hop = max(128, math.ceil(len(waveform) / IMAGE_COLUMNS))
    levels = band_levels(np.pad(waveform, FFT // 2), np.arange(0, len(waveform), hop))
    return np.clip(1 + (levels - levels.max()) / DECIBELS, 0, 1)


def band_levels(waveform: np.ndarray, starts: np.ndarray, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Level of each mel band in windows of 32 ms (Hann) that begin at samples `starts`, (BANDS, columns) in dB."""
    size = FFT * rate // SAMPLE_RATE
    power = []
    for part in np.array_split(starts, -(-len(starts) // 500)):
        windows = waveform[part[:, None] + np.arange(size)] * np.hanning(size)  # (part, size)
        power.append(np.abs(np.fft.rfft(windows)) ** 2)
    power = np.concatenate(power)                                               # (columns, size / 2 + 1)

    bins = mel_bins(size, rate)                                                 # (BANDS,)
    below = np.minimum(bins.astype(int), size // 2 - 1)
    weight = bins - below
    interpolated = power[:, below] * (1 - weight) + power[:, below + 1] * weight
    return 10 * np.log10(interpolated + 1e-12).T                                # (BANDS, columns)


def mel_bins(size: int = FFT, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Where the spectrogram's rows lie among the bins of an FFT of `size` samples at `rate`, (BANDS,) float: equal
    steps in mel from 60 Hz to 8 kHz. Those that lie above all bins are the last one.
    """
    mel = np.linspace(_mel(60), _mel(SAMPLE_RATE / 2), BANDS)
    hertz = 700 * (10 ** (mel / 2595) - 1)
    return np.minimum(hertz * size / rate, size // 2)


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def legend(labels: Sequence[str]) -> str:
    """Emotions beside their colours, in HTML; NONE, which must be the last, beside hatching."""
    entries = []
    for name, colour in zip(labels, colours(labels)):
        look = {"class_": "hatched"} if name == NONE else {"style": f"background:{colour}"}
        entries.append(element("span", element("i", "", **look) + escape(name)))
    return element("p", entries, class_="legend")
