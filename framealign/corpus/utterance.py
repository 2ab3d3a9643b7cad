"""What an utterance is; a table of what a corpus holds, and a digest of which utterances these are."""
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from framealign.runtime import digests, files
from framealign.sound.frames import SAMPLE_RATE

CLASSES = ("neutral", "happy", "angry", "sad")
NEUTRAL = "neutral"
NONE = "none"                                       # of a result: no emotion was recognised; never a class
# Other names of a label, and what one counts as where nothing else is said and it is no class: as usual for IEMOCAP.
SPELLINGS = {"neu": "neutral", "hap": "happy", "happiness": "happy", "joy": "happy", "exc": "excited",
             "excitement": "excited", "ang": "angry", "anger": "angry", "sadness": "sad", "fea": "fear",
             "fearful": "fear", "dis": "disgust", "disgusted": "disgust", "sur": "surprise", "surprised": "surprise",
             "bored": "boredom", "fru": "frustrated", "frustration": "frustrated"}
MERGED = {"excited": "happy"}
PARTS = ("train", "valid", "test")                  # of a split
MAX_COLUMNS = 12                                    # of labels that have one of their own in a summary
_TURN = re.compile(r"(Ses\d+)[FM]_\w+_([FM])(?:\d{3}|XX\d)", re.ASCII)


class Stretch(NamedTuple):
    """One emotion from `start` to `end`, in seconds from the beginning of the sound."""
    start: float
    end: float
    emotion: str


@dataclass(frozen=True)
class Utterance:
    """One labelled or unlabelled stretch of speech in a sound file of its own."""
    id: str                                         # unique in its corpus, safe as a file name
    path: Path                                      # absolute
    num_samples: int                                # at 16 kHz
    session: str = ""
    speaker: str = ""
    gender: str = ""                                # F or M where known
    label: str = ""                                 # "": unlabelled
    style: str = ""                                 # IEMOCAP: impro or script
    truth: tuple[Stretch, ...] | None = None        # when it is emotional, by its manifest; see `frame_truth`
    votes: tuple[tuple[str, float], ...] = ()       # of its annotators: (label, weight) each; see `annotator_votes`
    split: str = ""                                 # part of a fixed split, one of PARTS, where the corpus has one
    corpus: str = ""                                # which of several corpora it is of: `several_corpora.together`

    @property
    def group(self) -> str:
        """What intervals take as independent: the speaker, where known or told by the id, else the utterance itself.

        Not the dialogue: many dialogues of two speakers say nothing of how well a third is recognised. An id as
        IEMOCAP's, Ses01F_impro01_M013, tells its speaker, Ses01M (folders before it, as in ids of fairseq's lists, and
        the corpus make no difference).
        """
        name = self.id.removeprefix(f"{self.corpus}-") if self.corpus else self.id
        turn = _TURN.fullmatch(name.rpartition("~")[2])
        return self.speaker or (turn[1] + turn[2] if turn else self.id)


def check_class_names(names: Sequence[str], where: str) -> None:
    """Raise ValueError, with `where`, unless names are different and can be keys, columns and words of a list.

    So none is empty, has a comma, begins or ends with a blank, or holds what cannot be printed (tab, end of line); and
    none is called "none", which stands for sound in which no emotion was recognised.
    """
    for name, number in Counter(name.lower() for name in names).items():       # case tells no labels apart: `class_of`
        if number > 1:
            raise ValueError(f"{where}: {number} classes have the name {name!r}; give each one of its own")
    for name in names:
        if not name or name != name.strip() or "," in name or not name.isprintable():
            raise ValueError(f"{where}: a class must have a name without commas, tabs or ends of lines, and without "
                             f"blanks around it, got {name!r}")
        if name.lower() == NONE:
            raise ValueError(f"{where}: a class must not be called {name!r}, which stands for no emotion recognised; "
                             "give it another name (or leave its utterances out)")


def class_of(label: str, classes: Sequence[str] = CLASSES, merged: Mapping[str, str] = MERGED) -> str:
    """The class that a label names, in any known spelling, upper or lower case; "" where it names none.

    merged: what labels that are no class count as, in lower case.
    """
    by_name = {name.lower(): name for name in classes}
    *_, last = names_of(label, classes, merged)
    return by_name.get(last, "")


def names_of(label: str, classes: Sequence[str], merged: Mapping[str, str]) -> list[str]:
    """A label in lower case, then what it is another spelling of or counts as, down to the class that it names."""
    known = {name.lower() for name in classes}
    names = [label.lower()]
    while names[-1] not in known and (names[-1] in merged or names[-1] in SPELLINGS):
        names.append(merged.get(names[-1]) or SPELLINGS[names[-1]])
    return names


def common_word(label: str) -> str:
    """A label in lower case and the usual spelling, angry for Anger or ang; what has no other stays, calm for Calm."""
    return names_of(label, (), {})[-1]


def summary(utterances: Sequence[Utterance]) -> str:
    """Tables of utterances by session and, where corpora are known, by corpus, as `summary_by`.

    Where the sessions are the corpora (`folds.in_folds`) there is one.
    """
    kinds = ["session", "corpus"] if any(utterance.corpus for utterance in utterances) else ["session"]
    if all(utterance.session == utterance.corpus for utterance in utterances):
        kinds = kinds[-1:]
    return "\n\n".join(summary_by(kind, utterances) for kind in kinds)


def summary_by(kind: str, utterances: Sequence[Utterance]) -> str:
    """A table of utterances by session or corpus, and label, with hours of sound: a row for each and one for all.

    Columns are the labels that there are: first the four usual classes, in their order and any spelling, then the
    others by name. Of very many labels the rarest share a column.
    """
    labels = Counter(utterance.label for utterance in utterances if utterance.label)
    frequent = {label for label, _ in labels.most_common(MAX_COLUMNS)}
    counts, hours = Counter(), Counter()            # by session or corpus; "" stands for all of them
    for utterance in utterances:
        column = utterance.label or "unlabelled"
        if utterance.label and utterance.label not in frequent:
            column = f"{len(labels) - len(frequent)} others"
        for row in (getattr(utterance, kind) or "unknown", ""):
            counts[row, column] += 1
            hours[row] += utterance.num_samples / SAMPLE_RATE / 3600

    columns = sorted(frequent, key=_class_order)
    columns += sorted({column for _, column in counts} - frequent)              # others, unlabelled

    lines = [[kind, *columns, "total", "hours"]]
    for row in [*natural_order(hours.keys() - {""}), ""]:
        numbers = [counts[row, column] for column in columns]
        lines.append([row or "all", *map(str, numbers), str(sum(numbers)), f"{hours[row]:.2f}"])

    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)


def by_corpus(utterances: Iterable[Utterance]) -> dict[str, int]:
    """How many utterances each corpus has, by name, "unknown" of none; {} where no corpus is known."""
    counts = Counter(utterance.corpus for utterance in utterances)
    return {name or "unknown": counts[name] for name in natural_order(counts)} if any(counts) else {}


def _class_order(label: str) -> tuple[int, str]:
    """Where a label's column stands in a summary."""
    name = class_of(label)
    return (CLASSES.index(name) if name else len(CLASSES), label)


def natural_order(names: Iterable[str]) -> list[str]:
    """Sorted, whole numbers by value and before the rest: 1, 2, 10, A."""
    def key(name: str) -> tuple[int, int, str]:
        is_number = name.isascii() and name.isdigit()
        return (0, int(name), name) if is_number else (1, 0, name)

    return sorted(names, key=key)


def corpus_digest(utterances: Sequence[Utterance]) -> str:
    """Digest of which utterances these are (id, content of the sound file, length), in their order.

    Where the files lie is no part of it: a corpus may be moved. Every rank calls it alike. Raises ValueError naming a
    file that cannot be read.
    """
    contents = digests.of_files([utterance.path for utterance in utterances])
    return files.digest_of([(u.id, content, u.num_samples) for u, content in zip(utterances, contents)])


def corpus_description(utterances: Sequence[Utterance]) -> str:
    """Which utterances these are, in words for a record: how many, and their digest."""
    return f"{len(utterances)} utterances (digest {corpus_digest(utterances)})"
