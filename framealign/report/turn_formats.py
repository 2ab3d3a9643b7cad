"""The emotion of each turn as files: a table, JSON, JSON lines, CSV, Praat TextGrid, RTTM, Audacity labels, subtitles.

Each writer gives the text of one sound out of its path and its conversation. Turns may overlap; between them there may
be nothing.
"""
import json
from collections.abc import Iterable
from dataclasses import asdict
from html import escape
from pathlib import Path

from framealign.corpus.utterance import NONE
from framealign.emotion.turns import Conversation, RecognisedTurn
from framealign.report import text_formats
from framealign.report.text_formats import Format, arrowless, clock, json_opening, shown, spoken, word

MICROSECOND = 1e-6                                  # the precision of a TextGrid's times


def table(path: object, conversation: Conversation) -> str:
    """A line for each turn: path, start, end, speaker, emotion, each class's probability, why there is no emotion."""
    lines = []
    for turn in conversation.turns:
        shares = "  ".join(f"{label} {share:.2f}" for label, share in turn.probabilities.items())
        cells = [shown(path), f"{turn.start:.2f}", f"{turn.end:.2f}", shown(turn.speaker), turn.emotion, shares]
        lines.append("\t".join(cells + ([turn.reason] if turn.reason else [])) + "\n")
    return "".join(lines)


def csv_rows(path: object, conversation: Conversation) -> str:
    """A row for each turn; of one that could not be recognised the probabilities are empty."""
    rows = []
    for turn in conversation.turns:
        shares = [f"{turn.probabilities[label]:.6f}" if turn.probabilities else "" for label in conversation.labels]
        rows.append([shown(path), f"{turn.start:.3f}", f"{turn.end:.3f}", shown(turn.speaker), turn.emotion,
                     turn.reason, *shares])
    return text_formats.csv_text(rows)


def csv_header(labels: list[str], timeline: bool) -> str:
    """The names of the columns."""
    return text_formats.csv_text([["path", "start", "end", "speaker", "emotion", "reason", *labels]])


def json_text(path: object, conversation: Conversation) -> str:
    """One JSON object: the path, the seconds of sound, and the list of turns."""
    listed = [asdict(turn) | {"start": round(turn.start, 6), "end": round(turn.end, 6)}
              for turn in conversation.turns]
    return json.dumps({"path": shown(path), "seconds": conversation.seconds, "turns": listed}, ensure_ascii=False)


def json_line(path: object, conversation: Conversation) -> str:
    """One JSON object and the end of its line."""
    return json_text(path, conversation) + "\n"


def rttm(path: object, conversation: Conversation) -> str:
    """NIST's lines: the speaker in the field of speakers, the emotion in that of the type before it."""
    name = word(Path(str(path)).stem)
    return "".join(f"SPEAKER {name} 1 {turn.start:.3f} {turn.end - turn.start:.3f} <NA> {word(turn.emotion)} "
                   f"{word(turn.speaker) or '<NA>'} {certainty(turn)} <NA>\n" for turn in conversation.turns)


def certainty(turn: RecognisedTurn) -> str:
    """The confidence as RTTM has it."""
    return "<NA>" if turn.emotion == NONE else f"{turn.confidence:.3f}"


def audacity(path: object, conversation: Conversation) -> str:
    """An Audacity label track: start, end and what a turn says, separated by tabs."""
    return "".join(f"{turn.start:.6f}\t{turn.end:.6f}\t{spoken_turn(turn)}\n" for turn in conversation.turns)


def spoken_turn(turn: RecognisedTurn) -> str:
    """Speaker, emotion and confidence: Anna: angry 0.87."""
    return f"{shown(turn.speaker)}: {spoken(turn)}" if turn.speaker else spoken(turn)


def srt(path: object, conversation: Conversation) -> str:
    """SubRip subtitles, a numbered cue for each turn."""
    return "\n".join(f"{number}\n{clock(turn.start, ',')} --> {clock(turn.end, ',')}\n{arrowless(spoken_turn(turn))}\n"
                     for number, turn in enumerate(conversation.turns, 1))


def webvtt(path: object, conversation: Conversation) -> str:
    """WebVTT subtitles, a cue for each turn, its speaker as a voice tag."""
    cues = []
    for turn in conversation.turns:
        speaker = escape(arrowless(shown(turn.speaker)), quote=False)
        voice = f"<v {speaker}>" if speaker else ""
        cues.append(f"{clock(turn.start, '.')} --> {clock(turn.end, '.')}\n{voice}"
                    f"{escape(arrowless(spoken(turn)), quote=False)}\n")
    return "WEBVTT\n\n" + "\n".join(cues)


def textgrid(path: object, conversation: Conversation) -> str:
    """A Praat TextGrid: a tier for each speaker, with the emotion and its confidence; what is no turn is empty."""
    end, tiers = conversation.seconds, {}
    for name, own in by_speaker(conversation.turns).items():
        tiers[name], now = [], 0.0
        for turn in own:
            if turn.start > now + MICROSECOND:
                tiers[name].append((now, turn.start, ""))
            tiers[name].append((turn.start, turn.end, spoken(turn)))
            now = turn.end
        if now + MICROSECOND < end:
            tiers[name].append((now, end, ""))
    return text_formats.textgrid_text(tiers, end)


def by_speaker(turns: Iterable[RecognisedTurn]) -> dict[str, list[RecognisedTurn]]:
    """The turns of each speaker, in the order in which they begin; none of a list overlap.

    A turn that begins before the same speaker's last one has ended stands under `name (2)`.
    """
    listed: dict[str, list[RecognisedTurn]] = {}
    for turn in turns:
        number, name = 1, turn.speaker or "turns"
        while name in listed and listed[name][-1].end > turn.start:
            number += 1
            name = f"{turn.speaker or 'turns'} ({number})"
        listed.setdefault(name, []).append(turn)
    return listed


TURN_FORMATS = {
    "table": Format(".txt", table), "json": Format(".json", json_text, json_opening, ",\n", "\n]\n"),
    "jsonl": Format(".jsonl", json_line), "csv": Format(".csv", csv_rows, csv_header),
    "textgrid": Format(".TextGrid", textgrid, single=True), "rttm": Format(".rttm", rttm),
    "audacity": Format(".txt", audacity, single=True), "srt": Format(".srt", srt, single=True),
    "vtt": Format(".vtt", webvtt, single=True)}
