"""Measuring side by side: contenders in turn (A B A B ...), their work in FLOP, their memory, the machine's own rate.

Machines drift and are shared, so a ratio is formed pair by pair, of runs one right after the other, and a rate is read
against a matrix product measured in the same rounds. Seconds of the processor stand beside seconds of the clock: on a
shared machine they are the steadier ones. `bin/bench.py` brings the contenders; the peers among them live there.
"""
import functools
import gc
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import soundfile
import torch
from torch import Tensor, nn

from framealign.runtime import allocator, distributed
from framealign.sound.frames import SAMPLE_RATE, conv_length, num_frames
from framealign.corpus.cropping import Crop, Waveforms
from framealign.corpus.utterance import Utterance
from framealign.hubert import objective
from framealign.hubert.hubert_config import HubertConfig
from framealign.units.frame_store import Extraction, FrameStore
from framealign.units.units import Units
from framealign.training import optimiser, pretrain
from framealign.training.batches import pretraining_micro_batches
from framealign.training.training_config import PretrainConfig, TrainingRun

PARTS = ("conv encoder", "transformer", "loss", "optimiser", "rest")            # of an update
MATRIX = (2048, 768, 3072)                          # the product that the machine's rate is measured with: base's FFN
GIGA = 1e9


def forward_flop(config: HubertConfig, num_samples: int, layer: int | None = None, conv: bool = True) -> float:
    """FLOP of one utterance's forward up to `layer` (None: all), a multiply-add counted as 2; no norms, no GELU.

    conv: with the conv encoder, else from its output on.
    """
    length, channels, flop = num_samples, 1, 0.0
    for width, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride):
        length = conv_length(length, (kernel,), (stride,))
        flop += 2.0 * length * channels * width * kernel if conv else 0.0
        channels = width
    T, D = length, config.hidden_size
    flop += 2.0 * T * channels * D + 2.0 * T * D * D / config.num_conv_pos_embedding_groups \
        * config.num_conv_pos_embeddings
    depth = config.num_hidden_layers if layer is None else layer
    return flop + depth * (T * (8.0 * D * D + 4.0 * D * config.intermediate_size) + 4.0 * T * T * D)


def training_flop(config: HubertConfig, num_samples: int, conv: str) -> float:
    """FLOP of one utterance's forward and backward; conv: "trained", "frozen", or "kept" (frozen, computed before)."""
    rest = forward_flop(config, num_samples, conv=False)
    encoder = forward_flop(config, num_samples, layer=0) - forward_flop(config, num_samples, layer=0, conv=False)
    return 3 * rest + {"trained": 3, "frozen": 1, "kept": 0}[conv] * encoder


@dataclass
class Contender:
    """What runs, under which name; whether it is measured under glibc's own allocation or with freed memory kept."""
    name: str
    run: Callable[[], object]
    flop: float                                     # useful work of one run
    audio_seconds: float = 0.0
    keeps_memory: bool = True
    parts: "Parts | None" = None                    # of an update: where its time goes


class Parts:
    """Where the time of an update goes: seconds of each of `PARTS`, after updates that ran inside `with`.

    A part begins with the call of a module: `conv_encoder`, `transformer` (its first one) and `head`, which is given
    the states. On the way back the transformer's begins when all gradients have passed the head, the conv encoder's, if
    it trains, when they have passed the transformer. `begin` says what no module shows: "optimiser", "rest". For a CPU:
    a device would have to be waited for at each mark.
    """

    def __init__(self, conv_encoder: nn.Module, transformer: nn.Module, head: nn.Module):
        self.modules = {"conv encoder": conv_encoder, "transformer": transformer, "loss": head}
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.is_on, self.part, self.since = False, "rest", 0.0
        self.awaited: dict[str, int] = {}           # gradients that have yet to pass a part

    def begin(self, part: str) -> None:
        """What follows is of this part."""
        if self.is_on:
            now = time.process_time()
            self.seconds[self.part] += now - self.since
            self.part, self.since = part, now

    def __enter__(self) -> "Parts":
        self.handles = [module.register_forward_pre_hook(functools.partial(self._called, part))
                        for part, module in self.modules.items()]
        self.is_on, self.part, self.since, self.awaited = True, "rest", time.process_time(), {}
        return self

    def __exit__(self, *error: object) -> None:
        self.begin("rest")
        self.is_on = False
        for handle in self.handles:
            handle.remove()

    def _called(self, part: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """A module is about to be called: its part begins, and what it is given tells when gradients have passed it."""
        self.begin(part)
        before = {"loss": "transformer", "transformer": "conv encoder"}.get(part)
        if before and inputs[0].requires_grad:
            self.awaited[part] = self.awaited.get(part, 0) + 1
            inputs[0].register_hook(functools.partial(self._passed, part, before))

    def _passed(self, part: str, before: str, gradient: Tensor) -> None:
        """A gradient came out of a part; of several, as of masked and unmasked frames, the last ends it."""
        self.awaited[part] -= 1
        if not self.awaited[part]:
            self.begin(before)


def compete(contenders: list[Contender], rounds: int, device: torch.device, dtype: torch.dtype,
            warm_up: bool = True) -> list[dict]:
    """Run every contender once to warm up (if asked), then all in turn, `rounds` times; one record for each.

    A record: median, least and greatest `seconds` of the clock, `processor_seconds` (median); how many times as fast as
    the first contender, pair by pair, by the clock (`ratio`) and by the processor (`processor_ratio`); `peak_bytes`
    beyond what was held before; `flop_per_second`; `of_matrix_product`, the share of the rate measured
    meanwhile (on a CPU per second of the processor, so that others' work does not count); seconds of the clock of each
    of its `runs`; of an update on a CPU the `shares` of its time that `PARTS` take.
    """
    product = matrix_product(device, dtype)
    first = [_run(contender, device, True) for contender in contenders] if warm_up else []
    runs, rates = [], []
    for _ in range(rounds):
        rates.append(product())
        runs.append([_run(contender, device, not first and not runs) for contender in contenders])
    rate, per_processor_second = (max(column) for column in zip(*rates))
    records = []
    for index, contender in enumerate(contenders):
        column = [row[index] for row in runs]
        clock, processor = [run[0] for run in column], [run[1] for run in column]
        ratios = {name: spread([row[0][which] / row[index][which] for row in runs])
                  for name, which in (("ratio", 0), ("processor_ratio", 1))}
        records.append({"name": contender.name, "seconds": spread(clock),
                        "processor_seconds": statistics.median(processor), **ratios,
                        "peak_bytes": (first or runs[0])[index][2], "audio_seconds": contender.audio_seconds,
                        "flop_per_second": contender.flop / statistics.median(clock),
                        "of_matrix_product": contender.flop / statistics.median(clock) / rate
                        if device.type != "cpu" else
                        contender.flop / statistics.median(processor) / per_processor_second,
                        "matrix_product_flop_per_second": rate, "runs": clock})
        if contender.parts and device.type == "cpu":
            records[-1]["shares"] = shares(contender)
    return records


def shares(contender: Contender) -> dict[str, float]:
    """The share of the processor's time that each part of an update takes, of two updates."""
    allocator.keep_freed_memory(contender.keeps_memory)
    with contender.parts as parts:
        for _ in range(2):
            contender.run()
    total = sum(parts.seconds.values())
    return {part: seconds / total for part, seconds in parts.seconds.items()}


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "greatest": max(values)}


def _run(contender: Contender, device: torch.device, is_first: bool) -> tuple[float, float, int]:
    """One run: seconds of the clock, seconds of the processor, peak bytes beyond what was held before.

    Memory shows in a contender's first run alone, before which what others left is given back; later it is kept.
    """
    allocator.keep_freed_memory(contender.keeps_memory)
    gc.collect()
    if is_first:
        allocator.give_back()
    synchronise(device)
    with Peak(device) as peak:
        clock, processor = time.perf_counter(), time.process_time()
        contender.run()
        synchronise(device)
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
    return clock, processor, peak.bytes


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Peak:
    """Peak memory of a block beyond what was held at its start: of a CUDA device its allocator's, else resident size.

    The kernel's own high-water mark is set back where that is allowed; elsewhere the size is looked at every 5 ms.
    """

    def __init__(self, device: torch.device):
        self.device, self.bytes = device, 0

    def __enter__(self) -> "Peak":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
            return self
        self.before, self.stop, self.thread = _resident("VmRSS"), threading.Event(), None
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self.thread = threading.Thread(target=self._watch, daemon=True)
            self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.stop.wait(0.005):
            self.bytes = max(self.bytes, _resident("VmRSS") - self.before)

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self.before
        elif self.thread:
            self.stop.set()
            self.thread.join()
        else:
            self.bytes = max(0, _resident("VmHWM") - self.before)


def _resident(name: str) -> int:
    """Bytes of this process's VmRSS (now) or VmHWM (most so far); 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":")), 0)


def matrix_product(device: torch.device, dtype: torch.dtype) -> Callable[[], tuple[float, float]]:
    """A function that measures one matrix product's FLOP per second, of the clock and the processor, best of 10."""
    rows, inner, columns = MATRIX
    a, b = torch.randn(rows, inner, device=device).to(dtype), torch.randn(inner, columns, device=device).to(dtype)
    out: Tensor = a @ b

    def measure() -> tuple[float, float]:
        best = [float("inf")] * 2
        for _ in range(10):
            synchronise(device)
            began = time.perf_counter(), time.process_time()
            torch.mm(a, b, out=out)
            synchronise(device)
            ended = time.perf_counter(), time.process_time()
            best = [min(least, end - begin) for least, begin, end in zip(best, began, ended)]
        return tuple(2.0 * rows * inner * columns / max(seconds, 1e-9) for seconds in best)
    return measure


class OthersWork:
    """How many of this machine's cores other programs use, on average since this object was made."""

    def __init__(self):
        self.began, self.before = time.monotonic(), _used_by_others()

    def cores(self) -> float | None:
        """None where the system does not say."""
        if self.before is None:
            return None
        return max(0.0, _used_by_others() - self.before) / (time.monotonic() - self.began)


def _used_by_others() -> float | None:
    """Seconds of all cores that others than this process have used so far; None where the system does not say."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, *interrupts_and_stolen = map(int, fields[:8])     # in between: idle and waiting
    return (user + nice + system + sum(interrupts_and_stolen)) / os.sysconf("SC_CLK_TCK") - time.process_time()


def last_rate(journal: Path) -> float:
    """Seconds of audio per second that a training's `log.jsonl` ends with."""
    records = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    return [record["audio_seconds_per_second"] for record in records if "audio_seconds_per_second" in record][-1]


def machine(device: str) -> str:
    """The name of this machine's GPU, or of its processor."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def difference(states: list[Tensor], expected: list[Tensor]) -> str:
    """Largest absolute and relative (norms over an utterance) difference of states, as text."""
    pairs = [(x.float()[:len(y)], y) for x, y in zip(states, expected)]
    largest = max((x - y).abs().max().item() for x, y in pairs)
    return f"{largest:.1e}, {max(((x - y).norm() / y.norm()).item() for x, y in pairs):.1e}"


def mixture(frames: int, width: int, components: int = 1500) -> Tensor:
    """Frames (S, F) of a Gaussian mixture of unequal components: sizes differ by 100, as those of units do."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(components, generator=generator) ** 3 + 0.01
    means = torch.randn(components, width, generator=generator)
    drawn = torch.multinomial(weights, frames, replacement=True, generator=generator)
    return means[drawn] + torch.randn(frames, width, generator=generator)


def pretraining_step(hubert: nn.Module, settings: PretrainConfig, conv: str, waveform: Tensor, units: Tensor,
                     clusters: int, autocast: Callable) -> tuple[Callable[[], None], nn.Module, Parts]:
    """One update of `waveform` (B, N) and `units` (1, B, T), no block dropped: the model, replicated over ranks, too.

    hubert: a `Hubert`, or what has its methods `feature_extractor` and `layers`. conv: "trained", "frozen", or "kept"
    (frozen, its output is there before the update begins).
    """
    device = waveform.device
    settings = replace(settings, freeze_conv=conv != "trained")
    crops = [Crop(0, 0, units.shape[2])] * len(waveform)
    codebook = Units(units[0].flatten().cpu().int(), torch.tensor([0, units[0].numel()]), clusters, {})
    training = pretrain.prepare(hubert, [], [codebook], settings, TrainingRun(Path(), device))
    parts = Parts(*parts_of(hubert), training.model.heads[0].final_proj)
    model = distributed.replicate(training.model.train(), device)
    lengths = torch.full((len(waveform),), waveform.shape[1])
    with torch.no_grad():
        inputs = hubert.conv_features(waveform) if conv == "kept" else waveform

    def step() -> None:
        parts.begin("rest")
        is_masked = pretrain.draw_mask(crops, settings, 0)
        batch = objective.MicroBatch(inputs, lengths, units, is_masked, *objective.positions_of(is_masked)).to(device)
        with autocast():
            prediction = model(batch, with_unmasked=settings.unmasked_weight > 0)
        loss = objective.pretraining_loss(prediction, batch, settings.unmasked_weight, settings.feature_penalty)
        (loss / len(batch.masked)).backward()
        parts.begin("optimiser")
        optimiser.step(training.optimizer, 1e-5, settings.clip_norm)
        parts.begin("rest")
    return step, model, parts


def parts_of(hubert: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The conv encoder of a `Hubert`, or of what stands in its place, and the first module of its transformer."""
    encoder = getattr(hubert, "model", hubert)
    return encoder.feature_extractor, encoder.feature_projection.layer_norm


def sources(folder: Path, waveforms: list[Tensor], width: int, device: torch.device
            ) -> tuple[list[Crop], dict[str, Waveforms | FrameStore]]:
    """Crops of a micro-batch of pretraining, and all that can give them: FLAC files written to `folder` of the
    waveforms (N,), the same held in memory, kept frames (T, width) on disk and in the memory of `device`."""
    utterances = []
    for index, waveform in enumerate(waveforms):
        path = folder / f"{index}.flac"
        soundfile.write(path, (0.1 * waveform / waveform.abs().max()).cpu().numpy(), SAMPLE_RATE)
        utterances.append(Utterance(str(index), path, len(waveform)))
    counts = torch.tensor([num_frames(u.num_samples) for u in utterances])
    crops = next(pretraining_micro_batches(counts, PretrainConfig(min_seconds=0.1)))
    extraction = Extraction("kept frames", "bench", width,
                            lambda waveforms: [torch.randn(num_frames(len(x)), width) for x in waveforms],
                            do_normalize=False)
    store = FrameStore.fill(folder / "frames", utterances, extraction)
    return crops, {"FLAC": Waveforms(utterances, False, 0), "sound in memory": Waveforms(utterances, False),
                   "kept frames on disk": store,
                   "kept frames in memory": FrameStore(folder / "frames", utterances).hold(device)}


def table(title: str, records: list[dict]) -> str:
    """The records as a Markdown table, a line each."""
    head = ["", "seconds (least, greatest)", "processor s", "times as fast (least, greatest)", "by processor s",
            "x real time", "GFLOP/s", "of the matrix product", "peak MB", "difference"]
    lines = [title, "", "| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]

    def shown(spread: dict) -> str:
        return f"{spread['median']:.3g} ({spread['least']:.3g}, {spread['greatest']:.3g})"
    for r in records:
        real_time = f"{r['audio_seconds'] / r['seconds']['median']:.1f}" if r["audio_seconds"] else ""
        cells = [r["name"], shown(r["seconds"]), f"{r['processor_seconds']:.3g}", shown(r["ratio"]),
                 f"{r['processor_ratio']['median']:.2f}", real_time, f"{r['flop_per_second'] / GIGA:.0f}",
                 f"{100 * r['of_matrix_product']:.0f} %", f"{r['peak_bytes'] / 1e6:.0f}", r.get("difference", "")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
