"""Micro-batches of pretraining, their labels on the same samples, balanced draws, reading ahead."""
import itertools
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import marked_sound
import numpy as np
import pytest
import torch
from marked_sound import crops_of, first_and_last_sample, marks
from torch import Tensor

from framealign.runtime import distributed
from framealign.sound.frames import frames_in, num_frames
from framealign.corpus.cropping import Crop, Waveforms, frame_counts
from framealign.corpus.utterance import Utterance
from framealign.units.frame_store import Extraction, FrameStore
from framealign.units.units import Units
from framealign.training.batches import ahead, balanced_draw, chances, corpus_numbers, pretraining_micro_batches
from framealign.training.pretrain import crop_units
from framealign.training.training_config import PretrainConfig

SETTINGS = PretrainConfig(min_seconds=0.4, max_seconds=1.5, micro_batch_seconds=4.0, batch_seconds=8.0)


@pytest.fixture(scope="module")
def marked(tmp_path_factory) -> list[Utterance]:
    return marked_sound.write(tmp_path_factory.mktemp("marked"))


def as_units(utterances: list[Utterance]) -> Units:
    """The unit of a frame is the mark of the samples it starts on."""
    counts = frame_counts(utterances)
    units = torch.cat([1000 * u + torch.arange(T) for u, T in enumerate(counts.tolist())])
    return Units(units.int(), torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]), 10_000, {})


@pytest.mark.parametrize("source", ["sound", "store"])
def test_frame_t_of_a_crop_has_the_label_of_its_own_samples(source, marked, tmp_path):
    """End to end: sound files, any crop, either source, its units. Frame t starts on the sample that its unit names."""
    counts, units = frame_counts(marked), as_units(marked)
    whole = [Crop(u, 0, T) for u, T in enumerate(counts.tolist())]
    stream = itertools.islice(pretraining_micro_batches(counts, SETTINGS), 20)
    for crops in ([x] for x in crops_of(counts) + whole):
        check_labels(source, crops, units, marked, tmp_path)
    for crops in stream:                            # as pretraining crops and batches them
        check_labels(source, crops, units, marked, tmp_path)


def check_labels(source: str, crops: list[Crop], units: Units, marked: list[Utterance], folder: Path) -> None:
    labels, = crop_units([units], crops)            # (B, T)
    if source == "store":
        extraction = Extraction("test", "k", 2, first_and_last_sample, do_normalize=False, dtype="float32")
        frames, lengths = FrameStore.fill(folder, marked, extraction).batch(crops)
        assert torch.equal(frames[..., 0].long(), labels) and torch.equal(frames[..., 1].long(), labels + 1)
        assert lengths.tolist() == [crop.frames for crop in crops]
        return
    waveform, num_samples = Waveforms(marked, do_normalize=False).batch(crops)
    assert [num_frames(n) for n in num_samples.tolist()] == [crop.frames for crop in crops]
    for row, n, own in zip(marks(waveform), num_samples.tolist(), labels):
        hops = row[:320 * len(own)].view(-1, 320)   # (T, 320): the samples that are frame t's alone
        assert (hops == own[:, None]).all() and not row[n:].any()


def corpus_counts(number: int = 300, seed: int = 0) -> Tensor:
    """Frames of so many utterances, some too short and some longer than a crop may be; (U,)."""
    return torch.from_numpy(np.random.default_rng(seed).integers(1, 150, number))


def epochs(counts: Tensor, config: PretrainConfig, number: int) -> list[list[list[Crop]]]:
    """The first epochs of the stream, cut where all usable utterances have come."""
    usable, stream = int((counts >= frames_in(config.min_seconds)).sum()), pretraining_micro_batches(counts, config)
    found = []
    for _ in range(number):
        found.append([])
        while sum(map(len, found[-1])) < usable:
            found[-1].append(next(stream))
    return found


@pytest.mark.parametrize("config", [SETTINGS, replace(SETTINGS, max_seconds=60.0), replace(SETTINGS, min_seconds=0.025),
                                    replace(SETTINGS, micro_batch_seconds=0.5)],
                         ids=["as it is", "no crops", "all", "one each"])
def test_every_epoch_of_pretraining_is_a_permutation(config):
    """Every usable utterance once; crops inside it, of one length in a group, within budget and limit."""
    counts = corpus_counts()
    usable = set(torch.nonzero(counts >= frames_in(config.min_seconds)).flatten().tolist())
    longest, budget = frames_in(config.max_seconds), frames_in(config.micro_batch_seconds)
    orders = []
    for epoch in epochs(counts, config, 3):
        crops = [crop for group in epoch for crop in group]
        assert Counter(crop.utterance for crop in crops) == Counter(usable)
        for group in epoch:
            size, = {crop.frames for crop in group}
            assert size == min(longest, *(int(counts[crop.utterance]) for crop in group))
            assert len(group) == 1 or len(group) * size <= budget
            assert all(0 <= crop.start <= counts[crop.utterance] - size for crop in group)
        heard = sum(crop.frames for crop in crops) / sum(min(longest, int(counts[u])) for u in usable)
        assert heard > 0.8 or config.min_seconds < 0.4      # like lengths are together: little is cropped away
        orders.append([crop.utterance for crop in crops])
    assert orders[0] != orders[1] != orders[2]
    sizes = [group[0].frames for group in epochs(counts, config, 1)[0]]
    assert sizes != sorted(sizes)                   # the groups are shuffled


def test_crops_start_anywhere():
    """One utterance of 100 frames beside one of 50: each of the 51 starts comes about equally often."""
    config = replace(SETTINGS, max_seconds=1.015)   # 50 frames
    assert frames_in(config.max_seconds) == 50
    stream = pretraining_micro_batches(torch.tensor([100]), config)
    starts = Counter(next(stream)[0].start for _ in range(5100))
    assert set(starts) == set(range(51)) and all(abs(n - 100) < 50 for n in starts.values())


def test_the_stream_is_a_function_of_counts_and_seed(monkeypatch):
    """Not of the ranks, the global generator or the time; a slice of it is what a resumed run goes on with."""
    counts = corpus_counts()
    first = list(itertools.islice(pretraining_micro_batches(counts, SETTINGS), 100))
    torch.manual_seed(99)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    assert list(itertools.islice(pretraining_micro_batches(counts, SETTINGS), 100)) == first
    assert list(itertools.islice(pretraining_micro_batches(counts, SETTINGS), 60, 100)) == first[60:]
    other = replace(SETTINGS, seed=1)
    assert list(itertools.islice(pretraining_micro_batches(counts, other), 100)) != first
    assert torch.equal(torch.manual_seed(99).get_state(), torch.get_rng_state())


def test_a_corpus_of_short_utterances_is_refused():
    with pytest.raises(ValueError, match="no utterance is as long as --min-seconds 0.4; lower it"):
        next(pretraining_micro_batches(torch.tensor([1, 5, 18]), SETTINGS))


def test_balanced_draw():
    """Of 700, 200, 80 and 20 utterances: a quarter of the draws from each class, within it all alike, repeats too."""
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor([700, 200, 80, 20]))
    labels = labels[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    number = 80_000
    drawn = torch.tensor(balanced_draw(labels, number, torch.Generator().manual_seed(1)))
    assert drawn.shape == (number,)
    classes = torch.bincount(labels[drawn], minlength=4)
    assert ((classes - number / 4).abs() < 5 * (number * 3 / 16) ** 0.5).all()
    times = torch.bincount(drawn, minlength=1000)
    for label, size in enumerate((700, 200, 80, 20)):
        mean = number / 4 / size
        assert ((times[labels == label] - mean).abs() < 5.5 * mean ** 0.5).all()
    again = balanced_draw(labels, 50, torch.Generator().manual_seed(2))
    assert again == balanced_draw(labels, 50, torch.Generator().manual_seed(2)) != \
        balanced_draw(labels, 50, torch.Generator().manual_seed(3))
    gap = balanced_draw(torch.tensor([0, 2, 2]), 1000, torch.Generator().manual_seed(0))     # no utterance of class 1
    assert set(gap) == {0, 1, 2} and 400 < gap.count(0) < 600


@pytest.mark.parametrize("seed", range(20))
def test_chances_are_equal_over_classes_then_corpora_then_utterances(seed):
    """Against a plain sum for each utterance; some corpora lack classes, and some numbers have no corpus at all."""
    draw = np.random.default_rng(seed)
    labels, corpora = draw.integers(0, 4, 60), draw.choice([0, 2, 3, 7], 60, p=[0.7, 0.2, 0.05, 0.05])
    likely = chances(torch.from_numpy(labels), torch.from_numpy(corpora)).numpy()
    for u in range(60):
        there = {k for c, k in zip(labels, corpora) if c == labels[u]}
        same = sum(1 for c, k in zip(labels, corpora) if (c, k) == (labels[u], corpora[u]))
        assert likely[u] == pytest.approx(1 / len(there) / same, abs=1e-15)
    alone = chances(torch.from_numpy(labels)).numpy()
    assert alone.tolist() == [1 / int((labels == label).sum()) for label in labels]
    one = chances(torch.from_numpy(labels), torch.full((60,), 5)).numpy()       # one corpus: as without
    assert one.tolist() == alone.tolist()


def test_balanced_draw_over_corpora():
    """Of each class every corpus that has it as often, in 60,000 draws: 900, 90 and 10 utterances alike."""
    sizes = {(0, 0): 900, (0, 1): 90, (0, 2): 10, (1, 0): 40, (1, 2): 5, (2, 1): 7}
    labels, corpora = (torch.tensor([cell[axis] for cell, size in sizes.items() for _ in range(size)])
                       for axis in (0, 1))
    number = 60_000
    drawn = balanced_draw(labels, number, torch.Generator().manual_seed(0), corpora)
    counts = Counter(zip(labels[drawn].tolist(), corpora[drawn].tolist()))
    for (label, corpus), count in counts.items():
        mean = number / 3 / {0: 3, 1: 2, 2: 1}[label]
        assert abs(count - mean) < 5 * mean ** 0.5, (label, corpus)
    assert set(counts) == set(sizes)
    plain = balanced_draw(labels, 50, torch.Generator().manual_seed(2))
    assert plain == balanced_draw(labels, 50, torch.Generator().manual_seed(2), torch.zeros_like(labels)) != \
        balanced_draw(labels, 50, torch.Generator().manual_seed(2), corpora)


def test_corpora_are_numbered_by_name():
    names = ["b", "a", "", "b"]
    utterances = [Utterance(f"u{i}", Path(f"/{i}.wav"), 400, corpus=name) for i, name in enumerate(names)]
    assert corpus_numbers(utterances).tolist() == [2, 1, 0, 2]
    assert corpus_numbers(utterances[2:3]).tolist() == [0] and corpus_numbers([]).dtype == torch.int64


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_reading_ahead_keeps_order_and_depth(depth):
    """All items, in order, computed in one other thread, and never more than `depth` beyond the one in hand."""
    made, threads = [], set()

    def items():
        for i in range(20):
            made.append(i)
            threads.add(threading.get_ident())
            yield i

    for i, item in enumerate(ahead(items(), depth)):
        assert item == i and len(made) <= i + 1 + depth
    assert made == list(range(20)) and len(threads) == 1 and threading.get_ident() not in threads
    assert list(ahead(iter([]), depth)) == []


def test_reading_ahead_passes_an_error_on_in_its_place():
    def items():
        yield from range(3)
        raise ValueError("utterance x: torn")

    found, before = [], threading.active_count()
    with pytest.raises(ValueError, match="utterance x: torn"):
        for item in ahead(items()):
            found.append(item)
    assert found == [0, 1, 2] and threading.active_count() == before


def test_reading_ahead_of_an_endless_stream_can_stop():
    before, stream = threading.active_count(), ahead(itertools.count())
    assert [next(stream) for _ in range(5)] == list(range(5)) and threading.active_count() == before + 1
    stream.close()
    assert threading.active_count() == before
