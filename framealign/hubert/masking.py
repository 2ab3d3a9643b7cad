"""Which frames are masked (HuBERT, Sec. II-B; SpecAugment's spans in time): spans that may overlap."""
import torch
from torch import Tensor


def span_mask(num_frames: Tensor, longest: int, start_fraction: float, span: int, min_spans: int,
              generator: torch.Generator) -> Tensor:
    """Draw spans to mask. num_frames (B,) int64 on the CPU: (B, T = longest) bool, True where replaced.

    Of an utterance's T frames, start_fraction x T (rounded up or down at random, at least `min_spans`) start a span of
    `span` frames; starts are drawn without replacement among those whose span ends inside the utterance, so spans
    overlap but never touch padding. 8 % starts of spans of 10 mask about 57 %. An utterance shorter than two spans has
    its spans shortened to half of it; where the spans happen to mask everything, one frame drawn at random is spared.
    So something always stays unmasked, and one frame alone is never masked.
    """
    B = len(num_frames)
    spans = torch.clamp(num_frames // 2, max=span)                              # (B,) frames each
    places = torch.where(spans > 0, num_frames - spans + 1, 0)                  # (B,) possible starts
    fitting = ((num_frames - 1) // spans.clamp(min=1)).clamp(max=min_spans)     # least number, if so many fit
    wanted = (start_fraction * num_frames + torch.rand(B, generator=generator)).long()
    wanted = torch.minimum(torch.maximum(wanted, fitting), places)              # (B,) starts
    position = torch.arange(longest)
    score = torch.rand(B, longest, generator=generator).masked_fill(position >= places[:, None], -1.0)
    order = score.argsort(dim=1, descending=True).argsort(dim=1)                # (B, T) rank of each start's score
    starts = (order < wanted[:, None]).long()                                   # (B, T) 1 where a span starts
    begun = starts.cumsum(1)                                                    # spans begun up to each frame
    before = (position[None, :] - spans[:, None])                               # (B, T) frame just before the window
    over = torch.where(before >= 0, begun.gather(1, before.clamp(min=0)), 0)    # spans already ended
    is_masked = (begun > over) & (position < num_frames[:, None])
    spared = (torch.rand(B, generator=generator) * num_frames).long()           # (B,) a frame of each
    masks_all = is_masked.sum(1) == num_frames
    return is_masked & ~(masks_all[:, None] & (position == spared[:, None]))
