"""Soft labels of frames: coverage where it is known, the two states against all paths, and what stays whole."""
import itertools

import numpy as np
import pytest

from framealign.training.frame_labels import (CHANGES_PER_BLOCK, Spread, block_means, emotional_share, of_blocks,
                                              soft_labels, spread, spreads)


def drawn(rng: np.random.Generator, number: int, coverage: float, gain: float) -> list[np.ndarray]:
    """Utterances of 8 to 25 blocks, of which a share is emotional: `gain` higher."""
    return [rng.standard_normal(n) + gain * (rng.random(n) < coverage) for n in rng.integers(8, 26, number)]


@pytest.mark.parametrize("coverage", (0.2, 0.5, 0.8, 1.0))
@pytest.mark.parametrize("gain", (1.5, 3.0))
def test_the_coverage_is_that_of_the_time(coverage, gain):
    rng = np.random.default_rng(0)
    neutral, emotional = ([blocks - 2 for blocks in drawn(rng, 400, share, gain)] for share in (0.0, coverage))
    found = spread(neutral, emotional)
    assert found.coverage == pytest.approx(coverage, abs=0.05)
    assert found.neutral == pytest.approx(-2, abs=0.05) and found.variance == pytest.approx(1, abs=0.05)
    assert found.emotional == pytest.approx(gain - 2, abs=0.2)


def test_a_spread_without_difference_or_with_too_little_of_it_is_still_one():
    same = [np.zeros(5), np.zeros(1)]
    found = spread(same, same)
    assert found.coverage == 0.05 and found.variance > 0
    assert np.isfinite(emotional_share(np.zeros(4), found)).all()


@pytest.mark.parametrize("seed", range(10))
def test_the_share_is_that_of_all_paths(seed):
    """Every one of 2^n paths of states, by its probability."""
    rng = np.random.default_rng(seed)
    of_emotion = Spread(-1.0, float(rng.uniform(0, 3)), float(rng.uniform(0.3, 2)), float(rng.uniform(0.1, 0.9)))
    blocks, c, q = rng.normal(0, 2, 7), of_emotion.coverage, CHANGES_PER_BLOCK
    change = [[1 - c * q, c * q], [(1 - c) * q, 1 - (1 - c) * q]]
    total, emotional = 0.0, np.zeros(7)
    for path in itertools.product((0, 1), repeat=7):
        p = (1 - c, c)[path[0]]
        for before, after in zip(path, path[1:]):
            p *= change[before][after]
        for state, x in zip(path, blocks):
            mean = (of_emotion.neutral, of_emotion.emotional)[state]
            p *= np.exp(-(x - mean) ** 2 / (2 * of_emotion.variance))
        total, emotional = total + p, emotional + p * np.array(path)
    assert emotional_share(blocks, of_emotion) == pytest.approx(emotional / total, abs=1e-6)


@pytest.mark.parametrize("num_frames", (1, 9, 10, 19, 20, 137))
def test_blocks_and_back(num_frames):
    values = np.arange(num_frames, dtype=float)
    means = block_means(values, 10)
    assert len(means) == max(1, num_frames // 10) and len(of_blocks(means, num_frames)) == num_frames
    assert of_blocks(means, num_frames).mean() == pytest.approx(values.mean())


def test_labels_follow_the_scores():
    """Angry covers half of its utterances' time, sad all of it; neutral frames stay neutral."""
    rng = np.random.default_rng(1)
    scores, labels, truths, errors = [], [], [], []
    for label in (0, 1, 2) * 40:
        T = int(rng.integers(100, 300))
        is_emotional = np.zeros(T, bool)
        if label == 1:
            first = int(rng.integers(0, T // 2))
            is_emotional[first:first + T // 2] = True
        elif label == 2:
            is_emotional[:] = True
        values = rng.normal(-3, 1.5, (T, 3))
        values[is_emotional, label] += 4
        scores.append(values)
        labels.append(label)
        truths.append(is_emotional)
    classes = ["neutral", "angry", "sad"]
    of_emotions = spreads(scores, labels, classes, 0, 10)
    assert {*of_emotions} == {"angry", "sad"}
    assert of_emotions["angry"].coverage == pytest.approx(0.5, abs=0.07) and of_emotions["sad"].coverage > 0.9
    assert {*spreads(scores[:2], labels[:2], classes, 0, 10)} == {"angry"}     # there is nothing sad
    found = soft_labels(scores, labels, classes, 0, of_emotions, 10, 0.8)
    alone, = soft_labels(scores[-2:-1], labels[-2:-1], classes, 0, of_emotions, 10, 0.8)
    assert (alone == found[-2]).all()
    for label, truth, rows in zip(labels, truths, found):
        assert rows.sum(1) == pytest.approx(1) and rows.min() >= 0
        if label == 1:
            assert not rows[:, 2].any() and np.abs(rows[:, 1] - truth).mean() < 0.2
            errors.append(np.abs(rows[:, 1] - truth).mean())
        else:
            assert (rows.argmax(1) == label).all() and (rows.max(1) == 1).all()
    assert np.mean(errors) < 0.06
