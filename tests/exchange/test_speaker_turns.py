"""Turns out of RTTM, SRT, WebVTT and TextGrid, as programs write them; what cannot be is named with its line."""
import codecs
import re

import pytest

from framealign.exchange import speaker_turns
from framealign.exchange.speaker_turns import Turn

RTTM = """;; two speakers, not sorted
SPEAKER talk 1 3.50 1.25 <NA> <NA> Anna <NA> <NA>
SPKR-INFO talk 1 <NA> <NA> <NA> unknown Anna <NA> <NA>

SPEAKER talk 1 0.25 0.75 <NA> <NA> B_2 0.93 <NA>
SPEAKER other_talk 1 0.00 9.00 <NA> <NA> C <NA> <NA>
SPEAKER talk 1 4.25 1.00 <NA> <NA> B_2 <NA>
"""
SRT = """1
00:00:00,250 --> 00:00:01,000
B 2: Hello.

2
00:00:03,500 --> 00:00:04,750
[Anna]: He said: no
and went

3
00:00:04,250 --> 00:00:05,250
He said: no

4
01:02:03,004 --> 01:02:04,5
- I see
"""
VTT = """WEBVTT - a talk

NOTE who: nobody

STYLE
::cue { color: red }

first
00:00.250 --> 00:01.000 align:start position:0%
<v B&amp;2>Hello</v> there

00:03.500 --> 00:00:04.750
<v.loud Anna Berg>No!</v>

01:00:04.250 --> 01:00:05.250
"""
LONG = '''File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 6
tiers? <exists>
size = {size}
item []:
    item [1]:
        class = "IntervalTier"
        name = "Anna ""A."""
        xmin = 0
        xmax = 6
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 3.5
            text = ""
        intervals [2]:
            xmin = 3.5
            xmax = 4.75
            text = "no 1, never  ""so"""
        intervals [3]:
            xmin = 4.75
            xmax = 6
            text = " "
'''
POINTS = '''    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 6
        points: size = 1
        points [1]:
            number = 2.5
            mark = "click"
'''
SHORT = '''"IntervalTier"
"B"
0
6
2
0,25
1
"yes"
1
6
""
'''


def read(tmp_path, name: str, content: str | bytes, sound: str = "/x/talk.wav") -> list[tuple[float, float, str, int]]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    turns = speaker_turns.read(path, sound)
    lines = [re.fullmatch(rf"{re.escape(str(path))}, line (\d+)", turn.where)[1] for turn in turns]
    return [(turn.start, turn.end, turn.speaker, int(line)) for turn, line in zip(turns, lines)]


def test_rttm_names_sound_and_speaker(tmp_path):
    own = [(0.25, 1.0, "B_2", 5), (3.5, 4.75, "Anna", 2), (4.25, 5.25, "B_2", 7)]
    assert read(tmp_path, "a.rttm", RTTM) == own
    assert read(tmp_path, "a.RTTM", RTTM.replace("0.75", "0,75")) == own
    assert read(tmp_path, "a.rttm", RTTM, "other talk.flac") == [(0, 9, "C", 6)]
    nobody = "SPEAKER talk 1 0.1 0.2 <NA> <NA> <NA> <NA> <NA>\nSPEAKER talk 1 0.3 0.1 <NA> <NA> A <NA> <NA>\n"
    assert read(tmp_path, "a.rttm", nobody) == [(0.1, 0.3, "", 1), (0.3, 0.4, "A", 2)]


def test_subtitles_of_subrip(tmp_path):
    expected = [(0.25, 1.0, "B 2", 2), (3.5, 4.75, "Anna", 6), (4.25, 5.25, "", 11), (3723.004, 3724.5, "", 15)]
    assert read(tmp_path, "a.srt", SRT) == expected
    assert read(tmp_path, "a.SRT", re.sub(r"(\d),(\d)", r"\1.\2", SRT)) == expected


def test_subtitles_of_webvtt(tmp_path):
    assert read(tmp_path, "a.vtt", VTT) == [(0.25, 1.0, "B&2", 9), (3.5, 4.75, "Anna Berg", 12),
                                            (3604.25, 3605.25, "", 15)]


def test_intervals_of_a_textgrid(tmp_path):
    """One tier of intervals: its texts are speakers; several: their names. Long and short form may be mixed."""
    assert read(tmp_path, "a.TextGrid", LONG.format(size=1)) == [(3.5, 4.75, 'no 1, never "so"', 20)]
    assert read(tmp_path, "a.TextGrid", LONG.format(size=2) + POINTS) == [(3.5, 4.75, 'no 1, never "so"', 20)]
    both = [(0.25, 1.0, "B", 41), (3.5, 4.75, 'Anna "A."', 20)]
    assert read(tmp_path, "a.textgrid", LONG.format(size=3) + POINTS + SHORT) == both
    assert read(tmp_path, "a.TextGrid", "! a comment\n" + LONG.format(size=3) + POINTS + SHORT)[0][:3] == both[0][:3]


@pytest.mark.parametrize("name, content", [("a.rttm", RTTM), ("a.srt", SRT), ("a.vtt", VTT),
                                           ("a.TextGrid", LONG.format(size=1))])
def test_marks_encodings_and_line_ends_make_no_difference(tmp_path, name, content):
    content = content.replace("Anna", "Änna")
    expected = read(tmp_path, name, content)
    for again in (codecs.BOM_UTF8 + content.encode(), content.encode("utf-16"), content.replace("\n", "\r\n").encode(),
                  codecs.BOM_UTF16_BE + content.encode("utf-16-be"), content.replace("\n", "\r").encode()):
        assert read(tmp_path, name, again) == expected
    with pytest.raises(ValueError, match=rf"{name}, line \d+: not UTF-8; save the file as UTF-8$"):
        read(tmp_path, name, content.replace("Anna", "Änna").replace("no", "nö").encode("latin-1"))
    with pytest.raises(ValueError, match="has NUL bytes, as UTF-16 without a mark"):
        read(tmp_path, name, content.replace("Ä", "A").encode("utf-16-le"))


LINE = "SPEAKER talk 1 {} {} <NA> <NA> A <NA> <NA>\n"


@pytest.mark.parametrize("name, content, message", [
    ("a.rttm", LINE.format(1, 2) + LINE.format("x", 1), "line 2: 'x' is no number of seconds"),
    ("a.rttm", LINE.format("nan", 1), "line 1: 'nan' is no number of seconds"),
    ("a.rttm", LINE.format("1e999", 1), "line 1: '1e999' is no number of seconds"),
    ("a.rttm", LINE.format(-1, 2), "line 1: a turn must begin at 0 s or later .* from -1 to 1 s"),
    ("a.rttm", LINE.format(1, 0), "line 1: a turn must .* end after that, is from 1 to 1 s"),
    ("a.rttm", LINE.format(1, -0.5), "line 1: a turn must .* end after that, is from 1 to 0.5 s"),
    ("a.rttm", "SPEAKER talk 1 0 1\n", "line 1: must be SPEAKER sound channel start seconds"),
    ("a.rttm", "talk 0.0 1.0 A\n", "line 1: must be SPEAKER .*, is 'talk 0.0 1.0 A'"),
    ("a.rttm", LINE.format(1, 2).replace("talk", "walk"), "has no turn of talk, only of walk"),
    ("a.rttm", "", "a.rttm: has no turn$"), ("a.srt", "\n\n", "a.srt: has no turn$"),
    ("a.vtt", "WEBVTT\n", "a.vtt: has no turn$"), ("a.TextGrid", LONG.format(size=0), "a.TextGrid: has no turn$"),
    ("a.srt", "1\n00:00:01 --> 00:00:02\nA\n", "line 2: must be hh:mm:ss,mmm --> hh:mm:ss,mmm, is '00:00:01 --> "),
    ("a.srt", "1\n00:00:02,0 --> 00:00:01,0\nA\n", "line 2: a turn must .* from 2 to 1 s"),
    ("a.vtt", "1\n00:01.000 --> 00:02.000\nA\n", "line 1: must begin with WEBVTT, begins with '1'"),
    ("a.TextGrid", "SPEAKER talk", "line 1: no TextGrid that can be read: a quoted string should follow, is ''"),
    ("a.TextGrid", '"ooTextFile"\n"PitchTier"\n', "must be a TextGrid in text form .*, is 'ooTextFile', 'PitchTier'"),
    ("a.TextGrid", LONG.format(size=1)[:-30], r"line \d+: no TextGrid that can be read: a .* should"),
    ("a.TextGrid", LONG.format(size=1).replace("size = 3", "size = 3.5"), "line 14: a TextGrid says how many follow"),
    ("a.TextGrid", LONG.format(size=1).replace("xmin = 3.5", "xmin = 4.9"), "line 20: a turn must .* 4.9 to 4.75 s"),
    ("a.eaf", "x", "a.eaf: turns are read from .rttm, .srt, .vtt, .TextGrid, not from .eaf"),
    ("turns", "x", "not from a file without a suffix")])
def test_what_is_no_turn_is_one_line(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, name, content)
    assert "\n" not in str(error.value) and str(tmp_path / name) in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="a.srt: no such file"):
        speaker_turns.read(tmp_path / "a.srt", "a.wav")


def test_turns_end_with_the_sound_and_begin_within_it():
    turns = [Turn(0, 1, "A", "a.srt, line 2"), Turn(1.5, 9, "B", "a.srt, line 6")]
    assert speaker_turns.within(turns, 2.0) == [turns[0], Turn(1.5, 2.0, "B", "a.srt, line 6")]
    with pytest.raises(ValueError, match="a.srt, line 6: a turn begins at 1.50 s, the sound ends at 1.50 s; are these"):
        speaker_turns.within(turns, 1.5)


def test_a_folder_has_one_file_for_each_sound(tmp_path):
    for name in ("a.srt", "a.txt", "b.TextGrid", "b.rttm", "c.2.vtt"):
        (tmp_path / name).write_text("x")
    assert speaker_turns.beside(tmp_path, "/x/a.wav") == tmp_path / "a.srt"
    assert speaker_turns.beside(tmp_path, "c.2.flac") == tmp_path / "c.2.vtt"
    with pytest.raises(ValueError, match="both b.TextGrid and b.rttm are turns of it; remove one"):
        speaker_turns.beside(tmp_path, "b.wav")
    with pytest.raises(ValueError, match="has no turns of it: no d.rttm, .srt, .vtt, .TextGrid; add one"):
        speaker_turns.beside(tmp_path, "d.wav")
