"""What a recogniser predicts for tested utterances, and `predictions.csv`, the table that keeps it.

One row for each utterance: id, true class, predicted class, then the probability of each class to six decimals. Tables
of other programs may stop after the first three columns.
"""
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from framealign.runtime import files
from framealign.corpus.utterance import Utterance
from framealign.emotion import metrics

UNCALIBRATED = "uncalibrated.csv"                   # beside predictions.csv: of the same logits, without a temperature
COLUMNS = ["id", "true", "predicted"]               # then the classes, in the recogniser's order


@dataclass(frozen=True)
class Predictions:
    """Predictions for U utterances over C classes; a class's number is its place in `classes`."""
    ids: list[str]
    true: np.ndarray                                # (U,) int64
    predicted: np.ndarray                           # (U,) int64
    probabilities: np.ndarray | None                # (U, C) float64; None where the table has none
    groups: list[str]                               # what intervals take as independent: `Utterance.group`
    classes: list[str]

    @classmethod
    def of(cls, utterances: Sequence[Utterance], classes: Sequence[str], probabilities: np.ndarray) -> "Predictions":
        """The most probable class of each utterance. probabilities (U, C) float64.

        Raises ValueError for an utterance with a label outside `classes`.
        """
        true = _class_numbers([utterance.label for utterance in utterances], classes)
        return cls([utterance.id for utterance in utterances], true, probabilities.argmax(-1), probabilities,
                   [utterance.group for utterance in utterances], list(classes))

    @classmethod
    def read(cls, path: str | Path, utterances: Mapping[str, Utterance] | None = None) -> "Predictions":
        """Read a table. utterances: by id, for their groups; without them groups are the speakers that ids tell.

        Classes are the columns after the first three; where a label is none of these, the labels that occur, sorted,
        and no probabilities. Raises ValueError, naming the file, where it is missing, no such table, or has an
        utterance twice or one that is not of the corpus.
        """
        header, rows = _read_table(path)
        ids, true, predicted = ([row[header.index(name)] for row in rows] for name in COLUMNS)
        classes = [name for name in header if name not in COLUMNS]
        probabilities = None
        if {*true, *predicted} <= {*classes}:
            probabilities = _numbers(rows, [header.index(name) for name in classes], path)
        else:
            classes = sorted({*true, *predicted})

        if utterances is None:
            utterances = {name: Utterance(name, Path(path), num_samples=0) for name in ids}
        twice = first_repeated(ids)
        if twice:
            raise ValueError(f"{path}: utterance {twice} has two rows; each is tested once")
        unknown = next((name for name in ids if name not in utterances), None)
        if unknown is not None:
            raise ValueError(f"{path}: utterance {unknown} is not one of the corpus")
        return cls(ids, _class_numbers(true, classes), _class_numbers(predicted, classes), probabilities,
                   [utterances[name].group for name in ids], classes)

    def write(self, path: str | Path) -> None:
        """Write the table, with probabilities."""
        lines = [[*COLUMNS, *self.classes]]
        for name, true, predicted, shares in zip(self.ids, self.true, self.predicted, self.probabilities, strict=True):
            lines.append([name, self.classes[true], self.classes[predicted], *(f"{share:.6f}" for share in shares)])
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        files.write_text(path, text.getvalue())

    @classmethod
    def joined(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """The predictions of several tests, one after another.

        Raises ValueError where their classes differ or an utterance is in two of them.
        """
        first = parts[0]
        for part in parts:
            if part.classes != first.classes:
                raise ValueError("predictions of different classes cannot be pooled: "
                                 f"{', '.join(first.classes)} and {', '.join(part.classes)}")
        ids = [name for part in parts for name in part.ids]
        twice = first_repeated(ids)
        if twice:
            raise ValueError(f"utterance {twice} is in two of the tests that are to be pooled and would count twice; "
                             "each utterance is tested once")
        probabilities = None
        if all(part.probabilities is not None for part in parts):
            probabilities = np.concatenate([part.probabilities for part in parts])
        return cls(ids,
                   np.concatenate([part.true for part in parts]),
                   np.concatenate([part.predicted for part in parts]), probabilities,
                   [group for part in parts for group in part.groups], first.classes)

    def scores(self) -> dict:
        """`metrics.scores`; as "interval_over" what the intervals are over, in words: "10 speakers"; and where
        probabilities are known, "calibration": `metrics.calibration`.
        """
        scores = metrics.scores(self.true, self.predicted, self.classes, self.groups)
        scores["interval_over"] = self.groups_in_words()
        if self.probabilities is not None:
            scores["calibration"] = metrics.calibration(self.probabilities, self.true, self.predicted)
        return scores

    def groups_in_words(self) -> str:
        """How many groups there are: "10 speakers", or of utterances whose speakers are unknown "240 utterances"."""
        number = len({*self.groups})
        are_utterances = [group == name for group, name in zip(self.groups, self.ids)]
        kind = "utterance" if all(are_utterances) else "speaker"
        if any(are_utterances) and not all(are_utterances):
            return f"{number} speakers and utterances of unknown speakers"
        return f"{number} {kind}{'s' if number > 1 else ''}"

    def subset(self, places: Sequence[int]) -> "Predictions":
        """The predictions at some places, in their order."""
        places = np.asarray(places, np.int64)
        probabilities = None if self.probabilities is None else self.probabilities[places]
        return Predictions([self.ids[i] for i in places], self.true[places], self.predicted[places], probabilities,
                           [self.groups[i] for i in places], self.classes)


def first_repeated(names: Sequence[str]) -> str | None:
    """The first of these names that was there before; None where each is there once."""
    before = set()
    for name in names:
        if name in before:
            return name
        before.add(name)
    return None


def _read_table(path: str | Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a predictions.csv, all equally long. Raises ValueError, naming the file."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = [line for line in csv.reader(file) if line]     # an empty line is no row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not readable: {error}") from None
    if len(lines) < 2 or not set(COLUMNS) <= set(lines[0]):
        raise ValueError(f"{path}: must have the columns id, true and predicted and a row for each utterance")
    header, *rows = lines
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"{path}: the row of {row[0]} has {len(row)} columns, the header has {len(header)}")
    return header, rows


def _class_numbers(labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Labels as places in `classes`: (U,) int64."""
    number = {name: i for i, name in enumerate(classes)}
    unknown = next((label for label in labels if label not in number), None)
    if unknown is not None:
        raise ValueError(f"label {unknown or '(none)'} is not one of {', '.join(classes)}")
    return np.array([number[label] for label in labels], np.int64)


def _numbers(rows: Sequence[Sequence[str]], columns: Sequence[int], path: str | Path) -> np.ndarray:
    """Some columns as probabilities: (U, C) float64. Raises ValueError, naming the file, for what is none."""
    try:
        numbers = np.array([[float(row[i]) for i in columns] for row in rows])
    except ValueError as error:
        raise ValueError(f"{path}: not a probability: {error}") from None
    is_probability = (numbers >= 0) & (numbers <= 1)
    if not is_probability.all():
        raise ValueError(f"{path}: not a probability: {numbers[~is_probability][0]:g}; must be in 0..1")
    return numbers
