"""Encoders out of files: of every program, recognised by content alone, and what is none said to be what it is."""
import json
import shutil
import zipfile
from dataclasses import replace

import foreign_files
import numpy as np
import pytest
import safetensors.torch
import small
import soundfile
import torch
from foreign_files import SMALL, fairseq_names, random_state, settings_of

from framealign.hubert import model_directory
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.model import Hubert
from framealign.exchange import encoder_file
from framealign.exchange.torchaudio_weights import to_torchaudio
from framealign.recipe import recipe

WIDE = replace(SMALL, hidden_size=768, num_attention_heads=12, num_conv_pos_embedding_groups=16)     # known by width
HEADS = {"HubertForSequenceClassification": {"projector.weight": (5, 24), "projector.bias": (5,),
                                             "classifier.weight": (3, 5), "classifier.bias": (3,)},
         "HubertForCTC": {"lm_head.weight": (7, 24), "lm_head.bias": (7,)}}
HEADS["weighted layers"] = HEADS["HubertForSequenceClassification"] | {"layer_weights": (3,)}


def same(found: Hubert, config: HubertConfig, state: dict[str, torch.Tensor]) -> bool:
    """Of these weights; found.config is `config` but for dropouts, which weights do not tell."""
    own = found.state_dict()
    shape = ("conv_dim", "conv_kernel", "conv_stride", "num_attention_heads", "do_stable_layer_norm", "hidden_size")
    return all(torch.equal(own[name], x.float()) for name, x in state.items()) and \
        all(getattr(found.config, name) == getattr(config, name) for name in shape)


@pytest.mark.parametrize("name", ["h.pt", "h.bin", "h", "h.safetensors"])
def test_fairseqs_checkpoint_under_any_name(name, tmp_path):
    state = random_state(SMALL)
    torch.save({"model": fairseq_names(SMALL, state, {"final_proj.weight": torch.zeros(4, 24)}),
                "cfg": {"model": settings_of(SMALL), "task": {"normalize": False}}}, tmp_path / name)
    found = encoder_file.load(tmp_path / name)
    assert same(found, SMALL, state) and not found.do_normalize and not found.training


@pytest.mark.parametrize("is_zip", [True, False])
def test_torchaudios_state_dict(is_zip, tmp_path, capsys):
    state = random_state(WIDE)
    del state["masked_spec_embed"]
    torch.save(to_torchaudio(state), tmp_path / "h.pth", _use_new_zipfile_serialization=is_zip)
    safetensors.torch.save_file(to_torchaudio(state), tmp_path / "h.safetensors")
    for name in ("h.pth", "h.safetensors"):
        capsys.readouterr()
        found = encoder_file.load(tmp_path / name)
        said = capsys.readouterr().err
        assert same(found, WIDE, state) and not found.do_normalize
        assert f"{name}: no config.json goes with these weights" in said and "waveforms are normalised: no" in said


def test_weights_of_a_model_directory(tmp_path, capsys):
    """With the configuration beside them, whichever program saved them, and without it."""
    state = random_state(SMALL)
    model_directory.write(tmp_path / "model", SMALL, state, do_normalize=False)
    torch.save(state, tmp_path / "model" / "pytorch_model.pth")
    for name in ("model.safetensors", "pytorch_model.pth"):
        found = encoder_file.load(tmp_path / "model" / name)
        assert same(found, SMALL, state) and found.config == SMALL and not found.do_normalize
    assert not capsys.readouterr().err
    shutil.copy(tmp_path / "model" / "model.safetensors", tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="bare.safetensors: num_attention_heads is not known .*config.json"):
        encoder_file.load(tmp_path / "bare.safetensors")
    state = {f"hubert.{name}": x for name, x in random_state(WIDE).items()} | {"lm_head.weight": torch.zeros(3, 768)}
    safetensors.torch.save_file(state, tmp_path / "wide.safetensors")
    found = encoder_file.load(tmp_path / "wide.safetensors")
    assert same(found, WIDE, random_state(WIDE))
    said = capsys.readouterr().err
    assert "heads, strides, dropout" in said and "left out lm_head" in said
    slow = replace(WIDE, **small.MODEL_25_HZ)
    safetensors.torch.save_file(random_state(slow), tmp_path / "slow.safetensors")
    with pytest.raises(ValueError, match="slow.safetensors: conv_stride is not known for kernels"):
        encoder_file.load(tmp_path / "slow.safetensors")


@pytest.mark.parametrize("kind", HEADS)
def test_directories_with_another_head_are_encoders_and_say_what_they_are(kind, tmp_path, capsys):
    state, head = random_state(SMALL), {name: torch.randn(shape) for name, shape in HEADS[kind].items()}
    model_directory.write(tmp_path / "model", SMALL, state, head, do_normalize=True)
    assert same(encoder_file.load(tmp_path / "model"), SMALL, state)
    name = "HubertForCTC" if "lm_head.weight" in head else "HubertForSequenceClassification"
    modules = ", ".join(sorted({key.split(".")[0] for key in head}))
    kind_in_words = "a recogniser" if kind == "weighted layers" else f"a {name} ({modules})"
    assert capsys.readouterr().err == f"{tmp_path / 'model'}: {kind_in_words}: read the encoder only, left out " \
        f"{modules}\n"


def test_what_is_no_encoder_is_said_to_be_what_it_is(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 900)
    soundfile.write(tmp_path / "a.wav", noise, 16_000)
    soundfile.write(tmp_path / "a.flac", noise, 16_000)
    np.save(tmp_path / "km.npy", np.ones((3, 4)))
    (tmp_path / "codebook.bin").write_bytes(foreign_files.k_means(foreign_files.array()))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "hubert"}))
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("no weights " * 9)
    (tmp_path / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    torch.save({"epoch": 3, "model_state_dict": {"a.b": torch.ones(1)}}, tmp_path / "loop.pt")
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:              # as torch.jit.save writes it
        for part in ("data.pkl", "code/__torch__.py", "constants.pkl", "version"):
            archive.writestr(f"program/{part}", b"")
    safetensors.torch.save_file({"centroids": torch.ones(2, 3)}, tmp_path / "codebook.safetensors")
    safetensors.torch.save_file({"units": torch.ones(2), "offsets": torch.ones(1)}, tmp_path / "units.safetensors")
    safetensors.torch.save_file({"bert.embeddings": torch.ones(2, 3)}, tmp_path / "bert.safetensors")
    for name, what in (("a.wav", "a sound file"), ("a.flac", "a sound file"), ("km.npy", "an array of numpy"),
                       ("config.json", "JSON; give the directory"), ("empty.pt", "an empty file"),
                       ("text.pt", "no file that holds one"), ("pointer.safetensors", "a Git LFS pointer"),
                       ("loop.pt", "'epoch' is not a tensor: this is neither a checkpoint of fairseq"),
                       ("tensor.pt", "holds no tensors by name"), ("program.pt", "a program of torch.jit"),
                       ("codebook.safetensors", "a codebook"), ("units.safetensors", "units"),
                       ("bert.safetensors", r"holds 1 tensors of no HuBERT \(bert.embeddings\)"),
                       ("codebook.bin", "")):
        with pytest.raises(ValueError, match=f"^[^\n]*{name}: no encoder: {what}[^\n]*$"):
            encoder_file.read(tmp_path / name)
    with pytest.raises(ValueError, match="absent.pt: no such directory"):
        encoder_file.read(tmp_path / "absent.pt")


def test_the_recipe_starts_from_a_file(small_tree, tmp_path):
    """As from the directory that export makes of it: the same results, whichever way it is named."""
    config = replace(small.model(), num_conv_pos_embeddings=6, feat_proj_dropout=0.25, hidden_dropout=0.2,
                     conv_dim=(8,) * 7, feat_extract_norm="group", conv_bias=False)
    fields = settings_of(config)
    torch.save({"model": fairseq_names(config, random_state(config), {}),
                "cfg": {"model": fields, "task": {"normalize": True}}}, tmp_path / "h.pt")
    found = encoder_file.read(tmp_path / "h.pt")
    model_directory.write(tmp_path / "model", found.config, found.state, do_normalize=True)
    runs = [tmp_path / "file", tmp_path / "directory"]
    for run, base in zip(runs, (tmp_path / "h.pt", tmp_path / "model")):
        recipe.run_sessions(small.config(small_tree, base, run, method="finetune"), small.SETTINGS)
    one, other = (small.digests(run / "session1" / "finetune" / "recogniser", "model.safetensors") for run in runs)
    assert one and one == other
