#!/usr/bin/env python3
"""Time framealign beside transformers, torchaudio and scikit-learn: A B A B in one process, a table and JSON.

    bin/bench.py --what forward --preset base --threads 2
    bin/bench.py --what all --corpus emodb4.tsv --rounds 5 --out bench.json
    torchrun --nproc_per_node 2 bin/bench.py --what ranks --threads 1

Has a change made something slower? The contests of `all` at a small size, and what two or more runs measured:

    bin/bench.py --what all --quick --out after.json
    bin/bench.py --table before.json after.json

Or recognise emotions with scikit-learn's logistic regression on statistics of utterances, on the recipe's folds, and
with --on on other corpora. It has no part in `all`, nor has `fold`, which runs a fold of the recipe.

    bin/bench.py --what statistics --corpus emodb4.tsv --folds speakers --predictions statistics.csv
    bin/bench.py --what statistics --corpus emodb4.tsv --on ravdess.tsv nemo.tsv --out statistics.json

The first row of each table is what the others are compared with. Weights are random unless --hubert names a directory.
Peers that are not installed are left out, which is said. The one script that imports peers, so longer than a verb.
"""
import argparse
import contextlib
import functools
import importlib.util
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framealign.runtime import distributed, files, log, settings
from framealign.sound.frames import frames_in, num_samples_of
from framealign.corpus import synthetic_corpus
from framealign.corpus.cropping import Crop, load_checked, padded
from framealign.hubert import fast
from framealign.hubert.model import Hubert
from framealign.exchange import torchaudio_weights
from framealign.units import kmeans
from framealign.units.kmeans import KMeansConfig
from framealign.emotion.emotion_model import EmotionModel
from framealign.training import optimiser, pretrain
from framealign.recipe import preflight, presets, results, session_config, statistics_baseline
from framealign.recipe.session_config import SessionConfig
from framealign.recipe.statistics_baseline import Baseline, Predict
from framealign.commands import benchmark, session_command, speed_table
from framealign.commands.benchmark import Contender

T = TypeVar("T")


class Samples(nn.Module):
    """What takes the place of a conv encoder where samples (B, N) are what is wanted."""

    def forward(self, waveform: Tensor, num_samples: Tensor | None = None) -> Tensor:
        return waveform


class OfTransformers(nn.Module):
    """transformers' encoder in the place of a `Hubert` that trains: what is ours around it stays the same.

    It takes samples to states at once, so that its conv features are the samples. Nothing is masked that is not given,
    and no block dropped.
    """

    def __init__(self, model: nn.Module, hubert: Hubert):
        super().__init__()
        self.model, self.config, self.num_frames = model, hubert.config, hubert.num_frames
        model.config.layerdrop = model.config.mask_time_prob = model.config.mask_feature_prob = 0.0
        model.feature_extractor._freeze_parameters()
        self.feature_extractor = self.conv_features = Samples()

    def layers(self, waveform: Tensor, num_frames: Tensor | None, is_masked: Tensor | None = None,
               is_kept: list[bool] | None = None) -> Iterator[Tensor]:
        """Samples (B, N) of so many frames each, None: all: the last layer's states (B, T, D)."""
        is_real = None
        if num_frames is not None:
            ends = num_samples_of(num_frames.to(waveform.device), self.config.framing)
            is_real = (torch.arange(waveform.shape[1], device=waveform.device) < ends[:, None]).long()
        yield self.model(waveform, is_real, is_masked).last_hidden_state


class Bench:
    """The models, the sound and the settings that all contests share."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.device = args, distributed.choose_device(args.device)
        self.dtype = torch.bfloat16 if args.dtype == "bfloat16" else torch.float32
        self.autocast = distributed.autocast(self.device, args.dtype)
        torch.manual_seed(0)
        self.config = presets.preset(args.preset).model
        hubert = Hubert.from_pretrained(args.hubert) if args.hubert else Hubert(self.config)
        self.hubert, self.config = hubert.eval().to(self.device), hubert.config
        self.against = [name for name in args.against.split(",") if name]
        for name in [name for name in self.against if importlib.util.find_spec(name) is None]:
            log.say(f"{name} is not installed: left out")
            self.against.remove(name)
        self.keeps = {"same": (True, True), "shipped": (True, False), "default": (False, False)}[args.allocator]

    def transformers(self, train: bool = False) -> nn.Module:
        """transformers' HubertModel with our weights."""
        import transformers
        with tempfile.TemporaryDirectory() as folder:
            self.hubert.save_pretrained(folder)
            return transformers.HubertModel.from_pretrained(folder).train(train).to(self.device)

    def torchaudio(self) -> nn.Module:
        """torchaudio's Wav2Vec2Model with our weights."""
        import torchaudio
        arguments = torchaudio_weights.torchaudio_arguments(self.config)
        theirs = torchaudio.models.wav2vec2_model(**arguments, aux_num_out=None)
        theirs.load_state_dict(torchaudio_weights.to_torchaudio(self.hubert.state_dict()))
        return theirs.eval().to(self.device)

    def waveforms(self) -> list[Tensor]:
        """Real sound spread over a corpus by length, or noise of lengths from --shortest to --longest, geometric."""
        number, low, high = self.args.utterances, self.args.shortest, self.args.longest
        if self.args.corpus:
            utterances = [u for u in preflight.read_corpus(self.args.corpus)
                          if low <= u.num_samples / 16_000 <= high]
            utterances.sort(key=lambda u: u.num_samples)
            picked = [utterances[i * (len(utterances) - 1) // max(1, number - 1)]
                      for i in range(min(number, len(utterances)))]
            return [load_checked(u, self.hubert.do_normalize).to(self.device) for u in picked]
        seconds = torch.logspace(torch.tensor(low).log10(), torch.tensor(high).log10(), number).tolist()
        return [torch.randn(round(16_000 * x), device=self.device) for x in seconds]

    def work(self, waveforms: list[Tensor], layer: int | None) -> tuple[float, float]:
        """FLOP of the forward of these utterances without padding, and their seconds."""
        lengths = [len(x) for x in waveforms]
        return sum(benchmark.forward_flop(self.config, n, layer) for n in lengths), sum(lengths) / 16_000

    def contest(self, title: str, contenders: list[Contender]) -> dict:
        """Run the contest under a title that says how."""
        records = benchmark.compete(contenders, self.args.rounds, self.device, self.dtype)
        how = f"{self.args.threads} thread(s), {self.device}, {self.args.dtype}, {self.args.rounds} rounds, preset "
        return {"title": f"{title} ({how}{self.args.preset}, allocator {self.args.allocator})", "records": records}


def states(bench: Bench, title: str, waveforms: list[Tensor], layer: int | None) -> dict:
    """Contest of extraction; differences are to the plain path, utterance by utterance, in float32."""
    hubert, peers = bench.hubert, {}
    batch, lengths = padded(waveforms, bench.device)
    is_real = (torch.arange(batch.shape[1], device=bench.device) < lengths[:, None]).long()
    flop, seconds = bench.work(waveforms, layer)
    with torch.inference_mode():
        expected = [hubert.states(x[None], layer=layer)[0] for x in waveforms]
    last = bench.config.num_hidden_layers if layer is None else layer
    if "transformers" in bench.against:
        model = bench.transformers()
        is_inner = last < bench.config.num_hidden_layers
        peers |= {
            "transformers, padded, with mask": lambda: model(
                batch, attention_mask=is_real, output_hidden_states=is_inner),
            "transformers, one by one": lambda: [model(x[None], output_hidden_states=True).hidden_states[last][0]
                                                 for x in waveforms]}
    if "torchaudio" in bench.against:
        other = bench.torchaudio()
        peers |= {
            "torchaudio, padded, with lengths": lambda: other.extract_features(batch, lengths, last)[0][-1],
            "torchaudio, one by one": lambda: [other.extract_features(x[None], None, last)[0][-1][0]
                                               for x in waveforms]}

    def plain_padded() -> Tensor:
        layers = hubert.layers(hubert.conv_features(batch, lengths), hubert.num_frames(lengths))
        *_, output = itertools.islice(layers, None if layer is None else layer + 1)
        return output
    own = {"framealign, plain path, padded": plain_padded,
           "framealign, plain path, one by one": lambda: [hubert.states(x[None], layer=layer)[0] for x in waveforms],
           "framealign, fast path, one by one": lambda: [fast.states(hubert, [x], layer)[0] for x in waveforms],
           "framealign, Hubert.states of the batch": lambda: hubert.states(batch, lengths, layer)}
    if len(waveforms) == 1:
        peers, own = ({name: run for name, run in part.items() if "padded" not in name and "batch" not in name}
                      for part in (peers, own))
    contenders = [Contender(name, run, flop, seconds, bench.keeps[1]) for name, run in peers.items()]
    contenders += [Contender(name, run, flop, seconds, bench.keeps[0]) for name, run in own.items()]
    with torch.inference_mode(), bench.autocast():  # one context: weights are rounded once, for all contenders
        result = bench.contest(title, contenders)
        for contender, record in zip(contenders, result["records"]):
            output = contender.run()
            if hasattr(output, "last_hidden_state"):
                output = output.hidden_states[last] if output.hidden_states else output.last_hidden_state
            record["difference"] = benchmark.difference(list(output), expected)
    return result


def forward(bench: Bench) -> list[dict]:
    """One utterance of the longest length, every layer."""
    return [states(bench, "Forward of one utterance, last layer", bench.waveforms()[-1:], None)]


def extract(bench: Bench) -> list[dict]:
    """A mix of lengths, to the layer whose states are clustered; then how many units bfloat16 changes."""
    waveforms, layer = bench.waveforms(), min(bench.args.layer, bench.config.num_hidden_layers)
    title = (f"States of layer {layer} of {len(waveforms)} utterances, {bench.args.shortest:g} to "
             f"{bench.args.longest:g} s")
    result = states(bench, title, waveforms, layer)
    with torch.inference_mode():
        exact = torch.cat(fast.states(bench.hubert, waveforms, layer))
        with torch.autocast(bench.device.type, torch.bfloat16):
            rounded = torch.cat(fast.states(bench.hubert, waveforms, layer)).float()
    clusters = max(2, min(bench.args.clusters, len(exact) // 10))
    centroids, *_ = kmeans.fit(exact, clusters)
    same = (kmeans.assign(rounded, centroids) == kmeans.assign(exact, centroids)).double().mean().item()
    result["note"] = f"{100 * same:.1f} % of {len(exact)} frames have the same of {clusters} units in bfloat16."
    return [result]


def pretraining(bench: Bench) -> list[dict]:
    """One update, --utterances crops of --longest seconds, as the preset trains, no block dropped: torchaudio's model
    and loss, transformers' encoder with that loss and a frozen conv encoder, as the reference has it, transformers'
    encoder with our head and loop, and ours.
    """
    number, device, framing = bench.args.utterances, bench.device, bench.config.framing
    settings, config = presets.preset(bench.args.preset).pretrain, replace(bench.config, layerdrop=0.0)
    frames = frames_in(bench.args.longest, framing)
    waveform = torch.randn(number, num_samples_of(frames, framing), device=device)
    units = torch.randint(bench.args.clusters, (1, number, frames), device=device)     # of one codebook
    flop = {conv: number * benchmark.training_flop(bench.config, waveform.shape[1], conv)
            for conv in ("kept", "frozen", "trained")}
    seconds, contenders, size = number * bench.args.longest, [], settings.projection_size

    def updating(hubert: nn.Module, conv: str, **changes: bool) -> dict:
        """What a contender needs of our loop around an encoder, with settings changed."""
        step, _, parts = benchmark.pretraining_step(hubert, replace(settings, **changes), conv, waveform, units,
                                                    bench.args.clusters, bench.autocast)
        return {"run": step, "parts": parts, "flop": flop[conv], "audio_seconds": seconds}

    def descend(logits: Callable[[], tuple[Tensor, Tensor, Tensor | float]], parameters: list[nn.Parameter]
                ) -> Callable[[], None]:
        """One update of a peer. logits: gives those of masked and unmasked frames, the true unit first, and a penalty.
        """
        adam = torch.optim.AdamW(parameters, 1e-5, (0.9, 0.98), 1e-6, 0.01)

        def step() -> None:
            with bench.autocast():
                masked, unmasked, penalty = logits()
            loss = sum(weight * F.cross_entropy(logits.float(), torch.zeros_like(logits[:, 0], dtype=torch.int64),
                                                reduction="sum")
                       for weight, logits in ((1.0, masked), (settings.unmasked_weight, unmasked)))
            (loss / len(masked) + 10 * penalty).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 10.0)
            adam.step()
            adam.zero_grad()
        return step
    if "torchaudio" in bench.against:
        import torchaudio
        theirs = torchaudio.models.hubert_pretrain_model(
            **torchaudio_weights.torchaudio_arguments(config), mask_prob=0.8,
            mask_selection="static", mask_other=0.0, mask_length=10, no_mask_overlap=False, mask_min_space=1,
            mask_channel_prob=0.0, mask_channel_selection="static", mask_channel_other=0.0, mask_channel_length=10,
            no_mask_channel_overlap=False, mask_channel_min_space=1, skip_masked=False, skip_nomask=False,
            num_classes=bench.args.clusters, final_dim=size, feature_grad_mult=0.1)
        theirs.to(device).train()
        run = descend(functools.partial(theirs, waveform, units[0]), list(theirs.parameters()))
        contenders.append(Contender("torchaudio, conv encoder trained", run, flop["trained"], seconds, bench.keeps[1]))
    if "transformers" in bench.against:             # the reference's head is torchaudio's
        from torchaudio.models.wav2vec2.components import LogitGenerator
        encoder, head = bench.transformers(train=True), LogitGenerator(bench.config.hidden_size, bench.args.clusters,
                                                                       size, False, False).to(device)
        encoder.config.layerdrop = 0.0
        encoder.feature_extractor._freeze_parameters()
        crops = [Crop(0, 0, frames)] * number

        def logits_of_transformers() -> tuple[Tensor, Tensor, float]:
            is_masked = pretrain.draw_mask(crops, settings, 0).to(device)
            states = encoder(waveform, mask_time_indices=is_masked).last_hidden_state
            return *head(states, units[0], is_masked, ~is_masked), 0.0
        trained = [p for p in (*encoder.parameters(), *head.parameters()) if p.requires_grad]
        contenders.append(Contender("transformers, the reference's head, conv encoder frozen",
                                    descend(logits_of_transformers, trained), flop["frozen"], seconds, bench.keeps[1]))
        same = OfTransformers(bench.transformers(train=True), bench.hubert)
        contenders.append(Contender(speed_table.SAME_LOOP, keeps_memory=bench.keeps[1],
                                    **updating(same, "frozen", fast_path=False)))
    for conv, compiled in (("trained", False), ("kept", False), ("kept", True))[:3 if bench.args.compile else 2]:
        name = f"framealign, conv encoder {conv}" + ", blocks compiled" * compiled
        contenders.append(Contender(name, keeps_memory=bench.keeps[0],
                                    **updating(Hubert(config).to(device), conv, compile_blocks=compiled)))
    return [bench.contest(f"Pretraining step, {number} x {bench.args.longest:g} s, {bench.args.clusters} units",
                          contenders)]


def ranks(bench: Bench) -> list[dict]:
    """What several ranks cost: under torchrun, the update without and with the reduction of gradients, in turn.

    Launched alone, the first of the two: how fast one rank is where no other shares the machine.
    """
    number, framing = bench.args.utterances, bench.config.framing
    frames = frames_in(bench.args.longest, framing)
    waveform = torch.randn(number, num_samples_of(frames, framing), device=bench.device)
    units = torch.randint(bench.args.clusters, (1, number, frames), device=bench.device)
    hubert = Hubert(replace(bench.config, layerdrop=0.0)).to(bench.device)
    step, model, _ = benchmark.pretraining_step(hubert, presets.preset(bench.args.preset).pretrain, "kept", waveform,
                                                units, bench.args.clusters, bench.autocast)
    flop = number * benchmark.training_flop(bench.config, waveform.shape[1], "kept")

    def apart() -> None:
        with getattr(model, "no_sync", contextlib.nullcontext)():
            step()
    contenders = [Contender("every rank's gradients its own", apart, flop, number * bench.args.longest, bench.keeps[0])]
    if distributed.world_size() > 1:
        contenders.append(replace(contenders[0], name="gradients reduced", run=step))
    size = 4e-6 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    return [bench.contest(f"Pretraining step of each of {distributed.world_size()} ranks, {number} x "
                          f"{bench.args.longest:g} s, {size:.0f} MB of gradients", contenders)]


def finetuning(bench: Bench) -> list[dict]:
    """One update of a mixed batch, crops of at most 6 s, no block dropped: transformers' encoder with the same head and
    loop, and ours.
    """
    device, waveforms = bench.device, [x[:96_000] for x in bench.waveforms()]
    batch, lengths = padded(waveforms, device)
    labels = torch.arange(len(waveforms), device=device) % 4
    flop = {conv: sum(benchmark.training_flop(bench.config, n, conv) for n in lengths.tolist())
            for conv in ("kept", "frozen")}
    seconds, contenders = float(lengths.sum()) / 16_000, []

    def updating(model: EmotionModel, inputs: Tensor, counts: Tensor, fast_path: bool) -> dict:
        """The update of a recogniser by inputs and their lengths (B,): what a contender needs of it."""
        model.hubert.feature_extractor.requires_grad_(False)
        adamw = optimiser.adamw(model.parameters(), 1e-4, (0.9, 0.999), 1e-8, 1e-5)
        parts = benchmark.Parts(*benchmark.parts_of(model.hubert), model.dropout)

        def step() -> None:
            parts.begin("rest")
            model.fast_path = fast_path
            with bench.autocast():
                prediction = model(inputs, counts)
            F.cross_entropy(prediction.float(), labels).backward()
            parts.begin("optimiser")
            optimiser.step(adamw, 1e-4, 10.0)
            parts.begin("rest")
        return {"run": step, "parts": parts, "audio_seconds": seconds}

    def recogniser(hubert: nn.Module) -> EmotionModel:
        return EmotionModel(hubert, list("abcd"), dropout=0.1).to(device).train()

    if "transformers" in bench.against:
        theirs = recogniser(OfTransformers(bench.transformers(train=True), bench.hubert))
        contenders.append(Contender(speed_table.FROZEN, flop=flop["frozen"], keeps_memory=bench.keeps[1],
                                    **updating(theirs, batch, lengths, False)))
    ours = recogniser(Hubert(replace(bench.config, layerdrop=0.0)))
    with torch.no_grad():
        features = [ours.hubert.conv_features(x[None])[0] for x in waveforms]
    counts = torch.tensor([len(x) for x in features])
    together = nn.utils.rnn.pad_sequence(features, batch_first=True)
    for name, fast_path in (("plain path", False), ("fast path", True)):
        contenders.append(Contender(f"framealign, conv features, {name}", flop=flop["kept"],
                                    keeps_memory=bench.keeps[0], **updating(ours, together, counts, fast_path)))
    return [bench.contest(f"Fine-tuning step, {len(waveforms)} utterances, {seconds:.0f} s", contenders)]


def clustering(bench: Bench) -> list[dict]:
    """Fit to a mixture, or to states of a layer of --corpus tiled with noise to --frames; then assignment alone."""
    width, clusters, number = bench.config.hidden_size, bench.args.clusters, bench.args.frames
    frames, what = benchmark.mixture(number, width).to(bench.device), "a mixture of 1,500 unequal components"
    if bench.args.corpus:
        with torch.inference_mode():
            few = torch.cat(fast.states(bench.hubert, bench.waveforms(), bench.args.layer)).float()
        noise = torch.randn(number, width, generator=torch.Generator().manual_seed(0)).to(few)
        frames = few.repeat(-(-number // len(few)), 1)[:number] + 0.1 * few.std(0) * noise
        what = f"{len(few)} states of layer {bench.args.layer}, repeated with a tenth of their deviation as noise"
    place, inertias = tempfile.TemporaryDirectory(), {}
    np.save(Path(place.name) / "frames.npy", frames.cpu().numpy())
    on_disk = [np.load(Path(place.name) / "frames.npy", mmap_mode="r")]
    budget = KMeansConfig(max_frames=number // 20)
    fits = {"framealign": lambda: kmeans.fit(frames, clusters)[2],
            "framealign, from disk, budget a twentieth": lambda: kmeans.fit(on_disk, clusters, budget, bench.device)[2]}
    if "sklearn" in bench.against:
        from sklearn.cluster import MiniBatchKMeans
        from threadpoolctl import threadpool_limits
        threadpool_limits(bench.args.threads)       # of scikit-learn's arithmetic

        def theirs() -> float:
            model = MiniBatchKMeans(clusters, init="k-means++", max_iter=100, batch_size=10_000, tol=0.0,
                                    max_no_improvement=100, n_init=20, reassignment_ratio=0.0, compute_labels=False,
                                    random_state=0)
            model.fit(frames.cpu().numpy())
            return kmeans.inertia(frames, torch.from_numpy(model.cluster_centers_).to(frames))
        fits = {"scikit-learn": theirs} | fits
    contenders = [Contender(name, lambda name=name, fit=fit: inertias.update({name: fit()}), 0.0, 0.0,
                            bench.keeps[name == "scikit-learn"]) for name, fit in fits.items()]
    records = benchmark.compete(contenders, bench.args.rounds, bench.device, torch.float32, warm_up=False)
    for record in records:
        record["frames"], record["inertia"] = number, inertias[record["name"]]
        record["difference"] = f"inertia {record['inertia']:.5g}"
    centroids = frames[torch.randperm(number)[:clusters]].clone()
    assignment = Contender("framealign, assignment", lambda: kmeans.assign(frames, centroids),
                           2.0 * number * clusters * width, number / 50)
    return [{"title": f"k-means, {number} x {width}, {clusters} clusters, {what}", "records": records},
            {"title": "Assignment", "records": benchmark.compete([assignment], bench.args.rounds, bench.device,
                                                                 torch.float32)}]


def data(bench: Bench) -> list[dict]:
    """Micro-batches of pretraining from sound files, and from kept frames on disk and in memory."""
    with tempfile.TemporaryDirectory() as folder:
        crops, sources = benchmark.sources(Path(folder), bench.waveforms(), bench.config.conv_dim[-1], bench.device)
        seconds = sum(crop.frames for crop in crops) / 50
        contenders = [Contender(f"framealign, {name}", lambda source=source: source.batch(crops), 0.0, seconds)
                      for name, source in sources.items()]
        return [bench.contest(f"Reading a micro-batch of {seconds:.0f} s", contenders)]


def fold(bench: Bench) -> list[dict]:
    """One fold of the recipe by `align`, with its pages: synthetic sound, random weights, pretrainings of --updates.

    Beside the record of a contest: seconds of each stage, and what five folds at the paper's schedule would take at the
    rates of the last pretraining and fine-tuning.
    """
    updates = bench.args.updates
    cut = {"pretrain.updates": updates, "pretrain.warmup_updates": updates // 5, "finetune.epochs": 2,
           "pretrain.log_every_updates": max(1, updates // 4), "frames.scorer_epochs": 1, "frames.epochs": 1,
           "tapt_clusters": bench.args.clusters}
    with tempfile.TemporaryDirectory() as place:
        corpus, base, run = (Path(place) / name for name in ("corpus", "base", "run"))
        synthetic_corpus.write_corpus(corpus, num_sessions=3, utterances_per_speaker=bench.args.utterances)
        bench.hubert.save_pretrained(base)
        config = SessionConfig(iemocap=str(corpus), allow_partial=True, hubert=str(base), preset=bench.args.preset,
                               out=str(run), device=bench.device.type, precision=bench.args.dtype)
        overrides = {name: str(value) for name, value in cut.items()}
        contender = Contender("framealign, one fold", lambda: session_command.run(config, overrides), 0.0)
        record, = benchmark.compete([contender], 1, bench.device, bench.dtype, warm_up=False)
        rates = [benchmark.last_rate(run / "session1" / name / "log.jsonl")
                 for name in ("align-pretrain", "ser-finetune")]
        stages = {path.parent.name: files.read_json(path)["seconds"] for path in run.rglob("stage.json")}
    minutes = sum(seconds / rate for seconds, rate in zip(FIVE_FOLDS, rates)) / 60
    record |= {"stages": stages, "pretraining_rate": rates[0], "finetuning_rate": rates[1],
               "projected_minutes": minutes}
    note = (", ".join(f"{name} {seconds:.1f} s" for name, seconds in stages.items()) + f"\nFive folds at the paper's "
            f"schedule, projected from {rates[0]:.0f} and {rates[1]:.0f} times real time: {minutes:.0f} minutes")
    return [{"title": f"One fold, pretrainings of {updates} updates ({bench.device}, {bench.args.dtype}, preset "
                      f"{bench.args.preset})", "records": [record], "note": note}]


def logistic_regression(vectors: np.ndarray, numbers: np.ndarray, strength: float) -> Predict:
    """scikit-learn's, on standardised vectors (U, F), every class of numbers (U,) with the same weight altogether."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
    return make_pipeline(StandardScaler(), regression).fit(vectors, numbers).predict_proba


def statistics(args: argparse.Namespace) -> dict:
    """Logistic regression on utterance statistics: print its results on the folds and on other corpora, return them.

    Raises ValueError, before anything is computed, for what a session run would refuse, or without scikit-learn.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise ValueError("--what statistics needs scikit-learn, which is not installed: pip install scikit-learn")
    from threadpoolctl import threadpool_limits
    if not args.corpus:
        raise ValueError("--what statistics needs --corpus, a manifest or table; --help shows an example")
    for place in filter(None, (args.out, args.predictions)):
        files.check_writable(Path(place).absolute().parent)
    given = {name: getattr(args, name) for name in FOLD_SETTINGS if getattr(args, name) is not None}
    config = SessionConfig(corpus=args.corpus, hubert="tiny", session="all", **given)   # of which no base model is used
    if args.on and config.label_share < 1:
        raise ValueError("--on trains on every label of the corpus; leave out --label-share, or --on")
    threadpool_limits(args.threads)                 # of scikit-learn's arithmetic
    baseline = Baseline(config, session_config.read_utterances(config), logistic_regression)
    others = statistics_baseline.other_corpora(baseline, args.on)

    seconds, of_others = {}, {}
    _, seconds["statistics"] = timed(lambda: baseline.vectors)
    collected, seconds["folds"] = timed(lambda: statistics_baseline.collect(baseline))
    if others:
        of_others, seconds["other corpora"] = timed(
            lambda: statistics_baseline.on_others(baseline, collected, others))
    if args.predictions:
        collected["predictions"].write(args.predictions)
    log.say(statistics_baseline.text(collected, of_others))
    log.say("seconds of the processor: " + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    return results.for_json(collected) | {"on": of_others, "processor_seconds": seconds}


def timed(run: Callable[[], T]) -> tuple[T, float]:
    """What a function returns, and the seconds of the processor that it took."""
    began = time.process_time()
    return run(), time.process_time() - began


# Settings of a session run that the folds of `statistics` are made by.
FOLD_SETTINGS = ("folds", "folds_seed", "validate_on", "classes", "merge", "allow_missing_classes",
                 "allow_shared_speakers", "label_share", "seed")
# Seconds of audio that pretraining and fine-tuning take in: docs/BENCHMARKS.md, "The limits".
FIVE_FOLDS = (6 * 20_000 * 350.0, 10 * 40 * 20_160.0)
QUICK = {"preset": "small", "utterances": 4, "longest": 4.0, "frames": 5_000, "clusters": 100,
         "against": "transformers,sklearn"}
CONTESTS = {"forward": forward, "extract": extract, "pretrain": pretraining, "finetune": finetuning,
            "kmeans": clustering, "data": data, "ranks": ranks}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", default=["forward"], choices=[*CONTESTS, "all", "fold", "statistics"],
                        help="what is timed, one after the other, or recognition by statistics of utterances")
    parser.add_argument("--quick", action="store_true",
                        help=", ".join(f"--{name} {value}" for name, value in QUICK.items()) + ", unless given")
    parser.add_argument("--table", nargs="+", metavar="FILE",
                        help="measure nothing: print what files of --out and of `make gpu-check` say, a column each; "
                             "of a folder's files in one column; of `-` an empty one")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or mps")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of products (autocast)")
    parser.add_argument("--preset", default="small", help="tiny, compact, small, base or large: the encoder's shape")
    parser.add_argument("--hubert", default="", help="a model directory instead of random weights")
    parser.add_argument("--against", default="transformers,torchaudio,sklearn", help="peers, separated by commas")
    parser.add_argument("--allocator", default="same", choices=["same", "shipped", "default"],
                        help="freed memory is kept for all; for framealign alone, as its scripts do; for none")
    parser.add_argument("--compile", action="store_true", help="pretrain: also with blocks that torch.compile fused")
    parser.add_argument("--corpus", default="", help="manifest or table of real sound; else noise is generated")
    parser.add_argument("--utterances", type=int, default=8,
                        help="of a mix, of a training batch, or of each speaker of the fold")
    parser.add_argument("--shortest", type=float, default=2.0, help="seconds")
    parser.add_argument("--longest", type=float, default=5.0, help="seconds; also each crop's of the pretraining step")
    parser.add_argument("--layer", type=int, default=9, help="whose states are extracted")
    parser.add_argument("--clusters", type=int, default=500, help="units, and clusters of k-means")
    parser.add_argument("--frames", type=int, default=20_000, help="frames clustered")
    parser.add_argument("--updates", type=int, default=200, help="of each pretraining of the fold")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each contender")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of this process")
    parser.add_argument("--out", default="", help="JSON file with everything that is printed, and more")
    group = parser.add_argument_group("statistics", "settings of --what statistics alone")
    group.add_argument("--on", nargs="+", default=[], metavar="TABLE",
                       help="also train on the whole corpus and test on these labelled ones")
    group.add_argument("--predictions", default="", metavar="FILE",
                       help="also write what the folds predict, as CSV, for bin/evaluate.py --compare")
    settings.add_flags(group, SessionConfig, FOLD_SETTINGS)
    args = parser.parse_args()
    if args.quick:
        parser.set_defaults(**QUICK)
        args = parser.parse_args()
    is_of_statistics = args.what == ["statistics"]
    if "statistics" in args.what and not is_of_statistics:
        raise ValueError(f"--what statistics goes alone, got --what {' '.join(args.what)}")
    for name in (*FOLD_SETTINGS, "on", "predictions") if not is_of_statistics else ():
        if getattr(args, name) not in (None, "", []):
            raise ValueError(f"{settings.flag_of(name)} is of --what statistics, got --what {' '.join(args.what)}")
    return args


def main() -> None:
    args = parse()
    if args.table:
        log.say(speed_table.table(speed_table.columns(args.table)))
        return
    torch.set_num_threads(args.threads)
    if args.what == ["statistics"]:
        write(args, "cpu", {"results": [statistics(args)]})
        return
    bench, measured, others = Bench(args), [], benchmark.OthersWork()
    contests = [name for what in args.what for name in (CONTESTS if what == "all" else [what])]
    with distributed.ranks(bench.device):
        for name in contests:
            began = time.monotonic()
            for result in (CONTESTS | {"fold": fold})[name](bench):
                log.say(benchmark.table(result["title"], result["records"]) + result.get("note", ""))
                measured.append({"what": name} | result)
            log.say(f"[{name}] {time.monotonic() - began:.1f} s\n")
        cores = others.cores() if distributed.world_size() == 1 else None       # else of other ranks, too
        write(args, bench.device.type, {"others_cores": cores, "results": measured})


def write(args: argparse.Namespace, device: str, measured: dict) -> None:
    """The file of --out, where one is asked for."""
    if args.out and distributed.rank() == 0:
        files.write_json(args.out, {"settings": vars(args) | {"device": device}, "torch": torch.__version__,
                                    "machine": benchmark.machine(device), **measured})


if __name__ == "__main__":
    sys.exit(log.command(main))
