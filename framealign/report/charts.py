"""The charts of a report as SVG and plain HTML: curves, intervals, confusion, recall, histogram, heat map, map.

Each takes numbers and gives markup for `document.card`. What colour says, a word, a number, a dash or a shape says too.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from framealign.report.svg import (colours, element, escape, ink, line, linear, number, path, rect, shade, short, text,
                                   ticks)

WIDTH, HEIGHT = 380, 210                            # of a chart with axes, in its own units
LEFT, RIGHT, TOP, BOTTOM = 54, 18, 12, 34
DASHES = ("", "dashed", "dotted", "dashed")
PER_BLOCK = 13                                      # columns of a heat map that a phone has room for
MARKS = ("circle", "square", "triangle", "diamond", "cross", "bar")


@dataclass(frozen=True)
class Curve:
    """One line of a chart: its name and points; `kind` 0..3 gives colour and dash."""
    name: str
    x: Sequence[float]
    y: Sequence[float]
    kind: int = 0


@dataclass(frozen=True)
class Axes:
    """What the axes of `curves` say. references: (value, words), dashed lines across; low, high: shown at least."""
    x: str = "update"
    y: str = ""
    references: Sequence[tuple[float, str]] = field(default_factory=tuple)
    low: float | None = None
    high: float | None = None
    percent: bool = False
    logarithmic: bool = False
    upright: tuple[float, str] | None = None        # a dashed line upwards at some x, and its words


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
        return _drawn(lines, axes, math.log10(low), math.log10(high), math.log10)
    margin = 0.04 * (high - low) or abs(high) * 0.1 or 1.0
    return _drawn(lines, axes, low if low == axes.low else low - margin, high if high == axes.high else high + margin)


def _finite(curve: Curve) -> Curve:
    kept = [(x, y) for x, y in zip(curve.x, curve.y) if y is not None and math.isfinite(y)]
    return Curve(curve.name, [x for x, _ in kept], [y for _, y in kept], curve.kind)


def _drawn(lines: Sequence[Curve], axes: Axes, low: float, high: float, scale=None) -> str:
    """The chart itself; low and high are in the units of `scale` (None: of the values themselves)."""
    scale = scale or _itself
    x_low, x_high = min(min(one.x) for one in lines), max(max(one.x) for one in lines)
    across, up = linear(x_low, x_high, LEFT, WIDTH - RIGHT), linear(low, high, HEIGHT - BOTTOM, TOP)
    shapes = []
    marks = ticks(low, high)
    if scale is not _itself:                        # of a logarithmic axis: 1, 10, 100 or, within few decades, 1, 3, 10
        marks = [m * 10.0 ** k for k in range(math.floor(low), math.ceil(high) + 1)
                 for m in ((1, 3) if high < low + 3 else (1,))]
    for mark in (mark for mark in marks if low <= scale(mark) <= high):
        y = up(scale(mark))
        name = f"{number(100 * mark, 1)} %" if axes.percent else short(float(f"{mark:.3g}"))
        shapes += [line(LEFT, y, WIDTH - RIGHT, y, class_="gridline"),
                   text(LEFT - 6, y + 4, name, text_anchor="end")]
    for mark in ticks(x_low, x_high, 5):
        if float(mark).is_integer():
            shapes.append(text(across(mark), HEIGHT - BOTTOM + 16, short(mark), text_anchor="middle"))
    shapes.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3, axes.x, text_anchor="middle"))
    for value, words in axes.references:
        y = up(scale(value))
        shapes += [line(LEFT, y, WIDTH - RIGHT, y, class_="reference"),
                   text(WIDTH - RIGHT - 2, y - 4 if y > TOP + 16 else y + 13, words, text_anchor="end")]
    if axes.upright is not None and x_low <= axes.upright[0] <= x_high:
        x = across(axes.upright[0])
        end = x > (LEFT + WIDTH - RIGHT) / 2
        shapes += [line(x, TOP, x, HEIGHT - BOTTOM, class_="reference"),
                   text(x - 4 if end else x + 4, TOP + 9, axes.upright[1], text_anchor="end" if end else "start")]
    for one in lines:
        points = path([across(x) for x in one.x], [up(scale(y)) for y in one.y])
        if len(one.x) == 1:
            points += "h.01"                        # a dot, by its round ends
        shapes.append(element("path", "", d=points, class_=f"curve s{one.kind} {DASHES[one.kind]}".strip()))
    return _svg(shapes, WIDTH, HEIGHT, axes.y or "curves") + legend_of_lines(lines)


def _itself(y: float) -> float:
    return y


def legend_of_lines(lines: Sequence[Curve]) -> str:
    """Names beside a piece of each line, with the last value."""
    words = [element("span", element("svg", line(0, 5, 22, 5, class_=f"curve s{one.kind} {DASHES[one.kind]}"),
                                     viewBox="0 0 22 10", aria_hidden="true") + escape(one.name)) for one in lines]
    return element("p", "".join(words), class_="legend") if any(one.name for one in lines) else ""


def _svg(shapes: Sequence[str], width: float, height: float, label: str, kind: str | None = None) -> str:
    return element("svg", "".join(shapes), viewBox=f"0 0 {number(width)} {number(height)}", role="img",
                   aria_label=label, class_=kind)


def headline(rows: Sequence[tuple[str, float, Sequence[float] | None, str]]) -> str:
    """Large numbers, each (name, share, 95 % interval or None, words), with the interval drawn on 0 to 100 %."""
    cards = []
    for name, share, interval, words in rows:
        across = linear(0, 1, 6, 214)
        shapes = [line(6, 12, 214, 12, class_="gridline", stroke_width=2)]
        for mark in (0, 0.25, 0.5, 0.75, 1):
            shapes += [line(across(mark), 8, across(mark), 16, class_="gridline"),
                       text(across(mark), 28, f"{100 * mark:.0f}",
                            text_anchor="start" if mark == 0 else "end" if mark == 1 else "middle")]
        if interval is not None:
            shapes.append(line(across(interval[0]), 12, across(interval[1]), 12, class_="s0", stroke_width=6,
                               stroke_linecap="round", stroke_opacity=0.45))
        shapes.append(element("circle", "", cx=across(share), cy=12, r=5.5, class_="bar"))
        said = f"95 %: {100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval is not None else ""
        cards.append(element("div", [
            element("div", escape(name), class_="name"),
            element("div", f"{100 * share:.1f} <small>%</small>", class_="value"),
            element("p", escape(said), class_="note") if said else "",
            _svg(shapes, 220, 32, f"{name} {100 * share:.1f} %, {said}", "small"),
            element("p", escape(words), class_="note")], class_="card"))
    return element("div", "".join(cards), class_="headline")


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """A table: rows the truth, columns what was recognised; share of the row, and how many."""
    head = element("tr", element("th", "") + "".join(element("th", escape(name), scope="col") for name in classes))
    rows = []
    for name, counts in zip(classes, matrix):
        total = sum(counts)
        cells = "".join(cell(count / total if total else 0.0, f"{100 * count / total:.0f} %" if total else "none",
                             str(count)) for count in counts)
        rows.append(element("tr", element("th", escape(name), scope="row") + cells))
    return (element("p", "columns: recognised as · rows: truth", class_="axes")
            + element("table", element("thead", head) + element("tbody", "".join(rows)), class_="confusion"))


def cell(share: float, words: str, small: str = "", colour: str = "--share") -> str:
    """A table cell as dark as `share` (0..1) is large."""
    alpha = 0.06 + 0.74 * min(max(share, 0.0), 1.0)
    return element("td", escape(words) + (element("small", escape(small)) if small else ""),
                   style=f"background:rgba(var({colour}),{alpha:.2f})" + (";color:#fff" if alpha > 0.62 else ""))


def recalls(classes: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None], Sequence[int]]]) -> str:
    """Recall of each class, a bar in its colour for every row (name, recalls, utterances); a group for each class."""
    bar, gap = 19, 10
    height = sum(len(rows) * bar + 20 + gap for _ in classes)
    across, shapes, y = linear(0, 1, 96, WIDTH - 20), [], 4.0
    for mark in (0, 0.5, 1):
        shapes += [line(across(mark), 0, across(mark), height - 12, class_="gridline"),
                   text(across(mark), height + 8, f"{100 * mark:.0f} %", text_anchor="middle")]
    for index, (name, colour) in enumerate(zip(classes, colours(classes))):
        shapes.append(text(4, y + 12, name, class_="strong"))
        y += 18
        for row, shares, counts in rows:
            share = shares[index]
            shapes.append(text(90, y + 12, row, text_anchor="end"))
            if share is None:
                shapes.append(text(100, y + 12, "none to recognise"))
            else:
                inside = share > 0.6                # there is room for words on the bar
                shapes += [rect(across(0), y + 1, max(across(share) - across(0), 1), bar - 2, fill=colour, rx=3),
                           text(across(share) + (-6 if inside else 6), y + 13,
                                f"{100 * share:.0f} % of {counts[index]}", text_anchor="end" if inside else "start",
                                style=f"fill:{ink(colour)}" if inside else None)]
            y += bar
        y += gap + 2
    return _svg(shapes, WIDTH, height + 13, "recall of each class")


def histogram(shares: Sequence[float], x: str, first: int = 0, even: str = "") -> str:
    """Shares of something as bars from number `first` on; x: what it is; even: words at a line at the mean share."""
    shares = np.asarray(shares, float)
    across = linear(0, len(shares), LEFT, WIDTH - RIGHT)
    up = linear(0, max(shares.max(), 1e-9) * 1.06, HEIGHT - BOTTOM, TOP)
    width = (WIDTH - LEFT - RIGHT) / len(shares)
    shapes = [line(LEFT, up(y), WIDTH - RIGHT, up(y), class_="gridline")
              + text(LEFT - 6, up(y) + 4, f"{number(100 * y, 1)} %", text_anchor="end")
              for y in ticks(0, shares.max())]
    shapes += [rect(across(i), up(share), max(width * 0.86, 0.5), up(0) - up(share), class_="bar")
               for i, share in enumerate(shares) if share > 0]
    if even:
        y = up(shares.mean())
        shapes += [line(LEFT, y, WIDTH - RIGHT, y, class_="reference"),
                   text(WIDTH - RIGHT - 2, y - 4, even, text_anchor="end")]
    shapes += [text(across(mark - first + 0.5), HEIGHT - BOTTOM + 16, short(mark), text_anchor="middle")
               for mark in ticks(first, first + len(shares) - 1, 6) if float(mark).is_integer()]
    shapes.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3, x, text_anchor="middle"))
    return _svg(shapes, WIDTH, HEIGHT, x)


def heat_map(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], limit: float = 2.0) -> str:
    """A map of logarithms to base 2, values[:, i] of the unit columns[i]: `more` above 0, `less` below, strongest at
    +-limit. Columns that do not fit beside each other go below, in blocks; a sign stands in what is strong.
    """
    blocks = [_heat_block(values, rows, columns, range(first, min(first + PER_BLOCK, len(columns))), limit)
              for first in range(0, len(columns), PER_BLOCK)]
    return element("div", "".join(blocks), class_="blocks")


def _heat_block(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], piece: range, limit: float) -> str:
    """Some columns of the map; every block is as wide as a full one."""
    left, top, size, shapes = max(60.0, 12 + 8.0 * max(map(len, rows))), 18.0, 25.0, []
    for i, column in enumerate(piece):
        shapes.append(text(left + (i + 0.5) * size, top - 5, columns[column], text_anchor="middle"))
    for r, row in enumerate(rows):
        shapes.append(text(left - 7, top + (r + 0.5) * size + 4, row, text_anchor="end"))
        for i, column in enumerate(piece):
            value = float(values[r, column])
            strength = min(abs(value) / limit, 1.0)
            fill = f"fill:rgba(var({'--more' if value > 0 else '--less'}),{strength:.2f})"
            x, y = left + i * size + 1, top + r * size + 1
            said = element("title", escape(f"unit {columns[column]}, {row}: {2 ** value:.2f} times its share"))
            shapes += [rect(x, y, size - 2, size - 2, class_="frame", rx=3),
                       rect(x, y, size - 2, size - 2, said, style=fill, rx=3)]
            if strength >= 0.5:
                shapes.append(text(x + size / 2 - 1, y + size / 2 + 3, "+" if value > 0 else "−",
                                   text_anchor="middle", class_="strong"))
    return _svg(shapes, left + PER_BLOCK * size + 2, top + len(rows) * size + 4, "emotion by unit", "heat")


def mark(kind: str, x: float, y: float, size: float) -> str:
    """The `d` of a small shape around a point."""
    a, b, high = number(size), number(2 * size), number(1.3 * size)
    start = lambda dx, dy: f"M{number(x + dx, 1)} {number(y + dy, 1)}"
    return {"circle": f"{start(-size, 0)}a{a} {a} 0 1 0 {b} 0a{a} {a} 0 1 0-{b} 0",
            "square": f"{start(-size, -size)}h{b}v{b}h-{b}z",
            "triangle": f"{start(-size, size)}h{b}l-{a}-{b}z",
            "diamond": f"{start(0, -1.3 * size)}l{a} {high}-{a} {high}-{a}-{high}z",
            "cross": f"{start(-size, -size / 3)}h{b}v{number(2 * size / 3)}h-{b}z"
                     f"{start(-size / 3, -size)}h{number(2 * size / 3)}v{b}h-{number(2 * size / 3)}z",
            "bar": f"{start(-size, -size / 3)}h{b}v{number(2 * size / 3)}h-{b}z"}[kind]


def scatter(points: np.ndarray, groups: np.ndarray, names: Sequence[str], fills: Sequence[str], shapes: bool,
            axes: tuple[str, str] = ("", ""), legend: bool = True, smallest: int = 1) -> str:
    """Points (S, 2) of groups (S,) 0..G-1 with their names and colours; the name stands at the middle of each group.

    shapes: each group has a shape of its own. smallest: groups with fewer points get no name in the picture.
    """
    size = 340
    low, high = np.percentile(points, [0.5, 99.5], 0)
    spread = np.maximum(high - low, 1e-9)
    place = 14 + (size - 28) * np.clip((points - low) / spread, -0.03, 1.03)    # (S, 2)
    place[:, 1] = size - place[:, 1]
    drawn, middles, kinds = [rect(0, 0, size, size, class_="frame", rx=8)], [], []
    for group, (name, fill) in enumerate(zip(names, fills)):
        own = place[groups == group]
        kinds.append(MARKS[group % len(MARKS)] if shapes else "circle")
        if len(own):
            outline = "".join(mark(kinds[-1], x, y, 2.3) for x, y in own)
            drawn.append(element("path", element("title", escape(name)), d=outline, fill=fill, fill_opacity="0.72"))
            if len(own) >= smallest:
                middles.append((len(own), name, *np.median(own, 0)))
    words = [text(x, y + 4, name, text_anchor="middle", class_="halo") for name, x, y in apart(middles, shapes)]
    labels = [text(size / 2, size + 14, axes[0], text_anchor="middle"),
              text(-size / 2, -6, axes[1], text_anchor="middle", transform="rotate(-90)")]
    found = element("svg", "".join([*drawn, *words, *labels]), viewBox=f"-18 0 {size + 22} {size + 18}", role="img",
                    class_="map", aria_label="map")
    if legend:
        signs = [element("svg", element("path", "", d=mark(kind, 6, 6, 4), fill=fill), viewBox="0 0 12 12",
                         class_="mark") for kind, fill in zip(kinds, fills)]
        found += element("p", "".join(element("span", sign + escape(name)) for sign, name in zip(signs, names)),
                         class_="legend")
    return found


def apart(names: Sequence[tuple[int, str, float, float]], all_of_them: bool) -> list[tuple[str, float, float]]:
    """Names (points, name, x, y) with places where they do not cover each other, the largest group's first.

    One that would cover another moves up or down if all must be shown, and is left out otherwise.
    """
    found: list[tuple[str, float, float]] = []
    covers = lambda name, x, y: any(abs(x - a) < 4 * (len(name) + len(other)) and abs(y - b) < 13
                                    for other, a, b in found)
    for _, name, x, y in sorted(names, key=lambda one: (-one[0], one[1])):
        places = [y + 14 * step for step in (0, 1, -1, 2, -2, 3, -3)] if all_of_them else [y]
        place = next((place for place in places if not covers(name, x, place)), y if all_of_them else None)
        if place is not None:
            found.append((name, float(x), float(place)))
    return found


def scale_of_shades(ends: tuple[str, str]) -> str:
    """The colours of `svg.shade` from first to last between the names of their ends."""
    strip = "".join(rect(i * 10, 0, 10.5, 10, fill=shade(i / 11)) for i in range(12))
    drawn = element("svg", strip, viewBox="0 0 120 10", aria_hidden="true", style="width:120px;margin:0 8px")
    return element("p", element("span", f"{escape(ends[0])}{drawn}{escape(ends[1])}"), class_="legend")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table; the first column names the row."""
    head = element("tr", "".join(element("th", escape(name), scope="col") for name in header))
    body = "".join(element("tr", element("th", escape(row[0]), scope="row", style="text-align:left")
                           + "".join(element("td", escape(value)) for value in row[1:])) for row in rows)
    return element("div", element("table", element("thead", head) + element("tbody", body), class_="plain"),
                   class_="scroll", tabindex="0")
