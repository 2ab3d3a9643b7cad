"""What several verbs check and read before they begin."""
from pathlib import Path
from typing import Any

from framealign.runtime.settings import flag_of
from framealign.corpus import manifest
from framealign.corpus.importers import fairseq_list
from framealign.corpus.utterance import CLASSES, Utterance
from framealign.recipe.preflight import check_files


def required(config: Any, *names: str) -> None:
    """Raise ValueError naming the first of these flags that was not given."""
    for name in names:
        if not getattr(config, name):
            raise ValueError(f"{flag_of(name)} is needed; --help shows an example")


def read_corpus(path: str, classes: tuple[str, ...] | list[str] = CLASSES) -> list[Utterance]:
    """A manifest or table (its header names `path`), else a fairseq .tsv (its first line is a folder).

    Raises ValueError for what is neither, or where sound files are not as the corpus says.
    """
    if _is_fairseq_list(path):
        utterances = fairseq_list.read(path)
    else:
        utterances = manifest.read(path, classes)
    check_files(utterances)
    return utterances


def _is_fairseq_list(path: str) -> bool:
    """Whether the first line is a folder alone, as in fairseq's .tsv. Raises ValueError for an unreadable file."""
    try:
        with open(path, encoding="utf-8") as file:
            first = file.readline(65_536).rstrip("\n")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as text: {error}") from None
    if not first or "\t" in first or "," in first:
        return False
    return first.startswith(("/", ".")) or Path(first).is_dir()


def fresh(out: str, resume: bool) -> None:
    """Raise ValueError where the folder `out` holds a checkpoint and it is not to be continued."""
    if not resume and any(Path(out).rglob("checkpoints/[0-9]*")):
        raise ValueError(f"{out}: holds checkpoints; leave out --no-resume to continue, or choose another --out folder")
