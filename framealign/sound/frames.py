"""Sample <-> frame arithmetic of HuBERT's conv encoder (HuBERT, Sec. II-E): every 20 ms one frame of 25 ms.

Frame t covers samples [320 t, 320 t + 400). Everything that counts or cuts frames uses this module, so that label t,
unit t and feature t always belong to the same samples.
"""
from collections.abc import Sequence

import torch
from torch import Tensor

SAMPLE_RATE = 16_000                                # samples per second
RECEPTIVE_FIELD, HOP = 400, 320                     # samples: 25 ms long, 20 ms apart
FRAME_RATE = SAMPLE_RATE // HOP                     # 50 frames per second


def num_frames(num_samples: int) -> int:
    """Frames the convolution stack emits for `num_samples` samples; frame t covers samples [320 t, 320 t + 400).

    Raises ValueError below 400 samples: no frame, hence no label.
    """
    if num_samples < RECEPTIVE_FIELD:
        raise ValueError(f"num_samples must be >= {RECEPTIVE_FIELD} (25 ms), got {num_samples}")
    return (num_samples - RECEPTIVE_FIELD) // HOP + 1


def num_samples_of(frames: int) -> int:
    """Samples covered by `frames` consecutive frames: the shortest crop with that many frames."""
    return (frames - 1) * HOP + RECEPTIVE_FIELD


def frames_in(seconds: float) -> int:
    """Frames that fit in `seconds` of sound, at least 1: 1 s holds 49 whole frames."""
    return num_frames(max(RECEPTIVE_FIELD, round(seconds * SAMPLE_RATE)))


def conv_length(length: int | Tensor, kernels: Sequence[int], strides: Sequence[int]) -> int | Tensor:
    """Outputs of a stack of unpadded convolutions over `length` inputs (int, or an integer tensor of any shape)."""
    for kernel, stride in zip(kernels, strides):
        length = (length - kernel) // stride + 1
    return length


def conv_inputs(outputs: int, kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Inputs that a stack of unpadded convolutions needs for so many outputs, and no more: `conv_length` backwards."""
    for kernel, stride in zip(reversed(kernels), reversed(strides)):
        outputs = (outputs - 1) * stride + kernel
    return outputs


def valid_frames(counts: Tensor, longest: int) -> Tensor:
    """True for real frames, False beyond each utterance's end. counts (B,) int64: (B, T = longest) bool."""
    return torch.arange(longest, device=counts.device)[None, :] < counts[:, None]
