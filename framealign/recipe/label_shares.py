"""Runs that know several shares of the labels: what each method makes of few and of many, against plain fine-tuning.

A run's folder holds all of them (`session_config.share_folder`). UA is pooled over folds and averaged over seeds, with
intervals over speakers and seeds; so is the difference to `finetune`, paired by speakers. Where classifiers of frames
were tested on known frames, their EDER stands beside, and the difference to the one that starts from the base model.
Known they are in the run's own test utterances, or in these in another form: joined ones.
"""
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from framealign.emotion import diarization, metrics
from framealign.emotion.predictions import Predictions
from framealign.recipe import comparison, cross_corpus, evaluation, results
from framealign.recipe.comparison import in_order_of, seeds_of
from framealign.recipe.evaluation import Corpus, EvaluationConfig
from framealign.recipe.results import aligned, claim, interval_words
from framealign.recipe.session_config import METHODS, SHARE, frames_stage
from framealign.recipe.stages import difference

REFERENCE = {"ua": "finetune", "eder": frames_stage("finetune")}    # what differences are to, of methods and of stages
NAMES = {"ua": "UA", "eder": "EDER"}
OF_ONE = ("method", "seed", "label_share", "versions", "training_crop_seconds", "test_crop_seconds")   # of a protocol


def shares_of(run: str | Path) -> dict[float, Path]:
    """The shares of the labels that a run's folder holds folds of, ascending, and each one's run, for `seeds_of`."""
    run = Path(run)
    places = [run, *run.glob("seed*")]
    names = {folder.name for place in places for folder in place.glob(f"{SHARE}*")}
    shares = {_number(name.removeprefix(SHARE)): run / name for name in names}
    shares.pop(None, None)
    if any(path for place in places for path in place.glob("session*")):
        shares[1.0] = run
    return dict(sorted(shares.items()))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def measured(run: str | Path, selection: str = "", on: str = "", config: EvaluationConfig = EvaluationConfig()) -> dict:
    """All shares and methods of a run: {"run", "protocol", "over", "num_utterances", "ua": points, "eder": points}.

    on: a table of the run's utterances in another form, whose frames are known, to take EDER of instead of the run's
    own tests; config: how those are tested.

    A point is {"share", "name" (method, or stage of frames), "value", "interval", "difference" (to REFERENCE, None of
    itself or where that is not there) and its "difference_interval", "p", "seeds", "labelled": training utterances of
    a fold, on average}; intervals are (low, high) or None. over: what intervals are over, in words. Raises ValueError
    where nothing is finished, where points have other protocols, or where they tested other utterances; for `on` as
    `evaluation.test`, and where no frame is known or the utterances are not the run's.
    """
    points: dict[str, list[dict]] = {"ua": [], "eder": []}
    protocol, tested, corpus = None, None, Corpus(on) if on else None
    for share, of_share in shares_of(run).items():
        runs = seeds_of(of_share)
        collected = _collected(runs, selection)
        sides = {}
        for method, of_seed in collected.items():
            where = f"{of_share}:{method}"
            sides[method] = comparison.side_of(of_seed, where)
            tested = tested or sides[method][0]
            in_order_of(tested, sides[method][0], where)
            for one in of_seed.values():
                protocol = protocol or one["protocol"]
                _check_protocol(where, protocol, one["protocol"])
        points["ua"] += [{"share": share, "name": method, **_of_method(method, sides), "seeds": len(side),
                          "labelled": _labelled(collected[method].values())} for method, side in sides.items()]
        points["eder"] += [{"share": share, **point} for point in
                           _of_stages(_frames_of(collected), runs, corpus, config)]
    if tested is None:
        raise ValueError(f"{run}: no share of the labels has a finished fold; run bin/session.py with --label-share "
                         "first")
    return {"run": str(run), "over": tested.groups_in_words(), "num_utterances": len(tested.ids),
            "on": on, "protocol": {name: value for name, value in protocol.items() if name not in OF_ONE}, **points}


def _collected(runs: Mapping[str, Path], selection: str) -> dict[str, dict[str, dict]]:
    """`results.collect` of each method, of the seeds in which it has a finished fold: {method: {seed: results}}."""
    methods = {seed: results.methods_of(run) for seed, run in runs.items()}
    return {method: of_seed for method in METHODS
            if (of_seed := {seed: results.collect(run, method, selection) for seed, run in runs.items()
                            if method in methods[seed]})}


def _check_protocol(where: str, first: Mapping, other: Mapping) -> None:
    """Raise ValueError where two protocols differ in more than what the points of one picture may."""
    reason = difference(*({name: value for name, value in one.items() if name not in OF_ONE}
                          for one in (dict(first), dict(other))))
    if reason:
        raise ValueError(f"{where}: of another protocol than the other shares and methods: {reason}; only runs of one "
                         "protocol are drawn together")


def _of_method(method: str, sides: Mapping[str, Sequence[Predictions]]) -> dict:
    """UA of a method, and its difference to plain fine-tuning. sides: predictions of each seed, by method."""
    reference, side = REFERENCE["ua"], list(sides[method])
    names = list(metrics.MEASURES)
    point = {"value": float(comparison.measured(side).mean(0)[names.index("ua")]),
             "interval": comparison.intervals(side)[names.index("ua")]}
    if method == reference or reference not in sides:
        return point | _difference(None)
    return point | _difference(comparison.compare(list(sides[reference]), side, (reference, method))["ua"])


def _difference(one: Mapping | None) -> dict:
    """The keys of a point that say how it differs from its reference. one: as `metrics.paired_difference` gives it."""
    one = one or {"difference": None, "interval": None, "p": None}
    return {"difference": one["difference"], "difference_interval": one["interval"], "p": one["p"]}


def _labelled(of_seed: Iterable[Mapping]) -> float:
    """Training utterances of a fold, averaged over folds and seeds."""
    return float(np.mean([fold["num_utterances"]["train"] for one in of_seed for fold in one["folds"].values()]))


def _frames_of(collected: Mapping[str, Mapping[str, Mapping]]) -> dict[str, dict[str, dict[str, dict]]]:
    """Results of the classifiers of frames of any method: {stage: {seed: {session: results}}}, without bounds."""
    of_stages: dict[str, dict[str, dict]] = {}
    for of_seed in collected.values():
        for seed, one in of_seed.items():
            for session, fold in one["folds"].items():
                for stage, tested in fold.get("frames", {}).items():
                    of_stages.setdefault(stage, {}).setdefault(seed, {})[session] = tested
    return {stage: of_stages[stage] for stage in map(frames_stage, METHODS) if stage in of_stages}


def _of_stages(of_stages: Mapping[str, Mapping], runs: Mapping[str, Path], corpus: Corpus | None,
               config: EvaluationConfig) -> list[dict]:
    """Points of the classifiers of frames (`_frames_of`) that were tested on known frames, or are now on a corpus."""
    matrices = {}
    for stage, of_seeds in of_stages.items():
        scores = [[tested["over_time"] for tested in folds.values() if "over_time" in tested]
                  for folds in of_seeds.values()]
        if corpus:
            scores = [[_scores_on(f"{runs[seed]}:{stage}", corpus, config)] for seed in of_seeds]
        if all(scores):
            matrices[stage] = _speakers_matrices(scores)
    reference = matrices.get(REFERENCE["eder"])
    points = []
    for stage, of_stage in matrices.items():
        one = metrics.estimate(metrics.wa, of_stage)                            # of what is right: 1 - EDER
        to_other = None
        if stage != REFERENCE["eder"] and reference is not None and reference.shape[1:] == of_stage.shape[1:]:
            other = metrics.estimate(metrics.wa, reference, of_stage)
            to_other = {"difference": other["value"], "interval": other["interval"], "p": other["p"]}
        low_high = one["interval"] and (max(0.0, 1 - one["interval"][1]), min(1.0, 1 - one["interval"][0]))
        labelled = [tested["num_utterances"]["train"] for folds in of_stages[stage].values()
                    for tested in folds.values()]
        points.append({"name": stage, "value": 1 - one["value"], "interval": low_high, **_difference(to_other),
                       "seeds": len(of_stage), "labelled": float(np.mean(labelled))})
    return points


def _scores_on(row: str, corpus: Corpus, config: EvaluationConfig) -> dict:
    """`diarization.scores` of a seed's folds (`cross_corpus.models_of`), each utterance tested by the one that held its
    speaker out.
    """
    (models,) = cross_corpus.models_of(row)
    tested = evaluation.test(models, corpus, config)
    if len(tested.over_time) > 1:                   # every fold was tested on all of it
        raise ValueError(f"{corpus.path}: not the utterances that {row} was trained and tested on, nor joined ones of "
                         "them (bin/prepare.py --join); for another corpus there is --matrix")
    pairs, = tested.over_time
    if not pairs:
        raise ValueError(f"{corpus.path}: of no utterance it is known which emotion it has when; bin/prepare.py --join "
                         "makes such ones")
    return diarization.scores(pairs, config.smooth)


def _speakers_matrices(of_seeds: Sequence[Sequence[Mapping]]) -> np.ndarray:
    """Of each seed and speaker, tested utterances' time right and wrong, each utterance's being 1: (R, G, 2, 2).

    A confusion matrix of one class, whose WA is 1 - EDER, the mean over utterances. of_seeds: `diarization.scores` of
    each fold; where one does not tell speakers apart, all are taken as one, of which there is no interval.
    """
    are_known = all("speakers" in scores for folds in of_seeds for scores in folds)
    by_seed = []
    for folds in of_seeds:
        speakers: dict[str, np.ndarray] = {}
        for scores in folds:
            for name, one in (scores["speakers"] if are_known else {"": scores}).items():
                wrong = one["eder"] * one["num_utterances"]
                cells = np.array([[one["num_utterances"] - wrong, wrong], [0.0, 0.0]])
                speakers[name] = speakers.get(name, 0.0) + cells
        by_seed.append(speakers)
    names = sorted(by_seed[0])
    if any(sorted(speakers) != names for speakers in by_seed):
        raise ValueError("frames of other speakers were tested with another seed; only the same ones can be averaged")
    return np.stack([np.stack([speakers[name] for name in names]) for speakers in by_seed])


def share_words(share: float) -> str:
    """"10 %"."""
    return f"{100 * share:g} %"


def value_words(point: Mapping) -> str:
    """"62.3 (55.0 to 69.1)", in per cent; without an interval the number alone."""
    interval = f" ({interval_words(point['interval'])})" if point["interval"] else ""
    return f"{100 * point['value']:.1f}{interval}"


def difference_words(point: Mapping) -> str:
    """"+2.1 (-0.3 to +4.5)", in points; "" where there is none."""
    if point["difference"] is None:
        return ""
    ends = point["difference_interval"]
    interval = f" ({100 * ends[0]:+.1f} to {100 * ends[1]:+.1f})" if ends else ""
    return f"{100 * point['difference']:+.1f}{interval}"


def header(measure: str) -> list[str]:
    """What the columns of a table of points are."""
    return ["labels", "utterances", "method" if measure == "ua" else "stage", f"{NAMES[measure]} (95 %)",
            f"minus {REFERENCE[measure]} (95 %)", "seeds"]


def rows(of_run: Mapping, measure: str) -> list[list[str]]:
    """The points of a measure, "ua" or "eder", as cells below `header`. of_run: `measured`."""
    return [[share_words(point["share"]), f"{point['labelled']:.0f}", point["name"], value_words(point),
             difference_words(point), str(point["seeds"])] for point in of_run[measure]]


def note(of_run: Mapping) -> str:
    """What the numbers of a run are and what the intervals are for, in words."""
    seeds = sorted({point["seeds"] for measure in NAMES for point in of_run[measure]})
    on = f". EDER on {of_run['on']}" if of_run["on"] else ""
    return (f"{of_run['num_utterances']} test utterances, pooled over folds and averaged over seeds; labels: the share "
            "of the labels known before the test; utterances: those that train, of a fold on average. 95 % intervals "
            f"{claim(of_run['over'], seeds)}; differences are paired by speakers{on}")


def text(of_runs: Sequence[Mapping]) -> str:
    """Tables of several runs (`measured`)."""
    lines = []
    for of_run in of_runs:
        protocol = of_run["protocol"]
        lines += ["", of_run["run"], results.protocol_line(protocol), *results.caveat_lines(protocol)]
        for measure in NAMES:
            if of_run[measure]:
                lines += aligned([header(measure), *rows(of_run, measure)])
        lines.append(note(of_run))
    return "\n".join(lines[1:])
