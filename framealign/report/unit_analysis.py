"""What a run's units and states are like, in numbers: how units are used, what they say about the emotion, where states
lie, and which utterances serve as examples.

Nothing is drawn here: `fold_page` and `lesson` do that.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from framealign.runtime.seeds import derive_seed
from framealign.sound import audio
from framealign.sound.frames import EVERY_20_MS, Framing
from framealign.corpus import frame_truth
from framealign.corpus.cropping import frame_counts
from framealign.corpus.utterance import Utterance
from framealign.units.units import Units
from framealign.emotion import metrics
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.predictions import Predictions
from framealign.emotion.segments import runs

OUTSIDE = "neutral"                                 # the emotion of frames outside a planted emotional stretch
PRIOR_FRAMES = 10                                   # of `log_lift`


@dataclass(frozen=True)
class Example:
    """A tested utterance that is shown, and why it was chosen."""
    id: str
    true: str
    reason: str


def example_utterances(predictions: Predictions, seed: int) -> list[Example]:
    """Tested utterances to look at, each once: best, worst, one at random, then the median one of each class.

    Utterances are ranked by the probability of their true class. The median one of a class is neither show-piece nor
    failure.
    """
    of_truth = predictions.probabilities[np.arange(len(predictions.ids)), predictions.true]     # (U,)
    ranked = sorted(range(len(predictions.ids)), key=lambda i: (of_truth[i], predictions.ids[i]))
    draw = np.random.default_rng(derive_seed(seed, "report"))
    chosen = [(ranked[-1], "best: the highest probability of the true class"),
              (ranked[0], "worst: the lowest probability of the true class"),
              (ranked[int(draw.integers(len(ranked)))], "drawn at random")]
    for number, name in enumerate(predictions.classes):
        own = [i for i in ranked if predictions.true[i] == number]
        if own:
            chosen.append((own[len(own) // 2], f"median of {name} by the probability of the true class"))

    reasons: dict[int, str] = {}
    for i, reason in chosen:
        reasons.setdefault(i, reason)
    return [Example(predictions.ids[i], predictions.classes[predictions.true[i]], reason)
            for i, reason in reasons.items()]


@dataclass(frozen=True)
class UnitUsage:
    """How often each unit occurs and how long it lasts when it does."""
    counts: np.ndarray                              # (K,)
    perplexity: float
    run_lengths: np.ndarray                         # (R,) frames of every run of equal units
    framing: Framing = EVERY_20_MS                  # of these frames

    @property
    def num_used(self) -> int:
        return int((self.counts > 0).sum())

    @property
    def mean_run_frames(self) -> float:
        return float(self.run_lengths.mean())

    @property
    def mean_run_ms(self) -> float:
        return 1000 * self.mean_run_frames / self.framing.rate

    def run_shares(self, longest: int = 12) -> np.ndarray:
        """Shares of runs of 1, 2, ... frames, (longest,); the last includes longer ones."""
        counts = np.bincount(self.run_lengths.clip(max=longest), minlength=longest + 1)[1:]
        return counts / max(1, len(self.run_lengths))


def unit_usage(units: Units) -> UnitUsage:
    """Of all utterances; a run of equal units ends with its utterance."""
    run_lengths = [stop - start for utterance in range(len(units.offsets) - 1)
                   for start, stop, _ in runs(units.of(utterance).numpy())]
    counts = np.bincount(units.units.numpy(), minlength=units.num_clusters)
    return UnitUsage(counts, metrics.perplexity(counts), np.array(run_lengths, np.int64), units.framing)


def frame_emotions(utterances: Sequence[Utterance], classes: Sequence[str], framing: Framing = EVERY_20_MS
                   ) -> np.ndarray:
    """The emotion of every frame of all utterances, (S,) class numbers; -1 where the label is none of the classes.

    It is the utterance's label; where emotional frames are known (`corpus/frame_truth.py`), the others are neutral.
    """
    emotions = [np.zeros(0, int)]
    for utterance, num_frames in zip(utterances, frame_counts(utterances, framing).tolist()):
        label = classes.index(utterance.label) if utterance.label in classes else -1
        own = np.full(num_frames, label)
        if label >= 0 and OUTSIDE in classes and frame_truth.exists(utterance):
            own[~frame_truth.is_emotional(utterance, num_frames, framing)] = classes.index(OUTSIDE)
        emotions.append(own)
    return np.concatenate(emotions)


def co_occurrence(units: np.ndarray, emotions: np.ndarray, num_units: int, num_classes: int) -> np.ndarray:
    """How many frames have an emotion and a unit, (classes, K); units, emotions (S,); emotion -1 is left out."""
    is_known = emotions >= 0
    pairs = emotions[is_known] * num_units + units[is_known]
    return np.bincount(pairs, minlength=num_classes * num_units).reshape(num_classes, num_units)


def log_lift(counts: np.ndarray) -> np.ndarray:
    """log2 of how much more often a unit occurs in an emotion than overall, (classes, K); 0: equally often.

    P(unit | emotion) / P(unit). counts (classes, K): a `co_occurrence`. Ten frames with the overall distribution of
    units are added to every emotion, so that rare units do not look informative and nothing is infinite; a unit that
    never occurs gets 0.
    """
    counts = np.asarray(counts, float)
    overall = counts.sum(0) / max(counts.sum(), 1)                              # (K,) P(unit)
    smoothed = counts + PRIOR_FRAMES * overall
    shares = smoothed / np.maximum(smoothed.sum(1, keepdims=True), 1e-300)      # (classes, K) P(unit | emotion)
    return np.log2(np.divide(shares, overall, out=np.ones_like(shares), where=overall > 0))


def most_informative_units(counts: np.ndarray, limit: int) -> np.ndarray:
    """The `limit` units that contribute most to the mutual information with the emotion (all that occur, if fewer).

    counts (classes, K): a `co_occurrence`. Units are grouped by the emotion in which their lift is highest.
    """
    lift, share = log_lift(counts), counts / max(counts.sum(), 1)
    independent = share.sum(0) * share.sum(1, keepdims=True)                    # (classes, K) P(unit) P(emotion)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.nan_to_num(share * np.log(share / independent), nan=0.0).sum(0)        # (K,) nats
    occurring = np.flatnonzero(counts.sum(0) > 0)
    chosen = occurring[np.argsort(-information[occurring], kind="stable")[:limit]]
    return chosen[np.lexsort((-lift[:, chosen].max(0), lift[:, chosen].argmax(0)))]


def mutual_information(counts: np.ndarray) -> tuple[float, float]:
    """Of unit and emotion, from their `co_occurrence` (classes, K): in bits, and over the mean of both entropies."""
    entropy_of_emotion, entropy_of_unit = metrics.entropy(counts.sum(1)), metrics.entropy(counts.sum(0))
    shared = max(0.0, entropy_of_emotion + entropy_of_unit - metrics.entropy(counts.ravel()))
    mean = (entropy_of_emotion + entropy_of_unit) / 2
    return shared / np.log(2), shared / mean if mean > 0 else 0.0


def principal_components(x: Tensor, number: int = 2) -> tuple[Tensor, Tensor]:
    """Points (S, D) on their principal axes, (S, number), and each axis's share of the variance, (number,).

    PCA by singular values of the centred points; the sign of each axis is such that its largest weight is positive.
    """
    x = x.double()
    centred = x - x.mean(0)
    _, singular, axes = torch.linalg.svd(centred, full_matrices=False)          # axes (min(S, D), D)
    axes = axes[:number]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    variance = singular.square()
    return centred @ axes.T, variance[:number] / variance.sum().clamp(min=1e-300)


def unit_order(centroids: Tensor) -> np.ndarray:
    """Where each unit stands along the first principal axis of centroids (K, D), (K,) in 0..1: similar units get
    similar colours."""
    if len(centroids) < 2:
        return np.zeros(len(centroids))
    rank = principal_components(centroids, 1)[0][:, 0].argsort().argsort()
    return rank.numpy() / (len(rank) - 1)


@torch.inference_mode()
def classifier_states(model: EmotionModel, utterance: Utterance) -> Tensor:
    """The states that pooling and classifier read: last layer for one utterance, (T, D) float32 on the CPU."""
    device = model.classifier.weight.device
    waveform = audio.preprocess(audio.load(utterance.path), model.hubert.do_normalize)
    states, _ = model.states(waveform[None].to(device), torch.tensor([len(waveform)]))
    return states[0].cpu()
