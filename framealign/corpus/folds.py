"""Which utterances make up a fold: sessions, speakers, balanced groups of speakers, corpora, or parts of a fixed split.

A fold is what is held out together. Its name stands in `Utterance.session`, so that all that follows (`protocols.split`
first) knows sessions alone. What is chosen here is `--folds`:

- `session`: those of the corpus, as they are;
- `speakers`: each speaker alone (leave one speaker out);
- a number k: k groups of speakers, alike in size and classes;
- `corpus`: each of several corpora (`several_corpora.together`), by the manifest's column `corpus`;
- `split`: the parts that the manifest's column `split` names; `test` is held out, `valid` validates.
"""
import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from framealign.runtime import log
from framealign.runtime.seeds import derive_seed
from framealign.corpus.utterance import PARTS, Utterance, natural_order

# Of --folds: what one of them is.
KINDS = {"session": "session", "speakers": "speaker", "corpus": "corpus", "split": "part"}
TRAINED, VALIDATED, TESTED = PARTS                  # of a fixed split
SHARED = "shared"                                   # what a protocol says of speakers who are in two folds
STARTS, MAX_TRIED = 10, 200                         # of a search for groups; with more speakers it starts once
LEAST_GAIN = 1e-9                                   # of a step; less is rounding


def check(folds: str) -> None:
    """Raise ValueError for what is none of the kinds of folds."""
    is_number = re.fullmatch("[1-9][0-9]{0,3}", folds) and folds != "1"
    if folds not in KINDS and not is_number:
        raise ValueError(f"--folds must be {', '.join(KINDS)} or a number of groups of speakers, 2 to 9999, "
                         f"got {folds!r}")


def described(folds: str, seed: int = 0) -> str:
    """What --folds means, in words for records and tables."""
    words = {"session": "by session", "speakers": "by speaker", "corpus": "by corpus", "split": "fixed split"}
    return words.get(folds) or f"{folds} groups of speakers (seed {seed})"


def kind_of(description: str) -> str:
    """What a single fold is, for titles: session, speaker, corpus, part or group. description: by `described`."""
    return {described(folds): name for folds, name in KINDS.items()}.get(description, "group")


def in_folds(utterances: Sequence[Utterance], folds: str, seed: int = 0) -> list[Utterance]:
    """The same utterances, in the same order, `session` being the name of each one's fold.

    "" where an utterance belongs to none: its sound may be pretrained on for every fold. Of a fixed split these are
    left out of fine-tuning and test, with a note. seed: of the groups. Raises ValueError as `check`, for a labelled
    utterance without the speaker or corpus that the folds need, for more groups than speakers, and for a fixed split
    that no labelled utterance has.
    """
    check(folds)
    if folds == "session":
        return list(utterances)
    if folds == "split":
        return _in_parts(utterances)
    if folds == "corpus":
        check_corpora(utterances, "--folds corpus holds each corpus out")
        return [dataclasses.replace(utterance, session=utterance.corpus) for utterance in utterances]
    unknown = next((utterance for utterance in utterances if utterance.label and not utterance.speaker), None)
    if unknown is not None:
        raise ValueError(f"utterance {unknown.id} has no speaker, and --folds {folds} keeps speakers apart; fill in "
                         "the manifest's column speaker")
    if folds == "speakers":
        return [dataclasses.replace(utterance, session=utterance.speaker) for utterance in utterances]
    group_of = speaker_groups(utterances, int(folds), seed)
    return [dataclasses.replace(utterance, session=group_of.get(utterance.speaker, "")) for utterance in utterances]


def check_corpora(utterances: Sequence[Utterance], wanted_by: str) -> None:
    """Raise ValueError for a labelled utterance of no known corpus. wanted_by: why it is wanted, for the message."""
    unknown = next((utterance for utterance in utterances if utterance.label and not utterance.corpus), None)
    if unknown is not None:
        raise ValueError(f"utterance {unknown.id} is of no corpus, and {wanted_by}; fill in the manifest's column "
                         "corpus, as bin/prepare.py --together does")


def _in_parts(utterances: Sequence[Utterance]) -> list[Utterance]:
    """`in_folds` of a fixed split."""
    in_none = sum(bool(utterance.label) and not utterance.split for utterance in utterances)
    if in_none and in_none == sum(bool(utterance.label) for utterance in utterances):
        raise ValueError("--folds split needs the manifest's column split (train, valid or test), and no labelled "
                         "utterance has it; fill it in, or choose other --folds")
    if in_none:
        log.say_once(f"{in_none} labelled utterances are in no part of the split: left out of fine-tuning and test")
    return [dataclasses.replace(utterance, session=utterance.split, label=utterance.label if utterance.split else "")
            for utterance in utterances]


def is_fixed_split(utterances: Sequence[Utterance]) -> bool:
    """Whether the sessions of these utterances are the parts of a fixed split, as `in_folds` leaves them."""
    return all(utterance.split and utterance.session == utterance.split for utterance in utterances)


def in_two(utterances: Sequence[Utterance]) -> tuple[Utterance, Utterance] | None:
    """Two labelled utterances of one (known) speaker in two folds, the first such pair; None where there is none."""
    first: dict[str, Utterance] = {}
    for utterance in utterances:
        if utterance.label and utterance.speaker:
            other = first.setdefault(utterance.speaker, utterance)
            if other.session != utterance.session:
                return other, utterance
    return None


def speaker_groups(utterances: Sequence[Utterance], num_groups: int, seed: int = 0) -> dict[str, str]:
    """The group, "1" to `num_groups`, of each speaker of labelled utterances: no speaker in two, none empty.

    Groups are as equal as could be found in their number of utterances and in that of each class, of several corpora
    in that of each class of each: deviations taken relative to the mean, so that a rare class counts as much as a
    frequent one, and a small corpus as much as a large one. They depend on the seed and on how many utterances of which
    class each speaker has, not on their order. Group 1 has the first speaker by name, and so on. Raises ValueError
    where there are fewer speakers than groups.
    """
    labelled = [utterance for utterance in utterances if utterance.label]
    speakers = natural_order({utterance.speaker for utterance in labelled})
    if len(speakers) < num_groups:
        raise ValueError(f"--folds {num_groups} makes {num_groups} groups of speakers, and there are {len(speakers)} "
                         "speakers with labelled utterances; choose fewer groups")
    kinds = sorted({(utterance.corpus, utterance.label) for utterance in labelled})
    row = {name: i for i, name in enumerate(speakers)}
    counts = np.zeros((len(speakers), 1 + len(kinds)))                          # utterances, then those of each kind
    for utterance in labelled:
        counts[row[utterance.speaker], [0, 1 + kinds.index((utterance.corpus, utterance.label))]] += 1

    numbers = balanced(counts, num_groups, seed)                                # (S,)
    names = {number: str(name) for name, number in enumerate(dict.fromkeys(numbers.tolist()), 1)}
    return {speaker: names[number] for speaker, number in zip(speakers, numbers.tolist())}


def balanced(counts: np.ndarray, num_groups: int, seed: int = 0) -> np.ndarray:
    """A group for each row of counts (S, C), (S,) int64, such that every column is spread as evenly as could be found.

    What is made small is the sum of squares of (a group's share of a column, relative to the mean share): the largest
    rows first, each to the group where it adds least, then moves and exchanges of two while they help; the best of
    several random orders. With at least as many rows (that are not zero) as groups, none is empty.
    """
    shares = counts * num_groups / np.maximum(counts.sum(0), 1)                 # a column sums to the number of groups
    draw = np.random.default_rng(derive_seed(seed, "folds"))
    attempts: list[tuple[float, np.ndarray]] = []
    for _ in range(STARTS if len(counts) <= MAX_TRIED else 1):
        order = np.argsort(-counts[:, 0] * draw.uniform(0.8, 1.2, len(counts)), kind="stable")
        groups, sums = _filled(shares, order, num_groups)
        _improve(shares, groups, sums)
        attempts.append((round(float(np.square(sums).sum()), 9), groups))
    return min(attempts, key=lambda one: one[0])[1]                                # the first of equals


def _filled(shares: np.ndarray, order: np.ndarray, num_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows put one by one into the group where the sum of squares grows least: groups (S,), their sums (G, C)."""
    groups, sums = np.zeros(len(shares), np.int64), np.zeros((num_groups, shares.shape[1]))
    for s in order:
        groups[s] = np.argmin(np.round(sums @ shares[s], 9))                    # rounded: ties fall alike everywhere
        sums[groups[s]] += shares[s]
    return groups, sums


def _improve(shares: np.ndarray, groups: np.ndarray, sums: np.ndarray) -> None:
    """Move or exchange rows, each time the best step for one of them, until none lowers the sum of squares. In place.
    """
    is_better = True
    while is_better:
        is_better = False
        for s in range(len(shares)):
            own, row = groups[s], shares[s]
            moved = 2 * ((sums - sums[own]) @ row + row @ row)                  # (G,): what each move would add
            moved[own] = 0
            instead = shares - row                                              # (S, C)
            exchanged = 2 * (instead * (sums[own] - sums[groups] + instead)).sum(1)         # (S,)
            exchanged[groups == own] = 0
            steps = np.round(np.concatenate([moved, exchanged]), 9)
            best = int(np.argmin(steps))
            if steps[best] >= -LEAST_GAIN:
                continue
            is_better = True
            other = best if best < len(sums) else groups[best - len(sums)]
            if best >= len(sums):
                groups[best - len(sums)] = own
                sums[own] += shares[best - len(sums)]
                sums[other] -= shares[best - len(sums)]
            groups[s] = other
            sums[own] -= row
            sums[other] += row
