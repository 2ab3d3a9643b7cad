"""Before the hours: what is checked, what is said, and that the check writes nothing."""
import shutil
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import small
import soundfile

from framealign.corpus import manifest
from framealign.corpus.utterance import Utterance
from framealign.hubert.hubert_config import HubertConfig
from framealign.training.training_config import PretrainConfig
from framealign.recipe import preflight, recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("preflight")
    small.write_tree(folder / "tree")
    small.write_base(folder / "base")
    return folder


def run(place: Path, name: str, **changes) -> dict:
    return recipe.run_sessions(small.config(place / "tree", place / "base", place / name, **changes), small.SETTINGS)


def test_only_checking_writes_nothing_and_says_what_was_found(place, capsys):
    before = small.digests(place)
    assert run(place, "run", preflight=True, session="all") == {}
    said = capsys.readouterr().out
    assert small.digests(place) == before and not (place / "run").exists()
    assert "run: up to 0.0" in said and "are free" in said
    for number in "123":
        line = next(line for line in said.splitlines() if line.startswith(f"session{number} test: "))
        assert line == (f"session{number} test: 8 utterances (2 angry, 2 happy, 2 neutral, 2 sad), 2 speakers "
                        f"(Ses0{number}F, Ses0{number}M)")
    assert said.count(" train: 8 utterances") == said.count(" valid: 8 utterances") == 3


@pytest.mark.parametrize("hubert, method", [("base", "align"), ("base", "finetune"), ("scratch", "align")])
def test_the_estimate_is_an_upper_bound_of_the_right_size(place, capsys, monkeypatch, hubert, method):
    """All that lies in the run's folder at the end, logs and records apart, is less; and not by orders of magnitude."""
    wanted = []
    monkeypatch.setattr(preflight, "check_room", lambda folder, sizes: wanted.append(sum(sizes.values())))
    base = place / "base" if hubert == "base" else hubert
    name = f"{hubert}-{method}"
    recipe.run_sessions(small.config(place / "tree", base, place / name, method=method), small.SETTINGS)
    sizes = [path.stat().st_size for path in (place / name).rglob("*")
             if path.suffix in (".safetensors", ".pt", ".npy") and not path.is_symlink()]
    assert sum(sizes) < 1.2 * wanted[0] and wanted[0] < 10 * sum(sizes)


def test_a_disk_too_small_is_said_before_anything_is_written(place, monkeypatch):
    disk = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk(10 ** 9, 10 ** 9 - 1000, 1000))
    with pytest.raises(ValueError, match=r"full: up to 0\.0\d GB will be written .* only 0\.00 GB are free; make room"):
        run(place, "full")
    assert not (place / "full").exists()


def test_what_is_there_already_is_taken_off(tmp_path, monkeypatch):
    disk = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk(0, 0, 1000))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(bytes(600))
    preflight.check_room(tmp_path, {tmp_path / "a": 1500, tmp_path / "b": 100})
    with pytest.raises(ValueError, match="in .*/a"):
        preflight.check_room(tmp_path, {tmp_path / "a": 1500, tmp_path / "b": 101})


def test_base_models_checkpoints_are_estimated_by_their_parameters():
    """HuBERT base has 94.37 M parameters: weights, two moments, float32; two kept, one being written, one result."""
    expected = 94.37e6 * 4 * (3 * 3 + 1)
    assert preflight.training_bytes(HubertConfig(), PretrainConfig()) == pytest.approx(expected, rel=1e-3)
    utterances = [Utterance("a", Path("/a"), 16_000 * 10)]
    assert preflight.frames_bytes(utterances, 768) == 499 * 768 * 2
    assert preflight.frames_bytes(utterances, 768, "bfloat16") == 499 * 768 * 2
    assert preflight.frames_bytes(utterances, 768, "float32") == 499 * 768 * 4


@pytest.mark.slow
def test_a_hundred_thousand_files_in_a_minute(tmp_path):
    """Headers only; the manifest's own reading included. One wrong length among them is found."""
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 800), 16_000)
    data, lines = (tmp_path / "a.wav").read_bytes(), ["\t".join(manifest.COLUMNS)]
    for number in range(100_000):
        folder = tmp_path / str(number // 1000)
        folder.mkdir(exist_ok=True)
        (folder / f"u{number}.wav").write_bytes(data)
        lines.append(f"u{number}\t{folder.name}/u{number}.wav\t{801 if number == 77_777 else 800}\t1\ts\tF\tsad\t")
    (tmp_path / "corpus.tsv").write_text("\n".join(lines) + "\n")
    began = time.monotonic()
    found = manifest.read(tmp_path / "corpus.tsv")
    read = time.monotonic() - began
    with pytest.raises(ValueError, match=r"1 of 100000 sound files .* u77777\.wav: 800 samples .* says 801"
                                         .replace(" u77777", ".*u77777")):
        preflight.check_files(found)
    seconds = time.monotonic() - began
    assert seconds < 60
    print(f"100,000 files: manifest {read:.1f} s, headers {seconds - read:.1f} s")
