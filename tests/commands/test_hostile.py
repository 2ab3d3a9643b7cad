"""Files that lie: every reader gives a value or one clear ValueError, soon, within a gigabyte, and executes nothing.

A seeded mutator changes good files: bits, bytes, numbers in headers, lengths, words, whole stretches. The default tests
try a few hundred of each kind; the slow marker tries 10,000, and where atheris is installed (`pip install -e .[fuzz]`)
10,000 more that are guided by the branches they reach (fuzz.py).
"""
import ast
import os
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import small
from hostile_files import HEADER, KINDS, SECONDS, Readers, bounded, mutated

from framealign.corpus import manifest

ROOT = small.ROOT


@pytest.fixture
def readers(tmp_path) -> Readers:
    every = Readers(tmp_path)
    assert tuple(every.good) == KINDS
    return every


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
