"""Predictions and their table: written, read, joined; tables of other programs; what is no such table."""
import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from framealign.corpus.utterance import CLASSES, Utterance
from framealign.emotion.predictions import Predictions

IDS = ("Ses01F_impro01_F000", "Ses01F_impro01_M000", 'a "quoted", name')
LABELS = ("happy", "sad", "neutral")
PROBABILITIES = np.array([[0.1, 0.6, 0.2, 0.1], [0.3, 0.3, 0.2, 0.2], [0.0, 0.0, 0.1234564, 0.8765436]])


def predictions() -> Predictions:
    utterances = [Utterance(name, Path("x.wav"), 400, speaker=f"speaker {i}", label=label)
                  for i, (name, label) in enumerate(zip(IDS, LABELS))]
    return Predictions.of(utterances, list(CLASSES), PROBABILITIES)


def same(a: Predictions, b: Predictions) -> bool:
    return (a.ids, a.groups, a.classes) == (b.ids, b.groups, b.classes) and (a.true == b.true).all() \
        and (a.predicted == b.predicted).all() and np.allclose(a.probabilities, b.probabilities, atol=5e-7)


def test_table_is_one_row_for_each_utterance(tmp_path):
    """The file's bytes: a header, a line each, six decimals, quoted as csv has it; a tie goes to the earlier class."""
    predictions().write(tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_bytes().decode() == (
        "id,true,predicted,neutral,happy,angry,sad\n"
        "Ses01F_impro01_F000,happy,happy,0.100000,0.600000,0.200000,0.100000\n"
        "Ses01F_impro01_M000,sad,neutral,0.300000,0.300000,0.200000,0.200000\n"
        '"a ""quoted"", name",neutral,sad,0.000000,0.000000,0.123456,0.876544\n')


def test_reading_gives_back_what_was_written(tmp_path):
    """Groups are the utterances' speakers, else those that ids tell."""
    written = predictions()
    written.write(tmp_path / "p.csv")
    utterances = {name: Utterance(name, Path(), 400, speaker=f"speaker {i}") for i, name in enumerate(IDS)}
    assert same(Predictions.read(tmp_path / "p.csv", utterances), written)
    assert Predictions.read(tmp_path / "p.csv").groups == ["Ses01F", "Ses01M", IDS[2]]
    assert written.groups[2] == "speaker 2"


def test_an_utterance_counts_once(tmp_path):
    """Neither two rows of a table nor two pooled tables may have the same one."""
    written = predictions()
    with pytest.raises(ValueError, match="Ses01F_impro01_M000 is in two of the tests that are to be pooled"):
        Predictions.joined([written, written.subset([1])])
    written.write(tmp_path / "p.csv")
    with open(tmp_path / "p.csv", "a") as file:
        file.write("Ses01F_impro01_F000,sad,sad,0,0,0,1\n")
    with pytest.raises(ValueError, match="p.csv: utterance Ses01F_impro01_F000 has two rows; each is tested once"):
        Predictions.read(tmp_path / "p.csv")


def test_groups_in_words():
    written = predictions()
    for groups, words in ((written.groups, "3 speakers"), (["a"] * 3, "1 speaker"), (written.ids, "3 utterances"),
                          (["a", "a", written.ids[2]], "2 speakers and utterances of unknown speakers")):
        assert dataclasses.replace(written, groups=groups).groups_in_words() == words
    assert written.scores()["interval_over"] == "3 speakers"


def test_joined_tables_are_the_table_of_all(tmp_path):
    """Both halves read, joined and written are the bytes of the whole; a subset is the rows at those places."""
    written = predictions()
    written.write(tmp_path / "whole.csv")
    for name, places in (("a", [0]), ("b", [1, 2])):
        written.subset(places).write(tmp_path / f"{name}.csv")
    parts = [Predictions.read(tmp_path / f"{name}.csv") for name in "ab"]
    Predictions.joined(parts).write(tmp_path / "joined.csv")
    assert (tmp_path / "joined.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    other = Predictions.of([Utterance("x", Path(), 400, label="sad")], ["sad", "happy"], np.array([[0.5, 0.5]]))
    with pytest.raises(ValueError, match="different classes cannot be pooled: neutral, happy, angry, sad and sad"):
        Predictions.joined([written, other])


def test_tables_of_other_programs_need_three_columns(tmp_path):
    """Any order and further columns; classes are then the labels that occur, and there are no probabilities."""
    with open(tmp_path / "p.csv", "w", newline="") as file:
        csv.writer(file).writerows([("predicted", "id", "note", "true"), ("sad", "a", "!", "happy"), (),
                                    ("happy", "b", "?", "happy")])
    table = Predictions.read(tmp_path / "p.csv")
    assert (table.ids, table.classes, table.probabilities) == (["a", "b"], ["happy", "sad"], None)
    assert table.true.tolist() == [0, 0] and table.predicted.tolist() == [1, 0]


@pytest.mark.parametrize("content, message", [
    ("", "must have the columns"), ("id,true,predicted\n", "a row for each utterance"),
    ("id,truth\na,sad\n", "must have the columns"), ("id,true,predicted,sad\na,sad\n", "row of a has 2 columns"),
    ("id,true,predicted,sad\na,sad,sad,much\n", "not a probability"),
    ("id,true,predicted,sad\na,sad,sad,1.5\n", "not a probability: 1.5; must be in 0..1"),
    ("id,true,predicted,sad\na,sad,sad,nan\n", "not a probability: nan"), ("\x00\xff", "p.csv: ")])
def test_what_is_no_such_table_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "p.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as error:
        Predictions.read(tmp_path / "p.csv")
    assert str(tmp_path / "p.csv") in str(error.value)


def test_missing_files_and_strangers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="none.csv: not readable"):
        Predictions.read(tmp_path / "none.csv")
    predictions().write(tmp_path / "p.csv")
    with pytest.raises(ValueError, match="utterance Ses01F_impro01_F000 is not one of the corpus"):
        Predictions.read(tmp_path / "p.csv", {})
    with pytest.raises(ValueError, match="label bored is not one of happy, sad"):
        Predictions.of([Utterance("x", Path(), 400, label="bored")], ["happy", "sad"], np.array([[0.5, 0.5]]))
