"""The exported program: equal to the Python model on any batch and length, and loaded where framealign is not."""
import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from framealign.emotion import exported_program
from framealign.emotion.calibration import Calibration
from framealign.emotion.emotion_model import EmotionModel
from framealign.hubert.model import Hubert
from framealign.emotion.recogniser import Recogniser

LABELS = ["neutral", "happy", "angry", "sad"]
# Run with -I in an empty folder: neither this checkout nor PYTHONPATH is on its path; nor is an installed one found.
ALONE = """
import json, sys, torch
from pathlib import Path
sys.modules["framealign"] = None
try:
    import framealign.hubert.model
    sys.exit("framealign can be imported here")
except ImportError:
    pass
for folder in map(Path, sys.argv[1:]):
    extra = {"labels.json": ""}
    program = torch.export.load(folder / "recogniser.pt2", extra_files=extra).module()
    batches = torch.load(folder / "batches.pt", weights_only=True)
    torch.save([program(*batch) for batch in batches], folder / "answers.pt")
    print(*map(json.loads(extra["labels.json"]).get, ("labels", "frames_trained", "calibrated_on")))
"""
# norm of the conv encoder: whether a waveform is normalised, pooling, seconds of windows, what else differs from the
# smallest encoder (each convolution takes a while to be traced; this one has a frame every 40 ms)
VARIANTS = {"group": (True, "frames", 0.0, {}),
            "layer": (False, "layers", 0.3, {"conv_dim": (8,) * 3, "conv_kernel": (10, 8, 16),
                                             "conv_stride": (5, 8, 16)})}


def recogniser_and_batches(micro, norm: str, folder: Path) -> list[list[torch.Tensor]]:
    """A recogniser with its program, and batches of 1 to 5 sounds of 25 ms to 2 s, padded: the sounds of each batch."""
    torch.manual_seed(1)
    do_normalize, pooling, window_seconds, changes = VARIANTS[norm]
    config = dataclasses.replace(micro, feat_extract_norm=norm, **changes)
    model = EmotionModel(Hubert(config, do_normalize), LABELS, pooling, window_seconds=window_seconds)
    of_head = [x for name, x in model.named_parameters() if not name.startswith("hubert.")]
    for parameter in [*model.hubert.encoder.parameters(), *of_head]:
        torch.nn.init.normal_(parameter, std=0.4)
    model.calibration = Calibration(0.6, 1.7, "validation of a few")
    model.save_pretrained(folder / "recogniser")
    exported_program.export(folder / "recogniser", folder / "recogniser.pt2")
    draw, batches, sounds = np.random.default_rng(0), [], []
    least, hop = config.framing.receptive_field, config.framing.hop
    for size in (1, 1, 2, 3, 5, 1):
        lengths = [least] if not batches else draw.integers(least, 32_000, size=size).tolist()
        sounds.append([0.1 * torch.randn(n) + 0.05 for n in lengths])
        padded = torch.nn.utils.rnn.pad_sequence(sounds[-1], batch_first=True)
        room_for_two = max(0, least + hop - max(lengths))
        batches.append((torch.nn.functional.pad(padded, (0, room_for_two)), torch.tensor(lengths)))
    torch.save(batches, folder / "batches.pt")
    return sounds


@pytest.fixture(scope="module")
def answered(micro, tmp_path_factory) -> dict[str, tuple[Path, list[list[torch.Tensor]]]]:
    """By norm: the folder of a recogniser, where a process without framealign has put the answers; and the sounds."""
    folder = tmp_path_factory.mktemp("programs")
    sounds = {norm: recogniser_and_batches(micro, norm, folder / norm) for norm in VARIANTS}
    (folder / "elsewhere").mkdir()
    done = subprocess.run([sys.executable, "-I", "-c", ALONE, *(folder / norm for norm in VARIANTS)],
                          cwd=folder / "elsewhere", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{LABELS} {pooling == 'frames'} validation of a few"
                                        for _, pooling, *_ in VARIANTS.values()]
    return {norm: (folder / norm, sounds[norm]) for norm in VARIANTS}


@pytest.mark.parametrize("norm", VARIANTS)
def test_the_program_is_the_model(answered, norm):
    """Each sound of each padded batch as the recogniser hears it alone."""
    folder, sounds = answered[norm]
    recogniser = Recogniser.from_pretrained(folder / "recogniser")
    assert recogniser.model.calibration.frames == 1.7
    for answers, batch in zip(torch.load(folder / "answers.pt", weights_only=True), sounds, strict=True):
        for probabilities, attention, posterior, sound in zip(*answers, batch, strict=True):
            alone = recogniser(sound)
            T = len(alone.attention)
            np.testing.assert_allclose(probabilities, list(alone.probabilities.values()), atol=2e-5)
            np.testing.assert_allclose(attention[:T], alone.attention, atol=2e-5)
            np.testing.assert_allclose(posterior[:T], alone.posterior, atol=2e-5)
            assert not attention[T:].any()


def test_an_encoder_alone_is_refused(micro, tmp_path):
    Hubert(micro).save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="holds an encoder but no recogniser"):
        exported_program.export(tmp_path / "encoder", tmp_path / "x.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]
