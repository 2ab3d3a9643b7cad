"""A recogniser, or those of a run's folds, on a labelled corpus: who may be tested, what is predicted, the scores.

An utterance is tested by no recogniser that knows its label (`trained_on`). Labels that the recogniser does not have
are left out and counted. Classes that the corpus lacks stay possible answers, and those are errors, as they are for
whoever uses it; with `shared_classes` the answer is one of the classes that both have, an easier question.
"""
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from framealign.runtime import digests, log
from framealign.runtime.settings import setting
from framealign.sound import degradation
from framealign.corpus import degraded_sound, frame_truth, protocols
from framealign.corpus.utterance import NEUTRAL, NONE, Utterance
from framealign.emotion import calibration, diarization
from framealign.emotion.predictions import Predictions
from framealign.emotion.recogniser import Recogniser, Result
from framealign.emotion.segments import MIN_SECONDS, check_smoothing
from framealign.recipe import comparison, preflight
from framealign.recipe.results import (NAMES, NO_INTERVAL, OVER_TIME, aligned, claim, confusion_lines, interval_words,
                                       over_time_cell, score_lines, subset_places)
from framealign.recipe.trained_on import NAME, SELECTION, TRAINING, TrainedOn

MAX_SPEAKERS, MAX_NAMED = 24, 5                     # rows of a table of speakers; names in a note
NOTHING = np.zeros(0)
SOURCES = ("speaker", "session", "corpus")          # what --centre may take as one; without a column corpus all are one
# What is known of the recognisers' training data.
LISTED = "utterances and speakers"
NO_SPEAKERS = "utterances; of the speakers not all are known: whether some were in training cannot be told"
NOT_LISTED = (f"a recogniser's directory without {NAME}, an older one: whether it was trained on some of these "
              "utterances or speakers is not known")
DERIVED = (f"older recognisers' directories, without {NAME}: what a fold did not test of its run's corpus is taken as "
           "what it was trained on")


@dataclass(frozen=True)
class EvaluationConfig:
    """How recognisers are tested on a corpus."""
    smooth: float = setting(MIN_SECONDS, "of --on: seconds that no segment is shorter than, as in recognise")
    merge: str = setting("", "of --on: labels of the corpus that count as a class of the recogniser: "
                         "calm=neutral,excited=happy; `none`: none (default: excited as happy)")
    shared_classes: bool = setting(
        False, "of --on: the answer is one of the classes that recogniser and corpus share; else answers that the "
        "corpus lacks are errors")
    leave_out: bool = setting(
        False, "of --on: leave out utterances that the recogniser was trained or selected on; else they are refused")
    centre: str = setting(
        "", "of --on: speaker, session or corpus: take off what shifts all answers to the sounds of one such source "
        "alike (microphone, language, voice); it should have about as many of each class. Looks at all of a source's "
        "sounds, never at labels")
    degrade: str = setting(
        "", "of --on: every sound with noise at an SNR in decibels (white:10, pink:10, babble:10), over a line "
        "(telephone, mu-law), in a room of that RT60 in seconds (reverb:0.5) or by another microphone (microphone:6, "
        "the standard deviation of its octaves in decibels)")
    degrade_seed: int = setting(0, "of --degrade: with the utterance's id, the seed of what is drawn")
    device: str = setting("auto", "of --on: auto, cpu, cuda or mps")

    def __post_init__(self):
        if self.degrade:
            degradation.of_text(self.degrade)
        check_smoothing(self.smooth)
        if self.centre not in ("", *SOURCES):
            raise ValueError(f"--centre must be {', '.join(SOURCES)}, got {self.centre!r}")


@dataclass(frozen=True)
class Model:
    """A recogniser's directory, and what it was trained on; None where that is not known."""
    directory: Path
    known: TrainedOn | None
    derived: bool = False                           # by what its run tested, for want of a list


@dataclass(frozen=True)
class Corpus:
    """A labelled corpus to test on. Raises ValueError as `read_corpus`."""
    path: str

    @cached_property
    def utterances(self) -> list[Utterance]:
        """Its utterances, labels as the corpus calls them."""
        return preflight.read_corpus(self.path)

    @cached_property
    def sounds(self) -> list[str]:
        """The digest of each one's sound file."""
        return digests.of_files([utterance.path for utterance in self.utterances])


@dataclass
class Tested:
    """What R recognisers, each on its own, or the folds of a run together (R = 1), predict of the same utterances."""
    classes: list[str]                              # that an answer can be
    utterances: list[Utterance]                     # with labels of the classes
    sides: list[Predictions]                        # R
    over_time: list[list[tuple[Utterance, Result]]]     # R times: those whose truth about frames is known
    absent: list[str]                               # classes of the recogniser that no utterance has
    same_speakers: list[Utterance]                  # tested by a recogniser that knows their speaker
    same_names: int                                 # of these, by id and speaker in its list
    related: bool                                   # to a corpus that the recognisers were trained on: `is_related`
    own: bool                                       # it has utterances that some of the recognisers know
    models: Sequence[Model]
    left_out: dict = field(default_factory=dict)    # why -> how many, or {label: how many}
    reasons: Counter = field(default_factory=Counter)           # why the recognisers would have said `none`


def test(models: Sequence[Model], corpus: Corpus, config: EvaluationConfig) -> Tested:
    """Test a recogniser, or those of a run's folds, on a corpus.

    Where every recogniser may be tested on every utterance (another corpus), each gives a side. Else (a run's own
    corpus) each utterance is tested by one recogniser that may (`who_may_test`), and together they are one side.

    Raises ValueError, in one line, where the corpus has none of the classes, or has utterances that every recogniser
    was trained or selected on and that are not to be left out; for recognisers of different classes; and where no sound
    can be recognised.
    """
    recogniser = Recogniser.from_pretrained(models[0].directory, config.device)
    classes = recogniser.labels
    named = protocols.named_by_classes(corpus.utterances, classes, config.merge)
    places = [i for i, utterance in enumerate(named) if utterance.label]
    labels = Counter(utterance.label for utterance in corpus.utterances if utterance.label)
    if not places:
        raise ValueError(f"{corpus.path}: no label is one of the recogniser's classes, {', '.join(classes)}; there "
                         f"are: {', '.join(label for label, _ in labels.most_common(MAX_NAMED)) or 'none'}; --merge "
                         "says which label counts as which class")
    left_out = {"labels": dict(Counter(old.label for old, new in zip(corpus.utterances, named)
                                       if old.label and not new.label).most_common()),
                "unlabelled": len(corpus.utterances) - labels.total()}

    related = is_related(models, corpus)
    testers = {i: who_may_test(models, named[i], corpus.sounds[i], related) for i in places}
    known = [i for i in places if not testers[i]]
    if known and not config.leave_out:
        raise ValueError(refusal(models, corpus, known, len(places)))
    left_out["known"] = len(known)
    places = [i for i in places if testers[i]]
    if not places:
        raise ValueError(f"{corpus.path}: {models[0].directory} was trained or selected on all its {len(known)} "
                         "utterances; nothing is left to test")

    apart = all(len(testers[i]) == len(models) for i in places)
    asked = {i: testers[i] if apart else testers[i][:1] for i in places}
    has_truth = {i for i in places if NEUTRAL in classes and frame_truth.exists(named[i])}
    answers: list[dict[int, Result]] = [{} for _ in models if apart] or [{}]
    unreadable: dict[str, str] = {}
    for number, model in enumerate(models):
        if number:
            recogniser = Recogniser.from_pretrained(model.directory, config.device)
        if recogniser.labels != classes:
            raise ValueError(f"{model.directory}: classes {', '.join(recogniser.labels)}, those of "
                             f"{models[0].directory} are {', '.join(classes)}; only equal ones are tested together")
        own = [i for i in places if number in asked[i]]
        sounds = (named[i].path for i in own)
        if config.degrade:
            sounds = degraded_sound.sounds([named[i] for i in own], named, config.degrade, config.degrade_seed)
        results = recogniser.recognise_each(sounds)
        for i, (_, result) in zip(own, log.progress(results, len(own), "recognising", "utterances")):
            if isinstance(result, Exception):
                unreadable[named[i].id] = str(result)
            elif i in has_truth:
                answers[number if apart else 0][i] = result
            else:                                   # frames of thousands of utterances need not wait in memory
                answers[number if apart else 0][i] = replace(result, posterior=NOTHING, attention=NOTHING)
    places = [i for i in places if named[i].id not in unreadable]
    if not places:
        raise ValueError(f"{corpus.path}: no sound could be recognised: {next(iter(unreadable.values()))}")
    left_out["unreadable"] = unreadable

    tested = [named[i] for i in places]
    absent = [name for name in classes if not any(utterance.label == name for utterance in tested)]
    answer = [name for name in classes if not (config.shared_classes and name in absent)]
    if len(answer) < 2:
        raise ValueError(f"{corpus.path}: shares one class with the recogniser, {answer[0]}; --shared-classes leaves "
                         "nothing to choose from")
    sides = [Predictions.of(tested, answer, centred(probabilities_of([of_place[i] for i in places], answer), tested,
                                                    config.centre))
             for of_place in answers]
    pairs = [(named[i], models[number].known) for i in places for number in asked[i] if models[number].known]
    familiar = {one.id: one for one, list_of in pairs if one.speaker in list_of.speakers}
    same_names = {one.id for one, list_of in pairs if (one.id, one.speaker) in list_of.names and one.speaker}
    over_time = [[(named[i], of_place[i]) for i in places if i in has_truth]
                 for of_place in answers]
    reasons = Counter(result.reason for of_place in answers for result in of_place.values() if result.emotion == NONE)
    return Tested(answer, tested, sides, over_time, absent, list(familiar.values()), len(same_names), related,
                  bool(known) or not apart, models, left_out, reasons)


def centred(probabilities: np.ndarray, utterances: Sequence[Utterance], source: str) -> np.ndarray:
    """`calibration.centred` of each source's utterances, (U, C); source: one of SOURCES, or "" for none.

    Raises ValueError for an utterance whose source is not known, and for one that is alone in its source.
    """
    if not source:
        return probabilities
    names = np.array([getattr(utterance, source) or ("all" if source == "corpus" else "") for utterance in utterances])
    if "" in names:
        raise ValueError(f"utterance {utterances[int(np.argmax(names == ''))].id} has no {source}, and --centre "
                         f"{source} needs it; fill in the manifest's column {source}, or choose another --centre")
    result = np.empty_like(probabilities)
    for name in np.unique(names):
        own = names == name
        if own.sum() < 2:
            raise ValueError(f"{source} {name} has one utterance, of which --centre would leave nothing; choose "
                             "another --centre")
        result[own] = calibration.centred(probabilities[own])
    return result


def is_related(models: Sequence[Model], corpus: Corpus) -> bool:
    """Whether a corpus has utterances that a recogniser knows, by sound or by id and speaker (joined ones have those).

    Only then are speakers of one name taken as one person: in other corpora `03` is somebody else.
    """
    lists = [model.known for model in models if model.known]
    return any(sound in one.uses or (utterance.id, utterance.speaker) in one.names
               for utterance, sound in zip(corpus.utterances, corpus.sounds) for one in lists)


def who_may_test(models: Sequence[Model], utterance: Utterance, sound: str, related: bool) -> list[int]:
    """Numbers of the recognisers that may be tested on an utterance: those who do not know its sound. In a `related`
    corpus, of these only those who do not know its speaker either, if there are any.
    """
    unknown = [i for i, model in enumerate(models) if not model.known or sound not in model.known.uses]
    strangers = [i for i in unknown if not models[i].known or utterance.speaker not in models[i].known.speakers]
    return strangers if related and strangers else unknown


def refusal(models: Sequence[Model], corpus: Corpus, known: Sequence[int], number: int) -> str:
    """Why a corpus is refused: which utterances, at these places, every recogniser was trained or selected on."""
    uses = Counter(models[0].known.uses[corpus.sounds[i]] for i in known)
    words = " and ".join(f"{uses[use]} for {use}" for use in (TRAINING, SELECTION) if uses[use])
    of_folds = "every fold" if len(models) > 1 else "the recogniser"
    return (f"{corpus.path}: {of_folds} knows the labels of {len(known)} of the {number} utterances ({words}), first "
            f"{corpus.utterances[known[0]].id}, by {models[0].directory / NAME}; test on others, or leave these out "
            "with --leave-out")


def probabilities_of(answers: Sequence[Result], classes: Sequence[str]) -> np.ndarray:
    """Probabilities (U, C) float64 of these classes, of all or of some of the recogniser's; rows sum to 1."""
    shares = np.array([[result.probabilities[name] for name in classes] for result in answers], float)
    shares = np.maximum(shares, np.finfo(float).tiny)
    return shares / shares.sum(1, keepdims=True)


def scores_of(tested: Tested, config: EvaluationConfig) -> dict:
    """The scores of a test of one side: `Predictions.scores`; those of women, of men and of each of several corpora;
    WA, UA and recalls of each speaker; over time; and everything that must be said beside them.
    """
    side, = tested.sides
    by_id = {utterance.id: utterance for utterance in tested.utterances}
    subsets = {name: side.subset(places).scores() for name, places in subset_places(side, by_id).items()
               if name != "improvised" and places}      # a style that IEMOCAP alone has
    of_speaker: dict[str, list[int]] = {}
    for place, utterance in enumerate(tested.utterances):
        of_speaker.setdefault(utterance.speaker, []).append(place)
    speakers = {}
    for name, places in of_speaker.items():
        one = side.subset(places).scores()
        speakers[name] = {"num_utterances": len(places), **{key: one[key] for key in ("wa", "ua", "recall")}}
    return side.scores() | remarks(tested, config) | {
        "subsets": subsets, "speakers": {name: one for name, one in speakers.items() if name},
        "over_time": over_time(tested, config)}


def mean_scores(tested: Tested, config: EvaluationConfig) -> dict:
    """Means over the sides of WA, UA, macro-F1, and over time of the rates, with intervals over speakers and sides."""
    sides = tested.sides
    means = dict(zip(NAMES, comparison.measured(sides).mean(0).tolist()))
    ends = dict(zip(NAMES, comparison.intervals(sides)))
    return means | remarks(tested, config) | {
        "interval_95": {name: one and list(one) for name, one in ends.items()}, "sides": len(sides),
        "interval_over": sides[0].groups_in_words(), "over_time": over_time(tested, config)}


def over_time(tested: Tested, config: EvaluationConfig) -> dict | None:
    """`diarization.scores`, of several sides their means; None where no truth about frames is known."""
    if not tested.over_time[0]:
        return None
    of_sides = [diarization.scores(pairs, config.smooth) for pairs in tested.over_time]
    if len(of_sides) == 1:
        return of_sides[0]
    means = {}
    for name in OVER_TIME:
        values = [one[name] for one in of_sides if one[name] is not None]
        means[name] = float(np.mean(values)) if values else None
    return means | {"num_utterances": of_sides[0]["num_utterances"]}


def remarks(tested: Tested, config: EvaluationConfig) -> dict:
    """What was tested and what was not, for JSON."""
    predicted = Counter(side.classes[number] for side in tested.sides for number in side.predicted)
    return {"classes": tested.classes, "num_utterances": len(tested.utterances), "left_out": tested.left_out,
            "absent_classes": {name: predicted[name] for name in tested.absent},
            "shared_classes": config.shared_classes, "smooth_seconds": config.smooth,
            "degrade": config.degrade, "degrade_seed": config.degrade_seed,
            "same_speakers": {"speakers": sorted({one.speaker for one in tested.same_speakers}),
                              "utterances": len(tested.same_speakers), "same_names": tested.same_names,
                              "related_corpus": tested.related},
            "optimistic": bool(tested.same_speakers), "own_corpus": tested.own, "none": dict(tested.reasons),
            "training_known": training_known(tested)}


def training_known(tested: Tested) -> str:
    """What is known of the recognisers' training data, in words."""
    lists = [model.known for model in tested.models]
    if None in lists:
        return NOT_LISTED
    if any(model.derived for model in tested.models):
        return DERIVED
    speakers = all(one.speakers for one in lists) and all(one.speaker for one in tested.utterances)
    return LISTED if speakers else NO_SPEAKERS


def notes(scores: dict) -> list[str]:
    """What must be said beside the scores (`remarks`), a line each."""
    lines, left_out = [], scores["left_out"]
    if scores["degrade"]:
        lines.append(f"every sound is degraded: {scores['degrade']}, drawn by seed {scores['degrade_seed']}")
    out = [f"{number} {label}" for label, number in left_out["labels"].items()]
    parts = [f"{sum(left_out['labels'].values())} with labels that the recogniser does not have ({some(out)})"] \
        if out else []
    parts += [f"{left_out[name]} {words}" for name, words in (("unlabelled", "without a label"),
                                                              ("known", "that it was trained or selected on"))
              if left_out[name]]
    unreadable = left_out["unreadable"]
    if unreadable:
        parts.append(f"{len(unreadable)} that could not be recognised ({some(list(unreadable.values()))})")
    if parts:
        lines.append("left out: " + "; ".join(parts))
    absent = scores["absent_classes"]
    if absent:
        words = "no answer could be one of them" if scores["shared_classes"] else \
            f"predicted {sum(absent.values())} times, which counts as wrong (--shared-classes: no such answer)"
        lines.append(f"classes that the corpus lacks: {', '.join(absent)}: {words}; UA and macro-F1 are over the "
                     "others")
    same = scores["same_speakers"]
    if same["utterances"]:
        names = f"; {same['same_names']} have the id of one that it knows: the same recordings in another form?" \
            if same["same_names"] else ""
        sure = "optimistic" if same["related_corpus"] else "optimistic, if they are the same people"
        lines.append(f"{sure}: {same['utterances']} utterances are of {len(same['speakers'])} speakers whose names are "
                     f"in training or selection, too ({some(same['speakers'])}){names}")
    if scores["training_known"] != LISTED:
        lines.append(scores["training_known"])
    if scores["none"]:
        total = sum(scores["none"].values())
        lines.append(f"{total} answers would have been none ({some(list(scores['none']))}); here the most probable "
                     "class counts")
    return lines


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def table(model: str, corpus: str, scores: dict) -> str:
    """`scores_of` as text: scores of all and of subsets, notes, intervals, confusion, speakers, calibration, time."""
    classes = scores["classes"]
    lines = [f"{model} on {corpus}: {scores['num_utterances']} utterances, {scores['interval_over']}", *notes(scores)]
    rows = [["", *NAMES.values(), *classes, "utterances"]]
    for name, one in {"all": scores, **scores["subsets"]}.items():
        rows.append([name, *(_percent(one[key]) for key in NAMES), *(_percent(one["recall"][key]) for key in classes),
                     str(sum(map(sum, one["confusion"])))])
    lines += score_lines(rows, classes)
    words = ", ".join(f"{NAMES[name]} {interval_words(ends)}" for name, ends in scores["interval_95"].items())
    lines.append(f"95 % intervals, {claim(scores['interval_over'])}: {words}")
    if None in scores["interval_95"].values():
        lines.append(NO_INTERVAL)
    lines.append("confusion (rows: truth, columns: predicted)")
    lines += confusion_lines(scores["confusion"], classes)
    lines += speaker_lines(scores["speakers"])
    one = scores["calibration"]
    lines.append(f"calibration: mean confidence {_percent(one['confidence'])} %, right {_percent(scores['wa'])} %; "
                 f"expected calibration error {_percent(one['ece'])} % in 15 bins, {_percent(one['adaptive_ece'])} % "
                 f"in bins of equal mass (a calibrated one: {_percent(one['ece_if_calibrated'][0])} and "
                 f"{_percent(one['adaptive_ece_if_calibrated'][0])} %); Brier score {one['brier']:.3f}; area under the "
                 f"risk-coverage curve {one['aurc']:.3f}")
    return "\n".join([*lines, *over_time_lines(scores)])


def speaker_lines(speakers: dict[str, dict]) -> list[str]:
    """WA and UA of each speaker, lowest UA first; of very many those at both ends."""
    if len(speakers) < 2:
        return []
    ranked = sorted(speakers.items(), key=lambda item: item[1]["ua"])
    title = "by speaker, lowest UA first"
    if len(ranked) > MAX_SPEAKERS:
        title += f" (of {len(ranked)}, the {MAX_SPEAKERS // 2} lowest and highest; --json has all)"
        ranked = ranked[:MAX_SPEAKERS // 2] + ranked[-(MAX_SPEAKERS // 2):]
    rows = [["", "WA", "UA", "utterances"]]
    rows += [[name, _percent(one["wa"]), _percent(one["ua"]), str(one["num_utterances"])] for name, one in ranked]
    return [title, *aligned(rows)]


def over_time_lines(scores: dict) -> list[str]:
    """Scores over time, a line each; nothing where none are known."""
    one = scores["over_time"]
    if one is None:
        return []
    rows = [[name, over_time_cell(one, key)] for key, (name, _) in OVER_TIME.items()]
    return [f"emotion over time: {one['num_utterances']} utterances whose truth is known, segments of at least "
            f"{scores['smooth_seconds']:g} s; % of the time, AUC and F1",
            *(f"{line}  {words}" for line, (_, words) in zip(aligned(rows), OVER_TIME.values()))]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
