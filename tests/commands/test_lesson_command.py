"""The lesson from the command line: of a run or a recogniser, of an utterance or any sound, and what is refused."""
import re
from pathlib import Path

import pytest
import recognised_noise
import soundfile

from framealign.hubert.model import Hubert
from framealign.emotion import recogniser
from framealign.emotion.emotion_model import EmotionModel
from framealign.commands import lesson_command


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_base) -> Path:
    """A recogniser, an encoder, a run without a fold, and sounds."""
    place = tmp_path_factory.mktemp("lesson")
    encoder = Hubert.from_pretrained(small_base)
    encoder.save_pretrained(place / "encoder")
    EmotionModel(encoder, ["neutral", "angry"]).save_pretrained(place / "recogniser")
    (place / "run").mkdir()
    soundfile.write(place / "a.wav", recognised_noise.noise(20), 16_000)
    (place / "b.wav").write_text("no sound")
    return place


def test_the_page_is_where_it_was_asked_for(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for out in ("lesson.html", "pages/a.html"):
        lesson_command.main([str(folder / "recogniser"), str(folder / "a.wav"),
                             *(["--out", out] if "/" in out else [])])
        assert re.search(rf"^{out}: 0\.\d MB$", capsys.readouterr().out, re.MULTILINE)
        assert "From waveform to emotion: a.wav" in Path(out).read_text()


def test_a_sound_alone_is_shown_by_the_recogniser_that_comes_along(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recogniser, "INSTALLED", folder / "recogniser")
    pages = [tmp_path / name for name in ("named.html", "alone.html")]
    lesson_command.main([str(folder / "recogniser"), str(folder / "a.wav"), "--out", str(pages[0])])
    lesson_command.main([str(folder / "a.wav"), "--out", str(pages[1])])
    assert pages[0].read_text() == pages[1].read_text()
    assert f"no recogniser is named: {folder / 'recogniser'} is taken" in capsys.readouterr().err
    monkeypatch.setattr(recogniser, "INSTALLED", folder / "run")
    with pytest.raises(ValueError, match="no recogniser is named, and .*run.*has none"):
        lesson_command.main([str(folder / "a.wav"), "--out", str(tmp_path / "none.html")])
    assert not (tmp_path / "none.html").exists()


@pytest.mark.parametrize("words, message", [
    (["{}/recogniser"], "recogniser is a recogniser's directory: name a sound file, too"),
    (["{}/a.wav", "{}/a.wav"], r"a\.wav: a file; name a run's folder or a recogniser's directory before the sound"),
    (["{}/recogniser", "{}/a.wav", "--session", "1"], "--session is of a run, .* is a recogniser's directory"),
    (["{}/recogniser", "{}/c.wav"], r"c\.wav: no such sound file"),
    (["{}/recogniser", "{}/b.wav"], r"b\.wav: "),
    (["{}/encoder", "{}/a.wav"], "encoder: holds an encoder but no recogniser"),
    (["{}/run", "{}/a.wav"], "run: no finished fold of method align"),
    (["{}/nothing", "{}/a.wav"], "nothing: no finished fold of method align"),
    (["{}/recogniser", "{}/a.wav", "--out", "{}/run"], "run: a folder, must be a file"),
    (["{}/recogniser", "{}/a.wav", "--out", "{}/a.wav/page.html"], r"a\.wav: a file, not a folder")])
def test_one_line_for_every_mistake(folder, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        lesson_command.main([word.format(folder) for word in words])
    assert "\n" not in str(caught.value) and not any(tmp_path.iterdir())
