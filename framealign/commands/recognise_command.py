"""What `bin/recognise.py` does: find the sounds that were named, recognise each, write the results as they come.

With --html also one page with a picture of each sound that was recognised: `timeline.picture`.
"""
import glob
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from framealign.runtime import files
from framealign.runtime.settings import setting
from framealign.sound import audio
from framealign.hubert.model import Hubert
from framealign.units.codebook import Codebook
from framealign.emotion.recogniser import Recogniser, Result, UnitReader
from framealign.emotion.segments import segments
from framealign.report import timeline
from framealign.report.text_formats import FORMATS, shown

# What a folder is searched for; a file that is named itself may be called anything.
SUFFIXES = frozenset((".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au",
                      ".snd", ".caf", ".w64", ".rf64", ".voc", ".sph", ".nist", ".svx", ".iff", ".avr", ".paf", ".pvf",
                      ".sf", ".ircam", ".wve", ".htk", ".xi", ".sd2"))


@dataclass(frozen=True)
class RecogniseRun:
    """How sounds are recognised and results written."""
    timeline: bool = setting(False, "also over time: segments, and in json, jsonl and csv 50 frames/s")
    format: str = setting("table", "table, json, jsonl, csv, textgrid, audacity or rttm")
    smooth: float = setting(0.25, "seconds: no segment is shorter; 0: each frame for itself")
    out: str = setting("", "folder for one file per sound; without it everything goes to standard output")
    html: str = setting("", "also write this file: a page with a playable picture of each sound")
    codebook: str = setting("", "codebook.safetensors: also each frame's unit (with --timeline)")
    codebook_model: str = setting(
        "", "model whose states the codebook was fitted on; without it the recogniser's encoder")
    layer: int = setting(-1, "layer of those states; -1: the layer in the codebook's own record")
    device: str = setting("auto", "auto, cpu, cuda or mps")


def find(names: Iterable[str], lines: Iterable[bytes] = ()) -> Iterator[str | ValueError]:
    """Sound files: each name's own, a folder's (and its folders', sorted), a pattern's; `-`: those named in `lines`.

    What names nothing comes as a ValueError, in its place. Hidden files and folders are passed over in folders.
    """
    for name in names:
        if name == "-":
            yield from find(os.fsdecode(line).rstrip("\r\n") for line in lines if line.strip() not in (b"", b"-"))
        elif os.path.isdir(name):
            found = list(_sounds(name))
            yield from found or [ValueError(f"{shown(name)}: holds no sound file")]
        elif not os.path.lexists(name) and glob.has_magic(name):
            found = sorted(glob.glob(name, recursive=True))
            inner = [path for path in found if not os.path.isdir(path)]
            yield from inner or [ValueError(f"{shown(name)}: no file matches")]
        else:
            yield name


def _sounds(folder: str) -> Iterator[str]:
    for place, inside, names in os.walk(folder):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        yield from (os.path.join(place, name) for name in sorted(names)
                    if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES)


def load(model: str, config: RecogniseRun) -> Recogniser:
    """The recogniser, with its reader of units where a codebook is given. Raises ValueError for what does not fit."""
    recogniser = Recogniser.from_pretrained(model, config.device)
    if config.codebook:
        hubert = Hubert.from_pretrained(config.codebook_model) if config.codebook_model else recogniser.model.hubert
        layer = None if config.layer == -1 else config.layer
        recogniser.units = UnitReader(hubert, Codebook.read(config.codebook), layer)
    return recogniser


def heard(recogniser: Recogniser, sounds: Iterable[str | ValueError], failed: list[str]
          ) -> Iterator[tuple[str, Result]]:
    """Each sound and its result. What cannot be recognised is said on stderr, one line, and added to `failed`."""
    def fail(error: Exception, path: str = "") -> None:
        text = shown(error)
        failed.append(text if not path or shown(path) in text else f"{shown(path)}: {text}")
        print(f"error: {failed[-1]}", file=sys.stderr, flush=True)

    def paths() -> Iterator[str]:
        for sound in sounds:
            if isinstance(sound, ValueError):
                fail(sound)
            else:
                yield sound

    for path, result in recogniser.listen(paths()):
        if isinstance(result, Exception):
            fail(result, path)
        else:
            yield path, result


def run(model: str, names: list[str], config: RecogniseRun) -> int:
    """Recognise what is named, write it: 0, or 1 where some sounds could not be recognised, or 2 where none could.

    Raises ValueError, before anything is recognised, for a model or flag that is wrong.
    """
    if config.format not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {config.format}")
    if not 0 <= config.smooth < float("inf"):
        raise ValueError(f"--smooth must be 0 or more seconds, got {config.smooth}")
    form, failed, number, figures = FORMATS[config.format], [], 0, []
    recogniser = load(model, config)
    sounds = find(names, sys.stdin.buffer if "-" in names else ())
    if form.single and not config.out:
        sounds = list(sounds)
        if len(sounds) > 1:
            raise ValueError(f"--format {config.format} holds one sound in a file, {len(sounds)} are named: give a "
                             "folder for them with --out")
    first, taken = form.first(recogniser.labels, config.timeline), set()
    for path, result in heard(recogniser, sounds, failed):
        text = form.write(path, result, segments(result, config.smooth), config.timeline)
        if config.out:
            place = name_for(path, form.suffix, taken)
            files.write_text(Path(config.out) / place, first + text + form.last)
            print(f"{shown(path)}\t{result.emotion}\t{shown(Path(config.out) / place)}", flush=True)
        else:
            sys.stdout.write((form.between if number else first) + text)
            sys.stdout.flush()
        number += 1
        if config.html:                             # the sound is read again: results of hours do not wait in memory
            figures.append(timeline.picture(audio.load(path).numpy(), result, result.units, title=shown(path)))
    if number and not config.out:
        sys.stdout.write(form.last)
    if figures:
        files.write_text(config.html, timeline.page("Recognised", figures, f"{number} sounds by {shown(model)}"))
        print(f"{config.html}: open it in a browser", file=sys.stderr)
    if failed and len(failed) + number > 1:
        print(f"{len(failed)} of {len(failed) + number} could not be recognised", file=sys.stderr)
    return 0 if not failed and number else 1 if number else 2


def name_for(path: str, suffix: str, taken: set[str]) -> str:
    """A file name for a sound's result: the sound's own, with a number where another sound has it already."""
    stem, number = Path(path).stem, 1
    while (name := f"{stem}{f'-{number}' if number > 1 else ''}{suffix}") in taken:
        number += 1
    taken.add(name)
    return name
