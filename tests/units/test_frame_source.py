"""Frames read piece by piece: the same frames however they come, drawn evenly, on any number of ranks."""
import numpy as np
import pytest
import torch

from framealign.runtime import distributed
from framealign.units import frame_source
from framealign.units.frame_source import FrameSource, survey

CPU = torch.device("cpu")


@pytest.fixture
def frames() -> torch.Tensor:
    """Frames (1000, 3) whose first number is their position."""
    x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    x[:, 0] = torch.arange(1000)
    return x


@pytest.mark.parametrize("form", ["tensor", "array", "list", "function", "float16 chunks"])
def test_pieces_are_the_frames_in_order_of_one_size(frames, form, monkeypatch):
    """Pieces of 64 frames, however long the chunks are and whatever they are."""
    monkeypatch.setattr(frame_source, "CPU_PIECE", 64)
    cuts = [1, 300, 0, 99, 600]
    chunks = {"tensor": frames, "array": frames.numpy(), "list": list(frames.split(cuts)),
              "function": lambda: iter(frames.split(cuts)), "float16 chunks": [x.half() for x in frames.split(cuts)]}
    for _ in range(2):                              # as often as asked
        pieces = list(FrameSource(chunks[form], CPU).pieces())
        assert [len(piece) for piece in pieces] == [64] * 15 + [40]
        assert all(piece.dtype == torch.float32 for piece in pieces)
        expected = frames.half().float() if form == "float16 chunks" else frames
        assert torch.equal(torch.cat(pieces), expected)


def test_picked_frames_are_those_at_the_positions(frames, monkeypatch):
    monkeypatch.setattr(frame_source, "CPU_PIECE", 64)
    positions = torch.tensor([0, 1, 63, 64, 500, 998, 999])
    picked = survey(list(frames.split(77)), CPU).pick(positions)
    assert torch.equal(picked.frames, frames[positions]) and picked.gathered().shape == (7, 3)
    assert (picked.start, picked.count, picked.total, picked.width) == (0, 7, 7, 3)
    whole = survey(frames, CPU)
    assert whole.pick(torch.arange(1000)) is whole  # in memory already


def test_each_rank_picks_from_its_own_part(frames, monkeypatch):
    """Two ranks, 400 and 600 frames: together they pick the frames at the positions, in order."""
    parts = (frames[:400], frames[400:])
    monkeypatch.setattr(distributed, "all_gather_objects", lambda item: [(400, 3, ""), (600, 3, "")])
    positions = torch.tensor([3, 399, 400, 900])
    picked = []
    for rank, part in enumerate(parts):
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        source = survey(part, CPU)
        assert (source.start, source.count, source.total) == ((0, 400, 1000), (400, 600, 1000))[rank]
        own = source.pick(positions)
        assert (own.start, own.count, own.total) == ((0, 2, 4), (2, 2, 4))[rank]
        picked.append(own.frames)
    assert torch.equal(torch.cat(picked), frames[positions])


@pytest.mark.parametrize("chunks, message", [
    ([torch.zeros(5, 3), torch.zeros(5, 4)], r"got \(5, 4\) after F = 3"), (torch.zeros(4), r"\(S, F\)"),
    ([torch.zeros(5, 1), torch.tensor([[1.0], [float("inf")]])], "frame 6 of rank 0 is not finite")])
def test_frames_that_are_none(chunks, message):
    with pytest.raises(ValueError, match=message):
        survey(chunks, CPU)


def test_a_fault_of_one_rank_is_raised_on_all(monkeypatch):
    monkeypatch.setattr(distributed, "all_gather_objects", lambda item: [item, (0, 0, "a fault")])
    with pytest.raises(ValueError, match="k-means: a fault"):
        survey(torch.zeros(4, 2), CPU)
    monkeypatch.setattr(distributed, "all_gather_objects", lambda item: [item, (4, 3, "")])
    with pytest.raises(ValueError, match=r"different widths: \[2, 3\]"):
        survey(torch.zeros(4, 2), CPU)


def test_positions_are_spread_evenly_and_differ():
    for total, size in ((10, 10), (1000, 7), (1000, 999), (5, 1)):
        positions = frame_source.spread(total, size, 3)
        edges = torch.arange(size + 1) * total // size
        assert ((positions >= edges[:-1]) & (positions < edges[1:])).all()
    drawn = torch.stack([frame_source.spread(10, 2, seed) for seed in range(2000)])
    assert torch.bincount(drawn.flatten(), minlength=10).min() > 300            # every frame may be drawn


def test_memory_maps_are_read_without_being_written(frames, tmp_path):
    np.save(tmp_path / "frames.npy", frames.numpy())
    chunks = np.load(tmp_path / "frames.npy", mmap_mode="r")
    piece, = FrameSource(chunks, CPU).pieces()
    piece += 1
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "frames.npy")), frames)
