#!/usr/bin/env python3
"""Write the encoder (or the recogniser) of any training checkpoint or model directory in Hugging Face's format.

    bin/export.py runs/iemocap/session1/align-pretrain hubert-emotion       # a run: its newest checkpoint
    bin/export.py runs/demo/session1/recogniser exported --encoder          # without pooling and classifier
"""
import sys

from framealign.runtime import log
from framealign.commands import export_command

if __name__ == "__main__":
    sys.exit(log.command(export_command.main))
