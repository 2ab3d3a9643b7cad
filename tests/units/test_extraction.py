"""Extraction: what is kept of every utterance is what its sound alone gives, MFCC, states or conv features."""
import dataclasses

import numpy as np
import pytest
import soundfile
import torch

from framealign.sound import audio
from framealign.sound.frames import num_frames
from framealign.sound.mfcc import mfcc
from framealign.hubert import fast, long_sound
from framealign.hubert.model import Hubert
from framealign.units.extraction import frontend_store, layer_means, mfcc_store, state_store


@pytest.fixture
def hubert(micro):
    torch.manual_seed(1)
    return Hubert(micro).eval()


def test_kept_states_are_those_of_each_utterance_alone(hubert, tones, tmp_path, cpu):
    """Every layer, rounded to float16."""
    for layer in range(3):
        store = state_store(hubert, layer, tones, tmp_path / f"{layer}", cpu)
        for u in range(0, len(tones), 5):
            waveform = audio.preprocess(audio.load(tones[u].path), True)
            with torch.inference_mode():
                alone = hubert.states(waveform[None], layer=layer)[0]
            assert store.read(u).shape == (num_frames(tones[u].num_samples), 16)
            # kept ones were computed in groups: equal up to rounding, which may round to the next float16
            torch.testing.assert_close(store.read(u), alone, rtol=2 ** -10, atol=1e-5)
    with pytest.raises(ValueError, match=r"layer must be in \[0, 2\], got 3"):
        state_store(hubert, 3, tones, tmp_path / "3", cpu)


def test_kept_means_are_those_of_every_layer_of_each_utterance_alone(micro, tones, tmp_path, cpu):
    """One row an utterance, layers 0 to L side by side; of pre-norm blocks without the final norm."""
    for name, changes in (("post", {}), ("pre", {"do_stable_layer_norm": True})):
        hubert = Hubert(dataclasses.replace(micro, **changes)).eval()
        store = layer_means(hubert, tones, tmp_path / name, cpu)
        for u in range(0, len(tones), 5):
            waveform = audio.preprocess(audio.load(tones[u].path), True)
            with torch.inference_mode():
                alone = torch.stack([states[0].mean(0) for states in hubert.all_states(waveform[None])])
            torch.testing.assert_close(store.read(u), alone.flatten()[None], rtol=1e-4, atol=1e-5)


def test_states_in_bfloat16_are_near_and_not_taken_for_others(hubert, tones, tmp_path, cpu):
    """Within 5 % (seen: 2.2 %) in a model of width 16, whose sums are short; base's 2 % is test_packed.py's."""
    exact = state_store(hubert, 1, tones, tmp_path, cpu)
    expected = torch.cat([exact.read(u) for u in range(len(tones))])
    rounded = state_store(hubert, 1, tones, tmp_path, cpu, "bfloat16")
    found = torch.cat([rounded.read(u) for u in range(len(tones))])
    assert 0 < (found - expected).norm() <= 0.05 * expected.norm()
    with pytest.raises(ValueError, match="--precision must be auto, float32 or bfloat16, got half"):
        state_store(hubert, 1, tones, tmp_path, cpu, "half")


def test_normalisation_is_the_models_business(micro, tones, tmp_path, cpu):
    torch.manual_seed(1)
    raw = Hubert(dataclasses.replace(micro, feat_extract_norm="layer"), do_normalize=False).eval()
    waveform = audio.load(tones[0].path)
    with torch.inference_mode():
        as_it_is, normalised = (raw.conv_features(x[None])[0] for x in (waveform, audio.preprocess(waveform, True)))
    assert (as_it_is - normalised).abs().max() > 0.01
    torch.testing.assert_close(frontend_store(raw, tones[:2], tmp_path, cpu).read(0), as_it_is, rtol=2 ** -10,
                               atol=1e-5)


def test_kept_frames_are_used_again_until_model_or_corpus_change(hubert, tones, tmp_path, cpu, monkeypatch):
    computed = []
    states = fast.states
    monkeypatch.setattr(fast, "states", lambda *arguments: computed.append(1) or states(*arguments))
    state_store(hubert, 1, tones, tmp_path, cpu)
    times = len(computed)
    state_store(hubert, 1, tones, tmp_path, cpu)
    assert len(computed) == times > 0
    for change in (lambda: hubert.encoder.layers[0].attention.q_proj.bias.data.add_(1),
                   lambda: setattr(hubert, "do_normalize", False)):
        change()
        before = len(computed)
        state_store(hubert, 1, tones, tmp_path, cpu)
        assert len(computed) > before
    before = len(computed)
    state_store(hubert, 1, tones[:-1], tmp_path, cpu)
    state_store(hubert, 2, tones[:-1], tmp_path, cpu)
    assert len(computed) > before + 1


def test_kept_mfcc_are_those_of_the_sound_as_it_is(tones, tmp_path):
    store = mfcc_store(tones, tmp_path)
    for u in (0, 11, 23):
        alone = mfcc(audio.load(tones[u].path))
        assert store.read(u).shape == (num_frames(tones[u].num_samples), 39)
        assert torch.equal(store.read(u), alone.half().float())


def test_more_than_a_minute_is_kept_window_by_window(hubert, tones, tmp_path, cpu):
    """Conv features are the whole sound's; states are those of `windows`, beside short utterances that are whole."""
    path = tmp_path / "long.wav"
    noise = np.random.default_rng(0).standard_normal(977_000) * np.linspace(0.01, 0.2, 977_000)
    soundfile.write(path, noise, 16_000)
    utterances = [tones[0], dataclasses.replace(tones[1], id="long", path=path, num_samples=977_000), tones[2]]
    waveform = audio.preprocess(audio.load(path), hubert.do_normalize)
    frontend = frontend_store(hubert, utterances, tmp_path / "frontend", cpu)
    states = state_store(hubert, 2, utterances, tmp_path / "states", cpu)
    with torch.inference_mode():
        whole = hubert.conv_features(waveform[None])[0]
        pieces = torch.cat(list(long_sound.states(hubert, waveform, 2, cpu)))
        short = hubert.states(audio.preprocess(audio.load(tones[2].path), True)[None], layer=2)[0]
    torch.testing.assert_close(frontend.read(1), whole, rtol=1e-3, atol=1e-3)   # float16
    torch.testing.assert_close(states.read(1), pieces.half().float(), rtol=0, atol=2e-3)
    torch.testing.assert_close(states.read(2), short.half().float(), rtol=0, atol=2e-3)
    means = layer_means(hubert, utterances, tmp_path / "means", cpu)
    torch.testing.assert_close(means.read(1)[0, 32:], pieces.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(means.read(2)[0, 32:], short.mean(0), rtol=1e-4, atol=1e-4)
    assert torch.equal(torch.cat(list(states.pieces([1, 2], 700))), torch.cat([states.read(1), states.read(2)]))
    assert max(map(len, states.pieces([0, 1, 2], 700))) == 700
