"""Frames computed once and kept: the same bits whole, in part, after an interruption; made again when they must be."""
import itertools
import json
from dataclasses import replace
from pathlib import Path

import marked_sound
import numpy as np
import pytest
import soundfile
import torch
from marked_sound import LENGTHS, crops_of, first_and_last_sample
from torch import Tensor

from framealign.sound import audio
from framealign.corpus.cropping import Crop, Waveforms, frame_counts, load_checked
from framealign.corpus.utterance import Utterance
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.model import Hubert
from framealign.units import frame_store
from framealign.units.frame_store import Extraction, FrameStore


@pytest.fixture(scope="module")
def marked(tmp_path_factory) -> list[Utterance]:
    return marked_sound.write(tmp_path_factory.mktemp("marked"))


def fill(directory: Path, utterances: list[Utterance], compute=first_and_last_sample, **options: object) -> FrameStore:
    settings = {"key": "k", "do_normalize": False, "dtype": "float32", **options}
    return FrameStore.fill(directory, utterances, Extraction("test", width=2, compute=compute, **settings))


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


def test_one_row_of_each_utterance(marked, tmp_path, capsys):
    """Grouped by the length of the sound as frames are; read as the only frame; wrong numbers of rows are refused."""
    groups = []

    def sums(waveforms: list[Tensor]) -> list[Tensor]:
        groups.append([len(x) for x in waveforms])
        return [frames.sum(0, keepdim=True) for frames in first_and_last_sample(waveforms)]

    store = fill(tmp_path / "rows", marked, sums, batch_seconds=3.1, per_utterance=True)
    assert f"test: {len(marked)} utterances of 2 x float32, {8 * len(marked) / 1e9:.3g} GB" in capsys.readouterr().out
    assert sorted(sum(groups, [])) == sorted(LENGTHS)
    assert all(len(group) == 1 or len(group) * max(group) <= 3.1 * 16_000 for group in groups)
    expected = [frames.sum(0, keepdim=True) for frames in first_and_last_sample([audio.load(x.path) for x in marked])]
    for found in (store, FrameStore(tmp_path / "rows", marked)):
        assert all(torch.equal(found.read(u), rows) for u, rows in enumerate(expected))
        assert found.counts.tolist() == [1] * len(marked)
    with pytest.raises(ValueError, match="frames, 1 were expected"):
        fill(tmp_path / "frames", marked, per_utterance=True)


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_frames_kept_in_full_serve_the_smaller_types(dtype, marked, tmp_path):
    """Settings that differ in the type alone: the same numbers as if kept in it, and nothing is computed again."""
    def compute(waveforms: list[Tensor]) -> list[Tensor]:
        computed.append(len(waveforms))
        generator = torch.Generator().manual_seed(len(waveforms[0]))
        return [torch.randn(1 + (len(x) - 400) // 320, 2, generator=generator) for x in waveforms]

    computed: list[int] = []
    expected = fill(tmp_path / "small", marked, compute, dtype=dtype)
    fill(tmp_path / "full", marked, compute, dtype="float32")
    computed.clear()
    found = fill(tmp_path / "full", marked, compute, dtype=dtype)
    assert not computed
    for u in range(len(marked)):
        assert torch.equal(found.read(u), expected.read(u))
    found.hold(torch.device("cpu"))
    assert torch.equal(found.read(3), expected.read(3))
    full = fill(tmp_path / "small", marked, compute, dtype="float32")           # what is lost must be computed
    assert computed and not torch.equal(full.read(0), expected.read(0))


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


@pytest.mark.parametrize("change", ["nothing", "key", "shard", "note"])
def test_an_interrupted_store_continues_with_the_same_bits(marked, tmp_path, monkeypatch, change):
    """Interrupted in the fifth of ten groups, four stay; none for another key or where a part is damaged."""
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


def test_a_wrong_number_of_frames_names_the_utterance(marked, tmp_path):
    with pytest.raises(ValueError, match=r"utterance utterance\d: the model gives \d+ frames, \d+ were expected"):
        fill(tmp_path, marked, lambda waveforms: [x[:-1] for x in first_and_last_sample(waveforms)])
    with pytest.raises(ValueError, match="the manifest says 16001"):
        fill(tmp_path, [replace(marked[0], num_samples=16_001)])
    assert not (tmp_path / "index.json").exists()
