"""EDER: SpeechBrain's known value, a brute force over milliseconds, its parts, boundaries, and what is refused."""
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from framealign.corpus import frame_truth
from framealign.corpus.frame_truth import Stretch
from framealign.corpus.utterance import Utterance
from framealign.emotion.diarization import boundaries, errors, errors_of, matched, median, of_frames, scores
from framealign.emotion.recogniser import Result

EMOTIONS = ("neutral", "happy", "angry", "sad")


def test_the_known_value_of_speechbrain():
    """Six frames of 0.2 s, n n n a a a, of 1.22 s; angry from 0.39 to 1.10 s."""
    frames = ["neutral"] * 3 + ["angry"] * 3
    found = errors([Stretch(0.39, 1.10, "angry")], of_frames(frames, 5, 1.22), 1.22)
    assert found.rates[0] == pytest.approx(0.2704918032786885, rel=1e-12)
    assert found.missed == pytest.approx(0.21) and found.false_alarm == pytest.approx(0.12) and found.confused == 0


def test_frames_as_stretches():
    """Equal neighbours joined; the last frame repeated once where frames end early; cut at the end of the sound."""
    assert of_frames("aab", 10, 0.3) == [Stretch(0, 0.2, "a"), Stretch(0.2, 0.3, "b")]
    assert of_frames("aab", 10, 0.7) == [Stretch(0, 0.2, "a"), Stretch(0.2, 0.4, "b")]
    assert of_frames("aab", 10, 0.25) == [Stretch(0, 0.2, "a"), Stretch(0.2, 0.25, "b")]
    assert of_frames("ab", 10, 0.05) == [Stretch(0, 0.05, "a")] and of_frames("", 10, 1) == []
    uncovered = errors([], of_frames(["neutral"], 1, 5.0), 5.0)                 # neutral for 2 s, then nothing is said
    assert uncovered.rates == pytest.approx((0.6, 0, 0.6, 0))


def random_stretches(rng: np.random.Generator, milliseconds: int, is_whole: bool) -> list[Stretch]:
    """Stretches of drawn emotions on whole milliseconds, in drawn order; is_whole: without gaps, neutral included."""
    edges = sorted({0, milliseconds, *rng.integers(1, milliseconds, rng.integers(0, 8)).tolist()})
    pairs = list(itertools.pairwise(edges))
    chosen = [Stretch(a / 1000, b / 1000, str(rng.choice(EMOTIONS[0 if is_whole else 1:]))) for a, b in pairs
              if is_whole or rng.random() < 0.5]
    return [chosen[i] for i in rng.permutation(len(chosen))]


@pytest.mark.parametrize("seed", range(40))
def test_errors_are_those_of_every_millisecond(seed):
    rng = np.random.default_rng(seed)
    milliseconds = int(rng.integers(50, 4000))
    truth, found = random_stretches(rng, milliseconds, False), random_stretches(rng, milliseconds, seed % 2 == 0)
    counts = dict.fromkeys(("false_alarm", "missed", "confused"), 0)
    for ms in range(milliseconds):
        true, said = ([s.emotion for s in stretches if s.start * 1000 - 0.5 < ms < s.end * 1000 - 0.5]
                      for stretches in (truth, found))
        true, said = (true or ["neutral"])[0], (said or [""])[0]
        if said != true:
            kind = "false_alarm" if true == "neutral" and said else "missed" if said in ("", "neutral") else "confused"
            counts[kind] += 1
    result = errors(truth, found, milliseconds / 1000)
    for kind, count in counts.items():
        assert getattr(result, kind) == pytest.approx(count / 1000, abs=1e-9), kind
    assert result.rates[0] == pytest.approx(sum(counts.values()) / milliseconds, abs=1e-9)
    assert result.rates[0] == pytest.approx(sum(result.rates[1:]), abs=1e-12)


def test_always_neutral_and_one_emotion_everywhere():
    truth = [Stretch(1.0, 2.5, "sad")]
    assert errors(truth, [Stretch(0, 4, "neutral")], 4).rates == pytest.approx((0.375, 0, 0.375, 0))
    assert errors(truth, [Stretch(0, 4, "sad")], 4).rates == pytest.approx((0.625, 0.625, 0, 0))
    assert errors(truth, [Stretch(0, 4, "happy")], 4).rates == pytest.approx((1.0, 0.625, 0, 0.375))
    assert errors(truth, truth, 4).rates[0] == pytest.approx(0.625)             # of what is not said, all is wrong
    assert errors([], [Stretch(0, 4, "neutral")], 4).rates == (0, 0, 0, 0)


def test_a_truth_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="the truth says both angry and sad at 0.9 s"):
        errors([Stretch(0.9, 2, "sad"), Stretch(0, 1, "angry")], [], 2)
    with pytest.raises(ValueError, match="must last longer than 0 s, got 0"):
        errors([], [], 0)


def test_boundaries_are_where_the_emotion_changes():
    stretches = [Stretch(2.0, 3.0, "sad"), Stretch(0.0, 1.0, "happy"), Stretch(3.0, 3.5, "sad"), Stretch(5, 6, "angry")]
    assert boundaries(stretches, 6.0) == [1.0, 2.0, 3.5, 5.0]
    assert boundaries([], 3.0) == [] and boundaries([Stretch(0, 1, "neutral")], 3.0) == []


@pytest.mark.parametrize("seed", range(30))
def test_as_many_boundaries_are_matched_as_can_be(seed):
    """Against every way to pair them."""
    rng = np.random.default_rng(seed)
    true, found = (sorted(rng.uniform(0, 1.5, rng.integers(0, 5)).tolist()) for _ in range(2))
    best = 0
    for size in range(min(len(true), len(found)) + 1):
        for mine in itertools.combinations(true, size):
            for theirs in itertools.permutations(found, size):
                if all(abs(a - b) <= 0.2 for a, b in zip(mine, theirs)):
                    best = size
    assert matched(true, found) == best


# Recognised utterances

def recognised(rng: np.random.Generator, folder: Path, number: int) -> tuple[Utterance, Result, np.ndarray, int]:
    """A drawn utterance with its truth beside it, a drawn result, the true class of each frame, and its own class."""
    T, own = int(rng.integers(20, 120)), int(rng.integers(4))
    true = np.zeros(T, int)
    if own:
        first = int(rng.integers(0, T - 5))
        true[first:first + int(rng.integers(3, T))] = own
    wav = folder / f"{number}.wav"
    edges = np.flatnonzero(np.diff([0, *(true > 0), 0])).reshape(-1, 2)
    frame_truth.write(wav, [(int(first), int(end), EMOTIONS[own]) for first, end in edges])
    posterior = rng.dirichlet(np.full(4, 0.3), T // 7 + 1).repeat(7, 0)[:T]
    result = Result(EMOTIONS[own], dict.fromkeys(EMOTIONS, 0.25), posterior, np.full(T, 1 / T), seconds=T / 50)
    return Utterance(str(number), wav, T * 320 + 80, label=EMOTIONS[own]), result, true, own


def test_scores_are_those_of_every_frame(tmp_path):
    """Sounds that end with their last frame: every rate is a share of frames, counted one by one."""
    rng = np.random.default_rng(3)
    drawn = [recognised(rng, tmp_path, number) for number in range(25)]
    found = scores([(utterance, result) for utterance, result, *_ in drawn], 0.0)
    names = ("eder", "false_alarm", "missed", "confused", "always_neutral", "label_everywhere")
    expected = {name: [] for name in names}
    for _, result, true, own in drawn:
        said = result.posterior.argmax(1)
        expected["eder"].append(np.mean(said != true))
        expected["false_alarm"].append(np.mean((true == 0) & (said > 0)))
        expected["missed"].append(np.mean((true > 0) & (said == 0)))
        expected["confused"].append(np.mean((true > 0) & (said > 0) & (said != true)))
        expected["always_neutral"].append(np.mean(true > 0))
        expected["label_everywhere"].append(np.mean(true != own))
    for name, values in expected.items():
        assert found[name] == pytest.approx(np.mean(values), abs=1e-9), name
    assert found["segment_eder"] == pytest.approx(found["eder"], abs=1e-9) and found["num_utterances"] == 25

    counts = np.zeros((4, 4))
    for _, result, true, _ in drawn:
        np.add.at(counts, (true, result.posterior.argmax(1)), 1)
    seconds = found["confusion_seconds"]
    assert np.allclose([[seconds[true][said] for said in EMOTIONS] for true in EMOTIONS], counts / 50, atol=1e-9)
    assert counts[0, 0] and counts[1, 2]

    areas = []
    for _, result, true, own in drawn:
        if own and not (true > 0).all():
            pairs = [(result.posterior[:, 0][true > 0], result.posterior[:, 0][true == 0], -1),
                     (result.posterior[:, own][true > 0], result.posterior[:, own][true == 0], 1)]
            areas.append([np.mean(sign * a[:, None] > sign * b) + np.mean(a[:, None] == b) / 2 for a, b, sign in pairs])
    assert [found["emotional_auc"], found["class_auc"]] == pytest.approx(np.mean(areas, 0).tolist())
    smooth = scores([(utterance, result) for utterance, result, *_ in drawn], 0.5)
    assert smooth["eder"] == found["eder"] and smooth["segment_eder"] != found["segment_eder"]


def test_each_speakers_rate_is_the_mean_of_their_utterances(tmp_path):
    rng = np.random.default_rng(4)
    drawn = [recognised(rng, tmp_path, number) for number in range(12)]
    speaker_of = ["anna", "bert", "anna", ""] * 3
    found = scores([(replace(utterance, speaker=name), result)
                    for name, (utterance, result, *_) in zip(speaker_of, drawn)], 0.0)
    wrong: dict[str, list[float]] = {}
    for name, (utterance, result, true, _) in zip(speaker_of, drawn):
        wrong.setdefault(name or utterance.id, []).append(np.mean(result.posterior.argmax(1) != true))
    assert {name: one["num_utterances"] for name, one in found["speakers"].items()} == {
        "anna": 6, "bert": 3, "3": 1, "7": 1, "11": 1}
    for name, one in found["speakers"].items():
        assert one["eder"] == pytest.approx(np.mean(wrong[name]), abs=1e-9)


def test_a_perfect_time_line_has_no_errors(tmp_path):
    rng = np.random.default_rng(5)
    drawn = [recognised(rng, tmp_path, number) for number in range(12)]
    perfect = [(utterance, replace(result, posterior=np.eye(4)[true])) for utterance, result, true, _ in drawn]
    found = scores(perfect, 0.0)
    assert found["eder"] == found["segment_eder"] == 0 and found["boundary_f1"] == found["emotional_auc"] == 1
    neutral = [(utterance, replace(result, posterior=np.eye(4)[0 * true])) for utterance, result, true, _ in drawn]
    found = scores(neutral, 0.0)
    assert found["eder"] == found["missed"] == found["always_neutral"] > 0 and found["boundary_f1"] == 0


def test_what_cannot_be_scored_is_refused(tmp_path):
    utterance, result, *_ = recognised(np.random.default_rng(0), tmp_path, 0)
    with pytest.raises(ValueError, match="no utterance has its emotional frames"):
        scores([])
    with pytest.raises(ValueError, match="has no class neutral"):
        scores([(utterance, replace(result, probabilities={"happy": 0.5, "sad": 0.5}))])
    frame_truth.write(utterance.path, [])
    found = scores([(utterance, replace(result, posterior=np.eye(4)[np.zeros(len(result.posterior), int)]))])
    assert found["emotional_auc"] is None and found["boundary_f1"] is None and found["eder"] == 0


@pytest.mark.parametrize("number", (1, 2, 3, 6, 7))
def test_the_median_utterance(tmp_path, number):
    """Emotional utterances of 1 s, each wrong in a known share of it, in drawn order; neutral ones do not count."""
    rng = np.random.default_rng(number)
    pairs, shares = [], rng.permutation(np.arange(number) + 3)
    for place, wrong in enumerate([*shares.tolist(), 0, 0, 0]):
        label = "angry" if place < number else "neutral"
        utterance = Utterance(f"u{place}", tmp_path / f"u{place}.wav", 16_000, label=label)
        frame_truth.write(utterance.path, [(0, 50, "ang")] if label == "angry" else [])
        posterior = np.eye(2)[np.array([0] * wrong + [1] * (50 - wrong))]       # (T, classes): missed
        result = Result("angry", {"neutral": 0.0, "angry": 1.0}, posterior, np.full(50, 0.02), seconds=1.0)
        assert errors_of(utterance, result).missed == pytest.approx(wrong / 50)
        pairs.append((utterance, result))
    chosen = median([pairs[i] for i in rng.permutation(len(pairs))])
    assert shares[int(chosen.id[1:])] == 3 + number // 2
    assert median(pairs[number:]) is None
