"""The frames of an MPEG stream (MP3, MP2), counted: how much sound such a file really holds.

An MP3 file does not say how long it is. What decoders give as its length stands in a tag (Xing, Info, VBRI) in the
first frame, where there is one, or is guessed from the first frame's bitrate. Here the header of every frame is read,
without decoding: each frame has as many samples as the others. Left out: frames of "free format", whose headers have
no bitrate.

Source: ISO/IEC 11172-3 and 13818-3, the header of a frame.
"""
import re
from dataclasses import dataclass

BITRATES = {                                        # kbit/s by index; (is MPEG-1, layer)
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)}
RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}      # Hz by version
IN_A_ROW = 3                                        # frames of one kind one after another: not found in junk
_SYNC = re.compile(rb"\xff[\xe2-\xff]")
_TAGS = (b"Xing", b"Info", b"VBRI")
_TAG_OFFSETS = (13, 15, 21, 23, 36, 38)             # of a tag in its frame: header, checksum or none, side information


@dataclass(frozen=True)
class Kind:
    """What all frames of a stream have in common."""
    layer: int
    rate: int                                       # Hz
    samples: int                                    # of one frame, per channel
    is_mono: bool

    def __str__(self) -> str:
        return f"layer {self.layer}, {self.rate} Hz, {'mono' if self.is_mono else 'stereo'}"


@dataclass(frozen=True)
class Stream:
    """The frames of a file. The frame that holds a tag has no sound and is not among them."""
    kind: Kind
    stretches: list[tuple[int, int]]                # first byte and end of frames that stand one after another
    num_frames: int
    first_size: int                                 # bytes of the first frame
    tagged: int | None                              # frames by the first frame's tag; None: it does not say
    is_cut: bool                                    # the file ends within a frame

    @property
    def num_samples(self) -> int:
        """Samples per channel; the encoder's delay and padding, if a tag gives them, are among them."""
        return self.num_frames * self.kind.samples


def _headers() -> dict[int, tuple[Kind, int]]:
    """Bytes 2, 3 and 4 (of the last only the mode) of every valid header -> its kind, and bytes of its frame."""
    headers, kinds = {}, {}
    for second in range(0xE0, 0x100):
        version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
        if version == 1 or layer == 4:              # reserved; 4 is AAC's
            continue
        is_mpeg1 = version == 3
        samples = 384 if layer == 1 else 1152 if layer == 2 or is_mpeg1 else 576
        for third in range(0x100):
            index, padding = third >> 4, third >> 1 & 1
            if index in (0, 15) or third >> 2 & 3 == 3:
                continue
            bits, rate = 1000 * BITRATES[is_mpeg1, layer][index], RATES[version][third >> 2 & 3]    # a second
            size = 4 * (12 * bits // rate + padding) if layer == 1 else samples // 8 * bits // rate + padding
            for mode in range(4):
                kind = Kind(layer, rate, samples, mode == 3)
                headers[second << 16 | third << 8 | mode << 6] = kinds.setdefault(kind, kind), size
    return headers


_HEADERS = _headers()                               # equal kinds are one object


def read(content: bytes) -> Stream | None:
    """The frames in the bytes of a whole file; None where there are none.

    Tags (ID3, APE) and junk before, between and behind frames are passed over. Raises ValueError where layer, rate or
    number of channels change within the file: decoders end there.
    """
    tags = _tag_frames(content)
    place = _next(content, 0)
    tagged = tags.get(place)
    kind, first_size, num_frames, stretches, end = None, 0, 0, [], 0
    while place is not None:
        if place in tags:
            end = place + header(content, place)[1]
        else:
            next_kind, size = header(content, place)
            kind, first_size = kind or next_kind, first_size or size
            if next_kind is not kind:
                raise ValueError(f"the sound changes from {kind} to {next_kind}")
            end, number = _run(content, place, kind, tags)
            stretches.append((place, end))
            num_frames += number
        place = _next(content, end)
    if kind is None:
        return None
    last = header(content, end)
    return Stream(kind, stretches, num_frames, first_size, tagged, is_cut=last is not None and last[0] is kind)


def header(content: bytes, place: int) -> tuple[Kind, int] | None:
    """Kind and bytes of the frame whose header is at `place`; None where no header is."""
    if place + 4 > len(content) or content[place] != 0xFF:
        return None
    return _HEADERS.get(content[place + 1] << 16 | content[place + 2] << 8 | content[place + 3] & 0xC0)


def _run(content: bytes, place: int, kind: Kind, tags: dict[int, int | None]) -> tuple[int, int]:
    """Where the whole frames of a kind end that stand one after another from `place` on, and their number."""
    number, length = 0, len(content)
    while place + 4 <= length and content[place] == 0xFF and place not in tags:
        frame = _HEADERS.get(content[place + 1] << 16 | content[place + 2] << 8 | content[place + 3] & 0xC0)
        if frame is None or frame[0] is not kind or place + frame[1] > length:
            break
        place += frame[1]
        number += 1
    return place, number


def _next(content: bytes, place: int) -> int | None:
    """The first frame at or after `place`, tags and junk passed over; None where there is no more."""
    place = after_tags(content, place)
    for match in _SYNC.finditer(content, place):
        if _is_frame(content, match.start()):
            return match.start()
    return None


def _is_frame(content: bytes, place: int) -> bool:
    """Whether a frame begins here: with others behind it, or as the last of the file."""
    first = header(content, place)
    for _ in range(IN_A_ROW):
        frame = header(content, place)
        if first is None or frame is None or frame[0] is not first[0] or place + frame[1] > len(content):
            return False
        place += frame[1]
        if after_tags(content, place) >= len(content):
            return True
    return True


def after_tags(content: bytes, place: int) -> int:
    """Where the ID3 and APE tags that begin at `place` end."""
    while True:
        head = content[place:place + 32]
        if head[:3] == b"ID3" and len(head) >= 10:
            place += id3_bytes(head)
        elif head[:3] == b"TAG" and len(content) - place == 128:
            place += 128
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            place += 32 + int.from_bytes(head[12:16], "little")
        else:
            return place


def id3_bytes(head: bytes) -> int:
    """Bytes of the ID3v2 tag that begins with these ten or more; 0 where none begins."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]               # 7 bits a byte
    return 10 + size + (10 if head[5] & 0x10 else 0)                            # and a footer


def _tag_frames(content: bytes) -> dict[int, int | None]:
    """First byte of every frame that holds a tag -> the number of frames the tag gives, None where it gives none."""
    frames = {}
    for name in _TAGS:
        tag = content.find(name)
        while tag >= 0:
            number = 0
            if name == b"VBRI":
                number = int.from_bytes(content[tag + 14:tag + 18], "big")
            elif len(content) >= tag + 12 and content[tag + 7] & 1:
                number = int.from_bytes(content[tag + 8:tag + 12], "big")
            for offset in _TAG_OFFSETS:
                if tag >= offset and header(content, tag - offset) and not any(content[tag - offset + 6:tag]):
                    frames[tag - offset] = number or None
            tag = content.find(name, tag + 1)
    return frames
