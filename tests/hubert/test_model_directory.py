"""Hugging Face directories as files: round trips with transformers, every config field, broken directories."""
import dataclasses
import json
import os
import random
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from framealign.runtime import log
from framealign.hubert import model_directory
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.model_directory import check, config_from_json, config_to_json
from framealign.hubert.model import Hubert
from framealign.hubert.parameters import BATCHES_SEEN, shapes
from framealign.emotion.emotion_model import EmotionModel

SMALL = {"conv_dim": (8, 6), "conv_kernel": (10, 3), "conv_stride": (5, 2), "hidden_size": 12, "num_hidden_layers": 2,
         "num_attention_heads": 3, "intermediate_size": 20, "num_conv_pos_embeddings": 5,
         "num_conv_pos_embedding_groups": 2}
CONFIGS = {
    "post-norm": HubertConfig(**SMALL),
    "pre-norm": HubertConfig(**SMALL, feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True),
    "positional batch norm": HubertConfig(**SMALL, conv_pos_batch_norm=True),
    "no projection norm": HubertConfig(**SMALL, feat_proj_layer_norm=False, layer_norm_eps=1e-6)}
LABELS = ["neutral", "happy", "angry", "sad"]
HEAD = {"pooling.weight": torch.randn(12), "classifier.weight": torch.randn(4, 12), "classifier.bias": torch.randn(4)}


def random_state(config: HubertConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes(config).items()}
    return {name: x.long() if name == BATCHES_SEEN else x for name, x in state.items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def directory(tmp_path) -> Path:
    """A small encoder's directory."""
    config = CONFIGS["post-norm"]
    model_directory.write(tmp_path / "model", config, random_state(config), do_normalize=True)
    return tmp_path / "model"


def edit(path: Path, **fields: object) -> None:
    """Set fields of a JSON file; None takes one out."""
    content = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_write_then_read_is_the_identity(config, tmp_path):
    state = random_state(config)
    model_directory.write(tmp_path, config, state, do_normalize=False, preprocessor={"note": "kept"})
    found = model_directory.read(tmp_path)
    assert found.config == config and equal(found.state, state) and found.head == {} and found.labels is None
    assert found.do_normalize is False and found.preprocessor["note"] == "kept"
    model_directory.write(tmp_path, config, state, HEAD, do_normalize=True, labels=LABELS)
    found = model_directory.read(tmp_path)
    assert found.config == config and equal(found.state, state) and equal(found.head, HEAD)
    assert found.do_normalize is True and found.labels == LABELS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors",
                                                                "preprocessor_config.json"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(set(modes.values())) == 1, modes     # the weights are as readable as the rest


@pytest.mark.parametrize("head", ({}, HEAD, {"lm_head.weight": torch.randn(32, 12), "lm_head.bias": torch.randn(32)}),
                         ids=("encoder", "recogniser", "CTC"))
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_transformers_opens_what_is_written(config, head, tmp_path):
    """Every tensor arrives, none is missing, for a plain encoder and beneath any head; no warning about weight norm."""
    transformers = pytest.importorskip("transformers")
    state = random_state(config)
    model_directory.write(tmp_path, config, state, head, do_normalize=True, labels=LABELS if head is HEAD else None)
    model, info = transformers.HubertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert equal(model.state_dict(), state)
    assert not info["missing_keys"] and not info["mismatched_keys"] and set(info["unexpected_keys"]) == set(head)
    for name in ("hidden_size", "num_hidden_layers", "conv_bias", "layerdrop", "do_stable_layer_norm"):
        assert getattr(model.config, name) == getattr(config, name)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert extractor.do_normalize and extractor.sampling_rate == 16_000
    assert extractor.return_attention_mask == (config.feat_extract_norm == "layer")
    if head is HEAD:
        assert model.config.id2label == dict(enumerate(LABELS)) and model.config.label2id["sad"] == 3
    if "lm_head.weight" in head:
        whole = transformers.AutoModelForCTC.from_pretrained(tmp_path)
        assert torch.equal(whole.lm_head.weight, head["lm_head.weight"])


@pytest.mark.parametrize("kind", ("HubertModel", "HubertForCTC", "HubertForSequenceClassification"))
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_what_transformers_writes_is_read(config, kind, tmp_path):
    """Whole or in shards, with the encoder under its own names or under `hubert.`; then written again, unchanged."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.HubertConfig(**{name: list(value) if isinstance(value, tuple) else value
                                          for name, value in config_to_json(config).items()})
    if kind == "HubertForSequenceClassification":
        theirs.id2label, theirs.label2id = dict(enumerate(LABELS)), {label: i for i, label in enumerate(LABELS)}
    model = getattr(transformers, kind)(theirs)
    encoder = model if kind == "HubertModel" else model.hubert
    for place, options in (("whole", {}), ("sharded", {"max_shard_size": "4KB"})):
        model.save_pretrained(tmp_path / place, **options)
        found = model_directory.read(tmp_path / place)
        assert found.config == config and equal(found.state, dict(encoder.state_dict()))
        assert {name.split(".")[0] for name in found.head} == {
            "HubertModel": set(), "HubertForCTC": {"lm_head"},
            "HubertForSequenceClassification": {"projector", "classifier"}}[kind]
        assert found.labels is None and not found.is_recogniser                 # its head is not ours
        assert found.kind.startswith("an encoder" if kind == "HubertModel" else f"a {kind} (")
    assert (tmp_path / "sharded" / "model.safetensors.index.json").exists()
    model_directory.write(tmp_path / "again", found.config, found.state, found.head, do_normalize=True)
    again = getattr(transformers, kind).from_pretrained(tmp_path / "again")
    assert equal(dict(again.state_dict()), dict(model.state_dict()))
    written, original = (json.loads((tmp_path / x / "config.json").read_text()) for x in ("again", "whole"))
    assert written == original


def test_a_field_that_is_absent_has_transformers_default():
    transformers = pytest.importorskip("transformers")
    found = config_to_json(config_from_json({}))
    theirs = json.loads(transformers.HubertConfig().to_json_string(use_diff=False))
    assert found == {name: theirs[name] for name in found}


def test_every_field_of_transformers_survives():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.HubertConfig(**config_to_json(CONFIGS["pre-norm"]), mask_time_prob=0.07, vocab_size=99,
                                       ctc_loss_reduction="mean", id2label={0: "a", 1: "b", 2: "ä"}, final_dropout=0.3)
    content = json.loads(theirs.to_json_string(use_diff=False))
    content |= {"feat_extract_dropout": 0.0, "gradient_checkpointing": False, "of_another_time": {"a": [1, None]}}
    assert json.loads(json.dumps(config_to_json(config_from_json(content)))) == content
    ours = config_to_json(CONFIGS["post-norm"])     # and ours through theirs
    assert config_from_json(transformers.HubertConfig(**ours).to_dict()) == CONFIGS["post-norm"]
    assert ours["model_type"] == "hubert" and ours["num_feat_extract_layers"] == 2


BAD_FIELDS = {
    "model_type": ["wav2vec2", 3], "hidden_size": [0, -1, 12.0, "12", True, [12], 10 ** 30],
    "num_hidden_layers": [10 ** 9, 3], "conv_dim": [8, "88", [8], [8, 6.0], [8, True], [], [8, 0]],
    "conv_bias": [0, "false"], "layerdrop": ["0.1", float("nan"), float("inf"), 1.0, -0.1, True, 10 ** 400],
    "feat_extract_norm": ["batch", 1, []], "hidden_act": ["relu", 4], "conv_pos_batch_norm": [1],
    "num_attention_heads": [5], "intermediate_size": [21]}


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_bad_fields_are_named(field, directory):
    for value in BAD_FIELDS[field]:
        edit(directory / "config.json", **{field: value})
        with pytest.raises(ValueError, match=r"^[^\n]*(config\.json|model\.safetensors): [^\n]+$") as caught:
            model_directory.read(directory)
        assert field in str(caught.value) or field == "intermediate_size" and "of another shape" in str(caught.value)


def test_both_spellings_of_weight_norm(directory):
    state = model_directory.read(directory).state
    modern = "encoder.pos_conv_embed.conv.parametrizations.weight.original"
    older = {name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"): x.clone() for name, x in state.items()}
    assert "encoder.pos_conv_embed.conv.weight_g" in older and modern + "0" in state
    save_file(older, directory / "model.safetensors")
    assert equal(model_directory.read(directory).state, state)
    model_directory.write(directory / "again", CONFIGS["post-norm"], older, do_normalize=True)
    assert modern + "1" in load_file(directory / "again" / "model.safetensors")
    save_file({**older, modern + "0": state[modern + "0"]}, directory / "model.safetensors")
    with pytest.raises(ValueError, match="both spellings"):
        model_directory.read(directory)


def test_pytorch_bin_whole_and_in_shards(directory):
    state = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save(state, directory / "pytorch_model.bin")
    assert equal(model_directory.read(directory).state, state)
    (directory / "pytorch_model.bin").unlink()
    names = sorted(state)
    parts = {"a.bin": names[::2], "b.bin": names[1::2]}
    for shard, held in parts.items():
        torch.save({name: state[name] for name in held}, directory / shard)
    index = {"weight_map": {name: shard for shard, held in parts.items() for name in held}}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert equal(model_directory.read(directory).state, state)


def test_pytorch_bin_executes_nothing(directory, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    (directory / "model.safetensors").unlink()
    for content in ({"a": Evil()}, Evil(), [torch.ones(1)], {"a": 1}, {1: torch.ones(1)}):
        torch.save(content, directory / "pytorch_model.bin")
        with pytest.raises(ValueError, match=r"^[^\n]*pytorch_model\.bin: [^\n]+$"):
            model_directory.read(directory)
    assert not (tmp_path / "executed").exists()


def test_strictness(directory):
    state = load_file(directory / "model.safetensors")

    def refused(changed: dict, match: str) -> None:
        save_file(changed, directory / "model.safetensors")
        with pytest.raises(ValueError, match=match):
            model_directory.read(directory)

    bias = "encoder.layers.1.attention.k_proj.bias"
    refused({name: x for name, x in state.items() if name != bias}, f"model.safetensors: .*1 missing \\({bias}\\)")
    refused({**state, "encoder.layers.1.extra": torch.ones(1)}, r"1 unexpected \(encoder.layers.1.extra\)")
    refused({**state, bias: torch.ones(3)}, rf"1 of another shape \({bias} \(3,\), not \(12,\)\)")
    refused({**state, bias: torch.ones(12).int()}, f"{bias} must hold floats, holds torch.int32")
    refused({f"model.{name}": x for name, x in state.items()}, "weights have 0 blocks")
    refused({**state, "encoder.layers.2.final_layer_norm.bias": torch.ones(12)}, "num_hidden_layers 2.*3 blocks")
    refused({"x": torch.ones(1)}, "0 blocks")
    with pytest.raises(ValueError, match="missing"):
        model_directory.write(directory / "b", CONFIGS["post-norm"], {"masked_spec_embed": torch.ones(12)},
                          do_normalize=True)
    assert not (directory / "b").exists()


def test_only_the_mask_embedding_may_be_missing(tmp_path):
    """As transformers leaves it out of a model that does not mask; written so that transformers misses nothing."""
    transformers = pytest.importorskip("transformers")
    config = CONFIGS["post-norm"]
    theirs = transformers.HubertConfig(**config_to_json(config), mask_time_prob=0.0)
    transformers.HubertModel(theirs).save_pretrained(tmp_path / "theirs")
    found = model_directory.read(tmp_path / "theirs")
    assert check(found.state, shapes(config), "x") == ["masked_spec_embed"]
    model_directory.write(tmp_path / "ours", config, found.state, do_normalize=True)
    _, info = transformers.HubertModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_data_types(directory):
    """Half precision is kept, and transformers is not told to convert to what the weights are not."""
    transformers = pytest.importorskip("transformers")
    config = config_from_json({**config_to_json(CONFIGS["post-norm"]), "torch_dtype": "float16", "dtype": "float16"})
    half = {name: x.half() for name, x in random_state(config).items()}
    for state in (half, random_state(config)):
        model_directory.write(directory, config, state, do_normalize=True)
        assert equal(model_directory.read(directory).state, state)
        assert equal(dict(transformers.HubertModel.from_pretrained(directory).state_dict()), state)


def test_writing_takes_any_layout(directory):
    """Transposed views, parameters that need gradients; a failing write leaves what was there."""
    config = CONFIGS["post-norm"]
    state = random_state(config)
    name = "encoder.layers.0.attention.q_proj.weight"
    changed = {**state, name: torch.nn.Parameter(state[name].T)}
    model_directory.write(directory, config, changed, do_normalize=True)
    assert torch.equal(model_directory.read(directory).state[name], state[name].T)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(Exception):
        model_directory.write(directory, config, state, {"head": "not a tensor"}, do_normalize=True)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_labels_belong_to_a_classifier(tmp_path):
    config, state = CONFIGS["post-norm"], random_state(CONFIGS["post-norm"])
    model_directory.write(tmp_path, config, state, HEAD, do_normalize=True, labels=LABELS)
    for value, match in (({"0": "a"}, "names 1 classes, the classifier has 4"), ({"0": "a", "2": "b"}, "0, 1, ..."),
                         ({"0": 3}, "with text"), ("neutral", "with text")):
        edit(tmp_path / "config.json", id2label=value)
        with pytest.raises(ValueError, match=f"config.json: id2label .*{match}"):
            model_directory.read(tmp_path)
    edit(tmp_path / "config.json", id2label=None)
    assert model_directory.read(tmp_path).labels is None
    with pytest.raises(ValueError, match=r"its config.json names no classes \(id2label\)"):
        EmotionModel.from_pretrained(tmp_path)


def test_classes_that_cannot_be_told_apart_are_refused(tmp_path):
    """By their names; by names that are none; by two tables that contradict each other."""
    config, state = CONFIGS["post-norm"], random_state(CONFIGS["post-norm"])
    model_directory.write(tmp_path, config, state, HEAD, do_normalize=True, labels=LABELS)

    def refused(labels: list[str], match: str, **more: object) -> None:
        edit(tmp_path / "config.json", **({"id2label": dict(enumerate(labels)),
                                           "label2id": {label: i for i, label in enumerate(labels)}} | more))
        for reader in (model_directory.read, EmotionModel.from_pretrained):
            with pytest.raises(ValueError, match=f"^[^\n]*config.json: [^\n]*{match}[^\n]*$"):
                reader(tmp_path)

    refused(["a", "b", "a", "c"], "2 classes have the name 'a'")
    refused([f"LABEL_{i}" for i in range(4)], "placeholders")
    for name in ("", " b", "b\t", "b\nc", "b,c", "b\x00", "\u2028"):
        refused(["a", name, "c", "d"], "a class must have a name without commas, tabs or ends of lines")
    for name in ("none", "None"):
        refused(["a", name, "c", "d"], f"a class must not be called '{name}', .*give it another name")
    for back in ({"a": 0}, {"a": 1, "b": 0, "c": 2, "d": 3}, {"a": 0, "b": 1, "c": 2, "e": 3}, [], "a"):
        refused(["a", "b", "c", "d"], "label2id contradicts id2label", label2id=back)
    edit(tmp_path / "config.json", id2label=dict(enumerate("abcd")), label2id=None)
    assert model_directory.read(tmp_path).labels == ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match="classes: 2 classes have the name 'a'"):
        EmotionModel(Hubert(config), ["a", "a"])


def test_names_of_another_programs_classes_are_none_of_ours(tmp_path):
    """Its classifier is left out, so placeholders do no harm to the encoder."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.HubertConfig(**config_to_json(CONFIGS["post-norm"]), num_labels=3)
    transformers.HubertForSequenceClassification(theirs).save_pretrained(tmp_path)
    assert Hubert.from_pretrained(tmp_path).config == CONFIGS["post-norm"]
    with pytest.raises(ValueError, match=r"a HubertForSequenceClassification \(classifier, projector\) but no rec"):
        EmotionModel.from_pretrained(tmp_path)


def test_broken_directories(directory, tmp_path):
    def refused(path: Path, match: str) -> None:
        with pytest.raises(ValueError, match=f"^[^\n]*{match}[^\n]*$"):
            model_directory.read(path)

    refused(tmp_path / "absent", "absent: no such directory")
    refused(directory / "config.json", "config.json: a file that is no weights of a model directory")
    (tmp_path / "run" / "encoder").mkdir(parents=True)
    (tmp_path / "run" / "encoder" / "config.json").touch()
    refused(tmp_path / "run", "config.json: no such file; give .*run/encoder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "config.json: no such file")
    weights, config = (directory / "model.safetensors").read_bytes(), (directory / "config.json").read_bytes()
    for content in (b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, config[:-20]):
        (directory / "config.json").write_bytes(content)
        refused(directory, "config.json: ")
    (directory / "config.json").write_bytes(config)
    for content in (b"", weights[:7], weights[:100], weights[:-1], weights[:len(weights) // 2], weights + b"x",
                    b"\xff" * 8 + weights[8:]):
        (directory / "model.safetensors").write_bytes(content)
        refused(directory, "model.safetensors: not readable as safetensors, perhaps a download that stopped")
    (directory / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refused(directory, "model.safetensors: a Git LFS pointer")
    (directory / "model.safetensors").unlink()
    refused(directory, "holds no weights")
    torch.save({"a": torch.ones(100)}, directory / "pytorch_model.bin")
    half = (directory / "pytorch_model.bin").read_bytes()[:600]
    for content in (b"", b"text", half):
        (directory / "pytorch_model.bin").write_bytes(content)
        refused(directory, "pytorch_model.bin: not readable as torch weights, perhaps a download that stopped")


def test_broken_shards(directory):
    state = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names, index = sorted(state), directory / "model.safetensors.index.json"
    save_file({name: state[name] for name in names[:5]}, directory / "a.safetensors")
    save_file({name: state[name] for name in names[5:]}, directory / "b.safetensors")
    whole = {name: "a.safetensors" if name in names[:5] else "b.safetensors" for name in names}

    def refused(weight_map: object, match: str) -> None:
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(ValueError, match=match):
            model_directory.read(directory)

    for shard in ("../model/a.safetensors", "/etc/passwd", "sub/a.safetensors", "..", ".", "", "a\0b", "..\\a"):
        refused({**whole, names[0]: shard}, "index.json: a shard must be a file of the same directory")
    for changed in ({**whole, names[0]: "b.safetensors"}, {name: whole[name] for name in names[1:]}):
        refused(changed, rf"a.safetensors holds 1 parameters that the index does not place there \({names[0]}\)")
    save_file({name: state[name] for name in names[1:5]}, directory / "a.safetensors")
    refused({**whole, names[0]: "c.safetensors"}, "c.safetensors: no such file: is the download complete")
    save_file({name: state[name] for name in names[:5]}, directory / "a.safetensors")
    refused({**whole, "encoder.other": "a.safetensors"}, r"1 of its parameters are in no shard \(encoder.other\)")
    for weight_map in (None, [], {}, {"a": 1}, "x"):
        refused(weight_map, "index.json: weight_map must say")
    data = (directory / "b.safetensors").read_bytes()
    (directory / "b.safetensors").write_bytes(data[:-100])
    refused(whole, "b.safetensors: not readable")
    (directory / "b.safetensors").write_bytes(data)
    index.write_text(json.dumps({"weight_map": whole}))
    assert equal(model_directory.read(directory).state, state)


def test_preprocessor(directory):
    path = directory / "preprocessor_config.json"
    edit(path, do_normalize=False)
    assert model_directory.read(directory).do_normalize is False
    for fields, match in (({"do_normalize": "yes"}, "do_normalize must be true or false, is 'yes'"),
                          ({"do_normalize": True, "sampling_rate": 8000}, "sampling_rate must be 16000")):
        edit(path, **fields)
        with pytest.raises(ValueError, match=f"preprocessor_config.json: {match}"):
            model_directory.read(directory)
    for fields, match in (({"sampling_rate": 16_000, "feature_size": 80}, "feature_size must be 1, is "),
                          ({"feature_size": 1, "feature_extractor_type": "WhisperFeatureExtractor"},
                           "feature_extractor_type must be Wav2Vec2FeatureExtractor, is 'Whisper")):
        edit(path, **fields)
        with pytest.raises(ValueError, match=f"preprocessor_config.json: {match}"):
            model_directory.read(directory)


def test_a_directory_that_says_nothing_of_its_input_is_told_so(directory, capsys):
    path = directory / "preprocessor_config.json"
    for write in (lambda: edit(path, do_normalize=None), path.unlink):
        log._said.clear()
        write()
        assert model_directory.read(directory).do_normalize is True             # transformers' own default
        note, = capsys.readouterr().err.splitlines()
        assert note.startswith(f"{directory}: does not say whether waveforms are normalised") and "they are" in note


@pytest.mark.parametrize("do_normalize", [False, True])
def test_what_transformers_5_says_of_the_input_is_read(directory, do_normalize, tmp_path, capsys):
    """It writes processor_config.json, with the feature extractor inside, and no preprocessor_config.json."""
    transformers = pytest.importorskip("transformers")
    path, nested = directory / "preprocessor_config.json", directory / "processor_config.json"
    path.unlink()
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=do_normalize, return_attention_mask=True)
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "a": 5}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(tmp_path / "vocab.json")
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(directory)
    if not nested.exists():                         # transformers 4 writes the other file
        path.unlink()
        nested.write_text(json.dumps({"feature_extractor": extractor.to_dict(), "processor_class": "x"}))
    assert not path.exists()
    found = model_directory.read(directory)
    assert found.do_normalize is do_normalize and "does not say" not in capsys.readouterr().err
    model_directory.write(directory / "again", found.config, found.state, do_normalize=found.do_normalize,
                          preprocessor=found.preprocessor)
    again = transformers.AutoFeatureExtractor.from_pretrained(directory / "again")      # 4 and 5 read this file
    assert again.do_normalize is do_normalize and again.return_attention_mask is True
    assert model_directory.read(directory / "again").do_normalize is do_normalize

    content = json.loads(nested.read_text())
    for name, value in (("sampling_rate", 8000), ("feature_size", 80), ("do_normalize", "no")):
        nested.write_text(json.dumps({"feature_extractor": {**content["feature_extractor"], name: value}}))
        with pytest.raises(ValueError, match=f"processor_config.json: {name} must be"):
            model_directory.read(directory)
    nested.write_text(json.dumps({"feature_extractor": "x"}))
    with pytest.raises(ValueError, match="processor_config.json: feature_extractor must be an object"):
        model_directory.read(directory)
    nested.write_text(json.dumps(content))
    path.write_text(json.dumps({"do_normalize": not do_normalize}))
    with pytest.raises(ValueError, match="do_normalize is (True|False), in processor_config.json (True|False); remove"):
        model_directory.read(directory)
    nested.write_text(json.dumps({"processor_class": "Wav2Vec2Processor"}))    # as transformers 4 writes it
    assert model_directory.read(directory).do_normalize is not do_normalize


def test_every_field_of_transformers_configuration_is_dealt_with():
    """Ours, refused, or without effect on the states of unmasked sound: heads, losses, masking in training."""
    transformers = pytest.importorskip("transformers")
    without_effect = {
        "vocab_size", "final_dropout", "apply_spec_augment", "ctc_loss_reduction", "ctc_zero_infinity",
        "use_weighted_layer_sum", "classifier_proj_size", "pad_token_id", "bos_token_id", "eos_token_id",
        *(f"mask_{of}_{what}" for of in ("time", "feature") for what in ("prob", "length", "min_masks"))}
    ours = {item.name for item in dataclasses.fields(HubertConfig)}
    of_any_model = set(transformers.PretrainedConfig().to_dict())
    theirs = set(transformers.HubertConfig().to_dict()) - of_any_model - {"model_type", "num_feat_extract_layers"}
    assert theirs - ours == without_effect - of_any_model
    for name in ("adapter_attn_dim", "quantization_config"):
        with pytest.raises(ValueError, match=f"config.json: {name} must be absent or null"):
            config_from_json({name: 8})
    for kind in ("wavlm", "wav2vec2", "data2vec-audio", "speech-encoder-decoder"):
        with pytest.raises(ValueError, match=f"model_type must be hubert, is '{kind}': another encoder"):
            config_from_json({"model_type": kind, "encoder": {"model_type": "hubert"}})
    with pytest.raises(ValueError, match="architectures must be a Hubert's, is .*WavLMModel"):
        config_from_json({"architectures": ["WavLMModel"]})


def test_mutated_files_give_a_model_or_a_value_error(directory):
    generator = random.Random(0)
    originals = {path: path.read_bytes() for path in directory.iterdir()}
    for turn in range(450):
        path = sorted(originals)[turn % 3]
        data = bytearray(originals[path])
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(min(len(data), 3000))] = generator.randrange(256)
        path.write_bytes(data[:generator.randint(1, len(data))] if turn % 5 == 0 else data)
        try:
            model_directory.read(directory)
        except ValueError as error:
            assert str(directory) in str(error) and "\n" not in str(error)
        path.write_bytes(originals[path])
