"""ZED as it is published: a generated tree of 180 utterances, read whole, in part, and with every entry spoilt."""
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from framealign.corpus import frame_truth, manifest
from framealign.corpus.frame_truth import Stretch
from framealign.corpus.importers import zed

EMOTIONS = {"happy": "happy", "sad": "sad", "angry": "angry", "a": "angry", "Sadness": "sad", "joy": "happy"}


def write_tree(root: Path, number: int = 180) -> dict[str, dict]:
    """`ZED.json` and its sounds, of drawn lengths, rates and events; what was written in it."""
    rng, entries = np.random.default_rng(0), {}
    (root / "wav").mkdir(parents=True)
    for index in range(number):
        rate = int(rng.choice([16_000, 44_100]))
        samples = rng.normal(0, 0.1, int(rate * rng.uniform(0.5, 1.5)))
        soundfile.write(root / "wav" / f"{index}.wav", samples, rate)
        duration = round(len(samples) / rate, 2)
        start, end = sorted(rng.uniform(0, duration, 2).round(3).tolist())
        event = {"emo": str(rng.choice(list(EMOTIONS))), "start": start, "end": end + 0.002}
        entries[f"zed_{index}"] = {"wav": f"datafolder/wav/{index}.wav", "duration": duration, "emotion": [event],
                                   "transcription": "so, what?"}
    (root / "ZED.json").write_text(json.dumps(entries))
    return entries


def test_a_whole_tree(tmp_path, capsys):
    entries = write_tree(tmp_path / "ZED")
    utterances = zed.read(tmp_path / "ZED" / "ZED.json")
    assert [u.id for u in utterances] == list(entries) and "not the whole" not in capsys.readouterr().err
    for utterance, entry in zip(utterances, entries.values()):
        event = entry["emotion"][0]
        assert utterance.label == EMOTIONS[event["emo"]]
        assert frame_truth.stretches(utterance) == [Stretch(event["start"], event["end"], utterance.label)]
        assert utterance.path == tmp_path / "ZED" / "wav" / Path(entry["wav"]).name and utterance.path.exists()
        assert abs(utterance.num_samples / 16_000 - entry["duration"]) < 0.01
    manifest.write(tmp_path / "zed.tsv", utterances)                            # the folder of ZED is left as it is
    assert manifest.read(tmp_path / "zed.tsv") == utterances
    assert Counter(path.suffix for path in (tmp_path / "ZED").rglob("*.*")) == {".wav": 180, ".json": 1}


def test_a_part_is_taken_where_it_is_asked_for(tmp_path, capsys):
    write_tree(tmp_path, 5)
    (tmp_path / "wav" / "3.wav").unlink()
    with pytest.raises(ValueError) as caught:
        zed.read(tmp_path / "ZED.json")
    words = (f"not the whole ZED: 1 utterances cannot be used ({tmp_path}/ZED.json: 'zed_3': "
             f"{tmp_path}/wav/3.wav: no such")
    assert words in str(caught.value) and "5 utterances, expected 180" in str(caught.value)
    assert [u.id for u in zed.read(tmp_path / "ZED.json", allow_partial=True)] == ["zed_0", "zed_1", "zed_2", "zed_4"]
    assert words in capsys.readouterr().err


def spoilt(entry: dict, **changes) -> dict:
    event = {name: changes.pop(name) for name in ("emo", "start", "end") if name in changes}
    return entry | {"emotion": [entry["emotion"][0] | event]} | changes


@pytest.mark.parametrize("spoil, problem", [
    (lambda entry: spoilt(entry, emo="bored"), "emo must be neutral, happy, angry or sad, got 'bored'"),
    (lambda entry: spoilt(entry, end=9.0), "the emotion must lie within 0 and"),
    (lambda entry: spoilt(entry, start=-0.5), "the emotion must lie within 0 and"),
    (lambda entry: spoilt(entry, end=float("nan")), "the emotion must lie within 0 and"),
    (lambda entry: spoilt(entry, emotion=[]), "must have wav, duration and one emotion"),
    (lambda entry: spoilt(entry, emotion=2 * entry["emotion"]), "must have wav, duration and one emotion"),
    (lambda entry: spoilt(entry, start="early"), "must have wav, duration and one emotion"),
    (lambda entry: spoilt(entry, end=10 ** 400), "must have wav, duration and one emotion"),
    (lambda entry: {"wav": "wav/0.wav"}, "must have wav, duration and one emotion"),
    (lambda entry: 7, "must have wav, duration and one emotion"),
    (lambda entry: spoilt(entry, duration=entry["duration"] + 3), "s, must be"),
    (lambda entry: spoilt(entry, wav="ZED.json"), "ZED.json"), (lambda entry: spoilt(entry, wav=""), "'zed_0'")])
def test_an_entry_that_cannot_be_read_is_named(tmp_path, spoil, problem):
    entries = write_tree(tmp_path, 2)
    path = tmp_path / "ZED.json"
    path.write_text(json.dumps(entries | {"zed_0": spoil(entries["zed_0"])}))
    with pytest.raises(ValueError) as caught:
        zed.read(path)
    assert problem in str(caught.value) and "'zed_0'" in str(caught.value) and "\n" not in str(caught.value)
    assert [u.id for u in zed.read(path, allow_partial=True)] == ["zed_1"]


def test_what_is_neutral_throughout_and_what_holds_nothing(tmp_path):
    entries = write_tree(tmp_path, 1)
    path = tmp_path / "ZED.json"
    path.write_text(json.dumps({"x": spoilt(entries["zed_0"], emo="n")}))
    utterance, = zed.read(path, allow_partial=True)
    assert utterance.label == "neutral" and utterance.truth == () and frame_truth.exists(utterance)
    path.write_text("{}")
    with pytest.raises(ValueError, match="holds no utterance that can be used: 0 utterances, expected 180"):
        zed.read(path, allow_partial=True)
