"""A folder of mixed material: which sounds, in what order, what one rotten file costs, and what is written where."""
import codecs
import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import markup
import no_speech
import numpy as np
import pytest
import small
import soundfile
import torch

from framealign.runtime import log
from framealign.sound import audio
from framealign.corpus import frame_truth
from framealign.corpus.synthetic_utterance import synthesise
from framealign.hubert.model import Hubert
from framealign.units.codebook import Codebook
from framealign.units.extraction import source_of_states
from framealign.emotion.calibration import Calibration
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion import recogniser
from framealign.emotion.recogniser import Recogniser
from framealign.emotion.segments import segments
from framealign.report import tracks
from framealign.report.text_formats import FORMATS
from framealign.report.turn_formats import TURN_FORMATS
from framealign.commands import recognise_command
from framealign.commands.recognise_command import RecogniseRun, sound_files

LABELS = ["neutral", "happy", "angry", "sad"]
GOOD = ["a.wav", "b.mp3", "c.ogg", "d.flac", "e.aiff", "sub/stereo.wav"]
ROTTEN = {"cut.wav": "truncated: the header claims", "empty.wav": "empty file", "quiet.wav": "nothing to hear",
          "short.wav": "399 samples at 16 kHz", "sub/text.wav": "not a sound file", "nan.wav": "NaN or infinite"}


@pytest.fixture(scope="module")
def model(micro, tmp_path_factory) -> Path:
    torch.manual_seed(1)
    model = EmotionModel(Hubert(micro), LABELS)
    for parameter in [*model.hubert.encoder.parameters(), *model.pooling.parameters(), *model.classifier.parameters()]:
        torch.nn.init.normal_(parameter, std=0.4)
    place = tmp_path_factory.mktemp("recognise") / "recogniser"
    model.save_pretrained(place)
    return place


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Good and rotten files, what is no sound, hidden ones, an empty folder."""
    pytest.importorskip("torchaudio")
    draw, folder = np.random.default_rng(0), tmp_path / "mixed"
    for place in ("sub", "empty", ".hidden"):
        (folder / place).mkdir(parents=True)
    noise = lambda n: 0.1 * draw.standard_normal(n)
    soundfile.write(folder / "a.wav", noise(9_000), 16_000)
    soundfile.write(folder / "b.mp3", noise(44_100), 44_100)
    soundfile.write(folder / "c.ogg", noise(8_000), 8_000)
    soundfile.write(folder / "d.flac", noise(48_000), 48_000)
    soundfile.write(folder / "e.aiff", noise(22_050), 22_050)
    soundfile.write(folder / "sub" / "stereo.wav", noise((16_000, 2)), 16_000)
    soundfile.write(folder / "cut.wav", noise(9_000), 16_000)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[:9_000])
    (folder / "empty.wav").touch()
    soundfile.write(folder / "quiet.wav", np.zeros(9_000), 16_000)
    soundfile.write(folder / "short.wav", noise(399), 16_000)
    soundfile.write(folder / "nan.wav", np.full(9_000, np.nan), 16_000, subtype="FLOAT")
    (folder / "sub" / "text.wav").write_text("no sound " * 500)
    (folder / "notes.txt").write_text("not listened to")
    for name in (".hidden/x.wav", ".x.wav"):
        soundfile.write(folder / name, noise(9_000), 16_000)
    return folder


def test_a_folder_costs_a_line_for_each_rotten_file(model, mixed, capsys):
    """Every good file is recognised as it is alone, in order; every rotten one has its line; status 1."""
    assert recognise_command.run(str(model), [str(mixed)], RecogniseRun(format="csv", gate=False, device="cpu")) == 1
    printed = capsys.readouterr()
    rows, recogniser = list(csv.DictReader(io.StringIO(printed.out))), Recogniser.from_pretrained(model)
    assert [row["path"] for row in rows] == [str(mixed / name) for name in GOOD]
    for row in rows:
        alone = recogniser(row["path"])
        assert row["emotion"] == alone.emotion and float(row["seconds"]) == pytest.approx(alone.seconds, abs=1e-3)
        np.testing.assert_allclose([float(row[name]) for name in LABELS], list(alone.probabilities.values()), atol=1e-6)
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(ROTTEN)
    for name, reason in ROTTEN.items():
        line, = (line for line in errors if str(mixed / name) in line)
        assert reason in line
    assert printed.err.splitlines()[-1] == "6 of 12 could not be recognised"


def test_names_stand_for_sound_files_in_this_order(mixed, monkeypatch):
    monkeypatch.chdir(mixed.parent)
    names = ["mixed/sub", "mixed/d.flac", "mixed/*.[mo]*", "mixed/**/st*", "-"]
    listed = list(sound_files(names, [b"mixed/a.wav\n", b"\n", b"mixed/sub\r\n", b"-\n"]))
    assert listed == ["mixed/sub/stereo.wav", "mixed/sub/text.wav", "mixed/d.flac", "mixed/b.mp3", "mixed/c.ogg",
                      "mixed/sub/stereo.wav", "mixed/a.wav", "mixed/sub/stereo.wav", "mixed/sub/text.wav"]
    plain = list(sound_files(["-"], [b"a.wav\n", b" b c.wav\n", b"d.wav"]))
    for end in (b"\r\n", b"\r", b"\0", b"\n\n"):
        text = codecs.BOM_UTF8 + end.join((b"a.wav", b" b c.wav", b"d.wav")) + end
        assert list(sound_files(["-"], text.splitlines(keepends=True))) == plain == ["a.wav", " b c.wav", "d.wav"]
        assert list(sound_files(["-"], io.BytesIO(text))) == plain              # lines end in LF alone there
    with pytest.raises(ValueError, match="list of sounds is saved as UTF-16"):
        list(sound_files(["-"], io.BytesIO("a.wav\n".encode("utf-16"))))
    nothing = [str(error) for error in sound_files(["mixed/empty", "mixed/*.xyz", "mixed/gone.wav"])]
    assert nothing == ["mixed/empty: holds no sound file", "mixed/*.xyz: no file matches", "mixed/gone.wav"]
    (mixed / "take [1].wav").touch()
    assert list(sound_files(["mixed/take [1].wav"])) == ["mixed/take [1].wav"]      # though it looks like a pattern
    if os.sep == "/":
        assert list(sound_files(["-"], [b"mixed/\xff.wav\n"])) == [os.fsdecode(b"mixed/\xff.wav")]


@pytest.mark.parametrize("names, status, last", [
    (["a.wav"], 0, None), (["a.wav", "gone.wav"], 1, "1 of 2 could not be recognised"),
    (["gone.wav"], 2, "error: {}/gone.wav: no such file"), (["empty"], 2, "error: {}/empty: holds no sound file"),
    (["gone.wav", "*.xyz"], 2, "2 of 2 could not be recognised")])
def test_the_exit_status_says_how_many(model, mixed, capsys, names, status, last):
    paths = [str(mixed / name) for name in names]
    assert recognise_command.run(str(model), paths, RecogniseRun(device="cpu")) == status
    errors = capsys.readouterr().err.splitlines()
    assert (errors[-1] if errors else None) == (last and last.format(mixed))


def test_without_a_recogniser_the_one_that_comes_along_is_taken(model, mixed, monkeypatch, capsys):
    """Its results, and a line that says so; where none came along, one line that says what to do."""
    sounds = [str(mixed / name) for name in ("a.wav", "d.flac")]
    recognise_command.main([str(model), *sounds, "--format", "csv", "--no-gate", "--device", "cpu"])
    named = capsys.readouterr()
    assert "no recogniser is named" not in named.err
    monkeypatch.setattr(recogniser, "INSTALLED", model)
    recognise_command.main([*sounds, "--format", "csv", "--no-gate", "--device", "cpu"])
    taken = capsys.readouterr()
    assert taken.out == named.out and taken.err.count(f"no recogniser is named: {model} is taken") == 1
    monkeypatch.setattr(recogniser, "INSTALLED", mixed / "empty")
    with pytest.raises(ValueError, match=f"no recogniser is named, and {mixed / 'empty'}, .*has none: name a"):
        recognise_command.main(sounds)


def test_the_first_of_several_names_is_a_recogniser_unless_it_is_a_sound(model, mixed):
    """A directory that is mistyped, or holds neither, stays what it was meant to be: an error, no other recogniser."""
    names = recognise_command.model_and_sounds
    wav, flac = str(mixed / "a.wav"), str(mixed / "d.flac")
    assert names([str(model), wav]) == (str(model), [wav])
    for sounds in ([wav], [wav, flac], [str(mixed)], [str(mixed), wav], [str(mixed / "*.wav"), wav], ["-", wav],
                   [str(mixed / "gone.wav")]):
        assert names(sounds) == ("", sounds)
    for wrong in (model.parent / "recogniser2", mixed / "empty"):
        assert names([str(wrong), wav]) == (str(wrong), [wav])
        with pytest.raises(ValueError, match=f"^{wrong}"):
            recognise_command.run(*names([str(wrong), wav]), RecogniseRun(device="cpu"))
    with pytest.raises(ValueError, match="is a recogniser's directory: name the sound files"):
        names([str(model)])


def test_json_of_no_sound_is_still_json(model, mixed, capsys):
    paths = [str(mixed / name) for name in ("a.wav", "gone.wav", "d.flac")]
    recognise_command.run(str(model), paths, RecogniseRun(format="json", timeline=True, device="cpu"))
    assert [Path(one["path"]).name for one in json.loads(capsys.readouterr().out)] == ["a.wav", "d.flac"]


@pytest.mark.parametrize("form, suffix", [("textgrid", ".TextGrid"), ("audacity", ".txt"), ("json", ".json"),
                                          ("csv", ".csv"), ("svg", ".svg")])
def test_a_folder_of_results_has_a_file_for_each_sound(model, mixed, tmp_path, form, suffix, capsys):
    (mixed / "sub" / "a.wav").write_bytes((mixed / "a.wav").read_bytes())
    out = tmp_path / "out"
    assert recognise_command.run(str(model), [str(mixed)], RecogniseRun(format=form, out=str(out), device="cpu")) == 1
    names = [name + suffix for name in ("a", "b", "c", "d", "e", "a-2", "stereo")]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert (out / f"a{suffix}").read_text().replace("mixed/a", "") == (out / f"a-2{suffix}").read_text().replace(
        "mixed/sub/a", "")
    assert [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()] == [str(out / name) for name in names]


def test_units_are_nearest_centroids_of_the_layer(model, mixed, tmp_path, capsys):
    """The recogniser's own encoder, or another's: as the states of the whole sound are labelled."""
    draw = torch.Generator().manual_seed(0)
    codebook = Codebook(torch.randn(7, 16, generator=draw), torch.ones(7, dtype=torch.int64), 1.0, {"note": "other's"})
    codebook.write(tmp_path / "codebook.safetensors")
    recogniser = Recogniser.from_pretrained(model)
    torch.manual_seed(5)
    other = Hubert(recogniser.model.hubert.config)
    other.save_pretrained(tmp_path / "other")
    for given, hubert in (({"layer": 1}, recogniser.model.hubert), ({"layer": 2}, recogniser.model.hubert),
                          ({"layer": 1, "codebook_model": str(tmp_path / "other")}, other.eval())):
        recognise_command.run(str(model), [str(mixed / "a.wav")], RecogniseRun(
            format="json", timeline=True, codebook=str(tmp_path / "codebook.safetensors"), device="cpu", **given))
        said = capsys.readouterr()
        assert ("does not say whose states it was fitted on" in said.err) == (given == {"layer": 1})
        result, = json.loads(said.out)
        samples = torch.from_numpy(soundfile.read(mixed / "a.wav", dtype="float32")[0])
        samples = (samples - samples.mean()) / (samples.var(correction=0) + 1e-7).sqrt()
        with torch.inference_mode():
            states = hubert.states(samples[None], layer=given["layer"])[0]
        assert result["units"] == torch.cdist(states, codebook.centroids).argmin(1).tolist()


def test_a_codebook_of_another_models_states_is_refused(model, mixed, tmp_path, capsys):
    """What `bin/units.py` made names model and layer: units of other states would mean nothing."""
    hubert = Recogniser.from_pretrained(model).model.hubert
    torch.manual_seed(5)
    other = Hubert(hubert.config)
    other.save_pretrained(tmp_path / "other")
    record = source_of_states(other, 1)
    Codebook(torch.randn(7, 16), torch.ones(7, dtype=torch.int64), 1.0, record).write(tmp_path / "codebook.safetensors")

    def recognise(**given: object) -> None:
        recognise_command.run(str(model), [str(mixed / "a.wav")], RecogniseRun(
            codebook=str(tmp_path / "codebook.safetensors"), device="cpu", **given))
    with pytest.raises(ValueError, match=f"fitted on frames of encoder {record['encoder']}, these are of encoder "
                       r".*its units would mean nothing.*--codebook-model"):
        recognise()
    with pytest.raises(ValueError, match="fitted on frames of layer 1, these are of layer 2"):
        recognise(codebook_model=str(tmp_path / "other"), layer=2)
    assert capsys.readouterr().out == ""
    recognise(codebook_model=str(tmp_path / "other"))
    assert "fitted" not in capsys.readouterr().err


@pytest.mark.parametrize("changes, message", [
    ({"format": "xml"}, "--format must be one of table, json, jsonl, csv, textgrid, rttm, audacity, srt, vtt, svg, "
     "got xml"),
    ({"centre": "file"}, "--centre must be all or folder, got file"),
    ({"centre": "all", "turns": "a.rttm"}, "--centre is of whole sounds, --turns gives each turn its emotion"),
    ({"smooth": -1.0}, "--smooth must be 0 or more seconds, got -1.0"),
    ({"format": "textgrid"}, "holds one sound in a file, 2 are named: give a folder for them with --out"),
    ({"codebook": "gone.npy"}, "gone.npy"), ({"codebook": "{}/bare.npy"}, "--layer must say whose states .* got None"),
    ({"codebook": "{}/bare.npy", "layer": 9}, "0 to 2, got 9"),
    ({"codebook": "{}/wide.npy", "layer": 1}, "a codebook of 9 dimensions cannot label states of 16")])
def test_wrong_flags_are_one_line_before_anything_is_recognised(model, mixed, tmp_path, capsys, changes, message):
    np.save(tmp_path / "bare.npy", np.zeros((3, 16), np.float32))
    np.save(tmp_path / "wide.npy", np.zeros((3, 9), np.float32))
    changes = {name: value.format(tmp_path) if isinstance(value, str) else value for name, value in changes.items()}
    paths = [str(mixed / name) for name in ("a.wav", "d.flac")]
    with pytest.raises(ValueError, match=message):
        recognise_command.run(str(model), paths, RecogniseRun(device="cpu", **changes))
    assert capsys.readouterr().out == ""


def test_a_page_has_a_picture_of_each_sound_that_was_recognised(model, mixed, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert recognise_command.run(str(model), [str(mixed)], RecogniseRun(html=str(page))) == 1
    assert str(page) in capsys.readouterr().err
    text = page.read_text(encoding="utf-8")
    assert text.count("<figure") == text.count("<audio") == len(GOOD)
    assert all(Path(name).name in text for name in GOOD) and "text.wav" not in text
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text


def test_a_page_shows_the_truth_beside_a_sound_above_what_smooth_asked_for(model, mixed, tmp_path, capsys):
    """A truth that is none costs the one line of its sound; nothing else is said."""
    frame_truth.write(mixed / "a.wav", [(5, 12, "angry")])
    page = tmp_path / "page.html"
    for smooth in (0.0, 10.0):
        config = RecogniseRun(html=str(page), smooth=smooth, gate=False, device="cpu")
        assert recognise_command.run(str(model), [str(mixed / "a.wav"), str(mixed / "d.flac")], config) == 0
        capsys.readouterr()
        with_truth, without = markup.read(page.read_text(encoding="utf-8")).all("figure", "timeline")
        widths = [rect.numbers("width")[0] for rect in with_truth.all("div", "truth")[0].all("rect")]
        assert widths == pytest.approx([1000 * s / 0.5625 for s in (0.1, 0.14, 0.3225)], abs=0.01)
        assert not without.all("div", "truth")
        expected = segments(Recogniser.from_pretrained(model)(mixed / "a.wav"), smooth)
        assert len(with_truth.all("div", "segments")[0].all("rect")) == len(expected)
        assert tracks.WITHOUT_FRAMES in with_truth.text
    (mixed / "a.emotional.tsv").write_text("angry from 1 to 2\n")
    assert recognise_command.run(str(model), [str(mixed / "a.wav"), str(mixed / "d.flac")], config) == 1
    errors = capsys.readouterr().err.splitlines()
    assert "a.emotional.tsv, line 1: must be first<TAB>end<TAB>emotion" in errors[0] and len(errors) == 3
    assert page.read_text(encoding="utf-8").count("<figure") == 1


def test_one_result_that_cannot_be_written_costs_one_line(model, mixed, tmp_path, capsys):
    """A name too long, a folder where the result should be, a disk's other refusals: the rest is written."""
    out, long = tmp_path / "out", "y" * 248 + ".wav"
    (mixed / long).write_bytes((mixed / "a.wav").read_bytes())
    (out / "d.TextGrid").mkdir(parents=True)
    paths = [str(mixed / name) for name in ("a.wav", "d.flac", long, "e.aiff")]
    assert recognise_command.run(str(model), paths, RecogniseRun(format="textgrid", out=str(out), device="cpu")) == 1
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == ["a.TextGrid", "e.TextGrid"]
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and all(".tmp" not in line for line in errors)
    assert str(mixed / "d.flac") in errors[0] and "d.TextGrid" in errors[0] and str(mixed / long) in errors[1]


def test_a_full_disk_ends_the_run(model, mixed, tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))
    monkeypatch.setattr(recognise_command.files, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        recognise_command.run(str(model), [str(mixed)], RecogniseRun(out=str(tmp_path / "out"), device="cpu"))


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv", "rttm"])
def test_a_name_that_the_encoding_lacks_costs_one_line(model, mixed, form, monkeypatch, capsys):
    """Standard output in ASCII, as with PYTHONIOENCODING=ascii: the others are written as without it."""
    name = mixed / "\u00fc\u65e5.wav"
    name.write_bytes((mixed / "a.wav").read_bytes())
    paths, config = [str(mixed / "a.wav"), str(name), str(mixed / "d.flac")], RecogniseRun(format=form, device="cpu")
    recognise_command.run(str(model), [paths[0], paths[2]], config)
    expected = capsys.readouterr().out
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert recognise_command.run(str(model), paths, config) == 1
    assert stdout.buffer.getvalue().decode("ascii") == expected
    errors = capsys.readouterr().err
    assert "has characters that ascii, the encoding of standard output, lacks" in errors
    assert errors.splitlines()[-1] == "1 of 3 could not be recognised"


@pytest.mark.parametrize("changes, message", [
    ({"out": "{}/mixed/a.wav"}, "a file, not a folder"), ({"html": "{}/mixed"}, "a folder, must be a file"),
    ({"html": "{}/mixed/a.wav/b.html"}, "a file, not a folder")])
def test_places_that_cannot_be_written_are_one_line_before(model, mixed, tmp_path, capsys, changes, message):
    changes = {name: value.format(tmp_path) for name, value in changes.items()}
    with pytest.raises(ValueError, match=message):
        recognise_command.run(str(model), [str(mixed / "a.wav")], RecogniseRun(device="cpu", **changes))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("form", ["table", "csv", "jsonl", "json"])
def test_a_reader_that_leaves_is_no_error(model, mixed, form):
    """As `| head -1` does: status 0, not a word, and the sounds that are left are not recognised."""
    command = [sys.executable, "-m", "framealign", "recognise", model, "-", "--format", form, "--device", "cpu",
               "--timeline"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=os.environ | {"PYTHONPATH": str(small.ROOT)})
    process.stdout.close()
    _, errors = process.communicate(f"{mixed / 'a.wav'}\n".encode() * 500, timeout=120)
    assert (process.returncode, errors) == (0, b"")


def test_results_of_like_names_have_files_of_their_own():
    in_use: set[str] = set()
    names = [recognise_command.name_for(path, ".txt", in_use)
             for path in ("a.wav", "x/a.wav", "A.wav", "a-2.wav", "\u00fc.wav", "u\u0308.wav")]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == 6 and names[0] == "a.txt"


def test_sounds_of_a_folder_that_are_not_read_are_named(model, mixed, capsys):
    """With what to do; what is no sound is passed over without a word; the status says that something was left out."""
    folder = mixed / "phone"
    folder.mkdir()
    (folder / "a.wav").write_bytes((mixed / "a.wav").read_bytes())
    for name, content in (("b.m4a", b"\0\0\0\x20ftypM4A "), ("c.AAC", b"\xff\xf1\x50\x80"),
                          ("d.webm", b"\x1aE\xdf\xa3")):
        (folder / name).write_bytes(content + bytes(500))
    for name in ("notes.txt", "list.json", "._a.wav", "table.csv", "page.html", ".DS_Store"):
        (folder / name).write_bytes(b"\0\5\x16\7 no sound")
    assert recognise_command.run(str(model), [str(folder)], RecogniseRun(device="cpu")) == 1
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 1 and printed.out.startswith(str(folder / "a.wav"))
    lines = printed.err.splitlines()
    assert lines[-1] == "3 of 4 could not be recognised" and len(lines) == 4
    for name, line in zip(("b.m4a", "c.AAC", "d.webm"), lines):
        assert f"{folder / name}: " in line and f"convert it: ffmpeg -i {name} {name[0]}.wav" in line


@pytest.fixture(scope="module")
def calibrated(model, tmp_path_factory) -> Path:
    """The same recogniser with answers to validation utterances: 12 of 20 with 0.3 to 0.49 wrong, 1 of 20 above."""
    place = tmp_path_factory.mktemp("calibrated") / "recogniser"
    shutil.copytree(model, place)
    confidences = tuple(round(0.3 + 0.01 * i, 2) for i in range(40))
    right = tuple([i % 5 < 2 for i in range(20)] + [i != 3 for i in range(20)])
    Calibration(1.0, 1.0, "validation: 40 utterances of 2 speakers", confidences, right).write(place)
    return place


def test_answers_that_are_not_sure_are_none(model, calibrated, tmp_path, capsys):
    """In every format, with the reason; by a confidence, or by a rate of errors among the validation answers."""
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).standard_normal(9_000) * 0.1, 16_000)
    path = str(tmp_path / "a.wav")
    sure = Recogniser.from_pretrained(model)(path)
    confidence = sure.probabilities[sure.emotion]
    assert 0.25 < confidence < 0.995

    def written(place: Path = calibrated, **changes) -> str:
        assert recognise_command.run(str(place), [path], RecogniseRun(device="cpu", gate=False, **changes)) == 0
        return capsys.readouterr().out

    reason = rf"not sure: {sure.emotion} has {int(1000 * confidence) / 1000:.3f}, less than 0.999"
    cells = written(reject=0.999).rstrip("\n").split("\t")
    assert cells[1] == "none" and cells[-1] == reason
    assert written(reject=confidence - 1e-4).split("\t")[1] == sure.emotion
    found = json.loads(written(format="jsonl", reject=0.999))
    assert (found["emotion"], found["reason"]) == ("none", reason)
    assert found["probabilities"] == pytest.approx(sure.probabilities)
    row, = csv.DictReader(io.StringIO(written(format="csv", reject=0.999)))
    assert (row["emotion"], row["reason"]) == ("none", reason)
    for form in FORMATS:
        assert written(format=form, reject=0.999, timeline=True)
    page = tmp_path / "page.html"
    assert "none" in written(html=str(page), reject=0.999) and reason in page.read_text()

    rate = recognise_command.rejected_below(str(calibrated), Recogniser.from_pretrained(calibrated),
                                            RecogniseRun(reject_error=0.1))
    assert rate == pytest.approx(0.49)                                          # 2 wrong of 21
    assert written(reject_error=0.1).split("\t")[1] == (sure.emotion if confidence >= 0.49 else "none")
    log._said.clear()
    written(reject_error=0.05)
    assert written(reject_error=0.9).split("\t")[1] == sure.emotion            # none need be rejected


@pytest.mark.parametrize("centre", ("all", "folder"))
def test_what_the_sounds_of_a_source_share_is_taken_off(model, tmp_path, capsys, centre):
    """Of all, or of each folder: as `centred` of their results one by one, in the order named; others still done."""
    paths = []
    for number in range(9):
        place = tmp_path / ("anna", "bert")[number % 2] / f"{number}.wav"
        place.parent.mkdir(exist_ok=True)
        soundfile.write(place, np.random.default_rng(number).standard_normal(9_000) * 0.1, 16_000)
        paths.append(str(place))
    (tmp_path / "anna" / "rotten.wav").touch()
    config = RecogniseRun(device="cpu", gate=False, format="jsonl", timeline=True, centre=centre)
    names = [*paths[:4], str(tmp_path / "anna" / "rotten.wav"), *paths[4:]]
    assert recognise_command.run(str(model), names, config) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    plain = [Recogniser.from_pretrained(model)(path) for path in paths]
    sources = [range(9)] if centre == "all" else [range(0, 9, 2), range(1, 9, 2)]
    expected = {i: one for places in sources for i, one in zip(places, recogniser.centred([plain[i] for i in places]))}
    assert [line["path"] for line in lines] == paths
    for number, line in enumerate(lines):
        assert line["emotion"] == expected[number].emotion
        assert line["probabilities"] == pytest.approx(expected[number].probabilities, abs=1e-4)
        assert line["probabilities"] != pytest.approx(plain[number].probabilities, abs=1e-3)
        assert np.allclose(line["posterior"], plain[number].posterior, atol=1e-3)


def test_what_cannot_be_rejected_is_one_line(model, calibrated, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).standard_normal(9_000) * 0.1, 16_000)
    for place, changes, message in (
            (calibrated, {"reject": 1.5}, "--reject must be from 0 to 1, got 1.5"),
            (calibrated, {"reject": float("nan")}, "--reject must be from 0 to 1, got nan"),
            (calibrated, {"reject_error": -0.1}, "--reject-error must be from 0 to 1, got -0.1"),
            (calibrated, {"reject": 0.5, "reject_error": 0.1}, "give either --reject "),
            (calibrated, {"reject_error": 0.01}, "--reject-error 0.01: .* not reached on the 40 .* the lowest is 0.05"),
            (model, {"reject_error": 0.1}, f"{model}: --reject-error 0.1: there are no answers to validation")):
        with pytest.raises(ValueError, match=message) as refused:
            recognise_command.run(str(place), [str(tmp_path / "a.wav")], RecogniseRun(device="cpu", **changes))
        assert "\n" not in str(refused.value)
    assert not capsys.readouterr().out
    assert recognise_command.run(str(model), [str(tmp_path / "a.wav")], RecogniseRun(device="cpu", reject=0.5)) == 0
    assert "is not calibrated: its confidences, which --reject goes by" in capsys.readouterr().err


def test_sound_without_speech_is_none_and_says_why(model, tmp_path, capsys):
    """In every format and on the page; `--no-gate` switches it off."""
    draw = np.random.default_rng(0)
    noise = no_speech.at_level(no_speech.noise(draw, 1.5, 1), -20)
    voice = synthesise(0, "Ses01F", "Ses01F_1", "happy", 2.0)[0]
    soundfile.write(tmp_path / "noise.wav", noise, 16_000)
    soundfile.write(tmp_path / "both.wav", np.concatenate([voice, noise]), 16_000)
    paths = [str(tmp_path / name) for name in ("noise.wav", "both.wav")]

    def written(**changes) -> str:
        assert recognise_command.run(str(model), paths, RecogniseRun(device="cpu", **changes)) == 0
        return capsys.readouterr().out

    first, second = written().splitlines()
    assert first.split("\t")[1::2] == ["none", "no speech: noise"] and second.split("\t")[1] in LABELS
    assert "none" not in written(gate=False)
    first, second = map(json.loads, written(format="jsonl", timeline=True).splitlines())
    assert (first["emotion"], first["reason"]) == ("none", "no speech: noise") and second["reason"] == ""
    assert [(one["start"], one["emotion"], one["reason"]) for one in first["segments"]] == [(0, "none", "noise")]
    gap = second["segments"][-1]
    assert (gap["emotion"], gap["reason"], gap["confidence"]) == ("none", "noise", 0)
    assert gap["start"] == pytest.approx(len(voice) / 16_000, abs=0.25) and "none" not in [
        one["emotion"] for one in second["segments"][:-1]]
    rows = list(csv.DictReader(io.StringIO(written(format="csv", timeline=True))))
    assert [row["emotion"] for row in rows if row["path"] == paths[1]][-60:] == ["none"] * 60
    for form, text in (("table", "none     (noise)  attention"), ("rttm", "<NA> <NA> none <NA> <NA>")):
        assert text in written(format=form, timeline=True)
    for form, text in (("textgrid", 'text = "noise"'), ("audacity", "none (noise)"), ("srt", "none (noise)"),
                       ("vtt", "none (noise)"), ("svg", 'class="hatching"')):
        written(format=form, out=str(tmp_path / form))
        assert all(text in path.read_text() for path in (tmp_path / form).iterdir())
    written(html=str(tmp_path / "page.html"))
    page = markup.read((tmp_path / "page.html").read_text())
    for figure in page.all("figure", "timeline"):
        assert len(figure.all("div", "segments")[0].all("span", "gap")) == 1
        assert figure.all("p", "legend")[0].all("span")[-1].text == "none"


@pytest.fixture
def talk(tmp_path) -> Path:
    """A sound of two voices and, beside it, who speaks when; and a second sound."""
    voices = [synthesise(0, name, f"{name}_1", "sad", 2.0)[0] for name in ("Ses01F", "Ses01M")]
    folder = tmp_path / "talks"
    folder.mkdir()
    soundfile.write(folder / "talk.wav", np.concatenate(voices), 16_000)
    soundfile.write(folder / "other.wav", voices[0], 16_000)
    end = len(np.concatenate(voices)) / 16_000
    (tmp_path / "turns.rttm").write_text(
        f"SPEAKER talk 1 2.0 {end} <NA> <NA> M <NA> <NA>\nSPEAKER talk 1 0 2.0 <NA> <NA> F <NA> <NA>\n")
    (tmp_path / "talk.srt").write_text("1\n00:00:00,000 --> 00:00:02,000\nF: hello\n")
    return folder


def test_turns_of_speakers_have_an_emotion_each(model, talk, tmp_path, capsys):
    """Each turn as its sound alone; in every format and on the page; the other sound has its line."""
    def written(path: str, status: int = 0, **changes) -> str:
        config = RecogniseRun(device="cpu", **{"turns": str(tmp_path / "turns.rttm")} | changes)
        assert recognise_command.run(str(model), [str(talk / path)], config) == status
        return capsys.readouterr().out

    recogniser, waveform = Recogniser.from_pretrained(model), audio.load(talk / "talk.wav")
    rows = list(csv.DictReader(io.StringIO(written("talk.wav", format="csv"))))
    assert [(row["speaker"], float(row["start"])) for row in rows] == [("F", 0), ("M", 2)]
    assert float(rows[1]["end"]) == pytest.approx(len(waveform) / 16_000, abs=1e-3)
    for row, piece in zip(rows, (waveform[:32_000], waveform[32_000:])):
        alone = recogniser(piece)
        assert row["emotion"] == alone.emotion
        assert [float(row[label]) for label in LABELS] == pytest.approx(list(alone.probabilities.values()), abs=1e-5)
    for form in TURN_FORMATS:
        assert all(row["emotion"] in written("talk.wav", format=form) for row in rows)
    lines = written("", 1).splitlines()             # the folder: other.wav has no turn in it
    assert [line.split("\t")[3] for line in lines] == ["F", "M"]
    by_name = tmp_path / "by name"
    by_name.mkdir()
    (by_name / "talk.vtt").write_text("WEBVTT\n\n00:00.000 --> 00:01.500\n<v A>a\n")
    (by_name / "other.srt").write_text("1\n00:00:00,5 --> 00:00:01,5\nB: b\n")
    lines = written("", turns=str(by_name)).splitlines()
    assert [(Path(line.split("\t")[0]).name, line.split("\t")[3]) for line in lines] == [("other.wav", "B"),
                                                                                       ("talk.wav", "A")]
    written("talk.wav", html=str(tmp_path / "page.html"), out=str(tmp_path / "out"), format="srt")
    assert (tmp_path / "out" / "talk.srt").read_text().startswith("1\n00:00:00,000 --> 00:00:02,000\nF: ")
    strips = markup.read((tmp_path / "page.html").read_text()).all("div", "turns")
    assert [strip.all("small")[0].text for strip in strips] == ["F", "M"]


@pytest.mark.parametrize("changes, message", [
    ({"turns": "{}/gone.srt"}, "gone.srt: no such file or folder"), ({"timeline": True}, "give one of them"),
    ({"format": "svg"}, "--turns is written as table, .* not as svg; --html has a picture"),
    ({"turns": "{}/talk.srt"}, "talk.srt: the turns of one sound, 2 are named: give a folder")])
def test_turns_that_do_not_fit_the_flags_are_one_line(model, talk, tmp_path, changes, message):
    changes = {"turns": str(tmp_path / "turns.rttm")} | changes
    config = RecogniseRun(**{name: value.format(tmp_path) if isinstance(value, str) else value
                             for name, value in changes.items()}, device="cpu")
    with pytest.raises(ValueError, match=message):
        recognise_command.run(str(model), [str(talk)], config)


def test_turns_that_do_not_fit_a_sound_cost_its_line(model, talk, tmp_path, capsys):
    (tmp_path / "late.srt").write_text("1\n00:01:00,000 --> 00:02:00,000\nF: hello\n")
    for turns, message in (("turns.rttm", "turns.rttm: has no turn of other, only of talk"),
                           ("late.srt", "late.srt, line 2: a turn begins at 60.00 s, the sound ends at 2."),
                           ("talks", "talks: has no turns of it: no other.rttm, .srt, .vtt, .TextGrid")):
        config = RecogniseRun(turns=str(tmp_path / turns), device="cpu")
        assert recognise_command.run(str(model), [str(talk / "other.wav")], config) == 2
        printed = capsys.readouterr()
        line, = printed.err.splitlines()
        assert printed.out == "" and message in line and "other.wav: " in line


def test_folders_behind_links_are_entered_once(mixed, tmp_path):
    inside = tmp_path / "links"
    inside.mkdir()
    (inside / "talks").symlink_to(mixed / "sub", target_is_directory=True)
    (inside / "round").symlink_to(inside, target_is_directory=True)
    assert list(sound_files([str(inside)])) == [str(inside / "talks" / name) for name in ("stereo.wav", "text.wav")]
