"""Corpora in and out: manifests and tables, IEMOCAP, the reference's scp lists, fairseq lists.

Every reader gives the same `Utterance`s, each with an id that is unique and safe as a file name, an absolute path, its
number of samples at 16 kHz and a label out of a known set ("" where there is none), and raises ValueError naming file
and line otherwise. What the protocols make of them stands in `utterances.py`, whose names are also found here.
"""
import csv
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from framealign.runtime import files
from framealign.sound import audio
from framealign.sound.frames import RECEPTIVE_FIELD
from framealign.corpus.utterance import CLASSES, Utterance


SPELLINGS = {"neu": "neutral", "hap": "happy", "happiness": "happy", "joy": "happy", "exc": "happy", "excited": "happy",
             "excitement": "happy", "ang": "angry", "anger": "angry", "sadness": "sad"}
COLUMNS = ("id", "path", "num_samples", "session", "speaker", "gender", "label", "style")
MAX_LINE, MAX_NAME, MAX_PATH = 65_536, 200, 4096    # bytes of a line of text, of an id; characters of a path
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")   # what a line of a manifest cannot hold


def read(path: str | Path, classes: Sequence[str] = CLASSES) -> list[Utterance]:
    """Utterances of a manifest, or of any table with a header that names `path` and `label` (or `emotion`).

    Columns are separated by tabs, commas or semicolons; paths are absolute or relative to the table's folder. Of the
    other columns those that are there are used: id (else the file's stem), num_samples at 16 kHz (else from the sound
    file's header), session, speaker, gender, style (or sentence). An empty label means unlabelled.

    Raises ValueError, with file and line, for text that is no such table, a line with too few or too many columns, a
    duplicate or unsafe id, num_samples that is no number or below 400, and a label outside `classes`.
    """
    rows = _rows(path)
    line, header = next(rows, (1, []))
    header = [name.strip().lower() for name in header]
    if "path" not in header or not {"label", "emotion"} & set(header) or len(set(header)) != len(header):
        raise ValueError(f"{path}:{line}: the header must name a column path and a column label or emotion, each once, "
                         f"got {shortened(', '.join(header))}; a manifest has {' '.join(COLUMNS)}")
    label_column = "label" if "label" in header else "emotion"
    style_column = "style" if "style" in header else "sentence"
    known = spellings(classes)
    utterances, seen = [], {}
    for line, row in rows:
        where = f"{path}:{line}"
        if len(row) != len(header):
            raise ValueError(f"{where}: {len(row)} columns, the header has {len(header)}: "
                             f"{shortened(', '.join(header))}")
        cell = dict(zip(header, row))
        utterances.append(checked_utterance(
            where, seen, Path(path).parent, cell["path"], cell.get("num_samples", ""), id=cell.get("id"),
            **{name: cell.get(name, "") for name in ("session", "speaker", "gender")},
            label=label_of(cell[label_column], known, where), style=cell.get(style_column, "")))
    return not_empty(utterances, path)


def write(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest, whole or not at all. Sound files below its folder get a relative path, others an absolute one.

    Raises ValueError, and writes nothing, for an utterance that `read` would refuse. What `read` gives is equal.
    """
    folder, lines, seen = Path(os.path.abspath(path)).parent, ["\t".join(COLUMNS)], {}
    for number, utterance in enumerate(utterances, 1):
        _check(utterance, f"utterance number {number}", seen)
        place = utterance.path.relative_to(folder) if utterance.path.is_relative_to(folder) else utterance.path
        cells = {**vars(utterance), "path": place.as_posix()}
        lines.append("\t".join(str(cells[column]) for column in COLUMNS))
    files.write_text(path, "".join(line + "\n" for line in lines))


def write_fairseq(path: str | Path, utterances: Sequence[Utterance]) -> None:
    """Write a fairseq .tsv in the order given; its root is the deepest folder that holds all sound files."""
    root = Path(os.path.commonpath([utterance.path.parent for utterance in utterances]))
    lines = [str(root), *(f"{utterance.path.relative_to(root).as_posix()}\t{utterance.num_samples}"
                          for utterance in utterances)]
    files.write_text(path, "".join(line + "\n" for line in lines))


def checked_utterance(where: str, seen: dict[str, str], folder: Path, path: str, num_samples: str = "", *,
               id: str | None = None, gender: str = "", **fields: str) -> Utterance:
    """One checked utterance out of the text of its fields; without `num_samples`, the sound file's header is read."""
    if not path or _CONTROL.search(path) or len(path) > MAX_PATH:
        raise ValueError(f"{where}: path must be that of a sound file, got {shortened(path)}")
    place = Path(os.path.abspath(folder / path))
    if num_samples and not re.fullmatch("[0-9]{1,12}", num_samples):
        raise ValueError(f"{where}: num_samples must be a whole number, got {shortened(num_samples)}")
    try:
        samples = int(num_samples) if num_samples else audio.length(place)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    gender = {"female": "F", "male": "M", "f": "F", "m": "M"}.get(gender.lower(), gender)
    utterance = Utterance(place.stem if id is None else id, place, samples, gender=gender, **fields)
    _check(utterance, where, seen)
    return utterance


def _check(utterance: Utterance, where: str, seen: dict[str, str]) -> None:
    """Raise ValueError for what must not stand in a manifest; `seen` (id -> where) grows by this utterance."""
    for name, value in vars(utterance).items():
        if _CONTROL.search(str(value)):
            raise ValueError(f"{where}: {name} {shortened(str(value))} has a control character; take it out")
    for name, value in (("id", utterance.id), ("session", utterance.session), ("speaker", utterance.speaker)):
        if re.search(r"[/\\]|^\.", value) or len(value.encode()) > MAX_NAME or name == "id" and not value:
            raise ValueError(f"{where}: {name} {shortened(value)} is not safe as a file name (not empty, at most "
                             f"{MAX_NAME} bytes, no slash, no leading dot); rename it")
    if utterance.num_samples < RECEPTIVE_FIELD:
        raise ValueError(f"{where}: utterance {utterance.id}: num_samples must be >= {RECEPTIVE_FIELD} (25 ms), "
                         f"got {utterance.num_samples}; leave it out")
    first = seen.setdefault(utterance.id, where)
    if first != where:
        raise ValueError(f"{where}: id {utterance.id} was used before, at {first}; ids must be unique: "
                         "give them in a column id")


def spellings(classes: Sequence[str]) -> dict[str, str]:
    """Known spelling, in lower case -> class; those of other classes are left out."""
    return {name.lower(): name for name in classes} | {spelling: name for spelling, name in SPELLINGS.items()
                                                       if name in classes and spelling not in classes}


def label_of(text: str, known: dict[str, str], where: str) -> str:
    """The class that `text` names; "" for nothing. Raises ValueError for a label outside the known ones."""
    if text.strip().lower() not in known and text.strip():
        raise ValueError(f"{where}: label {shortened(text.strip())} is not known; known are {', '.join(known)}; "
                         "take the line out or rename the label")
    return known.get(text.strip().lower(), "")


def _rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of a table. What separates them is the first of tab, comma, semicolon that its first line has."""
    lines = (text for _, text in text_lines(path))
    first = next(lines, "")
    delimiter = next((character for character in "\t,;" if character in first), "\t")
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True,
                        skipinitialspace=delimiter != "\t",
                        quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL)
    try:
        yield from ((reader.line_num, row) for row in reader if row)
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: not a table: {error}") from None


def text_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(line, text with its line end) of a text file. Raises ValueError for what is no UTF-8 text or has no lines."""
    if not os.path.isfile(path):
        raise ValueError(f"{path}: " + ("a folder, not a text file" if os.path.isdir(path) else "no such file"))
    with open(path, "rb") as file:
        for line in itertools.count(1):
            raw = file.readline(MAX_LINE + 1)       # bounded: a sound file given by mistake may be one line of 1 GB
            if not raw:
                return
            try:
                text = raw.decode("utf-8-sig" if line == 1 else "utf-8")
            except UnicodeDecodeError:
                text = "\0"
            if len(raw) > MAX_LINE or "\0" in text:
                raise ValueError(f"{path}:{line}: not UTF-8 text in lines of at most {MAX_LINE} bytes; "
                                 "give a text file, saved as UTF-8")
            yield line, text


def not_empty(items: list, path: str | Path) -> list:
    """`items`, if there are any; ValueError otherwise."""
    if not items:
        raise ValueError(f"{path}: holds no utterance")
    return items


def shortened(text: str) -> str:
    """`text` in quotes and on one line, at most 60 characters of it."""
    return repr(text if len(text) <= 60 else text[:60] + "...")
