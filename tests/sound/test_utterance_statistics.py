"""Statistics of utterances against formulas in numpy: MFCC, deltas, energy, pitch and what is said of each."""
import numpy as np
import pytest
import torch

from framealign.sound import audio, utterance_statistics
from framealign.sound.utterance_statistics import WIDTH, series, statistics, summary

ENERGY, PITCH = 40, 41                              # which series
MEAN, DEVIATION, LOW, MEDIAN, HIGH = range(5)       # which statistic of one


def normalised(samples: np.ndarray) -> torch.Tensor:
    return audio.preprocess(torch.from_numpy(samples.astype(np.float32)), do_normalize=True)


def speech_like(seed: int, seconds: float = 0.7) -> np.ndarray:
    """Noise whose level and colour change."""
    draw = np.random.default_rng(seed)
    samples = draw.standard_normal(round(16_000 * seconds))
    samples = np.convolve(samples, draw.standard_normal(9), "same")
    return samples * np.repeat(draw.uniform(0.1, 2, 1 + len(samples) // 1600), 1600)[:len(samples)]


def mfcc_by_hand(x: np.ndarray) -> np.ndarray:
    """Reflected ends, periodic Hann windows of 400 every 160, 40 triangles of power on the HTK mel scale, decibels down
    to 80 below the greatest, an orthonormal cosine transform: (20, T)."""
    padded = np.pad(x, 200, "reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.stack([padded[start:start + 400] * window for start in range(0, len(x) + 1, 160)])
    power = np.abs(np.fft.rfft(frames)) ** 2                                            # (T, 201)
    mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42)
    hertz = 700 * (10 ** (mels / 2595) - 1)
    bins = np.linspace(0, 8000, 201)
    triangles = [np.clip(np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)), 0, None)
                 for low, middle, high in zip(hertz, hertz[1:], hertz[2:])]
    decibels = 10 * np.log10(np.maximum(power @ np.array(triangles).T, 1e-10))          # (T, 40)
    decibels = np.maximum(decibels, decibels.max() - 80)
    transform = np.cos(np.pi / 40 * (np.arange(40) + 0.5)[:, None] * np.arange(20)) * np.sqrt(2 / 40)
    transform[:, 0] /= np.sqrt(2)
    return (decibels @ transform).T


def deltas_by_hand(rows: np.ndarray) -> np.ndarray:
    """Slopes over five frames, the ends repeated."""
    padded = np.pad(rows, ((0, 0), (2, 2)), "edge")
    T = rows.shape[1]
    return sum(n * (padded[:, 2 + n:2 + n + T] - padded[:, 2 - n:2 - n + T]) for n in (1, 2)) / 10


def pitch_by_hand(x: np.ndarray) -> np.ndarray:
    """Of frames of 320 the lag of greatest normalised correlation, a lower one where it is nearly as great; medians of
    15, ahead of which the first is repeated: Hz, (T - 7,)."""
    lags, num_frames = 229, -(-len(x) // 320)
    padded = np.pad(x, (0, lags + num_frames * 320 - len(x)))
    best = []
    for start in range(0, num_frames * 320, 320):
        frame = padded[start:start + 320]
        shifted = [padded[start + lag:start + lag + 320] for lag in range(1, lags + 1)]
        correlation = np.array([frame @ other / max(frame @ frame, 1e-18) / max(other @ other, 1e-18)
                                for other in shifted])
        whole, half = (32 + int(np.argmax(correlation[32:end])) for end in (lags, lags // 2))
        best.append(1 + (half if correlation[half] > 0.99 * correlation[whole] else whole))
    best = np.array([best[0]] * 7 + best)
    return 16_000 / np.array([np.median(best[i:i + 15]) for i in range(len(best) - 14)])


@pytest.mark.parametrize("seed", range(3))
def test_every_series_is_that_of_the_formulas(seed):
    waveform = normalised(speech_like(seed))
    x = waveform.double().numpy()
    cepstra = mfcc_by_hand(x)
    energy = np.log([np.mean(x[start:start + 400] ** 2) + 1e-6 for start in range(0, len(x) - 399, 160)])
    pitch = np.log(pitch_by_hand(x))
    expected = [np.concatenate([cepstra, deltas_by_hand(cepstra)]), energy[None], pitch[None], np.diff(energy)[None],
                np.diff(pitch)[None]]
    for values, by_hand in zip(series(waveform), expected, strict=True):
        np.testing.assert_allclose(values.numpy(), by_hand, atol=2e-3)
    rows = [row for values in expected for row in values]
    vector = np.concatenate([[row.mean(), row.std(ddof=1), *np.percentile(row, [10, 50, 90])] for row in rows])
    assert vector.shape == (WIDTH,) == (220,)
    np.testing.assert_allclose(statistics(waveform).numpy(), vector, atol=2e-3)


def test_the_statistics_of_a_series_by_hand():
    """1 ... 11: the 10, 50 and 90 % quantiles are 2, 6 and 10."""
    values = torch.arange(1.0, 12).flip(0)
    assert torch.allclose(summary(torch.stack([values, -values])), torch.tensor(
        [[6, 11 ** 0.5, 2, 6, 10], [-6, 11 ** 0.5, -10, -6, -2]]))


@pytest.mark.parametrize("hertz", np.random.default_rng(1).uniform(75, 480, 6).tolist())
def test_the_pitch_of_a_tone(hertz):
    """Its period within a sample, but where the sound ends; nothing moves."""
    time = np.arange(16_000) / 16_000
    vector = statistics(normalised(0.1 * np.sin(2 * np.pi * hertz * time))).numpy().reshape(-1, 5)
    assert np.abs(16_000 / np.exp(vector[PITCH, MEDIAN:]) - 16_000 / hertz).max() <= 1
    assert vector[PITCH + 2, MEDIAN] == 0
    assert vector[ENERGY, MEDIAN] == pytest.approx(0, abs=0.1)


def test_the_level_does_not_count_and_changes_of_it_do():
    samples = speech_like(0)
    quiet, loud = (statistics(normalised(level * samples)) for level in (0.1, 1))
    assert torch.allclose(quiet, loud, atol=1e-3)
    swelling = statistics(normalised(samples * np.linspace(0.01, 1, len(samples))))
    assert swelling.reshape(-1, 5)[ENERGY, DEVIATION] > loud.reshape(-1, 5)[ENERGY, DEVIATION]


@pytest.mark.parametrize("samples", [400, 1000, 3199])
def test_short_sound_is_padded(samples):
    x = torch.randn(samples)
    padded = torch.cat([x, torch.zeros(utterance_statistics.LEAST_SAMPLES - samples)])
    assert torch.equal(statistics(x), statistics(padded)) and statistics(x).isfinite().all()


def test_silence_has_statistics():
    assert statistics(normalised(np.zeros(8000))).isfinite().all()
