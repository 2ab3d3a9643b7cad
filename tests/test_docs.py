"""What the documents name exists: files, functions, tests, flags, settings and links; and what they count is so."""
import argparse
import ast
import dataclasses
import functools
import re
import runpy
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import small
import soundfile
import test_layout
import torch
from torch.distributed.run import get_args_parser

from framealign.corpus.cropping import Crop, Waveforms
from framealign.corpus.utterance import Utterance
from framealign.hubert.model import Hubert
from framealign.hubert.objective import MaskedPrediction, MicroBatch, positions_of, pretraining_loss
from framealign.training import training_config
from framealign.recipe import presets, session_config

README, DOCS = small.ROOT / "README.md", small.ROOT / "docs"
AUDIT, ARCHITECTURE = DOCS / "AUDIT.md", DOCS / "ARCHITECTURE.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
QUOTED = re.compile(r"`([^`\n]+)`")
PLACE = re.compile(r"((?:\w+/)*\w+\.py)(?::([\w.]+))?")
NEXT = re.compile(r"[,;:\s]*(and)?\s*")             # between two names of one file
LINK = re.compile(r"\]\(([^)\s]+)\)")
THEIRS = {"--iskmean", "--gpus",                    # the reference's flags
          "--signal", "--kill-on-bad-exit", "--requeue",            # Slurm's
          "--no-deps"}                              # pip's
THEIR_FILES = {"model_transfer.py"}                 # the reference's
SETTINGS = (session_config.SessionConfig, training_config.PretrainConfig, training_config.FinetuneConfig)


def named(path: Path) -> str:
    """A page's name, for the test's."""
    return path.name


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose_of(path: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text_of(path), flags=re.MULTILINE | re.DOTALL)


def section_of(path: Path, title: str) -> str:
    """What stands under a title, up to the next one."""
    return re.split(r"^## ", text_of(path).partition(f"\n## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Cells of every table row of a text."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def audit() -> list[list[str]]:
    """Rows of the audit: number, reference, effect, ours, flag, test."""
    return [row for row in rows(text_of(AUDIT)) if row[0].isdigit()]


def places(text: str) -> Iterator[tuple[str, str]]:
    """(file, name) of each quoted `wing/file.py:name`, "" without a name.

    Bare `name`s that follow one, with nothing but commas or "and" between, are of the same file.
    """
    file, end = "", 0
    for quoted in QUOTED.finditer(text):
        match = PLACE.fullmatch(quoted[1])
        if match and match[1] not in THEIR_FILES:
            file = match[1]
            yield file, match[2] or ""
        elif file and re.fullmatch(r"[\w.]+", quoted[1]) and NEXT.fullmatch(text[end:quoted.start()]):
            yield file, quoted[1]
        else:
            file = ""
        end = quoted.end()


@functools.cache
def definitions(path: Path) -> dict[str, ast.AST]:
    """Functions, classes and their methods by dotted name, and the module's other names."""
    by_name: dict[str, ast.AST] = {}
    for node in ast.parse(text_of(path)).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            by_name[node.name] = node
            for inner in node.body:
                if isinstance(node, ast.ClassDef) and isinstance(inner, ast.FunctionDef):
                    by_name[f"{node.name}.{inner.name}"] = inner
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            inside = [name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            by_name |= {name.id: node for name in inside}
    return by_name


@functools.cache
def files_named(file: str) -> list[Path]:
    """The project's files of that name: `hubert/model.py`, `model.py`, `test_model.py`, `bin/units.py`."""
    if file.startswith("test_"):
        return sorted((small.ROOT / "tests").rglob(file))
    if (small.ROOT / file).is_file():
        return [small.ROOT / file]
    return sorted((small.ROOT / "framealign").rglob(file))


def wrong_place(file: str, name: str) -> str:
    """What is wrong with a place that a page names, "" if nothing."""
    paths = files_named(file)
    if len(paths) != 1:
        return f"{file}: {len(paths)} such files"
    node = definitions(paths[0]).get(name)
    if name and node is None:
        return f"{file} has no {name}"
    marks = [ast.unparse(mark) for mark in getattr(node, "decorator_list", [])]
    aside = [mark for mark in marks if re.search(r"mark\.(slow|gpu|skip|xfail)\b", mark)]
    return f"{file}:{name} is not run by default: {aside[0]}" if aside else ""


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """Every flag of every script, from its own --help; and torchrun's, under which scripts are shown."""
    known = {option for action in get_args_parser()._actions for option in action.option_strings}
    patch = pytest.MonkeyPatch()
    for path in sorted((small.ROOT / "bin").glob("*.py")):
        texts: list[str] = []
        patch.setattr(sys, "argv", [str(path), "--help"])
        patch.setattr(argparse.ArgumentParser, "print_help", lambda self, file=None: texts.append(self.format_help()))
        with pytest.raises(SystemExit):
            runpy.run_path(str(path), run_name="__main__")
        known |= set(re.findall(r"--[a-z][\w-]*", texts[0].partition("options:")[2]))
    patch.undo()
    return known


# What holds for every page.


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_places_exist(path):
    """`wing/file.py:name`, with its wing; only the list of promises names tests that do not run by default."""
    wrong = [problem for place in places(prose_of(path)) if (problem := wrong_place(*place))]
    if path.name == "RELIABILITY.md":
        wrong = [problem for problem in wrong if "not run by default" not in problem]
    assert not wrong, "\n".join(wrong)
    without_wing = [quoted for quoted in QUOTED.findall(prose_of(path)) if (match := PLACE.fullmatch(quoted))
                    and "/" not in match[1] and not match[1].startswith("test_") and match[1] not in THEIR_FILES]
    assert not without_wing, "a module is named with its wing"


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_folders_and_files_exist(path):
    """`framealign/...`, `docs/...`, `tests/...` and `bin/...` in quotes."""
    quoted = [text for text in QUOTED.findall(prose_of(path)) if re.match(r"(framealign|docs|tests|bin)/", text)]
    missing = [text for text in quoted if not (small.ROOT / text.split(":")[0].split(" ")[0]).exists()]
    assert not missing, missing


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_links_resolve(path):
    """Every link that is none into the web: the file is there, and has the title."""
    for target in LINK.findall(prose_of(path)):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        page = path.parent / file if file else path
        assert page.is_file(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
            assert anchor in ["-".join(re.sub(r"[^\w\s-]", "", title).lower().split()) for title in titles], target


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_lines_fit_and_nothing_is_left_for_later(path):
    assert not re.search("TO" "DO|FIX" "ME", text_of(path))
    long = [line for line in prose_of(path).splitlines()
            if len(line) > test_layout.COLUMNS and not line.startswith("| ")]
    assert not long, long


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_flags_exist(path, flags):
    text = re.sub(r"^#SBATCH.*|^srun.*", "", text_of(path), flags=re.MULTILINE)         # Slurm's own
    flags_named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))
    assert not flags_named - THEIRS - flags


def test_pages_name_flags():
    """The check above finds flags where there are some."""
    for path in (README, AUDIT, DOCS / "IEMOCAP.md", DOCS / "RECIPE.md", DOCS / "RECOGNISE.md"):
        assert re.findall(r"(?<![\w-])--[a-z][\w-]*", text_of(path)), path


def test_settings_are_taken():
    """`--set NAME=VALUE` names a setting; the preset of the smallest warm-up takes every value that is shown."""
    shown = {path.name: re.findall(r"--set ([\w.]+)=([\w.]+)", text_of(path)) for path in PAGES}
    assert shown["AUDIT.md"] and shown["RECIPE.md"]
    for name, value in sum(shown.values(), []):
        presets.with_overrides(presets.preset("tiny"), {name: value})


# The audit.


def test_the_audit_has_every_row_once():
    assert [row[0] for row in audit()] == [str(number) for number in range(1, 19)]
    assert {len(row) for row in audit()} == {6} and all(all(row) for row in audit())


@pytest.mark.parametrize("row", audit(), ids=lambda row: row[0])
def test_every_row_has_a_test_that_exists_and_runs(row):
    tests = list(places(row[5]))
    assert tests and all(file.startswith("test_") and name for file, name in tests)
    assert not [problem for place in tests if (problem := wrong_place(*place))]


def test_the_rest_of_the_audit_names_tests():
    text = text_of(AUDIT).split("\n## ", 1)[1]
    assert len([file for file, _ in places(text) if file.startswith("test_")]) >= 20


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
            config = kind(**{name: value}, **(needed if kind is session_config.SessionConfig else {}))
            assert getattr(config, name) == value


def test_the_map_of_the_papers_names_code_and_test():
    """Each row of the map: the code that does a step, and the test that proves it."""
    mapped = [row for row in rows(section_of(AUDIT, "Where each step is")) if "`" in row[2]]
    assert len(mapped) >= 25 and {len(row) for row in mapped} == {4}
    for row in mapped:
        code, tests = list(places(row[2])), list(places(row[3]))
        assert code and not [file for file, _ in code if file.startswith("test_")], row
        assert tests and all(file.startswith("test_") for file, _ in tests), row


# Other pages.


def test_the_page_on_long_sound_names_tests():
    assert len(list(places(text_of(DOCS / "LONG.md")))) >= 5


def test_every_promise_names_tests_that_exist():
    """Those marked slow are said to be."""
    promises = [row for row in rows(text_of(DOCS / "RELIABILITY.md")) if "`test_" in "".join(row)]
    assert len(promises) >= 15
    for row in promises:
        wrong = [problem for place in places(row[1]) if (problem := wrong_place(*place))]
        assert not [problem for problem in wrong if "not run by default" not in problem], wrong
        assert not wrong or "slow" in row[1], wrong


# The architecture.


def test_the_table_of_wings_is_the_list_of_wings():
    wings = [row[0].strip("`/") for row in rows(section_of(ARCHITECTURE, "The wings")) if row[0].startswith("`")]
    assert tuple(wings) == tuple(test_layout.WINGS)


def test_nine_files_hold_the_method():
    listed = [row[1] for row in rows(section_of(ARCHITECTURE, "Nine files hold the method")) if row[0].isdigit()]
    assert len(set(listed)) == 9
    assert all((small.ROOT / "framealign" / text.strip("`")).is_file() for text in listed)


def called_functions(action) -> list[tuple[str, str]]:
    """The package's functions that `action` calls, in this thread or a new one: (file, name), in order, each once.

    What a function defines inside itself counts as that function.
    """
    package = small.ROOT / "framealign"
    spans: dict[str, list[tuple[int, int, str]]] = {}
    calls: dict[tuple[str, str], None] = {}

    def note(frame, event: str, argument) -> None:
        path = Path(frame.f_code.co_filename)
        if event != "call" or package not in path.parents:
            return
        file = path.relative_to(package).as_posix()
        if file not in spans:
            nodes = [(name, node) for name, node in definitions(path).items() if isinstance(node, ast.FunctionDef)]
            spans[file] = [(min([node.lineno, *(mark.lineno for mark in node.decorator_list)]), node.end_lineno, name)
                           for name, node in nodes]
        line = frame.f_code.co_firstlineno
        for first, last, name in spans[file]:
            if first <= line <= last:
                calls[file, name] = None

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return list(calls)


def test_the_way_of_a_waveform_is_the_one_that_is_documented(tmp_path):
    """Every function between `Waveforms.batch` and the loss, as a trace of the plain path sees them, in its order."""
    waveform = np.random.default_rng(0).normal(0, 0.1, 16_000)
    soundfile.write(tmp_path / "a.wav", waveform, 16_000)
    source = Waveforms([Utterance("a", tmp_path / "a.wav", 16_000)], do_normalize=True)
    config = dataclasses.replace(small.model(), feat_extract_norm="group")      # as base has it
    model = MaskedPrediction(Hubert(config), [5], projection_size=8, temperature=0.1)
    is_masked = torch.zeros(1, 49, dtype=torch.bool)
    is_masked[0, 10:20] = True
    units, positions = torch.zeros(1, 1, 49, dtype=torch.int64), positions_of(is_masked)

    def from_disk_to_loss() -> None:
        inputs, lengths = source.batch([Crop(0, 0, 49)])
        batch = MicroBatch(inputs, lengths, units, is_masked, *positions)
        pretraining_loss(model(batch), batch, unmasked_weight=0.0, feature_penalty=10.0).backward()

    called = called_functions(from_disk_to_loss)
    section = section_of(ARCHITECTURE, "The way of one waveform")
    steps = [row for row in rows(section) if row[0].isdigit()]
    on_the_way = [place for place in places(" ".join(f"{row[1]} {row[2]}" for row in steps)) if place[1]]
    beside = {place for place in places(section.partition("Beside the way")[2]) if place[1]}
    assert [row[0] for row in steps] == [str(number + 1) for number in range(len(on_the_way))]
    assert [place for place in called if place not in beside] == on_the_way
    assert set(called) == set(on_the_way) | beside
    files = {file for file, _ in on_the_way}
    assert f"{len(on_the_way)} functions in {len(files)} files" in section


# These checks see what they are for.


def test_a_wrong_place_is_noticed():
    assert list(places("`hubert/model.py:Encoder`, `Block` and `test_model.py`")) == [
        ("hubert/model.py", "Encoder"), ("hubert/model.py", "Block"), ("test_model.py", "")]
    assert wrong_place("hubert/model.py", "Nothing") and wrong_place("test_none.py", "") and wrong_place("none.py", "f")
    assert wrong_place("units/model.py", "Hubert") and wrong_place("bin/none.py", "")
    assert wrong_place("recipe/recipe.py", "Recipe.nothing") and not wrong_place("recipe/recipe.py", "Recipe.stages")
    assert not wrong_place("sound/frames.py", "HOP")
    slow = "test_padding_never_changes_a_result_of_half_a_minute"
    assert "not run by default" in wrong_place("test_model.py", slow)


def test_a_trace_has_every_function_once_in_order():
    """Helpers inside a function are the function; what is called in another thread is seen."""
    assert called_functions(lambda: test_layout.untidy("x")) == []
    model = Hubert(small.model())
    called = called_functions(lambda: [model.num_frames(400), model.num_frames(800)])
    assert called == [("hubert/model.py", "Hubert.num_frames"), ("sound/frames.py", "conv_length")]
