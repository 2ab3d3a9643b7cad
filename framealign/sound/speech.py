"""Is anybody speaking? Each frame of a sound is speech, or silence, noise, or music and tones.

A gate of energy and voicing without training: four simple measures of frames of 20 ms, a threshold for each. A frame is
speech unless one of them says otherwise, for a word that is lost is worse than noise that is heard:

- *level*: below `SILENCE` there is nothing to hear;
- *modulation*: by how many dB the levels of nine bands move within a second. Noise of any colour stays below
  `STILL`; speech moves with its syllables, in pink noise of the same level too. Scheirer and Slaney 1997 take
  this movement at 4 Hz;
- *steadiness*: how alike fine spectra are that lie 40 ms apart. Notes hold their partials; the harmonics of a voice
  move with its pitch. It is the spectral flux of Scheirer and Slaney, of flattened spectra;
- *attack*: where hardly anything is voiced, whether levels rise much faster than they fall, as those of drums do. A
  frame is voiced where its flattened spectrum resembles a comb of 60 to 400 Hz, as in the cepstral pitch of Noll 1967,
  with a root in place of the logarithm.

What it cannot: song, gliding instruments and drums with reverberation pass as speech; so does noise whose loudness
varies (rain, steps, applause, animals). docs/RECOGNISE.md has what was measured.
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from framealign.sound.frames import EVERY_20_MS, HOP, RECEPTIVE_FIELD, SAMPLE_RATE, Framing, num_frames

KINDS = ("speech", "silence", "noise", "music or tones")        # what the number of a frame stands for
SPEECH, SILENT, NOISE, MUSIC = range(4)

SILENCE = -75.0                                     # dB of full scale (mean square 1)
STILL = 1.2                                         # dB, standard deviation over a second, mean over bands
STEADY = 0.74                                       # correlation, mean over 2 s
SHARP = 0.8                                         # (rise - fall) / (rise + fall), over 4 s
VOICED, RARELY = 0.24, 0.06                         # correlation with a comb; share of voiced frames, over 4 s
PAUSE, SHORTEST = 0.5, 0.2                          # seconds: a shorter gap is a pause, shorter speech is none

WINDOW = 1024                                       # samples, 64 ms: tells the harmonics of 60 Hz apart
BANDS = (100, 300, 500, 800, 1200, 1800, 2600, 3600, 5000, 7500)        # Hz, edges of the nine
FLOOR = -85.0                                       # dB, of a band: what is below does not move
FINE = slice(4, 256)                                # bins of a fine spectrum: 62 Hz to 4 kHz
NEIGHBOURS = 41                                     # bins, 640 Hz, over which a fine spectrum is flattened
APART = 2                                           # frames, 40 ms, between fine spectra that are compared
LAGS = slice(SAMPLE_RATE // 400, SAMPLE_RATE // 60 + 1)                         # samples: periods of a voice
PART = 80                                           # samples, 5 ms, of the envelope that shows attacks
SECOND, HALF_SECOND = 50, 25                        # frames
CHUNK = 1500                                        # frames, 30 s: measured at once


def kinds(waveform: Tensor, framing: Framing = EVERY_20_MS) -> np.ndarray:
    """What each frame is: (T,) uint8, numbers of `KINDS`.

    waveform (N,) float32 in -1..1 at 16 kHz; T == num_frames(N, framing). Frames of another framing than 20 ms are what
    the nearest one of these is. A sound below 0.5 s is speech unless it is silent, and attacks count from 2 s on. Takes
    about 100 bytes a frame beside the waveform. Raises ValueError for a waveform shorter than a frame.
    """
    T = num_frames(len(waveform), framing)
    of_20_ms = without_pauses(decided(*measures(waveform)))                              # (frames of 20 ms,)
    centres = framing.hop * np.arange(T) + framing.receptive_field / 2          # samples
    nearest = np.round((centres - RECEPTIVE_FIELD / 2) / HOP).astype(int)
    return of_20_ms[np.clip(nearest, 0, len(of_20_ms) - 1)]


def reason(frame_kinds: np.ndarray) -> str:
    """In words, why frames (T,) of `KINDS` have no speech: all that is there; "" where one is speech."""
    return reason_of(np.bincount(frame_kinds, minlength=len(KINDS)))


def reason_of(counts: np.ndarray) -> str:
    """The same of how many frames are of each of `KINDS`, (4,)."""
    if counts[SPEECH]:
        return ""
    common = [kind for kind in np.argsort(-counts, kind="stable") if counts[kind] >= 0.1 * counts.sum()]
    return "no speech: " + ", ".join(KINDS[kind] for kind in common)


def measures(waveform: Tensor) -> tuple[Tensor, ...]:
    """Of every frame of 20 ms: level (T,) in dB, band levels (T, 9) in dB, likeness (T,) of the fine spectrum to that
    40 ms later, voicing (T,), rise and fall (T,) in cubed dB within the frame. Measured chunk by chunk.
    """
    if len(waveform) < RECEPTIVE_FIELD:
        waveform = F.pad(waveform, (0, RECEPTIVE_FIELD - len(waveform)))
    T, beside = num_frames(len(waveform)), (WINDOW - RECEPTIVE_FIELD) // 2      # samples of a window beside its frame
    of_all = torch.empty(T), torch.empty(T, len(BANDS) - 1), *torch.empty(4, T)
    for start in range(0, T, CHUNK):
        stop = min(T, start + CHUNK)
        first, last = max(0, start - 1), min(T, stop + APART)                   # with the neighbours that are needed
        begin, end = HOP * first - beside, HOP * (last - 1) + RECEPTIVE_FIELD + beside
        samples = waveform[max(0, begin):end]
        outside = (max(0, -begin), max(0, end - len(waveform)))
        samples = F.pad(samples[None], outside, mode="reflect")[0]
        for whole, chunk in zip(of_all, _measured(samples, last - first)):
            whole[start:stop] = chunk[start - first:stop - first]
    return of_all


def _measured(samples: Tensor, number: int) -> tuple[Tensor, ...]:
    """The measures of so many frames; samples: of all their windows, (HOP (number - 1) + WINDOW,)."""
    window = torch.hann_window(WINDOW, periodic=False)
    spectrum = torch.fft.rfft(samples.unfold(0, WINDOW, HOP) * window)          # (t, 513)
    power = spectrum.abs().square() * (2 / WINDOW / window.square().sum())      # sums to the mean square
    hertz = torch.arange(power.shape[1]) * (SAMPLE_RATE / WINDOW)
    level = _decibels(power[:, hertz >= 80].sum(1))                             # (t,)
    bands = torch.stack([_decibels(power[:, (hertz >= low) & (hertz < high)].sum(1))
                         for low, high in zip(BANDS, BANDS[1:])], 1)            # (t, 9)

    fine = (power[:, FINE] + 1e-14) ** 0.25                                     # root of the amplitude, (t, 252)
    side = NEIGHBOURS // 2
    around = F.avg_pool1d(F.pad(fine[:, None], (side, side), mode="reflect"), NEIGHBOURS, 1)[:, 0]
    fine = F.normalize(fine / around - 1, dim=1)                                # flattened, of length 1
    likeness = F.pad((fine[APART:] * fine[:-APART]).sum(1), (0, min(APART, number)))[:number]

    whole = F.pad(fine, (FINE.start, WINDOW // 2 + 1 - FINE.stop))              # (t, 513)
    combs = torch.fft.irfft(whole, WINDOW)[:, LAGS] * (WINDOW / (2 * fine.shape[1]) ** 0.5)     # correlation with each
    combs = F.avg_pool1d(F.pad(combs.T[None], (1, 1), mode="replicate"), 3, 1)[0].T             # over 3 frames
    voicing = combs.max(1).values                                               # (t,)

    before = (WINDOW - HOP) // 2 - PART             # the envelope has one part before those of the first frame
    parts = samples[before:before + PART + HOP * number].view(-1, PART).square().mean(1)        # (1 + 4 t,)
    changes = _decibels(parts).clamp(min=SILENCE).diff().view(number, -1) ** 3  # (t, 4)
    return level, bands, likeness, voicing, changes.clamp(min=0).sum(1), (-changes).clamp(min=0).sum(1)


def _decibels(power: Tensor) -> Tensor:
    return 10 * torch.log10(power + 1e-12)


def decided(level: Tensor, bands: Tensor, likeness: Tensor, voicing: Tensor, rise: Tensor, fall: Tensor) -> np.ndarray:
    """What each frame is by the measures of all (T, ...): (T,) uint8; pauses and short remains are not yet joined."""
    T = len(level)
    frame_kinds = np.full(T, SPEECH, np.uint8)
    if T >= HALF_SECOND:
        steady = _means(likeness, 2 * SECOND) > STEADY
        frame_kinds[_still(bands)] = NOISE
        frame_kinds[steady.numpy()] = MUSIC
    if T >= 2 * SECOND:
        rising, falling = _means(rise, 4 * SECOND), _means(fall, 4 * SECOND)
        voiced = _means((voicing > VOICED).double(), 4 * SECOND)
        drums = (rising - falling > SHARP * (rising + falling)) & (voiced < RARELY)
        frame_kinds[drums.numpy()] = MUSIC
    frame_kinds[(level < SILENCE).numpy()] = SILENT
    return frame_kinds


def _means(x: Tensor, width: int) -> Tensor:
    """The mean of the `width` frames around each one, fewer at the ends: (T,) float64."""
    sums = F.pad(x.double().cumsum(0), (1, 0))                                  # (T + 1,)
    frames = torch.arange(len(x))
    first, last = (frames - width // 2).clamp(min=0), (frames + width - width // 2).clamp(max=len(x))
    return (sums[last] - sums[first]) / (last - first)


def _still(bands: Tensor) -> np.ndarray:
    """Which frames lie in a second whose band levels (T, 9) hardly move; (T,) bool."""
    width, deviation = min(SECOND, len(bands)), 0
    for band in bands.T:
        level = F.avg_pool1d(F.pad(band.clamp(min=FLOOR)[None], (1, 1), mode="replicate"), 3, 1)[0].double()    # (T,)
        sums, squares = (F.pad(x.cumsum(0), (1, 0)) for x in (level, level.square()))           # (T + 1,)
        mean, square = ((x[width:] - x[:-width]) / width for x in (sums, squares))              # of each second
        deviation = deviation + (square - mean.square()).clamp(min=0).sqrt() / bands.shape[1]   # (T - width + 1,)
    is_still = np.flatnonzero((deviation < STILL).numpy())
    edges = np.zeros(len(bands) + 1, int)
    np.add.at(edges, is_still, 1)
    np.add.at(edges, is_still + width, -1)
    return edges.cumsum()[:-1] > 0


def without_pauses(frame_kinds: np.ndarray) -> np.ndarray:
    """The same frames (T,), but gaps shorter than `PAUSE` beside speech are speech, and speech shorter than `SHORTEST`
    is what stands before it (else after it). In a gap, what is shorter than `PAUSE` is what most of the gap is.
    """
    frame_kinds = frame_kinds.copy()
    for start, stop in stretches(frame_kinds != SPEECH):
        if stop - start < PAUSE * SECOND and stop - start < len(frame_kinds):
            frame_kinds[start:stop] = SPEECH
    for start, stop in stretches(frame_kinds == SPEECH):
        if stop - start < SHORTEST * SECOND and stop - start < len(frame_kinds):
            frame_kinds[start:stop] = frame_kinds[start - 1 if start else stop]
    for start, stop in stretches(frame_kinds != SPEECH):
        gap = frame_kinds[start:stop]               # a view
        most = np.bincount(gap).argmax()
        for kind in set(gap.tolist()) - {most}:
            for first, last in stretches(gap == kind):
                if last - first < PAUSE * SECOND:
                    gap[first:last] = most
    return frame_kinds


def stretches(is_so: np.ndarray) -> list[tuple[int, int]]:
    """Where frames (T,) bool are so, one after another: (first, end) of each stretch."""
    edges = np.flatnonzero(np.diff(is_so.astype(np.int8), prepend=0, append=0))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))
