"""HuBERT's weights from fairseq's .pt files, and from and to torchaudio's state dicts.

Both hold the same tensors under other names, which are the two tables below. A fairseq checkpoint also pickles objects
of fairseq, omegaconf and argparse: it is read as data (`unpickle.py`), without those packages and without executing
anything; the tensors are rebuilt from the file's bytes, plain settings are picked out, every other object is dropped.
"""
import dataclasses
import math
import re
import zipfile
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from framealign.runtime.settings import PRESETS, HubertConfig
from framealign.hubert.parameters import MASK_EMBEDDING, check, current_names, shapes
from framealign.exchange.inert_pickle import Cursor, Inert, Machine, mapping

# Beginnings of names: theirs, ours ({i}: a layer's number). The first row that fits counts.
TORCHAUDIO = (
    ("feature_extractor.", "feature_extractor."),
    ("encoder.feature_projection.", "feature_projection."),
    ("encoder.transformer.", "encoder."),
    ("mask_generator.mask_embedding", MASK_EMBEDDING),
    ("logit_generator.final_proj.", "final_proj."),
    ("logit_generator.label_embeddings", "codewords"),
    ("aux.", "lm_head."))
FAIRSEQ = (
    ("feature_extractor.conv_layers.{i}.0.", "feature_extractor.conv_layers.{i}.conv."),
    ("feature_extractor.conv_layers.{i}.2.1.", "feature_extractor.conv_layers.{i}.layer_norm."),    # layer norm
    ("feature_extractor.conv_layers.{i}.2.", "feature_extractor.conv_layers.{i}.layer_norm."),      # group norm
    ("layer_norm.", "feature_projection.layer_norm."),
    ("post_extract_proj.", "feature_projection.projection."),
    ("mask_emb", MASK_EMBEDDING),
    ("encoder.pos_conv.0.", "encoder.pos_conv_embed.conv."),
    ("encoder.layer_norm.", "encoder.layer_norm."),
    ("encoder.layers.{i}.self_attn.", "encoder.layers.{i}.attention."),
    ("encoder.layers.{i}.self_attn_layer_norm.", "encoder.layers.{i}.layer_norm."),
    ("encoder.layers.{i}.fc1.", "encoder.layers.{i}.feed_forward.intermediate_dense."),
    ("encoder.layers.{i}.fc2.", "encoder.layers.{i}.feed_forward.output_dense."),
    ("encoder.layers.{i}.final_layer_norm.", "encoder.layers.{i}.final_layer_norm."),
    ("final_proj.", "final_proj."),
    ("label_embs_concat", "codewords"),
    ("proj.", "lm_head."))
FAIRSEQ_SETTINGS = {                                # fairseq's setting -> ours
    "encoder_attention_heads": "num_attention_heads", "layer_norm_first": "do_stable_layer_norm",
    "dropout_input": "feat_proj_dropout", "dropout": "hidden_dropout", "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout", "encoder_layerdrop": "layerdrop", "activation_fn": "hidden_act"}
_HEAD = ("final_proj.", "codewords", "lm_head.")
_HEADS_OF_WIDTH = {768: 12, 1024: 16, 1280: 16}     # the published models; a state dict does not say
_MAX_STEPS = 1_000_000                              # opcodes of a checkpoint's pickle; usual are 10^4
_STORAGES = {"Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
             "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
             "Bool": torch.bool}
_TORCH_MAGIC = 0x1950a86a20f9469cfc6c               # first pickle of torch.save's format before 1.6
# Whatever a checkpoint names stays inert; one that names these is no checkpoint, and is refused by name.
_TELLTALE = frozenset("os posix nt subprocess sys shutil socket ctypes importlib runpy pty code pickle".split())
_TELLTALE_BUILTINS = frozenset("eval exec compile __import__ open input breakpoint globals setattr".split())


class Imported(NamedTuple):
    """A HuBERT from elsewhere."""
    config: HubertConfig
    state: dict[str, Tensor]                        # the encoder, in our names
    head: dict[str, Tensor]                         # final_proj.*, codewords (pretraining), lm_head.* (CTC)
    do_normalize: bool                              # it was trained on waveforms of zero mean, unit variance


def from_torchaudio(state: dict[str, Tensor], **known: object) -> Imported:
    """From a state dict of `torchaudio.models.hubert_base`, `..._large`, `..._xlarge` or a `hubert_pretrain_...`.

    Shapes give the configuration; `known` sets fields of HubertConfig that shapes do not tell (dropouts, strides and
    number of heads of an unpublished size). Raises ValueError naming what is missing or unknown.
    """
    where = "torchaudio state dict"
    state = {name.removeprefix("wav2vec2."): x for name, x in state.items()}
    return _imported(_renamed(state, TORCHAUDIO, where), known, None, where)


def to_torchaudio(state: dict[str, Tensor], head: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The same tensors in torchaudio's names: HuBERTPretrainModel's where `head` has codewords, else Wav2Vec2Model's.

    Wav2Vec2Model has no mask embedding, which is then left out; so is a head that is not `lm_head`.
    """
    head = head or {}
    is_pretraining = "codewords" in head
    theirs = {}
    for name, tensor in {**state, **head}.items():
        row = next((row for row in TORCHAUDIO if name.startswith(row[1])), None)
        if row is None or not is_pretraining and row[0].startswith(("mask_generator.", "logit_generator.")):
            continue
        is_inner = is_pretraining and not row[0].startswith(("mask_generator.", "logit_generator."))
        theirs[("wav2vec2." if is_inner else "") + row[0] + name.removeprefix(row[1])] = tensor
    return theirs


def torchaudio_arguments(config: HubertConfig) -> dict:
    """Arguments of `torchaudio.models.wav2vec2_model` (but `aux_num_out`) that build the model of `config`."""
    return {
        "extractor_mode": f"{config.feat_extract_norm}_norm",
        "extractor_conv_layer_config": [list(x) for x in zip(config.conv_dim, config.conv_kernel, config.conv_stride)],
        "extractor_conv_bias": config.conv_bias, "encoder_embed_dim": config.hidden_size,
        "encoder_projection_dropout": config.feat_proj_dropout,
        "encoder_pos_conv_kernel": config.num_conv_pos_embeddings,
        "encoder_pos_conv_groups": config.num_conv_pos_embedding_groups,
        "encoder_num_layers": config.num_hidden_layers, "encoder_num_heads": config.num_attention_heads,
        "encoder_attention_dropout": config.attention_dropout, "encoder_ff_interm_features": config.intermediate_size,
        "encoder_ff_interm_dropout": config.activation_dropout, "encoder_dropout": config.hidden_dropout,
        "encoder_layer_norm_first": config.do_stable_layer_norm, "encoder_layer_drop": config.layerdrop}


def read_fairseq(path: str | Path) -> Imported:
    """From a fairseq HuBERT checkpoint (.pt), pretrained or CTC fine-tuned, in either of torch's file formats.

    Tensors keep their data type. Raises ValueError naming the file where it is damaged, is no fairseq HuBERT, or names
    what no checkpoint needs.
    """
    try:
        with open(path, "rb") as file:
            data = mmap(file.fileno(), 0, access=ACCESS_COPY)
        root, records = (_read_zip if data[:4] == b"PK\3\4" else _read_legacy)(data, path)
        checkpoint = mapping(root)
        if not mapping(checkpoint.get("model")):
            raise ValueError("no `model` entry: not a fairseq checkpoint")
        state = _tensors(mapping(checkpoint["model"]), records, data)
        known, do_normalize = _settings(checkpoint)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not readable as a fairseq checkpoint: {str(error)[:300]}") from None
    prefixes = ("w2v_encoder.w2v_model.", "w2v_encoder.")           # of a CTC model
    prefix = {name: next((x for x in prefixes if name.startswith(x)), "") for name in state}
    state = {name.removeprefix(prefix[name]): x for name, x in state.items()}
    return _imported(_renamed(state, FAIRSEQ, path), known, do_normalize, path)


def _renamed(state: dict[str, Tensor], table: tuple[tuple[str, str], ...], where: object) -> dict[str, Tensor]:
    """`state` in our names. Raises ValueError naming those that no row of the table fits."""
    rows = [(re.compile(re.escape(theirs).replace(r"\{i\}", r"(\d+)")), ours.replace("{i}", r"\1"))
            for theirs, ours in table]
    renamed, unknown = {}, []
    for name, tensor in state.items():
        row = next((row for row in rows if row[0].match(name)), None)
        if row is None:
            unknown.append(name[:100])
        else:
            renamed[row[0].sub(row[1], name, count=1)] = tensor
    if unknown:
        raise ValueError(f"{where}: {len(unknown)} parameters that no HuBERT has ({', '.join(unknown[:3])})")
    if len(renamed) != len(state):
        raise ValueError(f"{where}: two of its parameters are the same one")
    return renamed


def _imported(state: dict[str, Tensor], known: dict, do_normalize: bool | None, where: object) -> Imported:
    head = {name: x for name, x in state.items() if name.startswith(_HEAD)}
    state = current_names({name: x for name, x in state.items() if name not in head}, where)
    config = _infer(state, known, where)
    check(state, shapes(config), where)
    if do_normalize is None:
        do_normalize = config.feat_extract_norm == "layer"          # so it is in all published models
    return Imported(config, state, head, do_normalize)


def _infer(state: dict[str, Tensor], known: dict, where: object) -> HubertConfig:
    """The configuration that the shapes in `state` and the fields in `known` give; the rest as published."""
    layers = "feature_extractor.conv_layers"
    convolutions = []
    while (weight := state.get(f"{layers}.{len(convolutions)}.conv.weight")) is not None and weight.ndim == 3:
        convolutions.append((weight.shape[0], weight.shape[2]))
    projection = state.get("feature_projection.projection.weight")
    position = state.get("encoder.pos_conv_embed.conv.parametrizations.weight.original1")
    inner = state.get("encoder.layers.0.feed_forward.intermediate_dense.weight")
    if not convolutions or projection is None or projection.ndim != 2 or inner is None or inner.ndim != 2 \
            or position is None or position.ndim != 3 or not position.shape[1]:
        raise ValueError(f"{where}: not HuBERT: lacks convolutions, projection, positional convolution or blocks")
    width, norm = len(projection), "layer" if f"{layers}.1.layer_norm.weight" in state else "group"
    base = PRESETS["large" if known.get("do_stable_layer_norm", norm == "layer") else "base"].model
    shaped = {
        "conv_dim": tuple(x for x, _ in convolutions), "conv_kernel": tuple(x for _, x in convolutions),
        "conv_bias": f"{layers}.0.conv.bias" in state, "feat_extract_norm": norm, "hidden_size": width,
        "feat_proj_layer_norm": "feature_projection.layer_norm.weight" in state,
        "num_hidden_layers": len({name.split(".")[2] for name in state if name.startswith("encoder.layers.")}),
        "intermediate_size": len(inner), "num_conv_pos_embeddings": position.shape[2],
        "num_conv_pos_embedding_groups": width // position.shape[1]}
    if "num_attention_heads" not in known:
        if width not in _HEADS_OF_WIDTH:
            raise ValueError(f"{where}: num_attention_heads is not known for width {width}: it must be given")
        shaped["num_attention_heads"] = _HEADS_OF_WIDTH[width]
    if "conv_stride" not in known and shaped["conv_kernel"] != base.conv_kernel:
        raise ValueError(f"{where}: conv_stride is not known for kernels {shaped['conv_kernel']}: it must be given")
    try:
        return dataclasses.replace(base, **(shaped | known))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None


def _settings(checkpoint: dict) -> tuple[dict, bool | None]:
    """Fields of HubertConfig from a checkpoint's `cfg` (or, older, `args`), and whether waveforms are normalised."""
    configuration = _fields(checkpoint.get("cfg")) or _fields(checkpoint.get("args"))
    model = _fields(configuration.get("model")) or configuration
    inner = _fields(model.get("w2v_args"))          # a CTC model keeps its encoder's settings there
    model = {**model, **(_fields(inner.get("model")) or inner)}
    known = {}
    for theirs, ours in FAIRSEQ_SETTINGS.items():
        value = _value(model.get(theirs))
        kinds = {"num_attention_heads": int, "do_stable_layer_norm": bool, "hidden_act": str}.get(ours, (int, float))
        if isinstance(value, kinds):
            known[ours] = value
    if (layer_type := _value(model.get("layer_type"))) not in (None, "transformer"):
        raise ValueError(f"its layers are {str(layer_type)[:40]}, not transformer")
    layers = _value(model.get("conv_feature_layers"))
    if isinstance(layers, str):
        known["conv_stride"] = _strides(layers)
    for settings in (_fields(configuration.get("task")), _fields(inner.get("task")), model):
        if isinstance(normalize := _value(settings.get("normalize")), bool):
            return known, normalize
    return known, None


def _strides(layers: str) -> tuple[int, ...]:
    """Strides out of fairseq's "[(512, 10, 5)] + [(512, 3, 2)] * 4 + ...", which fairseq itself gives to `eval`."""
    strides: list[int] = []
    for term in re.sub(r"\s", "", layers[:1000]).split("+"):
        match = re.fullmatch(r"\[((?:\(\d{1,5},\d{1,5},\d{1,5}\),?)+)\](?:\*(\d{1,2}))?", term)
        if not match:
            raise ValueError(f"conv_feature_layers is not understood: {layers[:80]!r}")
        strides += [int(x) for x in re.findall(r",(\d+)\)", match[1])] * int(match[2] or 1)
    return tuple(strides)


def _fields(value: object) -> dict:
    """The fields of a pickled dictionary, argparse.Namespace or omegaconf DictConfig; nothing of anything else."""
    state = value.state if isinstance(value, Inert) else None
    content = mapping(state).get("_content")        # where omegaconf keeps them
    return mapping(value) or mapping(content) or mapping(state)


def _value(value: object) -> object:
    """A setting's plain value, out of an omegaconf node or an enumeration's member where it is one."""
    if isinstance(value, Inert):
        node = mapping(value.state)
        value = node["_val"] if "_val" in node else value.args[0] if len(value.args) == 1 else None
    return value


def _admit(name: str) -> None:
    module, _, rest = name.partition(".")
    if module in _TELLTALE or module == "builtins" and rest.split(".")[0] in _TELLTALE_BUILTINS:
        raise ValueError(f"its pickle names {ascii(name)[1:-1][:100]}, which has no place in a checkpoint; refused "
                         f"(nothing was executed)")


Records = dict[object, tuple[int, int]]             # a storage's key -> its first byte in the file, its bytes


def _read_zip(data: mmap, path: str | Path) -> tuple[object, Records]:
    """The pickled object and the storages of a file of torch.save since 1.6: a zip archive without compression."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
    except Exception as error:                      # zipfile raises many kinds for a damaged directory
        raise ValueError(f"damaged archive, perhaps a download that stopped: {str(error)[:100]}") from None
    prefix = next((name.removesuffix("data.pkl") for name in entries if name.split("/")[-1] == "data.pkl"), None)
    if prefix is None:
        raise ValueError("an archive without data.pkl, which torch.save did not write")
    records: Records = {}
    for name, entry in entries.items():
        lengths = data[entry.header_offset + 26:entry.header_offset + 30]       # of the name and the extra field
        start = entry.header_offset + 30 + sum(int.from_bytes(x, "little") for x in (lengths[:2], lengths[2:]))
        if entry.compress_type != zipfile.ZIP_STORED or not 0 <= start <= start + entry.file_size <= len(data):
            raise ValueError(f"its record {ascii(name)[:60]} is compressed or cut off")
        records[name.removeprefix(prefix).removeprefix("data/")] = start, entry.file_size
    start, size = records.get("byteorder", (0, 0))
    if data[start:start + size] == b"big":
        raise ValueError("written on a big-endian machine, which is not supported")
    return Machine(Cursor(data, records["data.pkl"][0]), _admit, max_steps=_MAX_STEPS).load(), records


def _read_legacy(data: mmap, path: str | Path) -> tuple[object, Records]:
    """The same of a file of torch.save before 1.6: five pickles, then each storage's length and bytes."""
    machine = Machine(Cursor(data), _admit, max_steps=_MAX_STEPS)
    if machine.load() != _TORCH_MAGIC:
        raise ValueError("not a file of torch.save")
    _, _, root, keys = (machine.load() for _ in range(4))           # version, system, object, storages' order
    sizes = {}
    for reference in machine.persistent:
        kind, _, key = _storage(reference)
        sizes[key] = kind.itemsize
    records: Records = {}
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in sizes:
            raise ValueError("a storage that no tensor uses")
        size = int.from_bytes(machine.stream.read(8), "little") * sizes[key]
        records[key] = machine.stream.position, size
        machine.stream.position += size
        if machine.stream.position > len(data):
            raise ValueError("storages are cut off, perhaps a download that stopped")
    return root, records


def _storage(reference: object) -> tuple[torch.dtype, int, str]:
    """Data type, number of elements and key of the storage that a persistent id names."""
    fields = reference.args[0] if isinstance(reference, Inert) and reference.name == "persistent" else None
    if not isinstance(fields, tuple) or len(fields) < 5 or fields[0] != "storage" or fields[5:] not in ((), (None,)):
        raise ValueError("a tensor without a storage that is understood")
    _, kind, key, _, count = fields[:5]
    match = re.fullmatch(r"torch\.(?:cuda\.)?(\w+)Storage", kind if isinstance(kind, str) else "")
    if not match or match[1] not in _STORAGES or not isinstance(key, str) or type(count) is not int:
        raise ValueError("a tensor without a storage that is understood")
    return _STORAGES[match[1]], count, key


def _tensors(named: dict, records: Records, data: mmap) -> dict[str, Tensor]:
    """Copies of the tensors that `named` describes. Raises ValueError for one that its storage does not hold."""
    tensors, copied = {}, 0
    for name, value in named.items():
        if isinstance(value, Inert) and value.name == "torch._utils._rebuild_parameter" and value.args:
            value = value.args[0]
        if not isinstance(name, str) or not isinstance(value, Inert) or len(value.args) < 4 \
                or value.name != "torch._utils._rebuild_tensor_v2":
            raise ValueError(f"{ascii(name)[:60]} in `model` is not a tensor")
        reference, offset, size, stride = value.args[:4]
        dtype, _, key = _storage(reference)
        start, available = records.get(key, (0, 0))
        numbers = (offset, *size, *stride) if isinstance(size, tuple) and isinstance(stride, tuple) else (None,)
        if not all(type(x) is int and 0 <= x <= len(data) for x in numbers) or not len(size) == len(stride) <= 8:
            raise ValueError(f"{name[:60]} has an impossible shape")
        count = math.prod(size)
        reach = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride)) if count else 0
        copied += count * dtype.itemsize
        if reach * dtype.itemsize > available or copied > len(data):
            raise ValueError(f"{name[:60]} is larger than its storage")
        if count:
            flat = torch.frombuffer(data, dtype=dtype, count=reach - offset, offset=start + offset * dtype.itemsize)
            tensors[name] = flat.as_strided(size, stride).clone(memory_format=torch.contiguous_format)
        else:
            tensors[name] = torch.empty(size, dtype=dtype)
    return tensors
