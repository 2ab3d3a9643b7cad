"""Headers that say too little, too much or nothing: all sound that is there is heard, or one line says what is wrong.

The files are written by soundfile; then bytes of their headers are changed, or other bytes put behind or between.
"""
import io
import math
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_mpeg import APE, ID3, ID3V1, bare, mp3

from framealign.sound import audio, containers, mpeg
from framealign.corpus import manifest
from framealign.corpus.cropping import load_checked
from framealign.recipe import preflight

NUM_SAMPLES = 9_000
LIST = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf59.27.100\0"


def samples(number: int = NUM_SAMPLES, seed: int = 0) -> np.ndarray:
    """Noise in 16 bits, (number,) int16."""
    return np.random.default_rng(seed).integers(-9000, 9000, number).astype(np.int16)


def sound(form: str, subtype: str | None = None, rate: int = 16_000, x: np.ndarray | None = None) -> bytearray:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples() if x is None else x, rate, format=form, subtype=subtype)
    return bytearray(buffer.getvalue())


# Where the length of the sound is written: format -> bytes that it follows, bytes between, how; what it counts besides.
LENGTHS = {"WAV": (b"data", 0, "<I", 0), "AIFF": (b"SSND", 0, ">I", 8), "AU": (b".snd", 4, ">I", 0),
           "W64": (b"data" + containers.WAVE64_TAIL, 0, "<Q", 24), "RF64": (b"ds64", 12, "<Q", 0),
           "CAF": (b"data", 0, ">Q", 4)}


def with_length(form: str, length: int, after: bytes = b"") -> bytes:
    """A sound file whose header claims so many bytes (as the format counts them), and `after` behind the sound."""
    content = sound(form, "PCM_16")
    before, gap, kind, _ = LENGTHS[form]
    place = content.index(before) + len(before) + gap
    struct.pack_into(kind, content, place, length)
    return bytes(content) + after


def unknown_lengths() -> list[tuple[str, int]]:
    cases = [("WAV", claim) for claim in (0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x7FFFF000, 0xFFFFFFDB, 0x7FFFFFDB)]
    for form in ("AIFF", "AU", "W64", "RF64", "CAF"):
        kind, beside = LENGTHS[form][2:]
        cases += [(form, beside), (form, (1 << 8 * struct.calcsize(kind)) - 1)]
    return cases


@pytest.mark.parametrize("form, claim", unknown_lengths())
def test_where_the_length_is_unknown_all_is_heard(tmp_path, form, claim):
    path = tmp_path / "a.bin"
    path.write_bytes(with_length(form, claim))
    assert audio.length(path) == NUM_SAMPLES
    assert np.array_equal(audio.load(path).numpy(), samples() / np.float32(32768))
    assert np.array_equal(audio.load(path, 100, 500).numpy(), (samples() / np.float32(32768))[100:600])


@pytest.mark.parametrize("claim", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_chunks_behind_sound_of_unknown_length_are_no_sound(tmp_path, claim):
    path = tmp_path / "a.wav"
    path.write_bytes(with_length("WAV", claim, LIST + LIST))
    assert audio.length(path) == len(audio.load(path)) == NUM_SAMPLES
    empty = with_length("WAV", 0)[:-2 * NUM_SAMPLES]
    path.write_bytes(empty + LIST * 40)                                     # a header that says 0 and means it
    with pytest.raises(ValueError, match="0 samples at 16 kHz"):
        audio.length(path)


@pytest.mark.parametrize("form", LENGTHS)
def test_a_length_that_is_false_is_refused_both_ways(tmp_path, form):
    path, beside = tmp_path / "a.bin", LENGTHS[form][3]
    path.write_bytes(with_length(form, 2 * NUM_SAMPLES + beside))
    assert audio.length(path) == NUM_SAMPLES
    for claim, words in ((4000, "claims 4000 bytes of sound, 14000 bytes follow"),
                         (20_000, "truncated: the header claims 20000 bytes of sound, the file has 18000")):
        path.write_bytes(with_length(form, claim + beside))
        for reads in (audio.length, audio.load):
            with pytest.raises(ValueError, match=words):
                reads(path)


@pytest.mark.parametrize("after", [LIST, b"id3 " + struct.pack("<I", 70_000) + bytes(range(250)) * 280, ID3V1,
                                   bytes(4096), b"LIST" + struct.pack("<I", 5000) + b"INFO"])
def test_what_follows_the_sound_of_a_wav_and_is_none(tmp_path, after):
    """Chunks, a cut one among them, padding, a tag."""
    path = tmp_path / "a.wav"
    path.write_bytes(with_length("WAV", 2 * NUM_SAMPLES, after))
    assert audio.length(path) == len(audio.load(path)) == NUM_SAMPLES
    odd = bytearray(sound("WAV", "PCM_U8", x=samples(9_001)))
    path.write_bytes(bytes(odd[:odd.index(b"data") + 8 + 9_001]) + LIST)    # the byte of padding is forgotten
    assert audio.length(path) == len(audio.load(path)) == 9_001


def test_a_second_chunk_of_sound_is_not_dropped(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(with_length("WAV", 2 * NUM_SAMPLES, b"data" + struct.pack("<I", 2000) + bytes(2000)))
    with pytest.raises(ValueError, match="sound in several chunks"):
        audio.length(path)


def test_nist_sphere_counts_its_samples(tmp_path):
    path, content = tmp_path / "a.wav", sound("NIST", "PCM_16")
    path.write_bytes(content)
    assert audio.length(path) == NUM_SAMPLES
    path.write_bytes(content[:-2])
    with pytest.raises(ValueError, match="truncated: the header claims 18000 bytes of sound, the file has 17998"):
        audio.length(path)


@pytest.mark.parametrize("subtype, rate, length", [("PCM_16", 16_000, 9_000), ("PCM_24", 44_100, 44_100 * 3),
                                                    ("PCM_16", 16_000, 4096 * 3), ("PCM_16", 8_000, 500)])
def test_a_flac_is_as_long_as_its_frames(tmp_path, subtype, rate, length):
    """The header's 36 bits: right, unknown, too few and too many; tags around it."""
    path, content = tmp_path / "a.flac", sound("FLAC", subtype, rate, samples(length))
    expected = math.ceil(length * 16_000 / rate)
    for claim in (length, 0, length - 1, 400, length // 2):
        content[21] = content[21] & 0xF0 | claim >> 32
        content[22:26] = struct.pack(">I", claim & 0xFFFFFFFF)
        for file in (content, ID3 + content, content + ID3V1):
            path.write_bytes(file)
            assert audio.length(path) == len(audio.load(path)) == expected
    content[22:26] = struct.pack(">I", length + 1)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"truncated: the header claims {length + 1} samples, the file has {length}"):
        audio.length(path)


def pages(content: bytes) -> list[bytearray]:
    """The pages of an Ogg file."""
    places = [i for i in range(len(content)) if content[i:i + 5] == b"OggS\0"] + [len(content)]
    return [bytearray(content[first:last]) for first, last in zip(places, places[1:])]


def with_granule(page: bytearray, change: int) -> bytearray:
    """A page that claims to end so many samples later, its checksum right."""
    granule, = struct.unpack_from("<q", page, 6)
    struct.pack_into("<q", page, 6, granule + change)
    page[22:26] = bytes(4)
    state = 0
    for byte in page:
        state ^= byte << 24
        for _ in range(8):
            state = (state << 1 ^ (0x04C11DB7 if state >> 31 else 0)) & 0xFFFFFFFF
    struct.pack_into("<I", page, 22, state)
    return page


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_that_lost_a_page_or_was_joined_is_refused(tmp_path, subtype):
    path, content = tmp_path / "a.ogg", bytes(sound("OGG", subtype, x=samples(100_000)))
    every = pages(content)
    assert len(every) > 6
    cases = [(every[:4] + every[5:], "of its sound is missing"),
             (every + every, "several Ogg streams one after another"),
             (every[:-1] + [with_granule(every[-1][:], 10 ** 9)], "claims to end"),
             (every[:-1], "truncated"), (every[:-1] + [with_granule(every[-1][:], 4_000)], "truncated|claims to end")]
    for file, words in cases:
        path.write_bytes(b"".join(file))
        for reads in (audio.length, audio.load):
            with pytest.raises(ValueError, match=words):
                reads(path)
    path.write_bytes(b"".join(every[:2] + every[4:]))                       # a stream that was joined while it ran
    assert 400 < audio.length(path) == len(audio.load(path)) < 100_000


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_an_mp3_without_a_tag_is_heard_to_its_end(tmp_path, rate, mode):
    """Noise, then as long a tone: with VARIABLE the first frames are ten times as large as the last ones."""
    content = mp3(6.0, rate, mode=mode)
    path, num_samples = tmp_path / "a.mp3", mpeg.read(content).num_samples
    for file, times in ((bare(content), 1), (ID3 + bare(content) + APE + ID3V1, 1), (content + content, 2),
                        (bytes(700) + bare(content), 1)):
        path.write_bytes(file)
        waveform = audio.load(path)
        assert audio.length(path) == len(waveform) == math.ceil(times * num_samples * 16_000 / rate)
        end = waveform[-16_000:-8_000].double()
        assert end.square().mean().sqrt() == pytest.approx(0.1 / 2 ** 0.5, rel=0.1)         # the tone
    path.write_bytes(content)                       # with the tag: without the encoder's delay
    assert audio.length(path) == len(audio.load(path)) == 96_000


def test_an_mp3_whose_tag_is_false(tmp_path):
    content = bytearray(mp3(3.0))
    path, place = tmp_path / "a.mp3", max(content.find(b"Xing"), content.find(b"Info"))
    num_samples = mpeg.read(content).num_samples
    for claim in (0, 10):
        content[place + 8:place + 12] = struct.pack(">I", claim)
        path.write_bytes(content)
        assert audio.length(path) == len(audio.load(path)) == num_samples
    content[place + 8:place + 12] = struct.pack(">I", 1000)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="truncated: the header claims 1000 frames, the file has 86"):
        audio.length(path)


def test_an_mp3_beside_what_macos_leaves(tmp_path):
    """libsndfile takes `._a.mp3` for a part of a.mp3."""
    (tmp_path / "a.mp3").write_bytes(mp3(1.0))
    (tmp_path / "._a.mp3").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(200))
    assert audio.length(tmp_path / "a.mp3") == 16_000


def random_file(draw: random.Random) -> bytes:
    """A sound file whose header may lie or say nothing."""
    rate, x = draw.choice((8000, 16_000, 22_050)), samples(draw.randint(2_000, 60_000), draw.randrange(1000))
    kind = draw.choice(("chunks", "flac", "ogg", "mp3"))
    if kind == "mp3":
        content = mp3(len(x) / rate, rate, draw.choice((1, 2)), draw.choice(("CONSTANT", "VARIABLE")))
        content = draw.choice((content, bare(content), content + content))
        return draw.choice((b"", ID3)) + content + draw.choice((b"", ID3V1, APE, bytes(99)))
    if kind == "ogg":
        every = pages(bytes(sound("OGG", draw.choice(("VORBIS", "OPUS")), draw.choice((8000, 16_000, 48_000)), x)))
        every[-1] = with_granule(every[-1], draw.choice((0, -1, -77, 5, 500)))
        return b"".join(every)
    if kind == "flac":
        content = sound("FLAC", "PCM_16", rate, x)
        content[22:26] = struct.pack(">I", draw.choice((len(x), 0, len(x) - 1, len(x) // 2, len(x) + 1)))
        return bytes(content)
    form = draw.choice(tuple(LENGTHS))
    before, gap, size, _ = LENGTHS[form]
    content = sound(form, draw.choice(("PCM_16", "PCM_24", "FLOAT")), rate, x)
    if draw.random() < 0.7:
        claim = draw.choice((0, 1, 8, 999, 20_000, (1 << 8 * struct.calcsize(size)) - 1, 0x7FFFF000, 0x7FFFFFFF))
        struct.pack_into(size, content, content.index(before) + len(before) + gap, claim)
    return bytes(content) + draw.choice((b"", LIST, b"\0", bytes(500)))


@pytest.mark.parametrize("seed", range(60))
def test_prepare_preflight_and_training_agree_to_the_sample(tmp_path, seed):
    """Whatever the header says: the manifest's length is that of the waveform, or each refuses the file."""
    path, table = tmp_path / "a.bin", tmp_path / "table.csv"
    path.write_bytes(random_file(random.Random(seed)))
    table.write_text("path,label\na.bin,sad\n")
    try:
        utterances = manifest.read(table)
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        with pytest.raises(ValueError):
            audio.load(path)
        return
    preflight.check_files(utterances)
    assert len(load_checked(utterances[0], False)) == utterances[0].num_samples


def test_a_chunk_beyond_all_places_is_no_crash(tmp_path):
    """64 bits can name places that no file has."""
    path = tmp_path / "a.bin"
    for form, claim in (("CAF", (1 << 63) - 5), ("W64", (1 << 63) + 99), ("CAF", (1 << 64) - 3), ("W64", 1 << 62),
                        ("CAF", 1 << 50)):
        content = with_length(form, claim, b"free" + b"\xf0" * 40)
        path.write_bytes(content)
        try:
            assert audio.length(path) == len(audio.load(path))
        except ValueError as error:
            assert str(path) in str(error)


def test_pieces_are_one_file():
    """Random reads of pieces are those of the bytes put together."""
    draw, other = random.Random(0), bytes(range(256)) * 4
    pieces = [range(10), b"abc", range(5, 900), b"", range(1000, 1100), b"z"]
    expected = other[:10] + b"abc" + other[5:900] + other[1000:] + bytes(76) + b"z"
    file = containers.Pieces(io.BytesIO(other), pieces)
    assert file.seek(0, io.SEEK_END) == len(expected)
    for _ in range(300):
        place, number = draw.randrange(len(expected) + 20), draw.randrange(300)
        file.seek(place)
        assert file.read(number) == expected[place:place + number] and file.tell() <= len(expected) + 20


def test_chunks_before_the_sound(tmp_path):
    """90 chunks without content, one after another, and a chunk that claims more than the file has."""
    path = Path(tmp_path / "a.wav")
    content = with_length("WAV", 2 * NUM_SAMPLES)
    path.write_bytes(content[:36] + b"JUNK\0\0\0\0" * 90 + content[36:])
    assert audio.length(path) == NUM_SAMPLES
    path.write_bytes(content[:36] + b"JUNK\xff\xff\xff\xff" + content[36:])
    with pytest.raises(ValueError):
        audio.length(path)
