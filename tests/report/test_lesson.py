"""lesson.html of a small run with the stage `frames`: what its steps show is what the run's models say."""
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import markup
import numpy as np
import pytest
import small
import torch

from framealign.runtime import files
from framealign.sound import audio
from framealign.corpus import frame_truth
from framealign.emotion import diarization
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.recogniser import Recogniser
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
    assert list(drawn)[-5:] == OF_FRAMES
    assert drawn_tracks(drawn["Shuffled stretches"]) == ["sound", "labels", "truth", "scorer"]
    assert drawn_tracks(drawn["Scores in other company"]) == ["truth", "own company", "other company"]
    assert drawn_tracks(drawn["Which frames"]) == ["truth", "before", "posterior", "wrong", "after", "posterior",
                                                   "wrong", "attention"]


def test_without_the_stage_the_lesson_is_that_of_the_papers(run, tmp_path):
    whole = figures(run)
    copy = shutil.copytree(run, tmp_path / "run", symlinks=True)
    shutil.rmtree(copy / "session1" / "frames")
    assert list(figures(copy)) == list(whole)[:-5]


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
    assert capsys.readouterr().out.count("the lesson leaves out the steps of the stage frames") == 2
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
    kinds = lesson.wrong_kinds(numbers, is_emotional, SimpleNamespace(labels=[label], neutral=0))
    truth = [stretch for stretch in diarization.of_frames([classes[label] if x else "neutral" for x in is_emotional],
                                                          1, T) if stretch.emotion != "neutral"]
    wrong = diarization.errors(truth, diarization.of_frames([classes[n] for n in numbers], 1, T), T)
    assert [int((kinds == n).sum()) for n in (1, 2, 3)] == [wrong.false_alarm, wrong.missed, wrong.confused]
    assert not kinds[numbers == np.where(is_emotional, label, 0)].any()


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
