"""The table of the encoder's parameters: equal to transformers' own, and compared strictly."""
import pytest
import torch

from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.model_directory import config_to_json
from framealign.hubert.parameters import check, shapes
from framealign.recipe.presets import PRESETS


def test_published_sizes_have_transformers_parameters():
    """Names and shapes of every preset and of `xlarge`, without memory: on the meta device."""
    transformers = pytest.importorskip("transformers")
    xlarge = HubertConfig(hidden_size=1280, num_hidden_layers=48, num_attention_heads=16, intermediate_size=5120,
                          feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True)
    for config in (*(preset.model for preset in PRESETS.values()), xlarge):
        with torch.device("meta"):
            model = transformers.HubertModel(transformers.HubertConfig(**config_to_json(config)))
        assert {name: tuple(x.shape) for name, x in model.state_dict().items()} == shapes(config)


def test_check_lists_the_first_few():
    with pytest.raises(ValueError, match=r"here: .*9 missing \(a0, a1, a2, ...\); 1 unexpected \(b\)"):
        check({"b": torch.ones(1)}, {f"a{i}": (1,) for i in range(9)}, "here")
