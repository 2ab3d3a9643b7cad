"""`make gpu-check` without a GPU: steps that pass, fail and hang, what is written of them, what it refuses.

Its steps themselves, all of them small and on the CPU: `python tests/gpu_check.py --device cpu --quick`.
"""
import json
import shlex
import subprocess
import sys
import time

import gpu_check
import pytest
import small
import torch
from gpu_check import Step

TIMINGS = """
import json, sys
out = sys.argv[sys.argv.index("--out") + 1]
content = {"settings": {"flags": sys.argv[1:]}, "torch": "2", "machine": "H", "results": [{"what": "w", "records": []}]}
json.dump(content, open(out, "w"))
"""


def python(text: str) -> str:
    return f"-c {shlex.quote(text)}"


def test_a_step_that_fails_or_hangs_ends_no_other(tmp_path, monkeypatch, capsys):
    """Each has its line and its record; what hangs is ended at its limit, with what it started."""
    alive = tmp_path / "alive"
    child = f"import time, pathlib; time.sleep(4); pathlib.Path({str(alive)!r}).touch()"
    hangs = (f"import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
             f"print('begun', flush=True); subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)")
    monkeypatch.setattr(gpu_check, "ENDS_WITHIN", 0.2)
    monkeypatch.setitem(gpu_check.PATIENCE, "cuda", 1)
    steps = [Step("bad", 30, python("print('why'); raise SystemExit(3)")), Step("hangs", 1.5, python(hangs)),
             Step("good", 30, python("print('a'); print('all is well'); print()"))]
    began = time.monotonic()
    assert gpu_check.run("cuda", False, tmp_path / "out", steps) == 1
    assert time.monotonic() - began < 40
    bad, hung, good = json.loads((tmp_path / "out" / "result.json").read_text())["steps"]
    assert (bad["status"], bad["last_line"]) == ("failed with status 3", "why")
    assert hung["status"] == "stopped at its limit of 2 s" and 1.5 <= hung["seconds"] < 20
    assert (good["status"], good["last_line"]) == ("passed", "all is well")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["[bad]", "[hangs]", "[good]"]
    assert (tmp_path / "out" / "good.txt").read_text() == "a\nall is well\n\n"
    time.sleep(max(0.0, began + 7 - time.monotonic()))
    assert not alive.exists()


def test_the_time_of_all_steps_is_limited(tmp_path, monkeypatch):
    """What is left is the limit of the next step; then none is run."""
    monkeypatch.setattr(gpu_check, "ALL_WITHIN", gpu_check.ENDS_WITHIN + 2)
    steps = [Step("long", 60, python("import time; time.sleep(30)")), Step("late", 60, python(""))]
    assert gpu_check.run("cuda", False, tmp_path, steps) == 1
    long, late = json.loads((tmp_path / "result.json").read_text())["steps"]
    assert long["status"] == "stopped at its limit of 2 s" and late["status"] == "not run"


def test_timings_are_collected(tmp_path, monkeypatch):
    """Of the steps that time, with the flags that all share; those of a run before do not count."""
    script = tmp_path / "bin" / "bench.py"
    script.parent.mkdir()
    script.write_text(TIMINGS)
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "broken.json").write_text("{}")
    steps = [Step("one", 60, "bin/bench.py --what one"), Step("broken", 60, "bin/bench.py.gone"),
             Step("two", 60, "bin/bench.py --what two")]
    assert gpu_check.run("cpu", True, out, steps) == 1
    content = json.loads((out / "result.json").read_text())
    assert content["results"] == [{"what": "w", "records": []}] * 2
    assert (content["machine"], content["torch"], content["device"], content["quick"]) == ("H", "2", "cpu", True)
    flags = content["settings"]["flags"]
    assert flags[:8] == ["--what", "one", "--device", "cpu", "--dtype", "bfloat16", "--preset", "base"]
    assert flags[8:] == ["--out", str(out / "one.json"), *gpu_check.SMALL.split()]


def test_its_steps_fit_into_eight_minutes_and_are_commands_of_bench():
    """Limits leave room for each other but for what ends early; each contest's flags are known."""
    assert gpu_check.ALL_WITHIN <= 480 and max(step.limit for step in gpu_check.STEPS) <= 120
    names = [step.name for step in gpu_check.STEPS]
    assert len(set(names)) == len(names) and names[0] == "tests"
    contests = [step.arguments.partition("--what ")[2].split()[0] for step in gpu_check.STEPS if step.times]
    assert contests == ["pretrain", "pretrain", "extract", "finetune", "kmeans", "ranks", "fold"]


@pytest.mark.parametrize("flags, missing, words", [
    ([], [], "no CUDA device here; --device cpu --quick runs the same steps on a processor"),
    (["--device", "cpu"], ["soundfile", "pytest"], "not installed here: soundfile, pytest; without network")])
def test_what_cannot_be_run_is_one_line(flags, missing, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_check, "absent", lambda names: [name for name in names if name in missing])
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *flags, "--out", str(tmp_path / "out")])
    assert gpu_check.main() == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith(f"error: {words}") and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_it_needs_nothing_to_say_what_is_missing(tmp_path):
    """Without site-packages: an interpreter that has only its standard library."""
    done = subprocess.run([sys.executable, "-S", "-E", str(small.ROOT / "tests" / "gpu_check.py")], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: not installed here: torch, torchaudio, numpy, ")
    assert done.stderr.count("\n") == 1 and ".whl/" in done.stderr and not list(tmp_path.iterdir())
