"""What an utterance is, and a table of what a corpus holds."""
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from framealign.runtime import files
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
    """A table of utterances by session and class, with hours of sound, a row per session and one for all."""
    counts, hours = Counter(), Counter()            # by session; "" stands for all of them
    for utterance in utterances:
        for row in (utterance.session or "unknown", ""):
            counts[row, utterance.label or "unlabelled"] += 1
            hours[row] += utterance.num_samples / SAMPLE_RATE / 3600
    names = [*classes, *(["unlabelled"] if counts["", "unlabelled"] else [])]
    lines = [["session", *names, "total", "hours"]]
    for row in (*_in_order(hours.keys() - {""}), ""):
        numbers = [counts[row, name] for name in names]
        lines.append([row or "all", *map(str, numbers), str(sum(numbers)), f"{hours[row]:.2f}"])
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)


def _in_order(names: Iterable[str]) -> list[str]:
    """Sorted, numbers by value: 1, 2, 10, A."""
    return sorted(names, key=lambda name: (0, int(name), name) if name.isascii() and name.isdigit() else (1, 0, name))


def identity(utterances: list) -> str:
    """Digest of which utterances these are (id, path, length), in their order."""
    return files.digest_of([(u.id, str(u.path), u.num_samples) for u in utterances])


def described(utterances: list) -> str:
    """Which utterances these are, for a record: their number and a digest of ids, paths and lengths in their order."""
    return f"{len(utterances)} utterances (digest {identity(utterances)})"
