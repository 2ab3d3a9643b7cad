"""The smallest pretraining: its settings, an encoder, random units; and the log it leaves, without clocks."""
import dataclasses
import json
from pathlib import Path

import torch

from framealign.corpus.cropping import frame_counts
from framealign.hubert.model import Hubert
from framealign.units.units import Units
from framealign.training.training_config import PretrainConfig

TIMING = {"audio_seconds_per_second", "seconds_left"}


def settings(**changes: object) -> PretrainConfig:
    """Three micro-batches an update, crops of at most 0.6 s."""
    return PretrainConfig(**({"seed": 3, "updates": 12, "warmup_updates": 3, "peak_lr": 2e-3, "batch_seconds": 6,
                              "micro_batch_seconds": 2, "min_seconds": 0.3, "max_seconds": 0.6, "projection_size": 8,
                              "valid_fraction": 0.1, "valid_every_updates": 4, "log_every_updates": 1,
                              "save_every_updates": 5} | changes))


def base(config, seed: int = 1, **changes: object) -> Hubert:
    torch.manual_seed(seed)
    return Hubert(dataclasses.replace(config, **changes))


def random_units(utterances: list, num_clusters: int = 5) -> Units:
    counts = frame_counts(utterances)
    generator = torch.Generator().manual_seed(0)
    flat = torch.randint(num_clusters, (int(counts.sum()),), generator=generator).int()
    return Units(flat, torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]), num_clusters, {})


def read_log(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMING} for line in lines]
