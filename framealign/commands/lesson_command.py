"""Every step of the method as a picture of one utterance: session<n>/lesson.html, to be read with docs/WALKTHROUGH.md.

    bin/lesson.py runs/demo
    bin/lesson.py runs/demo --session 1 --sound Ses01F_impro01_F000
"""
from framealign.report import lesson
from framealign.commands import command_line


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process) and write the page."""
    parser = command_line.parser("lesson", __doc__, "run")
    parser.add_argument("run", help="folder of a session run with a finished fold of method align")
    parser.add_argument("--session", default="", help="held-out session whose models are shown; default the first "
                        "finished fold")
    parser.add_argument("--sound", default="", help="id of an utterance of the corpus; default the median one of "
                        "the test by EDER, or without a truth about frames the best recognised")
    args = parser.parse_args(arguments)

    lesson.write(args.run, args.session, args.sound)
