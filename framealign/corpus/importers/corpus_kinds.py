"""The corpora that have an importer, by the name of their kind; which of them a folder is, by its layout."""
import re

from framealign.corpus.importers import (aesdd, casia, crema_d, emo_db, emov_db, emovo, esd, iemocap, jl, meld,
                                         msp_improv, msp_podcast, nemo, ravdess, savee, subesco, tess, urdu, zed)
from framealign.corpus.importers.published_corpus import CorpusFolder, PublishedCorpus
from framealign.corpus.utterance import Utterance

KINDS: dict[str, PublishedCorpus] = {
    "iemocap": iemocap.CORPUS, "ravdess": ravdess.CORPUS, "crema-d": crema_d.CORPUS, "emodb": emo_db.CORPUS,
    "savee": savee.CORPUS, "tess": tess.CORPUS, "meld": meld.CORPUS, "esd": esd.CORPUS, "emov-db": emov_db.CORPUS,
    "jl": jl.CORPUS, "urdu": urdu.CORPUS, "subesco": subesco.CORPUS, "aesdd": aesdd.CORPUS, "nemo": nemo.CORPUS,
    "emovo": emovo.CORPUS, "casia": casia.CORPUS, "msp-improv": msp_improv.CORPUS, "msp-podcast": msp_podcast.CORPUS,
    "zed": zed.CORPUS}


def read(folder: CorpusFolder, kind: str, allow_partial: bool = False) -> list[Utterance]:
    """The utterances of the corpus of this kind in a folder: see `PublishedCorpus.read`. EMO-DB is emodb, too.

    Raises ValueError for a kind that no importer has, and where the corpus cannot be taken.
    """
    by_letters = {_letters(name): corpus for name, corpus in KINDS.items()}
    if _letters(kind) not in by_letters:
        raise ValueError(f"--corpus-kind must be one of {', '.join(KINDS)}, got {kind!r}")
    return by_letters[_letters(kind)].read(folder, allow_partial)


def _letters(kind: str) -> str:
    """A kind without case, hyphens, underscores and blanks."""
    return re.sub(r"[-_ ]", "", kind.lower())


def guess(folder: CorpusFolder) -> str:
    """The kind of corpus that a folder looks like: half of its sounds or more are named so, or its tables are there.

    Raises ValueError where it looks like none of them or like several.
    """
    shares = {kind: corpus.share_of(folder) for kind, corpus in KINDS.items()}
    kinds = [kind for kind, share in shares.items() if share >= 0.5]
    if len(kinds) > 1:
        raise ValueError(f"{folder.root}: may be any of {', '.join(kinds)}; say which with --corpus-kind, or give the "
                         "folder of one corpus")
    if not kinds:
        parts = "".join(f", {100 * share:.0f} % named as in {KINDS[kind].name}"
                        for kind, share in shares.items() if share)
        raise ValueError(f"{folder.root}: laid out as none of the corpora {', '.join(KINDS)} ({len(folder.sounds)} "
                         f"sound files{parts}); give the folder of one corpus, unpacked, or a table to --table")
    return kinds[0]
