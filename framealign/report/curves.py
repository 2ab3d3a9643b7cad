"""The curves of a stage from its `log.jsonl`, each with what is normal and what it was here."""
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from framealign.report.charts import Axes, Curve, curves, histogram
from framealign.report.html_document import card, facts, grid


def read(path: str | Path) -> list[dict]:
    """The records of a `log.jsonl`, in order; a line torn by an interruption is left out, a missing file is empty."""
    path = Path(path)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and isinstance(record.get("update"), (int, float)):
            records.append(record)
    return records


def curve(records: Sequence[dict], key: str, name: str, kind: int = 0) -> Curve:
    """One quantity over updates (epochs, for fine-tuning)."""
    logged = [record for record in records if record.get(key) is not None]
    return Curve(name, [record["update"] for record in logged], [record[key] for record in logged], kind)


def pretraining(records: Sequence[dict], num_clusters: list[int], clip_norm: float) -> str:
    """Curves of masked prediction: loss, accuracies, perplexity, learning rate, gradient norm, speed.

    num_clusters: of each codebook; of several, losses and perplexities are (geometric) means.
    """
    chance = sum(map(math.log, num_clusters)) / len(num_clusters)               # loss of guessing, nats
    clusters = ", ".join(map(str, num_clusters))
    mean_of = "mean of " if len(num_clusters) > 1 else ""

    loss = curve(records, "loss", "masked frames, training")
    valid_loss = curve(records, "valid_loss", "masked frames, validation", 1)
    masked = curve(records, "masked_accuracy", "masked frames")
    unmasked = curve(records, "unmasked_accuracy", "unmasked frames", 1)
    valid_masked = curve(records, "valid_masked_accuracy", "masked, validation", 2)
    perplexity = curve(records, "unit_perplexity", "training")
    valid_perplexity = curve(records, "valid_unit_perplexity", "validation", 1)

    return grid([
        card("Loss, nats per masked frame", curves([loss, valid_loss], Axes(references=[(chance, "chance")])),
             f"Normal: starts near chance ({mean_of}ln {clusters} = {chance:.2f}), falls steeply, then slowly; "
             f"validation stays close. {first_to_last(loss)}{last_value(valid_loss)}"),
        card("Units predicted correctly", curves([masked, unmasked, valid_masked], Axes(low=0.0, percent=True)),
             "Normal: all rise; unmasked frames are easier than masked ones, and far below 100 % is usual. "
             + last_value(masked, percent=True)),
        card("Perplexity of the predicted units", curves([perplexity, valid_perplexity], Axes(low=0.0)),
             f"Normal: rises towards the number of units in use (of {clusters}). Near 1 the same unit is predicted "
             "everywhere: the model has collapsed."),
        card("Learning rate", curves([curve(records, "lr", "")], Axes(low=0.0)),
             "Normal: a straight rise (warm-up) to the peak, then a straight fall to 0."),
        gradient_card(records, clip_norm),
        speed_card(records)])


def finetuning(records: Sequence[dict], num_classes: int, clip_norm: float, selected: int | None) -> str:
    """Curves of fine-tuning: loss, validation scores with the selected epoch, gradient norm, learning rate."""
    chance = math.log(num_classes)                                              # loss of guessing, nats
    loss = curve(records, "loss", "training")
    ua, wa = curve(records, "valid_ua", "UA"), curve(records, "valid_wa", "WA", 1)
    vertical = (selected, f"selected: epoch {selected}") if selected else None
    validation = curves([ua, wa], Axes("epoch", references=[(1 / num_classes, "chance")], low=0.0, high=1.0,
                                       percent=True, vertical=vertical))
    best = f"Best UA {100 * max(ua.y):.1f} %." if ua.x else ""
    if not ua.x:
        validation = validation.replace("nothing was logged", "no validation; the last epoch is used")

    rates = curve(records, "lr", "").y
    learning_rate = ""
    if rates:
        change = f" to {rates[-1]:.3g}" if len(set(rates)) > 1 else ", constant"
        learning_rate = f" Learning rate: {rates[0]:.3g}{change}."
    return grid([
        card("Loss, nats per utterance", curves([loss], Axes("epoch", references=[(chance, "chance")], low=0.0)),
             f"Normal: falls from chance (ln {num_classes} = {chance:.2f}) towards 0 as the model fits the training "
             f"utterances. {first_to_last(loss)}"),
        card("Validation", validation,
             "Normal: rises within a few epochs, then fluctuates; a steady fall while the loss still falls is "
             f"overfitting. {best}"),
        gradient_card(records, clip_norm, "epoch", learning_rate)])


def layer_shares(shares: Sequence[float]) -> str:
    """How much each layer counts in a frozen probe. shares (L + 1,), sum 1."""
    return grid([card("Layers in the weighted sum", histogram(shares, "layer", mean_label="all alike"),
                      "How much each layer counts, all brought to one scale; 0 is the blocks' input. Normal: close to "
                      "all alike after a short training; what stands out holds more of the emotion.")])


def frame_training(scorer: Sequence[dict], records: Sequence[dict], num_classes: int, settings: dict,
                   spreads: Mapping[str, Mapping[str, float]]) -> str:
    """Curves of a classifier of frames: the scorer's loss, what its scores say, and the recogniser's loss.

    settings: of `FramesConfig`; spreads: `frame_labels.Spread` of each emotion.
    """
    chance, weight = math.log(num_classes), settings["utterance_weight"]        # loss of guessing, nats
    both = (1 + weight) * chance
    of_scorer, of_recogniser = curve(scorer, "loss", "scorer"), curve(records, "loss", "recogniser")
    loss = Axes(references=[(both, "chance")], low=0.0)
    shares = [(name, f"{100 * of_emotion['coverage']:.0f} %") for name, of_emotion in spreads.items()]
    return grid([
        card("Loss of the scorer, nats per frame", curves([of_scorer], Axes(references=[(chance, "chance")], low=0.0)),
             f"Short stretches of different utterances, each by its utterance's label. Normal: falls from chance "
             f"(ln {num_classes} = {chance:.2f}) and stays well above 0: parts of an emotional utterance are neutral. "
             f"{first_to_last(of_scorer)}"),
        card("Emotional share of emotional utterances", facts(shares),
             "How much of the time of each emotion's utterances is emotional, as estimated from the scorer's scores of "
             f"frames. Above {100 * settings['whole_coverage']:.0f} % the whole utterance is taken."),
        card("Loss of the recogniser, nats", curves([of_recogniser], loss),
             f"Cross-entropy of a frame with its soft label and {weight:g} x that of the utterance. Normal: falls from "
             f"chance ({both:.2f}), steeply at first. {first_to_last(of_recogniser)}"),
        gradient_card(records, settings["clip_norm"])])


def speed_card(records: Sequence[dict]) -> str:
    """How much sound was processed in a second."""
    speed = curve(records, "audio_seconds_per_second", "")
    return card("Speed, seconds of sound per second", curves([speed], Axes(low=0.0)),
                "Normal: constant after the first updates. A fall means that something else uses the machine.")


def gradient_card(records: Sequence[dict], clip_norm: float, x: str = "update", note: str = "") -> str:
    """The gradient norm before clipping."""
    norm = curve(records, "gradient_norm", "")
    clipped = sum(value > clip_norm for value in norm.y)
    skipped = sum(record.get("skipped_updates") or 0 for record in records)
    references = [(clip_norm, "clipped above")] if clipped else ()
    is_narrow = min(norm.y, default=0) * 20 > max(norm.y, default=0)
    axes = Axes(x, references=references, low=0.0 if is_narrow else None, logarithmic=True)
    return card("Gradient norm", curves([norm], axes),
                "Normal: settles; single peaks are harmless, a steady rise is not. "
                f"Above the clipping norm {clip_norm:g} in {clipped} of {len(norm.y)} logged; skipped (not finite): "
                f"{skipped}.{note}")


def first_to_last(curve: Curve) -> str:
    """The first and the last value, in words."""
    return f"Here: from {curve.y[0]:.2f} to {curve.y[-1]:.2f}. " if curve.x else ""


def last_value(curve: Curve, percent: bool = False) -> str:
    """The last value, in words."""
    if not curve.x:
        return ""
    value = f"{100 * curve.y[-1]:.1f} %" if percent else f"{curve.y[-1]:.2f}"
    return f"Last, {curve.name}: {value}."
