"""Memory stays flat: extraction, k-means and pretraining over a corpus 20 times larger take no more of it."""
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small
import soundfile

from framealign.corpus import manifest
from framealign.corpus.utterance import Utterance

STATUS = Path("/proc/self/status")
HELD, SECONDS = 5000, 5.0                           # frames that k-means may hold; the small corpus has about so many
UNITS = ["--layer", "1", "--clusters", "50", "--max-frames", HELD, "--seeding-frames", HELD, "--device", "cpu"]
PRETRAINING = ["--preset", "tiny", "--updates", "30", "--warmup-updates", "3", "--batch-seconds", "16",
               "--micro-batch-seconds", "16", "--save-every-updates", "10", "--device", "cpu"]


def write(folder: Path, number: int) -> Path:
    """A manifest of `number` utterances of noise, 5 s each."""
    folder.mkdir()
    noise = np.random.default_rng(0).normal(0, 1000, round(16_000 * SECONDS) + number)
    utterances = []
    for u in range(number):
        soundfile.write(folder / f"{u}.wav", noise[u:u + round(16_000 * SECONDS)].astype(np.int16), 16_000)
        utterances.append(Utterance(f"u{u}", folder / f"{u}.wav", round(16_000 * SECONDS)))
    manifest.write(folder / "corpus.tsv", utterances)
    return folder / "corpus.tsv"


def peak(script: str, *words: object) -> float:
    """The most memory that this script had of its own, in MB: what is mapped from files is the system's to drop."""
    process = subprocess.Popen([sys.executable, small.ROOT / "bin" / f"{script}.py", *map(str, words)],
                               env=small.ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    most = 0
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            break
        most = max([most, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))])
        time.sleep(0.01)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    return most / 1000


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists() or "RssAnon" not in STATUS.read_text(), reason="needs Linux's /proc")
def test_a_corpus_twenty_times_larger_takes_no_more_memory(tmp_path):
    base, peaks = small.write_base(tmp_path / "base"), {}
    for name, number in (("small", 20), ("large", 400)):
        table, run = write(tmp_path / name, number), tmp_path / f"{name}-run"
        peaks[name] = {
            "extraction and k-means": peak("units", "--corpus", table, "--model", base, "--out", run / "units", *UNITS),
            "MFCC and k-means": peak("units", "--corpus", table, "--mfcc", "--out", run / "mfcc", *UNITS),
            "pretraining on stored frames": peak(
                "pretrain", "--corpus", table, "--units", run / "units" / "units.safetensors", "--init-from", base,
                "--out", run / "pretrain", *PRETRAINING),
            "pretraining on sound": peak(
                "pretrain", "--corpus", table, "--units", run / "units" / "units.safetensors", "--init-from", base,
                "--no-cache-frontend", "--out", run / "sound", *PRETRAINING)}
    print()
    for what, before in peaks["small"].items():
        print(f"{what}: {before:.0f} MB, of a corpus 20 times larger {peaks['large'][what]:.0f} MB")
    waveforms = 400 * SECONDS * 16_000 * 2 / 1e6    # MB: sound that was read is held as int16, up to 2 GiB
    for what, before in peaks["small"].items():
        assert peaks["large"][what] < before + 30 + (waveforms if what.endswith("sound") else 0), what
