"""Masked prediction of units (HuBERT, Sec. II-B to II-E): hide spans of frames, predict the unit of each hidden frame.

One loop serves HuBERT from scratch, task-adaptive pretraining and pretraining on frame-level pseudo-emotion units
(alignment paper, Sec. 2.1 and 2.2): they differ in units and in what the encoder starts from.
"""
import contextlib
import itertools
import math
import time
from pathlib import Path

import torch
from torch import Tensor

from framealign.runtime import distributed, files, log, stopping
from framealign.runtime.seeds import derive_seed
from framealign.runtime.settings import as_dict
from framealign.sound.frames import FRAME_RATE, frames_in
from framealign.corpus.cropping import Crop, frame_counts
from framealign.hubert.masking import span_mask
from framealign.hubert.model import Hubert
from framealign.hubert.objective import MaskedPrediction, exact, frame_weights, places_of
from framealign.units.units import Units
from framealign.training import checkpoint, optimiser
from framealign.training.batches import (ahead, batch_ids, frame_source, micro_batches_per_update,
                                         pretraining_micro_batches)
from framealign.training.training_config import PretrainConfig


def crop_units(units: list[Units], crops: list[Crop]) -> Tensor:
    """Units of each crop, all of one length, by each of C codebooks: (C, B, T) int64. Frame t has its very own unit."""
    return torch.stack([torch.stack([one.of(crop.utterance)[crop.start:crop.start + crop.frames] for crop in crops])
                        for one in units])


def draw_mask(crops: list[Crop], config: PretrainConfig, *name: object) -> Tensor:
    """The mask of a micro-batch, (B, T) bool, drawn from the seed and `name` alone."""
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "mask", *name))
    counts = torch.tensor([crop.frames for crop in crops])
    return span_mask(counts, int(counts.max()), config.mask_start_fraction, config.mask_span_frames,
                     config.mask_min_spans, generator)


def draw_kept_layers(hubert: Hubert, seed: int, update: int) -> list[bool] | None:
    """Blocks that layer drop leaves in for this update: the same on every rank."""
    if hubert.config.layerdrop == 0:
        return None
    generator = torch.Generator().manual_seed(derive_seed(seed, "layerdrop", update))
    return (torch.rand(hubert.config.num_hidden_layers, generator=generator) >= hubert.config.layerdrop).tolist()


def hold_out(counts: Tensor, config: PretrainConfig) -> tuple[Tensor, Tensor]:
    """Frame counts for training and for validation: an utterance of the other part counts 0 frames. (U,) each.

    Only utterances of `min_seconds` or more are held out, and never the last of them.
    """
    usable = torch.nonzero(counts >= frames_in(config.min_seconds)).flatten()
    number = min(round(len(usable) * config.valid_fraction), max(0, len(usable) - 1))
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "valid"))
    is_valid = torch.zeros(len(counts), dtype=torch.bool)
    is_valid[usable[torch.randperm(len(usable), generator=generator)[:number]]] = True
    return torch.where(is_valid, 0, counts), torch.where(is_valid, counts, 0)


@torch.no_grad()
def validate(model: MaskedPrediction, source, units: list[Units], counts: Tensor, config: PretrainConfig,
             device: torch.device, autocast) -> dict[str, float]:
    """Masked prediction of the held-out utterances, always under the same masks, in evaluation mode."""
    model.eval()
    totals = {}
    for u in torch.nonzero(counts).flatten().tolist()[distributed.rank()::distributed.world_size()]:
        crops = [Crop(u, 0, min(int(counts[u]), frames_in(config.max_seconds)))]
        with autocast():
            _, sums = model(source.batch(crops)[0].to(device), crop_units(units, crops).to(device),
                            draw_mask(crops, config, "valid", u).to(device), None, True)
        add_up(totals, sums)
    model.train()
    return {f"valid_{key}": value for key, value in ratios(totals, numbers_of(units), device).items()}


def numbers_of(units: list[Units]) -> list[int]:
    """K of each codebook."""
    return [one.num_clusters for one in units]


def add_up(totals: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
    """Add `sums` to `totals` in place; nothing leaves the device."""
    for key, value in sums.items():
        totals[key] = totals[key] + value if key in totals else value


SUMS = ("loss", "masked", "masked_correct", "unmasked", "unmasked_correct")


def over_ranks(totals: dict[str, Tensor], num_clusters: int, device: torch.device) -> dict[str, Tensor]:
    """The sums of `totals` added over all ranks; 0 where no rank has any."""
    none = torch.zeros(num_clusters, dtype=exact(device), device=device)
    flat = torch.cat([torch.stack([totals.get(name, none[0]).to(none) for name in SUMS]),
                      totals.get("predicted", none).to(none)])
    *sums, predicted = distributed.all_reduce_sum(flat).split([1] * len(SUMS) + [num_clusters])
    return {name: x[0] for name, x in zip(SUMS, sums)} | {"predicted": predicted}


def ratios(totals: dict[str, Tensor], num_clusters: list[int], device: torch.device) -> dict[str, float]:
    """Sums over all ranks as loss per hidden frame (nats), accuracies, and perplexity of the predicted units.

    Of several codebooks the (geometric) mean.
    """
    *sums, predicted = (x.tolist() for x in over_ranks(totals, sum(num_clusters), device).values())
    loss, masked, correct, unmasked, unmasked_correct = sums
    shares = [n / masked * len(num_clusters) for n in predicted if n]           # of each codebook they add up to 1
    return {"loss": loss / max(masked, 1), "masked_accuracy": correct / max(masked, 1),
            "unmasked_accuracy": unmasked_correct / max(unmasked, 1),
            "unit_perplexity": math.exp(-sum(p * math.log(p) for p in shares) / len(num_clusters))}


def pretrain(hubert: Hubert, utterances: list, units: Units | list[Units], config: PretrainConfig, run: str | Path,
             device: torch.device, precision: str = "auto", frontend: Path | None = None,
             stop_after: int | None = None) -> Path:
    """Pretrain `hubert` (in place) to predict `units`, or those of several codebooks at once.

    Continues from the newest checkpoint in `run`, if there is one. Returns `run/encoder`, a Hugging Face directory
    without the heads. frontend: where the frozen conv encoder's output is kept (default: `run/frontend`). stop_after
    ends early, after that update's checkpoint, as an interruption would. Every rank calls it alike; the global batch
    does not depend on their number. Raises ValueError for units of other utterances, and where `run` has a checkpoint
    of another configuration. It stays whole so that the loop reads top to bottom.
    """
    run, rank, world = Path(run), distributed.rank(), distributed.world_size()
    units = [units] if isinstance(units, Units) else units
    for one in units:
        one.check(utterances, "units")
    torch.manual_seed(derive_seed(config.seed, "head"))
    model = MaskedPrediction(hubert, numbers_of(units), config).to(device).train()
    train_counts, valid_counts = hold_out(frame_counts(utterances), config)
    source = frame_source(hubert, utterances, config, frontend or run / "frontend", device)
    optimizer = optimiser.adamw(model.parameters(), config.peak_lr, (config.adam_beta1, config.adam_beta2),
                            config.adam_eps, config.weight_decay)
    record = {"pretrain": as_dict(config), "num_clusters": numbers_of(units),
              "units": [files.digest_bytes(one.units.int().numpy().tobytes()) for one in units],
              "utterances": files.digest_of([(u.id, u.num_samples) for u in utterances])}
    start, totals, flags, in_a_row = restore(model, optimizer, run, record)
    checkpoint.prune(run, start, config.keep_checkpoints)
    journal = log.Log(run / "log.jsonl", config.updates)
    journal.keep_until(start)
    wrapped = distributed.replicate(model, device)
    autocast = distributed.autocast(device, precision)
    per_update = micro_batches_per_update(config)
    per_rank = -(-per_update // world)
    stream = itertools.islice(pretraining_micro_batches(train_counts, config), start * per_update, None)
    batches = ahead(_load(stream, per_update, source, units, config, start + 1))
    model.train()
    began, seen = time.monotonic(), 0.0
    steps = stopping.Steps(range(start + 1, config.updates + 1))
    for update in steps:
        lr = optimiser.linear_schedule(update, config.peak_lr, config.warmup_updates, config.updates)
        logs = update % config.log_every_updates == 0 or update == config.updates
        micro_batches, weighted_frames, audio_seconds = next(batches)
        micro_batches = ([*(distributed.send(x, device) for x in tensors), weight]
                         for *tensors, weight in micro_batches)
        is_kept = draw_kept_layers(hubert, config.seed, update)
        for index, (inputs, lengths, targets, is_masked, hidden_at, seen_at, weight) in enumerate(micro_batches):
            torch.manual_seed(derive_seed(config.seed, "dropout", update, index * world + rank))
            more = index + 1 < per_rank
            with wrapped.no_sync() if more and world > 1 else contextlib.nullcontext():
                with autocast():
                    loss, sums = wrapped(inputs, targets, is_masked, is_kept, logs, lengths, (hidden_at, seen_at))
                # DDP averages gradients over ranks; the factor turns that into the mean over all hidden frames.
                (optimiser.only_if_finite(loss) * weight * world / max(weighted_frames, 1)).backward()
            if weight:
                add_up(totals, sums)
        leave_dropped(hubert, is_kept)
        norm, skipped = optimiser.step(optimizer, lr, config.clip_norm)
        flags.append(skipped)                       # of every update since the last line of the log
        in_a_row = (in_a_row + 1) * skipped         # updates skipped up to this one
        seen += audio_seconds
        if logs:
            bad = optimiser.skipped_steps(flags, update)
            for number, ids in batch_ids(utterances, train_counts, config, bad):
                journal.write({"update": update, "skipped_update": number, "utterances": ids})
            optimiser.stop_if_skipping({"skipped": in_a_row, "updates": in_a_row}, update)
            elapsed = time.monotonic() - began
            journal.write({"update": update, **ratios(totals, numbers_of(units), device), "lr": lr,
                           "gradient_norm": float(norm), "skipped_updates": len(bad),
                           "audio_seconds_per_second": round(seen / elapsed, 1),
                           "seconds_left": round(elapsed / (update - start) * (config.updates - update))})
            totals.clear()
            flags.clear()
        if update % config.valid_every_updates == 0 or update == config.updates:
            if valid_counts.any():
                found = validate(model, source, units, valid_counts, config, device, autocast)
                journal.write({"update": update, **found})
        asked = steps.asked()
        if asked or update % config.save_every_updates == 0 or update in (config.updates, stop_after):
            save(model, optimizer, run, update, totals, flags, in_a_row, record, config.keep_checkpoints)
        if asked:
            stopping.stop(f"{run} has a checkpoint of update {update}")
        if update == stop_after:
            break
    else:
        if rank == 0:
            hubert.save_pretrained(run / "encoder")
            files.write_json(run / "pretrain.json", record)
    distributed.barrier()
    return run / "encoder"


def _load(stream, per_update: int, source, units: list[Units], config: PretrainConfig, update: int):
    """Yield each update's share of this rank: micro-batches (inputs, their lengths, units, mask, places of hidden and
    of visible frames, weight); then what the loss of all ranks is divided by, and their seconds of audio.

    The divisor counts hidden frames, and visible ones by their weight. Micro-batch i goes to rank i mod W. Where they
    do not divide evenly, a rank repeats one with weight 0, so that all take part in the reduction.
    """
    rank, world = distributed.rank(), distributed.world_size()
    for update in itertools.count(update):
        crops = list(itertools.islice(stream, per_update))
        masks = [draw_mask(crop, config, update, index) for index, crop in enumerate(crops)]
        turns = [(rank + world * turn) for turn in range(math.ceil(per_update / world))]
        mine = [(index, 1.0) if index < per_update else (0, 0.0) for index in turns]
        yield ([(*source.batch(crops[i]), crop_units(units, crops[i]), masks[i], *places_of(masks[i]), weight)
                for i, weight in mine],
               sum(float(frame_weights(mask, config.unmasked_weight).sum()) for mask in masks),
               sum(crop.frames for group in crops for crop in group) / FRAME_RATE)


def leave_dropped(hubert: Hubert, is_kept: list[bool] | None) -> None:
    """Take the gradients of dropped blocks away: the reduction over ranks leaves zeros, on which momentum would act.

    On one process they have none. Either way the update passes these blocks by.
    """
    for index, block in enumerate(hubert.encoder.layers):
        if is_kept is not None and not is_kept[index]:
            for parameter in block.parameters():
                parameter.grad = None


def save(model: MaskedPrediction, optimizer, run: Path, update: int, totals: dict[str, Tensor], flags: list[Tensor],
         in_a_row: Tensor, record: dict, keep: int) -> None:
    """Write the checkpoint of `update`, with the sums of all ranks since the last line of the log.

    flags: which updates since then were skipped, on every rank the same.
    """
    heads = {f"heads.{name}": x for name, x in model.heads.state_dict().items()}
    if totals:
        totals = over_ranks(totals, sum(len(head.codewords) for head in model.heads), in_a_row.device)
    checkpoint.save(run, update, model.hubert.config, model.hubert.state_dict(), heads,
                    {"update": update, "optimizer": optimizer.state_dict(), "totals": totals,
                     "flags": [float(flag) for flag in flags], "in_a_row": in_a_row,
                     "record": files.digest_of(record)}, model.hubert.do_normalize, keep)


def restore(model: MaskedPrediction, optimizer, run: Path, record: dict
            ) -> tuple[int, dict[str, Tensor], list[Tensor], Tensor]:
    """Load the newest checkpoint of `run` into model and optimizer: its update (0 without one), the sums since the
    last line of the log (rank 0 goes on with those of all ranks), which updates since then were skipped, and how many
    in a row up to this one.

    Raises ValueError where it was made with another configuration.
    """
    found, device = checkpoint.latest(run), next(model.parameters()).device
    if found is None:
        return 0, {}, [], torch.zeros((), device=device)
    state, heads, training = found
    if training["record"] != files.digest_of(record):
        raise ValueError(f"{run}: its checkpoint was made with another configuration, other units or other utterances; "
                         "continue with those, or choose another run directory")
    model.hubert.load(state, str(run))
    model.heads.load_state_dict({name.removeprefix("heads."): x for name, x in heads.items()})
    optimizer.load_state_dict(training["optimizer"])
    log.say(f"{run}: continues after update {training['update']}")
    totals = {key: x.to(device) for key, x in training["totals"].items() if distributed.rank() == 0}
    flags = [torch.tensor(flag, device=device) for flag in training["flags"]]
    return training["update"], totals, flags, training["in_a_row"].to(device)
