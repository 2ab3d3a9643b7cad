"""Run the recipe on one fold, or on all: every stage from sound files to a tested emotion recogniser; resumable.

    bin/session.py --iemocap /data/IEMOCAP --hubert /models/hubert-base-ls960 --session 1 --out runs/iemocap
    bin/session.py --corpus corpus.tsv --hubert tiny --preset tiny --session all --out runs/mine
    torchrun --nproc_per_node 4 bin/session.py --iemocap /data/IEMOCAP --hubert DIR --out runs/iemocap
"""
import argparse
import dataclasses
from pathlib import Path

from framealign.runtime import distributed, log, settings
from framealign.recipe import comparison, presets, recipe, session_config, stages
from framealign.recipe.session_config import SessionConfig
from framealign.report import fold_page
from framealign.commands import command_line


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process) and run the recipe."""
    parser = command_line.parser("session", __doc__)
    settings.add_flags(parser, SessionConfig)
    command_line.add_overrides(parser, "the preset")
    parser.add_argument("--report", action=argparse.BooleanOptionalAction, default=True,
                        help="write session<n>/report.html at the end, to be opened in a browser (default on)")
    command_line.add_training_flags(parser)
    args = parser.parse_args(arguments)

    log.use_tensorboard(args.tensorboard)
    config = SessionConfig(**settings.given_flags(args, SessionConfig))     # has no valid default: it needs a corpus
    with command_line.ranks(config.device):
        run(config, presets.parse_settings(args.overrides), args.report)


def run(config: SessionConfig, overrides: dict[str, str], pages: bool = True) -> None:
    """Run every fold, method and seed that is asked for, sharing stages; then write results and print the table.

    Each of several seeds has a folder of its own, `seed1` and so on, below `config.out`. pages: write `report.html`
    too. Raises ValueError as `recipe.run_sessions`.
    """
    seeds = seed_numbers(config.seeds)
    methods = session_config.METHODS if config.method == "all" else [config.method]
    if len(methods) > 1 and config.redo not in ("", "all"):
        raise ValueError(f"--redo {config.redo} is of one method: run it with --method, or redo all of them")

    if seeds:
        places = {seed: Path(config.out) / f"seed{seed}" for seed in seeds}
    else:
        places = {config.seed: Path(config.out)}
    redone = {seed: stages.Redo(place, config.redo) for seed, place in places.items()}
    utterances = session_config.read_utterances(config)     # once for all seeds, methods and folds
    size = presets.with_overrides(presets.preset(config.preset), overrides)
    for seed, place in places.items():
        base = recipe.read_base(dataclasses.replace(config, seed=seed), size)   # once for all methods and folds
        for method in methods:
            chosen = dataclasses.replace(config.of(method), seed=seed, seeds="", out=str(place))
            if seeds:
                log.say(f"== seed {seed}")
            if not recipe.run_sessions(chosen, overrides, redone[seed], utterances, base):
                return                              # nothing was to be run
    for redo in redone.values():                    # at the end: a later seed's interruption redoes no earlier seed
        redo.finish()

    if distributed.rank() == 0:
        runs = comparison.seeds_of(config.run) if seeds else {"": config.run}
        collected = comparison.collect(runs, methods, config.selection)         # once, for pages and tables
        comparison.write(runs, collected)
        if pages:
            written = [dataclasses.replace(config, out=str(place)).run for place in places.values()]
            write_pages(config, {seed: run for seed, run in runs.items() if run in written}, collected)
        log.say(comparison.table(collected))


def seed_numbers(text: str) -> list[int]:
    """"1,2,3" -> [1, 2, 3]. Raises ValueError for anything but different whole numbers."""
    words = [word.strip() for word in text.split(",")] if text else []
    are_numbers = all(word.isascii() and word.isdigit() and len(word) < 10 for word in words)
    if not are_numbers or len({int(word) for word in words}) < len(words):
        raise ValueError(f"--seeds must be different whole numbers separated by commas, got {text!r}")
    return [int(word) for word in words]


def write_pages(config: SessionConfig, runs: dict[str, Path], collected: dict[str, dict[str, dict]]) -> None:
    """`report.html` of what was run, for each run's folder and each method. collected: of `comparison.collect`."""
    for seed, run in runs.items():
        for of_seed in collected.values():
            fold_page.write_all(run, of_seed[seed], config.session, config.device)
