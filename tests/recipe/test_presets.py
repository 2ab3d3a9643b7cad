"""Presets of the sizes they promise; `--set` replaces their settings, all at once, each mistake in one line."""
import dataclasses
import math

import pytest

from framealign.hubert.parameters import shapes
from framealign.recipe.presets import PRESETS, parse_settings, preset, with_overrides

BASE = PRESETS["base"]


def test_presets_have_the_sizes_they_promise():
    """Parameters of the encoder: base and large as published, small about 10 million, tiny below one million."""
    sizes = {name: sum(math.prod(shape) for shape in shapes(chosen.model).values()) for name, chosen in PRESETS.items()}
    assert sizes["base"] == 94_371_712 and sizes["large"] == 315_438_720
    assert 8e6 < sizes["small"] < 12e6 and sizes["tiny"] < 1e6
    for name, chosen in PRESETS.items():
        assert preset(name) is chosen
        for layer in (chosen.tapt_layer, chosen.align_layer, chosen.scratch_layer):
            assert 0 < layer <= chosen.model.num_hidden_layers
    with pytest.raises(ValueError, match="preset must be one of base, large, small, compact, tiny, got huge"):
        preset("huge")


def test_the_base_preset_is_the_reference():
    """The hyper-parameters of the alignment paper's code, as the design states them."""
    chosen = preset("base")
    pretrain, finetune = chosen.pretrain, chosen.finetune
    assert (pretrain.adam_beta1, pretrain.adam_beta2, pretrain.adam_eps) == (0.9, 0.98, 1e-6)
    assert (pretrain.weight_decay, pretrain.peak_lr, pretrain.clip_norm) == (0.01, 5e-4, 10)
    assert (pretrain.warmup_updates, pretrain.updates) == (4000, 20_000)
    assert (pretrain.batch_seconds, pretrain.micro_batch_seconds) == (350, 87.5)
    assert (pretrain.min_seconds, pretrain.max_seconds) == (1, 15.625)
    assert (pretrain.mask_start_fraction, pretrain.mask_span_frames, pretrain.mask_min_spans) == (0.08, 10, 2)
    assert (pretrain.temperature, pretrain.projection_size, pretrain.freeze_conv) == (0.1, 256, True)
    assert pretrain.unmasked_weight == 0
    assert (finetune.lr, finetune.weight_decay, finetune.batch_size, finetune.epochs) == (1e-4, 1e-5, 64, 40)
    assert (finetune.max_seconds, finetune.mask_start_fraction, finetune.dropout) == (6, 0.08, 0.1)
    assert finetune.balanced and finetune.freeze_conv and finetune.pooling == "attention"
    assert (chosen.tapt_layer, chosen.tapt_clusters, chosen.align_layer, chosen.align_clusters) == (9, 500, 9, 50)


def test_settings_are_replaced_and_nothing_else():
    chosen = with_overrides(BASE, {"pretrain.updates": "9000", "finetune.pooling": "mean", "finetune.balanced": "False",
                                   "kmeans.tolerance": "1e-3", "align_clusters": "30"})
    assert (chosen.pretrain.updates, chosen.finetune.pooling, chosen.finetune.balanced) == (9000, "mean", False)
    assert (chosen.kmeans.tolerance, chosen.align_clusters) == (0.001, 30)
    back = dataclasses.replace(chosen, pretrain=BASE.pretrain, finetune=BASE.finetune, kmeans=BASE.kmeans,
                               align_clusters=BASE.align_clusters)
    assert back == BASE and with_overrides(BASE, {}) == BASE


@pytest.mark.parametrize("order", [1, -1])
def test_settings_that_only_go_together_may_come_in_any_order(order):
    """10 updates alone would lie below the preset's 4,000 of warm-up."""
    given = dict([("pretrain.updates", "10"), ("pretrain.warmup_updates", "2")][::order])
    chosen = with_overrides(BASE, given).pretrain
    assert (chosen.updates, chosen.warmup_updates) == (10, 2)


@pytest.mark.parametrize("name, text, message", [
    ("pretrain.update", "5", r"--set pretrain\.update: no such setting"),
    ("nothing.updates", "5", r"--set nothing\.updates: no such setting"),
    ("pretrain.updates.more", "5", "no such setting"),
    ("pretrain", "5", "no such setting"),
    ("", "5", "no such setting"),
    ("model.conv_dim", "5", "no such setting"),
    ("pretrain.updates", "many", r"--set pretrain\.updates=many: must be of type int"),
    ("pretrain.updates", "1e3", "must be of type int"),
    ("finetune.balanced", "perhaps", "must be of type bool"),
    ("pretrain.updates", "10", "--set pretrain.updates: warmup_updates must be in"),
    ("finetune.pooling", "max", "--set finetune.pooling: pooling must be one of attention, mean"),
    ("pretrain.seed", "5", "has a flag of its own, --seed"),
    ("finetune.selection", "last", "has a flag of its own, --selection"),
])
def test_mistakes_are_named(name, text, message):
    with pytest.raises(ValueError, match=message):
        with_overrides(BASE, {name: text})


def test_words_become_settings():
    assert parse_settings(["pretrain.updates=500", "a=b=c"]) == {"pretrain.updates": "500", "a": "b=c"}
    assert parse_settings([]) == {}
    assert parse_settings(["a=1", "b=2", "a=3"]) == {"a": "3", "b": "2"}        # as of any flag, the last counts
    with pytest.raises(ValueError, match="--set updates: must read NAME=VALUE"):
        parse_settings(["updates"])
