"""The emotion of each turn is that of its sound alone."""
import no_speech
import numpy as np
import pytest
import torch

from framealign.corpus.synthetic_utterance import synthesise
from framealign.exchange.speaker_turns import Turn
from framealign.emotion.emotion_model import EmotionModel
from framealign.emotion.recogniser import Recogniser
from framealign.emotion.turns import recognise_turns
from framealign.hubert.model import Hubert

LABELS = ["neutral", "happy", "angry", "sad"]


def test_a_turn_is_recognised_as_its_sound_alone(micro):
    torch.manual_seed(1)
    model = EmotionModel(Hubert(micro), LABELS)
    torch.nn.init.normal_(model.classifier.weight, std=0.4)
    recogniser = Recogniser(model, gate=True)
    noise = no_speech.at_level(no_speech.noise(np.random.default_rng(0), 2, 1), -25)
    voices = [synthesise(0, name, f"{name}_1", "happy", 2.0)[0].astype(np.float32) for name in ("Ses01F", "Ses01M")]
    waveform = torch.from_numpy(np.concatenate([voices[0], noise, voices[1], np.zeros(16_000, np.float32)]))
    first, middle = len(voices[0]) / 16_000, len(voices[0]) / 16_000 + 2
    last = middle + len(voices[1]) / 16_000
    turns = [Turn(0, first, "A", "1"), Turn(0.5, first, "B", "2"), Turn(first, middle, "A", "3"),
             Turn(first, first + 0.1999, "A", "4"), Turn(middle, last, "", "5"), Turn(last, last + 1, "B", "6")]
    conversation = recognise_turns(recogniser, waveform, turns)
    assert conversation.labels == LABELS and conversation.seconds == len(waveform) / 16_000
    assert [(one.start, one.end, one.speaker) for one in conversation.turns] == [
        (turn.start, turn.end, turn.speaker) for turn in turns]
    for index, (begin, end) in ((0, (0, first)), (1, (0.5, first)), (2, (first, middle)), (4, (middle, last))):
        alone = recogniser(waveform[round(16_000 * begin):round(16_000 * end)])
        one = conversation.turns[index]
        assert (one.emotion, one.reason) == (alone.emotion, alone.reason)
        assert one.probabilities == pytest.approx(alone.probabilities, abs=1e-6)
        assert one.confidence == (0 if one.emotion == "none" else max(one.probabilities.values()))
    assert [one.emotion == "none" for one in conversation.turns] == [False, False, True, True, False, True]
    assert conversation.turns[2].reason == "no speech: noise" and conversation.turns[3].probabilities == {}
    assert conversation.turns[3].reason == "turn of 0.20 s, shorter than 0.2 s"
    assert "nothing to hear" in conversation.turns[5].reason and conversation.turns[5].probabilities == {}
