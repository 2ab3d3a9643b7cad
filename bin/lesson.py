#!/usr/bin/env python3
"""Every step of the method as a picture of one utterance: session<n>/lesson.html, to be read with docs/WALKTHROUGH.md.

    bin/lesson.py runs/demo
    bin/lesson.py runs/demo --session 1 --sound Ses01F_impro01_F000
"""
import argparse
import sys

from framealign.runtime import log
from framealign.report import lesson


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a session run with a finished fold of method align")
    parser.add_argument("--session", default="", help="whose models are shown; default the first finished fold")
    parser.add_argument("--sound", default="", help="id of an utterance of the corpus; default the best recognised")
    args = parser.parse_args()
    lesson.write(args.run, args.session, args.sound)


if __name__ == "__main__":
    sys.exit(log.command(main))
