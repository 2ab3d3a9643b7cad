"""The recogniser: encoder, attention pooling, a linear classifier (alignment paper, Sec. 2.3).

Because the classifier is linear in the pooled state, applied to single frames it gives the emotion over time: the same
weights are read frame by frame, and the attention says how much each frame counted. `finetune.py` trains it.
"""
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from framealign.runtime import distributed
from framealign.sound.frames import valid_frames
from framealign.corpus.utterance import check_class_names
from framealign.corpus.utterance import NEUTRAL
from framealign.hubert import fast, model_directory
from framealign.hubert.model import Hubert
from framealign.hubert.parameters import check
from framealign.emotion.calibration import Calibration


WINDOW_SECONDS = "window_seconds"                   # of config.json; transformers keeps what it does not know
LEAST_WEIGHT = 0.1                                  # of a frame that is neutral for certain
LONGEST_WINDOW = 60.0                               # seconds
PROJECTION_SIZE = 256                               # of the frozen probe, as in SUPERB


def weighted_mean(values: Tensor, attention: Tensor) -> Tensor:
    """Mean of the frames' values (B, T, D) by attention weights (B, T), which sum to 1: (B, D)."""
    return torch.einsum("bt,btd->bd", attention, values)


def over_frames(scores: Tensor, is_valid: Tensor) -> Tensor:
    """Softmax of scores (B, T) over each utterance's real frames: weights (B, T), 0 beyond each end, sum 1."""
    return scores.masked_fill(~is_valid, -torch.inf).softmax(-1)


class AttentionPooling(nn.Module):
    """Weighted mean over real frames, weights softmax of tanh(h . w). Alignment paper, Sec. 2.3.

    w starts at 0, which is the plain mean: every difference between weights is learned. A random w would prefer frames
    at random from the first step, and its tanh is half saturated.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(hidden_size))                    # w

    def score(self, states: Tensor) -> Tensor:
        """What the softmax over an utterance's frames is taken of: states (..., D) -> (...), in -1..1."""
        return torch.tanh(states @ self.weight)

    def attention(self, states: Tensor, is_valid: Tensor) -> Tensor:
        """states (B, T, D), is_valid (B, T): weights (B, T), 0 beyond each end, sum 1."""
        return over_frames(self.score(states), is_valid)


class MeanPooling(nn.Module):
    """Plain mean over real frames."""

    def score(self, states: Tensor) -> Tensor:
        """The same for every frame: states (..., D) -> (...)."""
        return states.new_zeros(states.shape[:-1])

    def attention(self, states: Tensor, is_valid: Tensor) -> Tensor:
        """states (B, T, D), is_valid (B, T): equal weights (B, T), 0 beyond each end, sum 1."""
        return is_valid.to(states) / is_valid.sum(-1, keepdim=True)


class FrameClassifier(nn.Linear):
    """A linear classifier of single frames, trained as one, which also says how much each frame counts.

    A frame counts by how little neutral it is: its weight is 1 - p(neutral) + 0.1, so that an utterance that is neutral
    throughout has weights too.
    """

    def __init__(self, hidden_size: int, labels: list[str]):
        super().__init__(hidden_size, len(labels))
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self.neutral = labels.index(NEUTRAL)

    def score(self, states: Tensor) -> Tensor:
        """What the softmax over an utterance's frames is taken of: states (..., D) -> (...), log of the weight."""
        return torch.log(1 - self(states).softmax(-1)[..., self.neutral] + LEAST_WEIGHT)

    def attention(self, states: Tensor, is_valid: Tensor) -> Tensor:
        """states (B, T, D), is_valid (B, T): weights (B, T), 0 beyond each end, sum 1."""
        return over_frames(self.score(states), is_valid)


class EmotionModel(nn.Module):
    """Encoder, pooling, linear classifier; one Hugging Face directory (`hubert.`, `pooling.`, `classifier.`).

    pooling: "attention" or "mean", as the alignment paper and without attention; or "frames": a `FrameClassifier`
    (`frames.` in the directory) gives the posterior of single frames, and says how much each counts; or "layers": the
    mean of what a linear projection to `projection_size` numbers gives of the weighted sum of all layers' states
    (`layer_weights`, `projector.`), as the frozen probe of SUPERB and transformers' HubertForSequenceClassification.

    `window_seconds`: above 0 the emotion over time is that of whole windows of so many seconds (`window_logits`), else
    that of single frames. An encoder that was trained on utterances carries what is elsewhere in a sound into every
    frame; it cannot do so with what is outside the window. Kept in config.json; no part of training.

    `calibration`: what logits are divided by where probabilities are given; no part of training.

    `fast_path`: states come from the encoder's fast path (`hubert/fast.py`), which computes no padding, else from the
    plain one. The numbers are the same.
    """

    def __init__(self, hubert: Hubert, labels: list[str], pooling: str = "attention", dropout: float = 0.0,
                 fast_path: bool = True, projection_size: int = PROJECTION_SIZE, window_seconds: float = 0.0):
        super().__init__()
        check_class_names(labels, "classes")
        self.hubert, self.labels, self.fast_path = hubert, list(labels), fast_path
        self.window_seconds = window_seconds
        self.calibration = Calibration()
        size = hubert.config.hidden_size
        self.layer_weights, self.projector = None, None
        if pooling == "layers":
            self.layer_weights = nn.Parameter(torch.zeros(hubert.config.num_hidden_layers + 1))    # before the softmax
            self.projector = nn.Linear(size, projection_size)
            size = projection_size
        self.frames = FrameClassifier(size, self.labels) if pooling == "frames" else None
        self.pooling = AttentionPooling(size) if pooling == "attention" else MeanPooling()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(size, len(labels))
        nn.init.zeros_(self.classifier.weight)      # as w: the head's first step follows the data, not a draw; from a
        nn.init.zeros_(self.classifier.bias)        # random start attention may settle on one emotion and miss the rest

    def states(self, inputs: Tensor, lengths: Tensor, is_masked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What pooling and classifiers read in float32, (B, T, D), and which frames are real, (B, T).

        It is the encoder's output; with pooling by layers, their projected sum. inputs: samples (B, N) or conv features
        (B, T, C) computed before; lengths (B,): samples or frames of each, best on the CPU: the fast path reads them
        there. is_masked (B, T) bool: frames replaced by the mask embedding.
        """
        features, num_frames = self.conv_features(inputs, lengths)
        if self.fast_path:
            states = fast.output(self.hubert, features, num_frames.tolist(), is_masked, read=self.read)
        else:
            states = self.read(self.hubert.layers(features, num_frames, is_masked))             # (B, T, D)
        num_frames = distributed.send(num_frames, states.device)
        return states.float(), valid_frames(num_frames, states.shape[1])

    def read(self, layers: Iterable[Tensor]) -> Tensor:
        """What pooling and classifiers read of the states (..., D) of layers 0, 1 ...: the last ones or, with pooling
        by layers, the projection of their weighted sum, (..., P).

        The sum is over layers 0 to L: the final norm of pre-norm blocks is left out, as in transformers.
        """
        if self.projector is None:
            return fast.last(layers)
        return self.projector(sum(share * states for share, states in zip(self.layer_weights.softmax(0), layers)))

    def forward(self, inputs: Tensor, lengths: Tensor, is_masked: Tensor | None = None) -> Tensor:
        """Class logits of each utterance, (B, classes), not calibrated."""
        states, is_valid = self.states(inputs, lengths, is_masked)
        states = self.dropout(states)
        attention = self.weighing.attention(states, is_valid)                   # (B, T)
        return self.classifier(self.dropout(weighted_mean(states, attention)))

    def frame_logits(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Class logits of each frame, (B, T, classes), not calibrated: of its own, or of the windows around it."""
        if self.window_seconds:
            return self.window_logits(*self.conv_features(inputs, lengths))
        return self.of_frames(self.states(inputs, lengths)[0])

    def window_logits(self, features: Tensor, num_frames: Tensor) -> Tensor:
        """Class logits of what is heard in windows, each as if it were the whole sound: (B, T, classes).

        Windows of `window_seconds` begin every half of that, the first and the last with the sound; a shorter sound is
        one window. A frame has the logits of the two whose middles are before and after it, in between by its place.
        features (B, T, C), num_frames (B,): as `conv_features` gives them.
        """
        (B, T), half = features.shape[:2], self.half_window
        num_frames, device = num_frames.cpu(), features.device
        W = torch.sym_max(2, (T - 1) // half)       # as many as the longest needs; two for an exported program
        middles = half * (torch.arange(W) + 1)                                  # (W,) frames; none ends after a sound:
        middles = torch.minimum(middles, (num_frames[:, None] - half).clamp(min=half))          # (B, W)
        places = (middles - half)[..., None] + torch.arange(2 * half)           # (B, W, 2 half)
        sounds = torch.arange(B, device=device)[:, None, None]
        windows = features[sounds, places.clamp(max=T - 1).to(device)]          # (B, W, 2 half, C)
        lengths = num_frames.clamp(max=2 * half)[:, None].expand(middles.shape)
        logits = self(windows.flatten(0, 1), lengths.flatten()).unflatten(0, middles.shape)     # (B, W, classes)

        frames = torch.arange(T)
        after = (frames // half).clamp(max=W - 1)                               # (T,) windows
        before = (after - 1).clamp(min=0)
        between = (frames - middles[:, before]) / (middles[:, after] - middles[:, before]).clamp(min=1)
        share = between.clamp(0, 1)[..., None].to(logits)                       # (B, T, 1)
        return logits[:, before] + share * (logits[:, after] - logits[:, before])

    def conv_features(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Conv features (B, T, C) and frames (B,) of what `states` takes: computed of samples, given ones as they are.
        """
        if inputs.ndim == 2:
            return self.hubert.conv_features(inputs, lengths), self.hubert.num_frames(lengths)
        return inputs, lengths

    @torch.inference_mode()
    def over_time(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class probabilities (B, classes), attention (B, T) and frame-wise posterior (B, T, classes).

        Probabilities and posterior are calibrated. The attention is not: it belongs to the trained weights, and if the
        temperature of frames changed it, utterances would have other results than those that were calibrated.
        """
        return self.read_out(inputs, lengths)

    def read_out(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `over_time` gives, with gradients where they are wanted: a program that is exported computes it."""
        features, num_frames = self.conv_features(inputs, lengths)
        states, is_valid = self.states(features, num_frames)
        attention = self.weighing.attention(states, is_valid)
        pooled = weighted_mean(states, attention)                               # (B, D)
        probabilities = (self.classifier(pooled) / self.calibration.utterances).softmax(-1)
        of_frames = self.window_logits(features, num_frames) if self.window_seconds else self.of_frames(states)
        return probabilities, attention, (of_frames / self.calibration.frames).softmax(-1)

    def by_frame(self, features: Tensor, used: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Of the frames that are used of one sound's conv features (1, T, C): what the softmax that weighs frames is
        taken of (t,), logits of whole utterances (t, classes), logits over time (t, classes), on the CPU.

        The classifier is linear: an utterance's logits are the weighted mean of its frames' logits.
        """
        states = self.read(self.hubert.layers(features))[0, used].float()       # (t, D)
        if self.window_seconds:
            half = self.half_window
            first = half * max(0, used.start // half - 1)                       # the windows of what is used alone
            near = features[:, first:used.stop + 2 * half]
            of_frames = self.window_logits(near, torch.tensor([near.shape[1]]))[0, used.start - first:used.stop - first]
        else:
            of_frames = self.of_frames(states)
        return tuple(x.cpu() for x in (self.weighing.score(states), self.classifier(states), of_frames))

    @property
    def half_window(self) -> int:
        """Frames from the beginning of one window of `window_seconds` to that of the next."""
        return max(1, round(self.window_seconds * self.hubert.config.framing.rate / 2))

    @property
    def weighing(self) -> nn.Module:
        """What says how much each frame counts: the frame classifier, where there is one, else the pooling."""
        return self.pooling if self.frames is None else self.frames

    @property
    def of_frames(self) -> nn.Linear:
        """What classifies single frames: the frame classifier, where there is one, else that of whole utterances."""
        return self.classifier if self.frames is None else self.frames

    def head(self) -> dict[str, Tensor]:
        """What the directory holds besides the encoder."""
        return {name: x for name, x in self.state_dict().items() if not name.startswith("hubert.")}

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the recogniser's directory."""
        extra = {name: value for name, value in self.hubert.config.extra.items() if name != WINDOW_SECONDS}
        if self.window_seconds:
            extra[WINDOW_SECONDS] = self.window_seconds
        model_directory.write(directory, replace(self.hubert.config, extra=extra), self.hubert.state_dict(),
                              head=self.head(), do_normalize=self.hubert.do_normalize, labels=self.labels)
        self.calibration.write(directory)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "EmotionModel":
        """Read a recogniser's directory, in evaluation mode. Raises ValueError for a directory without a recogniser."""
        content = model_directory.read(directory)
        if not content.is_recogniser:
            raise ValueError(f"{directory}: holds {content.kind} but no recogniser (pooling and classifier); fine-tune "
                             "its encoder first")
        if content.labels is None:
            raise ValueError(f"{directory}: its config.json names no classes (id2label)")
        pooling = "attention" if "pooling.weight" in content.head else "mean"
        if "layer_weights" in content.head:
            pooling = "layers"
        if "frames.weight" in content.head:
            pooling = "frames"
            if NEUTRAL not in content.labels:
                raise ValueError(f"{directory}: has a classifier of frames, but no class {NEUTRAL}")
        seconds = content.config.extra.get(WINDOW_SECONDS, 0.0)
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= LONGEST_WINDOW:
            raise ValueError(f"{directory}: {WINDOW_SECONDS} in config.json must be 0 to {LONGEST_WINDOW:g} s, is "
                             f"{str(seconds)[:60]}")
        model = cls(Hubert(content.config, content.do_normalize), content.labels, pooling,
                    projection_size=content.head["classifier.weight"].shape[1], window_seconds=float(seconds))
        model.hubert.load(content.state, str(directory))
        check(content.head, {name: tuple(x.shape) for name, x in model.head().items()}, str(directory))
        model.load_state_dict(content.head, strict=False)     # `check` was the strict part
        model.calibration = Calibration.read(directory)
        return model.eval()
