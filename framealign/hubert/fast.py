"""Utterances of any lengths without padding: the conv encoder as matrix products, attention of frames end to end.

The fast path beside `model.FeatureExtractor`, `model.PositionalConvolution` and `model.Attention`. In the conv encoder
frames are laid out (T, C) from the start, so that `stride` neighbouring frames are one row of a matrix: a convolution
is one product for each `stride` of its taps, without a copy of its windows. The utterance is worked off in chunks of
frames, whose activations stay near the caches. Only the group norm needs the whole utterance, and its statistics are
known before the first product (`ConvLayer.group_norm_of`): they are folded into the first layer's weights.

Equal to the plain path up to rounding (1e-6); in bfloat16 the sums are still those of a float32 accumulator. Without
gradients of the conv encoder: training that takes the plain path.
"""
import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import varlen

from framealign.runtime import distributed
from framealign.hubert.dropout import attend
from framealign.sound.frames import conv_inputs, conv_length

CHUNK_FRAMES = 100                                  # 2 s: 6 MB of the first layer's output in bfloat16, 13 in float32
GPU_CHUNK_FRAMES = 1500                             # 30 s: kernels large enough to be worth starting


def features(layers: nn.ModuleList, waveform: Tensor, dtype: torch.dtype, chunk_frames: int = 0) -> Tensor:
    """Conv encoder of one utterance: its `ConvLayer`s, waveform (N,) float -> (T, C) of `dtype`.

    N must be long enough for one frame. `dtype` is that of products and activations; chunk_frames 0: by the device.
    """
    chunk_frames = chunk_frames or (CHUNK_FRAMES if waveform.device.type == "cpu" else GPU_CHUNK_FRAMES)
    kernels, strides = ([getattr(layer.conv, name)[0] for layer in layers] for name in ("kernel_size", "stride"))
    hop, seen = math.prod(strides), conv_inputs(1, kernels, strides)            # samples from frame to frame, in one
    frames = conv_length(len(waveform), kernels, strides)
    prepared = [_prepare(layer, waveform, dtype) for layer in layers]
    found = []
    for first in range(0, frames, chunk_frames):
        last = min(first + chunk_frames, frames) - 1
        x = waveform[hop * first:hop * last + seen, None].to(dtype)             # (n, 1)
        for layer, (taps, bias) in zip(layers, prepared):
            x = _convolve(x, taps, bias, layer.conv.kernel_size[0], layer.conv.stride[0])   # (n', C)
            if layer.norm == "layer":
                norm = layer.layer_norm
                x = F.layer_norm(x, norm.normalized_shape, norm.weight.to(dtype), norm.bias.to(dtype), norm.eps)
            x = F.gelu(x)
        found.append(x)
    return torch.cat(found) if len(found) > 1 else found[0]


def _prepare(layer: nn.Module, waveform: Tensor, dtype: torch.dtype) -> tuple[list[Tensor], Tensor | None]:
    """Weights of one `ConvLayer` as (taps x C_in, C) matrices of at most `stride` taps, and its bias (C,) or None."""
    weight, bias, stride = layer.conv.weight, layer.conv.bias, layer.conv.stride[0]         # (C, C_in, kernel)
    if layer.norm == "group":
        scale, shift = layer.group_norm_of(waveform[None, None], None)          # (1, C, 1) each
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


def convolution(x: Tensor, weight: Tensor, bias: Tensor, groups: int, sizes: list[int]) -> Tensor:
    """The positional convolution by FFT: x (S, D), utterances of `sizes` frames end to end, each with zeros around.

    weight (D, D / groups, K) and bias (D,): (S, D), what `F.conv1d` gives with padding K // 2, cut to T frames of each.
    Windows of N >= 2 K frames overlap by K - 1; of each the N - K + 1 outputs that the circle does not reach are kept
    (overlap-save). 128 taps become one complex product at each of 129 frequencies, for 129 frames at once.
    """
    kernel, width, dtype = weight.shape[2], x.shape[1], x.dtype
    size = 1 << (2 * kernel - 1).bit_length()                                   # N, a power of two
    hop, left = size - kernel + 1, kernel // 2
    with torch.autocast(x.device.type, enabled=False):                          # an FFT needs float32
        x, weight = (y if y.dtype == torch.float64 else y.float() for y in (x, weight))
        numbers = [-(-frames // hop) for frames in sizes]                       # windows of each utterance
        apart = [F.pad(part, (0, 0, left, number * hop + kernel - 1 - left - len(part))).unfold(0, size, hop)
                 for part, number in zip(x.split(sizes), numbers)]              # (n, D, N) of each
        seen = torch.fft.rfft(torch.cat(apart)).unflatten(1, (groups, -1)).permute(1, 3, 0, 2)     # (G, f, n, D / G)
        taps = torch.fft.rfft(weight, size).unflatten(0, (groups, -1)).permute(0, 3, 2, 1)  # (G, f, in, out)
        y = torch.fft.irfft((seen @ taps.conj()).permute(2, 0, 3, 1), size)     # (n, G, D / G, N)
        y = y[..., :hop].flatten(1, 2).transpose(1, 2).split(numbers)           # (n, hop, D) of each
        y = torch.cat([part.reshape(-1, width)[:frames] for part, frames in zip(y, sizes)])
        return (y + bias).to(dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, sizes: list[int], dropout: float) -> Tensor:
    """Attention of utterances of `sizes` frames laid end to end, each to itself alone: (1, H, S, d) each: (1, H, S, d).

    A GPU has a flash kernel for several lengths at once, in half precision and without dropout; else they take turns.
    """
    if q.device.type == "cuda" and q.dtype in (torch.bfloat16, torch.float16) and not dropout:
        return at_once(q, k, v, sizes)
    apart = zip(*(x.split(sizes, 2) for x in (q, k, v)))                        # (1, H, T, d) of each utterance
    y = [attend(*triple, None, dropout).transpose(1, 2) for triple in apart]
    return torch.cat(y, 1).transpose(1, 2)          # laid out (S, H, d), as what follows needs it


def at_once(q: Tensor, k: Tensor, v: Tensor, sizes: list[int]) -> Tensor:
    """`attention` in one call of the flash kernel."""
    ends, longest = _ends(tuple(sizes), q.device), max(sizes)
    q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))                         # (S, H, d) each
    return varlen.varlen_attn(q, k, v, ends, ends, longest, longest).transpose(0, 1)[None]


@functools.lru_cache(maxsize=4)                     # all blocks ask for the same
def _ends(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Where utterances begin and end: (0, T_1, T_1 + T_2, ..., S) int32, on the device without waiting for it."""
    return distributed.send(torch.tensor((0, *sizes)).cumsum(0).int(), device)
