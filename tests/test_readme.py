"""What the README tells a reader to type is there and does what it says."""
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

from framealign.recipe import recipe
from framealign.emotion.emotion_model import EmotionModel
from framealign.hubert.model import Hubert

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
OUTSIDE = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "FLAGS"))}
MAKE = [line.split("#")[0].strip() for _, block in BLOCKS for line in block.splitlines() if line.startswith("make ")]


def test_first_lines_say_what_it_is():
    """One sentence, what it is not, the two commands, within the first 30 lines."""
    first = "\n".join(README.splitlines()[:30])
    assert "It is not" in first and "make demo" in first and "make test" in first and "@" not in README


@pytest.mark.parametrize("line", MAKE)
def test_make_knows_the_target(line):
    """`make -n`: every variable is understood and every script named exists."""
    done = subprocess.run(["make", "-n", *line.split()[1:]], cwd=ROOT, capture_output=True, text=True, env=OUTSIDE)
    assert done.returncode == 0, done.stderr
    script = re.findall(r"python (bin/\w+\.py|-m pytest)", done.stdout)[-1]
    assert script == "-m pytest" or (ROOT / script).exists()


def test_a_session_without_its_inputs_is_refused_before_anything_is_installed():
    done = subprocess.run(["make", "-n", "session"], cwd=ROOT, capture_output=True, text=True, env=OUTSIDE)
    assert done.returncode != 0 and "IEMOCAP=folder or CORPUS=table" in done.stderr and "pip" not in done.stdout


def test_the_lines_on_recognition_run(tmp_path, monkeypatch, capsys):
    """Every line of the block that begins with bin/recognise.py, on a file, a folder and a pattern that are there."""
    monkeypatch.chdir(tmp_path)
    EmotionModel(Hubert.from_pretrained(recipe.TINY), ["neutral", "happy", "angry", "sad"]).save_pretrained("MODEL")
    for name in ("a.wav", "talks/b.flac", "talks/c.ogg", "takes/d.mp3"):
        Path(name).parent.mkdir(exist_ok=True)
        soundfile.write(name, np.random.default_rng(0).normal(0, 0.1, 8000), 16_000)
    block, = (block for _, block in BLOCKS if block.startswith("bin/recognise.py"))
    lines = [line.split("#")[0] for line in block.splitlines()]
    assert len(lines) == 4
    for line in lines:
        script, *words = shlex.split(line)
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *words])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        assert end.value.code == 0, line
    assert sorted(path.name for path in Path("grids").iterdir()) == ["b.TextGrid", "c.TextGrid"]
    assert Path("recogniser.pt2").stat().st_size > 10_000 and capsys.readouterr().out.count("takes/d.mp3\t") == 1


def test_the_python_example_runs(tmp_path, monkeypatch):
    """With the committed tiny model in place of the published one, and a recogniser with random weights."""
    monkeypatch.chdir(tmp_path)
    hubert = Hubert.from_pretrained(recipe.TINY)
    EmotionModel(hubert, ["neutral", "happy", "angry", "sad"]).save_pretrained("recogniser")
    sound = np.random.default_rng(0).normal(0, 0.1, 8000)
    soundfile.write("a.wav", sound, 16_000)
    code, = (block for kind, block in BLOCKS if kind == "python")
    code = code.replace("hubert-base-ls960", str(recipe.TINY)).replace("runs/demo/session1/recogniser", "recogniser")
    names = {"waveform": torch.tensor(sound, dtype=torch.float32)[None], "num_samples": torch.tensor([8000])}
    code = code.replace("layer=9", "layer=2")       # the tiny model has two
    exec(compile(code, "README.md", "exec"), names)     # our own README: this is the test
    assert names["states"].shape == (1, 24, 96)
    assert names["result"].posterior.shape == (24, 4) and abs(names["result"].attention.sum() - 1) < 1e-5
    assert names["result"].emotion in names["result"].probabilities
