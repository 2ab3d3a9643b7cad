"""Does alignment align? Attention, posterior and units against the planted truth of a synthetic corpus.

ROC-AUC of the attention weights, and of the frame-wise posterior of the true class, against the emotional frames of
each non-neutral utterance: 0.5 is chance, 1 means that every emotional frame is above every other. Normalised mutual
information of the units with (emotion, frame is emotional).
"""
import numpy as np

from framealign.runtime import log
from framealign.corpus import frame_truth
from framealign.corpus.utterance import Utterance
from framealign.units.units import Units
from framealign.emotion import metrics
from framealign.emotion.recogniser import Recogniser, Result


def recognised(recogniser: Recogniser, utterances: list[Utterance]) -> list[tuple[Utterance, Result]]:
    """The utterances of the recogniser's classes that have their truth beside them, each with what is recognised."""
    known = [utterance for utterance in utterances if utterance.label in recogniser.labels
             and frame_truth.exists(utterance)]
    return [(utterance, recogniser(utterance.path))
            for utterance in log.progress(known, len(known), "recognising", "utterances")]


def frame_auc(pairs: list[tuple[Utterance, Result]]) -> dict[str, float]:
    """Mean and median AUC of attention and posterior over the non-neutral utterances, and how many there were.

    Beside them the mean of largest by mean attention weight: near 1, attention is flat, however well it ranks frames.

    pairs: from `recognised`. Raises ValueError where no utterance has its emotional frames written beside it.
    """
    attention, posterior, peaks = [], [], []
    for utterance, result in pairs:
        truth = frame_truth.is_emotional(utterance, len(result.attention), result.framing)     # (T,) bool
        if utterance.label != "neutral" and truth.any() and not truth.all():
            of_true_class = result.posterior[:, list(result.probabilities).index(utterance.label)]
            attention.append(metrics.roc_auc(result.attention, truth))
            peaks.append(result.attention.max() / result.attention.mean())
            posterior.append(metrics.roc_auc(of_true_class, truth))
    if not attention:
        raise ValueError("no utterance has its emotional frames written beside it; only synthetic corpora have")
    return {"attention_auc_mean": float(np.mean(attention)), "attention_auc_median": float(np.median(attention)),
            "posterior_auc_mean": float(np.mean(posterior)), "posterior_auc_median": float(np.median(posterior)),
            "attention_max_over_mean": float(np.mean(peaks)), "num_utterances": len(attention)}


def unit_emotion_nmi(units: Units, utterances: list[Utterance]) -> float:
    """Normalised mutual information of unit and (emotion, frame is emotional), over all frames of all utterances.

    Raises ValueError where these are not units of these utterances, or one has no emotional frames written beside it.
    """
    units.check(utterances, "units")
    labels = sorted({utterance.label for utterance in utterances})
    classes = []
    for utterance, num_frames in zip(utterances, units.offsets.diff().tolist()):
        is_emotional = frame_truth.is_emotional(utterance, num_frames, units.framing)  # (T,) bool
        classes.append(labels.index(utterance.label) * 2 + is_emotional.astype(int))
    return metrics.nmi(units.units.numpy(), np.concatenate(classes))
