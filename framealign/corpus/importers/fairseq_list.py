"""fairseq's `.tsv`: a first line with the root folder, then a relative path and a number of samples in each line."""
import itertools
import os
import re
from pathlib import Path

from framealign.corpus.manifest import UtteranceList, excerpt, names_path, not_empty, text_lines
from framealign.corpus.utterance import Utterance


def read(path: str | Path) -> list[Utterance]:
    """Unlabelled utterances of a fairseq .tsv: a first line with the root folder, then `relative path<TAB>samples`.

    A relative root is the one of the list's folder or, as fairseq has it, of the working directory: the one that holds
    the first file. The id is the path without its suffix, folders separated by `~`: so equal names in two folders
    differ, and a line's id depends on nothing else (`id_of`).

    Raises ValueError, with file and line, for a line of another form, a duplicate id, or where neither of these roots
    holds the first file, or both do.
    """
    lines = text_lines(path)
    _, first = next(lines, (1, ""))
    root = first.rstrip("\r\n")
    if not root or "\t" in root:
        raise ValueError(f"{path}:1: the first line of a fairseq .tsv must be the root folder, got {excerpt(root)}")

    rows = []
    for line, text in lines:
        cells = text.rstrip("\r\n").split("\t")
        if cells == [""]:
            continue
        if len(cells) != 2 or not cells[1]:
            raise ValueError(f"{path}:{line}: must read path<TAB>samples, got {excerpt(text.strip())}")
        rows.append((line, *cells))
    _, first_file, _ = not_empty(rows, path)[0]

    utterances = UtteranceList(_root(Path(path), root, first_file))
    for line, place, num_samples in rows:
        utterances.add(f"{path}:{line}", place, num_samples, id=id_of(place))
    return utterances.items


def is_fairseq_list(path: str | Path) -> bool:
    """Whether a text is a fairseq .tsv and no table: by its first line, a folder, and the line below it.

    Raises ValueError for a file that is no text.
    """
    lines = (text.rstrip("\r\n") for _, text in text_lines(path))
    first, second = [*itertools.islice(lines, 2), "", ""][:2]
    if "\t" in first:
        return False
    return bool(re.fullmatch(r"[^\t]+\t[0-9]+", second)) or os.path.isabs(first) and not names_path(first)


def id_of(path: str) -> str:
    """The id of a relative path: folders and the file's stem, separated by `~`; x.wav has x, a/x.wav has a~x.

    Different paths without their suffix have different ids: `~`, `%`, `\\` and a leading dot in a name are written
    %7E, %25, %5C and %2E.
    """
    stem, _ = os.path.splitext(os.path.normpath(path))
    text = re.sub(r"[%~\\]|^\.", lambda match: f"%{ord(match[0]):02X}", stem)
    return text.replace("/", "~")


def _root(path: Path, root: str, first_file: str) -> Path:
    """The root folder that a list names. Raises ValueError where it is relative and could not be found, or be two."""
    if os.path.isabs(root):
        return Path(root)
    beside, working = path.parent / root, Path(root)
    places = [place for place in (beside, working) if os.path.exists(place / first_file)]
    if len(places) == 2 and os.path.samefile(*(place / first_file for place in places)):
        return beside
    if len(places) != 1:
        where = "both in" if places else "neither in"
        raise ValueError(f"{path}:1: of the root folder {excerpt(root)}, {excerpt(first_file)} is {where} that of the "
                         f"list's folder {'and' if places else 'nor in'} that of the working directory; write the "
                         "root's absolute path")
    return places[0]
