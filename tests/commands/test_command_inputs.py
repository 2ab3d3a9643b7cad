"""Reading a corpus, and sound that turns out rotten: every mistake before anything is written."""
import dataclasses

import numpy as np
import pytest
import small
import soundfile

from framealign.corpus import manifest
from framealign.units.kmeans import KMeansConfig
from framealign.training.training_config import FinetuneConfig
from framealign.recipe.presets import preset, with_overrides
from framealign.commands import command_inputs, finetune_command, pretrain_command, units_command
from framealign.commands.finetune_command import FinetuneRun
from framealign.commands.pretrain_command import PretrainRun
from framealign.commands.units_command import UnitsRun

KMEANS = KMeansConfig(seeding_frames=500, full_passes=2, seeding_tries=1)
SMALL = with_overrides(preset("tiny"), small.SETTINGS | {"finetune.epochs": "1", "pretrain.updates": "2",
                                                         "scratch.updates": "2"})


def test_a_corpus_is_a_manifest_or_a_fairseq_list(tones, table, tmp_path):
    lines = [str(tones[0].path.parent), *(f"{u.path.name}\t{u.num_samples}" for u in tones)]
    (tmp_path / "list.tsv").write_text("\n".join(lines) + "\n")
    assert command_inputs.read_corpus(str(table)) == tones
    listed = command_inputs.read_corpus(str(tmp_path / "list.tsv"))
    assert [(u.id, u.path, u.num_samples) for u in listed] == [(u.id, u.path, u.num_samples) for u in tones]
    assert not any(u.label for u in listed)


def test_a_corpus_is_compared_with_its_files(tones, table):
    manifest.write(table, [dataclasses.replace(tones[0], num_samples=tones[0].num_samples - 1), *tones[1:]])
    with pytest.raises(ValueError, match="1 of 24 sound files are not as the manifest says: .*the manifest says"):
        command_inputs.read_corpus(str(table))


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
