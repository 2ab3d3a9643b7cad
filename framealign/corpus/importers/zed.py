"""ZED, the Zaion Emotion Dataset (Wang, Ravanelli and Yacoubi 2023): emotion marked within utterances, for tests only.

`ZED.json` holds `{id: {"wav", "duration", "emotion": [{"emo", "start", "end"}], "transcription"}}`; what lies outside
an utterance's one event is neutral. Speakers are not named there, so there are no sessions. What it leaves out: the
transcriptions. Source: github.com/BenoitWang/Speech_Emotion_Diarization. Licence: given there, for research.
"""
from pathlib import Path

from framealign.runtime import files, log
from framealign.sound import audio
from framealign.sound.frames import SAMPLE_RATE
from framealign.corpus import frame_truth
from framealign.corpus.importers.published_corpus import (CorpusFolder, Counts, PublishedCorpus, settle,
                                                          unusable_in_words)
from framealign.corpus.manifest import UtteranceList, excerpt, noting
from framealign.corpus.utterance import NEUTRAL, Stretch, Utterance, class_of

NUM_UTTERANCES = 180                                # of the published corpus
LETTERS = {"n": "neutral", "h": "happy", "a": "angry", "s": "sad"}
PLACEHOLDER = "datafolder/"                         # in paths: the folder that ZED.json is in
TOLERANCE_SECONDS = 0.1                             # by which a sound's length may differ from what is said of it


def read(path: str | Path, allow_partial: bool = False) -> list[Utterance]:
    """The utterances of a `ZED.json`, labelled with their event's emotion, the event's exact time as their truth.

    Sounds are named relative to its folder, in the published file by paths that begin with `datafolder`. Raises
    ValueError for what is no such file; for an entry that cannot be read (no single event, another emotion, a sound
    that is missing or of another length), and where there are not 180. With `allow_partial` such entries are left out
    instead, and a note says the same; ValueError where none is left.
    """
    path = Path(path)
    utterances, unusable = UtteranceList(path.parent), []
    entries = files.read_json(path)
    for name, entry in log.progress(entries.items(), len(entries), "reading ZED", "utterances"):
        with noting(unusable):
            _add(utterances, f"{path}: {excerpt(name)}", name, entry)

    differences = unusable_in_words(unusable, "utterances")
    if len(entries) != NUM_UTTERANCES:
        differences.append(f"{len(entries)} utterances, expected {NUM_UTTERANCES}")
    settle(path, "ZED", differences, utterances.items, allow_partial)
    return utterances.items


class _Zed(PublishedCorpus):
    """ZED in the folder of its `ZED.json`, or around it."""

    def share_of(self, folder: CorpusFolder) -> float:
        return float(bool(folder.named("zed.json")))

    def read(self, folder: CorpusFolder, allow_partial: bool = False) -> list[Utterance]:
        """See the function `read`. Raises ValueError where there is no `ZED.json` too."""
        lists = folder.named("zed.json")
        if not lists:
            raise ValueError(f"{folder.root}: no ZED.json; give the folder that holds it")
        return read(folder.root / lists[0], allow_partial)


def _add(utterances: UtteranceList, where: str, name: str, entry: object) -> None:
    """Add an entry's utterance. Raises ValueError, with `where`, for one that is not as published or does not fit."""
    try:
        wav, duration, (event,) = str(entry["wav"]), float(entry["duration"]), entry["emotion"]
        emotion, start, end = str(event["emo"]), float(event["start"]), float(event["end"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: must have wav, duration and one emotion with emo, start and end") from None
    label = LETTERS.get(emotion.lower()) or class_of(emotion)
    if not label:
        raise ValueError(f"{where}: emo must be neutral, happy, angry or sad, got {excerpt(emotion)}")
    if not 0 <= start < end <= duration + TOLERANCE_SECONDS < float("inf"):
        raise ValueError(f"{where}: the emotion must lie within 0 and {duration:g} s, is from {start:g} to {end:g} s")
    place = utterances.folder / wav.removeprefix(PLACEHOLDER)
    try:
        num_samples = audio.length(place)
    except (ValueError, OSError) as error:
        raise ValueError(f"{where}: {error}") from None
    if abs(num_samples / SAMPLE_RATE - duration) > TOLERANCE_SECONDS:
        raise ValueError(f"{where}: {place} lasts {num_samples / SAMPLE_RATE:.2f} s, must be {duration:g} s")
    truth = [] if label == NEUTRAL else [Stretch(start, end, label)]
    utterances.add(where, str(place), str(num_samples), id=name, label=label, truth=frame_truth.cell(truth))


CORPUS = _Zed("ZED", "ZED.json", LETTERS, "not given: speakers are not named, it is for tests only",
              {"": Counts(NUM_UTTERANCES)})
