"""Which crops make a batch: length-bucketed micro-batches of pretraining, balanced draws of fine-tuning."""
import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from framealign.runtime.seeds import derive_seed
from framealign.sound.frames import EVERY_20_MS, Framing, frames_in
from framealign.corpus.cropping import Crop, Waveforms
from framealign.corpus.utterance import Utterance
from framealign.hubert.model import Hubert
from framealign.units.extraction import frontend_store
from framealign.units.frame_store import FrameStore
from framealign.training.training_config import FinetuneConfig, PretrainConfig, TrainingRun


def pretraining_micro_batches(counts: Tensor, config: PretrainConfig, framing: Framing = EVERY_20_MS
                              ) -> Iterator[list[Crop]]:
    """The endless stream of micro-batches of pretraining: a pure function of the frame counts (U,) and the config.

    framing: of the model, by which seconds become frames.

    Every epoch is a permutation of the utterances between `min_seconds` and any length: sorted by length times a random
    factor in 1 +- 0.1, cut into groups of `micro_batch_seconds`, cropped at random to the shortest of the group (and to
    `max_seconds`), the groups shuffled. torchaudio's recipe buckets and crops alike.
    """
    shortest, longest, budget = (frames_in(seconds, framing) for seconds in (config.min_seconds, config.max_seconds,
                                                                             config.micro_batch_seconds))
    usable = torch.nonzero(counts >= shortest).flatten()
    if len(usable) == 0:
        raise ValueError(f"no utterance is as long as --min-seconds {config.min_seconds}; lower it")
    for epoch in itertools.count():
        generator = torch.Generator().manual_seed(derive_seed(config.seed, "order", epoch))
        key = counts[usable] * (0.9 + 0.2 * torch.rand(len(usable), generator=generator))
        groups, group = [], []
        for u in usable[key.argsort()].tolist():
            size = min([int(counts[u]), longest] + [int(counts[v]) for v in group])
            if group and (len(group) + 1) * size > budget:
                groups.append(group)
                group = []
            group.append(u)
        groups.append(group)
        for index in torch.randperm(len(groups), generator=generator).tolist():
            size = min(longest, *(int(counts[u]) for u in groups[index]))
            starts = [int(torch.randint(int(counts[u]) - size + 1, (), generator=generator)) for u in groups[index]]
            yield [Crop(u, start, size) for u, start in zip(groups[index], starts)]


def batch_ids(utterances: Sequence[Utterance], counts: Tensor, config: PretrainConfig, updates: list[int],
              framing: Framing = EVERY_20_MS) -> Iterator[tuple[int, list[str]]]:
    """Which utterances were in the global batches of these (few) updates: drawn again, as all draws are named."""
    per_update, stream, done = micro_batches_per_update(config), pretraining_micro_batches(counts, config, framing), 0
    for update in updates:
        batch = itertools.islice(stream, (update - 1 - done) * per_update, (update - done) * per_update)
        yield update, sorted({utterances[crop.utterance].id for crops in batch for crop in crops})
        done = update


def micro_batches_per_update(config: PretrainConfig) -> int:
    """Micro-batches of one update, over all ranks."""
    return max(1, round(config.batch_seconds / config.micro_batch_seconds))


def micro_batch_size(number: int, largest: int, world: int) -> int:
    """Utterances of a micro-batch, where `number` of them are shared by `world` ranks: as many as `largest`, or fewer
    where the micro-batches would not divide evenly over the ranks.
    """
    micro_batches = math.ceil(number / largest)
    if micro_batches % world == 0:
        return largest
    return math.ceil(number / (math.ceil(micro_batches / world) * world))


def balanced_draw(labels: Tensor, number: int, generator: torch.Generator, corpora: Tensor | None = None) -> list[int]:
    """`number` utterances with replacement, every class equally likely, within it as `chances` has it."""
    return torch.multinomial(chances(labels, corpora), number, replacement=True, generator=generator).tolist()


def chances(labels: Tensor, corpora: Tensor | None = None) -> Tensor:
    """How likely each utterance is among those of its class, (U,) float64, the sum over a class 1.

    Within a class all utterances are equally likely; with corpora every corpus that has the class is, and in it every
    utterance of the class. labels, corpora (U,) int64: indices of classes, of corpora.
    """
    corpora = torch.zeros_like(labels) if corpora is None else corpora
    shape = (int(labels.max()) + 1, int(corpora.max()) + 1)
    cells = labels * shape[1] + corpora                                         # (U,)
    sizes = torch.bincount(cells, minlength=shape[0] * shape[1]).view(shape)    # of each class in each corpus
    num_corpora = (sizes > 0).sum(1)                                            # that have each class
    return 1.0 / (num_corpora[labels] * sizes[labels, corpora]).double()


def corpus_numbers(utterances: Sequence[Utterance]) -> Tensor:
    """The number of each utterance's corpus, by the order of their names, (U,) int64; all 0 where none is known."""
    names = sorted({utterance.corpus for utterance in utterances})
    return torch.tensor([names.index(utterance.corpus) for utterance in utterances], dtype=torch.int64)


def ahead(batches: Iterator, depth: int = 2) -> Iterator:
    """Pass `batches` through, computing up to `depth` of them ahead in one thread (file reading overlaps compute)."""
    with ThreadPoolExecutor(1) as pool:
        batches = iter(batches)
        waiting = [pool.submit(next, batches, None) for _ in range(depth)]
        while True:
            item = waiting.pop(0).result()
            if item is None:
                return
            waiting.append(pool.submit(next, batches, None))
            yield item


def frame_source(hubert: Hubert, utterances: Sequence[Utterance], config: PretrainConfig | FinetuneConfig,
                 run: TrainingRun) -> FrameStore | Waveforms:
    """What training reads: the frozen conv encoder's features, computed once, or sound where it trains."""
    if config.keeps_features:
        store = frontend_store(hubert, utterances, run.features, run.device, config.kept_type)
        return store.hold(run.device) if run.device.type == "cuda" else store       # else the system's cache holds them
    return Waveforms(utterances, hubert.do_normalize, framing=hubert.config.framing)
