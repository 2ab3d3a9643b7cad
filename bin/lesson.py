#!/usr/bin/env python3
"""Every step of the method as a picture of one utterance, to be read with docs/WALKTHROUGH.md.

    bin/lesson.py runs/demo                             # writes session1/lesson.html there
    bin/lesson.py runs/demo/session1/recogniser a.wav --out lesson.html     # the steps of a recogniser alone
"""
import sys

from framealign.runtime import log
from framealign.commands import lesson_command

if __name__ == "__main__":
    sys.exit(log.command(lesson_command.main))
