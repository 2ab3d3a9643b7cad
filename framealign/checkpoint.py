"""Checkpoints that are whole or absent: a folder per saved update, written beside, then renamed; the last few are kept.

A checkpoint is a Hugging Face directory (what `bin/export.py` takes) plus `state.pt`: optimizer, counters, best so far.
No generator is saved: every random draw of training is named by (seed, what, update), see `config.derive_seed`.
"""
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from framealign import distributed, files, huggingface, log
from framealign.config import HubertConfig


def save(run: Path, update: int, config: HubertConfig, state: dict[str, Tensor], head: dict[str, Tensor],
         training: dict, do_normalize: bool, keep: int, labels: list[str] | None = None) -> None:
    """Write `run/checkpoints/<update>` on rank 0 and drop all but the last `keep`.

    state and head: the encoder's and the other tensors; training: plain data and tensors, enough to continue.
    """
    if distributed.rank() == 0:
        folder = run / "checkpoints"
        final, temporary = folder / f"{update:08d}", folder / f".{update:08d}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            huggingface.write(temporary, config, state, head, do_normalize=do_normalize, labels=labels)
            with files.write_atomically(temporary / "state.pt") as path:
                torch.save(training, path)
            files.write_json(temporary / "complete.json",
                             {path.name: files.digest(path) for path in sorted(temporary.iterdir())})
            shutil.rmtree(final, ignore_errors=True)
            os.replace(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for old in sorted(folder.glob("[0-9]*"))[:-keep]:
            shutil.rmtree(old)
    distributed.barrier()


def latest(run: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict] | None:
    """The newest whole checkpoint as (encoder state, head, training), or None; a damaged one is passed over, aloud."""
    for folder in sorted((Path(run) / "checkpoints").glob("[0-9]*"), reverse=True):
        try:
            for name, digest in files.read_json(folder / "complete.json").items():
                if files.digest(folder / name) != digest:
                    raise ValueError(f"{folder / name}: not what was saved")
            found = huggingface.read(folder)
            return found.state, found.head, torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
        except (ValueError, OSError) as error:
            log.say(f"checkpoint {folder} is damaged ({error}); using the one before")
    return None


def newest(run: Path) -> Path | None:
    """The folder of the newest checkpoint of a run, or None where there is none."""
    folders = sorted((Path(run) / "checkpoints").glob("[0-9]*"))
    return folders[-1] if folders else None
