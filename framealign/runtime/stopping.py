"""Asked to stop (SIGTERM from a scheduler, Ctrl-C): the step is finished, a checkpoint written, the status says so.

Between steps there is nothing to finish: there SIGTERM ends the program at once (`log.command`), with the same status.
"""
import contextlib
import signal
import threading
import time
from collections.abc import Iterable, Iterator

from framealign.runtime import distributed, log

IMPATIENT_SECONDS = 2                               # a launcher passes one Ctrl-C on twice, at once; a person waits


class Steps:
    """Iterates over `numbers` (of updates, epochs); meanwhile SIGTERM and Ctrl-C only leave a note.

    A second Ctrl-C some seconds later is a person who will not wait, and ends the program at once. Signals reach the
    main thread alone; in another one nothing is caught.
    """

    def __init__(self, numbers: Iterable[int]):
        self.numbers, self.asked_at = numbers, None

    def __iter__(self) -> Iterator[int]:
        is_main = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)
                  if is_main and signal.getsignal(number) is not None}
        try:
            yield from self.numbers
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if distributed.on_any_rank(self.asked_at is not None):              # after the last step, all of it saved
            stop("training had just ended")

    def _note(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if self.asked_at is None:
            self.asked_at = now
            with contextlib.suppress(OSError, RuntimeError):                # nobody reads, or in the middle of a print
                log.say(f"{signal.Signals(number).name}: stops after this step")
        elif number == signal.SIGINT and now - self.asked_at > IMPATIENT_SECONDS:
            raise KeyboardInterrupt

    def asked(self) -> bool:
        """Whether any rank was asked to stop: the same on every rank, so that all stop after the same step."""
        return distributed.on_any_rank(self.asked_at is not None)


def stop(what: str) -> None:
    """End the program with the status that says that the same command continues."""
    log.say(f"stopped when asked to: {what}; the same command continues (status {log.ASKED_TO_STOP})")
    raise SystemExit(log.ASKED_TO_STOP)
