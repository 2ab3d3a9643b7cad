"""The whole method on a synthetic corpus it makes itself: seven stages, three methods, what is recognised and when.

    bin/demo.py                                     # minutes on a CPU, from the committed tiny base model
    bin/demo.py --corpus emodb.tsv --session 2      # the same on any labelled corpus
    bin/demo.py --make-tiny-base --out runs/tiny-base

It ends with two pages to open in a browser: report.html and lesson.html. Of a corpus of which it is not known when its
utterances are emotional, joined utterances are made for that.
"""
import dataclasses
import multiprocessing
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from framealign.runtime import allocator, distributed, files, log, settings
from framealign.runtime.settings import setting
from framealign.sound import audio
from framealign.sound.frames import SAMPLE_RATE
from framealign.sound.mfcc import mfcc
from framealign.sound.utterance_statistics import LEAST_SAMPLES
from framealign.corpus import folds, frame_truth, joining, manifest, protocols, synthetic_corpus
from framealign.corpus.utterance import CLASSES, NEUTRAL, Utterance
from framealign.units.extraction import state_store
from framealign.units.units import make_units
from framealign.emotion import diarization, metrics, planted_truth
from framealign.emotion.calibration import Calibration
from framealign.emotion.recogniser import Recogniser
from framealign.training import frame_training
from framealign.training.batches import frame_source
from framealign.training.training_config import TrainingRun
from framealign.recipe import presets, results, session_config
from framealign.recipe.recipe import BaseModel, Recipe, base_stages, load_encoder, recorded
from framealign.recipe.results import aligned
from framealign.recipe.session_config import PAPERS, TESTED, SessionConfig
from framealign.recipe.stages import Redo, Stage, nothing_half_made, run_stage, run_stages
from framealign.report import fold_page, lesson
from framealign.commands import command_line

# Of the synthetic corpus:
SETTINGS = {"finetune.epochs": "6",                 # of 384 utterances: 144 updates; the preset's 24 are for fewer,
            "frames.epochs": "8",                   # as are its 16 here
            "frames.mask_start_fraction": "0"}      # masks hide the ends of planted stretches, half a second long
CORPUS_SEED, BASE_SEED = 0, 1000                    # the base model's speakers are none of the demo's
UTTERANCES_PER_SPEAKER = 64
BASE_SESSIONS, BASE_UTTERANCES_PER_SPEAKER = 30, 50


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """What the demonstration runs."""
    out: str = setting("", "folder of the corpus that is made and of all stages; without it runs/demo, to which "
                       "--corpus adds its name")
    corpus: str = setting("", "a labelled manifest, or table with a header, in place of synthetic speech; where it "
                          "does not say when its utterances are emotional, joined ones (prepare --join) of the test "
                          "session are the truth of frames")
    session: str = setting("1", "session (or other fold) held out for the test")
    folds: str = setting("session", "what is held out, as of session")
    classes: str = setting(",".join(CLASSES), "separated by commas, neutral among them")
    merge: str = setting("", "of --corpus: labels that count as a class, e.g. excited=happy,calm=neutral, or none")
    seed: int = setting(0, "seed of training; what is made, a corpus or joined utterances, has a seed of its own")
    device: str = setting("auto", "auto, cpu, cuda or mps")
    hubert: str = setting(
        "tiny", "base model: `tiny` or `voices` (come with the project), a model directory, or `scratch`")
    preset: str = setting("tiny", "size and settings of the base model's, as of session")
    make_tiny_base: bool = setting(False, "pretrain the base model framealign/tiny again, instead of the demo")

    def __post_init__(self):
        if self.corpus and self.make_tiny_base:
            raise ValueError("--make-tiny-base trains on speech that it makes itself: not with --corpus")
        if not self.out:
            object.__setattr__(self, "out", f"runs/demo-{Path(self.corpus).stem}" if self.corpus else "runs/demo")

    @property
    def kind_of_fold(self) -> str:
        """What is held out: a session, a speaker, a group or a part."""
        return folds.kind_of(folds.described(self.folds))


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process) and run the demonstration."""
    parser = command_line.parser("demo", __doc__)
    settings.add_flags(parser, DemoConfig)
    settings.add_old_names(parser, "--run")
    command_line.add_overrides(parser, "the preset")
    args = parser.parse_args(arguments)

    config = DemoConfig(**settings.given_flags(args, DemoConfig))   # the default of `out` depends on the others
    with command_line.ranks(config.device):
        action = make_tiny_base if config.make_tiny_base else run
        action(config, presets.parse_settings(args.overrides))


def run(config: DemoConfig, overrides: dict[str, str]) -> dict:
    """Run the three methods on one fold, measure, draw: the numbers as written to `demo.json`.

    What starts from the base model waits for no other stage: a second process trains method finetune, the stage
    `frames` and its bound, and measures them. Raises ValueError under torchrun, for a corpus that cannot be joined or
    held out so, and for a folder with another corpus.
    """
    if distributed.world_size() > 1:
        raise ValueError("the demo runs in two processes of its own; start it without torchrun")
    torch.set_num_threads(1)                        # so small a model waits for a second thread more than it gains;
    began, root = time.monotonic(), Path(config.out)    # and the numbers are the same on any number of cores
    overrides = ({} if config.corpus else SETTINGS) | overrides
    first = recipe_config(config, PAPERS[0])
    config = dataclasses.replace(config, session=first.session)     # of a fixed split the part
    if config.corpus:
        recipe = Recipe(first, overrides)
        check_corpus(recipe)
    else:
        check_folder(root, "")
        make_corpus(root / "corpus", CORPUS_SEED, 5, UTTERANCES_PER_SPEAKER)
        recipe = Recipe(first, overrides)
    joined = [] if all(map(frame_truth.exists, recipe.utterances)) else joined_utterances(recipe)

    make_what_both_read(recipe)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), begin_second_process) as second:
        try:
            finetune = dataclasses.replace(recipe_config(config, PAPERS[0]), frames=True, bound=not joined)
            beside = second.submit(in_second_process, finetune, overrides, recipe.utterances, recipe.base, joined)
            rows: dict[str, dict] = {}
            for method in PAPERS[1:]:
                log.say(f"== method {method}")
                recipe = Recipe(recipe_config(config, method), overrides, recipe.utterances, recipe.base)
                recipe.run()
                rows[method] = measured(recipe, TESTED[method], joined)
                if beside.done():
                    beside.result()                 # a mistake there ends this one too
            of_base, baselines = beside.result()
        except BaseException:                       # a mistake, or asked to stop: not when the second is through
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    rows |= of_base
    rows = {name: rows[name] for name in (*PAPERS, "frames", "frames-bound") if name in rows}
    numbers = {"methods": rows, "utterance_means_ua": baselines, "joined_utterances": len(joined),
               "seconds": round(time.monotonic() - began, 1)}
    files.write_json(root / "demo.json", numbers)

    name = rows["frames"]["alignment"]["median_utterance"]
    example = next(utterance for utterance in joined or recipe.utterances if utterance.id == name)
    pages = write_pages(config, example if joined else name)
    log.say(summary(numbers, config))
    log.say(closing(config, numbers, example.path, pages))
    return numbers


def recipe_config(config: DemoConfig, method: str) -> SessionConfig:
    """One method of the recipe, on the corpus that was given or is made in `config.out`."""
    source = {"corpus": config.corpus}
    if not config.corpus:
        source = {"iemocap": str(Path(config.out) / "corpus"), "allow_partial": True}
    return SessionConfig(**source, hubert=config.hubert, preset=config.preset, out=config.out, session=config.session,
                         folds=config.folds, classes=config.classes, merge=config.merge, method=method, frames=False,
                         seed=config.seed, device=config.device)


def check_corpus(recipe: Recipe) -> None:
    """Raise ValueError where a given corpus lacks what the demo needs, or the run's folder holds another one's stages.
    """
    corpus = recipe.config.corpus
    if not any(utterance.label == NEUTRAL for utterance in recipe.utterances):
        raise ValueError(f"{corpus}: no utterance is labelled {NEUTRAL}, and emotional ones are joined with such; say "
                         f"with --classes and --merge which label counts as {NEUTRAL}, or run bin/session.py, which "
                         "needs none")
    split, = recipe.splits("clean")
    lacking = frame_training.lacking(split.train, recipe.classes)
    if lacking:
        raise ValueError(f"{corpus}: {lacking}; run bin/session.py, which then leaves out the stage frames")
    check_folder(recipe.root, recipe.common["corpus"])


def check_folder(root: Path, corpus: str) -> None:
    """Raise ValueError where a run's folder holds stages of another corpus. corpus: its description, "" of the
    synthetic one.
    """
    if not corpus and (root / "corpus" / "synthetic.json").exists():
        return
    for _, recorded_settings in recorded(root):
        other = recorded_settings["corpus"]
        if other != corpus:
            raise ValueError(f"{root}: holds stages of another corpus, {other}, not of "
                             f"{corpus or 'synthetic speech'}; choose another --out folder")


def of_test_session(recipe: Recipe) -> list[Utterance]:
    """The utterances of the session that is held out."""
    return [utterance for utterance in recipe.utterances if utterance.session == recipe.config.session]


def joined_utterances(recipe: Recipe) -> list[Utterance]:
    """Joined utterances of the test session, as `bin/prepare.py --join` makes them: in the fold's folder `joined`.

    Raises ValueError as `joining.write_corpus`.
    """
    test = of_test_session(recipe)

    def make(folder: Path) -> None:
        shutil.rmtree(folder / "sounds", ignore_errors=True)        # of an interrupted demo
        manifest.write(folder / "corpus.tsv", joining.write_corpus(folder / "sounds", test, CORPUS_SEED))

    settings = {"corpus": recipe.common["corpus"], **recipe.of_labels, "seed": CORPUS_SEED}
    stage = Stage("joined", recipe.fold / "joined", ("corpus.tsv",), settings, [], make)
    run_stage(stage, Redo(recipe.root))
    return manifest.read(stage.product("corpus.tsv"))


def make_what_both_read(recipe: Recipe) -> None:
    """The base model, where it is made from scratch, and the conv features of all sounds: what two processes read."""
    place = recipe.root / "frontend"
    with nothing_half_made(place):
        stages = base_stages(recipe)
        run_stages(stages, Redo(recipe.root))
        hubert = load_encoder(stages[-1].model, recipe.config.seed)
        run = TrainingRun(recipe.root, recipe.device, frontend=place)
        frame_source(hubert, recipe.utterances, recipe.preset.finetune, run)


def begin_second_process() -> None:
    """It computes as the first one does: `run`, `command_line.ranks`."""
    torch.set_num_threads(1)
    allocator.keep_freed_memory()


def in_second_process(config: SessionConfig, overrides: dict[str, str], utterances: list[Utterance], base: BaseModel,
                      joined: list[Utterance]) -> tuple[dict[str, dict], dict[str, float]]:
    """Train method finetune, the stage `frames` and, with `config.bound`, `frames-bound`: their results, and the
    baselines' UA.
    """
    log.say("== beside it, in a second process: method finetune, and which frames")
    recipe = Recipe(config, overrides, utterances, base)
    recipe.run()
    split, = recipe.splits("clean")
    baselines = {name: baseline(split, recipe.classes, features) for name, features in
                 (("pitch and energy", pitch_and_energy), ("MFCC", mfcc_mean))}
    stages = ("finetune", "frames", "frames-bound")[:2 + config.bound]
    return {stage: measured(recipe, stage, joined) for stage in stages}, baselines


def measured(recipe: Recipe, stage: str, joined: list[Utterance]) -> dict:
    """The results of a stage that was tested, with its `alignment`."""
    tested = files.read_json(recipe.fold / stage / "results.json")
    return tested | {"alignment": alignment(recipe, stage, joined)}


def alignment(recipe: Recipe, stage: str, joined: list[Utterance]) -> dict:
    """How well a stage's recogniser aligns with the truth of frames: of joined utterances, where there are some.

    Else of the test session, and its own units with that of all utterances.
    """
    test = joined or of_test_session(recipe)
    place = recipe.fold / stage / "recogniser"
    recogniser = Recogniser.from_pretrained(place, recipe.config.device)
    recogniser.model.calibration = Calibration()    # what the weights tell: a temperature moves ranks of p a little
    recognised = planted_truth.recognised(recogniser, test)
    scores = planted_truth.frame_auc(recognised) | {"median_utterance": diarization.median(recognised).id}
    if joined:
        return scores | {"over_time": diarization.scores(recognised)}
    tested = files.read_json(recipe.fold / stage / "results.json")
    return scores | {"over_time": tested["over_time"],
                     "units_nmi": units_nmi(recipe, place, recipe.fold / stage / "states")}


def write_pages(config: DemoConfig, example: str | Utterance) -> list[Path]:
    """The report of the fold by method align, and the lesson on an utterance, of the corpus by its id: their paths."""
    collected = results.collect(config.out, "align")
    report = fold_page.write_all(config.out, collected, config.session, config.device)
    return [*report, lesson.write(config.out, config.session, example)]


def make_corpus(root: Path, seed: int, sessions: int, utterances_per_speaker: int) -> None:
    """The synthetic corpus as an IEMOCAP tree; one that was finished before stays."""
    wanted = {"seed": seed, "sessions": sessions, "utterances_per_speaker": utterances_per_speaker}
    done = root / "synthetic.json"

    def make() -> None:
        if not done.exists() or files.read_json(done) != wanted:
            shutil.rmtree(root, ignore_errors=True)
            synthetic_corpus.write_corpus(root, seed, sessions, utterances_per_speaker)
            files.write_json(done, wanted)

    distributed.on_rank_0(make)


def units_nmi(recipe: Recipe, place: Path, directory: Path) -> float:
    """Normalised mutual information of a model's own 50 units with (emotion, frame is emotional), all utterances."""
    hubert = Recogniser.from_pretrained(place).model.hubert
    store = state_store(hubert, recipe.preset.align_layer, recipe.utterances, directory, recipe.device)
    units, _ = make_units(store, recipe.preset.align_clusters, recipe.preset.kmeans, None, {})
    shutil.rmtree(directory)
    return planted_truth.unit_emotion_nmi(units, recipe.utterances)


def pitch_and_energy(waveform: Tensor) -> Tensor:
    """Mean log pitch and mean log energy of an utterance: (2,). Pitch by torchaudio's normalised cross-correlation."""
    from torchaudio.functional import detect_pitch_frequency
    waveform = F.pad(waveform, (0, max(0, LEAST_SAMPLES - len(waveform))))      # less has too few values of pitch
    pitch = detect_pitch_frequency(waveform, SAMPLE_RATE, freq_low=60, freq_high=500)
    energy = waveform.unfold(0, 400, 160).square().mean(-1)                     # (T,)
    return torch.stack([pitch.log().mean(), (energy + 1e-8).log().mean()])


def mfcc_mean(waveform: Tensor) -> Tensor:
    """Mean MFCC with deltas of an utterance: (39,)."""
    return mfcc(waveform).mean(0)


def baseline(split: protocols.Split, classes: list[str], features: Callable[[Tensor], Tensor]) -> float:
    """UA on the test part of a logistic regression on utterance means: without looking over time."""
    x, y = {}, {}
    for part in ("train", "valid", "test"):
        chosen = getattr(split, part)
        x[part] = torch.stack([features(audio.load(u.path)) for u in chosen]).double()
        y[part] = torch.tensor([classes.index(u.label) for u in chosen])
    x["train"], y["train"] = torch.cat([x["train"], x["valid"]]), torch.cat([y["train"], y["valid"]])
    mean, deviation = x["train"].mean(0), x["train"].std(0) + 1e-8
    weight = torch.zeros(x["train"].shape[1], len(classes), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=200)

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy((x["train"] - mean) / deviation @ weight + bias, y["train"]) \
            + 0.5 * weight.square().sum() / len(y["train"])                     # the usual unit-strength L2
        value.backward()
        return value

    solver.step(loss)
    predicted = ((x["test"] - mean) / deviation @ weight + bias).argmax(-1)
    return float(metrics.ua(metrics.confusion(y["test"].numpy(), predicted.numpy(), len(classes))))


def summary(numbers: dict, config: DemoConfig) -> str:
    """The demo's table: recognition and alignment of each method, and the baselines."""
    num_joined = numbers["joined_utterances"]
    rows = [["method", "UA", "WA", "joined EDER" if num_joined else "EDER", "attention AUC", "median", "max/mean",
             "posterior AUC", "median", *([] if num_joined else ["units NMI"])]]
    names = ("attention_auc_mean", "attention_auc_median", "attention_max_over_mean", "posterior_auc_mean",
             "posterior_auc_median", *([] if num_joined else ["units_nmi"]))
    for method, result in numbers["methods"].items():
        over_time = result["alignment"]["over_time"]
        shares = [result["reported"]["ua"], result["reported"]["wa"], over_time["eder"]]
        rows.append([method, *(f"{100 * share:.1f} %" for share in shares),
                     *(f"{result['alignment'][name]:.3f}" for name in names)])
    means = ", ".join(f"{name} {100 * ua:.1f} %" for name, ua in numbers["utterance_means_ua"].items())
    chance = 100 / len(protocols.class_names(config.classes))
    bound, tested = "; frames-bound: from the planted truth", "test"
    notes = []
    if num_joined:
        bound, tested = "", "joined"
        notes = [f"joined: EDER, AUC and max/mean are of {num_joined} joined utterances, made of the test "
                 f"{config.kind_of_fold}: emotional ones among neutral ones",
                 "frames-bound and units NMI are left out: they need the truth of frames of the whole corpus"]
    return "\n".join([
        "", f"{config.corpus or 'Synthetic corpus'}, {config.kind_of_fold} {config.session} held out, clean selection, "
        f"seed {config.seed}; chance: {chance:.0f} %",
        *aligned(rows), *notes, f"UA of a logistic regression on utterance means: {means}",
        f"frames: taught to tell frames, from the same labels of utterances{bound}",
        "EDER: share of the time with a wrong emotion; of saying always neutral "
        f"{100 * over_time['always_neutral']:.1f} %",
        f"AUC: emotional frames of non-neutral {tested} utterances against the rest, chance 0.5",
        "max/mean: the largest attention weight of an utterance by its mean weight; flat attention has 1"])


def closing(config: DemoConfig, numbers: dict, sound: Path, pages: list[Path]) -> str:
    """What there is to look at and to try next, with a sound of the corpus that was not trained on."""
    recogniser = Path(config.out) / f"session{config.session}" / "recogniser"
    return "\n".join([
        f"{log.clock(numbers['seconds'])}; all numbers are in {config.out}/demo.json",
        f"try: {command_line.program('recognise')} {recogniser} {sound} --timeline",
        "open in a browser: " + " and ".join(map(str, pages))])


def make_tiny_base(config: DemoConfig, overrides: dict[str, str]) -> None:
    """HuBERT from scratch on synthetic speech -> framealign/tiny with its record."""
    torch.set_num_threads(1)                        # as in `run`
    began, root = time.monotonic(), Path(config.out)
    make_corpus(root / "corpus", BASE_SEED, BASE_SESSIONS, BASE_UTTERANCES_PER_SPEAKER)
    chosen = SessionConfig(iemocap=str(root / "corpus"), allow_partial=True, hubert="scratch", preset="tiny",
                           out=str(root), seed=config.seed, device=config.device)
    recipe = Recipe(chosen, overrides)
    stages = base_stages(recipe)
    run_stages(stages, Redo(root))
    source = stages[-1].product("encoder")
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        with files.write_atomically(session_config.TINY / name) as temporary:
            shutil.copyfile(source / name, temporary)
    record = {"command": "make tiny-base", "corpus_seed": BASE_SEED, "seed": config.seed,
              "utterances": len(recipe.utterances), "hours": sum(u.num_samples for u in recipe.utterances) / 57.6e6,
              "seconds": round(time.monotonic() - began),
              "stages": {stage.name: files.read_json(stage.folder / "stage.json") for stage in stages}}
    files.write_json(session_config.TINY / "record.json", record)
    log.say(f"{session_config.TINY}: made again in {log.clock(record['seconds'])}")
