#!/usr/bin/env python3
"""Compare a model with what fairseq's released HuBERT gave for one utterance: layer states and, with a codebook, units.

    bin/verify.py --hubert hubert-base-ls960 --codebook hubert_base_ls960_L9_km500.bin --fixture hubert_fixture
    bin/verify.py --hubert hubert-base-ls960 --normalize        # what preprocessor_config.json says: not as in fairseq
"""
import sys

from framealign.runtime import log
from framealign.commands import verify_command

if __name__ == "__main__":
    sys.exit(log.command(verify_command.main))
