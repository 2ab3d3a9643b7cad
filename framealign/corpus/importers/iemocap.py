"""IEMOCAP (Busso et al. 2008): the folder that holds Session1 to Session5, checked against the published counts.

Four classes, as usual for this corpus: neutral, angry, sad, and happy with excited. Whatever carries another label is
left out.
"""
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from framealign.runtime import log
from framealign.corpus.manifest import UtteranceList, excerpt, not_empty, spellings, text_lines
from framealign.corpus.utterance import CLASSES, Utterance

# Utterances of each session: by label, in improvised dialogues, by women, by men.
LABELS = ("neu", "ang", "sad", "hap", "exc")
COLUMNS = (*LABELS, "improvised", "speaker F", "speaker M")
COUNTS = {"1": (384, 229, 194, 135, 143, 521, 528, 557),
          "2": (362, 137, 197, 117, 210, 530, 481, 542),
          "3": (320, 240, 305, 135, 151, 627, 522, 629),
          "4": (258, 327, 143, 65, 238, 534, 528, 503),
          "5": (384, 170, 245, 143, 299, 731, 590, 651)}
OTHER_LABELS = ("fru", "sur", "fea", "dis", "oth", "xxx")           # in the corpus, not among the four classes
_TURN = re.compile(r"(Ses(\d\d))[FM]_(impro|script)\w*_([FM])(?:\d{3}|XX\d)", re.ASCII)
_SUMMARY = re.compile(r"\[[^\]\t]*\]\t(\S+)\t(\S+)\t\[[^\]\t]*\]\s*")       # [start - end] utterance label [V, A, D]


def read(root: str | Path, allow_partial: bool = False, with_excited: bool = True) -> list[Utterance]:
    """The 4-class IEMOCAP (excited counted as happy) of the folder that holds Session1 to Session5 (a synthetic tree
    may have more).

    Labels are the summary lines' of `Session*/dialog/EmoEvaluation/*.txt`, sound is `Session*/sentences/wav/<dialogue>/
    <utterance>.wav`. Files whose name begins with a dot are left behind by file managers and ignored.

    Raises ValueError naming file and line of what cannot be read, the wav file that is missing, or the cells (session,
    column) whose count is not the published corpus's, unless `allow_partial`.
    """
    root = Path(root)
    sessions = _sessions(root)
    evaluations = [(session, file) for session in sessions for file in _evaluations(root, session)]
    if not evaluations:
        raise ValueError(f"{root}: no Session1 to Session5 with dialog/EmoEvaluation/*.txt; "
                         "give the folder that holds Session1")

    known = spellings(CLASSES)
    utterances = UtteranceList(root)
    counts: Counter[tuple[str, str]] = Counter()    # by session and column
    for session, file in log.progress(evaluations, len(evaluations), "reading IEMOCAP", "dialogues"):
        for where, name, label in _summaries(file):
            turn = _TURN.fullmatch(name)
            if not turn or int(turn[2]) != int(session):
                raise ValueError(f"{where}: utterance {excerpt(name)} is not named as in IEMOCAP's session "
                                 f"{session}, such as Ses{int(session):02d}F_impro01_M013")
            for column in _columns(label, style=turn[3], gender=turn[4]):
                counts[session, column] += 1
            if label == "exc" and not with_excited:
                continue
            wav = f"Session{session}/sentences/wav/{file.stem}/{name}.wav"
            utterances.add(where, wav, id=name, label=known[label], **fields_of_name(name))

    if not allow_partial:
        _check_counts(counts, sessions, root)
    return not_empty(utterances.items, root)


def published_counts() -> dict[tuple[str, str], int]:
    """What the published corpus has: (session, column) -> utterances, with the derived columns hap+exc and total."""
    counts = {}
    for session, numbers in COUNTS.items():
        row = dict(zip(COLUMNS, numbers))
        row["hap+exc"] = row["hap"] + row["exc"]
        row["total"] = sum(row[label] for label in LABELS)
        for column, number in row.items():
            counts[session, column] = number
    return counts


def fields_of_name(name: str) -> dict[str, str]:
    """Session, speaker, gender and style out of a name such as Ses01F_impro01_M013; nothing out of another."""
    turn = _TURN.fullmatch(name)
    if not turn:
        return {}
    return {"session": str(int(turn[2])), "speaker": turn[1] + turn[4], "gender": turn[4], "style": turn[3]}


def _sessions(root: Path) -> list[str]:
    """Numbers of the folders Session1, Session2, ..., in order."""
    folders = [folder.name for folder in root.glob("Session*") if re.fullmatch("Session[1-9][0-9]?", folder.name)]
    return sorted((name.removeprefix("Session") for name in folders), key=int)


def _evaluations(root: Path, session: str) -> list[Path]:
    """The evaluation file of every dialogue of a session."""
    files = sorted((root / f"Session{session}" / "dialog" / "EmoEvaluation").glob("*.txt"))
    return [file for file in files if not file.name.startswith(".")]


def _summaries(path: Path) -> Iterator[tuple[str, str, str]]:
    """(file:line, utterance, label) of an evaluation file's summary lines; those of other labels are left out."""
    for line, text in text_lines(path):
        if not text.startswith("["):
            continue
        summary = _SUMMARY.fullmatch(text)
        if not summary or summary[2] not in LABELS + OTHER_LABELS:
            raise ValueError(f"{path}:{line}: must read [start - end]<TAB>utterance<TAB>label<TAB>[V, A, D] with one "
                             f"of IEMOCAP's labels, got {excerpt(text.strip())}")
        if summary[2] in LABELS:
            yield f"{path}:{line}", summary[1], summary[2]


def _columns(label: str, style: str, gender: str) -> list[str]:
    """The columns of the table of counts in which one utterance counts."""
    columns = [label, "total", f"speaker {gender}"]
    if label in ("hap", "exc"):
        columns.append("hap+exc")
    if style == "impro":
        columns.append("improvised")
    return columns


def _check_counts(counts: Counter[tuple[str, str]], sessions: list[str], root: Path) -> None:
    """Raise ValueError naming the first cells whose count is not the published one, and other sessions."""
    wrong = []
    for (session, column), number in published_counts().items():
        if counts[session, column] != number:
            wrong.append(f"session {session}, {column}: found {counts[session, column]}, expected {number}")
    for session in sessions:
        if session not in COUNTS:
            wrong.append(f"session {session}: not one of the corpus")
    if wrong:
        more = f"; and {len(wrong) - 4} more cells" if len(wrong) > 4 else ""
        raise ValueError(f"{root}: not the whole IEMOCAP: {'; '.join(wrong[:4])}{more}; "
                         "copy the corpus again, or use what is there with --allow-partial")
