"""Make a manifest, corpus.tsv, out of a corpus, and print a summary of it.

    bin/prepare.py --iemocap /data/IEMOCAP_full_release --out corpus.tsv
    bin/prepare.py --corpus-kind ravdess /data/RAVDESS --out ravdess.tsv    # every label; the kind may be left out
    bin/prepare.py --table emodb.tsv --out corpus.tsv
    bin/prepare.py --zed ZED/ZED.json --out zed.tsv
    bin/prepare.py --join corpus.tsv --out joined/corpus.tsv      # utterances in which every frame's emotion is known
    bin/prepare.py --together ravdess.tsv nemo.tsv --out all.tsv  # several corpora as one
"""
import argparse
from collections import Counter
from pathlib import Path

from framealign.runtime import files, log
from framealign.sound.frames import SAMPLE_RATE
from framealign.corpus import frame_truth, joining, manifest, protocols, several_corpora, utterance
from framealign.corpus.importers import corpus_kinds, iemocap, zed
from framealign.corpus.importers.published_corpus import CorpusFolder
from framealign.corpus.utterance import Utterance
from framealign.recipe import preflight
from framealign.commands import command_line


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process) and make the manifest."""
    parser = command_line.parser("prepare", __doc__, "[FOLDER]")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("folder", nargs="?", metavar="FOLDER", help="folder of a published corpus, unpacked")
    source.add_argument("--iemocap", metavar="DIR", help="folder that holds Session1 to Session5")
    source.add_argument("--table", "--fairseq", metavar="FILE",
                        help="CSV or TSV with a header naming path, and label (or emotion) where there are labels; or "
                        "a fairseq .tsv: root folder, then path<TAB>number of samples")
    source.add_argument("--zed", metavar="FILE", help="ZED.json, in the folder of its sounds")
    source.add_argument("--join", metavar="FILE", help="a labelled table: each emotional utterance is put among "
                        "neutral ones of its speaker, into a new sound file in the folder of --out (must be empty)")
    source.add_argument("--together", metavar="TABLE", nargs="+", help="tables of several corpora, labelled or not, as "
                        "one. The column corpus says which an utterance is of: what its table's own says, else the "
                        "table's name without suffix. It is put before ids, speakers and sessions, as ravdess-03, "
                        "unless all of a corpus have it already. Labels get the usual spelling, in lower case, so that "
                        "anger and Angry are one: angry")
    parser.add_argument("--corpus-kind", default="", metavar="KIND", help="which corpus FOLDER holds (default: guessed "
                        f"from its layout): {', '.join(corpus_kinds.KINDS)}")
    parser.add_argument("--out", required=True, metavar="FILE", help="manifest to write, e.g. corpus.tsv")
    parser.add_argument("--classes", default="", metavar="A,B,...", help="of --join: labels that take part, usual "
                        "spellings merged (default: all, as they are)")
    parser.add_argument("--merge", default="", metavar="LABEL=CLASS,...", help="with --classes: labels that count as a "
                        "class, e.g. excited=happy,calm=neutral, or none (default: excited as happy, unless it is a "
                        "class)")
    parser.add_argument("--seed", type=int, default=0, help="of --join: draws orders and company")
    parser.add_argument("--one-speaker", action=argparse.BooleanOptionalAction, default=False,
                        help="of --join: refuse a speaker without neutral utterances (default: those of others of the "
                        "session are taken, and a note says so)")
    parser.add_argument("--allow-partial", action=argparse.BooleanOptionalAction, default=False,
                        help="take what is there of a published corpus: leave out what is missing or cannot be read, "
                        "and say so (default: an error)")
    parser.add_argument("--excited", action=argparse.BooleanOptionalAction, default=True,
                        help="IEMOCAP's excited counts as happy, 5531 utterances (default), or is left out, 4490")
    args = parser.parse_args(arguments)
    if args.corpus_kind and not args.folder:
        parser.error("--corpus-kind says what FOLDER holds: give the folder too")

    if args.merge and not (args.join and args.classes):
        raise ValueError("--merge says what labels count as among the --classes of --join; give both")
    files.check_writable(Path(args.out).absolute().parent)                  # before headers are read for minutes
    utterances = read(args)
    manifest.write(args.out, utterances)
    log.say(utterance.summary(utterances))
    if args.join:
        log.say(joined_summary(utterances))
    log.say(f"{args.out}: {len(utterances)} utterances")


def read(args: argparse.Namespace) -> list[Utterance]:
    """The utterances of the source that was named. Raises ValueError for a corpus that cannot be taken."""
    if args.folder:
        return read_folder(args.folder, args.corpus_kind, args.allow_partial)
    if args.iemocap:
        return iemocap.read(args.iemocap, args.allow_partial, args.excited)
    if args.zed:
        return zed.read(args.zed, args.allow_partial)
    if args.join:
        utterances = preflight.read_corpus(args.join)
        if args.classes:
            utterances = protocols.of_classes(utterances, protocols.class_names(args.classes), args.merge)
        return joining.write_corpus(Path(args.out).absolute().parent, utterances, args.seed, args.one_speaker)
    if args.together:
        return several_corpora.together([(table, preflight.read_corpus(table)) for table in args.together])
    return preflight.read_corpus(args.table)


def read_folder(folder: str, kind: str, allow_partial: bool) -> list[Utterance]:
    """The utterances of a published corpus's folder, of the given kind or, "", of the one that it looks like."""
    there = CorpusFolder(folder)
    if kind:
        return corpus_kinds.read(there, kind, allow_partial)
    kind = corpus_kinds.guess(there)
    utterances = corpus_kinds.read(there, kind, allow_partial)
    log.say_once(f"{folder}: taken for {corpus_kinds.KINDS[kind].name} (--corpus-kind {kind}), by its layout")
    return utterances


def joined_summary(utterances: list[Utterance]) -> str:
    """How many joined utterances have each pattern, and what share of their time is emotional."""
    patterns = Counter(utterance.style for utterance in utterances)
    emotional = sum(stretch.end - stretch.start for utterance in utterances
                    for stretch in frame_truth.stretches(utterance))
    seconds = sum(utterance.num_samples for utterance in utterances) / SAMPLE_RATE
    listed = ", ".join(f"{pattern} {number}" for pattern, number in sorted(patterns.items()))
    return f"joined: {listed}; emotional: {100 * emotional / seconds:.1f} % of {seconds / 3600:.2f} hours"
