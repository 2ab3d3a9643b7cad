"""Fine-tune an encoder to recognise emotions, select an epoch, test once; run again, it resumes.

    bin/finetune.py --corpus corpus.tsv --session 1 --init-from runs/pretrain/encoder --preset tiny --out runs/finetune
    bin/finetune.py --train train.scp --valid valid.scp --test test.scp --init-from hubert-base-ls960 --out runs/scp
"""
from dataclasses import dataclass
from pathlib import Path

from framealign.runtime import distributed, lock, log, settings
from framealign.runtime.settings import setting
from framealign.corpus import protocols
from framealign.corpus.importers import scp
from framealign.corpus.protocols import OPTIMISTIC, Split, class_names
from framealign.corpus.utterance import CLASSES, Utterance
from framealign.training.finetune import finetune_fold
from framealign.training.training_config import FinetuneConfig, TrainingRun
from framealign.recipe import model_card, trained_on
from framealign.recipe.preflight import read_corpus
from framealign.recipe.presets import preset
from framealign.recipe.recipe import load_encoder
from framealign.recipe.stages import nothing_half_made
from framealign.commands import command_line
from framealign.commands.command_inputs import fresh, required


@dataclass(frozen=True)
class FinetuneRun:
    """What is fine-tuned, selected and tested on what."""
    corpus: str = setting("", "manifest or table, with --session")
    session: str = setting("1", "session held out for the test")
    train: str = setting("", "instead of a corpus, the reference's three scp files: this one to train on")
    valid: str = setting("", "scp file to select on")
    test: str = setting("", "scp file to test on")
    validate_on: str = setting(
        "session", "what clean selection validates on: session (a whole training session) or speaker (one of it)")
    allow_missing_classes: bool = setting(
        False, "take a validation or test part without some class; UA and macro-F1 are then over the others")
    allow_shared_speakers: bool = setting(False, "take speakers of the test that are trained on, too")
    init_from: str = setting("", "model directory or file (encoder only)")
    preset: str = setting("base", "settings: tiny, compact, small, base or large")
    classes: str = setting(",".join(CLASSES), "separated by commas, in the order of the classifier")
    merge: str = setting(
        "", "labels that count as a class, e.g. excited=happy,calm=neutral, or none; default: excited as happy, unless "
        "it is a class")
    out: str = setting("runs/finetune", "folder for checkpoints, log.jsonl, recogniser and results")
    resume: bool = setting(True, "continue an interrupted run; --no-resume: refuse a folder that holds a checkpoint")
    device: str = setting("auto", "auto, cpu, cuda or mps")
    precision: str = setting("auto", "auto, float32 or bfloat16")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process), fine-tune and test."""
    parser = command_line.parser("finetune", __doc__)
    settings.add_flags(parser, FinetuneRun)
    settings.add_flags(parser, FinetuneConfig)
    command_line.add_training_flags(parser)
    args = parser.parse_args(arguments)

    log.use_tensorboard(args.tensorboard)
    config = settings.from_flags(args, FinetuneRun())
    with command_line.ranks(config.device):
        run(config, settings.from_flags(args, preset(config.preset).finetune))


def run(config: FinetuneRun, training: FinetuneConfig) -> None:
    """Fine-tune, select, test once: by session of a manifest, or by three scp lists.

    Raises ValueError, before anything is written, for input that cannot be used.
    """
    required(config, "init_from")
    fresh(config.out, config.resume)
    classes, device = class_names(config.classes), distributed.choose_device(config.device)
    distributed.autocast(device, config.precision)  # an unknown precision is an error now
    utterances, splits = read_splits(config, training, classes)

    out = Path(config.out)
    with lock.held(out), nothing_half_made(out / "frontend"):
        results = finetune_fold(lambda: load_encoder(config.init_from, training.seed), utterances, splits, classes,
                                training, TrainingRun(out, device, config.precision))
        trained_on.write(out / "recogniser", splits, training.selection, config.init_from)
    if distributed.rank() == 0:
        model_card.write(out / "recogniser", results, splits)
    reported = ", ".join(f"{name} {100 * value:.1f} %" for name, value in results["reported"].items())
    log.say(f"{results['split']}: {reported} ({training.selection} selection, epoch {results['selected_epoch']}); "
            f"{out / 'results.json'}")


def read_splits(config: FinetuneRun, training: FinetuneConfig, classes: list[str]
                ) -> tuple[list[Utterance], list[Split]]:
    """All utterances, and who of them trains, selects and tests; several splits where each speaker is tested once.

    Raises ValueError for flags or files that do not fit each other.
    """
    if bool(config.corpus) == bool(config.train):
        raise ValueError("give either --corpus (with --session) or --train, --valid and --test")
    if config.corpus:
        utterances = protocols.of_classes(read_corpus(config.corpus), classes, config.merge)
        return utterances, protocols.split(utterances, config.session, training.selection, config.validate_on, classes,
                                           config.allow_missing_classes, config.allow_shared_speakers)

    required(config, "test")
    overlap = training.selection in OPTIMISTIC or config.allow_shared_speakers
    split = scp.read_split(config.train, config.valid or None, config.test, overlap, classes, config.merge)
    protocols.check_classes(split, classes, split.name, config.allow_missing_classes)
    by_id = {u.id: u for part in (split.train, split.valid, split.test) for u in part}
    return list(by_id.values()), [split]
