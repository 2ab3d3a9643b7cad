"""What is reported: accuracies from a confusion matrix, ROC-AUC, mutual information, bootstrap intervals. numpy only.

A confusion matrix is (C, C) int64, rows the true class, columns the predicted one; the functions that take one also
take a stack of them (..., C, C) and then return an array (...,). WA is the field's name for the share of utterances
recognised, UA for the mean of the classes' recalls.
"""
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike


def confusion(true: ArrayLike, predicted: ArrayLike, num_classes: int) -> np.ndarray:
    """Count (true, predicted) pairs: two sequences of class numbers below C = `num_classes` -> (C, C) int64.

    Raises ValueError for unequal lengths or a class outside 0..C-1.
    """
    true, predicted = _labels(true, predicted)
    for name, labels in (("true", true), ("predicted", predicted)):
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            wrong = labels[(labels < 0) | (labels >= num_classes)][0]
            raise ValueError(f"{name} class {wrong} is outside 0..{num_classes - 1}")
    return np.bincount(true * num_classes + predicted, minlength=num_classes ** 2).reshape(num_classes, num_classes)


def wa(matrix: ArrayLike) -> np.ndarray | float:
    """Weighted accuracy: the share of utterances recognised; nan without utterances."""
    matrix = np.asarray(matrix, float)
    return _plain(_ratio(np.einsum("...cc->...", matrix), matrix.sum((-2, -1)), np.nan))


def recalls(matrix: ArrayLike) -> np.ndarray:
    """Share of each true class recognised: (..., C) float; nan for a class without utterances."""
    matrix = np.asarray(matrix, float)
    return _ratio(np.einsum("...cc->...c", matrix), matrix.sum(-1), np.nan)


def ua(matrix: ArrayLike) -> np.ndarray | float:
    """Unweighted accuracy: mean recall of the classes that have utterances; nan without any."""
    shares = recalls(matrix)
    present = ~np.isnan(shares)
    return _plain(_ratio(np.where(present, shares, 0.0).sum(-1), present.sum(-1), np.nan))


def macro_f1(matrix: ArrayLike) -> np.ndarray | float:
    """Mean over classes of F1 = 2 TP / (2 TP + FP + FN); nan without utterances.

    A class never predicted, or never true, counts 0; one that is neither is left out: scikit-learn's
    f1_score(average="macro", zero_division=0).
    """
    matrix = np.asarray(matrix, float)
    seen = matrix.sum(-1) + matrix.sum(-2)                                      # (..., C): 2 TP + FP + FN
    scores = _ratio(2 * np.einsum("...cc->...c", matrix), seen, 0.0)
    return _plain(_ratio(scores.sum(-1), (seen > 0).sum(-1), np.nan))


def roc_auc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Probability that a positive scores above a negative, ties counting one half (Mann-Whitney).

    scores (S,) float, positive (S,) bool. Raises ValueError where one of the two kinds, or a number, is missing.
    """
    scores, positive = np.asarray(scores, float), np.asarray(positive, bool)
    if scores.shape != positive.shape or scores.ndim != 1:
        raise ValueError(f"scores and positive must be two equally long lists, got {scores.shape} and {positive.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"scores must be numbers, score {np.isnan(scores).argmax()} is nan")
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        raise ValueError(f"ROC-AUC needs positives and negatives, got {num_positive} and {num_negative}")
    _, value, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2                            # ranks from 1; ties share their mean
    rank_sum = mean_rank[value[positive]].sum()
    return float((rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def entropy(counts: ArrayLike) -> float:
    """Entropy in nats of the distribution that counts (K,) describe; 0 where there is nothing."""
    counts = np.asarray(counts, float)
    shares = counts[counts > 0] / max(counts.sum(), 1e-300)
    return float(max(0.0, -(shares * np.log(shares)).sum()))


def perplexity(counts: ArrayLike) -> float:
    """exp(entropy): the number of equally frequent clusters that would be as varied; 1 (one cluster) to K."""
    return float(np.exp(entropy(counts)))


def nmi(a: ArrayLike, b: ArrayLike) -> float:
    """Mutual information of two labellings (S,) of the same frames over the mean of their entropies: 0 to 1.

    Labels are whole numbers. Two labellings of one cluster each agree: 1, as scikit-learn has it.
    Raises ValueError for unequal lengths.
    """
    a, b = _labels(a, b)
    a, b = np.unique(a, return_inverse=True)[1], np.unique(b, return_inverse=True)[1]
    num_b = int(b.max(initial=0)) + 1
    of_a, of_b = entropy(np.bincount(a)), entropy(np.bincount(b))
    if of_a == of_b == 0:
        return 1.0
    _, together = np.unique(a * num_b + b, return_counts=True)                  # only pairs that occur
    return max(0.0, of_a + of_b - entropy(together)) / ((of_a + of_b) / 2)


def bootstrap_interval(true: ArrayLike, predicted: ArrayLike, groups: ArrayLike, num_classes: int, draws: int = 1000,
                       seed: int = 0, level: float = 0.95) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of WA, UA and macro-F1, drawing whole groups (dialogues, speakers) anew.

    true, predicted (U,) class numbers; groups (U,) any labels. Utterances of one group are not independent; drawing
    groups with replacement keeps them together. In a draw without some class UA is the mean over the others.
    Returns {"wa": (low, high), "ua": ..., "macro_f1": ...}. Raises ValueError without utterances.
    Source: Efron and Tibshirani 1993, ch. 13.
    """
    drawn = resampled(true, predicted, groups, num_classes, draws, seed)
    return {name: interval(measure(drawn), level) for name, measure in MEASURES.items()}


def paired_difference(true: ArrayLike, first: ArrayLike, second: ArrayLike, groups: ArrayLike, num_classes: int,
                      draws: int = 1000, seed: int = 0, level: float = 0.95) -> dict[str, dict]:
    """How much better `second` is than `first` on the same utterances: difference, interval and two-sided p.

    true (U,); first, second (R, U): class numbers of R runs each (seeds), whose measures are averaged; groups (U,). In
    each draw both see the same groups, so that what makes an utterance hard for both cancels out. p: twice the share
    of draws on the other side of 0 (at least 1 / draws). Returns {"wa": {"difference", "interval", "p"}, "ua", ...}.
    Source: Efron and Tibshirani 1993, ch. 16; Koehn 2004.
    """
    sides = []
    for predicted in (np.atleast_2d(first), np.atleast_2d(second)):
        drawn = np.stack([resampled(true, one, groups, num_classes, draws, seed) for one in predicted])
        whole = np.stack([confusion(true, one, num_classes) for one in predicted])
        sides.append({name: (np.mean(measure(whole)), measure(drawn).mean(0)) for name, measure in MEASURES.items()})
    found = {}
    for name in MEASURES:
        (before, drawn_before), (after, drawn_after) = sides[0][name], sides[1][name]
        change = drawn_after - drawn_before                                     # (draws,)
        tail = min((change <= 0).mean(), (change >= 0).mean())
        found[name] = {"difference": float(after - before), "interval": interval(change, level),
                       "p": float(min(1.0, 2 * max(tail, 0.5 / draws)))}
    return found


def resampled(true: ArrayLike, predicted: ArrayLike, groups: ArrayLike, num_classes: int, draws: int,
              seed: int) -> np.ndarray:
    """Confusion matrices of `draws` draws of as many groups as there are, with replacement: (draws, C, C).

    The same groups and seed draw alike, whatever was predicted. Raises ValueError as `bootstrap_interval`.
    """
    true, predicted = _labels(true, predicted)
    groups = np.asarray(groups)
    if not len(true) or len(groups) != len(true):
        raise ValueError(f"an interval needs utterances and a group for each, got {len(true)} and {len(groups)}")
    names, group = np.unique(groups, return_inverse=True)
    confusion(true, predicted, num_classes)                                     # checks the classes
    cell = true * num_classes + predicted                                       # (U,)
    generator = np.random.default_rng(seed)
    G, cells = len(names), num_classes ** 2
    of_group = np.bincount(group * cells + cell, minlength=G * cells).reshape(G, cells).astype(float)
    drawn, block = [], max(1, 10 ** 6 // G)         # draws at once: some megabytes
    for first in range(0, draws, block):
        chosen = generator.integers(G, size=(min(block, draws - first), G))
        place = chosen + G * np.arange(len(chosen))[:, None]
        times = np.bincount(place.ravel(), minlength=chosen.size).reshape(-1, G)        # (block, G)
        drawn.append(times @ of_group)                                          # (block, C x C)
    return np.concatenate(drawn).reshape(draws, num_classes, num_classes)


MEASURES: dict[str, Callable] = {"wa": wa, "ua": ua, "macro_f1": macro_f1}


def interval(drawn: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of drawn values."""
    tail = 100 * (1 - level) / 2
    return tuple(float(x) for x in np.percentile(drawn, [tail, 100 - tail]))


def _labels(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Two equally long lists of whole numbers as int64 (S,)."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"two equally long lists of classes are needed, got shapes {a.shape} and {b.shape}")
    if len(a) and not (np.issubdtype(a.dtype, np.integer) and np.issubdtype(b.dtype, np.integer)):
        raise ValueError(f"classes must be whole numbers, got {a.dtype} and {b.dtype}")
    return a.astype(np.int64), b.astype(np.int64)


def _ratio(above: np.ndarray, below: np.ndarray, otherwise: float) -> np.ndarray:
    """above / below, `otherwise` where below is 0."""
    below = np.asarray(below, float)
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), otherwise)


def _plain(x: np.ndarray) -> np.ndarray | float:
    """A single number as Python's float, so that it prints and serialises."""
    return float(x) if np.ndim(x) == 0 else x


def scores(true: np.ndarray, predicted: np.ndarray, classes: list[str], groups: list[str], seed: int) -> dict:
    """WA, UA, macro-F1, recall of each class, confusion matrix (rows: truth), 95 % bootstrap intervals over groups."""
    matrix = confusion(true, predicted, len(classes))
    return {"wa": float(wa(matrix)), "ua": float(ua(matrix)),
            "macro_f1": float(macro_f1(matrix)),
            "recall": dict(zip(classes, np.nan_to_num(recalls(matrix)).tolist())),
            "confusion": matrix.tolist(),
            "interval_95": {name: list(interval) for name, interval in
                            bootstrap_interval(true, predicted, groups, len(classes), seed=seed).items()}}
