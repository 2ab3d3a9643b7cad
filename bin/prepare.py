#!/usr/bin/env python3
"""Make a manifest, corpus.tsv, out of a corpus, and print a summary of it.

    bin/prepare.py --iemocap /data/IEMOCAP_full_release --out corpus.tsv
    bin/prepare.py --corpus-kind ravdess /data/RAVDESS --out ravdess.tsv    # every label; the kind may be left out
"""
import sys

from framealign.runtime import log
from framealign.commands import prepare_command

if __name__ == "__main__":
    sys.exit(log.command(prepare_command.main))
