"""IEMOCAP (English, acted and improvised by pairs): the folder that holds Session1 to Session5.

Busso et al. 2008, Language Resources and Evaluation 42(4); sail.usc.edu/iemocap. On request, for research.

`read` gives the four classes usual for this corpus, neutral, angry, sad, and happy with excited: what the paper
pretrains on, too, is these 5,531 utterances. `CORPUS` keeps every label of its 10,039 utterances, with its evaluators'
votes (self-reports are not counted; who names several emotions gives each a share). Both are compared with the
published counts of the four classes. Sessions are the corpus's, a woman and a man each.
"""
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from framealign.runtime import log
from framealign.corpus.importers.published_corpus import (CorpusFolder, Counts, Entry, PublishedCorpus, cells_in_words,
                                                          differing, settle, unusable_in_words, votes_cell)
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
WORDS = {"neu": "neutral", "ang": "angry", "sad": "sad", "hap": "happy", "exc": "excited", "fru": "frustrated",
         "sur": "surprise", "fea": "fear", "dis": "disgust", "oth": "other", "xxx": "no agreement"}
VOTES = {"neutral": "neutral", "anger": "angry", "sadness": "sad", "happiness": "happy", "excited": "excited",
         "frustration": "frustrated", "surprise": "surprise", "fear": "fear", "disgust": "disgust", "other": "other"}
_EVALUATION = re.compile(r"(.*/)?Session([1-9]\d?)/dialog/EmoEvaluation/(Ses[^/]*)\.txt", re.IGNORECASE)
_EVALUATOR = re.compile(r"C-E\d+:\s*([^\t(]*)", re.ASCII)          # C-E2: Neutral; Anger; ()
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

    settle(root, "IEMOCAP", _differences(counts, sessions, unusable), utterances.items, allow_partial,
           "of the four classes")
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


def _differences(counts: Counter[tuple[str, str]], sessions: list[str], unusable: list[str]) -> list[str]:
    """What is not as in the published corpus, in words; nothing where nothing is.

    How many utterances or files cannot be used, and the first; the first cells whose count is another; other sessions.
    """
    published = {f"{session}, {column}": number for (session, column), number in published_counts().items()}
    there = {cell: counts[tuple(cell.split(", "))] for cell in published}
    cells = differing("session ", there, published)
    cells += [f"session {session}: not one of the corpus" for session in sessions if session not in COUNTS]
    return [*unusable_in_words(unusable), *cells_in_words(cells)]


# With every label.

def entries(folder: CorpusFolder, unusable: list[str]) -> Iterator[Entry]:
    """Label and votes of every utterance, out of the evaluation files; speaker, gender and style out of its name."""
    evaluations = list(filter(None, map(_EVALUATION.fullmatch, folder.files)))
    if not evaluations:
        raise ValueError(f"{folder.root}: no Session1 to Session5 with dialog/EmoEvaluation/*.txt; "
                         "give the folder that holds Session1")
    sounds = {place.lower(): place for place in folder.sounds}
    for evaluation in evaluations:
        place, above, session, dialogue = evaluation[0], evaluation[1] or "", evaluation[2], evaluation[3]
        entry: Entry | None = None
        votes: Counter[str] = Counter()
        with noting(unusable):
            for line, text in text_lines(folder.root / place, checked=False):
                with noting(unusable):
                    if text.startswith("["):
                        if entry:
                            yield entry._replace(votes=votes_cell(votes))
                        entry, votes = None, Counter()
                        where = f"{folder.root / place}:{line}"
                        name, label = _summary(text, session, where)
                        wav = f"{above}Session{session}/sentences/wav/{dialogue}/{name}.wav"
                        fields = _fields(name, where)
                        entry = Entry(sounds.get(wav.lower(), wav), label, fields["speaker"], fields["session"], name,
                                      fields["gender"], fields["style"], where=where)
                    votes.update(_votes(text))
            if entry:
                yield entry._replace(votes=votes_cell(votes))


def _fields(name: str, where: str) -> dict[str, str]:
    fields = fields_of_name(name)
    if not fields:
        raise ValueError(f"{where}: utterance {excerpt(name)} is not named as in IEMOCAP, such as Ses01F_impro01_M013")
    return fields


def _votes(text: str) -> dict[str, float]:
    """What a line says of an evaluator's vote: 1, shared among the emotions that are named; {} for another line."""
    line = _EVALUATOR.match(text)
    named = [emotion.strip().lower() for emotion in line[1].split(";")] if line else []
    words = [VOTES[emotion.removesuffix(" state")] for emotion in named if emotion.removesuffix(" state") in VOTES]
    return {word: words.count(word) / len(words) for word in words}


def _is_here(folder: CorpusFolder) -> float:
    return float(any(map(_EVALUATION.fullmatch, folder.files)))


CORPUS = PublishedCorpus(
    "IEMOCAP", "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav", WORDS,
    "the corpus's, 1 to 5, a woman and a man each", {"": Counts(None, {
        WORDS[label]: sum(published_counts()[session, label] for session in COUNTS) for label in LABELS})},
    entries=entries, looks=_is_here)
