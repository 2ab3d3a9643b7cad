"""Units from the command line: the right numbers in the right files, and every mistake before anything is written."""
import dataclasses

import numpy as np
import pytest
import small
import torch

from framealign.runtime import files
from framealign.sound import audio
from framealign.sound.mfcc import mfcc
from framealign.hubert.model import Hubert
from framealign.units.codebook import Codebook
from framealign.units.kmeans import KMeansConfig
from framealign.units.units import Units
from framealign.recipe.presets import preset, with_overrides
from framealign.commands import pretrain_command, units_command
from framealign.commands.pretrain_command import PretrainRun
from framealign.commands.units_command import UnitsRun

KMEANS = KMeansConfig(seeding_frames=500, full_passes=2, seeding_tries=1)
SMALL = with_overrides(preset("tiny"), small.SETTINGS | {"finetune.epochs": "1", "pretrain.updates": "2",
                                                         "scratch.updates": "2"})


def test_mfcc_units_are_the_nearest_centroids(tones, table, tmp_path, capsys):
    out = tmp_path / "units"
    units_command.run(UnitsRun(corpus=str(table), mfcc=True, clusters="6", out=str(out), km=True), KMEANS)
    assert sorted(path.name for path in out.iterdir()) == ["codebook.safetensors", "units.km", "units.safetensors"]
    units, codebook = Units.read(out / "units.safetensors"), Codebook.read(out / "codebook.safetensors")
    units.check(tones, "units")
    for u in (0, 17):
        frames = mfcc(audio.load(tones[u].path)).half().float()                 # as they are kept
        distances = (frames.double()[:, None] - codebook.centroids.double()[None]).square().sum(-1)
        assert torch.equal(units.of(u), distances.argmin(1))
    assert torch.equal(Units.read_km(out / "units.km", 6).units, units.units)
    assert units.record["feature"] == "mfcc" and units.record["codebook"] == "fitted"
    assert f"{len(units.units)} units of 24 utterances, 6 of 6 in use" in capsys.readouterr().out


def test_mfcc_units_lie_on_the_frames_of_the_preset(tones, table, tmp_path):
    """Those of a model with a frame each 40 ms, which a model with others refuses."""
    out, framing = tmp_path / "units", preset("compact").model.framing
    config = UnitsRun(corpus=str(table), mfcc=True, preset="compact", clusters="6", out=str(out))
    units_command.run(config, KMEANS)
    units, codebook = Units.read(out / "units.safetensors"), Codebook.read(out / "codebook.safetensors")
    units.check(tones, "units", framing)
    frames = mfcc(audio.load(tones[3].path), framing).half().float()
    distances = (frames.double()[:, None] - codebook.centroids.double()[None]).square().sum(-1)
    assert torch.equal(units.of(3), distances.argmin(1)) and units.record["frame_rate"] == 25
    with pytest.raises(ValueError, match="45 ms every 40 ms"):
        units.check(tones, "units", preset("base").model.framing)
    with pytest.raises(ValueError, match="preset must be one of"):
        units_command.run(dataclasses.replace(config, preset="compakt", out=str(tmp_path / "other")), KMEANS)
    assert not (tmp_path / "other").exists()


def test_state_units_of_a_layer_by_a_given_codebook(tones, table, small_base, tmp_path):
    hubert = Hubert.from_pretrained(small_base)
    np.save(tmp_path / "given.npy", np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32))
    config = UnitsRun(corpus=str(table), model=str(small_base), layer=2, codebook=str(tmp_path / "given.npy"),
                      out=str(tmp_path / "units"))
    units_command.run(config, KMEANS)
    units = Units.read(tmp_path / "units" / "units.safetensors")
    waveform = audio.preprocess(audio.load(tones[5].path), hubert.do_normalize)
    with torch.inference_mode():
        states = hubert.states(waveform[None], torch.tensor([len(waveform)]), 2)[0]
    given = torch.from_numpy(np.load(tmp_path / "given.npy"))
    agree = (units.of(5) == torch.cdist(states.half().float(), given).argmin(1)).float().mean()
    assert agree > 0.95 and units.num_clusters == 4                             # float16 may turn a near tie
    assert units.record["layer"] == 2 and units.record["codebook"].endswith("given.npy")


def test_several_codebooks_are_made_and_predicted_together(table, small_base, tmp_path):
    """bin/units.py with several numbers: the files of each alone; bin/pretrain.py takes them all."""
    for clusters in ("4,6", "4", "6"):
        out = str(tmp_path / clusters)
        units_command.run(UnitsRun(corpus=str(table), mfcc=True, clusters=clusters, out=out, km=True), KMEANS)
    names = [f"{what}-{number}.{kind}" for number in (4, 6) for what, kind in (
        ("codebook", "safetensors"), ("units", "safetensors"), ("units", "km"))]
    assert sorted(path.name for path in (tmp_path / "4,6").iterdir()) == sorted(names)
    for name in names:
        one, number = name.split("-")[0], name.split("-")[1].split(".")[0]
        alone = tmp_path / number / name.replace(f"-{number}", "")
        assert (tmp_path / "4,6" / name).read_bytes() == alone.read_bytes(), one
    units = ",".join(str(tmp_path / number / "units.safetensors") for number in ("4", "6"))
    pretrain_command.run(PretrainRun(corpus=str(table), units=units, init_from=str(small_base), preset="tiny",
                                      out=str(tmp_path / "run"), device="cpu"), SMALL.pretrain)
    assert files.read_json(tmp_path / "run" / "pretrain.json")["num_clusters"] == [4, 6]
    with pytest.raises(ValueError, match="gives one codebook, --clusters 4,6 asks for several"):
        np.save(tmp_path / "given.npy", np.zeros((4, 39), np.float32))
        units_command.run(UnitsRun(corpus=str(table), mfcc=True, clusters="4,6",
                                         codebook=str(tmp_path / "given.npy"), out=str(tmp_path / "x")), KMEANS)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("changes, message", [
    ({"corpus": ""}, "--corpus is needed"), ({}, "give either --mfcc or --model"),
    ({"mfcc": True, "model": "x"}, "give either --mfcc or --model"),
    ({"model": "nowhere"}, "nowhere: no such directory"), ({"mfcc": True, "device": "tpu"}, "--device must be"),
    ({"model": "base", "layer": 3}, r"layer must be in \[0, 2\], got 3"),
    ({"mfcc": True, "clusters": "1000000"}, "1000000"),
    ({"mfcc": True, "codebook": "wide.npy"}, "codebook of 16 dimensions cannot label frames of 39"),
    ({"model": "base", "codebook": "mfcc.npy"}, "codebook of 39 dimensions cannot label frames of 16"),
    ({"mfcc": True, "codebook": "gone.npy"}, "gone.npy"),
])
def test_wrong_units_flags_leave_nothing(table, small_base, tmp_path, changes, message):
    for name, width in (("wide", 16), ("mfcc", 39)):
        np.save(tmp_path / f"{name}.npy", np.zeros((4, width), np.float32))
    given = {key: str(small_base) if value == "base" else str(tmp_path / value) if key == "codebook" else value
             for key, value in changes.items()}
    before = small.digests(tmp_path)
    with pytest.raises(ValueError, match=message):
        units_command.run(UnitsRun(**({"corpus": str(table), "out": str(tmp_path / "units")} | given)), KMEANS)
    assert small.digests(tmp_path) == before and not (tmp_path / "units").exists()
