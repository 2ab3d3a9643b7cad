"""Turn every utterance of a manifest into units: MFCC or layer states, k-means, one unit per frame.

    bin/units.py --corpus corpus.tsv --mfcc --clusters 100 --out runs/units
    bin/units.py --corpus corpus.tsv --mfcc --preset compact --clusters 100 --out runs/units    # a frame each 40 ms
    bin/units.py --corpus corpus.tsv --model hubert-base-ls960 --layer 9 --codebook km500.bin --out runs/units
    bin/units.py --corpus corpus.tsv --model recogniser --layer 9 --clusters 32,64,128 --out runs/units
"""
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from framealign.runtime import distributed, lock, log, settings
from framealign.runtime.settings import setting
from framealign.sound.frames import Framing
from framealign.sound.mfcc import WIDTH
from framealign.corpus.utterance import Utterance
from framealign.hubert.model import Hubert
from framealign.exchange import encoder_file
from framealign.units.codebook import Codebook
from framealign.units.extraction import mfcc_store, source_of_states, state_store
from framealign.units.frame_store import FrameStore
from framealign.units.kmeans import KMeansConfig
from framealign.units.units import cluster_numbers, unit_files, write_units
from framealign.recipe.preflight import check_room, frames_bytes, given_codebook, read_corpus
from framealign.recipe.presets import preset
from framealign.recipe.stages import nothing_half_made, remove_empty
from framealign.commands import command_line
from framealign.commands.command_inputs import required


@dataclass(frozen=True)
class UnitsRun:
    """Where units come from and go to."""
    corpus: str = setting("", "manifest, table, or fairseq .tsv")
    mfcc: bool = setting(False, "cluster MFCC instead of a model's states")
    preset: str = setting("base", "with --mfcc: the model whose frames they lie on; base: one each 20 ms")
    model: str = setting("", "model directory or file")
    layer: int = setting(9, "layer whose states are clustered; 0: the input of the first block")
    codebook: str = setting("", "codebook to use as it is; without it one is fitted")
    clusters: str = setting("500", "clusters of the fitted codebook; several (32,64,128): a codebook for each number")
    out: str = setting("runs/units", "folder for codebook.safetensors and units.safetensors")
    km: bool = setting(False, "also write units.km, fairseq's text format")
    device: str = setting("auto", "auto, cpu, cuda or mps")
    precision: str = setting("float32", "auto, float32 or bfloat16 (in bfloat16 one unit in a hundred differs)")


@dataclass(frozen=True)
class UnitsInputs:
    """What units are made of, read and checked. hubert None: MFCC; codebook None: one is fitted per number."""
    utterances: list[Utterance]
    hubert: Hubert | None
    codebook: Codebook | None
    clusters: list[int]
    device: torch.device
    width: int                                      # F of the frames that are clustered
    framing: Framing                                # how they lie


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process) and make the units."""
    parser = command_line.parser("units", __doc__)
    settings.add_flags(parser, UnitsRun)
    settings.add_flags(parser, KMeansConfig)
    args = parser.parse_args(arguments)

    config = settings.from_flags(args, UnitsRun())
    with command_line.ranks(config.device):
        run(config, settings.from_flags(args, KMeansConfig()))


def run(config: UnitsRun, kmeans: KMeansConfig) -> None:
    """Features of every utterance -> codebook (given or fitted) -> units.

    Raises ValueError, before anything is written, for input that cannot be used.
    """
    inputs = read_inputs(config)
    out = Path(config.out)
    check_room(out, {out: frames_bytes(inputs.utterances, inputs.width, framing=inputs.framing)})
    with lock.held(out):
        make(config, kmeans, inputs)


def read_inputs(config: UnitsRun) -> UnitsInputs:
    """Everything that the flags name. Raises ValueError for flags or files that do not fit each other."""
    required(config, "corpus")
    if config.mfcc == bool(config.model):
        raise ValueError("give either --mfcc or --model")

    utterances = read_corpus(config.corpus)
    device = distributed.choose_device(config.device)
    distributed.autocast(device, config.precision)  # an unknown precision is an error now

    hubert = None if config.mfcc else encoder_file.load(config.model)
    framing = (hubert.config if hubert else preset(config.preset).model).framing
    width = WIDTH if hubert is None else hubert.config.hidden_size
    codebook = given_codebook(config.codebook, width, source_of(config, hubert, framing)) if config.codebook else None
    clusters = cluster_numbers(config.clusters)
    if codebook is not None and len(clusters) > 1:
        raise ValueError(f"--codebook gives one codebook, --clusters {config.clusters} asks for several")
    return UnitsInputs(utterances, hubert, codebook, clusters, device, width, framing)


def make(config: UnitsRun, kmeans: KMeansConfig, inputs: UnitsInputs) -> None:
    """Make the units in `config.out`, a folder that no other process uses, and print a line for each codebook."""
    out, utterances = Path(config.out), inputs.utterances
    store, record = features(config, inputs)
    record |= {"seed": kmeans.seed, "codebook": config.codebook or "fitted"}
    try:
        results = write_units(out, store, inputs.clusters, kmeans, inputs.codebook, record)
        if config.km and distributed.rank() == 0:
            for (_, name), (units, _) in zip(unit_files(inputs.clusters), results):
                units.write_km((out / name).with_suffix(".km"))
    except ValueError:                              # for example fewer frames than clusters
        drop_features(out)
        raise
    drop_features(out)                              # after an interruption they stay: the same command continues

    for units, codebook in results:
        used = int((torch.bincount(units.units, minlength=units.num_clusters) > 0).sum())
        log.say(f"{out}: {len(units.units)} units of {len(utterances)} utterances, {used} of {units.num_clusters} in "
                f"use, inertia {codebook.inertia:.4g}")


def features(config: UnitsRun, inputs: UnitsInputs) -> tuple[FrameStore, dict]:
    """The frames that are clustered, kept in `features`, and what the record says of them."""
    place, source = Path(config.out) / "features", source_of(config, inputs.hubert, inputs.framing)
    with nothing_half_made(place):
        if inputs.hubert is None:
            return mfcc_store(inputs.utterances, place, inputs.framing), source
        store = state_store(inputs.hubert, config.layer, inputs.utterances, place, inputs.device, config.precision)
        return store, source


def source_of(config: UnitsRun, hubert: Hubert | None, framing: Framing) -> dict:
    """What a record says of the frames that are clustered."""
    if hubert is None:
        return {"feature": "mfcc", "frame_rate": framing.rate}
    return source_of_states(hubert, config.layer)


def drop_features(out: Path) -> None:
    """Remove what units were made of, and the folder if nothing else is in it."""
    if distributed.rank() == 0:
        shutil.rmtree(out / "features", ignore_errors=True)
        remove_empty(out)
