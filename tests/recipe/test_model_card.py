"""The model card says what was recorded, and goes where the recogniser goes."""
import re

import pytest
import small

from framealign.runtime import files
from framealign.recipe import model_card, recipe
from framealign.recipe.results import interval_words
from framealign.commands import export_command
from framealign.emotion.calibration import Calibration
from framealign.emotion.recogniser import Recogniser


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    config = small.config(small.write_tree(folder / "tree"), small.write_base(folder / "base"), folder / "run",
                          method="finetune")
    recipe.run_sessions(config, small.SETTINGS | {"finetune.epochs": "1"})
    return folder / "run" / "session1" / "finetune"


def test_the_card_has_the_recorded_numbers(finished):
    text, results = (finished / "recogniser" / "README.md").read_text(), files.read_json(finished / "results.json")
    for name, word in (("wa", "WA"), ("ua", "UA"), ("macro_f1", "macro-F1")):
        ends = interval_words(results["test"]["interval_95"][name])
        assert f"| {word} | {100 * results['reported'][name]:.1f} % | {ends} |" in text
    for name, row in zip(results["classes"], results["test"]["confusion"]):
        assert f"| {name} | {' | '.join(map(str, row))} |" in text
    for words in ("method: finetune", "Intervals: for new speakers, from 2 speakers and 1 seed.",
                  "selection: clean", "pretrain data: transductive", "seed: 0", "Utterances: train 8, valid 8, test 8",
                  "2 speakers in training, 2 others in the test", "## Intended use", "## Limits", "base digest: "):
        assert words in text
    assert text.startswith("---\n") and "Optimistic" not in text and not re.search(r"\bNone\b|\bnan\b", text)
    assert all(len(line) < 400 for line in text.splitlines())


def test_the_card_says_what_confidences_are_worth(framed):
    """Temperatures and calibration errors as recorded, of both stages; without validation that there are none."""
    for stage, words in (("finetune", "labelled as its utterance"), ("frames", "with estimated labels"),
                         ("frames-bound", "with true labels")):
        results = files.read_json(framed / stage / "results.json")
        kept = files.read_json(framed / stage / "recogniser" / "calibration.json")
        text = (framed / stage / "recogniser" / "README.md").read_text()
        part = text.partition("## Confidence")[2].partition("\n## ")[0]
        assert results["calibration"]["utterances"] == kept["utterances"]
        assert kept["fitted_on"] == "validation: 8 utterances of 2 speakers" and kept["fitted_on"] in part
        assert f"divided by {kept['utterances']:.3g}" in part and f"{words}, by {kept['frames']:.3g}" in part
        for name, key in (("before", "uncalibrated"), ("after", "calibration")):
            scores = results["test"][key]
            assert f"| {name} | {100 * scores['ece']:.1f} | " in part and f"| {scores['brier']:.3f} |" in part
        assert "not calibrated" not in text

    results = files.read_json(framed / "finetune" / "results.json")
    del results["calibration"], results["test"]["uncalibrated"]
    for optimistic, reason in ((False, "left no validation utterances"), (True, "looks at the test session")):
        lines = model_card.confidence_lines(results | {"optimistic": optimistic})
        assert lines[0].startswith("**Probabilities are not calibrated**") and reason in lines[0]
        assert sum(line.startswith("| as they are |") for line in lines) == 1
    old = results | {"test": {key: one for key, one in results["test"].items() if key != "calibration"}}
    assert len(model_card.confidence_lines(old)) == 1


@pytest.fixture(scope="module")
def framed(finished):
    """The stages `frames` and `frames-bound` of the same run."""
    config = small.config(finished.parents[2] / "tree", finished.parents[2] / "base", finished.parents[1],
                          method="finetune", frames=True, bound=True)
    recipe.run_sessions(config, small.SETTINGS | {"finetune.epochs": "1"})
    return finished.parent


@pytest.mark.parametrize("stage, words, others", [
    ("finetune", ["encoder, attention pooling", "mostly repeats their emotion"], ["frames.weight", "true\nemotion"]),
    ("frames", ["encoder, linear classifier of frames, which also weighs them", "no label of a frame was ever seen",
                "1 - p(neutral) + 0.1"], ["attention pooling", "mostly repeats", "true\nemotion"]),
    ("frames-bound", ["encoder, linear classifier of frames", "**It was trained on the true\nemotion of every frame**"],
     ["attention pooling", "ever seen"])])
def test_the_card_says_what_its_emotion_over_time_is_worth(framed, stage, words, others):
    """EDER with its parts and what these are compared with, as recorded; and where the posterior of frames is from."""
    text = (framed / stage / "recogniser" / "README.md").read_text()
    part = text.partition("## Emotion over time")[2].partition("\n## ")[0]
    scores = files.read_json(framed / stage / "results.json")["over_time"]
    rows = dict(re.findall(r"^\| ([\w ]+) \| ([-\d.]+) \|", part, re.MULTILINE))
    for name, key in (("EDER", "eder"), ("false alarm", "false_alarm"), ("missed", "missed"), ("confused", "confused"),
                      ("segments", "segment_eder"), ("always neutral", "always_neutral"),
                      ("label everywhere", "label_everywhere")):
        assert rows[name] == f"{100 * scores[key]:.1f}"
    assert rows["AUC emotional"] == f"{scores['emotional_auc']:.2f}"
    assert f"over the {scores['num_utterances']} test utterances whose true frames are known" in part
    assert all(word in text for word in words) and not any(word in text for word in others)


def test_a_card_without_a_truth_has_no_scores_over_time(finished):
    results = files.read_json(finished / "results.json")
    del results["over_time"]
    recipe_split, = recipe.Recipe(small.config(finished.parents[2] / "tree", finished.parents[2] / "base",
                                               finished.parents[1], method="finetune"), small.SETTINGS).splits("clean")
    text = model_card.text(results, [recipe_split])
    assert "EDER" not in text and "## Emotion over time" in text and not re.search(r"\n\n\n", text)


def test_an_optimistic_selection_is_marked(finished):
    results = files.read_json(finished / "results.json") | {"optimistic": True, "selection": "best-test"}
    recipe_split, = recipe.Recipe(small.config(finished.parents[2] / "tree", finished.parents[2] / "base",
                                                finished.parents[1], method="finetune"), small.SETTINGS).splits("clean")
    assert "**Optimistic**" in model_card.text(results, [recipe_split])


def test_the_card_goes_with_the_recogniser(finished, tmp_path):
    text = (finished / "recogniser" / "README.md").read_text()
    export_command.run(str(finished / "recogniser"), str(tmp_path / "out"), False, "huggingface")
    assert (tmp_path / "out" / "README.md").read_text() == text
    assert Calibration.read(tmp_path / "out") == Calibration.read(finished / "recogniser") != Calibration()
    assert Recogniser.from_pretrained(tmp_path / "out").labels
    export_command.run(str(finished / "recogniser"), str(tmp_path / "encoder"), True, "huggingface")
    assert (tmp_path / "encoder" / "README.md").read_text() == text            # its licence is the weights'
    assert not (tmp_path / "encoder" / "calibration.json").exists()


@pytest.mark.parametrize("card, license_name", [
    ("---\nlibrary_name: framealign\nlicense: cc-by-4.0\n---\n# Card\n", "cc-by-4.0"),
    ("---\nlicense: 'mit'\n---\n", "mit"), ("---\r\nlicense: mit\r\ntags: [x]\r\n---\r\n", "mit"),
    ("---\nlicense:\n---\n", ""), ("---\nmy_license: mit\n---\nlicense: mit\n", ""), ("license: mit\n", ""),
    ("# Card\n---\nlicense: mit\n---\n", ""), ("---\nlicense: mit\n", ""), ("", "")])
def test_the_licence_is_what_the_front_matter_says(tmp_path, card, license_name):
    """Of front matter alone, which stands at the very beginning and ends."""
    assert model_card.license_of(tmp_path) == ""
    (tmp_path / "README.md").write_bytes(card.encode())
    assert model_card.license_of(tmp_path) == license_name
