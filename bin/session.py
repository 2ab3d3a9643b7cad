#!/usr/bin/env python3
"""Run the recipe on one fold, or on all: every stage from sound files to a tested emotion recogniser; resumable.

    bin/session.py --iemocap /data/IEMOCAP --hubert /models/hubert-base-ls960 --session 1 --out runs/iemocap
    bin/session.py --corpus corpus.tsv --hubert tiny --preset tiny --session all --out runs/mine
    torchrun --nproc_per_node 4 bin/session.py --iemocap /data/IEMOCAP --hubert DIR --out runs/iemocap
"""
import argparse
import dataclasses
import sys

from framealign.runtime import allocator, distributed, log, settings
from framealign.recipe import presets, recipe
from framealign.commands import session_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    settings.add_flags(parser, recipe.SessionConfig)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings",
                        help="replace one setting of the preset, e.g. pretrain.updates=500 (may be repeated)")
    settings.add_old_names(parser, "--run", "--run-folder")
    parser.add_argument("--report", action=argparse.BooleanOptionalAction, default=True,
                        help="write session<n>/report.html at the end, to be opened in a browser; default: do")
    parser.add_argument("--tensorboard", action="store_true",
                        help="also write TensorBoard's event files (needs the package tensorboard)")
    args = parser.parse_args()
    log.use_tensorboard(args.tensorboard)
    allocator.keep_freed_memory()
    chosen = recipe.SessionConfig(**{field.name: getattr(args, field.name) for field in
                                      dataclasses.fields(recipe.SessionConfig)
                                      if getattr(args, field.name) is not None})
    with distributed.ranks(distributed.choose_device(chosen.device)):
        session_command.run(chosen, presets.parse_settings(args.settings), args.report)


if __name__ == "__main__":
    sys.exit(log.command(main))
