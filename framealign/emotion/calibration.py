"""Calibrated confidence: logits are divided by a temperature that was fitted on validation data (Guo et al. 2017).

One temperature is for whole utterances, one for single frames. They are kept as `calibration.json` in a recogniser's
directory; a directory without it, as older ones, is not calibrated: both temperatures are 1. No decision is changed by
them, only how sure it is.
"""
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from framealign.runtime import files
from framealign.corpus.utterance import NONE

NAME = "calibration.json"
MOST = 20.0                                         # the largest temperature; the smallest is 1 / MOST
# What is held against a temperature other than 1 counts as about so many utterances. Validation parts have few
# speakers, and the best temperature of two of them is not that of others: of the values tried, with this one the
# temperature of all validation speakers but one had hardly more than the least loss on that one (BENCHMARKS.md).
WEIGHT_OF_ONE = 8
LEAST_PROBABILITY = 1e-12                           # a smaller one counts as this in `centred`


@dataclass(frozen=True)
class Calibration:
    """What a recogniser's logits are divided by, and its answers to the validation utterances that it was fitted on.

    Raises ValueError for a temperature outside 1 / MOST to MOST, and unless there is a confidence for each answer.
    """
    utterances: float = 1.0                         # temperature of the logits of whole utterances
    frames: float = 1.0                             # temperature of the logits of single frames
    fitted_on: str = ""                             # in words; "": not calibrated
    confidences: tuple[float, ...] = ()             # of the answers to validation utterances, calibrated
    right: tuple[bool, ...] = ()                    # whether each was right

    def __post_init__(self):
        for name in ("utterances", "frames"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 1 / MOST <= value <= MOST:
                raise ValueError(f"{name} must be a temperature from {1 / MOST:g} to {MOST:g}, is {value!r}"[:200])
        if not isinstance(self.fitted_on, str):
            raise ValueError(f"fitted_on must be text, is {self.fitted_on!r}"[:200])
        if not all(isinstance(one, (int, float)) and 0 <= one <= 1 for one in self.confidences) \
                or not all(isinstance(one, bool) for one in self.right) or len(self.confidences) != len(self.right):
            raise ValueError("confidences must be numbers in 0..1, right as many times true or false")

    @classmethod
    def read(cls, directory: str | Path) -> "Calibration":
        """That of a recogniser's directory, or of a file in it. Raises ValueError, naming the file, for what is none.
        """
        place = Path(directory)
        path = (place.parent if place.is_file() else place) / NAME
        if not path.exists():
            return cls()
        content = files.read_json(path)
        unknown = content.keys() - cls().as_dict().keys()
        lists = [content.get(name, []) for name in ("confidences", "right")]
        if unknown or not all(isinstance(one, list) for one in lists):
            raise ValueError(f"{path}: must have {', '.join(cls().as_dict())}, the last two lists, and nothing else")
        try:
            return cls(**content | {"confidences": tuple(lists[0]), "right": tuple(lists[1])})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def write(self, directory: str | Path) -> None:
        """Write the file into a recogniser's directory; of one that is not calibrated there is none."""
        path = Path(directory) / NAME
        if self.fitted_on:
            files.write_json(path, self.as_dict())
        else:
            path.unlink(missing_ok=True)

    def as_dict(self) -> dict:
        """All fields, as plain data."""
        return asdict(self) | {"confidences": list(self.confidences), "right": list(self.right)}

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Of logits (U, C) of utterances: (U, C) float64, rows of sum 1."""
        return softmax(logits / self.utterances)

    def undone(self, probabilities: np.ndarray) -> np.ndarray:
        """The probabilities (U, C) of utterances as they would be with the temperature 1."""
        with np.errstate(divide="ignore"):          # the logarithm of 0
            return softmax(self.utterances * np.log(probabilities))

    def threshold(self, error: float) -> float:
        """The least confidence from which on the share `error` of the validation answers, or less, was wrong.

        At least 1 / error utterances must be answered: of fewer, one more mistake would be too many. 0 where all may
        be. Raises ValueError for an error outside 0..1, without stored answers, and where the rate is not reached.
        """
        if not 0 < error < 1:
            raise ValueError(f"a rate of errors must be between 0 and 1, got {error:g}")
        if not self.confidences:
            raise ValueError("there are no answers to validation utterances in the recogniser's directory "
                             f"({NAME}), from which a rate of errors could be reached; give a confidence instead")
        order = np.argsort(self.confidences, kind="stable")
        confidences, first = np.unique(np.array(self.confidences)[order], return_index=True)       # ascending
        answered = len(order) - first
        wrong = np.cumsum(~np.array(self.right)[order][::-1])[answered - 1]     # of those with at least each confidence
        reached = np.maximum(wrong, 1) / answered
        if reached.min() > error:
            lowest = math.ceil(1000 * reached.min() - 1e-9) / 1000
            raise ValueError(f"a rate of errors of {error:g} is not reached on the {len(order)} validation utterances, "
                             f"whatever is rejected; the lowest is {lowest:g}")
        least = int(np.argmax(reached <= error))
        return float(confidences[least]) if least else 0.0

    def answers(self, threshold: float) -> tuple[int, int]:
        """How many validation utterances have at least this confidence, and to how many of them the answer was wrong.
        """
        given = [one for one, confidence in zip(self.right, self.confidences) if confidence >= threshold]
        return len(given), given.count(False)


def answer(probabilities: dict[str, float], reject: float) -> tuple[str, str]:
    """The most probable class and ""; or, where it has less than `reject`, NONE and the reason in words."""
    emotion = max(probabilities, key=probabilities.get)
    confidence = probabilities[emotion]
    if confidence >= reject:
        return emotion, ""
    shown = math.floor(1000 * confidence) / 1000    # rounded up it might be what is wanted
    return NONE, f"not sure: {emotion} has {shown:.3f}, less than {reject:.4g}"


def centred(probabilities: np.ndarray, unshifted: float = 0.0) -> np.ndarray:
    """Probabilities (U, C) of sounds of one source, as if logits had the same mean over them for every class.

    A microphone, a room, a language or a voice may shift all logits alike: everyone of a corpus sounds sad. That shift
    is the mean over the source's sounds, and is taken off; so the sounds should have about as many of each class, and
    of one sound nothing is left but equal probabilities. Which class is largest does not depend on the temperature.

    unshifted: so many sounds without a shift are counted among them: of few sounds less is taken off, as what they have
    in common may be what they express.
    """
    logits = np.log(np.maximum(probabilities, LEAST_PROBABILITY))               # (U, C), up to a number for each row
    logits -= logits.mean(1, keepdims=True)
    return softmax(logits - logits.sum(0) / (len(logits) + unshifted))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Of the last axis, in float64."""
    exponents = np.asarray(logits, np.float64)
    shares = np.exp(exponents - exponents.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def temperature(logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """What logits (N, C) are to be divided by, so that their softmax is most like the targets (N, C), rows of sum 1.

    The sum over rows of weight (N,) times cross-entropy is minimised, and with it WEIGHT_OF_ONE (b - log b), b being
    1 / temperature: the log-density of a gamma prior whose mode is 1, which hardly holds back a scale that is far off.
    The sum is convex in b, so that its derivative has one zero, found by bisection in float64. Weights say how many
    observations a row is. Of no rows it is 1. Raises ValueError for numbers that are not finite.
    """
    logits = np.asarray(logits, np.float64)
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite to fit a temperature")

    def slope(b: float) -> float:
        apart = ((softmax(b * logits) - targets) * logits).sum(-1)              # (N,): of each row's cross-entropy
        return float((weights * apart).sum()) + WEIGHT_OF_ONE * (1 - 1 / b)

    low, high = 1 / MOST, MOST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 2 / (low + high)


def of_frames(logits: list[np.ndarray], targets: list[np.ndarray]) -> float:
    """The temperature of single frames. logits, targets: of each utterance (T, C).

    Frames whose target is all 0 take no part. An utterance counts as one observation, however many frames it has: they
    are no independent ones.
    """
    is_known = [rows.any(-1) for rows in targets]
    weights = [np.full(known.sum(), 1 / max(1, known.sum())) for known in is_known]
    chosen = [[rows[known] for rows, known in zip(all_rows, is_known)] for all_rows in (logits, targets)]
    return temperature(np.concatenate(chosen[0]), np.concatenate(chosen[1]), np.concatenate(weights))
