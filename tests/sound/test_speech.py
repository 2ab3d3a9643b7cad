"""Where there is speech: each measure by plain numpy; what is no speech is named, what is speech is not lost."""
import hashlib

import no_speech
import numpy as np
import pytest
import torch

from framealign.sound import audio, speech
from framealign.sound.frames import Framing, num_frames
from framealign.corpus.synthetic_utterance import synthesise


def kinds(waveform: np.ndarray) -> np.ndarray:
    return speech.kinds(torch.from_numpy(np.asarray(waveform, np.float32)))


def voice(number: int, seconds: float = 3.0) -> np.ndarray:
    """An utterance of the synthetic corpus, 16 kHz."""
    name = f"Ses0{number % 4 + 1}{'FM'[number % 2]}"
    emotion = ("neutral", "happy", "angry", "sad")[number % 4]
    return synthesise(0, name, f"{name}_{number}", emotion, seconds)[0].astype(np.float32)


def decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(power + 1e-12)


def by_hand(waveform: np.ndarray) -> list[np.ndarray]:
    """Level, bands, likeness, voicing, rise and fall of every frame, one window after another in float64."""
    waveform = np.asarray(waveform, np.float64)
    T, bins = num_frames(len(waveform)), np.arange(513) * 16_000 / 1024
    padded = np.pad(waveform, 312, mode="reflect")
    window = np.hanning(1024)
    level, bands, fine, combs, rise, fall = [], [], [], [], [], []
    for t in range(T):
        samples = padded[320 * t:320 * t + 1024]
        power = np.abs(np.fft.rfft(samples * window)) ** 2 * 2 / 1024 / np.sum(window ** 2)
        level.append(decibels(power[bins >= 80].sum()))
        bands.append([decibels(power[(bins >= low) & (bins < high)].sum())
                      for low, high in zip(speech.BANDS, speech.BANDS[1:])])
        root = (power[4:256] + 1e-14) ** 0.25
        wide = np.pad(root, 20, mode="reflect")
        flat = root / [wide[i:i + 41].mean() for i in range(252)] - 1
        fine.append(flat / np.linalg.norm(flat))
        combs.append([np.sum(fine[-1] * np.cos(2 * np.pi * bins[4:256] * lag / 16_000)) / np.sqrt(252 / 2)
                      for lag in range(40, 267)])
        start = 320 * t + 40 + 312                  # of the hop in the middle of the frame
        parts = [decibels(np.mean(padded[start + 80 * i:start + 80 * (i + 1)] ** 2)) for i in range(-1, 4)]
        changes = np.diff(np.maximum(parts, speech.SILENCE)) ** 3
        rise.append(changes[changes > 0].sum())
        fall.append(-changes[changes < 0].sum())
    likeness = [fine[t] @ fine[t + 2] if t + 2 < T else 0.0 for t in range(T)]
    around = np.pad(combs, ((1, 1), (0, 0)), mode="edge")
    voicing = ((around[:-2] + around[1:-1] + around[2:]) / 3).max(1)
    return [np.array(x) for x in (level, bands, likeness, voicing, rise, fall)]


@pytest.mark.parametrize("samples", [400, 719, 720, 1040, 9_999, 24_321])
def test_measures_are_those_computed_by_hand(samples):
    waveform = voice(samples)[9_000:9_000 + samples]
    measured = [one.numpy() for one in speech.measures(torch.from_numpy(waveform))]
    for name, one, expected in zip(("level", "bands", "likeness", "voicing", "rise", "fall"), measured,
                                   by_hand(waveform), strict=True):
        assert np.allclose(one, expected, atol=2e-3, rtol=1e-3), (name, np.abs(one - expected).max())


def test_chunks_make_no_difference(monkeypatch):
    waveform = torch.from_numpy(voice(3))
    whole = speech.measures(waveform)
    for chunk in (1, 7, 64):
        monkeypatch.setattr(speech, "CHUNK", chunk)
        for one, expected in zip(speech.measures(waveform), whole, strict=True):
            assert torch.allclose(one, expected, atol=1e-4, rtol=1e-4)


def test_a_second_hardly_moves_as_its_standard_deviation_says():
    draw = np.random.default_rng(0)
    bands = torch.from_numpy(draw.normal(-40, draw.uniform(0.3, 3, (200, 1)) ** 2, (200, 9))).float()
    bands[60:130] = bands[60:130].mean() + 0.1 * torch.randn(70, 9)
    around = np.pad(bands.numpy().astype(float), ((1, 1), (0, 0)), mode="edge")
    smooth = (around[:-2] + around[1:-1] + around[2:]) / 3
    expected = np.zeros(200, bool)
    for start in range(151):
        if smooth[start:start + 50].std(0).mean() < speech.STILL:
            expected[start:start + 50] = True
    assert (speech._still(bands) == expected).all() and 50 < expected.sum() < 150


@pytest.mark.parametrize("seconds", [0.8, 2.0, 7.0])
@pytest.mark.parametrize("name, made, kind", [
    ("zeros", lambda draw, s: np.zeros(round(16_000 * s)), speech.SILENT),
    ("dither", lambda draw, s: draw.integers(-1, 2, round(16_000 * s)) / 32_768, speech.SILENT),
    ("white", lambda draw, s: no_speech.at_level(no_speech.noise(draw, s, 0), -30), speech.NOISE),
    ("pink", lambda draw, s: no_speech.at_level(no_speech.noise(draw, s, 1), -20), speech.NOISE),
    ("brown", lambda draw, s: no_speech.at_level(no_speech.noise(draw, s, 2), -25), speech.NOISE),
    ("blue", lambda draw, s: no_speech.at_level(no_speech.noise(draw, s, -1), -50), speech.NOISE),
    ("hum", lambda draw, s: no_speech.at_level(no_speech.tone(50, s, 6), -50), speech.MUSIC),
    ("tone", lambda draw, s: no_speech.at_level(no_speech.tone(draw.uniform(100, 2000), s), -20), speech.MUSIC),
    ("rich tone", lambda draw, s: no_speech.at_level(no_speech.tone(draw.uniform(80, 400), s, 20), -20), speech.MUSIC),
    ("chord", lambda draw, s: no_speech.at_level(no_speech.chord(draw, s), -20), speech.MUSIC)])
def test_silence_noise_and_tones_are_no_speech(name, made, kind, seconds):
    frame_kinds = kinds(made(np.random.default_rng(round(10 * seconds)), seconds))
    assert (frame_kinds == kind).all(), np.bincount(frame_kinds)
    assert speech.reason(frame_kinds) == f"no speech: {speech.KINDS[kind]}"


@pytest.mark.parametrize("name, made", [
    ("struck", lambda draw, s: no_speech.melody(draw, s)), ("held", lambda draw, s: no_speech.melody(
        draw, s, no_speech.held, 3)), ("two voices", lambda draw, s: no_speech.melody(draw, s, voices=2)),
    ("drums", no_speech.drums)])
@pytest.mark.parametrize("seed", range(5))
def test_notes_and_drums_are_no_speech(name, made, seed):
    frame_kinds = kinds(no_speech.at_level(made(np.random.default_rng(seed), 6.0), -20))
    assert (frame_kinds != speech.SPEECH).all(), np.bincount(frame_kinds)
    assert (frame_kinds == speech.MUSIC).mean() > 0.6 and speech.reason(frame_kinds).startswith(
        "no speech: music or tones")


@pytest.mark.parametrize("snr", [None, 10, 0])
def test_voices_are_speech_in_pink_noise_too(snr):
    draw = np.random.default_rng(0)
    for number in range(16):
        waveform = voice(number)
        if snr is not None:
            pink = no_speech.noise(draw, len(waveform) / 16_000, 1)
            waveform = waveform + no_speech.at_level(pink, decibels(np.mean(waveform ** 2)) - snr)
        assert (kinds(waveform) == speech.SPEECH).mean() > (0.4 if snr == 0 else 0.9)


def test_speech_a_thousand_times_quieter_is_speech():
    assert (kinds(voice(5) / 30) == speech.SPEECH).all()
    assert (kinds(voice(5) / 30_000) == speech.SILENT).all()


def test_gaps_are_where_they_are_and_pauses_are_none():
    """Two utterances and what stands between them: its ends to a quarter of a second."""
    draw = np.random.default_rng(0)
    for filling, kind in ((np.zeros(32_000), speech.SILENT),
                          (no_speech.at_level(no_speech.noise(draw, 2, 1), -45), speech.NOISE)):
        first, second = voice(2), voice(6)
        frame_kinds = kinds(np.concatenate([first, filling, second]))
        gap, = [(start, stop) for start, stop in speech.stretches(frame_kinds != speech.SPEECH)]
        assert (frame_kinds[gap[0]:gap[1]] == kind).mean() > 0.9
        assert abs(gap[0] / 50 - len(first) / 16_000) < 0.25 and abs(gap[1] / 50 - len(first) / 16_000 - 2) < 0.25
        assert (kinds(np.concatenate([first, filling[:4_000], second])) == speech.SPEECH).all()


def test_short_gaps_beside_speech_are_pauses_and_short_remains_no_speech():
    S, Q, N, M = speech.SPEECH, speech.SILENT, speech.NOISE, speech.MUSIC
    for before, after in (([S] * 30 + [Q] * 24 + [S] * 30, [S] * 84),           # a pause
                          ([S] * 30 + [Q] * 25 + [S] * 30, None), ([Q] * 24 + [S] * 30, [S] * 54),
                          ([S] * 30 + [Q] * 12 + [N] * 12, [S] * 54), ([Q] * 24, None), ([S] * 5, None),
                          ([Q] * 30 + [N] * 24 + [Q] * 9 + [M] * 26, [Q] * 63 + [M] * 26),
                          ([Q] * 30 + [S] * 9 + [M] * 30, [Q] * 39 + [M] * 30), ([S] * 9 + [M] * 30, [M] * 39),
                          ([Q] * 30 + [S] * 10 + [Q] * 30, None),
                          ([S] * 6 + [Q] * 20 + [S] * 6 + [N] * 40, [S] * 32 + [N] * 40)):
        frame_kinds = np.array(before, np.uint8)
        joined = speech.without_pauses(frame_kinds)
        assert joined.tolist() == (before if after is None else after) and frame_kinds.tolist() == before


def test_reasons_name_what_is_there():
    assert speech.reason(np.array([1] * 80 + [2] * 15 + [3] * 5)) == "no speech: silence, noise"
    assert speech.reason(np.array([2] * 30 + [3] * 70)) == "no speech: music or tones, noise"
    assert speech.reason(np.array([1] * 99 + [0])) == ""


@pytest.mark.parametrize("framing", [Framing(640, 720), Framing(441, 600), Framing(80, 200)])
def test_other_frames_are_what_the_nearest_frame_of_20_ms_is(framing):
    waveform = np.concatenate([voice(2), np.zeros(16_000, np.float32), voice(3)])
    of_20_ms = kinds(waveform)
    others = speech.kinds(torch.from_numpy(waveform), framing)
    assert len(others) == num_frames(len(waveform), framing) and set(others) == {speech.SPEECH, speech.SILENT}
    for t in range(len(others)):
        centre = framing.hop * t + framing.receptive_field / 2
        distances = np.abs(320 * np.arange(len(of_20_ms)) + 200 - centre)
        assert others[t] in of_20_ms[distances == distances.min()]
    assert len(speech.kinds(torch.zeros(210), Framing(80, 200))) == 1


def test_real_speech_is_not_lost(shared):
    """Of every corpus some utterances, drawn by name: none with words is without speech, in pink noise neither."""
    draw = np.random.default_rng(0)
    files = sorted(path for path in shared.rglob("*") if path.suffix in (".flac", ".opus"))
    by_name = sorted(files, key=lambda path: hashlib.sha256(path.name.encode()).digest())
    lost, whole = [], []
    for path in by_name[:200]:
        waveform = audio.load(path)
        whole.append((speech.kinds(waveform) == speech.SPEECH).all())
        for snr in (None, 10, 0):
            pink = no_speech.noise(draw, len(waveform) / 16_000, 1)
            mixed = waveform if snr is None else waveform + torch.from_numpy(
                no_speech.at_level(pink, float(decibels(waveform.square().mean().numpy())) - snr))
            if speech.reason(speech.kinds(mixed)):
                lost.append((path, snr))
    assert not [one for one in lost if "emogator" not in one[0].parts] and len(lost) <= 5    # those: sighs, gasps
    assert np.mean(whole) > 0.7
