"""Bytes from a pipe: raw, or WAV of any recorder, cut anywhere; a header that cannot be read costs one line."""
import io
import struct

import numpy as np
import pytest
import soundfile

from framealign.sound.pcm import LONGEST_HEADER, Pcm


class Dripping(io.BytesIO):
    """Gives at most a few bytes at a time, as a pipe does."""

    def read1(self, size: int = -1) -> bytes:
        return super().read1(min(size, 7))


def samples(content: bytes, rate: int = 16_000, kind: type = io.BytesIO) -> tuple[int, np.ndarray]:
    pcm = Pcm(kind(content), rate)
    chunks = list(pcm)
    return pcm.rate, np.concatenate(chunks) if chunks else np.zeros((0, pcm.channels), np.int16)


def wav(sound: np.ndarray, rate: int, subtype: str, form: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, rate, subtype, format=form)
    return file.getvalue()


@pytest.mark.parametrize("kind", (io.BytesIO, Dripping))
def test_raw_samples_are_int16_mono(kind):
    sound = np.random.default_rng(0).integers(-32768, 32767, 9_001, np.int16)
    for rest in (b"", b"x"):                        # half a sample is dropped
        rate, given = samples(sound.astype("<i2").tobytes() + rest, 44_100, kind)
        assert rate == 44_100 and given.dtype == np.int16 and (given[:, 0] == sound).all()
    for content in (b"", b"x", b"xx", b"RIF"):
        assert len(samples(content)[1]) == len(content) // 2


@pytest.mark.parametrize("kind", (io.BytesIO, Dripping))
@pytest.mark.parametrize("subtype, form", [("PCM_16", "WAV"), ("PCM_32", "WAV"), ("FLOAT", "WAV"), ("PCM_16", "WAVEX"),
                                           ("FLOAT", "WAVEX")])
@pytest.mark.parametrize("channels", (1, 2))
def test_wav_is_what_soundfile_reads(kind, subtype, form, channels):
    sound = np.random.default_rng(0).uniform(-1, 1, (5_003, channels))
    content = wav(sound, 22_050, subtype, form)
    rate, given = samples(content, 16_000, kind)
    wanted, _ = soundfile.read(io.BytesIO(content), always_2d=True)
    scale = 32768 if given.dtype == np.int16 else 1
    assert rate == 22_050
    np.testing.assert_allclose(given / scale, wanted, atol=1e-7)
    assert (samples(content + b"LIST" + struct.pack("<I", 4) + b"tail", 16_000, kind)[1] == given).all()


@pytest.mark.parametrize("length", (0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000))
def test_a_length_that_a_recorder_does_not_know_is_until_the_end(length):
    content = bytearray(wav(np.linspace(-0.5, 0.5, 8_000), 16_000, "PCM_16"))
    place = content.index(b"data") + 4
    whole = samples(bytes(content))[1]
    content[place:place + 4] = struct.pack("<I", length)
    assert (samples(bytes(content))[1] == whole).all() and len(whole) == 8_000


def test_chunks_before_the_samples_are_passed_over():
    content = wav(np.linspace(-0.5, 0.5, 800), 16_000, "PCM_16")
    for size in (4, 5, 30_000):
        extra = b"LIST" + struct.pack("<I", size) + bytes(size + size % 2)
        assert (samples(content[:12] + extra + content[12:])[1] == samples(content)[1]).all()


GOOD = wav(np.zeros(800), 16_000, "PCM_16")


@pytest.mark.parametrize("content, message", [
    (b"RIFF", "begins as RIFF, but is no WAV"), (b"RIFFxxxxAVI ", "begins as RIFF, but is no WAV"),
    (GOOD[:30], "a WAV header without samples"), (GOOD[:12], "a WAV header without samples"),
    (GOOD[:12] + GOOD[36:], "does not say what its samples are"),
    (GOOD[:12] + b"fmt " + struct.pack("<I", 2) + b"xx" + GOOD[36:], "does not say what its samples are"),
    (GOOD[:12] + b"junk" + struct.pack("<I", 0xFFFFFFF0), f"a WAV header of more than {LONGEST_HEADER} bytes"),
    (GOOD[:22] + b"\0\0" + GOOD[24:], "with 16 bits and 0 channels, must be PCM of 16 or 32 bits"),
    (wav(np.zeros(800), 16_000, "PCM_24"), "WAV of format 1 with 24 bits"),
    (wav(np.zeros(800), 16_000, "PCM_U8"), "WAV of format 1 with 8 bits"),
    (wav(np.zeros(800), 16_000, "ULAW"), "WAV of format 7 with 8 bits"),
    (wav(np.zeros(800), 16_000, "DOUBLE"), "WAV of format 3 with 64 bits")])
def test_a_header_that_cannot_be_read_costs_one_line(content, message):
    for kind in (io.BytesIO, Dripping):
        with pytest.raises(ValueError, match=f"^standard input: [^\n]*{message}[^\n]*$"):
            Pcm(kind(content), 16_000)


def test_nothing_is_waited_for():
    """A pipe that has 100 samples gives them, though more may come."""
    class Pipe(Dripping):
        def read1(self, size: int = -1) -> bytes:
            assert self.tell() < 200, "read on before what had come was given"
            return super().read1(size)
    given, pcm = 0, iter(Pcm(Pipe(bytes(200) + bytes(200)), 16_000))
    while given < 100:
        given += len(next(pcm))
