"""The emotion of each turn of a conversation, of which it is known who speaks when.

Each turn is recognised as a sound of its own, cut out of the whole: that is what the recogniser was trained on, and
nothing that another speaker says before or after it has a say. The alternative, to pool the frames of the whole sound
that lie in the turn, hears the neighbours through the encoder's attention; docs/RECOGNISE.md has both, measured.
"""
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from framealign.sound.frames import SAMPLE_RATE
from framealign.sound.speech import SHORTEST
from framealign.corpus.utterance import NONE
from framealign.exchange.speaker_turns import Turn
from framealign.emotion.recogniser import Recogniser, Result


@dataclass(frozen=True)
class RecognisedTurn:
    """One turn and its emotion, or NONE with the reason."""
    start: float                                    # seconds, from the beginning of the sound
    end: float
    speaker: str                                    # "": not known
    emotion: str
    probabilities: dict[str, float]                 # of each class, sum 1; {} where the turn could not be recognised
    reason: str = ""

    @property
    def confidence(self) -> float:
        """The probability of the emotion; of NONE 0."""
        return self.probabilities.get(self.emotion, 0.0)


@dataclass(frozen=True)
class Conversation:
    """A sound whose turns were recognised."""
    turns: list[RecognisedTurn]                     # by when they begin
    labels: list[str]                               # the classes
    seconds: float                                  # of sound


def recognise_turns(recogniser: Recogniser, waveform: Tensor, turns: Sequence[Turn]) -> Conversation:
    """The turns of a sound, each recognised by itself, in their order. waveform (N,) float32 at 16 kHz.

    A turn shorter than `SHORTEST` has no emotion, nor has one whose samples cannot be recognised; the reason says so.
    """
    pieces = [waveform[round(turn.start * SAMPLE_RATE):round(turn.end * SAMPLE_RATE)] for turn in turns]
    is_long = [len(piece) >= SHORTEST * SAMPLE_RATE for piece in pieces]
    results = recogniser.recognise_each(piece for piece, is_so in zip(pieces, is_long) if is_so)
    recognised = []
    for turn, is_so in zip(turns, is_long):
        reason = f"turn of {turn.end - turn.start:.2f} s, shorter than {SHORTEST} s"
        emotion, probabilities = NONE, {}
        if is_so:
            _, result = next(results)
            if isinstance(result, Result):
                emotion, probabilities, reason = result.emotion, result.probabilities, result.reason
            else:
                reason = str(result)
        recognised.append(RecognisedTurn(turn.start, turn.end, turn.speaker, emotion, probabilities, reason))
    return Conversation(recognised, recogniser.labels, len(waveform) / SAMPLE_RATE)
