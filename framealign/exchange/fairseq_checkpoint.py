"""HuBERT's weights from fairseq's .pt files, and from and to torchaudio's state dicts.

Both hold the same tensors under other names, which are the two tables below. A fairseq checkpoint also pickles objects
of fairseq, omegaconf and argparse: it is read as data (`unpickle.py`), without those packages and without executing
anything; the tensors are rebuilt from the file's bytes, plain settings are picked out, every other object is dropped.
"""
import math
import re
import zipfile
from mmap import ACCESS_COPY, mmap
from pathlib import Path

import torch
from torch import Tensor

from framealign.hubert.parameters import MASK_EMBEDDING
from framealign.exchange.imported_weights import Imported, imported, renamed
from framealign.exchange.inert_pickle import Cursor, Inert, Machine, mapping


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
_MAX_STEPS = 1_000_000                              # opcodes of a checkpoint's pickle; usual are 10^4
_STORAGES = {"Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
             "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
             "Bool": torch.bool}
_TORCH_MAGIC = 0x1950a86a20f9469cfc6c               # first pickle of torch.save's format before 1.6
# Whatever a checkpoint names stays inert; one that names these is no checkpoint, and is refused by name.
_TELLTALE = frozenset("os posix nt subprocess sys shutil socket ctypes importlib runpy pty code pickle".split())
_TELLTALE_BUILTINS = frozenset("eval exec compile __import__ open input breakpoint globals setattr".split())


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
    return imported(renamed(state, FAIRSEQ, path), known, do_normalize, path)


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
