#!/usr/bin/env python3
"""Everything that needs a GPU, in one run of at most 8 minutes: `make gpu-check`, or in a checkout

    python3 tests/gpu_check.py
    python3 tests/gpu_check.py --device cpu --quick         # the same steps, small: all but the device is tried

The tests marked `gpu`, then contests of bin/bench.py: pretraining step, extraction, fine-tuning, k-means, two ranks on
one GPU, one fold of the recipe. A step is a command with a time limit of its own; one that fails or is stopped ends no
other. In the folder of --out, `result.json` holds what became of each and all that was measured, in the form that
`bin/bench.py --table` reads; `STEP.txt` holds what a step printed. Exit status: 0 where all passed, 1 where one did
not, 2 where none could be run.

No network is needed. What is started here imports nothing but the standard library until it is known what is missing.
"""
import argparse
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("torch", "torchaudio", "numpy", "safetensors", "soundfile", "pytest")
PEERS = ("transformers",)
ALL_WITHIN, ENDS_WITHIN = 480, 15                   # seconds: of all steps; of one that was asked to stop
PATIENCE = {"cuda": 1, "cpu": 20}                   # times so much: a processor may be slow, and have other work
SMALL = ("--preset tiny --utterances 4 --shortest 0.6 --longest 1.1 --clusters 8 --frames 400 --rounds 1 --updates 4 "
         "--threads 1")


@dataclass(frozen=True)
class Step:
    """A command of Python, and the seconds that it may take; of bin/bench.py without the flags that all contests share.
    """
    name: str
    limit: float
    arguments: str

    @property
    def times(self) -> bool:
        """Whether it measures, and so writes a file of timings."""
        return "bin/bench.py" in self.arguments


STEPS = (
    Step("tests", 80, "-m pytest -m gpu -q --tb=short"),
    Step("pretrain", 60, "bin/bench.py --what pretrain --utterances 6 --longest 15 --rounds 5 --against transformers"),
    Step("compiled", 90, "bin/bench.py --what pretrain --utterances 6 --longest 15 --rounds 5 --against transformers "
         "--compile"),
    Step("extract", 60, "bin/bench.py --what extract --utterances 64 --longest 12 --rounds 5 --against transformers"),
    Step("finetune", 50, "bin/bench.py --what finetune --utterances 64 --longest 6 --rounds 5 --against transformers"),
    Step("kmeans", 100, "bin/bench.py --what kmeans --frames 1250000 --rounds 2 --against ''"),
    Step("ranks", 50, "-m torch.distributed.run --standalone --nproc_per_node 2 bin/bench.py --what ranks "
         "--utterances 6 --longest 15 --rounds 5 --against ''"),
    Step("fold", 120, "bin/bench.py --what fold --utterances 32 --updates 200 --against ''"),
)


def main() -> int:
    """Read the command line and run the steps: the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="a tiny model and little sound; says nothing about speed")
    parser.add_argument("--out", default="runs/gpu-check", help="folder of result.json and of what the steps print")
    args = parser.parse_args()

    missing = absent(NEEDED)
    if missing:
        return refuse(f"not installed here: {', '.join(missing)}; without network, bring their wheels along in .whl/ "
                      "and run make gpu-check (docs/BENCHMARKS.md, GPU, has the command)")
    import torch
    if args.device == "cuda" and not torch.cuda.is_available():
        return refuse("no CUDA device here; --device cpu --quick runs the same steps on a processor")
    for name in absent(PEERS):
        print(f"{name} is not installed: no comparison with it")
    return run(args.device, args.quick, Path(args.out).resolve(), STEPS)


def absent(names: Sequence[str]) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is None]


def refuse(why: str) -> int:
    print(f"error: {why}", file=sys.stderr)
    return 2


def run(device: str, quick: bool, out: Path, steps: Sequence[Step]) -> int:
    """Run steps one after the other, `result.json` written after each; 0 where all passed, else 1."""
    out.mkdir(parents=True, exist_ok=True)
    began, patience = time.monotonic(), PATIENCE[device]
    content = {"settings": {}, "torch": "", "machine": "", "device": device, "quick": quick, "missing": absent(PEERS),
               "steps": [], "results": []}
    for step in steps:
        timings = out / f"{step.name}.json"
        timings.unlink(missing_ok=True)             # of a run before
        words = command(step, device, quick, timings)
        left = ALL_WITHIN * patience - ENDS_WITHIN - (time.monotonic() - began)
        record = {"name": step.name, "command": shlex.join(["python3", *words])}
        record |= attempt(words, min(step.limit * patience, left), out / f"{step.name}.txt")
        if timings.exists():
            measured = json.loads(timings.read_text(encoding="utf-8"))
            content["results"] += measured["results"]
            content |= {name: content[name] or measured[name] for name in ("settings", "torch", "machine")}
        content["steps"].append(record)
        content["seconds"] = round(time.monotonic() - began, 1)
        write(out / "result.json", content)
        print(f"[{step.name}] {record['status']} after {record['seconds']:.0f} s: {record['last_line']}", flush=True)
    print(f"{content['seconds']:.0f} s in all; {out / 'result.json'}")
    print(f"A table of what was measured: bin/bench.py --table {out / 'result.json'}")
    return 0 if all(record["status"] == "passed" for record in content["steps"]) else 1


def command(step: Step, device: str, quick: bool, timings: Path) -> list[str]:
    """The words that Python is given for a step."""
    words = shlex.split(step.arguments)
    if step.times:
        words += ["--device", device, "--dtype", "bfloat16", "--preset", "base", "--out", str(timings)]
        words += SMALL.split() if quick else []     # of two equal flags the last counts
    return words


def attempt(words: list[str], limit: float, printed: Path) -> dict:
    """Run Python with these words for at most `limit` seconds: what became of it. Its output goes to a file."""
    if limit <= 0:
        return {"status": "not run", "seconds": 0.0, "last_line": "the time of all steps is over"}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    began = time.monotonic()
    with open(printed, "wb") as file:
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, env=os.environ | {"PYTHONPATH": path},
                                   stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                                   start_new_session=True)
        try:
            status = process.wait(limit)
            status = "passed" if status == 0 else f"failed with status {status}"
        except subprocess.TimeoutExpired:
            status = f"stopped at its limit of {limit:.0f} s"
        finally:
            stop(process)
    lines = printed.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "no output")
    return {"status": status, "seconds": round(time.monotonic() - began, 1), "last_line": last[:200]}


def stop(process: subprocess.Popen) -> None:
    """End a process that still runs: asked first, so that torchrun ends its ranks, then killed with all it started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def write(path: Path, content: dict) -> None:
    """Write JSON, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
