"""Several corpora put together into one: which of them an utterance is of, and names that stay apart."""
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from framealign.corpus import manifest
from framealign.corpus.utterance import Utterance, common_word

PREFIXED = ("id", "speaker", "session")             # what gets the name of its corpus


def together(tables: Sequence[tuple[str, Sequence[Utterance]]]) -> list[Utterance]:
    """The utterances of several tables, (path, utterances) each, in their order, as one corpus.

    The `corpus` of an utterance is what its table says, else the table's name without suffix. Ids, speakers and
    sessions have it before them (`prefixed`), so that equal names in two corpora stay two. Labels get their
    `common_word`, so that anger and Angry are one label; truth and votes, whose readers know spellings, stay as they
    are, and so does all else.

    Raises ValueError for a corpus or a sound file that is in two tables, and for two corpora whose names with prefixes
    are equal all the same (of the corpora `a` and `a-b`, speaker `b-c` and speaker `c`).
    """
    utterances = [dataclasses.replace(utterance, corpus=utterance.corpus or Path(path).stem,
                                      label=common_word(utterance.label))
                  for path, table in tables for utterance in table]
    _check_apart(tables, utterances)

    by_corpus: dict[str, list[int]] = {}
    for i, utterance in enumerate(utterances):
        by_corpus.setdefault(utterance.corpus, []).append(i)
    for corpus, places in by_corpus.items():
        for field in PREFIXED:
            names = prefixed([getattr(utterances[i], field) for i in places], corpus)
            for i, name in zip(places, names):
                utterances[i] = dataclasses.replace(utterances[i], **{field: name})

    for field in PREFIXED:
        corpus_of: dict[str, str] = {}
        for utterance in utterances:
            name = getattr(utterance, field)
            other = corpus_of.setdefault(name, utterance.corpus)
            if name and other != utterance.corpus:
                raise ValueError(f"{field} {name} would be one of corpus {other} and one of corpus "
                                 f"{utterance.corpus}; rename the table of one of them")
    return utterances


def prefixed(names: Sequence[str], corpus: str) -> list[str]:
    """Names of one corpus with its own before them, `ravdess-03`; as they are where all begin with `ravdess-` or
    `ravdess_`. An empty one, which is unknown, stays empty.
    """
    have_it = all(name.startswith((f"{corpus}-", f"{corpus}_")) for name in names if name)
    return [f"{corpus}-{name}" if name and not have_it else name for name in names]


def _check_apart(tables: Sequence[tuple[str, Sequence[Utterance]]], utterances: Sequence[Utterance]) -> None:
    """Raise ValueError where two tables have one corpus (upper and lower case count as equal) or one sound file.

    utterances: those of the tables, one table after the other, their corpora filled in.
    """
    table_of = [number for number, (_, table) in enumerate(tables) for _ in table]
    first_table: dict[str, int] = {}                # corpus -> number of the table that has it
    for number, utterance in zip(table_of, utterances):
        other = first_table.setdefault(utterance.corpus.casefold(), number)
        if other != number:
            raise ValueError(f"{tables[number][0]}: its corpus {utterance.corpus} is that of {tables[other][0]}, too; "
                             "a corpus is called as its table, or by the table's column corpus: rename one of them, "
                             "or give both as one table")
    first_use: dict[Path, tuple[int, Utterance]] = {}
    for number, utterance in zip(table_of, utterances):
        other, before = first_use.setdefault(utterance.path, (number, utterance))
        if other != number:
            raise ValueError(f"{manifest.line_of(tables[number][0], utterance)}: the sound file {utterance.path} was "
                             f"named before, at {manifest.line_of(tables[other][0], before)}; take it out of one of "
                             "the tables")
