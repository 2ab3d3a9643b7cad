"""The manifest `corpus.tsv`, and any other table of sound files: read and written, every line checked.

Every reader of a corpus, here and in `importers/`, gives `Utterance`s with an id that is unique and safe as a file
name, an absolute path that no other has, the number of samples at 16 kHz and the label as the corpus calls it (""
where there is none). Each raises ValueError naming file and line of anything else. What they share is the second half
of this module. Which labels are classes is chosen later: `protocols.of_classes`.
"""
import contextlib
import csv
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from framealign.runtime import files, log
from framealign.sound import audio
from framealign.sound.frames import RECEPTIVE_FIELD, SAMPLE_RATE
from framealign.corpus import annotator_votes, frame_truth
from framealign.corpus.utterance import PARTS, Utterance

T = TypeVar("T")
COLUMNS = ("id", "path", "num_samples", "session", "speaker", "gender", "label", "style")
# Columns that are there where an utterance has some, each with what writes its cell.
OPTIONAL = {"corpus": str, "split": str, "truth": frame_truth.cell, "votes": annotator_votes.cell}
DELIMITERS = "\t,;"
ALTERNATIVES = {"label": "emotion", "style": "sentence"}    # column -> another name of it
GENDERS = {"female": "F", "male": "M", "f": "F", "m": "M"}
SPLITS = {"training": "train", "dev": "valid", "development": "valid", "val": "valid", "validation": "valid",
          "eval": "test", "evaluation": "test", "testing": "test"}      # other names of the parts of a fixed split
MAX_LINE, MAX_NAME, MAX_PATH = 65_536, 200, 4096    # bytes of a line of text, of an id; characters of a path
MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")   # what a line of a manifest cannot hold


def read(path: str | Path) -> list[Utterance]:
    """Utterances of a manifest, or of any table with a header that names `path`.

    Columns are separated by tabs, commas or semicolons and may stand in any order; paths are absolute or relative to
    the table's folder. Of the other columns those that are there are used: id (else the file's stem), num_samples at
    16 kHz (else from the sound file's header), session, speaker, gender, label (or emotion), style (or sentence),
    corpus, split (train, valid or test, or a usual name of these), truth (`frame_truth`), votes (`annotator_votes`); a
    note names the others. Labels are kept as they are written; an empty one means unlabelled.

    Raises ValueError, with file and line, for text that is no such table, a line with too few or too many columns, a
    duplicate or unsafe id, a sound file that was named before, num_samples that is no number or below 400, and a split,
    truth or votes that are none.
    """
    rows = _rows(path)
    line, header = next(rows, (1, []))
    header = _column_names(header)
    if "path" not in header:
        raise ValueError(f"{path}:{line}: the header must name a column path, and label or emotion where there are "
                         f"labels (or be the root folder of a fairseq .tsv, with path<TAB>samples below it), got "
                         f"{excerpt(', '.join(header))}; a manifest has {' '.join(COLUMNS)}")
    used = [column if column in header else ALTERNATIVES.get(column, column) for column in (*COLUMNS, *OPTIONAL)]
    for column in used:
        if header.count(column) > 1:
            raise ValueError(f"{path}:{line}: the header names the column {column} {header.count(column)} times; "
                             "rename or remove the others")
    others = [name or "(no name)" for name in header if name not in used]
    if others:
        log.say_once(f"{path}: columns that are not used: {', '.join(others)}")

    utterances = UtteranceList(Path(path).parent)
    for line, row in rows:
        where = f"{path}:{line}"
        if len(row) != len(header):
            raise ValueError(f"{where}: {len(row)} columns, the header has {len(header)}: {excerpt(', '.join(header))}")
        cell = dict(zip(header, row))
        id, place, num_samples, session, speaker, gender, label, style, corpus, split, truth, votes = (
            cell.get(column, "") for column in used)
        utterances.add(where, place, num_samples, id=id if "id" in cell else None, session=session, speaker=speaker,
                       gender=gender, label=label.strip(), style=style, corpus=corpus, split=split, truth=truth,
                       votes=votes)
    return not_empty(utterances.items, path)


def line_of(path: str | Path, utterance: Utterance) -> str:
    """Where an utterance stands in the table it was read from, file:line; the table and its id if that was changed."""
    rows = _rows(path)
    _, header = next(rows, (1, []))
    header = _column_names(header)
    for line, row in rows:
        cell = dict(zip(header, row))
        if cell.get("id", Path(cell.get("path", "")).stem) == utterance.id:
            return f"{path}:{line}"
    return f"{path}: {utterance.id}"


def write(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest, whole or not at all. Sound files below its folder get a relative path, others an absolute one.
    The columns corpus, split, truth and votes are there where an utterance has some.

    Raises ValueError, and writes nothing, for an utterance that `read` would refuse. What `read` gives is equal.
    """
    folder = Path(os.path.abspath(path)).parent
    utterances = list(utterances)
    rows: list[dict[str, str]] = []
    used_at: dict[str | Path, str] = {}
    for number, utterance in enumerate(utterances, 1):
        _check(utterance, f"utterance number {number}", used_at)
        place = utterance.path
        if place.is_relative_to(folder):
            place = place.relative_to(folder)
        row = {**vars(utterance), "path": place.as_posix()}
        rows.append(row | {name: cell(row[name]) for name, cell in OPTIONAL.items()})

    columns = [*COLUMNS, *(name for name in OPTIONAL if any(row[name] for row in rows))]
    lines = [columns, *([str(row[column]) for column in columns] for row in rows)]
    files.write_text(path, "".join("\t".join(line) + "\n" for line in lines))


# What the importers need too.

class UtteranceList:
    """The utterances of one list, checked as they are added; paths are absolute or relative to `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.items: list[Utterance] = []
        self._used_at: dict[str | Path, str] = {}   # id, or path of a sound file -> file:line

    def add(self, where: str, path: str, num_samples: str = "", *, id: str | None = None, gender: str = "",
            split: str = "", truth: str = "", votes: str = "", **fields: str) -> None:
        """Add an utterance out of the text of its fields, which stands at `where` (file:line).

        Without `num_samples` the sound file's header is read; without `id` it is the file's stem. Raises ValueError,
        with `where`, for a field that a manifest cannot hold, an id used or a sound file named before, or a sound file
        that cannot be read.
        """
        if not path or _CONTROL.search(path) or len(path) > MAX_PATH:
            raise ValueError(f"{where}: path must be that of a sound file, got {excerpt(path)}")
        if num_samples and not re.fullmatch("[0-9]{1,12}", num_samples):
            raise ValueError(f"{where}: num_samples must be a whole number, got {excerpt(num_samples)}")
        place = Path(os.path.abspath(self.folder / path))
        try:
            length = int(num_samples) if num_samples else audio.length(place)
            stretches, of_annotators = frame_truth.parsed(truth), annotator_votes.parsed(votes)
        except (ValueError, OSError) as error:
            raise ValueError(f"{where}: {error}") from None

        if id is None:
            id = place.stem
        part = split.strip().lower()
        utterance = Utterance(id, place, length, gender=GENDERS.get(gender.lower(), gender), truth=stretches,
                              votes=of_annotators, split=SPLITS.get(part, part), **fields)
        _check(utterance, where, self._used_at)
        self.items.append(utterance)


def _check(utterance: Utterance, where: str, used_at: dict[str | Path, str]) -> None:
    """Raise ValueError for what must not stand in a manifest. `used_at` (id, path -> where) grows by this one."""
    for name, value in vars(utterance).items():
        if _CONTROL.search(str(value)):
            raise ValueError(f"{where}: {name} {excerpt(str(value))} has a control character; take it out")
    for name in ("id", "session", "speaker", "corpus"):
        value = getattr(utterance, name)
        is_unsafe = re.search(r"[/\\]|^\.", value) or len(value.encode()) > MAX_NAME
        if is_unsafe or name == "id" and not value:
            raise ValueError(f"{where}: {name} {excerpt(value)} is not safe as a file name (not empty, at most "
                             f"{MAX_NAME} bytes, no slash, no leading dot); rename it")
    if utterance.num_samples < RECEPTIVE_FIELD:
        raise ValueError(f"{where}: utterance {utterance.id}: num_samples must be >= {RECEPTIVE_FIELD} (25 ms), "
                         f"got {utterance.num_samples}; leave it out")
    if utterance.split not in ("", *PARTS):
        raise ValueError(f"{where}: utterance {utterance.id}: split must be {', '.join(PARTS)} or empty (or "
                         f"{', '.join(SPLITS)}), got {excerpt(utterance.split)}")
    try:
        frame_truth.check(utterance.truth or (), utterance.num_samples / SAMPLE_RATE)
        annotator_votes.check(utterance.votes)
    except ValueError as error:
        raise ValueError(f"{where}: utterance {utterance.id}: {error}") from None
    first = used_at.setdefault(utterance.id, where)
    if first != where:
        raise ValueError(f"{where}: id {utterance.id} was used before, at {first}; ids must be unique: "
                         "give them in a column id")
    first = used_at.setdefault(utterance.path, where)
    if first != where:
        raise ValueError(f"{where}: the sound file {utterance.path} was named before, at {first}; an utterance is a "
                         "whole sound file, named once (parts of a file: cut them out)")


def text_lines(path: str | Path, checked: bool = True) -> Iterator[tuple[int, str]]:
    """(line, text with its line end) of a text file: UTF-8, with or without a mark, lines ended by LF, CR LF or CR.

    Raises ValueError for what is no such text. Not checked: lines in other encodings come too, what UTF-8 does not have
    as surrogates; UTF-16 and UTF-32 are refused all the same.
    """
    if not os.path.isfile(path):
        raise ValueError(f"{path}: " + ("a folder, not a text file" if os.path.isdir(path) else "no such file"))
    with open(path, "rb") as file:
        start = file.read(4)
    for mark, encoding in MARKS.items():
        if start.startswith(mark):
            raise ValueError(f"{path}:1: saved as {encoding}, not UTF-8 text; save it as UTF-8")

    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for line in itertools.count(1):
            text = file.readline(MAX_LINE + 1)      # bounded: a sound file given by mistake may be one line of 1 GB
            if not text:
                return
            if checked:
                _check_text(text, f"{path}:{line}")
            yield line, text


def _check_text(text: str, where: str) -> None:
    """Raise ValueError, with `where`, for a line too long, or one with bytes that no text in UTF-8 has."""
    bad = re.search("[\0\udc80-\udcff]", text)     # NUL, or a byte that could not be decoded
    if not bad and len(text.encode("utf-8")) <= MAX_LINE:
        return
    if not bad:
        reason = f"lines have at most {MAX_LINE} bytes"
    elif bad[0] == "\0":
        reason = "it has NUL bytes, as UTF-16 and files that are no text"
    else:
        reason = f"it has the byte 0x{ord(bad[0]) - 0xdc00:02x}, perhaps Latin-1 or another encoding"
    raise ValueError(f"{where}: not UTF-8 text: {reason}; give a text file, saved as UTF-8")


def not_empty(items: list[T], path: str | Path) -> list[T]:
    """`items`, if there are any. Raises ValueError otherwise."""
    if not items:
        raise ValueError(f"{path}: holds no utterance")
    return items


@contextlib.contextmanager
def noting(unusable: list[str]) -> Iterator[None]:
    """What the block raises as a ValueError is added to `unusable` as text."""
    try:
        yield
    except ValueError as error:
        unusable.append(str(error))


def excerpt(text: str) -> str:
    """`text` in quotes and on one line, at most 60 characters of it."""
    return repr(text if len(text) <= 60 else text[:60] + "...")


def names_path(line: str) -> bool:
    """Whether this first line of a text is the header of a table: it names a column `path`."""
    return any("path" in _column_names(line.split(delimiter)) for delimiter in DELIMITERS)


def _column_names(cells: list[str]) -> list[str]:
    return [cell.strip(' \r\n"').lower() for cell in cells]


def _rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of a table. What separates them is the one of tab, comma, semicolon by which its first line names
    `path`. Between tabs a quotation mark is one like other characters, unless the first line has them too.
    """
    lines = (text for _, text in text_lines(path))
    first = next(lines, "")
    delimiter = next((one for one in DELIMITERS if "path" in _column_names(first.split(one))), "\t")
    has_quotes = delimiter != "\t" or '"' in first
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True, skipinitialspace=has_quotes,
                        quoting=csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: not a table: {error}") from None
