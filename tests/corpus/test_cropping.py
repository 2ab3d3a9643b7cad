"""Crops and their labels on the same samples, kept frames, length-bucketed batches, balanced draws, reading ahead."""
import itertools
import json
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from framealign.runtime import distributed
from framealign.sound import audio
from framealign.sound.frames import frames_in, num_frames
from framealign.corpus.cropping import Crop, Waveforms, frame_counts, groups_by_length, load_checked
from framealign.corpus.utterance import Utterance
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.model import Hubert
from framealign.units import frame_store
from framealign.units.frame_store import Extraction, FrameStore
from framealign.units.units import Units
from framealign.training.batches import ahead, balanced_draw, pretraining_micro_batches
from framealign.training.pretrain import crop_units
from framealign.training.training_config import PretrainConfig

LENGTHS = (16_000, 400, 719, 720, 48_123, 9_999, 30_000, 22_222, 3_999, 25_000)
SETTINGS = PretrainConfig(min_seconds=0.4, max_seconds=1.5, micro_batch_seconds=4.0, batch_seconds=8.0)


@pytest.fixture(scope="module")
def marked(tmp_path_factory) -> list[Utterance]:
    """Sound whose every sample says in which hop of 320 samples it lies, and of which utterance: 1000 u + n // 320."""
    folder = tmp_path_factory.mktemp("marked")
    for u, length in enumerate(LENGTHS):
        soundfile.write(folder / f"{u}.wav", (1000 * u + np.arange(length) // 320).astype(np.int16), 16_000, "PCM_16")
    return [Utterance(f"utterance{u}", folder / f"{u}.wav", length) for u, length in enumerate(LENGTHS)]


def marks(samples: Tensor) -> Tensor:
    """What the samples of `marked` say."""
    return (samples * 2 ** 15).round().long()


def first_and_last_sample(waveforms: list[Tensor]) -> list[Tensor]:
    """Frames (T, 2) of 400 samples every 320: the first hop's last sample, and the sample after it, as marks."""
    return [marks(x.unfold(0, 400, 320)[:, [319, 320]]).float() for x in waveforms]


def as_units(utterances: list[Utterance]) -> Units:
    """The unit of a frame is the mark of the samples it starts on."""
    counts = frame_counts(utterances)
    units = torch.cat([1000 * u + torch.arange(T) for u, T in enumerate(counts.tolist())])
    return Units(units.int(), torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]), 10_000, {})


def fill(directory: Path, utterances: list[Utterance], compute=first_and_last_sample, **options: object) -> FrameStore:
    settings = {"key": "k", "do_normalize": False, "dtype": "float32", **options}
    return FrameStore.fill(directory, utterances, Extraction("test", width=2, compute=compute, **settings))


def crops_of(counts: Tensor, number: int = 200, seed: int = 0) -> list[Crop]:
    draw = np.random.default_rng(seed)
    crops = []
    for u in draw.integers(len(counts), size=number).tolist():
        frames = int(draw.integers(1, counts[u] + 1))
        crops.append(Crop(u, int(draw.integers(counts[u] - frames + 1)), frames))
    return crops


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
        frames, lengths = fill(folder, marked).batch(crops)
        assert torch.equal(frames[..., 0].long(), labels) and torch.equal(frames[..., 1].long(), labels + 1)
        assert lengths.tolist() == [crop.frames for crop in crops]
        return
    waveform, num_samples = Waveforms(marked, do_normalize=False).batch(crops)
    assert [num_frames(n) for n in num_samples.tolist()] == [crop.frames for crop in crops]
    for row, n, own in zip(marks(waveform), num_samples.tolist(), labels):
        hops = row[:320 * len(own)].view(-1, 320)   # (T, 320): the samples that are frame t's alone
        assert (hops == own[:, None]).all() and not row[n:].any()


def test_an_utterance_is_prepared_whole_then_cut(marked):
    """By its own mean and variance, not by the crop's; a whole one keeps the samples after its last frame."""
    crops = [Crop(4, 20, 30), Crop(0, 0, 49), Crop(6, 0, 5), Crop(1, 0, 1)]
    waveform, num_samples = Waveforms(marked, do_normalize=True).batch(crops)
    assert num_samples.tolist() == [29 * 320 + 400, 16_000, 4 * 320 + 400, 400] and waveform.shape == (4, 16_000)
    for row, n, crop in zip(waveform, num_samples.tolist(), crops):
        sound = soundfile.read(marked[crop.utterance].path)[0]
        expected = ((sound - sound.mean()) / np.sqrt(sound.var() + 1e-7))[320 * crop.start:320 * crop.start + n]
        np.testing.assert_allclose(row[:n].numpy(), expected, atol=1e-5)
        assert not row[n:].any()


@pytest.mark.parametrize("subtype, is_held", [("PCM_16", True), ("PCM_24", False), ("FLOAT", False)])
def test_sound_that_was_read_is_held_where_int16_is_exact(tmp_path, subtype, is_held):
    """Held, it is the same to the bit without its file; else its file is read again."""
    noise = []
    for u, length in enumerate(LENGTHS):
        soundfile.write(tmp_path / f"{u}.wav", np.random.default_rng(u).uniform(-1, 1, length), 16_000, subtype)
        noise.append(Utterance(f"noise{u}", tmp_path / f"{u}.wav", length))
    crops, source = crops_of(frame_counts(noise), 12), Waveforms(noise, do_normalize=True)
    first = source.batch(crops)
    assert all(torch.equal(a, b) for a, b in zip(first, source.batch(crops)))
    for path in tmp_path.glob("*.wav"):
        path.unlink()
    if is_held:
        assert all(torch.equal(a, b) for a, b in zip(first, source.batch(crops)))
    else:
        with pytest.raises(ValueError, match="no such file"):
            source.batch(crops)


def test_no_more_is_held_than_there_is_room_for(marked):
    source = Waveforms(marked, False, cache_bytes=2 * 16_000 + 2 * 400)
    for _ in range(2):
        for u in range(len(marked)):
            waveform, _ = source.batch([Crop(u, 0, num_frames(LENGTHS[u]))])
            assert torch.equal(waveform[0], load_checked(marked[u], False))
    assert sum(x.nbytes for x in source.cache.values()) == 2 * 16_000 + 2 * 400 and set(source.cache) == {0, 1}


def test_both_sources_agree_through_a_local_encoder(tmp_path):
    """Conv features of a crop equal the same frames of the whole utterance, where no norm looks along time."""
    torch.manual_seed(0)
    hubert = Hubert(HubertConfig(conv_dim=(8,) * 7, feat_extract_norm="layer", hidden_size=8, num_hidden_layers=1,
                                 num_attention_heads=1, intermediate_size=8, num_conv_pos_embeddings=4,
                                 num_conv_pos_embedding_groups=2)).eval()
    noise = []
    for u, length in enumerate(LENGTHS):
        soundfile.write(tmp_path / f"{u}.wav", 0.1 * np.random.default_rng(u).standard_normal(length), 16_000)
        noise.append(Utterance(f"noise{u}", tmp_path / f"{u}.wav", length))

    def compute(waveforms: list[Tensor]) -> list[Tensor]:
        with torch.inference_mode():
            return [hubert.conv_features(x[None])[0] for x in waveforms]

    extraction = Extraction("test", "k", 8, compute, do_normalize=False, dtype="float32")
    store = FrameStore.fill(tmp_path / "store", noise, extraction)
    for crop in crops_of(frame_counts(noise), 40):
        found, = compute([Waveforms(noise, do_normalize=False).batch([crop])[0][0]])
        expected = store.batch([crop])[0][0]
        assert found.shape == expected.shape and (found - expected).abs().max() < 1e-5
    assert (store.read(0)[1:] - store.read(0)[:-1]).abs().amax(1).min() > 1e-2      # neighbours are told apart


def test_a_manifest_that_is_wrong_about_a_file(marked):
    wrong = [replace(marked[0], num_samples=16_001)]
    with pytest.raises(ValueError, match=r"0\.wav: has 16000 samples at 16 kHz, the manifest says 16001 "
                                         r"\(utterance utterance0\); make the manifest again"):
        Waveforms(wrong, False).batch([Crop(0, 0, 1)])
    with pytest.raises(ValueError, match="utterance utterance1: 399 samples, at least 400"):
        frame_counts([marked[0], replace(marked[1], num_samples=399)])
    assert frame_counts(marked).tolist() == [(n - 400) // 320 + 1 for n in LENGTHS]
    assert frame_counts([]).shape == (0,)


def test_kept_frames_are_those_computed(marked, tmp_path):
    """Every utterance computed once, in groups of like lengths; read whole, in part, and in padded batches."""
    groups = []

    def compute(waveforms: list[Tensor]) -> list[Tensor]:
        groups.append([len(x) for x in waveforms])
        return first_and_last_sample(waveforms)

    store = fill(tmp_path, marked, compute, batch_seconds=3.1)
    assert sorted(sum(groups, [])) == sorted(LENGTHS) and len(groups) > 3
    assert all(len(group) == 1 or len(group) * max(group) <= 3.1 * 16_000 for group in groups)
    expected = first_and_last_sample([audio.load(x.path) for x in marked])
    for u, frames in enumerate(expected):
        assert store.read(u).dtype == torch.float32 and torch.equal(store.read(u), frames)
        assert torch.equal(store.read(u, len(frames) // 2), frames[len(frames) // 2:])
        third = len(frames) // 3
        assert torch.equal(store.read(u, third, 2 * third), frames[third:2 * third])
    batch, lengths = store.batch([Crop(1, 0, 1), Crop(4, 100, 50), Crop(0, 7, 3)])
    assert batch.shape == (3, 50, 2) and lengths.tolist() == [1, 50, 3]
    for row, n, frames in zip(batch, lengths, (expected[1], expected[4][100:150], expected[0][7:10])):
        assert torch.equal(row[:n], frames) and not row[n:].any()
    halves = fill(tmp_path / "half", marked, dtype="float16")
    assert torch.equal(halves.read(5), expected[5].half().float())
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["utterances"] == len(LENGTHS) and index["frames"] == sum(map(len, expected)) and index["width"] == 2


@pytest.mark.parametrize("dtype, bits", [("float16", 10), ("bfloat16", 7), ("float32", 23)])
def test_kept_types(dtype, bits, marked, tmp_path, capsys):
    """Rounded as the type rounds, on disk and held in memory; its size is said before it is computed."""
    exact = [torch.randn(int(n), 2) for n in frame_counts(marked)]
    place = {len(load_checked(x, False)): frames for x, frames in zip(marked, exact)}
    store = fill(tmp_path, marked, lambda waveforms: [place[len(x)] for x in waveforms], dtype=dtype)
    size = 2 * len(torch.cat(exact)) * (4 if dtype == "float32" else 2)
    assert f"x {dtype}, {size / 1e9:.3g} GB in {tmp_path}" in capsys.readouterr().out
    crops = [Crop(4, 3, 9), Crop(0, 0, 9)]
    for u, frames in enumerate(exact):
        assert torch.equal(store.read(u), frames.to(getattr(torch, dtype)).float())
        assert (store.read(u) - frames).abs().max() <= 2.0 ** -bits * frames.abs().max()
    before = store.batch(crops)[0]
    held = store.hold(torch.device("cpu"))
    assert all(isinstance(frames, Tensor) for frames in held.maps) and torch.equal(held.batch(crops)[0], before)
    again = fill(tmp_path, marked, lambda waveforms: [place[len(x)] + 1 for x in waveforms], dtype="float32")
    expected = exact[0] + (dtype != "float32")      # another type: made again
    assert torch.equal(again.read(0), expected)


def test_kept_frames_are_used_again_only_for_the_same_key(marked, tmp_path):
    computed = []

    def compute(waveforms: list[Tensor]) -> list[Tensor]:
        computed.extend(waveforms)
        return [x + len(computed) for x in first_and_last_sample(waveforms)]

    first = fill(tmp_path, marked, compute).read(0)
    assert len(computed) == len(marked)
    assert torch.equal(fill(tmp_path, marked, compute).read(0), first) and len(computed) == len(marked)
    assert not torch.equal(fill(tmp_path, marked, compute, key="other").read(0), first)
    assert len(computed) == 2 * len(marked)
    fill(tmp_path, marked[:3], compute, key="other")        # frames of another list, though the key is the same
    assert len(computed) == 2 * len(marked) + 3
    with pytest.raises(ValueError, match="holds frames of another list of utterances; delete it and run again"):
        FrameStore(tmp_path, marked)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE = {"no index": lambda folder: (folder / "index.json").unlink(),
          "half an index": lambda folder: cut(folder / "index.json"),
          "an index of something else": lambda folder: (folder / "index.json").write_text("{}"),
          "no shard": lambda folder: next(folder.glob("*.npy")).unlink(),
          "a short shard": lambda folder: cut(next(folder.glob("*.npy"))),
          "an empty shard": lambda folder: next(folder.glob("*.npy")).write_bytes(b"")}


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_unfinished_or_damaged_store_is_made_again(damage, marked, tmp_path):
    expected = fill(tmp_path, marked).read(4)
    DAMAGE[damage](tmp_path)
    assert torch.equal(fill(tmp_path, marked).read(4), expected)


def test_an_interruption_leaves_no_store(marked, tmp_path):
    """A computation that fails halfway, over an older store: the next one starts anew and does not see the old."""
    old = fill(tmp_path, marked).read(0)
    calls = itertools.count()

    def failing(waveforms: list[Tensor]) -> list[Tensor]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return first_and_last_sample(waveforms)

    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, marked, failing, key="new", batch_seconds=1)
    assert not (tmp_path / "index.json").exists()
    again = fill(tmp_path, marked, lambda waveforms: [x + 1 for x in first_and_last_sample(waveforms)])
    assert torch.equal(again.read(0), old + 1)


def test_a_wrong_number_of_frames_names_the_utterance(marked, tmp_path):
    with pytest.raises(ValueError, match=r"utterance utterance\d: the model gives \d+ frames, \d+ were expected"):
        fill(tmp_path, marked, lambda waveforms: [x[:-1] for x in first_and_last_sample(waveforms)])
    with pytest.raises(ValueError, match="the manifest says 16001"):
        fill(tmp_path, [replace(marked[0], num_samples=16_001)])
    assert not (tmp_path / "index.json").exists()


@pytest.mark.parametrize("budget", [1, 100, 1000, 10 ** 9])
def test_groups_by_length(budget):
    """A partition of the indices, sorted by length; padded size within the budget, and no group could take one more."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 300, 500).tolist()
    indices = draw.permutation(500)[:400].tolist()
    groups = groups_by_length(lengths, indices, budget)
    flat = [u for group in groups for u in group]
    assert sorted(flat) == sorted(indices) and [lengths[u] for u in flat] == sorted(lengths[u] for u in indices)
    assert all(len(group) == 1 or len(group) * max(lengths[u] for u in group) <= budget for group in groups)
    for group, following in itertools.pairwise(groups):
        assert (len(group) + 1) * lengths[following[0]] > budget
    assert groups == groups_by_length(lengths, sorted(indices), budget) and groups_by_length(lengths, [], budget) == []


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


@pytest.mark.parametrize("change", ["nothing", "key", "shard", "note"])
def test_an_interrupted_store_continues_with_the_same_bits(marked, tmp_path, monkeypatch, change):
    """Interrupted in the fifth of ten groups, four are kept; none for another key or where a part is damaged."""
    monkeypatch.setattr(frame_store, "SAVE_SECONDS", 0.0)
    whole, heard = fill(tmp_path / "whole", marked, batch_seconds=0.1), []

    def compute(waveforms: list[Tensor]) -> list[Tensor]:
        heard.extend(len(x) for x in waveforms)
        if len(heard) == 5 and not resumed:
            raise KeyboardInterrupt
        return first_and_last_sample(waveforms)
    place, resumed = tmp_path / "store", False
    with pytest.raises(KeyboardInterrupt):
        fill(place, marked, compute, batch_seconds=0.1)
    assert heard == sorted(LENGTHS)[:5] and not (place / "index.json").exists()
    if change == "shard":
        np.save(place / "frames-00000-of-00001.npy", np.zeros((3, 2), np.float32))
    if change == "note":
        (place / "done-00000-of-00001.json").write_text('{"groups": 4')
    resumed = True
    heard.clear()
    found = fill(place, marked, compute, batch_seconds=0.1, key="other" if change == "key" else "k")
    assert heard == sorted(LENGTHS)[4 if change == "nothing" else 0:]
    for u in range(len(marked)):
        assert torch.equal(found.read(u), whole.read(u))
    assert sorted(path.name for path in place.iterdir()) == ["frames-00000-of-00001.npy", "index.json"]
