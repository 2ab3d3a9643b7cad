"""Statistics of an utterance's MFCC, energy and pitch: its sound in one vector that knows no order of time.

What a plain classifier is given where recognisers are compared with one (`bin/bench.py --what statistics`). torchaudio
does the arithmetic and is imported inside functions only, as in `mfcc.py`; coefficients and their number are
torchaudio's here, not those of HuBERT's first clustering.
"""
import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from framealign.sound.frames import RECEPTIVE_FIELD, SAMPLE_RATE
from framealign.sound.mfcc import SHIFT

COEFFICIENTS, MELS = 20, 40
QUANTILES = (0.1, 0.5, 0.9)
WIDTH = (2 * COEFFICIENTS + 4) * (2 + len(QUANTILES))       # F, 220: five statistics of each of 44 series
LEAST_SAMPLES = 3200                                # 0.2 s: less has too few values of pitch; shorter ones are padded
FLOOR = 1e-6                                        # of energy, beside the waveform's variance of 1
PITCH = {"frame_time": 0.02, "win_length": 15, "freq_low": 70, "freq_high": 500}        # s, frames of a median, Hz, Hz


def statistics(waveform: Tensor) -> Tensor:
    """Mean, deviation and 10, 50 and 90 % quantiles of each of `series`, series by series: (220,) float32.

    waveform (N,) float32, 16 kHz, of zero mean and unit variance (`audio.preprocess`), so that no recording's level
    counts. One of less than 0.2 s is padded with zeros at its end.
    """
    waveform = F.pad(waveform, (0, max(0, LEAST_SAMPLES - len(waveform))))
    return torch.cat([summary(values).flatten() for values in series(waveform)])


def summary(values: Tensor) -> Tensor:
    """Mean, deviation and quantiles over time of series (S, T), T >= 2: (S, 5)."""
    quantiles = torch.quantile(values, torch.tensor(QUANTILES), dim=1)                  # (3, S)
    return torch.cat([values.mean(1)[None], values.std(1)[None], quantiles]).T


def series(waveform: Tensor) -> list[Tensor]:
    """MFCC and their deltas (40, T); log energy (1, T'); log pitch (1, T''); differences of each of the last two.

    MFCC every 10 ms of 40 mel bands, as in torchaudio; energy of windows of 25 ms every 10 ms; pitch in Hz every 20 ms,
    by the normalised cross-correlation, its lags smoothed by a median over 0.3 s. waveform (N,), N >= 3200.
    """
    from torchaudio.functional import compute_deltas, detect_pitch_frequency
    cepstra = _mfcc()(waveform)                                                         # (20, T)
    energy = (waveform.unfold(0, RECEPTIVE_FIELD, SHIFT).square().mean(1) + FLOOR).log()[None]
    pitch = detect_pitch_frequency(waveform, SAMPLE_RATE, **PITCH).log()[None]
    return [torch.cat([cepstra, compute_deltas(cepstra)]), energy, pitch, energy.diff(), pitch.diff()]


@functools.cache
def _mfcc() -> Callable[[Tensor], Tensor]:
    """torchaudio's MFCC; its filters are made once."""
    from torchaudio.transforms import MFCC
    return MFCC(SAMPLE_RATE, COEFFICIENTS, melkwargs={"n_fft": RECEPTIVE_FIELD, "hop_length": SHIFT, "n_mels": MELS})
