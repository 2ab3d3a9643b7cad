"""The demo on a given corpus: what it measures on joined utterances, or on the truth that the corpus has, and refuses.

The demo on the synthetic corpus is in `test_bin.py`, its table in `test_readme.py`.
"""
import os
import re
from pathlib import Path

import numpy as np
import pytest
import random_models
import small

from framealign.runtime import files
from framealign.corpus import manifest
from framealign.corpus.importers import iemocap
from framealign.emotion.recogniser import Recogniser
from framealign.commands import demo_command
from framealign.commands.demo_command import DemoConfig

ARGUMENTS = ["--device", "cpu", *small.FLAGS]
THREE = ["--classes", "neutral,happy,angry", "--merge", "sad=angry"]


@pytest.fixture(scope="module")
def table(tmp_path_factory, tones) -> Path:
    path = tmp_path_factory.mktemp("demo") / "tones.tsv"
    manifest.write(path, tones)
    return path


def frames_of(recogniser: Recogniser, sound: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recognised class numbers, attention and true class numbers of the frames of a joined utterance, (T,) each."""
    result, labels = recogniser(sound), recogniser.labels
    truth = np.full(len(result.attention), labels.index("neutral"))
    for line in sound.with_suffix(".emotional.tsv").read_text().splitlines():
        first, end, emotion = line.split("\t")
        truth[int(first):int(end)] = labels.index(emotion)
    return result.posterior.argmax(-1), result.attention, truth


def pairwise_auc(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """The share of pairs in which the positive has the higher score; half of equal ones."""
    difference = scores[is_positive][:, None] - scores[~is_positive]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def test_joined_utterances_are_the_truth_of_a_corpus_without_one(table, small_base, tones, tmp_path, capsys):
    """EDER and AUC are counted anew, frame by frame and pair by pair; folds and classes are those that were asked for.
    """
    arguments = ["--corpus", str(table), "--hubert", str(small_base), "--folds", "speakers", "--session", "Ses01F",
                 *THREE, *ARGUMENTS, "--out", str(tmp_path / "run")]
    demo_command.main(arguments)
    out, numbers = capsys.readouterr().out, files.read_json(tmp_path / "run" / "demo.json")
    assert list(numbers["methods"]) == ["finetune", "tapt", "align", "frames"]
    fold = tmp_path / "run" / "sessionSes01F"
    joined = sorted((fold / "joined" / "sounds").glob("*.flac"))
    assert len(joined) == numbers["joined_utterances"] == 3         # of four utterances one is neutral
    stages = {"finetune": "finetune", "tapt": "tapt-finetune", "align": "ser-finetune", "frames": "frames"}
    for method, result in numbers["methods"].items():
        wrong, areas = [], []
        for sound in joined:
            recognised, attention, truth = frames_of(
                Recogniser.from_pretrained(fold / stages[method] / "recogniser"), sound)
            wrong.append((recognised != truth).mean())
            if (truth == 0).any():
                areas.append(pairwise_auc(attention, truth != 0))
        over_time, alignment = result["alignment"]["over_time"], result["alignment"]
        assert over_time["eder"] == pytest.approx(np.mean(wrong), abs=0.01) and "units_nmi" not in alignment
        assert alignment["attention_auc_mean"] == pytest.approx(np.mean(areas), abs=1e-6)
        assert over_time["num_utterances"] == 3 and alignment["num_utterances"] == len(areas)
        row = [*(f"{100 * share:.1f} %" for share in (result["reported"]["ua"], result["reported"]["wa"],
                                                      over_time["eder"])), f"{alignment['attention_auc_mean']:.3f}"]
        assert re.search(rf"^ *{method} +" + " +".join(row), out, re.MULTILINE)
    assert f"{table}, speaker Ses01F held out, clean selection, seed 0; chance: 33 %" in out
    assert "joined EDER" in out and "made of the test speaker" in out and "are left out: they need" in out
    assert os.readlink(fold / "recogniser") == "frames/recogniser"
    example = re.search(r"^try: framealign recognise (\S+) (\S+\.flac) --timeline$", out, re.MULTILINE)
    assert Path(example[2]) in joined and Path(example[1]).samefile(fold / "frames" / "recogniser")
    assert "<svg" in (fold / "report.html").read_text() and "<svg" in (fold / "lesson.html").read_text()

    made = small.digests(fold / "joined")
    demo_command.main(arguments)
    again = capsys.readouterr().out
    assert "[joined] kept" in again and small.digests(fold / "joined") == made
    assert again[again.index(str(table)):again.index("max/mean: ")] in out
    with pytest.raises(ValueError, match=r"run: holds stages of another corpus, 24 utterances \(digest"):
        other = tmp_path / "other.tsv"
        manifest.write(other, tones[:-1])
        demo_command.main([*arguments, "--corpus", str(other)])
    with pytest.raises(ValueError, match="run: holds stages of another corpus, .* not of synthetic speech; choose an"):
        demo_command.main(["--hubert", str(small_base), *ARGUMENTS, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run" / "corpus").exists() and small.digests(fold / "joined") == made


def test_a_corpus_that_knows_its_frames_is_measured_on_them(small_tree, small_base, tmp_path, capsys):
    """The synthetic corpus as a table: with units' NMI and bound, and nothing joined."""
    utterances = iemocap.read(small_tree, allow_partial=True)
    manifest.write(tmp_path / "corpus.tsv", utterances)
    demo_command.main(["--corpus", str(tmp_path / "corpus.tsv"), "--hubert", str(small_base), "--session", "2",
                       *ARGUMENTS, "--out", str(tmp_path / "run")])
    numbers = files.read_json(tmp_path / "run" / "demo.json")
    assert list(numbers["methods"]) == ["finetune", "tapt", "align", "frames", "frames-bound"]
    for result in numbers["methods"].values():
        assert result["over_time"] == result["alignment"]["over_time"] and 0 <= result["alignment"]["units_nmi"] <= 1
    assert numbers["joined_utterances"] == 0 and not (tmp_path / "run" / "session2" / "joined").exists()
    out = capsys.readouterr().out
    assert "session 2 held out" in out and "units NMI" in out and "joined" not in out


@pytest.mark.parametrize("arguments, words", [
    (["--session", "7"], "no utterance of session 7; there are: 1, 2, 3"),
    (["--classes", "happy,angry,sad"], r"tones\.tsv: no utterance is labelled neutral, .* with --classes and --merge"),
    (["--classes", "neutral,happy,fear"], "no utterance labelled fear"),
    (["--make-tiny-base"], "--make-tiny-base trains on speech that it makes itself: not with --corpus"),
    (["--corpus", "/no.tsv"], r"/no\.tsv: no such file"), (["--folds", "1"], "--folds must be session"),
    (["--preset", "huge"], "preset must be one of"), (["--merge", "calm=neutral"], "no utterance has that label")])
def test_a_corpus_that_does_not_do_is_refused(table, small_base, tmp_path, arguments, words):
    """Before anything is written."""
    with pytest.raises(ValueError, match=words):
        demo_command.main(["--corpus", str(table), "--hubert", str(small_base), *ARGUMENTS, "--out",
                           str(tmp_path / "run"), *arguments])
    assert not (tmp_path / "run").exists()


def test_speakers_who_never_speak_neutrally_cannot_be_joined(tones, small_base, tmp_path):
    """Each speaker is neutral or emotional, so that no training utterance has company."""
    manifest.write(tmp_path / "apart.tsv", [one for one in tones if (one.label == "neutral") == (one.gender == "M")])
    with pytest.raises(ValueError, match=r"apart\.tsv: no speaker of the training part has both .*; run bin/session"):
        demo_command.main(["--corpus", str(tmp_path / "apart.tsv"), "--hubert", str(small_base), *ARGUMENTS, "--out",
                           str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given, out", [
    ({}, "runs/demo"), ({"corpus": "/data/emodb.tsv"}, "runs/demo-emodb"),
    ({"corpus": "/data/emodb.tsv", "out": "here"}, "here")])
def test_each_corpus_has_a_folder_of_its_own(given, out):
    assert DemoConfig(**given).out == out


@pytest.mark.parametrize("samples", (400, 3199, 3200, 20_000))
def test_a_short_utterance_has_pitch_and_energy(samples):
    assert demo_command.pitch_and_energy(random_models.sound(samples)).isfinite().all()
