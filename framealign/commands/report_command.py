"""Make the pages of a run (again): session<n>/report.html of every finished fold, report.html of all of them.

    bin/report.py runs/iemocap
    bin/report.py runs/iemocap --method tapt
"""
from pathlib import Path

from framealign.corpus import protocols
from framealign.recipe import comparison, results, session_config
from framealign.report import fold_page
from framealign.commands import command_line


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process) and write the pages."""
    parser = command_line.parser("report", __doc__, "run")
    parser.add_argument("run", help="folder of a session run")
    parser.add_argument("--method", default="", choices=("", *session_config.METHODS), metavar="METHOD",
                        help=f"whose training and test is shown ({', '.join(session_config.METHODS)}); default: the "
                        "furthest of the paper's that was run")
    parser.add_argument("--selection", default="", choices=("", *protocols.SELECTIONS), metavar="SELECTION",
                        help=f"the protocol whose folds are shown ({', '.join(protocols.SELECTIONS)}); default: the "
                        "one that was run")
    parser.add_argument("--session", default="all", help="held-out session whose page is made; default all finished")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps; default auto")
    args = parser.parse_args(arguments)

    method = args.method or comparison.default_method({"": Path(args.run)})
    fold_page.write_all(args.run, results.collect(args.run, method, args.selection), args.session, args.device)
