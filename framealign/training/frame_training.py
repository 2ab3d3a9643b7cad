"""A classifier of frames from utterance labels alone: it knows which frames carry the emotion (beyond the paper).

An utterance's label holds for the whole of it, and so whatever is trained with it calls every frame by the utterance's
label. Four steps undo that; none of them sees a truth about frames:

1. `train_scorer`: frames of short stretches of different utterances, shuffled, so that each must be told by itself;
2. `scores_in_other_company`: what the scorer says of each training utterance, in windows among those of others;
3. `frame_labels.spreads` and `soft_labels`: how much of each emotion's utterances is emotional, and which frames;
4. `train_recogniser`: a fresh encoder, frames by those labels, utterances by their own, on joined utterances.

Every stretch is brought to one level: the quiet part of a loud utterance would give itself away.
"""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from framealign.runtime import distributed, files, log, stopping
from framealign.runtime.seeds import derive_seed
from framealign.runtime.settings import as_dict
from framealign.sound import audio
from framealign.sound.degradation import Degradation
from framealign.sound.frames import Framing, num_frames, num_samples_of
from framealign.corpus import frame_truth, joining
from framealign.corpus.cropping import Waveforms, load_checked, padded
from framealign.corpus.joining import EMOTIONAL, PATTERNS
from framealign.corpus.protocols import Split, check_parts
from framealign.corpus.utterance import NEUTRAL, Utterance, corpus_digest
from framealign.hubert.model import Hubert
from framealign.emotion.emotion_model import EmotionModel, weighted_mean
from framealign.training import augmentation, frame_labels, optimiser
from framealign.training.batches import chances, corpus_numbers
from framealign.training.checkpoint import RecogniserTraining
from framealign.training.finetune import FoldData, draw_mask, test
from framealign.training.training_config import FramesConfig, TrainingRun, check_corpora


@dataclass(frozen=True)
class Piece:
    """Hops [first, end) of utterance number `utterance`, so much louder than the one level."""
    utterance: int
    first: int
    end: int
    decibels: float = 0.0


@dataclass(frozen=True)
class Medley:
    """What is trained on as one sound: pieces one after the other, and the class of the whole."""
    pieces: list[Piece]
    label: int
    degradation: Degradation | None = None          # of the whole

    @property
    def num_hops(self) -> int:
        """Hops of all pieces: as many frames, but at another speed."""
        return sum(piece.end - piece.first for piece in self.pieces)

    def hop_of_frames(self, framing: Framing) -> np.ndarray:
        """Of which hop each of the T frames is, (T,) int: in turn; at another speed the one whose centre is nearest."""
        hops = np.arange(self.num_hops)
        if self.degradation is None or self.degradation.speed_percent == 100:
            return hops
        num_samples = self.degradation.length(num_samples_of(len(hops), framing))
        middle = framing.receptive_field / 2
        centres = framing.hop * np.arange(num_frames(num_samples, framing)) + middle        # samples after the change
        before = centres * self.degradation.speed_percent / 100                             # samples before it
        return np.clip(np.round((before - middle) / framing.hop).astype(int), 0, len(hops) - 1)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a scorer or a recogniser is trained on."""
    speech: "Speech"
    labels: list[np.ndarray]                        # of each utterance (T, C): how much of each class a frame has
    draw: Callable[[int], list[Medley]]             # of an update (1, 2, ...), the same on every rank
    updates: int
    utterance_weight: float                         # of the loss of whole utterances


class Speech:
    """The audible part of labelled utterances, cut into hops and brought to one level; held in memory as int16."""

    def __init__(self, utterances: Sequence[Utterance], classes: Sequence[str], framing: Framing, do_normalize: bool):
        self.framing, self.do_normalize = framing, do_normalize
        self.utterances, self.classes, self.neutral = utterances, list(classes), classes.index(NEUTRAL)
        self.labels = [classes.index(utterance.label) for utterance in utterances]
        self.sounds: list[np.ndarray] = []          # (hops, hop) int16 of each utterance
        self.starts: list[int] = []                 # hops of silence before it
        for utterance in log.progress(utterances, len(utterances), "reading", "utterances"):
            waveform = load_checked(utterance, do_normalize=False).numpy()
            first, end = joining.audible(waveform, framing.hop)
            self.starts.append(first)
            hops = waveform[framing.hop * first:framing.hop * end].reshape(-1, framing.hop)
            self.sounds.append(np.round(hops * 2 ** 15).clip(-2 ** 15, 2 ** 15 - 1).astype(np.int16))
        self.of_speaker: dict[str, dict[int, list[int]]] = {}       # speaker -> class -> utterances
        for u, utterance in enumerate(utterances):
            self.of_speaker.setdefault(speaker_of(utterance), {}).setdefault(self.labels[u], []).append(u)

    def size(self, u: int) -> int:
        """Hops of an utterance."""
        return len(self.sounds[u])

    def whole(self, u: int) -> Piece:
        """All of an utterance."""
        return Piece(u, 0, self.size(u))

    def waveform(self, pieces: Sequence[Piece], degradation: Degradation | None = None) -> Tensor:
        """Pieces as the encoder takes them, (N,) float32: with the rest of a last frame there is one for every hop."""
        parts = []
        for piece in pieces:
            part = self.sounds[piece.utterance][piece.first:piece.end].astype(np.float64).ravel()
            part -= part.mean()
            parts.append(part * 10 ** (piece.decibels / 20) / np.sqrt(np.mean(part ** 2) + 1e-6))
        sound = np.pad(np.concatenate(parts), (0, self.framing.receptive_field - self.framing.hop))
        waveform = torch.from_numpy(sound).float()                              # (N,)
        if degradation:
            voices = [torch.from_numpy(self.sounds[voice].ravel()).float() for voice in degradation.voices]
            waveform = degradation(waveform, voices)
        return audio.preprocess(waveform, self.do_normalize)


def speaker_of(utterance: Utterance) -> str:
    """Whose utterances are joined with this one: its speaker's; unknown ones of a corpus count as one speaker."""
    return utterance.speaker or utterance.corpus


def lacking(utterances: Sequence[Utterance], classes: Sequence[str]) -> str:
    """Why a classifier of frames cannot be trained on labelled utterances, in words; "" where it can."""
    if NEUTRAL not in classes:
        return f"there is no class {NEUTRAL}, what an utterance is outside its emotion"
    labels_of: dict[str, set[str]] = {}
    for utterance in utterances:
        labels_of.setdefault(speaker_of(utterance), set()).add(utterance.label)
    if not any(labels > {NEUTRAL} for labels in labels_of.values()):
        return "no speaker of the training part has both neutral and emotional utterances, which are joined"
    return ""


def train_frames(load: Callable[[], Hubert], utterances: Sequence[Utterance], split: Split, classes: list[str],
                 config: FramesConfig, run: TrainingRun, on_truth: bool = False) -> dict:
    """Train a recogniser with a classifier of frames on split.train, test it once: results as `finetune.test`.

    load: gives the encoder that scorer and recogniser each start from. on_truth: the frames' true emotions take the
    place of steps 1 to 3, as a bound of what these may reach. The last update is taken: nothing is selected, and the
    validation part, if there is one, is for the temperatures alone (`finetune.calibrate`). Writes
    `recogniser`, `predictions.csv` and `results.json` into the run's folder; continues from the newest checkpoint
    there. Raises ValueError as `check_parts` and `check_corpora`, for a training part that is `lacking`, and for an
    unknown truth.
    """
    check_parts(split, classes, "last")
    check_corpora(config, split.train)
    reason = lacking(split.train, classes)
    if reason:
        raise ValueError(f"a classifier of frames cannot be trained: {reason}")
    hubert = load()
    speech, valid = (Speech(part, classes, hubert.config.framing, hubert.do_normalize)
                     for part in (split.train, split.valid))
    if on_truth:
        labels, of_valid = true_labels(speech), true_labels(valid)
    else:
        labels, of_valid = estimated_labels(hubert, speech, valid, config, run)
    model = train_recogniser(load(), speech, labels, config, run)

    data = FoldData(utterances, split, classes, Waveforms(utterances, hubert.do_normalize, framing=speech.framing))
    if distributed.rank() == 0:
        model.save_pretrained(run.folder / "recogniser")
    distributed.barrier()
    return test(model, data, config, run, config.epochs, in_place(of_valid, valid))


def in_place(labels: list[np.ndarray], speech: Speech) -> list[np.ndarray]:
    """Labels (T, C) of the audible frames of utterances as those of all frames, 0 before and after them."""
    before_and_after = [((start, 1), (0, 0)) for start in speech.starts]
    return [np.pad(rows, widths) for rows, widths in zip(labels, before_and_after)]


def estimated_labels(hubert: Hubert, speech: Speech, valid: Speech, config: FramesConfig, run: TrainingRun
                     ) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Steps 1 to 3: of each utterance, how much of each class each frame has, (T, C), in training and validation.

    Validation utterances are labelled by the scorer and the spreads of the training part: the temperature of frames is
    fitted to them, as no truth is known. What it took of the scores of all, `frame_labels.spreads`, is written beside
    the scorer.
    """
    scorer = train_scorer(hubert, speech, config, replace(run, folder=run.folder / "scorer"))
    scores = scores_in_other_company(scorer, speech, config, run.device)
    size = block_frames(config, speech.framing)
    spreads = frame_labels.spreads(scores, speech.labels, speech.classes, speech.neutral, size)
    for name, of_emotion in spreads.items():
        log.say(f"{name}: {of_emotion.coverage:.0%} of its utterances' time" +
                (", taken to be all of it" if of_emotion.coverage > config.whole_coverage else ""))
    if distributed.rank() == 0:
        files.write_json(run.folder / "scorer" / "spreads.json",
                         {name: as_dict(of_emotion) for name, of_emotion in spreads.items()})
    of_valid = scores_in_other_company(scorer, valid, config, run.device)
    rest = (speech.classes, speech.neutral, spreads, size, config.whole_coverage)
    return (frame_labels.soft_labels(scores, speech.labels, *rest),
            frame_labels.soft_labels(of_valid, valid.labels, *rest))


def block_frames(config: FramesConfig, framing: Framing) -> int:
    """Frames of a block, which is taken to have one emotion (step 3)."""
    return max(1, round(config.block_seconds * framing.rate))


def true_labels(speech: Speech) -> list[np.ndarray]:
    """In place of steps 1 to 3, where the truth is known: 1 for the class that a frame has, (T, C) of each utterance.

    Raises ValueError where it is not known, or names an emotion that is no class.
    """
    of_utterances = []
    for u, utterance in enumerate(speech.utterances):
        if not frame_truth.exists(utterance):
            raise ValueError(f"{utterance.path}: the truth of its frames is not known, which the bound is trained on")
        known = frame_truth.named(frame_truth.stretches(utterance), speech.classes)
        for stretch in known:
            if stretch.emotion not in speech.classes:
                raise ValueError(f"{utterance.path}: its truth has {stretch.emotion}, which is no class")
        labels = np.array([*(speech.classes.index(stretch.emotion) for stretch in known), speech.neutral])  # -1: last
        start, end = speech.starts[u], speech.starts[u] + speech.size(u)
        of_frames = frame_truth.stretch_of_frames(known, end, speech.framing)[start:]
        of_utterances.append(np.eye(len(speech.classes))[labels[of_frames]])
    return of_utterances


def train_scorer(hubert: Hubert, speech: Speech, config: FramesConfig, run: TrainingRun) -> EmotionModel:
    """Step 1: each frame of shuffled stretches by the label of the utterance that its stretch is of.

    Speakers are equally likely; with `balance_corpora` corpora are, and in each its speakers.
    """
    labels = [np.eye(len(speech.classes))[np.full(speech.size(u), label)] for u, label in enumerate(speech.labels)]
    speakers = [name for name, of_class in speech.of_speaker.items() if set(of_class) > {speech.neutral}]
    likely = None                                   # all alike
    if config.balance_corpora:
        first_of = [speech.utterances[speech.of_speaker[name][speech.neutral][0]] for name in speakers]
        likely = chances(torch.zeros(len(speakers), dtype=torch.int64), corpus_numbers(first_of)).numpy()

    def draw(update: int) -> list[Medley]:
        rng = np.random.default_rng(derive_seed(config.seed, "stretches", update))
        return [draw_stretches(speech, str(rng.choice(speakers, p=likely)), config, rng)
                for _ in range(config.batch_size)]

    updates = config.scorer_epochs * math.ceil(len(speech.labels) / config.batch_size)
    plan = Plan(speech=speech, labels=labels, draw=draw, updates=updates, utterance_weight=0.0)
    return fit(hubert, plan, replace(config, mask_start_fraction=0.0), run)     # a span may hide a whole stretch


def draw_stretches(speech: Speech, speaker: str, config: FramesConfig, rng: np.random.Generator) -> Medley:
    """Stretches of utterances of one speaker, half of them neutral, each emotion as likely, in drawn order."""
    of_class, rate = speech.of_speaker[speaker], speech.framing.rate
    emotions = [label for label in of_class if label != speech.neutral]
    pieces, num_hops = [], 0
    while num_hops < config.sequence_seconds * rate:
        for label in (speech.neutral, int(rng.choice(emotions))):
            u = int(rng.choice(of_class[label]))
            seconds = rng.uniform(config.least_stretch_seconds, config.most_stretch_seconds)
            size = min(speech.size(u), max(1, round(seconds * rate)))
            first = int(rng.integers(speech.size(u) - size + 1))
            pieces.append(Piece(u, first, first + size, rng.uniform(-config.level_decibels, config.level_decibels)))
            num_hops += size
    return Medley([pieces[i] for i in rng.permutation(len(pieces))], speech.neutral)


@torch.inference_mode()
def scores_in_other_company(scorer: EmotionModel, speech: Speech, config: FramesConfig, device: torch.device
                            ) -> list[np.ndarray]:
    """Step 2: log p(class) - log p(neutral) of every frame of each utterance, (T, C), averaged over passes.

    Each utterance is cut into windows at drawn offsets, which are shuffled among those of its speaker: in its own
    company an emotional utterance is recognised as a whole. Ranks share the work; all get the same.
    """
    size = max(1, round(config.window_seconds * speech.framing.rate))
    medleys: list[list[Piece]] = []
    for number in range(config.score_passes):
        for speaker, of_class in speech.of_speaker.items():
            rng = np.random.default_rng(derive_seed(config.seed, "windows", number, speaker))
            windows = [window for members in of_class.values() for u in members
                       for window in windows_of(speech.whole(u), size, int(rng.integers(size)))]
            windows = [windows[i] for i in rng.permutation(len(windows))]
            together = max(1, round(config.sequence_seconds / config.window_seconds))
            medleys += [windows[i:i + together] for i in range(0, len(windows), together)]

    sums = [np.zeros((speech.size(u), len(scorer.labels))) for u in range(len(speech.labels))]
    rank, world = distributed.rank(), distributed.world_size()
    batches = [medleys[i:i + config.batch_size] for i in range(0, len(medleys), config.batch_size)][rank::world]
    for batch in log.progress(batches, len(batches), "scores of frames", "batches"):
        inputs, lengths = padded([speech.waveform(pieces) for pieces in batch])
        states, _ = scorer.states(inputs.to(device), lengths)
        log_p = scorer.of_frames(states).log_softmax(-1).cpu().double().numpy()             # (B, T, C)
        for pieces, values in zip(batch, log_p - log_p[..., [speech.neutral]]):
            start = 0
            for piece in pieces:
                end = start + piece.end - piece.first
                sums[piece.utterance][piece.first:piece.end] += values[start:end]
                start = end
    of_ranks = distributed.all_gather_objects(sums)
    return [sum(parts) / config.score_passes for parts in zip(*of_ranks)]


def windows_of(whole: Piece, size: int, offset: int) -> list[Piece]:
    """An utterance cut every `size` hops from `offset` on; ends shorter than a third of it go to their neighbour."""
    inner = [edge for edge in range(offset, whole.end, size) if min(edge, whole.end - edge) >= size / 3]
    edges = [0, *inner, whole.end]
    return [Piece(whole.utterance, first, end) for first, end in zip(edges, edges[1:])]


def train_recogniser(hubert: Hubert, speech: Speech, labels: list[np.ndarray], config: FramesConfig, run: TrainingRun
                     ) -> EmotionModel:
    """Step 4: frames of joined utterances by their soft labels, utterances by their class.

    An epoch has as many medleys as there are utterances: each neutral one whole, and emotional ones of every class
    equally often, joined as a test set is (`joining.PATTERNS`). With `balance_corpora` neutral ones are drawn, too, and
    every class in each of its corpora equally often. labels: of each utterance (T, C).
    """
    members = range(len(speech.labels))
    neutral = [u for u in members if speech.labels[u] == speech.neutral]
    emotions = sorted({label for label in speech.labels if label != speech.neutral})
    of_class = {label: [u for u in members if speech.labels[u] == label] for label in (speech.neutral, *emotions)}
    likely = dict.fromkeys(of_class)                # of each class's utterances; None: all alike
    if config.balance_corpora:
        of_all = chances(torch.tensor(speech.labels), corpus_numbers(speech.utterances)).numpy()
        likely = {label: of_all[of_class[label]] for label in of_class}
    per_epoch = math.ceil(len(speech.labels) / config.batch_size)

    def draw_one(rng: np.random.Generator, label: int) -> int:
        return int(rng.choice(of_class[label], p=likely[label]))

    def draw(update: int) -> list[Medley]:
        epoch, index = divmod(update - 1, per_epoch)
        rng = np.random.default_rng(derive_seed(config.seed, "joined", epoch))
        emotional = [draw_one(rng, int(rng.choice(emotions))) for _ in range(len(members) - len(neutral))]
        whole = [draw_one(rng, speech.neutral) for _ in neutral] if config.balance_corpora else neutral
        order = rng.permutation([*whole, *emotional]).tolist()
        drawn = order[index * config.batch_size:(index + 1) * config.batch_size]
        rng = np.random.default_rng(derive_seed(config.seed, "patterns", update))
        medleys = [cropped(draw_joined(speech, u, rng), config, speech.framing, rng) for u in drawn]
        return [replace(medley, degradation=augmentation.drawn(config, u, members, "joined", update, place))
                for place, (u, medley) in enumerate(zip(drawn, medleys))]

    plan = Plan(speech=speech, labels=labels, draw=draw, updates=config.epochs * per_epoch,
                utterance_weight=config.utterance_weight)
    return fit(hubert, plan, config, run)


def draw_joined(speech: Speech, u: int, rng: np.random.Generator) -> Medley:
    """A neutral utterance whole; an emotional one in a drawn pattern with neutral ones of its speaker, if there are."""
    company = speech.of_speaker[speaker_of(speech.utterances[u])].get(speech.neutral, [])
    if speech.labels[u] == speech.neutral or not company:
        return Medley([speech.whole(u)], speech.labels[u])
    pattern = PATTERNS[rng.integers(len(PATTERNS))]
    pieces = [speech.whole(u if name == EMOTIONAL else int(rng.choice(company))) for name in pattern]
    return Medley(pieces, speech.labels[u])


def cropped(medley: Medley, config: FramesConfig, framing: Framing, rng: np.random.Generator) -> Medley:
    """At most `max_seconds` of a medley, from a drawn hop on."""
    limit = round(config.max_seconds * framing.rate)
    if medley.num_hops <= limit:
        return medley
    skipped, pieces, left = int(rng.integers(medley.num_hops - limit + 1)), [], limit
    for piece in medley.pieces:
        first = min(piece.end, piece.first + skipped)
        skipped -= first - piece.first
        end = min(piece.end, first + left)
        if end > first:
            pieces.append(replace(piece, first=first, end=end))
            left -= end - first
    return Medley(pieces, medley.label)


@dataclass(kw_only=True)
class FrameTraining(RecogniserTraining):
    """The training of a scorer or a recogniser under way."""
    model: EmotionModel
    config: FramesConfig


def fit(hubert: Hubert, plan: Plan, config: FramesConfig, run: TrainingRun) -> EmotionModel:
    """Train a recogniser with a classifier of frames by a plan; continues from the newest checkpoint in the folder.

    Each rank computes a share of the medleys of an update. Spans of frames are masked as in fine-tuning. The loss is
    the cross-entropy of frames with their soft labels, its mean over frames, and `utterance_weight` times that of the
    utterances' classes.
    """
    training = prepare(hubert, plan, config, run)
    training.restore()
    replicated = distributed.replicate(FrameLoss(training.model, plan.utterance_weight > 0), run.device)
    autocast = distributed.autocast(run.device, run.precision)
    journal = log.Log(run.folder / "log.jsonl", plan.updates)
    journal.keep_until(training.update)
    rank, world = distributed.rank(), distributed.world_size()
    steps = stopping.Steps(range(training.update + 1, plan.updates + 1))
    training.model.train()
    for update in steps:
        medleys = plan.draw(update)
        counts = torch.tensor([len(medley.hop_of_frames(plan.speech.framing)) for medley in medleys])   # (B,)
        is_masked = draw_mask(counts, config, update)                           # (B, T), the same on every rank
        own, weight = (slice(rank, None, world), 1.0) if rank < len(medleys) else (slice(1), 0.0)   # all reduce
        mine = medleys[own]
        if is_masked is not None:
            is_masked = distributed.send(is_masked[own, :int(counts[own].max())], run.device)
        inputs, lengths, target, labels = batch_of(mine, plan)
        torch.manual_seed(derive_seed(config.seed, "dropout", update, rank))
        with autocast():
            of_frames, of_utterances = replicated(distributed.send(inputs, run.device), lengths,
                                                  distributed.send(target, run.device),
                                                  distributed.send(labels, run.device), is_masked)
        loss = weight * (of_frames / int(counts.sum()) + plan.utterance_weight * of_utterances / len(medleys))
        (optimiser.only_if_finite(loss) * world).backward()                     # DDP averages over ranks
        lr = optimiser.linear_schedule(update, config.lr, 0, plan.updates)
        norm, skipped = optimiser.step(training.optimizer, lr, config.clip_norm)
        training.losses.append(loss.detach())
        training.count(skipped)

        is_last, asked_to_stop = update == plan.updates, steps.asked()
        if is_last or update % config.log_every_updates == 0:
            optimiser.stop_if_skipping(training.skipped_in_a_row, update)
            journal.write({"update": update, "loss": training.mean_loss(), "lr": lr, "gradient_norm": float(norm),
                           "skipped_updates": len(optimiser.skipped_steps(training.skipped, update))})
            training.losses, training.skipped = [], []
        if is_last or asked_to_stop or update % config.save_every_updates == 0:
            training.save()
        if asked_to_stop and not is_last:
            stopping.stop(f"{run.folder} has a checkpoint of update {update}")
    return training.model.eval()


def prepare(hubert: Hubert, plan: Plan, config: FramesConfig, run: TrainingRun) -> FrameTraining:
    """Model and optimiser of a training at its beginning, and the record of what is begun."""
    torch.manual_seed(derive_seed(config.seed, "head"))
    model = EmotionModel(hubert, plan.speech.classes, "frames", config.dropout, config.fast_path).to(run.device)
    hubert.feature_extractor.requires_grad_(not config.freeze_conv)
    hubert.masked_spec_embed.requires_grad_(config.mask_start_fraction > 0)
    model.classifier.requires_grad_(plan.utterance_weight > 0)
    optimizer = optimiser.adamw(hubert.parameters(), config.lr, (0.9, 0.999), 1e-8, config.weight_decay)
    heads = [p for head in (model.frames, model.classifier) for p in head.parameters() if p.requires_grad]
    optimizer.add_param_group({"params": heads, "lr_factor": config.head_lr_factor})
    record = {"frames": as_dict(config), "classes": plan.speech.classes, "labels": plan.speech.labels,
              "updates": plan.updates, "utterances": corpus_digest(plan.speech.utterances)}
    return FrameTraining(model=model, optimizer=optimizer, config=config, run=run, record=record)


def batch_of(medleys: list[Medley], plan: Plan) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Samples (B, N) and their lengths (B,), soft labels (B, T, C), 0 beyond each end, and classes (B,)."""
    inputs, lengths = padded([plan.speech.waveform(medley.pieces, medley.degradation) for medley in medleys])
    of_hops = [np.concatenate([plan.labels[piece.utterance][piece.first:piece.end] for piece in medley.pieces])
               for medley in medleys]
    target, _ = padded([torch.from_numpy(rows[medley.hop_of_frames(plan.speech.framing)]).float()
                        for rows, medley in zip(of_hops, medleys)])
    return inputs, lengths, target, torch.tensor([medley.label for medley in medleys])


class FrameLoss(torch.nn.Module):
    """Sums of both losses of a batch of medleys: one forward, so that ranks reduce their gradients together."""

    def __init__(self, model: EmotionModel, with_utterances: bool):
        super().__init__()
        self.model, self.with_utterances = model, with_utterances

    def forward(self, inputs: Tensor, lengths: Tensor, target: Tensor, labels: Tensor, is_masked: Tensor | None = None
                ) -> tuple[Tensor, Tensor]:
        """What `batch_of` gives, and masked frames (B, T): cross-entropies, summed over frames and utterances, ()."""
        states, is_valid = self.model.states(inputs, lengths, is_masked)
        log_p = self.model.frames(self.model.dropout(states)).float().log_softmax(-1)       # (B, T, C)
        of_frames = -(target * log_p).sum()
        if not self.with_utterances:
            return of_frames, of_frames.new_zeros(())
        pooled = weighted_mean(states, self.model.frames.attention(states, is_valid))       # (B, D)
        logits = self.model.classifier(self.model.dropout(pooled)).float()
        return of_frames, F.cross_entropy(logits, labels, reduction="sum")
