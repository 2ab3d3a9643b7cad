#!/usr/bin/env python3
"""The emotion in sound files, by a trained recogniser; also over time.

    bin/recognise.py runs/demo/session1/recogniser a.wav folder 'takes/*.flac'
    bin/recognise.py runs/demo/session1/recogniser a.wav --timeline             # segments, start and end in seconds
    find . -name '*.mp3' | bin/recognise.py runs/demo/session1/recogniser - --format csv > emotions.csv
    bin/recognise.py runs/demo/session1/recogniser talks --format textgrid --out grids      # for Praat
    bin/recognise.py runs/demo/session1/recogniser a.wav --html a.html          # a picture that can be played

Exit status: 0, 1 (some sounds could not be recognised: a line for each on stderr) or 2 (none could).
"""
import argparse
import sys

from framealign.runtime import log, settings
from framealign.commands import recognise_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a recogniser's directory")
    parser.add_argument("sound", nargs="+", help="sound files, folders, patterns, or - for a list on standard input; "
                        "any rate, channels, length and format soundfile reads")
    settings.add_flags(parser, recognise_command.RecogniseRun)
    args = parser.parse_args()
    if status := recognise_command.run(args.model, args.sound, settings.from_flags(args, recognise_command.RecogniseRun())):
        sys.exit(status)


if __name__ == "__main__":
    sys.exit(log.command(main))
