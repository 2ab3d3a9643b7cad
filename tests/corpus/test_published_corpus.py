"""What importers share, on RAVDESS: copies, files without sound, labels nobody knows, archives left, links."""
import numpy as np
import published_trees
import pytest
import soundfile

from framealign.corpus.importers import published_corpus, ravdess
from framealign.corpus.importers.published_corpus import CorpusFolder
from framealign.corpus.utterance import Utterance

FILES = sorted(published_trees.files_of("ravdess"))
PATHS = [file.path for file in FILES]
TWICE = "audio_speech_actors_01-24"


def read(root, allow_partial: bool = False) -> list[Utterance]:
    return ravdess.CORPUS.read(CorpusFolder(root), allow_partial)


def refused(root, *words: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(root)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def root(tmp_path):
    return published_trees.write(tmp_path / "RAVDESS", PATHS)


def test_sentences_in_the_order_of_ids(root):
    utterances = read(root)
    assert [u.id for u in utterances] == sorted(path.rpartition("/")[2].removesuffix(".wav") for path in PATHS)
    assert utterances[0].style == "s1-normal" and utterances[-1].style == "s2-strong"
    assert all(u.num_samples == 400 for u in utterances)


def test_a_copy_of_everything_is_left_out(root, capsys):
    """The copy that goes round holds each file twice; a copy in another format counts as one too."""
    published_trees.write(root / TWICE, PATHS)
    samples, rate = soundfile.read(root / PATHS[0])
    soundfile.write((root / PATHS[0]).with_suffix(".flac"), samples, rate)
    utterances = read(root)
    assert {u.path.relative_to(root).as_posix() for u in utterances} == set(PATHS)
    assert "left out: 1441 sound files that are copies of others (" in capsys.readouterr().err


def test_two_files_of_one_name_that_differ_are_named(root):
    other = root / TWICE / PATHS[5]
    published_trees.noise(other, 500)
    refused(root, "1 utterances or files cannot be used", f"{other}: differs from {root / PATHS[5]}")
    assert len(read(root, allow_partial=True)) == 1440


def test_names_that_break_lines(root, capsys):
    """A file may be called anything; the note is one line all the same."""
    for name in (b"a\nb.wav", b"caf\xe9.wav", b"\x1b[31m.wav"):
        open(bytes(root) + b"/" + name, "wb").close()
    assert len(read(root)) == 1440
    note, _ = capsys.readouterr().err.splitlines()
    assert r"3 sound files" in note and r"'a\nb.wav'" in note and r"'caf\udce9.wav'" in note and "\x1b" not in note


def test_songs_and_videos_are_no_part(root, capsys):
    (root / "Actor_01/01-01-01-01-01-01-01.mp4").write_bytes(b"video")
    published_trees.noise(root / "Actor_01/03-02-01-01-01-01-01.wav")
    assert len(read(root)) == 1440
    words = ("left out: 1 sound files that are not named as in RAVDESS, such as 03-01-06-01-02-01-12.wav "
             "(Actor_01/03-02-01-01-01-01-01.wav)")
    assert words in capsys.readouterr().err


def test_a_label_nobody_knows_is_named_with_its_file(root, capsys):
    bad = (root / PATHS[7]).rename(root / "Actor_01/03-01-09-01-01-01-01.wav")
    refused(root, f"{bad}: '09' is no label of RAVDESS, whose labels are 01, 02, 03, 04, 05, 06, 07, 08",
            "utterances: found 1439, expected 1440")
    assert len(read(root, allow_partial=True)) == 1439
    assert "'09' is no label" in capsys.readouterr().err


def test_a_speaker_that_is_missing_and_labels_that_are(tmp_path, capsys):
    root = published_trees.write(tmp_path / "c", [file.path for file in FILES if file.speaker not in ("03", "17")
                                                  and file.label != "disgust"])
    refused(root, "utterances: found 1144, expected 1440; label disgust: none; speaker 03, 17: none; "
            "label neutral: found 88, expected 96; and 28 more cells; copy the corpus again")
    assert len(read(root, allow_partial=True)) == 1144


@pytest.mark.parametrize("spoil", ["empty", "no sound", "folder"])
def test_a_damaged_file_is_named(root, spoil, capsys):
    bad = root / PATHS[100]
    bad.unlink()
    if spoil == "folder":
        bad.mkdir()
        refused(root, "utterances: found 1439, expected 1440")
    else:
        bad.write_bytes(b"" if spoil == "empty" else 99 * b"no sound")
        refused(root, f"1 utterances or files cannot be used ({bad}: ", "utterances: found 1439, expected 1440")
    assert len(read(root, allow_partial=True)) == 1439


def test_what_is_shorter_than_a_frame_is_left_out_of_a_whole_corpus(root, capsys):
    """It is as published, so the corpus is whole: named, counted as present, no utterance."""
    for number, path in enumerate(PATHS[3:8]):
        (root / path).unlink()
        soundfile.write(root / path, np.ones(80 * number), 16_000)
    assert {u.path.relative_to(root).as_posix() for u in read(root)} == set(PATHS) - set(PATHS[3:8])
    ids = ", ".join(path.rpartition("/")[2].removesuffix(".wav") for path in PATHS[3:8])
    notes = capsys.readouterr().err
    assert f"left out: 5 that are published without sound that can be used ({ids})" in notes
    assert "not the whole" not in notes


def test_archives_beside_a_part_are_mentioned(tmp_path):
    root = published_trees.write(tmp_path / "c", PATHS[:60])
    (root / "Audio_Song.ZIP").write_bytes(b"PK")
    refused(root, "; archives that are not unpacked: Audio_Song.ZIP; copy the corpus again")


def test_links_are_followed_and_circles_end(root, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "RAVDESS").symlink_to(root)
    (root / "Actor_01" / "up").symlink_to(root)
    assert len(read(linked)) == 1440


def test_sessions_are_dealt():
    assert published_corpus.dealt("abcde", 2) == {"a": "1", "b": "2", "c": "1", "d": "2", "e": "1"}


def test_the_sample_of_ravdess_on_real_files(shared, tmp_path):
    """Every 17th of 864 files, cut to four classes: the manifest made from them with another tool has the same."""
    lines = (shared / "emotion" / "ravdess.tsv").read_text().splitlines()[1::17]
    given = {}
    for line in lines:
        id, path, num_samples, session, speaker, gender, label, style = line.split("\t")
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).symlink_to(shared / "emotion" / path)
        sentence, original, level = style.split("-")
        given[id] = (int(num_samples), session, speaker.removeprefix("ravdess_"), gender,
                     original if label == "neutral" else label, f"{sentence}-{level}")
    refused(tmp_path, "utterances: found 51, expected 1440; label fear, disgust, surprise: none")
    assert {u.id: (u.num_samples, u.session, u.speaker, u.gender, u.label, u.style)
            for u in read(tmp_path, allow_partial=True)} == given
