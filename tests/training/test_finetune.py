"""Emotion recognition: pooling against a brute force, batches, every selection protocol, one test, exact resume."""
import csv
import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ranks
import soundfile
import stopped
import torch
import torch.nn.functional as F

from framealign.runtime.seeds import derive_seed
from framealign.sound import audio
from framealign.sound.frames import EVERY_20_MS, frames_in, num_samples_of
from framealign.corpus.cropping import Crop, Waveforms, frame_counts
from framealign.corpus.protocols import SELECTIONS, Split, split
from framealign.corpus.utterance import CLASSES, Stretch, Utterance
from framealign.hubert import model_directory
from framealign.hubert.masking import span_mask
from framealign.hubert.model import Hubert
from framealign.emotion import calibration, diarization, metrics
from framealign.emotion.emotion_model import AttentionPooling, EmotionModel, MeanPooling
from framealign.emotion.predictions import Predictions
from framealign.emotion.recogniser import Recogniser
from framealign.training import batches, checkpoint, finetune, optimiser
from framealign.training.training_config import FinetuneConfig, ProbeConfig, TrainingRun

CPU, LABELS = torch.device("cpu"), list(CLASSES)
QUIET = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0, "layerdrop": 0.0}


def settings(**changes: object) -> FinetuneConfig:
    return FinetuneConfig(**({"seed": 3, "epochs": 3, "lr": 1e-3, "batch_size": 8, "micro_batch_size": 3,
                              "max_seconds": 0.5} | changes))


def base(config, seed: int = 1, **changes: object) -> Hubert:
    torch.manual_seed(seed)
    return Hubert(dataclasses.replace(config, **changes))


POOLINGS = ("attention", "mean", "frames", "layers")       # of an EmotionModel


def head_of(model: EmotionModel) -> list[torch.nn.Parameter]:
    """All parameters but the encoder's."""
    return [x for name, x in model.named_parameters() if not name.startswith("hubert.")]


def recogniser(config, pooling: str = "attention", seed: int = 1, **changes: object) -> EmotionModel:
    """A model in evaluation mode whose every parameter matters."""
    hubert = base(config, seed, **changes)
    model = EmotionModel(hubert, LABELS, pooling)
    for parameter in [*hubert.encoder.parameters(), *head_of(model)]:
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


def run(micro, tones, folder: Path, config: FinetuneConfig, part: Split | None = None, **rest) -> dict:
    """Fine-tune on the fold that holds session 1 out."""
    part = part or split(tones, "1", config.selection)[0]
    return stopped.finetune(base(micro), tones, part, LABELS, config, folder, **rest)


def voted(utterance: Utterance, *votes: tuple[str, float]) -> Utterance:
    return dataclasses.replace(utterance, votes=votes)


def drawn_from(counts: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
    """What batches are drawn from: all of these utterances train."""
    return SimpleNamespace(train=list(range(len(counts))), counts=counts, labels=labels, framing=EVERY_20_MS)


def fold_data(tones: list) -> finetune.FoldData:
    """The tones as a fold of which nobody trains or tests."""
    return finetune.FoldData(tones, Split([], [], [], "none"), LABELS, Waveforms(tones, True))


def read_log(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    timing = {"seconds_left", "audio_seconds_per_second"}
    return [{key: value for key, value in line.items() if key not in timing} for line in lines]


def read_predictions(folder: Path) -> list[dict[str, str]]:
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return EmotionModel.from_pretrained(folder).state_dict()


def same_to_the_bit(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def padded(waveforms: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True), torch.tensor([len(x) for x in waveforms])


# The model

@pytest.mark.parametrize("seed", range(3))
def test_attention_is_the_papers(seed):
    """softmax over the real frames of tanh(h . w), frame by frame in numpy; nothing beyond an utterance's end."""
    generator = torch.Generator().manual_seed(seed)
    pooling = AttentionPooling(6).double()
    pooling.weight.data = torch.randn(6, generator=generator, dtype=torch.float64)
    states, counts = torch.randn(3, 9, 6, generator=generator, dtype=torch.float64), (9, 1, 5)
    is_valid = torch.arange(9)[None] < torch.tensor(counts)[:, None]
    found = pooling.attention(states, is_valid).detach().numpy()
    for b, T in enumerate(counts):
        scores = [np.exp(np.tanh(sum(states[b, t, d].item() * pooling.weight[d].item() for d in range(6))))
                  for t in range(T)]
        np.testing.assert_allclose(found[b, :T], np.array(scores) / sum(scores), rtol=1e-12)
        assert (found[b, T:] == 0).all()
    mean = MeanPooling().attention(states, is_valid).numpy()
    np.testing.assert_allclose(mean, [[1 / T] * T + [0] * (9 - T) for T in counts], rtol=1e-12)
    spoilt = states.masked_fill(~is_valid[..., None], 1e6)
    assert torch.equal(pooling.attention(spoilt, is_valid), pooling.attention(states, is_valid))


@pytest.mark.parametrize("pooling", ("attention", "mean", "frames"))
def test_logits_are_the_classifier_on_the_pooled_states(micro, pooling):
    model = recogniser(micro, pooling)
    waveform = torch.randn(1, 9_000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        states = model.hubert.states(waveform)[0].double()                      # (T, D)
        weight = model.pooling.weight.double() if pooling == "attention" else torch.zeros(16)
        a = torch.tanh(states @ weight.double()).softmax(0)
        if pooling == "frames":                     # 1 - p(neutral) + 0.1, made to add up to 1
            p = (states @ model.frames.weight.double().T + model.frames.bias.double()).softmax(-1)
            a = (1.1 - p[:, 0]) / (1.1 - p[:, 0]).sum()
        expected = (a @ states) @ model.classifier.weight.double().T + model.classifier.bias
        found = model(waveform, torch.tensor([9_000]))[0]
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ("group", "layer"))
@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_changes_no_logit_and_no_gradient(micro, norm, pooling):
    model = recogniser(micro, pooling, feat_extract_norm=norm)
    generator = torch.Generator().manual_seed(0)
    waveforms = [torch.randn(n, generator=generator) for n in (400, 9_000, 3_000, 719, 720, 15_000)]
    target = torch.arange(6) % 4
    together = model(*padded(waveforms))
    alone = torch.cat([model(x[None], torch.tensor([len(x)])) for x in waveforms])
    assert torch.allclose(together, alone, rtol=0, atol=2e-5)
    parameters = [p for name, p in model.named_parameters() if name != "hubert.masked_spec_embed"]
    gradients = [torch.autograd.grad(F.cross_entropy(x, target), parameters) for x in (together, alone)]
    floor = 1e-6 * max(float(y.abs().max()) for y in gradients[1])
    for x, y in zip(*gradients):
        assert torch.allclose(x, y, rtol=0, atol=1e-5 * float(y.abs().max()) + floor)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_is_said_over_time_adds_up_to_what_is_said_once(micro, pooling):
    """The classifier is linear: the attention's mean of the frames' logits is the utterance's logits."""
    model = recogniser(micro, pooling)
    generator = torch.Generator().manual_seed(0)
    inputs, lengths = padded([torch.randn(n, generator=generator) for n in (9_000, 4_000)])
    probabilities, attention, posterior = model.over_time(inputs, lengths)
    with torch.inference_mode():
        states, is_valid = model.states(inputs, lengths)
        logits = model(inputs, lengths)
        frame_logits = states @ model.classifier.weight.T + model.classifier.bias   # (B, T, classes)
        of_frames = model.frames(states) if pooling == "frames" else frame_logits
    assert torch.allclose(posterior, of_frames.softmax(-1), atol=1e-6)
    assert torch.allclose((attention[..., None] * frame_logits).sum(1), logits, atol=1e-4)
    assert torch.allclose(probabilities, logits.softmax(-1), atol=1e-5)
    assert torch.allclose(attention.sum(1), torch.ones(2)) and (attention[~is_valid] == 0).all()
    assert is_valid.sum(1).tolist() == [27, 12]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_save_then_load_is_the_identity_and_transformers_opens_the_encoder(micro, pooling, tmp_path):
    model = recogniser(micro, pooling)
    model.hubert.do_normalize = False
    model.save_pretrained(tmp_path)
    found = EmotionModel.from_pretrained(tmp_path)
    assert same_to_the_bit(found.state_dict(), model.state_dict()) and found.labels == LABELS
    assert isinstance(found.pooling, type(model.pooling)) and not found.training and not found.hubert.do_normalize
    assert found.hubert.config == micro
    waveform = torch.randn(1, 5_000)
    with torch.inference_mode():
        assert torch.equal(found(waveform, torch.tensor([5_000])), model(waveform, torch.tensor([5_000])))
    transformers = pytest.importorskip("transformers", reason="transformers, of the extra [oracle], is not installed")
    theirs = transformers.HubertModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        assert torch.allclose(theirs(waveform).last_hidden_state, model.hubert.states(waveform), atol=1e-5)


@pytest.mark.parametrize("norm", ({"feat_extract_norm": "group"}, {"feat_extract_norm": "layer"},
                                  {"feat_extract_norm": "layer", "do_stable_layer_norm": True}))
def test_pooling_by_layers_is_what_transformers_has(micro, norm, tmp_path):
    """Its HubertForSequenceClassification of the written directory gives the same logits, of a padded batch where the
    conv encoder's norm allows it; and what it writes is read again.
    """
    transformers = pytest.importorskip("transformers", reason="transformers, of the extra [oracle], is not installed")
    torch.manual_seed(2)
    model = EmotionModel(base(dataclasses.replace(micro, **norm)), LABELS, "layers", projection_size=11).eval()
    for parameter in [*model.hubert.encoder.parameters(), *head_of(model)]:
        torch.nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(tmp_path / "ours")
    theirs, info = transformers.HubertForSequenceClassification.from_pretrained(tmp_path / "ours",
                                                                                output_loading_info=True)
    assert not any(info.values()) and theirs.config.id2label == dict(enumerate(LABELS))
    lengths = (9_000, 9_000) if norm["feat_extract_norm"] == "group" else (9_000, 4_000, 1_000)
    waveforms = [torch.randn(n) for n in lengths]
    inputs, lengths = padded(waveforms)
    with torch.inference_mode():
        wanted = theirs.eval()(inputs, attention_mask=(torch.arange(9_000)[None] < lengths[:, None]).long()).logits
        assert wanted.std() > 0.1
        torch.testing.assert_close(model(inputs, lengths), wanted, rtol=1e-4, atol=1e-4)
    theirs.save_pretrained(tmp_path / "theirs")
    assert same_to_the_bit(EmotionModel.from_pretrained(tmp_path / "theirs").state_dict(), model.state_dict())


def test_directories_that_hold_no_recogniser(micro, tmp_path):
    model, layers = recogniser(micro), recogniser(micro, "layers")
    model.hubert.save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="holds an encoder but no recogniser"):
        EmotionModel.from_pretrained(tmp_path / "encoder")
    for name, head in (("bias gone", {k: x for k, x in model.head().items() if k != "classifier.bias"}),
                       ("a module more", model.head() | {"projector.weight": torch.zeros(3)}),
                       ("no matrix", model.head() | {"classifier.weight": torch.zeros(4)}),
                       ("weight gone", {k: x for k, x in model.head().items() if k != "classifier.weight"}),
                       ("a layer more", layers.head() | {"layer_weights": torch.zeros(4)}),
                       ("half a projector", {k: x for k, x in layers.head().items() if k != "projector.bias"}),
                       ("narrower", model.head() | {"pooling.weight": torch.zeros(3)})):
        model_directory.write(tmp_path / name, micro, model.hubert.state_dict(), head, do_normalize=True,
                                   labels=LABELS)
        fault = {"a module more": "projector but no recogniser", "no matrix": "needs a classifier.weight",
                 "weight gone": "needs a classifier.weight"}.get(name, "parameters do not fit")
        with pytest.raises(ValueError, match=f"{name}.*{fault}"):
            EmotionModel.from_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match="nowhere: no such directory"):
        EmotionModel.from_pretrained(tmp_path / "nowhere")


# Batches

def test_classes_are_drawn_equally_often():
    """A class of 5 % gets a quarter of the draws; without balancing every utterance comes once an epoch."""
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 5 + [3] * 5)
    counts = torch.full((100,), 20)
    drawn = Counter()
    for epoch in range(1, 101):
        for crops in finetune.training_batches(drawn_from(counts, labels), settings(), epoch):
            assert len(crops) <= 8
            drawn.update(crop.utterance for crop in crops)
    of_class = np.bincount(labels, weights=[drawn[u] for u in range(100)])
    assert of_class.sum() == 10_000 and np.abs(of_class - 2_500).max() < 5 * np.sqrt(10_000 * 0.25 * 0.75)
    assert min(drawn[u] for u in range(90, 100)) > 5 * max(drawn[u] for u in range(60))
    batches = finetune.training_batches(drawn_from(counts, labels), settings(balanced=False), 1)
    plain = [crop.utterance for crops in batches for crop in crops]
    assert sorted(plain) == list(range(100)) and plain != sorted(plain)


def test_corpora_are_drawn_equally_often_within_each_class():
    """A corpus with 2 of 60 utterances of a class gets half of its draws; without asking for it a thirtieth."""
    labels, corpora = torch.tensor([0] * 60 + [1] * 40), torch.tensor([0] * 58 + [1] * 2 + [0] * 40)
    data, drawn = drawn_from(torch.full((100,), 20), labels), {}
    data.corpora = corpora
    for asked in (False, True):
        config = settings(balance_corpora=asked)
        batches = [list(finetune.training_batches(data, config, epoch)) for epoch in range(1, 101)]
        crops = [crop.utterance for epoch in batches for crops in epoch for crop in crops]
        assert len(crops) == 10_000 and batches[4] == list(finetune.training_batches(data, config, 5))
        drawn[asked] = np.bincount([2 * int(labels[u]) + int(corpora[u]) for u in crops], minlength=4)
    for asked, shares in ((False, (29 / 60, 1 / 60, 1 / 2, 0)), (True, (1 / 4, 1 / 4, 1 / 2, 0))):
        wanted = 10_000 * np.array(shares)
        assert (np.abs(drawn[asked] - wanted) <= 5 * np.sqrt(wanted)).all(), (asked, drawn[asked])


def test_balancing_corpora_needs_to_know_them_and_balanced_classes(micro, tones, tmp_path):
    for kind in (FinetuneConfig, ProbeConfig):
        with pytest.raises(ValueError, match="balance_corpora draws corpora equally often within each class, and"):
            kind(balance_corpora=True, balanced=False)
    all_but_one = [dataclasses.replace(u, corpus="" if u is tones[5] else "a") for u in tones]
    for utterances, first in ((tones, 0), (all_but_one, 5)):
        known = Split(utterances[:16], [], utterances[16:], "s")
        with pytest.raises(ValueError, match=f"utterance {tones[first].id} is of no corpus, and balance_corpora draws "
                                             "every corpus equally often; fill in the manifest's column corpus"):
            finetune.finetune(base(micro), utterances, known, LABELS, settings(balance_corpora=True, selection="last"),
                              TrainingRun(tmp_path / "run", CPU))
        assert not (tmp_path / "run").exists()


def test_batches_are_named_by_seed_and_epoch_and_crops_lie_inside():
    counts, labels = torch.arange(3, 63), torch.arange(60) % 4
    batches = {name: list(finetune.training_batches(drawn_from(counts, labels), settings(seed=name[0]), name[1]))
               for name in ((0, 1), (0, 2), (1, 1))}
    torch.manual_seed(5)
    assert batches[0, 1] == list(finetune.training_batches(drawn_from(counts, labels), settings(seed=0), 1))
    assert batches[0, 1] != batches[0, 2] != batches[1, 1] != batches[0, 1]
    starts = set()
    for crop in (crop for crops in batches[0, 1] for crop in crops):
        assert crop.frames == min(counts[crop.utterance], frames_in(0.5)) == min(counts[crop.utterance], 24)
        assert 0 <= crop.start <= counts[crop.utterance] - crop.frames
        starts.add(crop.start)
    assert len(starts) > 5
    whole = finetune.training_batches(drawn_from(counts, labels), settings(max_seconds=0), 1)
    assert all(crop.frames == counts[crop.utterance] and crop.start == 0 for crops in whole for crop in crops)


@pytest.mark.parametrize("mask_start_fraction", (0.0, 0.2))
def test_micro_batches_change_no_gradient(micro, tones, mask_start_fraction):
    """Any micro-batch size, time masking included, against one pass utterance by utterance in plain words."""
    config = settings(dropout=0.0, mask_start_fraction=mask_start_fraction)
    data = fold_data(tones)
    data.train = list(range(len(tones)))
    crops, labels, source = next(finetune.training_batches(data, config, 1)), data.labels, data.source
    found = {}
    for size in (1, 3, 8):
        model = recogniser(micro, **QUIET)
        training = finetune.Finetuning(model=model, optimizer=None, run=TrainingRun(Path(), CPU), record={},
                                       config=dataclasses.replace(config, micro_batch_size=size), updates_per_epoch=1)
        loss = finetune.train_step(training, model, data, crops, (1, 0))
        found[size] = loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model, total = recogniser(micro, **QUIET), torch.zeros(())
    ordered = sorted(crops, key=lambda crop: crop.frames)
    frames = torch.tensor([crop.frames for crop in ordered])
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "mask", 1, 0))
    masks = span_mask(frames, int(frames.max()), mask_start_fraction, 10, 0, generator)
    assert bool(masks.any()) == (mask_start_fraction > 0)
    for crop, is_masked in zip(ordered, masks):
        x, length = source.batch([crop])
        *_, states = model.hubert.layers(model.hubert.conv_features(x), None, is_masked[None, :crop.frames])
        attention = torch.tanh(states[0] @ model.pooling.weight).softmax(0)
        logits = model.classifier(attention @ states[0])
        total = total - logits.log_softmax(-1)[labels[crop.utterance]] / len(crops)
    total.backward()
    for loss, gradients in found.values():
        assert loss == pytest.approx(total.item(), rel=1e-5)
        wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert wanted.keys() - gradients.keys() == (set() if mask_start_fraction else {"hubert.masked_spec_embed"})
        floor = 1e-6 * max(float(x.abs().max()) for x in wanted.values())
        for name, gradient in gradients.items():
            assert torch.allclose(gradient, wanted[name], rtol=0,
                                  atol=1e-5 * float(wanted[name].abs().max()) + floor), name


@pytest.mark.parametrize("changes", ({"class_weights": True, "balanced": False}, {"label_smoothing": 0.3},
                                     {"soft_labels": True},
                                     {"class_weights": True, "balanced": False, "soft_labels": True,
                                      "label_smoothing": 0.2}))
def test_the_loss_is_weighted_smoothed_and_shared_as_it_says(micro, tones, changes):
    """In numpy, from the logits: each class's share of the target times its weight; over as many as utterances."""
    first, second, *others = tones
    tones = [voted(first, ("neutral", 3.0), ("happy", 1.0), ("fear", 9.0)), voted(second, ("fear", 1.0)), *others]
    config = settings(dropout=0.0, mask_start_fraction=0.0, batch_size=24, **changes)
    data = finetune.FoldData(tones, Split([u for u in tones if u.gender == "F" or u.label != "sad"], [], [], ""),
                             LABELS, Waveforms(tones, True))
    model = recogniser(micro, **QUIET)
    training = finetune.Finetuning(model=model, optimizer=None, run=TrainingRun(Path(), CPU), record={},
                                   config=config, updates_per_epoch=1)
    crops = [Crop(u, 0, int(data.counts[u])) for u in (0, 1, *data.train[4:20])]
    loss = finetune.train_step(training, model, data, crops, (1, 0))

    sizes = np.bincount([LABELS.index(tones[u].label) for u in data.train])
    assert len(set(sizes.tolist())) > 1
    weights = sizes.sum() / (4 * sizes) if config.class_weights else np.ones(4)
    total = 0.0
    for crop in crops:
        target = np.eye(4)[LABELS.index(tones[crop.utterance].label)]
        if config.soft_labels and crop.utterance == 0:
            target = np.array([0.75, 0.25, 0, 0])   # neutral, happy; fear is no class, and the second has its label
        target = (1 - config.label_smoothing) * target + config.label_smoothing / 4
        with torch.no_grad():
            logits = model(*data.source.batch([crop]))[0].double().numpy()
        total -= (weights * target * (logits - np.log(np.exp(logits).sum()))).sum() / len(crops)
    assert loss.item() == pytest.approx(total, rel=1e-5)


def test_class_weights_beside_unbalanced_draws_weigh_classes_equally(tones):
    """What they are for: over an epoch in which each utterance is drawn once, every class has the same weight."""
    part = Split([u for u in tones if u.label != "sad" or u.session == "1"], [], [], "")
    data = finetune.FoldData(tones, part, LABELS, Waveforms(tones, True))
    drawn = [crop.utterance for crops in finetune.training_batches(data, settings(balanced=False), 1) for crop in crops]
    labels = data.labels[drawn]
    sums = np.bincount(labels.numpy(), weights=data.class_weights[labels].numpy())
    assert np.bincount(labels.numpy()).tolist() == [6, 6, 6, 2] and sums == pytest.approx([5] * 4)
    with pytest.raises(ValueError, match="class_weights with balanced draws would count rare classes twice.*--no-bal"):
        settings(class_weights=True)


def test_soft_labels_need_votes(micro, tones, tmp_path):
    part = split(tones, "1", "clean")[0]
    part = dataclasses.replace(part, train=[voted(u, ("fear", 1.0)) for u in part.train])
    with pytest.raises(ValueError, match="session1: soft_labels: no training utterance has votes for these classes"):
        run(micro, tones, tmp_path, settings(soft_labels=True), part)
    assert not list(tmp_path.iterdir())


def test_other_votes_do_not_continue_a_run(micro, tones, tmp_path):
    tones = [voted(u, ("sad", 1.0), ("angry", 2.0)) for u in tones]
    part = split(tones, "1", "clean")[0]
    run(micro, tones, tmp_path, settings(soft_labels=True), part, stop_after=1)
    changed = dataclasses.replace(part, train=[voted(part.train[0], ("sad", 2.0)), *part.train[1:]])
    with pytest.raises(ValueError, match="made with another configuration, split or sound"):
        run(micro, tones, tmp_path, settings(soft_labels=True), changed)


def test_predictions_are_those_of_each_utterance_alone(micro, tones, monkeypatch):
    monkeypatch.setattr(finetune, "PREDICTED_FRAMES", 100)                      # several batches
    model, data = recogniser(micro), fold_data(tones)
    counts, source = data.counts, data.source
    chosen = [7, 3, 20, 11]
    for limit in (0.0, 0.3):
        found = finetune.predict(model, data, chosen, limit, TrainingRun(Path(), CPU))
        for u, p in zip(chosen, found):
            crop = Crop(u, 0, min(int(counts[u]), frames_in(0.3)) if limit else int(counts[u]))
            with torch.inference_mode():
                alone = model(*source.batch([crop]))[0].double().softmax(-1)
            np.testing.assert_allclose(p, alone.numpy(), atol=1e-5)
        assert found.dtype == np.float64


# Protocols

@pytest.fixture(scope="module")
def protocols(micro, tones, tmp_path_factory):
    """Each selection protocol on the fold that holds session 1 out: (folder, results, utterances and their logits at
    each prediction)."""
    done, logits = {}, finetune.FoldData.logits
    for selection in SELECTIONS:
        calls = []

        def counted(data, model, chosen, *rest):
            found = logits(data, model, chosen, *rest)
            calls.append((list(chosen), found))
            return found
        finetune.FoldData.logits = counted
        folder = tmp_path_factory.mktemp(selection)
        try:
            results = run(micro, tones, folder, settings(epochs=4, selection=selection, lr=5e-3))
        finally:
            finetune.FoldData.logits = logits
        done[selection] = folder, results, calls
    return done


def accuracy(tones, chosen: list[int], probabilities: np.ndarray) -> float:
    """UA, written out: mean recall of the four classes."""
    recalls = []
    for index, label in enumerate(LABELS):
        own = [i for i, u in enumerate(chosen) if tones[u].label == label]
        recalls.append(np.mean([probabilities[i].argmax() == index for i in own]))
    return float(np.mean(recalls))


@pytest.mark.parametrize("selection", SELECTIONS)
def test_each_protocol_selects_and_tests_as_it_says(protocols, tones, selection):
    """Which utterances are looked at, how often, which epoch is taken, and what is reported."""
    folder, results, calls = protocols[selection]
    part, = split(tones, "1", selection)[:1]
    place = {u.id: i for i, u in enumerate(tones)}
    train, valid, test = ([place[u.id] for u in x] for x in (part.train, part.valid, part.test))
    assert not set(train) & set(test) and not set(valid) & set(test) and set(train).isdisjoint(valid)
    looked_at = {"last": [], "best-test": [test] * 4}.get(selection, [valid] * 4)
    final = ([valid] if valid else []) + [test]
    assert [chosen for chosen, _ in calls] == looked_at + final
    if selection != "best-test":                    # the test part is touched once
        assert sum(bool(set(chosen) & set(test)) for chosen, _ in calls) == 1
    seen = [accuracy(tones, chosen, found) for chosen, found in calls[:4]] if looked_at else []
    assert results["selected_epoch"] == (seen.index(max(seen)) + 1 if seen else 4)
    log = read_log(folder)
    assert [line["epoch"] for line in log] == [1, 2, 3, 4]
    assert [line["valid_ua"] for line in log if "valid_ua" in line] == pytest.approx(seen)

    tested = accuracy(tones, test, calls[-1][1])
    wanted = (tested + max(seen)) / 2 if selection == "reference" else tested
    assert results["test"]["ua"] == pytest.approx(tested) and results["reported"]["ua"] == pytest.approx(wanted)
    assert results["optimistic"] == (selection in ("reference", "best-test"))
    if selection == "best-test":
        assert results["reported"]["ua"] == pytest.approx(max(seen))
    assert results["selection"] == selection and results["seed"] == 3 and results["classes"] == LABELS
    assert results["num_utterances"] == {"train": len(train), "valid": len(valid), "test": len(test)}
    assert json.loads((folder / "results.json").read_text()) == results


@pytest.mark.parametrize("selection", SELECTIONS)
def test_predictions_recompute_to_the_reported_scores(protocols, tones, selection):
    measures = pytest.importorskip("sklearn.metrics", reason="scikit-learn, of the extra [oracle], is not installed")
    folder, results, _ = protocols[selection]
    rows = read_predictions(folder)
    part = split(tones, "1", selection)[0]
    assert list(rows[0]) == ["id", "true", "predicted", *LABELS]
    assert [(row["id"], row["true"]) for row in rows] == [(u.id, u.label) for u in part.test]
    for row in rows:
        p = [float(row[label]) for label in LABELS]
        assert sum(p) == pytest.approx(1, abs=1e-5) and LABELS[int(np.argmax(p))] == row["predicted"]
    true, predicted = ([row[key] for row in rows] for key in ("true", "predicted"))
    assert results["test"]["wa"] == pytest.approx(measures.accuracy_score(true, predicted))
    assert results["test"]["ua"] == pytest.approx(measures.balanced_accuracy_score(true, predicted))
    assert results["test"]["macro_f1"] == pytest.approx(
        measures.f1_score(true, predicted, average="macro", zero_division=0))
    assert results["test"]["confusion"] == measures.confusion_matrix(true, predicted, labels=LABELS).tolist()
    assert list(results["test"]["recall"].values()) == pytest.approx(
        measures.recall_score(true, predicted, labels=LABELS, average=None))
    over = len({u.speaker for u in part.test})
    assert results["test"]["interval_over"] == f"{over} speaker{'s' if over > 1 else ''}"
    for name, ends in results["test"]["interval_95"].items():
        assert ends is None or 0 <= ends[0] <= results["test"][name] <= ends[1] <= 1


def test_the_recogniser_left_behind_is_the_one_that_was_tested(protocols, tones):
    for folder, _, calls in protocols.values():
        test, found = calls[-1]
        model = EmotionModel.from_pretrained(folder / "recogniser")
        again = finetune.predict(model, fold_data(tones), test, 0.0, TrainingRun(Path(), CPU))
        wanted = model.calibration.probabilities(found)
        np.testing.assert_allclose(again, wanted, atol=2e-3)                    # tested on kept features, float16


@pytest.mark.parametrize("selection", SELECTIONS)
def test_temperatures_are_fitted_on_validation_alone(protocols, tones, selection):
    """By logits of each validation utterance and of its frames; the test's probabilities are over them.

    Where nothing validates, or the validation part is of the test session and looked at, nothing is fitted.
    """
    folder, results, calls = protocols[selection]
    model = EmotionModel.from_pretrained(folder / "recogniser")
    assert model.calibration.fitted_on == results.get("calibration", {}).get("fitted_on", "")
    if selection in ("last", "reference", "best-test"):
        assert model.calibration == calibration.Calibration() and not (folder / "uncalibrated.csv").exists()
        assert "calibration" not in results and "uncalibrated" not in results["test"]
        return

    valid, test = calls[-2][0], calls[-1][0]
    data = fold_data(tones)
    crops = {u: data.source.batch([Crop(u, 0, int(data.counts[u]))]) for u in (*valid, *test)}
    with torch.inference_mode():
        logits = {u: model(*crop)[0].double().numpy() for u, crop in crops.items()}
        of_frames = [model.classifier(model.states(*crops[u])[0][0]).double().numpy() for u in valid]
    true = np.array([LABELS.index(tones[u].label) for u in valid])
    of_valid = np.stack([logits[u] for u in valid])
    found, number = model.calibration, len(valid)
    assert found.utterances == pytest.approx(
        calibration.temperature(of_valid, np.eye(4)[true], np.ones(number)), abs=2e-3)      # kept features are float16
    per_frame = np.concatenate([np.full(len(rows), 1 / len(rows)) for rows in of_frames])
    targets = np.eye(4)[np.repeat(true, [len(rows) for rows in of_frames])]
    wanted = calibration.temperature(np.concatenate(of_frames), targets, per_frame)
    assert found.frames == pytest.approx(wanted, abs=2e-3)
    assert 0.05 < found.utterances != 1 != found.frames
    speakers = len({tones[u].speaker for u in valid})
    assert found.fitted_on == f"validation: {number} utterances of {speakers} speakers"
    shares = calibration.softmax(of_valid / found.utterances)
    np.testing.assert_allclose(found.confidences, shares.max(1), atol=2e-3)
    assert list(found.right) == (shares.argmax(1) == true).tolist()

    of_test = np.stack([logits[u] for u in test])
    for name, value in (("predictions.csv", found.utterances), ("uncalibrated.csv", 1.0)):
        table = Predictions.read(folder / name)
        np.testing.assert_allclose(table.probabilities, calibration.softmax(of_test / value), atol=2e-3)
        assert (table.predicted == of_test.argmax(1)).all()
        key = "calibration" if value != 1 else "uncalibrated"
        assert results["test"][key]["brier"] == pytest.approx(metrics.brier(table.probabilities, table.true), abs=1e-5)
    assert results["calibration"] == {"utterances": found.utterances, "frames": found.frames,
                                      "fitted_on": found.fitted_on}


@pytest.mark.parametrize("selection", ["clean", "speaker"])
def test_the_emotion_over_time_is_scored_where_it_is_known(micro, tones, tmp_path, selection):
    """Of half of the test utterances, by the recogniser that is left behind, on whole sounds; of two trainings by each.
    """
    rng, known = np.random.default_rng(0), []
    for number, utterance in enumerate(tones):
        edges = np.sort(rng.uniform(0, utterance.num_samples / 16_000, 2)).tolist()
        stretches = () if utterance.label == "neutral" else (Stretch(*edges, utterance.label),)
        known.append(dataclasses.replace(utterance, truth=stretches if number % 3 else None))
    splits = split(known, "1", selection)
    found = finetune.finetune_fold(lambda: base(micro), known, splits, LABELS,
                                   settings(selection=selection, epochs=1, test_max_seconds=0.2),
                                   TrainingRun(tmp_path, CPU))
    ways = found.get("ways", [found])
    assert len(ways) == len(splits) and ("over_time" in found) == (selection == "clean")
    assert found["test"]["uncalibrated"]["brier"] == pytest.approx(np.mean(
        [way["test"]["uncalibrated"]["brier"] for way in ways]), abs=1e-5)      # equally many are tested in each
    for number, (way, part) in enumerate(zip(ways, splits), 1):
        folder = tmp_path / f"way{number}" if len(splits) > 1 else tmp_path
        model = Recogniser.from_pretrained(folder / "recogniser")
        pairs = [(u, model(u.path)) for u in part.test if u.truth is not None]
        assert 0 < len(pairs) < len(part.test) and way["over_time"]["num_utterances"] == len(pairs)
        assert way["over_time"] == diarization.scores(pairs)
        assert json.loads((folder / "results.json").read_text())["over_time"] == way["over_time"]
    assert "over_time" not in run(micro, tones, tmp_path / "unknown", settings(epochs=1))


def test_no_part_is_predicted_twice(micro, tones, tmp_path, monkeypatch):
    """With best-test the epoch is selected by the very predictions that `test_every_epoch` records; the temperatures
    are fitted to what is reported of the validation part."""
    calls, logits = [], finetune.FoldData.logits
    monkeypatch.setattr(finetune.FoldData, "logits", lambda *args: calls.append(args[2]) or logits(*args))
    for selection, number in (("best-test", 2 + 1), ("last", 2 + 1), ("clean", 2 * 2 + 2)):
        calls.clear()
        run(micro, tones, tmp_path / selection, settings(epochs=2, selection=selection, test_every_epoch=True))
        assert len(calls) == number
        noted = [json.loads(line) for line in (tmp_path / selection / "epochs.jsonl").read_text().splitlines()]
        results = json.loads((tmp_path / selection / "results.json").read_text())
        best = noted[results["selected_epoch"] - 1]["predicted"]
        assert [LABELS[i] for i in best] == [row["predicted"] for row in read_predictions(tmp_path / selection)]


def test_last_never_selects_even_where_there_is_a_validation_part(micro, tones, tmp_path):
    part = split(tones, "1", "clean")[0]
    results = run(micro, tones, tmp_path, settings(selection="last", epochs=4, lr=5e-3), part)
    assert results["selected_epoch"] == 4 and not any("valid_ua" in line for line in read_log(tmp_path))
    last = torch.load(checkpoint.newest(tmp_path) / "state.pt", weights_only=True)
    assert last["best"]["epoch"] == 4
    assert results["calibration"]["fitted_on"] == "validation: 8 utterances of 2 speakers"     # which is free for that
    assert same_to_the_bit(weights(tmp_path / "recogniser"), weights(tmp_path / "checkpoints" / "00000004"))


def test_truncation_of_the_test_is_recorded(micro, tones, tmp_path):
    whole = run(micro, tones, tmp_path / "whole", settings(epochs=1))
    cut = run(micro, tones, tmp_path / "cut", settings(epochs=1, test_max_seconds=0.3))
    assert (whole["test_max_seconds"], cut["test_max_seconds"]) == (0, 0.3)
    assert read_predictions(tmp_path / "whole") != read_predictions(tmp_path / "cut")


def test_utterances_of_a_frame_or_two_train_and_are_tested(micro, tones, tmp_path):
    """From 400 samples up, more than half of the frames hidden: no NaN, no update skipped, a prediction for each."""
    short, sizes = [], (400, 401, 719, 720, 1040, 1500, 400, 2500)
    for number, utterance in enumerate(tones):
        samples = sizes[number % len(sizes)]
        soundfile.write(tmp_path / f"{number}.wav", audio.load(utterance.path).repeat(2)[:samples].numpy(), 16_000)
        short.append(dataclasses.replace(utterance, path=tmp_path / f"{number}.wav", num_samples=samples))
    for chosen in ({}, {"freeze_conv": False, "pooling": "mean", "fast_path": False}):
        folder = tmp_path / str(len(chosen))
        run(micro, short, folder, settings(mask_start_fraction=0.065, batch_size=3, epochs=2, **chosen))
        assert all(line["skipped_updates"] == 0 and np.isfinite(line["loss"]) for line in read_log(folder))
        assert all(torch.isfinite(x).all() for x in weights(folder / "recogniser").values())
        rows, part = read_predictions(folder), split(short, "1", "clean")[0]
        assert {row["id"] for row in rows} == {u.id for u in part.test}
        assert all(abs(sum(float(row[name]) for name in LABELS) - 1) < 1e-5 for row in rows)


# The loop

def test_only_the_classifier_learns_faster(micro, tones, tmp_path, monkeypatch):
    """AdamW's first step is as long as the rate: w and the encoder move by it, the classifier by seven times that."""
    step, moved = optimiser.step, []

    def measured(optimizer, lr, clip_norm):
        before = [[p.detach().clone() for p in group["params"]] for group in optimizer.param_groups]
        found = step(optimizer, lr, clip_norm)
        moved.append([[float((p.detach() - x).abs().max()) / lr for p, x in zip(group["params"], old)]
                      for group, old in zip(optimizer.param_groups, before)])
        return found
    monkeypatch.setattr(optimiser, "step", measured)
    run(micro, tones, tmp_path, settings(epochs=1, lr=1e-4, weight_decay=0.0, head_lr_factor=7.0, batch_size=4))
    encoder, classifier = moved[1]                  # in the first update w and classifier are 0, so is w's gradient
    assert max(classifier) == pytest.approx(7, rel=0.3) and len(classifier) == 2
    assert max(encoder) < 2 and encoder[-1] == pytest.approx(1, rel=0.3)        # w is the last of them


@pytest.mark.parametrize("stops", ((1, 3), (2, 4)))
def test_resuming_is_bit_identical(micro, tones, tmp_path, monkeypatch, stops):
    """After a stop between two epochs, and after a failure in the middle of one; predictions and recogniser too."""
    config = settings(epochs=4, lr=5e-3, keep_checkpoints=2, batch_size=4)      # two updates an epoch
    results = run(micro, tones, tmp_path / "whole", config)
    step, steps = optimiser.step, []

    def fails(*arguments):
        steps.append(1)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return step(*arguments)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(optimiser, "step", fails)
        run(micro, tones, tmp_path / "parts", config)
    for turn, stop in enumerate(stops):
        torch.manual_seed(turn)
        left = run(micro, tones, tmp_path / "parts", config, stop_after=stop)
        assert left == ({} if stop < 4 else results)
        steps.clear()
        if stop < 4:
            with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
                patched.setattr(optimiser, "step", fails)
                run(micro, tones, tmp_path / "parts", config)
            with open(tmp_path / "parts" / "log.jsonl", "a") as file:       # what a killed run may have left behind
                file.write(json.dumps({"update": stop + 1, "loss": 0.0}) + '\n{"upda')
    assert run(micro, tones, tmp_path / "parts", config) == results
    for name in ("predictions.csv", "results.json", "recogniser/model.safetensors", "recogniser/config.json",
                 "checkpoints/00000008/model.safetensors", "checkpoints/00000006/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "parts")
    a, b = (torch.load(tmp_path / name / "checkpoints" / "00000008" / "state.pt", weights_only=True)
            for name in ("whole", "parts"))
    assert a["best"] == b["best"] and a["record"] == b["record"]
    for x, y in zip(a["optimizer"]["state"].values(), b["optimizer"]["state"].values(), strict=True):
        assert same_to_the_bit(x, y)


def test_augmented_training_keeps_no_features_resumes_and_leaves_the_conv_encoder(micro, tones, tmp_path, capsys):
    """The same bits after a stop in the middle of an epoch; sound is read, and that is said once."""
    config = settings(augment="all", batch_size=4)
    results = run(micro, tones, tmp_path / "whole", config)
    assert capsys.readouterr().err.count("augment all: training reads sound in every epoch; no conv features") == 1
    assert run(micro, tones, tmp_path / "parts", config, stop_after=1.5) == {}
    assert run(micro, tones, tmp_path / "parts", config) == results
    for name in ("predictions.csv", "recogniser/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name
    assert not (tmp_path / "whole" / "frontend").exists()
    after, before = weights(tmp_path / "whole" / "recogniser"), base(micro).feature_extractor.state_dict()
    assert all(torch.equal(after[f"hubert.feature_extractor.{name}"], x) for name, x in before.items())
    run(micro, tones, tmp_path / "plain", settings(batch_size=4))
    assert not same_to_the_bit(after, weights(tmp_path / "plain" / "recogniser"))


def test_it_learns_what_can_be_learnt(micro, tones, tmp_path):
    """Four emotions that are four pitches: without fault as heard in training, well above chance by other speakers."""
    heard, others = [u for u in tones if u.session != "1"], [i for i, u in enumerate(tones) if u.session == "1"]
    again = [dataclasses.replace(u, id=f"again-{u.id}") for u in heard]
    for pooling in ("attention", "mean"):
        folder = tmp_path / pooling
        config = settings(epochs=9, lr=2e-2, selection="last", pooling=pooling, dropout=0.0, max_seconds=0,
                          batch_size=8, micro_batch_size=8, mask_start_fraction=0)
        overfit = Split(heard * 3, [], again, "overfit")
        results = stopped.finetune(base(micro, **QUIET), [*tones, *again], overfit, LABELS, config, folder)
        losses = [line["loss"] for line in read_log(folder)]
        assert results["test"]["ua"] > 0.9 and losses[-1] < 0.5 * losses[0]
        model = EmotionModel.from_pretrained(folder / "recogniser")
        found = finetune.predict(model, fold_data(tones), others, 0.0, TrainingRun(Path(), CPU))
        assert accuracy(tones, others, found) > 0.35                            # chance: 0.25
        assert ("pooling.weight" in weights(folder / "recogniser")) == (pooling == "attention")


def test_a_frozen_conv_encoder_stays_to_the_bit_and_a_trained_one_moves(micro, tones, tmp_path):
    before = {f"hubert.{name}": x for name, x in base(micro).state_dict().items()}
    for freeze_conv, fraction in ((True, 0.2), (False, 0.0)):
        folder = tmp_path / str(freeze_conv)
        run(micro, tones, folder, settings(epochs=2, selection="last", freeze_conv=freeze_conv,
                                           mask_start_fraction=fraction))
        after = weights(folder / "recogniser")
        for name, x in before.items():
            stays = freeze_conv and "feature_extractor" in name or not fraction and "masked_spec_embed" in name
            assert torch.equal(x, after[name]) == stays, name
        assert (folder / "frontend").exists() == freeze_conv


def test_gradients_that_are_not_finite_are_skipped_counted_and_stop_the_run(micro, tones, tmp_path, monkeypatch):
    step = finetune.train_step
    monkeypatch.setattr(finetune, "train_step", lambda *rest: poison(step(*rest), rest[1], rest[-1][1] == 1))
    before = base(micro).state_dict()
    run(micro, tones, tmp_path / "one", settings(batch_size=4, micro_batch_size=4, selection="last"))
    lines = read_log(tmp_path / "one")
    assert [line["skipped_updates"] for line in lines if "loss" in line] == [1, 1, 1]
    skips = [line for line in lines if "skipped_batch" in line]
    assert [(line["epoch"], line["skipped_batch"]) for line in skips] == [(1, 2), (2, 2), (3, 2)]
    heard = [u for u in tones if u.session != "1"]
    for line in skips:
        data = drawn_from(frame_counts(heard), torch.tensor([LABELS.index(u.label) for u in heard]))
        drawn = list(finetune.training_batches(data, settings(batch_size=4, selection="last"), line["epoch"]))[1]
        assert line["utterances"] == sorted({heard[crop.utterance].id for crop in drawn})
    assert all(torch.isfinite(x).all() for x in weights(tmp_path / "one" / "recogniser").values())
    monkeypatch.setattr(finetune, "train_step", lambda *rest: poison(step(*rest), rest[1], True))
    config = settings(batch_size=1, micro_batch_size=1, epochs=4, selection="last")
    run(micro, tones, tmp_path / "all", config, stop_after=1)
    after = weights(tmp_path / "all" / "recogniser")
    assert all(torch.equal(x, after[f"hubert.{name}"]) for name, x in before.items())
    with pytest.raises(ValueError, match="update 32: the last 32 gradients were not finite"):
        run(micro, tones, tmp_path / "all", config)


def poison(loss: torch.Tensor, model: EmotionModel, wanted: bool) -> torch.Tensor:
    """Make a gradient NaN if `wanted`; the loss itself is passed through."""
    if wanted:
        model.classifier.weight.grad[0, 0] = float("nan")
    return loss


# Bad input

def test_a_class_missing_in_training_is_one_line(micro, tones, tmp_path):
    part = split(tones, "1", "last")[0]
    for train, missing in (([u for u in part.train if u.label != "angry"], "angry"), ([], ", ".join(LABELS))):
        with pytest.raises(ValueError, match=f"session1: no training utterance of {missing}; [^\n]*$"):
            run(micro, tones, tmp_path, settings(selection="last"), dataclasses.replace(part, train=train))
    assert not list(tmp_path.iterdir())


def test_parts_that_cannot_be_selected_or_tested_on(micro, tones, tmp_path):
    part = split(tones, "1", "clean")[0]
    strange = dataclasses.replace(part.test[0], label="bored")
    unlabelled = dataclasses.replace(part.valid[0], label="")
    for selection in ("clean", "speaker", "reference"):
        with pytest.raises(ValueError, match=f"selection {selection} needs validation utterances"):
            run(micro, tones, tmp_path, settings(selection=selection), dataclasses.replace(part, valid=[]))
    for changed, message in ((dict(test=[]), "no utterance to test on"),
                             (dict(test=[strange]), f"{strange.id} of the test part has the label bored, which is not"),
                             (dict(valid=[unlabelled]), rf"{unlabelled.id} of the valid part has the label \(none\)")):
        with pytest.raises(ValueError, match=message):
            run(micro, tones, tmp_path, settings(), dataclasses.replace(part, **changed))
    assert not list(tmp_path.iterdir())


def test_another_configuration_or_split_does_not_continue_a_run(micro, tones, tmp_path):
    part = split(tones, "1", "clean")[0]
    run(micro, tones, tmp_path, settings(), stop_after=1)
    log = (tmp_path / "log.jsonl").read_bytes()
    relabelled = [dataclasses.replace(part.train[0], label="sad"), *part.train[1:]]
    for config, changed in ((settings(lr=2e-3), part), (settings(pooling="mean"), part),
                            (settings(), dataclasses.replace(part, train=part.train[1:])),
                            (settings(), dataclasses.replace(part, train=relabelled))):
        with pytest.raises(ValueError, match="made with another configuration, split or sound"):
            run(micro, tones, tmp_path, config, changed)
    assert (tmp_path / "log.jsonl").read_bytes() == log and not (tmp_path / "results.json").exists()


def test_other_sound_of_the_same_length_does_not_continue_a_run(micro, tones, tmp_path):
    moved = [dataclasses.replace(u, path=Path(shutil.copy(u.path, tmp_path))) for u in tones]
    part = split(moved, "1", "clean")[0]
    run(micro, moved, tmp_path / "run", settings(), part, stop_after=1)
    samples = soundfile.read(part.train[3].path, dtype="int16")[0]
    soundfile.write(part.train[3].path, samples[::-1], 16_000)
    with pytest.raises(ValueError, match="made with another configuration, split or sound"):
        run(micro, moved, tmp_path / "run", settings(), part)


# Ranks

def train(micro, tones, folder: Path, changes: dict) -> dict:
    """Eight utterances a batch, of the last one three; stopped within the second epoch and after it, and continued."""
    part = split(tones, "1", "clean")[0]
    part = dataclasses.replace(part, train=[*part.train, *part.train, *part.train[:3]])
    config = settings(freeze_conv=False, **changes)
    hubert = dataclasses.replace(micro, **({} if config.dropout else QUIET))
    for stop_after in (4 / 3, 2):                   # in epochs of three updates
        assert run(hubert, tones, folder, config, part, stop_after=stop_after) == {}
    return run(hubert, tones, folder, config, part)


def alike(mine: object, other: object) -> bool:
    """Results are the same, numbers up to the rounding of probabilities."""
    if isinstance(mine, dict):
        return list(mine) == list(other) and all(alike(mine[key], other[key]) for key in mine)
    if isinstance(mine, (list, tuple)):
        return len(mine) == len(other) and all(map(alike, mine, other))
    return mine == (pytest.approx(other, abs=1e-5) if isinstance(mine, float) else other)


@pytest.mark.parametrize("world, changes", ((2, {"micro_batch_size": 2}), (2, {"micro_batch_size": 3, "dropout": 0.0}),
                                            (4, {"micro_batch_size": 8, "dropout": 0.0}),
                                            (2, {"micro_batch_size": 2, "augment": "all"})))
def test_several_ranks_equal_one(micro, tones, tmp_path, world, changes):
    """Losses, predictions and scores, with time masking on, across an interruption.

    With dropout where micro-batches divide over the ranks. Where they do not, they are split, and dropout is drawn for
    each share: four ranks on one micro-batch, or on three utterances.
    """
    one = train(micro, tones, tmp_path / "one", changes)
    several = ranks.run(train, world, micro, tones, tmp_path / "several", changes)
    assert all(map(alike, several, [one] * world))
    for mine, other in zip(read_log(tmp_path / "one"), read_log(tmp_path / "several"), strict=True):
        assert mine == pytest.approx(other, rel=1e-5)
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-6)
    for mine, other in zip(read_predictions(tmp_path / "one"), read_predictions(tmp_path / "several"), strict=True):
        assert [mine[key] for key in ("id", "true", "predicted")] == [other[key] for key in ("id", "true", "predicted")]
        assert [float(mine[key]) for key in LABELS] == pytest.approx([float(other[key]) for key in LABELS], abs=2e-6)


@pytest.mark.parametrize("number, largest, world, size", ((64, 64, 1, 64), (64, 24, 1, 24), (64, 16, 4, 16),
                                                          (64, 64, 4, 16), (64, 16, 8, 8), (8, 3, 2, 2), (3, 8, 4, 1)))
def test_micro_batches_divide_over_the_ranks(number, largest, world, size):
    assert batches.micro_batch_size(number, largest, world) == size


def test_the_head_starts_at_nothing_and_its_first_step_follows_the_labels(micro):
    """Before training every frame counts alike and every class is as likely; one step moves each class to its data."""
    model = EmotionModel(base(micro, **QUIET), LABELS).eval()
    inputs, lengths = torch.randn(2, 40, micro.conv_dim[-1]), torch.tensor([40, 25])
    probabilities, attention, _ = model.over_time(inputs, lengths)
    assert torch.allclose(probabilities, torch.full((2, len(LABELS)), 1 / len(LABELS)))
    assert torch.allclose(attention[1, :25], torch.full((25,), 1 / 25)) and not attention[1, 25:].any()
    loss = torch.nn.functional.cross_entropy(model(inputs, lengths), torch.tensor([1, 3]))
    loss.backward()
    assert not model.pooling.weight.grad.any() and model.classifier.weight.grad[[1, 3]].any(-1).all()


def test_the_learning_rate_falls_to_nothing_where_asked(micro, tones, tmp_path):
    for decay in (False, True):
        run(micro, tones, tmp_path / str(decay), settings(epochs=4, lr=1e-3, lr_decay=decay))
    rates = {decay: [line["lr"] for line in read_log(tmp_path / str(decay))] for decay in (False, True)}
    assert rates[False] == [1e-3] * 4
    assert rates[True] == pytest.approx([0.75e-3, 0.5e-3, 0.25e-3, 0.0])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_packed_batches_change_no_logit_and_no_gradient(micro, pooling):
    """Frames end to end or padded, with a time mask, from features and from sound: the same."""
    config = dataclasses.replace(micro, feat_proj_dropout=0.0, hidden_dropout=0.0, attention_dropout=0.0)
    torch.manual_seed(0)
    model = EmotionModel(Hubert(config), ["a", "neutral", "c"], pooling).train()
    for parameter in head_of(model):
        # A new head says the same whatever it hears.
        torch.nn.init.normal_(parameter, std=0.2 if pooling == "layers" else 1.0)
    counts = torch.tensor([9, 31, 17])
    sound = torch.randn(3, num_samples_of(31))
    is_masked = torch.rand(3, 31) < 0.3
    trained = [p for name, p in model.named_parameters() if "feature_extractor" not in name]
    for inputs, lengths in ((torch.randn(3, 31, 8), counts), (sound, num_samples_of(counts))):
        model.fast_path = False
        padded = model(inputs, lengths, is_masked)
        model.fast_path = True
        packed = model(inputs, lengths, is_masked)
        torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-5)
        for a, b in zip(torch.autograd.grad(packed.square().sum(), trained),
                        torch.autograd.grad(padded.square().sum(), trained)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
