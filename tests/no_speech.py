"""Sounds without speech, made from numbers: noise of any colour, notes, drums."""
import numpy as np

from framealign.sound.frames import SAMPLE_RATE

MAJOR = (0, 2, 4, 5, 7, 9, 11)


def times(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def at_level(waveform: np.ndarray, decibels: float) -> np.ndarray:
    """Of the mean square, in dB of full scale; float32."""
    return (waveform * 10 ** (decibels / 20) / np.sqrt(np.mean(np.square(waveform)))).astype(np.float32)


def noise(draw: np.random.Generator, seconds: float, slope: float) -> np.ndarray:
    """Gaussian, its power falls with frequency to the power of `slope`: 0 white, 1 pink, 2 brown, -1 blue."""
    number = round(seconds * SAMPLE_RATE)
    hertz = np.maximum(np.fft.rfftfreq(number, 1 / SAMPLE_RATE), 20)
    spectrum = draw.normal(size=len(hertz)) + 1j * draw.normal(size=len(hertz))
    return np.fft.irfft(spectrum * hertz ** (-slope / 2), number)


def tone(hertz: float, seconds: float, partials: int = 1) -> np.ndarray:
    return sum(np.sin(2 * np.pi * hertz * k * times(seconds) + k) / k
               for k in range(1, partials + 1) if hertz * k < 7800)


def chord(draw: np.random.Generator, seconds: float) -> np.ndarray:
    root = 110 * 2 ** draw.uniform(0, 1)
    return sum(tone(root * 2 ** (step / 12), seconds, 5) for step in (0, 4, 7))


def struck(hertz: float, seconds: float) -> np.ndarray:
    """A note of twelve partials that fade, the higher ones sooner."""
    return sum(np.sin(2 * np.pi * hertz * k * times(seconds)) / k * np.exp(-k * times(seconds) / 0.8)
               for k in range(1, 13) if hertz * k < 7800)


def held(hertz: float, seconds: float) -> np.ndarray:
    """A note of twelve partials that does not fade, without clicks at its ends."""
    edge = np.minimum(times(seconds), seconds - times(seconds)) / 0.01
    return tone(hertz, seconds, 12) * np.clip(edge, 0, 1)


def melody(draw: np.random.Generator, seconds: float, note=struck, a_second: float = 4, voices: int = 1) -> np.ndarray:
    """Notes of a scale, so many a second, one or several at once."""
    sound = np.zeros(round((seconds + 2) * SAMPLE_RATE))
    for now in np.arange(0, seconds, 1 / a_second):
        for _ in range(voices):
            one = note(131 * 2 ** (draw.integers(3) + MAJOR[draw.integers(7)] / 12), 1.2 / a_second)
            start = round(now * SAMPLE_RATE)
            sound[start:start + len(one)] += one
    return sound[:round(seconds * SAMPLE_RATE)]


def drums(draw: np.random.Generator, seconds: float, beats_a_minute: float = 100) -> np.ndarray:
    """A bass drum, a snare and a hi-hat in turn."""
    sound = np.zeros(round((seconds + 2) * SAMPLE_RATE))
    for number, now in enumerate(np.arange(0, seconds, 30 / beats_a_minute)):
        decay, hiss = times(0.5), np.diff(draw.normal(size=len(times(0.5)) + 1))
        one = 0.15 * hiss * np.exp(-decay / 0.02)
        if number % 4 == 0:
            one += np.sin(2 * np.pi * 50 * decay - 19 * np.exp(-decay / 0.03)) * np.exp(-decay / 0.08)
        if number % 4 == 2:
            one += 0.4 * draw.normal(size=len(decay)) * np.exp(-decay / 0.06)
        start = round(now * SAMPLE_RATE)
        sound[start:start + len(one)] += one
    return sound[:round(seconds * SAMPLE_RATE)]
