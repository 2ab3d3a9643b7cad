"""Does alignment align: areas and mutual information where the answer is known, or counted pair by pair."""
import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from framealign.emotion import planted_truth
from framealign.corpus.cropping import frame_counts
from framealign.emotion.recogniser import Recogniser, Result
from framealign.corpus.frame_truth import SUFFIX
from framealign.units.units import Units

LABELS = ["neutral", "happy", "angry", "sad"]


@pytest.fixture
def truths(tones, tmp_path):
    """Twelve utterances of the tiny corpus, their emotional frames written beside (a link to) their sound.

    Returns utterances and each one's truth (T,) bool: one or two stretches, nothing in a neutral one.
    """
    draw, utterances, truths = np.random.default_rng(3), [], []
    for utterance, T in zip(tones[:12], frame_counts(tones[:12]).tolist()):
        path = tmp_path / utterance.path.name
        path.symlink_to(utterance.path)
        truth = np.zeros(T, bool)
        if utterance.label != "neutral":
            first = int(draw.integers(1, T // 2))
            truth[first:first + int(draw.integers(1, T // 3))] = True
            truth[T - 2:T - 1] = True
        edges = np.flatnonzero(np.diff(np.concatenate([[0], truth, [0]])))
        path.with_suffix(SUFFIX).write_text(
            "".join(f"{first}\t{end}\t{utterance.label}\n" for first, end in edges.reshape(-1, 2)))
        utterances.append(dataclasses.replace(utterance, path=path))
        truths.append(truth)
    return utterances, truths


class Planted:
    """A recogniser that answers what it is told to: attention and posterior of the true class, by file."""
    labels = LABELS

    def __init__(self, utterances, attention, posterior):
        self.answers = {u.path: (u, a, p) for u, a, p in zip(utterances, attention, posterior)}

    def __call__(self, path) -> Result:
        utterance, attention, of_true = self.answers[path]
        posterior = np.random.default_rng(0).random((len(attention), 4))
        posterior[:, LABELS.index(utterance.label)] = of_true
        return Result("sad", dict.fromkeys(LABELS, 0.25), posterior, attention)


def auc_of(recogniser, utterances: list) -> dict[str, float]:
    return planted_truth.frame_auc(planted_truth.recognised(recogniser, utterances))


def pairs(scores: np.ndarray, truth: np.ndarray) -> float:
    """The area counted: share of (emotional, other) pairs of frames in the right order, ties one half."""
    return float(np.mean([(a > b) + 0.5 * (a == b) for a in scores[truth] for b in scores[~truth]]))


def test_areas_that_are_known(truths):
    """Perfect, upside down, constant; and one wrong frame in a known number of pairs."""
    utterances, truth = truths
    ramp = [np.arange(len(x)) / 1000 for x in truth]
    right, wrong = ([sign * x + y for x, y in zip(truth, ramp)] for sign in (1, -1))
    found = auc_of(Planted(utterances, right, wrong), utterances)
    peak = np.mean([x.max() / x.mean() for x, u in zip(right, utterances) if u.label != "neutral"])
    assert found == {"attention_auc_mean": 1.0, "attention_auc_median": 1.0, "posterior_auc_mean": 0.0,
                     "posterior_auc_median": 0.0, "attention_max_over_mean": pytest.approx(peak), "num_utterances": 9}
    one = next(i for i, u in enumerate(utterances) if u.label == "sad")
    flat = [np.full(len(x), 0.3) for x in truth]
    low = truth[one].astype(float)
    low[np.flatnonzero(truth[one])[0]] = -1.0       # one of the emotional frames is below all others
    found = auc_of(Planted([utterances[one]], [low], [flat[one]]), [utterances[one]])
    assert found["attention_auc_mean"] == pytest.approx(1 - 1 / truth[one].sum())
    assert found["posterior_auc_mean"] == 0.5 and found["num_utterances"] == 1


def test_mean_and_median_are_over_utterances(truths):
    """Random scores with ties, against the areas counted pair by pair; long utterances count like short ones."""
    utterances, truth = truths
    draw = np.random.default_rng(0)
    attention, posterior = ([draw.integers(0, 6, len(x)) / 6 + 0.2 * draw.random() * x for x in truth]
                            for _ in range(2))
    found = auc_of(Planted(utterances, attention, posterior), utterances)
    emotional = [i for i, u in enumerate(utterances) if u.label != "neutral"]
    for name, scores in (("attention", attention), ("posterior", posterior)):
        areas = [pairs(scores[i], truth[i]) for i in emotional]
        assert found[f"{name}_auc_mean"] == pytest.approx(np.mean(areas), rel=1e-12)
        assert found[f"{name}_auc_median"] == pytest.approx(np.median(areas), rel=1e-12)
        assert len(set(areas)) > 5


def test_a_real_recogniser_is_asked_for_its_attention_and_the_true_class(truths, micro, tmp_path):
    from framealign.emotion.emotion_model import EmotionModel
    from framealign.hubert.model import Hubert
    utterances, truth = truths
    torch.manual_seed(0)
    EmotionModel(Hubert(micro), LABELS).save_pretrained(tmp_path / "recogniser")
    recogniser = Recogniser.from_pretrained(tmp_path / "recogniser")
    found = auc_of(recogniser, utterances)
    areas = []
    for utterance, x in zip(utterances, truth):
        if utterance.label != "neutral":
            result = recogniser(utterance.path)
            areas.append((pairs(result.attention, x), pairs(result.posterior[:, LABELS.index(utterance.label)], x)))
    assert (found["attention_auc_mean"], found["posterior_auc_mean"]) == pytest.approx(np.mean(areas, 0))


def test_utterances_without_a_question_are_left_out(truths, tones):
    """Neutral ones, unlabelled ones, other labels; no truth beside them; emotional throughout or nowhere."""
    utterances, truth = truths
    scores = [x.astype(float) for x in truth]
    planted = Planted(utterances, scores, scores)
    emotional = [u for u in utterances if u.label != "neutral"]
    strange = [dataclasses.replace(emotional[0], label=label) for label in ("", "frustrated", "neutral")]
    whole = emotional[1].path.with_suffix(SUFFIX)
    whole.write_text(f"0\t{emotional[1].num_samples}\tsad\n")                   # more frames than there are
    emotional[2].path.with_suffix(SUFFIX).write_text("")
    found = auc_of(planted, [*utterances, *strange, tones[20]])
    assert found["num_utterances"] == len(emotional) - 2
    for nothing in ([], [tones[20]], [u for u in utterances if u.label == "neutral"], emotional[1:3]):
        with pytest.raises(ValueError, match="no utterance has its emotional frames written beside it"):
            auc_of(planted, nothing)


def units_of(flat: np.ndarray, utterances: list, num_clusters: int) -> Units:
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), frame_counts(utterances).cumsum(0)])
    return Units(torch.from_numpy(flat).int(), offsets, num_clusters, {})


def test_mutual_information_of_units_with_emotion_and_place(truths):
    """1 for units that are the answer under other names, 0 for one unit, and the definition for random ones."""
    utterances, truth = truths
    names = {pair: k for k, pair in enumerate([(label, place) for label in LABELS[::-1] for place in (True, False)])}
    answer = np.array([names[u.label, bool(x)] for u, row in zip(utterances, truth) for x in row])
    same, one = units_of(answer, utterances, 8), units_of(answer * 0, utterances, 1)
    assert planted_truth.unit_emotion_nmi(same, utterances) == pytest.approx(1)
    assert planted_truth.unit_emotion_nmi(one, utterances) == pytest.approx(0, abs=1e-12)
    draw = np.random.default_rng(0)
    noisy = np.where(draw.random(len(answer)) < 0.5, answer, draw.integers(0, 8, len(answer)))
    total, joint = len(answer), Counter(zip(answer.tolist(), noisy.tolist()))
    a, b = Counter(answer.tolist()), Counter(noisy.tolist())
    information = sum(n / total * np.log(n * total / (a[x] * b[y])) for (x, y), n in joint.items())
    entropies = [-sum(n / total * np.log(n / total) for n in counts.values()) for counts in (a, b)]
    found = planted_truth.unit_emotion_nmi(units_of(noisy, utterances, 8), utterances)
    assert found == pytest.approx(information / np.mean(entropies), rel=1e-9) and 0.1 < found < 0.9


def test_units_of_other_utterances_and_missing_truth(truths, tones):
    utterances, truth = truths
    flat = np.zeros(sum(map(len, truth)), int)
    with pytest.raises(ValueError, match="units of 12 utterances, the manifest has 11"):
        planted_truth.unit_emotion_nmi(units_of(flat, utterances, 1), utterances[1:])
    with pytest.raises(ValueError, match="has no planted truth"):
        planted_truth.unit_emotion_nmi(units_of(flat, utterances, 1), tones[:12])
