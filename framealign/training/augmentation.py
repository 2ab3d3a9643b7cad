"""How each draw of a training utterance is degraded: room, noise, microphone, telephone line, speed and level.

Every draw has a name, from which all that is random in it follows (`seeds.derive_seed`): the same whatever the number
of ranks, the split into micro-batches or the interruptions. What is done to the sound is in `sound/degradation.py`.
"""
from collections.abc import Sequence

import numpy as np

from framealign.runtime.seeds import derive_seed
from framealign.sound.degradation import BABBLE_VOICES, LINES, NOISES, Degradation
from framealign.training.training_config import LEAST_RT60, AugmentationConfig


def drawn(config: AugmentationConfig, utterance: int, train: Sequence[int], *name: object) -> Degradation | None:
    """The degradation of an utterance in the draw of this name; None where the configuration has none.

    Noise, room and line come each with the probability `augment_share`; of several noises or lines each is as likely.
    Speed (in whole hundredths) and level always, uniform up to their bounds, and a microphone always. train: the
    training utterances, of which babble takes five others, or fewer where there are no more.
    """
    kinds = config.augmentations
    if not kinds:
        return None
    seed = derive_seed(config.seed, "augment", *name)
    rng = np.random.default_rng(seed)
    chances, places = rng.random(3), rng.random(6)  # always as many: one kind more changes nothing of the others
    noise = _one_of([kind for kind in NOISES if kind in kinds], places[0], chances[0] < config.augment_share)
    line = _one_of([kind for kind in LINES if kind in kinds], places[1], chances[1] < config.augment_share)
    rt60, speed, level = 0.0, 100, 0.0
    if "reverb" in kinds and chances[2] < config.augment_share:
        rt60 = _between(LEAST_RT60, config.augment_rt60, places[2])
    if "speed" in kinds:
        speed = round(100 + 100 * _between(-config.augment_speed, config.augment_speed, places[3]))
    if "level" in kinds:                            # of FinetuneConfig
        level = _between(-config.augment_level, config.augment_level, places[4])
    voices = ()
    if noise == "babble":
        some = rng.choice(train, min(BABBLE_VOICES + 1, len(train)), replace=False).tolist()
        voices = tuple(other for other in some if other != utterance)[:BABBLE_VOICES]
    return Degradation(seed=seed, speed_percent=speed, rt60_seconds=rt60, noise=noise,
                       snr_decibels=_between(config.augment_least_snr, config.augment_most_snr, places[5]),
                       voices=voices, colour_decibels=config.augment_colour if "microphone" in kinds else 0.0,
                       line=line, level_decibels=level)


def _one_of(names: list[str], place: float, is_drawn: bool) -> str:
    """The name at a place in [0, 1); "" where there is none, or none is drawn."""
    return names[int(place * len(names))] if names and is_drawn else ""


def _between(least: float, most: float, place: float) -> float:
    return least + (most - least) * float(place)
