"""The two lessons in docs: every name exists, all Python and every command runs, on a small run instead of a large."""
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import markup
import numpy as np
import pytest
import small
import soundfile
import test_docs
from test_readme import OUTSIDE

from framealign.corpus.importers import iemocap
from framealign.hubert.model import Hubert
from framealign.recipe import recipe
from framealign.recipe.presets import preset
from framealign.report import lesson

WALKTHROUGH, IEMOCAP = (small.ROOT / "docs" / name for name in ("WALKTHROUGH.md", "IEMOCAP.md"))


def blocks(path: Path, kind: str) -> list[str]:
    """The code blocks of a page that are marked `kind`."""
    return re.findall(rf"^```{kind}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("lessons")


@pytest.fixture(scope="module")
def run(small_tree, small_base, folder) -> Path:
    """A finished fold of the whole method."""
    recipe.run_sessions(small.config(small_tree, small_base, folder / "run", frames=True), small.SETTINGS)
    return folder / "run"


def called(words: list[str]) -> None:
    """Run a script of bin/ in this process; it must end well."""
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "argv", [str(small.ROOT / words[0]), *words[1:]])
    try:
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(small.ROOT / words[0]), run_name="__main__")
        assert end.value.code == 0, words
    finally:
        patch.undo()


@pytest.mark.parametrize("path", [WALKTHROUGH, IEMOCAP], ids=lambda path: path.name)
def test_every_name_exists(path):
    text = path.read_text(encoding="utf-8")
    named = list(test_docs.places(text))
    assert len([name for _, name in named if name]) >= (25 if path == WALKTHROUGH else 0)
    wrong = [problem for place in named if (problem := test_docs.wrong_place(*place))]
    wrong += [name for name in re.findall(r"`((?:bin|tests|docs)/[\w.]+\.(?:py|md))`", text)
              if not (small.ROOT / name).exists()]
    assert not wrong, "\n".join(wrong)


def test_titles_are_those_of_the_pictures(run):
    """The walkthrough's sections are the pictures of lesson.html, in their order; the last one is the whole."""
    root = markup.read(lesson.write(run).read_text(encoding="utf-8"))
    titles = re.findall(r"^## (.+)$", WALKTHROUGH.read_text(encoding="utf-8"), re.MULTILINE)
    captions = [one.words for one in root.all("figcaption")]
    assert captions == titles[:-1] and titles[-1] == "The whole"
    assert [one.attributes["id"] for one in root.all("figure")] == [lesson.anchor(title) for title in captions]
    assert {one.attributes["href"][1:] for one in root.all("nav")[0].all("a")} == set(map(lesson.anchor, captions))


def test_pictures_name_code_that_exists_and_say_the_loss(run):
    root = markup.read(lesson.write(run).read_text(encoding="utf-8"))
    for code in (one.text for one in root.all("code")):
        file = ""
        for part in re.split(r"[;,] ", code):
            file, name = part.split(": ") if ": " in part else (file, part)
            assert not test_docs.wrong_place(file, name), code
    notes = " ".join(one.text for one in root.all("p", "note"))
    loss, chance = map(float, re.search(r"masked frames: ([\d.]+) nats \(chance: ([\d.]+)\)", notes).groups())
    assert 0 < loss < 10 and chance == round(float(np.log(5)), 2)
    assert not markup.fetched(lesson.write(run).read_text(encoding="utf-8"))


def test_the_walkthroughs_python_runs(run, monkeypatch):
    """From top to bottom, on the small run."""
    monkeypatch.chdir(small.ROOT)
    code = "\n".join(blocks(WALKTHROUGH, "python"))
    assert code.count("assert ") >= 12 and code.count("runs/demo") == 1
    names: dict = {}
    exec(compile(code.replace("runs/demo", str(run)), "WALKTHROUGH.md", "exec"), names)     # our own page
    page = (run / "utterance.html").read_text(encoding="utf-8")
    assert not markup.fetched(page) and names["utterance"].id in page


def test_the_walkthroughs_commands_run(run):
    lines = [line for block in blocks(WALKTHROUGH, "sh") for line in block.splitlines()]
    soundfile.write(run / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    places = {"runs/demo": run, "runs/demo/session1/recogniser": run / "session1" / "recogniser",
              "a.wav": run / "a.wav", "lesson.html": run / "lesson.html"}
    assert len(lines) == 6 and {word for line in lines for word in line.split()} >= places.keys()
    for line in lines:
        called([str(places.get(word, word)) for word in line.split()])
        if "--out" in line:
            assert "a.wav" in (run / "lesson.html").read_text(encoding="utf-8")
            (run / "lesson.html").unlink()
    assert (run / "session1" / "lesson.html").exists() and (run / "session1" / "report.html").exists()


def test_the_walkthroughs_python_runs_on_any_sound(run):
    """That of the sections that the page names."""
    text = WALKTHROUGH.read_text(encoding="utf-8")
    named = re.search(r"The Python of (.*?) runs on any sound", text, re.DOTALL)[1]
    titles = [title.replace("\n", " ") for title in re.findall(r"\*([^*]+)\*", named)]
    first, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    sections = {part.split("\n")[0]: part for part in sections}
    soundfile.write(run / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    code = "\n".join(block for part in (first, *map(sections.__getitem__, titles))
                     for block in re.findall(r"^```python\n(.*?)^```", part, re.MULTILINE | re.DOTALL))
    assert len(titles) == 8 and code.count("utterance.path") == 3
    code = code.replace("utterance.path", repr(str(run / "a.wav"))).replace("runs/demo", str(run))
    names: dict = {}
    exec(compile(code, "WALKTHROUGH.md", "exec"), names)                # our own page
    assert names["T"] == 49 and names["time_line"][-1].end == 1.0


@pytest.mark.parametrize("arguments, message", [
    ({"session": "2"}, "session 2 is not finished; finished: 1"), ({"sound": "nobody"}, "no utterance nobody in its")])
def test_a_lesson_of_what_is_not_there_is_refused(run, arguments, message):
    with pytest.raises(ValueError, match=message):
        lesson.write(run, **arguments)


@pytest.fixture(scope="module")
def stand_in(small_tree, small_base, folder):
    """What replaces the paths of IEMOCAP.md."""
    soundfile.write(folder / "some.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    return {"/data/IEMOCAP": str(small_tree), "/models/hubert-base-ls960": str(small_base),
            "runs/iemocap-tiny": str(folder / "t"),
            "runs/iemocap": str(folder / "r"), "/data/some.wav": str(folder / "some.wav"),
            "/data/iemocap.tsv": str(folder / "iemocap.tsv")}


def put(words: str, stand_in: dict[str, str]) -> str:
    """A line with other paths, the longest names first."""
    for name in sorted(stand_in, key=len, reverse=True):
        words = words.replace(name, stand_in[name])
    return words


def test_the_commands_for_iemocap_run(stand_in, folder):
    """Each line of the page in its order, on a synthetic tree; of `make` lines the command that `make -n` prints."""
    lines = [line for block in blocks(IEMOCAP, "sh") for line in block.splitlines()]
    assert len(lines) == 7
    for line in lines:
        words = shlex.split(put(line, stand_in))
        if words[0] == "make":
            done = subprocess.run(["make", "-n", *words[1:]], cwd=small.ROOT, capture_output=True, text=True,
                                  env=OUTSIDE)
            assert done.returncode == 0, done.stderr
            words = shlex.split(re.findall(r"bin/session\.py.*", done.stdout.replace("\\\n", " "))[-1])
            flags = small.FLAGS if "--hubert tiny" not in " ".join(words) else [
                "--set", "pretrain.updates=2", "--set", "pretrain.warmup_updates=1", "--set", "finetune.epochs=1",
                "--set", "pretrain.batch_seconds=4", "--set", "pretrain.micro_batch_seconds=4", "--set",
                "tapt_clusters=8", "--set", "align_clusters=5"]
            words = [*words, *flags, "--preset", "tiny", "--allow-partial", "--device", "cpu"]
        elif "prepare" in words[0]:
            words.append("--allow-partial")
        called(words)
    for place in ("t/session1/report.html", "r/session3/report.html", "r/report.html", "iemocap.tsv"):
        assert (folder / place).exists(), place


def test_variables_of_make_exist():
    """NAME=value on the IEMOCAP page is a variable that the Makefile reads."""
    named = set(re.findall(r"\b([A-Z]+)=", IEMOCAP.read_text(encoding="utf-8")))
    makefile = (small.ROOT / "Makefile").read_text(encoding="utf-8")
    assert len(named) >= 5 and all(re.search(rf"\$\({name}\)", makefile) for name in named)


def test_the_arithmetic_of_time_and_disk():
    """Sizes and work in IEMOCAP.md, computed from the model and the settings."""
    text = IEMOCAP.read_text(encoding="utf-8")
    chosen = preset("base")
    hubert = Hubert(chosen.model)
    total = sum(p.numel() for p in hubert.parameters())
    trained = total - sum(p.numel() for p in hubert.feature_extractor.parameters())
    model, frames_read = 4 * total / 1e9, 1_253_877
    saved = model + 8 * trained / 1e9               # with both moments of Adam
    pretraining, tuning = (kept.keep_checkpoints * saved + model for kept in (chosen.pretrain, chosen.finetune))
    frontend = frames_read * chosen.model.conv_dim[-1] * 2 / 1e9
    states = frames_read * chosen.model.hidden_size * 2 / 1e9
    everything = frontend + pretraining + 5 * (pretraining + 2 * tuning)
    for size, words in ((frontend, "half precision"), (states, "while units are made"),
                        (pretraining, "and the encoder"), (tuning, "and the recogniser")):
        assert re.search(rf"{words}.* \| {size:.1f} GB", text), (words, size)
    assert f"| {everything:.0f} GB |" in text
    seconds = chosen.pretrain.updates * chosen.pretrain.batch_seconds
    work = 27e9 * seconds
    assert seconds == 7e6 and f"{work:.1e}".replace("e+17", "e17") + " FLOP" in text.replace("\n", " ")
    assert f"{6 * work:.1e}".replace("e+18", "e18") + " FLOP" in text.replace("\n", " ")
    assert round(6 * work / 60e12 / 3600) == 5 and round(6 * work / 200e9 / 86_400) == 66
    assert sum(iemocap.COUNTS[s][i] for s in iemocap.COUNTS for i in range(5)) == 5531
