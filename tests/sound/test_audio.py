"""Sound files in, waveforms out: every format, every rate, and every file that is not what it says."""
import io
import math
import resource
import struct
import sys
from pathlib import Path

import faults
import numpy as np
import pytest
import soundfile
import torch

from framealign.sound import audio

DATA = Path(__file__).parents[3] / "shared" / "data"
FORMATS = (("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("wav", "ULAW"), ("flac", "PCM_16"),
           ("aiff", "PCM_16"), ("au", "PCM_16"), ("w64", "PCM_16"), ("rf64", "PCM_16"), ("ogg", "VORBIS"),
           ("ogg", "OPUS"), ("mp3", "MPEG_LAYER_III"))


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(scale=0.1, size=16_000).astype(np.float32)


def written(path: Path, samples: np.ndarray, rate: int = 16_000, subtype: str | None = None) -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def message(path: Path, *words: str, of=audio.load) -> None:
    """`of(path)` raises a ValueError of one line with the path and all the words."""
    with pytest.raises(ValueError) as caught:
        of(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    for word in words:
        assert word in text, f"{word!r} is not in {text!r}"


def test_float_wav_is_read_exactly(tmp_path, noise):
    waveform = audio.load(written(tmp_path / "a.wav", noise, subtype="FLOAT"))
    assert waveform.dtype == torch.float32 and waveform.shape == (16_000,)
    assert np.array_equal(waveform.numpy(), noise)


def test_16_bit_wav_is_read_as_32768ths(tmp_path):
    samples = np.array([0, 1, -1, 32767, -32768] * 100, np.int16)
    waveform = audio.load(written(tmp_path / "a.wav", samples))
    assert np.array_equal(waveform.numpy(), samples / np.float32(32768))


@pytest.mark.parametrize("extension, subtype", FORMATS)
def test_formats_lengths_and_crops(tmp_path, noise, extension, subtype):
    """The header's length is the waveform's; a crop is the same piece of the whole."""
    path = written(tmp_path / f"a.{extension}", noise, subtype=subtype)
    whole = audio.load(path)
    assert audio.length(path) == len(whole) >= 16_000
    for start, num_samples in ((0, 400), (320, 4000), (15_000, len(whole) - 15_000)):
        assert torch.equal(audio.load(path, start, num_samples), whole[start:start + num_samples])
    assert torch.equal(audio.load(path, 12_800), whole[12_800:])


@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_half_a_file_is_an_error(tmp_path, noise, extension):
    path = written(tmp_path / f"a.{extension}", noise)
    path.write_bytes(path.read_bytes()[:15_000])
    message(path, "truncated", "copy or convert it again")


@pytest.mark.parametrize("extension, subtype", FORMATS)
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.6, 0.97])
def test_cut_files_of_every_format_are_errors(tmp_path, noise, extension, subtype, fraction):
    path = written(tmp_path / f"a.{extension}", noise, subtype=subtype)
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * fraction)])
    message(path, "truncated")


def test_one_missing_byte_of_a_wav_is_seen_in_the_header(tmp_path, noise):
    path = written(tmp_path / "a.wav", noise)
    path.write_bytes(path.read_bytes()[:-1])
    message(path, "truncated", "32000", "31999", of=audio.length)


@pytest.mark.parametrize("rate", [8000, 11_025, 12_000, 16_000, 22_050, 22_255, 24_000, 32_000, 44_100, 44_101, 48_000])
@pytest.mark.parametrize("num_samples", [1600, 1601, 7919])
def test_length_is_the_ceiling_at_every_rate(tmp_path, noise, rate, num_samples):
    path = written(tmp_path / "a.wav", noise[:num_samples], rate)
    assert audio.length(path) == len(audio.load(path)) == math.ceil(num_samples * 16_000 / rate)
    assert torch.equal(audio.load(path, 100, 300), audio.load(path)[100:400])


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000])
def test_resampling_is_torchaudios(tmp_path, noise, rate):
    functional = pytest.importorskip("torchaudio.functional")
    waveform = audio.load(written(tmp_path / "a.wav", noise, rate, "FLOAT"))
    assert torch.equal(waveform, functional.resample(torch.from_numpy(noise), rate, 16_000))


@pytest.mark.parametrize("rate", [4000, 8000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_direct_resampling_is_torchaudios_sum(noise, rate):
    """Oracle: torchaudio in float64, at rates both can do."""
    functional = pytest.importorskip("torchaudio.functional")
    expected = functional.resample(torch.from_numpy(noise).double(), rate, 16_000)
    direct = audio._resample_directly(torch.from_numpy(noise), rate)
    assert direct.shape == expected.shape
    assert (direct - expected).abs().max() < 1e-6


def test_a_tone_of_an_odd_rate_stays_that_tone(tmp_path):
    """440 Hz at 44,101 Hz, whose filter table would have 700 million elements, is 440 Hz at 16 kHz."""
    time = np.arange(22_050) / 44_101
    waveform = audio.load(written(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * time), 44_101, "FLOAT"))
    expected = 0.5 * torch.sin(2 * math.pi * 440 * torch.arange(len(waveform)).double() / 16_000)
    assert (waveform - expected)[200:-200].abs().max() < 2e-3


def test_torchaudios_length_is_mended_where_float32_rounds_it():
    """2^24 + 1 samples at 8 kHz are 2^25 + 2 at 16 kHz, which float32 cannot hold."""
    functional = pytest.importorskip("torchaudio.functional")
    waveform = torch.zeros(2 ** 24 + 1)
    waveform[-2000:] = torch.linspace(-1, 1, 2000)
    resampled = audio.resample(waveform, 8000, "a.wav")
    assert len(resampled) == 2 ** 25 + 2
    assert torch.allclose(resampled[-2000:], functional.resample(waveform[-4000:], 8000, 16_000)[-2000:], atol=1e-6)


def test_another_rate_and_stereo_are_said_once_with_the_first_file(tmp_path, noise, capsys):
    for name in ("first.wav", "second.wav"):
        audio.load(written(tmp_path / name, np.stack([noise, noise], 1), 8000))
    audio.length(written(tmp_path / "third.wav", noise, 44_100))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "first.wav" in said[0] and "8000 Hz" in said[0] and "resampled to 16000 Hz" in said[0]
    assert "first.wav" in said[1] and "2 channels" in said[1] and "averaged" in said[1]


def test_16_khz_mono_says_nothing(tmp_path, noise, capsys):
    audio.load(written(tmp_path / "a.wav", noise))
    assert capsys.readouterr() == ("", "")


def test_channels_are_averaged(tmp_path, noise):
    stereo = np.stack([noise, 3 * noise], 1)
    waveform = audio.load(written(tmp_path / "a.wav", stereo, subtype="FLOAT"))
    assert np.allclose(waveform.numpy(), 2 * noise, atol=1e-7)


@pytest.mark.parametrize("rate, extension", [(16_000, "wav"), (44_100, "flac"), (44_100, "mp3")])
def test_channels_that_cancel_each_other_give_the_first(tmp_path, noise, capsys, rate, extension):
    """One is the inverse of the other, as a wrongly wired microphone leaves them: their mean is silence."""
    first = written(tmp_path / f"mono.{extension}", noise, rate)
    path = written(tmp_path / f"a.{extension}", np.stack([noise, -noise], 1), rate)
    waveform, alone = audio.load(path), audio.load(first)
    assert len(waveform) == audio.length(path)
    if extension == "mp3":
        assert np.corrcoef(waveform, alone)[0, 1] > 0.9
    else:
        assert (waveform - alone).abs().max() < 2e-4
    assert torch.equal(audio.load(path, 1000, 500), waveform[1000:1500])    # a crop is the same piece of the whole
    notes = capsys.readouterr().err
    assert notes.count("cancel each other") == 1 and "the first is taken" in notes and path.name in notes


def test_channels_that_differ_are_averaged_still(tmp_path, noise):
    other = np.random.default_rng(9).normal(scale=0.1, size=len(noise)).astype(np.float32)
    for second in (other, np.zeros_like(noise), -0.9 * noise, 0.5 * noise):
        path = written(tmp_path / "a.wav", np.stack([noise, second], 1), subtype="FLOAT")
        assert np.allclose(audio.load(path).numpy(), (noise + second) / 2, atol=1e-7)


def test_a_long_file_of_several_blocks_is_whole(tmp_path, noise, monkeypatch):
    monkeypatch.setattr(audio, "BLOCK", 1001)
    stereo = np.stack([noise, noise], 1)
    assert np.array_equal(audio.load(written(tmp_path / "a.wav", stereo, subtype="FLOAT")).numpy(), noise)


def test_missing_and_folder(tmp_path):
    message(tmp_path / "nothing.wav", "no such file")
    message(tmp_path / "nothing.wav", "no such file", of=audio.length)
    message(tmp_path, "a folder")
    message(Path("/dev/zero"), "no such file")


def test_a_name_that_is_no_text(tmp_path, noise):
    """A file name with a byte that is no UTF-8 is read like any other."""
    written(tmp_path / "a.wav", noise)
    odd = tmp_path / "odd\udcff.wav"
    try:
        (tmp_path / "a.wav").rename(odd)
    except OSError:
        pytest.skip("this file system takes no such name")
    assert audio.length(odd) == 16_000


def test_empty_file(tmp_path):
    (tmp_path / "a.wav").touch()
    message(tmp_path / "a.wav", "empty", "0 bytes")


def test_not_a_sound_file(tmp_path):
    (tmp_path / "a.wav").write_text("id path label\n" * 200)
    message(tmp_path / "a.wav", "not a sound file")
    (tmp_path / "a.raw").write_bytes(bytes(8000))
    message(tmp_path / "a.raw", "without a header")


@pytest.mark.parametrize("num_samples, rate", [(1, 16_000), (399, 16_000), (199, 8000)])
def test_too_short(tmp_path, noise, num_samples, rate):
    path = written(tmp_path / "a.wav", noise[:num_samples], rate)
    for of in (audio.load, audio.length):
        message(path, "must be >= 400", "25 ms", of=of)
    assert len(audio.load(written(tmp_path / "b.wav", noise[:400]))) == 400


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path, noise, value):
    noise[[5, 9]] = value
    message(written(tmp_path / "a.wav", noise, subtype="FLOAT"), "2 of 16000", "NaN or infinite")


@pytest.mark.parametrize("samples", [np.zeros(8000), np.full(8000, 0.25), np.stack([np.ones(8000), -np.ones(8000)], 1)])
def test_silence(tmp_path, samples):
    message(written(tmp_path / "a.wav", samples, subtype="FLOAT"), "all samples are equal", "nothing to hear")


def test_a_silent_crop_is_no_error_but_a_crop_outside_is(tmp_path, noise):
    noise[:8000] = 0
    path = written(tmp_path / "a.wav", noise)
    assert not audio.load(path, 0, 8000).any()
    for start, num_samples in ((-1, 400), (0, 16_001), (15_999, 2), (16_000, None), (0, 0), (5, -5)):
        message(path, "the file has 16000", of=lambda path: audio.load(path, start, num_samples))


@pytest.mark.parametrize("rate", [1, 3999, 1_000_001, 2 ** 31 - 1])
def test_a_rate_that_no_speech_has(tmp_path, noise, rate):
    path = written(tmp_path / "a.wav", noise)
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", rate)
    path.write_bytes(content)
    message(path, f"{rate} Hz", "4000 to 1000000", of=audio.length)


@pytest.mark.parametrize("claim", [32_002, 1_000_000, 0x7FFF0000, 0xFFF00000])
def test_a_wav_header_that_claims_too_much(tmp_path, noise, claim):
    path = written(tmp_path / "a.wav", noise)
    content = bytearray(path.read_bytes())
    assert content[36:40] == b"data"
    content[40:44] = struct.pack("<I", claim)
    path.write_bytes(content)
    for of in (audio.load, audio.length):
        message(path, str(claim), "32000", of=of)


def load_with_little_memory(paths: list[Path], refusals: Path) -> None:
    """Load files in less than 100 MB more than now; the reasons why they were refused go to a file."""
    before, reasons = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for path in paths:
        try:
            audio.load(path)
        except ValueError as error:
            reasons.append(str(error))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000        # KiB
    refusals.write_text("\n".join(reasons))


def test_a_flac_header_that_claims_too_much_allocates_nothing(tmp_path, noise):
    """36 bits of STREAMINFO are the number of samples; nothing of that size may be allocated."""
    path = written(tmp_path / "a.flac", noise)
    content, paths = bytearray(path.read_bytes()), []
    for claim in (16_001, 40_000_000, 2 ** 36 - 1):
        content[21] = content[21] & 0xF0 | claim >> 32
        content[22:26] = struct.pack(">I", claim & 0xFFFFFFFF)
        paths.append(tmp_path / f"{claim}.flac")
        paths[-1].write_bytes(content)
    assert faults.run(load_with_little_memory, paths, tmp_path / "refusals") == 0
    assert [line.split(":")[0] for line in (tmp_path / "refusals").read_text().splitlines()] == list(map(str, paths))


@pytest.mark.parametrize("extension, subtype", [("flac", "PCM_16"), ("ogg", "VORBIS"), ("ogg", "OPUS")])
def test_two_minutes_of_silence_and_a_click_are_not_taken_for_a_false_claim(tmp_path, extension, subtype):
    samples = np.zeros(120 * 16_000, np.float32)
    samples[-8000:-7990] = 0.5
    path = written(tmp_path / f"a.{extension}", samples, subtype=subtype)
    assert audio.length(path) == len(audio.load(path)) >= len(samples)


def test_mutated_headers_give_a_waveform_or_a_value_error(tmp_path, noise):
    """400 files with up to 4 random bytes changed in the first 60."""
    generator, path = np.random.default_rng(1), tmp_path / "a.bin"
    for extension, subtype in (("wav", "PCM_16"), ("flac", "PCM_16")):
        buffer = io.BytesIO()
        soundfile.write(buffer, noise[:2000], 16_000, format=extension, subtype=subtype)
        for _ in range(200):
            content = bytearray(buffer.getvalue())
            for place in generator.integers(0, 60, generator.integers(1, 5)):
                content[place] = generator.integers(0, 256)
            path.write_bytes(content)
            try:
                assert len(audio.load(path)) == audio.length(path)
            except ValueError as error:
                assert str(path) in str(error)


def test_without_torchaudio_the_pair_to_install_is_named(tmp_path, noise, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio.functional", None)
    message(written(tmp_path / "a.wav", noise, 8000), "8000 Hz", "torch==2.11.0 torchaudio==2.11.0")
    assert len(audio.load(written(tmp_path / "b.wav", noise))) == 16_000


def test_normalise_is_hugging_faces_formula(noise):
    """Brute force in numpy float64; a constant waveform gives zeros, not NaN."""
    noise = noise * 3 + 0.5
    expected = (noise - noise.astype(np.float64).mean()) / np.sqrt(noise.astype(np.float64).var() + 1e-7)
    normalised = audio.preprocess(torch.from_numpy(noise), True)
    assert normalised.dtype == torch.float32
    assert np.abs(normalised.numpy() - expected).max() < 1e-6
    assert not audio.preprocess(torch.full((400,), 0.5), True).any()


@pytest.mark.parametrize("block", [1, 7, 999, 1 << 22])
def test_normalise_in_blocks_is_normalise_at_once(noise, block, monkeypatch):
    """Whatever the size of the blocks; in one block to the last bit, and for all that one block holds it is."""
    waveform = torch.from_numpy(noise[:2000] * 3 + 5)
    variance, mean = torch.var_mean(waveform.double(), correction=0)
    expected = (waveform - mean) / torch.sqrt(variance + 1e-7)
    monkeypatch.setattr(audio, "BLOCK", block)
    found = audio.preprocess(waveform, True)
    assert torch.equal(found, expected) if block > 2000 else (found - expected).abs().max() < 1e-6
    assert waveform.mean() > 4                      # the caller's own is as it was


def test_normalise_agrees_with_transformers(noise):
    transformers = pytest.importorskip("transformers")
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    expected = extractor(noise, sampling_rate=16_000, return_tensors="pt").input_values[0]
    assert (audio.preprocess(torch.from_numpy(noise), True) - expected).abs().max() < 1e-5


def test_preprocess_normalises_only_when_asked(noise):
    waveform = torch.from_numpy(noise * 3 + 5)
    assert torch.equal(audio.preprocess(waveform, False), waveform)
    assert audio.preprocess(waveform, True).mean().abs() < 1e-5


def test_real_speech():
    path = DATA / "hubert_fixture" / "6313-76958-0021.flac"
    if not path.exists():
        pytest.skip(f"no sample data in {path}")
    waveform = audio.load(path)
    assert audio.length(path) == len(waveform)
    assert 0.01 < waveform.abs().max() <= 1
