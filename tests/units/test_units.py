"""Units: written and read, as fairseq's text, refused for other utterances; made alike by one rank and by two."""
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import ranks
import safetensors.torch
import soundfile
import torch

from framealign.sound import audio
from framealign.sound.frames import Framing, num_frames
from framealign.corpus.utterance import Utterance, corpus_digest
from framealign.hubert.model import Hubert
from framealign.units.codebook import Codebook
from framealign.units.extraction import mfcc_store, state_store
from framealign.units.kmeans import KMeansConfig
from framealign.units.units import Units, make_units

QUICK = KMeansConfig(seed=3, seeding_frames=500, batch_frames=200)


@pytest.fixture
def hubert(micro):
    torch.manual_seed(1)
    return Hubert(micro).eval()


def random_units(counts: list[int], num_clusters: int, seed: int = 0) -> Units:
    offsets = torch.tensor([0, *counts]).cumsum(0)
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(num_clusters, (int(offsets[-1]),), generator=generator).int()
    return Units(found, offsets, num_clusters, {"layer": 9, "note": "é"})


def equal(a: Units, b: Units) -> bool:
    return torch.equal(a.units, b.units) and torch.equal(a.offsets, b.offsets) and a.units.dtype == b.units.dtype


# Files

@pytest.mark.parametrize("num_clusters, stored", [(2, torch.int16), (2 ** 15, torch.int16), (2 ** 15 + 1, torch.int32)])
def test_units_write_then_read_is_the_identity(num_clusters, stored, tmp_path):
    made = random_units([3, 1, 40, 7], num_clusters)
    made.units[0], made.units[1] = num_clusters - 1, 0
    made.write(tmp_path / "units.safetensors")
    assert safetensors.torch.load_file(tmp_path / "units.safetensors")["units"].dtype == stored
    found = Units.read(tmp_path / "units.safetensors")
    assert equal(found, made) and found.num_clusters == num_clusters and found.record == made.record
    for u, (start, stop) in enumerate(zip(made.offsets, made.offsets[1:])):
        assert torch.equal(found.of(u), made.units[start:stop].long()) and found.of(u).dtype == torch.int64


def test_units_know_where_their_frames_lie(tones, micro, tmp_path):
    """The record says it, a model of other frames is refused with both, and text without a record takes the model's."""
    framing = Framing(640, 720)
    counts = [num_frames(u.num_samples, framing) for u in tones]
    made = random_units(counts, 5)
    made.record.update(hop=640, receptive_field=720)
    made.write(tmp_path / "units.safetensors")
    made.write_km(tmp_path / "units.km")
    found = Units.read(tmp_path / "units.safetensors")
    found.check(tones, "u", framing)
    found.check(tones, "u")
    with pytest.raises(ValueError, match="u: .* for a frame of 45 ms every 40 ms, the model has a frame of 25 ms"):
        found.check(tones, "u", micro.framing)
    text = Units.read_km(tmp_path / "units.km")
    text.check(tones, "u", framing)
    with pytest.raises(ValueError, match=r"has \d+ units but \d+ frames"):
        text.check(tones, "u", micro.framing)
    for record in ({"hop": 0, "receptive_field": 400}, {"hop": "320"}, {"receptive_field": True}):
        made.record.update(record)
        made.write(tmp_path / "bad.safetensors")
        with pytest.raises(ValueError, match="bad.safetensors: not a units file: its record's hop"):
            Units.read(tmp_path / "bad.safetensors")


def test_units_are_made_of_a_models_own_frames(tones, micro, cpu, tmp_path):
    slow = dataclasses.replace(micro, conv_dim=(8,) * 8, conv_kernel=(*micro.conv_kernel, 2),
                               conv_stride=(*micro.conv_stride, 2))
    hubert = Hubert(slow).eval()
    for name, store in (("states", state_store(hubert, 1, tones, tmp_path / "states", cpu)),
                        ("mfcc", mfcc_store(tones, tmp_path / "mfcc", slow.framing))):
        made, _ = make_units(store, 4, QUICK, None, {})
        made.check(tones, name, slow.framing)
        assert made.record["frame_rate"] == 25 and made.framing == slow.framing
        assert [len(made.of(u)) for u in range(len(tones))] == [int(hubert.num_frames(u.num_samples)) for u in tones]


def test_km_text_is_fairseqs_and_round_trips(tmp_path):
    made = random_units([3, 1, 40, 7], 20)
    made.write_km(tmp_path / "train.km")
    lines = (tmp_path / "train.km").read_text().splitlines()
    assert [[int(word) for word in line.split(" ")] for line in lines] == [made.of(u).tolist() for u in range(4)]
    found = Units.read_km(tmp_path / "train.km", 20)
    assert equal(found, made) and found.num_clusters == 20
    assert Units.read_km(tmp_path / "train.km").num_clusters == int(made.units.max()) + 1


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_km_text_with_a_mark_other_line_ends_and_blank_lines_after_it(tmp_path, end):
    made = random_units([3, 1, 40], 20)
    made.write_km(tmp_path / "train.km")
    text = "\ufeff" + (tmp_path / "train.km").read_text().replace("\n", end) + 2 * end
    (tmp_path / "train.km").write_bytes(text.encode())
    assert equal(Units.read_km(tmp_path / "train.km", 20), made)


def test_the_published_example_of_km_text_round_trips(shared, tmp_path):
    path = shared / "hubert_fixture" / "sample.base.L9.km500.km"
    found = Units.read_km(path, 500)
    assert len(found.units) == num_frames(audio.length(path.parent / "6313-76958-0021.flac")) == 596
    found.write_km(tmp_path / "again.km")
    assert (tmp_path / "again.km").read_text().split() == path.read_text().split()


@pytest.mark.parametrize("text, line, message", [
    ("1 2 3\n4 x 5\n", 2, "whole numbers separated by blanks, got 'x'"), ("1 2\n\n3\n", 2, "whole numbers"),
    ("1 2\n-1\n", 2, "'-1'"), ("1.0\n", 1, "'1.0'"), ("1 12345678901\n", 1, "'12345678901'"),
    ("1 2\n3 ²\n", 2, "'²'"), ("1 2\n3 4\n19 20 3\n", 3, "holds unit 20, the codebook has 20")])
def test_km_text_that_cannot_be_read(text, line, message, tmp_path):
    (tmp_path / "train.km").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"train.km:{line}: .*{message}"):
        Units.read_km(tmp_path / "train.km", 20)


def test_km_files_that_are_no_text(tmp_path):
    (tmp_path / "empty.km").write_text("")
    (tmp_path / "sound.km").write_bytes(b"RIFF\xff\xfe\x00\x00")
    for name, message in (("empty", "no line"), ("sound", "not readable"), ("nowhere", "not readable")):
        with pytest.raises(ValueError, match=f"{name}.km: .*{message}"):
            Units.read_km(tmp_path / f"{name}.km")


def test_damaged_units(tmp_path):
    path = tmp_path / "units.safetensors"
    metadata = {"num_clusters": "9", "record": "{}"}
    flat, offsets = torch.arange(9, dtype=torch.int16), torch.tensor([0, 4, 9])
    good = {"units": flat, "offsets": offsets}
    cases = [("offsets do not fit", good | {"offsets": torch.tensor([0, 4, 8])}, metadata),
             ("offsets do not fit", good | {"offsets": torch.tensor([1, 4, 9])}, metadata),
             ("offsets do not fit", good | {"offsets": torch.tensor([0, 9, 4, 9])}, metadata),
             ("offsets do not fit", good | {"offsets": offsets.int()}, metadata),
             ("offsets do not fit", good | {"offsets": offsets[:0]}, metadata),
             ("outside 0 .. 7", good, metadata | {"num_clusters": "8"}),
             ("outside 0 .. 8", good | {"units": flat - 1}, metadata),
             ("int16 or int32", good | {"units": flat.float()}, metadata),
             ("int16 or int32", good | {"units": flat[:, None].contiguous()}, metadata),
             ("not a units file", {"offsets": offsets}, metadata), ("not a units file", good, {}),
             ("not a units file", good, metadata | {"num_clusters": "many"}),
             ("not a units file", good, metadata | {"record": "{"}),
             ("not a units file", good, metadata | {"record": "3"})]
    for message, content, described in cases:
        safetensors.torch.save_file(content, path, described)
        with pytest.raises(ValueError, match=f"units.safetensors: .*{message}"):
            Units.read(path)
    safetensors.torch.save_file(good, path, metadata)
    whole = path.read_bytes()
    for size in (0, 5, 60, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="not a units file"):
            Units.read(path)
    with pytest.raises(ValueError, match="no such file"):
        Units.read(tmp_path / "nowhere.safetensors")
    with pytest.raises(ValueError, match="not a units file"):
        Units.read(tmp_path)


def test_units_of_other_utterances_are_refused(tones):
    counts = [num_frames(u.num_samples) for u in tones]
    random_units(counts, 5).check(tones, "units")
    with pytest.raises(ValueError, match="here: units of 23 utterances, the manifest has 24"):
        random_units(counts[:-1], 5).check(tones, "here")
    counts[7] += 1
    with pytest.raises(ValueError, match=f"{tones[7].id} has {counts[7]} units but {counts[7] - 1} frames"):
        random_units(counts, 5).check(tones, "here")


def copied(utterances: list, folder: Path) -> list:
    """The same corpus elsewhere."""
    folder.mkdir()
    return [dataclasses.replace(u, path=Path(shutil.copy(u.path, folder))) for u in utterances]


def test_units_in_another_order_or_of_other_sound_are_refused(hubert, tones, tmp_path, cpu):
    """Sixteen files of a second each, so that every length fits every file; a corpus that was moved is the same."""
    generator, some = np.random.default_rng(0), []
    for number in range(16):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, generator.uniform(-0.5, 0.5, 16_000), 16_000)
        some.append(Utterance(path.stem, path, 16_000))
    made, _ = make_units(state_store(hubert, 1, some, tmp_path / "states", cpu), 4, QUICK, None, {})
    made.write(tmp_path / "units.safetensors")
    made = Units.read(tmp_path / "units.safetensors")
    made.check(some, "units")
    made.check(copied(some, tmp_path / "moved"), "units")
    renamed = [dataclasses.replace(some[0], id="another"), *some[1:]]
    other = copied(some, tmp_path / "other")
    soundfile.write(other[5].path, generator.uniform(-0.5, 0.5, 16_000), 16_000)
    for utterances in (some[::-1], [some[1], some[0], *some[2:]], renamed, other):
        with pytest.raises(ValueError, match="here: made of other utterances, of other sound, or in another order"):
            made.check(utterances, "here")
    dataclasses.replace(made, record={}).check(some[::-1], "text of fairseq's, which says nothing")


# Units of a corpus

def test_units_with_a_codebook_fitted_or_given(hubert, tones, tmp_path, cpu):
    store = state_store(hubert, 1, tones, tmp_path, cpu)
    made, codebook = make_units(store, 6, QUICK, None, {"layer": 1, "codebook": "fitted"})
    made.check(tones, "units")
    everything = torch.cat([store.read(u) for u in range(len(tones))])
    expected = Codebook.fit(everything, 6, QUICK.seed, QUICK)
    assert torch.equal(codebook.centroids, expected.centroids) and codebook.record["layer"] == 1
    nearest = torch.cdist(everything.double(), codebook.centroids.double()).argmin(1)
    assert torch.equal(made.units.long(), nearest) and made.num_clusters == 6
    assert made.record["manifest"] == corpus_digest(tones) and made.record["codebook"] == "fitted"

    given = Codebook(everything[:4].clone(), torch.zeros(4, dtype=torch.int64), float("nan"), {})
    other, used = make_units(store, 6, QUICK, given, {"codebook": "given"})
    assert used is given and other.num_clusters == 4 and other.record["codebook"] == "given"
    assert torch.equal(other.units.long(), torch.cdist(everything.double(), given.centroids.double()).argmin(1))
    for mine, theirs in (({"layer": 2}, {"layer": 1}), ({"encoder": "a"}, {"encoder": "b"}), ({"feature": "mfcc"}, {}),
                         ({"frame_rate": 25}, {"frame_rate": 50})):
        with pytest.raises(ValueError, match="its units would mean nothing; leave the codebook out to fit one"):
            make_units(store, 6, QUICK, dataclasses.replace(given, record=mine), theirs)
    assert other.record["codebook_digest"] != made.record["codebook_digest"]
    json.dumps(made.record)
    with pytest.raises(ValueError, match="codebook of 5 dimensions cannot label frames of 16"):
        make_units(store, 6, QUICK, Codebook(torch.zeros(3, 5), torch.zeros(3), 0.0, {}), {})


def test_a_diverged_model_gives_no_units(hubert, tones, tmp_path, cpu):
    hubert.encoder.layers[0].attention.q_proj.bias.data[0] = float("nan")
    store = state_store(hubert, 1, tones[:3], tmp_path, cpu)
    codebook = Codebook(torch.zeros(3, 16), torch.zeros(3, dtype=torch.int64), 0.0, {})
    for given in (None, codebook):
        with pytest.raises(ValueError, match="finite|NaN"):
            make_units(store, 3, QUICK, given, {})


def everything(config, tones, folder):
    """MFCC units and state units of the corpus, as a rank makes them: plain arrays."""
    torch.manual_seed(1)
    hubert = Hubert(config).eval()
    found = {}
    for name, store in (("mfcc", mfcc_store(tones, folder / "mfcc")),
                        ("states", state_store(hubert, 1, tones, folder / "states", torch.device("cpu")))):
        made, codebook = make_units(store, 6, QUICK, None, {})
        frames = np.concatenate([store.read(u).numpy() for u in range(len(tones))])
        found[name] = made.units.numpy(), codebook.centroids.numpy(), codebook.counts.numpy(), frames
    return found


def test_two_ranks_make_the_units_and_the_codebook_of_one(micro, tones, tmp_path):
    """Utterances do not divide evenly over ranks; the frames kept are the same to the bit, whoever computed them."""
    one = everything(micro, tones[:23], tmp_path / "one")
    first, second = ranks.run(everything, 2, micro, tones[:23], tmp_path / "two")
    for name, (labels, centroids, counts, frames) in one.items():
        for theirs in (first[name], second[name]):
            np.testing.assert_array_equal(theirs[3], frames)
            np.testing.assert_array_equal(theirs[0], labels)
            np.testing.assert_allclose(theirs[1], centroids, rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(theirs[2], counts)
