"""What a session run is asked to do: corpus, base model, method and protocol; the methods and what each reports."""
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from framealign.runtime.settings import flag_of, setting
from framealign.corpus import folds, manifest, protocols
from framealign.corpus.importers import iemocap
from framealign.corpus.protocols import SELECTIONS, Split, class_names, merged_labels, merged_words, of_classes
from framealign.corpus.utterance import CLASSES, Utterance
from framealign.units.units import cluster_numbers
from framealign.recipe import preflight

PAPERS = ("finetune", "tapt", "align")              # the paper's methods
METHODS = ("probe", *PAPERS, "multiscale")
TESTED = {"probe": "probe", "finetune": "finetune", "tapt": "tapt-finetune",            # the stage a method reports
          "align": "ser-finetune", "multiscale": "multiscale-finetune"}
FROM_BASE = ("probe", "finetune")                   # methods without pretraining
SHARE = "share"                                     # begins the names of folders with a share of the labels
TINY = Path(__file__).parents[1] / "tiny"           # the committed base model of the preset `tiny`
VOICES = Path(__file__).parents[1] / "voices"       # committed, too: `base`, of the preset `compact`, and `recogniser`


@dataclass(frozen=True)
class SessionConfig:
    """What is run: corpus, base model, method and protocol."""
    corpus: str = setting("", "manifest, or table with a header")
    iemocap: str = setting("", "folder that holds Session1 ... Session5")
    allow_partial: bool = setting(False, "take what is there of an IEMOCAP, and say what is not")
    hubert: str = setting("", "base model: a model directory or file, `tiny` or `voices` (come with the project: "
                        "preset tiny, of synthetic speech; preset compact, of real voices), or `scratch`")
    codebook: str = setting("", "codebook of tapt-units, e.g. the released 500 clusters; without it one is fitted")
    preset: str = setting("base", "size and settings: tiny, compact, small, base or large")
    out: str = setting("runs/session", "folder of all stages")
    session: str = setting("1", "session (or other fold) held out for the test; `all`: each in turn")
    folds: str = setting(
        "session", "what is held out: session (of the corpus), speakers (one by one), a number of balanced groups of "
        "speakers, corpus (each of several, by the manifest's column corpus), or split: the column split says who is "
        "train, valid and test")
    folds_seed: int = setting(0, "seed of the groups of speakers, whatever that of training")
    allow_shared_speakers: bool = setting(
        False, "take a split in which speakers of the test are trained on, too; results say so")
    method: str = setting("", "probe, finetune, tapt, align (default), multiscale; `all`: one by one")
    clusters: str = setting("", "clusters of align, e.g. 50, or of multiscale, e.g. 32,64,128; without it the preset's")
    selection: str = setting("clean", "protocol: clean, last, speaker, reference or best-test")
    validate_on: str = setting(
        "session", "what clean selection validates on: session (a whole training session) or speaker (one of it)")
    label_share: float = setting(
        1.0, "share of the labels known before the test, above 0 to 1: of the training and validation utterances, by "
        "class and speaker, drawn by the seed; the others are unlabelled sound, the test is whole; folds in "
        "`share0.1` ...")
    pretrain_data: str = setting("transductive", "transductive, or inductive: without the held-out session's audio")
    classes: str = setting(",".join(CLASSES), "separated by commas, in the order of the classifier")
    merge: str = setting(
        "", "labels that count as a class, e.g. excited=happy,calm=neutral, or none; default: excited as happy, unless "
        "it is a class")
    allow_missing_classes: bool = setting(
        False, "take a validation or test part without some class; UA and macro-F1 are then over the others")
    frames: bool = setting(
        True, "also train a classifier of frames, for the emotion over time: the recogniser in the stage `frames`")
    frames_start: str = setting(
        "base", "encoder that it starts from: base, or method (the one that the method fine-tunes)")
    bound: bool = setting(
        False, "train one more on the true frames, where they are known: what a classifier of frames may reach at best")
    seed: int = setting(0, "seed of every random draw")
    seeds: str = setting("", "several seeds instead, e.g. 1,2,3: a run of each in `seed1`, `seed2` ...")
    device: str = setting("auto", "auto, cpu, cuda or mps")
    precision: str = setting("auto", "auto, float32 or bfloat16")
    redo: str = setting("", "a stage's name or `all`: remake it where it stands")
    preflight: bool = setting(False, "check all that can be checked before the hours of training, and stop there")

    def __post_init__(self):
        of_clusters = method_of(self.clusters)
        if not self.method:
            object.__setattr__(self, "method", of_clusters)
        if self.clusters and self.method not in (of_clusters, "all"):
            raise ValueError(f"--clusters {self.clusters} is for --method {of_clusters}, got {self.method}")
        for name, known in (("method", (*METHODS, "all")), ("selection", SELECTIONS),
                            ("validate_on", ("session", "speaker")), ("frames_start", ("base", "method")),
                            ("pretrain_data", ("transductive", "inductive"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{flag_of(name)} must be one of {', '.join(known)}, "
                                 f"got {getattr(self, name)}")
        if not 0 < self.label_share <= 1:
            raise ValueError(f"--label-share must be above 0 and at most 1 (0.1: a tenth of the labels), got "
                             f"{self.label_share:g}")
        if bool(self.corpus) == bool(self.iemocap):
            raise ValueError("give either --corpus (a manifest or table) or --iemocap (a folder)")
        if not self.hubert:
            raise ValueError("give the base model: --hubert with a model directory, tiny, voices or scratch")
        if self.bound and not self.frames:
            raise ValueError("--bound is beside the stage `frames`: not with --no-frames")
        merged_labels(self.merge, class_names(self.classes))
        if self.merge and self.iemocap:
            raise ValueError("--iemocap reads the paper's four classes, excited counted as happy; for another --merge "
                             "make a manifest that keeps every label (bin/prepare.py --corpus-kind iemocap DIR --out "
                             "corpus.tsv), and give --corpus corpus.tsv")
        folds.check(self.folds)
        if self.folds == "split":
            if self.session not in ("1", "all", folds.TESTED):
                raise ValueError(f"--folds split holds the part {folds.TESTED} out, got --session {self.session}")
            object.__setattr__(self, "session", folds.TESTED)

    @property
    def run(self) -> Path:
        """Where folds and their results are: `out`, or of a share of the labels a folder of its own in it."""
        return Path(self.out) / share_folder(self.label_share)

    def of(self, method: str) -> "SessionConfig":
        """The same for one of the methods of `all`; clusters go to the one that takes so many."""
        return dataclasses.replace(self, method=method,
                                   clusters=self.clusters if method == method_of(self.clusters) else "")


def base_folder(name: str) -> Path:
    """The directory of a base model: of a name that comes with the project, or the directory that is named."""
    return {"tiny": TINY, "voices": VOICES / "base"}.get(name) or Path(name)


def share_folder(share: float) -> str:
    """The folder of the folds with a share of the labels, in a run's: "share0.1"; "" of all labels."""
    return "" if share == 1 else f"{SHARE}{share:g}"


def method_of(clusters: str) -> str:
    """Which method these numbers of clusters are for: one (or none) `align`, several `multiscale`."""
    return "multiscale" if clusters and len(cluster_numbers(clusters)) > 1 else "align"


def read_utterances(config: SessionConfig) -> list[Utterance]:
    """The corpus, its sound files' headers checked, each utterance's fold in `session` (`folds.in_folds`).

    Utterances of another label than the classes' become unlabelled: pretraining takes their sound, fine-tuning and test
    leave them out. Raises ValueError, with the lines of a table, for a fixed split that shares speakers, unless that is
    allowed.
    """
    if config.iemocap:
        utterances = iemocap.read(config.iemocap, config.allow_partial)
    else:
        utterances = preflight.read_corpus(config.corpus)
    utterances = of_classes(utterances, class_names(config.classes), config.merge)
    utterances = folds.in_folds(utterances, config.folds, config.folds_seed)
    shared = folds.in_two(utterances) if config.folds == "split" and not config.allow_shared_speakers else None
    if shared:
        sides = [f"{one.split} at {manifest.line_of(config.corpus, one)}" for one in shared]
        raise ValueError(f"speaker {shared[0].speaker} is on two sides of the split, {' and '.join(sides)}; the result "
                         "would be optimistic: put each speaker on one side, or take it so, marked, with "
                         "--allow-shared-speakers")
    return utterances


def held_out(config: SessionConfig, utterances: Sequence[Utterance]) -> list[str]:
    """The sessions (or other folds) that are held out, one after another: the one named, or with `all` each."""
    if config.session != "all":
        return [config.session]
    return sorted({u.session for u in utterances if u.label}, key=lambda name: (len(name), name)) or [""]


def splits_of(config: SessionConfig, utterances: Sequence[Utterance], selection: str) -> list[Split]:
    """Who is trained, selected and tested on where `config.session` is held out, as `protocols.split`; training and
    selection with the share of the labels that is known.
    """
    whole = protocols.split(utterances, config.session, selection, config.validate_on, class_names(config.classes),
                            config.allow_missing_classes, config.allow_shared_speakers)
    return [protocols.with_label_share(split, config.label_share, config.seed) for split in whole]


def labels_known(config: SessionConfig) -> dict[str, float]:
    """{"label_share": which share of the labels is known before the test}; {} where all are."""
    return {} if config.label_share == 1 else {"label_share": config.label_share}


def protocol_of_test(config: SessionConfig, utterances: Sequence[Utterance], selection: str) -> dict:
    """What the numbers of a test mean, whatever was trained: folds, selection, classes. For records and tables."""
    classes = class_names(config.classes)
    protocol = {"folds": folds.described(config.folds, config.folds_seed), "selection": selection}
    protocol |= labels_known(config)
    if folds.in_two(utterances):
        protocol["speakers"] = folds.SHARED
    if selection == "clean":
        protocol["validate_on"] = config.validate_on
    return protocol | {"classes": classes, "merged": merged_words(merged_labels(config.merge, classes))}


def tested_stage(method: str, selection: str) -> str:
    """The stage whose test a method reports."""
    return named_by_selection(TESTED[method], method, selection)


def frames_stage(method: str, start: str = "method") -> str:
    """The stage with the classifier of frames: `frames` from the base model, which all methods share; else a method's.
    """
    return "frames" if start == "base" or method in FROM_BASE else f"{method}-frames"


def frames_stages_of(method: str) -> list[str]:
    """The stages with a classifier of frames that may stand for a method: its own first, then that of the base model.
    """
    return list(dict.fromkeys([frames_stage(method), frames_stage(method, "base")]))


def frames_stages() -> list[str]:
    """All names of stages with a classifier of frames, and of their bounds."""
    names = dict.fromkeys(map(frames_stage, METHODS))
    return [*names, *(f"{name}-bound" for name in names)]


def named_by_selection(name: str, method: str, selection: str) -> str:
    """A name of a method's stage, page or results; of `tapt` with the selection, where that looks at the test session.

    Phase 1's recogniser is also made for the methods that build on it, honestly selected, so that a run may hold two.
    """
    return f"{name}-{selection}" if method == "tapt" and selection != honest(selection) else name


def foremost(methods: Iterable[str]) -> str:
    """Whose numbers and recogniser stand for a run: the furthest of the paper's methods, else of others; "" of none.

    It depends on what was run and not on the order.
    """
    methods = {*methods}
    return next((method for method in (*reversed(PAPERS), *reversed(METHODS)) if method in methods), "")


def honest(selection: str) -> str:
    """How phase 1's recogniser is selected: never by the test session, whatever is reported in the end."""
    return selection if selection in ("clean", "last") else "clean"
