"""Files that lie: every reader gives a value or one clear ValueError, soon, within a gigabyte, and executes nothing.

A seeded mutator changes good files: bits, bytes, numbers in headers, lengths, words, whole stretches. The default tests
try a few hundred of each kind; the slow marker tries 10,000, and where atheris is installed (`pip install -e .[fuzz]`)
10,000 more that are guided by the branches they reach (fuzz.py).
"""
import ast
import contextlib
import io
import json
import os
import pickle
import random
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import small
import soundfile
import test_fairseq_checkpoint
import test_scikit_learn_codebook
import torch

from framealign.runtime import files, log
from framealign.sound import audio
from framealign.corpus import manifest
from framealign.corpus.importers import fairseq_list, iemocap, scp
from framealign.corpus.utterance import Utterance
from framealign.hubert import model_directory
from framealign.hubert.model import Hubert
from framealign.exchange import fairseq_checkpoint
from framealign.units.codebook import Codebook
from framealign.units.frame_store import FrameStore
from framealign.units.units import Units
from framealign.training import checkpoint
from framealign.recipe.stages import changed

ROOT = small.ROOT
ROOM = 1 << 30                                      # bytes of address space a reader may take beyond what is in use
SECONDS = 2.0
HEADER = "\t".join(manifest.COLUMNS) + "\n"
WORDS = [b"\t", b"\n", b"\r", b"\0", b'"', b",", b";", b"..", b"/", b"../../etc/passwd", b"-1", b"0", b"1e308", b"NaN",
         b"99999999999", b"\xff\xfe", b"\xef\xbb\xbf", "\u2028".encode(), b"{", b"[", b"null", b"true", b"\xed\xa0\x80",
         b"[" * 2000, b"9" * 5000, b"A" * 70_000]
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF]


def mutated(good: bytes, draw: random.Random) -> bytes:
    """One to five changes of a good file, half of them near its beginning, where headers are."""
    data = bytearray(good)
    for _ in range(draw.randint(1, 5)):
        size = max(1, len(data))
        place = draw.randrange(min(size, 64)) if draw.random() < 0.5 else draw.randrange(size)
        kind = draw.randrange(8)
        if kind == 0 and data:
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1 and data:
            data[place] = draw.randrange(256)
        elif kind == 2:
            width = draw.choice((1, 2, 4, 8))
            number = draw.choice(NUMBERS) & ((1 << 8 * width) - 1)
            data[place:place + width] = number.to_bytes(width, draw.choice(("little", "big")))
        elif kind == 3:
            data[place:place + draw.randrange(4)] = draw.choice(WORDS)
        elif kind == 4:
            del data[place:place + draw.randint(1, 64)]
        elif kind == 5:
            other = draw.randrange(size)
            data[place:place] = data[other:other + draw.randint(1, 64)]
        elif kind == 6:
            del data[draw.randrange(size):]
        else:
            data[place:place] = draw.randbytes(draw.randint(1, 16))
    return bytes(data)


def sound(kind: str, subtype: str, rate: int = 16_000, channels: int = 1) -> bytes:
    buffer, noise = io.BytesIO(), np.random.default_rng(0).uniform(-0.5, 0.5, (3000, channels))
    soundfile.write(buffer, noise, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def listen(path: Path) -> None:
    assert len(audio.load(path)) == audio.length(path)


def read_tables(path: Path) -> None:
    """What is read can be written, and is then the same: so ids are safe and paths absolute."""
    utterances = manifest.read(path)
    manifest.write(path.with_name("again.tsv"), utterances)
    assert manifest.read(path.with_name("again.tsv")) == utterances
    assert all(Path(u.id).name == u.id and u.path.is_absolute() for u in utterances)


def read_scp(path: Path) -> None:
    scp.read_split(path, None, path.with_name("other.scp"))


def safetensors_of(**tensors: torch.Tensor) -> bytes:
    return safetensors.torch.save(tensors, {"num_clusters": "4", "record": "{}", "inertia": "0.5"})


class Readers:
    """Good files by name, and what reads them; `root` is where they are written."""

    def __init__(self, root: Path):
        self.root = root
        root.mkdir(exist_ok=True)
        for folder in ("Session1/dialog/EmoEvaluation", "Session1/sentences/wav/Ses01F_impro01", "store"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        wav = sound("wav", "PCM_16")
        (root / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav").write_bytes(wav)
        (root / "a.wav").write_bytes(wav)
        (root / "other.scp").write_text("b a.wav sad\n")
        torch.manual_seed(0)
        Hubert(small.model()).save_pretrained(root / "model")
        weights = safetensors.torch.load_file(root / "model" / "model.safetensors")
        np.save(root / "store" / "frames.npy", np.zeros((2, 3), np.float16))
        buffers = {name: io.BytesIO() for name in ("bin", "zip", "legacy", "npy")}
        torch.save(weights, buffers["bin"])
        shape = test_fairseq_checkpoint.SMALL
        named = test_fairseq_checkpoint.fairseq_names(shape, test_fairseq_checkpoint.random_state(shape), {})
        fields = {"model": named, "cfg": {"model": test_fairseq_checkpoint.settings(shape)}, "args": None}
        torch.save(fields, buffers["zip"])
        torch.save(fields, buffers["legacy"], _use_new_zipfile_serialization=False)
        np.save(buffers["npy"], test_scikit_learn_codebook.CENTROIDS)
        config, model = (root / "model" / "config.json").read_bytes(), root / "model"

        def directory(path: Path) -> object:
            return model_directory.read(path.parent)

        self.good: dict[str, tuple[list[bytes], str, Callable[[Path], object]]] = {
            "manifest": ([(HEADER + "a\ta.wav\t900\t1\tS1\tF\tsad\timpro\nb\t/x/b.wav\t400\t\t\t\t\t\n").encode()],
                         "corpus.tsv", read_tables),
            "table": ([b'path,label\n"a.wav",sad\n', b"path;emotion;num_samples\na.wav;joy;900\n"], "t.csv",
                      read_tables),
            "scp": ([b"a a.wav sad\nc a.wav ang\n"], "l.scp", read_scp),
            "fairseq tsv": ([b"/data\na.wav\t900\nb/c.wav\t500\n"], "f.tsv", fairseq_list.read),
            "km": ([b"1 2 3\n0 0 7\n"], "u.km", Units.read_km),
            "IEMOCAP": ([b"% [START - END]\n\n[6.2 - 8.2]\tSes01F_impro01_F000\tneu\t[2.5, 2.5, 2.5]\nC-E2:\tx;\n"],
                        "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt",
                        lambda path: iemocap.read(root, allow_partial=True)),
            "config.json": ([config], "model/config.json", directory),
            "preprocessor": ([(model / "preprocessor_config.json").read_bytes()], "model/preprocessor_config.json",
                             directory),
            "weights": ([(model / "model.safetensors").read_bytes()], "model/model.safetensors", directory),
            "bin": ([buffers["bin"].getvalue()], "old/pytorch_model.bin", directory),
            "fairseq": ([buffers["zip"].getvalue(), buffers["legacy"].getvalue()], "f.pt",
                        fairseq_checkpoint.read),
            "joblib": ([test_scikit_learn_codebook.k_means(test_scikit_learn_codebook.array(alignment=3)),
                        pickle.dumps(test_scikit_learn_codebook.CENTROIDS)], "c.bin", Codebook.read),
            "npy": ([buffers["npy"].getvalue()], "c.npy", Codebook.read),
            "codebook": ([safetensors_of(centroids=torch.rand(4, 3), counts=torch.ones(4, dtype=torch.int64))],
                         "codebook.safetensors", Codebook.read),
            "units": ([safetensors_of(units=torch.tensor([0, 1, 3], dtype=torch.int16),
                                      offsets=torch.tensor([0, 1, 3]))], "units.safetensors", Units.read),
            "wav": ([wav, sound("wav", "FLOAT", 8000, 2), sound("wavex", "PCM_24")], "s.wav", listen),
            "flac": ([sound("flac", "PCM_16"), sound("flac", "PCM_24", 44_100)], "s.flac", listen),
            "ogg": ([sound("ogg", "VORBIS"), sound("ogg", "OPUS", 48_000)], "s.ogg", listen),
            "other sound": ([sound("aiff", "PCM_16"), sound("au", "ULAW"), sound("mp3", "MPEG_LAYER_III")], "s.snd",
                            listen),
            "record": ([json.dumps({"settings": {"a": [1, 2]}, "upstream": {"b": {"c": "d"}}}).encode()], "stage.json",
                       lambda path: changed(files.read_json(path), {"settings": {"a": [1]}, "upstream": {}})),
            "store": ([json.dumps({"key": "k", "width": 3, "dtype": "float16", "shards": ["frames.npy"],
                                   "group_frames": 3000}).encode()], "store/index.json",
                      lambda path: FrameStore(path.parent, [Utterance("u", Path("u.wav"), 720)])),
            "log": ([b'{"update": 1, "loss": 0.5}\n{"update": 2}\n'], "log.jsonl",
                    lambda path: log.Log(path).keep_until(1)),
            "checkpoint": ([b'{"config.json": "0123456789abcdef"}'], "run/checkpoints/00000001/complete.json",
                           lambda path: checkpoint.newest(root / "run"))}
        (root / "old").mkdir(exist_ok=True)
        (root / "old" / "config.json").write_bytes(config)


KINDS = ("manifest", "table", "scp", "fairseq tsv", "km", "IEMOCAP", "config.json", "preprocessor", "weights", "bin",
         "fairseq", "joblib", "npy", "codebook", "units", "wav", "flac", "ogg", "other sound", "record", "store", "log",
         "checkpoint")


@pytest.fixture
def readers(tmp_path) -> Readers:
    every = Readers(tmp_path)
    assert tuple(every.good) == KINDS
    return every


@contextlib.contextmanager
def bounded():
    """At most ROOM more address space than now: what a header claims cannot be had."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def attack(readers: Readers, kind: str, number: int, seed: int) -> None:
    seeds, name, read = readers.good[kind]
    path, draw, values, slowest = readers.root / name, random.Random(f"{kind} {seed}"), 0, 0.0
    path.parent.mkdir(parents=True, exist_ok=True)
    for good in seeds:                              # a good one is read
        path.write_bytes(good)
        read(path)
    with bounded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for turn in range(number):
            data = mutated(draw.choice(seeds), draw)
            path.write_bytes(data)
            began = time.thread_time()
            try:
                read(path)
                values += 1
            except ValueError as error:
                assert str(error) and "\n" not in str(error) and len(str(error)) < 6000, (turn, error)
            except BaseException as error:
                reason = f"{type(error).__name__}: {error}"
                raise AssertionError(f"{kind}, mutation {turn}: {reason}; {data[:300]!r}") from error
            slowest = max(slowest, time.thread_time() - began)
    assert slowest < SECONDS, f"{kind}: {slowest:.1f} s"
    print(f"{kind}: {number} mutations, {values} read, {number - values} refused, slowest {slowest:.3f} s")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to bound the memory")
@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_is_read_or_refused(readers, kind):
    attack(readers, kind, 300, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_mutated_files_are_read_or_refused(readers, kind):
    attack(readers, kind, 10_000, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_files_that_seek_new_branches_are_read_or_refused(kind, tmp_path):
    pytest.importorskip("atheris", reason="coverage-guided fuzzing needs atheris: pip install -e .[fuzz]")
    run = subprocess.run([sys.executable, ROOT / "tests" / "fuzz.py", kind, "10000", tmp_path], capture_output=True,
                         text=True, env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"})
    left = [(path.name, path.read_bytes()[:300]) for path in tmp_path.glob("*-*")]
    assert run.returncode == 0 and not left, (left, run.stdout, run.stderr[-3000:])
    print(next(line for line in run.stdout.splitlines() if line.startswith(f"{kind}: ")),
          next(line for line in run.stderr.splitlines() if "DONE" in line))


# Nothing a file says is executed

FORBIDDEN = {"eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "pickle.Unpickler",
             "marshal.loads", "marshal.load", "shelve.open", "joblib.load", "os.system", "os.popen", "yaml.load",
             "torch.jit.load", "dill.load", "dill.loads", "pd.read_pickle", "pandas.read_pickle"}


def unsafe(source: str) -> list[str]:
    """Calls that execute what a file or a string says, with their lines."""
    unsafe = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {word.arg: word.value for word in node.keywords}
        says = {word: value.value if isinstance(value, ast.Constant) else None for word, value in given.items()}
        if name in FORBIDDEN:
            unsafe.append(f"{node.lineno}: {name}")
        if name == "torch.load" and says.get("weights_only") is not True:
            unsafe.append(f"{node.lineno}: torch.load without weights_only=True")
        if name in ("np.load", "numpy.load") and says.get("allow_pickle") is not False and "mmap_mode" not in given:
            unsafe.append(f"{node.lineno}: np.load that may unpickle")
        if "shell" in given and says["shell"] is not False:
            unsafe.append(f"{node.lineno}: shell=True")
    return unsafe


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell():
    places = [path for folder in ("framealign", "bin") for path in (ROOT / folder).rglob("*.py")]
    assert len(places) > 30
    assert not [f"{path}:{call}" for path in places for call in unsafe(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("line", [
    "pickle.load(f)", "pickle.loads(b)", "torch.load(p)", "torch.load(p, weights_only=False)", "eval('1')", "exec(s)",
    "subprocess.run(c, shell=True)", "np.load(p, allow_pickle=True)", "subprocess.run(c, shell=flag)", "os.system(c)",
    "np.load(p)"])
def test_that_check_sees_what_it_is_for(line):
    assert unsafe(line)
    assert not unsafe("torch.load(p, weights_only=True); np.load(p, allow_pickle=False); model.eval()")


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "..", ".hidden", "a/b", "a\\b", "x" * 201, "", "a\0b"])
def test_no_name_leads_out_of_the_run_folder(tmp_path, name):
    """Not an id, a session, a speaker: what becomes part of a path or of a split's name is refused when it is read."""
    row = {"id": "ok", "path": "a.wav", "num_samples": "900", "session": "1", "speaker": "S", "gender": "F",
           "label": "sad", "style": ""}
    for column in ("id", "session", "speaker"):
        cells = row | {column: name}
        (tmp_path / "c.tsv").write_text(HEADER + "\t".join(cells.values()) + "\n", newline="")
        if name == "" and column != "id":
            manifest.read(tmp_path / "c.tsv")
            continue
        with pytest.raises(ValueError, match=r"c\.tsv"):
            manifest.read(tmp_path / "c.tsv")
