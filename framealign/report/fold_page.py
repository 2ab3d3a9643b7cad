"""report.html: a fold's results and what they mean, how it was trained, its units, its states, and example utterances.

`write` makes the page of one fold, `overview` that of all finished folds of a run; `write_all` both, as the end of a
session does. Everything is read from the run's folder, so a page can be made again at any time.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch

from framealign.runtime import files, log
from framealign.runtime.seeds import derive_seed
from framealign.sound import audio
from framealign.sound.frames import milliseconds
from framealign.corpus import frame_truth, protocols
from framealign.corpus.utterance import NEUTRAL, Utterance
from framealign.hubert.model import Hubert
from framealign.exchange import encoder_file
from framealign.units.codebook import Codebook
from framealign.units.extraction import source_of_states
from framealign.units.units import Units, unit_files
from framealign.emotion import diarization, metrics
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.predictions import Predictions
from framealign.emotion.recogniser import Recogniser
from framealign.recipe.results import (CALIBRATION_COLUMNS, CALIBRATION_NOTE, CALIBRATIONS, NAMES, NO_INTERVAL,
                                       OVER_TIME, SHARED_SPEAKERS, calibration_rows, claim, interval_words,
                                       kind_of_fold, missing_words, over_time_cell, shares_speakers, utterances_of)
from framealign.recipe.session_config import METHODS, SHARE, base_folder, frames_stage, named_by_selection
from framealign.report import charts, curves, html_document, timeline, unit_analysis
from framealign.report.charts import Group
from framealign.report.html_document import card, facts, grid, section
from framealign.report.svg import colours, element, escape, shade

ORDER = ("mfcc-units", "scratch-1", "scratch-units", "scratch-2", "tapt-units", "tapt-pretrain", "tapt-finetune",
         "align-units", "align-pretrain", "multiscale-units", "multiscale-pretrain")
UNITS_OF = {"tapt": "tapt-units", "align": "align-units", "multiscale": "multiscale-units"}
TITLES = {"mfcc-units": "Stage 0: units of MFCC", "scratch-1": "Stage 0: HuBERT, first iteration",
          "scratch-units": "Stage 0: units of its states", "scratch-2": "Stage 0: HuBERT, second iteration",
          "tapt-units": "Stage 1: units of the base model", "tapt-pretrain": "Stage 2: task-adaptive pretraining",
          "tapt-finetune": "Stage 3: fine-tuning on emotion", "align-units": "Stage 4: pseudo-emotion units",
          "align-pretrain": "Stage 5: pretraining on pseudo-emotion units",
          "multiscale-units": "Stage 4: pseudo-emotion units of several codebooks",
          "multiscale-pretrain": "Stage 5: pretraining on units of several codebooks",
          "ser-finetune": "Stage 6: fine-tuning and test", "multiscale-finetune": "Stage 6: fine-tuning and test",
          "finetune": "Fine-tuning of the base model", "probe": "Frozen probe of the base model",
          **dict.fromkeys(map(frames_stage, METHODS), "Stage 7: which frames")}
# The stages of each method before the fine-tuning that is tested.
STAGES_BEFORE = {"probe": ORDER[:4], "finetune": ORDER[:4], "tapt": ORDER[:6], "align": ORDER[:9],
                 "multiscale": ORDER[:7] + ORDER[9:]}
SCORES = ("wa", "ua", "macro_f1")
PARTS, CONSTANTS = ("false_alarm", "missed", "confused"), ("always_neutral", "label_everywhere")  # of OVER_TIME
EDER = ("EDER, the emotion diarization error rate, is the share of the test utterances' time that has a wrong emotion, "
        "frame by frame; all time outside emotional stretches is neutral.")
MAP_POINTS, MAP_UTTERANCES, HEAT_UNITS, MAX_BARS = 1200, 80, 75, 60


@dataclass
class Fold:
    """One finished fold and where its files are."""
    run: Path
    session: str
    method: str
    collected: dict                                 # of `results.collect`: this and the other finished folds
    device: str = "cpu"                             # for recognising again

    @property
    def results(self) -> dict:
        return self.collected["folds"][self.session]

    @property
    def tested(self) -> Path:
        """The folder of the fine-tuning that was tested; of several, in which each speaker is tested once, the first.
        """
        folder = self.results["folder"]
        return folder / "way1" if (folder / "way1").is_dir() else folder

    @property
    def frames(self) -> Path | None:
        """The folder of the method's finished stage that trains a classifier of frames; None where there is none."""
        return next((self.stage(name) for name in self.results.get("frames", {})), None)

    @property
    def over_time(self) -> Path:
        """The folder of the recogniser that draws time lines: that with a classifier of frames, else the tested one.
        """
        return self.frames or self.tested

    @property
    def recognisers(self) -> dict[str, dict]:
        """Results by stage: of the method's test, of the classifier of frames, and of its bound, where they are there.
        """
        return {self.results["folder"].name: self.results, **self.results.get("frames", {})}

    @property
    def scores_over_time(self) -> dict[str, dict]:
        """Scores of the emotion over time (`diarization.scores`) by stage, of recognisers that have them."""
        return {name: results["over_time"] for name, results in self.recognisers.items() if "over_time" in results}

    @property
    def classes(self) -> list[str]:
        return self.results["classes"]

    @property
    def kind(self) -> str:
        """What is held out: a session, a speaker, a group or a part."""
        return kind_of_fold(self.results["protocol"])

    @property
    def seed(self) -> int:
        return self.results["seed"]

    def stage(self, name: str) -> Path | None:
        """The folder of a finished stage: the fold's own, or one that folds share, whatever share of labels they know.
        """
        shared = [self.run, *([self.run.parent] if self.run.name.startswith(SHARE) else [])]
        for root in (self.run / f"session{self.session}", *shared):
            for folder in (root / name, root / "scratch" / name):
                if (folder / "stage.json").exists():
                    return folder
        return None

    def utterances(self) -> dict[str, Utterance]:
        """The corpus, by id."""
        return utterances_of(self.run)


@dataclass
class FoldUnits:
    """The units that a method was trained to predict: codebook, units of the pretraining utterances, and the model
    whose states they are. Of several codebooks it is the middle one by size.
    """
    codebook: Codebook
    units: Units
    utterances: list[Utterance]                     # those of `units`, in their order
    hubert: Hubert

    @classmethod
    def read(cls, fold: Fold, utterances: Sequence[Utterance]) -> "FoldUnits | None":
        """None for a method without units. utterances: of the whole corpus."""
        folder = fold.stage(UNITS_OF[fold.method]) if fold.method in UNITS_OF else None
        if folder is None:
            return None
        settings = fold.results["protocol"]
        pretraining = protocols.pretraining_utterances(utterances, fold.session, settings["pretrain_data"])
        sizes = files.read_json(folder / "stage.json")["settings"]["clusters"]
        middle = sizes.index(sorted(sizes)[len(sizes) // 2])
        codebook_name, units_name = unit_files(sizes)[middle]
        codebook, units = Codebook.read(folder / codebook_name), Units.read(folder / units_name)
        hubert = cls.teacher(fold, settings["hubert"]).eval()
        units.check(pretraining, str(folder / units_name))
        if units.record.get("codebook_digest") != codebook.digest:
            raise ValueError(f"{folder}: {units_name} was not made with {codebook_name}; make both again with --redo")
        codebook.check_source(source_of_states(hubert, codebook.record["layer"]), "make them again with --redo")
        return cls(codebook, units, pretraining, hubert)

    @staticmethod
    def teacher(fold: Fold, base: str) -> Hubert:
        """The model whose states were clustered: the base model, or phase 1's recogniser for pseudo-emotion units."""
        if fold.method in ("align", "multiscale"):
            return EmotionModel.from_pretrained(fold.stage("tapt-finetune") / "recogniser").hubert
        if base == "scratch":
            return Hubert.from_pretrained(fold.stage("scratch-2") / "encoder")
        return encoder_file.load(base_folder(base))

    def of(self, utterance: Utterance) -> np.ndarray:
        """Units of one utterance, (T,): those of the file, or, if it was not used in pretraining, computed now."""
        for index, known in enumerate(self.utterances):
            if (known.id, known.path) == (utterance.id, utterance.path):        # a joined one has an id of the corpus
                return self.units.of(index).numpy()
        waveform = audio.preprocess(audio.load(utterance.path), self.hubert.do_normalize)
        with torch.inference_mode():
            states = self.hubert.states(waveform[None], layer=self.codebook.record["layer"])[0]     # (T, D)
        return self.codebook.assign(states).numpy()


def write_all(run: str | Path, collected: dict, session: str = "all", device: str = "auto") -> list[Path]:
    """The page of one finished fold or of all, and with more than one finished fold their overview; the pages' paths.

    collected: of `results.collect`. Raises ValueError where that fold is not finished.
    """
    method = collected["protocol"]["method"]
    finished = list(collected["folds"])
    sessions = finished if session == "all" else [session]
    for name in sessions:
        if name not in finished:
            raise ValueError(f"{run}: session {name} is not finished; finished: {', '.join(finished)}")
    pages = [write(Fold(Path(run), name, method, collected, device)) for name in sessions]
    if len(finished) > 1:
        pages.append(overview(Path(run), collected))
    return pages


def write(fold: Fold) -> Path:
    """Make `RUN/session<n>/report.html` (methods other than align: `report-<method>.html`, `file_name`)."""
    utterances = fold.utterances()
    units = FoldUnits.read(fold, list(utterances.values()))
    parts = {"result": ("Result", result_section(fold))}
    confidence = confidence_section({name: results["test"] for name, results in fold.recognisers.items()})
    if confidence:
        parts["confidence"] = ("Confidence", confidence)
    if fold.frames or "over_time" in fold.results:
        parts["over-time"] = ("Over time", over_time_section(fold))
    parts["training"] = ("Training", training_section(fold))
    if units is not None:
        parts["units"] = ("Units", units_section(fold, units))
    parts["map"] = ("Map", map_section(fold, units, utterances))
    parts["utterances"] = ("Utterances", utterances_section(fold, units, utterances))

    title = f"{fold.kind.capitalize()} {fold.session} held out, method {fold.method}"
    subtitle = (f"framealign: {', '.join(fold.classes)}; tested on {fold.results['num_utterances']['test']} utterances")
    if not shares_speakers(fold.results["protocol"]):
        subtitle += " of speakers that are not in the training data"
    body = html_document.head(title, subtitle, [(place, name) for place, (name, _) in parts.items()])
    body += element("main", [content for _, content in parts.values()])
    place = fold.run / f"session{fold.session}" / file_name(fold.collected["protocol"])
    return save(place, html_document.document(title, body))


def save(path: Path, content: str) -> Path:
    """Write a page and print its size."""
    files.write_text(path, content)
    size = path.stat().st_size
    warning = ""
    if size > html_document.LIMIT_BYTES:
        warning = f", more than the intended {html_document.LIMIT_BYTES / 1e6:.0f} MB"
    log.say(f"{path}: {size / 1e6:.1f} MB{warning}")
    return path


def file_name(protocol: Mapping[str, object]) -> str:
    """The name of a method's pages, whatever else was run: `report.html` is always that of the paper's method."""
    method = protocol["method"]
    named = named_by_selection(method, method, protocol["selection"])
    return "report.html" if named == "align" else f"report-{named}.html"


def overview(run: Path, collected: dict) -> Path:
    """Make `RUN/report.html`: all finished folds together, with links to their own pages."""
    protocol = collected["protocol"]
    method, page, kind = protocol["method"], file_name(protocol), kind_of_fold(protocol)
    classes, pooled, folds = collected["protocol"]["classes"], collected["pooled"], collected["folds"]
    rows, columns = [], by_fold(run, collected)
    for number, (name, fold) in enumerate(folds.items()):
        rows.append([f"{kind} {name}", *(per_cent(values[number]) for values in columns.values()),
                     str(fold["num_utterances"]["test"])])
    known = [[value for value in values if value is not None] for values in columns.values()]
    rows.append(["mean", *(per_cent(np.mean(values)) for values in known), ""])

    total = sum(map(sum, pooled["confusion"]))
    content = caveats(protocol, protocol["optimistic"]) + missing_notes(collected["missing"], kind)
    content += headline(pooled, len(classes), f"pooled over {total} test utterances of {len(folds)} folds")
    is_scored = len(columns) > len(SCORES)
    content += grid([card("By fold, %", charts.table(["", *columns, "n"], rows), EDER if is_scored else "", is_scored),
                     confusion_card("Confusion, pooled", pooled["confusion"], classes),
                     recall_card(classes, folds, kind)])
    content += card("Protocol: what the numbers mean", protocol_facts(collected["protocol"]))

    title = f"{len(folds)} folds, method {method}"
    body = html_document.head(title, f"framealign: one {kind} held out at a time, pooled over all test utterances")
    body += element("nav", [element("a", escape(f"{kind} {name}"), href=f"session{quote(name)}/{page}")
                            for name in folds])
    body += element("main", section("result", "Result", content) + confidence_section(collected["calibration"]))
    return save(run / page, html_document.document(title, body))


def by_fold(run: Path, collected: dict) -> dict[str, list[float | None]]:
    """Columns of the table of folds, shares of each: the method's scores, and EDER of what is known over time."""
    folds = collected["folds"]
    columns = {NAMES[key]: [fold["reported"][key] for fold in folds.values()] for key in SCORES}
    known = [Fold(run, name, collected["protocol"]["method"], collected).scores_over_time for name in folds]
    for stage in dict.fromkeys(stage for scores in known for stage in scores):
        columns[f"EDER {stage}"] = [scores[stage]["eder"] if stage in scores else None for scores in known]
    if any(known):
        columns["always neutral"] = [next(iter(scores.values()))["always_neutral"] if scores else None
                                     for scores in known]
    return columns


def per_cent(share: float | None) -> str:
    """A share in per cent, "-" for None."""
    return "-" if share is None else f"{100 * share:.1f}"


def result_section(fold: Fold) -> str:
    """Headline with intervals, confusion, recall by class and by fold, the protocol."""
    results, classes = fold.results, fold.classes
    content = caveats(results["protocol"], results["optimistic"])
    missing = fold.collected["missing"]
    content += missing_notes({fold.session: missing[fold.session]} if fold.session in missing else {}, fold.kind)
    content += headline(results["test"] | results["reported"], len(classes),
                        f"{results['num_utterances']['test']} test utterances, one fold")
    folds = fold.collected["folds"]
    content += grid([confusion_card("Confusion", results["test"]["confusion"], classes,
                                    "Each row: how the utterances of one true class were recognised."),
                     recall_card(classes, folds if len(folds) > 1 else {fold.session: results}, fold.kind)])
    settings = results["protocol"] | {"method": fold.method, "selected epoch": results["selected_epoch"]}
    content += card("Protocol: what the numbers mean", protocol_facts(settings | results["num_utterances"]))
    return section("result", "Result", content)


def headline(scores: dict, num_classes: int, note: str) -> str:
    """UA, WA and macro-F1, large, with their intervals and how many speakers these are from."""
    intervals = scores["interval_95"]
    note += f"; 95 % interval of the test predictions {claim(scores['interval_over'])}"
    if None in intervals.values():
        note += f"; {NO_INTERVAL}"
    rows = (("ua", "UA, mean of the classes' recalls", f"chance: {100 / num_classes:.3g} %; {note}"),
            ("wa", "WA, share of utterances recognised", note),
            ("macro_f1", "macro-F1", note))
    return charts.headline([(name, scores[key], intervals.get(key), words) for key, name, words in rows])


def caveats(protocol: Mapping[str, object], is_optimistic: bool) -> str:
    """Why numbers promise too much, where they do."""
    reasons = ["Optimistic: this selection looks at the test session before the test."] if is_optimistic else []
    if shares_speakers(protocol):
        reasons.append(f"Optimistic: {SHARED_SPEAKERS}.")
    return "".join(element("p", reason, class_="wrong") for reason in reasons)


def missing_notes(missing: Mapping[str, dict[str, list[str]]], kind: str) -> str:
    """A line for each fold a part of which lacks a class. kind: what a fold is."""
    return "".join(element("p", escape(f"{kind.capitalize()} {name}: {missing_words(names)}."), class_="wrong")
                   for name, names in missing.items())


def confusion_card(title: str, matrix: Sequence[Sequence[int]], classes: Sequence[str], note: str = "") -> str:
    """A confusion matrix; that of very many classes has the page's width."""
    return card(title, charts.confusion(matrix, classes), note, wide=len(classes) > 2 * charts.MANY)


def recall_card(classes: Sequence[str], folds: Mapping[str, dict], kind: str) -> str:
    """Recall by class, and by fold where there are several; of many folds all together. kind: what a fold is."""
    rows = []
    if len(folds) * len(classes) > MAX_BARS:
        matrix = np.sum([fold["test"]["confusion"] for fold in folds.values()], 0)          # (C, C)
        counts = matrix.sum(1).tolist()
        shares = [hits / count if count else None for hits, count in zip(matrix.diagonal().tolist(), counts)]
        rows.append(("all folds", shares, counts))
        folds = {}
    for name, fold in folds.items():
        counts = [sum(row) for row in fold["test"]["confusion"]]
        shares = [fold["test"]["recall"][label] if count else None for label, count in zip(classes, counts)]
        rows.append((f"{kind} {name}", shares, counts))
    return card("Recall by class and fold" if len(rows) > 1 else "Recall by class", charts.recalls(classes, rows))


def protocol_facts(settings: Mapping[str, object]) -> str:
    """Every setting that a number depends on."""
    return facts([(name.replace("_", " "), setting_words(value)) for name, value in settings.items()
                  if name != "optimistic"])


def setting_words(value: object) -> str:
    """A setting's value as words, several separated by commas."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    return str(value)


def over_time_section(fold: Fold) -> str:
    """How right the emotion over time is, by recogniser; where its truth is not known, the utterances alone."""
    known = fold.scores_over_time
    columns = [key for key in OVER_TIME if key not in CONSTANTS] if known else []
    rows = []
    for name, results in fold.recognisers.items():
        scores = known.get(name)
        cells = ["-" if scores is None else over_time_cell(scores, key) for key in columns]
        rows.append([f"{name}: {learned_from(name, fold)}", *cells, per_cent(results["reported"]["ua"]),
                     interval_words(results["test"]["interval_95"]["ua"])])
    header = ["stage: learned from", *(OVER_TIME[key][0] for key in columns), "UA", "95 % interval"]
    if known:
        first = next(iter(known.values()))
        rows += [[OVER_TIME[key][0], over_time_cell(first, key), *["-"] * (len(header) - 2)] for key in CONSTANTS]
    notes = [f"{name[0].upper()}{name[1:]}: {words}." for name, words in (OVER_TIME[key] for key in columns)]
    content = card("Recognisers, %", charts.table(header, rows),
                   " ".join([*notes, "UA, of whole utterances, with its interval."]), wide=True)
    if known:
        content += grid([errors_card(known), *time_confusion_cards(known, fold)])
    return section("over-time", "Emotion over time", content, EDER if known else
                   "It is not known when these utterances are emotional, so that their time lines cannot be scored; "
                   "those of joined utterances can (bin/prepare.py --join, bin/evaluate.py --on).")


def confidence_section(of_stages: Mapping[str, Mapping[str, Mapping]]) -> str:
    """How right confidences are, by stage, before and after the temperatures: pictures, and a table of them all.

    of_stages: {stage: scores}, of these the keys of CALIBRATIONS that are there. A bound has no picture.
    """
    cards, rows = [], []
    for stage, scores in of_stages.items():
        known = {name: scores[key] for name, key in CALIBRATIONS.items() if key in scores}
        if not known:                               # of results that are older than these scores
            continue
        rows += calibration_rows(stage, {CALIBRATIONS[name]: one for name, one in known.items()})
        if stage.endswith("-bound"):
            continue
        known = known if len(known) > 1 else {"not calibrated": next(iter(known.values()))}
        cards.append(card(f"Reliability, {stage}", charts.reliability([(name, one["bins"]) for name, one in
                                                                        known.items()]),
                          "Each circle is a bin of confidence, as large as its share of the utterances. On the dashed "
                          "line confidence is what it says; below it answers are surer than right."))
        shares = [100 * (place + 1) / metrics.POINTS for place in range(metrics.POINTS)]
        lines = [charts.Curve(name, shares, one["risks"], len(known) - 1 - place)       # in the colours of the circles
                 for place, (name, one) in enumerate(known.items())]
        cards.append(card(f"Risk by coverage, {stage}", charts.curves(lines, charts.Axes(
            "answered, %, the most confident first", "share of wrong answers", low=0.0, percent=True)),
            "The share of wrong answers, if the least confident are rejected (--reject): lower is better."))
    if not rows:
        return ""
    content = grid(cards) + card("Calibration, %", charts.table(["stage", *CALIBRATION_COLUMNS], rows),
                                 CALIBRATION_NOTE, wide=True)
    return section("confidence", "Confidence", content, "Of answers with a confidence of 80 %, four in five should be "
                   "right. Temperatures, fitted on the validation part, divide the logits; they change no decision.")


def learned_from(name: str, fold: Fold) -> str:
    """What the recogniser of a stage learned from, in words."""
    if name == fold.results["folder"].name:
        return "whole utterances"
    return "true frames" if name.endswith("-bound") else "estimated frames"


def errors_card(known: Mapping[str, dict]) -> str:
    """The parts of each recogniser's EDER beside that of saying always neutral. known: scores over time by stage."""
    always_neutral = next(iter(known.values()))["always_neutral"]
    bars = charts.stacked([(name, [scores[key] for key in PARTS]) for name, scores in known.items()],
                          [f"{OVER_TIME[key][0]}: {OVER_TIME[key][1]}" for key in PARTS],
                          (always_neutral, f"always neutral: {100 * always_neutral:.1f} %"))
    return card("Where time lines are wrong, % of the time", bars,
                "A bar that crosses the dashed line is worse than no time line at all.")


def time_confusion_cards(known: Mapping[str, dict], fold: Fold) -> list[str]:
    """Which class is taken for which over time, by the recogniser that draws; none where it was not recorded."""
    name = fold.over_time.name
    if "confusion_seconds" not in known.get(name, {}):
        return []
    seconds = known[name]["confusion_seconds"]
    rows = [[round(seconds[true][recognised]) for recognised in fold.classes] for true in fold.classes]
    place = "Under the pointer" if len(fold.classes) > charts.MANY else "In small"
    return [confusion_card(f"Confusion over time, {name}", rows, fold.classes, "Each row: how the time of one true "
                           f"class was recognised, frame by frame. {place}: seconds.")]


def training_section(fold: Fold) -> str:
    """Curves of every stage that trained."""
    folders = [fold.stage(name) for name in STAGES_BEFORE[fold.method]] + [fold.results["folder"], fold.frames]
    content = [stage_curves(folder, path, len(fold.classes)) for folder in folders if folder is not None
               for path in sorted(folder.glob("way*/log.jsonl")) or [folder / "log.jsonl"]]
    return section("training", "Training", "".join(content), "The curves of every stage that trained, each with what "
                   "is normal. Dashed lines mark what chance would give.")


def stage_curves(folder: Path, log_path: Path, num_classes: int) -> str:
    """The curves of one training, to be folded away; "" without a log. folder: of the stage."""
    records = curves.read(log_path)
    if not records:
        return ""
    record = files.read_json(folder / "stage.json")
    settings = record["settings"]
    if "pretrain" in settings:
        num_clusters = files.read_json(folder / "pretrain.json")["num_clusters"]
        content = curves.pretraining(records, num_clusters, settings["pretrain"]["clip_norm"])
    elif "frames" in settings:
        scorer = curves.read(folder / "scorer" / "log.jsonl")
        place = folder / "scorer" / "spreads.json"
        spreads = files.read_json(place) if place.exists() else {}              # as a log that was deleted
        content = curves.frame_training(scorer, records, num_classes, settings["frames"], spreads)
    else:
        results = files.read_json(log_path.parent / "results.json")
        clip_norm = settings["probe" if "probe" in settings else "finetune"]["clip_norm"]
        content = curves.finetuning(records, num_classes, clip_norm, results["selected_epoch"])
        if "layer_weights" in results:
            content += curves.layer_shares(results["layer_weights"])
    way = "" if log_path.parent == folder else f", {log_path.parent.name}"
    summary = f"{TITLES.get(folder.name, folder.name)}{way}, {log.clock(record.get('seconds', 0))}"
    return element("details", element("summary", summary) + content, open="")


def units_section(fold: Fold, units: FoldUnits) -> str:
    """Usage, runs, and what units say about the emotion."""
    usage, num_units = unit_analysis.unit_usage(units.units), units.units.num_clusters
    emotions = unit_analysis.frame_emotions(units.utterances, fold.classes, units.units.framing)
    counts = unit_analysis.co_occurrence(units.units.units.numpy(), emotions, num_units, len(fold.classes))
    bits, normalised = unit_analysis.mutual_information(counts)
    hop = milliseconds(units.units.framing.hop)
    purity = counts.max(0).sum() / max(counts.sum(), 1)
    values = [("units in use", f"{usage.num_used} of {num_units}"), ("perplexity", f"{usage.perplexity:.1f}"),
              ("mean run", f"{usage.mean_run_frames:.1f} frames, {usage.mean_run_ms:.0f} ms"),
              ("frames", f"{len(units.units.units):,}"),
              ("mutual information with emotion", f"{bits:.3f} bits"), ("normalised", f"{normalised:.3f}"),
              ("frames with their unit's most frequent emotion", f"{100 * purity:.0f} %")]
    content = grid([
        card("In numbers", facts(values), "Perplexity: the number of equally frequent units that would be as varied. "
             "Mutual information grows with the number of units; compare codebooks of equal size only."),
        card("Usage", charts.histogram(np.sort(usage.counts)[::-1] / usage.counts.sum(), "units, most frequent first",
                                       mean_label="all equally frequent"),
             "Normal: falls gently. A few very frequent units and a long empty tail mean a poor codebook."),
        card("How long a unit lasts", charts.histogram(usage.run_shares(), f"frames of {hop} (12: 12 and more)", 1),
             "Normal: short runs, the more so the more units there are; a vowel lasts 50 to 150 ms. Runs of one frame "
             "only would be noise."),
        emotion_by_unit_card(counts, fold.classes, units.utterances)])
    which = "; of several codebooks the middle one" if fold.method == "multiscale" else ""
    return section("units", f"Units ({UNITS_OF[fold.method]})", content,
                   f"The {num_units} clusters of frames that pretraining predicts{which}.")


def emotion_by_unit_card(counts: np.ndarray, classes: Sequence[str], utterances: Sequence[Utterance]) -> str:
    """In which emotions units are more frequent than overall. counts (classes, K): a co-occurrence."""
    chosen = unit_analysis.most_informative_units(counts, HEAT_UNITS)
    source = "that of the whole utterance, including pauses"
    if any(map(frame_truth.exists, utterances)):
        source = "that of the frame, where it was planted"
    note = ("Orange and +: the unit is at least twice as frequent in this emotion as overall; blue and −: at most half "
            f"as frequent. The emotion is {source}.")
    if (counts.sum(0) > 0).sum() > len(chosen):
        note += f" Shown: the {len(chosen)} units with the most information about the emotion."
    heat_map = charts.heat_map(unit_analysis.log_lift(counts)[:, chosen], classes, [str(unit) for unit in chosen])
    return card("Emotion by unit", heat_map, note, wide=True)


def map_section(fold: Fold, units: FoldUnits | None, utterances: Mapping[str, Utterance]) -> str:
    """The states the classifier reads, of test utterances, on their two principal axes."""
    model = Recogniser.from_pretrained(fold.tested / "recogniser", fold.device).model
    predictions = Predictions.read(fold.tested / "predictions.csv", utterances)
    draw = np.random.default_rng(derive_seed(fold.seed, "map"))
    places = sorted(draw.permutation(len(predictions.ids))[:MAP_UTTERANCES])
    tested = [utterances[predictions.ids[i]] for i in places]
    states = torch.cat([unit_analysis.classifier_states(model, utterance) for utterance in tested])
    drawn = np.sort(draw.permutation(len(states))[:MAP_POINTS])

    points, variance = unit_analysis.principal_components(states)
    emotions = unit_analysis.frame_emotions(tested, fold.classes, model.hubert.config.framing)[drawn]
    points = points.numpy()[drawn]
    axes = tuple(f"axis {i + 1}: {100 * float(share):.0f} % of the variance" for i, share in enumerate(variance))
    groups = [Group(name, colour, charts.MARKERS[i % len(charts.MARKERS)])
              for i, (name, colour) in enumerate(zip(fold.classes, colours(fold.classes)))]
    cards = [card("By emotion", charts.scatter(points, emotions, groups, axes),
                  "Colour and shape: the emotion. Each name stands at the middle of its points"
                  + (", unless it would cover another." if len(groups) > charts.MANY else "."))]
    if units is not None:
        numbers = np.concatenate([units.of(utterance) for utterance in tested])[drawn]
        cards.append(unit_map_card(points, numbers, unit_analysis.unit_order(units.codebook.centroids), axes))
    what = "the last layer's states" if model.projector is None else "the projected sum of all layers' states"
    return section("map", "Map", grid(cards), f"{len(drawn)} frames of {len(tested)} test utterances as the classifier "
                   f"sees them: {what} on their two principal axes (PCA). Similar states lie close to each other.")


def unit_map_card(points: np.ndarray, units: np.ndarray, order: np.ndarray, axes: tuple[str, ...]) -> str:
    """The same points (S, 2) by their units (S,); order (K,): of units along the codebook, for colours."""
    groups = [Group(str(unit), shade(position)) for unit, position in enumerate(order)]
    smallest = max(3, len(points) // 60)
    picture = charts.scatter(points, units, groups, axes, legend=False, smallest=smallest)
    return card("By unit", picture + charts.colour_scale(("one end", "the other end of the codebook's principal axis")),
                "Numbers: the more frequent units, each at the middle of its points. Similar units have similar "
                "colours.")


def utterances_section(fold: Fold, units: FoldUnits | None, utterances: Mapping[str, Utterance]) -> str:
    """Time lines of some test utterances, by the recogniser that knows most about when."""
    recogniser = Recogniser.from_pretrained(fold.over_time / "recogniser", fold.device)
    order = None if units is None else unit_analysis.unit_order(units.codebook.centroids)
    predictions = Predictions.read(fold.over_time / "predictions.csv", utterances)
    figures = []
    for example in unit_analysis.example_utterances(predictions, fold.seed):
        utterance = utterances[example.id]
        result = recogniser(utterance.path)
        notes, truth = [example.reason], None
        if frame_truth.exists(utterance):
            truth = frame_truth.stretches(utterance)
            if NEUTRAL in fold.classes:
                scores = diarization.scores([(utterance, result)])
                notes.append(f"wrong for {100 * scores['segment_eder']:.0f} % of its time, by segments (always neutral "
                             f"{100 * scores['always_neutral']:.0f} %)")
            is_emotional = frame_truth.is_emotional(utterance, len(result.attention), result.framing)      # (T,)
            if is_emotional.any() and not is_emotional.all():
                auc = metrics.roc_auc(result.attention, is_emotional)
                notes.append(f"attention of emotional frames against the others: AUC {auc:.2f}")
        if utterance.speaker:
            notes.append(f"speaker {utterance.speaker}" + (f", {utterance.style}" if utterance.style else ""))
        annotation = timeline.Annotation(utterance.id, "; ".join(notes), example.true, truth)
        strip = None if units is None else timeline.UnitTrack(units.of(utterance), order)
        figures.append(timeline.picture(audio.load(utterance.path).numpy(), result, annotation, strip))
    source = "the classifier of frames" if fold.frames else "the classifier of utterances, applied to single frames"
    return section("utterances", "Utterances", "".join(figures), "Test utterances over time: press play, or click into "
                   f"a picture. The recogniser of the stage {fold.over_time.name} draws them. The posterior is by "
                   f"{source}; segments are the posterior, smoothed; attention is each frame's weight in the "
                   "utterance's result.")
