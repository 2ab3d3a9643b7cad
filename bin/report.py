#!/usr/bin/env python3
"""Make the pages of a run (again): session<n>/report.html of every finished fold, report.html of all of them.

    bin/report.py runs/iemocap
    bin/report.py runs/iemocap --method tapt
"""
import sys

from framealign.runtime import log
from framealign.commands import report_command

if __name__ == "__main__":
    sys.exit(log.command(report_command.main))
