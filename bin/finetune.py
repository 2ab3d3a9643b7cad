#!/usr/bin/env python3
"""Fine-tune an encoder to recognise emotions, select an epoch, test once; run again, it resumes.

    bin/finetune.py --corpus corpus.tsv --session 1 --init-from runs/pretrain/encoder --preset tiny --out runs/finetune
    bin/finetune.py --train train.scp --valid valid.scp --test test.scp --init-from hubert-base-ls960 --out runs/scp
"""
import sys

from framealign.runtime import log
from framealign.commands import finetune_command

if __name__ == "__main__":
    sys.exit(log.command(finetune_command.main))
