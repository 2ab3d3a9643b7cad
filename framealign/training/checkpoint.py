"""Checkpoints that are whole or absent: a folder per saved update, written beside, then renamed; the last few are kept.

A checkpoint is a Hugging Face directory (what `bin/export.py` takes) plus `state.pt`: optimizer, counters, best so far.
No generator is saved: every random draw of training is named by (seed, what, update), see `seeds.derive_seed`.
"""
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from framealign.runtime import distributed, files, log
from framealign.hubert import model_directory
from framealign.hubert.model import Hubert
from framealign.training.training_config import FinetuneConfig, FramesConfig, PretrainConfig, TrainingRun

PARTS = ("config.json", "model.safetensors", "state.pt")    # without which nothing can be continued


@dataclass(kw_only=True)
class Training:
    """A training under way, as far as both kinds of it are alike: what the loop, its log and its checkpoints share.

    model: has the encoder as `hubert`, and other parts besides.
    """
    model: nn.Module
    optimizer: torch.optim.AdamW
    config: PretrainConfig | FinetuneConfig | FramesConfig
    run: TrainingRun
    record: dict                                    # what was begun: a checkpoint of another one is refused
    update: int = 0                                 # updates done
    skipped: list[Tensor] = field(default_factory=list)         # of each since the last line of the log: 1.0 if skipped
    skipped_in_a_row: Tensor | None = None          # updates skipped up to the last one, (), on the device; None: 0

    def __post_init__(self):
        if self.skipped_in_a_row is None:
            self.skipped_in_a_row = torch.zeros((), device=self.run.device)

    def count(self, skipped: Tensor) -> None:
        """One more update is done; skipped: 1.0 where its gradient was not finite, (), on the device."""
        self.update += 1
        self.skipped.append(skipped)
        self.skipped_in_a_row = (self.skipped_in_a_row + 1) * skipped

    def state(self) -> dict:
        """What a checkpoint says of it, besides weights."""
        return {"update": self.update, "optimizer": self.optimizer.state_dict(), "in_a_row": self.skipped_in_a_row,
                "flags": [float(skipped) for skipped in self.skipped], "record": files.digest_of(self.record)}

    def resume(self, differs: str) -> tuple[dict[str, Tensor], dict] | None:
        """Continue from the newest checkpoint of the run's folder: the tensors besides the encoder's, and its state.

        None where there is no checkpoint. Later ones, damaged, are dropped. differs: what another record may differ in,
        for the message. Raises ValueError where the checkpoint was made with another record.
        """
        folder = self.run.folder
        saved = latest(folder)
        if saved is None:
            return None
        encoder, head, state = saved
        if state["record"] != files.digest_of(self.record):
            raise ValueError(f"{folder}: its checkpoint was made with another {differs}, or choose another run "
                             "directory")
        self.model.hubert.load(encoder, str(folder))
        self.optimizer.load_state_dict(state["optimizer"])
        log.say(f"{folder}: continues after update {state['update']}")
        self.update = state["update"]
        self.skipped = [torch.tensor(skipped, device=self.run.device) for skipped in state["flags"]]
        self.skipped_in_a_row = state["in_a_row"].to(self.run.device)
        prune(folder, self.update, self.config.keep_checkpoints)
        return head, state


@dataclass(kw_only=True)
class RecogniserTraining(Training):
    """A training of a recogniser (`emotion_model.EmotionModel`) under way, with the losses that are not yet logged."""
    losses: list[Tensor] = field(default_factory=list)          # since the last line of the log: this rank's share

    def mean_loss(self) -> float:
        """Mean over updates of the losses of all ranks. Every rank calls it alike."""
        return float(distributed.all_reduce_sum(torch.stack(self.losses)).mean())

    def save(self, **more: object) -> None:
        """Write the checkpoint of the update just done, with the losses of all ranks and what else is to be known."""
        losses = []
        if self.losses:                             # on every rank, or on none
            losses = distributed.all_reduce_sum(torch.stack(self.losses)).tolist()
        save(self.run.folder, self.update, self.model.hubert, self.model.head(), self.state() | more
             | {"losses": losses}, self.config.keep_checkpoints, self.model.labels)

    def restore(self) -> dict | None:
        """Continue from the newest checkpoint, as `resume`, rank 0 with the losses of all ranks: what else was saved.

        None where there is no checkpoint.
        """
        saved = self.resume("configuration, split or sound; continue with that one")
        if saved is None:
            return None
        head, state = saved
        self.model.load_state_dict(head, strict=False)
        share = 1.0 if distributed.rank() == 0 else 0.0
        self.losses = [torch.tensor(loss * share, device=self.run.device) for loss in state["losses"]]
        return state


def save(run: Path, update: int, hubert: Hubert, head: dict[str, Tensor], training: dict, keep: int,
         labels: list[str] | None = None) -> None:
    """Write `run/checkpoints/<update>` on rank 0 and drop all but the last `keep`.

    head: the tensors besides the encoder's; training: plain data and tensors, enough to continue; the number of ranks
    is noted with it. Raises OSError where it cannot be written (a full disk); those before it stay.
    """
    if distributed.rank() == 0:
        folder = run / "checkpoints"
        final, temporary = folder / f"{update:08d}", folder / f".{update:08d}.tmp"
        for left_over in folder.glob(".*.tmp"):     # of a run that was killed while it wrote
            shutil.rmtree(left_over, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            model_directory.write(temporary, hubert.config, hubert.state_dict(), head,
                                  do_normalize=hubert.do_normalize, labels=labels)
            with files.write_atomically(temporary / "state.pt") as path, files.disk_errors(path):
                torch.save(training | {"ranks": distributed.world_size()}, path)
            files.write_json(temporary / "complete.json",
                             {path.name: files.digest(path) for path in sorted(temporary.iterdir())})
            shutil.rmtree(final, ignore_errors=True)        # a damaged one, or this run would not write it again
            os.replace(temporary, final)
            files.sync_folder(folder)
        except OSError as error:
            raise OSError(f"{final}: the checkpoint could not be written ({error}); make room: the same command "
                          "continues from the one before, if there is one") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    prune(run, update, keep)
    distributed.barrier()


def prune(run: Path, update: int, keep: int) -> None:
    """Drop, on rank 0, all but the last `keep` checkpoints up to `update`, which is whole, and those after it.

    (What comes after it was damaged and passed over.) Also called on resuming: a kill may come before this was done.
    """
    if distributed.rank() == 0 and update:
        folders = sorted((run / "checkpoints").glob("[0-9]*"))
        upto = [place for place in folders if place.name <= f"{update:08d}"]
        for old in [*upto[:-keep], *folders[len(upto):]]:
            aside = old.with_name(f".{old.name}.tmp")       # at once: half of one must not be left under its name
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(old, aside)
            if aside.is_dir():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                aside.unlink()


def latest(run: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict] | None:
    """The newest whole checkpoint as (encoder state, head, training), or None where there is none.

    Rank 0 looks which one that is, so that all ranks continue from the same.
    """
    folder = distributed.on_rank_0(lambda: newest(run))
    if folder is None:
        return None
    content = model_directory.read(folder)
    training = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    ranks = training.pop("ranks", 1)
    if ranks != distributed.world_size():
        log.say(f"{folder}: written by {ranks} ranks, continues on {distributed.world_size()}")
    return content.state, content.head, training


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
