"""Every importer on a generated folder with the published counts, as downloaded, with what copies have more."""
import os
import runpy
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import published_trees
import pytest
import small
from published_trees import TREES, File

from framealign.sound import audio
from framealign.corpus import manifest
from framealign.corpus.importers import corpus_kinds, published_corpus
from framealign.corpus.importers.published_corpus import CorpusFolder
from framealign.corpus.utterance import Utterance
from framealign.commands import prepare_command

# What is published, by CORPORA's descriptions: utterances, speakers, by label.
PUBLISHED = {
    "ravdess": (1440, 24, {"neutral": 96, "calm": 192, "happy": 192, "sad": 192, "angry": 192, "fear": 192,
                           "disgust": 192, "surprise": 192}),
    "emodb": (535, 10, {"angry": 127, "boredom": 81, "disgust": 46, "fear": 69, "happy": 71, "sad": 62, "neutral": 79}),
    "nemo": (4481, 9, {"neutral": 809, "angry": 749, "happy": 749, "sad": 769, "fear": 736, "surprise": 669}),
}


@pytest.fixture
def folder_of(tmp_path, monkeypatch):
    """A folder that holds files of these paths, without a disk: tables that are given are written, no sound is."""
    monkeypatch.setattr(audio, "length", lambda path: 400)

    def of_paths(paths: Iterable[str]) -> CorpusFolder:
        monkeypatch.setattr(published_corpus, "_files_below", lambda root: list(paths))
        return CorpusFolder(tmp_path)

    return of_paths


def fields(root: Path, utterances: list[Utterance]) -> set[File]:
    return {File(u.path.relative_to(root).as_posix(), u.label, u.speaker, u.gender, u.session) for u in utterances}


def test_every_kind_is_tested():
    assert set(corpus_kinds.KINDS) == set(TREES) == set(PUBLISHED)


@pytest.mark.parametrize("kind", TREES)
def test_a_whole_corpus(kind, folder_of, tmp_path, capsys):
    """Counts, every field, folds by speaker; the manifest holds it; the layout tells which corpus it is."""
    files = published_trees.files_of(kind)
    folder = folder_of(file.path for file in files)
    assert corpus_kinds.guess(folder) == kind
    utterances = corpus_kinds.read(folder, kind)
    number, num_speakers, labels = PUBLISHED[kind]
    assert len(utterances) == number and Counter(u.label for u in utterances) == labels
    assert len({u.speaker for u in utterances} - {""}) == num_speakers
    assert fields(tmp_path, utterances) == set(files)
    folds = {(u.speaker, u.session) for u in utterances}
    assert len(folds) == len({speaker for speaker, _ in folds}) and all(session for _, session in folds)
    notes = capsys.readouterr().err.splitlines()
    assert notes[-1].startswith(f"{corpus_kinds.KINDS[kind].name}: session is ") and "not the whole" not in str(notes)
    sample = utterances[::1 + number // 500]
    manifest.write(tmp_path / "corpus.tsv", sample)
    assert manifest.read(tmp_path / "corpus.tsv") == sample


@pytest.mark.parametrize("kind", TREES)
def test_one_file_less_is_named_by_its_cells(kind, folder_of, tmp_path, capsys):
    """One utterance is missing: its label's cell and the sum; a part is taken where it is asked for."""
    files = published_trees.files_of(kind)
    folder = folder_of(file.path for file in files[1:])
    number, _, labels = PUBLISHED[kind]
    label = files[0].label
    with pytest.raises(ValueError) as caught:
        corpus_kinds.read(folder, kind)
    for words in (f"utterances: found {number - 1}, expected {number}", "--allow-partial",
                  f"label {label}: found {labels[label] - 1}, expected {labels[label]}"):
        assert words in str(caught.value)
    assert fields(tmp_path, corpus_kinds.read(folder, kind, allow_partial=True)) == set(files[1:])
    assert f"{tmp_path}: not the whole " in capsys.readouterr().err


@pytest.mark.parametrize("kind", TREES)
def test_what_copies_have_more_changes_nothing(kind, folder_of, capsys):
    """Upper case, another folder around it, a file of someone else's: the same utterances, and a note."""
    places = [Path(file.path) for file in published_trees.files_of(kind)]
    folder = folder_of(["demo/jingle of the website.wav", "README.txt", "Downloads/more.zip",
                        *(f"Downloads/v 1/{place.with_suffix(place.suffix.upper())}" for place in places)])
    assert corpus_kinds.guess(folder) == kind
    assert len(corpus_kinds.read(folder, kind)) == PUBLISHED[kind][0]
    notes = capsys.readouterr().err
    assert "1 sound files (demo/jingle of the website.wav)" in notes and "not the whole" not in notes


@pytest.mark.parametrize("kind", TREES)
def test_the_folder_of_another_corpus(kind, folder_of, tmp_path, capsys):
    folder = folder_of(file.path for file in published_trees.files_of("emodb" if kind == "ravdess" else "ravdess"))
    with pytest.raises(ValueError) as caught:
        corpus_kinds.read(folder, kind, allow_partial=True)
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)
    assert not capsys.readouterr().err


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory) -> Path:
    """A folder with RAVDESS and one with EMO-DB, on the disk. Tests leave them as they are."""
    root = tmp_path_factory.mktemp("downloaded")
    for kind in ("ravdess", "emodb"):
        published_trees.write(root / kind, [file.path for file in published_trees.files_of(kind)])
    return root


def prepare(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """Run bin/prepare.py in this process: exit status, what it printed, its errors."""
    monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(small.ROOT / "bin" / "prepare.py"), run_name="__main__")
    return caught.value.code, *capsys.readouterr()


def test_the_command_guesses_and_says_so(downloaded, tmp_path, monkeypatch, capsys):
    out = tmp_path / "corpus.tsv"
    status, printed, errors = prepare(monkeypatch, capsys, downloaded / "emodb", "--out", out)
    assert status == 0 and "535 utterances" in printed
    assert f"{downloaded}/emodb: taken for EMO-DB (--corpus-kind emodb), by its layout" in errors
    by_guess = out.read_bytes()
    status, _, errors = prepare(monkeypatch, capsys, "--corpus-kind", "emodb", downloaded / "emodb", "--out", out)
    assert status == 0 and "taken for" not in errors and out.read_bytes() == by_guess


def test_bad_input_is_one_line(downloaded, tmp_path, monkeypatch, capsys):
    """No folder, an unknown kind, an archive, archives only, an unknown layout, several corpora in one folder."""
    both = tmp_path / "both"
    for kind in ("ravdess", "emodb"):
        shutil.copytree(downloaded / kind, both / kind, copy_function=os.link)
    archives = tmp_path / "archives"
    archives.mkdir()
    (archives / "Audio_Speech_Actors_01-24.zip").write_bytes(b"PK")
    (archives / ".DS_Store").write_bytes(b"")
    others = published_trees.noise(tmp_path / "others" / "a.wav").parent
    for number in range(9):
        published_trees.noise(both / f"others/{number}.wav")
    published_trees.write(both / "more", [f"{number}.wav" for number in range(1500)])
    out = tmp_path / "out" / "corpus.tsv"
    out.parent.mkdir()
    for arguments, words in [
            ([tmp_path / "no"], "no: no such folder"), ([others / "a.wav"], "a file, not the folder of a corpus"),
            (["--corpus-kind", "berlin", downloaded / "emodb"], "--corpus-kind must be one of ravdess, "),
            ([archives / "Audio_Speech_Actors_01-24.zip"], "an archive, not a folder; unpack it"),
            ([archives], "nothing but archives that are not unpacked (Audio_Speech_Actors_01-24.zip); unpack them"),
            ([others], "laid out as none of the corpora ravdess, "),
            ([both], "% named as in RAVDESS, 15 % named as in EMO-DB); give the folder of one corpus"),
            (["--corpus-kind", "emodb", downloaded / "ravdess"],
             "no sound file is named as in EMO-DB, such as 03a01F")]:
        status, printed, errors = prepare(monkeypatch, capsys, *arguments, "--out", out)
        assert status == 2 and not printed and errors.count("\n") == 1 and words in errors, errors
        assert not out.exists()
    with pytest.raises(SystemExit):
        prepare_command.main(["--corpus-kind", "ravdess", "--table", "a.tsv", "--out", str(out)])
    assert "--corpus-kind says what FOLDER holds: give the folder too" in capsys.readouterr().err
