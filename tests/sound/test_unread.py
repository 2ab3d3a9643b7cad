"""Files that libsndfile does not read are called what they are, with what to do; whatever their names say."""
import subprocess
import sys

import pytest

from framealign.sound import audio, unread

ID3 = b"ID3\x04\0\0\0\0\0\x05title"
KINDS = {
    "a.m4a": (b"\0\0\0\x20ftypM4A \0\0\0\0", "MP4 (M4A, AAC or ALAC)", "ffmpeg -i a.m4a a.wav"),
    "a.mp3": (b"\xff\xf1\x50\x80\x10\x1f\xfc" * 300, "AAC (ADTS)", "ffmpeg -i a.mp3 a.wav"),
    "b.mp3": (ID3 + b"\xff\xf9\x50\x80\x10\x1f\xfc" * 300, "AAC (ADTS)", "ffmpeg -i b.mp3 b.wav"),
    "a.webm": (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01", "WebM or Matroska", "ffmpeg -i a.webm a.wav"),
    "my take.wav": (b"0&\xb2u\x8ef\xcf\x11\xa6\xd9\0\xaa\0b\xcel", "WMA (ASF)",
                    "ffmpeg -i 'my take.wav' 'my take.flac'"),
    "a.amr": (b"#!AMR\n\x3c", "AMR", "ffmpeg -i a.amr a.wav"),
    "b.wav": (b"RIFF\x24\0\0\0WAVEfmt \x1e\0\0\0\x55\0\x01\0\x80\x3e\0\0", "WAV with MP3 inside",
              "ffmpeg -i b.wav b.flac"),
    "a.spx": (b"OggS\0\x02" + bytes(20) + b"\x01\x50Speex   1.2", "Ogg Speex", "ffmpeg -i a.spx a.wav"),
    "c.wav": (b"\n<!DOCTYPE html>\n<html><head>", "a page (HTML or XML)", "download it again"),
    "d.wav": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS", "git lfs pull"),
    "e.wav": (b"PK\x03\x04" + bytes(99), "a zip archive", "unpack it"),
    "f.wav": (b"0 1 2 neutral\n" * 50, "not a sound file but text", "leave it out"),
    "g.wav": (bytes(4096), "nothing but zeros", "copy it again")}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("reads", [audio.load, audio.length])
def test_the_message_says_what_the_file_is_and_what_to_do(tmp_path, name, reads, capfd):
    content, what, advice = KINDS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as caught:
        reads(tmp_path / name)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / name}: ") and what in text and advice in text and "\n" not in text
    assert capfd.readouterr() == ("", "")           # decoders have a word of their own to say on stderr


def test_what_is_unknown_is_not_guessed(tmp_path):
    (tmp_path / "a.wav").write_bytes(bytes(range(256)) * 20)
    assert unread.reason(tmp_path / "a.wav") == ""
    with pytest.raises(ValueError, match="truncated, or not a sound file libsndfile can read"):
        audio.load(tmp_path / "a.wav")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_the_command_is_safe_to_paste():
    name = "a'; echo $HOME `id`.m4a"
    command = unread.conversion(f"/x/{name}").replace("ffmpeg -i", "printf '%s\\n'")
    shown = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == [name, name[:-4] + ".wav"]
