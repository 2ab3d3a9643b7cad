"""Named seeds: every random draw has a name of its own."""
import hashlib


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from a run's seed and the words that name one draw, e.g. (seed, "mask", update, micro_batch).

    Every random draw of training has its own name instead of a place in one long stream. A resumed run, or one on
    another number of ranks, therefore draws the same numbers without any generator state being saved.
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1
