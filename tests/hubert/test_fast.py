"""The fast path of the encoder (matrix products, no padding) against the plain one, utterance by utterance alone."""
from dataclasses import replace

import pytest
import test_model
import torch
import torch.nn.functional as F

from framealign.runtime import allocator
from framealign.hubert import fast
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.model import Hubert, PositionalConvolution
from framealign.recipe.presets import PRESETS

NARROW = test_model.NARROW
SHAPES = {"group, post-norm": NARROW,
          "layer, pre-norm, biases": replace(NARROW, feat_extract_norm="layer", conv_bias=True,
                                             do_stable_layer_norm=True),
          "group, biases": replace(NARROW, conv_bias=True),
          "odd positional kernel": replace(NARROW, num_conv_pos_embeddings=5, num_conv_pos_embedding_groups=24),
          "other convolutions": replace(NARROW, conv_dim=(12, 20, 8), conv_kernel=(11, 4, 3), conv_stride=(7, 3, 1)),
          "a stride beyond the kernel": replace(NARROW, conv_dim=(9, 5), conv_kernel=(10, 2), conv_stride=(5, 4)),
          "one convolution": replace(NARROW, conv_dim=(9,), conv_kernel=(400,), conv_stride=(320,))}


def make(config: HubertConfig, dtype: torch.dtype = torch.float64) -> Hubert:
    return test_model.make(config, dtype=dtype)


def sounds(*lengths: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, generator=generator, dtype=dtype) for n in lengths]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("samples", [400, 719, 720, 4000, 16_001])
def test_features_are_the_plain_conv_encoders(name, samples):
    """In float64 to rounding, for chunks of one frame, of some, and of all."""
    hubert, (waveform,) = make(SHAPES[name]), sounds(samples)
    expected = hubert.frontend(waveform[None])[0]
    for chunk in (1, 7, 10_000):
        found = fast.features(hubert.feature_extractor.conv_layers, waveform, torch.float64, chunk)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-11 * expected.abs().max()


@pytest.mark.parametrize("name", SHAPES)
def test_packed_states_are_those_of_each_utterance_alone(name):
    """Every layer, lengths that differ, in any order; nothing of a neighbour is seen."""
    hubert, waveforms = make(SHAPES[name]), sounds(4000, 400, 9_111, 1234)
    with torch.inference_mode():
        for layer in (0, 1, 3, None):
            for order in ([0, 1, 2, 3], [2, 0, 3, 1], [1]):
                chosen = [waveforms[i] for i in order]
                for waveform, found in zip(chosen, hubert.states_of(chosen, layer)):
                    alone = hubert.states(waveform[None], layer=layer)[0]
                    assert found.shape == alone.shape
                    assert (found - alone).abs().max() <= 1e-10 * alone.abs().max()


@pytest.mark.parametrize("kernel, groups", [(128, 4), (5, 2), (1, 1), (16, 8), (33, 1)])
def test_positions_by_fft_are_the_convolution_of_each_utterance(kernel, groups):
    """Values and all three gradients in float64, lengths from one frame to several windows; in float32 to 1e-5."""
    generator = torch.Generator().manual_seed(kernel)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    for sizes in ([1], [kernel, 1, 3], [129, 130, 2], [700, 64, 258]):
        x, weight, bias, gradient = draw(sum(sizes), 16), draw(16, 16 // groups, kernel), draw(16), draw(sum(sizes), 16)

        def plain(x, weight, bias):
            return torch.cat([F.conv1d(part.T, weight, bias, 1, kernel // 2, 1, groups)[:, :len(part)].T
                              for part in x.split(sizes)])
        given = [y.clone().requires_grad_() for y in (x, weight, bias)]
        expected, found = plain(*given), fast.convolution(*given, groups, sizes)
        assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
        pairs = zip(torch.autograd.grad(found, given, gradient), torch.autograd.grad(expected, given, gradient))
        assert all((a - b).abs().max() <= 1e-11 * b.abs().max() for a, b in pairs)
        rounded = fast.convolution(x.float(), weight.float(), bias.float(), groups, sizes)
        assert rounded.dtype == torch.float32 and (rounded - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_packed_base_is_within_the_promise():
    """Base with random weights, two blocks, in float32: 2e-5, as for padded batches; bfloat16 within 2 %."""
    hubert = make(replace(PRESETS["base"].model, num_hidden_layers=2), torch.float32)
    waveforms = sounds(8000, 3111, 16_000, dtype=torch.float32)
    with torch.inference_mode():
        alone = [hubert.states(x[None])[0] for x in waveforms]
        for found, expected in zip(hubert.states_of(waveforms), alone):
            assert (found - expected).abs().max() <= 2e-5
        with torch.autocast("cpu", torch.bfloat16):
            rounded = hubert.states_of(waveforms)
    for found, expected in zip(rounded, alone):
        assert 0 < (found.float() - expected).norm() <= 0.02 * expected.norm()


@pytest.mark.parametrize("by_fft", [True, False])
def test_gradients_of_packed_blocks_are_the_sum_of_those_alone(by_fft, monkeypatch):
    """The blocks train on frames laid end to end: fine-tuning's batches. (The conv encoder's fast path does not.)

    Positions by FFT, or utterance by utterance, as where complex products may be missing.
    """
    monkeypatch.setattr(PositionalConvolution, "by_fft", lambda self, x, sizes: by_fft and sizes is not None)
    hubert, waveforms = make(replace(NARROW, hidden_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0,
                                     layerdrop=0.0)), sounds(4000, 900, 2500)
    features = [hubert.features_of(x) for x in waveforms]
    assert not features[0].requires_grad
    trained = [p for name, p in hubert.named_parameters() if name.startswith(("encoder.", "feature_proj"))]
    *_, states = hubert.layers(torch.cat(features)[None], sizes=[len(x) for x in features])
    found = torch.autograd.grad(states.square().sum(), trained)
    alone = [list(hubert.layers(x[None]))[-1].square().sum() for x in features]
    for a, b in zip(found, torch.autograd.grad(sum(alone), trained)):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sizes", [[7], [1, 1], [30, 1, 5, 64], [12] * 9])
def test_attention_at_once_is_that_of_each_in_turn(sizes, monkeypatch):
    """What the flash kernel is given, with a brute force of its contract in its place; the kernel itself: on a GPU."""
    generator, (H, S, d) = torch.Generator().manual_seed(len(sizes)), (3, sum(sizes), 8)
    q, k, v = (torch.randn(1, S, H, d, generator=generator, dtype=torch.float64).transpose(1, 2) for _ in range(3))

    def contract(query, key, value, cu_q, cu_k, max_q, max_k):
        """(S, H, d) each; utterance i is rows [cu[i], cu[i + 1]), none longer than the maximum."""
        assert cu_q.dtype == torch.int32 and torch.equal(cu_q, cu_k) and max_q == max_k == int(cu_q.diff().max())
        rows = [slice(int(a), int(b)) for a, b in zip(cu_q[:-1], cu_q[1:])]
        return torch.cat([torch.einsum("hqk,khd->qhd", torch.softmax(
            torch.einsum("qhd,khd->hqk", query[r], key[r]) / d ** 0.5, -1), value[r]) for r in rows])
    monkeypatch.setattr(fast.varlen, "varlen_attn", contract)
    found = fast.attention(q, k, v, sizes, 0.0)
    assert found.shape == q.shape and (fast.at_once(q, k, v, sizes) - found).abs().max() < 1e-12


def test_allocation_can_be_told_and_told_back():
    """Where the C library is glibc it takes both; elsewhere it says that it did not."""
    told = allocator.keep_freed_memory()
    assert allocator.keep_freed_memory(False) is told and allocator.keep_freed_memory() is told


@pytest.mark.gpu
def test_packed_on_a_gpu():
    hubert, waveforms = make(PRESETS["base"].model, torch.float32).cuda(), sounds(8000, 3111, dtype=torch.float32)
    waveforms = [x.cuda() for x in waveforms]
    with torch.inference_mode():
        for found, waveform in zip(hubert.states_of(waveforms), waveforms):
            torch.testing.assert_close(found, hubert.states(waveform[None])[0], rtol=1e-4, atol=1e-3)
        with torch.autocast("cuda", torch.bfloat16):
            for found, waveform in zip(hubert.states_of(waveforms), waveforms):
                expected = hubert.states(waveform[None])[0].float()
                assert (found.float() - expected).norm() <= 0.02 * expected.norm()
