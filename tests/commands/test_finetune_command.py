"""Fine-tuning from the command line: splits, results, resumption; every mistake before anything is written."""
import csv
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import small

from framealign.runtime import files
from framealign.corpus import manifest, utterance
from framealign.emotion.emotion_model import EmotionModel
from framealign.recipe.presets import preset, with_overrides
from framealign.commands import finetune_command
from framealign.commands.finetune_command import FinetuneRun

SMALL = with_overrides(preset("tiny"), small.SETTINGS | {"finetune.epochs": "1", "pretrain.updates": "2",
                                                         "scratch.updates": "2"})


def predictions(run: Path) -> list[dict[str, str]]:
    with open(run / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_finetuning_by_session(tones, table, small_base, tmp_path, capsys):
    config = FinetuneRun(corpus=str(table), session="2", init_from=str(small_base), out=str(tmp_path / "run"),
                         device="cpu")
    finetune_command.run(config, SMALL.finetune)
    rows = predictions(tmp_path / "run")
    assert [(row["id"], row["true"]) for row in rows] == [(u.id, u.label) for u in tones if u.session == "2"]
    for row in rows:
        shares = [float(row[name]) for name in utterance.CLASSES]
        assert sum(shares) == pytest.approx(1, abs=1e-5) and utterance.CLASSES[np.argmax(shares)] == row["predicted"]
    wa = np.mean([row["true"] == row["predicted"] for row in rows])
    assert f"session2: wa {100 * wa:.1f} %" in capsys.readouterr().out
    assert EmotionModel.from_pretrained(tmp_path / "run" / "recogniser").labels == list(utterance.CLASSES)


def test_finetuning_both_ways_gives_one_result(tones, table, small_base, tmp_path, capsys):
    config = FinetuneRun(corpus=str(table), init_from=str(small_base), out=str(tmp_path / "run"), device="cpu")
    finetune_command.run(config, dataclasses.replace(SMALL.finetune, selection="speaker"))
    results = files.read_json(tmp_path / "run" / "results.json")
    assert len(results["ways"]) == 2 and results["num_utterances"]["test"] == len(predictions(tmp_path / "run")) == 8
    assert "session1-valid-Ses01F, session1-valid-Ses01M: wa" in capsys.readouterr().out


def three_speakers(tones, tmp_path) -> Path:
    """A manifest in which session 1 has a third speaker, whose name no id tells; nobody but Ses01F is sad there."""
    crowd = [dataclasses.replace(u, id=f"third-{u.id}", speaker="third", path=tmp_path / f"third-{u.path.name}")
             for u in tones if u.speaker == "Ses01M"]
    for one, source in zip(crowd, [u for u in tones if u.speaker == "Ses01M"]):
        shutil.copyfile(source.path, one.path)
    crowd = [u for u in [*tones, *crowd] if u.session != "1" or u.label != "sad" or u.speaker == "Ses01F"]
    manifest.write(tmp_path / "corpus.tsv", crowd)
    return tmp_path / "corpus.tsv"


def test_three_speakers_are_tested_once_each_though_two_lack_a_class(tones, small_base, tmp_path):
    """Refused, naming the flag; with it 10 test utterances count as 10, and each training's UA is over what is there.
    """
    config = FinetuneRun(corpus=str(three_speakers(tones, tmp_path)), init_from=str(small_base),
                         out=str(tmp_path / "run"), device="cpu")
    tuned = dataclasses.replace(SMALL.finetune, selection="speaker")
    with pytest.raises(ValueError, match="the test part .* has no utterance labelled sad; .*--allow-missing-classes"):
        finetune_command.run(config, tuned)
    assert not (tmp_path / "run").exists()
    finetune_command.run(dataclasses.replace(config, allow_missing_classes=True), tuned)
    results, rows = files.read_json(tmp_path / "run" / "results.json"), predictions(tmp_path / "run")
    assert len({row["id"] for row in rows}) == len(rows) == 10
    assert results["num_utterances"] == {"train": 16, "valid": 10, "test": 10}
    assert np.sum(results["test"]["confusion"]) == 10 and results["test"]["interval_over"] == "3 speakers"
    lacking = [way for way in results["ways"] if way["test"]["recall"]["sad"] is None]
    assert len(results["ways"]) == 3 and len(lacking) == 2
    for way in lacking:
        recalls = [share for share in way["test"]["recall"].values() if share is not None]
        assert len(recalls) == 3 and way["reported"]["ua"] == pytest.approx(np.mean(recalls))
    card = (tmp_path / "run" / "recogniser" / "README.md").read_text()
    assert "3 trainings, in which each speaker of the fold is tested once; this recogniser is that of the first" in card
    # Of two trainings, though together there is some; and the third is validated on speakers who are never sad.
    assert "There was a test part without sad, a validation part without sad: its UA" in card


def test_a_list_that_lacks_a_class_needs_the_flag(tones, lists, small_base, tmp_path):
    test = Path(lists["test"])
    test.write_text("".join(line for line in test.read_text().splitlines(True) if not line.endswith("sad\n")))
    config = FinetuneRun(**lists, init_from=str(small_base), out=str(tmp_path / "run"), device="cpu")
    with pytest.raises(ValueError, match="the test part .* labelled sad; .*--allow-missing-classes"):
        finetune_command.run(config, SMALL.finetune)
    finetune_command.run(dataclasses.replace(config, allow_missing_classes=True), SMALL.finetune)
    card = (tmp_path / "run" / "recogniser" / "README.md").read_text()
    assert "a test part without sad: its UA and macro-F1 are over the other classes" in card
    assert "| no utterances |" in card


def test_a_speaker_on_two_sides_needs_the_flag_and_is_marked(tones, small_base, tmp_path):
    moved = next(u for u in tones if u.session == "2")
    table = tmp_path / "shared.tsv"
    manifest.write(table, [dataclasses.replace(u, session="1") if u is moved else u for u in tones])
    config = FinetuneRun(corpus=str(table), init_from=str(small_base), out=str(tmp_path / "run"), device="cpu",
                         allow_missing_classes=True)
    with pytest.raises(ValueError, match=f"speaker {moved.speaker} is in the .*--allow-shared-speakers"):
        finetune_command.run(config, dataclasses.replace(SMALL.finetune, selection="last"))
    assert not (tmp_path / "run").exists()
    finetune_command.run(dataclasses.replace(config, allow_shared_speakers=True),
                         dataclasses.replace(SMALL.finetune, selection="last"))
    card = (tmp_path / "run" / "recogniser" / "README.md").read_text()
    assert "**Optimistic**: speakers shared" in card and "(1 of them the same) in the test" in card


def test_finetuning_by_lists(tones, lists, small_base, tmp_path):
    config = FinetuneRun(**lists, init_from=str(small_base), out=str(tmp_path / "run"), device="cpu")
    finetune_command.run(config, SMALL.finetune)
    assert [row["id"] for row in predictions(tmp_path / "run")] == [u.id for u in tones if u.session == "1"]
    counts = files.read_json(tmp_path / "run" / "results.json")["num_utterances"]
    assert counts == {"train": 8, "valid": 8, "test": 8}


def test_a_run_that_holds_checkpoints_is_continued_or_refused(table, small_base, tmp_path, capsys):
    config = FinetuneRun(corpus=str(table), init_from=str(small_base), out=str(tmp_path / "run"), device="cpu")
    tuned = dataclasses.replace(SMALL.finetune, selection="speaker")
    finetune_command.run(config, tuned)
    before = small.products(tmp_path / "run")
    finetune_command.run(config, tuned)
    assert capsys.readouterr().out.count("continues after update 2") == 2 and small.products(tmp_path / "run") == before
    with pytest.raises(ValueError, match="holds checkpoints; leave out --no-resume to continue"):
        finetune_command.run(dataclasses.replace(config, resume=False), tuned)
    with pytest.raises(ValueError, match="its checkpoint was made with another configuration, split or sound"):
        finetune_command.run(config, dataclasses.replace(tuned, lr=0.5))
    assert small.products(tmp_path / "run") == before


@pytest.mark.parametrize("changes, message", [
    ({"init_from": ""}, "--init-from is needed"), ({"corpus": ""}, "give either --corpus .* or --train"),
    ({"init_from": "nowhere"}, "nowhere: no such directory"), ({"classes": "happy"}, "--classes must be two or more"),
    ({"session": "9"}, "no utterance of session 9; there are: 1, 2, 3"), ({"precision": "half"}, "--precision must"),
    ({"validate_on": "word"}, "validate_on session or speaker"),
    ({"classes": "calm,bored"}, "no label is one of the classes calm, bored; there are: neutral 6, happy 6"),
    ({"corpus": "", "train": "train.scp"}, "--test is needed"),
    ({"corpus": "", "train": "train.scp", "test": "test.scp"}, "selection clean needs validation utterances"),
    ({"corpus": "", "train": "train.scp", "test": "train.scp"}, "is also in the validation or test list"),
])
def test_wrong_finetuning_flags_leave_nothing(table, lists, small_base, tmp_path, changes, message):
    given = {key: str(tmp_path / value) if value.endswith(".scp") else value for key, value in changes.items()}
    config = FinetuneRun(**({"corpus": str(table), "init_from": str(small_base), "out": str(tmp_path / "run")} | given))
    before = small.digests(tmp_path)
    with pytest.raises(ValueError, match=message):
        finetune_command.run(config, SMALL.finetune)
    assert small.digests(tmp_path) == before and not (tmp_path / "run").exists()
