"""Shared fixtures: a tiny encoder's configuration, a tiny labelled corpus of tones, the sample data where they are.

And what holds for every test: it begins in the same state of the process, whatever ran before it, and what it skips for
want of something that could be installed can be counted as a failure (`--no-unexpected-skips`).
"""
import contextlib
import gc
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import small
import soundfile
import torch
from skips import pytest_addoption, pytest_make_collect_report                      # noqa: F401 (hooks)
from skips import pytest_runtest_makereport, pytest_runtest_setup                   # noqa: F401

from framealign.runtime import allocator, log
from framealign.sound import audio
from framealign.corpus.utterance import CLASSES, Utterance
from framealign.hubert.hubert_config import HubertConfig

SHARED = Path(__file__).parents[2] / "shared" / "data"
torch.set_num_threads(1)                            # on tensors this small threads only cost; and ranks have one each
# torchaudio makes tensors while it is imported: without data for ever after, if a test has the meta device as default.
with contextlib.suppress(ImportError, OSError):
    import torchaudio.compliance.kaldi              # noqa: F401


def pytest_collection_finish() -> None:
    """The garbage collector need not look again and again at the million objects that imports have made."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def nothing_remembered(tmp_path_factory) -> None:
    """Digests that tests compute are not remembered in the home of whoever runs them."""
    place = str(tmp_path_factory.mktemp("cache"))
    for environment in (os.environ, small.ENVIRONMENT):
        environment["XDG_CACHE_HOME"] = place


@pytest.fixture(autouse=True)
def the_same_process() -> Iterator[None]:
    """Every test begins with the same random numbers and nothing noted; what it changed of the process is set back."""
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)          # torch.manual_seed notes where it was called, for each kind of GPU
    log._said.clear()
    audio._notes.clear()
    allocator.keep_freed_memory()                   # as every script that computes does
    folder, environment = os.getcwd(), os.environ.copy()
    yield
    os.chdir(folder)
    if os.environ != environment:
        os.environ.clear()
        os.environ.update(environment)
    log.use_tensorboard(False)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
TONES = dict(zip(CLASSES, (250, 700, 1600, 3200)))          # Hz: each emotion of the tiny corpus is a pitch


@pytest.fixture(scope="session")
def shared() -> Path:
    """The sample data beside the project's folder; tests that need them skip where they are absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no sample data in {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def micro() -> HubertConfig:
    """The smallest encoder that has every part, with the usual dropouts and much layer drop."""
    return HubertConfig(conv_dim=(8,) * 7, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=32, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
                        layerdrop=0.3)


@pytest.fixture(scope="session")
def tones(tmp_path_factory) -> list[Utterance]:
    """A corpus of 24 utterances of 0.4 to 0.9 s: 3 sessions, 2 speakers each, 4 emotions, one tone for each emotion.

    Every speaker says every emotion once, in two dialogues; lengths, phases and noise are drawn with a fixed seed.
    """
    folder, draw = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
    utterances = []
    for session in "123":
        for gender in "FM":
            for number, (label, pitch) in enumerate(TONES.items()):
                name = f"Ses0{session}{gender}_impro0{number % 2}_{gender}{number:03d}"
                time = np.arange(draw.integers(6_400, 14_400)) / 16_000         # s
                pitch = pitch * draw.uniform(0.95, 1.05)
                sound = 0.3 * np.sin(2 * np.pi * (pitch * time + draw.random()))
                sound += 0.02 * draw.standard_normal(len(time))
                soundfile.write(folder / f"{name}.wav", sound, 16_000)
                utterances.append(Utterance(name, folder / f"{name}.wav", len(time), session, f"Ses0{session}{gender}",
                                            gender, label, "impro"))
    return utterances


@pytest.fixture
def cpu() -> torch.device:
    return torch.device("cpu")


@pytest.fixture(scope="session")
def small_tree(tmp_path_factory) -> Path:
    """The smallest IEMOCAP tree with which the recipe runs, of synthetic speech."""
    return small.write_tree(tmp_path_factory.mktemp("small") / "tree")


@pytest.fixture(scope="session")
def small_base(tmp_path_factory) -> Path:
    """The smallest base model with which the recipe runs, of random weights."""
    return small.write_base(tmp_path_factory.mktemp("small") / "base")
