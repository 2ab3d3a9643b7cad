"""From utterances to batches: crops on frame boundaries, length-bucketed micro-batches, frames kept on disk.

Two sources give the same batches: `Waveforms` reads sound, `FrameStore` reads frames computed once (the frozen conv
encoder's output, or states to be clustered). A crop is cut in whole frames, so frame t of it keeps its label.
"""
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from framealign.sound import audio
from framealign.sound.frames import HOP, num_frames, num_samples_of


@dataclass(frozen=True)
class Crop:
    """Frames [start, start + frames) of utterance number `utterance` of a list."""
    utterance: int
    start: int
    frames: int


class Waveforms:
    """Crops of sound files, several read at once; each utterance is prepared whole (`do_normalize`), then cut.

    What was read stays in memory as int16, up to `held_bytes` in all; sound that int16 does not hold exactly
    (resampled, averaged over channels, of more bits) is read again each time.
    """

    def __init__(self, utterances: list, do_normalize: bool, held_bytes: int = 2 ** 31):
        self.utterances, self.do_normalize = utterances, do_normalize
        self.room, self.held = held_bytes, {}       # bytes left; utterance: (N,) int16
        self.pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))

    def batch(self, crops: list[Crop]) -> tuple[Tensor, Tensor]:
        """Crops, zero-padded at the end: (B, N) float32 samples and each one's number of samples (B,) int64.

        A crop starts on sample 320 x start and ends with its last frame; a whole utterance keeps the few samples after.
        """
        absent = list(dict.fromkeys(crop.utterance for crop in crops if crop.utterance not in self.held))
        read = dict(zip(absent, self.pool.map(lambda u: load_checked(self.utterances[u], False), absent)))
        self.hold(read)
        cut = []
        for crop in crops:
            waveform = read[crop.utterance] if crop.utterance in read else self.held[crop.utterance].float() / 2 ** 15
            waveform = audio.preprocess(waveform, self.do_normalize)            # (N,) of the whole utterance
            whole = crop.start == 0 and crop.frames == num_frames(len(waveform))
            first = HOP * crop.start
            cut.append(waveform if whole else waveform[first:first + num_samples_of(crop.frames)])
        return torch.nn.utils.rnn.pad_sequence(cut, batch_first=True), torch.tensor([len(x) for x in cut])

    def hold(self, read: dict[int, Tensor]) -> None:
        """Keep waveforms (N,) by utterance as int16, as long as there is room, where that is exact."""
        for utterance, waveform in read.items():
            short = (waveform * 2 ** 15).clamp(-2 ** 15, 2 ** 15 - 1).to(torch.int16)
            if short.nbytes <= self.room and torch.equal(short.float() / 2 ** 15, waveform):
                self.held[utterance] = short
                self.room -= short.nbytes


def load_checked(utterance, do_normalize: bool) -> Tensor:
    """An utterance's whole waveform (N,), with the length its manifest promises. Raises ValueError otherwise."""
    waveform = audio.preprocess(audio.load(utterance.path), do_normalize)
    if len(waveform) != utterance.num_samples:
        raise ValueError(f"{utterance.path}: has {len(waveform)} samples at 16 kHz, the manifest says "
                         f"{utterance.num_samples} (utterance {utterance.id}); make the manifest again")
    return waveform


def frame_counts(utterances: list) -> Tensor:
    """Frames of each utterance by its manifest: (U,) int64. Raises ValueError naming one that is too short."""
    for utterance in utterances:
        if utterance.num_samples < 400:
            raise ValueError(f"utterance {utterance.id}: {utterance.num_samples} samples, at least 400 (25 ms) needed")
    return torch.tensor([num_frames(utterance.num_samples) for utterance in utterances], dtype=torch.int64)


def groups_by_length(lengths: list[int], indices: list[int], budget: int) -> list[list[int]]:
    """`indices` sorted by length and cut into groups whose padded size stays within `budget`, at least one in each."""
    groups = []
    for u in sorted(indices, key=lambda u: (lengths[u], u)):
        if groups and (len(groups[-1]) + 1) * lengths[u] <= budget:
            groups[-1].append(u)
        else:
            groups.append([u])
    return groups
