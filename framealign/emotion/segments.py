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
UNDECIDED = 500                                     # frames of a stream that may wait for what follows


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
        previous[t], total = extended(total, posterior[t], cost)

    path = np.empty(T, np.int64)
    path[-1] = total.argmax()
    for t in range(T - 1, 0, -1):
        path[t - 1] = previous[t, path[t]]
    return path


def extended(total: np.ndarray, posterior: np.ndarray, cost: float) -> tuple[np.ndarray, np.ndarray]:
    """One step of Viterbi's algorithm: the sums of the best paths to each class (C,), and the next frame's posterior
    (C,): from which class the best path to each class comes, (C,), and its sum, (C,).
    """
    best = int(total.argmax())
    changes = total[best] - cost > total            # (C,)
    return np.where(changes, best, np.arange(len(total))), np.where(changes, total[best] - cost, total) + posterior


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


class SegmentsSoFar:
    """Segments of a sound that has not ended, each as soon as it is certain: no frame that follows can change it.

    They are those that `segments` gives of the same frames. A frame's class is certain where the best paths to all
    classes go through it; of a stretch in which that does not happen for `UNDECIDED` frames, as where all classes are
    equally probable, the first frame is that of the best path. The state has a fixed size.
    """

    def __init__(self, labels: list[str], rate: float, min_seconds: float = MIN_SECONDS):
        """rate: frames per second. Raises ValueError for a negative `min_seconds`."""
        check_smoothing(min_seconds)
        self.labels, self.rate, self.cost = labels, rate, min_seconds * rate
        self.total = None                           # (C,): sum of the best path to each class; None: between stretches
        self.paths = np.empty((len(labels), 0), int)                            # (C, n): to each class, undecided
        self.waiting: list[tuple[np.ndarray, float]] = []                       # posterior and weight of those frames
        self.start, self.stop, self.label = 0, 0, None                          # of the segment that grows: frames
        self.confidences, self.weight, self.weights = 0.0, 0.0, 0.0             # sums over it, and over all frames

    def add(self, posterior: np.ndarray, weight: float, kind: int | None = None) -> list[Segment]:
        """The next frame: its posterior (C,), how much it counts, what it is of `speech.KINDS` (None: not asked). Gives
        the segments that are certain now; their attention is the share of all frames so far.
        """
        posterior, segments = np.asarray(posterior, np.float64), []
        self.weights += weight
        if kind not in (None, speech.SPEECH):
            segments = self._decide(self.paths.shape[1])
            self.total, self.paths = None, self.paths[:, :0]
            return segments + self._grow(-kind, posterior, weight)
        classes = np.arange(len(self.labels))
        if self.total is None:
            self.total = posterior
        else:
            previous, self.total = extended(self.total, posterior, self.cost)
            self.paths = self.paths[previous]
        self.paths = np.concatenate([self.paths, classes[:, None]], 1)
        self.waiting.append((posterior, weight))
        is_open = (self.paths != self.paths[:1]).any(0)                         # (n,): not on all paths the same
        certain = max(int(is_open.argmax()), self.paths.shape[1] - UNDECIDED)
        return self._decide(certain) if certain else []

    def end(self, seconds: float) -> list[Segment]:
        """The sound has ended, and is this long: the segments that are left."""
        segments = self._decide(self.paths.shape[1])
        return segments if self.label is None else [*segments, self._segment(max(seconds, self.stop / self.rate))]

    def _decide(self, number: int) -> list[Segment]:
        """The first `number` frames that wait are as on the best path."""
        if not number:
            return []
        path = self.paths[int(self.total.argmax()), :number].tolist()
        segments = [one for label, (posterior, weight) in zip(path, self.waiting)
                    for one in self._grow(label, posterior, weight)]
        self.paths, self.waiting = self.paths[:, number:], self.waiting[number:]
        return segments

    def _grow(self, label: int, posterior: np.ndarray, weight: float) -> list[Segment]:
        """A frame that is decided: a class, or minus its kind. Gives the segment that ends before it, if one does."""
        segments = []
        if label != self.label:
            if self.label is not None:
                segments = [self._segment(self.stop / self.rate)]
            self.start, self.label, self.confidences, self.weight = self.stop, label, 0.0, 0.0
        self.stop += 1
        self.weight += weight
        self.confidences += float(posterior[label]) if label >= 0 else 0.0
        return segments

    def _segment(self, end: float) -> Segment:
        """The segment that grows, up to `end` seconds."""
        start, attention = self.start / self.rate, self.weight / self.weights
        if self.label < 0:
            return Segment(start, end, NONE, 0.0, attention, speech.KINDS[-self.label])
        return Segment(start, end, self.labels[self.label], self.confidences / (self.stop - self.start), attention)
