"""The numbers of a run with the protocol beside them: per fold, pooled, by subset, over seeds, against another run.

And those of a recogniser, or of several runs' recognisers, on other corpora; of runs that know few labels and many.

    bin/evaluate.py runs/iemocap                        # writes results.json there
    bin/evaluate.py runs/iemocap --method all           # the ablation: finetune, tapt, align with paired differences
    bin/evaluate.py --compare runs/iemocap:tapt runs/iemocap:align      # or two runs, or two predictions.csv
    bin/evaluate.py runs/iemocap/session1/recogniser --on ravdess.tsv joined/corpus.tsv     # any labelled corpora
    bin/evaluate.py --matrix runs/emodb runs/ravdess --on emodb.tsv ravdess.tsv --out matrix.html
    bin/evaluate.py --shares runs/emodb runs/nemo --out shares.html     # of few and many labels (session --label-share)
"""
import argparse
from collections.abc import Sequence
from pathlib import Path

from framealign.runtime import files, log, settings
from framealign.corpus import protocols
from framealign.recipe import comparison, cross_corpus, evaluation, label_shares, session_config
from framealign.recipe.evaluation import Corpus, EvaluationConfig, Model
from framealign.recipe.trained_on import TrainedOn
from framealign.report import matrix_page, shares_page
from framealign.commands import command_line


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process) and print a table."""
    parser = command_line.parser("evaluate", __doc__, "[run]")
    parser.add_argument("run", nargs="?", help="folder of a session run, or of several seeds; with --on a "
                        "recogniser's directory")
    parser.add_argument("--method", default="", choices=("", *session_config.METHODS, "all"), metavar="METHOD",
                        help=f"{', '.join(session_config.METHODS)}, or all beside each other; default: the furthest "
                        "that was run")
    parser.add_argument("--selection", default="", choices=("", *protocols.SELECTIONS), metavar="SELECTION",
                        help=f"the protocol whose folds are shown ({', '.join(protocols.SELECTIONS)}); default: the "
                        "one that was run")
    parser.add_argument("--compare", nargs=2, metavar="RUN",
                        help="paired differences of two runs on the same utterances: RUN, RUN:METHOD, RUN:frames or "
                        "a predictions.csv")
    parser.add_argument("--matrix", nargs="+", metavar="RUN",
                        help="with --on: the cross-corpus matrix, a row for each RUN, RUN:METHOD, RUN:frames or "
                        "recogniser's directory")
    parser.add_argument("--shares", nargs="+", metavar="RUN",
                        help="every share of the labels that each RUN has (session --label-share): UA of each method, "
                        "EDER, paired differences to finetune; with --on, a joined table for each RUN, EDER on these")
    parser.add_argument("--on", nargs="+", metavar="TABLE",
                        help="test the recogniser on these labelled corpora, whatever they are; where the truth about "
                        "frames is known (made by prepare --join, ZED, a column truth), over time too")
    parser.add_argument("--json", default="", metavar="FILE", help="of --on and --shares: also write the scores here")
    parser.add_argument("--predictions", default="", metavar="FILE",
                        help="of --on: also write what is predicted, as CSV; of several tables a folder for them")
    parser.add_argument("--out", default="", metavar="FILE",
                        help="of --matrix: a page; beside it, in a folder of its name, each cell with its predictions "
                        "is kept, and the same command continues; of --shares: a page, or the curves alone as .svg")
    settings.add_flags(parser, EvaluationConfig)
    args = parser.parse_args(arguments)

    check(args)
    config = settings.from_flags(args, EvaluationConfig())
    if args.shares:
        of_shares(args.shares, args.on or [], config, args)
    elif args.matrix:
        on_each_other(args.matrix, args.on, config, args.out, args.json)
    elif args.on:
        on_corpora(args.run, args.on, config, args.predictions, args.json)
    elif args.compare:
        log.say(comparison.comparison(*args.compare, args.method, args.selection))
    else:
        log.say(run(args.run, args.method, args.selection))


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for flags that do not belong together, or a place that cannot be written."""
    if args.shares and args.method:
        raise ValueError("--shares shows every method: not with --method")
    if args.shares and args.on and len(args.on) != len(args.shares):
        raise ValueError(f"--on of --shares is a table for each run: {len(args.shares)}, got {len(args.on)}")
    if args.matrix and not args.on:
        raise ValueError("--matrix needs corpora to test on: --on TABLE ...; --help shows an example")
    if args.on and not (args.run or args.matrix or args.shares):
        raise ValueError("--on needs a recogniser's directory before it (or --matrix); --help shows an example")
    if bool(args.run) + bool(args.compare) + bool(args.matrix) + bool(args.shares) != 1:
        raise ValueError("give either a run's folder or --compare with two, or --matrix or --shares with some; --help "
                         "shows examples")
    if args.matrix and args.predictions:
        raise ValueError("--predictions is of one recogniser; a matrix keeps those of its cells beside --out")
    for name, needs in (("json", ("on", "shares")), ("predictions", ("on",)), ("out", ("matrix", "shares"))):
        place = getattr(args, name)
        if place and not any(getattr(args, need) for need in needs):
            raise ValueError(f"--{name} is of --{' and --'.join(needs)}; --help shows examples")
        if place and Path(place).is_dir() and (name != "predictions" or len(args.on) == 1):
            raise ValueError(f"--{name} {place}: a folder, must be a file")
        if place and name == "out" and args.shares and Path(place).suffix not in (".html", ".svg"):
            raise ValueError(f"--out {place}: must be a page or a picture, named .html or .svg")
        if place and name == "out" and not Path(place).suffix:
            raise ValueError(f"--out {place}: must be a page, as {place}.html; its cells are kept in {place}")
        if place:
            files.check_writable(Path(place).absolute().parent)


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


def on_corpora(model: str, tables: Sequence[str], config: EvaluationConfig, predictions: str, json: str) -> None:
    """Test a recogniser on labelled corpora and print a table of each; write predictions and scores where asked to.

    predictions: a file, of several corpora a folder. Raises ValueError as `evaluation.test`, before anything is
    written.
    """
    names = cross_corpus.short_names(tables)
    models = [Model(Path(model), TrainedOn.read(model))]
    tested = {table: evaluation.test(models, Corpus(table), config) for table in tables}
    scores = {table: {"model": model, "corpus": table} | evaluation.scores_of(one, config)
              for table, one in tested.items()}
    if predictions:
        for name, one in zip(names, tested.values()):
            several = Path(predictions) / f"{cross_corpus.file_name(name)}.csv"
            one.sides[0].write(several if len(tables) > 1 else predictions)
    if json:
        files.write_json(json, scores[tables[0]] if len(tables) == 1 else {"corpora": list(scores.values())})
    log.say("\n\n".join(evaluation.table(model, table, one) for table, one in scores.items()))


def of_shares(runs: Sequence[str], tables: Sequence[str], config: EvaluationConfig, args: argparse.Namespace) -> None:
    """Print the tables of runs with several shares of the labels; write page or picture, and scores, where asked to.

    tables: one for each run, or none, on which EDER is measured. Raises ValueError as `label_shares.measured`, before
    anything is written.
    """
    cross_corpus.short_names(runs)                  # none is given twice
    of_runs = [label_shares.measured(run, args.selection, on, config)
               for run, on in zip(runs, tables or [""] * len(runs))]
    if args.json:
        files.write_json(args.json, {"runs": of_runs})
    log.say(label_shares.text(of_runs))
    if args.out:
        shares_page.write(args.out, of_runs)
        log.say(f"{args.out}: open it in a browser")


def on_each_other(rows: Sequence[str], columns: Sequence[str], config: EvaluationConfig, out: str, json: str) -> None:
    """Print the cross-corpus matrix, and write its page where asked to. Raises ValueError, at the end, naming the cells
    that failed.
    """
    matrix = cross_corpus.run(rows, columns, config, Path(out).with_suffix("") if out else None)
    if json:
        files.write_json(json, matrix)
    log.say(cross_corpus.text(matrix))
    if out:
        matrix_page.write(out, matrix)
        log.say(f"{out}: open it in a browser")
    failed = cross_corpus.failures(matrix)
    if failed:
        more = f" | and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise ValueError(f"{len(failed)} of {len(rows) * len(columns)} cells failed: {' | '.join(failed[:3])}{more}")
