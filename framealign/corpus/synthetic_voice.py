"""Source-filter synthesis of speech: control tracks in, sound out (Fant 1960; digital resonators as in Klatt 1980).

Glottal pulses and noise, both white, pass through four gliding formants, the speaker's higher formants and a spectral
tilt that stands for glottis and lips together; friction noise has a band of its own. No sample is visited by a Python
loop: windows of 10 ms are filtered in the frequency domain and overlap-added.
"""
import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from framealign.sound import frames

STEP = 80                                           # samples, 5 ms: speech is planned in steps
WINDOW, FFT_SIZE = 2 * STEP, 6 * STEP               # samples: 10 ms of source, 20 ms more of ringing

VOWELS = (                                          # F1 to F4 in Hz, men (Peterson and Barney 1952; F4 is ours)
    (270, 2290, 3010, 3600), (390, 1990, 2550, 3500), (530, 1840, 2480, 3500), (660, 1720, 2410, 3500),
    (730, 1090, 2440, 3400), (570, 840, 2410, 3400), (440, 1020, 2240, 3300), (300, 870, 2240, 3300),
    (640, 1190, 2390, 3400), (490, 1350, 1690, 3200),
)
BANDWIDTHS = (80.0, 100.0, 150.0, 220.0)            # Hz, of F1 to F4
HIGHER_FORMANTS, HIGHER_BANDWIDTH = (4400.0, 5400.0, 6400.0), 400.0   # Hz; they do not glide

OFF = -90.0                                         # dB: silent


class Segment(NamedTuple):
    """A sound that holds still: a vowel, or a consonant or part of one."""
    seconds: float
    formants_hz: tuple[float, ...] | None           # None: the vowel's
    voice_db: float
    noise_db: float                                 # of friction, which has a band of its own:
    noise_hz: float
    noise_width_hz: float


LABIAL, ALVEOLAR, VELAR = (300, 900, 2200, 3300), (320, 1700, 2600, 3500), (300, 2000, 2400, 3400)
CONSONANTS: tuple[tuple[Segment, ...], ...] = (     # of one or two segments
    (Segment(0.07, (260, 1000, 2200, 3300), -10.0, OFF, 1000.0, 500.0),),                   # m
    (Segment(0.07, (260, 1600, 2500, 3400), -10.0, OFF, 1000.0, 500.0),),                   # n
    (Segment(0.06, (360, 1200, 2700, 3500), -6.0, OFF, 1000.0, 500.0),),                    # l
    (Segment(0.06, (350, 1200, 1600, 3200), -6.0, OFF, 1000.0, 500.0),),                    # r
    (Segment(0.06, (300, 700, 2200, 3300), -6.0, OFF, 1000.0, 500.0),),                     # w
    (Segment(0.10, ALVEOLAR, OFF, -4.0, 6000.0, 1200.0),),                                  # s
    (Segment(0.10, (320, 1800, 2500, 3500), OFF, -2.0, 3200.0, 900.0),),                    # sh
    (Segment(0.09, LABIAL, OFF, -14.0, 5000.0, 4000.0),),                                   # f
    (Segment(0.07, ALVEOLAR, -10.0, -10.0, 6000.0, 1200.0),),                               # z
    (Segment(0.06, LABIAL, -8.0, -20.0, 5000.0, 4000.0),),                                  # v
    (Segment(0.06, None, OFF, -12.0, 1500.0, 1500.0),),                                     # h
    (Segment(0.05, LABIAL, OFF, OFF, 1000.0, 1000.0),
     Segment(0.015, LABIAL, OFF, -4.0, 1000.0, 1000.0)),                                    # p
    (Segment(0.05, ALVEOLAR, OFF, OFF, 4500.0, 1500.0),
     Segment(0.020, ALVEOLAR, OFF, 0.0, 4500.0, 1500.0)),                                   # t
    (Segment(0.05, VELAR, OFF, OFF, 2200.0, 600.0),
     Segment(0.025, VELAR, OFF, -2.0, 2200.0, 600.0)),                                      # k
    (Segment(0.05, LABIAL, -18.0, OFF, 1000.0, 1000.0),
     Segment(0.010, LABIAL, -8.0, -8.0, 1000.0, 1000.0)),                                   # b
    (Segment(0.05, ALVEOLAR, -18.0, OFF, 4000.0, 1500.0),
     Segment(0.010, ALVEOLAR, -8.0, -6.0, 4000.0, 1500.0)),                                 # d
)


@dataclass
class Tracks:
    """All that glottis and vocal tract do, in C steps of 5 ms: arrays (C,), but for the formants; linear amplitudes."""
    f0_hz: np.ndarray
    voice: np.ndarray                               # amplitude of the pulses
    breath: np.ndarray                              # amplitude of noise through the formants
    noise: np.ndarray                               # amplitude of friction noise
    noise_hz: np.ndarray
    noise_width_hz: np.ndarray                      # half the width at half the amplitude
    formants_hz: np.ndarray                         # (C, 4)
    higher_formants_hz: np.ndarray                  # (3,): of the whole utterance
    tilt_db_per_octave: np.ndarray
    jitter: np.ndarray                              # standard deviation of a pulse's time, in periods
    shimmer: np.ndarray                             # standard deviation of a pulse's height, as a fraction


def pause(seconds: float) -> tuple[Segment, ...]:
    """Silence, its formants those of a neutral vocal tract."""
    return (Segment(seconds, (500, 1500, 2500, 3500), OFF, OFF, 1000.0, 1000.0),)


def draw_syllable(seconds: float, rng: np.random.Generator) -> tuple[Segment, ...]:
    """Onset (mostly), vowel, coda (sometimes), in about `seconds`: the vowel takes what the consonants leave."""
    vowel = VOWELS[rng.integers(len(VOWELS))]
    onset = CONSONANTS[rng.integers(len(CONSONANTS))] if rng.random() < 0.85 else ()
    coda = CONSONANTS[rng.integers(len(CONSONANTS))] if rng.random() < 0.25 else ()
    vowel_seconds = max(0.06, seconds - sum(segment.seconds for segment in onset + coda))
    nucleus = Segment(vowel_seconds, vowel, 0.0, OFF, 1000.0, 1000.0)
    return tuple(segment._replace(formants_hz=segment.formants_hz or vowel) for segment in (*onset, nucleus, *coda))


def render(tracks: Tracks, rng: np.random.Generator) -> np.ndarray:
    """The sound of the tracks (C steps): (N,) float64 with N = 80 C; windows of source, filtered and overlap-added."""
    hz, octaves, _ = _spectral_constants()
    C = len(tracks.f0_hz)
    voiced = _windows(_pulses(tracks, rng))                                             # (C, bins)
    noise = _windows(rng.normal(size=C * STEP))                                         # of breath and of friction

    denominator = np.prod(_denominator(tracks.higher_formants_hz, HIGHER_BANDWIDTH), axis=0)        # (bins,)
    for formant_hz, bandwidth_hz in zip(tracks.formants_hz.T, BANDWIDTHS):
        denominator = denominator * _denominator(formant_hz, bandwidth_hz)              # (C, bins)
    tilt = amplitude(tracks.tilt_db_per_octave[:, None] * octaves) * hz / np.hypot(hz, 60)      # (C, bins), 0 at 0 Hz
    friction = tracks.noise[:, None] / (1 + ((hz - tracks.noise_hz[:, None]) / tracks.noise_width_hz[:, None]) ** 2)
    spectrum = (voiced + noise * tracks.breath[:, None]) * tilt / denominator + noise * friction

    ringing = np.fft.irfft(spectrum, FFT_SIZE).reshape(C, FFT_SIZE // STEP, STEP)       # each window's steps
    sound = np.zeros((C + FFT_SIZE // STEP - 1, STEP))
    for i in range(FFT_SIZE // STEP):
        sound[i:i + C] += ringing[:, i]
    return sound.ravel()[STEP // 2:][:C * STEP]


def room_noise(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Steady noise of unit power, its amplitude falling with frequency by a drawn power: (N,)."""
    hz = np.maximum(np.fft.rfftfreq(num_samples, 1 / frames.SAMPLE_RATE), 100)
    noise = np.fft.irfft(np.fft.rfft(rng.normal(size=num_samples)) * hz ** rng.uniform(-0.7, -0.3), num_samples)
    return noise / np.sqrt(np.mean(noise ** 2))


def amplitude(db: float | np.ndarray) -> np.ndarray:
    """Decibels as a factor on the amplitude."""
    return np.power(10.0, np.asarray(db) / 20)


def smooth(x: np.ndarray, seconds: float) -> np.ndarray:
    """Moving Hann average over so many seconds of the steps (C,) or (C, F); beyond the ends their values go on."""
    half = max(1, round(seconds * frames.SAMPLE_RATE / STEP / 2))               # steps
    weights = np.hanning(2 * half + 3)[1:-1]
    weights = weights / weights.sum()
    padded = np.pad(x, ((half, half),) + ((0, 0),) * (x.ndim - 1), mode="edge")
    return sum(weight * padded[i:i + len(x)] for i, weight in enumerate(weights))


def _pulses(tracks: Tracks, rng: np.random.Generator) -> np.ndarray:
    """Glottal impulses of unit power, band-limited, with jitter and shimmer: (N,)."""
    N = len(tracks.f0_hz) * STEP
    sample = np.arange(N)
    f0_hz = np.interp(sample, np.arange(0, N, STEP) + STEP / 2, tracks.f0_hz)           # (N,)
    phase = np.cumsum(f0_hz) / frames.SAMPLE_RATE                                       # (N,) periods
    at = np.interp(np.arange(1, int(phase[-1])), phase, sample)                         # (pulses,) samples
    period, step = frames.SAMPLE_RATE / f0_hz[at.astype(int)], at.astype(int) // STEP
    at = at + period * tracks.jitter[step] * np.clip(rng.normal(size=len(at)), -2.5, 2.5)
    height = np.sqrt(period) * tracks.voice[step] * np.maximum(1 + tracks.shimmer[step] * rng.normal(size=len(at)), 0.1)
    near = np.floor(at).astype(int)[:, None] + np.arange(-3, 5)                         # (pulses, 8) samples
    away = near - at[:, None]
    taps = height[:, None] * np.sinc(away) * np.cos(np.pi / 8 * away.clip(-4, 4)) ** 2
    return np.bincount(near.clip(0, N - 1).ravel(), taps.ravel(), minlength=N)


def _windows(source: np.ndarray) -> np.ndarray:
    """Spectra (C, bins) of Hann windows of 10 ms, one at each step, of a source (N,); the windows sum to 1."""
    window = np.sin(np.pi * (np.arange(WINDOW) + 0.5) / WINDOW) ** 2
    blocks = np.lib.stride_tricks.sliding_window_view(np.pad(source, STEP // 2), WINDOW)[::STEP]        # (C, WINDOW)
    return np.fft.rfft(blocks * window, FFT_SIZE)


@functools.cache
def _spectral_constants() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the FFT's bins: frequency in Hz, octaves above 500 Hz (not below 200 Hz), exp(-j w). All (bins,)."""
    hz = np.fft.rfftfreq(FFT_SIZE, 1 / frames.SAMPLE_RATE)
    return hz, np.log2(np.maximum(hz, 200) / 500), np.exp(-2j * np.pi * hz / frames.SAMPLE_RATE)


def _denominator(formant_hz: np.ndarray, bandwidth_hz: float) -> np.ndarray:
    """1 over the response of digital resonators with gain 1 at 0 Hz (Klatt 1980). (C,) Hz: (C, bins) complex."""
    delay = _spectral_constants()[2]
    radius = np.exp(-np.pi * bandwidth_hz / frames.SAMPLE_RATE)
    b = 2 * radius * np.cos(2 * np.pi * np.minimum(formant_hz, 7600) / frames.SAMPLE_RATE)
    gain = 1 - b + radius ** 2                      # (C,)
    return (1 / gain)[:, None] - (b / gain)[:, None] * delay + (radius ** 2 / gain)[:, None] * delay ** 2
