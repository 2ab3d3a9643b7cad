"""The smallest corpus, base model and settings with which the whole recipe runs in a second."""
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import torch

from framealign.corpus import synthetic_corpus
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.model import Hubert
from framealign.recipe import session_config
from framealign.recipe.presets import preset, with_overrides

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}    # threads as here: bits depend on them
PRETRAINING = {"updates": "4", "warmup_updates": "1", "batch_seconds": "8", "micro_batch_seconds": "4",
               "min_seconds": "0.5", "max_seconds": "2", "projection_size": "8", "save_every_updates": "2",
               "valid_every_updates": "2", "log_every_updates": "2", "valid_fraction": "0.1"}
# What is replaced in the preset `tiny`, as `--set` takes it.
SETTINGS = {"do_normalize": "false", "tapt_layer": "1", "tapt_clusters": "8", "align_layer": "1", "align_clusters": "5",
            "multiscale_clusters": "3,5",
            "scratch_clusters": "6", "scratch_layer": "1", "finetune.epochs": "2", "finetune.batch_size": "8",
            "finetune.micro_batch_size": "8", "kmeans.full_passes": "2", "kmeans.seeding_tries": "1",
            "frames.scorer_epochs": "1", "frames.epochs": "2", "frames.batch_size": "4", "frames.score_passes": "1",
            "frames.sequence_seconds": "1.5", "frames.save_every_updates": "1",
            "model.hidden_size": "16", "model.num_hidden_layers": "2", "model.num_attention_heads": "2",
            "model.intermediate_size": "32", "model.num_conv_pos_embeddings": "8",
            "model.num_conv_pos_embedding_groups": "2",
            **{f"{part}.{name}": value for part in ("pretrain", "scratch") for name, value in PRETRAINING.items()}}
FLAGS = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]


def model() -> HubertConfig:
    """The shape of the base model, two blocks of width 16."""
    return with_overrides(preset("tiny"), SETTINGS).model


def write_tree(root: Path, seed: int = 3) -> Path:
    """An IEMOCAP tree of 24 utterances of 1 to 2 s: 3 sessions, 2 speakers each, every emotion once per speaker."""
    synthetic_corpus.write_corpus(root, seed=seed, num_sessions=3, utterances_per_speaker=4, mean_seconds=1.5,
                                  workers=1)
    return root


def write_base(directory: Path, seed: int = 0, **changes) -> Path:
    """A base model with random weights; changes: of its configuration."""
    torch.manual_seed(seed)
    Hubert(replace(model(), **changes)).save_pretrained(directory)
    return directory


# A frame of 45 ms every 40 ms, by one convolution more, and a batch norm of positions, as slprl/mhubert-base-25hz has:
# what makes `model` one of 25 Hz.
MODEL_25_HZ = {"conv_dim": (8,) * 8, "conv_kernel": (10, 3, 3, 3, 3, 2, 2, 2), "conv_stride": (5,) + (2,) * 7,
               "conv_pos_batch_norm": True}


def config(tree: Path, base: Path | str, run: Path, **changes) -> session_config.SessionConfig:
    """The configuration of one fold on the CPU, without the stage `frames`."""
    settings = {"iemocap": str(tree), "allow_partial": True, "hubert": str(base), "preset": "tiny", "out": str(run),
                "device": "cpu", "frames": False}
    return session_config.SessionConfig(**(settings | changes))


def digests(folder: Path, *names: str) -> dict[str, str]:
    """Digest of every file below a folder by its path, of links what they point at; names: only of such files."""
    return {str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else
            hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if (path.is_symlink() or path.is_file())
            and (not names or path.name in names)}


def products(run: Path) -> dict[str, str]:
    """Digests of what a run is for: codebooks, units, encoders, recognisers, predictions and results."""
    names = ("codebook.safetensors", "units.safetensors", "model.safetensors", "config.json",
             "preprocessor_config.json", "predictions.csv", "results.json")
    return {path: digest for path, digest in digests(run, *names).items() if "checkpoints" not in path}
