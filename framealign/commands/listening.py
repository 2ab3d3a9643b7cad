"""What the page of `listen` asks for: the frames of a recording while it goes on, and the result of a whole sound.

A recording comes in chunks, one request each; the answer is what became certain by it, so that the frames are those of
`Recogniser.stream` whatever the chunks. When it ends it is recognised once more as a whole, as a file would be. Sound
is in memory alone: that of a recording until it ends, or nothing of it has come for a while.
"""
import base64
import contextlib
import queue
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from framealign.runtime.settings import require, setting
from framealign.sound import audio
from framealign.sound.frames import SAMPLE_RATE
from framealign.sound.sound_bytes import SoundBytes
from framealign.emotion.recogniser import Recogniser, Result
from framealign.emotion.segments import MIN_SECONDS, SegmentsSoFar, check_smoothing, segments
from framealign.emotion.streaming import StreamedFrame, Streaming
from framealign.report import listening_page, timeline, tracks
from framealign.report.text_formats import FORMATS, segment_content, shown
from framealign.commands.live_recognition import frame_content
from framealign.commands.local_server import Answer, Refused, Request, Route

RECORDINGS = 4                                      # at the same time
WHOLE_SOUNDS = 2                                    # that are recognised at the same time
HIGHEST_RATE = 192_000                              # Hz, of a microphone
CHUNK_BYTES = 1 << 20                               # of samples that come in one request
COLUMN = 0.008                                      # seconds from one column of the spectrogram to the next
LONGEST_NAME = 120                                  # characters of a file's name
FILES = {"html": "html", "textgrid": "TextGrid", "json": "json"}                # formats to save and their suffixes


@dataclass(frozen=True)
class Listening:
    """How sound is recognised, and how much of it."""
    smooth: float = setting(MIN_SECONDS, "seconds: no segment is shorter; 0: each frame for itself")
    gate: bool = setting(True, "hear where there is no speech (silence, noise, music): there the emotion is none")
    seconds: float = setting(300.0, "seconds of sound: a recording ends there, a longer file is refused; at most 600")
    megabytes: int = setting(64, "MB of a file that is dropped or chosen, at most")
    idle_seconds: float = setting(30.0, "seconds after which a recording of which nothing more comes is forgotten")
    device: str = setting("auto", "auto, cpu, cuda or mps")

    def __post_init__(self):
        check_smoothing(self.smooth)
        require(0 < self.seconds <= timeline.AUDIO_SECONDS, f"seconds must be above 0 and at most "
                f"{timeline.AUDIO_SECONDS}, got {self.seconds:g}")
        require(1 <= self.megabytes <= 1000, f"megabytes must be 1 to 1000, got {self.megabytes}")
        require(0 < self.idle_seconds <= 3600, f"idle_seconds must be above 0 and at most 3600, got "
                f"{self.idle_seconds:g}")


class Recording:
    """A sound that has not ended. It is recognised in a thread of its own, which waits where sound is missing."""

    def __init__(self, recogniser: Recogniser, rate: int, streaming: Streaming, config: Listening):
        """Raises ValueError for a rate that no speech has."""
        self.stream = recogniser.stream(self._chunks(), rate, streaming)
        self.segments = SegmentsSoFar(recogniser.labels, self.stream.framing.rate, config.smooth)
        self.rate, self.max_samples = rate, round(config.seconds * rate)
        self.samples: list[np.ndarray] = []
        self.num_samples, self.number, self.last = 0, 0, {}                     # of chunks; the last one's answer
        self.spectrogram = LiveSpectrogram(rate)
        self.certain: list[StreamedFrame] = []      # frames that are not yet given away
        self.incoming: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
        self.outgoing: queue.SimpleQueue[list[StreamedFrame] | Exception] = queue.SimpleQueue()
        self.lock = threading.Lock()
        self.touched, self.has_ended = time.monotonic(), False
        threading.Thread(target=self._recognise, daemon=True).start()

    def add(self, number: int, chunk: np.ndarray) -> dict:
        """Chunk `number`, 0 for the first, (n,) float32: what became certain, for JSON. The last one may come again,
        from a page that did not get the answer.

        Raises ValueError for a chunk that is no sound, and Refused for one out of order or above the limit.
        """
        with self.lock:
            self._check()
            if number == self.number - 1:
                return self.last
            if number != self.number:
                raise Refused(409, f"chunk {number} came where {self.number} was expected")
            if self.num_samples + len(chunk) > self.max_samples:
                raise Refused(413, f"a recording has at most {self.max_samples / self.rate:g} s (--seconds)")
            self.samples.append(chunk)
            self.num_samples += len(chunk)
            self.last = self._content(self._certain_by(chunk), self.spectrogram.add(chunk))
            self.number += 1
            return self.last

    def end(self) -> tuple[dict, np.ndarray]:
        """The frames that are left, for JSON, and the whole sound, (N,) at `rate`. Raises as `add`."""
        with self.lock:
            self._check()
            content = self._content(self._certain_by(None), b"")
            self.has_ended = True
            content["segments"] += map(segment_content, self.segments.end(self.num_samples / self.rate))
            return content, np.concatenate([*self.samples, np.zeros(0, np.float32)])

    def forget(self) -> None:
        """End the thread; nothing is recognised any more."""
        self.incoming.put(None)

    def _content(self, frames: list[StreamedFrame], columns: bytes) -> dict:
        new = [segment for frame in frames for segment in self.segments.add(frame.posterior, frame.weight, frame.kind)]
        return {"seconds": self.num_samples / self.rate, "frames": [frame_content(frame) for frame in frames],
                "segments": [segment_content(segment) for segment in new],
                "spectrum": base64.b64encode(columns).decode()}

    def _check(self) -> None:
        """Raises Refused where nothing can follow."""
        self.touched = time.monotonic()
        if self.has_ended:
            raise Refused(410, "this recording has ended")

    def _certain_by(self, chunk: np.ndarray | None) -> list[StreamedFrame]:
        """The frames that become certain by a chunk, or (None) by the end."""
        self.incoming.put(chunk)
        frames = self.outgoing.get()
        if isinstance(frames, Exception):
            self.has_ended = True
            raise frames
        return frames

    def _chunks(self) -> Iterator[np.ndarray]:
        """What the stream takes. When it asks for more, all that is certain has been given."""
        while (chunk := self.incoming.get()) is not None:
            yield chunk
            self._give()

    def _recognise(self) -> None:
        """The thread."""
        try:
            for frame in self.stream:
                self.certain.append(frame)
            self._give()
        except Exception as error:                  # whoever waits for frames raises it
            self.outgoing.put(error)

    def _give(self) -> None:
        frames, self.certain = self.certain, []
        self.outgoing.put(frames)


class LiveSpectrogram:
    """The columns of a spectrogram, as soon as their windows are complete."""

    def __init__(self, rate: int):
        self.rate, self.size = rate, tracks.FFT * rate // SAMPLE_RATE           # samples of a window
        self.rest = np.zeros(self.size // 2, np.float32)                        # the first window's middle is at 0 s
        self.start, self.number = -len(self.rest), 0                            # of `rest`; columns so far

    def add(self, chunk: np.ndarray) -> bytes:
        """Samples (n,) that follow: new columns, (columns, BANDS) uint8, the lowest band first. 255 is 0 dB of full
        scale or more, each step below half a decibel.
        """
        self.rest = np.concatenate([self.rest, chunk])
        starts = []
        while (start := round(self.number * COLUMN * self.rate) - self.size // 2 - self.start) + self.size <= \
                len(self.rest):
            starts.append(start)
            self.number += 1
        if not starts:
            return b""
        full_scale = 20 * np.log10(np.hanning(self.size).sum() / 2)             # of a sine, dB
        levels = tracks.band_levels(self.rest, np.array(starts), self.rate) - full_scale        # (BANDS, columns)
        next_start = round(self.number * COLUMN * self.rate) - self.size // 2 - self.start
        self.rest, self.start = self.rest[next_start:], self.start + next_start
        return np.clip(255 + 2 * np.nan_to_num(levels.T, nan=-200), 0, 255).astype(np.uint8).tobytes()


class Listener:
    """Answers the page."""

    def __init__(self, recogniser: Recogniser, name: str, streaming: Streaming, config: Listening):
        """name: of the recogniser, for people."""
        self.recogniser, self.name, self.streaming, self.config = recogniser, name, streaming, config
        self.recordings: dict[str, Recording] = {}
        self.lock = threading.Lock()                # of `recordings`
        self.whole_sounds = threading.Semaphore(WHOLE_SOUNDS)
        self.page = listening_page.page(recogniser, shown(name), {
            "seconds": config.seconds, "bytes": config.megabytes * 1_000_000, "column": COLUMN})

    def routes(self) -> dict[str, Route]:
        """All that can be asked, by path."""
        script = listening_page.recorder().encode()
        return {"": Route(lambda request: Answer(self.page.encode(), "text/html; charset=utf-8")),
                "recorder.js": Route(lambda request: Answer(script, "text/javascript; charset=utf-8")),
                "begin": Route(self.begin, "POST"), "chunk": Route(self.chunk, "POST", CHUNK_BYTES),
                "end": Route(self.end, "POST"), "forget": Route(self.forget, "POST"),
                "file": Route(self.file, "POST", self.config.megabytes * 1_000_000)}

    def warm_up(self) -> None:
        """Recognise two seconds of noise in both ways, so that the first who speaks does not wait for what is only slow
        once."""
        noise = np.random.default_rng(0).normal(0, 0.01, 2 * 48_000).astype(np.float32)
        for _ in self.recogniser.stream([noise], 48_000, self.streaming):
            pass
        self.recogniser(audio.resample(torch.from_numpy(noise), 48_000, "noise"))

    def begin(self, request: Request) -> Answer:
        """A recording at `rate` Hz begins."""
        rate, name = _number(request, "rate"), ""
        if rate > HIGHEST_RATE:
            raise ValueError(f"{rate} Hz, must be at most {HIGHEST_RATE} Hz")
        recording = Recording(self.recogniser, rate, self.streaming, self.config)
        with self.lock:
            if len(self.recordings) < RECORDINGS:
                name = secrets.token_urlsafe(9)
                self.recordings[name] = recording
        if not name:
            recording.forget()
            raise Refused(503, f"{RECORDINGS} recordings are going on already; end one")
        return Answer.of({"recording": name})

    def chunk(self, request: Request) -> Answer:
        """Its samples go on: float32, little-endian, mono."""
        recording = _known(self.recordings.get(request.parameters.get("recording", "")))
        if len(request.body) % 4:
            raise Refused(400, "samples must be float32")
        return Answer.of(recording.add(_number(request, "number"), np.frombuffer(request.body, "<f4")))

    def end(self, request: Request) -> Answer:
        """It has ended: the frames that are left, and the whole."""
        with self._turn():                          # before the recording is taken: whoever is refused may ask again
            return self._ended(request)

    def _ended(self, request: Request) -> Answer:
        recording = _known(self._taken(request))
        content, samples = recording.end()
        least = self.recogniser.model.hubert.config.framing.receptive_field
        if audio.resampled_length(len(samples), recording.rate) < least:
            raise ValueError(f"the recording has {len(samples) / recording.rate:.3f} s of sound, too little to be "
                             "recognised; press Record again and speak")
        if samples.min() == samples.max():
            raise ValueError("the recording is silent: the microphone gives nothing; is it switched off, or muted?")
        waveform = audio.resample(torch.from_numpy(samples), recording.rate, "the recording")
        return Answer.of(content | {"whole": self.whole(waveform, "recording")})

    def forget(self, request: Request) -> Answer:
        """Its page was closed."""
        recording = self._taken(request)
        if recording is not None:
            recording.forget()
        return Answer.of({})

    def file(self, request: Request) -> Answer:
        """A sound file, called `name`."""
        sound = SoundBytes(shown(request.parameters.get("name", "sound"))[-LONGEST_NAME:], request.body)
        seconds = audio.length(sound) / SAMPLE_RATE
        if seconds > self.config.seconds:
            raise ValueError(f"{sound}: {seconds:.1f} s, more than {self.config.seconds:g} s (--seconds); cut a piece "
                             "out of it, or use framealign recognise")
        with self._turn():
            return Answer.of({"whole": self.whole(audio.load(sound), sound.name)})

    def whole(self, waveform: torch.Tensor, name: str) -> dict:
        """The result of a waveform (N,) at 16 kHz: emotion, probabilities, segments, and the files that can be saved.
        """
        result = self.recogniser(waveform)
        return {"name": name, "seconds": result.seconds, "emotion": result.emotion, "reason": result.reason,
                "probabilities": result.probabilities} | self._texts(waveform, result, name)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Room for one more whole sound. Raises Refused where there is none."""
        if not self.whole_sounds.acquire(blocking=False):
            raise Refused(503, f"{WHOLE_SOUNDS} sounds are being recognised already; try again")
        try:
            yield
        finally:
            self.whole_sounds.release()

    def _texts(self, waveform: torch.Tensor, result: Result, name: str) -> dict:
        parts = segments(result, self.config.smooth)
        figure = timeline.picture(waveform.numpy(), result, timeline.Annotation(name), recognised=parts)
        texts = {"html": timeline.page("Recognised", [figure], f"{name}, by {shown(self.name)}")}
        for form in ("textgrid", "json"):
            kind = FORMATS[form]
            texts[form] = kind.first(self.recogniser.labels, True) + kind.write(name, result, parts, True) + kind.last
        return {"segments": [segment_content(one) for one in parts],
                "files": {FILES[form]: text for form, text in texts.items()}}

    def forget_idle(self) -> None:
        """Forget recordings of which nothing has come for `idle_seconds`."""
        latest = time.monotonic() - self.config.idle_seconds
        with self.lock:
            idle = [name for name, one in self.recordings.items() if one.touched < latest and not one.lock.locked()]
            for name in idle:
                self.recordings.pop(name).forget()

    def _taken(self, request: Request) -> Recording | None:
        """The recording that a request names; it is not kept any longer."""
        with self.lock:
            return self.recordings.pop(request.parameters.get("recording", ""), None)


def _known(recording: Recording | None) -> Recording:
    """The recording. Raises Refused where there is none."""
    if recording is None:
        raise Refused(410, "this recording is not known, or nothing of it came for too long")
    return recording


def _number(request: Request, name: str) -> int:
    """A parameter that is a whole number. Raises Refused."""
    text = request.parameters.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Refused(400, f"{name} must be a whole number")
    return int(text)
