"""Charts say the numbers they are given: places, words and shades read back out of the markup."""
import itertools
import math
import re

import markup
import numpy as np
import pytest

from framealign.report import charts
from framealign.report.charts import Axes, Curve, Group
from framealign.report.svg import colours

NASTY = '<i>&"\'x'


def texts(root: markup.Element) -> list[str]:
    return [one.text for one in root.all("text")]


def test_curves_pass_through_their_points():
    """The scale is recovered from the ticks, then every corner of the path must be a value that was given."""
    x, y = [10, 20, 30, 40], [2.0, 1.0, 0.5, 0.75]
    root = markup.read(charts.curves([Curve("loss", x, y)], Axes(references=[(1.5, "guessing")])))
    line, = [one for one in root.all("path", "curve")]
    marks = [(float(one.text), one.numbers("y")[0] - 4) for one in root.all("text")
             if one.attributes.get("text-anchor") == "end" and re.fullmatch(r"[\d.]+", one.text)]
    (a, at_a), (b, at_b) = marks[0], marks[-1]
    value = lambda at: a + (at - at_a) * (b - a) / (at_b - at_a)
    found = markup.points(line.attributes["d"])
    assert np.allclose([value(at) for _, at in found], y, atol=0.01)
    assert np.allclose(np.diff([at for at, _ in found]), (charts.WIDTH - charts.LEFT - charts.RIGHT) / 3, atol=0.02)
    reference, = root.all("line", "reference")
    assert value(reference.numbers("y1")[0]) == pytest.approx(1.5, abs=0.01) and "guessing" in texts(root)
    assert root.all("p", "legend")[0].text == "loss"


def test_a_wide_range_of_norms_is_logarithmic():
    y = [100.0, 10.0, 1.0, 0.1]
    root = markup.read(charts.curves([Curve("", [1, 2, 3, 4], y)], Axes(logarithmic=True)))
    heights = [at for _, at in markup.points(root.all("path", "curve")[0].attributes["d"])]
    assert np.allclose(np.diff(heights), heights[1] - heights[0], atol=0.02) and {"1", "10"} <= set(texts(root))
    narrow = markup.read(charts.curves([Curve("", [1, 2, 3], [1.0, 2.0, 3.0])], Axes(logarithmic=True)))
    assert np.allclose(np.diff([at for _, at in markup.points(narrow.all("path")[0].attributes["d"])], 2), 0, atol=0.02)


def test_what_was_not_finite_is_left_out():
    lines = [Curve("a", [1, 2, 3, 4], [1.0, None, math.nan, 3.0]), Curve("b", [1], [math.inf])]
    root = markup.read(charts.curves(lines))
    assert len(root.all("path", "curve")) == 1 and len(markup.points(root.all("path")[0].attributes["d"])) == 2
    assert "nothing was logged" in charts.curves([Curve("a", [], [])]) and markup.read(charts.curves([]))


def test_one_point_and_equal_points_are_drawn():
    for y in ([0.0], [5.0, 5.0], [0.0, 0.0, 0.0]):
        root = markup.read(charts.curves([Curve("a", range(len(y)), y)], Axes(low=0.0)))
        for _, at in markup.points(root.all("path", "curve")[0].attributes["d"]):
            assert charts.TOP <= at <= charts.HEIGHT - charts.BOTTOM


def test_the_selected_epoch_is_marked():
    axes = Axes(vertical=(2, "selected"), percent=True)
    root = markup.read(charts.curves([Curve("UA", [1, 2, 3], [0.2, 0.8, 0.5])], axes))
    x, = [one.numbers("x1", "x2") for one in root.all("line", "reference")]
    middle = (charts.LEFT + charts.WIDTH - charts.RIGHT) / 2
    assert x == [middle, middle] and "selected" in texts(root) and any(one.endswith(" %") for one in texts(root))


def test_confusion_has_counts_and_shares_of_rows():
    root = markup.read(charts.confusion([[8, 2], [0, 0]], ["neutral", NASTY]))
    cells = [cell.text for cell in root.all("td")]
    assert cells == ["80 %8", "20 %2", "none0", "none0"]
    shades = [float(re.search(r"([\d.]+)\)", cell.attributes["style"])[1]) for cell in root.all("td")]
    assert shades[0] > shades[1] > shades[2] == shades[3]
    assert [cell.text for cell in root.all("th")] == ["", "neutral", NASTY, "neutral", NASTY]


def test_a_confusion_of_many_classes_is_close():
    """Per cent alone, nothing where nothing is, counts as titles; it may be scrolled."""
    names = [f"class {number}" for number in range(30)]
    matrix = np.random.default_rng(0).integers(0, 4, (30, 30)) * np.eye(30, dtype=int)
    matrix[0, :2] = 3, 1
    root = markup.read(charts.confusion(matrix.tolist(), names))
    assert len(root.all("div", "scroll")[0].all("table", "close")) == 1
    cells = [cell for cell in root.all("td")]
    assert [cell.text for cell in cells[:3]] == ["75", "25", ""] and len(cells) == 900
    assert cells[1].attributes["title"] == "class 0 as class 1: 1 of 4"
    assert {cell.text for cell in cells[30:]} <= {"", "100"}
    assert [cell.text for cell in root.all("th")] == ["", *names, *names]


def test_recalls_of_many_classes_stand_beside_their_names():
    names = ["disappointment", *(f"class {number}" for number in range(29))]
    shares = np.linspace(0, 1, 30).tolist()
    root = markup.read(charts.recalls(names, [("all folds", shares, [10] * 30)]))
    bars = [(one.numbers("x", "y", "width")) for one in root.all("rect")]
    labels = {one.text: one.numbers("x", "y") for one in root.all("text", "strong")}
    for name, share, (x, y, width) in zip(names, shares, bars, strict=True):
        assert labels[name][0] + 8.5 * len(name) <= x and 0 < labels[name][1] - y < 19     # beside, on one line
        assert width == pytest.approx(max(1, share * (charts.WIDTH - 20 - x)), abs=0.02)
    assert (np.diff([y for _, y, _ in bars]) >= 19).all() and "all folds" not in texts(root)


def test_of_many_groups_a_name_that_would_cover_another_is_left_out():
    points = np.random.default_rng(0).normal(size=(600, 2))
    groups = [Group(f"a long name {number}", "#123456") for number in range(30)]
    root = markup.read(charts.scatter(points, np.arange(600) % 30, groups))
    shown = [(one.numbers("x", "y"), one.text) for one in root.all("text", "halo")]
    assert 1 <= len(shown) < 30
    for ((x, y), name), ((other_x, other_y), other) in itertools.combinations(shown, 2):
        assert abs(x - other_x) >= 4 * (len(name) + len(other)) - 1 or abs(y - other_y) >= 12.9
    assert len(root.all("p", "legend")[0].all("span")) == 30


def test_headline_draws_the_interval():
    root = markup.read(charts.headline([("UA", 0.5, (0.25, 0.75), "words"), ("WA", 1.0, None, "w")]))
    bar, = root.all("line", "s0")
    dots = root.all("circle")
    assert bar.numbers("x1", "x2") == [58, 162] and dots[0].numbers("cx") == [110] and dots[1].numbers("cx") == [214]
    assert "95 %: 25.0 to 75.0" in root.text and "50.0 %" in root.text and "100.0 %" in root.text


def test_recalls_are_as_long_as_they_are_high():
    rows = [("session 1", [0.5, None], [10, 0]), ("session 2", [1.0, 0.25], [4, 8])]
    root = markup.read(charts.recalls(["neutral", "sad"], rows))
    widths = [one.numbers("width")[0] for one in root.all("rect")]
    assert np.allclose(np.array(widths) / widths[1], [0.5, 1, 0.25])
    assert {"50 % of 10", "no utterances", "100 % of 4", "25 % of 8", "neutral", "sad"} <= set(texts(root))
    assert [one.attributes["fill"] for one in root.all("rect")] == [*[colours(["neutral"])[0]] * 2, colours(["sad"])[0]]


@pytest.mark.parametrize("seed", range(4))
def test_stacked_bars_are_as_long_as_the_sum_of_their_parts(seed):
    """One scale for all rows and the reference; parts lie end to end, in their order, with their numbers."""
    draw = np.random.default_rng(seed)
    names, parts = ["a", NASTY, "c"], ["false alarm", "missed", "confused"]
    shares, reference = draw.dirichlet(np.ones(4), 3)[:, :3], float(draw.uniform(0.05, 0.9))
    root = markup.read(charts.stacked(list(zip(names, shares.tolist())), parts, (reference, "none")))
    bars = np.array([bar.numbers("x", "width", "y") for bar in root.all("rect")]).reshape(3, 3, 3)
    line, = root.all("line", "reference")
    scale = (line.numbers("x1")[0] - 4) / reference
    assert np.allclose(bars[..., 1], scale * shares, atol=0.011)
    assert np.allclose(bars[:, 0, 0], 4) and np.allclose(bars[:, 1:, 0], bars[:, :-1, 0] + bars[:, :-1, 1], atol=0.011)
    assert (np.diff(bars[:, 0, 2]) > 20).all() and bars[..., :2].sum(-1).max() < charts.WIDTH
    assert [one.text for one in root.all("title")] == [
        f"{name}: {part} {100 * share:.1f} %" for name, row in zip(names, shares) for part, share in zip(parts, row)]
    for name, row in zip(names, shares):
        assert name in texts(root) and f"{100 * row.sum():.1f} %" in texts(root)
    assert [entry.text for entry in root.all("p", "legend")[0].all("span")] == parts
    fills = [bar.attributes["style"] for bar in root.all("rect")]
    assert fills == fills[:3] * 3 and len({*fills}) == 3
    assert markup.read(charts.stacked([("a", [0.0, 0.0, 0.0])], parts, (0.0, "none")))


def test_reliability_circles_lie_at_confidence_and_share_right():
    """As large as their bin, on the diagonal where both are equal, the last group filled; names are escaped."""
    bins = [(30, 0.5, 0.5), (10, 0.9, 0.25), (60, 1.0, 1.0)]
    root = markup.read(charts.reliability([("before", [(100, 0.8, 0.6)]), (NASTY, bins)]))
    picture, *legend = root.all("svg")
    ring, *discs = picture.all("circle")
    assert ring.attributes["fill"] == "none" and all(one.attributes["class"] == "bar" for one in discs)
    diagonal, = picture.all("line", "reference")
    x1, y1, x2, y2 = (float(diagonal.attributes[name]) for name in ("x1", "y1", "x2", "y2"))
    for disc, (_, confidence, right) in zip(discs, bins):
        assert float(disc.attributes["cx"]) == pytest.approx(x1 + confidence * (x2 - x1), abs=0.01)
        assert float(disc.attributes["cy"]) == pytest.approx(y1 + right * (y2 - y1), abs=0.01)
    areas = [float(disc.attributes["r"]) ** 2 for disc in discs]
    assert areas[0] / areas[1] == pytest.approx(3, rel=0.01) and areas[2] / areas[0] == pytest.approx(2, rel=0.01)
    assert discs[1].all("title")[0].text == f"{NASTY}: 10 utterances, confidence 90.0 %, right 25.0 %"
    assert [one.text for one in root.all("span")] == ["before", NASTY] and len(legend) == 2


def test_histogram_bars_are_shares():
    root = markup.read(charts.histogram([0.5, 0.3, 0.2, 0.0], "units", mean_label="even"))
    heights = [one.numbers("height")[0] for one in root.all("rect")]
    assert np.allclose(np.array(heights) / heights[0], [1, 0.6, 0.4], atol=0.001)
    assert markup.read(charts.histogram([1.0], "one")) and markup.read(charts.histogram([0.0, 0.0], "none"))


def test_heat_map_signs_and_blocks():
    values = np.zeros((2, 30))
    values[0, 3], values[1, 29] = 1.5, -4.0
    root = markup.read(charts.heat_map(values, ["a", NASTY], [f"u{i}" for i in range(30)]))
    assert len(root.all("svg")) == 3 and len({one.attributes["viewbox"] for one in root.all("svg")}) == 1
    assert texts(root).count("+") == 1 and texts(root).count("−") == 1
    titles = [one.text for one in root.all("title")]
    assert len(titles) == 60 and "unit u3, a: 2.83 times its share" in titles
    assert f"unit u29, {NASTY}: 0.06 times its share" in titles
    strong = [one.attributes["style"] for one in root.all("rect") if "1.00" in one.attributes.get("style", "")]
    assert strong == ["fill:rgba(var(--less),1.00)"]


def test_scatter_places_points_and_names():
    draw = np.random.default_rng(0)
    points = np.concatenate([draw.normal(0, 0.1, (50, 2)), draw.normal(0, 0.1, (50, 2)) + (10, 5)])
    groups = np.repeat([0, 1], 50)
    kinds = [Group("left", "#000000"), Group(NASTY, "#ff0000", "square")]
    root = markup.read(charts.scatter(points, groups, kinds, ("a", "b")))
    names = {one.text: one.numbers("x", "y") for one in root.all("text", "halo")}
    assert names["left"][0] < 60 < 280 < names[NASTY][0] and names["left"][1] > 280 > 60 > names[NASTY][1]
    outlines = [one.attributes["d"].count("M") for one in root.all("path") if "fill-opacity" in one.attributes]
    assert outlines == [50, 50]
    assert markup.read(charts.scatter(points[:1], groups[:1], [Group("one", "#000000")]))


def test_names_do_not_cover_each_other():
    draw = np.random.default_rng(1)
    names = [(int(draw.integers(1, 99)), f"u{i}", *draw.uniform(0, 340, 2)) for i in range(60)]
    found = charts.without_overlap(names, False)
    assert 10 < len(found) < 60
    for i, (a, x, y) in enumerate(found):
        for b, u, v in found[:i]:
            assert abs(x - u) >= 4 * (len(a) + len(b)) or abs(y - v) >= 13
    same = charts.without_overlap([(1, "happy", 50.0, 50.0), (2, "neutral", 50.0, 50.0), (3, "sad", 51.0, 50.0)], True)
    assert len({y for _, _, y in same}) == 3 and {name for name, _, _ in same} == {"happy", "neutral", "sad"}


@pytest.mark.parametrize("kind", charts.MARKERS)
def test_marks_are_closed_shapes_about_their_point(kind):
    """Drawn as a point and in the legend; the outline begins within its size of the point and is closed."""
    root = markup.read(charts.scatter(np.zeros((1, 2)), np.zeros(1, int), [Group("a", "#000000", kind)]))
    assert len(root.all("path")) == 2 and {one.attributes["d"][-1] for one in root.all("path")} <= {"z", "0"}
    (x, y), = re.findall(r"^M([\d.]+) ([\d.]+)", charts.marker_path(kind, 10, 20, 2))
    assert abs(float(x) - 10) <= 2 and abs(float(y) - 20) < 2.7


def test_tables_escape():
    root = markup.read(charts.table(["", NASTY], [[NASTY, "1"]]))
    assert [one.text for one in root.all("th")] == ["", NASTY, NASTY] and root.all("td")[0].text == "1"
