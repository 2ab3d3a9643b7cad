"""Stages with a record each: made once, kept while the record matches, stale with a reason, remade only when asked.

A stage's folder holds its products, `stage.json` once it is finished, and `begun.json` from its start until then: with
what settings and on what it was begun, so that the same command continues it and another one does not.
"""
import contextlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from framealign import __version__
from framealign.runtime import distributed, files, log


@dataclass
class Stage:
    """One step: `make(folder)` writes `products`; `settings` and `upstream` say when they are out of date."""
    name: str
    folder: Path
    products: tuple[str, ...]
    settings: dict
    upstream: list["Stage"]
    make: Callable[[Path], None] | None             # None: its product was given
    digests: dict[str, str] = field(default_factory=dict)       # of the products, once made
    protocol: dict = field(default_factory=dict)    # what its numbers mean: recorded, not compared
    room: int = 0                                   # bytes on the disk, at most, while it is made

    def product(self, name: str) -> Path:
        """Where a product lies."""
        return self.folder / name

    @property
    def model(self) -> Path:
        """The directory of the stage's model, its first product; of a given one the folder itself."""
        return self.product(self.products[0]) if self.products else self.folder


class Redo:
    """What is made again though it is there: the stage `name` (`all`: every one) and what builds on it, a folder once.

    Until `finish`, `<run>/redo.json` says which folders were cleared for it, so that the same command, interrupted and
    given again, continues instead of clearing them once more. name "": nothing is made again.
    """

    def __init__(self, run: str | Path, name: str = ""):
        self.run, self.name, self.file = Path(run), name, Path(run) / "redo.json"
        noted = files.read_json(self.file) if name and self.file.exists() else {}
        self.cleared = set(map(str, noted.get("folders") or [])) if noted.get("redo") == name else set()
        self.remade: set[Path] = set()              # folders made again, or being continued, by this command

    def clear(self, stage: Stage, wanted: dict) -> None:
        """Remove what stands in a stage's folder if the stage is to be made again and was not yet begun for that."""
        builds_on_it = any(upstream.folder in self.remade for upstream in stage.upstream)
        if stage.folder in self.remade or not (self.name in ("all", stage.name) or builds_on_it):
            return
        self.remade.add(stage.folder)
        place = os.path.relpath(stage.folder, self.run)
        is_begun = distributed.on_rank_0(lambda: place in self.cleared and not outdated(stage, wanted))
        if distributed.rank() == 0 and not is_begun:
            discard(stage.folder)
            self.cleared.add(place)
            files.write_json(self.file, {"redo": self.name, "folders": sorted(self.cleared)})
        distributed.barrier()

    def finish(self) -> None:
        """All is made: the next command of this kind begins again."""
        if distributed.rank() == 0:
            self.file.unlink(missing_ok=True)


def run_stage(stage: Stage, redo: Redo) -> None:
    """Make a stage, or keep it where its record matches; continue one that was interrupted; first clear it for `redo`.

    Raises ValueError, with the reason, for a stage that is stale, finished or half-made, and not to be made again. A
    stage that fails for such an error before its first checkpoint leaves nothing.
    """
    record_path, begun_path = stage.folder / "stage.json", stage.folder / "begun.json"
    wanted = json.loads(json.dumps({"settings": stage.settings,
                                    "upstream": {up.name: up.digests for up in stage.upstream}}))
    redo.clear(stage, wanted)
    record = distributed.on_rank_0(lambda: finished_record(stage, wanted))
    if record is not None:
        stage.digests = record["products"]
        if distributed.rank() == 0:
            begun_path.unlink(missing_ok=True)      # of a run that was killed between the two
        log.say(f"[{stage.name}] kept, made in {log.clock(record.get('seconds', 0))}")
        return
    began = time.monotonic()
    log.say(f"[{stage.name}] {stage.folder}")
    if distributed.rank() == 0:
        files.write_json(begun_path, wanted)
    try:
        stage.make(stage.folder)
    except (ValueError, OSError):
        if distributed.rank() == 0 and not any(stage.folder.rglob("checkpoints/[0-9]*")):
            discard(stage.folder)
            remove_empty(stage.folder.parent)
        raise
    stage.digests = {name: digest_product(stage.product(name)) for name in stage.products}
    seconds = round(time.monotonic() - began, 1)
    if distributed.rank() == 0:
        files.write_json(record_path, {"stage": stage.name, **wanted, "protocol": stage.protocol,
                                       "products": stage.digests, "seconds": seconds,
                                       "versions": {"framealign": __version__, "torch": torch.__version__,
                                                    "python": platform.python_version()},
                                       "ranks": distributed.world_size()})
        begun_path.unlink()
    distributed.barrier()
    log.say(f"[{stage.name}] done in {log.clock(seconds)}")


def run_stages(stages: Iterable[Stage], redo: Redo) -> None:
    """`run_stage` of each that has something to make, in order."""
    for stage in stages:
        if stage.make is not None:
            run_stage(stage, redo)


def finished_record(stage: Stage, wanted: dict) -> dict | None:
    """The record of a finished stage; None where there is none. Raises ValueError for a stage that is stale."""
    refuse(stage, outdated(stage, wanted))
    record_path = stage.folder / "stage.json"
    return files.read_json(record_path) if record_path.exists() else None


def refuse(stage: Stage, reason: str) -> None:
    """Raise ValueError where there is a reason not to keep or continue a stage."""
    if reason:
        raise ValueError(f"stage {stage.name} in {stage.folder} is {reason}; remake it and what builds on it "
                         f"with --redo {stage.name}, or choose another --out folder")


def outdated(stage: Stage, wanted: dict) -> str:
    """Why what stands in a stage's folder is not to be kept or continued, in words; "" where it is, or nothing stands.

    Raises ValueError where its record cannot be read.
    """
    record_path, begun_path = stage.folder / "stage.json", stage.folder / "begun.json"
    if record_path.exists():
        record = files.read_json(record_path)
        reason = changed(record, wanted) or damaged(stage, record)
        return reason and f"stale: {reason}"
    reason = changed(files.read_json(begun_path), wanted) if begun_path.exists() else ""
    return reason and f"half-made and stale: {reason}"


def changed(record: dict, wanted: dict) -> str:
    """Why a record is not what is wanted now, in words; "" where it is."""
    return difference({key: record.get(key) or {} for key in wanted}, wanted)


def damaged(stage: Stage, record: dict) -> str:
    """Which product of a finished stage is not what was made, in words; "" where all are."""
    for name in stage.products:
        if not stage.product(name).exists():
            return f"{name} is gone"
        try:
            digest = digest_product(stage.product(name))
        except OSError:                             # a model directory without one of its files
            digest = None
        if digest != (record.get("products") or {}).get(name):
            return f"{name} is not what was made"
    return ""


def difference(recorded: dict, wanted: dict, prefix: str = "") -> str:
    """The first setting in which two records differ, in words; "" where there is none."""
    for key in sorted({*recorded, *wanted}):
        old, new = recorded.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = difference(old, new, f"{prefix}{key}.")
            if inner:
                return inner
        elif old != new:
            return f"{prefix}{key} was {old}, is {new}"
    return ""


def digest_product(path: Path) -> str:
    """Digest of a product: a file, or of a model directory its weights and configuration."""
    names = ["model.safetensors", "config.json", "preprocessor_config.json"] if path.is_dir() else [""]
    return files.digest_of([files.digest(path / name if name else path) for name in names])


def discard(folder: Path) -> None:
    """Remove a folder in one step, so that an interruption leaves all of it or nothing under its name."""
    aside = folder.with_name(f".{folder.name}.discarded")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        os.replace(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def nothing_half_made(*stores: Path) -> Iterator[None]:
    """Where the block fails for a user's mistake, remove those of these frame stores that it left unfinished.

    With one goes the folder it stands in, if that is then empty.
    """
    try:
        yield
    except (ValueError, OSError):
        for store in stores if distributed.rank() == 0 else ():
            if not (store / "index.json").exists():
                for part in (*store.glob("frames-*-of-*.npy"), *store.glob("done-*-of-*.json")):
                    part.unlink()
                remove_empty(store)
                remove_empty(store.parent)
        raise


def remove_empty(folder: Path) -> None:
    """Remove a folder if there is nothing in it."""
    with contextlib.suppress(OSError):              # not empty, or not there
        folder.rmdir()
