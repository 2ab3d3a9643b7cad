"""Crops of sound on frame boundaries, what of it stays in memory, groups of like lengths."""
import itertools
from dataclasses import replace

import marked_sound
import numpy as np
import pytest
import soundfile
import torch
from marked_sound import LENGTHS, crops_of

from framealign.sound.frames import num_frames
from framealign.corpus.cropping import Crop, Waveforms, frame_counts, groups_by_length, load_checked, padded
from framealign.corpus.utterance import Utterance


@pytest.fixture(scope="module")
def marked(tmp_path_factory) -> list[Utterance]:
    return marked_sound.write(tmp_path_factory.mktemp("marked"))


def test_an_utterance_is_prepared_whole_then_cut(marked):
    """By its own mean and variance, not by the crop's; a whole one keeps the samples after its last frame."""
    crops = [Crop(4, 20, 30), Crop(0, 0, 49), Crop(6, 0, 5), Crop(1, 0, 1)]
    waveform, num_samples = Waveforms(marked, do_normalize=True).batch(crops)
    assert num_samples.tolist() == [29 * 320 + 400, 16_000, 4 * 320 + 400, 400] and waveform.shape == (4, 16_000)
    for row, n, crop in zip(waveform, num_samples.tolist(), crops):
        sound = soundfile.read(marked[crop.utterance].path)[0]
        expected = ((sound - sound.mean()) / np.sqrt(sound.var() + 1e-7))[320 * crop.start:320 * crop.start + n]
        np.testing.assert_allclose(row[:n].numpy(), expected, atol=1e-5)
        assert not row[n:].any()


@pytest.mark.parametrize("subtype, is_held", [("PCM_16", True), ("PCM_24", False), ("FLOAT", False)])
def test_sound_that_was_read_is_held_where_int16_is_exact(tmp_path, subtype, is_held):
    """Held, it is the same to the bit without its file; else its file is read again."""
    noise = []
    for u, length in enumerate(LENGTHS):
        soundfile.write(tmp_path / f"{u}.wav", np.random.default_rng(u).uniform(-1, 1, length), 16_000, subtype)
        noise.append(Utterance(f"noise{u}", tmp_path / f"{u}.wav", length))
    crops, source = crops_of(frame_counts(noise), 12), Waveforms(noise, do_normalize=True)
    first = source.batch(crops)
    assert all(torch.equal(a, b) for a, b in zip(first, source.batch(crops)))
    for path in tmp_path.glob("*.wav"):
        path.unlink()
    if is_held:
        assert all(torch.equal(a, b) for a, b in zip(first, source.batch(crops)))
    else:
        with pytest.raises(ValueError, match="no such file"):
            source.batch(crops)


def test_no_more_is_held_than_there_is_room_for(marked):
    source = Waveforms(marked, False, cache_bytes=2 * 16_000 + 2 * 400)
    for _ in range(2):
        for u in range(len(marked)):
            waveform, _ = source.batch([Crop(u, 0, num_frames(LENGTHS[u]))])
            assert torch.equal(waveform[0], load_checked(marked[u], False))
    assert sum(x.nbytes for x in source.cache.values()) == 2 * 16_000 + 2 * 400 and set(source.cache) == {0, 1}


def test_a_manifest_that_is_wrong_about_a_file(marked):
    wrong = [replace(marked[0], num_samples=16_001)]
    with pytest.raises(ValueError, match=r"0\.wav: has 16000 samples at 16 kHz, the manifest says 16001 "
                                         r"\(utterance utterance0\); make the manifest again"):
        Waveforms(wrong, False).batch([Crop(0, 0, 1)])
    with pytest.raises(ValueError, match="utterance utterance1: 399 samples, at least 400"):
        frame_counts([marked[0], replace(marked[1], num_samples=399)])
    assert frame_counts(marked).tolist() == [(n - 400) // 320 + 1 for n in LENGTHS]
    assert frame_counts([]).shape == (0,)


@pytest.mark.parametrize("budget", [1, 100, 1000, 10 ** 9])
def test_groups_by_length(budget):
    """A partition of the indices, sorted by length; padded size within the budget, and no group could take one more."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 300, 500).tolist()
    indices = draw.permutation(500)[:400].tolist()
    groups = groups_by_length(lengths, indices, budget)
    flat = [u for group in groups for u in group]
    assert sorted(flat) == sorted(indices) and [lengths[u] for u in flat] == sorted(lengths[u] for u in indices)
    assert all(len(group) == 1 or len(group) * max(lengths[u] for u in group) <= budget for group in groups)
    for group, following in itertools.pairwise(groups):
        assert (len(group) + 1) * lengths[following[0]] > budget
    assert groups == groups_by_length(lengths, sorted(indices), budget) and groups_by_length(lengths, [], budget) == []


@pytest.mark.parametrize("shape", [(), (3,)])
def test_padded(shape):
    """Rows of samples or of frames: zeros behind the shorter ones, and every length."""
    rows = [torch.randn(length, *shape) for length in (4, 1, 6)]
    batch, lengths = padded(rows)
    assert batch.shape == (3, 6, *shape) and lengths.tolist() == [4, 1, 6] and lengths.dtype == torch.int64
    for row, padded_row in zip(rows, batch):
        assert torch.equal(padded_row[:len(row)], row) and not padded_row[len(row):].any()
