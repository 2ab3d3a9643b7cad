"""IEMOCAP (Busso et al. 2008): the folder that holds Session1 to Session5, checked against the published counts.

Four classes, as usual for this corpus: neutral, angry, sad, and happy with excited. Whatever carries another label is
left out: what the paper pretrains on, too, is these 5,531 utterances.
"""
import re
from collections import Counter
from pathlib import Path

from framealign.runtime import log
from framealign.corpus.manifest import UtteranceList, excerpt, noting, text_lines
from framealign.corpus.utterance import Utterance, class_of

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

    Raises ValueError naming file and line of what cannot be read (a line, a sound file that is missing or not in order,
    an evaluation file in another encoding), and the cells (session, column) whose count is not the published corpus's.
    With `allow_partial` such utterances are left out instead, and a note says the same; ValueError where none is left.
    """
    root = Path(root)
    sessions = _sessions(root)
    evaluations = [(session, file) for session in sessions for file in _evaluations(root, session)]
    if not evaluations:
        raise ValueError(f"{root}: no Session1 to Session5 with dialog/EmoEvaluation/*.txt; "
                         "give the folder that holds Session1")

    utterances = UtteranceList(root)
    counts: Counter[tuple[str, str]] = Counter()    # by session and column
    others: Counter[str] = Counter()                # by label
    unusable: list[str] = []
    for session, file in log.progress(evaluations, len(evaluations), "reading IEMOCAP", "dialogues"):
        with noting(unusable):
            for line, text in text_lines(file, checked=False):      # evaluators' comments may be in any encoding
                if not text.startswith("["):
                    continue
                with noting(unusable):
                    where = f"{file}:{line}"
                    name, label = _summary(text, session, where)
                    if label in OTHER_LABELS:
                        others[label] += 1
                        continue
                    fields = fields_of_name(name)
                    if label != "exc" or with_excited:
                        wav = f"Session{session}/sentences/wav/{file.stem}/{name}.wav"
                        utterances.add(where, wav, id=name, label=class_of(label), **fields)
                    for column in _columns(label, fields["style"], fields["gender"]):
                        counts[session, column] += 1

    differences = _differences(counts, sessions, unusable)
    if differences and not allow_partial:
        raise ValueError(f"{root}: not the whole IEMOCAP: {differences}; copy the corpus again, or use what is there "
                         "with --allow-partial")
    if not utterances.items:
        raise ValueError(f"{root}: holds no utterance of the four classes that can be used: {differences}")
    if differences:
        log.say_once(f"{root}: not the whole IEMOCAP: {differences}")
    if others:
        listed = ", ".join(f"{label} {number}" for label, number in others.most_common())
        log.say_once(f"{root}: left out, being of none of the four classes: {others.total()} utterances ({listed})")
    return utterances.items


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


def _summary(text: str, session: str, where: str) -> tuple[str, str]:
    """Utterance and label of a summary line. Raises ValueError for another line or a name of another session."""
    summary = _SUMMARY.fullmatch(text)
    if not summary or summary[2] not in LABELS + OTHER_LABELS:
        raise ValueError(f"{where}: must read [start - end]<TAB>utterance<TAB>label<TAB>[V, A, D] with one of "
                         f"IEMOCAP's labels, got {excerpt(text.strip())}")
    turn = _TURN.fullmatch(summary[1])
    if summary[2] in LABELS and (not turn or int(turn[2]) != int(session)):
        raise ValueError(f"{where}: utterance {excerpt(summary[1])} is not named as in IEMOCAP's session {session}, "
                         f"such as Ses{int(session):02d}F_impro01_M013")
    return summary[1], summary[2]


def _columns(label: str, style: str, gender: str) -> list[str]:
    """The columns of the table of counts in which one utterance counts."""
    columns = [label, "total", f"speaker {gender}"]
    if label in ("hap", "exc"):
        columns.append("hap+exc")
    if style == "impro":
        columns.append("improvised")
    return columns


def _differences(counts: Counter[tuple[str, str]], sessions: list[str], unusable: list[str]) -> str:
    """What is not as in the published corpus, in words; "" where nothing is.

    How many utterances or files cannot be used, and the first; the first cells whose count is another; other sessions.
    """
    cells = []
    for (session, column), number in published_counts().items():
        if counts[session, column] != number:
            cells.append(f"session {session}, {column}: found {counts[session, column]}, expected {number}")
    for session in sessions:
        if session not in COUNTS:
            cells.append(f"session {session}: not one of the corpus")

    parts = []
    if unusable:
        more = " | ..." if len(unusable) > 3 else ""
        parts.append(f"{len(unusable)} utterances or files cannot be used ({' | '.join(unusable[:3])}{more})")
    parts += cells[:4]
    if len(cells) > 4:
        parts.append(f"and {len(cells) - 4} more cells")
    return "; ".join(parts)
