"""Counted work against torch's own counter; ratios, memory and tables of contenders that are known; bin/bench.py."""
import importlib.util
import json
import math
import runpy
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import small
import soundfile
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from framealign.runtime import allocator
from framealign.corpus import manifest
from framealign.corpus.utterance import Utterance
from framealign.hubert import model_directory
from framealign.hubert.model import Hubert
from framealign.hubert.objective import MaskedPrediction, MicroBatch, positions_of
from framealign.hubert.parameters import shapes
from framealign.emotion.emotion_model import EmotionModel
from framealign.recipe import comparison
from framealign.recipe.presets import PRESETS
from framealign.commands import benchmark, speed_table
from framealign.commands.speed_table import ROWS

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


def test_the_rate_of_a_training_is_its_last_one(tmp_path):
    """Lines of a validation, or of updates that were skipped, have none."""
    journal = tmp_path / "log.jsonl"
    lines = [{"audio_seconds_per_second": 3.5}, {"audio_seconds_per_second": 7.25}, {"valid_loss": 2.0}]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert benchmark.last_rate(journal) == 7.25


def test_a_machine_is_called_by_its_processor_or_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert benchmark.machine("cuda") == "NVIDIA H200"
    monkeypatch.setattr(benchmark.Path, "read_text", lambda self: "processor : 0\nmodel name\t: AMD EPYC: 9\nmodel "
                        "name\t: other\n")
    assert benchmark.machine("cpu") == "AMD EPYC: 9"


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
    content = speed_table.read(tmp_path / "bench.json")
    for row in ROWS:                                # of the table of all machines
        if row.what == what and row.name.startswith("framealign") and not row.peer and row.name != speed_table.COMPILED:
            assert speed_table.cell(row, [content]), row
    assert content["machine"] and content["settings"]["device"] == "cpu" and content["others_cores"] >= 0


@pytest.mark.slow
@pytest.mark.parametrize("what", ["extract", "pretrain", "finetune", "kmeans"])
def test_the_script_times_the_peers(what, monkeypatch, capsys, tmp_path):
    """The states of the peers' one by one are ours to 2e-5, so both did the same work."""
    for name in ("transformers", "sklearn", "torchaudio"):
        pytest.importorskip(name)
    records = bench(what, "transformers,torchaudio,sklearn", monkeypatch, capsys, tmp_path)
    content = speed_table.read(tmp_path / "bench.json")
    for row in ROWS:
        if row.what == what and row.name != speed_table.COMPILED:
            assert speed_table.cell(row, [content]), row
    for record in records:
        if "one by one" in record["name"]:
            assert float(record["difference"].split(",")[0]) <= 2e-5


@pytest.mark.parametrize("preset", ["tiny", pytest.param("compact", marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", ["pretrain", "finetune"])
def test_the_same_loop_trains_the_encoder_of_transformers(what, preset, monkeypatch, capsys, tmp_path):
    """Both train; of each the time goes to its parts, none of it to a conv encoder whose output is kept."""
    pytest.importorskip("transformers")
    records = {record["name"]: record
               for record in bench(what, "transformers", monkeypatch, capsys, tmp_path, "--preset", preset)}
    theirs = records[speed_table.SAME_LOOP if what == "pretrain" else speed_table.FROZEN]["shares"]
    ours = records[speed_table.KEPT if what == "pretrain" else speed_table.STEP]["shares"]
    assert list(theirs) == list(ours) == list(benchmark.PARTS)
    assert sum(theirs.values()) == pytest.approx(1) == sum(ours.values()) and ours["conv encoder"] == 0
    assert all(theirs.values()) and all(share for part, share in ours.items() if part != "conv encoder")
    if what == "pretrain":
        assert all(records[speed_table.TRAINED]["shares"].values())


def test_the_encoder_of_transformers_gives_our_outputs_and_gradients():
    """In the place of ours, with its weights and without dropout, whatever its configuration would mask or drop."""
    transformers = pytest.importorskip("transformers")
    script = runpy.run_path(str(small.ROOT / "bin" / "bench.py"), run_name="bench")
    hubert = Hubert(replace(CONFIG, hidden_dropout=0.0, feat_proj_dropout=0.0, activation_dropout=0.0)).train()
    hubert.feature_extractor.requires_grad_(False)
    config = model_directory.config_to_json(hubert.config) | {"mask_time_prob": 0.5, "layerdrop": 0.5}
    theirs = transformers.HubertModel(transformers.HubertConfig(**config))
    theirs.load_state_dict(hubert.state_dict())
    other = script["OfTransformers"](theirs.train(), hubert)
    waveform, lengths, is_masked = torch.randn(2, 8000), torch.tensor([8000, 6000]), torch.rand(2, 24) < 0.5
    batch = MicroBatch(waveform, torch.tensor([8000, 8000]), torch.zeros(1, 2, 24, dtype=torch.int64), is_masked,
                       *positions_of(is_masked))

    def recognised(encoder):
        model = EmotionModel(encoder, list("abcd"), fast_path=False)
        torch.nn.init.normal_(model.classifier.weight)
        return model(waveform, lengths)             # (B, classes)

    def predicted(encoder):
        return MaskedPrediction(encoder, [7], 8, 0.1)(batch).masked[0]          # (S, K)

    for compute in (recognised, predicted):
        outputs, gradients = [], []
        for encoder, parameters in ((hubert, hubert), (other, theirs)):
            torch.manual_seed(0)
            outputs.append(compute(encoder))
            outputs[-1].square().sum().backward()
            gradients.append({name: p.grad for name, p in parameters.named_parameters() if p.grad is not None})
            parameters.zero_grad()
        torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-4)
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            scale = gradient.abs().max().item()
            torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-2, atol=1e-3 * scale, msg=name)


def test_parts_of_an_update_that_are_known(monkeypatch):
    """Modules that take 1 and 2 on the way forward, 8 and 16 on the way back, by a clock that they advance."""
    now = [0.0]
    monkeypatch.setattr(benchmark.time, "process_time", lambda: now[0])

    class Takes(torch.autograd.Function):
        @staticmethod
        def forward(context, x, there, back):
            now[0] += there
            context.back = back
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            now[0] += context.back
            return gradient, None, None

    class Part(torch.nn.Module):
        def __init__(self, there, back):
            super().__init__()
            self.there, self.back = there, back

        def forward(self, x):
            return Takes.apply(x, self.there, self.back)
    conv, transformer, head = Part(1, 8), Part(2, 16), Part(2, 16)
    parts, samples = benchmark.Parts(conv, transformer, head), torch.ones(3, requires_grad=True)

    def update():
        now[0] += 64                                # batch and mask
        states = transformer(conv(samples))
        loss = (head(states[:1]) + head(states[1:])).sum()          # twice, as masked and unmasked frames
        loss.backward()
        parts.begin("optimiser")
        now[0] += 128
        parts.begin("rest")
    update()                                        # not timed
    with parts:
        update()
    update()
    assert parts.seconds == {"conv encoder": 9, "transformer": 18, "loss": 36, "optimiser": 128, "rest": 64}


def test_what_others_use_is_the_rest(monkeypatch):
    """Of a machine's used cores, those that this process does not use; nothing where the system does not say."""
    seconds = iter([100.0, 101.0])
    monkeypatch.setattr(benchmark, "_used_by_others", lambda: next(seconds))
    clock = iter([5.0, 9.0])
    monkeypatch.setattr(benchmark.time, "monotonic", lambda: next(clock))
    assert benchmark.OthersWork().cores() == 0.25
    monkeypatch.undo()

    def absent(self):
        raise FileNotFoundError
    began, own = benchmark._used_by_others(), time.process_time()
    while time.process_time() < own + 0.3:
        math.sqrt(2.0)
    assert began is None or -0.2 < benchmark._used_by_others() - began < 30     # the system counts in ticks
    monkeypatch.setattr(benchmark.Path, "read_text", absent)
    assert benchmark.OthersWork().cores() is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")               # of torch.compile's own parts
def test_the_script_times_compiled_blocks(monkeypatch, capsys, tmp_path):
    names = [record["name"] for record in bench("pretrain", "", monkeypatch, capsys, tmp_path, "--compile")]
    assert names == [f"framealign, conv encoder {kind}" for kind in ("trained", "kept", "kept, blocks compiled")]


@pytest.mark.slow
def test_the_script_times_a_fold_of_the_recipe(monkeypatch, capsys, tmp_path):
    """Every stage has its seconds; the projection is that of docs/BENCHMARKS.md from the rates."""
    record, = bench("fold", "", monkeypatch, capsys, tmp_path, "--utterances", "4", "--updates", "4")
    assert {"tapt-units", "tapt-pretrain", "align-units", "align-pretrain", "ser-finetune"} <= {*record["stages"]}
    assert sum(record["stages"].values()) <= record["seconds"]["median"] and record["peak_bytes"] > 0
    hours = 6 * 20_000 * 350 / record["pretraining_rate"] / 3600 + 10 * 40 * 5.6 / record["finetuning_rate"]
    assert record["projected_minutes"] == pytest.approx(60 * hours, rel=1e-6)
    content = speed_table.read(tmp_path / "bench.json")
    assert all(speed_table.cell(row, [content]) for row in ROWS if row.what == "fold")


def test_quick_is_small_but_for_what_is_given(monkeypatch):
    parse = runpy.run_path(str(small.ROOT / "bin" / "bench.py"), run_name="bench")["parse"]
    monkeypatch.setattr(sys, "argv", ["bin/bench.py", "--what", "all", "--longest", "7"])
    plain = vars(parse())
    sys.argv += ["--quick"]
    quick = vars(parse())
    changed = {name for name in plain if plain[name] != quick[name]}
    assert quick["longest"] == 7 and {"quick", "utterances", "clusters"} <= changed and "rounds" not in changed


def test_what_was_measured_is_shown_side_by_side(monkeypatch, capsys, tmp_path):
    """--table prints the files' table, an empty one without a file, and measures nothing."""
    bench("finetune", "", monkeypatch, capsys, tmp_path)
    path = tmp_path / "bench.json"
    content = speed_table.read(path)
    both = speed_table.table([[content], [content]]) + "\n"
    assert run(monkeypatch, capsys, ["--table", path, path]) == (0, both, "")
    one = speed_table.table([[content]]) + "\n"
    assert run(monkeypatch, capsys, ["--table", path.parent]) == (0, one, "") and one != both
    assert run(monkeypatch, capsys, ["--table", "-"]) == (0, speed_table.table([]) + "\n", "")
    status, out, err = run(monkeypatch, capsys, ["--table", path, tmp_path / "none.json"])
    assert (status, out, err) == (2, "", f"error: {tmp_path / 'none.json'}: no such file\n")


def bench(what: str, against: str, monkeypatch, capsys, folder, *flags: str) -> list[dict]:
    status, out, err = run(monkeypatch, capsys, [
        "--what", what, "--preset", "tiny", "--against", against, "--utterances", "2", "--shortest", "0.6",
        "--longest", "1.1", "--clusters", "8", "--frames", "400", "--rounds", "1", "--threads", "1", "--out",
        folder / "bench.json", *flags])
    assert status == 0, err
    results = json.loads((folder / "bench.json").read_text())["results"]
    records = [record for result in results for record in result["records"]]
    assert records and all(record["seconds"]["least"] > 0 and record["name"] in out for record in records)
    return records


def run(monkeypatch, capsys, flags: list) -> tuple[int, str, str]:
    """The script in this process: exit status and both outputs."""
    monkeypatch.setattr(sys, "argv", ["bin/bench.py", *map(str, flags)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(small.ROOT / "bin" / "bench.py"), run_name="__main__")
    return (end.value.code, *capsys.readouterr())


# Logistic regression on utterance statistics

def test_statistics_tell_tones_apart_here_and_on_another_corpus(table, tmp_path, monkeypatch, capsys):
    """Each emotion is a pitch: all right on every fold by speakers, and on other sound of two of the pitches.

    The files that it writes are those that bin/evaluate.py compares, and say what is printed.
    """
    pytest.importorskip("sklearn")
    draw, others = np.random.default_rng(5), []
    for number, (label, pitch) in enumerate([("neutral", 250), ("sad", 3200)] * 3):   # Hz, as in `tones`
        time = np.arange(9600) / 16_000
        sound = 0.2 * np.sin(2 * np.pi * pitch * time) + 0.01 * draw.standard_normal(9600)
        soundfile.write(tmp_path / f"{number}.wav", sound, 16_000)
        others.append(Utterance(f"other{number}", tmp_path / f"{number}.wav", 9600, "1", f"s{number}", label=label))
    manifest.write(tmp_path / "other.tsv", others)
    out, csv = tmp_path / "new" / "out.json", tmp_path / "statistics.csv"
    status, printed, err = run(monkeypatch, capsys, [
        "--what", "statistics", "--corpus", table, "--folds", "speakers", "--on", tmp_path / "other.tsv", "--out", out,
        "--predictions", csv, "--threads", "1"])
    assert status == 0 and not err, err
    (result,) = json.loads(out.read_text())["results"]
    assert result["pooled"]["ua"] == result["mean"]["ua"] == 1 and len(result["folds"]) == 6
    assert result["on"][str(tmp_path / "other.tsv")]["ua"] == 1
    assert {*result["processor_seconds"]} == {"statistics", "folds", "other corpora"}
    lines = printed.splitlines()
    assert [line.split()[1:3] for line in lines if line.split()[:1] in (["mean"], ["pooled"])] == [["100.0"] * 2] * 2
    assert "folds by speaker" in lines[0] and lines[-1].startswith("seconds of the processor: statistics ")
    side, = comparison.predictions_of(csv)
    assert len(side.ids) == 24 and (side.predicted == side.true).all()


def test_the_regression_is_the_optimum_of_its_objective():
    """0.5 |W|^2 + C sum w CE of standardised vectors, w = U / (classes x those of the class), minimised by torch."""
    pytest.importorskip("sklearn")
    draw, strength = np.random.default_rng(0), 0.1
    numbers = np.repeat([0, 1, 2], [40, 15, 25])
    vectors = 3 + 7 * draw.standard_normal((80, 5)) + numbers[:, None]
    fit = runpy.run_path(str(small.ROOT / "bin" / "bench.py"), run_name="bench")["logistic_regression"]
    x = torch.from_numpy((vectors - vectors.mean(0)) / vectors.std(0))
    weights = torch.from_numpy(80 / (3 * np.bincount(numbers)))
    W, b = (torch.zeros(size, dtype=torch.float64, requires_grad=True) for size in ((5, 3), (3,)))
    solver = torch.optim.LBFGS([W, b], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14)

    def objective():
        solver.zero_grad()
        loss = cross_entropy(x @ W + b, torch.from_numpy(numbers), weights, reduction="sum")
        value = 0.5 * W.square().sum() + strength * loss
        value.backward()
        return value
    solver.step(objective)
    expected = (x @ W + b).softmax(-1).detach().numpy()
    np.testing.assert_allclose(fit(vectors, numbers, strength)(vectors), expected, atol=2e-3)


@pytest.mark.parametrize("flags, words", [
    (["--what", "statistics"], "--what statistics needs --corpus, a manifest or table"),
    (["--what", "statistics", "--corpus", "nowhere.tsv"], "nowhere.tsv"),
    (["--what", "statistics", "--corpus", "TABLE", "--folds", "7"], "--folds 7 makes 7 groups of speakers, and"),
    (["--what", "statistics", "--corpus", "TABLE", "--folds", "none"], "--folds must be session, speakers, "),
    (["--what", "statistics", "--corpus", "TABLE", "--classes", "joy,fear"], "no label is one of the classes joy, f"),
    (["--what", "statistics", "--corpus", "TABLE", "--on", "TABLE"], "24 of its 24 sounds are trained on"),
    (["--what", "statistics", "--corpus", "TABLE", "--on", "TABLE", "--label-share", "0.1"], "leave out --label-share"),
    (["--what", "statistics", "--corpus", "TABLE", "--out", "TABLE/a.json"], "a file, not a folder"),
    (["--what", "kmeans", "statistics"], "--what statistics goes alone, got --what kmeans statistics"),
    (["--what", "kmeans", "--folds", "5"], "--folds is of --what statistics, got --what kmeans"),
    (["--on", "TABLE"], "--on is of --what statistics, got --what forward")])
def test_what_statistics_cannot_do_is_said_in_one_line(flags, words, table, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    status, out, err = run(monkeypatch, capsys, [flag.replace("TABLE", str(table)) for flag in flags])
    assert status == 2 and not out and err.startswith("error: ") and err.count("\n") == 1 and words in err


def test_without_scikit_learn_statistics_say_what_to_install(table, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "sklearn" else find_spec(name))
    status, out, err = run(monkeypatch, capsys, ["--what", "statistics", "--corpus", table])
    assert (status, out, err) == (2, "", "error: --what statistics needs scikit-learn, which is not installed: pip "
                                  "install scikit-learn\n")
