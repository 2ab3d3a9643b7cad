"""lesson.html: every step of the method as a picture of one utterance, made by the code that trained the run.

The steps are those of docs/WALKTHROUGH.md, in the same order and under the same titles. Each names the code that
computes it and gives the shapes of this utterance.
"""
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from framealign.runtime import files
from framealign.runtime.seeds import derive_seed
from framealign.sound import audio
from framealign.sound.frames import SAMPLE_RATE, Framing, milliseconds, num_frames, num_samples_of
from framealign.sound.mfcc import mfcc, mfcc_follows
from framealign.corpus import frame_truth
from framealign.corpus.utterance import Utterance
from framealign.hubert.masking import span_mask
from framealign.hubert.model import Hubert
from framealign.hubert.objective import UnitHead, masked_prediction_loss, unit_logits
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.predictions import Predictions
from framealign.training import checkpoint
from framealign.recipe import results
from framealign.report import fold_page, html_document, tracks, unit_analysis
from framealign.report.svg import element, escape, line, path, rect, shade
from framealign.report.tracks import WIDTH, track

SHOWN_FRAMES = 6                                    # in the first picture
GREY, GREEN, RED = "#56606b", "#0b7a67", "#b83227"


@dataclass
class Step:
    """One picture: its title, where it stands in the papers, the code, what the picture shows, its tracks."""
    title: str
    source: str
    code: str
    caption: str
    tracks: list[str]
    legend: str = ""                                # below the time axis


@dataclass
class Example:
    """One utterance of T frames and the models of the run that are applied to it."""
    sound: np.ndarray                               # (N,) as in the file
    waveform: Tensor                                # (N,) as the encoder gets it
    units: np.ndarray                               # (T,) pseudo-emotion units
    order: np.ndarray                               # (K,) 0..1: each unit's place along the codebook, its colour
    pretrained: Hubert                              # by masked prediction of those units
    head: UnitHead
    pretraining: dict                               # its settings: `PretrainConfig`
    recogniser: EmotionModel
    truth: np.ndarray | None                        # (T,) bool: planted emotional frames
    seed: int

    @property
    def num_frames(self) -> int:
        return len(self.units)

    @property
    def framing(self) -> Framing:
        return self.pretrained.config.framing

    @property
    def edges(self) -> np.ndarray:
        return tracks.frame_edges(self.num_frames, len(self.sound), self.framing)

    def strip(self, values: np.ndarray, colour: str, name: str) -> str:
        """Frames (T,) where `values` is True, as named and coloured runs."""
        return tracks.coloured_runs(np.asarray(values, int), self.edges, [None, colour], ["", name])

    def units_track(self) -> str:
        strip = tracks.unit_strip(self.units, self.edges, len(self.sound), lambda unit: float(self.order[unit]),
                                  self.framing)
        return track("units", strip, 26, f"one every {milliseconds(self.framing.hop)}")

    def truth_tracks(self) -> list[str]:
        """The planted truth where it is known."""
        if self.truth is None:
            return []
        return [track("planted truth", self.strip(self.truth, RED, "emotional"), 24, "emotional frames")]


def write(run: str | Path, session: str = "", sound: str = "", device: str = "cpu") -> Path:
    """Make `RUN/session<n>/lesson.html` of a finished run of method align.

    session: "" for the first finished; sound: an utterance's id, "" for the one that is recognised best.
    Raises ValueError where the run has no finished fold of that method, or the corpus no such utterance.
    """
    collected = results.collect(run, "align")
    finished = list(collected["folds"])
    session = session or finished[0]
    if session not in finished:
        raise ValueError(f"{run}: session {session} is not finished; finished: {', '.join(finished)}")
    fold = fold_page.Fold(Path(run), session, "align", collected, device)
    utterances = fold.utterances()
    if not sound:
        predictions = Predictions.read(fold.tested / "predictions.csv", utterances)
        sound = unit_analysis.example_utterances(predictions, fold.seed)[0].id
    if sound not in utterances:
        raise ValueError(f"{run}: no utterance {sound} in its corpus.tsv")

    example = read_example(fold, utterances[sound], list(utterances.values()))
    pictures = list(steps(example))
    body = html_document.head(f"From waveform to emotion: {sound}",
                              "Every step of the method on one utterance, drawn by the code of the run.",
                              [(anchor(step.title), step.title) for step in pictures])
    body += element("main", [step_card(step, len(example.sound)) for step in pictures], class_="lesson")
    page = html_document.document(f"From waveform to emotion: {sound}", body)
    return fold_page.save(fold.run / f"session{session}" / "lesson.html", page)


def read_example(fold: fold_page.Fold, utterance: Utterance, utterances: list[Utterance]) -> Example:
    """The utterance and the fold's models. Raises ValueError where a stage left no checkpoint."""
    fold_units = fold_page.FoldUnits.read(fold, utterances)
    folder = fold.stage("align-pretrain")
    pretrained = Hubert.from_pretrained(folder / "encoder").eval()
    sound = audio.load(utterance.path)
    units = fold_units.of(utterance)
    truth = None
    if frame_truth.exists(utterance):
        truth = frame_truth.is_emotional(utterance, len(units), pretrained.config.framing)
    settings = files.read_json(folder / "stage.json")["settings"]["pretrain"]
    return Example(sound=sound.numpy(), waveform=audio.preprocess(sound, pretrained.do_normalize), units=units,
                   order=unit_analysis.unit_order(fold_units.codebook.centroids), pretrained=pretrained,
                   head=read_head(folder, pretrained.config.hidden_size, settings["temperature"]), pretraining=settings,
                   recogniser=EmotionModel.from_pretrained(fold.tested / "recogniser"), truth=truth, seed=fold.seed)


def read_head(folder: Path, hidden_size: int, temperature: float) -> UnitHead:
    """The unit head of a pretraining's newest checkpoint: it is not part of the encoder that the stage exports."""
    newest = checkpoint.latest(folder)
    if newest is None:
        raise ValueError(f"{folder}: has no checkpoint left, so that its unit head is not known; remake the stage")
    _, head_state, _ = newest
    tensors = {name.removeprefix("heads.0."): tensor for name, tensor in head_state.items()}
    num_clusters, projection_size = tensors["codewords"].shape
    head = UnitHead(hidden_size, projection_size, num_clusters, temperature)
    head.load_state_dict(tensors)
    return head


@torch.inference_mode()
def steps(example: Example) -> Iterator[Step]:
    """The steps of the method, in their order."""
    yield waveform_step(example)
    yield conv_step(example)
    if mfcc_follows(example.framing):
        yield mfcc_step(example)
    yield units_step(example)
    yield from masked_prediction_steps(example)
    yield from recognition_steps(example)


def waveform_step(example: Example) -> Step:
    num_samples, framing = len(example.sound), example.framing
    wave = tracks.stretched(tracks.waveform_shapes(example.sound))
    return Step("Waveform to frames", "HuBERT, Sec. II-E; wav2vec 2.0, Sec. 2", "frames.py: num_frames; audio.py: load",
                f"{num_samples:,} samples at 16 kHz are {example.num_frames} frames = floor(({num_samples:,} - "
                f"{framing.receptive_field}) / {framing.hop}) + 1. Above, {SHOWN_FRAMES} of them at the loudest place, "
                f"enlarged: each covers {milliseconds(framing.receptive_field)} and starts "
                f"{milliseconds(framing.hop)} after the one before.",
                [track("frames", receptive_fields(example.sound, framing), 110, "enlarged"),
                 track("sound", wave, 62, "whole")])


def conv_step(example: Example) -> Step:
    features = example.pretrained.conv_features(example.waveform[None])[0]      # (T, C)
    (T, C), number = features.shape, len(example.pretrained.config.conv_dim)
    return Step("Convolutions", "wav2vec 2.0, Sec. 2", "model.py: FeatureExtractor, ConvLayer",
                f"{number} convolutions turn the waveform (1, {len(example.sound)}) into conv features (1, {T}, {C}). "
                "Each row is a channel, light where it is more active than usual.",
                [track("conv features", standardised_image(features), 120, f"{C} channels")])


def mfcc_step(example: Example) -> Step:
    features = mfcc(torch.from_numpy(example.sound), example.framing)           # (T, 39)
    return Step("MFCC", "HuBERT, Sec. IV-B", "mfcc.py: mfcc",
                f"The features of the first codebook of a HuBERT trained from scratch: ({len(features)}, 39), 13 "
                "coefficients, their deltas and the deltas of these, one row for each frame of the encoder.",
                [track("MFCC", standardised_image(features), 120, "the first is lowest")])


def units_step(example: Example) -> Step:
    num_used, num_units = len(set(example.units.tolist())), len(example.order)
    return Step("Units", "HuBERT, Sec. II-A; alignment paper, Sec. 2.2",
                "kmeans.py: fit; codebook.py: Codebook; units.py: make_units",
                f"Each frame's unit is the nearest of {num_units} centroids, fitted on the states of a model that was "
                f"fine-tuned on emotion: ({example.num_frames},) whole numbers, {num_used} different ones here. "
                "Similar units have similar colours.",
                [example.units_track()])


def masked_prediction_steps(example: Example) -> Iterator[Step]:
    """Phase 2: spans of frames are masked, states computed, the units of masked frames predicted."""
    T, generator = example.num_frames, torch.Generator().manual_seed(derive_seed(example.seed, "lesson"))
    start_fraction, span = example.pretraining["mask_start_fraction"], example.pretraining["mask_span_frames"]
    is_masked = span_mask(torch.tensor([T]), T, start_fraction, span, example.pretraining["mask_min_spans"], generator)
    mask_track = track("masked", example.strip(is_masked[0].numpy(), GREY, "masked"), 24, "replaced frames")
    yield Step("Masking", "HuBERT, Sec. II-B", "masking.py: span_mask",
               f"{100 * start_fraction:.0f} % of the frames start a span of {span} masked frames; spans may overlap. "
               "The conv features of masked frames are replaced by one learned vector. "
               f"is_masked: (1, {T}) bool, here {percent(is_masked[0])} True.",
               [example.units_track(), mask_track])

    states = example.pretrained(example.waveform[None], None, is_masked)[0]     # (T, D)
    direction = F.normalize(states - states.mean(0), dim=-1)
    similarity = tracks.image((direction @ direction.T).flip(0), -0.6, 1.0)
    yield Step("Transformer", "HuBERT, Sec. II-E", "model.py: Encoder, Block, Attention; Hubert.layers",
               f"Every frame attends to all frames: states (1, {T}, {states.shape[1]}). Below: the cosine similarity "
               "of the states of any two frames; light blocks are stretches whose states are alike.",
               [mask_track, track("similarity", similarity, 260, "frame by frame")])

    head = example.head
    logits = unit_logits(head.final_proj(states), head.codewords, head.temperature)      # (T, K)
    units = torch.as_tensor(example.units)                                      # (T,)
    masked = is_masked[0]                                                       # (T,)
    loss = float(masked_prediction_loss(logits[masked], units[masked])) / max(int(masked.sum()), 1)
    is_right = logits.argmax(-1) == units
    rows = torch.as_tensor(example.order).argsort()                             # similar units in adjacent rows
    probability = tracks.image(logits.softmax(-1)[:, rows].T, 0.0, 0.5)
    yield Step("Masked prediction", "HuBERT, Sec. II-B and II-E", "objective.py: unit_logits, masked_prediction_loss",
               f"The cosine of each projected state and each of {logits.shape[1]} codewords, divided by the "
               f"temperature {head.temperature:g}, gives logits {tuple(logits.shape)}. Mean cross-entropy of the "
               f"masked frames: {loss:.2f} nats (chance: {np.log(logits.shape[1]):.2f}). Correct: "
               f"{percent(is_right[masked])} of the masked frames, {percent(is_right[~masked])} of the unmasked ones.",
               [example.units_track(), mask_track, track("predicted", probability, 150, "probability of each unit"),
                track("correct", example.strip(is_right.numpy(), GREEN, "correct"), 20)])


def recognition_steps(example: Example) -> Iterator[Step]:
    """Phase 3: the fine-tuned encoder, attention pooling, the emotion of the utterance and over time."""
    model, T = example.recogniser, example.num_frames
    num_samples = torch.tensor([len(example.waveform)])
    probabilities, attention, posterior = (x[0].numpy() for x in model.over_time(example.waveform[None], num_samples))
    weights = tracks.stretched(tracks.attention_shapes(attention, example.edges))
    yield Step("Attention pooling", "alignment paper, Sec. 2.3", "emotion_model.py: AttentionPooling.attention",
               f"Weights softmax(tanh(h . w)) over the frames, ({T},), with sum 1; the classifier reads the weighted "
               "mean of the states. Dashed: equal weights. Because of tanh no weight is more than e² times another.",
               [*example.truth_tracks(), track("attention", weights, 70)])

    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in zip(model.labels, probabilities))
    areas = tracks.stretched(tracks.posterior_shapes(posterior, example.edges, model.labels))
    yield Step("Emotion, once and over time", "alignment paper, Sec. 2.3", "emotion_model.py: EmotionModel.over_time",
               f"The classifier is linear: applied to the pooled state it gives the utterance's emotion ({shares}), "
               f"applied to single frames the posterior ({T}, {len(model.labels)}).",
               [*example.truth_tracks(), example.units_track(), track("posterior", areas, 110)],
               tracks.legend(model.labels))


def standardised_image(x: Tensor) -> str:
    """Features (T, F) as an image, each row (feature) by its own mean and deviation."""
    return tracks.image(((x - x.mean(0)) / x.std(0).clamp(min=1e-6)).T, -2.5, 2.5)


def percent(is_true: Tensor) -> str:
    """The share of True, in words."""
    return f"{100 * float(is_true.float().mean()):.0f} %" if len(is_true) else "none"


def receptive_fields(sound: np.ndarray, framing: Framing) -> str:
    """A loud place of the waveform with the samples that each of some frames covers."""
    hop, size = framing.hop, framing.receptive_field
    last_start = max(1, len(sound) - size - SHOWN_FRAMES * hop)
    loudest = int(np.abs(sound[:last_start]).argmax())
    first = max(0, loudest // hop - 2)                                          # the first frame that is shown
    piece = sound[hop * first:hop * first + num_samples_of(SHOWN_FRAMES, framing)]
    scale = WIDTH / len(piece)
    wave = path(np.arange(len(piece)) * scale, 62 - 34 * piece / max(np.abs(piece).max(), 1e-6))
    shapes, words = [element("path", "", d=wave, class_="curve s0")], []
    for t in range(num_frames(len(piece), framing)):
        left, width, y = hop * t * scale, size * scale, 6 + 11 * (t % 2)
        shapes += [rect(left + 1, y, width - 2, 8, fill=shade(0.2 + 0.12 * t)),
                   line(left, y, left, 100, class_="gridline")]
        place = f"left:{100 * (hop * t + (size - hop) / 2) / len(piece):.2f}%;width:{100 * hop / len(piece):.2f}%"
        words.append(element("span", f"frame {first + t}", class_="word wide-only",
                             style=f"{place};top:auto;bottom:2px;color:var(--soft)"))
    return tracks.stretched(shapes) + "".join(words)


def anchor(title: str) -> str:
    """A title as an address within the page, as in docs/WALKTHROUGH.md."""
    letters = "".join(letter if letter.isalnum() else " " for letter in title.lower())
    return "-".join(letters.split())


def step_card(step: Step, num_samples: int) -> str:
    """A step as a card with an address of its own."""
    source = element("small", escape(step.source) + " · " + element("code", escape(step.code)))
    rows = element("div", [*step.tracks, tracks.axis(num_samples / SAMPLE_RATE)], class_="tracks")
    content = [element("figcaption", escape(step.title) + source),
               element("p", escape(step.caption), class_="note"), rows, step.legend]
    return element("figure", content, class_="card wide", id=anchor(step.title))
