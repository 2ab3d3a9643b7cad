"""The encoder's states faster, and the same: utterances of any lengths without padding, on frames end to end.

The plain path is `model.py`; this is what computes the same numbers in less time, up to rounding (1e-6; in bfloat16 the
sums are still those of a float32 accumulator). Two places switch it on: `Hubert.states` and `Hubert.all_states`, for
utterances of given lengths outside training, and the trainings' setting `fast`, which stands in every record. It has
four parts:

- no padding: the frames of all utterances lie end to end, (S, D), and attend to their own utterance (`Packing`);
- the conv encoder in chunks that stay in a CPU's caches, or as matrix products where the device's own convolutions
  are slower (`conv_features`);
- the positional convolution by FFT (`Packing.positions`);
- on a CPU, dropout from 16 random bits an element (`dropout`; Srivastava et al. 2014).

docs/BENCHMARKS.md says what each part is worth.
"""
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import varlen

from framealign.runtime import distributed
from framealign.sound.frames import conv_inputs, conv_length

CHUNK_FRAMES = 100                                  # 2 s: 6 MB of base's first layer in bfloat16
CHUNK_BYTES = 13 * 2 ** 20                          # of the first layer's output in float32: 2 s in base, 65 s in tiny
GPU_CHUNK_FRAMES = 1500                             # 30 s: kernels large enough to be worth starting
STEPS = 1 << 16                                     # a dropout probability is rounded to a multiple of 1 / STEPS
SMALL = 1 << 19                                     # elements of states: of fewer torch draws in 4 ms


def states(hubert: nn.Module, waveforms: list[Tensor], layer: int | None = None) -> list[Tensor]:
    """States of one layer of utterances of any lengths, (n,) float each: (t, D) of each.

    hubert: a `model.Hubert`. layer: as in `Hubert.states`; None: the encoder's output. Under autocast in its precision.
    """
    upto = None if layer is None else layer + 1
    *_, state = itertools.islice(_layers_of(hubert, waveforms), upto)
    return state


def all_states(hubert: nn.Module, waveforms: list[Tensor]) -> Iterator[list[Tensor]]:
    """For each layer 0 ... L what `states` gives."""
    return itertools.islice(_layers_of(hubert, waveforms), hubert.config.num_hidden_layers + 1)


def _layers_of(hubert: nn.Module, waveforms: list[Tensor]) -> Iterator[list[Tensor]]:
    """`Packing.layers` of waveforms (n,), taken apart again: (t, D) of each utterance."""
    features = [conv_features(hubert, waveform) for waveform in waveforms]      # (t, C) each
    sizes = [len(x) for x in features]
    for state in Packing(sizes).layers(hubert, torch.cat(features)):            # (S, D)
        yield list(state.split(sizes))


def padded(states: Sequence[Tensor], num_frames: int) -> Tensor:
    """States (t, D) of each utterance as one batch (B, T = num_frames, D), zeros beyond each end."""
    return torch.stack([F.pad(state, (0, 0, 0, num_frames - len(state))) for state in states])


def last(layers: Iterator[Tensor]) -> Tensor:
    """The encoder's output, of the states of all layers."""
    *_, state = layers
    return state


def output(hubert: nn.Module, features: Tensor, num_frames: list[int], is_masked: Tensor | None = None,
           is_kept: list[bool] | None = None, read: Callable[[Iterator[Tensor]], Tensor] = last) -> Tensor:
    """The encoder's output for a padded batch of conv features, as the last of `Hubert.layers`.

    features (B, T, C), num_frames of each utterance, is_masked (B, T) bool or None, is_kept as in `Hubert.layers`:
    (B, T, D), zeros beyond each end. read: what is made, frame by frame, of the states of all layers.
    """
    packing = Packing(num_frames)
    if min(num_frames) == features.shape[1]:        # nothing is padded
        flat_mask = None if is_masked is None else is_masked.flatten()
        return read(packing.layers(hubert, features.flatten(0, 1), flat_mask, is_kept)).unflatten(0, features.shape[:2])
    frames = torch.cat([row[:size] for row, size in zip(features, num_frames)])                 # (S, C)
    mask = None if is_masked is None else torch.cat([row[:size] for row, size in zip(is_masked, num_frames)])
    states = read(packing.layers(hubert, frames, mask, is_kept))                # (S, D)
    return padded(states.split(num_frames), features.shape[1])


class Packing:
    """Utterances of `sizes` frames laid end to end, (S, ...), and what the modules of a `model.Hubert` make of them."""

    def __init__(self, sizes: list[int]):
        self.sizes = sizes

    def layers(self, hubert: nn.Module, features: Tensor, is_masked: Tensor | None = None,
               is_kept: list[bool] | None = None) -> Iterator[Tensor]:
        """`Hubert.layers`: conv features (S, C), is_masked (S,) bool or None -> the states of each layer, (S, D)."""
        projection, encoder = hubert.feature_projection, hubert.encoder
        x = dropout(projection.projection(projection.layer_norm(features)), projection.dropout)  # (S, D)
        if is_masked is not None:
            x = torch.where(is_masked[:, None], hubert.masked_spec_embed.to(x), x)
        x = x + F.gelu(self.positions(encoder.pos_conv_embed, x))
        x = dropout(x if encoder.pre_norm else encoder.layer_norm(x), encoder.dropout)
        yield x
        for index, transformer_block in enumerate(encoder.layers):
            if is_kept is None or is_kept[index]:
                x = self.block(transformer_block, x)
            yield x
        if encoder.pre_norm:
            yield encoder.layer_norm(x)

    def block(self, module: nn.Module, x: Tensor) -> Tensor:
        """A `model.Block`: (S, D) -> (S, D)."""
        if module.pre_norm:
            x = x + dropout(self.self_attention(module.attention, module.layer_norm(x)), module.dropout)
            return x + feed_forward(module.feed_forward, module.final_layer_norm(x))
        x = module.layer_norm(x + dropout(self.self_attention(module.attention, x), module.dropout))
        return module.final_layer_norm(x + feed_forward(module.feed_forward, x))

    def self_attention(self, module: nn.Module, x: Tensor) -> Tensor:
        """A `model.Attention`, each utterance to itself alone: (S, D) -> (S, D)."""
        p = module.dropout if module.training else 0.0
        q, k, v = (proj(x).view(len(x), module.num_heads, -1)                   # (S, H, D / H) each
                   for proj in (module.q_proj, module.k_proj, module.v_proj))
        return module.out_proj(self.attention(q, k, v, p).flatten(1))

    def attention(self, q: Tensor, k: Tensor, v: Tensor, p: float) -> Tensor:
        """Attention of each utterance to itself, weights dropped with probability p: (S, H, d) each -> same.

        Utterances of one size are a batch. Of several, a GPU has a flash kernel, in half precision and without dropout;
        else they take turns.
        """
        if min(self.sizes) == max(self.sizes):
            batch = (x.unflatten(0, (len(self.sizes), -1)).transpose(1, 2) for x in (q, k, v))  # (B, H, T, d) each
            return attend(*batch, p).transpose(1, 2).flatten(0, 1)
        if q.device.type == "cuda" and q.dtype in (torch.bfloat16, torch.float16) and not p:
            return self.attention_at_once(q, k, v)
        utterances = zip(*(x.transpose(0, 1)[None].split(self.sizes, 2) for x in (q, k, v)))  # (1, H, T, d) of each
        return torch.cat([attend(*own, p)[0].transpose(0, 1) for own in utterances])

    def attention_at_once(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`attention` in one call of the flash kernel for several lengths."""
        ends, longest = _ends(tuple(self.sizes), q.device), max(self.sizes)
        return varlen.varlen_attn(q, k, v, ends, ends, longest, longest)

    def positions(self, module: nn.Module, x: Tensor) -> Tensor:
        """A `model.PositionalConvolution` without GELU, of each utterance with zeros around it: (S, D) -> (S, D)."""
        conv = module.conv
        if module.batch_norm is not None:
            x = module.normalised(x)
        weight, bias = conv.weight, conv.bias       # the weight norm is computed once
        if x.device.type != "mps":
            return self.convolution(x, weight, bias, conv.groups)
        utterances = [part.T[None] for part in x.split(self.sizes)]             # (1, D, T) each
        return torch.cat([F.conv1d(part, weight, bias, 1, conv.padding, 1, conv.groups)[0, :, :part.shape[2]].T
                          for part in utterances])

    def convolution(self, x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        """A grouped convolution over the frames of each utterance, by FFT: x (S, D).

        weight (D, D / groups, K) and bias (D,): (S, D), what `F.conv1d` gives with padding K // 2, cut to T frames of
        each. Windows of N >= 2 K frames overlap by K - 1; of each the N - K + 1 outputs that the circle does not reach
        are used (overlap-save). 128 taps become one complex product at each of 129 frequencies, for 129 frames at once.
        """
        kernel, width, dtype = weight.shape[2], x.shape[1], x.dtype
        size = 1 << (2 * kernel - 1).bit_length()                               # N, a power of two
        hop, left = size - kernel + 1, kernel // 2
        with torch.autocast(x.device.type, enabled=False):                      # an FFT needs float32
            x, weight = (y if y.dtype == torch.float64 else y.float() for y in (x, weight))
            numbers = [-(-frames // hop) for frames in self.sizes]              # windows of each utterance
            windows = [F.pad(part, (0, 0, left, number * hop + kernel - 1 - left - len(part))).unfold(0, size, hop)
                       for part, number in zip(x.split(self.sizes), numbers)]   # (n, D, N) of each
            spectrum = torch.fft.rfft(torch.cat(windows)).unflatten(1, (groups, -1)).permute(1, 3, 0, 2)
            taps = torch.fft.rfft(weight, size).unflatten(0, (groups, -1)).permute(0, 3, 2, 1)  # (G, f, in, out)
            y = torch.fft.irfft((spectrum @ taps.conj()).permute(2, 0, 3, 1), size)  # (n, G, D / G, N)
            y = y[..., :hop].flatten(1, 2).transpose(1, 2).split(numbers)       # (n, hop, D) of each
            y = torch.cat([part.reshape(-1, width)[:frames] for part, frames in zip(y, self.sizes)])
            return (y + bias).to(dtype)


def feed_forward(module: nn.Module, x: Tensor) -> Tensor:
    """A `model.FeedForward` on frames end to end: (S, D) -> (S, D)."""
    x = dropout(F.gelu(module.intermediate_dense(x)), module.intermediate_dropout)
    return dropout(module.output_dense(x), module.output_dropout)


@functools.lru_cache(maxsize=4)                     # all blocks ask for the same
def _ends(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Where utterances begin and end: (0, T_1, T_1 + T_2, ..., S) int32, on the device without waiting for it."""
    return distributed.send(torch.tensor((0, *sizes)).cumsum(0).int(), device)


def attend(q: Tensor, k: Tensor, v: Tensor, p: float) -> Tensor:
    """Scaled dot-product attention, its weights dropped with probability p: (B, H, T, d) each -> (B, H, T, d).

    Vaswani et al. 2017, Sec. 3.2.1.
    """
    if q.device.type != "cpu" or not p:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p)
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)                 # (B, H, T, T)
    return dropped(scores.softmax(-1), p) @ v


def dropout(x: Tensor, module: nn.Dropout) -> Tensor:
    """What `module` does to states x. The states of a small model, where that costs little, keep torch's own draws."""
    if module.training and x.numel() >= SMALL:
        return dropped(x, module.p)
    return module(x)


def dropped(x: Tensor, p: float) -> Tensor:
    """Elements of x are set to 0 with probability p in [0, 1], the others divided by 1 - p; from torch's generator.

    torch draws a 64-bit number for each element, one after the other: a seventh of a training step of `base` on two
    cores. Four elements from one such number take a third of that time. Other devices draw in parallel.
    """
    limit = round(p * STEPS)                        # of the STEPS values that 16 bits have
    if x.device.type != "cpu" or limit in (0, STEPS):
        return F.dropout(x, p)
    numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-2 ** 63, None)
    bits = numbers.view(torch.int16)[:x.numel()].view(x.shape)                  # uniform in [-STEPS / 2, STEPS / 2)
    return x * (bits >= limit - STEPS // 2).to(x.dtype).mul_(STEPS / (STEPS - limit))


def conv_features(hubert: nn.Module, waveform: Tensor) -> Tensor:
    """`Hubert.conv_features` of one utterance: (n,) float -> (t, C), in autocast's type where that is on.

    With gradients the plain path. On a CPU in float32 the device's own convolutions, in chunks; else matrix products.
    """
    device = waveform.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else waveform.dtype
    if torch.is_grad_enabled():
        return hubert.conv_features(waveform[None])[0]
    if device == "cpu" and dtype == torch.float32:
        return conv_chunks(hubert, waveform)
    return conv_products(hubert.feature_extractor.conv_layers, waveform, dtype)


def conv_chunks(hubert: nn.Module, waveform: Tensor, chunk_frames: int = 0) -> Tensor:
    """`Hubert.conv_features` of one utterance, (n,) -> (t, C), in chunks whose activations stay near the caches.

    The frames of a chunk need its own samples only; the group norm's scale and shift are those of the whole utterance.
    chunk_frames 0: by the size of the first layer's output, so that small models stay whole.
    """
    kernels, strides, hop = hubert.config.conv_kernel, hubert.config.conv_stride, math.prod(hubert.config.conv_stride)
    first_layer = hubert.feature_extractor.conv_layers[0]
    frame_bytes = 4 * hubert.config.conv_dim[0] * hop // strides[0]             # of the first layer's output
    chunk_frames = chunk_frames or max(1, CHUNK_BYTES // frame_bytes)
    num_frames = hubert.num_frames(len(waveform))
    if num_frames <= chunk_frames:
        return hubert.conv_features(waveform[None])[0]
    group_norm = None
    if first_layer.norm == "group":
        group_norm = first_layer.scale_and_shift(*first_layer.input_sums(waveform[None, None]))
    chunks = []
    for first in range(0, num_frames, chunk_frames):
        size = conv_inputs(min(chunk_frames, num_frames - first), kernels, strides)             # samples
        samples = waveform[None, hop * first:hop * first + size]                # (1, size)
        chunks.append(hubert.feature_extractor(samples, None, group_norm)[0])   # (t', C)
    return torch.cat(chunks)


def conv_products(conv_layers: nn.ModuleList, waveform: Tensor, dtype: torch.dtype, chunk_frames: int = 0) -> Tensor:
    """Conv encoder of one utterance as matrix products: its `ConvLayer`s, waveform (n,) float -> (t, C) of `dtype`.

    Frames are laid out (t, C) from the start, so that `stride` neighbouring frames are one row of a matrix: a
    convolution is one product for each `stride` of its taps, without a copy of its windows. The utterance is worked off
    in chunks of frames, whose activations stay near the caches. Only the group norm needs the whole utterance, and its
    scale and shift are known before the first product (`ConvLayer.scale_and_shift`): they are folded into the weights.

    n must be long enough for one frame. `dtype` is that of products and activations; chunk_frames 0: by the device.
    """
    chunk_frames = chunk_frames or (CHUNK_FRAMES if waveform.device.type == "cpu" else GPU_CHUNK_FRAMES)
    kernels, strides = ([getattr(layer.conv, name)[0] for layer in conv_layers] for name in ("kernel_size", "stride"))
    hop, width = math.prod(strides), conv_inputs(1, kernels, strides)           # samples from frame to frame, in one
    num_frames = conv_length(len(waveform), kernels, strides)
    prepared = [_prepare(layer, waveform, dtype) for layer in conv_layers]
    chunks = []
    for first in range(0, num_frames, chunk_frames):
        last = min(first + chunk_frames, num_frames) - 1
        x = waveform[hop * first:hop * last + width, None].to(dtype)            # (n', 1)
        for layer, (taps, bias) in zip(conv_layers, prepared):
            x = _convolve(x, taps, bias, layer.conv.kernel_size[0], layer.conv.stride[0])       # (n'', C)
            if layer.norm == "layer":
                norm = layer.layer_norm
                x = F.layer_norm(x, norm.normalized_shape, norm.weight.to(dtype), norm.bias.to(dtype), norm.eps)
            x = F.gelu(x)
        chunks.append(x)
    return torch.cat(chunks) if len(chunks) > 1 else chunks[0]


def _prepare(layer: nn.Module, waveform: Tensor, dtype: torch.dtype) -> tuple[list[Tensor], Tensor | None]:
    """Weights of one `ConvLayer` as (taps x C_in, C) matrices of at most `stride` taps, and its bias (C,) or None."""
    weight, bias, stride = layer.conv.weight, layer.conv.bias, layer.conv.stride[0]         # (C, C_in, kernel)
    if layer.norm == "group":
        scale, shift = layer.scale_and_shift(*layer.input_sums(waveform[None, None]))        # (1, C, 1) each
        weight, bias = weight * scale[0, :, :, None].to(weight).reshape(-1, 1, 1), shift[0, :, 0]
    if weight.shape[1] == 1:
        stride = weight.shape[2]                    # windows of samples are small: one product of all taps
    taps = [part.permute(2, 1, 0).flatten(0, 1).to(dtype) for part in weight.split(stride, 2)]
    return [part.contiguous() for part in taps], None if bias is None else bias.to(dtype)


def _convolve(x: Tensor, taps: list[Tensor], bias: Tensor | None, kernel: int, stride: int) -> Tensor:
    """Convolution over frames: x (n, C_in) contiguous, `taps` as `_prepare` gives them: (n', C)."""
    rows, channels = (len(x) - kernel) // stride + 1, x.shape[1]
    y, before = None, 0
    for part in taps:
        # Row r: taps [before, before + len / C_in) of window r, which lie side by side in memory.
        windows = x.as_strided((rows, len(part)), (stride * channels, 1), x.storage_offset() + before * channels)
        if y is None:
            y = windows @ part if bias is None else torch.addmm(bias, windows, part)        # (n', C)
        else:
            y = y.addmm_(windows, part)
        before += len(part) // channels
    return y
