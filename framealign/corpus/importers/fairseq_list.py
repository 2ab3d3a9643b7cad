"""fairseq's `.tsv`: a first line with the root folder, then a relative path and a number of samples in each line."""
from pathlib import Path

from framealign.corpus.manifest import UtteranceList, excerpt, not_empty, text_lines
from framealign.corpus.utterance import Utterance


def read(path: str | Path) -> list[Utterance]:
    """Unlabelled utterances of a fairseq .tsv: a first line with the root folder, then `relative path<TAB>samples`.

    The id is the file's stem. Raises ValueError, with file and line, for a line of another form or a duplicate id.
    """
    lines = text_lines(path)
    _, first = next(lines, (1, ""))
    root = first.rstrip("\r\n")
    if not root or "\t" in root:
        raise ValueError(f"{path}:1: the first line of a fairseq .tsv must be the root folder, got {excerpt(root)}")

    utterances = UtteranceList(Path(path).parent / root)
    for line, text in lines:
        cells = text.rstrip("\r\n").split("\t")
        if cells == [""]:
            continue
        if len(cells) != 2 or not cells[1]:
            raise ValueError(f"{path}:{line}: must read path<TAB>samples, got {excerpt(text.strip())}")
        utterances.add(f"{path}:{line}", *cells)
    return not_empty(utterances.items, path)
