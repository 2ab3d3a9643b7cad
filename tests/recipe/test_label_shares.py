"""Tables of several shares of the labels, recomputed from the prediction files and the scores of frames alone."""
import csv
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import small
from random_results import Run

from framealign.runtime import files
from framealign.corpus import manifest
from framealign.corpus.importers import iemocap
from framealign.commands import evaluate_command
from framealign.recipe import comparison, label_shares, recipe
from framealign.recipe.label_shares import measured, shares_of

STAGES = {"probe": "probe", "finetune": "finetune", "align": "ser-finetune"}
T_95 = {5: 2.570582}                                # Student's t quantile of 95 %, by degrees of freedom (tables)


def frames_of(place: Path, draw: np.random.Generator, speakers: dict[str, int]) -> list[tuple[str, float]]:
    """A finished stage with a classifier of frames and its EDER by speaker; (speaker, EDER) of each utterance."""
    rates = [(name, draw.uniform(0.1, 0.6)) for name, number in speakers.items() for _ in range(number)]
    of_speakers = {name: {"eder": float(np.mean([rate for one, rate in rates if one == name])),
                          "num_utterances": number} for name, number in speakers.items()}
    files.write_json(place / "results.json", {
        "over_time": {"eder": float(np.mean([rate for _, rate in rates])), "num_utterances": len(rates),
                      "speakers": of_speakers}, "num_utterances": {"train": 20, "valid": 5, "test": len(rates)}})
    files.write_json(place / "stage.json", {})
    return rates


@pytest.fixture
def several(tmp_path) -> Path:
    """Shares of 10, 30 and 100 %, two seeds of three sessions, three methods; `probe` with all labels alone; frames
    with 10 % and 100 %.
    """
    draw = np.random.default_rng(5)
    for seed in (1, 2):
        for share in ("share0.1", "share0.3", ""):
            place = tmp_path / "several" / f"seed{seed}" / share
            place.mkdir(parents=True, exist_ok=True)
            run = Run(place, "123")
            run.draw = draw
            for session in "123":
                for stage in STAGES.values() if not share else list(STAGES.values())[1:]:
                    run.finish(session, stage)
                    path = place / f"session{session}" / stage / "results.json"
                    number = {"share0.1": 8, "share0.3": 24, "": 80}[share] + int(session) - 2
                    files.write_json(path, files.read_json(path) | {"num_utterances": {"train": number, "valid": 3,
                                                                                      "test": 40}})
                for stage in ("frames", "align-frames") if share != "share0.3" else ():
                    frames_of(place / f"session{session}" / stage, draw, {f"Ses0{session}F": 3, f"Ses0{session}M": 5})
    return tmp_path / "several"


def ua_of(run: Path, stage: str) -> float:
    sklearn = pytest.importorskip("sklearn.metrics")
    rows = [row for path in run.glob(f"session*/{stage}/predictions.csv") for row in csv.DictReader(path.open())]
    return sklearn.balanced_accuracy_score([row["true"] for row in rows], [row["predicted"] for row in rows])


def point(of_run: dict, measure: str, share: float, name: str) -> dict:
    one, = [one for one in of_run[measure] if (one["share"], one["name"]) == (share, name)]
    return one


def test_the_shares_of_a_run_are_those_in_its_folder(several, tmp_path):
    assert shares_of(several) == {0.1: several / "share0.1", 0.3: several / "share0.3", 1.0: several}
    assert shares_of(several / "seed1") == {share: path for share, path in zip(
        (0.1, 0.3, 1.0), (several / "seed1/share0.1", several / "seed1/share0.3", several / "seed1"))}
    (several / "seed1" / "shared").mkdir()
    assert len(shares_of(several)) == 3 and shares_of(tmp_path / "none") == {}


def test_every_methods_ua_and_difference_are_those_of_its_predictions(several):
    of_run = measured(several)
    assert [(one["share"], one["name"]) for one in of_run["ua"]] == [
        (0.1, "finetune"), (0.1, "align"), (0.3, "finetune"), (0.3, "align"), (1.0, "probe"), (1.0, "finetune"),
        (1.0, "align")]
    for one in of_run["ua"]:
        share = "" if one["share"] == 1 else f"share{one['share']}"
        uas = {name: np.mean([ua_of(several / f"seed{seed}" / share, STAGES[name]) for seed in (1, 2)])
               for name in {one["name"], "finetune"}}
        assert one["value"] == pytest.approx(uas[one["name"]], abs=1e-12)
        assert one["seeds"] == 2 and one["labelled"] == {0.1: 8, 0.3: 24, 1.0: 80}[one["share"]]
        low, high = one["interval"]
        assert low < one["value"] < high
        if one["name"] == "finetune":
            assert one["difference"] is None and one["difference_interval"] is None
        else:
            assert one["difference"] == pytest.approx(uas[one["name"]] - uas["finetune"], abs=1e-12)
    sides = [comparison.predictions_of(f"{several}/share0.1:{name}") for name in ("finetune", "align")]
    known = comparison.compare(*sides, ("finetune", "align"))["ua"]
    assert point(of_run, "ua", 0.1, "align")["difference_interval"] == known["interval"]
    assert point(of_run, "ua", 0.1, "align")["interval"] == comparison.intervals(sides[1])[1]
    assert of_run["over"] == "6 speakers" and "label_share" not in of_run["protocol"]


def test_eder_is_the_mean_over_utterances_with_an_interval_over_speakers(tmp_path):
    """One seed: the jackknife by hand, each speaker left out once, of each stage and of their paired difference."""
    run, draw = Run(tmp_path, "123", 10), np.random.default_rng(3)
    rates: dict[str, list[tuple[str, float]]] = {"frames": [], "align-frames": []}
    for session in "123":
        run.finish(session, "finetune")
        run.finish(session, "ser-finetune")
        for stage, of_stage in rates.items():
            of_stage += frames_of(tmp_path / f"session{session}" / stage, draw,
                                  {f"Ses0{session}F": 4, f"Ses0{session}M": 9})
    means, without = {}, {}
    for stage, pairs in rates.items():
        means[stage] = np.mean([rate for _, rate in pairs])
        without[stage] = np.array([np.mean([rate for other, rate in pairs if other != name])
                                   for name in sorted({name for name, _ in pairs})])
    of_run = measured(tmp_path)
    for stage in rates:
        one, half = point(of_run, "eder", 1.0, stage), T_95[5] * np.sqrt(5 * without[stage].var())
        assert one["value"] == pytest.approx(means[stage], abs=1e-12) and one["labelled"] == 20
        assert one["interval"] == pytest.approx((means[stage] - half, means[stage] + half), abs=1e-6)
    one, apart = point(of_run, "eder", 1.0, "align-frames"), without["align-frames"] - without["frames"]
    half = T_95[5] * np.sqrt(5 * apart.var())
    assert one["difference"] == pytest.approx(means["align-frames"] - means["frames"], abs=1e-12)
    assert one["difference_interval"] == pytest.approx((one["difference"] - half, one["difference"] + half), abs=1e-6)
    assert point(of_run, "eder", 1.0, "frames")["difference"] is None


def test_without_speakers_eder_has_no_interval(several):
    """As tested by an earlier version: the mean over utterances all the same."""
    for path in several.glob("seed*/share0.1/session*/*frames/results.json"):
        tested = files.read_json(path)
        del tested["over_time"]["speakers"]
        files.write_json(path, tested)
    of_run = measured(several)
    for stage in ("frames", "align-frames"):
        one = point(of_run, "eder", 0.1, stage)
        shares = [files.read_json(path)["over_time"]["eder"]
                  for path in several.glob(f"seed*/share0.1/session*/{stage}/results.json")]
        assert one["value"] == pytest.approx(np.mean(shares)) and one["interval"] is None
        assert point(of_run, "eder", 1.0, stage)["interval"] is not None
    assert [one["share"] for one in of_run["eder"]] == [0.1, 0.1, 1.0, 1.0]


def test_the_command_prints_writes_and_draws_the_same_numbers(several, tmp_path, capsys):
    evaluate_command.main(["--shares", str(several), "--out", str(tmp_path / "page.html"),
                           "--json", str(tmp_path / "shares.json")])
    printed = capsys.readouterr().out
    of_run, = files.read_json(tmp_path / "shares.json")["runs"]
    page = (tmp_path / "page.html").read_text()
    for measure in ("ua", "eder"):
        for one in of_run[measure]:
            words = f"{100 * one['value']:.1f} ({100 * one['interval'][0]:.1f} to {100 * one['interval'][1]:.1f})"
            row = next(line for line in printed.splitlines() if words in line)
            assert row.split()[:4] == [f"{100 * one['share']:g}", "%", f"{one['labelled']:.0f}", one["name"]]
            assert page.count(words) == 2           # in the table, and what the point says
            if one["difference"] is not None:
                low, high = one["difference_interval"]
                words = f"{100 * one['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
                assert words in row and page.count(words) == 2
    assert "for new speakers and new trainings, from 6 speakers and 2 seeds" in printed


@pytest.mark.parametrize("change, message", [
    (lambda run: (run / "seed2/share0.3/session1/finetune/stage.json").unlink(), "only the same ones can be compared"),
    (lambda run: change_protocol(run / "seed1/share0.3"), r"share0\.3:finetune: of another protocol than the other "
     r"shares and methods: base_digest was abc, is def; only runs of one protocol"),
])
def test_what_is_not_of_one_experiment_is_refused_and_nothing_written(several, tmp_path, change, message):
    change(several)
    with pytest.raises(ValueError, match=message):
        evaluate_command.main(["--shares", str(several), "--out", str(tmp_path / "page.html")])
    assert not (tmp_path / "page.html").exists()


def change_protocol(run: Path) -> None:
    """Let all folds of a run begin from another base model."""
    for path in run.glob("session*/*/results.json"):
        tested = files.read_json(path)
        if "protocol" in tested:
            files.write_json(path, tested | {"protocol": tested["protocol"] | {"base_digest": "def"}})


def test_eder_on_a_table_is_that_of_the_folds_that_held_the_speakers_out(tmp_path):
    """The synthetic corpus knows its frames: tested as a table of its own, every fold's own test comes out."""
    tree, base = small.write_tree(tmp_path / "tree"), small.write_base(tmp_path / "base")
    config = small.config(tree, base, tmp_path / "run", session="all", method="finetune", frames=True, label_share=0.5)
    recipe.run_sessions(config, small.SETTINGS)
    table = tmp_path / "table.tsv"
    shutil.copy(tmp_path / "run" / "share0.5" / "corpus.tsv", table)
    (own,), (again,) = (measured(tmp_path / "run", on=on)["eder"] for on in ("", str(table)))
    assert again == pytest.approx(own | {"interval": pytest.approx(own["interval"])}) and own["interval"]
    assert f"EDER on {table}" in label_shares.text([measured(tmp_path / "run", on=str(table))])

    evaluate_command.main(["--matrix", f"{tmp_path}/run/share0.5:frames", "--on", str(table), "--json",
                           str(tmp_path / "matrix.json")])
    cell = files.read_json(tmp_path / "matrix.json")["cells"]["share0.5:frames"]["table"]
    assert cell["over_time"]["eder"] == pytest.approx(own["value"])
    other = small.write_tree(tmp_path / "other", seed=8)
    manifest.write(tmp_path / "other.tsv", [dataclasses.replace(one, id=f"o{one.id}", speaker=f"o{one.speaker}")
                                            for one in iemocap.read(other, allow_partial=True)])
    with pytest.raises(ValueError, match="other.tsv: not the utterances that .*:frames was trained and tested on"):
        measured(tmp_path / "run", on=str(tmp_path / "other.tsv"))
    silent = [dataclasses.replace(one, truth=()) for one in manifest.read(table)]
    for number, one in enumerate(silent):
        shutil.copy(one.path, tmp_path / f"{number}.wav")
    manifest.write(table, [dataclasses.replace(one, path=tmp_path / f"{number}.wav", truth=None)
                           for number, one in enumerate(silent)])
    with pytest.raises(ValueError, match="table.tsv: of no utterance it is known which emotion it has when"):
        measured(tmp_path / "run", on=str(table))


@pytest.mark.parametrize("arguments, message", [
    (["--shares", "RUN", "--out", "page.txt"], r"--out page\.txt: must be a page or a picture, named \.html or \.svg"),
    (["--shares", "RUN", "--on", "a.tsv", "b.tsv"], "--on of --shares is a table for each run: 1, got 2"),
    (["--shares", "RUN", "--method", "align"], "not with --method"),
    (["RUN", "--shares", "RUN"], "give either a run's folder or --compare"),
    (["--shares", "RUN", "RUN"], "given twice"),
    (["--shares", "none"], "none: no share of the labels has a finished fold; run bin/session.py with --label-share"),
    (["RUN", "--out", "page.html"], "--out is of --matrix and --shares"),
])
def test_bad_flags_are_one_line(several, arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate_command.main([str(several) if word == "RUN" else word for word in arguments])
