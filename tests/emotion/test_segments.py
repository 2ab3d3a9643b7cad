"""Segments: the best of all namings of the frames, found by trying all; and what a segment promises."""
import itertools
from dataclasses import replace

import numpy as np
import pytest
from recognised_noise import recognised

from framealign.emotion.recogniser import Result
from framealign.emotion.segments import UNDECIDED, Segment, SegmentsSoFar, runs, segments, smoothed

LABELS = ["neutral", "happy", "angry", "sad"]


def value(posterior: np.ndarray, path, cost: float) -> float:
    return sum(posterior[t, c] for t, c in enumerate(path)) - cost * sum(a != b for a, b in itertools.pairwise(path))


def test_no_other_naming_collects_more():
    draw = np.random.default_rng(0)
    for _ in range(150):
        T, C, cost = int(draw.integers(1, 7)), int(draw.integers(1, 4)), float(draw.choice([0, 0.1, 0.4, 1, 3]))
        posterior = draw.dirichlet(np.full(C, 0.4), size=T)
        best = max(value(posterior, path, cost) for path in itertools.product(range(C), repeat=T))
        found = smoothed(posterior, cost)
        assert found.shape == (T,) and value(posterior, found, cost) == pytest.approx(best, abs=1e-12)


def test_without_cost_each_frame_stands_for_itself():
    posterior = np.random.default_rng(1).dirichlet(np.ones(4), size=500)
    assert smoothed(posterior, 0).tolist() == posterior.argmax(1).tolist()


def result(posterior: np.ndarray, seconds: float = 0.0) -> Result:
    attention = np.random.default_rng(2).dirichlet(np.ones(len(posterior)))
    return Result("sad", dict.fromkeys(LABELS, 0.25), posterior, attention, None, seconds)


def test_what_is_no_speech_has_no_emotion_and_speech_is_labelled_by_itself():
    """Each stretch of speech as if it were alone: what lies between has no say."""
    posterior = np.random.default_rng(5).dirichlet(np.full(4, 0.3), size=300)
    kinds = np.repeat([1, 0, 2, 3, 0], [20, 100, 60, 20, 100]).astype(np.uint8)
    gated = replace(result(posterior, 6.02), kinds=kinds)
    parts = segments(gated, 0.1)
    gaps = [one for one in parts if one.emotion == "none"]
    assert [(one.start, one.end, one.reason, one.confidence) for one in gaps] == [
        (0, 0.4, "silence", 0), (2.4, 3.6, "noise", 0), (3.6, 4.0, "music or tones", 0)]
    assert all(before.end == after.start for before, after in itertools.pairwise(parts)) and parts[-1].end == 6.02
    assert sum(one.attention for one in parts) == pytest.approx(1)
    for first, end, shift in ((20, 120, 0.4), (200, 300, 4.0)):
        alone = segments(result(posterior[first:end]), 0.1)
        inside = [one for one in parts if shift <= one.start < end / 50 and one.emotion != "none"]
        assert [one.emotion for one in inside] == [one.emotion for one in alone]
        assert [one.start - shift for one in inside] == pytest.approx([one.start for one in alone])
        assert [one.confidence for one in inside] == pytest.approx([one.confidence for one in alone])
        assert not any(one.reason for one in inside)
    assert segments(replace(gated, kinds=kinds * 0)) == segments(replace(gated, kinds=None))


@pytest.mark.parametrize("min_seconds", [0, 0.04, 0.25, 1, 100])
def test_segments_cover_the_sound_and_none_is_short(min_seconds):
    draw = np.random.default_rng(3)
    for T in (1, 2, 30, 400):
        posterior = draw.dirichlet(np.full(4, 0.3), size=T)
        posterior = np.repeat(posterior, 7, axis=0)[:T] if T > 30 else posterior
        found = segments(result(posterior, T / 50 + 0.0123), min_seconds)
        assert found[0].start == 0 and found[-1].end == pytest.approx(T / 50 + 0.0123)
        for one, other in itertools.pairwise(found):
            assert one.end == other.start and one.emotion != other.emotion
        assert len(found) == 1 or min(one.end - one.start for one in found) >= min_seconds - 1e-9
        assert sum(one.attention for one in found) == pytest.approx(1)
        for one in found:
            first, end = round(one.start * 50), min(T, round(one.end * 50))
            assert one.confidence == pytest.approx(posterior[first:end, LABELS.index(one.emotion)].mean())


def test_a_change_that_is_there_is_found_to_the_frame():
    """0.8 s of anger in neutral speech, with a flicker of 60 ms elsewhere."""
    posterior = np.tile([0.8, 0.1, 0.05, 0.05], (200, 1))
    posterior[50:90] = posterior[120:123] = [0.05, 0.05, 0.85, 0.05]
    found = segments(result(posterior))
    assert [(one.start, one.end, one.emotion) for one in found] == [
        (0, 1, "neutral"), (1, 1.8, "angry"), (1.8, 4, "neutral")]


def test_runs_of_equal_values():
    assert runs([3, 3, 1, 1, 1, 3]) == [(0, 2, 3), (2, 5, 1), (5, 6, 3)]
    assert runs([7]) == [(0, 1, 7)] and runs([]) == []
    draw = np.random.default_rng(0)
    for size in (1, 2, 50):
        values = draw.integers(0, 3, size)
        assert [(value, stop - start) for start, stop, value in runs(values)] == [
            (value, len(list(group))) for value, group in itertools.groupby(values.tolist())]


@pytest.mark.parametrize("seconds", [-0.1, float("inf"), float("nan")])
def test_an_impossible_length_is_refused(seconds):
    with pytest.raises(ValueError, match="--smooth must be 0 or more seconds"):
        segments(result(np.full((5, 4), 0.25)), seconds)


def by_and_by(result: Result, min_seconds: float) -> tuple[list[Segment], list[int]]:
    """The segments of frames given one by one, and after how many frames each came."""
    so_far, segments_so_far, after = SegmentsSoFar(list(result.probabilities), result.framing.rate, min_seconds), [], []
    kinds = [None] * len(result.attention) if result.kinds is None else result.kinds.tolist()
    for t, (posterior, weight, kind) in enumerate(zip(result.posterior, result.attention, kinds), 1):
        new = so_far.add(posterior, float(weight), kind)
        segments_so_far += new
        after += [t] * len(new)
    last = so_far.end(result.seconds)
    return segments_so_far + last, after + [len(result.attention)] * len(last)


@pytest.mark.parametrize("cost", (0.0, 0.02, 0.1, 0.5))
@pytest.mark.parametrize("gated", (False, True))
def test_segments_of_a_stream_are_those_of_the_whole(cost, gated):
    """Each with its confidence, as soon as nothing that follows can change it; attention is the share so far."""
    draw = np.random.default_rng(0)
    for seed in range(15):
        result = recognised(int(draw.integers(1, 300)), seed=seed)
        T = len(result.attention)
        steady = np.repeat(draw.dirichlet(np.full(4, 0.3), 300), 7, 0)[:T]
        posterior = (0.7 * steady + 0.3 * result.posterior).astype(np.float32)
        kinds = np.repeat(draw.choice(4, 60, p=(0.7, 0.1, 0.1, 0.1)), 11)[:T].astype(np.uint8) if gated else None
        result = replace(result, posterior=posterior, kinds=kinds, seconds=T / 50 + 0.005)
        wanted, (given, after) = segments(result, cost), by_and_by(result, cost)
        assert len(given) == len(wanted)
        for one, other, t in zip(given, wanted, after):
            assert (one.start, one.end, one.emotion, one.reason) == (other.start, other.end, other.emotion,
                                                                     other.reason)
            assert one.confidence == pytest.approx(other.confidence, abs=1e-6)
            assert one.attention == pytest.approx(other.attention / result.attention[:t].sum(), rel=1e-4)


def test_a_segment_is_not_kept_back():
    """Of sure frames a segment comes once the next one has gained what a change there costs, and one back."""
    posterior = np.repeat(np.eye(4)[[0, 2, 1]], 50, 0)
    result = replace(recognised(150), posterior=posterior, seconds=3.0)
    given, after = by_and_by(result, 0.1)
    assert [one.emotion for one in given] == ["neutral", "angry", "happy"]
    assert after == [62, 112, 150]                  # 5 frames for each change; one that gains, and one that shows it


def test_frames_that_say_nothing_do_not_wait_for_ever():
    """All classes equal: without a limit, nothing would ever be certain."""
    so_far = SegmentsSoFar(["neutral", "sad"], 50, 0.1)
    for _ in range(3 * UNDECIDED):
        assert so_far.add(np.array([0.5, 0.5]), 1.0) == []
        assert len(so_far.waiting) <= UNDECIDED and so_far.paths.shape[1] <= UNDECIDED
    last, = so_far.end(60.0)
    assert (last.start, last.end, last.emotion, last.attention) == (0, 60.0, "neutral", 1.0)
    assert SegmentsSoFar(["neutral", "sad"], 50).end(0.0) == []
    with pytest.raises(ValueError, match="--smooth must be 0 or more"):
        SegmentsSoFar(["neutral", "sad"], 50, -1)
