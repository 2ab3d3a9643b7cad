"""Ranks: collectives that do nothing on one process, two gloo processes that do as one, devices and precision."""
import socket
from datetime import timedelta
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import ranks
import small
import soundfile
import torch
from torch import Tensor, nn

from framealign.runtime import distributed, log
from framealign.corpus.utterance import Utterance
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.model import Hubert
from framealign.units import frame_store
from framealign.units.frame_store import Extraction, FrameStore
from framealign.training import checkpoint, optimiser

CPU = torch.device("cpu")


def test_one_process_needs_no_group(monkeypatch):
    """Every collective gives its argument back; leaving the block leaves no group behind, because there was none."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.ranks(CPU):
        assert not torch.distributed.is_initialized()
        x, model, item = torch.arange(3.0), nn.Linear(2, 2), {"a": [1]}
        assert distributed.rank() == 0 and distributed.world_size() == 1
        assert distributed.all_reduce_sum(x) is x and distributed.broadcast(x) is x
        assert distributed.all_gather_objects(item) == [item] and distributed.replicate(model, CPU) is model
        distributed.barrier()


def regression(rows: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 5, generator=generator), torch.randn(rows, 3, generator=generator)


def train(model: nn.Module, wrapped: nn.Module, poisoned_rank: int | None = None) -> list[float]:
    """Six steps on this rank's half (or all) of a batch; in the third, one rank's loss is NaN. Skip flag of each."""
    rank, world = distributed.rank(), distributed.world_size()
    optimizer = optimiser.adamw(model.parameters(), 0.1, (0.9, 0.98), 1e-6, 0.01)
    inputs, target = (x[rank::world] for x in regression())
    flags = []
    for update in range(6):
        loss = (wrapped(inputs) - target).square().sum() / 8
        if update == 2 and rank == poisoned_rank:
            loss = loss * float("nan")
        (loss * world).backward()                   # replicas average their gradients
        flags.append(optimiser.step(optimizer, 0.1, 10.0)[1].item())
    return flags


def fresh_model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3))


def collectives() -> dict:
    rank = distributed.rank()
    mine = torch.tensor([rank + 1.0, 10.0 * rank])
    found = {"rank": rank, "world": distributed.world_size(), "sum": distributed.all_reduce_sum(mine).tolist(),
             "untouched": mine.tolist(), "broadcast": distributed.broadcast(torch.tensor([rank + 7])).tolist(),
             "counts": distributed.all_reduce_sum(torch.tensor([2 ** 40 + rank])).tolist()}
    found["objects"] = distributed.all_gather_objects({"rank": rank, "array": np.arange(rank + 2), "none": None})
    distributed.barrier()
    return found


def test_collectives_over_two_ranks(two):
    for rank, (found, _, _) in enumerate(two):
        assert found["rank"] == rank and found["world"] == 2
        assert found["sum"] == [3.0, 10.0] and found["untouched"] == [rank + 1.0, 10.0 * rank]
        assert found["broadcast"] == [7] and found["counts"] == [2 ** 41 + 1]
        assert [item["rank"] for item in found["objects"]] == [0, 1]
        assert [item["array"].tolist() for item in found["objects"]] == [[0, 1], [0, 1, 2]]


def seen_by_rank_0(folder: Path) -> list:
    """What ranks see differently: rank 0's view counts, and its refusal is everybody's."""
    rank = distributed.rank()
    outcomes = [distributed.on_rank_0(lambda: {"seen by": rank})]
    for error in (ValueError("not a corpus"), OSError("no room")):
        def refuse() -> None:
            raise error if rank == 0 else AssertionError("only rank 0 looks")
        try:
            distributed.on_rank_0(refuse)
        except ValueError as refusal:
            outcomes.append(str(refusal))
    return outcomes


@pytest.mark.parametrize("world", (2, 4))
def test_what_rank_0_sees_is_what_all_ranks_see(tmp_path, world):
    assert ranks.run(seen_by_rank_0, world, tmp_path) == [[{"seen by": 0}, "not a corpus", "no room"]] * world


def fill_twice(utterances: list, folder: Path) -> list:
    """A store that is finished; then one rank cannot see its index, as on a network file system that lags."""
    made = []

    def compute(waveforms: list[Tensor]) -> list[Tensor]:
        made.append(len(waveforms))
        return [torch.full(((len(waveform) - 80) // 320, 3), float(len(waveform))) for waveform in waveforms]

    extraction = Extraction("lengths", "key", 3, compute, do_normalize=False)
    FrameStore.fill(folder, utterances, extraction)
    number = len(made)
    seen = frame_store.FrameStore._kept
    if distributed.rank() == distributed.world_size() - 1:
        frame_store.FrameStore._kept = lambda *arguments: None
    store = FrameStore.fill(folder, utterances, extraction)
    frame_store.FrameStore._kept = seen
    assert len(made) == 2 * number                  # all computed again, none waits for another
    FrameStore.fill(folder, utterances, extraction)
    assert len(made) == 2 * number
    return [store.read(u).mean().item() for u in range(len(utterances))]


def test_a_store_that_one_rank_does_not_see_is_filled_again_by_all(tones, tmp_path):
    """Two utterances on three ranks: one has nothing to compute."""
    lengths = [float(utterance.num_samples) for utterance in tones[:2]]
    assert ranks.run(fill_twice, 3, tones[:2], tmp_path / "store") == [pytest.approx(lengths, rel=1e-3)] * 3


def train_replicas(poisoned_rank: int | None) -> tuple[list[float], list[np.ndarray]]:
    model = fresh_model(seed=distributed.rank())    # replicas start as rank 0's
    flags = train(model, distributed.replicate(model, CPU), poisoned_rank)
    return flags, [x.detach().numpy().copy() for x in model.parameters()]


@pytest.mark.parametrize("poisoned_rank", [None, 1])
def test_two_replicas_train_as_one_process(poisoned_rank, two):
    """Same weights on both ranks, and those of one process to 1e-6; a NaN on one rank skips the step on both."""
    model = fresh_model(seed=0)
    flags = train(model, model, None if poisoned_rank is None else 0)
    assert flags == [0, 0, poisoned_rank is not None, 0, 0, 0]
    (first_flags, first), (second_flags, second) = (trained[poisoned_rank] for _, trained, _ in two)
    assert first_flags == second_flags == flags
    for alone, x, y in zip(model.parameters(), first, second):
        assert (x == y).all() and np.abs(x - alone.detach().numpy()).max() <= 1e-6


def speak_and_store(folder: Path, utterances: list[Utterance]) -> dict:
    """What only rank 0 may do, and what the ranks share: log, checkpoint, kept frames."""
    rank, calls = distributed.rank(), []

    def compute(waveforms: list[Tensor]) -> list[Tensor]:
        calls.extend(waveforms)
        return [x.unfold(0, 400, 320)[:, :3] for x in waveforms]

    log.Log(folder / "log.jsonl").write({"update": 1, "rank": rank})
    config = HubertConfig(conv_dim=(4,), conv_kernel=(10,), conv_stride=(5,), hidden_size=4, num_hidden_layers=1,
                          num_attention_heads=1, intermediate_size=4, num_conv_pos_embeddings=2,
                          num_conv_pos_embedding_groups=1)
    checkpoint.save(folder, 10 + rank, Hubert(config), {}, {"rank": rank}, keep=2)
    training = checkpoint.latest(folder)[2]
    extraction = Extraction("test", "k", 3, compute, do_normalize=False, dtype="float32", batch_seconds=0.0)
    few = FrameStore.fill(folder / "few", utterances[:1], extraction)               # none for rank 1
    alone = len(calls)
    store = FrameStore.fill(folder / "all", utterances, extraction)
    FrameStore.fill(folder / "all", utterances, extraction)                         # kept: nothing is computed
    return {"training": training, "alone": alone, "computed": len(calls) - alone, "few": few.read(0).numpy(),
            "all": [store.read(u).numpy() for u in range(len(utterances))]}


def on_a_rank(folder: Path, utterances: list[Utterance]) -> tuple:
    """All that two ranks do in these tests, in one start of the processes."""
    return (collectives(), {poisoned: train_replicas(poisoned) for poisoned in (None, 1)},
            speak_and_store(folder, utterances))


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> list[Utterance]:
    folder, utterances = tmp_path_factory.mktemp("noise"), []
    for u, length in enumerate((5000, 400, 16_000, 7777, 9000)):
        sound = np.random.default_rng(u).integers(-2 ** 15, 2 ** 15, length).astype(np.int16)
        soundfile.write(folder / f"{u}.wav", sound, 16_000, "PCM_16")
        utterances.append(Utterance(f"u{u}", folder / f"{u}.wav", length))
    return utterances


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def two(folder, noise) -> list[tuple]:
    """What each of two ranks gives back."""
    return ranks.run(on_a_rank, 2, folder, noise)


def test_two_ranks_write_one_log_one_checkpoint_and_one_store(two, folder, noise):
    found, utterances = [stored for _, _, stored in two], noise
    sounds = [soundfile.read(x.path)[0] for x in noise]
    expected = [np.lib.stride_tricks.sliding_window_view(x, 400)[::320, :3] for x in sounds]
    assert (folder / "log.jsonl").read_text() == '{"update": 1, "rank": 0}\n'
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["00000010"]
    assert [x["training"] for x in found] == [{"rank": 0}] * 2
    assert [x["alone"] for x in found] == [1, 0] and [x["computed"] for x in found] == [3, 2]
    store = FrameStore(folder / "all", utterances)      # and one process reads what two have written
    assert len(store.maps) == 2
    for x in found:
        assert (x["few"] == expected[0]).all()
        for u, frames in enumerate(expected):
            assert (x["all"][u] == frames).all() and (store.read(u).numpy() == frames).all()


SCRIPT = """
import os, sys
from pathlib import Path
import torch
from framealign.runtime import distributed
with distributed.ranks(torch.device("cpu")):
    total = distributed.all_reduce_sum(torch.tensor([distributed.rank() + 1.0])).item()
    Path(sys.argv[1], f"rank{distributed.rank()}").write_text(f"{total} of {distributed.world_size()}")
    distributed.barrier()
    if distributed.rank() == 1:
        raise ValueError("rank 1 fails")
sys.stdout.flush(), sys.stderr.flush()
os._exit(0)                                         # gloo's threads may abort an interpreter on its way out
"""


def test_torchrun_describes_the_ranks(tmp_path):
    """The launcher's environment is all that `ranks` needs; and an error on one rank is an error of the whole.

    That ranks which end well are a success of the whole is seen where two of them pretrain (test_bin.py).
    """
    (tmp_path / "script.py").write_text(SCRIPT)
    done = ranks.torchrun(2, tmp_path / "script.py", tmp_path, folder=tmp_path)
    assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == ["3.0 of 2"] * 2, done.stderr
    assert done.returncode != 0 and "ValueError: rank 1 fails" in done.stderr


def test_devices(monkeypatch):
    for here, name, expected in ((False, "auto", "cpu"), (False, "cpu", "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: here)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: here)
        assert distributed.choose_device(name) == torch.device(expected)
    for name in ("cuda", "mps"):
        with pytest.raises(ValueError, match=f"--device {name}: this machine or this torch has none; use --device cpu"):
            distributed.choose_device(name)
    with pytest.raises(ValueError, match="--device must be auto, cpu, cuda or mps, got gpu"):
        distributed.choose_device("gpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert distributed.choose_device("auto").type == "mps"


@pytest.mark.parametrize("gpus, world, chosen, backend", [
    (4, 4, [0, 1, 2, 3], "cpu:gloo,cuda:nccl"), (4, 2, [0, 1], "cpu:gloo,cuda:nccl"),
    (1, 2, [0, 0], "gloo"), (2, 4, [0, 1, 0, 1], "gloo")])
def test_each_rank_has_its_own_gpu(gpus, world, chosen, backend, monkeypatch):
    """Where there are fewer, ranks share them, and talk by gloo: NCCL refuses two ranks on one GPU."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    backends = []
    monkeypatch.setattr(distributed, "_join", backends.append)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, str(world))
    for rank, number in enumerate(chosen):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        device = distributed.choose_device("auto")
        assert device == torch.device("cuda", number)
        with distributed.ranks(device):
            assert backends.pop() == backend
    with distributed.ranks(CPU):
        assert backends == ["gloo"]


@pytest.mark.parametrize("precision, dtype", [("auto", torch.float32), ("float32", torch.float32),
                                              ("bfloat16", torch.bfloat16)])
def test_precision_on_a_cpu(precision, dtype):
    context = distributed.autocast(CPU, precision)
    for _ in range(2):                              # it can be entered again and again
        with context():
            assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype
    with pytest.raises(ValueError, match="--precision must be auto, float32 or bfloat16, got half"):
        distributed.autocast(CPU, "half")


# Ranks that do not find each other

@pytest.fixture
def alone(monkeypatch):
    """The environment of one rank of two, at a free port; it waits for a second."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(distributed, "JOINED_WITHIN", timedelta(seconds=1))
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1",
                        "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    return port


def refused(capsys) -> str:
    """The one line on stderr of a command that cannot join its ranks; its status is 2."""
    def main() -> None:
        with distributed.ranks(CPU):
            raise AssertionError("they joined")
    with mock.patch.object(distributed, "launched", side_effect=[True, False]):         # `command` would end pytest
        assert log.command(main) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[W")]  # torch's warnings
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    assert not torch.distributed.is_initialized()
    return lines[0]


def test_a_port_in_use_is_one_line(alone, capsys):
    with socket.socket() as taken:
        taken.bind(("", alone))
        taken.listen()
        assert f"rank 0: the port of 127.0.0.1:{alone} (MASTER_ADDR, MASTER_PORT) is in use" in refused(capsys)


def test_ranks_that_never_come_are_one_line(alone, capsys):
    line = refused(capsys)
    assert f"rank 0: not all of 2 ranks came to 127.0.0.1:{alone}" in line and "within 1 s" in line


def test_a_master_that_cannot_be_reached_is_one_line(alone, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    line = refused(capsys)
    assert f"rank 1: cannot reach rank 0 at 127.0.0.1:{alone}" in line and "within 1 s" in line


@pytest.mark.parametrize("name, value, said", (
    ("RANK", "", "environment variable RANK: must be a whole number, is ''"),
    ("WORLD_SIZE", "two", "environment variable WORLD_SIZE: must be a whole number, is 'two'"),
    ("MASTER_PORT", "-1", "environment variable MASTER_PORT: must be a whole number, is '-1'"),
    ("RANK", "2", "RANK 2: ranks are counted from 0 to WORLD_SIZE - 1 = 1")))
def test_an_environment_that_describes_no_ranks_is_one_line(alone, monkeypatch, capsys, name, value, said):
    monkeypatch.setenv(name, value)
    assert said in refused(capsys)


def test_a_rank_that_does_not_answer_is_one_line(tmp_path):
    """Two processes of torchrun; the first waits a second for the second one, which is asleep."""
    script = tmp_path / "script.py"
    script.write_text(ASLEEP)
    ended = ranks.torchrun(2, script, small.ROOT, folder=tmp_path)
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error: rank 0")]
    assert ended.returncode and len(lines) == 1, ended.stderr
    assert "another rank has ended or does not answer" in lines[0] and "Timed out" in lines[0]


ASLEEP = """
import sys, time
from datetime import timedelta
sys.path[:0] = [sys.argv[1]]
import torch
from framealign.runtime import distributed, log
distributed.ANSWERED_WITHIN = timedelta(seconds=1)
def main():
    with distributed.ranks(torch.device("cpu")):
        if distributed.rank() == 1:
            time.sleep(4)
        distributed.barrier()
sys.exit(log.command(main))
"""
