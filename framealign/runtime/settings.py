"""Every default of the project, in frozen dataclasses; the presets; flags and JSON made from them.

A name that Hugging Face's `HubertConfig` has keeps it, so that `HubertConfig` here *is* the `config.json` there.
"""
import argparse
import dataclasses
import hashlib
import inspect
import math
import re
from dataclasses import dataclass, field, fields
from pathlib import Path


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class HubertConfig:
    """Shape and dropout of one encoder. The defaults are HuBERT base (HuBERT, Table I) in Hugging Face's names."""
    conv_dim: tuple[int, ...] = (512,) * 7          # C of each convolution
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    feat_extract_norm: str = "group"                # "group": after the first convolution; "layer": after each
    feat_extract_activation: str = "gelu"
    feat_proj_layer_norm: bool = True
    feat_proj_dropout: float = 0.1
    hidden_size: int = 768                          # D
    num_hidden_layers: int = 12
    num_attention_heads: int = 12                   # H
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout: float = 0.1
    activation_dropout: float = 0.0
    attention_dropout: float = 0.1
    layerdrop: float = 0.05                         # probability that a block is skipped in one training update
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    num_conv_pos_embeddings: int = 128              # kernel of the positional convolution, frames
    num_conv_pos_embedding_groups: int = 16
    conv_pos_batch_norm: bool = False
    do_stable_layer_norm: bool = False              # True: pre-norm blocks (large, xlarge)
    extra: dict = field(default_factory=dict, compare=False)    # Hugging Face's other fields, kept for the round trip

    def __post_init__(self):
        for name in ("conv_dim", "conv_kernel", "conv_stride"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _require(len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride) > 0,
                 "conv_dim, conv_kernel and conv_stride must have the same length, at least 1, got "
                 f"{len(self.conv_dim)}, {len(self.conv_kernel)} and {len(self.conv_stride)}")
        _require(all(isinstance(x, int) and x > 0 for x in self.conv_dim + self.conv_kernel + self.conv_stride),
                 "conv_dim, conv_kernel and conv_stride must hold whole numbers above 0")
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
                     "num_conv_pos_embeddings", "num_conv_pos_embedding_groups"):
            value = getattr(self, name)
            _require(isinstance(value, int) and value > 0, f"{name} must be a whole number above 0, got {value}")
        for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
            _require(self.hidden_size % getattr(self, name) == 0,
                     f"{name} must divide hidden_size {self.hidden_size}, got {getattr(self, name)}")
        for name in ("feat_proj_dropout", "hidden_dropout", "activation_dropout", "attention_dropout", "layerdrop"):
            _require(0 <= getattr(self, name) < 1, f"{name} must be in [0, 1), got {getattr(self, name)}")
        _require(self.feat_extract_norm in ("group", "layer"),
                 f"feat_extract_norm must be group or layer, got {self.feat_extract_norm}")
        for name in ("hidden_act", "feat_extract_activation"):
            _require(getattr(self, name) == "gelu", f"{name} must be gelu (all published HuBERTs), "
                                                    f"got {getattr(self, name)}")
        _require(not self.conv_pos_batch_norm, "conv_pos_batch_norm is not supported: no HuBERT uses it")


@dataclass(frozen=True)
class PretrainConfig:
    """Masked prediction of units (HuBERT, Sec. II); the defaults are the reference's. Sizes in seconds of audio."""
    seed: int = 0
    updates: int = 20_000                           # optimiser steps
    warmup_updates: int = 4_000                     # of a rising learning rate
    peak_lr: float = 5e-4                           # linear warm-up to it, linear decay to 0 at `updates`
    adam_beta1: float = 0.9
    adam_beta2: float = 0.98
    adam_eps: float = 1e-6
    weight_decay: float = 0.01
    clip_norm: float = 10.0                         # largest gradient norm
    batch_seconds: float = 350.0                    # audio per update, over all ranks
    micro_batch_seconds: float = 87.5               # audio per forward on one rank
    min_seconds: float = 1.0                        # shorter utterances are left out
    max_seconds: float = 15.625                     # longer ones are cropped
    mask_start_fraction: float = 0.08               # of frames start a span; with spans of 10, 57 % are hidden
    mask_span_frames: int = 10                      # 20 ms each
    mask_min_spans: int = 2                         # where they fit
    unmasked_weight: float = 0.0                    # of a visible frame's loss; HuBERT's alpha is 1 / (1 + this)
    temperature: float = 0.1                        # the cosine is divided by
    projection_size: int = 256                      # P
    freeze_conv: bool = True                        # the conv encoder does not train
    cache_frontend: bool = True                     # keep the frozen conv encoder's output, once per utterance
    kept_type: str = "float16"                      # of what is kept: float16, bfloat16 or float32
    compile_blocks: bool = False                    # fuse small operations by torch.compile: for a GPU; takes a minute
    feature_penalty: float = 10.0                   # mean square of conv features; only when the conv encoder trains
    valid_fraction: float = 0.02                    # of utterances, held out with fixed masks
    valid_every_updates: int = 500
    log_every_updates: int = 50
    save_every_updates: int = 500
    keep_checkpoints: int = 2

    def __post_init__(self):
        for name in ("updates", "mask_span_frames", "projection_size", "valid_every_updates", "log_every_updates",
                     "save_every_updates", "keep_checkpoints"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("peak_lr", "adam_eps", "weight_decay", "mask_min_spans", "unmasked_weight", "feature_penalty"):
            _require(0 <= getattr(self, name) < math.inf, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("adam_beta1", "adam_beta2"):
            _require(0 <= getattr(self, name) < 1, f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("clip_norm", "temperature"):
            _require(0 < getattr(self, name) < math.inf, f"{name} must be above 0, got {getattr(self, name)}")
        _require(0 <= self.warmup_updates <= self.updates,
                 f"warmup_updates must be in [0, updates = {self.updates}], got {self.warmup_updates}")
        _require(0 < self.mask_start_fraction <= 1,
                 f"mask_start_fraction must be in (0, 1], got {self.mask_start_fraction}")
        _require(0 <= self.valid_fraction < 1, f"valid_fraction must be in [0, 1), got {self.valid_fraction}")
        _require(0.025 <= self.min_seconds <= self.max_seconds < math.inf,
                 f"min_seconds must be in [0.025, max_seconds = {self.max_seconds}], got {self.min_seconds}")
        _require(0 < self.micro_batch_seconds <= self.batch_seconds < math.inf, "micro_batch_seconds must be in (0, "
                 f"batch_seconds = {self.batch_seconds}], got {self.micro_batch_seconds}")
        _require(self.kept_type in KEPT_TYPES,
                 f"kept_type must be one of {', '.join(KEPT_TYPES)}, got {self.kept_type}")


POOLINGS = ("attention", "mean")
KEPT_TYPES = ("float16", "bfloat16", "float32")
SELECTIONS = ("clean", "last", "speaker", "reference", "best-test")


@dataclass(frozen=True)
class FinetuneConfig:
    """Emotion recognition on top of the encoder (alignment paper, Sec. 2.3); the defaults are the reference's."""
    seed: int = 0
    epochs: int = 40                                # of as many draws as there are training utterances
    lr: float = 1e-4                                # constant, as the reference has it, unless lr_decay
    lr_decay: bool = False                          # linear decay to 0 at the last update
    head_lr_factor: float = 1.0                     # the classifier learns so many times faster
    weight_decay: float = 1e-5
    batch_size: int = 64                            # utterances per update
    micro_batch_size: int = 64                      # utterances per forward
    clip_norm: float = 10.0
    pooling: str = "attention"                      # or mean
    selection: str = "clean"                        # clean, last, speaker, reference or best-test
    max_seconds: float = 6.0                        # of a training crop; 0: whole utterances
    test_max_seconds: float = 0.0                   # 0: whole utterances
    test_every_epoch: bool = False                  # also note what each epoch says of the test part; selects nothing
    mask_start_fraction: float = 0.08               # time masking in training
    mask_span_frames: int = 10                      # 20 ms each
    mask_min_spans: int = 0                         # where they fit
    dropout: float = 0.1                            # before pooling and before the classifier
    balanced: bool = True                           # draw classes equally often, with replacement
    packed: bool = True                             # train on real frames alone: no work for the padding of a batch
    freeze_conv: bool = True
    cache_frontend: bool = True
    kept_type: str = "float16"                      # of what is kept: float16, bfloat16 or float32
    keep_checkpoints: int = 2                       # one before, should the newest be damaged

    def __post_init__(self):
        for name in ("epochs", "batch_size", "micro_batch_size", "mask_span_frames", "keep_checkpoints"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "weight_decay", "max_seconds", "test_max_seconds", "mask_min_spans"):
            _require(0 <= getattr(self, name) < math.inf, f"{name} must not be negative, got {getattr(self, name)}")
        _require(0 < self.clip_norm < math.inf, f"clip_norm must be above 0, got {self.clip_norm}")
        _require(0 <= self.mask_start_fraction <= 1,
                 f"mask_start_fraction must be in [0, 1], got {self.mask_start_fraction}")
        _require(self.kept_type in KEPT_TYPES,
                 f"kept_type must be one of {', '.join(KEPT_TYPES)}, got {self.kept_type}")
        _require(self.pooling in POOLINGS, f"pooling must be one of {', '.join(POOLINGS)}, got {self.pooling}")
        _require(self.selection in SELECTIONS,
                 f"selection must be one of {', '.join(SELECTIONS)}, got {self.selection}")
        _require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")


@dataclass(frozen=True)
class KMeansConfig:
    """k-means++ seeding on a subsample, mini-batch passes (Sculley 2010), then passes over all frames (Lloyd 1982).

    One seeding with twice the candidates leaves less inertia than the better one of two, for the same products.
    """
    seed: int = 0
    seeding_frames: int = 20_000                    # subsample on which seedings are tried, at least 10 per cluster
    seeding_tries: int = 1
    seeding_candidates: int = 32                    # frames drawn per centroid; the one that helps most is kept
    seeding_passes: int = 5                         # at most, over the subsample: later passes settle sooner
    max_frames: int = 500_000                     # held over all ranks; of more, each pass draws so many, or as seeding
    batch_frames: int = 10_000                      # S of one mini-batch, over all ranks
    mini_batch_passes: int = 1
    full_passes: int = 15                           # at most
    tolerance: float = 3e-4                         # a pass over all frames that gains less of the inertia is the last

    def __post_init__(self):
        for name in ("seeding_frames", "seeding_tries", "seeding_candidates", "max_frames", "batch_frames"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("seeding_passes", "mini_batch_passes", "full_passes", "tolerance"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class Preset:
    """One size: the encoder and the settings of every stage."""
    model: HubertConfig
    pretrain: PretrainConfig = PretrainConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    kmeans: KMeansConfig = KMeansConfig()
    do_normalize: bool = True                       # of a model made from scratch: zero mean, unit variance
    tapt_layer: int = 9                             # states clustered for phase 1 (stage tapt-units)
    tapt_clusters: int = 500
    align_layer: int = 9                            # states clustered into pseudo-emotion units
    align_clusters: int = 50
    multiscale_clusters: str = "32,64,128"          # of method multiscale: a codebook and a prediction head for each
    scratch_clusters: int = 100                     # of MFCC, when HuBERT is made from scratch
    scratch_layer: int = 6                          # states clustered for its second iteration
    scratch: PretrainConfig = PretrainConfig(freeze_conv=False)     # of each of the two iterations


PRESETS = {
    "base": Preset(HubertConfig()),
    "large": Preset(HubertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
                                 intermediate_size=4096, feat_extract_norm="layer", conv_bias=True,
                                 do_stable_layer_norm=True, hidden_dropout=0.0, attention_dropout=0.0,
                                 feat_proj_dropout=0.0, layerdrop=0.0)),
    "small": Preset(HubertConfig(conv_dim=(256,) * 7, hidden_size=256, num_hidden_layers=9, num_attention_heads=4,
                                 intermediate_size=1024, num_conv_pos_embeddings=128),
                    tapt_layer=6, align_layer=6, scratch_layer=4),
    "tiny": Preset(HubertConfig(conv_dim=(16, 32, 32, 64, 64, 64, 64), conv_bias=True, feat_extract_norm="layer",
                                hidden_size=96, num_hidden_layers=2, num_attention_heads=4, intermediate_size=384,
                                num_conv_pos_embeddings=32, num_conv_pos_embedding_groups=8, feat_proj_dropout=0.0,
                                hidden_dropout=0.05, attention_dropout=0.0, layerdrop=0.0),
                   PretrainConfig(updates=1200, warmup_updates=60, peak_lr=1e-3, batch_seconds=32,
                                  micro_batch_seconds=32, max_seconds=6, projection_size=64, unmasked_weight=1.0,
                                  log_every_updates=50, valid_every_updates=200, save_every_updates=200),
                   FinetuneConfig(epochs=24, lr=3e-4, lr_decay=True, head_lr_factor=10.0, batch_size=16,
                                  micro_batch_size=16, max_seconds=0.0),
                   KMeansConfig(max_frames=100_000, seeding_frames=10_000, seeding_tries=2, seeding_candidates=16,
                                seeding_passes=0),
                   tapt_layer=2, tapt_clusters=200, align_layer=1, align_clusters=50, scratch_layer=1,
                   scratch=PretrainConfig(updates=1300, warmup_updates=100, peak_lr=3e-3, batch_seconds=32,
                                          micro_batch_seconds=32, max_seconds=6, projection_size=64,
                                          unmasked_weight=1.0, freeze_conv=False, log_every_updates=100,
                                          valid_every_updates=500)),
}


def cluster_numbers(text: str) -> list[int]:
    """"32,64,128" -> [32, 64, 128]. Raises ValueError for what is no list of different whole numbers above 0."""
    words = [word.strip() for word in text.split(",")]
    if any(not (word.isascii() and word.isdigit() and len(word) < 7 and int(word)) for word in words) \
            or len({int(word) for word in words}) < len(words):
        raise ValueError(f"--clusters must be a number from 1 to 999999, or different ones separated by commas, "
                         f"got {text!r}")
    return [int(word) for word in words]


def preset(name: str) -> Preset:
    """The preset of that name. Raises ValueError naming the known ones."""
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name}")
    return PRESETS[name]


def add_flags(parser: argparse.ArgumentParser, config_type: type) -> None:
    """One flag per field (bool, int, float or str): --mask-start-fraction 0.08, --freeze-conv / --no-freeze-conv.

    The comment beside a field is its flag's help. A flag that is not given leaves the preset's or the default value
    alone (`from_flags`).
    """
    comments = dict(re.findall(r"^    (\w+): .*?# (.*)$", inspect.getsource(config_type), re.MULTILINE))
    for item in fields(config_type):
        kind = {"action": argparse.BooleanOptionalAction} if item.type is bool else {"type": item.type}
        words = [comments.get(item.name, ""), f"default {item.default}" if item.default != "" else ""]
        parser.add_argument("--" + item.name.replace("_", "-"), default=None,
                            help="; ".join(filter(None, words)).replace("%", "%%"), **kind)


def from_flags(args: argparse.Namespace, config: object) -> object:
    """`config` with the flags that were given put in."""
    given = {item.name: getattr(args, item.name) for item in fields(config)
             if getattr(args, item.name, None) is not None}
    return dataclasses.replace(config, **given)


def as_dict(config: object) -> dict:
    """Plain data for JSON; tuples become lists, paths strings."""
    plain = lambda x: str(x) if isinstance(x, Path) else list(x) if isinstance(x, tuple) else x
    return {key: plain(value) for key, value in dataclasses.asdict(config).items()}


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from a run's seed and the words that name one draw, e.g. (seed, "mask", update, micro_batch).

    Every random draw of training has its own name instead of a place in one long stream. A resumed run, or one on
    another number of ranks, therefore draws the same numbers without any generator state being saved.
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1
