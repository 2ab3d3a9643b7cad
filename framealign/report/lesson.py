"""lesson.html: every step of the method as a picture of one utterance, made by the code that trained the run.

The steps are those of docs/WALKTHROUGH.md, in the same order and under the same titles. Each names the code that
computes it and gives the shapes of this utterance. A run without the stage `frames` has a lesson without its steps, and
a recogniser alone shows those that need nothing of a run, on any sound. What is left out is said at the end.
"""
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from framealign.runtime import files, log
from framealign.runtime.seeds import derive_seed
from framealign.sound import audio
from framealign.sound.frames import SAMPLE_RATE, Framing, milliseconds, num_frames, num_samples_of
from framealign.sound.mfcc import mfcc, mfcc_follows
from framealign.corpus import frame_truth
from framealign.corpus.utterance import NEUTRAL, NONE, Utterance, class_of
from framealign.hubert import long_sound
from framealign.hubert.masking import span_mask
from framealign.hubert.model import Hubert
from framealign.hubert.objective import UnitHead, masked_prediction_loss, unit_logits
from framealign.emotion import diarization, planted_truth
from framealign.emotion.emotion_model import LEAST_WEIGHT, EmotionModel, FrameClassifier, MeanPooling
from framealign.emotion.predictions import Predictions
from framealign.emotion.recogniser import Recogniser
from framealign.emotion.segments import MIN_SECONDS, segments
from framealign.training import checkpoint, frame_labels, frame_training
from framealign.training.frame_labels import Spread
from framealign.training.frame_training import Piece, Speech
from framealign.training.training_config import FramesConfig
from framealign.recipe import results
from framealign.report import fold_page, html_document, tracks, unit_analysis
from framealign.report.svg import colours, element, escape, line, linear, path, rect, shade
from framealign.report.tracks import COLUMNS, HEIGHT, WIDTH, track

SHOWN_FRAMES = 6                                    # in the first picture
COMPANY = 8                                         # utterances of each class, of the same speaker
GREY, GREEN = "#56606b", "#0b7a67"
KINDS = ("false alarm", "missed", "confused")       # of wrong time
BEYOND = "beyond the papers"
# Steps that not every lesson has, and what they need.
NEEDED = {
    ("Units", "Masking", "Masked prediction"):
        "a run's folder: the codebook, the settings of pretraining and its unit head are no part of a recogniser",
    ("Shuffled stretches", "Scores in other company", "Coverage and soft labels", "Joined utterances"):
        "a run's folder with the scorer of its stage frames, and labelled utterances of the same speaker, neutral and "
        "emotional, in whose company its frames are scored",
    ("Which frames",): "a run's folder: it compares its recogniser of utterances with that of frames"}


@dataclass
class Step:
    """One picture: its title, where it stands in the papers, the code, what the picture shows, its tracks."""
    title: str
    source: str
    code: str
    caption: str
    tracks: list[str]
    legend: str = ""                                # below the time axis
    num_samples: int = 0                            # of another sound than the example, on the time axis


@dataclass
class FrameModels:
    """What the stage `frames` left, and speech of the example's speaker, the example first, in whose company it is."""
    config: FramesConfig
    scorer: EmotionModel
    spreads: dict[str, Spread]                      # of each emotion's scores, by its name
    speech: Speech
    planted: dict[str, float]                       # share of the time of each emotion's utterances that has it

    @property
    def classes(self) -> list[str]:
        return self.scorer.labels

    def log_p(self, pieces: Sequence[Piece]) -> Tensor:
        """What the scorer says of frames of pieces, put together: log p of each class, (T, C)."""
        waveform = self.speech.waveform(pieces)[None]                           # (1, N)
        states, _ = self.scorer.states(waveform, torch.tensor([waveform.shape[1]]))
        return self.scorer.of_frames(states)[0].log_softmax(-1)

    def edges(self, pieces: Sequence[Piece]) -> np.ndarray:
        """Where the frames of pieces begin and end on the time axis of their own sound, (T + 1,) in 0..1."""
        num_hops = sum(piece.end - piece.first for piece in pieces)
        return tracks.frame_edges(num_hops, num_samples_of(num_hops, self.speech.framing), self.speech.framing)

    def labels_track(self, pieces: Sequence[Piece]) -> str:
        """The labels of the utterances that pieces are of."""
        numbers = [self.speech.labels[piece.utterance] for piece in pieces]
        of_frames = np.repeat(np.arange(len(pieces)), [piece.end - piece.first for piece in pieces])       # (T,)
        strip = tracks.coloured_runs(of_frames, self.edges(pieces), [colours(self.classes)[n] for n in numbers],
                                     [self.classes[n] for n in numbers])
        return track("labels", strip, 24, "of the utterances")

    def truth_tracks(self, pieces: Sequence[Piece]) -> list[str]:
        """The planted truth of pieces, where it is known."""
        if not self.planted:
            return []
        labels = frame_training.true_labels(self.speech)                        # (T, C) of each utterance
        numbers = np.concatenate([labels[piece.utterance][piece.first:piece.end].argmax(-1) for piece in pieces])
        strip = tracks.coloured_runs(numbers, self.edges(pieces), colours(self.classes), self.classes)
        return [track("truth", strip, 24, "no training reads it")]


@dataclass
class Pretraining:
    """What a run's pretraining on pseudo-emotion units left, and these units of the example."""
    units: np.ndarray                               # (T,)
    order: np.ndarray                               # (K,) 0..1: each unit's place along the codebook, its colour
    hubert: Hubert                                  # by masked prediction of those units
    head: UnitHead
    settings: dict                                  # `PretrainConfig`


@dataclass
class Example:
    """One utterance of T frames and the models that are applied to it: of a run, or a recogniser alone."""
    utterance: Utterance
    sound: np.ndarray                               # (N,) as in the file
    waveform: Tensor                                # (N,) as the encoder gets it
    recogniser: EmotionModel                        # of a run the method's, tested
    truth: list[str] | None                         # of each frame, where it is known
    is_tested: bool = False                         # no training used its label
    pretraining: Pretraining | None = None          # None: of a recogniser alone
    frame_recogniser: EmotionModel | None = None    # the run's, with a classifier of frames
    eder: list[float | None] = field(default_factory=list)      # of all test utterances, of both
    frames: FrameModels | None = None               # None: there is no scorer, or the speaker has no company
    seed: int = 0

    @property
    def encoder(self) -> Hubert:
        """What conv features and states are shown of: the pretrained one, or else the recogniser's."""
        return self.recogniser.hubert if self.pretraining is None else self.pretraining.hubert

    @property
    def framing(self) -> Framing:
        return self.encoder.config.framing

    @property
    def num_frames(self) -> int:
        return num_frames(len(self.sound), self.framing)

    @property
    def edges(self) -> np.ndarray:
        return tracks.frame_edges(self.num_frames, len(self.sound), self.framing)

    def strip(self, values: np.ndarray, colour: str, name: str) -> str:
        """Frames (T,) where `values` is True, as named and coloured runs."""
        return tracks.coloured_runs(np.asarray(values, int), self.edges, [None, colour], ["", name])

    def units_tracks(self) -> list[str]:
        """The units, where there are some."""
        if self.pretraining is None:
            return []
        strip = tracks.unit_strip(self.pretraining.units, self.edges, len(self.sound),
                                  lambda unit: float(self.pretraining.order[unit]), self.framing)
        return [track("units", strip, 26, f"one every {milliseconds(self.framing.hop)}")]

    def truth_tracks(self) -> list[str]:
        """The truth, where it is known."""
        if self.truth is None:
            return []
        colour_of = tracks.emotion_colours([*self.recogniser.labels, NEUTRAL, *self.truth], ())
        names = list(colour_of)
        numbers = np.array([names.index(emotion) for emotion in self.truth])    # (T,)
        strip = tracks.coloured_runs(numbers, self.edges, list(colour_of.values()), names)
        return [track("truth", strip, 24, "no training reads it")]


def write(run: str | Path, session: str = "", sound: str | Utterance = "", out: str | Path = "", device: str = "cpu"
          ) -> Path:
    """Make the lesson of a finished run of method align: `RUN/session<n>/lesson.html`, or `out`.

    session: "" for the first finished; sound: an utterance's id, any sound file, or an utterance of another corpus, ""
    for the one that `example_id` chooses. Raises ValueError where the run has no finished fold of that method, or there
    is no such sound, and as `read_sound`.
    """
    collected = results.collect(run, "align")
    finished = list(collected["folds"])
    session = session or finished[0]
    if session not in finished:
        raise ValueError(f"{run}: session {session} is not finished; finished: {', '.join(finished)}")
    fold = fold_page.Fold(Path(run), session, "align", collected, device)
    utterances = fold.utterances()
    if not sound:
        sound = example_id(fold, utterances)
    utterance = (utterances.get(sound) or of_file(sound)) if isinstance(sound, str) else sound
    if utterance is None:
        raise ValueError(f"{run}: no utterance {sound} in its corpus.tsv, and no sound file of that name")

    log.say(f"lesson on {utterance.path}")
    example = read_example(fold, utterance, list(utterances.values()))
    is_own = utterances.get(utterance.id) is utterance
    lead = "Every step of the method on one utterance, drawn by the code of the run."
    if not is_own:
        lead = f"The method on {utterance.path}, drawn by the code of the run {run}; the sound is none of its corpus."
    place = Path(out) if out else fold.run / f"session{session}" / "lesson.html"
    return fold_page.save(place, page(example, utterance.id if is_own else Path(utterance.path).name, lead))


def write_of_recogniser(directory: str | Path, sound: str, out: str | Path = "lesson.html") -> Path:
    """Make the lesson that a recogniser's directory allows, of any sound file: `out`.

    Raises ValueError for a directory without a recogniser, where there is no such file, and as `read_sound`.
    """
    recogniser = EmotionModel.from_pretrained(directory)
    utterance = of_file(sound)
    if utterance is None:
        raise ValueError(f"{sound}: no such sound file")
    log.say(f"lesson on {utterance.path}")
    waveform = read_sound(utterance, recogniser.hubert)
    example = Example(utterance=utterance, sound=waveform.numpy(),
                      waveform=audio.preprocess(waveform, recogniser.hubert.do_normalize), recogniser=recogniser,
                      truth=true_emotions(utterance, recogniser, len(waveform)))
    lead = f"What the recogniser {directory} does with {sound}, step by step, drawn by its own code."
    return fold_page.save(Path(out), page(example, Path(sound).name, lead))


def of_file(sound: str) -> Utterance | None:
    """A sound file as an utterance of which nothing is known, except perhaps the truth beside it; None of no file."""
    return Utterance(Path(sound).stem, Path(sound), audio.length(sound)) if Path(sound).is_file() else None


def read_sound(utterance: Utterance, hubert: Hubert) -> Tensor:
    """The waveform (N,) of what is to be shown. Raises ValueError as `audio.load`, for less than a frame, and for more
    than is recognised whole: a minute.
    """
    waveform, framing = audio.load(utterance.path), hubert.config.framing
    least, most = framing.receptive_field, num_samples_of(long_sound.WHOLE, framing)
    if not least <= len(waveform) <= most:
        raise ValueError(f"{utterance.path}: {len(waveform) / SAMPLE_RATE:.2f} s, a lesson shows {milliseconds(least)} "
                         f"to {most / SAMPLE_RATE:.0f} s; cut a piece out of it")
    return waveform


def true_emotions(utterance: Utterance, recogniser: EmotionModel, num_samples: int) -> list[str] | None:
    """The emotion of each frame, by the names of the recogniser's classes, where these have one; None where it is not
    known.
    """
    if not frame_truth.exists(utterance):
        return None
    known = diarization.true_stretches(utterance, recogniser.labels)
    names, framing = [*(stretch.emotion for stretch in known), NEUTRAL], recogniser.hubert.config.framing   # -1: last
    numbers = frame_truth.stretch_of_frames(known, num_frames(num_samples, framing), framing)
    return [names[number] for number in numbers]


def page(example: Example, name: str, lead: str) -> str:
    """The whole page. name: of the utterance; lead: the line below the title."""
    pictures, title = list(steps(example)), f"From waveform to emotion: {name}"
    drawn = [step.title for step in pictures]
    body = html_document.head(title, lead, [(anchor(step), step) for step in drawn])
    content = [step_card(step, len(example.sound)) for step in pictures]
    for titles, needed in NEEDED.items():
        lacking = [step for step in titles if step not in drawn]
        if lacking:
            content.append(element("p", escape(f"Not shown: {', '.join(lacking)}. Needed: {needed}."), class_="intro"))
    return html_document.document(title, body + element("main", content, class_="lesson"))


def example_id(fold: fold_page.Fold, utterances: Mapping[str, Utterance]) -> str:
    """The test utterance that is drawn: the median one by EDER (`diarization.median`), by the recogniser of frames.

    Without one, or without a truth about frames, the utterance whose class is recognised as the most probable.
    """
    predictions = Predictions.read(fold.over_time / "predictions.csv", utterances)
    if fold.frames is not None:
        recogniser = Recogniser.from_pretrained(fold.frames / "recogniser", fold.device)
        tested = [utterances[name] for name in predictions.ids]
        middle = diarization.median(planted_truth.recognised(recogniser, tested))
        if middle is not None:
            return middle.id
    return unit_analysis.example_utterances(predictions, fold.seed)[0].id


def read_example(fold: fold_page.Fold, utterance: Utterance, utterances: list[Utterance]) -> Example:
    """The utterance and the fold's models. Raises ValueError where a stage left no checkpoint, and as `read_sound`."""
    fold_units = fold_page.FoldUnits.read(fold, utterances)
    folder = fold.stage("align-pretrain")
    pretrained = Hubert.from_pretrained(folder / "encoder").eval()
    sound = read_sound(utterance, pretrained)
    settings = files.read_json(folder / "stage.json")["settings"]["pretrain"]
    pretraining = Pretraining(fold_units.of(utterance), unit_analysis.unit_order(fold_units.codebook.centroids),
                              pretrained, read_head(folder, pretrained.config.hidden_size, settings["temperature"]),
                              settings)
    recogniser = EmotionModel.from_pretrained(fold.tested / "recogniser")
    places = [fold.tested] + ([] if fold.frames is None else [fold.frames])
    scores = [files.read_json(place / "results.json").get("over_time") for place in places]
    frame_recogniser = None if fold.frames is None else EmotionModel.from_pretrained(fold.frames / "recogniser")
    return Example(utterance=utterance, sound=sound.numpy(),
                   waveform=audio.preprocess(sound, pretrained.do_normalize), recogniser=recogniser,
                   truth=true_emotions(utterance, recogniser, len(sound)), is_tested=utterance.session == fold.session,
                   pretraining=pretraining, frame_recogniser=frame_recogniser,
                   eder=[one and one["eder"] for one in scores],
                   frames=read_frame_models(fold, utterance, utterances), seed=fold.seed)


def read_frame_models(fold: fold_page.Fold, utterance: Utterance, utterances: list[Utterance]) -> FrameModels | None:
    """What the stage `frames` left, and company of the utterance, drawn; None without that stage or such company.

    Raises ValueError where the stage left no scorer.
    """
    folder = fold.frames
    if folder is None:
        return None
    newest, spreads = checkpoint.newest(folder / "scorer"), folder / "scorer" / "spreads.json"
    if newest is None or not spreads.exists():
        raise ValueError(f"{folder}: its scorer left no checkpoint, or no {spreads.name}; remake the stage with --redo "
                         f"{folder.name}")
    scorer = EmotionModel.from_pretrained(newest)
    of_speaker = [other for other in utterances if other.speaker == utterance.speaker and other.id != utterance.id]
    rng = np.random.default_rng(derive_seed(fold.seed, "company"))
    company = []
    for name in scorer.labels:
        of_class = [other for other in of_speaker if other.label == name]
        company += [of_class[i] for i in rng.permutation(len(of_class))[:COMPANY]]
    labels = {one.label for one in (utterance, *company)}
    if utterance.label not in scorer.labels or not labels > {NEUTRAL}:
        log.say(f"{utterance.id}: has no label, or its speaker lacks neutral or emotional utterances, in whose company "
                "its frames would be scored: the lesson leaves out the steps of the scorer")
        return None
    speech = Speech([utterance, *company], scorer.labels, scorer.hubert.config.framing, scorer.hubert.do_normalize)
    is_known = all(frame_truth.exists(one) and all(class_of(emotion, scorer.labels)
                                                   for *_, emotion in frame_truth.stretches(one))
                   for one in speech.utterances)
    return FrameModels(config=FramesConfig(**files.read_json(folder / "stage.json")["settings"]["frames"]),
                       scorer=scorer,
                       spreads={name: Spread(**numbers) for name, numbers in files.read_json(spreads).items()},
                       speech=speech, planted=planted_shares(utterances, scorer.labels) if is_known else {})


def planted_shares(utterances: Iterable[Utterance], classes: Iterable[str]) -> dict[str, float]:
    """The share of the time of each class's utterances that is emotional, of those whose truth is known."""
    shares = {}
    for name in classes:
        known = [utterance for utterance in utterances if utterance.label == name and frame_truth.exists(utterance)]
        seconds = sum(end - start for utterance in known for start, end, _ in frame_truth.stretches(utterance))
        if known:
            shares[name] = seconds * SAMPLE_RATE / sum(utterance.num_samples for utterance in known)
    return shares


def read_head(folder: Path, hidden_size: int, temperature: float) -> UnitHead:
    """The unit head of a pretraining's newest checkpoint: it is not part of the encoder that the stage exports."""
    newest = checkpoint.latest(folder)
    if newest is None:
        raise ValueError(f"{folder}: has no checkpoint left, so that its unit head is not known; remake the stage "
                         f"with --redo {folder.name}")
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
    if example.pretraining is not None:
        yield units_step(example, example.pretraining)
        yield from masked_prediction_steps(example, example.pretraining)
    else:
        yield transformer_step(example.recogniser.hubert(example.waveform[None])[0], [])
    yield from recognition_steps(example)
    if example.frames is not None:
        yield from frames_steps(example, example.frames)
    if example.frame_recogniser is not None:
        yield which_frames_step(example, example.frame_recogniser)
    yield segments_step(example)


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
    features = example.encoder.conv_features(example.waveform[None])[0]         # (T, C)
    (T, C), number = features.shape, len(example.encoder.config.conv_dim)
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


def units_step(example: Example, pretraining: Pretraining) -> Step:
    num_used, num_units = len(set(pretraining.units.tolist())), len(pretraining.order)
    return Step("Units", "HuBERT, Sec. II-A; alignment paper, Sec. 2.2",
                "kmeans.py: fit; codebook.py: Codebook; units.py: make_units",
                f"Each frame's unit is the nearest of {num_units} centroids, fitted on the states of a model that was "
                f"fine-tuned on emotion: ({example.num_frames},) whole numbers, {num_used} different ones here. "
                "Similar units have similar colours.",
                example.units_tracks())


def masked_prediction_steps(example: Example, pretraining: Pretraining) -> Iterator[Step]:
    """Phase 2: spans of frames are masked, states computed, the units of masked frames predicted."""
    T, generator = example.num_frames, torch.Generator().manual_seed(derive_seed(example.seed, "lesson"))
    settings = pretraining.settings
    start_fraction, span = settings["mask_start_fraction"], settings["mask_span_frames"]
    is_masked = span_mask(torch.tensor([T]), T, start_fraction, span, settings["mask_min_spans"], generator)
    mask_track = track("masked", example.strip(is_masked[0].numpy(), GREY, "masked"), 24, "replaced frames")
    yield Step("Masking", "HuBERT, Sec. II-B", "masking.py: span_mask",
               f"{100 * start_fraction:.0f} % of the frames start a span of {span} masked frames; spans may overlap. "
               "The conv features of masked frames are replaced by one learned vector. "
               f"is_masked: (1, {T}) bool, here {percent(is_masked[0])} True.",
               [*example.units_tracks(), mask_track])

    states = pretraining.hubert(example.waveform[None], None, is_masked)[0]     # (T, D)
    yield transformer_step(states, [mask_track])

    head = pretraining.head
    logits = unit_logits(head.final_proj(states), head.codewords, head.temperature)      # (T, K)
    units = torch.as_tensor(pretraining.units)                                  # (T,)
    masked = is_masked[0]                                                       # (T,)
    loss = float(masked_prediction_loss(logits[masked], units[masked])) / max(int(masked.sum()), 1)
    is_right = logits.argmax(-1) == units
    rows = torch.as_tensor(pretraining.order).argsort()                         # similar units in adjacent rows
    probability = tracks.image(logits.softmax(-1)[:, rows].T, 0.0, 0.5)
    yield Step("Masked prediction", "HuBERT, Sec. II-B and II-E", "objective.py: unit_logits, masked_prediction_loss",
               f"The cosine of each projected state and each of {logits.shape[1]} codewords, divided by the "
               f"temperature {head.temperature:g}, gives logits {tuple(logits.shape)}. Mean cross-entropy of the "
               f"masked frames: {loss:.2f} nats (chance: {np.log(logits.shape[1]):.2f}). Correct: "
               f"{percent(is_right[masked])} of the masked frames, {percent(is_right[~masked])} of the unmasked ones.",
               [*example.units_tracks(), mask_track, track("predicted", probability, 150, "probability of each unit"),
                track("correct", example.strip(is_right.numpy(), GREEN, "correct"), 20)])


def transformer_step(states: Tensor, mask_tracks: list[str]) -> Step:
    """states (T, D): of the last layer."""
    means = states
    if len(states) > COLUMNS:                       # of neighbours: the page stays small
        means = torch.stack([some.mean(0) for some in states.tensor_split(COLUMNS)])
    direction = F.normalize(means - means.mean(0), dim=-1)
    similarity = tracks.image((direction @ direction.T).flip(0), -0.6, 1.0)
    return Step("Transformer", "HuBERT, Sec. II-E", "model.py: Encoder, Block, Attention; Hubert.layers",
                f"Every frame attends to all frames: states (1, {len(states)}, {states.shape[1]}). Below: the cosine "
                "similarity of the states of any two frames; light blocks are stretches whose states are alike.",
                [*mask_tracks, track("similarity", similarity, 260, "frame by frame")])


def recognition_steps(example: Example) -> Iterator[Step]:
    """Phase 3: the fine-tuned encoder, attention pooling, the emotion of the utterance and over time."""
    model, T = example.recogniser, example.num_frames
    num_samples = torch.tensor([len(example.waveform)])
    probabilities, attention, posterior = (x[0].numpy() for x in model.over_time(example.waveform[None], num_samples))
    weights = tracks.stretched(tracks.attention_shapes(attention, example.edges))
    yield attention_step(example, [*example.truth_tracks(), track("attention", weights, 70)])

    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in zip(model.labels, probabilities))
    areas = tracks.stretched(tracks.posterior_shapes(posterior, example.edges, model.labels))
    recognised = int(probabilities.argmax())
    repeated = (posterior.argmax(-1) == recognised).mean()
    over_time = "applied to single frames the posterior", "It was trained on whole utterances, and"
    if model.frames is not None:
        over_time = "and a second one, of frames, the posterior", "That one was trained on frames:"
    if model.window_seconds:
        over_time = f"to windows of {model.window_seconds:g} s the posterior", "Each is heard for itself:"
    yield Step("Emotion, once and over time", "alignment paper, Sec. 2.3", "emotion_model.py: EmotionModel.over_time",
               f"The classifier is linear: applied to the pooled state it gives the utterance's emotion ({shares}), "
               f"{over_time[0]} ({T}, {len(model.labels)}). {over_time[1]} {100 * repeated:.0f} % of the frames repeat "
               f"what the utterance is called: {model.labels[recognised]}.",
               [*example.truth_tracks(), *example.units_tracks(), track("posterior", areas, 110)],
               tracks.legend(model.labels))


def attention_step(example: Example, rows: list[str]) -> Step:
    """How much each frame counts, by what says so in this recogniser."""
    T, weighing = example.num_frames, example.recogniser.weighing
    source, code = "alignment paper, Sec. 2.3", f"{type(weighing).__name__}.attention"
    words = f"Weights softmax(tanh(h . w)) over the frames, ({T},), with sum 1", \
        " Because of tanh no weight is more than e² times another."
    if isinstance(weighing, FrameClassifier):
        source = BEYOND
        words = f"Weights 1 - p(neutral) + {LEAST_WEIGHT:g} of the frames, ({T},), divided by their sum", \
            " What is not neutral counts."
    elif isinstance(weighing, MeanPooling):
        words = f"Equal weights of all frames, ({T},), with sum 1", ""
    return Step("Attention pooling", source, f"emotion_model.py: {code}",
                f"{words[0]}; the classifier reads the weighted mean of the states. Dashed: equal weights.{words[1]}",
                rows)


def frames_steps(example: Example, models: FrameModels) -> Iterator[Step]:
    """Beyond the papers: what a classifier of frames learns from labels of utterances, and what it says."""
    yield stretches_step(example, models)
    speech, classes = models.speech, models.classes
    scores = frame_training.scores_in_other_company(models.scorer, speech, models.config, torch.device("cpu"))
    emotions = [number for number, name in enumerate(classes) if name in models.spreads]
    label = speech.labels[0]                        # of a neutral one, the emotion that it is most like
    if label not in emotions:
        label = max(emotions, key=scores[0].mean(0).__getitem__)
    yield scores_step(example, models, scores[0], label)
    yield soft_labels_step(example, models, scores[0], label)
    yield joined_step(example, models, scores)


def stretches_step(example: Example, models: FrameModels) -> Step:
    """What the scorer is trained on, drawn from the speaker's utterances, and what it says of it."""
    speech, config = models.speech, models.config
    rng = np.random.default_rng(derive_seed(example.seed, "lesson", "stretches"))
    pieces = frame_training.draw_stretches(speech, example.utterance.speaker, config, rng).pieces
    waveform, log_p = speech.waveform(pieces), models.log_p(pieces)             # (N,), (T, C)
    labels = np.repeat([speech.labels[piece.utterance] for piece in pieces],
                       [piece.end - piece.first for piece in pieces])           # (T,)
    is_right = torch.as_tensor(log_p.argmax(-1).numpy() == labels)              # (T,)
    areas = tracks.stretched(tracks.posterior_shapes(log_p.exp().numpy(), models.edges(pieces), models.classes))
    return Step("Shuffled stretches", BEYOND, "frame_training.py: draw_stretches, Speech.waveform, train_scorer",
                f"{len(pieces)} stretches of {config.least_stretch_seconds:g} to {config.most_stretch_seconds:g} s, of "
                "different utterances of this speaker, half of them neutral, in drawn order, brought to one level: a "
                f"waveform ({len(waveform)},) of {len(labels)} frames. The label of a frame is that of the utterance "
                "which its stretch is of, right or wrong. The scorer, trained on many such draws of the training "
                f"utterances, gives {percent(is_right)} of these frames their label.",
                [track("sound", tracks.stretched(tracks.waveform_shapes(waveform.numpy())), 62, "at one level"),
                 models.labels_track(pieces), *models.truth_tracks(pieces),
                 track("scorer", areas, 90, "p of each class")],
                tracks.legend(models.classes), len(waveform))


def scores_step(example: Example, models: FrameModels, scores: np.ndarray, label: int) -> Step:
    """Scores of the example's frames in its own company and among windows of others."""
    speech, config, name = models.speech, models.config, models.classes[label]
    log_p = models.log_p([speech.whole(0)]).numpy()                             # (T', C)
    alone, among = (of_frames(example, speech, values) for values in
                    (log_p[:, label] - log_p[:, speech.neutral], scores[:, label]))         # (T,) each
    limits = min(0.0, alone.min(), among.min()), max(0.0, alone.max(), among.max())
    shares = [percent(torch.as_tensor(values > 0)) for values in (alone, among)]
    training = " In training, the training utterances are scored so; this one is a test utterance." * example.is_tested
    return Step("Scores in other company", BEYOND, "frame_training.py: scores_in_other_company, windows_of",
                f"A frame's score is log p({name}) - log p(neutral), ({len(among)},); where it is above 0, dashed, "
                f"{name} is the more probable. First the scorer gets the utterance as it is: {shares[0]} of the frames "
                f"score above 0. Then it gets windows of {config.window_seconds:g} s of it, shuffled among those of "
                f"{len(speech.utterances) - 1} other utterances of the speaker (passes: {config.score_passes}): "
                f"{shares[1]}.{training}",
                [*example.truth_tracks(),
                 track("own company", curve(example, alone, limits, [0.0]), 90, "dashed: 0"),
                 track("other company", curve(example, among, limits, [0.0]), 90, "dashed: 0")])


def soft_labels_step(example: Example, models: FrameModels, scores: np.ndarray, label: int) -> Step:
    """The share of time that the emotion covers, and the label of each frame that it gives."""
    speech, config, name = models.speech, models.config, models.classes[label]
    size, of_emotion = frame_training.block_frames(config, speech.framing), models.spreads[name]
    blocks = frame_labels.block_means(scores[:, label], size)                   # (n,)
    steps = of_frames(example, speech, frame_labels.of_blocks(blocks, len(scores)))         # (T,)
    soft = of_frames(example, speech, *soft_labels(models, [scores], speech.labels[:1]))    # (T, C)
    means = (of_emotion.neutral, of_emotion.emotional)
    limits = min(*means, steps.min()), max(*means, steps.max())
    areas = tracks.posterior_shapes(soft, example.edges, models.classes)
    planted = f" (planted: {models.planted[name]:.2f})" if name in models.planted else ""
    whole = f", more than {config.whole_coverage:g}: all of it" if of_emotion.coverage > config.whole_coverage else ""
    states = f"by two states in time, {100 * soft[:, label].mean():.0f} % {name}"
    if speech.labels[0] == speech.neutral:
        states = "neutral throughout, as its utterance is called"
    return Step("Coverage and soft labels", BEYOND, "frame_labels.py: spread, emotional_share, soft_labels",
                f"By means and variances of the scores of all training utterances, {name} covers "
                f"{of_emotion.coverage:.2f} of the time of its own{planted}{whole}. Above, the mean scores of "
                f"{len(blocks)} blocks of about {config.block_seconds:g} s of this utterance; dashed, the mean of a "
                f"block without the emotion, {means[0]:.1f}, and with it, {means[1]:.1f}. Below, how much of each "
                f"class each frame is taken to be, ({len(soft)}, {len(models.classes)}): {states}.",
                [*example.truth_tracks(),
                 track("scores", curve(example, steps, limits, means), 90, "of blocks"),
                 track("soft label", tracks.stretched(areas), 70)], tracks.legend(models.classes))


def joined_step(example: Example, models: FrameModels, scores: list[np.ndarray]) -> Step:
    """What the recogniser is trained on: the example among neutral utterances of its speaker, its labels and weights.
    """
    recogniser = example.frame_recogniser
    speech, emotions = models.speech, models.classes
    rng = np.random.default_rng(derive_seed(example.seed, "lesson", "joined"))
    chosen = next(u for u, label in enumerate(speech.labels) if label != speech.neutral)
    pieces = frame_training.draw_joined(speech, chosen, rng).pieces
    while len(pieces) == 1:                         # one in four is alone
        pieces = frame_training.draw_joined(speech, chosen, rng).pieces
    labels = soft_labels(models, scores, speech.labels)
    target = np.concatenate([labels[piece.utterance][piece.first:piece.end] for piece in pieces])          # (T, C)
    waveform, edges = speech.waveform(pieces), models.edges(pieces)             # (N,), (T + 1,)
    states, is_valid = recogniser.states(waveform[None], torch.tensor([len(waveform)]))         # (1, T, D), (1, T)
    attention = recogniser.weighing.attention(states, is_valid)[0].numpy()                      # (T,)
    names = " + ".join(emotions[speech.labels[piece.utterance]] for piece in pieces)
    return Step("Joined utterances", BEYOND,
                "frame_training.py: draw_joined, train_recogniser, FrameLoss; emotion_model.py: FrameClassifier",
                "The recogniser is trained on utterances that stand among neutral ones of their speaker, as here: "
                f"{names}, ({len(waveform)},). Each frame is trained by its soft label, ({len(target)}, "
                f"{len(emotions)}), the whole by its class, {emotions[speech.labels[chosen]]}, on the mean of states "
                f"weighted by 1 - p(neutral) + {LEAST_WEIGHT:g}. Last, these weights as the trained recogniser has "
                "them, with sum 1; dashed: equal weights.",
                [track("sound", tracks.stretched(tracks.waveform_shapes(waveform.numpy())), 62, "at one level"),
                 *models.truth_tracks(pieces),
                 track("soft labels", tracks.stretched(tracks.posterior_shapes(target, edges, emotions)), 70),
                 track("weights", tracks.stretched(tracks.attention_shapes(attention, edges)), 60)],
                tracks.legend(emotions), len(waveform))


def which_frames_step(example: Example, frame_recogniser: EmotionModel) -> Step:
    """The emotion over time, recognised before and after, and where it is wrong."""
    rows, words, labels = list(example.truth_tracks()), [], frame_recogniser.labels
    for when, kind, model, of_all in (("before", "utterances", example.recogniser, example.eder[0]),
                                      ("after", "frames", frame_recogniser, example.eder[1])):
        result = Recogniser(model)(example.utterance.path)
        numbers = result.posterior.argmax(-1)                                   # (T,)
        strip = tracks.coloured_runs(numbers, example.edges, colours(labels), labels)
        areas = tracks.posterior_shapes(result.posterior, example.edges, labels)
        rows += [track(when, strip, 24, f"by {kind}"), track("posterior", tracks.stretched(areas), 70)]
        if example.truth is not None:
            wrong = diarization.errors_of(example.utterance, result).rates[0]
            tested = "" if of_all is None else f" (of all test utterances {100 * of_all:.0f} %)"
            words.append(f"{when} {100 * wrong:.0f} %{tested}")
            kinds = wrong_kinds([labels[number] for number in numbers], example.truth)
            strip = tracks.coloured_runs(kinds, example.edges, [None, *colours(KINDS)], ["", *KINDS])
            rows.append(track("wrong", strip, 20))
    rows.append(track("attention", tracks.stretched(tracks.attention_shapes(result.attention, example.edges)), 60,
                      "after; dashed: equal"))
    eder = f" EDER, the share of its time that is wrong: {', '.join(words)}." if words else ""
    known = " Both were trained on labels of whole utterances, and on none of this one." * example.is_tested
    return Step("Which frames", BEYOND, "emotion_model.py: EmotionModel.over_time; diarization.py: errors",
                "Before: the recogniser that learned from utterances (Emotion, once and over time). After: the one "
                "that learned from frames. Of each, the most probable class of every frame and the posterior "
                f"({example.num_frames}, {len(labels)}).{known}{eder}",
                rows, tracks.legend(labels) + (tracks.legend(KINDS) if words else ""))


def wrong_kinds(recognised: Sequence[str], truth: Sequence[str]) -> np.ndarray:
    """How each of T frames, of a recognised and a true emotion, is wrong: 0 not at all, else its place in KINDS, from 1
    on; (T,).
    """
    kinds = [0 if name == true else 1 if true == NEUTRAL else 2 if name == NEUTRAL else 3
             for name, true in zip(recognised, truth)]
    return np.array(kinds)


def segments_step(example: Example) -> Step:
    """The time line as `recognise` gives it: smoothed, and nothing where there is no speech."""
    model = example.frame_recogniser or example.recogniser
    result = Recogniser(model, gate=True)(example.sound)
    time_line, labels = segments(result), model.labels
    changes = int((np.diff(result.posterior.argmax(-1)) != 0).sum())
    frames = tracks.coloured_runs(result.posterior.argmax(-1), example.edges, colours(labels), labels)
    strip = tracks.emotion_strip(time_line, result.seconds, tracks.emotion_colours(labels, time_line))
    silent = sum(one.end - one.start for one in time_line if one.emotion == NONE)
    eder = ""
    if example.truth is not None:
        known = diarization.true_stretches(example.utterance, labels)
        eder = f" EDER of the segments: {100 * diarization.errors(known, time_line, result.seconds).rates[0]:.0f} %."
    return Step("Segments", BEYOND, "segments.py: smoothed, segments; speech.py: kinds",
                f"The most probable class changes {changes} times from one frame to the next. Of all time lines, the "
                f"one with the largest sum of posteriors is taken, a change of class costing {MIN_SECONDS:g} s of "
                f"certainty, so that no segment is shorter: {len(time_line)} of them, which recognise prints with its "
                f"flag timeline. Where there is no speech, here {silent:.2f} s, there is no emotion.{eder}",
                [*example.truth_tracks(), track("frames", frames, 24, "the most probable"),
                 track("segments", strip, 30, "smoothed")],
                tracks.legend([*labels, *([NONE] if silent else [])]))


def soft_labels(models: FrameModels, scores: list[np.ndarray], labels: Sequence[int]) -> list[np.ndarray]:
    """Soft labels of utterances by their scores, (T, C) each, as in training."""
    config, speech = models.config, models.speech
    return frame_labels.soft_labels(scores, labels, models.classes, speech.neutral, models.spreads,
                                    frame_training.block_frames(config, speech.framing), config.whole_coverage)


def of_frames(example: Example, speech: Speech, of_hops: np.ndarray) -> np.ndarray:
    """Values of the example's audible hops (T', ...) for all of its frames, (T, ...): repeated at silent ends."""
    places = np.arange(example.num_frames) - speech.starts[0]
    return of_hops[places.clip(0, len(of_hops) - 1)]


def curve(example: Example, scores: np.ndarray, limits: tuple[float, float], levels: Sequence[float]) -> str:
    """The example's scores (T,) over time, between limits; dashed lines at levels."""
    scale = linear(*limits, 0.95 * HEIGHT, 0.05 * HEIGHT)
    x, y = tracks.averaged(scores, example.edges, COLUMNS)
    dashed = [element("path", "", d=path([0, WIDTH], [scale(level)] * 2), class_="even") for level in levels]
    return tracks.stretched([*dashed, element("path", "", d=path(x, scale(y)), class_="curve s0")])


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
    """A step as a card with an address of its own; num_samples: of the example."""
    source = element("small", escape(step.source) + " · " + element("code", escape(step.code)))
    rows = element("div", [*step.tracks, tracks.axis((step.num_samples or num_samples) / SAMPLE_RATE)], class_="tracks")
    content = [element("figcaption", escape(step.title) + source),
               element("p", escape(step.caption), class_="note"), rows, step.legend]
    return element("figure", content, class_="card wide", id=anchor(step.title))
