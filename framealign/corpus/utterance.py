"""What an utterance is; a table of what a corpus holds, and a digest of which utterances these are."""
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from framealign.runtime import digests, files
from framealign.sound.frames import SAMPLE_RATE

CLASSES = ("neutral", "happy", "angry", "sad")
_TURN = re.compile(r"(\w+)_[FM](?:\d{3}|XX\d)", re.ASCII)


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

    @property
    def dialogue(self) -> str:
        """The dialogue of an IEMOCAP-like id, Ses01F_impro01 of Ses01F_impro01_M013; "" for other ids."""
        turn = _TURN.fullmatch(self.id)
        return turn[1] if turn else ""

    @property
    def group(self) -> str:
        """What intervals are resampled by: the dialogue where the id tells it, else the speaker, else the utterance."""
        return self.dialogue or self.speaker or self.id


def summary(utterances: Sequence[Utterance], classes: Sequence[str] = CLASSES) -> str:
    """A table of utterances by session and class, with hours of sound: a row per session and one for all."""
    counts, hours = Counter(), Counter()            # by session; "" stands for all of them
    for utterance in utterances:
        for row in (utterance.session or "unknown", ""):
            counts[row, utterance.label or "unlabelled"] += 1
            hours[row] += utterance.num_samples / SAMPLE_RATE / 3600

    columns = list(classes)
    if counts["", "unlabelled"]:
        columns.append("unlabelled")

    lines = [["session", *columns, "total", "hours"]]
    for row in [*natural_order(hours.keys() - {""}), ""]:
        numbers = [counts[row, column] for column in columns]
        lines.append([row or "all", *map(str, numbers), str(sum(numbers)), f"{hours[row]:.2f}"])

    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)


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
