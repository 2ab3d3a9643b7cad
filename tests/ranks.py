"""Run a function on several gloo ranks, each a process of its own, as torchrun would; or a script by torchrun itself.

Every process joins one group, leaves it, writes its result and ends by `os._exit`: gloo's threads may abort an
interpreter on its way out, after all the work is done. A rank that raised, died or hung is an error with its traceback.
"""
import os
import pickle
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import fork_server
import small
import torch
import torch.distributed as dist
import torch.distributed.run

from framealign.runtime import distributed


def run(function: Callable, world: int, *args: object, seconds: float = 120) -> list:
    """`function(*args)` on `world` ranks at once: their results, by rank.

    function: a module's, since the processes import it; arguments and results must pickle.
    Raises AssertionError, with every rank's traceback, unless all end well within `seconds`.
    """
    # As under torchrun the store is the launcher's and the ranks are its clients: no port can be taken meanwhile.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=seconds))
    context = fork_server.context()
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=_rank, args=(function, args, rank, world, store.port, Path(folder)))
                     for rank in range(world)]
        deadline = time.monotonic() + seconds
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join(max(0.0, deadline - time.monotonic()))
            ends = ["still running" if process.is_alive() else process.exitcode for process in processes]
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                    process.join()
        tracebacks = [Path(folder) / f"traceback {rank}" for rank in range(world)]
        reports = [f"rank {rank} ended with {end}\n" + (path.read_text() if path.exists() else "")
                   for rank, (end, path) in enumerate(zip(ends, tracebacks))]
        assert ends == [0] * world, "\n".join(reports)
        return [pickle.loads((Path(folder) / f"result {rank}").read_bytes()) for rank in range(world)]


def _rank(function: Callable, args: tuple, rank: int, world: int, port: int, folder: Path) -> None:
    """One rank: torchrun's environment, the group, the function, its result in `folder`; never returns."""
    status = 1
    try:
        torch.set_num_threads(1)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
                       "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        with distributed.ranks(torch.device("cpu")):
            result = function(*args)
        (folder / f"result {rank}").write_bytes(pickle.dumps(result))
        status = 0
    except BaseException:                           # the reader of the test's output is to see it, whatever it is
        (folder / f"traceback {rank}").write_text(traceback.format_exc())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def torchrun(number: int, script: Path, *words: object, folder: Path, seconds: float = 120
             ) -> subprocess.CompletedProcess:
    """What `torchrun --standalone --nproc_per_node number script words` prints in `folder`, and its status.

    The launcher is a process of the fork server, which has torch already; the ranks are started as ever.
    """
    arguments = ["--standalone", "--nproc_per_node", str(number), str(script), *map(str, words)]
    with tempfile.TemporaryDirectory() as place:
        outputs = [Path(place) / "stdout", Path(place) / "stderr"]
        process = fork_server.context().Process(target=_launch, args=(arguments, folder, outputs))
        process.start()
        process.join(seconds)
        assert not process.is_alive(), "torchrun hangs"
        return subprocess.CompletedProcess(arguments, process.exitcode, *(path.read_text() for path in outputs))


def _launch(arguments: list[str], folder: Path, outputs: list[Path]) -> None:
    for descriptor, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(small.ENVIRONMENT)
    torch.distributed.run.main(arguments)
