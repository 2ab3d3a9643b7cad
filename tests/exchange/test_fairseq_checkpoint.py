"""fairseq's checkpoints without fairseq: every layout it wrote, hostile and broken files."""
import argparse
import dataclasses
import enum
import os
import pickle
import random
import struct
import sys
import time
import types
import zipfile

import pytest
import torch
from foreign_files import SMALL, Call, fairseq_names, random_state, settings_of

from framealign.hubert import model_directory
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.model import Hubert
from framealign.exchange import fairseq_checkpoint
from framealign.commands import export_command

PRE_NORM = HubertConfig(conv_dim=(8,) * 7, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, conv_bias=True,
                        intermediate_size=20, num_conv_pos_embeddings=6, num_conv_pos_embedding_groups=2,
                        feat_extract_norm="layer", do_stable_layer_norm=True, layerdrop=0.0)
BATCH_NORM = dataclasses.replace(SMALL, conv_pos_batch_norm=True)


@pytest.fixture
def foreign(monkeypatch):
    """Packages that exist while the file is written and are gone when it is read."""
    classes = {}
    for path in ("omegaconf.dictconfig.DictConfig", "omegaconf.nodes.AnyNode", "omegaconf.base.ContainerMetadata",
                 "fairseq.data.dictionary.Dictionary", "fairseq.tasks.hubert_pretraining.LabelEncoder"):
        module, name = path.rsplit(".", 1)
        classes[name] = type(name, (), {"__module__": module, "__init__": lambda self, **x: self.__dict__.update(x)})
    mode = enum.Enum("ExtractorMode", {x: x for x in ("default", "layer_norm")}, module="fairseq.models.hubert")
    classes["ExtractorMode"] = mode
    for found in classes.values():
        for depth in range(1, found.__module__.count(".") + 2):
            name = ".".join(found.__module__.split(".")[:depth])
            if name not in sys.modules:
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        setattr(sys.modules[found.__module__], found.__name__, found)
    return types.SimpleNamespace(**classes)


def checkpoint_of(kind: str, config: HubertConfig, model: dict, foreign) -> dict:
    """A checkpoint as fairseq's versions write it: `args`, a plain `cfg`, an omegaconf `cfg`, neither."""
    def node(value: object) -> object:
        if isinstance(value, foreign.DictConfig):
            return value
        return foreign.AnyNode(_val=value, _metadata=foreign.ContainerMetadata(ref_type=object, key=None))

    def tree(fields: dict) -> object:
        return foreign.DictConfig(_content={key: node(value) for key, value in fields.items()}, _parent=None)

    mode = foreign.ExtractorMode["layer_norm" if config.feat_extract_norm == "layer" else "default"]
    fields = {**settings_of(config), "extractor_mode": mode}
    found = {"args": None, "cfg": None, "model": model, "optimizer_history": [{"num_updates": 3, "best_loss": 1.5}],
             "task_state": {"dictionaries": [foreign.Dictionary(symbols=["<s>", "a"], indices={"<s>": 0})]},
             "extra_state": {"train_iterator": {"epoch": 2}, "val_loss": 1.0, "encoder": foreign.LabelEncoder()},
             "last_optimizer_state": {"state": {0: {"exp_avg": torch.randn(3)}}, "param_groups": [{"lr": 1e-4}]}}
    if kind == "args":
        found["args"] = argparse.Namespace(**fields, normalize=True)
    elif kind == "dictionary":
        found["cfg"] = {"model": fields, "task": {"normalize": True, "sample_rate": 16_000}, "common": {"seed": 1}}
    elif kind == "omegaconf":
        found["cfg"] = tree({"model": tree(fields), "task": tree({"normalize": True})})
    elif kind == "ctc":
        inner = argparse.Namespace(model=fields, task={"normalize": True})
        found["cfg"] = {"model": {"_name": "hubert_ctc", "w2v_args": inner, "dropout": 0.0}, "task": {"data": "x"}}
    return found


def save(checkpoint: dict, path, is_zip: bool) -> None:
    torch.save(checkpoint, path, _use_new_zipfile_serialization=is_zip)


@pytest.mark.parametrize("is_zip", (False, True), ids=("legacy", "zip"))
@pytest.mark.parametrize("config", (SMALL, PRE_NORM, BATCH_NORM), ids=("post-norm", "pre-norm", "batch norm"))
@pytest.mark.parametrize("kind", ("args", "dictionary", "omegaconf", "ctc"))
def test_fairseq_checkpoints(kind, config, is_zip, foreign, tmp_path, monkeypatch):
    state = random_state(config)
    head = {"final_proj.weight": torch.randn(16, 24), "final_proj.bias": torch.randn(16),
            "label_embs_concat": torch.nn.Parameter(torch.randn(10, 16))}
    theirs = fairseq_names(config, state, head)
    if kind == "ctc":
        theirs = {f"w2v_encoder.w2v_model.{name}": x for name, x in theirs.items()}
        theirs |= {"w2v_encoder.proj.weight": torch.randn(32, 24), "w2v_encoder.proj.bias": torch.randn(32)}
    save(checkpoint_of(kind, config, theirs, foreign), tmp_path / "hubert.pt", is_zip)
    for name in [name for name in sys.modules if name.split(".")[0] in ("omegaconf", "fairseq")]:
        monkeypatch.delitem(sys.modules, name)
    found = fairseq_checkpoint.read(tmp_path / "hubert.pt")
    assert found.state.keys() == state.keys() and all(torch.equal(found.state[name], state[name]) for name in state)
    assert found.do_normalize is True
    assert found.config == HubertConfig(**{**{name: getattr(config, name) for name in config.__dataclass_fields__},
                                           "hidden_dropout": 0.2, "attention_dropout": 0.0,
                                           "feat_proj_dropout": 0.25})
    assert torch.equal(found.head["codewords"], head["label_embs_concat"])
    assert ("lm_head.weight" in found.head) == (kind == "ctc") and len(found.head) == (5 if kind == "ctc" else 3)
    assert not any(name.split(".")[0] in ("omegaconf", "fairseq") for name in sys.modules)


@pytest.mark.parametrize("normalize", (False, True))
def test_exported_as_a_model_directory(normalize, foreign, tmp_path):
    """What `bin/export.py` does with a .pt: the same weights, and its own word on normalisation."""
    state = random_state(SMALL)
    checkpoint = checkpoint_of("args", SMALL, fairseq_names(SMALL, state, {}), foreign)
    checkpoint["args"].normalize = normalize
    save(checkpoint, tmp_path / "hubert.pt", True)
    export_command.run(str(tmp_path / "hubert.pt"), str(tmp_path / "model"), False, "huggingface")
    found = model_directory.read(tmp_path / "model")
    assert found.do_normalize is normalize and not found.head and found.config.hidden_dropout == 0.2
    assert found.state.keys() == state.keys() and all(torch.equal(found.state[name], state[name]) for name in state)
    hubert, waveform = Hubert.from_pretrained(tmp_path / "model"), torch.randn(1, 2000)
    plain = Hubert(SMALL).eval()
    plain.load(state, "state")
    assert torch.equal(hubert.states(waveform), plain.states(waveform))


def test_fairseq_half_precision_and_views(foreign, tmp_path):
    """fp16 stays fp16; tensors that share a storage, or are a transposed view of it, come out right."""
    state = {name: x.half() for name, x in random_state(SMALL).items()}
    theirs = fairseq_names(SMALL, state, {})
    both = torch.randn(2, 24, 24).half()
    theirs["encoder.layers.0.self_attn.k_proj.weight"] = both[0]
    theirs["encoder.layers.0.self_attn.v_proj.weight"] = both[1].T
    for is_zip in (False, True):
        save(checkpoint_of("args", SMALL, theirs, foreign), tmp_path / "hubert.pt", is_zip)
        found = fairseq_checkpoint.read(tmp_path / "hubert.pt").state
        assert torch.equal(found["encoder.layers.0.attention.k_proj.weight"], both[0])
        assert torch.equal(found["encoder.layers.0.attention.v_proj.weight"], both[1].T)
        assert {x.dtype for x in found.values()} == {torch.float16} and all(x.is_contiguous() for x in found.values())


@pytest.mark.parametrize("is_zip", (False, True), ids=("legacy", "zip"))
def test_malicious_checkpoints(is_zip, foreign, tmp_path):
    """Telltale names are refused; whatever else a checkpoint asks to be called is not."""
    marker, path = tmp_path / "executed", tmp_path / "hubert.pt"
    checkpoint = checkpoint_of("dictionary", SMALL, fairseq_names(SMALL, random_state(SMALL), {}), foreign)
    for call in (Call(os.system, f"touch {marker}"), Call(eval, f"open({str(marker)!r}, 'w')"), Call(exec, "1"),
                 Call(__import__, "antigravity"), Call(os.mkdir, str(marker))):
        save({**checkpoint, "extra_state": call}, path, is_zip)
        name = call.call[0].__name__
        with pytest.raises(ValueError, match=f"hubert.pt: .* names [a-z.]*{name}, .*refused"):
            fairseq_checkpoint.read(path)
    for call in (Call(getattr, "x", "upper"), Call(torch.save, 1, str(marker)), Call(torch.load, str(marker))):
        save({**checkpoint, "extra_state": call}, path, is_zip)
        assert fairseq_checkpoint.read(path).config.num_attention_heads == 3
        save({**checkpoint, "model": {**checkpoint["model"], "mask_emb": call}}, path, is_zip)
        with pytest.raises(ValueError, match="mask_emb.* is not a tensor"):
            fairseq_checkpoint.read(path)
    assert not marker.exists()


def rewritten(path, change) -> None:
    """Write a zip checkpoint again with `change(name, content)` of each record."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            if (content := change(name, content)) is not None:
                archive.writestr(name, content)


def test_broken_checkpoints(foreign, tmp_path):
    path = tmp_path / "hubert.pt"
    checkpoint = checkpoint_of("dictionary", SMALL, fairseq_names(SMALL, random_state(SMALL), {}), foreign)

    def refused(match: str) -> None:
        with pytest.raises(ValueError, match=f"^[^\n]*hubert.pt: [^\n]*{match}[^\n]*$"):
            fairseq_checkpoint.read(path)

    refused("No such file")
    for content in (b"", b"text", b"PK\x03\x04" + bytes(50), pickle.dumps({"model": 1})):
        path.write_bytes(content)
        refused("")
    for is_zip in (False, True):
        save(checkpoint, path, is_zip)
        whole = path.read_bytes()
        for size in (1, 30, len(whole) // 2, len(whole) - 30):
            path.write_bytes(whole[:size])
            refused("")
        for value in ([1, 2], {"state_dict": {}}, {"model": 3}, {"model": {}}):
            save(value, path, is_zip)
            refused("no `model` entry")
        for model, match in (({"x": torch.ones(2)}, "no HuBERT has"), ({"mask_emb": 3}, "is not a tensor"),
                             ({"mask_emb": torch.ones(2)}, "not HuBERT"), ({1: torch.ones(2)}, "is not a tensor"),
                             ({"mask_emb": torch.ones(2).to_sparse()}, "is not a tensor")):
            save({"model": model}, path, is_zip)
            refused(match)
    for key, value, match in (("conv_feature_layers", "__import__('os')", "conv_feature_layers is not understood"),
                              ("layer_type", "conformer", "not transformer"), ("activation_fn", "relu", "must be gelu"),
                              ("encoder_attention_heads", 7, "must divide"), ("dropout", 2.0, "must be in")):
        checkpoint["cfg"]["model"] = {**settings_of(SMALL), key: value}
        save(checkpoint, path, True)
        refused(match)
    checkpoint["cfg"]["model"] = settings_of(SMALL)
    checkpoint["cfg"]["task"] = {"normalize": True, "sample_rate": 8000}
    save(checkpoint, path, True)
    refused("trained on sound at 8000 Hz")
    checkpoint["cfg"]["task"] = {"normalize": True, "sample_rate": 16_000}
    for change in (lambda name, content: None if name.endswith("data/0") else content,
                   lambda name, content: content[:-1] if name.endswith("data/0") else content,
                   lambda name, content: b"big" if name.endswith("byteorder") else content,
                   lambda name, content: None if name.endswith("data.pkl") else content):
        save(checkpoint, path, True)
        rewritten(path, change)
        refused("")


def test_claimed_sizes_cost_nothing(tmp_path):
    """A tensor of 10^12 numbers over a storage of four, by size, by stride 0 and by offset."""
    def tensor(offset: int, size: tuple, stride: tuple) -> bytes:
        def push(value: object) -> bytes:
            return pickle.dumps(value, 2)[2:-1]

        storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04tQ"
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + push(offset) + push(size) + push(stride) + b"\x89NtR"

    for numbers in ((0, (10 ** 6, 10 ** 6), (10 ** 6, 1)), (0, (10 ** 3, 10 ** 9), (0, 0)), (10 ** 12, (1,), (1,)),
                    (-1, (1,), (1,)), (0, (2,), (4,)), (0, (2, 2), (1,)), (0, (1 << 80,), (1,))):
        with zipfile.ZipFile(tmp_path / "hubert.pt", "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\x02}U\x05model}U\x08mask_emb" + tensor(*numbers) + b"ss.")
            archive.writestr("a/data/0", struct.pack("<4f", 1, 2, 3, 4))
        with pytest.raises(ValueError, match="larger than its storage|impossible shape"):
            fairseq_checkpoint.read(tmp_path / "hubert.pt")


def test_mutated_checkpoints_give_a_model_or_a_value_error(foreign, tmp_path):
    """Mutations of the pickles (the first and last KB, where the structure is), in both formats."""
    generator, path = random.Random(0), tmp_path / "hubert.pt"
    config = HubertConfig(conv_dim=(2, 2), conv_kernel=(10, 3), conv_stride=(5, 2), hidden_size=4, num_hidden_layers=1,
                          num_attention_heads=1, intermediate_size=4, num_conv_pos_embeddings=2,
                          num_conv_pos_embedding_groups=1)
    checkpoint = checkpoint_of("omegaconf", config, fairseq_names(config, random_state(config), {}), foreign)
    checkpoint["cfg"]._content["model"]._content["conv_feature_layers"]._val = "[(2,10,5)] + [(2,3,2)]"
    originals = []
    for is_zip in (False, True):
        save(checkpoint, path, is_zip)
        assert fairseq_checkpoint.read(path).config.conv_stride == (5, 2)
        originals.append(path.read_bytes())
    for turn in range(400):
        data = bytearray(originals[turn % 2])
        for _ in range(generator.randint(1, 5)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(data[:generator.randint(1, len(data))] if turn % 5 == 0 else data)
        start = time.monotonic()
        try:
            assert fairseq_checkpoint.read(path).state
        except ValueError as error:
            assert "hubert.pt" in str(error) and "\n" not in str(error)
        assert time.monotonic() - start < 2
