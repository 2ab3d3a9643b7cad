"""The table of what was measured: its cells against the files' numbers, its gaps, and the tables of the documents."""
import json
import random
import re
import shlex

import pytest
import small

from framealign.commands import speed_table
from framealign.commands.speed_table import ROWS

BENCHMARKS = small.ROOT / "docs" / "BENCHMARKS.md"
MADE = re.compile(r"<!-- bin/bench\.py --table (.+) -->\n\n(.*?)\n\n<!-- end -->", re.DOTALL)


def drawn(seed: int, device: str = "cuda", **changes) -> dict:
    """What bin/bench.py writes, with random numbers: every contest of the table, its peer first."""
    draw, results = random.Random(seed), []

    def spread() -> dict[str, float]:
        least, median, greatest = sorted(draw.uniform(0.1, 9) for _ in range(3))
        return {"median": median, "least": least, "greatest": greatest}
    for what in dict.fromkeys(row.what for row in ROWS):
        own = dict.fromkeys(row.name for row in ROWS if row.what == what)
        peers = dict.fromkeys(row.peer for row in ROWS if row.what == what and row.peer)
        results.append({"what": what, "title": what, "records": [
            {"name": name, "seconds": spread(), "ratio": spread(), "peak_bytes": draw.randrange(10 ** 10),
             "audio_seconds": draw.uniform(1e4, 1e6), "of_matrix_product": draw.random(),
             "projected_minutes": draw.uniform(10, 100)} for name in (*peers, *own)]})
    return {"settings": {"device": device, "preset": "base", "dtype": "bfloat16", "threads": 3}, "torch": "2.11.0",
            "machine": f"machine {seed}", "results": results} | changes


def record_of(content: dict, what: str, name: str) -> dict:
    result, = (result for result in content["results"] if result["what"] == what)
    return next(record for record in result["records"] if record["name"] == name)


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_a_column_for_each_file_and_its_numbers_in_their_rows():
    first, second = drawn(1), drawn(2, "cpu")
    head, _, *rows = cells(speed_table.table([first, second]))
    assert head[2:] == ["machine 1; base, bfloat16, torch 2.11.0", "machine 2, 3 thread(s); base, bfloat16, "
                        "torch 2.11.0"]
    assert [row[0] for row in rows] == [row.words for row in ROWS] and {len(row) for row in rows} == {4}
    for column, content in ((2, first), (3, second)):
        written = iter(row[column] for row in rows)
        kept = record_of(content, "pretrain", "framealign, conv encoder kept")
        assert int(next(written).removesuffix(" %")) == pytest.approx(100 * kept["of_matrix_product"], abs=0.5)
        numbers = [float(x) for x in re.findall(r"[\d.]+", next(written))]
        assert numbers == pytest.approx([kept["ratio"][name] for name in ("median", "least", "greatest")], rel=5e-3)
        assert float(next(written)) == pytest.approx(kept["peak_bytes"] / 1e9, abs=5e-3)
        last = list(written)[-1]
        assert int(last) == pytest.approx(record_of(content, "fold", "framealign, one fold")["projected_minutes"],
                                          abs=0.5)
        states = record_of(content, "extract", "framealign, Hubert.states of the batch")
        real_time = states["audio_seconds"] / states["seconds"]["median"]
        shown = next(row[column] for row in rows if row[0] == "times real time")
        assert float(shown.replace(",", "")) == pytest.approx(real_time, abs=0.5)


def test_what_was_not_measured_is_an_empty_cell():
    """No file at all; a contest that was not run; a comparison with another peer than the row's."""
    assert {row[-1] for row in cells(speed_table.table([]))[2:]} == {""}
    content = drawn(3)
    content["results"] = [result for result in content["results"] if result["what"] == "finetune"]
    rows = {row[0]: row[-1] for row in cells(speed_table.table([content]))[2:]}
    words = {"fine-tuning step: of the matrix product", "times as fast as transformers with the same head"}
    assert {name for name, value in rows.items() if value} - {"GB at its peak"} == words
    content["results"][0]["records"].insert(0, {"name": "another peer"})
    rows = {row[0]: row[-1] for row in cells(speed_table.table([content]))[2:]}
    assert not rows["times as fast as transformers with the same head"]
    assert rows["fine-tuning step: of the matrix product"]


@pytest.mark.parametrize("content", [{}, {"results": []}, drawn(0, results=3), drawn(0, results=[{"what": "x"}]),
                                     drawn(0, results=[1]), drawn(0, results=[{"pooled": {}}])])
def test_a_file_without_timings_is_named(content, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"other\.json: holds no timings; give a file of bin/bench\.py --out"):
        speed_table.read(path)


def test_tables_of_the_benchmarks_are_made_of_the_files_beside_them():
    """Every table between the marks is what its command prints, and every file of docs/benchmarks is in one."""
    tables = MADE.findall(BENCHMARKS.read_text(encoding="utf-8"))
    assert tables and len(tables) == BENCHMARKS.read_text(encoding="utf-8").count("<!-- bin/bench.py")
    names = [shlex.split(words) for words, _ in tables]
    for paths, (_, text) in zip(names, tables):
        assert text == speed_table.table([speed_table.read(small.ROOT / path) for path in paths if path != "-"])
    files = {f"docs/benchmarks/{path.name}" for path in (small.ROOT / "docs" / "benchmarks").glob("*.json")}
    assert files == {path for paths in names for path in paths} - {"-"}
