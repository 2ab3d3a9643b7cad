"""Fine-tuning of a recogniser (alignment paper, Sec. 2.3): balanced batches of crops, selection of an epoch, the test.

What is trained, encoder, attention pooling and classifier, is `emotion.EmotionModel`.
"""
import csv
import io
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from framealign.runtime import distributed, files, log, stopping
from framealign.runtime.files import link
from framealign.runtime.seeds import derive_seed
from framealign.runtime.settings import as_dict
from framealign.sound.frames import FRAME_RATE, frames_in
from framealign.corpus.cropping import Crop, frame_counts, groups_by_length
from framealign.corpus.protocols import OPTIMISTIC, Split, check_parts, split_ids
from framealign.corpus.utterance import Utterance
from framealign.hubert.masking import span_mask
from framealign.hubert.model import Hubert
from framealign.emotion import metrics
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.metrics import scores
from framealign.training import checkpoint, optimiser
from framealign.training.batches import balanced_draw, frame_source
from framealign.training.training_config import FinetuneConfig


def training_batches(counts: Tensor, labels: Tensor, config: FinetuneConfig, epoch: int):
    """Batches of one epoch: lists of crops. counts, labels (U,) of the training utterances.

    As many draws as utterances, classes equally likely (`balanced`) or each once; a longer utterance than `max_seconds`
    gives a crop at a random place (the reference: always the first 6 s).
    """
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "epoch", epoch))
    drawn = balanced_draw(labels, len(labels), generator) if config.balanced else \
        torch.randperm(len(labels), generator=generator).tolist()
    crops = [crop_at_random(u, int(counts[u]), config.max_seconds, generator) for u in drawn]
    for first in range(0, len(crops), config.batch_size):
        yield crops[first:first + config.batch_size]


def crop_at_random(utterance: int, frames: int, max_seconds: float, generator: torch.Generator) -> Crop:
    """A crop of at most `max_seconds` (0: no limit), its start uniform over frames."""
    size = min(frames, frames_in(max_seconds)) if max_seconds else frames
    return Crop(utterance, int(torch.randint(frames - size + 1, (), generator=generator)), size)


@torch.inference_mode()
def predict(model: EmotionModel, source, counts: Tensor, chosen: list[int], max_seconds: float, device: torch.device,
            autocast, batch_frames: int = 3000) -> np.ndarray:
    """Class probabilities of the chosen utterances, (len(chosen), classes) float64, whole unless `max_seconds` > 0."""
    model.eval()
    limit = frames_in(max_seconds) if max_seconds else int(counts.max())
    sizes = counts.clamp(max=limit).tolist()
    found = {}
    groups = groups_by_length(sizes, chosen, batch_frames)
    for group in groups[distributed.rank()::distributed.world_size()]:
        inputs, lengths = source.batch([Crop(u, 0, sizes[u]) for u in group])
        with autocast():
            logits = model(inputs.to(device), lengths.to(device))
        found |= dict(zip(group, logits.cpu().double().softmax(-1).numpy()))
    found = {u: p for part in distributed.all_gather_objects(found) for u, p in part.items()}
    return np.stack([found[u] for u in chosen])


def train_step(model, source, crops: list[Crop], labels: Tensor, config: FinetuneConfig,
               device: torch.device, autocast, *name: object) -> Tensor:
    """Forward and backward of one batch in micro-batches of like lengths: mean cross-entropy, (), on the device.

    The time mask is drawn for the whole batch, so that only dropout depends on `micro_batch_size`.
    """
    rank, world = distributed.rank(), distributed.world_size()
    ordered = sorted(crops, key=lambda crop: crop.frames)
    counts = torch.tensor([crop.frames for crop in ordered])                    # (B,)
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "mask", *name))
    is_masked = None
    if config.mask_start_fraction > 0:
        is_masked = span_mask(counts, int(counts[-1]), config.mask_start_fraction, config.mask_span_frames,
                              config.mask_min_spans, generator)                 # (B, T)
    starts = range(0, len(ordered), config.micro_batch_size)
    total = torch.zeros((), device=device)
    for index in range(rank, -(-len(starts) // world) * world, world):
        start, weight = (starts[index], 1.0) if index < len(starts) else (0, 0.0)
        stop = min(start + config.micro_batch_size, len(ordered))
        part = ordered[start:stop]
        inputs, lengths = source.batch(part)
        torch.manual_seed(derive_seed(config.seed, "dropout", *name, index))
        hidden = None if is_masked is None else distributed.send(is_masked[start:stop, :int(counts[stop - 1])], device)
        sizes = counts[start:stop].tolist() if config.packed and counts[start] < counts[stop - 1] else None
        with autocast():
            logits = model(distributed.send(inputs, device), distributed.send(lengths, device), hidden, sizes)
        target = distributed.send(labels[[crop.utterance for crop in part]], device)
        loss = F.cross_entropy(logits.float(), target, reduction="sum") * (weight / len(crops))
        (optimiser.only_if_finite(loss) * world).backward()         # DDP averages over ranks
        total += loss.detach()
    return total


def finetune(hubert: Hubert, utterances: list, split: Split, classes: list[str], config: FinetuneConfig,
             run: str | Path, device: torch.device, precision: str = "auto", frontend: Path | None = None,
             stop_after: int | None = None) -> dict:
    """Fine-tune `hubert` on split.train, select an epoch, test once: results as written to `run/results.json`.

    utterances: all of the split's and possibly more (those whose conv features are kept in `frontend`). Writes
    `run/recogniser`, `run/predictions.csv`, `run/results.json`; continues from the newest checkpoint in `run`.
    stop_after ends after that epoch's checkpoint, as an interruption would. Raises ValueError as `check_parts`, or
    where `run` has a checkpoint of another configuration. It stays whole so that the loop reads top to bottom.
    """
    run = Path(run)
    counts, place = frame_counts(utterances), {u.id: i for i, u in enumerate(utterances)}
    indices = {part: [place[u.id] for u in getattr(split, part)] for part in ("train", "valid", "test")}
    labels = torch.tensor([classes.index(u.label) if u.label in classes else -1 for u in utterances])
    check_parts(split, classes, config.selection)
    train = torch.tensor(indices["train"])
    torch.manual_seed(derive_seed(config.seed, "head"))
    model = EmotionModel(hubert, classes, config.pooling, config.dropout).to(device)
    hubert.feature_extractor.requires_grad_(not config.freeze_conv)
    hubert.masked_spec_embed.requires_grad_(config.mask_start_fraction > 0)
    source = frame_source(hubert, utterances, config, frontend or run / "frontend", device)
    optimizer = optimiser.adamw([*hubert.parameters(), *model.pooling.parameters()], config.lr, (0.9, 0.999), 1e-8,
                            config.weight_decay)
    optimizer.add_param_group({"params": model.classifier.parameters(), "lr_factor": config.head_lr_factor})
    record = {"finetune": as_dict(config), "classes": classes, "split": split_ids(split)}
    per_epoch = -(-len(train) // config.batch_size)                             # updates
    done, kept, best, in_a_row = restore(model, optimizer, run, record)
    epoch, position = divmod(done, per_epoch)                                   # epochs, updates of the next one
    if best is not None and best["update"] == done:         # killed between the checkpoint and what was chosen by it
        save_best(model, run)
    checkpoint.prune(run, done, config.keep_checkpoints)
    journal = log.Log(run / "log.jsonl", config.epochs)
    journal.keep_until(epoch)
    epochs = log.Log(run / "epochs.jsonl")          # for `report.as_reference`
    epochs.keep_until(epoch)
    wrapped, autocast = distributed.replicate(model, device), distributed.autocast(device, precision)
    selecting = {"last": [], "best-test": indices["test"]}.get(config.selection, indices["valid"])
    updates = config.epochs * per_epoch
    began, first, seen = time.monotonic(), epoch, 0         # seen: frames
    steps = stopping.Steps(range(epoch + 1, min(config.epochs, stop_after or config.epochs) + 1))
    for epoch in steps:
        model.train()
        batches = list(training_batches(counts[train], labels[train], config, epoch))
        batches = [[Crop(int(train[crop.utterance]), crop.start, crop.frames) for crop in crops] for crops in batches]
        losses, flags = kept
        for index, crops in enumerate(batches[position:], position):
            losses.append(train_step(wrapped, source, crops, labels, config, device, autocast, epoch, index))
            seen += sum(crop.frames for crop in crops)
            done += 1
            lr = optimiser.linear_schedule(done, config.lr, 0, updates) if config.lr_decay else config.lr
            norm, skipped = optimiser.step(optimizer, lr, config.clip_norm)
            in_a_row = (in_a_row + 1) * skipped
            flags.append(skipped)
            if index + 1 < per_epoch and steps.asked():
                save(model, optimizer, run, done, (losses, flags), best, in_a_row, record, config.keep_checkpoints)
                stopping.stop(f"{run} has a checkpoint of epoch {epoch}, update {index + 1} of {per_epoch}")
        bad = optimiser.skipped_steps(flags, per_epoch)
        for index in bad:
            journal.write({"update": epoch, "epoch": epoch, "skipped_batch": index,
                           "utterances": sorted({utterances[crop.utterance].id for crop in batches[index - 1]})})
        optimiser.stop_if_skipping({"skipped": in_a_row, "updates": in_a_row}, done)
        loss = distributed.all_reduce_sum(torch.stack(losses)).mean()
        line = {"update": epoch, "epoch": epoch, "loss": float(loss), "lr": lr, "gradient_norm": float(norm),
                "skipped_updates": len(bad)}
        if selecting:
            found = predict(model, source, counts, selecting, config.test_max_seconds, device, autocast)
            matrix = metrics.confusion(labels[selecting].numpy(), found.argmax(-1), len(classes))
            line |= {"valid_wa": float(metrics.wa(matrix)), "valid_ua": float(metrics.ua(matrix))}
        elapsed = time.monotonic() - began
        line["audio_seconds_per_second"] = round(seen / FRAME_RATE / elapsed, 1)
        journal.write(line | {"seconds_left": round(elapsed / (epoch - first) * (config.epochs - epoch))},
                      show=epoch % max(1, config.epochs // 10) == 0)
        if config.test_every_epoch:
            noted = predict(model, source, counts, indices["test"], config.test_max_seconds, device, autocast)
            epochs.write({"update": line["update"], "epoch": epoch, "predicted": noted.argmax(-1).tolist()}, show=False)
        is_best = not selecting or best is None or line["valid_ua"] > best["valid_ua"]
        if is_best:
            best = {"epoch": epoch, "valid_ua": line.get("valid_ua"), "update": done}
        kept, position = ([], []), 0
        save(model, optimizer, run, done, kept, best, in_a_row, record, config.keep_checkpoints)
        if is_best:                                 # after its checkpoint: a run that is killed here writes it again
            save_best(model, run)
        if epoch < config.epochs and steps.asked():
            stopping.stop(f"{run} has a checkpoint of epoch {epoch}")
    if epoch < config.epochs:
        return {}
    chosen = EmotionModel.from_pretrained(run / "recogniser").to(device)
    return test(chosen, source, counts, labels, indices, utterances, split, config, best, run, device, autocast)


def test(model: EmotionModel, source, counts: Tensor, labels: Tensor, indices: dict[str, list[int]], utterances: list,
         split: Split, config: FinetuneConfig, best: dict, run: Path, device: torch.device, autocast) -> dict:
    """Test the selected recogniser once; write predictions and results."""
    results = {"split": split.name, "selection": config.selection, "selected_epoch": best["epoch"],
               "classes": model.labels, "seed": config.seed, "test_max_seconds": config.test_max_seconds,
               "num_utterances": {part: len(chosen) for part, chosen in indices.items()}}
    rows = []
    for part in ("valid", "test"):
        if not indices[part]:
            continue
        found = predict(model, source, counts, indices[part], config.test_max_seconds, device, autocast)
        chosen = [utterances[u] for u in indices[part]]
        results[part] = scores(labels[indices[part]].numpy(), found.argmax(-1), model.labels,
                               [u.group for u in chosen], config.seed)
        if part == "test":
            rows = [(u.id, u.label, model.labels[p.argmax()], *(f"{x:.6f}" for x in p)) for u, p in zip(chosen, found)]
    results["optimistic"] = config.selection in OPTIMISTIC
    reported = [results[part] for part in (("valid", "test") if config.selection == "reference" else ("test",))]
    results["reported"] = {name: float(np.mean([part[name] for part in reported])) for name in ("wa", "ua", "macro_f1")}
    if distributed.rank() == 0:
        write_predictions(run / "predictions.csv", model.labels, rows)
        files.write_json(run / "results.json", results)
    distributed.barrier()
    return results


def write_predictions(path: Path, classes: list[str], rows: list[tuple]) -> None:
    """`predictions.csv`: id, true, predicted and each class's probability."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("id", "true", "predicted", *classes), *rows])
    files.write_text(path, text.getvalue())


def save(model: EmotionModel, optimizer, run: Path, update: int, kept: tuple[list[Tensor], list[Tensor]],
         best: dict | None, in_a_row: Tensor, record: dict, keep: int) -> None:
    """Write the checkpoint of `update`, counted over all epochs.

    kept: of the updates of an unfinished epoch the losses (this rank's share) and which of them were skipped.
    """
    losses, flags = kept
    losses = distributed.all_reduce_sum(torch.stack(losses)).tolist() if losses else []
    checkpoint.save(run, update, model.hubert.config, model.hubert.state_dict(), model.head(),
                    {"update": update, "optimizer": optimizer.state_dict(), "best": best, "in_a_row": in_a_row,
                     "losses": losses, "flags": [float(flag) for flag in flags], "record": files.digest_of(record)},
                    model.hubert.do_normalize, keep, model.labels)


def save_best(model: EmotionModel, run: Path) -> None:
    """Write the recogniser chosen so far."""
    if distributed.rank() == 0:
        model.save_pretrained(run / "recogniser")
    distributed.barrier()


def restore(model: EmotionModel, optimizer, run: Path, record: dict
            ) -> tuple[int, tuple[list[Tensor], list[Tensor]], dict | None, Tensor]:
    """Load the newest checkpoint of `run`: its update (0 without one), losses and skips of an unfinished epoch (rank 0
    goes on with the losses of all ranks), the best so far, updates skipped in a row."""
    found, device = checkpoint.latest(run), model.classifier.weight.device
    if found is None:
        return 0, ([], []), None, torch.zeros((), device=device)
    state, head, training = found
    if training["record"] != files.digest_of(record):
        raise ValueError(f"{run}: its checkpoint was made with another configuration or split; continue with that one, "
                         "or choose another run directory")
    model.hubert.load(state, str(run))
    model.load_state_dict(head, strict=False)
    optimizer.load_state_dict(training["optimizer"])
    log.say(f"{run}: continues after update {training['update']}")
    share = 1.0 if distributed.rank() == 0 else 0.0
    losses = [torch.tensor(loss * share, device=device) for loss in training["losses"]]
    flags = [torch.tensor(flag, device=device) for flag in training["flags"]]
    return training["update"], (losses, flags), training["best"], training["in_a_row"].to(device)


def both_ways(folder: Path, found: list[dict], utterances: list[Utterance]) -> dict:
    """One result of the two trainings of a fold, in which each speaker is tested once: all predictions in one file.

    Reported are the means of both trainings' scores; recalls, confusion and intervals are those of all predictions.
    """
    lines = [(folder / f"way{i + 1}" / "predictions.csv").read_text(encoding="utf-8").splitlines()
             for i in range(len(found))]
    joined = lines[0][:1] + [line for part in lines for line in part[1:]]
    files.write_text(folder / "predictions.csv", "\n".join(joined) + "\n")
    link(folder / "recogniser", folder / "way1" / "recogniser")
    rows, classes = list(csv.DictReader(joined)), found[0]["classes"]
    true, predicted = (np.array([classes.index(row[name]) for row in rows]) for name in ("true", "predicted"))
    group = {u.id: u.group for u in utterances}
    numbers = {part: sum(way["num_utterances"][part] for way in found) for part in ("valid", "test")}
    return {name: value for name, value in found[0].items() if name != "valid"} | {
        "split": ", ".join(way["split"] for way in found), "selected_epoch": [way["selected_epoch"] for way in found],
        "num_utterances": {"train": found[0]["num_utterances"]["train"], **numbers},
        "test": scores(true, predicted, classes, [group[row["id"]] for row in rows], found[0]["seed"]),
        "reported": {name: sum(way["reported"][name] for way in found) / len(found) for name in found[0]["reported"]},
        "ways": found}
