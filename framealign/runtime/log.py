"""The log of a run: one JSON object per line in a file, the same numbers on the screen, progress with time left."""
import contextlib
import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from framealign.runtime import distributed, terminal

ASKED_TO_STOP = 75                                  # exit status: EX_TEMPFAIL of sysexits.h, "try again"
_said: set[str] = set()
_tensorboard = False


def use_tensorboard(wanted: bool) -> None:
    """From now on every `Log` also writes TensorBoard's event files. Raises ValueError where it is not installed."""
    global _tensorboard
    if wanted:
        try:
            import torch.utils.tensorboard          # noqa: F401
        except ImportError:
            raise ValueError("--tensorboard needs the package tensorboard: pip install tensorboard, or leave the flag "
                             "out (log.jsonl and report.html have the same numbers)") from None
    _tensorboard = wanted


def say(text: str) -> None:
    """Print one line, on rank 0 only."""
    if distributed.rank() == 0:
        terminal.put(text + "\n")


def say_once(text: str) -> None:
    """Print a note on stderr, once in this process: standard output is for results alone."""
    if text not in _said:
        _said.add(text)
        if distributed.rank() == 0:
            terminal.put(text + "\n", sys.stderr)


def clock(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 05 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def progress(items: Iterable, total: int, what: str, unit: str = "") -> Iterator:
    """Pass `items` through; on a terminal one line that is rewritten, in a log one line every 30 s, with time left."""
    start = printed = time.monotonic()
    is_terminal = sys.stderr.isatty()
    interval = 0.5 if is_terminal else 30.0            # seconds
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if distributed.rank() == 0 and now - printed > interval and done < total:
            printed = now
            left = clock((now - start) / done * (total - done))
            end = "\x1b[K\r" if is_terminal else "\n"
            terminal.put(f"{what}: {done}/{total}{unit and ' ' + unit}, {left} left{end}", sys.stderr)
    if is_terminal and distributed.rank() == 0 and printed != start:
        terminal.put("\x1b[K\r", sys.stderr)


# What a record's numbers are called on the screen, in this order: (key, words, how it is written).
SHOWN = (("loss", "loss", "{:.3f}"), ("valid_loss", "validation loss", "{:.3f}"),
         ("masked_accuracy", "masked", "{:.1%}"), ("unmasked_accuracy", "unmasked", "{:.1%}"),
         ("valid_masked_accuracy", "masked", "{:.1%}"), ("valid_unmasked_accuracy", "unmasked", "{:.1%}"),
         ("valid_ua", "UA", "{:.1%}"), ("valid_wa", "WA", "{:.1%}"), ("lr", "lr", "{:.3g}"),
         ("gradient_norm", "gradient", "{:.3g}"), ("audio_seconds_per_second", "", "{:.0f} s of sound/s"))


class Log:
    """`log.jsonl`: one JSON object per line, written by rank 0; the same numbers go to the screen.

    total: updates or epochs of the stage, whose name is that of the folder. With it the screen gets words: on a
    terminal one line that is rewritten, elsewhere a line each.
    """

    def __init__(self, path: str | Path, total: int | None = None):
        self.path, self.total, self.board = Path(path), total, None

    def write(self, record: dict, show: bool = True) -> None:
        """Append a record; keys carry units. Floats are kept in full in the file, shortened on the screen.

        JSON has no NaN and no infinity: they are null in the file.
        """
        if distributed.rank() != 0:
            return
        line = json.dumps({key: _finite(value) for key, value in record.items()}, allow_nan=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())             # on the disk before the checkpoint that follows it
        except OSError as error:
            raise OSError(f"{self.path}: a record could not be written ({error.strerror})") from None
        if _tensorboard:
            self._write_event(record)
        if self.total and sys.stdout.isatty() and sys.stderr.isatty():
            last = record.get("update", 0) >= self.total and "seconds_left" in record
            words = self.words(record)[:shutil.get_terminal_size().columns - 1]
            terminal.put(words + ("\x1b[K\n" if last else "\x1b[K\r"), sys.stderr)
        elif show:
            say(self.words(record) if self.total else
                "  ".join(f"{key} {_short(value)}" for key, value in record.items()))

    def words(self, record: dict) -> str:
        """[align-pretrain] update 150 of 600  loss 3.021  masked 23.4%  ...  148 s of sound/s  3 min 20 s left."""
        stage = self.path.parent.name
        if stage.startswith("way"):                 # one of the two trainings of a fold
            stage = f"{self.path.parent.parent.name}/{stage}"
        step = "epoch" if "epoch" in record else "update"
        parts = [f"[{stage}] {step} {record.get(step)} of {self.total}"]
        for key, name, form in SHOWN:
            if isinstance(record.get(key), (int, float)):
                parts.append(f"{name} {form.format(record[key])}".strip())
        if record.get("skipped_updates"):
            parts.append(f"skipped {record['skipped_updates']}")
        if "seconds_left" in record:
            parts.append(f"{clock(record['seconds_left'])} left")
        return "  ".join(parts)

    def _write_event(self, record: dict) -> None:
        """The numbers of a record as TensorBoard's scalars, in a folder beside the log."""
        from torch.utils.tensorboard import SummaryWriter
        step = record.get("update", 0)
        if self.board is None:                      # of a resumed run, what came after the checkpoint is dropped
            self.board = SummaryWriter(str(self.path.parent / "tensorboard"), purge_step=step)
        for key, value in record.items():
            if isinstance(value, (int, float)) and key not in ("update", "epoch"):
                self.board.add_scalar(key, value, step)
        self.board.flush()

    def keep_until(self, update: int) -> None:
        """Drop the records after `update`: a resumed run writes them again."""
        if distributed.rank() != 0 or not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        remaining = [line for line in lines if _update_of(line) <= update]
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        temporary.write_text("".join(line + "\n" for line in remaining), encoding="utf-8")
        os.replace(temporary, self.path)


def _update_of(line: str) -> float:
    try:
        update = json.loads(line).get("update", 0)
    except (ValueError, AttributeError, RecursionError):
        return float("inf")                         # a line torn by the interruption
    return update if isinstance(update, (int, float)) else float("inf")


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def command(main: Callable[[], None]) -> int:
    """Run a script's `main`: its exit status.

    A user's mistake (ValueError, OSError) becomes one line on stderr and status 2; Ctrl-C 130; SIGTERM, and whatever
    ended training when it was asked to stop, 75: the same command continues. A reader of standard output that has left
    (`| head`) is no error. As a rank of several the process ends
    here, flushed: gloo's threads may abort an interpreter on its way out, after all the work is done and saved.
    """
    ended_by: list[int] = []

    def end(number: int, _frame: object) -> None:
        ended_by.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(ASKED_TO_STOP)
    before = {}
    with contextlib.suppress(ValueError):           # not in the main thread
        for number in (signal.SIGTERM, signal.SIGINT):
            if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, end)
    try:
        main()
        status = 0
    except BaseException as error:
        is_unread = isinstance(error, BrokenPipeError) and not terminal.flush()
        status = 0 if is_unread else _status(error, ended_by)
        if status is None:
            raise
    finally:
        terminal.flush()
        for number, handler in before.items():
            signal.signal(number, handler)
    if distributed.launched():
        os._exit(status)
    return status


def _status(error: BaseException, ended_by: list[int]) -> int | None:
    """The status that an error ends a script with, said in one line; None for one that is the program's own fault.

    ended_by: signals that came. C code (imports, files being written) may turn what they raise into another error.
    """
    status, line = None, ""
    if isinstance(error, KeyboardInterrupt) or signal.SIGINT in ended_by:
        status, line = 130, "interrupted; the same command continues"
    elif ended_by:
        status, line = ASKED_TO_STOP, "SIGTERM: stopped; the same command continues"
    elif isinstance(error, (ValueError, OSError)):
        status, line = 2, f"error: {error}"
    elif isinstance(error, SystemExit) and distributed.launched() and isinstance(error.code, int):
        status = error.code
    if line:
        terminal.put(line + "\n", sys.stderr)
    return status
