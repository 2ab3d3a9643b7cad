#!/usr/bin/env python3
"""Pretrain a HuBERT to predict the units of hidden frames; continues by itself what was interrupted in --out.

    bin/pretrain.py --corpus corpus.tsv --units runs/units/units.safetensors --preset tiny --out runs/pretrain
    torchrun --nproc_per_node 4 bin/pretrain.py --corpus c.tsv --units u.km --init-from hubert-base-ls960 --out r
"""
import argparse
import sys

from framealign.runtime import allocator, distributed, log, settings
from framealign.training import training_config
from framealign.commands import files_commands


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    settings.add_flags(parser, files_commands.PretrainRun)
    settings.add_flags(parser, training_config.PretrainConfig)
    settings.add_old_names(parser, "--run", "--run-folder")
    parser.add_argument("--tensorboard", action="store_true",
                        help="also write TensorBoard's event files (needs the package tensorboard)")
    args = parser.parse_args()
    log.use_tensorboard(args.tensorboard)
    allocator.keep_freed_memory()
    chosen = settings.from_flags(args, files_commands.PretrainRun())
    with distributed.ranks(distributed.choose_device(chosen.device)):
        files_commands.pretrain_run(chosen, settings.from_flags(args, files_commands.pretrain_settings(chosen)))


if __name__ == "__main__":
    sys.exit(log.command(main))
