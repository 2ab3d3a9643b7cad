"""The cross-corpus matrix: folds on other corpora averaged, on their own left out; cells kept; one that fails."""
import csv
import dataclasses
import re
import shutil

import drawn_recogniser
import numpy as np
import pytest
import small
import soundfile
from drawn_recogniser import DrawnRecogniser

from framealign.runtime import files
from framealign.corpus import manifest
from framealign.corpus.importers import iemocap
from framealign.corpus.protocols import Split
from framealign.emotion.predictions import Predictions
from framealign.emotion.recogniser import Recogniser
from framealign.recipe import cross_corpus, evaluation, recipe, trained_on
from framealign.recipe.evaluation import EvaluationConfig
from framealign.commands import evaluate_command

QUICK = small.SETTINGS | {"finetune.epochs": "1"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three sessions, its corpus's table, and a table of synthetic speech of other speakers."""
    folder = tmp_path_factory.mktemp("matrix")
    config = small.config(small.write_tree(folder / "tree"), small.write_base(folder / "base"), folder / "run",
                          method="finetune", session="all")
    recipe.run_sessions(config, QUICK)
    manifest.write(folder / "own.tsv", iemocap.read(folder / "tree", allow_partial=True))
    draw = np.random.default_rng(0)
    others = [dataclasses.replace(u, speaker=f"other-{u.speaker}", path=noisy(folder / "other" / f"{u.id}.wav", draw))
              for u in iemocap.read(folder / "tree", allow_partial=True)]
    manifest.write(folder / "other.tsv", [dataclasses.replace(u, num_samples=8000) for u in others])
    return folder


def noisy(path, draw):

    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, draw.normal(0, 0.1, 8000), 16_000)
    return path


def rows_of_folds(run, stage="finetune"):
    """Rows of all folds' predictions.csv, by id."""
    return {row["id"]: row for path in run.glob(f"session*/{stage}/predictions.csv")
            for row in csv.DictReader(path.open())}


def ua_of(pairs):
    """Mean recall of (true, predicted) pairs, counted by hand."""
    by_class = {}
    for true, guess in pairs:
        by_class.setdefault(true, []).append(true == guess)
    return np.mean([np.mean(hits) for hits in by_class.values()])


@pytest.mark.parametrize("is_older", [False, True])
def test_on_its_own_corpus_each_utterance_is_tested_by_the_fold_that_held_it_out(finished, tmp_path, is_older):
    """Predictions are those that the folds' tests wrote; also of older runs, whose recognisers have no list."""
    run = shutil.copytree(finished / "run", tmp_path / "run", symlinks=True)
    if is_older:
        for path in run.glob("session*/finetune/recogniser/trained_on.tsv"):
            path.unlink()
    matrix = cross_corpus.run([str(run)], [str(finished / "own.tsv")], EvaluationConfig(), tmp_path / "cells")
    one, written = matrix["cells"]["run"]["own"], rows_of_folds(finished / "run")
    assert one["own_corpus"] and one["sides"] == 1 and one["num_utterances"] == 24 == len(written)
    assert one["predictions"] == ["run--own-1.csv"] and ("older" in one["training_known"]) == is_older
    for row in csv.DictReader((tmp_path / "cells" / "run--own-1.csv").open()):
        then = written[row["id"]]
        assert (row["true"], row["predicted"]) == (then["true"], then["predicted"])
        assert [float(row[name]) for name in ("neutral", "happy", "angry", "sad")] == pytest.approx(
            [float(then[name]) for name in ("neutral", "happy", "angry", "sad")], abs=2e-6)
    assert one["ua"] == pytest.approx(ua_of((row["true"], row["predicted"]) for row in written.values()))
    assert not one["optimistic"] and one["over_time"]["num_utterances"] == 24


def test_where_each_speaker_is_tested_once_the_training_that_did_so_does(finished, tmp_path):
    """Of `speaker`, two trainings in each fold: the other would have selected on the utterance."""
    config = small.config(finished / "tree", finished / "base", tmp_path / "run", method="finetune", session="all",
                          selection="speaker")
    recipe.run_sessions(config, QUICK)
    matrix = cross_corpus.run([str(tmp_path / "run")], [str(finished / "own.tsv")], EvaluationConfig(), tmp_path / "c")
    written = rows_of_folds(tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "c" / "run--own-1.csv").open()))
    assert matrix["cells"]["run"]["own"]["sides"] == 1 and len(rows) == 24
    for row in rows:
        assert float(row["happy"]) == pytest.approx(float(written[row["id"]]["happy"]), abs=2e-6)


def test_on_another_corpus_the_folds_scores_are_averaged(finished, tmp_path):
    matrix = cross_corpus.run([str(finished / "run")], [str(finished / "other.tsv")], EvaluationConfig(), tmp_path)
    one, utterances = matrix["cells"]["run"]["other"], manifest.read(finished / "other.tsv")
    recalls = []
    for number, session in enumerate("123", 1):
        model = Recogniser.from_pretrained(finished / "run" / f"session{session}" / "recogniser")
        pairs = [(u.label, model(u.path).emotion) for u in utterances]
        recalls.append(ua_of(pairs))
        kept = Predictions.read(tmp_path / f"run--other-{number}.csv")
        assert [kept.classes[i] for i in kept.predicted] == [guess for _, guess in pairs]
    assert one["ua"] == pytest.approx(np.mean(recalls)) and one["sides"] == 3 and not one["own_corpus"]


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Two runs of three folds whose answers are drawn, each with its corpus: speakers s0 to s5, t0 to t5."""
    monkeypatch.setattr(evaluation, "Recogniser", DrawnRecogniser)
    for name, seed in (("a", 1), ("b", 2)):
        utterances = [dataclasses.replace(u, id=f"{name}{u.id}", speaker=name + u.speaker)
                      for u in drawn_recogniser.corpus(tmp_path / f"sounds-{name}", seed=seed, each=2)]
        manifest.write(tmp_path / f"{name}.tsv", utterances)
        for session in "012":
            stage = tmp_path / "runs" / name / f"session{session}" / "finetune"
            model = drawn_recogniser.directory(stage, "recogniser", seed=name + session)
            files.link(stage.parent / "recogniser", model)
            rest = [u for u in utterances if u.session != session]
            trained_on.write(model, [Split(rest, [], [], "x")], "last")
            (stage / "stage.json").write_text("{}")
    return tmp_path


def arguments(two, *more):
    return ["--matrix", *(str(two / "runs" / name) for name in "ab"),
            "--on", *(str(two / f"{name}.tsv") for name in "ab"), "--out", str(two / "matrix.html"), *more]


def test_the_command_prints_draws_and_keeps_every_cell(two, capsys):
    evaluate_command.main(arguments(two, "--json", str(two / "matrix.json")))
    out, matrix = capsys.readouterr().out, files.read_json(two / "matrix.json")
    for row in "ab":
        for column in "ab":
            one = matrix["cells"][row][column]
            assert one["own_corpus"] == (row == column) and one["sides"] == (1 if row == column else 3)
            uas = [ua_of((r["true"], r["predicted"]) for r in csv.DictReader((two / "matrix" / name).open()))
                   for name in one["predictions"]]
            assert one["ua"] == pytest.approx(np.mean(uas)) and len(uas) == one["sides"]
            assert files.read_json(two / "matrix" / f"{row}--{column}.json")["scores"] == one
    shown = {line.split()[0]: line for line in out.splitlines() if line.startswith((" a ", " b ", "a ", "b "))}
    for row, other in ("ab", "ba"):
        cells = matrix["cells"][row]
        assert f"{100 * cells[row]['ua']:.1f}* (" in shown[row] and f"{100 * cells[other]['ua']:.1f} (" in shown[row]
        assert shown[row].endswith(f" {100 * cells[other]['ua']:.1f}")          # mean of others: the other one
    assert "HuBERT base 35.4, WavLM large 38.5, Whisper large v3 46.9" in out and "balanced" in out
    page = (two / "matrix.html").read_text()
    assert all(f"{100 * matrix['cells'][row][column]['ua']:.1f}" in page for row in "ab" for column in "ab")
    assert "35.4" in page and not re.search(r"(src|href)=\"http", page)


def test_the_same_command_takes_the_cells_that_are_there(two, capsys, monkeypatch):
    evaluate_command.main(arguments(two))
    first = capsys.readouterr().out
    monkeypatch.setattr(evaluation, "test", None)   # nothing is tested again
    evaluate_command.main(arguments(two))
    assert capsys.readouterr().out == first


@pytest.mark.parametrize("change", ["setting", "recogniser", "label", "list"])
def test_a_cell_of_something_else_is_made_again(two, change):
    evaluate_command.main(arguments(two))
    before = {path.name: path.stat().st_mtime_ns for path in (two / "matrix").glob("*.json")}
    more = []
    if change == "setting":
        more = ["--shared-classes"]
    elif change == "recogniser":
        (two / "runs" / "a" / "session0" / "finetune" / "recogniser" / "seed.txt").write_text("another")
    elif change == "list":
        (two / "runs" / "a" / "session0" / "finetune" / "recogniser" / "trained_on.tsv").unlink()
    else:
        utterances = manifest.read(two / "a.tsv")
        manifest.write(two / "a.tsv", [dataclasses.replace(utterances[0], label="sad"), *utterances[1:]])
    evaluate_command.main(arguments(two, *more))
    after = {path.name: path.stat().st_mtime_ns for path in (two / "matrix").glob("*.json")}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"setting": {*before}, "recogniser": {"a--a.json", "a--b.json"},
                       "list": {"a--a.json", "a--b.json"}, "label": {"a--a.json", "b--a.json"}}[change]


def test_a_cell_that_fails_loses_no_other_and_is_named(two, capsys):
    """A table that is missing: its column; the others are there, and the next command makes what failed."""
    (two / "b.tsv").rename(two / "away.tsv")
    with pytest.raises(ValueError) as error:
        evaluate_command.main(arguments(two))
    assert str(error.value).startswith("2 of 4 cells failed: a on b: ") and "\n" not in str(error.value)
    assert {path.name for path in (two / "matrix").glob("*.json")} == {"a--a.json", "b--a.json"}
    assert "failed" in capsys.readouterr().out and "failed" in (two / "matrix.html").read_text()
    (two / "away.tsv").rename(two / "b.tsv")
    evaluate_command.main(arguments(two))
    assert len(list((two / "matrix").glob("*.json"))) == 4


def test_other_sound_of_a_runs_utterances_goes_to_the_folds_that_do_not_know_their_speakers(two):
    """As joined utterances are, which have ids and speakers of the run's corpus: the fold that held these out."""
    others = [dataclasses.replace(u, id=f"a{u.id}", speaker=f"a{u.speaker}")
              for u in drawn_recogniser.corpus(two / "new", seed=9, each=1)]
    manifest.write(two / "new.tsv", others)
    matrix = cross_corpus.run([str(two / "runs" / "a")], [str(two / "new.tsv")], EvaluationConfig(), two / "cells")
    one = matrix["cells"]["a"]["new"]
    assert one["own_corpus"] and one["sides"] == 1 and not one["optimistic"] and one["num_utterances"] == 24
    for row in csv.DictReader((two / "cells" / "a--new-1.csv").open()):
        utterance, = [u for u in others if u.id == row["id"]]
        model = DrawnRecogniser(two / "runs" / "a" / f"session{utterance.session}" / "recogniser")
        assert float(row["sad"]) == pytest.approx(model.probabilities(utterance.path)[3], abs=1e-6)


def test_in_an_unrelated_corpus_speakers_of_one_name_are_others(two):
    """Both corpora call their speakers 01, 02 ...: every fold is tested on all, and it is said what that would mean."""
    others = [dataclasses.replace(u, id=f"new-{u.id}", speaker=f"a{u.speaker}")
              for u in drawn_recogniser.corpus(two / "new", seed=9, each=1)]
    manifest.write(two / "new.tsv", others)
    one = cross_corpus.run([str(two / "runs" / "a")], [str(two / "new.tsv")], EvaluationConfig())["cells"]["a"]["new"]
    assert not one["own_corpus"] and one["sides"] == 3
    assert [note[:40] for note in evaluation.notes(one)] == ["optimistic, if they are the same people:"]


def test_a_single_recogniser_is_a_row_and_seeds_are_averaged(two):
    single = two / "runs" / "a" / "session0" / "recogniser"
    for seed in "12":
        shutil.copytree(two / "runs" / "a", two / "runs" / "seeds" / f"seed{seed}", symlinks=True)
    rows = [str(single), str(two / "runs" / "seeds"), str(two / "runs" / "a") + ":finetune"]
    matrix = cross_corpus.run(rows, [str(two / "a.tsv"), str(two / "b.tsv")], EvaluationConfig())
    cells = matrix["cells"]
    assert [*cells] == ["session0/recogniser", "seeds", "a:finetune"]
    assert "knows the labels of 32 of the 48 utterances" in cells["session0/recogniser"]["a"]["error"]
    assert [cells[name]["b"]["sides"] for name in cells] == [1, 6, 3]
    assert [cells[name]["a"]["sides"] for name in ("seeds", "a:finetune")] == [2, 1]
    assert cells["seeds"]["b"]["ua"] == pytest.approx(cells["a:finetune"]["b"]["ua"])
    left_out = cross_corpus.run(rows[:1], [str(two / "a.tsv")], EvaluationConfig(leave_out=True))
    assert left_out["cells"]["session0/recogniser"]["a"]["num_utterances"] == 16


@pytest.mark.parametrize("paths, names", [
    (["x/a", "y/b"], ["a", "b"]), (["x/a", "y/a"], ["x/a", "y/a"]), (["j/corpus", "k"], ["j/corpus", "k"]),
    (["r/session1/recogniser", "r/session2/recogniser"], ["session1/recogniser", "session2/recogniser"])])
def test_names_are_short_and_tell_apart(paths, names):
    assert cross_corpus.short_names(paths) == names


def test_bad_rows_are_named(tmp_path):
    with pytest.raises(ValueError, match="given twice"):
        cross_corpus.short_names(["a", "./a"])
    with pytest.raises(ValueError, match="no recogniser of a fold; give a run of bin/session.py, or a recogniser's"):
        cross_corpus.models_of(str(tmp_path))
    with pytest.raises(ValueError, match="no recogniser of frames"):
        cross_corpus.models_of(f"{tmp_path}:frames")
