"""Chunks give the samples that the whole sound gives, at any rate, in any lengths; what is no sound is refused."""
import numpy as np
import pytest
import torch

from framealign.sound.audio import resample
from framealign.sound.live_sound import PIECE, LiveSound


def cut(sound: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """Chunks of these sizes by turns, empty ones among them."""
    chunks, start = [], 0
    while start < len(sound):
        for size in sizes:
            chunks.append(sound[start:start + size])
            start += size
    return chunks


def in_pieces(live: LiveSound, step: int) -> torch.Tensor:
    pieces, stop = [], 0
    while True:
        stop += step
        pieces.append(live.until(stop))
        if len(pieces[-1]) < step:
            assert not len(live.until(stop + step))
            return torch.cat(pieces)


@pytest.mark.parametrize("rate", (8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 44_101, 15_999))
def test_pieces_are_the_whole_sound_resampled(rate):
    """Seamless, to the last sample; 44,101 and 15,999 Hz go the way without a filter bank (`audio.resample`)."""
    pytest.importorskip("torchaudio")
    for number in (1, 777, 2 * rate + 123):
        sound = np.random.default_rng(number).normal(0, 0.3, number).astype(np.float32)
        wanted = resample(torch.from_numpy(sound), rate, "whole")
        for step in (401, 3200):
            pieces = in_pieces(LiveSound(cut(sound, [1000, 0, 1, 313]), rate), step)
            assert len(pieces) == len(wanted) == -(-number * 16_000 // rate)
            torch.testing.assert_close(pieces, wanted, rtol=0, atol=1e-6)


def test_a_seam_would_be_noticed():
    """Chunks resampled by themselves differ by far more than is allowed above."""
    pytest.importorskip("torchaudio")
    sound = torch.randn(44_100, generator=torch.Generator().manual_seed(0))
    apart = torch.cat([resample(part, 44_100, "part") for part in sound.split(4_410)])
    assert (apart - resample(sound, 44_100, "whole")).abs().max() > 0.1


@pytest.mark.parametrize("rate", (16_000, 44_100))
def test_lengths_of_chunks_never_show(rate):
    pytest.importorskip("torchaudio")
    sound = np.random.default_rng(0).normal(0, 0.3, (3 * PIECE + 5, 2)).astype(np.float32)
    wanted = in_pieces(LiveSound([sound], rate), 3_000)
    for sizes in ([7_001, 1, 0], [160], [len(sound) - 1, 1]):
        assert torch.equal(in_pieces(LiveSound(cut(sound, sizes), rate), 3_000), wanted)


def test_channels_are_averaged_and_int16_is_of_full_scale():
    sound = np.random.default_rng(0).integers(-32768, 32767, (5_000, 2), np.int16)
    wanted = (sound / 32768.0).mean(1)
    for chunks in ([sound], [torch.from_numpy(sound)], [sound.astype(np.float64) / 32768], cut(sound, [999])):
        np.testing.assert_allclose(in_pieces(LiveSound(chunks, 16_000), 800), wanted, atol=1e-7)
    for mono in (sound[:, 0], sound[:, :1]):
        np.testing.assert_allclose(in_pieces(LiveSound([mono], 16_000), 800), sound[:, 0] / 32768, atol=1e-7)
    given = sound.astype(np.float32)
    in_pieces(LiveSound([given], 16_000), 800)
    assert (given == sound).all()                   # what was given is not changed


@pytest.mark.parametrize("rate", (16_000, 44_100, 44_101))
def test_what_is_held_has_a_fixed_size(rate):
    """However long the sound is: the filter's reach and a chunk, of 44,101 Hz a second more, which is its period."""
    live = LiveSound((np.zeros(441, np.float32) for _ in range(10 ** 9)), rate)
    sizes = []
    for stop in range(3_200, 16_000 * 12, 3_200):
        live.until(stop)
        sizes.append(live.samples.untyped_storage().nbytes() / 4)
    assert max(sizes) < 1_500 + (44_101 if rate == 44_101 else 0)
    assert max(sizes[len(sizes) // 2:]) <= max(sizes[:len(sizes) // 2]) + 441


def test_no_chunk_is_taken_before_it_is_needed():
    """The frame whose samples have come is not kept waiting for another chunk."""
    taken = []
    live = LiveSound((taken.append(i) or np.zeros(400, np.float32) for i in range(9)), 16_000)
    assert len(live.until(398)) == 398 and len(taken) == 1
    assert len(live.until(800)) == 402 and len(taken) == 2 and live.seconds == 0.05


@pytest.mark.parametrize("chunks, message", [
    ([np.zeros(10), np.array([0.0, np.nan])], r"the sample at 0\.001 s is NaN or infinite"),
    ([np.array([[0.0, np.inf]])], r"the sample at 0\.000 s is NaN or infinite"),
    ([np.zeros((16, 2)), np.zeros((4, 1))], r"the chunk at 0\.001 s: has 1 channels, those before it 2"),
    ([np.zeros(16), np.zeros((4, 2))], r"has 2 channels, those before it 1"), ([np.zeros((4, 0))], "has 0 channels"),
    ([np.zeros((2, 2, 2))], r"must be \(N,\) or \(N, channels\), floats in -1..1 or int16, is \(2, 2, 2\)"),
    ([np.zeros(4, np.int32)], "is .4,. of int32"), ([0.5], r"is \(\) of float64"), (["text"], "of <U4"),
    ([b"bytes"], "of [|]S5")])
def test_what_is_no_sound_costs_one_line(chunks, message):
    with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
        LiveSound(chunks, 16_000).until(10 ** 6)


@pytest.mark.parametrize("rate", (0, -16_000, 3_999, 1_000_001, 16_000.5, float("nan")))
def test_rates_that_no_speech_has(rate):
    with pytest.raises(ValueError, match="Hz, must be 4000 to 1000000 Hz"):
        LiveSound([], rate)
