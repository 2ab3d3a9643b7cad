"""fairseq's `.tsv`: a root folder, then a path and a number of samples a line."""
from pathlib import Path

from framealign.corpus.manifest import checked_utterance, not_empty, shortened, text_lines
from framealign.corpus.utterance import Utterance


def read_fairseq(path: str | Path) -> list[Utterance]:
    """Unlabelled utterances of a fairseq .tsv: a first line with the root folder, then `relative path<TAB>samples`.

    The id is the file's stem. Raises ValueError, with file and line, for a line of another form or a duplicate id.
    """
    lines = text_lines(path)
    root = next(lines, (1, ""))[1].rstrip("\r\n")
    if not root or "\t" in root:
        raise ValueError(f"{path}:1: the first line of a fairseq .tsv must be the root folder, got {shortened(root)}")
    utterances, seen = [], {}
    for line, text in lines:
        cells = text.rstrip("\r\n").split("\t")
        if cells == [""]:
            continue
        if len(cells) != 2 or not cells[1]:
            raise ValueError(f"{path}:{line}: must read path<TAB>samples, got {shortened(text.strip())}")
        utterances.append(checked_utterance(f"{path}:{line}", seen, Path(path).parent / root, *cells))
    return not_empty(utterances, path)
