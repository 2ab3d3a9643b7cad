"""Codebooks: fitted as k-means fits, written and read, those of other programs, and files that are none."""
import dataclasses

import numpy as np
import pytest
import safetensors.torch
import torch

from framealign.units import kmeans
from framealign.units.codebook import Codebook
from framealign.units.kmeans import KMeansConfig

QUICK = KMeansConfig(seed=3, seeding_frames=500, batch_frames=200)


@pytest.fixture
def frames():
    """600 frames about 8 centres, (600, 5)."""
    generator = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(8, 5, generator=generator)
    return centres[torch.randint(8, (600,), generator=generator)] + torch.randn(600, 5, generator=generator)


def test_fit_is_kmeans_and_assignment_the_nearest_centroid(frames):
    codebook = Codebook.fit(frames, 8, seed=5, config=QUICK, record={"layer": 2})
    centroids, counts, inertia = kmeans.fit(frames, 8, dataclasses.replace(QUICK, seed=5))
    assert torch.equal(codebook.centroids, centroids) and torch.equal(codebook.counts, counts)
    assert codebook.inertia == inertia and codebook.record == {"seed": 5, "layer": 2}
    distances = (frames.double()[:, None] - codebook.centroids.double()[None]).square().sum(-1)     # (S, K)
    assert torch.equal(codebook.assign(frames), distances.argmin(1))
    assert codebook.assign(frames).dtype == torch.int64
    assert codebook.inertia == pytest.approx(float(distances.min(1).values.mean()), rel=1e-5)
    assert torch.equal(codebook.counts, torch.bincount(distances.argmin(1), minlength=8))
    again = Codebook.fit((chunk for chunk in frames.split(77)), 8, seed=5, config=QUICK)
    assert torch.equal(again.centroids, codebook.centroids)
    assert not torch.equal(Codebook.fit(frames, 8, seed=6, config=QUICK).centroids, codebook.centroids)


def test_codebook_write_then_read_is_the_identity(frames, tmp_path):
    codebook = Codebook.fit(frames, 8, seed=5, config=QUICK, record={"layer": 2, "model": {"encoder": "ab"}})
    codebook.write(tmp_path / "codebook.safetensors")
    found = Codebook.read(tmp_path / "codebook.safetensors")
    assert torch.equal(found.centroids, codebook.centroids) and torch.equal(found.counts, codebook.counts)
    assert found.inertia == codebook.inertia and found.record == codebook.record
    assert [path.name for path in tmp_path.iterdir()] == ["codebook.safetensors"]


def test_codebooks_of_others(frames, tmp_path):
    """A .npy and scikit-learn's joblib file, as HuBERT's released 500 clusters are."""
    np.save(tmp_path / "centroids.npy", frames[:6].double().numpy())
    found = Codebook.read(tmp_path / "centroids.npy")
    assert torch.equal(found.centroids, frames[:6]) and found.centroids.dtype == torch.float32
    assert found.counts.tolist() == [0] * 6 and np.isnan(found.inertia) and "centroids.npy" in found.record["source"]
    cluster = pytest.importorskip("sklearn.cluster", reason="scikit-learn, of the extra [oracle], is not installed")
    joblib = pytest.importorskip("joblib", reason="joblib, of the extra [oracle], is not installed")
    theirs = cluster.MiniBatchKMeans(8, random_state=0, n_init=1).fit(frames.numpy())
    joblib.dump(theirs, tmp_path / "km.bin")
    found = Codebook.read(tmp_path / "km.bin")
    np.testing.assert_array_equal(found.centroids.numpy(), theirs.cluster_centers_.astype(np.float32))
    np.testing.assert_array_equal(found.assign(frames).numpy(), theirs.predict(frames.numpy()))


def test_frames_that_a_codebook_cannot_label(frames):
    codebook = Codebook.fit(frames, 8, config=QUICK)
    with pytest.raises(ValueError, match="codebook of 5 dimensions cannot label frames of 4"):
        codebook.assign(frames[:, :4])
    with pytest.raises(ValueError, match="NaN"):
        codebook.assign(torch.where(torch.arange(600)[:, None] == 3, float("nan"), frames))


def test_damaged_codebooks(frames, tmp_path):
    path = tmp_path / "codebook.safetensors"
    centroids, counts = frames[:4].clone(), torch.arange(4)
    for name, content, metadata in [
            ("no record", {"centroids": centroids, "counts": counts}, {"record": "[1", "inertia": "1"}),
            ("list for a record", {"centroids": centroids, "counts": counts}, {"record": "[1]", "inertia": "1"}),
            ("text for a number", {"centroids": centroids, "counts": counts}, {"record": "{}", "inertia": "[]"}),
            ("counts of others", {"centroids": centroids, "counts": counts[:3]}, {}),
            ("counts as floats", {"centroids": centroids, "counts": counts.float()}, {}),
            ("no centroids", {"units": centroids, "counts": counts}, {}),
            ("centroids not finite", {"centroids": centroids / 0, "counts": counts}, {})]:
        safetensors.torch.save_file(content, path, metadata)
        with pytest.raises(ValueError, match="codebook.safetensors"):
            print(name, Codebook.read(path))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="codebook.safetensors"):
        Codebook.read(path)
    with pytest.raises(ValueError, match="nowhere"):
        Codebook.read(tmp_path / "nowhere.safetensors")
