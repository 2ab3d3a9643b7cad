"""Pieces of work that are interrupted, each as its command does it, and what they leave on the disk, to be compared.

A module of its own, so that the fork server imports it once (fork_server.py) and a process of torchrun can.
"""
import contextlib
import dataclasses
import errno
import json
import os
import random
import resource
import signal
import sys
from pathlib import Path

import faults
import small
import torch

from framealign.runtime import files, log
from framealign.corpus import manifest
from framealign.corpus.importers import iemocap
from framealign.hubert.model import Hubert
from framealign.units.kmeans import KMeansConfig
from framealign.training import checkpoint
from framealign.training.training_config import FinetuneConfig, PretrainConfig
from framealign.recipe import recipe, session_config
from framealign.commands import finetune_command, pretrain_command, units_command

CLOCKS = {"seconds", "seconds_left", "audio_seconds_per_second"}        # what is never the same twice


def pretraining(world: Path, run: Path) -> None:
    """Two micro-batches an update, dropout and layer drop on; checkpoints, log and validation at other intervals."""
    torch.manual_seed(random.randrange(1 << 30))    # nothing may depend on the generators' state at the start
    settings = PretrainConfig(seed=5, updates=11, warmup_updates=2, peak_lr=2e-3, batch_seconds=8,
                              micro_batch_seconds=4, min_seconds=0.5, max_seconds=1.5, projection_size=8,
                              valid_fraction=0.1, valid_every_updates=4, log_every_updates=3, save_every_updates=2)
    chosen = pretrain_command.PretrainRun(
        corpus=str(world / "corpus.tsv"), units=str(world / "units" / "units.safetensors"),
        init_from=str(world / "base"), preset="tiny", out=str(run), device="cpu")
    pretrain_command.run(chosen, settings)


def finetuning(world: Path, run: Path) -> None:
    """Selection by validation, time masks, dropout, classes drawn."""
    torch.manual_seed(random.randrange(1 << 30))
    settings = FinetuneConfig(seed=5, epochs=5, lr=5e-3, batch_size=4, micro_batch_size=3, max_seconds=0.8,
                              keep_checkpoints=2)
    chosen = finetune_command.FinetuneRun(
        corpus=str(world / "corpus.tsv"), session="1", init_from=str(world / "base"), preset="tiny", out=str(run),
        device="cpu")
    finetune_command.run(chosen, settings)


def clustering(world: Path, run: Path) -> None:
    chosen = units_command.UnitsRun(
        corpus=str(world / "corpus.tsv"), model=str(world / "base"), layer=1, clusters="6", out=str(run), km=True,
        device="cpu")
    units_command.run(chosen, KMeansConfig(seed=5, full_passes=3))


def session(world: Path, run: Path) -> None:
    config = session_config.SessionConfig(
        corpus=str(world / "corpus.tsv"), hubert=str(world / "base"), preset="tiny", out=str(run), device="cpu")
    recipe.run_sessions(config, small.SETTINGS)


WORK = {"pretraining": pretraining, "finetuning": finetuning, "units": clustering, "session": session}


def make_world(folder: Path) -> Path:
    """A corpus, its units and a base model with dropout and layer drop."""
    small.write_tree(folder / "tree")
    manifest.write(folder / "corpus.tsv", iemocap.read(folder / "tree", allow_partial=True))
    shape = dataclasses.replace(small.model(), hidden_dropout=0.1, layerdrop=0.3)
    torch.manual_seed(0)
    Hubert(shape).save_pretrained(folder / "base")
    clustering(folder, folder / "units")
    return folder


def command(name: str, world: Path, run: Path) -> None:
    """The work as its script does it; its error stream goes to a file beside the run, `<run>.stderr`."""
    for number in (signal.SIGTERM, signal.SIGINT):  # a signal that comes once the work is done changes nothing
        signal.signal(number, lambda *_: None)
    with open(f"{run}.stderr", "w") as stderr, contextlib.redirect_stderr(stderr):
        status = log.command(lambda: (faults.ready(), WORK[name](world, run)))
    sys.exit(status)


def limited(name: str, world: Path, run: Path, size: int) -> None:
    """The work, no file of which can grow beyond `size` bytes once the first checkpoint is written."""
    whole = checkpoint.save

    def save(*arguments, **named):
        whole(*arguments, **named)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    checkpoint.save = save
    command(name, world, run)


def without_room(world: Path, run: Path, stderr: Path) -> None:
    """Units on a disk without any space, which they do not look at before."""
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.posix_fallocate = refuse
    unchecked(world, run, stderr)


def unchecked(world: Path, run: Path, stderr: Path) -> None:
    """Units, without the look at the disk before."""
    units_command.check_room = lambda *_: None
    with open(stderr, "w") as text, contextlib.redirect_stderr(text):
        sys.exit(log.command(lambda: clustering(world, run)))


def content(run: Path) -> dict[str, object]:
    """What a run left: every file by its path; logs and records without clocks, states tensor by tensor."""
    content = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.name == "log.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            content[name] = [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]
        elif path.name == "stage.json":
            content[name] = {key: value for key, value in files.read_json(path).items() if key not in CLOCKS}
        elif path.name == "state.pt":
            content[name] = leaves(torch.load(path, weights_only=True))
        elif path.is_file() and path.name != "complete.json":       # the digests of the others
            content[name] = files.digest(path)
    return content


def without_earlier(content: dict[str, object]) -> dict[str, object]:
    """Without all checkpoints but the last of each folder: being asked to stop adds one where none would be."""
    checkpoints = {name.rpartition("/")[0] for name in content if "checkpoints/" in name}
    last = {}
    for one in sorted(checkpoints):                 # .../checkpoints/00000004: the last of each run comes last
        last[one.rpartition("/")[0]] = one
    return {name: value for name, value in content.items()
            if "checkpoints/" not in name or name.rpartition("/")[0] in last.values()}


def leaves(item: object) -> list:
    if isinstance(item, dict):
        return [(key, leaves(value)) for key, value in item.items()]
    if isinstance(item, (list, tuple)):
        return [leaves(value) for value in item]
    return (str(item.dtype), item.tolist()) if isinstance(item, torch.Tensor) else item
