"""The curves over shares of the labels: every point at its number, as page and as picture, nothing loaded elsewhere."""
import math
import xml.etree.ElementTree as ET

import browser
import markup
import numpy as np
import pytest

from framealign.recipe.label_shares import difference_words, value_words
from framealign.report import charts, html_document, shares_page

SVG = "{http://www.w3.org/2000/svg}"


def drawn_points(draw, names, shares, reference):
    """Points as `label_shares.measured` gives them, one of them without an interval."""
    points = []
    for share in shares:
        for name in names:
            value, half = draw.uniform(0.4, 0.8), draw.uniform(0.01, 0.2)
            low = draw.uniform(-0.1, 0.1)
            has_difference = name != reference
            points.append({"share": share, "name": name, "value": value, "interval": (value - half, value + half),
                           "difference": low + 0.02 if has_difference else None, "p": None,
                           "difference_interval": (low, low + 0.04) if has_difference else None,
                           "seeds": 3, "labelled": 200 * share})
    points[0]["interval"] = None
    return points


def of_run(seed, run, shares=(0.1, 0.3, 1.0), names=("probe", "finetune", "tapt", "align", "multiscale")):
    draw = np.random.default_rng(seed)
    return {"run": run, "over": "6 speakers", "num_utterances": 60, "on": "",
            "protocol": {"hubert": "tiny", "classes": ["neutral", "sad"], "optimistic": False},
            "ua": drawn_points(draw, names, shares, "finetune"),
            "eder": drawn_points(draw, ("frames", "align-frames"), shares, "frames") if seed % 2 else []}


def height_of(marker: markup.Element) -> float:
    """The middle of a marker, which is as high above as below; triangles are not asked for."""
    return float(np.mean([y for _, y in markup.points(marker.attributes["d"])]))


@pytest.mark.parametrize("seed", range(5))
def test_every_point_stands_at_its_share_and_says_its_row(seed):
    """Heights are proportional to UA, bars end at the intervals, and x to the logarithm of the share."""
    run = of_run(seed, "runs/a")
    root = markup.read(shares_page.drawing(run, "ua", "a"))
    points = [one for one in root.all("g") if one.all("title")]
    assert len(points) == len(run["ua"])
    of_title = {one.all("title")[0].text: one for one in points}
    where = []
    for point in run["ua"]:
        shown, = [one for title, one in of_title.items()
                  if title.startswith(f"{point['name']}, {100 * point['share']:g} % of the labels: UA ")]
        title = shown.all("title")[0].text
        assert f"UA {value_words(point)} %" in title
        assert title.endswith(f"{difference_words(point)} against finetune") == (point["name"] != "finetune")
        bars = shown.all("line")
        assert len(bars) == (point["interval"] is not None)
        for bar in bars:
            x, top, low = *bar.numbers("x1"), *sorted(bar.numbers("y1", "y2"))
            where.append((point, x, low, top))
    slopes = [(low - top) / (point["interval"][1] - point["interval"][0]) for point, _, low, top in where]
    assert np.allclose(slopes, slopes[0], rtol=1e-3)
    origin = [low + slopes[0] * point["interval"][0] for point, _, low, _ in where]
    assert np.allclose(origin, origin[0], atol=0.05)
    for name in ("finetune", "align"):              # its curve goes through the values, evenly by the logarithm
        own = [point for point in run["ua"] if point["name"] == name]
        kind = shares_page.KINDS[name]
        curve, = [one for one in root.all("path", "curve") if f"s{kind}" in one.attributes["class"]]
        xs, ys = zip(*markup.points(curve.attributes["d"]))
        assert np.allclose(ys, [origin[0] - slopes[0] * point["value"] for point in own], atol=0.05)
        logs = [math.log(point["share"]) for point in own]
        assert np.isclose((xs[1] - xs[0]) / (xs[2] - xs[0]), (logs[1] - logs[0]) / (logs[2] - logs[0]), atol=1e-3)
    assert all(0 <= top and low <= charts.ESTIMATES_HEIGHT for _, _, low, top in where)


def test_bars_at_one_share_stand_beside_each_other():
    root = markup.read(shares_page.drawing(of_run(1, "a"), "ua", "a"))
    xs = [bar.numbers("x1")[0] for one in root.all("g") for bar in one.all("line")]
    assert len(xs) == 14 and min(np.diff(sorted(xs))) >= charts.DODGE - 0.01


def test_the_page_has_the_tables_and_stands_alone():
    runs = [of_run(1, "runs/a<b"), of_run(2, "runs/c")]
    page = shares_page.page(runs)
    root = markup.read(page[page.index("<body>"):page.index("<script>")] + "</body>")
    assert [one.text for one in root.all("h2")] == ["a<b", "c"] and "a<b" not in page
    cells = [[cell.text for cell in [*row.all("th"), *row.all("td")]] for row in root.all("tr")]
    for run in runs:
        for measure in ("ua", "eder"):
            for point in run[measure]:
                assert [f"{100 * point['share']:g} %", f"{point['labelled']:.0f}", point["name"], value_words(point),
                        difference_words(point), "3"] in cells
    assert len(root.all("svg")) == 3                # c has no EDER
    assert not [word for word in ("http://", "https://", "src=") if word in page.replace("http://www.w3.org", "")]
    assert "Optimistic" not in page
    runs[0]["protocol"]["optimistic"] = True
    assert "ptimistic" in shares_page.page(runs)


def test_the_picture_needs_no_other_file(tmp_path):
    """As test_docs_pictures asks of a picture in docs; every colour it names is defined for light and dark pages."""
    runs = [of_run(1, "runs/a<b"), of_run(2, "runs/c"), of_run(3, "runs/d"), of_run(4, "runs/e")]
    shares_page.write(tmp_path / "shares.svg", runs)
    text = (tmp_path / "shares.svg").read_text()
    root = ET.fromstring(text)
    assert root.find(f"{SVG}title").text == "UA and EDER by share of the labels, with 95 % intervals: a<b, c, d, e"
    words = [one.text for one in root.iter(f"{SVG}text")]
    assert [word for word in words if ": " in word] == [f"{name}: UA" for name in ("a<b", "c", "d", "e")] + [
        "a<b: EDER", "d: EDER"]
    for name in ("probe", "finetune", "tapt", "align", "multiscale", "frames", "align-frames"):
        assert words.count(name) == 1               # one legend for each measure
    assert len(text) < 60_000 and "prefers-color-scheme: dark" in text and "href" not in text
    style = html_document.resource("shares_svg.css")
    for kind in shares_page.KINDS.values():
        assert f"--series{kind}:" in style and f".s{kind} " in style
    titles = [one.text for one in root.iter(f"{SVG}title")][1:]
    assert len(titles) == sum(len(run[measure]) for run in runs for measure in ("ua", "eder"))


@pytest.mark.skipif(not browser.CHROMIUM, reason="no Chromium (chromium, google-chrome) on the PATH")
@pytest.mark.parametrize("width", [360, 1200])
def test_no_word_of_a_chart_is_cut_off_or_covered(tmp_path, width):
    """In a browser: every text lies in its picture, and no two texts overlap."""
    page = tmp_path / "page.html"
    shares_page.write(page, [of_run(1, "a")])
    chromium = browser.Browser(tmp_path / "profile")
    try:
        chromium.open(page, width)
        boxes = chromium.run("""[...document.querySelectorAll('.card svg')].map(svg =>
            [svg, ...svg.querySelectorAll('text')].map(one => one.getBoundingClientRect()).map(
                ({left, top, right, bottom}) => [left, top, right, bottom]))""")
    finally:
        chromium.close()
    assert len(boxes) == 2
    for (left, top, right, bottom), *texts in boxes:
        for i, one in enumerate(texts):
            assert left <= one[0] and top <= one[1] and one[2] <= right and one[3] <= bottom + 1
            for other in texts[:i]:
                assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] + 3 or other[3] <= one[1] + 3
