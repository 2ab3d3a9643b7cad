"""The whole method on a synthetic corpus it makes itself: seven stages, three methods, what is recognised and when.

    bin/demo.py                                     # minutes on a CPU, from the committed tiny base model
    bin/demo.py --make-tiny-base --out runs/tiny-base

It ends with two pages to open in a browser: report.html and lesson.html.
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

from framealign.runtime import distributed, files, log, settings
from framealign.runtime.settings import setting
from framealign.sound import audio
from framealign.sound.frames import SAMPLE_RATE
from framealign.sound.mfcc import mfcc
from framealign.corpus import protocols, synthetic_corpus
from framealign.corpus.utterance import Utterance
from framealign.units.extraction import state_store
from framealign.units.units import make_units
from framealign.emotion import diarization, metrics, planted_truth
from framealign.emotion.calibration import Calibration
from framealign.emotion.recogniser import Recogniser
from framealign.recipe import presets, results, session_config
from framealign.recipe.recipe import BaseModel, Recipe, base_stages
from framealign.recipe.results import aligned
from framealign.recipe.session_config import PAPERS, TESTED, SessionConfig
from framealign.recipe.stages import Redo, run_stage
from framealign.report import fold_page, lesson
from framealign.commands import command_line

SETTINGS = {"finetune.epochs": "6",                 # of 384 utterances: 144 updates; the preset's 24 are for fewer,
            "frames.epochs": "8",                   # as are its 16 here
            "frames.mask_start_fraction": "0"}      # masks hide the ends of planted stretches, half a second long
CORPUS_SEED, BASE_SEED = 0, 1000                    # the base model's speakers are none of the demo's
UTTERANCES_PER_SPEAKER = 64
BASE_SESSIONS, BASE_UTTERANCES_PER_SPEAKER = 30, 50


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """What the demonstration runs."""
    out: str = setting("runs/demo", "folder of the corpus and of all stages")
    session: str = setting("1", "session held out for the test")
    seed: int = setting(0, "seed of training; the corpus has a seed of its own")
    device: str = setting("auto", "auto, cpu, cuda or mps")
    hubert: str = setting("tiny", "base model: `tiny` (comes with the project), a model directory, or `scratch`")
    make_tiny_base: bool = setting(False, "pretrain the base model framealign/tiny again, instead of the demo")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process) and run the demonstration."""
    parser = command_line.parser("demo", __doc__)
    settings.add_flags(parser, DemoConfig)
    settings.add_old_names(parser, "--run")
    command_line.add_overrides(parser, "the preset tiny")
    args = parser.parse_args(arguments)

    config = settings.from_flags(args, DemoConfig())
    with command_line.ranks(config.device):
        action = make_tiny_base if config.make_tiny_base else run
        action(config, presets.parse_settings(args.overrides))


def run(config: DemoConfig, overrides: dict[str, str]) -> dict:
    """Make the corpus, run the three methods on one fold, measure, draw: the numbers as written to `demo.json`.

    The stage `frames` starts from the base model and waits for no other: a second process trains it, and its bound, and
    measures what is there. Raises ValueError under torchrun.
    """
    if distributed.world_size() > 1:
        raise ValueError("the demo runs in two processes of its own; start it without torchrun")
    torch.set_num_threads(1)                        # so small a model waits for a second thread more than it gains;
    began, root = time.monotonic(), Path(config.out)    # and the numbers are the same on any number of cores
    tree = make_corpus(root / "corpus", CORPUS_SEED, 5, UTTERANCES_PER_SPEAKER)

    rows: dict[str, dict] = {}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as second:
        try:
            for method in PAPERS:
                log.say(f"== method {method}")
                recipe = Recipe(recipe_config(config, tree, method), SETTINGS | overrides)
                recipe.run()
                if method == "finetune":            # the base model is there, and the conv features of all sounds
                    frames = dataclasses.replace(recipe.config, frames=True, bound=True)
                    beside = second.submit(in_second_process, frames, SETTINGS | overrides, recipe.utterances,
                                           recipe.base)
                else:
                    rows[method] = measured(recipe, TESTED[method])
            of_second, baselines = beside.result()
        except BaseException:                       # a mistake, or asked to stop: not when the second is through
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    rows = {name: (rows | of_second)[name] for name in (*PAPERS, "frames", "frames-bound")}
    numbers = {"methods": rows, "utterance_means_ua": baselines, "seconds": round(time.monotonic() - began, 1)}
    files.write_json(root / "demo.json", numbers)

    example = rows["frames"]["alignment"]["median_utterance"]
    pages = write_pages(config, example)
    log.say(summary(numbers, config))
    path = next(utterance.path for utterance in recipe.utterances if utterance.id == example)
    log.say(closing(config, numbers, path, pages))
    return numbers


def recipe_config(config: DemoConfig, tree: Path, method: str) -> SessionConfig:
    """One method of the recipe on the synthetic corpus `tree`."""
    return SessionConfig(iemocap=str(tree), allow_partial=True, hubert=config.hubert, preset="tiny", out=config.out,
                         session=config.session, method=method, frames=False, seed=config.seed, device=config.device)


def in_second_process(config: SessionConfig, overrides: dict[str, str], utterances: list[Utterance], base: BaseModel
                      ) -> tuple[dict[str, dict], dict[str, float]]:
    """Train the stages `frames` and `frames-bound`: results of method finetune and of both, and the baselines' UA."""
    torch.set_num_threads(1)                        # as in `run`
    log.say("== beside it, in a second process: which frames")
    recipe = Recipe(config, overrides, utterances, base)
    recipe.run()
    split, = protocols.split(recipe.utterances, config.session, "clean")
    baselines = {name: baseline(split, recipe.classes, features) for name, features in
                 (("pitch and energy", pitch_and_energy), ("MFCC", mfcc_mean))}
    return {stage: measured(recipe, stage) for stage in ("finetune", "frames", "frames-bound")}, baselines


def measured(recipe: Recipe, stage: str) -> dict:
    """The results of a stage that was tested, with its `alignment`."""
    return files.read_json(recipe.fold / stage / "results.json") | {"alignment": alignment(recipe, stage)}


def alignment(recipe: Recipe, stage: str) -> dict:
    """How well a stage's recogniser aligns with the planted truth, on the test session and by its own units."""
    test = [u for u in recipe.utterances if u.session == recipe.config.session]
    place = recipe.fold / stage / "recogniser"
    recogniser = Recogniser.from_pretrained(place, recipe.config.device)
    recogniser.model.calibration = Calibration()    # what the weights tell: a temperature moves ranks of p a little
    recognised = planted_truth.recognised(recogniser, test)
    tested = files.read_json(recipe.fold / stage / "results.json")
    scores = planted_truth.frame_auc(recognised) | {"over_time": tested["over_time"],
                                                     "median_utterance": diarization.median(recognised).id}
    return scores | {"units_nmi": units_nmi(recipe, place, recipe.fold / stage / "states")}


def write_pages(config: DemoConfig, example: str) -> list[Path]:
    """The report of the fold by method align, and the lesson on the utterance of that id: the pages' paths."""
    collected = results.collect(config.out, "align")
    report = fold_page.write_all(config.out, collected, config.session, config.device)
    return [*report, lesson.write(config.out, config.session, example)]


def make_corpus(root: Path, seed: int, sessions: int, utterances_per_speaker: int) -> Path:
    """The synthetic corpus as an IEMOCAP tree; one that was finished before stays."""
    wanted = {"seed": seed, "sessions": sessions, "utterances_per_speaker": utterances_per_speaker}
    done = root / "synthetic.json"

    def make() -> None:
        if not done.exists() or files.read_json(done) != wanted:
            shutil.rmtree(root, ignore_errors=True)
            synthetic_corpus.write_corpus(root, seed, sessions, utterances_per_speaker)
            files.write_json(done, wanted)

    distributed.on_rank_0(make)
    return root


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
    rows = [["method", "UA", "WA", "EDER", "attention AUC", "median", "max/mean", "posterior AUC", "median",
             "units NMI"]]
    names = ("attention_auc_mean", "attention_auc_median", "attention_max_over_mean", "posterior_auc_mean",
             "posterior_auc_median", "units_nmi")
    for method, result in numbers["methods"].items():
        over_time = result["alignment"]["over_time"]
        shares = [result["reported"]["ua"], result["reported"]["wa"], over_time["eder"]]
        rows.append([method, *(f"{100 * share:.1f} %" for share in shares),
                     *(f"{result['alignment'][name]:.3f}" for name in names)])
    means = ", ".join(f"{name} {100 * ua:.1f} %" for name, ua in numbers["utterance_means_ua"].items())
    return "\n".join([
        "", f"Synthetic corpus, session {config.session} held out, clean selection, seed {config.seed}; chance: 25 %",
        *aligned(rows), f"UA of a logistic regression on utterance means: {means}",
        "frames: taught to tell frames, from the same labels of utterances; frames-bound: from the planted truth",
        "EDER: share of the time with a wrong emotion; of saying always neutral "
        f"{100 * over_time['always_neutral']:.1f} %",
        "AUC: emotional frames of non-neutral test utterances against the rest, chance 0.5",
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
    tree = make_corpus(root / "corpus", BASE_SEED, BASE_SESSIONS, BASE_UTTERANCES_PER_SPEAKER)
    chosen = SessionConfig(iemocap=str(tree), allow_partial=True, hubert="scratch", preset="tiny", out=str(root),
                           seed=config.seed, device=config.device)
    recipe = Recipe(chosen, overrides)
    stages = base_stages(recipe)
    for stage in stages:
        run_stage(stage, Redo(root))
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
