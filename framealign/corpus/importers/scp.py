"""The reference's three lists of a fold: one `name path label` a line."""
import re
from collections.abc import Sequence
from pathlib import Path

from framealign.corpus.importers.iemocap import fields_of_name
from framealign.corpus.manifest import checked_utterance, label_of, not_empty, shortened, spellings, text_lines
from framealign.corpus.protocols import Split, check_speakers
from framealign.corpus.utterance import CLASSES


def from_scp(train: str | Path, valid: str | Path | None, test: str | Path, allow_overlap: bool = False,
             classes: Sequence[str] = CLASSES) -> Split:
    """The reference's three lists, one `name path label` per line: a Split named after the test list.

    Labels are names or, where all three lists hold numbers only, positions in `classes`. Session, speaker and gender
    are known for names as in IEMOCAP. Paths are absolute or relative to the list's folder.

    Raises ValueError, with file and line, for a line that cannot be read; for an utterance that is both trained on and
    tested (or selected) on; and for a speaker in two lists, unless `allow_overlap` (protocols marked optimistic).
    """
    lists = [_scp_lines(path) if path else [] for path in (train, valid, test)]
    known = spellings(classes)
    if all(re.fullmatch("[0-9]+", label) for lines in lists for *_, label in lines):
        known = {str(number): name for number, name in enumerate(classes)}
    parts = []
    for path, lines in zip((train, valid, test), lists):
        seen = {}
        parts.append([checked_utterance(where, seen, Path(path).parent, place, id=name, label=label_of(label, known, where),
                                 **fields_of_name(name)) for where, name, place, label in lines])
    scp = Split(*parts, name=Path(test).stem)
    trained = {utterance.id for utterance in scp.train}
    for utterance in scp.valid + scp.test:
        if utterance.id in trained:
            raise ValueError(f"{train}: utterance {utterance.id} is also in the validation or test list; "
                             "take it out of one of them")
    if not allow_overlap:
        check_speakers(scp)
    return scp


def _scp_lines(path: str | Path) -> list[tuple[str, str, str, str]]:
    """(file:line, name, path, label) of every line that is not blank; only the path may have blanks in it."""
    lines = []
    for line, text in text_lines(path):
        cells = text.split(None, 1)
        cells = cells[:1] + cells[1].rsplit(None, 1) if len(cells) == 2 else cells
        if len(cells) not in (0, 3):
            raise ValueError(f"{path}:{line}: must read `name path label`, got {shortened(text.strip())}")
        if cells:
            lines.append((f"{path}:{line}", *cells))
    return not_empty(lines, path)
