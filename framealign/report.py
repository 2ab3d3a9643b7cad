"""The numbers of a run with the protocol beside them: per fold and pooled, as a table."""
import csv
from pathlib import Path

import numpy as np

from framealign import corpus, files
from framealign.config import SELECTIONS
from framealign.finetune import scores
from framealign.session import TESTED as STAGES
from framealign.session import tested_stage
from framealign.stages import difference

OF_ONE_FOLD = ("session", "split")                  # settings that differ between the folds of one experiment


def collect(run: str | Path, method: str, selection: str = "") -> dict:
    """Results of every finished fold of a method: {"protocol", "folds": {session: results}, "pooled": scores}.

    selection: "" for the one there is. Pooled scores are computed once over all folds' test predictions; intervals
    resample dialogues where ids tell them, else speakers. Raises ValueError where no fold is finished, or where the
    folds are not of one experiment.
    """
    folds, rows = finished(run, method, selection), []
    for fold in folds.values():
        with open(fold["place"] / "predictions.csv", encoding="utf-8", newline="") as file:
            rows += list(csv.DictReader(file))
    first = next(iter(folds.values()))
    classes = first["classes"]
    true, predicted = (np.array([classes.index(row[name]) for row in rows]) for name in ("true", "predicted"))
    group = {u.id: u.dialogue or u.speaker or u.id for u in corpus.read(Path(run) / "corpus.tsv", classes)}
    pooled = scores(true, predicted, classes, [group[row["id"]] for row in rows], first["seed"])
    return {"protocol": {"method": method, **first["protocol"], "optimistic": first["optimistic"]}, "folds": folds,
            "pooled": pooled}


def finished(run: str | Path, method: str, selection: str) -> dict[str, dict]:
    """Results, stage record and folder of every finished fold, by session. Raises ValueError as `collect`."""
    folds: dict[str, dict] = {}
    names = sorted({tested_stage(method, one) for one in ([selection] if selection else SELECTIONS)})
    for fold in sorted(Path(run).glob("session*"), key=lambda place: (len(place.name), place.name)):
        places = [fold / name for name in names if (fold / name / "stage.json").exists()]
        found = [files.read_json(place / "results.json")
                 | {"stage": files.read_json(place / "stage.json"), "place": place} for place in places]
        found = [one for one in found if selection in ("", one["selection"])]
        if len(found) > 1:
            raise ValueError(f"{fold}: has results of several selections "
                             f"({', '.join(one['selection'] for one in found)}); choose one with --selection")
        folds |= {fold.name.removeprefix("session"): one for one in found}
    if not folds:
        raise ValueError(f"{run}: no finished fold of method {method}{selection and f', selection {selection}'}; "
                         "run bin/session.py first")
    (name, first), *others = folds.items()
    settings, *rest = ({key: value for key, value in one["stage"]["settings"].items() if key not in OF_ONE_FOLD}
                       | {"base_digest": one["protocol"]["base_digest"]} for one in folds.values())
    for (other, _), its_own in zip(others, rest):
        if reason := difference(settings, its_own):
            raise ValueError(f"{run}: folds of two experiments cannot be pooled: from session {name} to session "
                             f"{other}, {reason}; give each experiment a --run folder of its own")
    return folds


def table(results: dict) -> str:
    """Protocol line, a row per fold, their mean, one pooled, recall of each class, intervals, confusion matrix."""
    classes, protocol = results["protocol"]["classes"], results["protocol"]
    words = ", ".join(f"{key.replace('_', ' ')} {' '.join(value) if isinstance(value, list) else value}"
                      for key, value in protocol.items() if key != "optimistic")
    lines = [f"protocol: {words}", *(["optimistic: looks at the test session before the test"]
                                     if protocol["optimistic"] else [])]
    header = ["session", "WA", "UA", "macro-F1", *classes, "utterances"]
    folds = {name: _percent(fold["reported"], fold["test"], classes) for name, fold in results["folds"].items()}
    rows = [[name, *map(_short, numbers), str(results["folds"][name]["num_utterances"]["test"])]
            for name, numbers in folds.items()]
    pooled = results["pooled"]
    total = str(sum(map(sum, pooled["confusion"])))
    rows.append(["mean", *(_short(float(np.mean(column))) for column in zip(*folds.values())), total])
    rows.append(["pooled", *map(_short, _percent(pooled, pooled, classes)), total])
    lines += aligned([header, *rows])
    lines.append("mean: of the folds as the selection reports them; pooled: once over all test predictions")
    lines.append("95 % intervals, pooled: " + ", ".join(
        f"{name.upper() if len(name) == 2 else 'macro-F1'} {100 * low:.1f} to {100 * high:.1f}"
        for name, (low, high) in pooled["interval_95"].items()))
    lines += ["confusion, pooled (rows: truth, columns: predicted)"]
    lines += aligned([["", *classes], *([name, *map(str, row)] for name, row in zip(classes, pooled["confusion"]))])
    return "\n".join(lines)


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows of cells as lines, columns right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]


def _percent(reported: dict, test: dict, classes: list[str]) -> list[float]:
    numbers = [reported["wa"], reported["ua"], reported["macro_f1"], *(test["recall"][name] for name in classes)]
    return [100 * number for number in numbers]


def _short(number: float) -> str:
    return f"{number:.1f}"
