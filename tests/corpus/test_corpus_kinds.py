"""Every importer on a generated folder with the published counts, as downloaded, with what copies have more."""
import os
import runpy
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import published_trees
import pytest
import small
from published_trees import TREES, File

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
    "savee": (480, 4, {"neutral": 120, "angry": 60, "disgust": 60, "fear": 60, "happy": 60, "sad": 60, "surprise": 60}),
    "tess": (2800, 2, dict.fromkeys(("angry", "disgust", "fear", "happy", "neutral", "surprise", "sad"), 400)),
    "esd": (35_000, 20, dict.fromkeys(("neutral", "angry", "happy", "sad", "surprise"), 7000)),
    "emov-db": (7000, 4, {"amused": 1330, "sleepy": 1744, "angry": 1308, "disgust": 1033, "neutral": 1585}),
    "jl": (2400, 4, dict.fromkeys(("angry", "sad", "neutral", "happy", "excited", "anxious", "apologetic", "assertive",
                                   "concerned", "encouraging"), 240)),
    "urdu": (400, 29, dict.fromkeys(("angry", "happy", "neutral", "sad"), 100)),
    "subesco": (7000, 20, dict.fromkeys(("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"), 1000)),
    "aesdd": (604, 6, {"angry": 121, "disgust": 122, "fear": 120, "happy": 119, "sad": 122}),
    "emovo": (588, 6, dict.fromkeys(("disgust", "happy", "neutral", "fear", "angry", "surprise", "sad"), 84)),
    "casia": (1200, 4, dict.fromkeys(("angry", "fear", "happy", "neutral", "sad", "surprise"), 200)),
    "crema-d": (7442, 91, {"neutral": 1087, "happy": 1271, "sad": 1271, "angry": 1271, "fear": 1271, "disgust": 1271}),
}
WITH_TABLES = {"iemocap", "meld", "msp-improv", "msp-podcast", "zed"}       # tested in files of their own


@pytest.fixture
def folder_of(tmp_path, monkeypatch):
    """A folder that holds files of these paths, without a disk: tables that are given are written, no sound is."""
    monkeypatch.setattr(published_corpus, "_length", lambda path, is_decoded: 400)

    def of_paths(paths: Iterable[str]) -> CorpusFolder:
        monkeypatch.setattr(published_corpus, "_files_below", lambda root: list(paths))
        return CorpusFolder(tmp_path)

    return of_paths


def fields(root: Path, utterances: list[Utterance]) -> set[File]:
    return {File(u.path.relative_to(root).as_posix(), u.label, u.speaker, u.gender, u.session) for u in utterances}


def test_every_kind_is_tested():
    assert set(corpus_kinds.KINDS) == set(TREES) | WITH_TABLES and set(TREES) == set(PUBLISHED)


def test_the_page_lists_every_kind():
    """docs/CORPORA.md: kind, utterances, speakers and labels of each, as the importers have them."""
    lines = (small.ROOT / "docs" / "CORPORA.md").read_text(encoding="utf-8").splitlines()
    table = [[cell.strip(" `") for cell in line.split("|")] for line in lines if line.startswith("| `")]
    rows = {cells[1]: cells for cells in table}
    assert list(rows) == list(corpus_kinds.KINDS) and len(table) == len(rows)
    for kind, corpus in corpus_kinds.KINDS.items():
        assert rows[kind][6].split(", ") == list(dict.fromkeys(corpus.labels.values())) or kind == "zed"
        for counts in corpus.releases.values():
            assert kind in ("meld", "iemocap") or f"{counts.utterances:,}" in rows[kind][4]
    for kind, (_, num_speakers, _) in PUBLISHED.items():
        assert rows[kind][5] == str(num_speakers)


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


@pytest.mark.parametrize("kind", TREES.keys() - {"esd"})                     # that would take its time
def test_one_file_less_is_named_by_its_cells(kind, folder_of):
    """One utterance is missing: its label's cell and the sum."""
    files = published_trees.files_of(kind)
    number, _, labels = PUBLISHED[kind]
    label = files[0].label
    with pytest.raises(ValueError) as caught:
        corpus_kinds.read(folder_of(file.path for file in files[1:]), kind)
    for words in (f"utterances: found {number - 1}, expected {number}", "--allow-partial",
                  f"label {label}: found {labels[label] - 1}, expected {labels[label]}"):
        assert words in str(caught.value)


@pytest.mark.parametrize("kind", TREES)
def test_what_copies_have_more_changes_nothing(kind, folder_of, tmp_path, capsys):
    """Upper case, another folder around it, a file of someone else's: a part gives the same utterances, and a note."""
    files = published_trees.files_of(kind)[:200]
    part = corpus_kinds.read(folder_of(file.path for file in files), kind, allow_partial=True)
    assert fields(tmp_path, part) == set(files)
    name = corpus_kinds.KINDS[kind].name
    assert f"{tmp_path}: not the whole {name}: utterances: found 200" in capsys.readouterr().err
    places = [Path(file.path) for file in files]
    folder = folder_of(["demo/jingle of the website.wav", "README.txt", "Downloads/more.zip",
                        *(f"Downloads/v 1/{place.with_suffix(place.suffix.upper())}" for place in places)])
    assert corpus_kinds.guess(folder) == kind
    again = corpus_kinds.read(folder, kind, allow_partial=True)
    assert [replace(u, path=Path()) for u in again] == [replace(u, path=Path()) for u in part]
    words = (f"; left out: 1 sound files that are not named as in {name}, such as {corpus_kinds.KINDS[kind].example} "
             "(demo/jingle of the website.wav); archives that are not unpacked: Downloads/more.zip")
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("kind", TREES)
def test_the_folder_of_another_corpus(kind, folder_of, tmp_path, capsys):
    others = published_trees.files_of("emodb" if kind == "ravdess" else "ravdess")[:300]
    folder = folder_of(file.path for file in others)
    with pytest.raises(ValueError) as caught:
        corpus_kinds.read(folder, kind, allow_partial=True)
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("kind, folder", [("casia", "wangzhe"), ("casia", "wangzhe/angry"), ("savee", "AudioData/JE"),
                                          ("emov-db", "bea_Amused"), ("urdu", "Happy")])
def test_the_folder_of_one_speaker_or_emotion(kind, folder, tmp_path):
    """What its name says is read, though it is above the files."""
    files = [file for file in published_trees.files_of(kind) if file.path.startswith(f"{folder}/")][:5]
    root = published_trees.write(tmp_path / "c", [file.path for file in files])
    there = CorpusFolder(root / folder)
    assert corpus_kinds.guess(there) == kind
    assert fields(root, corpus_kinds.read(there, kind, allow_partial=True)) == set(files) and files


# What is particular to one corpus: (kind, path, id, label, speaker, gender, session, sentence).
PARTICULAR = [
    ("savee", "ALL/KL_su07.wav", "KL_su07", "surprise", "KL", "M", "4", "su07"),
    ("savee", "AudioData/je/SA12.WAV", "JE_sa12", "sad", "JE", "M", "2", "sa12"),
    ("tess", "OAF_neutral/OA_bite_neutral.wav", "OAF_bite_neutral", "neutral", "OAF", "F", "1", "bite"),
    ("tess", "x/YAF_chain_ps.wav", "YAF_chain_ps", "surprise", "YAF", "F", "2", "chain"),
    ("esd", "0011/0011_000351.wav", "0011_000351", "angry", "0011", "M", "1", "en-001"),
    ("esd", "0010/Neutral/0010_001750.wav", "0010_001750", "surprise", "0010", "M", "5", "zh-350"),
    ("emov-db", "Sorted/jenie/Sleepy/sleepiness_29-56_0031.wav", "jenie_sleepiness_29-56_0031", "sleepy", "jenie", "F",
     "2", "arctic-0031"),
    ("jl", "male2_assertive_15b_2.wav", "male2_assertive_15b_2", "assertive", "male2", "M", "4", "15b"),
    ("urdu", "all/SF9_F4_N04.wav", "SF9_F4_N04", "neutral", "SF9", "F", "4", ""),
    ("subesco", "M_02_NIPUN_S_10_SURPRISE_3.wav", "M_02_NIPUN_S_10_SURPRISE_3", "surprise", "M_02", "M", "2", "s10"),
    ("aesdd", "fear/f10 (01).wav", "f10-1", "fear", "1", "", "1", "s10"),
    ("aesdd", "anger/a06 (5)b.wav", "a06-5b", "angry", "5", "", "5", "s06"),
    ("nemo", "samples/SM0_surprised_9.wav", "SM0_surprised_9", "surprise", "SM0", "M", "2", "s09"),
    ("emovo", "m3/sor-m3-n5.wav", "sor-m3-n5", "surprise", "m3", "M", "6", "n5"),
    ("casia", "zhaozuoxiang/fear/250.wav", "ZhaoZuoxiang_fear_250", "fear", "ZhaoZuoxiang", "", "4", "250"),
    ("crema-d", "1040_ITH_SAD_X.wav", "1040_ITH_SAD_X", "sad", "1040", "M", "1", "ITH"),
    ("emodb", "wav/16b10Wb.wav", "16b10Wb", "angry", "16", "F", "5", "b10"),
    ("ravdess", "03-01-08-02-02-01-24.wav", "03-01-08-02-02-01-24", "surprise", "24", "F", "6", "s2-strong")]


@pytest.mark.parametrize("kind, path, id, label, speaker, gender, session, sentence", PARTICULAR)
def test_one_name_of_each_corpus(kind, path, id, label, speaker, gender, session, sentence, folder_of, tmp_path):
    assert corpus_kinds.read(folder_of([path]), kind, allow_partial=True) == [
        Utterance(id, tmp_path / path, 400, session, speaker, gender, label, sentence)]


UNKNOWN = [("ravdess", "03-01-09-01-01-01-01.wav", "'09'"), ("emodb", "03a01Xa.wav", "'X'"),
           ("savee", "JE/x01.wav", "'x'"), ("tess", "OAF_back_bored.wav", "'bored'"),
           ("esd", "0011_001751.wav", "'001751'"),
           ("emov-db", "sam_Happy/happy_1-28_0001.wav", "'happy'"), ("jl", "male1_bored_6b_1.wav", "'bored'"),
           ("urdu", "Fear/SM1_F10_F010.wav", "'F'"), ("subesco", "F_10_FAHMEE_S_6_BORED_5.wav", "'BORED'"),
           ("aesdd", "n01 (3).wav", "'n'"), ("nemo", "EB0_disgust_1.wav", "'disgust'"),
           ("emovo", "xyz-f1-b1.wav", "'xyz'"),
           ("casia", "wangzhe/bored/201.wav", "'bored'"), ("crema-d", "1001_DFA_SUR_XX.wav", "'SUR'")]


@pytest.mark.parametrize("kind, path, label", UNKNOWN)
def test_a_label_nobody_knows(kind, path, label, folder_of, tmp_path):
    with pytest.raises(ValueError) as caught:
        corpus_kinds.read(folder_of([path]), kind)
    assert f"{tmp_path / path}: {label} is no label of {corpus_kinds.KINDS[kind].name}, whose" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_number_that_is_missing_in_aesdd(folder_of):
    """A file without a speaker's number is of the one speaker who lacks the sentence; else nobody's."""
    names = [f"s05 ({number}).wav" for number in (1, 2, 4, 5, 6)]
    part = corpus_kinds.read(folder_of([*names, "s05.wav"]), "aesdd", allow_partial=True)
    assert [(u.speaker, u.path.name) for u in part if u.id == "s05-3"] == [("3", "s05.wav")] and len(part) == 6
    assert len(corpus_kinds.read(folder_of([*names[1:], "s05.wav"]), "aesdd", allow_partial=True)) == 4


def test_the_releases_of_emov_db_and_aesdd(folder_of, capsys):
    """Counts of each known release are the whole; a note says which."""
    words = {"amused": 1315, "sleepy": 1720, "angry": 1267, "disgust": 1019, "neutral": 1566}
    paths = [f"sam_{label}/{label}_1-28_{number:04}.wav" for label, count in words.items() for number in range(count)]
    assert len(corpus_kinds.read(folder_of(paths), "emov-db")) == 6887
    assert "EmoV-DB, the release of 6,887 utterances\n" in capsys.readouterr().err
    corpus_kinds.read(folder_of(file.path for file in published_trees.files_of("emov-db")), "emov-db")
    assert "EmoV-DB, the release of 7,000 utterances, as its README lists them\n" in capsys.readouterr().err
    paths = [file.path for file in published_trees.files_of("aesdd")]
    assert len(corpus_kinds.read(folder_of([*paths, "sadness/s20 (6)b.wav"]), "aesdd")) == 605
    assert "AESDD, the release of 605 utterances\n" in capsys.readouterr().err
    with pytest.raises(ValueError, match="found 603, expected 604; .*; compared with the release of 604 utterances;"):
        corpus_kinds.read(folder_of(paths[1:]), "aesdd")


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
    for kind in ("emodb", "EMO-DB", "emo_db"):
        status, _, errors = prepare(monkeypatch, capsys, "--corpus-kind", kind, downloaded / "emodb", "--out", out)
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
            (["--corpus-kind", "berlin", downloaded / "emodb"], "--corpus-kind must be one of iemocap, ravdess, "),
            ([archives / "Audio_Speech_Actors_01-24.zip"], "an archive, not a folder; unpack it"),
            ([archives], "nothing but archives that are not unpacked (Audio_Speech_Actors_01-24.zip); unpack them"),
            ([others], "laid out as none of the corpora iemocap, ravdess, "),
            ([both], "% named as in RAVDESS, 15 % named as in EMO-DB); give the folder of one corpus"),
            (["--corpus-kind", "emodb", downloaded / "ravdess"],
             "no sound file is named as in EMO-DB, such as 03a01F")]:
        status, printed, errors = prepare(monkeypatch, capsys, *arguments, "--out", out)
        assert status == 2 and not printed and errors.count("\n") == 1 and words in errors, errors
        assert not out.exists()
    with pytest.raises(SystemExit):
        prepare_command.main(["--corpus-kind", "ravdess", "--table", "a.tsv", "--out", str(out)])
    assert "--corpus-kind says what FOLDER holds: give the folder too" in capsys.readouterr().err
