"""Bytes of PCM that come through a pipe -> chunks of samples: raw int16, or what a WAV header in front of them says.

A WAV that a recorder writes to a pipe does not know its length: a length that is absurd means until the end. Left out:
compressed formats, which `ffmpeg -f s16le` turns into these.
"""
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

BYTES = 1 << 14                                     # that are read at once, at most: fewer where fewer have come
ENDLESS = 0x7FFFF000                                # from this length on, a header does not know it: sox's, ffmpeg's
ENCODINGS = {(1, 16): "<i2", (1, 32): "<i4", (3, 32): "<f4"}        # (format tag, bits) of WAV
EXTENSIBLE = 0xFFFE                                 # a format tag whose own follows, in an extension
LONGEST_HEADER = 1 << 20                            # bytes before the samples


class Pcm:
    """Iterate for chunks (N, channels), int16 or float32; `rate` in samples a second is known from the beginning."""

    def __init__(self, source: BinaryIO, rate: int, name: str = "standard input"):
        """source: with `read1`. rate: of raw samples, which are int16, little-endian, mono; a header has its own.

        Raises ValueError for a header that cannot be read or names an encoding that is not supported.
        """
        self.source, self.rate, self.name = source, rate, name
        self.channels, self.encoding, self.left = 1, "<i2", None                # left: bytes; None: not known
        self.first = self._bytes(4)
        if self.first == b"RIFF":
            self.first = b""
            self._read_header()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Whole samples of all channels, as they come; the rest of one that was cut off is dropped."""
        size = self.channels * np.dtype(self.encoding).itemsize                 # bytes of a sample of all channels
        waiting = self.first
        while True:
            wanted = BYTES if self.left is None else min(BYTES, self.left)
            new = self.source.read1(wanted) if wanted else b""
            if self.left is not None:
                self.left -= len(new)
            waiting += new
            whole = len(waiting) // size * size
            if whole:
                samples = np.frombuffer(waiting[:whole], self.encoding).reshape(-1, self.channels)
                yield samples.astype(np.float32) / 2 ** 31 if self.encoding == "<i4" else samples
            waiting = waiting[whole:]
            if not new:
                return

    def _read_header(self) -> None:
        """Everything from the file's length to the beginning of the samples. Source: Microsoft, RIFF and WAVEFORMATEX.
        """
        if self._bytes(8)[4:] != b"WAVE":
            raise ValueError(f"{self.name}: begins as RIFF, but is no WAV")
        format_chunk, size_of_header = None, 12
        while True:
            head = self._bytes(8)
            if len(head) < 8:
                raise ValueError(f"{self.name}: a WAV header without samples")
            kind, size = head[:4], struct.unpack("<I", head[4:])[0]
            if kind == b"data":
                break
            size_of_header += 8 + size
            if size_of_header > LONGEST_HEADER:
                raise ValueError(f"{self.name}: a WAV header of more than {LONGEST_HEADER} bytes")
            content = self._bytes(size + size % 2)
            if kind == b"fmt ":
                format_chunk = content
        if format_chunk is None or len(format_chunk) < 16:
            raise ValueError(f"{self.name}: a WAV header that does not say what its samples are")
        tag, self.channels, self.rate, _, _, bits = struct.unpack("<HHIIHH", format_chunk[:16])
        if tag == EXTENSIBLE and len(format_chunk) >= 26:
            tag = struct.unpack("<H", format_chunk[24:26])[0]
        if (tag, bits) not in ENCODINGS or not self.channels:
            raise ValueError(f"{self.name}: WAV of format {tag} with {bits} bits and {self.channels} channels, must be "
                             "PCM of 16 or 32 bits or float of 32: arecord -f S16_LE, ffmpeg -c:a pcm_s16le, sox -b 16")
        self.encoding = ENCODINGS[tag, bits]
        self.left = None if not size or size >= ENDLESS else size

    def _bytes(self, number: int) -> bytes:
        """The next bytes, so many unless the input ends."""
        content = b""
        while len(content) < number:
            new = self.source.read1(number - len(content))
            if not new:
                break
            content += new
        return content
