"""From utterances to batches: crops on frame boundaries, length-bucketed micro-batches, frames kept on disk.

Two sources give the same batches: `Waveforms` reads sound, `FrameStore` reads frames computed once (the frozen conv
encoder's output, or states to be clustered). A crop is cut in whole frames, so frame t of it keeps its label.
"""
import itertools
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from framealign.runtime import distributed, files, log
from framealign.sound import audio
from framealign.runtime.settings import KEPT_TYPES, PretrainConfig, derive_seed
from framealign.sound.frames import HOP, SAMPLE_RATE, frames_in, num_frames, num_samples_of


SAVE_SECONDS = 10.0                                 # between two notes of how far a frame store has been filled


@dataclass(frozen=True)
class Crop:
    """Frames [start, start + frames) of utterance number `utterance` of a list."""
    utterance: int
    start: int
    frames: int


class Waveforms:
    """Crops of sound files, several read at once; each utterance is prepared whole (`do_normalize`), then cut.

    What was read stays in memory as int16, up to `held_bytes` in all; sound that int16 does not hold exactly
    (resampled, averaged over channels, of more bits) is read again each time.
    """

    def __init__(self, utterances: list, do_normalize: bool, held_bytes: int = 2 ** 31):
        self.utterances, self.do_normalize = utterances, do_normalize
        self.room, self.held = held_bytes, {}       # bytes left; utterance: (N,) int16
        self.pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))

    def batch(self, crops: list[Crop]) -> tuple[Tensor, Tensor]:
        """Crops, zero-padded at the end: (B, N) float32 samples and each one's number of samples (B,) int64.

        A crop starts on sample 320 x start and ends with its last frame; a whole utterance keeps the few samples after.
        """
        absent = list(dict.fromkeys(crop.utterance for crop in crops if crop.utterance not in self.held))
        read = dict(zip(absent, self.pool.map(lambda u: load_checked(self.utterances[u], False), absent)))
        self.hold(read)
        cut = []
        for crop in crops:
            waveform = read[crop.utterance] if crop.utterance in read else self.held[crop.utterance].float() / 2 ** 15
            waveform = audio.preprocess(waveform, self.do_normalize)            # (N,) of the whole utterance
            whole = crop.start == 0 and crop.frames == num_frames(len(waveform))
            first = HOP * crop.start
            cut.append(waveform if whole else waveform[first:first + num_samples_of(crop.frames)])
        return torch.nn.utils.rnn.pad_sequence(cut, batch_first=True), torch.tensor([len(x) for x in cut])

    def hold(self, read: dict[int, Tensor]) -> None:
        """Keep waveforms (N,) by utterance as int16, as long as there is room, where that is exact."""
        for utterance, waveform in read.items():
            short = (waveform * 2 ** 15).clamp(-2 ** 15, 2 ** 15 - 1).to(torch.int16)
            if short.nbytes <= self.room and torch.equal(short.float() / 2 ** 15, waveform):
                self.held[utterance] = short
                self.room -= short.nbytes


def load_checked(utterance, do_normalize: bool) -> Tensor:
    """An utterance's whole waveform (N,), with the length its manifest promises. Raises ValueError otherwise."""
    waveform = audio.preprocess(audio.load(utterance.path), do_normalize)
    if len(waveform) != utterance.num_samples:
        raise ValueError(f"{utterance.path}: has {len(waveform)} samples at 16 kHz, the manifest says "
                         f"{utterance.num_samples} (utterance {utterance.id}); make the manifest again")
    return waveform


def frame_counts(utterances: list) -> Tensor:
    """Frames of each utterance by its manifest: (U,) int64. Raises ValueError naming one that is too short."""
    for utterance in utterances:
        if utterance.num_samples < 400:
            raise ValueError(f"utterance {utterance.id}: {utterance.num_samples} samples, at least 400 (25 ms) needed")
    return torch.tensor([num_frames(utterance.num_samples) for utterance in utterances], dtype=torch.int64)


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


def groups_by_length(lengths: list[int], indices: list[int], budget: int) -> list[list[int]]:
    """`indices` sorted by length and cut into groups whose padded size stays within `budget`, at least one in each."""
    groups = []
    for u in sorted(indices, key=lambda u: (lengths[u], u)):
        if groups and (len(groups[-1]) + 1) * lengths[u] <= budget:
            groups[-1].append(u)
        else:
            groups.append([u])
    return groups


def pretraining_micro_batches(counts: Tensor, config: PretrainConfig) -> Iterator[list[Crop]]:
    """The endless stream of micro-batches of pretraining: a pure function of the frame counts (U,) and the config.

    Every epoch is a permutation of the utterances between `min_seconds` and any length: sorted by length times a random
    factor in 1 +- 0.1, cut into groups of `micro_batch_seconds`, cropped at random to the shortest of the group (and to
    `max_seconds`), the groups shuffled. torchaudio's recipe buckets and crops alike.
    """
    shortest, longest = frames_in(config.min_seconds), frames_in(config.max_seconds)
    budget = frames_in(config.micro_batch_seconds)
    usable = torch.nonzero(counts >= shortest).flatten()
    if len(usable) == 0:
        raise ValueError(f"no utterance is as long as --min-seconds {config.min_seconds}; lower it")
    for epoch in itertools.count():
        generator = torch.Generator().manual_seed(derive_seed(config.seed, "order", epoch))
        key = counts[usable] * (0.9 + 0.2 * torch.rand(len(usable), generator=generator))
        groups, group = [], []
        for u in usable[key.argsort()].tolist():
            size = min([int(counts[u]), longest] + [int(counts[v]) for v in group])
            if group and (len(group) + 1) * size > budget:
                groups.append(group)
                group = []
            group.append(u)
        groups.append(group)
        for index in torch.randperm(len(groups), generator=generator).tolist():
            size = min(longest, *(int(counts[u]) for u in groups[index]))
            starts = [int(torch.randint(int(counts[u]) - size + 1, (), generator=generator)) for u in groups[index]]
            yield [Crop(u, start, size) for u, start in zip(groups[index], starts)]


def batch_ids(utterances: list, counts: Tensor, config: PretrainConfig, updates: list[int]
              ) -> Iterator[tuple[int, list[str]]]:
    """Which utterances were in the global batches of these (few) updates: drawn again, as all draws are named."""
    per_update, stream, done = micro_batches_per_update(config), pretraining_micro_batches(counts, config), 0
    for update in updates:
        batch = itertools.islice(stream, (update - 1 - done) * per_update, (update - done) * per_update)
        yield update, sorted({utterances[crop.utterance].id for crops in batch for crop in crops})
        done = update


def micro_batches_per_update(config: PretrainConfig) -> int:
    """Micro-batches of one update, over all ranks."""
    return max(1, round(config.batch_seconds / config.micro_batch_seconds))


def balanced_draw(labels: Tensor, number: int, generator: torch.Generator) -> list[int]:
    """`number` utterances with replacement, every class equally likely. labels (U,) int64 class indices."""
    weight = 1.0 / torch.bincount(labels)[labels].double()                      # (U,)
    return torch.multinomial(weight, number, replacement=True, generator=generator).tolist()


def ahead(batches: Iterator, depth: int = 2) -> Iterator:
    """Pass `batches` through, computing up to `depth` of them ahead in one thread (file reading overlaps compute)."""
    with ThreadPoolExecutor(1) as pool:
        batches = iter(batches)
        pull = lambda: next(batches, None)
        waiting = [pool.submit(pull) for _ in range(depth)]
        while True:
            item = waiting.pop(0).result()
            if item is None:
                return
            waiting.append(pool.submit(pull))
            yield item
