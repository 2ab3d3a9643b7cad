"""HuBERT's weights from fairseq's checkpoints (.pt), pretrained or fine-tuned with CTC.

A checkpoint has the tensors of HuBERT under other names, which are the table below. It also pickles objects of fairseq,
omegaconf and argparse: `torch_file.py` reads it without those packages and without executing anything; here plain
settings are picked out of it, and every other object is dropped.
"""
import re
from pathlib import Path

from framealign.sound.frames import SAMPLE_RATE
from framealign.hubert.parameters import BATCH_NORM, MASK_EMBEDDING
from framealign.exchange import torch_file
from framealign.exchange.imported_weights import Imported, as_hubert, renamed
from framealign.exchange.inert_pickle import Inert, mapping

# Beginnings of names: fairseq's, ours ({i}: a layer's number). The first row that fits counts.
NAMES = (
    ("feature_extractor.conv_layers.{i}.0.", "feature_extractor.conv_layers.{i}.conv."),
    ("feature_extractor.conv_layers.{i}.2.1.", "feature_extractor.conv_layers.{i}.layer_norm."),    # layer norm
    ("feature_extractor.conv_layers.{i}.2.", "feature_extractor.conv_layers.{i}.layer_norm."),      # group norm
    ("layer_norm.", "feature_projection.layer_norm."),
    ("post_extract_proj.", "feature_projection.projection."),
    ("mask_emb", MASK_EMBEDDING),
    ("encoder.pos_conv.0.", "encoder.pos_conv_embed.conv."),    # with a batch norm: `BATCH_NORM_NAMES`
    ("encoder.layer_norm.", "encoder.layer_norm."),
    ("encoder.layers.{i}.self_attn.", "encoder.layers.{i}.attention."),
    ("encoder.layers.{i}.self_attn_layer_norm.", "encoder.layers.{i}.layer_norm."),
    ("encoder.layers.{i}.fc1.", "encoder.layers.{i}.feed_forward.intermediate_dense."),
    ("encoder.layers.{i}.fc2.", "encoder.layers.{i}.feed_forward.output_dense."),
    ("encoder.layers.{i}.final_layer_norm.", "encoder.layers.{i}.final_layer_norm."),
    ("final_proj.", "final_proj."),
    ("label_embs_concat", "codewords"),
    ("proj.", "lm_head."))
BATCH_NORM_NAMES = (("encoder.pos_conv.0.", f"{BATCH_NORM}."), ("encoder.pos_conv.1.", "encoder.pos_conv_embed.conv."))
_CTC_PREFIXES = ("w2v_encoder.w2v_model.", "w2v_encoder.")          # of the encoder's and the head's names

# fairseq's setting -> ours, and the types that its value may have.
NUMBER = (int, float)
SETTINGS = {
    "encoder_attention_heads": ("num_attention_heads", int), "layer_norm_first": ("do_stable_layer_norm", bool),
    "dropout_input": ("feat_proj_dropout", NUMBER), "dropout": ("hidden_dropout", NUMBER),
    "attention_dropout": ("attention_dropout", NUMBER), "activation_dropout": ("activation_dropout", NUMBER),
    "encoder_layerdrop": ("layerdrop", NUMBER), "activation_fn": ("hidden_act", str)}


def read(path: str | Path) -> Imported:
    """From a fairseq HuBERT checkpoint (.pt), pretrained or CTC fine-tuned, in either of torch's file formats.

    Tensors keep their data type. Raises ValueError naming the file where it is damaged, is no fairseq HuBERT, or names
    what no checkpoint needs.
    """
    try:
        content = torch_file.read(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not readable as a fairseq checkpoint: {str(error)[:300]}") from None
    return of_content(content, path)


def of_content(content: torch_file.TorchFile, path: str | Path) -> Imported:
    """The HuBERT of an opened checkpoint; as `read`."""
    try:
        checkpoint = mapping(content.root)
        model = mapping(checkpoint.get("model"))
        if not model:
            raise ValueError("no `model` entry: not a fairseq checkpoint")
        state = content.tensors(model)
        known, do_normalize = _settings(checkpoint)
    except ValueError as error:
        raise ValueError(f"{path}: not readable as a fairseq checkpoint: {str(error)[:300]}") from None

    plain = {}
    for name, tensor in state.items():
        prefix = next((prefix for prefix in _CTC_PREFIXES if name.startswith(prefix)), "")
        plain[name.removeprefix(prefix)] = tensor
    names = (*BATCH_NORM_NAMES, *NAMES) if "encoder.pos_conv.0.running_mean" in plain else NAMES
    return as_hubert(renamed(plain, names, path), known, do_normalize, path)


def _settings(checkpoint: dict) -> tuple[dict[str, object], bool | None]:
    """Fields of HubertConfig from a checkpoint's `cfg` (or, older, `args`), and whether waveforms are normalised."""
    configuration = _fields(checkpoint.get("cfg")) or _fields(checkpoint.get("args"))
    model = _fields(configuration.get("model")) or configuration
    inner = _fields(model.get("w2v_args"))          # a CTC model keeps its encoder's settings there
    model = {**model, **(_fields(inner.get("model")) or inner)}

    layer_type = _value(model.get("layer_type"))
    if layer_type not in (None, "transformer"):
        raise ValueError(f"its layers are {str(layer_type)[:40]}, not transformer")
    known = {}
    for theirs, (ours, kinds) in SETTINGS.items():
        value = _value(model.get(theirs))
        if isinstance(value, kinds):
            known[ours] = value
    conv_layers = _value(model.get("conv_feature_layers"))
    if isinstance(conv_layers, str):
        known["conv_stride"] = _strides(conv_layers)

    tasks = (_fields(configuration.get("task")), _fields(inner.get("task")), model)
    for settings in tasks:
        rate = _value(settings.get("sample_rate"))
        if isinstance(rate, NUMBER) and rate != SAMPLE_RATE:
            raise ValueError(f"it was trained on sound at {rate:g} Hz, which is not made here ({SAMPLE_RATE} Hz is)")
    for settings in tasks:
        do_normalize = _value(settings.get("normalize"))
        if isinstance(do_normalize, bool):
            return known, do_normalize
    return known, None


def _strides(layers: str) -> tuple[int, ...]:
    """Strides out of fairseq's "[(512, 10, 5)] + [(512, 3, 2)] * 4 + ...", which fairseq itself gives to `eval`."""
    strides: list[int] = []
    for term in re.sub(r"\s", "", layers[:1000]).split("+"):
        match = re.fullmatch(r"\[((?:\(\d{1,5},\d{1,5},\d{1,5}\),?)+)\](?:\*(\d{1,2}))?", term)
        if not match:
            raise ValueError(f"conv_feature_layers is not understood: {layers[:80]!r}")
        of_term = [int(stride) for stride in re.findall(r",(\d+)\)", match[1])]
        strides += of_term * int(match[2] or 1)
    return tuple(strides)


def _fields(value: object) -> dict:
    """The fields of a pickled dictionary, argparse.Namespace or omegaconf DictConfig; nothing of anything else."""
    state = value.state if isinstance(value, Inert) else None
    content = mapping(state).get("_content")        # where omegaconf keeps them
    return mapping(value) or mapping(content) or mapping(state)


def _value(value: object) -> object:
    """A setting's plain value, out of an omegaconf node or an enumeration's member where it is one."""
    if not isinstance(value, Inert):
        return value
    node = mapping(value.state)
    if "_val" in node:
        return node["_val"]
    return value.args[0] if len(value.args) == 1 else None
