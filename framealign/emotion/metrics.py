"""What is reported: accuracies from a confusion matrix, with intervals; how right confidences are (calibration);
ROC-AUC, mutual information. numpy only.

A confusion matrix is (C, C) int64, rows the true class, columns the predicted one; the functions that take one also
take a stack of them (..., C, C) and then return an array (...,). WA is the field's name for the share of utterances
recognised, UA for the mean of the classes' recalls.
"""
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

MIN_GROUPS = 10                                     # of fewer there is no p
BINS = 15                                           # of confidence, in calibration errors (Guo et al. 2017)
DRAWS = 500                                         # of what a calibrated recogniser may get right
POINTS = 20                                         # of the risk-coverage curve that are kept: at 5, 10 ... 100 %
NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)            # to integrate over -1..1


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
    """Mean of F1 = 2 TP / (2 TP + FP + FN) over the classes that have utterances; nan without any.

    As UA, it leaves out a class without utterances: scikit-learn's f1_score(average="macro") with `labels` of the true
    ones.
    """
    matrix = np.asarray(matrix, float)
    occurrences = matrix.sum(-1) + matrix.sum(-2)                               # (..., C): 2 TP + FP + FN
    scores = _ratio(2 * np.einsum("...cc->...c", matrix), occurrences, 0.0)     # 0 for a class that is never true
    return _plain(_ratio(scores.sum(-1), num_present(matrix), np.nan))


def num_present(matrix: ArrayLike) -> np.ndarray:
    """How many classes have utterances: (...,) int64."""
    return (np.asarray(matrix).sum(-1) > 0).sum(-1)


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


def bin_numbers(confidence: ArrayLike, num_bins: int = BINS, equal_mass: bool = False) -> np.ndarray:
    """The bin of each confidence (U,) in 0..1: (U,) int64, ascending with the confidence.

    Bins are equally wide, each with its upper end, or (equal_mass) hold as many utterances as can be equal. Raises
    ValueError for a number that is no probability.
    """
    confidence = np.asarray(confidence, float)
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("confidences must be probabilities, in 0..1")
    if not equal_mass:
        return np.searchsorted(np.arange(1, num_bins) / num_bins, confidence, side="left")
    numbers = np.empty(len(confidence), np.int64)
    for number, places in enumerate(np.array_split(np.argsort(confidence, kind="stable"), num_bins)):
        numbers[places] = number
    return numbers


def calibration_error(confidence: ArrayLike, right: ArrayLike, num_bins: int = BINS, equal_mass: bool = False) -> float:
    """Expected calibration error: mean difference of confidence and share right in bins of `bin_numbers`.

    confidence (U,) in 0..1, U >= 1; right (U,): whether that answer was right. Bins count by their utterances.
    Sources: Naeini et al. 2015; Guo et al. 2017; with equal mass, "adaptive": Nguyen and O'Connor 2015.
    """
    confidence, right = _answers(confidence, right)
    sums = (confidence - right) @ _shares_of_bins(confidence, num_bins, equal_mass)         # (B,)
    return float(np.abs(sums).sum() / len(right))


def calibration_noise(confidence: ArrayLike, num_bins: int = BINS, equal_mass: bool = False) -> tuple[float, float]:
    """`calibration_error` of a perfectly calibrated recogniser with these confidences (U,): mean and 95 % quantile.

    A bin of few utterances has a difference by chance, so that the error is above 0 even there. Answers are drawn
    `DRAWS` times, each right with its confidence, always the same.
    """
    confidence, draw, errors = np.asarray(confidence, float), np.random.default_rng(0), []
    shares = _shares_of_bins(confidence, num_bins, equal_mass)                              # (U, B)
    for _ in range(0, DRAWS, 50):                   # at once: of many utterances, all would take much memory
        right = draw.random((50, len(confidence))) < confidence                             # (50, U)
        errors += (np.abs((confidence - right) @ shares).sum(1) / len(confidence)).tolist()
    return float(np.mean(errors)), float(np.quantile(errors, 0.95))


def reliability(confidence: ArrayLike, right: ArrayLike, num_bins: int = BINS) -> list[tuple[int, float, float]]:
    """(utterances, mean confidence, share right) of each equally wide bin that has utterances, ascending."""
    confidence, right = np.asarray(confidence, float), np.asarray(right, float)
    numbers = bin_numbers(confidence, num_bins)
    return [(int(own.sum()), float(confidence[own].mean()), float(right[own].mean()))
            for own in (numbers == number for number in range(num_bins)) if own.any()]


def brier(probabilities: ArrayLike, true: ArrayLike) -> float:
    """Brier score: mean over utterances of the squared distance of the probabilities (U, C) to the truth, 0 to 2.

    true (U,) class numbers. Brier 1950.
    """
    probabilities = np.asarray(probabilities, float)
    return float(((probabilities - np.eye(probabilities.shape[1])[np.asarray(true)]) ** 2).sum(1).mean())


def risks(confidence: ArrayLike, right: ArrayLike) -> np.ndarray:
    """Share of wrong answers among the 1, 2, ... U most confident: (U,), the risk-coverage curve at k / U.

    Of equal confidence, each order is as likely. The mean is the area under the curve, AURC: Geifman and El-Yaniv 2017.
    """
    confidence, right = _answers(confidence, right)
    _, value, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.repeat(1 - np.bincount(value, right) / counts, counts)           # the most confident first
    return np.cumsum(wrong) / np.arange(1, len(wrong) + 1)


def calibration(probabilities: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> dict:
    """How right the probabilities (U, C) of the predicted classes (U,) are, U >= 1; true (U,).

    "confidence": their mean; "ece" of 15 equally wide bins and "adaptive_ece" of as many with equal mass, each with
    "..._if_calibrated", `calibration_noise`; "brier"; "aurc"; "bins", `reliability`; "risks" at 5, 10, ... 100 % of
    the utterances, the most confident first.
    """
    confidence, right = probabilities[np.arange(len(true)), predicted], true == predicted
    curve = risks(confidence, right)
    return {"confidence": float(confidence.mean()),
            "ece": calibration_error(confidence, right), "ece_if_calibrated": list(calibration_noise(confidence)),
            "adaptive_ece": calibration_error(confidence, right, equal_mass=True),
            "adaptive_ece_if_calibrated": list(calibration_noise(confidence, equal_mass=True)),
            "brier": brier(probabilities, true), "aurc": float(curve.mean()),
            "bins": [list(one) for one in reliability(confidence, right)],
            "risks": [float(curve[-(-point * len(curve) // POINTS) - 1]) for point in range(1, POINTS + 1)]}


def _answers(confidence: ArrayLike, right: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Confidences and answers as float (U,). Raises ValueError unless there are as many, and one or more."""
    confidence, right = np.asarray(confidence, float), np.asarray(right, float)
    if confidence.shape != right.shape or confidence.ndim != 1 or not len(right):
        raise ValueError(f"a confidence is needed for each of one or more answers, got {confidence.shape} for "
                         f"{right.shape}")
    return confidence, right


def _shares_of_bins(confidence: np.ndarray, num_bins: int, equal_mass: bool) -> np.ndarray:
    """How much of each utterance is in each bin of `bin_numbers`: (U, B), rows of sum 1.

    Utterances of equal confidence are in each of their bins by equal shares: their order means nothing.
    """
    numbers = bin_numbers(confidence, num_bins, equal_mass)
    _, value, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    of_values = np.bincount(value * num_bins + numbers, minlength=len(counts) * num_bins).reshape(-1, num_bins)
    return (of_values / counts[:, None])[value]


def group_matrices(true: ArrayLike, predicted: ArrayLike, groups: ArrayLike, num_classes: int) -> np.ndarray:
    """The confusion matrix of each group: true, predicted, groups (U,) -> (G, C, C) int64, groups in sorted order.

    Raises ValueError without utterances, without a group for each, and as `confusion`.
    """
    true, predicted = _labels(true, predicted)
    groups = np.asarray(groups)
    if not len(true) or len(groups) != len(true):
        raise ValueError(f"an interval needs utterances and a group for each, got {len(true)} and {len(groups)}")
    confusion(true, predicted, num_classes)                                     # checks the classes
    names, group = np.unique(groups, return_inverse=True)
    num_cells = num_classes ** 2
    counts = np.bincount(group * num_cells + true * num_classes + predicted, minlength=len(names) * num_cells)
    return counts.reshape(len(names), num_classes, num_classes)


def intervals(true: ArrayLike, predicted: ArrayLike, groups: ArrayLike, num_classes: int
              ) -> dict[str, tuple[float, float] | None]:
    """95 % intervals of WA, UA and macro-F1 for utterances of groups (speakers) that were not tested.

    true (U,) class numbers; predicted (U,), or (R, U) of R runs (seeds), whose measures are averaged; groups (U,) any
    labels, taken as independent of each other, their utterances not. Returns {"wa": (low, high), "ua": ...,
    "macro_f1": ...} within 0 and 1, None as `estimate`. Raises ValueError as `group_matrices`.
    """
    runs = np.stack([group_matrices(true, run, groups, num_classes) for run in np.atleast_2d(predicted)])
    by_measure = {}
    for name, measure in MEASURES.items():
        ends = estimate(measure, runs)["interval"]
        by_measure[name] = ends and (max(ends[0], 0.0), min(ends[1], 1.0))
    return by_measure


def paired_difference(true: ArrayLike, first: ArrayLike, second: ArrayLike, groups: ArrayLike, num_classes: int
                      ) -> dict[str, dict]:
    """How much better `second` is than `first` on the same utterances: difference, 95 % interval and two-sided p.

    true (U,); first, second (U,), or (R, U) of R runs each (seeds), whose measures are averaged; groups (U,) as in
    `intervals`. Both are measured on the same groups, so that what makes an utterance hard for both cancels out; runs
    of the one are taken as independent of those of the other. Returns {"wa": {"difference", "interval", "p"}, "ua":
    ...}, interval and p None as `estimate`. Raises ValueError as `group_matrices`.
    """
    first, second = (np.stack([group_matrices(true, run, groups, num_classes) for run in np.atleast_2d(runs)])
                     for runs in (first, second))                               # (R, G, C, C) each
    differences = {}
    for name, measure in MEASURES.items():
        one = estimate(measure, second, first)
        differences[name] = {"difference": one["value"], "interval": one["interval"], "p": one["p"]}
    return differences


def estimate(measure: Callable, runs: np.ndarray, others: np.ndarray | None = None) -> dict:
    """A measure's mean over runs, or how much larger it is than that of other runs, with a t interval and p.

    runs, others: (R, G, C, C), the confusion matrix of each run and group. The variance over groups is the jackknife's:
    each group is left out once. Where every side has several runs, the variance of the mean over runs is added, so that
    the interval holds for new groups *and* new trainings; of one run it holds for that training. The t distribution has
    G - 1 degrees of freedom, with runs Satterthwaite's. A bootstrap of few groups is too narrow, as it
    draws only from these. Both are right only if groups are independent; two speakers of an IEMOCAP session are not
    quite: they share its dialogues and a recogniser.

    Returns {"value", "interval": (low, high) or None, "p": float or None}. No interval: fewer than two groups, groups
    that do not differ, or a class whose utterances are all of one group (WA does not mind). No p: fewer than MIN_GROUPS
    groups. Sources: Efron and Tibshirani 1993, ch. 11; Satterthwaite 1946.
    """
    sides = [runs] if others is None else [runs, others]
    totals = [side.sum(1) for side in sides]                                    # (R, C, C) each
    whole = [measure(total) for total in totals]                                # (R,) each
    value = float(np.subtract.reduce([scores.mean() for scores in whole]))      # of one side, its own mean
    nothing = {"value": value, "interval": None, "p": None}
    num_groups = runs.shape[1]
    if num_groups < 2:
        return nothing

    rests = [total[:, None] - side for total, side in zip(totals, sides)]       # (R, G, C, C) each: a group left out
    if measure is not wa and (num_present(rests[0]) < num_present(totals[0])[:, None]).any():
        return nothing
    without = [measure(rest) for rest in rests]                                 # (R, G) each
    variances = [(num_groups - 1) * np.subtract.reduce([scores.mean(0) for scores in without]).var()]
    degrees = [num_groups - 1]
    if all(len(scores) > 1 for scores in whole):
        variances += [variance_over_runs(*scores) for scores in zip(whole, without)]
        degrees += [len(scores) - 1 for scores in whole]
    error = float(np.sqrt(sum(variances)))
    if error < 1e-9:                                # groups that do not differ, up to rounding
        return nothing

    freedom = sum(variances) ** 2 / sum(one ** 2 / degree for one, degree in zip(variances, degrees))
    half = t_quantile(freedom) * error
    p = 1 - t_share_within(abs(value) / error, freedom) if num_groups >= MIN_GROUPS else None
    return {"value": value, "interval": (value - half, value + half), "p": p}


def variance_over_runs(whole: np.ndarray, without: np.ndarray) -> float:
    """What runs (R,) add to the variance of their mean, beyond what is in the groups' variance; not below 0.

    without (R, G): the measure with each group left out. Runs also differ because each has luck with other groups; that
    part, the interaction of a two-way analysis of variance, is in the variance over groups and is subtracted.
    """
    num_runs, num_groups = without.shape
    apart = without - without.mean(1, keepdims=True)
    interaction = ((apart - apart.mean(0)) ** 2).sum() * (num_groups - 1) / num_groups / (num_runs * (num_runs - 1))
    return max(0.0, float(whole.var(ddof=1) / num_runs - interaction))


MEASURES: dict[str, Callable] = {"wa": wa, "ua": ua, "macro_f1": macro_f1}


def t_share_within(t: float, degrees: float) -> float:
    """P(-t < T < t) of Student's distribution with so many degrees of freedom, at least 1 and not always whole.

    With T = sqrt(degrees) tan(x), x has a density proportional to cos(x) ** (degrees - 1), which is integrated from 0.
    """
    end = math.atan(t / math.sqrt(degrees))
    integral = end / 2 * (WEIGHTS * np.cos(end / 2 * (NODES + 1)) ** (degrees - 1)).sum()
    at_zero = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    return min(1.0, 2 * at_zero * float(integral))


def t_quantile(degrees: float, level: float = 0.95) -> float:
    """The t for which P(-t < T < t) = `level`, by bisection."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_share_within(middle, degrees) < level else (low, middle)
    return low


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


def scores(true: np.ndarray, predicted: np.ndarray, classes: list[str], groups: list[str]) -> dict:
    """WA, UA, macro-F1, recall of each class, confusion matrix (rows: truth), `intervals`; None where there is none."""
    matrix = confusion(true, predicted, len(classes))
    shares = [None if np.isnan(share) else float(share) for share in recalls(matrix)]
    return {"wa": float(wa(matrix)), "ua": float(ua(matrix)), "macro_f1": float(macro_f1(matrix)),
            "recall": dict(zip(classes, shares)), "confusion": matrix.tolist(),
            "interval_95": {name: ends and list(ends)
                            for name, ends in intervals(true, predicted, groups, len(classes)).items()}}
