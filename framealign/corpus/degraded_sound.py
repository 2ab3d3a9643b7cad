"""The sounds of a corpus as a test under worse conditions hears them: all degraded alike, each with its own draw."""
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from framealign.runtime.seeds import derive_seed
from framealign.sound import audio, degradation
from framealign.sound.degradation import BABBLE_VOICES, Degradation
from framealign.corpus.utterance import Utterance


def sounds(utterances: Sequence[Utterance], corpus: Sequence[Utterance], degrade: str, seed: int
           ) -> Iterator[Tensor | Path]:
    """The degraded waveform (N,) of each utterance in turn; of one that cannot be read its path, for who says why.

    degrade: as `degradation.of_text` reads it. corpus: of whose other utterances babble is made, of other speakers if
    there are any. What is drawn depends on the seed, the utterance's id and, of babble, the corpus. Raises ValueError
    for another text, and for babble where there is no other utterance.
    """
    condition = degradation.of_text(degrade)
    ordered = sorted(range(len(corpus)), key=lambda place: corpus[place].id)
    for utterance in utterances:
        drawn = _drawn(condition, utterance, corpus, ordered, seed)
        try:
            waveform = audio.load(utterance.path)
        except (ValueError, OSError):
            yield utterance.path
            continue
        yield drawn(waveform, [audio.load(corpus[voice].path) for voice in drawn.voices])


def _drawn(condition: Degradation, utterance: Utterance, corpus: Sequence[Utterance], ordered: Sequence[int], seed: int
           ) -> Degradation:
    """The condition with the seed of this utterance, and with the voices that its babble is made of.

    ordered: all places in the corpus, by id.
    """
    seed = derive_seed(seed, "degrade", utterance.id)
    if condition.noise != "babble":
        return replace(condition, seed=seed)
    others = [place for place in ordered if corpus[place].id != utterance.id]
    strangers = [place for place in others if not utterance.speaker or corpus[place].speaker != utterance.speaker]
    candidates = strangers or others
    if not candidates:
        raise ValueError(f"babble is made of other utterances, and {utterance.id} is the only one; choose another "
                         "noise")
    rng = np.random.default_rng(seed)
    voices = tuple(rng.choice(candidates, min(BABBLE_VOICES, len(candidates)), replace=False).tolist())
    return replace(condition, seed=seed, voices=voices)
