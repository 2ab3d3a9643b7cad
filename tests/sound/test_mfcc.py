"""MFCC against a float64 implementation from the definition, frame for frame, and against torchaudio's own call."""
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from framealign.sound import mfcc as module
from framealign.sound.frames import Framing, num_frames
from framealign.sound.mfcc import mfcc
from framealign.hubert.model import Hubert

pytest.importorskip("torchaudio", reason="torchaudio does not load beside this torch")
EMODB = Path(__file__).parents[2] / "../shared/data/emodb4/audio"


def mel(hertz: np.ndarray) -> np.ndarray:
    return 1127 * np.log(1 + np.asarray(hertz) / 700)


def brute_cepstra(waveform: np.ndarray) -> np.ndarray:
    """13 coefficients of every 10 ms window as Kaldi defines them, (windows, 13) float64, window by window."""
    n = np.arange(400)
    povey = (0.5 - 0.5 * np.cos(2 * np.pi * n / 399)) ** 0.85
    edges = np.linspace(mel(20), mel(8000), 25)                                 # 23 triangles
    bins = mel(np.arange(256) * 16_000 / 512)
    rows = []
    for start in range(0, len(waveform) - 399, 160):
        window = waveform[start:start + 400] - waveform[start:start + 400].mean()
        window = np.append(window[0] * (1 - 0.97), window[1:] - 0.97 * window[:-1])
        angles = 2 * np.pi * np.outer(np.arange(256), n) / 512                  # the transform as its definition
        power = (np.cos(angles) @ (window * povey)) ** 2 + (np.sin(angles) @ (window * povey)) ** 2
        energies = []
        for low, centre, high in zip(edges, edges[1:], edges[2:]):
            slope = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
            energies.append(max(np.maximum(slope, 0) @ power, float(np.finfo(np.float32).eps)))
        coefficients = [sum(math.log(e) * math.cos(math.pi * k * (j + 0.5) / 23) for j, e in enumerate(energies))
                        * math.sqrt((1 if k == 0 else 2) / 23) * (1 + 11 * math.sin(math.pi * k / 22))
                        for k in range(13)]
        rows.append(coefficients)
    return np.array(rows)


def brute_deltas(rows: np.ndarray) -> np.ndarray:
    """Slope of a line through five windows; the first and the last window stand for what lies beyond them."""
    at = lambda t: rows[min(max(t, 0), len(rows) - 1)]
    return np.array([(at(t + 1) - at(t - 1) + 2 * (at(t + 2) - at(t - 2))) / 10 for t in range(len(rows))])


def brute_mfcc(waveform: torch.Tensor) -> np.ndarray:
    cepstra = brute_cepstra(waveform.double().numpy())
    deltas = brute_deltas(cepstra)
    return np.concatenate([cepstra, deltas, brute_deltas(deltas)], 1)[::2]


def signal(kind: str) -> torch.Tensor:
    time = torch.arange(9000, dtype=torch.float64) / 16_000
    noise = torch.randn(9000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {
        "noise": 0.1 * noise,
        "tone": 0.5 * torch.sin(2 * math.pi * 440 * time) + 1e-3 * noise,
        "sweep on an offset": 0.3 + 0.2 * torch.sin(2 * math.pi * (100 + 3000 * time) * time) + 1e-3 * noise,
        "full scale": noise.sign(),
        "silence": 0 * noise,
        "shortest": 0.1 * noise[:400],
    }[kind].float()


@pytest.mark.parametrize("kind", ["noise", "tone", "sweep on an offset", "full scale", "silence", "shortest"])
def test_mfcc_is_the_definition(kind):
    waveform = signal(kind)
    found, expected = mfcc(waveform).numpy(), brute_mfcc(waveform)
    assert found.dtype == np.float32 and found.shape == expected.shape == (num_frames(len(waveform)), 39)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert np.linalg.norm(found - expected) <= 2e-5 * np.linalg.norm(expected)


def test_mfcc_of_speech_is_the_definition():
    if not EMODB.is_dir():
        pytest.skip(f"no sample data in {EMODB}")
    samples = pytest.importorskip("soundfile").read(sorted(EMODB.glob("*.flac"))[0], dtype="float32")[0]
    waveform = torch.from_numpy(samples)[:12_345]
    expected = brute_mfcc(waveform)
    np.testing.assert_allclose(mfcc(waveform).numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_mfcc_is_what_hubert_was_clustered_on():
    """The three calls of fairseq's dump_mfcc_feature.py, every second row, bit for bit."""
    from torchaudio.compliance.kaldi import mfcc as kaldi_mfcc
    from torchaudio.functional import compute_deltas
    waveform = signal("noise")
    cepstra = kaldi_mfcc(waveform=waveform.view(1, -1), sample_frequency=16_000, use_energy=False).transpose(0, 1)
    deltas = compute_deltas(cepstra)
    expected = torch.cat([cepstra, deltas, compute_deltas(deltas)]).transpose(0, 1)[::2]
    assert torch.equal(mfcc(waveform), expected)


def test_counts_equal_the_encoders_for_every_length():
    """The count of every second window is the encoder's for all N; the features themselves are asked at the steps."""
    lengths = np.arange(400, 50_001)
    windows = (lengths - 400) // 160 + 1
    encoder = np.array([num_frames(int(n)) for n in lengths])
    assert ((windows + 1) // 2 == encoder).all()
    waveform = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    for n in [400, 401, 559, 560, 719, 720, 721, 879, 880, 1039, 1040, 7919, 20_079, 20_080, 49_999, 50_000]:
        assert mfcc(waveform[:n]).shape == (num_frames(n), 39)


def test_rows_stand_where_frames_begin_whatever_the_hop():
    """One row for each frame of an encoder of another hop: every n-th window of 10 ms, from where the frame begins."""
    waveform = torch.randn(30_000, generator=torch.Generator().manual_seed(0))
    every_window = mfcc(waveform, Framing(160, 400))
    assert torch.equal(every_window[::2], mfcc(waveform))
    for framing in (Framing(640, 720), Framing(640, 1040), Framing(480, 400), Framing(1600, 5000)):
        for n in (framing.receptive_field, 29_999, 30_000):
            found = mfcc(waveform[:n], framing)
            assert found.shape == (num_frames(n, framing), 39)
        assert torch.equal(found, every_window[::framing.hop // 160][:len(found)])


@pytest.mark.parametrize("framing, what", [(Framing(320, 399), "24.9375 ms every 20 ms"),
                                           (Framing(441, 600), "37.5 ms every 27.5625 ms")])
def test_frames_that_mfcc_cannot_follow_are_refused(framing, what):
    with pytest.raises(ValueError, match=f"windows of 25 ms every 10 ms: the model has a frame of {what}"):
        mfcc(torch.randn(16_000), framing)


def test_counts_are_the_encoders_when_both_are_run(micro):
    """For lengths of three hops, all where a frame begins; all to 50,000 are counted above and in test_frames.py."""
    hubert = Hubert(micro).eval()
    waveform = torch.randn(1360, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for n in (n for n in range(400, 1361) if n % 5 == 0 or (n - 400) % 320 in (1, 318, 319)):
            assert len(mfcc(waveform[:n])) == hubert.conv_features(waveform[None, :n]).shape[1] == num_frames(n)


def test_frame_t_sees_its_own_400_samples():
    """Coefficients of frame t do not change with any sample outside [320 t, 320 t + 400), and do with one inside."""
    waveform = signal("noise")
    for t in (0, 7, num_frames(len(waveform)) - 1):
        outside = waveform.clone()
        outside[:320 * t] = 0.5
        outside[320 * t + 400:] = -0.5
        torch.testing.assert_close(mfcc(outside)[t, :13], mfcc(waveform)[t, :13], rtol=1e-5, atol=1e-4)
        for inside in (320 * t + 1, 320 * t + 398):
            changed = waveform.clone()
            changed[inside] += 20
            assert (mfcc(changed)[t, :13] - mfcc(waveform)[t, :13]).abs().max() > 1e-3


@pytest.mark.parametrize("windows", [1, 2, 7, 53, 54])
def test_chunks_do_not_show(windows, monkeypatch):
    expected = mfcc(signal("tone"))
    monkeypatch.setattr(module, "CHUNK_WINDOWS", windows)
    torch.testing.assert_close(mfcc(signal("tone")), expected, rtol=1e-5, atol=2e-4)


def test_same_input_same_output_and_input_left_alone():
    waveform = signal("noise")
    before = waveform.clone()
    assert torch.equal(mfcc(waveform), mfcc(waveform)) and torch.equal(waveform, before)
    assert torch.equal(mfcc(waveform.double()), mfcc(waveform))
    assert mfcc(torch.zeros(16_000)).isfinite().all()


def test_wrong_shapes_and_a_torchaudio_that_does_not_load(monkeypatch):
    with pytest.raises(ValueError, match=">= 400"):
        mfcc(torch.zeros(399))
    with pytest.raises(ValueError, match=r"one channel of shape \(N,\), got \(2, 800\)"):
        mfcc(torch.zeros(2, 800))
    monkeypatch.setitem(__import__("sys").modules, "torchaudio.compliance", None)
    with pytest.raises(ValueError, match="torchaudio==2.11"):
        mfcc(torch.zeros(800))
