"""Ranks that are asked to stop, get a poisoned batch, have nothing to do, die: all do the same, or all end."""
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import ranks
import small
import torch
import work
from small_pretraining import base, random_units, read_log, settings

from framealign.runtime import distributed
from framealign.units import frame_store
from framealign.units.extraction import state_store
from framealign.units.kmeans import KMeansConfig
from framealign.units.units import make_units
from framealign.training import checkpoint, optimiser, pretrain
from framealign.training.training_config import PretrainConfig, TrainingRun

CPU = torch.device("cpu")
TWENTY = settings(updates=20, batch_seconds=6, micro_batch_seconds=1.5, valid_fraction=0.2)     # 4 micro-batches
POISONED = 5                                        # the utterance whose frames are NaN


def pretrain_into(folder: Path, micro, tones, config: PretrainConfig) -> None:
    pretrain.pretrain(base(micro), tones, random_units(tones), config, TrainingRun(folder, CPU))


def everything(micro, tones, folder: Path) -> dict:
    """What is compared over numbers of ranks: twenty updates, a poisoned utterance, a signal to one rank, units."""
    pretrain_into(folder / "twenty", micro, tones, TWENTY)
    batch, step, steps = frame_store.FrameStore.batch, optimiser.step, []
    outcome = {"rank": distributed.rank()}

    def poisoned(self, crops):
        frames, lengths = batch(self, crops)
        for row, crop in enumerate(crops):
            if crop.utterance == POISONED:
                frames[row, 0, 0] = float("nan")
        return frames, lengths

    def signalled(*arguments):
        steps.append(1)
        if len(steps) == 3 and distributed.rank() == distributed.world_size() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    with mock.patch.object(frame_store.FrameStore, "batch", poisoned):
        config = dataclasses.replace(TWENTY, updates=8, log_every_updates=4, valid_fraction=0)
        pretrain_into(folder / "poisoned", micro, tones, config)
    with mock.patch.object(optimiser, "step", signalled):
        try:
            pretrain_into(folder / "stopped", micro, tones, TWENTY)
        except SystemExit as stop:
            outcome["status"] = stop.code
    outcome["steps"] = len(steps)
    for count in (1, 3, len(tones)):                # fewer utterances than ranks: some have none
        few = tones[:count]
        store = state_store(base(micro), 1, few, folder / f"states{count}", CPU)
        few_units, codebook = make_units(store, 4, KMeansConfig(seed=2, full_passes=3), None, {})
        outcome[count] = few_units.units.numpy(), codebook.centroids.numpy()
    return outcome


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_do_as_one(micro, tones, tmp_path, world):
    one = everything(micro, tones, tmp_path / "one")
    several = ranks.run(everything, world, micro, tones, tmp_path / "several", seconds=400)
    a, b = (read_log(tmp_path / name / "twenty") for name in ("one", "several"))
    assert [line["update"] for line in a] == [line["update"] for line in b] and len([x for x in a if "lr" in x]) == 20
    for mine, other in zip(a, b):
        for key in mine:
            assert mine[key] == pytest.approx(other[key], rel=1e-6 if "loss" in key else 1e-4, abs=1e-6), key
    a, b = (read_log(tmp_path / name / "poisoned") for name in ("one", "several"))
    skips = [line for line in a if "skipped_update" in line]
    assert skips and skips == [line for line in b if "skipped_update" in line]
    for line in skips:
        assert tones[POISONED].id in line["utterances"] and len(line["utterances"]) > 3
    assert sum(line.get("skipped_updates", 0) for line in b) == len(skips) < 8
    state, *_ = checkpoint.latest(tmp_path / "several" / "poisoned")
    assert all(torch.isfinite(x).all() for x in state.values())
    assert [outcome["rank"] for outcome in several] == list(range(world))
    for outcome in several:
        assert outcome["status"] == one["status"] == 75 and outcome["steps"] == one["steps"] == 3
        for count in (1, 3, len(tones)):
            assert (outcome[count][0] == one[count][0]).all()
            assert abs(outcome[count][1] - one[count][1]).max() < 1e-5
    place = checkpoint.newest(tmp_path / "several" / "stopped")
    assert place.name == "00000003"
    pretrain_into(tmp_path / "several" / "stopped", micro, tones, TWENTY)       # what several began, one completes
    finished, expected = read_log(tmp_path / "several" / "stopped"), read_log(tmp_path / "one" / "twenty")
    assert [line["update"] for line in finished] == [line["update"] for line in expected]
    assert [x["loss"] for x in finished if "loss" in x] == \
        pytest.approx([x["loss"] for x in expected if "loss" in x], rel=1e-6)


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
import torch
torch.set_num_threads(1)
from framealign.runtime import distributed, log
from framealign.training import optimiser
import work
step, steps, killed = optimiser.step, [], Path(sys.argv[3] + ".killed")
def dying(*arguments):
    steps.append(1)
    if len(steps) == 7 and distributed.rank() == 1 and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*arguments)
optimiser.step = dying
def main():
    with distributed.ranks(torch.device("cpu")):
        work.pretraining(Path(sys.argv[2]), Path(sys.argv[3]))
sys.exit(log.command(main))
"""


def torchrun(world: Path, run: Path, *flags: str) -> subprocess.CompletedProcess:
    script = world / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *flags]
    return subprocess.run([*command, script, small.ROOT, world, run], env=small.ENVIRONMENT, capture_output=True,
                          text=True, timeout=400)


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_others_and_a_restart_continues(tmp_path):
    """SIGKILL of one of two ranks under torchrun: within a minute all have ended; --max-restarts goes on by itself."""
    world = work.make_world(tmp_path / "world")
    dead = torchrun(world, tmp_path / "dead")
    waited = time.time() - (tmp_path / "dead.killed").stat().st_mtime
    assert dead.returncode != 0 and waited < 60, waited
    assert "-9" in dead.stderr or "SIGKILL" in dead.stderr
    again = torchrun(world, tmp_path / "again", "--max-restarts", "1")
    assert again.returncode == 0, again.stderr
    assert "continues after update 6" in again.stdout, again.stdout
    work.pretraining(world, tmp_path / "one")
    a, b = ([json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
            for name in ("one", "again"))
    assert [line["update"] for line in a] == [line["update"] for line in b]
    assert [x["loss"] for x in a if "loss" in x] == pytest.approx([x["loss"] for x in b if "loss" in x], rel=1e-5)
    print(f"a dead rank ended the other after {waited:.1f} s (torchrun's own end included)")
