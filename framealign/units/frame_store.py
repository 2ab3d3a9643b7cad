"""Frames of many utterances (MFCC, conv features, states) computed once and kept on the disk, in memory-mapped shards.

A store is a folder: one `.npy` file of frames (S, F) for each rank that wrote it, and `index.json`, which names width,
type, shards and what the frames depend on. The index is written last: a folder without one is an unfinished store, and
the next `FrameStore.fill` continues it.
"""
import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from framealign.runtime import distributed, files, log
from framealign.sound.frames import EVERY_20_MS, SAMPLE_RATE, Framing
from framealign.corpus.cropping import Crop, frame_counts, groups_by_length, load_checked, padded
from framealign.corpus.utterance import Utterance

KEPT_TYPES = ("float16", "bfloat16", "float32")
SAVE_SECONDS = 10.0                                 # between two notes of how far a shard has been filled


@dataclass(frozen=True)
class Extraction:
    """What is computed of every utterance, and how it is kept."""
    name: str                                       # in messages: "layer 9"
    key: str                                        # digest of all that the frames depend on; the same key, the same
    width: int                                      # F
    # Waveforms (N,) of like lengths -> of each its frames (T, F), or an iterator over pieces (t, F) of them.
    compute: Callable[[list[Tensor]], list[Tensor | Iterator[Tensor]]]
    do_normalize: bool                              # whether waveforms are given zero mean and unit variance first
    dtype: str = "float16"                          # one of `KEPT_TYPES`
    batch_seconds: float = 60.0                     # of sound computed at once, padding included
    framing: Framing = EVERY_20_MS                  # where the frames lie
    per_utterance: bool = False                     # one row (1, F) of each utterance is kept, in place of its frames


class FrameStore:
    """Frames of a list of utterances in memory-mapped shards; reads what `FrameStore.fill` has written.

    Or one row of each (`Extraction.per_utterance`), which is then read as its only frame.
    Utterances of like lengths are computed in groups, which do not depend on the number of ranks. Of W shards, shard w
    holds groups w, w + W, w + 2 W, ..., its utterances in the order of the list.

    Raises ValueError where the folder holds no finished store, or one of other utterances.
    """

    def __init__(self, directory: str | Path, utterances: Sequence[Utterance]):
        self.directory = Path(directory)
        self.utterances = utterances
        self.index = _read_index(self.directory)
        self.framing = Framing(self.index["hop"], self.index["receptive_field"])
        num_frames = frame_counts(utterances, self.framing)                     # (U,)
        self.counts = row_counts(num_frames, self.index.get("per_utterance", False))            # (U,)
        self.dtype = self.index["dtype"]            # in which frames are read: as kept, or rounded as if kept so
        shards = self.index["shards"]
        try:
            self.maps = [np.load(self.directory / name, mmap_mode="r", allow_pickle=False) for name in shards]
        except OSError as error:
            raise ValueError(f"{directory}: a shard cannot be read ({error}); delete it and run again") from None

        groups = _groups(num_frames, self.index["group_frames"])
        self.places = [_places(self.counts, groups[shard::len(shards)]) for shard in range(len(shards))]
        sizes = [int(self.counts[list(places)].sum()) for places in self.places]
        if [len(frames) for frames in self.maps] != sizes:
            raise ValueError(f"{directory}: holds frames of another list of utterances; delete it and run again")
        self.shard_of = {utterance: shard for shard, places in enumerate(self.places) for utterance in places}

    @classmethod
    def fill(cls, directory: str | Path, utterances: Sequence[Utterance], extraction: Extraction) -> "FrameStore":
        """Compute and keep every utterance's frames, sharded over ranks; kept ones of the same key are used again.

        An interrupted fill continues where it was (`_fill_shard`). The size is printed before anything is computed.
        Raises ValueError, naming the utterance, where its frames are not as many as its samples give.
        """
        directory = Path(directory)
        store = cls._kept(directory, utterances, extraction)
        if not distributed.on_any_rank(store is None):
            return store
        if distributed.rank() == 0:
            (directory / "index.json").unlink(missing_ok=True)
            directory.mkdir(parents=True, exist_ok=True)
        distributed.barrier()

        num_frames = frame_counts(utterances, extraction.framing)
        counts = row_counts(num_frames, extraction.per_utterance)
        size = kept_bytes(counts, extraction.width, extraction.dtype)
        rows = "utterances" if extraction.per_utterance else "frames"
        log.say(f"{extraction.name}: {int(counts.sum())} {rows} of {extraction.width} x {extraction.dtype}, "
                f"{size / 1e9:.3g} GB in {directory}")
        note = _fill_shard(directory, utterances, num_frames, extraction)
        distributed.barrier()                       # all shards are whole

        if distributed.rank() == 0:
            shards = [_shard_name(shard, distributed.world_size()) for shard in range(distributed.world_size())]
            files.write_json(directory / "index.json", {
                "key": extraction.key, "width": extraction.width, "dtype": extraction.dtype, "shards": shards,
                "hop": extraction.framing.hop, "receptive_field": extraction.framing.receptive_field,
                "group_frames": _group_frames(extraction), "utterances": len(utterances), "frames": int(counts.sum()),
                "per_utterance": extraction.per_utterance})
        note.unlink(missing_ok=True)
        distributed.barrier()
        return cls(directory, utterances)

    @classmethod
    def _kept(cls, directory: Path, utterances: Sequence[Utterance], extraction: Extraction) -> "FrameStore | None":
        """A finished store of the very frames that are wanted; None where there is none."""
        try:
            store = cls(directory, utterances)
        except (ValueError, OSError, EOFError, KeyError):
            return None                             # absent, unfinished or damaged
        if store.index["key"] != extraction.key or store.index["dtype"] not in (extraction.dtype, "float32"):
            return None
        store.dtype = extraction.dtype              # of float32, in which frames are computed, any type can be read
        return store

    def read(self, utterance: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Frames [start, stop) of an utterance: (T, F) float32."""
        if stop is None:
            stop = int(self.counts[utterance])
        shard = self.shard_of[utterance]
        first = self.places[shard][utterance]
        frames = self.maps[shard][first + start:first + stop]
        if not isinstance(frames, Tensor):
            frames = _typed(torch.from_numpy(np.array(frames)), self.index["dtype"])
        return frames.to(getattr(torch, self.dtype)).float()

    def pieces(self, utterances: Iterable[int], size: int = 3000) -> Iterator[Tensor]:
        """All frames of these utterances in order, (t, F) float32: at most `size`, a minute, of one at a time."""
        for utterance in utterances:
            count = int(self.counts[utterance])
            for start in range(0, count, size):
                yield self.read(utterance, start, min(start + size, count))

    def batch(self, crops: Sequence[Crop]) -> tuple[Tensor, Tensor]:
        """Crops, zero-padded at the end: (B, T, F) float32 frames and each one's number of frames (B,) int64."""
        rows = [self.read(crop.utterance, crop.start, crop.start + crop.frames) for crop in crops]
        return padded(rows)

    def hold(self, device: torch.device, share: float = 0.25) -> "FrameStore":
        """Keep all frames in the memory of `device`, where they take at most `share` of what a GPU has free."""
        size = sum(frames.nbytes for frames in self.maps)
        if device.type != "cuda" or size <= share * torch.cuda.mem_get_info(device)[0]:
            self.maps = [_typed(torch.from_numpy(np.array(frames)), self.index["dtype"]).to(device)
                         for frames in self.maps]
        return self


def row_counts(num_frames: Tensor, per_utterance: bool) -> Tensor:
    """Rows kept of utterances of `num_frames` (U,) frames: as many, or one of each."""
    return torch.ones_like(num_frames) if per_utterance else num_frames


def kept_bytes(counts: Tensor, width: int, dtype: str) -> int:
    """Bytes of utterances of `counts` (U,) frames, `width` numbers each, kept as float16, bfloat16 or float32."""
    return int(counts.sum()) * width * torch.finfo(getattr(torch, dtype)).bits // 8


def _read_index(directory: Path) -> dict:
    """`index.json` of a store. Raises ValueError where it is missing or not one."""
    index = files.read_json(directory / "index.json")
    shards = index.get("shards")
    if not isinstance(shards, list) or not shards or not all(
            isinstance(name, str) and re.fullmatch(r"[\w.-]{1,100}\.npy", name) for name in shards):
        raise ValueError(f"{directory}: its index.json names no shards; delete it and run again")
    numbers = [index.get(name) for name in ("group_frames", "hop", "receptive_field")]
    if not all(type(number) is int and number >= 0 for number in numbers) or not index["hop"] \
            or index.get("dtype") not in KEPT_TYPES:
        raise ValueError(f"{directory}: its index.json says no group_frames, hop or dtype; delete it and run again")
    return index


def _fill_shard(directory: Path, utterances: Sequence[Utterance], num_frames: Tensor, extraction: Extraction) -> Path:
    """Compute this rank's groups and write their frames into its shard. Returns the note, to be removed at the end.

    num_frames (U,): of each utterance, by which they are grouped.
    Every few seconds the note, `done-<rank>-of-<ranks>.json`, records how many groups are in the shard, so that an
    interrupted fill with the same key, type and ranks continues after them.
    """
    rank, world = distributed.rank(), distributed.world_size()
    path = directory / _shard_name(rank, world)
    note = directory / f"done-{rank:05d}-of-{world:05d}.json"
    group_frames = _group_frames(extraction)
    groups = _groups(num_frames, group_frames)[rank::world]
    counts = row_counts(num_frames, extraction.per_utterance)
    places = _places(counts, groups)
    shape = (int(counts[list(places)].sum()), extraction.width)
    of_this_shard = {"key": extraction.key, "dtype": extraction.dtype, "group_frames": group_frames,
                     "shape": list(shape)}
    first = _groups_done(note, of_this_shard, path)
    if first:
        log.say(f"{extraction.name}: continues after {first} of {len(groups)} batches")

    dtype = "int16" if extraction.dtype == "bfloat16" else extraction.dtype
    shard = np.lib.format.open_memmap(path, mode="r+" if first else "w+", shape=shape, dtype=dtype)
    files.reserve(path)
    saved = time.monotonic()
    batches = log.progress(groups[first:], len(groups) - first, extraction.name, "batches")
    for number, group in enumerate(batches, first):
        if number > first and time.monotonic() - saved >= SAVE_SECONDS:
            shard.flush()
            files.write_json(note, of_this_shard | {"groups": number})
            saved = time.monotonic()

        waveforms = [load_checked(utterances[utterance], extraction.do_normalize) for utterance in group]
        for utterance, frames in zip(group, extraction.compute(waveforms)):
            expected = int(counts[utterance])
            place = places[utterance]
            number_of_frames = _put(shard[place:place + expected], frames, getattr(torch, extraction.dtype))
            if number_of_frames != expected:
                raise ValueError(f"utterance {utterances[utterance].id}: the model gives {number_of_frames} frames, "
                                 f"{expected} were expected (one every {extraction.framing.hop} samples)")
    shard.flush()
    return note


def _groups_done(note: Path, of_this_shard: dict, path: Path) -> int:
    """How many groups an interrupted `_fill_shard` had put into its shard; 0 where that cannot be continued."""
    try:
        content = files.read_json(note)
        groups = content.pop("groups")
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, KeyError):
        return 0
    is_same = content == of_this_shard and list(shard.shape) == of_this_shard["shape"]
    return groups if is_same and type(groups) is int else 0


def _put(room: np.ndarray, frames: Tensor | Iterator[Tensor], dtype: torch.dtype) -> int:
    """Write an utterance's frames (T, F), or pieces (t, F) of them, into its room (T, F). Returns how many they are.

    More frames than there is room for are counted and not written.
    """
    count = 0
    for piece in [frames] if isinstance(frames, Tensor) else frames:
        end = count + len(piece)
        if end <= len(room):
            piece = piece.to("cpu", dtype)
            if dtype == torch.bfloat16:
                piece = piece.view(torch.int16)     # numpy has no bfloat16: its bits are stored as they are
            room[count:end] = piece.numpy()
        count = end
    return count


def _typed(stored: Tensor, dtype: str) -> Tensor:
    """Stored numbers in the type they are of: bfloat16 is stored as int16 of the same bits."""
    return stored.view(torch.bfloat16) if dtype == "bfloat16" else stored


def _shard_name(shard: int, world: int) -> str:
    return f"frames-{shard:05d}-of-{world:05d}.npy"


def _group_frames(extraction: Extraction) -> int:
    """Hops of sound that are computed at once."""
    return round(extraction.batch_seconds * SAMPLE_RATE) // extraction.framing.hop


def _groups(counts: Tensor, group_frames: int) -> list[list[int]]:
    """Utterances computed together: of like lengths, at most `group_frames` hops of sound with padding, or alone."""
    return groups_by_length((counts + 2).tolist(), range(len(counts)), group_frames)


def _places(counts: Tensor, groups: list[list[int]]) -> dict[int, int]:
    """First frame of each utterance in the shard that holds these groups, in the order of the list of utterances."""
    utterances = sorted(itertools.chain(*groups))
    starts = [0, *counts[utterances].cumsum(0).tolist()]
    return dict(zip(utterances, starts))
