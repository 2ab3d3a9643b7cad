"""Several runs beside each other: seeds of one experiment, two runs on the same utterances, the paper's ablation.

A run over seeds is a folder with `seed1`, `seed2`, ..., each a run of its own. Differences are paired: both sides are
measured on the same resampled dialogues (`metrics.paired_difference`).
"""
from pathlib import Path

import numpy as np

from framealign.corpus.utterance import Utterance
from framealign.emotion import metrics
from framealign.emotion.predictions import Predictions
from framealign.recipe import results
from framealign.recipe.results import NAMES, aligned
from framealign.recipe.session_config import METHODS, PAPERS

DRAWS = 2000


def seeds_of(run: str | Path) -> dict[str, Path]:
    """The runs of each seed: {"1": run/seed1, ...}; {"": run} where it is no run over seeds."""
    folders = [folder for folder in Path(run).glob("seed*") if folder.name[4:].isdigit() and folder.is_dir()]
    folders.sort(key=lambda folder: int(folder.name[4:]))
    return {folder.name[4:]: folder for folder in folders} or {"": Path(run)}


def predictions_of(what: str | Path, method: str = "", selection: str = "") -> list[Predictions]:
    """Test predictions, one for each seed, of `run`, `run:method`, or a predictions.csv.

    Of a bare file, groups are the dialogues that ids name. Raises ValueError where there are none, or where seeds did
    not test the same utterances.
    """
    path = Path(what)
    if path.is_file():
        return [Predictions.read(path)]
    folder, _, named = str(what).rpartition(":")
    if named in METHODS and folder:
        path, method = Path(folder), named
    runs = list(seeds_of(path).values())
    predictions = [results.collect(run, method or default_method(run), selection)["predictions"] for run in runs]
    return [in_order_of(predictions[0], one, str(what)) for one in predictions]


def default_method(run: str | Path) -> str:
    """The furthest of the paper's methods that has a finished fold, else another; `align` where there is none."""
    finished = results.methods_of(run) or ["align"]
    return next((method for method in reversed(PAPERS) if method in finished), finished[-1])


def in_order_of(first: Predictions, other: Predictions, where: str) -> Predictions:
    """`other` with its utterances and classes in `first`'s order. Raises ValueError where they are not the same."""
    place = {name: i for i, name in enumerate(other.ids)}
    missing = [name for name in first.ids if name not in place]
    if missing or len(other.ids) != len(first.ids):
        example = f", {missing[0]} among them" if missing else ""
        raise ValueError(f"{where}: tested {len(other.ids)} utterances, the other {len(first.ids)}{example}; "
                         "only the same ones can be compared")
    if not {*other.classes} <= {*first.classes}:
        raise ValueError(f"{where}: classes {', '.join(other.classes)}, the other has {', '.join(first.classes)}")

    class_number = np.array([first.classes.index(name) for name in other.classes])
    order = [place[name] for name in first.ids]
    true, predicted = class_number[other.true[order]], class_number[other.predicted[order]]
    if (true != first.true).any():
        wrong = first.ids[int(np.flatnonzero(true != first.true)[0])]
        raise ValueError(f"{where}: utterance {wrong} has another label than in the other run")
    return Predictions(first.ids, true, predicted, None, first.groups, first.classes)


def compare(first: list[Predictions], second: list[Predictions], names: tuple[str, str], seed: int = 0) -> dict:
    """Paired differences second - first, as `metrics.paired_difference`. Raises ValueError for other utterances."""
    model = max(first[0], second[0], key=lambda one: len(one.classes))          # in a file a class may not occur
    predicted_first = np.stack([in_order_of(model, one, names[0]).predicted for one in first])          # (R, U)
    predicted_second = np.stack([in_order_of(model, one, names[1]).predicted for one in second])
    # A run knows speakers, a file may not: the larger groups are taken.
    grouped = min(first[0], second[0], key=lambda one: len({*one.groups}))
    groups = dict(zip(grouped.ids, grouped.groups))
    return metrics.paired_difference(model.true, predicted_first, predicted_second,
                                     [groups[name] for name in model.ids], len(model.classes), DRAWS, seed)


def difference_line(differences: dict, names: tuple[str, str]) -> str:
    """`B - A: WA +1.2 (-0.3 to 2.7, p 0.11), ...` in points."""
    parts = []
    for name, one in differences.items():
        low, high = one["interval"]
        parts.append(f"{NAMES[name]} {100 * one['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}, "
                     f"p {one['p']:.3f})")
    return f"{names[1]} - {names[0]}: " + ", ".join(parts)


def comparison(first: str, second: str, method: str = "", selection: str = "") -> str:
    """Both runs and their paired difference as text."""
    names = (str(first), str(second))
    sides = [predictions_of(name, method, selection) for name in names]
    rows = [["run", *NAMES.values(), "seeds", "utterances"]]
    for name, side in zip(names, sides):
        rows.append([name, *map(_percent, measured(side).mean(0)), str(len(side)), str(len(side[0].ids))])
    return "\n".join([*aligned(rows), difference_line(compare(*sides, names), names),
                      f"95 % intervals of {DRAWS} paired draws of {_resampled(sides[0][0])}"])


def measured(side: list[Predictions]) -> np.ndarray:
    """WA, UA and macro-F1 of each seed's pooled predictions: (R, 3)."""
    matrices = [metrics.confusion(one.true, one.predicted, len(one.classes)) for one in side]
    return np.array([[measure(matrix) for measure in metrics.MEASURES.values()] for matrix in matrices])


def seeds_table(run: str | Path, method: str, selection: str = "") -> str:
    """Pooled scores of each seed, their mean and deviation; the means of folds beside them."""
    rows = [["seed", *(f"pooled {name}" for name in NAMES.values()), *(f"mean {name}" for name in NAMES.values())]]
    numbers = []
    for seed, folder in seeds_of(run).items():
        collected = results.collect(folder, method, selection)
        folds = np.mean([[fold["reported"][name] for name in NAMES] for fold in collected["folds"].values()], 0)
        numbers.append([*(collected["pooled"][name] for name in NAMES), *folds])
        rows.append([seed, *map(_percent, numbers[-1])])
    rows.append(["mean", *map(_percent, np.mean(numbers, 0))])
    deviation = [""] * 6
    if len(numbers) > 1:
        deviation = list(map(_percent, np.std(numbers, 0, ddof=1)))
    rows.append(["deviation", *deviation])
    protocol = collected["protocol"] | {"seed": list(seeds_of(run))}
    return "\n".join([results.protocol_line(protocol), *aligned(rows)])


def ablation(run: str | Path, selection: str = "") -> str:
    """The paper's table: each finished method's WA, UA and macro-F1 with intervals, deviations, paired differences."""
    folders = seeds_of(run)
    methods = [method for method in METHODS
               if all(method in results.methods_of(folder) for folder in folders.values())]
    if not methods:
        every = " for every seed" if len(folders) > 1 else ""
        raise ValueError(f"{run}: no method has finished folds{every}; run bin/session.py --method all first")

    header = ["method"]
    for name in NAMES.values():
        header += [name, "95 %"]
    rows = [[*header, "UA over folds", "over seeds"]]
    sides = {method: predictions_of(run, method, selection) for method in methods}
    for method, side in sides.items():
        collected = [results.collect(folder, method, selection) for folder in folders.values()]
        rows.append(ablation_row(method, side, collected))

    differences = []
    for j, second in enumerate(methods):
        for first in methods[:j]:
            names = (first, second)
            differences.append(difference_line(compare(sides[first], sides[second], names), names))

    protocol = {name: value for name, value in collected[0]["protocol"].items() if name != "method"}    # the last's
    seeds = [seed for seed in folders if seed]
    if seeds:
        protocol["seed"] = seeds
    averaged = " and averaged over seeds" if len(folders) > 1 else ""
    return "\n".join([results.protocol_line(protocol), *aligned(rows), *differences,
                      f"pooled over folds{averaged}; 95 % intervals of {DRAWS} draws of "
                      f"{_resampled(sides[methods[0]][0])}, paired for differences"])


def ablation_row(method: str, side: list[Predictions], collected: list[dict]) -> list[str]:
    """One method's row. side: predictions of each seed; collected: its `results.collect`."""
    values = measured(side)                                                     # (R, 3)
    row = [method]
    for value, (low, high) in zip(values.mean(0), intervals(side)):
        row += [_percent(value), f"{_percent(low)} to {_percent(high)}"]
    over_folds = [np.std([fold["reported"]["ua"] for fold in one["folds"].values()], ddof=1)
                  for one in collected if len(one["folds"]) > 1]
    row.append(f"+- {_percent(np.mean(over_folds))}" if over_folds else "")
    row.append(f"+- {_percent(np.std(values[:, 1], ddof=1))}" if len(values) > 1 else "")
    return row


def intervals(side: list[Predictions]) -> list[tuple[float, float]]:
    """95 % intervals of the measures' means over seeds: each draw takes the same groups for every seed."""
    matrices = [metrics.resampled(one.true, one.predicted, one.groups, len(one.classes), DRAWS, 0) for one in side]
    return [metrics.interval(np.mean([measure(drawn) for drawn in matrices], 0), 0.95)
            for measure in metrics.MEASURES.values()]


def _resampled(predictions: Predictions) -> str:
    """What draws take whole: dialogues, speakers, or utterances."""
    if predictions.groups == predictions.ids:
        return "utterances"
    dialogues = [Utterance(name, Path(), 400).dialogue for name in predictions.ids]
    return "dialogues" if predictions.groups == dialogues else "speakers"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
