"""Temperatures against a search by brute force; what is kept in a directory; the confidence for a rate of errors."""
import json

import numpy as np
import pytest
import torch

from framealign.emotion import calibration
from framealign.emotion.calibration import WEIGHT_OF_ONE, Calibration

LABELS = ["neutral", "happy", "angry", "sad"]


def drawn(size: int, scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of utterances and true classes; the logits that would be calibrated, times `scale`."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(size, 4)) * 2
    shares = calibration.softmax(logits)
    true = np.array([draw.choice(4, p=row) for row in shares])
    return logits * scale, np.eye(4)[true]


def loss(b: float, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """What is minimised, by torch."""
    log_p = torch.log_softmax(torch.from_numpy(b * logits), -1).numpy()
    return float(-(weights * (targets * log_p).sum(1)).sum() + WEIGHT_OF_ONE * (b - np.log(b)))


@pytest.mark.parametrize("size, scale, seed", [(30, 3.0, 0), (200, 0.4, 1), (200, 1.0, 2), (1, 1.0, 3)])
def test_temperature_is_the_best_of_all(size, scale, seed):
    """No inverse temperature of a fine grid has a smaller loss, with soft targets and weights."""
    logits, targets = drawn(size, scale, seed)
    draw = np.random.default_rng(seed)
    targets, weights = 0.8 * targets + 0.2 * draw.dirichlet(np.ones(4), size), draw.random(size)
    found = 1 / calibration.temperature(logits, targets, weights)
    least = loss(found, logits, targets, weights)
    grid = np.linspace(0.05, 5, 4951)
    losses = [loss(b, logits, targets, weights) for b in grid]
    assert least <= min(losses) + 1e-9 and found == pytest.approx(grid[np.argmin(losses)], abs=1.1e-3)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.5])
def test_temperature_of_many_utterances_is_what_was_planted(scale):
    logits, targets = drawn(20_000, scale)
    assert calibration.temperature(logits, targets, np.ones(20_000)) == pytest.approx(scale, rel=0.05)


def test_few_utterances_move_it_little_and_none_not_at_all():
    """That all of a few are right, or wrong, is no reason to be certain; without the first term there is no minimum."""
    logits = np.array([[2.0, 0.0, 0.0, 0.0]] * 8)
    right, wrong = np.eye(4)[np.zeros(8, int)], np.eye(4)[np.ones(8, int)]
    assert 0.6 < calibration.temperature(logits, right, np.ones(8)) < 0.95
    assert 1.3 < calibration.temperature(logits, wrong, np.ones(8)) <= calibration.MOST
    assert calibration.temperature(np.zeros((0, 4)), np.zeros((0, 4)), np.zeros(0)) == pytest.approx(1, abs=1e-12)
    many = np.repeat(logits, 1000, 0)
    assert calibration.temperature(many, np.repeat(wrong, 1000, 0), np.ones(8000)) == pytest.approx(calibration.MOST)
    with pytest.raises(ValueError, match="logits must be finite"):
        calibration.temperature(logits * np.nan, right, np.ones(8))


def test_an_utterance_is_one_observation_and_unknown_frames_are_none():
    """Each frame twice, or frames of no target before and after: the same temperature."""
    logits, targets = drawn(60, 2.0)
    parts = [slice(0, 10), slice(10, 15), slice(15, 60)]
    once = calibration.of_frames([logits[part] for part in parts], [targets[part] for part in parts])
    weights = np.concatenate([np.full(n, 1 / n) for n in (10, 5, 45)])
    assert once == pytest.approx(calibration.temperature(logits, targets, weights))
    twice = calibration.of_frames([np.repeat(logits[part], 2, 0) for part in parts],
                                  [np.repeat(targets[part], 2, 0) for part in parts])
    padded = calibration.of_frames([np.pad(logits[part], ((2, 3), (0, 0)), constant_values=9.0) for part in parts],
                                   [np.pad(targets[part], ((2, 3), (0, 0))) for part in parts])
    assert (twice, padded) == pytest.approx((once, once))


def test_decisions_do_not_change():
    logits, _ = drawn(2000, 1.0)
    for value in (1 / calibration.MOST, 0.4, 3.0, calibration.MOST):
        shares = Calibration(utterances=value).probabilities(logits)
        assert (shares.argmax(1) == logits.argmax(1)).all() and np.allclose(shares.sum(1), 1)
        np.testing.assert_allclose(Calibration(utterances=value).undone(shares), calibration.softmax(logits), atol=1e-9)


def test_reading_gives_back_what_was_written(tmp_path):
    kept = Calibration(0.7, 1.4, "validation: 3 utterances", (0.5, 0.9, 1.0), (False, True, True))
    kept.write(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert Calibration.read(tmp_path) == Calibration.read(tmp_path / "model.safetensors") == kept
    Calibration().write(tmp_path)                   # of other weights, which are not calibrated
    assert not (tmp_path / "calibration.json").exists() and Calibration.read(tmp_path) == Calibration()
    Calibration().write(tmp_path)


@pytest.mark.parametrize("changes, message", [
    ({"utterances": 0}, "utterances must be a temperature from 0.05 to 20, is 0"),
    ({"frames": float("nan")}, "frames must be a temperature"), ({"frames": "2"}, "frames must be a temperature"),
    ({"utterances": True}, "utterances must be a temperature"), ({"fitted_on": 3}, "fitted_on must be text"),
    ({"confidences": [0.5]}, "right as many times"), ({"confidences": [2.0, 0.1], "right": [True, True]}, "in 0..1"),
    ({"confidences": 1.0}, "must have utterances, frames"), ({"other": 1}, "must have utterances, frames"),
    ({"right": [1]}, "true or false")])
def test_what_is_no_calibration_is_refused_by_name(tmp_path, changes, message):
    (tmp_path / "calibration.json").write_text(json.dumps({"utterances": 1.0, "frames": 1.0} | changes))
    with pytest.raises(ValueError, match="calibration.json: ") as refused:
        Calibration.read(tmp_path)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("seed", range(6))
def test_threshold_is_the_least_that_keeps_the_rate(seed):
    """By trying every confidence: wrong answers at most `error` of those given, and at least 1 / error are given."""
    draw = np.random.default_rng(seed)
    confidences = np.round(draw.random(80), 2)
    right = draw.random(80) < 0.4 + 0.6 * confidences
    kept = Calibration(fitted_on="x", confidences=tuple(confidences.tolist()), right=tuple(right.tolist()))
    for error in (0.05, 0.1, 0.2, 0.3, 0.9):
        fitting = []
        for threshold in sorted(set(confidences.tolist())):
            answered = right[confidences >= threshold]
            if (~answered).sum() <= error * len(answered) and len(answered) >= 1 / error:
                fitting.append(threshold)
        if not fitting:
            with pytest.raises(ValueError, match=f"rate of errors of {error:g} is not reached on the 80 validation"):
                kept.threshold(error)
        else:
            assert kept.threshold(error) == (fitting[0] if fitting[0] > confidences.min() else 0.0)


def test_a_rate_that_cannot_be_reached_says_which_can():
    kept = Calibration(fitted_on="x", confidences=(0.9, 0.8, 0.7, 0.6), right=(True, True, True, False))
    with pytest.raises(ValueError, match="not reached on the 4 validation utterances, .* the lowest is 0.25"):
        kept.threshold(0.2)
    assert kept.threshold(0.25) == 0.0 and kept.threshold(0.34) == 0.0
    with pytest.raises(ValueError, match="no answers to validation utterances"):
        Calibration().threshold(0.1)
    for error in (0, 1, -1, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            kept.threshold(error)


@pytest.mark.parametrize("seed", range(3))
def test_what_shifts_all_answers_alike_is_taken_off(seed):
    """Of logits with any shift of classes, and of rows, which say nothing: the same; the mean logits are then equal."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((30, 4)) * 3
    found = calibration.centred(calibration.softmax(logits))
    shift = rng.standard_normal(4) * 2 + rng.standard_normal((30, 1))
    shifted = calibration.centred(calibration.softmax(logits + shift))
    assert np.allclose(shifted, found, atol=1e-9) and np.allclose(found.sum(1), 1)
    inner = logits - logits.mean(1, keepdims=True)
    expected = np.exp(inner - inner.mean(0))
    assert np.allclose(found, expected / expected.sum(1, keepdims=True))
    logs = np.log(found)
    assert np.allclose((logs - logs.mean(1, keepdims=True)).mean(0), 0, atol=1e-9)
    assert np.array_equal(calibration.centred(calibration.softmax(logits / 2)).argmax(1), found.argmax(1))


@pytest.mark.parametrize("number", (1, 3, 40))
def test_of_few_sounds_less_is_taken_off(number):
    """As if so many sounds with equal probabilities stood among them; of one with 8 a ninth of its logits goes."""
    rng = np.random.default_rng(number)
    probabilities = calibration.softmax(rng.standard_normal((number, 4)) * 3)
    found = calibration.centred(probabilities, 8)
    expected = calibration.centred(np.concatenate([probabilities, np.full((8, 4), 0.25)]))[:number]
    assert np.allclose(found, expected)
    if number == 1:
        assert np.allclose(found, calibration.softmax(np.log(probabilities) * 8 / 9))


def test_centring_takes_certain_answers():
    """A probability of 0 is a large, finite logit."""
    found = calibration.centred(np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.4]]))
    assert np.isfinite(found).all() and found.argmax(1).tolist() == [0, 0, 1]
