"""The encoder against transformers' and torchaudio's own, against itself (padding, layers, masks), and as initialised.

Random weights throughout, norms included: their initial values would hide a swap. A difference is relative to the
largest absolute value of what it is compared with, unless it says otherwise.
"""
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from random_models import BATCH_NORM, DROPOUTS, NARROW, NARROWS, make, padded, sound
from torch import Tensor

from framealign.sound import audio
from framealign.hubert import model_directory
from framealign.hubert.model import ConvLayer, Hubert
from framealign.hubert.parameters import shapes
from framealign.exchange import torchaudio_weights
from framealign.recipe.presets import PRESETS

BASE, LARGE = PRESETS["base"].model, PRESETS["large"].model
XLARGE = replace(LARGE, hidden_size=1280, intermediate_size=5120)       # and 48 blocks
WITH_BATCH_NORM = {**NARROWS, "positional batch norm": BATCH_NORM}
SHAPES = {
    "base": replace(BASE, num_hidden_layers=2), "large": replace(LARGE, num_hidden_layers=1),
    "xlarge": replace(XLARGE, num_hidden_layers=1), **WITH_BATCH_NORM,
    "group, pre-norm, biases": replace(NARROW, do_stable_layer_norm=True, conv_bias=True, layer_norm_eps=1e-3),
    "layer, post-norm, no biases": replace(NARROW, feat_extract_norm="layer", num_attention_heads=8),
    "no projection norm": replace(NARROW, feat_proj_layer_norm=False, num_attention_heads=1, intermediate_size=7),
    "other convolutions": replace(NARROW, conv_dim=(12, 20, 8), conv_kernel=(11, 4, 3), conv_stride=(7, 3, 1)),
    "odd positional kernel": replace(NARROW, num_conv_pos_embeddings=5, num_conv_pos_embedding_groups=24),
    "one convolution, one block": replace(NARROW, conv_dim=(9,), conv_kernel=(400,), conv_stride=(320,),
                                          num_conv_pos_embeddings=1, num_conv_pos_embedding_groups=1,
                                          num_hidden_layers=1)}
BIG = {"base", "large", "xlarge"}


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over the largest absolute value."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return ((found - expected).abs().max() / expected.abs().max()).item()


def largest_difference(found: list[Tensor], expected: list[Tensor]) -> float:
    assert len(found) == len(expected)
    return max(map(difference, found, expected))


def peer():
    return pytest.importorskip("transformers", reason="transformers is absent: pip install -e .[oracle]")


def in_transformers(hubert: Hubert, directory):
    """transformers' HubertModel from the directory that our save_pretrained writes."""
    transformers = peer()
    hubert.save_pretrained(directory)
    theirs, info = transformers.HubertModel.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return theirs.to(next(hubert.parameters()).dtype).eval()


def their_states(theirs, waveform: Tensor, **options: object) -> list[Tensor]:
    """Their hidden states of layers 0 ... L, then their output."""
    with torch.no_grad():
        output = theirs(waveform, output_hidden_states=True, **options)
    return [*output.hidden_states, output.last_hidden_state]


def our_states(hubert: Hubert, waveform: Tensor, is_masked: Tensor | None = None) -> list[Tensor]:
    """Layers 0 ... L, then the output; where transformers < 5 has the normed one as layer L, here too."""
    with torch.no_grad():
        states = list(hubert.layers(hubert.conv_features(waveform), None, is_masked))
    if not hubert.config.do_stable_layer_norm:
        return [*states, states[-1]]
    return states if int(peer().__version__.split(".")[0]) >= 5 else [*states[:-2], states[-1], states[-1]]


def of_lengths(*lengths: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """A waveform of each length; each of another level and with another offset."""
    return [sound(n, seed=i, dtype=dtype) * 0.1 ** (i % 4) + 0.1 * (i % 3) for i, n in enumerate(lengths)]


def check_batch_equals_alone(hubert: Hubert, waveforms: list[Tensor], bound: float) -> None:
    """Every layer of every utterance, absolute, by the public path and the plain one; and zeros beyond its end."""
    batch, num_samples = padded(waveforms)
    with torch.inference_mode():
        public = hubert.all_states(batch, num_samples)
        plain = list(hubert.layers(hubert.conv_features(batch, num_samples), hubert.num_frames(num_samples)))
        outputs = hubert(batch, num_samples)
        assert torch.equal(outputs, plain[-1]) and all(x.shape == y.shape for x, y in zip(public, plain))
        for b, waveform in enumerate(waveforms):
            for layer, alone in enumerate(hubert.all_states(waveform[None])):
                T = alone.shape[1]
                for together in (public[layer], plain[layer]):
                    assert (together[b, :T] - alone[0]).abs().max() <= bound, f"{len(waveform)} samples"
                    assert not together[b, T:].any()


@pytest.fixture(scope="module")
def base() -> Hubert:
    """The full base model."""
    return make(BASE)


@pytest.mark.parametrize("name", SHAPES)
def test_all_hidden_states_are_transformers(name, tmp_path):
    """Every layer to 5e-6 in float32 and 1e-10 in float64, with no frame masked and with half of them."""
    hubert = make(SHAPES[name])
    theirs = in_transformers(hubert, tmp_path)
    samples = 2500 if name in BIG else 5000         # of the published sizes the convolutions take the time
    is_masked = sound(2, int(hubert.num_frames(torch.tensor(samples)))) > 0
    for dtype, bound in ((torch.float32, 5e-6), (torch.float64, 1e-10)):
        hubert, theirs, waveform = hubert.to(dtype), theirs.to(dtype), sound(2, samples, dtype=dtype)
        plain, masked = our_states(hubert, waveform), our_states(hubert, waveform, is_masked)
        assert largest_difference(plain, their_states(theirs, waveform)) <= bound
        assert largest_difference(masked, their_states(theirs, waveform, mask_time_indices=is_masked)) <= bound
        assert difference(masked[0], plain[0]) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("config", [BASE, LARGE], ids=["base", "large"])
def test_all_hidden_states_of_the_full_depth_are_transformers(config, tmp_path):
    """Twelve blocks and twenty-four: 5e-6 in float32, 1e-10 in float64."""
    hubert = make(config)
    theirs = in_transformers(hubert, tmp_path)
    for dtype, bound in ((torch.float32, 5e-6), (torch.float64, 1e-10)):
        hubert, theirs, waveform = hubert.to(dtype), theirs.to(dtype), sound(1, 2000, dtype=dtype)
        assert largest_difference(our_states(hubert, waveform), their_states(theirs, waveform)) <= bound


@pytest.mark.parametrize("name", sorted(SHAPES.keys() - BIG))
def test_and_back_from_transformers(name, tmp_path):
    """The directory that they write gives the same model here, to the bit."""
    hubert = make(SHAPES[name])
    in_transformers(hubert, tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again = Hubert.from_pretrained(tmp_path / "theirs")
    assert again.config == hubert.config and not again.training
    assert all(map(torch.equal, again.state_dict().values(), hubert.state_dict().values()))
    assert torch.equal(again.states(sound(2, 3000)), hubert.states(sound(2, 3000)))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_gradients_are_transformers(name, training, tmp_path):
    """Of every parameter, of a random function of the output, masked frames included: 1e-10 in float64.

    In training without dropout, too, where the positional convolution goes another way (theirs is in evaluation mode:
    in training a batch norm of theirs takes the statistics of the batch).
    """
    hubert = make(replace(WITH_BATCH_NORM[name], **{key: 0.0 for key in DROPOUTS}), dtype=torch.float64)
    theirs = in_transformers(hubert.train(training), tmp_path)
    waveform, direction = sound(2, 4000, dtype=torch.float64), sound(2, 12, 24, seed=1, dtype=torch.float64)
    is_masked = sound(2, 12) > 0
    *_, states = hubert.layers(hubert.conv_features(waveform), None, is_masked)
    (states * direction).sum().backward()
    (theirs(waveform, mask_time_indices=is_masked).last_hidden_state * direction).sum().backward()
    expected = {key: parameter.grad for key, parameter in theirs.named_parameters()}
    assert set(expected) == {key for key, _ in hubert.named_parameters()}
    scale = max(gradient.abs().max() for gradient in expected.values())
    for key, parameter in hubert.named_parameters():
        assert (parameter.grad - expected[key]).abs().max() <= 1e-10 * scale, key


@pytest.mark.parametrize("dropouts", [*[(name,) for name in DROPOUTS], DROPOUTS], ids="+".join)
@pytest.mark.parametrize("name", NARROWS)
def test_dropout_is_where_transformers_has_it(name, dropouts, tmp_path):
    """Same seed, training mode, one kind of dropout at a time, then all: the same elements drop out in all layers.

    So each is in its place, over the same tensor, scaled alike, and nothing draws where it should not.
    """
    hubert = make(replace(NARROWS[name], **{key: 0.4 if key in dropouts else 0.0 for key in DROPOUTS}))
    theirs = in_transformers(hubert, tmp_path)
    theirs.config.mask_time_prob = 0.0              # in training it masks by itself
    waveform = sound(2, 4000)
    quiet = our_states(hubert, waveform)
    hubert.train(), theirs.train()
    torch.manual_seed(5)
    found = our_states(hubert, waveform)
    torch.manual_seed(5)
    assert largest_difference(found, their_states(theirs, waveform.clone())) <= 2e-5
    assert difference(found[-1], quiet[-1]) > 1e-2


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_acts_in_training_only(name):
    hubert = make(replace(NARROW, **{key: 0.4 if key == name else 0.0 for key in DROPOUTS}))
    without = make(replace(NARROW, **{key: 0.0 for key in DROPOUTS}))
    waveform = sound(2, 4000)
    assert torch.equal(hubert.states(waveform), without.states(waveform))
    hubert.train(), without.train()
    assert torch.equal(without.states(waveform), without.eval().states(waveform))
    torch.manual_seed(0)
    first, second = hubert.states(waveform), hubert.states(waveform)
    torch.manual_seed(0)
    assert torch.equal(hubert.states(waveform), first) and difference(second, first) > 1e-2


def test_torchaudios_base_has_the_same_states(base):
    """All 12 layers of `torchaudio.models.hubert_base`, there and back through interop."""
    theirs = pytest.importorskip("torchaudio").models.hubert_base().eval()
    theirs.load_state_dict(torchaudio_weights.to_torchaudio(base.state_dict()))
    found = torchaudio_weights.from_torchaudio(theirs.state_dict())
    assert found.config == BASE and all(torch.equal(x, base.state_dict()[name]) for name, x in found.state.items())
    waveform = sound(1, 8000)
    with torch.inference_mode():
        expected, _ = theirs.extract_features(waveform)
        assert largest_difference(list(base.all_states(waveform)[1:]), expected) <= 5e-6


@pytest.mark.parametrize("name", [pytest.param("large", marks=pytest.mark.slow), "xlarge", *NARROWS])
def test_torchaudios_states(name):
    """Their random weights, read by interop: every layer and the output, to 5e-6 in float32 and 1e-10 in float64."""
    models = pytest.importorskip("torchaudio").models
    config = SHAPES[name]
    torch.manual_seed(0)
    theirs = models.wav2vec2_model(**torchaudio_weights.torchaudio_arguments(config), aux_num_out=None).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    known = {key: getattr(config, key) for key in ("num_attention_heads", "layerdrop", "initializer_range", *DROPOUTS)}
    found = torchaudio_weights.from_torchaudio(theirs.state_dict(), **known)
    hubert = Hubert(found.config).eval()
    hubert.load(found.state, "torchaudio's")
    assert found.config == config
    samples = 2500 if name in BIG else 5000
    for dtype, bound in ((torch.float32, 5e-6), (torch.float64, 1e-10)):
        hubert, theirs, waveform = hubert.to(dtype), theirs.to(dtype), sound(2, samples, dtype=dtype)
        with torch.inference_mode():
            expected = [*theirs.extract_features(waveform)[0], theirs(waveform)[0]]
            assert largest_difference([*hubert.all_states(waveform)[1:], hubert.states(waveform)], expected) <= bound


@pytest.mark.parametrize("name", ["base", "large"])
def test_padding_never_changes_a_result(name):
    """Group and layer feature encoders at full width: 2e-5 in float32, from the shortest utterance up."""
    hubert = make(SHAPES[name])
    some = torch.randint(400, 2000, (7,), generator=torch.Generator().manual_seed(0)).tolist()
    for lengths in ((400, *some, 719, 720), (5000, 400, 2123), (3001,)):
        check_batch_equals_alone(hubert, of_lengths(*lengths), 2e-5)


@pytest.mark.parametrize("name", ["base", "large"])
def test_padding_never_changes_a_result_of_real_speech(name, shared):
    """The first 0.4 to 0.8 s of six utterances, one made quiet: 2e-5 in float32."""
    paths = sorted((shared / "emodb4" / "audio").glob("*.flac"))[::50][:6]
    waveforms = [audio.load(path)[:6000 + 1333 * index] for index, path in enumerate(paths)]
    assert len({len(x) for x in waveforms}) == 6
    waveforms[2] = 0.01 * waveforms[2]
    check_batch_equals_alone(make(SHAPES[name]), waveforms, 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("config", [BASE, LARGE], ids=["base", "large"])
def test_padding_never_changes_a_result_of_half_a_minute(config):
    check_batch_equals_alone(make(config), of_lengths(7000, 480_000, 400, 160_123), 2e-5)


def test_padding_never_changes_a_result_of_the_whole_base(base, capsys):
    """Twelve layers, 2e-5; the same of transformers' and torchaudio's batches is printed for comparison."""
    waveforms = of_lengths(1555, 4000, 400)
    check_batch_equals_alone(base, waveforms, 2e-5)
    batch, num_samples = padded(waveforms)
    is_sample = (torch.arange(batch.shape[1]) < num_samples[:, None]).long()
    theirs = peer().HubertConfig(**model_directory.config_to_json(BASE))
    transformers, torchaudio = peer().HubertModel(theirs), pytest.importorskip("torchaudio").models.hubert_base()
    transformers.eval().load_state_dict(base.state_dict())
    torchaudio.eval().load_state_dict(torchaudio_weights.to_torchaudio(base.state_dict()))
    peers = {"transformers": (transformers(batch, attention_mask=is_sample).last_hidden_state,
                              lambda x: transformers(x).last_hidden_state),
             "torchaudio": (torchaudio(batch, num_samples)[0], lambda x: torchaudio(x)[0])}
    for name, (together, alone) in peers.items():
        with torch.inference_mode():
            alone = [alone(waveform[None])[0] for waveform in waveforms]
        drift = max((together[b, :len(states)] - states).abs().max() for b, states in enumerate(alone))
        with capsys.disabled():
            print(f"\n{name}: a padded batch of base differs from its utterances alone by up to {drift:.2g} "
                  f"(states up to {max(states.abs().max() for states in alone):.2g})")
        assert drift > 2e-5                         # otherwise the README's sentence about peers is outdated


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
@pytest.mark.parametrize("number", [1, 2, 5, 32])
def test_padding_in_float64(name, number):
    """States to 1e-9, in any order, and whatever stands in the padding, even numbers that are none."""
    hubert = make(WITH_BATCH_NORM[name], dtype=torch.float64)
    lengths = torch.randint(400, 9000, (number,), generator=torch.Generator().manual_seed(number)).tolist()
    waveforms = of_lengths(*lengths, dtype=torch.float64)
    check_batch_equals_alone(hubert, waveforms, 1e-9)
    batch, num_samples = padded(waveforms)
    expected = hubert.states(batch, num_samples)
    for rubbish in (1e3, torch.nan):
        is_padding = torch.arange(batch.shape[1]) >= num_samples[:, None]
        assert torch.equal(hubert.states(batch.masked_fill(is_padding, rubbish), num_samples), expected)


@pytest.mark.parametrize("lengths", [(1999, 7000, 400, 4321),
                                     pytest.param((400, 480_000, 16_001, 123_456), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_gradients_of_a_padded_batch_are_the_sum_of_those_alone(name, lengths):
    """Of every parameter and of the waveforms, masked frames included: 1e-9 in float64, of a largest one above 1."""
    hubert = make(WITH_BATCH_NORM[name], dtype=torch.float64)
    waveforms = [x.requires_grad_() for x in of_lengths(*lengths, dtype=torch.float64)]
    counts = hubert.num_frames(torch.tensor([len(x) for x in waveforms]))
    directions = [sound(T, 24, seed=i, dtype=torch.float64) for i, T in enumerate(counts.tolist())]
    masks = [sound(T, seed=i) > 0 for i, T in enumerate(counts.tolist())]

    def gradients(batch: Tensor, num_samples: Tensor | None, is_masked: Tensor, direction: Tensor) -> list[Tensor]:
        counts = None if num_samples is None else hubert.num_frames(num_samples)
        *_, states = hubert.layers(hubert.conv_features(batch, num_samples), counts, is_masked)
        return torch.autograd.grad((states * direction).sum(), [*hubert.parameters(), *waveforms], allow_unused=True,
                                   materialize_grads=True)

    alone = [gradients(x[None], None, m[None], d[None]) for x, m, d in zip(waveforms, masks, directions)]
    expected = [sum(parts) for parts in zip(*alone)]
    together = gradients(*padded(waveforms), padded(masks)[0], padded(directions)[0])
    for found, parts in zip(together, expected):
        assert (found - parts).abs().max() <= 1e-9 * max(1, parts.abs().max())


def test_a_batch_norm_keeps_its_statistics_in_training():
    """Training and recognition are the same function, whatever else is in the batch; scale and shift are trained."""
    hubert = make(replace(BATCH_NORM, **{key: 0.0 for key in DROPOUTS}), dtype=torch.float64)
    before = {key: x.clone() for key, x in hubert.state_dict().items()}
    batch, num_samples = padded(of_lengths(5000, 1234, 400, dtype=torch.float64))
    expected = hubert(batch, num_samples)
    found = hubert.train()(batch, num_samples)
    assert torch.equal(found, expected)
    found.square().sum().backward()
    norm = hubert.encoder.pos_conv_embed.batch_norm
    assert norm.weight.grad.abs().min() > 0 and norm.bias.grad.abs().min() > 0
    assert all(torch.equal(x, before[key]) for key, x in hubert.state_dict().items())
    norm.running_mean.add_(1)                       # and they are used
    assert not torch.allclose(hubert(batch, num_samples), expected)


def test_padding_with_masks_and_dropped_blocks():
    hubert = make(NARROW, dtype=torch.float64)
    waveforms = of_lengths(5000, 1234, 400, dtype=torch.float64)
    batch, num_samples = padded(waveforms)
    counts, is_kept = hubert.num_frames(num_samples), [False, True, True]
    is_masked = sound(3, int(counts.max())) > 0     # beyond the ends too, where it must not matter
    *_, together = hubert.layers(hubert.conv_features(batch, num_samples), counts, is_masked, is_kept)
    for b, (waveform, T) in enumerate(zip(waveforms, counts.tolist())):
        *_, alone = hubert.layers(hubert.conv_features(waveform[None]), None, is_masked[b:b + 1, :T], is_kept)
        assert (together[b, :T] - alone[0]).abs().max() < 1e-9 and not together[b, T:].any()


@pytest.mark.parametrize("name", NARROWS)
def test_a_layer_is_computed_without_those_above(name):
    hubert = make(NARROWS[name])
    ran = []
    for index, block in enumerate(hubert.encoder.layers):
        block.feed_forward.output_dense.register_forward_hook(lambda *_, index=index: ran.append(index))
    waveform, num_samples = padded(of_lengths(4000, 900))
    for lengths in (None, num_samples):
        every = hubert.all_states(waveform, lengths)
        assert len(every) == 4
        for layer in range(4):
            ran.clear()
            assert torch.equal(hubert.states(waveform, lengths, layer), every[layer])
            assert ran == list(range(layer))
    output = every[3] if name.endswith("post-norm") else \
        hubert.encoder.layer_norm(every[3]).masked_fill(every[3] == 0, 0)
    assert torch.equal(hubert.states(waveform, num_samples), output)


@pytest.mark.parametrize("name", NARROWS)
@pytest.mark.parametrize("is_kept", [[True, False, True], [False, True, True], [True, True, False], [False] * 3],
                         ids=str)
def test_a_dropped_block_is_as_if_it_were_not_there(name, is_kept):
    hubert = make(NARROWS[name])
    features = hubert.conv_features(sound(2, 4000))
    *states, = hubert.layers(features, is_kept=is_kept)
    for index, kept in enumerate(is_kept):
        assert kept or torch.equal(states[index + 1], states[index])
    states[-1].sum().backward()
    assert [block.attention.q_proj.weight.grad is not None for block in hubert.encoder.layers] == is_kept
    hubert.encoder.layers = torch.nn.ModuleList(block for block, kept in zip(hubert.encoder.layers, is_kept) if kept)
    *_, output = hubert.layers(features)
    assert torch.equal(output, states[-1])


def test_masked_frames_are_the_embedding_and_no_other_changes():
    """As if the feature projection's output had been overwritten by hand; and nothing masks by itself in training."""
    hubert = make(NARROW)
    features = hubert.conv_features(sound(2, 4000))
    is_masked = sound(2, features.shape[1]) > 0.5
    assert is_masked.any() and not is_masked.all()
    found = list(hubert.layers(features, None, is_masked))

    def overwrite(module, inputs, output: Tensor) -> Tensor:
        output = output.clone()
        for b, t in is_masked.nonzero().tolist():
            output[b, t] = hubert.masked_spec_embed
        return output

    handle = hubert.feature_projection.register_forward_hook(overwrite)
    assert all(map(torch.equal, found, hubert.layers(features)))
    handle.remove()
    assert all(map(torch.equal, hubert.layers(features, None, torch.zeros_like(is_masked)), hubert.layers(features)))
    quiet = make(replace(NARROW, **{key: 0.0 for key in DROPOUTS})).train()
    assert torch.equal(quiet.states(sound(2, 4000)), quiet.eval().states(sound(2, 4000)))


@pytest.mark.parametrize("kernel, stride, bias",
                         [(10, 5, False), (10, 5, True), (7, 3, True), (3, 3, False), (1, 1, True)])
@pytest.mark.parametrize("what", ["noise", "offset", "quiet", "silence", "constant"])
def test_group_norm_folded_into_the_convolution(what, kernel, stride, bias):
    """Equal to torch's convolution, GroupNorm and GELU one after the other, of each utterance alone; float64, 1e-9.

    Its scale and shift are GroupNorm's own, from the convolution's output.
    """
    torch.manual_seed(0)
    layer = ConvLayer(replace(NARROW, conv_kernel=(kernel, *NARROW.conv_kernel[1:]), conv_bias=bias,
                              conv_stride=(stride, *NARROW.conv_stride[1:])), 0).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = sound(3, 1, 500, dtype=torch.float64)
    x = {"noise": x, "offset": x + 10, "quiet": 1e-4 * x, "silence": 0 * x, "constant": 0 * x + 0.7}[what]
    lengths = torch.tensor([500, 77, kernel + stride])      # the last: two frames
    with torch.no_grad():
        for found, scale, shift, waveform, length in zip(
                layer(x, lengths), *layer.scale_and_shift(*layer.input_sums(x, lengths)), x, lengths.tolist()):
            convolved = layer.conv(waveform[None, :, :length])                  # (1, C, T)
            expected = F.gelu(F.group_norm(convolved, 16, layer.layer_norm.weight, layer.layer_norm.bias))[0]
            assert (found[:, :expected.shape[1]] - expected).abs().max() <= 1e-9
            variance = convolved.var(-1, correction=0)[0]
            assert torch.allclose(scale[:, 0], layer.layer_norm.weight / (variance + 1e-5).sqrt(), rtol=1e-6, atol=0)
            assert torch.isfinite(shift).all()
        assert torch.equal(layer(x, None), layer(x, torch.tensor([500] * 3)))
        single = layer(x, torch.tensor([kernel] * 3))[..., 0]               # one frame is its own mean
        assert torch.allclose(single, F.gelu(layer.layer_norm.bias).expand(3, -1), rtol=0, atol=1e-9)


def looks_normal(x: Tensor, deviation: float) -> bool:
    """Mean, standard deviation and kurtosis of a normal distribution, each within 5 standard errors."""
    x, n = x.detach().double().flatten() / deviation, x.numel()
    return abs(x.mean()) < 5 * n ** -0.5 and abs(x.square().mean() - 1) < 5 * (2 / n) ** 0.5 \
        and abs(x.pow(4).mean() - 3) < 5 * (96 / n) ** 0.5


def looks_uniform(x: Tensor, low: float, high: float) -> bool:
    """All within the bounds, first four moments of a uniform distribution within 5 standard errors."""
    x, n = (x.detach().double().flatten() - low) / (high - low), x.numel()
    moments = [abs(x.pow(k).mean() - 1 / (k + 1)) < 5 * ((1 / (2 * k + 1) - (k + 1) ** -2) / n) ** 0.5
               for k in range(1, 5)]
    return 0 <= x.min() and x.max() <= 1 and all(moments)


@pytest.mark.parametrize("name", ["base", "large"])
def test_initialisation(name):
    """Every tensor's distribution, as `initialise` states it; none is left out."""
    torch.manual_seed(0)
    hubert = Hubert(SHAPES[name])
    tensors = dict(hubert.state_dict())
    position, D = "encoder.pos_conv_embed.conv.", SHAPES[name].hidden_size
    gain, direction = (tensors.pop(f"{position}parametrizations.weight.original{i}") for i in (0, 1))
    weight = hubert.encoder.pos_conv_embed.conv.weight
    assert looks_normal(weight, (4 / (128 * D)) ** 0.5)
    assert torch.allclose(gain, weight.norm(dim=(0, 1), keepdim=True)) and looks_normal(direction, weight.std().item())
    assert not tensors.pop(position + "bias").any()
    assert looks_uniform(tensors.pop("masked_spec_embed"), 0, 1)
    for key, x in tensors.items():
        if "norm" in key:
            assert torch.equal(x, torch.ones_like(x) if key.endswith("weight") else torch.zeros_like(x)), key
        elif "conv_layers" in key:
            fan_in = tensors[key.replace("bias", "weight")][0].numel()
            right = looks_normal(x, (2 / fan_in) ** 0.5) if x.ndim == 3 else looks_uniform(x, -fan_in ** -0.5,
                                                                                          fan_in ** -0.5)
            assert right, key
        elif "feature_projection" in key:
            assert looks_uniform(x, -512 ** -0.5, 512 ** -0.5), key
        else:
            assert not x.any() if key.endswith("bias") else looks_normal(x, 0.02), key


def test_initialisation_follows_the_seed():
    torch.manual_seed(3)
    first = Hubert(NARROW).state_dict()
    torch.manual_seed(3)
    assert all(map(torch.equal, first.values(), Hubert(NARROW).state_dict().values()))
    assert any(not torch.equal(x, y) for x, y in zip(first.values(), Hubert(NARROW).state_dict().values()))


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_of_the_table(name):
    with torch.device("meta"):
        hubert = Hubert(SHAPES[name])
    assert {key: tuple(x.shape) for key, x in hubert.state_dict().items()} == shapes(SHAPES[name])


@pytest.mark.parametrize("do_normalize", [True, False])
@pytest.mark.parametrize("name", sorted(SHAPES.keys() - BIG))
def test_saved_and_read_again_is_the_same(name, do_normalize, tmp_path):
    hubert = make(SHAPES[name]).train()
    hubert.do_normalize = do_normalize
    hubert.save_pretrained(tmp_path)
    again = Hubert.from_pretrained(tmp_path)
    assert again.config == hubert.config and again.do_normalize == do_normalize and not again.training
    assert all(map(torch.equal, again.state_dict().values(), hubert.state_dict().values()))
    assert torch.equal(again.states(sound(1, 2000)), hubert.eval().states(sound(1, 2000)))


def test_loading_is_strict(tmp_path, capsys):
    """What is missing, unexpected or of another shape is named; only the mask embedding may be missing, said once."""
    state = make(NARROW).state_dict()
    bias, embedding = "encoder.layers.2.attention.q_proj.bias", "masked_spec_embed"
    for changed, message in (
            ({key: x for key, x in state.items() if key != bias}, rf"weights\.pt: .*1 missing \({bias}\)"),
            ({**state, "encoder.layers.3.bias": torch.ones(1)}, r"1 unexpected \(encoder.layers.3.bias\)"),
            ({**state, bias: torch.ones(25)}, rf"1 of another shape \({bias} \(25,\), not \(24,\)\)")):
        fresh = make(NARROW, seed=1)
        before = {key: x.clone() for key, x in fresh.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            fresh.load(changed, "weights.pt")
        assert all(map(torch.equal, before.values(), fresh.state_dict().values()))      # not half loaded
    fresh = make(NARROW, seed=1)
    own = fresh.masked_spec_embed.clone()
    del state[embedding]
    fresh.load(state, str(tmp_path))
    assert torch.equal(fresh.masked_spec_embed, own) and torch.equal(fresh.state_dict()[bias], state[bias])
    assert "has no masked_spec_embed" in capsys.readouterr().err
    fresh.load({key: x.half() for key, x in state.items()}, str(tmp_path))      # half precision is read as float32
    assert fresh.state_dict()[bias].dtype == torch.float32 and not capsys.readouterr().err


def test_an_encoder_under_its_prefix_is_read(tmp_path, capsys):
    """As in a recogniser's or a CTC model's directory; the rest is left out, aloud."""
    hubert = make(NARROW)
    head = {"classifier.weight": torch.ones(4, 24), "classifier.bias": torch.ones(4), "pooling.weight": torch.ones(24)}
    model_directory.write(tmp_path, NARROW, hubert.state_dict(), head, do_normalize=True, labels=list("abcd"))
    found = Hubert.from_pretrained(tmp_path)
    assert all(map(torch.equal, found.state_dict().values(), hubert.state_dict().values()))
    assert capsys.readouterr().err == f"{tmp_path}: a recogniser: read the encoder only, left out classifier, pooling\n"


def test_bad_input_is_named():
    hubert, waveform = make(NARROW), sound(2, 4000)
    for layer in (-1, 4):
        with pytest.raises(ValueError, match=rf"layer must be in \[0, 3\], got {layer}"):
            hubert.states(waveform, layer=layer)
    for wrong in (waveform[0], waveform[None], waveform.short()):
        with pytest.raises(ValueError, match=r"waveform must be float and \(B, N\), is torch\.\w+ and \("):
            hubert.states(wrong)
    for samples in (0, 1, 399):
        with pytest.raises(ValueError, match=f"long enough for one frame, got {samples} samples"):
            hubert.states(sound(1, samples))
        with pytest.raises(ValueError, match=rf"at most 4000, got \[4000, {samples}\]"):
            hubert.states(waveform, torch.tensor([4000, samples]))
    with pytest.raises(ValueError, match=r"at most 4000, got \[400, 4001\]"):
        hubert.states(waveform, torch.tensor([400, 4001]))
    for wrong in (torch.tensor([4000]), torch.tensor([[4000, 4000]])):
        with pytest.raises(ValueError, match=r"num_samples must be \(2,\), one for each waveform, is \("):
            hubert.states(waveform, wrong)
    with pytest.raises(ValueError, match="no such directory"):
        Hubert.from_pretrained("/nowhere")


def test_bfloat16_products_stay_near():
    """Under autocast: within 5 % of float32's largest state; the group norm's statistics stay exact."""
    for config in NARROWS.values():
        hubert = make(config)
        waveform, num_samples = padded(of_lengths(4000, 1500))
        with torch.inference_mode():
            expected = hubert.states(waveform, num_samples)
            with torch.autocast("cpu", torch.bfloat16):
                found = hubert.states(waveform, num_samples)
        assert (found - expected).abs().max() <= 0.05 * expected.abs().max()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["base", "large"])
def test_on_a_gpu_as_on_the_cpu(name, monkeypatch):
    """Float32 products throughout (no TF32): the CPU's states to 1e-5; a batch equals its utterances alone to 2e-5."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    hubert, waveforms = make(SHAPES[name]), of_lengths(24_000, 400, 7123, 16_000)
    batch, num_samples = padded(waveforms)
    with torch.inference_mode():
        expected = hubert.all_states(batch, num_samples)
        hubert = hubert.cuda()
        found = [x.cpu() for x in hubert.all_states(batch.cuda(), num_samples)]
        assert largest_difference(found, list(expected)) <= 1e-5
        for b, waveform in enumerate(waveforms):
            alone = hubert.states(waveform[None].cuda())[0].cpu()
            assert (hubert.states(batch.cuda(), num_samples.cuda())[b, :len(alone)].cpu() - alone).abs().max() <= 2e-5
