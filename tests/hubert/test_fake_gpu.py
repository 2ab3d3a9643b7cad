"""A GPU's paths where there is none: torch's fake tensors have shapes, types and devices but no values.

What mixes devices raises, and so does whatever the host would have to wait for: `.item()`, `nonzero`, `bincount`.
"""
from collections.abc import Iterator

import pytest
import random_models
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from framealign.runtime import distributed
from framealign.hubert import fast
from framealign.hubert.model import Hubert
from framealign.hubert.objective import MaskedPrediction, MicroBatch, pretraining_loss, sums_for_log
from framealign.emotion.emotion_model import EmotionModel
from framealign.training import optimiser

GPU = torch.device("cuda", 0)
SHAPE = random_models.NARROW


@pytest.fixture
def fake(monkeypatch) -> Iterator[None]:
    """Fake tensors for a test, autocast as on a GPU; there is no memory to pin."""
    monkeypatch.setattr(distributed, "send", lambda x, device: x.to(device))
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    with FakeTensorMode():
        yield


def test_what_these_tests_would_notice(fake):
    x = torch.randn(3, device=GPU)
    with pytest.raises(DataDependentOutputException):
        x.sum().item()
    with pytest.raises(RuntimeError, match="two different devices"):
        x + torch.randn(3)


@pytest.mark.parametrize("conv", ["kept", "trained"])
def test_the_pretraining_step_mixes_no_devices_and_waits_for_nothing(fake, conv):
    """Forward with what the log asks for, loss and the optimiser's step; the backward is torch's own."""
    with GPU:
        hubert = Hubert(SHAPE)
        hubert.feature_extractor.requires_grad_(conv == "trained")
        model = MaskedPrediction(hubert, [50, 20], 256, 0.1).train()
        waveform, units = torch.randn(2, 32_080), torch.randint(20, (2, 2, 100))
        is_masked, lengths = torch.zeros(2, 100, dtype=torch.bool), torch.full((2,), 32_080)
        positions = torch.zeros(120, dtype=torch.int64), torch.zeros(80, dtype=torch.int64)
    inputs = hubert.conv_features(waveform) if conv == "kept" else waveform
    batch = MicroBatch(inputs, lengths, units, is_masked, *positions)
    with torch.autocast("cuda", torch.bfloat16):
        prediction = model(batch, with_unmasked=True)
    loss, sums = pretraining_loss(prediction, batch, 0.5, 10.0), sums_for_log(prediction, batch)
    assert optimiser.only_if_finite(loss).device == GPU and {x.device for x in sums.values()} == {GPU}
    assert len(sums) == 6
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.randn_like(parameter)
    norm, skipped = optimiser.step(optimiser.adamw(trained, 1e-5, (0.9, 0.98), 1e-6, 0.01), 1e-5, 10.0)
    assert norm.device == skipped.device == GPU


@pytest.mark.parametrize("fast_path", [False, True])
def test_the_recogniser_mixes_no_devices_and_waits_for_nothing(fake, fast_path):
    """Lengths are known to the host: a GPU is not asked for them."""
    with GPU:
        model = EmotionModel(Hubert(SHAPE), list("abcd"), dropout=0.1, fast_path=fast_path).train()
        features = torch.randn(3, 100, SHAPE.conv_dim[-1])
        is_masked = torch.zeros(3, 100, dtype=torch.bool)
    counts = torch.tensor([100, 80, 1])
    counts.tolist = lambda: [100, 80, 1]            # a fake tensor has no values
    with torch.autocast("cuda", torch.bfloat16):
        logits = model(features, counts, is_masked)
    assert logits.shape == (3, 4) and logits.device == GPU


@pytest.mark.parametrize("enabled", [False, True])
def test_extraction_mixes_no_devices_and_waits_for_nothing(fake, enabled):
    """In bfloat16 through the flash kernel for several lengths, in float32 in turn."""
    with GPU:
        hubert, waveforms = Hubert(SHAPE).eval(), [torch.randn(n) for n in (32_000, 4_800, 400)]
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=enabled):
        found = fast.states(hubert, waveforms, 2)
    assert [x.shape for x in found] == [(n, SHAPE.hidden_size) for n in (99, 14, 1)]
    assert {x.device for x in found} == {GPU}


def test_autocast_is_on(fake):
    """Else nothing above would see bfloat16."""
    x = torch.randn(3, 3, device=GPU)
    with torch.autocast("cuda", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
