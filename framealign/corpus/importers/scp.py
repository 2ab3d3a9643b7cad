"""The reference's three lists of a fold (train, validation, test): `name path label` in each line."""
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from framealign.corpus.importers.iemocap import fields_of_name
from framealign.corpus.manifest import UtteranceList, excerpt, label_of, not_empty, spellings, text_lines
from framealign.corpus.protocols import Split, check_speakers
from framealign.corpus.utterance import CLASSES


class _Line(NamedTuple):
    """One line of a list, as text."""
    where: str                                      # file:line
    name: str
    path: str
    label: str


def read_split(train: str | Path, valid: str | Path | None, test: str | Path, allow_overlap: bool = False,
               classes: Sequence[str] = CLASSES) -> Split:
    """The reference's three lists, one `name path label` per line: a Split named after the test list.

    Labels are names or, where all three lists hold numbers only, positions in `classes`. Session, speaker and gender
    are known for names as in IEMOCAP. Paths are absolute or relative to the list's folder.

    Raises ValueError, with file and line, for a line that cannot be read; for an utterance that is both trained on and
    tested (or selected) on; and for a speaker in two lists, unless `allow_overlap` (protocols marked optimistic).
    """
    paths = (train, valid, test)
    lists = [_lines(path) if path else [] for path in paths]
    known = spellings(classes)
    if all(re.fullmatch("[0-9]+", line.label) for lines in lists for line in lines):
        known = {str(number): name for number, name in enumerate(classes)}

    parts = []
    for path, lines in zip(paths, lists):
        utterances = UtteranceList(Path(path).parent if path else Path())
        for line in lines:
            utterances.add(line.where, line.path, id=line.name, label=label_of(line.label, known, line.where),
                           **fields_of_name(line.name))
        parts.append(utterances.items)
    split = Split(*parts, name=Path(test).stem)

    train_ids = {utterance.id for utterance in split.train}
    for utterance in split.valid + split.test:
        if utterance.id in train_ids:
            raise ValueError(f"{train}: utterance {utterance.id} is also in the validation or test list; "
                             "take it out of one of them")
    if not allow_overlap:
        check_speakers(split)
    return split


def _lines(path: str | Path) -> list[_Line]:
    """Every line that is not blank; only the path may have blanks in it."""
    lines = []
    for number, text in text_lines(path):
        words = text.split()
        if not words:
            continue
        if len(words) < 3:
            raise ValueError(f"{path}:{number}: must read `name path label`, got {excerpt(text.strip())}")
        name, rest = text.split(None, 1)
        place, label = rest.rsplit(None, 1)
        lines.append(_Line(f"{path}:{number}", name, place, label))
    return not_empty(lines, path)
