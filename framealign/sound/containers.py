"""How much sound a file holds, by all of its bytes and not by its header's word alone.

libsndfile hears what the header promises, no more. Headers promise too little where a program was ended before it
wrote the length, where the length was unknown (sound written to a pipe), or where files were joined; they promise too
much where a file was cut. `whole` compares the two: for WAV, AIFF, Wave64 and CAF by their chunks, for AU and NIST
SPHERE by their headers, for FLAC by its last frame, for Ogg by its pages, for MPEG by its frames. Nothing is decoded.
Left out: formats without a length (IRCAM, PVF) and rare ones (VOC, AVR, PAF), of which all that is there is heard.

Sources: the specifications of RIFF, RF64 (EBU Tech 3306), AIFF, CAF, Sony Wave64, FLAC (RFC 9639), Ogg (RFC 3533).
"""
import io
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import soundfile

from framealign.runtime import log
from framealign.sound import mpeg
from framealign.sound.sound_bytes import SoundBytes
from framealign.sound.unread import conversion, reason

AGAIN = "copy or convert it again"
TAIL = 1 << 16                                      # bytes at a file's end that are searched for chunks
FLAC_SLACK = 1 << 12                                # bytes that may follow a FLAC's last frame, tags for example
LEAST = 400                                         # bytes after the sound that are no sound: less than one frame
PACKET = 1 << 13                                    # samples of a packet in Ogg, at most
TRIMMED = 1 << 13                                   # samples of delay and padding that an MP3's tag can give, at most


class Pieces(io.RawIOBase):
    """A file that is put together out of pieces: bytes, or a range of another file's bytes (zeros beyond its end)."""

    def __init__(self, file: BinaryIO, pieces: Sequence[bytes | range]):
        self.file, self.place = file, 0
        self.pieces, self.size = [], 0
        for piece in pieces:
            if len(piece):
                self.pieces.append((self.size, piece))
                self.size += len(piece)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        return self.place

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` as far as the pieces go: the number of bytes."""
        view, wanted = memoryview(buffer).cast("B"), min(len(buffer), max(0, self.size - self.place))
        filled = 0
        for start, piece in self.pieces:
            inside = self.place - start
            if filled < wanted and 0 <= inside < len(piece):
                part = piece[inside:inside + wanted - filled]
                content = part if isinstance(part, bytes) else _at(self.file, part.start, len(part))
                view[filled:filled + len(part)] = content.ljust(len(part), b"\0")
                filled += len(part)
                self.place += len(part)
        return filled


@dataclass(frozen=True)
class Whole:
    """A sound file as libsndfile has to see it, so that it hears all of it.

    stream: None for the file as it is; num_samples: per channel at the file's own rate, None for what libsndfile says;
    unsure: of these samples so many at the end are there only if they can be decoded.
    """
    stream: Pieces | None = None
    num_samples: int | None = None
    unsure: int = 0


def whole(file: BinaryIO, path: str | Path | SoundBytes) -> Whole:
    """What of a sound file is to be heard. `file` is open, unbuffered, and stays open while the result is in use.

    Raises ValueError, naming `path`, where sound is missing, or is there but could not be heard.
    """
    head = _at(file, 0, 12)
    layout = LAYOUTS.get(head[8:12]) or LAYOUTS.get(head[:4])
    if layout:
        return _chunked(file, layout, path)
    if head[:4] in (b".snd", b"dns."):
        return _au(file, ">" if head[:4] == b".snd" else "<", path)
    if head[:7] == b"NIST_1A":
        return _nist(file, path)
    if head[:4] == b"OggS":
        return _ogg(file, path)
    start = _after_id3(file)
    if _at(file, start, 4) == b"fLaC":
        return _flac(file, start, path)
    if mpeg.header(_at(file, start, 4), 0) or str(path).lower().endswith((".mp3", ".mp2", ".mpga")):
        return _mpeg(file, path)
    return Whole()


def _at(file: BinaryIO, place: int, number: int) -> bytes:
    """So many bytes from `place` on, fewer at the end of the file; a header may name any place."""
    if place >> 43:                                 # 8 TiB: disks refuse places beyond their own limit
        return b""
    file.seek(place)
    return file.read(number)


def _size(file: BinaryIO) -> int:
    return file.seek(0, io.SEEK_END)


def _after_id3(file: BinaryIO) -> int:
    """Where the ID3 tags at the beginning of a file end; beyond its end, if they claim so much."""
    place = 0
    while size := mpeg.id3_bytes(_at(file, place, 10)):
        place += size
    return place


def _truncated(path: str | Path | SoundBytes, claim: int, there: int, what: str = "bytes of sound") -> ValueError:
    return ValueError(f"{path}: truncated: the header claims {claim} {what}, the file has {there}; {AGAIN}")


# Chunks: WAV and its kin

@dataclass(frozen=True)
class Layout:
    """How a format writes chunks: an identifier, a size, the chunk's body."""
    first: int                                      # byte at which the first chunk begins
    data: tuple[bytes, ...]                         # identifiers of the chunk that holds the sound
    size: str = "<I"                                # of a chunk, as `struct` writes it
    id_bytes: int = 4
    align: int = 2
    counts_head: bool = False                       # whether the size includes identifier and size
    before_sound: int = 0                           # bytes of the data chunk that are no sound


WAVE64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
LAYOUTS = {b"RIFF": Layout(12, (b"data",)), b"RIFX": Layout(12, (b"data",), ">I"),
           b"RF64": Layout(12, (b"data",)), b"BW64": Layout(12, (b"data",)),
           b"FORM": Layout(12, (b"SSND",), ">I", before_sound=8), b"8SVX": Layout(12, (b"BODY",), ">I"),
           b"16SV": Layout(12, (b"BODY",), ">I"),
           b"caff": Layout(8, (b"data",), ">Q", align=1, before_sound=4),
           b"riff": Layout(40, (b"data" + WAVE64_TAIL,), "<Q", 16, 8, counts_head=True)}
TRAILING = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"_PMX", b"cue ", b"smpl", b"fact", b"PEAK", b"axml", b"NAME",
            b"ANNO", b"AUTH", b"(c) ", b"info", b"free")        # chunks that follow sound


@dataclass(frozen=True)
class Chunk:
    """A chunk of a file: its identifier, where its size is written, where its body begins, how long it says that is."""
    id: bytes
    size_at: int
    body: int
    size: int


def _chunk(file: BinaryIO, place: int, layout: Layout) -> Chunk | None:
    """The chunk whose identifier stands at `place`; None where no chunk begins."""
    width = struct.calcsize(layout.size)
    head = _at(file, place, layout.id_bytes + width)
    if len(head) < layout.id_bytes + width or not re.match(rb"[ -~]{4}", head):
        return None
    size, = struct.unpack(layout.size, head[layout.id_bytes:])
    size -= len(head) if layout.counts_head else 0
    return Chunk(head[:layout.id_bytes], place + layout.id_bytes, place + len(head), size)


def _chunks(file: BinaryIO, place: int, layout: Layout) -> Iterator[Chunk]:
    """The chunks from `place` on, one after another; the last may claim more than the file has."""
    while chunk := _chunk(file, place, layout):
        yield chunk
        place = chunk.body + max(0, chunk.size)
        place += -place % layout.align


def _chunked(file: BinaryIO, layout: Layout, path: str | Path | SoundBytes) -> Whole:
    size = _size(file)
    ds64, data = None, None
    for chunk in _chunks(file, layout.first, layout):
        if chunk.id == b"ds64":
            ds64 = chunk
        if chunk.id in layout.data:
            data = chunk
            break
    if data is None or data.body > size:
        return Whole()                              # libsndfile says what is wrong

    claim, size_at, form = data.size, data.size_at, layout.size
    if ds64 and claim == 0xFFFFFFFF:
        size_at, form = ds64.body + 8, "<Q"         # the size of the data is its second number
        claim, = struct.unpack(form, _at(file, size_at, 8).ljust(8, b"\0"))
    if _is_unknown(claim, 8 * struct.calcsize(form), layout):
        if _is_chain(file, data.body, size, layout) and claim == 0:
            return Whole()                          # no sound, and other chunks
        end = _end_before_chunks(file, data.body, size, layout)
        length = end - data.body + (data.body - data.size_at + layout.id_bytes if layout.counts_head else 0)
        length = min(length, (1 << 8 * struct.calcsize(form)) - 1)
        return Whole(Pieces(file, [range(size_at), struct.pack(form, length),
                                   range(size_at + struct.calcsize(form), end)]))

    end = data.body + claim
    if end > size:
        raise _truncated(path, claim - layout.before_sound, size - data.body - layout.before_sound)
    for start in (end + -end % layout.align, end):  # some programs forget the byte of padding
        if _is_chain(file, start, size, layout):
            if any(chunk.id in layout.data for chunk in _chunks(file, start, layout)):
                raise ValueError(f"{path}: holds sound in several chunks, of which one would be heard; convert it")
            return Whole()
    _refuse_more(file, end, size, path, claim - layout.before_sound)
    return Whole()


def _is_unknown(claim: int, bits: int, layout: Layout) -> bool:
    """Whether the size of a data chunk is what programs write that do not know it, into a pipe for example.

    It is 0, -1 or the largest number there is, or a little less: so that the file's size does not exceed that either.
    """
    if claim <= layout.before_sound:
        return True
    return any(limit - (1 << 12) <= claim <= limit + (1 << 12) for limit in (1 << bits - 1, 1 << bits))


def _is_chain(file: BinaryIO, place: int, size: int, layout: Layout) -> bool:
    """Whether nothing but chunks stands from `place` to the end of the file, the last perhaps cut."""
    for chunk in _chunks(file, place, layout):
        place = chunk.body + max(0, chunk.size)
        if place > size:
            return chunk.id[:4] in TRAILING
    return size - place < LEAST or _is_zero(file, place)


def _end_before_chunks(file: BinaryIO, start: int, size: int, layout: Layout) -> int:
    """Where sound of unknown length ends that begins at `start`: at the end of the file, or before known chunks."""
    first = max(start, size - TAIL)
    tail = _at(file, first, TAIL)
    for match in re.finditer(b"|".join(map(re.escape, TRAILING)), tail):
        place = first + match.start()
        chunks = list(_chunks(file, place, layout))
        if chunks and size <= chunks[-1].body + chunks[-1].size <= size + layout.align:
            return place
    return size


def _is_zero(file: BinaryIO, place: int) -> bool:
    """Whether all bytes from `place` on are zero: padding, not sound."""
    while block := _at(file, place, 1 << 20):
        if block.count(0) != len(block):
            return False
        place += len(block)
    return True


def _refuse_more(file: BinaryIO, end: int, size: int, path: str | Path | SoundBytes, claim: int) -> None:
    """Raise ValueError where so much follows the sound that it may be sound itself."""
    if size - end >= LEAST and not _is_zero(file, end):
        raise ValueError(f"{path}: the header claims {claim} bytes of sound, {size - end} bytes follow that may be "
                         "sound too; repair the header (of a WAV: sox --ignore-length) or cut them off")


# Headers without chunks

def _au(file: BinaryIO, order: str, path: str | Path | SoundBytes) -> Whole:
    offset, claim = struct.unpack(order + "II", _at(file, 4, 8).ljust(8, b"\0"))
    size = _size(file)
    if claim in (0, 0xFFFFFFFF):                    # unknown
        return Whole(Pieces(file, [range(8), b"\xff\xff\xff\xff", range(12, size)]))
    if offset + claim > size:
        raise _truncated(path, claim, max(0, size - offset))
    _refuse_more(file, offset + claim, size, path, claim)
    return Whole()


def _nist(file: BinaryIO, path: str | Path | SoundBytes) -> Whole:
    """NIST SPHERE, uncompressed: a header of text, its length in the second line."""
    head = _at(file, 0, 1024).decode("latin-1")
    fields = dict(re.findall(r"^(\w+) -i (\d{1,15})\s*$", head, re.MULTILINE))
    start = re.match(r"NIST_1A\s+(\d{1,9})\s", head)
    names = ("sample_count", "channel_count", "sample_n_bytes")
    if not start or not all(name in fields for name in names):
        return Whole()
    samples, channels, width = (int(fields[name]) for name in names)
    claim, there = samples * channels * width, _size(file) - int(start[1])
    if claim > there:
        raise _truncated(path, claim, max(0, there))
    return Whole()                                  # libsndfile reads to the end of the file


# Ogg

def _ogg(file: BinaryIO, path: str | Path | SoundBytes) -> Whole:
    """Its pages: one stream, none missing between others, and not more samples than packets can hold."""
    place, size = 0, _size(file)
    last: dict[int, tuple[int, int]] = {}           # stream -> number and granule position of its last page
    begun = False                                   # whether a page came that begins no stream
    claim = 0                                       # samples that the last page claims to hold
    while place < size:
        head = _at(file, place, 27 + 255)
        if head[:4] != b"OggS" or len(head) < 27:
            break                                   # junk or a cut: libsndfile notes it
        flags, granule, stream, number = head[5], *struct.unpack("<qII", head[6:22])
        packets = head[27:27 + head[26]]
        is_first = bool(flags & 2)
        if is_first and begun:
            raise ValueError(f"{path}: several Ogg streams one after another, of which only the first would be heard; "
                             f"convert it: {conversion(path)}")
        begun = begun or not is_first
        before, position = last.get(stream, (number - 1, -1))
        if number != before + 1 and position > 0:
            raise ValueError(f"{path}: page {before + 1} of its sound is missing; {AGAIN}")
        ended = sum(packet < 255 for packet in packets)
        if granule >= 0 and position > 0 and not 0 <= granule - position <= PACKET * ended:
            raise ValueError(f"{path}: page {number} claims to end {granule - position} samples after the one before "
                             f"it, with {ended} packets; {AGAIN}")
        if granule >= 0:
            claim = granule - max(0, position)
        last[stream] = number, granule if granule >= 0 else position
        place += 27 + len(packets) + sum(packets)
    return Whole(unsure=claim + PACKET)


# FLAC

def _flac(file: BinaryIO, start: int, path: str | Path | SoundBytes) -> Whole:
    """A FLAC whose marker stands at `start`: samples by its header (36 bits, 0: unknown), and by its frames."""
    info = _at(file, start + 8, 34)
    size = _size(file)
    if len(info) < 34 or _at(file, start + 4, 1)[0] & 0x7F != 0:
        return Whole()
    block, = struct.unpack(">H", info[2:4])
    packed = int.from_bytes(info[10:18], "big")     # 20 bits rate, 3 channels - 1, 5 bits - 1, 36 samples
    channels, width, claim = (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1, packed & (1 << 36) - 1
    largest = block * channels * (width + 8) // 8 + 64
    tail = _at(file, max(start + 42, size - largest - FLAC_SLACK), largest + FLAC_SLACK)
    ends = [first + number for first, number in _flac_frames(tail, block)]
    if claim and claim in ends and max(ends) == claim:
        return Whole()                              # the last frame ends where the header says

    end = 0
    for first, number in _flac_frames(_at(file, start + 42, size), block):
        if first == end:
            end += number
    if end < claim:
        raise _truncated(path, claim, end, "samples")
    patched = (packed & ~((1 << 36) - 1) | end).to_bytes(8, "big")
    return Whole(Pieces(file, [range(start + 18), patched, range(start + 26, size)]))


def _flac_frames(content: bytes, block: int) -> Iterator[tuple[int, int]]:
    """First sample and number of samples of every frame header in these bytes; block: samples of most frames."""
    for match in re.finditer(rb"\xff[\xf8\xf9]", content):
        head = content[match.start():match.start() + 16].ljust(16, b"\0")     # the longest header there is
        number = _flac_number(head, 4)
        if number is None or head[3] & 1 or head[2] & 15 == 15:
            continue
        value, place = number
        code, samples = head[2] >> 4, 0
        if code == 1:
            samples = 192
        elif 2 <= code <= 5:
            samples = 576 << code - 2
        elif code in (6, 7):
            samples = int.from_bytes(head[place:place + code - 5], "big") + 1
            place += code - 5
        elif code >= 8:
            samples = 256 << code - 8
        place += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)                     # the rate, where it is written out
        if samples and place < 16 and _crc8(head[:place]) == head[place]:
            yield value if match[0][1] & 1 else value * block, samples


def _flac_number(head: bytes, place: int) -> tuple[int, int] | None:
    """A number written like a character in UTF-8, of up to 7 bytes, and where it ends; None where none is."""
    if len(head) <= place:
        return None
    first = head[place]
    if first < 0x80:
        return first, place + 1
    more = 7 - (~first & 0xFF).bit_length()         # ones that lead it, less 1: bytes that follow
    rest = head[place + 1:place + 1 + more]
    if not 1 <= more <= 6 or len(rest) < more or any(byte >> 6 != 2 for byte in rest):
        return None
    value = first & (0x3F >> more)
    for byte in rest:
        value = value << 6 | byte & 0x3F
    return value, place + 1 + more


def _crc8(content: bytes) -> int:
    """Checksum of a frame's header: the polynomial x^8 + x^2 + x + 1."""
    state = 0
    for byte in content:
        state ^= byte
        for _ in range(8):
            state = state << 1 & 0xFF ^ (7 if state & 0x80 else 0)
    return state


# MPEG

def _mpeg(file: BinaryIO, path: str | Path | SoundBytes) -> Whole:
    """Its frames, all of them; where the first frame's tag gives their number, they are heard as it says.

    Otherwise the tag is left out, the frames are put one behind the other, and zeros make the file long enough for
    libsndfile, which guesses samples from bytes and the first frame's bitrate, and reads no more than it guessed.
    """
    content = _at(file, 0, _size(file))
    try:
        stream = mpeg.read(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}, and decoders end there; convert it: {conversion(path)}") from None
    if stream is None:
        known = reason(path) or f"truncated, or holds no frames of MPEG sound that can be counted; {AGAIN}"
        raise ValueError(f"{path}: {known}")
    claim = stream.tagged or 0
    if claim > stream.num_frames + 1 or claim > stream.num_frames and stream.is_cut:
        raise _truncated(path, claim, stream.num_frames, "frames")
    if claim == stream.num_frames and len(stream.stretches) == 1:
        as_it_is = Pieces(file, [range(len(content))])      # by name, libsndfile minds a ._ file of macOS beside it
        try:
            with soundfile.SoundFile(as_it_is) as opened:
                frames = opened.frames
        except soundfile.SoundFileError:
            frames = 0
        if stream.num_samples - TRIMMED <= frames <= stream.num_samples:
            return Whole(as_it_is, frames)          # libsndfile sees the tag too, and trims what it says
    if stream.is_cut:
        log.say_once(f"{path}: ends within a frame of MPEG sound; what is whole is heard")
    zeros = max(0, stream.num_frames * (stream.first_size + 4) - sum(end - first for first, end in stream.stretches))
    pieces = [content[first:end] for first, end in stream.stretches]
    return Whole(Pieces(file, [*pieces, range(len(content), len(content) + zeros + TAIL)]), stream.num_samples)

