"""Sound file -> mono 16 kHz float32 waveform, the only way sound enters the project; one preprocessing for all stages.

soundfile (libsndfile) reads every format; torchaudio is imported for resampling alone. A header is believed only as far
as the file bears it out: what it claims is checked against the file's size, and sound is read in bounded blocks.
Left out: enhancement, silence trimming, channel selection (channels are averaged).
"""
import contextlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from framealign.runtime import log
from framealign.sound.frames import RECEPTIVE_FIELD, SAMPLE_RATE

LOWEST_RATE, HIGHEST_RATE = 4_000, 1_000_000        # Hz: outside, the header is wrong or the file is no speech
ZERO_CROSSINGS, ROLL_OFF = 6, 0.99                  # torchaudio's resampling filter: half width, cut-off over Nyquist
MAX_KERNEL = 1 << 22                                # elements of its table, phases x taps: 16 MiB in float32
BLOCK = 1 << 22                                     # samples, all channels together, decoded at a time
MAX_SAMPLES_PER_BYTE = 8192                         # silence in FLAC, Vorbis or Opus stays below it
SEEKABLE = ("PCM", "FLOAT", "DOUBLE", "ULAW", "ALAW")   # encodings that seek to the exact sample (FLAC holds PCM)

# libsndfile reads what is left of a cut file in silence, but notes it: WAV and AU "data", AIFF "SSND", Wave64 "riff",
# RF64 "ds64", Ogg's last page. FLAC and MP3 show when they are read; of NIST SPHERE a cut is not seen.
_CLAIM = re.compile(r"^ *(?:data|Data Size|SSND|riff) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_CUT = re.compile(r"does not match value from 'ds64'|Ogg ?: (?:Last page lacks|Junk after)")

_notes: dict[str, str] = {}                         # subject -> the first note on it, the only one that is printed


def load(path: str | Path, start: int = 0, num_samples: int | None = None) -> Tensor:
    """The waveform in a sound file, as it stands there (-1..1, not normalised): (N,) float32 at 16 kHz.

    `start` and `num_samples` choose a crop, in samples at 16 kHz; default: all of it, N == length(path). Other rates
    are resampled and channels averaged, each with one note. A crop reads only its own samples if the encoding allows.

    Raises ValueError, naming the file, where it is missing, empty, truncated, no sound, of a sampling rate that no
    speech has, or shorter than 400 samples; where it has NaN or infinite samples, or nothing but silence (of a crop
    only its own samples are checked, and silence is no error); and where the crop is not inside the file.
    """
    with _opened(path) as file:
        total = _length(file, path)
        if num_samples is None:
            num_samples = total - start
        if not (0 <= start and 0 < num_samples <= total - start):
            raise ValueError(f"{path}: samples [{start}, {start + num_samples}) asked for, the file has {total}")
        if num_samples < total and file.samplerate == SAMPLE_RATE and file.subtype.startswith(SEEKABLE):
            file.seek(start)
            return torch.from_numpy(_read(file, path, num_samples))
        samples = _read(file, path, file.frames)                            # (file.frames,)
        if num_samples == total and samples.min() == samples.max():
            raise ValueError(f"{path}: all samples are equal, nothing to hear; record it again or leave it out")
        waveform = _resample(torch.from_numpy(samples), file.samplerate, path)      # (total,)
        return waveform[start:start + num_samples]


def length(path: str | Path) -> int:
    """Samples at 16 kHz that `load` will give, from the header alone: ceil(samples x 16,000 / rate).

    Raises ValueError, naming the file, where it is missing, empty, no sound, shorter than 400 samples, of a sampling
    rate that no speech has, or where the header claims more than the file holds.
    """
    with _opened(path) as file:
        return _length(file, path)


def preprocess(waveform: Tensor, do_normalize: bool) -> Tensor:
    """The encoder's input, the same in every stage: waveform (N,) float32 -> (N,) float32.

    As it is, or, if the model directory says `do_normalize`, with zero mean and unit variance as in Hugging Face:
    (x - mean) / sqrt(var + 1e-7) with the biased variance. Both are summed in float64, so that they do not drift over
    an hour of sound, and block by block, so that no float64 copy of the hour is needed.
    """
    if not do_normalize:
        return waveform
    blocks = waveform.split(BLOCK)
    shares = torch.tensor([len(block) / len(waveform) for block in blocks], dtype=torch.float64)       # (blocks,)
    variances, means = torch.tensor([torch.var_mean(block.double(), correction=0) for block in blocks],
                                    dtype=torch.float64).T                                              # (blocks,) each
    mean = (shares * means).sum()
    variance = (shares * (variances + (means - mean) ** 2)).sum()
    return (waveform - mean).div_(torch.sqrt(variance + 1e-7))


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[soundfile.SoundFile]:
    """Open a sound file. Errors of libsndfile, now or while the file is read, become one ValueError."""
    if not os.path.isfile(path):                    # a pipe or device could be read for ever
        what = "a folder, not a sound file" if os.path.isdir(path) else "no such file"
        raise ValueError(f"{path}: {what}")
    if os.path.getsize(path) == 0:
        raise ValueError(f"{path}: empty file (0 bytes); copy it again or leave it out")
    if str(path).lower().endswith(".raw"):
        raise ValueError(f"{path}: raw samples without a header say neither rate nor encoding; convert it to WAV")
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:                # bytes: any name the disk can hold
            yield file
    except soundfile.SoundFileError as error:
        reason = (getattr(error, "error_string", "") or "unknown error").strip().rstrip(".")
        raise ValueError(f"{path}: truncated, or not a sound file libsndfile can read ({reason}); "
                         "copy or convert it again, or leave it out") from None


def _length(file: soundfile.SoundFile, path: str | Path) -> int:
    """Samples at 16 kHz of an opened file, after its header is checked (see `length`)."""
    size, rate = os.path.getsize(path), file.samplerate
    report = file.extra_info
    claim = next((match for match in _CLAIM.finditer(report) if int(match[1]) > int(match[2])), None)
    if claim:
        raise ValueError(f"{path}: truncated: the header claims {claim[1]} bytes of sound, the file has {claim[2]}; "
                         "copy or convert it again")
    if _CUT.search(report):
        raise ValueError(f"{path}: truncated: the end of the sound is missing; copy or convert it again")
    if file.frames > size * MAX_SAMPLES_PER_BYTE:
        raise ValueError(f"{path}: the header claims {file.frames} samples, more than {size} bytes can hold, "
                         "or does not know how many there are; convert it again")
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise ValueError(f"{path}: {rate} Hz, must be {LOWEST_RATE} to {HIGHEST_RATE} Hz; convert it to 16000 Hz")
    total = _resampled_length(file.frames, rate)
    if total < RECEPTIVE_FIELD:
        raise ValueError(f"{path}: {total} samples at 16 kHz, must be >= {RECEPTIVE_FIELD} (25 ms); leave it out")
    if rate != SAMPLE_RATE:
        _note("rate", f"{path}: {rate} Hz, resampled to 16000 Hz (likewise every other rate; reported once)")
    if file.channels > 1:
        _note("channels", f"{path}: {file.channels} channels, averaged (likewise in every such file; reported once)")
    return total


def _read(file: soundfile.SoundFile, path: str | Path, num_samples: int) -> np.ndarray:
    """Read samples at the file's own rate from where it stands, channels averaged: (num_samples,) float32.

    Block by block, so that memory follows what is really there. Raises ValueError where that is less, or not finite.
    """
    blocks, missing = [], num_samples
    while missing:
        block = file.read(min(missing, max(1, BLOCK // file.channels)), dtype="float32", always_2d=True)
        if not len(block):
            raise ValueError(f"{path}: truncated: the header says {num_samples} samples, only "
                             f"{num_samples - missing} are there; copy or convert it again")
        blocks.append(block[:, 0] if file.channels == 1 else block.mean(axis=1))    # (block, channels) -> (block,)
        missing -= len(block)
    samples = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
    bad = samples.size - np.count_nonzero(np.isfinite(samples))
    if bad:
        raise ValueError(f"{path}: {bad} of {samples.size} samples are NaN or infinite; convert it again "
                         "or leave it out")
    return np.ascontiguousarray(samples)


def _resample(waveform: Tensor, rate: int, path: str | Path) -> Tensor:
    """To 16 kHz: (n,) float32 -> (ceil(n x 16,000 / rate),), by torchaudio wherever its filter bank is of a sane size.

    torchaudio computes that length in float32, which is too short by some samples from 2^24 on; trailing zeros, which
    its own padding would add anyway, make up for it.
    """
    if rate == SAMPLE_RATE:
        return waveform
    divisor = math.gcd(rate, SAMPLE_RATE)
    old, new = rate // divisor, SAMPLE_RATE // divisor
    if new * (old + 2 * math.ceil(ZERO_CROSSINGS * old / (ROLL_OFF * min(old, new)))) > MAX_KERNEL:
        return _resample_directly(waveform, rate)
    try:
        from torchaudio.functional import resample
    except (ImportError, OSError, RuntimeError) as error:                   # the last two: a torch it does not match
        raise ValueError(f"{path}: {rate} Hz must be resampled, and torchaudio does not load "
                         f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
                         "install the matching pair torch==2.11.* torchaudio==2.11.*") from None
    total = _resampled_length(waveform.numel(), rate)
    zeros = 0 if total < 1 << 24 else (waveform.numel() >> 23) + 1
    waveform = torch.nn.functional.pad(waveform, (0, zeros))
    return resample(waveform, rate, SAMPLE_RATE, lowpass_filter_width=ZERO_CROSSINGS, rolloff=ROLL_OFF)[:total]


def _resample_directly(waveform: Tensor, rate: int) -> Tensor:
    """The sum torchaudio's filter bank tabulates, term by term: (n,) float32 -> (ceil(n x 16,000 / rate),).

    For rates such as 44,101 Hz, whose table has 16,000 filters of 44,135 taps (2.8 GB) and hardly a repetition.
    y[j] = sum_i x[i] h(i - j rate / 16,000), h a sinc of cut-off 0.99 x the lower Nyquist rate under a Hann window.
    """
    scale = ROLL_OFF * min(1.0, SAMPLE_RATE / rate)                         # zero crossings per input sample
    width = math.ceil(ZERO_CROSSINGS / scale)                               # taps on each side
    taps = torch.arange(-width, width + 1)                                  # (W,)
    padded = torch.nn.functional.pad(waveform, (width, width))
    pieces = []
    for outputs in torch.arange(_resampled_length(waveform.numel(), rate)).split(max(1, (1 << 20) // len(taps))):
        centre = (outputs * rate).double() / SAMPLE_RATE                    # (n,) in input samples
        index = centre.long()[:, None] + taps                               # (n, W)
        t = ((index - centre[:, None]) * scale).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
        weight = torch.sinc(t) * torch.cos(t * (math.pi / 2 / ZERO_CROSSINGS)) ** 2 * scale
        pieces.append((padded[index + width] * weight).sum(1).float())      # (n, W) -> (n,)
    return torch.cat(pieces)


def _resampled_length(num_samples: int, rate: int) -> int:
    """ceil(num_samples x 16,000 / rate), as torchaudio rounds."""
    return -(-num_samples * SAMPLE_RATE // rate)


def _note(subject: str, text: str) -> None:
    """Print `text`, unless there was a note on `subject` before."""
    log.say_once(_notes.setdefault(subject, text))
