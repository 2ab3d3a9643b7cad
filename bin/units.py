#!/usr/bin/env python3
"""Turn every utterance of a manifest into units: MFCC or layer states, k-means, one unit per 20 ms frame.

    bin/units.py --corpus corpus.tsv --mfcc --clusters 100 --out runs/units
    bin/units.py --corpus corpus.tsv --model hubert-base-ls960 --layer 9 --codebook km500.bin --out runs/units
"""
import sys

from framealign.runtime import log
from framealign.commands import units_command

if __name__ == "__main__":
    sys.exit(log.command(units_command.main))
