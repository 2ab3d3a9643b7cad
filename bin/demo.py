#!/usr/bin/env python3
"""The whole method on a synthetic corpus it makes itself: seven stages, three methods, what is recognised and when.

    bin/demo.py                                     # minutes on a CPU, from the committed tiny base model
    bin/demo.py --corpus emodb.tsv --session 2      # the same on any labelled corpus
"""
import sys

from framealign.runtime import log
from framealign.commands import demo_command

if __name__ == "__main__":
    sys.exit(log.command(demo_command.main))
