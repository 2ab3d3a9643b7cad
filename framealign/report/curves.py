"""What the log of a stage says: `log.jsonl` as curves, each with what is normal and what it was here."""
import json
import math
from collections.abc import Sequence
from pathlib import Path

from framealign.report.charts import Axes, Curve, curves
from framealign.report.html_document import card, grid


def read(path: str | Path) -> list[dict]:
    """The records of a `log.jsonl`, in order; a line torn by an interruption is left out, a missing file is empty."""
    path, records = Path(path), []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and isinstance(record.get("update"), (int, float)):
            records.append(record)
    return records


def curve(records: Sequence[dict], key: str, name: str, kind: int = 0) -> Curve:
    """One quantity over updates (epochs, for fine-tuning)."""
    found = [(record["update"], record[key]) for record in records if record.get(key) is not None]
    return Curve(name, [x for x, _ in found], [y for _, y in found], kind)


def pretraining(records: Sequence[dict], num_clusters: list[int], clip_norm: float) -> str:
    """Curves of masked prediction: loss, accuracies, perplexity, learning rate, gradient norm.

    num_clusters: of each codebook; of several, losses and perplexities are (geometric) means.
    """
    guess = sum(map(math.log, num_clusters)) / len(num_clusters)
    clusters = ", ".join(map(str, num_clusters))
    guessing = f"{'mean of ' if len(num_clusters) > 1 else ''}ln {clusters} = {guess:.2f}"
    loss, valid = curve(records, "loss", "hidden frames, training"), curve(records, "valid_loss", "validation", 1)
    hidden = curve(records, "masked_accuracy", "hidden frames")
    return grid([
        card("Loss, nats per hidden frame", curves([loss, valid], Axes(references=[(guess, "guessing")])),
             f"Normal: starts near guessing ({guessing}), falls steeply, then slowly; validation "
             f"stays close. {fell(loss)}{ended(valid)}"),
        card("Units predicted right", curves(
            [hidden, curve(records, "unmasked_accuracy", "visible frames", 1),
             curve(records, "valid_masked_accuracy", "hidden, validation", 2)], Axes(low=0.0, percent=True)),
             "Normal: all rise; frames that can be seen are easier than hidden ones, and far below 100 % is usual. "
             + ended(hidden, 100, " %")),
        card("Perplexity of the predicted units", curves(
            [curve(records, "unit_perplexity", "training"), curve(records, "valid_unit_perplexity", "validation", 1)],
            Axes(low=0.0)),
             f"Normal: rises towards the number of units in use (of {clusters}). Near 1 the same unit is predicted "
             "everywhere: the model has collapsed."),
        card("Learning rate", curves([curve(records, "lr", "")], Axes(low=0.0)),
             "Normal: a straight rise (warm-up) to the peak, then a straight fall to 0."),
        gradient(curve(records, "gradient_norm", ""), clip_norm, records), rate(records)])


def finetuning(records: Sequence[dict], num_classes: int, clip_norm: float, selected: int | None) -> str:
    """Curves of fine-tuning: loss, validation scores with the epoch that was selected, gradient norm, learning rate."""
    lr = sorted({record["lr"] for record in records if "lr" in record})
    constant = f" Learning rate: {lr[0]:.3g}" + (", constant." if len(lr) == 1 else f" to {lr[-1]:.3g}.") if lr else ""
    loss, guess = curve(records, "loss", "training"), math.log(num_classes)
    ua = curve(records, "valid_ua", "UA")
    upright = (selected, f"selected: epoch {selected}") if selected else None
    shown = curves([ua, curve(records, "valid_wa", "WA", 1)],
                   Axes("epoch", references=[(1 / num_classes, "guessing")], low=0.0, high=1.0, percent=True,
                        upright=upright))
    return grid([
        card("Loss, nats per utterance", curves([loss], Axes("epoch", references=[(guess, "guessing")], low=0.0)),
             f"Normal: falls from guessing (ln {num_classes} = {guess:.2f}) towards 0 as the training utterances are "
             f"learnt. {fell(loss)}"),
        card("Validation", shown if ua.x else shown.replace("nothing was logged", "nothing is validated: last epoch"),
             "Normal: rises within a few epochs, then wavers; a steady fall while the loss still falls is overfitting. "
             + (f"Best UA {100 * max(ua.y):.1f} %." if ua.x else "")),
        gradient(curve(records, "gradient_norm", ""), clip_norm, records, "epoch", constant)])


def rate(records: Sequence[dict]) -> str:
    """How fast it went."""
    speed = curve(records, "audio_seconds_per_second", "")
    return card("Speed, seconds of sound per second", curves([speed], Axes(low=0.0)),
                "Normal: level after the first updates. A fall means that something else uses the machine.")


def gradient(norm: Curve, clip_norm: float, records: Sequence[dict], x: str = "update", words: str = "") -> str:
    clipped = sum(y > clip_norm for y in norm.y)
    skipped = sum(record.get("skipped_updates") or 0 for record in records)
    return card("Gradient norm", curves([norm], Axes(
        x, references=[(clip_norm, "clipped above")] if clipped else (), low=0.0 if min(norm.y, default=0) * 20
        > max(norm.y, default=0) else None, logarithmic=True)),
        "Normal: settles; single peaks are harmless, a steady rise is not. "
        f"Above the clipping norm {clip_norm:g} in {clipped} of {len(norm.y)} logged; skipped (not finite): {skipped}."
        + words)


def fell(found: Curve) -> str:
    """From where to where, in words."""
    return f"Here: from {found.y[0]:.2f} to {found.y[-1]:.2f}. " if found.x else ""


def ended(found: Curve, factor: float = 1.0, unit: str = "") -> str:
    """The last value, in words."""
    return f"Last, {found.name}: {factor * found.y[-1]:.{1 if unit else 2}f}{unit}." if found.x else ""
