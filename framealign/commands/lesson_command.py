"""Every step of the method as a picture of one utterance, to be read with docs/WALKTHROUGH.md.

    bin/lesson.py runs/demo                             # writes session1/lesson.html there
    bin/lesson.py runs/demo Ses01F_impro01_F000 --session 1
    bin/lesson.py runs/demo a.wav --out lesson.html     # any sound, up to a minute
    bin/lesson.py runs/demo/session1/recogniser a.wav --out lesson.html     # the steps of a recogniser alone
    bin/lesson.py a.wav --out lesson.html               # those of the recogniser that comes along
"""
import argparse
from pathlib import Path

from framealign.runtime import files
from framealign.emotion.recogniser import installed
from framealign.report import lesson
from framealign.commands import command_line


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process) and write the page."""
    parser = command_line.parser("lesson", __doc__, "[models] [sound]")
    parser.add_argument("models", help="folder of a session run with a finished fold of method align, or a "
                        "recogniser's directory, which shows what needs no run; a sound file alone: the recogniser "
                        "that comes along shows it")
    parser.add_argument("sound", nargs="?", default="", help="a sound file or, of a run, the id of an utterance of its "
                        "corpus; default the median one of the test by EDER, or without a truth about frames the best "
                        "recognised")
    parser.add_argument("--session", default="", help="of a run: held-out session whose models are shown; default the "
                        "first finished fold")
    parser.add_argument("--out", default="", metavar="FILE", help="page to write; default session<n>/lesson.html of "
                        "the run, of a recogniser lesson.html")
    args = parser.parse_args(arguments)

    if Path(args.models).is_file() and not args.sound:
        args.models, args.sound = str(installed()), args.models
    check(args)
    if is_recogniser(args.models):
        lesson.write_of_recogniser(args.models, args.sound, args.out or "lesson.html")
    else:
        lesson.write(args.models, args.session, args.sound, args.out)


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for names that are no models with their sound, and a place that cannot be written."""
    if Path(args.models).is_file():
        raise ValueError(f"{args.models}: a file; name a run's folder or a recogniser's directory before the sound")
    if is_recogniser(args.models) and not args.sound:
        raise ValueError(f"{args.models} is a recogniser's directory: name a sound file, too")
    if is_recogniser(args.models) and args.session:
        raise ValueError(f"--session is of a run, {args.models} is a recogniser's directory")
    if args.out and Path(args.out).is_dir():
        raise ValueError(f"--out {args.out}: a folder, must be a file")
    if args.out:
        files.check_writable(Path(args.out).absolute().parent)


def is_recogniser(models: str) -> bool:
    """Whether a name is that of a model's directory; else it is a run's folder."""
    return (Path(models) / "config.json").exists()
