"""Numbers of what was learnt, against brute force, scikit-learn and numpy."""
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from framealign.corpus import frame_truth
from framealign.corpus.utterance import CLASSES, Utterance
from framealign.units.units import Units
from framealign.emotion import metrics
from framealign.report import unit_analysis
from framealign.emotion.predictions import Predictions


def units_of(rows: list[list[int]], num_clusters: int) -> Units:
    return Units(torch.tensor([u for row in rows for u in row], dtype=torch.int32),
                 torch.tensor([0, *np.cumsum([len(row) for row in rows])]), num_clusters, {})


def test_runs_and_usage_by_hand():
    rows = [[1, 1, 2], [2, 2], [0], [0, 3, 3, 3]]
    found = unit_analysis.unit_usage(units_of(rows, 5))
    assert found.counts.tolist() == [2, 2, 3, 3, 0] and found.num_used == 4
    assert found.run_lengths.tolist() == [2, 1, 2, 1, 1, 3] and found.mean_run_frames == 10 / 6
    assert found.mean_run_ms == pytest.approx(1000 / 30) and found.perplexity == metrics.perplexity([2, 2, 3, 3])
    assert np.allclose(found.run_shares(2), [3 / 6, 3 / 6])
    assert np.allclose(found.run_shares(4), [3 / 6, 2 / 6, 1 / 6, 0])


def test_runs_are_those_of_itertools():
    draw = np.random.default_rng(0)
    rows = [draw.integers(0, 3, draw.integers(1, 30)).tolist() for _ in range(40)]
    wanted = [len(list(group)) for row in rows for _, group in itertools.groupby(row)]
    assert unit_analysis.unit_usage(units_of(rows, 3)).run_lengths.tolist() == wanted


@pytest.fixture(scope="module")
def meeting() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Units and emotions of 3,000 frames that depend on each other, 300 of them without an emotion; their counts."""
    draw = np.random.default_rng(0)
    emotions = draw.integers(0, 4, 3000)
    units = np.where(draw.random(3000) < 0.5, emotions * 2, draw.integers(0, 9, 3000))
    emotions[:300] = -1
    return units, emotions, unit_analysis.co_occurrence(units, emotions, 10, 4)


def test_frames_without_an_emotion_do_not_count(meeting):
    units, emotions, counts = meeting
    assert counts.sum() == 2700 and counts.shape == (4, 10)
    assert all(counts[e, u] == ((emotions == e) & (units == u)).sum() for e in range(4) for u in range(10))


def test_mutual_information_is_scikit_learns(meeting):
    units, emotions, counts = meeting
    bits, normalised = unit_analysis.mutual_information(counts)
    known = emotions >= 0
    assert normalised == pytest.approx(metrics.nmi(units[known], emotions[known]), abs=1e-12)
    sklearn = pytest.importorskip("sklearn.metrics")
    assert bits == pytest.approx(sklearn.mutual_info_score(units[known], emotions[known]) / np.log(2), abs=1e-12)
    assert unit_analysis.mutual_information(np.array([[4, 0]])) == (0.0, 0.0)


def test_lift_is_how_much_more_often_a_unit_occurs(meeting):
    *_, counts = meeting
    found = unit_analysis.log_lift(counts)
    for e, u in itertools.product(range(4), range(9)):
        overall = counts[:, u].sum() / counts.sum()
        wanted = (counts[e, u] + 10 * overall) / (counts[e].sum() + 10) / overall
        assert found[e, u] == pytest.approx(np.log2(wanted), abs=1e-6)
    assert np.allclose(found[:, 9], 0, atol=1e-6) and np.isfinite(found).all()      # unit 9 never occurs


def test_the_most_informative_units_come_first_and_grouped(meeting):
    *_, counts = meeting
    found = unit_analysis.most_informative_units(counts, 4)
    assert set(found.tolist()) == {0, 2, 4, 6}      # those that were made to depend on the emotion
    typical = unit_analysis.log_lift(counts).argmax(0)
    everything = unit_analysis.most_informative_units(counts, 99)
    assert (np.diff(typical[everything]) >= 0).all() and len(everything) == 9
    assert len(unit_analysis.most_informative_units(np.zeros((4, 3), int), 5)) == 0


def test_main_axes_are_numpys_eigenvectors():
    x = torch.tensor(np.random.default_rng(0).normal(0, 1, (200, 6)) @ np.diag([5, 3, 1, 1, 0.5, 0.1]))
    points, share = unit_analysis.principal_components(x)
    values, vectors = np.linalg.eigh(np.cov(x.numpy().T))
    assert np.allclose(share, values[::-1][:2] / values.sum())
    for axis in range(2):
        wanted = (x.numpy() - x.numpy().mean(0)) @ vectors[:, -1 - axis]
        assert np.allclose(points[:, axis], wanted) or np.allclose(points[:, axis], -wanted)
    again, _ = unit_analysis.principal_components(x.flip(0))
    assert torch.allclose(again.flip(0), points)    # the sign too does not depend on the order
    same, share = unit_analysis.principal_components(torch.ones(5, 3))
    assert torch.isfinite(same).all() and torch.isfinite(share).all()


def test_units_are_ordered_along_the_codebook():
    centroids = torch.tensor([[3.0, 0.1], [1.0, 0.0], [2.0, -0.1], [0.0, 0.0]])
    found = unit_analysis.unit_order(centroids)
    assert np.allclose(found, [1, 1 / 3, 2 / 3, 0]) and unit_analysis.unit_order(centroids[:1]).tolist() == [0]


def test_best_worst_random_and_the_median_of_each_class():
    """Ranked in plain words by the probability of the true class; a short list gives fewer, and each once."""
    draw = np.random.default_rng(0)
    probabilities = draw.dirichlet(np.ones(4), 40)
    utterances = [Utterance(f"u{i}", Path("x.wav"), 400, label=CLASSES[i % 4]) for i in range(40)]
    predictions = Predictions.of(utterances, CLASSES, probabilities)
    found = unit_analysis.example_utterances(predictions, 3)
    ranked = sorted(range(40), key=lambda i: probabilities[i, i % 4])
    assert found[0].id == f"u{ranked[-1]}" and found[1].id == f"u{ranked[0]}" and len(found) in (6, 7)
    assert len({one.id for one in found}) == len(found)
    assert found == unit_analysis.example_utterances(predictions, 3)
    assert all(one.true == CLASSES[int(one.id[1:]) % 4] for one in found)
    reasons = {one.id: one.reason for one in found}
    for number, name in enumerate(CLASSES):
        own = [i for i in ranked if i % 4 == number]
        assert f"u{own[5]}" in reasons
        assert f"median of {name}" in reasons[f"u{own[5]}"] or reasons[f"u{own[5]}"] == "drawn at random"
    only = unit_analysis.example_utterances(predictions.subset([0]), 0)
    assert [one.id for one in only] == ["u0"] and only[0].reason.startswith("best")


def test_emotion_of_a_frame_is_planted_or_the_utterances(tmp_path):
    (tmp_path / "a").with_suffix(frame_truth.SUFFIX).write_text("2\t4\tanger\n")
    known = Utterance("a", tmp_path / "a.wav", 400 + 320 * 4, label="angry")
    others = [Utterance(name, tmp_path / f"{name}.wav", 400 + 320, label=label)
              for name, label in (("b", "sad"), ("c", ""), ("d", "neutral"))]
    found = unit_analysis.frame_emotions([known, *others], list(CLASSES))
    assert found.tolist() == [0, 0, 2, 2, 0, 3, 3, -1, -1, 0, 0]
    assert unit_analysis.frame_emotions([known], ["angry", "sad"]).tolist() == [0] * 5     # no neutral class
    assert unit_analysis.frame_emotions([], list(CLASSES)).tolist() == []
