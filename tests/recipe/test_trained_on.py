"""The list of what a recogniser was trained on: who is in it by which use, whoever trained it, wherever it goes."""
import hashlib

import pytest
import ranks
import small

from framealign.corpus import manifest
from framealign.corpus.importers import iemocap
from framealign.corpus.protocols import Split
from framealign.recipe import recipe, trained_on
from framealign.recipe.trained_on import Row, TrainedOn
from framealign.commands import export_command, finetune_command


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Session 1 held out, by `align`, with a recogniser of frames that starts from the method's encoder."""
    folder = tmp_path_factory.mktemp("trained")
    config = small.config(small.write_tree(folder / "tree"), small.write_base(folder / "base"), folder / "run",
                          method="align", frames=True, frames_start="method")
    recipe.run_sessions(config, small.SETTINGS)
    return folder


def uses(place):
    """{(session, use)} of a list; every row has its utterance's fields and the digest of its file."""
    utterances = {u.id: u for u in manifest.read(place.parents[2] / "corpus.tsv")}
    found = set()
    for row in TrainedOn.read(place).rows:
        one = utterances[row.id]
        assert (row.speaker, row.label) == (one.speaker, one.label)
        assert row.sound == hashlib.sha256(one.path.read_bytes()).hexdigest()[:16]
        found.add((one.session, row.use))
    assert len(TrainedOn.read(place).uses) == 8 * len(found)        # all 8 utterances of each session
    return found


@pytest.mark.parametrize("stage", ["tapt-finetune", "ser-finetune", "align-frames"])
def test_every_stage_lists_its_training_and_what_selection_saw(finished, stage):
    """Of `clean`: the session after the held-out one selects. A recogniser of frames selects nothing, but it starts
    from units of one that did."""
    assert uses(finished / "run" / "session1" / stage / "recogniser") == {("3", "training"), ("2", "selection")}


def test_of_frames_from_the_base_model_the_validation_part_fitted_the_temperatures(finished, tmp_path):
    config = small.config(finished / "tree", finished / "base", tmp_path / "run", method="finetune", frames=True)
    recipe.run_sessions(config, small.SETTINGS | {"finetune.epochs": "1"})
    assert uses(tmp_path / "run" / "session1" / "frames" / "recogniser") == {("3", "training"), ("2", "selection")}
    assert uses(tmp_path / "run" / "session1" / "finetune" / "recogniser") == {("3", "training"), ("2", "selection")}


@pytest.mark.parametrize("selection, expected", [
    ("last", [{("2", "training"), ("3", "training")}]),
    ("best-test", [{("1", "selection"), ("2", "training"), ("3", "training")}])])
def test_selections(finished, tmp_path, selection, expected):
    config = small.config(finished / "tree", finished / "base", tmp_path / "run", method="finetune",
                          selection=selection)
    recipe.run_sessions(config, small.SETTINGS | {"finetune.epochs": "1"})
    assert uses(tmp_path / "run" / "session1" / "finetune" / "recogniser") == expected[0]


def test_each_of_several_trainings_has_its_own_list(finished, tmp_path):
    config = small.config(finished / "tree", finished / "base", tmp_path / "run", method="finetune",
                          selection="speaker")
    recipe.run_sessions(config, small.SETTINGS | {"finetune.epochs": "1"})
    stage = tmp_path / "run" / "session1" / "finetune"
    chosen = [{row.speaker for row in TrainedOn.read(place).rows if row.use == "selection"}
              for place in (stage / "way1" / "recogniser", stage / "way2" / "recogniser", stage / "recogniser")]
    assert chosen == [{"Ses01F"}, {"Ses01M"}, {"Ses01F"}]


def test_finetune_writes_it_and_takes_over_what_its_start_knows(finished, tmp_path):
    """Fine-tuned further on two speakers' sound: the list has both trainings, each sound once."""
    start = finished / "run" / "session1" / "ser-finetune" / "recogniser"
    utterances = iemocap.read(finished / "tree", allow_partial=True)
    manifest.write(tmp_path / "corpus.tsv", utterances)
    finetune_command.main(["--corpus", str(tmp_path / "corpus.tsv"), "--session", "3", "--selection", "last",
                           "--init-from", str(start), "--preset", "tiny", "--epochs", "1", "--batch-size", "8",
                           "--device", "cpu", "--out", str(tmp_path / "out")])
    rows = TrainedOn.read(tmp_path / "out" / "recogniser").rows
    sessions = {u.id: u.session for u in utterances}
    assert sorted((sessions[row.id], row.use) for row in rows) == sorted(
        8 * [("1", "training")] + 8 * [("2", "training")] + 8 * [("3", "training")])


def test_it_goes_with_what_is_exported(finished, tmp_path):
    start = finished / "run" / "session1" / "ser-finetune" / "recogniser"
    for name, encoder in (("whole", False), ("encoder", True)):
        export_command.run(str(start), str(tmp_path / name), encoder, "huggingface")
        assert (tmp_path / name / trained_on.NAME).read_bytes() == (start / trained_on.NAME).read_bytes()


def write_list(directory, tree):
    """As a rank that just trained on session 2 and selected on session 3."""
    utterances = iemocap.read(tree, allow_partial=True)
    parts = [[u for u in utterances if u.session == session] for session in "231"]
    trained_on.write(directory, [Split(*parts, "session1")], "clean")


def test_two_ranks_write_the_same_list(finished, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    write_list(tmp_path / "one", finished / "tree")
    ranks.run(write_list, 2, tmp_path / "two", finished / "tree")
    assert (tmp_path / "two" / trained_on.NAME).read_bytes() == (tmp_path / "one" / trained_on.NAME).read_bytes()
    assert len(TrainedOn.read(tmp_path / "two").rows) == 16


def test_a_list_is_read_as_it_was_written(tmp_path):
    rows = [Row("a", "00", "s\u00fcd", "happy", "training"), Row('b"', "01", "", "sad", "selection"),
            Row("c", "00", "x", "sad", "selection")]
    TrainedOn(rows).write(tmp_path)
    read = TrainedOn.read(tmp_path)
    assert read.rows == rows and read.uses == {"00": "training", "01": "selection"}
    assert read.speakers == {"s\u00fcd", "x"} and ("b\"", "") in read.names
    assert TrainedOn.read(tmp_path / "none") is None


@pytest.mark.parametrize("text, problem", [
    ("", "names no utterance"), ("id\tsound\n", "1: must be the header id sound speaker label use"),
    ("id\tsound\tspeaker\tlabel\tuse\n", "names no utterance"),
    ("id\tsound\tspeaker\tlabel\tuse\na\t0\tx\tsad\ttest\n", ":2: must have 5 columns, the last training or selection"),
    ("id\tsound\tspeaker\tlabel\tuse\na\t0\ttraining\n", ":2: must have 5 columns")])
def test_what_is_no_list_is_refused(tmp_path, text, problem):
    (tmp_path / trained_on.NAME).write_text(text)
    with pytest.raises(ValueError, match=problem):
        TrainedOn.read(tmp_path)
