"""Counted work against torch's own counter; ratios, memory and tables of contenders that are known; bin/bench.py."""
import json
import math
import runpy
import sys
import time
from dataclasses import replace

import pytest
import small
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from framealign.runtime import allocator
from framealign.hubert.model import Hubert
from framealign.hubert.parameters import shapes
from framealign.recipe.presets import PRESETS
from framealign.commands import benchmark

CPU = torch.device("cpu")
CONFIG = replace(PRESETS["tiny"].model, num_hidden_layers=3, layerdrop=0.0)


@pytest.fixture(autouse=True)
def small_product(monkeypatch):
    """The product that the machine's rate is measured with takes a tenth of a second; here the rate does not matter."""
    monkeypatch.setattr(benchmark, "MATRIX", (64, 64, 64))


@pytest.mark.parametrize("layer", [0, 2, 3, None])
@pytest.mark.parametrize("samples", [400, 5000, 16_000])
def test_forward_work_is_what_torch_counts(layer, samples):
    """Convolutions, products and attention of the plain path. The positional one gives T + 1 frames, one too many."""
    hubert = Hubert(CONFIG).eval()
    plainly = sdpa_kernel(SDPBackend.MATH)          # of which every product is counted
    with torch.no_grad(), plainly, FlopCounterMode(display=False) as counter:
        hubert.states(torch.randn(1, samples), layer=layer)
    D, per_frame = CONFIG.hidden_size, CONFIG.num_conv_pos_embeddings / CONFIG.num_conv_pos_embedding_groups
    assert counter.get_total_flops() == benchmark.forward_flop(CONFIG, samples, layer) + 2 * D * D * per_frame
    features = hubert.conv_features(torch.randn(1, samples)).detach()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        next(hubert.layers(features))
    assert counter.get_total_flops() == benchmark.forward_flop(CONFIG, samples, 0, conv=False) + 2 * D * D * per_frame


def test_training_work_is_three_forwards_but_for_what_is_frozen_or_kept():
    whole, rest = benchmark.forward_flop(CONFIG, 16_000), benchmark.forward_flop(CONFIG, 16_000, conv=False)
    assert benchmark.training_flop(CONFIG, 16_000, "trained") == pytest.approx(3 * whole)
    assert benchmark.training_flop(CONFIG, 16_000, "kept") == pytest.approx(3 * rest)
    assert benchmark.training_flop(CONFIG, 16_000, "frozen") == pytest.approx(whole + 2 * rest)


def test_the_limits_in_the_benchmarks_are_those_counted():
    """GFLOP per second of audio of base, as docs/BENCHMARKS.md has them."""
    base, text = PRESETS["base"].model, (small.ROOT / "docs" / "BENCHMARKS.md").read_text(encoding="utf-8")

    def counted(seconds: int, **options: int) -> float:
        return benchmark.forward_flop(base, 16_000 * seconds, **options) / 1e9 / seconds
    assert f"| forward, 1 s to 30 s | {counted(1):.1f} to {counted(30):.1f} |" in text
    assert f"| forward to layer 9, 1 s to 30 s | {counted(1, layer=9):.1f} to {counted(30, layer=9):.1f} |" in text
    trained = [benchmark.training_flop(base, 16_000, conv) / 1e9 for conv in ("trained", "frozen", "kept")]
    assert [f"{x:.0f}" for x in trained] == ["41", "32", "27"]
    for words, value in (("with the conv encoder: three times", 41), ("conv encoder frozen: 4.9", 32),
                         ("its output kept: 3 x 8.9", 27)):
        assert any(words in line and line.endswith(f"| {value} |") for line in text.splitlines())


def test_the_gradients_of_the_scaling_table():
    """Trained parameters of base with a frozen conv encoder and 500 units of width 256, as docs/CLUSTER.md has them."""
    table = shapes(PRESETS["base"].model)
    trained = sum(math.prod(shape) for name, shape in table.items() if not name.startswith("feature_extractor"))
    trained += 768 * 256 + 256 + 500 * 256
    text = (small.ROOT / "docs" / "CLUSTER.md").read_text(encoding="utf-8")
    assert f"{trained / 1e6:.1f} million trained parameters" in text
    assert f"{4 * trained / 1e6:.0f} MB in float32" in text


def test_a_contest_of_known_contenders():
    """One sleeps three times as long as the other and holds 64 MB: ratio 3, seen in the memory, in the order given."""
    def heavy():
        time.sleep(0.06)
        return torch.ones(16 * 2 ** 20).sum()
    order = []
    contenders = [benchmark.Contender("slow", lambda: (order.append("a"), heavy()), 1e6),
                  benchmark.Contender("quick", lambda: (order.append("b"), time.sleep(0.01)), 2e6, 3.0)]
    slow, quick = benchmark.compete(contenders, 3, CPU, torch.float32)
    assert "".join(order) == "ab" * 4                                           # warm-up, then in turn
    assert quick["ratio"]["median"] > 2 and slow["ratio"] == {"median": 1, "least": 1, "greatest": 1}
    assert slow["seconds"]["least"] >= 0.06 and quick["seconds"]["least"] >= 0.01
    assert slow["peak_bytes"] > 40e6 > 10e6 > quick["peak_bytes"]
    assert quick["flop_per_second"] == pytest.approx(2e6 / quick["seconds"]["median"])
    lines = benchmark.table("Title", [slow, quick]).splitlines()
    assert len(lines) == 6 and {line.count("|") for line in lines[2:]} == {11} and "quick" in lines[-1]


def test_a_peak_is_watched_where_the_kernel_keeps_none(monkeypatch):
    def refuse(self, text):
        raise PermissionError
    monkeypatch.setattr(benchmark.Path, "write_text", refuse)
    allocator.give_back()
    with benchmark.Peak(CPU) as peak:
        held = torch.ones(32 * 2 ** 20)
        time.sleep(0.1)
    assert peak.bytes > 80e6 and held.sum() > 0


@pytest.mark.parametrize("what", ["forward", "extract", "pretrain", "finetune", "kmeans", "data", "ranks"])
def test_the_script_times_and_records(what, monkeypatch, capsys, tmp_path):
    """Every contest at the smallest size, ours alone; the peers' part runs where they are installed (slow test)."""
    records = bench(what, "", monkeypatch, capsys, tmp_path)
    assert all(record["name"].startswith("framealign") or what == "ranks" for record in records)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["extract", "pretrain", "finetune", "kmeans"])
def test_the_script_times_the_peers(what, monkeypatch, capsys, tmp_path):
    """The states of the peers' one by one are ours to 2e-5, so both did the same work."""
    for name in ("transformers", "sklearn", "torchaudio"):
        pytest.importorskip(name)
    records = bench(what, "transformers,torchaudio,sklearn", monkeypatch, capsys, tmp_path)
    assert any(not record["name"].startswith("framealign") for record in records)
    for record in records:
        if "one by one" in record["name"]:
            assert float(record["difference"].split(",")[0]) <= 2e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")               # of torch.compile's own parts
def test_the_script_times_compiled_blocks(monkeypatch, capsys, tmp_path):
    names = [record["name"] for record in bench("pretrain", "", monkeypatch, capsys, tmp_path, "--compile")]
    assert names == [f"framealign, conv encoder {kind}" for kind in ("trained", "kept", "kept, blocks compiled")]


def bench(what: str, against: str, monkeypatch, capsys, folder, *flags: str) -> list[dict]:
    monkeypatch.setattr(sys, "argv", [
        "bench.py", "--what", what, "--preset", "tiny", "--against", against, "--utterances", "2", "--shortest", "0.6",
        "--longest", "1.1", "--clusters", "8", "--frames", "400", "--rounds", "1", "--threads", "1", "--out",
        str(folder / "bench.json"), *flags])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(small.ROOT / "bin" / "bench.py"), run_name="__main__")
    output = capsys.readouterr()
    assert end.value.code == 0, output.err
    results = json.loads((folder / "bench.json").read_text())["results"]
    records = [record for result in results for record in result["records"]]
    assert records and all(record["seconds"]["least"] > 0 and record["name"] in output.out for record in records)
    return records
