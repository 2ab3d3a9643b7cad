"""Sound whose every sample says where it is, so that a test can read off what a crop or a frame was cut from."""
from pathlib import Path

import numpy as np
import soundfile
from torch import Tensor

from framealign.corpus.cropping import Crop
from framealign.corpus.utterance import Utterance

LENGTHS = (16_000, 400, 719, 720, 48_123, 9_999, 30_000, 22_222, 3_999, 25_000)


def write(folder: Path) -> list[Utterance]:
    """Utterances whose samples say in which hop of 320 samples they lie, and of which utterance: 1000 u + n // 320."""
    for u, length in enumerate(LENGTHS):
        soundfile.write(folder / f"{u}.wav", (1000 * u + np.arange(length) // 320).astype(np.int16), 16_000, "PCM_16")
    return [Utterance(f"utterance{u}", folder / f"{u}.wav", length) for u, length in enumerate(LENGTHS)]


def marks(samples: Tensor) -> Tensor:
    """What these samples say."""
    return (samples * 2 ** 15).round().long()


def first_and_last_sample(waveforms: list[Tensor]) -> list[Tensor]:
    """Frames (T, 2) of 400 samples every 320: the first hop's last sample, and the sample after it, as marks."""
    return [marks(x.unfold(0, 400, 320)[:, [319, 320]]).float() for x in waveforms]


def crops_of(counts: Tensor, number: int = 200, seed: int = 0) -> list[Crop]:
    draw = np.random.default_rng(seed)
    crops = []
    for u in draw.integers(len(counts), size=number).tolist():
        frames = int(draw.integers(1, counts[u] + 1))
        crops.append(Crop(u, int(draw.integers(counts[u] - frames + 1)), frames))
    return crops
