"""The numbers of a run with the protocol beside them: per fold, pooled and by subset, as a table and as `results.json`.

The reference code reports the mean of the best validation score and of the test score at that epoch, where each speaker
of the held-out session validates once. That number is computed from the same training as a second row, marked
optimistic, where fine-tuning recorded the test predictions of each epoch (`finetune.test_every_epoch`); nothing else
uses these.
"""
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from framealign.runtime import files
from framealign.corpus import manifest
from framealign.corpus.folds import SHARED, described, kind_of
from framealign.corpus.protocols import SELECTIONS
from framealign.corpus.utterance import Utterance, by_corpus
from framealign.emotion import metrics
from framealign.emotion.predictions import UNCALIBRATED, Predictions
from framealign.recipe.session_config import METHODS, foremost, frames_stages_of, named_by_selection, tested_stage
from framealign.recipe.stages import difference

PER_FOLD_SETTINGS = ("session", "split")            # settings that differ between the folds of one experiment
MAX_COLUMNS = 12                                    # of classes or folds beside each other in a table
NAMES = {"wa": "WA", "ua": "UA", "macro_f1": "macro-F1"}
# Scores of the emotion over time, the name of each in a table, and what it says.
OVER_TIME = {"eder": ("EDER", "of the time a wrong emotion, frame by frame: the sum of the next three"),
             "false_alarm": ("false alarm", "an emotion where it is neutral"),
             "missed": ("missed", "neutral where it is not"),
             "confused": ("confused", "another emotion than the true one"),
             "segment_eder": ("segments", "of the time a wrong emotion, by segments"),
             "always_neutral": ("always neutral", "what a recogniser has that always says neutral"),
             "label_everywhere": ("label everywhere", "what it has that gives the whole utterance its own label"),
             "emotional_auc": ("AUC emotional", "emotional frames above the others, by 1 - p(neutral); chance 0.5"),
             "class_auc": ("AUC class", "the same by p(the utterance's label)"),
             "boundary_f1": ("boundary F1", "of the segments' boundaries, within 0.2 s")}
SHARED_SPEAKERS = ("speakers shared: some speakers of the test are in the training data, too; new speakers are "
                   "recognised worse, and intervals are not for them")
# How right confidences are, by whether logits were divided by a temperature: names in a table, keys in scores.
CALIBRATIONS = {"before": "uncalibrated", "after": "calibration"}
CALIBRATION_COLUMNS = ("ECE", "if calibrated", "adaptive ECE", "if calibrated", "Brier", "AURC", "confidence")
CALIBRATION_NOTE = """ECE: expected calibration error, the mean difference of confidence and accuracy, in %, in 15 bins
of equal width; adaptive: of equal size. If calibrated: what chance alone gives a perfectly calibrated recogniser with
the same confidences, mean and 95 % quantile. Brier: 0 to 2. AURC: area under the curve of risk by coverage, the share
of wrong answers in % among the most confident, averaged over all shares answered. Confidence: its mean, in %."""
NO_INTERVAL = ("none: an interval needs two speakers that differ and, of UA and macro-F1, of each class utterances of "
               "two speakers")


def collect(run: str | Path, method: str, selection: str = "") -> dict:
    """Results of every finished fold of a method: {"protocol", "folds": {session: results}, "pooled": scores, ...}.

    selection: "" for the only one there is. Pooled scores are computed once over all folds' test predictions, with
    intervals over `Utterance.group`. "subsets": scores of improvised dialogues, of women, of men and, unless they are
    the folds, of each of several corpora, where the manifest knows them. "reference": what the reference code would
    report of the same trainings, or None. "missing": `missing_classes` of the folds that lack any, by session.
    "calibration": `pooled_calibrations`. Folds whose frames were learned have "frames", results by stage (`of_frames`).
    Raises ValueError where no fold is finished, or where the folds are not of one experiment or tested an utterance
    twice.
    """
    folds = finished_folds(run, method, selection)
    first = next(iter(folds.values()))
    utterances = utterances_of(run)
    tables = [Predictions.read(fold["folder"] / "predictions.csv", utterances) for fold in folds.values()]
    try:
        pooled = Predictions.joined(tables)
    except ValueError as error:
        raise ValueError(f"{run}: sessions {', '.join(folds)}: {error}") from None
    for (session, fold), tested in zip(folds.items(), tables):
        before = {key: fold["test"][key] for key in ("uncalibrated",) if key in fold["test"]}
        folds[session] = fold | {"test": tested.scores() | before} | of_frames(fold["folder"].parent, method)

    subsets = {}
    for name, places in subset_places(pooled, utterances).items():
        is_fold = kind_of_fold(first["protocol"]) == "corpus" and name.startswith("corpus ")
        if 0 < len(places) < len(pooled.ids) and not is_fold:
            subsets[name] = pooled.subset(places).scores()

    reference = {}
    for (session, fold), tested in zip(folds.items(), tables):
        reference[session] = reference_scores(fold, tested, utterances)
    if None in reference.values():
        reference = None
    protocol = {"method": method, **first["protocol"], "versions": first["stage"].get("versions", {}),
                "optimistic": first["optimistic"]}
    missing = {session: missing_classes(fold) for session, fold in folds.items()}
    return {"protocol": protocol, "folds": folds, "pooled": pooled.scores(), "predictions": pooled,
            "subsets": subsets, "reference": reference,
            "calibration": pooled_calibrations(folds.values(), utterances),
            "missing": {session: names for session, names in missing.items() if names}}


def of_frames(fold: Path, method: str) -> dict[str, dict]:
    """{"frames": results by stage} of a fold's finished classifier of frames, the method's or that from the base model,
    and of its bound; {} where there is none.
    """
    is_finished = {path.parent.name for path in fold.glob("*/stage.json")}
    name = next((name for name in frames_stages_of(method) if name in is_finished), None)
    names = [one for one in (name, f"{name}-bound") if one in is_finished]
    return {"frames": {one: files.read_json(fold / one / "results.json") for one in names}} if names else {}


def predictions_of_frames(run: str | Path, stage: str) -> Predictions:
    """Test predictions of a stage with a classifier of frames, of all folds of a run in which it is finished.

    Raises ValueError where there is none.
    """
    places = sorted({path.parent for path in Path(run).glob(f"session*/{stage}/stage.json")})
    if not places:
        raise ValueError(f"{run}: no finished fold of the stage {stage}; run bin/session.py first")
    utterances = utterances_of(run)
    return Predictions.joined([Predictions.read(place / "predictions.csv", utterances) for place in places])


def utterances_of(run: str | Path) -> dict[str, Utterance]:
    """The corpus of a run, by id."""
    return {utterance.id: utterance for utterance in manifest.read(Path(run) / "corpus.tsv")}


def missing_classes(fold: dict) -> dict[str, list[str]]:
    """The classes that a test or validation part of a fold's trainings lacks, by part; UA and macro-F1 leave them out.
    """
    missing: dict[str, list[str]] = {}
    for part, name in (("test", "test"), ("valid", "validation")):
        scores = [one[part] for one in (fold, *fold.get("ways", ())) if part in one]
        lacking = [label for label in fold["classes"] if any(one["recall"][label] is None for one in scores)]
        if lacking:
            missing[name] = lacking
    return missing


def pooled_calibrations(folds: Iterable[Mapping], utterances: Mapping[str, Utterance]) -> dict[str, dict[str, dict]]:
    """By stage, how right the confidences of all folds' test predictions are: {stage: {key: `metrics.calibration`}}.

    Keys are those of CALIBRATIONS; "uncalibrated" only where a fold has a temperature. Stages without probabilities are
    left out. folds: results with "folder", and "frames" by stage.
    """
    places: dict[str, list[Path]] = {}
    for fold in folds:
        for stage in (fold["folder"].name, *fold.get("frames", {})):
            place = fold["folder"].parent / stage
            if (place / "predictions.csv").exists():
                places.setdefault(stage, []).append(place)
    pooled: dict[str, dict[str, dict]] = {}
    for stage, of_folds in places.items():
        for key, name in (("uncalibrated", UNCALIBRATED), ("calibration", "predictions.csv")):
            paths = [place / (name if (place / name).exists() else "predictions.csv") for place in of_folds]
            if any(path.name == name for path in paths):
                joined = Predictions.joined([Predictions.read(path, utterances) for path in paths])
                if joined.probabilities is not None:
                    pooled.setdefault(stage, {})[key] = joined.scores()["calibration"]
    return pooled


def calibration_rows(stage: str, of_stage: Mapping[str, Mapping]) -> list[list[str]]:
    """Rows of a table with CALIBRATION_COLUMNS: of a stage, before and after its temperatures, or the only one."""
    if len(of_stage) == 1:
        return [[stage, *calibration_cells(*of_stage.values())]]
    return [[f"{stage}, {name}", *calibration_cells(of_stage[key])] for name, key in CALIBRATIONS.items()]


def calibration_cells(scores: Mapping) -> list[str]:
    """`metrics.calibration` as text, shares in per cent."""
    noise = [f"{100 * scores[key][0]:.1f}, {100 * scores[key][1]:.1f}" for key in
             ("ece_if_calibrated", "adaptive_ece_if_calibrated")]
    return [f"{100 * scores['ece']:.1f}", noise[0], f"{100 * scores['adaptive_ece']:.1f}", noise[1],
            f"{scores['brier']:.3f}", f"{100 * scores['aurc']:.1f}", f"{100 * scores['confidence']:.1f}"]


def missing_words(missing: dict[str, list[str]]) -> str:
    """What it means that parts lack classes, as `missing_classes` gives them."""
    parts = [f"a {part} part without {' and '.join(names)}" for part, names in missing.items()]
    return f"{', '.join(parts)}: its UA and macro-F1 are over the other classes"


def interval_words(ends: Sequence[float] | None) -> str:
    """An interval in per cent: "60.1 to 70.2", or "none"."""
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}" if ends else "none"


def claim(over: str, num_seeds: Sequence[int] = (1,)) -> str:
    """What an interval is for, and from how much, in words. over: its groups; num_seeds: of each side, `estimate`."""
    seeds = " and ".join(map(str, dict.fromkeys(num_seeds)))
    source = f"from {over} and {seeds} seed{'' if seeds == '1' else 's'}"
    what = ["these speakers" if over.endswith(("utterance", "utterances")) else "new speakers"]
    if min(num_seeds) > 1:
        what.append("new trainings")
    return f"for {' and '.join(what)}, {source}"


def layer_words(shares: Sequence[float]) -> str:
    """How much each layer counts in a frozen probe's weighted sum, in words. shares (L + 1,), sum 1."""
    words = [f"{number}: {100 * share:.0f} %" for number, share in enumerate(shares)]
    return f"layers in the weighted sum, at one scale: {', '.join(words)}"


def subset_places(predictions: Predictions, utterances: Mapping[str, Utterance]) -> dict[str, list[int]]:
    """Where in the predictions improvised utterances, those of women and of men, and of several corpora those of each
    ("corpus ravdess") stand, by the manifest.
    """
    tested = [utterances[name] for name in predictions.ids]
    corpora = by_corpus(tested)
    of_corpora = {f"corpus {name}": [i for i, utterance in enumerate(tested) if utterance.corpus == name]
                  for name in corpora if len(corpora) > 1}
    return {"improvised": [i for i, utterance in enumerate(tested) if utterance.style == "impro"],
            "women": [i for i, utterance in enumerate(tested) if utterance.gender == "F"],
            "men": [i for i, utterance in enumerate(tested) if utterance.gender == "M"], **of_corpora}


def reference_scores(fold: dict, tested: Predictions, utterances: Mapping[str, Utterance]) -> dict | None:
    """What the reference's selection reports of a fold's own training: {"wa", "ua", "macro_f1", "epochs"}, or None.

    As in `protocols.split`, each speaker of the test session is tested once while the others validate: the epoch of
    their best UA is taken, and the mean of that score and of the speaker's is reported; then the mean over speakers.
    None where no epochs were recorded or there are not two speakers. tested: the fold's test predictions.
    """
    speakers = np.array([utterances[name].speaker for name in tested.ids])
    epochs, predicted = read_epochs(fold["folder"] / "epochs.jsonl")            # (E,), E times (U,)
    if not epochs or len(set(speakers)) < 2 or any(len(numbers) != len(tested.ids) for numbers in predicted):
        return None

    measured, chosen_epochs = [], []
    for speaker in sorted(set(speakers), reverse=True):
        validates = speakers != speaker                                         # (U,) bool
        valid = epoch_matrices(tested, predicted, validates)                    # (E, C, C)
        test = epoch_matrices(tested, predicted, ~validates)
        best = int(np.argmax(metrics.ua(valid)))                                # the first of equals
        chosen_epochs.append(epochs[best])
        measured.append([(measure(valid[best]) + measure(test[best])) / 2 for measure in metrics.MEASURES.values()])
    return dict(zip(metrics.MEASURES, np.mean(measured, 0).tolist())) | {"epochs": chosen_epochs}


def read_epochs(path: Path) -> tuple[list[int], list[list[int]]]:
    """The epochs of an `epochs.jsonl` and the class numbers each predicted; of an epoch written twice, the later."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    predicted = {record["epoch"]: record["predicted"] for record in records}
    return list(predicted), list(predicted.values())


def epoch_matrices(tested: Predictions, predicted: list[list[int]], chosen: np.ndarray) -> np.ndarray:
    """Confusion matrices (E, C, C) of the chosen utterances, (U,) bool, one for each epoch's class numbers."""
    num_classes = len(tested.classes)
    return np.stack([metrics.confusion(tested.true[chosen], np.array(numbers)[chosen], num_classes)
                     for numbers in predicted])


def finished_folds(run: str | Path, method: str, selection: str) -> dict[str, dict]:
    """Results of every finished fold by session, each with its stage record and folder. Raises ValueError as `collect`.
    """
    selections = [selection] if selection else SELECTIONS
    names = sorted({tested_stage(method, one) for one in selections})
    folds: dict[str, dict] = {}
    for place in sorted(Path(run).glob("session*"), key=lambda path: (len(path.name), path.name)):
        candidates = [read_fold(place / name) for name in names if (place / name / "stage.json").exists()]
        candidates = [fold for fold in candidates if selection in ("", fold["selection"])]
        if len(candidates) > 1:
            raise ValueError(f"{place}: has results of several selections "
                             f"({', '.join(fold['selection'] for fold in candidates)}); choose one with --selection")
        if candidates:
            folds[place.name.removeprefix("session")] = candidates[0]
    if not folds:
        chosen = f", selection {selection}" if selection else ""
        raise ValueError(f"{run}: no finished fold of method {method}{chosen}; run bin/session.py first")
    check_one_experiment(run, folds)
    return folds


def read_fold(folder: Path) -> dict:
    """What a finished fine-tuning left: its results, with "stage" (its record) and "folder"."""
    return files.read_json(folder / "results.json") | {"stage": files.read_json(folder / "stage.json"),
                                                       "folder": folder}


def check_one_experiment(run: str | Path, folds: dict[str, dict]) -> None:
    """Raise ValueError where two folds differ in more than the session that is held out."""
    (first, fold), *others = folds.items()
    for name, other in others:
        reason = difference(settings_of(fold), settings_of(other))
        if reason:
            raise ValueError(f"{run}: folds of two experiments cannot be pooled: from session {first} to session "
                             f"{name}, {reason}; give each experiment an --out folder of its own")


def settings_of(fold: dict) -> dict:
    """The settings that all folds of an experiment share, and which model they began from."""
    shared = {key: value for key, value in fold["stage"]["settings"].items() if key not in PER_FOLD_SETTINGS}
    return shared | {"base_digest": fold["protocol"]["base_digest"]}


def methods_of(run: str | Path) -> list[str]:
    """The methods that have a finished fold in `run`, in the order of METHODS."""
    stages = {path.parent.name for path in Path(run).glob("session*/*/stage.json")}
    return [method for method in METHODS if stages & {*tested_stages(method)}]


def tested_stages(method: str) -> list[str]:
    """The stages that may report a method, the honestly selected first."""
    return list(dict.fromkeys(tested_stage(method, selection) for selection in SELECTIONS))


def link_recogniser(fold: Path) -> None:
    """Let `recogniser` in a fold's folder be that of the method that stands for it (`foremost`).

    Where one with a classifier of frames was trained, it is that: the one that starts from the method's encoder, else
    the one from the base model.
    """
    finished = {path.parent.name for path in fold.glob("*/stage.json")}
    method = foremost(method for method in METHODS if finished & {*tested_stages(method)})
    stage = next(name for name in (*frames_stages_of(method), *tested_stages(method)) if name in finished)
    files.link(fold / "recogniser", fold / stage / "recogniser")


def table(results: dict) -> str:
    """Protocol line, a row per fold, mean and deviation, pooled, subsets, the reference's row, intervals, confusion."""
    protocol, pooled = results["protocol"], results["pooled"]
    classes = protocol["classes"]
    lines = [protocol_line(protocol), *caveat_lines(protocol)]
    kind = kind_of_fold(protocol)
    rows = [[kind, *NAMES.values(), *classes, "utterances"], *table_rows(results)]
    lines += score_lines(rows, classes, len(results["folds"]))

    lines.append("mean, deviation: of the folds as the selection reports them; pooled: once over all test predictions")
    if results["reference"]:
        lines.append("reference: the same trainings, epoch and score as the released code chooses them: optimistic")
    lines += [f"{kind} {name}: {missing_words(names)}" for name, names in results["missing"].items()]
    words = ", ".join(f"{NAMES[name]} {interval_words(ends)}" for name, ends in pooled["interval_95"].items())
    lines.append(f"95 % intervals, pooled, {claim(pooled['interval_over'])}: {words}")
    if None in pooled["interval_95"].values():
        lines.append(NO_INTERVAL)

    of_layers = [fold["layer_weights"] for fold in results["folds"].values() if "layer_weights" in fold]
    if of_layers:
        lines.append(f"{layer_words(np.mean(of_layers, 0))}{' (mean of the folds)' if len(of_layers) > 1 else ''}")
    lines.append("confusion, pooled (rows: truth, columns: predicted)")
    lines += confusion_lines(pooled["confusion"], classes)
    if results["calibration"]:
        rows = [row for stage, one in results["calibration"].items() for row in calibration_rows(stage, one)]
        lines += ["confidence, pooled, before and after the logits were divided by a temperature",
                  *aligned([["stage", *CALIBRATION_COLUMNS], *rows]), CALIBRATION_NOTE]
    if any("frames" in fold or "over_time" in fold for fold in results["folds"].values()):
        lines += ["emotion over time, by stage: UA of utterances; where the truth is known, % of the time that has a "
                  "wrong emotion; AUC and F1", *over_time_rows(results["folds"], kind)]
    return "\n".join(lines)


def over_time_rows(folds: Mapping[str, Mapping], kind: str = "session") -> list[str]:
    """UA and scores of the emotion over time (`diarization.scores`) of each fold's recognisers, as lines.

    Of each stage, its folds and with several of them their mean. kind: what a fold is (`kind_of_fold`).
    """
    rows = [["stage", kind, "UA", *(name for name, _ in OVER_TIME.values()), "utterances"]]
    by_stage: dict[str, dict[str, Mapping]] = {}
    for session, fold in folds.items():
        for stage, tested in {fold["folder"].name: fold, **fold.get("frames", {})}.items():
            by_stage.setdefault(stage, {})[session] = tested
    for stage, of_sessions in by_stage.items():
        shown = {session: {"ua": tested["reported"]["ua"], **dict.fromkeys([*OVER_TIME, "num_utterances"]),
                           **tested.get("over_time", {})} for session, tested in of_sessions.items()}
        if len(shown) > 1:
            numbers = {key: [scores[key] for scores in shown.values() if scores[key] is not None]
                       for key in ("ua", *OVER_TIME)}
            shown["mean"] = {key: float(np.mean(values)) if values else None for key, values in numbers.items()}
        for session, scores in shown.items():
            rows.append([stage, session, *(over_time_cell(scores, key) for key in ("ua", *OVER_TIME)),
                         str(scores.get("num_utterances") or "")])
    return aligned(rows)


def kind_of_fold(protocol: Mapping) -> str:
    """What is held out of a run with this protocol: a session, a speaker, a group or a part."""
    return kind_of(protocol.get("folds", described("session")))


def shares_speakers(protocol: Mapping) -> bool:
    """Whether a protocol lets speakers be trained and tested on."""
    return protocol.get("speakers") == SHARED


def over_time_cell(scores: Mapping, key: str) -> str:
    """A score of the emotion over time: a share of the time in per cent, areas and F1 between 0 and 1."""
    if scores[key] is None:
        return "-"
    return f"{scores[key]:.2f}" if key in ("emotional_auc", "class_auc", "boundary_f1") else f"{100 * scores[key]:.1f}"


def table_rows(results: dict) -> list[list[str]]:
    """The rows of the table: folds, mean, deviation, pooled, subsets, reference; percentages as text."""
    classes, pooled = results["protocol"]["classes"], results["pooled"]
    rows, numbers = [], []
    for name, fold in results["folds"].items():
        numbers.append(_percentages(fold["reported"], fold["test"], classes))
        rows.append([name, *map(_short, numbers[-1]), str(fold["num_utterances"]["test"])])
    columns = [np.array(column)[~np.isnan(column)] for column in zip(*numbers)]     # nan: a class is missing
    rows.append(["mean", *(_short(column.mean()) for column in columns), str(_num_utterances(pooled))])
    if len(numbers) > 1:
        deviations = [column.std(ddof=1) if len(column) > 1 else np.nan for column in columns]
        rows.append(["deviation", *map(_short, deviations), ""])
    for name, one in {"pooled": pooled, **results["subsets"]}.items():
        rows.append([name, *map(_short, _percentages(one, one, classes)), str(_num_utterances(one))])
    if results["reference"]:
        reference = [[100 * one[name] for name in NAMES] for one in results["reference"].values()]
        rows.append(["reference", *map(_short, np.mean(reference, 0)), *[""] * (len(classes) + 1)])
    return rows


def score_lines(rows: list[list[str]], classes: Sequence[str], num_folds: int = 0) -> list[str]:
    """Rows of name, WA, UA, macro-F1, recall of each class and utterances as lines; the first row has the headings.

    Recalls of many classes have a table of their own, a row for each class; of many folds (the first rows) without
    them.
    """
    if len(classes) <= MAX_COLUMNS:
        return aligned(rows)
    first = 1 + len(NAMES)
    last = first + len(classes)
    shown = rows[1:] if len(rows) <= MAX_COLUMNS else rows[1 + num_folds:]
    recalls = [["recall", *(row[0] for row in shown)]]
    recalls += [[name, *(row[place] for row in shown)] for place, name in enumerate(classes, first)]
    return [*aligned([row[:first] + row[last:] for row in rows]), *aligned(recalls)]


def confusion_lines(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> list[str]:
    """A confusion matrix as lines; where classes are many, columns have the numbers of the rows."""
    if len(classes) <= MAX_COLUMNS:
        return aligned([["", *classes], *([name, *map(str, row)] for name, row in zip(classes, matrix))])
    numbers = [str(number) for number in range(1, 1 + len(classes))]
    return aligned([["", "", *numbers],
                    *([name, number, *map(str, row)] for number, name, row in zip(numbers, classes, matrix))])


def caveat_lines(protocol: Mapping) -> list[str]:
    """Why a protocol's numbers are too good, a line for each reason; none where they are not."""
    lines = ["optimistic: looks at the test session before the test"] if protocol["optimistic"] else []
    return lines + ([SHARED_SPEAKERS] if shares_speakers(protocol) else [])


def protocol_line(protocol: dict) -> str:
    """What a number means, in one line."""
    settings = [f"{name.replace('_', ' ')} {words(value)}" for name, value in protocol.items()
                if name != "optimistic" and value != {}]
    return "protocol: " + ", ".join(settings)


def words(value: object) -> object:
    """A setting's value as words: a list's items or a dictionary's names and values, one after another."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        return " ".join(f"{name} {inner}" for name, inner in value.items())
    return value


def write(run: str | Path, results: dict) -> None:
    """Put a method's results into `run/results.json`, beside those of other methods, in whatever order they come."""
    path = Path(run) / "results.json"
    methods = files.read_json(path) if path.exists() else {}
    protocol = results["protocol"]
    methods[named_by_selection(protocol["method"], protocol["method"], protocol["selection"])] = for_json(results)
    files.write_json(path, dict(sorted(methods.items())))


def for_json(results: dict) -> dict:
    """Results (`collect`) as plain data, with "mean" and "deviation" of what the folds report."""
    folds = {session: {name: value for name, value in fold.items() if name not in ("folder", "stage")}
             for session, fold in results["folds"].items()}
    mean, deviation = {}, {}
    for name in NAMES:
        values = [fold["reported"][name] for fold in folds.values()]
        mean[name] = float(np.mean(values))
        deviation[name] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    content = {name: value for name, value in results.items() if name != "predictions"}
    return content | {"folds": folds, "mean": mean, "deviation": deviation}


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows of cells as lines, columns right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _num_utterances(scores: dict) -> int:
    return sum(map(sum, scores["confusion"]))


def _percentages(reported: dict, test: dict, classes: list[str]) -> list[float]:
    """WA, UA, macro-F1 as reported and the recall of each class in the test, in per cent; nan for a missing class."""
    shares = [reported["wa"], reported["ua"], reported["macro_f1"], *(test["recall"][name] for name in classes)]
    return [np.nan if share is None else 100 * share for share in shares]


def _short(number: float) -> str:
    return "-" if np.isnan(number) else f"{number:.1f}"
