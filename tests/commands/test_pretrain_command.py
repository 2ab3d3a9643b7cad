"""Pretraining from the command line: where it starts, and every mistake before anything is written."""
import dataclasses

import pytest
import small
import torch

from framealign.hubert.model import Hubert
from framealign.recipe.presets import PRESETS, preset, with_overrides
from framealign.commands import pretrain_command
from framealign.commands.pretrain_command import PretrainRun

SMALL = with_overrides(preset("tiny"), small.SETTINGS | {"finetune.epochs": "1", "pretrain.updates": "2",
                                                         "scratch.updates": "2"})


def test_settings_of_pretraining_depend_on_where_it_starts():
    assert pretrain_command.preset_settings(PretrainRun(preset="small")) == preset("small").scratch
    assert pretrain_command.preset_settings(PretrainRun(preset="small", init_from="x")) == preset("small").pretrain


def test_pretraining_from_scratch_and_from_an_encoder(table, units, small_base, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", SMALL)
    for name, config in (("scratch", PretrainRun()), ("from", PretrainRun(init_from=str(small_base)))):
        config = dataclasses.replace(config, corpus=str(table), units=str(units), preset="tiny",
                                     out=str(tmp_path / name), device="cpu")
        pretrain_command.run(config, pretrain_command.preset_settings(config))
    scratch, trained, start = (Hubert.from_pretrained(place) for place in (
        tmp_path / "scratch" / "encoder", tmp_path / "from" / "encoder", small_base))
    assert scratch.config == SMALL.model and not scratch.do_normalize
    conv = "feature_extractor.conv_layers.0.conv.weight"
    assert torch.equal(trained.state_dict()[conv], start.state_dict()[conv])
    assert not torch.equal(scratch.state_dict()[conv], start.state_dict()[conv])


@pytest.mark.parametrize("changes, message", [
    ({"corpus": ""}, "--corpus is needed"), ({"units": ""}, "--units is needed"),
    ({"preset": "huge"}, "preset must be one of"), ({"precision": "half"}, "--precision must be auto"),
    ({"init_from": "nowhere"}, "nowhere: no such directory"), ({"units": "nowhere.km"}, "nowhere.km"),
    ({"units": "units.km,{}/units.km"}, "--units names a file twice"),
    ({"units": "short.km"}, "short.km: units of 23 utterances, the manifest has 24"),
    ({"units": "less.km"}, r"less.km: utterance \w+ has \d+ units but \d+ frames"),
    ({"units": "words.km"}, "words.km:1: units must be whole numbers"), ({"units": "corpus.tsv"}, "not a units file"),
])
def test_wrong_pretraining_flags_leave_nothing(table, units, small_base, tmp_path, changes, message):
    lines = units.read_text().splitlines()
    (tmp_path / "short.km").write_text("\n".join(lines[:-1]) + "\n")
    (tmp_path / "less.km").write_text("\n".join([*lines[:3], lines[3][:-2].strip(), *lines[4:]]) + "\n")
    (tmp_path / "words.km").write_text("\n".join(["a b", *lines[1:]]) + "\n")
    config = PretrainRun(**({"corpus": str(table), "units": str(units), "init_from": str(small_base), "preset": "tiny",
                             "out": str(tmp_path / "run")}
                            | {key: str(tmp_path / value.format(tmp_path)) if key == "units" and value else value
                               for key, value in changes.items()}))
    before = small.digests(tmp_path)
    with pytest.raises(ValueError, match=message):
        pretrain_command.run(config, SMALL.pretrain)
    assert small.digests(tmp_path) == before and not (tmp_path / "run").exists()


def test_a_frozen_conv_encoder_cannot_start_from_scratch(table, units, tmp_path):
    config = PretrainRun(corpus=str(table), units=str(units), preset="tiny", out=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="leave out --freeze-conv, or give --init-from"):
        pretrain_command.run(config, SMALL.pretrain)
