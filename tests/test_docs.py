"""What docs/AUDIT.md and README.md name exists: functions, tests that run by default, flags and settings."""
import argparse
import ast
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import small
from torch.distributed.run import get_args_parser

from framealign.training import training_config
from framealign.recipe import presets, recipe

README, AUDIT = small.ROOT / "README.md", small.ROOT / "docs" / "AUDIT.md"
QUOTED = re.compile(r"`([^`\n]+)`")
PLACE = re.compile(r"(\w+\.py)(?::([\w.]+))?")
THEIRS = {"--iskmean", "--gpus"}                    # the reference's flags, not ours
SETTINGS = (recipe.SessionConfig, training_config.PretrainConfig, training_config.FinetuneConfig)


def rows(path: Path) -> list[list[str]]:
    """Cells of every table row of a page."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def audit() -> list[list[str]]:
    """Rows of the audit: number, reference, effect, ours, flag, test."""
    return [row for row in rows(AUDIT) if row[0].strip().isdigit()]


def places(text: str) -> Iterator[tuple[str, str]]:
    """(file, name) for each quoted `file.py:name`; a bare `Name` that follows one is of the same file; "" no name."""
    file = ""
    for quoted in QUOTED.findall(text):
        if match := PLACE.fullmatch(quoted):
            file = match[1]
            yield file, match[2] or ""
        elif file and re.fullmatch(r"[\w.]+", quoted):
            yield file, quoted


def definitions(path: Path) -> dict[str, ast.AST]:
    """Functions, classes and their methods by dotted name."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
            found |= {f"{node.name}.{inner.name}": inner for inner in getattr(node, "body", [])
                      if isinstance(inner, ast.FunctionDef)}
    return found


def wrong_place(file: str, name: str) -> str:
    """What is wrong with a place that a page names, "" if nothing."""
    if file.startswith("test_"):
        path = small.ROOT / "tests" / file
    else:
        path = next((small.ROOT / folder / file for folder in ("framealign", "bin")
                     if (small.ROOT / folder / file).is_file()), small.ROOT / file)
    if not path.is_file():
        return f"{file}: no such file"
    node = definitions(path).get(name)
    if name and node is None:
        return f"{file} has no {name}"
    marks = [ast.unparse(mark) for mark in getattr(node, "decorator_list", [])]
    aside = [mark for mark in marks if re.search(r"mark\.(slow|gpu|skip|xfail)\b", mark)]
    return f"{file}:{name} is not run by default: {aside[0]}" if aside else ""


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """Every flag of every script, from its own --help; and torchrun's, under which scripts are shown."""
    found = {option for action in get_args_parser()._actions for option in action.option_strings}
    patch = pytest.MonkeyPatch()
    for path in sorted((small.ROOT / "bin").glob("*.py")):
        said: list[str] = []
        patch.setattr(sys, "argv", [str(path), "--help"])
        patch.setattr(argparse.ArgumentParser, "print_help", lambda self, file=None: said.append(self.format_help()))
        with pytest.raises(SystemExit):
            runpy.run_path(str(path), run_name="__main__")
        found |= set(re.findall(r"--[a-z][\w-]*", said[0].partition("options:")[2]))
    patch.undo()
    return found


def test_the_audit_has_every_row_once():
    assert [row[0] for row in audit()] == [str(number) for number in range(1, 19)]
    assert {len(row) for row in audit()} == {6} and all(all(row) for row in audit())


@pytest.mark.parametrize("row", audit(), ids=lambda row: row[0])
def test_every_row_has_a_test_that_exists_and_runs(row):
    named = list(places(row[5]))
    assert named and all(file.startswith("test_") and name for file, name in named)
    assert not [wrong for place in named if (wrong := wrong_place(*place))]


def test_the_rest_of_the_audit_names_what_exists():
    text = AUDIT.read_text(encoding="utf-8").split("\n## ", 1)[1]
    named = [place for place in places(text) if place[0].startswith("test_")]
    assert named and not [wrong for place in named if (wrong := wrong_place(*place))]


def test_the_page_on_long_sound_names_what_exists():
    named = list(places((small.ROOT / "docs" / "LONG.md").read_text(encoding="utf-8")))
    assert len(named) >= 5 and not [wrong for place in named if (wrong := wrong_place(*place))]


def test_the_readmes_audit_map_names_what_exists():
    mapped = [row for row in rows(README) if len(row) == 4 and "`" in row[2] and "`test_" in row[3]]
    assert len(mapped) >= 15
    wrong = [found for row in mapped for cell in row[2:] for place in places(cell) if (found := wrong_place(*place))]
    assert not wrong, "\n".join(wrong)
    assert all(list(places(row[2])) and list(places(row[3])) for row in mapped)


def test_every_promise_names_tests_that_exist():
    """Those marked slow are said to be."""
    promises = [row for row in rows(small.ROOT / "docs" / "RELIABILITY.md") if "`test_" in "".join(row)]
    assert len(promises) >= 15
    for row in promises:
        wrong = [found for place in places(row[1]) if (found := wrong_place(*place))]
        assert not [found for found in wrong if "not run by default" not in found], wrong
        assert not wrong or "slow" in row[1], wrong


@pytest.mark.parametrize("path", [README, AUDIT, AUDIT.with_name("IEMOCAP.md")], ids=lambda path: path.name)
def test_flags_exist(path, flags):
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", path.read_text(encoding="utf-8"))) - THEIRS
    assert named and not named - flags


@pytest.mark.parametrize("path", [README, AUDIT], ids=lambda path: path.name)
def test_settings_are_taken(path):
    """`--set NAME=VALUE` names a setting; the presets of the smallest warm-up take every value that is shown."""
    named = re.findall(r"--set ([\w.]+)=([\w.]+)", path.read_text(encoding="utf-8"))
    assert named
    for name, value in named:
        presets.with_overrides(presets.preset("tiny"), {name: value})


def test_values_of_the_audits_flags_are_taken():
    """`--name value` in the column of flags is a value that a configuration takes."""
    given = [match for row in audit() for match in re.findall(r"`--([a-z-]+) ([\w.]+)`", row[4])]
    assert len(given) >= 4
    needed = {"corpus": "a.tsv", "hubert": "tiny"}
    for flag, text in given:
        name = flag.replace("-", "_")
        owners = [kind for kind in SETTINGS if name in kind.__dataclass_fields__]
        assert owners, flag
        for kind in owners:
            value = kind.__dataclass_fields__[name].type(text)
            found = kind(**{name: value}, **(needed if kind is recipe.SessionConfig else {}))
            assert getattr(found, name) == value


def test_these_checks_see_what_they_are_for():
    assert list(places("`model.py:Encoder`, `Block` and `test_model.py`")) == [
        ("model.py", "Encoder"), ("model.py", "Block"), ("test_model.py", "")]
    assert wrong_place("model.py", "Nothing") and wrong_place("test_none.py", "") and wrong_place("none.py", "f")
    assert wrong_place("session.py", "Recipe.nothing") and not wrong_place("session.py", "Recipe.stages")
    slow = "test_padding_never_changes_a_result_of_half_a_minute"
    assert "not run by default" in wrong_place("test_model.py", slow)
