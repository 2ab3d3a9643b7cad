"""What benchmarks measured, as one Markdown table: a row for each number, a column for each machine and model.

A column is of one file of `bin/bench.py`, or of a folder with those of one machine and model. The rows are fixed, so
that different machines, or before and after a change, stand side by side; a cell is empty where no file of its column
has the number, and a row that no column has is left out. docs/BENCHMARKS.md takes its tables from here.
"""
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from framealign.runtime import files


def share(record: dict) -> str:
    return f"{100 * record['of_matrix_product']:.0f} %"


def ratio(record: dict, peer: dict) -> str:
    """How many times as fast as a peer, pair by pair of runs one after the other."""
    ratios = [theirs / own for theirs, own in zip(peer["runs"], record["runs"])]
    return spread({"median": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)})


def seconds(record: dict) -> str:
    return spread(record["seconds"])


def spread(values: dict[str, float]) -> str:
    """Median (least, greatest)."""
    return "{median:.3g} ({least:.3g}, {greatest:.3g})".format(**values)


def real_time(record: dict) -> str:
    rate = record["audio_seconds"] / record["seconds"]["median"]
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def parts(record: dict) -> str:
    """Shares of its time, in the order of `benchmark.PARTS`."""
    return ", ".join(f"{100 * share:.0f}" for share in record.get("shares", {}).values())


def gigabytes(record: dict) -> str:
    return f"{record['peak_bytes'] / 1e9:.2f}"


def number_of_frames(record: dict) -> str:
    return f"{record['frames']:,}"


def projection(record: dict) -> str:
    return f"{record['projected_minutes']:.0f}"


@dataclass(frozen=True)
class Row:
    """One number: of which contest's record, and how it is written; with a peer, how many times as fast as that one."""
    words: str
    what: str                                       # --what of bin/bench.py
    name: str                                       # of the record
    number: Callable[[dict], str] | None = None
    peer: str = ""                                  # the record that it is compared with
    target: str = ""                                # on an H100 or H200
    target_on_cpu: str = ""                         # on two cores


KEPT, COMPILED = "framealign, conv encoder kept", "framealign, conv encoder kept, blocks compiled"
TRAINED = "framealign, conv encoder trained"
STATES, STEP = "framealign, Hubert.states of the batch", "framealign, conv features, fast path"
REFERENCE = "transformers, the reference's head, conv encoder frozen"
SAME_LOOP = "transformers, the same head and loop, conv encoder frozen"
FROZEN = "transformers, conv encoder frozen"        # of fine-tuning, with the same head and loop, too
TORCHAUDIO = "torchaudio, conv encoder trained"
FOLD = "framealign, one fold"
GOES = "where its time goes, %: conv encoder, transformer, loss, optimiser, rest"

ROWS = (
    Row("pretraining step, conv output kept: of the matrix product", "pretrain", KEPT, share, target="50 %"),
    Row("times as fast as transformers with the reference's head", "pretrain", KEPT, peer=REFERENCE, target="3"),
    Row("times as fast as transformers with the same head and loop", "pretrain", KEPT, peer=SAME_LOOP,
        target_on_cpu="3 for tiny and compact"),
    Row("times as fast as torchaudio, its conv encoder trained", "pretrain", KEPT, peer=TORCHAUDIO,
        target_on_cpu="2.5"),
    Row("seconds of sound a second", "pretrain", KEPT, real_time),
    Row("of transformers with the same head and loop", "pretrain", SAME_LOOP, real_time),
    Row(GOES, "pretrain", KEPT, parts),
    Row("of transformers", "pretrain", SAME_LOOP, parts),
    Row("GB at its peak", "pretrain", KEPT, gigabytes),
    Row("the same, blocks compiled: of the matrix product", "pretrain", COMPILED, share, target="50 %"),
    Row("times as fast as transformers with the reference's head", "pretrain", COMPILED, peer=REFERENCE, target="3"),
    Row("GB at its peak", "pretrain", COMPILED, gigabytes),
    Row("the same, conv encoder trained: of the matrix product", "pretrain", TRAINED, share),
    Row("times as fast as torchaudio", "pretrain", TRAINED, peer=TORCHAUDIO),
    Row(GOES, "pretrain", TRAINED, parts),
    Row("extraction of states: of the matrix product", "extract", STATES, share),
    Row("times real time", "extract", STATES, real_time, target="15,000"),
    Row("times as fast as transformers, padded", "extract", STATES, peer="transformers, padded, with mask",
        target_on_cpu="2"),
    Row("as transformers, one by one", "extract", STATES, peer="transformers, one by one", target_on_cpu="1"),
    Row("as torchaudio, one by one", "extract", STATES, peer="torchaudio, one by one", target_on_cpu="1"),
    Row("GB at its peak", "extract", STATES, gigabytes),
    Row("fine-tuning step: of the matrix product", "finetune", STEP, share),
    Row("times as fast as transformers with the same head and loop", "finetune", STEP, peer=FROZEN,
        target_on_cpu="2; 3 for tiny and compact"),
    Row("seconds of sound a second", "finetune", STEP, real_time),
    Row("of transformers", "finetune", FROZEN, real_time),
    Row(GOES, "finetune", STEP, parts),
    Row("of transformers", "finetune", FROZEN, parts),
    Row("GB at its peak", "finetune", STEP, gigabytes),
    Row("k-means, frames", "kmeans", "framealign", number_of_frames),
    Row("seconds", "kmeans", "framealign", seconds),
    Row("times as fast as scikit-learn", "kmeans", "framealign", peer="scikit-learn", target_on_cpu="12"),
    Row("GB at its peak", "kmeans", "framealign", gigabytes),
    Row("assignment to centroids: of the matrix product", "kmeans", "framealign, assignment", share),
    Row("two ranks: a step with its gradients reduced, times as fast as without", "ranks", "gradients reduced",
        peer="every rank's gradients its own"),
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
    if not all("runs" in record for result in results for record in result["records"]):
        raise ValueError(f"{path}: was made by an older bin/bench.py, which kept no single runs; measure again")
    return content


def columns(names: list[str]) -> list[list[dict]]:
    """What `--table` names: a column each, of a file or of the files of a folder; of "-" none.

    Raises ValueError as `read`, and for a folder without files or with those of different machines or models.
    """
    columns = []
    for name in names:
        if name == "-":
            continue
        paths = sorted(Path(name).glob("*.json")) if Path(name).is_dir() else [Path(name)]
        column = [read(path) for path in paths]
        if len({heading(content) for content in column}) != 1:
            raise ValueError(f"{name}: must hold files of bin/bench.py --out, all of one machine and model; name files "
                             "of others one by one")
        columns.append(column)
    return columns


def table(columns: list[list[dict]]) -> str:
    """The table of what was read; without any, every row and one empty column."""
    names = [heading(column[0]) + others(column) for column in columns] or ["not measured"]
    head = ["", "target, H100 or H200", "target, 2 cores", *names]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    for row in ROWS:
        cells = [cell(row, column) for column in columns]
        if any(cells) or not columns:
            lines.append("| " + " | ".join([row.words, row.target, row.target_on_cpu, *(cells or [""])]) + " |")
    return "\n".join(lines)


def heading(content: dict) -> str:
    """Where and how a file was measured."""
    settings = content["settings"]
    threads = f", {settings['threads']} thread(s)" if settings["device"] == "cpu" else ""
    return f"{content['machine']}{threads}; {settings['preset']}, {settings['dtype']}, torch {content['torch']}"


def others(column: list[dict]) -> str:
    """How many cores other programs used meanwhile, at most, of files that say so; "" where it was next to nothing."""
    cores = max((content.get("others_cores") or 0.0 for content in column), default=0.0)
    return f"; others on {cores:.1f} cores" if cores >= 0.05 else ""


def cell(row: Row, column: list[dict]) -> str:
    """A row's number as the first file has it that does; "" where none has."""
    for result in (result for content in column for result in content["results"]):
        records = {record["name"]: record for record in result["records"]}
        if result["what"] == row.what and row.name in records and (not row.peer or row.peer in records):
            record = records[row.name]
            return ratio(record, records[row.peer]) if row.peer else row.number(record)
    return ""
