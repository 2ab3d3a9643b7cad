"""A sound file whose bytes are in memory, such as one that was sent: it is read as a file on a disk is."""
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class SoundBytes:
    """In place of a path. name: for messages; its suffix counts as a file's does."""
    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


def opened(file: str | Path | SoundBytes) -> BinaryIO:
    """The file, open for reading, unbuffered. Raises OSError as `open`."""
    return io.BytesIO(file.content) if isinstance(file, SoundBytes) else open(file, "rb", buffering=0)


def size(file: str | Path | SoundBytes) -> int:
    """How many bytes it has."""
    return len(file.content) if isinstance(file, SoundBytes) else os.path.getsize(file)
