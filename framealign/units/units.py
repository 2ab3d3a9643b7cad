"""Frames -> units (HuBERT, Sec. II-A): each frame (of 20 ms) gets the index of its nearest centroid.

A codebook is fitted or given; `make_units` assigns every frame of a store. The same step makes the units of
task-adaptive pretraining (alignment paper, Sec. 2.1) and its pseudo-emotion units (Sec. 2.2).
"""
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from torch import Tensor

from framealign.runtime import distributed, files, log
from framealign.sound.frames import HOP, RECEPTIVE_FIELD, Framing
from framealign.corpus.cropping import frame_counts
from framealign.corpus.utterance import Utterance, corpus_digest
from framealign.units.codebook import Codebook
from framealign.units.frame_store import FrameStore
from framealign.units.kmeans import KMeansConfig


@dataclass(frozen=True)
class Units:
    """One unit per frame of every utterance, flat, in manifest order: units (S,) int32, offsets (U + 1,) int64."""
    units: Tensor
    offsets: Tensor
    num_clusters: int
    record: dict

    def of(self, utterance: int) -> Tensor:
        """Units of one utterance, (T,) int64."""
        return self.units[self.offsets[utterance]:self.offsets[utterance + 1]].long()

    @property
    def framing(self) -> Framing:
        """Where the frames lie that were labelled: as the record says; 20 ms apart where it says nothing (`.km`)."""
        return Framing(self.record.get("hop", HOP), self.record.get("receptive_field", RECEPTIVE_FIELD))

    def check(self, utterances: Sequence[Utterance], where: str, framing: Framing | None = None) -> None:
        """Raise ValueError, with `where`, unless there is one unit for every frame of these very utterances.

        Their order and the content of their sound files are compared where the record tells them. framing: of the
        model that is to predict them; None: the units' own. Every rank calls it alike.
        """
        framing = framing or self.framing
        if "hop" in self.record and self.framing != framing:
            raise ValueError(f"{where}: its units were made for {self.framing}, the model has {framing}; make units "
                             "with a model of the same convolutions")
        expected = frame_counts(utterances, framing)
        counts = self.offsets.diff()
        if len(counts) != len(expected):
            raise ValueError(f"{where}: units of {len(counts)} utterances, the manifest has {len(expected)}; make the "
                             "units of this manifest")
        for utterance, count, frames in zip(utterances, counts.tolist(), expected.tolist()):
            if count != frames:
                raise ValueError(f"{where}: utterance {utterance.id} has {count} units but {frames} frames; make the "
                                 "units of this manifest")
        made_of = self.record.get("manifest")       # text of fairseq's says nothing
        if made_of is None:
            return
        digest = corpus_digest(utterances)
        if made_of != digest:
            raise ValueError(f"{where}: made of other utterances, of other sound, or in another order (their digest "
                             f"{made_of}, the manifest's {digest}); make the units of this manifest")

    def write(self, path: str | Path) -> None:
        """Write `units.safetensors`: flat int16 (or int32) units, offsets, and where they are from as metadata."""
        dtype = torch.int16 if self.num_clusters <= 2 ** 15 else torch.int32
        content = {"units": self.units.to(dtype), "offsets": self.offsets}
        metadata = {"num_clusters": str(self.num_clusters), "record": json.dumps(self.record)}
        files.write_bytes(path, files.safetensors_bytes(content, metadata))

    @classmethod
    def read(cls, path: str | Path) -> "Units":
        """Read `units.safetensors`. Raises ValueError for a file that is not one."""
        try:
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata()
                units = file.get_tensor("units")
                offsets = file.get_tensor("offsets")
            num_clusters = int(metadata["num_clusters"])
            record = dict(json.loads(metadata["record"]))
            sizes = [record.get(name, 1) for name in ("hop", "receptive_field")]
            if not all(type(size) is int and size > 0 for size in sizes):
                raise ValueError("its record's hop and receptive_field must be whole numbers of samples")
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file") from None
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RecursionError, OSError) as error:
            raise ValueError(f"{path}: not a units file: {error}") from None

        if units.dtype not in (torch.int16, torch.int32) or units.ndim != 1:
            raise ValueError(f"{path}: units must be a list of int16 or int32, are {tuple(units.shape)} {units.dtype}")
        is_list = offsets.dtype == torch.int64 and offsets.ndim == 1 and len(offsets) > 0
        if not is_list or int(offsets[0]) != 0 or int(offsets[-1]) != len(units) or (offsets.diff() < 0).any():
            raise ValueError(f"{path}: its offsets do not fit its units")
        units = units.int()
        if len(units) and not 0 <= int(units.min()) <= int(units.max()) < num_clusters:
            raise ValueError(f"{path}: holds units outside 0 .. {num_clusters - 1}")
        return cls(units, offsets, num_clusters, record)

    def write_km(self, path: str | Path) -> None:
        """Write fairseq's `.km` text: a line per utterance, its units separated by blanks."""
        lines = []
        for utterance in range(len(self.offsets) - 1):
            lines.append(" ".join(map(str, self.of(utterance).tolist())) + "\n")
        files.write_text(path, "".join(lines))

    @classmethod
    def read_km(cls, path: str | Path, num_clusters: int | None = None) -> "Units":
        """Read fairseq's `.km` text. num_clusters: None for the largest unit + 1. Raises ValueError with the line."""
        try:
            text = Path(path).read_text(encoding="utf-8-sig").rstrip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not readable as text: {error}") from None

        rows = [_km_row(line, f"{path}:{number}", num_clusters) for number, line in enumerate(text.splitlines(), 1)]
        if not rows:
            raise ValueError(f"{path}: holds no line of units")
        units = torch.cat(rows)
        offsets = torch.tensor([0] + [len(row) for row in rows]).cumsum(0)
        return cls(units, offsets, num_clusters or int(units.max()) + 1, {"source": str(path)})


def make_units(store: FrameStore, num_clusters: int, config: KMeansConfig, codebook: Codebook | None,
               record: dict) -> tuple[Units, Codebook]:
    """Units of every utterance of a store, by the codebook given or by one of K clusters fitted to its frames.

    Each rank reads one stretch of the utterances; all get the same units and codebook as one process would. `record`
    says where both are from. Raises ValueError for a codebook fitted on other frames, or frames that are not finite.
    """
    framing = store.framing
    record = {**record, "frame_rate": framing.rate, "hop": framing.hop, "receptive_field": framing.receptive_field}
    number, world, rank = len(store.utterances), distributed.world_size(), distributed.rank()
    mine = range(number * rank // world, number * (rank + 1) // world)
    if codebook is None:
        log.say(f"k-means: {num_clusters} clusters, {int(store.counts.sum())} frames")
        codebook = Codebook.fit(lambda: store.pieces(mine), num_clusters, config.seed, config, record)
    else:
        codebook.check_source(record, "leave the codebook out to fit one")

    parts = [np.zeros(0, np.int32)]                 # where this rank has no utterance
    for frames in store.pieces(mine):
        parts.append(codebook.assign(frames).int().numpy())
    of_ranks = distributed.all_gather_objects(np.concatenate(parts))
    units = torch.from_numpy(np.concatenate(of_ranks))                          # (S,)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), store.counts.cumsum(0)])
    record = {**record, "manifest": corpus_digest(store.utterances),
              "codebook_digest": codebook.digest}
    return Units(units, offsets, len(codebook.centroids), record), codebook


def write_units(folder: Path, store: FrameStore, clusters: Sequence[int], config: KMeansConfig,
                codebook: Codebook | None, record: dict) -> list[tuple[Units, Codebook]]:
    """`make_units` for each number of clusters from the same frames; then all are written into `folder`.

    With several numbers this is a cluster ensemble: HuBERT, Sec. II-C.
    """
    results = [make_units(store, number, config, codebook, record) for number in clusters]
    if distributed.rank() == 0:
        for (codebook_name, units_name), (units, own_codebook) in zip(unit_files(clusters), results):
            own_codebook.write(folder / codebook_name)
            units.write(folder / units_name)
    return results


def unit_files(clusters: Sequence[int]) -> list[tuple[str, str]]:
    """Names of the codebook and the units file for each number of clusters, which several names contain."""
    parts = [""] if len(clusters) == 1 else [f"-{number}" for number in clusters]
    return [(f"codebook{part}.safetensors", f"units{part}.safetensors") for part in parts]


def cluster_numbers(text: str) -> list[int]:
    """"32,64,128" -> [32, 64, 128]. Raises ValueError for what is no list of different whole numbers above 0."""
    words = [word.strip() for word in text.split(",")]
    are_numbers = all(word.isascii() and word.isdigit() and len(word) < 7 for word in words)
    numbers = [int(word) for word in words] if are_numbers else []
    if not numbers or 0 in numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"--clusters must be a number from 1 to 999999, or different ones separated by commas, "
                         f"got {text!r}")
    return numbers


def _km_row(line: str, where: str, num_clusters: int | None) -> Tensor:
    """The units of one line of `.km` text, (T,) int32. Raises ValueError, with `where`, for anything else."""
    words = line.split()
    bad = [word for word in words if not (word.isascii() and word.isdigit() and len(word) < 10)]
    if bad or not words:
        raise ValueError(f"{where}: units must be whole numbers separated by blanks, got "
                         f"{(bad[0] if bad else '')[:40]!r}")
    row = torch.tensor([int(word) for word in words], dtype=torch.int32)
    if num_clusters is not None and int(row.max()) >= num_clusters:
        raise ValueError(f"{where}: holds unit {int(row.max())}, the codebook has {num_clusters}")
    return row
