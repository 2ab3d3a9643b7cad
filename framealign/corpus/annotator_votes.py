"""The votes of several annotators: how many, or with what weight, heard which emotion in an utterance.

They stand in the manifest, in the column `votes`: `neutral:3;happy:1`, a label and a weight above 0 each. The column
`label` stays what the corpus says of the whole; training takes the shares of the votes instead where it is asked to
(`FinetuneConfig.soft_labels`).
"""
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from framealign.corpus.utterance import MERGED, class_of

_VOTE = re.compile(r"([^,]*[^,\s])\s*:\s*([0-9]+(?:\.[0-9]+)?)")  # the last colon: a label may have some


def cell(votes: Sequence[tuple[str, float]]) -> str:
    """Votes as a manifest's cell has them; "" where there are none."""
    return ";".join(f"{label}:{np.format_float_positional(weight, trim='-')}" for label, weight in votes)


def parsed(text: str) -> tuple[tuple[str, float], ...]:
    """What `cell` wrote; blanks around labels, colons and semicolons are allowed. Raises ValueError for another text.
    """
    votes = []
    for part in text.split(";") if text.strip() else []:
        match = _VOTE.fullmatch(part.strip())
        if not match:
            raise ValueError("votes must be label:weight;label:weight ..., as neutral:3;happy:1, weights above 0, has "
                             f"{part.strip()[:60]!r}; rename the column if it means something else")
        votes.append((match[1], float(match[2])))
    return tuple(votes)


def check(votes: Sequence[tuple[str, float]]) -> None:
    """Raise ValueError for votes that a manifest's cell cannot hold, or that say nothing."""
    labels = [label for label, _ in votes]
    for label, weight in votes:
        if not label.strip() or label != label.strip() or not label.isprintable() or re.search("[;,]", label):
            raise ValueError(f"votes: a label must have no semicolon, comma or blanks around it, got {label!r}")
        if not 0 < weight < math.inf:
            raise ValueError(f"votes: the weight of {label} must be above 0 and finite, got {weight:g}")
        if labels.count(label) > 1:
            raise ValueError(f"votes: {label} is named {labels.count(label)} times; add its weights up")


def of_classes(votes: Sequence[tuple[str, float]], classes: Sequence[str], merged: Mapping[str, str] = MERGED
               ) -> tuple[tuple[str, float], ...]:
    """The votes for classes, each under its class's name, spellings of one class added up; () where there are none.

    merged: as of `class_of`.
    """
    weights: dict[str, float] = {}
    for label, weight in votes:
        name = class_of(label, classes, merged)
        if name:
            weights[name] = weights.get(name, 0.0) + weight
    return tuple(weights.items())
