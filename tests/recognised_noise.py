"""Noise, and what a recogniser might have said of it: random numbers, frame by frame."""
import numpy as np

from framealign.emotion.recogniser import Result

LABELS = ["neutral", "happy", "angry", "sad"]


def recognised(num_frames: int, labels=LABELS, seed: int = 0) -> Result:
    """A result with random numbers."""
    draw = np.random.default_rng(seed)
    posterior = draw.dirichlet(np.ones(len(labels)), num_frames)
    shares = posterior.mean(0)
    return Result(labels[int(shares.argmax())], dict(zip(labels, shares.tolist())), posterior,
                  draw.dirichlet(np.ones(num_frames)))


def noise(num_frames: int, extra: int = 0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, 320 * num_frames + 80 + extra).astype(np.float32)
