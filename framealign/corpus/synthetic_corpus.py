"""A synthetic emotional speech corpus, written as an IEMOCAP tree, with the truth about every frame beside it.

The utterances are those of `synthetic_utterance.py`, in dialogues of two speakers who take turns; labels are balanced
over four classes, with some of IEMOCAP's other labels in between. Which frames of an utterance are emotional is written
beside its sound file (`frame_truth`). What it leaves out: overlapping speech.
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
from framealign.corpus import frame_truth
from framealign.corpus.synthetic_utterance import SHORTEST_SECONDS, synthesise

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


def write_corpus(root: str | Path, seed: int = 0, num_sessions: int = 5, utterances_per_speaker: int = 48,
                 mean_seconds: float = 2.6, workers: int | None = None) -> int:
    """Write a corpus of two speakers per session as an IEMOCAP tree; returns the number of utterances written.

    Another seed has other speakers. Same arguments, same bytes, with any number of `workers` (None: one per core).
    Beside each sound file lies its planted truth (`frame_truth`). `root` appears whole or not at all.
    Raises ValueError where a number is out of range, or `root` already holds something.
    """
    root = Path(root)
    limits = {"num_sessions": (num_sessions, 1, 99),
              "utterances_per_speaker": (utterances_per_speaker, 1, 4_000),
              "mean_seconds": (mean_seconds, SHORTEST_SECONDS, 30)}
    for name, (value, low, high) in limits.items():
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
        dialogues: dict[str, list[tuple[_Job, int]]] = {}
        for job, length in zip(jobs, lengths):
            dialogues.setdefault(job.dialogue, []).append((job, length))
        for dialogue, turns in dialogues.items():
            first, _ = turns[0]
            folder = first.path.parents[3] / "dialog" / "EmoEvaluation"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{dialogue}.txt").write_text(_evaluation(turns))
        os.replace(temporary, whole)                # an empty folder of that name gives way
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(jobs)


@dataclass(frozen=True)
class _Job:
    """One utterance to be written."""
    seed: int
    speaker: str                                    # Ses01F
    dialogue: str                                   # Ses01F_impro01
    utterance: str                                  # Ses01F_impro01_F000
    label: str
    mean_seconds: float
    path: Path


def _jobs(root: Path, seed: int, num_sessions: int, utterances_per_speaker: int, mean_seconds: float) -> list[_Job]:
    """Every utterance of the corpus, dialogue by dialogue, the two speakers taking turns."""
    jobs = []
    for session in range(1, num_sessions + 1):
        labels = {gender: _draw_labels(seed, f"Ses{session:02d}{gender}", utterances_per_speaker) for gender in "FM"}
        for i in range(len(labels["F"])):
            number, turn = divmod(i, DIALOGUE_UTTERANCES)
            leader = "FM"[number // 2 % 2]
            take = number // 4 + 1
            kind = f"script{take:02d}_1" if number % 2 else f"impro{take:02d}"
            dialogue = f"Ses{session:02d}{leader}_{kind}"
            for gender in "FM":
                utterance = f"{dialogue}_{gender}{turn:03d}"
                path = root / f"Session{session}" / "sentences" / "wav" / dialogue / f"{utterance}.wav"
                jobs.append(_Job(seed, f"Ses{session:02d}{gender}", dialogue, utterance, labels[gender][i],
                                 mean_seconds, path))
    return jobs


def _draw_labels(seed: int, speaker: str, number: int) -> list[str]:
    """IEMOCAP labels of a speaker's utterances in drawn order: `number` of the four classes, then some others."""
    rng = np.random.default_rng(derive_seed(seed, "labels", speaker))
    cycle = [LABEL_CYCLE[i % len(LABEL_CYCLE)] for i in range(number)]
    others = [OTHER_LABELS[i % len(OTHER_LABELS)] for i in range(number // OTHER_EVERY)]
    return [str(label) for label in rng.permutation(cycle + others)]


def _write_all(jobs: list[_Job], workers: int | None) -> Iterator[int]:
    """Samples of every utterance, in order, as they are written."""
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers == 1:
        yield from map(_write_utterance, jobs)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_write_utterance, jobs, chunksize=4)


def _write_utterance(job: _Job) -> int:
    """Write one sound file and its planted truth; returns the samples."""
    emotion = LABELS[job.label][0]
    sound, stretches = synthesise(job.seed, job.speaker, job.utterance, emotion, job.mean_seconds)
    soundfile.write(job.path, np.round(sound * 32767).astype(np.int16), frames.SAMPLE_RATE, subtype="PCM_16")
    edges = np.ceil((stretches - frames.RECEPTIVE_FIELD / 2) / frames.HOP).astype(int)      # (n, 2) frames, by centres
    frame_truth.write(job.path, [(first, end, emotion) for first, end in edges])
    return len(sound)


def _evaluation(turns: list[tuple[_Job, int]]) -> str:
    """One dialogue's file in `dialog/EmoEvaluation`: utterances (and their samples) with a gap of 0.3 s before each."""
    text = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
    clock = 0.0                                     # s
    for job, num_samples in turns:
        start = clock + 0.3
        clock = start + num_samples / frames.SAMPLE_RATE
        _, word, ratings = LABELS[job.label]
        valence, activation, dominance = ratings
        in_full = ", ".join(f"{rating:.4f}" for rating in ratings)
        text += f"[{start:.4f} - {clock:.4f}]\t{job.utterance}\t{job.label}\t[{in_full}]\n"
        for evaluator in (1, 2, 3):
            text += f"C-E{evaluator}:\t{word};\t()\n"
        for evaluator in (1, 2):
            text += f"A-E{evaluator}:\tval {valence:.0f}; act {activation:.0f}; dom  {dominance:.0f};\t()\n"
        text += "\n"
    return text
