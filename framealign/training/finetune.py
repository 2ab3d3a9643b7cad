"""Fine-tuning of a recogniser (alignment paper, Sec. 2.3): balanced batches of crops, selection of an epoch, the test.

What is trained, encoder, attention pooling and classifier, is `emotion_model.EmotionModel`.
"""
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from framealign.runtime import distributed, files, log, stopping
from framealign.runtime.seeds import derive_seed
from framealign.runtime.settings import as_dict
from framealign.sound.degradation import Degradation
from framealign.sound.frames import EVERY_20_MS, Framing, frames_in, num_frames
from framealign.corpus import frame_truth
from framealign.corpus.cropping import Crop, Waveforms, frame_counts, groups_by_length
from framealign.corpus.protocols import OPTIMISTIC, Split, check_parts, split_digest
from framealign.corpus.utterance import NEUTRAL, PARTS, Utterance, by_corpus, corpus_digest
from framealign.hubert.masking import span_mask
from framealign.hubert.model import Hubert
from framealign.units.frame_store import FrameStore
from framealign.emotion import calibration, diarization, metrics, planted_truth
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.predictions import UNCALIBRATED, Predictions
from framealign.emotion.recogniser import Recogniser
from framealign.training import augmentation, optimiser
from framealign.training.batches import balanced_draw, corpus_numbers, frame_source, micro_batch_size
from framealign.training.checkpoint import RecogniserTraining
from framealign.training.training_config import (FinetuneConfig, FramesConfig, ProbeConfig, TrainingRun,
                                                 check_corpora)

PREDICTED_FRAMES = 3000                             # of one padded batch that is predicted: a minute


class FoldData:
    """The utterances of a fold as training reads them, each known by its place u in the list."""

    def __init__(self, utterances: Sequence[Utterance], split: Split, classes: Sequence[str],
                 source: Waveforms | FrameStore):
        place = {utterance.id: u for u, utterance in enumerate(utterances)}
        self.utterances, self.split, self.source = utterances, split, source
        self.train = [place[utterance.id] for utterance in split.train]
        self.valid = [place[utterance.id] for utterance in split.valid]
        self.test = [place[utterance.id] for utterance in split.test]
        self.framing = source.framing               # of the model that is trained
        self.counts = frame_counts(utterances, self.framing)                    # (U,) int64
        self.labels = torch.tensor([classes.index(utterance.label) if utterance.label in classes else -1
                                    for utterance in utterances])               # (U,) int64, -1: none of the classes
        self.corpora = corpus_numbers(utterances)                               # (U,) int64
        self.shares = shares_of_votes(utterances, classes)                      # (U, C)
        sizes = torch.bincount(self.labels[self.train], minlength=len(classes))             # (C,)
        self.class_weights = len(self.train) / (len(classes) * sizes.clamp(min=1))          # (C,)

    def selecting(self, selection: str) -> list[int]:
        """What an epoch is selected on: nothing, the validation part or, with "best-test", the test part itself."""
        if selection == "last":
            return []
        return self.test if selection == "best-test" else self.valid

    def logits(self, model: EmotionModel, chosen: list[int], max_seconds: float, run: TrainingRun) -> np.ndarray:
        """Class logits of the chosen utterances, not calibrated, (len(chosen), C), as `outputs`."""
        return np.stack(outputs(model, self, chosen, max_seconds, run))


def shares_of_votes(utterances: Sequence[Utterance], classes: Sequence[str]) -> Tensor:
    """Which share of an utterance's votes for classes each class has, (U, C) float32; without votes 1 for its label."""
    shares = torch.zeros(len(utterances), len(classes))
    for row, utterance in zip(shares, utterances):
        weights = votes_of(utterance, classes) or {utterance.label: 1.0}
        for name in weights.keys() & set(classes):
            row[classes.index(name)] = weights[name] / sum(weights.values())
    return shares


def votes_of(utterance: Utterance, classes: Sequence[str]) -> dict[str, float]:
    """The weights of an utterance's votes for classes (`protocols.of_classes` gives them the classes' names)."""
    return {name: weight for name, weight in utterance.votes if name in classes}


@dataclass(kw_only=True)
class Finetuning(RecogniserTraining):
    """A fine-tuning under way; its updates are counted over all epochs."""
    model: EmotionModel
    config: FinetuneConfig
    updates_per_epoch: int
    best: dict | None = None                        # the selected epoch: "epoch", "valid_ua", "update"


def finetune(hubert: Hubert, utterances: Sequence[Utterance], split: Split, classes: list[str],
             config: FinetuneConfig, run: TrainingRun) -> dict:
    """Fine-tune `hubert` (in place) on split.train, select an epoch, test once: results as written to `results.json`.

    utterances: all of the split's and possibly more (those whose conv features are computed together). Writes
    `recogniser`, `predictions.csv` and `results.json` into the run's folder; continues from the newest checkpoint
    there. Raises ValueError as `check_parts` and `check_corpora`, or where the folder has a checkpoint of another
    configuration.
    """
    check_parts(split, classes, config.selection)
    check_corpora(config, split.train)
    if config.soft_labels and not any(votes_of(utterance, classes) for utterance in split.train):
        raise ValueError(f"{split.name}: soft_labels: no training utterance has votes for these classes; give a corpus "
                         "with a column votes, or train without")
    if config.augment and config.freeze_conv and config.cache_frontend:
        log.say_once(f"augment {config.augment}: training reads sound in every epoch; no conv features are kept")
    training = prepare(hubert, split, classes, config, run)
    data = FoldData(utterances, split, classes, frame_source(hubert, utterances, config, run))
    selecting = data.selecting(config.selection)
    restore(training)

    model = distributed.replicate(training.model, run.device)
    journal = Journal(training, data)
    finished, position = divmod(training.update, training.updates_per_epoch)    # epochs, updates of the next one
    steps = stopping.Steps(range(finished + 1, config.epochs + 1))
    for epoch in steps:
        training.model.train()
        batches = list(training_batches(data, config, epoch))
        for index, crops in enumerate(batches[position:], position):
            loss = train_step(training, model, data, crops, (epoch, index))
            lr = learning_rate(training)
            norm, skipped = optimiser.step(training.optimizer, lr, config.clip_norm)
            training.losses.append(loss)
            training.count(skipped)
            journal.num_frames += sum(crop.frames for crop in crops)
            if index + 1 < len(batches) and steps.asked():
                save(training)
                stopping.stop(f"{run.folder} has a checkpoint of epoch {epoch}, update {index + 1} of {len(batches)}")

        valid = {}
        if selecting:
            probabilities = predict(training.model, data, selecting, config.test_max_seconds, run)
            valid = measure(data, selecting, probabilities)
        journal.write(epoch, batches, valid | {"lr": lr, "gradient_norm": float(norm)})
        if config.test_every_epoch:
            if selecting is not data.test:          # best-test has just predicted it
                probabilities = predict(training.model, data, data.test, config.test_max_seconds, run)
            journal.write_test_predictions(epoch, probabilities)
        is_best = not selecting or training.best is None or valid["valid_ua"] > training.best["valid_ua"]
        if is_best:
            training.best = {"epoch": epoch, "valid_ua": valid.get("valid_ua"), "update": training.update}
        training.losses, training.skipped, position = [], [], 0
        save(training)
        if is_best:                                 # after its checkpoint: a run that is killed here writes it again
            save_best(training)
        if epoch < config.epochs and steps.asked():
            stopping.stop(f"{run.folder} has a checkpoint of epoch {epoch}")

    selected = EmotionModel.from_pretrained(run.folder / "recogniser").to(run.device)
    return test(selected, data, config, run, training.best["epoch"])


def prepare(hubert: Hubert, split: Split, classes: list[str], config: FinetuneConfig, run: TrainingRun) -> Finetuning:
    """Model and optimiser of a fine-tuning at its beginning, and the record of what is begun."""
    torch.manual_seed(derive_seed(config.seed, "head"))
    model = EmotionModel(hubert, classes, config.pooling, config.dropout, config.fast_path,
                         window_seconds=config.window_seconds).to(run.device)
    hubert.feature_extractor.requires_grad_(not config.freeze_conv)
    hubert.masked_spec_embed.requires_grad_(config.mask_start_fraction > 0)
    optimizer = optimiser.adamw([*hubert.parameters(), *model.pooling.parameters()], config.lr, (0.9, 0.999), 1e-8,
                                config.weight_decay)
    optimizer.add_param_group({"params": model.classifier.parameters(), "lr_factor": config.head_lr_factor})
    record = {"finetune": as_dict(config), "classes": classes, "split": split_digest(split),
              "utterances": corpus_digest([*split.train, *split.valid, *split.test])}
    return Finetuning(model=model, optimizer=optimizer, config=config, run=run, record=record,
                      updates_per_epoch=math.ceil(len(split.train) / config.batch_size))


def learning_rate(training: Finetuning) -> float:
    """The rate of the update that comes next: constant, or with `lr_decay` linear to 0 at the last one."""
    config = training.config
    if not config.lr_decay:
        return config.lr
    return optimiser.linear_schedule(training.update + 1, config.lr, 0, config.epochs * training.updates_per_epoch)


def training_batches(data: FoldData, config: FinetuneConfig, epoch: int) -> Iterator[list[Crop]]:
    """Batches of one epoch, of crops of the training part.

    As many draws as utterances, classes (and with `balance_corpora` in each its corpora) equally likely (`balanced`) or
    each once; a longer utterance than `max_seconds` gives a crop at a random place (the reference: always the first
    6 s). With `augment` each draw is degraded first.
    """
    train = torch.tensor(data.train)
    counts, labels = data.counts[train], data.labels[train]
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "epoch", epoch))
    if config.balanced:
        corpora = data.corpora[train] if config.balance_corpora else None
        drawn = balanced_draw(labels, len(labels), generator, corpora)
    else:
        drawn = torch.randperm(len(labels), generator=generator).tolist()
    crops = []
    for place, i in enumerate(drawn):
        u, frames = int(train[i]), int(counts[i])
        degradation = augmentation.drawn(config, u, data.train, epoch, place)
        if degradation:
            degradation, frames = with_frames(degradation, data.utterances[u].num_samples, data.framing)
        crop = crop_at_random(u, frames, config.max_seconds, generator, data.framing)
        crops.append(replace(crop, degradation=degradation))
    for first in range(0, len(crops), config.batch_size):
        yield crops[first:first + config.batch_size]


def with_frames(degradation: Degradation, num_samples: int, framing: Framing) -> tuple[Degradation, int]:
    """A degradation of so many samples, and the frames that it leaves; its speed stays as it is where none were left.
    """
    if degradation.length(num_samples) < framing.receptive_field:
        degradation = replace(degradation, speed_percent=100)
    return degradation, num_frames(degradation.length(num_samples), framing)


def crop_at_random(utterance: int, num_frames: int, max_seconds: float, generator: torch.Generator,
                   framing: Framing = EVERY_20_MS) -> Crop:
    """A crop of at most `max_seconds` (0: no limit), its start uniform over frames."""
    size = min(num_frames, frames_in(max_seconds, framing)) if max_seconds else num_frames
    return Crop(utterance, int(torch.randint(num_frames - size + 1, (), generator=generator)), size)


def draw_mask(counts: Tensor, config: FinetuneConfig | FramesConfig, *name: object) -> Tensor | None:
    """Time masks of a batch, counts (B,) frames: (B, T) bool, drawn from the seed and `name`; None: no masking."""
    if config.mask_start_fraction == 0:
        return None
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "mask", *name))
    return span_mask(counts, int(counts.max()), config.mask_start_fraction, config.mask_span_frames,
                     config.mask_min_spans, generator)


def train_step(training: Finetuning, model: torch.nn.Module, data: FoldData, crops: list[Crop],
               name: tuple[int, int]) -> Tensor:
    """Forward and backward of one batch in micro-batches of like lengths: mean cross-entropy, (), on the device.

    Classes are weighted and targets smoothed as torch has it; the mean is over utterances, whatever they weigh.

    model: the training's, replicated over ranks. name: epoch and batch, which masks and dropout are drawn by. The mask
    is drawn for the whole batch, so that only dropout depends on `micro_batch_size`.
    """
    config, device = training.config, training.run.device
    autocast = distributed.autocast(device, training.run.precision)
    rank, world = distributed.rank(), distributed.world_size()
    ordered = sorted(crops, key=lambda crop: crop.frames)
    counts = torch.tensor([crop.frames for crop in ordered])                    # (B,)
    is_masked = draw_mask(counts, config, *name)                                # (B, T)
    size = micro_batch_size(len(ordered), config.micro_batch_size, world)
    starts = range(0, len(ordered), size)
    total = torch.zeros((), device=device)
    class_weights = data.class_weights.to(device) if config.class_weights else None         # (C,)
    for index in range(rank, math.ceil(len(starts) / world) * world, world):
        start, weight = (starts[index], 1.0) if index < len(starts) else (0, 0.0)
        part = ordered[start:start + size]
        mask = None
        if is_masked is not None:
            mask = distributed.send(is_masked[start:start + len(part), :part[-1].frames], device)
        inputs, lengths = data.source.batch(part)
        targets = data.shares if config.soft_labels else data.labels
        target = distributed.send(targets[[crop.utterance for crop in part]], device)       # (B, C) or (B,)
        torch.manual_seed(derive_seed(config.seed, "dropout", *name, index))
        with autocast():
            logits = model(distributed.send(inputs, device), lengths, mask)     # (B, classes)
        loss = F.cross_entropy(logits.float(), target, class_weights, reduction="sum",
                               label_smoothing=config.label_smoothing) * (weight / len(crops))
        (optimiser.only_if_finite(loss) * world).backward()         # DDP averages over ranks
        total += loss.detach()
    return total


def predict(model: EmotionModel, data: FoldData, chosen: list[int], max_seconds: float, run: TrainingRun
            ) -> np.ndarray:
    """Class probabilities of the chosen utterances, (len(chosen), classes) float64, whole unless `max_seconds` > 0."""
    return model.calibration.probabilities(data.logits(model.eval(), chosen, max_seconds, run))


@torch.inference_mode()
def outputs(compute: Callable[[Tensor, Tensor], Tensor], data: FoldData, chosen: list[int], max_seconds: float,
            run: TrainingRun) -> list[np.ndarray]:
    """What a model in evaluation computes of each chosen utterance, float64, whole unless `max_seconds` > 0.

    compute: what gives (B, ...) of a batch of inputs, padded, and their lengths (B,). Ranks share the work; all get the
    same.
    """
    autocast = distributed.autocast(run.device, run.precision)
    limit = frames_in(max_seconds, data.framing) if max_seconds else int(data.counts.max())
    sizes = data.counts.clamp(max=limit).tolist()
    computed = {}
    groups = groups_by_length(sizes, chosen, PREDICTED_FRAMES)
    for group in groups[distributed.rank()::distributed.world_size()]:
        inputs, lengths = data.source.batch([Crop(u, 0, sizes[u]) for u in group])
        with autocast():
            values = compute(inputs.to(run.device), lengths)
        computed.update(zip(group, values.cpu().double().numpy()))
    gathered = {}
    for part in distributed.all_gather_objects(computed):
        gathered.update(part)
    return [gathered[u] for u in chosen]


def measure(data: FoldData, chosen: list[int], probabilities: np.ndarray) -> dict[str, float]:
    """WA and UA of the chosen utterances, for the selection of an epoch. probabilities (len(chosen), classes)."""
    matrix = metrics.confusion(data.labels[chosen].numpy(), probabilities.argmax(-1), probabilities.shape[1])
    return {"valid_wa": float(metrics.wa(matrix)), "valid_ua": float(metrics.ua(matrix))}


def calibrate(model: EmotionModel, data: FoldData, config: FinetuneConfig | FramesConfig | ProbeConfig,
              run: TrainingRun, frame_labels: list[np.ndarray] | None = None) -> np.ndarray:
    """Fit the model's temperatures on the validation part, and write them into its directory (`Calibration`).

    Returns the logits of the validation part, not calibrated, (U, C).

    frame_labels: of each validation utterance (T', C), how much of each class its first T' frames have, all 0 where
    that is unknown; None: that of its utterance, as training has it where there is no classifier of frames.
    """
    model.eval()
    labels, settings = data.labels[data.valid].numpy(), (data.valid, config.test_max_seconds, run)
    logits = data.logits(model, *settings)                                      # (U, C)
    targets = np.eye(len(model.labels))[labels]
    of_frames = [rows[:data.counts[u]] for u, rows in zip(data.valid, outputs(model.frame_logits, data, *settings))]
    if frame_labels is None:
        frame_labels = [np.tile(target, (len(rows), 1)) for target, rows in zip(targets, of_frames)]
    both = [(rows[:len(target)], target[:len(rows)]) for rows, target in zip(of_frames, frame_labels)]
    temperatures = calibration.Calibration(calibration.temperature(logits, targets, np.ones(len(labels))),
                                           calibration.of_frames(*map(list, zip(*both))))
    speakers = {data.utterances[u].speaker for u in data.valid}
    shares = temperatures.probabilities(logits)
    model.calibration = replace(
        temperatures, fitted_on=f"validation: {len(labels)} utterances of {len(speakers - {''}) or 'unknown'} speakers",
        confidences=tuple(shares.max(-1).tolist()), right=tuple((shares.argmax(-1) == labels).tolist()))
    if distributed.rank() == 0:
        model.calibration.write(run.folder / "recogniser")
    return logits


def test(model: EmotionModel, data: FoldData, config: FinetuneConfig | FramesConfig | ProbeConfig, run: TrainingRun,
         selected_epoch: int, frame_labels: list[np.ndarray] | None = None) -> dict:
    """Calibrate the selected recogniser on the validation part, if there is one, and test it once; write predictions
    and results.

    A selection that looks at the test session is not calibrated: its validation part tells nothing of new speakers.
    frame_labels: as of `calibrate`.

    Where it is known of test utterances when they are emotional, the first rank's results have the scores of the
    emotion over time (`diarization.scores`), of whole sounds, as "over_time". Of several corpora they have the number
    of utterances that each part has of each, as "corpora". Where the emotion over time is that of windows they have
    "window_seconds".
    """
    results = {"split": data.split.name, "selection": config.selection, "selected_epoch": selected_epoch,
               "classes": model.labels, "seed": config.seed, "test_max_seconds": config.test_max_seconds,
               "num_utterances": {"train": len(data.train), "valid": len(data.valid), "test": len(data.test)}}
    corpora = {part: by_corpus(getattr(data.split, part)) for part in PARTS}
    if len({name for counts in corpora.values() for name in counts}) > 1:
        results["corpora"] = corpora
    if model.window_seconds:
        results["window_seconds"] = model.window_seconds
    is_calibrated, of_valid = bool(data.valid) and config.selection not in OPTIMISTIC, None
    if is_calibrated:
        of_valid = calibrate(model, data, config, run, frame_labels)
        results["calibration"] = {"utterances": model.calibration.utterances, "frames": model.calibration.frames,
                                  "fitted_on": model.calibration.fitted_on}
    for part, chosen in (("valid", data.valid), ("test", data.test)):
        if chosen:
            if part == "valid" and is_calibrated:
                probabilities = model.calibration.probabilities(of_valid)
            else:
                probabilities = predict(model, data, chosen, config.test_max_seconds, run)
            predictions = Predictions.of([data.utterances[u] for u in chosen], model.labels, probabilities)
            results[part] = predictions.scores()
            if is_calibrated:
                before = replace(predictions, probabilities=model.calibration.undone(probabilities))
                results[part]["uncalibrated"] = before.scores()["calibration"]
    if distributed.rank() == 0 and NEUTRAL in model.labels and any(map(frame_truth.exists, data.split.test)):
        recogniser = Recogniser(model, run.device)
        results["over_time"] = diarization.scores(planted_truth.recognised(recogniser, data.split.test))
    results["optimistic"] = config.selection in OPTIMISTIC
    reported = [results["valid"], results["test"]] if config.selection == "reference" else [results["test"]]
    results["reported"] = {name: float(np.mean([scores[name] for scores in reported]))
                           for name in ("wa", "ua", "macro_f1")}
    if distributed.rank() == 0:
        predictions.write(run.folder / "predictions.csv")                       # of the test, which came last
        if is_calibrated:
            before.write(run.folder / UNCALIBRATED)
        files.write_json(run.folder / "results.json", results)
    distributed.barrier()
    return results


def finetune_fold(load: Callable[[], Hubert], utterances: Sequence[Utterance], splits: list[Split],
                  classes: list[str], config: FinetuneConfig, run: TrainingRun) -> dict:
    """`finetune` on the one split of a fold, or on each of several, in folders `way1`, `way2` ..., with one result.

    load: gives the encoder that each starts from. The result of several is that of rank 0 alone.
    """
    def train(split: Split, of_split: TrainingRun) -> dict:
        return finetune(load(), utterances, split, classes, config, of_split)

    return of_splits(train, utterances, splits, run)


def of_splits(train: Callable[[Split, TrainingRun], dict], utterances: Sequence[Utterance], splits: list[Split],
              run: TrainingRun) -> dict:
    """The results of `train` on the one split of a fold, or one result of its several, each in a folder of its own."""
    if len(splits) == 1:
        return train(splits[0], run)
    ways = [replace(run, folder=run.folder / f"way{number}", frontend=run.features)
            for number in range(1, len(splits) + 1)]
    results = [train(split, way) for split, way in zip(splits, ways)]
    return one_result(run.folder, ways, results, utterances) if distributed.rank() == 0 else results[0]


def one_result(folder: Path, ways: list[TrainingRun], results: list[dict], utterances: Sequence[Utterance]) -> dict:
    """One result of a fold's trainings, in which each speaker is tested once: all predictions in one file.

    Reported are the means of the trainings' scores; recalls, confusion and intervals are those of all predictions. The
    fold's recogniser is that of the first. Scores of the emotion over time stay with each training.
    """
    by_id = {utterance.id: utterance for utterance in utterances}
    names = ["predictions.csv", UNCALIBRATED] if "calibration" in results[0] else ["predictions.csv"]
    tables = {name: Predictions.joined([Predictions.read(way.folder / name, by_id) for way in ways]) for name in names}
    for name, table in tables.items():
        table.write(folder / name)
    predictions = tables["predictions.csv"]
    files.link(folder / "recogniser", ways[0].folder / "recogniser")

    first = results[0]
    reported = {name: sum(way["reported"][name] for way in results) / len(results) for name in first["reported"]}
    numbers = dict.fromkeys(("valid", "test"), len(predictions.ids))            # who validates is also tested
    joined = {name: value for name, value in first.items() if name not in ("valid", "over_time")} | {
        "split": ", ".join(way["split"] for way in results),
        "selected_epoch": [way["selected_epoch"] for way in results],
        "num_utterances": {"train": first["num_utterances"]["train"], **numbers},
        "test": predictions.scores(), "reported": reported, "ways": results}
    if "corpora" in first:
        tested = by_corpus(by_id[name] for name in predictions.ids)
        joined["corpora"] = first["corpora"] | dict.fromkeys(("valid", "test"), tested)
    if UNCALIBRATED in tables:
        joined["test"]["uncalibrated"] = tables[UNCALIBRATED].scores()["calibration"]
    files.write_json(folder / "results.json", joined)
    return joined


class Journal:
    """`log.jsonl` of a fine-tuning, a line each epoch; and `epochs.jsonl`, what each epoch predicts of the test part.

    Nothing is selected by the latter: `results.reference_scores` computes from it what the released code would report.
    """

    def __init__(self, training: Finetuning, data: FoldData):
        self.training, self.data = training, data
        self.first = training.update // training.updates_per_epoch              # epochs done before
        self.log = log.Log(training.run.folder / "log.jsonl", training.config.epochs)
        self.test_log = log.Log(training.run.folder / "epochs.jsonl")
        for journal in (self.log, self.test_log):
            journal.keep_until(self.first)
        self.began, self.num_frames = time.monotonic(), 0

    def write(self, epoch: int, batches: list[list[Crop]], measures: dict[str, float]) -> None:
        """The line of an epoch just done. Raises ValueError where the last updates were all skipped."""
        training, config = self.training, self.training.config
        skipped = optimiser.skipped_steps(training.skipped, len(batches))
        for number in skipped:
            ids = sorted({self.data.utterances[crop.utterance].id for crop in batches[number - 1]})
            self.log.write({"update": epoch, "epoch": epoch, "skipped_batch": number, "utterances": ids})
        optimiser.stop_if_skipping(training.skipped_in_a_row, training.update)

        loss = training.mean_loss()
        elapsed = time.monotonic() - self.began
        rate = self.num_frames / self.data.framing.rate / elapsed
        left = elapsed / (epoch - self.first) * (config.epochs - epoch)
        line = {"update": epoch, "epoch": epoch, "loss": loss, "skipped_updates": len(skipped), **measures,
                "audio_seconds_per_second": round(rate, 1), "seconds_left": round(left)}
        self.log.write(line, show=epoch % max(1, config.epochs // 10) == 0)

    def write_test_predictions(self, epoch: int, probabilities: np.ndarray) -> None:
        """The class numbers that this epoch predicts of the test part. probabilities (U, classes)."""
        line = {"update": epoch, "epoch": epoch, "predicted": probabilities.argmax(-1).tolist()}
        self.test_log.write(line, show=False)


def save(training: Finetuning) -> None:
    """Write the checkpoint of the update just done, with the epoch selected so far."""
    training.save(best=training.best)


def save_best(training: Finetuning) -> None:
    """Write the recogniser selected so far."""
    if distributed.rank() == 0:
        training.model.save_pretrained(training.run.folder / "recogniser")
    distributed.barrier()


def restore(training: Finetuning) -> None:
    """Continue from the newest checkpoint of the run's folder, if there is one."""
    state = training.restore()
    if state is None:
        return
    training.best = state["best"]
    if training.best is not None and training.best["update"] == training.update:
        save_best(training)                         # killed between the checkpoint and what was selected by it
