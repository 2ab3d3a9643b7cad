"""torchaudio's state dicts: names, configurations, equal states. fairseq's are in test_fairseq_checkpoint.py."""
import dataclasses

import pytest
import torch

from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.parameters import shapes
from framealign.exchange.torchaudio_weights import from_torchaudio, to_torchaudio, torchaudio_arguments
from framealign.recipe.presets import PRESETS

SMALL = HubertConfig(conv_dim=(8,) * 7, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
                     intermediate_size=20, num_conv_pos_embeddings=6, num_conv_pos_embedding_groups=2, layerdrop=0.0)
PRE_NORM = HubertConfig(conv_dim=(8,) * 7, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, conv_bias=True,
                        intermediate_size=20, num_conv_pos_embeddings=6, num_conv_pos_embedding_groups=2,
                        feat_extract_norm="layer", do_stable_layer_norm=True, layerdrop=0.0)
KNOWN = {"num_attention_heads": 3, "layerdrop": 0.0}


def random_state(config: HubertConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes(config).items()}


@pytest.mark.parametrize("name", ("hubert_base", "hubert_large", "hubert_xlarge"))
def test_torchaudio_models_round_trip(name):
    """Names and shapes of torchaudio's own models (without memory: on the meta device), with a CTC head."""
    models = pytest.importorskip("torchaudio").models
    with torch.device("meta"):
        theirs = getattr(models, name)(aux_num_out=5).state_dict()
    found = from_torchaudio(theirs)
    back = to_torchaudio(found.state, found.head)
    assert back.keys() == theirs.keys() and all(back[key] is theirs[key] for key in theirs)
    assert set(found.head) == {"lm_head.weight", "lm_head.bias"} and found.do_normalize == (name != "hubert_base")
    width, depth, heads = {"hubert_base": (768, 12, 12), "hubert_large": (1024, 24, 16),
                           "hubert_xlarge": (1280, 48, 16)}[name]
    config = found.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (width, depth, heads)
    assert config.do_stable_layer_norm == (name != "hubert_base") and config.intermediate_size == 4 * width
    if name == "hubert_base":
        assert config == PRESETS["base"].model


def test_torchaudio_pretraining_model_round_trip():
    models = pytest.importorskip("torchaudio").models
    model = models.hubert_pretrain_base(num_classes=7)
    theirs = model.state_dict()
    found = from_torchaudio(theirs)
    assert found.config == PRESETS["base"].model and "masked_spec_embed" in found.state
    assert {name: tuple(x.shape) for name, x in found.head.items()} == {
        "codewords": (7, 256), "final_proj.weight": (256, 768), "final_proj.bias": (256,)}
    back = to_torchaudio(found.state, found.head)
    assert back.keys() == theirs.keys() and all(torch.equal(back[key], theirs[key]) for key in theirs)
    plain = from_torchaudio(to_torchaudio(found.state))             # the encoder alone has no mask embedding
    assert found.state.keys() - plain.state.keys() == {"masked_spec_embed"} and not plain.head


@pytest.mark.parametrize("config", (SMALL, PRE_NORM), ids=("post-norm", "pre-norm"))
def test_states_equal_torchaudios(config, tmp_path):
    """The converted weights in transformers.HubertModel give what they give in torchaudio's own model."""
    models, transformers = pytest.importorskip("torchaudio").models, pytest.importorskip("transformers")
    from framealign.hubert import model_directory
    torch.manual_seed(0)
    model = models.wav2vec2_model(**torchaudio_arguments(config), aux_num_out=None).eval()
    for parameter in model.parameters():            # norms too: their initial values would hide a swap
        torch.nn.init.normal_(parameter, std=0.3)
    known = {**KNOWN, "hidden_dropout": 0.1, "attention_dropout": 0.1, "feat_proj_dropout": 0.1}
    found = from_torchaudio(model.state_dict(), **known)
    assert found.config == config
    model_directory.write(tmp_path, found.config, found.state, do_normalize=found.do_normalize)
    theirs = transformers.HubertModel.from_pretrained(tmp_path).eval()
    waveform = torch.randn(2, 4000)
    with torch.inference_mode():
        expected = model(waveform)[0]
        assert torch.allclose(theirs(waveform).last_hidden_state, expected, rtol=0, atol=1e-5)
    back = models.wav2vec2_model(**torchaudio_arguments(config), aux_num_out=None)
    back.load_state_dict(to_torchaudio(found.state))


def test_older_torchaudio_spelling():
    state = random_state(SMALL)
    theirs = {name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"): x for name, x in to_torchaudio(state).items()}
    found = from_torchaudio(theirs, **KNOWN)
    assert found.state.keys() == state.keys() - {"masked_spec_embed"}


def test_a_batch_norm_of_positions_is_nothing_that_torchaudio_has():
    with pytest.raises(ValueError, match="torchaudio has no HuBERT with a batch norm"):
        to_torchaudio(random_state(dataclasses.replace(SMALL, conv_pos_batch_norm=True)))


def test_what_shapes_do_not_tell_must_be_given():
    theirs = to_torchaudio(random_state(SMALL))
    with pytest.raises(ValueError, match="num_attention_heads is not known for width 24"):
        from_torchaudio(theirs)
    with pytest.raises(ValueError, match="num_attention_heads must divide hidden_size 24, got 5"):
        from_torchaudio(theirs, num_attention_heads=5)
    with pytest.raises(ValueError, match="1 parameters that no HuBERT has \\(decoder.weight\\)"):
        from_torchaudio({**theirs, "decoder.weight": torch.ones(1)}, **KNOWN)
    theirs.pop("encoder.transformer.layers.1.attention.k_proj.bias")
    with pytest.raises(ValueError, match="1 missing \\(encoder.layers.1.attention.k_proj.bias\\)"):
        from_torchaudio(theirs, **KNOWN)
    with pytest.raises(ValueError, match="not HuBERT"):
        from_torchaudio({})
