"""The numbers of a run with the protocol beside them: per fold, pooled and by subset, as a table and as `results.json`.

What the reference prints (mean of the best validation score and the test score of that epoch, each speaker of the
held-out session validating once) is computed from the same training as a second row, marked optimistic, where
fine-tuning noted what each epoch says of the test part (`finetune.test_every_epoch`): it uses that for nothing else.
"""
import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from framealign.runtime import files
from framealign.corpus import manifest
from framealign.corpus.protocols import SELECTIONS
from framealign.emotion import metrics
from framealign.emotion.metrics import scores
from framealign.recipe.recipe import METHODS, TESTED as STAGES, tested_stage
from framealign.recipe.stages import difference

OF_ONE_FOLD = ("session", "split")                  # settings that differ between the folds of one experiment
NAMES = {"wa": "WA", "ua": "UA", "macro_f1": "macro-F1"}


@dataclass(frozen=True)
class Predictions:
    """Test predictions of U utterances, and what they are resampled by."""
    ids: list[str]
    true: np.ndarray                                # (U,) class numbers
    predicted: np.ndarray                           # (U,)
    groups: list[str]                               # dialogue where known, else speaker, else the utterance itself
    classes: list[str]


def collect(run: str | Path, method: str, selection: str = "") -> dict:
    """Results of every finished fold of a method: {"protocol", "folds": {session: results}, "pooled": scores, ...}.

    selection: "" for the one there is. Pooled scores are computed once over all folds' test predictions; intervals
    resample dialogues where ids tell them, else speakers. "subsets": scores of improvised dialogues and of women and
    men, where the manifest knows them. "reference": what the reference would report of the same trainings, or None.
    Raises ValueError where no fold is finished, or where the folds are not of one experiment.
    """
    folds = finished(run, method, selection)
    first = next(iter(folds.values()))
    classes, seed = first["classes"], first["seed"]
    utterances = {u.id: u for u in manifest.read(Path(run) / "corpus.tsv", classes)}
    found = pooled_predictions(folds, utterances)
    score = lambda chosen: scores(found.true[chosen], found.predicted[chosen], classes,
                                  [found.groups[i] for i in chosen], seed)
    subsets = {name: chosen for name, belongs in SUBSETS.items()
               if (chosen := [i for i, name in enumerate(found.ids) if belongs(utterances[name])])}
    reference = {name: one for name, fold in folds.items() if (one := as_reference(fold, utterances))}
    return {"protocol": {"method": method, **first["protocol"], "versions": first["stage"].get("versions", {}),
                         "optimistic": first["optimistic"]},
            "folds": folds, "pooled": score(range(len(found.ids))), "predictions": found,
            "subsets": {name: score(chosen) for name, chosen in subsets.items() if len(chosen) < len(found.ids)},
            "reference": reference if len(reference) == len(folds) else None}


SUBSETS = {"improvised": lambda u: u.style == "impro", "women": lambda u: u.gender == "F",
           "men": lambda u: u.gender == "M"}


def pooled_predictions(folds: dict[str, dict], utterances: dict) -> Predictions:
    """The test predictions of all folds, in their order."""
    rows = [row for fold in folds.values() for row in read_predictions(fold["place"] / "predictions.csv")]
    classes = next(iter(folds.values()))["classes"]
    true, predicted = (np.array([classes.index(row[name]) for row in rows]) for name in ("true", "predicted"))
    groups = [utterances[row["id"]].dialogue or utterances[row["id"]].speaker or row["id"] for row in rows]
    return Predictions([row["id"] for row in rows], true, predicted, groups, classes)


def read_predictions(path: Path) -> list[dict[str, str]]:
    """The rows of a predictions.csv. Raises ValueError where it is not there or no such table."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable: {error}") from None
    if not rows or not {"id", "true", "predicted"} <= set(rows[0]):
        raise ValueError(f"{path}: must have the columns id, true and predicted and a row for each utterance")
    return rows


def as_reference(fold: dict, utterances: dict) -> dict | None:
    """What the reference's selection reports of a fold's own training: {"wa", "ua", "macro_f1", "epochs"}, or None.

    Each speaker of the test session validates once: the epoch of this speaker's best UA is taken, and the mean of that
    score and of the other speakers' is reported; then the mean over speakers. None where the epochs were not noted or
    there are not two speakers.
    """
    rows = read_predictions(fold["place"] / "predictions.csv")
    kept = fold["place"] / "epochs.jsonl"
    lines = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()] if kept.exists() else []
    noted = {line["epoch"]: line["predicted"] for line in lines}
    speakers = np.array([utterances[row["id"]].speaker for row in rows])
    if not noted or len(set(speakers)) < 2 or any(len(one) != len(rows) for one in noted.values()):
        return None
    classes = fold["classes"]
    true = np.array([classes.index(row["true"]) for row in rows])
    epochs, predicted = np.array(list(noted)), np.array(list(noted.values()))   # (E,), (E, U)
    measured = lambda chosen: np.stack([metrics.confusion(true[chosen], one[chosen], len(classes))
                                        for one in predicted])                  # (E, C, C)
    ways, chosen_epochs = [], []
    for speaker in sorted(set(speakers)):
        valid, test = measured(speakers == speaker), measured(speakers != speaker)
        best = int(np.argmax(metrics.ua(valid)))                                # the first of equals
        chosen_epochs.append(int(epochs[best]))
        ways.append([(measure(valid[best]) + measure(test[best])) / 2 for measure in metrics.MEASURES.values()])
    return dict(zip(metrics.MEASURES, np.mean(ways, 0).tolist())) | {"epochs": chosen_epochs}


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
                             f"{other}, {reason}; give each experiment an --out folder of its own")
    return folds


def methods_of(run: str | Path) -> list[str]:
    """The methods that have a finished fold in `run`, in the order of METHODS."""
    done = {path.parent.name for path in Path(run).glob("session*/*/stage.json")}
    return [method for method in METHODS if done & {tested_stage(method, selection) for selection in SELECTIONS}]


def table(results: dict) -> str:
    """Protocol line, a row per fold, mean and deviation, pooled, subsets, the reference's row, intervals, confusion."""
    classes, protocol = results["protocol"]["classes"], results["protocol"]
    lines = [protocol_line(protocol), *(["optimistic: looks at the test session before the test"]
                                        if protocol["optimistic"] else [])]
    header = ["session", "WA", "UA", "macro-F1", *classes, "utterances"]
    folds = {name: _percent(fold["reported"], fold["test"], classes) for name, fold in results["folds"].items()}
    rows = [[name, *map(_short, numbers), str(results["folds"][name]["num_utterances"]["test"])]
            for name, numbers in folds.items()]
    pooled, columns = results["pooled"], list(zip(*folds.values()))
    total = str(_count(pooled))
    rows.append(["mean", *(_short(float(np.mean(column))) for column in columns), total])
    if len(folds) > 1:
        rows.append(["deviation", *(_short(float(np.std(column, ddof=1))) for column in columns), ""])
    for name, one in {"pooled": pooled, **results["subsets"]}.items():
        rows.append([name, *map(_short, _percent(one, one, classes)), str(_count(one))])
    if results["reference"]:
        ways = [[100 * one[name] for name in NAMES] for one in results["reference"].values()]
        rows.append(["reference", *map(_short, np.mean(ways, 0)), *[""] * (len(classes) + 1)])
    lines += aligned([header, *rows])
    lines.append("mean, deviation: of the folds as the selection reports them; pooled: once over all test predictions")
    if results["reference"]:
        lines.append("reference: the same trainings, epoch and score as the released code chooses them: optimistic")
    lines.append("95 % intervals, pooled: " + ", ".join(
        f"{NAMES[name]} {100 * low:.1f} to {100 * high:.1f}" for name, (low, high) in pooled["interval_95"].items()))
    lines += ["confusion, pooled (rows: truth, columns: predicted)"]
    lines += aligned([["", *classes], *([name, *map(str, row)] for name, row in zip(classes, pooled["confusion"]))])
    return "\n".join(lines)


def protocol_line(protocol: dict) -> str:
    """What a number means, in one line."""
    words = lambda x: " ".join(map(str, x)) if isinstance(x, list) else \
        " ".join(f"{key} {value}" for key, value in x.items()) if isinstance(x, dict) else x
    return "protocol: " + ", ".join(f"{key.replace('_', ' ')} {words(value)}" for key, value in protocol.items()
                                    if key != "optimistic" and value != {})


def write(run: str | Path, results: dict) -> None:
    """Put a method's results into `run/results.json`, beside those of other methods."""
    path = Path(run) / "results.json"
    folds = {name: {key: value for key, value in fold.items() if key not in ("place", "stage")}
             for name, fold in results["folds"].items()}
    reported = {name: [fold["reported"][name] for fold in folds.values()] for name in NAMES}
    mean = {name: float(np.mean(values)) for name, values in reported.items()}
    deviation = {name: float(np.std(values, ddof=1)) if len(values) > 1 else None for name, values in reported.items()}
    content = {key: value for key, value in results.items() if key != "predictions"} | {
        "folds": folds, "mean": mean, "deviation": deviation}
    known = files.read_json(path) if path.exists() else {}
    files.write_json(path, known | {results["protocol"]["method"]: content})


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows of cells as lines, columns right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _count(one: dict) -> int:
    return sum(map(sum, one["confusion"]))


def _percent(reported: dict, test: dict, classes: list[str]) -> list[float]:
    numbers = [reported["wa"], reported["ua"], reported["macro_f1"], *(test["recall"][name] for name in classes)]
    return [100 * number for number in numbers]


def _short(number: float) -> str:
    return f"{number:.1f}"
