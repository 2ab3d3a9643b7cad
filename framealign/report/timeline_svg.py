"""The time line of one sound as an SVG file: waveform, segments, posterior and attention, for papers and slides.

Nothing outside the file is needed; it is readable on light and dark pages, because it brings its own background, and
stays below 60 kB however long the sound is. Left out, against the HTML page: the sound itself, spectrogram and units.
"""
from collections.abc import Sequence

import numpy as np

from framealign.sound.frames import SAMPLE_RATE
from framealign.emotion.recogniser import Result
from framealign.emotion.segments import Segment
from framealign.report import html_document, tracks
from framealign.report.svg import colours, element, escape, ink, line, number, rect, text
from framealign.report.timeline import Annotation, check_lengths

WIDTH, HEIGHT = 900, 360
LEFT, RIGHT = 150, 884                              # of the tracks: names stand on their left
COLUMNS = 300                                       # of curves: small enough for the longest sound
MAX_SEGMENTS = 200                                  # more are not drawn one by one
LETTER = 7.2                                        # width of a letter of 12 px bold, about


def picture(waveform: np.ndarray, result: Result, segments: Sequence[Segment], title: str = "") -> str:
    """The SVG file of one recognised sound, as text.

    waveform (N,) float in -1..1 at 16 kHz; result: of T frames; segments: of that result. Raises ValueError where
    lengths do not fit.
    """
    waveform = np.asarray(waveform, np.float32)
    check_lengths(waveform, result, Annotation(title), None)
    labels = list(result.probabilities)
    edges = tracks.frame_edges(len(result.attention), len(waveform), result.framing)
    seconds = len(waveform) / SAMPLE_RATE

    shapes = [rect(0.5, 0.5, WIDTH - 1, HEIGHT - 1, class_="back", rx=10), *heading(result, title)]
    shapes += lane("sound", "", 62, 62, tracks.waveform_shapes(waveform, COLUMNS))
    shapes += segment_lane(segments, labels, seconds, 132, 24)
    shapes += lane("posterior", "of each class", 164, 76,
                   tracks.posterior_shapes(result.posterior, edges, labels, COLUMNS))
    shapes += lane("attention", "dashed: equal weights", 248, 48,
                   tracks.attention_shapes(result.attention, edges, COLUMNS))
    shapes += [*axis(seconds, 296), *legend(labels, 342)]

    description = f"{title or 'A sound'} of {seconds:.2f} s, recognised as {result.emotion}: " + \
        ", ".join(f"{name} {100 * share:.0f} %" for name, share in result.probabilities.items())
    style = element("style", html_document.resource("timeline_svg.css"))
    return element("svg", [element("title", escape(description)), style, *shapes],
                   xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", width=WIDTH, height=HEIGHT,
                   role="img") + "\n"


def heading(result: Result, title: str) -> list[str]:
    """The title, what was recognised, and each class's probability."""
    shares = " · ".join(f"{name} {100 * share:.0f} %" for name, share in result.probabilities.items())
    longest = 60
    shortened = title if len(title) <= longest else "…" + title[1 - longest:]   # the end of a path says most
    return [text(16, 28, shortened, class_="title"),
            text(16, 48, f"recognised: {result.emotion} ({shares})", class_="plain")]


def lane(name: str, hint: str, top: float, height: float, shapes: Sequence[str]) -> list[str]:
    """A track: its name and a hint, its background, and shapes drawn in the box of `tracks`, stretched into it."""
    return [*lane_label(name, hint, top, height),
            tracks.stretched(shapes, x=LEFT, y=top, width=RIGHT - LEFT, height=height)]


def lane_label(name: str, hint: str, top: float, height: float) -> list[str]:
    """The name of a track in the middle of its height, a hint below it, and the track's background."""
    middle = top + height / 2
    words = [text(16, middle - 2 if hint else middle + 4, name, class_="name")]
    if hint:
        words.append(text(16, middle + 13, hint, class_="hint"))
    return [*words, rect(LEFT, top, RIGHT - LEFT, height, class_="lane", rx=3)]


def segment_lane(segments: Sequence[Segment], labels: Sequence[str], seconds: float, top: float, height: float
                 ) -> list[str]:
    """Segments in the colours of their classes, the name in those with room for it."""
    colour_of = dict(zip(labels, colours(labels)))
    shapes = lane_label("emotion", "", top, height)
    if len(segments) > MAX_SEGMENTS:
        return [*shapes, text(LEFT + 8, top + height / 2 + 4, f"{len(segments)} segments", class_="plain")]
    scale = (RIGHT - LEFT) / seconds
    for segment in segments:
        x, width = LEFT + segment.start * scale, (segment.end - segment.start) * scale
        colour = colour_of[segment.emotion]
        words = f"{segment.emotion}, {segment.start:.2f} to {segment.end:.2f} s, confidence {segment.confidence:.2f}"
        shapes.append(rect(x, top, width, height, element("title", escape(words)), fill=colour, class_="run"))
        if width > LETTER * len(segment.emotion) + 6:
            shapes.append(text(x + width / 2, top + height / 2 + 4, segment.emotion, text_anchor="middle",
                               class_="word", fill=ink(colour)))
    return shapes


def axis(seconds: float, top: float) -> list[str]:
    """Seconds below the tracks."""
    shapes = []
    for mark in tracks.second_marks(seconds):
        x = LEFT + (RIGHT - LEFT) * mark / seconds
        name = number(mark, 3)
        shapes += [line(x, top, x, top + 5, class_="tick"),
                   text(x, top + 18, f"{name} s" if mark == 0 else name, class_="hint",
                        text_anchor="start" if mark == 0 else "middle")]
    return shapes


def legend(labels: Sequence[str], y: float) -> list[str]:
    """Classes beside their colours, as many as there is room for."""
    shapes, x = [], float(LEFT)
    for name, colour in zip(labels, colours(labels)):
        width = 34 + LETTER * len(name)
        if x + width > RIGHT:
            break
        shapes += [rect(x, y - 10, 11, 11, fill=colour, rx=3), text(x + 17, y, name, class_="plain")]
        x += width
    return shapes
