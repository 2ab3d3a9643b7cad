"""Trainings that are asked to stop after a certain update or epoch, as a scheduler's SIGTERM would."""
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import torch

from framealign.runtime import stopping
from framealign.corpus.protocols import Split
from framealign.corpus.utterance import Utterance
from framealign.hubert.model import Hubert
from framealign.units.units import Units
from framealign.training import finetune as finetuning
from framealign.training import pretrain as pretraining
from framealign.training.training_config import FinetuneConfig, PretrainConfig, TrainingRun

CPU = torch.device("cpu")


def pretrain(hubert: Hubert, utterances: Sequence[Utterance], units: Units | list[Units], config: PretrainConfig,
             folder: Path, stop_after: int | None = None) -> Path | None:
    """Pretrain on the CPU into `folder`; asked to stop after an update (None: never), there is no product."""
    with when(pretraining.Pretraining, lambda training: training.update == stop_after) as ended:
        return pretraining.pretrain(hubert, utterances, units, config, TrainingRun(folder, CPU))
    assert ended


def finetune(hubert: Hubert, utterances: Sequence[Utterance], split: Split, classes: list[str],
             config: FinetuneConfig, folder: Path, stop_after: float | None = None) -> dict:
    """Fine-tune on the CPU into `folder`; asked to stop after so many epochs (None: never), the results are {}."""
    def ends(training: finetuning.Finetuning) -> bool:
        return stop_after not in (None, config.epochs) and training.update == stop_after * training.updates_per_epoch
    with when(finetuning.Finetuning, ends) as ended:
        return finetuning.finetune(hubert, utterances, split, classes, config, TrainingRun(folder, CPU))
    assert ended
    return {}


@contextlib.contextmanager
def when(kind: type, is_time) -> Iterator[list[int]]:
    """Within it, a training of this kind is asked to stop when it is time, and the SystemExit of that is caught."""
    under_way, ended, count = [], [], kind.count

    def noting(training, *arguments):
        under_way[:] = [training]
        count(training, *arguments)

    def asked(steps: stopping.Steps) -> bool:
        return bool(under_way) and is_time(under_way[0])
    with mock.patch.object(kind, "count", noting), mock.patch.object(stopping.Steps, "asked", asked):
        try:
            yield ended
        except SystemExit as end:
            ended.append(end.code)
