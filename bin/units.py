#!/usr/bin/env python3
"""Turn every utterance of a manifest into units: MFCC or layer states, k-means, one unit per 20 ms frame.

    bin/units.py --corpus corpus.tsv --mfcc --clusters 100 --out runs/units
    bin/units.py --corpus corpus.tsv --model hubert-base-ls960 --layer 9 --codebook km500.bin --out runs/units
    bin/units.py --corpus corpus.tsv --model recogniser --layer 9 --clusters 32,64,128 --out runs/units
"""
import argparse
import sys

from framealign.runtime import allocator, distributed, log, settings
from framealign.units import kmeans
from framealign.commands import files_commands


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    settings.add_flags(parser, files_commands.UnitsRun)
    settings.add_flags(parser, kmeans.KMeansConfig)
    args = parser.parse_args()
    allocator.keep_freed_memory()
    chosen = settings.from_flags(args, files_commands.UnitsRun())
    with distributed.ranks(distributed.choose_device(chosen.device)):
        files_commands.make_units_run(chosen, settings.from_flags(args, kmeans.KMeansConfig()))


if __name__ == "__main__":
    sys.exit(log.command(main))
