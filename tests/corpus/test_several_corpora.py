"""Several corpora as one: names that stay apart, labels in common words, what else is kept, what is refused."""
import random
import runpy
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small
import soundfile

from framealign.corpus import folds, manifest, protocols
from framealign.corpus.several_corpora import prefixed, together
from framealign.corpus.utterance import CLASSES, Stretch, Utterance, names_of

SPELT = {"neutral": ("neutral", "neu", "Neutral"), "happy": ("happiness", "joy", "hap"), "angry": ("anger", "ANG"),
         "sad": ("sad", "sadness"), "": ("",), "excited": ("exc",), "no agreement": ("No agreement",)}


def random_table(draw: random.Random, name: str) -> tuple[str, list[Utterance]]:
    """A table whose ids, speakers and sessions are those of every other; some speakers and sessions unknown."""
    utterances = []
    for number in range(draw.randint(1, 40)):
        label = draw.choice(list(SPELT))
        truth = draw.choice((None, (), (Stretch(0.001, 0.002, "anger"),)))
        utterances.append(Utterance(
            f"u{number}", Path(f"/data/{name}/{number}.wav"), draw.randint(400, 999), draw.choice(("1", "2", "")),
            draw.choice(("03", "08", "")), draw.choice("FM"), draw.choice(SPELT[label]), "a style", truth,
            draw.choice(((), (("anger", 2.0), ("sad", 1.0)))), draw.choice(("", "train", "test"))))
    return f"/tables/{name}.tsv", utterances


@pytest.mark.parametrize("seed", range(20))
def test_no_names_collide_and_all_else_is_kept(seed, tmp_path):
    """Each name is `corpus-name`, by a plain loop; an unknown one stays unknown; the label is its first known word."""
    draw = random.Random(seed)
    tables = [random_table(draw, name) for name in ("esd", "esd2", "My Corpus")]
    joined = together(tables)
    expected = [(Path(path).stem, utterance) for path, table in tables for utterance in table]
    for one, (corpus, before) in zip(joined, expected, strict=True):
        assert one.corpus == corpus and one.id == f"{corpus}-{before.id}"
        assert one.speaker == (f"{corpus}-{before.speaker}" if before.speaker else "")
        assert one.session == (f"{corpus}-{before.session}" if before.session else "")
        assert one.label in SPELT and before.label in SPELT[one.label]
        assert replace(one, id=before.id, speaker=before.speaker, session=before.session, label=before.label,
                       corpus="") == before
    manifest.write(tmp_path / "all.tsv", joined)
    assert manifest.read(tmp_path / "all.tsv") == joined


def test_names_that_have_their_corpus_keep_it():
    """All of one kind or none: else two names could become one."""
    assert prefixed(["ravdess_01", "", "ravdess-02"], "ravdess") == ["ravdess_01", "", "ravdess-02"]
    assert prefixed(["ravdess_01", "01"], "ravdess") == ["ravdess-ravdess_01", "ravdess-01"]
    assert prefixed(["ravdess", "ravdess2"], "ravdess") == ["ravdess-ravdess", "ravdess-ravdess2"]
    assert prefixed([], "ravdess") == [] and prefixed([""], "ravdess") == [""]


def test_what_was_put_together_can_be_put_together_with_more():
    draw = random.Random(0)
    first, second, third = (random_table(draw, name) for name in ("a", "b", "c"))
    at_once = together([first, second, third])
    assert together([("/tables/all.tsv", together([first, second])), third]) == at_once
    assert together([("/tables/all.tsv", at_once)]) == at_once


def test_a_table_says_which_corpora_it_has():
    path, table = random_table(random.Random(1), "mixed")
    table = [replace(utterance, corpus=("x", "")[number % 2]) for number, utterance in enumerate(table)]
    assert [u.corpus for u in together([(path, table)])] == [u.corpus or "mixed" for u in table]


def test_a_label_is_one_whatever_its_corpus_calls_it():
    """By common words, the classes of `protocols.of_classes` have the same utterances as by the labels as written."""
    draw = random.Random(2)
    tables = [random_table(draw, name) for name in "abcdef"]
    joined, before = together(tables), [u for _, table in tables for u in table]
    assert {u.label for u in joined} == {*SPELT}
    for classes in (CLASSES, ("neutral", "angry", "excited"), ("No Agreement", "sad")):
        assert [u.label for u in protocols.of_classes(joined, classes)] == [
            u.label for u in protocols.of_classes(before, classes)]
    assert all(names_of(u.label, (), {}) == [u.label] for u in joined)


@pytest.mark.parametrize("names, words", [
    (["/x/corpus.tsv", "/y/corpus.tsv"], ["/y/corpus.tsv: its corpus corpus is that of /x/corpus.tsv", "rename"]),
    (["/x/ESD.tsv", "/x/esd.csv"], ["/x/esd.csv: its corpus esd is that of /x/ESD.tsv"]),
    (["/x/a.tsv", "/x/a.tsv"], ["/x/a.tsv: its corpus a is that of /x/a.tsv"])])
def test_a_corpus_is_in_one_table(names, words):
    tables = [(name, random_table(random.Random(i), str(i))[1]) for i, name in enumerate(names)]
    with pytest.raises(ValueError) as caught:
        together(tables)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_names_that_are_equal_for_all_the_prefixes():
    """Corpora `a` and `a-b`."""
    one = Utterance("b-1", Path("/1.wav"), 400, speaker="b-c")
    with pytest.raises(ValueError, match="speaker a-b-c would be one of corpus a and one of corpus a-b; rename"):
        together([("a.tsv", [one]), ("a-b.tsv", [Utterance("2", Path("/2.wav"), 400, speaker="c")])])
    with pytest.raises(ValueError, match="id a-b-1 would be one of corpus a and one of corpus a-b; rename"):
        together([("a.tsv", [one]), ("a-b.tsv", [Utterance("1", Path("/2.wav"), 400)])])


# As a command

@pytest.fixture
def tables(tmp_path) -> list[Path]:
    """Three labelled corpora of two speakers, each with spellings of its own; `sounds` has no label."""
    draw, paths = np.random.default_rng(0), []
    for name, labels in (("one", ("neutral", "anger")), ("two", ("Neutral", "angry")), ("three", ("neu", "ang")),
                         ("sounds", ("", ""))):
        lines = ["path,speaker,session,label"]
        for number in range(8):
            place = tmp_path / name / f"{number}.wav"
            place.parent.mkdir(exist_ok=True)
            soundfile.write(place, draw.normal(scale=0.1, size=16_000), 16_000)
            lines.append(f"{name}/{number}.wav,{number % 2},{number % 2},{labels[number // 4]}")
        paths.append(tmp_path / f"{name}.csv")
        paths[-1].write_text("\n".join(lines) + "\n")
    return paths


def run(script: str, monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """A script in this process: exit status, what it printed, its errors."""
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(small.ROOT / "bin" / f"{script}.py"), run_name="__main__")
    return caught.value.code, *capsys.readouterr()


def test_prepare_puts_tables_together(tables, tmp_path, monkeypatch, capsys):
    """One manifest, counted by session and by corpus; joined, each utterance stays with its corpus."""
    status, printed, errors = run("prepare", monkeypatch, capsys, "--together", *tables, "--out", tmp_path / "all.tsv")
    assert status == 0, errors
    by_session, by_corpus = printed.split("\n\n")
    assert [line.split()[0] for line in by_session.splitlines()] == [
        "session", *(f"{name}-{number}" for name in ("one", "sounds", "three", "two") for number in "01"), "all"]
    header, *rows, _ = (line.split() for line in by_corpus.splitlines())
    assert header == ["corpus", "neutral", "angry", "unlabelled", "total", "hours"]
    assert [row[:-1] for row in rows] == [["one", "4", "4", "0", "8"], ["sounds", "0", "0", "8", "8"],
                                          ["three", "4", "4", "0", "8"], ["two", "4", "4", "0", "8"],
                                          ["all", "12", "12", "8", "32"]]
    read = manifest.read(tmp_path / "all.tsv")
    assert Counter(u.corpus for u in read) == dict.fromkeys(("one", "two", "three", "sounds"), 8)

    status, printed, errors = run("prepare", monkeypatch, capsys, "--join", tmp_path / "all.tsv", "--out",
                                  tmp_path / "joined" / "all.tsv")
    assert status == 0, errors
    joined = manifest.read(tmp_path / "joined" / "all.tsv")
    corpus_of = {u.id: u.corpus for u in read}
    assert [u.corpus for u in joined] == [corpus_of[u.id] for u in joined] and len(joined) == 12
    assert {u.label for u in joined} == {"angry"}
    assert {u.session for u in folds.in_folds(joined, "session")} == {f"{c}-{n}" for c in ("one", "two", "three")
                                                                      for n in "01"}


def test_prepare_refuses_tables_that_share_a_sound_or_a_name(tables, tmp_path, monkeypatch, capsys):
    again = tmp_path / "again.csv"
    again.write_text("path\none/7.wav\n")
    other = tmp_path / "other" / "one.csv"
    other.parent.mkdir()
    other.write_text("path\n../two/1.wav\n")
    slash = tmp_path / "slash.csv"
    slash.write_text("path,corpus\ntwo/1.wav,a/b\n")
    hidden = tmp_path / ".hidden.csv"
    hidden.write_text("path\ntwo/1.wav\n")
    for table, words in ((again, f"{again}:2: the sound file {tmp_path}/one/7.wav was named before, at {tables[0]}:9;"),
                         (other, f"{other}: its corpus one is that of {tables[0]}, too;"),
                         (slash, f"{slash}:2: corpus 'a/b' is not safe as a file name"),
                         (hidden, "id '.hidden-1' is not safe as a file name")):
        status, printed, errors = run("prepare", monkeypatch, capsys, "--together", tables[0], table, "--out",
                                      tmp_path / "all.tsv")
        assert (status, printed) == (2, "") and not (tmp_path / "all.tsv").exists()
        assert errors.startswith("error: ") and errors.count("\n") == 1 and words in errors, errors
