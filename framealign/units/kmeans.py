"""k-means: greedy k-means++ seeding on a subsample, mini-batch passes, then passes over all frames.

Top-down: `fit`, and the three parts of which it is made:

- `seed_centroids` (Arthur and Vassilvitskii 2007): centroids are frames far from each other, several candidates a step;
- `update` (Sculley 2010, Alg. 1): one mini-batch moves each centroid towards the frames that are nearest to it;
- `full_passes` (Lloyd 1982): each centroid becomes the mean of all frames that are nearest to it.

On features of speech the seeding decides the result; the mini-batches come near a minimum quickly, and the full passes
reach it. Below stands what these share: which centroid is nearest, sums over frames, empty clusters.

Memory holds `max_frames` frames, or as many as seeding takes if that is more, beside those of the seeding itself; and
never an (S, K, F) tensor, because distances are matrix products of chunks. Under several ranks each has a part of the
frames (`frame_source.py`); counts and sums are added over ranks and every draw is of positions in the whole, so that
ranks whose parts in rank order are the frames of one process get the codebook of one process, up to rounding.

Left out: the triangle inequality (Elkan 2003), which pays in few dimensions only.
"""
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from framealign.runtime import distributed
from framealign.runtime.seeds import derive_seed
from framealign.runtime.settings import require, setting
from framealign.units.frame_source import Chunks, FrameSource, spread, survey

EXTRA_PASSES = 10                                   # full passes beyond the limit while a cluster is still empty
ROUNDING = 1e-5                                     # of |x|^2 + |c|^2: a product's squared distance below it is noise
CPU_SCORES, GPU_SCORES = 2 ** 20, 2 ** 26           # distances at once: what fits the cache; launches that pay


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

    def report(phase: str, **numbers: float) -> None:
        if progress is not None:
            progress({"phase": phase, **numbers, "seconds": time.monotonic() - began})

    if device is None:
        device = frames.device if isinstance(frames, Tensor) else "cpu"
    source = survey(frames, torch.device(device))
    if not 1 <= num_clusters <= source.total:
        raise ValueError(f"num_clusters must be in [1, number of frames = {source.total}], got {num_clusters}: "
                         "ask for fewer clusters or give more frames")
    if source.total <= config.max_frames:
        source = source.pick(torch.arange(source.total))                        # it fits: read once, then in memory

    # Seeds out of a subsample, and a few passes over this alone.
    seeding_size = min(source.total, max(config.seeding_frames, 10 * num_clusters))
    sample = source.pick(spread(source.total, seeding_size, config.seed, "seeding"))
    seeding_frames = sample.gathered()                                          # (seeding_size, F), on every rank
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "k-means++"))
    centroids = seed_centroids(seeding_frames, num_clusters, generator, config.seeding_tries, config.seeding_candidates)
    centroids = distributed.broadcast(centroids)                                # (K, F)
    seeding_config = replace(config, full_passes=config.seeding_passes)
    centroids, _, left = full_passes(sample, centroids, seeding_frames, seeding_config)
    report("seeding", inertia=left)

    # Mini-batches of all frames or, where they do not fit in memory, of some drawn anew for each pass.
    counts = torch.zeros(num_clusters, dtype=torch.int64, device=source.device)
    pass_size = min(source.total, max(config.max_frames, seeding_size))
    for number in range(config.mini_batch_passes):
        before = counts
        drawn = source.pick(spread(source.total, pass_size, config.seed, number))
        generator = torch.Generator().manual_seed(derive_seed(config.seed, "mini-batches", number))
        centroids, counts = mini_batch_pass(drawn, centroids, counts, config.batch_frames, generator)
        is_empty = counts == before                                             # won nothing in this pass
        centroids = reseed(centroids, is_empty, seeding_frames)
        counts = counts.masked_fill(is_empty, 0)
        report("mini-batches")

    # All frames at once.
    return full_passes(source, centroids, seeding_frames, config, lambda left: report("all frames", inertia=left))


def seed_centroids(frames: Tensor, num_clusters: int, generator: torch.Generator, tries: int = 1,
                   candidates: int = 16) -> Tensor:
    """Greedy k-means++: K frames far from each other; of `tries` seedings the one that leaves the least inertia.

    frames (S, F) float -> (K, F), some of the frames. The generator is the CPU's, so that every device draws alike.
    Raises ValueError where fewer than K frames differ. Source of k-means++: Arthur and Vassilvitskii 2007, Sec. 2.2;
    several candidates a step are what they recommend at the end.
    """
    _check_different(frames, num_clusters)
    draws = torch.rand(tries, num_clusters, candidates, generator=generator, dtype=torch.float64)
    centred = frames - frames.mean(0)               # products round off less about the origin
    chosen, left = greedy_seedings(centred, draws)
    return frames[chosen[left.argmin()]]                                        # (K, F)


def greedy_seedings(frames: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Greedy seedings of frames (S, F) by uniform draws (tries, K, L): indices (tries, K), and the inertia they leave.

    The first centroid is any frame. Each further one is drawn L times with probability proportional to the squared
    distance to the nearest centroid so far; the draw that lowers the inertia most is taken. The tries advance together,
    because reading the frames is what a step costs: one product gives the distances to all that was drawn.
    """
    S = len(frames)
    tries, num_clusters, candidates = draws.shape
    each = torch.arange(tries, device=frames.device)
    norms = frames.square().sum(1, keepdim=True)                                # (S, 1)
    closest = norms.new_full((S, tries), float("inf"))          # squared distance to the nearest centroid so far
    squared, left = norms.new_empty(2, S, tries, candidates).unbind()           # buffers, used again in every step
    chosen = torch.zeros(tries, num_clusters, dtype=torch.int64, device=frames.device)
    for step in range(num_clusters):
        # Draw candidates: any frame first, then in proportion to the squared distance.
        weights = closest.cpu().double() if step else torch.ones(closest.shape, dtype=torch.float64)
        cumulative = weights.T.cumsum(1)                                        # (tries, S)
        drawn = torch.searchsorted(cumulative, draws[:, step] * cumulative[:, -1:], right=True)
        drawn = drawn.clamp(max=S - 1).to(frames.device)                        # (tries, L)

        # Their squared distances to all frames, |x|^2 + |c|^2 - 2 x.c, in place. Frames stand left in the product,
        # where a CPU's library need not transpose them.
        torch.mm(frames, -2 * frames[drawn.flatten()].T, out=squared.view(S, -1))
        squared.add_(norms[:, :, None]).add_(norms[drawn, 0])                   # (S, tries, L)

        # Take the one with which the least inertia is left.
        torch.minimum(squared, closest[:, :, None], out=left)                   # (S, tries, L)
        best = left.sum(0).argmin(1)                                            # (tries,)
        centre = drawn[each, best]                                              # (tries,) frames
        chosen[:, step] = centre
        distance = squared[:, each, best]                                       # (S, tries)

        # Where the product is rounding noise (copies of the new centroid, mostly) take the difference itself.
        is_noise = distance < ROUNDING * (norms + norms[centre, 0])
        near, attempt = is_noise.nonzero(as_tuple=True)
        distance[near, attempt] = (frames[near] - frames[centre[attempt]]).square().sum(1)
        closest = torch.minimum(closest, distance)
    return chosen, closest.cpu().double().sum(0)


def mini_batch_pass(source: FrameSource, centroids: Tensor, counts: Tensor, batch_frames: int,
                    generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One pass of mini-batches, in random order, over frames in memory: new centroids (K, F) and counts (K,)."""
    for batch in torch.randperm(source.total, generator=generator).split(batch_frames):
        is_mine = (batch >= source.start) & (batch < source.start + source.count)
        mine = batch[is_mine] - source.start
        centroids, counts = update(source.frames[mine.to(source.device)], centroids, counts)
    return centroids, counts


def update(frames: Tensor, centroids: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """One mini-batch step: each centroid becomes the mean of all frames it ever won. Sculley 2010, Alg. 1.

    frames (S, F), centroids (K, F), counts (K,) int64: frames won so far. Returns new centroids and counts.
    Under several ranks `frames` is this rank's part of the mini-batch, possibly empty; all ranks return the same.
    """
    nearest = assign(frames, centroids)                                         # (S,)
    hits = distributed.all_reduce_sum(torch.bincount(nearest, minlength=len(centroids)))        # (K,)
    sums = distributed.all_reduce_sum(cluster_sums(frames.to(centroids.dtype), nearest, len(centroids)))    # (K, F)
    counts = counts + hits
    step = hits.to(sums) / counts.clamp(min=1)      # 0 where nothing was won: the centroid stays
    return torch.lerp(centroids, sums / hits.clamp(min=1)[:, None], step[:, None]), counts


def full_passes(source: FrameSource, centroids: Tensor, spare_frames: Tensor, config: KMeansConfig,
                report: Callable[[float], None] | None = None) -> tuple[Tensor, Tensor, float]:
    """Every centroid to the mean of its frames, at most `full_passes` times or until it no longer pays (Lloyd 1982).

    The last pass only counts: the returned counts and inertia belong to the returned centroids. An empty cluster moves
    to one of the `spare_frames` (S', F). `report` gets the inertia before every pass.
    """
    previous = None
    for done in range(config.full_passes + EXTRA_PASSES + 1):
        sums, counts, left = statistics(source, centroids)
        if report is not None:
            report(left)
        is_empty = counts == 0                                                  # (K,)
        is_settled = done >= config.full_passes or done > 0 and previous - left <= config.tolerance * previous
        if is_settled and not is_empty.any():
            break
        if done < config.full_passes + EXTRA_PASSES:
            means = (sums / counts.clamp(min=1)[:, None]).to(centroids)         # (K, F)
            centroids = reseed(means, is_empty.to(source.device), spare_frames)
            previous = left
    return centroids, counts.to(source.device), left


def assign(frames: Tensor, centroids: Tensor) -> Tensor:
    """Nearest centroid of each frame by squared distance: frames (S, F), centroids (K, F) -> (S,) int64.

    Of equally near centroids the first wins. Raises ValueError where the widths F differ.
    """
    nearest = [chunk_nearest for _, chunk_nearest in nearest_in_chunks(frames, centroids)]
    return torch.cat(nearest) if nearest else torch.zeros(0, dtype=torch.int64, device=centroids.device)


def inertia(frames: Tensor, centroids: Tensor) -> float:
    """Mean squared distance of frames (S, F) to their nearest of the centroids (K, F), summed in float64.

    Raises ValueError without frames or where the widths F differ.
    """
    if not len(frames):
        raise ValueError("inertia is a mean over frames, got none")
    total = sum(squared_distance(chunk, centroids[nearest]) for chunk, nearest in nearest_in_chunks(frames, centroids))
    return total / len(frames)


# What the three parts share.

def nearest_in_chunks(frames: Tensor, centroids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks (s, F) of the frames in the centroids' float type, each with its frames' nearest centroids (s,)."""
    if frames.ndim != 2 or frames.shape[1] != centroids.shape[1]:
        raise ValueError(f"frames must be (S, {centroids.shape[1]}) as the centroids are, got {tuple(frames.shape)}")
    half_norms = centroids.square().sum(1) / 2                                  # (K,)
    scores_at_once = CPU_SCORES if frames.device.type == "cpu" else GPU_SCORES
    for chunk in frames.split(max(64, scores_at_once // len(centroids))):
        chunk = chunk.to(centroids.dtype)
        # |x - c|^2 = |x|^2 + 2 (|c|^2 / 2 - x.c), and |x|^2 is the same for all centroids.
        scores = torch.addmm(half_norms, chunk, centroids.T, alpha=-1)          # (s, K)
        yield chunk, scores.min(1).indices          # the first of equal ones, as argmin gives; on a CPU faster


def cluster_sums(frames: Tensor, nearest: Tensor, num_clusters: int) -> Tensor:
    """Sum of the frames (S, F) of each cluster, given their clusters (S,): (K, F)."""
    if frames.device.type == "cpu":
        return frames.new_zeros(num_clusters, frames.shape[1]).index_add_(0, nearest, frames)
    # index_add_ adds in no fixed order on a GPU; a product with the one-hot clusters does, as fast.
    is_nearest = frames.new_zeros(len(frames), num_clusters).scatter_(1, nearest[:, None], 1.0)     # (S, K)
    return is_nearest.T @ frames


def squared_distance(frames: Tensor, centroids: Tensor) -> float:
    """Sum over rows of the squared distances between two (s, F), added in float64."""
    return (frames - centroids).square().sum(1).cpu().double().sum().item()


def statistics(source: FrameSource, centroids: Tensor) -> tuple[Tensor, Tensor, float]:
    """Sums (K, F) float64 and counts (K,) of each centroid's frames over all ranks, and the inertia per frame.

    Both tensors are on the CPU, whose float64 every machine has.
    """
    sums = torch.zeros(centroids.shape, dtype=torch.float64)
    counts = torch.zeros(len(centroids), dtype=torch.float64)
    total = torch.zeros(1, dtype=torch.float64)
    for piece in source.pieces():
        pairs = list(nearest_in_chunks(piece, centroids))
        nearest = torch.cat([chunk_nearest for _, chunk_nearest in pairs])      # (piece,)
        total += sum(squared_distance(chunk, centroids[chunk_nearest]) for chunk, chunk_nearest in pairs)
        sums += cluster_sums(piece, nearest, len(centroids)).cpu()
        counts += torch.bincount(nearest, minlength=len(centroids)).cpu()

    table = torch.cat([sums, counts[:, None]], 1)                               # (K, F + 1)
    everything = torch.cat([table.flatten(), total])                            # one reduction over ranks
    if distributed.world_size() > 1:
        everything = distributed.all_reduce_sum(everything.to(source.device)).cpu()
    table = everything[:-1].view(table.shape)
    return table[:, :-1], table[:, -1].long(), everything[-1].item() / source.total


def reseed(centroids: Tensor, is_empty: Tensor, spare_frames: Tensor) -> Tensor:
    """Move each centroid of an empty cluster to the spare frame that is farthest from all the others, in turn.

    centroids (K, F), is_empty (K,) bool, spare_frames (S', F): new centroids, or the same tensor if none is empty.
    """
    if not is_empty.any():
        return centroids
    centroids = centroids.clone()
    others = centroids[~is_empty]
    closest = torch.cat([(chunk - others[nearest]).square().sum(1)              # (S',) squared distances
                         for chunk, nearest in nearest_in_chunks(spare_frames, others)])
    for cluster in is_empty.nonzero().squeeze(1).tolist():
        centroids[cluster] = spare_frames[closest.argmax()]
        closest = torch.minimum(closest, (spare_frames - centroids[cluster]).square().sum(1))
    return centroids


def _check_different(frames: Tensor, number: int) -> None:
    """Raise ValueError unless at least `number` of the frames (S, F) differ from each other."""
    different: set[bytes] = set()
    for row in (frames.cpu() + 0.0).numpy():        # + 0.0: minus zero is zero
        different.add(row.tobytes())
        if len(different) == number:
            return
    raise ValueError(f"{number} clusters need as many different frames, the {len(frames)} drawn for seeding "
                     f"hold {len(different)}: ask for fewer clusters or give more frames")
