"""Corpora in and out: manifests and tables, IEMOCAP, the reference's scp lists, fairseq lists.

Every reader gives the same `Utterance`s, each with an id that is unique and safe as a file name, an absolute path, its
number of samples at 16 kHz and a label out of a known set ("" where there is none), and raises ValueError naming file
and line otherwise. What the protocols make of them stands in `utterances.py`, whose names are also found here.
"""
import csv
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from framealign.runtime import files, log
from framealign.sound import audio
from framealign.sound.frames import RECEPTIVE_FIELD
from framealign.corpus.protocols import CLASSES, Split, Utterance, check_speakers
from framealign.corpus.protocols import pretraining_utterances, split, summary    # noqa: F401 (to be had from here as well)

SPELLINGS = {"neu": "neutral", "hap": "happy", "happiness": "happy", "joy": "happy", "exc": "happy", "excited": "happy",
             "excitement": "happy", "ang": "angry", "anger": "angry", "sadness": "sad"}
COLUMNS = ("id", "path", "num_samples", "session", "speaker", "gender", "label", "style")
MAX_LINE, MAX_NAME, MAX_PATH = 65_536, 200, 4096    # bytes of a line of text, of an id; characters of a path

# IEMOCAP: utterances of each session by label, in improvised dialogues, by women, by men.
IEMOCAP_LABELS = ("neu", "ang", "sad", "hap", "exc")
IEMOCAP_COLUMNS = (*IEMOCAP_LABELS, "improvised", "speaker F", "speaker M")
IEMOCAP_COUNTS = {"1": (384, 229, 194, 135, 143, 521, 528, 557),
                  "2": (362, 137, 197, 117, 210, 530, 481, 542),
                  "3": (320, 240, 305, 135, 151, 627, 522, 629),
                  "4": (258, 327, 143, 65, 238, 534, 528, 503),
                  "5": (384, 170, 245, 143, 299, 731, 590, 651)}
IEMOCAP_OTHER_LABELS = ("fru", "sur", "fea", "dis", "oth", "xxx")           # in the corpus, not among the four classes

_IEMOCAP_ID = re.compile(r"(Ses(\d\d))[FM]_(impro|script)\w*_([FM])(?:\d{3}|XX\d)", re.ASCII)
_SUMMARY = re.compile(r"\[[^\]\t]*\]\t(\S+)\t(\S+)\t\[[^\]\t]*\]\s*")       # [start - end] utterance label [V, A, D]
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
                         f"got {_shortened(', '.join(header))}; a manifest has {' '.join(COLUMNS)}")
    label_column = "label" if "label" in header else "emotion"
    style_column = "style" if "style" in header else "sentence"
    known = _spellings(classes)
    utterances, seen = [], {}
    for line, row in rows:
        where = f"{path}:{line}"
        if len(row) != len(header):
            raise ValueError(f"{where}: {len(row)} columns, the header has {len(header)}: "
                             f"{_shortened(', '.join(header))}")
        cell = dict(zip(header, row))
        utterances.append(_utterance(
            where, seen, Path(path).parent, cell["path"], cell.get("num_samples", ""), id=cell.get("id"),
            **{name: cell.get(name, "") for name in ("session", "speaker", "gender")},
            label=_label(cell[label_column], known, where), style=cell.get(style_column, "")))
    return _not_empty(utterances, path)


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


def from_iemocap(root: str | Path, allow_partial: bool = False, with_excited: bool = True) -> list[Utterance]:
    """The 4-class IEMOCAP (excited counted as happy) of the folder that holds Session1 to Session5 (a synthetic tree
    may have more).

    Labels are the summary lines' of `Session*/dialog/EmoEvaluation/*.txt`, sound is `Session*/sentences/wav/<dialogue>/
    <utterance>.wav`. Files whose name begins with a dot are left behind by file managers and ignored.

    Raises ValueError naming file and line of what cannot be read, the wav file that is missing, or the cells (session,
    column) whose count is not the published corpus's, unless `allow_partial`.
    """
    root = Path(root)
    sessions = sorted((p.name[7:] for p in root.glob("Session*") if re.fullmatch("[1-9][0-9]?", p.name[7:])), key=int)
    evaluations = [(session, file) for session in sessions
                   for file in sorted((root / f"Session{session}" / "dialog" / "EmoEvaluation").glob("*.txt"))
                   if not file.name.startswith(".")]
    if not evaluations:
        raise ValueError(f"{root}: no Session1 to Session5 with dialog/EmoEvaluation/*.txt; "
                         "give the folder that holds Session1")
    known = _spellings(CLASSES)
    utterances, seen, counts = [], {}, Counter()
    for session, file in log.progress(evaluations, len(evaluations), "reading IEMOCAP", "dialogues"):
        for where, name, label in _summaries(file):
            turn = _IEMOCAP_ID.fullmatch(name)
            if not turn or int(turn[2]) != int(session):
                raise ValueError(f"{where}: utterance {_shortened(name)} is not named as in IEMOCAP's session "
                                 f"{session}, such as Ses{int(session):02d}F_impro01_M013")
            counts.update((session, column) for column in _columns(label, *turn.group(3, 4)))
            if label == "exc" and not with_excited:
                continue
            wav = f"Session{session}/sentences/wav/{file.stem}/{name}.wav"
            utterances.append(_utterance(where, seen, root, wav, id=name, label=known[label],
                                         **_iemocap_fields(name)))
    wrong = [f"session {session}, {column}: found {counts[session, column]}, expected {number}"
             for (session, column), number in iemocap_cells().items() if counts[session, column] != number]
    wrong += [f"session {session}: not one of the corpus" for session in sessions if session not in IEMOCAP_COUNTS]
    if wrong and not allow_partial:
        more = f"; and {len(wrong) - 4} more cells" if len(wrong) > 4 else ""
        raise ValueError(f"{root}: not the whole IEMOCAP: {'; '.join(wrong[:4])}{more}; "
                         "copy the corpus again, or use what is there with --allow-partial")
    return _not_empty(utterances, root)


def iemocap_cells() -> dict[tuple[str, str], int]:
    """What the published corpus has: (session, column) -> utterances, with the derived columns hap+exc and total."""
    cells = {}
    for session, numbers in IEMOCAP_COUNTS.items():
        row = dict(zip(IEMOCAP_COLUMNS, numbers))
        row |= {"hap+exc": row["hap"] + row["exc"], "total": sum(row[label] for label in IEMOCAP_LABELS)}
        cells |= {(session, column): number for column, number in row.items()}
    return cells


def from_scp(train: str | Path, valid: str | Path | None, test: str | Path, allow_overlap: bool = False,
             classes: Sequence[str] = CLASSES) -> Split:
    """The reference's three lists, one `name path label` per line: a Split named after the test list.

    Labels are names or, where all three lists hold numbers only, positions in `classes`. Session, speaker and gender
    are known for names as in IEMOCAP. Paths are absolute or relative to the list's folder.

    Raises ValueError, with file and line, for a line that cannot be read; for an utterance that is both trained on and
    tested (or selected) on; and for a speaker in two lists, unless `allow_overlap` (protocols marked optimistic).
    """
    lists = [_scp_lines(path) if path else [] for path in (train, valid, test)]
    known = _spellings(classes)
    if all(re.fullmatch("[0-9]+", label) for lines in lists for *_, label in lines):
        known = {str(number): name for number, name in enumerate(classes)}
    parts = []
    for path, lines in zip((train, valid, test), lists):
        seen = {}
        parts.append([_utterance(where, seen, Path(path).parent, place, id=name, label=_label(label, known, where),
                                 **_iemocap_fields(name)) for where, name, place, label in lines])
    scp = Split(*parts, name=Path(test).stem)
    trained = {utterance.id for utterance in scp.train}
    for utterance in scp.valid + scp.test:
        if utterance.id in trained:
            raise ValueError(f"{train}: utterance {utterance.id} is also in the validation or test list; "
                             "take it out of one of them")
    if not allow_overlap:
        check_speakers(scp)
    return scp


def read_fairseq(path: str | Path) -> list[Utterance]:
    """Unlabelled utterances of a fairseq .tsv: a first line with the root folder, then `relative path<TAB>samples`.

    The id is the file's stem. Raises ValueError, with file and line, for a line of another form or a duplicate id.
    """
    lines = _lines(path)
    root = next(lines, (1, ""))[1].rstrip("\r\n")
    if not root or "\t" in root:
        raise ValueError(f"{path}:1: the first line of a fairseq .tsv must be the root folder, got {_shortened(root)}")
    utterances, seen = [], {}
    for line, text in lines:
        cells = text.rstrip("\r\n").split("\t")
        if cells == [""]:
            continue
        if len(cells) != 2 or not cells[1]:
            raise ValueError(f"{path}:{line}: must read path<TAB>samples, got {_shortened(text.strip())}")
        utterances.append(_utterance(f"{path}:{line}", seen, Path(path).parent / root, *cells))
    return _not_empty(utterances, path)


def write_fairseq(path: str | Path, utterances: Sequence[Utterance]) -> None:
    """Write a fairseq .tsv in the order given; its root is the deepest folder that holds all sound files."""
    root = Path(os.path.commonpath([utterance.path.parent for utterance in utterances]))
    lines = [str(root), *(f"{utterance.path.relative_to(root).as_posix()}\t{utterance.num_samples}"
                          for utterance in utterances)]
    files.write_text(path, "".join(line + "\n" for line in lines))


def _utterance(where: str, seen: dict[str, str], folder: Path, path: str, num_samples: str = "", *,
               id: str | None = None, gender: str = "", **fields: str) -> Utterance:
    """One checked utterance out of the text of its fields; without `num_samples`, the sound file's header is read."""
    if not path or _CONTROL.search(path) or len(path) > MAX_PATH:
        raise ValueError(f"{where}: path must be that of a sound file, got {_shortened(path)}")
    place = Path(os.path.abspath(folder / path))
    if num_samples and not re.fullmatch("[0-9]{1,12}", num_samples):
        raise ValueError(f"{where}: num_samples must be a whole number, got {_shortened(num_samples)}")
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
            raise ValueError(f"{where}: {name} {_shortened(str(value))} has a control character; take it out")
    for name, value in (("id", utterance.id), ("session", utterance.session), ("speaker", utterance.speaker)):
        if re.search(r"[/\\]|^\.", value) or len(value.encode()) > MAX_NAME or name == "id" and not value:
            raise ValueError(f"{where}: {name} {_shortened(value)} is not safe as a file name (not empty, at most "
                             f"{MAX_NAME} bytes, no slash, no leading dot); rename it")
    if utterance.num_samples < RECEPTIVE_FIELD:
        raise ValueError(f"{where}: utterance {utterance.id}: num_samples must be >= {RECEPTIVE_FIELD} (25 ms), "
                         f"got {utterance.num_samples}; leave it out")
    first = seen.setdefault(utterance.id, where)
    if first != where:
        raise ValueError(f"{where}: id {utterance.id} was used before, at {first}; ids must be unique: "
                         "give them in a column id")


def _spellings(classes: Sequence[str]) -> dict[str, str]:
    """Known spelling, in lower case -> class; those of other classes are left out."""
    return {name.lower(): name for name in classes} | {spelling: name for spelling, name in SPELLINGS.items()
                                                       if name in classes and spelling not in classes}


def _label(text: str, known: dict[str, str], where: str) -> str:
    """The class that `text` names; "" for nothing. Raises ValueError for a label outside the known ones."""
    if text.strip().lower() not in known and text.strip():
        raise ValueError(f"{where}: label {_shortened(text.strip())} is not known; known are {', '.join(known)}; "
                         "take the line out or rename the label")
    return known.get(text.strip().lower(), "")


def _iemocap_fields(name: str) -> dict[str, str]:
    """Session, speaker, gender and style out of a name such as Ses01F_impro01_M013; nothing out of another."""
    turn = _IEMOCAP_ID.fullmatch(name)
    return {} if not turn else {"session": str(int(turn[2])), "speaker": turn[1] + turn[4], "gender": turn[4],
                                "style": turn[3]}


def _columns(label: str, style: str, gender: str) -> list[str]:
    """The columns of the table of counts in which one utterance counts."""
    return [label, "total", f"speaker {gender}", *(["hap+exc"] if label in ("hap", "exc") else []),
            *(["improvised"] if style == "impro" else [])]


def _summaries(path: Path) -> Iterator[tuple[str, str, str]]:
    """(file:line, utterance, label) of an evaluation file's summary lines; those of other labels are left out."""
    for line, text in _lines(path):
        if not text.startswith("["):
            continue
        found = _SUMMARY.fullmatch(text)
        if not found or found[2] not in IEMOCAP_LABELS + IEMOCAP_OTHER_LABELS:
            raise ValueError(f"{path}:{line}: must read [start - end]<TAB>utterance<TAB>label<TAB>[V, A, D] with one "
                             f"of IEMOCAP's labels, got {_shortened(text.strip())}")
        if found[2] in IEMOCAP_LABELS:
            yield f"{path}:{line}", found[1], found[2]


def _scp_lines(path: str | Path) -> list[tuple[str, str, str, str]]:
    """(file:line, name, path, label) of every line that is not blank; only the path may have blanks in it."""
    lines = []
    for line, text in _lines(path):
        cells = text.split(None, 1)
        cells = cells[:1] + cells[1].rsplit(None, 1) if len(cells) == 2 else cells
        if len(cells) not in (0, 3):
            raise ValueError(f"{path}:{line}: must read `name path label`, got {_shortened(text.strip())}")
        if cells:
            lines.append((f"{path}:{line}", *cells))
    return _not_empty(lines, path)


def _rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of a table. What separates them is the first of tab, comma, semicolon that its first line has."""
    lines = (text for _, text in _lines(path))
    first = next(lines, "")
    delimiter = next((character for character in "\t,;" if character in first), "\t")
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True,
                        skipinitialspace=delimiter != "\t",
                        quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL)
    try:
        yield from ((reader.line_num, row) for row in reader if row)
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: not a table: {error}") from None


def _lines(path: str | Path) -> Iterator[tuple[int, str]]:
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


def _not_empty(items: list, path: str | Path) -> list:
    """`items`, if there are any; ValueError otherwise."""
    if not items:
        raise ValueError(f"{path}: holds no utterance")
    return items


def _shortened(text: str) -> str:
    """`text` in quotes and on one line, at most 60 characters of it."""
    return repr(text if len(text) <= 60 else text[:60] + "...")
