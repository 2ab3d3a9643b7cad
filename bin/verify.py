#!/usr/bin/env python3
"""Compare a model with what fairseq's released HuBERT gave for one utterance: layer states and, with a codebook, units.

    bin/verify.py --hubert hubert-base-ls960 --codebook hubert_base_ls960_L9_km500.bin --fixture hubert_fixture
    bin/verify.py --hubert hubert-base-ls960 --normalize        # what preprocessor_config.json says: not as in fairseq

Exit status: 0 within the limits, 1 beyond one, 2 for input that cannot be compared.
"""
import argparse
import sys
from pathlib import Path

from framealign.runtime import log
from framealign.commands import verify_command

FIXTURE = Path(__file__).parents[2] / "shared" / "data" / "hubert_fixture"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hubert", required=True, help="a model directory: config.json and weights")
    parser.add_argument("--codebook", default="", help="its centroids (.bin, .npy, .safetensors): compare units too")
    parser.add_argument("--fixture", default=str(FIXTURE),
                        help="folder with one sound file (*.flac, *.wav), its features of a layer (*.L9.npy) and "
                             "units (*.km); default ../shared/data/hubert_fixture")
    parser.add_argument("--normalize", action=argparse.BooleanOptionalAction, default=None,
                        help="make the waveform zero mean, unit variance first; default as fairseq trained such a "
                             "model: not for base (group norm), yes for large and xlarge (layer norm)")
    args = parser.parse_args()
    if not verify_command.verify(args.hubert, args.fixture, args.codebook, args.normalize):
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(log.command(main))
