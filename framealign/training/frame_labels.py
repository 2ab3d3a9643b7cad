"""From scores of frames to soft labels: how much of an emotional utterance is emotional, and which frames.

An utterance's label says what emotion it has, not when. What is given here is, of every frame, how much more a frame
classifier takes it for the utterance's emotion than for neutral (`frame_training.scores_in_other_company`). Neutral
utterances show how such scores are spread where there is no emotion; what emotional utterances have beyond that tells,
by the first two moments, which share of their time is emotional. Two states in time do the rest.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CHANGES_PER_BLOCK = 0.25                            # of the two states together: a block of 0.2 s
LEAST_SHARE = 0.05                                  # of an emotional utterance that is taken to be emotional


@dataclass(frozen=True)
class Spread:
    """Scores of blocks of one emotion's utterances, and of neutral ones, as two states: mean, variance, share."""
    neutral: float                                  # mean score of blocks without the emotion
    emotional: float                                # mean score of blocks with it
    variance: float                                 # of blocks within an utterance, in either state
    coverage: float                                 # share of the time of emotional utterances that is emotional


def block_means(scores: np.ndarray, size: int) -> np.ndarray:
    """Means of an utterance's frames (T,) in blocks of about `size`, as equal as can be: (n,), n >= 1."""
    return np.array([block.mean() for block in np.array_split(scores, max(1, len(scores) // size))])


def of_blocks(values: np.ndarray, num_frames: int) -> np.ndarray:
    """Values of blocks (n,) as values of their frames: `block_means` backwards, (T,)."""
    lengths = [len(block) for block in np.array_split(np.arange(num_frames), len(values))]
    return np.repeat(values, lengths)


def spread(neutral: Sequence[np.ndarray], emotional: Sequence[np.ndarray]) -> Spread:
    """How an emotion's scores are spread, from blocks of neutral and of emotional utterances, (n,) each.

    If a share c of the time of emotional utterances has the mean m1, and the rest the mean m0 of neutral ones, then
    the means of both kinds of utterances differ by c (m1 - m0), and the variance within emotional utterances is larger
    than that within neutral ones by c (1 - c) (m1 - m0)^2. With D the square of the first difference and V the second,
    c = D / (D + V).
    """
    m0, of_emotional = np.concatenate(neutral).mean(), np.concatenate(emotional).mean()
    variance = within(neutral)
    squared, excess = (of_emotional - m0) ** 2, max(within(emotional) - variance, 0.0)
    coverage = float(np.clip(squared / max(squared + excess, 1e-12), LEAST_SHARE, 1.0))
    return Spread(float(m0), float(m0 + (of_emotional - m0) / coverage), max(float(variance), 1e-6), coverage)


def within(utterances: Sequence[np.ndarray]) -> float:
    """Variance of blocks about their utterance's mean, pooled over utterances; 0 where none has two blocks."""
    squares = sum(float(((blocks - blocks.mean()) ** 2).sum()) for blocks in utterances)
    return squares / max(1, sum(len(blocks) - 1 for blocks in utterances))


def emotional_share(blocks: np.ndarray, of_emotion: Spread) -> np.ndarray:
    """Probability that each block (n,) of an emotional utterance is emotional, given all of them: (n,) in 0..1.

    A hidden Markov model of two Gaussian states, whose long-run share of emotional blocks is the coverage, by forward
    and backward sums (Rabiner 1989).
    """
    c = of_emotion.coverage
    change = np.array([[1 - c * CHANGES_PER_BLOCK, c * CHANGES_PER_BLOCK],
                       [(1 - c) * CHANGES_PER_BLOCK, 1 - (1 - c) * CHANGES_PER_BLOCK]])     # from row to column
    means = np.array([of_emotion.neutral, of_emotion.emotional])
    exponents = -(blocks[:, None] - means) ** 2 / (2 * of_emotion.variance)                 # (n, 2)
    likelihood = np.exp(exponents - exponents.max(1, keepdims=True)) + 1e-12

    n = len(blocks)
    forward, backward = np.empty((n, 2)), np.ones((n, 2))
    forward[0] = np.array([1 - c, c]) * likelihood[0]
    for t in range(1, n):
        forward[t] = forward[t - 1] / forward[t - 1].sum() @ change * likelihood[t]
    for t in range(n - 2, -1, -1):
        backward[t] = change @ (likelihood[t + 1] * backward[t + 1])
        backward[t] /= backward[t].sum()
    both = forward * backward
    return both[:, 1] / both.sum(1)


def spreads(scores: Sequence[np.ndarray], labels: Sequence[int], classes: Sequence[str], neutral: int,
            block_frames: int) -> dict[str, Spread]:
    """How each emotion's scores are spread, by its name: of those that have utterances.

    scores: of each utterance, log p(class) - log p(neutral) of each of its frames and every class, (T, C); labels: the
    utterances' classes.
    """
    of_emotions = {}
    for number, name in enumerate(classes):
        of_neutral, of_emotional = ([block_means(values[:, number], block_frames)
                                     for values, label in zip(scores, labels) if label == kind]
                                    for kind in (neutral, number))
        if number != neutral and of_emotional:
            of_emotions[name] = spread(of_neutral, of_emotional)
    return of_emotions


def soft_labels(scores: Sequence[np.ndarray], labels: Sequence[int], classes: Sequence[str], neutral: int,
                of_emotions: Mapping[str, Spread], block_frames: int, whole: float) -> list[np.ndarray]:
    """Of every frame of each utterance, how much it has of each class: (T, C), rows of sum 1.

    scores, labels: as for `spreads`, which gives of_emotions. Frames of a neutral utterance are neutral. Those of an
    emotion that covers more than `whole` of its utterances are all emotional; else each is so as much as its block is
    (`emotional_share`).
    """
    of_frames = []
    for values, label in zip(scores, labels):
        rows = np.eye(len(classes))[np.full(len(values), label)]                # (T, C)
        if label != neutral and of_emotions[classes[label]].coverage <= whole:
            blocks = block_means(values[:, label], block_frames)
            share = of_blocks(emotional_share(blocks, of_emotions[classes[label]]), len(values))        # (T,)
            rows[:, label], rows[:, neutral] = share, 1 - share
        of_frames.append(rows)
    return of_frames
