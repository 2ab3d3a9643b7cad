"""Sample <-> frame arithmetic of HuBERT's conv encoder (HuBERT, Sec. II-E): every 20 ms one frame of 25 ms.

Frame t covers samples [320 t, 320 t + 400); of a model with other convolutions, what its `Framing` says. Everything
that counts or cuts frames uses this module, so that label t, unit t and feature t always belong to the same samples.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SAMPLE_RATE = 16_000                                # samples per second
RECEPTIVE_FIELD, HOP = 400, 320                     # samples: 25 ms long, 20 ms apart


@dataclass(frozen=True)
class Framing:
    """Where an encoder's frames lie: frame t covers samples [hop t, hop t + receptive_field)."""
    hop: int = HOP                                  # samples from one frame to the next
    receptive_field: int = RECEPTIVE_FIELD          # samples that a frame covers

    @classmethod
    def of(cls, kernels: Sequence[int], strides: Sequence[int]) -> "Framing":
        """That of a stack of unpadded convolutions."""
        return cls(math.prod(strides), conv_inputs(1, kernels, strides))

    @property
    def rate(self) -> int | float:
        """Frames per second; an int where they are a whole number."""
        return SAMPLE_RATE / self.hop if SAMPLE_RATE % self.hop else SAMPLE_RATE // self.hop

    def __str__(self) -> str:
        return f"a frame of {milliseconds(self.receptive_field)} every {milliseconds(self.hop)}"


EVERY_20_MS = Framing()                             # of every published size; where no model is at hand


def milliseconds(num_samples: int) -> str:
    """So many samples as a duration in words: 20 ms."""
    return f"{1000 * num_samples / SAMPLE_RATE:g} ms"


def num_frames(num_samples: int, framing: Framing = EVERY_20_MS) -> int:
    """Frames the convolution stack emits for `num_samples` samples; frame t covers samples [320 t, 320 t + 400).

    Raises ValueError below 400 samples, the receptive field: no frame, hence no label.
    """
    if num_samples < framing.receptive_field:
        raise ValueError(f"num_samples must be >= {framing.receptive_field} "
                         f"({milliseconds(framing.receptive_field)}), got {num_samples}")
    return (num_samples - framing.receptive_field) // framing.hop + 1


def num_samples_of(frames: int, framing: Framing = EVERY_20_MS) -> int:
    """Samples covered by `frames` consecutive frames: the shortest crop with that many frames."""
    return (frames - 1) * framing.hop + framing.receptive_field


def frames_in(seconds: float, framing: Framing = EVERY_20_MS) -> int:
    """Frames that fit in `seconds` of sound, at least 1: 1 s holds 49 whole frames."""
    return num_frames(max(framing.receptive_field, round(seconds * SAMPLE_RATE)), framing)


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
