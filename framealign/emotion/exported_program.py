"""A recogniser as one `torch.export` program: one file that torch alone loads, preprocessing inside.

    program = torch.export.load("recogniser.pt2").module()
    probabilities, attention, posterior = program(waveform, num_samples)    # (B, N) float32 at 16 kHz, (B,) int64
    extra = {"labels.json": ""}                                 # filled by: torch.export.load(..., extra_files=extra)

Left out: reading and resampling of sound files, and windows: a long sound needs memory for attention over all of it.
"""
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from framealign.runtime import files
from framealign.emotion.emotion_model import EmotionModel
from framealign.sound.frames import SAMPLE_RATE, num_samples_of


class ExportedRecogniser(nn.Module):
    """What is exported: waveforms as sound files hold them -> class probabilities, attention and frame posterior."""

    def __init__(self, model: EmotionModel):
        super().__init__()
        self.model = model

    def forward(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """waveform (B, N) float32 in -1..1, zero-padded, N >= 720; num_samples (B,) int64, 400 to N of each.

        400 samples are one frame and 720 two; of a model with other convolutions, as many as `labels.json` says.
        torch.export takes a length of one frame for a constant, so a batch has room for two; padding changes nothing.

        Returns (B, classes), (B, T), (B, T, classes) as `EmotionModel.over_time`.
        """
        is_sound = torch.arange(waveform.shape[1], device=waveform.device)[None] < num_samples[:, None]     # (B, N)
        waveform = waveform.masked_fill(~is_sound, 0.0)
        if self.model.hubert.do_normalize:
            waveform = normalised(waveform, is_sound, num_samples)
        return self.model.read_out(waveform, num_samples)


def normalised(waveform: Tensor, is_sound: Tensor, num_samples: Tensor) -> Tensor:
    """As `audio.preprocess`, each waveform over its own samples. waveform, is_sound (B, N): (B, N) float32."""
    exact = waveform.double()
    num_samples = num_samples[:, None]                                          # (B, 1)
    mean = exact.sum(1, keepdim=True) / num_samples
    variance = (exact - mean).masked_fill(~is_sound, 0.0).square().sum(1, keepdim=True) / num_samples
    return ((exact - mean) / torch.sqrt(variance + 1e-7)).masked_fill(~is_sound, 0.0).to(waveform.dtype)


def traced(model: EmotionModel) -> ExportedProgram:
    """A recogniser in evaluation mode, without gradients, as a program of any batch size and length."""
    model.fast_path = False                         # a program has no lists of lengths: it takes the plain path
    example = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0)), torch.tensor([16_000, 9_000])
    dynamic_shapes = {"waveform": {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO},
                      "num_samples": {0: torch.export.Dim.AUTO}}
    with torch.no_grad():
        return torch.export.export(ExportedRecogniser(model).eval(), example, dynamic_shapes=dynamic_shapes,
                                   strict=False)


def description(model: EmotionModel, license_name: str) -> dict:
    """What an exported recogniser says of itself; license_name: of its card, "" where that names none."""
    framing = model.hubert.config.framing
    return {"labels": model.labels, "sample_rate": SAMPLE_RATE, "hop_samples": framing.hop,
            "least_samples": framing.receptive_field, "least_batch_samples": num_samples_of(2, framing),
            "frames_trained": model.frames is not None, "window_seconds": model.window_seconds,
            "calibrated_on": model.calibration.fitted_on,
            "temperature_utterances": model.calibration.utterances, "temperature_frames": model.calibration.frames,
            "license": license_name}


def export(directory: str | Path, target: str | Path, license_name: str = "") -> None:
    """Write the recogniser of a model directory as a program, with any batch size and length. Raises ValueError."""
    model = EmotionModel.from_pretrained(directory).requires_grad_(False)
    program, extra_files = traced(model), {"labels.json": json.dumps(description(model, license_name))}
    with files.write_atomically(target) as temporary, open(temporary, "wb") as file:
        torch.export.save(program, file, extra_files=extra_files)
