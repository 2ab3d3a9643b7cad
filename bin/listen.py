#!/usr/bin/env python3
"""A page to speak to: press record or drop a sound, and see its emotion over time while it comes.

    bin/listen.py
    bin/listen.py runs/demo/session1/recogniser --no-browser --port 8470        # open the printed address yourself
"""
import sys

from framealign.runtime import log
from framealign.commands import listen_command

if __name__ == "__main__":
    sys.exit(log.command(listen_command.main))
