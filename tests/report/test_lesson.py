"""lesson.html of a small run with the stage `frames`, and of a recogniser alone: what its steps show is what the models
say.
"""
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import markup
import numpy as np
import pytest
import recognised_noise
import small
import soundfile
import torch

from framealign.runtime import files
from framealign.sound import audio
from framealign.corpus import frame_truth
from framealign.hubert.model import Hubert
from framealign.emotion import diarization
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.recogniser import Recogniser
from framealign.emotion.segments import segments
from framealign.training import checkpoint
from framealign.recipe import recipe, results
from framealign.report import fold_page, lesson

OF_FRAMES = ["Shuffled stretches", "Scores in other company", "Coverage and soft labels", "Joined utterances",
             "Which frames"]


@pytest.fixture(scope="module")
def run(small_tree, small_base, tmp_path_factory) -> Path:
    """A finished fold of the whole method, with the stage frames."""
    folder = tmp_path_factory.mktemp("lesson") / "run"
    recipe.run_sessions(small.config(small_tree, small_base, folder, frames=True), small.SETTINGS)
    return folder


@pytest.fixture
def fold(run) -> fold_page.Fold:
    return fold_page.Fold(run, "1", "align", results.collect(run, "align"))


def figures(run: Path, **arguments: str) -> dict[str, markup.Element]:
    """The pictures of a lesson by their titles."""
    root = markup.read(lesson.write(run, **arguments).read_text(encoding="utf-8"))
    return {figure.all("figcaption")[0].words: figure for figure in root.all("figure")}


def caption(figure: markup.Element) -> str:
    return figure.all("p", "note")[0].text


def drawn_tracks(figure: markup.Element) -> list[str]:
    return [one.text for one in figure.all("b")]


def example(fold: fold_page.Fold, name: str) -> lesson.Example:
    utterances = fold.utterances()
    return lesson.read_example(fold, utterances[name], list(utterances.values()))


def test_the_steps_of_frames_come_last(run):
    drawn = figures(run)
    assert list(drawn)[-6:] == [*OF_FRAMES, "Segments"]
    assert drawn_tracks(drawn["Shuffled stretches"]) == ["sound", "labels", "truth", "scorer"]
    assert drawn_tracks(drawn["Scores in other company"]) == ["truth", "own company", "other company"]
    assert drawn_tracks(drawn["Which frames"]) == ["truth", "before", "posterior", "wrong", "after", "posterior",
                                                   "wrong", "attention"]


def test_without_the_stage_the_lesson_is_that_of_the_papers(run, tmp_path):
    whole = figures(run)
    copy = shutil.copytree(run, tmp_path / "run", symlinks=True)
    shutil.rmtree(copy / "session1" / "frames")
    assert list(figures(copy)) == [*list(whole)[:-6], "Segments"]
    words = (copy / "session1" / "lesson.html").read_text(encoding="utf-8")
    assert "Not shown: Shuffled stretches, Scores in other company" in words
    assert "Not shown: Which frames. Needed: a run" in words
    assert "Not shown" not in (run / "session1" / "lesson.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("lost", ("spreads.json", "checkpoints"))
def test_what_the_scorer_left_must_be_there(run, tmp_path, lost):
    copy = shutil.copytree(run, tmp_path / "run", symlinks=True)
    place = copy / "session1" / "frames" / "scorer" / lost
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    (copy / "session1" / "lesson.html").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="its scorer left no checkpoint, or no spreads.json; remake .*--redo frames"):
        lesson.write(copy)
    assert not (copy / "session1" / "lesson.html").exists()


def test_it_draws_the_median_utterance(run, fold):
    """Of the emotional test utterances, by EDER of the recogniser of frames, computed anew."""
    recogniser = Recogniser.from_pretrained(run / "session1" / "frames" / "recogniser")
    rates = []
    for utterance in fold.utterances().values():
        if utterance.session == "1" and utterance.label != "neutral":
            result = recogniser(utterance.path)
            said = [list(result.probabilities)[number] for number in result.posterior.argmax(-1)]
            wrong = diarization.errors(frame_truth.stretches(utterance), diarization.of_frames(
                said, 50, result.seconds), result.seconds)
            rates.append((wrong.false_alarm + wrong.missed + wrong.confused, result.seconds, utterance.id))
    ranked = sorted((seconds / duration, name) for seconds, duration, name in rates)
    assert len(ranked) == 6
    root = markup.read(lesson.write(run).read_text(encoding="utf-8"))
    assert root.all("h1")[0].text == f"From waveform to emotion: {ranked[3][1]}"
    words = caption(figures(run)["Which frames"])
    assert f"after {100 * ranked[3][0]:.0f} % (of all test utterances " in words


def test_scores_are_those_of_the_scorer(run, fold):
    """In its own company: of the whole utterance, brought to one level; the share above 0 stands in the caption."""
    name = next(name for name, one in fold.utterances().items() if one.session == "1" and one.label == "angry")
    shown = example(fold, name)
    scorer = EmotionModel.from_pretrained(checkpoint.newest(run / "session1" / "frames" / "scorer"))
    waveform = audio.load(fold.utterances()[name].path).double()
    start, hops = shown.frames.speech.starts[0], shown.frames.speech.size(0)
    part = waveform[320 * start:320 * (start + hops)]
    part = (part - part.mean()) / part.std(correction=0)
    with torch.inference_mode():
        states = scorer.hubert.states(torch.cat([part, torch.zeros(80)]).float()[None])
        log_p = scorer.frames(states)[0].log_softmax(-1)                        # (T', C)
    assert torch.allclose(shown.frames.log_p([shown.frames.speech.whole(0)]), log_p, atol=2e-3)
    alone = (log_p[:, scorer.labels.index("angry")] - log_p[:, 0]).numpy()
    shares = re.findall(r"(\d+) %", caption(figures(run, sound=name)["Scores in other company"]))
    assert abs(int(shares[0]) - 100 * np.mean(lesson.of_frames(shown, shown.frames.speech, alone) > 0)) <= 2


def test_a_neutral_utterance_and_one_of_training(run, fold):
    of = {(one.session == "1", one.label): one for one in fold.utterances().values()}
    neutral = figures(run, sound=of[True, "neutral"].id)
    assert "neutral throughout, as its utterance is called" in caption(neutral["Coverage and soft labels"])
    assert "none of this one" in caption(neutral["Which frames"])
    trained = figures(run, sound=of[False, "sad"].id)
    assert "none of this one" not in caption(trained["Which frames"])
    assert "test utterance" not in caption(trained["Scores in other company"])
    assert "by two states in time" in caption(trained["Coverage and soft labels"]) \
        or "all of it" in caption(trained["Coverage and soft labels"])


def test_coverage_stands_beside_the_planted_one(run, fold):
    """Seconds of planted stretches by seconds of sound, of all utterances of the emotion."""
    utterances = list(fold.utterances().values())
    name = next(one.id for one in utterances if one.session == "1" and one.label == "happy")
    planted = [0.0, 0.0]
    for one in utterances:
        if one.label == "happy":
            planted[0] += sum(end - first for first, end, _ in frame_truth.rows(one.path)) / 50
            planted[1] += len(audio.load(one.path)) / 16_000
    spreads = files.read_json(run / "session1" / "frames" / "scorer" / "spreads.json")
    assert f"happy covers {spreads['happy']['coverage']:.2f} of the time of its own (planted: " \
        f"{planted[0] / planted[1]:.2f})" in caption(figures(run, sound=name)["Coverage and soft labels"])


def test_without_company_or_truth(run, fold, capsys):
    utterances = list(fold.utterances().values())
    one = next(u for u in utterances if u.session == "1" and u.label == "angry")
    alone = [u for u in utterances if u.label != "neutral" or u.speaker != one.speaker]
    assert lesson.read_frame_models(fold, one, alone) is None
    assert lesson.read_frame_models(fold, replace(one, label=""), utterances) is None
    assert capsys.readouterr().out.count("the lesson leaves out the steps of the scorer") == 2
    unknown = [replace(u, path=u.path.with_name("nothing.wav")) if u.label == "sad" else u for u in utterances]
    assert not lesson.planted_shares(unknown, ["sad"])
    assert {*lesson.planted_shares(unknown, fold.classes)} == {"neutral", "happy", "angry"}


@pytest.mark.parametrize("seed", range(20))
def test_wrong_frames_are_the_wrong_seconds(seed):
    """As `diarization.errors` counts them in an utterance of as many seconds as frames."""
    rng, classes = np.random.default_rng(seed), ["neutral", "happy", "angry", "sad"]
    T, label = int(rng.integers(2, 60)), int(rng.integers(4))
    numbers, is_emotional = rng.integers(0, 4, T), rng.random(T) < rng.random()
    if label == 0:
        is_emotional[:] = False
    true = np.where(is_emotional, label, 0)
    kinds = lesson.wrong_kinds([classes[n] for n in numbers], [classes[n] for n in true])
    truth = [stretch for stretch in diarization.of_frames([classes[label] if x else "neutral" for x in is_emotional],
                                                          1, T) if stretch.emotion != "neutral"]
    wrong = diarization.errors(truth, diarization.of_frames([classes[n] for n in numbers], 1, T), T)
    assert [int((kinds == n).sum()) for n in (1, 2, 3)] == [wrong.false_alarm, wrong.missed, wrong.confused]
    assert not kinds[numbers == true].any()


@pytest.mark.parametrize("start, hops, frames", ((0, 5, 5), (2, 3, 6), (1, 6, 6)))
def test_frames_outside_the_audible_part_repeat_its_ends(start, hops, frames):
    values = np.arange(hops) + 10
    found = lesson.of_frames(SimpleNamespace(num_frames=frames), SimpleNamespace(starts=[start]), values)
    assert found.tolist() == [10 + min(max(t - start, 0), hops - 1) for t in range(frames)]


def test_pieces_have_their_own_time_axis(run, fold):
    """A stretch's label ends where its sound does: runs of the strip against the pieces' hops."""
    shown = example(fold, next(name for name, one in fold.utterances().items() if one.session == "1"))
    pieces = [lesson.Piece(1, 0, 10), lesson.Piece(2, 3, 23), lesson.Piece(0, 5, 15)]
    runs = markup.read(shown.frames.labels_track(pieces)).all("rect", "run")
    assert [one.attributes["fill"] for one in runs] == \
        [lesson.colours(shown.frames.classes)[shown.frames.speech.labels[piece.utterance]] for piece in pieces]
    num_samples = 40 * 320 + 80
    for one, end in zip(runs, (10, 30, 40)):
        x, width = one.numbers("x", "width")
        wanted = (320 * end + 40) / num_samples if end < 40 else 1
        assert (x + width) / 1000 == pytest.approx(wanted, abs=1e-3)


# Any sound

OF_RECOGNISER = ["Waveform to frames", "Convolutions", "MFCC", "Transformer", "Attention pooling",
                 "Emotion, once and over time", "Segments"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A second of noise, not of any corpus, angry from 0.2 to 0.6 s by what lies beside it; its name is to be escaped.
    """
    path = tmp_path_factory.mktemp("sound") / "a <b> & c.wav"
    soundfile.write(path, recognised_noise.noise(50), 16_000)
    frame_truth.write(path, [(10, 30, "anger")])
    return path


def shown(path: Path) -> tuple[markup.Element, dict[str, markup.Element]]:
    root = markup.read(path.read_text(encoding="utf-8"))
    return root, {figure.all("figcaption")[0].words: figure for figure in root.all("figure")}


def test_a_recogniser_alone_shows_what_needs_no_run(run, sound, tmp_path):
    """Numbers of the captions are computed anew; what is missing is named with what it needs."""
    place = run / "session1" / "frames" / "recogniser"
    root, drawn = shown(lesson.write_of_recogniser(place, str(sound), tmp_path / "page.html"))
    assert list(drawn) == OF_RECOGNISER and not markup.fetched((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert root.all("h1")[0].text == "From waveform to emotion: a <b> & c.wav"
    missing = [one.text for one in root.all("p", "intro")]
    assert [re.match("Not shown: (.+?)[.] Needed: a run's folder", one)[1] for one in missing] == \
        ["Units, Masking, Masked prediction", ", ".join(OF_FRAMES[:-1]), "Which frames"]
    assert sorted(OF_RECOGNISER + [name for one in missing for name in one[11:one.index(".")].split(", ")]) == \
        sorted(figures(run))

    result = Recogniser.from_pretrained(place, gate=True)(sound)
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in result.probabilities.items())
    words = caption(drawn["Emotion, once and over time"])
    repeated = np.mean(result.posterior.argmax(1) == max(range(4), key=list(result.probabilities.values()).__getitem__))
    assert f"({shares})" in words and f"trained on frames: {100 * repeated:.0f} % of the frames" in words
    assert "1 - p(neutral) + 0.1" in caption(drawn["Attention pooling"])
    assert drawn_tracks(drawn["Segments"]) == ["truth", "frames", "segments"]
    found = segments(result)
    truth = [diarization.Stretch(0.2, 0.6, "angry")]
    eder = diarization.errors(truth, found, result.seconds).rates[0]
    words = caption(drawn["Segments"])
    assert f"shorter: {len(found)} of them" in words and f"EDER of the segments: {100 * eder:.0f} %" in words
    assert f"changes {np.count_nonzero(np.diff(result.posterior.argmax(1)))} times" in words
    widths = [one.numbers("x", "width") for one in drawn["Attention pooling"].all("rect", "run")]
    assert [sum(one) for one in widths] == pytest.approx([1000 * (320 * t + 40) / 16_080 for t in (10, 30)] + [1000],
                                                         abs=1)


@pytest.mark.parametrize("pooling, words", [("attention", "softmax(tanh(h . w))"), ("mean", "Equal weights of all"),
                                            ("layers", "Equal weights of all")])
def test_a_recogniser_of_each_pooling(small_base, sound, tmp_path, pooling, words):
    EmotionModel(Hubert.from_pretrained(small_base), ["neutral", "angry"], pooling).save_pretrained(tmp_path / "model")
    _, drawn = shown(lesson.write_of_recogniser(tmp_path / "model", str(sound), tmp_path / "page.html"))
    assert words in caption(drawn["Attention pooling"])
    words = caption(drawn["Emotion, once and over time"])
    assert "It was trained on whole utterances, and 100 % of the frames" in words


def test_a_sound_that_is_none_of_the_runs_corpus(run, sound, tmp_path, capsys):
    """With its units and, before and after, where it is wrong; without the steps that need the speaker's company."""
    before = small.digests(run)
    root, drawn = shown(lesson.write(run, sound=str(sound), out=tmp_path / "page.html"))
    assert small.digests(run) == before
    assert list(drawn) == [name for name in figures(run) if name not in OF_FRAMES[:-1]]
    missing, = root.all("p", "intro")
    assert missing.text.startswith("Not shown: Shuffled stretches") and "its speaker lacks" in capsys.readouterr().out
    words = caption(drawn["Which frames"])
    for when, stage in (("before", "ser-finetune"), ("after", "frames")):
        result = Recogniser.from_pretrained(run / "session1" / stage / "recogniser")(sound)
        names = [list(result.probabilities)[number] for number in result.posterior.argmax(1)]
        truth = np.where((np.arange(50) >= 10) & (np.arange(50) < 30), "angry", "neutral")
        wrong = np.mean(np.array(names) != truth)
        assert int(re.search(rf"{when} (\d+) %", words)[1]) == pytest.approx(100 * wrong, abs=1)
    assert "none of this one" not in words


def test_a_joined_utterance_has_units_and_company_of_its_own(run, fold, tmp_path):
    """It has the id of an utterance of the corpus, and other frames."""
    one = next(u for u in fold.utterances().values() if u.session == "1" and u.label == "sad")
    waveform = np.concatenate([audio.load(one.path).numpy(), recognised_noise.noise(40)])
    soundfile.write(tmp_path / "joined.wav", waveform, 16_000)
    frame_truth.write(tmp_path / "joined.wav", [(0, 20, "sad")])
    joined = replace(one, path=tmp_path / "joined.wav", num_samples=len(waveform))
    shown_one = lesson.read_example(fold, joined, list(fold.utterances().values()))
    assert len(shown_one.pretraining.units) == (len(waveform) - 400) // 320 + 1 == len(shown_one.truth)
    assert one.id not in [other.id for other in shown_one.frames.speech.utterances[1:]]
    root, drawn = shown(lesson.write(run, sound=joined, out=tmp_path / "page.html"))
    assert list(drawn) == list(figures(run)) and root.all("h1")[0].text.endswith(": joined.wav")


def test_the_picture_of_states_of_a_minute_is_no_larger_than_a_page(small_base, tmp_path):
    """Of 3000 frames the similarity is that of means. A sample more is refused, as is less than a frame."""
    soundfile.write(tmp_path / "a.wav", recognised_noise.noise(3000), 16_000)
    soundfile.write(tmp_path / "long.wav", recognised_noise.noise(3000, extra=1), 16_000)
    soundfile.write(tmp_path / "short.wav", recognised_noise.noise(2)[:719], 16_000)
    small.write_base(tmp_path / "25 hz", **small.MODEL_25_HZ)
    for base, name, words in ((small_base, "long", "60.01 s, a lesson shows 25 ms to 60 s; cut a piece out of it"),
                              (tmp_path / "25 hz", "short", "0.04 s, a lesson shows 45 ms to 120 s")):
        model = tmp_path / f"model-{name}"
        EmotionModel(Hubert.from_pretrained(base), ["neutral", "angry"]).save_pretrained(model)
        with pytest.raises(ValueError, match=rf"{name}\.wav: {words}"):
            lesson.write_of_recogniser(model, str(tmp_path / f"{name}.wav"), tmp_path / "other.html")
    page = lesson.write_of_recogniser(tmp_path / "model-long", str(tmp_path / "a.wav"), tmp_path / "page.html")
    assert page.stat().st_size < 5_000_000
    assert not (tmp_path / "other.html").exists()
