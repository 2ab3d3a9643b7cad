"""A built wheel, installed into an empty environment, has every file of the package and runs from any folder."""
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import setuptools
import small
import soundfile

from framealign.corpus import manifest
from framealign.emotion.emotion_model import EmotionModel
from framealign.hubert.model import Hubert
from framealign.recipe.session_config import TINY

CAN_BUILD = tuple(map(int, setuptools.__version__.split(".")[:2])) >= (70, 1)      # the first that makes wheels itself
OUTSIDE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def package_files(root: Path) -> set[str]:
    """Every file of the package below `root`, without compiled ones."""
    return {path.relative_to(root).as_posix() for path in (root / "framealign").rglob("*")
            if path.is_file() and path.suffix != ".pyc"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built offline from a copy, so that nothing of an earlier build is in it."""
    if not CAN_BUILD:
        pytest.skip(f"setuptools {setuptools.__version__} cannot build a wheel: pip install -e .[test]")
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(small.ROOT / name, source)
    shutil.copytree(small.ROOT / "framealign", source / "framealign", ignore=shutil.ignore_patterns("__pycache__"))
    built = source / "dist"
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
                    "--wheel-dir", built, source], check=True)
    place, = built.glob("*.whl")
    return place


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of programs of an environment that holds the wheel, and reads torch and the rest from this one.

    The path to this one's packages comes after its own, and .pth files there, such as that of an editable installation,
    are not followed.
    """
    place = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(place, with_pip=False, symlinks=True)
    programs = place / "bin"
    own = Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    (own / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")) + "\n")
    subprocess.run([sys.executable, "-m", "pip", "--python", programs / "python", "install", "--quiet", "--no-deps",
                    "--no-index", wheel], check=True)
    return programs


def run(*command: object, folder: Path) -> subprocess.CompletedProcess:
    """Run a program in another folder, without the checkout on its path; it must end well."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=folder, env=OUTSIDE)
    assert done.returncode == 0, done.stderr
    return done


def test_the_wheel_has_every_file_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert package_files(small.ROOT) == {name for name in names if name.startswith("framealign/")}
    assert {"framealign/tiny/model.safetensors", "framealign/report/web/page.css"} <= names
    assert {f"framealign/voices/{model}/{name}" for model in ("base", "recogniser")
            for name in ("model.safetensors", "config.json", "record.json", "README.md")} <= names


def test_an_installed_wheel_recognises(installed, tmp_path):
    """Sound in another folder, as table and as page, whose style comes out of the wheel. What is heard is noise."""
    find = "import importlib.util; print(importlib.util.find_spec('framealign').origin)"
    where = run(installed / "python", "-c", find, folder=tmp_path).stdout
    assert Path(where.strip()).is_relative_to(installed.parent)
    EmotionModel(Hubert.from_pretrained(TINY), ["neutral", "happy", "angry", "sad"]).save_pretrained(tmp_path / "model")
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    done = run(installed / "framealign", "recognise", "model", "a.wav", "--html", "a.html", "--no-gate",
               folder=tmp_path)
    name, emotion = done.stdout.split("\t")[:2]
    assert name == "a.wav" and emotion in ("neutral", "happy", "angry", "sad")
    assert "</style>" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_an_installed_wheel_has_a_recogniser_along(installed, tmp_path):
    """Where none is named it is taken, and says so."""
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    done = run(installed / "framealign", "recognise", "a.wav", "--no-gate", folder=tmp_path)
    assert done.stdout.split("\t")[1] in ("neutral", "happy", "angry", "sad")
    assert "no recogniser is named: " in done.stderr and "voices/recogniser is taken" in done.stderr


def test_an_installed_wheel_has_the_tiny_base_model(installed, tones, tmp_path):
    """The recipe looks at everything it would train on, without training; as `python -m framealign`."""
    manifest.write(tmp_path / "corpus.tsv", tones)
    done = run(installed / "python", "-m", "framealign", "session", "--corpus", "corpus.tsv", "--hubert", "tiny",
               "--preset", "tiny", "--out", "run", "--preflight", folder=tmp_path)
    assert "session1 train: 8 utterances" in done.stdout and not (tmp_path / "run").exists()
