"""The ONNX file: equal to the recogniser on any batch and length, run by onnxruntime, of weights rounded or not."""
import dataclasses
import json
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import random_models
import torch
from torch import nn

from framealign.emotion import onnx_file
from framealign.emotion.calibration import Calibration
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.recogniser import Recogniser
from framealign.hubert.model import Hubert

LABELS = ["neutral", "happy", "angry", "sad"]
SHORT = {"conv_dim": (16,) * 3, "conv_kernel": (10, 8, 16), "conv_stride": (5, 8, 16)}     # a frame every 40 ms
# By what differs: the encoder, whether a waveform is normalised, pooling, seconds of windows, whether weights are
# rounded.
VARIANTS = {"group norm": (random_models.NARROW, True, "frames", 0.0, False),
            "rounded, layer norm": (random_models.NARROW_PRE, False, "attention", 0.4, True),
            "layer norm": (random_models.NARROW_PRE, False, "mean", 0.0, False),
            "batch norm": (random_models.BATCH_NORM, True, "attention", 0.0, False),
            "rounded, group norm": (random_models.NARROW, True, "layers", 0.0, True)}
ALWAYS = ("group norm", "rounded, layer norm")      # an export takes seconds: the others are slow tests


def written(folder: Path, variant: str) -> Recogniser:
    """A recogniser of random weights in `folder / "recogniser"`."""
    config, do_normalize, pooling, window_seconds, _ = VARIANTS[variant]
    hubert = random_models.make(dataclasses.replace(config, **SHORT))
    hubert.do_normalize = do_normalize
    model = EmotionModel(hubert, LABELS, pooling, window_seconds=window_seconds)
    for name, parameter in model.named_parameters():
        if not name.startswith("hubert."):
            nn.init.normal_(parameter, std=0.4)
    model.calibration = Calibration(0.6, 1.7, "validation of a few")
    model.save_pretrained(folder / "recogniser")
    return Recogniser.from_pretrained(folder / "recogniser")


def rounded_by_hand(recogniser: Recogniser) -> None:
    """Replace each weight of the encoder's maps and convolutions, a row after the other, in numpy."""
    for module in recogniser.model.hubert.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            weight = module.weight.detach().numpy().copy()
            for row in weight:
                step = np.abs(row).max() / 127
                row[:] = np.rint(row / step) * step
            with torch.no_grad():
                if "weight" in dict(module.named_parameters()):
                    module.weight.copy_(torch.from_numpy(weight))
                else:                               # the positional convolution's, which is weight-normed
                    module.weight = torch.from_numpy(weight)


@pytest.fixture(scope="module", params=[pytest.param(variant, marks=() if variant in ALWAYS else pytest.mark.slow)
                                        for variant in VARIANTS])
def exported(request, tmp_path_factory) -> tuple[Recogniser, Path]:
    """A recogniser, its weights rounded where those of the file are, and the file."""
    for package in (*onnx_file.PACKAGES, "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is absent: pip install -e .[export]")
    folder = tmp_path_factory.mktemp("onnx")
    recogniser, int8 = written(folder, request.param), VARIANTS[request.param][-1]
    onnx_file.export(folder / "recogniser", folder / "recogniser.onnx", "cc-by-4.0", int8)
    if int8:
        rounded_by_hand(recogniser)
    return recogniser, folder / "recogniser.onnx"


def test_the_file_is_the_recogniser(exported):
    """Each sound of each padded batch as the recogniser hears it alone; what stands in the padding is not heard."""
    import onnxruntime
    recogniser, path = exported
    session = onnxruntime.InferenceSession(str(path))
    framing, draw = recogniser.model.hubert.config.framing, np.random.default_rng(0)
    least = framing.receptive_field
    assert [one.name for one in session.get_inputs()] == list(onnx_file.INPUTS)
    assert [one.shape for one in session.get_outputs()] == [["B", 4], ["B", "T"], ["B", "T", 4]]
    for size in (1, 1, 2, 3, 5, 1):
        lengths = [least] if size == 1 else draw.integers(least, 32_000, size=size).tolist()
        lengths[0] += int(draw.integers(2)) * framing.hop
        waveform = draw.normal(0.05, 0.1, (size, max(lengths))).astype(np.float32)
        answers = session.run(None, {"waveform": waveform, "num_samples": np.array(lengths)})
        for samples, length, probabilities, attention, posterior in zip(waveform, lengths, *answers, strict=True):
            alone = recogniser(samples[:length])
            T = len(alone.attention)
            np.testing.assert_allclose(probabilities, list(alone.probabilities.values()), atol=2e-5)
            np.testing.assert_allclose(attention[:T], alone.attention, atol=2e-5)
            np.testing.assert_allclose(posterior[:T], alone.posterior, atol=2e-5)
            assert not attention[T:].any()


def test_the_file_says_what_it_is_and_not_where_it_was_made(exported):
    import onnxruntime
    recogniser, path = exported
    metadata = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    assert metadata.pop("license") == "cc-by-4.0" and metadata.pop("calibrated_on") == "validation of a few"
    assert {name: json.loads(content) for name, content in metadata.items()} == {
        "labels": LABELS, "sample_rate": 16_000, "hop_samples": 640, "least_samples": 645, "least_batch_samples": 1285,
        "frames_trained": recogniser.model.frames is not None, "window_seconds": recogniser.model.window_seconds,
        "temperature_utterances": 0.6, "temperature_frames": 1.7}
    content = path.read_bytes()
    assert str(Path(onnx_file.__file__).parents[2]).encode() not in content and b"onnx_file.py" not in content


def test_rounded_weights_are_within_half_a_step():
    """Of any shape, with the largest of a row as it was; a row of zeros stays one."""
    for shape in ((5, 7), (4, 3, 2)):
        weight = random_models.sound(*shape, seed=3)
        weight[2] = 0
        parametrization = onnx_file.Int8Weight()
        rounded, scale = parametrization.right_inverse(weight)
        assert rounded.dtype == torch.int8 and rounded.shape == weight.shape and scale.numel() == len(weight)
        error = (parametrization(rounded, scale) - weight).abs().flatten(1).amax(1)
        most = weight.abs().flatten(1).amax(1)
        assert (error <= most / 254 + 1e-12).all() and error.max() > most.max() / 1000
        assert (rounded.abs().flatten(1).amax(1) == 127 * (most > 0)).all()


def test_what_cannot_be_written_is_refused(tmp_path, monkeypatch):
    """Without the packages, too large, an encoder alone: one line, and no file."""
    written(tmp_path, "group norm")
    for missing in onnx_file.PACKAGES:
        for package in onnx_file.PACKAGES:          # one is there, whether it is or not, the other is not
            monkeypatch.setitem(sys.modules, package, None if package == missing else json)
        with pytest.raises(ValueError, match="^--to onnx needs the packages onnx and onnxscript: pip install onnx "):
            onnx_file.export(tmp_path / "recogniser", tmp_path / "x.onnx")
    for package in onnx_file.PACKAGES:
        monkeypatch.setitem(sys.modules, package, json)
    Hubert(random_models.NARROW).save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="holds an encoder but no recogniser"):
        onnx_file.export(tmp_path / "encoder", tmp_path / "x.onnx")
    monkeypatch.setattr(onnx_file, "LARGEST", 30_000)
    with pytest.raises(ValueError, match="its weights have .* GB, an ONNX file at most .*; with --int8 they have a"):
        onnx_file.export(tmp_path / "recogniser", tmp_path / "x.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder", "recogniser"]


def test_the_exporter_is_quiet_only_where_it_is_asked():
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with pytest.raises(KeyError), onnx_file.quiet_exporter():
            warnings.warn("inside", FutureWarning)
            assert not logger.isEnabledFor(logging.WARNING) and logger.isEnabledFor(logging.ERROR)
            raise KeyError
        warnings.warn("outside", FutureWarning)
    assert [str(one.message) for one in heard] == ["outside"] and logger.isEnabledFor(logging.WARNING)
