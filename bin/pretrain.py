#!/usr/bin/env python3
"""Pretrain a HuBERT to predict the units of masked frames; an interrupted run resumes with the same command.

    bin/pretrain.py --corpus corpus.tsv --units runs/units/units.safetensors --preset tiny --out runs/pretrain
    torchrun --nproc_per_node 4 bin/pretrain.py --corpus c.tsv --units u.km --init-from hubert-base-ls960 --out r
"""
import sys

from framealign.runtime import log
from framealign.commands import pretrain_command

if __name__ == "__main__":
    sys.exit(log.command(pretrain_command.main))
