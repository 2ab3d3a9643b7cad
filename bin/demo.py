#!/usr/bin/env python3
"""The whole method on a synthetic corpus it makes itself: six stages, three methods, what is recognised and aligned.

    bin/demo.py                                     # minutes on a CPU, from the committed tiny base model
    bin/demo.py --make-tiny-base --out runs/tiny-base
"""
import argparse
import sys

from framealign.runtime import allocator, distributed, log, settings
from framealign.recipe import presets
from framealign.commands import demo_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    settings.add_flags(parser, demo_command.DemoConfig)
    settings.add_old_names(parser, "--run")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings",
                        help="replace one setting of the preset tiny, e.g. pretrain.updates=100 (may be repeated)")
    args = parser.parse_args()
    allocator.keep_freed_memory()
    chosen = settings.from_flags(args, demo_command.DemoConfig())
    with distributed.ranks(distributed.choose_device(chosen.device)):
        action = demo_command.make_tiny_base if chosen.make_tiny_base else demo_command.run
        action(chosen, presets.parse_settings(args.settings))


if __name__ == "__main__":
    sys.exit(log.command(main))
