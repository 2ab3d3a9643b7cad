"""The recipe on the smallest corpus: what runs, what is shared, kept, stale, remade, continued, refused."""
import csv
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ranks
import safetensors.torch
import small
import soundfile
import torch

from framealign.runtime import files, log
from framealign.corpus import manifest
from framealign.corpus.importers import iemocap
from framealign.hubert.model import Hubert
from framealign.units.codebook import Codebook
from framealign.units.units import Units
from framealign.emotion import metrics
from framealign.emotion.recogniser import Recogniser
from framealign.training import checkpoint, finetune, optimiser
from framealign.recipe import recipe, results, session_config
from framealign.recipe.presets import preset

ALIGN = ["tapt-units", "tapt-pretrain", "tapt-finetune", "align-units", "align-pretrain", "ser-finetune"]
MULTISCALE = ["multiscale-units", "multiscale-pretrain", "multiscale-finetune"]
SHARED_STAGES = ("tapt-units", "tapt-pretrain")
PLACES = {name: name if name in SHARED_STAGES else f"session1/{name}" for name in (*ALIGN, "finetune")}


@dataclasses.dataclass
class World:
    """Corpus, base model, and a folder in which every run is made."""
    tree: Path
    base: Path
    folder: Path

    def run(self, run: str, settings: dict[str, str] | None = None, **changes) -> dict[str, dict]:
        """Run the recipe in a folder of that name; results by session."""
        changes = {"hubert": str(self.base)} | changes
        if "corpus" in changes:
            changes = {"iemocap": ""} | changes
        chosen = small.config(self.tree, changes.pop("hubert"), self.folder / run, **changes)
        return recipe.run_sessions(chosen, small.SETTINGS | (settings or {}))

    def recipe(self, run: str, settings: dict[str, str] | None = None, **changes) -> recipe.Recipe:
        return recipe.Recipe(small.config(self.tree, changes.pop("hubert", self.base), self.folder / run, **changes),
                              small.SETTINGS | (settings or {}))

    def copy(self, source: Path, run: str) -> Path:
        """A copy of a run to be spoilt."""
        return shutil.copytree(source, self.folder / run, symlinks=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("session")
    return World(small.write_tree(folder / "tree"), small.write_base(folder / "base"), folder)


@pytest.fixture(scope="module")
def finished(world) -> Path:
    """The paper's three methods on session 1, not to be changed."""
    for method in session_config.PAPERS:
        world.run("finished", method=method)
    return world.folder / "finished"


@pytest.fixture
def spoilt(world, finished, request) -> str:
    """The name of a run in which all three methods are finished and that may be changed."""
    name = "".join(x if x.isalnum() else "-" for x in request.node.name)
    world.copy(finished, name)
    return name


def made(run: Path, said: str) -> list[str]:
    """The stages that this output says were begun, as paths below the run's folder."""
    return [line.partition("] ")[2].removeprefix(f"{run}/") for line in said.splitlines()
            if line.startswith("[") and f"] {run}/" in line]


# What runs

def test_each_method_has_its_stages_in_order(world):
    names = {method: [stage.name for stage in world.recipe("none", method=method).stages()]
             for method in session_config.METHODS}
    assert names == {"probe": ["base", "probe"], "finetune": ["base", "finetune"], "tapt": ["base", *ALIGN[:3]],
                     "align": ["base", *ALIGN], "multiscale": ["base", *ALIGN[:3], *MULTISCALE]}
    assert [stage.name for stage in recipe.base_stages(world.recipe("none", hubert="scratch"))] == [
        "mfcc-units", "scratch-1", "scratch-units", "scratch-2"]
    assert not (world.folder / "none").exists()


def test_every_stage_leaves_its_products_and_a_record(world, finished):
    stages = {stage.name: stage for method in session_config.PAPERS
              for stage in world.recipe("finished", method=method).stages() if stage.make}
    assert {name: str(stage.folder.relative_to(finished)) for name, stage in stages.items()} == PLACES
    for stage in stages.values():
        record = files.read_json(stage.folder / "stage.json")
        assert set(record["products"]) == set(stage.products)
        assert all(stage.product(name).exists() for name in stage.products)
        assert record["settings"]["seed"] == 0 and record["protocol"]["pretrain_data"] == "transductive"
        assert set(record["versions"]) == {"framealign", "torch", "python"}
        assert {name: files.read_json(up.folder / "stage.json")["products"] for up in stage.upstream if up.make
                for name in [up.name]} == {name: digests for name, digests in record["upstream"].items()
                                           if name != "base"}
    left = {path.name for path in finished.iterdir()} | {path.name for path in (finished / "session1").iterdir()}
    assert left == {"corpus.tsv", "frontend", "session1", "recogniser", *PLACES}
    assert not [path for path in finished.rglob("*") if path.name in ("states", "mfcc", "begun.json")]


def test_the_results_state_the_protocol(finished):
    for name in ("finetune", "tapt-finetune", "ser-finetune"):
        results = files.read_json(finished / "session1" / name / "results.json")
        protocol = results["protocol"]
        assert {"selection": "clean", "validate_on": "session", "pretrain_data": "transductive", "seed": 0,
                "merged": "excited into happy", "test_crop_seconds": "none",
                "training_crop_seconds": preset("tiny").finetune.max_seconds or "none",
                "classes": ["neutral", "happy", "angry", "sad"]}.items() <= protocol.items()
        assert results["num_utterances"] == {"train": 8, "valid": 8, "test": 8} and not results["optimistic"]
        assert all(0 <= value <= 1 for value in results["reported"].values())


def test_the_folds_recogniser_is_the_tested_one(world, finished):
    link = finished / "session1" / "recogniser"
    assert os.readlink(link) == "ser-finetune/recogniser"
    recogniser = Recogniser.from_pretrained(link)
    with open(finished / "session1" / "ser-finetune" / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows[:2]:
        wav = next(world.tree.rglob(f"{row['id']}.wav"))
        found = recogniser(wav)
        assert found.emotion == row["predicted"]
        assert [float(row[name]) for name in found.probabilities] == pytest.approx([*found.probabilities.values()],
                                                                                  abs=1e-3)


def test_align_starts_from_the_base_and_clusters_the_recogniser(world, finished):
    """Phase 2 is pretrained from the base model again, on units of phase 1's fine-tuned encoder."""
    align = files.read_json(finished / "session1" / "align-pretrain" / "stage.json")["upstream"]
    tapt = files.read_json(finished / "tapt-pretrain" / "stage.json")["upstream"]
    assert set(align) == {"base", "align-units"} and align["base"] == tapt["base"]
    assert set(files.read_json(finished / "session1" / "align-units" / "stage.json")["upstream"]) == {"tapt-finetune"}
    base = Hubert.from_pretrained(world.base).state_dict()
    for place in ("tapt-pretrain", "session1/align-pretrain"):
        trained = Hubert.from_pretrained(finished / place / "encoder").state_dict()
        changed = {name.split(".")[0] for name in base if not torch.equal(base[name], trained[name])}
        assert changed == {"masked_spec_embed", "feature_projection", "encoder"}, place
    units = Units.read(finished / "session1" / "align-units" / "units.safetensors")
    assert units.num_clusters == 5 and units.record["layer"] == 1 and units.record["codebook"] == "fitted"


def test_from_scratch_runs_four_stages_before(world, capsys):
    world.run("scratch", hubert="scratch", method="tapt")
    run = world.folder / "scratch"
    assert made(run, capsys.readouterr().out) == [
        "scratch/mfcc-units", "scratch/scratch-1", "scratch/scratch-units", "scratch/scratch-2", "tapt-units",
        "tapt-pretrain", "session1/tapt-finetune"]
    sizes = [Units.read(run / place / "units.safetensors").num_clusters
             for place in ("scratch/mfcc-units", "scratch/scratch-units")]
    assert sizes == [6, 8]
    model = Hubert.from_pretrained(run / "scratch" / "scratch-2" / "encoder")
    assert model.config == small.model() and not model.do_normalize
    first, second = (files.read_json(run / "scratch" / name / "stage.json") for name in ("scratch-1", "scratch-2"))
    assert set(first["upstream"]) == {"mfcc-units"} and set(second["upstream"]) == {"scratch-units"}
    world.run("scratch", hubert="scratch", method="tapt")
    assert made(run, capsys.readouterr().out) == []
    with pytest.raises(ValueError, match="stage scratch-1 .* settings.pretrain.peak_lr"):
        world.run("scratch", {"scratch.peak_lr": "0.1"}, hubert="scratch", method="tapt")


# What is shared

def test_methods_share_phase_one(world, capsys):
    run = world.folder / "methods"
    world.run("methods", method="tapt")
    before = small.digests(run)
    capsys.readouterr()
    world.run("methods", method="align")
    assert made(run, capsys.readouterr().out) == [f"session1/{name}" for name in ALIGN[3:]]
    after = small.digests(run)
    assert {path: after[path] for path in before if path != "session1/recogniser"} == {
        path: digest for path, digest in before.items() if path != "session1/recogniser"}


def test_sessions_share_what_does_not_depend_on_them(world, spoilt, capsys):
    run = world.folder / spoilt
    results = world.run(spoilt, session="all")
    assert list(results) == ["1", "2", "3"]
    assert made(run, capsys.readouterr().out) == [f"session{n}/{name}" for n in (2, 3) for name in ALIGN[2:]]
    tested = [{row["id"][:5] for row in csv.DictReader(open(run / f"session{n}" / "ser-finetune" / "predictions.csv"))}
              for n in (1, 2, 3)]
    assert tested == [{"Ses01"}, {"Ses02"}, {"Ses03"}]


def test_inductive_pretraining_shares_nothing_and_leaves_the_held_out_session_out(world, capsys):
    run = world.folder / "inductive"
    for fold in "12":
        world.run("inductive", session=fold, method="tapt", pretrain_data="inductive")
    assert made(run, capsys.readouterr().out) == [f"session{n}/{name}" for n in (1, 2) for name in ALIGN[:3]]
    for fold in "12":
        utterances = [u for u in manifest.read(run / "corpus.tsv") if u.session != fold]
        Units.read(run / f"session{fold}" / "tapt-units" / "units.safetensors").check(utterances, "units")
        record = files.read_json(run / f"session{fold}" / "tapt-units" / "stage.json")
        assert record["settings"]["pretraining_corpus"].startswith("16 utterances")
        assert record["protocol"]["pretrain_data"] == "inductive"


# Several codebooks

def test_several_numbers_of_clusters_are_several_codebooks_and_heads(world, spoilt, capsys):
    """Beside `align` in the same folder, sharing phase 1 with it; both codebooks are of the same frames."""
    capsys.readouterr()
    world.run(spoilt, clusters="3,7")
    run, fold = world.folder / spoilt, world.folder / spoilt / "session1"
    assert made(run, capsys.readouterr().out) == [f"session1/{name}" for name in MULTISCALE]
    units = [Units.read(fold / "multiscale-units" / f"units-{number}.safetensors") for number in (3, 7)]
    assert [one.num_clusters for one in units] == [3, 7] and torch.equal(units[0].offsets, units[1].offsets)
    for one, number in zip(units, (3, 7)):
        codebook = Codebook.read(fold / "multiscale-units" / f"codebook-{number}.safetensors")
        assert torch.equal(torch.bincount(one.units, minlength=number), codebook.counts)
    _, heads, _ = checkpoint.latest(fold / "multiscale-pretrain")
    assert [tuple(heads[f"heads.{index}.codewords"].shape)[0] for index in (0, 1)] == [3, 7]
    assert files.read_json(fold / "multiscale-pretrain" / "pretrain.json")["num_clusters"] == [3, 7]
    results = files.read_json(fold / "multiscale-finetune" / "results.json")
    assert os.readlink(fold / "recogniser") == "ser-finetune/recogniser" and "ua" in results["reported"]
    one, two = (Hubert.from_pretrained(fold / f"{name}-pretrain" / "encoder").state_dict()
                for name in ("align", "multiscale"))
    assert not torch.equal(one["encoder.layers.1.attention.q_proj.weight"],
                           two["encoder.layers.1.attention.q_proj.weight"])


def test_the_probe_is_one_stage_and_its_means_serve_every_fold(world, capsys):
    """Of labelled utterances alone; the recogniser is that of the fold, with a card; another fold computes nothing."""
    tested = world.run("probe", method="probe", session="all")
    assert capsys.readouterr().out.count("layer means: 24 utterances of 48 x float32") == 1 and list(tested) == [*"123"]
    run = world.folder / "probe"
    assert {path.name for path in (run / "session1").iterdir()} == {"probe", "recogniser"}
    assert {path.name for path in run.iterdir()} == {"corpus.tsv", "layer-means", *(f"session{n}" for n in "123")}
    assert os.readlink(run / "session2" / "recogniser") == "probe/recogniser"
    results = files.read_json(run / "session1" / "probe" / "results.json")
    assert results["protocol"]["method"] == "probe" and results["protocol"]["training_crop_seconds"] == "none"
    assert results["num_utterances"] == {"train": 8, "valid": 8, "test": 8} and len(results["layer_weights"]) == 3
    card = (run / "session1" / "recogniser" / "README.md").read_text()
    assert "HuBERT encoder, frozen; weighted sum of its layers" in card and "layers in the weighted sum, at one" in card
    base, fine = Hubert.from_pretrained(world.base), Recogniser.from_pretrained(run / "session1" / "recogniser")
    assert all(torch.equal(x, base.state_dict()[name]) for name, x in fine.model.hubert.state_dict().items())
    before = small.products(run)
    world.run("probe", method="probe", session="all")
    assert small.products(run) == before and capsys.readouterr().out.count("[probe] kept") == 3
    with pytest.raises(ValueError, match="stage probe in .* is stale: settings.probe.lr was 0.001, is 0.1; remake it"):
        world.run("probe", {"probe.lr": "0.1"}, method="probe")


@pytest.mark.parametrize("selection", ["speaker", "reference"])
def test_a_probe_of_two_trainings_is_one_result(world, selection):
    tested = world.run(f"probe-{selection}", method="probe", selection=selection)["1"]
    assert [len(way["layer_weights"]) for way in tested["ways"]] == [3, 3]
    assert tested["test"]["interval_over"] == "2 speakers" and sum(map(sum, tested["test"]["confusion"])) == 8
    fold = world.folder / f"probe-{selection}" / "session1"
    assert (fold / "probe" / "recogniser").resolve() == (fold / "probe" / "way1" / "recogniser").resolve()


def test_room_of_a_probe(world):
    """Its model, no checkpoint; the means of every utterance's layers, no conv features."""
    asked = world.recipe("none", method="probe", session="1").room()
    folder = world.folder / "none"
    assert asked[folder / "layer-means"] == 24 * 3 * 16 * 4 and folder / "frontend" not in asked
    size = sum(x.numel() for x in Hubert(small.model()).state_dict().values()) * 4
    assert asked[folder / "session1" / "probe"] == size


@pytest.mark.parametrize("given, method, clusters", [
    ({}, "align", [5]), ({"clusters": "50"}, "align", [50]), ({"clusters": "4,9"}, "multiscale", [4, 9]),
    ({"method": "multiscale"}, "multiscale", [3, 5]), ({"method": "align", "clusters": "9"}, "align", [9])])
def test_the_number_of_clusters_says_the_method(world, given, method, clusters):
    recipe = world.recipe("none", **given)
    stage = next(stage for stage in recipe.stages() if stage.name == f"{method}-units")
    assert recipe.config.method == method and stage.settings["clusters"] == clusters


@pytest.mark.parametrize("given, message", [
    ({"clusters": "0"}, "--clusters must be a number from 1 to 999999, or different ones.*, got '0'"),
    ({"clusters": "32,32"}, "got '32,32'"), ({"clusters": "32;64"}, "got '32;64'"), ({"clusters": ","}, "got ','"),
    ({"clusters": "32,64", "method": "align"}, "--clusters 32,64 is for --method multiscale, got align"),
    ({"clusters": "50", "method": "multiscale"}, "--clusters 50 is for --method align, got multiscale"),
    ({"clusters": "50", "method": "tapt"}, "--clusters 50 is for --method align, got tapt")])
def test_numbers_of_clusters_that_are_none(given, message):
    with pytest.raises(ValueError, match=message):
        session_config.SessionConfig(corpus="x", hubert="tiny", **given)


def test_of_all_methods_one_takes_the_clusters():
    for clusters, taker in (("50", "align"), ("32,64", "multiscale")):
        config = session_config.SessionConfig(corpus="x", hubert="tiny", method="all", clusters=clusters)
        assert {method: config.of(method).clusters for method in session_config.METHODS} == {
            method: clusters if method == taker else "" for method in session_config.METHODS}


# What is kept, stale, remade

def test_a_second_run_makes_nothing(world, spoilt, capsys):
    run = world.folder / spoilt
    times = {path: path.lstat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    before = small.digests(run)
    for method in session_config.PAPERS:
        capsys.readouterr()
        world.run(spoilt, method=method)
        said = capsys.readouterr().out
        assert made(run, said) == []
        assert said.count("] kept, made in ") == {"finetune": 1, "tapt": 3, "align": 6}[method]
    assert small.digests(run) == before
    assert {path: path.lstat().st_mtime_ns for path in times if path.name != "corpus.tsv"} == {
        path: time for path, time in times.items() if path.name != "corpus.tsv"}


@pytest.mark.parametrize("settings, changes, stage, reason", [
    ({"pretrain.updates": "5"}, {}, "tapt-pretrain", r"settings\.pretrain\.updates was 4, is 5"),
    ({"tapt_clusters": "7"}, {}, "tapt-units", r"settings\.clusters was \[8\], is \[7\]"),
    ({"align_layer": "2"}, {}, "align-units", r"settings\.layer was 1, is 2"),
    ({"kmeans.full_passes": "1"}, {}, "tapt-units", r"settings\.kmeans\.full_passes was 2, is 1"),
    ({"finetune.lr": "0.5"}, {}, "tapt-finetune", r"settings\.finetune\.lr was \S+, is 0\.5"),
    ({"finetune.lr": "0.5"}, {"method": "finetune"}, "finetune", r"settings\.finetune\.lr"),
    ({}, {"seed": 1}, "tapt-units", r"settings\.seed was 0, is 1"),
    ({}, {"selection": "last"}, "tapt-finetune", r"settings\.finetune\.selection was clean, is last"),
    ({}, {"validate_on": "speaker"}, "tapt-finetune", r"settings\.split was "),
    ({}, {"selection": "speaker"}, "ser-finetune", r"settings\.finetune\.selection was clean, is speaker"),
    ({}, {"classes": "sad,angry,happy,neutral"}, "tapt-finetune", r"settings\.classes was \['neutral'"),
    ({}, {"precision": "float32"}, "tapt-pretrain", r"settings\.precision was auto, is float32"),
    ({}, {"hubert": "other"}, "tapt-units", r"upstream\.base\.encoder was \w+, is \w+"),
    ({}, {"codebook": "tapt-units/codebook.safetensors"}, "tapt-units", r"settings\.codebook was , is \w+"),
])
def test_what_changed_is_said_and_nothing_remade(world, finished, settings, changes, stage, reason):
    changes = dict(changes)
    if "hubert" in changes:
        changes["hubert"] = small.write_base(world.folder / "other", seed=1)
    if "codebook" in changes:
        changes["codebook"] = str(finished / changes["codebook"])
    before = small.digests(finished)
    with pytest.raises(ValueError, match=rf"stage {stage} in \S+ is stale: {reason}.*; remake it and what builds on "
                                         f"it with --redo {stage}, or choose another --out folder"):
        world.run("finished", settings, **changes)
    assert small.digests(finished) == before


def test_a_corpus_that_was_moved_is_the_same_and_a_sound_of_equal_length_is_not(world, spoilt, tmp_path):
    """Nothing is remade for another path; everything for another content, though name, size and length are the same."""
    run, tree = world.folder / spoilt, shutil.copytree(world.tree, tmp_path / "moved")
    before = small.digests(run, "stage.json")
    world.run(spoilt, iemocap=str(tree))
    assert small.digests(run, "stage.json") == before
    sound = sorted(tree.rglob("*.wav"))[5]
    waveform, rate = soundfile.read(sound, dtype="int16")
    soundfile.write(sound, waveform[::-1], rate)
    with pytest.raises(ValueError, match=r"stage tapt-units .* settings\.corpus was 24 utterances \(digest \w+\), "
                                         r"is 24 utterances \(digest"):
        world.run(spoilt, iemocap=str(tree))
    assert small.digests(run, "stage.json") == before


@pytest.fixture
def table(world, finished, tmp_path) -> Path:
    """The finished run's manifest with absolute paths, to be changed."""
    manifest.write(tmp_path / "table.tsv", manifest.read(finished / "corpus.tsv"))
    return tmp_path / "table.tsv"


def test_another_merge_makes_stale(world, finished, table):
    with pytest.raises(ValueError, match=r"stage tapt-finetune .* settings\.merged was excited into happy, is none;"):
        world.run("finished", corpus=str(table), merge="none")
    with pytest.raises(ValueError, match=r"--merge names calm, and no utterance has that label; there are: \w+, \w+"):
        world.run("finished", corpus=str(table), merge="calm=sad")


def test_another_corpus_makes_stale(world, finished, table):
    world.run("finished", corpus=str(table))        # the same utterances
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ValueError, match=r"stage tapt-units .* settings\.corpus was 24 utterances \(digest \w+\), "
                                         r"is 23 utterances \(digest"):
        world.run("finished", corpus=str(table))
    assert "happy" in lines[3]
    table.write_text("\n".join([*lines[:3], lines[3].replace("happy", "sad"), *lines[4:]]) + "\n")
    with pytest.raises(ValueError, match=r"stage tapt-finetune .* settings\.split was"):    # labels count only here
        world.run("finished", corpus=str(table))


def test_a_product_made_anew_makes_stale_what_builds_on_it(world, spoilt):
    more = {"pretrain.updates": "5"}
    world.run(spoilt, more, method="tapt", redo="tapt-pretrain")
    with pytest.raises(ValueError, match=r"stage align-units .* stale: upstream\.tapt-finetune\.\S+ was \w+, is "
                                         r"\w+; .*--redo align-units"):
        world.run(spoilt, more)
    world.run(spoilt, more, redo="align-units")


@pytest.mark.parametrize("harm, reason", [
    (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "encoder is not what was made"),
    (lambda path: shutil.rmtree(path.parent), "encoder is gone"),
])
def test_a_product_that_was_spoilt_is_said(world, spoilt, harm, reason):
    harm(world.folder / spoilt / "tapt-pretrain" / "encoder" / "model.safetensors")
    with pytest.raises(ValueError, match=f"stage tapt-pretrain .* is stale: {reason}; .*--redo tapt-pretrain"):
        world.run(spoilt)


@pytest.mark.parametrize("redo, remade", [("align-pretrain", ALIGN[4:]), ("tapt-pretrain", ALIGN[1:]), ("all", ALIGN)])
def test_redo_remakes_a_stage_and_what_builds_on_it(world, finished, spoilt, capsys, redo, remade):
    run = world.folder / spoilt
    world.run(spoilt, redo=redo)
    assert made(run, capsys.readouterr().out) == [PLACES[name] for name in remade]
    assert small.products(run) == small.products(finished)      # same seed, same settings: the same bytes


def test_redo_of_all_sessions_remakes_what_they_share_once(world, capsys):
    world.run("redo", session="all", method="tapt")
    before = small.products(world.folder / "redo")
    capsys.readouterr()
    world.run("redo", session="all", method="tapt", redo="tapt-units")
    assert made(world.folder / "redo", capsys.readouterr().out) == [
        *SHARED_STAGES, *(f"session{n}/tapt-finetune" for n in (1, 2, 3))]
    assert small.products(world.folder / "redo") == before


def test_redo_of_no_stage_is_refused(world, finished):
    with pytest.raises(ValueError, match="--redo must be all or one of tapt-units, .*ser-finetune, got everything"):
        world.run("finished", redo="everything")
    with pytest.raises(ValueError, match="--redo must be all or one of finetune, got tapt-units"):
        world.run("finished", redo="tapt-units", method="finetune")


# Protocols

@pytest.mark.parametrize("selection", ["last", "best-test"])
def test_selection_without_validation(world, selection):
    results = world.run(f"sel-{selection}", method="finetune", selection=selection)["1"]
    assert results["num_utterances"] == {"train": 16, "valid": 0, "test": 8}
    assert results["optimistic"] == (selection == "best-test") and results["selection"] == selection
    assert results["selected_epoch"] == 2 or selection == "best-test"
    assert "validate_on" not in results["protocol"]


@pytest.mark.parametrize("selection", ["speaker", "reference"])
def test_selection_on_speakers_goes_both_ways(world, selection):
    results = world.run(f"sel-{selection}", method="finetune", selection=selection)["1"]
    place = world.folder / f"sel-{selection}" / "session1" / "finetune"
    rows = list(csv.DictReader(open(place / "predictions.csv", encoding="utf-8", newline="")))
    assert sorted(row["id"] for row in rows) == sorted(path.stem for path in (world.tree / "Session1").rglob("*.wav"))
    ways = results["ways"]
    assert [len({row["id"][-4] for row in rows[part]}) for part in (slice(0, 4), slice(4, 8))] == [1, 1]
    for name in ("wa", "ua", "macro_f1"):
        parts = ("valid", "test") if selection == "reference" else ("test",)
        assert results["reported"][name] == pytest.approx(np.mean([way[part][name] for way in ways for part in parts]))
    together = sum(np.array(way["test"]["confusion"]) for way in ways)
    assert results["test"]["confusion"] == together.tolist() and results["test"]["wa"] == metrics.wa(together)
    assert results["num_utterances"] == {"train": 16, "valid": 8, "test": 8}
    assert results["optimistic"] == (selection == "reference") and len(results["selected_epoch"]) == 2
    assert Recogniser.from_pretrained(place / "recogniser").labels == results["classes"]


def test_phase_one_is_never_selected_on_the_test_session(world, spoilt, capsys):
    run = world.folder / spoilt
    world.run(spoilt, method="tapt", selection="speaker")
    assert made(run, capsys.readouterr().out) == ["session1/tapt-finetune-speaker"]
    world.run(spoilt, selection="reference", redo="ser-finetune")
    assert made(run, capsys.readouterr().out) == ["session1/ser-finetune"]     # on the clean tapt-finetune
    assert files.read_json(run / "session1" / "tapt-finetune" / "results.json")["selection"] == "clean"


def test_validation_on_one_speaker(world):
    results = world.run("one-speaker", method="finetune", validate_on="speaker")["1"]
    assert results["num_utterances"] == {"train": 12, "valid": 4, "test": 8}
    assert results["protocol"]["validate_on"] == "speaker"


def test_a_class_left_out_is_still_pretrained_on(world):
    recipe = world.recipe("none", classes="angry, sad")
    assert [len(part) for part in dataclasses.astuple(recipe.splits("clean")[0])[:3]] == [4, 4, 4]
    labels = [u.label for u in recipe.pretraining_utterances]
    assert set(labels) == {"angry", "sad", ""} and len(labels) == 24
    results = world.run("two-classes", method="finetune", classes="angry, sad")["1"]
    assert results["classes"] == ["angry", "sad"]


@pytest.mark.parametrize("method, start", (("align", "base"), ("align", "method"), ("finetune", "base")))
def test_the_stage_frames_comes_after_the_method_and_changes_nothing_of_it(world, finished, spoilt, method, start):
    """Kept when the command is given again, stale when its settings change."""
    run, name = world.folder / spoilt, {"method": "align-frames", "base": "frames"}[start]
    before = small.digests(run)
    results = world.run(spoilt, method=method, frames=True, frames_start=start)["1"]
    tested = {"align": "ser-finetune", "finetune": "finetune"}[method]
    assert results == files.read_json(finished / "session1" / tested / "results.json")
    after, link = small.digests(run), "session1/recogniser"
    assert (before.pop(link), after[link]) == ("ser-finetune/recogniser", f"{name}/recogniser")
    assert {path: digest for path, digest in after.items() if path in before} == before
    assert {Path(path).parts[1] for path in after.keys() - before.keys() - {link}} == {name}
    recogniser = Recogniser.from_pretrained(run / "session1" / name / "recogniser")
    assert recogniser.model.frames is not None
    record = files.read_json(run / "session1" / name / "stage.json")
    assert list(record["upstream"]) == [{"base": "base", "method": "align-pretrain"}[start]] and record["stage"] == name
    tested = files.read_json(run / "session1" / name / "results.json")
    assert tested["selection"] == "last" and tested["num_utterances"] == {"train": 8, "valid": 8, "test": 8}
    assert tested["protocol"]["validation"] == "for the temperatures alone" and tested["calibration"]["fitted_on"]
    card = (run / "session1" / name / "recogniser" / "README.md").read_text()
    assert "no label of a frame was ever seen" in card and "applied to single frames" not in card
    world.run(spoilt, method=method, frames=True, frames_start=start)
    assert small.digests(run) == after
    with pytest.raises(ValueError, match=rf"stage {name} in \S+ is stale: settings\.frames\.epochs was 2, is 3"):
        world.run(spoilt, {"frames.epochs": "3"}, method=method, frames=True, frames_start=start)


def test_methods_share_the_classifier_of_frames_from_the_base_model(world, spoilt, capsys):
    world.run(spoilt, method="align", frames=True)
    before = small.digests(world.folder / spoilt)
    capsys.readouterr()
    for method in ("finetune", "tapt"):
        world.run(spoilt, method=method, frames=True, frames_start="method" if method == "finetune" else "base")
        assert "[frames] kept" in capsys.readouterr().out
    assert small.digests(world.folder / spoilt) == before


def test_the_bound_is_trained_on_the_true_frames(world):
    """A stage of its own after `frames`, of which it changes nothing; refused without it."""
    world.run("bound", method="finetune", frames=True, bound=True)
    fold = world.folder / "bound" / "session1"
    found = {name: files.read_json(fold / f"frames{name}" / "results.json") for name in ("", "-bound")}
    assert found[""]["protocol"]["frames"] == "trained" and (fold / "frames" / "scorer").exists()
    assert found["-bound"]["protocol"]["frames"] == "trained on their truth"
    assert not (fold / "frames-bound" / "scorer").exists()
    assert found[""]["over_time"]["num_utterances"] == found["-bound"]["over_time"]["num_utterances"] == 8
    assert found[""]["test"] != found["-bound"]["test"] or found[""]["over_time"] != found["-bound"]["over_time"]
    assert os.readlink(fold / "recogniser") == "frames/recogniser"
    with pytest.raises(ValueError, match="--bound is beside the stage `frames`: not with --no-frames"):
        world.recipe("refused", frames=False, bound=True)


def test_the_bound_needs_the_truth_of_every_training_utterance(world):
    """Said before the training."""
    chosen = small.config(world.tree, world.base, world.folder / "no-truth", method="finetune", frames=True, bound=True)
    utterances = session_config.read_utterances(chosen)
    bare = shutil.copy(utterances[-1].path, world.folder / "bare.wav")
    utterances[-1] = dataclasses.replace(utterances[-1], path=Path(bare))
    with pytest.raises(ValueError, match=r"--bound trains on the truth of frames, .* of \S+bare.wav; run without it"):
        recipe.Recipe(chosen, small.SETTINGS, utterances).stages()


@pytest.mark.parametrize("classes, speaker, reason", [
    ("angry,sad", "", "there is no class neutral, what an utterance is outside its emotion"),
    ("neutral,happy,angry,sad", "{label} {speaker}",
     "no speaker of the training part has both neutral and emotional utterances, which are joined")])
def test_without_what_it_needs_there_is_no_stage_frames(world, capsys, classes, speaker, reason):
    """Said before hours of training, not an error after them; the method's own stages are made."""
    log._said.clear()
    chosen = small.config(world.tree, world.base, world.folder / f"none-{len(classes)}", method="finetune",
                          classes=classes, frames=True)
    utterances = session_config.read_utterances(chosen)
    if speaker:
        utterances = [dataclasses.replace(u, speaker=speaker.format(label=u.label, speaker=u.speaker))
                      for u in utterances]
    made = recipe.Recipe(chosen, small.SETTINGS, utterances).stages()
    assert [stage.name for stage in made] == ["base", "finetune"]
    assert f"session 1: no stage frames: {reason}\n" in capsys.readouterr().err


def test_a_given_codebook_is_used(world, finished):
    given = finished / "tapt-units" / "codebook.safetensors"
    world.run("given", method="tapt", codebook=str(given))
    units = Units.read(world.folder / "given" / "tapt-units" / "units.safetensors")
    fitted = Units.read(finished / "tapt-units" / "units.safetensors")
    assert torch.equal(units.units, fitted.units)
    assert (units.record["codebook"], fitted.record["codebook"]) == (str(given), "fitted")
    assert torch.equal(Codebook.read(world.folder / "given" / "tapt-units" / "codebook.safetensors").centroids,
                       Codebook.read(given).centroids)


def test_a_base_model_as_it_is_downloaded(world, tmp_path):
    """Older directories hold pytorch_model.bin, no preprocessor_config.json and perhaps no mask embedding."""
    state = Hubert.from_pretrained(world.base).state_dict()
    torch.save({name: x for name, x in state.items() if name != "masked_spec_embed"}, tmp_path / "pytorch_model.bin")
    shutil.copy(world.base / "config.json", tmp_path / "config.json")
    found = []
    for name in ("old-1", "old-2"):
        world.run(name, method="tapt", hubert=tmp_path)
        found.append(small.products(world.folder / name))
    world.run("old-1", method="tapt", hubert=tmp_path)
    assert found[0] == found[1]


# Interruptions

def test_the_same_seed_gives_the_same_bytes(world, finished):
    world.run("again")
    again = small.products(world.folder / "again")
    assert len(again) == 20 and again.items() <= small.products(finished).items()
    world.run("seed", seed=1)
    other = small.products(world.folder / "seed")
    assert [path for path in again if again[path] == other[path]
            and path.endswith(("model.safetensors", "units.safetensors"))] == []


def interrupt(monkeypatch, owner: object, name: str, number: int) -> None:
    """Let the call number `number` of a function end in Ctrl-C, before it does anything."""
    whole, count = getattr(owner, name), iter(range(10 ** 6))

    def stopping(*args, **kwargs):
        if next(count) == number:
            raise KeyboardInterrupt
        return whole(*args, **kwargs)

    monkeypatch.setattr(owner, name, stopping)


@pytest.mark.parametrize("owner, name, calls", [(os, "replace", 60), (optimiser, "step", 20), (finetune, "predict", 8),
                                                (recipe, "write_units", 2), (np.lib.format, "open_memmap", 3)])
def test_interrupted_runs_end_like_uninterrupted_ones(world, finished, monkeypatch, owner, name, calls):
    """Several interruptions of one run, each at a place drawn for it; then the same command once more."""
    run, draw = f"interrupted-{name}", random.Random(name)
    stops = 0
    for number in sorted(draw.sample(range(calls), min(3, calls))):
        with monkeypatch.context() as patch:
            interrupt(patch, owner, name, number // (stops + 1))
            try:
                world.run(run)
            except KeyboardInterrupt:
                stops += 1
    assert stops >= min(2, calls)
    world.run(run)
    found = small.products(world.folder / run)
    assert found.items() <= small.products(finished).items() and len(found) == 20


@pytest.mark.slow                                   # in other words: test_survival.py, whose processes start at once
def test_killed_runs_end_like_uninterrupted_ones(world, finished):
    """SIGKILL after a line of output that is drawn, twice; what is left is finished in this process."""
    run, draw = world.folder / "killed", random.Random(1)
    command = [sys.executable, small.ROOT / "bin" / "session.py", "--iemocap", world.tree, "--allow-partial",
               "--hubert", world.base, "--preset", "tiny", "--out", run, "--device", "cpu", *small.FLAGS]
    for lines in (draw.randint(2, 8), draw.randint(3, 12)):
        with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                              cwd=world.folder, env=small.ENVIRONMENT) as process:
            for _ in range(lines):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    assert not (run / "session1" / "recogniser").exists()
    world.run("killed")
    assert small.products(run).items() <= small.products(finished).items()


def test_half_made_with_another_configuration_is_said(world, monkeypatch, capsys):
    run = world.folder / "half"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, optimiser, "step", 3)
        world.run("half", method="tapt")
    assert (run / "tapt-pretrain" / "checkpoints" / "00000002").exists()
    before = small.digests(run)
    with pytest.raises(ValueError, match=r"stage tapt-pretrain in \S+ is half-made and stale: "
                                         r"settings\.pretrain\.peak_lr was 0\.001, is 0\.01; .*--redo tapt-pretrain"):
        world.run("half", {"pretrain.peak_lr": "0.01"}, method="tapt")
    assert small.digests(run) == before
    world.run("half", {"pretrain.peak_lr": "0.01"}, method="tapt", redo="tapt-pretrain")
    assert "continues after" not in capsys.readouterr().out
    assert files.read_json(run / "tapt-pretrain" / "stage.json")["settings"]["pretrain"]["peak_lr"] == 0.01


def on_a_rank(tree: Path, base: Path, run: Path) -> dict:
    """The method align as torchrun's ranks run it."""
    return recipe.run_sessions(small.config(tree, base, run), small.SETTINGS)


def test_two_ranks_make_what_one_makes(world, finished):
    found = ranks.run(on_a_rank, 2, world.tree, world.base, world.folder / "ranks")
    assert found[0] == found[1]
    run = world.folder / "ranks"
    assert files.read_json(run / "tapt-pretrain" / "stage.json")["ranks"] == 2
    one, two = (Units.read(place / "tapt-units" / "units.safetensors").units for place in (finished, run))
    assert torch.equal(one, two)
    one, two = (safetensors.torch.load_file(place / "tapt-pretrain" / "encoder" / "model.safetensors")
                for place in (finished, run))
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


# Other folds than the corpus' sessions

@pytest.mark.parametrize("kind, described", [("speakers", "by speaker"), ("3", r"3 groups of speakers \(seed 0\)"),
                                             ("split", "fixed split")])
def test_a_run_has_one_kind_of_folds(world, finished, table, kind, described):
    """Other folds are refused at once, even where their folders would have other names."""
    give_splits(table, {"1": "train", "2": "valid", "3": "test"})
    before = small.digests(finished)
    for redo in ("", "all"):
        with pytest.raises(ValueError, match=rf"its folds are by session \(\S+\), not {described}; choose another --o"):
            world.run("finished", corpus=str(table), folds=kind, session="all", redo=redo)
    assert small.digests(finished) == before


@pytest.mark.parametrize("method", ["finetune", "probe"])
def test_each_corpus_is_held_out(world, table, method, capsys):
    """Folds are called corpora wherever they are named; draws over corpora go on where they were interrupted."""
    corpus_of = {"1": "one", "2": "three", "3": "two"}
    manifest.write(table, [dataclasses.replace(u, corpus=corpus_of[u.session]) for u in manifest.read(table)])
    balanced = {f"{part}.balance_corpora": "true" for part in ("finetune", "probe", "frames")}
    chosen = {"corpus": str(table), "folds": "corpus", "session": "all", "method": method, "frames": True}
    assert world.run(f"corpora-{method}", balanced, preflight=True, **chosen) == {}
    assert "sessionthree valid: 8 utterances" in capsys.readouterr().out
    tested = world.run(f"corpora-{method}", balanced, **chosen)
    assert [*tested] == ["one", "two", "three"]
    assert "== corpus two held out, method" in capsys.readouterr().out
    run = world.folder / f"corpora-{method}"
    collected = results.collect(run, method)
    assert collected["protocol"]["folds"] == "by corpus"
    text = results.table(collected)
    lines = [line.split() for line in text.splitlines()]
    header = next(i for i, line in enumerate(lines) if line[:2] == ["corpus", "WA"])
    assert [line[0] for line in lines[header + 1:header + 4]] == ["one", "two", "three"]
    assert [u.corpus for u in manifest.read(run / "corpus.tsv")] == [u.corpus for u in manifest.read(table)]
    card = (run / "sessionone" / "recogniser" / "README.md").read_text()
    assert "- folds: by corpus\n" in card
    assert tested["one"]["corpora"] == {"train": {"two": 8}, "valid": {"three": 8}, "test": {"one": 8}}
    assert "in the test. By corpus: train 8 of two; valid 8 of three; test 8 of one. `trained_on.tsv` names" in card
    assert not collected["subsets"].keys() & {"corpus one", "corpus two", "corpus three"}
    with pytest.raises(ValueError, match="no utterance of session 1; there are: one, three, two"):
        world.run("refused", **(chosen | {"session": "1"}))


def test_corpora_are_counted_where_there_are_several(world, table):
    """By part; of several trainings, in which each speaker is tested once, as they are together."""
    first = {u.session: u.speaker for u in reversed(manifest.read(table))}
    several = [dataclasses.replace(u, corpus="a" if u.speaker == first[u.session] else "b")
               for u in manifest.read(table)]
    manifest.write(table, several)
    half = {"a": 4, "b": 4}
    for selection, train in (("clean", half), ("speaker", {"a": 8, "b": 8})):
        chosen = {"corpus": str(table), "method": "probe", "selection": selection}
        (_, tested), = world.run(f"counted-{selection}", **chosen).items()
        assert tested["corpora"] == {"train": train, "valid": half, "test": half}
        assert all(sorted(way["corpora"]["test"].values()) == [4] for way in tested.get("ways", []))
        card = (world.folder / f"counted-{selection}" / "session1" / "recogniser" / "README.md").read_text()
        assert "valid 4 of a, 4 of b; test 4 of a, 4 of b." in card and "\ncorpus  neutral" in card
        collected = results.collect(world.folder / f"counted-{selection}", "probe")
        assert {"corpus a", "corpus b"} <= collected["subsets"].keys()
    manifest.write(table, [dataclasses.replace(u, corpus="a") for u in several])
    (_, tested), = world.run("counted-one", corpus=str(table), method="probe").items()
    assert "corpora" not in tested


def give_splits(table: Path, part_of: dict[str, str], others: dict[int, str] | None = None) -> None:
    """Write the column split by session, and other cells by number of the utterance."""
    parts = [dataclasses.replace(u, split=(others or {}).get(number, part_of[u.session]))
             for number, u in enumerate(manifest.read(table))]
    manifest.write(table, parts)


@pytest.mark.parametrize("kind, names, word", [
    ("speakers", [f"Ses0{session}{gender}" for session in (1, 2, 3) for gender in "FM"], "speaker"),
    ("3", ["1", "2", "3"], "group")])
def test_folds_of_speakers_make_one_table(world, table, kind, names, word):
    tested = world.run(f"folds-{kind}", corpus=str(table), folds=kind, session="all", method="finetune")
    run = world.folder / f"folds-{kind}"
    assert [*tested] == names and all((run / f"session{name}" / "recogniser").exists() for name in names)
    collected = results.collect(run, "finetune")
    assert sorted(collected["predictions"].ids) == sorted(u.id for u in manifest.read(table))
    assert collected["protocol"]["folds"] == {"speakers": "by speaker", "3": "3 groups of speakers (seed 0)"}[kind]
    lines = [line.split() for line in results.table(collected).splitlines()]
    header = next(i for i, line in enumerate(lines) if line[:2] == [word, "WA"])
    assert [line[0] for line in lines[header + 1:header + 1 + len(names)]] == names
    card = (run / f"session{names[0]}" / "recogniser" / "README.md").read_text()
    assert f"- folds: {collected['protocol']['folds']}\n" in card


def test_a_fixed_split_is_one_fold(world, table):
    give_splits(table, {"1": "test", "2": "train", "3": "valid"})
    (name, tested), = world.run("fixed", corpus=str(table), folds="split", method="finetune").items()
    assert name == "test" and tested["num_utterances"] == {"train": 8, "valid": 8, "test": 8}
    assert tested["protocol"]["folds"] == "fixed split" and "speakers" not in tested["protocol"]
    assert {u.session for u in manifest.read(world.folder / "fixed" / "corpus.tsv")} == {"train", "valid", "test"}
    with pytest.raises(ValueError, match="--folds split holds the part test out, got --session 2"):
        world.run("fixed", corpus=str(table), folds="split", session="2")


def test_a_split_that_shares_speakers_names_both_lines_and_may_be_marked(world, table):
    give_splits(table, {"1": "test", "2": "train", "3": "valid"}, {0: "train"})
    lines = table.read_text().splitlines()
    assert lines[1].endswith("train") and lines[2].endswith("test")
    mate = next(i for i, line in enumerate(lines[2:], 3) if line.split("\t")[4] == lines[1].split("\t")[4])
    with pytest.raises(ValueError, match=rf"speaker Ses01\w is on two sides of the split, train at {table}:2 and "
                                         rf"test at {table}:{mate}; .*--allow-shared-speakers"):
        world.run("shared", corpus=str(table), folds="split", method="finetune")
    assert not (world.folder / "shared").exists()
    world.run("shared", corpus=str(table), folds="split", method="finetune", allow_shared_speakers=True)
    collected = results.collect(world.folder / "shared", "finetune")
    assert collected["protocol"]["speakers"] == "shared"
    assert "speakers shared" in results.protocol_line(collected["protocol"])
    assert results.SHARED_SPEAKERS in results.table(collected).splitlines()
    card = (world.folder / "shared/sessiontest/recogniser/README.md").read_text()
    assert f"**Optimistic**: {results.SHARED_SPEAKERS}." in card and "2 (1 of them the same) in the test" in card


# A share of the labels

def test_a_share_of_the_labels_is_made_beside_and_shares_what_hears_sound_alone(world, finished, spoilt, capsys):
    """Half of 2 utterances of each class: one. Full folds stay as they are, stages that see no label are kept."""
    run = world.folder / spoilt
    before = small.digests(run)
    for method in ("finetune", "align"):
        tested = world.run(spoilt, method=method, label_share=0.5)["1"]
        assert tested["num_utterances"] == {"train": 4, "valid": 4, "test": 8}
        assert tested["protocol"]["label_share"] == 0.5
    said = capsys.readouterr().out
    assert made(run, said) == [f"share0.5/session1/{name}" for name in ("finetune", *ALIGN[2:])]
    assert "[tapt-units] kept" in said and "[tapt-pretrain] kept" in said
    after = small.digests(run)
    assert {path: after[path] for path in before} == before
    assert {path.partition("/")[0] for path in after.keys() - before.keys()} == {"share0.5"}

    fold = run / "share0.5" / "session1"
    collected = results.collect(run / "share0.5", "align")
    assert "label share 0.5" in results.table(collected)
    assert "- label share: 0.5\n" in (fold / "recogniser" / "README.md").read_text()
    known = [line.split("\t") for line in (fold / "recogniser/trained_on.tsv").read_text().splitlines()[1:]]
    assert [cells[-1] for cells in known] == 4 * ["training"] + 4 * ["selection"]
    assert sorted(cells[-2] for cells in known) == sorted(2 * ["neutral", "happy", "angry", "sad"])
    for name in SHARED_STAGES:
        assert "label_share" not in files.read_json(run / name / "stage.json")["settings"]
    assert files.read_json(fold / "ser-finetune" / "stage.json")["settings"]["label_share"] == 0.5
    assert "label_share" not in files.read_json(finished / "session1/ser-finetune/stage.json")["settings"]


def test_the_same_labels_for_every_method_of_a_seed(world):
    known = {}
    for seed in (0, 1):
        for method in ("probe", "finetune"):
            run = f"labels{seed}"
            world.run(run, method=method, label_share=0.5, seed=seed, frames=method == "probe")
        for stage in ("probe", "finetune", "frames"):
            lines = (world.folder / run / f"share0.5/session1/{stage}/recogniser/trained_on.tsv").read_text()
            known[seed, stage] = [line.split("\t")[0] for line in lines.splitlines()[1:]]
        assert known[seed, "probe"] == known[seed, "finetune"] == known[seed, "frames"]
    assert known[0, "probe"] != known[1, "probe"]


def test_folds_of_a_share_that_is_another_are_stale(world, spoilt):
    run = world.folder / spoilt
    (run / "share0.5").mkdir()
    shutil.copytree(run / "session1", run / "share0.5" / "session1", symlinks=True)
    with pytest.raises(ValueError, match=r"stale: settings\.label_share was None, is 0\.5"):
        world.run(spoilt, method="finetune", label_share=0.5)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_all_shares_of_a_run_have_the_same_folds(world, table, share):
    world.run(f"folds-share{share}", method="finetune", label_share=0.5)
    with pytest.raises(ValueError, match=r"folds are by session \(\S+/share0\.5/session1/finetune\), not by spe"):
        world.run(f"folds-share{share}", corpus=str(table), folds="speakers", session="Ses01F", label_share=share)


# What is refused

@pytest.mark.parametrize("changes, message", [
    ({"method": "tune"}, "--method must be one of probe, finetune, tapt, align, multiscale, all, got tune"),
    ({"selection": "best"}, "--selection must be one of clean, last, speaker, reference, best-test, got best"),
    ({"pretrain_data": "all"}, "--pretrain-data must be one of transductive, inductive, got all"),
    ({"label_share": 0.0}, r"--label-share must be above 0 and at most 1 \(0.1: a tenth of the labels\), got 0"),
    ({"label_share": 10.0}, "--label-share must be above 0 and at most 1 .*, got 10"),
    ({"label_share": float("nan")}, "--label-share must be above 0 and at most 1 .*, got nan"),
    ({"validate_on": "utterance"}, "--validate-on must be one of session, speaker, got utterance"),
    ({"preset": "huge"}, "preset must be one of base, large, small, compact, tiny, got huge"),
    ({"iemocap": ""}, "give either --corpus .* or --iemocap"),
    ({"iemocap": "a", "corpus": "b"}, "give either --corpus .* or --iemocap"),
    ({"hubert": ""}, "--hubert with a model directory, tiny, voices or scratch"),
    ({"hubert": "/does/not/exist"}, "/does/not/exist: no such directory"),
    ({"iemocap": "/wrong"}, "/wrong: no Session1 to Session5 .*; give the folder that holds Session1"),
    ({"allow_partial": False}, "not the whole IEMOCAP: session 1, neu: found 2, expected 384; .*--allow-partial"),
    ({"corpus": "/wrong.tsv"}, "/wrong.tsv: no such file"),
    ({"session": "6"}, "no utterance of session 6; there are: 1, 2, 3"),
    ({"classes": "happy"}, "--classes must be two or more different names"),
    ({"classes": "happy,happy"}, "--classes must be two or more different names"),
    ({"classes": "happy,,sad"}, "--classes must be two or more different names"),
    ({"classes": "happy,afraid"}, "has no utterance labelled afraid"),
    ({"merge": "calm=serene"}, "--merge counts calm as serene, which is no class; classes: neutral, happy"),
    ({"merge": "none"}, "--iemocap reads the paper's four classes.*--corpus-kind iemocap DIR"),
    ({"folds": "each"}, "--folds must be session, speakers, corpus, split or a number of groups.*got 'each'"),
    ({"folds": "corpus"}, "utterance Ses01F_impro01_F000 is of no corpus, and --folds corpus holds each corpus out; "),
    ({"folds": "7"}, "--folds 7 makes 7 groups of speakers, and there are 6 speakers"),
    ({"folds": "split"}, "--folds split needs the manifest's column split"),
    ({"device": "tpu"}, "--device must be auto, cpu, cuda or mps, got tpu"),
    ({"precision": "half"}, "--precision must be auto, float32 or bfloat16, got half"),
    ({"codebook": "/wrong.npy"}, "/wrong.npy: No such file"),
])
def test_a_wrong_flag_is_said_and_nothing_written(world, changes, message):
    with pytest.raises(ValueError, match=message):
        world.run("refused", **changes)
    assert not (world.folder / "refused").exists()


@pytest.mark.parametrize("settings, changes, message", [
    ({"tapt_layer": "3"}, {}, "tapt_layer is 3, the base model has blocks 1 to 2; choose the --preset of the model's"),
    ({"align_layer": "9"}, {}, "align_layer is 9, .* or --set align_layer="),
    ({"scratch_layer": "3"}, {"hubert": "scratch"}, "scratch_layer is 3"),
    ({"tapt_clusters": "100000"}, {}, "100000"),
    ({"finetune.balance_corpora": "true"}, {}, "is of no corpus, and balance_corpora draws every corpus equally often"),
    ({"frames.balance_corpora": "true"}, {}, "is of no corpus, and balance_corpora draws every corpus equally often"),
    ({"probe.balance_corpora": "true", "probe.balanced": "false"}, {}, "balance_corpora draws corpora equally often"),
])
def test_settings_that_do_not_fit_the_model_are_said(world, settings, changes, message):
    with pytest.raises(ValueError, match=message):
        world.run("refused", settings, **changes)
    assert not (world.folder / "refused").exists()


def test_layers_that_a_method_does_not_use_do_not_matter(world):
    assert world.recipe("none", {"tapt_layer": "9", "align_layer": "9"}, method="finetune").stages()
    assert world.recipe("none", {"align_layer": "9"}, method="tapt").stages()


def test_a_codebook_of_another_width_is_refused(world, tmp_path):
    np.save(tmp_path / "wide.npy", np.zeros((8, 17), np.float32))
    with pytest.raises(ValueError, match="wide.npy: a codebook of 17 dimensions cannot label frames of 16"):
        world.run("refused", codebook=str(tmp_path / "wide.npy"))
    assert not (world.folder / "refused").exists()


def fill(path: Path, value: float) -> None:
    """Every sample of a sound file becomes `value`."""
    soundfile.write(path, np.full(soundfile.info(path).frames, value), 16_000, subtype="FLOAT")


@pytest.mark.parametrize("spoil, message", [
    (lambda path: path.unlink(), "no such file"),
    (lambda path: path.write_bytes(b""), "empty file"),
    (lambda path: path.write_bytes(path.read_bytes()[:5000]), "truncated"),
    (lambda path: path.write_text("not sound" * 100), "not a sound file"),
    (lambda path: soundfile.write(path, np.zeros(399), 16_000), "400"),
    (lambda path: fill(path, 0.0), "nothing to hear"),
    (lambda path: fill(path, np.nan), "NaN"),
    (lambda path: fill(path, np.inf), "infinite"),
])
@pytest.mark.parametrize("method", ["finetune", "align"])
def test_a_rotten_file_is_named_and_nothing_left(world, tmp_path, spoil, message, method):
    utterances = iemocap.read(shutil.copytree(world.tree, tmp_path / "tree"), allow_partial=True)
    manifest.write(tmp_path / "corpus.tsv", utterances)
    wav = utterances[13].path
    spoil(wav)
    with pytest.raises(ValueError, match=message) as error:
        world.run("refused", corpus=str(tmp_path / "corpus.tsv"), method=method)
    assert str(wav) in str(error.value) and "\n" not in str(error.value)
    assert not (world.folder / "refused").exists()


def test_allow_partial_leaves_a_rotten_file_out_of_every_stage(world, tmp_path, capsys):
    tree = shutil.copytree(world.tree, tmp_path / "tree")
    wav = sorted(tree.rglob("Ses02*.wav"))[3]
    wav.unlink()
    results = world.run("partial", iemocap=str(tree), session="1", method="finetune", selection="last")
    assert results["1"]["num_utterances"] == {"train": 15, "valid": 0, "test": 8}
    note = capsys.readouterr().err
    assert "1 utterances or files cannot be used" in note and str(wav) in note


def test_a_session_without_a_class_is_refused_for_every_fold_at_once(world, finished, table):
    """Without --selection last it is session 2 that has nothing to validate anger on; with it session 3 to test on."""
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line for line in lines if "Ses03" not in line or "angry" not in line) + "\n")
    with pytest.raises(ValueError, match="holding out session 3: the test part .of session 3. has no utterance "
                                         "labelled angry"):
        world.run("refused", corpus=str(table), session="all", selection="last")
    assert not (world.folder / "refused").exists()


def test_labels_that_are_no_class_stay_in_pretraining_alone(world, finished, table, capsys):
    """A fifth emotion in a table: its sound is pretrained on, as unlabelled sound is; folds, and results, lack it."""
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line.replace("\tsad\t", "\tfear\t") for line in lines) + "\n")
    chosen = world.recipe("five", corpus=str(table), iemocap="", method="tapt", classes="neutral,happy,angry")
    assert len(chosen.pretraining_utterances) == len(chosen.utterances) == 24
    split, = chosen.splits("clean")
    assert {u.label for part in (split.train, split.valid, split.test) for u in part} == {"neutral", "happy", "angry"}
    assert len(split.train + split.valid + split.test) == 18
    assert "6 utterances with labels that are no class (fear 6)" in capsys.readouterr().err


def test_a_table_without_labels_or_sessions_is_refused(world, finished, table):
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    for column, message in (("label", "no utterance has a label"), ("session", "has no session")):
        place = rows[0].index(column)
        emptied = [rows[0], *([*row[:place], "", *row[place + 1:]] for row in rows[1:])]
        table.write_text("".join("\t".join(row) + "\n" for row in emptied))
        for fold in ("1", "all"):
            with pytest.raises(ValueError, match=message):
                world.run("refused", corpus=str(table), session=fold)
    assert not (world.folder / "refused").exists()


def test_a_table_is_compared_with_its_files_first(world, finished, table):
    first = manifest.read(table)[0]
    table.write_text(table.read_text().replace(f"\t{first.num_samples}\t", f"\t{first.num_samples + 1}\t"))
    with pytest.raises(ValueError, match="1 of 24 sound files are not as the manifest says"):
        world.run("refused", corpus=str(table))
    assert not (world.folder / "refused").exists()
