"""A GPU's paths where there is none: torch's fake tensors have shapes, types and devices but no values.

What mixes devices raises, and so does whatever the host would have to wait for: `.item()`, `nonzero`, `bincount`.
"""
from collections.abc import Iterator
from dataclasses import replace

import pytest
import test_model
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from framealign.runtime import distributed
from framealign.hubert.model import Hubert
from framealign.hubert.objective import MaskedPrediction
from framealign.emotion.emotion_model import EmotionModel
from framealign.training import optimiser
from framealign.training.training_config import PretrainConfig

GPU = torch.device("cuda", 0)
SHAPE = test_model.NARROW


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
    """Forward with what the log asks for, and the optimiser's step; the backward is torch's own."""
    with GPU:
        hubert = Hubert(SHAPE)
        model = MaskedPrediction(hubert, [50, 20], replace(PretrainConfig(), freeze_conv=conv == "kept")).train()
        waveform, units = torch.randn(2, 32_080), torch.randint(20, (2, 2, 100))
        is_masked = torch.zeros(2, 100, dtype=torch.bool)
        places = torch.zeros(120, dtype=torch.int64), torch.zeros(80, dtype=torch.int64)
    inputs = hubert.frontend(waveform) if conv == "kept" else waveform
    with torch.autocast("cuda", torch.bfloat16):
        loss, sums = model(inputs, units, is_masked, None, True, None, places)
    assert optimiser.only_if_finite(loss).device == GPU and {x.device for x in sums.values()} == {GPU}
    assert len(sums) == 6
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.randn_like(parameter)
    norm, skipped = optimiser.step(optimiser.adamw(trained, 1e-5, (0.9, 0.98), 1e-6, 0.01), 1e-5, 10.0)
    assert norm.device == skipped.device == GPU


@pytest.mark.parametrize("sizes", [None, [100, 80, 1]])
def test_the_recogniser_mixes_no_devices_and_waits_for_nothing(fake, sizes):
    with GPU:
        model = EmotionModel(Hubert(SHAPE), list("abcd"), dropout=0.1).train()
        features, counts = torch.randn(3, 100, SHAPE.conv_dim[-1]), torch.tensor([100, 80, 1])
        is_masked = torch.zeros(3, 100, dtype=torch.bool)
    with torch.autocast("cuda", torch.bfloat16):
        logits = model(features, counts, is_masked, sizes)
    assert logits.shape == (3, 4) and logits.device == GPU


@pytest.mark.parametrize("enabled", [False, True])
def test_extraction_mixes_no_devices_and_waits_for_nothing(fake, enabled):
    """In bfloat16 through the flash kernel for several lengths, in float32 in turn."""
    with GPU:
        hubert, waveforms = Hubert(SHAPE).eval(), [torch.randn(n) for n in (32_000, 4_800, 400)]
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=enabled):
        found = hubert.states_of(waveforms, 2)
    assert [x.shape for x in found] == [(n, SHAPE.hidden_size) for n in (99, 14, 1)]
    assert {x.device for x in found} == {GPU}


def test_autocast_is_on(fake):
    """Else nothing above would see bfloat16."""
    x = torch.randn(3, 3, device=GPU)
    with torch.autocast("cuda", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
