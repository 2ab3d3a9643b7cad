"""The frozen probe: the mean may be taken first, the head that is left is the one that was trained, and it learns."""
import dataclasses
import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import random_models
import ranks
import torch
import torch.nn.functional as F

from framealign.corpus.protocols import SELECTIONS, Split, split
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.predictions import Predictions
from framealign.emotion.recogniser import Recogniser
from framealign.hubert import fast
from framealign.hubert.model import Hubert
from framealign.recipe.session_config import TINY
from framealign.training import probe
from framealign.training.training_config import ProbeConfig, TrainingRun
from framealign.units import extraction, frame_store
from framealign.units.frame_store import FrameStore

LABELS = ["neutral", "happy", "angry", "sad"]
CPU = torch.device("cpu")


class Means(FrameStore):
    """A store that holds given rows (U, F), one of each utterance."""

    def __init__(self, rows: torch.Tensor):
        self.rows = rows

    def read(self, utterance: int, start: int = 0, stop: int | None = None) -> torch.Tensor:
        return self.rows[utterance][None]


def settings(**changes) -> ProbeConfig:
    return ProbeConfig(**({"seed": 3, "epochs": 4, "batch_size": 5, "projection_size": 6, "lr": 1e-2} | changes))


def base(config, seed: int = 1) -> Hubert:
    return random_models.make(dataclasses.replace(config, initializer_range=0.3), seed)


def run(config, tones, folder: Path, selection: str = "clean", **changes) -> dict:
    return probe.probe(base(config), tones, split(tones, "1", selection)[0], LABELS,
                       settings(selection=selection, **changes), TrainingRun(folder, CPU))


def data_of(tones, means: torch.Tensor, config) -> probe.MeansData:
    """All tones train, with these means (U, (L + 1) D)."""
    return probe.MeansData(tones, Split(tones, [], [], "all"), LABELS, Hubert(config), Means(means))


def random_head(model: EmotionModel, seed: int = 0, std: float = 1.0) -> EmotionModel:
    generator = torch.Generator().manual_seed(seed)
    for parameter in [model.layer_weights, *model.projector.parameters(), *model.classifier.parameters()]:
        parameter.data = std * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
    return model


# The mean and the linear maps commute

@pytest.mark.parametrize("shape", random_models.NARROWS)
@pytest.mark.parametrize("fast_path", (True, False))
@torch.inference_mode()
def test_the_mean_may_be_taken_first(shape, fast_path):
    """Logits of the means of all layers are, exactly, the mean of the frames' logits, frame by frame in float64; and
    what the model gives in float32 of a padded batch of random lengths.
    """
    hubert = random_models.make(random_models.NARROWS[shape], dtype=torch.float64)
    model = random_head(EmotionModel(hubert, LABELS, "layers", projection_size=5).double(), std=0.3)
    single = random_head(EmotionModel(random_models.make(random_models.NARROWS[shape]), LABELS, "layers", 0.1,
                                      fast_path, projection_size=5), std=0.3).eval()
    lengths = [400, *np.random.default_rng(0).integers(401, 20_000, 6).tolist()]
    waveforms = [random_models.sound(n, seed=n, dtype=torch.float64) for n in lengths]
    layers = [[x[0] for x in hubert.all_states(waveform[None])] for waveform in waveforms]      # L + 1 times (T, D)
    found = probe.logits_of(model, torch.stack([torch.stack([x.mean(0) for x in own]) for own in layers]))

    shares = np.exp(model.layer_weights.numpy()) / np.exp(model.layer_weights.numpy()).sum()
    maps = [(module.weight.numpy().T, module.bias.numpy()) for module in (model.projector, model.classifier)]
    batch = random_models.padded([waveform.float() for waveform in waveforms])
    together, (_, attention, posterior) = single(*batch), single.over_time(*batch)
    assert single.states(*batch)[0].shape == (7, hubert.num_frames(max(lengths)), 5)
    for i, own in enumerate(layers):
        frame_logits = sum(share * states.numpy() for share, states in zip(shares, own, strict=True))
        for weight, bias in maps:
            frame_logits = frame_logits @ weight + bias                         # (T, classes)
        np.testing.assert_allclose(found[i], frame_logits.mean(0), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(together[i], found[i], rtol=1e-4, atol=1e-4)
        T = len(frame_logits)
        np.testing.assert_allclose(posterior[i, :T], torch.from_numpy(frame_logits).softmax(-1), atol=1e-4)
        np.testing.assert_allclose(attention[i], [1 / T] * T + [0] * (attention.shape[1] - T), rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_a_head_of_scaled_means_becomes_one_of_means(micro, seed):
    generator = torch.Generator().manual_seed(seed)
    model = random_head(EmotionModel(Hubert(micro), LABELS, "layers", projection_size=5).double(), seed)
    means, centre = (torch.randn(*shape, 3, 16, generator=generator, dtype=torch.float64) for shape in ((9,), ()))
    scale = torch.tensor([1e-3, 0.7, 40.0], dtype=torch.float64)
    before = probe.logits_of(model, probe.scaled(means, centre, scale))
    probe.unscale(model, centre, scale)
    torch.testing.assert_close(probe.logits_of(model, means), before, rtol=1e-9, atol=1e-9)
    factors = torch.exp(model.layer_weights.detach())
    assert factors.argmax() == 0 and model.layer_weights.isfinite().all()       # the states of the smallest scale


# Training

def test_training_is_the_loop_written_out(micro, tones):
    """Frame by frame in float64: states of unequal numbers of frames, the mean last; AdamW and the schedule by hand."""
    generator = torch.Generator().manual_seed(5)
    frames = [torch.randn(3, T, 16, generator=generator, dtype=torch.float64) * torch.tensor([1, 3, 0.1])[:, None, None]
              for T in range(2, 2 + len(tones))]
    means = torch.stack([x.mean(1).flatten() for x in frames])
    config = settings(epochs=3, weight_decay=0.1, clip_norm=0.05, selection="last")
    torch.manual_seed(0)
    model = EmotionModel(Hubert(micro), LABELS, "layers", projection_size=6)
    head = {name: x.detach().double().clone().requires_grad_() for name, x in model.head().items()}
    data = data_of(tones, means.float(), micro)
    with mock.patch("framealign.runtime.log.Log.write"):
        epoch, shares = probe.train_head(model, data, config, TrainingRun(Path(), CPU))
    assert epoch == 3 and sum(shares) == pytest.approx(1)

    centre = torch.stack([x.mean(1) for x in frames]).mean(0)
    deviations = torch.stack([x.mean(1) for x in frames]) - centre
    scale = [float(np.sqrt(np.mean(deviations[:, layer].numpy() ** 2))) for layer in range(3)]

    def logits(u: int) -> torch.Tensor:
        w = head["layer_weights"].softmax(0)
        x = sum(w[layer] * (frames[u][layer] - centre[layer]) / scale[layer] for layer in range(3))         # (T, D)
        y = x @ head["projector.weight"].T + head["projector.bias"]
        return (y @ head["classifier.weight"].T + head["classifier.bias"]).mean(0)

    first, second, update, updates = {}, {}, 0, 3 * int(np.ceil(len(tones) / 5))
    labels = torch.tensor([LABELS.index(u.label) for u in tones])
    for number in range(1, 4):
        for batch in probe.draw(labels, torch.zeros_like(labels), config, number):
            update += 1
            loss = F.cross_entropy(torch.stack([logits(u) for u in batch]), labels[batch])
            gradients = dict(zip(head, torch.autograd.grad(loss, head.values())))
            norm = float(torch.sqrt(sum(g.square().sum() for g in gradients.values())))
            lr = 1e-2 * (updates - update) / updates
            for name, g in gradients.items():
                g = g * min(1.0, 0.05 / (norm + 1e-6))
                first[name] = 0.9 * first.get(name, 0) + 0.1 * g
                second[name] = 0.999 * second.get(name, 0) + 0.001 * g ** 2
                step = first[name] / (1 - 0.9 ** update) / (torch.sqrt(second[name] / (1 - 0.999 ** update)) + 1e-8)
                head[name].data = head[name].data * (1 - lr * 0.1) - lr * step
    with torch.no_grad():
        expected = torch.stack([logits(u) for u in range(len(tones))])
        found = probe.logits_of(model, means.float().unflatten(1, (3, 16)))
    assert expected.std() > 0.05 and (expected - found).abs().max() < 2e-3 * expected.abs().max()
    torch.testing.assert_close(torch.tensor(shares), head["layer_weights"].detach().softmax(0).float(), atol=1e-4,
                               rtol=0)


def test_without_decay_it_reaches_the_optimum_of_logistic_regression(micro, tones):
    """Sanity: a projection adds nothing to a linear classifier. Classes overlap, so that the optimum is finite."""
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn, of the extra [oracle], is not "
                                       "installed")
    many = [dataclasses.replace(u, id=f"{u.id}-{i}") for i in range(10) for u in tones]
    labels = [LABELS.index(u.label) for u in many]
    rows = torch.randn(len(many), 16, generator=torch.Generator().manual_seed(0))
    rows += 0.5 * F.one_hot(torch.tensor(labels), 16)
    data = data_of(many, rows.repeat(1, 3), micro)                      # all layers the same
    model = EmotionModel(Hubert(micro), LABELS, "layers", projection_size=6)
    config = settings(epochs=150, batch_size=240, weight_decay=0.0, balanced=False, selection="last")
    with mock.patch("framealign.runtime.log.Log.write"):
        probe.train_head(model, data, config, TrainingRun(Path(), CPU))
    logits = probe.logits_of(model, rows[:, None].expand(-1, 3, -1)).detach()
    found = float(F.cross_entropy(logits, torch.tensor(labels)))
    best = linear_model.LogisticRegression(C=np.inf, max_iter=1000, tol=1e-8).fit(rows.numpy(), labels)
    p = best.predict_proba(rows.numpy())[np.arange(len(many)), labels]
    assert -np.log(p).mean() - 1e-6 < found < -np.log(p).mean() + 1e-3 < 1.3


@pytest.fixture(scope="module")
def protocols(micro, tones, tmp_path_factory) -> dict[str, tuple[Path, dict]]:
    """A run by each protocol: its folder and results."""
    done = {}
    for selection in SELECTIONS:
        folder = tmp_path_factory.mktemp(selection)
        done[selection] = folder, run(micro, tones, folder, selection)
    return done


@pytest.mark.parametrize("selection", SELECTIONS)
def test_each_protocol_selects_and_tests_as_it_says(protocols, tones, selection):
    folder, results = protocols[selection]
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2, 3, 4]
    valid = [line["valid_ua"] for line in log if "valid_ua" in line]
    assert results["selected_epoch"] == (valid.index(max(valid)) + 1 if valid else 4)
    assert (selection == "last") == (valid == [])
    if selection == "best-test":
        assert results["test"]["ua"] == pytest.approx(max(valid))
    elif valid:
        assert results["valid"]["ua"] == pytest.approx(max(valid))
    part = split(tones, "1", selection)[0]
    assert results["num_utterances"] == {name: len(getattr(part, name)) for name in ("train", "valid", "test")}
    assert results["optimistic"] == (selection in ("reference", "best-test")) and results["test_max_seconds"] == 0
    assert sum(results["layer_weights"]) == pytest.approx(1) and len(results["layer_weights"]) == 3
    assert json.loads((folder / "results.json").read_text()) == results


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_recogniser_left_behind_is_the_one_that_was_tested(protocols, micro, tones, selection):
    """On the sounds themselves; its encoder is the base model, to the bit."""
    folder, _ = protocols[selection]
    recogniser = Recogniser.from_pretrained(folder / "recogniser")
    found = Predictions.read(folder / "predictions.csv", {u.id: u for u in tones})
    assert found.ids == [u.id for u in split(tones, "1", selection)[0].test]
    for name, probabilities in zip(found.ids, found.probabilities):
        path = next(u.path for u in tones if u.id == name)
        np.testing.assert_allclose(list(recogniser(path).probabilities.values()), probabilities, atol=2e-5)
    weights = base(micro).state_dict()
    assert all(torch.equal(x, weights[name]) for name, x in recogniser.model.hubert.state_dict().items())


def test_it_learns_what_can_be_learnt(tones, tmp_path):
    """Tones of one pitch an emotion, by the encoder that comes with the project: all of an unseen session."""
    part, = split(tones, "1", "clean")
    results = probe.probe(Hubert.from_pretrained(TINY), tones, part, LABELS, ProbeConfig(), TrainingRun(tmp_path, CPU))
    assert results["test"]["ua"] == 1.0


def test_unbalanced_draws_take_each_utterance_once():
    labels, corpora = torch.tensor([0] * 17 + [1] * 2), torch.tensor([0] * 16 + [1] + [0] * 2)
    batches = list(probe.draw(labels, corpora, settings(balanced=False), 1))
    assert sorted(sum(batches, [])) == list(range(19)) and [len(batch) for batch in batches] == [5, 5, 5, 4]
    for asked, share in ((False, 0.5 / 17), (True, 0.25)):          # of the draws, of the one utterance of corpus 1
        config = settings(balance_corpora=asked)
        drawn = [u for epoch in range(50) for batch in probe.draw(labels, corpora, config, epoch) for u in batch]
        assert 0.4 < np.mean([u >= 17 for u in drawn]) < 0.6
        assert abs(drawn.count(16) - 950 * share) < 5 * (950 * share) ** 0.5


# Interruptions, ranks, errors

def products(folder: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in (folder / "recogniser").iterdir()}
    log = [json.loads(line) | {"seconds_left": 0} for line in (folder / "log.jsonl").read_text().splitlines()]
    return found | {name: (folder / name).read_bytes() for name in ("results.json", "predictions.csv")} | {"log": log}


@pytest.mark.parametrize("place", ("extraction", "training"))
def test_an_interrupted_run_ends_as_an_uninterrupted_one(micro, tones, tmp_path, monkeypatch, place):
    calls = []
    module, name = (fast, "all_states") if place == "extraction" else (probe, "measure")
    whole = getattr(module, name)

    def ends(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(extraction, "CPU_BATCH_SECONDS", 2.0)                   # several groups, and a note of each
    monkeypatch.setattr(frame_store, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(module, name, ends)
    with pytest.raises(KeyboardInterrupt):
        run(micro, tones, tmp_path / "again")
    interrupted = len(calls)
    run(micro, tones, tmp_path / "again")
    continued = len(calls) - interrupted
    run(micro, tones, tmp_path / "once")
    whole_run = len(calls) - interrupted - continued
    assert interrupted == 3 and (continued == whole_run - 2 if place == "extraction" else continued == whole_run)
    assert products(tmp_path / "again") == products(tmp_path / "once")


def test_several_ranks_equal_one(micro, tones, tmp_path):
    one = run(micro, tones, tmp_path / "one")
    several = ranks.run(run, 2, micro, tones, tmp_path / "several")
    assert several == [one] * 2 and products(tmp_path / "several") == products(tmp_path / "one")


def test_means_are_computed_once_for_all_folds(micro, tones, tmp_path, monkeypatch):
    calls, all_states = [], fast.all_states
    monkeypatch.setattr(fast, "all_states", lambda *arguments: calls.append(1) or all_states(*arguments))
    counted = []
    for session in "12":
        part, = split(tones, session, "clean")
        training = TrainingRun(tmp_path / session, CPU, frontend=tmp_path / "means")
        probe.probe(base(micro), tones, part, LABELS, settings(), training)
        counted.append(len(calls))
    assert counted[1] == counted[0] > 0


def test_a_class_missing_in_training_is_one_line(micro, tones, tmp_path):
    part, = split(tones, "1", "clean")
    part = dataclasses.replace(part, train=[u for u in part.train if u.label != "sad"])
    with pytest.raises(ValueError, match="^[^\n]*no training utterance of sad[^\n]*$"):
        probe.probe(base(micro), tones, part, LABELS, settings(), TrainingRun(tmp_path / "run", CPU))
    assert not (tmp_path / "run").exists()
    for name, value in (("epochs", 0), ("lr", -1.0), ("clip_norm", 0.0), ("projection_size", 0), ("selection", "x")):
        with pytest.raises(ValueError, match=f"{name} must "):
            settings(**{name: value})
