"""The charts of a report as SVG and plain HTML: curves, intervals, confusion, bars, histogram, heat map, scatter.

Each takes numbers and gives markup for `html_document.card`. Whatever colour shows is also shown by a word, a number, a
dash or a shape.
"""
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from framealign.report.svg import (colours, element, escape, ink, line, linear, number, path, rect, shade, short, text,
                                   ticks)

WIDTH, HEIGHT = 380, 210                            # of a chart with axes, in its own units
ESTIMATES_HEIGHT = 280
LEFT, RIGHT, TOP, BOTTOM = 54, 18, 12, 34           # margins
DODGE = 7                                           # between lines of estimates at one place
DASHES = ("", "dashed", "dotted", "dashed", "dotted")       # of curves of kind 0..4
BLOCK_COLUMNS = 13                                  # columns of a heat map that fit on a phone
STACKED = (1, 0, 3)                                 # the series whose colours parts of a bar have, first to last
MANY = 6                                            # more classes are drawn more closely
MARKERS = ("circle", "square", "triangle", "diamond", "cross", "bar")


@dataclass(frozen=True)
class Curve:
    """One line of a chart: its name and points; `kind` 0..4 gives colour and dash."""
    name: str
    x: Sequence[float]
    y: Sequence[float]
    kind: int = 0


@dataclass(frozen=True)
class Estimates:
    """One line of `estimates`: its name and, at some x, shares with their intervals and what is said of each.

    `kind` 0..4 gives colour, dash and marker.
    """
    name: str
    x: Sequence[float]
    shares: Sequence[float]
    intervals: Sequence[tuple[float, float] | None]
    words: Sequence[str]
    kind: int = 0


@dataclass(frozen=True)
class Axes:
    """What the axes of `curves` are: their names, values that must be inside, reference lines."""
    x: str = "update"
    y: str = ""
    references: Sequence[tuple[float, str]] = field(default_factory=tuple)      # value, label: dashed lines across
    low: float | None = None
    high: float | None = None
    percent: bool = False
    logarithmic: bool = False
    vertical: tuple[float, str] | None = None       # a dashed vertical line at some x, and its label


@dataclass(frozen=True)
class Group:
    """One group of points of a `scatter`."""
    name: str
    colour: str
    marker: str = "circle"                          # one of MARKERS


def curves(lines: Sequence[Curve], axes: Axes = Axes()) -> str:
    """Lines over one x axis with a legend below; points that are None or not finite are left out."""
    lines = [_finite(one) for one in lines]
    lines = [one for one in lines if len(one.x)]
    if not lines:
        return element("p", "nothing was logged", class_="note")
    values = [y for one in lines for y in one.y] + [value for value, _ in axes.references]
    values += [value for value in (axes.low, axes.high) if value is not None]
    low, high = min(values), max(values)
    if axes.logarithmic and low > 0 and high > 20 * low:
        return _draw_curves(lines, axes, math.log10(low), math.log10(high), math.log10)
    margin = 0.04 * (high - low) or abs(high) * 0.1 or 1.0
    low = low if low == axes.low else low - margin
    high = high if high == axes.high else high + margin
    return _draw_curves(lines, axes, low, high, _identity)


def _finite(curve: Curve) -> Curve:
    points = [(x, y) for x, y in zip(curve.x, curve.y) if y is not None and math.isfinite(y)]
    return Curve(curve.name, [x for x, _ in points], [y for _, y in points], curve.kind)


def _draw_curves(lines: Sequence[Curve], axes: Axes, low: float, high: float, scale: Callable[[float], float]) -> str:
    """The chart itself; low and high are in the units of `scale`."""
    x_low, x_high = min(min(one.x) for one in lines), max(max(one.x) for one in lines)
    to_x = linear(x_low, x_high, LEFT, WIDTH - RIGHT)
    to_height = linear(low, high, HEIGHT - BOTTOM, TOP)

    def to_y(value: float) -> float:
        return to_height(scale(value))

    shapes = []
    marks = ticks(low, high) if scale is _identity else _decades(low, high)
    for value in marks:
        if low <= scale(value) <= high:
            name = f"{number(100 * value, 1)} %" if axes.percent else short(float(f"{value:.3g}"))
            shapes += [line(LEFT, to_y(value), WIDTH - RIGHT, to_y(value), class_="gridline"),
                       text(LEFT - 6, to_y(value) + 4, name, text_anchor="end")]
    shapes += _x_axis(ticks(x_low, x_high, 5), to_x, axes.x)

    for value, label in axes.references:
        y = to_y(value)
        shapes += [line(LEFT, y, WIDTH - RIGHT, y, class_="reference"),
                   text(WIDTH - RIGHT - 2, y - 4 if y > TOP + 16 else y + 13, label, text_anchor="end")]
    if axes.vertical is not None:
        position, label = axes.vertical
        if x_low <= position <= x_high:
            x = to_x(position)
            on_the_left = x > (LEFT + WIDTH - RIGHT) / 2    # of the line, where there is room for its label
            middle = (TOP + HEIGHT - BOTTOM) / 2    # curves that are good or bad are above or below
            shapes += [line(x, TOP, x, HEIGHT - BOTTOM, class_="reference"),
                       text(x - 4 if on_the_left else x + 4, middle, label,
                            text_anchor="end" if on_the_left else "start")]

    for one in lines:
        points = path([to_x(x) for x in one.x], [to_y(y) for y in one.y])
        if len(one.x) == 1:
            points += "h.01"                        # a dot, by its round ends
        shapes.append(element("path", "", d=points, class_=f"curve s{one.kind} {DASHES[one.kind]}".strip()))
    return _svg(shapes, WIDTH, HEIGHT, axes.y or "curves") + line_legend(lines)


def estimates(lines: Sequence[Estimates], axes: Axes, marks: Mapping[float, str]) -> list[str]:
    """Lines of shares, in per cent, with a bar for each interval: shapes of a picture WIDTH by ESTIMATES_HEIGHT.

    marks: the x and what stands below each. Lines stand a little beside each other, so that no bar hides one behind
    it; whoever puts them into a picture tells what they are by `estimates_legend`.
    """
    ends = [end for one in lines for share, interval in zip(one.shares, one.intervals) for end in interval or [share]]
    margin = 0.04 * (max(ends) - min(ends)) or 0.05
    low, high = max(0.0, min(ends) - margin), min(1.0, max(ends) + margin)
    aside = DODGE * (len(lines) - 1) / 2
    bottom = ESTIMATES_HEIGHT - BOTTOM
    to_x = linear(min(marks), max(marks), LEFT + 16 + aside, WIDTH - RIGHT - 16 - aside)
    to_y = linear(low, high, bottom, TOP + 18)

    shapes = []
    for value in ticks(low, high, 5):
        shapes += [line(LEFT, to_y(value), WIDTH - RIGHT, to_y(value), class_="gridline"),
                   text(LEFT - 6, to_y(value) + 4, f"{number(100 * value, 1)} %", text_anchor="end")]
    shapes += [text(to_x(x), bottom + 16, name, text_anchor="middle") for x, name in marks.items()]
    shapes.append(text((LEFT + WIDTH - RIGHT) / 2, ESTIMATES_HEIGHT - 3, axes.x, text_anchor="middle"))
    shapes += [text(LEFT, TOP + 2, axes.y, class_="strong")] if axes.y else []
    for i, one in enumerate(lines):
        xs = [to_x(x) + DODGE * i - aside for x in one.x]
        ys = [to_y(share) for share in one.shares]
        shapes.append(element("path", "", d=path(xs, ys), class_=f"curve s{one.kind} {DASHES[one.kind]}".strip()))
        for x, y, interval, words in zip(xs, ys, one.intervals, one.words):
            bar = [line(x, to_y(interval[0]), x, to_y(interval[1]), class_=f"s{one.kind}", stroke_width=1.6)
                   ] if interval else []
            shapes.append(element("g", [element("title", escape(words)), *bar, _marker(one.kind, x, y)]))
    return shapes


def _marker(kind: int, x: float, y: float) -> str:
    """The marker of a line of a kind at a point."""
    return element("path", "", d=marker_path(MARKERS[kind], x, y, 4), style=f"fill:var(--series{kind})")


def estimates_legend(names: Mapping[str, int], top: float, width: float) -> tuple[list[str], float]:
    """The names of lines of `estimates`, by their kinds, each beside a piece of its line, and where they end.

    They stand below `top`, in as many rows as a picture of that width needs.
    """
    shapes, x, y = [], float(LEFT), top + 14
    for name, kind in names.items():
        size = 50 + 7.5 * len(name)
        if x + size > width and x > LEFT:
            x, y = float(LEFT), y + 20
        shapes += [line(x, y, x + 26, y, class_=f"curve s{kind} {DASHES[kind]}".strip()),
                   _marker(kind, x + 13, y), text(x + 32, y + 4, name)]
        x += size
    return shapes, y + 16


def _identity(value: float) -> float:
    return value


def _decades(low: float, high: float) -> list[float]:
    """Marks of a logarithmic axis from 10^low to 10^high: 1, 10, 100 or, within few decades, 1, 3, 10."""
    steps = (1, 3) if high < low + 3 else (1,)
    return [step * 10.0 ** power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]


def _x_axis(marks: Sequence[float], to_x: Callable[[float], float], name: str) -> list[str]:
    """Whole numbers below the chart, and what they count."""
    shapes = [text(to_x(mark), HEIGHT - BOTTOM + 16, short(mark), text_anchor="middle")
              for mark in marks if float(mark).is_integer()]
    return [*shapes, text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3, name, text_anchor="middle")]


def line_legend(lines: Sequence[Curve]) -> str:
    """The names of lines, each beside a piece of its line."""
    if not any(one.name for one in lines):
        return ""
    entries = []
    for one in lines:
        sample = line(0, 5, 22, 5, class_=f"curve s{one.kind} {DASHES[one.kind]}")
        picture = element("svg", sample, viewBox="0 0 22 10", aria_hidden="true")
        entries.append(element("span", picture + escape(one.name)))
    return element("p", entries, class_="legend")


def _svg(shapes: Sequence[str], width: float, height: float, label: str, kind: str | None = None) -> str:
    return element("svg", shapes, viewBox=f"0 0 {number(width)} {number(height)}", role="img", aria_label=label,
                   class_=kind)


def headline(rows: Sequence[tuple[str, float, Sequence[float] | None, str]]) -> str:
    """Large numbers, each (name, share, 95 % interval or None, note), with the interval drawn on 0 to 100 %."""
    return element("div", [_headline_card(*row) for row in rows], class_="headline")


def _headline_card(name: str, share: float, interval: Sequence[float] | None, note: str) -> str:
    to_x = linear(0, 1, 6, 214)
    shapes = [line(6, 12, 214, 12, class_="gridline", stroke_width=2)]
    for mark, anchor in ((0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1, "end")):
        shapes += [line(to_x(mark), 8, to_x(mark), 16, class_="gridline"),
                   text(to_x(mark), 28, f"{100 * mark:.0f}", text_anchor=anchor)]
    ends = ""
    if interval is not None:
        low, high = interval
        ends = f"95 %: {100 * low:.1f} to {100 * high:.1f}"
        shapes.append(line(to_x(low), 12, to_x(high), 12, class_="s0", stroke_width=6, stroke_linecap="round",
                           stroke_opacity=0.45))
    shapes.append(element("circle", "", cx=to_x(share), cy=12, r=5.5, class_="bar"))
    return element("div", [
        element("div", escape(name), class_="name"),
        element("div", f"{100 * share:.1f} <small>%</small>", class_="value"),
        element("p", escape(ends), class_="note") if ends else "",
        _svg(shapes, 220, 32, f"{name} {100 * share:.1f} %, {ends}", "small"),
        element("p", escape(note), class_="note")], class_="card")


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """A table: rows the true class, columns the predicted one; share of the row, and how many.

    Of many classes cells have the share alone, in per cent, nothing where it is zero, and how many as a title; names of
    columns are upright.
    """
    is_close = len(classes) > MANY
    names = [element("th", element("span", escape(name)), scope="col") for name in classes]
    header = element("tr", [element("th", ""), *names])
    rows = []
    for name, counts in zip(classes, matrix):
        total = sum(counts)
        cells = [element("th", escape(name), scope="row")]
        for count, predicted in zip(counts, classes):
            share = count / total if total else 0.0
            if is_close:
                words = f"{100 * share:.0f}" if count else ""
                cells.append(cell(share, words, title=f"{name} as {predicted}: {count} of {total}"))
            else:
                cells.append(cell(share, f"{100 * share:.0f} %" if total else "none", str(count)))
        rows.append(element("tr", cells))
    table = element("table", element("thead", header) + element("tbody", rows),
                    class_="confusion close" if is_close else "confusion")
    if not is_close:
        return element("p", "columns: predicted · rows: truth", class_="axes") + table
    return (element("p", "columns: predicted · rows: truth · cells: per cent of the row", class_="axes")
            + element("div", table, class_="scroll", tabindex="0"))


def cell(share: float, words: str, small: str = "", title: str | None = None) -> str:
    """A table cell as dark as `share` (0..1) is large."""
    alpha = 0.06 + 0.74 * min(max(share, 0.0), 1.0)
    letters = ";color:#fff" if alpha > 0.62 else ""
    return element("td", escape(words) + (element("small", escape(small)) if small else ""), title=title,
                   style=f"background:rgba(var(--share),{alpha:.2f}){letters}")


def recalls(classes: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None], Sequence[int]]]) -> str:
    """Recall of each class, a bar in its colour for every row (name, recalls, utterances); a group for each class.

    A single row of many classes stands beside their names.
    """
    is_close = len(classes) > MANY and len(rows) == 1
    bar_height, group_height = 19, 22 if is_close else 30 + 19 * len(rows)
    height = group_height * len(classes) + (12 if is_close else 0)
    to_x = linear(0, 1, 14 + 8.6 * max(map(len, classes)) if is_close else 96, WIDTH - 20)
    shapes = []
    for mark in (0, 0.5, 1):
        shapes += [line(to_x(mark), 0, to_x(mark), height - 12, class_="gridline"),
                   text(to_x(mark), height + 8, f"{100 * mark:.0f} %", text_anchor="middle")]
    for index, (name, colour) in enumerate(zip(classes, colours(classes))):
        y = 4.0 + group_height * index
        shapes.append(text(4, y + 12, name, class_="strong"))
        y += 0 if is_close else 18
        for row, shares, counts in rows:
            if not is_close:
                shapes.append(text(90, y + 12, row, text_anchor="end"))
            shapes += _recall_bar(shares[index], counts[index], to_x, y, bar_height, colour)
            y += bar_height
    return _svg(shapes, WIDTH, height + 13, "recall of each class")


def _recall_bar(share: float | None, count: int, to_x: Callable[[float], float], y: float, height: float, colour: str
                ) -> list[str]:
    """A bar as long as the share, with its number on it where there is room, else beside it."""
    if share is None:
        return [text(to_x(0) + 4, y + 12, "no utterances")]
    words = f"{100 * share:.0f} % of {count}"
    bar = rect(to_x(0), y + 1, max(to_x(share) - to_x(0), 1), height - 2, fill=colour, rx=3)
    if share > 0.6:
        return [bar, text(to_x(share) - 6, y + 13, words, text_anchor="end", style=f"fill:{ink(colour)}")]
    return [bar, text(to_x(share) + 6, y + 13, words, text_anchor="start")]


def stacked(rows: Sequence[tuple[str, Sequence[float]]], parts: Sequence[str], reference: tuple[float, str]) -> str:
    """A bar for each row (name, shares), as long as their sum, made of its parts; a dashed line at a reference.

    parts: names of the shares, at most 3, for the legend below; reference: where the line is, and its label.
    """
    row_height, bar_height = 46.0, 20.0
    height = row_height * len(rows)
    longest = max([reference[0], *(sum(shares) for _, shares in rows)])
    to_x = linear(0, longest or 1, 4, WIDTH - 66)
    shapes = []
    for number_of_row, (name, shares) in enumerate(rows):
        top, left = 20 + row_height * number_of_row, 0.0
        shapes.append(text(4, top - 6, name, class_="strong"))
        for part, share, kind in zip(parts, shares, STACKED):
            title = element("title", escape(f"{name}: {part} {100 * share:.1f} %"))
            shapes.append(rect(to_x(left), top, to_x(left + share) - to_x(left), bar_height, title,
                               style=f"fill:var(--series{kind})"))
            left += share
        shapes.append(text(to_x(left) + 6, top + 15, f"{100 * left:.1f} %", class_="strong"))
    x = to_x(reference[0])
    shapes += [line(x, 2, x, height, class_="reference"),
               text(x + 4, height + 12, reference[1], text_anchor="end" if x > WIDTH / 2 else "start")]
    samples = [element("span", element("i", "", style=f"background:var(--series{kind})") + escape(part))
               for part, kind in zip(parts, STACKED)]
    return _svg(shapes, WIDTH, height + 18, ", ".join(parts)) + element("p", samples, class_="legend")


def reliability(groups: Sequence[tuple[str, Sequence[tuple[int, float, float]]]]) -> str:
    """A reliability diagram: of each group (name, bins), a circle for each bin (utterances, confidence, share right).

    The area of a circle grows with the bin's share of the utterances. Where confidence is what it says, circles lie on
    the dashed diagonal; below it, answers are surer than right. The last group is filled, those before are rings.
    """
    height = 300
    to_x, to_y = linear(0, 1, LEFT, WIDTH - RIGHT), linear(0, 1, height - BOTTOM, TOP)
    shapes = []
    for mark in (0, 0.25, 0.5, 0.75, 1):
        shapes += [line(LEFT, to_y(mark), WIDTH - RIGHT, to_y(mark), class_="gridline"),
                   text(LEFT - 6, to_y(mark) + 4, f"{100 * mark:.0f} %", text_anchor="end"),
                   text(to_x(mark), height - BOTTOM + 16, f"{100 * mark:.0f}", text_anchor="middle")]
    shapes += [line(to_x(0), to_y(0), to_x(1), to_y(1), class_="reference"),
               text((LEFT + WIDTH - RIGHT) / 2, height - 3, "confidence, %; up: share right", text_anchor="middle")]
    samples = []
    for kind, (name, bins) in enumerate(groups):
        is_last = kind == len(groups) - 1
        style = {"class_": "bar", "fill_opacity": 0.7} if is_last else {"class_": "s1", "fill": "none",
                                                                        "stroke_width": 1.6}
        total = sum(number_of for number_of, _, _ in bins)
        for number_of, confidence, right in bins:
            title = element("title", escape(f"{name}: {number_of} utterances, confidence {100 * confidence:.1f} %, "
                                            f"right {100 * right:.1f} %"))
            shapes.append(element("circle", title, cx=to_x(confidence), cy=to_y(right),
                                  r=max(2.0, 18 * math.sqrt(number_of / total)), **style))
        sample = element("circle", "", cx=6, cy=6, r=4, **style)
        samples.append(element("span", element("svg", sample, viewBox="0 0 12 12", class_="mark") + escape(name)))
    return _svg(shapes, WIDTH, height, "share right by confidence") + element("p", samples, class_="legend")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table; the first column names the row."""
    top = element("tr", [element("th", escape(name), scope="col") for name in header])
    body = []
    for name, *values in rows:
        first = element("th", escape(name), scope="row", style="text-align:left")
        body.append(element("tr", [first, *(element("td", escape(value)) for value in values)]))
    return element("div", element("table", element("thead", top) + element("tbody", body), class_="plain"),
                   class_="scroll", tabindex="0")


def histogram(shares: Sequence[float], x: str, first: int = 0, mean_label: str = "") -> str:
    """Shares as bars, numbered from `first`; x: what they are shares of; mean_label: of a line at the mean share."""
    shares = np.asarray(shares, float)
    to_x = linear(0, len(shares), LEFT, WIDTH - RIGHT)
    to_y = linear(0, max(shares.max(), 1e-9) * 1.06, HEIGHT - BOTTOM, TOP)
    width = (WIDTH - LEFT - RIGHT) / len(shares)
    shapes = []
    for share in ticks(0, shares.max()):
        shapes += [line(LEFT, to_y(share), WIDTH - RIGHT, to_y(share), class_="gridline"),
                   text(LEFT - 6, to_y(share) + 4, f"{number(100 * share, 1)} %", text_anchor="end")]
    for i, share in enumerate(shares):
        if share > 0:
            shapes.append(rect(to_x(i), to_y(share), max(width * 0.86, 0.5), to_y(0) - to_y(share), class_="bar"))
    if mean_label:
        y = to_y(shares.mean())
        shapes += [line(LEFT, y, WIDTH - RIGHT, y, class_="reference"),
                   text(WIDTH - RIGHT - 2, y - 4, mean_label, text_anchor="end")]

    def bar_middle(mark: float) -> float:
        return to_x(mark - first + 0.5)

    shapes += _x_axis(ticks(first, first + len(shares) - 1, 6), bar_middle, x)
    return _svg(shapes, WIDTH, HEIGHT, x)


def heat_map(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], limit: float = 2.0) -> str:
    """A map of logarithms to base 2, values[:, i] of the unit columns[i], strongest at +-limit.

    Above 0 in the colour `--more`, below in `--less`; a sign stands in what is strong. Columns that do not fit beside
    each other go below, in blocks.
    """
    blocks = []
    for start in range(0, len(columns), BLOCK_COLUMNS):
        part = slice(start, start + BLOCK_COLUMNS)
        blocks.append(_heat_block(values[:, part], rows, columns[part], limit))
    return element("div", blocks, class_="blocks")


def _heat_block(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], limit: float) -> str:
    """Some columns of the map; every block is as wide as a full one."""
    left, top, size = max(60.0, 12 + 8.0 * max(map(len, rows))), 18.0, 25.0
    shapes = []
    for i, column in enumerate(columns):
        shapes.append(text(left + (i + 0.5) * size, top - 5, column, text_anchor="middle"))
    for r, row in enumerate(rows):
        shapes.append(text(left - 7, top + (r + 0.5) * size + 4, row, text_anchor="end"))
        for i, column in enumerate(columns):
            value = float(values[r, i])
            strength = min(abs(value) / limit, 1.0)
            colour = "--more" if value > 0 else "--less"
            x, y = left + i * size + 1, top + r * size + 1
            title = element("title", escape(f"unit {column}, {row}: {2 ** value:.2f} times its share"))
            shapes += [rect(x, y, size - 2, size - 2, class_="frame", rx=3),
                       rect(x, y, size - 2, size - 2, title, style=f"fill:rgba(var({colour}),{strength:.2f})", rx=3)]
            if strength >= 0.5:
                shapes.append(text(x + size / 2 - 1, y + size / 2 + 3, "+" if value > 0 else "−",
                                   text_anchor="middle", class_="strong"))
    return _svg(shapes, left + BLOCK_COLUMNS * size + 2, top + len(rows) * size + 4, "emotion by unit", "heat")


def marker_path(kind: str, x: float, y: float, size: float) -> str:
    """The `d` of a small shape around a point; kind: one of MARKERS."""
    def begin(dx: float, dy: float) -> str:
        return f"M{number(x + dx, 1)} {number(y + dy, 1)}"

    a, b, tall, flat = number(size), number(2 * size), number(1.3 * size), number(2 * size / 3)
    bar = f"{begin(-size, -size / 3)}h{b}v{flat}h-{b}z"
    return {"circle": f"{begin(-size, 0)}a{a} {a} 0 1 0 {b} 0a{a} {a} 0 1 0-{b} 0",
            "square": f"{begin(-size, -size)}h{b}v{b}h-{b}z",
            "triangle": f"{begin(-size, size)}h{b}l-{a}-{b}z",
            "diamond": f"{begin(0, -1.3 * size)}l{a} {tall}-{a} {tall}-{a}-{tall}z",
            "cross": f"{bar}{begin(-size / 3, -size)}h{flat}v{b}h-{flat}z",
            "bar": bar}[kind]


def scatter(points: np.ndarray, number_of: np.ndarray, groups: Sequence[Group], axes: tuple[str, str] = ("", ""),
            legend: bool = True, smallest: int = 1) -> str:
    """Points (S, 2), each in the group number_of[s]; each group's name stands at the middle of its points.

    axes: names of x and y. legend: with all names below and, unless they are many, in the picture, moved where they
    would cover each other. smallest: groups with fewer points get no name in the picture.
    """
    size = 340
    low, high = np.percentile(points, [0.5, 99.5], 0)
    position = np.clip((points - low) / np.maximum(high - low, 1e-9), -0.03, 1.03)      # (S, 2) in 0..1
    x = 14 + (size - 28) * position[:, 0]
    y = size - (14 + (size - 28) * position[:, 1])

    shapes, names = [rect(0, 0, size, size, class_="frame", rx=8)], []
    for index, group in enumerate(groups):
        own = np.flatnonzero(number_of == index)
        if not len(own):
            continue
        outline = "".join(marker_path(group.marker, x[s], y[s], 2.3) for s in own)
        title = element("title", escape(group.name))
        shapes.append(element("path", title, d=outline, fill=group.colour, fill_opacity="0.72"))
        if len(own) >= smallest:
            names.append((len(own), group.name, np.median(x[own]), np.median(y[own])))
    for name, at_x, at_y in without_overlap(names, legend and len(groups) <= MANY):
        shapes.append(text(at_x, at_y + 4, name, text_anchor="middle", class_="halo"))
    shapes += [text(size / 2, size + 14, axes[0], text_anchor="middle"),
               text(-size / 2, -6, axes[1], text_anchor="middle", transform="rotate(-90)")]
    picture = element("svg", shapes, viewBox=f"-18 0 {size + 22} {size + 18}", role="img", class_="map",
                      aria_label="map")
    return picture + (marker_legend(groups) if legend else "")


def marker_legend(groups: Sequence[Group]) -> str:
    """The names of groups, each beside its marker."""
    entries = []
    for group in groups:
        sample = element("path", "", d=marker_path(group.marker, 6, 6, 4), fill=group.colour)
        entries.append(element("span", element("svg", sample, viewBox="0 0 12 12", class_="mark")
                               + escape(group.name)))
    return element("p", entries, class_="legend")


def without_overlap(names: Sequence[tuple[int, str, float, float]], all_of_them: bool
                    ) -> list[tuple[str, float, float]]:
    """Names (points, name, x, y) at places where they do not cover each other, the largest group's first.

    One that would cover another moves up or down if all must be shown, and is left out otherwise.
    """
    placed: list[tuple[str, float, float]] = []

    def is_free(name: str, x: float, y: float) -> bool:
        return all(abs(x - other_x) >= 4 * (len(name) + len(other)) or abs(y - other_y) >= 13
                   for other, other_x, other_y in placed)

    for _, name, x, y in sorted(names, key=lambda one: (-one[0], one[1])):
        steps = (0, 1, -1, 2, -2, 3, -3) if all_of_them else (0,)
        heights = [y + 14 * step for step in steps if is_free(name, x, y + 14 * step)]
        if heights or all_of_them:
            placed.append((name, float(x), float(heights[0] if heights else y)))
    return placed


def colour_scale(ends: tuple[str, str]) -> str:
    """The colours of `svg.shade` from first to last between the names of their ends."""
    strip = [rect(i * 10, 0, 10.5, 10, fill=shade(i / 11)) for i in range(12)]
    picture = element("svg", strip, viewBox="0 0 120 10", aria_hidden="true", style="width:120px;margin:0 8px")
    return element("p", element("span", f"{escape(ends[0])}{picture}{escape(ends[1])}"), class_="legend")
