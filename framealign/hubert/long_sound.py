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
from torch import Tensor

from framealign.sound.frames import conv_inputs, conv_length
from framealign.hubert.model import ConvLayer, Hubert

WHOLE = 3000                                        # frames, 60 s of 20 ms: of one window, its context included
CONTEXT = 250                                       # frames, 5 s of 20 ms, computed before and after what is used
BLOCK = 1 << 18                                     # outputs of the first convolution, their statistics summed at once


@dataclass(frozen=True)
class Window:
    """Frames [start, stop) of a sound are computed; of them [first, last) are used."""
    start: int
    stop: int
    first: int
    last: int

    @property
    def used(self) -> slice:
        """The frames that are used, counted from the window's own start."""
        return slice(self.first - self.start, self.last - self.start)


def plan(num_frames: int, whole: int = WHOLE, context: int = CONTEXT) -> list[Window]:
    """Windows of at most `whole` frames that use each of `num_frames` frames once, in order; one where they fit.

    A used frame has `context` frames of its window on either side, or the sound's own end. Raises ValueError where
    whole <= 2 x context: no frame would be used.
    """
    if num_frames <= whole:
        return [Window(0, num_frames, 0, num_frames)]
    if whole <= 2 * context:
        raise ValueError(f"a window must be longer than twice its context of {context} frames, got {whole}")
    number = -(-num_frames // (whole - 2 * context))
    edges = [num_frames * i // number for i in range(number + 1)]               # windows of equal size, within a frame
    return [Window(max(0, first - context), min(num_frames, last + context), first, last)
            for first, last in itertools.pairwise(edges)]


def features(hubert: Hubert, waveform: Tensor, device: torch.device, whole: int = WHOLE, context: int = CONTEXT
             ) -> Iterator[tuple[slice, Tensor]]:
    """Conv features of a preprocessed waveform (N,), window by window: which frames to use, and (1, t, C).

    A sound of one window goes through `Hubert.conv_features`. Only a window is on `device`.
    """
    config = hubert.config
    windows = plan(hubert.num_frames(len(waveform)), whole, context)
    if len(windows) == 1:
        yield windows[0].used, hubert.conv_features(waveform[None].to(device))
        return
    first = hubert.feature_extractor.conv_layers[0]
    group_norm = None
    if first.norm == "group":
        group_norm = tuple(x.to(first.conv.weight) for x in first.scale_and_shift(*input_sums(first, waveform)))
    hop = math.prod(config.conv_stride)
    for window in windows:
        size = conv_inputs(window.stop - window.start, config.conv_kernel, config.conv_stride)      # samples
        samples = waveform[None, hop * window.start:hop * window.start + size].to(device)   # (1, n)
        yield window.used, hubert.feature_extractor(samples, None, group_norm)  # (1, t, C)


def layers(hubert: Hubert, waveform: Tensor, device: torch.device, whole: int = WHOLE, context: int = CONTEXT
           ) -> Iterator[tuple[slice, Iterator[Tensor]]]:
    """`Hubert.layers` of a preprocessed waveform (N,), window by window: which frames to use, and states (1, t, D)."""
    for used, x in features(hubert, waveform, device, whole, context):
        yield used, hubert.layers(x)


def states(hubert: Hubert, waveform: Tensor, layer: int | None, device: torch.device, whole: int = WHOLE,
           context: int = CONTEXT) -> Iterator[Tensor]:
    """States of one layer (None: the encoder's output) of a preprocessed waveform (N,), in pieces (t, D), in order."""
    upto = None if layer is None else layer + 1
    for used, of_window in layers(hubert, waveform, device, whole, context):
        *_, state = itertools.islice(of_window, upto)
        yield state[0, used]


def input_sums(first: ConvLayer, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`ConvLayer.input_sums` of a whole waveform (N,) by blocks: only a block's windows are held."""
    (kernel,), (stride,) = first.conv.kernel_size, first.conv.stride
    count = conv_length(len(waveform), (kernel,), (stride,))
    blocks = []
    for start in range(0, count, BLOCK):
        size = conv_inputs(min(BLOCK, count - start), (kernel,), (stride,))     # samples
        blocks.append(first.input_sums(waveform[None, None, start * stride:start * stride + size]))
    return tuple(sum(parts) for parts in zip(*blocks))
