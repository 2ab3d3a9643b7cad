"""What the C library does with freed memory: keep it, so that large activations are not mapped anew at every call.

glibc gives a freed block of some tens of MB back to the system, and the next one of that size is cleared page by page
again. On a CPU that costs an encoder's forward about a tenth and a training step up to half of its time. Scripts that
compute keep freed memory instead; it costs about a tenth more memory. Other C libraries are left as they are.
"""
import ctypes
import sys
from collections.abc import Callable

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3           # of mallopt(3)
_KEEP = {_MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: (1 << 31) - 1}              # bytes
# Where glibc's own, moving thresholds end up once a program has freed large blocks: 32 MiB, and twice that.
_GIVE_BACK = {_MMAP_THRESHOLD: 1 << 25, _TRIM_THRESHOLD: 1 << 26}


def keep_freed_memory(keep: bool = True) -> bool:
    """Tell glibc to keep what is freed (or, with False, to behave as it does on its own): whether it was told."""
    mallopt = _of_glibc("mallopt")
    done = mallopt is not None and all(mallopt(*pair) for pair in (_KEEP if keep else _GIVE_BACK).items())
    if not keep:
        give_back()
    return done


def give_back() -> None:
    """Give what is free now back to the system, whatever else was told; where the library can."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Callable | None:
    try:
        return getattr(ctypes.CDLL(None), name) if sys.platform.startswith("linux") else None
    except (AttributeError, OSError):               # another C library
        return None
