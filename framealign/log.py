"""What a run says: one JSON object per line in a file, the same numbers on the screen, progress with time left."""
import contextlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from framealign import distributed

ASKED_TO_STOP = 75                                  # exit status: EX_TEMPFAIL of sysexits.h, "try again"
_said: set[str] = set()


def say(text: str) -> None:
    """Print one line, on rank 0 only."""
    if distributed.rank() == 0:
        print(text, flush=True)


def say_once(text: str) -> None:
    """Print a note on stderr the first time it is said in this process: results alone go to standard output."""
    if text not in _said:
        _said.add(text)
        if distributed.rank() == 0:
            print(text, file=sys.stderr, flush=True)


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
    start = said = time.monotonic()
    terminal = sys.stderr.isatty()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if distributed.rank() == 0 and now - said > (0.5 if terminal else 30) and done < total:
            said = now
            left = clock((now - start) / done * (total - done))
            print(f"{what}: {done}/{total}{unit and ' ' + unit}, {left} left", file=sys.stderr,
                  end="\x1b[K\r" if terminal else "\n", flush=True)
    if terminal and distributed.rank() == 0 and said != start:
        print("\x1b[K", file=sys.stderr, end="\r", flush=True)


class Log:
    """`log.jsonl`: one JSON object per line, written by rank 0; the same numbers go to the screen."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

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
        if show:
            say("  ".join(f"{key} {_short(value)}" for key, value in record.items()))

    def keep_until(self, update: int) -> None:
        """Drop the records after `update`: a resumed run writes them again."""
        if distributed.rank() != 0 or not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if _update_of(line) <= update]
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
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
    ended training when it was asked to stop, 75: the same command continues. As a rank of several the process ends
    here, flushed: gloo's threads may abort an interpreter on its way out, after all the work is done and saved.
    """
    handler = signal.getsignal(signal.SIGTERM)
    with contextlib.suppress(ValueError):           # not in the main thread
        signal.signal(signal.SIGTERM, _terminate)
    try:
        main()
        status = 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        status = 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr, flush=True)
        status = 130
    except SystemExit as stop:
        if not distributed.launched() or not isinstance(stop.code, int):
            raise
        status = stop.code
    finally:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, handler)
    if distributed.launched():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _terminate(*_: object) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        print("SIGTERM: stopped; the same command continues", file=sys.stderr, flush=True)
    raise SystemExit(ASKED_TO_STOP)
