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

PARTS = ("config.json", "model.safetensors", "state.pt")    # without which nothing can be continued


def save(run: Path, update: int, config: HubertConfig, state: dict[str, Tensor], head: dict[str, Tensor],
         training: dict, do_normalize: bool, keep: int, labels: list[str] | None = None) -> None:
    """Write `run/checkpoints/<update>` on rank 0 and drop all but the last `keep`.

    state and head: the encoder's and the other tensors; training: plain data and tensors, enough to continue.
    """
    if distributed.rank() == 0:
        folder = run / "checkpoints"
        final, temporary = folder / f"{update:08d}", folder / f".{update:08d}.tmp"
        for left_over in folder.glob(".*.tmp"):     # of a run that was killed while it wrote
            shutil.rmtree(left_over, ignore_errors=True)
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
    """The newest whole checkpoint as (encoder state, head, training), or None where there is none."""
    folder = newest(run)
    if folder is None:
        return None
    found = huggingface.read(folder)
    return found.state, found.head, torch.load(folder / "state.pt", weights_only=True, map_location="cpu")


def newest(run: Path) -> Path | None:
    """The folder of the newest whole checkpoint of a run, or None; a damaged one is passed over, aloud."""
    folders = sorted((Path(run) / "checkpoints").glob("[0-9]*"))
    while folders:
        folder = folders.pop()
        try:
            digests = files.read_json(folder / "complete.json")
            for name in sorted({*PARTS, *digests}):
                if files.digest(folder / name) != digests.get(name):
                    raise ValueError(f"{name} is not what was saved")
            return folder
        except (ValueError, OSError) as error:
            log.say(f"checkpoint {folder} is damaged ({error}); "
                    + ("using the one before" if folders else "there is none before it"))
    return None
