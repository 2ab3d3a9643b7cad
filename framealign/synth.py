"""A synthetic emotional speech corpus, written as an IEMOCAP tree, with the emotional frames known.

Source-filter synthesis (Fant 1960; cascade formants as Klatt 1980): glottal pulses and noise, whitened, pass through
four gliding formants, a spectral tilt and a room of noise. Emotion acts only inside one or two stretches that cover
30 to 70 % of a non-neutral utterance, as a change relative to the speaker's habits and to the rest of that utterance
(`EMOTIONS`); every utterance, neutral or not, also drifts as a whole and emphasises words (`CONFUSERS`), so that no
mean over the utterance tells the emotion. Which frames are emotional is written beside each utterance.

What it leaves out: real phonotactics, meaning, overlapping speech, and emotions acted in any other way than these.
"""
import dataclasses
import functools
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from framealign import files, frames, log
from framealign.config import derive_seed

STEP = 80                                           # samples, 5 ms: speech is planned in steps
WINDOW, FFT_SIZE = 2 * STEP, 6 * STEP               # samples: 10 ms of source, 20 ms more of ringing


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
    "happy": Emotion(f0_semitones=2.5, f0_range=1.8, f0_bounce_semitones=4.0, energy_db=2.0, energy_bounce_db=3.0,
                     tempo=1.15, tilt_db_per_octave=1.0),
    "angry": Emotion(f0_semitones=1.5, f0_range=1.2, energy_db=5.0, tempo=1.2, tilt_db_per_octave=3.5,
                     jitter=0.04, shimmer=0.25),
    "sad": Emotion(f0_semitones=-2.5, f0_range=0.25, energy_db=-5.0, tempo=0.75, tilt_db_per_octave=-3.0,
                   breath_db=12.0),
}


@dataclass(frozen=True)
class Confusers:
    """What differs between utterances of one speaker without meaning anything; (low, high) is drawn uniformly."""
    f0_semitones: tuple[float, float] = (-3.0, 3.0)
    tempo: tuple[float, float] = (0.85, 1.18)
    tilt_db_per_octave: tuple[float, float] = (-1.5, 1.5)
    strength: tuple[float, float] = (0.85, 1.15)    # factor on all of an emotional utterance's changes
    emphasis_fraction: float = 0.15                 # of the words outside emotional stretches
    emphasis_semitones: tuple[float, float] = (2.0, 5.0)
    emphasis_db: tuple[float, float] = (2.0, 5.0)
    snr_db: tuple[float, float] = (15.0, 35.0)
    level_db: tuple[float, float] = (-34.0, -20.0)  # root mean square of the recording, relative to full scale


CONFUSERS = Confusers()
COVERAGE = (0.30, 0.70)                             # of a non-neutral utterance's time that is emotional
STRETCH_SECONDS = 0.6                               # the shortest stretch, and the shortest gap between two

LABELS = {                                          # IEMOCAP label: emotion, evaluators' word, valence etc. (1 to 5)
    "neu": ("neutral", "Neutral", (3.0, 2.5, 3.0)), "ang": ("angry", "Anger", (1.5, 4.0, 4.0)),
    "sad": ("sad", "Sadness", (2.0, 2.0, 2.0)), "hap": ("happy", "Happiness", (4.0, 3.0, 3.0)),
    "exc": ("happy", "Excited", (4.0, 4.0, 3.5)), "fru": ("neutral", "Frustration", (2.0, 3.0, 3.0)),
    "sur": ("neutral", "Surprise", (3.0, 3.5, 3.0)), "xxx": ("neutral", "Other", (2.5, 3.0, 3.0)),
}
LABEL_CYCLE = ("neu", "ang", "sad", "hap", "neu", "ang", "sad", "exc")      # four balanced classes
OTHER_LABELS = ("fru", "xxx", "sur")                # importers leave them out; spoken neutrally
OTHER_EVERY = 12                                    # one such utterance more for so many
DIALOGUE_UTTERANCES = 12                            # of each speaker

VOWELS = (                                          # F1 to F4 in Hz, men (Peterson and Barney 1952; F4 is ours)
    (270, 2290, 3010, 3600), (390, 1990, 2550, 3500), (530, 1840, 2480, 3500), (660, 1720, 2410, 3500),
    (730, 1090, 2440, 3400), (570, 840, 2410, 3400), (440, 1020, 2240, 3300), (300, 870, 2240, 3300),
    (640, 1190, 2390, 3400), (490, 1350, 1690, 3200),
)
BANDWIDTHS = (80.0, 100.0, 150.0, 220.0)            # Hz, of F1 to F4
HIGHER_FORMANTS = (4500.0, 5500.0, 6500.0, 7500.0)  # Hz, fixed; bandwidth 400 Hz

OFF = -90.0                                         # dB: silent
# A consonant is one or two segments: (seconds, formants or None for the vowel's, voice dB, noise dB, noise Hz, width Hz)
Segment = tuple[float, tuple[float, ...] | None, float, float, float, float]
LABIAL, ALVEOLAR, VELAR = (300, 900, 2200, 3300), (320, 1700, 2600, 3500), (300, 2000, 2400, 3400)
CONSONANTS: tuple[tuple[Segment, ...], ...] = (
    ((0.07, (260, 1000, 2200, 3300), -10.0, OFF, 1000.0, 500.0),),                                      # m
    ((0.07, (260, 1600, 2500, 3400), -10.0, OFF, 1000.0, 500.0),),                                      # n
    ((0.06, (360, 1200, 2700, 3500), -6.0, OFF, 1000.0, 500.0),),                                       # l
    ((0.06, (350, 1200, 1600, 3200), -6.0, OFF, 1000.0, 500.0),),                                       # r
    ((0.06, (300, 700, 2200, 3300), -6.0, OFF, 1000.0, 500.0),),                                        # w
    ((0.10, ALVEOLAR, OFF, -4.0, 6000.0, 1200.0),),                                                     # s
    ((0.10, (320, 1800, 2500, 3500), OFF, -2.0, 3200.0, 900.0),),                                       # sh
    ((0.09, LABIAL, OFF, -14.0, 5000.0, 4000.0),),                                                      # f
    ((0.07, ALVEOLAR, -10.0, -10.0, 6000.0, 1200.0),),                                                  # z
    ((0.06, LABIAL, -8.0, -20.0, 5000.0, 4000.0),),                                                     # v
    ((0.06, None, OFF, -12.0, 1500.0, 1500.0),),                                                        # h
    ((0.05, LABIAL, OFF, OFF, 1000.0, 1000.0), (0.015, LABIAL, OFF, -4.0, 1000.0, 1000.0)),             # p
    ((0.05, ALVEOLAR, OFF, OFF, 4500.0, 1500.0), (0.020, ALVEOLAR, OFF, 0.0, 4500.0, 1500.0)),          # t
    ((0.05, VELAR, OFF, OFF, 2200.0, 600.0), (0.025, VELAR, OFF, -2.0, 2200.0, 600.0)),                 # k
    ((0.05, LABIAL, -18.0, OFF, 1000.0, 1000.0), (0.010, LABIAL, -8.0, -8.0, 1000.0, 1000.0)),          # b
    ((0.05, ALVEOLAR, -18.0, OFF, 4000.0, 1500.0), (0.010, ALVEOLAR, -8.0, -6.0, 4000.0, 1500.0)),      # d
)
