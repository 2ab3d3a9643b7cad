"""IEMOCAP: the folder that holds Session1 to Session5, with the published counts."""
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from framealign.runtime import log
from framealign.corpus.manifest import checked_utterance, not_empty, shortened, spellings, text_lines
from framealign.corpus.utterance import CLASSES, Utterance


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
    known = spellings(CLASSES)
    utterances, seen, counts = [], {}, Counter()
    for session, file in log.progress(evaluations, len(evaluations), "reading IEMOCAP", "dialogues"):
        for where, name, label in _summaries(file):
            turn = _IEMOCAP_ID.fullmatch(name)
            if not turn or int(turn[2]) != int(session):
                raise ValueError(f"{where}: utterance {shortened(name)} is not named as in IEMOCAP's session "
                                 f"{session}, such as Ses{int(session):02d}F_impro01_M013")
            counts.update((session, column) for column in _columns(label, *turn.group(3, 4)))
            if label == "exc" and not with_excited:
                continue
            wav = f"Session{session}/sentences/wav/{file.stem}/{name}.wav"
            utterances.append(checked_utterance(where, seen, root, wav, id=name, label=known[label],
                                         **fields_of_name(name)))
    wrong = [f"session {session}, {column}: found {counts[session, column]}, expected {number}"
             for (session, column), number in iemocap_cells().items() if counts[session, column] != number]
    wrong += [f"session {session}: not one of the corpus" for session in sessions if session not in IEMOCAP_COUNTS]
    if wrong and not allow_partial:
        more = f"; and {len(wrong) - 4} more cells" if len(wrong) > 4 else ""
        raise ValueError(f"{root}: not the whole IEMOCAP: {'; '.join(wrong[:4])}{more}; "
                         "copy the corpus again, or use what is there with --allow-partial")
    return not_empty(utterances, root)


def iemocap_cells() -> dict[tuple[str, str], int]:
    """What the published corpus has: (session, column) -> utterances, with the derived columns hap+exc and total."""
    cells = {}
    for session, numbers in IEMOCAP_COUNTS.items():
        row = dict(zip(IEMOCAP_COLUMNS, numbers))
        row |= {"hap+exc": row["hap"] + row["exc"], "total": sum(row[label] for label in IEMOCAP_LABELS)}
        cells |= {(session, column): number for column, number in row.items()}
    return cells


def fields_of_name(name: str) -> dict[str, str]:
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
    for line, text in text_lines(path):
        if not text.startswith("["):
            continue
        found = _SUMMARY.fullmatch(text)
        if not found or found[2] not in IEMOCAP_LABELS + IEMOCAP_OTHER_LABELS:
            raise ValueError(f"{path}:{line}: must read [start - end]<TAB>utterance<TAB>label<TAB>[V, A, D] with one "
                             f"of IEMOCAP's labels, got {shortened(text.strip())}")
        if found[2] in IEMOCAP_LABELS:
            yield f"{path}:{line}", found[1], found[2]
