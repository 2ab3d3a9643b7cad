"""Files of `torch.save`, read as data: both of torch's formats, without executing anything that they hold.

A file holds one pickled object and the bytes of its tensors. The pickle is read by `inert_pickle.py`, so that whatever
it names stays a record; the tensors that a reader asks for are rebuilt from the file's bytes and those records. The
size of the file bounds time and memory.
"""
import math
import re
import zipfile
from dataclasses import dataclass
from mmap import ACCESS_COPY, mmap
from pathlib import Path

import torch
from torch import Tensor

from framealign.exchange.inert_pickle import Cursor, Inert, Machine

_MAX_STEPS = 1_000_000                              # opcodes of a checkpoint's pickle; usual are 10^4
_STORAGES = {"Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
             "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
             "Bool": torch.bool}
_MAGIC = 0x1950a86a20f9469cfc6c                     # first pickle of torch.save's format before 1.6
# Whatever a checkpoint names stays inert; one that names these is no checkpoint, and is refused by name.
_TELLTALE = frozenset("os posix nt subprocess sys shutil socket ctypes importlib runpy pty code pickle".split())
_TELLTALE_BUILTINS = frozenset("eval exec compile __import__ open input breakpoint globals setattr".split())

Storages = dict[object, tuple[int, int]]            # a storage's key -> its first byte in the file, its bytes


@dataclass
class TorchFile:
    """What a file of `torch.save` holds: the pickled object, its tensors as `Inert` records of their storages."""
    root: object
    storages: Storages
    data: mmap

    def tensors(self, named: dict) -> dict[str, Tensor]:
        """Copies of the tensors that `named` describes, by name, in the data types of the file.

        Raises ValueError for what is no tensor, or one that its storage does not hold.
        """
        tensors = {}
        copied = 0                                  # bytes: all tensors together are no larger than the file
        for name, value in named.items():
            if isinstance(value, Inert) and value.name == "torch._utils._rebuild_parameter" and value.args:
                value = value.args[0]
            if not isinstance(name, str) or not isinstance(value, Inert) or len(value.args) < 4 \
                    or value.name != "torch._utils._rebuild_tensor_v2":
                raise ValueError(f"{ascii(name)[:60]} is not a tensor: this is neither a checkpoint of fairseq, whose "
                                 "`model` holds tensors, nor a state dict")
            reference, offset, size, stride = value.args[:4]
            dtype, _, key = _storage(reference)
            start, available = self.storages.get(key, (0, 0))
            if not self._is_shape(offset, size, stride):
                raise ValueError(f"{name[:60]} has an impossible shape")

            count = math.prod(size)                 # elements
            end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride)) if count else 0     # in the storage
            copied += count * dtype.itemsize
            if end * dtype.itemsize > available or copied > len(self.data):
                raise ValueError(f"{name[:60]} is larger than its storage")
            if count:
                flat = torch.frombuffer(self.data, dtype=dtype, count=end - offset,
                                        offset=start + offset * dtype.itemsize)
                tensors[name] = flat.as_strided(size, stride).clone(memory_format=torch.contiguous_format)
            else:
                tensors[name] = torch.empty(size, dtype=dtype)
        return tensors

    def _is_shape(self, offset: object, size: object, stride: object) -> bool:
        """Whether these can be a tensor's: whole numbers no larger than the file, at most 8 dimensions."""
        if not isinstance(size, tuple) or not isinstance(stride, tuple) or not len(size) == len(stride) <= 8:
            return False
        return all(type(number) is int and 0 <= number <= len(self.data) for number in (offset, *size, *stride))


def read(path: str | Path) -> TorchFile:
    """The object and the storages of a file of `torch.save`, in either format.

    Raises ValueError for a file that is damaged, is none, or names what no checkpoint needs; OSError where it cannot be
    opened.
    """
    with open(path, "rb") as file:
        data = mmap(file.fileno(), 0, access=ACCESS_COPY)
    if data[:4] == b"PK\3\4":
        root, storages = _read_zip(data, path)
    else:
        root, storages = _read_legacy(data)
    return TorchFile(root, storages, data)


def _read_zip(data: mmap, path: str | Path) -> tuple[object, Storages]:
    """The format since torch 1.6: a zip archive without compression."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
    except Exception as error:                      # zipfile raises many kinds for a damaged directory
        raise ValueError(f"damaged archive, perhaps a download that stopped: {str(error)[:100]}") from None
    pickles = [name for name in entries if name.split("/")[-1] == "data.pkl"]
    if not pickles:
        raise ValueError("an archive without data.pkl, which torch.save did not write")
    prefix = pickles[0].removesuffix("data.pkl")
    if any(name.startswith(f"{prefix}code/") for name in entries):
        raise ValueError("a program of torch.jit, not weights")

    storages: Storages = {}
    for name, entry in entries.items():
        header = entry.header_offset
        name_length = int.from_bytes(data[header + 26:header + 28], "little")
        extra_length = int.from_bytes(data[header + 28:header + 30], "little")
        start = header + 30 + name_length + extra_length
        if entry.compress_type != zipfile.ZIP_STORED or not 0 <= start <= start + entry.file_size <= len(data):
            raise ValueError(f"its record {ascii(name)[:60]} is compressed or cut off")
        storages[name.removeprefix(prefix).removeprefix("data/")] = start, entry.file_size

    start, size = storages.get("byteorder", (0, 0))
    if data[start:start + size] == b"big":
        raise ValueError("written on a big-endian machine, which is not supported")
    machine = Machine(Cursor(data, storages["data.pkl"][0]), _admit, max_steps=_MAX_STEPS)
    return machine.load(), storages


def _read_legacy(data: mmap) -> tuple[object, Storages]:
    """The format before torch 1.6: five pickles, then each storage's length and bytes."""
    machine = Machine(Cursor(data), _admit, max_steps=_MAX_STEPS)
    if machine.load() != _MAGIC:
        raise ValueError("not a file of torch.save")
    _version, _system, root, keys = (machine.load() for _ in range(4))          # keys: the order of the storages
    item_bytes = {}
    for reference in machine.persistent:
        dtype, _, key = _storage(reference)
        item_bytes[key] = dtype.itemsize

    storages: Storages = {}
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in item_bytes:
            raise ValueError("a storage that no tensor uses")
        size = int.from_bytes(machine.stream.read(8), "little") * item_bytes[key]
        storages[key] = machine.stream.position, size
        machine.stream.position += size
        if machine.stream.position > len(data):
            raise ValueError("storages are cut off, perhaps a download that stopped")
    return root, storages


def _storage(reference: object) -> tuple[torch.dtype, int, str]:
    """Data type, number of elements and key of the storage that a persistent id names."""
    fields = reference.args[0] if isinstance(reference, Inert) and reference.name == "persistent" else None
    if not isinstance(fields, tuple) or len(fields) < 5 or fields[0] != "storage" or fields[5:] not in ((), (None,)):
        raise ValueError("a tensor without a storage that is understood")
    _, kind, key, _, count = fields[:5]
    match = re.fullmatch(r"torch\.(?:cuda\.)?(\w+)Storage", kind if isinstance(kind, str) else "")
    if not match or match[1] not in _STORAGES or not isinstance(key, str) or type(count) is not int:
        raise ValueError("a tensor without a storage that is understood")
    return _STORAGES[match[1]], count, key


def _admit(name: str) -> None:
    """Raise ValueError for a name that no checkpoint has and an attack would."""
    module, _, rest = name.partition(".")
    if module in _TELLTALE or module == "builtins" and rest.split(".")[0] in _TELLTALE_BUILTINS:
        raise ValueError(f"its pickle names {ascii(name)[1:-1][:100]}, which has no place in a checkpoint; refused "
                         f"(nothing was executed)")
