"""Who speaks when, by the files of other programs: RTTM, SubRip (SRT), WebVTT and Praat's TextGrid.

A line of RTTM names its sound and its speaker. Of subtitles a cue is a turn; its speaker is WebVTT's voice tag
(`<v Anna>`), else the name before its text (`Anna: ...`, `[SPEAKER_01]: ...`), else nobody. Of a TextGrid an interval
with text is a turn: where there is one tier of intervals the text is the speaker, where there are several the tier's
name. Texts are UTF-8, or UTF-16 with its mark, as Praat writes; decimals have a point or a comma. Left out: what is
said, tiers of points, and the lines of RTTM that are no SPEAKER.
"""
import codecs
import html
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".rttm", ".srt", ".vtt", ".TextGrid")
# The types of lines that NIST's RTTM has beside SPEAKER.
OTHER_TYPES = ("SEGMENT", "NOSCORE", "NO_RT_METADATA", "LEXEME", "NON-LEX", "NON-SPEECH", "FILLER", "EDIT", "IP", "SU",
               "CB", "A/P", "SPKR-INFO")
MAX_NAMED = 5                                       # of the sounds that an RTTM has
_NUMBER = re.compile(r"-?[0-9]+(?:[.,][0-9]+)?(?:[eE][-+]?[0-9]+)?")
_TIME = r"(?:([0-9]+):)?([0-9]{1,2}):([0-9]{1,2})[.,]([0-9]{1,3})"
_CUE = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_VOICE = re.compile(r"<v(?:\.[^\s>]*)*\s+([^>]*)>")
_NAME = re.compile(r"\[([^\]]+)\]:?\s|([^\s:<\[]+(?: [^\s:<\[]+)?):\s")
_TOKEN = re.compile(r'"((?:[^"]|"")*)"|<(\w+)>|(?<!\S)(-?[0-9]+(?:[.,][0-9]+)?(?:[eE][-+]?[0-9]+)?)(?!\S)|!.*')


@dataclass(frozen=True)
class Turn:
    """One stretch in which somebody speaks, in seconds from the beginning of the sound."""
    start: float
    end: float
    speaker: str                                    # "": not known
    where: str                                      # file and line, for messages


def beside(folder: str | Path, sound: str | Path) -> Path:
    """The one file of turns in a folder whose name is that of a sound, but for the suffix.

    Raises ValueError where there is none, or are several.
    """
    stem = Path(sound).stem
    there = [path for path in sorted(Path(folder).iterdir())
             if path.stem == stem and path.suffix.lower() in {suffix.lower() for suffix in SUFFIXES}]
    if not there:
        raise ValueError(f"{folder}: has no turns of it: no {stem}{', '.join(SUFFIXES)}; add one, or leave the sound "
                         "out")
    if len(there) > 1:
        raise ValueError(f"{folder}: both {there[0].name} and {there[1].name} are turns of it; remove one")
    return there[0]


def read(path: str | Path, sound: str | Path) -> list[Turn]:
    """The turns of a sound in a file, by when they begin. Which kind of file it is, its suffix says.

    sound: its name without folder and suffix must be what an RTTM calls it (with `_` for blanks). Raises ValueError
    naming file and line for what cannot be read, and for a file without a turn.
    """
    path = Path(path)
    readers = {".rttm": _rttm, ".srt": _subtitles, ".vtt": _subtitles, ".textgrid": _textgrid}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: turns are read from {', '.join(SUFFIXES)}, not from {path.suffix or 'a file'}"
                         f"{'' if path.suffix else ' without a suffix'}")
    turns = []
    for turn, name in readers[path.suffix.lower()](_text(path), path):
        if not 0 <= turn.start < turn.end:
            raise ValueError(f"{turn.where}: a turn must begin at 0 s or later and end after that, is from "
                             f"{turn.start:g} to {turn.end:g} s; correct it or leave it out")
        turns.append((turn, name))

    stem = Path(sound).stem
    own = [turn for turn, name in turns if name in (None, stem, re.sub(r"\s", "_", stem))]
    if turns and not own:
        names = list(dict.fromkeys(name[:80] for _, name in turns))
        listed = ", ".join(names[:MAX_NAMED]) + (" ..." if len(names) > MAX_NAMED else "")
        raise ValueError(f"{path}: has no turn of {stem}, only of {listed}; the second field must be the sound's name "
                         "without its suffix")
    if not own:
        raise ValueError(f"{path}: has no turn")
    return sorted(own, key=lambda turn: (turn.start, turn.end))


def within(turns: list[Turn], seconds: float) -> list[Turn]:
    """The same turns, cut at the end of a sound of so many seconds. Raises ValueError for one that begins after it."""
    cut = []
    for turn in turns:
        if turn.start >= seconds:
            raise ValueError(f"{turn.where}: a turn begins at {turn.start:.2f} s, the sound ends at {seconds:.2f} s; "
                             "are these turns of another sound, or times in milliseconds?")
        cut.append(Turn(turn.start, min(turn.end, seconds), turn.speaker, turn.where))
    return cut


def _text(path: Path) -> str:
    """A file's text, line ends as LF. Raises ValueError where there is none, or in another encoding."""
    if not path.is_file():
        raise ValueError(f"{path}: {'a folder, not a file of turns' if path.is_dir() else 'no such file'}")
    content = path.read_bytes()
    is_marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if is_marked else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[:error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not {encoding.removesuffix('-sig').upper()}; save the file as UTF-8"
                         ) from None
    if "\0" in text:
        raise ValueError(f"{path}: has NUL bytes, as UTF-16 without a mark and files that are no text; save it as "
                         "UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _at(path: Path, line: int) -> str:
    return f"{path}, line {line}"


def _seconds(text: str, where: str) -> float:
    """A number of seconds. Raises ValueError for what is none."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{where}: {text[:40]!r} is no number of seconds")
    value = float(text.replace(",", "."))
    if not math.isfinite(value):
        raise ValueError(f"{where}: {text[:40]!r} is no number of seconds")
    return value


def _rttm(text: str, path: Path) -> Iterator[tuple[Turn, str]]:
    """Each turn with the sound that it is of. Source: NIST, "The Rich Transcription 2009 Evaluation Plan"."""
    for line, content in enumerate(text.split("\n"), 1):
        fields, where = content.split(), _at(path, line)
        if not fields or fields[0].startswith(";;") or fields[0] in OTHER_TYPES:
            continue
        if fields[0] != "SPEAKER" or len(fields) < 8:
            raise ValueError(f"{where}: must be SPEAKER sound channel start seconds <NA> <NA> speaker ..., is "
                             f"{content[:80]!r}")
        start = _seconds(fields[3], where)
        speaker = "" if fields[7] == "<NA>" else fields[7]
        end = round(start + _seconds(fields[4], where), 6)                      # 0.1 + 0.2 ends where 0.3 begins
        yield Turn(start, end, speaker, where), fields[1]


def _subtitles(text: str, path: Path) -> Iterator[tuple[Turn, None]]:
    """Each cue of SubRip or WebVTT: a line of times, then text until a blank line."""
    lines = text.split("\n")
    if path.suffix.lower() == ".vtt" and not re.match(r"WEBVTT(?:\s|$)", lines[0]):
        raise ValueError(f"{_at(path, 1)}: must begin with WEBVTT, begins with {lines[0][:40]!r}")
    for number, content in enumerate(lines):
        if "-->" not in content:
            continue
        where = _at(path, number + 1)
        match = _CUE.fullmatch(content)
        if not match:
            raise ValueError(f"{where}: must be hh:mm:ss,mmm --> hh:mm:ss,mmm, is {content[:80]!r}")
        end = number + 1
        while end < len(lines) and lines[end].strip():
            end += 1
        times = match.groups()
        yield Turn(_clock(times[:4]), _clock(times[4:]), _speaker("\n".join(lines[number + 1:end])), where), None


def _clock(fields: tuple[str | None, ...]) -> float:
    """Seconds of hours (None: 0), minutes, seconds and their decimals."""
    hours, minutes, seconds, decimals = fields
    return 3600 * int(hours or 0) + 60 * int(minutes) + int(seconds) + int(decimals) / 10 ** len(decimals)


def _speaker(text: str) -> str:
    """Who says a cue's text, as its voice tag or its beginning says; "" where neither does.

    A name before a colon has one or two words, none of which begins with a small letter: "He said: no" is none.
    """
    voice = _VOICE.search(text)
    if voice:
        return " ".join(html.unescape(voice[1]).split())
    name = _NAME.match(text.lstrip() + " ")
    if name and (name[1] or not any(word[0].islower() for word in name[2].split())):
        return " ".join((name[1] or name[2]).split())
    return ""


def _textgrid(text: str, path: Path) -> Iterator[tuple[Turn, None]]:
    """Each interval with text, of Praat's long or short text form. Source: the Praat manual, "TextGrid file formats".

    A text file is its quoted strings, <flags> and numbers that stand alone, in order; all other words are comment.
    """
    tokens, line, counted = [], 1, 0                # (kind, content, line)
    for match in _TOKEN.finditer(text):
        line, counted = line + text.count("\n", counted, match.start()), match.start()
        if match.lastindex:
            tokens.append((match.lastindex, match[match.lastindex], line))
    place, missing = iter(tokens), (0, "", text.count("\n") + 1)

    def take(kind: int) -> tuple[str, str]:
        """The next string (1), flag (2) or number (3), and where it stands."""
        actual, content, line = next(place, missing)
        if actual != kind:
            wanted = ("", "a quoted string", "<exists>", "a number")[kind]
            raise ValueError(f"{_at(path, line)}: no TextGrid that can be read: {wanted} should follow, is "
                             f"{content[:40]!r}")
        return content.replace('""', '"'), _at(path, line)

    kind, where = take(1)
    name, _ = take(1)
    if (kind, name) != ("ooTextFile", "TextGrid"):
        raise ValueError(f"{where}: must be a TextGrid in text form (ooTextFile, TextGrid), is {kind[:40]!r}, "
                         f"{name[:40]!r}")
    take(3), take(3), take(2)
    tiers = []                                      # (name, its turns with their text)
    for _ in range(_count(*take(3))):
        (kind, _), (name, _), _, _ = take(1), take(1), take(3), take(3)
        intervals = []
        for _ in range(_count(*take(3))):
            start, where = take(3)
            end = take(3)[0] if kind == "IntervalTier" else start
            content, _ = take(1)
            if content.strip():
                speaker = " ".join(content.split())
                intervals.append(Turn(_seconds(start, where), _seconds(end, where), speaker, where))
        if kind == "IntervalTier":
            tiers.append((" ".join(name.split()), intervals))
    for name, intervals in tiers:
        for turn in intervals:
            yield (turn if len(tiers) == 1 else Turn(turn.start, turn.end, name, turn.where)), None


def _count(text: str, where: str) -> int:
    """How many of something follow. Raises ValueError for no whole number."""
    if not text.isdecimal():
        raise ValueError(f"{where}: a TextGrid says how many follow, got {text[:40]!r}")
    return int(text)
