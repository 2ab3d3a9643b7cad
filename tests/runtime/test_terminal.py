"""A reader that leaves, an encoding that lacks a name: no error, no traceback, and the work goes on."""
import io
import os
import subprocess
import sys

import pytest
import small

from framealign.runtime import terminal

ENVIRONMENT = os.environ | {"PYTHONPATH": str(small.ROOT)}


def with_closed_output(code: str, **environment: str) -> tuple[int, bytes]:
    """Status and stderr of Python code whose standard output nobody reads."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=ENVIRONMENT | environment)
    process.stdout.close()
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def test_work_goes_on_where_nobody_reads_any_more(tmp_path):
    """10,000 lines of a log into a closed pipe; the work behind them is done."""
    code = ("import pathlib\\nfrom framealign.runtime import log\\n"
            "def main():\\n    for _ in range(10_000): log.say('a line of the log')\\n"
            f"    pathlib.Path({str(tmp_path / 'done')!r}).touch()\\nraise SystemExit(log.command(main))")
    assert with_closed_output(code.replace("\\n", "\n")) == (0, b"")
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("body", ["print('x' * 200_000)", "print('x')", "raise SystemExit(0)"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_verb_that_prints_ends_without_a_word(body, unbuffered):
    code = f"from framealign.runtime import log\ndef main():\n    {body}\nraise SystemExit(log.command(main))"
    assert with_closed_output(code, PYTHONUNBUFFERED=unbuffered) == (0, b"")


def test_another_broken_pipe_is_an_error_still():
    code = ("from framealign.runtime import log\ndef main(): raise BrokenPipeError(32, 'a rank is gone')\n"
            "raise SystemExit(log.command(main))")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, env=ENVIRONMENT, timeout=120)
    assert run.returncode == 2 and b"a rank is gone" in run.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["recognise", "--help"], ["session", "--help"]])
def test_help_into_a_closed_pipe(arguments):
    code = f"import sys\nsys.argv[1:] = {arguments}\nfrom framealign.__main__ import main\nraise SystemExit(main())"
    assert with_closed_output(code) == (0, b"")


def test_what_the_encoding_lacks_is_escaped(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert terminal.lacks("\u00fc.wav") == "ascii" and terminal.lacks("a.wav") == ""
    assert terminal.put("\u00fc\u65e5.wav\n")
    assert stream.buffer.getvalue() == b"\\xfc\\u65e5.wav\n"
    monkeypatch.setattr(sys, "stdout", io.StringIO())                       # without an encoding
    assert terminal.lacks("\u00fc") == "" and terminal.put("\u00fc")
