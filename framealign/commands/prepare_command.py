"""Make a manifest, corpus.tsv, out of a corpus, and print a summary of it.

    bin/prepare.py --iemocap /data/IEMOCAP_full_release --out corpus.tsv
    bin/prepare.py --table emodb.tsv --out corpus.tsv
"""
import argparse

from framealign.runtime import log
from framealign.corpus import manifest, utterance
from framealign.corpus.importers import fairseq_list, iemocap
from framealign.corpus.utterance import Utterance
from framealign.recipe import preflight
from framealign.commands import command_line


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process) and make the manifest."""
    parser = command_line.parser("prepare", __doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--iemocap", metavar="DIR", help="folder that holds Session1 to Session5")
    source.add_argument("--table", metavar="FILE", help="CSV or TSV with a header naming path and label (or emotion)")
    source.add_argument("--fairseq", metavar="FILE",
                        help="fairseq .tsv: root folder, then path<TAB>number of samples; no labels")
    parser.add_argument("--out", required=True, metavar="FILE", help="manifest to write, e.g. corpus.tsv")
    parser.add_argument("--allow-partial", action=argparse.BooleanOptionalAction, default=False,
                        help="take an IEMOCAP whose counts are not the published ones (default: an error)")
    parser.add_argument("--excited", action=argparse.BooleanOptionalAction, default=True,
                        help="IEMOCAP's excited counts as happy, 5531 utterances (default), or is left out, 4490")
    args = parser.parse_args(arguments)

    utterances = read(args)
    manifest.write(args.out, utterances)
    log.say(utterance.summary(utterances))
    log.say(f"{args.out}: {len(utterances)} utterances")


def read(args: argparse.Namespace) -> list[Utterance]:
    """The utterances of the source that was named. Raises ValueError for a corpus that cannot be taken."""
    if args.iemocap:
        return iemocap.read(args.iemocap, args.allow_partial, args.excited)
    utterances = manifest.read(args.table) if args.table else fairseq_list.read(args.fairseq)
    preflight.check_files(utterances)
    return utterances
