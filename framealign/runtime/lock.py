"""One run in one folder: a lock that names its owner, and is known to be stale when the owner is gone.

On one machine the kernel's lock on the file (`flock`) says whether the owner lives, whatever killed it. Another
machine that shares the folder may not see that lock; there a living owner is known by the file's time, which it renews.
"""
import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from framealign.runtime import distributed, log

NAME = ".lock"
RENEWED_SECONDS, STALE_SECONDS = 30, 180            # how often the owner renews it; unrenewed for so long: it is gone


@contextlib.contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Own the folder of a run (made where it is missing) for the block; rank 0 takes the lock for all ranks.

    What a killed run left half-written there is removed, and so is a folder in which nothing was made. Raises
    ValueError naming the owner's host and process where another run has it.
    """
    folder, refusal, release = Path(folder), "", contextlib.ExitStack()
    made = [place for place in (folder, *folder.parents) if not place.exists()]         # deepest first
    if distributed.rank() == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            release.enter_context(_own(folder / NAME))
            for left in [*folder.rglob(".*.tmp"), *folder.rglob(".*.discarded")]:
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink(missing_ok=True)
        except (ValueError, OSError) as error:
            refusal = str(error)
    try:
        if refusal := distributed.all_gather_objects(refusal)[0]:
            raise ValueError(refusal)
        yield
    finally:
        release.close()
        for place in made if distributed.rank() == 0 else ():
            with contextlib.suppress(OSError):      # not empty
                place.rmdir()


@contextlib.contextmanager
def _own(path: Path) -> Iterator[None]:
    """The lock file, ours for the block, removed at its end."""
    file, is_locked = _open(path)
    try:
        owner = _owner(file)
        if owner and (reason := _alive(owner, path, is_locked)):
            raise ValueError(f"{path.parent}: in use by process {owner['pid']} on {owner['host']} ({reason}); wait for "
                             f"it, or choose another folder; if it is gone for certain, remove {path}")
        if owner:
            log.say(f"{path.parent}: process {owner['pid']} on {owner['host']} had it and is gone; continuing")
        os.truncate(file, 0)
        os.pwrite(file, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
        ended = threading.Event()
        thread = threading.Thread(target=_renew, args=(path, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            path.unlink(missing_ok=True)
    finally:
        os.close(file)


def _open(path: Path) -> tuple[int, bool]:
    """Open the lock file, with the kernel's lock on it where the file system has such locks (and whether it has).

    Raises ValueError, with the owner, where another process holds it.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        is_locked = False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = True
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                owner = _owner(file) or {"pid": "unknown", "host": "unknown"}
                os.close(file)
                raise ValueError(f"{path.parent}: in use by process {owner['pid']} on {owner['host']}; wait for it, or "
                                 "choose another folder") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file, is_locked
        os.close(file)                              # its owner removed it while we opened it: once more


def _owner(file: int) -> dict:
    """Who wrote the lock file, {} where nobody has (yet)."""
    try:
        owner = json.loads(os.pread(file, 4096, 0))
        return {"host": str(owner["host"]), "pid": int(owner["pid"])}
    except (ValueError, TypeError, KeyError):
        return {}


def _alive(owner: dict, path: Path, is_locked: bool) -> str:
    """Why the owner of a lock file that we could open may still live; "" where it is gone."""
    if owner["host"] == socket.gethostname():
        if is_locked or owner["pid"] == os.getpid():
            return ""                               # on this machine the kernel's lock has told
        try:
            os.kill(owner["pid"], 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            pass
        return "it is running"
    now = path.with_name(f".now.{os.getpid()}.tmp")
    now.touch()
    age = now.stat().st_mtime - path.stat().st_mtime        # both by the file server's clock
    now.unlink(missing_ok=True)
    return "" if age > STALE_SECONDS else f"it renewed its lock {max(0, round(age))} s ago"


def _renew(path: Path, ended: threading.Event) -> None:
    while not ended.wait(RENEWED_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)
