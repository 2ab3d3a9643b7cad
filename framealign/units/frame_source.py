"""The frames of all ranks, read piece by piece and as often as asked: what k-means is fitted to.

Frames (S, F) are one tensor or array, or chunks (s, F) of it that can be read again for every pass, so that they need
not fit in memory. Under several ranks each has a part of them. Positions count the frames of all ranks, in rank order,
so that what is drawn does not depend on the number of ranks.
"""
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from framealign.runtime import distributed
from framealign.runtime.seeds import derive_seed

Chunks = Tensor | np.ndarray | Iterable | Callable[[], Iterable]
CPU_PIECE, GPU_PIECE = 16_384, 131_072              # frames read at once: those of a CPU fit its caches


@dataclass(frozen=True)
class FrameSource:
    """This rank's part of the frames."""
    frames: Chunks
    device: torch.device
    start: int = 0                                  # position of this rank's first frame
    count: int = 0                                  # frames of this rank
    total: int = 0                                  # frames of all ranks
    width: int = 0                                  # F

    def pieces(self) -> Iterator[Tensor]:
        """All of this rank's frames in order, float32 on the device: pieces (s, F) of one size, but for the last.

        Pieces do not depend on where the chunks end. Raises ValueError for chunks that are not (s, F) with one F.
        """
        size = CPU_PIECE if self.device.type == "cpu" else GPU_PIECE
        parts: list[Tensor] = []                    # of the next piece
        room = size                                 # frames that it lacks
        width = None
        for chunk in self._chunks():
            if len(chunk.shape) != 2 or width is not None and chunk.shape[1] != width:
                raise ValueError(f"frames must be (S, F) in all chunks, got {tuple(chunk.shape)} after F = {width}")
            width = chunk.shape[1]
            first = 0
            while first < len(chunk):
                part = chunk[first:first + room]
                parts.append(self._on_device(part))
                first += len(part)
                room -= len(part)
                if room == 0:
                    yield _joined(parts)
                    parts, room = [], size
        if parts:
            yield _joined(parts)

    def pick(self, positions: Tensor) -> "FrameSource":
        """The frames at these ascending positions, held in memory; each rank takes those of its own part."""
        is_all = len(positions) == self.total
        if isinstance(self.frames, Tensor) and is_all and self.frames.device == self.device \
                and self.frames.dtype == torch.float32:
            return self                             # in memory already
        is_before = positions < self.start
        is_mine = ~is_before & (positions < self.start + self.count)
        mine = positions[is_mine] - self.start
        picked = torch.empty(len(mine), self.width, device=self.device)
        first, filled = 0, 0
        for piece in self.pieces():
            inside = mine[(mine >= first) & (mine < first + len(piece))] - first
            picked[filled:filled + len(inside)] = piece[inside.to(self.device)]
            first += len(piece)
            filled += len(inside)
        return FrameSource(picked, self.device, int(is_before.sum()), len(mine), len(positions), self.width)

    def gathered(self) -> Tensor:
        """The frames of all ranks, (total, F), on every rank. Only for frames that `pick` holds in memory."""
        parts = distributed.all_gather_objects(self.frames.cpu().numpy())
        return torch.from_numpy(np.concatenate(parts)).to(self.device)

    def _chunks(self) -> Iterable:
        frames = self.frames() if callable(self.frames) else self.frames
        return [frames] if isinstance(frames, (Tensor, np.ndarray)) else frames

    def _on_device(self, part: Tensor | np.ndarray) -> Tensor:
        if not isinstance(part, Tensor):
            part = torch.from_numpy(np.array(part, dtype=np.float32))           # a copy: memory maps are read-only
        return part.detach().to(self.device, torch.float32)


def survey(frames: Chunks, device: torch.device) -> FrameSource:
    """Count and check every rank's frames; `frames` is this rank's part, a bare iterator of which is held in memory.

    Raises ValueError, on all ranks together so that none is left waiting for another, for frames that are not finite
    and for different widths F.
    """
    count, width, fault = 0, 0, ""
    try:
        if isinstance(frames, Iterator):
            frames = list(frames)
        if isinstance(frames, Tensor):
            frames = frames.detach()
        for piece in FrameSource(frames, device).pieces():
            is_finite = piece.isfinite().all(1)                                 # (s,)
            if not is_finite.all():
                raise ValueError(f"frame {count + int(is_finite.long().argmin())} of rank {distributed.rank()} is not "
                                 "finite: leave its utterance out")
            count += len(piece)
            width = piece.shape[1]
    except ValueError as error:
        fault = str(error)

    of_ranks = distributed.all_gather_objects((count, width, fault))
    for _, _, fault in of_ranks:
        if fault:
            raise ValueError(f"k-means: {fault}")
    widths = {width for count, width, _ in of_ranks if count}
    if len(widths) > 1:
        raise ValueError(f"k-means: frames of different ranks have different widths: {sorted(widths)}")
    counts = [count for count, _, _ in of_ranks]
    start = sum(counts[:distributed.rank()])
    return FrameSource(frames, device, start, count, sum(counts), max(widths, default=0))


def spread(total: int, size: int, *seed: object) -> Tensor:
    """`size` of `total` positions, ascending: one drawn from each of `size` equal stretches; (size,) int64.

    So every part of the corpus is drawn from evenly, on any number of ranks, knowing nothing but the total.
    """
    generator = torch.Generator().manual_seed(derive_seed("spread", *seed))
    edges = torch.arange(size + 1) * total // size                              # (size + 1,)
    room = edges.diff()
    within = (torch.rand(size, generator=generator, dtype=torch.float64) * room).long()
    return edges[:-1] + torch.minimum(within, room - 1)


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]
