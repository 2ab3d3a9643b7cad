"""Windows: each frame once with its context, what is exact is the whole sound's, and memory stays flat."""
import dataclasses

import numpy as np
import pytest
import torch

from framealign.hubert import long_sound
from framealign.hubert.model import Hubert

CPU = torch.device("cpu")


@pytest.mark.parametrize("whole, context", [(40, 5), (11, 5), (100, 0), (3000, 250)])
def test_every_frame_is_kept_once_with_its_context(whole, context):
    draw = np.random.default_rng(0)
    for num_frames in [1, whole, whole + 1, *draw.integers(1, 20 * whole, size=60).tolist()]:
        found = long_sound.plan(num_frames, whole, context)
        kept = [t for window in found for t in range(window.first, window.last)]
        assert kept == list(range(num_frames))
        assert (len(found) == 1) == (num_frames <= whole)
        for window in found:
            assert window.stop - window.start <= whole
            assert window.first - window.start == context or window.start == 0
            assert window.stop - window.last == context or window.stop == num_frames
            assert list(range(window.start, window.stop))[window.used] == list(range(window.first, window.last))


def test_a_window_that_keeps_nothing_is_refused():
    with pytest.raises(ValueError, match="longer than twice its context of 20 frames, got 40"):
        long_sound.plan(41, 40, 20)


@pytest.fixture(params=["group", "layer"])
def hubert(request, micro) -> Hubert:
    torch.manual_seed(0)
    config = dataclasses.replace(micro, feat_extract_norm=request.param, num_conv_pos_embeddings=8)
    model = Hubert(config).eval()
    for parameter in model.encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for layer in model.feature_extractor.conv_layers:                           # a norm that is not the identity
        if layer.norm != "none":
            torch.nn.init.normal_(layer.layer_norm.weight, 1, 0.3)
            torch.nn.init.normal_(layer.layer_norm.bias, 0, 0.3)
    return model


def sound(num_samples: int, seed: int = 0) -> torch.Tensor:
    """Noise whose loudness and offset change, so that a window's statistics are not the whole sound's."""
    noise = torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))
    return noise * torch.linspace(0.1, 2, num_samples) + torch.linspace(-0.5, 1, num_samples)


@torch.inference_mode()
@pytest.mark.parametrize("extra", [0, 1, 79, 319])
def test_conv_features_and_layer_0_are_the_whole_sounds(hubert, extra, monkeypatch):
    """Whatever the length and the block in which statistics are summed; context 4 is half the positional kernel."""
    monkeypatch.setattr(long_sound, "BLOCK", 777)
    waveform = sound(320 * 150 + 80 + extra)
    whole = hubert.conv_features(waveform[None])[0]
    found = torch.cat([x[0, used] for used, x in long_sound.features(hubert, waveform, CPU, 40, 4)])
    assert found.shape == whole.shape and (found - whole).abs().max() < 2e-5 * whole.abs().max()
    layer0 = torch.cat(list(long_sound.states(hubert, waveform, 0, CPU, 40, 4)))
    wanted = hubert.states(waveform[None], layer=0)[0]
    assert (layer0 - wanted).abs().max() < 5e-5


@torch.inference_mode()
@pytest.mark.parametrize("kernels, strides", [
    ((10, 3, 3, 3, 3, 2, 2, 2), (5, 2, 2, 2, 2, 2, 2, 2)), ((7, 5, 1), (3, 2, 4)), ((2, 9), (5, 7))])
def test_windows_follow_the_models_own_hop(micro, kernels, strides):
    for norm in ("group", "layer"):
        model = Hubert(dataclasses.replace(micro, feat_extract_norm=norm, conv_dim=(8,) * len(kernels),
                                           conv_kernel=kernels, conv_stride=strides)).eval()
        framing = model.config.framing
        waveform = sound(framing.receptive_field + 149 * framing.hop + 1)
        whole = model.conv_features(waveform[None])[0]
        found = torch.cat([x[0, used] for used, x in long_sound.features(model, waveform, CPU, 40, 4)])
        assert found.shape == whole.shape == (150, 8) and (found - whole).abs().max() < 2e-5 * whole.abs().max()


@torch.inference_mode()
@pytest.mark.parametrize("layer", [0, 1, 2, None])
def test_what_fits_is_never_cut(hubert, layer):
    waveform = sound(320 * 30 + 80)
    piece, = long_sound.states(hubert, waveform, layer, CPU, 30)
    torch.testing.assert_close(piece, hubert.states(waveform[None], layer=layer)[0], rtol=0, atol=0)


@torch.inference_mode()
def test_states_above_attend_to_their_window(hubert):
    """Layer 2 of a window is what the encoder makes of that window's features: the definition, window by window."""
    waveform = sound(320 * 100 + 80)
    whole = hubert.conv_features(waveform[None])
    pieces = long_sound.states(hubert, waveform, 2, CPU, 40, 4)
    for window, piece in zip(long_sound.plan(100, 40, 4), pieces, strict=True):
        *_, wanted = hubert.layers(whole[:, window.start:window.stop])
        torch.testing.assert_close(piece, wanted[0, window.used], rtol=0, atol=1e-4)


@torch.inference_mode()
def test_all_layers_of_a_window_are_its_own(hubert):
    """Asked for one after the other, they are what `states` gives of each; layer 2 is the encoder's output."""
    waveform = sound(320 * 100 + 80)
    of_layers = [torch.cat(pieces) for pieces in zip(*(
        [states[0, used] for states in layers] for used, layers in long_sound.layers(hubert, waveform, CPU, 40, 4)))]
    assert len(of_layers) == 3
    for layer, found in enumerate(of_layers):
        assert torch.equal(found, torch.cat(list(long_sound.states(hubert, waveform, layer, CPU, 40, 4))))


@torch.inference_mode()
def test_more_context_comes_nearer(hubert):
    waveform = sound(320 * 200 + 80)
    wanted = hubert.states(waveform[None])[0]
    error = [float((torch.cat(list(long_sound.states(hubert, waveform, None, CPU, 60 + 2 * context, context))) - wanted)
                   .square().mean()) for context in (4, 20, 60)]
    assert error[0] > error[1] > error[2] > 0
