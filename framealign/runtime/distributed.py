"""Ranks and devices. The collectives do nothing on a single process, so that one program serves one rank and many.

torchrun's environment variables describe the ranks; there is no other setting.
"""
import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

Item = TypeVar("Item")
JOINED_WITHIN, ANSWERED_WITHIN = timedelta(minutes=10), timedelta(minutes=30)  # else a rank counts as lost

# gloo's messages on the ranks that are left when one of them has ended, or hangs.
_LOST = re.compile(r"Connection (?:closed|reset) by|Connection refused|Broken pipe|Socket closed|(?:Read|Write) error|"
                   r"Timed out", re.IGNORECASE)


@contextmanager
def ranks(device: torch.device) -> Iterator[None]:
    """Join the process group that torchrun describes and leave it at the end; nothing to do when launched alone.

    Raises ValueError for an environment that describes none, OSError where the ranks do not find each other or another
    rank has ended.
    """
    if not launched():
        yield
        return
    _join(_backend(device))
    try:
        yield
        dist.barrier()
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or _LOST.search(str(error)):
            raise OSError(f"rank {rank()}: another rank has ended or does not answer, so this one stops; what that one "
                          f"said is the reason ({_first_line(error)})") from None
        raise
    finally:
        dist.destroy_process_group()


def _backend(device: torch.device) -> str:
    """What the ranks talk by: with GPUs NCCL, and gloo beside it, since what ranks agree on between steps
    (`on_any_rank`) must not wait for the GPU. NCCL refuses two ranks on one GPU; those, and CPUs, have gloo alone.
    """
    if device.type != "cuda" or int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > torch.cuda.device_count():
        return "gloo"
    return "cpu:gloo,cuda:nccl"


def _join(backend: str) -> None:
    """Join the group that the environment describes."""
    number, world, port = (_number(name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if number >= world:
        raise ValueError(f"RANK {number}: ranks are counted from 0 to WORLD_SIZE - 1 = {world - 1}")
    place = f"{os.environ.get('MASTER_ADDR', '')}:{port} (MASTER_ADDR, MASTER_PORT)"
    try:
        store, number, world = next(rendezvous("env://", timeout=JOINED_WITHIN))
        # Keys of its own for every attempt of `torchrun --max-restarts`: else torch 2.11 finds addresses of dead ranks.
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group(backend, store=store, rank=number, world_size=world, timeout=ANSWERED_WITHIN)
    except RuntimeError as error:
        if "EADDRINUSE" in str(error):
            raise OSError(f"rank {number}: the port of {place} is in use: choose another one, or start with torchrun "
                          "--standalone") from None
        what = f"not all of {world} ranks came to" if number == 0 else "cannot reach rank 0 at"
        raise OSError(f"rank {number}: {what} {place} within {JOINED_WITHIN.total_seconds():.0f} s; are all started, "
                      f"with the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE? ({_first_line(error)})") from None


def _number(name: str) -> int:
    """A number that the environment gives. Raises ValueError where it does not."""
    text = os.environ.get(name, "")
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"environment variable {name}: must be a whole number, is {text!r}; torchrun sets it, and so "
                         "does the Slurm script of docs/CLUSTER.md (unset WORLD_SIZE to run one process)")
    return int(text)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:120]


def launched() -> bool:
    """Whether this process is one of the ranks that torchrun (or Slurm) describes in the environment."""
    return "WORLD_SIZE" in os.environ


def choose_device(name: str) -> torch.device:
    """`auto` is this rank's CUDA device, else MPS, else the CPU; where a machine has more ranks than GPUs, they share.

    Raises ValueError for a device that is not there.
    """
    is_available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, is_there in is_available.items() if is_there)
    if name not in is_available:
        raise ValueError(f"--device must be auto, cpu, cuda or mps, got {name}")
    if not is_available[name]:
        raise ValueError(f"--device {name}: this machine or this torch has none; use --device cpu")
    if name == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(name)


def send(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`; to a GPU it goes from pinned memory, so that the program does not wait for the transfer."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def autocast(device: torch.device, precision: str) -> Callable[[], torch.autocast]:
    """Gives contexts for the forward: with bfloat16 products, or in float32.

    precision: float32, bfloat16, or auto, which is bfloat16 on a CUDA device that has it. Raises ValueError for others.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"--precision must be auto, float32 or bfloat16, got {precision}")
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return functools.partial(torch.autocast, device.type, torch.bfloat16, enabled=precision == "bfloat16")


def exact_dtype(device: torch.device) -> torch.dtype:
    """The float type for sums over many frames: float64 wherever the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def replicate(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with gradients averaged over ranks during the backward; on one process the model itself."""
    if world_size() == 1:
        return model
    return DistributedDataParallel(model, [device] if device.type == "cuda" else None, gradient_as_bucket_view=True)


def gradients_apart(model: nn.Module) -> AbstractContextManager:
    """A context in which the gradients of a `replicate`d model are not averaged over ranks but stay this rank's own."""
    return model.no_sync() if world_size() > 1 else nullcontext()


def world_size() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def barrier() -> None:
    """Wait until every rank is here."""
    if dist.is_initialized():
        dist.barrier()


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of `x` (any shape, the same on every rank) over ranks, as a new tensor; without ranks `x` itself."""
    if not dist.is_initialized():
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x


def on_any_rank(flag: bool) -> bool:
    """Whether `flag` is true on any rank: the same answer on every rank, without waiting for a GPU."""
    if not dist.is_initialized():
        return flag
    x = torch.tensor([int(flag)])
    dist.all_reduce(x, dist.ReduceOp.MAX)
    return bool(x)


def broadcast(x: Tensor) -> Tensor:
    """Rank 0's `x` on every rank, written into `x`, whose shape must be the same everywhere."""
    if dist.is_initialized():
        dist.broadcast(x, 0)
    return x


def on_rank_0(make: Callable[[], Item]) -> Item:
    """What `make()` gives on rank 0, on every rank: plain data, seen once, so that no two ranks see it differently.

    A ValueError or OSError of `make` is raised on every rank, so that none waits for another.
    """
    if not dist.is_initialized():
        return make()
    outcome = None
    if rank() == 0:
        try:
            outcome = make(), None
        except (ValueError, OSError) as error:
            outcome = None, str(error)
    item, fault = all_gather_objects(outcome)[0]
    if fault is not None:
        raise ValueError(fault)
    return item


def all_gather_objects(item: object) -> list:
    """The plain-data `item` (numbers, strings, lists, numpy arrays) of every rank, in rank order."""
    if not dist.is_initialized():
        return [item]
    items = [None] * world_size()
    dist.all_gather_object(items, item)
    return items
