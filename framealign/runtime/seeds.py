"""Named seeds: every random draw of training has a name of its own, instead of a place in one long stream."""
import hashlib


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from a run's seed and the words that name one draw, e.g. (seed, "mask", update, micro_batch).

    A resumed run, or one on another number of ranks, draws the same numbers without any generator state being saved.
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
