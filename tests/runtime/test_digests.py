"""Digests of many files: of their content, read once, again when they change, whether or not it can be remembered."""
import hashlib
import os
from pathlib import Path

import pytest
import ranks

from framealign.runtime import digests, files


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A user who has remembered nothing yet; every file counts as settled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_known", {})
    monkeypatch.setattr(digests, "SETTLED_SECONDS", -1.0)
    return tmp_path / "cache" / "framealign" / "digests.sqlite"


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The names of files as they are read."""
    names, digest = [], files.digest
    monkeypatch.setattr(files, "digest", lambda path: names.append(Path(path).name) or digest(path))
    return names


def make_files(folder: Path, number: int = 5) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{name}.wav" for name in range(number)]
    for path in paths:
        path.write_bytes(os.urandom(1000))
    return paths


def expected(paths: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in paths]


def test_unchanged_files_are_read_once_by_all_commands(tmp_path, cache, read, monkeypatch):
    paths = make_files(tmp_path / "sound")
    assert digests.of_files(paths) == expected(paths) and len(read) == 5
    assert digests.of_files(paths[::-1]) == expected(paths)[::-1] and len(read) == 5
    monkeypatch.setattr(digests, "_known", {})      # another command
    assert digests.of_files(paths) == expected(paths) and len(read) == 5 and cache.exists()


@pytest.mark.parametrize("is_new_command", (False, True))
def test_another_content_of_the_same_size_and_time_is_seen(tmp_path, cache, read, monkeypatch, is_new_command):
    """As by `cp --preserve` or rsync: bytes change; size and time of the last write do not."""
    paths = make_files(tmp_path / "sound")
    before = digests.of_files(paths)
    written = os.stat(paths[2])
    paths[2].write_bytes(os.urandom(1000))
    os.utime(paths[2], ns=(written.st_atime_ns, written.st_mtime_ns))
    if is_new_command:
        monkeypatch.setattr(digests, "_known", {})
    after = digests.of_files(paths)
    assert after == expected(paths) and [a == b for a, b in zip(before, after)] == [True, True, False, True, True]
    assert read[5:] == ["2.wav"]


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path, cache, read, monkeypatch):
    """A second change within the file system's tick would have the same times."""
    monkeypatch.setattr(digests, "SETTLED_SECONDS", 3600.0)
    paths = make_files(tmp_path / "sound")
    for _ in range(2):
        assert digests.of_files(paths) == expected(paths)
    assert len(read) == 10


@pytest.mark.parametrize("harm", ("no folder", "no database", "cut"))
def test_without_a_database_files_are_read_again(tmp_path, cache, read, monkeypatch, harm):
    paths = make_files(tmp_path / "sound")
    digests.of_files(paths)
    if harm == "no folder":
        monkeypatch.setenv("XDG_CACHE_HOME", str(paths[0]))
    elif harm == "no database":
        cache.write_bytes(b"a note of mine, not a database")
    else:
        cache.write_bytes(cache.read_bytes()[:5000])
    monkeypatch.setattr(digests, "_known", {})
    assert digests.of_files(paths) == expected(paths) and len(read) == 10


def test_a_file_that_cannot_be_read_is_named(tmp_path, cache):
    paths = make_files(tmp_path / "sound")
    paths[3].unlink()
    with pytest.raises(ValueError, match=r"3\.wav: cannot be read \(No such file or directory\); make the manifest"):
        digests.of_files(paths)


def of_some(paths: list[Path]) -> list:
    """Of these files, then of them and one that does not exist."""
    found = digests.of_files(paths)
    try:
        return [found, digests.of_files([*paths, "missing.wav"])]
    except ValueError as error:
        return [found, str(error)]


@pytest.mark.parametrize("number", (0, 1, 2, 5))
def test_ranks_share_the_reading(tmp_path, cache, number):
    """Also where a rank has no file, or one that nobody else looks at cannot be read."""
    paths = make_files(tmp_path / "sound", number)
    for found, refusal in ranks.run(of_some, 3, paths):
        assert found == expected(paths)
        assert refusal == "missing.wav: cannot be read (No such file or directory); make the manifest again"
