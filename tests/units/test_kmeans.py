"""k-means against float64 brute force in numpy, against scikit-learn, and against itself (chunks, ranks, seeds)."""
from dataclasses import replace

import numpy as np
import pytest
import ranks
import torch

from framealign.runtime import distributed
from framealign.units import frame_source, kmeans
from framealign.units.kmeans import KMeansConfig

QUICK = KMeansConfig(seeding_frames=2000, seeding_tries=1, seeding_candidates=4, batch_frames=500, full_passes=5)


def mixture(num_frames: int, width: int, components: int, seed: int = 0) -> torch.Tensor:
    """Frames (S, F) of a Gaussian mixture of unequal components."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(components, generator=generator) ** 3 + 0.01
    means = torch.randn(components, width, generator=generator)
    drawn = torch.multinomial(weights, num_frames, replacement=True, generator=generator)
    return means[drawn] + 0.6 * torch.randn(num_frames, width, generator=generator)


@pytest.fixture(scope="module")
def speech(shared) -> torch.Tensor:
    """10,000 frames of real MFCC (S, 39), of every fourth utterance of the EMO-DB part."""
    pytest.importorskip("torchaudio")
    soundfile = pytest.importorskip("soundfile")
    from framealign.sound.mfcc import mfcc
    paths = sorted((shared / "emodb4" / "audio").glob("*.flac"))[::4]
    frames = torch.cat([mfcc(torch.from_numpy(soundfile.read(path, dtype="float32")[0])) for path in paths])
    assert len(frames) > 10_000
    return frames[:10_000].contiguous()


def brute_distances(frames: torch.Tensor, centroids: torch.Tensor) -> np.ndarray:
    """Squared distances (S, K) in float64, term by term."""
    x, c = frames.double().numpy(), centroids.double().numpy()
    return np.stack([((x - c[k]) ** 2).sum(1) for k in range(len(c))], 1)


@pytest.mark.parametrize("size, width, clusters", [(1, 1, 1), (5, 3, 2), (3000, 39, 100), (2500, 768, 7)])
def test_assign_is_the_nearest_centroid(size, width, clusters):
    frames, centroids = mixture(size, width, 20), mixture(clusters, width, 20, seed=1)
    distances = brute_distances(frames, centroids)
    found = kmeans.assign(frames, centroids).numpy()
    chosen = distances[np.arange(size), found]
    assert (chosen - distances.min(1) <= 1e-4 * distances.min(1)).all()         # another one only at a tie of rounding
    assert (found != distances.argmin(1)).mean() < 1e-3
    exact = kmeans.assign(frames.double(), centroids.double()).numpy()
    assert (exact == distances.argmin(1)).all()


def test_assign_of_nothing_and_of_another_width():
    assert kmeans.assign(torch.zeros(0, 4), torch.zeros(2, 4)).shape == (0,)
    with pytest.raises(ValueError, match=r"\(S, 4\)"):
        kmeans.assign(torch.zeros(3, 5), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="got none"):
        kmeans.inertia(torch.zeros(0, 4), torch.zeros(2, 4))


def test_first_of_equal_centroids_wins():
    centroids = torch.tensor([[5.0, 5.0], [1.0, 1.0], [1.0, 1.0]])
    assert kmeans.assign(torch.tensor([[1.0, 1.0], [4.0, 4.0]]), centroids).tolist() == [1, 0]


def test_assign_takes_half_precision_frames():
    frames, centroids = mixture(500, 16, 9), mixture(11, 16, 9, seed=1)
    assert torch.equal(kmeans.assign(frames.half(), centroids), kmeans.assign(frames.half().float(), centroids))


def test_no_chunk_of_distances_is_held(monkeypatch):
    """The largest product is (chunk, K): 20,000 frames and 500 clusters at once would be ten times as large."""
    largest, addmm = [], torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *a, **k: largest.append((out := addmm(*a, **k)).numel()) or out)
    kmeans.assign(torch.randn(20_000, 4), torch.randn(500, 4))
    assert max(largest) <= 2 ** 20 < 20_000 * 500


def test_inertia_is_the_mean_squared_distance():
    frames, centroids = mixture(5000, 39, 30) + 50, mixture(40, 39, 30, seed=1) + 50
    expected = brute_distances(frames, centroids).min(1).mean()
    assert kmeans.inertia(frames, centroids) == pytest.approx(expected, rel=1e-6)
    assert kmeans.inertia(frames.double(), centroids.double()) == pytest.approx(expected, rel=1e-12)


def test_update_is_the_mean_of_all_frames_ever_won():
    """Sculley's step, batch by batch, against running lists of the frames that each centroid won, in float64."""
    frames, centroids = mixture(4000, 8, 30).double(), mixture(25, 8, 30, seed=1).double()
    centroids[3] = 1e3                                                          # wins nothing, must stay
    counts = torch.zeros(25, dtype=torch.int64)
    expected, won = centroids.numpy().copy(), [[] for _ in range(25)]
    for batch in frames.split(300):
        nearest = brute_distances(batch, torch.from_numpy(expected)).argmin(1)
        for frame, cluster in zip(batch.numpy(), nearest):
            won[cluster].append(frame)
        expected = np.stack([np.mean(w, 0) if w else expected[k] for k, w in enumerate(won)])
        centroids, counts = kmeans.update(batch, centroids, counts)
    np.testing.assert_allclose(centroids.numpy(), expected, rtol=1e-10)
    assert counts.tolist() == [len(w) for w in won] and counts[3] == 0 and counts.sum() == 4000


def test_update_leaves_its_arguments_alone_and_takes_an_empty_batch():
    frames, centroids, counts = mixture(50, 4, 5), mixture(5, 4, 5, seed=1), torch.zeros(5, dtype=torch.int64)
    before = centroids.clone()
    kmeans.update(frames, centroids, counts)
    assert torch.equal(centroids, before) and counts.sum() == 0
    same, none = kmeans.update(frames[:0], centroids, counts)
    assert torch.equal(same, centroids) and none.sum() == 0


def seeds_of(frames: torch.Tensor, clusters: int, seed: int, **options) -> torch.Tensor:
    return kmeans.seed_centroids(frames, clusters, torch.Generator().manual_seed(seed), **options)


def test_seeding_draws_in_proportion_to_the_squared_distance():
    """With one candidate the second centroid follows D^2: from 0 the frames 1, 2, 3 come as 1 : 4 : 9."""
    frames = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    second = [tuple(seeds_of(frames, 2, seed, candidates=1).flatten().tolist()) for seed in range(2000)]
    from_zero = np.array([b for a, b in second if a == 0.0])
    assert len(from_zero) == pytest.approx(500, abs=80)                       # the first one is any frame
    shares = [(from_zero == value).mean() for value in (0, 1, 2, 3)]
    np.testing.assert_allclose(shares, [0, 1 / 14, 4 / 14, 9 / 14], atol=0.07)


def greedy_seeding(frames: np.ndarray, draws: np.ndarray) -> tuple[list[int], float]:
    """Greedy k-means++ of frames (S, F) float64 by uniform draws (K, L), one candidate at a time."""
    closest, chosen = np.ones(len(frames)), []
    for row in draws:
        steps = np.cumsum(closest)
        candidates = [int(np.argmax(steps > draw * steps[-1])) for draw in row]
        within = np.inf if not chosen else closest
        left = {c: np.minimum(((frames - frames[c]) ** 2).sum(1), within) for c in candidates}
        chosen.append(min(candidates, key=lambda c: left[c].sum()))
        closest = left[chosen[-1]]
    return chosen, closest.sum()


@pytest.mark.parametrize("tries, clusters, candidates", [(1, 40, 1), (1, 40, 9), (3, 25, 4)])
def test_tries_that_advance_together_are_each_a_greedy_seeding(tries, clusters, candidates):
    """In float64, about the mean: every choice and the inertia left are those of plain loops, try by try."""
    frames = mixture(700, 6, 30).double()
    frames -= frames.mean(0)
    draws = torch.rand(tries, clusters, candidates, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    chosen, left = kmeans.greedy_seedings(frames, draws)
    for found, inertia, one in zip(chosen, left, draws):
        expected, remains = greedy_seeding(frames.numpy(), one.numpy())
        assert found.tolist() == expected and inertia.item() == pytest.approx(remains, rel=1e-9)


def test_seeding_takes_every_different_frame_once():
    """As many clusters as different frames, far from the origin and with many copies: none is taken twice."""
    different = 1000 + mixture(60, 5, 3)
    frames = torch.cat([different[:1].expand(500, 5), different, different[:30]])
    for seed in range(5):
        seeds = seeds_of(frames, 60, seed)
        assert {tuple(row) for row in seeds.tolist()} == {tuple(row) for row in different.tolist()}
    with pytest.raises(ValueError, match="61 clusters need as many different frames, .* hold 60"):
        seeds_of(frames, 61, 0)


def test_more_candidates_and_tries_seed_better():
    frames = mixture(3000, 16, 60)
    mean = lambda **options: np.mean([kmeans.inertia(frames, seeds_of(frames, 50, seed, **options))
                                      for seed in range(5)])
    plain, greedy, several = mean(candidates=1), mean(candidates=16), mean(candidates=1, tries=5)
    assert greedy < 0.95 * plain and several < plain
    tries = [kmeans.inertia(frames, seeds_of(frames, 50, 0, candidates=1, tries=n)) for n in (1, 2, 3, 4)]
    assert tries == sorted(tries, reverse=True)                                 # the best one is kept


def test_fit_reports_what_it_returns():
    frames = mixture(3000, 12, 40)
    records = []
    centroids, counts, inertia = kmeans.fit(frames, 30, QUICK, progress=records.append)
    assert centroids.shape == (30, 12) and centroids.dtype == torch.float32
    assert torch.equal(counts, torch.bincount(kmeans.assign(frames, centroids), minlength=30))
    assert inertia == pytest.approx(kmeans.inertia(frames, centroids), rel=1e-9)
    course = [record["inertia"] for record in records if record["phase"] == "all frames"]
    assert course[-1] == inertia and all(b <= a * (1 + 1e-6) for a, b in zip(course, course[1:]))
    assert [record["phase"] for record in records[:3]] == ["seeding", "mini-batches", "all frames"]


@pytest.mark.parametrize("passes", [{"full_passes": 3}, {"seeding_passes": 3}, {"seeding_passes": 1, "full_passes": 2}])
def test_full_passes_are_lloyds(passes):
    """No mini-batches, three passes over all frames, which are the sample, too: those of float64 numpy."""
    frames = mixture(2000, 10, 30)
    config = replace(QUICK, seeding_frames=2000, seeding_passes=0, mini_batch_passes=0, full_passes=0, tolerance=0.0)
    seeds, _, _ = kmeans.fit(frames, 20, config)
    found, _, inertia = kmeans.fit(frames, 20, replace(config, **passes))
    expected = seeds.double().numpy()
    for _ in range(3):
        nearest = brute_distances(frames, torch.from_numpy(expected)).argmin(1)
        expected = np.stack([frames.double().numpy()[nearest == k].mean(0) for k in range(20)])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert inertia == pytest.approx(brute_distances(frames, torch.from_numpy(expected)).min(1).mean(), rel=1e-6)


def test_seeding_passes_read_the_subsample_alone():
    """Passes over a tenth of the frames: less inertia over these, each centroid the mean of those it wins."""
    frames, records = mixture(5000, 10, 30), []
    config = replace(QUICK, seeding_frames=500, seeding_passes=20, mini_batch_passes=0, full_passes=0, tolerance=0.0)
    found, _, _ = kmeans.fit(frames, 20, config, progress=records.append)
    sample = frames[frame_source.spread(5000, 500, config.seed, "seeding")]
    nearest = kmeans.assign(sample, found)
    torch.testing.assert_close(found, torch.stack([sample[nearest == k].mean(0) for k in range(20)]))
    assert records[0]["inertia"] == pytest.approx(kmeans.inertia(sample, found), rel=1e-6)
    kmeans.fit(frames, 20, replace(config, seeding_passes=0), progress=records.append)
    assert records[0]["inertia"] < 0.95 * records[2]["inertia"] and records[2]["phase"] == "seeding"


def test_same_seed_same_codebook_bit_for_bit():
    frames = mixture(3000, 12, 40)
    first, again, other = (kmeans.fit(frames, 30, replace(QUICK, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first[:2], again[:2])) and first[2] == again[2]
    assert not torch.equal(first[0], other[0])


def test_chunks_are_the_same_as_one_tensor(tmp_path):
    """A list, a function, a bare iterator and a memory map, cut anywhere, give the tensor's codebook bit for bit."""
    frames = mixture(40_000, 6, 40)
    config = replace(QUICK, full_passes=2)
    expected = kmeans.fit(frames, 25, config)
    np.save(tmp_path / "frames.npy", frames.numpy())
    cuts = [1, 9000, 0, 2999, 20_000, 8000]
    for chunks in (list(frames.split(cuts)), lambda: iter(frames.split(cuts)), iter(frames.split(cuts)),
                   np.load(tmp_path / "frames.npy", mmap_mode="r")):
        found = kmeans.fit(chunks, 25, config)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1]) and found[2] == expected[2]


def test_more_frames_than_memory_may_hold(monkeypatch):
    """With a tenth of the frames held at a time, no more is held, every frame counts, and the result is as good."""
    frames, longest = mixture(20_000, 8, 60), []

    class Watched(frame_source.FrameSource):
        def pick(self, positions):
            picked = super().pick(positions)
            longest.append(len(picked.frames))
            return picked

    monkeypatch.setattr(frame_source, "FrameSource", Watched)
    small = kmeans.fit(list(frames.split(700)), 50, replace(QUICK, max_frames=2000, mini_batch_passes=3))
    assert max(longest) == 2000 and small[1].sum() == 20_000
    assert small[2] == pytest.approx(kmeans.fit(frames, 50, QUICK)[2], rel=0.02)


def test_an_empty_cluster_moves_to_the_farthest_frames():
    frames = torch.tensor([[0.0], [0.1], [0.2], [5.0], [9.0]])
    centroids = torch.tensor([[0.1], [77.0], [88.0]])
    moved = kmeans.reseed(centroids, torch.tensor([False, True, True]), frames)
    assert moved.flatten().tolist() == pytest.approx([0.1, 9.0, 5.0])
    assert centroids[1, 0] == 77.0 and kmeans.reseed(centroids, torch.tensor([False] * 3), frames) is centroids


@pytest.mark.parametrize("passes", [(0, 0), (2, 0), (0, 3), (2, 3)])
def test_no_cluster_is_left_empty(passes, monkeypatch):
    """Seeds of which most win nothing: all clusters have frames in the end."""
    frames = mixture(2000, 6, 30)

    def bad_seeds(frames, num_clusters, *rest):
        return torch.cat([frames[:1], 1000.0 + torch.arange(num_clusters - 1)[:, None] * torch.ones(1, 6)])

    monkeypatch.setattr(kmeans, "seed_centroids", bad_seeds)
    centroids, counts, inertia = kmeans.fit(frames, 20, replace(QUICK, mini_batch_passes=passes[0],
                                                                full_passes=passes[1]))
    assert counts.min() > 0 and counts.sum() == 2000 and centroids.abs().max() < 100
    assert inertia < 2 * kmeans.inertia(frames, seeds_of(frames, 20, 0))


def test_frames_of_a_model_in_training_or_inference():
    """Frames with a gradient, or made under inference mode, cluster as their plain copies do."""
    frames = mixture(600, 4, 10)
    with torch.inference_mode():
        inferred = frames * 1
    expected = kmeans.fit(frames, 10, QUICK)[0]
    assert torch.equal(kmeans.fit(inferred, 10, QUICK)[0], expected)
    found = kmeans.fit(frames.clone().requires_grad_(), 10, QUICK)[0]
    assert torch.equal(found, expected) and not found.requires_grad
    half = kmeans.fit(frames.half(), 10, QUICK)[0]                              # computed in float32 all the same
    assert half.dtype == torch.float32 and torch.equal(half, kmeans.fit(frames.half().float(), 10, QUICK)[0])


def test_one_cluster_and_as_many_clusters_as_frames():
    frames = mixture(300, 4, 10)
    centroids, counts, inertia = kmeans.fit(frames, 1, QUICK)
    torch.testing.assert_close(centroids[0], frames.mean(0))
    assert counts.tolist() == [300] and inertia == pytest.approx(frames.var(0, correction=0).sum().item(), rel=1e-5)
    _, counts, inertia = kmeans.fit(frames, 300, QUICK)
    assert counts.tolist() == [1] * 300 and inertia < 1e-9


@pytest.mark.parametrize("frames, clusters, message", [
    (torch.zeros(10, 3), 11, r"number of frames = 10\], got 11"),
    (torch.zeros(10, 3), 0, "got 0"),
    (torch.zeros(0, 3), 1, "number of frames = 0"),
    ([], 1, "number of frames = 0"),
    (torch.zeros(10, 3), 2, "hold 1: ask for fewer clusters"),
    (torch.zeros(10), 2, r"\(S, F\)"),
    ([torch.zeros(5, 3), torch.zeros(5, 4)], 2, r"got \(5, 4\) after F = 3"),
    (torch.tensor([[0.0], [1.0], [float("nan")]]), 2, "frame 2 of rank 0 is not finite"),
    ([torch.zeros(5, 1), torch.tensor([[1.0], [float("inf")]])], 2, "frame 6 of rank 0 is not finite"),
])
def test_frames_that_cannot_be_clustered(frames, clusters, message):
    with pytest.raises(ValueError, match=message):
        kmeans.fit(frames, clusters, QUICK)


CONFIGURATIONS = {"held": replace(QUICK, full_passes=3), "drawn": replace(QUICK, max_frames=1500, mini_batch_passes=2)}
SHARES = {"half each": [2001, 2000], "all and none": [4001, 0]}


def fits_of_a_rank() -> tuple[dict[str, tuple[np.ndarray, np.ndarray, float]], str]:
    """One of two ranks: centroids, counts and inertia by share and configuration; the error where one rank has NaN."""
    frames, rank, fits = mixture(4001, 6, 30), distributed.rank(), {}
    for share, sizes in SHARES.items():
        for name, config in CONFIGURATIONS.items():
            centroids, counts, inertia = kmeans.fit(frames.split(sizes)[rank], 20, config)
            fits[f"{share} {name}"] = centroids.numpy(), counts.numpy(), float(inertia)
    try:
        kmeans.fit(frames * float("nan") if rank == 1 else frames, 20, QUICK)
    except ValueError as error:
        return fits, str(error)
    return fits, ""


def test_two_ranks_find_the_codebook_of_one():
    """Two gloo processes, half of the frames each, or all and none; and both raise for a fault of one."""
    frames, of_ranks = mixture(4001, 6, 30), ranks.run(fits_of_a_rank, 2)
    for name, config in CONFIGURATIONS.items():
        one = kmeans.fit(frames, 20, config)
        for share in SHARES:
            first, second = (fits[f"{share} {name}"] for fits, _ in of_ranks)
            for mine, other in zip(first, second):
                np.testing.assert_array_equal(mine, other)
            np.testing.assert_allclose(first[0], one[0], atol=1e-4)
            np.testing.assert_array_equal(first[1], one[1])
            assert first[2] == pytest.approx(one[2], rel=1e-6)
    assert all("rank 1 is not finite" in message for _, message in of_ranks)


@pytest.mark.parametrize("kind", ["speech", "mixture"])
def test_inertia_is_not_above_scikit_learns(kind, request):
    """Against MiniBatchKMeans with the reference's settings, 3 of its 20 initialisations, on the same frames."""
    cluster = pytest.importorskip("sklearn.cluster", reason="scikit-learn, of the extra [oracle], is not installed")
    frames = request.getfixturevalue("speech") if kind == "speech" else mixture(20_000, 32, 300)
    theirs = cluster.MiniBatchKMeans(n_clusters=100, init="k-means++", max_iter=100, batch_size=10_000, tol=0.0,
                                     max_no_improvement=100, n_init=3, reassignment_ratio=0.0, random_state=0,
                                     compute_labels=False).fit(frames.numpy())
    centroids, _, ours = kmeans.fit(frames, 100)
    reference = torch.from_numpy(theirs.cluster_centers_).float()
    assert ours <= 1.005 * kmeans.inertia(frames, reference)
    assert ours == pytest.approx(brute_distances(frames, centroids).min(1).mean(), rel=1e-5)
    labels = kmeans.assign(frames, reference).numpy()                           # same centroids, same assignment
    expected = theirs.predict(frames.numpy())
    differs = labels != expected
    assert differs.mean() < 1e-3
    distances = brute_distances(frames[torch.from_numpy(differs)], reference)   # another one only at a tie of rounding
    ours, theirs = (distances[np.arange(len(distances)), x[differs]] for x in (labels, expected))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.gpu
def test_gpu_finds_what_the_cpu_finds():
    frames = mixture(20_000, 39, 60)
    cpu, gpu, again = kmeans.fit(frames, 50), kmeans.fit(frames.cuda(), 50), kmeans.fit(frames, 50, device="cuda")
    assert gpu[0].device.type == "cuda" and gpu[2] == pytest.approx(cpu[2], rel=0.01)
    assert torch.equal(gpu[0], again[0])
    labels = kmeans.assign(frames.cuda(), cpu[0].cuda()).cpu()
    assert (labels != kmeans.assign(frames, cpu[0])).float().mean() < 1e-3
