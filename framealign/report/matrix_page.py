"""The cross-corpus matrix as one page: UA and EDER of each cell, as dark as they are good, and what belongs to it."""
from pathlib import Path

from framealign.runtime import files
from framealign.recipe import cross_corpus
from framealign.recipe.results import interval_words
from framealign.report import charts, html_document
from framealign.report.html_document import card, grid, section
from framealign.report.svg import element, escape

EDER = """Emotion diarization error rate: the share of the time that has a wrong emotion, frame by frame; less is
better. Below the rate of always saying neutral, the time line says something."""
MEANING = """Rows: what a recogniser was trained on. Columns: the corpus it is tested on. The darker, the better."""
NAMES_WIDTH = "12em"                                # of the column of names, at least


def write(path: str | Path, matrix: dict) -> None:
    """Write the page of a matrix (`cross_corpus.run`)."""
    files.write_text(path, page(matrix))


def page(matrix: dict) -> str:
    """The page as HTML."""
    cells = matrix["cells"]
    numbers = sorted({one["num_utterances"] for of_row in cells.values() for one in of_row.values()
                      if "error" not in one})
    subtitle = f"framealign: {len(matrix['rows'])} rows, {len(matrix['columns'])} corpora" + (
        f" of {numbers[0]} to {numbers[-1]} tested utterances" if numbers else "")
    ua = table(cells, "UA")
    content = card("UA, % (95 % interval; utterances)", ua, ua_note(cells), wide=True)
    if cross_corpus.any_truth(cells):
        content += card("EDER, % (of always saying neutral)", table(cells, "EDER"), EDER, wide=True)
    content += grid([card("For orientation: EmoBox", emobox(), " ".join(cross_corpus.EMOBOX_DIFFERS.split()))])
    remarks = element("ul", [element("li", escape(line)) for line in cross_corpus.note_lines(cells)])
    files_of = [[name, path] for kind in ("rows", "columns") for name, path in matrix[kind].items()]
    body = html_document.head("Cross-corpus matrix", subtitle)
    body += element("main", section("matrix", "Recognition on other corpora", content, MEANING)
                    + section("remarks", "What belongs to each cell", remarks)
                    + section("names", "Rows and columns", charts.table(["name", "path"], files_of)))
    return html_document.document("Cross-corpus matrix", body)


def ua_note(cells: dict[str, dict[str, dict]]) -> str:
    """What the cells' numbers are, in small print."""
    lines = [cross_corpus.OWN_WORDS] if cross_corpus.any_own(cells) else []
    lines += [cross_corpus.MEAN_WORDS, cross_corpus.interval_words_of(cells), cross_corpus.chance_words(cells)]
    return ". ".join(lines) + "."


def table(cells: dict[str, dict[str, dict]], measure: str) -> str:
    """The matrix of a measure, "UA" or "EDER": a row of cells for each row, the mean of others at the end of UA's."""
    columns = list(next(iter(cells.values())))
    if measure == "EDER":
        columns = [name for name in columns if any(of_row[name].get("over_time") for of_row in cells.values())]
    names = [*columns, *(["mean of others"] if measure == "UA" else [])]
    corner = element("th", "", style=f"width:{NAMES_WIDTH}")
    header = element("tr", [corner, *(element("th", escape(name), scope="col") for name in names)])
    rows = []
    for name, of_row in cells.items():
        shown = [ua_cell(of_row[column]) if measure == "UA" else eder_cell(of_row[column]) for column in columns]
        if measure == "UA":
            mean = cross_corpus.mean_of_others(of_row)
            shown.append(element("td", "-" if mean is None else f"{100 * mean:.1f}"))
        rows.append(element("tr", [element("th", escape(name), scope="row"), *shown]))
    inside = element("table", element("thead", header) + element("tbody", rows), class_="confusion")
    return element("p", "columns: tested on · rows: trained on", class_="axes") + element("div", inside,
                                                                                          class_="scroll", tabindex="0")


def ua_cell(one: dict) -> str:
    """UA, its interval and the number of utterances; as dark as UA is above chance."""
    if "error" in one:
        return element("td", "failed")
    chance = 1 / len(one["classes"])
    words = f"{100 * one['ua']:.1f}{cross_corpus.OWN * one['own_corpus']}"
    return charts.cell((one["ua"] - chance) / (1 - chance), words,
                       f"{interval_words(one['interval_95']['ua'])}; {one['num_utterances']}")


def eder_cell(one: dict) -> str:
    """EDER and that of always saying neutral; as dark as little of the time is wrong."""
    if "error" in one or not one["over_time"]:
        return element("td", "failed" if "error" in one else "-")
    scores = one["over_time"]
    words = f"{100 * scores['eder']:.1f}{cross_corpus.OWN * one['own_corpus']}"
    return charts.cell(1 - scores["eder"], words, f"{100 * scores['always_neutral']:.1f}")


def emobox() -> str:
    """EmoBox's published means, as a table."""
    return charts.table(["pretrained model", "mean, %"],
                        [[name, f"{mean}"] for name, mean in cross_corpus.EMOBOX.items()])
