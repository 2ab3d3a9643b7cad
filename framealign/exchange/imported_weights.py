"""Weights of another program as a HuBERT of ours: renamed by a table, checked, the configuration inferred from shapes.

What `fairseq_checkpoint.py` and `torchaudio_weights.py` share.
"""
import dataclasses
import re
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from framealign.runtime import log
from framealign.hubert.hubert_config import BASE, LARGE, HubertConfig
from framealign.hubert.parameters import BATCH_NORM, check, current_names, shapes

HEAD = ("final_proj.", "codewords", "lm_head.")
_HEADS_OF_WIDTH = {768: 12, 1024: 16, 1280: 16}     # attention heads of the published models; a state dict does not say


class Imported(NamedTuple):
    """A HuBERT from elsewhere."""
    config: HubertConfig
    state: dict[str, Tensor]                        # the encoder, in our names
    head: dict[str, Tensor]                         # final_proj.*, codewords (pretraining), lm_head.* (CTC)
    do_normalize: bool                              # it was trained on waveforms of zero mean, unit variance


def renamed(state: dict[str, Tensor], table: tuple[tuple[str, str], ...], where: str | Path) -> dict[str, Tensor]:
    """`state` in our names, by a table of beginnings of names (theirs, ours; {i} is a layer's number).

    Raises ValueError, with `where`, naming those that no row of the table fits.
    """
    rows = []
    for theirs, ours in table:
        pattern = re.escape(theirs).replace(r"\{i\}", r"(\d+)")
        rows.append((re.compile(pattern), ours.replace("{i}", r"\1")))
    result, unknown = {}, []
    for name, tensor in state.items():
        row = next((row for row in rows if row[0].match(name)), None)
        if row is None:
            unknown.append(name[:100])
        else:
            pattern, ours = row
            result[pattern.sub(ours, name, count=1)] = tensor
    if unknown:
        raise ValueError(f"{where}: {len(unknown)} parameters that no HuBERT has ({', '.join(unknown[:3])})")
    if len(result) != len(state):
        raise ValueError(f"{where}: two of its parameters are the same one")
    return result


def as_hubert(state: dict[str, Tensor], known: dict[str, object], do_normalize: bool | None,
              where: str | Path) -> Imported:
    """A state dict in our names, heads included, as a HuBERT whose every shape was checked.

    known: fields of HubertConfig that shapes do not tell. do_normalize: None where it is not known. Raises ValueError,
    with `where`, for parameters that are missing, too many or of another shape.
    """
    head = {name: tensor for name, tensor in state.items() if name.startswith(HEAD)}
    encoder = {name: tensor for name, tensor in state.items() if name not in head}
    encoder = current_names(encoder, where)
    config = _infer(encoder, known, where)
    check(encoder, shapes(config), where)
    if do_normalize is None:
        do_normalize = config.feat_extract_norm == "layer"
        log.say_once(f"{where}: does not say whether waveforms are normalised: {'yes' if do_normalize else 'no'}, as "
                     f"all published models with {config.feat_extract_norm} norm in the conv encoder were trained")
    return Imported(config, encoder, head, do_normalize)


def _infer(state: dict[str, Tensor], known: dict[str, object], where: str | Path) -> HubertConfig:
    """The configuration that the shapes in `state` and the fields in `known` give; the rest as published."""
    conv_layers = "feature_extractor.conv_layers"
    convolutions = []                               # (channels, kernel) of each layer
    weight = state.get(f"{conv_layers}.0.conv.weight")
    while weight is not None and weight.ndim == 3:
        convolutions.append((weight.shape[0], weight.shape[2]))
        weight = state.get(f"{conv_layers}.{len(convolutions)}.conv.weight")
    projection = state.get("feature_projection.projection.weight")
    batch_norm = f"{BATCH_NORM}.weight" in state
    weight = "weight" if batch_norm else "parametrizations.weight.original1"
    position = state.get(f"encoder.pos_conv_embed.conv.{weight}")
    inner = state.get("encoder.layers.0.feed_forward.intermediate_dense.weight")
    if not convolutions or projection is None or projection.ndim != 2 or inner is None or inner.ndim != 2 \
            or position is None or position.ndim != 3 or not position.shape[1]:
        raise ValueError(f"{where}: not HuBERT: lacks convolutions, projection, positional convolution or blocks")

    width = len(projection)
    norm = "layer" if f"{conv_layers}.1.layer_norm.weight" in state else "group"
    is_large = known.get("do_stable_layer_norm", norm == "layer")
    base = LARGE if is_large else BASE
    blocks = {name.split(".")[2] for name in state if name.startswith("encoder.layers.")}
    from_shapes = {
        "conv_dim": tuple(channels for channels, _ in convolutions),
        "conv_kernel": tuple(kernel for _, kernel in convolutions),
        "conv_bias": f"{conv_layers}.0.conv.bias" in state,
        "feat_extract_norm": norm,
        "feat_proj_layer_norm": "feature_projection.layer_norm.weight" in state,
        "hidden_size": width,
        "num_hidden_layers": len(blocks),
        "intermediate_size": len(inner),
        "num_conv_pos_embeddings": position.shape[2],
        "num_conv_pos_embedding_groups": width // position.shape[1],
        "conv_pos_batch_norm": batch_norm}
    if "num_attention_heads" not in known:
        if width not in _HEADS_OF_WIDTH:
            raise ValueError(f"{where}: num_attention_heads is not known for width {width}: it must be given "
                             "(a config.json beside the file says it)")
        from_shapes["num_attention_heads"] = _HEADS_OF_WIDTH[width]
    if "conv_stride" not in known and from_shapes["conv_kernel"] != base.conv_kernel:
        raise ValueError(f"{where}: conv_stride is not known for kernels {from_shapes['conv_kernel']}: "
                         "it must be given (a config.json beside the file says it)")
    try:
        return dataclasses.replace(base, **(from_shapes | known))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None
