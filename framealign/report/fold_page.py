"""report.html: what a fold's numbers are and mean, how it was trained, what it learnt, what it hears; in one file.

`write` makes the page of one fold, `overview` the one of all finished folds of a run; `write_all` both, as the end of a
session does. Everything is read from the run's folder, so a page can be made again at any time.
"""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from framealign.runtime import files, log
from framealign.runtime.seeds import derive_seed
from framealign.sound import audio
from framealign.corpus import manifest, protocols, synthetic_corpus
from framealign.hubert.model import Hubert
from framealign.units.codebook import Codebook
from framealign.units.units import Units, unit_files
from framealign.emotion import metrics, planted_truth
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.recogniser import Recogniser
from framealign.recipe import results
from framealign.recipe.recipe import TINY
from framealign.report import charts, curves, html_document, timeline, unit_analysis
from framealign.report.html_document import card, facts, grid, section
from framealign.report.svg import colours, element, shade

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
          "finetune": "Fine-tuning of the base model"}
BEFORE = {"finetune": ORDER[:4], "tapt": ORDER[:6], "align": ORDER[:9], "multiscale": ORDER[:7] + ORDER[9:]}
MAP_POINTS, MAP_UTTERANCES, HEAT_UNITS = 1200, 80, 75


@dataclass
class Fold:
    """One finished fold and where its things are."""
    run: Path
    session: str
    method: str
    collected: dict                                 # of `report.collect`: this and the other finished folds
    device: str = "cpu"                             # what recognises again

    @property
    def results(self) -> dict:
        return self.collected["folds"][self.session]

    @property
    def tested(self) -> Path:
        """The folder of the fine-tuning that was tested; of two ways round, the first."""
        place = self.results["place"]
        return place / "way1" if (place / "way1").is_dir() else place

    @property
    def classes(self) -> list[str]:
        return self.results["classes"]

    @property
    def seed(self) -> int:
        return self.results["seed"]

    def stage(self, name: str) -> Path | None:
        """The folder of a finished stage, the fold's own or one that folds share."""
        places = [root / part / name for root in (self.run / f"session{self.session}", self.run)
                  for part in ("", "scratch")]
        return next((place for place in places if (place / "stage.json").exists()), None)


def write_all(run: str | Path, method: str, selection: str = "", session: str = "all", device: str = "auto"
              ) -> list[Path]:
    """The page of one finished fold or of all, and with more than one finished fold their overview; the pages' paths.

    Raises ValueError as `report.collect`, or where that fold is not finished.
    """
    collected = results.collect(run, method, selection)
    names = list(collected["folds"]) if session == "all" else [session]
    if missing := set(names) - set(collected["folds"]):
        raise ValueError(f"{run}: session {missing.pop()} is not finished; finished: {', '.join(collected['folds'])}")
    found = [write(Fold(Path(run), name, method, collected, device)) for name in names]
    return found + ([overview(Path(run), method, collected)] if len(collected["folds"]) > 1 else [])


def write(fold: Fold) -> Path:
    """Make `RUN/session<n>/report.html` (methods other than align: `report-<method>.html`)."""
    utterances = manifest.read(fold.run / "corpus.tsv", fold.classes)
    parts = {"result": ("Result", result(fold)), "training": ("Training", training(fold))}
    units = Labelled.of(fold, utterances)
    if units is not None:
        parts["units"] = ("Units", units_part(fold, units))
    parts["map"] = ("Map", map_part(fold, units, utterances))
    parts["sounds"] = ("Sounds", sounds_part(fold, units, utterances))
    title = f"Session {fold.session} held out, method {fold.method}"
    said = (f"framealign: {', '.join(fold.classes)}; tested on {fold.results['num_utterances']['test']} utterances "
            "of speakers it was not trained on")
    body = html_document.head(title, said, [(place, name) for place, (name, _) in parts.items()])
    body += element("main", "".join(content for _, content in parts.values()))
    return save(fold.run / f"session{fold.session}" / file_name(fold.method), html_document.document(title, body))


def save(path: Path, content: str) -> Path:
    """Write a page and say how large it is."""
    files.write_text(path, content)
    size = path.stat().st_size
    log.say(f"{path}: {size / 1e6:.1f} MB" + (f", more than the {html_document.LIMIT_BYTES / 1e6:.0f} it should have"
                                              if size > html_document.LIMIT_BYTES else ""))
    return path


def file_name(method: str) -> str:
    return "report.html" if method == "align" else f"report-{method}.html"


def overview(run: Path, method: str, collected: dict) -> Path:
    """Make `RUN/report.html`: all finished folds together, with links to their own pages."""
    classes, pooled, folds = collected["protocol"]["classes"], collected["pooled"], collected["folds"]
    total = sum(map(sum, pooled["confusion"]))
    rows = [[f"session {name}", *(f"{100 * fold['reported'][key]:.1f}" for key in ("wa", "ua", "macro_f1")),
             str(fold["num_utterances"]["test"])] for name, fold in folds.items()]
    rows.append(["mean", *(f"{100 * np.mean([fold['reported'][key] for fold in folds.values()]):.1f}"
                           for key in ("wa", "ua", "macro_f1")), ""])
    links = "".join(element("a", f"session {name}", href=f"session{name}/{file_name(method)}") for name in folds)
    content = numbers(pooled, len(classes), f"pooled over {total} test utterances of {len(folds)} folds")
    content += grid([card("By fold, %", charts.table(["", "WA", "UA", "macro-F1", "n"], rows)),
                     card("Confusion, pooled", charts.confusion(pooled["confusion"], classes)),
                     recall_card(classes, folds)])
    title = f"{len(folds)} folds, method {method}"
    body = html_document.head(title, "framealign: one session held out at a time, pooled over all test utterances")
    body += element("nav", links)
    body += element("main", section("result", "Result", content
                                    + card("Protocol: what the numbers mean", protocol(collected["protocol"]))))
    return save(run / file_name(method), html_document.document(title, body))


def result(fold: Fold) -> str:
    """Headline with intervals, confusion, recall by class and by fold, the protocol."""
    results, classes = fold.results, fold.classes
    content = ""
    if results["optimistic"]:
        content += element("p", "Optimistic: this selection looks at the test session before the test.", class_="wrong")
    shown = results["test"] | results["reported"]
    content += numbers(shown, len(classes), f"{results['num_utterances']['test']} test utterances, one fold")
    note = "Read a row: of the utterances that are truly so, what share was taken for what."
    content += grid([card("Confusion", charts.confusion(results["test"]["confusion"], classes), note),
                     recall_card(classes, fold.collected["folds"] if len(fold.collected["folds"]) > 1
                                 else {fold.session: results})])
    said = card("Protocol: what the numbers mean", protocol(results["protocol"] | {
        "method": fold.method, "selected epoch": results["selected_epoch"]} | results["num_utterances"]))
    return section("result", "Result", content + said)


def numbers(scores: dict, num_classes: int, words: str) -> str:
    """WA, UA and macro-F1, large, with their intervals."""
    intervals = scores.get("interval_95", {})
    names = (("ua", "UA, mean of the classes' recalls", f"guessing: {100 / num_classes:.0f} %; {words}"),
             ("wa", "WA, share of utterances recognised", words),
             ("macro_f1", "macro-F1", words))
    return charts.headline([(name, scores[key], intervals.get(key), said) for key, name, said in names])


def recall_card(classes: list[str], folds: dict) -> str:
    """Recall by class, and by fold where there are several."""
    rows = []
    for name, fold in folds.items():
        counts = [sum(row) for row in fold["test"]["confusion"]]
        shares = [fold["test"]["recall"][label] if count else None for label, count in zip(classes, counts)]
        rows.append((f"session {name}", shares, counts))
    return card("Recall by class" + (" and fold" if len(rows) > 1 else ""), charts.recalls(classes, rows))


def protocol(told: dict) -> str:
    """Every setting that a number depends on."""
    words = lambda x: ", ".join(map(str, x)) if isinstance(x, list) else \
        ", ".join(f"{key} {value}" for key, value in x.items()) if isinstance(x, dict) else str(x)
    return facts([(key.replace("_", " "), words(value)) for key, value in told.items() if key != "optimistic"])


def training(fold: Fold) -> str:
    """Curves of every stage that trained."""
    content = ""
    for name in (*BEFORE[fold.method], fold.results["place"].name):
        place = fold.results["place"] if name == fold.results["place"].name else fold.stage(name)
        if place is None:
            continue
        record, logs = files.read_json(place / "stage.json"), sorted(place.glob("way*/log.jsonl"))
        for path in logs or [place / "log.jsonl"]:
            records, settings = curves.read(path), record["settings"]
            if not records:
                continue
            way = f", {path.parent.name}" if logs else ""
            if "pretrain" in settings:
                clusters = files.read_json(place / "pretrain.json")["num_clusters"]
                shown = curves.pretraining(records, clusters, settings["pretrain"]["clip_norm"])
            else:
                selected = files.read_json(path.parent / "results.json")["selected_epoch"]
                shown = curves.finetuning(records, len(fold.classes), settings["finetune"]["clip_norm"], selected)
            seconds = record.get("seconds", 0)
            content += element("details", element("summary", f"{TITLES.get(name, name)}{way}, "
                                                             f"{log.clock(seconds)}") + shown, open="")
    return section("training", "Training", content, "The curves of every stage that trained, each with what is normal. "
                                                    "Dashed lines say what guessing would give.")


@dataclass
class Labelled:
    """The units a method was aligned to: codebook, units of what was heard, and how to label other utterances.

    Of several codebooks it is the middle one by size.
    """
    codebook: Codebook
    units: Units
    place: dict[str, int]                           # utterance id -> its number among those heard
    heard: list
    hubert: Hubert

    @classmethod
    def of(cls, fold: Fold, utterances: list) -> "Labelled | None":
        """None for a method without units."""
        stage = fold.stage(UNITS_OF[fold.method]) if fold.method in UNITS_OF else None
        if stage is None:
            return None
        told = fold.results["protocol"]
        heard = protocols.pretraining_utterances(utterances, fold.session, told["pretrain_data"])
        if fold.method in ("align", "multiscale"):
            hubert = EmotionModel.from_pretrained(fold.stage("tapt-finetune") / "recogniser").hubert
        else:
            named = {"tiny": TINY, "scratch": (fold.stage("scratch-2") or Path()) / "encoder"}
            hubert = Hubert.from_pretrained(named.get(told["hubert"], Path(told["hubert"])))
        numbers = files.read_json(stage / "stage.json")["settings"]["clusters"]
        codebook, units = unit_files(numbers)[numbers.index(sorted(numbers)[len(numbers) // 2])]
        return cls(Codebook.read(stage / codebook), Units.read(stage / units),
                   {u.id: i for i, u in enumerate(heard)}, heard, hubert.eval())

    def label(self, utterance) -> np.ndarray:
        """Units of one utterance, (T,): those of the file, or, of one not heard in pretraining, computed now."""
        if utterance.id in self.place:
            return self.units.of(self.place[utterance.id]).numpy()
        waveform = audio.preprocess(audio.load(utterance.path), self.hubert.do_normalize)
        with torch.inference_mode():
            states = self.hubert.states(waveform[None], torch.tensor([len(waveform)]),
                                        layer=self.codebook.record["layer"])[0]
        return self.codebook.assign(states).numpy()


def units_part(fold: Fold, labelled: Labelled) -> str:
    """Usage, runs, and what units say of the emotion."""
    used, num_units = unit_analysis.usage(labelled.units), labelled.units.num_clusters
    emotions = unit_analysis.frame_emotions(labelled.heard, fold.classes)
    counts = unit_analysis.together(labelled.units.units.numpy(), emotions, num_units, len(fold.classes))
    bits, normalised = unit_analysis.mutual_information(counts)
    order = unit_analysis.telling(counts, HEAT_UNITS)
    main = counts.max(0).sum() / max(counts.sum(), 1)
    known = "the emotion of the frame, where it was planted" if any(map(planted_truth.has_truth, labelled.heard)) else \
        "the emotion of the whole utterance, so that pauses count too"
    values = [("units in use", f"{used.used} of {num_units}"), ("perplexity", f"{used.perplexity:.1f}"),
              ("mean run", f"{used.mean_run_frames:.1f} frames, {used.mean_run_ms:.0f} ms"),
              ("frames", f"{len(labelled.units.units):,}"),
              ("mutual information with emotion", f"{bits:.3f} bits"), ("normalised", f"{normalised:.3f}"),
              ("frames in their unit's main emotion", f"{100 * main:.0f} %")]
    some = f" Shown: the {len(order)} that say most of the emotion." if used.used > len(order) else ""
    content = grid([
        card("In numbers", facts(values), "Perplexity: how many equally frequent units would be as varied. "
             "Mutual information grows with the number of units too: compare only equal numbers."),
        card("Usage", charts.histogram(np.sort(used.counts)[::-1] / used.counts.sum(), "units, most frequent first",
                                       even="all equally often"),
             "Normal: falls gently. A few towering units and a long empty tail mean a poor codebook."),
        card("How long a unit lasts", charts.histogram(used.run_shares(), "frames of 20 ms (12: 12 and more)", 1),
             "Normal: short runs, the more so the more units there are; a vowel lasts 50 to 150 ms. Nothing but runs "
             "of one frame would be noise."),
        card("Emotion by unit", charts.heat_map(unit_analysis.lift(counts)[:, order], fold.classes, [str(u) for u in order]),
             f"Orange and +: the unit occurs at least twice as often in this emotion as overall; blue and −: at most "
             f"half as often. Emotion: {known}.{some}", wide=True)])
    name = UNITS_OF[fold.method]
    return section("units", f"Units ({name})", content, f"The {num_units} clusters that frames were sorted into, "
                   "the targets of pretraining"
                   + ("; of several codebooks the middle one." if fold.method == "multiscale" else "."))


def map_part(fold: Fold, labelled: Labelled | None, utterances: list) -> str:
    """The states the classifier looks at, of test utterances, on their two main axes."""
    by_id = {u.id: u for u in utterances}
    model = Recogniser.from_pretrained(fold.tested / "recogniser", fold.device).model
    test = [by_id[p.id] for p in unit_analysis.read_predictions(fold.tested / "predictions.csv")]
    draw = np.random.default_rng(derive_seed(fold.seed, "map"))
    test = [test[i] for i in sorted(draw.permutation(len(test))[:MAP_UTTERANCES])]
    states = torch.cat([unit_analysis.states_of(model, u) for u in test])
    kept = np.sort(draw.permutation(len(states))[:MAP_POINTS])
    points, variance = unit_analysis.principal_axes(states)
    points, emotions = points.numpy()[kept], unit_analysis.frame_emotions(test, fold.classes)[kept]
    axes = tuple(f"axis {i + 1}: {100 * float(v):.0f} % of the variance" for i, v in enumerate(variance))
    cards = [card("By emotion", charts.scatter(points, emotions, fold.classes, colours(fold.classes), True, axes),
                  "Colour and shape: the emotion. Names stand at the middle of their points.")]
    if labelled is not None:
        units = np.concatenate([labelled.label(u) for u in test])[kept]
        order = unit_analysis.unit_order(labelled.codebook.centroids)
        names = [str(u) for u in range(len(order))]
        cards.append(card("By unit", charts.scatter(points, units, names, [shade(x) for x in order], False, axes, False,
                                                    max(3, len(kept) // 60))
                          + charts.scale_of_shades(("one end", "the other end of the codebook's main axis")),
                          "Numbers: the more frequent units, at the middle of their points. Like units have like "
                          "colours."))
    return section("map", "Map", grid(cards), f"{len(kept)} frames of {len(test)} test utterances as the classifier "
                   "sees them: the last layer's states on their two main axes (PCA). What lies close is alike to it.")


def sounds_part(fold: Fold, labelled: Labelled | None, utterances: list) -> str:
    """Time lines of chosen test utterances."""
    by_id = {u.id: u for u in utterances}
    recogniser = Recogniser.from_pretrained(fold.tested / "recogniser", fold.device)
    order = None if labelled is None else unit_analysis.unit_order(labelled.codebook.centroids)
    content = []
    for prediction, why in unit_analysis.chosen(unit_analysis.read_predictions(fold.tested / "predictions.csv"), fold.classes,
                                         fold.seed):
        utterance = by_id[prediction.id]
        found = recogniser(utterance.path)
        truth, note = None, why
        if planted_truth.has_truth(utterance):
            truth = synthetic_corpus.planted(utterance.path, len(found.attention))
            if truth.any() and not truth.all():
                note += f"; attention finds the emotional frames with AUC {metrics.roc_auc(found.attention, truth):.2f}"
        who = ", ".join(filter(None, (utterance.speaker and f"speaker {utterance.speaker}", utterance.style)))
        content.append(timeline.picture(audio.load(utterance.path).numpy(), found,
                                        None if labelled is None else labelled.label(utterance), truth, utterance.id,
                                        f"{note}{who and '; ' + who}", prediction.true, order))
    return section("sounds", "Sounds", "".join(content), "Test utterances over time: press play, or click into a "
                   "picture. The classifier that judges the whole utterance is read frame by frame; attention says how "
                   "much each frame counted.")
