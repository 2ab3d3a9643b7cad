"""The reference's three lists of a fold (train, validation, test): `name path label` in each line."""
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from framealign.corpus.importers.iemocap import fields_of_name
from framealign.corpus.manifest import UtteranceList, excerpt, not_empty, text_lines
from framealign.corpus.protocols import Split, check_speakers, of_classes
from framealign.corpus.utterance import CLASSES


class _Line(NamedTuple):
    """One line of a list, as text."""
    where: str                                      # file:line
    name: str
    path: str
    label: str


def read_split(train: str | Path, valid: str | Path | None, test: str | Path, allow_overlap: bool = False,
               classes: Sequence[str] = CLASSES, merge: str = "") -> Split:
    """The reference's three lists, one `name path label` per line: a Split named after the test list.

    Labels are names or, where all three lists hold numbers only, positions in `classes`; merge: as of `of_classes`.
    Utterances of another label are left out, with a note. Session, speaker and gender are known for names as in
    IEMOCAP. Paths are absolute or relative to the list's folder.

    Raises ValueError, with file and line, for a line that cannot be read; for an utterance or a sound file that is both
    trained on and tested (or selected) on; and for a speaker in two lists, unless `allow_overlap` (protocols marked
    optimistic).
    """
    paths = (train, valid, test)
    lists = [_lines(path) if path else [] for path in paths]
    only_numbers = all(_is_number(line.label) for lines in lists for line in lines)
    positions = {str(number): name for number, name in enumerate(classes)} if only_numbers else {}

    parts = []
    for path, lines in zip(paths, lists):
        utterances = UtteranceList(Path(path).parent if path else Path())
        for line in lines:
            if _is_number(line.label) and line.label not in positions:
                raise ValueError(f"{line.where}: label {excerpt(line.label)} must be " + (
                    f"a position in {', '.join(classes)}: {', '.join(positions)}" if positions else
                    f"a name such as {', '.join(classes)}, as other labels of these lists are"))
            utterances.add(line.where, line.path, id=line.name, label=positions.get(line.label, line.label),
                           **fields_of_name(line.name))
        parts.append(utterances.items)

    every = iter(of_classes([utterance for part in parts for utterance in part], classes, merge))
    parts = [[utterance for utterance in itertools.islice(every, len(part)) if utterance.label] for part in parts]
    split = Split(*parts, name=Path(test).stem)

    trained = {name for utterance in split.train for name in (utterance.id, utterance.path)}
    for utterance in split.valid + split.test:
        if utterance.id in trained or utterance.path in trained:
            raise ValueError(f"{train}: utterance {utterance.id} ({utterance.path}) is also in the validation or test "
                             "list; take it out of one of them")
    if not allow_overlap:
        check_speakers(split)
    return split


def _is_number(label: str) -> bool:
    return bool(re.fullmatch("[0-9]+", label))


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
