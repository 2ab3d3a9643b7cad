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
    occurrences = matrix.sum(-1) + matrix.sum(-2)                               # (..., C): 2 TP + FP + FN
    scores = _ratio(2 * np.einsum("...cc->...c", matrix), occurrences, 0.0)
    return _plain(_ratio(scores.sum(-1), (occurrences > 0).sum(-1), np.nan))


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
    entropy_a, entropy_b = entropy(np.bincount(a)), entropy(np.bincount(b))
    if entropy_a == entropy_b == 0:
        return 1.0
    _, joint = np.unique(a * num_b + b, return_counts=True)                     # only pairs that occur
    shared = max(0.0, entropy_a + entropy_b - entropy(joint))
    return shared / ((entropy_a + entropy_b) / 2)


def bootstrap_interval(true: ArrayLike, predicted: ArrayLike, groups: ArrayLike, num_classes: int, draws: int = 1000,
                       seed: int = 0, level: float = 0.95) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of WA, UA and macro-F1, drawing whole groups (dialogues, speakers) anew.

    true, predicted (U,) class numbers; groups (U,) any labels. Utterances of one group are not independent; drawing
    groups with replacement keeps them together. In a draw without some class UA is the mean over the others.
    Returns {"wa": (low, high), "ua": ..., "macro_f1": ...}. Raises ValueError without utterances.
    Source: Efron and Tibshirani 1993, ch. 13.
    """
    matrices = resampled(true, predicted, groups, num_classes, draws, seed)     # (draws, C, C)
    return {name: interval(measure(matrices), level) for name, measure in MEASURES.items()}


def paired_difference(true: ArrayLike, first: ArrayLike, second: ArrayLike, groups: ArrayLike, num_classes: int,
                      draws: int = 1000, seed: int = 0, level: float = 0.95) -> dict[str, dict]:
    """How much better `second` is than `first` on the same utterances: difference, interval and two-sided p.

    true (U,); first, second (R, U): class numbers of R runs each (seeds), whose measures are averaged; groups (U,). In
    each draw both get the same groups, so that what makes an utterance hard for both cancels out. p: twice the share
    of draws on the other side of 0 (at least 1 / draws). Returns {"wa": {"difference", "interval", "p"}, "ua", ...}.
    Source: Efron and Tibshirani 1993, ch. 16; Koehn 2004.
    """
    sides = []
    for predicted in (np.atleast_2d(first), np.atleast_2d(second)):
        whole = np.stack([confusion(true, run, num_classes) for run in predicted])              # (R, C, C)
        drawn = np.stack([resampled(true, run, groups, num_classes, draws, seed) for run in predicted])
        sides.append((whole, drawn))                                            # drawn (R, draws, C, C)
    (whole_first, drawn_first), (whole_second, drawn_second) = sides

    differences = {}
    for name, measure in MEASURES.items():
        difference = np.mean(measure(whole_second)) - np.mean(measure(whole_first))
        change = measure(drawn_second).mean(0) - measure(drawn_first).mean(0)   # (draws,)
        tail = min((change <= 0).mean(), (change >= 0).mean())
        differences[name] = {"difference": float(difference), "interval": interval(change, level),
                             "p": float(min(1.0, 2 * max(tail, 0.5 / draws)))}
    return differences


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
    num_groups, num_cells = len(names), num_classes ** 2
    counts = np.bincount(group * num_cells + cell, minlength=num_groups * num_cells)
    group_matrices = counts.reshape(num_groups, num_cells).astype(float)

    matrices = []
    block = max(1, 10 ** 6 // num_groups)           # draws at once: some megabytes
    for start in range(0, draws, block):
        chosen = generator.integers(num_groups, size=(min(block, draws - start), num_groups))
        place = chosen + num_groups * np.arange(len(chosen))[:, None]           # each draw counts on its own
        times = np.bincount(place.ravel(), minlength=chosen.size).reshape(-1, num_groups)
        matrices.append(times @ group_matrices)                                 # (block, C x C)
    return np.concatenate(matrices).reshape(draws, num_classes, num_classes)


MEASURES: dict[str, Callable] = {"wa": wa, "ua": ua, "macro_f1": macro_f1}


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of resampled values."""
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


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
    intervals = bootstrap_interval(true, predicted, groups, len(classes), seed=seed)
    return {"wa": float(wa(matrix)), "ua": float(ua(matrix)), "macro_f1": float(macro_f1(matrix)),
            "recall": dict(zip(classes, np.nan_to_num(recalls(matrix)).tolist())),
            "confusion": matrix.tolist(),
            "interval_95": {name: list(ends) for name, ends in intervals.items()}}
