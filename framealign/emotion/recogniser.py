"""A trained recogniser on new sound: the emotion, its probabilities, and both over time (of base 50 frames a second).

Sound of up to a minute is recognised whole, longer sound in overlapping windows (`long_sound.py`): hours of it need
memory for a few copies of their waveform, not for states. Both use the same formula: because the classifier is linear,
the utterance's logits are the mean of the frames' logits, weighted by the attention.
"""
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from framealign.runtime import distributed, log
from framealign.sound import audio, speech
from framealign.sound.frames import EVERY_20_MS, SAMPLE_RATE, Framing, milliseconds
from framealign.sound.live_sound import LiveSound
from framealign.corpus.cropping import groups_by_length, padded
from framealign.corpus.utterance import NONE
from framealign.hubert import long_sound
from framealign.hubert.model import Hubert
from framealign.units.codebook import Codebook
from framealign.units.extraction import source_of_states
from framealign.emotion import calibration
from framealign.emotion.emotion_model import EmotionModel, weighted_mean
from framealign.emotion.streaming import Stream, Streaming

INSTALLED = Path(__file__).parents[1] / "voices" / "recogniser"       # comes along: its README.md says what it can
UNSHIFTED = 8.0                                     # sounds without a shift that are counted among those of a source
BATCH_SECONDS = 60.0                                # of one padded batch on a GPU; a CPU takes one sound at a time
WAITING_BATCHES = 8                                 # of sound that are read before they are sorted by length


@dataclass(frozen=True)
class Result:
    """What was recognised in one utterance of T frames, which lie as `framing` says.

    Raises ValueError where `emotion` is `NONE` without a reason, or has one and is a class.
    """
    emotion: str                                    # the most probable class; or NONE: no emotion was recognised
    probabilities: dict[str, float]                 # of each class, sum 1
    posterior: np.ndarray                           # (T, classes): of single frames
    attention: np.ndarray                           # (T,): how much each frame counted, sum 1
    units: np.ndarray | None = None                 # (T,) int64: nearest centroids, where a codebook was given
    seconds: float = 0.0                            # of sound
    framing: Framing = EVERY_20_MS                  # of the recogniser's encoder
    frames_trained: bool = False                    # the posterior is that of a classifier trained on frames
    window_seconds: float = 0.0                     # of the windows that it is of; 0: it is of single frames
    reason: str = ""                                # in words, why the emotion is NONE; the numbers are as computed
    kinds: np.ndarray | None = None                 # (T,) of `speech.KINDS`: where there is speech; None: not asked

    def __post_init__(self):
        if (self.emotion == NONE) != bool(self.reason):
            raise ValueError(f"a result whose emotion is {NONE}, and only such a one, must have a reason, got "
                             f"{self.emotion!r} and {self.reason!r}")


def installed() -> Path:
    """The directory of the recogniser that comes along; a line says, once, that it is taken.

    Raises ValueError where an installation lacks it.
    """
    if not (INSTALLED / "config.json").is_file():
        raise ValueError(f"no recogniser is named, and {INSTALLED}, where one comes along, has none: name a "
                         "recogniser's directory, or install framealign whole")
    log.say_once(f"no recogniser is named: {INSTALLED} is taken, which knows acted speech; its README.md says what it "
                 "can and where it fails")
    return INSTALLED


def centred(results: Sequence[Result], reject: float = 0.0) -> list[Result]:
    """Results of sounds of one source, less what shifts all of them alike (`calibration.centred`): a microphone, a
    language or a voice that the recogniser never heard, which may make every sound seem sad.

    The sounds should express several emotions, none of them most of the time; of few sounds less is taken off. One
    without speech stays as it is and counts for nothing, and the emotion over time stays in all. reject: as of
    `Recogniser`. Raises ValueError for results of other classes than the first has.
    """
    changed, labels = list(results), list(results[0].probabilities) if results else []
    if any(list(result.probabilities) != labels for result in results):
        raise ValueError("results of recognisers with several classes cannot be centred together")
    spoken = [i for i, result in enumerate(results) if result.kinds is None or not speech.reason(result.kinds)]
    if spoken:
        probabilities = np.array([list(results[i].probabilities.values()) for i in spoken])                 # (n, C)
        for i, shares in zip(spoken, calibration.centred(probabilities, UNSHIFTED).tolist()):
            by_class = dict(zip(labels, shares))
            emotion, reason = calibration.answer(by_class, reject)
            changed[i] = replace(results[i], emotion=emotion, probabilities=by_class, reason=reason)
    return changed


class UnitExtractor:
    """Sound -> units: states of one layer of an encoder, nearest centroid of a codebook fitted on such states."""

    def __init__(self, hubert: Hubert, codebook: Codebook, layer: int | None = None):
        """layer: None for the one that the codebook's record names. Raises ValueError where these do not fit."""
        layer = codebook.record.get("layer") if layer is None else layer
        if not isinstance(layer, int) or not 0 <= layer <= hubert.config.num_hidden_layers:
            raise ValueError(f"--layer must say whose states the codebook was fitted on, 0 to "
                             f"{hubert.config.num_hidden_layers}, got {layer}")
        if codebook.centroids.shape[1] != hubert.config.hidden_size:
            raise ValueError(f"a codebook of {codebook.centroids.shape[1]} dimensions cannot label states of "
                             f"{hubert.config.hidden_size}; give the model that it was fitted on")
        codebook.check_source(source_of_states(hubert, layer), "give the model and the layer that it was fitted on "
                              "(--codebook-model, --layer)")
        self.hubert, self.codebook, self.layer = hubert, codebook, layer

    @torch.inference_mode()
    def __call__(self, waveform: Tensor, device: torch.device) -> np.ndarray:
        """Units of a waveform as the file holds it, (N,) float32 at 16 kHz: (T,) int64."""
        waveform = audio.preprocess(waveform, self.hubert.do_normalize)
        pieces = long_sound.states(self.hubert.to(device), waveform, self.layer, device)
        return torch.cat([self.codebook.assign(piece.float()).cpu() for piece in pieces]).numpy()


class Recogniser:
    """`Recogniser.from_pretrained(directory)("a.wav")`, or with a (N,) waveform at 16 kHz as a sound file holds it."""

    def __init__(self, model: EmotionModel, device: torch.device | str = "cpu", units: UnitExtractor | None = None,
                 gate: bool = False, reject: float = 0.0):
        """gate: also hear where there is speech (`sound/speech.py`); the emotion of sound without any is NONE.
        reject: it is also NONE where the most probable class has a lower probability; `model.calibration.threshold`
        gives the one for a rate of errors.

        Raises ValueError for units of another number of frames than the model's, and for no probability.
        """
        if not 0 <= reject <= 1:
            raise ValueError(f"a confidence below which answers are rejected must be from 0 to 1, got {reject}")
        framing = model.hubert.config.framing
        if units is not None and units.hubert.config.framing != framing:
            raise ValueError(f"the codebook's model has {units.hubert.config.framing}, the recogniser {framing}: its "
                             "units would belong to other frames")
        self.model, self.device = model.eval().to(device), torch.device(device)
        self.units, self.gate, self.reject = units, gate, reject

    @classmethod
    def from_pretrained(cls, directory: str | Path = "", device: str = "cpu", units: UnitExtractor | None = None,
                        gate: bool = False, reject: float = 0.0) -> "Recogniser":
        """Read a recogniser's directory; "": of the one that comes along, and say so. Raises ValueError for a directory
        without one, and where none came along.
        """
        model = EmotionModel.from_pretrained(directory or installed())
        return cls(model, distributed.choose_device(device), units, gate, reject)

    @property
    def labels(self) -> list[str]:
        return self.model.labels

    def __call__(self, sound: str | Path | Tensor | np.ndarray) -> Result:
        """Recognise one sound file or waveform. Raises ValueError as `audio.load`, or below 400 samples."""
        return self.batch([sound])[0]

    def stream(self, chunks: Iterable[np.ndarray | Tensor], rate: int, config: Streaming = Streaming()) -> Stream:
        """Recognise sound that has not ended: iterate over it for a `StreamedFrame` each 20 ms (of base), as each
        becomes certain.

        chunks: of any lengths, (N,) or (N, channels), floats in -1..1 or int16, at `rate` samples a second. The state
        has a fixed size however long the sound is. Units are not given. Raises ValueError for another rate than speech
        has, and while it is iterated over, for what is no sound.
        """
        return Stream(self.model, LiveSound(chunks, rate), config, gate=self.gate, reject=self.reject)

    def batch(self, sounds: list) -> list[Result]:
        """Recognise several in one padded batch; padding never changes a result."""
        waveforms = [self._waveform(sound) for sound in sounds]
        return self._recognise(waveforms, len(waveforms) * max(map(len, waveforms), default=0))

    def recognise_each(self, sounds: Iterable, batch_seconds: float | None = None
                       ) -> Iterator[tuple[object, Result | Exception]]:
        """Each sound with its result, in order, or with the error that it alone caused.

        batch_seconds: of sound in one padded batch, padding included; 0: one by one, which is faster on a CPU and what
        None means there. Memory holds `WAITING_BATCHES` batches at most, or one longer sound.
        """
        if batch_seconds is None:
            batch_seconds = 0.0 if self.device.type == "cpu" else BATCH_SECONDS
        batch_samples = round(batch_seconds * SAMPLE_RATE)
        waiting, waiting_samples = [], 0
        for sound in sounds:
            try:
                waveform = self._waveform(sound)
                waiting.append((sound, waveform))
                waiting_samples += len(waveform)
            except (ValueError, OSError) as error:
                waiting.append((sound, error))
            if waiting_samples >= WAITING_BATCHES * batch_samples:
                yield from self._results(waiting, batch_samples)
                waiting, waiting_samples = [], 0
        yield from self._results(waiting, batch_samples)

    def _results(self, waiting: list[tuple[object, Tensor | Exception]], batch_samples: int
                 ) -> Iterator[tuple[object, Result | Exception]]:
        """Each sound that was read with its result, each other with its error, in order."""
        waveforms = [content for _, content in waiting if isinstance(content, Tensor)]
        results = iter(self._recognise(waveforms, batch_samples))
        for sound, content in waiting:
            yield sound, next(results) if isinstance(content, Tensor) else content

    @torch.inference_mode()
    def _recognise(self, waveforms: list[Tensor], batch_samples: int) -> list[Result]:
        """Results of waveforms (N,) as they are in the file, in order; batch_samples: of one padded batch."""
        lengths = [len(waveform) for waveform in waveforms]
        num_frames = [self.model.hubert.num_frames(length) for length in lengths]
        short = [i for i, T in enumerate(num_frames) if T <= long_sound.WHOLE]
        results: dict[int, Result] = {}
        for group in groups_by_length(lengths, short, batch_samples):
            inputs, num_samples = padded([self._preprocessed(waveforms[i]) for i in group])
            outputs = [x.cpu() for x in self.model.over_time(inputs.to(self.device), num_samples)]
            for i, probabilities, attention, posterior in zip(group, *outputs):
                T = num_frames[i]
                results[i] = self._result(probabilities, attention[:T], posterior[:T])
        for i, waveform in enumerate(waveforms):
            if i not in results:
                results[i] = self._result(*self._by_windows(self._preprocessed(waveform)))

        in_order = []
        for i, waveform in enumerate(waveforms):
            units = self.units(waveform, self.device) if self.units else None
            result = replace(results[i], seconds=len(waveform) / SAMPLE_RATE, units=units)
            in_order.append(self._gated(result, waveform) if self.gate else result)
        return in_order

    def _gated(self, result: Result, waveform: Tensor) -> Result:
        """A result that knows where its waveform (N,) has speech; its emotion is NONE where there is none."""
        kinds = speech.kinds(waveform, result.framing)                          # (T,)
        reason = speech.reason(kinds)
        if not reason:
            return replace(result, kinds=kinds)
        return replace(result, kinds=kinds, emotion=NONE, reason=reason)

    def _by_windows(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `EmotionModel.over_time` for one long preprocessed waveform (N,); softmax over frames in float64."""
        windows = [self.model.by_frame(features, used)
                   for used, features in long_sound.features(self.model.hubert, waveform, self.device)]
        scores, logits, frame_logits = (torch.cat(parts) for parts in zip(*windows))
        attention = scores.double().softmax(0)                                  # (T,)
        pooled = weighted_mean(logits.double()[None], attention[None])[0]       # (classes,)
        temperatures = self.model.calibration
        probabilities = (pooled / temperatures.utterances).softmax(0).float()
        return probabilities, attention.float(), (frame_logits / temperatures.frames).softmax(1)

    def _result(self, probabilities: Tensor, attention: Tensor, posterior: Tensor) -> Result:
        by_class = dict(zip(self.labels, probabilities.tolist()))
        emotion, reason = calibration.answer(by_class, self.reject)
        return Result(emotion, by_class, posterior.numpy(), attention.numpy(), reason=reason,
                      framing=self.model.hubert.config.framing, frames_trained=self.model.frames is not None,
                      window_seconds=self.model.window_seconds)

    def _preprocessed(self, waveform: Tensor) -> Tensor:
        return audio.preprocess(waveform, self.model.hubert.do_normalize)

    def _waveform(self, sound: str | Path | Tensor | np.ndarray) -> Tensor:
        """A file's or a given waveform, (N,) float32, as it is; ValueError for what is no speech."""
        least = self.model.hubert.config.framing.receptive_field
        if isinstance(sound, (str, Path)):
            waveform = audio.load(sound)            # checks all that follows
            if len(waveform) < least:
                raise ValueError(f"{sound}: {len(waveform)} samples at 16 kHz, must be >= {least} "
                                 f"({milliseconds(least)}), one frame of this model; leave it out")
            return waveform
        waveform = torch.as_tensor(sound)
        if not waveform.is_floating_point():
            raise ValueError(f"a waveform must hold floats in -1..1, holds {waveform.dtype}: divide by the full scale")
        waveform = waveform.float()
        if waveform.ndim != 1 or len(waveform) < least:
            raise ValueError(f"a waveform must be (N,), N >= {least} samples at 16 kHz, got {tuple(waveform.shape)}")
        if not torch.isfinite(waveform).all():
            raise ValueError("a waveform must be finite, it holds NaN or infinite samples")
        if waveform.min() == waveform.max():
            raise ValueError("all samples of a waveform are equal, nothing to hear")
        return waveform
