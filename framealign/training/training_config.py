"""The settings of every training, and where one runs."""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from framealign.runtime.settings import require, setting
from framealign.sound.degradation import LINES, MOST_COLOUR, NOISES
from framealign.corpus import folds
from framealign.corpus.protocols import SELECTIONS
from framealign.corpus.utterance import Utterance
from framealign.units.frame_store import KEPT_TYPES
from framealign.emotion.emotion_model import LONGEST_WINDOW, PROJECTION_SIZE

AUGMENTATIONS = (*NOISES, "reverb", "microphone", *LINES, "speed")
LEVEL = "level"                                     # beside them, where sounds are not all brought to one level
LEAST_RT60, MOST_RT60 = 0.2, 10.0                   # seconds


@dataclass(frozen=True)
class PretrainConfig:
    """Masked prediction of units (HuBERT, Sec. II); the defaults are the reference's. Sizes in seconds of audio."""
    seed: int = setting(0, "seed of every random draw")
    updates: int = setting(20_000, "optimiser steps")
    warmup_updates: int = setting(4_000, "updates of a rising learning rate")
    peak_lr: float = setting(
        5e-4, "learning rate at the end of the linear warm-up; from there linear decay to 0 at --updates")
    adam_beta1: float = setting(0.9, "AdamW's decay of the gradient's running mean, per update")
    adam_beta2: float = setting(0.98, "AdamW's decay of the squared gradient's running mean, per update")
    adam_eps: float = setting(1e-6, "added to AdamW's denominator")
    weight_decay: float = setting(0.01, "AdamW's decoupled weight decay, times the learning rate, per update")
    clip_norm: float = setting(10.0, "largest norm of the gradient; a larger one is scaled down to it")
    batch_seconds: float = setting(350.0, "seconds of audio per update, over all ranks")
    micro_batch_seconds: float = setting(87.5, "seconds of audio per forward pass on one rank")
    min_seconds: float = setting(1.0, "seconds; shorter utterances are left out")
    max_seconds: float = setting(15.625, "seconds; longer utterances are cropped")
    mask_start_fraction: float = setting(
        0.08, "share of the frames that start a masked span; with spans of 10 frames, 57 % end up masked")
    mask_span_frames: int = setting(10, "frames of a masked span, 20 ms each in all published sizes")
    mask_min_spans: int = setting(2, "fewest masked spans of an utterance, where they fit")
    unmasked_weight: float = setting(0.0, "weight of an unmasked frame's loss; HuBERT's alpha is 1 / (1 + this)")
    temperature: float = setting(0.1, "the cosines are divided by it to give the logits")
    projection_size: int = setting(256, "width P of the projections that are compared with the codewords")
    freeze_conv: bool = setting(True, "the conv encoder does not train")
    cache_frontend: bool = setting(
        True, "compute the frozen conv encoder's output once for each utterance, and keep it on the disk")
    kept_type: str = setting("float16", "type of the numbers kept on the disk: float16, bfloat16 or float32")
    fast_path: bool = setting(
        True, "the encoder's fast path on a CPU, the same numbers up to rounding (hubert/fast.py)")
    compile_blocks: bool = setting(
        False, "fuse small operations by torch.compile: for a GPU; takes a minute at the start")
    feature_penalty: float = setting(
        10.0, "weight of the mean square of the conv features; only when the conv encoder trains")
    valid_fraction: float = setting(0.02, "share of the utterances that is held out for validation, with fixed masks")
    valid_every_updates: int = setting(500, "updates between two validations")
    log_every_updates: int = setting(50, "updates between two lines of log.jsonl")
    save_every_updates: int = setting(500, "updates between two checkpoints")
    keep_checkpoints: int = setting(2, "newest checkpoints that stay on the disk")

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

    @property
    def keeps_features(self) -> bool:
        """Whether the conv encoder's output is computed once and kept: it is frozen."""
        return self.freeze_conv and self.cache_frontend


ALL = "all"                                         # of the kinds of augmentation that there are


@dataclass(frozen=True)
class AugmentationConfig:
    """How the sound of training is degraded (`augmentation`); by default not at all."""
    kinds: ClassVar[tuple[str, ...]] = AUGMENTATIONS
    augment: str = setting(
        "", f"degrade the training sound, by any of {', '.join((*AUGMENTATIONS, LEVEL))}, separated by commas, or "
        f"{ALL}; sound is then read and computed in every epoch")
    augment_share: float = setting(
        0.5, "share of the draws with noise; likewise of those in a room (reverb), over a line (telephone, mu-law)")
    augment_least_snr: float = setting(0.0, "decibels of speech over noise, at least")
    augment_most_snr: float = setting(20.0, "decibels of speech over noise, at most")
    augment_rt60: float = setting(0.8, "seconds in which a room's sound falls by 60 dB, at most; at least 0.2")
    augment_colour: float = setting(5.0, "decibels by which a microphone's octaves differ: their standard deviation")
    augment_speed: float = setting(0.1, "share by which the speed is changed at most: 0.1 is 0.9 to 1.1")

    def __post_init__(self):
        named = self.augmentations
        require(set(named) <= set(self.kinds), f"augment must be {ALL}, or some of {', '.join(self.kinds)}, separated "
                f"by commas, got {self.augment!r}")
        require(len(set(named)) == len(named), f"augment must name each once, got {self.augment!r}")
        require(0 <= self.augment_share <= 1, f"augment_share must be in [0, 1], got {self.augment_share}")
        require(-math.inf < self.augment_least_snr <= self.augment_most_snr < math.inf, "augment_least_snr must be "
                f"at most augment_most_snr = {self.augment_most_snr}, got {self.augment_least_snr}")
        require(LEAST_RT60 <= self.augment_rt60 <= MOST_RT60,
                f"augment_rt60 must be in [{LEAST_RT60:g}, {MOST_RT60:g}], got {self.augment_rt60}")
        require(0 <= self.augment_colour <= MOST_COLOUR,
                f"augment_colour must be in [0, {MOST_COLOUR:g}], got {self.augment_colour}")
        require(0 <= self.augment_speed <= 0.5, f"augment_speed must be in [0, 0.5], got {self.augment_speed}")

    @property
    def augmentations(self) -> list[str]:
        """The names that `augment` has."""
        if self.augment == ALL:
            return list(self.kinds)
        return [kind.strip() for kind in self.augment.split(",")] if self.augment else []


POOLINGS = ("attention", "mean")
UNBALANCED_CORPORA = ("balance_corpora draws corpora equally often within each class, and so needs balanced; choose "
                      "both, or neither")


@dataclass(frozen=True)
class FinetuneConfig(AugmentationConfig):
    """Emotion recognition on top of the encoder (alignment paper, Sec. 2.3); the defaults are the reference's."""
    kinds: ClassVar[tuple[str, ...]] = (*AUGMENTATIONS, LEVEL)
    augment_level: float = setting(
        6.0, "decibels by which the level is changed at most; a model that normalises its input hears none of it")
    seed: int = setting(0, "seed of every random draw")
    epochs: int = setting(40, "epochs of as many draws as there are training utterances")
    lr: float = setting(1e-4, "learning rate; constant, as in the reference, unless --lr-decay")
    lr_decay: bool = setting(False, "linear decay of the learning rate to 0 at the last update")
    head_lr_factor: float = setting(
        1.0, "the classifier's learning rate is so many times that of the encoder")
    weight_decay: float = setting(1e-5, "AdamW's decoupled weight decay, times the learning rate, per update")
    batch_size: int = setting(64, "utterances per update")
    micro_batch_size: int = setting(64, "utterances per forward pass")
    clip_norm: float = setting(10.0, "largest norm of the gradient; a larger one is scaled down to it")
    pooling: str = setting("attention", "attention or mean")
    window_seconds: float = setting(
        0.0, "seconds of windows in which the emotion over time is recognised, each for itself; 0: in single frames")
    selection: str = setting("clean", "protocol: clean, last, speaker, reference or best-test")
    max_seconds: float = setting(6.0, "seconds of a training utterance that are used; 0: whole utterances")
    test_max_seconds: float = setting(
        0.0, "seconds of an utterance that are used in validation and test; 0: whole utterances")
    test_every_epoch: bool = setting(False, "also record the test results of each epoch; they select nothing")
    mask_start_fraction: float = setting(
        0.08, "share of the frames that start a masked span (time masking) in training")
    mask_span_frames: int = setting(10, "frames of a masked span, 20 ms each in all published sizes")
    mask_min_spans: int = setting(0, "fewest masked spans of an utterance, where they fit")
    dropout: float = setting(0.1, "probability of dropout before pooling and before the classifier")
    balanced: bool = setting(True, "draw the classes equally often, with replacement")
    balance_corpora: bool = setting(
        False, "within each class, draw every corpus that has it equally often, by the column corpus")
    class_weights: bool = setting(
        False, "instead, with --no-balanced: draw each utterance once, and weight its loss by how rare its class is")
    label_smoothing: float = setting(0.0, "share of the target that all classes have equally")
    soft_labels: bool = setting(
        False, "the target is the shares of the annotators' votes, where the corpus has a column votes")
    fast_path: bool = setting(
        True, "the encoder's fast path: no work for the padding of a batch, the same numbers up to rounding")
    freeze_conv: bool = setting(True, "the conv encoder does not train")
    cache_frontend: bool = setting(
        True, "compute the frozen conv encoder's output once for each utterance, and keep it on the disk")
    kept_type: str = setting("float16", "type of the numbers kept on the disk: float16, bfloat16 or float32")
    keep_checkpoints: int = setting(
        2, "newest checkpoints that stay on the disk; more than one, should the newest be damaged")

    def __post_init__(self):
        for name in ("epochs", "batch_size", "micro_batch_size", "mask_span_frames", "keep_checkpoints"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "weight_decay", "max_seconds", "test_max_seconds", "mask_min_spans"):
            require(0 <= getattr(self, name) < math.inf, f"{name} must not be negative, got {getattr(self, name)}")
        require(0 <= self.window_seconds <= LONGEST_WINDOW,
                f"window_seconds must be in [0, {LONGEST_WINDOW:g}], got {self.window_seconds}")
        require(0 < self.clip_norm < math.inf, f"clip_norm must be above 0, got {self.clip_norm}")
        require(0 <= self.mask_start_fraction <= 1,
                 f"mask_start_fraction must be in [0, 1], got {self.mask_start_fraction}")
        require(self.kept_type in KEPT_TYPES,
                 f"kept_type must be one of {', '.join(KEPT_TYPES)}, got {self.kept_type}")
        super().__post_init__()
        require(0 <= self.augment_level < math.inf, f"augment_level must not be negative, got {self.augment_level}")
        require(self.balanced or not self.balance_corpora, UNBALANCED_CORPORA)
        require(not (self.balanced and self.class_weights), "class_weights with balanced draws would count rare "
                "classes twice; choose one of them: --no-balanced beside --class-weights")
        require(0 <= self.label_smoothing < 1, f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        require(self.pooling in POOLINGS, f"pooling must be one of {', '.join(POOLINGS)}, got {self.pooling}")
        require(self.selection in SELECTIONS,
                 f"selection must be one of {', '.join(SELECTIONS)}, got {self.selection}")
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")

    @property
    def keeps_features(self) -> bool:
        """Whether the conv encoder's output is computed once and kept: it is frozen, and hears no other sound."""
        return self.freeze_conv and self.cache_frontend and not self.augment


@dataclass(frozen=True)
class FramesConfig(AugmentationConfig):
    """A classifier of frames from utterance labels (`frame_training`); the defaults are those of the preset `tiny`."""
    seed: int = setting(0, "seed of every random draw")
    scorer_epochs: int = setting(4, "epochs of the scorer, of as many medleys as there are training utterances")
    epochs: int = setting(16, "epochs of the recogniser")
    lr: float = setting(1e-3, "learning rate at the first update; linear decay to 0 at the last one")
    head_lr_factor: float = setting(5.0, "the classifiers' learning rate is so many times that of the encoder")
    weight_decay: float = setting(0.01, "AdamW's decoupled weight decay, times the learning rate, per update")
    clip_norm: float = setting(10.0, "largest norm of the gradient; a larger one is scaled down to it")
    batch_size: int = setting(8, "medleys or joined utterances per update")
    sequence_seconds: float = setting(3.0, "seconds of a medley of stretches, at least")
    least_stretch_seconds: float = setting(0.4, "seconds of the shortest stretch of the scorer")
    most_stretch_seconds: float = setting(1.0, "seconds of its longest stretch")
    level_decibels: float = setting(3.0, "stretches are up to so much louder or softer than one level")
    window_seconds: float = setting(0.6, "seconds of the windows in which the training utterances are scored")
    score_passes: int = setting(4, "how often each is scored, in windows at drawn offsets")
    block_seconds: float = setting(0.2, "seconds that are taken to have one emotion, in telling how much has which")
    whole_coverage: float = setting(0.8, "an emotion that covers more of its utterances' time is taken to cover all")
    utterance_weight: float = setting(1.0, "weight of the utterances' cross-entropy beside that of frames")
    balance_corpora: bool = setting(
        False, "draw every corpus equally often: in the scorer its speakers, in the recogniser within each class, by "
        "the column corpus")
    max_seconds: float = setting(6.0, "seconds of a joined utterance that are used; longer ones are cropped")
    test_max_seconds: float = setting(0.0, "seconds of an utterance that are used in the test; 0: whole utterances")
    mask_start_fraction: float = setting(
        0.04, "share of the frames that start a masked span (time masking) in the recogniser's training")
    mask_span_frames: int = setting(10, "frames of a masked span, 20 ms each in all published sizes")
    mask_min_spans: int = setting(0, "fewest masked spans of a joined utterance, where they fit")
    dropout: float = setting(0.0, "probability of dropout before the classifiers")
    fast_path: bool = setting(True, "the encoder's fast path: no work for the padding of a batch, the same numbers")
    freeze_conv: bool = setting(True, "the conv encoder does not train")
    selection: str = "last"                         # the last update is taken: nothing is selected
    log_every_updates: int = setting(50, "updates between two lines of log.jsonl")
    save_every_updates: int = setting(500, "updates between two checkpoints")
    keep_checkpoints: int = setting(2, "newest checkpoints that stay on the disk")

    def __post_init__(self):
        for name in ("scorer_epochs", "epochs", "batch_size", "score_passes", "mask_span_frames", "log_every_updates",
                     "save_every_updates", "keep_checkpoints"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "weight_decay", "level_decibels", "utterance_weight", "test_max_seconds",
                     "mask_min_spans"):
            require(0 <= getattr(self, name) < math.inf, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("clip_norm", "head_lr_factor", "sequence_seconds", "window_seconds", "block_seconds",
                     "max_seconds"):
            require(0 < getattr(self, name) < math.inf, f"{name} must be above 0, got {getattr(self, name)}")
        super().__post_init__()
        require(0 < self.least_stretch_seconds <= self.most_stretch_seconds < math.inf, "least_stretch_seconds must be "
                f"in (0, most_stretch_seconds = {self.most_stretch_seconds}], got {self.least_stretch_seconds}")
        require(0 <= self.mask_start_fraction <= 1,
                f"mask_start_fraction must be in [0, 1], got {self.mask_start_fraction}")
        require(0 <= self.whole_coverage <= 1, f"whole_coverage must be in [0, 1], got {self.whole_coverage}")
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")


@dataclass(frozen=True)
class ProbeConfig:
    """The frozen probe (`training/probe.py`): width and clipping are SUPERB's; docs/BENCHMARKS.md says how the rest was
    chosen.
    """
    seed: int = setting(0, "seed of every random draw")
    epochs: int = setting(30, "epochs of as many draws as there are training utterances")
    lr: float = setting(1e-3, "learning rate at the first update; linear decay to 0 at the last one")
    weight_decay: float = setting(0.01, "AdamW's decoupled weight decay, times the learning rate, per update")
    clip_norm: float = setting(1.0, "largest norm of the gradient; a larger one is scaled down to it")
    batch_size: int = setting(32, "utterances per update")
    projection_size: int = setting(PROJECTION_SIZE, "width P of the linear projection before the mean over frames")
    balanced: bool = setting(True, "draw the classes equally often, with replacement")
    balance_corpora: bool = setting(
        False, "within each class, draw every corpus that has it equally often, by the column corpus")
    selection: str = setting("clean", "protocol: clean, last, speaker, reference or best-test")

    def __post_init__(self):
        for name in ("epochs", "batch_size", "projection_size"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "weight_decay"):
            require(0 <= getattr(self, name) < math.inf, f"{name} must not be negative, got {getattr(self, name)}")
        require(0 < self.clip_norm < math.inf, f"clip_norm must be above 0, got {self.clip_norm}")
        require(self.balanced or not self.balance_corpora, UNBALANCED_CORPORA)
        require(self.selection in SELECTIONS,
                f"selection must be one of {', '.join(SELECTIONS)}, got {self.selection}")

    @property
    def test_max_seconds(self) -> float:
        """Whole utterances are tested: 0, as in the other configurations."""
        return 0.0


def check_corpora(config: FinetuneConfig | FramesConfig | ProbeConfig, utterances: Sequence[Utterance]) -> None:
    """Raise ValueError where corpora are to be balanced and a labelled utterance is of none."""
    if config.balance_corpora:
        folds.check_corpora(utterances, "balance_corpora draws every corpus equally often")


@dataclass(frozen=True)
class TrainingRun:
    """Where a training runs: what concerns the machine and the disk, not the result."""
    folder: Path                                    # checkpoints, log.jsonl, products
    device: torch.device
    precision: str = "auto"                         # of the forward: auto, float32 or bfloat16
    frontend: Path | None = None                    # features computed once; None: `frontend` in the folder

    @property
    def features(self) -> Path:
        """The folder of the frozen conv encoder's features; of the probe, the means of the frozen encoder's states."""
        return self.frontend or self.folder / "frontend"
