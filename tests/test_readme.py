"""What the README and the page on recognition tell a reader to type is there and does what it says."""
import dataclasses
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from framealign import __main__ as package_main
from framealign.hubert.model import Hubert
from framealign.emotion import onnx_file
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.recogniser import Recogniser
from framealign.recipe import session_config
from framealign.commands import demo_command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECOGNISE = (ROOT / "docs" / "RECOGNISE.md").read_text(encoding="utf-8")
CLASSES = ["neutral", "happy", "angry", "sad"]


def blocks_of(page: str) -> list[tuple[str, str]]:
    """(kind, text) of each block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


BLOCKS = blocks_of(README)
OUTSIDE = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "FLAGS"))}
MAKE = [line.split("#")[0].strip() for _, block in BLOCKS for line in block.splitlines() if line.startswith("make ")]


def typed(line: str) -> int:
    """Run a line of a page, `bin/VERB.py ...` or `framealign VERB ...`, in this process: its exit status."""
    script, *words = shlex.split(line.split("  #")[0])
    patch = pytest.MonkeyPatch()
    try:
        if script == "framealign":
            patch.setattr(sys, "argv", ["framealign", *words])
            return package_main.main()
        patch.setattr(sys, "argv", [str(ROOT / script), *words])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        return end.value.code
    finally:
        patch.undo()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working directory with a recogniser with random weights, sounds and a folder of sounds."""
    monkeypatch.chdir(tmp_path)
    EmotionModel(Hubert.from_pretrained(session_config.TINY), CLASSES).save_pretrained("MODEL")
    for name in ("a.wav", "talk.wav", "talks/b.flac", "talks/c.ogg", "takes/d.mp3"):
        Path(name).parent.mkdir(exist_ok=True)
        soundfile.write(name, np.random.default_rng(0).normal(0, 0.1, 8000), 16_000)
    Path("talk.rttm").write_text("SPEAKER talk 1 0.05 0.40 <NA> <NA> Mary <NA> <NA>\n")
    return tmp_path


def test_first_lines_say_what_it_is():
    """One sentence, a picture, what it is not, the first command; and the page stays short."""
    lines = README.splitlines()
    first = "\n".join(lines[:30])
    assert "It is not" in first and "make demo" in first and re.search(r"!\[.{20,}\]\(docs/first-look\.svg\)", first)
    assert "make test" in README and "@" not in README and len(lines) <= 150


@pytest.mark.parametrize("line", MAKE)
def test_make_knows_the_target(line):
    """`make -n`: every variable is understood and every script named exists."""
    done = subprocess.run(["make", "-n", *line.split()[1:]], cwd=ROOT, capture_output=True, text=True, env=OUTSIDE)
    assert done.returncode == 0, done.stderr
    if line == "make help":
        return
    script = re.findall(r"python (bin/\w+\.py|-m pytest)", done.stdout)[-1]
    assert script == "-m pytest" or (ROOT / script).exists()


def test_a_session_without_its_inputs_is_refused_before_anything_is_installed():
    done = subprocess.run(["make", "-n", "session"], cwd=ROOT, capture_output=True, text=True, env=OUTSIDE)
    assert done.returncode != 0 and "IEMOCAP=folder or CORPUS=table" in done.stderr and "pip" not in done.stdout


def test_the_demos_table_is_as_the_demo_prints_it():
    """`demo_command.summary` of the numbers in the README is the README's table."""
    block, = (text for _, text in BLOCKS if text.startswith("Synthetic corpus"))
    methods = {}
    for name, shares, numbers in re.findall(r"^ *([\w-]+)((?:  [\d.]+ %)+)((?: +\d+\.\d{3})+)$", block, re.MULTILINE):
        ua, wa, eder = (float(share) / 100 for share in re.findall(r"[\d.]+", shares))
        keys = ("attention_auc_mean", "attention_auc_median", "attention_max_over_mean", "posterior_auc_mean",
                "posterior_auc_median", "units_nmi")
        over_time = {"eder": eder, "always_neutral": float(*re.findall(r"always neutral ([\d.]+) %", block)) / 100}
        methods[name] = {"reported": {"ua": ua, "wa": wa},
                         "alignment": dict(zip(keys, map(float, numbers.split()))) | {"over_time": over_time}}
    means = {name: float(share) / 100 for name, share in re.findall(r"(pitch and energy|MFCC) ([\d.]+) %", block)}
    assert list(methods) == [*session_config.PAPERS, "frames", "frames-bound"] and len(means) == 2
    printed = demo_command.summary({"methods": methods, "utterance_means_ua": means, "joined_utterances": 0},
                                   demo_command.DemoConfig())
    assert block.strip() == printed.strip()


def test_the_command_of_the_first_screen_prints_what_is_shown(folder, capsys):
    """With another model and sound: the same lines with other numbers, on segments without gaps."""
    block, = (text for _, text in BLOCKS if text.startswith(". .venv/bin/activate"))
    shown = BLOCKS[BLOCKS.index(("", block)) + 1][1]
    command = block.partition("\n")[2].replace("\\\n", " ")
    model, sound = re.findall(r"runs/demo/\S+", command)
    assert sound in shown
    line = command.strip().replace(model, "MODEL").replace(sound, "a.wav")
    assert typed(line) == 0
    first = r"\S+\.wav\t(\w+)\tneutral \d\.\d\d  happy \d\.\d\d  angry \d\.\d\d  sad \d\.\d\d\n"
    segment = r" {5,6}(\d+\.\d\d) {5,6}(\d+\.\d\d)  \w+ +confidence \d\.\d\d  attention \d+ %\n"
    for text in (shown, capsys.readouterr().out):
        assert re.fullmatch(f"{first}(?:{segment})+", text), text
        times = re.findall(segment, text)
        assert times[0][0] == "0.00" and all(end == start for (_, end), (start, _) in zip(times, times[1:]))


def test_the_other_commands_for_recognition_exist(folder):
    """Of the four commands for IEMOCAP the one that is none of make's."""
    line, = (line for _, block in BLOCKS if "make ablation" in block for line in block.splitlines()
             if not line.startswith("make "))
    assert typed(line.replace("runs/iemocap/session1/recogniser", "MODEL").replace("some.wav", "a.wav")) == 0


def test_the_verbs_that_are_named_exist():
    named = set(re.findall(r"^framealign ([a-z]+)\b", "\n".join(text for _, text in BLOCKS), re.MULTILINE))
    assert named and not named - set(package_main.VERBS)
    assert {path.stem for path in (ROOT / "bin").glob("*.py")} - {"bench"} == set(package_main.VERBS)


def test_the_python_example_runs(folder):
    """With the committed tiny model in place of the published one, and a recogniser with random weights."""
    code, = (block for kind, block in BLOCKS if kind == "python")
    code = code.replace("hubert-base-ls960", str(session_config.TINY)).replace("runs/demo/session1/recogniser", "MODEL")
    code = code.replace("layer=9", "layer=2")       # the tiny model has two
    sound, _ = soundfile.read("a.wav", dtype="float32")
    names = {"waveform": torch.tensor(sound)[None], "num_samples": torch.tensor([8000])}
    exec(compile(code, "README.md", "exec"), names)     # our own README: this is the test
    assert names["states"].shape == (1, 24, 96) and names["units"].shape == (24,)
    assert names["result"].posterior.shape == (24, 4) and abs(names["result"].attention.sum() - 1) < 1e-5
    assert names["result"].emotion in names["result"].probabilities


def test_the_lines_on_recognition_run(folder, capsys):
    """Every line of the page's first block, on a file, a folder and a pattern that are there."""
    lines = blocks_of(RECOGNISE)[0][1].splitlines()
    assert len(lines) == 7
    for line in lines:
        assert typed(line) == 0, line
    assert sorted(path.name for path in Path("grids").iterdir()) == ["b.TextGrid", "c.TextGrid"]
    assert Path("a.html").stat().st_size > 10_000
    assert Path("recogniser.pt2").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert printed.count("takes/d.mp3\t") == 1 and "Mary" in printed


def test_the_python_of_the_page_on_recognition_runs(folder, capsys):
    code, live, _ = (block for kind, block in blocks_of(RECOGNISE) if kind == "python")
    names: dict = {}
    exec(compile(code.replace("runs/demo/session1/recogniser", "MODEL"), "RECOGNISE.md", "exec"), names)
    assert names["result"].posterior.shape == (24, 4)
    assert capsys.readouterr().out.startswith("0.0 ")
    names["chunks"] = np.random.default_rng(0).normal(0, 0.1, (10, 8820)).astype(np.float32)    # 2 s
    exec(compile(live, "RECOGNISE.md", "exec"), names)
    assert names["frame"].start == 1.96 and names["frame"].posterior.shape == (4,)


def test_the_lines_on_onnx_run(folder, capsys):
    """The export, the smaller one, and the Python that runs the file: the recogniser's own answer."""
    for package in (*onnx_file.PACKAGES, "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is absent: pip install -e .[export]")
    config = Hubert.from_pretrained(session_config.TINY).config
    fewer = dataclasses.replace(config, conv_dim=(16,) * 3, conv_kernel=(10, 8, 16), conv_stride=(5, 8, 16))
    model = EmotionModel(Hubert(fewer), CLASSES)    # each convolution takes a while to be traced
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained("MODEL")
    section = RECOGNISE.partition("## Without framealign")[2]
    (_, lines), (_, code) = blocks_of(section)
    for line in lines.splitlines():
        assert typed(line) == 0, line
    assert Path("small.onnx").stat().st_size < 0.35 * Path("recogniser.onnx").stat().st_size
    assert capsys.readouterr().out.splitlines() == ["recogniser.onnx: recogniser of MODEL, onnx format",
                                                    "small.onnx: recogniser of MODEL, onnx format"]
    names: dict = {}
    exec(compile(code, "RECOGNISE.md", "exec"), names)
    alone = Recogniser.from_pretrained("MODEL")("a.wav")
    np.testing.assert_allclose(names["probabilities"][0], list(alone.probabilities.values()), atol=2e-5)
    np.testing.assert_allclose(names["posterior"][0], alone.posterior, atol=2e-5)
    assert capsys.readouterr().out.split()[0] == alone.emotion
