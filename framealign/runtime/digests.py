"""Digests of the content of many files, known by size and time of change, so that an unchanged file is read only once.

What is known stands in a small database of the user's, `framealign/digests.sqlite` in `$XDG_CACHE_HOME` (or in
`~/.cache`). It may be deleted at any time; where it cannot be written, every command reads all files.
"""
import contextlib
import os
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from framealign.runtime import distributed, files, log

SETTLED_SECONDS = 2.0                               # of a file changed more recently, the next change may go unnoticed
Signature = tuple[int, int, int]                    # bytes, time of the last write and of the last change in ns
_known: dict[str, tuple[Signature, str]] = {}       # path -> what its digest was computed of, digest


def of_files(paths: Sequence[str | Path]) -> list[str]:
    """The digest of each file's content, as `files.digest`; every rank reads a share, and all ranks call it alike.

    Raises ValueError, on every rank, naming a file that cannot be read.
    """
    rank, world = distributed.rank(), distributed.world_size()
    digests, fault = [], ""
    try:
        digests = _of_files([str(path) for path in paths[rank::world]])
    except OSError as error:
        fault = f"{error.filename}: cannot be read ({error.strerror}); make the manifest again"
    of_ranks = distributed.all_gather_objects((digests, fault))
    for _, fault in of_ranks:
        if fault:
            raise ValueError(fault)
    return [of_ranks[number % world][0][number // world] for number in range(len(paths))]


def _of_files(paths: list[str]) -> list[str]:
    """Digests of these files, most of which are known. Raises OSError naming one that cannot be read."""
    signatures = {path: _signature(path) for path in paths}
    with contextlib.closing(_database()) as database:
        known = {path: _remembered(database, path, signature) for path, signature in signatures.items()}
        unknown = [path for path, digest in known.items() if digest is None]
        known.update(zip(unknown, _read(unknown)))
        settled = time.time_ns() - round(SETTLED_SECONDS * 1e9)
        _remember(database, {path: (signatures[path], known[path]) for path in unknown
                             if signatures[path][2] < settled})
    return [known[path] for path in paths]


def _signature(path: str) -> Signature:
    """What changes when a file does. The time of the last change is the file system's own: no program sets it."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(paths: list[str]) -> list[str]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(log.progress(pool.map(files.digest, paths), len(paths), "reading what sound files hold"))


def _remembered(database: sqlite3.Connection, path: str, signature: Signature) -> str | None:
    """The digest of a file that has not changed since; None where it has, or was never read."""
    if path not in _known:
        with contextlib.suppress(sqlite3.Error):    # another process writes for long
            for *then, digest in database.execute("SELECT size, written, changed, digest FROM digests WHERE path = ?",
                                                  (path,)):
                _known[path] = tuple(then), digest
    then, digest = _known.get(path, (None, None))
    return digest if then == signature else None


def _remember(database: sqlite3.Connection, fresh: dict[str, tuple[Signature, str]]) -> None:
    _known.update(fresh)
    rows = [(path, *signature, digest) for path, (signature, digest) in fresh.items()]
    with contextlib.suppress(sqlite3.Error):        # a full disk, or another process that writes for long
        database.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?)", rows)
        database.commit()


def _database() -> sqlite3.Connection:
    """The user's database; an empty one in memory where there can be none."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "framealign"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _opened(folder / "digests.sqlite")
    except (OSError, sqlite3.Error):                # a home that cannot be written, a file that is no database
        return _opened(":memory:")


def _opened(place: Path | str) -> sqlite3.Connection:
    database = sqlite3.connect(place, timeout=1)
    database.execute("CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, size INTEGER, written INTEGER, "
                     "changed INTEGER, digest TEXT)")
    return database
