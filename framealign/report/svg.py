"""Small drawing primitives: SVG elements as text, scales and ticks, colours, a PNG writer. numpy only, no library.

The four emotions of the paper have colours that remain distinct with any common colour blindness; those of 30 more
classes are as far from each other as could be found (a test computes how far). No picture relies on colour alone.
"""
import base64
import html
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

EMOTION_COLOURS = {"neutral": "#a3a8ae", "happy": "#f0b429", "angry": "#b83227", "sad": "#2f7fc4"}
OTHER_COLOURS = ("#0b7a67", "#7a5195", "#56b4e9", "#cc79a7", "#8c6d31", "#f0e442", "#c5b0d5", "#00c2a0", "#0000ff",
                 "#2d69ff", "#a5f087", "#5a0096", "#1e3c4b", "#691e1e", "#a5b478", "#879600", "#000fc3", "#a587ff",
                 "#ffa55a", "#f01e78", "#ffd2d2", "#0069d2", "#5a0f69", "#b42d4b", "#5af0a5", "#ff5a5a", "#00f0ff",
                 "#872d69", "#693ca5", "#004bff")
VIRIDIS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")


def escape(text: object) -> str:
    """Text as it must stand in HTML, in content and in attributes."""
    return html.escape(str(text), quote=True)


def number(x: float, places: int = 2) -> str:
    """A coordinate, as short as it can be: 3, 3.5, -0.25."""
    text = f"{x:.{places}f}".rstrip("0").rstrip(".") if places else f"{x:.0f}"
    return "0" if text in ("-0", "") else text


def element(name: str, content: str | Iterable[str] = "", **attributes: object) -> str:
    """An element with its content (markup, not escaped).

    Attributes are escaped and numbers shortened; `class_` and `stroke_width` become `class` and `stroke-width`; those
    that are None are left out.
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            value = number(value) if isinstance(value, (float, np.floating)) else value
            words.append(f'{key.rstrip("_").replace("_", "-")}="{escape(value)}"')
    inside = content if isinstance(content, str) else "".join(content)
    return f"<{' '.join(words)}>{inside}</{name}>"


def text(x: float, y: float, words: object, **attributes: object) -> str:
    """A line of text at a point; which end stands there (`text_anchor`), and its class, as attributes."""
    return element("text", escape(words), x=float(x), y=float(y), **attributes)


def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> str:
    """A straight line from (x1, y1) to (x2, y2)."""
    return element("line", "", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), **attributes)


def rect(x: float, y: float, width: float, height: float, content: str = "", **attributes: object) -> str:
    """A rectangle; content: what is inside the element, such as a title."""
    return element("rect", content, x=float(x), y=float(y), width=float(width), height=float(height), **attributes)


def path(x: Sequence[float], y: Sequence[float], close: bool = False) -> str:
    """The `d` of a path through the points (x, y)."""
    points = [f"{number(a)} {number(b)}" for a, b in zip(x, y)]
    return f"M{'L'.join(points)}{'Z' if close else ''}" if points else ""


def band(x: Sequence[float], low: Sequence[float], high: Sequence[float]) -> str:
    """The `d` of the area between two curves over the same x."""
    return path([*x, *reversed(list(x))], [*high, *reversed(list(low))], close=True)


def linear(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """The scale that takes low..high to start..stop; one value alone goes to the middle."""
    def scale(x: float) -> float:
        if high == low:
            return (start + stop) / 2 + 0 * x       # as many numbers as x has
        return start + (x - low) * (stop - start) / (high - low)
    return scale


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers within [low, high], 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= 0.75 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    marks = [step * k for k in range(first, last + 1)]
    return [0.0 if abs(x) < step * 1e-9 else float(f"{x:.12g}") for x in marks]


def short(x: float) -> str:
    """A number beside a tick: 0.0005, 12, 1,500, 20k."""
    if abs(x) >= 10_000:
        return f"{x / 1000:,.6g}k"
    return f"{x:,.4g}" if abs(x) < 1000 else f"{x:,.0f}"


def colours(labels: Sequence[str]) -> list[str]:
    """A colour for each class: the four emotions have their own, others take the rest in their order."""
    others = iter(OTHER_COLOURS * (len(labels) // len(OTHER_COLOURS) + 1))
    return [EMOTION_COLOURS.get(label) or next(others) for label in labels]


def rgb(colour: str) -> tuple[int, int, int]:
    """"#e69f00" -> (230, 159, 0)."""
    return tuple(int(colour[i:i + 2], 16) for i in (1, 3, 5))


def luminance(colour: str) -> float:
    """Relative luminance, 0 to 1. WCAG 2.1."""
    linear_light = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(rgb(colour)) / 255]
    return float(np.dot(linear_light, (0.2126, 0.7152, 0.0722)))


def contrast(a: str, b: str) -> float:
    """Contrast of two colours, 1 to 21; 4.5 is readable. WCAG 2.1."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def ink(colour: str) -> str:
    """Black or white, whichever is easier to read on a colour."""
    return max(("#000000", "#ffffff"), key=lambda candidate: contrast(candidate, colour))


def shade(x: float) -> str:
    """A colour for 0..1: viridis, whose lightness grows all the way, so that it can be read without hue."""
    place = min(max(float(x), 0.0), 1.0) * (len(VIRIDIS) - 1)
    index = min(int(place), len(VIRIDIS) - 2)
    mixed = [round(a + (b - a) * (place - index)) for a, b in zip(rgb(VIRIDIS[index]), rgb(VIRIDIS[index + 1]))]
    return "#" + "".join(f"{c:02x}" for c in mixed)


def png(pixels: np.ndarray) -> bytes:
    """An image as a PNG file: (height, width) grey or (height, width, 3) colour, uint8.

    Rows are stored as differences to the one above (filter 2), which keeps spectrograms small.
    Source: the PNG specification, clauses 5 (chunks) and 9 (filters).
    """
    pixels = np.ascontiguousarray(pixels, np.uint8)
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    above = np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    filtered = np.hstack([np.full((height, 1), 2, np.uint8), rows - above])     # uint8 wraps, as the format wants
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(filtered.tobytes(), 9)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file: length, type, content, checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def data_uri(content: bytes, kind: str) -> str:
    """The content of a file as an address, so that a page needs no other file. kind: "image/png"."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
