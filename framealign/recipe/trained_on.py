"""`trained_on.tsv` in a recogniser's directory: the utterances whose labels it knows, so that no test counts them.

One row for each: id, digest of the sound file's content, speaker, label, and use: `training`, or `selection` where only
the choice of an epoch, or the fit of the temperatures, looked at it. Sound that pretraining alone took is
not listed: its labels were never seen. An utterance is known by its sound, so that another name, place or manifest does
not hide it.
"""
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from framealign.runtime import digests, distributed, files
from framealign.corpus.manifest import text_lines
from framealign.corpus.protocols import Split
from framealign.corpus.utterance import Utterance

NAME = "trained_on.tsv"
TRAINING, SELECTION = "training", "selection"


@dataclass(frozen=True)
class Row:
    """One utterance that a recogniser knows the label of."""
    id: str
    sound: str                                      # `files.digest` of the sound file
    speaker: str                                    # "" where unknown
    label: str
    use: str                                        # TRAINING or SELECTION


class TrainedOn:
    """What a recogniser was trained and selected on."""

    def __init__(self, rows: Iterable[Row]):
        self.rows = list(rows)
        self.uses = {row.sound: row.use for row in reversed(self.rows)}         # by digest; of two, the first
        self.speakers = {row.speaker for row in self.rows if row.speaker}
        self.names = {(row.id, row.speaker) for row in self.rows}

    @classmethod
    def read(cls, directory: str | Path) -> "TrainedOn | None":
        """The list of a recogniser's directory; None where there is none, as in older ones.

        Raises ValueError naming file and line where it is no such list.
        """
        path = Path(directory) / NAME
        if not path.exists():
            return None
        names = [field.name for field in fields(Row)]
        rows = []
        for line, text in text_lines(path):
            cells = text.rstrip("\r\n").split("\t")
            if line == 1 and cells != names:
                raise ValueError(f"{path}:1: must be the header {' '.join(names)}, separated by tabs")
            if line > 1 and (len(cells) != len(names) or cells[-1] not in (TRAINING, SELECTION)):
                raise ValueError(f"{path}:{line}: must have {len(names)} columns, the last {TRAINING} or {SELECTION}")
            if line > 1:
                rows.append(Row(*cells))
        if not rows:
            raise ValueError(f"{path}: names no utterance")
        return cls(rows)

    def write(self, directory: str | Path) -> None:
        """Write the list into a recogniser's directory."""
        lines = [[field.name for field in fields(Row)], *map(astuple, self.rows)]
        files.write_text(Path(directory) / NAME, "".join("\t".join(cells) + "\n" for cells in lines))


def write(directory: Path, splits: Sequence[Split], selection: str, base: str | Path | None = None) -> None:
    """Write the list of a recogniser that was just trained; every rank calls it alike and reads a share of the files.

    splits: of the recogniser; of several, in which each speaker is tested once, it is the first one's, and those in
    `way1`, `way2` ... beside it get theirs. selection: with "best-test" the test part was looked at. base: what
    training started from; a recogniser's list, where that has one, is taken over.
    """
    earlier = TrainedOn.read(base) if base is not None else None
    for number, split in enumerate(splits, 1):
        place = directory if len(splits) == 1 else directory.parent / f"way{number}" / directory.name
        chosen_on = split.test if selection == "best-test" else split.valid
        rows = [*rows_of(split.train, TRAINING), *rows_of(chosen_on, SELECTION)]
        sounds = {row.sound for row in rows}
        rows += [row for row in earlier.rows if row.sound not in sounds] if earlier else []
        if distributed.rank() == 0:
            TrainedOn(rows).write(place)


def rows_of(utterances: Sequence[Utterance], use: str) -> list[Row]:
    """A row for each utterance; every rank calls it alike. Raises ValueError naming a file that cannot be read."""
    sounds = digests.of_files([utterance.path for utterance in utterances])
    return [Row(one.id, sound, one.speaker, one.label, use) for one, sound in zip(utterances, sounds)]
