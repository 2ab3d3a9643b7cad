"""The settings of both trainings: masked prediction and fine-tuning."""
import math
from dataclasses import dataclass

from framealign.runtime.settings import require
from framealign.corpus.protocols import SELECTIONS
from framealign.units.frame_store import KEPT_TYPES


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
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("peak_lr", "adam_eps", "weight_decay", "mask_min_spans", "unmasked_weight", "feature_penalty"):
            require(0 <= getattr(self, name) < math.inf, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("adam_beta1", "adam_beta2"):
            require(0 <= getattr(self, name) < 1, f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("clip_norm", "temperature"):
            require(0 < getattr(self, name) < math.inf, f"{name} must be above 0, got {getattr(self, name)}")
        require(0 <= self.warmup_updates <= self.updates,
                 f"warmup_updates must be in [0, updates = {self.updates}], got {self.warmup_updates}")
        require(0 < self.mask_start_fraction <= 1,
                 f"mask_start_fraction must be in (0, 1], got {self.mask_start_fraction}")
        require(0 <= self.valid_fraction < 1, f"valid_fraction must be in [0, 1), got {self.valid_fraction}")
        require(0.025 <= self.min_seconds <= self.max_seconds < math.inf,
                 f"min_seconds must be in [0.025, max_seconds = {self.max_seconds}], got {self.min_seconds}")
        require(0 < self.micro_batch_seconds <= self.batch_seconds < math.inf, "micro_batch_seconds must be in (0, "
                 f"batch_seconds = {self.batch_seconds}], got {self.micro_batch_seconds}")
        require(self.kept_type in KEPT_TYPES,
                 f"kept_type must be one of {', '.join(KEPT_TYPES)}, got {self.kept_type}")


POOLINGS = ("attention", "mean")


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
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "weight_decay", "max_seconds", "test_max_seconds", "mask_min_spans"):
            require(0 <= getattr(self, name) < math.inf, f"{name} must not be negative, got {getattr(self, name)}")
        require(0 < self.clip_norm < math.inf, f"clip_norm must be above 0, got {self.clip_norm}")
        require(0 <= self.mask_start_fraction <= 1,
                 f"mask_start_fraction must be in [0, 1], got {self.mask_start_fraction}")
        require(self.kept_type in KEPT_TYPES,
                 f"kept_type must be one of {', '.join(KEPT_TYPES)}, got {self.kept_type}")
        require(self.pooling in POOLINGS, f"pooling must be one of {', '.join(POOLINGS)}, got {self.pooling}")
        require(self.selection in SELECTIONS,
                 f"selection must be one of {', '.join(SELECTIONS)}, got {self.selection}")
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")
