"""Votes of annotators: what a cell says, and what votes are for the classes. (Written and read in `test_manifest.py`.)
"""
import pytest

from framealign.corpus import annotator_votes, protocols
from framealign.corpus.utterance import CLASSES, Utterance


@pytest.mark.parametrize("text, votes", [
    ("", ()), ("  ", ()), ("sad:1", (("sad", 1.0),)),
    ("neutral:3;happy:1", (("neutral", 3.0), ("happy", 1.0))),
    (" neutral : 3 ; happy: 0.5 ", (("neutral", 3.0), ("happy", 0.5))),
    ("a:b:2", (("a:b", 2.0),)), ("half asleep:0.25", (("half asleep", 0.25),))])
def test_a_cell(text, votes):
    assert annotator_votes.parsed(text) == votes
    assert annotator_votes.parsed(annotator_votes.cell(votes)) == votes


def test_whole_numbers_are_written_as_such():
    assert annotator_votes.cell((("neutral", 3.0), ("happy", 0.1))) == "neutral:3;happy:0.1"
    assert annotator_votes.cell(()) == ""


@pytest.mark.parametrize("text", ["sad", "sad:", ":3", "sad:x", "sad:-1", "sad:1e3", "sad:nan", "sad:inf", ";",
                                  "sad:1;;fear:2", "sad:1,fear:2"])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="votes must be label:weight"):
        annotator_votes.parsed(text)


def test_spellings_of_a_class_are_one_and_other_labels_no_vote():
    votes = (("Neutral", 1.0), ("exc", 2.0), ("hap", 1.5), ("fear", 9.0))
    assert annotator_votes.of_classes(votes, CLASSES) == (("neutral", 1.0), ("happy", 3.5))
    assert annotator_votes.of_classes(votes, ("excited", "happy")) == (("excited", 2.0), ("happy", 1.5))
    assert annotator_votes.of_classes(votes, ("disgust",)) == ()


def test_votes_follow_the_classes_that_are_chosen(tmp_path):
    utterance = Utterance("a", tmp_path / "a.wav", 400, label="hap", votes=(("exc", 2.0), ("fear", 1.0)))
    chosen, = protocols.of_classes([utterance], CLASSES)
    assert (chosen.label, chosen.votes) == ("happy", (("happy", 2.0),))
