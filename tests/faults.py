"""Kill a piece of work at drawn points, in processes of the fork server, which are ready at once.

A point is either a moment or the number of a change to the disk (opening to write, renaming, removing, making a
folder), just before it happens: the places between two renames are too short for a clock to hit.
"""
import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import fork_server
import torch

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.symlink", "shutil.rmtree"}


def run(function: Callable, *args: object, change: int | None = None, seconds: float | None = None,
        until: Path | None = None, with_signal: int = signal.SIGKILL) -> int:
    """`function(*args)` in a process of its own, hit by a signal before change number `change` or after `seconds`.

    until: a file whose appearance ends the wait earlier. Returns the exit status, negative for a signal that killed it.
    A function that raises ends with 1; its traceback stands in `<last argument>.raised`.
    """
    context = fork_server.context()
    began = context.Event()
    process = context.Process(target=_work, args=(function, args, change, with_signal, began))
    process.start()
    if seconds is not None:
        while process.is_alive() and not began.wait(0.05):
            pass
        deadline = time.monotonic() + seconds
        while process.is_alive() and time.monotonic() < deadline and not (until and until.exists()):
            process.join(min(0.05, seconds) if until else seconds)
        if process.is_alive():
            os.kill(process.pid, with_signal)
    process.join(600)
    assert not process.is_alive(), "the process hangs"
    with contextlib.suppress(ProcessLookupError):   # it is reported as ended before its files and its lock are closed
        while True:
            os.kill(process.pid, 0)
            time.sleep(0.002)
    return process.exitcode


_began = None


def ready() -> None:
    """Called by the work once it is set up: moments count from here."""
    if _began is not None:
        _began.set()


def _work(function: Callable, args: tuple, change: int | None, with_signal: int, began: object) -> None:
    global _began
    _began = began
    torch.set_num_threads(1)
    left = [change]

    def hook(event: str, details: tuple) -> None:
        writes = event == "open" and isinstance(details[1], str) and details[1][:1] in "wax" and details[1] != ""
        if left[0] is not None and (writes or event in CHANGES):
            left[0] -= 1
            if left[0] < 0:
                left[0] = None
                os.kill(os.getpid(), with_signal)

    sys.addaudithook(hook)
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        try:
            function(*args)
        except (Exception, KeyboardInterrupt):
            Path(f"{args[-1]}.raised").write_text(traceback.format_exc())
            raise


def changes(function: Callable, *args: object) -> tuple[int, float]:
    """How many changes to the disk an undisturbed run makes, and its seconds."""
    result, began = Path(f"{args[-1]}.changes"), time.monotonic()
    process = fork_server.context().Process(target=_count, args=(function, args, result))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    return int(result.read_text()), time.monotonic() - began


def _count(function: Callable, args: tuple, result: Path) -> None:
    number = [0]

    def hook(event: str, details: tuple) -> None:
        writes = event == "open" and isinstance(details[1], str) and details[1][:1] in "wax" and details[1] != ""
        number[0] += writes or event in CHANGES

    sys.addaudithook(hook)
    _work(function, args, None, signal.SIGKILL, None)
    before_this_file = number[0]
    result.write_text(str(before_this_file))
