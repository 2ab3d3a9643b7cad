"""Recognised turns as text, read back by readers of their own and by the project's reader of turns."""
import csv
import io
import json

import numpy as np
import pytest
from read_back import parse_srt, parse_textgrid, parse_webvtt

from framealign.exchange import speaker_turns
from framealign.emotion.turns import Conversation, RecognisedTurn
from framealign.report.turn_formats import TURN_FORMATS, by_speaker

LABELS = ["neutral", "happy", "angry", "sad"]


def turn(start: float, end: float, speaker: str, seed: int) -> RecognisedTurn:
    shares = np.random.default_rng(seed).dirichlet(np.ones(4)).tolist()
    return RecognisedTurn(start, end, speaker, LABELS[int(np.argmax(shares))], dict(zip(LABELS, shares)))


TURNS = [turn(0.0, 1.25, "Anna B", 0), turn(1.25, 2.0, "C", 1),
         RecognisedTurn(2.5, 2.6, "C", "none", {}, "turn of 0.10 s"), turn(3.0, 6.5, "Anna B", 2),
         turn(4.0, 5.0, "C", 3), turn(4.5, 5.5, "C", 4), turn(3605.0, 3606.5, "", 5)]
WHOLE = Conversation(TURNS, LABELS, 3700.0)


def written(name: str, path: str = "a b/talk 1.wav", conversation: Conversation = WHOLE) -> str:
    form = TURN_FORMATS[name]
    return form.first(LABELS, False) + form.write(path, conversation) + form.last


def said(one: RecognisedTurn) -> str:
    return f"none ({one.reason})" if one.emotion == "none" else f"{one.emotion} {one.probabilities[one.emotion]:.2f}"


def test_table_csv_and_json_have_a_row_for_each_turn():
    rows = list(csv.DictReader(io.StringIO(written("csv"))))
    content, = json.loads(written("json"))
    assert json.loads(written("jsonl")) == content and content["seconds"] == 3700 and len(rows) == len(TURNS)
    lines = [line.split("\t") for line in written("table").splitlines()]
    for one, row, item, cells in zip(TURNS, rows, content["turns"], lines, strict=True):
        assert row["path"] == content["path"] == cells[0] == "a b/talk 1.wav"
        assert (float(row["start"]), float(row["end"])) == (item["start"], item["end"]) == (one.start, one.end)
        assert [float(cell) for cell in cells[1:3]] == [one.start, one.end]
        for found in ([row[name] for name in ("speaker", "emotion")], [item["speaker"], item["emotion"]], cells[3:5]):
            assert found == [one.speaker, one.emotion]
        assert row["reason"] == item["reason"] == one.reason == "".join(cells[6:])
        assert item["probabilities"] == one.probabilities
        for label in LABELS:
            assert row[label] == (f"{one.probabilities[label]:.6f}" if one.probabilities else "")


@pytest.mark.parametrize("name, parse", [("srt", parse_srt), ("vtt", parse_webvtt)])
def test_subtitles_are_the_turns(name, parse):
    for (start, end, text), one in zip(parse(written(name)), TURNS, strict=True):
        assert (start, end) == (one.start, one.end)
        before = {"srt": f"{one.speaker}: ", "vtt": f"<v {one.speaker}>"}[name] if one.speaker else ""
        assert text == before + said(one)


@pytest.mark.parametrize("name, suffix", [("srt", ".srt"), ("vtt", ".vtt"), ("rttm", ".rttm"),
                                          ("textgrid", ".TextGrid")])
def test_what_is_written_is_read_again_as_turns(name, suffix, tmp_path):
    """Times to the millisecond, and speakers, with `_` for blanks in RTTM; a TextGrid calls nobody `turns`."""
    path = tmp_path / f"talk{suffix}"
    path.write_text(written(name))
    again = speaker_turns.read(path, "talk 1.wav")
    for one, other in zip(TURNS, again, strict=True):
        assert (other.start, other.end) == pytest.approx((one.start, one.end), abs=1e-6)
        speaker = {"rttm": one.speaker.replace(" ", "_"), "textgrid": one.speaker or "turns"}.get(name, one.speaker)
        assert other.speaker in (speaker, f"{speaker} (2)")


def test_rttm_has_the_emotion_beside_the_speaker():
    for line, one in zip(written("rttm").splitlines(), TURNS, strict=True):
        fields = line.split(" ")
        assert len(fields) == 10 and fields[1] == "talk_1" and fields[6] == one.emotion
        assert fields[7] == (one.speaker.replace(" ", "_") or "<NA>")
        assert fields[8] == ("<NA>" if one.emotion == "none" else f"{one.confidence:.3f}")


def test_a_textgrid_has_a_tier_for_each_speaker_and_one_more_where_turns_overlap():
    tiers = parse_textgrid(written("textgrid"))
    assert list(tiers) == ["Anna B", "C", "C (2)", "turns"]
    filled = {name: [interval for interval in tier if interval[2]] for name, tier in tiers.items()}
    assert filled == {"Anna B": [(0, 1.25, said(TURNS[0])), (3, 6.5, said(TURNS[3]))],
                      "C": [(1.25, 2, said(TURNS[1])), (2.5, 2.6, said(TURNS[2])), (4, 5, said(TURNS[4]))],
                      "C (2)": [(4.5, 5.5, said(TURNS[5]))], "turns": [(3605, 3606.5, said(TURNS[6]))]}
    assert all(tier[-1][1] == 3700 for tier in tiers.values())


def test_labels_of_audacity_name_the_speaker():
    lines = [line.split("\t") for line in written("audacity").splitlines()]
    assert [text for *_, text in lines] == [f"{one.speaker}: {said(one)}" if one.speaker else said(one)
                                            for one in TURNS]


@pytest.mark.parametrize("name, parse", [("srt", parse_srt), ("vtt", parse_webvtt)])
def test_odd_names_stay_in_their_line(name, parse):
    odd = Conversation([turn(0, 1, 'a --> "b"\n<v x>&', 0)], LABELS, 1.0)
    (_, _, text), = parse(written(name, conversation=odd))
    assert "a -> \"b\"?" in text and text.endswith(said(odd.turns[0]))


def test_turns_of_a_speaker_do_not_overlap():
    draw = np.random.default_rng(0)
    starts = np.sort(draw.uniform(0, 20, 60))
    turns = [turn(start, start + draw.uniform(0.1, 3), str(draw.choice(["A", "B"])), i)
             for i, start in enumerate(starts)]
    listed = by_speaker(turns)
    assert sorted(one.start for own in listed.values() for one in own) == starts.tolist()
    for name, own in listed.items():
        assert {one.speaker for one in own} == {name.split(" ")[0]}
        assert all(before.end <= after.start for before, after in zip(own, own[1:]))
