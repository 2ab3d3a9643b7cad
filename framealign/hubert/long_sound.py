"""Long sound through the encoder in windows that overlap, stitched on frame boundaries: memory stays bounded.

What is no longer than `WHOLE` is never cut. Of longer sound every frame is computed once, in a window with `CONTEXT`
frames on either side that are dropped afterwards. Exact, up to rounding: normalisation and the group norm of the first
convolution (statistics of the whole sound), the conv features, layer 0 (the positional convolution reaches half its
kernel, 64 frames). Not exact: the states above, because a frame attends to its window alone; docs/LONG.md has how much
that is. Attention over hours would take time that grows with the square of the length, on models that never heard more
than half a minute at once in training.
"""
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framealign.sound.frames import conv_inputs

WHOLE = 3000                                        # frames, 60 s: of one window, its context included
CONTEXT = 250                                       # frames, 5 s, heard before and after what is kept
BLOCK = 1 << 18                                     # outputs of the first convolution, their statistics summed at once


@dataclass(frozen=True)
class Window:
    """Frames [start, stop) of a sound are computed; of them [first, last) are kept."""
    start: int
    stop: int
    first: int
    last: int

    @property
    def kept(self) -> slice:
        """What is kept, counted from the window's own start."""
        return slice(self.first - self.start, self.last - self.start)


def plan(num_frames: int, whole: int = WHOLE, context: int = CONTEXT) -> list[Window]:
    """Windows of at most `whole` frames that keep each of `num_frames` frames once, in order; one where they fit.

    A kept frame has `context` frames of its window on either side, or the sound's own end. Raises ValueError where
    whole <= 2 x context: nothing would be kept.
    """
    if num_frames <= whole:
        return [Window(0, num_frames, 0, num_frames)]
    if whole <= 2 * context:
        raise ValueError(f"a window must be longer than twice its context of {context} frames, got {whole}")
    number = -(-num_frames // (whole - 2 * context))
    edges = [num_frames * i // number for i in range(number + 1)]               # windows of equal size, within a frame
    return [Window(max(0, first - context), min(num_frames, last + context), first, last)
            for first, last in itertools.pairwise(edges)]


def features(hubert: nn.Module, waveform: Tensor, device: torch.device, whole: int = WHOLE, context: int = CONTEXT
             ) -> Iterator[tuple[slice, Tensor]]:
    """Conv features of a preprocessed waveform (N,), window by window: which frames to keep, and (1, t, C).

    A `model.Hubert` gives them; a sound of one window goes through its own `frontend`. Only a window is on `device`.
    """
    config = hubert.config
    windows = plan(int(hubert.num_frames(torch.tensor(len(waveform)))), whole, context)
    if len(windows) == 1:
        yield windows[0].kept, hubert.frontend(waveform[None].to(device))
        return
    first, *others = hubert.feature_extractor.conv_layers
    statistics = group_norm(first, waveform) if first.norm == "group" else None
    hop = math.prod(config.conv_stride)
    for window in windows:
        size = conv_inputs(window.stop - window.start, config.conv_kernel, config.conv_stride)      # samples
        x = waveform[None, None, hop * window.start:hop * window.start + size].to(device)   # (1, 1, n)
        if statistics is None:
            x = first(x, None)                                                  # (1, C, t)
        else:
            scale, shift = statistics
            x = F.gelu(torch.addcmul(shift, F.conv1d(x, first.conv.weight, None, first.conv.stride), scale))
        for layer in others:
            x = layer(x, None)
        yield window.kept, x.transpose(1, 2)                                    # (1, t, C)


def states(hubert: nn.Module, waveform: Tensor, layer: int | None, device: torch.device, whole: int = WHOLE,
           context: int = CONTEXT) -> Iterator[Tensor]:
    """States of one layer (None: the encoder's output) of a preprocessed waveform (N,), in pieces (t, D), in order."""
    for kept, x in features(hubert, waveform, device, whole, context):
        for index, state in enumerate(hubert.layers(x)):
            if index == layer:
                break
        yield state[0, kept]


def group_norm(first: nn.Module, waveform: Tensor) -> tuple[Tensor, Tensor]:
    """The first convolution's group norm over a whole waveform (N,) on the CPU: scale and shift (1, C, 1).

    As `model.ConvLayer.group_norm_of`, which holds all of an utterance's input windows at once; here by blocks.
    """
    (kernel,), (stride,) = first.conv.kernel_size, first.conv.stride
    exact = torch.float64
    count = (len(waveform) - kernel) // stride + 1
    sums, squares = torch.zeros(kernel, dtype=exact), torch.zeros(kernel, kernel, dtype=exact)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        samples = waveform[start * stride:(stop - 1) * stride + kernel]
        inputs = samples.to(exact).unfold(0, kernel, stride)                    # (n, kernel)
        sums, squares = sums + inputs.sum(0), squares + inputs.T @ inputs
    mu, weight = sums / count, first.conv.weight[:, 0].detach().cpu().to(exact)     # (kernel,), (C, kernel)
    covariance = squares / count - mu[:, None] * mu
    variance = ((weight @ covariance) * weight).sum(-1).clamp(min=0)            # (C,)
    scale = first.layer_norm.weight.detach().cpu().to(exact) * torch.rsqrt(variance + first.layer_norm.eps)
    shift = first.layer_norm.bias.detach().cpu().to(exact) - weight @ mu * scale
    return tuple(x[None, :, None].to(first.conv.weight) for x in (scale, shift))    # (1, C, 1)
