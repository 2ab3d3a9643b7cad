"""The table of what was measured: its cells against the files' numbers, its gaps, and the tables of the documents."""
import json
import random
import re
import shlex

import numpy as np
import pytest
import small

from framealign.commands import speed_table
from framealign.commands.benchmark import PARTS
from framealign.commands.speed_table import ROWS

BENCHMARKS = small.ROOT / "docs" / "BENCHMARKS.md"
MADE = re.compile(r"<!-- bin/bench\.py --table (.+?) -->\n\n(.*?)\n\n<!-- end -->", re.DOTALL)


def drawn(seed: int, device: str = "cuda", **changes) -> dict:
    """What bin/bench.py writes, with random numbers: every contest of the table, its peers first."""
    draw, results = random.Random(seed), []

    def spread() -> dict[str, float]:
        least, median, greatest = sorted(draw.uniform(0.1, 9) for _ in range(3))
        return {"median": median, "least": least, "greatest": greatest}
    for what in dict.fromkeys(row.what for row in ROWS):
        own = dict.fromkeys(row.name for row in ROWS if row.what == what)
        peers = dict.fromkeys(row.peer for row in ROWS if row.what == what and row.peer)
        results.append({"what": what, "title": what, "records": [
            {"name": name, "seconds": spread(), "runs": [draw.uniform(1, 9) for _ in range(3)],
             "peak_bytes": draw.randrange(10 ** 10), "frames": draw.randrange(10 ** 6),
             "audio_seconds": draw.uniform(1e4, 1e6), "of_matrix_product": draw.random(),
             "shares": {part: draw.random() for part in PARTS},
             "projected_minutes": draw.uniform(10, 100)} for name in dict.fromkeys((*peers, *own))]})
    return {"settings": {"device": device, "preset": "base", "dtype": "bfloat16", "threads": 3}, "torch": "2.11.0",
            "machine": f"machine {seed}", "results": results} | changes


def record_of(content: dict, what: str, name: str) -> dict:
    result, = (result for result in content["results"] if result["what"] == what)
    return next(record for record in result["records"] if record["name"] == name)


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_a_column_for_each_file_and_its_numbers_in_their_rows():
    first, second = drawn(1), drawn(2, "cpu", others_cores=1.26)
    head, _, *rows = cells(speed_table.table([[first], [second]]))
    assert head[3:] == ["machine 1; base, bfloat16, torch 2.11.0", "machine 2, 3 thread(s); base, bfloat16, "
                        "torch 2.11.0; others on 1.3 cores"]
    assert [row[0] for row in rows] == [row.words for row in ROWS] and {len(row) for row in rows} == {5}
    for column, content in ((3, first), (4, second)):
        written = {(row.what, row.name, row.words): line[column] for row, line in zip(ROWS, rows)}
        kept, reference = (record_of(content, "pretrain", name) for name in (speed_table.KEPT, speed_table.REFERENCE))
        product = written["pretrain", speed_table.KEPT, "pretraining step, conv output kept: of the matrix product"]
        assert int(product.removesuffix(" %")) == pytest.approx(100 * kept["of_matrix_product"], abs=0.5)
        ratio = written["pretrain", speed_table.KEPT, "times as fast as transformers with the reference's head"]
        least, median, greatest = sorted(np.array(reference["runs"]) / np.array(kept["runs"]))
        assert [float(x) for x in re.findall(r"[\d.]+", ratio)] == pytest.approx([median, least, greatest], rel=5e-3)
        peak = written["pretrain", speed_table.KEPT, "GB at its peak"]
        assert float(peak) == pytest.approx(kept["peak_bytes"] / 1e9, abs=5e-3)
        parts = [int(x) for x in written["pretrain", speed_table.KEPT, speed_table.GOES].split(", ")]
        assert parts == pytest.approx([100 * kept["shares"][part] for part in PARTS], abs=0.5)
        assert speed_table.GOES.endswith(": " + ", ".join(PARTS))
        frames = written["kmeans", "framealign", "k-means, frames"]
        assert int(frames.replace(",", "")) == record_of(content, "kmeans", "framealign")["frames"]
        last = rows[-1][column]
        assert int(last) == pytest.approx(record_of(content, "fold", "framealign, one fold")["projected_minutes"],
                                          abs=0.5)
        states = record_of(content, "extract", "framealign, Hubert.states of the batch")
        real_time = states["audio_seconds"] / states["seconds"]["median"]
        shown = written["extract", speed_table.STATES, "times real time"]
        assert float(shown.replace(",", "")) == pytest.approx(real_time, abs=0.5) and "e" not in shown


def test_what_was_not_measured_is_an_empty_cell_or_no_row():
    """No file at all; a contest that was not run, of one file and of both; a comparison without the row's peer."""
    everything = cells(speed_table.table([]))
    assert {row[-1] for row in everything[2:]} == {""} and len(everything) == len(ROWS) + 2
    content, whole = drawn(3), drawn(4)
    content["results"] = [result for result in content["results"] if result["what"] == "finetune"]
    rows = cells(speed_table.table([[content], [whole]]))[2:]
    assert len(rows) == len(ROWS)
    assert [bool(row[3]) for row in rows] == [row.what == "finetune" for row in ROWS] and all(row[4] for row in rows)
    rows = cells(speed_table.table([[content]]))[2:]
    assert [row[0] for row in rows] == [row.words for row in ROWS if row.what == "finetune"]
    peers = {row.peer for row in ROWS}
    content["results"][0]["records"] = [x for x in content["results"][0]["records"] if x["name"] not in peers]
    rows = [row for row in ROWS if row.what == "finetune" and not row.peer and row.name not in peers]
    assert [row[0] for row in cells(speed_table.table([[content]]))[2:]] == [row.words for row in rows]


def test_a_folder_with_files_of_one_machine_and_model_is_one_column(tmp_path):
    """Each number is the first file's that has it; others' cores are the most; other models are refused."""
    whole = drawn(5, "cpu")
    for name, what, cores in (("a", "extract", 0.5), ("b", "kmeans", 1.0), ("c", "extract", None)):
        part = drawn(5 if name != "c" else 6, "cpu", others_cores=cores, machine="machine 5")
        part["results"] = [result for result in part["results"] if result["what"] == what]
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    columns = speed_table.columns([str(tmp_path), "-"])
    head, _, *rows = cells(speed_table.table(columns))
    assert len(head) == 4 and head[3].endswith("; others on 1.0 cores")
    wanted = [row for row in ROWS if row.what in ("extract", "kmeans")]
    assert [row[3] for row in rows] == [speed_table.cell(row, [whole]) for row in wanted]
    (tmp_path / "d.json").write_text(json.dumps(drawn(7)))
    (tmp_path / "none").mkdir()
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=rf"{folder}: must hold files of .*, all of one machine and model"):
            speed_table.columns([str(folder)])
    assert len(speed_table.columns([f"{tmp_path}/a.json", f"{tmp_path}/d.json"])) == 2


@pytest.mark.parametrize("content", [{}, {"results": []}, drawn(0, results=3), drawn(0, results=[{"what": "x"}]),
                                     drawn(0, results=[1]), drawn(0, results=[{"pooled": {}}])])
def test_a_file_without_timings_is_named(content, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"other\.json: holds no timings; give a file of bin/bench\.py --out"):
        speed_table.read(path)


def test_a_file_of_an_older_version_is_named(tmp_path):
    path, content = tmp_path / "old.json", drawn(0)
    del content["results"][0]["records"][0]["runs"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"old\.json: was made by an older bin/bench\.py"):
        speed_table.read(path)


def test_tables_of_the_benchmarks_are_made_of_the_files_beside_them(monkeypatch):
    """Every table between the marks is what its command prints, and every file of docs/benchmarks is in one."""
    monkeypatch.chdir(small.ROOT)                   # as the commands say
    tables = MADE.findall(BENCHMARKS.read_text(encoding="utf-8"))
    assert tables and len(tables) == BENCHMARKS.read_text(encoding="utf-8").count("<!-- bin/bench.py")
    names = [shlex.split(words) for words, _ in tables]
    for paths, (_, text) in zip(names, tables):
        assert text == speed_table.table(speed_table.columns(paths))
    entries = {f"docs/benchmarks/{path.name}" for path in (small.ROOT / "docs" / "benchmarks").iterdir()}
    assert entries == {path for paths in names for path in paths} - {"-"}
