"""Several runs beside each other: seeds of one experiment, two runs on the same utterances, the paper's ablation.

A run over seeds is a folder with `seed1`, `seed2`, ..., each a run of its own. Differences are paired: both sides are
measured on the same speakers (`metrics.paired_difference`). Intervals of several seeds hold for new seeds too.
"""
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from framealign.emotion import metrics
from framealign.emotion.predictions import Predictions
from framealign.recipe import results
from framealign.recipe.results import NAMES, aligned, claim, interval_words
from framealign.recipe.session_config import METHODS, SHARE, foremost, frames_stages


def seeds_of(run: str | Path) -> dict[str, Path]:
    """The runs of each seed: {"1": run/seed1, ...}; {"": run} where it is no run over seeds.

    `run/share0.1`, of a share of the labels, is run/seed1/share0.1 and so on. A seed of which such shares alone were
    run has no other run.
    """
    run = Path(run)
    if run.name.startswith(SHARE):
        of_share = {seed: folder / run.name for seed, folder in _seed_folders(run.parent).items()
                    if (folder / run.name).is_dir()}
        if of_share:
            return of_share
    return {seed: folder for seed, folder in _seed_folders(run).items()
            if any(folder.glob("session*")) or not any(folder.glob(f"{SHARE}*"))} or {"": run}


def _seed_folders(run: Path) -> dict[str, Path]:
    """The folders of each seed in a run's, by number."""
    folders = [folder for folder in run.glob("seed*") if folder.name[4:].isdigit() and folder.is_dir()]
    return {folder.name[4:]: folder for folder in sorted(folders, key=lambda folder: int(folder.name[4:]))}


def finished_methods(runs: Mapping[str, Path]) -> list[str]:
    """The methods that have a finished fold in each of these runs, in the order of METHODS."""
    finished = [results.methods_of(run) for run in runs.values()]
    return [method for method in METHODS if all(method in methods for methods in finished)]


def default_method(runs: Mapping[str, Path]) -> str:
    """The method that stands for runs, `session_config.foremost`; `align` where none is finished."""
    return foremost(finished_methods(runs)) or "align"


def collect(runs: Mapping[str, Path], methods: Iterable[str], selection: str = "") -> dict[str, dict[str, dict]]:
    """`results.collect` of each method and seed: {method: {seed: results}}. Raises ValueError as that."""
    return {method: {seed: results.collect(run, method, selection) for seed, run in runs.items()}
            for method in methods}


def write(runs: Mapping[str, Path], collected: dict[str, dict[str, dict]]) -> None:
    """Write what was collected into each run's `results.json`."""
    for of_seed in collected.values():
        for seed, one in of_seed.items():
            results.write(runs[seed], one)


def predictions_of(what: str | Path, method: str = "", selection: str = "") -> list[Predictions]:
    """Test predictions, one for each seed, of `run`, `run:method`, `run:frames`, or a predictions.csv.

    `frames` may be any stage with a classifier of frames (`session_config.frames_stages`). Of a bare file, groups are
    the speakers that ids tell. Raises ValueError where there are none, or where seeds did not test the same utterances.
    """
    path = Path(what)
    if path.is_file():
        return [Predictions.read(path)]
    folder, _, named = str(what).rpartition(":")
    if named in frames_stages() and folder:
        of_seeds = [results.predictions_of_frames(run, named) for run in seeds_of(folder).values()]
        return [in_order_of(of_seeds[0], one, str(what)) for one in of_seeds]
    if named in METHODS and folder:
        path, method = Path(folder), named
    runs = seeds_of(path)
    method = method or default_method(runs)
    return side_of(collect(runs, [method], selection)[method], str(what))


def side_of(of_seed: dict[str, dict], where: str) -> list[Predictions]:
    """The test predictions of each seed, in the first one's order. Raises ValueError as `in_order_of`."""
    predictions = [one["predictions"] for one in of_seed.values()]
    return [in_order_of(predictions[0], one, where) for one in predictions]


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


def compare(first: list[Predictions], second: list[Predictions], names: tuple[str, str]) -> dict:
    """Paired differences second - first, as `metrics.paired_difference`. Raises ValueError for other utterances."""
    model = max(first[0], second[0], key=lambda one: len(one.classes))          # in a file a class may not occur
    predicted_first = np.stack([in_order_of(model, one, names[0]).predicted for one in first])          # (R, U)
    predicted_second = np.stack([in_order_of(model, one, names[1]).predicted for one in second])
    grouped = knows_speakers(first, second)
    groups = dict(zip(grouped.ids, grouped.groups))
    return metrics.paired_difference(model.true, predicted_first, predicted_second,
                                     [groups[name] for name in model.ids], len(model.classes))


def knows_speakers(first: list[Predictions], second: list[Predictions]) -> Predictions:
    """The side with the larger groups: a run knows speakers, a file may not."""
    return min(first[0], second[0], key=lambda one: len({*one.groups}))


def difference_line(differences: dict, names: tuple[str, str]) -> str:
    """`B - A: WA +1.2 (-0.3 to +2.7, p 0.110), ...` in points; no p where there is none."""
    parts = []
    for name, one in differences.items():
        words = "no interval"
        if one["interval"]:
            low, high = one["interval"]
            words = f"{100 * low:+.1f} to {100 * high:+.1f}"
        if one["p"] is not None:
            words += ", p < 0.001" if one["p"] < 0.001 else f", p {one['p']:.3f}"
        parts.append(f"{NAMES[name]} {100 * one['difference']:+.1f} ({words})")
    return f"{names[1]} - {names[0]}: " + ", ".join(parts)


def differences_note(sides: Sequence[list[Predictions]]) -> str:
    """What the intervals of differences between these are for, and whether there is a p."""
    grouped = knows_speakers(sides[0], sides[-1])
    few = len({*grouped.groups}) < metrics.MIN_GROUPS
    return (f"95 % intervals of paired differences, {claim(grouped.groups_in_words(), [len(side) for side in sides])}"
            + (f"; p from {metrics.MIN_GROUPS} speakers on" if few else ""))


def comparison(first: str, second: str, method: str = "", selection: str = "") -> str:
    """Both runs and their paired difference as text."""
    names = (str(first), str(second))
    sides = [predictions_of(name, method, selection) for name in names]
    rows = [["run", *NAMES.values(), "seeds", "utterances"]]
    for name, side in zip(names, sides):
        rows.append([name, *map(_percent, measured(side).mean(0)), str(len(side)), str(len(side[0].ids))])
    return "\n".join([*aligned(rows), difference_line(compare(*sides, names), names), differences_note(sides)])


def measured(side: list[Predictions]) -> np.ndarray:
    """WA, UA and macro-F1 of each seed's pooled predictions: (R, 3)."""
    matrices = [metrics.confusion(one.true, one.predicted, len(one.classes)) for one in side]
    return np.array([[measure(matrix) for measure in metrics.MEASURES.values()] for matrix in matrices])


def table(collected: dict[str, dict[str, dict]]) -> str:
    """The table of what was collected: of methods beside each other, of seeds, or of one run."""
    if len(collected) > 1:
        return ablation(collected)
    of_seed, = collected.values()
    return results.table(of_seed[""]) if "" in of_seed else seeds_table(of_seed)


def seeds_table(of_seed: dict[str, dict]) -> str:
    """Pooled scores of each seed, their mean and deviation; the means of folds beside them; intervals of the mean.

    of_seed: `results.collect` of each.
    """
    rows = [["seed", *(f"pooled {name}" for name in NAMES.values()), *(f"mean {name}" for name in NAMES.values())]]
    numbers = []
    for seed, collected in of_seed.items():
        folds = np.mean([[fold["reported"][name] for name in NAMES] for fold in collected["folds"].values()], 0)
        numbers.append([*(collected["pooled"][name] for name in NAMES), *folds])
        rows.append([seed, *map(_percent, numbers[-1])])
    rows.append(["mean", *map(_percent, np.mean(numbers, 0))])
    deviation = [""] * 6
    if len(numbers) > 1:
        deviation = list(map(_percent, np.std(numbers, 0, ddof=1)))
    rows.append(["deviation", *deviation])
    side = side_of(of_seed, "seeds")
    words = ", ".join(f"{name} {interval_words(ends)}" for name, ends in zip(NAMES.values(), intervals(side)))
    return "\n".join([results.protocol_line(protocol_of(of_seed)), *aligned(rows), *missing_lines(of_seed),
                      f"95 % intervals of the mean, pooled, {claim(side[0].groups_in_words(), [len(side)])}: {words}"])


def protocol_of(of_seed: dict[str, dict]) -> dict:
    """The protocol of the last seed, with all seeds where there are several folders of them."""
    *_, last = of_seed.values()
    return last["protocol"] | ({} if "" in of_seed else {"seed": list(of_seed)})


def missing_lines(of_seed: dict[str, dict]) -> list[str]:
    """A line for each fold a part of which lacks a class, the same for every seed."""
    *_, last = of_seed.values()
    kind = results.kind_of_fold(last["protocol"])
    return [f"{kind} {name}: {results.missing_words(names)}" for name, names in last["missing"].items()]


def ablation(collected: dict[str, dict[str, dict]]) -> str:
    """The paper's table: each method's WA, UA and macro-F1 with intervals, deviations, paired differences."""
    header = ["method"]
    for name in NAMES.values():
        header += [name, "95 %"]
    rows = [[*header, "UA over folds", "over seeds"]]
    sides = {method: side_of(of_seed, method) for method, of_seed in collected.items()}
    for method, side in sides.items():
        rows.append(ablation_row(method, side, list(collected[method].values())))

    differences = []
    for j, second in enumerate(sides):
        for first in list(sides)[:j]:
            names = (first, second)
            differences.append(difference_line(compare(sides[first], sides[second], names), names))

    *_, of_seed = collected.values()
    *_, side = sides.values()
    protocol = {name: value for name, value in protocol_of(of_seed).items() if name != "method"}
    averaged = " and averaged over seeds" if len(of_seed) > 1 else ""
    notes = [f"pooled over folds{averaged}; 95 % intervals {claim(side[0].groups_in_words(), [len(side)])}"]
    if differences:
        notes.append(differences_note([side]))
    return "\n".join([results.protocol_line(protocol), *aligned(rows), *missing_lines(of_seed), *differences, *notes])


def ablation_row(method: str, side: list[Predictions], collected: list[dict]) -> list[str]:
    """One method's row. side: predictions of each seed; collected: its `results.collect`."""
    values = measured(side)                                                     # (R, 3)
    row = [method]
    for value, ends in zip(values.mean(0), intervals(side)):
        row += [_percent(value), interval_words(ends)]
    over_folds = [np.std([fold["reported"]["ua"] for fold in one["folds"].values()], ddof=1)
                  for one in collected if len(one["folds"]) > 1]
    row.append(f"+- {_percent(np.mean(over_folds))}" if over_folds else "")
    row.append(f"+- {_percent(np.std(values[:, 1], ddof=1))}" if len(values) > 1 else "")
    return row


def intervals(side: list[Predictions]) -> list[tuple[float, float] | None]:
    """95 % intervals of the measures' means over seeds, as `metrics.intervals`."""
    predicted = np.stack([one.predicted for one in side])                       # (R, U)
    return list(metrics.intervals(side[0].true, predicted, side[0].groups, len(side[0].classes)).values())


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
