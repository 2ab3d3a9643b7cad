"""A classifier of vectors, one for each utterance, on the folds of the recipe: what a recogniser should be better than.

The vectors are `utterance_statistics`. The classifier is given: `bin/bench.py` brings scikit-learn's logistic
regression. How freely it may fit is chosen on each fold's validation part; then it is fitted to the training part
alone, as a recogniser is, and tested on what is held out. Results have the form of `results.collect`, so that tables
and intervals are those of a run.
"""
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from framealign.runtime import digests, log
from framealign.sound.utterance_statistics import statistics
from framealign.corpus import protocols
from framealign.corpus.cropping import load_checked
from framealign.corpus.protocols import Split
from framealign.corpus.utterance import Utterance
from framealign.emotion import metrics
from framealign.emotion.predictions import Predictions
from framealign.recipe import preflight, results, session_config
from framealign.recipe.results import aligned, interval_words, missing_words
from framealign.recipe.session_config import SessionConfig

SELECTION = "clean"
STRENGTHS = (0.001, 0.01, 0.1, 1.0)                 # C of the logistic regression: the larger, the freer
# fit(vectors (U, F), class numbers (U,), C): what gives probabilities (U', C) of vectors (U', F).
Predict = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray, float], Predict]


class Baseline:
    """A corpus, as `session_config.read_utterances` gives it, on which the classifier that `fit` gives is trained.

    config: folds and classes. Only labelled utterances are looked at. Raises ValueError as `protocols.split`.
    """

    def __init__(self, config: SessionConfig, corpus: Sequence[Utterance], fit: Fit):
        self.config, self.fit = config, fit
        self.classes = protocols.class_names(config.classes)
        self.utterances = [utterance for utterance in corpus if utterance.label]
        # The parts of each fold that is held out, as the recipe's:
        self.splits: dict[str, Split] = {}
        for session in session_config.held_out(config, self.utterances):
            self.splits[session], = session_config.splits_of(replace(config, session=session), self.utterances,
                                                             SELECTION)

    @cached_property
    def vectors(self) -> dict[str, np.ndarray]:
        """The vector (F,) of each utterance, by id; computed when it is first asked for."""
        return dict(zip((utterance.id for utterance in self.utterances), features(self.utterances)))

    def fitted(self, utterances: Sequence[Utterance], strength: float) -> Predict:
        """The classifier, fitted to some of the utterances."""
        numbers = [self.classes.index(utterance.label) for utterance in utterances]
        return self.fit(self.matrix(utterances), np.array(numbers), strength)

    def predictions(self, predict: Predict, utterances: Sequence[Utterance]) -> Predictions:
        """What a fitted classifier predicts of some of the utterances."""
        return Predictions.of(utterances, self.classes, predict(self.matrix(utterances)))

    def matrix(self, utterances: Sequence[Utterance]) -> np.ndarray:
        """The vectors of some of the utterances: (U, F)."""
        return np.stack([self.vectors[utterance.id] for utterance in utterances])


def features(utterances: Sequence[Utterance]) -> np.ndarray:
    """`utterance_statistics.statistics` of each utterance: (U, 220) float64."""
    vectors = (statistics(load_checked(utterance, do_normalize=True)) for utterance in utterances)
    return torch.stack(list(log.progress(vectors, len(utterances), "statistics", "utterances"))).double().numpy()


def collect(baseline: Baseline) -> dict:
    """Every fold that is held out: results as `results.collect`."""
    of_test = session_config.protocol_of_test(baseline.config, baseline.utterances, SELECTION)
    protocol = {"method": "logistic regression on utterance statistics", **of_test, "optimistic": False}
    if baseline.config.label_share < 1:
        protocol["seed"] = baseline.config.seed     # which labels were drawn; nothing else is drawn
    folds, tables = {}, []
    for session, split in baseline.splits.items():
        folds[session], tested = fold(baseline, split)
        tables.append(tested)
    pooled = Predictions.joined(tables)
    missing = {session: results.missing_classes(one) for session, one in folds.items()}
    return {"protocol": protocol, "folds": folds, "pooled": pooled.scores(), "predictions": pooled, "subsets": {},
            "reference": None, "calibration": {},
            "missing": {session: names for session, names in missing.items() if names}}


def fold(baseline: Baseline, split: Split) -> tuple[dict, Predictions]:
    """Results of one fold and its test predictions. "strength": the C chosen; "valid_ua": UA of validation by C."""
    fitted = {strength: baseline.fitted(split.train, strength) for strength in STRENGTHS}
    valid = {strength: baseline.predictions(predict, split.valid) for strength, predict in fitted.items()}
    valid_ua = {strength: float(metrics.ua(metrics.confusion(one.true, one.predicted, len(one.classes))))
                for strength, one in valid.items()}
    best = max(STRENGTHS, key=valid_ua.get)         # of equals the smallest
    tested = baseline.predictions(fitted[best], split.test)
    test = tested.scores()
    return {"classes": baseline.classes, "reported": {name: test[name] for name in results.NAMES}, "test": test,
            "valid": valid[best].scores(), "valid_ua": valid_ua, "strength": best,
            "num_utterances": {name: len(getattr(split, name)) for name in ("train", "valid", "test")}}, tested


def other_corpora(baseline: Baseline, tables: Sequence[str]) -> dict[str, list[Utterance]]:
    """The utterances of other tables with a label that is one of the classes, which they are given.

    Raises ValueError as `preflight.read_corpus`, where a table has none of the classes, and where it has a sound that
    is trained on.
    """
    trained = dict(zip(digests.of_files([utterance.path for utterance in baseline.utterances]), baseline.utterances))
    others = {}
    for table in tables:
        everything = preflight.read_corpus(table)
        named = protocols.named_by_classes(everything, baseline.classes, baseline.config.merge)
        others[table] = [utterance for utterance in named if utterance.label]
        labels = Counter(old.label for old, new in zip(everything, named) if old.label and not new.label)
        listed = ", ".join(f"{label} {number}" for label, number in labels.most_common(protocols.MAX_NAMED))
        if not others[table]:
            raise ValueError(f"{table}: no label is one of the classes, {', '.join(baseline.classes)}; there are: "
                             f"{listed or 'none'}; --merge says which label counts as which class")
        if labels:
            log.say_once(f"{table}: {labels.total()} utterances with labels that are no class are left out: {listed}")
        known = [digest in trained for digest in digests.of_files([one.path for one in others[table]])]
        if any(known):
            raise ValueError(f"{table}: {sum(known)} of its {len(known)} sounds are trained on, first "
                             f"{others[table][known.index(True)].id}; --on is for other corpora than --corpus")
    return others


def on_others(baseline: Baseline, collected: Mapping, others: Mapping[str, Sequence[Utterance]]) -> dict[str, dict]:
    """`Predictions.scores` on other corpora, trained on all of this one with the C that its first fold has chosen."""
    strength = next(iter(collected["folds"].values()))["strength"]
    predict = baseline.fitted(baseline.utterances, strength)
    return {table: Predictions.of(utterances, baseline.classes, predict(features(utterances))).scores()
            | {"strength": strength} for table, utterances in others.items()}


def text(collected: Mapping, others: Mapping[str, Mapping]) -> str:
    """The table of a run (`results.table`), the C of each fold, and UA and WA on other corpora."""
    strengths = ", ".join(f"{session} {one['strength']:g}" for session, one in collected["folds"].items())
    lines = [results.table(collected),
             f"C, the best of {', '.join(f'{one:g}' for one in STRENGTHS)} on validation, by fold: {strengths}"]
    if others:
        rows = [["tested on", "UA", "95 %", "WA", "95 %", "utterances", "over"]]
        for table, one in others.items():
            cells = [cell for name in ("ua", "wa") for cell in (f"{100 * one[name]:.1f}",
                                                               interval_words(one["interval_95"][name]))]
            rows.append([table, *cells, str(sum(map(sum, one["confusion"]))), one["interval_over"]])
        lines += [f"trained on the whole corpus, C {next(iter(others.values()))['strength']:g} as in the first fold",
                  *aligned(rows)]
        lacking = {table: [name for name, share in one["recall"].items() if share is None]
                   for table, one in others.items()}
        lines += [f"{table}: {missing_words({'test': names})}" for table, names in lacking.items() if names]
    return "\n".join(lines)
