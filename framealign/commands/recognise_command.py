"""The emotion in sound files, also over time, by the recogniser that comes along or one of your own.

    bin/recognise.py a.wav
    bin/recognise.py runs/demo/session1/recogniser a.wav folder 'takes/*.flac'
    bin/recognise.py runs/demo/session1/recogniser a.wav --timeline             # segments, start and end in seconds
    find . -name '*.mp3' | bin/recognise.py runs/demo/session1/recogniser - --format csv > emotions.csv
    bin/recognise.py runs/demo/session1/recogniser talks --format textgrid --out grids      # for Praat
    bin/recognise.py runs/demo/session1/recogniser a.wav --html a.html          # a picture that can be played
    bin/recognise.py anna bert --centre folder           # folders of one voice each: its answers, less their mean
    bin/recognise.py runs/demo/session1/recogniser talk.wav --turns talk.rttm   # the emotion of each speaker's turn
    arecord -f S16_LE -r 16000 | bin/recognise.py runs/demo/session1/recogniser --stream -      # while one speaks
    ffmpeg -i a.mp4 -f s16le -ac 1 -ar 16000 - | bin/recognise.py runs/demo/session1/recogniser --stream -
    sox -d -t wav -b 16 - | bin/recognise.py runs/demo/session1/recogniser --stream -

Exit status: 0, 1 (some sounds could not be recognised, or their results not be written: a line for each on stderr) or
2 (none could).
"""
import codecs
import glob
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from framealign.runtime import files, log, settings, terminal
from framealign.runtime.settings import setting
from framealign.sound import audio, unread
from framealign.sound.frames import SAMPLE_RATE
from framealign.corpus import frame_truth
from framealign.exchange import encoder_file, speaker_turns
from framealign.units.codebook import Codebook
from framealign.emotion.recogniser import Recogniser, Result, UnitExtractor, centred, installed
from framealign.emotion.segments import MIN_SECONDS, check_smoothing, segments
from framealign.emotion.streaming import Streaming
from framealign.emotion.turns import Conversation, recognise_turns
from framealign.report import timeline
from framealign.report.text_formats import FORMATS, shown
from framealign.report.turn_formats import TURN_FORMATS, by_speaker
from framealign.commands import command_line, live_recognition

# What a folder is searched for, beside what `unread.py` names; a file that is named itself may be called anything.
SUFFIXES = frozenset((".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au",
                      ".snd", ".caf", ".w64", ".rf64", ".voc", ".sph", ".nist", ".svx", ".iff", ".avr", ".paf", ".pvf",
                      ".sf", ".ircam", ".wve", ".htk", ".xi", ".sd2"))
SOURCES = ("all", "folder")                         # what --centre takes as one: all sounds, or those of each folder


@dataclass(frozen=True)
class RecogniseRun:
    """How sounds are recognised and results written."""
    timeline: bool = setting(False, "also over time: segments, and in json, jsonl and csv 50 frames/s (of base)")
    format: str = setting("table", "table, json, jsonl, csv, textgrid, rttm, audacity, srt, vtt or svg")
    smooth: float = setting(MIN_SECONDS, "seconds: no segment is shorter; 0: each frame for itself; 0.1 "
                            "left the least time wrong on validation data, 0.5 much more")
    turns: str = setting("", "who speaks when, as .rttm, .srt, .vtt or .TextGrid, or a folder with one file for each "
                         "sound: the emotion of each turn")
    out: str = setting("", "folder for one file per sound; without it everything goes to standard output")
    html: str = setting("", "also write this file: a page with a playable picture of each sound")
    codebook: str = setting("", "codebook.safetensors: also each frame's unit (with --timeline)")
    codebook_model: str = setting(
        "", "model whose states the codebook was fitted on; without it the recogniser's encoder")
    layer: int = setting(-1, "layer of those states; -1: the layer in the codebook's own record")
    gate: bool = setting(True, "hear where there is no speech (silence, noise, music): there, and where there is none "
                         "at all, the emotion is none")
    centre: str = setting(
        "", "all or folder: all sounds, or those of each folder, are of one voice or microphone, and express several "
        "emotions: take off what shifts all answers alike; best of 8 sounds or more. The emotion over time stays")
    reject: float = setting(0.0, "confidence, 0 to 1, below which the answer is none, e.g. 0.6")
    reject_error: float = setting(
        0.0, "share of wrong answers that is wanted, e.g. 0.1, in place of a confidence; the one that gives it is that "
        "of the validation utterances")
    stream: bool = setting(False, "recognise standard input (-) while it comes: WAV, or raw samples, int16, "
                           "little-endian, mono; as table or jsonl, until it ends or Ctrl-C is pressed")
    rate: int = setting(16_000, "samples a second of raw samples, with --stream")
    device: str = setting("auto", "auto, cpu, cuda or mps")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process), recognise, and exit with the status of `run`."""
    parser = command_line.parser("recognise", __doc__, "[model] sound [sound ...]")
    parser.add_argument("names", nargs="+", metavar="[model] sound", help="a recogniser's directory (without one: the "
                        "one that comes along), then sound files, folders, patterns, or - for a list on standard "
                        "input; any sample rate, channels, length and format that soundfile reads")
    settings.add_flags(parser, RecogniseRun)
    settings.add_flags(parser.add_argument_group("with --stream"), Streaming)
    args = parser.parse_intermixed_args(arguments)       # flags may stand between model and sounds

    config = settings.from_flags(args, RecogniseRun())
    model, sounds = model_and_sounds(args.names)
    if config.stream:
        run_stream(model or str(installed()), sounds, config, settings.from_flags(args, Streaming()))
        return
    for name in settings.given_flags(args, Streaming):
        raise ValueError(f"{settings.flag_of(name)} goes with --stream alone")
    status = run(model, sounds, config)
    if status:
        sys.exit(status)


def model_and_sounds(names: list[str]) -> tuple[str, list[str]]:
    """The recogniser's directory, "" where none is named, and the names of sounds.

    Of several names the first is a recogniser's unless it is a sound file, a pattern, `-`, or a folder with sound files
    and no config.json: a mistyped directory must not pass for a sound, and another recogniser be taken. Raises
    ValueError for a recogniser without sounds.
    """
    first, *others = names
    if not others and os.path.exists(os.path.join(first, "config.json")):
        raise ValueError(f"{shown(first)} is a recogniser's directory: name the sound files, too")
    is_sound = first == "-" or os.path.isfile(first) or glob.has_magic(first) and not os.path.isdir(first)
    if os.path.isdir(first) and not os.path.exists(os.path.join(first, "config.json")):
        is_sound = any(isinstance(path, str) for path in _below(first))
    return ("", names) if is_sound or not others else (first, others)


def run(model: str, names: list[str], config: RecogniseRun) -> int:
    """Recognise the named sounds and write the results as they come: the exit status. model: "" for the one that comes
    along.

    0, or 1 where some sounds could not be recognised or their results not be written, or 2 where none could. Where
    nobody reads standard output any more (`| head`), what is left is not recognised, and that is no error. Raises
    ValueError, before anything is recognised, for a model, flag or folder that is wrong, and OSError for a full disk.
    """
    check(config)
    model = model or str(installed())
    recogniser = load(model, config)
    sounds = sound_files(names, sys.stdin.buffer if "-" in names else ())
    form = (TURN_FORMATS if config.turns else FORMATS)[config.format]
    if form.single and not config.out:
        sounds = list(sounds)
        if len(sounds) > 1:
            raise ValueError(f"--format {config.format} holds one sound in a file, {len(sounds)} are named: give a "
                             "folder for them with --out")

    results = recognised_turns if config.turns else centred_by_source if config.centre else recognised
    first = form.first(recogniser.labels, config.timeline)
    number, failed, names_in_use, figures, is_read = 0, [], set(), [], True
    for path, result in results(recogniser, sounds, failed, config):
        try:
            if config.turns:
                text, verdict = form.write(path, result), f"{len(result.turns)} turns"
                figure = picture(path, recogniser(path), config.smooth, result) if config.html else ""
            else:
                text = form.write(path, result, segments(result, config.smooth), config.timeline)
                verdict = result.emotion
                figure = picture(path, result, config.smooth) if config.html else ""
            if config.out:
                place = Path(config.out) / name_for(path, form.suffix, names_in_use)
                files.write_text(place, first + text + form.last)
                log.say(f"{shown(path)}\t{verdict}\t{shown(place)}")
            else:
                text = (form.between if number else first) + text
                check_encoding(text)
                is_read = terminal.put(text)
        except (ValueError, OSError) as error:
            if getattr(error, "errno", None) in files.FULL:
                raise
            fail(failed, error, path)
            continue
        number += 1
        if config.html:
            figures.append(figure)
        elif not is_read:
            break
    if number and not config.out:
        terminal.put(form.last)

    if figures:
        subtitle = f"{number} sound{'' if number == 1 else 's'} by {shown(model)}"
        files.write_text(config.html, timeline.page("Recognised", figures, subtitle))
        terminal.put(f"{config.html}: open it in a browser\n", sys.stderr)
    if failed and len(failed) + number > 1:
        terminal.put(f"{len(failed)} of {len(failed) + number} could not be recognised\n", sys.stderr)
    if not number:
        return 2
    return 1 if failed else 0


def run_stream(model: str, names: list[str], config: RecogniseRun, streaming: Streaming) -> None:
    """Recognise standard input while it comes. Raises ValueError for flags that do not go with that, and as `load`."""
    check(config)
    if names != ["-"]:
        raise ValueError("--stream recognises standard input: name -, and no other sound")
    if config.format not in live_recognition.FORMATS:
        raise ValueError(f"--stream is written as {' or '.join(live_recognition.FORMATS)}, not as {config.format}")
    for name in ("turns", "out", "html", "codebook", "centre"):
        if getattr(config, name):
            raise ValueError(f"--{name} needs a sound that has ended: leave out --{name} or --stream")
    live_recognition.run(load(model, config), streaming, config.rate, config.smooth, config.format == "jsonl")


def check(config: RecogniseRun) -> None:
    """Raise ValueError for a format that does not exist, a shortest segment below 0 s, a place that is not writable."""
    if config.format not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {config.format}")
    if config.centre not in ("", *SOURCES):
        raise ValueError(f"--centre must be {' or '.join(SOURCES)}, got {config.centre}")
    if config.centre and config.turns:
        raise ValueError("--centre is of whole sounds, --turns gives each turn its emotion: leave out one of them")
    if config.turns and config.format not in TURN_FORMATS:
        raise ValueError(f"--turns is written as {', '.join(TURN_FORMATS)}, not as {config.format}; --html has a "
                         "picture of them")
    if config.turns and config.timeline:
        raise ValueError("--timeline has frames or segments, --turns turns: give one of them; --html has both")
    if config.turns and not os.path.exists(config.turns):
        raise ValueError(f"--turns {config.turns}: no such file or folder")
    check_smoothing(config.smooth)
    for name, value in (("--reject", config.reject), ("--reject-error", config.reject_error)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {value:g}")
    if config.reject and config.reject_error:
        raise ValueError("give either --reject (a confidence) or --reject-error (a share of wrong answers)")
    if config.out:
        files.check_writable(config.out)
    if config.html:
        if os.path.isdir(config.html):
            raise ValueError(f"--html {config.html}: a folder, must be a file; give a name such as "
                             f"{os.path.join(config.html, 'page.html')}")
        files.check_writable(Path(config.html).absolute().parent)


def check_encoding(text: str) -> None:
    """Raise ValueError where standard output's encoding lacks a character of a result: another would be a false one."""
    encoding = terminal.lacks(text)
    if encoding:
        raise ValueError(f"the result has characters that {encoding}, the encoding of standard output, lacks; set "
                         "PYTHONIOENCODING=utf-8, or give a folder with --out")


def picture(path: str, result: Result, min_seconds: float, conversation: Conversation | None = None) -> str:
    """A figure of a sound for a page, with segments of at least `min_seconds`, and the truth that lies beside it.

    conversation: its turns, for a strip of each speaker's.

    The sound is read again: those of hours do not wait in memory.
    """
    units = None if result.units is None else timeline.UnitTrack(result.units)
    speakers = {} if conversation is None else by_speaker(conversation.turns)
    annotation = timeline.Annotation(shown(path), truth=frame_truth.beside(path, result.seconds), speakers=speakers)
    return timeline.picture(audio.load(path).numpy(), result, annotation, units, segments(result, min_seconds))


def sound_files(names: Iterable[str], lines: Iterable[bytes] = ()) -> Iterator[str | ValueError]:
    """Sound files: each name's own, a folder's (and its folders', sorted), a pattern's; `-`: those named in `lines`.

    A name that stands for nothing gives a ValueError, in its place. In folders hidden files are passed over.
    """
    for name in names:
        if name == "-":
            yield from sound_files(_listed(lines))
        elif os.path.isdir(name):
            inside = list(_below(name))
            yield from inside or [ValueError(f"{shown(name)}: holds no sound file")]
        elif not os.path.lexists(name) and glob.has_magic(name):
            matches = [path for path in sorted(glob.glob(name, recursive=True)) if not os.path.isdir(path)]
            yield from matches or [ValueError(f"{shown(name)}: no file matches")]
        else:
            yield name


def _listed(lines: Iterable[bytes]) -> Iterator[str]:
    """The names in a list. A mark of UTF-8 (BOM), line ends (LF, CR LF, CR; NUL as of find -print0) and blank lines are
    no part of them. Raises ValueError for a list in UTF-16.
    """
    for number, line in enumerate(lines):
        if number == 0 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ValueError("the list of sounds is saved as UTF-16; save it as UTF-8")
        if number == 0:
            line = line.removeprefix(codecs.BOM_UTF8)
        for name in re.split(rb"[\r\n\0]", line):
            if name.strip() not in (b"", b"-"):
                yield os.fsdecode(name)


def _below(folder: str) -> Iterator[str | ValueError]:
    """Every sound file below a folder, by its suffix, sorted; also such as cannot be read. Links are followed once.

    A folder that cannot be listed gives a ValueError.
    """
    closed: list[ValueError] = []

    def refuse(error: OSError) -> None:
        closed.append(ValueError(f"{shown(error.filename)}: cannot be listed ({error.strerror}); what is in it is "
                                 "left out"))

    entered = set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in entered else sorted(name for name in folders if not name.startswith("."))
        names = [] if real in entered else sorted(names)
        entered.add(real)
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES | unread.SUFFIXES:
                yield os.path.join(place, name)
    yield from closed


def load(model: str, config: RecogniseRun) -> Recogniser:
    """The recogniser, with its reader of units where a codebook is given. Raises ValueError for what does not fit."""
    recogniser = Recogniser.from_pretrained(model, config.device, gate=config.gate)
    recogniser.reject = rejected_below(model, recogniser, config)
    if config.codebook:
        hubert = encoder_file.load(config.codebook_model) if config.codebook_model else recogniser.model.hubert
        layer = None if config.layer == -1 else config.layer
        codebook = Codebook.read(config.codebook)
        if "encoder" not in codebook.record and not config.codebook_model:
            log.say_once(f"{config.codebook} does not say whose states it was fitted on: those of the recogniser's own "
                         "encoder are labelled; --codebook-model names another one")
        return Recogniser(recogniser.model, recogniser.device, UnitExtractor(hubert, codebook, layer), config.gate,
                          recogniser.reject)
    return recogniser


def rejected_below(model: str, recogniser: Recogniser, config: RecogniseRun) -> float:
    """The confidence below which answers are none. Raises ValueError for a rate of errors that cannot be reached."""
    calibration = recogniser.model.calibration
    if config.reject and not calibration.fitted_on:
        log.say_once(f"{shown(model)} is not calibrated: its confidences, which --reject goes by, may be far from the "
                     "share of right answers")
    if not config.reject_error:
        return config.reject
    try:
        threshold = calibration.threshold(config.reject_error)
    except ValueError as error:
        raise ValueError(f"{shown(model)}: --reject-error {config.reject_error:g}: {error}") from None
    answered, wrong = calibration.answers(threshold)
    log.say_once(f"--reject-error {config.reject_error:g}: answers of less confidence than {threshold:.4g} are none; "
                 f"of {len(calibration.right)} validation utterances {answered} had that much, and {wrong} of these a "
                 "wrong answer")
    return threshold


def recognised(recogniser: Recogniser, sounds: Iterable[str | ValueError], failed: list[str], config: RecogniseRun
               ) -> Iterator[tuple[str, Result]]:
    """Each sound and its result. What cannot be recognised gets a line on stderr and is added to `failed`."""
    def paths() -> Iterator[str]:
        for sound in sounds:
            if isinstance(sound, ValueError):
                fail(failed, sound)
            else:
                yield sound

    for path, result in recogniser.recognise_each(paths()):
        if isinstance(result, Exception):
            fail(failed, result, path)
        else:
            yield path, result


def centred_by_source(recogniser: Recogniser, sounds: Iterable[str | ValueError], failed: list[str],
                      config: RecogniseRun) -> Iterator[tuple[str, Result]]:
    """As `recognised`, after the last one: each less what the results of its source have in common (`--centre`)."""
    plain = list(recognised(recogniser, sounds, failed, config))
    sources: dict[str, list[int]] = {}
    for i, (path, _) in enumerate(plain):
        sources.setdefault(os.path.dirname(os.path.abspath(path)) if config.centre == "folder" else "", []).append(i)
    results: dict[int, Result] = {}
    for places in sources.values():
        results |= zip(places, centred([plain[i][1] for i in places], recogniser.reject))
    yield from ((path, results[i]) for i, (path, _) in enumerate(plain))


def recognised_turns(recogniser: Recogniser, sounds: Iterable[str | ValueError], failed: list[str],
                     config: RecogniseRun) -> Iterator[tuple[str, Conversation]]:
    """Each sound and its turns, by the file (or the folder of files) that `config.turns` names; else as `recognised`.

    Raises ValueError where a file of subtitles or a TextGrid, which do not name their sound, is given for several.
    """
    is_folder = os.path.isdir(config.turns)
    if not is_folder and not config.turns.lower().endswith(".rttm"):
        sounds = list(sounds)
        if len(sounds) > 1:
            raise ValueError(f"--turns {config.turns}: the turns of one sound, {len(sounds)} are named: give a folder "
                             "that has a file for each, or an RTTM")
    for sound in sounds:
        try:
            if isinstance(sound, ValueError):
                raise sound
            turns = speaker_turns.read(speaker_turns.beside(config.turns, sound) if is_folder else config.turns, sound)
            waveform = audio.load(sound)
            turns = speaker_turns.within(turns, len(waveform) / SAMPLE_RATE)
            yield sound, recognise_turns(recogniser, waveform, turns)
        except (ValueError, OSError) as error:
            fail(failed, error, "" if error is sound else sound)


def fail(failed: list[str], error: Exception, path: str = "") -> None:
    """Print a line on stderr that says what is wrong with a sound or its result, and add it to `failed`."""
    text = shown(error)
    failed.append(text if not path or shown(path) in text else f"{shown(path)}: {text}")
    terminal.put(f"error: {failed[-1]}\n", sys.stderr)


def name_for(path: str, suffix: str, names_in_use: set[str]) -> str:
    """A file name for a sound's result: the sound's own, with a number where another sound has it already.

    Names that differ in upper and lower case alone, or in how a letter is composed, are one on some disks.
    """
    stem, number = Path(path).stem, 1
    name = f"{stem}{suffix}"
    while unicodedata.normalize("NFC", name).casefold() in names_in_use:
        number += 1
        name = f"{stem}-{number}{suffix}"
    names_in_use.add(unicodedata.normalize("NFC", name).casefold())
    return name
