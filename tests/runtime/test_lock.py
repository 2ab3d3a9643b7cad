"""One run in one folder: who holds it is named, who died holding it is found out, and two never have it at once."""
import fcntl
import json
import os
import signal
import socket
import time
from pathlib import Path

import faults
import fork_server
import pytest

from framealign.runtime import lock

HOST = socket.gethostname()


def test_a_second_run_is_refused_with_the_owners_host_and_process(tmp_path):
    with lock.held(tmp_path / "run"):
        for _ in range(2):
            with pytest.raises(ValueError, match=rf"run: in use by process {os.getpid()} on {HOST}; wait for it"):
                with lock.held(tmp_path / "run"):
                    raise AssertionError
        with lock.held(tmp_path / "other"):
            pass
    with lock.held(tmp_path / "run"):               # given back
        pass


def test_what_was_made_stays_and_an_empty_folder_goes(tmp_path):
    with pytest.raises(ValueError, match="bad input"), lock.held(tmp_path / "runs" / "new"):
        raise ValueError("bad input")
    assert not (tmp_path / "runs").exists()
    for left in ("a/.b.12.tmp", "checkpoints/.00000003.tmp/model.safetensors", ".stage.discarded/x", "kept.tmp",
                 ".kept"):
        (tmp_path / "run" / left).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / left).touch()
    with lock.held(tmp_path / "run"):
        (tmp_path / "run" / "made").touch()
    assert sorted(x.name for x in (tmp_path / "run").rglob("*") if x.is_file()) == [".kept", "kept.tmp", "made"]


def hold(folder: Path) -> None:
    with lock.held(folder):
        faults.ready()
        folder.with_name("holds").touch()
        time.sleep(60)


def test_a_killed_owner_is_recognised_at_once(tmp_path, capsys):
    assert faults.run(hold, tmp_path / "run", seconds=20, until=tmp_path / "holds") == -signal.SIGKILL
    owner = json.loads((tmp_path / "run" / lock.NAME).read_text())
    assert owner["host"] == HOST
    with lock.held(tmp_path / "run"):
        assert f"process {owner['pid']} on {HOST} had it and is gone; continuing" in capsys.readouterr().out
        assert json.loads((tmp_path / "run" / lock.NAME).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("age, lives", [(0, True), (lock.STALE_SECONDS - 30, True), (lock.STALE_SECONDS + 30, False)])
def test_an_owner_on_another_machine_is_known_by_the_files_time(tmp_path, age, lives):
    path = tmp_path / lock.NAME
    path.write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    os.utime(path, (time.time() - age,) * 2)
    if lives:
        with pytest.raises(ValueError, match=r"process 7 on elsewhere \(it renewed its lock \d+ s ago\)"):
            lock.held(tmp_path).__enter__()
        assert json.loads(path.read_text())["host"] == "elsewhere"
    else:
        with lock.held(tmp_path):
            assert json.loads(path.read_text())["host"] == HOST


def test_the_owner_renews_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "RENEWED_SECONDS", 0.02)
    with lock.held(tmp_path):
        os.utime(tmp_path / lock.NAME, (1, 1))
        deadline = time.monotonic() + 20
        while os.stat(tmp_path / lock.NAME).st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 3}', "\0" * 50])
def test_a_lock_that_says_nothing_belongs_to_nobody(tmp_path, content):
    (tmp_path / lock.NAME).write_text(content)
    with lock.held(tmp_path):
        pass


def test_where_the_file_system_has_no_locks_the_process_is_looked_for(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(37, "No locks available")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    path = tmp_path / lock.NAME
    path.write_text(json.dumps({"host": HOST, "pid": os.getppid()}))
    with pytest.raises(ValueError, match=rf"process {os.getppid()} on {HOST} \(it is running\)"):
        lock.held(tmp_path).__enter__()
    path.write_text(json.dumps({"host": HOST, "pid": 2 ** 22 + 1}))         # beyond the largest process id
    with lock.held(tmp_path):
        pass


def compete(folder: Path, turns: int) -> None:
    """Take the lock again and again; whoever has it makes a file that must not be there, and removes it."""
    while turns:
        try:
            with lock.held(folder):
                os.close(os.open(folder / "alone", os.O_CREAT | os.O_EXCL))
                time.sleep(0.001)
                (folder / "alone").unlink()
                turns -= 1
        except ValueError as error:
            assert "in use by" in str(error)


def test_two_never_have_it_at_once(tmp_path):
    (tmp_path / "stays").touch()
    processes = [fork_server.context().Process(target=compete, args=(tmp_path, 25)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
