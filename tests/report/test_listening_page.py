"""The page to speak to: everything has a name, nothing comes from elsewhere, and its policy fits its own blocks."""
import base64
import hashlib
import json
import re

import markup
import pytest
from recognised_noise import LABELS

from framealign.hubert.model import Hubert
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.recogniser import Recogniser
from framealign.report import html_document, listening_page
from framealign.report.svg import colours


@pytest.fixture(scope="module")
def page(micro) -> str:
    recogniser = Recogniser(EmotionModel(Hubert(micro), LABELS))
    return listening_page.page(recogniser, "<b>MODEL</b>", {"seconds": 4, "name": "</script>"})


def test_the_script_is_told_classes_and_colours(page):
    settings, = [one for one in markup.read(page).all("script") if one.attributes.get("id") == "settings"]
    content = json.loads(settings.text)
    assert content["labels"] == LABELS and content["colours"] == dict(zip(LABELS, colours(LABELS)))
    assert content["name"] == "</script>" and content["rate"] == 50 and content["seconds"] == 4


def test_text_is_text(page):
    assert "&lt;b&gt;MODEL&lt;/b&gt;" in page and "<b>MODEL" not in page


def test_nothing_comes_from_elsewhere_and_nothing_is_run_from_attributes(page):
    assert not re.search(r"https?://|//[a-z]", re.sub(r"^\s*//.*|[^:]// .*", "", page, flags=re.MULTILINE))
    assert not re.search(r"<[^>]*\son\w+=", page)
    script = html_document.resource("listening.js") + html_document.resource("recorder.js")
    assert not re.search(r"\beval\b|new Function|document\.write|localStorage|indexedDB|cookie", script)


def test_everything_that_can_be_pressed_or_is_drawn_has_a_name(page):
    root = markup.read(page)
    for button in root.all("button"):
        assert button.text.strip() or button.attributes.get("aria-label")
    assert [canvas.attributes["aria-label"] for canvas in root.all("canvas")] == [
        f"{name} over time" for name in ("sound", "spectrum", "segments", "posterior", "attention", "axis")]
    label, = [one for one in root.all("label") if one.all("input")]
    assert "Choose a file" in label.text
    status, = [one for one in root.all("p") if one.attributes.get("role") == "status"]
    assert "Press Record" in status.text


def test_the_policy_allows_its_own_blocks_and_nothing_else(page):
    policy = dict(part.strip().split(" ", 1) for part in listening_page.policy(page).split(";"))
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
    for name, directive in (("script", "script-src"), ("style", "style-src")):
        block, = re.findall(f"<{name}>(.*?)</{name}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[directive] and "unsafe" not in policy[directive]
    assert listening_page.policy(page.replace("use strict", "use sloppy")) != listening_page.policy(page)
    assert "http" not in listening_page.policy(page) and "*" not in listening_page.policy(page)
