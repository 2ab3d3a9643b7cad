"""Pretrain a HuBERT to predict the units of masked frames; an interrupted run resumes with the same command.

    bin/pretrain.py --corpus corpus.tsv --units runs/units/units.safetensors --preset tiny --out runs/pretrain
    torchrun --nproc_per_node 4 bin/pretrain.py --corpus c.tsv --units u.km --init-from hubert-base-ls960 --out r
"""
from dataclasses import dataclass
from pathlib import Path

import torch

from framealign.runtime import distributed, lock, log, settings
from framealign.runtime.settings import setting
from framealign.sound.frames import Framing
from framealign.corpus.utterance import Utterance
from framealign.hubert.model import Hubert
from framealign.exchange import encoder_file
from framealign.units.units import Units
from framealign.training.pretrain import pretrain
from framealign.training.training_config import PretrainConfig, TrainingRun
from framealign.recipe.preflight import check_room, frames_bytes, read_corpus, training_bytes
from framealign.recipe.presets import preset
from framealign.recipe.stages import nothing_half_made
from framealign.commands import command_line
from framealign.commands.command_inputs import fresh, required


@dataclass(frozen=True)
class PretrainRun:
    """What is pretrained on what."""
    corpus: str = setting("", "manifest, table, or fairseq .tsv")
    units: str = setting("", "units.safetensors or fairseq's .km of this corpus; several: a,b,c")
    init_from: str = setting("", "model directory or file to start from (encoder only); without it: from scratch")
    preset: str = setting("base", "settings, and from scratch also the size: tiny, compact, small, base or large")
    out: str = setting("runs/pretrain", "folder for checkpoints, log.jsonl and encoder")
    resume: bool = setting(True, "continue an interrupted run; --no-resume: refuse a folder that holds a checkpoint")
    preflight: bool = setting(False, "check all that can be checked before the hours of training, and stop there")
    device: str = setting("auto", "auto, cpu, cuda or mps")
    precision: str = setting("auto", "auto, float32 or bfloat16")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process) and pretrain."""
    parser = command_line.parser("pretrain", __doc__)
    settings.add_flags(parser, PretrainRun)
    settings.add_flags(parser, PretrainConfig)
    command_line.add_training_flags(parser)
    args = parser.parse_args(arguments)

    log.use_tensorboard(args.tensorboard)
    config = settings.from_flags(args, PretrainRun())
    with command_line.ranks(config.device):
        run(config, settings.from_flags(args, preset_settings(config)))


def preset_settings(config: PretrainRun) -> PretrainConfig:
    """The preset's settings: those of its stage 0 from scratch, those of stages 2 and 5 from an encoder."""
    chosen = preset(config.preset)
    return chosen.pretrain if config.init_from else chosen.scratch


def run(config: PretrainRun, training: PretrainConfig) -> None:
    """Pretrain from scratch or from an encoder; a run that has checkpoints continues.

    Raises ValueError, before anything is written, for input that cannot be used.
    """
    required(config, "corpus", "units")
    fresh(config.out, config.resume)
    device, chosen = distributed.choose_device(config.device), preset(config.preset)
    distributed.autocast(device, config.precision)  # an unknown precision is an error now

    utterances = read_corpus(config.corpus)
    if not config.init_from and training.freeze_conv:
        raise ValueError("from scratch the conv encoder must train too: leave out --freeze-conv, or give --init-from")

    torch.manual_seed(training.seed)
    if config.init_from:
        hubert = encoder_file.load(config.init_from)
    else:
        hubert = Hubert(chosen.model, chosen.do_normalize)
    units = read_units(config.units, utterances, hubert.config.framing)

    out = Path(config.out)
    width = hubert.config.conv_dim[-1] if training.keeps_features else 0
    frontend_bytes = frames_bytes(utterances, width, training.kept_type, hubert.config.framing)
    check_room(out, {out: training_bytes(hubert.config, training) + frontend_bytes})
    if config.preflight:
        return

    with lock.held(out), nothing_half_made(out / "frontend"):
        encoder = pretrain(hubert, utterances, units, training, TrainingRun(out, device, config.precision))
    log.say(f"encoder: {encoder}")


def read_units(names: str, utterances: list[Utterance], framing: Framing) -> list[Units]:
    """The units of one file, or of several whose names are separated by commas.

    Raises ValueError for a file that is not of these utterances, or of frames that do not lie as `framing` says.
    """
    units, paths = [], [names] if Path(names).exists() else names.split(",")
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise ValueError(f"--units names a file twice: {names}")
    for path in paths:
        units.append(Units.read_km(path) if path.endswith(".km") else Units.read(path))
        units[-1].check(utterances, path, framing)
    return units
