#!/usr/bin/env python3
"""Make a manifest, corpus.tsv, out of a corpus, and say what is in it.

    bin/prepare.py --iemocap /data/IEMOCAP_full_release --out corpus.tsv
    bin/prepare.py --table emodb.tsv --out corpus.tsv
"""
import argparse
import sys

from framealign.runtime import log
from framealign.corpus import manifest, utterance
from framealign.corpus.importers import fairseq_list, iemocap
from framealign.recipe import preflight


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--iemocap", metavar="DIR", help="the folder that holds Session1 to Session5")
    source.add_argument("--table", metavar="FILE", help="CSV or TSV with a header naming path and label (or emotion)")
    source.add_argument("--fairseq", metavar="FILE", help="fairseq .tsv: root folder, then path<TAB>samples; no labels")
    parser.add_argument("--out", required=True, metavar="FILE", help="the manifest to write, e.g. corpus.tsv")
    parser.add_argument("--allow-partial", action=argparse.BooleanOptionalAction, default=False,
                        help="take an IEMOCAP whose counts are not the published ones (default: an error)")
    parser.add_argument("--excited", action=argparse.BooleanOptionalAction, default=True,
                        help="IEMOCAP's excited counts as happy, 5531 utterances (default), or is left out, 4490")
    args = parser.parse_args()
    if args.iemocap:
        utterances = iemocap.from_iemocap(args.iemocap, args.allow_partial, args.excited)
    else:
        utterances = manifest.read(args.table) if args.table else fairseq_list.read_fairseq(args.fairseq)
        preflight.check_files(utterances)
    manifest.write(args.out, utterances)
    log.say(utterance.summary(utterances))
    log.say(f"{args.out}: {len(utterances)} utterances")


if __name__ == "__main__":
    sys.exit(log.command(main))
