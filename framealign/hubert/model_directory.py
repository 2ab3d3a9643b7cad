"""Hugging Face directories in and out: config.json, model.safetensors, preprocessor_config.json.

transformers 5 says in processor_config.json, as its `feature_extractor`, what older ones say in the last: both are
read.

A plain encoder's directory holds its parameters under their own names; with a head (a recogniser's, a CTC model's) the
encoder's stand under `hubert.`, as in transformers' own models, so that `transformers.HubertModel` opens both.
Read as well: sharded weights, `pytorch_model.bin` (with `weights_only=True`), the older spelling of weight norm.
"""
import contextlib
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from framealign.runtime import files, log
from framealign.sound.frames import SAMPLE_RATE
from framealign.corpus.utterance import check_class_names
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.parameters import BATCHES_SEEN, MASK_EMBEDDING, check, check_depth, current_names, shapes

PREFIX = "hubert."
# What a feature extractor's file may say of the input, and what it must say of it (None: either).
_OF_INPUT = {"do_normalize": None, "sampling_rate": SAMPLE_RATE, "feature_size": 1,
             "feature_extractor_type": "Wav2Vec2FeatureExtractor"}
_NOT_BUILT = ("adapter_attn_dim", "quantization_config")        # fields of config.json by which a model is another one
_ENCODER = ("feature_extractor.", "feature_projection.", "encoder.", MASK_EMBEDDING)
# transformers' defaults that are not ours: what a config.json without the field means (the others agree: tested).
_THEIR_DEFAULTS = {"activation_dropout": 0.1, "feat_proj_dropout": 0.0, "layerdrop": 0.1}
# Pooling by attention, by the mean, by a classifier of frames; and of a sum of layers, which transformers has too.
_WEIGHTED_LAYERS = frozenset({"projector", "classifier", "layer_weights"})
_RECOGNISERS = (frozenset({"pooling", "classifier"}), frozenset({"classifier"}), frozenset({"frames", "classifier"}),
                _WEIGHTED_LAYERS)
# The class of transformers that has a head of these modules; with any other head, its HubertModel opens the encoder.
_ARCHITECTURES = {frozenset({"lm_head"}): "HubertForCTC",
                  frozenset({"projector", "classifier"}): "HubertForSequenceClassification",
                  _WEIGHTED_LAYERS: "HubertForSequenceClassification"}


@dataclass
class Directory:
    """What a Hugging Face directory holds."""
    config: HubertConfig
    state: dict[str, Tensor]                        # the encoder: names without `hubert.`, shapes as `config` says
    head: dict[str, Tensor]                         # every tensor outside the encoder
    do_normalize: bool                              # waveforms are made zero mean, unit variance first
    preprocessor: dict                              # what it says of its input; empty where it says nothing
    labels: list[str] | None                        # a recogniser's classes in index order, None without them

    @property
    def modules(self) -> frozenset[str]:
        """Of the head: the first part of its tensors' names."""
        return frozenset(name.split(".")[0] for name in self.head)

    @property
    def is_recogniser(self) -> bool:
        return self.modules in _RECOGNISERS

    @property
    def kind(self) -> str:
        """What it holds, in words."""
        if not self.head or self.is_recogniser:
            return "a recogniser" if self.head else "an encoder"
        modules = ", ".join(sorted(self.modules))
        return f"a {_ARCHITECTURES[self.modules]} ({modules})" if self.modules in _ARCHITECTURES else \
            f"an encoder with {modules}"


def read(path: str | Path) -> Directory:
    """Read a directory, or a weights file of one, strictly: only `masked_spec_embed` may be missing.

    Tensors keep the data type they have there. Raises ValueError, one line naming the file: a missing, damaged or
    half-downloaded file, a configuration of another model, what is said of the input and not done here, missing,
    unexpected or wrongly shaped parameters, classes that cannot be told apart.
    """
    path = Path(path)
    directory = path.parent if path.is_file() else path
    if path.is_file() and (path.suffix not in WEIGHTS or not (directory / "config.json").is_file()):
        raise ValueError(f"{path}: a file that is no weights of a model directory (one with config.json beside it)")
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory (one with config.json and model.safetensors is needed)")
    config = read_config(directory)
    weights, where = (WEIGHTS[path.suffix](path), path) if path.is_file() else _read_weights(directory)
    return of_weights(config, weights, where)


def read_config(directory: Path) -> HubertConfig:
    """A directory's configuration. Raises ValueError where there is none, or it is not one."""
    where = directory / "config.json"
    if not where.exists():
        inside = [place for place in ("encoder", "recogniser") if (directory / place / "config.json").is_file()]
        raise ValueError(f"{where}: no such file" + (f"; give {directory / inside[0]}" if inside else ""))
    return config_from_json(files.read_json(where), where)


def of_weights(config: HubertConfig, weights: dict[str, Tensor], where: Path) -> Directory:
    """What a directory holds whose weights, and configuration, were read already; where: the file of the weights."""
    directory = where.parent
    state, head = without_head(weights)
    state = current_names(state, where)
    check_depth(state, config, where)
    check(state, shapes(config), where)
    for name, x in state.items():
        if not x.is_floating_point() and name != BATCHES_SEEN:
            raise ValueError(f"{where}: {name} must hold floats, holds {x.dtype}")
    content = Directory(config, state, head, *_read_preprocessor(directory), None)
    if content.is_recogniser:
        if head.get("classifier.weight", torch.zeros(0)).ndim != 2:
            raise ValueError(f"{where}: a recogniser needs a classifier.weight of (classes, width)")
        content.labels = _labels(config.extra, len(head["classifier.weight"]), directory / "config.json")
    return content


def without_head(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The encoder's tensors, named without `hubert.`, and all others."""
    prefix = PREFIX if any(name.startswith(PREFIX) for name in weights) else ""
    of_encoder = prefix or _ENCODER
    state = {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(of_encoder)}
    return state, {name: x for name, x in weights.items() if not name.startswith(of_encoder)}


def write(directory: str | Path, config: HubertConfig, state: dict[str, Tensor], head: dict[str, Tensor] | None = None,
          *, do_normalize: bool, labels: list[str] | None = None, preprocessor: dict | None = None) -> None:
    """Write the three files, each complete or not at all, config.json last.

    `state` is the encoder without prefix, `head` what stands beside it, `labels` the classifier's classes in index
    order, `preprocessor` further fields of preprocessor_config.json (`do_normalize` wins). Raises ValueError where
    `state` does not fit `config`.
    """
    directory, head = Path(directory), head or {}
    state = current_names(state, directory)
    allowed_missing = check(state, shapes(config), directory)
    weights = {(PREFIX if head else "") + name: x for name, x in state.items()} | head
    content = config_to_json(config)
    content["architectures"] = [_ARCHITECTURES.get(frozenset(name.split(".")[0] for name in head), "HubertModel")]
    if "layer_weights" in head:                     # transformers makes room for them only where it is told to
        content |= {"use_weighted_layer_sum": True, "classifier_proj_size": len(head["projector.weight"])}
    if labels is not None:
        content.pop("num_labels", None)             # transformers derives it from id2label
        content |= {"id2label": {str(i): label for i, label in enumerate(labels)},
                    "label2id": {label: i for i, label in enumerate(labels)}}
    if allowed_missing:                             # without a mask embedding transformers must not mask either,
        content |= {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}        # and then does not look for one
    written = str(next(x.dtype for x in state.values() if x.is_floating_point())).removeprefix("torch.")
    content |= {key: written for key in ("dtype", "torch_dtype") if key in content}     # transformers converts to it
    directory.mkdir(parents=True, exist_ok=True)
    _write_weights(directory / "model.safetensors", weights)
    files.write_json(directory / "preprocessor_config.json", {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "padding_side": "right",
        "padding_value": 0.0, "return_attention_mask": config.feat_extract_norm == "layer",
        **(preprocessor or {}), "sampling_rate": SAMPLE_RATE, "do_normalize": do_normalize})
    files.write_json(directory / "config.json", dict(sorted(content.items())))


def config_from_json(content: dict, where: str | Path = "config.json") -> HubertConfig:
    """The configuration that a config.json's content describes; a field it lacks has transformers' default.

    Fields this project has no use for are kept in `extra`. Raises ValueError naming file and field.
    """
    classes = content.get("architectures") or ["Hubert"]
    if content.get("model_type", "hubert") != "hubert":
        raise ValueError(f"{where}: model_type must be hubert, is {_short(content['model_type'])}: another encoder, "
                         "which is not read")
    if not isinstance(classes, list) or not str(classes[0]).startswith("Hubert"):
        raise ValueError(f"{where}: architectures must be a Hubert's, is {_short(str(classes))}: another encoder, "
                         "which is not read")
    for name in _NOT_BUILT:
        if content.get(name) is not None:
            raise ValueError(f"{where}: {name} must be absent or null: a model with it is not built here, and without "
                             "it would be another one")
    kinds = {item.name: item.type for item in dataclasses.fields(HubertConfig) if item.name != "extra"}
    values = {name: _typed(content[name], kind, f"{where}: {name}") for name, kind in kinds.items() if name in content}
    ours = {*kinds, "model_type", "num_feat_extract_layers"}
    try:
        return HubertConfig(**(_THEIR_DEFAULTS | values), extra={k: v for k, v in content.items() if k not in ours})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def config_to_json(config: HubertConfig) -> dict:
    """Plain data for config.json: our fields, Hugging Face's others (`extra`) and the two that follow from ours."""
    ours = {item.name: getattr(config, item.name) for item in dataclasses.fields(config) if item.name != "extra"}
    ours = {name: list(value) if isinstance(value, tuple) else value for name, value in ours.items()}
    return {**config.extra, **ours, "model_type": "hubert", "num_feat_extract_layers": len(config.conv_dim)}


def _typed(value: object, kind: object, what: str) -> object:
    """`value` if it is of the field's type (a whole number will do for a float); ValueError otherwise."""
    if kind in (bool, str, int):
        fits, wanted = type(value) is kind, {bool: "true or false", str: "text", int: "a whole number"}[kind]
    elif kind is float:
        fits = type(value) is float and math.isfinite(value) or type(value) is int and abs(value) < 2 ** 53
        wanted = "a finite number"
    else:
        fits, wanted = type(value) is list and all(type(x) is int for x in value), "a list of whole numbers"
    if not fits:
        raise ValueError(f"{what} must be {wanted}, is {_short(value)}")
    return float(value) if kind is float else tuple(value) if type(value) is list else value


def _short(value: object) -> str:
    """A JSON value for an error message: text and small numbers as they are, else the type."""
    return f"{value!r}"[:60] if isinstance(value, (str, float, bool)) or value is None else f"a {type(value).__name__}"


def _read_weights(directory: Path) -> tuple[dict[str, Tensor], Path]:
    """All tensors of a directory, and the file (or index) that named them."""
    for name, read_file in (("model.safetensors", _read_safetensors), ("pytorch_model.bin", _read_bin)):
        path, index = directory / name, directory / f"{name}.index.json"
        if path.is_file():
            return read_file(path), path
        if index.is_file():
            return _read_shards(index, read_file), index
    raise ValueError(f"{directory}: holds no weights (model.safetensors, pytorch_model.bin, or an index of shards)")


def _read_shards(index: Path, read_file: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    places = files.read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(x, str) for x in places.values()):
        raise ValueError(f"{index}: weight_map must say for each parameter in which file it is")
    weights: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        if shard in ("", "..") or shard != Path(shard).name or "\\" in shard or "\0" in shard:
            raise ValueError(f"{index}: a shard must be a file of the same directory, is {_short(shard)}")
    for shard in sorted(set(places.values())):
        held = read_file(index.parent / shard)
        strangers = [name for name in held if places.get(name) != shard]
        if strangers:
            raise ValueError(f"{index}: {shard} holds {len(strangers)} parameters that the index does not place there "
                             f"({', '.join(strangers[:3])})")
        weights |= held
    absent = [name for name in places if name not in weights]
    if absent:
        raise ValueError(f"{index}: {len(absent)} of its parameters are in no shard ({', '.join(absent[:3])})")
    return weights


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file: is the download complete?") from None
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if file.read(19) == b"version https://git":
                raise ValueError(f"{path}: a Git LFS pointer, not weights: fetch them with git lfs pull") from None
        raise ValueError(f"{path}: not readable as safetensors, perhaps a download that stopped: "
                         f"{_first_line(error)}") from None


def _read_bin(path: Path) -> dict[str, Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file: is the download complete?") from None
    except Exception as error:                      # torch raises many kinds for damaged or refused content
        raise ValueError(f"{path}: not readable as torch weights, perhaps a download that stopped: "
                         f"{_first_line(error)}") from None
    if not isinstance(weights, dict) or not all(
            isinstance(name, str) and isinstance(x, Tensor) for name, x in weights.items()):
        raise ValueError(f"{path}: must hold tensors by name and nothing else")
    return dict(weights)


WEIGHTS = {".safetensors": _read_safetensors, ".bin": _read_bin}      # how a weights file of a directory is read


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    with files.write_atomically(path) as temporary, files.disk_errors(path):
        temporary.touch()
        mode = temporary.stat().st_mode             # as the user's umask has it; safetensors writes for the owner only
        save_file({name: x.detach().cpu().contiguous() for name, x in weights.items()}, temporary, {"format": "pt"})
        temporary.chmod(mode)


def _read_preprocessor(directory: Path) -> tuple[bool, dict]:
    """Whether to normalise, and all that the directory says of its input; where it says nothing, transformers' default.

    Of padding it may say what it likes: padding changes nothing here.
    """
    path, nested = directory / "preprocessor_config.json", directory / "processor_config.json"
    content = files.read_json(path) if path.exists() else {}
    processor = files.read_json(nested) if nested.exists() else {}
    inner = processor.get("feature_extractor", processor.get("audio_processor", {}))
    if not isinstance(inner, dict):
        raise ValueError(f"{nested}: feature_extractor must be an object, is {_short(inner)}")
    for name in content.keys() & inner.keys() & _OF_INPUT.keys():
        if content[name] != inner[name]:
            raise ValueError(f"{path}: {name} is {_short(content[name])}, in {nested.name} {_short(inner[name])}; "
                             "remove the file that is wrong")

    path = nested if inner else path
    content = content | inner                       # as transformers 5, which goes by the nested one
    for name, wanted in _OF_INPUT.items():
        value = content.get(name, wanted)
        if wanted is not None and (value != wanted or isinstance(value, bool)):
            raise ValueError(f"{path}: {name} must be {wanted}, is {_short(value)}: other input is not made here")
    do_normalize = content.get("do_normalize")
    if do_normalize is None:
        log.say_once(f"{directory}: does not say whether waveforms are normalised (do_normalize, in "
                     "preprocessor_config.json): they are, by transformers' default")
        do_normalize = True
    if not isinstance(do_normalize, bool):
        raise ValueError(f"{path}: do_normalize must be true or false, is {_short(do_normalize)}")
    return do_normalize, content


def _labels(extra: dict, number: int, where: Path) -> list[str] | None:
    """A classifier's classes, `number` of them, in index order, by a configuration's `id2label`; None without it."""
    named = extra.get("id2label")
    if named is None:
        return None
    if not isinstance(named, dict) or not all(isinstance(label, str) for label in named.values()) \
            or {str(i) for i in range(len(named))} != set(named):
        raise ValueError(f"{where}: id2label must name classes 0, 1, ... with text")
    labels = [named[str(i)] for i in range(len(named))]
    if len(labels) != number:
        raise ValueError(f"{where}: id2label names {len(labels)} classes, the classifier has {number}")
    if labels == [f"LABEL_{i}" for i in range(number)]:
        raise ValueError(f"{where}: id2label has transformers' placeholders (LABEL_0 ...): write the classes' names "
                         "there, in the order of the classifier")
    check_class_names(labels, f"{where}: id2label")
    back = extra.get("label2id")
    if back is not None and back != {label: i for i, label in enumerate(labels)}:
        raise ValueError(f"{where}: label2id contradicts id2label; remove it, or make it agree")
    return labels
