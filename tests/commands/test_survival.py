"""Whatever ends a run, the same command ends with what an undisturbed run leaves, to the bit: weights, optimizer, log.

Each piece of work is killed or asked to stop at drawn points, several in one run, then completed and compared; and so
it is after a full disk.
"""
import contextlib
import dataclasses
import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import faults
import pytest
import small
import torch

from framealign.runtime import files, lock, log, stopping
from framealign.corpus import manifest
from framealign.corpus.importers import iemocap
from framealign.hubert.model import Hubert
from framealign.units.kmeans import KMeansConfig
from framealign.training import checkpoint, optimiser
from framealign.training.training_config import FinetuneConfig, PretrainConfig
from framealign.recipe import recipe
from framealign.commands import files_commands

ENDS = {signal.SIGKILL: (-9,), signal.SIGTERM: (75,), signal.SIGINT: (75, 130)}     # signal: statuses it may end with
CLOCKS = {"seconds", "seconds_left", "audio_seconds_per_second"}        # what is never the same twice


def pretraining(world: Path, run: Path) -> None:
    """Two micro-batches an update, dropout and layer drop on; checkpoints, log and validation at other intervals."""
    torch.manual_seed(random.randrange(1 << 30))    # nothing may depend on the generators' state at the start
    settings = PretrainConfig(seed=5, updates=11, warmup_updates=2, peak_lr=2e-3, batch_seconds=8,
                              micro_batch_seconds=4, min_seconds=0.5, max_seconds=1.5, projection_size=8,
                              valid_fraction=0.1, valid_every_updates=4, log_every_updates=3, save_every_updates=2)
    chosen = files_commands.PretrainRun(corpus=str(world / "corpus.tsv"), units=str(world / "units" / "units.safetensors"),
                                  init_from=str(world / "base"), preset="tiny", out=str(run), device="cpu")
    files_commands.pretrain_run(chosen, settings)


def finetuning(world: Path, run: Path) -> None:
    """Selection by validation, time masks, dropout, classes drawn."""
    torch.manual_seed(random.randrange(1 << 30))
    settings = FinetuneConfig(seed=5, epochs=5, lr=5e-3, batch_size=4, micro_batch_size=3, max_seconds=0.8,
                              keep_checkpoints=2)
    chosen = files_commands.FinetuneRun(corpus=str(world / "corpus.tsv"), session="1", init_from=str(world / "base"),
                                  preset="tiny", out=str(run), device="cpu")
    files_commands.finetune_run(chosen, settings)


def clustering(world: Path, run: Path) -> None:
    chosen = files_commands.UnitsRun(corpus=str(world / "corpus.tsv"), model=str(world / "base"), layer=1, clusters="6",
                               out=str(run), km=True, device="cpu")
    files_commands.make_units_run(chosen, KMeansConfig(seed=5, full_passes=3))


def session(world: Path, run: Path) -> None:
    recipe.run_sessions(recipe.SessionConfig(corpus=str(world / "corpus.tsv"), hubert=str(world / "base"),
                                               preset="tiny", out=str(run), device="cpu"), small.SETTINGS)


WORK = {"pretraining": pretraining, "finetuning": finetuning, "units": clustering, "session": session}


def make_world(folder: Path) -> Path:
    """A corpus, its units and a base model with dropout and layer drop."""
    small.write_tree(folder / "tree")
    manifest.write(folder / "corpus.tsv", iemocap.from_iemocap(folder / "tree", allow_partial=True))
    shape = dataclasses.replace(small.model(), hidden_dropout=0.1, layerdrop=0.3)
    torch.manual_seed(0)
    Hubert(shape).save_pretrained(folder / "base")
    clustering(folder, folder / "units")
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("survival"))


def content(run: Path) -> dict[str, object]:
    """What a run left: every file by its path; logs and records without clocks, states tensor by tensor."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.name == "log.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]
        elif path.name == "stage.json":
            found[name] = {key: value for key, value in files.read_json(path).items() if key not in CLOCKS}
        elif path.name == "state.pt":
            found[name] = leaves(torch.load(path, weights_only=True))
        elif path.is_file() and path.name != "complete.json":       # the digests of the others
            found[name] = files.digest(path)
    return found


def without_earlier(found: dict[str, object]) -> dict[str, object]:
    """Without all checkpoints but the last of each folder: being asked to stop adds one where none would be."""
    folders = {name.rpartition("/")[0] for name in found if "checkpoints/" in name}
    last = {max(one for one in folders if one.rpartition("/")[0] == place)
            for place in {one.rpartition("/")[0] for one in folders}}
    return {name: value for name, value in found.items()
            if "checkpoints/" not in name or name.rpartition("/")[0] in last}


def leaves(item: object) -> list:
    if isinstance(item, dict):
        return [(key, leaves(value)) for key, value in item.items()]
    if isinstance(item, (list, tuple)):
        return [leaves(value) for value in item]
    return (str(item.dtype), item.tolist()) if isinstance(item, torch.Tensor) else item


@pytest.fixture(scope="module")
def undisturbed(world) -> dict[str, tuple[dict, int, float]]:
    """Of each piece of work: what it leaves, its number of changes to the disk, its seconds."""
    kept = {}

    def of(name: str) -> tuple[dict, int, float]:
        if name not in kept:
            number, seconds = faults.changes(WORK[name], world, world / f"whole-{name}")
            kept[name] = content(world / f"whole-{name}"), number, seconds
        return kept[name]
    return of


def command(name: str, world: Path, run: Path) -> None:
    """The work as its script does it; what it says on the error stream goes to a file beside the run."""
    for number in (signal.SIGTERM, signal.SIGINT):  # a signal that comes once the work is done changes nothing
        signal.signal(number, lambda *_: None)
    with open(f"{run}.said", "w") as said, contextlib.redirect_stderr(said):
        status = log.command(lambda: (faults.ready(), WORK[name](world, run)))
    sys.exit(status)


def survives(world: Path, undisturbed, name: str, kills: int, seed: int, how: int = signal.SIGKILL) -> None:
    """Send the signal until `kills` have hit, up to four in one run; each run is completed and compared."""
    expected, number, seconds = undisturbed(name)
    draw, hits, turn, ends = random.Random(f"{name} {seed} {how}"), 0, 0, Counter()
    while hits < kills:
        run, turn = world / f"{name}-{seed}-{turn}", turn + 1
        for part in range(draw.randint(1, 4)):
            by_clock = draw.random() < 0.4
            point = {"seconds": draw.uniform(0.02, seconds)} if by_clock else \
                {"change": draw.randrange(max(1, number // (part + 1)))}
            if how != signal.SIGKILL and point.get("change", 2) < 2:
                point = {"change": 2}               # 0 and 1 are the files said to, opened before the command itself
            status = faults.run(command, name, world, run, with_signal=how, **point)
            raised = Path(f"{run}.raised")
            assert status in (0, *ENDS[how]), (name, status, point, raised.read_text() if raised.exists() else "")
            hits += status != 0
            ends[status] += 1
        assert faults.run(command, name, world, run) == 0
        found = content(run) if how == signal.SIGKILL else without_earlier(content(run))
        wanted = expected if how == signal.SIGKILL else without_earlier(expected)
        assert found.keys() == wanted.keys(), sorted(found.keys() ^ wanted.keys())
        for path, value in wanted.items():
            assert found[path] == value, f"{name}: {path} differs"
    print(f"{name}: {hits} signals {how}, {turn} runs, all equal; statuses {dict(ends)}")


@pytest.mark.parametrize("name", WORK)
def test_killed_at_drawn_points_it_ends_as_undisturbed(world, undisturbed, name):
    survives(world, undisturbed, name, kills=4, seed=0)


@pytest.mark.parametrize("name, how", [("pretraining", signal.SIGTERM), ("finetuning", signal.SIGINT)])
def test_asked_to_stop_at_drawn_points_it_ends_as_undisturbed(world, undisturbed, name, how):
    survives(world, undisturbed, name, kills=3, seed=0, how=how)


@pytest.mark.slow
@pytest.mark.parametrize("how", ENDS, ids=lambda how: how.name)
@pytest.mark.parametrize("name", WORK)
def test_ended_at_very_many_points(world, undisturbed, name, how):
    survives(world, undisturbed, name, kills=25, seed=1, how=how)


@pytest.mark.parametrize("name, number", [("pretraining", 5), ("finetuning", 7)])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_the_step_is_finished_then_a_checkpoint_written(world, undisturbed, tmp_path, monkeypatch, capsys, name,
                                                        number, how):
    """The signal comes in the middle of a step: the checkpoint is that step's, and nothing after it is in the log."""
    step, steps = optimiser.step, []

    def signalled(*arguments):
        steps.append(1)
        if len(steps) == number:
            os.kill(os.getpid(), how)
        return step(*arguments)
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as stopped:
        patched.setattr(optimiser, "step", signalled)
        WORK[name](world, tmp_path / "run")
    said = capsys.readouterr().out
    assert stopped.value.code == log.ASKED_TO_STOP == 75 and len(steps) == number
    assert checkpoint.newest(tmp_path / "run").name == f"{number:08d}" and "the same command continues" in said
    assert signal.getsignal(how) is not None and not (tmp_path / "run" / lock.NAME).exists()
    WORK[name](world, tmp_path / "run")
    assert content(tmp_path / "run") == undisturbed(name)[0]


def test_an_impatient_second_interrupt_does_not_wait(monkeypatch, capsys):
    done = []
    monkeypatch.setattr(stopping, "IMPATIENT_SECONDS", -1)
    with pytest.raises(KeyboardInterrupt):
        for number in stopping.Steps(range(5)):
            done.append(number)
            os.kill(os.getpid(), signal.SIGINT)
    assert done == [0, 1]
    steps = stopping.Steps(range(3))
    with pytest.raises(SystemExit):                 # in the last step: everything is done, and the status says so
        for number in steps:
            assert steps.asked() == (number == 3)
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)


# A full disk

def limited(name: str, world: Path, run: Path, size: int) -> None:
    """The work, no file of which can grow beyond `size` bytes once the first checkpoint is written."""
    whole = checkpoint.save

    def save(*arguments, **named):
        whole(*arguments, **named)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    checkpoint.save = save
    command(name, world, run)


@pytest.mark.parametrize("name, size", [("pretraining", 600), ("finetuning", 3_000), ("pretraining", 60_000)],
                         ids=["log", "texts", "weights"])       # what does not fit first
def test_a_full_disk_ends_with_one_line_and_the_checkpoint_before_it(world, undisturbed, tmp_path, name, size):
    run = tmp_path / "run"
    status, said = faults.run(limited, name, world, run, size), Path(f"{run}.said").read_text()
    assert status == 2 and said.count("\n") == 1 and said.startswith("error: ") and str(run) in said, said
    assert checkpoint.newest(run) is not None and not list(run.rglob("*.tmp"))
    assert faults.run(command, name, world, run) == 0
    assert content(run) == undisturbed(name)[0]


def test_a_full_file_system_ends_with_one_line(world, undisturbed, tmp_path):
    """A file system of 40 kB: kept states are mapped into memory, where a full disk would be SIGBUS."""
    (tmp_path / "small").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", tmp_path / "small"],
                             capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        run = tmp_path / "small" / "run"
        assert faults.run(unchecked, world, run, tmp_path / "said") == 2
        said = (tmp_path / "said").read_text()
        assert said.count("\n") == 1 and "No space left on device" in said and not run.exists(), said
        assert faults.run(command, "units", world, run) == 2           # and before anything is written
        assert "only 0.00 GB are free" in Path(f"{run}.said").read_text()
    finally:
        subprocess.run(["umount", tmp_path / "small"], check=True)


def unchecked(world: Path, run: Path, said: Path) -> None:
    """Units, without the look at the disk before."""
    files_commands.check_room = lambda *_: None
    with open(said, "w") as text, contextlib.redirect_stderr(text):
        sys.exit(log.command(lambda: clustering(world, run)))
