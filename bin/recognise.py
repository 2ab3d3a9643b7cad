#!/usr/bin/env python3
"""The emotion in sound files, by a trained recogniser; also over time.

    bin/recognise.py runs/demo/session1/recogniser a.wav folder 'takes/*.flac'
    bin/recognise.py runs/demo/session1/recogniser a.wav --timeline             # segments, start and end in seconds
"""
import sys

from framealign.runtime import log
from framealign.commands import recognise_command

if __name__ == "__main__":
    sys.exit(log.command(recognise_command.main))
