"""What is predicted and how well (HuBERT, Sec. II-B and II-E): cosine logits of hidden frames, cross-entropy, sums.

`MaskedPrediction` is one micro-batch's way from waveform, or kept conv features, to the loss; the loop that calls it is
`pretrain.py`.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framealign.runtime import distributed
from framealign.hubert.model import Hubert
from framealign.training.training_config import PretrainConfig


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

    def forward(self, frames: Tensor) -> Tensor:
        """frames (S, D): logits (S, K) in float32, whatever the encoder's precision."""
        with torch.autocast(frames.device.type, enabled=False):
            return unit_logits(self.final_proj(frames.float()), self.codewords, self.temperature)


def masked_prediction_loss(logits: Tensor, units: Tensor) -> Tensor:
    """Cross-entropy in nats, summed over hidden frames: logits (S, K), units (S,): (). HuBERT, Eq. 1, alpha 1."""
    return F.cross_entropy(logits, units, reduction="sum")


class MaskedPrediction(nn.Module):
    """Encoder and unit heads; its forward is one micro-batch from waveform (or kept conv features) to summed loss.

    num_clusters: K of each codebook that is predicted. Of several (HuBERT, Sec. II-C: an ensemble of clusterings, here
    coarse and fine ones) each has a head of its own; losses and accuracies are means over the C codebooks.
    """

    def __init__(self, hubert: Hubert, num_clusters: list[int], config: PretrainConfig):
        super().__init__()
        self.hubert = hubert
        self.heads = nn.ModuleList(UnitHead(hubert.config.hidden_size, config.projection_size, K, config.temperature)
                                   for K in num_clusters)
        self.freeze_conv, self.feature_penalty = config.freeze_conv, config.feature_penalty
        self.unmasked_weight = config.unmasked_weight
        hubert.feature_extractor.requires_grad_(not config.freeze_conv)
        for block in hubert.encoder.layers if config.compile_blocks else ():
            block.compile(dynamic=True)             # one program for all blocks, batch sizes and lengths

    def forward(self, inputs: Tensor, units: Tensor, is_masked: Tensor, is_kept: list[bool] | None,
                look_at_unmasked: bool, num_samples: Tensor | None = None, places: tuple[Tensor, Tensor] | None = None
                ) -> tuple[Tensor, dict[str, Tensor]]:
        """inputs (B, N) samples or (B, T, F) kept features, all T frames real; units (C, B, T), is_masked (B, T).

        num_samples (B,): samples of each, None for all N; whole utterances of T frames may differ by less than a hop.
        places: `places_of(is_masked)`, worked out where the mask was drawn, so that a GPU is not waited for.
        Returns the loss summed over hidden frames, and sums for the log (all on the device) over frames and codebooks:
        loss, hidden frames and correct ones, how often each unit was predicted (codebook after codebook), and, if
        looked at, visible frames and correct ones among them.
        """
        features = inputs
        if inputs.ndim == 2:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_conv):
                features = self.hubert.frontend(inputs, num_samples)            # (B, T, F)
        *_, states = self.hubert.layers(features, None, is_masked, is_kept)     # (B, T, D)
        hidden_at, seen_at = places or places_of(is_masked)                     # (S,), (B T - S,)
        states, looks = states.flatten(0, 1), look_at_unmasked or self.unmasked_weight > 0       # (B T, D)
        hidden, sums, loss = states.index_select(0, hidden_at), [], 0.0         # (S, D)
        for head, labels in zip(self.heads, units.flatten(1)):                  # labels of one codebook: (B T,)
            target, logits = labels.index_select(0, hidden_at), head(hidden)    # (S,), (S, K)
            own, predicted = masked_prediction_loss(logits, target), logits.detach().argmax(-1)
            sums.append({"loss": own.detach().to(exact(own.device)), "masked": is_masked.sum(),
                         "masked_correct": (predicted == target).sum(),
                         "predicted": histogram(predicted, logits.shape[1])})
            if looks:
                with torch.set_grad_enabled(torch.is_grad_enabled() and self.unmasked_weight > 0):
                    seen = head(states.index_select(0, seen_at))                # logits of visible frames
                visible = labels.index_select(0, seen_at)
                sums[-1] |= {"unmasked": (~is_masked).sum(), "unmasked_correct": (seen.argmax(-1) == visible).sum()}
                if self.unmasked_weight > 0:
                    own = own + self.unmasked_weight * masked_prediction_loss(seen, visible)
            loss = loss + own / len(self.heads)
        predicted = torch.cat([one.pop("predicted") for one in sums])           # (sum of K,)
        sums = {name: sum(one[name] for one in sums) for name in sums[0]} | {"predicted": predicted}
        if not self.freeze_conv:                    # wav2vec 2.0's penalty, here per frame that counts, like the loss
            counted = frame_weights(is_masked, self.unmasked_weight).sum()
            loss = loss + self.feature_penalty * features.float().square().mean() * counted
        if is_kept is not None and distributed.world_size() > 1:
            for index, block in enumerate(self.hubert.encoder.layers):
                if not is_kept[index]:              # a dropped block still takes part in the gradient reduction
                    loss = loss + 0.0 * sum(p.sum() for p in block.parameters())
        return loss, sums


def histogram(units: Tensor, num_clusters: int) -> Tensor:
    """How often each of K units is among these (S,): (K,) int64; bincount asks a GPU for the largest and waits."""
    return units.new_zeros(num_clusters).scatter_add_(0, units, torch.ones_like(units))


def places_of(is_masked: Tensor) -> tuple[Tensor, Tensor]:
    """Where hidden and where visible frames lie in a mask (B, T), read row by row: indices (S,) and (B T - S,)."""
    flat = is_masked.flatten()
    return flat.nonzero().squeeze(1), (~flat).nonzero().squeeze(1)


def frame_weights(is_masked: Tensor, unmasked_weight: float) -> Tensor:
    """How much each frame's loss counts: 1 where hidden, `unmasked_weight` where not. (B, T) bool: (B, T) float."""
    return torch.where(is_masked, 1.0, unmasked_weight)


def exact(device: torch.device) -> torch.dtype:
    """The float type for sums over many frames: float64 wherever the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64
