"""Masked prediction of units (HuBERT, Sec. II-B and IV-C): mask spans of frames, predict the unit of each masked frame.

One loop serves HuBERT from scratch, task-adaptive pretraining and pretraining on frame-level pseudo-emotion units
(alignment paper, Sec. 2.1 and 2.2): they differ in units and in what the encoder starts from.
"""
import contextlib
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from framealign.runtime import distributed, files, log, stopping
from framealign.runtime.seeds import derive_seed
from framealign.runtime.settings import as_dict
from framealign.sound.frames import EVERY_20_MS, Framing, frames_in
from framealign.corpus.cropping import Crop, Waveforms, frame_counts
from framealign.corpus.utterance import Utterance, corpus_digest
from framealign.hubert.masking import span_mask
from framealign.hubert.model import Hubert
from framealign.hubert.objective import (MaskedPrediction, MicroBatch, add_up, frame_weights, positions_of,
                                         pretraining_loss, sums_for_log)
from framealign.units.frame_store import FrameStore
from framealign.units.units import Units
from framealign.training import checkpoint, optimiser
from framealign.training.batches import (ahead, batch_ids, frame_source, micro_batches_per_update,
                                         pretraining_micro_batches)
from framealign.training.checkpoint import Training
from framealign.training.training_config import PretrainConfig, TrainingRun

SUMS = ("loss", "masked", "masked_correct", "unmasked", "unmasked_correct")     # of `sums_for_log`, each one number


@dataclass(kw_only=True)
class Pretraining(Training):
    """A pretraining under way."""
    model: MaskedPrediction
    config: PretrainConfig
    sums: dict[str, Tensor] = field(default_factory=dict)       # `sums_for_log` since the last line of the log

    @property
    def num_clusters(self) -> list[int]:
        """K of each codebook."""
        return [len(head.codewords) for head in self.model.heads]


def pretrain(hubert: Hubert, utterances: Sequence[Utterance], units: Units | list[Units], config: PretrainConfig,
             run: TrainingRun) -> Path:
    """Pretrain `hubert` (in place) to predict `units`, or those of several codebooks at once.

    Continues from the newest checkpoint in the run's folder, if there is one. Returns `encoder` there, a Hugging Face
    directory without the heads. Every rank calls it alike; the global batch does not depend on their number. Raises
    ValueError for units of other utterances, and where the folder has a checkpoint of another configuration.
    """
    units = [units] if isinstance(units, Units) else units
    for of_codebook in units:
        of_codebook.check(utterances, "units", hubert.config.framing)
    training, framing = prepare(hubert, utterances, units, config, run), hubert.config.framing
    train_counts, valid_counts = hold_out(frame_counts(utterances, framing), config, framing)
    source = frame_source(hubert, utterances, config, run)
    restore(training)

    model = distributed.replicate(training.model, run.device)
    autocast = distributed.autocast(run.device, run.precision)
    batches = ahead(global_batches(source, units, train_counts, config, training.update + 1, framing))
    journal = Journal(training, utterances, train_counts)
    steps = stopping.Steps(range(training.update + 1, config.updates + 1))
    training.model.train()
    for update in steps:
        global_batch = next(batches)
        lr = optimiser.linear_schedule(update, config.peak_lr, config.warmup_updates, config.updates)
        is_kept = draw_kept_layers(hubert, config.seed, update)
        is_logged = update % config.log_every_updates == 0 or update == config.updates
        for index, batch in enumerate(global_batch.micro_batches):
            batch = batch.to(run.device)
            torch.manual_seed(dropout_seed(config, update, index))
            is_last = index + 1 == len(global_batch.micro_batches)
            with contextlib.nullcontext() if is_last else distributed.gradients_apart(model):
                with autocast():
                    prediction = model(batch, is_kept, is_logged or config.unmasked_weight > 0)
                loss = pretraining_loss(prediction, batch, config.unmasked_weight, config.feature_penalty)
                loss = loss + zero_of_dropped(hubert, is_kept)
                # DDP averages gradients over ranks; the factor turns that into the mean over all masked frames.
                factor = batch.weight * distributed.world_size() / max(global_batch.weighted_frames, 1)
                (optimiser.only_if_finite(loss) * factor).backward()
            if batch.weight:
                add_up(training.sums, sums_for_log(prediction, batch))
        leave_dropped(hubert, is_kept)
        norm, skipped = optimiser.step(training.optimizer, lr, config.clip_norm)
        training.count(skipped)

        journal.audio_seconds += global_batch.audio_seconds
        if is_logged:
            journal.write(lr, norm)
        if valid_counts.any() and (update % config.valid_every_updates == 0 or update == config.updates):
            journal.write_validation(validate(training, source, units, valid_counts))
        asked_to_stop = steps.asked()
        if asked_to_stop or update % config.save_every_updates == 0 or update == config.updates:
            save(training)
        if asked_to_stop:
            stopping.stop(f"{run.folder} has a checkpoint of update {update}")
    if distributed.rank() == 0:
        hubert.save_pretrained(run.folder / "encoder")
        files.write_json(run.folder / "pretrain.json", training.record)
    distributed.barrier()
    return run.folder / "encoder"


def prepare(hubert: Hubert, utterances: Sequence[Utterance], units: list[Units], config: PretrainConfig,
            run: TrainingRun) -> Pretraining:
    """Model and optimiser of a pretraining at its beginning, and the record of what is begun."""
    num_clusters = [of_codebook.num_clusters for of_codebook in units]
    torch.manual_seed(derive_seed(config.seed, "head"))
    model = MaskedPrediction(hubert, num_clusters, config.projection_size, config.temperature).to(run.device)
    hubert.feature_extractor.requires_grad_(not config.freeze_conv)
    if config.compile_blocks:
        for block in hubert.encoder.layers:
            block.compile(dynamic=True)             # one program for all blocks, batch sizes and lengths
    # Crops have no padding to save; the rest of the fast path pays on a CPU, and compiled blocks are the plain ones.
    model.fast_path = config.fast_path and run.device.type == "cpu" and not config.compile_blocks
    optimizer = optimiser.adamw(model.parameters(), config.peak_lr, (config.adam_beta1, config.adam_beta2),
                                config.adam_eps, config.weight_decay)
    record = {"pretrain": as_dict(config), "num_clusters": num_clusters,
              "units": [files.digest_bytes(of_codebook.units.int().numpy().tobytes()) for of_codebook in units],
              "utterances": corpus_digest(utterances)}
    return Pretraining(model=model, optimizer=optimizer, config=config, run=run, record=record)


def hold_out(counts: Tensor, config: PretrainConfig, framing: Framing = EVERY_20_MS) -> tuple[Tensor, Tensor]:
    """Frame counts for training and for validation: an utterance of the other part counts 0 frames. (U,) each.

    Only utterances of `min_seconds` or more are held out, and never the last of them.
    """
    usable = torch.nonzero(counts >= frames_in(config.min_seconds, framing)).flatten()
    number = min(round(len(usable) * config.valid_fraction), max(0, len(usable) - 1))
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "valid"))
    is_valid = torch.zeros(len(counts), dtype=torch.bool)
    is_valid[usable[torch.randperm(len(usable), generator=generator)[:number]]] = True
    return torch.where(is_valid, 0, counts), torch.where(is_valid, counts, 0)


@dataclass(frozen=True)
class GlobalBatch:
    """One update: this rank's share of the micro-batches, and what concerns the batch of all ranks."""
    micro_batches: list[MicroBatch]
    weighted_frames: float                          # the loss is divided by: masked frames, and unmasked by weight
    audio_seconds: float


def global_batches(source: Waveforms | FrameStore, units: list[Units], counts: Tensor, config: PretrainConfig,
                   first_update: int, framing: Framing = EVERY_20_MS) -> Iterator[GlobalBatch]:
    """The endless stream of updates from `first_update` on.

    Micro-batch i goes to rank i mod W. Where they do not divide evenly over W ranks, each is split by its utterances
    into so many shares that these do; the loss is the same sum. A share that is left empty, of a micro-batch of few
    utterances, repeats one of them with weight 0, so that all ranks take part in the reduction.
    """
    rank, world = distributed.rank(), distributed.world_size()
    per_update = micro_batches_per_update(config)
    parts = world // math.gcd(per_update, world)    # of each micro-batch
    shares = [(index, part) for index in range(per_update) for part in range(parts)]
    stream = pretraining_micro_batches(counts, config, framing)
    stream = itertools.islice(stream, (first_update - 1) * per_update, None)
    for update in itertools.count(first_update):
        crops = list(itertools.islice(stream, per_update))
        masks = [draw_mask(part, config, update, index) for index, part in enumerate(crops)]
        weighted_frames = [float(frame_weights(mask, config.unmasked_weight).sum()) for mask in masks]
        micro_batches = []
        for index, part in shares[rank::world]:
            own, weight = (slice(part, None, parts), 1.0) if part < len(crops[index]) else (slice(1), 0.0)
            batch = micro_batch(source, units, crops[index][own], masks[index][own], weight)
            share = len(batch.is_masked) / len(crops[index])
            micro_batches.append(replace(batch, penalised_frames=share * weighted_frames[index]))
        num_frames = sum(crop.frames for part in crops for crop in part)
        if sum(map(len, crops)) < world:
            log.say_once(f"{world} ranks are more than --batch-seconds {config.batch_seconds:g} can employ: there are "
                         "updates of fewer utterances; fewer ranks do the same")
        yield GlobalBatch(micro_batches, sum(weighted_frames), num_frames / framing.rate)


def micro_batch(source: Waveforms | FrameStore, units: list[Units], crops: list[Crop], is_masked: Tensor,
                weight: float = 1.0) -> MicroBatch:
    """Sound (or conv features) of crops of equal length, with their units and mask (B, T)."""
    inputs, lengths = source.batch(crops)
    return MicroBatch(inputs, lengths, crop_units(units, crops), is_masked, *positions_of(is_masked), weight)


def crop_units(units: list[Units], crops: list[Crop]) -> Tensor:
    """Units of each crop, all of one length, by each of M codebooks: (M, B, T) int64. Frame t has its very own unit."""
    return torch.stack([torch.stack([of_codebook.of(crop.utterance)[crop.start:crop.start + crop.frames]
                                     for crop in crops]) for of_codebook in units])


def draw_mask(crops: list[Crop], config: PretrainConfig, *name: object) -> Tensor:
    """The mask of a micro-batch, (B, T) bool, drawn from the seed and `name` alone."""
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "mask", *name))
    counts = torch.tensor([crop.frames for crop in crops])
    return span_mask(counts, int(counts.max()), config.mask_start_fraction, config.mask_span_frames,
                     config.mask_min_spans, generator)


def dropout_seed(config: PretrainConfig, update: int, index: int) -> int:
    """The seed of dropout in this rank's micro-batch `index` of an update: that of its place in the global batch."""
    place = index * distributed.world_size() + distributed.rank()
    return derive_seed(config.seed, "dropout", update, place)


def draw_kept_layers(hubert: Hubert, seed: int, update: int) -> list[bool] | None:
    """Blocks that layer drop leaves in for this update: the same on every rank."""
    if hubert.config.layerdrop == 0:
        return None
    generator = torch.Generator().manual_seed(derive_seed(seed, "layerdrop", update))
    return (torch.rand(hubert.config.num_hidden_layers, generator=generator) >= hubert.config.layerdrop).tolist()


def zero_of_dropped(hubert: Hubert, is_kept: list[bool] | None) -> Tensor | float:
    """0, with a gradient of 0 for blocks that layer drop left out: with several ranks each must have a gradient."""
    zero = 0.0
    if is_kept is not None and distributed.world_size() > 1:
        for index, block in enumerate(hubert.encoder.layers):
            if not is_kept[index]:
                zero = zero + 0.0 * sum(p.sum() for p in block.parameters())
    return zero


def leave_dropped(hubert: Hubert, is_kept: list[bool] | None) -> None:
    """Take the gradients of dropped blocks away: the reduction over ranks leaves zeros, on which momentum would act.

    On one process they have none. Either way the update passes these blocks by.
    """
    for index, block in enumerate(hubert.encoder.layers):
        if is_kept is not None and not is_kept[index]:
            for parameter in block.parameters():
                parameter.grad = None


@torch.no_grad()
def validate(training: Pretraining, source: Waveforms | FrameStore, units: list[Units], counts: Tensor
             ) -> dict[str, float]:
    """Masked prediction of the held-out utterances, always under the same masks, in evaluation mode.

    counts (U,): frames of those held out, 0 for the others. Returns `ratios` by the names valid_loss, ...
    """
    model, config, device = training.model, training.config, training.run.device
    autocast, framing = distributed.autocast(device, training.run.precision), model.hubert.config.framing
    model.eval()
    totals = {}
    for u in torch.nonzero(counts).flatten().tolist()[distributed.rank()::distributed.world_size()]:
        crops = [Crop(u, 0, min(int(counts[u]), frames_in(config.max_seconds, framing)))]
        batch = micro_batch(source, units, crops, draw_mask(crops, config, "valid", u)).to(device)
        with autocast():
            prediction = model(batch, with_unmasked=True)
        add_up(totals, sums_for_log(prediction, batch))
    model.train()
    return {f"valid_{name}": value for name, value in ratios(totals, training.num_clusters, device).items()}


def over_ranks(totals: dict[str, Tensor], num_clusters: int, device: torch.device) -> dict[str, Tensor]:
    """The sums of `totals` added over all ranks; 0 where no rank has any."""
    none = torch.zeros(num_clusters, dtype=distributed.exact_dtype(device), device=device)
    flat = torch.cat([torch.stack([totals.get(name, none[0]).to(none) for name in SUMS]),
                      totals.get("predicted", none).to(none)])
    *sums, predicted = distributed.all_reduce_sum(flat).split([1] * len(SUMS) + [num_clusters])
    return {name: x[0] for name, x in zip(SUMS, sums)} | {"predicted": predicted}


def ratios(totals: dict[str, Tensor], num_clusters: list[int], device: torch.device) -> dict[str, float]:
    """Sums over all ranks as loss per masked frame (nats), accuracies, and perplexity of the predicted units.

    Of several codebooks the (geometric) mean.
    """
    *sums, predicted = (x.tolist() for x in over_ranks(totals, sum(num_clusters), device).values())
    loss, masked, correct, unmasked, unmasked_correct = sums
    shares = [n / masked * len(num_clusters) for n in predicted if n]           # of each codebook they add up to 1
    entropy = -sum(p * math.log(p) for p in shares) / len(num_clusters)         # nats
    return {"loss": loss / max(masked, 1), "masked_accuracy": correct / max(masked, 1),
            "unmasked_accuracy": unmasked_correct / max(unmasked, 1), "unit_perplexity": math.exp(entropy)}


class Journal:
    """`log.jsonl` of a pretraining: a line every `log_every_updates`, with what was measured since the one before."""

    def __init__(self, training: Pretraining, utterances: Sequence[Utterance], train_counts: Tensor):
        self.training, self.utterances, self.train_counts = training, utterances, train_counts
        self.log = log.Log(training.run.folder / "log.jsonl", training.config.updates)
        self.log.keep_until(training.update)
        self.began, self.first, self.audio_seconds = time.monotonic(), training.update, 0.0

    def write(self, lr: float, gradient_norm: Tensor) -> None:
        """The line of the update just done; begins the sums anew. Raises ValueError where all updates are skipped."""
        training, config = self.training, self.training.config
        skipped = optimiser.skipped_steps(training.skipped, training.update)
        for number, ids in batch_ids(self.utterances, self.train_counts, config, skipped,
                                     training.model.hubert.config.framing):
            self.log.write({"update": training.update, "skipped_update": number, "utterances": ids})
        optimiser.stop_if_skipping(training.skipped_in_a_row, training.update)
        elapsed = time.monotonic() - self.began
        left = elapsed / (training.update - self.first) * (config.updates - training.update)
        self.log.write({"update": training.update,
                        **ratios(training.sums, training.num_clusters, training.run.device), "lr": lr,
                        "gradient_norm": float(gradient_norm), "skipped_updates": len(skipped),
                        "audio_seconds_per_second": round(self.audio_seconds / elapsed, 1),
                        "seconds_left": round(left)})
        training.sums.clear()
        training.skipped.clear()

    def write_validation(self, measures: dict[str, float]) -> None:
        """A line of `validate`'s numbers."""
        self.log.write({"update": self.training.update, **measures})


def save(training: Pretraining) -> None:
    """Write the checkpoint of the update just done, with the sums of all ranks since the last line of the log."""
    model, run = training.model, training.run
    heads = {f"heads.{name}": x for name, x in model.heads.state_dict().items()}
    sums = over_ranks(training.sums, sum(training.num_clusters), run.device)    # of ranks that have none, too
    state = training.state() | {"totals": sums}
    checkpoint.save(run.folder, training.update, model.hubert, heads, state, training.config.keep_checkpoints)


def restore(training: Pretraining) -> None:
    """Continue from the newest checkpoint of the run's folder, if there is one; as `Training.resume`.

    Rank 0 goes on with the sums of all ranks.
    """
    saved = training.resume("configuration, other units or other sound; continue with those")
    if saved is None:
        return
    heads, state = saved
    training.model.heads.load_state_dict({name.removeprefix("heads."): x for name, x in heads.items()})
    if distributed.rank() == 0:
        training.sums = {name: x.to(training.run.device) for name, x in state["totals"].items()}
