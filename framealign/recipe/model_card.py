"""The model card of a recogniser: `README.md` in its directory, from what was recorded, in Hugging Face's form.

Data, protocol, results, intended use and limits; nothing in it is written by hand, so nothing in it can be out of date.
"""
from pathlib import Path

from framealign.runtime import files
from framealign.sound.frames import SAMPLE_RATE
from framealign.corpus.protocols import Split
from framealign.corpus.utterance import summary

USE = """Recognising which of these emotions is expressed in a stretch of speech of about 1 to 60 s, and when: research,
teaching, and material where a mistake harms nobody. It hears how something is said and knows nothing of what is meant.
Not for decisions about people (hiring, policing, health, education, insurance), and not for watching people who have
not agreed to it; in some places emotion recognition at work and in schools is forbidden by law."""

LIMITS = """- It knows the classes above and nothing else: laughter, music, silence or another emotion gets one of them.
- Probabilities are not calibrated; the frame-wise posterior is the classifier read frame by frame, never trained so.
- Other languages, ages, microphones and acted or spontaneous speech than the training data's may be recognised much
  worse than the table says, and differently well for different groups of people: test it on your own.
- Sound longer than 60 s is heard in windows of 60 s (`windows.py`), which training never saw."""


def write(directory: Path, results: dict, splits: list[Split]) -> None:
    """Write `README.md` into a recogniser's directory."""
    files.write_text(directory / "README.md", text(results, splits))


def text(results: dict, splits: list[Split]) -> str:
    """The card of one fold. results: as in its `results.json`, with `protocol` where it is known; splits: its parts."""
    test, classes, protocol = results["test"], results["classes"], results.get("protocol", {})
    percent = lambda name: f"{100 * results['reported'][name]:.1f} %"
    limits = {name: f"{100 * low:.1f} to {100 * high:.1f} %" for name, (low, high) in test["interval_95"].items()}
    rows = [("WA", percent("wa"), limits["wa"]), ("UA", percent("ua"), limits["ua"]),
            ("macro-F1", percent("macro_f1"), limits["macro_f1"])]
    told = {"selection": results["selection"], "epoch selected": results["selected_epoch"], "seed": results["seed"],
            **{name.replace("_", " "): value for name, value in protocol.items()}}
    optimistic = "\n**Optimistic**: this selection looks at the test session before the test.\n" \
        if results["optimistic"] else ""
    parts = [f"{part} {number}" for part, number in results["num_utterances"].items()]
    speakers = {part: len({u.speaker for u in getattr(splits[0], part) if u.speaker}) for part in ("train", "test")}
    hours = sum(u.num_samples for u in splits[0].train) / SAMPLE_RATE / 3600
    return "\n".join([
        "---", "library_name: framealign", "pipeline_tag: audio-classification",
        "tags: [speech-emotion-recognition, hubert]", "---", "", "# Speech emotion recogniser", "",
        f"HuBERT encoder, attention pooling, linear classifier: {', '.join(classes)}. Input: mono sound at "
        f"{SAMPLE_RATE} Hz. Made by framealign, split {results['split']}.", "",
        "```python", "from framealign import Recogniser",
        'result = Recogniser.from_pretrained("this/directory")("a.wav")', "```", "", "## Results", "",
        "| measure | reported | 95 % interval of the test predictions |", "|---|--:|--:|",
        *(f"| {name} | {value} | {limit} |" for name, value, limit in rows), optimistic,
        "| truth \\ predicted | " + " | ".join(classes) + " | recall |", "|---|" + "--:|" * (len(classes) + 1),
        *(f"| {name} | {' | '.join(map(str, row))} | {100 * test['recall'][name]:.1f} % |"
          for name, row in zip(classes, test["confusion"])), "",
        "Intervals resample dialogues where they are known, else speakers.", "", "## Protocol", "",
        *(f"- {name}: {', '.join(map(str, value)) if isinstance(value, list) else value}" for name, value in
          told.items()), "", "## Training data", "",
        f"Utterances: {', '.join(parts)}; {hours:.2f} hours and {speakers['train'] or 'unknown'} speakers in training, "
        f"{speakers['test'] or 'unknown'} others in the test. Trained on:", "", "```",
        summary(splits[0].train, classes), "```", "", "## Intended use", "", USE, "", "## Limits", "", LIMITS, ""])
