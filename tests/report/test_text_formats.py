"""Results as text, read back by readers of their own: Python's json and csv, small parsers of the other grammars."""
import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from read_back import parse_srt, parse_textgrid, parse_webvtt

from framealign.sound.frames import Framing
from framealign.report.text_formats import FORMATS, clock, shown
from framealign.emotion.recogniser import Result
from framealign.emotion.segments import segments

LABELS = ["neutral", "happy", "angry", "sad"]
PATHS = ["a b/take 1.wav", 'odd "name", with\ttab.flac', "naïve.ogg", "\udcff.wav"]


def made(T: int, seed: int, with_units: bool = True) -> Result:
    draw = np.random.default_rng(seed)
    posterior = np.repeat(draw.dirichlet(np.full(4, 0.3), size=T // 40 + 1), 40, axis=0)[:T].astype(np.float32)
    probabilities = dict(zip(LABELS, draw.dirichlet(np.ones(4)).tolist()))
    units = np.repeat(draw.integers(50, size=T), 3)[:T] if with_units else None
    return Result(max(probabilities, key=probabilities.get), probabilities, posterior,
                  draw.dirichlet(np.ones(T)).astype(np.float32), units, (320 * T + 80 + 123) / 16_000,
                  frames_trained=seed % 2 == 0)


RESULTS = [made(300, 0), made(1, 1), made(1000, 2, False), made(41, 3)]


def written(name: str, timeline: bool = False, chosen: slice = slice(None)) -> str:
    form = FORMATS[name]
    texts = [form.write(path, one, segments(one), timeline) for path, one in zip(PATHS[chosen], RESULTS[chosen])]
    return form.first(LABELS, timeline) + form.between.join(texts) + form.last


@pytest.mark.parametrize("index", range(4))
def test_textgrids_follow_praats_grammar(index):
    result, tiers = RESULTS[index], parse_textgrid(written("textgrid", chosen=slice(index, index + 1)))
    wanted = segments(result)
    assert [name for _, _, name in tiers["emotion"]] == [one.emotion for one in wanted]
    np.testing.assert_allclose([x[:2] for x in tiers["emotion"]], [(one.start, one.end) for one in wanted], atol=1e-6)
    assert tiers["emotion"][-1][1] == pytest.approx(result.seconds, abs=1e-6)
    np.testing.assert_allclose([float(text) for *_, text in tiers["confidence"]], [one.confidence for one in wanted],
                               atol=6e-4)
    assert ("unit" in tiers) == (result.units is not None)
    if result.units is not None:
        again = [int(unit) for first, last, unit in tiers["unit"] for _ in range(round((last - first) * 50))]
        assert again[:len(result.units)] == result.units.tolist()


def test_a_quotation_mark_in_a_class_name_is_doubled():
    result = Result('so "happy"', {'so "happy"': 1.0}, np.ones((9, 1)), np.full(9, 1 / 9), None, 0.2)
    text = FORMATS["textgrid"].write("a.wav", result, segments(result), True)
    assert parse_textgrid(text)["emotion"] == [(0, 0.2, 'so "happy"')]


def test_time_follows_the_recognisers_own_frames():
    """Of 25 Hz, and of a hop that is no whole number of milliseconds: every format gives the same places."""
    for framing, stamp in ((Framing(640, 720), "0.04"), (Framing(441, 600), "0.0276")):
        result = replace(made(90, 4), framing=framing, seconds=(framing.hop * 89 + framing.receptive_field) / 16_000)
        parts, rate = segments(result, 0.1), 16_000 / framing.hop
        assert parts[-1].end == result.seconds and len(parts) > 1
        assert all(one.start * rate == pytest.approx(round(one.start * rate)) for one in parts)
        rows = list(csv.reader(io.StringIO(FORMATS["csv"].write("a.wav", result, parts, True))))
        assert len(rows) == 90 and rows[1][1] == stamp
        for one, following in zip(parts, parts[1:]):
            assert rows[round(following.start * rate)][2] == following.emotion != one.emotion
            assert rows[round(following.start * rate) - 1][2] == one.emotion
        assert json.loads(FORMATS["json"].write("a.wav", result, parts, True))["frames_per_second"] == rate
        tiers = parse_textgrid(FORMATS["textgrid"].write("a.wav", result, parts, True))
        again = [int(unit) for first, last, unit in tiers["unit"] for _ in range(round((last - first) * rate))]
        assert again[:90] == result.units.tolist()


def test_json_and_json_lines_say_the_same():
    for timeline in (False, True):
        found = json.loads(written("json", timeline))
        lines = written("jsonl", timeline).splitlines()
        assert [json.loads(line) for line in lines] == found and len(found) == 4
        for one, path, result in zip(found, PATHS, RESULTS):
            assert one["path"] == shown(path) and one["emotion"] == result.emotion
            assert one["probabilities"] == result.probabilities and one["seconds"] == result.seconds
            assert ("posterior" in one) == ("frames_trained" in one) == timeline
            if timeline:
                assert one["frames_trained"] is result.frames_trained
                np.testing.assert_allclose(one["posterior"], result.posterior, rtol=1e-4)
                np.testing.assert_allclose(one["attention"], result.attention, rtol=1e-4)   # however small
                assert one["units"] == (None if result.units is None else result.units.tolist())
                assert [(x["start"], x["emotion"]) for x in one["segments"]] == [
                    (x.start, x.emotion) for x in segments(result)]
    assert json.loads(FORMATS["json"].first(LABELS, False) + FORMATS["json"].last) == []


def test_sound_without_an_emotion_says_why():
    result = replace(RESULTS[0], emotion="none", reason="below 0.6")
    text = {name: form.write("a.wav", result, segments(result), False) for name, form in FORMATS.items()
            if name in ("table", "json", "jsonl", "csv")}
    cells = text["table"].rstrip("\n").split("\t")
    assert cells[:2] == ["a.wav", "none"] and cells[2].count(".") == 4 and cells[3] == "below 0.6"
    row, = csv.DictReader(io.StringIO(FORMATS["csv"].first(LABELS, False) + text["csv"]))
    for found in (row, json.loads(text["json"]), json.loads(text["jsonl"])):
        assert (found["emotion"], found["reason"]) == ("none", "below 0.6")
    assert float(row["happy"]) == pytest.approx(result.probabilities["happy"], abs=1e-6)
    assert json.loads(text["json"])["probabilities"] == result.probabilities
    assert {line.count("\t") for line in written("table").splitlines()} == {2}
    assert [one["reason"] for one in json.loads(written("json"))] == [""] * 4


@pytest.mark.parametrize("emotion, reason", [("none", ""), ("happy", "no speech")])
def test_a_reason_and_no_emotion_belong_together(emotion, reason):
    with pytest.raises(ValueError, match="must have a reason"):
        replace(RESULTS[0], emotion=emotion, reason=reason)


def test_csv_has_a_row_for_each_sound_or_each_frame():
    rows = list(csv.DictReader(io.StringIO(written("csv"))))
    assert [row["path"] for row in rows] == [shown(path) for path in PATHS]
    for row, result in zip(rows, RESULTS):
        assert row["emotion"] == result.emotion and float(row["seconds"]) == pytest.approx(result.seconds, abs=1e-3)
        for name in LABELS:
            assert float(row[name]) == pytest.approx(result.probabilities[name], abs=1e-6)
    rows = list(csv.DictReader(io.StringIO(written("csv", True))))
    assert len(rows) == sum(len(result.attention) for result in RESULTS)
    mine = [row for row in rows if row["path"] == shown(PATHS[0])]
    np.testing.assert_allclose([float(row["time"]) for row in mine], np.arange(300) / 50)
    np.testing.assert_allclose([[float(row[name]) for name in LABELS] for row in mine], RESULTS[0].posterior, atol=5e-5)
    np.testing.assert_allclose([float(row["attention"]) for row in mine], RESULTS[0].attention, rtol=1e-4)
    assert [int(row["unit"]) for row in mine] == RESULTS[0].units.tolist()
    for one in segments(RESULTS[0]):
        inside = [row["emotion"] for row in mine if one.start <= float(row["time"]) < one.end]
        assert set(inside) == {one.emotion}
    assert {row["unit"] for row in rows if row["path"] == shown(PATHS[2])} == {""}


def test_the_table_has_a_line_for_each_sound_and_segment():
    lines = written("table").splitlines()
    assert [line.split("\t")[:2] for line in lines] == [[shown(p), r.emotion] for p, r in zip(PATHS, RESULTS)]
    lines = written("table", True, slice(0, 1)).splitlines()[1:]
    assert [(float(line.split()[0]), float(line.split()[1]), line.split()[2]) for line in lines] == [
        (round(one.start, 2), round(one.end, 2), one.emotion) for one in segments(RESULTS[0])]


def test_audacity_labels_are_three_columns():
    for line, one in zip(written("audacity", chosen=slice(0, 1)).splitlines(), segments(RESULTS[0]), strict=True):
        start, end, label = line.split("\t")
        assert (float(start), float(end)) == pytest.approx((one.start, one.end), abs=1e-6)
        assert label == f"{one.emotion} {one.confidence:.2f}"


def test_rttm_lines_have_ten_fields():
    lines = [line.split(" ") for line in written("rttm").splitlines()]
    wanted = [(path, one) for path, result in zip(PATHS, RESULTS) for one in segments(result)]
    for fields, (path, one) in zip(lines, wanted, strict=True):
        assert len(fields) == 10 and fields[0] == "SPEAKER" and fields[2] == "1" and fields[7] == one.emotion
        assert float(fields[3]) == pytest.approx(one.start, abs=1e-3)
        assert float(fields[4]) == pytest.approx(one.end - one.start, abs=1e-3)
    assert lines[0][1] == "take_1"


@pytest.mark.parametrize("name, parse", [("srt", parse_srt), ("vtt", parse_webvtt)])
def test_subtitles_are_the_segments(name, parse):
    """Also of a sound of more than an hour, in order and without overlap; to the millisecond."""
    long = replace(RESULTS[0], framing=Framing(640 * 500, 720), seconds=6000.0004)
    for result in (*RESULTS, long):
        wanted, cues = segments(result), parse(FORMATS[name].write("a.wav", result, segments(result), False))
        for (start, end, text), one in zip(cues, wanted, strict=True):
            assert (start, end) == pytest.approx((one.start, one.end), abs=5.1e-4)
            assert text == f"{one.emotion} {one.confidence:.2f}"
        assert all(before[1] == after[0] for before, after in zip(cues, cues[1:]))
    assert cues[-1][1] > 3600


@pytest.mark.parametrize("name, parse", [("srt", parse_srt), ("vtt", parse_webvtt)])
@pytest.mark.parametrize("emotion, shown_as", [("a --> b", "a -> b"), ("<i>R&B</i>", "<i>R&B</i>"), ("&amp;", "&amp;")])
def test_subtitles_of_odd_names_are_still_subtitles(name, parse, emotion, shown_as):
    result = Result(emotion, {emotion: 1.0}, np.ones((9, 1)), np.full(9, 1 / 9), None, 0.2)
    assert parse(FORMATS[name].write("a.wav", result, segments(result), True)) == [(0, 0.2, f"{shown_as} 1.00")]


@pytest.mark.parametrize("given, srt", [(0, "00:00:00,000"), (59.9996, "00:01:00,000"), (3599.9994, "00:59:59,999"),
                                        (3661.5, "01:01:01,500"), (360_000, "100:00:00,000")])
def test_the_clock_carries(given, srt):
    assert clock(given, ",") == srt


def gated() -> Result:
    """A result of 6 s, its first 0.4 s silence, 2 s in the middle noise."""
    return replace(RESULTS[0], kinds=np.repeat([1, 0, 2, 0], [20, 130, 100, 50]).astype(np.uint8))


def test_what_is_no_speech_is_none_in_every_format():
    result, parts = gated(), segments(gated())
    heard = {0.0: "silence", 3.0: "noise"}
    assert {one.start: one.reason for one in parts if one.emotion == "none"} == heard
    text = {name: form.write("a.wav", result, parts, True) for name, form in FORMATS.items() if name != "svg"}
    lines = text["table"].splitlines()[1:]
    assert {float(line.split()[0]): re.search(r"none +\((\w+)\)  att", line)[1] for line in lines
            if "none" in line} == heard
    content = json.loads(text["json"])
    assert {one["start"]: one["reason"] for one in content["segments"] if one["emotion"] == "none"} == heard
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"].first(LABELS, True) + text["csv"])))
    assert [row["emotion"] == "none" for row in rows] == (result.kinds > 0).tolist()
    tiers = parse_textgrid(text["textgrid"])
    assert {x[0]: y[2] for x, y in zip(tiers["emotion"], tiers["confidence"]) if x[2] == "none"} == heard
    assert {float(line.split("\t")[0]): line.split("\t")[2] for line in text["audacity"].splitlines()
            if "none" in line} == {start: f"none ({reason})" for start, reason in heard.items()}
    assert {float(line.split()[3]): line.split()[8] for line in text["rttm"].splitlines()
            if line.split()[7] == "none"} == dict.fromkeys(heard, "<NA>")
    for cues in (parse_srt(text["srt"]), parse_webvtt(text["vtt"])):
        assert {start: said for start, _, said in cues if "none" in said} == {
            start: f"none ({reason})" for start, reason in heard.items()}


def test_paths_stay_in_their_line():
    assert [shown(path) for path in PATHS] == ["a b/take 1.wav", 'odd "name", with?tab.flac', "naïve.ogg", "\ufffd.wav"]
    assert all(shown(path).encode("utf-8") for path in PATHS)
