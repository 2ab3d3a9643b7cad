"""Frames of many utterances (conv features, states) kept on the disk in memory-mapped shards."""
import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from framealign.runtime import distributed, files, log
from framealign.sound.frames import HOP, SAMPLE_RATE
from framealign.corpus.cropping import Crop, frame_counts, groups_by_length, load_checked


KEPT_TYPES = ("float16", "bfloat16", "float32")
SAVE_SECONDS = 10.0                                 # between two notes of how far a frame store has been filled


class FrameStore:
    """Frames (features, states) of a list of utterances in memory-mapped shards, one per rank that wrote them.

    `index.json` says width, type, shards and whose frames they are; it is written last, so a folder without it is an
    unfinished store. Utterances of like lengths are computed in groups, which do not depend on the number of ranks;
    group g lies in shard g mod W, a shard's utterances in the order of the list.
    """

    def __init__(self, directory: str | Path, counts: Tensor):
        self.directory, self.counts = Path(directory), counts
        self.index = files.read_json(self.directory / "index.json")
        shards = self.index.get("shards")
        if not isinstance(shards, list) or not shards or not all(
                isinstance(name, str) and re.fullmatch(r"[\w.-]{1,100}\.npy", name) for name in shards):
            raise ValueError(f"{directory}: its index.json names no shards; delete it and run again")
        if type(self.index.get("group_frames")) is not int or self.index.get("dtype") not in KEPT_TYPES:
            raise ValueError(f"{directory}: its index.json says no group_frames or dtype; delete it and run again")
        try:
            self.maps = [np.load(self.directory / name, mmap_mode="r", allow_pickle=False) for name in shards]
        except OSError as error:
            raise ValueError(f"{directory}: a shard cannot be read ({error}); delete it and run again") from None
        groups = _groups(counts, self.index["group_frames"])
        self.places = [_places(counts, sorted(itertools.chain(*groups[shard::len(shards)])))
                       for shard in range(len(shards))]
        if [len(frames) for frames in self.maps] != [int(counts[list(place)].sum()) for place in self.places]:
            raise ValueError(f"{directory}: holds frames of another list of utterances; delete it and run again")
        self.shard_of = {u: shard for shard, place in enumerate(self.places) for u in place}

    def read(self, utterance: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Frames [start, stop) of an utterance: (T, F) float32."""
        shard = self.shard_of[utterance]
        first, stop = self.places[shard][utterance], int(self.counts[utterance]) if stop is None else stop
        frames = self.maps[shard][first + start:first + stop]
        if not isinstance(frames, Tensor):
            frames = _typed(torch.from_numpy(np.array(frames)), self.index["dtype"])
        return frames.float()

    def pieces(self, utterances: Iterable[int], size: int = 3000) -> Iterator[Tensor]:
        """All frames of these utterances in order, (t, F) float32: at most `size`, a minute, of one at a time."""
        for u in utterances:
            for start in range(0, int(self.counts[u]), size):
                yield self.read(u, start, min(start + size, int(self.counts[u])))

    def batch(self, crops: list[Crop]) -> tuple[Tensor, Tensor]:
        """Crops, zero-padded at the end: (B, T, F) float32 frames and each one's number of frames (B,) int64."""
        cut = [self.read(crop.utterance, crop.start, crop.start + crop.frames) for crop in crops]
        return torch.nn.utils.rnn.pad_sequence(cut, batch_first=True), torch.tensor([len(x) for x in cut])

    def hold(self, device: torch.device, share: float = 0.25) -> "FrameStore":
        """Keep all frames in the memory of `device`, where they take at most `share` of what a GPU has free."""
        size = sum(frames.nbytes for frames in self.maps)
        if device.type != "cuda" or size <= share * torch.cuda.mem_get_info(device)[0]:
            self.maps = [_typed(torch.from_numpy(np.array(frames)), self.index["dtype"]).to(device)
                         for frames in self.maps]
        return self

    @classmethod
    def fill(cls, directory: str | Path, utterances: list, width: int,
             compute: Callable[[list[Tensor]], list[Tensor | Iterator[Tensor]]], key: str, do_normalize: bool,
             what: str, dtype: str = "float16", batch_seconds: float = 60.0) -> "FrameStore":
        """Compute and keep every utterance's frames, sharded over ranks; kept ones of the same `key` are reused.

        What was interrupted continues: every few seconds `done-<rank>.json` says how many groups are in the shard.
        compute takes a list of waveforms (N,) and gives for each its frames (T, width), or an iterator of them in
        pieces (t, width). Their size is said before. dtype: float16, bfloat16 or float32. Raises ValueError where the
        number of frames is not frames(N), with the utterance.
        """
        directory, counts = Path(directory), frame_counts(utterances)
        try:
            store = cls(directory, counts)
            if (store.index["key"], store.index["dtype"]) == (key, dtype):
                return store
        except (ValueError, OSError, EOFError, KeyError):
            pass                                    # absent, unfinished or damaged
        distributed.barrier()
        rank, world = distributed.rank(), distributed.world_size()
        if rank == 0:
            (directory / "index.json").unlink(missing_ok=True)
            directory.mkdir(parents=True, exist_ok=True)
        distributed.barrier()
        log.say(f"{what}: {int(counts.sum())} frames of {width} x {dtype}, "
                f"{kept_bytes(counts, width, dtype) / 1e9:.3g} GB in {directory}")
        names = [f"frames-{shard:05d}-of-{world:05d}.npy" for shard in range(world)]
        group_frames = round(batch_seconds * SAMPLE_RATE) // HOP
        groups = _groups(counts, group_frames)[rank::world]
        place = _places(counts, sorted(itertools.chain(*groups)))
        shape, done = (int(counts[list(place)].sum()), width), directory / f"done-{rank:05d}-of-{world:05d}.json"
        wanted = {"key": key, "dtype": dtype, "group_frames": group_frames, "shape": list(shape)}
        first = _groups_done(done, wanted, directory / names[rank])
        if first:
            log.say(f"{what}: continues after {first} of {len(groups)} batches")
        shard = np.lib.format.open_memmap(directory / names[rank], mode="r+" if first else "w+", shape=shape,
                                          dtype="int16" if dtype == "bfloat16" else dtype)
        files.reserve(directory / names[rank])
        saved = time.monotonic()
        for number, group in enumerate(log.progress(groups[first:], len(groups) - first, what, "batches"), first):
            if number > first and time.monotonic() - saved >= SAVE_SECONDS:
                shard.flush()
                files.write_json(done, wanted | {"groups": number})
                saved = time.monotonic()
            for u, frames in zip(group, compute([load_checked(utterances[u], do_normalize) for u in group])):
                found = _put(shard[place[u]:place[u] + int(counts[u])], frames, getattr(torch, dtype))
                if found != counts[u]:
                    raise ValueError(f"utterance {utterances[u].id}: the model gives {found} frames, "
                                     f"{int(counts[u])} were expected (one every 320 samples)")
        shard.flush()
        distributed.barrier()
        if rank == 0:
            files.write_json(directory / "index.json", {
                "key": key, "width": width, "dtype": dtype, "shards": names, "group_frames": group_frames,
                "utterances": len(utterances), "frames": int(counts.sum())})
        done.unlink(missing_ok=True)
        distributed.barrier()
        return cls(directory, counts)


def _put(room: np.ndarray, frames: Tensor | Iterator[Tensor], dtype: torch.dtype) -> int:
    """Write an utterance's frames (T, F), or pieces (t, F) of them, into its place (T, F): how many T they are."""
    found = 0
    for piece in [frames] if isinstance(frames, Tensor) else frames:
        if found + len(piece) <= len(room):
            piece = piece.to("cpu", dtype)
            room[found:found + len(piece)] = (piece.view(torch.int16) if dtype == torch.bfloat16 else piece).numpy()
        found += len(piece)
    return found


def _groups_done(path: Path, wanted: dict, shard: Path) -> int:
    """How many groups an interrupted `FrameStore.fill` had put into its shard; 0 where that cannot be continued."""
    try:
        found = files.read_json(path)
        groups = found.pop("groups")
        kept = np.load(shard, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, KeyError):
        return 0
    return groups if found == wanted and list(kept.shape) == wanted["shape"] and type(groups) is int else 0


def kept_bytes(counts: Tensor, width: int, dtype: str) -> int:
    """Bytes of utterances of `counts` (U,) frames, `width` numbers each, kept as float16, bfloat16 or float32."""
    return int(counts.sum()) * width * torch.finfo(getattr(torch, dtype)).bits // 8


def _typed(stored: Tensor, dtype: str) -> Tensor:
    """What numpy has no type for is stored as int16 of the same bits."""
    return stored.view(torch.bfloat16) if dtype == "bfloat16" else stored


def _groups(counts: Tensor, group_frames: int) -> list[list[int]]:
    """Utterances computed together: of like lengths, at most `group_frames` hops of sound with padding, or alone."""
    return groups_by_length((counts + 2).tolist(), list(range(len(counts))), group_frames)


def _places(counts: Tensor, utterances: list[int]) -> dict[int, int]:
    """First frame of each of these utterances in a shard that holds them in this order."""
    starts = [0, *counts[utterances].cumsum(0).tolist()]
    return dict(zip(utterances, starts))
