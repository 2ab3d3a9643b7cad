"""The frames of MP3 files, counted without decoding: whatever stands between them, whatever a tag says."""
import io

import numpy as np
import pytest
import soundfile

from framealign.sound import mpeg

ID3 = b"ID3\x04\0\0\0\0\x20\0" + b"\xff\xfb\x90\xc4" * 1024           # 4096 bytes that look like frames
APE = b"APETAGEX\xd0\x07\0\0" + (40).to_bytes(4, "little") + bytes(16) + b"x" * 8 + b"APETAGEX" + bytes(24)
ID3V1 = b"TAG" + b"title".ljust(125)


def mp3(seconds: float, rate: int = 16_000, channels: int = 1, mode: str = "VARIABLE", seed: int = 0) -> bytes:
    """Noise, then as long a tone, with a tag in the first frame as LAME writes it."""
    half = round(seconds * rate / 2)
    noise = np.random.default_rng(seed).normal(0, 0.2, half)
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(half) / rate)
    sound = np.repeat(np.concatenate([noise, tone])[:, None], channels, 1)
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, rate, format="MP3", bitrate_mode=mode, compression_level=0.3)
    return buffer.getvalue()


def bare(content: bytes) -> bytes:
    """The file without its first frame, which holds the tag."""
    return content[mpeg.header(content, 0)[1]:]


@pytest.mark.parametrize("rate", [8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_as_many_frames_as_the_encoder_counted(rate, channels, mode):
    """LAME writes their number into the tag; it is the oracle."""
    content = mp3(3.3, rate, channels, mode)
    place = max(content.find(b"Xing", 0, 200), content.find(b"Info", 0, 200))
    number = int.from_bytes(content[place + 8:place + 12], "big")
    for file, tagged in ((content, number), (bare(content), None)):
        stream = mpeg.read(file)
        assert (stream.num_frames, stream.tagged, stream.is_cut) == (number, tagged, False)
        assert (stream.kind.rate, stream.kind.layer, stream.kind.is_mono) == (rate, 3, channels == 1)
        assert stream.num_samples == number * (1152 if rate >= 32_000 else 576)


def test_what_stands_around_and_between_frames_is_passed_over():
    draw = np.random.default_rng(3)
    content = mp3(2.0)
    one, junk = bare(content), draw.integers(0, 256, 3000, np.uint8).tobytes()
    number = mpeg.read(content).num_frames
    middle = mpeg.read(content).stretches[0][0]
    for _ in range(20):
        middle += mpeg.header(content, middle)[1]
    for file, times in ((ID3 + content, 1), (ID3 + ID3 + one + ID3V1, 1), (one + APE + ID3V1, 1), (junk + one, 1),
                        (one + junk, 1), (content[:middle] + junk + content[middle:], 1), (content + content, 2),
                        (ID3 + content + ID3V1 + ID3 + content, 2), (content + one + one + APE, 3)):
        assert mpeg.read(file).num_frames == times * number


def test_a_file_that_ends_within_a_frame():
    content = mp3(2.0)
    stream = mpeg.read(content[:-10])
    assert stream.is_cut and stream.num_frames == stream.tagged - 1


@pytest.mark.parametrize("other", [mp3(1.0, 22_050), mp3(1.0, 16_000, 2)])
def test_a_change_of_rate_or_channels_is_refused(other):
    with pytest.raises(ValueError, match="changes from layer 3, 16000 Hz, mono to layer 3, "):
        mpeg.read(mp3(1.0) + other)


def test_what_is_no_mpeg_has_no_frames():
    draw = np.random.default_rng(0)
    adts = b"".join(b"\xff\xf1\x50\x80\x10\x1f\xfc" + draw.integers(0, 255, 121, np.uint8).tobytes() for _ in range(99))
    for content in (b"", b"\xff", b"\xff\xfb\x90", adts, draw.integers(0, 256, 200_000, np.uint8).tobytes(), ID3):
        assert mpeg.read(content) is None
