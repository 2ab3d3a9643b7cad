"""The numbers of a run with the protocol beside them: per fold, pooled, by subset, over seeds, against another run.

And those of a recogniser on another corpus.

    bin/evaluate.py runs/iemocap                        # writes results.json there
    bin/evaluate.py runs/iemocap --method all           # the ablation: finetune, tapt, align with paired differences
    bin/evaluate.py --compare runs/iemocap:tapt runs/iemocap:align      # or two runs, or two predictions.csv
    bin/evaluate.py runs/iemocap/session1/recogniser --on joined/corpus.tsv     # the emotion over time, by its truth
"""
from pathlib import Path

from framealign.runtime import files, log
from framealign.corpus import frame_truth, protocols
from framealign.corpus.utterance import class_of
from framealign.emotion import diarization, planted_truth
from framealign.emotion.recogniser import Recogniser
from framealign.emotion.segments import MIN_SECONDS, check_smoothing
from framealign.recipe import comparison, preflight, results, session_config
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
    parser.add_argument("--on", metavar="TABLE",
                        help="score a recogniser on this labelled corpus, of which the truth about frames is known: "
                        "one made by prepare --join, ZED, a table with a column truth")
    parser.add_argument("--smooth", type=float, default=MIN_SECONDS, metavar="SECONDS",
                        help=f"of --on: no segment is shorter (default {MIN_SECONDS:g}, as of recognise)")
    parser.add_argument("--json", default="", metavar="FILE", help="of --on: also write the scores here")
    parser.add_argument("--device", default="auto", help="of --on: auto, cpu, cuda or mps")
    args = parser.parse_args(arguments)

    if args.on and not args.run:
        raise ValueError("--on needs a recogniser's directory before it; --help shows an example")
    if bool(args.run) == bool(args.compare):
        raise ValueError("give either a run's folder or --compare with two; --help shows examples")
    if args.json:
        files.check_writable(Path(args.json).absolute().parent)
    if args.on:
        scores = on_corpus(args.run, args.on, args.smooth, args.device)
        if args.json:
            files.write_json(args.json, scores)
        log.say(corpus_table(scores))
    elif args.compare:
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


def on_corpus(model: str, table: str, min_seconds: float, device: str) -> dict:
    """Scores of a recogniser on a labelled corpus: {"model", "corpus", "smooth_seconds", "over_time"}.

    "over_time": of the utterances whose truth about frames is known (`diarization.scores`). Raises ValueError for a
    corpus without such, or none of the recogniser's classes, and as `check_smoothing`.
    """
    check_smoothing(min_seconds)
    recogniser, utterances = Recogniser.from_pretrained(model, device), preflight.read_corpus(table)
    if not any(class_of(utterance.label, recogniser.labels) for utterance in utterances):
        raise ValueError(f"{table}: no label is one of the recogniser's classes, {', '.join(recogniser.labels)}")
    if not any(map(frame_truth.exists, utterances)):
        raise ValueError(f"{table}: of no utterance is it known when it is emotional; give a corpus that was joined "
                         "(bin/prepare.py --join), ZED, or a table with a column truth")
    labelled = protocols.of_classes(utterances, recogniser.labels)
    recognised = planted_truth.recognised(recogniser, labelled)
    return {"model": model, "corpus": table, "smooth_seconds": min_seconds,
            "over_time": diarization.scores(recognised, min_seconds)}


def corpus_table(scores: dict) -> str:
    """`on_corpus` as text: a line for each score."""
    over_time = scores["over_time"]
    rows = [[name, results.over_time_cell(over_time, key)] for key, (name, _) in results.OVER_TIME.items()]
    lines = [f"{line}  {words}" for line, (_, words) in zip(results.aligned(rows), results.OVER_TIME.values())]
    return "\n".join([f"{scores['model']} on {scores['corpus']}: {over_time['num_utterances']} utterances, segments of "
                      f"at least {scores['smooth_seconds']:g} s; % of the time, AUC and F1", *lines])
