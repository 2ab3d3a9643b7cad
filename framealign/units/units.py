"""Frames -> units (HuBERT, Sec. II-B): MFCC or the states of a layer, k-means, one cluster index per 20 ms frame.

A `Codebook` is fitted or given; `Units` are its nearest centroids for every utterance of a manifest. The same two steps
make the units of task-adaptive pretraining and the pseudo-emotion units of the alignment paper (Sec. 2.2).
"""
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from framealign.runtime import distributed, files, log

from framealign.corpus.cropping import frame_counts
from framealign.corpus.utterance import corpus_digest
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

    def check(self, utterances: list, where: str) -> None:
        """Raise ValueError unless there is one unit for every frame of these utterances."""
        counts = frame_counts(utterances)
        found = self.offsets.diff()
        if len(found) != len(counts):
            raise ValueError(f"{where}: units of {len(found)} utterances, the manifest has {len(counts)}; make the "
                             "units of this manifest")
        for u in torch.nonzero(found != counts).flatten().tolist()[:1]:
            raise ValueError(f"{where}: utterance {utterances[u].id} has {int(found[u])} units but {int(counts[u])} "
                             "frames; make the units of this manifest")

    def write(self, path: str | Path) -> None:
        """Write `units.safetensors`: flat int16 (or int32) units, offsets, and where they are from as metadata."""
        small = self.num_clusters <= 2 ** 15
        content = {"units": self.units.to(torch.int16 if small else torch.int32), "offsets": self.offsets}
        metadata = {"num_clusters": str(self.num_clusters), "record": json.dumps(self.record)}
        files.write_bytes(path, files.safetensors_bytes(content, metadata))

    @classmethod
    def read(cls, path: str | Path) -> "Units":
        """Read `units.safetensors`. Raises ValueError for a file that is not one."""
        try:
            with safetensors.safe_open(path, "pt") as file:
                metadata, units, offsets = file.metadata(), file.get_tensor("units"), file.get_tensor("offsets")
            num_clusters, record = int(metadata["num_clusters"]), dict(json.loads(metadata["record"]))
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file") from None
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RecursionError, OSError) as error:
            raise ValueError(f"{path}: not a units file: {error}") from None
        if units.dtype not in (torch.int16, torch.int32) or units.ndim != 1:
            raise ValueError(f"{path}: units must be a list of int16 or int32, are {tuple(units.shape)} {units.dtype}")
        if offsets.dtype != torch.int64 or offsets.ndim != 1 or len(offsets) < 1 or int(offsets[0]) != 0 \
                or int(offsets[-1]) != len(units) or (offsets.diff() < 0).any():
            raise ValueError(f"{path}: its offsets do not fit its units")
        found = cls(units.int(), offsets, num_clusters, record)
        if len(units) and not 0 <= int(found.units.min()) <= int(found.units.max()) < found.num_clusters:
            raise ValueError(f"{path}: holds units outside 0 .. {found.num_clusters - 1}")
        return found

    def write_km(self, path: str | Path) -> None:
        """Write fairseq's `.km` text: a line per utterance, its units separated by blanks."""
        lines = [" ".join(map(str, self.of(u).tolist())) for u in range(len(self.offsets) - 1)]
        files.write_text(path, "".join(line + "\n" for line in lines))

    @classmethod
    def read_km(cls, path: str | Path, num_clusters: int | None = None) -> "Units":
        """Read fairseq's `.km` text. num_clusters: None for the largest unit + 1. Raises ValueError with the line."""
        rows = []
        try:
            for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
                words = line.split()
                bad = next((word for word in words if not (word.isascii() and word.isdigit() and len(word) < 10)), None)
                if bad is not None or not words:
                    raise ValueError(f"{path}:{number}: units must be whole numbers separated by blanks, got "
                                     f"{(bad or '')[:40]!r}")
                row = torch.tensor([int(word) for word in words], dtype=torch.int32)
                if num_clusters is not None and int(row.max()) >= num_clusters:
                    raise ValueError(f"{path}:{number}: holds unit {int(row.max())}, the codebook has {num_clusters}")
                rows.append(row)
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not readable as text: {error}") from None
        if not rows:
            raise ValueError(f"{path}: holds no line of units")
        units = torch.cat(rows)
        offsets = torch.tensor([0] + [len(row) for row in rows]).cumsum(0)
        return cls(units, offsets, num_clusters or int(units.max()) + 1, {"source": str(path)})


def unit_files(clusters: list[int]) -> list[tuple[str, str]]:
    """Names of the codebook and the units file for each number of clusters; of several they tell the number."""
    parts = [""] if len(clusters) == 1 else [f"-{number}" for number in clusters]
    return [(f"codebook{part}.safetensors", f"units{part}.safetensors") for part in parts]


def write_units(folder: Path, store: FrameStore, utterances: list, clusters: list[int], config: KMeansConfig,
                codebook: Codebook | None, record: dict) -> list[tuple[Units, Codebook]]:
    """`make_units` for each number of clusters from the same frames; all made, they are written into `folder`."""
    made = [make_units(store, utterances, number, config, codebook, record) for number in clusters]
    if distributed.rank() == 0:
        for names, (units, found) in zip(unit_files(clusters), made):
            found.write(folder / names[0])
            units.write(folder / names[1])
    return made


def make_units(store: FrameStore, utterances: list, num_clusters: int, config: KMeansConfig,
               codebook: Codebook | None, record: dict) -> tuple[Units, Codebook]:
    """Units of every utterance from its kept frames, by the codebook given or by one fitted to them.

    Each rank reads one stretch of the utterances; all get the same units and codebook as one process would.
    """
    bounds = [len(utterances) * part // distributed.world_size() for part in range(distributed.world_size() + 1)]
    mine = range(*bounds[distributed.rank():distributed.rank() + 2])
    if codebook is None:
        log.say(f"k-means: {num_clusters} clusters, {int(store.counts.sum())} frames")
        codebook = Codebook.fit(lambda: store.pieces(mine), num_clusters, config.seed, config, record)
    own = np.concatenate([np.zeros(0, np.int32), *(codebook.assign(x).int().numpy() for x in store.pieces(mine))])
    flat = torch.from_numpy(np.concatenate(distributed.all_gather_objects(own)))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), store.counts.cumsum(0)])
    record = {**record, "manifest": corpus_digest(utterances),
              "codebook_digest": files.digest_bytes(codebook.centroids.numpy().tobytes())}
    return Units(flat, offsets, len(codebook.centroids), record), codebook


def cluster_numbers(text: str) -> list[int]:
    """"32,64,128" -> [32, 64, 128]. Raises ValueError for what is no list of different whole numbers above 0."""
    words = [word.strip() for word in text.split(",")]
    if any(not (word.isascii() and word.isdigit() and len(word) < 7 and int(word)) for word in words) \
            or len({int(word) for word in words}) < len(words):
        raise ValueError(f"--clusters must be a number from 1 to 999999, or different ones separated by commas, "
                         f"got {text!r}")
    return [int(word) for word in words]
