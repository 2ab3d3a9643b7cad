#!/usr/bin/env python3
"""Make the models that come along, out of real voices: a HuBERT of unlabelled speech, and a recogniser on top of it.

    bin/voices.py speech.tsv emodb.tsv ravdess.tsv nemo.tsv --out runs/voices       # hours on a CPU; resumable
    bin/voices.py manifests --set scratch.updates=500 --target runs/mine            # every table of a folder
"""
import sys

from framealign.runtime import log
from framealign.commands import voices_command

if __name__ == "__main__":
    sys.exit(log.command(voices_command.main))
