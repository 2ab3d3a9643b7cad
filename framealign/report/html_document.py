"""One self-contained HTML file: style and script are inside it, so that it can be sent and opened anywhere."""
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from framealign.report.svg import element, escape

WEB = Path(__file__).parent / "web"                 # style and script, as files of their own
LIMIT_BYTES = 5_000_000                             # of a page
LONG = 80                                           # characters of a value; more have a line of their own

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{style}
</style>
</head>
<body>
{body}
<script>
{script}
</script>
</body>
</html>
"""


def document(title: str, body: str, more: Sequence[str] = ()) -> str:
    """A whole page around `body` (markup); title is plain text. more: names in `web/` of style and script that it needs
    beside those of every page.
    """
    style, script = ("\n".join(resource(f"{name}.{kind}") for name in ("page", *more)) for kind in ("css", "js"))
    return TEMPLATE.format(title=escape(title), body=body, style=style, script=script)


@cache
def resource(name: str) -> str:
    """A file of `web/`, as text."""
    return (WEB / name).read_text(encoding="utf-8").strip()


def head(title: str, subtitle: str, places: Iterable[tuple[str, str]] = ()) -> str:
    """The top of a page: title, a line below it, links to its sections (id, name), a switch between light and dark."""
    links = "".join(element("a", escape(name), href=f"#{place}") for place, name in places)
    navigation = element("nav", links) if links else ""
    switch = element("button", "◐", class_="theme", type="button", title="light or dark", aria_label="light or dark")
    top = element("div", element("h1", escape(title)) + switch, class_="top")
    return element("header", top + element("p", escape(subtitle), class_="lead") + navigation)


def section(place: str, title: str, content: str, introduction: str = "") -> str:
    """A part of a page with an id to link to; introduction is plain text."""
    paragraph = element("p", escape(introduction), class_="intro") if introduction else ""
    return element("section", element("h2", escape(title)) + paragraph + content, id=place)


def card(title: str, content: str, note: str = "", wide: bool = False) -> str:
    """A framed figure with its title above and, in small print below, what to look for (plain text)."""
    paragraph = element("p", escape(note), class_="note") if note else ""
    return element("figure", element("figcaption", escape(title)) + content + paragraph,
                   class_="card wide" if wide else "card")


def grid(cards: Iterable[str]) -> str:
    """Cards side by side where there is room."""
    return element("div", "".join(cards), class_="grid")


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values, side by side; a long value has a line of its own."""
    entries = [element("div", element("dt", escape(name)) + element("dd", escape(value)),
                       class_="wide" if len(value) > LONG else None) for name, value in pairs]
    return element("dl", entries, class_="facts")
