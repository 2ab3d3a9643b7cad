"""A synthetic emotional speech corpus, written as an IEMOCAP tree, with the emotional frames known.

Emotion acts only inside one or two stretches that cover 30 to 70 % of a non-neutral utterance, as a change relative to
the speaker's habits and to the rest of that utterance (`EMOTIONS`). Every utterance, neutral or not, also drifts as a
whole and emphasises words (`CONFUSERS`), so that no mean over the utterance gives the emotion away. Which frames are
emotional is written beside each utterance. The sound itself is made by `voice.py`.

What it leaves out: real phonotactics, meaning, overlapping speech, and emotions acted in any other way than these.
"""
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from framealign.runtime import log
from framealign.runtime.seeds import derive_seed
from framealign.sound import frames
from framealign.corpus import synthetic_voice


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
TRUTH_SUFFIX = ".emotional.tsv"                     # rows first_frame<TAB>end_frame<TAB>emotion; empty: neutral


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


@dataclass
class Unit:
    """A syllable or a pause as planned: its segments, and what its speaker does on it outside any emotion."""
    segments: tuple[synthetic_voice.Segment, ...]
    semitones: float = 0.0                          # declination and accent
    db: float = 0.0
    emphasis: tuple[float, float] = (0.0, 0.0)      # semitones, dB: only outside emotional stretches
    seconds_factor: float = 1.0

    @property
    def seconds(self) -> float:
        return sum(segment[0] for segment in self.segments) * self.seconds_factor


def _draw_units(speaker: Speaker, seconds: float, rng: np.random.Generator) -> list[Unit]:
    """Phrases of two to five words of one to three syllables, with pauses, until `seconds` are filled."""
    units, filled = [Unit(synthetic_voice.pause(rng.uniform(0.08, 0.2)))], 0.15
    while filled < seconds - PHRASE_SECONDS:
        phrase = []
        for _ in range(rng.integers(2, 6)):
            syllables, emphasised = rng.integers(1, 4), rng.random() < CONFUSERS.emphasis_fraction
            accent, strength = rng.integers(syllables), rng.uniform(0.5, 1.3)
            emphasis = (rng.uniform(*CONFUSERS.emphasis_semitones), rng.uniform(*CONFUSERS.emphasis_db))
            for i in range(syllables):
                rise = strength if i == accent else 0.0
                long = (1.15 if i == accent else 0.95) / speaker.syllables_per_second * rng.lognormal(0, 0.15)
                phrase.append(Unit(synthetic_voice.draw_syllable(long, rng), speaker.accent_semitones * rise,
                                   speaker.accent_db * rise + rng.normal(0, 1.0),
                                   emphasis if emphasised else (0.0, 0.0)))
                filled += phrase[-1].seconds
            if filled >= seconds - PHRASE_SECONDS:
                break
        for unit, fall in zip(phrase, np.linspace(1.5, -1.5, len(phrase))):
            unit.semitones += fall                  # declination over the phrase
        phrase[-1].seconds_factor = 1.2             # final lengthening
        units += phrase + [Unit(synthetic_voice.pause(rng.uniform(0.1, 0.25)))]
        filled += units[-1].seconds
    return units


def _choose_stretches(seconds: np.ndarray, tempo: float, rng: np.random.Generator) -> np.ndarray:
    """Which units are emotional: one or two runs covering `COVERAGE` of the time. seconds (U,): (U,) bool.

    Candidates are drawn at random; the first without fault wins, or else the one with the least.
    """
    count = 2 if seconds.sum() > 5 * STRETCH_SECONDS and rng.random() < 0.5 else 1
    edges = np.sort(rng.integers(1, len(seconds), (400, 2 * count)), axis=1)            # (candidates, 2 count)
    index = np.arange(len(seconds))
    inside = ((index >= edges[:, ::2, None]) & (index < edges[:, 1::2, None])).any(1)   # (candidates, U)
    time = np.where(inside, seconds / tempo, seconds)
    clock = np.pad(np.cumsum(time, 1), ((0, 0), (1, 0)))
    coverage = (time * inside).sum(1) / time.sum(1)
    parts = np.diff(np.take_along_axis(clock, edges, 1), axis=1)                        # stretch, gap, stretch
    low, high = COVERAGE[0] + 0.02, COVERAGE[1] - 0.02
    fault = 10 * (np.maximum(low - coverage, 0) + np.maximum(coverage - high, 0)) \
        + np.maximum(STRETCH_SECONDS - parts, 0).sum(1)
    return inside[np.argmin(fault)]


def _timeline(units: list[Unit], factor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay the units' segments out in steps, each stretched by its unit's `factor` (U,).

    Returns for each of C steps its segment's nine numbers (C, 9) and its unit (C,), and the units' edges (U + 1,).
    """
    rows = np.array([(segment[0], *segment[1], *segment[2:]) for unit in units for segment in unit.segments])
    unit_of = np.repeat(np.arange(len(units)), [len(unit.segments) for unit in units])              # (segments,)
    ends = np.round(np.cumsum(rows[:, 0] * factor[unit_of]) * frames.SAMPLE_RATE / synthetic_voice.STEP).astype(int)
    steps = np.repeat(np.arange(len(rows)), np.diff(ends, prepend=0))                               # (C,) segments
    edges = np.append(0, ends[np.flatnonzero(np.diff(unit_of, append=len(units)))])
    return rows[steps], unit_of[steps], edges


def plan(speaker: Speaker, name: str, mean_seconds: float, rng: np.random.Generator) -> tuple[synthetic_voice.Tracks, np.ndarray]:
    """Draw one utterance with that emotion: its tracks and its emotional stretches, (n, 2) samples, end exclusive."""
    emotion = EMOTIONS[name]
    shift, tempo, tilt, strength = (rng.uniform(*limits) for limits in (
        CONFUSERS.f0_semitones, CONFUSERS.tempo, CONFUSERS.tilt_db_per_octave, CONFUSERS.strength))
    seconds = max(SHORTEST_SECONDS, mean_seconds * np.clip(rng.lognormal(0, 0.25), 0.6, 1.6))
    units = _draw_units(speaker, seconds * (1 + emotion.tempo) / 2, rng)        # about half at the emotion's tempo
    is_emotional = np.zeros(len(units), bool)
    if name != "neutral":
        is_emotional = _choose_stretches(np.array([unit.seconds for unit in units]) / tempo, emotion.tempo, rng)
    factor = np.array([unit.seconds_factor for unit in units]) / tempo / np.where(is_emotional, emotion.tempo, 1.0)
    rows, unit_of, edges = _timeline(units, factor)                             # (C, 9), (C,), (U + 1,)

    centres = (edges[1:] + edges[:-1]) / 2
    contour = lambda values: synthetic_voice.smooth(np.interp(np.arange(len(rows)) + 0.5, centres, values), 0.06)     # (C,)
    weight = strength * synthetic_voice.smooth(is_emotional[unit_of].astype(float), 0.05)     # (C,) 0 outside the stretches
    emphasis = np.array([unit.emphasis for unit in units]) * ~is_emotional[:, None]                 # (U, 2)
    bounce = contour(np.where(np.arange(len(units)) % 2, 1.0, -1.0) * rng.uniform(0.6, 1.4, len(units)))
    semitones = shift + contour([unit.semitones for unit in units]) * (1 + weight * (emotion.f0_range - 1)) \
        + contour(emphasis[:, 0]) + weight * (emotion.f0_semitones + emotion.f0_bounce_semitones * bounce)
    elsewhere = _choose_stretches(np.array([unit.seconds for unit in units]) / tempo, 1.0, rng)
    drifts = synthetic_voice.smooth(elsewhere[unit_of].astype(float), 0.1)                # (C,) in any utterance
    drift, drift_tilt = rng.uniform(*CONFUSERS.drift_db), rng.uniform(*CONFUSERS.drift_tilt_db_per_octave)
    energy = synthetic_voice.amplitude(contour([unit.db for unit in units]) + contour(emphasis[:, 1]) + drifts * drift
                             + weight * (emotion.energy_db + emotion.energy_bounce_db * bounce))
    pulses = energy * synthetic_voice.smooth(synthetic_voice.amplitude(rows[:, 5]), 0.02)
    tracks = synthetic_voice.Tracks(
        f0_hz=np.clip(speaker.f0_hz * 2 ** (semitones / 12), 60, 500), voice=pulses,
        breath=pulses * synthetic_voice.amplitude(speaker.breath_db + weight * emotion.breath_db),
        noise=energy * synthetic_voice.smooth(synthetic_voice.amplitude(rows[:, 6]), 0.01), noise_hz=rows[:, 7], noise_width_hz=rows[:, 8],
        formants_hz=synthetic_voice.smooth(rows[:, 1:5], 0.05) * speaker.formant_scale,
        higher_formants_hz=np.array(synthetic_voice.HIGHER_FORMANTS) * speaker.formant_scale,
        tilt_db_per_octave=speaker.tilt_db_per_octave + tilt + drifts * drift_tilt
        + weight * emotion.tilt_db_per_octave,
        jitter=speaker.jitter + weight * emotion.jitter, shimmer=speaker.shimmer + weight * emotion.shimmer)
    runs = np.flatnonzero(np.diff(is_emotional.astype(int), prepend=0, append=0)).reshape(-1, 2)    # units
    return tracks, edges[runs] * synthetic_voice.STEP


def synthesise(seed: int, speaker_name: str, utterance: str, emotion: str, mean_seconds: float,
               ) -> tuple[np.ndarray, np.ndarray]:
    """The recording of one utterance, (N,) in -1..1, and its emotional stretches (n, 2) in samples, end exclusive."""
    rng = np.random.default_rng(derive_seed(seed, "utterance", utterance))
    tracks, stretches = plan(draw_speaker(seed, speaker_name), emotion, mean_seconds, rng)
    speech = synthetic_voice.render(tracks, rng)
    room = synthetic_voice.room_noise(len(speech), rng)                           # unit power
    sound = speech + room * np.sqrt(np.mean(speech ** 2)) * synthetic_voice.amplitude(-rng.uniform(*CONFUSERS.snr_db))
    level = synthetic_voice.amplitude(rng.uniform(*CONFUSERS.level_db)) / np.sqrt(np.mean(sound ** 2))
    return sound * min(level, 0.95 / np.abs(sound).max()), stretches


@dataclass(frozen=True)
class _Job:
    seed: int
    speaker: str                                    # Ses01F
    dialogue: str                                   # Ses01F_impro01
    utterance: str                                  # Ses01F_impro01_F000
    label: str
    mean_seconds: float
    path: Path


def _write_utterance(job: _Job) -> int:
    """Write one sound file and its planted truth; returns the samples."""
    emotion = LABELS[job.label][0]
    sound, stretches = synthesise(job.seed, job.speaker, job.utterance, emotion, job.mean_seconds)
    soundfile.write(job.path, np.round(sound * 32767).astype(np.int16), frames.SAMPLE_RATE, subtype="PCM_16")
    first, end = np.ceil((stretches.T - frames.RECEPTIVE_FIELD / 2) / frames.HOP).astype(int)   # by their centres
    job.path.with_suffix(TRUTH_SUFFIX).write_text("".join(f"{a}\t{b}\t{emotion}\n" for a, b in zip(first, end)))
    return len(sound)


def _jobs(root: Path, seed: int, num_sessions: int, utterances_per_speaker: int, mean_seconds: float) -> list[_Job]:
    """Every utterance of the corpus, dialogue by dialogue, the two speakers taking turns."""
    jobs = []
    for session in range(1, num_sessions + 1):
        labels = {}
        for gender in "FM":
            rng = np.random.default_rng(derive_seed(seed, "labels", f"Ses{session:02d}{gender}"))
            cycle = [LABEL_CYCLE[i % len(LABEL_CYCLE)] for i in range(utterances_per_speaker)]
            others = [OTHER_LABELS[i % len(OTHER_LABELS)] for i in range(utterances_per_speaker // OTHER_EVERY)]
            labels[gender] = list(rng.permutation(cycle + others))
        for i in range(len(labels["F"])):
            number, turn = divmod(i, DIALOGUE_UTTERANCES)
            leader, take = "FM"[number // 2 % 2], number // 4 + 1
            kind = f"script{take:02d}_1" if number % 2 else f"impro{take:02d}"
            dialogue = f"Ses{session:02d}{leader}_{kind}"
            for gender in "FM":
                utterance = f"{dialogue}_{gender}{turn:03d}"
                path = root / f"Session{session}" / "sentences" / "wav" / dialogue / f"{utterance}.wav"
                jobs.append(_Job(seed, f"Ses{session:02d}{gender}", dialogue, utterance, str(labels[gender][i]),
                                 mean_seconds, path))
    return jobs


def _evaluation(jobs: list[_Job], lengths: list[int]) -> str:
    """One dialogue's file in `dialog/EmoEvaluation`: utterances one after the other, with a gap of 0.3 s."""
    text, clock = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n", 0.0
    for job, length in zip(jobs, lengths):
        start, clock = clock + 0.3, clock + 0.3 + length / frames.SAMPLE_RATE
        _, word, ratings = LABELS[job.label]
        text += f"[{start:.4f} - {clock:.4f}]\t{job.utterance}\t{job.label}\t" \
                f"[{', '.join(f'{x:.4f}' for x in ratings)}]\n"
        text += "".join(f"C-E{i}:\t{word};\t()\n" for i in (1, 2, 3))
        text += "".join("A-E{}:\tval {:.0f}; act {:.0f}; dom  {:.0f};\t()\n".format(i, *ratings) for i in (1, 2))
        text += "\n"
    return text


def write_corpus(root: str | Path, seed: int = 0, num_sessions: int = 5, utterances_per_speaker: int = 48,
                 mean_seconds: float = 2.6, workers: int | None = None) -> int:
    """Write a corpus of two speakers per session as an IEMOCAP tree; returns the number of utterances written.

    Another seed has other speakers. Same arguments, same bytes, with any number of `workers` (None: one per core).
    Beside each sound file lies its planted truth (`planted`). `root` appears whole or not at all.
    Raises ValueError where a number is out of range, or `root` already holds something.
    """
    root = Path(root)
    for name, value, low, high in (("num_sessions", num_sessions, 1, 99),
                                   ("utterances_per_speaker", utterances_per_speaker, 1, 4_000),
                                   ("mean_seconds", mean_seconds, SHORTEST_SECONDS, 30)):
        if not low <= value <= high:
            raise ValueError(f"{name} must be in [{low}, {high}], got {value}")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root}: already there and not empty; name another folder or remove it")
    whole = root.resolve()
    temporary = whole.with_name(f".{whole.name}.{os.getpid()}.tmp")
    try:
        jobs = _jobs(temporary, seed, num_sessions, utterances_per_speaker, mean_seconds)
        for folder in dict.fromkeys(job.path.parent for job in jobs):
            folder.mkdir(parents=True)
        lengths = list(log.progress(_write_all(jobs, workers), len(jobs), "synthetic corpus", "utterances"))
        for dialogue in dict.fromkeys(job.dialogue for job in jobs):
            own = [i for i, job in enumerate(jobs) if job.dialogue == dialogue]
            folder = jobs[own[0]].path.parents[3] / "dialog" / "EmoEvaluation"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{dialogue}.txt").write_text(_evaluation([jobs[i] for i in own], [lengths[i] for i in own]))
        os.replace(temporary, whole)                # an empty folder of that name gives way
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(jobs)


def _write_all(jobs: list[_Job], workers: int | None) -> Iterator[int]:
    """Samples of every utterance, in order, as they are written."""
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers == 1:
        yield from map(_write_utterance, jobs)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_write_utterance, jobs, chunksize=4)


def planted(wav_path: str | Path, num_frames: int) -> np.ndarray:
    """Which frames of an utterance are emotional, from the file beside its sound: (T,) bool with T = num_frames.

    Frame t is emotional if its centre, sample 320 t + 200, lies in an emotional stretch.
    Raises ValueError naming file and line where the truth is missing or not `first<TAB>end<TAB>emotion`.
    """
    path = Path(wav_path).with_suffix(TRUTH_SUFFIX)
    if not path.exists():
        raise ValueError(f"{path}: no such file: {wav_path} has no planted truth (only the synthetic corpus has)")
    is_emotional = np.zeros(num_frames, bool)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        cells = line.split("\t")
        if len(cells) != 3 or not all(x.isdecimal() for x in cells[:2]) or not int(cells[0]) < int(cells[1]):
            raise ValueError(f"{path}, line {number}: must be first<TAB>end<TAB>emotion, first < end, is {line!r}")
        is_emotional[int(cells[0]):int(cells[1])] = True
    return is_emotional
