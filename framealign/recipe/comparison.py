"""Several runs beside each other: seeds of one experiment, two runs on the same utterances, the paper's ablation.

A run over seeds is a folder with `seed1`, `seed2`, ..., each a run of its own. Differences are paired: both sides are
measured on the same resampled dialogues (`metrics.paired_difference`).
"""
import itertools
from pathlib import Path

import numpy as np

from framealign.corpus.utterance import Utterance
from framealign.emotion import metrics
from framealign.recipe import results
from framealign.recipe.recipe import METHODS, PAPERS
from framealign.recipe.results import NAMES, Predictions, aligned

DRAWS = 2000


def seeds_of(run: str | Path) -> dict[str, Path]:
    """The runs of each seed: {"1": run/seed1, ...}; {"": run} where it is no run over seeds."""
    places = sorted((place for place in Path(run).glob("seed*") if place.name[4:].isdigit() and place.is_dir()),
                    key=lambda place: int(place.name[4:]))
    return {place.name[4:]: place for place in places} or {"": Path(run)}


def predictions_of(what: str | Path, method: str = "", selection: str = "") -> list[Predictions]:
    """Test predictions, one for each seed, of `run`, `run:method`, or a predictions.csv.

    Of a bare file, groups are the dialogues that ids tell. Raises ValueError where there are none, or where seeds did
    not test the same utterances.
    """
    path = Path(what)
    if path.is_file():
        rows = results.read_predictions(path)
        classes = sorted({row["true"] for row in rows} | {row["predicted"] for row in rows})
        true, predicted = (np.array([classes.index(row[name]) for row in rows]) for name in ("true", "predicted"))
        groups = [Utterance(row["id"], path, 400).dialogue or row["id"] for row in rows]
        return [Predictions([row["id"] for row in rows], true, predicted, groups, classes)]
    folder, _, named = str(what).rpartition(":")
    if named in METHODS and folder:
        path, method = Path(folder), named
    found = [results.collect(place, method or default_method(place), selection)["predictions"]
             for place in seeds_of(path).values()]
    return [in_order_of(found[0], one, str(what)) for one in found]


def default_method(run: str | Path) -> str:
    """The furthest of the paper's methods that has a finished fold, else another; `align` where there is none."""
    found = results.methods_of(run) or ["align"]
    return next((method for method in reversed(PAPERS) if method in found), found[-1])


def in_order_of(first: Predictions, other: Predictions, where: str) -> Predictions:
    """`other` with its utterances and classes in `first`'s order. Raises ValueError where they are not the same."""
    place = {name: i for i, name in enumerate(other.ids)}
    missing = [name for name in first.ids if name not in place]
    if missing or len(other.ids) != len(first.ids):
        raise ValueError(f"{where}: tested {len(other.ids)} utterances, the other {len(first.ids)}"
                         f"{f', {missing[0]} among them' if missing else ''}; only the same ones can be compared")
    if not {*other.classes} <= {*first.classes}:
        raise ValueError(f"{where}: classes {', '.join(other.classes)}, the other has {', '.join(first.classes)}")
    number = np.array([first.classes.index(name) for name in other.classes])
    order = [place[name] for name in first.ids]
    true, predicted = number[other.true[order]], number[other.predicted[order]]
    if (true != first.true).any():
        wrong = first.ids[int(np.flatnonzero(true != first.true)[0])]
        raise ValueError(f"{where}: utterance {wrong} has another label than in the other run")
    return Predictions(first.ids, true, predicted, first.groups, first.classes)


def compare(first: list[Predictions], second: list[Predictions], names: tuple[str, str], seed: int = 0) -> dict:
    """Paired differences second - first, as `metrics.paired_difference`. Raises ValueError for other utterances."""
    one = max([first[0], second[0]], key=lambda found: len(found.classes))      # of files: a class may never occur
    sides = [np.stack([in_order_of(one, found, name).predicted for found in side])
             for side, name in zip((first, second), names)]
    grouped = first[0] if len({*first[0].groups}) <= len({*second[0].groups}) else second[0]
    groups = dict(zip(grouped.ids, grouped.groups))                             # a run knows speakers, a file may not
    return metrics.paired_difference(one.true, *sides, [groups[name] for name in one.ids], len(one.classes), DRAWS,
                                     seed)


def difference_line(found: dict, names: tuple[str, str]) -> str:
    """`B - A: WA +1.2 (-0.3 to 2.7, p 0.11), ...` in points."""
    parts = [f"{NAMES[name]} {100 * one['difference']:+.1f} ({100 * one['interval'][0]:+.1f} to "
             f"{100 * one['interval'][1]:+.1f}, p {one['p']:.3f})" for name, one in found.items()]
    return f"{names[1]} - {names[0]}: " + ", ".join(parts)


def comparison(first: str, second: str, method: str = "", selection: str = "") -> str:
    """Both runs and their paired difference as text."""
    sides = [predictions_of(what, method, selection) for what in (first, second)]
    names, rows = (str(first), str(second)), [["run", *NAMES.values(), "seeds", "utterances"]]
    for name, side in zip(names, sides):
        rows.append([name, *(_percent(value) for value in measured(side).mean(0)), str(len(side)),
                     str(len(side[0].ids))])
    return "\n".join([*aligned(rows), difference_line(compare(*sides, names), names),
                      f"95 % intervals of {DRAWS} paired draws of {_unit(sides[0][0])}"])


def measured(side: list[Predictions]) -> np.ndarray:
    """WA, UA and macro-F1 of each seed's pooled predictions: (R, 3)."""
    matrices = [metrics.confusion(one.true, one.predicted, len(one.classes)) for one in side]
    return np.array([[measure(matrix) for measure in metrics.MEASURES.values()] for matrix in matrices])


def seeds_table(run: str | Path, method: str, selection: str = "") -> str:
    """Pooled scores of each seed, their mean and deviation; the means of folds beside them."""
    rows = [["seed", *(f"pooled {name}" for name in NAMES.values()), *(f"mean {name}" for name in NAMES.values())]]
    numbers = []
    for seed, place in seeds_of(run).items():
        found = results.collect(place, method, selection)
        folds = np.mean([[fold["reported"][name] for name in NAMES] for fold in found["folds"].values()], 0)
        numbers.append([*(found["pooled"][name] for name in NAMES), *folds])
        rows.append([seed, *map(_percent, numbers[-1])])
    rows.append(["mean", *map(_percent, np.mean(numbers, 0))])
    rows.append(["deviation", *(map(_percent, np.std(numbers, 0, ddof=1)) if len(numbers) > 1 else [""] * 6)])
    return "\n".join([results.protocol_line(found["protocol"] | {"seed": list(seeds_of(run))}), *aligned(rows)])


def ablation(run: str | Path, selection: str = "") -> str:
    """The paper's table: each finished method's WA, UA and macro-F1 with intervals, deviations, paired differences."""
    places = seeds_of(run)
    methods = [method for method in METHODS if all(method in results.methods_of(place) for place in places.values())]
    if not methods:
        raise ValueError(f"{run}: no method has finished folds{' for every seed' if len(places) > 1 else ''}; "
                         "run bin/session.py --method all first")
    sides = {method: predictions_of(run, method, selection) for method in methods}
    rows = [["method", *itertools.chain(*((name, "95 %") for name in NAMES.values())), "UA over folds", "over seeds"]]
    for method, side in sides.items():
        found = [results.collect(place, method, selection) for place in places.values()]
        folds = [np.std([fold["reported"]["ua"] for fold in one["folds"].values()], ddof=1)
                 for one in found if len(one["folds"]) > 1]
        values = measured(side)
        cells = [(_percent(value), f"{_percent(low)} to {_percent(high)}")
                 for value, (low, high) in zip(values.mean(0), intervals(side))]
        rows.append([method, *itertools.chain(*cells), f"+- {_percent(np.mean(folds))}" if folds else "",
                     f"+- {_percent(np.std(values[:, 1], ddof=1))}" if len(values) > 1 else ""])
    names = list(sides)
    pairs = [(names[i], names[j]) for j in range(len(names)) for i in range(j)]
    found = results.collect(next(iter(places.values())), methods[-1], selection)["protocol"]
    protocol = {key: value for key, value in found.items() if key != "method"} | {"seed": list(filter(None, places))
                                                                                  or found["seed"]}
    return "\n".join([results.protocol_line(protocol), *aligned(rows),
                      *(difference_line(compare(sides[a], sides[b], (a, b)), (a, b)) for a, b in pairs),
                      f"pooled over folds{' and averaged over seeds' if len(places) > 1 else ''}; 95 % intervals of "
                      f"{DRAWS} draws of {_unit(next(iter(sides.values()))[0])}, paired for differences"])


def intervals(side: list[Predictions]) -> list[tuple[float, float]]:
    """95 % intervals of the measures' means over seeds: each draw takes the same groups for every seed."""
    drawn = [metrics.resampled(one.true, one.predicted, one.groups, len(one.classes), DRAWS, 0) for one in side]
    return [metrics.interval(np.mean([measure(x) for x in drawn], 0), 0.95) for measure in metrics.MEASURES.values()]


def _unit(found: Predictions) -> str:
    """What is drawn: dialogues, speakers, or utterances."""
    if found.groups == found.ids:
        return "utterances"
    dialogues = [Utterance(name, Path(), 400).dialogue for name in found.ids]
    return "dialogues" if found.groups == dialogues else "speakers"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
