"""The frozen probe of SUPERB (Yang et al. 2021): what an encoder's layers say of emotion before anything is fine-tuned.

    logits = classifier(projector(mean over frames t of sum over layers l of w_l x_lt)),   w = softmax of L + 1 weights

The encoder is frozen and the rest is linear, so the mean may be taken first: mean over t of sum_l w_l x_lt is
sum_l w_l m_l, where m_l is the mean of layer l's states. Of each utterance these means, (L + 1, D), are all that is
needed. They are computed once (`extraction.layer_means`), and a training takes seconds. (Only the temperature of single
frames, `finetune.calibrate`, needs the frames themselves, of validation utterances.)

Another difference from SUPERB, whose learning rate is tuned for each encoder: training sees the layers at one scale,
each around its mean over the training part and divided by its standard deviation, one number a layer. That too is
linear, and `unscale` takes it back, so that the recogniser is the formula above, of the states as they are. (A layer
norm of the states, s3prl's option, would not be: transformers' HubertForSequenceClassification has none.)
"""
import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from framealign.runtime import distributed, files, log
from framealign.runtime.seeds import derive_seed
from framealign.corpus.cropping import Waveforms
from framealign.corpus.protocols import Split, check_parts
from framealign.corpus.utterance import Utterance
from framealign.hubert.model import Hubert
from framealign.units.extraction import layer_means
from framealign.units.frame_store import FrameStore
from framealign.emotion.emotion_model import EmotionModel
from framealign.training import optimiser
from framealign.training.batches import balanced_draw
from framealign.training.finetune import FoldData, measure, of_splits, test
from framealign.training.training_config import ProbeConfig, TrainingRun, check_corpora


class MeansData(FoldData):
    """The utterances of a fold, of which the means of all layers' states are known.

    The sound itself is read for the temperature of frames alone (`finetune.calibrate`), of validation utterances.
    """

    def __init__(self, utterances: Sequence[Utterance], split: Split, classes: Sequence[str], hubert: Hubert,
                 store: FrameStore):
        """store: of `layer_means` of these utterances by `hubert`."""
        sound = Waveforms(utterances, hubert.do_normalize, framing=hubert.config.framing)
        super().__init__(utterances, split, classes, sound)
        self.store, self.num_layers = store, hubert.config.num_hidden_layers + 1

    def means(self, chosen: list[int]) -> Tensor:
        """Means over frames of the chosen utterances' states, (len(chosen), L + 1, D), layers 0 ... L."""
        rows = torch.cat([self.store.read(u) for u in chosen])                  # (len(chosen), (L + 1) D)
        return rows.unflatten(1, (self.num_layers, -1))

    @torch.inference_mode()
    def logits(self, model: EmotionModel, chosen: list[int], _max_seconds: float, run: TrainingRun) -> np.ndarray:
        """As of `FoldData`, of whole utterances, from their means."""
        return logits_of(model, self.means(chosen).to(run.device)).cpu().double().numpy()


def probe_fold(load: Callable[[], Hubert], utterances: Sequence[Utterance], splits: list[Split], classes: list[str],
               config: ProbeConfig, run: TrainingRun) -> dict:
    """`probe` on the one split of a fold, or on each of several, as `finetune_fold`."""
    def train(split: Split, of_split: TrainingRun) -> dict:
        return probe(load(), utterances, split, classes, config, of_split)

    return of_splits(train, utterances, splits, run)


def probe(hubert: Hubert, utterances: Sequence[Utterance], split: Split, classes: list[str], config: ProbeConfig,
          run: TrainingRun) -> dict:
    """Train a frozen probe of `hubert` on split.train, select an epoch, test once: results as `finetune.test`, with
    "layer_weights", how much each of layers 0 ... L counts at one scale, sum 1.

    utterances: all of the split's and possibly more, whose means are computed together and kept in `run.features`.
    Writes `recogniser`, `predictions.csv` and `results.json` into the run's folder. Ranks share the means' computation
    and then train alike. Raises ValueError as `check_parts` and `check_corpora`.
    """
    check_parts(split, classes, config.selection)
    check_corpora(config, split.train)
    data = MeansData(utterances, split, classes, hubert, layer_means(hubert, utterances, run.features, run.device))
    torch.manual_seed(derive_seed(config.seed, "head"))
    model = EmotionModel(hubert.cpu(), classes, "layers", projection_size=config.projection_size)
    selected_epoch, shares = train_head(model, data, config, run)
    if distributed.rank() == 0:
        model.save_pretrained(run.folder / "recogniser")
    distributed.barrier()

    selected = EmotionModel.from_pretrained(run.folder / "recogniser").to(run.device)
    results = test(selected, data, config, run, selected_epoch) | {"layer_weights": shares}
    if distributed.rank() == 0:
        files.write_json(run.folder / "results.json", results)
    return results


def logits_of(model: EmotionModel, means: Tensor) -> Tensor:
    """Class logits (B, classes) of means (B, L + 1, D): what `EmotionModel.forward` gives of the sounds themselves."""
    return model.classifier(model.read(means.unbind(1)))


def train_head(model: EmotionModel, data: MeansData, config: ProbeConfig, run: TrainingRun) -> tuple[int, list[float]]:
    """Train layer weights, projector and classifier (in place) on data.train: the selected epoch, and each layer's
    share, L + 1, sum 1, of layers at one scale.

    Everything is on the CPU in float32: a batch is a few products of small matrices.
    """
    means, labels, corpora = data.means(data.train), data.labels[data.train], data.corpora[data.train]
    centre = means.mean(0)                                                      # (L + 1, D)
    scale = (means - centre).square().mean((0, 2)).sqrt().clamp(min=1e-6)       # (L + 1,)
    means = scaled(means, centre, scale)

    selecting = data.selecting(config.selection)
    valid_means = scaled(data.means(selecting), centre, scale) if selecting else None
    head = [model.layer_weights, *model.projector.parameters(), *model.classifier.parameters()]
    optimizer = optimiser.adamw(head, config.lr, (0.9, 0.999), 1e-8, config.weight_decay)
    num_updates, update = config.epochs * math.ceil(len(labels) / config.batch_size), 0
    (run.folder / "log.jsonl").unlink(missing_ok=True)          # of a training that was interrupted: it begins again
    journal = log.Log(run.folder / "log.jsonl", config.epochs)
    began, best, weights = time.monotonic(), {}, {}
    for epoch in range(1, config.epochs + 1):
        losses = []
        for batch in draw(labels, corpora, config, epoch):
            update += 1
            loss = F.cross_entropy(logits_of(model, means[batch]), labels[batch])
            loss.backward()
            lr = optimiser.linear_schedule(update, config.lr, 0, num_updates)
            norm, _ = optimiser.step(optimizer, lr, config.clip_norm)
            losses.append(float(loss.detach()))

        valid = {}
        if selecting:
            with torch.inference_mode():
                valid = measure(data, selecting, logits_of(model, valid_means).numpy())
        if not selecting or not best or valid["valid_ua"] > best["valid_ua"]:
            best = {"epoch": epoch} | valid
            weights = {name: x.clone() for name, x in model.head().items()}
        line = {"update": epoch, "epoch": epoch, "loss": float(np.mean(losses)), **valid, "lr": lr,
                "gradient_norm": float(norm), "seconds_left": round((time.monotonic() - began) / epoch
                                                                    * (config.epochs - epoch))}
        journal.write(line, show=epoch % max(1, config.epochs // 5) == 0)

    model.load_state_dict(weights, strict=False)
    shares = model.layer_weights.detach().softmax(0).tolist()
    unscale(model, centre, scale)
    return best["epoch"], shares


def draw(labels: Tensor, corpora: Tensor, config: ProbeConfig, epoch: int) -> Iterator[list[int]]:
    """Batches of one epoch, places in labels (U,): as many draws as there are, as `finetune.training_batches`.

    corpora (U,): the number of each one's corpus.
    """
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "epoch", epoch))
    if config.balanced:
        drawn = balanced_draw(labels, len(labels), generator, corpora if config.balance_corpora else None)
    else:
        drawn = torch.randperm(len(labels), generator=generator).tolist()
    for first in range(0, len(drawn), config.batch_size):
        yield drawn[first:first + config.batch_size]


def scaled(means: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    """Means (U, L + 1, D) less their centre (L + 1, D), each layer divided by its scale (L + 1,): (U, L + 1, D)."""
    return (means - centre) / scale[:, None]


@torch.no_grad()
def unscale(model: EmotionModel, centre: Tensor, scale: Tensor) -> None:
    """Make a head that was trained on `scaled` means one of the means as they are (in place): the same logits.

    Of the shares w, sum_l w_l (m_l - c_l) / s_l is k sum_l v_l m_l - sum_l w_l c_l / s_l, where v_l = w_l / (k s_l) are
    shares again and k = sum_l w_l / s_l: the projector takes factor and offset.
    """
    factors = model.layer_weights.softmax(0) / scale                            # (L + 1,)
    offset = factors @ centre                                                   # (D,)
    model.projector.bias -= model.projector.weight @ offset
    model.projector.weight *= factors.sum()
    model.layer_weights.copy_(factors.log())        # the softmax divides by their sum
