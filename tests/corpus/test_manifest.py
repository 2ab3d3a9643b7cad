"""Readers and writers of corpora: real temporary files, every error with its file and line."""
import os
import random
import runpy
import shutil
import string
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from framealign.corpus import manifest, protocols, utterance
from framealign.corpus.importers import fairseq_list, iemocap, scp
from framealign.corpus.utterance import Utterance
from framealign.recipe import preflight

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
HEADER = "id\tpath\tnum_samples\tsession\tspeaker\tgender\tlabel\tstyle\n"


@pytest.fixture
def wav(tmp_path) -> Path:
    """400 samples of noise, the shortest utterance there is."""
    path = tmp_path / "sound" / "a.wav"
    path.parent.mkdir()
    soundfile.write(path, np.random.default_rng(0).normal(scale=0.1, size=400), 16_000)
    return path


@pytest.fixture
def emodb() -> Path:
    path = DATA / "emodb4" / "emodb4.tsv"
    if not path.exists():
        pytest.skip(f"no sample data in {path}")
    return path


def table(tmp_path: Path, text: str | bytes, name: str = "corpus.tsv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refused(of, *words: str) -> None:
    """`of()` raises a ValueError of one line that has all the words."""
    with pytest.raises(ValueError) as caught:
        of()
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert str(word) in text, f"{word!r} is not in {text!r}"


# Manifests and tables

def test_manifest(tmp_path):
    path = table(tmp_path, HEADER + "Ses01F_impro01_M013\twav/x.wav\t16000\t1\tSes01M\tM\tangry\timpro\n"
                                    "b\t/data/b.flac\t400\t\t\t\t\t\n")
    assert manifest.read(path) == [
        Utterance("Ses01F_impro01_M013", tmp_path / "wav/x.wav", 16_000, "1", "Ses01M", "M", "angry", "impro"),
        Utterance("b", Path("/data/b.flac"), 400)]


def test_round_trip(tmp_path):
    """600 random utterances come back as they were, wherever their files lie and whatever the names hold."""
    generator = random.Random(0)
    letters = string.ascii_letters + string.digits + " '\"&;,#%$äßł語\N{NO-BREAK SPACE}"
    word = lambda: "".join(generator.choices(letters, k=8))
    folders = (tmp_path, tmp_path.parent, "/data")

    def truth() -> tuple[utterance.Stretch, ...] | None:
        edges = sorted(generator.uniform(0, 0.025) for _ in range(2 * generator.randint(0, 3)))
        stretches = tuple(utterance.Stretch(a, b, generator.choice(("sad", "a,b \"c"))) for a, b in
                          zip(edges[::2], edges[1::2]))
        return generator.choice((None, stretches))

    def votes() -> tuple[tuple[str, float], ...]:
        labels = generator.sample(("neutral", "sad", "a: b", "c d \"e", "neu:tral:"), generator.randint(0, 5))
        return tuple((label, generator.choice((1.0, 3.0, generator.random() or 1.0, 1e-7, 1e17))) for label in labels)

    utterances = [Utterance(f"{number}{word()}", Path(generator.choice(folders), word(), word()),
                            generator.randint(400, 10 ** 7), word(), word(), generator.choice("FM"),
                            generator.choice((*utterance.CLASSES, "")), word(), truth(), votes(),
                            generator.choice(("", *utterance.PARTS)), generator.choice(("", "a b", "ravdess")))
                  for number in range(600)]
    manifest.write(tmp_path / "corpus.tsv", utterances)
    assert manifest.read(tmp_path / "corpus.tsv") == utterances
    assert [name for name in os.listdir(tmp_path)] == ["corpus.tsv"]
    for columns in ([], ["corpus"], ["split"], ["truth"], ["votes"], ["split", "truth"], ["corpus", "votes"],
                    ["corpus", "split", "truth", "votes"]):
        has = {"corpus": lambda u: u.corpus, "split": lambda u: u.split, "truth": lambda u: u.truth is not None,
               "votes": lambda u: u.votes}
        part = [u for u in utterances if all(name in columns or not has[name](u) for name in has)]
        manifest.write(tmp_path / "corpus.tsv", part)                           # a column is there where it is needed
        assert (tmp_path / "corpus.tsv").read_text().splitlines()[0] == "\t".join([*HEADER.strip().split(), *columns])
        assert manifest.read(tmp_path / "corpus.tsv") == part


def test_usual_names_of_a_fixed_split(tmp_path):
    names = {"train": ["train", "Train", "TRAINING", " train "], "": ["", " "],
             "valid": ["valid", "dev", "Val", "validation", "Development"],
             "test": ["test", "eval", "Evaluation", "TESTING"]}
    lines = [f"{part or 'none'}{number}.wav\t400\t{name}\n" for part, spelt in names.items()
             for number, name in enumerate(spelt)]
    read = manifest.read(table(tmp_path, "path\tnum_samples\tsplit\n" + "".join(lines)))
    assert [u.split for u in read] == [part for part, spelt in names.items() for _ in spelt]


def test_files_below_the_manifest_move_with_it(tmp_path, wav):
    elsewhere = tmp_path / "sounds-elsewhere.wav"                           # beside `sound`, not below it
    manifest.write(tmp_path / "sound" / "corpus.tsv", [Utterance("a", wav, 400), Utterance("b", elsewhere, 400)])
    shutil.move(tmp_path / "sound", tmp_path / "moved")
    moved = tmp_path / "moved"
    assert [u.path for u in manifest.read(moved / "corpus.tsv")] == [moved / "a.wav", elsewhere]


def test_a_manifest_beside_a_relative_path(tmp_path, wav, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest.write("corpus.tsv", [Utterance("a", wav, 400)])
    assert "\tsound/a.wav\t" in Path("corpus.tsv").read_text()
    assert manifest.read("corpus.tsv")[0].path == wav


@pytest.mark.parametrize("bad, words", [
    (Utterance("a/b", Path("/a.wav"), 400), ["utterance number 2", "'a/b'", "not safe"]),
    (Utterance("a", Path("/a\tb.wav"), 400), ["path", "control character"]),
    (Utterance("a", Path("/a\udcff.wav"), 400), ["path", "control character"]),
    (Utterance("a", Path("/a.wav"), 399), ["utterance a", ">= 400", "got 399"]),
    (Utterance("a", Path("/a.wav"), 400, truth=(utterance.Stretch(1, 2, "sad"),)), ["utterance a", "ends at 0.03 s"]),
    (Utterance("a", Path("/a.wav"), 400, split="dev"), ["utterance a", "split must be train, valid, test", "'dev'"]),
    (Utterance("a", Path("/a.wav"), 400, votes=(("sad", float("nan")),)), ["utterance a", "above 0", "nan"]),
    (Utterance("a", Path("/a.wav"), 400, votes=(("s;d", 1.0),)), ["utterance a", "no semicolon", "'s;d'"]),
    (Utterance("first", Path("/a.wav"), 400), ["utterance number 2", "id first was used before", "number 1"])])
def test_write_refuses_what_read_would_and_leaves_the_old_file(tmp_path, bad, words):
    path = table(tmp_path, "old")
    refused(lambda: manifest.write(path, [Utterance("first", Path("/a.wav"), 400), bad]), *words)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["corpus.tsv"]


@pytest.mark.parametrize("delimiter", ["\t", ",", ";", ", "])
def test_a_folder_and_a_table(tmp_path, wav, delimiter):
    """Only path and emotion are needed; the length is read from the sound, the id is the file's stem."""
    path = table(tmp_path, f"Path{delimiter}Emotion\nsound/a.wav{delimiter}Anger\n", "table.csv")
    assert manifest.read(path) == [Utterance("a", wav, 400, label="Anger")]


def test_other_columns_quotes_and_line_ends(tmp_path):
    path = table(tmp_path, b"\xef\xbb\xbfsentence,gender,path,label,num_samples,text\r\n"
                           b's1,female,"x, y.wav",exc,500,"two\r\nlines, one ""cell"""\r\n\r\ns2,M,z.wav,,400,\r\n')
    assert manifest.read(path) == [
        Utterance("x, y", tmp_path / "x, y.wav", 500, gender="F", label="exc", style="s1"),
        Utterance("z", tmp_path / "z.wav", 400, gender="M", style="s2")]


def test_columns_are_known_by_their_names(tmp_path):
    """30 random orders of the columns, of separators, line ends, marks and last lines: always the same utterances."""
    draw = random.Random(1)
    rows = [{"id": f"u{number}", "path": f"{number}.wav", "num_samples": str(400 + number), "session": str(number % 3),
             "speaker": f"s{number}", "gender": "F", "label": draw.choice(("neutral", "fear", "")), "style": "impro",
             "text": "what was said"} for number in range(9)]
    expected = [Utterance(row["id"], tmp_path / row["path"], int(row["num_samples"]), row["session"], row["speaker"],
                          "F", row["label"], "impro") for row in rows]
    for _ in range(30):
        columns = draw.sample(list(rows[0]), len(rows[0]))
        separator, end = draw.choice("\t,;"), draw.choice(("\n", "\r\n", "\r", "\n\n", "\r\r\n"))
        quote = draw.choice(("", '"'))
        lines = [separator.join(f"{quote}{cell}{quote}" for cell in cells) for cells in
                 [columns, *([row[column] for column in columns] for row in rows)]]
        text = draw.choice(("", "\ufeff")) + end.join(lines) + draw.choice(("", end, 3 * end))
        assert manifest.read(table(tmp_path, text.encode())) == expected, (separator, end, quote)


def test_a_column_that_is_not_used_is_named(tmp_path, capsys):
    path = table(tmp_path, "path,num_samples,sesion,emotion,label\na.wav,400,1,joy,happy\n")
    assert manifest.read(path)[0].label == "happy"
    assert capsys.readouterr().err == f"{path}: columns that are not used: sesion, emotion\n"


def test_what_separates_columns_is_what_names_path(tmp_path):
    path = table(tmp_path, 'path;num_samples;label;"text, raw"\na.wav;400;sad;"x, y; z"\n')
    assert manifest.read(path) == [Utterance("a", tmp_path / "a.wav", 400, label="sad")]


@pytest.mark.parametrize("encoding, words", [("utf-16", "UTF-16"), ("utf-32", "UTF-32"), ("utf-16-le", "as UTF-16"),
                                             ("latin-1", "perhaps Latin-1")])
def test_a_text_in_another_encoding_is_named(tmp_path, encoding, words):
    for reader, text in ((manifest.read, "path,num_samples,label\nü.wav,400,sad\n"),
                         (fairseq_list.read, "/dätä für\nü.wav\t400\n"),
                         (lambda path: scp.read_split(path, None, path), "a ü.wav sad\n")):
        refused(lambda: reader(table(tmp_path, text.encode(encoding))), "corpus.tsv:", words, "UTF-8")


def test_a_sound_file_is_named_once(tmp_path, wav):
    """As where a table names parts of a file, which would all be the whole file."""
    path = table(tmp_path, "path,start,end,id\nsound/a.wav,0,1,x\nsound/./a.wav,1,2,y\n")
    refused(lambda: manifest.read(path), f"{path}:3:", wav, "was named before", f"{path}:2", "whole sound file")


def test_emodb_is_read_directly(emodb):
    utterances = manifest.read(emodb)
    assert len(utterances) == 339 and all(u.path.is_file() for u in utterances)
    assert Counter(u.label for u in utterances) == {"anger": 127, "neutral": 79, "happiness": 71, "sadness": 62}
    assert utterances[0] == Utterance("03a01Wa", emodb.parent / "audio/03a01Wa.flac", 30_045, "1", "03", "M", "anger",
                                      "a01")
    preflight.check_files(utterances)
    utterances = protocols.of_classes(utterances, utterance.CLASSES)
    assert Counter(u.label for u in utterances) == {"angry": 127, "neutral": 79, "happy": 71, "sad": 62}
    for session in "12345":
        part, = protocols.split(utterances, session, "clean")
        assert {u.session for u in part.test} == {session}


LINE = "b\tb.wav\t400\t1\ts\tF\tsad\tx\n"


@pytest.mark.parametrize("text, line, words", [
    ("", 1, ["header must name", "path", "label or emotion"]),
    ("a.wav\tsad\n", 1, ["header must name", "'a.wav, sad'"]),
    ("file\tlabel\nx.wav\tx\n", 1, ["header must name a column path", "'file, label'"]),
    ("path label\nx.wav sad\n", 1, ["header must name", "'path label'"]),
    ("path,path,label\n", 1, ["names the column path 2 times"]),
    ("path,label,label\n", 1, ["names the column label 2 times"]),
    ("/data/wav\nx.wav\t16000\n", 1, ["header must name", "fairseq"]),
    (HEADER + LINE + "a\ta.wav\t400\t1\ts\tF\tsad\n", 3, ["7 columns, the header has 8"]),
    (HEADER + LINE + "a\ta.wav\t400\t1\ts\tF\tsad\tx\ty\n", 3, ["9 columns"]),
    ('path,label,"two\nlines"\na.wav,sad\n', 3, ["2 columns, the header has 3", "lines"]),
    (HEADER + LINE + LINE, 3, ["id b was used before", ":2", "unique"]),
    ("path,num_samples,label\na/x.wav,400,sad\nb/x.wav,400,sad\n", 3, ["id x was used before", "column id"]),
    (HEADER + LINE.replace("400", "many"), 2, ["num_samples must be a whole number", "'many'"]),
    (HEADER + LINE.replace("400", "-400"), 2, ["num_samples", "'-400'"]),
    (HEADER + LINE.replace("400", "4e2"), 2, ["num_samples", "'4e2'"]),
    (HEADER + LINE.replace("400", "٤٠٠"), 2, ["num_samples"]),
    (HEADER + LINE.replace("400", "9" * 40), 2, ["num_samples"]),
    (HEADER + LINE.replace("400", "399"), 2, ["utterance b", ">= 400", "got 399"]),
    (HEADER + LINE.replace("b.wav", ""), 2, ["path must be"]),
    (HEADER + LINE.replace("b\t", "../b\t", 1), 2, ["id '../b'", "not safe as a file name"]),
    (HEADER + LINE.replace("b\t", "a\\b\t", 1), 2, ["not safe"]),
    (HEADER + LINE.replace("b\t", ".b\t", 1), 2, ["'.b'", "not safe"]),
    (HEADER + LINE.replace("b\t", "\t", 1), 2, ["id ''", "not safe"]),
    (HEADER + LINE.replace("b\t", "b\x1b\t", 1), 2, ["id", "control character"]),
    (HEADER + LINE.replace("b\t", "ä" * 101 + "\t", 1), 2, ["at most 200 bytes"]),
    (HEADER + LINE.replace("\t1\t", "\t../1\t"), 2, ["session '../1'", "not safe"]),
    (HEADER + LINE.replace("\ts\t", "\t/s\t"), 2, ["speaker '/s'", "not safe"]),
    (HEADER + LINE.replace("b.wav", "b\x07.wav"), 2, ["path"]),
    ("path,num_samples,corpus\na.wav,400,one\nb.wav,400,one/two\n", 3, ["corpus 'one/two'", "not safe"]),
    ("path,num_samples,split\na.wav,400,test\nb.wav,400,Test1\n", 3, ["utterance b", "split must be", "'test1'"]),
    ("path,num_samples,truth\na.wav,16000,0 1 sad\nb.wav,16000,angry\n", 3, ["truth must be", "'angry'", "rename"]),
    ("path,num_samples,truth\na.wav,16000,0 0.5 sad; 0.4 1 sad\n", 2, ["utterance a", "both sad and sad at 0.4 s"]),
    ("path,num_samples,votes\na.wav,400,sad:1\nb.wav,400,17\n", 3, ["votes must be label:weight", "'17'", "rename"]),
    ("path,num_samples,votes\na.wav,400,sad:2;happy:-1\n", 2, ["votes must be", "above 0", "'happy:-1'"]),
    ("path,num_samples,votes\na.wav,400,sad:2;happy:0\n", 2, ["utterance a", "happy must be above 0", "got 0"]),
    ("path,num_samples,votes\na.wav,400,sad:2;\n", 2, ["votes must be", "''"]),
    ("path,num_samples,votes\na.wav,400,sad:" + "9" * 400 + "\n", 2, ["utterance a", "finite, got inf"]),
    ("path,num_samples,votes\na.wav,400,sad:1;fear:1;sad:2\n", 2, ["utterance a", "sad is named 2 times"]),
    (HEADER + LINE + "x" * 70_000, 3, ["at most 65536 bytes"]),
    (HEADER.encode() + LINE.encode() + b"\xff\xfe", 3, ["not UTF-8"]),
    (HEADER + LINE + "a\0b", 3, ["not UTF-8 text"]),
    ('path,num_samples,label\n"a.wav,400,sad\n', 2, ["not a table"])])
def test_malformed_tables_name_file_and_line(tmp_path, text, line, words):
    path = table(tmp_path, text)
    refused(lambda: manifest.read(path), f"{path}:{line}:", *words)


def test_tables_that_are_none(tmp_path, wav):
    refused(lambda: manifest.read(tmp_path / "no.tsv"), tmp_path / "no.tsv", "no such file")
    refused(lambda: manifest.read(tmp_path), tmp_path, "a folder")
    refused(lambda: manifest.read(wav), f"{wav}:", "not UTF-8")
    refused(lambda: manifest.read(table(tmp_path, HEADER)), "corpus.tsv: holds no utterance")


def test_a_table_whose_sound_file_is_missing_names_both(tmp_path):
    path = table(tmp_path, "path,label\nno.wav,sad\n")
    refused(lambda: manifest.read(path), f"{path}:2:", tmp_path / "no.wav", "no such file")


def test_mutated_text_gives_utterances_or_a_value_error(tmp_path):
    """150 random changes of each text format: never another exception, and what is read is fit to be written."""
    generator, letters = random.Random(2), b"\t\n\r\0\"',;/. 09azAZ\xc3\xff[]"
    (tmp_path / "Session1/dialog/EmoEvaluation").mkdir(parents=True)
    readers = {"corpus.tsv": (manifest.read, HEADER + LINE + LINE.replace("b", "c")),
               "t.csv": (manifest.read, 'path,num_samples,label\n"a.wav",400,sad\nb.wav,500,hap\n'),
               "f.tsv": (fairseq_list.read, "/data\na.wav\t400\nb/c.wav\t500\n"),
               "l.scp": (lambda path: list(scp.read_split(path, path, path).train), "a /data/a.wav sad\n"),
               "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt":
                   (lambda path: iemocap.read(tmp_path, allow_partial=True), SUMMARY)}
    for name, (reader, text) in readers.items():
        for _ in range(150):
            content = bytearray(text.encode())
            for _ in range(generator.randint(1, 4)):
                place = generator.randrange(len(content))
                content[place:place + generator.randint(0, 3)] = generator.choices(letters, k=generator.randint(0, 3))
            path = table(tmp_path, bytes(content), name)
            try:
                manifest.write(tmp_path / "again.tsv", reader(path))
            except ValueError as error:
                assert str(tmp_path) in str(error) and "\n" not in str(error)


# fairseq and scp

def test_a_fairseq_list(tmp_path, wav):
    path = table(tmp_path, f"{tmp_path}\nsound/a.wav\t400\n\ndeep/b b/c.flac\t16000\n", "train.tsv")
    assert fairseq_list.read(path) == [Utterance("sound~a", wav, 400),
                                       Utterance("deep~b b~c", tmp_path / "deep/b b/c.flac", 16_000)]


def test_a_fairseq_list_whose_root_is_relative(tmp_path, wav, monkeypatch):
    """Beside the list, or as fairseq has it in the working directory; never one of two that differ."""
    (tmp_path / "lists").mkdir()
    beside = table(tmp_path, "sound\r\na.wav\t400\r\n", "train.tsv")
    below = table(tmp_path, "sound\ra.wav\t400\r", "lists/train.tsv")
    monkeypatch.chdir(tmp_path)
    for path in (beside, below, "train.tsv", "lists/train.tsv"):
        assert fairseq_list.read(path) == [Utterance("a", wav, 400)]
    (tmp_path / "lists" / "sound").mkdir()
    assert fairseq_list.read(below) == [Utterance("a", wav, 400)]               # though there is a folder of that name
    shutil.copy(wav, tmp_path / "lists" / "sound" / "a.wav")
    refused(lambda: fairseq_list.read(below), f"{below}:1:", "'sound'", "'a.wav'", "both", "absolute path")
    assert fairseq_list.read(beside) == [Utterance("a", wav, 400)]
    monkeypatch.chdir("/")
    assert fairseq_list.read(beside) == [Utterance("a", wav, 400)]
    assert fairseq_list.read(below)[0].path == tmp_path / "lists/sound/a.wav"
    shutil.rmtree(tmp_path / "lists" / "sound")
    refused(lambda: fairseq_list.read(below), f"{below}:1:", "'sound'", "neither", "absolute path")


def test_ids_of_paths_differ_where_paths_do():
    """2,000 random paths of names that look alike: different ids, safe as file names, and each line's own."""
    draw, ids = random.Random(3), {}
    for _ in range(2000):
        names = ["".join(draw.choices("a~%_.\\E7", k=draw.randint(1, 4))) for _ in range(draw.randint(1, 3))]
        path = os.path.normpath("/".join(names) + ".wav")
        id = fairseq_list.id_of(path)
        assert ids.setdefault(id, path) == path
        assert not set("/\\") & set(id) and not id.startswith(".")
    examples = {"x.wav": "x", "a/x.wav": "a~x", "./b//x.v1.wav": "b~x.v1", "a_b/x": "a_b~x", "a/b_x": "a~b_x",
                "../x.wav": "%2E.~x", "a~b/x.wav": "a%7Eb~x"}
    assert {path: fairseq_list.id_of(path) for path in examples} == examples


def test_equal_names_in_two_folders(tmp_path):
    path = table(tmp_path, "/data\na/Ses01F_impro01_M013.wav\t400\nb/Ses01F_impro01_M013.wav\t400\n")
    both = fairseq_list.read(path)
    assert [u.id for u in both] == ["a~Ses01F_impro01_M013", "b~Ses01F_impro01_M013"]
    assert {u.group for u in both} == {"Ses01M"}
    manifest.write(tmp_path / "again.tsv", both)
    assert manifest.read(tmp_path / "again.tsv") == both


@pytest.mark.parametrize("text, is_list", [
    ("/data\na.wav\t400\n", True), ("\ufeff/data\r\na.wav\t400\r\n", True), ("/da,ta; x\ra b.wav\t400", True),
    ("sound\na.wav\t400\n", True), ("path\na.wav\t400\n", True), ("/data\na.wav 400\n", True), ("/data", True),
    ("path\na.wav\nb.wav\n", False), ("path,num_samples\na.wav,400\n", False), ("label\tpath\nsad\ta.wav\n", False),
    ("file,label\na.wav,sad\n", False), ("", False)])
def test_a_fairseq_list_is_recognised(tmp_path, text, is_list):
    assert fairseq_list.is_fairseq_list(table(tmp_path, text)) == is_list


@pytest.mark.parametrize("text, line, words", [
    ("", 1, ["root folder"]), ("a.wav\t400\n", 1, ["root folder"]), ("/data\na.wav 400\n", 2, ["path<TAB>samples"]),
    ("/data\na.wav\t\n", 2, ["path<TAB>samples"]), ("/data\na.wav\tx\n", 2, ["num_samples"]),
    ("/data\na.wav\t300\n", 2, [">= 400"]), ("/data\na/x.wav\t400\n\na/./x.wav\t400\n", 4, ["id a~x was used before"]),
    ("/data\na/x.wav\t400\n\na/x.flac\t400\n", 4, ["id a~x was used before"]), ("/data\n\t400\n", 2, ["path must be"])])
def test_malformed_fairseq(tmp_path, text, line, words):
    path = table(tmp_path, text)
    refused(lambda: fairseq_list.read(path), f"{path}:{line}:", *words)


def test_fairseq_without_utterances(tmp_path):
    refused(lambda: fairseq_list.read(table(tmp_path, "/data\n")), "holds no utterance")


def scp_list(tmp_path: Path, wav: Path, name: str, *lines: str) -> Path:
    """A list whose WAVs stand for sound files of their own, beside `wav` and of the line's name."""
    for line in filter(None, lines):
        place = wav.with_name(f"{line.split()[0].strip('./')}.wav")
        if not place.exists():
            os.link(wav, place)
    named = (line.replace("WAV", str(wav.with_name(f"{line.split()[0].strip('./')}.wav"))) if line else ""
             for line in lines)
    return table(tmp_path, "".join(line + "\n" for line in named), name)


@pytest.mark.parametrize("labels", [("ang", "sadness", "neutral"), ("2", "3", "0")])
def test_scp(tmp_path, wav, labels):
    """Names, or positions in the classes; the speaker is known for names as in IEMOCAP."""
    train = scp_list(tmp_path, wav, "train.scp", f"Ses02F_script01_1_M003 WAV {labels[0]}", "",
                     f"x  sound/a.wav\t{labels[2]}")
    valid = scp_list(tmp_path, wav, "valid.scp", f"Ses01F_impro01_F000 WAV {labels[1]}")
    test = scp_list(tmp_path, wav, "ses1.scp", f"Ses01F_impro01_M000 WAV {labels[1]}")
    split = scp.read_split(train, valid, test)
    name = "Ses02F_script01_1_M003"
    assert split.train == [Utterance(name, wav.with_name(f"{name}.wav"), 400, "2", "Ses02M", "M", "angry", "script"),
                           Utterance("x", wav, 400, label="neutral")]
    assert [u.label for u in split.valid + split.test] == ["sad", "sad"] and split.name == "ses1"
    assert scp.read_split(train, None, test).valid == []


def test_scp_path_with_blanks(tmp_path, wav):
    spaced = tmp_path / "a folder" / "a b.wav"
    spaced.parent.mkdir()
    shutil.copy(wav, spaced)
    path = scp_list(tmp_path, wav, "a.scp", f"a {spaced} sad")
    other = scp_list(tmp_path, wav, "b.scp", "b WAV sad")
    assert scp.read_split(path, None, other).train[0].path == spaced


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n\n"])
def test_scp_lists_of_other_labels_marks_and_line_ends(tmp_path, wav, capsys, end):
    lists = []
    for name, label in (("a", "sad"), ("b", "Fear"), ("c", "exc"), ("d", "fear"), ("e", "neu"), ("f", "xxx")):
        path = scp_list(tmp_path, wav, f"{name}.scp", f"{name} WAV {label}")
        lists.append(path.read_text().replace("\n", end))
    train = table(tmp_path, "\ufeff" + "".join(lists[:4]) + end, "train.scp")
    test = table(tmp_path, "".join(lists[4:]), "test.scp")
    split = scp.read_split(train, None, test)
    assert [(u.id, u.label) for u in split.train] == [("a", "sad"), ("c", "happy")]
    assert [(u.id, u.label) for u in split.test] == [("e", "neutral")]
    assert "3 utterances with labels that are no class (Fear 1, fear 1, xxx 1)" in capsys.readouterr().err


@pytest.mark.parametrize("lines, line, words", [
    (["a WAV"], 1, ["name path label"]), (["a"], 1, ["name path label"]),
    (["a WAV sad", "b WAV 3"], 2, ["label '3'", "neutral, happy"]), (["a WAV 4"], 1, ["label '4'", "0, 1, 2, 3"]),
    (["a WAV sad", "a WAV sad"], 2, ["id a was used before"]), (["a no.wav sad"], 1, ["no.wav", "no such file"]),
    (["../a WAV sad"], 1, ["not safe"])])
def test_malformed_scp(tmp_path, wav, lines, line, words):
    train = scp_list(tmp_path, wav, "train.scp", *lines)
    numbered = lines[0].split()[-1].isdigit()
    test = scp_list(tmp_path, wav, "test.scp", f"t WAV {'3' if numbered else 'sad'}")
    refused(lambda: scp.read_split(train, None, test), f"{train}:{line}:", *words)


def test_scp_lists_that_overlap(tmp_path, wav):
    """An utterance trained and tested on is always refused; a shared speaker unless it is asked for."""
    train = scp_list(tmp_path, wav, "train.scp", "Ses01F_impro01_F000 WAV sad", "x WAV sad")
    same = scp_list(tmp_path, wav, "same.scp", "x WAV sad")
    speaker = scp_list(tmp_path, wav, "speaker.scp", "Ses01M_impro02_F001 WAV sad")
    for lists in ((train, None, same), (train, same, speaker)):
        refused(lambda: scp.read_split(*lists, allow_overlap=True), train, "utterance x", "is also in")
    renamed = scp_list(tmp_path, wav, "renamed.scp", f"y {wav.with_name('x.wav')} sad")
    refused(lambda: scp.read_split(train, None, renamed, allow_overlap=True), train, "utterance y", "x.wav")
    refused(lambda: scp.read_split(train, None, speaker), "speaker Ses01F", "training part", "test part")
    assert len(scp.read_split(train, speaker, speaker, allow_overlap=True).test) == 1
    refused(lambda: scp.read_split(train, None, scp_list(tmp_path, wav, "empty.scp")), "empty.scp: holds no utterance")


# IEMOCAP

SUMMARY = ("% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
           "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]\n"
           "C-E2:\tNeutral;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\n\n"
           "[10.0100 - 11.3925]\tSes01F_impro01_F001\tfru\t[2.5000, 2.5000, 2.5000]\n"
           "[12.0000 - 13.0000]\tSes01F_impro01_M000\texc\t[2.5000, 2.5000, 2.5000]\n")


def small_tree(root: Path, wav: Path, summary: str = SUMMARY) -> Path:
    """One dialogue of session 1; returns its evaluation file."""
    evaluation = root / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    evaluation.parent.mkdir(parents=True)
    evaluation.write_text(summary)
    sound = root / "Session1/sentences/wav/Ses01F_impro01"
    sound.mkdir(parents=True)
    for turn in ("F000", "F001", "M000"):
        os.link(wav, sound / f"Ses01F_impro01_{turn}.wav")
    return evaluation


def golden_tree(root: Path, wav: Path) -> Path:
    """A tree with exactly the published counts; the sound is one file linked 5,531 times."""
    for session, (*by_label, improvised, women, _) in iemocap.COUNTS.items():
        labels = [label for label, count in zip(iemocap.LABELS, by_label) for _ in range(count)]
        random.Random(session).shuffle(labels)
        texts: dict[str, str] = {}
        for number, label in enumerate(labels):
            style = f"impro{number // 60 + 1:02d}" if number < improvised else f"script{number // 60 + 1:02d}_1"
            gender = "F" if (number * women) % len(labels) < women else "M"     # spread over all labels
            dialogue = f"Ses0{session}F_{style}"
            name = f"{dialogue}_{gender}{number % 1000:03d}"
            folder = root / f"Session{session}/sentences/wav" / dialogue
            folder.mkdir(parents=True, exist_ok=True)
            os.link(wav, folder / f"{name}.wav")
            texts[dialogue] = texts.get(dialogue, "%\n") + (f"[1.0 - 2.0]\t{name}\t{label}\t[1.0, 2.0, 3.0]\n"
                                                           f"[2.0 - 3.0]\t{dialogue}_M999\txxx\t[1.0, 2.0, 3.0]\n")
        evaluations = root / f"Session{session}/dialog/EmoEvaluation"
        (evaluations / "Categorical").mkdir(parents=True)
        for dialogue, text in texts.items():
            (evaluations / f"{dialogue}.txt").write_text(text)
            (evaluations / f"._{dialogue}.txt").write_bytes(b"\x00\x05\x16\x07")
    return root


def test_golden_counts_have_the_published_sums():
    """The published 4-class corpus: each session, and the sums over the sessions."""
    cells = iemocap.published_counts()
    columns = ("total", "neu", "ang", "sad", "hap", "exc", "hap+exc", "improvised", "speaker F", "speaker M")
    published = {"1": (1085, 384, 229, 194, 135, 143, 278, 521, 528, 557),
                 "2": (1023, 362, 137, 197, 117, 210, 327, 530, 481, 542),
                 "3": (1151, 320, 240, 305, 135, 151, 286, 627, 522, 629),
                 "4": (1031, 258, 327, 143, 65, 238, 303, 534, 528, 503),
                 "5": (1241, 384, 170, 245, 143, 299, 442, 731, 590, 651)}
    assert cells == {(session, column): number for session, numbers in published.items()
                     for column, number in zip(columns, numbers)}
    sums = {column: sum(cells[session, column] for session in "12345") for column in columns}
    assert tuple(sums.values()) == (5531, 1708, 1103, 1084, 595, 1041, 1636, 2943, 2649, 2882)
    assert all(cells[session, "speaker F"] + cells[session, "speaker M"] == cells[session, "total"]
               for session in "12345")


def test_a_whole_iemocap_passes_and_one_utterance_less_is_named(tmp_path, wav):
    root = golden_tree(tmp_path / "IEMOCAP", wav)
    utterances = iemocap.read(root)
    assert len(utterances) == 5531
    assert Counter(u.label for u in utterances) == {"neutral": 1708, "happy": 1636, "angry": 1103, "sad": 1084}
    assert Counter(u.gender for u in utterances) == {"F": 2649, "M": 2882}
    assert len({u.speaker for u in utterances}) == 10
    assert Counter(u.session for u in utterances) == {"1": 1085, "2": 1023, "3": 1151, "4": 1031, "5": 1241}
    assert len(iemocap.read(root, with_excited=False)) == 4490

    evaluation = next(file for file in sorted((root / "Session3/dialog/EmoEvaluation").glob("Ses*impro*.txt")))
    lines = evaluation.read_text().splitlines(keepends=True)
    lost = next(line for line in lines if "\tsad\t" in line and "_M" in line.split("\t")[1])
    evaluation.write_text("".join(line for line in lines if line != lost))
    refused(lambda: iemocap.read(root), root, "session 3, sad: found 304, expected 305",
            "session 3, improvised: found 626, expected 627", "session 3, speaker M: found 628, expected 629",
            "session 3, total: found 1150, expected 1151", "--allow-partial")
    refused(lambda: iemocap.read(root, with_excited=False), "session 3, sad: found 304")
    assert len(iemocap.read(root, allow_partial=True)) == 5530

    shutil.rmtree(root / "Session2")
    refused(lambda: iemocap.read(root), "session 2, neu: found 0, expected 362", "more cells")


def test_iemocap_fields(tmp_path, wav):
    small_tree(tmp_path, wav)
    sound = tmp_path / "Session1/sentences/wav/Ses01F_impro01"
    woman, man = "Ses01F_impro01_F000", "Ses01F_impro01_M000"
    assert iemocap.read(tmp_path, allow_partial=True) == [
        Utterance(woman, sound / f"{woman}.wav", 400, "1", "Ses01F", "F", "neutral", "impro"),
        Utterance(man, sound / f"{man}.wav", 400, "1", "Ses01M", "M", "happy", "impro")]
    assert len(iemocap.read(tmp_path, allow_partial=True, with_excited=False)) == 1


def test_iemocap_files_that_are_missing(tmp_path, wav):
    refused(lambda: iemocap.read(tmp_path / "no"), tmp_path / "no", "Session1 to Session5")
    evaluation = small_tree(tmp_path, wav)
    lost = tmp_path / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M000.wav"
    lost.unlink()
    refused(lambda: iemocap.read(tmp_path), tmp_path, "1 utterances or files cannot be used", f"{evaluation}:8:", lost,
            "no such file", "--allow-partial")


BAD_LINES = [
    ("\tneu\t", "\tjoyful\t", 3, ["IEMOCAP's labels", "Ses01F_impro01_F000"]),
    ("\tneu\t", "\timprovised\t", 3, ["IEMOCAP's labels", "improvised"]),
    ("\tneu\t", " neu ", 3, ["[start - end]<TAB>utterance<TAB>label"]),
    ("Ses01F_impro01_F000", "Ses02F_impro01_F000", 3, ["Ses02F_impro01_F000", "session 1"]),
    ("Ses01F_impro01_F000", "../../../evil", 3, ["'../../../evil'", "not named as in IEMOCAP"]),
    ("\tneu\t", "\xff\tneu\t", 3, ["not named as in IEMOCAP"]),
    ("Ses01F_impro01_M000", "Ses01F_impro01_F000", 8, ["Ses01F_impro01_F000 was used before", ":3"])]


@pytest.mark.parametrize("old, new, line, words", BAD_LINES)
def test_malformed_evaluations(tmp_path, wav, old, new, line, words, capsys):
    """Refused with the line; with --allow-partial that line is left out, named, and the other utterance stays."""
    evaluation = small_tree(tmp_path, wav)
    evaluation.write_bytes(SUMMARY.replace(old, new).encode("latin-1"))
    refused(lambda: iemocap.read(tmp_path), "1 utterances or files cannot be used", f"{evaluation}:{line}:", *words,
            "--allow-partial")
    other, = iemocap.read(tmp_path, allow_partial=True)
    assert other.label == ("neutral" if line == 8 else "happy")
    note = capsys.readouterr().err.splitlines()[0]
    assert f"1 utterances or files cannot be used ({evaluation}:{line}:" in note and all(word in note for word in words)


@pytest.mark.parametrize("spoil", ["missing", "empty", "no sound", "cut", "short", "folder", "link"])
def test_a_partial_iemocap_leaves_out_what_cannot_be_used(tmp_path, wav, spoil, capsys):
    small_tree(tmp_path, wav)
    bad = tmp_path / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"
    bad.unlink()
    if spoil == "folder":
        bad.mkdir()
    elif spoil == "link":
        bad.symlink_to("nowhere.wav")
    elif spoil == "short":
        soundfile.write(bad, np.ones(399), 16_000)
    elif spoil != "missing":
        bad.write_bytes({"empty": b"", "no sound": b"no sound" * 999, "cut": wav.read_bytes()[:-99]}[spoil])
    assert [u.id for u in iemocap.read(tmp_path, allow_partial=True)] == ["Ses01F_impro01_M000"]
    note, others = capsys.readouterr().err.splitlines()
    assert "1 utterances or files cannot be used" in note and str(bad) in note
    assert "session 1, neu: found 0, expected 384" in note and "more cells" in note
    assert others == f"{tmp_path}: left out, being of none of the four classes: 1 utterances (fru 1)"
    refused(lambda: iemocap.read(tmp_path), "1 utterances or files cannot be used", bad, "--allow-partial")


def test_comments_in_any_encoding_and_a_whole_file_in_another(tmp_path, wav, capsys):
    """Evaluators' comments are not looked at; a dialogue in UTF-16 is left out, named; the others stay."""
    evaluation = small_tree(tmp_path, wav)
    evaluation.write_bytes(SUMMARY.replace("Neutral;", "Neutral; très \0").encode("latin-1"))
    both = iemocap.read(tmp_path, allow_partial=True)
    assert len(both) == 2 and "cannot be used" not in capsys.readouterr().err
    evaluation.write_bytes(SUMMARY.replace("\n", "\r\n").encode("utf-8-sig"))
    assert iemocap.read(tmp_path, allow_partial=True) == both
    other = evaluation.with_name("Ses01F_impro02.txt")
    other.write_text(SUMMARY.replace("impro01", "impro02"), encoding="utf-16")
    assert iemocap.read(tmp_path, allow_partial=True) == both
    assert f"1 utterances or files cannot be used ({other}:1: saved as UTF-16" in capsys.readouterr().err
    evaluation.unlink()
    refused(lambda: iemocap.read(tmp_path, allow_partial=True), tmp_path, "holds no utterance", "UTF-16")


def test_a_partial_iemocap_names_the_first_and_counts_all(tmp_path, wav, capsys):
    root = golden_tree(tmp_path / "IEMOCAP", wav)
    shutil.rmtree(root / "Session4")
    shutil.rmtree(next((root / "Session5/sentences/wav").iterdir()))
    part = iemocap.read(root, allow_partial=True)
    assert {u.session for u in part} == set("1235") and len(part) < 5531 - 1031
    note = capsys.readouterr().err.splitlines()[0]
    assert f"{5531 - 1031 - len(part)} utterances or files cannot be used" in note and note.count("no such file") == 3
    assert "session 4, neu: found 0, expected 258" in note and "cells" in note


def test_an_iemocap_without_the_four_labels(tmp_path, wav):
    small_tree(tmp_path, wav, "% nothing\n")
    refused(lambda: iemocap.read(tmp_path, allow_partial=True), tmp_path, "holds no utterance")


# Checks and the command

def test_check_files(tmp_path, wav):
    good = Utterance("a", wav, 400)
    preflight.check_files([good])
    bad = [Utterance(f"m{number}", tmp_path / f"m{number}.wav", 400) for number in range(4)]
    refused(lambda: preflight.check_files([good, *bad]), "4 of 5 sound files", tmp_path / "m0.wav", tmp_path / "m2.wav",
            "no such file", "...")
    refused(lambda: preflight.check_files([Utterance("a", wav, 401)]), "1 of 1", wav, "400 samples", "says 401")


def prepare(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """Run bin/prepare.py in this process: exit status, what it printed, its errors."""
    monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "bin/prepare.py"), run_name="__main__")
    return caught.value.code, *capsys.readouterr()


def test_prepare_as_a_command(tmp_path, wav, monkeypatch, capsys):
    small_tree(tmp_path / "IEMOCAP", wav)
    status, printed, errors = prepare(monkeypatch, capsys, "--iemocap", tmp_path / "IEMOCAP", "--allow-partial",
                                      "--out", tmp_path / "corpus.tsv")
    assert status == 0, errors
    assert printed.splitlines()[1].split() == ["1", "1", "1", "2", "0.00"]
    assert len(manifest.read(tmp_path / "corpus.tsv")) == 2


def test_prepare_options(tmp_path, wav, monkeypatch, capsys):
    small_tree(tmp_path / "IEMOCAP", wav)
    iemocap = ("--iemocap", tmp_path / "IEMOCAP", "--out", tmp_path / "corpus.tsv")
    status, printed, errors = prepare(monkeypatch, capsys, *iemocap)
    assert (status, printed) == (2, "") and not (tmp_path / "corpus.tsv").exists()
    assert errors.startswith("error: ") and errors.count("\n") == 1 and "--allow-partial" in errors
    status, printed, _ = prepare(monkeypatch, capsys, *iemocap, "--allow-partial", "--no-excited")
    assert status == 0 and len(manifest.read(tmp_path / "corpus.tsv")) == 1


def test_prepare_keeps_every_label(tmp_path, wav, monkeypatch, capsys):
    labels = ("surprise", "exc", "Neutral", "", "fear", "neu", "happy")
    lines = ["path,num_samples,emotion,session"]
    for number, label in enumerate(labels):
        os.link(wav, tmp_path / f"{number}.wav")
        lines.append(f"{number}.wav,400,{label},{number % 2}")
    path = table(tmp_path, "\n".join(lines), "t.csv")
    status, printed, errors = prepare(monkeypatch, capsys, "--table", path, "--out", tmp_path / "corpus.tsv")
    assert (status, errors) == (0, "")
    assert [u.label for u in manifest.read(tmp_path / "corpus.tsv")] == list(labels)
    header, *rows, _ = printed.splitlines()
    assert header.split() == ["session", "Neutral", "neu", "exc", "happy", "fear", "surprise", "unlabelled", "total",
                              "hours"]
    assert [row.split()[:-1] for row in rows] == [
        ["0", "1", "0", "0", "1", "1", "1", "0", "4"], ["1", "0", "1", "1", "0", "0", "0", "1", "3"],
        ["all", "1", "1", "1", "1", "1", "1", "1", "7"]]


def test_prepare_merges_what_it_joins(tmp_path, monkeypatch, capsys):
    draw, lines = np.random.default_rng(0), ["path\tspeaker\tlabel"]
    for label in ("calm", "bored", "happy"):
        soundfile.write(tmp_path / f"{label}.wav", draw.normal(scale=0.1, size=16_000), 16_000)
        lines.append(f"{label}.wav\tone\t{label}")
    source = table(tmp_path, "\n".join(lines) + "\n", "source.tsv")
    join = ("--join", source, "--out", tmp_path / "joined" / "corpus.tsv")
    for flags in (("--merge", "calm=neutral"), ("--table", source, "--merge", "calm=neutral")):
        given = (*join, *flags) if "--table" not in flags else (*flags, "--out", tmp_path / "x.tsv")
        assert prepare(monkeypatch, capsys, *given)[2].strip().endswith(
            "--merge says what labels count as among the --classes of --join; give both")
    classes = ("--classes", "neutral,happy")
    assert "no utterance has that label" in prepare(monkeypatch, capsys, *join, *classes, "--merge", "fear=happy")[2]
    assert not (tmp_path / "joined").exists()
    status, _, errors = prepare(monkeypatch, capsys, *join, *classes, "--merge", "calm=neutral,bored=happy")
    assert status == 0, errors
    assert [(u.id, u.label) for u in manifest.read(tmp_path / "joined" / "corpus.tsv")] == [
        ("bored", "happy"), ("happy", "happy")]


def test_prepare_from_lists(tmp_path, wav, monkeypatch, capsys):
    fairseq = table(tmp_path, f"{wav.parent}\na.wav\t400\n", "f.tsv")
    status, printed, _ = prepare(monkeypatch, capsys, "--fairseq", fairseq, "--out", tmp_path / "corpus.tsv")
    assert status == 0 and "unlabelled" in printed
    status, _, _ = prepare(monkeypatch, capsys, "--table", tmp_path / "corpus.tsv", "--out", tmp_path / "again.tsv")
    assert status == 0 and (tmp_path / "again.tsv").read_text() == (tmp_path / "corpus.tsv").read_text()
