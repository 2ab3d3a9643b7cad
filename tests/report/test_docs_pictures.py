"""The pictures in docs: the house is the package's, the first look is what its own command draws and README prints."""
import ast
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import small
from test_layout import WINGS

from framealign.report import svg, timeline_svg

DOCS = small.ROOT / "docs"
SVG = "{http://www.w3.org/2000/svg}"
LIMIT_BYTES = 60_000


def opened(name: str) -> ET.Element:
    return ET.fromstring((DOCS / name).read_text(encoding="utf-8"))


def words(element: ET.Element, kind: str = "") -> list[str]:
    return [one.text for one in element.iter(f"{SVG}text") if kind in ("", one.attrib.get("class"))]


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.svg")), ids=lambda path: path.name)
def test_pictures_need_no_other_file_and_are_shown(path):
    """GitHub shows an SVG as an image: nothing is loaded, no script runs; dark pages get dark colours."""
    text = path.read_text(encoding="utf-8")
    assert ET.fromstring(text).tag == f"{SVG}svg" and len(text.encode()) < LIMIT_BYTES
    assert not re.search(r"href|url\(|@import|<script|<image|<foreignObject|\son\w+=", text)
    assert "prefers-color-scheme: dark" in text and ET.fromstring(text).find(f"{SVG}title").text
    pages = [small.ROOT / "README.md", *DOCS.glob("*.md")]
    assert any(f"{path.name})" in page.read_text(encoding="utf-8") for page in pages), "no page shows it"


def test_the_house_has_the_wings_in_their_order():
    floors = [one for one in opened("house.svg").iter(f"{SVG}g")]
    assert tuple(one.attrib["id"] for one in floors) == WINGS
    assert [words(one, "wing") for one in floors] == [[name] for name in WINGS]
    heights = [float(one.find(f"{SVG}rect").attrib["y"]) for one in floors]
    assert heights == sorted(heights)
    assert {path.parent.name for path in (small.ROOT / "framealign").glob("*/__init__.py")} == set(WINGS)
    title = opened("house.svg").find(f"{SVG}title").text
    assert "wings above it" in title                # which is downwards in the list, and upwards in the picture


def test_the_house_cites_what_its_wings_cite():
    """Every section beside a wing stands in that wing's docstring too."""
    cited = 0
    for floor in opened("house.svg").iter(f"{SVG}g"):
        path = small.ROOT / "framealign" / floor.attrib["id"] / "__init__.py"
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        for source in words(floor, "source"):
            for section in re.findall(r"\b(?:I[IV]-[A-Z]|2(?:\.\d)?)\b", source):
                assert re.search(rf"(?<![\w.]){re.escape(section)}(?!\.?\d|-?\w)", docstring), (path, section)
                cited += 1
    assert cited >= 8


def test_the_nine_files_are_in_the_blue_wings():
    text = (DOCS / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.partition("## Nine files")[2].partition("\n## ")[0]
    files = re.findall(r"^\| \d+ \| `([\w/]+\.py)`", table, re.MULTILINE)
    assert len(files) == 9 and all((small.ROOT / "framealign" / name).exists() for name in files)
    blue = {floor.attrib["id"] for floor in opened("house.svg").iter(f"{SVG}g")
            if floor.find(f"{SVG}rect").attrib["class"] == "method"}
    assert blue == {Path(name).parts[0] for name in files}


def test_the_first_look_is_what_readme_prints():
    """The sound of README's second command: its emotion, probabilities, segments and truth; the project's own style.

    To make it again: that command, with the path that `bin/lesson.py runs/demo` says and `--format svg >
    docs/first-look.svg`; what README says of it follows.
    """
    text = (DOCS / "first-look.svg").read_text(encoding="utf-8")
    style = (small.ROOT / "framealign" / "report" / "web" / "timeline_svg.css").read_text(encoding="utf-8")
    assert style.strip() in text
    root, readme = opened("first-look.svg"), (small.ROOT / "README.md").read_text(encoding="utf-8")
    heading, verdict, *_ = words(root)
    printed = re.search(rf"^\S+/{re.escape(heading)}\t?\s*(\w+)\s+(neutral [\d.]+.*)$", readme, re.MULTILINE)
    assert printed, f"README prints nothing of {heading}"
    assert verdict.startswith(f"recognised: {printed[1]} (")
    shares = re.findall(r"(\w+) ([\d.]+)", printed[2])
    assert len(shares) == 4
    assert all(f"{name} {100 * float(share):.0f} %" in verdict for name, share in shares)
    lines = re.findall(r"^ +([\d.]+) +([\d.]+) +(\w+) +confidence ([\d.]+)", readme[printed.end():], re.MULTILINE)
    drawn = [one.find(f"{SVG}title").text for one in root.iter(f"{SVG}rect") if one.find(f"{SVG}title") is not None]
    assert drawn == [f"{emotion}, {start} to {end} s, confidence {confidence}"
                     for start, end, emotion, confidence in lines]

    seconds = float(re.search(r" of ([\d.]+) s, ", root.find(f"{SVG}title").text)[1])
    colours = svg.EMOTION_COLOURS
    planted = [(float(one.attrib["x"]), float(one.attrib["width"])) for one in root.iter(f"{SVG}rect")
               if one.attrib.get("class") == "run" and one.find(f"{SVG}title") is None
               and one.attrib["fill"] != colours["neutral"]]
    left, right = timeline_svg.LEFT, timeline_svg.RIGHT
    edges = [[f"{(x - left) / (right - left) * seconds:.2f}" for x in (start, start + width)]
             for start, width in planted]
    said = re.search(r"The emotion was planted from (.+?) s and is found from (.+?) s,", readme, re.DOTALL)
    assert [re.findall(r"[\d.]+", pair) for pair in re.findall(r"[\d.]+\s+to\s+[\d.]+", said[1])] == edges and edges
    found = [[start, end] for start, end, emotion, _ in lines if emotion != "neutral"]
    assert [re.findall(r"[\d.]+", pair) for pair in re.findall(r"[\d.]+\s+to\s+[\d.]+", said[2])] == found
