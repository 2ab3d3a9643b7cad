"""Every script on a second of sound: what it writes and prints, its help, and one line for every mistake.

Most run inside this process (`script`), exactly as from the shell but without loading torch each time; one rank of many
and the plain launch are real processes.
"""
import ast
import dataclasses
import itertools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ranks
import safetensors.torch
import small
import soundfile
import torch
from torch.distributed.run import get_args_parser

from framealign.runtime import files, log
from framealign.corpus import frame_truth, manifest, utterance
from framealign.hubert.model import Hubert
from framealign.units.codebook import Codebook
from framealign.units.units import Units
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.recogniser import Recogniser
from framealign.recipe import recipe, results, session_config
from framealign.commands import demo_command

SCRIPTS = sorted(path.stem for path in (small.ROOT / "bin").glob("*.py") if path.stem != "bench")
QUICK = ["--updates", "2", "--warmup-updates", "1", "--batch-seconds", "4", "--micro-batch-seconds", "2",
         "--min-seconds", "0.3", "--max-seconds", "1", "--projection-size", "8", "--device", "cpu", "--preset", "tiny"]
TUNED = ["--epochs", "1", "--batch-size", "8", "--micro-batch-size", "8", "--device", "cpu", "--preset", "tiny"]


@dataclasses.dataclass
class Outcome:
    """What a script left behind: exit status and both outputs."""
    status: int
    out: str
    err: str


@pytest.fixture
def script(monkeypatch, capsys) -> Callable[..., Outcome]:
    """Run a script by name with arguments in this process."""
    def run(name: str, *args: object) -> Outcome:
        path = small.ROOT / "bin" / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(path), run_name="__main__")
        return Outcome(end.value.code, *capsys.readouterr())
    return run


@pytest.fixture
def good(script) -> Callable[..., str]:
    """Run a script that must end well; what it printed."""
    def run(name: str, *args: object) -> str:
        outcome = script(name, *args)
        assert outcome.status == 0, outcome.err
        return outcome.out
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bin")


@pytest.fixture(scope="module")
def base(folder) -> Path:
    return small.write_base(folder / "base")


@pytest.fixture(scope="module")
def tree(folder) -> Path:
    return small.write_tree(folder / "tree")


@pytest.fixture(scope="module")
def table(folder, tones) -> Path:
    manifest.write(folder / "corpus.tsv", tones)
    return folder / "corpus.tsv"


@pytest.fixture(scope="module")
def units(folder, tones) -> Path:
    """Units drawn at random, for the tones, as .km."""
    draw = np.random.default_rng(0)
    lines = [" ".join(map(str, draw.integers(6, size=(u.num_samples - 400) // 320 + 1))) for u in tones]
    (folder / "units.km").write_text("\n".join(lines) + "\n")
    return folder / "units.km"


@pytest.fixture(scope="module")
def finished(folder, tree, base) -> Path:
    """A session run: method finetune, all folds."""
    recipe.run_sessions(small.config(tree, base, folder / "finished", method="finetune", session="all"),
                         small.SETTINGS)
    return folder / "finished"


# A model of another hop

def test_a_model_of_25_hz_from_the_preflight_to_emotions_over_time(good, script, tones, table, units, tmp_path):
    """Every frame that is written, read or told the time of is one of the model's own, 40 ms from the next."""
    base = small.write_base(tmp_path / "base", **small.MODEL_25_HZ)
    hubert = Hubert.from_pretrained(base)
    counts = [(u.num_samples - 720) // 640 + 1 for u in tones]
    assert counts == [hubert.states(torch.zeros(1, u.num_samples)).shape[1] for u in tones]
    good("session", "--corpus", table, "--hubert", base, "--preset", "tiny", "--out", tmp_path / "session",
         "--preflight", *small.FLAGS)
    good("units", "--corpus", table, "--model", base, "--layer", "1", "--clusters", "5", "--km", "--device", "cpu",
         "--out", tmp_path / "units")
    found = Units.read(tmp_path / "units" / "units.safetensors")
    assert found.offsets.diff().tolist() == counts and found.record["frame_rate"] == 25

    for name, more in (("kept", []), ("sound", ["--no-cache-frontend"]), ("trained", ["--no-freeze-conv"])):
        for form in ("safetensors", "km"):
            good("pretrain", "--corpus", table, "--units", tmp_path / "units" / f"units.{form}", "--init-from", base,
                 "--out", tmp_path / f"{name}-{form}", *QUICK, *more)
        from_record, from_text = (safetensors.torch.load_file(tmp_path / f"{name}-{form}/encoder/model.safetensors")
                                  for form in ("safetensors", "km"))
        assert all(torch.equal(x, from_text[key]) for key, x in from_record.items())
        good("finetune", "--corpus", table, "--session", "1", "--init-from", tmp_path / f"{name}-km" / "encoder",
             "--out", tmp_path / f"tuned-{name}", "--max-seconds", "0.5", *TUNED, *more)
    wrong = script("pretrain", "--corpus", table, "--units", units, "--init-from", base, *QUICK,
                   "--out", tmp_path / "x")
    assert wrong.status == 2 and f"has {(tones[0].num_samples - 400) // 320 + 1} units but {counts[0]} fr" in wrong.err
    assert not (tmp_path / "x").exists()

    recogniser = tmp_path / "tuned-kept" / "recogniser"
    good("units", "--corpus", table, "--model", recogniser, "--layer", "1", "--clusters", "5", "--device", "cpu",
         "--out", tmp_path / "emotion")
    codebook = tmp_path / "emotion" / "codebook.safetensors"
    said = good("recognise", recogniser, *(u.path for u in tones[:3]), "--timeline", "--format", "jsonl",
                "--codebook", codebook, "--device", "cpu", "--no-gate", "--html", tmp_path / "page.html")
    for line, tone, count in zip(said.splitlines(), tones, counts, strict=False):
        content = json.loads(line)
        assert content["frames_per_second"] == 25
        assert [len(content[name]) for name in ("posterior", "attention", "units")] == [count] * 3
        assert content["segments"][-1]["end"] == pytest.approx(tone.num_samples / 16_000, abs=1e-6)
    assert "one every 40 ms" in (tmp_path / "page.html").read_text()
    np.save(tmp_path / "other.npy", safetensors.torch.load_file(codebook)["centroids"].numpy())
    other = script("recognise", recogniser, tones[0].path, "--codebook", tmp_path / "other.npy", "--layer", "1",
                   "--codebook-model", small.write_base(tmp_path / "50 hz"), "--device", "cpu")
    assert other.status == 2 and "frame of 25 ms every 20 ms, the recogniser a frame of 45 ms every 40 ms" in other.err
    soundfile.write(tmp_path / "short.wav", np.random.default_rng(0).normal(0, 0.1, 719), 16_000)
    short = script("recognise", recogniser, tmp_path / "short.wav", "--device", "cpu")
    assert short.status == 2 and "short.wav: 719 samples at 16 kHz, must be >= 720 (45 ms)" in short.err


# Help and launch

@pytest.mark.parametrize("name", SCRIPTS)
def test_help_has_an_example_and_says_what_each_flag_is(script, name):
    """And the script's own docstring has two of the examples."""
    help_text = script(name, "--help")
    assert help_text.status == 0 and not help_text.err
    assert help_text.out.startswith(f"usage: bin/{name}.py [options]")
    examples = re.findall(r"^    (?:torchrun .*)?bin/.*$", help_text.out, re.MULTILINE)
    docstring = ast.get_docstring(ast.parse((small.ROOT / "bin" / f"{name}.py").read_text()), clean=False)
    in_script = [line for line in docstring.splitlines() if line.startswith("    ")]
    assert len(in_script) == 2 and f"bin/{name}.py" in examples[0] and set(in_script) <= set(examples)
    assert "--run" not in re.findall(r"--[a-z-]+", help_text.out)
    blocks = re.split(r"\n  (?=\S)", help_text.out.partition("options:")[2])[2:]       # without --help itself
    silent = [block for block in blocks if not re.sub(r"^-\S+( [A-Z_]+| \{.*\})?(, --no-\S+)?", "", block).strip()]
    assert blocks and not silent


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_the_verbs_of_the_package(name):
    """At most 15 lines: a docstring and the call of the verb's `main`."""
    source = (small.ROOT / "bin" / f"{name}.py").read_text()
    assert source.count("\n") <= 15 and f"sys.exit(log.command({name}_command.main))" in source


@pytest.mark.parametrize("name, old", [("demo", "--run"), *itertools.product(["finetune", "pretrain", "session"],
                                                                             ["--run", "--run-folder"])])
def test_the_old_names_of_out_are_understood(script, monkeypatch, tmp_path, name, old):
    """For one version, with a line on stderr: here before a mistake that ends the script."""
    monkeypatch.setattr(log, "_said", set())
    needed = ["--corpus", "a.tsv", "--hubert", "b"] if name == "session" else []
    wrong = script(name, old, tmp_path / "run", *needed, "--device", "tpu")
    first, second = wrong.err.splitlines()
    assert first == f"{old} is now --out (the old name goes in the next version)"
    assert wrong.status == 2 and "--device must be" in second


@pytest.mark.parametrize("name", ["finetune", "pretrain", "session", "units"])
def test_torchrun_leaves_our_flags_alone(script, name):
    """It takes what begins one of its own options for that option, wherever it stands (pytorch issue 120601)."""
    theirs = [option for action in get_args_parser()._actions for option in action.option_strings]
    ours = set(re.findall(r"--[a-z-]+", script(name, "--help").out.partition("options:")[2]))
    assert {flag for flag in ours if any(option.startswith(flag) for option in theirs)} == {"--help"}
    assert "--out" in ours


@pytest.mark.parametrize("name, words", [
    ("pretrain", ["seconds", "audio per update", "20 ms each", "learning rate", "utterances"]),
    ("finetune", ["20 ms each", "utterances per update", "0: whole utterances"]), ("units", ["clusters", "passes"]),
    ("session", ["pretrain.updates=500", "`scratch`"]), ("prepare", ["5531"]),
    ("recognise", ["50 frames/s", "seconds: no segment is shorter"])])
def test_help_says_units(script, name, words):
    text = " ".join(script(name, "--help").out.split())
    assert not [word for word in words if word not in text]


def test_a_wrong_flag_is_explained(script):
    outcome = script("pretrain", "--updates", "many")
    usage, line = outcome.err.splitlines()
    assert outcome.status == 2 and usage == "usage: bin/pretrain.py [options]"
    assert line.endswith("argument --updates: invalid int value: 'many'")


def test_launched_from_the_shell(table, tmp_path):
    """A real process, in another folder, with an error: one line on stderr, status 2, no traceback."""
    command = [sys.executable, small.ROOT / "bin" / "finetune.py", "--corpus", table, "--init-from", "nowhere"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=tmp_path, env=small.ENVIRONMENT)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: nowhere: no such directory (one with config.json and model.safetensors is needed)"]
    assert not list(tmp_path.iterdir())


def test_two_ranks_of_torchrun_pretrain_as_one(good, table, units, base, tmp_path):
    args = ["--corpus", table, "--units", units, "--init-from", base, *QUICK]
    good("pretrain", *args, "--out", tmp_path / "one")
    done = ranks.torchrun(2, small.ROOT / "bin" / "pretrain.py", *args, "--out", tmp_path / "two", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"encoder: {tmp_path / 'two' / 'encoder'}"      # one rank prints it
    one, two = (safetensors.torch.load_file(tmp_path / name / "encoder" / "model.safetensors") for name in (
        "one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


# What each script makes

def test_prepare_reads_every_kind_of_corpus(good, tree, tones, table, tmp_path):
    out = good("prepare", "--iemocap", tree, "--allow-partial", "--out", tmp_path / "a" / "corpus.tsv")
    utterances = manifest.read(tmp_path / "a" / "corpus.tsv")
    assert len(utterances) == 24 and {u.label for u in utterances} == set(utterance.CLASSES)
    assert out.splitlines()[-1] == f"{tmp_path / 'a' / 'corpus.tsv'}: 24 utterances" and "hours" in out
    without = good("prepare", "--iemocap", tree, "--allow-partial", "--no-excited", "--out", tmp_path / "b.tsv")
    assert without != out or not list(tree.rglob("*exc*"))
    plain = "path,emotion\n" + "".join(f"{u.path},{u.label}\n" for u in tones)
    (tmp_path / "plain.csv").write_text(plain)
    good("prepare", "--table", tmp_path / "plain.csv", "--out", tmp_path / "c.tsv")
    assert [(u.id, u.num_samples, u.label) for u in manifest.read(tmp_path / "c.tsv")] == [
        (u.id, u.num_samples, u.label) for u in tones]
    lines = [str(tones[0].path.parent), *(f"{u.path.name}\t{u.num_samples}" for u in tones)]
    (tmp_path / "list.tsv").write_text("\n".join(lines) + "\n")
    good("prepare", "--fairseq", tmp_path / "list.tsv", "--out", tmp_path / "d.tsv")
    assert [(u.id, u.label) for u in manifest.read(tmp_path / "d.tsv")] == [(u.id, "") for u in tones]


def test_prepare_joins_a_corpus_and_says_what_came_out(good, tones, table, tmp_path):
    """All labels, two classes in other spellings, another seed; truths beside the sounds, summary as counted."""
    out = good("prepare", "--join", table, "--out", tmp_path / "a" / "corpus.tsv")
    joined = manifest.read(tmp_path / "a" / "corpus.tsv")
    assert [u.id for u in joined] == [u.id for u in tones if u.label != "neutral"]
    counts = {name: sum(u.style == name for u in joined) for name in {u.style for u in joined}}
    listed = ", ".join(f"{name} {counts[name]}" for name in sorted(counts))
    emotional = sum(stretch.end - stretch.start for u in joined for stretch in frame_truth.stretches(u))
    seconds = sum(u.num_samples for u in joined) / 16_000
    assert f"joined: {listed}; emotional: {100 * emotional / seconds:.1f} % of {seconds / 3600:.2f} hours" in out
    assert all(len(frame_truth.rows(u.path)) == 1 and u.path.parent == tmp_path / "a" for u in joined)

    few = ["--classes", "neutral,anger", "--seed", "1"]
    renamed = table.read_text().replace("\tangry\t", "\tanger\t").replace("\ttones", f"\t{table.parent}/tones")
    (tmp_path / "renamed.tsv").write_text(renamed)
    good("prepare", "--join", tmp_path / "renamed.tsv", *few, "--out", tmp_path / "b" / "corpus.tsv")
    angry = manifest.read(tmp_path / "b" / "corpus.tsv")
    assert [u.id for u in angry] == [u.id for u in tones if u.label == "angry"]
    assert {u.label for u in angry} == {"anger"}
    assert [u.style for u in angry] != [u.style for u in joined if u.label == "angry"]


def test_prepare_reads_zed(good, script, tmp_path):
    (tmp_path / "ZED" / "wav").mkdir(parents=True)
    soundfile.write(tmp_path / "ZED" / "wav" / "a.wav", np.random.default_rng(0).normal(0, 0.1, 32_000), 16_000)
    entry = {"wav": "datafolder/wav/a.wav", "duration": 2.0, "emotion": [{"emo": "sad", "start": 0.39, "end": 1.1}]}
    files.write_json(tmp_path / "ZED" / "ZED.json", {"a": entry | {"transcription": ""}})
    zed = ["prepare", "--zed", tmp_path / "ZED" / "ZED.json", "--out", tmp_path / "zed" / "corpus.tsv"]
    before = listing(tmp_path)
    refused(script(*zed), tmp_path, before, "1 utterances, expected 180", "--allow-partial")
    good(*zed, "--allow-partial")
    assert (tmp_path / "zed" / "corpus.tsv").read_text().splitlines()[1].split("\t")[-3:] == ["sad", "", "0.39 1.1 sad"]


def test_evaluate_scores_a_recogniser_on_a_joined_corpus(good, script, table, base, tones, tmp_path):
    """EDER as counted frame by frame, of labels in another spelling; printed as written; the run's own table has it."""
    EmotionModel(Hubert.from_pretrained(base), list(utterance.CLASSES)).save_pretrained(tmp_path / "model")
    good("prepare", "--join", table, "--out", tmp_path / "joined" / "corpus.tsv")
    joined = manifest.read(tmp_path / "joined" / "corpus.tsv")
    spelt = tmp_path / "joined" / "spelt.tsv"
    manifest.write(spelt, [dataclasses.replace(u, label=u.label.replace("angry", "Anger")) for u in joined])
    out = good("evaluate", tmp_path / "model", "--on", spelt, "--smooth", "0.1", "--json", tmp_path / "scores.json")
    scores = files.read_json(tmp_path / "scores.json")
    rates, model = [], Recogniser.from_pretrained(tmp_path / "model")
    for one in joined:
        said = model.model.labels
        said = [said[i] for i in model(one.path).posterior.argmax(1)]
        (first, end, emotion), = frame_truth.rows(one.path)
        true = [emotion if first <= t < end else "neutral" for t in range(len(said))]
        wrong = sum(a != b for a, b in zip(said, true)) * 320 + 80 * (said[-1] != "neutral")
        rates.append(wrong / one.num_samples)
    assert scores["over_time"]["eder"] == pytest.approx(np.mean(rates))
    assert scores["over_time"]["num_utterances"] == len(joined) and scores["smooth_seconds"] == 0.1
    assert re.search(rf"^ +EDER +{100 * np.mean(rates):.1f}  ", out, re.MULTILINE)
    assert f"{len(joined)} utterances whose truth is known, segments of at least 0.1 s" in out
    assert "an older one: whether it was trained on some" in out

    for words, problem in ((["--on", spelt], "--on needs a recogniser's directory before it"),
                           ([tmp_path / "model", "--on", spelt, "--smooth", "-1"], "--smooth must be 0 or more"),
                           ([tmp_path / "model", "--on", spelt, "--predictions", tmp_path], "a folder, must be a file"),
                           (["--matrix", tmp_path / "model"], "--matrix needs corpora to test on: --on TABLE"),
                           ([tmp_path / "model", "--on", tmp_path / "bored.tsv"], "no label is one of the recogniser"),
                           ([base, "--on", spelt], "holds an encoder but no recogniser")):
        manifest.write(tmp_path / "bored.tsv", [dataclasses.replace(u, label="bored") for u in joined])
        before = listing(tmp_path)
        refused(script("evaluate", *words, "--json", tmp_path / "x.json"), tmp_path, before, problem)


def test_units_of_mfcc_of_states_and_of_a_codebook(good, table, base, tones, tmp_path):
    few = ["--corpus", table, "--seeding-frames", 500, "--full-passes", 2, "--device", "cpu"]
    good("units", *few, "--mfcc", "--clusters", 6, "--km", "--out", tmp_path / "mfcc")
    good("units", *few, "--model", base, "--layer", 1, "--clusters", 5, "--seed", 3, "--out", tmp_path / "states")
    codebook = tmp_path / "states" / "codebook.safetensors"
    good("units", *few, "--model", base, "--layer", 1, "--codebook", codebook, "--out", tmp_path / "given")
    mfcc, states, given = (Units.read(tmp_path / name / "units.safetensors") for name in ("mfcc", "states", "given"))
    for one in (mfcc, states, given):
        one.check(tones, "units")
    assert torch.equal(states.units, given.units) and mfcc.num_clusters == 6
    assert Codebook.read(codebook).record | {"seed": 3, "layer": 1} == Codebook.read(codebook).record
    assert len((tmp_path / "mfcc" / "units.km").read_text().splitlines()) == 24
    assert {path.name for path in (tmp_path / "states").iterdir()} == {"codebook.safetensors", "units.safetensors"}


def test_pretrain_from_scratch_finetune_export_recognise(good, table, units, tones, tmp_path):
    """The chain of single steps that a newcomer takes."""
    good("pretrain", "--corpus", table, "--units", units, *QUICK, "--out", tmp_path / "pre")
    log = [json.loads(line) for line in (tmp_path / "pre" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["update"] == 2 and {"loss", "masked_accuracy"} <= {key for line in log for key in line}
    good("finetune", "--corpus", table, "--session", 2, "--init-from", tmp_path / "pre" / "encoder", *TUNED, "--out",
         tmp_path / "fine")
    assert files.read_json(tmp_path / "fine" / "results.json")["num_utterances"]["test"] == 8
    out = good("export", tmp_path / "fine", tmp_path / "exported")
    assert out.startswith(f"{tmp_path / 'exported'}: recogniser of {tmp_path / 'fine' / 'checkpoints' / '00000001'}")
    good("export", tmp_path / "pre" / "checkpoints" / "00000002", tmp_path / "encoder")
    good("export", tmp_path / "fine" / "recogniser", tmp_path / "bare", "--encoder")
    good("export", tmp_path / "fine", tmp_path / "ta.safetensors", "--to", "torchaudio")
    assert "encoder.feature_projection.projection.weight" in safetensors.torch.load_file(tmp_path / "ta.safetensors")
    for name in ("encoder", "bare"):
        assert Hubert.from_pretrained(tmp_path / name).config.hidden_size == 96
    sounds = [u.path for u in tones[:3]]
    lines = good("recognise", tmp_path / "exported", *sounds, "--no-gate", "--device", "cpu").splitlines()
    assert [line.split("\t")[0] for line in lines] == [*map(str, sounds)]
    one, = good("recognise", tmp_path / "exported", sounds[0], "--timeline", "--format", "jsonl",
                "--no-gate").splitlines()
    result = Recogniser.from_pretrained(tmp_path / "exported")(sounds[0])
    assert json.loads(one)["emotion"] == result.emotion == lines[0].split("\t")[1]
    assert np.abs(np.array(json.loads(one)["attention"]) - result.attention).max() < 1e-5


def test_finetune_by_lists_and_again(good, script, tones, base, tmp_path):
    for part, fold in (("train", "2"), ("valid", "3"), ("test", "1")):
        lines = [f"{u.id} {u.path} {utterance.CLASSES.index(u.label)}\n" for u in tones if u.session == fold]
        (tmp_path / f"{part}.scp").write_text("".join(lines))
    args = [word for part in ("train", "valid", "test") for word in (f"--{part}", tmp_path / f"{part}.scp")]
    args += ["--init-from", base, *TUNED, "--pooling", "mean", "--out", tmp_path / "run"]
    good("finetune", *args)
    before = small.products(tmp_path / "run")
    assert "continues after update 1" in good("finetune", *args) and small.products(tmp_path / "run") == before
    outcome = script("finetune", *args, "--no-resume")
    assert outcome.status == 2 and "holds checkpoints" in outcome.err


def test_session_and_evaluate_print_the_table(good, tree, base, finished, tmp_path):
    args = ["--iemocap", tree, "--allow-partial", "--hubert", base, "--preset", "tiny", "--device", "cpu", *small.FLAGS]
    out = good("session", *args, "--session", "all", "--method", "finetune", "--out", finished)
    assert out.count("[finetune] kept") == 3
    table = out[out.index("protocol: "):]
    assert good("evaluate", finished, "--method", "finetune") == table
    assert good("evaluate", finished, "--method", "finetune", "--selection", "clean") == table
    rows = [line.split() for line in table.splitlines()]
    assert [row[0] for row in rows[2:8]] == ["1", "2", "3", "mean", "deviation", "pooled"] and rows[7][-1] == "24"
    assert files.read_json(finished / "results.json")["finetune"]["pooled"]["wa"] == pytest.approx(
        float(rows[7][1]) / 100, abs=6e-4)
    out = good("session", *args, "--method", "align", "--out", tmp_path / "run", "--set", "pretrain.updates=2")
    assert "protocol: method align, " in out and (tmp_path / "run" / "session1" / "recogniser" / "config.json").exists()
    stage = files.read_json(tmp_path / "run" / "tapt-pretrain" / "stage.json")
    assert stage["settings"]["pretrain"]["updates"] == 2


def test_all_methods_and_two_seeds_share_stages_and_are_compared(good, tree, base, tmp_path, monkeypatch):
    """The ablation on two folds' worth of stages: what depends on nothing is made once; the table and the pairs."""
    args = ["--iemocap", tree, "--allow-partial", "--hubert", base, "--preset", "tiny", "--device", "cpu", *small.FLAGS,
            "--set", "finetune.epochs=1", "--set", "finetune.test_every_epoch=true", "--out", tmp_path / "run"]
    collected, collect = [], results.collect
    monkeypatch.setattr(results, "collect", lambda run, method, *rest: collected.append((Path(run).name, method))
                        or collect(run, method, *rest))
    out = good("session", *args, "--method", "all", "--seeds", "1,2")
    assert sorted(collected) == sorted((f"seed{n}", method) for n in (1, 2) for method in session_config.METHODS)
    assert out.count("[tapt-pretrain] done") == 2 and out.count("[tapt-pretrain] kept") == 4    # the others keep it
    assert out.count("[frames] done") == 2 and out.count("[frames] kept") == 8
    table = out[out.index("protocol: "):]
    assert table.count("tapt - finetune: WA") == table.count("align - tapt: WA") == \
        table.count("multiscale - align: WA") == table.count("finetune - probe: WA") == 1 and "seed 1 2" in table
    assert good("evaluate", tmp_path / "run", "--method", "all") == table
    assert files.read_json(tmp_path / "run" / "seed2" / "results.json").keys() == {*session_config.METHODS}
    for fold in (tmp_path / "run").glob("seed*/session1/finetune"):
        noted, = (json.loads(line) for line in (fold / "epochs.jsonl").read_text().splitlines())
        last = [line.split(",")[2] for line in (fold / "predictions.csv").read_text().splitlines()[1:]]
        assert [utterance.CLASSES[i] for i in noted["predicted"]] == last          # of the only epoch
    one = good("evaluate", tmp_path / "run" / "seed1", "--method", "tapt")
    assert "as the released code chooses them: optimistic" in one
    seeds = good("evaluate", tmp_path / "run")
    assert "method align" in seeds and [line.split()[0] for line in seeds.splitlines()[2:]] == ["1", "2", "mean",
                                                                                               "deviation", "95"]
    link = tmp_path / "run" / "seed1" / "session1" / "recogniser"
    assert os.readlink(link) == "frames/recogniser"
    good("session", *args, "--method", "tapt", "--seed", "1", "--no-frames", "--out", tmp_path / "run" / "seed1")
    assert os.readlink(link) == "frames/recogniser"
    pair = [f"{tmp_path}/run/seed{seed}:tapt" for seed in (1, 2)]
    assert f"{pair[1]} - {pair[0]}: WA " in good("evaluate", "--compare", *pair)


def test_a_share_of_the_labels_is_shown_as_any_run(good, tree, base, tmp_path):
    """Tables of all seeds by `RUN/share0.5`; the page has the curves of a stage that hears sound alone."""
    out = good("session", "--iemocap", tree, "--allow-partial", "--hubert", base, "--preset", "tiny", "--device", "cpu",
               *small.FLAGS, "--out", tmp_path / "run", "--method", "tapt", "--no-frames", "--seeds", "1,2",
               "--label-share", "0.5")
    table = out[out.index("protocol: "):]
    assert "seed 1 2" in table and "label share 0.5" in table
    assert good("evaluate", tmp_path / "run" / "share0.5") == table
    fold = tmp_path / "run" / "seed1" / "share0.5" / "session1"
    (fold / "report-tapt.html").unlink()
    good("report", fold.parent, "--method", "tapt", "--device", "cpu")
    page = (fold / "report-tapt.html").read_text()
    assert "Stage 2: task-adaptive pretraining" in page and "label share" in page


def test_session_on_a_table_of_real_speech(good, shared, base, tmp_path):
    """Every third of EMO-DB's utterances, as they come: rates, durations and a table that is not the project's."""
    header, *lines = (shared / "emodb4" / "emodb4.tsv").read_text().splitlines(True)
    (tmp_path / "emodb4.tsv").write_text(header + "".join(f"{shared}/emodb4/{line}" for line in lines[::3]))
    good("session", "--corpus", tmp_path / "emodb4.tsv", "--hubert", base, "--preset", "tiny", "--method", "finetune",
          "--device", "cpu", *small.FLAGS, "--set", "finetune.epochs=1", "--out", tmp_path / "run")
    assert files.read_json(tmp_path / "run" / "session1" / "finetune" / "results.json")["reported"]["ua"] > 0


def test_demo_runs_the_three_methods_and_measures_alignment(good, base, tmp_path, monkeypatch):
    """The demo itself, on a corpus of 40 utterances and with a random base model."""
    monkeypatch.setattr(demo_command, "UTTERANCES_PER_SPEAKER", 4)
    out = good("demo", "--hubert", base, "--device", "cpu", *small.FLAGS, "--out", tmp_path / "demo")
    numbers = files.read_json(tmp_path / "demo" / "demo.json")
    assert list(numbers["methods"]) == ["finetune", "tapt", "align", "frames", "frames-bound"]
    for method, result in numbers["methods"].items():
        assert all(0 <= result["alignment"][name] <= 1 for name in ("attention_auc_mean", "posterior_auc_mean",
                                                                   "units_nmi"))
        over_time, peak = (result["alignment"][name] for name in ("over_time", "attention_max_over_mean"))
        shares = [result["reported"]["ua"], result["reported"]["wa"], over_time["eder"]]
        row = rf"^ *{method}  " + " +".join(f"{100 * share:.1f} %" for share in shares) + rf" .* {peak:.3f} "
        assert re.search(row, out, re.MULTILINE) and f"always neutral {100 * over_time['always_neutral']:.1f} %" in out
        assert peak >= 1 and result["over_time"] == over_time                   # the fold's own test says the same
    assert {"pitch and energy", "MFCC"} == set(numbers["utterance_means_ua"])
    assert os.readlink(tmp_path / "demo" / "session1" / "recogniser") == "frames/recogniser"
    assert numbers["methods"]["frames-bound"]["protocol"]["frames"] == "trained on their truth"
    *_, example, pages = out.splitlines()
    recogniser = tmp_path / "demo" / "session1" / "recogniser"
    assert re.fullmatch(rf"try: bin/recognise.py {recogniser} (\S+\.wav) --timeline", example)
    assert Path(example.split()[3]).is_file()
    report, lesson = (tmp_path / "demo" / "session1" / name for name in ("report.html", "lesson.html"))
    assert pages == f"open in a browser: {report} and {lesson}"
    assert "<svg" in report.read_text(encoding="utf-8") and "<svg" in lesson.read_text(encoding="utf-8")


def test_the_demo_is_not_for_torchrun(base, tmp_path):
    done = ranks.torchrun(2, small.ROOT / "bin" / "demo.py", "--hubert", base, "--device", "cpu", "--out",
                          tmp_path / "demo", folder=tmp_path)
    assert "error: the demo runs in two processes of its own; start it without torchrun" in done.stderr
    assert done.returncode != 0 and not (tmp_path / "demo").exists()


def test_the_committed_base_model_can_be_made_again(good, tmp_path, monkeypatch):
    monkeypatch.setattr(session_config, "TINY", tmp_path / "tiny")
    monkeypatch.setattr(demo_command, "BASE_SESSIONS", 3)
    monkeypatch.setattr(demo_command, "BASE_UTTERANCES_PER_SPEAKER", 4)
    good("demo", "--make-tiny-base", "--device", "cpu", *small.FLAGS, "--out", tmp_path / "run")
    assert Hubert.from_pretrained(tmp_path / "tiny").config == small.model()
    record = files.read_json(tmp_path / "tiny" / "record.json")
    assert record["utterances"] == 24 and set(record["stages"]) == {"mfcc-units", "scratch-1", "scratch-units",
                                                                    "scratch-2"}


# Bad input: one line with what, where and what to do; status 2; nothing written

def write_rotten(folder: Path, kind: str) -> None:
    """Make `bad.wav` of one rotten kind."""
    path, draw = folder / "bad.wav", np.random.default_rng(0)
    noise = 0.1 * draw.standard_normal(16_000)
    if kind == "missing":
        return
    soundfile.write(path, {"silent": 0 * noise, "short": noise[:399], "nan": noise * np.nan}.get(kind, noise), 16_000,
                    subtype="FLOAT")
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:20_000])
    elif kind == "text":
        path.write_text("no sound\n" * 1000)


ROTTEN = {"missing": "no such file", "empty": r"empty file \(0 bytes\)", "truncated": "truncated: the header claims",
          "text": "not a sound file", "short": "400", "silent": "nothing to hear", "nan": "NaN"}


def refused(outcome: Outcome, folder: Path, before: dict, *words: str) -> None:
    """One line on stderr with these words, status 2, and the folder as it was."""
    assert outcome.status == 2, outcome.err
    line, = outcome.err.strip().splitlines() or [""]
    assert line.startswith("error: ") and "Traceback" not in outcome.out + outcome.err
    for word in words:
        assert re.search(word, line), line
    assert listing(folder) == before


def listing(folder: Path) -> dict[str, str]:
    """Everything below a folder, empty folders too."""
    return {str(path): "" for path in folder.rglob("*")} | small.digests(folder)


@pytest.mark.parametrize("kind", ROTTEN)
@pytest.mark.parametrize("name", ["recognise", "session", "units"])
def test_rotten_sound(script, tones, base, finished, tmp_path, name, kind):
    write_rotten(tmp_path, kind)
    bad = dataclasses.replace(tones[9], path=tmp_path / "bad.wav", num_samples=400 if kind == "short" else 16_000)
    manifest.write(tmp_path / "corpus.tsv", [*tones[:9], bad, *tones[10:]])
    before = listing(tmp_path)
    args = {"recognise": [finished / "session1" / "recogniser", tmp_path / "bad.wav"],
            "session": ["--corpus", tmp_path / "corpus.tsv", "--hubert", base, "--preset", "tiny", *small.FLAGS,
                        "--device", "cpu", "--out", tmp_path / "run"],
            "units": ["--corpus", tmp_path / "corpus.tsv", "--mfcc", "--clusters", 4, "--out", tmp_path / "run"]}
    refused(script(name, *args[name]), tmp_path, before, "bad.wav", ROTTEN[kind])


def changed_row(column: str, value: str) -> Callable[[list[list[str]]], None]:
    """Change one cell of the table's fifth line."""
    def change(rows: list[list[str]]) -> None:
        rows[4][rows[0].index(column)] = value
    return change


@pytest.mark.parametrize("change, words", [
    (changed_row("label", "joy\x01ous"), [r"corpus.tsv:5: label 'joy.x01ous' has a control character"]),
    (lambda rows: rows.append(rows[1]), [r"corpus.tsv:26: id Ses01F_impro00_F000 was used before, at .*corpus.tsv:2"]),
    (lambda rows: rows[4].pop(), [r"corpus.tsv:5: 7 columns, the header has 8"]),
    (changed_row("id", "../../etc"), [r"corpus.tsv:5: id '../../etc' is not safe as a file name"]),
    (changed_row("num_samples", "many"), [r"corpus.tsv:5: num_samples must be a whole number, got 'many'"]),
    (changed_row("num_samples", "399"), [r"corpus.tsv:5: .* num_samples must be >= 400"]),
    (changed_row("num_samples", "5000"), [r"1 of 24 sound files are not as the manifest says", "make the manifest"]),
    (changed_row("path", "gone.wav"), [r"gone.wav: no such file"]),
    (lambda rows: rows.clear(), [r"corpus.tsv:1: the header must name a column path"]),
    (lambda rows: rows.__delitem__(slice(1, None)), [r"corpus.tsv: holds no utterance"]),
])
@pytest.mark.parametrize("name", ["prepare", "units", "pretrain", "finetune", "session"])
def test_rotten_manifests(script, tones, base, units, tmp_path, name, change, words):
    manifest.write(tmp_path / "corpus.tsv", tones)
    rows = [line.split("\t") for line in (tmp_path / "corpus.tsv").read_text().splitlines()]
    change(rows)
    (tmp_path / "corpus.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    before = listing(tmp_path)
    args = {"prepare": ["--table", tmp_path / "corpus.tsv", "--out", tmp_path / "made" / "corpus.tsv"],
            "units": ["--mfcc", "--out", tmp_path / "run"],
            "pretrain": ["--units", units, "--init-from", base, *QUICK, "--out", tmp_path / "run"],
            "finetune": ["--init-from", base, *TUNED, "--out", tmp_path / "run"],
            "session": ["--hubert", base, *small.FLAGS, "--preset", "tiny", "--out", tmp_path / "run"]}[name]
    args += [] if name == "prepare" else ["--corpus", tmp_path / "corpus.tsv"]
    refused(script(name, *args), tmp_path, before, *words)


def spoil_model(directory: Path, how: str) -> None:
    """Spoil a model directory."""
    config = json.loads((directory / "config.json").read_text())
    if how == "shape":
        (directory / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    elif how == "type":
        (directory / "config.json").write_text(json.dumps(config | {"model_type": "wav2vec2"}))
    elif how == "half":
        content = (directory / "model.safetensors").read_bytes()
        (directory / "model.safetensors").write_bytes(content[:len(content) // 2])
    else:
        (directory / how).unlink()


@pytest.mark.parametrize("how, words", [
    ("shape", ["intermediate_dense.weight", "64"]), ("type", ["model_type must be hubert, is 'wav2vec2'"]),
    ("half", ["model.safetensors: not readable as safetensors"]), ("config.json", ["config.json: no such file"]),
    ("model.safetensors", ["holds no weights"]),
])
@pytest.mark.parametrize("name", ["units", "pretrain", "finetune", "session", "export", "recognise"])
def test_rotten_models(script, table, units, base, tmp_path, name, how, words):
    model = shutil.copytree(base, tmp_path / "model")
    spoil_model(model, how)
    before = listing(tmp_path)
    args = {"units": ["--corpus", table, "--model", model, "--layer", 1, "--out", tmp_path / "run"],
            "pretrain": ["--corpus", table, "--units", units, "--init-from", model, *QUICK, "--out", tmp_path / "run"],
            "finetune": ["--corpus", table, "--init-from", model, *TUNED, "--out", tmp_path / "run"],
            "session": ["--corpus", table, "--hubert", model, "--preset", "tiny", *small.FLAGS, "--out",
                        tmp_path / "run"],
            "export": [model, tmp_path / "run"], "recognise": [model, table]}
    refused(script(name, *args[name]), tmp_path, before, str(model), *words)


@pytest.mark.parametrize("name, args, words", [
    ("prepare", ["--iemocap", "/wrong", "--out", "{}/a.tsv"], ["/wrong: no Session1 to Session5", "holds Session1"]),
    ("prepare", ["--iemocap", "{tree}", "--out", "{}/a.tsv"], ["not the whole IEMOCAP", "--allow-partial"]),
    ("prepare", ["--fairseq", "{units}", "--out", "{}/a.tsv"], ["the header must name a column path", "fairseq"]),
    ("prepare", ["--join", "{three}", "--out", "{}/a.tsv"], ["already there and not empty; name another folder"]),
    ("prepare", ["--join", "{moody}", "--out", "{}/j/a.tsv"],
     ["no neutral utterance to join: a class named neutral and others are needed"]),
    ("prepare", ["--join", "{lacking}", "--one-speaker", "--out", "{}/j/a.tsv"],
     ["speaker Ses01M of session 1 has no neutral utterance to join with", "--no-one-speaker"]),
    ("prepare", ["--zed", "{table}", "--out", "{}/a.tsv"], ["corpus.tsv: not readable as JSON"]),
    ("session", ["--iemocap", "/wrong", "--hubert", "{base}", "--out", "{}/r"], ["/wrong: no Session1 to Session5"]),
    ("session", ["--corpus", "{table}", "--hubert", "/does/not/exist", "--out", "{}/r"],
     ["/does/not/exist: no such directory"]),
    ("session", ["--corpus", "{table}", "--hubert", "{base}", "--out", "{}/r"], ["choose the --preset of the model's"]),
    ("session", ["--corpus", "{table}", "--hubert", "{base}", "--set", "updates", "--out", "{}/r"], ["NAME=VALUE"]),
    ("session", ["--corpus", "{table}", "--hubert", "{base}", "--preset", "tiny", "--session", "7", "--out", "{}/r"],
     ["no utterance of session 7; there are: 1, 2, 3"]),
    ("session", ["--corpus", "{table}"], ["give the base model"]),
    ("evaluate", ["{}/none"], ["no finished fold of method align; run bin/session.py first"]),
    ("evaluate", [], ["give either a run's folder or --compare with two"]),
    ("evaluate", ["--compare", "{table}", "{table}"], ["corpus.tsv: must have the columns id, true and predicted"]),
    ("session", ["--corpus", "{table}", "--hubert", "{base}", "--seeds", "1,x", "--out", "{}/r"],
     ["--seeds must be different whole numbers separated by commas, got '1,x'"]),
    ("session", ["--corpus", "{table}", "--hubert", "{base}", "--method", "all", "--redo", "tapt-units"],
     ["--redo tapt-units is of one method"]),
    ("units", ["--corpus", "{table}", "--mfcc", "--codebook", "{codebook}", "--out", "{}/u"],
     ["codebook.npy: a codebook of 7 dimensions cannot label frames of 39"]),
    ("units", ["--corpus", "{table}", "--model", "{base}", "--layer", "1", "--codebook", "{codebook}", "--out", "{}/u"],
     ["codebook.npy: a codebook of 7 dimensions cannot label frames of 16"]),
    ("units", ["--corpus", "{table}", "--mfcc", "--full-passes", "-1"], ["full_passes must not be negative, got -1"]),
    ("pretrain", ["--corpus", "{table}", "--units", "{other}", "--init-from", "{base}", "--out", "{}/r"],
     [r"other.km: utterance Ses01F_impro00_F000 has 3 units but \d+ frames", "make the units of this manifest"]),
    ("pretrain", ["--corpus", "{table}", "--units", "{units}", "--freeze-conv", "--out", "{}/r"],
     ["from scratch the conv encoder must train too"]),
    ("pretrain", ["--corpus", "{table}", "--units", "{units}", "--updates", "0"],
     ["updates must be at least 1, got 0"]),
    ("finetune", ["--corpus", "{table}", "--out", "{}/r"], ["--init-from is needed; --help shows an example"]),
    ("finetune", ["--corpus", "{three}", "--init-from", "{base}", "--out", "{}/r"],
     ["the training part .* has no utterance labelled sad", "leave the class out"]),
    ("export", ["{base}", "{table}"], ["corpus.tsv: exists already"]),
    ("recognise", ["{base}", "{table}"], ["base: holds an encoder but no recogniser"]),
    ("demo", ["--hubert", "/does/not/exist", "--set", "x=1", "--out", "{}/d"], ["--set x: no such setting"]),
])
def test_other_mistakes(script, table, tree, base, units, tmp_path, monkeypatch, name, args, words):
    monkeypatch.setattr(demo_command, "make_corpus", lambda *args: tree)                # it takes minutes
    np.save(tmp_path / "codebook.npy", np.zeros((4, 7), np.float32))
    (tmp_path / "other.km").write_text("\n".join(["1 2 3"] * 24) + "\n")
    for part, left_out in (("three", "sad"), ("moody", "neutral"), ("lacking", "Ses01M\tM\tneutral")):
        rows = "".join(line for line in table.read_text().splitlines(True) if left_out not in line)
        (tmp_path / f"{part}.tsv").write_text(rows.replace("\ttones", f"\t{table.parent}/tones"))
    places = {"table": table, "tree": tree, "base": base, "units": units, "codebook": tmp_path / "codebook.npy",
              "other": tmp_path / "other.km",
              **{part: tmp_path / f"{part}.tsv" for part in ("three", "moody", "lacking")}}
    before, beside = listing(tmp_path), listing(table.parent)
    refused(script(name, *(word.format(tmp_path, **places) for word in args)), tmp_path, before, *words)
    assert listing(table.parent) == beside


# make

@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize("words, status, printed", [
    (["session", "S=2", "IEMOCAP=/a b", "HUBERT=tiny", "RUN=r"], 0,
     r'bin/session\.py --iemocap "/a b" --hubert "tiny"\s+--preset tiny --seed 0 +--out "r" +--session'),
    (["sessions", "CORPUS=c.tsv", "HUBERT=/m", "METHOD=tapt", "CODEBOOK=k.bin", "FLAGS=--redo all"], 0,
     r'--corpus "c\.tsv" --hubert "/m"\s+--codebook "k\.bin" --preset base --method tapt .*--redo all --session all'),
    (["demo"], 0, r"python bin/demo\.py *$"),
    (["demo", "CORPUS=c d.tsv", "HUBERT=/m", "S=2", "FLAGS=--seed 3"], 0,
     r'bin/demo\.py --corpus "c d\.tsv" --session 2 --hubert "/m" --seed 3$'),
    (["session", "CORPUS=c.tsv", "HUBERT=tiny", "CLUSTERS=32,64,128"], 0,
     "--preset tiny --seed 0 --clusters 32,64,128 --out"),
    (["session", "CORPUS=c.tsv", "HUBERT=voices"], 0, r'--hubert "voices"\s+--preset compact --seed 0'),
    (["voices", "TABLES=a b.tsv"], 0, r"bin/voices\.py a b\.tsv --out runs/voices *$"),
    (["voices"], 2, "give TABLES=a folder of manifests, or several tables"),
    (["session", "HUBERT=tiny"], 2, "give IEMOCAP=folder or CORPUS=table"),
    (["session", "IEMOCAP=/a"], 2, "give HUBERT=a model directory, tiny, voices or scratch"),
])
def test_make_calls_the_scripts(words, status, printed):
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "FLAGS"))}
    done = subprocess.run(["make", "--dry-run", *words], capture_output=True, text=True, cwd=small.ROOT, env=outside)
    assert done.returncode == status and re.search(printed, " ".join((done.stdout + done.stderr).split("\\\n")))
