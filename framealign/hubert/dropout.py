"""Dropout (Srivastava et al. 2014) at a price a CPU can pay: 16 random bits decide on an element.

torch draws a 64-bit number for each element, one after the other: a seventh of a training step of `base` on two cores.
Four elements from one such number take a third of the time of `F.dropout`, forward and backward together. The states of
a small model, where that is little, keep torch's own draws; so do other devices and compiled blocks, which draw in
parallel.
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 1 << 16                                     # p is rounded to a multiple of 1 / STEPS
SMALL = 1 << 19                                     # elements of states: of fewer torch draws in 4 ms


def dropout(x: Tensor, p: float) -> Tensor:
    """Elements of x are set to 0 with probability p in [0, 1], the others divided by 1 - p; from torch's generator."""
    dropped = round(p * STEPS)                      # of the STEPS values that 16 bits have
    if x.device.type != "cpu" or torch.compiler.is_compiling() or dropped in (0, STEPS):
        return F.dropout(x, p)
    numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-2 ** 63, None)
    bits = numbers.view(torch.int16)[:x.numel()].view(x.shape)                  # uniform in [-STEPS / 2, STEPS / 2)
    return x * (bits >= dropped - STEPS // 2).to(x.dtype).mul_(STEPS / (STEPS - dropped))


class Dropout(nn.Dropout):
    """`nn.Dropout`, of `SMALL` elements and more by `dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training and x.numel() >= SMALL else super().forward(x)


def attend(q: Tensor, k: Tensor, v: Tensor, real_keys: Tensor | None, p: float) -> Tensor:
    """Scaled dot-product attention, its weights dropped with probability p: (B, H, T, d) each -> (B, H, T, d).

    real_keys: bool, broadcast to (B, H, T, T), at least one for each query; None: all. Vaswani et al. 2017, Sec. 3.2.1.
    """
    if q.device.type != "cpu" or not p:
        return F.scaled_dot_product_attention(q, k, v, real_keys, p)
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)                 # (B, H, T, T)
    if real_keys is not None:
        scores = scores.masked_fill(~real_keys, -math.inf)
    return dropout(scores.softmax(-1), p) @ v
