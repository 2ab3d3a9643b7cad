"""Emotion while somebody speaks: each frame is recognised once, as soon as enough of what follows it has been heard.

The arithmetic is that of windows of long sound (`hubert/long_sound.py`): a frame attends to `left_context` before it
and `look_ahead` after it. What needs the whole sound there is running here, over all sound so far: mean and variance
(`do_normalize`), the group norm of the first convolution, and the emotion of the whole, whose logits are a weighted
mean. Conv features are computed once, with the statistics of that moment; nothing is given before `warm_up`. With a
context and a look-ahead as long as the sound, the result is the offline one. The state has a fixed size.

The gate hears where there is speech in a window of `GATE_CONTEXT` before the frame and `look_ahead` after it. It is
therefore not quite `speech.kinds` of the whole, whose measures reach 2 s to either side; docs/BENCHMARKS.md has how far
they agree.
"""
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from framealign.runtime.settings import require, setting
from framealign.sound import speech
from framealign.sound.audio import Statistics
from framealign.sound.frames import SAMPLE_RATE, num_samples_of
from framealign.sound.live_sound import LiveSound
from framealign.corpus.utterance import NONE
from framealign.hubert.long_sound import WHOLE, Window
from framealign.hubert.model import ConvLayer
from framealign.emotion import calibration
from framealign.emotion.emotion_model import EmotionModel

GATE_CONTEXT = 4.0                                  # seconds before a frame in which the gate hears for speech
LONGEST = WHOLE / 50                                # seconds of a window: as offline, no frame attends to more


@dataclass(frozen=True)
class Streaming:
    """How far a frame of a stream sees, and when it is given.

    Raises ValueError for a number outside its range, and for more than 60 s together.
    """
    left_context: float = setting(10.0, "seconds before a frame that it attends to")
    look_ahead: float = setting(0.8, "seconds after a frame that it attends to")
    step: float = setting(0.2, "seconds of frames that are recognised together; a frame is given at most step + "
                          "look-ahead after it was spoken, and a shorter step takes more time")
    warm_up: float = setting(1.0, "seconds that must be heard before the first frame is given: normalisation begins "
                             "with their statistics")

    def __post_init__(self):
        for name in ("left_context", "look_ahead", "step", "warm_up"):
            seconds = getattr(self, name)
            require(0 <= seconds <= LONGEST, f"{name} must be 0 to {LONGEST:g} s, got {seconds}")
        require(self.step > 0, "step must be more than 0 s")
        span = self.left_context + max(self.step + self.look_ahead, self.warm_up)
        require(span <= LONGEST, f"left_context, step and look_ahead (or warm_up) must be at most {LONGEST:g} s "
                f"together, are {span:g}")


@dataclass(frozen=True)
class StreamedFrame:
    """One frame, and the emotion of all frames up to it."""
    start: float                                    # s, from the beginning of the sound
    posterior: np.ndarray                           # (classes,): of this frame, sum 1
    weight: float                                   # how much it counts; its attention is this over the sum of all
    emotion: str                                    # of all so far: the most probable class, or NONE
    probabilities: dict[str, float]                 # of each class, of all so far, sum 1
    reason: str = ""                                # in words, why the emotion is NONE
    kind: int | None = None                         # of `speech.KINDS`: whether it is speech; None: not asked


class Stream:
    """The frames of one sound, while it comes; iterate over it once. `Recogniser.stream` makes one."""

    def __init__(self, model: EmotionModel, sound: LiveSound, config: Streaming, gate: bool = False,
                 reject: float = 0.0):
        """model: in evaluation mode. gate, reject: as of a `Recogniser`."""
        self.model, self.sound, self.config, self.gate, self.reject = model, sound, config, gate, reject
        hubert = model.hubert
        self.framing, self.device = hubert.config.framing, hubert.masked_spec_embed.device
        self.left, self.look_ahead, self.step, self.warm_up = (
            round(seconds * self.framing.rate) for seconds in (config.left_context, config.look_ahead, config.step,
                                                               config.warm_up))
        self.step = max(1, self.step)
        self.gate_context = round(GATE_CONTEXT * self.framing.rate)
        first_layer = hubert.feature_extractor.conv_layers[0]
        self.group_norm = RunningGroupNorm(first_layer) if first_layer.norm == "group" else None
        self.statistics = Statistics()
        self.num_frames = 0                         # whose conv features are known
        self.features = torch.zeros(0, hubert.config.conv_dim[-1], device=self.device)      # (t, C): the last of them
        self.waveform = torch.zeros(0)              # as it was heard, from the next frame's first sample on
        self.gated = torch.zeros(0)                 # as it was heard, of the gate's window
        self.weights, self.logits = 0.0, np.zeros(len(model.labels))            # sums over all frames given
        self.kinds = np.zeros(len(speech.KINDS), int)                           # frames of each kind so far

    @property
    def seconds(self) -> float:
        """How much sound has come so far."""
        return self.sound.seconds

    def __iter__(self) -> Iterator[StreamedFrame]:
        """Each frame in order. Raises ValueError for a chunk that is no sound (`LiveSound`)."""
        first, stop = 0, max(self.step + self.look_ahead, self.warm_up)
        while True:
            self._hear(stop)
            has_ended = self.num_frames < stop
            last = self.num_frames if has_ended else stop - self.look_ahead
            if last > first:
                yield from self._recognised(Window(max(0, first - self.left), self.num_frames, first, last))
            if has_ended:
                return
            first, stop = last, stop + self.step

    @torch.inference_mode()
    def _hear(self, stop: int) -> None:
        """Take sound until frame `stop` - 1 is complete, and compute the conv features of the frames that are."""
        hubert, hop = self.model.hubert, self.framing.hop
        new = self.sound.until(num_samples_of(stop, self.framing))              # (n,)
        self.statistics.add(new)
        if self.group_norm:
            self.group_norm.add(new)
        if self.gate:
            self.gated = torch.cat([self.gated, new])
        self.waveform = torch.cat([self.waveform, new])
        if len(self.waveform) < self.framing.receptive_field:
            return

        samples, group_norm = self.waveform, None
        if hubert.do_normalize:
            samples = self.statistics.normalised(samples)
        if self.group_norm:
            group_norm = self.group_norm.scale_and_shift(self.statistics if hubert.do_normalize else None)
        features = hubert.feature_extractor(samples[None].to(self.device), None, group_norm)[0]     # (t, C)
        self.waveform = self.waveform[hop * len(features):]
        self.features = torch.cat([self.features, features])
        self.num_frames += len(features)

    @torch.inference_mode()
    def _recognised(self, window: Window) -> list[StreamedFrame]:
        """The used frames of a window that ends where the known conv features end."""
        temperatures, labels = self.model.calibration, self.model.labels
        self.features = self.features[len(self.features) - (window.stop - window.start):]       # (t, C)
        scores, logits, frame_logits = self.model.by_frame(self.features[None], window.used)
        posterior = (frame_logits / temperatures.frames).softmax(1).numpy()     # (t', classes)
        weights = scores.double().exp().numpy()                                 # (t',)
        weights_so_far = self.weights + weights.cumsum()
        logits_so_far = self.logits + (weights[:, None] * logits.double().numpy()).cumsum(0)
        shares = temperatures.probabilities(logits_so_far / weights_so_far[:, None])            # (t', classes)
        self.weights, self.logits = weights_so_far[-1], logits_so_far[-1]

        kinds = self._kinds(window) if self.gate else [None] * len(weights)
        frames = []
        for t, kind in enumerate(kinds):
            probabilities = dict(zip(labels, shares[t].tolist()))
            emotion, reason = calibration.answer(probabilities, self.reject)
            if kind is not None:
                self.kinds[kind] += 1
                no_speech = speech.reason_of(self.kinds)
                emotion, reason = (NONE, no_speech) if no_speech else (emotion, reason)
            start = (window.first + t) * self.framing.hop / SAMPLE_RATE
            frames.append(StreamedFrame(start, posterior[t], float(weights[t]), emotion, probabilities, reason, kind))
        return frames

    def _kinds(self, window: Window) -> list[int]:
        """Of `speech.KINDS`, what the used frames of a window are."""
        given = self.sound.given                    # samples
        start = max(0, window.first - self.gate_context)                        # frame
        self.gated = self.gated[max(0, len(self.gated) - (given - self.framing.hop * start)):]
        return speech.kinds(self.gated, self.framing)[window.first - start:window.last - start].tolist()


class RunningGroupNorm:
    """Scale and shift of a first convolution's group norm, as of all sound so far."""

    def __init__(self, layer: ConvLayer):
        self.layer = layer
        self.sums = None                            # `ConvLayer.input_sums` of the windows so far, of the raw waveform
        self.rest = torch.zeros(0)                  # from the next window's first sample on

    def add(self, samples: Tensor) -> None:
        """Samples (n,) that follow."""
        (kernel,), (stride,) = self.layer.conv.kernel_size, self.layer.conv.stride
        self.rest = torch.cat([self.rest, samples])
        if len(self.rest) < kernel:
            return
        sums = self.layer.input_sums(self.rest[None, None])
        self.sums = sums if self.sums is None else tuple(x + y for x, y in zip(self.sums, sums))
        self.rest = self.rest[stride * ((len(self.rest) - kernel) // stride + 1):]

    def scale_and_shift(self, statistics: Statistics | None) -> tuple[Tensor, Tensor]:
        """Scale and shift (1, C, 1) for samples that are normalised with these statistics; None: for raw ones.

        With x' = (x - m) / s, the sums over windows of x' follow from those of x.
        """
        counts, sums, products = self.sums
        if statistics is not None:
            mean, deviation = statistics.mean, statistics.deviation
            products = (products - mean * (sums + sums.transpose(1, 2)) + counts * mean ** 2) / deviation ** 2
            sums = (sums - counts * mean) / deviation
        return tuple(x.to(self.layer.conv.weight) for x in self.layer.scale_and_shift(counts, sums, products))
