"""The optimiser's step: linear schedule, AdamW, clipping, and non-finite steps skipped without asking the host."""
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def linear_schedule(update: int, peak: float, warmup: int, updates: int) -> float:
    """Learning rate of `update` (1, 2, ...): linear up to `peak` at `warmup`, linear down to 0 at `updates`."""
    if update <= warmup:
        return peak * update / max(1, warmup)
    return peak * max(0, updates - update) / max(1, updates - warmup)


def adamw(parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], eps: float,
          weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the parameters that train, in one fused pass over memory."""
    return torch.optim.AdamW([p for p in parameters if p.requires_grad], lr, betas, eps, weight_decay, fused=True)


def step(optimizer: torch.optim.AdamW, lr: float, clip_norm: float) -> tuple[Tensor, Tensor]:
    """Clip gradients to `clip_norm` and step; a gradient that is not finite leaves weights and moments untouched.

    A parameter group's `lr_factor`, where it has one, multiplies its learning rate. Returns the gradient norm before
    clipping and whether the step was skipped (0.0 or 1.0), both still on the device.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)
    norm = nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip_norm)
    optimizer.found_inf = skipped = (~torch.isfinite(norm)).float()             # the fused step reads it
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm, skipped


def only_if_finite(loss: Tensor) -> Tensor:
    """`loss`, with a gradient that is NaN where the loss itself is not finite: `step` then skips it, on every rank."""
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)


def skipped_steps(flags: list[Tensor], last: int) -> list[int]:
    """Numbers of the updates that were skipped; flags: one for each update up to `last`. Waits for the device."""
    first = last - len(flags) + 1
    is_skipped = torch.stack(flags).tolist() if flags else []
    return [update for update, skipped in enumerate(is_skipped, first) if skipped]


def stop_if_skipping(skipped_in_a_row: Tensor, update: int) -> None:
    """Raise ValueError where the last 20 or more updates up to this one were all skipped: no gradient was finite."""
    skipped = int(skipped_in_a_row)
    if skipped >= 20:
        raise ValueError(f"update {update}: the last {skipped} gradients were not finite; look at the input sound, or "
                         "lower the learning rate")
