"""The time line of one sound as an SVG file: waveform, truth where it is known, segments, posterior, attention.

For papers and slides. Nothing outside the file is needed; it is readable on light and dark pages, because it brings its
own background, and stays below 60 kB however long the sound is. Left out, against the HTML page: the sound itself,
spectrogram and units.
"""
from collections.abc import Mapping, Sequence

import numpy as np

from framealign.sound.frames import SAMPLE_RATE
from framealign.corpus import frame_truth
from framealign.corpus.utterance import NONE
from framealign.emotion.diarization import Labelled
from framealign.emotion.recogniser import Result
from framealign.emotion.segments import Segment
from framealign.report import html_document, tracks
from framealign.report.svg import element, escape, ink, line, number, path, rect, text
from framealign.report.timeline import Annotation, check_lengths

WIDTH = 900
LEFT, RIGHT = 150, 884                              # of the tracks: names stand on their left
COLUMNS = 300                                       # of curves: small enough for the longest sound
MAX_SEGMENTS = 200                                  # more are not drawn one by one
MAX_SHARES = 6                                      # classes whose probabilities stand in the heading
LANE = 24                                           # height of a track of emotions
HATCHING = 6                                        # from one oblique line to the next
LETTER = 7.2                                        # width of a letter of 12 px bold, about


def picture(waveform: np.ndarray, result: Result, segments: Sequence[Segment], annotation: Annotation = Annotation()
            ) -> str:
    """The SVG file of one recognised sound, as text.

    waveform (N,) float in -1..1 at 16 kHz; result: of T frames; segments: of that result; annotation: title and truth.
    Raises ValueError where lengths do not fit.
    """
    waveform, title = np.asarray(waveform, np.float32), annotation.title
    check_lengths(waveform, result)
    labels = list(result.probabilities)
    edges = tracks.frame_edges(len(result.attention), len(waveform), result.framing)
    seconds = len(waveform) / SAMPLE_RATE

    shapes = lane("sound", "", 62, 62, tracks.waveform_shapes(waveform, COLUMNS))
    top, truth = 132.0, []
    if annotation.truth is not None:
        truth = frame_truth.throughout(annotation.truth, seconds, labels)
    colour_of = tracks.emotion_colours(labels, [*truth, *segments])
    if truth:
        shapes += emotion_lane("truth", truth, colour_of, seconds, top)
        top += 30
    shapes += emotion_lane("segments", segments, colour_of, seconds, top)
    shapes += lane("posterior", "of each class", top + 32, 76,
                   tracks.posterior_shapes(result.posterior, edges, labels, COLUMNS))
    shapes += lane("attention", "dashed: equal weights", top + 116, 48,
                   tracks.attention_shapes(result.attention, edges, COLUMNS))
    entries, bottom = legend(colour_of, top + 210)
    shapes += [*axis(seconds, top + 164), *entries]
    height = bottom + 18
    note = tracks.posterior_note(result.frames_trained, result.window_seconds)
    if note:
        shapes.append(text(16, height, note, class_="hint"))
        height += 14
    background = rect(0.5, 0.5, WIDTH - 1, height - 1, class_="back", rx=10)

    description = f"{title or 'A sound'} of {seconds:.2f} s, recognised as {verdict(result)}: " + \
        ", ".join(f"{name} {100 * share:.0f} %" for name, share in result.probabilities.items())
    style = element("style", html_document.resource("timeline_svg.css"))
    return element("svg", [element("title", escape(description)), style, background, *heading(result, title),
                           *shapes], xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {number(height)}",
                   width=WIDTH, height=height, role="img") + "\n"


def verdict(result: Result) -> str:
    """What was recognised, in words; of no emotion the reason too."""
    return f"{result.emotion}, {result.reason}" if result.reason else result.emotion


def heading(result: Result, title: str) -> list[str]:
    """The title, what was recognised, and each class's probability, of many those of the most probable."""
    named = list(result.probabilities.items())
    if len(named) > MAX_SHARES:
        named = sorted(named, key=lambda one: -one[1])[:MAX_SHARES]
    shares = " · ".join(f"{name} {100 * share:.0f} %" for name, share in named)
    if len(named) < len(result.probabilities):
        shares += f" · {len(result.probabilities) - len(named)} more"
    longest = 60
    shortened = title if len(title) <= longest else "…" + title[1 - longest:]   # the end of a path says most
    return [text(16, 28, shortened, class_="title"),
            text(16, 48, f"recognised: {verdict(result)} ({shares})", class_="plain")]


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


def emotion_lane(name: str, stretches: Sequence[Labelled], colour_of: Mapping[str, str | None], seconds: float,
                 top: float) -> list[str]:
    """A track of emotions in their colours, the name in those with room for it; of segments, what each one says."""
    shapes = lane_label(name, "", top, LANE)
    if len(stretches) > MAX_SEGMENTS:
        words = f"{len(stretches)} of them, too many to draw"
        return [*shapes, text(LEFT + 8, top + LANE / 2 + 4, words, class_="plain")]
    scale = (RIGHT - LEFT) / seconds
    for one in stretches:
        x, width = LEFT + one.start * scale, (one.end - one.start) * scale
        colour, title = colour_of[one.emotion], ""
        if isinstance(one, Segment):
            certainty = one.reason or f"confidence {one.confidence:.2f}"
            words = f"{one.emotion}, {one.start:.2f} to {one.end:.2f} s, {certainty}"
            title = element("title", escape(words))
        if one.emotion == NONE:
            shapes += hatched(x, top, width, LANE, title)
        else:
            shapes.append(rect(x, top, width, LANE, title, fill=colour, class_="run"))
        if width > LETTER * len(one.emotion) + 6:
            look = {"class_": "hint"} if one.emotion == NONE else {"class_": "word", "fill": ink(colour)}
            shapes.append(text(x + width / 2, top + LANE / 2 + 4, one.emotion, text_anchor="middle", **look))
    return shapes


def hatched(x: float, top: float, width: float, height: float, title: str = "") -> list[str]:
    """A rectangle of oblique lines, for what has no emotion; title: an element, what it says of itself."""
    lines = []
    for start in np.arange(x - height, x + width, HATCHING):                    # of the lines, rising to the right
        left, right = max(start, x), min(start + height, x + width)
        lines.append(path([left, right], [top + height - (left - start), top + height - (right - start)]))
    return [element("path", "", d="".join(lines), class_="hatching"),
            rect(x, top, width, height, title, class_="empty")]


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


def legend(colour_of: Mapping[str, str | None], y: float) -> tuple[list[str], float]:
    """Emotions beside their colours, NONE beside hatching, in as many lines as they need; where the last one stands."""
    shapes, x = [], float(LEFT)
    for name, colour in colour_of.items():
        width = 34 + LETTER * len(name)
        if x + width > RIGHT and x > LEFT:
            x, y = float(LEFT), y + 20
        swatch = hatched(x, y - 10, 11, 11) if name == NONE else [rect(x, y - 10, 11, 11, fill=colour, rx=3)]
        shapes += [*swatch, text(x + 17, y, name, class_="plain")]
        x += width
    return shapes, y
