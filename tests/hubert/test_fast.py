"""The fast path of the encoder against the plain one, utterance by utterance alone; and what its dropout draws."""
import math
import random
from dataclasses import replace

import pytest
import random_models
import torch
import torch.nn.functional as F

from framealign.sound.frames import num_frames
from framealign.hubert import fast
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.model import Hubert
from framealign.recipe.presets import PRESETS

NARROW = random_models.NARROW
SHAPES = {"group, post-norm": NARROW,
          "layer, pre-norm, biases": replace(NARROW, feat_extract_norm="layer", conv_bias=True,
                                             do_stable_layer_norm=True),
          "group, biases": replace(NARROW, conv_bias=True),
          "odd positional kernel": replace(NARROW, num_conv_pos_embeddings=5, num_conv_pos_embedding_groups=24),
          "positional batch norm": random_models.BATCH_NORM,
          "other convolutions": replace(NARROW, conv_dim=(12, 20, 8), conv_kernel=(11, 4, 3), conv_stride=(7, 3, 1)),
          "a stride beyond the kernel": replace(NARROW, conv_dim=(9, 5), conv_kernel=(10, 2), conv_stride=(5, 4)),
          "one convolution": replace(NARROW, conv_dim=(9,), conv_kernel=(400,), conv_stride=(320,))}


def make(config: HubertConfig, dtype: torch.dtype = torch.float64) -> Hubert:
    return random_models.make(config, dtype=dtype)


def sounds(*lengths: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, generator=generator, dtype=dtype) for n in lengths]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("samples", [400, 719, 720, 4000, 16_001])
def test_features_are_the_plain_conv_encoders(name, samples):
    """In float64 to rounding, for chunks of one frame, of some, and of all."""
    hubert, (waveform,) = make(SHAPES[name]), sounds(samples)
    expected = hubert.conv_features(waveform[None])[0]
    for chunk in (1, 7, 10_000):
        found = fast.conv_products(hubert.feature_extractor.conv_layers, waveform, torch.float64, chunk)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-11 * expected.abs().max()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("samples", [400, 719, 720, 4000, 16_001])
def test_features_in_chunks_are_the_plain_conv_encoders(name, samples):
    """The same convolutions of the same samples, whatever the chunks."""
    hubert, (waveform,) = make(SHAPES[name]), sounds(samples)
    with torch.inference_mode():
        expected = hubert.conv_features(waveform[None])[0]
        for chunk in (1, 7, 10_000):
            chunks = fast.conv_chunks(hubert, waveform, chunk)
            assert chunks.shape == expected.shape
            assert (chunks - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_features_of_any_convolutions_are_the_plain_conv_encoders():
    """Of kernels, strides and lengths drawn at random, and of 25 Hz; as many frames as the framing says."""
    draw = random.Random(0)
    stacks = [((10, 3, 3, 3, 3, 2, 2, 2), (5, 2, 2, 2, 2, 2, 2, 2))]
    for depth in [1, 2, 3, 4, 5] * 4:
        stacks.append(tuple(tuple(draw.randint(1, most) for _ in range(depth)) for most in (9, 6)))
    for index, (kernels, strides) in enumerate(stacks):
        shape = SHAPES["layer, pre-norm, biases" if index % 2 else "group, biases"]
        hubert = make(replace(shape, conv_dim=(6,) * len(kernels), conv_kernel=kernels, conv_stride=strides))
        framing = hubert.config.framing
        waveform, = sounds(framing.receptive_field + draw.randrange(60 * framing.hop))
        with torch.inference_mode():
            expected = hubert.conv_features(waveform[None])[0]
            assert len(expected) == hubert.num_frames(len(waveform)) == num_frames(len(waveform), framing)
            for chunk in (1, 7, 10_000):
                for found in (fast.conv_chunks(hubert, waveform, chunk),
                              fast.conv_products(hubert.feature_extractor.conv_layers, waveform, torch.float64, chunk)):
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
                for waveform, found in zip(chosen, fast.states(hubert, chosen, layer)):
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
        expected, found = plain(*given), fast.Packing(sizes).convolution(*given, groups)
        assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
        pairs = zip(torch.autograd.grad(found, given, gradient), torch.autograd.grad(expected, given, gradient))
        assert all((a - b).abs().max() <= 1e-11 * b.abs().max() for a, b in pairs)
        rounded = fast.Packing(sizes).convolution(x.float(), weight.float(), bias.float(), groups)
        assert rounded.dtype == torch.float32 and (rounded - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_packed_base_is_within_the_promise():
    """Base with random weights, two blocks, in float32: 2e-5, as for padded batches; bfloat16 within 2 %."""
    hubert = make(replace(PRESETS["base"].model, num_hidden_layers=2), torch.float32)
    waveforms = sounds(8000, 3111, 16_000, dtype=torch.float32)
    with torch.inference_mode():
        alone = [hubert.states(x[None])[0] for x in waveforms]
        for found, expected in zip(fast.states(hubert, waveforms), alone):
            assert (found - expected).abs().max() <= 2e-5
        with torch.autocast("cpu", torch.bfloat16):
            rounded = fast.states(hubert, waveforms)
    for found, expected in zip(rounded, alone):
        assert 0 < (found.float() - expected).norm() <= 0.02 * expected.norm()


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_gradients_of_packed_blocks_are_the_sum_of_those_alone(device, monkeypatch):
    """The blocks train on frames end to end: fine-tuning's batches. With gradients conv features are the plain ones.

    Positions by FFT, or utterance by utterance, as on MPS, where complex products may be missing.
    """
    if device == "mps":
        monkeypatch.setattr(fast.Packing, "convolution", None)
        monkeypatch.setattr(fast.Packing, "positions", as_on_mps)
    hubert, waveforms = make(replace(NARROW, hidden_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0,
                                     layerdrop=0.0)), sounds(4000, 900, 2500)
    found = torch.autograd.grad(sum(state.square().sum() for state in fast.states(hubert, waveforms)),
                                hubert.parameters(), allow_unused=True, materialize_grads=True)
    alone = [hubert(x[None]).square().sum() for x in waveforms]
    expected = torch.autograd.grad(sum(alone), hubert.parameters(), allow_unused=True, materialize_grads=True)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def as_on_mps(packing: fast.Packing, module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """`Packing.positions` with frames that claim to be on MPS, where there is no FFT of theirs."""
    class OnMps(torch.Tensor):
        device = torch.device("mps")
    return POSITIONS(packing, module, x.as_subclass(OnMps)).as_subclass(torch.Tensor)


POSITIONS = fast.Packing.positions


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("lengths", [(31, 9, 17), (12, 12), (5, 5, 5, 40)])
@pytest.mark.parametrize("shape", [NARROW, random_models.BATCH_NORM], ids=["weight norm", "batch norm"])
def test_output_is_the_last_of_the_plain_layers(shape, lengths, mode):
    """Of a padded batch of conv features, with masked frames and dropped blocks; longer padding than any utterance."""
    generator = torch.Generator().manual_seed(len(lengths))
    hubert = make(replace(shape, **{key: 0.0 for key in random_models.DROPOUTS})).train(mode == "train")
    T = max(lengths) + 3 * (len(set(lengths)) > 1)
    features = torch.randn(len(lengths), T, 16, generator=generator, dtype=torch.float64)
    is_masked, counts = torch.rand(len(lengths), T, generator=generator) < 0.4, torch.tensor(lengths)
    for mask, is_kept in ((None, None), (is_masked, None), (is_masked, [True, False, True])):
        *_, expected = hubert.layers(features, counts, mask, is_kept)
        found = fast.output(hubert, features, list(lengths), mask, is_kept)
        assert found.shape == expected.shape and (found - expected).abs().max() <= 1e-10 * expected.abs().max()
        added = fast.output(hubert, features, list(lengths), mask, is_kept, read=lambda layers: sum(layers))
        expected = sum(hubert.layers(features, counts, mask, is_kept))
        assert (added - expected).abs().max() <= 1e-10 * expected.abs().max()


def test_the_public_states_compute_no_padding_outside_training(monkeypatch):
    """`Hubert.states`, `all_states` of given lengths go through `fast`; in training and without lengths they do not."""
    hubert, calls = make(NARROW), []
    layers = fast.Packing.layers
    monkeypatch.setattr(fast.Packing, "layers", lambda packing, hubert, x, *rest: (
        calls.append(len(x)) or layers(packing, hubert, x, *rest)))
    batch, num_samples = random_models.padded(sounds(4000, 900))
    total = int(hubert.num_frames(num_samples).sum())
    hubert.states(batch, num_samples), hubert.all_states(batch, num_samples)
    assert calls == [total, total]
    hubert.states(batch), hubert(batch, num_samples), hubert.train().states(batch, num_samples)
    assert calls == [total, total]


@pytest.mark.parametrize("sizes", [[7], [1, 1], [30, 1, 5, 64], [12] * 9])
def test_attention_at_once_is_that_of_each_in_turn(sizes, monkeypatch):
    """What the flash kernel is given, with a brute force of its contract in its place; the kernel itself: on a GPU."""
    generator, (S, H, d) = torch.Generator().manual_seed(len(sizes)), (sum(sizes), 3, 8)
    q, k, v = (torch.randn(S, H, d, generator=generator, dtype=torch.float64) for _ in range(3))

    def contract(query, key, value, cu_q, cu_k, max_q, max_k):
        """(S, H, d) each; utterance i is rows [cu[i], cu[i + 1]), none longer than the maximum."""
        assert cu_q.dtype == torch.int32 and torch.equal(cu_q, cu_k) and max_q == max_k == int(cu_q.diff().max())
        rows = [slice(int(a), int(b)) for a, b in zip(cu_q[:-1], cu_q[1:])]
        return torch.cat([torch.einsum("hqk,khd->qhd", torch.softmax(
            torch.einsum("qhd,khd->hqk", query[r], key[r]) / d ** 0.5, -1), value[r]) for r in rows])
    monkeypatch.setattr(fast.varlen, "varlen_attn", contract)
    found = fast.Packing(sizes).attention(q, k, v, 0.0)
    assert found.shape == q.shape and (fast.Packing(sizes).attention_at_once(q, k, v) - found).abs().max() < 1e-12


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9, 1 / fast.STEPS])
def test_elements_drop_with_probability_p_wherever_they_lie(p):
    """Each of the four places of a drawn number: the share of zeros is p, within five deviations."""
    torch.manual_seed(1)
    dropped = fast.dropped(torch.ones(4, 250_000, dtype=torch.float64), p) == 0
    for place in range(4):
        share = dropped.flatten()[place::4].double().mean().item()
        assert abs(share - p) <= 5 * math.sqrt(p * (1 - p) / 250_000) + 0.5 / fast.STEPS


def test_elements_drop_independently_of_each_other():
    torch.manual_seed(2)
    dropped = (fast.dropped(torch.ones(1_000_000), 0.3) == 0).double() - 0.3
    for distance in (1, 2, 3, 4, 5, 8, 768):
        assert abs((dropped[distance:] * dropped[:-distance]).mean().item()) <= 5 * 0.21 / 1000


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (2, 3, 11)])
def test_what_stays_is_divided_by_its_share_and_so_is_the_gradient(dtype, shape):
    torch.manual_seed(3)
    x = torch.randn(shape).to(dtype).requires_grad_()
    y = fast.dropped(x, 0.25)
    stays = y != 0
    assert y.dtype == dtype and y.shape == x.shape
    torch.testing.assert_close(y, torch.where(stays, x / 0.75, 0))
    direction = torch.randn(shape).to(dtype)
    y.backward(direction)
    torch.testing.assert_close(x.grad, torch.where(stays, direction / 0.75, 0))


def test_nothing_and_everything_may_drop():
    x = torch.randn(50)
    assert torch.equal(fast.dropped(x, 0.0), x) and torch.equal(fast.dropped(x, 1.0), torch.zeros(50))
    assert fast.dropped(x[:0], 0.5).shape == (0,)


@pytest.mark.parametrize("size, own", [(fast.SMALL - 1, True), (fast.SMALL, False)])
def test_the_states_of_small_models_have_torchs_own_draws(size, own):
    x = torch.randn(size)
    torch.manual_seed(7)
    found = fast.dropout(x, torch.nn.Dropout(0.1))
    torch.manual_seed(7)
    assert torch.equal(found, F.dropout(x, 0.1)) == own
    torch.manual_seed(7)
    assert torch.equal(found, fast.dropped(x, 0.1)) != own


@pytest.mark.parametrize("size", [700, fast.SMALL])
def test_the_module_drops_in_training_only_and_by_the_seed(size):
    x, module = torch.randn(size), torch.nn.Dropout(0.4)
    assert fast.dropout(x, module.eval()) is x
    module.train()
    torch.manual_seed(4)
    first, second = fast.dropout(x, module), fast.dropout(x, module)
    torch.manual_seed(4)
    assert torch.equal(fast.dropout(x, module), first) and not torch.equal(first, second)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_attention_is_softmax_and_a_sum_over_the_utterances_own_frames(p):
    """Against plain loops in float64, with the weights that the same seed drops."""
    torch.manual_seed(5)
    q, k, v = torch.randn(3, 15, 2, 4, dtype=torch.float64).unbind()            # (S, H, d): 9 frames, then 6
    torch.manual_seed(6)
    found = fast.Packing([9, 6]).attention(q, k, v, p)
    torch.manual_seed(6)
    for first, size in ((0, 9), (9, 6)):
        drawn = fast.dropped(torch.ones(1, 2, size, size, dtype=torch.float64), p)[0]
        for head in range(2):
            for t in range(size):
                weights = torch.stack([q[first + t, head] @ k[first + key, head] / 2 for key in range(size)]).exp()
                weights = weights / weights.sum() * drawn[head, t]
                torch.testing.assert_close(found[first + t, head], weights @ v[first:first + size, head])


@pytest.mark.gpu
def test_packed_on_a_gpu():
    hubert, waveforms = make(PRESETS["base"].model, torch.float32).cuda(), sounds(8000, 3111, dtype=torch.float32)
    waveforms = [x.cuda() for x in waveforms]
    with torch.inference_mode():
        for found, waveform in zip(fast.states(hubert, waveforms), waveforms):
            torch.testing.assert_close(found, hubert.states(waveform[None])[0], rtol=1e-4, atol=1e-3)
        with torch.autocast("cuda", torch.bfloat16):
            for found, waveform in zip(fast.states(hubert, waveforms), waveforms):
                expected = hubert.states(waveform[None])[0].float()
                assert (found.float() - expected).norm() <= 0.02 * expected.norm()
