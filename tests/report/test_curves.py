"""Logs become curves; what is said below them is what the log holds."""
import json
import math

import markup
import pytest

from framealign.report import curves

PRETRAINING = [{"update": u, "loss": 5.0 - u / 100, "masked_accuracy": u / 1000, "unmasked_accuracy": u / 500,
                "unit_perplexity": 10.0 + u, "lr": 1e-3, "gradient_norm": 12.0 if u == 20 else 1.0,
                "skipped_updates": 1, "audio_seconds_per_second": 100.0, "seconds_left": 1} for u in (10, 20, 30)] \
    + [{"update": 30, "valid_loss": 4.8, "valid_masked_accuracy": 0.1, "valid_unit_perplexity": 9.0}]
TUNING = [{"update": e, "epoch": e, "loss": 1.4 / e, "lr": 1e-4, "gradient_norm": 1.0, "skipped_updates": 0,
           "valid_wa": 0.3, "valid_ua": 0.2 * e} for e in (1, 2, 3)]


def captions(root: markup.Element) -> list[str]:
    return [one.text for one in root.all("figcaption")]


def test_a_torn_line_is_left_out(tmp_path):
    text = "".join(json.dumps(record) + "\n" for record in PRETRAINING)
    (tmp_path / "log.jsonl").write_text(text + '{"update": 40, "lo')
    assert curves.read(tmp_path / "log.jsonl") == PRETRAINING
    (tmp_path / "log.jsonl").write_text('[1]\n{"loss": 1}\nnull\n{"update": 3}\n')
    assert curves.read(tmp_path / "log.jsonl") == [{"update": 3}]
    assert curves.read(tmp_path / "none.jsonl") == []


def test_a_curve_takes_what_is_there():
    found = curves.curve(PRETRAINING, "valid_loss", "v")
    assert found.x == [30] and found.y == [4.8] and curves.curve(PRETRAINING, "loss", "l").x == [10, 20, 30]
    assert curves.curve([{"update": 1, "loss": None}], "loss", "l").x == []


def test_pretraining_has_its_six_charts():
    root = markup.read(curves.pretraining(PRETRAINING, [50], 10.0))
    assert len(captions(root)) == 6 and len(root.all("svg")) > 6
    notes = [one.text for one in root.all("p", "note")]
    for words in (f"ln 50 = {math.log(50):.2f}", "from 4.90 to 4.70", "validation: 4.80"):
        assert words in notes[0]
    assert "3.0 %" in notes[1] and "Above the clipping norm 10 in 1 of 3 logged; skipped (not finite): 3." in notes[4]


def test_finetuning_has_its_three_charts_and_the_selected_epoch():
    root = markup.read(curves.finetuning(TUNING, 4, 10.0, 3))
    assert captions(root) == ["Loss, nats per utterance", "Validation", "Gradient norm"]
    notes = [one.text for one in root.all("p", "note")]
    assert "Best UA 60.0 %" in notes[1] and "Learning rate: 0.0001, constant." in notes[2]
    assert "selected: epoch 3" in [one.text for one in root.all("text")]


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_classifier_of_frames_has_its_scorer_and_its_recogniser(weight):
    scorer = [{"update": u, "loss": 1.2 - u / 1000, "lr": 1e-3, "gradient_norm": 1.0} for u in (50, 100)]
    settings = {"utterance_weight": weight, "clip_norm": 2.0, "whole_coverage": 0.85}
    spreads = {"happy": {"coverage": 0.444}, "sad": {"coverage": 1.0}}
    root = markup.read(curves.frame_training(scorer, PRETRAINING, 4, settings, spreads))
    assert captions(root) == ["Loss of the scorer, nats per frame", "Emotional share of emotional utterances",
                              "Loss of the recogniser, nats", "Gradient norm"]
    assert [one.text for one in (*root.all("dt"), *root.all("dd"))] == ["happy", "sad", "44 %", "100 %"]
    notes = [one.text for one in root.all("p", "note")]
    assert f"(ln 4 = {math.log(4):.2f})" in notes[0] and "from 1.15 to 1.10" in notes[0]
    assert "Above 85 % the whole utterance is taken" in notes[1]
    assert f"chance ({(1 + weight) * math.log(4):.2f})" in notes[2] and f"{weight:g} x that" in notes[2]
    assert "from 4.90 to 4.70" in notes[2] and "Above the clipping norm 2 in 1 of 3" in notes[3]


@pytest.mark.parametrize("records", [[], [{"update": 1}], TUNING[:1], [{"update": 1, "loss": None, "lr": 0.0}]])
def test_short_logs_have_pictures_too(records):
    assert markup.read(curves.frame_training(records, [], 4, {"utterance_weight": 1.0, "clip_norm": 10.0,
                                                                "whole_coverage": 0.8}, {}))
    assert markup.read(curves.finetuning(records, 4, 10.0, 1)) and markup.read(curves.pretraining(records, [2], 10.0))
