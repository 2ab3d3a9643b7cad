"""What the C library does with freed memory: keep it, so that large activations are not mapped anew at every call.

glibc gives a freed block of some tens of MB back to the system, and the next one of that size is cleared page by page
again. On a CPU that costs an encoder's forward about a tenth and a training step up to half of its time. Scripts that
compute keep freed memory instead; it costs about a tenth more memory. Other C libraries are left as they are.
"""
import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3           # of mallopt(3)
_KEEP = {_MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: (1 << 31) - 1}              # bytes
# Where glibc's own, moving thresholds end up once a program has freed large blocks: 32 MiB, and twice that.
_GIVE_BACK = {_MMAP_THRESHOLD: 1 << 25, _TRIM_THRESHOLD: 1 << 26}


def keep_freed_memory(keep: bool = True) -> bool:
    """Tell glibc to keep what is freed (or, with False, to behave as it does on its own): whether it was told."""
    try:
        library = ctypes.CDLL(None)
        mallopt, trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):    # no glibc
        return False
    if not sys.platform.startswith("linux"):
        return False
    done = all(mallopt(name, value) for name, value in (_KEEP if keep else _GIVE_BACK).items())
    if not keep:
        trim(0)
    return done
