"""Seeds, pairs of runs and the ablation, recomputed with scikit-learn from the prediction files alone."""
import csv
import re
from pathlib import Path

import numpy as np
import pytest
from random_results import Run, rows_of

from framealign.corpus.utterance import CLASSES
from framealign.emotion import metrics
from framealign.commands import evaluate_command
from framealign.recipe import comparison
from framealign.recipe.comparison import compare, predictions_of

STAGES = {"finetune": "finetune", "tapt": "tapt-finetune", "align": "ser-finetune"}


@pytest.fixture
def two(tmp_path) -> Path:
    """Two seeds, three sessions, three methods."""
    for seed in (1, 2):
        (tmp_path / f"seed{seed}").mkdir()
        run = Run(tmp_path / f"seed{seed}", "123")
        run.draw = np.random.default_rng(seed)
        for session in "123":
            for stage in STAGES.values():
                run.finish(session, stage)
    return tmp_path


def test_a_share_of_the_labels_stands_for_its_runs_of_all_seeds(two):
    for seed in (1, 10):
        (two / f"seed{seed}" / "share0.1").mkdir(parents=True)
    (two / "seed3").mkdir()
    assert comparison.seeds_of(two) == {seed: two / f"seed{seed}" for seed in "123"}       # 10 has but a share
    assert comparison.seeds_of(two / "share0.1") == {seed: two / f"seed{seed}" / "share0.1" for seed in ("1", "10")}
    one = two / "seed1" / "share0.1"
    assert comparison.seeds_of(one) == {"": one}
    assert comparison.seeds_of(two / "share0.3") == {"": two / "share0.3"}


def ablation(run: Path) -> str:
    """The table of all methods that are finished."""
    runs = comparison.seeds_of(run)
    return comparison.ablation(comparison.collect(runs, comparison.finished_methods(runs)))


def seeds_table(run: Path, method: str) -> str:
    return comparison.table(comparison.collect(comparison.seeds_of(run), [method]))


def said(run: Path, stage: str) -> dict[str, tuple[str, str]]:
    """(true, predicted) by id, out of the files."""
    return {row["id"]: (row["true"], row["predicted"]) for path in run.glob(f"session*/{stage}/predictions.csv")
            for row in csv.DictReader(path.open())}


def write(path: Path, rows: list[tuple[str, str, str]]) -> None:
    """A table as another program may write it: id, true, predicted and no probabilities."""
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("id", "true", "predicted"), *rows])


def scores(pairs) -> list[float]:
    sklearn = pytest.importorskip("sklearn.metrics")
    true, guess = zip(*pairs)
    return [sklearn.accuracy_score(true, guess), sklearn.balanced_accuracy_score(true, guess),
            sklearn.f1_score(true, guess, average="macro")]


def test_the_table_of_seeds_is_scikit_learns(two):
    rows = rows_of(seeds_table(two, "tapt"))
    pooled = np.array([scores(said(two / f"seed{seed}", "tapt-finetune").values()) for seed in (1, 2)])
    for seed in (1, 2):
        assert rows[str(seed)][:3] == [f"{100 * x:.1f}" for x in pooled[seed - 1]]
    assert rows["mean"][:3] == [f"{100 * x:.1f}" for x in pooled.mean(0)]
    assert rows["deviation"][:3] == [f"{100 * x:.1f}" for x in pooled.std(0, ddof=1)]
    folds = [[scores([pair for name, pair in said(two / f"seed{seed}", "tapt-finetune").items()
                      if name.startswith(f"Ses0{session}")]) for session in "123"] for seed in (1, 2)]
    assert rows["1"][3:] == [f"{100 * x:.1f}" for x in np.mean(folds[0], 0)]
    assert "seed 1 2" in seeds_table(two, "tapt").splitlines()[0]


def test_the_ablation_has_every_method_and_every_pair(two):
    text = ablation(two)
    for method, stage in STAGES.items():
        numbers = np.mean([scores(said(two / f"seed{seed}", stage).values()) for seed in (1, 2)], 0)
        line = next(line for line in text.splitlines() if line.split()[:1] == [method])
        cells = re.split(r"  +", line.strip())      # method, then each measure and its interval
        assert cells[1:6:2] == [f"{100 * x:.1f}" for x in numbers] and cells[2].count(" to ") == 1
    assert [line.split(":")[0] for line in text.splitlines() if " - " in line.split(":")[0]] == [
        "tapt - finetune", "align - finetune", "align - tapt"]
    assert text.splitlines()[-2:] == [
        "pooled over folds and averaged over seeds; 95 % intervals for new speakers and new trainings, "
        "from 6 speakers and 2 seeds",
        "95 % intervals of paired differences, for new speakers and new trainings, from 6 speakers and 2 seeds; "
        "p from 10 speakers on"]
    assert not re.search(r", p [<\d]", text)
    one = ablation(two / "seed1")
    wa = scores(said(two / "seed1", "ser-finetune").values())[0]
    assert "averaged" not in one and f"\n   align  {100 * wa:.1f}  " in one


def test_a_methods_interval_is_over_speakers_and_seeds(two):
    side = predictions_of(two, "align")
    assert len(side) == 2 and side[0].ids == side[1].ids and len({*side[0].groups}) == 6
    predicted = np.stack([one.predicted for one in side])
    low, high = metrics.intervals(side[0].true, predicted, side[0].groups, 4)["ua"]
    assert comparison.intervals(side)[1] == (low, high)
    words = f"{100 * low:.1f} to {100 * high:.1f}"
    assert words in ablation(two) and "from 6 speakers and 2 seeds: WA" in seeds_table(two, "align")
    assert f"UA {words}" in seeds_table(two, "align").splitlines()[-1]


@pytest.mark.parametrize("p, words", [(0.04321, ", p 0.043"), (0.0004, ", p < 0.001"), (None, "")])
def test_p_is_printed_where_there_is_one(p, words):
    one = {"difference": 0.1, "interval": (-0.2, 0.4), "p": p}
    assert comparison.difference_line({"wa": one}, ("a", "b")) == f"b - a: WA +10.0 (-20.0 to +40.0{words})"
    nothing = {"difference": 0.1, "interval": None, "p": None}
    assert comparison.difference_line({"ua": nothing}, ("a", "b")) == "b - a: UA +10.0 (no interval)"


def test_two_runs_are_compared_on_the_same_utterances(two):
    first, second = f"{two}/seed1:finetune", f"{two}/seed2:align"
    text = comparison.comparison(first, second)
    a, b = (np.array(scores(said(two / seed, stage).values())) for seed, stage in (("seed1", "finetune"),
                                                                                  ("seed2", "ser-finetune")))
    found = [float(x) for x in re.findall(r"(?:WA|UA|macro-F1) ([+-]\d+\.\d) \(", text)]
    np.testing.assert_allclose(found, 100 * (b - a), atol=0.051)
    assert text.endswith("for new speakers, from 6 speakers and 1 seed; p from 10 speakers on")
    assert f"{first}  " in text
    back = compare(predictions_of(second), predictions_of(first), (second, first))
    there = compare(predictions_of(first), predictions_of(second), (first, second))
    for name in back:
        assert back[name]["difference"] == pytest.approx(-there[name]["difference"])
        assert back[name]["interval"] == pytest.approx([-x for x in reversed(there[name]["interval"])], abs=1e-12)


def test_the_classifier_of_frames_is_compared_with_a_method(two):
    """Over the folds that have it, each seed its own; one that no fold has is named."""
    for seed in (1, 2):
        run = Run(two / f"seed{seed}", "123")
        run.draw = np.random.default_rng(10 + seed)
        for session in "123":
            run.finish(session, "tapt-frames")
    text = comparison.comparison(f"{two}:tapt-frames", f"{two}:align")
    a, b = (np.mean([scores(said(two / f"seed{seed}", stage).values()) for seed in (1, 2)], 0)
            for stage in ("tapt-frames", "ser-finetune"))
    found = [float(x) for x in re.findall(r"(?:WA|UA|macro-F1) ([+-]\d+\.\d) \(", text)]
    np.testing.assert_allclose(found, 100 * (b - a), atol=0.051)
    assert "for new speakers and new trainings, from 6 speakers and 2 seeds" in text
    with pytest.raises(ValueError, match=r"seed1: no finished fold of the stage frames; run bin/session.py first"):
        predictions_of(f"{two}:frames")


def test_prediction_files_are_compared_too(two, tmp_path):
    """In whatever order their rows and classes come; the speaker is read from the ids."""
    rows = [(name, *pair) for name, pair in said(two / "seed1", "finetune").items()]
    write(tmp_path / "a.csv", rows)
    write(tmp_path / "b.csv", [(name, true, true) for name, true, _ in reversed(rows)])
    a, b = (predictions_of(tmp_path / name) for name in ("a.csv", "b.csv"))
    found = compare(a, b, ("a", "b"))
    assert found["wa"]["difference"] == pytest.approx(1 - scores(pair for _, *pair in rows)[0])
    of_run = compare(predictions_of(two / "seed1", "finetune"), b, ("run", "b"))
    assert of_run["ua"]["interval"] == pytest.approx(found["ua"]["interval"], abs=1e-12)
    assert set(CLASSES) == set(a[0].classes)


@pytest.mark.parametrize("change, message", [
    (lambda rows: rows.pop(), "b.csv: tested 125 utterances, the other 126.*only the same ones can be compared"),
    (lambda rows: rows.__setitem__(3, ("strange", *rows[3][1:])), "Ses01\\w+ among them; only the same ones"),
    (lambda rows: rows.__setitem__(3, (rows[3][0], "happy" if rows[3][1] != "happy" else "sad", rows[3][2])),
     "utterance Ses01\\w+ has another label"),
    (lambda rows: rows.clear(), "b.csv: must have the columns id, true and predicted")])
def test_what_cannot_be_compared(two, tmp_path, change, message):
    rows = [(name, *pair) for name, pair in said(two / "seed1", "finetune").items()]
    write(tmp_path / "a.csv", rows)
    change(rows)
    write(tmp_path / "b.csv", rows)
    names = (str(tmp_path / "a.csv"), str(tmp_path / "b.csv"))
    with pytest.raises(ValueError, match=message):
        compare(*(predictions_of(name) for name in names), names)


def test_a_run_without_methods_is_said(tmp_path):
    with pytest.raises(ValueError, match="no method has finished folds; run bin/session.py --method all first"):
        evaluate_command.run(str(tmp_path), "all", "")
    with pytest.raises(ValueError, match="gone: no finished fold of method align; run bin/session.py first"):
        predictions_of(tmp_path / "gone")
