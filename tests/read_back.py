"""Readers, independent of framealign, of what programs for sound and subtitles read: TextGrid, SubRip, WebVTT."""
import html
import re


def parse_textgrid(text: str) -> dict[str, list[tuple[float, float, str]]]:
    """Praat's grammar: a text file is its numbers, quoted strings and <flags> in order; all other words are comment.

    Source: the Praat manual, "TextGrid file formats", section "The shorter shortest text file".
    """
    tokens = re.findall(r'"(?:[^"]|"")*"|<\w+>|(?<!\S)-?\d+(?:\.\d+)?(?!\S)', text)
    take = iter(tokens)
    string = lambda: next(take)[1:-1].replace('""', '"')
    number = lambda: float(next(take))
    assert (string(), string()) == ("ooTextFile", "TextGrid")
    start, end, exists, size = number(), number(), next(take), number()
    assert start == 0 and exists == "<exists>"
    tiers = {}
    for _ in range(int(size)):
        assert string() == "IntervalTier"
        name = string()
        assert (number(), number()) == (start, end)
        tiers[name] = [(number(), number(), string()) for _ in range(int(number()))]
        edges = [x for interval in tiers[name] for x in interval[:2]]
        assert edges[0] == start and edges[-1] == end and edges[1:-1:2] == edges[2::2]  # Praat wants no gap
        assert all(first < last for first, last, _ in tiers[name])
    assert next(take, None) is None
    return tiers


def parse_srt(text: str) -> list[tuple[float, float, str]]:
    """SubRip: blocks between blank lines, a number from 1, a line of times with commas, text."""
    cues = []
    for number, block in enumerate(text.removesuffix("\n").split("\n\n"), 1):
        index, times, content = block.split("\n")
        assert index == str(number)
        match = re.fullmatch(r"(\d\d+):([0-5]\d):([0-5]\d),(\d{3}) --> (\d\d+):([0-5]\d):([0-5]\d),(\d{3})", times)
        cues.append((*seconds(match.groups()), content))
    return cues


def parse_webvtt(text: str) -> list[tuple[float, float, str]]:
    """The grammar of W3C's WebVTT, section 4.1, as far as cues without settings need it; text is unescaped."""
    head, *blocks = text.removesuffix("\n").split("\n\n")
    assert head == "WEBVTT"
    cues = []
    for block in blocks:
        times, content = block.split("\n")
        match = re.fullmatch(r"(\d\d+):([0-5]\d):([0-5]\d)\.(\d{3}) --> (\d\d+):([0-5]\d):([0-5]\d)\.(\d{3})", times)
        assert "-->" not in content and "<" not in re.sub(r"</?v[^<>]*>", "", content)
        assert not re.search(r"&(?!amp;|lt;|gt;)", content)
        cues.append((*seconds(match.groups()), html.unescape(content)))
    return cues


def seconds(fields: tuple[str, ...]) -> tuple[float, float]:
    h, m, s, ms = zip(*(map(int, fields[i:i + 4]) for i in (0, 4)))
    return tuple(3600 * h[i] + 60 * m[i] + s[i] + ms[i] / 1000 for i in (0, 1))
