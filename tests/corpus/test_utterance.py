"""Which corpus it is: by names, order and what the sound files hold, wherever they lie."""
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from framealign.corpus.utterance import Utterance, common_word, corpus_description, corpus_digest, summary


def test_a_corpus_is_known_by_its_content(tones, tmp_path):
    moved = [dataclasses.replace(u, path=Path(shutil.copy(u.path, tmp_path))) for u in tones]
    assert corpus_digest(moved) == corpus_digest(tones)
    assert corpus_description(moved) == f"24 utterances (digest {corpus_digest(tones)})"

    renamed = [dataclasses.replace(tones[0], id="another"), *tones[1:]]
    for other in (tones[::-1], tones[:-1], renamed):
        assert corpus_digest(other) != corpus_digest(tones)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, moved[3].num_samples)
    soundfile.write(moved[3].path, noise, 16_000)
    assert corpus_digest(moved) != corpus_digest(tones)


@pytest.mark.parametrize("id, corpus, group", [
    ("Ses01F_impro01_M013", "", "Ses01M"), ("a~Ses01F_impro01_M013", "", "Ses01M"),
    ("iemocap-Ses01F_impro01_M013", "iemocap", "Ses01M"), ("iemocap-a~Ses01F_impro01_M013", "iemocap", "Ses01M"),
    ("iemocap-Ses01F_impro01_M013", "", "iemocap-Ses01F_impro01_M013"), ("ravdess-03-01", "ravdess", "ravdess-03-01")])
def test_an_id_of_iemocap_tells_its_speaker_in_any_corpus(id, corpus, group):
    assert Utterance(id, Path("/a.wav"), 400, corpus=corpus).group == group
    assert Utterance(id, Path("/a.wav"), 400, corpus=corpus, speaker="known").group == "known"


@pytest.mark.parametrize("label, word", [("Anger", "angry"), ("ang", "angry"), ("joy", "happy"), ("exc", "excited"),
                                         ("excited", "excited"), ("Calm", "calm"), ("neu", "neutral"), ("", "")])
def test_labels_in_common_words(label, word):
    """Nothing is merged: excited stays."""
    assert common_word(label) == word


def test_a_summary_by_corpus_where_corpora_are_known():
    rows = [("a", "1", "sad"), ("a", "2", "angry"), ("b", "1", "sad"), ("", "1", "")]
    utterances = [Utterance(f"u{i}", Path(f"/{i}.wav"), 16_000 * 360, session, label=label, corpus=corpus)
                  for i, (corpus, session, label) in enumerate(rows)]
    by_session, by_corpus = summary(utterances).split("\n\n")
    assert [line.split() for line in by_session.splitlines()] == [
        ["session", "angry", "sad", "unlabelled", "total", "hours"], ["1", "0", "2", "1", "3", "0.30"],
        ["2", "1", "0", "0", "1", "0.10"], ["all", "1", "2", "1", "4", "0.40"]]
    assert [line.split() for line in by_corpus.splitlines()] == [
        ["corpus", "angry", "sad", "unlabelled", "total", "hours"], ["a", "1", "1", "0", "2", "0.20"],
        ["b", "0", "1", "0", "1", "0.10"], ["unknown", "0", "0", "1", "1", "0.10"],
        ["all", "1", "2", "1", "4", "0.40"]]
    held_out_in_turn = [dataclasses.replace(u, session=u.corpus) for u in utterances]
    assert summary(held_out_in_turn) == by_corpus
    assert summary([dataclasses.replace(u, corpus="") for u in utterances]) == by_session
