"""Frame-wise posterior -> segments: when each emotion begins and ends, smoothed with one number in seconds.

Of all ways to name every frame, the one is taken that collects most probability, where each change from one name to the
next costs `min_seconds` of certainty (a Potts model, solved exactly by Viterbi 1967). What a segment could add is at
most its own length, and without it at least one change less is paid: so none is shorter than `min_seconds`.
"""
from dataclasses import dataclass

import numpy as np

from framealign.sound.frames import FRAME_RATE


@dataclass(frozen=True)
class Segment:
    """One emotion from `start` to `end`, in seconds from the beginning of the sound."""
    start: float
    end: float
    emotion: str
    confidence: float                               # mean posterior of the emotion over the segment's frames
    attention: float                                # share of the utterance's attention on these frames


def smoothed(posterior: np.ndarray, cost: float) -> np.ndarray:
    """The class of each frame, (T,) int64, that maximises sum of posterior[t, class] - cost x changes.

    posterior (T, C), T >= 1; cost >= 0 in frames of certainty; with 0 the most probable class of each frame. At a tie
    the earlier class stays.
    """
    posterior = np.asarray(posterior, np.float64)
    T, C = posterior.shape
    came = np.tile(np.arange(C), (T, 1))            # (T, C): class of frame t - 1 on the best way to each of frame t
    total = posterior[0]
    for t in range(1, T):
        best = int(total.argmax())
        changes = total[best] - cost > total                                    # (C,)
        came[t, changes] = best
        total = np.where(changes, total[best] - cost, total) + posterior[t]
    path = np.empty(T, np.int64)
    path[-1] = total.argmax()
    for t in range(T - 1, 0, -1):
        path[t - 1] = came[t, path[t]]
    return path


def runs(path: np.ndarray) -> list[tuple[int, int, int]]:
    """Stretches of equal values of a sequence (T,): (first, end, value) each, frames [first, end)."""
    path = np.asarray(path)
    edges = [0, *(np.flatnonzero(path[1:] != path[:-1]) + 1).tolist(), len(path)]
    return [(first, end, int(path[first])) for first, end in zip(edges, edges[1:]) if first < end]


def segments(result, min_seconds: float = 0.25) -> list[Segment]:
    """Segments of a `recognise.Result`, in order, without gaps: frame t counts as [t / 50, (t + 1) / 50) s.

    The last one ends where the sound does. Raises ValueError for a negative `min_seconds`.
    """
    if not 0 <= min_seconds < np.inf:
        raise ValueError(f"--smooth must be 0 or more seconds, got {min_seconds}")
    labels, T = list(result.probabilities), len(result.attention)
    found = []
    for first, end, index in runs(smoothed(result.posterior, min_seconds * FRAME_RATE)):
        until = max(result.seconds, end / FRAME_RATE) if end == T else end / FRAME_RATE
        found.append(Segment(first / FRAME_RATE, until, labels[index], float(result.posterior[first:end, index].mean()),
                             float(result.attention[first:end].sum())))
    return found
