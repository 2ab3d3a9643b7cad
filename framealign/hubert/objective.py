"""Masked prediction of units (HuBERT, Sec. II-B and II-E): cosine logits of masked frames, cross-entropy.

`MaskedPrediction` takes a micro-batch to logits, `masked_prediction_loss` logits to the loss. What the log reports is
apart from both (`sums_for_log`). The loop that calls them is `training/pretrain.py`.
"""
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framealign.runtime import distributed
from framealign.hubert import fast
from framealign.hubert.model import Hubert


@dataclass(frozen=True)
class MicroBatch:
    """What is predicted from what, in one forward. All T frames of all B utterances (or crops) are real.

    Whole utterances of T frames may differ by less than a hop of 320 samples, so their lengths are given.
    """
    inputs: Tensor                                  # (B, N) samples, or (B, T, C) conv features computed before
    lengths: Tensor                                 # (B,) samples or frames of each
    units: Tensor                                   # (M, B, T) int64: of each of M codebooks
    is_masked: Tensor                               # (B, T) bool
    masked: Tensor                                  # (S,) positions of the masked frames, row by row in (B T)
    unmasked: Tensor                                # (B T - S,) positions of the others
    weight: float = 1.0                             # 0: computed again only so that every rank takes part
    penalised_frames: float | None = None           # that the feature penalty counts for; None: those of the loss

    def to(self, device: torch.device) -> "MicroBatch":
        """A copy on `device`, without waiting for the transfer."""
        tensors = {name: distributed.send(x, device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **tensors)


def positions_of(is_masked: Tensor) -> tuple[Tensor, Tensor]:
    """Where a mask (B, T), read row by row, is true and where it is not: positions (S,) and (B T - S,).

    Worked out where the mask is drawn, on the CPU: a GPU would have to be waited for.
    """
    flat = is_masked.flatten()
    return flat.nonzero().squeeze(1), (~flat).nonzero().squeeze(1)


@dataclass(frozen=True)
class Prediction:
    """Logits of the units of a micro-batch, by each of M codebooks."""
    masked: list[Tensor]                            # (S, K) each: of the masked frames
    unmasked: list[Tensor]                          # (B T - S, K) each: of the others; empty unless asked for
    feature_square: Tensor | None                   # (): mean square of the conv features, where they are trained


def unit_logits(x: Tensor, codewords: Tensor, temperature: float = 0.1) -> Tensor:
    """Cosine similarity of frames (S, P) to codewords (K, P), over temperature: (S, K). HuBERT, Sec. II-E."""
    x, codewords = F.normalize(x, dim=-1), F.normalize(codewords, dim=-1)
    return x @ codewords.T / temperature            # one matmul: (S, K, P) is never held


class UnitHead(nn.Module):
    """Projection D -> P and one codeword per unit; default linear initialisation, codewords uniform in [0, 1)."""

    def __init__(self, hidden_size: int, projection_size: int, num_clusters: int, temperature: float):
        super().__init__()
        self.final_proj = nn.Linear(hidden_size, projection_size)
        self.codewords = nn.Parameter(torch.rand(num_clusters, projection_size))
        self.temperature = temperature


class MaskedPrediction(nn.Module):
    """Encoder and unit heads: a micro-batch -> logits of its masked frames. HuBERT, Sec. II-B.

    num_clusters: K of each codebook that is predicted. Of several (HuBERT, Sec. II-C: an ensemble of clusterings, here
    coarse and fine ones) each has a head of its own.
    """

    def __init__(self, hubert: Hubert, num_clusters: list[int], projection_size: int, temperature: float):
        super().__init__()
        self.hubert = hubert
        self.heads = nn.ModuleList(UnitHead(hubert.config.hidden_size, projection_size, K, temperature)
                                   for K in num_clusters)
        self.fast_path = False                      # the encoder's: `hubert/fast.py` instead of `hubert/model.py`

    def forward(self, batch: MicroBatch, is_kept: list[bool] | None = None, with_unmasked: bool = False) -> Prediction:
        """is_kept: blocks that layer drop leaves in, None: all. with_unmasked: logits of the unmasked frames too."""
        features, feature_square = batch.inputs, None                           # (B, T, C), where computed before
        if batch.inputs.ndim == 2:
            features = self.hubert.feature_extractor(batch.inputs, batch.lengths)               # (B, N) -> (B, T, C)
        if features.requires_grad:                  # the conv encoder trains
            feature_square = features.float().square().mean()
        if self.fast_path:
            states = fast.output(self.hubert, features, [features.shape[1]] * len(features), batch.is_masked, is_kept)
        else:
            *_, states = self.hubert.layers(features, None, batch.is_masked, is_kept)           # (B, T, D)

        states = states.flatten(0, 1)                                           # (B T, D)
        logits, unmasked_logits = [], []
        with torch.autocast(states.device.type, enabled=False):                 # float32, whatever the encoder's type
            masked = states.index_select(0, batch.masked).float()               # (S, D)
            unmasked = states.index_select(0, batch.unmasked).float() if with_unmasked else None    # (B T - S, D)
            for head in self.heads:
                logits.append(unit_logits(head.final_proj(masked), head.codewords, head.temperature))   # (S, K)
                if with_unmasked:
                    unmasked_logits.append(unit_logits(head.final_proj(unmasked), head.codewords, head.temperature))
        return Prediction(logits, unmasked_logits, feature_square)


def masked_prediction_loss(logits: Tensor, units: Tensor) -> Tensor:
    """Cross-entropy in nats, summed over masked frames: logits (S, K), units (S,): (). HuBERT, Eq. 1, alpha 1."""
    return F.cross_entropy(logits, units, reduction="sum")


def pretraining_loss(prediction: Prediction, batch: MicroBatch, unmasked_weight: float, feature_penalty: float
                     ) -> Tensor:
    """What is minimised: `masked_prediction_loss`, the mean over codebooks, summed over the frames that count: ().

    unmasked_weight: of an unmasked frame's loss (HuBERT, Eq. 1: alpha is 1 / (1 + this)). feature_penalty: weight of
    the conv features' mean square, per frame that counts, where the conv encoder trains (wav2vec 2.0, Sec. 2).
    """
    loss, labels = 0.0, batch.units.flatten(1)                                  # (M, B T)
    for index, logits in enumerate(prediction.masked):
        of_codebook = masked_prediction_loss(logits, labels[index].index_select(0, batch.masked))
        if unmasked_weight > 0:
            target = labels[index].index_select(0, batch.unmasked)
            of_codebook = of_codebook + unmasked_weight * masked_prediction_loss(prediction.unmasked[index], target)
        loss = loss + of_codebook / len(prediction.masked)
    if prediction.feature_square is not None:
        frames = batch.penalised_frames
        if frames is None:
            frames = frame_weights(batch.is_masked, unmasked_weight).sum()      # (B, T) -> ()
        loss = loss + feature_penalty * prediction.feature_square * frames
    return loss


def frame_weights(is_masked: Tensor, unmasked_weight: float) -> Tensor:
    """How much each frame's loss counts: 1 where masked, `unmasked_weight` where not. (B, T) bool: (B, T) float."""
    return torch.where(is_masked, 1.0, unmasked_weight)


@torch.no_grad()
def sums_for_log(prediction: Prediction, batch: MicroBatch) -> dict[str, Tensor]:
    """Sums over the frames of a micro-batch and all codebooks, on the device: what accuracies are made of.

    "loss" in nats over masked frames, "masked" frames and "masked_correct" ones; "unmasked" and "unmasked_correct"
    where their logits were asked for; "predicted" (sum of K,): how often each unit was predicted, codebook after
    codebook.
    """
    sums, predicted = {}, []
    labels = batch.units.flatten(1)                                             # (M, B T)
    for index, logits in enumerate(prediction.masked):
        target, nearest = labels[index].index_select(0, batch.masked), logits.argmax(-1)
        loss = masked_prediction_loss(logits, target)
        add_up(sums, {"loss": loss.to(distributed.exact_dtype(loss.device)), "masked": batch.is_masked.sum(),
                      "masked_correct": (nearest == target).sum()})
        predicted.append(histogram(nearest, logits.shape[1]))
    for index, logits in enumerate(prediction.unmasked):
        target = labels[index].index_select(0, batch.unmasked)
        add_up(sums, {"unmasked": (~batch.is_masked).sum(), "unmasked_correct": (logits.argmax(-1) == target).sum()})
    return sums | {"predicted": torch.cat(predicted)}


def add_up(totals: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
    """Add `sums` to `totals` in place; nothing leaves the device."""
    for key, value in sums.items():
        totals[key] = totals[key] + value if key in totals else value


def histogram(units: Tensor, num_clusters: int) -> Tensor:
    """How often each of K units is among these (S,): (K,) int64; bincount asks a GPU for the largest and waits."""
    return units.new_zeros(num_clusters).scatter_add_(0, units, torch.ones_like(units))
