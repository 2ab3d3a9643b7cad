"""lesson.html: every step of the method as a picture of one utterance, made by the code that trained the run.

The steps are those of docs/WALKTHROUGH.md, in the same order and under the same titles. Each names the code that does
it and says the shapes it met.
"""
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from framealign.runtime import files
from framealign.runtime.seeds import derive_seed
from framealign.sound import audio
from framealign.sound.frames import HOP, RECEPTIVE_FIELD, SAMPLE_RATE, num_frames
from framealign.sound.mfcc import mfcc
from framealign.corpus import manifest, synthetic_corpus
from framealign.hubert.masking import span_mask
from framealign.hubert.model import Hubert
from framealign.hubert.objective import UnitHead, masked_prediction_loss
from framealign.emotion import planted_truth
from framealign.emotion.emotion_model import EmotionModel
from framealign.training import checkpoint
from framealign.recipe import results
from framealign.report import fold_page, html_document, timeline, unit_analysis
from framealign.report.svg import element, escape, line, path, rect, shade
from framealign.report.timeline import WIDTH, axis, coloured_runs, image, stretched, track, unit_strip

SHOWN_FRAMES = 6                                    # of the first picture


@dataclass
class Step:
    """One picture: its title, where it stands in the papers, the code, what is to be seen, tracks."""
    title: str
    source: str
    code: str
    seen: str
    tracks: list[str]


@dataclass
class Heard:
    """One utterance and everything the run says of it; T frames."""
    waveform: Tensor                                # (N,) as the encoder hears it
    sound: np.ndarray                               # (N,) as in the file
    units: np.ndarray                               # (T,) pseudo-emotion units
    order: np.ndarray                               # (K,) their colours
    recogniser: EmotionModel
    pretrained: Hubert                              # by masked prediction of those units
    head: UnitHead
    seed: int
    truth: np.ndarray | None                        # (T,) bool

    @property
    def edges(self) -> np.ndarray:
        return timeline.frame_edges(len(self.units), len(self.sound))


def write(run: str | Path, session: str = "", sound: str = "", device: str = "cpu") -> Path:
    """Make `RUN/session<n>/lesson.html` of a finished run of method align.

    session: "" for the first finished; sound: an utterance's id, "" for the one that is recognised best.
    Raises ValueError where the run has no finished fold of that method, or the corpus no such utterance.
    """
    collected = results.collect(run, "align")
    session = session or next(iter(collected["folds"]))
    if session not in collected["folds"]:
        raise ValueError(f"{run}: session {session} is not finished; finished: {', '.join(collected['folds'])}")
    fold = fold_page.Fold(Path(run), session, "align", collected, device)
    utterances = manifest.read(fold.run / "corpus.tsv", fold.classes)
    sound = sound or unit_analysis.chosen(unit_analysis.read_predictions(fold.tested / "predictions.csv"), fold.classes,
                                   fold.seed)[0][0].id
    utterance = next((u for u in utterances if u.id == sound), None)
    if utterance is None:
        raise ValueError(f"{run}: no utterance {sound} in its corpus.tsv")
    heard = listen(fold, utterance, utterances)
    found = list(steps(heard))
    title = f"From waveform to emotion: {utterance.id}"
    body = html_document.head(title, "Every step of the method on one utterance, drawn by the code of the run.",
                         [(place(step.title), step.title) for step in found])
    body += element("main", "".join(shown(step, len(heard.sound)) for step in found), class_="lesson")
    return fold_page.save(fold.run / f"session{session}" / "lesson.html", html_document.document(title, body))


def place(title: str) -> str:
    """A title as an address within the page, as in docs/WALKTHROUGH.md."""
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())


def listen(fold: fold_page.Fold, utterance, utterances: list) -> Heard:
    """Everything the run says of one utterance. Raises ValueError where a stage left no checkpoint."""
    labelled = fold_page.Labelled.of(fold, utterances)
    folder = fold.stage("align-pretrain")
    newest = checkpoint.latest(folder)
    if newest is None:
        raise ValueError(f"{folder}: has no checkpoint left, so that its unit head is not known; remake the stage")
    hubert = Hubert.from_pretrained(folder / "encoder").eval()
    tensors = {name.removeprefix("heads.0."): x for name, x in newest[1].items()}
    num_clusters, projection = tensors["codewords"].shape
    settings = files.read_json(folder / "stage.json")["settings"]["pretrain"]
    head = UnitHead(hubert.config.hidden_size, projection, num_clusters, settings["temperature"])
    head.load_state_dict(tensors)
    sound = audio.load(utterance.path)
    units = labelled.label(utterance)
    truth = synthetic_corpus.planted(utterance.path, len(units)) if planted_truth.has_truth(utterance) else None
    return Heard(audio.preprocess(sound, hubert.do_normalize), sound.numpy(), units,
                 unit_analysis.unit_order(labelled.codebook.centroids),
                 EmotionModel.from_pretrained(fold.tested / "recogniser"), hubert, head, fold.seed, truth)


@torch.inference_mode()
def steps(heard: Heard) -> Iterator[Step]:
    """The steps of the method, in their order."""
    batch, T = heard.waveform[None], len(heard.units)                           # (1, N)
    yield Step("Waveform to frames", "HuBERT, Sec. II-A; wav2vec 2.0, Sec. 2", "frames.py: num_frames; audio.py: load",
               f"{len(heard.sound):,} samples at 16 kHz are {T} frames = floor(({len(heard.sound):,} - "
               f"{RECEPTIVE_FIELD}) / {HOP}) + 1. Above, {SHOWN_FRAMES} of them at the loudest place, enlarged: "
               "each sees 25 ms and starts 20 ms after the one before.",
               [track("frames", receptive(heard.sound), 110, "enlarged"),
                track("sound", timeline.waveform_area(heard.sound), 62, "all of it")])
    features = heard.pretrained.frontend(batch)[0]                              # (T, C)
    yield Step("Convolutions", "wav2vec 2.0, Sec. 2", "model.py: FeatureExtractor, ConvLayer",
               f"Seven convolutions turn the waveform (1, {len(heard.sound)}) into features (1, {T}, "
               f"{features.shape[1]}). A row is a channel, light where it is more active than usual.",
               [track("features", standardised(features), 120, f"{features.shape[1]} channels")])
    cepstra = mfcc(torch.from_numpy(heard.sound))                               # (T, 39)
    yield Step("MFCC", "HuBERT, Sec. IV-B", "mfcc.py: mfcc",
               f"What the first codebook of HuBERT from scratch is fitted on: ({T}, 39), 13 coefficients, their deltas "
               "and the deltas of these, one row for each frame of the encoder.",
               [track("MFCC", standardised(cepstra), 120, "lowest row: the first")])
    yield Step("Units", "HuBERT, Sec. II-B; alignment paper, Sec. 2.2",
               "kmeans.py: fit; units.py: Codebook, make_units",
               f"Every frame's state gets the number of the nearest of {len(heard.order)} centroids, fitted on the "
               f"states of a recogniser of emotion: ({T},) whole numbers, {len(set(heard.units.tolist()))} different "
               "ones here.",
               [units_track(heard)])
    yield from hidden_and_predicted(heard, batch)
    yield from recognised(heard, batch)


def hidden_and_predicted(heard: Heard, batch: Tensor) -> Iterator[Step]:
    """Phase 2: spans are hidden, states computed, the hidden units predicted."""
    T, generator = len(heard.units), torch.Generator().manual_seed(derive_seed(heard.seed, "lesson"))
    is_masked = span_mask(torch.tensor([T]), T, 0.08, 10, 2, generator)        # (1, T)
    share = float(is_masked.float().mean())
    mask_track = track("hidden", coloured_runs(is_masked[0].int().numpy(), heard.edges, [None, "#56606b"],
                                               ["", "hidden"]), 24, "not shown to it")
    yield Step("Masking", "HuBERT, Sec. II-B", "masking.py: span_mask",
               f"8 % of the frames start a span of ten frames that is replaced by one learnt vector: (1, {T}) bool, "
               f"here {100 * share:.0f} % true.", [units_track(heard), mask_track])
    *_, states = heard.pretrained.layers(heard.pretrained.frontend(batch), None, is_masked)     # (1, T, D)
    alike = torch.nn.functional.normalize(states[0] - states[0].mean(0), dim=-1)
    yield Step("Transformer", "HuBERT, Sec. II-A", "model.py: Encoder, Block, Attention; Hubert.layers",
               f"All frames look at all frames: states {tuple(states.shape)}. Below: how alike the states of any two "
               "frames are (cosine); light blocks are stretches that the encoder takes for one thing.",
               [mask_track, track("likeness", image((alike @ alike.T).flip(0), -0.6, 1.0), 260, "frame by frame")])
    logits, units = heard.head(states[0]), torch.as_tensor(heard.units)        # (T, K)
    hidden = is_masked[0]
    loss = float(masked_prediction_loss(logits[hidden], units[hidden])) / max(int(hidden.sum()), 1)
    right = logits.argmax(-1) == units
    rank = torch.as_tensor(heard.order).argsort()                               # units as rows, like ones together
    yield Step("Predicting hidden units", "HuBERT, Sec. II-E and Eq. 1",
               "prediction.py: unit_logits, masked_prediction_loss",
               f"Cosine of each projected state to each of {logits.shape[1]} codewords, over temperature 0.1: logits "
               f"{tuple(logits.shape)}. Mean cross-entropy of the hidden frames: {loss:.2f} nats (guessing: "
               f"{np.log(logits.shape[1]):.2f}); right: {share_of(right[hidden])} of the hidden, "
               f"{share_of(right[~hidden])} of the visible ones.",
               [units_track(heard), mask_track,
                track("predicted", image(logits.softmax(-1)[:, rank].T, 0.0, 0.5), 150, "probability of each unit"),
                track("right", coloured_runs(right.int().numpy(), heard.edges, [None, "#0b7a67"], ["", "right"]), 20)])


def recognised(heard: Heard, batch: Tensor) -> Iterator[Step]:
    """Phase 3: the fine-tuned encoder, attention pooling, the emotion once and over time."""
    lengths = torch.tensor([batch.shape[1]])
    probabilities, attention, posterior = (x[0].numpy() for x in heard.recogniser.over_time(batch, lengths))
    labels, T = heard.recogniser.labels, len(heard.units)
    truth = [] if heard.truth is None else [track("planted truth", coloured_runs(
        heard.truth.astype(int), heard.edges, [None, "#b83227"], ["", "emotional"]), 24, "where it was put")]
    yield Step("Attention pooling", "alignment paper, Sec. 2.3", "emotion.py: AttentionPooling.attention",
               f"Weights softmax(tanh(h . w)) over the frames, ({T},), sum 1; the weighted mean of the states is what "
               "is classified. Dashed: if every frame counted alike. tanh keeps any weight within e² of any other.",
               [*truth, track("attention", timeline.attention_area(attention, heard.edges), 70)])
    words = ", ".join(f"{name} {100 * p:.0f} %" for name, p in zip(labels, probabilities))
    yield Step("Emotion, once and over time", "alignment paper, Sec. 2.3", "emotion.py: EmotionModel.over_time",
               f"The classifier is linear: read on the pooled state it gives the utterance ({words}), read on single "
               f"frames the posterior ({T}, {len(labels)}).",
               [*truth, units_track(heard),
                track("posterior", timeline.posterior_areas(posterior, heard.edges, labels), 110),
                timeline.legend(labels)])


def standardised(x: Tensor) -> str:
    """Features (T, F) as an image, each row (feature) by its own mean and deviation."""
    return image(((x - x.mean(0)) / x.std(0).clamp(min=1e-6)).T, -2.5, 2.5)


def units_track(heard: Heard) -> str:
    return track("units", unit_strip(heard.units, heard.edges, len(heard.sound), lambda u: float(heard.order[u])), 26,
                 "like colours: like units")


def share_of(is_right: Tensor) -> str:
    return f"{100 * float(is_right.float().mean()):.0f} %" if len(is_right) else "none"


def receptive(sound: np.ndarray) -> str:
    """A loud place of the waveform with what each of the first frames from there sees."""
    loudest = int(np.abs(sound[:max(1, len(sound) - RECEPTIVE_FIELD - SHOWN_FRAMES * HOP)]).argmax())
    first = HOP * max(0, loudest // HOP - 2)
    piece = sound[first:first + HOP * (SHOWN_FRAMES - 1) + RECEPTIVE_FIELD]
    frames = num_frames(len(piece))
    across = WIDTH / len(piece)
    wave = path(np.arange(len(piece)) * across, 62 - 34 * piece / max(np.abs(piece).max(), 1e-6))
    shapes = [element("path", "", d=wave, class_="curve s0")]
    for t in range(frames):
        left, width, y = HOP * t * across, RECEPTIVE_FIELD * across, 6 + 11 * (t % 2)
        shapes += [rect(left + 1, y, width - 2, 8, fill=shade(0.2 + 0.12 * t)),
                   line(left, y, left, 100, class_="gridline")]
    return stretched(shapes, 100) + "".join(element(
        "span", f"frame {first // HOP + t}", class_="word wide-only",
        style=f"left:{100 * (HOP * t + 40) / len(piece):.2f}%;width:{100 * HOP / len(piece):.2f}%;top:auto;bottom:2px;"
              "color:var(--soft)") for t in range(frames))


def shown(step: Step, num_samples: int) -> str:
    """A step as a card with an address of its own."""
    caption = element("figcaption", escape(step.title) + element("small", escape(step.source) + " · "
                                                                 + element("code", escape(step.code))))
    tracks = element("div", [*step.tracks, axis(num_samples / SAMPLE_RATE)], class_="tracks")
    return element("figure", caption + element("p", escape(step.seen), class_="note") + tracks, class_="card wide",
                   id=place(step.title))
