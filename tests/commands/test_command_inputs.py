"""Reading a corpus, and sound that turns out rotten: every mistake before anything is written."""
import dataclasses

import numpy as np
import pytest
import small
import soundfile

from framealign.runtime import files
from framealign.corpus import manifest
from framealign.corpus.cropping import frame_counts
from framealign.corpus.utterance import CLASSES
from framealign.units.kmeans import KMeansConfig
from framealign.training.training_config import FinetuneConfig
from framealign.recipe import preflight
from framealign.recipe.presets import preset, with_overrides
from framealign.commands import finetune_command, pretrain_command, units_command
from framealign.commands.finetune_command import FinetuneRun
from framealign.commands.pretrain_command import PretrainRun
from framealign.commands.units_command import UnitsRun

KMEANS = KMeansConfig(seeding_frames=500, full_passes=2, seeding_tries=1)
SMALL = with_overrides(preset("tiny"), small.SETTINGS | {"finetune.epochs": "1", "pretrain.updates": "2",
                                                         "scratch.updates": "2"})


def test_a_corpus_is_a_manifest_or_a_fairseq_list(tones, table, tmp_path):
    lines = [str(tones[0].path.parent), *(f"{u.path.name}\t{u.num_samples}" for u in tones)]
    (tmp_path / "list.tsv").write_text("\n".join(lines) + "\n")
    assert preflight.read_corpus(str(table)) == tones
    listed = preflight.read_corpus(str(tmp_path / "list.tsv"))
    assert [(u.id, u.path, u.num_samples) for u in listed] == [(u.id, u.path, u.num_samples) for u in tones]
    assert not any(u.label for u in listed)


def test_a_corpus_is_compared_with_its_files(tones, table):
    manifest.write(table, [dataclasses.replace(tones[0], num_samples=tones[0].num_samples - 1), *tones[1:]])
    with pytest.raises(ValueError, match="1 of 24 sound files are not as the manifest says: .*the manifest says"):
        preflight.read_corpus(str(table))


@pytest.mark.parametrize("text", ["ROOT\nLINES", "\ufeffROOT\r\nLINES", "ROOT\rLINES\r\r"])
def test_units_and_pretraining_take_a_fairseq_list_of_equal_names(tones, small_base, tmp_path, text, capsys):
    """Names that are equal in two folders, below a root with a comma; units.km has a line for each, in their order."""
    lines = []
    for number, u in enumerate(tones):
        place = tmp_path / "a, b" / str(number % 12) / f"{'xy'[number // 12]}.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(u.path)
        lines.append(f"{place.relative_to(tmp_path / 'a, b')}\t{u.num_samples}")
    end = "\r" if text.endswith("\r") else "\n"
    text = text.replace("ROOT", str(tmp_path / "a, b")).replace("LINES", end.join(lines))
    listed = tmp_path / "train.tsv"
    listed.write_bytes(text.encode())
    assert [u.id for u in preflight.read_corpus(listed)][11:14] == ["11~x", "0~y", "1~y"]
    run = str(tmp_path / "units")
    units_command.run(UnitsRun(corpus=str(listed), mfcc=True, clusters="4", out=run, km=True), KMEANS)
    counts = [len(line.split()) for line in (tmp_path / "units" / "units.km").read_text().splitlines()]
    assert counts == frame_counts(tones).tolist()
    pretrain_command.run(PretrainRun(corpus=str(listed), units=f"{run}/units.km", init_from=str(small_base),
                                     out=str(tmp_path / "run")), SMALL.pretrain)
    assert (tmp_path / "run" / "encoder" / "model.safetensors").exists()


def test_labels_are_the_business_of_fine_tuning_alone(tones, small_base, tmp_path, capsys):
    """A table with a fifth emotion: units and pretraining as of any other, fine-tuning leaves it out and says so."""
    odd = [dataclasses.replace(u, label="fear") if u.label == "sad" else u for u in tones]
    manifest.write(tmp_path / "odd.tsv", odd)
    odd, run = str(tmp_path / "odd.tsv"), str(tmp_path / "units")
    units_command.run(UnitsRun(corpus=odd, mfcc=True, clusters="4", out=run), KMEANS)
    pretrain_command.run(PretrainRun(corpus=odd, units=f"{run}/units.safetensors", init_from=str(small_base),
                                     out=str(tmp_path / "pre")), SMALL.pretrain)
    assert "no class" not in capsys.readouterr().err
    config = FinetuneRun(corpus=odd, init_from=str(small_base), out=str(tmp_path / "fine"), device="cpu",
                         classes="neutral,happy,angry")
    finetune_command.run(config, SMALL.finetune)
    assert "6 utterances with labels that are no class (fear 6)" in capsys.readouterr().err
    assert files.read_json(tmp_path / "fine" / "results.json")["num_utterances"] == {"train": 6, "valid": 6, "test": 6}
    with pytest.raises(ValueError, match="training part .* has no utterance labelled sad"):
        finetune_command.run(dataclasses.replace(config, classes=",".join(CLASSES)), SMALL.finetune)


@pytest.mark.parametrize("samples, message", [(np.zeros(8000), "nothing to hear"), (np.full(8000, np.nan), "NaN")])
@pytest.mark.parametrize("step", ["units", "pretrain", "finetune"])
def test_rotten_sound_leaves_nothing(tones, small_base, units, tmp_path, step, samples, message):
    """Its header is in order, so it shows only while features are computed."""
    soundfile.write(tmp_path / "bad.wav", samples, 16_000, subtype="FLOAT")
    bad = dataclasses.replace(tones[9], path=tmp_path / "bad.wav", num_samples=8000)
    manifest.write(tmp_path / "corpus.tsv", [*tones[:9], bad, *tones[10:]])
    lines = units.read_text().splitlines()
    units.write_text("\n".join([*lines[:9], " ".join(["1"] * 24), *lines[10:]]) + "\n")
    table, run, before = str(tmp_path / "corpus.tsv"), str(tmp_path / "run"), small.digests(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        if step == "units":
            units_command.run(UnitsRun(corpus=table, mfcc=True, clusters="4", out=run), KMEANS)
        elif step == "pretrain":
            pretrain_command.run(PretrainRun(corpus=table, units=str(units), init_from=str(small_base), out=run),
                                  SMALL.pretrain)
        else:
            finetune_command.run(FinetuneRun(corpus=table, init_from=str(small_base), out=run), FinetuneConfig())
    assert "bad.wav" in str(error.value)
    assert small.digests(tmp_path) == before and not (tmp_path / "run").exists()
