"""The models that come along, made from tables at a small size: what of which table, how, and that a run continues."""
import dataclasses
import re
import shutil

import pytest
import small
import torch
from safetensors import safe_open

from framealign.runtime import files
from framealign.corpus import manifest
from framealign.corpus.importers import iemocap
from framealign.hubert import model_directory
from framealign.hubert.model import Hubert
from framealign.exchange import encoder_file
from framealign.emotion.emotion_model import EmotionModel
from framealign.recipe import model_card, recipe
from framealign.recipe.presets import preset
from framealign.recipe.session_config import VOICES, SessionConfig
from framealign.recipe.trained_on import TrainedOn
from framealign.commands import export_command, voices_command
from framealign.commands.voices_command import VoicesRun

LICENSES = {"base_license": "cc-by-4.0", "license": "cc-by-nc-sa-4.0"}
OVERRIDES = small.SETTINGS


@pytest.fixture(scope="module")
def tables(small_tree, tmp_path_factory):
    """A folder of tables: one and the same speech without labels, and as two corpora of half of the speakers each."""
    folder = tmp_path_factory.mktemp("tables")
    utterances = iemocap.read(small_tree, allow_partial=True)
    copies = shutil.copytree(small_tree, folder / "sounds")
    unlabelled = [dataclasses.replace(one, label="", path=copies / one.path.relative_to(small_tree))
                  for one in utterances]
    manifest.write(folder / "speech.tsv", unlabelled)
    for name, gender in (("ladies", "F"), ("gentlemen", "M")):
        manifest.write(folder / f"{name}.tsv", [one for one in utterances if one.gender == gender])
    return folder


@pytest.fixture(scope="module")
def made(tables, tmp_path_factory):
    """Both models of these tables, and the configuration they were made with."""
    place = tmp_path_factory.mktemp("made")
    config = VoicesRun(out=str(place / "run"), target=str(place / "voices"), preset="tiny", folds="3", device="cpu",
                       **LICENSES)
    voices_command.run([str(tables)], config, OVERRIDES)
    return config, place


def test_base_is_the_second_iteration_rounded(made):
    _, place = made
    base = model_directory.read(place / "voices" / "base")
    assert {x.dtype for x in base.state.values() if x.is_floating_point()} == {torch.float16} and not base.head
    trained = encoder_file.load(place / "run" / "scratch" / "scratch-2" / "encoder").state_dict()
    assert all(torch.equal(x, trained[name].half()) for name, x in base.state.items())
    assert Hubert.from_pretrained(place / "voices" / "base").config == small.model()
    record = files.read_json(place / "voices" / "base" / "record.json")
    assert list(record["stages"]) == ["mfcc-units", "scratch-1", "scratch-units", "scratch-2"]
    corpora = {record["stages"][name]["settings"]["corpus"] for name in record["stages"]}
    assert len(corpora) == 1 and corpora.pop().startswith("24 utterances")


def test_recogniser_has_learned_from_both_corpora_and_starts_from_the_base(made):
    _, place = made
    recogniser = EmotionModel.from_pretrained(place / "voices" / "recogniser")
    assert recogniser.window_seconds == 1.6 and recogniser.labels == ["neutral", "happy", "angry", "sad"]
    stages = files.read_json(place / "voices" / "recogniser" / "record.json")["stages"]
    assert list(stages) == ["finetune"] and list(stages["finetune"]["upstream"]) == ["base"]
    record = stages["finetune"]
    settings = record["settings"]["finetune"]
    assert settings["balance_corpora"] is True and settings["augment"] == "all" and settings["window_seconds"] == 1.6
    assert record["protocol"]["folds"] == "3 groups of speakers (seed 0)"
    rows = TrainedOn.read(place / "voices" / "recogniser").rows
    assert {row.id.split("-")[0] for row in rows} == {"ladies", "gentlemen"}
    assert len({row.speaker for row in rows if row.use == "training"}) == 2     # of 6, in three groups
    assert record["protocol"]["base_digest"] == digest_of_base(place / "voices" / "base")


def test_cards_name_their_licences_and_what_was_heard(made):
    _, place = made
    for name, wanted in (("base", "cc-by-4.0"), ("recogniser", "cc-by-nc-sa-4.0")):
        assert model_card.license_of(place / "voices" / name) == wanted
    for name in ("base", "recogniser"):             # nothing of the machine
        assert str(place) not in (place / "voices" / name / "record.json").read_text()
        assert str(place) not in (place / "voices" / name / model_card.NAME).read_text()
    record = files.read_json(place / "voices" / "recogniser" / "record.json")
    assert record["stages"]["finetune"]["protocol"]["hubert"] == "voices"
    base = " ".join((place / "voices" / "base" / model_card.NAME).read_text().split())
    assert "6 clusters of MFCC for 4 updates of 8 s, then" in base
    assert "8 clusters of the states of that model's layer 1, as long" in base
    assert re.search(r"\| speech-3 \| 8 \| 0\.00 \| 2 \|", base)
    recogniser = (place / "voices" / "recogniser" / model_card.NAME).read_text()
    assert recogniser.startswith("---\nlicense: cc-by-nc-sa-4.0\nlibrary_name: framealign\n")
    assert re.search("base license.* cc-by-4.0", recogniser)                    # of what it started from
    assert "what the recogniser says of windows of 1.6 s, each heard for itself" in recogniser


@pytest.mark.parametrize("form", ["huggingface", "torchaudio"])
def test_a_licence_goes_with_the_weights(made, tmp_path, form):
    """Of a whole export and of the encoder alone, whatever the format; without a card there is none to name."""
    place, out = made[1] / "voices", tmp_path / "out"
    export_command.run(str(place / "recogniser"), str(out), True, form)
    if form == "huggingface":
        assert model_card.license_of(out) == "cc-by-nc-sa-4.0"
        export_command.run(str(place / "base"), str(tmp_path / "base"), False, form)
        assert model_card.license_of(tmp_path / "base") == "cc-by-4.0"
    else:
        with safe_open(out, "pt") as weights:
            assert weights.metadata() == {"license": "cc-by-nc-sa-4.0"}
        export_command.run(str(made[1] / "run" / "scratch" / "scratch-2"), str(tmp_path / "free"), True, form)
        with safe_open(tmp_path / "free", "pt") as weights:
            assert weights.metadata() is None


def test_the_same_command_makes_nothing_again(made, tables, capsys):
    config, place = made
    before = small.digests(place / "voices", "model.safetensors", "README.md", "record.json")
    voices_command.run([str(tables)], config, OVERRIDES)
    out = capsys.readouterr().out
    assert out.count("kept, made in") == 5 and "[finetune]" in out
    assert small.digests(place / "voices", "model.safetensors", "README.md", "record.json") == before


def test_a_corpus_may_be_held_out(made, tables, tmp_path):
    """One trains but for a speaker, who the temperatures are fitted on; the other is tested. The base is kept."""
    config, place = made
    shutil.copytree(place / "run" / "scratch", tmp_path / "run" / "scratch")
    held_out = dataclasses.replace(config, out=str(tmp_path / "run"), target=str(tmp_path / "voices"), folds="corpus",
                                   session="ladies", validate_on="speaker")
    voices_command.run([str(tables)], held_out, OVERRIDES)
    rows = TrainedOn.read(tmp_path / "voices" / "recogniser").rows
    speakers = {row.use: {other.speaker for other in rows if other.use == row.use} for row in rows}
    assert {row.id.split("-")[0] for row in rows} == {"gentlemen"} and len(speakers["training"]) == 2
    fitted_on = EmotionModel.from_pretrained(tmp_path / "voices" / "recogniser").calibration.fitted_on
    assert re.fullmatch("validation: [0-9]+ utterances of 1 speakers", fitted_on)
    assert small.digests(tmp_path / "voices" / "base", "model.safetensors") == \
        small.digests(place / "voices" / "base", "model.safetensors")


@pytest.mark.parametrize("names, message", [
    (["speech.tsv"], "no table of labelled speech; name one"),
    (["ladies.tsv", "gentlemen.tsv"], "no table of speech without labels, for the base; name one"),
    (["ladies.tsv", "speech.tsv", "nowhere.tsv"], "nowhere.tsv: no such file")])
def test_tables_that_are_lacking_leave_nothing(tables, tmp_path, names, message):
    config = VoicesRun(out=str(tmp_path / "run"), target=str(tmp_path / "voices"), preset="tiny")
    with pytest.raises((ValueError, OSError), match=message):
        voices_command.run([str(tables / name) for name in names], config, OVERRIDES)
    assert not any(tmp_path.iterdir())


def test_a_licence_is_a_name():
    with pytest.raises(ValueError, match="a licence must be a name as Hugging Face's cards have it"):
        VoicesRun(license="CC BY\nother: true")


def digest_of_base(directory) -> str:
    """What a record calls a base model by."""
    return recipe.read_base(SessionConfig(corpus="any", hubert=str(directory)), preset("compact")).digest


def test_what_comes_along_is_small_and_belongs_together():
    """The committed models: of the preset compact, at most 8 MB each, licensed, the recogniser made of the base."""
    base, recogniser = VOICES / "base", VOICES / "recogniser"
    for place in (base, recogniser):
        assert (place / "model.safetensors").stat().st_size < 8e6
        assert model_directory.read(place).config == preset("compact").model
    assert model_card.license_of(base) == "cc-by-sa-4.0" and model_card.license_of(recogniser) == "cc-by-nc-sa-4.0"
    model, record = EmotionModel.from_pretrained(recogniser), files.read_json(recogniser / "record.json")
    assert model.window_seconds == 1.6 and model.labels == ["neutral", "happy", "angry", "sad"]
    assert model.calibration.fitted_on.startswith("validation: ")
    assert record["stages"]["finetune"]["protocol"]["base_digest"] == digest_of_base(base)
    known = TrainedOn.read(recogniser)
    assert {row.id.split("-")[0].split("_")[0] for row in known.rows} == {"emodb4", "emotiontts", "nemo", "ravdess"}
    for place in (base, recogniser):                # nothing of the machine that made them
        assert not re.search(r"/(home|root|tmp|work|Users)/", (place / "record.json").read_text())
        assert not re.search(r"/(home|root|tmp|work|Users)/", (place / model_card.NAME).read_text())
