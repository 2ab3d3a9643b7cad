"""Mel-frequency cepstral coefficients, the features of HuBERT's first clustering (HuBERT, Sec. IV-B: 39 dimensions).

13 coefficients over 25 ms every 10 ms as Kaldi computes them, their deltas and the deltas of these; then every second
frame (of a model with another hop every n-th), so that there is exactly one per frame of the encoder. The waveform
stays in -1..1, as in HuBERT's own recipe. torchaudio does the arithmetic and is imported only inside the function:
the rest of the project works without it.
"""
import torch
from torch import Tensor

from framealign.sound.frames import EVERY_20_MS, RECEPTIVE_FIELD, SAMPLE_RATE, Framing, milliseconds, num_frames

COEFFICIENTS = 13
WIDTH = 3 * COEFFICIENTS                            # F: coefficients, deltas, deltas of deltas
SHIFT = 160                                         # samples: 10 ms between two windows of RECEPTIVE_FIELD, 25 ms
CHUNK_WINDOWS = 6000                                # one minute; the windowed copy of a chunk takes 12 MB


def mfcc(waveform: Tensor, framing: Framing = EVERY_20_MS) -> Tensor:
    """MFCC with deltas, one row per encoder frame; row t's window starts at sample 320 t, where frame t does.

    waveform (N,) float, 16 kHz, in -1..1: (T, 39) float32 with T == num_frames(N). No dither: same input, same output.
    Windows are cut in chunks, so that an hour needs little more memory than a minute; the result does not depend on it.
    Raises ValueError for another shape, below 400 samples, for frames that MFCC cannot follow (`check_framing`), or
    where torchaudio cannot be loaded. Source: fairseq, examples/hubert/simple_kmeans/dump_mfcc_feature.py.
    """
    check_framing(framing)
    if waveform.ndim != 1:
        raise ValueError(f"waveform must be one channel of shape (N,), got {tuple(waveform.shape)}")
    T = num_frames(len(waveform), framing)          # raises below 400 samples
    try:
        from torchaudio.compliance import kaldi
        from torchaudio.functional import compute_deltas
    except (ImportError, OSError) as error:
        raise ValueError("MFCC needs a torchaudio that matches torch: install torch==2.11.0 and torchaudio==2.11.0 "
                         f"from the same index ({error})") from None
    waveform = waveform.to(torch.float32)
    windows = (len(waveform) - RECEPTIVE_FIELD) // SHIFT + 1
    chunks = []
    for start in range(0, windows, CHUNK_WINDOWS):
        last = min(start + CHUNK_WINDOWS, windows) - 1
        samples = waveform[start * SHIFT:last * SHIFT + RECEPTIVE_FIELD]
        chunks.append(kaldi.mfcc(samples[None], sample_frequency=SAMPLE_RATE, num_ceps=COEFFICIENTS, use_energy=False,
                                 dither=0.0))
    cepstra = torch.cat(chunks).T                                               # (13, windows)
    deltas = compute_deltas(cepstra)
    features = torch.cat([cepstra, deltas, compute_deltas(deltas)]).T           # (windows, 39)
    return features[::framing.hop // SHIFT][:T].contiguous()                    # (T, 39): a hop apart


def mfcc_follows(framing: Framing) -> bool:
    """Whether a window of MFCC begins where each frame does, and ends no later than the last frame."""
    return framing.hop % SHIFT == 0 and framing.receptive_field >= RECEPTIVE_FIELD


def check_framing(framing: Framing) -> None:
    """Raise ValueError for frames that MFCC do not follow."""
    if not mfcc_follows(framing):
        raise ValueError(f"MFCC are windows of {milliseconds(RECEPTIVE_FIELD)} every {milliseconds(SHIFT)}: the model "
                         f"has {framing}, which must last at least as long and come every so many whole windows; "
                         "cluster its states instead")
