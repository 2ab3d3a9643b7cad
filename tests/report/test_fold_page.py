"""report.html of small runs: its numbers are the run's, it needs nothing else, a browser shows it without complaint."""
import dataclasses
import re
import runpy
import shutil
import sys
from pathlib import Path

import browser
import markup
import numpy as np
import pytest
import small
import soundfile
import torch
from recognised_noise import noise, recognised

from framealign.runtime import files
from framealign.sound.frames import Framing
from framealign.corpus import frame_truth, manifest
from framealign.corpus.utterance import Stretch
from framealign.units.codebook import Codebook
from framealign.units.units import Units
from framealign.emotion import diarization
from framealign.emotion.predictions import Predictions
from framealign.emotion.recogniser import Recogniser
from framealign.recipe import recipe, results, session_config
from framealign.report import charts, fold_page, html_document, lesson, svg, timeline, tracks, unit_analysis
from framealign.report.timeline import UnitTrack

PLACES = ["result", "confidence", "over-time", "training", "units", "map", "utterances"]
needs_browser = pytest.mark.skipif(not browser.CHROMIUM, reason="no Chromium (chromium, google-chrome) on the PATH")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def run(small_tree, small_base, folder) -> Path:
    """The whole method on two folds, with their pages."""
    for held_out in "12":
        recipe.run_sessions(small.config(small_tree, small_base, folder / "run", session=held_out), small.SETTINGS)
    write_all(folder / "run", "align")
    return folder / "run"


@pytest.fixture(scope="module")
def framed(run, small_tree, small_base, folder) -> Path:
    """The same run, whose first fold has a classifier of frames and its bound too."""
    copy = shutil.copytree(run, folder / "framed", symlinks=True)
    recipe.run_sessions(small.config(small_tree, small_base, copy, frames=True, bound=True), small.SETTINGS)
    write_all(copy, "align")
    return copy


def write_all(run: Path, method: str, session: str = "all") -> list[Path]:
    """The pages of a method's finished folds."""
    return fold_page.write_all(run, results.collect(run, method), session, "cpu")


def opened(path: Path) -> markup.Element:
    return markup.read(path.read_text(encoding="utf-8"))


def part(root: markup.Element, place: str) -> markup.Element:
    found, = [one for one in root.all("section") if one.attributes["id"] == place]
    return found


def test_every_part_is_there_and_nothing_comes_from_elsewhere(run):
    for held_out in "12":
        path = run / f"session{held_out}" / "report.html"
        assert path.stat().st_size < html_document.LIMIT_BYTES
        content = path.read_text(encoding="utf-8")
        assert not markup.fetched(content)
        root = markup.read(content)
        assert [one.attributes["id"] for one in root.all("section")] == PLACES
        assert [one.attributes["href"] for one in root.all("nav")[0].all("a")] == \
            [f"#{place}" for place in PLACES]
    assert markup.fetched((run / "report.html").read_text(encoding="utf-8")) == \
        ["session1/report.html", "session2/report.html"]


def test_units_that_belong_to_another_codebook_are_refused(run, folder):
    """Files that were swapped or restored by hand: the page would name units by centroids that are not theirs."""
    copy = shutil.copytree(run, folder / "swapped", symlinks=True)
    place = copy / "session1" / "align-units" / "codebook.safetensors"
    codebook = Codebook.read(place)
    dataclasses.replace(codebook, centroids=codebook.centroids.flip(0)).write(place)
    with pytest.raises(ValueError, match="units.safetensors was not made with codebook.safetensors; make both again"):
        write_all(copy, "align", "1")
    dataclasses.replace(codebook, record=codebook.record | {"encoder": "another"}).write(place)
    with pytest.raises(ValueError, match="fitted on frames of encoder another"):
        write_all(copy, "align", "1")


def test_a_run_of_25_hz_is_shown_with_its_own_frames(small_tree, folder, monkeypatch):
    """The recipe from a base of 25 Hz to its pages: units, planted truth, map and lesson count the same frames."""
    base = small.write_base(folder / "base 25 hz", **small.MODEL_25_HZ)
    recipe.run_sessions(small.config(small_tree, base, folder / "25 hz"), small.SETTINGS)
    counted = []
    planted = frame_truth.is_emotional
    monkeypatch.setattr(frame_truth, "is_emotional", lambda utterance, frames, framing: counted.append(
        (utterance.path, frames, framing)) or planted(utterance, frames, framing))
    write_all(folder / "25 hz", "align")
    page = lesson.write(folder / "25 hz")
    for path, frames, framing in counted:
        assert framing == Framing(640, 720) and frames == (soundfile.info(path).frames - 720) // 640 + 1
    text = opened(folder / "25 hz" / "session1" / "report.html").text
    assert counted and "frames of 40 ms (12: 12 and more)" in text and "one every 40 ms" in text
    assert "- 720) / 640) + 1" in opened(page).text and "8 convolutions turn" in opened(page).text
    found = Units.read(folder / "25 hz" / "session1" / "align-units" / "units.safetensors")
    run_ms = float(re.search(r"mean run[\d.]+ frames, (\d+) ms", text)[1])
    assert run_ms == pytest.approx(40 * unit_analysis.unit_usage(found).mean_run_frames, abs=0.5)


def test_numbers_are_those_of_the_results(run):
    results = files.read_json(run / "session1" / "ser-finetune" / "results.json")
    root = opened(run / "session1" / "report.html")
    result = part(root, "result")
    values = [one.text for one in result.all("div", "value")]
    assert values == [f"{100 * results['reported'][name]:.1f} %" for name in ("ua", "wa", "macro_f1")]
    for name in ("ua", "wa", "macro_f1"):
        ends = results["test"]["interval_95"][name]
        assert ends is None or f"95 %: {100 * ends[0]:.1f} to {100 * ends[1]:.1f}" in result.text
    assert "95 % interval of the test predictions for new speakers, from 2 speakers and 1 seed" in result.text
    counts = [int(cell.all("small")[0].text) for cell in result.all("table", "confusion")[0].all("td")]
    assert counts == sum(results["test"]["confusion"], [])
    facts = dict(zip((one.text for one in result.all("dt")), (one.text for one in result.all("dd"))))
    assert facts["selection"] == "clean" and facts["pretrain data"] == "transductive" and facts["method"] == "align"
    assert facts["test"] == str(results["num_utterances"]["test"]) and facts["classes"] == "neutral, happy, angry, sad"


def test_the_overview_pools_the_folds(run):
    found = results.collect(run, "align")
    root = opened(run / "report.html")
    values = [one.text for one in root.all("div", "value")]
    assert values == [f"{100 * found['pooled'][name]:.1f} %" for name in ("ua", "wa", "macro_f1")]
    counts = [int(cell.all("small")[0].text) for cell in root.all("table", "confusion")[0].all("td")]
    assert counts == sum(found["pooled"]["confusion"], [])
    rows = [[cell.text for cell in row.all("td")] for row in root.all("table", "plain")[0].all("tr")[1:]]
    for row, fold in zip(rows, found["folds"].values()):
        assert row[:3] == [f"{100 * fold['reported'][name]:.1f}" for name in ("wa", "ua", "macro_f1")]


def test_confidence_is_that_of_the_results(framed, folder):
    """Before and after, of every stage that was tested; pooled in the overview; of older results what is known."""
    fold = framed / "session1"
    place = part(opened(fold / "report.html"), "confidence")
    table = rows_of(place.all("table", "plain")[0])
    stages = ["ser-finetune", "frames", "frames-bound"]
    assert list(table) == ["stage", *(f"{stage}, {when}" for stage in stages for when in ("before", "after"))]
    for stage in stages:
        scores = files.read_json(fold / stage / "results.json")["test"]
        for when, key in (("before", "uncalibrated"), ("after", "calibration")):
            one = scores[key]
            assert table[f"{stage}, {when}"][0] == f"{100 * one['ece']:.1f}"
            assert table[f"{stage}, {when}"][4:6] == [f"{one['brier']:.3f}", f"{100 * one['aurc']:.1f}"]
            titles = {title.text for title in place.all("title")}
            drawn = {f"{when}: {number} utterances, confidence {100 * mean:.1f} %, right {100 * right:.1f} %"
                     for number, mean, right in one["bins"]}
            assert drawn <= titles or stage == "frames-bound"
    captions = [one.text for one in place.all("figcaption")]
    assert captions == ["Reliability, ser-finetune", "Risk by coverage, ser-finetune", "Reliability, frames",
                        "Risk by coverage, frames", "Calibration, %"]

    pooled = results.collect(framed, "align")["calibration"]
    place = part(opened(framed / "report.html"), "confidence")
    table = rows_of(place.all("table", "plain")[0])
    assert table["ser-finetune, after"][0] == f"{100 * pooled['ser-finetune']['calibration']['ece']:.1f}"

    old = shutil.copytree(framed, folder / "old", symlinks=True)
    for path in old.glob("session*/*/results.json"):
        content = files.read_json(path)
        content.pop("calibration", None)
        for name in ("calibration", "uncalibrated"):
            content["test"].pop(name, None)
        files.write_json(path, content)
        (path.parent / "uncalibrated.csv").unlink(missing_ok=True)
    write_all(old, "align", "1")
    place = part(opened(old / "session1" / "report.html"), "confidence")
    assert list(rows_of(place.all("table", "plain")[0])) == ["stage", "ser-finetune"] and "not calibrated" in place.text


def test_every_stage_that_trained_has_its_curves(run, framed):
    for place, last in ((run, []), (framed, ["Stage 7"])):
        training = part(opened(place / "session1" / "report.html"), "training")
        stages = [one.text.partition(":")[0] for one in training.all("summary")]
        assert stages == ["Stage 2", "Stage 3", "Stage 5", "Stage 6", *last]
        assert ("Loss of the scorer, nats per frame" in training.text) == bool(last)
    spreads = files.read_json(framed / "session1" / "frames" / "scorer" / "spreads.json")
    assert [one.text for one in training.all("dd")] == [f"{100 * one['coverage']:.0f} %" for one in spreads.values()]
    assert [one.text for one in training.all("dt")] == list(spreads) == ["happy", "angry", "sad"]


def rows_of(table: markup.Element) -> dict[str, list[str]]:
    """A table's cells by the name of their row; of the header too."""
    rows = [[cell.text for cell in (*row.all("th"), *row.all("td"))] for row in table.all("tr")]
    return {name: cells for name, *cells in rows}


def test_the_emotion_over_time_is_scored_for_each_recogniser(framed):
    """Table, bars and confusion are the numbers of the three results.json, beside the two constant answers."""
    fold = framed / "session1"
    known = {name: files.read_json(fold / name / "results.json") for name in ("ser-finetune", "frames", "frames-bound")}
    place = part(opened(fold / "report.html"), "over-time")
    rows = rows_of(place.all("table", "plain")[0])
    first, frames, bound = (f"{name}: {words}" for name, words in zip(known, (
        "whole utterances", "estimated frames", "true frames")))
    assert list(rows) == ["stage: learned from", first, frames, bound, "always neutral", "label everywhere"]
    keys = ["eder", "false_alarm", "missed", "confused", "segment_eder"]
    for name, tested in zip((first, frames, bound), known.values()):
        scores = tested["over_time"]
        assert rows[name][:5] == [f"{100 * scores[key]:.1f}" for key in keys]
        assert rows[name][5:8] == ["-" if scores[key] is None else f"{scores[key]:.2f}"
                                   for key in ("emotional_auc", "class_auc", "boundary_f1")]
        assert rows[name][8] == f"{100 * tested['reported']['ua']:.1f}"
    scores = known["frames"]["over_time"]
    assert rows["always neutral"][0] == f"{100 * scores['always_neutral']:.1f}"
    assert rows["label everywhere"][0] == f"{100 * scores['label_everywhere']:.1f}"
    assert f"always neutral: {100 * scores['always_neutral']:.1f} %" in place.text

    titles = [title.text for title in place.all("title")]
    assert titles == [f"{name}: {words} {100 * tested['over_time'][key]:.1f} %" for name, tested in known.items()
                      for key, words in (("false_alarm", "false alarm: an emotion where it is neutral"),
                                         ("missed", "missed: neutral where it is not"),
                                         ("confused", "confused: another emotion than the true one"))]
    counts = [int(cell.all("small")[0].text) for cell in place.all("table", "confusion")[0].all("td")]
    assert counts == [round(seconds) for row in scores["confusion_seconds"].values() for seconds in row.values()]
    assert sum(counts) > 3


def test_without_a_truth_the_recogniser_of_frames_has_its_ua(framed, folder):
    """Results as of a corpus whose frames nobody knows; without a classifier of frames there is nothing to say."""
    copy = shutil.copytree(framed, folder / "no truth", symlinks=True)
    for path in copy.glob("session*/*/results.json"):
        files.write_json(path, {name: value for name, value in files.read_json(path).items() if name != "over_time"})
    write_all(copy, "align")
    place = part(opened(copy / "session1" / "report.html"), "over-time")
    rows = rows_of(place.all("table", "plain")[0])
    ua = files.read_json(copy / "session1" / "frames" / "results.json")["reported"]["ua"]
    assert rows["frames: estimated frames"][0] == f"{100 * ua:.1f}" and rows["stage: learned from"][0] == "UA"
    assert "It is not known when these utterances are emotional" in place.text and "EDER" not in place.text
    without = opened(copy / "session2" / "report.html")
    assert "over-time" not in [one.attributes["id"] for one in without.all("section")]
    assert "EDER" not in opened(copy / "report.html").text


def test_the_recogniser_of_frames_draws_the_examples(framed):
    """They are chosen from its predictions; what is said of them is what it recognises."""
    stage, utterances = framed / "session1" / "frames", {u.id: u for u in manifest.read(framed / "corpus.tsv")}
    recogniser = Recogniser.from_pretrained(stage / "recogniser")
    place = part(opened(framed / "session1" / "report.html"), "utterances")
    chosen = unit_analysis.example_utterances(Predictions.read(stage / "predictions.csv", utterances), 0)
    figures = place.all("figure", "timeline")
    assert [figure.all("h3")[0].text for figure in figures] == [example.id for example in chosen]
    for figure, example in zip(figures, chosen):
        result = recogniser(utterances[example.id].path)
        shares = [share.text for share in figure.all("span", "share")]
        assert shares == [f"{100 * share:.0f} %" for share in result.probabilities.values()]
        scores = diarization.scores([(utterances[example.id], result)])
        assert (f"wrong for {100 * scores['segment_eder']:.0f} % of its time, by segments (always neutral "
                f"{100 * scores['always_neutral']:.0f} %)") in figure.text
        assert tracks.WITHOUT_FRAMES not in figure.text
    assert "The recogniser of the stage frames draws them. The posterior is by the classifier of frames" in place.text
    other = part(opened(framed / "session2" / "report.html"), "utterances")
    assert "The recogniser of the stage ser-finetune draws them" in other.text
    assert all(tracks.WITHOUT_FRAMES in figure.text for figure in other.all("figure", "timeline"))


def test_the_overview_has_the_eder_of_each_fold_and_their_mean(framed):
    """A fold without a classifier of frames has none of it, and is no part of its mean."""
    rows = rows_of(opened(framed / "report.html").all("table", "plain")[0])
    assert rows[""] == ["WA", "UA", "macro-F1", "EDER ser-finetune", "EDER frames", "EDER frames-bound",
                        "always neutral", "n"]
    first, second, frames = [files.read_json(framed / place / "results.json")["over_time"] for place in (
        "session1/ser-finetune", "session2/ser-finetune", "session1/frames")]
    assert [rows[name][3] for name in ("session 1", "session 2", "mean")] == [
        f"{100 * value:.1f}" for value in (first["eder"], second["eder"], (first["eder"] + second["eder"]) / 2)]
    assert [rows[name][4] for name in ("session 1", "session 2", "mean")] == [
        f"{100 * frames['eder']:.1f}", "-", f"{100 * frames['eder']:.1f}"]
    assert [rows[f"session {n}"][6] for n in "12"] == [f"{100 * one['always_neutral']:.1f}" for one in (first, second)]


def test_units_are_those_of_the_run(run):
    units = part(opened(run / "session2" / "report.html"), "units")
    facts = dict(zip((one.text for one in units.all("dt")), (one.text for one in units.all("dd"))))
    counts = Codebook.read(run / "session2" / "align-units" / "codebook.safetensors").counts
    assert facts["units in use"] == f"{int((counts > 0).sum())} of 5" and facts["frames"] == f"{int(counts.sum()):,}"
    assert "where it was planted" in units.text


def test_examples_are_test_utterances_each_once_with_truth_and_units(run):
    root = part(opened(run / "session1" / "report.html"), "utterances")
    names = [one.text for one in root.all("h3")]
    assert len(names) == len(set(names)) >= 4 and all(name.startswith("Ses01") for name in names)
    utterances = {u.id: u for u in manifest.read(run / "corpus.tsv")}
    for figure, name in zip(root.all("figure", "timeline"), names):
        assert figure.all("audio") and figure.all("div", "units") and figure.all("div", "truth")
        assert utterances[name].label in figure.all("p", "verdict")[0].text
    notes = " ".join(one.text for one in root.all("p", "note"))
    assert "best" in notes and "worst" in notes and "attention of emotional frames against the others: AUC" in notes


def test_a_page_can_be_made_again_and_is_the_same(run):
    before = (run / "session1" / "report.html").read_bytes()
    pages = [run / "session1" / "report.html", run / "report.html"]
    assert write_all(run, "align", "1") == pages
    assert (run / "session1" / "report.html").read_bytes() == before


def test_a_fold_that_is_not_finished_is_named(run):
    with pytest.raises(ValueError, match="session 3 is not finished; finished: 1, 2"):
        write_all(run, "align", "3")
    with pytest.raises(ValueError, match="no finished fold of method finetune"):
        write_all(run, "finetune")


@pytest.mark.parametrize("change, places", [
    ({"method": "finetune"}, ["result", "confidence", "over-time", "training", "map", "utterances"]),
    ({"method": "probe", "selection": "speaker"}, ["result", "confidence", "training", "map", "utterances"]),
    ({"method": "multiscale"}, None),
    ({"method": "tapt", "pretrain_data": "inductive"}, None),
    ({"method": "align", "hubert": "scratch", "selection": "reference", "pretrain_data": "inductive"},
     ["result", "confidence", "training", "units", "map", "utterances"])])
def test_every_method_and_protocol_has_a_page(small_tree, small_base, tmp_path, change, places):
    recipe.run_sessions(small.config(small_tree, change.get("hubert", small_base), tmp_path / "run",
                                      **{k: v for k, v in change.items() if k != "hubert"}), small.SETTINGS)
    path, = write_all(tmp_path / "run", change["method"])
    root = opened(path)
    assert path.name == ("report.html" if change["method"] == "align" else f"report-{change['method']}.html")
    assert [one.attributes["id"] for one in root.all("section")] == (places or PLACES)
    assert ("Optimistic" in root.text) == (change.get("selection") == "reference")
    if change["method"] == "probe":                 # of each of the two trainings
        summaries = [one.text for one in part(root, "training").all("summary")]
        assert [words.partition(",")[0] for words in summaries] == ["Frozen probe of the base model"] * 2
        assert part(root, "training").text.count("Layers in the weighted sum") == 2
        assert "the projected sum of all layers' states" in part(root, "map").text
    elif change["method"] != "finetune":            # inductive: units of the test session are computed
        assert all(figure.all("div", "units") for figure in root.all("figure", "timeline"))
    if change["method"] == "multiscale":            # of codebooks of 3 and 5 the larger is drawn
        assert "The 5 clusters" in part(root, "units").text
        assert f"mean of ln 3, 5 = {np.log(15) / 2:.2f}" in part(root, "training").text
    if change.get("hubert") == "scratch":
        stages = [one.text.partition(":")[0] for one in part(root, "training").all("summary")]
        assert stages == ["Stage 0", "Stage 0", "Stage 2", "Stage 3", "Stage 5", "Stage 6", "Stage 6"]


def test_units_that_are_computed_are_those_that_are_stored(run):
    """For an utterance of the corpus, but for frames that half precision moved to another centroid."""
    utterances = manifest.read(run / "corpus.tsv")
    fold = fold_page.Fold(run, "1", "align", results.collect(run, "align"))
    units = fold_page.FoldUnits.read(fold, utterances)
    unknown = dataclasses.replace(units, utterances=[])
    same = [units.of(u) == unknown.of(u) for u in utterances]
    assert np.concatenate(same).mean() > 0.98


def called(name: str, *words: object) -> int:
    """Run a script of bin/ in this process: its exit status."""
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "argv", [name, *map(str, words)])
    try:
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(small.ROOT / "bin" / f"{name}.py"), run_name="__main__")
    finally:
        patch.undo()
    return end.value.code


def test_a_session_ends_with_its_page_unless_told_not_to(small_tree, small_base, tmp_path, capsys):
    """The table stays the last that is said."""
    words = ["--iemocap", small_tree, "--allow-partial", "--hubert", small_base, "--preset", "tiny", "--device", "cpu",
             *small.FLAGS, "--method", "finetune", "--out", tmp_path / "run"]
    path = tmp_path / "run" / "session1" / "report-finetune.html"
    assert called("session", *words, "--no-report") == 0 and not path.exists()
    capsys.readouterr()
    assert called("session", *words) == 0 and path.exists()
    said = capsys.readouterr().out
    assert 0 < said.index(f"{path}: 0.") < said.index("protocol: ")
    path.unlink()
    assert called("report", tmp_path / "run", "--method", "finetune") == 0 and path.exists()


def test_a_run_without_pages_to_make_is_refused_in_one_line(tmp_path, capsys):
    assert called("report", tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_states_on_the_map_are_those_the_classifier_reads(run):
    recogniser = Recogniser.from_pretrained(run / "session1" / "recogniser")
    utterance = manifest.read(run / "corpus.tsv")[0]
    states = unit_analysis.classifier_states(recogniser.model, utterance)
    with torch.inference_mode():
        posterior = recogniser.model.classifier(states).softmax(-1).numpy()
    assert np.abs(posterior - recogniser(utterance.path).posterior).max() < 1e-5


def test_a_corpus_of_other_names_without_truth(small_tree, small_base, tmp_path):
    """Labels of one's own, with markup in names; no planted truth; a table instead of a tree."""
    lines = ["path\tlabel\tsession\tspeaker"]
    for index, path in enumerate(sorted(small_tree.rglob("*.wav"))):
        shutil.copy(path, tmp_path / f"{index}.wav")
        lines.append(f"{index}.wav\t{('a&b', 'fear')[index % 2]}\t{path.stem[4]}\t{path.stem[:6]}")
    (tmp_path / "table.tsv").write_text("\n".join(lines) + "\n")
    chosen = session_config.SessionConfig(corpus=str(tmp_path / "table.tsv"), hubert=str(small_base), preset="tiny",
                                   device="cpu", out=str(tmp_path / "run"), classes="a&b,fear")
    recipe.run_sessions(chosen, small.SETTINGS)
    path, = write_all(tmp_path / "run", "align")
    root = opened(path)
    assert "a&b" in root.text and not root.all("div", "truth") and "AUC" not in part(root, "utterances").text
    assert "that of the whole utterance, including pauses" in part(root, "units").text


def many_classes(folder: Path, num_classes: int) -> tuple[Path, list[str]]:
    """A table of noise of three speakers, each class by each, and the classes: neutral and others."""
    draw = np.random.default_rng(num_classes)
    names = ["neutral", *(f"emotion{number}" for number in range(1, num_classes))]
    lines = ["path\tlabel\tspeaker"]
    for speaker in "abc":
        for number, name in enumerate(names):
            soundfile.write(folder / f"{speaker}{number}.wav", draw.normal(scale=0.1, size=9600), 16_000)
            lines.append(f"{speaker}{number}.wav\t{name}\t{speaker}")
    (folder / "table.tsv").write_text("\n".join(lines) + "\n")
    return folder / "table.tsv", names


@pytest.mark.parametrize("num_classes", [2, 8, 30])
def test_two_to_thirty_classes(small_base, tmp_path, num_classes):
    """From a table to pages, tables and card, one speaker held out at a time: every class is named, no line is long."""
    table, names = many_classes(tmp_path, num_classes)
    chosen = session_config.SessionConfig(corpus=str(table), hubert=str(small_base), preset="tiny", device="cpu",
                                          out=str(tmp_path / "run"), classes=",".join(names), method="finetune",
                                          folds="speakers", session="all")
    recipe.run_sessions(chosen, small.SETTINGS)
    collected = results.collect(tmp_path / "run", "finetune")
    *pages, overview = fold_page.write_all(tmp_path / "run", collected, "all", "cpu")
    assert [page.parent.name for page in pages] == ["sessiona", "sessionb", "sessionc"]
    page, whole = opened(pages[0]), opened(overview)
    assert "Speaker a held out, method finetune" in page.text and "one speaker held out at a time" in whole.text
    for root, scores in ((page, collected["folds"]["a"]["test"]), (whole, collected["pooled"])):
        confusion = root.all("table", "confusion")[0]
        assert [cell.text for cell in confusion.all("th")] == ["", *names, *names]
        if num_classes > charts.MANY:
            counts = [int(cell.attributes["title"].split(": ")[1].split()[0]) for cell in confusion.all("td")]
        else:
            counts = [int(cell.all("small")[0].text) for cell in confusion.all("td")]
        assert counts == sum(scores["confusion"], [])
    legends = page.all("p", "legend")
    assert any([span.text for span in legend.all("span")] == names for legend in legends)

    _, *lines = results.table(collected).splitlines()                           # the first line is the protocol
    confusion = lines.index("confusion, pooled (rows: truth, columns: predicted)")
    rows = [line.split() for line in lines[confusion + 2:confusion + 2 + num_classes]]
    assert [list(map(int, row[-num_classes:])) for row in rows] == collected["pooled"]["confusion"]
    assert max(len(line) for line in lines[:confusion + 2 + num_classes]) < 180
    cells = [line.split() for line in lines[:confusion]]
    if num_classes > results.MAX_COLUMNS:
        first = next(number for number, row in enumerate(cells) if row[0] == "recall")
        column = cells[first].index("pooled")
        shown = {row[0]: row[column] for row in cells[first + 1:first + 1 + num_classes]}
    else:
        shown = dict(zip(names, next(row for row in cells if row[0] == "pooled")[4:]))
    assert shown == {name: f"{100 * collected['pooled']['recall'][name]:.1f}" for name in names}
    card = (tmp_path / "run/sessiona/recogniser/README.md").read_text()
    assert all(f"| {name} |" in card for name in names) and f"Classes: {', '.join(names)}." in card


@pytest.fixture(scope="module")
def window(tmp_path_factory) -> browser.Browser:
    try:
        found = browser.Browser(tmp_path_factory.mktemp("profile"))
    except (RuntimeError, TimeoutError, OSError) as error:
        pytest.skip(f"{browser.CHROMIUM} does not start: {error}")
    yield found
    found.close()


@needs_browser
@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_the_pages_without_complaint(framed, window, width, dark):
    """No message in the console, nothing asked for, nothing wider than the window; dark is dark."""
    for path in (framed / "session1" / "report.html", framed / "report.html"):
        window.open(path, width, dark=dark)
        assert window.complaints == []
        assert window.run("document.documentElement.scrollWidth") == width
        assert window.run("document.documentElement.scrollHeight") > 600
        wide = window.run("""[...document.querySelectorAll("main *")].filter(x => !x.closest(".lane, .scroll, svg"))
            .filter(x => x.getBoundingClientRect().right > innerWidth + 0.5).map(x => x.className + " " + x.tagName)""")
        assert wide == []
        colour = window.run("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", colour)[:3])) < 100) == dark


@needs_browser
@pytest.mark.parametrize("width", [360, 1400])
def test_text_is_large_enough_to_be_read(framed, window, width):
    """No letter on the page is smaller than 8.5 px, wherever a picture is scaled down."""
    window.open(framed / "session1" / "report.html", width)
    smallest = window.run("""Math.min(...[...document.querySelectorAll("svg text")].map(x =>
        parseFloat(getComputedStyle(x).fontSize) * x.getScreenCTM().a || 99))""")
    plain = window.run("""Math.min(...[...document.querySelectorAll("p, td, th, dt, dd, small, span")].map(x =>
        parseFloat(getComputedStyle(x).fontSize)))""")
    assert min(smallest, plain) >= 8.5


@needs_browser
def test_every_text_stands_out_from_what_is_below_it(framed, window):
    """Contrast of the words of page, notes and headings with the card is at least 4.5, light and dark."""
    for dark in (False, True):
        window.open(framed / "session1" / "report.html", 1400, dark=dark)
        card, *words = window.run("""[".card|backgroundColor", ".note|color", "h2|color", ".card|color", ".right|color",
            ".wrong|color", "nav a|color", "dt|color"].map(x => x.split("|")).filter(x => document.querySelector(x[0]))
            .map(x => getComputedStyle(document.querySelector(x[0]))[x[1]])""")
        hexadecimal = lambda text: "#" + "".join(f"{int(c):02x}" for c in re.findall(r"\d+", text)[:3])
        assert all(svg.contrast(hexadecimal(card), hexadecimal(word)) >= 4.5 for word in words), (card, words)


CURSOR = """[document.querySelector(".clock").textContent, +document.querySelector(".tracks").ariaValueNow,
    document.querySelector(".cursor").getBoundingClientRect().left, document.querySelector(".readout").textContent]"""


@needs_browser
@pytest.mark.parametrize("width", [360, 1400])
def test_the_cursor_goes_where_one_clicks_and_says_what_is_there(window, tmp_path, width):
    result, units = recognised(100), UnitTrack(np.arange(100) // 10)
    known = timeline.Annotation(truth=[Stretch(0.3, 1.3, "angry"), Stretch(1.3, 1.9, "sad")])
    (tmp_path / "a.html").write_text(timeline.page("a", [timeline.picture(noise(100), result, known, units)]))
    window.open(tmp_path / "a.html", width)
    box = window.run("(b => [b.left, b.width, b.top])(document.querySelector('.wave').closest('.lane')"
                     ".getBoundingClientRect())")
    for share, true in ((0.25, "angry"), (0.7, "sad"), (0.02, "neutral")):
        window.click(box[0] + share * box[1], box[2] + 10)
        clock, now, left, readout = window.run(CURSOR)
        seconds = share * (320 * 100 + 80) / 16_000
        assert now == pytest.approx(seconds, abs=2.1 / box[1] * 2) and clock.startswith(f"{now:.2f} / 2.00")
        assert left == pytest.approx(box[0] + share * box[1], abs=2.5)
        t = int(now * 50)
        best = result.posterior[t].argmax()
        assert f"{list(result.probabilities)[best]} {round(100 * result.posterior[t, best])} %" in readout
        assert f"attention {100 * result.attention[t]:.1f} ×" in readout
        assert f"truth: {true} · unit {units.units[t]}" in readout
        assert window.run("document.querySelector('audio').currentTime") == pytest.approx(now, abs=0.01)
    window.run("document.querySelector('.tracks').focus()")
    before = window.run(CURSOR)[1]
    for key, change in (("ArrowRight", 0.02), ("ArrowLeft", 0.0), ("Home", -before)):
        window.send("Input.dispatchKeyEvent", type="keyDown", key=key)
        assert window.run(CURSOR)[1] == pytest.approx(before + change, abs=0.006)
    assert window.complaints == []


@needs_browser
def test_the_cursor_moves_with_the_sound(window, tmp_path):
    """Play plays the file that was put in; the cursor follows it to the end; a second sound stops the first."""
    pictures = [timeline.picture(noise(40, seed=seed), recognised(40)) for seed in (0, 1)]
    (tmp_path / "a.html").write_text(timeline.page("two", pictures))
    window.open(tmp_path / "a.html", 1400)
    window.run("document.querySelector('.play').click()")
    places = window.run("""new Promise(done => { const seen = []; const look = () => {
        seen.push(+document.querySelector(".tracks").ariaValueNow);
        if (document.querySelector("audio").ended || seen.length > 400) done(seen); else requestAnimationFrame(look); };
        look(); })""")
    assert len(set(places)) > 5 and places == sorted(places) and places[-1] >= 0.75
    assert window.run("document.querySelector('audio').error") is None
    assert window.run("document.querySelector('audio').duration") == pytest.approx((320 * 40 + 80) / 16_000, abs=0.03)
    window.run("document.querySelectorAll('.play')[0].click()")
    window.run("new Promise(done => setTimeout(done, 100))")
    window.run("document.querySelectorAll('.play')[1].click()")
    assert window.run("document.querySelectorAll('audio')[0].paused") is True
    assert window.complaints == []


@needs_browser
def test_the_switch_turns_the_light_on_and_off(window, tmp_path):
    (tmp_path / "a.html").write_text(timeline.page("a", [timeline.picture(noise(20), recognised(20))]))
    window.open(tmp_path / "a.html", 1400, dark=True)
    seen = [window.run("getComputedStyle(document.body).backgroundColor")]
    for _ in range(2):
        window.run("document.querySelector('.theme').click()")
        seen.append(window.run("getComputedStyle(document.body).backgroundColor"))
    assert seen[0] == seen[2] != seen[1]
    window.open(tmp_path / "a.html", 700, dark=True, media="print")
    assert window.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert window.run("getComputedStyle(document.querySelector('.player .play')).display") == "none"


@needs_browser
def test_a_browser_decodes_our_png(window, tmp_path):
    """Pixels that Chromium reads back from a canvas are those that were written."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    (tmp_path / "a.html").write_text(f'<img src="{svg.data_uri(svg.png(pixels), "image/png")}">')
    window.open(tmp_path / "a.html", 400)
    found = window.run("""(async () => { const image = document.querySelector("img"); await image.decode();
        const canvas = document.createElement("canvas"); canvas.width = 7; canvas.height = 5;
        const pen = canvas.getContext("2d"); pen.drawImage(image, 0, 0);
        return [...pen.getImageData(0, 0, 7, 5).data]; })()""")
    assert np.array_equal(np.array(found).reshape(5, 7, 4)[..., :3], pixels)


def test_a_long_sound_fits_into_the_page():
    """Three minutes of noise: the picture stays below the limit of a page, sound or no sound."""
    picture = timeline.picture(noise(50 * 180), recognised(50 * 180))
    assert len(timeline.page("a", [picture])) < html_document.LIMIT_BYTES


def test_a_page_says_which_class_a_part_lacks(run, folder):
    """On the fold's page and on the overview, as in the table; where nothing lacks, nothing is said."""
    assert "a test part without" not in opened(run / "session1" / "report.html").text
    collected = results.collect(run, "align")
    collected["missing"] = {"1": {"test": ["sad"], "validation": ["sad", "angry"]}}
    words = ("Session 1: a test part without sad, a validation part without sad and angry: its UA and macro-F1 are "
             "over the other classes.")
    copy = shutil.copytree(run, folder / "lacking", symlinks=True)
    pages = fold_page.write_all(copy, collected, device="cpu")
    assert [words in opened(page).text for page in pages] == [True, False, True]
