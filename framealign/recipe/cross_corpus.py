"""The cross-corpus matrix: rows are what recognisers were trained on, columns what they are tested on.

A row is a run, whose folds' recognisers are each tested and their scores averaged, or one recogniser's directory. On
its own corpus a run is leave-out: each utterance is tested by the fold that does not know it (`evaluation.test`), and
the predictions are pooled. Each cell is kept as JSON, with its predictions, as soon as it is made: the same command
continues, and a cell that fails loses no other.
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from framealign import __version__
from framealign.runtime import digests, files, log
from framealign.runtime.settings import as_dict
from framealign.corpus import frame_truth, manifest
from framealign.corpus.utterance import natural_order
from framealign.emotion.predictions import Predictions
from framealign.recipe import evaluation, results
from framealign.recipe.comparison import seeds_of
from framealign.recipe.evaluation import Corpus, EvaluationConfig, Model
from framealign.recipe.results import aligned, interval_words
from framealign.recipe.session_config import METHODS, frames_stages
from framealign.recipe.trained_on import TRAINING, TrainedOn, rows_of

# Ma et al. 2024, EmoBox: the mean of the twelve pairs of four corpora on its page of cross-corpus results, %.
EMOBOX = {"HuBERT base": 35.4, "WavLM large": 38.5, "Whisper large v3": 46.9}
EMOBOX_DIFFERS = """There the mean accuracy of the twelve pairs of IEMOCAP, MELD, RAVDESS and SAVEE, of encoders
that stay as they were pretrained, tested on parts of these corpora that are balanced in speakers and emotions and from
which doubtful labels were taken out. Here other corpora, whole as their tables list them, and UA, which is accuracy
where classes are balanced; whole recognisers were trained. So it says what is usual, not who is better."""
OWN = "*"                                           # marks a cell of a run's own corpus
OWN_WORDS = f"{OWN} own corpus: each utterance by a recogniser that does not know it"
MEAN_WORDS = "mean of others: over other corpora than the row's own, without tables whose truth about frames is known"


@dataclass(frozen=True)
class Row:
    """A run, some of its recognisers, or a recogniser's directory, as `models_of` reads it."""
    what: str

    @cached_property
    def of_seeds(self) -> list[list[Model]]:
        """Of each seed, its folds' recognisers, looked for once for all columns. Raises ValueError as `models_of`."""
        return models_of(self.what)


def run(rows: Sequence[str], columns: Sequence[str], config: EvaluationConfig, folder: Path | None = None) -> dict:
    """Every row on every column: {"rows", "columns", "cells": {row: {column: scores}}}, scores as `mean_scores`.

    rows: `models_of`; columns: labelled tables. folder: where cells are kept, and looked for. A cell that fails is
    {"error": why}.
    """
    row_names, column_names = short_names(rows), short_names(columns)
    sources, corpora = [Row(what) for what in rows], [Corpus(path) for path in columns]
    cells: dict[str, dict[str, dict]] = {}
    for name, row in zip(row_names, sources):
        cells[name] = {}
        for column, corpus in zip(column_names, corpora):
            log.say(f"[{name} on {column}]")
            place = folder / file_name(f"{name}--{column}") if folder else None
            try:
                cells[name][column] = cell(row.of_seeds, corpus, config, place)
            except (ValueError, OSError) as error:
                cells[name][column] = {"error": str(error)}
                log.say(f"[{name} on {column}] failed: {error}")
    return {"rows": dict(zip(row_names, rows)), "columns": dict(zip(column_names, columns)), "cells": cells}


def cell(of_seeds: list[list[Model]], corpus: Corpus, config: EvaluationConfig, place: Path | None) -> dict:
    """One cell, `mean_scores`; kept as `place`.json, beside predictions of each side `place`-1.csv, if asked to.

    A kept one is taken where it is of the same recognisers, corpus and settings. Raises ValueError as `test`.
    """
    made_of = {"recognisers": [[digest_of(model) for model in models] for models in of_seeds],
               "corpus": digest_of_corpus(corpus), "version": __version__,
               "settings": {name: value for name, value in as_dict(config).items() if name != "device"}}
    record = place and place.with_name(place.name + ".json")
    if record and record.exists():
        content = files.read_json(record)
        if content.get("made_of") == made_of:
            return content["scores"]
    tests = [evaluation.test(models, corpus, config) for models in of_seeds]
    first = tests[0]
    for other in tests[1:]:
        if other.sides[0].ids != first.sides[0].ids:
            raise ValueError(f"{corpus.path}: seeds of one run cannot be tested on the same utterances, "
                             f"{len(first.sides[0].ids)} and {len(other.sides[0].ids)}; give each seed as a row")
    tested = replace(first, sides=[side for one in tests for side in one.sides],
                     over_time=[pairs for one in tests for pairs in one.over_time])
    scores = evaluation.mean_scores(tested, config)
    if record:
        scores["predictions"] = []
        for number, side in enumerate(tested.sides, 1):
            path = place.with_name(f"{place.name}-{number}.csv")
            side.write(path)
            scores["predictions"].append(path.name)
        files.write_json(record, {"made_of": made_of, "scores": scores})
    return scores


def models_of(what: str) -> list[list[Model]]:
    """The recognisers of a row: those of a run's folds, by seed, or a single one's directory.

    what: a recogniser's directory; a run, of which it is the recogniser that stands for it; RUN:METHOD or RUN:frames.
    Raises ValueError where there is none.
    """
    if (Path(what) / "config.json").is_file():
        return [[Model(Path(what), TrainedOn.read(what))]]
    folder, _, named = what.rpartition(":")
    stages = results.tested_stages(named) if named in METHODS else [named] if named in frames_stages() else []
    run = Path(folder) if folder and stages else Path(what)
    of_seeds = []
    for place in seeds_of(run).values():
        folds = {fold.name.removeprefix("session"): fold for fold in place.glob("session*")}
        directories = [one for name in natural_order(folds) for one in recognisers_of(folds[name], stages)]
        if not directories:
            raise ValueError(f"{place}: no recogniser of {'a fold' if not stages else ' or '.join(stages)}; give a run "
                             "of bin/session.py, or a recogniser's directory")
        of_seeds.append([model_of(place, directory) for directory in directories])
    return of_seeds


def recognisers_of(fold: Path, stages: Sequence[str]) -> list[Path]:
    """A fold's recognisers: of the first of these stages that is finished, or of that which stands for the fold; of
    one that trained several times, in which each speaker is tested once, all.
    """
    link = fold / "recogniser"
    finished = [fold / stage for stage in stages if (fold / stage / "stage.json").is_file()]
    if not stages and link.is_symlink():
        finished = [fold / link.readlink().parent]
    elif not stages and link.is_dir():
        return [link]
    if not finished:
        return []
    return sorted(finished[0].glob("way*/recogniser")) or [finished[0] / "recogniser"]


def model_of(run: Path, directory: Path) -> Model:
    """A fold's recogniser with the list of what it was trained on.

    Of an older one, without a list, that is what the run's corpus has beside the utterances that the fold tested.
    """
    known, tested, corpus = TrainedOn.read(directory), directory.parent / "predictions.csv", run / "corpus.tsv"
    if known or not (tested.exists() and corpus.exists()):
        return Model(directory, known)
    ids = {*Predictions.read(tested).ids}
    others = [utterance for utterance in manifest.read(corpus) if utterance.id not in ids]
    return Model(directory, TrainedOn(rows_of(others, TRAINING)), derived=True)


def digest_of(model: Model) -> str:
    """Digest of what a recogniser's answers and its list depend on: all files of its directory but the card."""
    names = sorted(path.name for path in model.directory.iterdir() if path.is_file() and path.name != "README.md")
    rows = [vars(row) for row in model.known.rows] if model.known else []
    return files.digest_of([names, digests.of_files([model.directory / name for name in names]), rows])


def digest_of_corpus(corpus: Corpus) -> str:
    """Digest of what scores on a corpus depend on: ids, sound, labels, speakers, and the truth about frames."""
    content = []
    for one, sound in zip(corpus.utterances, corpus.sounds):
        truth = frame_truth.cell(frame_truth.stretches(one)) if frame_truth.exists(one) else ""
        content.append([one.id, sound, one.label, one.speaker, one.gender, truth])
    return files.digest_of(content)


def short_names(paths: Sequence[str]) -> list[str]:
    """A name for each path: its last part, without the suffix of a table, or as many as tell it from the others; of
    `joined/corpus.tsv` and `session1/recogniser` two at least.

    Raises ValueError for a path that is given twice.
    """
    parts = [list(Path(path).absolute().parts) for path in paths]
    for path, own in zip(paths, parts):
        own[-1] = own[-1].removesuffix(".tsv").removesuffix(".csv")
        if parts.count(own) > 1:
            raise ValueError(f"{path}: given twice; name each run and table once")
    names = []
    for own in parts:
        size = 2 if own[-1] in ("corpus", "recogniser") else 1
        while sum(other[-size:] == own[-size:] for other in parts) > 1:
            size += 1
        names.append("/".join(own[-size:]))
    return names


def file_name(name: str) -> str:
    """A cell's name as that of a file."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "~" for letter in name).lstrip(".")


def failures(matrix: dict) -> list[str]:
    """Which cells failed, and why."""
    return [f"{row} on {column}: {one['error']}" for row, of_row in matrix["cells"].items()
            for column, one in of_row.items() if "error" in one]


def mean_of_others(of_row: dict[str, dict]) -> float | None:
    """Mean UA of a row on the corpora that are not its own; None where there is none.

    Not of those whose truth about frames is known: they are joined of corpora that have a column of their own.
    """
    values = [one["ua"] for one in of_row.values()
              if "error" not in one and not one["own_corpus"] and not one["over_time"]]
    return float(np.mean(values)) if values else None


def text(matrix: dict) -> str:
    """The matrix as text: UA with intervals, EDER where it is known, what must be said of each cell, and EmoBox's."""
    cells = matrix["cells"]
    lines = ["UA, % (95 % interval); rows: trained on, columns: tested on", *aligned(ua_rows(cells))]
    if any_own(cells):
        lines.append(OWN_WORDS)
    lines += [MEAN_WORDS, interval_words_of(cells), chance_words(cells)]
    if any_truth(cells):
        lines += ["EDER, % of the time a wrong emotion, frame by frame (in brackets: of always saying neutral)",
                  *aligned(eder_rows(cells))]
    lines += note_lines(cells)
    lines.append(f"{emobox_words()} {' '.join(EMOBOX_DIFFERS.split())}")
    return "\n".join(lines)


def any_own(cells: dict[str, dict[str, dict]]) -> bool:
    """Whether a cell is of a run's own corpus."""
    return any(one.get("own_corpus") for of_row in cells.values() for one in of_row.values())


def any_truth(cells: dict[str, dict[str, dict]]) -> bool:
    """Whether the emotion over time was scored in a cell."""
    return any(one.get("over_time") for of_row in cells.values() for one in of_row.values())


def ua_rows(cells: dict[str, dict[str, dict]]) -> list[list[str]]:
    """The table of UA, its header first."""
    rows = [["", *next(iter(cells.values())), "mean of others"]]
    for name, of_row in cells.items():
        mean = mean_of_others(of_row)
        rows.append([name, *map(ua_cell, of_row.values()), "-" if mean is None else f"{100 * mean:.1f}"])
    return rows


def ua_cell(one: dict) -> str:
    """UA and its interval in words."""
    if "error" in one:
        return "failed"
    return f"{100 * one['ua']:.1f}{OWN * one['own_corpus']} ({interval_words(one['interval_95']['ua'])})"


def eder_rows(cells: dict[str, dict[str, dict]]) -> list[list[str]]:
    """The table of EDER over the columns that have a truth, its header first."""
    first = next(iter(cells.values()))
    columns = [name for name in first if any(of_row[name].get("over_time") for of_row in cells.values())]
    return [["", *columns], *([name, *(eder_cell(of_row[column]) for column in columns)]
                              for name, of_row in cells.items())]


def eder_cell(one: dict) -> str:
    """EDER, and what always saying neutral has, in words."""
    if "error" in one or not one["over_time"]:
        return "failed" if "error" in one else "-"
    own = OWN * one["own_corpus"]
    return f"{100 * one['over_time']['eder']:.1f}{own} ({100 * one['over_time']['always_neutral']:.1f})"


def interval_words_of(cells: dict[str, dict[str, dict]]) -> str:
    """What the intervals are for: from how many speakers of each column, and recognisers of each row."""
    speakers = {column: one["interval_over"] for of_row in cells.values() for column, one in of_row.items()
                if "error" not in one}
    sides = {name: max(one.get("sides", 0) for one in of_row.values()) for name, of_row in cells.items()}
    several = ", ".join(f"{number} of {name}" for name, number in sides.items() if number > 1)
    words = ", ".join(f"{column} {over}" for column, over in speakers.items())
    return f"95 % intervals for new speakers ({words})" + (
        f", where several recognisers' scores are averaged for new trainings too ({several})" if several else "")


def chance_words(cells: dict[str, dict[str, dict]]) -> str:
    """What guessing has."""
    tested = [one for of_row in cells.values() for one in of_row.values() if "error" not in one]
    numbers = sorted({len(one["classes"]) for one in tested})
    return "chance: " + ", ".join(f"{100 / number:.1f} for {number} classes" for number in numbers)


def note_lines(cells: dict[str, dict[str, dict]]) -> list[str]:
    """What must be said beside the scores of each cell, and which failed; equal notes once."""
    places_of: dict[str, list[tuple[str, str]]] = {}
    for name, of_row in cells.items():
        for column, one in of_row.items():
            for note in [f"failed: {one['error']}"] if "error" in one else evaluation.notes(one):
                places_of.setdefault(note, []).append((name, column))
    return [f"{named_cells(places, cells)}: {note}" for note, places in places_of.items()]


def named_cells(places: Sequence[tuple[str, str]], cells: dict[str, dict[str, dict]]) -> str:
    """These cells, (row, column) each, in words; whole rows, and all, shorter."""
    if len(places) == sum(map(len, cells.values())):
        return "all"
    of_rows: dict[str, list[str]] = {}
    for name, column in places:
        of_rows.setdefault(name, []).append(column)
    return "; ".join(name if len(columns) == len(cells[name]) else f"{name} on {', '.join(columns)}"
                     for name, columns in of_rows.items())


def emobox_words() -> str:
    """EmoBox's means, in words."""
    means = ", ".join(f"{name} {mean}" for name, mean in EMOBOX.items())
    return f"For orientation, EmoBox's cross-corpus means (Ma et al. 2024), %: {means}."
