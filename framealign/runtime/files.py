"""Files that are whole or absent: atomic writes, digests, JSON with clear errors.

Every product of a program is written under a temporary name and renamed, so that a run that is killed leaves no half
of a file behind under its real name.
"""
import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)    # the disk is full, the user's share of it, or a file's limit
LONGEST_NAME = 255                                  # bytes, on the disks of today


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, remove it if it raises.

    The data are flushed to the disk before the rename, so that `path` holds either the old content or the new.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:                        # a failed write does not name its file, others the temporary one
        if error.errno in FULL and error.filename is None or error.filename == str(temporary):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        with contextlib.suppress(OSError):          # a name that is too long
            temporary.unlink()


def temporary_name(path: Path) -> Path:
    """A name beside `path` of this process's own; where that would be too long for the disk, out of a digest."""
    name = f".{path.name}.{os.getpid()}.tmp"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f".{digest_bytes(os.fsencode(path.name))}.{os.getpid()}.tmp"
    return path.with_name(name)


def check_writable(folder: str | Path) -> None:
    """Raise ValueError where no file can be written in `folder`, which need not exist yet."""
    folder = Path(folder).absolute()
    place = next(place for place in (folder, *folder.parents) if place.exists())
    if not place.is_dir():
        raise ValueError(f"{place}: a file, not a folder that results could be written to; choose another name")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"{place}: no right to write there; choose another folder")


@contextlib.contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """What torch and safetensors raise where a file cannot be written (a full disk) becomes an OSError naming it."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        raise OSError(f"{path}: could not be written, is the disk full? ({str(error).splitlines()[0][:160]})") from None


def sync_folder(folder: str | Path) -> None:
    """Flush a folder's names to the disk, so that a rename in it outlives a power cut."""
    place = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):          # some file systems cannot
            os.fsync(place)
    finally:
        os.close(place)


def reserve(path: str | Path) -> None:
    """Allocate the disk blocks of a file that so far only has its length. Raises OSError where the disk is full.

    Without them, writing to a mapped file kills the process (SIGBUS) once the disk is full.
    """
    with open(path, "rb+") as file:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except OSError as error:
            if error.errno in FULL:                 # for other reasons: the file system cannot, and need not
                raise OSError(error.errno, error.strerror, str(path)) from None


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file atomically."""
    with write_atomically(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically, line ends as given."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: str | Path, content: object) -> None:
    """Write indented JSON atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> dict:
    """Read a JSON object. Raises ValueError naming the file where it is missing, not JSON, or not an object."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold a JSON object, holds a {type(content).__name__}")
    return content


def digest(path: str | Path) -> str:
    """First 16 hexadecimal digits of a file's SHA-256."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()[:16]


def digest_bytes(content: bytes) -> str:
    """First 16 hexadecimal digits of the SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()[:16]


def digest_of(content: object) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a JSON-able value (keys sorted)."""
    return digest_bytes(json.dumps(content, sort_keys=True, default=str).encode())


def safetensors_bytes(content: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file of tensors and metadata: the same bytes for the same content.

    The library puts metadata in random order, so that its own files differ from run to run; here the header is written
    again with the metadata in the order given.
    """
    whole = safetensors.torch.save(content, metadata)
    start = 8 + int.from_bytes(whole[:8], "little")                             # of the tensors, after the header
    header = json.loads(whole[8:start]) | {"__metadata__": metadata}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)                 # tensors stay aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text + whole[start:]


def link(name: Path, target: Path) -> None:
    """Point the relative symbolic link `name` at `target`, replacing what it pointed at."""
    temporary = temporary_name(name)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, name.parent), target_is_directory=True)
    os.replace(temporary, name)
