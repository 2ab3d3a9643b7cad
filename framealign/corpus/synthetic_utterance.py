"""Synthetic emotional speech: one utterance of a drawn speaker, planned and spoken, with its emotional stretches known.

Emotion acts only inside one or two stretches that cover 30 to 70 % of a non-neutral utterance, as a change relative to
the speaker's habits and to the rest of that utterance (`EMOTIONS`). Every utterance, neutral or not, also drifts as a
whole and emphasises words (`CONFUSERS`), so that no mean over the utterance gives the emotion away. The sound itself
comes from `synthetic_voice.py`.

What it leaves out: real phonotactics, meaning, and emotions acted in any other way than these.
"""
import dataclasses
from dataclasses import dataclass

import numpy as np

from framealign.runtime.seeds import derive_seed
from framealign.sound.frames import SAMPLE_RATE
from framealign.corpus.synthetic_voice import (HIGHER_FORMANTS, STEP, Segment, Tracks, amplitude, draw_syllable, pause,
                                               render, room_noise, smooth)


@dataclass(frozen=True)
class Emotion:
    """Change inside an emotional stretch, relative to the same speaker's neutral speech."""
    f0_semitones: float = 0.0                       # level
    f0_range: float = 1.0                           # factor on accents and declination
    f0_bounce_semitones: float = 0.0                # up and down from syllable to syllable
    energy_db: float = 0.0
    energy_bounce_db: float = 0.0                   # louder on the high syllables of the bounce
    tempo: float = 1.0                              # factor on syllables per second
    tilt_db_per_octave: float = 0.0                 # above 0: brighter
    jitter: float = 0.0                             # added, fraction of a period (standard deviation)
    shimmer: float = 0.0                            # added, fraction of a pulse's amplitude (standard deviation)
    breath_db: float = 0.0                          # of the noise in the voice, relative to the voice


EMOTIONS = {
    "neutral": Emotion(),
    "happy": Emotion(f0_semitones=8.0, f0_range=1.8, f0_bounce_semitones=2.5, energy_db=2.5, energy_bounce_db=1.5,
                     tempo=1.2, tilt_db_per_octave=4.0),
    "angry": Emotion(f0_semitones=2.0, f0_range=1.2, energy_db=3.0, tempo=1.25, tilt_db_per_octave=8.0,
                     jitter=0.12, shimmer=0.6),
    "sad": Emotion(f0_semitones=-4.0, f0_range=0.25, energy_db=-2.5, tempo=0.75, tilt_db_per_octave=-5.0,
                   breath_db=22.0),
}


@dataclass(frozen=True)
class Confusers:
    """What differs between utterances of one speaker without meaning anything; (low, high) is drawn uniformly."""
    f0_semitones: tuple[float, float] = (-3.0, 3.0)
    tempo: tuple[float, float] = (0.9, 1.12)
    tilt_db_per_octave: tuple[float, float] = (-0.8, 0.8)
    strength: tuple[float, float] = (0.9, 1.1)      # factor on all of an emotional utterance's changes
    emphasis_fraction: float = 0.10                 # of the words outside emotional stretches
    emphasis_semitones: tuple[float, float] = (2.0, 5.0)
    emphasis_db: tuple[float, float] = (2.0, 5.0)
    drift_db: tuple[float, float] = (-4.0, 4.0)     # of level in a stretch of any utterance: nearer to the microphone
    drift_tilt_db_per_octave: tuple[float, float] = (-1.0, 1.0)     # and of tilt there: the head turns
    snr_db: tuple[float, float] = (15.0, 35.0)
    level_db: tuple[float, float] = (-34.0, -20.0)  # root mean square of the recording, relative to full scale


CONFUSERS = Confusers()
COVERAGE = (0.30, 0.70)                             # of a non-neutral utterance's time that is emotional
STRETCH_SECONDS = 0.6                               # the shortest stretch, and the shortest gap between two
PHRASE_SECONDS = 0.5                                # no new word where less is left; words overshoot by half of it
SHORTEST_SECONDS = 1.5                              # planned for an utterance; with less, no stretch is sure to fit


@dataclass(frozen=True)
class Speaker:
    """One voice and its habits; every emotion is a change relative to them."""
    f0_hz: float
    formant_scale: float                            # of the vowel table: a shorter vocal tract is above 1
    accent_semitones: float                         # F0 rise on an accented syllable
    accent_db: float                                # energy rise there
    syllables_per_second: float
    tilt_db_per_octave: float
    jitter: float
    shimmer: float
    breath_db: float


def draw_speaker(seed: int, name: str) -> Speaker:
    """The speaker of that name (`Ses01F`; F is a woman) in the corpus of that seed."""
    rng = np.random.default_rng(derive_seed(seed, "speaker", name))
    woman = name.endswith("F")
    return Speaker(f0_hz=rng.uniform(180, 220) if woman else rng.uniform(100, 130),
                   formant_scale=rng.uniform(1.10, 1.25) if woman else rng.uniform(0.92, 1.05),
                   accent_semitones=rng.uniform(1.5, 3.0), accent_db=rng.uniform(1.0, 4.0),
                   syllables_per_second=rng.uniform(4.0, 5.5), tilt_db_per_octave=rng.uniform(-6.8, -5.2),
                   jitter=rng.uniform(0.004, 0.012), shimmer=rng.uniform(0.03, 0.08), breath_db=rng.uniform(-30, -25))


def synthesise(seed: int, speaker_name: str, utterance: str, emotion: str, mean_seconds: float,
               ) -> tuple[np.ndarray, np.ndarray]:
    """The recording of one utterance, (N,) in -1..1, and its emotional stretches (n, 2) in samples, end exclusive."""
    rng = np.random.default_rng(derive_seed(seed, "utterance", utterance))
    tracks, stretches = plan(draw_speaker(seed, speaker_name), emotion, mean_seconds, rng)
    speech = render(tracks, rng)
    room = room_noise(len(speech), rng)                                         # of unit power
    sound = speech + room * np.sqrt(np.mean(speech ** 2)) * amplitude(-rng.uniform(*CONFUSERS.snr_db))
    level = amplitude(rng.uniform(*CONFUSERS.level_db)) / np.sqrt(np.mean(sound ** 2))
    return sound * min(level, 0.95 / np.abs(sound).max()), stretches


def plan(speaker: Speaker, name: str, mean_seconds: float, rng: np.random.Generator) -> tuple[Tracks, np.ndarray]:
    """Draw one utterance with that emotion: its tracks and its emotional stretches, (n, 2) samples, end exclusive."""
    emotion = EMOTIONS[name]
    shift = rng.uniform(*CONFUSERS.f0_semitones)
    tempo = rng.uniform(*CONFUSERS.tempo)
    tilt = rng.uniform(*CONFUSERS.tilt_db_per_octave)
    strength = rng.uniform(*CONFUSERS.strength)
    seconds = max(SHORTEST_SECONDS, mean_seconds * np.clip(rng.lognormal(0, 0.25), 0.6, 1.6))

    # Y syllables and pauses, and which of them are emotional.
    syllables = _draw_syllables(speaker, seconds * (1 + emotion.tempo) / 2, rng)        # half at the emotion's tempo
    plain_seconds = np.array([syllable.seconds for syllable in syllables]) / tempo      # (Y,)
    is_emotional = np.zeros(len(syllables), bool)
    if name != "neutral":
        is_emotional = choose_stretches(plain_seconds, emotion.tempo, rng)
    factor = np.array([syllable.seconds_factor for syllable in syllables]) / tempo \
        / np.where(is_emotional, emotion.tempo, 1.0)
    segments, syllable_of, edges = timeline(syllables, factor)                          # C steps, (C,), (Y + 1,)

    centres = (edges[1:] + edges[:-1]) / 2
    steps = np.arange(len(syllable_of)) + 0.5

    def contour(values: np.ndarray | list[float]) -> np.ndarray:
        """One value for each syllable (Y,) -> a smooth course over the steps (C,)."""
        return smooth(np.interp(steps, centres, values), 0.06)

    # What the emotion changes (`weight`, 0 outside its stretches), and what changes without one.
    weight = strength * smooth(is_emotional[syllable_of].astype(float), 0.05)           # (C,)
    emphasis = np.array([syllable.emphasis for syllable in syllables]) * ~is_emotional[:, None]     # (Y, 2)
    alternating = np.where(np.arange(len(syllables)) % 2, 1.0, -1.0)
    bounce = contour(alternating * rng.uniform(0.6, 1.4, len(syllables)))               # (C,)
    drifting = choose_stretches(plain_seconds, 1.0, rng)                                # in any utterance
    drift = smooth(drifting[syllable_of].astype(float), 0.1)                            # (C,) 0 outside
    drift_db = rng.uniform(*CONFUSERS.drift_db)
    drift_tilt = rng.uniform(*CONFUSERS.drift_tilt_db_per_octave)

    melody = contour([syllable.semitones for syllable in syllables])                    # (C,) of the speaker
    loudness = contour([syllable.db for syllable in syllables])
    semitones = shift + melody * (1 + weight * (emotion.f0_range - 1)) + contour(emphasis[:, 0]) \
        + weight * (emotion.f0_semitones + emotion.f0_bounce_semitones * bounce)
    energy = amplitude(loudness + contour(emphasis[:, 1]) + drift * drift_db
                       + weight * (emotion.energy_db + emotion.energy_bounce_db * bounce))
    pulses = energy * smooth(amplitude(segments.voice_db), 0.02)
    tracks = Tracks(
        f0_hz=np.clip(speaker.f0_hz * 2 ** (semitones / 12), 60, 500),
        voice=pulses,
        breath=pulses * amplitude(speaker.breath_db + weight * emotion.breath_db),
        noise=energy * smooth(amplitude(segments.noise_db), 0.01),
        noise_hz=segments.noise_hz,
        noise_width_hz=segments.noise_width_hz,
        formants_hz=smooth(segments.formants_hz, 0.05) * speaker.formant_scale,
        higher_formants_hz=np.array(HIGHER_FORMANTS) * speaker.formant_scale,
        tilt_db_per_octave=speaker.tilt_db_per_octave + tilt + drift * drift_tilt + weight * emotion.tilt_db_per_octave,
        jitter=speaker.jitter + weight * emotion.jitter,
        shimmer=speaker.shimmer + weight * emotion.shimmer)

    changes = np.flatnonzero(np.diff(is_emotional.astype(int), prepend=0, append=0))
    stretches = changes.reshape(-1, 2)                                                  # (n, 2) syllables
    return tracks, edges[stretches] * STEP


@dataclass
class Syllable:
    """A syllable or a pause as planned: its segments, and what its speaker does on it outside any emotion."""
    segments: tuple[Segment, ...]
    semitones: float = 0.0                          # declination and accent
    db: float = 0.0
    emphasis: tuple[float, float] = (0.0, 0.0)      # semitones, dB: only outside emotional stretches
    seconds_factor: float = 1.0

    @property
    def seconds(self) -> float:
        return sum(segment.seconds for segment in self.segments) * self.seconds_factor


def _draw_syllables(speaker: Speaker, seconds: float, rng: np.random.Generator) -> list[Syllable]:
    """Phrases of two to five words of one to three syllables, with pauses, until `seconds` are filled."""
    syllables, filled = [Syllable(pause(rng.uniform(0.08, 0.2)))], 0.15
    while filled < seconds - PHRASE_SECONDS:
        phrase: list[Syllable] = []
        for _ in range(rng.integers(2, 6)):
            word = _draw_word(speaker, rng)
            phrase += word
            for syllable in word:
                filled += syllable.seconds
            if filled >= seconds - PHRASE_SECONDS:
                break
        for syllable, fall in zip(phrase, np.linspace(1.5, -1.5, len(phrase))):
            syllable.semitones += fall              # declination over the phrase
        phrase[-1].seconds_factor = 1.2             # final lengthening
        rest = Syllable(pause(rng.uniform(0.1, 0.25)))
        filled += rest.seconds
        syllables += [*phrase, rest]
    return syllables


def _draw_word(speaker: Speaker, rng: np.random.Generator) -> list[Syllable]:
    """One to three syllables, one of them accented; some words are emphasised as a whole."""
    length = rng.integers(1, 4)
    is_emphasised = rng.random() < CONFUSERS.emphasis_fraction
    accent = rng.integers(length)
    strength = rng.uniform(0.5, 1.3)
    emphasis = (rng.uniform(*CONFUSERS.emphasis_semitones), rng.uniform(*CONFUSERS.emphasis_db))
    word = []
    for number in range(length):
        is_accented = number == accent
        rise = strength if is_accented else 0.0
        seconds = (1.15 if is_accented else 0.95) / speaker.syllables_per_second * rng.lognormal(0, 0.15)
        segments = draw_syllable(seconds, rng)
        db = speaker.accent_db * rise + rng.normal(0, 1.0)
        word.append(Syllable(segments, speaker.accent_semitones * rise, db, emphasis if is_emphasised else (0.0, 0.0)))
    return word


def choose_stretches(seconds: np.ndarray, tempo: float, rng: np.random.Generator) -> np.ndarray:
    """Which syllables are emotional: one or two runs covering `COVERAGE` of the time. seconds (Y,): (Y,) bool.

    tempo: by what syllables inside are faster. Candidates are drawn at random; the first without fault wins, or else
    the one with the least.
    """
    count = 2 if seconds.sum() > 5 * STRETCH_SECONDS and rng.random() < 0.5 else 1
    edges = np.sort(rng.integers(1, len(seconds), (400, 2 * count)), axis=1)            # (candidates, 2 count)
    index = np.arange(len(seconds))
    inside = ((index >= edges[:, ::2, None]) & (index < edges[:, 1::2, None])).any(1)   # (candidates, Y)
    time = np.where(inside, seconds / tempo, seconds)
    clock = np.pad(np.cumsum(time, 1), ((0, 0), (1, 0)))
    coverage = (time * inside).sum(1) / time.sum(1)
    parts = np.diff(np.take_along_axis(clock, edges, 1), axis=1)                        # stretch, gap, stretch
    low, high = COVERAGE[0] + 0.02, COVERAGE[1] - 0.02
    fault = 10 * (np.maximum(low - coverage, 0) + np.maximum(coverage - high, 0)) \
        + np.maximum(STRETCH_SECONDS - parts, 0).sum(1)
    return inside[np.argmin(fault)]


@dataclass
class SegmentTracks:
    """What the segments ask for in each of C steps: arrays (C,), but for the formants (C, 4)."""
    formants_hz: np.ndarray
    voice_db: np.ndarray
    noise_db: np.ndarray
    noise_hz: np.ndarray
    noise_width_hz: np.ndarray


def timeline(syllables: list[Syllable], factor: np.ndarray) -> tuple[SegmentTracks, np.ndarray, np.ndarray]:
    """Lay the syllables' segments out in C steps, each segment stretched by its syllable's `factor` (Y,).

    Returns what the segments ask for, each step's syllable (C,) int, and the syllables' edges (Y + 1,) in steps.
    """
    segments = [segment for syllable in syllables for segment in syllable.segments]
    syllable_of = np.repeat(np.arange(len(syllables)), [len(syllable.segments) for syllable in syllables])
    seconds = np.array([segment.seconds for segment in segments])
    ends = np.round(np.cumsum(seconds * factor[syllable_of]) * SAMPLE_RATE / STEP).astype(int)      # (segments,)
    edges = np.append(0, ends[np.flatnonzero(np.diff(syllable_of, append=len(syllables)))])
    segment_of = np.repeat(np.arange(len(segments)), np.diff(ends, prepend=0))                      # (C,)

    def over_steps(name: str) -> np.ndarray:
        return np.array([getattr(segment, name) for segment in segments], dtype=float)[segment_of]

    tracks = SegmentTracks(*(over_steps(field.name) for field in dataclasses.fields(SegmentTracks)))
    return tracks, syllable_of[segment_of], edges
