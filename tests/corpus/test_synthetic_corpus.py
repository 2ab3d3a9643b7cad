"""The synthetic corpus: the tree, the planted truth, and what the sound itself says, measured without the plan."""
import dataclasses
import re
from collections import Counter

import numpy as np
import pytest
import soundfile

from framealign.sound import frames
from framealign.corpus import frame_truth, synthetic_corpus, synthetic_utterance
from framealign.corpus.synthetic_corpus import LABELS, OTHER_LABELS, write_corpus
from framealign.corpus.synthetic_utterance import EMOTIONS, Syllable, draw_speaker, synthesise
from framealign.corpus.synthetic_voice import STEP, pause
from framealign.corpus.utterance import Utterance

SUMMARY = re.compile(r"\[(\d+\.\d{4}) - (\d+\.\d{4})\]\t(Ses\d\d[FM]_(?:impro\d\d|script\d\d_\d)_[FM]\d{3})\t"
                     r"([a-z]{3})\t\[\d\.\d{4}, \d\.\d{4}, \d\.\d{4}\]")
SESSIONS, UTTERANCES = 2, 24


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("synth") / "corpus"
    assert write_corpus(root, seed=3, num_sessions=SESSIONS, utterances_per_speaker=UTTERANCES, workers=2) \
        == len(list(root.glob("Session*/sentences/wav/*/*.wav")))
    return root


@pytest.fixture(scope="module")
def recordings():
    """(speaker, emotion, sound, stretches) of 160 utterances: 10 speakers, four emotions in turn."""
    found = []
    for name in (f"Ses{session:02d}{gender}" for session in range(1, 6) for gender in "FM"):
        for i in range(16):
            emotion = list(EMOTIONS)[i % 4]
            found.append((name, emotion, *synthesise(0, name, f"{name}_{i}", emotion, 2.6)))
    return found


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def labels_of(root):
    return {match[3]: match[4] for path in root.glob("Session*/dialog/EmoEvaluation/*.txt")
            for match in SUMMARY.finditer(path.read_text())}


# The tree

def test_same_seed_same_bytes_with_any_number_of_workers_and_another_seed_another_corpus(tmp_path):
    for name, seed, workers in (("one", 0, 1), ("two", 0, 2), ("other", 1, 1)):
        write_corpus(tmp_path / name, seed, num_sessions=1, utterances_per_speaker=6, workers=workers)
    one, two, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    sounds = [name for name in one if name.endswith(".wav")]
    assert len(sounds) == 12 and all(one[name] != other.get(name) for name in sounds)
    assert len({one[name] for name in sounds}) == 12
    assert draw_speaker(0, "Ses01F") != draw_speaker(1, "Ses01F")


def test_the_tree_is_shaped_as_iemocap(corpus):
    assert [path.name for path in sorted(corpus.iterdir())] == [f"Session{k + 1}" for k in range(SESSIONS)]
    labels = labels_of(corpus)
    sounds = {path.stem: path for path in corpus.glob("Session*/sentences/wav/*/*.wav")}
    assert labels.keys() == sounds.keys()
    for name, path in sounds.items():
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (frames.SAMPLE_RATE, 1, "PCM_16")
        assert path.parent.name == name.rsplit("_", 1)[0] and path.parts[-5] == f"Session{int(name[3:5])}"
        assert path.with_suffix(".emotional.tsv").exists()
    styles = Counter("impro" in name for name in sounds)
    assert styles[True] and styles[False]
    for speaker in (f"{session}{gender}" for session in ("Ses01", "Ses02") for gender in "FM"):
        own = [label for name, label in labels.items() if name[:5] == speaker[:5] and name[-4] == speaker[5]]
        emotions = Counter(LABELS[label][0] for label in own if label not in OTHER_LABELS)
        assert emotions == dict.fromkeys(EMOTIONS, UTTERANCES // 4)
        assert {"hap", "exc"} <= set(own) and set(own) & set(OTHER_LABELS)


def test_evaluation_files_have_a_header_times_that_fit_the_sounds_and_evaluators(corpus):
    for path in corpus.glob("Session*/dialog/EmoEvaluation/*.txt"):
        text = path.read_text()
        assert text.startswith("% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n")
        previous = 0.0
        for match in SUMMARY.finditer(text):
            start, end = float(match[1]), float(match[2])
            wav = path.parents[2] / "sentences" / "wav" / path.stem / f"{match[3]}.wav"
            assert start > previous and end - start == pytest.approx(soundfile.info(wav).duration, abs=2e-4)
            previous = end
        others = [line for line in text.splitlines()[1:] if line and not SUMMARY.fullmatch(line)]
        assert others and all(re.fullmatch(r"[CA]-E\d:\t[\w ;]+;\t\(\)", line) for line in others)


def test_sounds_are_neither_clipped_nor_silent(corpus):
    for path in corpus.glob("Session*/sentences/wav/*/*.wav"):
        sound, _ = soundfile.read(path, dtype="int16")
        assert 300 < np.abs(sound.astype(int)).max() < 32_000 and abs(sound.mean()) < 100
        assert len(sound) >= 0.8 * frames.SAMPLE_RATE


@pytest.mark.parametrize("problem", [dict(num_sessions=0), dict(num_sessions=100), dict(utterances_per_speaker=0),
                                     dict(mean_seconds=0.5)])
def test_numbers_out_of_range_are_named_and_nothing_is_written(tmp_path, problem):
    with pytest.raises(ValueError, match=f"{next(iter(problem))} must be in"):
        write_corpus(tmp_path / "corpus", **problem)
    assert not list(tmp_path.iterdir())


def test_a_full_folder_is_left_alone_and_a_failure_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        write_corpus(tmp_path / "full", num_sessions=1, utterances_per_speaker=2)
    assert contents(tmp_path) == {"full/mine.txt": b"mine"}

    def fail(*_):
        raise OSError("disk full")
    monkeypatch.setattr(synthetic_corpus, "_evaluation", fail)
    with pytest.raises(OSError, match="disk full"):
        write_corpus(tmp_path / "corpus", num_sessions=1, utterances_per_speaker=2, workers=1)
    assert contents(tmp_path) == {"full/mine.txt": b"mine"} and len(list(tmp_path.iterdir())) == 1


# The planted truth

def test_planted_frames_are_those_whose_centre_lies_in_a_stretch(corpus):
    labels = labels_of(corpus)
    for path in corpus.glob("Session1/sentences/wav/*/*.wav"):
        emotion = LABELS[labels[path.stem]][0]
        sound, stretches = synthesise(3, path.stem[:5] + path.stem[-4], path.stem, emotion, 2.6)
        T = frames.num_frames(soundfile.info(path).frames)
        expected = [any(start <= 320 * t + 200 < end for start, end in stretches) for t in range(T)]
        planted = frame_truth.is_emotional(Utterance("", path, 0), T)
        assert planted.dtype == bool and planted.tolist() == expected
        assert frame_truth.is_emotional(Utterance("", path, 0), 10).tolist() == expected[:10]
        for framing in (frames.Framing(640, 720), frames.Framing(441, 600)):   # to half a frame of the file's
            found = frame_truth.is_emotional(Utterance("", path, 0), frames.num_frames(len(sound), framing), framing)
            for t, is_emotional in enumerate(found):
                centre = framing.hop * t + framing.receptive_field / 2
                if min([abs(centre - edge) for pair in stretches for edge in pair], default=1000) > 320:
                    assert is_emotional == any(start <= centre < end for start, end in stretches)
        rows = [line.split("\t") for line in path.with_suffix(".emotional.tsv").read_text().splitlines()]
        assert len(rows) == len(stretches) and {row[2] for row in rows} <= {emotion}
        assert bool(rows) == (emotion != "neutral")


@pytest.mark.parametrize("mean_seconds", [1.5, 2.6, 8.0])
def test_one_or_two_stretches_cover_30_to_70_percent(mean_seconds):
    numbers, seconds = Counter(), []
    for i in range(150):
        rng = np.random.default_rng(i)
        speaker, emotion = draw_speaker(i, "Ses01M"), ("happy", "angry", "sad")[i % 3]
        tracks, stretches = synthetic_utterance.plan(speaker, emotion, mean_seconds, rng)
        N = len(tracks.f0_hz) * STEP
        assert 0.30 <= np.diff(stretches).sum() / N <= 0.70 and 0 < stretches.min() and stretches.max() < N
        assert (np.diff(stretches.ravel()) >= 0.3 * frames.SAMPLE_RATE).all()
        numbers[len(stretches)] += 1
        seconds.append(N / frames.SAMPLE_RATE)
    assert set(numbers) <= {1, 2} and (mean_seconds < 2.6 or len(numbers) == 2)
    assert np.mean(seconds) == pytest.approx(mean_seconds, rel=0.15)





# The sound, measured by other means than it was made

def measure(sound):
    """Per 20 ms: F0 in Hz, energy in dB, 2 to 4 kHz over 0.1 to 1 kHz in dB, periodicity, centre sample, is voiced."""
    windows = np.lib.stride_tricks.sliding_window_view(sound, 640)[::320] * np.hanning(640)    # 40 ms
    power = np.abs(np.fft.rfft(windows, 2048)) ** 2
    lags = np.fft.irfft(power)[:, :300]
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(640), 2048)) ** 2)[:300]
    lag = np.arange(32, 267)                                                                # 60 to 500 Hz
    peaks = lags[:, lag] / lags[:, :1].clip(1e-12) / (window[lag] / window[0]) * (1 - 0.001 * lag)
    high = peaks > 0.9 * peaks.max(1, keepdims=True)        # the shortest such lag, against octave errors
    local = (peaks >= np.roll(peaks, 1, 1)) & (peaks >= np.roll(peaks, -1, 1))
    lag = np.where((high & local).any(1), np.argmax(high & local, 1), np.argmax(peaks, 1)) + 32
    energy = 10 * np.log10(power.sum(1) + 1e-12)
    bright = 10 * np.log10(power[:, 256:512].sum(1) / power[:, 13:128].sum(1))
    is_voiced = (peaks.max(1) > 0.4) & (energy > energy.max() - 30)
    return 16_000 / lag, energy, bright, peaks.max(1), 320 * np.arange(len(lag)) + 320, is_voiced


@pytest.fixture(scope="module")
def measured(recordings):
    return [measure(sound) for _, _, sound, _ in recordings]


def changes(recordings, measured):
    """Mean over each emotion's utterances of inside minus outside the stretches, on voiced frames.

    Per emotion: median F0 and the width of its middle 70 % (semitones), energy and brightness (dB), periodicity.
    """
    found = {}
    for (_, emotion, _, stretches), (f0, energy, bright, periodic, centre, is_voiced) in zip(recordings, measured):
        inside = np.any([(start <= centre) & (centre < end) for start, end in stretches], axis=0)
        if emotion == "neutral":                    # any split of it: nothing may change
            inside = centre > centre.mean()
        parts = [is_voiced & inside, is_voiced & ~inside]
        if min(part.sum() for part in parts) < 8:
            continue
        semitones = 12 * np.log2(f0)
        values = [[np.median(semitones[part]), np.subtract(*np.percentile(semitones[part], [85, 15])),
                   energy[part].mean(), bright[part].mean(), periodic[part].mean()] for part in parts]
        found.setdefault(emotion, []).append(np.subtract(*values))
    return {emotion: np.mean(rows, axis=0) for emotion, rows in found.items()}


def test_emotion_changes_f0_energy_and_tilt_inside_its_stretches_only(recordings, measured):
    change = changes(recordings, measured)
    assert np.abs(change["neutral"]).max() < 2
    level, spread, energy, bright, periodic = np.array([change[name] for name in ("happy", "angry", "sad")]).T
    happy, angry, sad = range(3)
    assert level[happy] > 4 and level[sad] < -1.5
    assert spread[happy] > 1.5 and spread[sad] < -0.3
    assert energy[angry] > 5 and energy[happy] > 1 > energy[sad]    # sad: a softer voice, but its breath is sound too
    assert bright[angry] > 6 and bright[angry] - 3 > bright[happy] > 1 and bright[sad] < -4
    assert periodic[angry] < -0.1 and periodic[angry] < min(periodic[happy], periodic[sad]) - 0.05


def test_anger_raises_f0(monkeypatch):
    """Measured without anger's roughness, in which autocorrelation loses the period."""
    monkeypatch.setitem(EMOTIONS, "angry", dataclasses.replace(EMOTIONS["angry"], jitter=0.0, shimmer=0.0))
    angry = [(name, "angry", *synthesise(0, name, f"{name}_{i}", "angry", 2.6)) for name in ("Ses01F", "Ses01M")
             for i in range(20)]
    level = changes(angry, [measure(sound) for _, _, sound, _ in angry])["angry"][0]
    assert level > 1


def test_emotion_changes_the_tempo():
    """Syllables of 0.2 s are shorter inside the stretches of happy and angry speech, longer in those of sad speech."""
    for name, faster in (("happy", True), ("angry", True), ("sad", False)):
        assert (EMOTIONS[name].tempo > 1) == faster
        seconds = np.full(12, 0.2)
        is_emotional = synthetic_utterance.choose_stretches(seconds, EMOTIONS[name].tempo, np.random.default_rng(0))
        syllables = [Syllable(pause(0.2)) for _ in seconds]
        factor = 1 / np.where(is_emotional, EMOTIONS[name].tempo, 1.0)
        _, _, edges = synthetic_utterance.timeline(syllables, factor)
        lengths = np.diff(edges)
        assert (lengths[is_emotional].mean() < lengths[~is_emotional].mean()) == faster


def softmax_regression(features, classes, test_features, updates=400):
    """Multinomial logistic regression by gradient descent on standardised features: predicted classes of the test."""
    mean, deviation = features.mean(0), features.std(0)
    add_one = lambda x: np.c_[(x - mean) / deviation, np.ones(len(x))]
    x, target, weights = add_one(features), np.eye(4)[classes], 0.0
    for _ in range(updates):
        logits = x @ weights if np.ndim(weights) else np.zeros((len(x), 4))
        probability = np.exp(logits - logits.max(1, keepdims=True))
        probability /= probability.sum(1, keepdims=True)
        weights = weights - 0.5 * x.T @ (probability - target) / len(x)
    return (add_one(test_features) @ weights).argmax(1)


def test_mean_pitch_and_mean_energy_do_not_give_the_emotion_away(recordings, measured):
    """Train on four sessions, test on the fifth, five times: at most 55 % UA (chance 25 %)."""
    features = np.array([[np.log(f0[is_voiced]).mean(), energy.mean()] for f0, energy, _, _, _, is_voiced in measured])
    classes = np.array([list(EMOTIONS).index(emotion) for _, emotion, _, _ in recordings])
    sessions = np.array([name[:5] for name, _, _, _ in recordings])
    recalls = []
    for session in sorted(set(sessions)):
        test = sessions == session
        predicted = softmax_regression(features[~test], classes[~test], features[test])
        recalls += [np.mean(predicted[classes[test] == k] == k) for k in range(4)]
    assert np.mean(recalls) <= 0.55


def test_speakers_and_recordings_differ(recordings, measured):
    women, men = ([np.median(f0[is_voiced]) for (name, _, _, _), (f0, *_, is_voiced) in zip(recordings, measured)
                   if name[-1] == gender] for gender in "FM")
    assert np.median(men) < 150 < np.median(women)
    levels = [10 * np.log10(np.mean(sound ** 2)) for _, _, sound, _ in recordings]
    assert np.ptp(levels) > 10 and all(np.isfinite(sound).all() for _, _, sound, _ in recordings)
