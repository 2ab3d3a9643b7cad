"""What the page asks for: frames as the library gives them, whatever the chunks; limits; nothing is kept."""
import dataclasses
import io
import json
import re
import threading
import time

import numpy as np
import pytest
import soundfile
import torch

from framealign.sound import audio
from framealign.sound.frames import num_frames
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.model import Hubert
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.recogniser import Recogniser
from framealign.emotion.segments import segments
from framealign.emotion.streaming import Streaming
from framealign.report import tracks
from framealign.report.text_formats import segment_content
from framealign.commands.live_recognition import frame_content
from framealign.commands.listening import Listener, Listening, LiveSpectrogram
from framealign.commands.local_server import Refused, Request

LABELS = ["neutral", "happy", "angry", "sad"]
NEAR = Streaming(left_context=1, look_ahead=0.2, step=0.1, warm_up=0.3)


def recogniser(config: HubertConfig) -> Recogniser:
    """Of random weights, large enough that frames differ."""
    torch.manual_seed(1)
    model = EmotionModel(Hubert(config), LABELS)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return Recogniser(model, gate=True)


@pytest.fixture
def listener(micro) -> Listener:
    return Listener(recogniser(micro), "MODEL", NEAR, Listening(seconds=4, megabytes=1))


def sound(number: int, seed: int = 0) -> np.ndarray:
    """Noise whose loudness changes."""
    noise = np.random.default_rng(seed).normal(0, 0.1, number) * np.abs(np.sin(np.arange(number) / 5000))
    return noise.astype(np.float32)


def asked(listener: Listener, path: str, body: bytes = b"", **parameters: object) -> dict:
    route = listener.routes()[path]
    return json.loads(route.answer(Request({name: str(value) for name, value in parameters.items()}, body)).content)


def recorded(listener: Listener, samples: np.ndarray, rate: int, edges: list[int]) -> list[dict]:
    """The answers to chunks that end at these samples, and to the end."""
    name = asked(listener, "begin", rate=rate)["recording"]
    answers = [asked(listener, "chunk", chunk.tobytes(), recording=name, number=number)
               for number, chunk in enumerate(np.split(samples, edges))]
    return [*answers, asked(listener, "end", recording=name)]


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_frames_are_those_of_the_stream_whatever_the_chunks(listener, rate):
    """Bit by bit as they are written, segments too; each comes with the first chunk that makes it certain."""
    pytest.importorskip("torchaudio")
    samples = sound(3 * rate // 2)
    stream = listener.recogniser.stream([samples], rate, NEAR)
    wanted = [frame_content(frame) for frame in stream]
    tenths = list(range(rate // 10, len(samples), rate // 10))
    for edges in ([], tenths, [1, 1, 17, rate, rate + 5]):
        answers = recorded(listener, samples, rate, edges)
        assert [frame for answer in answers for frame in answer["frames"]] == wanted
        assert len(wanted) == num_frames(24_000)
        parts = [part for answer in answers for part in answer["segments"]]
        assert parts[0]["start"] == 0 and parts[-1]["end"] == answers[-1]["seconds"] == 1.5
        for frame, answer in ((frame, answer) for answer in answers[:-1] for frame in answer["frames"]):
            seconds = answer["seconds"]             # 25 ms of the frame, at most a step and the look-ahead after it
            assert frame["start"] + 0.02 + NEAR.look_ahead <= seconds
    of_tenths = recorded(listener, samples, rate, tenths)
    assert sum(len(answer["frames"]) for answer in of_tenths[:11]) >= (1.1 - 0.3 - 0.05) * 50


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_the_end_is_the_result_of_the_whole(listener, rate):
    """Of the same samples as a file: emotion, segments, and the three files, as they are written elsewhere."""
    pytest.importorskip("torchaudio")
    samples = sound(2 * rate + 123)
    whole = recorded(listener, samples, rate, [rate])[-1]["whole"]
    result = listener.recogniser(audio.resample(torch.from_numpy(samples), rate, "it"))
    assert whole["emotion"] == result.emotion and whole["probabilities"] == result.probabilities
    assert whole["seconds"] == result.seconds and whole["name"] == "recording"
    assert whole["segments"] == [segment_content(one) for one in segments(result)]
    content, = json.loads(whole["files"]["json"])
    assert content["probabilities"] == result.probabilities and len(content["posterior"]) == len(result.posterior)
    assert whole["files"]["TextGrid"].startswith('File type = "ooTextFile"')
    assert whole["files"]["html"].startswith("<!DOCTYPE html>") and "audio/flac" in whole["files"]["html"]
    assert not listener.recordings


@pytest.mark.parametrize("form, channels, rate", [("WAV", 1, 16_000), ("FLAC", 2, 44_100), ("OGG", 1, 48_000)])
def test_a_file_is_recognised_as_recognise_does(listener, tmp_path, form, channels, rate):
    pytest.importorskip("torchaudio")
    file = io.BytesIO()
    soundfile.write(file, np.stack([sound(rate, i) for i in range(channels)], 1), rate, format=form)
    (tmp_path / f"a.{form.lower()}").write_bytes(file.getvalue())
    whole = asked(listener, "file", file.getvalue(), name=f"a.{form.lower()}")["whole"]
    result = listener.recogniser(tmp_path / f"a.{form.lower()}")
    assert whole["probabilities"] == result.probabilities and whole["name"] == f"a.{form.lower()}"


@pytest.mark.parametrize("name, content, message", [
    ("a.wav", b"", r"a\.wav: empty file \(0 bytes\)"),
    ("a.m4a", b"\0\0\0\x20ftypM4A \0\0\0\0", r"ffmpeg -i a\.m4a a\.wav"),
    ("a\n\x1b.wav", b"0 1 2\n" * 99, r"a\?\?\.wav: not a sound file but text"), ("a" * 999, bytes(9), r"^a{120}: ")])
def test_a_bad_file_is_one_line(listener, name, content, message):
    with pytest.raises(ValueError, match=message) as error:
        asked(listener, "file", content, name=name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_sound_has_a_longest(listener):
    """A longer file is refused before it is decoded; a recording takes no more."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(16_000 * 400, np.int16), 16_000, format="FLAC")
    with pytest.raises(ValueError, match=r"^a: 400\.0 s, more than 4 s \(--seconds\)"):
        asked(listener, "file", file.getvalue(), name="a")
    name = asked(listener, "begin", rate=16_000)["recording"]
    asked(listener, "chunk", sound(63_990).tobytes(), recording=name, number=0)
    with pytest.raises(Refused, match=r"at most 4 s \(--seconds\)"):
        asked(listener, "chunk", sound(11).tobytes(), recording=name, number=1)
    assert len(asked(listener, "chunk", sound(10).tobytes(), recording=name, number=1)["frames"]) >= 0
    assert asked(listener, "end", recording=name)["seconds"] == 4
    routes = listener.routes()
    assert routes["file"].max_bytes == 1_000_000 and routes["chunk"].max_bytes == 1 << 20
    assert not any(routes[path].max_bytes for path in ("", "begin", "end", "forget", "recorder.js"))


def test_a_chunk_that_comes_twice_counts_once_and_none_is_passed_over(listener):
    name = asked(listener, "begin", rate=16_000)["recording"]
    first = asked(listener, "chunk", sound(16_000).tobytes(), recording=name, number=0)
    assert first["frames"] and asked(listener, "chunk", sound(16_000).tobytes(), recording=name, number=0) == first
    with pytest.raises(Refused, match="chunk 2 came where 1 was expected"):
        asked(listener, "chunk", sound(10).tobytes(), recording=name, number=2)
    assert asked(listener, "end", recording=name)["seconds"] == 1


@pytest.mark.parametrize("chunk", [np.full(100, np.nan, np.float32), np.full(100, np.inf, np.float32)])
def test_what_is_no_sound_ends_the_recording(listener, chunk):
    """In one line; what comes afterwards is refused, and does not wait for ever."""
    name = asked(listener, "begin", rate=16_000)["recording"]
    with pytest.raises(ValueError, match="NaN or infinite"):
        asked(listener, "chunk", chunk.tobytes(), recording=name, number=0)
    for path in ("chunk", "end"):
        with pytest.raises(Refused, match="has ended"):
            asked(listener, path, recording=name, number=0)


@pytest.mark.parametrize("path, body, parameters, message", [
    ("begin", b"", {}, "rate must be a whole number"), ("begin", b"", {"rate": "-1"}, "rate must be a whole number"),
    ("begin", b"", {"rate": 100}, "100 Hz, must be 4000"), ("begin", b"", {"rate": 500_000}, "at most 192000 Hz"),
    ("chunk", b"", {"recording": "x", "number": 0}, "not known"), ("end", b"", {}, "not known"),
    ("chunk", b"12345", {"number": 0}, "samples must be float32"), ("chunk", b"", {}, "number must be a whole number")])
def test_wrong_requests_are_one_line(listener, path, body, parameters, message):
    if path == "chunk" and "recording" not in parameters:
        parameters = parameters | {"recording": asked(listener, "begin", rate=16_000)["recording"]}
    with pytest.raises((ValueError, Refused), match=message):
        asked(listener, path, body, **parameters)


@pytest.mark.parametrize("samples, message", [(np.zeros(0, np.float32), "0.000 s of sound, too little"),
                                              (sound(399), "0.025 s of sound, too little"),
                                              (np.zeros(16_000, np.float32), "is silent: .* muted")])
def test_a_recording_of_nothing_is_one_line(listener, samples, message):
    with pytest.raises(ValueError, match=message):
        recorded(listener, samples, 16_000, [])
    assert not listener.recordings


def test_recordings_end_and_are_forgotten(listener):
    """At most four; those that are ended, given up or idle leave nothing, no thread either."""
    before = threading.active_count()
    names = [asked(listener, "begin", rate=16_000)["recording"] for _ in range(4)]
    assert len(set(names)) == 4
    with pytest.raises(Refused, match="4 recordings are going on already") as refused:
        asked(listener, "begin", rate=16_000)
    assert refused.value.status == 503
    asked(listener, "forget", recording=names[0])
    listener.forget_idle()
    assert list(listener.recordings) == names[1:]
    listener.recordings[names[1]].touched -= 31
    listener.forget_idle()
    assert list(listener.recordings) == names[2:]
    with pytest.raises(Refused, match="nothing of it came for too long"):
        asked(listener, "chunk", recording=names[1], number=0)
    for name in names[2:]:
        asked(listener, "forget", recording=name)
    asked(listener, "forget", recording="none")
    for _ in range(50):
        if threading.active_count() == before:
            break
        time.sleep(0.1)
    assert threading.active_count() == before and not listener.recordings


def test_two_whole_sounds_at_once_are_enough(listener):
    """A third is refused, and may be asked for again: its recording is still there. What fails gives its place back."""
    name, file = asked(listener, "begin", rate=16_000)["recording"], io.BytesIO()
    asked(listener, "chunk", sound(8_000).tobytes(), recording=name, number=0)
    soundfile.write(file, sound(8_000), 16_000, format="WAV")
    with listener._turn(), listener._turn():
        for path, body in (("end", b""), ("file", file.getvalue())):
            with pytest.raises(Refused, match="try again") as refused:
                asked(listener, path, body, recording=name)
            assert refused.value.status == 503
    for _ in range(3):
        with pytest.raises(Refused, match="not known"):
            asked(listener, "end", recording="none")
    assert asked(listener, "end", recording=name)["whole"]["seconds"] == 0.5


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_the_spectrogram_is_the_reports_in_pieces(rate):
    """A sine of full scale has 0 dB in its band, whatever the chunks; columns are 8 ms apart."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(2 * rate) / rate).astype(np.float32)
    whole = np.frombuffer(LiveSpectrogram(rate).add(tone), np.uint8).reshape(-1, tracks.BANDS)
    live, pieces = LiveSpectrogram(rate), b""
    for chunk in np.array_split(tone, 37):
        pieces += live.add(chunk)
    assert (np.frombuffer(pieces, np.uint8).reshape(-1, tracks.BANDS) == whole).all()
    assert abs(len(whole) - 2 / 0.008) <= 3 and len(live.rest) < 0.05 * rate
    middle = whole[20:-20]
    hertz = tracks.mel_bins(live.size, rate)[middle.mean(0).argmax()] * rate / live.size
    assert middle.max(1).min() >= 250 and abs(hertz - 1000) < 40
    if rate == 16_000:
        offline = tracks.spectrogram(tone)[:, 20:-20].T * 2 * tracks.DECIBELS               # half decibels
        inside = offline[:len(middle)] > 20
        difference = middle[:len(offline)].astype(float) - offline[:len(middle)]
        assert np.ptp(difference[inside]) <= 2


def test_it_is_silent_at_first(listener):
    """Digital silence has no logarithm that is not finite, and no frame of speech."""
    name = asked(listener, "begin", rate=16_000)["recording"]
    frames = asked(listener, "chunk", bytes(4 * 16_000), recording=name, number=0)["frames"]
    assert frames and all(frame["kind"] == "silence" and frame["emotion"] == "none" for frame in frames)


@pytest.mark.parametrize("changes, message", [
    ({"seconds": 0}, "seconds must be above 0 and at most 600"), ({"seconds": 601}, "at most 600, got 601"),
    ({"megabytes": 0}, "megabytes must be 1 to 1000"), ({"idle_seconds": 0}, "idle_seconds must be above 0"),
    ({"smooth": -1}, "--smooth must be 0 or more seconds")])
def test_settings_outside_their_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(Listening(), **changes)
