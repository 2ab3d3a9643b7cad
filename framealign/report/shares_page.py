"""Curves over the share of the labels, a line for each method, as a page or as an SVG file for a README.

The page has the tables of `label_shares.text` below the same pictures. Every point says its row of the table where a
mouse rests on it.
"""
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from framealign.runtime import files
from framealign.recipe import cross_corpus, label_shares
from framealign.recipe.label_shares import NAMES
from framealign.recipe.session_config import METHODS, frames_stage
from framealign.report import charts, fold_page, html_document
from framealign.report.charts import ESTIMATES_HEIGHT, WIDTH, Axes, Estimates
from framealign.report.html_document import card, grid, section
from framealign.report.svg import element, escape, number, rect

KINDS = {"finetune": 0, "align": 1, "tapt": 2, "probe": 3, "multiscale": 4}     # of lines, the same in every picture
COLUMNS = 3                                         # runs beside each other in a file
AXIS = "share of the labels"
MEANING = """What is known before the test: a share of the labels of training and validation, all sound. Bars: 95 %
intervals over speakers and seeds."""
UA_WORDS = "Unweighted accuracy: the mean of the classes' recalls; more is better."
EDER_WORDS = """Emotion diarization error rate of the classifiers of frames: the share of the time that has a wrong
emotion; less is better."""


def write(path: str | Path, of_runs: Sequence[Mapping]) -> None:
    """Write the curves of runs (`label_shares.measured`): a page, or where the name ends so an .svg file."""
    files.write_text(path, picture(of_runs) if Path(path).suffix == ".svg" else page(of_runs))


def page(of_runs: Sequence[Mapping]) -> str:
    """The page as HTML."""
    names = short_names(of_runs)
    body = html_document.head("Shares of the labels", f"framealign: {', '.join(names)}",
                              [(f"run{i}", name) for i, name in enumerate(names)])
    sections = []
    for i, (name, of_run) in enumerate(zip(names, of_runs)):
        cards = []
        for measure, words in (("ua", UA_WORDS), ("eder", EDER_WORDS)):
            if of_run[measure]:
                cards.append(card(NAMES[measure], drawing(of_run, measure, name), " ".join(words.split())))
        tables = [card(f"{NAMES[measure]}, %", charts.table(label_shares.header(measure),
                                                            label_shares.rows(of_run, measure)),
                       f"{label_shares.note(of_run)}.", wide=True) for measure in NAMES if of_run[measure]]
        protocol = of_run["protocol"]
        content = grid(cards) + fold_page.caveats(protocol, protocol["optimistic"]) + "".join(tables)
        content += card("Protocol", fold_page.protocol_facts(protocol), wide=True)
        sections.append(section(f"run{i}", name, content, " ".join(MEANING.split())))
    return html_document.document("Shares of the labels", body + element("main", sections))


def drawing(of_run: Mapping, measure: str, name: str) -> str:
    """A chart with its legend, for a page."""
    legend, height = charts.estimates_legend(kinds([of_run], measure), ESTIMATES_HEIGHT, WIDTH)
    return element("svg", [*chart(of_run, measure), *legend], viewBox=f"0 0 {WIDTH} {number(height)}", role="img",
                   aria_label=f"{NAMES[measure]} by {AXIS}, {name}")


def picture(of_runs: Sequence[Mapping]) -> str:
    """The SVG file: a chart of UA for each run, below it that of EDER, as text. Nothing outside the file is needed."""
    names, measures = short_names(of_runs), [measure for measure in NAMES if any(one[measure] for one in of_runs)]
    columns = min(COLUMNS, len(of_runs))
    shapes, top = [], 8.0
    for measure in measures:
        for i, (name, one) in enumerate(zip(names, of_runs)):
            if not one[measure]:
                continue
            place = f"translate({number(WIDTH * (i % columns))} {number(top + ESTIMATES_HEIGHT * (i // columns))})"
            shapes.append(element("g", chart(one, measure, f"{name}: {NAMES[measure]}"), transform=place))
        top += ESTIMATES_HEIGHT * math.ceil(len(of_runs) / columns)
        legend, top = charts.estimates_legend(kinds(of_runs, measure), top, WIDTH * columns)
        shapes += legend
    width, height = WIDTH * columns + 8, top + 4
    title = f"{' and '.join(NAMES[measure] for measure in measures)} by {AXIS}, with 95 % intervals: {', '.join(names)}"
    background = rect(0.5, 0.5, width - 1, height - 1, class_="back", rx=10)
    style = element("style", html_document.resource("shares_svg.css"))
    return element("svg", [element("title", escape(title)), style, background, *shapes],
                   xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {number(width)} {number(height)}", width=width,
                   height=height, role="img") + "\n"


def chart(of_run: Mapping, measure: str, title: str = "") -> list[str]:
    """The shapes of a chart of a run: `charts.estimates` of its methods, or stages; shares stand on a logarithmic axis.
    """
    lines = []
    for name, kind in kinds([of_run], measure).items():
        points = [point for point in of_run[measure] if point["name"] == name]
        lines.append(Estimates(name, [math.log(point["share"]) for point in points],
                               [point["value"] for point in points], [point["interval"] for point in points],
                               [point_words(measure, point) for point in points], kind))
    marks = {math.log(point["share"]): label_shares.share_words(point["share"]) for point in of_run[measure]}
    return charts.estimates(lines, Axes(x=AXIS, y=title), marks)


def point_words(measure: str, point: Mapping) -> str:
    """What a point says: its row of the table."""
    to_reference = label_shares.difference_words(point)
    against = f", {to_reference} against {label_shares.REFERENCE[measure]}" if to_reference else ""
    return (f"{point['name']}, {label_shares.share_words(point['share'])} of the labels: {NAMES[measure]} "
            f"{label_shares.value_words(point)} %{against}")


def kinds(of_runs: Sequence[Mapping], measure: str) -> dict[str, int]:
    """The lines of these runs, methods or stages, in the order of METHODS, and the kind of each."""
    there_are = {point["name"] for one in of_runs for point in one[measure]}
    lines = {}
    for method in METHODS:
        name = method if measure == "ua" else frames_stage(method)
        if name in there_are:
            lines[name] = KINDS["finetune" if name == frames_stage("finetune") else method]
    return lines


def short_names(of_runs: Sequence[Mapping]) -> list[str]:
    """What tells the runs apart, of their folders."""
    return cross_corpus.short_names([one["run"] for one in of_runs])
