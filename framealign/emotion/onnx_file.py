"""A recogniser as an ONNX file, which onnxruntime and others run without torch: preprocessing inside, as always.

    session = onnxruntime.InferenceSession("recogniser.onnx")
    probabilities, attention, posterior = session.run(None, {"waveform": waveform, "num_samples": num_samples})
    metadata = session.get_modelmeta().custom_metadata_map      # labels, license ...: lists and numbers are JSON

The graph is the program of `exported_program.py` in ONNX's operators; torch's own exporter translates it and needs the
packages of PACKAGES. Left out as there: reading and resampling of sound files, and windows.
"""
import contextlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from framealign.runtime import files
from framealign.hubert.model import Hubert
from framealign.emotion import exported_program
from framealign.emotion.emotion_model import EmotionModel

PACKAGES = ("onnx", "onnxscript")                   # of the extra `export`; onnxruntime only runs the file
INPUTS, OUTPUTS = ("waveform", "num_samples"), ("probabilities", "attention", "posterior")
LARGEST = 2 ** 31 - 1                               # bytes: protobuf, hence ONNX, has no larger files
INT8 = 127                                          # the largest rounded weight; -128 has no counterpart


class Int8Weight(nn.Module):
    """A parametrisation: a weight is held as int8 with one scale for each output channel, and used as their product.

    Only memory on disk is saved: sums are of floats, as before. onnxruntime multiplies once, when it loads the file.
    """

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """weight (channels, ...) -> the nearest int8 of the same shape, and scale (channels, 1, ...)."""
        scale = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True) / INT8
        scale = scale.masked_fill(scale == 0, 1.0)                              # of a channel of zeros
        return torch.round(weight / scale).to(torch.int8), scale

    def forward(self, rounded: Tensor, scale: Tensor) -> Tensor:
        """As `right_inverse` gives them: the weight (channels, ...), each within half a scale of the given one."""
        return rounded.to(scale.dtype) * scale


def round_weights(hubert: Hubert) -> None:
    """Hold the weights of an encoder's linear maps and convolutions as int8, in place. Norms and biases stay floats."""
    for module in hubert.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            if parametrize.is_parametrized(module, "weight"):                   # the positional convolution's norm
                parametrize.remove_parametrizations(module, "weight")
                module.requires_grad_(False)
            parametrize.register_parametrization(module, "weight", Int8Weight())


def export(directory: str | Path, target: str | Path, license_name: str = "", int8: bool = False) -> None:
    """Write the recogniser of a model directory as an ONNX file, with any batch size and length.

    int8: with the encoder's weights rounded (`Int8Weight`), a quarter of the size. Nothing in the file tells where it
    was made. Raises ValueError for a directory without a recogniser, one too large for a file, and where a package is
    missing.
    """
    if not all(map(importlib.util.find_spec, PACKAGES)):
        raise ValueError(f"--to onnx needs the packages {' and '.join(PACKAGES)}: pip install {' '.join(PACKAGES)}")
    model = EmotionModel.from_pretrained(directory).requires_grad_(False)
    if int8:
        round_weights(model.hubert)
    size = sum(x.numel() * x.element_size() for x in model.state_dict().values())
    if size > LARGEST:
        raise ValueError(f"{directory}: its weights have {size / 1e9:.1f} GB, an ONNX file at most {LARGEST / 1e9:.1f}"
                         f"{'' if int8 else '; with --int8 they have a quarter'}")

    with quiet_exporter():
        # The exporter's optimiser would multiply small rounded weights out; onnxruntime has one of its own.
        proto = torch.onnx.export(exported_program.traced(model), input_names=INPUTS, output_names=OUTPUTS,
                                  verbose=False, optimize=not int8).model_proto
    graph = proto.graph
    for part in (graph, *graph.input, *graph.output, *graph.node, *graph.initializer):
        part.ClearField("metadata_props")           # where in which file each operator came from
    del graph.value_info[:]                         # shapes in between, with the tracer's names for B, N and T
    for value, axes in zip((*graph.input, *graph.output), ("BN", "B", "B", "BT", "BT")):
        for axis, name in zip(value.type.tensor_type.shape.dim, axes):
            if axis.dim_param:
                axis.dim_param = name
    for name, content in exported_program.description(model, license_name).items():
        proto.metadata_props.add(key=name, value=content if isinstance(content, str) else json.dumps(content))
    files.write_bytes(target, proto.SerializeToString(deterministic=True))


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Inside, torch's exporter does not warn of what it would need for other models, nor of its own old calls."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
