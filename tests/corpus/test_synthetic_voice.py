"""The synthesiser against what its tracks ask for, measured in the sound."""
import numpy as np
import pytest

from framealign.sound.frames import SAMPLE_RATE
from framealign.corpus.synthetic_voice import HIGHER_FORMANTS, STEP, Tracks, render, room_noise, smooth


def steady(seconds=1.0, f0_hz=150.0, loudness=1.0, noise=0.0, tilt=-6.0, jitter=0.0, shimmer=0.0, formants=None):
    """A held vowel: (N,) sound."""
    C = round(seconds * SAMPLE_RATE / STEP)
    full = lambda value: np.full(C, float(value))
    tracks = Tracks(full(f0_hz), full(loudness), full(0), full(noise), full(6000), full(1200),
                    np.tile(formants or (500.0, 1500.0, 2500.0, 3500.0), (C, 1)),
                    np.array(HIGHER_FORMANTS), full(tilt), full(jitter), full(shimmer))
    return render(tracks, np.random.default_rng(0))


def periodicity(sound, f0_hz):
    """Normalised autocorrelation at lags of 0.8 to 1.25 periods: its highest value and that lag in Hz."""
    lags = np.arange(int(0.8 * SAMPLE_RATE / f0_hz), int(1.25 * SAMPLE_RATE / f0_hz) + 1)
    norm = lambda x: np.sqrt(np.dot(x, x))
    values = [np.dot(sound[lag:], sound[:-lag]) / (norm(sound[lag:]) * norm(sound[:-lag])) for lag in lags]
    return max(values), SAMPLE_RATE / lags[int(np.argmax(values))]


def level_db(sound, low_hz, high_hz):
    power = np.abs(np.fft.rfft(sound)) ** 2
    hz = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
    return 10 * np.log10(power[(hz >= low_hz) & (hz < high_hz)].sum())


@pytest.mark.parametrize("f0_hz", [90.0, 131.7, 240.0])
def test_a_steady_voice_has_the_f0_asked_for(f0_hz):
    value, measured = periodicity(steady(f0_hz=f0_hz), f0_hz)
    assert value > 0.98 and measured == pytest.approx(f0_hz, rel=0.01)


def test_jitter_and_shimmer_make_the_voice_less_periodic():
    plain, rough, uneven = (periodicity(steady(jitter=j, shimmer=s), 150.0)[0] for j, s in
                            ((0, 0), (0.05, 0), (0, 0.4)))
    assert plain > 0.98 > rough + 0.05 and plain > uneven + 0.05


def test_tilt_changes_the_spectrum_by_so_many_decibels_per_octave():
    flat, steep = steady(f0_hz=100.0, tilt=-5.0), steady(f0_hz=100.0, tilt=-9.0)
    change = [level_db(flat, f - 50, f + 50) - level_db(steep, f - 50, f + 50) for f in (1000, 2000, 4000)]
    assert np.diff(change) == pytest.approx([4.0, 4.0], abs=0.7)


def test_formants_stand_where_they_are_put():
    """A whisper-like check with a low voice: more power at each formant than midway between it and the next."""
    formants = (600.0, 1700.0, 2600.0, 3500.0)
    sound = steady(f0_hz=80.0, formants=formants, tilt=0.0)
    for here, following in zip(formants, formants[1:]):
        between = (here + following) / 2
        assert level_db(sound, here - 80, here + 80) > level_db(sound, between - 80, between + 80) + 3


def test_friction_noise_lies_in_its_band_and_silence_is_silent():
    hiss = steady(loudness=0.0, noise=1.0)
    assert level_db(hiss, 5000, 7000) > level_db(hiss, 500, 2500) + 8
    assert np.abs(steady(loudness=0.0)).max() == 0


def test_rendering_keeps_the_length_and_the_steps_place():
    """A single loud step sounds there and in the 30 ms after it, nowhere else."""
    C = 100
    one = np.zeros(C)
    one[50] = 1.0
    full = lambda value: np.full(C, float(value))
    tracks = Tracks(full(150), full(0), full(0), one, full(3000), full(3000),
                    np.tile((500.0, 1500.0, 2500.0, 3500.0), (C, 1)), np.array(HIGHER_FORMANTS),
                    full(-6), full(0), full(0))
    sound = render(tracks, np.random.default_rng(0))
    assert len(sound) == C * STEP
    heard = np.flatnonzero(np.abs(sound) > 1e-12)
    assert 49 * STEP <= heard[0] and heard[-1] < 56 * STEP


def test_smooth_is_a_mean_that_keeps_constants_and_follows_steps():
    assert smooth(np.full((50, 3), 2.0), 0.05) == pytest.approx(2.0)
    x = smooth(np.repeat([0.0, 1.0], 40), 0.05)
    assert (np.diff(x) > -1e-12).all() and x[[0, -1]] == pytest.approx([0, 1]) and x[39] + x[40] == pytest.approx(1)


def test_room_noise_has_unit_power_and_falls_with_frequency():
    noise = room_noise(32_000, np.random.default_rng(1))
    assert np.mean(noise ** 2) == pytest.approx(1)
    assert level_db(noise, 100, 1000) - level_db(noise, 7000, 7900) > 3
