#!/usr/bin/env python3
"""Pool the folds of a run: WA, UA, macro-F1, recalls, confusion, intervals, with the protocol beside them.

    bin/evaluate.py runs/iemocap
    bin/evaluate.py runs/iemocap --method tapt
"""
import argparse
import sys

from framealign import allocator, config, log, report, session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a session run")
    parser.add_argument("--method", default="align", choices=session.METHODS,
                        help="whose test is reported; default align")
    parser.add_argument("--selection", default="", choices=("", *config.SELECTIONS), metavar="SELECTION",
                        help="which protocol's folds; default: the one that was run")
    args = parser.parse_args()
    allocator.keep_freed_memory()
    log.say(report.table(report.collect(args.run, args.method, args.selection)))


if __name__ == "__main__":
    sys.exit(log.command(main))
