"""Frame-wise posterior -> segments: when each emotion begins and ends, smoothed with one number in seconds.

The labelling of the frames with the largest sum of posteriors is taken, where each change of label costs `min_seconds`
of certainty: a Potts model, solved exactly by dynamic programming (Viterbi 1967). A segment gains at most its own
length and costs at least one change, so none is shorter than `min_seconds`. Where it is known which frames are speech,
each stretch of it is labelled by itself, and what lies between has no emotion.
"""
from dataclasses import dataclass

import numpy as np

from framealign.sound import speech
from framealign.corpus.utterance import NONE
from framealign.emotion.recogniser import Result

MIN_SECONDS = 0.1                                   # that no segment is shorter than, unless `--smooth` says otherwise;
                                                    # the least EDER of segments on validation data (BENCHMARKS.md)


@dataclass(frozen=True)
class Segment:
    """One emotion, or NONE, from `start` to `end`, in seconds from the beginning of the sound."""
    start: float
    end: float
    emotion: str
    confidence: float                               # mean posterior of the emotion over the frames; of NONE 0
    attention: float                                # share of the utterance's attention on these frames
    reason: str = ""                                # what is heard where there is no speech: of `speech.KINDS`


def smoothed(posterior: np.ndarray, cost: float) -> np.ndarray:
    """The class of each frame, (T,) int64, that maximises sum of posterior[t, class] - cost x changes.

    posterior (T, C), T >= 1; cost >= 0 in frames of certainty; with 0 the most probable class of each frame. At a tie
    the earlier class stays.
    """
    posterior = np.asarray(posterior, np.float64)
    T, C = posterior.shape
    previous = np.tile(np.arange(C), (T, 1))        # (T, C): class of frame t - 1 on the best path to each class of t
    total = posterior[0]                            # (C,): sum of the best path to each class
    for t in range(1, T):
        best = int(total.argmax())
        changes = total[best] - cost > total                                    # (C,)
        previous[t, changes] = best
        total = np.where(changes, total[best] - cost, total) + posterior[t]

    path = np.empty(T, np.int64)
    path[-1] = total.argmax()
    for t in range(T - 1, 0, -1):
        path[t - 1] = previous[t, path[t]]
    return path


def runs(values: np.ndarray) -> list[tuple[int, int, int]]:
    """Runs of equal values in a sequence of whole numbers (T,), in order: (start, stop, value), frames [start, stop).
    """
    values = np.asarray(values)
    if not len(values):
        return []
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1                     # where a new value begins
    edges = [0, *changes.tolist(), len(values)]
    return [(start, stop, int(values[start])) for start, stop in zip(edges, edges[1:])]


def check_smoothing(min_seconds: float) -> None:
    """Raise ValueError for a shortest segment that is below 0 s, or no number."""
    if not 0 <= min_seconds < np.inf:
        raise ValueError(f"--smooth must be 0 or more seconds, got {min_seconds}")


def segments(result: Result, min_seconds: float = MIN_SECONDS) -> list[Segment]:
    """Segments of a recognised utterance, in order, without gaps: frame t counts as [t / 50, (t + 1) / 50) s, 50 being
    the frames per second of the recogniser.

    The last one ends where the sound does. Raises ValueError for a negative `min_seconds`.
    """
    check_smoothing(min_seconds)
    labels, num_frames, rate = list(result.probabilities), len(result.attention), result.framing.rate
    kinds = np.zeros(num_frames, int) if result.kinds is None else result.kinds
    path = np.empty(num_frames, int)                # a class, or minus the kind of a frame without speech
    for start, stop, kind in runs(kinds):
        is_speech = kind == speech.SPEECH
        path[start:stop] = smoothed(result.posterior[start:stop], min_seconds * rate) if is_speech else -kind

    segments = []
    for start, stop, label in runs(path):
        end = stop / rate
        if stop == num_frames:
            end = max(result.seconds, end)
        attention = float(result.attention[start:stop].sum())
        if label < 0:
            segments.append(Segment(start / rate, end, NONE, 0.0, attention, speech.KINDS[-label]))
        else:
            confidence = float(result.posterior[start:stop, label].mean())
            segments.append(Segment(start / rate, end, labels[label], confidence, attention))
    return segments
