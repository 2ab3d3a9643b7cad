"""Joined utterances: who is joined with whom, levels, seams and truth, against what was put in; what is refused."""
import dataclasses
from collections import Counter

import numpy as np
import pytest
import soundfile

from framealign.runtime import log
from framealign.sound.frames import num_frames
from framealign.corpus import frame_truth, joining
from framealign.corpus.joining import Joined
from framealign.corpus.utterance import Utterance

LEVELS = {"neutral": 0.02, "angry": 0.3, "sad": 0.005}      # so that loudness would tell the emotion


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> list[Utterance]:
    """Three speakers of two sessions; noise between two silences, its level that of its label."""
    folder, utterances, rng = tmp_path_factory.mktemp("joined"), [], np.random.default_rng(0)
    for speaker, session, gender in (("anna", "1", "F"), ("bert", "1", "M"), ("cleo", "2", "F")):
        for number in range(36):
            label = ("neutral", "angry", "sad")[number % 3]
            silence = [np.zeros(int(rng.integers(0, 3000))) for _ in range(2)]
            noise = LEVELS[label] * rng.standard_normal(int(rng.integers(8000, 20_000)))
            path = folder / f"{speaker}{number}.wav"
            samples = np.concatenate([silence[0], noise, silence[1]])
            soundfile.write(path, samples, 16_000, subtype="FLOAT")
            utterances.append(Utterance(path.stem, path, len(samples), session, speaker, gender, label))
    return utterances


def test_each_emotional_utterance_once_in_drawn_company_of_its_speaker(corpus):
    drawn = joining.draw(corpus, seed=1)
    assert [joined.emotional for joined in drawn] == [u for u in corpus if u.label != "neutral"]
    counts = Counter(joined.pattern for joined in drawn)
    assert set(counts) == {"neutral-emotional", "emotional-neutral", "neutral-emotional-neutral", "emotional"}
    assert min(counts.values()) >= 8                # of 72, a quarter each
    for joined in drawn:
        assert {part.speaker for part in joined.parts} == {joined.emotional.speaker}
        assert [part.label for part in joined.parts].count("neutral") == len(joined.parts) - 1
        assert len(set(joined.parts)) == len(joined.parts)
    assert joining.draw(corpus, seed=1) == drawn and joining.draw(corpus, seed=2) != drawn
    fewer = [u for u in corpus if u.label != "sad"]
    assert joining.draw(fewer, seed=1) == [joined for joined in drawn if joined.emotional.label != "sad"]


def test_parts_have_one_level_and_seams_without_silence(corpus):
    for joined in joining.draw(corpus, seed=1)[:30]:
        sound, rows = joining.render(joined)
        (first, end, label), = rows
        assert label == joined.emotional.label and num_frames(len(sound)) * 320 + 80 == len(sound)
        edges = [0]
        for part in joined.parts:
            samples = soundfile.read(part.path)[0]
            heard = np.flatnonzero(samples)
            hops = range(heard[0] // 320, min(heard[-1] // 320 + 1, len(samples) // 320))
            assert abs(len(hops) - (joining.audible(samples)[1] - joining.audible(samples)[0])) <= 2
            edges.append(edges[-1] + joining.audible(samples)[1] - joining.audible(samples)[0])
            if part is joined.emotional:
                assert edges[-2:] == [first, end]
        assert edges[-1] * 320 + 80 == len(sound)
        levels = [np.sqrt(np.mean(sound[320 * a:320 * b] ** 2)) for a, b in zip(edges, edges[1:])]
        assert max(levels) / min(levels) == pytest.approx(1, rel=1e-4)
        quiet = np.square(sound[:-80].reshape(-1, 320)).mean(1) < 1e-4 * np.square(sound).mean()
        assert not quiet.any()


def test_nothing_is_clipped(corpus):
    """An emotional part as quiet as its peak is high, beside a loud one."""
    rng = np.random.default_rng(0)
    samples = 0.001 * rng.standard_normal(16_000)
    samples[8000] = 0.5
    path = corpus[0].path.with_name("click.wav")
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    loud, click = corpus[1], dataclasses.replace(corpus[2], path=path)
    sound, _ = joining.render(Joined((loud, click), click))
    assert np.abs(sound).max() == pytest.approx(0.99)


def test_a_corpus_is_written_with_its_truth(corpus, tmp_path):
    written = joining.write_corpus(tmp_path / "out", corpus[:36], seed=4)
    assert len(written) == 24
    for utterance, joined in zip(written, joining.draw(corpus[:36], seed=4)):
        sound, rows = joining.render(joined)
        samples, rate = soundfile.read(utterance.path, dtype="float32")
        assert rate == 16_000 and len(samples) == utterance.num_samples == len(sound)
        assert np.abs(samples - sound).max() < 0.51 / 2 ** 15
        assert frame_truth.rows(utterance.path) == rows
        assert (utterance.id, utterance.speaker, utterance.label) == (
            joined.emotional.id, joined.emotional.speaker, joined.emotional.label)
        assert utterance.style == joined.pattern
    with pytest.raises(ValueError, match="already there and not empty"):
        joining.write_corpus(tmp_path / "out", corpus, seed=4)


def test_what_is_too_short_is_left_out(corpus, tmp_path, capsys):
    """An utterance that is all but silent, neutral or emotional, costs one line for all; `render` refuses it."""
    rng = np.random.default_rng(0)
    samples = 1e-4 * rng.standard_normal(16_000)
    samples[8000:10_560] = 0.3 * rng.standard_normal(2560)
    path = tmp_path / "short.wav"
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    numbers = [next(i for i, u in enumerate(corpus[:36]) if u.label == label) for label in ("neutral", "angry")]
    spoilt = [dataclasses.replace(u, path=path) if i in numbers else u for i, u in enumerate(corpus[:36])]
    log._said.clear()
    written = joining.write_corpus(tmp_path / "out", spoilt)
    first, second = (corpus[i].id for i in sorted(numbers))
    assert (f"left out, shorter than 0.2 s without the silence at their ends: 2 of 36 utterances ({first}, {second})\n"
            in capsys.readouterr().err)
    kept = [u for i, u in enumerate(corpus[:36]) if i not in numbers]
    assert [u.id for u in written] == [j.emotional.id for j in joining.draw(kept, seed=0)] and len(written) == 23
    alone = joining.Joined((spoilt[numbers[1]],), spoilt[numbers[1]])
    with pytest.raises(ValueError, match=r"short.wav: 0.16 s without the silence at its ends, must be >= 0.2 s"):
        joining.render(alone)


def test_a_set_appears_whole_or_not_at_all(corpus, tmp_path, monkeypatch):
    """Where one cannot be joined, nothing of those before it is left."""
    render, rendered = joining.render, []

    def fails_at_last(joined):
        rendered.append(joined)
        if len(rendered) == 24:
            raise ValueError("rotten.wav: cannot be read")
        return render(joined)

    monkeypatch.setattr(joining, "render", fails_at_last)
    with pytest.raises(ValueError, match="rotten.wav: cannot be read"):
        joining.write_corpus(tmp_path / "out", corpus[:36])
    assert len(rendered) == 24 and not any(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    assert len(joining.write_corpus(tmp_path / "out", corpus[:36])) == 24      # an empty folder gives way


def test_labels_are_known_in_any_spelling(corpus):
    """`neu` is neutral; an emotion keeps its label, which is that of its stretch too."""
    spelt = [dataclasses.replace(u, label={"neutral": "Neu", "angry": "anger"}.get(u.label, u.label)) for u in corpus]
    drawn = joining.draw(spelt, seed=1)
    assert [j.emotional.id for j in drawn] == [j.emotional.id for j in joining.draw(corpus, seed=1)]
    assert {j.emotional.label for j in drawn} == {"anger", "sad"}
    assert joining.render(drawn[0])[1][0][2] == "anger"


def test_a_speaker_without_neutral_utterances_borrows_and_it_is_said(corpus, capsys):
    """From the other speaker of the session, or is refused; a session has nobody to borrow from."""
    lacking = [u for u in corpus if (u.speaker, u.label) != ("bert", "neutral")]
    for joined in joining.draw(lacking, seed=1):
        if joined.emotional.speaker == "bert" and len(joined.parts) > 1:
            assert {part.speaker for part in joined.parts} == {"bert", "anna"}
    assert "speaker bert has no neutral utterance: joined with those of anna" in capsys.readouterr().err
    with pytest.raises(ValueError, match="bert of session 1 has no neutral utterance .* or take those of others"):
        joining.draw(lacking, seed=1, one_speaker=True)
    unknown = [dataclasses.replace(u, speaker="") for u in corpus]
    assert {part.session for j in joining.draw(unknown, seed=1) if j.emotional.session == "2" for part in j.parts} == {
        "2"}
    assert "speaker (unknown) has no neutral utterance: joined with those of session" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"\(unknown\) of session 1 has no neutral utterance"):
        joining.draw(unknown, seed=1, one_speaker=True)
    with pytest.raises(ValueError, match="speaker cleo of session 2 has no neutral utterance to join with; leave the"):
        joining.draw([u for u in corpus if (u.speaker, u.label) != ("cleo", "neutral")], seed=1)


def check_company(utterances, kind, folder):
    """Joined parts are alike in this field, and what is written of the first nine utterances keeps it."""
    for joined in joining.draw(utterances, seed=1):
        assert {getattr(part, kind) for part in joined.parts} == {getattr(joined.emotional, kind)}
    written = joining.write_corpus(folder, utterances[:9])
    kind_of = {u.id: getattr(u, kind) for u in utterances}
    assert len(written) == 6 and all(getattr(u, kind) == kind_of[u.id] for u in written)


def test_company_is_of_the_same_part_of_a_fixed_split(corpus, tmp_path):
    """Also where a speaker is in several parts, as in some published splits; the part is kept."""
    parts = [dataclasses.replace(u, split=("train", "valid", "test")[number // 3 % 3])
             for number, u in enumerate(corpus)]
    check_company(parts, "split", tmp_path / "joined")


def test_company_is_of_the_same_corpus(corpus, tmp_path):
    """Also where neither speakers nor sessions are known, or those of two corpora have one name; the corpus is kept."""
    for case, known in enumerate(({}, {"speaker": ""}, {"speaker": "", "session": ""})):
        several = [dataclasses.replace(u, corpus=("a", "b")[number // 3 % 2], **known)
                   for number, u in enumerate(corpus)]
        check_company(several, "corpus", tmp_path / f"joined{case}")


def test_what_cannot_be_joined_is_refused(corpus):
    for label, kind in (("neutral", "emotional"), ("angry", "neutral"), ("", "neutral")):
        with pytest.raises(ValueError, match=f"no {kind} utterance to join"):
            joining.draw([dataclasses.replace(u, label=label) for u in corpus], seed=1)
    one = [corpus[0], corpus[1]]                    # one neutral utterance: it may have to come twice
    patterns = set()
    for seed in range(12):
        joined, = joining.draw(one, seed=seed)
        assert set(joined.parts) <= set(one)
        patterns.add(joined.pattern)
    assert len(patterns) == 4
