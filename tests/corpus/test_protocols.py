"""Which utterances each protocol trains, selects and tests on, and the corpora that no protocol can use."""
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from framealign.corpus import frame_truth
from framealign.corpus.protocols import (OPTIMISTIC, SELECTIONS, Split, check_speakers, merged_labels, merged_words,
                                         of_classes, pretraining_utterances, split, with_label_share)
from framealign.corpus.utterance import CLASSES, Stretch, Utterance, summary


def corpus(num_sessions: int = 5, per_class: int = 2) -> list[Utterance]:
    """IEMOCAP in small: two speakers per session, `per_class` utterances of each class by each."""
    return [Utterance(f"Ses{session:02d}F_impro01_{gender}{number:03d}", Path(f"/{session}{gender}{number}.wav"),
                      16_000, str(session), f"Ses{session:02d}{gender}", gender, CLASSES[number % 4], "impro")
            for session in range(1, num_sessions + 1) for gender in "FM" for number in range(4 * per_class)]


def ids(utterances: list[Utterance]) -> list[str]:
    return [utterance.id for utterance in utterances]


def sessions(utterances: list[Utterance]) -> set[str]:
    return {utterance.session for utterance in utterances}


def speakers(utterances: list[Utterance]) -> set[str]:
    return {utterance.speaker for utterance in utterances}


@pytest.mark.parametrize("name, group", [
    ("Ses01F_impro01_M013", "Ses01M"), ("Ses05M_script01_1b_F000", "Ses05F"), ("Ses01F_script02_2_FXX0", "Ses01F"),
    ("03a01Wa", "03a01Wa"), ("Ses01F_impro01", "Ses01F_impro01"), ("_M013", "_M013")])
def test_the_group_is_the_speaker_else_the_utterance(name, group):
    assert Utterance(name, Path("/a.wav"), 400).group == group
    assert Utterance(name, Path("/a.wav"), 400, speaker="someone").group == "someone"


def uneven(draw: np.random.Generator) -> Split:
    """A split of 3 sessions, each with 3 speakers, who have 0 to 30 utterances of each class, one of them 20 of all."""
    utterances = []
    for session in "123":
        for s in range(3):
            for name in CLASSES:
                for number in range(20 if s == 0 else draw.integers(31)):
                    utterances.append(Utterance(f"{session}{s}{name}{number}", Path("/a.wav"), 400, session,
                                                f"{session}{s}", label=name))
    one, = split([utterances[i] for i in draw.permutation(len(utterances))], "1", "clean")
    return one


@pytest.mark.parametrize("number", range(20))
def test_a_share_of_the_labels_is_one_of_every_class_and_speaker(number):
    """Counts of a class are the nearest whole ones; of a speaker they are as near as 4 classes allow."""
    draw = np.random.default_rng(number)
    whole, share = uneven(draw), draw.uniform(0.02, 0.9)
    some = with_label_share(whole, share, seed=number)
    assert some.test == whole.test and some.name == whole.name
    for part, of_whole in ((some.train, whole.train), (some.valid, whole.valid)):
        assert ids(part) == [name for name in ids(of_whole) if name in {*ids(part)}]
        of_class, all_of_class = (Counter(utterance.label for utterance in one) for one in (part, of_whole))
        for name in CLASSES:
            assert abs(of_class[name] - share * all_of_class[name]) <= 0.5 or of_class[name] == 1
        of_speaker, all_of_speaker = (Counter(utterance.speaker for utterance in one) for one in (part, of_whole))
        for name, count in all_of_speaker.items():
            assert abs(of_speaker[name] - share * count) <= 3


def test_shares_of_the_labels_are_nested_and_follow_from_seed_and_ids():
    whole = uneven(np.random.default_rng(0))
    nested = [with_label_share(whole, share, seed=1) for share in (0.001, 0.1, 0.3, 0.31, 1.0)]
    for smaller, larger in zip(nested, nested[1:]):
        assert {*ids(smaller.train)} <= {*ids(larger.train)} and {*ids(smaller.valid)} <= {*ids(larger.valid)}
    assert nested[-1] == whole
    assert sorted(utterance.label for utterance in nested[0].train) == sorted(CLASSES)     # at least one of each

    backwards = replace(whole, train=whole.train[::-1], valid=whole.valid[::-1])
    again = with_label_share(backwards, 0.1, seed=1)
    assert (again.train, again.valid) == (nested[1].train[::-1], nested[1].valid[::-1])
    assert ids(with_label_share(whole, 0.1, seed=2).train) != ids(nested[1].train)
    assert with_label_share(replace(whole, valid=[]), 0.1, seed=1) == replace(nested[1], valid=[])


def test_which_utterances_keep_their_label_is_no_matter_of_their_place():
    """Over seeds each of a speaker's equally many utterances is drawn about as often."""
    whole, = split(corpus(per_class=10), "1", "clean")
    times = Counter(name for seed in range(200) for name in ids(with_label_share(whole, 0.2, seed).train))
    assert len(times) == len(whole.train) and 15 <= min(times.values()) and max(times.values()) <= 70      # of 40 +- 6


def labelled(*labels: str) -> list[Utterance]:
    return [Utterance(f"u{number}", Path(f"/{number}.wav"), 400, label=label) for number, label in enumerate(labels)]


@pytest.mark.parametrize("spelling, name", [
    ("neu", "neutral"), ("Neutral", "neutral"), ("hap", "happy"), ("happiness", "happy"), ("exc", "happy"),
    ("EXCITED", "happy"), ("ang", "angry"), ("anger", "angry"), ("sadness", "sad"), ("", ""), ("saddish", "")])
def test_spellings(spelling, name):
    assert [u.label for u in of_classes(labelled(spelling, "sad"), CLASSES)] == [name, "sad"]


@pytest.mark.parametrize("spellings, name", [
    (("fea", "Fearful", "fear"), "fear"), (("dis", "disgusted"), "disgust"), (("SUR", "surprised"), "surprise"),
    (("bored",), "boredom"), (("fru", "frustration"), "frustrated")])
def test_spellings_of_other_emotions(spellings, name):
    """They name their class where it is one, and none of the usual four."""
    for spelling in spellings:
        utterances = labelled(spelling, "sad")
        assert [u.label for u in of_classes(utterances, ("sad", name))] == [name, "sad"]
        assert [u.label for u in of_classes(utterances, ("sad", spelling.lower()))] == [spelling.lower(), "sad"]
        assert [u.label for u in of_classes(utterances, CLASSES)] == ["", "sad"]


def test_classes_that_are_not_the_usual_ones(capsys):
    """What is a class of its own is merged with none; other labels are left out, counted and named in one note."""
    utterances = labelled("exc", "Excited", "joy", "happy", "fear", "", "FEAR", "fear", "sad")
    assert [u.label for u in of_classes(utterances, ("happy", "Excited"))] == [
        "Excited", "Excited", "happy", "happy", "", "", "", "", ""]
    assert capsys.readouterr().err == ("4 utterances with labels that are no class (fear 2, FEAR 1, sad 1) are "
                                       "left out of fine-tuning and test; classes: happy, Excited\n")
    chosen = of_classes(utterances, ("fear", "joy"))
    assert [u.label for u in chosen] == ["", "", "joy", "", "fear", "", "fear", "fear", ""]
    assert [replace(u, label="") for u in chosen] == [replace(u, label="") for u in utterances]
    with pytest.raises(ValueError, match="no label is one of the classes calm, bored; there are: fear 2, exc 1.*"
                                         "choose others with --classes"):
        of_classes(utterances, ("calm", "bored"))


@pytest.mark.parametrize("merge, names", [
    ("", ["neutral", "happy", "happy", "happy", "", "", ""]), ("none", ["neutral", "happy", "", "", "", "", ""]),
    ("calm=neutral", ["neutral", "happy", "", "", "neutral", "", ""]),
    ("excited = Happy,CALM=neutral", ["neutral", "happy", "happy", "happy", "neutral", "", ""]),
    ("exc=sad", ["neutral", "happy", "sad", "", "", "", ""]),                   # the spelling alone
    ("excited=angry,fear=sad", ["neutral", "happy", "angry", "angry", "", "sad", ""])])
def test_what_counts_as_a_class_is_what_the_user_says(merge, names):
    """In place of the default, excited as happy; a label is merged in any spelling."""
    utterances = labelled("neu", "joy", "exc", "Excited", "Calm", "fear", "")
    assert [u.label for u in of_classes(utterances, CLASSES, merge)] == names


def test_the_default_is_the_papers_and_says_so():
    assert merged_words(merged_labels("", CLASSES)) == "excited into happy"
    assert merged_words(merged_labels("", ("Happy", "sad"))) == "excited into happy"
    for classes in (("happy", "excited"), ("sad", "calm")):
        assert merged_words(merged_labels("", classes)) == "none"
    assert merged_words(merged_labels("calm=neutral,excited=happy", CLASSES)) == "calm into neutral, excited into happy"


@pytest.mark.parametrize("merge, words", [
    ("calm", "must be label=class.*got 'calm'"), ("calm=", "must be label=class"), ("=sad", "must be label=class"),
    ("calm=sad=happy", "must be label=class"), ("calm=sad,", "must be label=class"),
    ("calm=neutral,calm=sad", "counts calm as neutral and as sad"),
    ("calm=serene", "calm as serene, which is no class; classes: neutral, happy, angry, sad"),
    ("happy=sad", "take the class happy away, happy into sad; leave happy out of --classes"),
    ("joy=sad", "take the class happy away, joy into sad; leave happy out of --classes"),
    ("happy=sad,sad=happy", "circle.*happy counts as sad, and sad as happy"),
    ("sad=sad", "circle"), ("calm=bored,bored=neutral", "chain: calm counts as bored, and bored as neutral"),
    ("fear=sad", "names fear, and no utterance has that label; there are: calm, happy")])
def test_merges_that_cannot_be(merge, words):
    with pytest.raises(ValueError, match=words) as caught:
        of_classes(labelled("calm", "happy"), CLASSES, merge)
    assert "--merge" in str(caught.value) and "\n" not in str(caught.value)


def test_votes_and_the_truth_about_frames_count_as_their_classes(tmp_path):
    """In the manifest, and beside the sound file, from which the truth is then taken."""
    known = (Stretch(0.0, 0.25, "calm"), Stretch(0.25, 0.5, "exc"))
    told = Utterance("a", tmp_path / "a.wav", 16_000, label="exc", truth=known,
                     votes=(("calm", 1.0), ("neu", 1.0), ("exc", 2.0)))
    frame_truth.write(tmp_path / "b.wav", [(10, 20, "excited"), (30, 40, "calm")])
    beside = Utterance("b", tmp_path / "b.wav", 16_000, label="excited")
    first, second, _ = of_classes([told, beside, *labelled("calm")], CLASSES, "calm=neutral,excited=sad")
    assert first.votes == (("neutral", 2.0), ("sad", 2.0))
    assert frame_truth.stretches(first) == [Stretch(0.25, 0.5, "sad")]
    assert frame_truth.stretches(second) == [Stretch(0.2, 0.4, "sad")]
    assert of_classes([beside], CLASSES)[0].truth is None                       # untouched where nothing is said


def test_other_labels_change_no_fold_and_stay_in_pretraining():
    """Labels beside the four classes: the same parts as without those utterances, whose sound is pretrained on."""
    others = [replace(u, id=u.id + "x", label="fear") for u in corpus()[::3]]
    chosen = of_classes([*corpus(), *others], CLASSES)
    for selection in SELECTIONS:
        assert split(chosen, "2", selection) == split(corpus(), "2", selection)
    assert len(pretraining_utterances(chosen, "2", "transductive")) == len(corpus()) + len(others)


@pytest.mark.parametrize("kind, first, second", [("session", "1", "01"), ("session", "a", "A "),
                                                 ("speaker", "Ses01F", "ses1f"), ("speaker", "s10", "S010")])
def test_names_that_differ_in_spelling_alone(kind, first, second):
    """They would be two sessions, or a speaker in training and test."""
    names = [first, second]
    utterances = [replace(u, **{kind: names[number % 2]}) if u.session == "1" else u
                  for number, u in enumerate(corpus())]
    for selection in SELECTIONS:
        with pytest.raises(ValueError, match=f"{kind} .* and {kind} .* differ in spelling alone"):
            split(utterances, "2", selection)


@pytest.mark.parametrize("session, validation", [("1", "2"), ("2", "3"), ("5", "1")])
def test_clean_validates_on_the_next_training_session(session, validation):
    part, = split(corpus(), session, "clean")
    assert sessions(part.test) == {session} and sessions(part.valid) == {validation}
    assert sessions(part.train) == {"1", "2", "3", "4", "5"} - {session, validation}
    assert part.name == f"session{session}"


def test_clean_on_a_speaker_keeps_the_other_in_training():
    part, = split(corpus(), "5", "clean", validate_on="speaker")
    assert speakers(part.valid) == {"Ses01F"} and "Ses01M" in speakers(part.train)
    assert sessions(part.test) == {"5"} and len(part.train) + len(part.valid) + len(part.test) == len(corpus())


@pytest.mark.parametrize("selection", ["last", "best-test"])
def test_last_and_best_test_have_no_validation(selection):
    part, = split(corpus(), "3", selection)
    assert part.valid == [] and sessions(part.test) == {"3"} and sessions(part.train) == {"1", "2", "4", "5"}


@pytest.mark.parametrize("selection", ["speaker", "reference"])
def test_speaker_and_reference_go_both_ways(selection):
    first, second = split(corpus(), "2", selection)
    assert speakers(first.valid) == speakers(second.test) == {"Ses02F"}
    assert speakers(first.test) == speakers(second.valid) == {"Ses02M"}
    assert first.train == second.train and sessions(first.train) == {"1", "3", "4", "5"}
    assert (first.name, second.name) == ("session2-valid-Ses02F", "session2-valid-Ses02M")


@pytest.mark.parametrize("selection", ["speaker", "reference"])
@pytest.mark.parametrize("num_speakers", [2, 3, 5])
def test_each_speaker_is_tested_once_however_many_there_are(selection, num_speakers):
    crowd = [replace(u, id=f"{u.id}-{n}", speaker=f"{u.speaker}{n}") for u in corpus() if u.speaker.endswith("F")
             for n in range(num_speakers)]
    parts = split(crowd, "2", selection)
    everyone = [u for u in crowd if u.session == "2"]
    assert sorted(ids([u for part in parts for u in part.test])) == sorted(ids(everyone))
    assert len({part.name for part in parts}) == len(parts) == num_speakers
    for part in parts:
        assert len(speakers(part.test)) == 1 and speakers(part.valid) == speakers(everyone) - speakers(part.test)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_class_may_be_missing_where_that_is_allowed(selection):
    """One speaker is never sad: allowed in validation and test, never in training, never all classes."""
    utterances = [u for u in corpus() if not (u.label == "sad" and u.speaker == "Ses01F")]
    if selection in ("speaker", "reference"):       # elsewhere the session's other speaker is sad
        with pytest.raises(ValueError, match="has no utterance labelled sad; .*--allow-missing-classes"):
            split(utterances, "1", selection)
    parts = split(utterances, "1", selection, allow_missing_classes=True)
    assert len(ids([u for part in parts for u in part.test])) == 14
    for missing_in in ("2345", "1"):
        lost = "sad" if missing_in == "2345" else None
        wrong = [u for u in corpus() if u.session not in missing_in or lost and u.label != lost]
        with pytest.raises(ValueError) as caught:
            split(wrong, "1", selection, allow_missing_classes=True)
        assert "--allow-missing-classes" not in str(caught.value)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("validate_on", ["session", "speaker"])
def test_parts_are_disjoint_keep_their_order_and_lose_nobody(selection, validate_on):
    everyone = ids(corpus())
    for session in "12345":
        for part in split(corpus(), session, selection, validate_on):
            together = ids(part.train) + ids(part.valid) + ids(part.test)
            assert sorted(together) == sorted(everyone)
            assert not {session} & sessions(part.train) and sessions(part.test) == {session}
            for utterances in (part.train, part.valid, part.test):
                assert ids(utterances) == [name for name in everyone if name in set(ids(utterances))]


def test_unlabelled_utterances_are_in_no_part():
    unlabelled = Utterance("extra", Path("/x.wav"), 16_000)
    part, = split([unlabelled, *corpus()], "1", "clean")
    assert "extra" not in ids(part.train + part.valid + part.test)
    with pytest.raises(ValueError, match="no utterance has a label"):
        split([unlabelled], "1", "last")


def test_ten_comes_after_two():
    part, = split(corpus(10), "2", "clean")
    assert sessions(part.valid) == {"3"}
    part, = split(corpus(10), "10", "clean")
    assert sessions(part.valid) == {"1"}


def test_unknown_session_and_protocol():
    with pytest.raises(ValueError, match="session 7; there are: 1, 2, 3, 4, 5"):
        split(corpus(), "7", "clean")
    with pytest.raises(ValueError, match="clean, last, speaker, reference, best-test.*got best"):
        split(corpus(), "1", "best")
    with pytest.raises(ValueError, match="validate_on session or speaker, got clean and half"):
        split(corpus(), "1", "clean", "half")


@pytest.mark.parametrize("num_sessions, selection, needed", [(1, "last", 2), (1, "speaker", 2), (2, "clean", 3)])
def test_too_few_sessions(num_sessions, selection, needed):
    with pytest.raises(ValueError, match=f"session 1 cannot.*at least {needed} sessions.*there are {num_sessions} "):
        split(corpus(num_sessions), "1", selection)


def test_two_sessions_are_enough_for_clean_on_a_speaker():
    part, = split(corpus(2), "1", "clean", "speaker")
    assert (speakers(part.train), speakers(part.valid)) == ({"Ses02M"}, {"Ses02F"})


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("place, missing_in", [("test", "1"), ("training", "2345"), ("validation", "2")])
def test_a_part_without_one_of_the_classes(selection, place, missing_in):
    utterances = [u for u in corpus() if not (u.label == "sad" and u.session in missing_in)]
    if place == "validation" and selection != "clean":
        split(utterances, "1", selection)
        return
    with pytest.raises(ValueError, match="holding out session 1.*has no utterance labelled sad") as caught:
        split(utterances, "1", selection)
    if place != "training" and selection not in ("speaker", "reference"):
        assert f"the {place} part (of session {missing_in})" in str(caught.value)


def test_other_classes():
    utterances = [u for u in corpus() if u.label in ("happy", "sad")]
    part, = split(utterances, "1", "last", classes=("happy", "sad"))
    assert {u.label for u in part.train} == {"happy", "sad"}


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_speaker_in_two_sessions(selection):
    """Ses01F is also heard in session 4: an error unless the protocol is marked optimistic anyway."""
    utterances = [replace(u, speaker="Ses01F") if u.speaker == "Ses04F" else u for u in corpus()]
    if selection in OPTIMISTIC:
        split(utterances, "1", selection)
        return
    with pytest.raises(ValueError, match="session1.*speaker Ses01F is in the training part .*Ses04F_impro01_F000.* and "
                                         "in the (validation|test) part .*Ses01F_impro01_F000.*reference, best-test"):
        split(utterances, "1", selection)


def test_check_speakers_lets_unknown_speakers_pass():
    a, b = (Utterance(name, Path("/a.wav"), 400) for name in "ab")
    check_speakers(Split([a], [], [b], "x"))
    with pytest.raises(ValueError, match="x: speaker s is in the validation part"):
        check_speakers(Split([], [replace(a, speaker="s")], [replace(b, speaker="s")], "x"))


def test_sessions_and_speakers_that_are_not_filled_in():
    utterances = corpus()
    with pytest.raises(ValueError, match="utterance Ses01F_impro01_F000 has no session"):
        split([replace(utterances[0], session=""), *utterances[1:]], "1", "clean")
    with pytest.raises(ValueError, match="session 1 has utterances without a speaker"):
        split([replace(utterances[0], speaker=""), *utterances[1:]], "1", "speaker")
    with pytest.raises(ValueError, match=r"session 1 has one speaker \(Ses01F\)"):
        split([u for u in utterances if u.speaker != "Ses01M"], "1", "reference")


def test_pretraining_data():
    utterances = [*corpus(), Utterance("extra", Path("/x.wav"), 16_000)]
    assert pretraining_utterances(utterances, "3", "transductive") == utterances
    inductive = pretraining_utterances(utterances, "3", "inductive")
    assert sessions(inductive) == {"1", "2", "4", "5", ""} and len(inductive) == len(utterances) - 16
    with pytest.raises(ValueError, match="transductive or inductive, got both"):
        pretraining_utterances(utterances, "3", "both")
    with pytest.raises(ValueError, match="session 9; there are: 1, 2, 3, 4, 5"):
        pretraining_utterances(utterances, "9", "inductive")


def test_summary_counts_and_hours():
    """16 utterances of a second per session, and an hour without label and session."""
    utterances = [*corpus(2), Utterance("extra", Path("/x.wav"), 16_000 * 3600)]
    rows = [line.split() for line in summary(utterances).splitlines()]
    assert rows == [["session", "neutral", "happy", "angry", "sad", "unlabelled", "total", "hours"],
                    ["1", "4", "4", "4", "4", "0", "16", "0.00"], ["2", "4", "4", "4", "4", "0", "16", "0.00"],
                    ["unknown", "0", "0", "0", "0", "1", "1", "1.00"], ["all", "8", "8", "8", "8", "1", "33", "1.01"]]
    assert "unlabelled" not in summary(corpus(2))


def test_summary_of_many_labels_and_spellings():
    """The four classes first, in their order, however they are spelt; the rarest of many labels share a column."""
    assert summary(labelled("sad", "fear", "ang", "Neutral", "bored", "exc", "neu", "hap")).split()[:9] == [
        "session", "Neutral", "neu", "exc", "hap", "ang", "sad", "bored", "fear"]
    many = [f"label{number:02d}" for number in range(20) for _ in range(20 - number)]
    header, *_, row = (line.split() for line in summary(labelled(*many)).splitlines())
    assert header == ["session", *(f"label{number:02d}" for number in range(12)), "8", "others", "total", "hours"]
    assert row == ["all", *map(str, range(20, 8, -1)), "36", "210", "0.00"]
