"""What benchmarks measured, as one Markdown table: a row for each number, a column for each file of `bin/bench.py`.

The rows are fixed, so that files of different machines, or of before and after a change, stand side by side; a cell is
empty where a file does not have its number. docs/BENCHMARKS.md takes its tables from here.
"""
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from framealign.runtime import files


def share(record: dict) -> str:
    return f"{100 * record['of_matrix_product']:.0f} %"


def ratio(record: dict) -> str:
    return spread(record["ratio"])


def seconds(record: dict) -> str:
    return spread(record["seconds"])


def spread(values: dict[str, float]) -> str:
    """Median (least, greatest)."""
    return "{median:.3g} ({least:.3g}, {greatest:.3g})".format(**values)


def real_time(record: dict) -> str:
    return f"{record['audio_seconds'] / record['seconds']['median']:,.0f}"


def gigabytes(record: dict) -> str:
    return f"{record['peak_bytes'] / 1e9:.2f}"


def projection(record: dict) -> str:
    return f"{record['projected_minutes']:.0f}"


@dataclass(frozen=True)
class Row:
    """One number: of which contest's record, and how it is written; against whom, where it is a comparison."""
    words: str
    what: str                                       # --what of bin/bench.py
    name: str                                       # of the record
    number: Callable[[dict], str]
    peer: str = ""                                  # the record that it is compared with: the first
    target: str = ""                                # on an H100 or H200


KEPT, COMPILED = "framealign, conv encoder kept", "framealign, conv encoder kept, blocks compiled"
STATES, STEP = "framealign, Hubert.states of the batch", "framealign, conv features, fast path"
REFERENCE = "transformers, the reference's head, conv encoder frozen"
FOLD = "framealign, one fold"

ROWS = (
    Row("pretraining step, conv output kept: of the matrix product", "pretrain", KEPT, share, target="50 %"),
    Row("times as fast as transformers with the reference's head", "pretrain", KEPT, ratio, REFERENCE, "3"),
    Row("GB at its peak", "pretrain", KEPT, gigabytes),
    Row("the same, blocks compiled: of the matrix product", "pretrain", COMPILED, share, target="50 %"),
    Row("times as fast as transformers with the reference's head", "pretrain", COMPILED, ratio, REFERENCE, "3"),
    Row("GB at its peak", "pretrain", COMPILED, gigabytes),
    Row("extraction of states: of the matrix product", "extract", STATES, share),
    Row("times real time", "extract", STATES, real_time, target="15,000"),
    Row("times as fast as transformers, padded", "extract", STATES, ratio, "transformers, padded, with mask"),
    Row("GB at its peak", "extract", STATES, gigabytes),
    Row("fine-tuning step: of the matrix product", "finetune", STEP, share),
    Row("times as fast as transformers with the same head", "finetune", STEP, ratio,
        "transformers, conv encoder frozen"),
    Row("GB at its peak", "finetune", STEP, gigabytes),
    Row("k-means, seconds", "kmeans", "framealign", seconds),
    Row("times as fast as scikit-learn", "kmeans", "framealign", ratio, "scikit-learn"),
    Row("GB at its peak", "kmeans", "framealign", gigabytes),
    Row("assignment to centroids: of the matrix product", "kmeans", "framealign, assignment", share),
    Row("two ranks: a step with its gradients reduced, times as fast as without", "ranks", "gradients reduced", ratio,
        "every rank's gradients its own"),
    Row("one fold of the recipe, pretrainings cut: seconds", "fold", FOLD, seconds),
    Row("GB at its peak", "fold", FOLD, gigabytes),
    Row("five folds at the paper's schedule, projected: minutes", "fold", FOLD, projection, target="75"),
)


def read(path: str | Path) -> dict:
    """A file of `bin/bench.py --out`, or of `make gpu-check`. Raises ValueError for another one."""
    content = files.read_json(path)
    results = content.get("results")
    if not (isinstance(results, list) and {"settings", "torch", "machine"} <= set(content)
            and all(isinstance(result, dict) and {"what", "records"} <= set(result) for result in results)):
        raise ValueError(f"{path}: holds no timings; give a file of bin/bench.py --out or of make gpu-check")
    return content


def table(contents: list[dict]) -> str:
    """The table of what was read, a column for each; without any, one empty column."""
    head = ["", "target, H100 or H200", *(heading(content) for content in contents or [{}])]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    for row in ROWS:
        cells = [row.words, row.target, *(cell(row, content) for content in contents or [{}])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def heading(content: dict) -> str:
    """Where and how a file was measured."""
    if not content:
        return "not measured"
    settings = content["settings"]
    threads = f", {settings['threads']} thread(s)" if settings["device"] == "cpu" else ""
    return f"{content['machine']}{threads}; {settings['preset']}, {settings['dtype']}, torch {content['torch']}"


def cell(row: Row, content: dict) -> str:
    """A row's number as a file has it; "" where it does not, or compares with another peer."""
    for result in content.get("results", ()):
        records = {record["name"]: record for record in result["records"]}
        is_compared = not row.peer or row.peer == result["records"][0]["name"]
        if result["what"] == row.what and row.name in records and is_compared:
            return row.number(records[row.name])
    return ""
