"""What a run has learnt, in numbers: how units are used, what they say of the emotion, where states lie.

Nothing is drawn here: `page` does that.
"""
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from framealign.runtime.seeds import derive_seed
from framealign.sound import audio
from framealign.sound.frames import FRAME_RATE
from framealign.corpus import synthetic_corpus
from framealign.corpus.cropping import frame_counts
from framealign.units.units import Units
from framealign.emotion import metrics, planted_truth
from framealign.emotion.emotion_model import EmotionModel

OUTSIDE = "neutral"                                 # what frames outside a planted emotional stretch are


@dataclass(frozen=True)
class Prediction:
    """One line of `predictions.csv`: id, truth, what was recognised, the probability of the truth."""
    id: str
    true: str
    predicted: str
    of_truth: float


def read_predictions(path: str | Path) -> list[Prediction]:
    """Every tested utterance."""
    with open(path, encoding="utf-8", newline="") as file:
        return [Prediction(row["id"], row["true"], row["predicted"], float(row[row["true"]]))
                for row in csv.DictReader(file)]


def chosen(predictions: list[Prediction], classes: list[str], seed: int) -> list[tuple[Prediction, str]]:
    """Utterances worth looking at, each once, with why: best, worst, one at random, then one of each class.

    Of each class the one whose probability of the truth is the median of its class: neither show-piece nor failure.
    """
    order = sorted(predictions, key=lambda p: (p.of_truth, p.id))
    draw = np.random.default_rng(derive_seed(seed, "report"))
    wanted = [(order[-1], "best: the highest probability of the truth"),
              (order[0], "worst: the lowest probability of the truth"),
              (order[int(draw.integers(len(order)))], "drawn at random")]
    for name in classes:
        own = [p for p in order if p.true == name]
        if own:
            wanted.append((own[len(own) // 2], f"the middle one of {name}, by the probability of the truth"))
    return list({prediction.id: (prediction, why) for prediction, why in reversed(wanted)}.values())[::-1]


@dataclass(frozen=True)
class Usage:
    """How often each unit occurs, (K,), and how long it lasts when it does."""
    counts: np.ndarray
    perplexity: float
    runs: np.ndarray                                # length in frames of every run, (R,)

    @property
    def used(self) -> int:
        return int((self.counts > 0).sum())

    @property
    def mean_run_frames(self) -> float:
        return float(self.runs.mean())

    @property
    def mean_run_ms(self) -> float:
        return 1000 * self.mean_run_frames / FRAME_RATE

    def run_shares(self, longest: int = 12) -> np.ndarray:
        """Shares of runs of 1, 2, ... frames, (longest,); the last holds the longer ones too."""
        return np.bincount(self.runs.clip(max=longest), minlength=longest + 1)[1:] / max(1, len(self.runs))


def usage(units: Units) -> Usage:
    """Of all utterances; a run of equal units ends with its utterance."""
    flat, offsets = units.units.numpy(), units.offsets.numpy()
    begins = np.zeros(len(flat), bool)
    begins[offsets[:-1][np.diff(offsets) > 0]] = True
    begins[1:] |= flat[1:] != flat[:-1]
    counts = np.bincount(flat, minlength=units.num_clusters)
    return Usage(counts, metrics.perplexity(counts), np.diff(np.append(np.flatnonzero(begins), len(flat))))


def frame_emotions(utterances: list, classes: list[str]) -> np.ndarray:
    """The emotion of every frame of all utterances, (S,): its class's number, -1 where the label is none of them.

    The utterance's label; where the emotional stretch is known (`synth`), frames outside it are neutral.
    """
    found = []
    for utterance, count in zip(utterances, frame_counts(utterances).tolist()):
        label = classes.index(utterance.label) if utterance.label in classes else -1
        own = np.full(count, label)
        if label >= 0 and OUTSIDE in classes and planted_truth.has_truth(utterance):
            own[~synthetic_corpus.planted(utterance.path, count)] = classes.index(OUTSIDE)
        found.append(own)
    return np.concatenate(found) if found else np.zeros(0, int)


def together(units: np.ndarray, emotions: np.ndarray, num_units: int, num_classes: int) -> np.ndarray:
    """How often emotion and unit meet in a frame, (classes, K); frames without an emotion (-1) are left out."""
    known = emotions >= 0
    flat = emotions[known] * num_units + units[known]
    return np.bincount(flat, minlength=num_classes * num_units).reshape(num_classes, num_units)


def lift(counts: np.ndarray) -> np.ndarray:
    """log2 of how much more often a unit occurs in an emotion than overall, (classes, K); 0: just as often.

    P(unit | emotion) / P(unit). Ten frames that say nothing, shared out as the units are overall, are added to every
    emotion, so that rare units do not look telling and nothing is infinite; a unit that never occurs gets 0.
    """
    counts = np.asarray(counts, float)
    overall = counts.sum(0) / max(counts.sum(), 1)
    smoothed = counts + 10 * overall
    shares = smoothed / np.maximum(smoothed.sum(1, keepdims=True), 1e-300)
    return np.log2(np.divide(shares, overall, out=np.ones_like(shares), where=overall > 0))


def telling(counts: np.ndarray, limit: int) -> np.ndarray:
    """Numbers of the `limit` units that say most of the emotion (all that occur, if they are fewer), grouped by the
    emotion they are most typical of. counts (classes, K): as `together`."""
    lifted, share = lift(counts), counts / max(counts.sum(), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.nan_to_num(share * np.log(share / (share.sum(0) * share.sum(1, keepdims=True))), nan=0.0)
    seen = np.flatnonzero(counts.sum(0) > 0)
    kept = seen[np.argsort(-parts.sum(0)[seen], kind="stable")[:limit]]
    return kept[np.lexsort((-lifted[:, kept].max(0), lifted[:, kept].argmax(0)))]


def mutual_information(counts: np.ndarray) -> tuple[float, float]:
    """Of unit and emotion, from how often they meet (classes, K): in bits, and over the mean of both entropies."""
    of_emotion, of_unit = metrics.entropy(counts.sum(1)), metrics.entropy(counts.sum(0))
    shared = max(0.0, of_emotion + of_unit - metrics.entropy(counts.ravel()))
    mean = (of_emotion + of_unit) / 2
    return shared / np.log(2), shared / mean if mean > 0 else 0.0


def principal_axes(x: Tensor, number: int = 2) -> tuple[Tensor, Tensor]:
    """Points (S, D) on their main axes, (S, number), and each axis's share of the variance, (number,).

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
    """Where each unit stands along the main axis of all centroids, (K,) in 0..1: like units get like colours."""
    if len(centroids) < 2:
        return np.zeros(len(centroids))
    rank = principal_axes(centroids, 1)[0][:, 0].argsort().argsort()
    return rank.numpy() / (len(rank) - 1)


@torch.inference_mode()
def states_of(model: EmotionModel, utterance) -> Tensor:
    """What the classifier looks at: the encoder's last layer for one utterance, (T, D) float32 on the CPU."""
    device = model.classifier.weight.device
    waveform = audio.preprocess(audio.load(utterance.path), model.hubert.do_normalize)
    states, _ = model.states(waveform[None].to(device), torch.tensor([len(waveform)], device=device))
    return states[0].cpu()
