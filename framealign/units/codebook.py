"""A codebook: K centroids, fitted by k-means or read from a file. Its nearest centroid is a frame's unit.

Hidden units by k-means, of which features and in how many clusters: HuBERT, Sec. II-A and IV-B.
"""
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from torch import Tensor

from framealign.runtime import files
from framealign.exchange import scikit_learn_codebook
from framealign.units import kmeans
from framealign.units.frame_source import Chunks
from framealign.units.kmeans import KMeansConfig


SOURCE = ("feature", "layer", "encoder", "frame_rate")      # in a record: what kind of frames was clustered


@dataclass(frozen=True)
class Codebook:
    """Centroids (K, F) float32 with the frames each won (K,) int64, the mean squared distance and where it is from."""
    centroids: Tensor
    counts: Tensor
    inertia: float
    record: dict

    @classmethod
    def fit(cls, frames: Chunks, num_clusters: int, seed: int = 0, config: KMeansConfig = KMeansConfig(),
            record: dict | None = None) -> "Codebook":
        """Fit to frames (S, F), a float tensor or an iterable of such chunks. Same seed, same codebook.

        Raises ValueError as `kmeans.fit` does.
        """
        centroids, counts, inertia = kmeans.fit(frames, num_clusters, dataclasses.replace(config, seed=seed))
        return cls(centroids.cpu(), counts.cpu(), inertia, {"seed": seed, **(record or {})})

    @property
    def digest(self) -> str:
        """Digest of the centroids, by which units name the codebook they were made with."""
        return files.digest_bytes(self.centroids.numpy().tobytes())

    def check_source(self, record: dict, what_to_do: str) -> None:
        """Raise ValueError where frames, described by `record`, are not of the kind that the codebook was fitted on.

        Compared is what both records say of feature, layer, encoder and frame rate: a file of another program says
        nothing.
        """
        for name in SOURCE:
            mine, theirs = self.record.get(name), record.get(name)
            if mine is not None and mine != theirs:
                raise ValueError(f"the codebook was fitted on frames of {name} {mine}, these are of {name} {theirs}: "
                                 f"its units would mean nothing; {what_to_do}")

    def assign(self, frames: Tensor) -> Tensor:
        """Nearest centroid of each frame: (S, F) -> (S,) int64. Raises ValueError for another width or NaN."""
        if frames.shape[-1] != self.centroids.shape[1]:
            raise ValueError(f"codebook of {self.centroids.shape[1]} dimensions cannot label frames of "
                             f"{frames.shape[-1]}: it was fitted on another model or feature")
        if not torch.isfinite(frames).all():
            raise ValueError("frames to be labelled hold NaN or infinity: did the model diverge?")
        return kmeans.assign(frames, self.centroids.to(frames.device))

    def write(self, path: str | Path) -> None:
        """Write `codebook.safetensors`: centroids, counts; inertia and the record as metadata."""
        content = {"centroids": self.centroids.contiguous(), "counts": self.counts}
        metadata = {"inertia": json.dumps(self.inertia), "record": json.dumps(self.record)}
        files.write_bytes(path, files.safetensors_bytes(content, metadata))

    @classmethod
    def read(cls, path: str | Path) -> "Codebook":
        """Read `codebook.safetensors`; also `.npy` and scikit-learn's joblib file (fairseq's `*_km500.bin`).

        Files of others have no counts (0), no inertia (NaN), and their path as the record. Raises ValueError for a file
        that holds no codebook.
        """
        matrix = scikit_learn_codebook.read_centroids(path)
        centroids = torch.from_numpy(np.ascontiguousarray(matrix, dtype=np.float32))
        counts = torch.zeros(len(centroids), dtype=torch.int64)
        metadata = {}
        if Path(path).suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if "counts" in file.keys():
                    counts = file.get_tensor("counts")
        if counts.shape != (len(centroids),) or counts.dtype != torch.int64:
            raise ValueError(f"{path}: must count frames of {len(centroids)} centroids, has counts "
                             f"{tuple(counts.shape)} of {counts.dtype}")
        try:
            record = dict(json.loads(metadata.get("record", "{}")))
            inertia = float(json.loads(metadata.get("inertia", "NaN")))
        except (TypeError, ValueError, RecursionError):
            raise ValueError(f"{path}: its metadata is not what a codebook holds") from None
        return cls(centroids, counts, inertia, record or {"source": str(path)})
