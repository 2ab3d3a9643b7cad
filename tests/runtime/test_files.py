"""Files are whole or absent, whatever interrupts the writing; JSON errors say what is wrong with which file."""
import hashlib
import os
from pathlib import Path

import fork_server
import pytest

from framealign.runtime import files


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_new_content_replaces_the_old(tmp_path):
    for content in ("first", "second, which is longer", ""):
        files.write_text(tmp_path / "deep" / "er" / "a.txt", content)
        assert (tmp_path / "deep" / "er" / "a.txt").read_text() == content
    assert entries(tmp_path / "deep" / "er") == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, OSError(28, "No space left on device")])
@pytest.mark.parametrize("there_before", [True, False])
def test_a_failing_write_leaves_the_old_content(tmp_path, error, there_before):
    path = tmp_path / "a.bin"
    if there_before:
        path.write_bytes(b"old")
    with pytest.raises(error if isinstance(error, type) else type(error)):
        with files.write_atomically(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise error
    assert entries(tmp_path) == (["a.bin"] if there_before else [])
    assert not there_before or path.read_bytes() == b"old"


def test_a_block_that_writes_nothing_fails_and_changes_nothing(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileNotFoundError):
        with files.write_atomically(tmp_path / "a"):
            pass
    assert (tmp_path / "a").read_text() == "old" and entries(tmp_path) == ["a"]


def test_the_old_content_is_there_until_the_block_ends(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with files.write_atomically(path) as temporary:
        assert temporary.parent == path.parent and temporary != path            # one file system: a rename, not a copy
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("name", ["x" * 255, "x" * 251 + ".txt", "\u00fc" * 127, "x" * 240])
def test_the_longest_names_can_be_written(tmp_path, name):
    files.write_text(tmp_path / name, "whole")
    assert entries(tmp_path) == [name] and (tmp_path / name).read_text() == "whole"
    files.link(tmp_path / ("l" * 255), tmp_path / name)
    assert (tmp_path / ("l" * 255)).read_text() == "whole"


def test_what_cannot_be_written_is_named_by_its_own_name(tmp_path):
    """Not by that of the temporary file; and nothing is left behind."""
    (tmp_path / "folder").mkdir()
    for name in ("x" * 256, "folder"):
        with pytest.raises(OSError) as caught:
            files.write_text(tmp_path / name, "whole")
        assert caught.value.filename == str(tmp_path / name) and ".tmp" not in str(caught.value)
    assert entries(tmp_path) == ["folder"]


def test_a_place_where_nothing_can_be_written_is_refused_before(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, tmp_path / "new" / "er"):
        files.check_writable(folder)
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="file: a file, not a folder"):
            files.check_writable(folder)
    assert entries(tmp_path) == ["file"]
    if os.path.exists("/proc/self") and not os.access("/proc", os.W_OK):
        with pytest.raises(ValueError, match="no right to write"):
            files.check_writable("/proc/x")


def test_data_are_flushed_before_the_rename(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: order.append("flush") or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda *names: order.append("rename") or replace(*names))
    files.write_text(tmp_path / "a", "x")
    assert order[:2] == ["flush", "rename"]


def die_while_writing(path: Path) -> None:
    with files.write_atomically(path) as temporary:
        temporary.write_text("half")
        os._exit(9)


def test_killed_while_writing(tmp_path):
    """A process that dies without any clean-up leaves the old content under the name."""
    (tmp_path / "a").write_text("old")
    process = fork_server.context().Process(target=die_while_writing, args=(tmp_path / "a",))
    process.start()
    process.join(60)
    assert process.exitcode == 9 and (tmp_path / "a").read_text() == "old"
    files.write_text(tmp_path / "a", "new")                                     # what it left is in nobody's way
    assert (tmp_path / "a").read_text() == "new"


def test_text_is_written_as_given(tmp_path):
    text = "a\nb\r\nc\u00e4\U0001f3a4"
    files.write_text(tmp_path / "a", text)
    assert (tmp_path / "a").read_bytes() == text.encode()


def test_json_there_and_back(tmp_path):
    content = {"b": [1, 2.5, None, True], "a": {"name": "M\u00fcller"}, "tiny": 1e-300}
    files.write_json(tmp_path / "a.json", content)
    assert files.read_json(tmp_path / "a.json") == content
    assert list(files.read_json(tmp_path / "a.json")) == ["b", "a", "tiny"]
    assert "M\u00fcller" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_what_json_cannot_hold_leaves_the_old_file(tmp_path):
    files.write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a.json", {"new": object()})
    assert files.read_json(tmp_path / "a.json") == {"old": 1} and entries(tmp_path) == ["a.json"]


@pytest.mark.parametrize("content, message", [
    (None, "no such file"), (b"", "not readable as JSON"), (b'{"a": 1', "not readable as JSON"),
    (b"[1, 2]", "must hold a JSON object, holds a list"), (b"\xff\xfe\x00", "not readable as JSON"),
    (b"null", "holds a NoneType"), (b"[" * 200_000, "not readable as JSON"),
])
def test_broken_json_is_named(tmp_path, content, message):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        files.read_json(path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_folder_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="not readable as JSON"):
        files.read_json(tmp_path)


def test_digests(tmp_path):
    content = os.urandom(3_000_000)                                             # more than one block
    (tmp_path / "a").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()[:16]
    assert files.digest(tmp_path / "a") == files.digest_bytes(content) == expected
    assert files.digest_of({"a": 1, "b": [2, "c"]}) == files.digest_of({"b": [2, "c"], "a": 1})
    assert len({files.digest_of(x) for x in ({"a": 1}, {"a": 2}, {"b": 1}, [], {}, None, "a")}) == 7
