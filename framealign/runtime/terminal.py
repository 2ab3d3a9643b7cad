"""Standard output and standard error: a reader that has left (`| head`) is no error, nor is a name that the encoding
of the terminal lacks."""
import contextlib
import os
import select
import sys
from typing import TextIO

_left: set[int] = set()                             # streams, by `id`, that nobody reads any more


def put(text: str, stream: TextIO | None = None) -> bool:
    """Write text to `stream`, by default standard output, at once: whether anybody reads it still.

    Where the reader has left, this and all that follows goes nowhere. Characters that the stream's encoding lacks are
    written as escapes.
    """
    stream = stream or sys.stdout
    if stream is None:                              # a process without a terminal
        return False
    if lacks(text, stream):
        text = text.encode(stream.encoding, "backslashreplace").decode(stream.encoding)
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        _leave(stream)
    return id(stream) not in _left


def flush() -> bool:
    """Write what is waiting in both streams: whether both are read still. Then the interpreter ends without a word."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
                if _has_left(stream):
                    _leave(stream)
        except BrokenPipeError:
            _leave(stream)
    return not _left & {id(sys.stdout), id(sys.stderr)}


def lacks(text: str, stream: TextIO | None = None) -> str:
    """The encoding of `stream`, by default standard output, where it cannot write `text`; "" where it can."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return encoding
    return ""


def _has_left(stream: TextIO) -> bool:
    """Whether the other end of the pipe that a stream writes to is closed, as far as the system tells."""
    with contextlib.suppress(OSError, ValueError, AttributeError):          # no descriptor; a system without poll
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    return False


def _leave(stream: TextIO) -> None:
    """From now on what is written to `stream` goes nowhere, what waits in its buffer too."""
    _left.add(id(stream))
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
