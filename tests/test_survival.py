"""Whatever kills a run, the same command ends with what an undisturbed run leaves, to the bit: weights, optimizer, log.

Each piece of work is killed (SIGKILL) at drawn points, several in one run, and completed; digests are compared.
"""
import dataclasses
import json
import random
from pathlib import Path

import faults
import pytest
import small
import torch

from framealign import commands, corpus, files, session
from framealign.config import FinetuneConfig, KMeansConfig, PretrainConfig
from framealign.model import Hubert

CLOCKS = {"seconds", "seconds_left", "audio_seconds_per_second"}        # what is never the same twice


def pretraining(world: Path, run: Path) -> None:
    """Two micro-batches an update, dropout and layer drop on; checkpoints, log and validation at other intervals."""
    torch.manual_seed(random.randrange(1 << 30))    # nothing may depend on the generators' state at the start
    settings = PretrainConfig(seed=5, updates=11, warmup_updates=2, peak_lr=2e-3, batch_seconds=8,
                              micro_batch_seconds=4, min_seconds=0.5, max_seconds=1.5, projection_size=8,
                              valid_fraction=0.1, valid_every_updates=4, log_every_updates=3, save_every_updates=2)
    chosen = commands.PretrainRun(corpus=str(world / "corpus.tsv"), units=str(world / "units" / "units.safetensors"),
                                  init_from=str(world / "base"), preset="tiny", run=str(run), device="cpu")
    commands.pretrain_run(chosen, settings)


def finetuning(world: Path, run: Path) -> None:
    """Selection by validation, time masks, dropout, classes drawn."""
    torch.manual_seed(random.randrange(1 << 30))
    settings = FinetuneConfig(seed=5, epochs=5, lr=5e-3, batch_size=4, micro_batch_size=3, max_seconds=0.8,
                              keep_checkpoints=2)
    chosen = commands.FinetuneRun(corpus=str(world / "corpus.tsv"), session="1", init_from=str(world / "base"),
                                  preset="tiny", run=str(run), device="cpu")
    commands.finetune_run(chosen, settings)


def clustering(world: Path, run: Path) -> None:
    chosen = commands.UnitsRun(corpus=str(world / "corpus.tsv"), model=str(world / "base"), layer=1, clusters=6,
                               out=str(run), km=True, device="cpu")
    commands.make_units_run(chosen, KMeansConfig(seed=5, full_passes=3))


def recipe(world: Path, run: Path) -> None:
    session.run_sessions(session.SessionConfig(corpus=str(world / "corpus.tsv"), hubert=str(world / "base"),
                                               preset="tiny", run=str(run), device="cpu"), small.SETTINGS)


WORK = {"pretraining": pretraining, "finetuning": finetuning, "units": clustering, "session": recipe}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A corpus, its units and a base model with dropout and layer drop."""
    folder = tmp_path_factory.mktemp("survival")
    small.write_tree(folder / "tree")
    corpus.write(folder / "corpus.tsv", corpus.from_iemocap(folder / "tree", allow_partial=True))
    shape = dataclasses.replace(small.model(), hidden_dropout=0.1, layerdrop=0.3)
    torch.manual_seed(0)
    Hubert(shape).save_pretrained(folder / "base")
    clustering(folder, folder / "units")
    return folder


def content(run: Path) -> dict[str, object]:
    """What a run left: every file by its path; logs and records without clocks, states tensor by tensor."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.name == "log.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]
        elif path.name == "stage.json":
            found[name] = {key: value for key, value in files.read_json(path).items() if key not in CLOCKS}
        elif path.name == "state.pt":
            found[name] = leaves(torch.load(path, weights_only=True))
        elif path.is_file() and path.name != "complete.json":       # the digests of the others
            found[name] = files.digest(path)
    return found


def leaves(item: object) -> list:
    if isinstance(item, dict):
        return [(key, leaves(value)) for key, value in item.items()]
    if isinstance(item, (list, tuple)):
        return [leaves(value) for value in item]
    return (str(item.dtype), item.tolist()) if isinstance(item, torch.Tensor) else item


@pytest.fixture(scope="module")
def undisturbed(world) -> dict[str, tuple[dict, int, float]]:
    """Of each piece of work: what it leaves, its number of changes to the disk, its seconds."""
    kept = {}

    def of(name: str) -> tuple[dict, int, float]:
        if name not in kept:
            number, seconds = faults.changes(WORK[name], world, world / f"whole-{name}")
            kept[name] = content(world / f"whole-{name}"), number, seconds
        return kept[name]
    return of


def survives(world: Path, undisturbed, name: str, kills: int, seed: int) -> None:
    """Kill until `kills` have hit, up to four in one run; each run is completed and compared."""
    expected, number, seconds = undisturbed(name)
    draw, hits, turn = random.Random(f"{name} {seed}"), 0, 0
    while hits < kills:
        run, turn = world / f"{name}-{seed}-{turn}", turn + 1
        for part in range(draw.randint(1, 4)):
            by_clock = draw.random() < 0.4
            point = {"seconds": draw.uniform(0.02, seconds)} if by_clock else \
                {"change": draw.randrange(max(1, number // (part + 1)))}
            status = faults.run(WORK[name], world, run, **point)
            assert status in (0, -9), f"{name}: status {status} after {point}"
            hits += status == -9
        assert faults.run(WORK[name], world, run) == 0
        found = content(run)
        assert found.keys() == expected.keys(), sorted(found.keys() ^ expected.keys())
        for path, value in expected.items():
            assert found[path] == value, f"{name}: {path} differs"
    print(f"{name}: {hits} kills, {turn} runs, all equal")


@pytest.mark.parametrize("name", WORK)
def test_killed_at_drawn_points_it_ends_as_undisturbed(world, undisturbed, name):
    survives(world, undisturbed, name, kills=4, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORK)
def test_killed_at_very_many_points(world, undisturbed, name):
    survives(world, undisturbed, name, kills=60, seed=1)
