"""A trained recogniser on new sound: the emotion, its probabilities, and both over time (50 frames a second)."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from framealign import audio, distributed
from framealign.finetune import EmotionModel
from framealign.frames import RECEPTIVE_FIELD


@dataclass(frozen=True)
class Result:
    """What was heard in one utterance of T frames; frame t covers samples [320 t, 320 t + 400) at 16 kHz."""
    emotion: str                                    # the most probable class
    probabilities: dict[str, float]                 # of each class, sum 1
    posterior: np.ndarray                           # (T, classes): the classifier applied to single frames
    attention: np.ndarray                           # (T,): how much each frame counted, sum 1


class Recogniser:
    """`Recogniser.from_pretrained(directory)("a.wav")`, or with a (N,) waveform at 16 kHz as a sound file holds it."""

    def __init__(self, model: EmotionModel, device: torch.device | str = "cpu"):
        self.model, self.device = model.eval().to(device), torch.device(device)

    @classmethod
    def from_pretrained(cls, directory: str | Path, device: str = "cpu") -> "Recogniser":
        """Read a recogniser's directory. Raises ValueError for a directory without one."""
        return cls(EmotionModel.from_pretrained(directory), distributed.choose_device(device))

    @property
    def labels(self) -> list[str]:
        return self.model.labels

    def __call__(self, sound: str | Path | Tensor | np.ndarray) -> Result:
        """Recognise one sound file or waveform. Raises ValueError as `audio.load`, or below 400 samples."""
        return self.batch([sound])[0]

    def batch(self, sounds: list) -> list[Result]:
        """Recognise several at once; padding never changes a result."""
        if not sounds:
            return []
        waveforms = [self._prepare(sound) for sound in sounds]
        inputs = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(self.device)
        lengths = torch.tensor([len(x) for x in waveforms], device=self.device)
        probabilities, attention, posterior = (x.cpu().numpy() for x in self.model.over_time(inputs, lengths))
        counts = self.model.hubert.num_frames(lengths).tolist()
        return [Result(self.labels[int(p.argmax())], dict(zip(self.labels, p.tolist())), y[:T], a[:T])
                for p, a, y, T in zip(probabilities, attention, posterior, counts)]

    def _prepare(self, sound: str | Path | Tensor | np.ndarray) -> Tensor:
        """A file's or a given waveform as the encoder hears it, (N,) float32; ValueError for what is no speech."""
        waveform = audio.load(sound) if isinstance(sound, (str, Path)) else torch.as_tensor(sound)
        if not waveform.is_floating_point():
            raise ValueError(f"a waveform must hold floats in -1..1, holds {waveform.dtype}: divide by the full scale")
        waveform = waveform.float()
        if waveform.ndim != 1 or len(waveform) < RECEPTIVE_FIELD:
            raise ValueError(f"a waveform must be (N,), N >= {RECEPTIVE_FIELD} samples at 16 kHz, got "
                             f"{tuple(waveform.shape)}")
        if not torch.isfinite(waveform).all():
            raise ValueError("a waveform must be finite, it holds NaN or infinite samples")
        if waveform.min() == waveform.max():
            raise ValueError("all samples of a waveform are equal, nothing to hear")
        return audio.preprocess(waveform, self.model.hubert.do_normalize)
