#!/usr/bin/env python3
"""Write the encoder (or the recogniser) of any training checkpoint or model directory in Hugging Face's format.

    bin/export.py runs/iemocap/session1/align-pretrain hubert-emotion       # a run: its newest checkpoint
    bin/export.py runs/demo/session1/recogniser exported --encoder          # drop the head
    bin/export.py runs/demo/session1/recogniser recogniser.pt2 --to torch-export        # for torch without framealign
"""
import argparse
import sys

from framealign.runtime import log
from framealign.commands import files_commands


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a run, one of its checkpoints, or a model directory")
    parser.add_argument("target", help="directory to write (torchaudio, torch-export: file to write)")
    parser.add_argument("--encoder", action="store_true", help="leave out pooling, classifier and prediction head")
    parser.add_argument("--to", choices=("huggingface", "torchaudio", "torch-export"), default="huggingface",
                        help="torchaudio: a safetensors file of a state dict in torchaudio.models' names; "
                        "torch-export: a program that torch loads without framealign, from sound at 16 kHz on")
    args = parser.parse_args()
    files_commands.export(args.source, args.target, args.encoder, args.to)


if __name__ == "__main__":
    sys.exit(log.command(main))
