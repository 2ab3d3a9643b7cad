"""A trained recogniser on new sound: files and waveforms, one or many, over time; and what is no speech."""
import dataclasses
import json
from pathlib import Path

import no_speech
import numpy as np
import pytest
import soundfile
import torch

from framealign.sound import audio, speech
from framealign.hubert import long_sound
from framealign.corpus.cropping import Waveforms
from framealign.corpus.protocols import Split
from framealign.corpus.synthetic_utterance import synthesise
from framealign.training import finetune
from framealign.training.training_config import TrainingRun
from framealign.emotion.calibration import Calibration
from framealign.emotion.emotion_model import EmotionModel
from framealign.sound.frames import num_frames
from framealign.hubert.model import Hubert
from framealign.emotion.recogniser import Recogniser, Result, centred

LABELS = ["neutral", "happy", "angry", "sad"]
KEPT = Calibration(utterances=0.6, frames=1.7, fitted_on="validation")


@pytest.fixture(params=("attention", "mean", "frames", "layers"))
def recogniser(request, micro) -> Recogniser:
    """Random weights, large enough that sounds differ, and two temperatures."""
    return made(micro, request.param)


def made(config, pooling: str = "attention", do_normalize: bool = True) -> Recogniser:
    torch.manual_seed(1)
    windows = {"pooling": "attention", "window_seconds": 0.5} if pooling == "windows" else {"pooling": pooling}
    model = EmotionModel(Hubert(config, do_normalize), LABELS, **windows)
    of_head = [x for name, x in model.named_parameters() if not name.startswith("hubert.")]
    for parameter in [*model.hubert.encoder.parameters(), *of_head]:
        torch.nn.init.normal_(parameter, std=0.4)
    model.calibration = KEPT
    return Recogniser(model)


def numbers(result) -> np.ndarray:
    return np.concatenate([list(result.probabilities.values()), result.posterior.ravel(), result.attention])


def test_files_and_waveforms_give_the_same(recogniser, tones):
    path = tones[5].path
    waveform = audio.load(path)
    result = recogniser(path)
    for sound in (str(path), waveform, waveform.numpy(), waveform.double(), waveform.numpy().astype(np.float64)):
        again = recogniser(sound)
        assert again.emotion == result.emotion
        np.testing.assert_array_equal(numbers(again), numbers(result))


def test_a_result_is_distributions_with_one_row_a_frame(recogniser, tones):
    for utterance in tones[::4]:
        result, T = recogniser(utterance.path), num_frames(utterance.num_samples)
        assert list(result.probabilities) == LABELS == recogniser.labels
        assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert result.emotion == max(result.probabilities, key=result.probabilities.get)
        assert result.posterior.shape == (T, 4) and result.attention.shape == (T,)
        np.testing.assert_allclose(result.posterior.sum(1), 1, atol=1e-5)
        assert result.attention.sum() == pytest.approx(1, abs=1e-5) and (result.attention > 0).all()
        assert result.frames_trained == (recogniser.model.frames is not None)


def test_a_result_is_the_models_own_states_read_twice(recogniser, tones):
    """Attention and classifier on the states of the last layer, in plain words and float64.

    Logits are over their temperatures, but the attention is that of the frame classifier as it was trained.
    """
    model, waveform = recogniser.model, audio.load(tones[3].path).double()
    waveform = ((waveform - waveform.mean()) / torch.sqrt(waveform.var(correction=0) + 1e-7)).float()
    with torch.inference_mode():
        states = model.hubert.states(waveform[None])[0].double()                # (T, D)
        if model.projector is not None:
            of_layers = torch.stack(model.hubert.all_states(waveform[None]))[:, 0].double()     # (L + 1, T, D)
            shares = model.layer_weights.double().exp() / model.layer_weights.double().exp().sum()
            states = (shares[:, None, None] * of_layers).sum(0) @ model.projector.weight.double().T
            states += model.projector.bias.double()                             # (T, P)
        logits = states @ model.classifier.weight.double().T + model.classifier.bias.double()     # (T, classes)
        weight = getattr(model.pooling, "weight", torch.zeros(states.shape[1])).double()
        attention, of_frames = torch.tanh(states @ weight).softmax(0), logits
        if model.frames is not None:
            of_frames = states @ model.frames.weight.double().T + model.frames.bias.double()
            attention = 1.1 - of_frames.softmax(1)[:, 0]
            attention = attention / attention.sum()
    result = recogniser(tones[3].path)
    np.testing.assert_allclose(result.attention, attention, rtol=1e-4)
    np.testing.assert_allclose(result.posterior, (of_frames / 1.7).softmax(1), atol=1e-5)
    pooled = (attention @ logits) / 0.6
    np.testing.assert_allclose(list(result.probabilities.values()), pooled.softmax(0), atol=1e-5)
    recogniser.model.calibration = Calibration()
    assert recogniser(tones[3].path).emotion == result.emotion
    np.testing.assert_array_equal(recogniser(tones[3].path).attention, result.attention)


@pytest.mark.parametrize("norm", ("group", "layer"))
def test_a_batch_gives_each_sound_what_it_gets_alone(micro, tones, norm):
    recogniser = made(dataclasses.replace(micro, feat_extract_norm=norm))
    noise = torch.randn(400, generator=torch.Generator().manual_seed(0))        # a single frame
    sounds = [tones[4].path, noise, str(tones[0].path), audio.load(tones[9].path), tones[17].path]
    for result, sound in zip(recogniser.batch(sounds), sounds, strict=True):
        alone = recogniser(sound)
        assert result.emotion == alone.emotion and len(result.attention) == len(alone.attention)
        np.testing.assert_allclose(numbers(result), numbers(alone), rtol=0, atol=2e-5)
    assert recogniser.batch([]) == []


def test_nothing_is_drawn(micro, tones):
    """Dropout, layer drop and masking are off, in whatever mode the model came."""
    model = made(micro).model.train()
    recogniser = Recogniser(model)
    np.testing.assert_array_equal(*(numbers(recogniser(tones[0].path)) for _ in range(2)))


def test_what_is_recognised_is_what_was_tested(recogniser, tones):
    data = finetune.FoldData(tones, Split([], [], [], "none"), LABELS, Waveforms(tones, True))
    run = TrainingRun(Path(), torch.device("cpu"), "float32")
    tested = finetune.predict(recogniser.model, data, [2, 8], 0.0, run)
    for u, p in zip((2, 8), tested):
        np.testing.assert_allclose(list(recogniser(tones[u].path).probabilities.values()), p, atol=1e-5)


def test_normalisation_is_the_directorys_business(micro, tones, tmp_path):
    """Louder and off centre is the same where the directory says to normalise, and is not where it says not to."""
    waveform = 0.2 * audio.load(tones[6].path)
    for do_normalize in (True, False):
        config = dataclasses.replace(micro, feat_extract_norm="layer")
        made(config, do_normalize=do_normalize).model.save_pretrained(tmp_path)
        recogniser = Recogniser.from_pretrained(tmp_path)
        one, other = (numbers(recogniser(x)) for x in (waveform, 4 * waveform + 0.5))
        assert np.allclose(one, other, atol=1e-4) == do_normalize


def test_a_directory_gives_the_recogniser_that_was_saved(recogniser, tones, tmp_path):
    recogniser.model.save_pretrained(tmp_path)
    found = Recogniser.from_pretrained(str(tmp_path))
    np.testing.assert_array_equal(numbers(found(tones[1].path)), numbers(recogniser(tones[1].path)))


def test_stereo_at_another_rate_is_heard_as_mono_at_16_khz(recogniser, tmp_path):
    pytest.importorskip("torchaudio")
    time = np.arange(22_050) / 44_100
    left, right = np.sin(2 * np.pi * 300 * time), np.sin(2 * np.pi * 500 * time)
    soundfile.write(tmp_path / "stereo.wav", 0.3 * np.stack([left, right], 1), 44_100, subtype="FLOAT")
    soundfile.write(tmp_path / "mono.wav", 0.15 * (left + right), 44_100, subtype="FLOAT")
    stereo, mono = recogniser(tmp_path / "stereo.wav"), recogniser(tmp_path / "mono.wav")
    assert len(stereo.attention) == num_frames(8_000)
    np.testing.assert_allclose(numbers(stereo), numbers(mono), atol=1e-4)


@pytest.mark.parametrize("waveform, message", [
    (torch.zeros(399), r"N >= 400 samples at 16 kHz, got \(399,\)"), (torch.randn(1, 800), r"got \(1, 800\)"),
    (torch.tensor(0.5), r"got \(\)"), (torch.zeros(0), r"got \(0,\)"),
    (torch.full((800,), float("nan")), "holds NaN or infinite"),
    (torch.tensor([float("inf"), *[0.0] * 799]), "holds NaN or infinite"),
    (torch.full((800,), 0.1), "all samples of a waveform are equal"),
    (np.arange(800, dtype=np.int16), "must hold floats in -1..1, holds torch.int16")])
def test_waveforms_that_are_no_speech(micro, waveform, message):
    recogniser = made(micro)
    with pytest.raises(ValueError, match=message):
        recogniser(waveform)
    with pytest.raises(ValueError, match=message):
        recogniser.batch([torch.randn(800), waveform])


def test_files_that_are_no_speech(micro, tmp_path):
    recogniser = made(micro)
    draw = np.random.default_rng(0)
    (tmp_path / "text.wav").write_text("no sound at all")
    (tmp_path / "empty.wav").write_bytes(b"")
    soundfile.write(tmp_path / "short.wav", draw.standard_normal(399), 16_000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(8_000), 16_000)
    for name in ("nowhere", "text", "empty", "short", "silent"):
        with pytest.raises(ValueError, match=f"{name}.wav: [^\n]*$"):
            recogniser(tmp_path / f"{name}.wav")


def test_directories_and_devices_that_are_not_there(micro, tmp_path):
    made(micro).model.hubert.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds an encoder but no recogniser"):
        Recogniser.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="nowhere: no such directory"):
        Recogniser.from_pretrained(tmp_path / "nowhere")
    made(micro).model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="--device must be auto, cpu, cuda or mps, got gpu"):
        Recogniser.from_pretrained(tmp_path, device="gpu")


@pytest.mark.parametrize("batch_seconds", [None, 0.0, 1.0, 60.0])
def test_listening_keeps_the_order_and_goes_on_after_an_error(micro, tones, tmp_path, batch_seconds):
    """Batched by length on a GPU, one by one on a CPU: every sound has what it has alone, in its place."""
    recogniser = made(micro)
    sounds = [u.path for u in tones]
    sounds[5:5] = [tmp_path / "gone.wav"]
    sounds += [torch.zeros(100)]
    found = list(recogniser.recognise_each(iter(sounds), batch_seconds))
    assert [sound for sound, _ in found[:-1]] == sounds[:-1] and len(found) == len(sounds)
    for index, (sound, result) in enumerate(found):
        if index in (5, len(sounds) - 1):
            assert isinstance(result, ValueError)
            continue
        alone = recogniser(sound)
        assert result.emotion == alone.emotion and result.seconds == alone.seconds
        np.testing.assert_allclose(numbers(result), numbers(alone), rtol=0, atol=2e-5 if batch_seconds else 0)
    assert list(recogniser.recognise_each([])) == []


def test_listening_reads_no_further_than_it_must(micro, tones):
    """A CPU's first result comes after the first sound, however many follow."""
    taken = []
    found = made(micro).recognise_each(taken.append(u) or u.path for u in tones)
    next(found)
    assert len(taken) == 1


def test_windows_give_what_the_whole_gives_where_a_window_holds_it(recogniser, tones, monkeypatch):
    """The streamed formula on one window is the model's own; seconds are the sound's."""
    whole = recogniser(tones[2].path)
    waveform = recogniser._preprocessed(audio.load(tones[2].path))
    with torch.inference_mode():
        probabilities, attention, posterior = recogniser._by_windows(waveform)
    np.testing.assert_allclose(attention, whole.attention, rtol=1e-5)
    np.testing.assert_allclose(posterior, whole.posterior, atol=1e-6)
    np.testing.assert_allclose(probabilities, list(whole.probabilities.values()), atol=1e-6)
    assert whole.seconds == tones[2].num_samples / 16_000 and whole.units is None


@pytest.mark.parametrize("pooling", ("attention", "layers"))
def test_more_than_a_minute_goes_through_windows(micro, monkeypatch, pooling):
    """61.5 s: each frame once, distributions, and the answer is the attention-weighted mean of the frames' logits."""
    recogniser, asked = made(micro, pooling), []
    draw = torch.Generator().manual_seed(3)
    waveform = torch.randn(984_123, generator=draw) * torch.linspace(0.1, 1, 984_123)
    layers, features = long_sound.layers, long_sound.features
    monkeypatch.setattr(long_sound, "features", lambda *args: asked.append(1) or features(*args))
    result, T = recogniser(waveform), num_frames(984_123)
    assert asked and result.posterior.shape == (T, 4) and result.attention.shape == (T,)
    np.testing.assert_allclose(result.posterior.sum(1), 1, atol=1e-5)
    assert result.attention.sum() == pytest.approx(1, abs=1e-4)
    with torch.inference_mode():
        windows = [(used, list(of_window)) for used, of_window in
                   layers(recogniser.model.hubert, recogniser._preprocessed(waveform), "cpu")]
        assert len(windows) > 1
        found = torch.cat([of_window[-1][0, used] for used, of_window in windows])
        if pooling == "layers":
            shares = recogniser.model.layer_weights.softmax(0)
            found = torch.cat([torch.einsum("l,ltd->td", shares, torch.cat(of_window)[:, used])
                               for used, of_window in windows])
            found = found @ recogniser.model.projector.weight.T + recogniser.model.projector.bias
        logits = recogniser.model.classifier(found).double().numpy()
    pooled = np.exp(result.attention.astype(np.float64) @ logits / 0.6)
    np.testing.assert_allclose(list(result.probabilities.values()), pooled / pooled.sum(), atol=1e-5)


@pytest.mark.parametrize("seconds, samples", ((0.5, 400), (0.5, 9_000), (0.5, 61_234), (0.04, 20_000), (3.0, 61_234)))
def test_over_time_it_says_what_it_hears_in_windows(micro, tmp_path, seconds, samples):
    """Windows of conv features recognised alone, one every half of their length and one with the end; numpy's line
    between their middles. Alone, in a padded batch, out of a directory: the same. The whole has what it had.
    """
    recogniser = made(micro, "windows")
    recogniser.model.window_seconds = seconds
    recogniser.model.save_pretrained(tmp_path)
    again = Recogniser.from_pretrained(tmp_path)
    assert again.model.window_seconds == seconds and again.model.frames is None
    waveform = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(samples))
    result = recogniser(waveform)
    assert result.window_seconds == seconds and not result.frames_trained

    model, half = recogniser.model, max(1, round(25 * seconds))                 # frames
    with torch.inference_mode():
        features = model.hubert.conv_features(recogniser._preprocessed(waveform)[None])     # (1, T, C)
        T = features.shape[1]
        starts = sorted({*range(0, max(0, T - 2 * half), half), max(0, T - 2 * half)})
        logits = np.concatenate([model(part, torch.tensor([part.shape[1]])).numpy() for part in
                                 (features[:, start:start + 2 * half] for start in starts)])
    middles = np.array(starts) + half
    of_frames = np.stack([np.interp(np.arange(T), middles, of_class) for of_class in logits.T], 1) / 1.7
    expected = np.exp(of_frames - of_frames.max(1, keepdims=True))
    np.testing.assert_allclose(result.posterior, expected / expected.sum(1, keepdims=True), atol=2e-5)
    for other in (again(waveform), again.batch([waveform, torch.randn(70_000)])[0]):
        np.testing.assert_allclose(other.posterior, result.posterior, atol=2e-5)
    model.window_seconds = 0.0
    of_single = recogniser(waveform)
    np.testing.assert_array_equal(of_single.attention, result.attention)
    assert of_single.probabilities == result.probabilities


def test_windows_within_more_than_a_minute(micro):
    """Of every frame what `window_logits` says of the whole cut that it is used of."""
    recogniser = made(micro, "windows")
    waveform = torch.randn(970_000, generator=torch.Generator().manual_seed(3))
    result = recogniser(waveform)
    features = list(long_sound.features(recogniser.model.hubert, recogniser._preprocessed(waveform),
                                        torch.device("cpu")))
    assert len(features) == 2
    with torch.inference_mode():
        expected = torch.cat([recogniser.model.window_logits(x, torch.tensor([x.shape[1]]))[0, used]
                              for used, x in features])
    np.testing.assert_allclose(result.posterior, (expected / 1.7).softmax(1), atol=2e-5)


@pytest.mark.parametrize("seconds", (-1, 61, True, "1.6", None))
def test_windows_that_are_none_are_refused(micro, tmp_path, seconds):
    made(micro).model.save_pretrained(tmp_path)
    assert "window_seconds" not in json.loads((tmp_path / "config.json").read_text())
    content = json.loads((tmp_path / "config.json").read_text()) | {"window_seconds": seconds}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="window_seconds in config.json must be 0 to 60 s, is"):
        Recogniser.from_pretrained(tmp_path)


def test_an_answer_below_the_wanted_confidence_is_none(recogniser, tones):
    """With the reason, and nothing else changed; at that confidence it is given."""
    for utterance in tones[::6]:
        sure = recogniser(utterance.path)
        confidence = max(sure.probabilities.values())
        for reject, rejected in ((confidence, False), (np.nextafter(confidence, 2), True), (1.0, True)):
            result = Recogniser(recogniser.model, reject=float(reject))(utterance.path)
            assert result.emotion == ("none" if rejected else sure.emotion)
            assert result.reason.startswith(f"not sure: {sure.emotion} has 0.") == rejected
            np.testing.assert_array_equal(numbers(result), numbers(sure))
    for reject in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="must be from 0 to 1, got"):
            Recogniser(recogniser.model, reject=reject)


def test_the_gate_changes_no_number_and_hears_where_there_is_speech(recogniser, tones):
    """Sound without speech is none, with the reason; without the gate nothing is asked. Long sound alike."""
    gated = Recogniser(recogniser.model, gate=True)
    draw = np.random.default_rng(0)
    voice = synthesise(0, "Ses02M", "Ses02M_1", "sad", 2.0)[0].astype(np.float32)
    noise = no_speech.at_level(no_speech.noise(draw, 3.0, 1), -25)
    longer = np.concatenate([np.tile(voice, 31), np.tile(noise, 2)])
    assert len(longer) > 61 * 16_000
    for waveform, reason in ((voice, ""), (noise, "no speech: noise"), (np.concatenate([voice, noise]), ""),
                             (longer, ""), (tones[3].path, "no speech: music or tones")):
        before, after = recogniser(waveform), gated(waveform)
        np.testing.assert_array_equal(numbers(before), numbers(after))
        assert before.kinds is None and before.reason == "" and after.reason == reason
        assert after.emotion == ("none" if reason else before.emotion) and len(after.kinds) == len(after.attention)
        if isinstance(waveform, np.ndarray):
            assert (after.kinds == speech.kinds(torch.from_numpy(waveform))).all()
    assert [result.reason for result in gated.batch([voice, noise])] == ["", "no speech: noise"]


def result_of(*shares: float, kinds: np.ndarray | None = None) -> Result:
    names = ("neutral", "happy", "sad")
    silent = kinds is not None and (kinds != speech.SPEECH).all()
    return Result("none" if silent else names[int(np.argmax(shares))], dict(zip(names, shares)), np.ones((9, 3)) / 3,
                  np.ones(9) / 9, reason="no speech: noise" if silent else "", kinds=kinds)


def test_results_of_one_source_are_told_apart_by_what_they_do_not_share():
    """All sound sad; the least sad one no longer does. Silence counts for nothing and keeps its answer."""
    silent = result_of(0.1, 0.1, 0.8, kinds=np.full(9, 1 - speech.SPEECH))
    sounds = [result_of(0.1, 0.05, 0.85)] * 10 + [silent] + [result_of(0.2, 0.3, 0.5)] * 10
    found = centred(sounds)
    assert [result.emotion for result in found] == ["sad"] * 10 + ["none"] + ["happy"] * 10
    assert found[10] is silent and found == centred(sounds[:10] + sounds[11:])[:10] + [silent] + found[11:]
    for before, after in zip(sounds, found):
        assert after.posterior is before.posterior and sum(after.probabilities.values()) == pytest.approx(1)
    assert [result.emotion for result in centred(sounds, reject=0.99)] == ["none"] * 21
    assert centred(sounds, reject=0.99)[0].reason.startswith("not sure: sad has 0.")
    assert centred([]) == [] and centred([silent]) == [silent]
    other = dataclasses.replace(silent, probabilities={"neutral": 0.5, "angry": 0.5})
    with pytest.raises(ValueError, match="several classes cannot be centred together"):
        centred([silent, other])
