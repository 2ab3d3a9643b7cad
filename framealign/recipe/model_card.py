"""The model card of a recogniser: `README.md` in its directory, from what was recorded, in Hugging Face's form.

Data, protocol, results, intended use and limits; nothing in it is written by hand, so nothing in it can be out of date.
"""
import re
from collections.abc import Iterable
from pathlib import Path

from framealign.runtime import files
from framealign.sound.frames import SAMPLE_RATE
from framealign.corpus.protocols import Split
from framealign.corpus.utterance import Utterance, summary
from framealign.emotion import calibration
from framealign.emotion.emotion_model import LEAST_WEIGHT
from framealign.recipe.results import (CALIBRATION_COLUMNS, CALIBRATION_NOTE, CALIBRATIONS, NAMES, NO_INTERVAL,
                                       OVER_TIME, SHARED_SPEAKERS, calibration_cells, claim, interval_words,
                                       layer_words, missing_classes, missing_words, over_time_cell)

NAME = "README.md"
USE = """Recognising which of these emotions speech of about 1 to 60 s expresses, and when: for research, teaching, and
material where a mistake harms nobody. The model uses how something is said and knows nothing of what is meant.
Do not use it for decisions about people (hiring, policing, health, education, insurance), or to watch people who have
not agreed to it; in some places the law forbids emotion recognition at work and in schools."""

LIMITS = """- It knows only the classes above: laughter, music, silence or another emotion gets one of them.
- Languages, ages, microphones and speaking styles other than those of the training data may be recognised much worse
  than the table says, and with different accuracy for different groups of people. Test it on your own data.
- Sound longer than 3000 frames (60 s, where one comes every 20 ms) is recognised in windows of as many
  (`long_sound.py`), which training never used."""

# By what a protocol says of frames: the model's heads, and where its emotion over time comes from.
ESTIMATED_FRAMES, TRUE_FRAMES = "trained", "trained on their truth"
FRAME_HEADS = "linear classifier of frames, which also weighs them, linear classifier of utterances"
HEADS = {"": "attention pooling, linear classifier", ESTIMATED_FRAMES: FRAME_HEADS, TRUE_FRAMES: FRAME_HEADS,
         "probe": "frozen; weighted sum of its layers, linear projection, mean over frames, linear classifier"}
WEIGHING = f"""A linear classifier of single frames (`frames.weight`, `frames.bias`) gives the frame-wise posterior, and
a frame counts in the emotion of its utterance by 1 - p(neutral) + {LEAST_WEIGHT:g}."""
FRAMES_BY = {
    "": """The frame-wise posterior is the utterance classifier applied to single frames. It learned from whole
utterances and mostly repeats their emotion.""",
    ESTIMATED_FRAMES: f"""{WEIGHING} It was trained from the labels of utterances
alone: no label of a frame was ever seen, in training or in a choice. A scorer learned short stretches of different
utterances, shuffled and brought to one level, each by its utterance's label. Its scores of all training utterances,
cut into windows among those of others, say which share of an emotion's utterances is emotional, and where. These
estimated labels of frames, and the true ones of utterances, trained the recogniser on utterances joined with neutral
ones of their speaker.""",
    TRUE_FRAMES: f"""{WEIGHING} **It was trained on the true
emotion of every frame**, which few corpora know: a bound of what can be learned from the labels of utterances."""}

WINDOWS = """The posterior over time is what the recogniser says of windows of {0:g} s, each heard for itself; one
begins every half of that, and frames between the middles of two have what lies between what both say. It learned from
whole utterances: of a window that holds two emotions it says one, or something between them."""


def write(directory: Path, results: dict, splits: list[Split]) -> None:
    """Write `README.md` into a recogniser's directory."""
    files.write_text(directory / NAME, text(results, splits))


def license_of(directory: str | Path) -> str:
    """The licence that the card in a recogniser's directory names, as `license: mit`; "" without a card or a name."""
    path = Path(directory) / NAME
    if not path.is_file():
        return ""
    content = path.read_text(encoding="utf-8", errors="replace")
    front_matter = re.match(r"---\n(.*?\n)---\n", content, re.DOTALL)
    named = re.search(r"^license:(.*)$", front_matter[1], re.MULTILINE) if front_matter else None
    return named[1].strip().strip("'\"") if named else ""


def text(results: dict, splits: list[Split]) -> str:
    """The card of one fold. results: as in its `results.json`, with `protocol` where it is known; splits: its parts."""
    classes, frames = results["classes"], results.get("protocol", {}).get("frames", "")
    heads = HEADS["probe" if "layer_weights" in results else frames]
    lines = ["---", "library_name: framealign", "pipeline_tag: audio-classification",
             "tags: [speech-emotion-recognition, hubert]", "---", "",
             "# Speech emotion recogniser", "",
             f"HuBERT encoder, {heads}. Classes: {', '.join(classes)}. Input: mono sound at {SAMPLE_RATE} Hz. "
             f"Made by framealign, split {results['split']}.", "",
             "```python", "from framealign import Recogniser",
             'result = Recogniser.from_pretrained("this/directory")("a.wav")', "```", ""]
    lines += ["## Results", "", *results_lines(results), ""]
    if speakers_of(one.train for one in splits) & speakers_of(one.test for one in splits):
        lines += [f"**Optimistic**: {SHARED_SPEAKERS}.", ""]
    lines += ["## Confidence", "", *confidence_lines(results), ""]
    of_time = WINDOWS.format(results["window_seconds"]) if "window_seconds" in results else FRAMES_BY[frames]
    lines += ["## Emotion over time", "", of_time, "", *over_time_lines(results)]
    lines += ["## Protocol", "", *protocol_lines(results), ""]
    lines += ["## Training data", "", *data_lines(results, splits), ""]
    lines += ["## Intended use", "", USE, ""]
    lines += ["## Limits", "", LIMITS, ""]
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
    if "layer_weights" in results:
        lines.append(f"{layer_words(results['layer_weights'])}.")
    if "ways" in results:
        lines.append(f"The numbers are those of {len(results['ways'])} trainings, in which each speaker of the fold is "
                     "tested once; this recogniser is that of the first.")
    return lines


def confidence_lines(results: dict) -> list[str]:
    """Whether probabilities are calibrated, on what, and how right they were in the test before and after."""
    temperatures, test = results.get("calibration"), results["test"]
    if temperatures is None:
        lines = ["**Probabilities are not calibrated**: " + (
            "this selection looks at the test session, and left no other utterances to fit a temperature on."
            if results["optimistic"] else "the protocol left no validation utterances to fit a temperature on.")]
    else:
        labels = {"": "labelled as its utterance", ESTIMATED_FRAMES: "with estimated labels",
                  TRUE_FRAMES: "with true labels"}[results.get("protocol", {}).get("frames", "")]
        lines = [f"Probabilities are calibrated (`{calibration.NAME}`): logits of utterances are divided by "
                 f"{temperatures['utterances']:.3g}, those of frames, {labels}, by {temperatures['frames']:.3g}.",
                 f"Fitted on {temperatures['fitted_on']}, never on the test. No decision changes by it. The attention "
                 "is as it was trained."]
    known = {name: test[key] for name, key in CALIBRATIONS.items() if key in test}
    if not known:
        return lines
    if temperatures is None:
        known = {"as they are": test["calibration"]}
    rows = [f"| {name} | {' | '.join(calibration_cells(one))} |" for name, one in known.items()]
    return [*lines, "", f"| in the test | {' | '.join(CALIBRATION_COLUMNS)} |",
            "|---" + "|--:" * len(CALIBRATION_COLUMNS) + "|", *rows, "", CALIBRATION_NOTE]


def over_time_lines(results: dict) -> list[str]:
    """EDER, its parts, what they are compared with, and the other scores over time; nothing where none are known."""
    if "over_time" not in results:
        return []
    scores = results["over_time"]
    rows = [f"| {name} | {over_time_cell(scores, key)} | {words} |" for key, (name, words) in OVER_TIME.items()]
    return ["Emotion diarization error rate (EDER) and other scores over the "
            f"{scores['num_utterances']} test utterances whose true frames are known; shares of the time in %:", "",
            "| measure | value | what it says |", "|---|--:|---|", *rows, ""]


def protocol_lines(results: dict) -> list[str]:
    """Every setting that the numbers depend on."""
    settings = {"method": results.get("protocol", {}).get("method", "fine-tuning"),
                "selection": results["selection"], "epoch selected": results["selected_epoch"], "seed": results["seed"]}
    for name, value in results.get("protocol", {}).items():
        settings[name.replace("_", " ")] = value
    return [f"- {name}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in settings.items()]


def speakers_of(parts: Iterable[list[Utterance]]) -> set[str]:
    """The known speakers of these parts of splits."""
    return {utterance.speaker for utterances in parts for utterance in utterances if utterance.speaker}


def data_lines(results: dict, splits: list[Split]) -> list[str]:
    """How many utterances, hours and speakers, and the table of the training part, the same in every split."""
    split = splits[0]
    parts = [f"{part} {number}" for part, number in results["num_utterances"].items()]
    corpora = "; ".join(f"{part} {', '.join(f'{number} of {name}' for name, number in counts.items())}"
                        for part, counts in results.get("corpora", {}).items() if counts)
    train_speakers, test_speakers = speakers_of([split.train]), speakers_of(one.test for one in splits)
    in_both = len(train_speakers & test_speakers)
    in_test = f"{len(test_speakers) or 'unknown'} others"
    if in_both:
        in_test = f"{len(test_speakers)} ({in_both} of them the same)"
    hours = sum(utterance.num_samples for utterance in split.train) / SAMPLE_RATE / 3600
    return [f"Utterances: {', '.join(parts)}; {hours:.2f} hours and {len(train_speakers) or 'unknown'} speakers in "
            f"training, {in_test} in the test. {f'By corpus: {corpora}. ' if corpora else ''}"
            "`trained_on.tsv` names each utterance of training and validation. Trained on:", "",
            "```", summary(split.train), "```"]
