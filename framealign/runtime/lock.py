"""One run in one folder: a lock that names its owner, and counts for nothing once the owner is gone.

On one machine the kernel's lock on the file (`flock`) tells whether the owner is alive, whatever killed it. Another
machine that shares the folder may not see that lock; there an owner that is alive is known by the time of the file,
which it renews.
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
RENEWED_SECONDS, STALE_SECONDS = 30, 180            # the owner renews it this often; unrenewed for longer, it is stale


@contextlib.contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Own the folder of a run for the block, creating it where it is missing; rank 0 takes the lock for all ranks.

    What a killed run left half-written in the folder is removed. A folder that was created here and is empty at the end
    is removed too. Raises ValueError, on every rank, naming the owner's host and process where another run has it.
    """
    folder = Path(folder)
    new_folders = [place for place in (folder, *folder.parents) if not place.exists()]  # deepest first
    release = contextlib.ExitStack()

    def take() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        release.enter_context(_own(folder / NAME))
        for place in [*folder.rglob(".*.tmp"), *folder.rglob(".*.discarded")]:
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)

    try:
        distributed.on_rank_0(take)
        yield
    finally:
        release.close()
        if distributed.rank() == 0:
            for place in new_folders:
                with contextlib.suppress(OSError):  # not empty
                    place.rmdir()


@contextlib.contextmanager
def _own(path: Path) -> Iterator[None]:
    """Own the lock file for the block and renew it meanwhile; it is removed at the end.

    Raises ValueError naming the owner where another process has it.
    """
    file, is_locked = _open(path)
    try:
        owner = _owner(file)
        if owner:
            reason = _why_alive(owner, path, is_locked)
            if reason:
                raise ValueError(f"{path.parent}: in use by process {owner['pid']} on {owner['host']} ({reason}); wait "
                                 f"for it, or choose another folder; if it is gone for certain, remove {path}")
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
    """The host and process that wrote the lock file; {} where nobody has (yet)."""
    try:
        owner = json.loads(os.pread(file, 4096, 0))
        return {"host": str(owner["host"]), "pid": int(owner["pid"])}
    except (ValueError, TypeError, KeyError):
        return {}


def _why_alive(owner: dict, path: Path, is_locked: bool) -> str:
    """Why the owner of a lock file that we could open may still be alive; "" where it is gone.

    is_locked: whether we now have the kernel's lock on the file, which the owner had if it was on this machine.
    """
    if owner["host"] == socket.gethostname():
        if is_locked or owner["pid"] == os.getpid():
            return ""                               # the kernel took the lock from an owner that ended
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
    """Set the file's time every 30 s, until `ended`."""
    while not ended.wait(RENEWED_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)
