"""What a file is that libsndfile does not read, told by its first bytes, and what to do with it."""
import os
import re
import shlex
from pathlib import Path

from framealign.sound import mpeg
from framealign.sound.sound_bytes import SoundBytes, opened

# Suffixes of sound and film that libsndfile does not read: in a folder they are named, not passed over.
SUFFIXES = frozenset((".m4a", ".m4b", ".m4p", ".m4r", ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".3ga", ".aac",
                      ".adts", ".alac", ".webm", ".weba", ".mkv", ".mka", ".wma", ".asf", ".wmv", ".amr", ".awb",
                      ".ac3", ".eac3", ".dts", ".ape", ".wv", ".tta", ".mpc", ".spx", ".ra", ".rm", ".ram", ".avi",
                      ".flv", ".f4a", ".mpg", ".mpeg", ".silk", ".shn", ".dss", ".ds2", ".dsf", ".dff",
                      ".qcp", ".g722", ".g729", ".gsm", ".vox", ".raw", ".pcm", ".ogv", ".ogx", ".mp2", ".mpga"))

# First bytes -> what the file is; sound, which ffmpeg converts.
SOUND = ((rb"....ftyp", "MP4 (M4A, AAC or ALAC)"), (rb"\x1aE\xdf\xa3", "WebM or Matroska"), (rb"ADIF", "AAC"),
         (rb"\xff[\xf0\xf1\xf8\xf9]", "AAC (ADTS)"), (rb"0&\xb2u\x8ef\xcf\x11", "WMA (ASF)"), (rb"#!AMR", "AMR"),
         (rb"\x02?#!SILK", "SILK"), (rb"wvpk", "WavPack"), (rb"MAC ", "Monkey's Audio"), (rb"TTA[12]", "True Audio"),
         (rb"MPCK|MP\+", "Musepack"), (rb"\x0bw", "AC-3"), (rb"\.RMF|\.ra\xfd", "RealAudio"), (rb"FLV\x01", "FLV"),
         (rb"RIFF....AVI ", "AVI"), (rb"RIFF....QLCM", "QCELP"), (rb"DSD |FRM8", "DSD"), (rb"ajkg", "Shorten"),
         (rb"\x7f\xfe\x80\x01", "DTS"), (rb"\x03ds[s2]|\x02ds[s2]", "DSS"), (rb"\x00\x00\x01\xba", "an MPEG film"),
         (rb"OggS.{22}\x01.{1,2}Speex", "Ogg Speex"), (rb"OggS.{22}\x01.\x80theora", "an Ogg film"))
# First bytes -> what the file is, and what to do; no sound.
OTHER = ((rb"\s*<(!doctype html|html|head|body|\?xml|!--)",
          "a page (HTML or XML) that was saved in place of the sound; download it again"),
         (rb"version https://git-lfs", "a pointer of Git LFS; fetch the sound with git lfs pull"),
         (rb"/annex/objects|\.\./\.git/annex", "a pointer of git-annex; fetch the sound with git annex get"),
         (rb"PK\x03\x04", "a zip archive; unpack it"), (rb"\x1f\x8b", "a gzip archive; unpack it"),
         (rb"BZh[1-9]|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", "a compressed archive; unpack it"),
         (rb"%PDF|\x89PNG|\xff\xd8\xff|GIF8", "a picture or document; leave it out"),
         (rb"MThd", "MIDI, that is notes; leave it out"),
         (rb"\x00\x05\x16\x07", "what macOS keeps beside a file; leave it out"),
         (rb"\x00{512}", "nothing but zeros; copy it again"))
WAVE_CODECS = {0x50: "MPEG", 0x55: "MP3", 0xFF: "AAC", 0x160: "WMA", 0x161: "WMA", 0x162: "WMA", 0x1600: "AAC",
               0x1610: "AAC", 0x2000: "AC-3", 0x2001: "DTS", 0x22: "TrueSpeech", 0x42: "G.723", 0x83: "G.729"}


def reason(path: str | Path | SoundBytes) -> str:
    """What a file is and what to do with it, for the end of a message; "" where its first bytes do not say."""
    with opened(path) as file:
        head = file.read(1024)
        tag = mpeg.id3_bytes(head)
        if tag:
            file.seek(tag)
            head = file.read(1024)
    for pattern, what in SOUND:
        if re.match(pattern, head, re.DOTALL):
            return f"{what}, which is not read; convert it: {conversion(path)}"
    for pattern, what in OTHER:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return f"not a sound file but {what}"
    codec = re.search(rb"^RIFF....WAVE.*?fmt .{4}(..)", head, re.DOTALL)
    name = codec and WAVE_CODECS.get(int.from_bytes(codec[1], "little"))
    if name:
        return f"WAV with {name} inside, which is not read; convert it: {conversion(path)}"
    if head and re.fullmatch(rb"[\t\n\r\x1b -~\x80-\xff]+", head) and head.isascii():
        return "not a sound file but text; leave it out"
    return ""


def conversion(path: str | Path | SoundBytes) -> str:
    """The command that converts a sound file: ffmpeg -i take.m4a take.wav."""
    name = os.path.basename(str(path))
    stem, suffix = os.path.splitext(name)
    target = stem + (".flac" if suffix.lower() == ".wav" else ".wav")
    return f"ffmpeg -i {shlex.quote(name)} {shlex.quote(target)}"
