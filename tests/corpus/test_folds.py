"""Folds by session, speaker, groups of speakers and fixed split: who is held out together, of random corpora too."""
import itertools
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from framealign.corpus import folds, protocols
from framealign.corpus.folds import in_folds, is_fixed_split, speaker_groups
from framealign.corpus.utterance import CLASSES, PARTS, Utterance


def random_corpus(seed: int, num_speakers: int, most: int = 30) -> list[Utterance]:
    """Speakers with 4 to `most` utterances, each class once at least; some unlabelled, one speaker wholly so."""
    draw, utterances = random.Random(seed), []
    for number in range(num_speakers):
        labels = [*CLASSES, *draw.choices(CLASSES, weights=(8, 4, 2, 1), k=draw.randint(0, most - 4)), ""]
        utterances += [(f"s{number}", label) for label in labels]
    utterances += [("silent", "")] * 3
    draw.shuffle(utterances)
    return [Utterance(f"u{i}", Path(f"/{i}.wav"), 400, "original", speaker, label=label)
            for i, (speaker, label) in enumerate(utterances)]


def labelled(utterances: list[Utterance]) -> list[Utterance]:
    return [utterance for utterance in utterances if utterance.label]


def names(utterances: list[Utterance]) -> set[str]:
    return {utterance.session for utterance in labelled(utterances)}


def random_corpora(seed: int, num_speakers: int) -> list[Utterance]:
    """Speakers of `random_corpus` in four corpora, no speaker in two."""
    return [replace(u, corpus=f"c{int(u.speaker[1:]) % 4}" if u.label else "c9")
            for u in random_corpus(seed, num_speakers)]


@pytest.mark.parametrize("selection", ["clean", "last"])
@pytest.mark.parametrize("kind", ["speakers", "corpus", "3", "5", "9"])
@pytest.mark.parametrize("seed", range(3))
def test_every_utterance_is_tested_once_and_no_speaker_is_in_two_parts(seed, kind, selection):
    corpus = random_corpora(seed, num_speakers=9 + 4 * seed)
    folded = in_folds(corpus, kind, seed)
    assert [replace(u, session="original") for u in folded] == corpus           # the rest, and the order, stay
    tested = Counter()
    for name in names(folded):
        part, = protocols.split(folded, name, selection)
        speakers = [{u.speaker for u in one} for _, one in part.parts()]
        assert not any(a & b for a, b in itertools.combinations(speakers, 2))
        assert sum(map(len, (part.train, part.valid, part.test))) == len(labelled(corpus))
        tested.update(u.id for u in part.test)
    assert tested == Counter(u.id for u in labelled(corpus))
    assert len(names(folded)) == {"speakers": 9 + 4 * seed, "corpus": 4}.get(kind) or int(kind)


@pytest.mark.parametrize("num_groups", [2, 3, 5, 10])
def test_groups_do_not_depend_on_the_order_of_the_table(num_groups):
    corpus = random_corpus(0, 14)
    groups = speaker_groups(corpus, num_groups, seed=3)
    assert speaker_groups(corpus, num_groups, seed=3) == groups
    for shuffle in range(5):
        other = random.Random(shuffle).sample(corpus, len(corpus))
        assert speaker_groups(other, num_groups, seed=3) == groups
    assert groups["s0"] == "1" and {*groups.values()} == {str(1 + i) for i in range(num_groups)}
    assert "silent" not in groups                   # no labelled utterance: of no fold, and pretrained on for each


def test_another_seed_draws_other_groups():
    corpus = random_corpus(1, 20)
    assert len({tuple(speaker_groups(corpus, 5, seed).items()) for seed in range(8)}) > 1


def unevenness(counts: np.ndarray, groups: tuple[int, ...] | np.ndarray, num_groups: int) -> float:
    """Mean over columns and groups of (share of the column / mean share - 1) ** 2, plainly."""
    squares = []
    for column in counts.T:
        for group in range(num_groups):
            inside = sum(count for count, own in zip(column, groups) if own == group)
            squares.append((inside / (column.sum() / num_groups) - 1) ** 2)
    return float(np.mean(squares))


def random_counts(draw: np.random.Generator, num_speakers: int, num_classes: int) -> np.ndarray:
    """(S, 1 + C): utterances of each speaker, and of each class; every class and every speaker has some."""
    classes = draw.integers(0, 40, (num_speakers, num_classes)) + np.eye(num_speakers, num_classes, dtype=int)
    classes[:, 0] += 1
    return np.concatenate([classes.sum(1, keepdims=True), classes], 1)


def test_groups_are_nearly_the_best_there_are():
    """Of up to 7 speakers all groupings are tried: no more uneven than the best by 0.01 (1 would be an empty group)."""
    draw = np.random.default_rng(0)
    for seed in range(60):
        num_speakers = int(draw.integers(3, 8))
        num_groups = int(draw.integers(2, min(num_speakers, 4) + 1))
        counts = random_counts(draw, num_speakers, int(draw.integers(1, 5)))
        best = min(unevenness(counts, groups, num_groups)
                   for groups in itertools.product(range(num_groups), repeat=num_speakers)
                   if len({*groups}) == num_groups)
        assert unevenness(counts, folds.balanced(counts, num_groups, seed), num_groups) <= best + 0.01


def test_groups_differ_by_less_than_the_largest_speaker_and_are_more_even_than_dealt_out():
    """A simple oracle deals speakers out like cards, the largest first: half the time over 20 times as uneven."""
    draw, ratios = np.random.default_rng(1), []
    for seed in range(60):
        num_speakers = int(draw.integers(4, 60))
        num_groups = int(draw.integers(2, min(num_speakers, 10) + 1))
        counts = random_counts(draw, num_speakers, int(draw.integers(1, 9)))
        groups = folds.balanced(counts, num_groups, seed)
        sizes = np.bincount(groups, counts[:, 0], num_groups)
        assert sizes.min() > 0 and sizes.max() - sizes.min() <= counts[:, 0].max()
        dealt = np.empty(num_speakers, int)
        dealt[np.argsort(-counts[:, 0])] = np.arange(num_speakers) % num_groups
        ratios.append(unevenness(counts, groups, num_groups) / max(unevenness(counts, dealt, num_groups), 1e-9))
    assert max(ratios) <= 1 and np.median(ratios) < 0.05


def test_a_rare_class_is_spread():
    """Two speakers of 20 have the only utterances of a class: with two groups, one in each."""
    corpus = [Utterance(f"{s}-{i}", Path(f"/{s}-{i}.wav"), 400, speaker=f"s{s}", label=label)
              for s in range(20) for i, label in enumerate(["neutral"] * 20 + ["fear"] * 2 * (s in (4, 11)))]
    for seed in range(5):
        groups = speaker_groups(corpus, 2, seed)
        assert groups["s4"] != groups["s11"]


def test_a_small_corpus_is_spread_beside_a_large_one():
    """Of 3 speakers of 10 utterances and 30 of 100, each of three groups has one and ten, whichever came first."""
    large = [Utterance(f"a{s}-{i}", Path(f"/a{s}-{i}.wav"), 400, speaker=f"a{s}", label=CLASSES[i % 4], corpus="large")
             for s in range(30) for i in range(100)]
    small = [Utterance(f"b{s}-{i}", Path(f"/b{s}-{i}.wav"), 400, speaker=f"b{s}", label=CLASSES[i % 2], corpus="small")
             for s in range(3) for i in range(10)]
    for seed in range(5):
        folded = in_folds([*large, *small], "3", seed)
        sizes = Counter((utterance.session, utterance.corpus) for utterance in folded)
        assert sizes == {(name, corpus): size for name in "123" for corpus, size in (("large", 1000), ("small", 10))}


@pytest.mark.parametrize("kind, described, one", [
    ("session", "by session", "session"), ("speakers", "by speaker", "speaker"), ("split", "fixed split", "part"),
    ("corpus", "by corpus", "corpus"), ("12", "12 groups of speakers (seed 3)", "group")])
def test_folds_in_words(kind, described, one):
    assert folds.described(kind, 3) == described and folds.kind_of(described) == one


@pytest.mark.parametrize("kind", ["", "sessions", "0", "1", "-3", "2.5", "٣", "12345"])
def test_folds_that_are_none(kind):
    with pytest.raises(ValueError, match="--folds must be session, speakers, corpus, split or a number of .* 2 to 9"):
        in_folds(random_corpus(0, 4), kind)


def test_what_groups_of_speakers_need():
    corpus = random_corpus(0, 4)
    with pytest.raises(ValueError, match="--folds 5 makes 5 groups of speakers, and there are 4 speakers"):
        in_folds(corpus, "5")
    nobody = next(i for i, utterance in enumerate(corpus) if utterance.label)
    corpus[nobody] = replace(corpus[nobody], speaker="")
    for kind in ("speakers", "3"):
        with pytest.raises(ValueError, match=f"utterance u{nobody} has no speaker.*fill in the manifest's column spe"):
            in_folds(corpus, kind)


def test_each_corpus_is_held_out_and_the_next_one_validates():
    corpus = random_corpora(0, 12)
    folded = in_folds(corpus, "corpus")
    for held_out, valid in (("c0", "c1"), ("c1", "c2"), ("c2", "c3"), ("c3", "c0")):
        part, = protocols.split(folded, held_out, "clean")
        assert [{u.corpus for u in one} for _, one in part.parts()] == [
            {"c0", "c1", "c2", "c3"} - {held_out, valid}, {valid}, {held_out}]
        pretrained = protocols.pretraining_utterances(folded, held_out, "inductive")
        assert {u.corpus for u in pretrained} == {"c0", "c1", "c2", "c3", "c9"} - {held_out}
    unknown = [i for i, u in enumerate(corpus) if u.label][3]
    for lacking in ([replace(u, corpus="") for u in corpus],
                    [replace(u, corpus="") if i == unknown else u for i, u in enumerate(corpus)]):
        first = next(u.id for u in lacking if u.label and not u.corpus)
        with pytest.raises(ValueError, match=f"utterance {first} is of no corpus, and --folds corpus.*column corpus"):
            in_folds(lacking, "corpus")
    assert in_folds([replace(u, corpus=u.corpus if u.label else "") for u in corpus], "corpus")


# A fixed split

def fixed(seed: int = 0, parts: tuple[str, ...] = PARTS) -> list[Utterance]:
    """A random corpus of nine speakers, three of each part."""
    corpus = random_corpus(seed, 9)
    part_of = {f"s{number}": parts[number % len(parts)] for number in range(9)}
    return [replace(utterance, split=part_of.get(utterance.speaker, "")) for utterance in corpus]


def test_a_fixed_split_trains_validates_and_tests_on_its_parts():
    corpus = fixed()
    folded = in_folds(corpus, "split")
    assert is_fixed_split(labelled(folded)) and not is_fixed_split(labelled(corpus))
    part, = protocols.split(folded, "test", "clean")
    assert [[u.id for u in one] for _, one in part.parts()] == [
        [u.id for u in corpus if u.split == name and u.label] for name in PARTS]
    for selection in ("last", "best-test"):
        part, = protocols.split(folded, "test", selection)
        assert [{u.split for u in one} for _, one in part.parts()] == [{"train"}, set(), {"test"}]
    ways = protocols.split(folded, "test", "speaker")
    assert len(ways) == 3 and all({u.split for u in way.train} == {"train"} for way in ways)
    assert {u.split for u in protocols.pretraining_utterances(folded, "test", "inductive")} == {"train", "valid", ""}


def test_what_is_in_no_part_of_the_split_is_left_out_and_counted(capsys):
    corpus = fixed()
    lost = [u.id for u in labelled(corpus) if u.split == "valid"][:2]
    folded = in_folds([replace(u, split="") if u.id in lost else u for u in corpus], "split")
    assert "2 labelled utterances are in no part of the split: left out" in capsys.readouterr().err
    part, = protocols.split(folded, "test", "clean")
    assert not {*lost} & {u.id for _, one in part.parts() for u in one}
    with pytest.raises(ValueError, match="--folds split needs the manifest's column split.*no labelled utterance has"):
        in_folds(random_corpus(0, 4), "split")


def test_parts_that_a_fixed_split_lacks():
    without_valid = in_folds(fixed(parts=("train", "test")), "split")
    with pytest.raises(ValueError, match="no labelled utterance in the part valid, which selection clean needs.*last"):
        protocols.split(without_valid, "test", "clean")
    protocols.split(without_valid, "test", "last")
    for parts, missing in ((("valid", "test"), "train"), (("train", "valid"), "test")):
        with pytest.raises(ValueError, match=f"no labelled utterance in the part {missing}, which selection clean"):
            protocols.split(in_folds(fixed(parts=parts), "split"), "test", "clean")
    with pytest.raises(ValueError, match="--validate-on speaker takes a speaker out.*its part valid"):
        protocols.split(in_folds(fixed(), "split"), "test", "clean", "speaker")


def test_speakers_on_two_sides_are_named_and_may_be_allowed():
    corpus = fixed()
    assert folds.in_two(in_folds(corpus, "split")) is None
    moved = next(i for i, u in enumerate(corpus) if u.label and u.speaker == "s0" and i > 20)
    corpus[moved] = replace(corpus[moved], split="test")
    folded = in_folds(corpus, "split")
    first, second = folds.in_two(folded)
    assert first.speaker == second.speaker == "s0" and {first.split, second.split} == {"train", "test"}
    with pytest.raises(ValueError, match="speaker s0 is in the training part .* test part .*--allow-shared-speakers"):
        protocols.split(folded, "test", "clean")
    part, = protocols.split(folded, "test", "clean", allow_shared_speakers=True)
    assert corpus[moved].id in {u.id for u in part.test}


def test_unknown_speakers_share_nothing():
    corpus = [replace(utterance, speaker="") for utterance in fixed()]
    folded = in_folds(corpus, "split")
    assert folds.in_two(folded) is None and protocols.split(folded, "test", "clean")
