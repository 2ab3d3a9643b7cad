"""From utterances to batches: crops on frame boundaries, cut out of sound files, and groups of like lengths.

A crop is a stretch of whole frames of an utterance, so that frame t of a crop from frame `start` on has the label of
the utterance's frame `start + t`. `Waveforms` gives crops as batches of samples; `units/frame_store.py` gives the same
crops as batches of frames that were computed once.
"""
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from framealign.sound import audio
from framealign.sound.degradation import Degradation
from framealign.sound.frames import EVERY_20_MS, Framing, milliseconds, num_frames, num_samples_of
from framealign.corpus.utterance import Utterance


@dataclass(frozen=True)
class Crop:
    """Frames [start, start + frames) of utterance number `utterance` of a list."""
    utterance: int
    start: int
    frames: int
    degradation: Degradation | None = None          # of the whole utterance, before it is cut


class Waveforms:
    """Crops of sound files as batches, several files read at once.

    Each utterance is prepared whole (`do_normalize`: zero mean, unit variance) and then cut. What was read stays in
    memory as int16, up to `cache_bytes` in all; sound that int16 does not hold exactly (resampled, averaged over
    channels, of more bits) is read again each time.
    """

    def __init__(self, utterances: Sequence[Utterance], do_normalize: bool, cache_bytes: int = 2 ** 31,
                 framing: Framing = EVERY_20_MS):
        self.utterances = utterances
        self.do_normalize = do_normalize
        self.framing = framing                      # of the model that is given the crops
        self.cache: dict[int, Tensor] = {}          # utterance -> (N,) int16
        self.cache_bytes_left = cache_bytes
        self._readers = ThreadPoolExecutor(min(8, os.cpu_count() or 1))

    def batch(self, crops: Sequence[Crop]) -> tuple[Tensor, Tensor]:
        """Crops, zero-padded at the end: (B, N) float32 samples and each one's number of samples (B,) int64.

        A crop starts on sample 320 x start and ends with its last frame; a whole utterance keeps the few samples after.
        A crop's degradation changes the whole utterance, and its frames are those of the changed one.
        Raises ValueError for a sound file that cannot be read, or has another length than its manifest promises.
        """
        voices = {voice for crop in crops if crop.degradation for voice in crop.degradation.voices}
        from_files = self._read(({crop.utterance for crop in crops} | voices) - self.cache.keys())
        rows = []
        for crop in crops:
            waveform = self._whole(crop.utterance, from_files)
            if crop.degradation:
                company = [self._whole(voice, from_files) for voice in crop.degradation.voices]
                waveform = crop.degradation(waveform, company)
            waveform = audio.preprocess(waveform, self.do_normalize)            # (N,) of the whole utterance

            is_whole = crop.start == 0 and crop.frames == num_frames(len(waveform), self.framing)
            if not is_whole:
                first = self.framing.hop * crop.start
                waveform = waveform[first:first + num_samples_of(crop.frames, self.framing)]
            rows.append(waveform)
        return padded(rows)

    def _read(self, utterances: set[int]) -> dict[int, Tensor]:
        """Whole waveforms (N,) float32 of these utterances out of their files; the cache takes what it has room for."""
        numbers = sorted(utterances)
        waveforms = dict(zip(numbers, self._readers.map(self._load, numbers)))
        for utterance, waveform in waveforms.items():
            self._keep(utterance, waveform)
        return waveforms

    def _whole(self, utterance: int, from_files: dict[int, Tensor]) -> Tensor:
        """An utterance's waveform (N,) float32, just read or held."""
        if utterance in from_files:
            return from_files[utterance]
        return self.cache[utterance].float() / 2 ** 15

    def _load(self, utterance: int) -> Tensor:
        return load_checked(self.utterances[utterance], do_normalize=False)

    def _keep(self, utterance: int, waveform: Tensor) -> None:
        """Keep a waveform (N,) as int16 where that is exact and there is room."""
        short = (waveform * 2 ** 15).clamp(-2 ** 15, 2 ** 15 - 1).to(torch.int16)
        is_exact = torch.equal(short.float() / 2 ** 15, waveform)
        if is_exact and short.nbytes <= self.cache_bytes_left:
            self.cache[utterance] = short
            self.cache_bytes_left -= short.nbytes


def padded(rows: Sequence[Tensor], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Rows (N,) or (T, F) of any lengths as one batch (B, N) or (B, T, F), zero-padded at the end, and their lengths.

    Both are on `device`, by default where the rows are (the batch) and on the CPU (the lengths, (B,) int64).
    """
    batch = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return (batch, lengths) if device is None else (batch.to(device), lengths.to(device))


def load_checked(utterance: Utterance, do_normalize: bool) -> Tensor:
    """An utterance's whole waveform (N,) float32. Raises ValueError where its length is not the manifest's."""
    waveform = audio.preprocess(audio.load(utterance.path), do_normalize)
    if len(waveform) != utterance.num_samples:
        raise ValueError(f"{utterance.path}: has {len(waveform)} samples at 16 kHz, the manifest says "
                         f"{utterance.num_samples} (utterance {utterance.id}); make the manifest again")
    return waveform


def frame_counts(utterances: Sequence[Utterance], framing: Framing = EVERY_20_MS) -> Tensor:
    """Frames of each utterance by its manifest: (U,) int64. Raises ValueError naming one that is too short."""
    least = framing.receptive_field
    for utterance in utterances:
        if utterance.num_samples < least:
            raise ValueError(f"utterance {utterance.id}: {utterance.num_samples} samples, at least {least} "
                             f"({milliseconds(least)}) needed for one frame")
    return torch.tensor([num_frames(utterance.num_samples, framing) for utterance in utterances], dtype=torch.int64)


def groups_by_length(lengths: Sequence[int], indices: Sequence[int], budget: int) -> list[list[int]]:
    """`indices` sorted by length and cut into groups whose padded size stays within `budget`, at least one in each.

    lengths and budget: in one unit, samples or frames; lengths of all utterances, of which `indices` are grouped.
    """
    def by_length(index: int) -> tuple[int, int]:
        return lengths[index], index                # of equal lengths the first: the groups depend on nothing else

    groups: list[list[int]] = []
    for index in sorted(indices, key=by_length):
        if groups and (len(groups[-1]) + 1) * lengths[index] <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
