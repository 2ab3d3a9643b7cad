"""Sound file -> mono 16 kHz float32 waveform, the only way sound enters the project; one preprocessing for all stages.

soundfile (libsndfile) reads every format; torchaudio is imported for resampling alone. A header is believed only as far
as the file bears it out (`containers.py`), and sound is read in bounded blocks. Channels are averaged; where they
cancel each other (one is the inverse of the other), the first one is taken. Left out: enhancement, silence trimming.
"""
import contextlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from framealign.runtime import log
from framealign.sound import containers, unread
from framealign.sound.frames import RECEPTIVE_FIELD, SAMPLE_RATE
from framealign.sound.sound_bytes import SoundBytes, opened, size

LOWEST_RATE, HIGHEST_RATE = 4_000, 1_000_000        # Hz: outside, the header is wrong or the file is no speech
ZERO_CROSSINGS, ROLL_OFF = 6, 0.99                  # torchaudio's resampling filter: half width, cut-off over Nyquist
MAX_KERNEL = 1 << 22                                # elements of its table, phases x taps: 16 MiB in float32
BLOCK = 1 << 22                                     # samples, all channels together, decoded at a time
MAX_SAMPLES_PER_BYTE = 8192                         # silence in FLAC, Vorbis or Opus stays below it
CANCELLED = 1e-3                                    # power of the channels' mean over their own: -30 dB
SEEKABLE = ("PCM", "FLOAT", "DOUBLE", "ULAW", "ALAW")   # encodings that seek to the exact sample (FLAC holds PCM)

_CUT = re.compile(r"Ogg ?: (?:Last page lacks|Junk after)")       # what libsndfile notes of a cut Ogg

_notes: dict[str, str] = {}                         # subject -> the first note on it, the only one that is printed


class NothingToHear(ValueError):
    """A file of sound that is in order but holds none, or less than a frame: some corpora are published with such."""


def load(path: str | Path | SoundBytes, start: int = 0, num_samples: int | None = None) -> Tensor:
    """The waveform in a sound file, as it stands there (-1..1, not normalised): (N,) float32 at 16 kHz.

    `start` and `num_samples` choose a crop, in samples at 16 kHz; default: all of it, N == length(path). Other rates
    are resampled and channels averaged, each with one note. A crop reads only its own samples if the encoding allows.

    Raises ValueError, naming the file, where it is missing, empty, truncated, no sound, of a sampling rate that no
    speech has, or shorter than 400 samples; where it has NaN or infinite samples, or nothing but silence (of a crop
    only its own samples are checked, and silence is no error); and where the crop is not inside the file.
    """
    with _opened(path) as (file, frames, _):
        total = _length(file, frames, path)
        if num_samples is None:
            num_samples = total - start
        if not (0 <= start and 0 < num_samples <= total - start):
            raise ValueError(f"{path}: samples [{start}, {start + num_samples}) asked for, the file has {total}")
        can_seek = file.samplerate == SAMPLE_RATE and file.channels == 1 and file.subtype.startswith(SEEKABLE)
        if num_samples < total and can_seek:
            file.seek(start)
            return torch.from_numpy(_read(file, path, num_samples)[0])
        samples, cancelled = _read(file, path, frames)                      # (frames,)
        if cancelled:
            _note("cancelled", f"{path}: its channels cancel each other (one is the inverse of the other), so the "
                               "first is taken instead of their mean (likewise in every such file; reported once)")
            with _opened(path) as (again, frames, _):
                samples, _ = _read(again, path, frames, channel=0)
        if num_samples == total and samples.min() == samples.max():
            raise NothingToHear(f"{path}: all samples are equal, nothing to hear; record it again or leave it out")
        waveform = resample(torch.from_numpy(samples), file.samplerate, path)       # (total,)
        return waveform[start:start + num_samples]


def length(path: str | Path | SoundBytes) -> int:
    """Samples at 16 kHz that `load` will give, without decoding: ceil(samples x 16,000 / rate).

    Of Ogg alone the end is decoded. Raises ValueError, naming the file, where it is missing, empty, no sound, shorter
    than 400 samples, of a sampling rate that no speech has, or where header and sound differ so that `load` could not
    give all of it.
    """
    with _opened(path) as (file, frames, unsure):
        total = _length(file, frames, path)
        if unsure:
            file.seek(frames - min(frames, unsure))
            _read(file, path, min(frames, unsure))
        return total


def preprocess(waveform: Tensor, do_normalize: bool) -> Tensor:
    """The encoder's input, the same in every stage: waveform (N,) float32 -> (N,) float32.

    As it is, or, if the model directory says `do_normalize`, with zero mean and unit variance as in Hugging Face:
    (x - mean) / sqrt(var + 1e-7) with the biased variance. Both are summed in float64, so that they do not drift over
    an hour of sound, and block by block, so that no float64 copy of the hour is needed.
    """
    if not do_normalize:
        return waveform
    statistics = Statistics()
    for block in waveform.split(BLOCK):
        statistics.add(block)
    return statistics.normalised(waveform)


@dataclass
class Statistics:
    """Mean and variance of all samples so far, in float64, block by block."""
    count: int = 0                                  # samples
    mean: Tensor | float = 0.0
    variance: Tensor | float = 0.0

    def add(self, block: Tensor) -> None:
        """Samples (n,) that follow. Chan, Golub and LeVeque 1983, with shares in place of sums."""
        if not len(block):
            return
        self.count += len(block)
        share = len(block) / self.count
        variance, mean = torch.var_mean(block.double(), correction=0)
        self.variance = (1 - share) * self.variance + share * variance + share * (1 - share) * (mean - self.mean) ** 2
        self.mean = (1 - share) * self.mean + share * mean

    def normalised(self, waveform: Tensor) -> Tensor:
        """Samples (n,) with these statistics: minus the mean, over `deviation`."""
        return (waveform - self.mean).div_(self.deviation)

    @property
    def deviation(self) -> Tensor:
        """sqrt(variance + 1e-7), as in Hugging Face: digital silence is not divided by 0."""
        return torch.sqrt(self.variance + 1e-7)


@contextlib.contextmanager
def _opened(path: str | Path | SoundBytes) -> Iterator[tuple[soundfile.SoundFile, int, int]]:
    """Open a sound file: it, its samples per channel, and how many of them, at the end, only decoding can confirm.

    Errors of libsndfile, now or while the file is read, become one ValueError.
    """
    if not isinstance(path, SoundBytes) and not os.path.isfile(path):       # a pipe could be read for ever
        what = "a folder, not a sound file" if os.path.isdir(path) else "no such file"
        raise ValueError(f"{path}: {what}")
    if size(path) == 0:
        raise ValueError(f"{path}: empty file (0 bytes); copy it again or leave it out")
    if str(path).lower().endswith((".raw", ".pcm")):
        raise ValueError(f"{path}: raw samples without a header say neither rate nor encoding; convert it to WAV")
    try:
        with opened(path) as raw:
            whole = containers.whole(raw, path)
            raw.seek(0)
            name = raw if isinstance(path, SoundBytes) else os.fsencode(path)       # bytes: any name a disk can hold
            with soundfile.SoundFile(whole.stream or name) as file:
                if file.format == "MP3" and whole.num_samples is None:
                    raise ValueError(f"{path}: MPEG sound whose frames cannot be counted; "
                                     f"convert it: {unread.conversion(path)}")
                yield file, file.frames if whole.num_samples is None else whole.num_samples, whole.unsure
    except soundfile.SoundFileError as error:
        known = unread.reason(path)
        if known:
            raise ValueError(f"{path}: {known}") from None
        reason = (getattr(error, "error_string", "") or "unknown error").strip().rstrip(".")
        raise ValueError(f"{path}: truncated, or not a sound file libsndfile can read ({reason}); "
                         "copy or convert it again, or leave it out") from None


def _length(file: soundfile.SoundFile, frames: int, path: str | Path | SoundBytes) -> int:
    """Samples at 16 kHz of an opened file of `frames` samples per channel, after a check (see `length`)."""
    num_bytes, rate = size(path), file.samplerate
    if _CUT.search(file.extra_info):
        raise ValueError(f"{path}: truncated: the end of the sound is missing; copy or convert it again")
    if frames > num_bytes * MAX_SAMPLES_PER_BYTE:
        raise ValueError(f"{path}: the header claims {frames} samples, more than {num_bytes} bytes can hold, "
                         "or does not know how many there are; convert it again")
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise ValueError(f"{path}: {rate} Hz, must be {LOWEST_RATE} to {HIGHEST_RATE} Hz; convert it to 16000 Hz")
    total = resampled_length(frames, rate)
    if total < RECEPTIVE_FIELD:
        raise NothingToHear(f"{path}: {total} samples at 16 kHz, must be >= {RECEPTIVE_FIELD} (25 ms); leave it out")
    if rate != SAMPLE_RATE:
        _note("rate", f"{path}: {rate} Hz, resampled to 16000 Hz (likewise every other rate; reported once)")
    if file.channels > 1:
        _note("channels", f"{path}: {file.channels} channels, averaged (likewise in every such file; reported once)")
    return total


def _read(file: soundfile.SoundFile, path: str | Path | SoundBytes, num_samples: int, channel: int | None = None
          ) -> tuple[np.ndarray, bool]:
    """Read samples at the file's own rate from where it stands, and whether the channels cancel each other.

    channel: None for the mean of all. Returns (num_samples,) float32, read block by block, so that memory follows what
    is really there. Raises ValueError where that is less, or not finite.
    """
    blocks, missing = [], num_samples
    power_of_channels = power_of_mean = 0.0         # sums of squares about the mean of each block
    while missing:
        block = file.read(min(missing, max(1, BLOCK // file.channels)), dtype="float32", always_2d=True)
        if not len(block):
            raise ValueError(f"{path}: truncated: of {num_samples} samples that should follow, only "
                             f"{num_samples - missing} are there; copy or convert it again")
        missing -= len(block)
        if file.channels == 1 or channel is not None:
            blocks.append(block[:, channel or 0])                           # (block, channels) -> (block,)
        else:
            blocks.append(block.mean(axis=1))                               # (block, channels) -> (block,)
            power_of_channels += len(block) * block.var(axis=0, dtype=np.float64).mean()
            power_of_mean += len(block) * blocks[-1].var(dtype=np.float64)
    samples = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
    bad = samples.size - np.count_nonzero(np.isfinite(samples))
    if bad:
        raise ValueError(f"{path}: {bad} of {samples.size} samples are NaN or infinite; convert it again "
                         "or leave it out")
    return np.ascontiguousarray(samples), power_of_mean < CANCELLED * power_of_channels


def resample(waveform: Tensor, rate: int, path: str | Path | SoundBytes) -> Tensor:
    """From any rate to 16 kHz: (n,) float32 -> (ceil(n x 16,000 / rate),). path: what the sound is, for messages.

    By torchaudio wherever its filter bank is of a sane size. Raises ValueError where torchaudio does not load.

    torchaudio computes that length in float32, which is too short by some samples from 2^24 on; trailing zeros, which
    its own padding would add anyway, make up for it.
    """
    if rate == SAMPLE_RATE:
        return waveform
    divisor = math.gcd(rate, SAMPLE_RATE)
    old, new = rate // divisor, SAMPLE_RATE // divisor
    if new * (old + 2 * filter_width(old, new)) > MAX_KERNEL:
        return _resample_directly(waveform, rate)
    try:
        from torchaudio.functional import resample as by_filter_bank
    except (ImportError, OSError, RuntimeError) as error:                   # the last two: a torch it does not match
        raise ValueError(f"{path}: {rate} Hz must be resampled, and torchaudio does not load "
                         f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
                         "install the matching pair torch==2.11.0 torchaudio==2.11.0") from None
    total = resampled_length(waveform.numel(), rate)
    zeros = 0 if total < 1 << 24 else (waveform.numel() >> 23) + 1
    waveform = torch.nn.functional.pad(waveform, (0, zeros))
    resampled = by_filter_bank(waveform, rate, SAMPLE_RATE, lowpass_filter_width=ZERO_CROSSINGS, rolloff=ROLL_OFF)
    return resampled[:total]


def filter_width(old: int, new: int) -> int:
    """Input samples on each side of an output's place that the resampling filter reaches, from rate `old` to `new`."""
    return math.ceil(ZERO_CROSSINGS * old / (ROLL_OFF * min(old, new)))


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
    for outputs in torch.arange(resampled_length(waveform.numel(), rate)).split(max(1, (1 << 20) // len(taps))):
        centre = (outputs * rate).double() / SAMPLE_RATE                    # (n,) in input samples
        index = centre.long()[:, None] + taps                               # (n, W)
        t = ((index - centre[:, None]) * scale).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
        weight = torch.sinc(t) * torch.cos(t * (math.pi / 2 / ZERO_CROSSINGS)) ** 2 * scale
        pieces.append((padded[index + width] * weight).sum(1).float())      # (n, W) -> (n,)
    return torch.cat(pieces)


def resampled_length(num_samples: int, rate: int) -> int:
    """ceil(num_samples x 16,000 / rate), as torchaudio rounds."""
    return -(-num_samples * SAMPLE_RATE // rate)


def _note(subject: str, text: str) -> None:
    """Print `text`, unless there was a note on `subject` before."""
    log.say_once(_notes.setdefault(subject, text))
