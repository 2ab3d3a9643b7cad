"""Frames -> units (HuBERT, Sec. II-B): MFCC or the states of a layer, k-means, one cluster index per 20 ms frame.

A `Codebook` is fitted or given; `Units` are its nearest centroids for every utterance of a manifest. The same two steps
make the units of task-adaptive pretraining and the pseudo-emotion units of the alignment paper (Sec. 2.2).
"""
import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from framealign.runtime import distributed, files, log
from framealign.hubert import long_sound
from framealign.exchange import codebook_files
from framealign.units import kmeans
from framealign.runtime.settings import FinetuneConfig, KMeansConfig, PretrainConfig
from framealign.corpus.cropping import FrameStore, Waveforms, frame_counts
from framealign.sound.mfcc import mfcc
from framealign.hubert.model import Hubert


@dataclass(frozen=True)
class Codebook:
    """Centroids (K, F) float32 with the frames each won (K,) int64, the mean squared distance and where it is from."""
    centroids: Tensor
    counts: Tensor
    inertia: float
    record: dict

    @classmethod
    def fit(cls, frames, num_clusters: int, seed: int = 0, config: KMeansConfig = KMeansConfig(),
            record: dict | None = None) -> "Codebook":
        """Fit to frames (S, F), a float tensor or an iterable of such chunks. Same seed, same codebook."""
        found, counts, inertia = kmeans.fit(frames, num_clusters, dataclasses.replace(config, seed=seed))
        return cls(found.cpu(), counts.cpu(), inertia, {"seed": seed, **(record or {})})

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
        metadata = {"inertia": json.dumps(self.inertia), "record": json.dumps(self.record)}
        content = {"centroids": self.centroids.contiguous(), "counts": self.counts}
        files.write_bytes(path, in_order(content, metadata))

    @classmethod
    def read(cls, path: str | Path) -> "Codebook":
        """Read `codebook.safetensors`; also `.npy` and scikit-learn's joblib file (fairseq's `*_km500.bin`)."""
        found = torch.from_numpy(np.ascontiguousarray(codebook_files.read_centroids(path), dtype=np.float32))
        counts, metadata = torch.zeros(len(found), dtype=torch.int64), {}
        if Path(path).suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                counts = file.get_tensor("counts") if "counts" in file.keys() else counts
        if counts.shape != (len(found),) or counts.dtype != torch.int64:
            raise ValueError(f"{path}: must count frames of {len(found)} centroids, has counts {tuple(counts.shape)} "
                             f"of {counts.dtype}")
        try:
            record = dict(json.loads(metadata.get("record", "{}")))
            inertia = float(json.loads(metadata.get("inertia", "NaN")))
        except (TypeError, ValueError, RecursionError):
            raise ValueError(f"{path}: its metadata is not what a codebook holds") from None
        return cls(found, counts, inertia, record or {"source": str(path)})


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
        files.write_bytes(path, in_order(content, metadata))

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


def in_order(content: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file, the same bytes for the same content: the library alone puts metadata in random order."""
    whole = safetensors.torch.save(content, metadata)
    start = 8 + int.from_bytes(whole[:8], "little")                             # of the tensors, after the header
    header = json.loads(whole[8:start]) | {"__metadata__": metadata}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)                 # tensors stay aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text + whole[start:]


def mfcc_store(utterances: list, directory: Path) -> FrameStore:
    """13 MFCC with deltas and delta-deltas of every utterance, from the waveform as it is in the file."""
    return FrameStore.fill(directory, utterances, 39, lambda waveforms: [mfcc(x) for x in waveforms],
                           files.digest_of(["mfcc", identity(utterances)]), do_normalize=False, what="MFCC")


def state_store(hubert: Hubert, layer: int, utterances: list, directory: Path, device: torch.device,
                precision: str = "float32") -> FrameStore:
    """States of one layer of every utterance; the layers above it are not computed. Nothing is masked."""
    if not 0 <= layer <= hubert.config.num_hidden_layers:
        raise ValueError(f"layer must be in [0, {hubert.config.num_hidden_layers}], got {layer}")
    return _filled(hubert, directory, utterances, hubert.config.hidden_size,
                   lambda waveforms: hubert.states_of(waveforms, layer),
                   lambda waveform: long_sound.states(hubert, waveform, layer, device), f"layer {layer}", device,
                   precision)


def frontend_store(hubert: Hubert, utterances: list, directory: Path, device: torch.device,
                   dtype: str = "float16") -> FrameStore:
    """Output of the (frozen) conv encoder for every utterance: what training would otherwise compute every epoch."""
    return _filled(hubert, directory, utterances, hubert.config.conv_dim[-1],
                   lambda waveforms: [hubert.features_of(x) for x in waveforms],
                   lambda waveform: (x[0, kept] for kept, x in long_sound.features(hubert, waveform, device)), "frontend",
                   device, dtype=dtype)


def frame_source(hubert: Hubert, utterances: list, config: PretrainConfig | FinetuneConfig, directory: Path,
                 device: torch.device) -> FrameStore | Waveforms:
    """What training reads: the frozen conv encoder's kept output, or sound where it trains or is not to be kept."""
    if config.freeze_conv and config.cache_frontend:
        store = frontend_store(hubert, utterances, directory, device, config.kept_type)
        return store.hold(device) if device.type == "cuda" else store       # the system keeps read pages in memory
    return Waveforms(utterances, hubert.do_normalize)


def _filled(hubert: Hubert, directory: Path, utterances: list, width: int,
            forward: Callable[[list[Tensor]], list[Tensor]], by_windows: Callable[[Tensor], Iterator[Tensor]],
            what: str, device: torch.device, precision: str = "float32", dtype: str = "float16") -> FrameStore:
    """Compute and keep, or find kept, what `forward` gives for these utterances: (N,) each -> (T, width) each.

    by_windows: of one waveform (N,) longer than a window, the same in pieces (t, width). It comes alone in its batch.
    """
    hubert = hubert.to(device).eval()

    def compute(waveforms: list[Tensor]) -> list[Tensor | Iterator[Tensor]]:
        if len(waveforms) == 1 and hubert.num_frames(torch.tensor(len(waveforms[0]))) > long_sound.WHOLE:
            return [by_windows(waveforms[0])]
        return forward([x.to(device) for x in waveforms])

    state = hubert.feature_extractor.state_dict() if what == "frontend" else hubert.state_dict()
    key = files.digest_of([what, hubert.do_normalize, digest_of_state(state), identity(utterances), precision])
    # One context for all: weights are rounded to bfloat16 once. On a CPU longer groups leave the caches.
    with torch.inference_mode(), distributed.autocast(device, precision)():
        return FrameStore.fill(directory, utterances, width, compute, key, hubert.do_normalize, what, dtype,
                               20.0 if device.type == "cpu" else 120.0)


def padded(waveforms: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Waveforms (N,) as one zero-padded batch (B, N) and their lengths (B,), on `device`."""
    batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(device)
    return batch, torch.tensor([len(x) for x in waveforms], device=device)


def identity(utterances: list) -> str:
    """Digest of which utterances these are (id, path, length), in their order."""
    return files.digest_of([(u.id, str(u.path), u.num_samples) for u in utterances])


def described(utterances: list) -> str:
    """Which utterances these are, for a record: their number and a digest of ids, paths and lengths in their order."""
    return f"{len(utterances)} utterances (digest {identity(utterances)})"


def digest_of_state(state: dict[str, Tensor]) -> str:
    """Digest of names and values of a state dict."""
    return files.digest_of([(name, files.digest_bytes(x.detach().cpu().contiguous().numpy().tobytes()))
                            for name, x in sorted(state.items())])


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
    record = {**record, "manifest": identity(utterances),
              "codebook_digest": files.digest_bytes(codebook.centroids.numpy().tobytes())}
    return Units(flat, offsets, len(codebook.centroids), record), codebook
