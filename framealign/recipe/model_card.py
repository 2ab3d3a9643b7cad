"""The model card of a recogniser: `README.md` in its directory, from what was recorded, in Hugging Face's form.

Data, protocol, results, intended use and limits; nothing in it is written by hand, so nothing in it can be out of date.
"""
from pathlib import Path

from framealign.runtime import files
from framealign.sound.frames import SAMPLE_RATE
from framealign.corpus.protocols import Split
from framealign.corpus.utterance import summary
from framealign.recipe.results import NAMES, NO_INTERVAL, claim, interval_words, missing_classes, missing_words

USE = """Recognising which of these emotions speech of about 1 to 60 s expresses, and when: for research, teaching, and
material where a mistake harms nobody. The model uses how something is said and knows nothing of what is meant.
Do not use it for decisions about people (hiring, policing, health, education, insurance), or to watch people who have
not agreed to it; in some places the law forbids emotion recognition at work and in schools."""

LIMITS = """- It knows only the classes above: laughter, music, silence or another emotion gets one of them.
- Probabilities are not calibrated. {frames}
- Languages, ages, microphones and speaking styles other than those of the training data may be recognised much worse
  than the table says, and with different accuracy for different groups of people. Test it on your own data.
- Sound longer than 3000 frames (60 s, where one comes every 20 ms) is recognised in windows of as many
  (`long_sound.py`), which training never used."""


OF_FRAMES = {
    False: "The frame-wise posterior is the utterance classifier applied to single frames; it\n"
           "  was not trained on frames.",
    True: "The frame-wise posterior is a classifier of its own, trained on frames whose\n"
          "  emotion was worked out from the labels of utterances."}


def write(directory: Path, results: dict, splits: list[Split]) -> None:
    """Write `README.md` into a recogniser's directory."""
    files.write_text(directory / "README.md", text(results, splits))


def text(results: dict, splits: list[Split]) -> str:
    """The card of one fold. results: as in its `results.json`, with `protocol` where it is known; splits: its parts."""
    classes = results["classes"]
    lines = ["---", "library_name: framealign", "pipeline_tag: audio-classification",
             "tags: [speech-emotion-recognition, hubert]", "---", "",
             "# Speech emotion recogniser", "",
             f"HuBERT encoder, attention pooling, linear classifier: {', '.join(classes)}. Input: mono sound at "
             f"{SAMPLE_RATE} Hz. Made by framealign, split {results['split']}.", "",
             "```python", "from framealign import Recogniser",
             'result = Recogniser.from_pretrained("this/directory")("a.wav")', "```", ""]
    lines += ["## Results", "", *results_lines(results), ""]
    lines += ["## Protocol", "", *protocol_lines(results), ""]
    lines += ["## Training data", "", *data_lines(results, splits), ""]
    lines += ["## Intended use", "", USE, ""]
    of_frames = OF_FRAMES["frames" in results.get("protocol", {})]
    lines += ["## Limits", "", LIMITS.format(frames=of_frames), ""]
    return "\n".join(lines)


def results_lines(results: dict) -> list[str]:
    """WA, UA and macro-F1 with intervals, and the confusion matrix."""
    test, classes = results["test"], results["classes"]
    lines = ["| measure | reported | 95 % interval of the test predictions, % |", "|---|--:|--:|"]
    for key, name in NAMES.items():
        ends = interval_words(test["interval_95"][key])
        lines.append(f"| {name} | {100 * results['reported'][key]:.1f} % | {ends} |")
    lines.append("")
    if results["optimistic"]:
        lines[-1:] = ["", "**Optimistic**: this selection looks at the test session before the test.", ""]

    lines += ["| truth \\ predicted | " + " | ".join(classes) + " | recall |", "|---|" + "--:|" * (len(classes) + 1)]
    for name, row in zip(classes, test["confusion"]):
        share = test["recall"][name]
        recall = "no utterances" if share is None else f"{100 * share:.1f} %"
        lines.append(f"| {name} | {' | '.join(map(str, row))} | {recall} |")
    lines += ["", f"Intervals: {claim(test['interval_over'])}."]
    if None in test["interval_95"].values():
        lines.append(f"{NO_INTERVAL}.")
    missing = missing_classes(results)
    if missing:
        lines.append(f"There was {missing_words(missing)}.")
    if "ways" in results:
        lines.append(f"The numbers are those of {len(results['ways'])} trainings, in which each speaker of the fold is "
                     "tested once; this recogniser is that of the first.")
    return lines


def protocol_lines(results: dict) -> list[str]:
    """Every setting that the numbers depend on."""
    settings = {"method": results.get("protocol", {}).get("method", "fine-tuning"),
                "selection": results["selection"], "epoch selected": results["selected_epoch"], "seed": results["seed"]}
    for name, value in results.get("protocol", {}).items():
        settings[name.replace("_", " ")] = value
    return [f"- {name}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in settings.items()]


def data_lines(results: dict, splits: list[Split]) -> list[str]:
    """How many utterances, hours and speakers, and the table of the training part, the same in every split."""
    split = splits[0]
    parts = [f"{part} {number}" for part, number in results["num_utterances"].items()]
    train_speakers = {utterance.speaker for utterance in split.train if utterance.speaker}
    test_speakers = {utterance.speaker for one in splits for utterance in one.test if utterance.speaker}
    hours = sum(utterance.num_samples for utterance in split.train) / SAMPLE_RATE / 3600
    return [f"Utterances: {', '.join(parts)}; {hours:.2f} hours and {len(train_speakers) or 'unknown'} speakers in "
            f"training, {len(test_speakers) or 'unknown'} others in the test. Trained on:", "",
            "```", summary(split.train), "```"]
