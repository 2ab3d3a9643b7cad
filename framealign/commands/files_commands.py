"""What the scripts in `bin/` call: the library's steps with files in and files out, each checked before it is begun."""
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from framealign.runtime import distributed, files, lock, log
from framealign.runtime.settings import setting
from framealign.sound.frames import FRAME_RATE
from framealign.sound.mfcc import WIDTH
from framealign.corpus import manifest, protocols
from framealign.corpus.importers import fairseq_list, scp
from framealign.corpus.protocols import OPTIMISTIC, class_names
from framealign.corpus.utterance import CLASSES
from framealign.hubert import model_directory
from framealign.hubert.model import Hubert
from framealign.exchange import fairseq_checkpoint, torchaudio_weights
from framealign.units.codebook import Codebook
from framealign.units.extraction import mfcc_store, state_store
from framealign.units.kmeans import KMeansConfig
from framealign.units.units import Units, cluster_numbers, unit_files, write_units
from framealign.emotion import exported_program
from framealign.training import checkpoint
from framealign.training.finetune import both_ways, finetune
from framealign.training.pretrain import pretrain
from framealign.training.training_config import FinetuneConfig, PretrainConfig
from framealign.recipe import model_card
from framealign.recipe.preflight import check_files, check_room, frames_bytes, given_codebook, training_bytes
from framealign.recipe.presets import preset
from framealign.recipe.stages import nothing_half_made, remove_empty


@dataclass(frozen=True)
class UnitsRun:
    """Where units come from and go to."""
    corpus: str = setting("", "manifest, table, or fairseq .tsv")
    mfcc: bool = setting(False, "cluster MFCC instead of a model's states")
    model: str = setting("", "model directory")
    layer: int = setting(9, "layer whose states are clustered; 0: the input of the first block")
    codebook: str = setting("", "codebook to use as it is; without it one is fitted")
    clusters: str = setting("500", "clusters of the fitted codebook; several (32,64,128): a codebook for each number")
    out: str = setting("runs/units", "folder for codebook.safetensors and units.safetensors")
    km: bool = setting(False, "also write units.km, fairseq's text format")
    device: str = setting("auto", "auto, cpu, cuda or mps")
    precision: str = setting("float32", "auto, float32 or bfloat16 (in bfloat16 one unit in a hundred differs)")


@dataclass(frozen=True)
class PretrainRun:
    """What is pretrained on what."""
    corpus: str = setting("", "manifest, table, or fairseq .tsv")
    units: str = setting("", "units.safetensors or fairseq's .km of this corpus; several: a,b,c")
    init_from: str = setting(
        "", "model directory to start from (encoder only); without it training starts from scratch")
    preset: str = setting("base", "settings, and from scratch also the size: tiny, small, base or large")
    out: str = setting("runs/pretrain", "folder for checkpoints, log.jsonl and encoder")
    resume: bool = setting(True, "continue an interrupted run; --no-resume: refuse a folder that holds a checkpoint")
    preflight: bool = setting(False, "check all that can be checked before the hours of training, and stop there")
    device: str = setting("auto", "auto, cpu, cuda or mps")
    precision: str = setting("auto", "auto, float32 or bfloat16")


@dataclass(frozen=True)
class FinetuneRun:
    """What is fine-tuned, selected and tested on what."""
    corpus: str = setting("", "manifest or table, with --session")
    session: str = setting("1", "session held out for the test")
    train: str = setting("", "instead of a corpus, the reference's three scp files: this one to train on")
    valid: str = setting("", "scp file to select on")
    test: str = setting("", "scp file to test on")
    validate_on: str = setting(
        "session", "what clean selection validates on: session (a whole training session) or speaker (one of it)")
    init_from: str = setting("", "model directory (encoder only)")
    preset: str = setting("base", "settings: tiny, small, base or large")
    classes: str = setting(",".join(CLASSES), "separated by commas, in the order of the classifier")
    out: str = setting("runs/finetune", "folder for checkpoints, log.jsonl, recogniser and results")
    resume: bool = setting(True, "continue an interrupted run; --no-resume: refuse a folder that holds a checkpoint")
    device: str = setting("auto", "auto, cpu, cuda or mps")
    precision: str = setting("auto", "auto, float32 or bfloat16")


def required(config: object, *names: str) -> None:
    """Raise ValueError naming the first of these flags that was not given."""
    for name in names:
        if not getattr(config, name):
            raise ValueError(f"--{name.replace('_', '-')} is needed; --help shows an example")


def read_corpus(path: str, classes: tuple[str, ...] | list[str] = CLASSES) -> list:
    """A manifest or table (its header names `path`), else a fairseq .tsv (its first line is a folder)."""
    try:
        with open(path, encoding="utf-8") as file:
            first = file.readline(65_536).rstrip("\n")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as text: {error}") from None
    is_root = "\t" not in first and "," not in first and (first.startswith(("/", ".")) or Path(first).is_dir())
    found = fairseq_list.read_fairseq(path) if first and is_root else manifest.read(path, classes)
    check_files(found)
    return found


def fresh(run: str, resume: bool) -> None:
    """Raise ValueError where `run` holds a checkpoint and it is not to be continued."""
    if not resume and any(Path(run).rglob("checkpoints/[0-9]*")):
        raise ValueError(f"{run}: holds checkpoints; leave out --no-resume to continue, or choose another --out folder")


def make_units_run(config: UnitsRun, kmeans: KMeansConfig) -> None:
    """Features of every utterance -> codebook (given or fitted) -> units."""
    required(config, "corpus")
    if config.mfcc == bool(config.model):
        raise ValueError("give either --mfcc or --model")
    utterances, out = read_corpus(config.corpus), Path(config.out)
    device = distributed.choose_device(config.device)
    distributed.autocast(device, config.precision)  # an unknown one is an error now
    hubert = None if config.mfcc else Hubert.from_pretrained(config.model)
    width = hubert.config.hidden_size if hubert else WIDTH
    codebook = given_codebook(config.codebook, width) if config.codebook else None
    clusters = cluster_numbers(config.clusters)
    if codebook is not None and len(clusters) > 1:
        raise ValueError(f"--codebook gives one codebook, --clusters {config.clusters} asks for several")
    check_room(out, {out: frames_bytes(utterances, width)})
    with lock.held(out):
        make_units_in(out, config, kmeans, utterances, hubert, codebook, clusters, device)


def make_units_in(out: Path, config: UnitsRun, kmeans: KMeansConfig, utterances: list, hubert: Hubert | None,
                  codebook: Codebook | None, clusters: list[int], device: torch.device) -> None:
    """The same with everything read, in a folder that is ours."""
    with nothing_half_made(out / "features"):
        if hubert is None:
            store, record = mfcc_store(utterances, out / "features"), {"feature": "mfcc"}
        else:
            store = state_store(hubert, config.layer, utterances, out / "features", device, config.precision)
            record = {"layer": config.layer, "model": store.index["key"]}
    record |= {"frame_rate": FRAME_RATE, "seed": kmeans.seed, "codebook": config.codebook or "fitted"}
    try:
        made = write_units(out, store, utterances, clusters, kmeans, codebook, record)
        for (_, name), (units, _) in zip(unit_files(clusters), made):
            if distributed.rank() == 0 and config.km:
                units.write_km((out / name).with_suffix(".km"))
    except ValueError:                              # for example fewer frames than clusters
        drop_features(out)
        raise
    drop_features(out)
    for units, codebook in made:
        used = int((torch.bincount(units.units, minlength=units.num_clusters) > 0).sum())
        log.say(f"{out}: {len(units.units)} units of {len(utterances)} utterances, {used} of {units.num_clusters} in "
                f"use, inertia {codebook.inertia:.4g}")


def drop_features(out: Path) -> None:
    """Remove what units were made of, and the folder if nothing else is in it."""
    if distributed.rank() == 0:
        shutil.rmtree(out / "features", ignore_errors=True)
        remove_empty(out)


def pretrain_settings(config: PretrainRun) -> PretrainConfig:
    """The preset's settings: those of its stage 0 from scratch, those of stages 2 and 5 from an encoder."""
    chosen = preset(config.preset)
    return chosen.pretrain if config.init_from else chosen.scratch


def pretrain_run(config: PretrainRun, settings: PretrainConfig) -> None:
    """Pretrain from scratch or from an encoder; a run that has checkpoints continues."""
    required(config, "corpus", "units")
    fresh(config.out, config.resume)
    device, chosen = distributed.choose_device(config.device), preset(config.preset)
    distributed.autocast(device, config.precision)  # an unknown one is an error now
    utterances = read_corpus(config.corpus)
    units = []
    for path in [config.units] if Path(config.units).exists() else config.units.split(","):
        units.append(Units.read_km(path) if path.endswith(".km") else Units.read(path))
        units[-1].check(utterances, path)
    if not config.init_from and settings.freeze_conv:
        raise ValueError("from scratch the conv encoder must train too: leave out --freeze-conv, or give --init-from")
    torch.manual_seed(settings.seed)
    hubert = Hubert.from_pretrained(config.init_from) if config.init_from else Hubert(chosen.model, chosen.do_normalize)
    run, width = Path(config.out), hubert.config.conv_dim[-1] if settings.cache_frontend and settings.freeze_conv else 0
    check_room(run, {run: training_bytes(hubert.config, settings)
                     + frames_bytes(utterances, width, settings.kept_type)})
    if config.preflight:
        return
    with lock.held(run), nothing_half_made(run / "frontend"):
        encoder = pretrain(hubert, utterances, units, settings, config.out, device, config.precision)
    log.say(f"encoder: {encoder}")


def finetune_run(config: FinetuneRun, settings: FinetuneConfig) -> None:
    """Fine-tune, select, test once: by session of a manifest, or by three scp lists."""
    required(config, "init_from")
    fresh(config.out, config.resume)
    classes, device = class_names(config.classes), distributed.choose_device(config.device)
    distributed.autocast(device, config.precision)  # an unknown one is an error now
    if bool(config.corpus) == bool(config.train):
        raise ValueError("give either --corpus (with --session) or --train, --valid and --test")
    if config.train:
        required(config, "test")
        overlap = settings.selection in OPTIMISTIC
        splits = [scp.from_scp(config.train, config.valid or None, config.test, overlap, classes)]
        utterances = [u for part in (splits[0].train, splits[0].valid, splits[0].test) for u in part]
        utterances = list({u.id: u for u in utterances}.values())
    else:
        utterances = read_corpus(config.corpus, classes)
        splits = protocols.split(utterances, config.session, settings.selection, config.validate_on, classes)
    found, run = [], Path(config.out)
    for index, split in enumerate(splits):
        torch.manual_seed(settings.seed)            # the mask embedding, where the directory has none
        hubert = Hubert.from_pretrained(config.init_from)
        with lock.held(run), nothing_half_made(run / "frontend"):
            found.append(finetune(hubert, utterances, split, classes, settings,
                                  run / (f"way{index + 1}" if len(splits) > 1 else ""), device, config.precision,
                                  run / "frontend"))
    results = found[0]
    if len(splits) > 1 and distributed.rank() == 0:
        results = both_ways(run, found, utterances)
        files.write_json(run / "results.json", results)
    if distributed.rank() == 0:
        model_card.write(run / "recogniser", results, splits)
    reported = ", ".join(f"{name} {100 * value:.1f} %" for name, value in results["reported"].items())
    log.say(f"{results['split']}: {reported} ({settings.selection} selection, epoch {results['selected_epoch']}); "
            f"{run / 'results.json'}")


def export(source: str, target: str, encoder_only: bool, form: str) -> None:
    """Write a run's newest checkpoint, a checkpoint, a model directory or a fairseq .pt as a Hugging Face directory.

    form "torchaudio": the encoder's state dict in torchaudio.models' names, as one safetensors file; "torch-export":
    the recogniser as one program (`portable`). Raises ValueError where `target` exists already.
    """
    place = Path(source)
    if Path(target).exists():
        raise ValueError(f"{target}: exists already; choose another name or remove it")
    if place.suffix == ".pt" and place.is_file():
        found = fairseq_checkpoint.read_fairseq(place)
        do_normalize = bool(found.do_normalize)
    else:
        place = checkpoint.newest(place) or place
        found = model_directory.read(place)
        do_normalize = found.do_normalize
    head = {} if encoder_only else {n: x for n, x in found.head.items() if n.startswith(("pooling.", "classifier."))}
    if form == "torch-export":
        if encoder_only:
            raise ValueError("--to torch-export writes a recogniser: leave out --encoder")
        exported_program.export(place, target)
    elif form == "torchaudio":
        with files.write_atomically(target) as temporary:
            save_file({name: x.contiguous() for name, x in torchaudio_weights.to_torchaudio(found.state).items()}, temporary)
    else:
        labels = getattr(found, "labels", None) if head else None
        model_directory.write(target, found.config, found.state, head, do_normalize=do_normalize, labels=labels)
        if head and (place / "README.md").exists():     # the model card
            shutil.copyfile(place / "README.md", Path(target) / "README.md")
    log.say(f"{target}: {'recogniser' if head else 'encoder'} of {place}, {form} format")
