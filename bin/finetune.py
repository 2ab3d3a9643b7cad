#!/usr/bin/env python3
"""Fine-tune an encoder to recognise emotions, select an epoch, test once; continues what was interrupted in --out.

    bin/finetune.py --corpus corpus.tsv --session 1 --init-from runs/pretrain/encoder --preset tiny --out runs/finetune
    bin/finetune.py --train train.scp --valid valid.scp --test test.scp --init-from hubert-base-ls960 --out runs/scp
"""
import argparse
import sys

from framealign.runtime import allocator, distributed, log, settings
from framealign.training import training_config
from framealign.recipe import presets
from framealign.commands import files_commands


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    settings.add_flags(parser, files_commands.FinetuneRun)
    settings.add_flags(parser, training_config.FinetuneConfig)
    settings.add_old_names(parser, "--run", "--run-folder")
    parser.add_argument("--tensorboard", action="store_true",
                        help="also write TensorBoard's event files (needs the package tensorboard)")
    args = parser.parse_args()
    log.use_tensorboard(args.tensorboard)
    allocator.keep_freed_memory()
    chosen = settings.from_flags(args, files_commands.FinetuneRun())
    with distributed.ranks(distributed.choose_device(chosen.device)):
        files_commands.finetune_run(chosen, settings.from_flags(args, presets.preset(chosen.preset).finetune))


if __name__ == "__main__":
    sys.exit(log.command(main))
