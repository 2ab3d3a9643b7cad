"""Joined utterances: an emotional one among neutral ones of the same speaker, so that every frame's emotion is known.

From a corpus whose labels belong to whole utterances, a test set for the emotion over time: each emotional utterance
once, before, after or between neutral ones, or alone. All parts are brought to one level, and what is silent at their
ends is cut, so that neither loudness nor a pause gives the seam away. Wang, Ravanelli and Yacoubi 2023 join
alike; unlike there, no speaker is in two sessions and nothing is thrown away by a voice activity detector.
"""
import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from framealign.runtime import log
from framealign.runtime.seeds import derive_seed
from framealign.sound import audio
from framealign.sound.frames import HOP, RECEPTIVE_FIELD, SAMPLE_RATE
from framealign.corpus import frame_truth
from framealign.corpus.utterance import NEUTRAL, Utterance, class_of

EMOTIONAL = "emotional"
PATTERNS = ((NEUTRAL, EMOTIONAL), (EMOTIONAL, NEUTRAL), (NEUTRAL, EMOTIONAL, NEUTRAL), (EMOTIONAL,))
SILENT_DECIBELS = 40                                # so far below the 95th percentile of an utterance's levels
SHORTEST_SECONDS = 0.2                              # of a part, without the silence at its ends
MAX_NAMED = 5                                       # of those too short


@dataclass(frozen=True)
class Joined:
    """What is put together: utterances in their order, one of them emotional."""
    parts: tuple[Utterance, ...]
    emotional: Utterance

    @property
    def pattern(self) -> str:
        """The order in words: neutral-emotional."""
        return "-".join(EMOTIONAL if part is self.emotional else NEUTRAL for part in self.parts)


def draw(utterances: Sequence[Utterance], seed: int, one_speaker: bool = False) -> list[Joined]:
    """What is joined of a labelled corpus, in its order: each emotional utterance once, its pattern and company drawn.

    Neutral are those whose label is a spelling of it, emotional those with another label. Company are neutral
    utterances of the same speaker. Of a speaker who has none, or is not known, it is that of others of the same session
    (and gender, where there are), said so, or refused with `one_speaker`. Nobody has company of another corpus, or of
    another part of a fixed split. The draws depend on the seed and the utterance alone. Raises ValueError for a corpus
    without neutral or without emotional utterances, and for a session without neutral ones.
    """
    neutral = [utterance for utterance in utterances if class_of(utterance.label) == NEUTRAL]
    emotional = [utterance for utterance in utterances if utterance.label and class_of(utterance.label) != NEUTRAL]
    for name, those in ((NEUTRAL, neutral), (EMOTIONAL, emotional)):
        if not those:
            raise ValueError(f"no {name} utterance to join: a class named {NEUTRAL} and others are needed")

    of_speaker, of_session = defaultdict(list), defaultdict(list)
    for utterance in neutral:
        of_session[utterance.corpus, utterance.session, utterance.split].append(utterance)
        if utterance.speaker:
            of_speaker[utterance.corpus, utterance.speaker, utterance.split].append(utterance)

    joined, borrowed = [], {}
    for utterance in emotional:
        company = of_speaker.get((utterance.corpus, utterance.speaker, utterance.split))
        if not company:
            in_session = of_session.get((utterance.corpus, utterance.session, utterance.split), [])
            company = [other for other in in_session if other.gender == utterance.gender] or in_session
            if one_speaker or not company:
                remedy = ", or take those of others of the session with --no-one-speaker" if company else ""
                raise ValueError(f"speaker {utterance.speaker or '(unknown)'} of session "
                                 f"{utterance.session or '(none)'} has no neutral utterance to join with; leave the "
                                 f"speaker out{remedy}")
            borrowed[utterance.speaker] = company[0].speaker or f"session {utterance.session or '(none)'}"
        rng = np.random.default_rng(derive_seed(seed, "join", utterance.id))
        pattern = PATTERNS[rng.integers(len(PATTERNS))]
        others = iter(rng.choice(len(company), len(pattern), replace=len(company) < len(pattern)).tolist())
        parts = tuple(utterance if name == EMOTIONAL else company[next(others)] for name in pattern)
        joined.append(Joined(parts, utterance))
    for speaker, other in borrowed.items():
        log.say_once(f"speaker {speaker or '(unknown)'} has no neutral utterance: joined with those of {other}")
    return joined


def render(joined: Joined) -> tuple[np.ndarray, list[tuple[int, int, str]]]:
    """The sound, (N,) float32 at 16 kHz, and its emotional stretch as a row of `frame_truth`.

    Every part has a whole number of hops, so that seams lie between frames. Raises ValueError as `audio.load`, and for
    a part that is shorter than 0.2 s without the silence at its ends.
    """
    pieces, rows, end = [], [], 0
    for part in joined.parts:
        waveform = audio.load(part.path).numpy()
        first, last = audible(waveform)
        if not is_long_enough(first, last):
            raise ValueError(f"{part.path}: {HOP * (last - first) / SAMPLE_RATE:.2f} s without the silence at its ends,"
                             f" must be >= {SHORTEST_SECONDS} s to be joined; leave it out")
        piece = waveform[HOP * first:HOP * last].astype(np.float64)
        loudness = np.sqrt(np.mean(piece ** 2))
        if not pieces:
            level = loudness
        pieces.append(piece * level / loudness)
        if part is joined.emotional:
            rows.append((end, end + last - first, part.label))
        end += last - first
    # The conv encoder's frames are longer than a hop: with the rest there is one for every hop.
    sound = np.pad(np.concatenate(pieces), (0, RECEPTIVE_FIELD - HOP))
    return (sound * min(1.0, 0.99 / np.abs(sound).max())).astype(np.float32), rows


def audible(waveform: np.ndarray, hop: int = HOP) -> tuple[int, int]:
    """The hops [first, end) of a waveform (N,) that are left when silence at both ends is cut: at least one.

    A hop, by default of 20 ms, is silent where its level lies 40 dB below the 95th percentile of all.
    """
    hops = waveform[:len(waveform) // hop * hop].reshape(-1, hop).astype(np.float64)
    level = 10 * np.log10(np.square(hops).mean(1) + 1e-12)                      # (T,) decibels
    loud = np.flatnonzero(level >= np.percentile(level, 95) - SILENT_DECIBELS)
    return int(loud[0]), int(loud[-1]) + 1


def is_long_enough(first: int, end: int) -> bool:
    """Whether the hops [first, end) that are left of an utterance are at least 0.2 s."""
    return HOP * (end - first) >= SHORTEST_SECONDS * SAMPLE_RATE


def long_enough(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Those that are long enough to be joined, without the silence at their ends; a note names the others.

    Raises ValueError as `audio.load`.
    """
    usable, short = [], []
    for utterance in log.progress(utterances, len(utterances), "reading", "utterances"):
        is_usable = is_long_enough(*audible(audio.load(utterance.path).numpy()))
        (usable if is_usable else short).append(utterance)
    if short:
        names = ", ".join(utterance.id for utterance in short[:MAX_NAMED])
        log.say_once(f"left out, shorter than {SHORTEST_SECONDS} s without the silence at their ends: {len(short)} of "
                     f"{len(utterances)} utterances ({names}{', ...' if len(short) > MAX_NAMED else ''})")
    return usable


def write_corpus(folder: str | Path, utterances: Sequence[Utterance], seed: int = 0, one_speaker: bool = False
                 ) -> list[Utterance]:
    """Join a corpus into sound files (16 bits, FLAC) in `folder`, the truth beside each; returns their utterances.

    An utterance keeps speaker, session, gender, label, split and corpus of the emotional one; its style is the pattern.
    Those that are too short are left out, and said so. The folder appears whole or not at all. Raises ValueError as
    `draw` and `render`, and where it holds something already.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: already there and not empty; name another folder or remove it")
    draw(utterances, seed, one_speaker)             # errors first
    plan, written = draw(long_enough([u for u in utterances if u.label]), seed, one_speaker), []
    whole = folder.resolve()
    temporary = whole.with_name(f".{whole.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        for joined in log.progress(plan, len(plan), "joining", "utterances"):
            sound, rows = render(joined)
            source = joined.emotional
            name = f"{source.id}.flac"
            samples = np.round(sound * 2 ** 15).astype(np.int16)
            soundfile.write(temporary / name, samples, SAMPLE_RATE, subtype="PCM_16")
            frame_truth.write(temporary / name, rows)
            written.append(Utterance(source.id, whole / name, len(sound), source.session, source.speaker,
                                     source.gender, source.label, joined.pattern, split=source.split,
                                     corpus=source.corpus))
        os.replace(temporary, whole)                # an empty folder of that name gives way
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return written
