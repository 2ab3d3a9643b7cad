"""Sound that comes in chunks -> mono at 16 kHz, asked for piece by piece: the very samples that the whole would have.

Chunks may have any lengths: what is asked for alone decides what is computed together, so that lengths never show. Of
another rate, each piece is resampled with as much sound on either side as the filter reaches (`audio.resample`), which
leaves no seams. What is no longer needed is forgotten. Channels are averaged; channels that cancel each other are not
noticed, as in files, because that would need the whole sound.
"""
import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from framealign.sound.audio import HIGHEST_RATE, LOWEST_RATE, filter_width, resample, resampled_length
from framealign.sound.frames import SAMPLE_RATE

PIECE = 1 << 16                                     # samples of a chunk that are converted at a time
FULL_SCALE = 32768                                  # of int16


class LiveSound:
    """Chunks (N,) or (N, channels), float in -1..1 or int16, at `rate` samples a second, one after another."""

    def __init__(self, chunks: Iterable[np.ndarray | Tensor], rate: int):
        """Raises ValueError for a rate that no speech has."""
        if not LOWEST_RATE <= rate <= HIGHEST_RATE or rate != int(rate):
            raise ValueError(f"{rate} Hz, must be {LOWEST_RATE} to {HIGHEST_RATE} Hz")
        self.rate = int(rate)
        divisor = math.gcd(self.rate, SAMPLE_RATE)
        self.old, self.new = self.rate // divisor, SAMPLE_RATE // divisor       # samples in, samples out
        self.width = 0 if self.old == self.new else filter_width(self.old, self.new)
        self.pieces = self._pieces(chunks)
        self.samples = torch.zeros(0)               # at `rate`, from sample `start` of the sound on
        self.start, self.given, self.has_ended = 0, 0, False                    # start: a multiple of `old`

    @property
    def seconds(self) -> float:
        """How much sound has come so far."""
        return (self.start + len(self.samples)) / self.rate

    def until(self, stop: int) -> Tensor:
        """The samples at 16 kHz that follow those given before, up to sample `stop` of the sound: (n,) float32.

        Fewer where the sound ends before. Raises ValueError for a chunk of another shape or type, with another number
        of channels than the first, or with samples that are not finite.
        """
        needed = (stop - 1) * self.old // self.new + 1                          # at `rate`
        if self.width:
            needed += self.width + 1                # the filter's last tap
        self._hear(needed)
        if self.has_ended:
            stop = min(stop, resampled_length(self.start + len(self.samples), self.rate))
        before = self.start // self.old * self.new                              # samples at 16 kHz
        piece = resample(self.samples[:needed - self.start], self.rate, "a stream")[self.given - before:stop - before]
        self.given += len(piece)
        start = max(0, self.given * self.old // self.new - self.width) // self.old * self.old   # the next first tap
        self.samples, self.start = self.samples[start - self.start:].clone(), start
        return piece

    def _hear(self, needed: int) -> None:
        """Take chunks until `needed` samples of the sound have come, or it ends."""
        pieces, size = [self.samples], self.start + len(self.samples)
        while size < needed and not self.has_ended:
            piece = next(self.pieces, None)
            self.has_ended = piece is None
            if piece is not None:
                pieces.append(piece)
                size += len(piece)
        self.samples = torch.cat(pieces)

    def _pieces(self, chunks: Iterable[np.ndarray | Tensor]) -> Iterator[Tensor]:
        """Mono float32 (n,), n <= PIECE, of all chunks."""
        channels, before = 0, 0
        for chunk in chunks:
            array = np.asarray(chunk)
            where = f"the chunk at {before / self.rate:.3f} s"
            if array.ndim not in (1, 2) or array.dtype != np.int16 and not np.issubdtype(array.dtype, np.floating):
                raise ValueError(f"{where}: must be (N,) or (N, channels), floats in -1..1 or int16, is {array.shape} "
                                 f"of {array.dtype}")
            number = array.shape[1] if array.ndim == 2 else 1
            channels = channels or number
            if number != channels or not number:
                raise ValueError(f"{where}: has {number} channels, those before it {channels}; start another stream")
            for start in range(0, len(array), PIECE):
                piece = array[start:start + PIECE].astype(np.float32)           # a copy
                if array.dtype == np.int16:
                    piece /= FULL_SCALE
                if piece.ndim == 2:
                    piece = piece.mean(axis=1)                                  # (n, channels) -> (n,)
                bad = np.flatnonzero(~np.isfinite(piece))
                if len(bad):
                    raise ValueError(f"the sample at {(before + start + bad[0]) / self.rate:.3f} s is NaN or infinite; "
                                     "mend what records or converts the sound")
                yield torch.from_numpy(piece)
            before += len(array)
