"""An orderly stop on SIGTERM (from a scheduler) or Ctrl-C: the step ends, a checkpoint is written, the status says so.

Outside the loop of steps there is nothing to finish: SIGTERM ends the program at once (`log.command`), with the same
exit status.
"""
import contextlib
import signal
import threading
import time
from collections.abc import Iterable, Iterator

from framealign.runtime import distributed, log

IMPATIENT_SECONDS = 2                               # a launcher passes one Ctrl-C on twice, but sooner than this


class Steps:
    """Iterates over `numbers` (of updates, epochs); meanwhile SIGTERM and Ctrl-C are only noted.

    A second Ctrl-C some seconds later comes from a person who will not wait, and ends the program at once. Python
    delivers signals to the main thread alone; in another thread nothing is noted.
    """

    def __init__(self, numbers: Iterable[int]):
        self.numbers = numbers
        self.asked_at: float | None = None          # s of the monotonic clock

    def __iter__(self) -> Iterator[int]:
        is_main = threading.current_thread() is threading.main_thread()
        before = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            if is_main and signal.getsignal(number) is not None:
                before[number] = signal.signal(number, self._note)
        try:
            yield from self.numbers
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.asked():                            # during the last step, after which everything is saved
            stop("training had just ended")

    def asked(self) -> bool:
        """Whether any rank was asked to stop: the same on every rank, so that all stop after the same step."""
        return distributed.on_any_rank(self.asked_at is not None)

    def _note(self, number: int, _frame: object) -> None:
        """The handler of both signals."""
        now = time.monotonic()
        if self.asked_at is None:
            self.asked_at = now
            with contextlib.suppress(OSError, RuntimeError):                # no reader, or in the middle of a print
                log.say(f"{signal.Signals(number).name}: stops after this step")
        elif number == signal.SIGINT and now - self.asked_at > IMPATIENT_SECONDS:
            raise KeyboardInterrupt


def stop(what: str) -> None:
    """End the program with the status for "the same command continues"; `what` says what was saved or done."""
    log.say(f"stopped when asked to: {what}; the same command continues (status {log.ASKED_TO_STOP})")
    raise SystemExit(log.ASKED_TO_STOP)
