"""The recogniser: encoder, attention pooling, a linear classifier (alignment paper, Sec. 2.3).

Because the classifier is linear in the pooled state, applied to single frames it gives the emotion over time: the same
weights are read frame by frame, and the attention says how much each frame counted. `finetune.py` trains it.
"""
from pathlib import Path

import torch
from torch import Tensor, nn

from framealign.hubert import model_directory
from framealign.hubert.dropout import Dropout
from framealign.sound.frames import valid_frames
from framealign.hubert.model import Hubert


class AttentionPooling(nn.Module):
    """Weighted mean over real frames, weights softmax of tanh(h . w). Alignment paper, Sec. 2.3.

    w starts at 0, which is the plain mean: every weight that differs later was learnt. A random w would prefer frames
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
        return self.score(states).masked_fill(~is_valid, -torch.inf).softmax(-1)


class MeanPooling(nn.Module):
    """Plain mean over real frames."""

    def score(self, states: Tensor) -> Tensor:
        """The same for every frame: states (..., D) -> (...)."""
        return states.new_zeros(states.shape[:-1])

    def attention(self, states: Tensor, is_valid: Tensor) -> Tensor:
        """states (B, T, D), is_valid (B, T): equal weights (B, T), 0 beyond each end, sum 1."""
        return is_valid.to(states) / is_valid.sum(-1, keepdim=True)


class EmotionModel(nn.Module):
    """Encoder, pooling, linear classifier; one Hugging Face directory (`hubert.`, `pooling.`, `classifier.`)."""

    def __init__(self, hubert: Hubert, labels: list[str], pooling: str = "attention", dropout: float = 0.0):
        super().__init__()
        self.hubert, self.labels = hubert, list(labels)
        size = hubert.config.hidden_size
        self.pooling = AttentionPooling(size) if pooling == "attention" else MeanPooling()
        self.dropout = Dropout(dropout)
        self.classifier = nn.Linear(size, len(labels))
        nn.init.zeros_(self.classifier.weight)      # as w: the head's first step follows the data, not a draw; from a
        nn.init.zeros_(self.classifier.bias)        # random start attention may settle on one emotion and miss the rest

    def states(self, inputs: Tensor, lengths: Tensor, is_masked: Tensor | None = None,
               sizes: list[int] | None = None) -> tuple[Tensor, Tensor]:
        """Last layer in float32, (B, T, D), and which frames are real, (B, T).

        inputs: samples (B, N) or kept conv features (B, T, C); lengths (B,): samples or frames of each. sizes: frames
        of each, known to the host; the encoder then works on real frames alone, end to end, with the same result.
        """
        features, counts = inputs, lengths
        if inputs.ndim == 2:
            features, counts = self.hubert.frontend(inputs, lengths), self.hubert.num_frames(lengths)
        if sizes is None:
            *_, states = self.hubert.layers(features, counts, is_masked)        # (B, T, D)
        else:
            joined = lambda x: torch.cat([row[:size] for row, size in zip(x, sizes)])[None]     # (1, S, ...)
            *_, states = self.hubert.layers(joined(features), None, None if is_masked is None else joined(is_masked),
                                            sizes=sizes)                        # (1, S, D)
            states = nn.utils.rnn.pad_sequence(states[0].split(sizes), batch_first=True)        # (B, T, D)
        return states.float(), valid_frames(counts, states.shape[1])

    def forward(self, inputs: Tensor, lengths: Tensor, is_masked: Tensor | None = None,
                sizes: list[int] | None = None) -> Tensor:
        """Class logits of each utterance, (B, classes)."""
        states, is_valid = self.states(inputs, lengths, is_masked, sizes)
        states = self.dropout(states)
        attention = self.pooling.attention(states, is_valid)                    # (B, T)
        pooled = torch.einsum("bt,btd->bd", attention, states)                  # (B, D)
        return self.classifier(self.dropout(pooled))

    @torch.inference_mode()
    def over_time(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class probabilities (B, classes), attention (B, T) and frame-wise posterior (B, T, classes)."""
        states, is_valid = self.states(inputs, lengths)
        attention = self.pooling.attention(states, is_valid)
        pooled = torch.einsum("bt,btd->bd", attention, states)
        return self.classifier(pooled).softmax(-1), attention, self.classifier(states).softmax(-1)

    def head(self) -> dict[str, Tensor]:
        """What the directory holds besides the encoder."""
        return {name: x for name, x in self.state_dict().items() if not name.startswith("hubert.")}

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the recogniser's directory."""
        model_directory.write(directory, self.hubert.config, self.hubert.state_dict(), head=self.head(),
                          do_normalize=self.hubert.do_normalize, labels=self.labels)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "EmotionModel":
        """Read a recogniser's directory, in evaluation mode. Raises ValueError for a directory without a recogniser."""
        found = model_directory.read(directory)
        if found.labels is None or "classifier.weight" not in found.head:
            raise ValueError(f"{directory}: holds an encoder but no recogniser (no classifier); fine-tune it first")
        model = cls(Hubert(found.config, found.do_normalize), found.labels,
                    "attention" if "pooling.weight" in found.head else "mean")
        model.hubert.load(found.state, str(directory))
        model_directory.check(found.head, {name: tuple(x.shape) for name, x in model.head().items()}, str(directory))
        model.load_state_dict(found.head, strict=False)     # `check` was the strict part
        return model.eval()
