"""Reading markup back: elements properly nested, their attributes and text; anything fetched from elsewhere."""
import re
from html.parser import HTMLParser

VOID = {"img", "meta", "link", "br", "hr", "input"}


class Element:
    """A tag with attributes, children and its own text."""

    def __init__(self, tag: str, attributes: dict):
        self.tag, self.attributes, self.children, self.words = tag, attributes, [], ""

    @property
    def text(self) -> str:
        return self.words + "".join(child.text for child in self.children)

    def all(self, tag: str = "", kind: str = "") -> list["Element"]:
        """Elements below this one by tag and class, in order."""
        elements = []
        for child in self.children:
            if tag in ("", child.tag) and (not kind or kind in (child.attributes.get("class") or "").split()):
                elements.append(child)
            elements += child.all(tag, kind)
        return elements

    def numbers(self, *names: str) -> list[float]:
        return [float(self.attributes[name]) for name in names]


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attributes):
        element = Element(tag, dict(attributes))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].words += data


def read(markup: str) -> Element:
    """The elements of a piece of HTML. Fails where one is not closed, or not in order."""
    reader = Reader()
    reader.feed(markup)
    reader.close()
    assert reader.open == [reader.root], f"not closed: {[e.tag for e in reader.open[1:]]}"
    return reader.root


def points(d: str) -> list[tuple[float, float]]:
    """The corners of a path of straight lines."""
    return [tuple(map(float, pair)) for pair in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", d)]


def fetched(page: str) -> list[str]:
    """Addresses that a page would load from elsewhere, or links that leave it."""
    addresses = [value for element in read(page).all() for name, value in element.attributes.items()
                 if name in ("src", "href", "srcset", "action", "data") and not value.startswith(("data:", "#"))]
    return addresses + re.findall(r"@import|url\((?!data:)[^)]*\)", page)
