"""Elements, ticks, colours and PNG files: well-formed, round, readable, told apart by the colour-blind, decodable."""
import itertools
import math
import struct
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import pytest

from framealign.corpus.utterance import CLASSES
from framealign.report import svg

# Machado, Oliveira and Fernandes 2009: severity 1.0, on linear RGB.
BLINDNESS = {"none": np.eye(3),
             "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]],
             "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]],
             "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                            [0.004733, 0.691367, 0.303900]]}


def lab(colour: str, kind: str) -> np.ndarray:
    """CIE L*a*b* of a colour as somebody with that colour vision sees it."""
    c = np.array([int(colour[i:i + 2], 16) for i in (1, 3, 5)]) / 255
    seen = np.clip(np.array(BLINDNESS[kind]) @ np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    f = [math.cbrt(t) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz / (0.9505, 1, 1.089)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_emotions_stay_apart_for_every_kind_of_colour_vision(kind):
    """2.3 is a just noticeable difference; these are over ten of them apart. Two more classes stay apart too."""
    for number, least in ((4, 28), (5, 10)):
        names = [*CLASSES, "fear"][:number]
        for a, b in itertools.combinations(svg.colours(names), 2):
            assert np.linalg.norm(lab(a, kind) - lab(b, kind)) > least, (a, b)


def test_every_class_has_its_own_colour():
    names = ["fear", "sad", "boredom", "disgust", "neutral"]
    assert len(set(svg.colours(names))) == 5 and svg.colours(names)[1] == svg.EMOTION_COLOURS["sad"]
    assert svg.colours(["sad", "fear"])[1] == svg.colours(["fear"])[0]
    assert len(svg.colours([str(number) for number in range(40)])) == 40


@pytest.mark.parametrize("kind, least", [("none", 20), ("protanopia", 13), ("deuteranopia", 5), ("tritanopia", 5)])
def test_thirty_classes_can_be_told_apart(kind, least):
    """2.3 is a just noticeable difference. Whether or not the paper's four are among them."""
    for names in ([*CLASSES, *map(str, range(26))], list(map(str, range(30)))):
        assert len({*svg.colours(names)}) == 30
        for a, b in itertools.combinations(svg.colours(names), 2):
            assert np.linalg.norm(lab(a, kind) - lab(b, kind)) > least, (a, b)


def test_every_colour_stands_out_from_light_and_dark_pages():
    for colour in (*svg.EMOTION_COLOURS.values(), *svg.OTHER_COLOURS):
        assert svg.contrast(colour, "#ffffff") > 1.3 and svg.contrast(colour, "#181c22") > 1.3, colour


def test_contrast_is_wcags():
    assert svg.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert svg.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert svg.contrast("#ff0000", "#ffffff") == pytest.approx(4.0, abs=0.005)


def test_words_on_any_colour_are_readable():
    shades = [svg.shade(x) for x in np.linspace(0, 1, 101)]
    for colour in [*svg.EMOTION_COLOURS.values(), *svg.OTHER_COLOURS, *shades]:
        assert svg.contrast(svg.ink(colour), colour) >= 4.5, colour


def test_shades_grow_lighter_all_the_way():
    light = [svg.luminance(svg.shade(x)) for x in np.linspace(0, 1, 50)]
    assert all(a < b for a, b in zip(light, light[1:]))
    assert svg.shade(0) == svg.VIRIDIS[0] and svg.shade(1) == svg.VIRIDIS[-1] and svg.shade(7) == svg.VIRIDIS[-1]


def test_ticks_are_round_and_inside():
    draw = np.random.default_rng(0)
    for _ in range(500):
        low = draw.normal() * 10 ** draw.uniform(-4, 4)
        high = low + 10 ** draw.uniform(-4, 4)
        found = svg.ticks(low, high, 4)
        assert 2 <= len(found) <= 6 and low - 1e-9 * abs(low) <= found[0] and found[-1] <= high + 1e-9 * abs(high)
        step = found[1] - found[0]
        assert np.allclose(np.diff(found), step)
        digit = round(step / 10 ** math.floor(math.log10(step) + 1e-6), 3)
        assert digit in (1, 2, 5, 10), (low, high, found)
    assert svg.ticks(3, 3) == [3]


@pytest.mark.parametrize("value, text", [(3.0, "3"), (0.5, "0.5"), (-0.001, "0"), (1 / 3, "0.33"), (-2.25, "-2.25"),
                                         (120.0, "120")])
def test_numbers_are_short(value, text):
    assert svg.number(value) == text


@pytest.mark.parametrize("value, text", [(0.0005, "0.0005"), (12, "12"), (1500, "1,500"), (20_000, "20k"), (0, "0")])
def test_numbers_beside_ticks(value, text):
    assert svg.short(value) == text


def test_nothing_escapes_from_an_element():
    found = svg.element("g", svg.text(1, 2, '<b>&"x'), class_='"><script>', stroke_width=1.5, left_out=None)
    root = ET.fromstring(found)
    assert root.attrib == {"class": '"><script>', "stroke-width": "1.5"} and root[0].text == '<b>&"x'


def test_paths():
    assert svg.path([0, 1.25, 2], [0, -1, 3]) == "M0 0L1.25 -1L2 3" and svg.path([], []) == ""
    assert svg.band([0, 1], [5, 6], [1, 2]) == "M0 1L1 2L1 6L0 5Z"
    across = svg.linear(10, 20, 0, 100)
    assert across(15) == 50 and across(10) == 0 and svg.linear(1, 1, 0, 100)(1) == 50


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (80, 200), (5, 4, 3), (1, 100, 3)])
def test_png_decodes_to_its_pixels(shape):
    """A decoder written from the specification: chunks with their checksums, filter 2 undone row by row."""
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    content = svg.png(pixels)
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    place, chunks = 8, {}
    while place < len(content):
        size, kind = struct.unpack(">I4s", content[place:place + 8])
        chunks[kind] = content[place + 8:place + 8 + size]
        assert struct.unpack(">I", content[place + 8 + size:place + 12 + size])[0] == zlib.crc32(kind + chunks[kind])
        place += 12 + size
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (height, width) == shape[:2] and depth == 8 and colour == (2 if len(shape) == 3 else 0) and rest == [0] * 3
    raw, row, above, rows = zlib.decompress(chunks[b"IDAT"]), width * (3 if colour else 1), None, []
    for y in range(height):
        line = raw[y * (row + 1):(y + 1) * (row + 1)]
        assert line[0] == 2
        above = [(x + (above[i] if above else 0)) % 256 for i, x in enumerate(line[1:])]
        rows.append(above)
    assert np.array_equal(np.array(rows), pixels.reshape(height, -1)) and list(chunks)[-1] == b"IEND"
