#!/usr/bin/env python3
"""Every step of the method as a picture of one utterance: session<n>/lesson.html, to be read with docs/WALKTHROUGH.md.

    bin/lesson.py runs/demo
    bin/lesson.py runs/demo --session 1 --sound Ses01F_impro01_F000
"""
import sys

from framealign.runtime import log
from framealign.commands import lesson_command

if __name__ == "__main__":
    sys.exit(log.command(lesson_command.main))
