"""`bin/verify.py` on a fixture that transformers made from a random model, and on all that must not pass for one."""
import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import small
import soundfile
import torch

from framealign.runtime import files
from framealign.sound import audio
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.model import Hubert
from framealign.commands import verify_command

LAYER, CLUSTERS = 2, 12
SHAPES = {"group": {}, "layer": {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}}


@pytest.fixture(scope="module", params=SHAPES)
def world(request, tmp_path_factory) -> Path:
    """A model, its fixture made by transformers (layer 2, normalised as fairseq does) and a codebook of its frames."""
    transformers = pytest.importorskip("transformers", reason="transformers is absent: pip install -e .[oracle]")
    folder, draw = tmp_path_factory.mktemp("verify"), np.random.default_rng(0)
    torch.manual_seed(0)
    Hubert(HubertConfig(conv_dim=(8,) * 7, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
                        intermediate_size=32, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
                        initializer_range=0.3, **SHAPES[request.param]), do_normalize=True).save_pretrained(
                            folder / "model")
    (folder / "fixture").mkdir()
    sound = 0.003 * draw.standard_normal(9000) * np.linspace(0.2, 3, 9000) + 0.01   # quiet: epsilons count
    soundfile.write(folder / "fixture" / "a.flac", sound, 16_000)
    waveform = torch.from_numpy(soundfile.read(folder / "fixture" / "a.flac", dtype="float32")[0])
    if request.param == "layer":
        waveform = torch.nn.functional.layer_norm(waveform, waveform.shape)     # fairseq's own line
    theirs = transformers.HubertModel.from_pretrained(folder / "model").eval()
    with torch.no_grad():
        states = theirs(waveform[None], output_hidden_states=True).hidden_states[LAYER][0].numpy()      # (T, D)
    centroids = states[draw.permutation(len(states))[:CLUSTERS]]
    units = ((states[:, None] - centroids) ** 2).sum(2).argmin(1)
    np.save(folder / "fixture" / f"a.base.L{LAYER}.npy", states)
    np.save(folder / "codebook.npy", centroids)
    (folder / "fixture" / "a.km").write_text(" ".join(map(str, units)) + "\n")
    (folder / "fixture" / "SOURCE.md").write_text("what it is\n")
    return folder


@pytest.fixture
def copy(world, tmp_path) -> Path:
    """A copy that may be spoilt."""
    shutil.copytree(world, tmp_path / "world")
    return tmp_path / "world"


@pytest.fixture
def script(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run bin/verify.py in this process: exit status, output, errors."""
    def run(folder: Path, *args: str, codebook: bool = True) -> tuple[int, str, str]:
        words = ["verify.py", "--hubert", str(folder / "model"), "--fixture", str(folder / "fixture"), *args]
        monkeypatch.setattr(sys, "argv", words + (["--codebook", str(folder / "codebook.npy")] if codebook else []))
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(small.ROOT / "bin" / "verify.py"), run_name="__main__")
        return end.value.code, *capsys.readouterr()
    return run


def change(folder: Path, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace the fixture's features by `edit` of them."""
    path = folder / "fixture" / f"a.base.L{LAYER}.npy"
    np.save(path, edit(np.load(path)))


def test_the_models_own_fixture_is_verified(world, script):
    status, out, err = script(world)
    assert status == 0 and not err and out.endswith("verified: within all limits\n")
    assert [int(n) for n in re.findall(r"^layer +(\d+): mean norm of a frame \d", out, re.MULTILINE)] == [0, 1, 2, 3]
    largest, mean = map(float, re.search(r"largest relative difference (\S+), mean (\S+) ", out).groups())
    assert largest < 1e-5 and mean < 1e-5
    assert "units: 100.00 % of 27 equal" in out and "no unit differs" in out and "no feature differs" in out
    assert script(world, codebook=False)[0] == 0


def test_norms_are_those_of_the_states(world, script):
    hubert = Hubert.from_pretrained(world / "model")
    waveform = audio.load(world / "fixture" / "a.flac")
    if hubert.config.feat_extract_norm == "layer":
        waveform = torch.nn.functional.layer_norm(waveform, waveform.shape)
    printed = re.findall(r"frame (\d\S*)$", script(world)[1], re.MULTILINE)
    expected = [np.linalg.norm(x[0].detach().numpy(), axis=1).mean() for x in hubert.all_states(waveform[None])]
    assert list(map(float, printed)) == pytest.approx(expected, rel=1e-5)


def test_normalisation_is_fairseqs_unless_asked_otherwise(world, script):
    """Off for group norm, on for layer norm, whatever preprocessor_config.json says (here: on); the output says which.

    The other way the fixture must fail: it tells the two apart.
    """
    own = files.read_json(world / "model" / "config.json")["feat_extract_norm"] == "layer"
    on, off = script(world, "--normalize"), script(world, "--no-normalize")
    assert (on[0], off[0]) == ((0, 1) if own else (1, 0))
    assert "; normalised, as asked (preprocessor_config.json: on)" in on[1]
    assert "; not normalised, as asked (preprocessor_config.json: on)" in off[1]
    assert f"{'' if own else 'not '}normalised, as fairseq trains models with {'layer' if own else 'group'}" in \
        script(world)[1]


@pytest.mark.parametrize("share, status", [(0.5, 0), (1.5, 1)])
def test_the_limit_on_features(copy, script, share, status):
    """A single number off by a share of the limit, in frame 7, is named; units stay equal."""
    def edit(features: np.ndarray) -> np.ndarray:
        features[7, 3] += share * verify_command.FEATURE_LIMIT * np.abs(features).max()
        return features

    change(copy, edit)
    got, out, _ = script(copy)
    assert got == status
    assert ("first frame whose feature differs: 7 (at 0.14 s), 1 of 27 in all" in out) == bool(status)
    assert ("NOT verified" in out) == bool(status)


def test_a_small_difference_everywhere_is_beyond_the_mean_limit(copy, script):
    change(copy, lambda features: features * np.float32(1.002))
    status, out, _ = script(copy)
    assert status == 1 and "mean 0.002 (limit 0.001)" in out


@pytest.mark.parametrize("number, status", [(0, 0), (1, 1), (27, 1)])
def test_the_limit_on_units(copy, script, number, status):
    """One of 27 is more than 0.5 %."""
    path = copy / "fixture" / "a.km"
    units = np.array(path.read_text().split(), int)
    units[len(units) - number:] = (units[len(units) - number:] + 1) % CLUSTERS
    path.write_text(" ".join(map(str, units)) + "\n")
    got, out, _ = script(copy)
    assert got == status and f"units: {100 * (1 - number / 27):.2f} % of 27" in out
    assert (f"first frame whose unit differs: {27 - number} " in out) == bool(number)
    assert script(copy, codebook=False)[0] == 0     # the features are as they were


def test_other_weights_and_a_diverged_model_fail(copy, script):
    hubert = Hubert.from_pretrained(copy / "model")
    for factor in (1.1, float("nan")):
        with torch.no_grad():
            hubert.encoder.layers[1].attention.out_proj.weight.mul_(factor)
        hubert.save_pretrained(copy / "model")
        status, out, err = script(copy)
        assert status == 1 and not err and "NOT verified" in out and "whose feature differs: 0 " in out


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "fixture" / name).unlink()


def with_text(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text)


NPY = f"fixture/a.base.L{LAYER}.npy"
MISTAKES = {
    "no model": (lambda folder: shutil.rmtree(folder / "model"), "model: no such directory"),
    "no fixture": (lambda folder: shutil.rmtree(folder / "fixture"), "fixture: no such folder"),
    "no sound": (without("a.flac"), r"must hold one sound file \(.*\), holds 0"),
    "two sounds": (lambda folder: shutil.copy(folder / "fixture/a.flac", folder / "fixture/b.flac"), "holds 2"),
    "no features": (without(f"a.base.L{LAYER}.npy"), "must hold one feature file .*, holds 0"),
    "no units": (without("a.km"), r"must hold one file of units \(\*\.km\), holds 0"),
    "no codebook": (lambda folder: (folder / "codebook.npy").unlink(), "codebook.npy: "),
    "text as features": (with_text(NPY, "text"), "L2.npy: not readable as .npy"),
    "text as sound": (with_text("fixture/a.flac", "text"), "a.flac: "),
    "text as units": (with_text("fixture/a.km", "one two\n"), "a.km:1: units must be whole numbers"),
    "two lines of units": (with_text("fixture/a.km", "1 2\n3\n"), "must hold one line of 27 units.* holds 2 of 3"),
    "unknown unit": (with_text("fixture/a.km", "99 1\n"), "a.km:1: holds unit 99, the codebook has 12"),
    "another layer": (lambda folder: (folder / NPY).rename(folder / "fixture/a.base.L9.npy"), "of layer 9, .* 1 to 3"),
    "frames": (lambda folder: change(folder, lambda x: x[:-1]), r"must hold one line of 26 units|are \(26, 16\)"),
    "width": (lambda folder: change(folder, lambda x: x[:, :-1]), "codebook.npy: has 16 dimensions, .* 15"),
    "type": (lambda folder: change(folder, lambda x: x.astype(np.float64)), r"must be float32 \(T, D\), is float64"),
    "one number for a frame": (lambda folder: change(folder, lambda x: x[:, 0]), r"must be float32 \(T, D\)"),
    "not finite": (lambda folder: change(folder, lambda x: x * np.float32(np.nan)), "not finite"),
    "a pickle": (lambda folder: np.save(folder / NPY, np.array([{}], object)), "not readable as .npy"),
    "codebook's width": (lambda folder: np.save(folder / "codebook.npy", np.ones((12, 7), np.float32)),
                         "codebook.npy: has 7 dimensions, the fixture's features 16"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_bad_input_is_one_line(copy, script, name):
    spoil, message = MISTAKES[name]
    spoil(copy)
    status, out, err = script(copy)
    assert status == 2 and re.fullmatch(r"error: [^\n]*\n", err) and re.search(message, err)
    assert not out


@pytest.mark.parametrize("edit, shape", [(lambda x: x[:-1], "(26, 16)"), (lambda x: x[:, :-1], "(27, 15)")])
def test_features_of_another_sound_or_model(copy, script, edit, shape):
    """Without a codebook the model itself is what they do not fit."""
    change(copy, edit)
    status, out, err = script(copy, codebook=False)
    assert status == 2 and not out and f"features are {shape}, the model gives (27, 16) for a.flac" in err


def test_the_published_fixture_is_read(shared):
    """Layer 9 of base, 596 frames; another model is told so in one line. The weights are not here to go on."""
    fixture = verify_command.read_fixture(shared / "hubert_fixture", 500)
    assert fixture.layer == 9 and len(fixture.waveform) == 190_800
    assert fixture.features.shape == (596, 768) and fixture.units.shape == (596,)
    tiny = small.ROOT / "framealign" / "tiny"
    blocks = json.loads((tiny / "config.json").read_text())["num_hidden_layers"]
    with pytest.raises(ValueError, match=f"of layer 9, the model has blocks 1 to {blocks}; is it another size"):
        verify_command.run(str(tiny), str(shared / "hubert_fixture"))


def test_help_says_what_the_flags_mean(script, world):
    status, out, _ = script(world, "--help")
    assert status == 0 and "bin/verify.py --hubert" in out and "--no-normalize" in out and "Exit status: 0" in out
