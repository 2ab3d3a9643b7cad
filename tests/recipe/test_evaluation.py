"""A recogniser on a labelled corpus: scores recomputed from what is predicted, who may be tested, what is left out."""
import csv
import dataclasses
import shutil

import drawn_recogniser
import numpy as np
import pytest
import soundfile
from drawn_recogniser import LABELS, DrawnRecogniser

from framealign.corpus import degraded_sound, manifest
from framealign.corpus.protocols import Split
from framealign.corpus.utterance import Stretch
from framealign.recipe import evaluation, trained_on
from framealign.recipe.evaluation import Corpus, EvaluationConfig, Model
from framealign.recipe.trained_on import TrainedOn

T_OF_5 = 2.5705818366147395                         # 97.5 % quantile of Student's t, 5 degrees of freedom


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    monkeypatch.setattr(evaluation, "Recogniser", DrawnRecogniser)


@pytest.fixture
def noise(tmp_path):
    """A table of 72 utterances, 6 speakers, 4 labels, and a recogniser's directory without a list."""
    utterances = drawn_recogniser.corpus(tmp_path / "noise")
    manifest.write(tmp_path / "noise.tsv", utterances)
    return utterances, tmp_path / "noise.tsv", drawn_recogniser.directory(tmp_path)


def scores(model, table, **settings):
    config = EvaluationConfig(**settings)
    return evaluation.scores_of(evaluation.test([Model(model, TrainedOn.read(model))], Corpus(str(table)), config),
                                config)


def macro(true, guess):
    """(WA, UA, macro-F1) counted by hand, of the classes that are true somewhere."""
    recalls, f1 = [], []
    for name in sorted({*true}):
        hits = sum(a == b == name for a, b in zip(true, guess))
        recalls.append(hits / true.count(name))
        f1.append(2 * hits / (true.count(name) + guess.count(name)))
    return [np.mean([a == b for a, b in zip(true, guess)]), np.mean(recalls), np.mean(f1)]


def answers(model, utterances, allowed=LABELS):
    """The most probable of the allowed classes, of each utterance."""
    recogniser = DrawnRecogniser(model)
    return [max(allowed, key=lambda name: recogniser.probabilities(u.path)[recogniser.labels.index(name)])
            for u in utterances]


def test_scores_are_those_counted_by_hand(noise):
    utterances, table, model = noise
    found = scores(model, table)
    true, guess = [u.label for u in utterances], answers(model, utterances)
    assert [found[key] for key in ("wa", "ua", "macro_f1")] == pytest.approx(macro(true, guess))
    assert found["confusion"] == [[sum(pair == (a, b) for pair in zip(true, guess)) for b in LABELS] for a in LABELS]
    for name, gender in (("women", "F"), ("men", "M")):
        own = [i for i, u in enumerate(utterances) if u.gender == gender]
        assert [found["subsets"][name][key] for key in ("wa", "ua", "macro_f1")] == pytest.approx(
            macro([true[i] for i in own], [guess[i] for i in own]))
    for speaker, one in found["speakers"].items():
        own = [i for i, u in enumerate(utterances) if u.speaker == speaker]
        assert [one["wa"], one["ua"]] == pytest.approx(macro([true[i] for i in own], [guess[i] for i in own])[:2])
    assert [*found["speakers"]] == [f"s{i}" for i in range(6)]


def test_each_of_several_corpora_has_its_scores(noise):
    """Counted by hand; one that lacks a class has no recall of it, and its UA is over the others."""
    utterances, table, model = noise
    several = [dataclasses.replace(u, corpus="a" if u.label == LABELS[0] or i % 2 else "b")
               for i, u in enumerate(utterances)]
    manifest.write(table, several)
    found, guess = scores(model, table), answers(model, utterances)
    for corpus in "ab":
        own = [i for i, u in enumerate(several) if u.corpus == corpus]
        one = found["subsets"][f"corpus {corpus}"]
        assert [one[key] for key in ("wa", "ua")] == pytest.approx(
            macro([utterances[i].label for i in own], [guess[i] for i in own])[:2])
    assert found["subsets"]["corpus b"]["recall"][LABELS[0]] is None
    rows = [line.split() for line in evaluation.table("model", "table", found).splitlines()]
    of_a = next(row for row in rows if row[:2] == ["corpus", "a"])
    assert of_a[2:4] == [f"{100 * found['subsets']['corpus a'][key]:.1f}" for key in ("wa", "ua")]
    manifest.write(table, [dataclasses.replace(u, corpus="a") for u in utterances])
    assert [*scores(model, table)["subsets"]] == ["women", "men"]


def test_scores_are_scikit_learns(noise):
    sklearn = pytest.importorskip("sklearn.metrics")
    utterances, table, model = noise
    found, true, guess = scores(model, table), [u.label for u in utterances], answers(model, utterances)
    assert found["ua"] == pytest.approx(sklearn.balanced_accuracy_score(true, guess))
    assert found["macro_f1"] == pytest.approx(sklearn.f1_score(true, guess, average="macro"))


def test_the_interval_leaves_out_each_speaker_once(noise):
    utterances, table, model = noise
    true, guess = [u.label for u in utterances], answers(model, utterances)
    without = []
    for speaker in range(6):
        rest = [i for i, u in enumerate(utterances) if u.speaker != f"s{speaker}"]
        without.append(macro([true[i] for i in rest], [guess[i] for i in rest])[1])
    half = T_OF_5 * np.sqrt(5 * np.var(without))
    ua = macro(true, guess)[1]
    found = scores(model, table)
    assert found["interval_95"]["ua"] == pytest.approx([ua - half, ua + half])
    assert found["interval_over"] == "6 speakers"


def test_calibration_is_recomputed_from_the_predictions(noise, tmp_path):
    utterances, table, model = noise
    config = EvaluationConfig()
    tested = evaluation.test([Model(model, None)], Corpus(str(table)), config)
    tested.sides[0].write(tmp_path / "predictions.csv")
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [row["id"] for row in rows] == [u.id for u in utterances]
    confidence = np.array([max(float(row[name]) for name in LABELS) for row in rows])
    right = np.array([row["true"] == row["predicted"] for row in rows])
    error = 0.0
    for low in np.arange(15) / 15:
        own = (confidence > low) & (confidence <= low + 1 / 15)
        error += abs(confidence[own].sum() - right[own].sum()) / len(rows)
    assert evaluation.scores_of(tested, config)["calibration"]["ece"] == pytest.approx(error, abs=1e-5)


def test_classes_that_only_one_side_has(tmp_path):
    """Labels of the corpus alone are left out; classes of the recogniser alone are errors, or with `shared_classes` no
    possible answer."""
    model = drawn_recogniser.directory(tmp_path, labels=("neutral", "happy", "disgust", "sad"))
    utterances = drawn_recogniser.corpus(tmp_path / "noise", ("Neutral", "joy", "boredom", "sad", "fear", ""))
    manifest.write(tmp_path / "noise.tsv", utterances)
    tested = [dataclasses.replace(u, label={"Neutral": "neutral", "joy": "happy", "sad": "sad"}[u.label])
              for u in utterances if u.label in ("Neutral", "joy", "sad")]
    true = [u.label for u in tested]
    for shared, allowed in ((False, ("neutral", "happy", "disgust", "sad")), (True, ("neutral", "happy", "sad"))):
        found, guess = scores(model, tmp_path / "noise.tsv", shared_classes=shared), answers(model, tested, allowed)
        assert [found[key] for key in ("wa", "ua", "macro_f1")] == pytest.approx(macro(true, guess))
        assert found["left_out"] == {"labels": {"boredom": 18, "fear": 18}, "unlabelled": 18, "known": 0,
                                     "unreadable": {}}
        assert found["absent_classes"] == {"disgust": guess.count("disgust")} and found["classes"] == list(allowed)
        words = "\n".join(evaluation.notes(found))
        assert "left out: 36 with labels that the recogniser does not have (18 boredom, 18 fear); 18 without a" in words
        assert (f"disgust: predicted {guess.count('disgust')} times, which counts as wrong" in words) != shared
        text = evaluation.table("m", "t", found)
        assert f"all  {100 * found['wa']:.1f}  {100 * found['ua']:.1f}" in text


def test_labels_are_merged_as_asked(tmp_path):
    model = drawn_recogniser.directory(tmp_path)
    manifest.write(tmp_path / "a.tsv", drawn_recogniser.corpus(tmp_path / "a", ("calm", "happy", "sad")))
    assert "calm" in scores(model, tmp_path / "a.tsv")["left_out"]["labels"]
    found = scores(model, tmp_path / "a.tsv", merge="calm=neutral")
    assert found["num_utterances"] == 54 and sum(found["confusion"][0]) == 18
    with pytest.raises(ValueError, match="--merge counts calm as bored, which is no class"):
        scores(model, tmp_path / "a.tsv", merge="calm=bored")


@pytest.mark.parametrize("labels, settings, problem", [
    (("bored", "fear"), {}, "no label is one of the recogniser's classes, neutral, happy, angry, sad; there are: b"),
    (("happy", "fear"), {"shared_classes": True}, "shares one class with the recogniser, happy")])
def test_too_little_in_common_is_refused(tmp_path, labels, settings, problem):
    model = drawn_recogniser.directory(tmp_path)
    manifest.write(tmp_path / "a.tsv", drawn_recogniser.corpus(tmp_path / "a", labels, 2, 1))
    with pytest.raises(ValueError, match=problem):
        scores(model, tmp_path / "a.tsv", **settings)


@pytest.fixture
def trained(noise, tmp_path):
    """The recogniser, trained on speakers 0 and 1, selected on 2; and a table of all, each sound at another place under
    another name, by other names of speakers.
    """
    utterances, _, model = noise
    parts = [[u for u in utterances if u.speaker in names] for names in (("s0", "s1"), ("s2",), ())]
    trained_on.write(model, [Split(*parts, "x")], "clean")
    moved = []
    for number, one in enumerate(utterances):
        place = tmp_path / "moved" / f"{number}.wav"
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(one.path, place)
        moved.append(dataclasses.replace(one, id=f"u{number}", path=place, speaker=f"other-{one.speaker}"))
    manifest.write(tmp_path / "moved.tsv", moved)
    return utterances, model, tmp_path / "moved.tsv"


def test_what_it_was_trained_on_is_refused_wherever_it_lies(trained):
    _, model, table = trained
    with pytest.raises(ValueError) as error:
        scores(model, table)
    words = str(error.value)
    assert "\n" not in words and "knows the labels of 36 of the 72 utterances" in words
    assert "(24 for training and 12 for selection), first u0, by " in words and "--leave-out" in words


def test_it_is_left_out_when_asked(trained):
    utterances, model, table = trained
    found = scores(model, table, leave_out=True)
    rest = [u for u in utterances if u.speaker in ("s3", "s4", "s5")]
    assert found["left_out"]["known"] == 36 and found["num_utterances"] == 36 and found["own_corpus"]
    assert [found["wa"], found["ua"], found["macro_f1"]] == pytest.approx(
        macro([u.label for u in rest], answers(model, rest)))
    assert "left out: 36 that it was trained or selected on" in evaluation.notes(found)
    assert not found["optimistic"]


def test_nothing_left_is_refused(trained, tmp_path):
    utterances, model, _ = trained
    manifest.write(tmp_path / "known.tsv", [u for u in utterances if u.speaker in ("s0", "s2")])
    with pytest.raises(ValueError, match="was trained or selected on all its 24 utterances; nothing is left to test"):
        scores(model, tmp_path / "known.tsv", leave_out=True)


def test_other_utterances_of_its_speakers_are_optimistic(trained, tmp_path):
    """Noted with how many, and how many have the very name of one that it knows, as another format of it would."""
    _, model, _ = trained
    others = drawn_recogniser.corpus(tmp_path / "others", seed=1, each=4)       # other noise, one more of each name
    manifest.write(tmp_path / "others.tsv", others)
    found = scores(model, tmp_path / "others.tsv")
    assert found["optimistic"] and found["same_speakers"] == {"speakers": ["s0", "s1", "s2"], "utterances": 48,
                                                              "same_names": 36, "related_corpus": True}
    note, = [line for line in evaluation.notes(found) if line.startswith("optimistic: ")]
    assert "48 utterances are of 3 speakers whose names are in training or selection, too (s0, s1, s2); 36 " in note
    assert note in evaluation.table("m", "t", found)
    manifest.write(tmp_path / "renamed.tsv", [dataclasses.replace(u, id=f"x-{u.id}") for u in others])
    note, = evaluation.notes(scores(model, tmp_path / "renamed.tsv"))
    assert note.startswith("optimistic, if they are the same people: 48 utterances") and "have the id" not in note
    strangers = [u for u in others if u.speaker not in ("s0", "s1", "s2")]
    manifest.write(tmp_path / "strangers.tsv", strangers)
    assert not evaluation.notes(scores(model, tmp_path / "strangers.tsv"))


def test_what_is_not_known_of_the_training_is_said(noise, trained, tmp_path):
    utterances, table, _ = noise
    older = drawn_recogniser.directory(tmp_path / "older")
    assert "without trained_on.tsv, an older one: whether" in evaluation.notes(scores(older, table))[0]
    nameless = [dataclasses.replace(u, speaker="") for u in drawn_recogniser.corpus(tmp_path / "n", seed=2)]
    manifest.write(tmp_path / "nameless.tsv", nameless)
    assert "whether some were in training cannot be told" in evaluation.notes(
        scores(trained[1], tmp_path / "nameless.tsv"))[0]


@pytest.mark.parametrize("source", ["speaker", "session", "corpus"])
def test_what_a_source_shifts_is_taken_off(noise, source):
    """Centred by hand, speaker by speaker (session by session, all); without being asked nothing is."""
    utterances, table, model = noise
    tested = evaluation.test([Model(model, None)], Corpus(str(table)), EvaluationConfig(centre=source))
    plain = evaluation.test([Model(model, None)], Corpus(str(table)), EvaluationConfig()).sides[0].probabilities
    logs = np.log(plain)
    logs -= logs.mean(1, keepdims=True)
    groups = [{"speaker": u.speaker, "session": u.session, "corpus": "all"}[source] for u in utterances]
    for name in {*groups}:
        own = [i for i, group in enumerate(groups) if group == name]
        logs[own] -= logs[own].mean(0)
    expected = np.exp(logs) / np.exp(logs).sum(1, keepdims=True)
    assert np.allclose(tested.sides[0].probabilities, expected, atol=1e-6)
    assert not np.allclose(plain, expected, atol=1e-2)


def test_a_source_that_cannot_be_centred_is_refused(noise, tmp_path):
    utterances, table, model = noise
    manifest.write(tmp_path / "one.tsv", [dataclasses.replace(utterances[0], speaker="alone"), *utterances[1:]])
    with pytest.raises(ValueError, match="speaker alone has one utterance, of which --centre would leave nothing"):
        scores(model, tmp_path / "one.tsv", centre="speaker")
    manifest.write(tmp_path / "none.tsv", [dataclasses.replace(utterances[0], session=""), *utterances[1:]])
    with pytest.raises(ValueError, match=f"utterance {utterances[0].id} has no session, and --centre session needs it"):
        scores(model, tmp_path / "none.tsv", centre="session")
    with pytest.raises(ValueError, match="--centre must be speaker, session, corpus, got 'voice'"):
        EvaluationConfig(centre="voice")


def test_sounds_that_cannot_be_recognised_are_left_out_and_named(noise, tmp_path):
    utterances, table, model = noise
    shutil.copyfile(utterances[0].path, tmp_path / "blank.wav")
    manifest.write(table, [*utterances, dataclasses.replace(utterances[0], id="blank", path=tmp_path / "blank.wav")])
    found = scores(model, table)
    assert found["num_utterances"] == 72 and [*found["left_out"]["unreadable"]] == ["blank"]
    assert "left out: 1 that could not be recognised (" in "\n".join(evaluation.notes(found))
    manifest.write(table, [dataclasses.replace(utterances[0], id="blank", path=tmp_path / "blank.wav")])
    with pytest.raises(ValueError, match="no sound could be recognised: .*blank.wav: all samples are equal"):
        scores(model, table)


@pytest.mark.parametrize("degrade, seed", (("pink:10", 0), ("babble:0", 3), ("telephone", 0)))
def test_every_sound_is_degraded_where_asked(noise, degrade, seed):
    """Scores are those of the degraded waveforms, which are drawn by id and seed; it is said beside them."""
    utterances, table, model = noise
    found, recogniser = scores(model, table, degrade=degrade, degrade_seed=seed), DrawnRecogniser(model)
    sounds = degraded_sound.sounds(utterances, utterances, degrade, seed)
    guess = [LABELS[int(recogniser.probabilities(sound).argmax())] for sound in sounds]
    true = [u.label for u in utterances]
    assert [found[key] for key in ("wa", "ua", "macro_f1")] == pytest.approx(macro(true, guess))
    assert found["ua"] != scores(model, table)["ua"] and scores(model, table)["degrade"] == ""
    assert f"every sound is degraded: {degrade}, drawn by seed {seed}\n" in evaluation.table("m", "t", found)


def test_a_sound_that_cannot_be_degraded_is_left_out_too(noise, tmp_path):
    utterances, table, model = noise
    blank = dataclasses.replace(utterances[0], id="blank", path=tmp_path / "blank.wav")
    soundfile.write(blank.path, np.zeros(blank.num_samples), 16_000)
    manifest.write(table, [*utterances, blank])
    assert list(scores(model, table, degrade="white:10")["left_out"]["unreadable"]) == ["blank"]


@pytest.mark.parametrize("degrade", ("pink", "reverb:0"))
def test_what_is_no_degradation_is_refused(degrade):
    with pytest.raises(ValueError, match=f"degrade must be white:DB.*{degrade}"):
        EvaluationConfig(degrade=degrade)


def test_the_emotion_over_time_where_its_truth_is_known(noise):
    """Half of each known utterance is emotional: frames all have one class, so that half or all or nothing is wrong."""
    utterances, table, model = noise
    assert scores(model, table)["over_time"] is None
    known = [u.label != "sad" for u in utterances]
    manifest.write(table, [dataclasses.replace(u, truth=() if u.label == "neutral" else (Stretch(0, 0.05, u.label),))
                           if has_truth else u for u, has_truth in zip(utterances, known)])
    rates = []
    for one, guess, has_truth in zip(utterances, answers(model, utterances), known):
        if has_truth:
            true = {"neutral": 1.0} if one.label == "neutral" else {one.label: 0.5, "neutral": 0.5}
            rates.append(1 - true.get(guess, 0.0))
    found = scores(model, table)["over_time"]
    assert found["eder"] == pytest.approx(np.mean(rates)) and found["num_utterances"] == 54
