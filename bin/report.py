#!/usr/bin/env python3
"""Make the pages of a run (again): session<n>/report.html of every finished fold, report.html of all of them.

    bin/report.py runs/iemocap
    bin/report.py runs/iemocap --method tapt
"""
import argparse
import sys

from framealign.runtime import log
from framealign.corpus import protocols
from framealign.recipe import recipe
from framealign.report import fold_page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a session run")
    parser.add_argument("--method", default="align", choices=recipe.METHODS,
                        help="whose training and test is shown; default align")
    parser.add_argument("--selection", default="", choices=("", *protocols.SELECTIONS), metavar="SELECTION",
                        help="which protocol's folds; default: the one that was run")
    parser.add_argument("--session", default="all", help="whose page is made; default all finished folds")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps; default auto")
    args = parser.parse_args()
    fold_page.write_all(args.run, args.method, args.selection, args.session, args.device)


if __name__ == "__main__":
    sys.exit(log.command(main))
