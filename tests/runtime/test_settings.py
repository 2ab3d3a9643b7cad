"""Defaults that are checked, changed by flags and written as JSON."""
import argparse
import dataclasses
import json
import math
import re
from pathlib import Path

import pytest

from framealign.runtime import log
from framealign.runtime.settings import add_flags, add_old_names, as_dict, flag_of, from_flags, setting
from framealign.hubert.hubert_config import HubertConfig
from framealign.units.kmeans import KMeansConfig
from framealign.training.training_config import FinetuneConfig, PretrainConfig
from framealign.recipe.presets import PRESETS
from framealign.recipe.session_config import SessionConfig
from framealign.commands.demo_command import DemoConfig
from framealign.commands.finetune_command import FinetuneRun
from framealign.commands.pretrain_command import PretrainRun
from framealign.commands.recognise_command import RecogniseRun
from framealign.commands.units_command import UnitsRun

FLAGGED = [PretrainConfig, FinetuneConfig, KMeansConfig]
RUNS = [SessionConfig, UnitsRun, PretrainRun, FinetuneRun, DemoConfig, RecogniseRun]
# The end of a quantity's name, and the unit or kind of number that its help must name.
UNITS = {
    "seconds": "^seconds", "smooth": "^seconds", "frames": "^frames", "updates": "updates|steps", "epochs": "^epochs",
    "passes": "passes", "tries": "^seedings", "candidates": "^frames", "spans": "^fewest masked spans",
    "checkpoints": "checkpoints", "batch_size": "^utterances per", "projection_size": "^width", "seed": "^seed",
    "layer": "^layer", "fraction": "^share of", "tolerance": "^share of", "lr": "learning rate", "decay": "per update",
    "beta[12]": "per update", "clip_norm": "norm", "dropout": "^probability", "weight": "^weight", "penalty": "^weight",
    "factor": "times", "temperature": "divided by", "eps": "added to", "share": "^share of", "snr": "^decibels",
    "rt60": "^seconds", "speed": "^share by", "colour": "^decibels", "level": "^decibels", "smoothing": "share of",
    "reject": "^confidence, 0 to 1", "error": "^share of", "rate": "^samples a second"}
BAD = {
    HubertConfig: {
        "conv_dim": [(), (8,) * 6, (8,) * 6 + (0,), (8.0,) * 7], "conv_kernel": [(10, 3), (0,) * 7],
        "conv_stride": [(5,) * 8, (-1,) * 7], "hidden_size": [0, -8, 1.5, 770], "num_hidden_layers": [0],
        "num_attention_heads": [0, 5], "intermediate_size": [0], "num_conv_pos_embeddings": [0],
        "num_conv_pos_embedding_groups": [5, 0], "feat_extract_norm": ["batch", ""], "hidden_act": ["relu"],
        "feat_extract_activation": ["gelu_new"],
        **{name: [-0.1, 1.0, math.nan] for name in ("feat_proj_dropout", "hidden_dropout", "activation_dropout",
                                                    "attention_dropout", "layerdrop")}},
    PretrainConfig: {
        **{name: [0, -1] for name in ("updates", "mask_span_frames", "projection_size", "valid_every_updates",
                                      "log_every_updates", "save_every_updates", "keep_checkpoints")},
        **{name: [-1e-9, math.nan, math.inf] for name in ("peak_lr", "adam_eps", "weight_decay", "unmasked_weight",
                                                          "feature_penalty")},
        "warmup_updates": [-1, 20_001], "mask_start_fraction": [0, 1.01, math.nan], "valid_fraction": [-0.1, 1],
        "min_seconds": [0.02, 16], "max_seconds": [0.5, math.inf], "micro_batch_seconds": [0, 351, math.nan],
        "batch_seconds": [10, math.inf], "adam_beta1": [-0.1, 1], "adam_beta2": [1.0], "mask_min_spans": [-1],
        "clip_norm": [0, -1, math.nan, math.inf], "temperature": [0, -0.1, math.inf]},
    FinetuneConfig: {
        **{name: [0, -1] for name in ("epochs", "batch_size", "micro_batch_size", "mask_span_frames",
                                      "keep_checkpoints")},
        **{name: [-1e-9, math.nan, math.inf] for name in ("lr", "weight_decay", "max_seconds", "test_max_seconds")},
        "mask_min_spans": [-1], "clip_norm": [0, math.inf], "mask_start_fraction": [-0.01, 1.01],
        "pooling": ["max", ""], "selection": ["dirty"], "dropout": [1, -0.5], "window_seconds": [-0.1, 61, math.nan],
        "augment_colour": [-1, 21, math.nan]},
    KMeansConfig: {
        **{name: [0, -1] for name in ("seeding_frames", "seeding_tries", "seeding_candidates", "max_frames",
                                      "batch_frames")},
        **{name: [-1] for name in ("seeding_passes", "mini_batch_passes", "full_passes", "tolerance")}}}


@pytest.mark.parametrize("kind", BAD, ids=lambda kind: kind.__name__)
def test_values_outside_their_range_are_named(kind):
    kind()
    for name, values in BAD[kind].items():
        for value in values:
            with pytest.raises(ValueError, match=rf"\b{name}\b|\bhidden_size\b") as error:
                kind(**{name: value})
            assert "\n" not in str(error.value)


def test_values_at_the_edge_of_their_range_pass():
    PretrainConfig(warmup_updates=0, mask_start_fraction=1, valid_fraction=0, mask_min_spans=0, peak_lr=0,
                   min_seconds=0.025, max_seconds=0.025, micro_batch_seconds=350)
    FinetuneConfig(max_seconds=0, mask_start_fraction=0, dropout=0, lr=0)
    KMeansConfig(mini_batch_passes=0, full_passes=0, tolerance=0)
    HubertConfig(conv_dim=[8] * 7, layerdrop=0, hidden_size=768, num_attention_heads=768)


def test_configurations_cannot_be_changed():
    for config in (HubertConfig(), PretrainConfig(), FinetuneConfig(), KMeansConfig(), PRESETS["base"]):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, dataclasses.fields(config)[0].name, 1)


def parser(kind: type) -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser()
    add_flags(flags, kind)
    return flags


@pytest.mark.parametrize("kind", FLAGGED, ids=lambda kind: kind.__name__)
def test_every_field_has_a_flag(kind):
    """None given: the configuration stays, also one that differs from the defaults. Any one given: it alone changes."""
    base = dataclasses.replace(kind(), seed=77)
    assert from_flags(parser(kind).parse_args([]), base) == base
    other = {bool: lambda x: not x, int: lambda x: x + 1, float: lambda x: x / 2 or 0.25,
             str: {"attention": "mean", "clean": "last", "": "all"}.get}
    for item in dataclasses.fields(kind):
        value, flag = other[item.type](getattr(base, item.name)), "--" + item.name.replace("_", "-")
        if item.name == "warmup_updates":
            value = 0
        if item.type is bool:
            given = [flag if value else flag.replace("--", "--no-", 1)]
        else:
            given = [flag, str(value)]
        try:
            expected = dataclasses.replace(base, **{item.name: value})
        except ValueError:                          # such as half of batch_seconds, below a micro-batch
            continue
        assert from_flags(parser(kind).parse_args(given), base) == expected != base


@pytest.mark.parametrize("kind", FLAGGED + RUNS, ids=lambda kind: kind.__name__)
def test_help_says_meaning_default_and_unit(kind):
    """Of every field at least one word, the default where there is one, and the unit of every quantity."""
    text = " ".join(parser(kind).format_help().split())
    for item in dataclasses.fields(kind):
        words = item.metadata["help"]
        assert flag_of(item.name) in text and words in text and re.search("[a-z]{2}", words)
        assert "default" not in words or item.default == "", f"{item.name}: the default is written by add_flags"
        if item.type is bool:
            assert f"{words} (default {'on' if item.default else 'off'})" in text
        elif item.default != "":
            assert f"{words} (default {item.default})" in text
        if item.type in (int, float):
            unit = next((unit for part, unit in UNITS.items() if re.search(rf"(^|_){part}$", item.name)), None)
            assert unit and re.search(unit, words), f"{item.name}: {words}"


@dataclasses.dataclass(frozen=True)
class Renamed:
    """A configuration whose flag --out had other names before."""
    out: str = setting("runs", "folder for results")
    precision: str = setting("auto", "auto, float32 or bfloat16")


@pytest.mark.parametrize("old", ["--run", "--run-folder"])
def test_an_old_flag_is_understood_and_names_the_new_one(old, capsys, monkeypatch):
    monkeypatch.setattr(log, "_said", set())
    flags = parser(Renamed)
    add_old_names(flags, "--run", "--run-folder")
    assert from_flags(flags.parse_args([old, "a"]), Renamed()) == Renamed(out="a")
    assert capsys.readouterr().err == f"{old} is now --out (the old name goes in the next version)\n"
    assert from_flags(flags.parse_args([]), Renamed()) == Renamed()
    assert from_flags(flags.parse_args(["--out", "b"]), Renamed()) == Renamed(out="b")
    assert capsys.readouterr().err == "" and "--run" not in flags.format_help()


@pytest.mark.parametrize("given", [["--updates", "many"], ["--updates", "1.5"], ["--peak-lr", "fast"], ["--update-s"]])
def test_flags_of_another_type_are_refused(given, capsys):
    with pytest.raises(SystemExit) as error:
        parser(PretrainConfig).parse_args(given)
    assert error.value.code == 2 and "error:" in capsys.readouterr().err


def test_flags_outside_their_range_are_refused():
    with pytest.raises(ValueError, match=r"mask_start_fraction must be in \(0, 1\], got 80.0"):
        from_flags(parser(PretrainConfig).parse_args(["--mask-start-fraction", "80"]), PretrainConfig())


@pytest.mark.parametrize("kind", [HubertConfig, *FLAGGED], ids=lambda kind: kind.__name__)
def test_json_rebuilds_the_configuration(kind):
    config = dataclasses.replace(kind(), **({"seed": 3} if kind in FLAGGED else {"layerdrop": 0.125}))
    again = kind(**json.loads(json.dumps(as_dict(config))))
    assert again == config and all(type(getattr(again, item.name)) is type(getattr(config, item.name))
                                   for item in dataclasses.fields(kind))


def test_plain_data_has_no_paths():

    @dataclasses.dataclass(frozen=True)
    class Run:
        folder: Path = Path("a") / "b"
        sizes: tuple[int, ...] = (1, 2)

    assert json.dumps(as_dict(Run())) == '{"folder": "a/b", "sizes": [1, 2]}'


