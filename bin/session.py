#!/usr/bin/env python3
"""Run the recipe on one fold, or on all: every stage from sound files to a tested emotion recogniser; resumable.

    bin/session.py --iemocap /data/IEMOCAP --hubert /models/hubert-base-ls960 --session 1 --out runs/iemocap
    bin/session.py --corpus corpus.tsv --hubert tiny --preset tiny --session all --out runs/mine
"""
import sys

from framealign.runtime import log
from framealign.commands import session_command

if __name__ == "__main__":
    sys.exit(log.command(session_command.main))
