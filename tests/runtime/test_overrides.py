"""`--set`: settings of a preset replaced from the command line, all at once, each mistake in one line."""
import dataclasses

import pytest

from framealign.recipe.presets import PRESETS, parse_settings, with_overrides

BASE = PRESETS["base"]


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
    with pytest.raises(ValueError, match="--set updates: must read NAME=VALUE"):
        parse_settings(["updates"])
