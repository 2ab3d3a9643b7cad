"""The classifier of utterance statistics: the recipe's folds, what is fitted and chosen on which part, its scores.

Vectors are drawn at random but for the last tests, which compute them of tones; classifiers are simple ones in numpy
that note what they were given. scikit-learn's is tested with `bin/bench.py`.
"""
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from framealign.corpus import folds, manifest, protocols
from framealign.corpus.cropping import load_checked
from framealign.corpus.utterance import CLASSES, Utterance
from framealign.emotion import metrics
from framealign.recipe import results, session_config, statistics_baseline
from framealign.recipe.recipe import Recipe
from framealign.recipe.session_config import SessionConfig
from framealign.recipe.statistics_baseline import STRENGTHS, Baseline
from framealign.sound.utterance_statistics import statistics


class Noted:
    """A classifier that notes what it was fitted to and asked. answer(x (U, F), strength): probabilities (U, C)."""

    def __init__(self, answer):
        self.answer, self.fitted, self.asked = answer, [], []

    def __call__(self, x, numbers, strength):
        self.fitted.append((x, numbers, strength))

        def predict(vectors):
            self.asked.append((vectors, strength))
            return self.answer(vectors, strength)
        return predict


def nearest_mean(x: np.ndarray, numbers: np.ndarray, strength: float):
    """The class whose mean is nearest, whatever the strength."""
    means = np.stack([x[numbers == number].mean(0) for number in range(4)])
    return lambda vectors: np.eye(4)[np.square(vectors[:, None] - means).sum(-1).argmin(1)]


def corpus(number: int, num_speakers: int = 6, seed: int = 0) -> list[Utterance]:
    """Utterances of classes drawn at random, each speaker with every class; three sessions; parts of a split; some
    without a label."""
    draw, utterances = np.random.default_rng(seed), []
    for i in range(number):
        speaker = i % num_speakers
        label = CLASSES[i // num_speakers if i < 4 * num_speakers else draw.integers(4)] if i % 17 != 16 else ""
        utterances.append(Utterance(f"u{i}", Path(f"/{i}.wav"), 16_000, str(1 + speaker % 3), f"s{speaker}",
                                    label=label, split=("train", "valid", "test")[speaker % 3]))
    return utterances


def baseline(utterances: list[Utterance], fit, vectors: np.ndarray, **settings) -> Baseline:
    """A baseline on these utterances in their folds. vectors (U, F) of the labelled ones."""
    config = SessionConfig(corpus="corpus.tsv", hubert="tiny", preset="tiny", session="all", **settings)
    folded = folds.in_folds(utterances, config.folds, config.folds_seed)
    one = Baseline(config, folded, fit)
    one.__dict__["vectors"] = dict(zip((u.id for u in one.utterances), vectors, strict=True))
    return one


def drawn(utterances: list[Utterance], width: int = 3) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((sum(bool(u.label) for u in utterances), width))


@pytest.mark.parametrize("kind, number", [("session", 3), ("speakers", 6), ("3", 3), ("split", 1)])
def test_it_is_fitted_chosen_and_tested_on_the_parts_of_the_recipe(kind, number):
    """Fitted to training alone, once for each C; asked about validation by each; about the test by the chosen alone."""
    utterances = corpus(90)
    places = np.arange(sum(bool(u.label) for u in utterances))[:, None]         # a vector says which utterance it is
    noted = Noted(lambda x, strength: np.full((len(x), 4), 0.25))
    one = baseline(utterances, noted, places, folds=kind, folds_seed=5)
    corpus_of_folds = folds.in_folds(utterances, kind, 5)
    collected = statistics_baseline.collect(one)
    sessions = {u.session for u in one.utterances} if kind != "split" else {"test"}
    assert len(sessions) == number and {*collected["folds"]} == sessions
    for i, name in enumerate(collected["folds"]):
        split, = protocols.split(corpus_of_folds, name, "clean")
        of_recipe = SimpleNamespace(config=replace(one.config, session=name), utterances=corpus_of_folds)
        assert Recipe.splits(of_recipe, "clean") == [split]
        part = {which: [one.utterances.index(u) for u in own] for which, own in split.parts()}
        fits = noted.fitted[4 * i:4 * i + 4]
        assert [strength for *_, strength in fits] == [*STRENGTHS]
        for x, numbers, _ in fits:
            assert x[:, 0].tolist() == part["training"]
            assert [CLASSES[c] for c in numbers] == [u.label for u in split.train]
        *validated, (tested, strength) = noted.asked[5 * i:5 * i + 5]
        assert [c for _, c in validated] == [*STRENGTHS]
        assert all(x[:, 0].tolist() == part["validation"] for x, _ in validated)
        assert tested[:, 0].tolist() == part["test"] and strength == STRENGTHS[0]       # of equals the smallest
        assert collected["folds"][name]["num_utterances"] == {
            "train": len(split.train), "valid": len(split.valid), "test": len(split.test)}
    protocol = collected["protocol"]
    assert protocol["folds"] == folds.described(kind, 5) and protocol["selection"] == "clean"


@pytest.mark.parametrize("right", STRENGTHS)
def test_the_strength_is_the_best_on_validation_whatever_the_test(right):
    """One C answers right on validation and wrong on the test, the others the other way round."""
    utterances = corpus(60)
    own = [u for u in utterances if u.label]
    numbers = np.array([CLASSES.index(u.label) for u in own])
    tested = {i for i, u in enumerate(own) if u.session == "2"}

    def answer(x, strength):
        is_right = np.array([(int(place) in tested) != (strength == right) for place in x[:, 0]])
        return np.eye(4)[np.where(is_right, x[:, 1], (x[:, 1] + 1) % 4).astype(int)]
    one = baseline(utterances, Noted(answer), np.stack([np.arange(len(own)), numbers], 1))
    result, predictions = statistics_baseline.fold(one, one.splits["2"])
    assert result["strength"] == right and result["valid"]["ua"] == 1 and result["test"]["ua"] == 0
    assert result["valid_ua"] == {strength: float(strength == right) for strength in STRENGTHS}
    assert [own[i].id for i in sorted(tested)] == predictions.ids


def test_the_numbers_are_those_of_the_recipes_tables():
    """Folds, mean, pooled and interval recomputed from the predictions; the table is that of a run."""
    utterances = corpus(150)
    collected = statistics_baseline.collect(baseline(utterances, nearest_mean, drawn(utterances)))
    pooled = collected["predictions"]
    assert sorted(pooled.ids) == sorted(u.id for u in utterances if u.label)
    session = {u.id: u.session for u in utterances}
    rows = {line.split()[0]: line.split() for line in results.table(collected).splitlines()}
    of_folds = []
    for name in "123":
        own = [i for i, id in enumerate(pooled.ids) if session[id] == name]
        recalls = [np.mean(pooled.predicted[own][pooled.true[own] == c] == c) for c in range(4)]
        of_folds.append(100 * np.mean(recalls))
        wa = 100 * np.mean(pooled.predicted[own] == pooled.true[own])
        assert rows[name][1:3] == [f"{wa:.1f}", f"{of_folds[-1]:.1f}"]
    assert rows["mean"][2] == f"{np.mean(of_folds):.1f}"
    recalls = [np.mean(pooled.predicted[pooled.true == c] == c) for c in range(4)]
    assert rows["pooled"][2] == f"{100 * np.mean(recalls):.1f}"
    speakers = [next(u.speaker for u in utterances if u.id == id) for id in pooled.ids]
    low, high = metrics.intervals(pooled.true, pooled.predicted, speakers, 4)["ua"]
    text = statistics_baseline.text(collected, {})
    assert f"UA {100 * low:.1f} to {100 * high:.1f}," in text and "from 6 speakers" in text
    assert "by fold: 1 0.001, 2 0.001, 3 0.001" in text
    content = results.for_json(collected)
    assert content["mean"]["ua"] == pytest.approx(np.mean(of_folds) / 100) and "predictions" not in content


def test_a_share_of_the_labels_is_that_of_the_recipe():
    """Fitted to and chosen on the utterances whose labels the recipe knows with that seed; all are tested."""
    utterances = corpus(150)
    noted = Noted(lambda x, strength: np.full((len(x), 4), 0.25))
    places = np.arange(sum(bool(u.label) for u in utterances))[:, None]
    one = baseline(utterances, noted, places, label_share=0.3, seed=4)
    collected = statistics_baseline.collect(one)
    whole, = protocols.split(utterances, "1", "clean")
    few = protocols.with_label_share(whole, 0.3, 4)
    assert [u.id for u in few.train] == [one.utterances[int(i)].id for i in noted.fitted[0][0][:, 0]]
    assert [u.id for u in few.valid] == [one.utterances[int(i)].id for i in noted.asked[0][0][:, 0]]
    assert 0 < len(few.train) < 0.5 * len(whole.train) and len(collected["predictions"].ids) == len(one.utterances)
    assert (collected["protocol"]["label_share"], collected["protocol"]["seed"]) == (0.3, 4)


def test_a_statistic_that_tells_the_class_is_enough():
    utterances = corpus(120)
    own = [u for u in utterances if u.label]
    x = drawn(utterances)
    x[:, 1] = 100 * np.array([CLASSES.index(u.label) for u in own]) + x[:, 1]
    assert statistics_baseline.collect(baseline(utterances, nearest_mean, x))["pooled"]["ua"] == 1


@pytest.mark.parametrize("seed", range(3))
def test_labels_at_random_are_recognised_at_chance(seed):
    """600 utterances: UA has a deviation of 1.8 points about 25."""
    utterances = corpus(640, num_speakers=12, seed=seed)
    collected = statistics_baseline.collect(baseline(utterances, nearest_mean, drawn(utterances, 20)))
    assert abs(collected["pooled"]["ua"] - 0.25) < 0.075


def test_shared_speakers_and_missing_classes_are_said_or_refused():
    own = [replace(u, label="" if (u.speaker, u.label) == ("s1", "sad") else u.label) for u in corpus(60)]
    with pytest.raises(ValueError, match="no utterance labelled sad"):
        statistics_baseline.collect(baseline(own, nearest_mean, drawn(own), folds="speakers"))
    collected = statistics_baseline.collect(
        baseline(own, nearest_mean, drawn(own), folds="speakers", allow_missing_classes=True))
    assert collected["missing"] == {"s0": {"validation": ["sad"]}, "s1": {"test": ["sad"]}}
    moved = [replace(u, session=str(1 + i % 3)) for i, u in enumerate(corpus(60, num_speakers=5))]
    with pytest.raises(ValueError, match="--allow-shared-speakers"):
        statistics_baseline.collect(baseline(moved, nearest_mean, drawn(moved)))
    collected = statistics_baseline.collect(baseline(moved, nearest_mean, drawn(moved), allow_shared_speakers=True))
    assert collected["protocol"]["speakers"] == "shared" and "speakers shared" in results.table(collected)


# Of sound files

def read(table: Path, fit=nearest_mean, **settings) -> Baseline:
    config = SessionConfig(corpus=str(table), hubert="tiny", preset="tiny", session="all", **settings)
    return Baseline(config, session_config.read_utterances(config), fit)


@pytest.fixture
def table(tones, tmp_path) -> Path:
    manifest.write(tmp_path / "corpus.tsv", tones)
    return tmp_path / "corpus.tsv"


@pytest.fixture
def other(tmp_path) -> Path:
    """Eight other sounds: a class three times, another twice, two labels that are none, one unlabelled."""
    draw, utterances = np.random.default_rng(3), []
    for i, label in enumerate(["Happiness", "happy", "happy", "sad", "sad", "bored", "bored", ""]):
        soundfile.write(tmp_path / f"other{i}.wav", draw.normal(0, 0.1, 8000), 16_000)
        utterances.append(Utterance(f"other{i}", tmp_path / f"other{i}.wav", 8000, "1", f"o{i % 3}", label=label))
    manifest.write(tmp_path / "other.tsv", utterances)
    return tmp_path / "other.tsv"


def test_vectors_are_the_statistics_of_the_sound(table, tones):
    one = read(table)
    assert {*one.vectors} == {u.id for u in tones}
    for u in tones[::5]:
        assert np.array_equal(one.vectors[u.id], statistics(load_checked(u, True)).numpy())


def test_other_corpora_are_tested_by_what_all_of_this_one_has_taught(table, other, capsys):
    """With the C of the first fold, on the utterances with a class; UA is over the classes that there are."""
    noted = Noted(lambda x, strength: np.tile(np.eye(4)[CLASSES.index("happy")], (len(x), 1)))
    one = read(table, noted)
    others = statistics_baseline.other_corpora(one, [str(other)])
    assert [u.label for u in others[str(other)]] == ["happy"] * 3 + ["sad"] * 2
    assert "2 utterances with labels that are no class are left out: bored 2" in capsys.readouterr().err
    collected = {"folds": {"1": {"strength": 0.1}, "2": {"strength": 1.0}}}
    scores = statistics_baseline.on_others(one, collected, others)[str(other)]
    x, numbers, strength = noted.fitted[-1]
    assert len(x) == len(one.utterances) == 24 and strength == 0.1 and np.bincount(numbers).tolist() == [6] * 4
    (asked, _), = noted.asked
    expected = [statistics(load_checked(u, True)).numpy() for u in others[str(other)]]
    assert np.array_equal(asked, np.stack(expected))
    assert (scores["ua"], scores["wa"]) == (0.5, 0.6) and scores["recall"] == {
        "neutral": None, "happy": 1, "angry": None, "sad": 0}
    text = statistics_baseline.text(statistics_baseline.collect(one), {str(other): scores})
    row = next(line.split() for line in text.splitlines() if line.split()[:1] == [str(other)])
    assert row[1] == "50.0" and "60.0" in row and row[-3:] == ["5", "3", "speakers"]
    assert "a test part without neutral and angry: its UA" in text


def test_other_corpora_that_are_none_are_refused(table, other, tones, tmp_path):
    one = read(table)
    manifest.write(tmp_path / "again.tsv", [replace(u, id=f"{u.id}-again") for u in tones[2:5]])
    with pytest.raises(ValueError, match=r"again.tsv: 3 of its 3 sounds are trained on, first .*-again; --on is fo"):
        statistics_baseline.other_corpora(one, [str(tmp_path / "again.tsv")])
    manifest.write(tmp_path / "none.tsv", [replace(u, label="bored") for u in manifest.read(other)])
    with pytest.raises(ValueError, match="none.tsv: no label is one of the classes, neutral, .*; there are: bored 8;"):
        statistics_baseline.other_corpora(one, [str(tmp_path / "none.tsv")])
    with pytest.raises(ValueError, match="nowhere.tsv"):
        statistics_baseline.other_corpora(one, [str(tmp_path / "nowhere.tsv")])
