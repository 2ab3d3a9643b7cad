"""Streams: what the whole sound gives where all is seen, whatever the lengths of chunks, in a state of a fixed size."""
import dataclasses

import no_speech
import numpy as np
import pytest
import torch
from torch import nn

from framealign.sound import speech
from framealign.sound.audio import Statistics, preprocess
from framealign.sound.frames import num_frames, num_samples_of
from framealign.corpus.synthetic_utterance import synthesise
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.model import Hubert
from framealign.emotion.calibration import Calibration
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.recogniser import Recogniser
from framealign.emotion.streaming import StreamedFrame, Streaming

LABELS = ["neutral", "happy", "angry", "sad"]
ALL = Streaming(left_context=20, look_ahead=20, step=1, warm_up=0)              # more than any sound here has
NEAR = Streaming(left_context=0.3, look_ahead=0.2, step=0.1, warm_up=0.4)


def made(config: HubertConfig, pooling: str = "attention", do_normalize: bool = True, **of_recogniser) -> Recogniser:
    """Random weights, large enough that frames differ, norms too, and two temperatures."""
    torch.manual_seed(1)
    windows = {"pooling": "attention", "window_seconds": 0.4} if pooling == "windows" else {"pooling": pooling}
    model = EmotionModel(Hubert(config, do_normalize), LABELS, **windows)
    of_head = [x for name, x in model.named_parameters() if not name.startswith("hubert.")]
    for parameter in [*model.hubert.encoder.parameters(), *of_head]:
        nn.init.normal_(parameter, std=0.4)
    for layer in model.hubert.feature_extractor.conv_layers:
        if layer.norm != "none":
            nn.init.normal_(layer.layer_norm.weight, 1, 0.3)
            nn.init.normal_(layer.layer_norm.bias, 0, 0.3)
    model.calibration = Calibration(utterances=0.6, frames=1.7, fitted_on="validation")
    return Recogniser(model, **of_recogniser)


def sound(number: int, seed: int = 0) -> np.ndarray:
    """Noise whose loudness and offset change, so that statistics of the whole are not those of its beginning."""
    draw = np.random.default_rng(seed)
    noise = 0.1 * draw.standard_normal(number) * np.linspace(0.1, 2, number) + np.linspace(-0.05, 0.1, number)
    return noise.astype(np.float32)


def posterior(frames: list[StreamedFrame]) -> np.ndarray:
    return np.stack([frame.posterior for frame in frames])


@pytest.mark.parametrize("pooling", ("attention", "mean", "frames", "layers", "windows"))
@pytest.mark.parametrize("norm, do_normalize", [("group", False), ("group", True), ("layer", False), ("layer", True)])
def test_where_all_is_seen_a_stream_is_the_whole_sound(micro, pooling, norm, do_normalize):
    """Posterior, attention as weights over their sum, and after the last frame the emotion; with raw sums far off 0."""
    recogniser = made(dataclasses.replace(micro, feat_extract_norm=norm), pooling, do_normalize)
    for number in (400, 719, 30_123):
        waveform = sound(number)
        whole, frames = recogniser(waveform), list(recogniser.stream(np.array_split(waveform, 7), 16_000, ALL))
        assert len(frames) == num_frames(number)
        np.testing.assert_allclose(posterior(frames), whole.posterior, atol=2e-5)
        weights = np.array([frame.weight for frame in frames])
        np.testing.assert_allclose(weights / weights.sum(), whole.attention, atol=2e-5)
        np.testing.assert_allclose(list(frames[-1].probabilities.values()), list(whole.probabilities.values()),
                                   atol=2e-5)
        assert frames[-1].emotion == whole.emotion and list(frames[-1].probabilities) == LABELS


@pytest.mark.parametrize("norm", ("group", "layer"))
@pytest.mark.parametrize("rate", (16_000, 44_100))
def test_lengths_of_chunks_never_show(micro, norm, rate):
    pytest.importorskip("torchaudio")
    recogniser = made(dataclasses.replace(micro, feat_extract_norm=norm), gate=True)
    waveform, results = sound(2 * rate), []
    for sizes in ([len(waveform)], [80, 240], [1, 9_999, 0, 37]):
        edges = np.cumsum(np.resize(sizes, 3 * rate // 160 + 1))
        results.append(list(recogniser.stream(np.split(waveform, edges[edges < len(waveform)]), rate, NEAR)))
    for frames in results[1:]:
        assert len(frames) == len(results[0]) == num_frames(32_000)
        for one, other in zip(frames, results[0]):
            assert (one.posterior == other.posterior).all()
            assert dataclasses.replace(one, posterior=None) == dataclasses.replace(other, posterior=None)


@torch.inference_mode()
@pytest.mark.parametrize("do_normalize", (False, True))
def test_a_frame_is_that_of_its_window(micro, do_normalize):
    """In plain words: conv features of each step with the statistics of all that came by then; the window's states;
    logits summed with their weights.
    """
    recogniser = made(micro, do_normalize=do_normalize)                         # micro has a group norm
    hubert, waveform = recogniser.model.hubert, torch.from_numpy(sound(40_000))
    T, left, look_ahead, step, warm_up = num_frames(40_000), 15, 10, 5, 20      # NEAR, in frames
    features, wanted, first, stop = [], [], 0, warm_up
    while first < T:
        is_last = stop > T
        heard_so_far = waveform if is_last else waveform[:num_samples_of(stop)]
        normalised = heard_so_far.double()
        if do_normalize:
            normalised = (normalised - normalised.mean()) / torch.sqrt(normalised.var(correction=0) + 1e-7)
        features += hubert.conv_features(normalised.float()[None])[0, len(features):]
        last = T if is_last else stop - look_ahead
        start = max(0, first - left)
        *_, states = hubert.layers(torch.stack(features[start:])[None])
        wanted.append(states[0, first - start:last - start])
        first, stop = last, stop + step
    states = torch.cat(wanted)
    frames = list(recogniser.stream([waveform], 16_000, NEAR))
    logits = recogniser.model.classifier(states).double()
    np.testing.assert_allclose(posterior(frames), (logits / 1.7).softmax(1), atol=1e-4)
    weights = torch.tanh(states @ recogniser.model.pooling.weight).double().exp()
    np.testing.assert_allclose([frame.weight for frame in frames], weights, rtol=1e-3)
    for t in (0, 7, T - 1):
        pooled = (weights[:t + 1] @ logits[:t + 1]) / weights[:t + 1].sum() / 0.6
        np.testing.assert_allclose(list(frames[t].probabilities.values()), pooled.softmax(0), atol=1e-4)
        assert frames[t].emotion == LABELS[int(pooled.argmax())]


@torch.inference_mode()
@pytest.mark.parametrize("left", (0.1, 0.3, 2.0))
def test_windows_of_a_stream_are_those_within_what_is_heard(micro, left):
    """Of conv features that no statistics change: in every step what `window_logits` says of all that is held."""
    recogniser = made(dataclasses.replace(micro, feat_extract_norm="layer"), "windows", do_normalize=False)
    model, waveform = recogniser.model, torch.from_numpy(sound(60_000))
    features = model.hubert.conv_features(waveform[None])                       # (1, T, C)
    T, context, look_ahead, step, warm_up = features.shape[1], round(50 * left), 10, 5, 20          # frames
    expected, first, stop = [], 0, warm_up
    while first < T:
        last = T if stop > T else stop - look_ahead
        start = max(0, first - context)
        heard = features[:, start:min(stop, T)]
        expected.append(model.window_logits(heard, torch.tensor([heard.shape[1]]))[0, first - start:last - start])
        first, stop = last, stop + step
    frames = list(recogniser.stream([waveform], 16_000, dataclasses.replace(NEAR, left_context=left)))
    np.testing.assert_allclose(posterior(frames), (torch.cat(expected) / 1.7).softmax(1), atol=2e-5)


@pytest.mark.parametrize("config", (NEAR, Streaming(), Streaming(left_context=0, look_ahead=0, step=0.02, warm_up=0)))
def test_a_frame_comes_when_it_is_certain(micro, config):
    """At most step + look-ahead after its end, but none before the warm-up; its time is exact. No chunk is waited for
    that is not needed.
    """
    samples, waveform = [0], sound(16_000 * 3 + 41)

    def chunks():
        for start in range(0, len(waveform), 16):
            samples[0] = start + 16
            yield waveform[start:start + 16]

    count = 0
    for frame in made(micro).stream(chunks(), 16_000, config):
        assert frame.start == count * 320 / 16_000
        end = frame.start + 0.025
        by = max(config.warm_up, end + config.step + config.look_ahead) + 0.005                 # of 20 ms to 25 ms
        assert samples[0] / 16_000 <= by + 0.001
        count += 1
    assert count == num_frames(len(waveform))


@pytest.mark.parametrize("norm", ("group", "layer"))
def test_the_state_has_a_fixed_size(micro, norm):
    """All tensors and arrays that a stream holds, and what they are views of."""
    def size(thing) -> int:
        if isinstance(thing, torch.Tensor):
            return thing.untyped_storage().nbytes()
        if isinstance(thing, np.ndarray):
            return thing.nbytes if thing.base is None else thing.base.nbytes
        if isinstance(thing, (tuple, list)):
            return 100 + sum(map(size, thing))
        return 100 + sum(map(size, vars(thing).values())) if type(thing).__module__.startswith("framealign") else 0

    recogniser = made(dataclasses.replace(micro, feat_extract_norm=norm), gate=True)
    config = dataclasses.replace(NEAR, step=0.5)
    stream = recogniser.stream((sound(1_600, i) for i in range(10 ** 9)), 16_000, config)
    sizes, model = [], stream.model
    for index, _ in enumerate(stream):
        stream.model = None                         # is not state
        sizes.append(size(stream))
        stream.model = model
        if index == 800:
            break
    assert max(sizes[550:]) == max(sizes[300:550]) > min(sizes)


def test_only_the_end_may_be_shorter_than_a_frame(micro):
    recogniser = made(micro)
    for number in (0, 1, 399):
        stream = recogniser.stream([sound(number)], 16_000)
        assert list(stream) == [] and stream.seconds == number / 16_000
    assert len(list(recogniser.stream([sound(400)], 16_000))) == 1


def test_silence_first_is_no_error(micro):
    """Digital silence, as before a microphone opens: numbers all the same."""
    for norm in ("group", "layer"):
        recogniser = made(dataclasses.replace(micro, feat_extract_norm=norm))
        frames = list(recogniser.stream([np.zeros(20_000, np.float32), sound(20_000)], 16_000, NEAR))
        assert len(frames) == num_frames(40_000) and np.isfinite(posterior(frames)).all()


@pytest.mark.parametrize("chunks, message", [
    ([sound(9_000), np.full(5, np.nan)], r"the sample at 0\.562 s is NaN or infinite"),
    ([sound(9_000), np.zeros((9, 2))], r"the chunk at 0\.562 s: has 2 channels, those before it 1"),
    ([np.zeros(9, int)], "int64")])
def test_what_is_no_sound_ends_a_stream_with_one_line(micro, chunks, message):
    with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
        list(made(micro).stream(chunks, 16_000, NEAR))
    with pytest.raises(ValueError, match="0 Hz, must be 4000 to 1000000 Hz"):
        made(micro).stream([], 0)


@pytest.mark.parametrize("changes, message", [
    ({"left_context": -1}, "left_context must be 0 to 60 s, got -1"),
    ({"look_ahead": 61}, "look_ahead must be 0 to 60"),
    ({"step": 0}, "step must be more than 0"), ({"warm_up": float("nan")}, "warm_up must be 0 to 60 s, got nan"),
    ({"left_context": 59.5}, "at most 60 s together, are 60.5"), ({"left_context": 40, "warm_up": 30}, "are 70")])
def test_wrong_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        Streaming(**changes)


def test_the_gate_hears_for_speech_in_a_window(micro):
    """Speech, and noise after it: as of the whole sound but for the second at the border; no emotion before speech."""
    draw = np.random.default_rng(0)
    voice = synthesise(0, "Ses02M", "Ses02M_1", "sad", 3.0)[0].astype(np.float32)
    noise = no_speech.at_level(no_speech.noise(draw, 4.0, 1), -25).astype(np.float32)
    waveform = np.concatenate([noise, voice, noise])
    frames = list(made(micro, gate=True).stream([waveform], 16_000))
    kinds = np.array([frame.kind for frame in frames])
    whole = speech.kinds(torch.from_numpy(waveform))
    assert (kinds == whole).mean() > 0.85
    assert frames[100].emotion == "none" and frames[100].reason == "no speech: noise"
    assert frames[-1].emotion in LABELS and not frames[-1].reason
    ungated = list(made(micro).stream([waveform], 16_000))
    np.testing.assert_array_equal(posterior(frames), posterior(ungated))
    assert ungated[0].kind is None


def test_an_answer_below_the_wanted_confidence_is_none(micro):
    frames = list(made(micro, reject=1.0).stream([sound(8_000)], 16_000))
    assert frames[-1].emotion == "none" and frames[-1].reason.startswith("not sure: ")


def test_statistics_so_far_are_those_of_the_whole():
    """In any blocks, empty ones among them, with a mean that is far from 0."""
    waveform = torch.from_numpy(sound(30_000)) + 3
    statistics = Statistics()
    for block in waveform.split([1, 0, 12_345, 17_654]):
        statistics.add(block)
    exact = waveform.double().numpy()
    assert float(statistics.mean) == pytest.approx(exact.mean(), rel=1e-12)
    assert float(statistics.variance) == pytest.approx(exact.var(), rel=1e-10)
    torch.testing.assert_close(statistics.normalised(waveform), preprocess(waveform, True), rtol=0, atol=1e-6)
