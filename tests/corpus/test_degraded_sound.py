"""A corpus under worse conditions: what is drawn follows from the id and the seed, babble is of other speakers."""
from dataclasses import replace

import pytest
import torch

from framealign.sound import audio
from framealign.sound.degradation import BABBLE_VOICES
from framealign.corpus import degraded_sound


@pytest.mark.parametrize("degrade", ("white:10", "pink:0", "babble:5", "telephone", "mu-law", "reverb:0.5",
                                     "microphone:6"))
def test_a_draw_depends_on_the_utterance_and_the_seed_alone(tones, degrade):
    """In any order, beside any others: the same; of another seed another one, where something is drawn."""
    first = list(degraded_sound.sounds(tones[:4], tones, degrade, 0))
    assert [len(x) for x in first] == [u.num_samples for u in tones[:4]]
    again = list(degraded_sound.sounds(tones[3:1:-1], tones[::-1], degrade, 0))
    assert torch.equal(again[0], first[3]) and torch.equal(again[1], first[2])
    other, = degraded_sound.sounds(tones[:1], tones, degrade, 1)
    assert torch.equal(other, first[0]) == (degrade in ("telephone", "mu-law"))
    renamed, = degraded_sound.sounds([replace(tones[0], id="renamed")], tones, degrade, 0)
    assert torch.equal(renamed, first[0]) == (degrade in ("telephone", "mu-law"))
    assert not torch.equal(first[0], audio.load(tones[0].path))


def test_babble_is_of_other_speakers_where_there_are_some(tones, monkeypatch):
    read, load = [], audio.load
    monkeypatch.setattr(audio, "load", lambda path: read.append(path) or load(path))
    by_path = {u.path: u for u in tones}
    for utterance in tones:
        read.clear()
        list(degraded_sound.sounds([utterance], tones, "babble:0", 0))
        assert read[0] == utterance.path and len(set(read)) == len(read) == 1 + BABBLE_VOICES
        assert utterance.speaker not in {by_path[path].speaker for path in read[1:]}
    own = [u for u in tones if u.speaker == tones[0].speaker]
    read.clear()
    list(degraded_sound.sounds(own[:1], own, "babble:0", 0))
    assert set(read) == {u.path for u in own}
    with pytest.raises(ValueError, match="babble is made of other utterances, and Ses01F_.* is the only one"):
        list(degraded_sound.sounds(own[:1], own[:1], "babble:0", 0))


def test_a_sound_that_cannot_be_read_stays_a_path(tones, tmp_path):
    missing = replace(tones[1], path=tmp_path / "no.wav")
    first, second, third = degraded_sound.sounds([tones[0], missing, tones[2]], tones, "white:10", 0)
    assert second == missing.path and len(first) == tones[0].num_samples and len(third) == tones[2].num_samples


def test_another_condition_is_refused(tones):
    with pytest.raises(ValueError, match="degrade must be .*'loud'"):
        next(degraded_sound.sounds(tones, tones, "loud", 0))
