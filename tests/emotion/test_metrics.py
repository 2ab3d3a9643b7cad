"""Measures against counting by hand, and against scikit-learn where it is installed."""
import itertools
import json
import warnings

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
    """UA is over the classes there are; F1 leaves out a class neither true nor predicted, not a predicted one."""
    absent = metrics.confusion([0, 0, 1], [0, 1, 1], 3)
    assert np.isnan(metrics.recalls(absent)).tolist() == [False, False, True]
    assert metrics.ua(absent) == pytest.approx(0.75) and metrics.macro_f1(absent) == pytest.approx(2 / 3)
    predicted = metrics.confusion([0, 0, 1], [0, 2, 1], 3)
    assert metrics.ua(predicted) == pytest.approx(0.75) and metrics.macro_f1(predicted) == pytest.approx(5 / 9)
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


def test_intervals_are_those_of_a_plain_bootstrap():
    """The same draws of groups, each utterance list written out, the measures taken from it."""
    true, predicted = drawn(80, 4, 1)
    groups = np.random.default_rng(2).choice(["d1", "d2", "d3", "d4", "d5", "d6", "d7"], 80)
    found = metrics.bootstrap_interval(true, predicted, groups, 4, draws=200, seed=5, level=0.9)
    names, generator, values = np.unique(groups), np.random.default_rng(5), []
    for _ in range(200):
        chosen = np.concatenate([np.flatnonzero(groups == names[i]) for i in generator.integers(7, size=7)])
        matrix = metrics.confusion(true[chosen], predicted[chosen], 4)
        values.append([metrics.wa(matrix), metrics.ua(matrix), metrics.macro_f1(matrix)])
    for column, name in enumerate(("wa", "ua", "macro_f1")):
        assert found[name] == pytest.approx(tuple(np.percentile(np.array(values)[:, column], [5, 95])), abs=1e-12)
    assert found == metrics.bootstrap_interval(true, predicted, groups, 4, draws=200, seed=5, level=0.9)
    json.dumps(found)


def test_intervals_know_that_a_group_hangs_together():
    """Ten speakers, all or nothing right: drawing speakers is far less sure than drawing 1,000 utterances alone."""
    true = np.zeros(1000, int)
    speaker = np.repeat(np.arange(10), 100)
    predicted = np.where(speaker < 7, 0, 1)
    low, high = metrics.bootstrap_interval(true, predicted, speaker, 2)["wa"]
    alone_low, alone_high = metrics.bootstrap_interval(true, predicted, np.arange(1000), 2)["wa"]
    assert low < alone_low < 0.7 < alone_high < high and high - low > 5 * (alone_high - alone_low)
    assert alone_high - alone_low == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / 1000), rel=0.15)


def test_intervals_with_a_class_in_one_group_only():
    """Draws without that group have no such class; UA is then of the others and no interval is nan."""
    true, groups = np.array([0, 0, 0, 0, 1]), np.array([0, 1, 2, 3, 4])
    found = metrics.bootstrap_interval(true, np.zeros(5, int), groups, 2)
    assert found["ua"] == (0.5, 1.0) and not np.isnan(list(found.values())).any()
    assert metrics.bootstrap_interval(true, true, ["one"] * 5, 2)["wa"] == (1.0, 1.0)
    with pytest.raises(ValueError, match="needs utterances"):
        metrics.bootstrap_interval([], [], [], 2)
    with pytest.raises(ValueError, match="a group for each, got 5 and 4"):
        metrics.bootstrap_interval(true, true, groups[:4], 2)


def test_paired_differences_are_those_of_a_plain_bootstrap():
    """Two against three runs: in each draw every run's measure of the same utterances, averaged, then subtracted."""
    true = drawn(90, 4, 1)[0]
    first, second = (np.stack([drawn(90, 4, seed)[1] for seed in seeds]) for seeds in ((2, 3), (4, 5, 6)))
    second = np.where(np.random.default_rng(9).random(90) < 0.3, true, second)
    groups = np.random.default_rng(2).choice(list("abcdefgh"), 90)
    found = metrics.paired_difference(true, first, second, groups, 4, draws=300, seed=5, level=0.9)
    names, generator = np.unique(groups), np.random.default_rng(5)
    mean = lambda side, chosen, measure: np.mean([measure(metrics.confusion(true[chosen], one[chosen], 4))
                                                  for one in side])
    values, whole = {name: [] for name in found}, np.arange(90)
    for _ in range(300):
        chosen = np.concatenate([np.flatnonzero(groups == names[i]) for i in generator.integers(8, size=8)])
        for name, measure in metrics.MEASURES.items():
            values[name].append(mean(second, chosen, measure) - mean(first, chosen, measure))
    for name, measure in metrics.MEASURES.items():
        one, change = found[name], np.array(values[name])
        assert one["difference"] == pytest.approx(mean(second, whole, measure) - mean(first, whole, measure))
        assert one["interval"] == pytest.approx(tuple(np.percentile(change, [5, 95])), abs=1e-12)
        p = 2 * min(np.mean(change <= 0), np.mean(change >= 0))
        assert one["p"] == pytest.approx(min(1, max(p, 1 / 300)))


def test_pairing_sees_what_two_intervals_do_not():
    """Every ninth mistake mended, whatever the dialogue: sure, though both intervals are wide; nothing is nothing."""
    generator = np.random.default_rng(0)
    true, groups = generator.integers(4, size=400), np.repeat(np.arange(20), 20)
    hard = generator.random(20)[groups] * 0.8
    before = np.where(generator.random(400) < hard, (true + 1) % 4, true)
    after = np.where((before != true) & (np.arange(400) % 9 == 0), true, before)
    low, high = metrics.bootstrap_interval(true, before, groups, 4)["wa"]
    found = metrics.paired_difference(true, before, after, groups, 4)["wa"]
    assert found["interval"][0] > 0 and found["p"] <= 0.002
    assert low < metrics.wa(metrics.confusion(true, after, 4)) < high
    same = metrics.paired_difference(true, before, before, groups, 4)["ua"]
    assert same["difference"] == 0 and same["interval"] == (0, 0) and same["p"] == 1
