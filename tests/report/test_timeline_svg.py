"""The SVG picture of one sound: a file that needs no other, whose shapes are the numbers of the result."""
import dataclasses
import re
import xml.etree.ElementTree as ET

import browser
import numpy as np
import pytest
import soundfile
from recognised_noise import LABELS, noise, recognised

from framealign.corpus import frame_truth
from framealign.corpus.utterance import Stretch
from framealign.emotion.segments import Segment, segments
from framealign.report import timeline_svg, tracks
from framealign.report.svg import colours
from framealign.report.text_formats import FORMATS
from framealign.report.timeline import Annotation

SVG = "{http://www.w3.org/2000/svg}"
LIMIT_BYTES = 60_000


def drawn(num_frames: int, title: str = "a.wav", truth: list[Stretch] | None = None, **changes) -> ET.Element:
    result = recognised(num_frames)
    parts = {"waveform": noise(num_frames), "result": result, "segments": segments(result),
             "annotation": Annotation(title, truth=truth)} | changes
    return ET.fromstring(timeline_svg.picture(**parts))


def texts(root: ET.Element) -> list[str]:
    return [one.text for one in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("num_frames", [1, 2, 40, 5000])
def test_it_is_one_file_of_the_promised_size(num_frames):
    """Well-formed XML in SVG's namespace, 900 x 360, small; nothing is loaded, nothing runs."""
    result = dataclasses.replace(recognised(num_frames), frames_trained=True)
    text = timeline_svg.picture(noise(num_frames), result, segments(result), Annotation("a.wav"))
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg" and (root.attrib["width"], root.attrib["height"]) == ("900", "360")
    assert len(text.encode()) < LIMIT_BYTES
    assert not re.search(r"href|url\(|@import|<script|<image|<foreignObject|\son\w+=", text)
    assert text.count("http") == 1                  # the namespace


def test_no_emotion_says_why():
    result = dataclasses.replace(recognised(40), emotion="none", reason="no speech: silence")
    root = drawn(40, result=result)
    assert sum(text.startswith("recognised: none, no speech: silence (neutral ") for text in texts(root)) == 1
    assert "recognised as none, no speech: silence:" in root.find(f"{SVG}title").text


def test_gaps_without_speech_are_hatched():
    """Lines within the gap's own rectangle, which says what is heard."""
    result = dataclasses.replace(recognised(200), kinds=np.repeat([0, 2, 0], [50, 50, 100]).astype(np.uint8))
    root = drawn(200, result=result, segments=segments(result))
    gap, swatch = [one for one in root.iter(f"{SVG}rect") if one.attrib.get("class") == "empty"]
    left, width, top = (float(gap.attrib[name]) for name in ("x", "width", "y"))
    assert (left, width) == pytest.approx((150 + 734 / 4.0, 734 / 4.0), rel=0.01)
    assert gap.find(f"{SVG}title").text == "none, 1.00 to 2.00 s, noise"
    hatching, _ = [one for one in root.iter(f"{SVG}path") if one.attrib.get("class") == "hatching"]
    points = np.array(re.findall(r"[\d.]+", hatching.attrib["d"]), float).reshape(-1, 2)
    assert len(points) > 40 and points[:, 0].min() >= left - 0.01 and points[:, 0].max() <= left + width + 0.01
    assert points[:, 1].min() >= top - 0.01 and points[:, 1].max() <= top + timeline_svg.LANE + 0.01
    assert texts(root).count("none") == 2           # in the gap and in the legend


@pytest.mark.parametrize("truth", [None, [Stretch(0.2, 0.7, "sad")]])
def test_tracks_lie_within_the_picture_and_below_each_other(truth):
    root = drawn(60, truth=truth)
    inner = [one for one in root.iter(f"{SVG}svg") if "x" in one.attrib]
    tops = [float(one.attrib["y"]) for one in inner]
    bottoms = [float(one.attrib["y"]) + float(one.attrib["height"]) for one in inner]
    assert len(inner) == 3 and all(bottom < top for bottom, top in zip(bottoms, tops[1:]))
    assert bottoms[-1] < float(root.attrib["height"])
    lanes = [one for one in root.iter(f"{SVG}rect") if one.attrib.get("class") == "lane"]
    edges = [(float(one.attrib["y"]), float(one.attrib["y"]) + float(one.attrib["height"])) for one in lanes]
    assert len(lanes) == (4 if truth is None else 5)
    assert all(bottom < top for (_, bottom), (top, _) in zip(edges, edges[1:]))
    assert {(one.attrib["x"], one.attrib["viewBox"]) for one in inner} == {("150", "0 0 1000 100")}


def test_segments_are_where_they_begin_and_end():
    parts = [Segment(0.0, 0.4, "sad", 0.9, 0.5), Segment(0.4, 0.43, "happy", 0.6, 0.1),
             Segment(0.43, 0.8, "sad", 1.0, 0.4)]
    root = drawn(40, waveform=noise(40)[:12_800], segments=parts)
    found = [one for one in root.iter(f"{SVG}rect") if one.attrib.get("class") == "run" and one.find(f"{SVG}title")
             is not None]
    scale = (timeline_svg.RIGHT - timeline_svg.LEFT) / 0.8
    colour = dict(zip(LABELS, colours(LABELS)))
    for one, part in zip(found, parts, strict=True):
        assert float(one.attrib["x"]) == pytest.approx(timeline_svg.LEFT + scale * part.start, abs=0.01)
        assert float(one.attrib["width"]) == pytest.approx(scale * (part.end - part.start), abs=0.01)
        assert one.attrib["fill"] == colour[part.emotion] and f"{part.start:.2f} to {part.end:.2f} s" in one[0].text
    words = [one.text for one in root.iter(f"{SVG}text") if one.attrib.get("class") == "word"]
    assert words == ["sad", "sad"]                  # "happy" has no room for its name


def test_the_truth_stands_above_the_segments_in_the_same_colours():
    """In seconds of the sound; neutral between; an emotion that is no class is in the legend."""
    root = drawn(100, truth=[Stretch(0.5, 1.0, "sad"), Stretch(1.2, 1.5, "fear")])
    names = {one.text: float(one.attrib["y"]) for one in root.iter(f"{SVG}text") if one.attrib.get("class") == "name"}
    assert list(names) == ["sound", "truth", "segments", "posterior", "attention"]
    assert 20 < names["segments"] - names["truth"] < 40
    at = [one for one in root.iter(f"{SVG}rect") if one.attrib.get("class") == "run"
          and abs(float(one.attrib["y"]) + 12 - names["truth"]) < 6]
    scale = (timeline_svg.RIGHT - timeline_svg.LEFT) / (320 * 100 + 80) * 16_000
    found = [(float(one.attrib["x"]) - timeline_svg.LEFT) / scale for one in at]
    assert found == pytest.approx([0, 0.5, 1.0, 1.2, 1.5], abs=1e-3)
    neutral, _, _, sad = colours(LABELS)
    fills = [one.attrib["fill"] for one in at]
    assert fills[:3] + fills[4:] == [neutral, sad, neutral, neutral] and fills[3] not in colours(LABELS)
    assert texts(root).count("fear") == 2           # in its stretch and in the legend


@pytest.mark.parametrize("num_classes", [2, 8, 30])
def test_any_number_of_classes_fits(num_classes):
    """Every class in the legend, in as many lines as they need, inside the picture; the heading names the likeliest."""
    labels = [f"emotion {number}" for number in range(num_classes)]
    result = recognised(100, labels)
    root = drawn(100, result=result, segments=segments(result))
    entries = {one.text: (float(one.attrib["x"]), float(one.attrib["y"])) for one in root.iter(f"{SVG}text")
               if one.text in labels and one.attrib["class"] == "plain"}
    assert list(entries) == labels and len({*entries.values()}) == num_classes
    assert all(x + 7.2 * len(name) <= timeline_svg.WIDTH for name, (x, _) in entries.items())
    assert max(y for _, y in entries.values()) < float(root.attrib["height"]) - 10
    _, verdict, *_ = texts(root)
    assert len(verdict) < 150 and f"{result.emotion} {100 * max(result.probabilities.values()):.0f} %" in verdict
    assert (" more)" in verdict) == (num_classes > timeline_svg.MAX_SHARES)


@pytest.mark.parametrize("frames_trained, window_seconds, note", [
    (False, 0.0, tracks.WITHOUT_FRAMES), (True, 0.0, ""),
    (False, 1.6, "Over time this recogniser says what it hears in the 1.6 s around each frame.")])
def test_a_recogniser_says_where_its_posterior_is_from(frames_trained, window_seconds, note):
    root = drawn(40, result=dataclasses.replace(recognised(40), frames_trained=frames_trained,
                                                window_seconds=window_seconds))
    hints = [one.text for one in root.iter(f"{SVG}text") if one.attrib["class"] == "hint"]
    assert [one for one in hints if "recogniser" in one] == [note] * bool(note)


def test_a_sound_of_very_many_segments_says_how_many():
    parts = [Segment(i / 50, (i + 1) / 50, LABELS[i % 4], 0.5, 0.001) for i in range(1000)]
    assert "1000 of them, too many to draw" in texts(drawn(1000, segments=parts))


def test_words_are_those_of_the_result():
    """The title is the end of a long path; markup in names stays text."""
    result = recognised(40)
    root = drawn(40, "<b>" + "x" * 80 + ".wav")
    heading, verdict, *_ = texts(root)
    assert heading.startswith("…") and heading.endswith("xxx.wav") and len(heading) == 60
    assert verdict.startswith(f"recognised: {result.emotion} (neutral ")
    assert all(f"{name} {100 * share:.0f} %" in verdict for name, share in result.probabilities.items())
    assert {*LABELS, "sound", "segments", "posterior", "attention", "0 s", "0.2"} <= set(texts(root))
    assert "<b>" in root.find(f"{SVG}title").text


def test_lengths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"must be \(N,\)"):
        drawn(10, waveform=np.zeros((2, 4000)))
    with pytest.raises(ValueError, match="N >= 400"):
        drawn(10, waveform=np.zeros(399))


def test_the_format_reads_the_sound_and_draws_it(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(40), 16_000, subtype="FLOAT")
    result = recognised(40)
    form = FORMATS["svg"]
    text = form.first(LABELS, False) + form.write(tmp_path / "a.wav", result, segments(result), False) + form.last
    assert text == timeline_svg.picture(noise(40), result, segments(result), Annotation("a.wav"))
    assert form.single and form.suffix == ".svg"


def test_the_format_draws_the_truth_that_lies_beside_the_sound(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(40), 16_000, subtype="FLOAT")
    frame_truth.write(tmp_path / "a.wav", [(10, 20, "angry")])
    result = dataclasses.replace(recognised(40), seconds=0.805)
    known = Annotation("a.wav", truth=[Stretch(0.2, 0.4, "angry")])
    text = FORMATS["svg"].write(tmp_path / "a.wav", result, segments(result), False)
    assert text == timeline_svg.picture(noise(40), result, segments(result), known)
    (tmp_path / "a.emotional.tsv").write_bytes(b"10\t20\tan\x01gry\n")
    with pytest.raises(ValueError, match="a.emotional.tsv, line 1: must be first<TAB>end<TAB>emotion"):
        FORMATS["svg"].write(tmp_path / "a.wav", result, segments(result), False)


@pytest.mark.skipif(not browser.CHROMIUM, reason="no Chromium (chromium, google-chrome) on the PATH")
def test_a_browser_draws_what_fits(tmp_path):
    """Chromium's own boxes: nothing reaches beyond the picture, no word beyond its column, light or dark."""
    result, known = recognised(120), Annotation("a.wav", truth=[Stretch(0.5, 1.9, "angry"), Stretch(1.9, 2.2, "fear")])
    (tmp_path / "a.svg").write_text(timeline_svg.picture(noise(120), result, segments(result), known))
    window = browser.Browser(tmp_path / "profile")
    try:
        for dark in (False, True):
            window.open(tmp_path / "a.svg", 1000, dark=dark)
            boxes = window.run("""[...document.querySelectorAll("text")].map(x => [x.getAttribute("class"),
                x.getBBox().x, x.getBBox().x + x.getBBox().width, x.getBBox().y + x.getBBox().height])""")
            assert len(boxes) > 10 and all(0 < left < right < 900 and bottom < 404 for _, left, right, bottom in boxes)
            assert all(right < timeline_svg.LEFT for kind, left, right, bottom in boxes
                       if kind == "name" or kind == "hint" and left < 20 and bottom < 380)  # the note is below
            back = window.run("getComputedStyle(document.querySelector('.back')).fill")
            assert (sum(map(int, re.findall(r"\d+", back)[:3])) < 150) == dark
        assert window.complaints == []
    finally:
        window.close()
