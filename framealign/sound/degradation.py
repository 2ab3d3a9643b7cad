"""Sound as it is outside the studio: noise at a ratio, a telephone line, a room, another microphone, speed and level.

Each function takes a waveform (N,) float32 at 16 kHz, as a sound file holds it, and gives one. What is random comes
from a generator. `Degradation` names one draw of all of them, for training (`training/augmentation.py`); `of_text`
reads one, for a test. Left out: codecs, clipping, the noises of a place.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from framealign.runtime.seeds import derive_seed
from framealign.sound import audio
from framealign.sound.frames import SAMPLE_RATE

NOISES = ("white", "pink", "babble")
LINES = ("telephone", "mu-law")
BABBLE_VOICES = 5                                   # other utterances that are heard at once
LOWEST_PINK = 50.0                                  # Hz: below, where speech has nothing, it would take half its power
BAND = (200.0, 300.0, 3400.0, 3600.0)               # Hz: a telephone passes 300 to 3400, and nothing outside
LINE_RATE = 8_000                                   # Hz
OCTAVES = (62.5, 125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0)           # Hz: what a microphone colours
MOST_COLOUR = 20.0                                  # decibels: more is no microphone
MU = 255                                            # of mu-law (ITU-T G.711): 8 bits a sample
TAIL_ENERGY = 2.0                                   # of a second of RT60, over that of the direct sound: 0.8 m away in
                                                    # a room of 100 m3 (critical distance 0.057 sqrt(V / RT60))
BLOCK = 1600                                        # samples; FFTs of multiples of it have small prime factors


def add_noise(waveform: Tensor, noise: Tensor, snr_decibels: float) -> Tensor:
    """Waveform and noise, (N,) each, the noise scaled so that their mean powers over all N have this ratio."""
    powers = [x.double().square().mean() for x in (waveform, noise)]
    gain = torch.sqrt(powers[0] / powers[1]) * 10 ** (-snr_decibels / 20)
    return waveform + noise * gain.float()


def white_noise(num_samples: int, generator: torch.Generator) -> Tensor:
    """Equal power at all frequencies: (N,), variance 1."""
    return torch.randn(num_samples, generator=generator)


def pink_noise(num_samples: int, generator: torch.Generator) -> Tensor:
    """Equal power in every octave from 50 Hz on, nothing below: (N,)."""
    spectrum = torch.fft.rfft(white_noise(_rounded_up(num_samples), generator))
    frequencies = _frequencies(spectrum)                                        # (K,) Hz
    gain = torch.where(frequencies < LOWEST_PINK, 0.0, (LOWEST_PINK / frequencies.clamp(min=1.0)).sqrt())
    return torch.fft.irfft(spectrum * gain)[:num_samples]


def babble(voices: Sequence[Tensor], num_samples: int, generator: torch.Generator) -> Tensor:
    """Voices (M,) of any lengths at once: each of one level, repeated from a drawn place on: (N,)."""
    total = torch.zeros(num_samples)
    for voice in voices:
        start = int(torch.randint(len(voice), (), generator=generator))
        repeated = voice.roll(-start).repeat(math.ceil(num_samples / len(voice)))[:num_samples]
        total += repeated / voice.double().square().mean().sqrt().float()
    return total


def telephone(waveform: Tensor, mu_law: bool = False) -> Tensor:
    """What a line at 8 kHz passes: 300 to 3400 Hz; mu_law: in 8 bits a sample, the loudest sample at full scale."""
    num_samples = _rounded_up(len(waveform) + BLOCK)                            # what rings at the end meets zeros
    spectrum = torch.fft.rfft(waveform, num_samples)
    frequencies = _frequencies(spectrum)                                        # (K,) Hz
    spectrum = spectrum * _rise(frequencies, BAND[0], BAND[1]) * (1 - _rise(frequencies, BAND[2], BAND[3]))
    if mu_law:
        half = num_samples * LINE_RATE // SAMPLE_RATE
        at_8_khz = torch.fft.irfft(spectrum[:half // 2 + 1], half)              # (half,)
        spectrum = torch.fft.rfft(_in_8_bits(at_8_khz), num_samples // 2)
        spectrum = torch.nn.functional.pad(spectrum, (0, num_samples // 2 + 1 - len(spectrum)))
    return torch.fft.irfft(spectrum, num_samples)[:len(waveform)]


def _rise(x: Tensor, start: float, end: float) -> Tensor:
    """From 0 at `start` to 1 at `end` along a cosine, flat outside: the shape of x."""
    return 0.5 - 0.5 * torch.cos(math.pi * ((x - start) / (end - start)).clamp(0, 1))


def _in_8_bits(waveform: Tensor) -> Tensor:
    """Through mu-law and back, relative to the loudest sample: (N,) -> (N,)."""
    peak = waveform.abs().max().clamp(min=torch.finfo(waveform.dtype).tiny)
    compressed = torch.sign(waveform) * torch.log1p(MU * waveform.abs() / peak) / math.log1p(MU)        # -1..1
    compressed = torch.floor((compressed + 1) / 2 * MU + 0.5) / MU * 2 - 1
    return torch.sign(compressed) * torch.expm1(compressed.abs() * math.log1p(MU)) / MU * peak


def room_response(rt60_seconds: float, generator: torch.Generator) -> Tensor:
    """Impulse response of a room, (M,): the direct sound, 1 at sample 0, then noise that falls by 60 dB in RT60.

    The noise has 2 RT60 times the energy of the direct sound, as about 0.8 m from the speaker in a room of 100 m3.
    """
    time = torch.arange(1, round(rt60_seconds * SAMPLE_RATE) + 1) / SAMPLE_RATE             # (M - 1,) s
    tail = torch.randn(len(time), generator=generator) * 10 ** (-3 * time / rt60_seconds)
    tail *= torch.sqrt(TAIL_ENERGY * rt60_seconds / tail.square().sum())
    return torch.cat([torch.ones(1), tail])


def reverberate(waveform: Tensor, response: Tensor) -> Tensor:
    """A waveform (N,) in a room of impulse response (M,): (N,), what sounds on after its end is cut."""
    size = _rounded_up(len(waveform) + len(response))
    product = torch.fft.rfft(waveform, size) * torch.fft.rfft(response, size)
    return torch.fft.irfft(product, size)[:len(waveform)]


def colour(waveform: Tensor, decibels: Tensor) -> Tensor:
    """As another microphone hears it: each of OCTAVES louder by so many `decibels` (8,), what lies between them by what
    lies between those, linear in the logarithm of the frequency; below the lowest as there. (N,) -> (N,), no delay.
    """
    num_samples = _rounded_up(len(waveform) + BLOCK)                            # what rings at the end meets zeros
    spectrum = torch.fft.rfft(waveform, num_samples)
    octave = torch.log2(_frequencies(spectrum).clamp(min=OCTAVES[0]) / OCTAVES[0])          # (K,) above the lowest
    below = octave.long().clamp(max=len(OCTAVES) - 2)
    gain = decibels[below] + (octave - below) * (decibels[below + 1] - decibels[below])
    return torch.fft.irfft(spectrum * 10 ** (gain / 20), num_samples)[:len(waveform)]


def change_speed(waveform: Tensor, percent: int) -> Tensor:
    """So much faster and higher: (N,) -> (ceil(100 N / percent),); resampled, so that both tempo and pitch change."""
    return audio.resample(waveform, SAMPLE_RATE // 100 * percent, "a change of speed")


def change_level(waveform: Tensor, decibels: float) -> Tensor:
    """Louder by so many decibels."""
    return waveform * 10 ** (decibels / 20)


def _rounded_up(num_samples: int) -> int:
    return -(-num_samples // BLOCK) * BLOCK


def _frequencies(spectrum: Tensor) -> Tensor:
    """Of the bins of an `rfft` of even length (K,): in Hz, (K,)."""
    return torch.linspace(0, SAMPLE_RATE / 2, len(spectrum))


@dataclass(frozen=True)
class Degradation:
    """What is done to one waveform, in this order; the defaults do nothing. Its random parts follow from `seed`."""
    seed: int = 0
    speed_percent: int = 100
    rt60_seconds: float = 0.0                       # of the room; 0: none
    noise: str = ""                                 # one of NOISES; "": none
    snr_decibels: float = 0.0                       # speech over noise, where there is some
    voices: tuple[int, ...] = ()                    # babble: which utterances of the list that training or test reads
    colour_decibels: float = 0.0                    # standard deviation of octaves: another microphone
    line: str = ""                                  # one of LINES; "": none
    level_decibels: float = 0.0

    def length(self, num_samples: int) -> int:
        """Samples that are left of so many."""
        return audio.resampled_length(num_samples, SAMPLE_RATE // 100 * self.speed_percent)

    def __call__(self, waveform: Tensor, voices: Sequence[Tensor] = ()) -> Tensor:
        """The waveform (N,) degraded, (length(N),) float32. voices (M,): the sounds of `voices`, for babble."""
        if self.speed_percent != 100:
            waveform = change_speed(waveform, self.speed_percent)
        if self.rt60_seconds:
            waveform = reverberate(waveform, room_response(self.rt60_seconds, self._generator("room")))
        if self.noise:
            waveform = add_noise(waveform, self._noise(len(waveform), voices), self.snr_decibels)
        if self.colour_decibels:
            drawn = torch.randn(len(OCTAVES), generator=self._generator("microphone"))
            waveform = colour(waveform, self.colour_decibels * drawn)
        if self.line:
            waveform = telephone(waveform, mu_law=self.line == "mu-law")
        if self.level_decibels:
            waveform = change_level(waveform, self.level_decibels)
        return waveform

    def _noise(self, num_samples: int, voices: Sequence[Tensor]) -> Tensor:
        generator = self._generator("noise")
        if self.noise == "babble":
            return babble(voices, num_samples, generator)
        return (white_noise if self.noise == "white" else pink_noise)(num_samples, generator)

    def _generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, name))


def of_text(text: str) -> Degradation:
    """"pink:10" (a noise of NOISES at 10 dB), "reverb:0.5" (RT60 in seconds), "microphone:6" (deviation of its octaves
    in decibels), "telephone" or "mu-law".

    Raises ValueError for another text.
    """
    kind, colon, number = text.partition(":")
    try:
        if kind in LINES and not colon:
            return Degradation(line=kind)
        if kind in NOISES and math.isfinite(float(number)):
            return Degradation(noise=kind, snr_decibels=float(number))
        if kind == "reverb" and 0 < float(number) <= 10:
            return Degradation(rt60_seconds=float(number))
        if kind == "microphone" and 0 < float(number) <= MOST_COLOUR:
            return Degradation(colour_decibels=float(number))
    except ValueError:                              # no number
        pass
    raise ValueError(f"degrade must be {', '.join(f'{name}:DB' for name in NOISES)} (speech over noise in decibels), "
                     f"reverb:SECONDS (RT60, up to 10), microphone:DB (deviation of octaves, up to {MOST_COLOUR:g}) or "
                     f"{' or '.join(LINES)}, got {text!r}")
