"""The manifest `corpus.tsv`, and any other table of sound files: read and written, every line checked.

Every reader of a corpus, here and in `importers/`, gives `Utterance`s with an id that is unique and safe as a file
name, an absolute path, the number of samples at 16 kHz and a label out of the known classes ("" where there is none).
Each raises ValueError naming file and line of anything else. What they share is the second half of this module.
"""
import csv
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from framealign.runtime import files
from framealign.sound import audio
from framealign.sound.frames import RECEPTIVE_FIELD
from framealign.corpus.utterance import CLASSES, Utterance

T = TypeVar("T")
COLUMNS = ("id", "path", "num_samples", "session", "speaker", "gender", "label", "style")
SPELLINGS = {"neu": "neutral", "hap": "happy", "happiness": "happy", "joy": "happy", "exc": "happy", "excited": "happy",
             "excitement": "happy", "ang": "angry", "anger": "angry", "sadness": "sad"}
GENDERS = {"female": "F", "male": "M", "f": "F", "m": "M"}
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
                         f"got {excerpt(', '.join(header))}; a manifest has {' '.join(COLUMNS)}")
    label_column = "label" if "label" in header else "emotion"
    style_column = "style" if "style" in header else "sentence"

    known = spellings(classes)
    utterances = UtteranceList(Path(path).parent)
    for line, row in rows:
        where = f"{path}:{line}"
        if len(row) != len(header):
            raise ValueError(f"{where}: {len(row)} columns, the header has {len(header)}: {excerpt(', '.join(header))}")
        cell = dict(zip(header, row))
        utterances.add(where, cell["path"], cell.get("num_samples", ""),
                       id=cell.get("id"),
                       session=cell.get("session", ""),
                       speaker=cell.get("speaker", ""),
                       gender=cell.get("gender", ""),
                       label=label_of(cell[label_column], known, where),
                       style=cell.get(style_column, ""))
    return not_empty(utterances.items, path)


def write(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest, whole or not at all. Sound files below its folder get a relative path, others an absolute one.

    Raises ValueError, and writes nothing, for an utterance that `read` would refuse. What `read` gives is equal.
    """
    folder = Path(os.path.abspath(path)).parent
    lines = ["\t".join(COLUMNS)]
    used_at: dict[str, str] = {}
    for number, utterance in enumerate(utterances, 1):
        _check(utterance, f"utterance number {number}", used_at)
        place = utterance.path
        if place.is_relative_to(folder):
            place = place.relative_to(folder)
        cells = {**vars(utterance), "path": place.as_posix()}
        lines.append("\t".join(str(cells[column]) for column in COLUMNS))
    files.write_text(path, "".join(line + "\n" for line in lines))


# What the importers need too.

class UtteranceList:
    """The utterances of one list, checked as they are added; paths are absolute or relative to `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.items: list[Utterance] = []
        self._used_at: dict[str, str] = {}          # id -> file:line

    def add(self, where: str, path: str, num_samples: str = "", *, id: str | None = None, gender: str = "",
            **fields: str) -> None:
        """Add an utterance out of the text of its fields, which stands at `where` (file:line).

        Without `num_samples` the sound file's header is read; without `id` it is the file's stem. Raises ValueError,
        with `where`, for a field that a manifest cannot hold, an id used before, or a sound file that cannot be read.
        """
        if not path or _CONTROL.search(path) or len(path) > MAX_PATH:
            raise ValueError(f"{where}: path must be that of a sound file, got {excerpt(path)}")
        if num_samples and not re.fullmatch("[0-9]{1,12}", num_samples):
            raise ValueError(f"{where}: num_samples must be a whole number, got {excerpt(num_samples)}")
        place = Path(os.path.abspath(self.folder / path))
        try:
            length = int(num_samples) if num_samples else audio.length(place)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

        if id is None:
            id = place.stem
        utterance = Utterance(id, place, length, gender=GENDERS.get(gender.lower(), gender), **fields)
        _check(utterance, where, self._used_at)
        self.items.append(utterance)


def _check(utterance: Utterance, where: str, used_at: dict[str, str]) -> None:
    """Raise ValueError for what must not stand in a manifest. `used_at` (id -> where) grows by this utterance."""
    for name, value in vars(utterance).items():
        if _CONTROL.search(str(value)):
            raise ValueError(f"{where}: {name} {excerpt(str(value))} has a control character; take it out")
    for name, value in (("id", utterance.id), ("session", utterance.session), ("speaker", utterance.speaker)):
        is_unsafe = re.search(r"[/\\]|^\.", value) or len(value.encode()) > MAX_NAME
        if is_unsafe or name == "id" and not value:
            raise ValueError(f"{where}: {name} {excerpt(value)} is not safe as a file name (not empty, at most "
                             f"{MAX_NAME} bytes, no slash, no leading dot); rename it")
    if utterance.num_samples < RECEPTIVE_FIELD:
        raise ValueError(f"{where}: utterance {utterance.id}: num_samples must be >= {RECEPTIVE_FIELD} (25 ms), "
                         f"got {utterance.num_samples}; leave it out")
    first = used_at.setdefault(utterance.id, where)
    if first != where:
        raise ValueError(f"{where}: id {utterance.id} was used before, at {first}; ids must be unique: "
                         "give them in a column id")


def spellings(classes: Sequence[str]) -> dict[str, str]:
    """Known spelling, in lower case -> class. Spellings of classes that are not asked for are left out."""
    known = {name.lower(): name for name in classes}
    for spelling, name in SPELLINGS.items():
        if name in classes and spelling not in classes:
            known[spelling] = name
    return known


def label_of(text: str, known: dict[str, str], where: str) -> str:
    """The class that `text` names; "" for nothing. Raises ValueError for a label outside the known ones."""
    text = text.strip()
    if text and text.lower() not in known:
        raise ValueError(f"{where}: label {excerpt(text)} is not known; known are {', '.join(known)}; "
                         "take the line out or rename the label")
    return known.get(text.lower(), "")


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


def not_empty(items: list[T], path: str | Path) -> list[T]:
    """`items`, if there are any. Raises ValueError otherwise."""
    if not items:
        raise ValueError(f"{path}: holds no utterance")
    return items


def excerpt(text: str) -> str:
    """`text` in quotes and on one line, at most 60 characters of it."""
    return repr(text if len(text) <= 60 else text[:60] + "...")


def _rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of a table. What separates them is the first of tab, comma, semicolon that its first line has."""
    lines = (text for _, text in text_lines(path))
    first = next(lines, "")
    delimiter = next((character for character in "\t,;" if character in first), "\t")
    has_quotes = delimiter != "\t"
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True, skipinitialspace=has_quotes,
                        quoting=csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: not a table: {error}") from None
