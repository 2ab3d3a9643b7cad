"""Does alignment align? Where the truth is planted (`synth`), how well attention, posterior and units find it.

ROC-AUC of the attention weights, and of the frame-wise posterior of the true class, against the emotional frames of
each non-neutral utterance: 0.5 is chance, 1 means that every emotional frame is above every other. Normalised mutual
information of the units with (emotion, frame is emotional).
"""
from pathlib import Path

import numpy as np

from framealign.runtime import log
from framealign.corpus import synthetic_corpus
from framealign.emotion import metrics
from framealign.corpus.cropping import frame_counts
from framealign.emotion.recogniser import Recogniser
from framealign.units.units import Units


def attention_and_posterior(recogniser: Recogniser, utterances: list) -> dict[str, float]:
    """Mean and median of both areas over the utterances of a class other than neutral, and how many there were.

    Raises ValueError where no utterance has its emotional frames written beside it.
    """
    attention, posterior = [], []
    emotional = [u for u in utterances if u.label in recogniser.labels and u.label != "neutral" and has_truth(u)]
    for utterance in log.progress(emotional, len(emotional), "alignment", "utterances"):
        result = recogniser(utterance.path)
        truth = synthetic_corpus.planted(utterance.path, len(result.attention))            # (T,) bool
        if truth.any() and not truth.all():
            attention.append(metrics.roc_auc(result.attention, truth))
            posterior.append(metrics.roc_auc(result.posterior[:, recogniser.labels.index(utterance.label)], truth))
    if not attention:
        raise ValueError("no utterance has its emotional frames written beside it; only synthetic corpora have")
    return {"attention_auc_mean": float(np.mean(attention)), "attention_auc_median": float(np.median(attention)),
            "posterior_auc_mean": float(np.mean(posterior)), "posterior_auc_median": float(np.median(posterior)),
            "num_utterances": len(attention)}


def units_and_emotion(units: Units, utterances: list) -> float:
    """Normalised mutual information of unit and (emotion, frame is emotional), over all frames of all utterances.

    Raises ValueError where these are not units of these utterances, or one has no emotional frames written beside it.
    """
    units.check(utterances, "units")
    names = sorted({u.label for u in utterances})
    classes = [names.index(u.label) * 2 + synthetic_corpus.planted(u.path, int(T)).astype(int)
               for u, T in zip(utterances, frame_counts(utterances))]
    return metrics.nmi(units.units.numpy(), np.concatenate(classes))


def truth_is_known(utterances: list) -> bool:
    """Whether every utterance has its emotional frames written beside it."""
    return all(has_truth(utterance) for utterance in utterances)


def has_truth(utterance) -> bool:
    """Whether this utterance has its emotional frames written beside it."""
    return Path(utterance.path).with_suffix(synthetic_corpus.TRUTH_SUFFIX).exists()
