#!/usr/bin/env python3
"""The numbers of a run with the protocol beside them: per fold, pooled, by subset, over seeds, against another run.

    bin/evaluate.py runs/iemocap                        # writes results.json there
    bin/evaluate.py runs/iemocap --method all           # the ablation: finetune, tapt, align with paired differences
"""
import sys

from framealign.runtime import log
from framealign.commands import evaluate_command

if __name__ == "__main__":
    sys.exit(log.command(evaluate_command.main))
