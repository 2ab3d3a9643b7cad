"""HuBERT's weights from and to torchaudio's state dicts: the same tensors under other names."""
from pathlib import Path

from torch import Tensor

from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.parameters import BATCH_NORM, MASK_EMBEDDING
from framealign.exchange.imported_weights import Imported, as_hubert, renamed

# Beginnings of names: torchaudio's, ours. The first row that fits counts.
NAMES = (
    ("feature_extractor.", "feature_extractor."),
    ("encoder.feature_projection.", "feature_projection."),
    ("encoder.transformer.", "encoder."),
    ("mask_generator.mask_embedding", MASK_EMBEDDING),
    ("logit_generator.final_proj.", "final_proj."),
    ("logit_generator.label_embeddings", "codewords"),
    ("aux.", "lm_head."))


def from_torchaudio(state: dict[str, Tensor], where: str | Path = "torchaudio state dict", **known: object) -> Imported:
    """From a state dict of `torchaudio.models.hubert_base`, `..._large`, `..._xlarge` or a `hubert_pretrain_...`.

    Shapes give the configuration; `known` sets fields of HubertConfig that shapes do not tell (dropouts, strides and
    number of heads of an unpublished size). Raises ValueError naming what is missing or unknown.
    """
    state = {name.removeprefix("wav2vec2."): x for name, x in state.items()}
    return as_hubert(renamed(state, NAMES, where), known, None, where)


def to_torchaudio(state: dict[str, Tensor], head: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The same tensors in torchaudio's names: HuBERTPretrainModel's where `head` has codewords, else Wav2Vec2Model's.

    Wav2Vec2Model has no mask embedding, which is then left out; so is a head that is not `lm_head`. Raises ValueError
    for a model with `conv_pos_batch_norm`, which torchaudio cannot build.
    """
    head = head or {}
    if f"{BATCH_NORM}.weight" in state:
        raise ValueError("torchaudio has no HuBERT with a batch norm before the positional convolution "
                         "(conv_pos_batch_norm); export it in the huggingface format")
    is_pretraining = "codewords" in head
    result = {}
    for name, tensor in {**state, **head}.items():
        row = next((row for row in NAMES if name.startswith(row[1])), None)
        if row is None:
            continue
        theirs, ours = row
        is_of_pretraining = theirs.startswith(("mask_generator.", "logit_generator."))
        if is_of_pretraining and not is_pretraining:
            continue
        prefix = "wav2vec2." if is_pretraining and not is_of_pretraining else ""        # the model within the model
        result[prefix + theirs + name.removeprefix(ours)] = tensor
    return result


def torchaudio_arguments(config: HubertConfig) -> dict:
    """Arguments of `torchaudio.models.wav2vec2_model` (but `aux_num_out`) that build the model of `config`."""
    conv_layers = [list(layer) for layer in zip(config.conv_dim, config.conv_kernel, config.conv_stride)]
    return {
        "extractor_mode": f"{config.feat_extract_norm}_norm",
        "extractor_conv_layer_config": conv_layers,
        "extractor_conv_bias": config.conv_bias,
        "encoder_embed_dim": config.hidden_size,
        "encoder_projection_dropout": config.feat_proj_dropout,
        "encoder_pos_conv_kernel": config.num_conv_pos_embeddings,
        "encoder_pos_conv_groups": config.num_conv_pos_embedding_groups,
        "encoder_num_layers": config.num_hidden_layers,
        "encoder_num_heads": config.num_attention_heads,
        "encoder_attention_dropout": config.attention_dropout,
        "encoder_ff_interm_features": config.intermediate_size,
        "encoder_ff_interm_dropout": config.activation_dropout,
        "encoder_dropout": config.hidden_dropout,
        "encoder_layer_norm_first": config.do_stable_layer_norm,
        "encoder_layer_drop": config.layerdrop}
