"""What the scripts call: the right numbers in the right files, and every mistake before anything is written."""
import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import small
import soundfile
import torch

from framealign.runtime import files
from framealign.sound import audio
from framealign.sound.mfcc import mfcc
from framealign.corpus import manifest, utterance
from framealign.hubert import model_directory
from framealign.hubert.model import Hubert
from framealign.exchange import torchaudio_weights
from framealign.units.codebook import Codebook
from framealign.units.kmeans import KMeansConfig
from framealign.units.units import Units
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.recogniser import Recogniser
from framealign.training.training_config import FinetuneConfig
from framealign.recipe.presets import PRESETS, preset, with_overrides
from framealign.commands import files_commands
from framealign.commands.files_commands import FinetuneRun, PretrainRun, UnitsRun

KMEANS = KMeansConfig(seeding_frames=500, full_passes=2, seeding_tries=1)
SMALL = with_overrides(preset("tiny"), small.SETTINGS | {"finetune.epochs": "1", "pretrain.updates": "2",
                                                         "scratch.updates": "2"})


@pytest.fixture
def table(tones, tmp_path) -> Path:
    manifest.write(tmp_path / "corpus.tsv", tones)
    return tmp_path / "corpus.tsv"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return small.write_base(tmp_path_factory.mktemp("commands") / "base")


@pytest.fixture
def lists(tones, tmp_path) -> dict[str, str]:
    """The reference's three scp lists: session 2 trains, 3 validates, 1 tests."""
    places = {}
    for part, session in (("train", "2"), ("valid", "3"), ("test", "1")):
        lines = [f"{u.id} {u.path} {u.label}\n" for u in tones if u.session == session]
        (tmp_path / f"{part}.scp").write_text("".join(lines))
        places[part] = str(tmp_path / f"{part}.scp")
    return places


# Reading

def test_a_corpus_is_a_manifest_or_a_fairseq_list(tones, table, tmp_path):
    manifest.write_fairseq(tmp_path / "list.tsv", tones)
    assert files_commands.read_corpus(str(table)) == tones
    found = files_commands.read_corpus(str(tmp_path / "list.tsv"))
    assert [(u.id, u.path, u.num_samples, u.label) for u in found] == [(u.id, u.path, u.num_samples, "") for u in tones]


def test_a_corpus_is_compared_with_its_files(tones, table):
    manifest.write(table, [dataclasses.replace(tones[0], num_samples=tones[0].num_samples - 1), *tones[1:]])
    with pytest.raises(ValueError, match="1 of 24 sound files are not as the manifest says: .*the manifest says"):
        files_commands.read_corpus(str(table))


def test_settings_of_pretraining_depend_on_where_it_starts():
    assert files_commands.pretrain_settings(PretrainRun(preset="small")) == preset("small").scratch
    assert files_commands.pretrain_settings(PretrainRun(preset="small", init_from="x")) == preset("small").pretrain


# Units

def test_mfcc_units_are_the_nearest_centroids(tones, table, tmp_path, capsys):
    out = tmp_path / "units"
    files_commands.make_units_run(UnitsRun(corpus=str(table), mfcc=True, clusters="6", out=str(out), km=True), KMEANS)
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


def test_state_units_of_a_layer_by_a_given_codebook(tones, table, base, tmp_path):
    hubert = Hubert.from_pretrained(base)
    np.save(tmp_path / "given.npy", np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32))
    config = UnitsRun(corpus=str(table), model=str(base), layer=2, codebook=str(tmp_path / "given.npy"),
                      out=str(tmp_path / "units"))
    files_commands.make_units_run(config, KMEANS)
    units = Units.read(tmp_path / "units" / "units.safetensors")
    waveform = audio.preprocess(audio.load(tones[5].path), hubert.do_normalize)
    with torch.inference_mode():
        states = hubert.states(waveform[None], torch.tensor([len(waveform)]), 2)[0]
    given = torch.from_numpy(np.load(tmp_path / "given.npy"))
    agree = (units.of(5) == torch.cdist(states.half().float(), given).argmin(1)).float().mean()
    assert agree > 0.95 and units.num_clusters == 4                             # float16 may turn a near tie
    assert units.record["layer"] == 2 and units.record["codebook"].endswith("given.npy")


def test_several_codebooks_are_made_and_predicted_together(table, base, tmp_path):
    """bin/units.py with several numbers: the files of each alone; bin/pretrain.py takes them all."""
    for clusters in ("4,6", "4", "6"):
        out = str(tmp_path / clusters)
        files_commands.make_units_run(UnitsRun(corpus=str(table), mfcc=True, clusters=clusters, out=out, km=True), KMEANS)
    names = [f"{what}-{number}.{kind}" for number in (4, 6) for what, kind in (
        ("codebook", "safetensors"), ("units", "safetensors"), ("units", "km"))]
    assert sorted(path.name for path in (tmp_path / "4,6").iterdir()) == sorted(names)
    for name in names:
        one, number = name.split("-")[0], name.split("-")[1].split(".")[0]
        alone = tmp_path / number / name.replace(f"-{number}", "")
        assert (tmp_path / "4,6" / name).read_bytes() == alone.read_bytes(), one
    units = ",".join(str(tmp_path / number / "units.safetensors") for number in ("4", "6"))
    files_commands.pretrain_run(PretrainRun(corpus=str(table), units=units, init_from=str(base), preset="tiny",
                                      out=str(tmp_path / "run"), device="cpu"), SMALL.pretrain)
    assert files.read_json(tmp_path / "run" / "pretrain.json")["num_clusters"] == [4, 6]
    with pytest.raises(ValueError, match="gives one codebook, --clusters 4,6 asks for several"):
        np.save(tmp_path / "given.npy", np.zeros((4, 39), np.float32))
        files_commands.make_units_run(UnitsRun(corpus=str(table), mfcc=True, clusters="4,6",
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
def test_wrong_units_flags_leave_nothing(table, base, tmp_path, changes, message):
    for name, width in (("wide", 16), ("mfcc", 39)):
        np.save(tmp_path / f"{name}.npy", np.zeros((4, width), np.float32))
    given = {key: str(base) if value == "base" else str(tmp_path / value) if key == "codebook" else value
             for key, value in changes.items()}
    before = small.digests(tmp_path)
    with pytest.raises(ValueError, match=message):
        files_commands.make_units_run(UnitsRun(**({"corpus": str(table), "out": str(tmp_path / "units")} | given)), KMEANS)
    assert small.digests(tmp_path) == before and not (tmp_path / "units").exists()


# Pretraining

@pytest.fixture
def units(tones, table, tmp_path) -> Path:
    """Units drawn at random, for the tones."""
    counts = [(u.num_samples - 400) // 320 + 1 for u in tones]
    rows = np.random.default_rng(0).integers(6, size=sum(counts))
    lines = [" ".join(map(str, part)) for part in np.split(rows, np.cumsum(counts)[:-1])]
    (tmp_path / "units.km").write_text("\n".join(lines) + "\n")
    return tmp_path / "units.km"


def test_pretraining_from_scratch_and_from_an_encoder(table, units, base, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", SMALL)
    for name, config in (("scratch", PretrainRun()), ("from", PretrainRun(init_from=str(base)))):
        config = dataclasses.replace(config, corpus=str(table), units=str(units), preset="tiny",
                                     out=str(tmp_path / name), device="cpu")
        files_commands.pretrain_run(config, files_commands.pretrain_settings(config))
    scratch, trained, start = (Hubert.from_pretrained(place) for place in (
        tmp_path / "scratch" / "encoder", tmp_path / "from" / "encoder", base))
    assert scratch.config == SMALL.model and not scratch.do_normalize
    conv = "feature_extractor.conv_layers.0.conv.weight"
    assert torch.equal(trained.state_dict()[conv], start.state_dict()[conv])
    assert not torch.equal(scratch.state_dict()[conv], start.state_dict()[conv])


@pytest.mark.parametrize("changes, message", [
    ({"corpus": ""}, "--corpus is needed"), ({"units": ""}, "--units is needed"),
    ({"preset": "huge"}, "preset must be one of"), ({"precision": "half"}, "--precision must be auto"),
    ({"init_from": "nowhere"}, "nowhere: no such directory"), ({"units": "nowhere.km"}, "nowhere.km"),
    ({"units": "short.km"}, "short.km: units of 23 utterances, the manifest has 24"),
    ({"units": "less.km"}, r"less.km: utterance \w+ has \d+ units but \d+ frames"),
    ({"units": "words.km"}, "words.km:1: units must be whole numbers"), ({"units": "corpus.tsv"}, "not a units file"),
])
def test_wrong_pretraining_flags_leave_nothing(table, units, base, tmp_path, changes, message):
    lines = units.read_text().splitlines()
    (tmp_path / "short.km").write_text("\n".join(lines[:-1]) + "\n")
    (tmp_path / "less.km").write_text("\n".join([*lines[:3], lines[3][:-2].strip(), *lines[4:]]) + "\n")
    (tmp_path / "words.km").write_text("\n".join(["a b", *lines[1:]]) + "\n")
    config = PretrainRun(**({"corpus": str(table), "units": str(units), "init_from": str(base), "preset": "tiny",
                             "out": str(tmp_path / "run")}
                            | {key: str(tmp_path / value) if key == "units" and value else value
                               for key, value in changes.items()}))
    before = small.digests(tmp_path)
    with pytest.raises(ValueError, match=message):
        files_commands.pretrain_run(config, SMALL.pretrain)
    assert small.digests(tmp_path) == before and not (tmp_path / "run").exists()


def test_a_frozen_conv_encoder_cannot_start_from_scratch(table, units, tmp_path):
    config = PretrainRun(corpus=str(table), units=str(units), preset="tiny", out=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="leave out --freeze-conv, or give --init-from"):
        files_commands.pretrain_run(config, SMALL.pretrain)


# Fine-tuning

def predictions(run: Path) -> list[dict[str, str]]:
    with open(run / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_finetuning_by_session(tones, table, base, tmp_path, capsys):
    config = FinetuneRun(corpus=str(table), session="2", init_from=str(base), out=str(tmp_path / "run"), device="cpu")
    files_commands.finetune_run(config, SMALL.finetune)
    rows = predictions(tmp_path / "run")
    assert [(row["id"], row["true"]) for row in rows] == [(u.id, u.label) for u in tones if u.session == "2"]
    for row in rows:
        shares = [float(row[name]) for name in utterance.CLASSES]
        assert sum(shares) == pytest.approx(1, abs=1e-5) and utterance.CLASSES[np.argmax(shares)] == row["predicted"]
    wa = np.mean([row["true"] == row["predicted"] for row in rows])
    assert f"session2: wa {100 * wa:.1f} %" in capsys.readouterr().out
    assert EmotionModel.from_pretrained(tmp_path / "run" / "recogniser").labels == list(utterance.CLASSES)


def test_finetuning_both_ways_gives_one_result(tones, table, base, tmp_path, capsys):
    config = FinetuneRun(corpus=str(table), init_from=str(base), out=str(tmp_path / "run"), device="cpu")
    files_commands.finetune_run(config, dataclasses.replace(SMALL.finetune, selection="speaker"))
    results = files.read_json(tmp_path / "run" / "results.json")
    assert len(results["ways"]) == 2 and results["num_utterances"]["test"] == len(predictions(tmp_path / "run")) == 8
    assert "session1-valid-Ses01F, session1-valid-Ses01M: wa" in capsys.readouterr().out


def test_finetuning_by_lists(tones, lists, base, tmp_path):
    config = FinetuneRun(**lists, init_from=str(base), out=str(tmp_path / "run"), device="cpu")
    files_commands.finetune_run(config, SMALL.finetune)
    assert [row["id"] for row in predictions(tmp_path / "run")] == [u.id for u in tones if u.session == "1"]
    counts = files.read_json(tmp_path / "run" / "results.json")["num_utterances"]
    assert counts == {"train": 8, "valid": 8, "test": 8}


def test_a_run_that_holds_checkpoints_is_continued_or_refused(table, base, tmp_path, capsys):
    config = FinetuneRun(corpus=str(table), init_from=str(base), out=str(tmp_path / "run"), device="cpu")
    tuned = dataclasses.replace(SMALL.finetune, selection="speaker")
    files_commands.finetune_run(config, tuned)
    before = small.products(tmp_path / "run")
    files_commands.finetune_run(config, tuned)
    assert capsys.readouterr().out.count("continues after update 2") == 2 and small.products(tmp_path / "run") == before
    with pytest.raises(ValueError, match="holds checkpoints; leave out --no-resume to continue"):
        files_commands.finetune_run(dataclasses.replace(config, resume=False), tuned)
    with pytest.raises(ValueError, match="its checkpoint was made with another configuration or split"):
        files_commands.finetune_run(config, dataclasses.replace(tuned, lr=0.5))
    assert small.products(tmp_path / "run") == before


@pytest.mark.parametrize("changes, message", [
    ({"init_from": ""}, "--init-from is needed"), ({"corpus": ""}, "give either --corpus .* or --train"),
    ({"init_from": "nowhere"}, "nowhere: no such directory"), ({"classes": "happy"}, "--classes must be two or more"),
    ({"session": "9"}, "no utterance of session 9; there are: 1, 2, 3"), ({"precision": "half"}, "--precision must"),
    ({"validate_on": "word"}, "validate_on session or speaker"),
    ({"classes": "happy,sad"}, "label 'neutral' is not known"),
    ({"corpus": "", "train": "train.scp"}, "--test is needed"),
    ({"corpus": "", "train": "train.scp", "test": "test.scp"}, "selection clean needs validation utterances"),
    ({"corpus": "", "train": "train.scp", "test": "train.scp"}, "is also in the validation or test list"),
])
def test_wrong_finetuning_flags_leave_nothing(table, lists, base, tmp_path, changes, message):
    given = {key: str(tmp_path / value) if value.endswith(".scp") else value for key, value in changes.items()}
    config = FinetuneRun(**({"corpus": str(table), "init_from": str(base), "out": str(tmp_path / "run")} | given))
    before = small.digests(tmp_path)
    with pytest.raises(ValueError, match=message):
        files_commands.finetune_run(config, SMALL.finetune)
    assert small.digests(tmp_path) == before and not (tmp_path / "run").exists()


@pytest.mark.parametrize("samples, message", [(np.zeros(8000), "nothing to hear"), (np.full(8000, np.nan), "NaN")])
@pytest.mark.parametrize("step", ["units", "pretrain", "finetune"])
def test_rotten_sound_leaves_nothing(tones, base, units, tmp_path, step, samples, message):
    """Its header is in order, so it is found out while features are computed."""
    soundfile.write(tmp_path / "bad.wav", samples, 16_000, subtype="FLOAT")
    bad = dataclasses.replace(tones[9], path=tmp_path / "bad.wav", num_samples=8000)
    manifest.write(tmp_path / "corpus.tsv", [*tones[:9], bad, *tones[10:]])
    lines = units.read_text().splitlines()
    units.write_text("\n".join([*lines[:9], " ".join(["1"] * 24), *lines[10:]]) + "\n")
    table, run, before = str(tmp_path / "corpus.tsv"), str(tmp_path / "run"), small.digests(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        if step == "units":
            files_commands.make_units_run(UnitsRun(corpus=table, mfcc=True, clusters="4", out=run), KMEANS)
        elif step == "pretrain":
            files_commands.pretrain_run(PretrainRun(corpus=table, units=str(units), init_from=str(base), out=run),
                                  SMALL.pretrain)
        else:
            files_commands.finetune_run(FinetuneRun(corpus=table, init_from=str(base), out=run), FinetuneConfig())
    assert "bad.wav" in str(error.value)
    assert small.digests(tmp_path) == before and not (tmp_path / "run").exists()


# Export

@pytest.fixture(scope="module")
def tuned(tones, base, tmp_path_factory) -> Path:
    """A finished fine-tuning run."""
    folder = tmp_path_factory.mktemp("tuned")
    manifest.write(folder / "corpus.tsv", tones)
    files_commands.finetune_run(FinetuneRun(corpus=str(folder / "corpus.tsv"), init_from=str(base), out=str(folder / "run"),
                                      device="cpu"), dataclasses.replace(SMALL.finetune, epochs=2))
    return folder / "run"


@pytest.mark.parametrize("source", ["", "checkpoints/00000002", "recogniser"])
@pytest.mark.parametrize("encoder_only", [False, True])
def test_export_of_a_run_a_checkpoint_a_recogniser(tuned, tmp_path, source, encoder_only):
    files_commands.export(str(tuned / source), str(tmp_path / "out"), encoder_only, "huggingface")
    place = tuned / (source or "checkpoints/00000002")
    there, here = model_directory.read(place), model_directory.read(tmp_path / "out")
    assert all(torch.equal(here.state[name], x) for name, x in there.state.items()) and len(here.state) == len(
        there.state)
    assert set(here.head) == (set() if encoder_only else {"pooling.weight", "classifier.weight", "classifier.bias"})
    assert here.labels == (None if encoder_only else list(utterance.CLASSES))
    assert here.config == there.config and here.do_normalize == there.do_normalize


def test_export_to_torchaudios_names(tuned, tmp_path):
    files_commands.export(str(tuned), str(tmp_path / "ta.safetensors"), True, "torchaudio")
    wanted = torchaudio_weights.to_torchaudio(model_directory.read(tuned / "checkpoints" / "00000002").state)
    found = safetensors.torch.load_file(tmp_path / "ta.safetensors")
    assert set(found) == set(wanted) and all(torch.equal(found[name], x) for name, x in wanted.items())


def test_export_as_a_program(tuned, tones, tmp_path):
    """Of a run its newest checkpoint; the same answer as the exported directory; an encoder alone is refused."""
    files_commands.export(str(tuned), str(tmp_path / "a.pt2"), False, "torch-export")
    waveform = audio.load(tones[3].path)
    found = torch.export.load(tmp_path / "a.pt2").module()(waveform[None], torch.tensor([len(waveform)]))[0][0]
    wanted = Recogniser.from_pretrained(tuned / "checkpoints" / "00000002")(waveform).probabilities
    assert found.tolist() == pytest.approx(list(wanted.values()), abs=2e-5)
    with pytest.raises(ValueError, match="--to torch-export writes a recogniser: leave out --encoder"):
        files_commands.export(str(tuned), str(tmp_path / "b.pt2"), True, "torch-export")
    assert not (tmp_path / "b.pt2").exists()


def test_export_of_the_unit_head_leaves_it_out(table, units, base, tmp_path):
    config = PretrainRun(corpus=str(table), units=str(units), init_from=str(base), out=str(tmp_path / "run"))
    files_commands.pretrain_run(config, SMALL.pretrain)
    files_commands.export(str(tmp_path / "run"), str(tmp_path / "out"), False, "huggingface")
    assert not model_directory.read(tmp_path / "out").head
    assert small.digests(tmp_path / "out", "model.safetensors") == small.digests(tmp_path / "run" / "encoder",
                                                                                "model.safetensors")


def test_export_writes_over_nothing(tuned, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ValueError, match="mine: exists already; choose another name or remove it"):
        files_commands.export(str(tuned), str(tmp_path / "mine"), False, "huggingface")
    for source in ("nowhere", "nowhere.pt"):
        with pytest.raises(ValueError, match=f"{source}: no such"):
            files_commands.export(str(tmp_path / source), str(tmp_path / "out"), False, "huggingface")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
