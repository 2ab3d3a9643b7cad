"""Which degradation each draw of a training utterance has: shares, ranges, names, and the frames that it leaves.
"""
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import marked_sound
import numpy as np
import pytest
import torch

from framealign.sound.degradation import LINES, NOISES, Degradation
from framealign.sound.frames import EVERY_20_MS, num_frames, num_samples_of
from framealign.corpus.cropping import Crop, Waveforms, frame_counts
from framealign.training import augmentation, finetune
from framealign.training.training_config import FinetuneConfig, FramesConfig

TRAIN = list(range(100, 120))


def draws(number: int = 4000, **changes: object) -> list[Degradation]:
    config = FinetuneConfig(**changes)
    return [augmentation.drawn(config, 100, TRAIN, 1, place) for place in range(number)]


def test_nothing_is_drawn_unless_asked_for():
    assert draws(3) == [None] * 3


def test_shares_and_ranges():
    """30 % have noise, room and line each, whichever others they have; of several kinds each is as likely."""
    drawn = draws(augment="all", augment_share=0.3, augment_least_snr=3.0, augment_most_snr=9.0, augment_rt60=0.6,
                  augment_colour=3.5)
    assert {d.colour_decibels for d in drawn} == {3.5}
    for has in (lambda d: bool(d.noise), lambda d: bool(d.rt60_seconds), lambda d: bool(d.line)):
        assert np.mean([has(d) for d in drawn]) == pytest.approx(0.3, abs=0.03)
    assert np.mean([bool(d.noise and d.line) for d in drawn]) == pytest.approx(0.09, abs=0.02)
    for names, which in ((NOISES, [d.noise for d in drawn]), (LINES, [d.line for d in drawn])):
        of_name = Counter(filter(None, which))
        assert set(of_name) == set(names)
        assert all(count / of_name.total() == pytest.approx(1 / len(names), abs=0.06) for count in of_name.values())
    for values, least, most in (([d.snr_decibels for d in drawn if d.noise], 3, 9),
                                ([d.rt60_seconds for d in drawn if d.rt60_seconds], 0.2, 0.6),
                                ([d.speed_percent for d in drawn], 90, 110),
                                ([d.level_decibels for d in drawn], -6, 6)):
        assert least <= min(values) and max(values) <= most
        assert np.histogram(values, 4, (least, most))[0] == pytest.approx([len(values) / 4] * 4, rel=0.2)
    for d in drawn:
        assert len(d.voices) == len(set(d.voices)) == (5 if d.noise == "babble" else 0)
        assert set(d.voices) < set(TRAIN) - {100}


@pytest.mark.parametrize("kind", FinetuneConfig.kinds)
def test_one_kind_alone_is_as_among_all(kind):
    """Only what is named is drawn, and to leave out others changes none of its numbers."""
    alone, among = draws(200, augment=kind, augment_share=1.0), draws(200, augment="all", augment_share=1.0)
    plain = Degradation()
    fields = {"reverb": {"rt60_seconds"}, "speed": {"speed_percent"}, "level": {"level_decibels"},
              "microphone": {"colour_decibels"},
              **dict.fromkeys(LINES, {"line"}), **dict.fromkeys(NOISES, {"noise", "snr_decibels", "voices"})}[kind]
    changed = {name for d in alone for name, value in vars(d).items() if value != getattr(plain, name)}
    assert changed - {"seed", "snr_decibels"} <= fields and fields - {"voices"} <= changed
    for name in fields - {"noise", "line", "voices"}:
        assert [getattr(d, name) for d in alone] == [getattr(d, name) for d in among]
    if kind in NOISES + LINES:
        assert {d.noise or d.line for d in alone} == {kind}


def test_draws_have_names():
    assert draws(50, augment="all") == draws(50, augment="all")
    assert len({d.seed for d in draws(50, augment="all")} | {d.seed for d in draws(50, augment="all", seed=1)}) == 100


@pytest.mark.parametrize("text, words", (
    ("noise", "got 'noise'"), ("white,", "got 'white,'"), ("white,white", "each once"), ("all,white", "all,white")))
def test_words_that_are_none(text, words):
    with pytest.raises(ValueError, match=words):
        FinetuneConfig(augment=text)


def test_a_classifier_of_frames_sets_the_level_itself():
    assert FramesConfig(augment="all").augmentations == [*NOISES, "reverb", "microphone", *LINES, "speed"]
    assert FinetuneConfig(augment="all").augmentations == [*NOISES, "reverb", "microphone", *LINES, "speed", "level"]
    with pytest.raises(ValueError, match="augment must be all, or some of .*speed, separated by commas, got 'level'"):
        FramesConfig(augment="level")


def test_blanks_around_words():
    assert FinetuneConfig(augment="white, speed").augmentations == ["white", "speed"]


@pytest.mark.parametrize("changes", ({"augment_share": 1.1}, {"augment_least_snr": 21.0}, {"augment_rt60": 0.1},
                                     {"augment_speed": 0.6}, {"augment_level": -1.0}, {"augment_most_snr": np.inf},
                                     {"augment_colour": 21.0}, {"augment_colour": -1.0}))
def test_strengths_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes)).replace("most_snr", "(least|most)_snr")):
        FinetuneConfig(**changes)


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    return marked_sound.write(tmp_path_factory.mktemp("marked"))


def fold(utterances: list) -> SimpleNamespace:
    return SimpleNamespace(utterances=utterances, train=list(range(len(utterances))), framing=EVERY_20_MS,
                           counts=frame_counts(utterances), labels=torch.arange(len(utterances)) % 2)


@pytest.mark.parametrize("max_seconds", (0.0, 0.3))
def test_a_crop_has_the_frames_of_the_changed_sound(marked, max_seconds):
    """Ten epochs: what is read has as many frames as the crop says, at any speed, of the shortest utterances too."""
    config, source, data = FinetuneConfig(augment="all", max_seconds=max_seconds), Waveforms(marked, True), fold(marked)
    changed = 0
    for epoch in range(1, 11):
        for crops in finetune.training_batches(data, config, epoch):
            inputs, lengths = source.batch(crops)
            assert [num_frames(n) for n in lengths.tolist()] == [crop.frames for crop in crops]
            assert torch.isfinite(inputs).all()
            for crop in crops:
                whole = num_frames(crop.degradation.length(marked[crop.utterance].num_samples))
                assert 0 <= crop.start <= whole - crop.frames and (max_seconds or crop.frames == whole)
                changed += whole != data.counts[crop.utterance]
    assert changed > 20


def test_a_crop_is_cut_from_the_degraded_whole(marked):
    """Speed, noise of other utterances and all: the same as degrading the whole waveform and cutting it by hand."""
    degradation = Degradation(5, 93, 0.3, "babble", 6.0, (0, 6), 2.0, "telephone", -3.0)
    source = Waveforms(marked, False)
    waveforms = {u: source.batch([Crop(u, 0, num_frames(marked[u].num_samples))])[0][0] for u in (0, 4, 6)}
    whole = degradation(waveforms[4], [waveforms[0], waveforms[6]])
    inputs, _ = source.batch([Crop(4, 11, 30, degradation)])
    assert torch.equal(inputs[0], whole[11 * 320:11 * 320 + num_samples_of(30)])
    assert source.cache.keys() == {0, 4, 6} and torch.equal(source.batch([Crop(4, 0, 149)])[0][0][:9], waveforms[4][:9])


def test_without_augmentation_the_draws_stay_as_they_were(marked):
    """Those of the plain draws and crops; with it the same utterances are drawn."""
    data, config = fold(marked), FinetuneConfig(max_seconds=0.3)
    plain = [crop for crops in finetune.training_batches(data, config, 1) for crop in crops]
    degraded = [c for crops in finetune.training_batches(data, replace(config, augment="white"), 1) for c in crops]
    assert plain == [replace(crop, degradation=None) for crop in degraded]
