"""The picture of one sound: frames stand where they were heard; what is drawn, played and said is what was given."""
import base64
import dataclasses
import io
import json
import re

import markup
import numpy as np
import pytest
import soundfile
from recognised_noise import LABELS, noise, recognised

from framealign.corpus.utterance import Stretch
from framealign.emotion.segments import Segment, segments
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
    annotation = Annotation("a sound", "a note", "angry", [Stretch(0.2, 0.8, "angry")])
    root = markup.read(timeline.picture(noise(60, 200), result, annotation, UnitTrack(units)))
    names = [track.all("b")[0].text for track in root.all("div", "track") if track.all("b")]
    assert names == ["sound", "spectrum", "truth", "segments", "posterior", "attention", "units"]
    found = numbers(root)
    assert found["units"] == units.tolist() and found["labels"] == LABELS and found["rate"] == 50
    assert np.abs(np.array(found["posterior"]) - 100 * result.posterior).max() <= 0.5
    assert np.abs(np.array(found["attention"]) - 60 * result.attention).max() <= 0.005
    assert found["seconds"] == pytest.approx((320 * 60 + 280) / 16_000, abs=1e-4)
    assert found["truth"] == [[0, "neutral"], [0.2, "angry"], [0.8, "neutral"]]
    assert "✗ wrong" in root.text or result.emotion == "angry"
    assert {word.text for word in lane(root, "units").all("span", "word")} == {"3", "7"}


def drawn(root: markup.Element, name: str) -> list[tuple[float, float, str]]:
    """Where a strip's runs begin and end, in shares of the sound, and their colours."""
    rects = [(*one.numbers("x", "width"), one.attributes["fill"]) for one in lane(root, name).all("rect")]
    return [(x / 1000, (x + width) / 1000, fill) for x, width, fill in rects]


@pytest.mark.parametrize("seed", range(5))
def test_truth_and_segments_are_where_they_begin_and_end_in_the_colours_of_their_classes(seed):
    """Both in seconds of the sound, one below the other, without gaps; what the truth leaves out is neutral."""
    draw = np.random.default_rng(seed)
    seconds, colour_of = (320 * 100 + 80) / 16_000, dict(zip(LABELS, colours(LABELS)))
    edges = np.sort(draw.uniform(0.01, seconds - 0.01, 6))
    truth = [Stretch(start, end, str(draw.choice(LABELS[1:]))) for start, end in edges.reshape(3, 2)]
    times = [0.0, *np.sort(draw.uniform(0.01, seconds - 0.01, 3)), seconds]
    parts = [Segment(start, end, LABELS[i % 4], 0.5, 0.25) for i, (start, end) in enumerate(zip(times, times[1:]))]
    root = markup.read(timeline.picture(noise(100), recognised(100), Annotation(truth=truth), recognised=parts))

    expected = [(one.start, one.end, colour_of[one.emotion]) for one in parts]
    assert [fill for _, _, fill in drawn(root, "segments")] == [fill for _, _, fill in expected]
    assert np.allclose([run[:2] for run in drawn(root, "segments")], np.array([run[:2] for run in expected]) / seconds,
                       atol=1e-5)
    for second in draw.uniform(0, seconds, 200):
        fill, = [fill for start, end, fill in drawn(root, "truth") if start <= second / seconds < end]
        true = [one.emotion for one in truth if one.start <= second < one.end] or ["neutral"]
        assert fill == colour_of[true[0]] or min(abs(edges - second)) < 1e-4


def test_without_segments_those_of_the_result_are_drawn():
    result = recognised(200)
    root = markup.read(timeline.picture(noise(200), result))
    edges = [segment.start for segment in segments(result)]
    assert [start for start, _, _ in drawn(root, "segments")] == pytest.approx(np.array(edges) / 4.005, abs=1e-5)


def test_an_emotion_that_is_no_class_has_a_colour_and_a_name_of_its_own():
    """In another spelling it is the class's; what is no class stands in the legend too."""
    truth = [Stretch(0.1, 0.5, "Anger"), Stretch(0.5, 9.0, "fear")]
    root = markup.read(timeline.picture(noise(50), recognised(50), Annotation(truth=truth)))
    fills = [fill for _, _, fill in drawn(root, "truth")]
    assert fills[:2] == [colours(LABELS)[0], colours(LABELS)[2]] and fills[2] not in colours(LABELS)
    assert drawn(root, "truth")[-1][1] == pytest.approx(1)
    assert [entry.text for entry in root.all("p", "legend")[0].all("span")] == [*LABELS, "fear"]
    assert [word.text for word in lane(root, "truth").all("span", "word")] == ["neutral", "angry", "fear"]


def test_what_is_not_known_is_not_drawn():
    root = markup.read(timeline.picture(noise(30), recognised(30)))
    assert not root.all("div", "units") and not root.all("div", "truth")
    assert numbers(root)["units"] is None and numbers(root)["truth"] is None
    root = markup.read(timeline.picture(noise(30), recognised(30), Annotation(truth=())))
    assert drawn(root, "truth") == [(0, 1, colours(LABELS)[0])]                 # neutral throughout


@pytest.mark.parametrize("frames_trained, window_seconds, note", [
    (False, 0.0, tracks.WITHOUT_FRAMES), (True, 0.0, ""),
    (False, 1.6, "Over time this recogniser says what it hears in the 1.6 s around each frame.")])
def test_a_recogniser_says_where_its_posterior_is_from(frames_trained, window_seconds, note):
    result = dataclasses.replace(recognised(30), frames_trained=frames_trained, window_seconds=window_seconds)
    root = markup.read(timeline.picture(noise(30), result))
    assert [one.text for one in root.all("p", "note")] == [note] * bool(note)


@pytest.mark.parametrize("num_classes", [2, 8, 30])
def test_a_class_has_one_colour_in_the_whole_picture(num_classes):
    """Verdict, truth, probability, segments and legend alike, of classes that have no colour of their own too."""
    labels = [f"emotion {number}" for number in range(num_classes)]
    result = recognised(60, labels)
    root = markup.read(timeline.picture(noise(60), result, Annotation(label=labels[1])))
    colour = dict(zip(labels, colours(labels)))
    legend = root.all("p", "legend")[0].all("span")
    assert [(one.text, one.all("i")[0].attributes["style"]) for one in legend] == [
        (name, f"background:{colour[name]}") for name in labels]
    for chip in root.all("b", "chip"):
        assert f"background:{colour[chip.text]}" in chip.attributes["style"]
    for bar, name in zip(root.all("div", "probability"), labels, strict=True):
        assert colour[name] in bar.all("i")[0].attributes["style"]


def test_no_emotion_is_hatched_and_says_why():
    result = dataclasses.replace(recognised(30), emotion="none", reason="no speech: <silence>")
    verdict, = markup.read(timeline.picture(noise(30), result)).all("p", "verdict")
    chip, = verdict.all("b", "chip")
    assert chip.text == "none" and "hatched" in chip.attributes["class"] and "style" not in chip.attributes
    assert verdict.all("span", "why")[0].text == "no speech: <silence>"


def test_gaps_without_speech_are_hatched_between_the_segments():
    result = dataclasses.replace(recognised(200), kinds=np.repeat([0, 2, 0], [50, 50, 100]).astype(np.uint8))
    root = markup.read(timeline.picture(noise(200), result))
    gap, = lane(root, "segments").all("span", "gap")
    left, width = map(float, re.findall(r"[\d.]+", gap.attributes["style"]))
    assert (left / 100, width / 100) == pytest.approx((1 / 4.005, 1 / 4.005), abs=1e-4)
    runs = drawn(root, "segments")
    assert not any(start < 0.25 + 0.24 and end > 0.26 for start, end, _ in runs) and len(runs) >= 2
    entries = root.all("p", "legend")[0].all("span")
    assert [entry.text for entry in entries] == [*LABELS, "none"]
    assert "hatched" in entries[-1].all("i")[0].attributes["class"]


def test_each_speakers_turns_have_a_strip():
    """In the colours of their emotions, where they are; between them is nothing, of no emotion hatching."""
    turns = {"A": [Stretch(0.5, 1.0, "happy"), Stretch(1.0, 1.5, "none")], "B & C": [Stretch(2.0, 4.005, "fear")]}
    root = markup.read(timeline.picture(noise(200), recognised(200), Annotation(speakers=turns)))
    strips = root.all("div", "turns")
    assert [strip.all("small")[0].text for strip in strips] == ["A", "B & C"]
    for strip, expected in zip(strips, ([(0.5, 0.5, colours(LABELS)[1])], [(2.0, 2.005, None)])):
        for one, (start, width, fill) in zip(strip.all("rect"), expected, strict=True):
            assert one.numbers("x", "width") == pytest.approx((1000 * start / 4.005, 1000 * width / 4.005), abs=0.01)
            assert fill in (None, one.attributes["fill"])
    assert len(strips[0].all("span", "gap")) == 1
    assert [entry.text for entry in root.all("p", "legend")[0].all("span")] == [*LABELS, "fear", "none"]
    many = {str(i): [Stretch(0.5, 1.0, "happy")] for i in range(30)}
    root = markup.read(timeline.picture(noise(200), recognised(200), Annotation(speakers=many)))
    assert len(root.all("div", "turns")) == timeline.MAX_SPEAKERS


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


@pytest.mark.parametrize("number", [tracks.MAX_RUNS, 20 * tracks.MAX_RUNS])
def test_of_too_many_segments_columns_are_drawn(number):
    """Each in the colour of the segment at its middle, so that a page of an hour stays small."""
    draw = np.random.default_rng(0)
    edges = np.sort([0, *draw.uniform(0, 100, number - 1), 100])
    values = draw.integers(0, 4, number)
    parts = [Segment(edges[i], edges[i + 1], LABELS[values[i]], 0.5, 0) for i in range(number)]
    strip = tracks.emotion_strip(parts, 100, dict(zip(LABELS, colours(LABELS))))
    rects = [(*one.numbers("x", "width"), one.attributes["fill"]) for one in markup.read(strip).all("rect")]
    assert len(rects) <= tracks.MAX_RUNS
    if number > tracks.MAX_RUNS:
        middles = (np.arange(tracks.MAX_RUNS) + 0.5) / tracks.MAX_RUNS
        expected = [colours(LABELS)[values[np.searchsorted(edges, 100 * x, "right") - 1]] for x in middles]
        found = [next(fill for x, width, fill in rects if x <= 1000 * at < x + width) for at in middles]
        assert found == expected


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
