"""`framealign VERB` and `python -m framealign VERB`: the verbs of bin/, listed, called, and refused in one line."""
import re
import subprocess
import sys
from pathlib import Path

import pytest
import small

from framealign import __main__, __version__
from framealign.commands import command_line

ENTRY = ["/usr/bin/framealign", "/site-packages/framealign/__main__.py"]        # sys.argv[0], run one way or the other


@pytest.fixture
def framealign(monkeypatch, capsys):
    """Run `framealign ARGUMENTS` in this process: exit status and both outputs."""
    def run(*arguments: str, program: str = ENTRY[0]) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        capsys.readouterr()
        try:
            status = __main__.main()
        except SystemExit as end:
            status = end.code
        return (status, *capsys.readouterr())
    return run


def test_every_script_is_a_verb():
    """bench alone is not: it imports the packages that framealign is compared with."""
    scripts = {path.stem for path in (small.ROOT / "bin").glob("*.py")}
    assert set(__main__.VERBS) == scripts - {"bench"}
    modules = {path.stem for path in Path(command_line.__file__).parent.glob("*_command.py")}
    assert modules == {f"{verb}_command" for verb in __main__.VERBS}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_verb_it_lists_them(framealign, arguments):
    status, out, err = framealign(*arguments)
    assert status == 0 and not err
    for verb, words in __main__.VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(words)}$", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 120


def test_it_gives_its_version(framealign):
    assert framealign("--version") == (0, f"framealign {__version__}\n", "")


@pytest.mark.parametrize("verb, words", [("transcribe", "no verb 'transcribe'; there are: demo, recognise,"),
                                         ("prepare_command", "no verb"), ("", "no verb ''"), ("--flag", "no verb"),
                                         ("bench", "in the checkout alone: bin/bench.py")])
def test_an_unknown_verb_is_one_line(framealign, verb, words):
    status, out, err = framealign(verb, "--help")
    assert status == 2 and not out and err.count("\n") == 1 and err.startswith("error: ") and words in err


@pytest.mark.parametrize("program", ENTRY)
@pytest.mark.parametrize("verb", __main__.VERBS)
def test_help_names_the_command_that_was_typed(framealign, verb, program):
    status, out, _ = framealign(verb, "--help", program=program)
    assert status == 0 and out.startswith(f"usage: framealign {verb} [options]")
    assert re.search(rf"^    framealign {verb}( |$)", out, re.MULTILINE) and "bin/" not in out
    for line in re.findall(r"^    torchrun.*$", out, re.MULTILINE):
        assert f" -m framealign {verb} " in line


@pytest.mark.parametrize("arguments, status, words", [
    (["finetune"], 2, "error: --init-from is needed; --help shows an example\n"),
    (["units", "--clusters"], 2, "usage: framealign units [options]\nframealign units: error: argument --clusters: "
     "expected one argument\n"),
    (["recognise", "{}/none", "a.wav"], 2, "error: {}/none: no such directory")])
def test_mistakes_end_as_in_the_scripts(framealign, tmp_path, arguments, status, words):
    got, out, err = framealign(*(word.format(tmp_path) for word in arguments))
    assert (got, out) == (status, "") and err.startswith(words.format(tmp_path)) and "Traceback" not in err


@pytest.mark.slow                                   # test_wheel.py starts two, of an installed package
def test_a_real_process_runs_a_verb(tmp_path):
    """`python -m framealign prepare` from another folder."""
    small.write_tree(tmp_path / "tree")
    command = [sys.executable, "-m", "framealign", "prepare", "--iemocap", "tree", "--allow-partial", "--out", "a.tsv"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=small.ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("a.tsv: 24 utterances\n") and (tmp_path / "a.tsv").exists()
