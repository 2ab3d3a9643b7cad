"""Masked prediction: the loss against two oracles, accumulation, ranks, resume, layer drop, and that it learns."""
import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import ranks
import soundfile
import stopped
import torch
import torch.nn.functional as F
from small_pretraining import base, random_units, read_log, settings
from torch.utils._python_dispatch import TorchDispatchMode

from framealign.runtime import distributed, log
from framealign.runtime.seeds import derive_seed
from framealign.sound import audio
from framealign.sound.frames import frames_in

from framealign.corpus.cropping import Crop, Waveforms, frame_counts
from framealign.corpus.utterance import CLASSES
from framealign.hubert import objective
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.model import Hubert
from framealign.hubert.objective import (MaskedPrediction, MicroBatch, masked_prediction_loss, positions_of,
                                         pretraining_loss, sums_for_log, unit_logits)
from framealign.exchange.torchaudio_weights import to_torchaudio, torchaudio_arguments
from framealign.units.extraction import frontend_store
from framealign.units.frame_store import FrameStore
from framealign.units.units import Units
from framealign.training import optimiser, pretrain
from framealign.training.batches import pretraining_micro_batches
from framealign.training.training_config import PretrainConfig, TrainingRun

CPU = torch.device("cpu")
QUIET = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0, "layerdrop": 0.0}


def predictor(hubert: Hubert, num_clusters: list[int], config: PretrainConfig) -> MaskedPrediction:
    """The model of a pretraining, its conv encoder frozen as the settings say."""
    hubert.feature_extractor.requires_grad_(not config.freeze_conv)
    return MaskedPrediction(hubert, num_clusters, config.projection_size, config.temperature)


def micro_batch(inputs: torch.Tensor, units: torch.Tensor, is_masked: torch.Tensor, lengths: torch.Tensor | None = None
                ) -> MicroBatch:
    """inputs (B, N) or (B, T, C), all of it real where no lengths are given; units (M, B, T)."""
    lengths = torch.full((len(inputs),), inputs.shape[1]) if lengths is None else lengths
    return MicroBatch(inputs, lengths, units, is_masked, *positions_of(is_masked))


def loss_and_sums(model: MaskedPrediction, batch: MicroBatch, unmasked_weight: float = 0.0, penalty: float = 10.0
                  ) -> tuple[torch.Tensor, dict]:
    """Loss, and sums for the log with what they say of unmasked frames."""
    prediction = model(batch, with_unmasked=True)
    return pretraining_loss(prediction, batch, unmasked_weight, penalty), sums_for_log(prediction, batch)


def emotion_units(utterances: list) -> Units:
    """Every frame's unit is its utterance's emotion: to be told from any frame that is not masked."""
    made, counts = random_units(utterances), frame_counts(utterances)
    labels = torch.tensor([CLASSES.index(u.label) for u in utterances])
    return dataclasses.replace(made, units=labels.repeat_interleave(counts).int(), num_clusters=4)


def read_state(run: Path) -> tuple[dict, dict]:
    """Encoder, and what a checkpoint keeps of the training, of a finished run."""
    newest = sorted((run / "checkpoints").iterdir())[-1]
    return (Hubert.from_pretrained(run / "encoder").state_dict(),
            torch.load(newest / "state.pt", weights_only=True))


def flat(content: object) -> list:
    """The leaves of nested dictionaries and lists, in order."""
    if isinstance(content, (dict, list, tuple)):
        inner = content.values() if isinstance(content, dict) else content
        return [leaf for item in inner for leaf in flat(item)]
    return [content]


def same_to_the_bit(a: object, b: object) -> bool:
    return len(flat(a)) == len(flat(b)) and all(
        torch.equal(x, y) and x.dtype == y.dtype if isinstance(x, torch.Tensor) else x == y
        for x, y in zip(flat(a), flat(b)))


def assert_equal_gradients(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """To 1e-5 of each tensor's largest, and of the model's for what is rounding only (the bias of keys)."""
    assert found.keys() == wanted.keys()
    floor = 1e-7 * max(float(x.abs().max()) for x in wanted.values())
    for name, x in wanted.items():
        assert torch.allclose(found[name], x, rtol=0, atol=1e-5 * float(x.abs().max()) + floor), name


# The loss

@pytest.mark.parametrize("temperature", (0.1, 0.7))
@pytest.mark.parametrize("seed", range(3))
def test_logits_and_loss_are_the_papers(seed, temperature):
    """Against HuBERT's Eq. 3 and Eq. 1 written out frame by frame, codeword by codeword, in float64 numpy."""
    generator = torch.Generator().manual_seed(seed)
    x, codewords = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (9, 7))
    units = torch.randint(7, (9,), generator=generator)
    expected, total = np.zeros((9, 7)), 0.0
    for s in range(9):
        for k in range(7):
            a, b = x[s].numpy(), codewords[k].numpy()
            expected[s, k] = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()) / temperature
        total -= expected[s, units[s]] - np.log(np.exp(expected[s]).sum())
    logits = unit_logits(x, codewords, temperature)
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-12, atol=1e-12)
    assert float(masked_prediction_loss(logits, units)) == pytest.approx(total, rel=1e-12)
    np.testing.assert_allclose(unit_logits(x.float(), codewords.float(), temperature), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradients_are_the_references(seed):
    """The reference puts the right codeword first and sets its second appearance to -inf (audit, row 9)."""
    generator = torch.Generator().manual_seed(seed)
    x, codewords = (torch.randn(n, 6, generator=generator, dtype=torch.float64).requires_grad_() for n in (9, 7))
    units = torch.randint(7, (9,), generator=generator)
    candidates = torch.cat([codewords[units][None], codewords[:, None].expand(-1, 9, -1)])          # (K + 1, S, P)
    logits = torch.cosine_similarity(x[None], candidates, dim=-1).T / 0.1                           # (S, K + 1)
    is_right = F.one_hot(units, 7).bool()
    logits = torch.cat([logits[:, :1], logits[:, 1:].masked_fill(is_right, -torch.inf)], 1)
    theirs = F.cross_entropy(logits, torch.zeros(9, dtype=torch.int64), reduction="sum")
    ours = masked_prediction_loss(unit_logits(x, codewords), units)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    for a, b in zip(torch.autograd.grad(ours, (x, codewords)), torch.autograd.grad(theirs, (x, codewords))):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", ({}, {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}),
                         ids=("post-norm", "pre-norm"))
@pytest.mark.parametrize("freeze_conv", (True, False), ids=("frozen", "trained"))
def test_loss_and_every_gradient_are_torchaudios(micro, shape, freeze_conv):
    """torchaudio's pretraining model and its recipe's loss, given the same weights and the same mask."""
    models = pytest.importorskip("torchaudio").models
    hubert = base(micro, **QUIET, **shape)
    config = settings(freeze_conv=freeze_conv)
    model = predictor(hubert, [7], config)
    for parameter in model.parameters():            # norms and biases too: initial values would hide a swap
        torch.nn.init.normal_(parameter, std=0.3)
    theirs = models.wav2vec2.model.hubert_pretrain_model(
        **torchaudio_arguments(hubert.config), mask_prob=0.8, mask_selection="static", mask_other=0.0, mask_length=10,
        no_mask_overlap=False, mask_min_space=1, mask_channel_prob=0.0, mask_channel_selection="static",
        mask_channel_other=0.0, mask_channel_length=10, no_mask_channel_overlap=False, mask_channel_min_space=1,
        skip_masked=False, skip_nomask=False, num_classes=7, final_dim=8, feature_grad_mult=None)
    same_loss_and_gradients(model, theirs, freeze_conv)


@pytest.mark.slow
def test_loss_and_every_gradient_are_those_of_torchaudios_base():
    """The same at full size: `hubert_pretrain_base` with 500 units."""
    models = pytest.importorskip("torchaudio").models
    hubert = Hubert(dataclasses.replace(HubertConfig(), feat_proj_dropout=0.0, hidden_dropout=0.0,
                                        attention_dropout=0.0, layerdrop=0.0))
    model = predictor(hubert, [500], PretrainConfig(freeze_conv=False))
    theirs = models.hubert_pretrain_base(
        encoder_projection_dropout=0.0, encoder_attention_dropout=0.0, encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0, encoder_layer_drop=0.0, feature_grad_mult=None, num_classes=500)
    same_loss_and_gradients(model, theirs, False)


def same_loss_and_gradients(model, theirs, freeze_conv):
    """Give `theirs` our weights and our mask; compare loss, counts and all gradients on random sound and units."""
    hubert, head = model.hubert, model.heads[0].state_dict()
    theirs.load_state_dict(to_torchaudio(hubert.state_dict(), head))
    generator = torch.Generator().manual_seed(0)
    waveform = torch.randn(3, 9_000, generator=generator)
    units = torch.randint(len(head["codewords"]), (3, 27), generator=generator)
    is_masked = torch.rand(3, 27, generator=generator) < 0.5
    embedding = theirs.mask_generator.mask_embedding
    theirs.mask_generator.forward = lambda x, padding: (torch.where(is_masked[..., None], embedding, x), is_masked)

    masked, unmasked, penalty = theirs(waveform, units)
    frames = int(is_masked.sum())
    expected = F.cross_entropy(masked, torch.zeros(frames, dtype=torch.int64), reduction="sum")
    expected = expected + (0 if freeze_conv else 10.0 * penalty * frames)
    loss, sums = loss_and_sums(model, micro_batch(waveform, units[None], is_masked))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert int(sums["masked"]) == frames and int(sums["unmasked"]) == 81 - frames
    for name, logits in (("masked_correct", masked), ("unmasked_correct", unmasked)):
        assert int(sums[name]) == int((logits[:, 1:] < logits[:, :1]).all(1).sum())
    loss.backward(), expected.backward()
    found = to_torchaudio({name: p.grad for name, p in hubert.named_parameters() if p.grad is not None},
                          {name: p.grad for name, p in model.heads[0].named_parameters()})
    wanted = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    wanted = {name: x for name, x in wanted.items() if not (freeze_conv and "feature_extractor" in name)}
    assert_equal_gradients(found, wanted)


def test_sums_for_the_log_are_what_a_count_gives(micro):
    model = predictor(base(micro, **QUIET), [5], settings()).eval()
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(4, 30, 8, generator=generator)
    units, is_masked = torch.randint(5, (4, 30), generator=generator), torch.rand(4, 30, generator=generator) < 0.6
    _, sums = loss_and_sums(model, micro_batch(features, units[None], is_masked))
    *_, states = model.hubert.layers(features, None, is_masked)
    head = model.heads[0]
    logits = unit_logits(head.final_proj(states.flatten(0, 1)), head.codewords).view(4, 30, 5).detach().double()
    best, log_p = logits.argmax(-1), logits.log_softmax(-1)
    loss = -sum(float(log_p[b, t, units[b, t]]) for b in range(4) for t in range(30) if is_masked[b, t])
    shares = torch.bincount(best[is_masked], minlength=5) / is_masked.sum()
    found = pretrain.ratios(sums, [5], CPU)
    assert found["loss"] == pytest.approx(loss / int(is_masked.sum()), rel=1e-5)
    assert found["masked_accuracy"] == pytest.approx(float((best == units)[is_masked].double().mean()))
    assert found["unmasked_accuracy"] == pytest.approx(float((best == units)[~is_masked].double().mean()))
    assert found["unit_perplexity"] == pytest.approx(float(torch.exp(torch.special.entr(shares).sum())), rel=1e-5)
    doubled: dict = {}
    pretrain.add_up(doubled, sums), pretrain.add_up(doubled, sums)
    assert pretrain.ratios(doubled, [5], CPU) == pytest.approx(found)
    assert pretrain.ratios({}, [5], CPU) == {"loss": 0, "masked_accuracy": 0, "unmasked_accuracy": 0,
                                           "unit_perplexity": 1}


@pytest.mark.parametrize("unmasked_weight", [0.0, 0.5])
def test_several_codebooks_are_the_mean_of_each_alone(micro, unmasked_weight):
    """Loss, every gradient and the numbers of the log: those of models with one head each, averaged."""
    config, generator = settings(unmasked_weight=unmasked_weight), torch.Generator().manual_seed(4)
    features, is_masked = torch.randn(3, 20, 8, generator=generator), torch.rand(3, 20, generator=generator) < 0.6
    sizes = [3, 5, 9]
    units = torch.stack([torch.randint(size, (3, 20), generator=generator) for size in sizes])     # (C, B, T)
    together = predictor(base(micro, **QUIET), sizes, config)
    loss, sums = loss_and_sums(together, micro_batch(features, units, is_masked), unmasked_weight)
    loss.backward()
    gradient = {name: torch.zeros_like(p) for name, p in together.named_parameters() if p.requires_grad}
    losses, numbers = [], []
    for index, size in enumerate(sizes):
        alone = predictor(base(micro, **QUIET), [size], config)
        alone.hubert.load_state_dict(together.hubert.state_dict())
        alone.heads[0].load_state_dict(together.heads[index].state_dict())
        batch = micro_batch(features, units[index:index + 1], is_masked)
        one, counted = loss_and_sums(alone, batch, unmasked_weight)
        one.backward()
        losses.append(one.item())
        numbers.append(pretrain.ratios(counted, [size], CPU))
        for name, p in alone.named_parameters():
            if p.requires_grad:
                gradient[name.replace("heads.0", f"heads.{index}")] += p.grad / len(sizes)
    assert loss.item() == pytest.approx(sum(losses) / 3, rel=1e-6)
    assert_equal_gradients({name: p.grad for name, p in together.named_parameters() if p.requires_grad}, gradient)
    found = pretrain.ratios(sums, sizes, CPU)
    perplexities = [one.pop("unit_perplexity") for one in numbers]
    assert found.pop("unit_perplexity") == pytest.approx(float(np.prod(perplexities)) ** (1 / 3), rel=1e-6)
    for name, value in found.items():
        assert value == pytest.approx(np.mean([one[name] for one in numbers]), rel=1e-6), name


# Batches, masks, held-out utterances

class NothingAsked(TorchDispatchMode):
    """Fails at every operation for whose result a GPU would be waited for."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        assert not any(word in name for word in ("local_scalar_dense", "nonzero", "bincount", "masked_select")), name
        if "aten.index.Tensor" in name or "aten.index_put" in name:
            assert not any(x is not None and x.dtype == torch.bool for x in args[1]), name
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("looks, weight", [(False, 0.0), (True, 0.0), (False, 0.5)])
def test_a_step_asks_the_device_for_nothing(micro, looks, weight):
    """Forward, backward, clipping, update and skipping, given where the masked frames lie, in bfloat16 too."""
    model = predictor(base(micro), [5], settings()).train()
    optimizer = optimiser.adamw(model.parameters(), 1e-3, (0.9, 0.98), 1e-6, 0.01)
    features, units, is_masked = torch.randn(3, 20, 8), torch.randint(5, (1, 3, 20)), torch.rand(3, 20) < 0.5
    batch = micro_batch(features, units, is_masked)
    for enabled in (False, True):
        with NothingAsked():
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                prediction = model(batch, [True, False], looks or weight > 0)
            loss, sums = pretraining_loss(prediction, batch, weight, 10.0), sums_for_log(prediction, batch)
            loss.backward()
            norm, skipped = optimiser.step(optimizer, 1e-3, 1.0)
        assert torch.isfinite(norm) and not skipped and int(sums["predicted"].sum()) == int(is_masked.sum())
    with pytest.raises(AssertionError, match="nonzero"), NothingAsked():
        positions_of(is_masked)


def test_a_crop_has_the_units_of_its_own_frames(tones):
    made = random_units(tones, 1000)
    crops = [Crop(4, 3, 9), Crop(0, 0, 9), Crop(23, 7, 9)]
    found, = pretrain.crop_units([made], crops)
    for row, crop in zip(found, crops):
        first = int(made.offsets[crop.utterance]) + crop.start
        assert torch.equal(row, made.units[first:first + 9].long())


def test_masks_are_named_by_seed_update_and_micro_batch():
    crops = [Crop(0, 0, 40), Crop(1, 0, 40)]
    masks = {name: pretrain.draw_mask(crops, settings(seed=name[0]), *name[1:])
             for name in itertools.product((0, 1), (1, 2), (0, 1))}
    torch.manual_seed(9)                            # no part of the name
    for name, mask in masks.items():
        assert torch.equal(mask, pretrain.draw_mask(crops, settings(seed=name[0]), *name[1:]))
    assert len({mask.numpy().tobytes() for mask in masks.values()}) == len(masks)
    assert all(mask.any(1).all() and not mask.all() for mask in masks.values())


def test_held_out_utterances_never_train_and_the_others_never_validate(tones):
    counts = frame_counts(tones)
    config = settings(valid_fraction=0.25, min_seconds=0.5)
    train, valid = pretrain.hold_out(counts, config)
    assert torch.equal(train + valid, counts) and not (train * valid).any()
    usable = counts >= frames_in(0.5)
    assert int((valid > 0).sum()) == round(0.25 * int(usable.sum())) and not (valid > 0)[~usable].any()
    stream = itertools.islice(pretraining_micro_batches(train, config), 60)
    assert {crop.utterance for crops in stream for crop in crops} == set(
        torch.nonzero((train > 0) & usable).flatten().tolist())
    assert not torch.equal(valid, pretrain.hold_out(counts, dataclasses.replace(config, seed=4))[1])
    for fraction, expected in ((0.0, 0), (0.99, 1)):
        train, valid = pretrain.hold_out(counts[:2], settings(valid_fraction=fraction))
        assert int((valid > 0).sum()) == expected and (train > 0).any()


def test_validation_has_fixed_masks_and_leaves_no_trace(micro, tones):
    """The same numbers whatever was drawn before; the loss of each utterance alone, with dropout and layer drop off."""
    made, config = random_units(tones), settings()
    training = pretrain.prepare(base(micro), tones, [made], config, TrainingRun(Path(), CPU, "float32"))
    model = training.model.train()
    _, counts = pretrain.hold_out(frame_counts(tones), config)
    source = Waveforms(tones, True)
    found = pretrain.validate(training, source, [made], counts)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert pretrain.validate(training, source, [made], counts) == found
    assert torch.equal(before, torch.random.get_rng_state()) and all(m.training for m in model.modules())
    model.eval()
    total, frames = 0.0, 0                          # in plain words
    for u in torch.nonzero(counts).flatten().tolist():
        size = min(int(counts[u]), frames_in(0.6))
        is_masked = pretrain.draw_mask([Crop(u, 0, size)], config, "valid", u)
        waveform = source.batch([Crop(u, 0, size)])[0]
        loss, _ = loss_and_sums(model, micro_batch(waveform, made.of(u)[None, None, :size], is_masked))
        total, frames = total + loss.item(), frames + int(is_masked.sum())
    assert found["valid_loss"] == pytest.approx(total / frames, rel=1e-6)
    assert set(found) == {"valid_loss", "valid_masked_accuracy", "valid_unmasked_accuracy", "valid_unit_perplexity"}


# One update

@pytest.mark.parametrize("unmasked_weight", (0.0, 0.5))
def test_micro_batches_add_up_to_the_mean_over_all_masked_frames(micro, tones, tmp_path, monkeypatch, unmasked_weight):
    """The gradient of one update of 4 micro-batches, against one pass over all of them in plain words."""
    config = settings(batch_seconds=8, updates=1, warmup_updates=0, cache_frontend=False, valid_fraction=0,
                      unmasked_weight=unmasked_weight)
    seen = {}

    def record(optimizer, lr, clip_norm):
        seen.update(dict(zip(names, [p.grad.clone() for p in optimizer.param_groups[0]["params"]])))
        return optim_step(optimizer, lr, clip_norm)
    optim_step = optimiser.step
    monkeypatch.setattr(optimiser, "step", record)
    names = [name for name, _ in predictor(base(micro), [5], config).named_parameters()
             if "feature_extractor" not in name]
    made = random_units(tones)
    stopped.pretrain(base(micro, **QUIET), tones, made, config, tmp_path)

    hubert = base(micro, **QUIET)
    torch.manual_seed(derive_seed(config.seed, "head"))
    model = predictor(hubert, [5], config)
    total, weights, head = 0.0, 0.0, model.heads[0]
    for index, crops in enumerate(itertools.islice(pretraining_micro_batches(frame_counts(tones), config), 4)):
        is_masked = pretrain.draw_mask(crops, config, 1, index)
        for row, crop in enumerate(crops):
            sound = audio.preprocess(audio.load(tones[crop.utterance].path), True)
            if crop.start > 0 or crop.frames < len(made.of(crop.utterance)):
                sound = sound[320 * crop.start:320 * (crop.start + crop.frames - 1) + 400]
            x = hubert.conv_features(sound[None])
            *_, states = hubert.layers(x, None, is_masked[row:row + 1])
            logits = torch.cosine_similarity(head.final_proj(states[0])[:, None], head.codewords, dim=-1)
            losses = F.cross_entropy(logits / 0.1, made.of(crop.utterance)[crop.start:crop.start + crop.frames],
                                     reduction="none")
            weight = is_masked[row] + unmasked_weight * ~is_masked[row]
            total, weights = total + (losses * weight).sum(), weights + float(weight.sum())
    (total / weights).backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert_equal_gradients(seen, wanted)


def test_utterances_of_equal_frames_but_unequal_samples_do_not_meet(micro, tones, tmp_path):
    """Group norm over a whole utterance, its own last samples included, in a batch as alone."""
    import soundfile
    sounds, chosen = np.random.default_rng(0).standard_normal((2, 9_000)) * 0.1, []
    for sound, size in zip(sounds, (8_720, 9_000)):
        soundfile.write(tmp_path / f"{size}.wav", sound[:size], 16_000)
        chosen.append(dataclasses.replace(tones[0], path=tmp_path / f"{size}.wav", num_samples=size))
    model, crops = predictor(base(micro, **QUIET), [5], settings()), [Crop(0, 0, 27), Crop(1, 0, 27)]
    units, is_masked = torch.arange(54).view(2, 27) % 5, torch.arange(54).view(2, 27) % 3 == 0
    source = Waveforms(chosen, True)
    waveform, lengths = source.batch(crops)
    together, _ = loss_and_sums(model, micro_batch(waveform, units[None], is_masked, lengths))
    alone = 0.0
    for i, crop in enumerate(crops):
        batch = micro_batch(source.batch([crop])[0], units[None, i:i + 1], is_masked[i:i + 1])
        alone = alone + loss_and_sums(model, batch)[0]
    assert together.item() == pytest.approx(alone.item(), rel=1e-6)
    without, _ = loss_and_sums(model, micro_batch(waveform, units[None], is_masked))
    assert abs(without.item() - alone.item()) > 1e-4 * alone.item()         # what the lengths are for


# The loop

def test_log_says_what_happened(micro, tones, tmp_path):
    """One line an update (or interval), one per validation; an interval's numbers are those of its updates together."""
    made = random_units(tones)
    for name, every in (("each", 1), ("thirds", 4)):
        stopped.pretrain(base(micro), tones, made, settings(log_every_updates=every), tmp_path / name)
    each, thirds = read_log(tmp_path / "each"), read_log(tmp_path / "thirds")
    lines = [line for line in each if "loss" in line]
    assert [line["update"] for line in lines] == list(range(1, 13))
    assert [line["update"] for line in each if "valid_loss" in line] == [4, 8, 12]
    assert [line["update"] for line in thirds] == [4, 4, 8, 8, 12, 12]
    for line in lines:
        assert set(line) == {"update", "loss", "masked_accuracy", "unmasked_accuracy", "unit_perplexity", "lr",
                             "gradient_norm", "skipped_updates"}
        assert line["lr"] == optimiser.linear_schedule(line["update"], 2e-3, 3, 12) and line["gradient_norm"] > 0
        assert 0 <= line["masked_accuracy"] <= 1 and 1 <= line["unit_perplexity"] <= 5 and line["skipped_updates"] == 0
    raw = json.loads((tmp_path / "each" / "log.jsonl").read_text().splitlines()[0])
    assert raw["audio_seconds_per_second"] > 0 and raw["seconds_left"] >= 0
    config, counts = settings(), pretrain.hold_out(frame_counts(tones), settings())[0]
    stream = enumerate(itertools.islice(pretraining_micro_batches(counts, config), 12))
    hidden = [int(pretrain.draw_mask(crops, config, 1 + i // 3, i % 3).sum()) for i, crops in stream]
    weights = np.reshape(hidden, (4, 3)).sum(1)     # masked frames of updates 1 to 4
    for key in ("loss", "masked_accuracy"):
        mean = np.average([line[key] for line in lines[:4]], weights=weights)
        assert thirds[0][key] == pytest.approx(mean, rel=1e-6)
    assert read_state(tmp_path / "each")[0].keys() == base(micro).state_dict().keys()
    assert same_to_the_bit(read_state(tmp_path / "each")[0], read_state(tmp_path / "thirds")[0])


@pytest.mark.parametrize("freeze_conv, stops", ((True, (1, 4, 5, 11)), (False, (7, 12))), ids=("frozen", "trained"))
def test_resuming_is_bit_identical(micro, tones, tmp_path, stops, freeze_conv):
    """Weights, optimizer, sums and log after interruptions, in and between the intervals of log and checkpoint.

    With the conv encoder trained, each continuation even starts from other weights: all comes from the checkpoint.
    """
    made, config = random_units(tones), settings(freeze_conv=freeze_conv, log_every_updates=3)
    stopped.pretrain(base(micro), tones, made, config, tmp_path / "whole")
    for turn, stop in enumerate((*stops, None)):
        torch.manual_seed(100 + turn)
        torch.rand(turn)
        hubert = base(micro, seed=1 if freeze_conv or not turn else turn + 50)
        stopped.pretrain(hubert, tones, made, config, tmp_path / "parts", stop_after=stop)
        if stop not in (12, None):
            assert not (tmp_path / "parts" / "encoder").exists()
            assert sorted(path.name for path in (tmp_path / "parts" / "checkpoints").iterdir())[-1] == f"{stop:08d}"
            with open(tmp_path / "parts" / "log.jsonl", "a") as file:       # what a killed run may have left behind
                file.write(json.dumps({"update": stop + 1, "loss": 0.0}) + '\n{"upda')
    (whole, training), (parts, resumed) = (read_state(tmp_path / name) for name in ("whole", "parts"))
    assert same_to_the_bit(whole, parts) and same_to_the_bit(training, resumed)
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "parts")
    assert len(list((tmp_path / "parts" / "checkpoints").iterdir())) == 2


def test_a_damaged_checkpoint_costs_only_what_came_after_the_one_before(micro, tones, tmp_path, capsys):
    made, config = random_units(tones), settings()
    stopped.pretrain(base(micro), tones, made, config, tmp_path / "whole")
    stopped.pretrain(base(micro), tones, made, config, tmp_path / "hurt", stop_after=8)
    path = tmp_path / "hurt" / "checkpoints" / "00000008" / "state.pt"
    path.write_bytes(path.read_bytes()[:-100])
    stopped.pretrain(base(micro), tones, made, config, tmp_path / "hurt")
    said = capsys.readouterr().out
    assert "00000008 is damaged" in said and "continues after update 5" in said
    assert same_to_the_bit(read_state(tmp_path / "whole")[0], read_state(tmp_path / "hurt")[0])
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "hurt")


def test_another_configuration_units_or_corpus_do_not_continue_a_run(micro, tones, tmp_path):
    made, config = random_units(tones), settings(save_every_updates=2)
    stopped.pretrain(base(micro), tones, made, config, tmp_path, stop_after=2)
    log = (tmp_path / "log.jsonl").read_bytes()
    other = dataclasses.replace(made, units=made.units.flip(0))
    renamed = [dataclasses.replace(tones[0], id="another"), *tones[1:]]
    for utterances, units, changed, shape in (
            (tones, made, dataclasses.replace(config, peak_lr=1e-3), {}), (tones, other, config, {}),
            (tones, dataclasses.replace(made, num_clusters=6), config, {}), (renamed, made, config, {})):
        with pytest.raises(ValueError, match="made with another configuration, other units or other sound"):
            stopped.pretrain(base(micro, **shape), utterances, units, changed, tmp_path)
    with pytest.raises(ValueError, match="parameters do not fit"):
        stopped.pretrain(base(micro, hidden_size=8), tones, made, config, tmp_path)
    assert (tmp_path / "log.jsonl").read_bytes() == log


def test_starting_from_an_encoder_is_not_continuing(micro, tones, tmp_path, capsys):
    """A checkpoint taken as the start of another run gives its encoder alone: new head, optimizer, schedule, log."""
    made, config = random_units(tones), settings()
    stopped.pretrain(base(micro), tones, made, config, tmp_path / "first")
    place = tmp_path / "first" / "checkpoints" / "00000012"
    encoder = Hubert.from_pretrained(place)
    assert f"{place}: an encoder with heads: read the encoder only, left out heads" in capsys.readouterr().err
    assert same_to_the_bit(encoder.state_dict(), read_state(tmp_path / "first")[0])
    fewer = dataclasses.replace(made, units=made.units % 3, num_clusters=3)
    stopped.pretrain(encoder, tones, fewer, dataclasses.replace(config, updates=3), tmp_path / "second")
    assert [line["update"] for line in read_log(tmp_path / "second") if "loss" in line] == [1, 2, 3]
    assert "continues" not in capsys.readouterr().out
    _, training = read_state(tmp_path / "second")
    assert {float(x["step"]) for x in training["optimizer"]["state"].values()} <= {1, 2, 3}     # dropped layers: fewer
    stopped.pretrain(base(micro), tones, made, config, tmp_path / "first")
    assert "continues after update 12" in capsys.readouterr().out


def test_it_learns_what_can_be_learnt(micro, tones, tmp_path):
    config = settings(updates=150, warmup_updates=10, peak_lr=2e-2, log_every_updates=50, valid_every_updates=150,
                      save_every_updates=150, valid_fraction=0.2)
    stopped.pretrain(base(micro, **QUIET), tones, emotion_units(tones), config, tmp_path)
    lines = [line for line in read_log(tmp_path) if "loss" in line]
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert lines[-1]["masked_accuracy"] > 0.7 and lines[-1]["unmasked_accuracy"] > 0.6     # chance: 0.25
    assert read_log(tmp_path)[-1]["valid_masked_accuracy"] > 0.6


def test_bad_input_is_refused_before_anything_is_written(micro, tones, tmp_path):
    made = random_units(tones)
    with pytest.raises(ValueError, match="units of 24 utterances, the manifest has 23"):
        stopped.pretrain(base(micro), tones[1:], made, settings(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="no utterance is as long as --min-seconds 2"):
        stopped.pretrain(base(micro), tones, made, settings(min_seconds=2, max_seconds=3, cache_frontend=False),
                          tmp_path / "run")
    wrong = [dataclasses.replace(tones[0], num_samples=tones[0].num_samples + 3), *tones[1:]]
    with pytest.raises(ValueError, match=f"{tones[0].path}: has {tones[0].num_samples} samples at 16 kHz"):
        stopped.pretrain(base(micro), wrong, made, settings(), tmp_path / "run")
    assert not (tmp_path / "run" / "encoder").exists() and not list((tmp_path / "run").glob("frontend/index.json"))


# What trains

def test_a_frozen_conv_encoder_stays_to_the_bit_and_a_trained_one_moves(micro, tones, tmp_path):
    made = random_units(tones)
    for freeze_conv in (True, False):
        before, run = base(micro).state_dict(), tmp_path / str(freeze_conv)
        stopped.pretrain(base(micro), tones, made, settings(freeze_conv=freeze_conv, updates=3), run)
        after = read_state(run)[0]
        for name, x in before.items():
            assert torch.equal(x, after[name]) == (freeze_conv and "feature_extractor" in name), name


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(micro, tones, tmp_path, monkeypatch):
    """Update 3 is poisoned: weights and moments are those of update 2, and training goes on."""
    made, calls = random_units(tones), []
    loss_of = objective.masked_prediction_loss

    def poisoned(logits, units):
        calls.append(torch.is_grad_enabled())
        return loss_of(logits, units) * (float("nan") if sum(calls) == 8 else 1.0)     # micro-batch 2 of update 3
    monkeypatch.setattr(objective, "masked_prediction_loss", poisoned)
    config = settings(save_every_updates=1, keep_checkpoints=9, updates=5, valid_fraction=0)
    stopped.pretrain(base(micro), tones, made, config, tmp_path)
    assert [line["skipped_updates"] for line in read_log(tmp_path) if "lr" in line] == [0, 0, 1, 0, 0]
    second, third, fourth = (torch.load(tmp_path / "checkpoints" / f"{update:08d}" / "state.pt", weights_only=True)
                             for update in (2, 3, 4))
    weights = [Hubert.from_pretrained(tmp_path / "checkpoints" / f"{update:08d}").state_dict() for update in (2, 3, 4)]
    assert same_to_the_bit(second["optimizer"]["state"], third["optimizer"]["state"])
    assert same_to_the_bit(weights[0], weights[1]) and not same_to_the_bit(weights[1], weights[2])
    assert float(third["in_a_row"]) == 1 and float(fourth["in_a_row"]) == 0
    assert all(torch.isfinite(x).all() for x in weights[2].values())


def test_skipped_updates_are_logged_with_their_utterances_once(micro, tones, tmp_path, monkeypatch):
    """Also where the run is stopped between the skipped update and the log's next line; loss or gradient alike."""
    made, loss_of = random_units(tones), objective.masked_prediction_loss
    config = settings(updates=9, log_every_updates=4, valid_fraction=0)

    def train(run: Path, stops: tuple, factor: float) -> list[dict]:
        done = 0

        def poisoned(logits: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
            is_trained = torch.is_grad_enabled()    # else it is computed for the log
            return loss_of(logits, units) + (factor if is_trained and next(calls) in (7, 16) else 0.0)  # updates 3, 6
        for stop in stops:
            calls = itertools.count(3 * done)
            monkeypatch.setattr(objective, "masked_prediction_loss", poisoned)
            stopped.pretrain(base(micro), tones, made, config, run, stop_after=stop)
            done = stop
        return read_log(run)
    whole = train(tmp_path / "whole", (None,), torch.inf)       # an infinite loss of which every gradient is finite
    skips = [line for line in whole if "skipped_update" in line]
    assert [(line["update"], line["skipped_update"]) for line in skips] == [(4, 3), (8, 6)]
    stream = list(itertools.islice(pretraining_micro_batches(frame_counts(tones), config), 18))
    for line in skips:
        crops = [crop for group in stream[3 * line["skipped_update"] - 3:3 * line["skipped_update"]] for crop in group]
        assert line["utterances"] == sorted({tones[crop.utterance].id for crop in crops})
    assert [line["skipped_updates"] for line in whole if "lr" in line] == [1, 1, 0]
    assert train(tmp_path / "parts", (3, 7, None), torch.inf) == whole


def test_utterances_of_a_frame_or_two_train(micro, tones, tmp_path):
    """From 400 samples up: what is too short to mask anything of adds nothing, and nothing becomes NaN."""
    short = []
    for number, samples in enumerate((400, 401, 719, 720, 1040, 1500, 2500, 400, 400, 9000)):
        waveform = audio.load(tones[number].path).repeat(2)[:samples].numpy()
        soundfile.write(tmp_path / f"{number}.wav", waveform, 16_000, "FLOAT")
        short.append(dataclasses.replace(tones[number], path=tmp_path / f"{number}.wav", num_samples=samples))
    config = settings(min_seconds=0.025, max_seconds=0.5, batch_seconds=0.04, micro_batch_seconds=0.04, updates=12,
                      valid_fraction=0)              # many updates of one frame alone
    for chosen in (short, [short[0], short[7], short[8]]):
        run = tmp_path / str(len(chosen))
        stopped.pretrain(base(micro), chosen, random_units(chosen), config, run)
        state, _ = read_state(run)
        assert all(torch.isfinite(x).all() for x in state.values())
        assert sum(line["skipped_updates"] for line in read_log(run)) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")               # of torch.compile's own parts
def test_compiled_blocks_learn_the_same_from_one_program(micro, tones, tmp_path):
    """Batches of many shapes and validation in between: the losses of the plain path, and no program for each shape."""
    import torch._dynamo.utils
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for name in ("plain", "compiled"):
        config = settings(updates=8, min_seconds=0.1, compile_blocks=name == "compiled")
        stopped.pretrain(base(micro, **QUIET), tones, random_units(tones), config, tmp_path / name)
    made = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    shapes = {(len(crops), crops[0].frames) for crops in
              itertools.islice(pretraining_micro_batches(frame_counts(tones), config), 24)}
    assert len(shapes) > 6 > made > 0, (shapes, made)
    plain, compiled = (read_log(tmp_path / name) for name in ("plain", "compiled"))
    for one, other in zip(plain, compiled):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-4)
    for a, b in zip(read_state(tmp_path / "plain")[0].values(), read_state(tmp_path / "compiled")[0].values()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("log_every, ended", ((7, 21), (25, 25)))
def test_twenty_skipped_in_a_row_stop_the_run(micro, tones, tmp_path, monkeypatch, log_every, ended):
    """Whatever the interval of the log, at which this is looked at; also across an interruption."""
    monkeypatch.setattr(objective, "masked_prediction_loss", lambda logits, units: logits.sum() * float("nan"))
    config = settings(updates=50, log_every_updates=log_every, valid_fraction=0, batch_seconds=2)
    stopped.pretrain(base(micro), tones, random_units(tones), config, tmp_path, stop_after=10)
    with pytest.raises(ValueError, match=f"update {ended}: the last {ended} gradients were not finite"):
        stopped.pretrain(base(micro), tones, random_units(tones), config, tmp_path)


def test_layer_drop_is_drawn_from_seed_and_update_at_its_rate(micro):
    hubert = base(micro, num_hidden_layers=4)
    drawn = np.array([pretrain.draw_kept_layers(hubert, 7, update) for update in range(2_000)])
    assert abs(drawn.mean() - 0.7) < 0.02 and np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.06
    torch.manual_seed(1)
    assert pretrain.draw_kept_layers(hubert, 7, 11) == drawn[11].tolist()
    assert pretrain.draw_kept_layers(base(micro, layerdrop=0.0), 7, 11) is None


def test_dropped_layers_are_not_computed_and_do_not_move(micro, tones, tmp_path, monkeypatch):
    """A block is called in the updates that keep it and no others; an update passes a dropped one by altogether."""
    hubert = base(micro)
    config = settings(save_every_updates=1, keep_checkpoints=9, valid_fraction=0, fast_path=False)
    calls = [[], []]
    for index, block in enumerate(hubert.encoder.layers):
        block.register_forward_hook(lambda *_, index=index: calls[index].append(1))
    stopped.pretrain(hubert, tones, random_units(tones), config, tmp_path, stop_after=6)
    kept = [pretrain.draw_kept_layers(hubert, config.seed, update) for update in range(1, 7)]
    assert [len(found) for found in calls] == [3 * sum(column) for column in zip(*kept)]
    assert not all(all(row) for row in kept)        # something was dropped
    weights = [base(micro).state_dict()] + [
        Hubert.from_pretrained(tmp_path / "checkpoints" / f"{update:08d}").state_dict() for update in range(1, 7)]
    for before, after, row in zip(weights, weights[1:], kept):
        for index in range(2):
            names = [name for name in before if name.startswith(f"encoder.layers.{index}.")]
            assert same_to_the_bit([before[name] for name in names], [after[name] for name in names]) != row[index]


# Frames kept instead of sound

def test_kept_conv_features_are_those_of_the_sound(micro, tones, tmp_path):
    """Layer norm: of any crop. Group norm: of whole utterances; a crop's then see the utterance's statistics."""
    draw = np.random.default_rng(0)
    for norm in ("layer", "group"):
        hubert = base(micro, feat_extract_norm=norm).eval()
        kept = frontend_store(hubert, tones, tmp_path / norm, CPU)
        assert isinstance(kept, FrameStore)
        for u in (0, 5, 17):
            frames = int(kept.counts[u])
            size = int(draw.integers(5, frames))
            for crop in (Crop(u, 0, frames), Crop(u, int(draw.integers(frames - size)) + 1, size)):
                with torch.inference_mode():
                    expected = hubert.conv_features(*Waveforms(tones, True).batch([crop]))
                found, lengths = kept.batch([crop])
                close = torch.allclose(found, expected, rtol=2 ** -10, atol=1e-4)
                assert close == (norm == "layer" or crop.frames == frames) and lengths.tolist() == [crop.frames]


def test_training_on_kept_features_is_training_on_sound(micro, tones, tmp_path):
    made = random_units(tones)
    logs = {}
    for cache in (True, False):
        hubert = base(micro, feat_extract_norm="layer")
        stopped.pretrain(hubert, tones, made, settings(cache_frontend=cache), tmp_path / str(cache))
        logs[cache] = read_log(tmp_path / str(cache))
    assert (tmp_path / "True" / "frontend").exists() and not (tmp_path / "False" / "frontend").exists()
    losses = {cache: [line.get("loss", line.get("valid_loss")) for line in lines] for cache, lines in logs.items()}
    assert len(losses[True]) == 15 and losses[True] == pytest.approx(losses[False], rel=1e-3)


# Ranks

INTERRUPTED = settings(log_every_updates=3, batch_seconds=8)        # four micro-batches
# Micro-batches that are split over the ranks, without dropout, which is drawn for each share.
UNEVEN = {"three": settings(freeze_conv=False, updates=5, unmasked_weight=0.3),
          "one": settings(batch_seconds=2, updates=4, log_every_updates=3),
          "few utterances": settings(batch_seconds=0.7, micro_batch_seconds=0.7, updates=4)}


def train(micro, tones, folder: Path) -> int:
    """Four micro-batches an update, or what must be split; and halves of runs that other numbers of ranks complete."""
    made = random_units(tones)
    train_uneven(micro, tones, folder)
    for stop in (8, None):
        stopped.pretrain(base(micro), tones, made, INTERRUPTED, folder / "begun by one", stop_after=stop)
    stopped.pretrain(base(micro), tones, made, INTERRUPTED, folder / "begun by two", stop_after=4)
    return distributed.world_size()


def train_uneven(micro, tones, folder: Path) -> None:
    """Every run of `UNEVEN`; that of a single micro-batch is stopped between two lines of the log."""
    hubert, made = dataclasses.replace(micro, **QUIET), random_units(tones)
    for name, config in UNEVEN.items():
        if name == "one":
            stopped.pretrain(base(hubert), tones, made, config, folder / name, stop_after=2)
        stopped.pretrain(base(hubert), tones, made, config, folder / name)


@pytest.mark.parametrize("world", (2, 4))
def test_more_ranks_than_micro_batches_share_them(micro, tones, tmp_path, world):
    """The same losses and weights as one rank; a checkpoint between two lines of the log has the sums of all ranks."""
    train_uneven(micro, tones, tmp_path / "one")
    ranks.run(train_uneven, world, micro, tones, tmp_path / "several")
    for name in UNEVEN:
        compare(tmp_path / "one" / name, tmp_path / "several" / name)


@pytest.mark.parametrize("world", range(1, 8))
def test_every_utterance_of_an_update_has_one_rank(micro, tones, world, monkeypatch, capsys):
    """Whatever the number of ranks: each crop once, with its own mask; all ranks have as many micro-batches."""
    made, counts = [random_units(tones)], frame_counts(tones)
    source = Waveforms(tones, True)

    def of_rank(rank: int, world: int, config: PretrainConfig) -> pretrain.GlobalBatch:
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: world)
        return next(pretrain.global_batches(source, made, counts, config, first_update=3))

    def rows(batches: list[pretrain.GlobalBatch]) -> list[tuple]:
        used = [batch for whole in batches for batch in whole.micro_batches if batch.weight]
        return sorted((x[:length].tolist(), mask.tolist(), units.tolist()) for batch in used
                      for x, length, mask, units in zip(batch.inputs, batch.lengths, batch.is_masked, batch.units[0]))

    for config in (settings(), settings(batch_seconds=2), settings(batch_seconds=0.7, micro_batch_seconds=0.7)):
        whole = of_rank(0, 1, config)
        log._said.clear()
        shares = [of_rank(rank, world, config) for rank in range(world)]
        assert rows(shares) == rows([whole])
        assert len({len(share.micro_batches) for share in shares}) == 1
        assert {share.weighted_frames for share in shares} == {whole.weighted_frames}
        penalised = sum(batch.penalised_frames for share in shares for batch in share.micro_batches if batch.weight)
        assert penalised == pytest.approx(whole.weighted_frames)
        said = capsys.readouterr().err
        number = sum(len(batch.inputs) for batch in whole.micro_batches)
        assert (f"{world} ranks are more than --batch-seconds" in said) == (number < world), said
        busy = [sum(len(batch.inputs) for batch in share.micro_batches if batch.weight) for share in shares]
        assert max(busy) - min(busy) <= max(1, len(whole.micro_batches))


def test_two_ranks_equal_one(micro, tones, tmp_path):
    """Losses of every update to 1e-6, with dropout and layer drop on; checkpoints continue on more ranks or fewer.

    Interruptions fall inside the log's intervals.
    """
    one, two, made = tmp_path / "one", tmp_path / "two", random_units(tones)
    for folder, stop in ((one, None), (two, 4)):
        stopped.pretrain(base(micro), tones, made, INTERRUPTED, folder / "begun by one", stop_after=stop)
    train_uneven(micro, tones, one)
    assert ranks.run(train, 2, micro, tones, two) == [2, 2]
    stopped.pretrain(base(micro), tones, made, INTERRUPTED, two / "begun by two")
    for name in UNEVEN:
        compare(one / name, two / name)
    for name in ("begun by one", "begun by two"):
        compare(one / "begun by one", two / name)


def compare(ours: Path, theirs: Path) -> None:
    """Two runs are one but for rounding."""
    a, b = read_log(ours), read_log(theirs)
    assert [line["update"] for line in a] == [line["update"] for line in b]
    for mine, other in zip(a, b):
        assert mine.keys() == other.keys()
        for key, value in mine.items():
            assert value == pytest.approx(other[key], rel=1e-6 if "loss" in key else 1e-5, abs=1e-6), (mine, other, key)
    (one, training), (two, trained) = read_state(ours), read_state(theirs)
    for x, y in zip(flat([one, training["optimizer"]["state"]]), flat([two, trained["optimizer"]["state"]])):
        assert torch.allclose(x, y, rtol=1e-4, atol=1e-5)
