"""The page of `listen`: press record or drop a sound; its emotion over time appears as it comes, in the report's look.

What moves is drawn by `web/listening.js` on canvases, in the tracks and colours of `timeline`; the result of the whole
sound is a figure of `timeline`, which the server sends. Nothing comes from anywhere else.
"""
import base64
import hashlib
import json
import re
from collections.abc import Mapping

from framealign.sound import speech
from framealign.corpus.utterance import NONE
from framealign.emotion.recogniser import Recogniser
from framealign.report import html_document, tracks
from framealign.report.svg import colours, element, escape, ink
from framealign.report.tracks import track

# What the page may load and do. Elements have their heights and colours in `style`; sound and pictures of a result are
# in its page, as data.
POLICY = ("default-src 'none'; script-src 'self' {scripts}; style-src {styles}; style-src-attr 'unsafe-inline'; "
          "connect-src 'self'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'; "
          "frame-ancestors 'none'")
PERMISSIONS = "microphone=(self), camera=(), geolocation=(), display-capture=(), usb=(), serial=(), midi=()"


def page(recogniser: Recogniser, name: str, settings: Mapping[str, object]) -> str:
    """The whole page. name: of the recogniser, as text; settings: what the script is told beside classes and colours.
    """
    labels = recogniser.labels
    by_name = dict(zip(labels, colours(labels)))
    content = {**settings, "labels": labels, "colours": by_name, "inks": {one: ink(by_name[one]) for one in labels},
               "none": NONE, "speech": speech.KINDS[speech.SPEECH], "rate": recogniser.model.hubert.config.framing.rate,
               "bands": tracks.BANDS, "decibels": tracks.DECIBELS}
    text = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
    body = html_document.head("Listen", f"Emotion while you speak, by {name}. Sound stays on this computer, in memory.")
    parts = [controls(), live(recogniser), result(), f'<script type="application/json" id="settings">{text}</script>']
    return html_document.document("Listen", body + element("main", parts), ("listening",))


def controls() -> str:
    """Record, choose a file, drop one; what is going on, which is read out."""
    record = element("button", "● Record", id="record", class_="record", type="button")
    choose = element("label", [
        element("input", "", id="file", type="file", accept="audio/*,.flac,.ogg,.opus,.mp3,.wav,.aiff,.au,.caf,.w64")
        .removesuffix("</input>"), "Choose a file"], class_="choose")
    hint = element("span", "or drop one here", class_="note hint")
    clock = element("span", "0.0 s", class_="clock", id="clock")
    status = element("p", "Press Record and speak, or choose a sound file.", id="status", role="status")
    return element("section", element("div", [record, choose, hint, clock], class_="player") + status,
                   class_="card wide", id="controls", aria_label="sound")


def live(recogniser: Recogniser) -> str:
    """The tracks of a recording."""
    def canvas(name: str) -> str:
        return element("canvas", "", id=name, role="img", aria_label=f"{name} over time")

    rows = [track("sound", canvas("sound"), 62), track("spectrum", canvas("spectrum"), 84, "0 to 8 kHz, mel"),
            track("segments", canvas("segments"), 30, "pale: not certain yet"),
            track("posterior", canvas("posterior"), 96, "of each class"),
            track("attention", canvas("attention"), 56, "dashed: equal weights"),
            element("div", [element("div", "", class_="label"), element("div", canvas("axis"), class_="lane")],
                    class_="track axis")]
    content = [element("p", "", class_="verdict", id="verdict"), element("div", rows, class_="tracks"),
               tracks.legend(recogniser.labels)]
    note = tracks.posterior_note(recogniser.model.frames is not None, recogniser.model.window_seconds)
    if note:
        content.append(element("p", note, class_="note"))
    return element("figure", content, class_="card wide", id="live", hidden="")


def result() -> str:
    """The place of a result: what can be saved, the figure, the segments."""
    buttons = [element("button", f"Save {name}", class_="save", type="button", data_kind=suffix, hidden="")
               for name, suffix in (("HTML", "html"), ("TextGrid", "TextGrid"), ("JSON", "json"))]
    head = element("tr", [element("th", escape(name), scope="col") for name in
                          ("emotion", "start, s", "end, s", "confidence", "attention")])
    table = element("table", element("thead", head) + element("tbody", "", id="rows"), class_="plain")
    segments = element("figure", element("figcaption", "Segments") + element("div", table, class_="scroll"),
                       class_="card wide", id="listed", hidden="")
    return element("div", buttons, class_="player", id="saves") + element("div", "", id="result") + segments


def policy(html: str) -> str:
    """The Content-Security-Policy of this page: its own style and script, by their digests, and nothing else."""
    def digests(name: str) -> str:
        blocks = re.findall(f"<{name}>(.*?)</{name}>", html, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()}'"
                        for block in blocks)
    return POLICY.format(scripts=digests("script"), styles=digests("style"))


def recorder() -> str:
    """The script that takes samples from the microphone, in a thread of the browser's own."""
    return html_document.resource("recorder.js")
