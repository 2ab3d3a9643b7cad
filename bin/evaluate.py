#!/usr/bin/env python3
"""The numbers of a run with the protocol beside them: per fold, pooled, by subset, over seeds, against another run.

    bin/evaluate.py runs/iemocap                        # writes results.json there
    bin/evaluate.py runs/iemocap --method all           # the ablation: finetune, tapt, align with paired differences
    bin/evaluate.py --compare runs/iemocap:tapt runs/iemocap:align      # or two runs, or two predictions.csv
"""
import argparse
import sys

from framealign.runtime import log
from framealign.corpus import protocols
from framealign.recipe import comparison, recipe
from framealign.commands import session_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="folder of a session run, or of several seeds")
    parser.add_argument("--method", default="", choices=("", *recipe.METHODS, "all"), metavar="METHOD",
                        help="finetune, tapt, align, or all beside each other; default: the furthest that was run")
    parser.add_argument("--selection", default="", choices=("", *protocols.SELECTIONS), metavar="SELECTION",
                        help="which protocol's folds; default: the one that was run")
    parser.add_argument("--compare", nargs=2, metavar="RUN",
                        help="paired bootstrap of two runs on the same utterances: RUN, RUN:METHOD or predictions.csv")
    args = parser.parse_args()
    if bool(args.run) == bool(args.compare):
        raise ValueError("give either a run's folder or --compare with two; --help shows examples")
    if args.compare:
        log.say(comparison.comparison(*args.compare, args.method, args.selection))
    else:
        log.say(session_command.evaluate(args.run, args.method, args.selection))


if __name__ == "__main__":
    sys.exit(log.command(main))
