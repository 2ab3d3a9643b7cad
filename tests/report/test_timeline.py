"""The picture of one sound: frames stand where they were heard; what is drawn, played and said is what was given."""
import base64
import io
import json
import re

import markup
import numpy as np
import pytest
import soundfile
from recognised_noise import LABELS, noise, recognised

from framealign.report import html_document, timeline, tracks
from framealign.report.timeline import Annotation, UnitTrack
from framealign.report.svg import colours, shade


def numbers(root: markup.Element) -> dict:
    script, = root.all("script", "frames")
    return json.loads(script.text)


def lane(root: markup.Element, name: str) -> markup.Element:
    return root.all("div", name)[0].all("div", "lane")[0]


def test_a_picture_has_every_track_and_every_number():
    result, units = recognised(60), np.repeat([3, 7, 3], 20)
    truth = np.zeros(60, bool)
    truth[10:40] = True
    annotation = Annotation("a sound", "a note", "angry", truth)
    root = markup.read(timeline.picture(noise(60, 200), result, annotation, UnitTrack(units)))
    names = [track.all("b")[0].text for track in root.all("div", "track") if track.all("b")]
    assert names == ["sound", "spectrum", "planted truth", "emotion", "posterior", "attention", "units"]
    found = numbers(root)
    assert found["units"] == units.tolist() and found["labels"] == LABELS and found["rate"] == 50
    assert np.abs(np.array(found["posterior"]) - 100 * result.posterior).max() <= 0.5
    assert np.abs(np.array(found["attention"]) - 60 * result.attention).max() <= 0.005
    assert found["seconds"] == pytest.approx((320 * 60 + 280) / 16_000, abs=1e-4)
    assert "✗ wrong" in root.text or result.emotion == "angry"
    assert {word.text for word in lane(root, "units").all("span", "word")} == {"3", "7"}
    assert lane(root, "planted").all("span", "word")[0].text == "angry"


def test_what_is_not_known_is_not_drawn():
    root = markup.read(timeline.picture(noise(30), recognised(30)))
    assert not root.all("div", "units") and not root.all("div", "planted") and numbers(root)["units"] is None
    assert "truth" not in root.text


@pytest.mark.parametrize("num_frames, extra", [(1, 0), (2, 319), (7, 5), (60, 200)])
def test_frames_stand_around_their_centres(num_frames, extra):
    """The middle of a frame's place is its receptive field's centre, sample 320 t + 200."""
    edges = tracks.frame_edges(num_frames, 320 * num_frames + 80 + extra)
    samples = edges * (320 * num_frames + 80 + extra)
    assert len(edges) == num_frames + 1 and edges[0] == 0 and edges[-1] == 1 and (np.diff(edges) > 0).all()
    for t in range(1, num_frames - 1):
        assert (samples[t] + samples[t + 1]) / 2 == pytest.approx(320 * t + 200)
    if num_frames > 1:
        assert samples[1] == pytest.approx(360)


def test_the_stack_adds_up_and_each_area_is_its_class():
    result = recognised(40)
    areas = lane(markup.read(timeline.picture(noise(40), result)), "posterior").all("path")
    edges = tracks.frame_edges(40, 320 * 40 + 80)
    below = np.full(40, 100.0)
    for index, area in enumerate(areas):
        found = np.array(markup.points(area.attributes["d"]))[1:41]             # the upper edge, without the corners
        assert np.allclose(found[:, 0], 1000 * (edges[1:] + edges[:-1]) / 2, atol=0.006)
        assert np.allclose((below - found[:, 1]) / 100, result.posterior[:, index], atol=2e-4)
        assert area.attributes["fill"] == colours(LABELS)[index] and area.all("title")[0].text == LABELS[index]
        below = found[:, 1]
    assert np.allclose(below, 0, atol=0.01)


def test_attention_of_equal_weights_lies_on_the_dashed_line():
    result = recognised(40)
    result.attention[:] = 1 / 40
    even, area = (lane(markup.read(timeline.picture(noise(40), result)), "attention").all("path", kind)[0]
                  for kind in ("even", "attention"))
    at = markup.points(even.attributes["d"])[0][1]
    assert {y for _, y in markup.points(area.attributes["d"])} == {at, 100.0}


def test_emotion_strip_is_the_most_probable_class_frame_by_frame():
    result = recognised(50)
    rects = lane(markup.read(timeline.picture(noise(50), result)), "emotion").all("rect")
    edges = tracks.frame_edges(50, 320 * 50 + 80)
    for t, best in enumerate(result.posterior.argmax(-1)):
        middle = 500 * (edges[t] + edges[t + 1])
        own, = [r for r in rects if r.numbers("x")[0] <= middle < sum(r.numbers("x", "width"))]
        assert own.attributes["fill"] == colours(LABELS)[best]


def test_units_keep_the_order_that_is_given():
    units = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    order = np.array([1.0, 0.0, 0.5])
    picture = timeline.picture(noise(9), recognised(9), units=UnitTrack(units, order))
    words = lane(markup.read(picture), "units").all("span", "word")
    assert [word.text for word in words] == ["0", "1", "2"]
    assert [shade(order[u]) for u in (0, 1)] == ["#fde725", "#440154"]
    assert "color:#000000" in words[0].attributes["style"] and "color:#ffffff" in words[1].attributes["style"]


@pytest.mark.parametrize("hertz", [100, 440, 1000, 3000, 7000])
def test_a_tone_lies_in_its_band(hertz):
    tone = np.sin(2 * np.pi * hertz * np.arange(16_000) / 16_000)
    found = tracks.spectrogram(tone)
    assert found.shape == (tracks.BANDS, 125) and found.min() >= 0 and found.max() == 1
    band = found[:, 10:-10].mean(1).argmax()
    assert abs(tracks.mel_bins()[band] * 16_000 / tracks.FFT - hertz) <= max(31.25, 0.03 * hertz)


def test_levels_are_decibels_below_the_loudest():
    """Half the amplitude is 6.02 dB less."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    tone[8_000:] /= 2
    found = tracks.spectrogram(tone)
    loud, quiet = found[:, 20:50].max(0).mean(), found[:, 75:105].max(0).mean()
    assert (loud - quiet) * tracks.DECIBELS == pytest.approx(6.02, abs=0.1)


def test_silence_has_a_picture():
    assert markup.read(timeline.picture(np.zeros(400), recognised(1)))


def played(root: markup.Element) -> tuple[np.ndarray, str]:
    kind, _, content = root.all("audio")[0].attributes["src"].partition(";base64,")
    return soundfile.read(io.BytesIO(base64.b64decode(content)))[0], kind


def test_a_short_sound_is_kept_exactly():
    waveform = noise(100)
    found, kind = played(markup.read(timeline.picture(waveform, recognised(100))))
    assert kind == "data:audio/flac" and np.abs(found - waveform).max() <= 1 / 32_768


def test_a_longer_sound_is_compressed_and_a_very_long_one_left_out():
    draw, num_frames = np.random.default_rng(0), 50 * 20
    waveform = (0.1 * np.sin(np.cumsum(draw.normal(0.1, 0.02, 320 * num_frames + 80)))
                + draw.normal(0, 0.02, 320 * num_frames + 80))
    root = markup.read(timeline.picture(waveform, recognised(num_frames)))
    found, kind = played(root)
    assert kind == "data:audio/ogg" and abs(len(found) - len(waveform)) < 2000
    assert np.corrcoef(found[:300_000], waveform[:300_000])[0, 1] > 0.9         # in step, not late
    assert len(root.all("audio")[0].attributes["src"]) < 200_000
    long = timeline.picture(noise(50 * 700), recognised(50 * 700))
    root = markup.read(long)
    assert not root.all("audio") and not root.all("button") and "too long" in root.text
    assert len(long) < 1_000_000 and len(numbers(root)["attention"]) <= timeline.MAX_FRAMES
    assert numbers(root)["rate"] == 50 / 3


def test_nothing_escapes_from_names():
    nasty = "</script><script>alert(1)</script>"
    picture = timeline.picture(noise(20), recognised(20, [nasty, "b"]), Annotation(nasty, nasty, nasty))
    page = timeline.page(nasty, [picture])
    root = markup.read(page)
    assert [script.attributes.get("class") for script in root.all("script")] == ["frames", None]
    assert numbers(root)["labels"] == [nasty, "b"] and root.all("h1")[0].text == nasty
    assert not markup.fetched(page)


@pytest.mark.parametrize("change, message", [
    ({"units": UnitTrack(np.zeros(9, int))}, "units has 9 frames, attention has 10"),
    ({"annotation": Annotation(truth=np.zeros(11, bool))}, "truth has 11 frames, attention has 10"),
    ({"waveform": np.zeros((2, 4000))}, r"must be \(N,\)"), ({"waveform": np.zeros(399)}, "N >= 400")])
def test_lengths_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        timeline.picture(**({"waveform": noise(10), "result": recognised(10)} | change))


def test_a_document_is_whole_and_brings_its_style_and_script():
    cards = html_document.grid([html_document.card("c", "<p>in</p>", "note")])
    page = html_document.document("a < b", html_document.head("a < b", "words", [("x", "X")])
                             + html_document.section("x", "X", cards, "said"))
    root = markup.read(page.replace("<!DOCTYPE html>", ""))
    assert root.all("title")[0].text == "a < b" and root.all("section")[0].attributes["id"] == "x"
    assert re.search(r"prefers-color-scheme", root.all("style")[0].text) and "@media print" in page
    assert root.all("a")[0].attributes["href"] == "#x" and not markup.fetched(page)
