"""Which emotion when, against the truth: the emotion diarization error rate and what it is made of.

EDER is the share of an utterance's time that is labelled wrongly: (false alarm + missed + confused) / duration, with
no collar, all time outside emotional stretches counted as neutral, and the plain mean over utterances. Wang, Ravanelli
and Yacoubi 2023; computed as in SpeechBrain's `EDER`. Beside it stand the rates of a recogniser that always
says neutral and of one that gives the whole utterance its own label: below both, the time line tells something.
"""
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from framealign.corpus import frame_truth
from framealign.corpus.utterance import NEUTRAL, Stretch, Utterance, class_of
from framealign.emotion import metrics
from framealign.emotion.recogniser import Result
from framealign.emotion.segments import MIN_SECONDS, segments

BOUNDARY_SECONDS = 0.2                              # how far a boundary that is found may lie from the true one


class Labelled(Protocol):
    """What has an emotion from a start to an end: a `Stretch`, or a recognised `segments.Segment`."""
    start: float
    end: float
    emotion: str


@dataclass(frozen=True)
class Errors:
    """Seconds of an utterance that are labelled wrongly, by kind, and its duration."""
    false_alarm: float                              # an emotion where the truth is neutral
    missed: float                                   # neutral, or nothing, where the truth is something else
    confused: float                                 # another emotion than the true one
    duration: float

    @property
    def rates(self) -> tuple[float, float, float, float]:
        """EDER and its three parts, as shares of the duration."""
        parts = (self.false_alarm / self.duration, self.missed / self.duration, self.confused / self.duration)
        return sum(parts), *parts


def scores(recognised: Sequence[tuple[Utterance, Result]], min_seconds: float = MIN_SECONDS) -> dict:
    """How well the emotion over time was recognised in utterances whose truth is written beside them.

    Means over utterances: "eder" of the most probable class of each frame, with its parts "false_alarm", "missed" and
    "confused"; "segment_eder" of segments of at least `min_seconds`; the rates "always_neutral" and "label_everywhere".
    Over utterances that have both kinds of frames, the AUC of emotional frames against the others: "emotional_auc" by
    1 - p(neutral), "class_auc" by p(the utterance's class). "boundary_f1": of the segments' boundaries, pooled, within
    0.2 s. "confusion_seconds": how long each true class was recognised as which, by frames, {true: {recognised: s}}.
    "speakers": of each (`Utterance.group`), "eder" and "num_utterances", for intervals.
    Rates are shares; of what there is none, None. "num_utterances". Raises ValueError without an utterance, or
    for a recogniser without a neutral class.
    """
    rates, of_segments, neutral, everywhere, emotional_auc, class_auc, time = [], [], [], [], [], [], Counter()
    of_speakers: dict[str, list[float]] = {}        # EDER of the utterances of each
    pairs, num_true, num_recognised = 0, 0, 0
    for utterance, result in recognised:
        classes = list(result.probabilities)
        if NEUTRAL not in classes:
            raise ValueError(f"the recogniser has no class {NEUTRAL}: what is outside emotional stretches has no name")
        truth = true_stretches(utterance, classes)
        duration, own = result.seconds, class_of(utterance.label, classes) or utterance.label
        of_each_frame = most_probable(result)
        rates.append(errors(truth, of_each_frame, duration).rates)
        of_speakers.setdefault(utterance.group, []).append(rates[-1][0])
        time.update(shared_time(truth, of_each_frame, duration))
        parts = segments(result, min_seconds)
        of_segments.append(errors(truth, parts, duration).rates[0])
        for name, constant in ((NEUTRAL, neutral), (own, everywhere)):
            constant.append(errors(truth, [Stretch(0, duration, name)], duration).rates[0])

        true_edges, edges = boundaries(truth, duration), boundaries(parts, duration)
        pairs += matched(true_edges, edges)
        num_true, num_recognised = num_true + len(true_edges), num_recognised + len(edges)
        is_emotional = frame_truth.is_emotional(utterance, len(result.posterior), result.framing)  # (T,)
        if is_emotional.any() and not is_emotional.all() and own in classes:
            emotional_auc.append(metrics.roc_auc(1 - result.posterior[:, classes.index(NEUTRAL)], is_emotional))
            class_auc.append(metrics.roc_auc(result.posterior[:, classes.index(own)], is_emotional))
    if not rates:
        raise ValueError("no utterance has its emotional frames written beside it")
    eder, false_alarm, missed, confused = np.mean(rates, 0).tolist()
    return {"eder": eder, "false_alarm": false_alarm, "missed": missed, "confused": confused,
            "segment_eder": float(np.mean(of_segments)), "always_neutral": float(np.mean(neutral)),
            "label_everywhere": float(np.mean(everywhere)),
            "emotional_auc": float(np.mean(emotional_auc)) if emotional_auc else None,
            "class_auc": float(np.mean(class_auc)) if class_auc else None,
            "boundary_f1": 2 * pairs / (num_true + num_recognised) if num_true + num_recognised else None,
            "confusion_seconds": {true: {name: float(time[true, name]) for name in classes} for true in classes},
            "speakers": {name: {"eder": float(np.mean(shares)), "num_utterances": len(shares)}
                         for name, shares in of_speakers.items()},
            "num_utterances": len(rates)}


def median(recognised: Sequence[tuple[Utterance, Result]]) -> Utterance | None:
    """Of the emotional utterances, the one in the middle by EDER: neither show-piece nor failure. None of none."""
    ranked = sorted((errors_of(utterance, result).rates[0], utterance.id, utterance) for utterance, result in recognised
                    if class_of(utterance.label) != NEUTRAL)
    return ranked[len(ranked) // 2][-1] if ranked else None


def errors_of(utterance: Utterance, result: Result) -> Errors:
    """What is wrong of the most probable class of each frame of an utterance whose truth is written beside it."""
    return errors(true_stretches(utterance, list(result.probabilities)), most_probable(result), result.seconds)


def most_probable(result: Result) -> list[Stretch]:
    """The most probable class of each frame, as stretches (`of_frames`)."""
    classes = list(result.probabilities)
    of_each_frame = [classes[number] for number in result.posterior.argmax(-1)]
    return of_frames(of_each_frame, result.framing.rate, result.seconds)


def true_stretches(utterance: Utterance, classes: Sequence[str]) -> list[Stretch]:
    """An utterance's emotional stretches, by the names of the classes where these have one."""
    return frame_truth.named(frame_truth.stretches(utterance), classes)


def errors(truth: Sequence[Labelled], segments: Sequence[Labelled], duration: float) -> Errors:
    """What was recognised in an utterance of `duration` seconds, compared with the truth.

    truth: its emotional stretches, in any order; what they leave out is neutral. segments: those recognised; time that
    they leave out is missed. Raises ValueError as `shared_time`.
    """
    false_alarm = missed = confused = 0.0
    for (true, recognised), seconds in shared_time(truth, segments, duration).items():
        if recognised == true:
            continue
        if true == NEUTRAL and recognised:
            false_alarm += seconds
        elif recognised in (NEUTRAL, ""):
            missed += seconds
        else:
            confused += seconds
    return Errors(false_alarm, missed, confused, duration)


def shared_time(truth: Sequence[Labelled], segments: Sequence[Labelled], duration: float
                ) -> Counter[tuple[str, str]]:
    """Seconds of an utterance by (true emotion, recognised emotion), "" where nothing is recognised.

    Raises ValueError for stretches of the truth that overlap, or no duration.
    """
    if not duration > 0:
        raise ValueError(f"an utterance must last longer than 0 s, got {duration}")
    in_order = sorted(truth, key=lambda stretch: stretch.start)
    for before, after in zip(in_order, in_order[1:]):
        if after.start < before.end:
            raise ValueError(f"the truth says both {before.emotion} and {after.emotion} at {after.start:g} s")
    inside = {edge for stretch in (*truth, *segments) for edge in (stretch.start, stretch.end) if 0 < edge < duration}
    edges = [0.0, *sorted(inside), duration]
    time: Counter[tuple[str, str]] = Counter()
    for start, end in zip(edges, edges[1:]):
        middle = (start + end) / 2
        time[emotion_at(truth, middle, NEUTRAL), emotion_at(segments, middle, "")] += end - start
    return time


def emotion_at(stretches: Sequence[Labelled], second: float, otherwise: str) -> str:
    """The emotion of the stretch in which a point of time lies; `otherwise` where none is."""
    return next((stretch.emotion for stretch in stretches if stretch.start <= second < stretch.end), otherwise)


def of_frames(emotions: Sequence[str], rate: float, duration: float) -> list[Stretch]:
    """Frame-wise emotions as stretches: frame t covers [t / rate, (t + 1) / rate) s, equal neighbours are joined.

    The last frame is repeated once where the frames end before the sound, as in SpeechBrain; nothing is said of time
    after it.
    """
    emotions = list(emotions)
    if emotions and len(emotions) / rate < duration:
        emotions.append(emotions[-1])
    stretches: list[Stretch] = []
    for t, emotion in enumerate(emotions):
        end = min((t + 1) / rate, duration)
        if stretches and stretches[-1].emotion == emotion:
            stretches[-1] = stretches[-1]._replace(end=end)
        elif t / rate < duration:
            stretches.append(Stretch(t / rate, end, emotion))
    return stretches


def boundaries(stretches: Sequence[Labelled], duration: float) -> list[float]:
    """Where one emotion gives way to another, in seconds, ascending; what stretches leave out is neutral."""
    inside = {edge for stretch in stretches for edge in (stretch.start, stretch.end) if 0 < edge < duration}
    edges = [0.0, *sorted(inside), duration]
    names = [emotion_at(stretches, (start + end) / 2, NEUTRAL) for start, end in zip(edges, edges[1:])]
    return [edge for edge, before, after in zip(edges[1:], names, names[1:]) if before != after]


def matched(true: Sequence[float], recognised: Sequence[float], tolerance: float = BOUNDARY_SECONDS) -> int:
    """How many boundaries, ascending, can be paired one to one within `tolerance` seconds: the most there can be."""
    pairs, i, k = 0, 0, 0
    while i < len(true) and k < len(recognised):
        if abs(true[i] - recognised[k]) <= tolerance:
            pairs, i, k = pairs + 1, i + 1, k + 1
        elif true[i] < recognised[k]:
            i += 1
        else:
            k += 1
    return pairs
