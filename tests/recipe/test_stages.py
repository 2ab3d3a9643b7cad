"""Stages of plain files: made once, kept, stale with a reason, remade when asked, whole after any interruption."""
import json
import os
from pathlib import Path

import pytest

from framealign.runtime import files
from framealign.recipe import stages
from framealign.recipe.stages import Redo, Stage, difference, nothing_half_made, run_stage


class Chain:
    """Two stages, the second made of the first's product; counts how often each is made."""

    def __init__(self, root: Path, text: str = "a", factor: int = 2):
        self.root, self.text, self.factor, self.made = root, text, factor, []

    def stages(self) -> list[Stage]:
        def first(folder: Path) -> None:
            self.made.append("first")
            files.write_text(folder / "text", self.text)

        def second(folder: Path) -> None:
            self.made.append("second")
            files.write_text(folder / "checkpoints" / "0001" / "half", "")
            files.write_text(folder / "repeated", one.product("text").read_text() * self.factor)

        one = Stage("first", self.root / "first", ("text",), {"text": self.text}, [], first, protocol={"seed": 0})
        return [one, Stage("second", self.root / "second", ("repeated",), {"factor": self.factor}, [one], second)]

    def run(self, redo: str | Redo = "") -> list[str]:
        """Run both; which were made."""
        self.made, again = [], Redo(self.root, redo) if isinstance(redo, str) else redo
        for stage in self.stages():
            run_stage(stage, again)
        if again is not redo:
            again.finish()
        return self.made


@pytest.fixture
def chain(tmp_path) -> Chain:
    return Chain(tmp_path)


def test_a_stage_is_made_once_and_says_so(chain, capsys):
    assert chain.run() == ["first", "second"]
    assert (chain.root / "second" / "repeated").read_text() == "aa"
    capsys.readouterr()
    assert chain.run() == []
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == ["[first] kept", "[second] kept"]


def test_the_record_says_what_was_made_of_what(chain):
    chain.run()
    first, second = (files.read_json(chain.root / name / "stage.json") for name in ("first", "second"))
    assert second["upstream"] == {"first": first["products"]} and second["settings"] == {"factor": 2}
    assert first["protocol"] == {"seed": 0} and first["ranks"] == 1 and first["seconds"] >= 0
    assert set(first["versions"]) == {"framealign", "torch", "python"}
    assert not list(chain.root.rglob("begun.json"))


def test_another_setting_makes_stale_and_nothing_is_remade(chain):
    chain.run()
    with pytest.raises(ValueError, match=r"stage second in .*second is stale: settings\.factor was 2, is 3; remake it "
                                         r"and what builds on it with --redo second, or choose another --out folder"):
        Chain(chain.root, factor=3).run()
    assert chain.run() == []


def test_another_product_upstream_makes_stale(chain):
    chain.run()
    other = Chain(chain.root, text="b")
    with pytest.raises(ValueError, match="stage first .* settings.text was a, is b"):
        other.run()
    run_stage(other.stages()[0], Redo(chain.root, "first"))
    with pytest.raises(ValueError, match=r"stage second .* is stale: upstream\.first\.text was \w+, is \w+;"):
        other.run()
    assert other.run(redo="second") == ["second"] and other.run() == []


def test_redo_remakes_a_stage_and_what_builds_on_it(chain):
    chain.run()
    assert chain.run(redo="second") == ["second"]
    assert chain.run(redo="first") == ["first", "second"]
    assert Chain(chain.root, text="b", factor=3).run(redo="all") == ["first", "second"]
    assert (chain.root / "second" / "repeated").read_text() == "bbb"


def test_redo_remakes_a_shared_stage_once(chain):
    chain.run()
    again = Redo(chain.root, "all")
    assert chain.run(again) == ["first", "second"]
    other = Chain(chain.root)
    other_second = Stage("second", chain.root / "other" / "second", ("repeated",), {}, other.stages()[:1],
                         lambda folder: files.write_text(folder / "repeated", "x"))
    run_stage(other.stages()[0], again)
    run_stage(other_second, again)
    assert other.made == []


@pytest.mark.parametrize("harm, reason", [
    (lambda stage: (stage / "text").unlink(), "text is gone"),
    (lambda stage: (stage / "text").write_text("torn"), "text is not what was made"),
])
def test_a_product_that_changed_makes_stale(chain, harm, reason):
    chain.run()
    harm(chain.root / "first")
    with pytest.raises(ValueError, match=f"stage first .* is stale: {reason}; .*--redo first"):
        chain.run()
    assert chain.run(redo="first") == ["first", "second"]


@pytest.mark.parametrize("content, message", [
    ("", "stage.json: not readable as JSON"), ("[1]", "must hold a JSON object"),
    ("{}", "stage first .* is stale: settings.text was None, is a"),
    ('{"settings": {"text": "a"}}', "stage first .* is stale: text is not what was made"),
])
def test_a_damaged_record_is_said_not_believed(chain, content, message):
    chain.run()
    (chain.root / "first" / "stage.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        chain.run()
    assert chain.run(redo="first") == ["first", "second"]


def test_a_model_directory_without_one_of_its_files_is_damaged(tmp_path):
    def make(folder: Path) -> None:
        for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
            files.write_text(folder / "encoder" / name, name)

    stage = Stage("model", tmp_path / "model", ("encoder",), {}, [], make)
    run_stage(stage, Redo(tmp_path))
    (tmp_path / "model" / "encoder" / "config.json").unlink()
    with pytest.raises(ValueError, match="encoder is not what was made"):
        run_stage(stage, Redo(tmp_path))


def interrupted(chain: Chain, monkeypatch, number: int, done: bool, redo: str = "") -> bool:
    """Run until the rename number `number`, which is done or not; whether there were so many."""
    replace, count = os.replace, iter(range(10 ** 6))

    def torn(*args):
        stop = next(count) == number
        if not stop or done:
            replace(*args)
        if stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", torn)
        try:
            chain.run(redo)
        except KeyboardInterrupt:
            return True
    return False


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("redo", ["", "first"])
def test_interrupted_anywhere_the_same_command_continues(tmp_path, monkeypatch, redo, done):
    """Every rename is a point of interruption, those of records and of discarding included."""
    number, went_on = 0, True
    while went_on:
        chain = Chain(tmp_path / str(number))
        if redo:
            chain.run()
        went_on = interrupted(chain, monkeypatch, number, done, redo)
        chain.run(redo)
        assert (chain.root / "second" / "repeated").read_text() == "aa" and chain.run() == []
        number += 1
    assert number > 6


@pytest.mark.parametrize("settings, cleared", [({}, []), ({"factor": 3}, ["second"]), ({"text": "b"}, ["first"])])
def test_an_interrupted_redo_continues_what_it_has_begun(chain, monkeypatch, settings, cleared):
    """What it had finished is kept, what was half-made is continued, unless other settings are wanted now."""
    chain.run()
    assert interrupted(chain, monkeypatch, 9, True, "first") and chain.made == ["first", "second"]
    assert (chain.root / "second" / "checkpoints").exists() and not (chain.root / "second" / "stage.json").exists()
    assert files.read_json(chain.root / "redo.json") == {"redo": "first", "folders": ["first", "second"]}
    discard, found, other = stages.discard, [], Chain(chain.root, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(stages, "discard", lambda folder: (found.append(folder.name), discard(folder)))
        made = other.run("first")
    assert found[:1] == cleared and made == (["second"] if "text" not in settings else ["first", "second"])
    assert not (chain.root / "redo.json").exists()
    assert other.run("first") == ["first", "second"]            # done: a new redo is a new one


def test_another_redo_is_not_a_continued_one(chain, monkeypatch):
    chain.run()
    assert interrupted(chain, monkeypatch, 4, True, "first")
    assert chain.run("all") == ["first", "second"] and not (chain.root / "redo.json").exists()


def test_half_made_with_other_settings_is_said(chain, monkeypatch):
    run_stage(chain.stages()[0], Redo(chain.root))
    assert interrupted(chain, monkeypatch, 1, True)             # after the first file of the second stage
    with pytest.raises(ValueError, match=r"stage second in .* is half-made and stale: settings\.factor was 2, is 3; "
                                         "remake .* --redo second"):
        Chain(chain.root, factor=3).run()
    assert Chain(chain.root, factor=3).run(redo="second") == ["second"]
    assert (chain.root / "second" / "repeated").read_text() == "aaa"


@pytest.mark.parametrize("checkpoints", [False, True])
def test_a_users_mistake_leaves_nothing_but_checkpoints(tmp_path, checkpoints):
    def make(folder: Path) -> None:
        files.write_text(folder / "states" / "frames-00000-of-00001.npy", "half")
        if checkpoints:
            files.write_text(folder / "way1" / "checkpoints" / "00000002" / "state.pt", "")
        raise ValueError("a.wav: samples that are NaN")

    stage = Stage("one", tmp_path / "run" / "one", (), {}, [], make)
    with pytest.raises(ValueError, match="a.wav"):
        run_stage(stage, Redo(tmp_path))
    assert (tmp_path / "run").exists() == checkpoints


def test_unfinished_stores_go_and_nothing_else(tmp_path):
    unfinished, finished, other = (tmp_path / name / "frontend" for name in ("unfinished", "finished", "other"))
    for store in (unfinished, finished, other):
        files.write_text(store / "frames-00000-of-00001.npy", "")
    files.write_json(finished / "index.json", {})
    (other / "mine.txt").touch()
    with pytest.raises(ValueError, match="bad"), nothing_half_made(unfinished, finished, other, tmp_path / "never"):
        raise ValueError("bad")
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["finished/frontend/frames-00000-of-00001.npy", "finished/frontend/index.json",
                    "other/frontend/mine.txt"]
    assert not (tmp_path / "unfinished").exists()
    with nothing_half_made(finished):
        pass
    assert finished.exists()


def test_difference_names_the_setting():
    assert difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == "a.c was 2, is 3"
    assert difference({"a": {}}, {"a": {"b": 1}}) == "a.b was None, is 1"
    assert difference({"a": {"b": 1}, "z": 1}, {"a": {"b": 1}}) == "z was 1, is None"
    assert difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}) == ""


def test_records_are_compared_as_json_holds_them(tmp_path):
    """A tuple is a list there, and a key always text."""
    stage = Stage("one", tmp_path / "one", (), {"sizes": (1, 2), "by": {1: 2}}, [], lambda folder: None)
    for _ in range(2):
        run_stage(stage, Redo(tmp_path))
    assert json.loads((tmp_path / "one" / "stage.json").read_text())["settings"] == {"sizes": [1, 2], "by": {"1": 2}}


def test_a_link_is_relative_and_replaced(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "fold" / name).mkdir(parents=True)
        files.link(tmp_path / "fold" / "chosen", tmp_path / "fold" / name)
        assert os.readlink(tmp_path / "fold" / "chosen") == name
    assert sorted(os.listdir(tmp_path / "fold")) == ["a", "b", "chosen"]
