"""`recognise --stream -`: lines while sound comes; its end, and Ctrl-C, end it well; what is no sound costs a line."""
import io
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small
import soundfile

from framealign.sound.frames import num_frames
from framealign.emotion.recogniser import Recogniser
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.streaming import Streaming
from framealign.hubert.model import Hubert
from framealign.commands import recognise_command

LABELS = ["neutral", "happy", "angry", "sad"]


@pytest.fixture(scope="module")
def model(micro, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("live") / "recogniser"
    EmotionModel(Hubert(micro), LABELS).save_pretrained(place)
    return place


def samples(number: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-3000, 3000, number, np.int16)


def streamed(monkeypatch, capsys, content: bytes, *words: str) -> tuple[str, str]:
    """What is written of this standard input: on standard output, and on standard error."""
    class Input:
        buffer = io.BytesIO(content)
    monkeypatch.setattr(sys, "stdin", Input)
    recognise_command.main([*words, "--device", "cpu"])
    printed = capsys.readouterr()
    return printed.out, printed.err


def test_lines_are_what_the_library_gives(model, monkeypatch, capsys):
    """Raw at another rate, and WAV, whose header says the rate: frames, segments and the whole."""
    pytest.importorskip("torchaudio")
    sound = samples(66_150)
    file = io.BytesIO()
    soundfile.write(file, sound, 22_050, format="WAV")
    raw, _ = streamed(monkeypatch, capsys, sound.astype("<i2").tobytes(), str(model), "--stream", "-", "--format",
                      "jsonl", "--rate", "22050", "--look-ahead", "0.3", "--no-gate")
    wav, _ = streamed(monkeypatch, capsys, file.getvalue(), str(model), "-", "--stream", "--format", "jsonl",
                      "--look-ahead", "0.3", "--no-gate")
    assert raw == wav
    lines = [json.loads(line) for line in raw.splitlines()]
    frames = [line for line in lines if "start" in line]
    wanted = list(Recogniser.from_pretrained(model).stream([sound], 22_050, Streaming(look_ahead=0.3)))
    assert len(frames) == len(wanted) == num_frames(48_000)
    for line, frame in zip(frames, wanted):
        assert line["start"] == round(frame.start, 6) and line["emotion"] == frame.emotion and "kind" not in line
        np.testing.assert_allclose(line["posterior"], frame.posterior, rtol=1e-4)
        assert line["weight"] == pytest.approx(frame.weight, rel=1e-4)
        assert list(line["probabilities"]) == LABELS
    segments = [line["segment"] for line in lines if "segment" in line]
    assert segments[0]["start"] == 0 and segments[-1]["end"] == 3.0
    assert lines[-1]["whole"]["seconds"] == 3.0 and lines[-1]["whole"]["emotion"] == wanted[-1].emotion


def test_in_words_there_is_a_line_for_each_segment(model, monkeypatch, capsys):
    """Noise is no speech: said of the segment and of the whole."""
    out, _ = streamed(monkeypatch, capsys, samples(40_000).tobytes(), str(model), "--stream", "-")
    *segments, whole = out.splitlines()
    assert [line.split() for line in segments] == [["0.00", "2.50", "none", "(noise)"]]
    assert whole.startswith("2.50 s\tnone\tneutral 0.25") and whole.endswith("\tno speech: noise")


def test_ctrl_c_ends_it_well(model):
    """While it waits for sound that does not come: the frames that were heard are written, status 0. (To give 50 frames
    it has read all that came.)
    """
    command = [sys.executable, small.ROOT / "bin" / "recognise.py", model, "--stream", "-", "--format", "jsonl"]
    process = subprocess.Popen(command, env=small.ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    process.stdin.write(samples(32_000).tobytes())
    process.stdin.flush()
    before = [json.loads(process.stdout.readline()) for _ in range(50)]         # of 2 s; the input is still open
    assert before[0]["start"] == 0
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    lines = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 0 and err == b""
    assert 50 + sum("start" in line for line in lines) == num_frames(32_000) and lines[-1]["whole"]["seconds"] == 2.0


def test_on_a_terminal_one_line_is_redrawn(model):
    leader, follower = pty.openpty()
    command = [sys.executable, small.ROOT / "bin" / "recognise.py", model, "--stream", "-", "--no-gate"]
    process = subprocess.Popen(command, env=small.ENVIRONMENT, stdin=subprocess.PIPE, stdout=follower)
    os.close(follower)
    process.stdin.write(samples(32_000).tobytes())
    process.stdin.close()
    content = b""
    try:
        while new := os.read(leader, 1 << 16):
            content += new
    except OSError:                                 # how a terminal without a process ends
        pass
    os.close(leader)
    *drawn, last = content.split(b"\x1b[K\r\n")[0].split(b"\x1b[K\r")
    assert process.wait() == 0 and len(drawn) == num_frames(32_000)
    assert all(len(line) < 80 and b" s  neutral" in line for line in drawn) and b"confidence 0.25" in last


@pytest.mark.parametrize("content, words, message", [
    (b"", [], r"standard input: 0\.000 s of sound, less than one frame"),
    (b"RIFFxxxxAVI ", [], "standard input: begins as RIFF, but is no WAV"),
    (b"", ["--rate", "100"], "100 Hz, must be 4000 to 1000000 Hz"),
    (b"", ["--step", "0"], "step must be more than 0 s"), (b"", ["--html", "a.html"], "--html needs a sound that has"),
    (b"", ["--format", "csv"], "--stream is written as table or jsonl, not as csv"),
    (b"", ["a.wav"], "--stream recognises standard input: name -, and no other sound")])
def test_what_cannot_be_streamed_costs_one_line(model, monkeypatch, capsys, content, words, message):
    with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
        streamed(monkeypatch, capsys, content, str(model), "-", *words, "--stream")


def test_flags_of_a_stream_need_one(model):
    with pytest.raises(ValueError, match="--look-ahead goes with --stream alone"):
        recognise_command.main([str(model), "a.wav", "--look-ahead", "1"])
