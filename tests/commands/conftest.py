"""What the tests of several commands read: the tones as a manifest, as the reference's lists, and units for them."""
from pathlib import Path

import numpy as np
import pytest

from framealign.corpus import manifest
from framealign.corpus.cropping import frame_counts
from framealign.corpus.utterance import Utterance


@pytest.fixture
def table(tones, tmp_path) -> Path:
    """The manifest of the tones."""
    manifest.write(tmp_path / "corpus.tsv", tones)
    return tmp_path / "corpus.tsv"


@pytest.fixture
def lists(tones, tmp_path) -> dict[str, str]:
    """The reference's three scp lists: session 2 trains, 3 validates, 1 tests."""
    places = {}
    for part, session in (("train", "2"), ("valid", "3"), ("test", "1")):
        lines = [f"{u.id} {u.path} {u.label}\n" for u in tones if u.session == session]
        (tmp_path / f"{part}.scp").write_text("".join(lines))
        places[part] = str(tmp_path / f"{part}.scp")
    return places


@pytest.fixture
def units(tones, tmp_path) -> Path:
    """Units drawn at random, for the tones."""
    return write_units(tmp_path / "units.km", tones)


def write_units(path: Path, utterances: list[Utterance]) -> Path:
    """Write a line of units for each utterance, drawn at random from six."""
    draw = np.random.default_rng(0)
    lines = [" ".join(map(str, draw.integers(6, size=count))) for count in frame_counts(utterances).tolist()]
    path.write_text("\n".join(lines) + "\n")
    return path
