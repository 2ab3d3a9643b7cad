"""Measures against counting by hand, and against scikit-learn where it is installed."""
import itertools
import json
import math
import warnings
from fractions import Fraction

import numpy as np
import pytest

from framealign.emotion import metrics


def drawn(size: int, num_classes: int, seed: int, agreement: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted classes, equal in about `agreement` of the cases; classes of unequal frequency."""
    generator = np.random.default_rng(seed)
    frequency = np.arange(1, num_classes + 1) / np.arange(1, num_classes + 1).sum()
    true = generator.choice(num_classes, size, p=frequency)
    return true, np.where(generator.random(size) < agreement, true, generator.integers(num_classes, size=size))


def test_a_small_table_by_hand():
    """Six utterances of three classes: recalls 2/3, 1/2 and 0."""
    matrix = metrics.confusion([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 0], 3)
    assert matrix.tolist() == [[2, 1, 0], [1, 1, 0], [1, 0, 0]] and matrix.dtype == np.int64
    assert metrics.recalls(matrix).tolist() == pytest.approx([2 / 3, 1 / 2, 0])
    assert metrics.wa(matrix) == pytest.approx(3 / 6)
    assert metrics.ua(matrix) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert metrics.macro_f1(matrix) == pytest.approx((4 / 7 + 2 / 4 + 0) / 3)
    json.dumps([metrics.wa(matrix), metrics.ua(matrix), metrics.macro_f1(matrix)])      # plain numbers


def test_a_class_without_utterances():
    """UA and macro-F1 are over the classes there are, whatever was predicted."""
    absent = metrics.confusion([0, 0, 1], [0, 1, 1], 3)
    assert np.isnan(metrics.recalls(absent)).tolist() == [False, False, True]
    assert metrics.ua(absent) == pytest.approx(0.75) and metrics.macro_f1(absent) == pytest.approx(2 / 3)
    predicted = metrics.confusion([0, 0, 1], [0, 2, 1], 3)
    assert metrics.ua(predicted) == pytest.approx(0.75) and metrics.macro_f1(predicted) == pytest.approx(5 / 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nothing = metrics.confusion([], [], 3)
        assert all(np.isnan(measure(nothing)) for measure in (metrics.wa, metrics.ua, metrics.macro_f1))


def test_stacks_of_matrices():
    stack = np.stack([metrics.confusion(*drawn(50, 4, seed), 4) for seed in range(6)]).reshape(2, 3, 4, 4)
    for measure in (metrics.wa, metrics.ua, metrics.macro_f1, metrics.recalls):
        found = measure(stack)
        for i, j in itertools.product(range(2), range(3)):
            np.testing.assert_array_equal(found[i, j], measure(stack[i, j]))


@pytest.mark.parametrize("true, predicted, message", [
    ([0, 4], [0, 1], "true class 4 is outside 0..3"), ([0, 1], [0, -1], "predicted class -1"),
    ([0, 1], [0], "equally long"), ([0.5, 1.0], [0, 1], "whole numbers"), ([[0]], [[0]], "equally long"),
])
def test_classes_that_cannot_be_counted(true, predicted, message):
    with pytest.raises(ValueError, match=message):
        metrics.confusion(true, predicted, 4)


@pytest.mark.parametrize("seed", range(5))
def test_accuracies_are_scikit_learns(seed):
    theirs = pytest.importorskip("sklearn.metrics", reason="scikit-learn, of the extra [oracle], is not installed")
    true, predicted = drawn(30 + 100 * seed, 4 + seed, seed)
    matrix = metrics.confusion(true, predicted, 4 + seed)
    np.testing.assert_array_equal(matrix, theirs.confusion_matrix(true, predicted, labels=range(4 + seed)))
    assert metrics.wa(matrix) == pytest.approx(theirs.accuracy_score(true, predicted), abs=1e-12)
    assert metrics.ua(matrix) == pytest.approx(theirs.recall_score(
        true, predicted, average="macro", labels=np.unique(true)), abs=1e-12)
    assert metrics.macro_f1(matrix) == pytest.approx(theirs.f1_score(
        true, predicted, average="macro", zero_division=0), abs=1e-12)
    rare = np.where(predicted == 3, 0, predicted)                               # a class that is never predicted
    assert metrics.macro_f1(metrics.confusion(true, rare, 4 + seed)) == pytest.approx(theirs.f1_score(
        true, rare, average="macro", zero_division=0), abs=1e-12)
    some = np.unique(true)[:-1]                                                 # without the last: it is predicted
    chosen = np.isin(true, some)
    assert metrics.macro_f1(metrics.confusion(true[chosen], predicted[chosen], 4 + seed)) == pytest.approx(
        theirs.f1_score(true[chosen], predicted[chosen], average="macro", labels=some, zero_division=0), abs=1e-12)


@pytest.mark.parametrize("seed, levels", [(0, 3), (1, 10), (2, 10_000)])
def test_roc_auc_is_the_share_of_pairs_in_order(seed, levels):
    """Every positive against every negative, ties one half; few levels make many ties."""
    generator = np.random.default_rng(seed)
    positive = generator.random(200) < 0.3
    scores = generator.integers(levels, size=200) + positive * levels // 4
    pairs = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    assert metrics.roc_auc(scores, positive) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert metrics.roc_auc(-scores, positive) == pytest.approx(1 - np.mean(pairs), abs=1e-12)
    theirs = pytest.importorskip("sklearn.metrics", reason="scikit-learn, of the extra [oracle], is not installed")
    assert metrics.roc_auc(scores, positive) == pytest.approx(theirs.roc_auc_score(positive, scores), abs=1e-12)


def test_roc_auc_at_its_ends_and_without_one_kind():
    assert metrics.roc_auc([1, 2, 3, 4], [False, False, True, True]) == 1.0
    assert metrics.roc_auc([1, 1, 1, 1], [False, False, True, True]) == 0.5
    assert metrics.roc_auc([-np.inf, np.inf], [True, False]) == 0.0
    for positive in ([True, True], [False, False]):
        with pytest.raises(ValueError, match="positives and negatives"):
            metrics.roc_auc([1, 2], positive)
    with pytest.raises(ValueError, match="equally long"):
        metrics.roc_auc([1, 2, 3], [True, False])
    with pytest.raises(ValueError, match="score 1 is nan"):
        metrics.roc_auc([1, np.nan], [True, False])


def drawn_confidences(size: int, seed: int, digits: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Confidences above 1/4, with `digits` 1 many of them equal, and whether the answer is right, less often."""
    generator = np.random.default_rng(seed)
    confidence = np.round(0.25 + 0.75 * generator.random(size) ** 0.5, digits)
    return confidence, generator.random(size) < confidence ** 2


@pytest.mark.parametrize("size, num_bins, seed", [(1, 15, 0), (7, 15, 1), (200, 15, 2), (999, 10, 3)])
def test_calibration_errors_by_their_definition(size, num_bins, seed):
    """Bins (i / B, (i + 1) / B], and sorted answers in pieces: each by a loop over bins, in exact fractions."""
    confidence, right = drawn_confidences(size, seed)
    answers = sorted((Fraction(p), int(one)) for p, one in zip(confidence, right))
    total = Fraction(0)
    for i in range(num_bins):
        own = [(p, one) for p, one in answers if Fraction(i, num_bins) < p <= Fraction(i + 1, num_bins)]
        total += abs(sum(p - one for p, one in own))
    assert metrics.calibration_error(confidence, right, num_bins) == pytest.approx(float(total / size), abs=1e-12)

    sizes = [size // num_bins + (i < size % num_bins) for i in range(num_bins)]
    total, left = Fraction(0), list(answers)
    for number in sizes:
        total += abs(sum(p - one for p, one in left[:number]))
        left = left[number:]
    adaptive = metrics.calibration_error(confidence, right, num_bins, equal_mass=True)
    assert adaptive == pytest.approx(float(total / size), abs=1e-12)


def test_calibration_error_by_hand():
    """0.9 right twice of two and 0.6 once of two: differences 0.1 and 0.1; at an edge of bins the lower one counts."""
    assert metrics.calibration_error([0.9, 0.9, 0.6, 0.6], [1, 1, 1, 0]) == pytest.approx(0.1)
    assert metrics.bin_numbers([0.0, 0.2, 0.21, 0.4, 1.0], 5).tolist() == [0, 0, 1, 1, 4]
    assert metrics.bin_numbers([0.5, 0.1, 0.4, 0.3], 2, equal_mass=True).tolist() == [1, 0, 1, 0]
    with pytest.raises(ValueError, match="0..1"):
        metrics.bin_numbers([0.5, np.nan])
    with pytest.raises(ValueError, match="one or more answers"):
        metrics.calibration_error([], [])


@pytest.mark.parametrize("equal_mass", [False, True])
def test_equal_confidences_have_no_order(equal_mass):
    """Whatever order the utterances come in: errors and risks are the same."""
    confidence, right = drawn_confidences(300, 5, digits=1)
    order = np.random.default_rng(1).permutation(300)
    assert metrics.calibration_error(confidence, right, 15, equal_mass) == pytest.approx(
        metrics.calibration_error(confidence[order], right[order], 15, equal_mass), abs=1e-12)
    np.testing.assert_allclose(metrics.risks(confidence, right), metrics.risks(confidence[order], right[order]))


def test_noise_is_what_a_binomial_share_is_off_by():
    """100 answers of confidence 0.5 in one bin: the mean absolute deviation of a binomial share, and its quantile."""
    weights = np.array([math.comb(100, k) for k in range(101)]) / 2 ** 100
    apart = np.abs(np.arange(101) / 100 - 0.5)
    mean, high = metrics.calibration_noise(np.full(100, 0.5))
    assert mean == pytest.approx((weights * apart).sum(), rel=0.06)
    assert high == pytest.approx(0.10, abs=0.01)
    assert (mean, high) == metrics.calibration_noise(np.full(100, 0.5))         # the same draws
    assert metrics.calibration_noise([1.0] * 9) == (0.0, 0.0)


def test_about_one_calibrated_recogniser_in_twenty_is_above_the_noise_and_an_overconfident_one_always():
    generator, above = np.random.default_rng(3), 0
    for _ in range(40):
        confidence = 0.4 + 0.6 * generator.random(300)
        right = generator.random(300) < confidence
        above += metrics.calibration_error(confidence, right) > metrics.calibration_noise(confidence)[1]
    assert above <= 5                                                           # 2 are expected
    surer = confidence ** 0.3
    assert metrics.calibration_error(surer, right) > 1.5 * metrics.calibration_noise(surer)[1]


def test_reliability_and_brier_are_scikit_learns():
    pytest.importorskip("sklearn.metrics", reason="scikit-learn, of the extra [oracle], is not installed")
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss
    confidence, right = drawn_confidences(400, 8)
    share, mean = calibration_curve(right, confidence, n_bins=15)
    found = metrics.reliability(confidence, right)
    assert sum(number for number, _, _ in found) == 400
    np.testing.assert_allclose([one[1:] for one in found], np.stack([mean, share], 1), atol=1e-12)
    both = np.stack([1 - confidence, confidence], 1)
    assert metrics.brier(both, right.astype(int)) == pytest.approx(2 * brier_score_loss(right, confidence))


def test_risks_by_counting():
    confidence, right = drawn_confidences(60, 9)
    ranked = [one for _, one in sorted(zip(confidence, right), reverse=True)]
    counted = [ranked[:k].count(False) / k for k in range(1, 61)]
    np.testing.assert_allclose(metrics.risks(confidence, right), counted, atol=1e-12)
    assert metrics.risks([0.9, 0.5, 0.5], [1, 0, 1]).tolist() == pytest.approx([0, 1 / 4, 1 / 3])   # either order


def test_calibration_of_predictions():
    """Everything of one table, plain numbers; the confidence is that of the predicted class, whichever it is."""
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(4), 50)
    true, predicted = generator.integers(4, size=50), probabilities.argmax(1)
    found = metrics.calibration(probabilities, true, predicted)
    confidence, right = probabilities.max(1), true == predicted
    assert found["ece"] == metrics.calibration_error(confidence, right)
    assert found["adaptive_ece"] == metrics.calibration_error(confidence, right, equal_mass=True)
    assert found["ece_if_calibrated"] == list(metrics.calibration_noise(confidence))
    assert found["aurc"] == pytest.approx(metrics.risks(confidence, right).mean())
    assert found["risks"][-1] == pytest.approx((~right).mean()) and len(found["risks"]) == 20
    assert found["risks"][0] == pytest.approx(metrics.risks(confidence, right)[2])      # 5 % of 50: three
    assert found["brier"] == pytest.approx(sum(
        sum((p - (c == t)) ** 2 for c, p in enumerate(row)) for row, t in zip(probabilities, true)) / 50)
    json.dumps(found)


def test_entropy_and_perplexity():
    assert metrics.perplexity([5] * 8) == pytest.approx(8) and metrics.perplexity([3, 0, 0]) == 1
    assert metrics.entropy([1, 3]) == pytest.approx(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)))
    assert metrics.entropy([]) == metrics.entropy([0, 0]) == 0


def test_nmi_by_its_definition():
    """Sum over pairs of p(a, b) log p(a, b) / (p(a) p(b)), over the mean entropy."""
    generator = np.random.default_rng(0)
    a = generator.integers(5, size=400)
    b = np.where(generator.random(400) < 0.5, a * 7 - 3, generator.integers(-4, 40, size=400))
    information = sum(np.mean((a == x) & (b == y)) * np.log(np.mean((a == x) & (b == y)) / np.mean(a == x)
                                                            / np.mean(b == y))
                      for x in set(a) for y in set(b) if ((a == x) & (b == y)).any())
    entropies = [-sum(np.mean(z == v) * np.log(np.mean(z == v)) for v in set(z)) for z in (a, b)]
    assert metrics.nmi(a, b) == pytest.approx(information / np.mean(entropies), abs=1e-12)
    assert metrics.nmi(b, a) == pytest.approx(metrics.nmi(a, b), abs=1e-12)
    assert metrics.nmi(a, a * 3 + 1) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("a, b", [
    ([0, 0, 1, 1], [1, 1, 0, 0]), ([0, 0, 0], [2, 2, 2]), ([0, 1, 2], [0, 0, 0]), ([0, 1, 0, 1], [0, 0, 1, 1]),
    ([3, 3, -1, 9, 9], [1, 2, 2, 1, 1]), ([], []), (list(range(50)), list(range(50))),
])
def test_nmi_is_scikit_learns(a, b):
    theirs = pytest.importorskip("sklearn.metrics", reason="scikit-learn, of the extra [oracle], is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")             # it warns of labels that look like numbers
        assert metrics.nmi(a, b) == pytest.approx(theirs.normalized_mutual_info_score(a, b), abs=1e-12)


def jackknife(values: list[float]) -> float:
    """Standard error by leaving one group out at a time, written out."""
    mean = sum(values) / len(values)
    return math.sqrt((len(values) - 1) / len(values) * sum((value - mean) ** 2 for value in values))


@pytest.mark.parametrize("degrees", [1, 1.3, 2, 2.7, 4, 9, 29, 200.5, 5530])
def test_students_distribution_is_scipys(degrees):
    stats = pytest.importorskip("scipy.stats", reason="scipy, of the extra [oracle], is not installed")
    assert metrics.t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)
    for t in (0.0, 0.3, 2.0, 9.0, 80.0):
        assert metrics.t_share_within(t, degrees) == pytest.approx(1 - 2 * stats.t.sf(t, degrees), abs=1e-8)


def test_students_distribution_by_table():
    """Two-sided 5 % points as every table prints them."""
    found = [metrics.t_quantile(degrees) for degrees in (1, 2, 4, 9, 29)]
    assert found == pytest.approx([12.706, 4.303, 2.776, 2.262, 2.045], abs=5e-4)


def test_intervals_are_those_of_a_plain_jackknife():
    """Each of seven groups left out, the measures taken of the others' utterances written out."""
    true, predicted = drawn(80, 4, 1)
    groups = np.random.default_rng(2).choice(["d1", "d2", "d3", "d4", "d5", "d6", "d7"], 80)
    found = metrics.intervals(true, predicted, groups, 4)
    for name, measure in metrics.MEASURES.items():
        value = measure(metrics.confusion(true, predicted, 4))
        others = [measure(metrics.confusion(true[groups != one], predicted[groups != one], 4)) for one in set(groups)]
        half = 2.4469118511449692 * jackknife(others)                           # t of 6 degrees of freedom
        assert found[name] == pytest.approx((max(0, value - half), min(1, value + half)), abs=1e-9)
    assert found == metrics.intervals(true, predicted, groups, 4)
    json.dumps(found)


def test_two_groups_give_the_interval_of_two_numbers():
    """Equally large speakers of 60 and 70 %: 65 +- 12.7 times half their difference."""
    true, groups = np.zeros(200, int), np.repeat([0, 1], 100)
    predicted = np.where(np.arange(200) % 100 < np.where(groups == 0, 60, 70), 0, 1)
    assert metrics.intervals(true, predicted, groups, 2)["wa"] == pytest.approx((0.65 - 12.7062 * 0.05, 1.0), abs=1e-4)
    found = metrics.paired_difference(true, true + 1, predicted, groups, 2)["wa"]
    assert found["difference"] == pytest.approx(0.65) and found["p"] is None
    assert found["interval"] == pytest.approx((0.65 - 12.7062 * 0.05, 0.65 + 12.7062 * 0.05), abs=1e-4)


def test_intervals_know_that_a_group_hangs_together():
    """Ten speakers, all or nothing right: new speakers are far less sure than 1,000 utterances alone would be."""
    true = np.zeros(1000, int)
    speaker = np.repeat(np.arange(10), 100)
    predicted = np.where(speaker < 7, 0, 1)
    low, high = metrics.intervals(true, predicted, speaker, 2)["wa"]
    alone_low, alone_high = metrics.intervals(true, predicted, np.arange(1000), 2)["wa"]
    assert low < alone_low < 0.7 < alone_high < high and high - low > 5 * (alone_high - alone_low)
    assert alone_high - alone_low == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / 1000), rel=0.15)


def test_where_there_is_no_interval():
    """One group, groups that do not differ, a class in one group only (WA does not mind); nothing is nan."""
    none = {"wa": None, "ua": None, "macro_f1": None}
    true, groups = np.array([0, 0, 0, 0, 1]), np.array([0, 1, 2, 3, 4])
    found = metrics.intervals(true, np.zeros(5, int), groups, 2)
    assert found["ua"] is found["macro_f1"] is None and found["wa"][0] < 0.8 < found["wa"][1]
    assert metrics.intervals(true, np.zeros(5, int), ["one"] * 5, 2) == none
    assert metrics.intervals(true, np.stack([true, 1 - true]), ["one"] * 5, 2) == none
    assert metrics.intervals([0, 1, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1], 2) == none
    same = metrics.paired_difference(*np.tile([0, 1, 1, 0], (3, 1)), range(4), 2)
    assert same["wa"] == {"difference": 0, "interval": None, "p": None}
    with pytest.raises(ValueError, match="needs utterances"):
        metrics.intervals([], [], [], 2)
    with pytest.raises(ValueError, match="a group for each, got 5 and 4"):
        metrics.intervals(true, true, groups[:4], 2)


def test_p_needs_ten_groups():
    true, first = drawn(300, 3, 1)
    second = np.where(np.random.default_rng(0).random(300) < 0.3, true, first)
    for num_groups in (2, 5, 9, 10, 30):
        found = metrics.paired_difference(true, first, second, np.arange(300) % num_groups, 3)
        assert all((one["p"] is None) == (num_groups < 10) for one in found.values())


def test_paired_differences_are_those_of_a_plain_jackknife():
    """Twelve groups; p by the same t as the interval: 0.05 where 0 is an end of it."""
    true, first = drawn(400, 4, 1)
    second = np.where(np.random.default_rng(9).random(400) < 0.1, true, first)
    groups = np.random.default_rng(2).integers(12, size=400)
    found = metrics.paired_difference(true, first, second, groups, 4)
    for name, measure in metrics.MEASURES.items():
        of = lambda side, chosen: measure(metrics.confusion(true[chosen], side[chosen], 4))
        change = lambda chosen: of(second, chosen) - of(first, chosen)
        error, value = jackknife([change(groups != one) for one in range(12)]), change(groups >= 0)
        assert found[name]["difference"] == pytest.approx(value)
        half = metrics.t_quantile(11) * error
        assert found[name]["interval"] == pytest.approx((value - half, value + half), abs=1e-9)
        assert found[name]["p"] == pytest.approx(1 - metrics.t_share_within(value / error, 11), abs=1e-12)
    assert metrics.t_share_within(metrics.t_quantile(11), 11) == pytest.approx(0.95)


def test_variances_of_groups_and_runs_are_those_of_a_two_way_analysis():
    """WA of equally large speakers is linear, so the analysis of variance of the table (runs, speakers) is exact."""
    generator = np.random.default_rng(3)
    num_runs, num_groups, size = 4, 6, 50
    right = generator.integers(20, 45, size=(num_runs, num_groups)) - 3 * np.arange(num_runs)[:, None]
    groups, order = np.repeat(np.arange(num_groups), size), np.tile(np.arange(size), num_groups)
    predicted = np.stack([np.where(order < right[run][groups], 0, 1) for run in range(num_runs)])
    cells = right / size
    rows, columns, mean = cells.mean(1), cells.mean(0), cells.mean()
    rest = cells - rows[:, None] - columns + mean
    of_groups = columns.var(ddof=1) / num_groups
    of_rest = (rest ** 2).sum() / (num_runs - 1) / (num_groups - 1) / (num_runs * num_groups)
    of_runs = max(0, rows.var(ddof=1) / num_runs - of_rest)
    freedom = (of_groups + of_runs) ** 2 / (of_groups ** 2 / (num_groups - 1) + of_runs ** 2 / (num_runs - 1))
    half = metrics.t_quantile(freedom) * math.sqrt(of_groups + of_runs)
    low, high = metrics.intervals(np.zeros_like(groups), predicted, groups, 2)["wa"]
    assert of_runs > 0 and (low, high) == pytest.approx((mean - half, mean + half), abs=1e-12)


def test_pairing_sees_what_two_intervals_do_not():
    """Every ninth mistake mended, whatever the speaker: sure, though both intervals are wide; nothing is nothing."""
    generator = np.random.default_rng(0)
    true, groups = generator.integers(4, size=400), np.repeat(np.arange(20), 20)
    hard = generator.random(20)[groups] * 0.8
    before = np.where(generator.random(400) < hard, (true + 1) % 4, true)
    after = np.where((before != true) & (np.arange(400) % 9 == 0), true, before)
    low, high = metrics.intervals(true, before, groups, 4)["wa"]
    found = metrics.paired_difference(true, before, after, groups, 4)["wa"]
    assert found["interval"][0] > 0 and found["p"] <= 0.002
    assert low < metrics.wa(metrics.confusion(true, after, 4)) < high


FREQUENCY = np.array([0.35, 0.3, 0.2, 0.15])        # of the classes, in every speaker
EASE = np.array([0.6, 0.3, 0.7, 0.1])               # of the classes; the second system is better by GAIN
GAIN = 0.2
# Standard deviations of what an utterance's recognition is the sum of, beside noise of 1.
EFFECTS = {"speaker": 0.35, "class of a speaker": 0.3, "system on a speaker": 0.15, "class of a run": 0.1,
           "run on a speaker": 0.15, "utterance": 0.8}


def simulated(generator: np.random.Generator, num_groups: int, num_runs: int, effects: dict[str, float]
              ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Classes and speakers (U,) of a test, and what the runs of two systems predict, (R, U) each.

    An utterance is recognised where a sum of Gaussian effects is above 0; speakers have 12 to 60 utterances.
    """
    normal, sd = generator.normal, effects
    groups = np.repeat(np.arange(num_groups), generator.integers(12, 61, num_groups))
    size = len(groups)
    true = generator.choice(4, size, p=FREQUENCY)
    shared = EASE[true] + sd["speaker"] * normal(size=num_groups)[groups] + sd["utterance"] * normal(size=size)
    shared += sd["class of a speaker"] * normal(size=(num_groups, 4))[groups, true]
    systems = []
    for gain in (0, GAIN):
        own = shared + gain + sd["system on a speaker"] * normal(size=num_groups)[groups]
        runs = [own + sd["class of a run"] * normal(size=4)[true] + normal(size=size)
                + sd["run on a speaker"] * normal(size=num_groups)[groups] for _ in range(num_runs)]
        systems.append(np.stack([np.where(run > 0, true, (true + generator.integers(1, 4, size)) % 4)
                                 for run in runs]))
    return true, groups, systems


def expected(effects: dict[str, float]) -> dict[str, np.ndarray]:
    """WA and UA of the two systems over all speakers and runs there could be: the sums are Gaussian."""
    deviation = math.sqrt(1 + sum(sd ** 2 for sd in effects.values()))
    shares = np.array([[(1 + math.erf((ease + gain) / deviation / math.sqrt(2))) / 2 for ease in EASE]
                       for gain in (0, GAIN)])
    return {"wa": shares @ FREQUENCY, "ua": shares.mean(1)}


@pytest.mark.parametrize("num_runs", [1, 2, 4])
@pytest.mark.parametrize("num_groups", [2, 5, 10, 30])
def test_nominal_95_percent_are_90_to_98(num_groups, num_runs):
    """Coverage by simulation, of one system and of the difference of two, of WA and of UA.

    Assumed: speakers are independent, of 12 to 60 utterances and alike in their classes; between speakers WA differs by
    about 14 points (standard deviation), between seeds by 2. One run: it is the same for all speakers that could be
    drawn, so that runs have no effect of their own. The limits of each number allow for the simulation's
    600 draws (a standard error of 0.6 points at 98 %, 1.2 at 90 %); the mean over all is held to 90 to 98 % itself.
    """
    effects = EFFECTS | ({"class of a run": 0.0} if num_runs == 1 else {})
    truth, generator, is_inside = expected(effects), np.random.default_rng(num_groups + 100 * num_runs), {}
    for _ in range(600):
        true, groups, systems = simulated(generator, num_groups, num_runs, effects)
        alone = metrics.intervals(true, systems[0], groups, 4)
        difference = metrics.paired_difference(true, *systems, groups, 4)
        for name, (first, second) in truth.items():
            for what, ends, value in ((name, alone[name], first),
                                      (f"{name} difference", difference[name]["interval"], second - first)):
                if ends is not None:
                    is_inside.setdefault(what, []).append(ends[0] <= value <= ends[1])
    coverage = {what: np.mean(inside) for what, inside in is_inside.items()}
    assert len(coverage) == 4 and all(len(inside) > 400 for inside in is_inside.values())
    assert all(0.9 - 0.025 <= share <= 0.98 + 0.012 for share in coverage.values()), coverage
    assert 0.9 <= np.mean(list(coverage.values())) <= 0.98, coverage
