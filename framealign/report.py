"""The numbers of a run with the protocol beside them: per fold and pooled, as a table."""
import csv
from pathlib import Path

import numpy as np

from framealign import corpus, files
from framealign.finetune import scores

STAGES = {"finetune": "finetune", "tapt": "tapt-finetune", "align": "ser-finetune"}     # whose test a method reports


def collect(run: str | Path, method: str) -> dict:
    """Results of every finished fold of a method: {"protocol", "folds": {session: results}, "pooled": scores}.

    Pooled scores are computed once over all folds' test predictions; intervals resample dialogues where ids tell them,
    else speakers. Raises ValueError where no fold is finished.
    """
    folds, rows = {}, []
    for fold in sorted(Path(run).glob("session*"), key=lambda place: (len(place.name), place.name)):
        names = sorted(place.name for place in fold.glob(f"{STAGES[method]}*") if (place / "stage.json").exists())
        if not names:
            continue
        place = fold / names[-1]
        record = files.read_json(place / "stage.json")
        folds[fold.name.removeprefix("session")] = files.read_json(place / "results.json") | {"stage": record}
        with open(place / "predictions.csv", encoding="utf-8", newline="") as file:
            rows += list(csv.DictReader(file))
    if not folds:
        raise ValueError(f"{run}: no finished fold of method {method}; run bin/session.py first")
    first = next(iter(folds.values()))
    classes, settings = first["classes"], first["stage"]["settings"]
    true, predicted = (np.array([classes.index(row[name]) for row in rows]) for name in ("true", "predicted"))
    known = {u.id: u.dialogue or u.speaker for u in corpus.read(Path(run) / "corpus.tsv", classes)}
    pooled = scores(true, predicted, classes, [known[row["id"]] for row in rows], settings["seed"])
    protocol = {"method": method, "selection": first["selection"], "pretrain_data": settings["pretrain_data"],
                "classes": classes, "test_truncation": f"{first['test_max_seconds']} s" if first["test_max_seconds"]
                else "none", "seed": settings["seed"], "preset": settings["preset"],
                "optimistic": first["optimistic"]}
    return {"protocol": protocol, "folds": folds, "pooled": pooled}


def table(results: dict) -> str:
    """Protocol line, a row per fold and one pooled, recall of each class, confusion matrix."""
    classes, protocol = results["protocol"]["classes"], results["protocol"]
    words = ", ".join(f"{key} {', '.join(value) if isinstance(value, list) else value}"
                      for key, value in protocol.items() if key not in ("optimistic", "classes"))
    lines = [f"protocol: {words}", *(["optimistic: looks at the test session before the test"]
                                     if protocol["optimistic"] else [])]
    header = ["session", "WA", "UA", "macro-F1", *classes, "utterances"]
    rows = [[name, *_percent(fold["reported"], fold["test"], classes), str(fold["num_utterances"]["test"])]
            for name, fold in results["folds"].items()]
    pooled = results["pooled"]
    rows.append(["pooled", *_percent(pooled, pooled, classes), str(sum(map(sum, pooled["confusion"])))])
    lines += aligned([header, *rows])
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


def _percent(reported: dict, test: dict, classes: list[str]) -> list[str]:
    numbers = [reported["wa"], reported["ua"], reported["macro_f1"], *(test["recall"][name] for name in classes)]
    return [f"{100 * number:.1f}" for number in numbers]
