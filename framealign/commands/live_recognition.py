"""What `recognise --stream` does: standard input is recognised while it comes, as lines or one that redraws."""
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import BinaryIO

from framealign.runtime import terminal
from framealign.sound import speech
from framealign.sound.pcm import Pcm
from framealign.corpus.utterance import NONE
from framealign.emotion.recogniser import Recogniser
from framealign.emotion.segments import Segment, SegmentsSoFar
from framealign.emotion.streaming import StreamedFrame, Streaming
from framealign.report.text_formats import segment_content

FORMATS = ("table", "jsonl")


class UntilInterrupted:
    """A binary file that ends where it ends, or where Ctrl-C is pressed: what came until then is still recognised.

    A second Ctrl-C ends the program, as everywhere. Python delivers signals to the main thread alone.
    """

    def __init__(self, file: BinaryIO):
        self.file, self.is_reading, self.has_ended = file, False, False
        self.before: Callable | int | None = None
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._end)

    def read1(self, number: int) -> bytes:
        """What has come, at most `number` bytes, at least one unless the file has ended."""
        content = b""
        try:
            self.is_reading = True                  # only here may the handler raise: a read waits for ever
            if not self.has_ended:
                content = self.file.read1(number)
        except KeyboardInterrupt:
            pass
        finally:
            self.is_reading = False
        return content

    def close(self) -> None:
        """Set the signal's handler back."""
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        """The handler."""
        self.has_ended = True
        self.close()
        if self.is_reading:
            raise KeyboardInterrupt


def run(recogniser: Recogniser, config: Streaming, rate: int, min_seconds: float, as_json: bool) -> None:
    """Recognise standard input until it ends or Ctrl-C is pressed, and write what is certain as soon as it is.

    rate: of raw samples. As JSON an object a line: frames, segments, and the whole at the end. Else a line for each
    segment and the whole, below which, on a terminal, one line is redrawn. Raises ValueError for what is no sound.
    """
    source = UntilInterrupted(sys.stdin.buffer)
    try:
        pcm = Pcm(source, rate)
        stream = recogniser.stream(pcm, pcm.rate, config)
        segments = SegmentsSoFar(recogniser.labels, stream.framing.rate, min_seconds)
        is_drawn = not as_json and sys.stdout is not None and sys.stdout.isatty()
        clear = "\x1b[K" if is_drawn else ""
        last, is_read = None, True
        for last in stream:
            text = frame_line(last) if as_json else ""
            for one in segments.add(last.posterior, last.weight, last.kind):
                text += segment_line(one, as_json, clear)
            if is_drawn:
                text += drawn(last, stream.seconds, terminal_columns()) + clear + "\r"
            is_read = terminal.put(text) if text else is_read
            if not is_read:
                return
        if last is None:
            if source.has_ended:
                return
            raise ValueError(f"standard input: {stream.seconds:.3f} s of sound, less than one frame")
        text = "".join(segment_line(one, as_json, clear) for one in segments.end(stream.seconds))
        terminal.put(text + whole_line(last, stream.seconds, as_json, clear))
    finally:
        source.close()


def terminal_columns() -> int:
    """Of the terminal that standard output is."""
    return os.get_terminal_size(sys.stdout.fileno()).columns or 80              # 0: a terminal that does not say


def frame_content(frame: StreamedFrame) -> dict:
    """A frame for JSON; posterior in the order of the probabilities' classes."""
    content = {"start": round(frame.start, 6), "posterior": [float(f"{share:.5g}") for share in frame.posterior],
               "weight": float(f"{frame.weight:.5g}"), "emotion": frame.emotion, "reason": frame.reason,
               "probabilities": {label: float(f"{share:.5g}") for label, share in frame.probabilities.items()}}
    if frame.kind is not None:
        content["kind"] = speech.KINDS[frame.kind]
    return content


def frame_line(frame: StreamedFrame) -> str:
    """A frame as JSON."""
    return json.dumps(frame_content(frame), ensure_ascii=False) + "\n"


def segment_line(segment: Segment, as_json: bool, clear: str) -> str:
    """A segment that is certain, as JSON (under "segment") or in words."""
    if as_json:
        return json.dumps({"segment": segment_content(segment)}, ensure_ascii=False) + "\n"
    certainty = f"({segment.reason})" if segment.emotion == NONE else f"confidence {segment.confidence:.2f}"
    return f"{segment.start:10.2f} {segment.end:8.2f}  {segment.emotion}  {certainty}{clear}\n"


def whole_line(frame: StreamedFrame, seconds: float, as_json: bool, clear: str) -> str:
    """The emotion of all frames up to the last one."""
    if as_json:
        content = {"seconds": seconds, "emotion": frame.emotion, "reason": frame.reason,
                   "probabilities": frame.probabilities}
        return json.dumps({"whole": content}, ensure_ascii=False) + "\n"
    shares = "  ".join(f"{label} {share:.2f}" for label, share in frame.probabilities.items())
    return f"{seconds:.2f} s\t{frame.emotion}\t{shares}" + (f"\t{frame.reason}" if frame.reason else "") + clear + "\n"


def drawn(frame: StreamedFrame, seconds: float, columns: int) -> str:
    """The line that is redrawn: how much was heard, what this frame is, a bar for each class, the whole so far."""
    labels, now = list(frame.probabilities), int(frame.posterior.argmax())
    is_speech = frame.kind in (None, speech.SPEECH)
    emotion = labels[now] if is_speech else speech.KINDS[frame.kind]
    bars = "  ".join(f"{label} {'#' * round(8 * share):8}" for label, share in zip(labels, frame.posterior.tolist()))
    text = f"{seconds:8.1f} s  {emotion:{max(map(len, [*labels, *speech.KINDS]))}}  {bars}  so far: {frame.emotion}"
    return text[:max(1, columns - 1)]
