"""A sound in memory is read as the same bytes in a file are, and refused in the same words."""
import re

import numpy as np
import pytest
import soundfile
import torch

from framealign.sound import audio
from framealign.sound.sound_bytes import SoundBytes


def both(tmp_path, name: str, content: bytes) -> list:
    """What `audio.load` and `audio.length` give, or say without the folder, of the bytes as a file and in memory."""
    (tmp_path / name).write_bytes(content)
    results = []
    for sound in (tmp_path / name, SoundBytes(name, content)):
        for read in (audio.load, audio.length):
            try:
                results.append(read(sound))
            except ValueError as error:
                results.append(str(error).replace(f"{tmp_path}/", ""))
    return results


@pytest.mark.parametrize("name, channels, rate", [
    ("a.wav", 1, 16_000), ("b.flac", 2, 44_100), ("c.ogg", 1, 22_050), ("d.mp3", 1, 16_000), ("e.aiff", 3, 8_000),
    ("f.caf", 1, 48_000), ("g.au", 2, 16_000)])
def test_it_is_read_as_a_file(tmp_path, name, channels, rate):
    pytest.importorskip("torchaudio")
    soundfile.write(tmp_path / name, np.random.default_rng(0).normal(0, 0.1, (rate, channels)), rate)
    loaded, length, in_memory, length_in_memory = both(tmp_path, name, (tmp_path / name).read_bytes())
    assert torch.equal(loaded, in_memory) and len(loaded) == length == length_in_memory


def test_a_wav_that_does_not_know_its_length_is_heard_whole(tmp_path):
    """Its header is written again on the way (`containers.Pieces`)."""
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    content = (tmp_path / "a.wav").read_bytes()
    content = content[:40] + b"\xff\xff\xff\xff" + content[44:]
    loaded, _, in_memory, _ = both(tmp_path, "a.wav", content)
    assert torch.equal(loaded, in_memory) and len(in_memory) == 16_000


@pytest.mark.parametrize("name, content, message", [
    ("a.wav", b"", r"a\.wav: empty file"), ("a.m4a", b"\0\0\0\x20ftypM4A \0\0\0\0", "ffmpeg -i a.m4a a.wav"),
    ("b.wav", b"RIFF\x24\0\0\0WAVEfmt ", "b.wav: "), ("c.raw", bytes(999), "raw samples without a header"),
    ("d.mp3", b"not at all" * 99, "d.mp3: "), ("e.wav", b"0 1 2 neutral\n" * 50, "not a sound file but text")])
def test_what_is_no_sound_is_refused_in_the_same_words(tmp_path, name, content, message):
    first, *others = both(tmp_path, name, content)
    assert isinstance(first, str) and re.search(message, first) and others == [first] * 3
