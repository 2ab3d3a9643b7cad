"""The numbers of a run with the protocol beside them: per fold, pooled, by subset, over seeds, against another run.

    bin/evaluate.py runs/iemocap                        # writes results.json there
    bin/evaluate.py runs/iemocap --method all           # the ablation: finetune, tapt, align with paired differences
    bin/evaluate.py --compare runs/iemocap:tapt runs/iemocap:align      # or two runs, or two predictions.csv
"""
from framealign.runtime import log
from framealign.corpus import protocols
from framealign.recipe import comparison, session_config
from framealign.commands import command_line


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process) and print a table."""
    parser = command_line.parser("evaluate", __doc__, "[run]")
    parser.add_argument("run", nargs="?", help="folder of a session run, or of several seeds")
    parser.add_argument("--method", default="", choices=("", *session_config.METHODS, "all"), metavar="METHOD",
                        help=f"{', '.join(session_config.METHODS)}, or all beside each other; default: the furthest "
                        "that was run")
    parser.add_argument("--selection", default="", choices=("", *protocols.SELECTIONS), metavar="SELECTION",
                        help=f"the protocol whose folds are shown ({', '.join(protocols.SELECTIONS)}); default: the "
                        "one that was run")
    parser.add_argument("--compare", nargs=2, metavar="RUN",
                        help="paired differences of two runs on the same utterances: RUN, RUN:METHOD or a "
                        "predictions.csv")
    args = parser.parse_args(arguments)

    if bool(args.run) == bool(args.compare):
        raise ValueError("give either a run's folder or --compare with two; --help shows examples")
    if args.compare:
        log.say(comparison.comparison(*args.compare, args.method, args.selection))
    else:
        log.say(run(args.run, args.method, args.selection))


def run(folder: str, method: str, selection: str) -> str:
    """The table of a finished run: of one method (the furthest, unless named), or of `all` beside each other.

    Of a run over seeds it is the table of seeds. Also written to `results.json`. Raises ValueError where nothing is
    finished.
    """
    runs = comparison.seeds_of(folder)
    methods = [method or comparison.default_method(runs)]
    if method == "all":
        methods = comparison.finished_methods(runs)
        if not methods:
            every = " for every seed" if len(runs) > 1 else ""
            raise ValueError(f"{folder}: no method has finished folds{every}; run bin/session.py --method all first")
    collected = comparison.collect(runs, methods, selection)
    comparison.write(runs, collected)
    return comparison.ablation(collected) if method == "all" else comparison.table(collected)
