"""What an export holds, of every source and in every format, and that it writes over nothing."""
import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import small
import torch

from framealign.sound import audio
from framealign.corpus import manifest, utterance
from framealign.hubert import model_directory
from framealign.exchange import torchaudio_weights
from framealign.emotion import exported_program, onnx_file
from framealign.emotion.recogniser import Recogniser
from framealign.recipe.presets import preset, with_overrides
from framealign.commands import export_command, finetune_command, pretrain_command
from framealign.commands.finetune_command import FinetuneRun
from framealign.commands.pretrain_command import PretrainRun

SMALL = with_overrides(preset("tiny"), small.SETTINGS | {"finetune.epochs": "1", "pretrain.updates": "2",
                                                         "scratch.updates": "2"})


@pytest.fixture(scope="module")
def tuned(tones, small_base, tmp_path_factory) -> Path:
    """A finished fine-tuning run."""
    folder = tmp_path_factory.mktemp("tuned")
    manifest.write(folder / "corpus.tsv", tones)
    config = FinetuneRun(corpus=str(folder / "corpus.tsv"), init_from=str(small_base), out=str(folder / "run"),
                         device="cpu")
    finetune_command.run(config, dataclasses.replace(SMALL.finetune, epochs=2))
    return folder / "run"


@pytest.mark.parametrize("source", ["", "checkpoints/00000002", "recogniser"])
@pytest.mark.parametrize("encoder_only", [False, True])
def test_export_of_a_run_a_checkpoint_a_recogniser(tuned, tmp_path, source, encoder_only):
    export_command.run(str(tuned / source), str(tmp_path / "out"), encoder_only, "huggingface")
    place = tuned / (source or "checkpoints/00000002")
    there, here = model_directory.read(place), model_directory.read(tmp_path / "out")
    assert all(torch.equal(here.state[name], x) for name, x in there.state.items()) and len(here.state) == len(
        there.state)
    assert set(here.head) == (set() if encoder_only else {"pooling.weight", "classifier.weight", "classifier.bias"})
    assert here.labels == (None if encoder_only else list(utterance.CLASSES))
    assert here.config == there.config and here.do_normalize == there.do_normalize


def test_export_to_torchaudios_names(tuned, tmp_path):
    export_command.run(str(tuned), str(tmp_path / "ta.safetensors"), True, "torchaudio")
    wanted = torchaudio_weights.to_torchaudio(model_directory.read(tuned / "checkpoints" / "00000002").state)
    weights = safetensors.torch.load_file(tmp_path / "ta.safetensors")
    assert set(weights) == set(wanted) and all(torch.equal(weights[name], x) for name, x in wanted.items())


@pytest.mark.parametrize("form, module, int8", [("torch-export", exported_program, []), ("onnx", onnx_file, [False]),
                                                ("onnx", onnx_file, [True])])
def test_a_program_is_made_of_a_runs_newest_checkpoint(tuned, tmp_path, monkeypatch, form, module, int8):
    """An encoder alone is refused. That it is the model: test_exported_program.py, test_onnx_file.py; a file:
    test_readme.py.
    """
    exported = []
    monkeypatch.setattr(module, "export", lambda *arguments: exported.append(arguments))
    flags = ["--int8"] if True in int8 else []
    newest, recogniser = tuned / "checkpoints" / "00000002", tmp_path / "recogniser"
    export_command.main([str(tuned), str(tmp_path / "a"), "--to", form, *flags])
    export_command.main([str(tuned / "recogniser"), str(recogniser)])
    (recogniser / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    export_command.main([str(recogniser), str(tmp_path / "b"), "--to", form, *flags])
    assert exported == [(newest, str(tmp_path / "a"), "", *int8), (recogniser, str(tmp_path / "b"), "cc-by-4.0", *int8)]
    with pytest.raises(ValueError, match=f"--to {form} writes a recogniser: leave out --encoder"):
        export_command.main([str(tuned), str(tmp_path / "c"), "--to", form, "--encoder"])
    assert len(exported) == 2 and not (tmp_path / "c").exists()


def test_only_an_onnx_file_has_rounded_weights(tuned, tmp_path):
    for form in ("huggingface", "torchaudio", "torch-export"):
        with pytest.raises(ValueError, match="--int8 rounds the weights of an ONNX file: give --to onnx with it"):
            export_command.main([str(tuned), str(tmp_path / "out"), "--to", form, "--int8"])
    assert not any(tmp_path.iterdir())


def test_half_the_size_holds_the_numbers_rounded(tuned, tones, tmp_path):
    """Each weight within half a step of float16 (11 bits); read as float32, and recognised with."""
    export_command.main([str(tuned / "recogniser"), str(tmp_path / "half"), "--half"])
    whole, half = model_directory.read(tuned / "recogniser"), model_directory.read(tmp_path / "half")
    for there, here in ((whole.state, half.state), (whole.head, half.head)):
        assert here.keys() == there.keys() and {x.dtype for x in here.values()} == {torch.float16}
        for name, x in there.items():
            assert (here[name].double() - x.double()).abs().max() <= 2 ** -11 * x.abs().max() + 2 ** -25
    size, half_size = ((place / "model.safetensors").stat().st_size
                       for place in (tuned / "recogniser", tmp_path / "half"))
    assert half_size < 0.6 * size                   # names and shapes stay
    read = Recogniser.from_pretrained(tmp_path / "half")
    assert {x.dtype for x in read.model.parameters()} == {torch.float32}
    wanted = Recogniser.from_pretrained(tuned / "recogniser")(tones[3].path).probabilities
    assert list(read(tones[3].path).probabilities.values()) == pytest.approx(list(wanted.values()), abs=5e-3)


def test_half_refuses_what_it_cannot_hold(tuned, tmp_path):
    for form in ("torchaudio", "torch-export", "onnx"):
        with pytest.raises(ValueError, match="--half rounds the weights of a model directory: leave out --to"):
            export_command.main([str(tuned), str(tmp_path / "out"), "--to", form, "--half"])
    with pytest.raises(ValueError, match="a has numbers above 65504, the largest of float16; export without --half"):
        export_command.rounded({"a": torch.tensor([7e4])})
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_export_as_a_program(tuned, tones, tmp_path):
    """Of a run its newest checkpoint; the same answer as the exported directory."""
    export_command.run(str(tuned), str(tmp_path / "a.pt2"), False, "torch-export")
    waveform = audio.load(tones[3].path)
    probabilities = torch.export.load(tmp_path / "a.pt2").module()(waveform[None], torch.tensor([len(waveform)]))[0][0]
    wanted = Recogniser.from_pretrained(tuned / "checkpoints" / "00000002")(waveform).probabilities
    assert probabilities.tolist() == pytest.approx(list(wanted.values()), abs=2e-5)


def test_export_of_the_unit_head_leaves_it_out(table, units, small_base, tmp_path):
    config = PretrainRun(corpus=str(table), units=str(units), init_from=str(small_base), out=str(tmp_path / "run"))
    pretrain_command.run(config, SMALL.pretrain)
    export_command.run(str(tmp_path / "run"), str(tmp_path / "out"), False, "huggingface")
    assert not model_directory.read(tmp_path / "out").head
    assert small.digests(tmp_path / "out", "model.safetensors") == small.digests(tmp_path / "run" / "encoder",
                                                                                "model.safetensors")


def test_export_writes_over_nothing(tuned, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ValueError, match="mine: exists already; choose another name or remove it"):
        export_command.run(str(tuned), str(tmp_path / "mine"), False, "huggingface")
    for source in ("nowhere", "nowhere.pt"):
        with pytest.raises(ValueError, match=f"{source}: no such"):
            export_command.run(str(tmp_path / source), str(tmp_path / "out"), False, "huggingface")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
