"""What the C library does with freed memory: it keeps it, so that large activations are not mapped anew at every call.

By itself glibc gives a freed block of some tens of MB back to the system, and the next block of that size is cleared
page by page again. On a CPU that costs an encoder's forward about a tenth of its time and a training step up to half.
Programs that compute therefore keep freed memory, which takes about a tenth more of it. Other C libraries are left as
they are.
"""
import ctypes
import sys
from collections.abc import Callable

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3           # of mallopt(3)
_KEEP = {_MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: (1 << 31) - 1}              # bytes
# Where glibc's own, moving thresholds end up once a program has freed large blocks: 32 MiB, and twice that.
_GIVE_BACK = {_MMAP_THRESHOLD: 1 << 25, _TRIM_THRESHOLD: 1 << 26}


def keep_freed_memory(keep: bool = True) -> bool:
    """Have glibc keep freed memory or, with False, behave as it does by itself. Returns whether it took that."""
    mallopt = _of_glibc("mallopt")
    settings = _KEEP if keep else _GIVE_BACK
    is_set = mallopt is not None and all(mallopt(*setting) for setting in settings.items())
    if not keep:
        give_back()
    return is_set


def give_back() -> None:
    """Give the memory that is free now back to the system, whatever the setting, where the library can."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Callable | None:
    """A function of glibc; None on another system or with another C library."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return None
