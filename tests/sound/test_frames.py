"""Frame arithmetic against convolutions that are really run, and as properties over all lengths from 400 to 50,000."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from framealign.sound.frames import (EVERY_20_MS, HOP, RECEPTIVE_FIELD, SAMPLE_RATE, Framing, conv_inputs, conv_length,
                                     frames_in, num_frames, num_samples_of, valid_frames)
from framealign.hubert.hubert_config import HubertConfig

KERNELS, STRIDES = HubertConfig().conv_kernel, HubertConfig().conv_stride
LENGTHS = np.arange(400, 50_001)


def stack(waveform: torch.Tensor, kernels=KERNELS, strides=STRIDES) -> torch.Tensor:
    """HuBERT's seven convolutions, or others, with weights of 1, no non-linearity: (N,) -> (T,)."""
    x = waveform[None, None]
    for kernel, stride in zip(kernels, strides):
        x = F.conv1d(x, torch.ones(1, 1, kernel, dtype=x.dtype), stride=stride)
    return x[0, 0]


def test_constants_are_those_of_the_convolutions():
    assert HOP == np.prod(STRIDES) and EVERY_20_MS.rate == SAMPLE_RATE / HOP == 50
    reach = 1
    for kernel, stride in zip(reversed(KERNELS), reversed(STRIDES)):
        reach = (reach - 1) * stride + kernel
    assert reach == RECEPTIVE_FIELD


def test_counts_for_every_length():
    """num_frames, the layer-by-layer count and the closed form agree; one more frame exactly every 320 samples."""
    counts = np.array([num_frames(int(n)) for n in LENGTHS])
    assert (counts == (LENGTHS - 400) // 320 + 1).all()
    assert (counts == conv_length(torch.from_numpy(LENGTHS), KERNELS, STRIDES).numpy()).all()
    assert all(conv_length(int(n), KERNELS, STRIDES) == num_frames(int(n)) for n in LENGTHS[::997])
    steps = LENGTHS[1:][np.diff(counts) == 1]
    assert counts[0] == 1 and set(np.diff(counts)) == {0, 1} and ((steps - 400) % 320 == 0).all()


@pytest.mark.parametrize("num_samples", [400, 401, 719, 720, 1039, 1040, 16_000, 49_999])
def test_convolutions_give_that_many_frames(num_samples):
    assert len(stack(torch.ones(num_samples))) == num_frames(num_samples)


@pytest.mark.parametrize("t", [0, 1, 5, 11])
def test_frame_t_sees_its_400_samples_and_no_other(t):
    waveform = torch.zeros(num_samples_of(12), dtype=torch.float64, requires_grad=True)
    stack(waveform)[t].backward()
    assert waveform.grad.nonzero().flatten().tolist() == list(range(320 * t, 320 * t + 400))


def test_shortest_crop_of_so_many_frames():
    """num_samples_of(n) samples hold n frames, one sample less holds n - 1."""
    for frames in range(1, 2000):
        assert num_frames(num_samples_of(frames)) == frames
        if frames > 1:
            assert num_frames(num_samples_of(frames) - 1) == frames - 1


def test_every_crop_on_a_frame_boundary_has_its_own_labels():
    """Label = number of the frame. The samples, marked with their own index, name the same frame as the label."""
    frames = 40
    samples = torch.arange(num_samples_of(frames) + 123)
    labels = torch.arange(frames)
    assert num_frames(len(samples)) == frames
    for start in range(frames):
        for size in range(1, frames - start + 1):
            crop = samples[start * HOP:start * HOP + num_samples_of(size)]
            assert num_frames(len(crop)) == size
            assert torch.equal(crop[::HOP][:size] // HOP, labels[start:start + size])


def test_crop_of_the_stack_is_the_stack_of_the_crop():
    waveform = torch.randn(num_samples_of(30), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = stack(waveform)
    for start, size in ((0, 30), (0, 1), (7, 12), (29, 1)):
        crop = waveform[start * HOP:start * HOP + num_samples_of(size)]
        torch.testing.assert_close(stack(crop), whole[start:start + size])


@pytest.mark.parametrize("num_samples", [-1, 0, 1, 399])
def test_too_short_is_an_error(num_samples):
    with pytest.raises(ValueError, match=f">= 400 .25 ms., got {num_samples}"):
        num_frames(num_samples)


def test_frames_in_seconds():
    assert [frames_in(s) for s in (0, 0.01, 0.025, 0.045, 1, 6, 15.625)] == [1, 1, 1, 2, 49, 299, 781]
    for frames in range(1, 3000):                                               # the seconds of n frames hold n frames
        assert frames_in(num_samples_of(frames) / SAMPLE_RATE) == frames


def random_stacks(number: int = 40):
    """Kernels and strides of conv encoders as nobody publishes them, and 25 Hz as is published."""
    yield (10, 3, 3, 3, 3, 2, 2, 2), (5, 2, 2, 2, 2, 2, 2, 2)
    draw = np.random.default_rng(0)
    for _ in range(number):
        depth = draw.integers(1, 6)
        yield tuple(draw.integers(1, 9, depth).tolist()), tuple(draw.integers(1, 6, depth).tolist())


def test_frames_of_any_convolutions_are_those_that_they_give():
    """Counts, the shortest crop and what a frame sees, for drawn lengths, against convolutions that are run."""
    draw = np.random.default_rng(1)
    for kernels, strides in random_stacks():
        framing = Framing.of(kernels, strides)
        for length in draw.integers(framing.receptive_field, framing.receptive_field + 40 * framing.hop, 5).tolist():
            frames = len(stack(torch.ones(length), kernels, strides))
            assert num_frames(length, framing) == conv_length(length, kernels, strides) == frames
        assert num_samples_of(frames, framing) == conv_inputs(frames, kernels, strides) <= length
        waveform = torch.zeros(length, dtype=torch.float64, requires_grad=True)
        t = int(draw.integers(frames))
        stack(waveform, kernels, strides)[t].backward()
        seen = waveform.grad.nonzero().flatten()
        assert (int(seen[0]), int(seen[-1]) + 1) == (framing.hop * t, framing.hop * t + framing.receptive_field)
        with pytest.raises(ValueError, match=f"num_samples must be >= {framing.receptive_field} "):
            num_frames(framing.receptive_field - 1, framing)


def test_frames_of_25_hz():
    framing = Framing.of((10, 3, 3, 3, 3, 2, 2, 2), (5, 2, 2, 2, 2, 2, 2, 2))
    assert framing == Framing(640, 720) and framing.rate == 25 and type(framing.rate) is int
    assert str(framing) == "a frame of 45 ms every 40 ms" and Framing(441, 600).rate == 16_000 / 441
    assert [frames_in(seconds, framing) for seconds in (0, 0.045, 0.085, 1)] == [1, 1, 2, 24]


def test_valid_frames():
    found = valid_frames(torch.tensor([3, 0, 5]), 5)
    assert found.dtype == torch.bool
    assert found.tolist() == [[True] * 3 + [False] * 2, [False] * 5, [True] * 5]


def test_inputs_of_so_many_outputs_are_the_fewest():
    assert conv_inputs(1, KERNELS, STRIDES) == RECEPTIVE_FIELD
    for outputs in range(1, 400, 7):
        needed = conv_inputs(outputs, KERNELS, STRIDES)
        assert conv_length(needed, KERNELS, STRIDES) == outputs == conv_length(needed - 1, KERNELS, STRIDES) + 1
