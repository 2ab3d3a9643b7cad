#!/usr/bin/env python3
"""Fine-tune an encoder to recognise emotions, select an epoch, test once; continues what was interrupted in --run.

    bin/finetune.py --corpus corpus.tsv --session 1 --init-from runs/pretrain/encoder --preset tiny --run runs/finetune
    bin/finetune.py --train train.scp --valid valid.scp --test test.scp --init-from hubert-base-ls960 --run runs/scp
"""
import argparse
import sys

from framealign import allocator, commands, config, distributed, log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    config.add_flags(parser, commands.FinetuneRun)
    config.add_flags(parser, config.FinetuneConfig)
    parser.add_argument("--run-folder", dest="run", help="the same as --run, which torchrun takes for one of its own")
    parser.add_argument("--tensorboard", action="store_true",
                        help="also write TensorBoard's event files (needs the package tensorboard)")
    args = parser.parse_args()
    log.use_tensorboard(args.tensorboard)
    allocator.keep_freed_memory()
    chosen = config.from_flags(args, commands.FinetuneRun())
    with distributed.ranks(distributed.choose_device(chosen.device)):
        commands.finetune_run(chosen, config.from_flags(args, config.preset(chosen.preset).finetune))


if __name__ == "__main__":
    sys.exit(log.command(main))
