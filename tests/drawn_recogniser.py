"""A recogniser whose answers are drawn by the content of a sound, and a labelled corpus of noise to test it on."""
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
from torch import Tensor

from framealign.corpus.utterance import Utterance
from framealign.emotion.recogniser import Result

LABELS = ("neutral", "happy", "angry", "sad")


class DrawnRecogniser:
    """In place of `Recogniser`: its directory has `labels.txt`, its classes, and `seed.txt`, what answers depend on."""

    def __init__(self, directory: Path):
        self.directory = Path(directory)
        self.labels = (self.directory / "labels.txt").read_text().split()

    @classmethod
    def from_pretrained(cls, directory: Path, device: str) -> "DrawnRecogniser":
        return cls(directory)

    def probabilities(self, sound: Path | Tensor) -> np.ndarray:
        """(C,) of one sound, a file or a waveform."""
        content = sound.numpy().tobytes() if isinstance(sound, Tensor) else Path(sound).read_bytes()
        digest = hashlib.sha256((self.directory / "seed.txt").read_bytes() + content).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little")).dirichlet(np.ones(len(self.labels)))

    def recognise_each(self, sounds: Iterable[Path | Tensor]) -> Iterator[tuple[Path | Tensor, Result | Exception]]:
        for sound in sounds:
            if isinstance(sound, Path) and "blank" in sound.stem:
                yield sound, ValueError(f"{sound}: all samples are equal, nothing to hear")
                continue
            shares = dict(zip(self.labels, self.probabilities(sound).tolist()))
            frames = np.tile(list(shares.values()), (5, 1))
            yield sound, Result(max(shares, key=shares.get), shares, frames, np.full(5, 0.2), seconds=0.1)


def directory(folder: Path, name: str = "drawn", labels: Sequence[str] = LABELS, seed: str = "") -> Path:
    """Such a recogniser's directory."""
    place = folder / name
    place.mkdir(parents=True)
    (place / "labels.txt").write_text(" ".join(labels))
    (place / "seed.txt").write_text(seed)
    (place / "config.json").write_text("{}")
    return place


def corpus(folder: Path, labels: Sequence[str] = LABELS, speakers: int = 6, each: int = 3, seed: int = 0
           ) -> list[Utterance]:
    """Noise of 0.1 s: `each` utterances of every label by every speaker, women and men by turns."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, utterances = np.random.default_rng(seed), []
    for speaker in range(speakers):
        for label in labels:
            for number in range(each):
                name = f"s{speaker}-{label}-{number}"
                soundfile.write(folder / f"{name}.wav", draw.normal(0, 0.1, 1600), 16_000)
                utterances.append(Utterance(name, folder / f"{name}.wav", 1600, str(speaker % 3), f"s{speaker}",
                                            "FM"[speaker % 2], label))
    return utterances
