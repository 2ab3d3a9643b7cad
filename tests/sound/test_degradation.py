"""Degraded sound, each kind against what is measured of it by other means: ratios, bands, decay, pitch, level."""
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from framealign.sound import degradation
from framealign.sound.degradation import Degradation

RATE = 16_000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def speech(num_samples: int = 40_000, seed: int = 0) -> Tensor:
    """Noise in bursts, whose power changes as that of speech: (N,) float32."""
    rng = np.random.default_rng(seed)
    bursts = np.repeat(rng.choice([0.0, 0.05, 0.3], -(-num_samples // 800)), 800)[:num_samples]
    return torch.from_numpy(bursts * rng.standard_normal(num_samples) + 1e-3 * rng.standard_normal(num_samples)).float()


def tone(hertz: float, num_samples: int = RATE) -> Tensor:
    return 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(num_samples, dtype=torch.float64) / RATE).float()


def power(waveform: Tensor, low: float = 0.0, high: float = RATE) -> float:
    """Of the frequencies [low, high) Hz, by numpy's transform: their share of the sum of squares."""
    spectrum = np.abs(np.fft.rfft(waveform.double().numpy())) ** 2
    frequencies = np.fft.rfftfreq(len(waveform), 1 / RATE)
    weights = np.where((frequencies == 0) | (frequencies == RATE / 2), 1.0, 2.0)
    return float((weights * spectrum)[(frequencies >= low) & (frequencies < high)].sum() / len(waveform))


@pytest.mark.parametrize("kind", degradation.NOISES)
@pytest.mark.parametrize("snr", (-5.0, 0.0, 13.7, 60.0))
def test_the_ratio_of_speech_to_noise_is_the_one_asked_for(kind, snr):
    """What was added, over what was there, for odd lengths too; twice the same seed is the same noise."""
    for num_samples in (400, 12_345):
        waveform, voices = speech(num_samples) + 0.01, [speech(5_000, 1), speech(70_000, 2)]
        condition = Degradation(seed=3, noise=kind, snr_decibels=snr)
        noisy = condition(waveform, voices)
        assert noisy.shape == waveform.shape and noisy.dtype == torch.float32
        added = noisy.double() - waveform.double()
        found = 10 * math.log10(waveform.double().square().sum() / added.square().sum())
        assert found == pytest.approx(snr, abs=2e-3)                            # what float32 leaves of the difference
        assert torch.equal(noisy, condition(waveform, voices))
        assert not torch.equal(noisy, Degradation(seed=4, noise=kind, snr_decibels=snr)(waveform, voices))


def test_white_noise_has_equal_bands_and_pink_noise_equal_octaves():
    white, pink = (make(10 * RATE, generator()) for make in (degradation.white_noise, degradation.pink_noise))
    thousands = [power(white, low, low + 1000) for low in range(0, 8000, 1000)]
    assert max(thousands) < 1.1 * min(thousands)
    octaves = [power(pink, low, 2 * low) for low in (62.5, 125, 250, 500, 1000, 2000, 4000)]
    assert max(octaves) < 1.2 * min(octaves)
    assert power(pink, 0, 49) < 1e-3 * min(octaves)


def test_babble_is_its_voices_at_one_level():
    """Each voice correlates with it as much as the others, however loud it was; a sound of no voice does not."""
    voices = [10.0 ** -k * speech(20_000, k) for k in range(3)]
    sound = degradation.babble(voices, 20_000, generator())
    peaks = []
    for voice in [*voices, speech(20_000, 9)]:
        product = np.fft.irfft(np.fft.rfft(sound.numpy()) * np.conj(np.fft.rfft(voice.numpy())))
        peaks.append(np.abs(product).max() / (voice.norm() * sound.norm()).item())
    assert all(peak == pytest.approx(1 / math.sqrt(3), abs=0.05) for peak in peaks[:3]) and peaks[3] < 0.1
    long = degradation.babble(voices[:1], 50_000, generator())                  # repeated from where it ends
    assert torch.equal(long[:10_000], long[40_000:])


@pytest.mark.parametrize("line", degradation.LINES)
def test_a_telephone_passes_its_band_and_nothing_else(line):
    """Tones inside keep their level within 0.1 dB, those outside lose 60 dB (in 8 bits: what those leave of them)."""
    condition = Degradation(line=line)
    for hertz, passes in ((60, False), (150, False), (310, True), (1000, True), (3390, True), (3700, False),
                          (5000, False), (7900, False)):
        heard = condition(tone(hertz))[2000:-2000]
        loss = 10 * math.log10(0.125 / max(heard.double().square().mean().item(), 1e-30))
        assert loss == pytest.approx(0, abs=0.1) if passes else loss > 55, hertz
    white = degradation.white_noise(10 * RATE, generator())
    heard = condition(white)
    assert power(heard, 0, 190) + power(heard, 4000) < 1e-4 * power(heard)
    assert power(heard, 300, 3400) == pytest.approx(power(white, 300, 3400), rel=0.02)
    noise = heard - degradation.telephone(white)
    assert power(noise) == 0 if line == "telephone" else 1e-5 < power(noise) / power(heard) < 1e-3     # 38 dB of 8 bits


def test_mu_law_is_that_of_torchaudio():
    functional = pytest.importorskip("torchaudio.functional")
    waveform = torch.cat([torch.linspace(-1, 1, 4001), speech(2000).clamp(-1, 1)])
    codes = functional.mu_law_encoding(waveform, 256)
    torch.testing.assert_close(degradation._in_8_bits(waveform), functional.mu_law_decoding(codes, 256), atol=1e-6,
                               rtol=1e-5)
    assert torch.equal(degradation._in_8_bits(4 * waveform), 4 * degradation._in_8_bits(waveform))     # of any level
    assert degradation._in_8_bits(torch.zeros(9)).abs().max() < 1e-30


@pytest.mark.parametrize("rt60", (0.2, 0.5, 0.9, 2.0))
def test_a_room_decays_in_its_time(rt60):
    """Schroeder integration of the response's tail: its line from -5 to -25 dB, continued to -60."""
    found = []
    for seed in range(5):
        response = degradation.room_response(rt60, generator(seed)).double().numpy()
        assert response[0] == 1 and np.square(response[1:]).sum() == pytest.approx(2 * rt60, rel=1e-4)
        decay = 10 * np.log10(np.cumsum(np.square(response[:0:-1]))[::-1] / np.square(response[1:]).sum())
        line = (decay <= -5) & (decay >= -25)
        slope, _ = np.polyfit(np.flatnonzero(line) / RATE, decay[line], 1)      # dB per s
        found.append(-60 / slope)
    assert np.mean(found) == pytest.approx(rt60, rel=0.05)


def test_reverberation_is_convolution_and_keeps_the_direct_sound():
    waveform, response = speech(9_001), degradation.room_response(0.3, generator())
    heard = degradation.reverberate(waveform, response)
    expected = np.convolve(waveform.double().numpy(), response.double().numpy())[:9_001]
    np.testing.assert_allclose(heard.numpy(), expected, atol=1e-4)
    click = torch.zeros(1_000)
    click[123] = 1
    assert degradation.reverberate(click, response)[123].item() == pytest.approx(1, abs=1e-5)
    assert degradation.reverberate(click, response)[:123].abs().max() < 1e-5


def test_a_microphone_makes_octaves_louder_by_what_is_said():
    """Tones on the octaves by their own number, between them by the line of two numbers over the logarithm; no delay:
    what becomes of a click is the same before it and after it.
    """
    decibels = torch.tensor([3.0, -6.0, 0.0, 9.0, -12.0, 4.0, 1.0, -5.0])
    for hertz, gain in ((40, 3.0), (62.5, 3.0), (125, -6.0), (1000, -12.0), (4000, 1.0), (1000 * 2 ** 0.5, -4.0),
                        (500 * 2 ** 0.25, 9 - 21 / 4), (5000, 1 - 6 * math.log2(1.25))):
        heard = degradation.colour(tone(hertz, 2 * RATE), decibels)[4000:-4000]
        assert 10 * math.log10(heard.double().square().mean() / 0.125) == pytest.approx(gain, abs=0.1), hertz
    click = torch.zeros(8001)
    click[4000] = 1
    response = degradation.colour(click, decibels).double()
    assert response.abs().argmax() == 4000
    torch.testing.assert_close(response[:4000].flip(0), response[4001:], atol=1e-6, rtol=0)     # zero phase
    assert (response[4000 - 800:4000 + 801].square().sum() / response.square().sum()).item() > 0.999
    waveform = speech(12_345)
    torch.testing.assert_close(degradation.colour(waveform, torch.zeros(8)), waveform, atol=1e-6, rtol=0)
    torch.testing.assert_close(degradation.colour(waveform, torch.full((8,), 6.0)), waveform * 10 ** 0.3, atol=1e-5,
                               rtol=1e-5)


def test_microphones_are_drawn_with_the_deviation_asked_for():
    """Of 400 draws: what they do to tones has this deviation in decibels, octaves for themselves, and the mean 0."""
    tones = torch.stack([tone(hertz) for hertz in degradation.OCTAVES[1:6]]).sum(0) / 5
    gains = []
    for seed in range(400):
        heard = np.fft.rfft(Degradation(seed, colour_decibels=4.0)(tones).numpy())
        gains.append([20 * math.log10(abs(heard[int(hertz)]) / (RATE / 20)) for hertz in degradation.OCTAVES[1:6]])
    assert np.std(gains, axis=0) == pytest.approx([4.0] * 5, rel=0.15)
    assert np.abs(np.mean(gains, axis=0)).max() < 0.7
    assert np.abs(np.corrcoef(gains, rowvar=False) - np.eye(5)).max() < 0.2


@pytest.mark.parametrize("percent", (90, 93, 100, 107, 110))
def test_speed_moves_pitch_and_length(percent):
    condition = Degradation(speed_percent=percent)
    heard = condition(tone(400, 24_001))
    assert len(heard) == condition.length(24_001) == math.ceil(24_001 * 100 / percent)
    spectrum = np.abs(np.fft.rfft(heard.numpy() * np.hanning(len(heard)), 1 << 19))
    assert spectrum.argmax() * RATE / (1 << 19) == pytest.approx(4 * percent, rel=1e-4)
    assert heard[1000:-1000].square().mean().item() == pytest.approx(0.125, rel=0.01)


def test_level():
    waveform = speech()
    louder = Degradation(level_decibels=-7.5)(waveform)
    assert 20 * math.log10(louder.double().norm() / waveform.double().norm()) == pytest.approx(-7.5, abs=1e-4)
    assert torch.equal(Degradation()(waveform), waveform)


def test_the_order_of_what_is_done():
    """Speed, room, noise, microphone, line, level: noise is not reverberated, but passes microphone and line."""
    waveform = speech(8_000)
    whole = Degradation(5, 105, 0.4, "white", 3.0, (), 4.0, "telephone", 2.0)
    step = Degradation(5, 105)(waveform)
    for change in ({"rt60_seconds": 0.4}, {"noise": "white", "snr_decibels": 3.0}, {"colour_decibels": 4.0},
                   {"line": "telephone"}, {"level_decibels": 2.0}):
        step = Degradation(5, **change)(step)
    assert torch.equal(whole(waveform), step)


def test_texts():
    assert degradation.of_text("pink:10") == Degradation(noise="pink", snr_decibels=10)
    assert degradation.of_text("babble:-2.5") == Degradation(noise="babble", snr_decibels=-2.5)
    assert degradation.of_text("telephone") == Degradation(line="telephone")
    assert degradation.of_text("mu-law") == Degradation(line="mu-law")
    assert degradation.of_text("reverb:0.5") == Degradation(rt60_seconds=0.5)
    assert degradation.of_text("microphone:6") == Degradation(colour_decibels=6.0)


@pytest.mark.parametrize("text", ("", "pink", "pink:", "pink:x", "white:nan", "white:inf", "telephone:3", "reverb",
                                  "reverb:0", "reverb:-1", "reverb:11", "speed:1.1", "brown:3", "microphone",
                                  "microphone:0", "microphone:21", "microphone:nan"))
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="degrade must be white:DB, pink:DB") as caught:
        degradation.of_text(text)
    assert repr(text) in str(caught.value)
