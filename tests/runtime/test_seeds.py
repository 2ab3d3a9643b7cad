"""Named seeds: a stable rule, and every part of the name counts."""
import hashlib

from framealign.runtime.seeds import derive_seed


def test_seeds_are_named():
    """A resumed run must draw what the interrupted one would have, so the rule is written down; every part counts."""
    words = hashlib.sha256(b"(0, 'mask', 1, 0)").digest()
    assert derive_seed(0, "mask", 1, 0) == int.from_bytes(words[:8], "little") // 2 == 6312549722560328412
    names = [(0, "mask", 1, 0), (1, "mask", 1, 0), (0, "dropout", 1, 0), (0, "mask", 0, 1), (0, "mask", 1),
             (0, "mask", 10), (0, "mask1", 0), ("0", "mask", 1, 0), (0, "mask", "1", 0), ()]
    seeds = [derive_seed(*name) for name in names] + [derive_seed(0, "mask", update, 0) for update in range(2, 5000)]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2 ** 63 for seed in seeds)
    assert abs(sum(seed >= 2 ** 62 for seed in seeds) / len(seeds) - 0.5) < 0.04
