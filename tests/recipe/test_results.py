"""The table of a run against scikit-learn's numbers from the predictions alone; folds that must not be pooled."""
import csv
import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from random_results import Run, rows_of

from framealign.runtime import files
from framealign.corpus import manifest
from framealign.corpus.utterance import CLASSES, Utterance
from framealign.emotion import metrics
from framealign.emotion.predictions import Predictions
from framealign.recipe import results
from framealign.recipe.session_config import TESTED
from framealign.recipe.results import aligned, collect, table


@pytest.fixture
def five(tmp_path) -> Run:
    """A run whose five folds are finished."""
    run = Run(tmp_path)
    for session in "12345":
        run.finish(session)
    return run


def predictions(run: Path) -> dict[str, list[tuple[str, str]]]:
    """(true, predicted) of every test utterance by session, read from the files alone; `pooled`: of all."""
    found = {}
    for path in sorted(run.glob("session*/ser-finetune/predictions.csv")):
        with open(path, encoding="utf-8", newline="") as file:
            found[path.parts[-3][7:]] = [(row["true"], row["predicted"]) for row in csv.DictReader(file)]
    return found | {"pooled": [pair for pairs in found.values() for pair in pairs]}


def test_the_table_has_scikit_learns_numbers(five):
    """WA, UA, macro-F1, recalls and confusion of every fold and of all, recomputed from predictions.csv alone."""
    sklearn = pytest.importorskip("sklearn.metrics")
    found = collect(five.root, "align")
    rows = rows_of(table(found))
    for name, pairs in predictions(five.root).items():
        true, guess = zip(*pairs)
        recalls = sklearn.recall_score(true, guess, labels=CLASSES, average=None)
        numbers = [sklearn.accuracy_score(true, guess), sklearn.balanced_accuracy_score(true, guess),
                   sklearn.f1_score(true, guess, average="macro"), *recalls]
        assert rows[name] == [*(f"{100 * number:.1f}" for number in numbers), str(len(pairs))]
    matrix = sklearn.confusion_matrix(true, guess, labels=CLASSES)
    assert found["pooled"]["confusion"] == matrix.tolist()
    confusion = table(found).partition("confusion")[2]
    assert [rows_of(confusion)[name] for name in CLASSES] == [[*map(str, row)] for row in matrix]


def test_the_mean_is_that_of_the_folds(five):
    rows = rows_of(table(collect(five.root, "align")))
    folds = np.array([[float(cell) for cell in rows[name][:-1]] for name in "12345"])
    assert np.abs(folds.mean(0) - [float(cell) for cell in rows["mean"][:-1]]).max() < 0.11
    assert rows["mean"][-1] == rows["pooled"][-1] == str(len(five.utterances))


def test_intervals_are_over_speakers(five):
    """Ten speakers in fifty dialogues; of a fold two; each place says so."""
    pairs = predictions(five.root)["pooled"]
    true, guess = (np.array([CLASSES.index(pair[i]) for pair in pairs]) for i in (0, 1))
    wanted = metrics.intervals(true, guess, [u.speaker for u in five.utterances], 4)
    found = collect(five.root, "align")
    assert found["pooled"]["interval_95"] == {name: list(ends) for name, ends in wanted.items()}
    assert found["pooled"]["interval_over"] == "10 speakers" and all(
        fold["test"]["interval_over"] == "2 speakers" for fold in found["folds"].values())
    low, high = (100 * end for end in wanted["ua"])
    assert "95 % intervals, pooled, for new speakers, from 10 speakers and 1 seed: WA " in table(found)
    assert f"UA {low:.1f} to {high:.1f}" in table(found)


def test_without_speakers_the_claim_is_smaller(five):
    unknown = [Utterance(f"turn{i}", u.path, 16_000, u.session, "", "", u.label) for i, u in enumerate(five.utterances)]
    five.utterances = unknown
    manifest.write(five.root / "corpus.tsv", unknown)
    for session in "12345":
        five.finish(session)
    assert f"95 % intervals, pooled, for these speakers, from {len(unknown)} utterances and 1 seed: WA " in table(
        collect(five.root, "align"))


def test_a_single_speaker_has_no_interval(tmp_path):
    run = Run(tmp_path, "1")
    run.utterances = [dataclasses.replace(u, speaker="one") for u in run.utterances]
    manifest.write(tmp_path / "corpus.tsv", run.utterances)
    run.finish("1")
    text = table(collect(tmp_path, "align"))
    assert "from 1 speaker and 1 seed: WA none, UA none, macro-F1 none\n" + results.NO_INTERVAL in text


def test_an_utterance_that_two_folds_tested_is_not_pooled(five):
    """A copy of a fold's folder under another name, as a backup leaves it."""
    shutil.copytree(five.root / "session2", five.root / "session2-old")
    with pytest.raises(ValueError, match=r"sessions 1, 2, 3, 4, 5, 2-old: utterance Ses02\w+ is in two of the tests"):
        collect(five.root, "align")


def test_a_fold_that_lacks_a_class_is_said(tmp_path):
    """Its UA and macro-F1 are scikit-learn's over the labels there are; the table and results.json say so."""
    sklearn = pytest.importorskip("sklearn.metrics")
    run = Run(tmp_path, "12")
    run.utterances = [u for u in run.utterances if not (u.session == "2" and u.label == "sad")]
    manifest.write(tmp_path / "corpus.tsv", run.utterances)
    for session in "12":
        run.finish(session)
    found = collect(tmp_path, "align")
    true, guess = zip(*predictions(tmp_path)["2"])
    assert "sad" in guess and found["missing"] == {"2": {"test": ["sad"]}}
    present = [name for name in CLASSES if name != "sad"]
    recalls = [np.mean([b == name for a, b in zip(true, guess) if a == name]) for name in present]
    f1 = sklearn.f1_score(true, guess, average="macro", labels=present)
    rows = rows_of(table(found))
    assert rows["2"][1:] == [f"{100 * np.mean(recalls):.1f}", f"{100 * f1:.1f}",
                             *(f"{100 * recall:.1f}" for recall in recalls), "-", str(len(true))]
    assert rows["mean"][6] == rows["1"][6] and rows["deviation"][6] == "-"
    assert "session 2: a test part without sad: its UA and macro-F1 are over the other classes" in table(found)
    results.write(tmp_path, found)
    written = files.read_json(tmp_path / "results.json")["align"]
    assert written["missing"] == {"2": {"test": ["sad"]}} and written["folds"]["2"]["test"]["recall"]["sad"] is None
    assert written["pooled"]["recall"]["sad"] is not None


def test_the_emotion_over_time_has_a_table_of_its_own(tmp_path):
    """A row for each fold and stage: shares of the time in per cent, areas and F1 as they are; the mean of each stage.
    """
    run, draw, known = Run(tmp_path), np.random.default_rng(1), {}
    for session in "123":
        run.finish(session)
        place = tmp_path / f"session{session}" / "ser-finetune" / "results.json"
        if session != "2":
            known[session] = {name: float(draw.random()) for name in results.OVER_TIME} | {"num_utterances": 40}
            known[session]["boundary_f1"] = None
            files.write_json(place, files.read_json(place) | {"over_time": known[session]})
    found = collect(tmp_path, "align")
    _, _, over_time = table(found).partition("emotion over time")
    rows = [line.split() for line in over_time.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["ser-finetune", session] for session in ("1", "2", "3", "mean")]
    for session, one in known.items():
        ua, shares = found["folds"][session]["reported"]["ua"], [f"{100 * one[name]:.1f}" for name in list(one)[:7]]
        assert rows[int(session) - 1][2:] == [f"{100 * ua:.1f}", *shares, f"{one['emotional_auc']:.2f}",
                                              f"{one['class_auc']:.2f}", "-", "40"]
    assert rows[1][3:] == ["-"] * len(results.OVER_TIME)
    assert rows[3][3] == f"{100 * np.mean([one['eder'] for one in known.values()]):.1f}"
    results.write(tmp_path, found)
    written = files.read_json(tmp_path / "results.json")["align"]["folds"]
    assert {session: fold["over_time"] for session, fold in written.items() if "over_time" in fold} == known
    run.finish("1")
    run.finish("3")
    assert "emotion over time" not in table(collect(tmp_path, "align"))


def test_the_classifier_of_frames_has_rows_of_its_own(tmp_path):
    """Beside the method's, which keeps its numbers: UA, and EDER where it is known; its bound too; in results.json."""
    run = Run(tmp_path)
    run.finish("1")
    alone = collect(tmp_path, "align")
    scores = dict.fromkeys(results.OVER_TIME, 0.25) | {"num_utterances": 40}
    for stage, ua in (("frames", 0.9), ("frames-bound", 0.95), ("tapt-frames", 0.1)):
        place = tmp_path / "session1" / stage
        place.mkdir()
        files.write_json(place / "stage.json", {})
        files.write_json(place / "results.json", {"reported": {"ua": ua}} | (
            {"over_time": scores} if stage == "frames" else {}))
    found = collect(tmp_path, "align")
    of_frames = found["folds"]["1"].pop("frames")
    assert {stage: one["reported"]["ua"] for stage, one in of_frames.items()} == {"frames": 0.9, "frames-bound": 0.95}
    assert found["folds"] == alone["folds"] and found["pooled"] == alone["pooled"]
    _, _, over_time = table(collect(tmp_path, "align")).partition("emotion over time")
    rows = {line.split()[0]: line.split()[1:] for line in over_time.splitlines()[2:]}
    assert list(rows) == ["ser-finetune", "frames", "frames-bound"]
    assert rows["frames"] == ["1", "90.0", *["25.0"] * 7, *["0.25"] * 3, "40"]
    assert rows["frames-bound"] == ["1", "95.0", *["-"] * 10]
    results.write(tmp_path, collect(tmp_path, "align"))
    assert files.read_json(tmp_path / "results.json")["align"]["folds"]["1"]["frames"] == of_frames


def test_confidence_is_pooled_over_folds_before_and_after(five):
    """A fold without a temperature counts as it is; of a stage with none there is one row; numbers by `metrics`."""
    draw, tables = np.random.default_rng(0), {"uncalibrated": [], "calibration": []}
    for session in "12345":
        place = five.root / f"session{session}" / "ser-finetune"
        table_of_fold = Predictions.read(place / "predictions.csv")
        shares = draw.dirichlet(np.full(4, 0.5), len(table_of_fold.ids))
        for key, power in (("uncalibrated", 1.0), ("calibration", 1.0 if session == "3" else 0.4)):
            powered = shares ** power / (shares ** power).sum(1, keepdims=True)
            changed = dataclasses.replace(table_of_fold, probabilities=powered, predicted=shares.argmax(1))
            tables[key].append(changed)
            if key == "calibration" or session != "3":
                changed.write(place / ("predictions.csv" if key == "calibration" else "uncalibrated.csv"))
    found = collect(five.root, "align")
    assert list(found["calibration"]) == ["ser-finetune"]
    for key, of_folds in tables.items():
        joined = Predictions.joined(of_folds)
        wanted = metrics.calibration(joined.probabilities, joined.true, joined.predicted)
        for name in ("ece", "adaptive_ece", "brier", "aurc", "confidence"):
            assert found["calibration"]["ser-finetune"][key][name] == pytest.approx(wanted[name], abs=3e-6)
    assert found["pooled"]["calibration"] == found["calibration"]["ser-finetune"]["calibration"]
    text = table(found)
    before, after = (next(line for line in text.splitlines() if f"ser-finetune, {when}" in line).split()[2:]
                     for when in ("before", "after"))
    assert before[0] == f"{100 * found['calibration']['ser-finetune']['uncalibrated']['ece']:.1f}" != after[0]
    assert after[-1] == f"{100 * found['pooled']['calibration']['confidence']:.1f}"
    results.write(five.root, found)
    assert files.read_json(five.root / "results.json")["align"]["calibration"] == found["calibration"]
    for session in "12345":
        (five.root / f"session{session}" / "ser-finetune" / "uncalibrated.csv").unlink(missing_ok=True)
    rows = table(collect(five.root, "align")).splitlines()
    assert sum("ser-finetune" in line for line in rows) == 1


@pytest.mark.parametrize("stages, method", [
    (["multiscale-finetune"], "multiscale-finetune"), (["multiscale-finetune", "finetune"], "finetune"),
    (["probe"], "probe"), (["probe", "frames"], "frames"), (["finetune", "probe"], "finetune"),
    (["probe", "multiscale-finetune"], "multiscale-finetune"),
    (["tapt-finetune-speaker", "tapt-finetune", "finetune"], "tapt-finetune"),
    (["tapt-finetune-speaker", "finetune"], "tapt-finetune-speaker"),
    (["multiscale-finetune", "ser-finetune", "tapt-finetune", "finetune"], "ser-finetune"),
    (["ser-finetune", "frames", "finetune"], "frames"), (["finetune", "frames"], "frames"),
    (["ser-finetune", "finetune", "tapt-finetune", "tapt-frames"], "ser-finetune"),
    (["align-frames", "frames", "ser-finetune"], "align-frames")])
def test_recogniser_means_the_same_in_whatever_order_methods_were_run(tmp_path, stages, method):
    run, links = Run(tmp_path, "1"), set()
    for order in (stages, stages[::-1]):
        shutil.rmtree(tmp_path / "session1", ignore_errors=True)
        for stage in order:
            run.finish("1", stage)
            (tmp_path / "session1" / stage / "recogniser").mkdir()
            if not any((tmp_path / "session1" / name).exists() for name in order if "frames" not in name):
                continue                            # frames comes after a tested stage
            results.link_recogniser(tmp_path / "session1")
        links.add(os.readlink(tmp_path / "session1" / "recogniser"))
    assert links == {f"{method}/recogniser"}


def test_results_of_two_selections_have_names_of_their_own(tmp_path):
    run = Run(tmp_path)
    run.finish("1", "tapt-finetune")
    run.finish("1", "tapt-finetune-speaker", "speaker")
    for selection in ("speaker", "clean"):
        results.write(tmp_path, collect(tmp_path, "tapt", selection))
    assert {name: one["protocol"]["selection"] for name, one in files.read_json(tmp_path / "results.json").items()} == {
        "tapt": "clean", "tapt-speaker": "speaker"}


def test_the_protocol_stands_above_the_numbers(five):
    found = collect(five.root, "align")
    first, second, *_ = table(found).splitlines()
    for words in ("method align", "selection clean", "pretrain data transductive", "seed 7", "preset tiny",
                  "classes neutral happy angry sad", "test crop seconds none", "validate on session"):
        assert words in first
    assert second.split()[:4] == ["session", "WA", "UA", "macro-F1"]


def test_an_optimistic_protocol_is_marked(tmp_path):
    run = Run(tmp_path)
    run.finish("1", selection="reference")
    assert table(collect(tmp_path, "align")).splitlines()[1] == "optimistic: looks at the test session before the test"
    assert "optimistic" not in table(collect(tmp_path, "align")).splitlines()[0]


def test_a_fold_that_is_not_finished_is_left_out(five):
    (five.root / "session3" / "ser-finetune" / "stage.json").unlink()
    assert list(collect(five.root, "align")["folds"]) == ["1", "2", "4", "5"]
    assert rows_of(table(collect(five.root, "align")))["pooled"][-1] == str(len(five.utterances) - 43)


def test_sessions_come_in_order(tmp_path):
    run = Run(tmp_path, sessions="129")
    for session in "912":
        run.finish(session)
    (tmp_path / "session9").rename(tmp_path / "session10")
    assert list(collect(tmp_path, "align")["folds"]) == ["1", "2", "10"]


def test_each_method_reports_its_own_stage(tmp_path):
    run, found = Run(tmp_path), {}
    for stage in ("probe", "finetune", "tapt-finetune", "ser-finetune", "multiscale-finetune"):
        run.finish("1", stage)
        found[stage] = files.read_json(tmp_path / "session1" / stage / "results.json")["test"]
    for method, stage in TESTED.items():
        assert collect(tmp_path, method)["folds"]["1"]["test"] == found[stage]
        assert collect(tmp_path, method)["protocol"]["method"] == method


def test_several_selections_are_not_mixed(tmp_path):
    run = Run(tmp_path)
    run.finish("1", "tapt-finetune")
    run.finish("1", "tapt-finetune-speaker", "speaker")
    with pytest.raises(ValueError, match=r"session1: has results of several selections \(clean, speaker\); .*--selec"):
        collect(tmp_path, "tapt")
    for selection in ("clean", "speaker"):
        assert collect(tmp_path, "tapt", selection)["protocol"]["selection"] == selection
    with pytest.raises(ValueError, match="no finished fold of method tapt, selection last"):
        collect(tmp_path, "tapt", "last")
    with pytest.raises(ValueError, match="no finished fold of method tapt, selection reference"):
        collect(tmp_path, "tapt", "reference")


@pytest.mark.parametrize("settings, reason", [
    ({"finetune": {"lr": 0.2}}, r"finetune\.lr was 0\.1, is 0\.2"), ({"seed": 8}, "seed was 7, is 8"),
    ({"base_digest": "def"}, "base_digest was abc, is def"), ({"corpus": "x"}, "corpus was None, is x"),
])
def test_folds_of_two_experiments_are_not_pooled(five, settings, reason):
    five.finish("4", **settings)
    with pytest.raises(ValueError, match=f"folds of two experiments cannot be pooled: from session 1 to session 4, "
                                         f"{reason}; give each experiment an --out folder of its own"):
        collect(five.root, "align")


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: Run(path)])
def test_nothing_finished_is_said(tmp_path, make):
    make(tmp_path / "run")
    with pytest.raises(ValueError, match="run: no finished fold of method align; run bin/session.py first"):
        collect(tmp_path / "run", "align")


def test_columns_are_right_aligned():
    assert aligned([["a", "bbb"], ["cc", "d"]]) == [" a  bbb", "cc    d"]


def test_the_table_has_the_deviation_over_folds(five):
    rows = rows_of(table(collect(five.root, "align")))
    folds = np.array([[float(cell) for cell in rows[name][:-1]] for name in "12345"])
    found = [float(cell) for cell in rows["deviation"]]
    assert np.abs(folds.std(0, ddof=1) - found).max() < 0.11
    for session in "2345":
        (five.root / f"session{session}" / "ser-finetune" / "stage.json").unlink()
    assert "deviation" not in rows_of(table(collect(five.root, "align")))


def test_subsets_are_scikit_learns_on_their_utterances(five):
    """Women and men by the manifest; all are improvised, so that row would say nothing new and is left out."""
    sklearn = pytest.importorskip("sklearn.metrics")
    rows = rows_of(table(collect(five.root, "align")))
    said = {row["id"]: (row["true"], row["predicted"]) for path in five.root.glob("session*/*/predictions.csv")
            for row in csv.DictReader(path.open())}
    for name, gender in (("women", "F"), ("men", "M")):
        true, guess = zip(*(said[u.id] for u in five.utterances if u.gender == gender))
        numbers = [sklearn.accuracy_score(true, guess), sklearn.balanced_accuracy_score(true, guess),
                   sklearn.f1_score(true, guess, average="macro")]
        assert rows[name][:3] == [f"{100 * number:.1f}" for number in numbers] and rows[name][-1] == str(len(true))
    assert "improvised" not in rows
    scripted = [dataclasses.replace(u, style="script" if i % 3 else "impro") for i, u in enumerate(five.utterances)]
    manifest.write(five.root / "corpus.tsv", scripted)
    true, guess = zip(*(said[u.id] for u in scripted if u.style == "impro"))
    assert rows_of(table(collect(five.root, "align")))["improvised"][0] == f"{100 * np.mean(np.equal(true, guess)):.1f}"


def test_each_of_several_corpora_is_a_subset(five):
    """Of two corpora, every session in both, WA and recalls are counted from the files; one alone has no row."""
    several = [dataclasses.replace(u, corpus=("one", "two")[i % 3 == 0]) for i, u in enumerate(five.utterances)]
    manifest.write(five.root / "corpus.tsv", several)
    collected = collect(five.root, "align")
    said = {row["id"]: (row["true"], row["predicted"]) for path in five.root.glob("session*/*/predictions.csv")
            for row in csv.DictReader(path.open())}
    for corpus in ("one", "two"):
        own = [said[u.id] for u in several if u.corpus == corpus]
        scores = collected["subsets"][f"corpus {corpus}"]
        assert scores["wa"] == pytest.approx(np.mean([a == b for a, b in own]))
        for label in {a for a, _ in own}:
            assert scores["recall"][label] == pytest.approx(np.mean([a == b for a, b in own if a == label]))
        assert re.search(rf"^ *corpus {corpus} +{100 * scores['wa']:.1f} .* {len(own)}$", table(collected), re.M)
    manifest.write(five.root / "corpus.tsv", [dataclasses.replace(u, corpus="one") for u in several])
    assert not any(name.startswith("corpus") for name in collect(five.root, "align")["subsets"])


def noted(run: Run, session: str, epochs: int = 5) -> dict[int, list[str]]:
    """Write what each epoch says of the test part; the classes by epoch."""
    place, found = run.root / f"session{session}" / "ser-finetune", {}
    number = sum(u.session == session for u in run.utterances)
    with open(place / "epochs.jsonl", "w", encoding="utf-8") as file:
        for epoch in range(1, epochs + 1):
            guess = run.draw.integers(4, size=number)
            found[epoch] = [CLASSES[i] for i in guess]
            file.write(json.dumps({"update": epoch, "epoch": epoch, "predicted": guess.tolist()}) + "\n")
    return found


def test_the_references_number_of_the_same_trainings(five):
    """In plain words with scikit-learn: each speaker selects an epoch by UA once, valid and test are averaged."""
    sklearn = pytest.importorskip("sklearn.metrics")
    means = []
    for session in "12345":
        said, chosen = noted(five, session), [u for u in five.utterances if u.session == session]
        ways = []
        for speaker in sorted({u.speaker for u in chosen}):
            valid, test = ([i for i, u in enumerate(chosen) if (u.speaker == speaker) == mine]
                           for mine in (False, True))
            score = lambda measure, epoch, part: measure([chosen[i].label for i in part],
                                                         [said[epoch][i] for i in part])
            best = max(said, key=lambda epoch: (score(sklearn.balanced_accuracy_score, epoch, valid), -epoch))
            ways.append([(score(measure, best, valid) + score(measure, best, test)) / 2 for measure in (
                sklearn.accuracy_score, sklearn.balanced_accuracy_score, lambda a, b: sklearn.f1_score(
                    a, b, average="macro", zero_division=0))])
        means.append(np.mean(ways, 0))
    found = collect(five.root, "align")
    np.testing.assert_allclose([[one[name] for name in results.NAMES] for one in found["reference"].values()], means)
    assert rows_of(table(found))["reference"] == [f"{100 * x:.1f}" for x in np.mean(means, 0)]
    assert "as the released code chooses them: optimistic" in table(found)
    (five.root / "session2" / "ser-finetune" / "epochs.jsonl").unlink()            # not of all folds: no row
    assert collect(five.root, "align")["reference"] is None and "reference" not in rows_of(
        table(collect(five.root, "align")))


def test_results_json_is_the_table(five):
    results.write(five.root, collect(five.root, "align"))
    five.finish("1", "finetune")
    results.write(five.root, collect(five.root, "finetune"))
    found = files.read_json(five.root / "results.json")
    assert list(found) == ["align", "finetune"] and list(found["align"]["folds"]) == list("12345")
    rows = rows_of(table(collect(five.root, "align")))
    for row, numbers in (("mean", found["align"]["mean"]), ("deviation", found["align"]["deviation"]),
                         ("pooled", found["align"]["pooled"]), ("women", found["align"]["subsets"]["women"]),
                         ("3", found["align"]["folds"]["3"]["reported"])):
        assert rows[row][:3] == [f"{100 * numbers[name]:.1f}" for name in results.NAMES]
    assert found["align"]["protocol"]["selection"] == "clean" and found["finetune"]["deviation"]["ua"] is None


def test_methods_that_are_there(five):
    assert results.methods_of(five.root) == ["align"]
    five.finish("2", "tapt-finetune-speaker", "speaker")
    five.finish("3", "finetune")
    assert results.methods_of(five.root) == ["finetune", "tapt", "align"] and results.methods_of(five.root / "x") == []
