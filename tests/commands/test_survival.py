"""Whatever ends a run, the same command ends with what an undisturbed run leaves, to the bit: weights, optimizer, log.

Each piece of work is killed or asked to stop at drawn points, several in one run, then completed and compared; and so
it is after a full disk.
"""
import os
import random
import signal
import subprocess
from collections import Counter
from pathlib import Path

import faults
import pytest
import work

from framealign.runtime import lock, log, stopping
from framealign.training import checkpoint, optimiser

ENDS = {signal.SIGKILL: (-9,), signal.SIGTERM: (75,), signal.SIGINT: (75, 130)}     # signal: statuses it may end with


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return work.make_world(tmp_path_factory.mktemp("survival"))


@pytest.fixture(scope="module")
def undisturbed(world) -> dict[str, tuple[dict, int, float]]:
    """Of each piece of work: what it leaves, its number of changes to the disk, its seconds."""
    by_name = {}

    def of(name: str) -> tuple[dict, int, float]:
        if name not in by_name:
            number, seconds = faults.changes(work.WORK[name], world, world / f"whole-{name}")
            by_name[name] = work.content(world / f"whole-{name}"), number, seconds
        return by_name[name]
    return of


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
                point = {"change": 2}               # 0 and 1 are the files printed to, opened before the command
            status = faults.run(work.command, name, world, run, with_signal=how, **point)
            raised = Path(f"{run}.raised")
            assert status in (0, *ENDS[how]), (name, status, point, raised.read_text() if raised.exists() else "")
            hits += status != 0
            ends[status] += 1
        assert faults.run(work.command, name, world, run) == 0
        content = work.content(run) if how == signal.SIGKILL else work.without_earlier(work.content(run))
        wanted = expected if how == signal.SIGKILL else work.without_earlier(expected)
        assert content.keys() == wanted.keys(), sorted(content.keys() ^ wanted.keys())
        for path, value in wanted.items():
            assert content[path] == value, f"{name}: {path} differs"
    print(f"{name}: {hits} signals {how}, {turn} runs, all equal; statuses {dict(ends)}")


@pytest.mark.parametrize("name", work.WORK)
def test_killed_at_drawn_points_it_ends_as_undisturbed(world, undisturbed, name):
    survives(world, undisturbed, name, kills=4, seed=0)


@pytest.mark.parametrize("name, how", [("pretraining", signal.SIGTERM), ("finetuning", signal.SIGINT)])
def test_asked_to_stop_at_drawn_points_it_ends_as_undisturbed(world, undisturbed, name, how):
    survives(world, undisturbed, name, kills=3, seed=0, how=how)


@pytest.mark.slow
@pytest.mark.parametrize("how", ENDS, ids=lambda how: how.name)
@pytest.mark.parametrize("name", work.WORK)
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
        work.WORK[name](world, tmp_path / "run")
    assert stopped.value.code == log.ASKED_TO_STOP == 75 and len(steps) == number
    assert checkpoint.newest(tmp_path / "run").name == f"{number:08d}"
    assert "the same command continues" in capsys.readouterr().out
    assert signal.getsignal(how) is not None and not (tmp_path / "run" / lock.NAME).exists()
    work.WORK[name](world, tmp_path / "run")
    assert work.content(tmp_path / "run") == undisturbed(name)[0]


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

@pytest.mark.parametrize("name, size", [("pretraining", 600), ("finetuning", 3_000), ("pretraining", 60_000)],
                         ids=["log", "texts", "weights"])       # what does not fit first
def test_a_full_disk_ends_with_one_line_and_the_checkpoint_before_it(world, undisturbed, tmp_path, name, size):
    run = tmp_path / "run"
    assert faults.run(work.limited, name, world, run, size) == 2
    message = Path(f"{run}.stderr").read_text()
    assert message.count("\n") == 1 and message.startswith("error: ") and str(run) in message, message
    assert checkpoint.newest(run) is not None and not list(run.rglob("*.tmp"))
    assert faults.run(work.command, name, world, run) == 0
    assert work.content(run) == undisturbed(name)[0]


def test_a_full_file_system_ends_with_one_line(world, undisturbed, tmp_path):
    """A file system of 40 kB: kept states are mapped into memory, where a full disk would be SIGBUS.

    Who may not mount one gets its answer, that there is no space left, from a function in its place.
    """
    (tmp_path / "small").mkdir()
    run, stderr = tmp_path / "small" / "run", tmp_path / "stderr"
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", tmp_path / "small"]
    is_mounted = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        assert faults.run(work.unchecked if is_mounted else work.without_room, world, run, stderr) == 2
        message = stderr.read_text()
        assert message.count("\n") == 1 and "No space left on device" in message and not run.exists(), message
        if is_mounted:                              # and before anything is written; elsewhere: test_preflight.py
            assert faults.run(work.command, "units", world, run) == 2
            assert "only 0.00 GB are free" in Path(f"{run}.stderr").read_text()
    finally:
        if is_mounted:
            subprocess.run(["umount", tmp_path / "small"], check=True)
