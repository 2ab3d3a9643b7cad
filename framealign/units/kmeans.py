"""k-means: greedy k-means++ seeding on a subsample, mini-batch passes, then passes over all frames.

Three parts: `seed_centroids` (Arthur and Vassilvitskii 2007, several candidates per step), `update` (Sculley 2010,
Alg. 1: one mini-batch) and `_full_passes` (Lloyd 1982: all frames at once; those of the subsample first). On features
of speech the seeding decides the result; the mini-batches come near a minimum quickly, the full passes reach it.

Frames (S, F) may be one tensor, or chunks that are read again for every pass. Memory holds `max_frames` frames, or as
many as seeding takes if that is more, beside those of the seeding itself; and never an (S, K, F) tensor, because
distances are matrix products of chunks. Under several ranks each holds a part of the frames. Counts and sums are added
over ranks and every draw is of positions in the whole, so that ranks whose parts in rank order are the frames of one
process find the codebook of one process, up to rounding.

Left out: the triangle inequality (Elkan 2003), which pays in few dimensions only.
"""
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from framealign.runtime import distributed
from framealign.runtime.seeds import derive_seed
from framealign.runtime.settings import require, setting


@dataclass(frozen=True)
class KMeansConfig:
    """k-means++ seeding on a subsample, mini-batch passes (Sculley 2010), then passes over all frames (Lloyd 1982).

    One seeding with twice the candidates leaves less inertia than the better one of two, for the same products.
    """
    seed: int = setting(0, "seed of every random draw")
    seeding_frames: int = setting(
        20_000, "frames of the subsample on which seedings are tried; at least 10 per cluster are taken")
    seeding_tries: int = setting(1, "seedings that are tried; the best one is used")
    seeding_candidates: int = setting(32, "frames drawn for each new centroid; the one that helps most is taken")
    seeding_passes: int = setting(5, "passes over the subsample, at most: later passes settle sooner")
    max_frames: int = setting(
        500_000, "frames in memory, over all ranks; of more, each pass draws so many, or as many as seeding takes")
    batch_frames: int = setting(10_000, "frames of one mini-batch, over all ranks")
    mini_batch_passes: int = setting(1, "mini-batch passes over the frames")
    full_passes: int = setting(15, "passes over all frames, at most")
    tolerance: float = setting(3e-4, "share of the inertia; a pass over all frames that gains less is the last")

    def __post_init__(self):
        for name in ("seeding_frames", "seeding_tries", "seeding_candidates", "max_frames", "batch_frames"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("seeding_passes", "mini_batch_passes", "full_passes", "tolerance"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")


Chunks = Tensor | np.ndarray | Iterable | Callable[[], Iterable]
EXTRA_PASSES = 10                                   # full passes beyond the limit while a cluster is still empty
ROUNDING = 1e-5                                     # of |x|^2 + |c|^2: a product's squared distance below it is noise


def assign(frames: Tensor, centroids: Tensor) -> Tensor:
    """Nearest centroid of each frame by squared distance: frames (S, F), centroids (K, F) -> (S,) int64.

    Of equally near centroids the first wins. Raises ValueError where the widths F differ.
    """
    nearest = [chunk_nearest for _, chunk_nearest in _nearest(frames, centroids)]
    return torch.cat(nearest) if nearest else torch.zeros(0, dtype=torch.int64, device=centroids.device)


def inertia(frames: Tensor, centroids: Tensor) -> float:
    """Mean squared distance of frames (S, F) to their nearest of the centroids (K, F), summed in float64.

    Raises ValueError without frames or where the widths F differ.
    """
    if not len(frames):
        raise ValueError("inertia is a mean over frames, got none")
    return sum(_squared_distance(chunk, centroids[nearest])
               for chunk, nearest in _nearest(frames, centroids)) / len(frames)


def update(frames: Tensor, centroids: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """One mini-batch step: each centroid becomes the mean of all frames it ever won. Sculley 2010, Alg. 1.

    frames (S, F), centroids (K, F), counts (K,) int64: frames won so far. Returns new centroids and counts.
    Under several ranks `frames` is this rank's part of the mini-batch, possibly empty; all ranks return the same.
    """
    nearest = assign(frames, centroids)                                         # (S,)
    hits = distributed.all_reduce_sum(torch.bincount(nearest, minlength=len(centroids)))        # (K,)
    sums = distributed.all_reduce_sum(_sums(frames.to(centroids.dtype), nearest, len(centroids)))   # (K, F)
    counts = counts + hits
    step = hits.to(sums) / counts.clamp(min=1)      # 0 where nothing was won: the centroid stays
    return torch.lerp(centroids, sums / hits.clamp(min=1)[:, None], step[:, None]), counts


def seed_centroids(frames: Tensor, num_clusters: int, generator: torch.Generator, tries: int = 1,
                   candidates: int = 16) -> Tensor:
    """Greedy k-means++: K frames far from each other; of `tries` seedings the one that leaves the least inertia.

    frames (S, F) float -> (K, F), some of the frames. The generator is the CPU's, so that every device draws alike.
    Raises ValueError where fewer than K frames differ. Source: Arthur and Vassilvitskii 2007, Sec. 2.2 and 5.
    """
    different: set[bytes] = set()
    for row in (frames.cpu() + 0.0).numpy():        # + 0.0: minus zero is zero
        different.add(row.tobytes())
        if len(different) == num_clusters:
            break
    else:
        raise ValueError(f"{num_clusters} clusters need as many different frames, the {len(frames)} drawn for seeding "
                         f"hold {len(different)}: ask for fewer clusters or give more frames")
    centred = frames - frames.mean(0)               # products round off less about the origin
    chosen, left = _seedings(centred, torch.rand(tries, num_clusters, candidates, generator=generator,
                                                 dtype=torch.float64))
    return frames[chosen[left.argmin()]]                                        # (K, F)


def _seedings(frames: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Greedy seedings of frames (S, F) by uniform draws (tries, K, L): indices (tries, K), and the inertia they leave.

    The first centroid is any frame. Each further one is drawn L times with probability proportional to the squared
    distance to the nearest centroid so far; the draw that lowers the inertia most is kept. The tries advance together,
    because reading the frames is what a step costs: one product gives the distances to all that was drawn.
    """
    (tries, num_clusters, candidates), each = draws.shape, torch.arange(len(draws), device=frames.device)
    norms = frames.square().sum(1, keepdim=True)                                # (S, 1)
    closest = norms.new_full((len(frames), tries), float("inf"))    # squared distance to the nearest centroid so far
    squared, left = norms.new_empty(2, len(frames), tries, candidates).unbind()     # used again in every step
    chosen = torch.zeros(tries, num_clusters, dtype=torch.int64, device=frames.device)
    for step in range(num_clusters):
        weights = closest.cpu().double() if step else torch.ones(closest.shape, dtype=torch.float64)
        cumulative = weights.T.cumsum(1)                                        # (tries, S)
        drawn = torch.searchsorted(cumulative, draws[:, step] * cumulative[:, -1:], right=True)     # (tries, L)
        drawn = drawn.clamp(max=len(frames) - 1).to(frames.device)
        # |x|^2 + |c|^2 - 2 x.c; frames stand left in the product, where a CPU's library need not transpose them.
        torch.mm(frames, -2 * frames[drawn.flatten()].T, out=squared.view(len(frames), -1))
        squared.add_(norms[:, :, None]).add_(norms[drawn, 0])
        best = torch.minimum(squared, closest[:, :, None], out=left).sum(0).argmin(1)               # (tries,)
        chosen[:, step] = centre = drawn[each, best]
        new = squared[:, each, best]                                            # (S, tries)
        # Where the product is rounding noise (copies of the new centroid, mostly) the difference itself is taken.
        near, of = (new < ROUNDING * (norms + norms[centre, 0])).nonzero(as_tuple=True)
        new[near, of] = (frames[near] - frames[centre[of]]).square().sum(1)
        closest = torch.minimum(closest, new)
    return chosen, closest.cpu().double().sum(0)


def fit(frames: Chunks, num_clusters: int, config: KMeansConfig = KMeansConfig(),
        device: torch.device | str | None = None,
        progress: Callable[[dict], None] | None = None) -> tuple[Tensor, Tensor, float]:
    """Cluster frames: centroids (K, F) float32, counts (K,) int64 of frames nearest to each, inertia per frame.

    frames (S, F): a tensor or array, or (s, F) chunks as a list (memory-mapped arrays are read piece by piece), as an
    iterable that can be read again, or as a function that returns a new iterator; a bare iterator is held in memory.
    Frames of any float type are computed in float32 on `device`, by default the tensor's, else the CPU.
    Under several ranks `frames` is this rank's part, and every rank returns the same.

    A cluster that won no frame in a pass moves to the seeding frame that is farthest from all centroids. `progress`
    gets one record (phase, inertia where known, seconds) after the seeding and after every pass.
    Raises ValueError for non-finite frames, unequal widths, or fewer different frames than clusters.
    """
    began = time.monotonic()
    report = progress or (lambda record: None)
    source = _survey(frames, torch.device(device or (frames.device if isinstance(frames, Tensor) else "cpu")))
    if not 1 <= num_clusters <= source.total:
        raise ValueError(f"num_clusters must be in [1, number of frames = {source.total}], got {num_clusters}: "
                         "ask for fewer clusters or give more frames")
    if source.total <= config.max_frames:
        source = source.pick(torch.arange(source.total))                        # fits: read once, held from here on
    size = min(source.total, max(config.seeding_frames, 10 * num_clusters))
    sample = source.pick(_spread(source.total, size, config.seed, "seeding"))
    parts = distributed.all_gather_objects(sample.frames.cpu().numpy())
    seeding = torch.from_numpy(np.concatenate(parts)).to(source.device)         # all ranks: the same (size, F)
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "k-means++"))
    centroids = distributed.broadcast(seed_centroids(seeding, num_clusters, generator, config.seeding_tries,
                                                     config.seeding_candidates))
    centroids, _, left = _full_passes(sample, centroids, seeding, replace(config, full_passes=config.seeding_passes),
                                      lambda record: None)
    report({"phase": "seeding", "inertia": left, "seconds": time.monotonic() - began})
    counts = torch.zeros(num_clusters, dtype=torch.int64, device=source.device)
    for number in range(config.mini_batch_passes):
        before = counts
        centroids, counts = _mini_batch_pass(source, centroids, counts, config, max(config.max_frames, size), number)
        starved = counts == before
        centroids, counts = _reseed(centroids, starved, seeding), counts.masked_fill(starved, 0)
        report({"phase": "mini-batches", "seconds": time.monotonic() - began})
    return _full_passes(source, centroids, seeding, config, lambda record: report(
        {"phase": "all frames", **record, "seconds": time.monotonic() - began}))


def _mini_batch_pass(source: "_Source", centroids: Tensor, counts: Tensor, config: KMeansConfig,
                     most: int, number: int) -> tuple[Tensor, Tensor]:
    """One pass of mini-batches in random order over the frames, or over `most` of them drawn for this pass."""
    positions = _spread(source.total, min(source.total, most), config.seed, number)
    held = source.pick(positions)
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "mini-batches", number))
    for batch in torch.randperm(held.total, generator=generator).split(config.batch_frames):
        mine = batch[(batch >= held.start) & (batch < held.start + held.count)] - held.start
        centroids, counts = update(held.frames[mine.to(source.device)], centroids, counts)
    return centroids, counts


def _full_passes(source: "_Source", centroids: Tensor, seeding: Tensor, config: KMeansConfig,
                 report: Callable[[dict], None]) -> tuple[Tensor, Tensor, float]:
    """Every centroid to the mean of its frames, at most `full_passes` times or until it no longer pays (Lloyd 1982).

    The last pass only counts: the returned counts and inertia belong to the returned centroids.
    """
    previous = None
    for done in range(config.full_passes + EXTRA_PASSES + 1):
        sums, counts, mean = _statistics(source, centroids)
        report({"inertia": mean})
        empty = counts == 0
        settled = done >= config.full_passes or done and previous - mean <= config.tolerance * previous
        if settled and not empty.any():
            break
        if done < config.full_passes + EXTRA_PASSES:
            means = (sums / counts.clamp(min=1)[:, None]).to(centroids)
            centroids, previous = _reseed(means, empty.to(source.device), seeding), mean
    return centroids, counts.to(source.device), mean


def _statistics(source: "_Source", centroids: Tensor) -> tuple[Tensor, Tensor, float]:
    """Sums (K, F) float64 and counts (K,) of each centroid's frames over all ranks, and the inertia per frame.

    Both tensors lie on the CPU, whose float64 every machine has.
    """
    sums = torch.zeros(centroids.shape, dtype=torch.float64)
    counts = torch.zeros(len(centroids), dtype=torch.float64)
    total = torch.zeros(1, dtype=torch.float64)
    for piece in source.pieces():
        pairs = list(_nearest(piece, centroids))
        nearest = torch.cat([chunk_nearest for _, chunk_nearest in pairs])      # (piece,)
        total += sum(_squared_distance(chunk, centroids[chunk_nearest]) for chunk, chunk_nearest in pairs)
        sums += _sums(piece, nearest, len(centroids)).cpu()
        counts += torch.bincount(nearest, minlength=len(centroids)).cpu()
    everything = torch.cat([sums, counts[:, None]], 1).flatten()
    everything = torch.cat([everything, total])                                 # one reduction
    if distributed.world_size() > 1:
        everything = distributed.all_reduce_sum(everything.to(source.device)).cpu()
    table = everything[:-1].view(len(centroids), -1)
    return table[:, :-1], table[:, -1].long(), everything[-1].item() / source.total


def _reseed(centroids: Tensor, empty: Tensor, seeding: Tensor) -> Tensor:
    """Move each centroid of an empty cluster to the seeding frame that is farthest from all the others, in turn."""
    if not empty.any():
        return centroids
    centroids = centroids.clone()
    kept = centroids[~empty]
    closest = torch.cat([(chunk - kept[nearest]).square().sum(1) for chunk, nearest in _nearest(seeding, kept)])
    for cluster in empty.nonzero().squeeze(1).tolist():
        centroids[cluster] = seeding[closest.argmax()]
        closest = torch.minimum(closest, (seeding - centroids[cluster]).square().sum(1))
    return centroids


def _nearest(frames: Tensor, centroids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks (s, F) of the frames in the centroids' float type, each with its frames' nearest centroids (s,)."""
    if frames.ndim != 2 or frames.shape[1] != centroids.shape[1]:
        raise ValueError(f"frames must be (S, {centroids.shape[1]}) as the centroids are, got {tuple(frames.shape)}")
    half_norms = centroids.square().sum(1) / 2                                  # (K,)
    held = 2 ** 20 if frames.device.type == "cpu" else 2 ** 26      # scores at once: the cache; launches that pay
    for chunk in frames.split(max(64, held // len(centroids))):
        chunk = chunk.to(centroids.dtype)
        # |x - c|^2 = |x|^2 + 2 (|c|^2 / 2 - x.c), and |x|^2 is the same for all centroids.
        scores = torch.addmm(half_norms, chunk, centroids.T, alpha=-1)          # (s, K)
        yield chunk, scores.min(1).indices          # the first of equal ones, as argmin gives; on a CPU faster


def _sums(frames: Tensor, nearest: Tensor, num_clusters: int) -> Tensor:
    """Sum of the frames (S, F) of each cluster, given their clusters (S,): (K, F)."""
    if frames.device.type == "cpu":
        return frames.new_zeros(num_clusters, frames.shape[1]).index_add_(0, nearest, frames)
    # index_add_ adds in no fixed order on a GPU; a product with the one-hot clusters does, as fast.
    is_nearest = frames.new_zeros(len(frames), num_clusters).scatter_(1, nearest[:, None], 1.0)     # (S, K)
    return is_nearest.T @ frames


def _squared_distance(frames: Tensor, centroids: Tensor) -> float:
    """Sum over rows of the squared distances between two (s, F), added in float64."""
    return (frames - centroids).square().sum(1).cpu().double().sum().item()


def _spread(total: int, size: int, *seed: object) -> Tensor:
    """`size` of `total` positions, ascending: one drawn from each of `size` equal stretches; (size,) int64.

    So every part of the corpus is drawn from evenly, on any number of ranks, knowing nothing but the total.
    """
    generator = torch.Generator().manual_seed(derive_seed("spread", *seed))
    edges = torch.arange(size + 1) * total // size                              # (size + 1,)
    room = edges.diff()
    within = (torch.rand(size, generator=generator, dtype=torch.float64) * room).long()
    return edges[:-1] + torch.minimum(within, room - 1)


@dataclass(frozen=True)
class _Source:
    """This rank's part of the frames, read piece by piece, as often as asked; positions count all ranks' frames."""
    frames: Chunks
    device: torch.device
    start: int = 0                                  # position of this rank's first frame
    count: int = 0                                  # frames of this rank
    total: int = 0                                  # frames of all ranks
    width: int = 0                                  # F

    def pieces(self) -> Iterator[Tensor]:
        """Float32 pieces (s, F) on the device, all of one size but the last, wherever the chunks end.

        16,384 frames fit a CPU's caches; a GPU gets more at once.
        """
        size = 16_384 if self.device.type == "cpu" else 131_072
        parts = self.frames() if callable(self.frames) else self.frames
        held, room, width = [], size, None
        for part in [parts] if isinstance(parts, (Tensor, np.ndarray)) else parts:
            if len(part.shape) != 2 or part.shape[1] != (width or part.shape[1]):
                raise ValueError(f"frames must be (S, F) in all chunks, got {tuple(part.shape)} after F = {width}")
            first, width = 0, part.shape[1]
            while first < len(part):
                piece = part[first:first + room]
                if not isinstance(piece, Tensor):
                    piece = torch.from_numpy(np.array(piece, dtype=np.float32))         # a copy: maps are read-only
                held.append(piece.detach().to(self.device, torch.float32))
                first, room = first + len(piece), room - len(piece)
                if not room:
                    yield torch.cat(held) if len(held) > 1 else held[0]
                    held, room = [], size
        if held:
            yield torch.cat(held) if len(held) > 1 else held[0]

    def pick(self, positions: Tensor) -> "_Source":
        """The frames at these ascending positions, held in memory; each rank takes those of its own part."""
        start = int((positions < self.start).sum())
        if isinstance(self.frames, Tensor) and len(positions) == self.total \
                and self.frames.device == self.device and self.frames.dtype == torch.float32:
            return self                             # all of them, and held already
        mine = positions[(positions >= self.start) & (positions < self.start + self.count)] - self.start
        picked = torch.empty(len(mine), self.width, device=self.device)
        first, filled = 0, 0
        for piece in self.pieces():
            inside = mine[(mine >= first) & (mine < first + len(piece))] - first
            picked[filled:filled + len(inside)] = piece[inside.to(self.device)]
            first, filled = first + len(piece), filled + len(inside)
        return _Source(picked, self.device, start, len(mine), len(positions), self.width)


def _survey(frames: Chunks, device: torch.device) -> _Source:
    """Count and check every rank's frames. All ranks raise together, so that none is left waiting for another."""
    count, width, fault = 0, 0, ""
    try:
        if isinstance(frames, Iterator):
            frames = list(frames)
        frames = frames.detach() if isinstance(frames, Tensor) else frames
        for piece in _Source(frames, device).pieces():
            is_finite = piece.isfinite().all(1)                                 # (s,)
            if not is_finite.all():
                raise ValueError(f"frame {count + int(is_finite.long().argmin())} of rank {distributed.rank()} is not "
                                 "finite: leave its utterance out")
            count, width = count + len(piece), piece.shape[1]
    except ValueError as error:
        fault = str(error)
    everyone = distributed.all_gather_objects((count, width, fault))
    for fault in [fault for _, _, fault in everyone if fault]:
        raise ValueError(f"k-means: {fault}")
    widths = {width for count, width, _ in everyone if count}
    if len(widths) > 1:
        raise ValueError(f"k-means: frames of different ranks have different widths: {sorted(widths)}")
    before = sum(count for count, _, _ in everyone[:distributed.rank()])
    return _Source(frames, device, before, count, sum(count for count, _, _ in everyone), max(widths, default=0))
