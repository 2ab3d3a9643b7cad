#!/usr/bin/env python3
"""The emotion in sound files, by a trained recogniser.

    bin/recognise.py runs/demo/session1/recogniser a.wav b.flac
    bin/recognise.py runs/demo/session1/recogniser a.wav --timeline     # and 50 times a second
"""
import argparse
import sys

from framealign import commands, log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a recogniser's directory")
    parser.add_argument("sound", nargs="+", help="sound files: any rate, channels and format soundfile reads")
    parser.add_argument("--timeline", action="store_true",
                        help="a line of JSON per file, with attention and posterior of each frame, 50 a second")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps; default auto")
    args = parser.parse_args()
    commands.print_results(args.model, args.sound, args.timeline, args.device)


if __name__ == "__main__":
    sys.exit(log.command(main))
