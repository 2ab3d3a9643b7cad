"""Make a manifest, corpus.tsv, out of a corpus, and print a summary of it.

    bin/prepare.py --iemocap /data/IEMOCAP_full_release --out corpus.tsv
    bin/prepare.py --table emodb.tsv --out corpus.tsv
"""
import argparse
from pathlib import Path

from framealign.runtime import files, log
from framealign.corpus import manifest, utterance
from framealign.corpus.importers import iemocap
from framealign.corpus.utterance import Utterance
from framealign.recipe import preflight
from framealign.commands import command_line


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process) and make the manifest."""
    parser = command_line.parser("prepare", __doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--iemocap", metavar="DIR", help="folder that holds Session1 to Session5")
    source.add_argument("--table", "--fairseq", metavar="FILE",
                        help="CSV or TSV with a header naming path, and label (or emotion) where there are labels; or "
                        "a fairseq .tsv: root folder, then path<TAB>number of samples")
    parser.add_argument("--out", required=True, metavar="FILE", help="manifest to write, e.g. corpus.tsv")
    parser.add_argument("--allow-partial", action=argparse.BooleanOptionalAction, default=False,
                        help="take what is there of an IEMOCAP: leave out what is missing or cannot be read, and say "
                        "so (default: an error)")
    parser.add_argument("--excited", action=argparse.BooleanOptionalAction, default=True,
                        help="IEMOCAP's excited counts as happy, 5531 utterances (default), or is left out, 4490")
    args = parser.parse_args(arguments)

    files.check_writable(Path(args.out).absolute().parent)                  # before headers are read for minutes
    utterances = read(args)
    manifest.write(args.out, utterances)
    log.say(utterance.summary(utterances))
    log.say(f"{args.out}: {len(utterances)} utterances")


def read(args: argparse.Namespace) -> list[Utterance]:
    """The utterances of the source that was named. Raises ValueError for a corpus that cannot be taken."""
    if args.iemocap:
        return iemocap.read(args.iemocap, args.allow_partial, args.excited)
    return preflight.read_corpus(args.table)
