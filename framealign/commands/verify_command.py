"""Compare a model with what fairseq's released HuBERT gave for one utterance: layer states and, with a codebook, units.

    bin/verify.py --hubert hubert-base-ls960 --codebook hubert_base_ls960_L9_km500.bin --fixture hubert_fixture
    bin/verify.py --hubert hubert-base-ls960 --normalize        # what preprocessor_config.json says: not as in fairseq

Exit status: 0 within the limits, 1 beyond one, 2 for input that cannot be compared.
"""
# The fixture's features are float32 (T, D), as fairseq's `dump_hubert_feature.py` writes them. Whether the sound is
# normalised is fairseq's business here, not that of preprocessor_config.json: the features were made with the setting
# the model was *trained* with, which is off where the conv encoder has group norm (base) and on where it has layer norm
# (large, xlarge). The preprocessor_config.json that goes with the released base says on, the setting fine-tuned models
# use. Group norm forgets the level and offset of its input but for its epsilon, so on base the two differ the more the
# quieter the sound is.
import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from framealign.runtime import log
from framealign.sound import audio
from framealign.sound.frames import Framing
from framealign.hubert.model import Hubert
from framealign.exchange import encoder_file
from framealign.units.codebook import Codebook
from framealign.units.units import Units
from framealign.commands import command_line

FEATURE_LIMIT = 1e-3                                # of the largest and of the mean relative difference
UNIT_LIMIT = 0.995                                  # share of frames that must have fairseq's unit
SOUNDS = (".flac", ".wav")
FIXTURE = Path(__file__).parents[3] / "shared" / "data" / "hubert_fixture"      # beside a checkout


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process) and compare; exit with 1 beyond a limit."""
    parser = command_line.parser("verify", __doc__)
    parser.add_argument("--hubert", required=True, help="model directory, or a file of weights")
    parser.add_argument("--codebook", default="", help="its centroids (.bin, .npy, .safetensors): compare units too")
    parser.add_argument("--fixture", default=str(FIXTURE),
                        help="folder with one sound file (*.flac, *.wav), its features of a layer (*.L9.npy) and "
                             "units (*.km); default ../shared/data/hubert_fixture of a checkout")
    parser.add_argument("--normalize", action=argparse.BooleanOptionalAction, default=None,
                        help="make the waveform zero mean, unit variance first; default as fairseq trained such a "
                             "model: not for base (group norm), yes for large and xlarge (layer norm)")
    args = parser.parse_args(arguments)

    if not run(args.hubert, args.fixture, args.codebook, args.normalize):
        sys.exit(1)


@dataclass(frozen=True)
class Fixture:
    """A waveform (N,) with the features (T, D) that `layer` gave for it and, where read, the units (T,) int64."""
    sound: Path
    waveform: Tensor
    layer: int
    features: Tensor
    units: Tensor | None


def read_fixture(folder: str | Path, num_clusters: int | None = None) -> Fixture:
    """Read a fixture, its units only where `num_clusters`, the codebook's, is given.

    Raises ValueError naming what is missing, not alone or not of its form.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder (one with a sound file, its *.L9.npy and *.km is needed)")
    sound = _only(folder, "sound file (*.flac or *.wav)", lambda name: name.endswith(SOUNDS))
    path = _only(folder, "feature file (*.L9.npy, 9 being the layer)", lambda name: re.search(r"\.L\d+\.npy$", name))
    try:
        features = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not readable as .npy: {str(error).splitlines()[0]}") from None
    if features.ndim != 2 or features.dtype != np.float32 or not features.size:
        raise ValueError(f"{path}: must be float32 (T, D), is {features.dtype} {features.shape}")
    if not np.isfinite(features).all() or not features.any():
        raise ValueError(f"{path}: holds numbers that are not finite, or nothing but zeros")
    units = None
    if num_clusters is not None:
        place = _only(folder, "file of units (*.km)", lambda name: name.endswith(".km"))
        read = Units.read_km(place, num_clusters)
        if len(read.offsets) != 2 or len(read.units) != len(features):
            raise ValueError(f"{place}: must hold one line of {len(features)} units, one for each frame of "
                             f"{path.name}, holds {len(read.offsets) - 1} of {len(read.units)} in all")
        units = read.of(0)
    layer = int(re.search(r"\.L(\d+)\.npy$", path.name)[1])
    return Fixture(sound, audio.load(sound), layer, torch.from_numpy(features), units)


def _only(folder: Path, what: str, is_it: Callable[[str], bool]) -> Path:
    """The one file of a folder whose name `is_it` takes. Raises ValueError where there is none, or several."""
    matches = sorted(path for path in folder.iterdir() if is_it(path.name) and not path.name.startswith("."))
    if len(matches) != 1:
        raise ValueError(f"{folder}: must hold one {what}, holds {len(matches)}")
    return matches[0]


@torch.inference_mode()
def run(model: str, fixture: str, codebook: str = "", normalize: bool | None = None) -> bool:
    """Compare a model directory with a fixture on the CPU in float32, print the differences; True within all limits.

    normalize: None for what fairseq trained such a model with. Raises ValueError for bad input, before any number.
    """
    centroids = Codebook.read(codebook) if codebook else None
    wanted = read_fixture(fixture, len(centroids.centroids) if centroids else None)
    width = wanted.features.shape[1]
    if centroids and centroids.centroids.shape[1] != width:
        raise ValueError(f"{codebook}: has {centroids.centroids.shape[1]} dimensions, the fixture's features {width}; "
                         "give the codebook its units were made with")
    hubert = encoder_file.load(model)
    states = all_states(hubert, wanted, hubert.config.feat_extract_norm == "layer" if normalize is None else normalize,
                        "" if normalize is None else ", as asked")
    own = states[wanted.layer]                                                  # (T, D)
    for layer, state in enumerate(states):
        log.say(f"layer {layer:2d}: mean norm of a frame {state.double().norm(dim=1).mean():.6g}")
    good = features_agree(own, wanted, hubert.config.framing)
    if centroids:
        good = units_agree(own, wanted, centroids, hubert.config.framing) and good
    else:
        log.say("units: not compared (no --codebook)")
    log.say("verified: within all limits" if good else "NOT verified: beyond a limit")
    return good


def all_states(hubert: Hubert, wanted: Fixture, normalize: bool, why: str) -> list[Tensor]:
    """States (T, D) of layers 0 to L for a fixture's sound. Raises ValueError where they cannot be the fixture's."""
    layer, (frames, width) = wanted.layer, wanted.features.shape
    depth, own = hubert.config.num_hidden_layers, hubert.config.hidden_size
    expected = int(hubert.num_frames(torch.tensor(len(wanted.waveform))))
    if layer > depth:
        raise ValueError(f"the fixture is of layer {layer}, the model has blocks 1 to {depth}; is it another size?")
    if (expected, own) != (frames, width):
        raise ValueError(f"the fixture's features are {(frames, width)}, the model gives {(expected, own)} for "
                         f"{wanted.sound.name}; is it of another model or sound?")
    why = why or f", as fairseq trains models with {hubert.config.feat_extract_norm} norm in the conv encoder"
    log.say(f"{wanted.sound.name}: {len(wanted.waveform)} samples, {frames} frames; "
            f"{'normalised' if normalize else 'not normalised'}{why} "
            f"(preprocessor_config.json: {'on' if hubert.do_normalize else 'off'})")
    # fairseq's own line, whose epsilon is 1e-5; `audio.preprocess` is transformers', with 1e-7.
    waveform = F.layer_norm(wanted.waveform, wanted.waveform.shape) if normalize else wanted.waveform
    return [state[0] for state in hubert.all_states(waveform[None])]


def features_agree(states: Tensor, wanted: Fixture, framing: Framing) -> bool:
    """Print the largest and the mean difference of states (T, D); True where both are within the limit.

    The largest is relative to the features' largest absolute value, the mean one to their mean absolute value.
    """
    difference = (states.double() - wanted.features.double()).abs()              # (T, D)
    scale = wanted.features.double().abs()
    largest, mean = (difference.max() / scale.max()).item(), (difference.mean() / scale.mean()).item()
    log.say(f"layer {wanted.layer} against fairseq's: largest relative difference {largest:.3g}, mean {mean:.3g} "
            f"(limit {FEATURE_LIMIT:g})")
    say_first("feature", ~(difference.amax(1) <= FEATURE_LIMIT * scale.max()), framing)         # ~(<=): NaN differs too
    return largest <= FEATURE_LIMIT and mean <= FEATURE_LIMIT


def units_agree(states: Tensor, wanted: Fixture, codebook: Codebook, framing: Framing) -> bool:
    """Print the share of frames with fairseq's unit; True where it is at least the limit."""
    if not torch.isfinite(states).all():             # a comparison's result, not a user's mistake
        log.say("units: none, the states are not finite")
        return False
    is_other = codebook.assign(states) != wanted.units                           # (T,)
    share = 1 - is_other.double().mean().item()
    log.say(f"units: {100 * share:.2f} % of {len(is_other)} equal fairseq's (limit {100 * UNIT_LIMIT:g} %)")
    say_first("unit", is_other, framing)
    return share >= UNIT_LIMIT


def say_first(what: str, is_other: Tensor, framing: Framing) -> None:
    """Print the first frame that differs, with its time. is_other (T,) bool."""
    if not is_other.any():
        log.say(f"no {what} differs in any frame" + (" beyond the limit" if what == "feature" else ""))
        return
    first = int(is_other.int().argmax())
    log.say(f"first frame whose {what} differs: {first} (at {first / framing.rate:.2f} s), "
            f"{int(is_other.sum())} of {len(is_other)} in all")
