"""The recipe: the stages of one fold in their order, each with a record, skipped when its record still matches.

Frame-level emotional state alignment (Li et al. 2024), one function a stage:

- phase 1 (Sec. 2.1 and 2.2): `tapt_units`, `tapt_pretrain`, `tapt_finetune`, `align_units`;
- phase 2 (Sec. 2.2): `align_pretrain`;
- phase 3 (Sec. 2.3): `fine_tuning`;
- beyond the paper: `frames`, for the emotion over time, and `probing`.

`--method tapt` and `--method finetune` are the paper's ablation: they stop after phase 1's fine-tuning, or fine-tune
the base HuBERT at once. `--method multiscale` goes beyond the paper: `align` with units of several codebooks, coarse
and fine, at once. `--method probe` trains nothing but a linear head on the base HuBERT's states. Stages that do not
depend on the session (transductive pretraining) are made once and shared by all folds, whatever share of the labels
these know. Without a pretrained HuBERT, `scratch` makes the base as HuBERT was made.
"""
import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from framealign.runtime import distributed, files, lock, log
from framealign.runtime.settings import as_dict
from framealign.corpus import folds, frame_truth, manifest, protocols
from framealign.corpus.protocols import Split, class_names, merged_labels, merged_words, split_digest
from framealign.corpus.utterance import Utterance, corpus_description
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.model import Hubert
from framealign.hubert.parameters import digest_of_encoder, digest_of_state
from framealign.exchange import encoder_file
from framealign.units.codebook import Codebook
from framealign.units.extraction import mfcc_store, source_of_states, state_store
from framealign.units.frame_store import FrameStore
from framealign.units.units import Units, cluster_numbers, unit_files, write_units
from framealign.training.finetune import finetune_fold
from framealign.training import frame_training
from framealign.training.frame_training import train_frames
from framealign.training.pretrain import pretrain
from framealign.training.probe import probe_fold
from framealign.training.training_config import (FinetuneConfig, FramesConfig, PretrainConfig, ProbeConfig, TrainingRun,
                                                 check_corpora)
from framealign.recipe import model_card, preflight, results, trained_on
from framealign.recipe.presets import Preset, preset, with_overrides
from framealign.recipe.session_config import (FROM_BASE, SHARE, SessionConfig, base_folder, frames_stage, held_out,
                                              honest, labels_known, protocol_of_test, read_utterances, splits_of,
                                              tested_stage)
from framealign.recipe.stages import Redo, Stage, nothing_half_made, run_stages


@dataclass(frozen=True)
class BaseModel:
    """The HuBERT that everything starts from."""
    folder: Path | None                             # None: `scratch`, to be made by the recipe
    config: HubertConfig
    digest: str                                     # of weights and configuration
    encoder: str = ""                               # digest of what its states depend on
    license: str = ""                               # that its card names


def read_base(config: SessionConfig, size: Preset) -> BaseModel:
    """The base model of a configuration, loaded and digested. Raises ValueError for a directory that holds none."""
    if config.hubert == "scratch":
        return BaseModel(None, size.model, "of this run")
    folder = base_folder(config.hubert)
    hubert = load_encoder(folder, config.seed)
    shape = {name: value for name, value in as_dict(hubert.config).items() if name != "extra"}
    digest = files.digest_of([digest_of_state(hubert.state_dict()), shape, hubert.do_normalize])
    of_encoder = digest_of_encoder(hubert.state_dict(), hubert.config, hubert.do_normalize)
    return BaseModel(folder, hubert.config, digest, of_encoder, model_card.license_of(folder))


def load_encoder(folder: str | Path, seed: int) -> Hubert:
    """An encoder, of a directory or file; what that may lack (the mask embedding) is drawn from the seed."""
    torch.manual_seed(seed)
    return encoder_file.load(folder)


class Recipe:
    """One fold of one configuration: what its stages share. `stages()` lists them in order, `run()` runs them.

    utterances, base: read before, for another fold; None: read now. Raises ValueError for a configuration that does not
    fit the corpus or the base model.
    """

    def __init__(self, config: SessionConfig, overrides: dict[str, str] | None = None,
                 utterances: list[Utterance] | None = None, base: BaseModel | None = None):
        self.config = config
        self.preset = with_overrides(preset(config.preset), overrides or {})
        self.device = distributed.choose_device(config.device)
        distributed.autocast(self.device, config.precision)         # an unknown precision is an error now
        self.classes = class_names(config.classes)
        self.merged = merged_words(merged_labels(config.merge, self.classes))
        self.folds = folds.described(config.folds, config.folds_seed)
        self.utterances = read_utterances(config) if utterances is None else utterances
        for settings in (self.preset.probe, self.preset.finetune, self.preset.frames):
            check_corpora(settings, self.utterances)
        self.pretraining_utterances = protocols.pretraining_utterances(self.utterances, config.session,
                                                                       config.pretrain_data)
        self.base = read_base(config, self.preset) if base is None else base
        check_layers(config, self.preset, self.base)

        self.root = Path(config.out)
        self.fold = config.run / f"session{config.session}"
        # Stages that a fold may share with the others:
        self.shared = self.root if config.pretrain_data == "transductive" else self.fold
        # Where the probe's means of the base model's states are kept:
        self.layer_means = (self.root if self.base.folder else self.shared) / "layer-means"
        # What every record says:
        self.common = {"corpus": corpus_description(self.utterances), "seed": config.seed, "preset": config.preset}
        # Of stages that see labels:
        self.of_labels = {"folds": self.folds, "session": config.session, "classes": self.classes,
                          "merged": self.merged} | labels_known(config)
        # Of stages that pretrain or cluster, too; described once, for every file is looked at:
        self.pretraining_corpus = corpus_description(self.pretraining_utterances)

    def stages(self) -> list[Stage]:
        """The stages of the configuration's method, in order: the fine-tuning that is tested, and perhaps `frames`."""
        method, selection = self.config.method, self.config.selection
        before = base_stages(self)
        start = base = before[-1]
        if method not in FROM_BASE:
            units = tapt_units(self, base)
            start = tapt_pretrain(self, base, units)
            before += [units, start]
        if method not in (*FROM_BASE, "tapt"):
            recogniser = tapt_finetune(self, start)
            emotion_units = align_units(self, recogniser)
            start = align_pretrain(self, base, emotion_units)
            before += [recogniser, emotion_units, start]
        of_frames = frames(self, base if self.config.frames_start == "base" else start)
        tested = probing(self, base) if method == "probe" else fine_tuning(self, method, start, selection)
        return [*before, tested, *of_frames]

    def splits(self, selection: str) -> list[Split]:
        """Who is trained, selected and tested on. Raises ValueError where the corpus does not allow the protocol."""
        return splits_of(self.config, self.utterances, selection)

    def room(self) -> dict[Path, int]:
        """Bytes that each folder may take on the disk at most, of stages that are not finished."""
        room = {stage.folder: stage.room for stage in self.stages()
                if stage.make and not (stage.folder / "stage.json").exists()}
        if self.config.method == "probe":
            return room | {self.layer_means: preflight.means_bytes(self.utterances, self.base.config)}
        settings = self.preset.finetune
        width = self.base.config.conv_dim[-1] if settings.keeps_features else 0
        room[self.root / "frontend"] = preflight.frames_bytes(self.utterances, width, settings.kept_type,
                                                                 self.base.config.framing)
        return room

    def run(self, redo: Redo | None = None) -> dict:
        """Run what is not yet there; the tested fold's results. redo: what was made again before, for another fold."""
        self.splits(self.config.selection)          # errors first
        stages, redo = self.stages(), redo or Redo(self.root, self.config.redo)
        names = [stage.name for stage in stages if stage.make]
        if redo.name not in ("", "all", *names):
            raise ValueError(f"--redo must be all or one of {', '.join(names)}, got {redo.name}")
        with nothing_half_made(self.root / "frontend", self.shared / "frontend", self.layer_means):
            run_stages(stages, redo)
        name = tested_stage(self.config.method, self.config.selection)
        tested = next(stage for stage in stages if stage.name == name)
        if distributed.rank() == 0:
            manifest.write(self.config.run / "corpus.tsv", self.utterances)
            results.link_recogniser(self.fold)
        return files.read_json(tested.product("results.json"))


def check_layers(config: SessionConfig, size: Preset, base: BaseModel) -> None:
    """Raise ValueError where the base model lacks a layer whose states are wanted, or a codebook is of other states."""
    model = base.config
    used = {"probe": [], "finetune": [], "tapt": ["tapt_layer"]}.get(config.method, ["tapt_layer", "align_layer"])
    if config.hubert == "scratch":
        used = [*used, "scratch_layer"]
    for name in used:
        layer = getattr(size, name)
        if not 0 <= layer <= model.num_hidden_layers:
            raise ValueError(f"{name} is {layer}, the base model has blocks 1 to {model.num_hidden_layers}; choose "
                             f"the --preset of the model's size (now {config.preset}), or --set {name}=...")
    if config.codebook and config.method not in FROM_BASE:
        source = {"layer": size.tapt_layer, "encoder": base.encoder, "frame_rate": model.framing.rate}
        preflight.given_codebook(config.codebook, model.hidden_size, source)


def base_stages(recipe: Recipe) -> list[Stage]:
    """The base HuBERT: one stage with nothing to make (a directory that is there), or the four of `scratch`.

    As HuBERT was made (HuBERT, Sec. II-D, IV-B, IV-C): units of MFCC, pretraining from random initialisation, units of
    a middle layer's states, pretraining from random initialisation again.
    """
    if recipe.base.folder is not None:
        return [Stage("base", recipe.base.folder, (), {}, [], None, {"encoder": recipe.base.digest})]
    place, size = recipe.shared / "scratch", recipe.preset
    first_units = mfcc_units(recipe, place)
    first = from_scratch(recipe, "scratch-1", first_units, place)
    second_units = state_units(recipe, "scratch-units", first, size.scratch_layer, [size.tapt_clusters], place)
    second = from_scratch(recipe, "scratch-2", second_units, place)
    return [first_units, first, second_units, second]


def tapt_units(recipe: Recipe, base: Stage) -> Stage:
    """Stage 1: states of the base HuBERT -> the nearest of 500 centroids, given or fitted."""
    size = recipe.preset
    return state_units(recipe, "tapt-units", base, size.tapt_layer, [size.tapt_clusters], recipe.shared,
                       recipe.config.codebook)


def tapt_pretrain(recipe: Recipe, base: Stage, units: Stage) -> Stage:
    """Stage 2, task-adaptive pretraining: the base HuBERT goes on, predicting those units at masked frames."""
    return masked_prediction(recipe, "tapt-pretrain", base, units, recipe.shared)


def tapt_finetune(recipe: Recipe, tapt: Stage) -> Stage:
    """Stage 3: fine-tune it on the fold's training utterances; its states are what is clustered next."""
    return fine_tuning(recipe, "tapt", tapt, honest(recipe.config.selection))


def align_units(recipe: Recipe, recogniser: Stage) -> Stage:
    """Stage 4: states of that recogniser's encoder -> frame-level pseudo-emotion units, of one codebook or several."""
    method, size = recipe.config.method, recipe.preset
    default = size.align_clusters if method == "align" else size.multiscale_clusters
    clusters = cluster_numbers(recipe.config.clusters or str(default))
    return state_units(recipe, f"{method}-units", recogniser, size.align_layer, clusters, recipe.fold)


def align_pretrain(recipe: Recipe, base: Stage, emotion_units: Stage) -> Stage:
    """Stage 5: from the base HuBERT again, predict the pseudo-emotion units at masked frames."""
    return masked_prediction(recipe, f"{recipe.config.method}-pretrain", base, emotion_units, recipe.fold)


def mfcc_units(recipe: Recipe, place: Path) -> Stage:
    """MFCC -> a codebook fitted on them -> units. HuBERT, Sec. IV-B."""
    size, utterances = recipe.preset, recipe.pretraining_utterances

    def make(folder: Path) -> None:
        store = mfcc_store(utterances, folder / "mfcc", size.model.framing)
        record = {"feature": "mfcc", "seed": recipe.config.seed}
        make_units(recipe, folder, store, [size.scratch_clusters], record)

    settings = recipe.common | {"pretraining_corpus": recipe.pretraining_corpus,
                                "clusters": size.scratch_clusters, "kmeans": as_dict(size.kmeans)}
    return Stage("mfcc-units", place / "mfcc-units", ("codebook.safetensors", "units.safetensors"), settings, [], make,
                 protocol=protocol_of(recipe))


def state_units(recipe: Recipe, name: str, model: Stage, layer: int, clusters: list[int], place: Path,
                given_codebook: str = "") -> Stage:
    """States of one layer of a stage's model -> codebook -> units, for each number of clusters. HuBERT, Sec. II-A."""
    utterances = recipe.pretraining_utterances

    def make(folder: Path) -> None:
        codebook = Codebook.read(given_codebook) if given_codebook else None
        hubert = load_encoder(model.model, recipe.config.seed)
        store = state_store(hubert, layer, utterances, folder / "states", recipe.device)
        record = source_of_states(hubert, layer) | {"seed": recipe.config.seed, "codebook": given_codebook or "fitted"}
        make_units(recipe, folder, store, clusters, record, codebook)

    settings = recipe.common | {"pretraining_corpus": recipe.pretraining_corpus, "layer": layer,
                                "clusters": clusters, "kmeans": as_dict(recipe.preset.kmeans),
                                "codebook": files.digest(given_codebook) if given_codebook else ""}
    products = [product for names in unit_files(clusters) for product in names]
    return Stage(name, place / name, tuple(products), settings, [model], make, protocol=protocol_of(recipe),
                 room=preflight.frames_bytes(utterances, recipe.base.config.hidden_size,
                                             framing=recipe.base.config.framing))


def make_units(recipe: Recipe, folder: Path, store: FrameStore, clusters: list[int], record: dict,
               codebook: Codebook | None = None) -> None:
    """Make and write a stage's codebooks and units, and drop the features they were made of."""
    kmeans = dataclasses.replace(recipe.preset.kmeans, seed=recipe.config.seed)
    write_units(folder, store, clusters, kmeans, codebook, record)
    if distributed.rank() == 0:
        shutil.rmtree(store.directory, ignore_errors=True)
    distributed.barrier()


def read_units(stage: Stage) -> list[Units]:
    """The units of a stage, of each codebook."""
    return [Units.read(stage.product(name)) for name in stage.products if name.startswith("units")]


def masked_prediction(recipe: Recipe, name: str, start: Stage, units: Stage, place: Path) -> Stage:
    """Pretraining on the units of a stage, starting from the encoder of `start`. HuBERT, Sec. II-B."""
    config = seeded(recipe.preset.pretrain, recipe)
    utterances = recipe.pretraining_utterances

    def make(folder: Path) -> None:
        hubert = load_encoder(start.model, recipe.config.seed)
        run = TrainingRun(folder, recipe.device, recipe.config.precision, recipe.shared / "frontend")
        pretrain(hubert, utterances, read_units(units), config, run)

    settings = recipe.common | {"pretraining_corpus": recipe.pretraining_corpus, "pretrain": as_dict(config),
                                "precision": recipe.config.precision}
    return Stage(name, place / name, ("encoder",), settings, [start, units], make, protocol=protocol_of(recipe),
                 room=preflight.training_bytes(recipe.base.config, config))


def from_scratch(recipe: Recipe, name: str, units: Stage, place: Path) -> Stage:
    """Pretraining on the units of a stage, from random initialisation. HuBERT, Sec. II-B and IV-C."""
    size, utterances = recipe.preset, recipe.pretraining_utterances
    config = seeded(size.scratch, recipe)

    def make(folder: Path) -> None:
        torch.manual_seed(recipe.config.seed)
        hubert = Hubert(size.model, size.do_normalize)
        pretrain(hubert, utterances, read_units(units), config,
                 TrainingRun(folder, recipe.device, recipe.config.precision))

    settings = recipe.common | {"pretraining_corpus": recipe.pretraining_corpus, "pretrain": as_dict(config),
                                "model": as_dict(size.model), "do_normalize": size.do_normalize,
                                "precision": recipe.config.precision}
    return Stage(name, place / name, ("encoder",), settings, [units], make, protocol=protocol_of(recipe),
                 room=preflight.training_bytes(size.model, config))


def fine_tuning(recipe: Recipe, method: str, start: Stage, selection: str) -> Stage:
    """The fine-tuning that a method reports: selection and test, on each split of the fold. Alignment paper, Sec. 2.3.
    """
    name = tested_stage(method, selection)
    config = dataclasses.replace(seeded(recipe.preset.finetune, recipe), selection=selection)
    splits, protocol = recipe.splits(selection), {"method": method} | protocol_of(recipe, selection)

    def make(folder: Path) -> None:
        run = TrainingRun(folder, recipe.device, recipe.config.precision, recipe.root / "frontend")
        result = finetune_fold(lambda: load_encoder(start.model, recipe.config.seed), recipe.utterances, splits,
                               recipe.classes, config, run) | {"protocol": protocol}
        write_results(recipe, folder, result, splits)

    settings = recipe.common | recipe.of_labels | {
        "finetune": as_dict(config), "split": [split_digest(split) for split in splits],
        "precision": recipe.config.precision, "pretrain_data": recipe.config.pretrain_data}
    return Stage(name, recipe.fold / name, ("recogniser", "results.json", "predictions.csv"), settings, [start], make,
                 protocol=protocol, room=preflight.training_bytes(recipe.base.config, config) * len(splits))


def probing(recipe: Recipe, base: Stage) -> Stage:
    """The frozen probe of the base HuBERT, selection and test, on each split of the fold (SUPERB, Yang et al. 2021)."""
    selection = recipe.config.selection
    config = dataclasses.replace(seeded(recipe.preset.probe, recipe), selection=selection)
    splits, protocol = recipe.splits(selection), {"method": "probe"} | protocol_of(recipe, selection)
    protocol |= {"training_crop_seconds": "none", "test_crop_seconds": "none"}
    labelled = [utterance for utterance in recipe.utterances if utterance.label]

    def make(folder: Path) -> None:
        run = TrainingRun(folder, recipe.device, recipe.config.precision, recipe.layer_means)
        result = probe_fold(lambda: load_encoder(base.model, recipe.config.seed), labelled, splits, recipe.classes,
                            config, run) | {"protocol": protocol}
        write_results(recipe, folder, result, splits)

    settings = recipe.common | recipe.of_labels | {
        "probe": as_dict(config), "split": [split_digest(split) for split in splits]}
    name = tested_stage("probe", selection)
    return Stage(name, recipe.fold / name, ("recogniser", "results.json", "predictions.csv"), settings, [base], make,
                 protocol=protocol, room=preflight.model_bytes(recipe.base.config) * len(splits))


def write_results(recipe: Recipe, folder: Path, result: dict, splits: list[Split]) -> None:
    """What a stage that tests leaves: `results.json`, and beside its recogniser the card and the list of utterances."""
    trained_on.write(folder / "recogniser", splits, result["selection"], recipe.base.folder)
    if distributed.rank() == 0:
        files.write_json(folder / "results.json", result)
        model_card.write(folder / "recogniser", result, splits)
    distributed.barrier()


def frames(recipe: Recipe, start: Stage) -> list[Stage]:
    """Beyond the paper, stage 7: a recogniser with a classifier of frames; with `bound` another on the true frames.

    None where it is not wanted, and, said so, where the fold lacks what it needs.
    """
    if not recipe.config.frames:
        return []
    splits = recipe.splits(recipe.config.selection)
    lacking = frame_training.lacking(splits[0].train, recipe.classes)
    if lacking:
        log.say_once(f"session {recipe.config.session}: no stage frames: {lacking}")
        return []
    known_of = [*splits[0].train, *splits[0].valid] if recipe.config.bound else []
    unknown = next((utterance for utterance in known_of if not frame_truth.exists(utterance)), None)
    if unknown is not None:
        raise ValueError(f"--bound trains on the truth of frames, which is not known of {unknown.path}; run without it")
    return [frame_stage(recipe, start, splits, on_truth) for on_truth in (False, True)[:1 + recipe.config.bound]]


def frame_stage(recipe: Recipe, start: Stage, splits: list[Split], on_truth: bool) -> Stage:
    """Stage 7, or its bound. Nothing is selected, so whoever is tested in one of the fold's splits is tested here.

    The validation part is free for the temperatures, where it is not of the session that is tested.
    """
    config = seeded(recipe.preset.frames, recipe)
    tested = {utterance.id: utterance for split in splits for utterance in split.test}
    valid = splits[0].valid if recipe.config.selection == "clean" else []
    split = Split(splits[0].train, valid, list(tested.values()), splits[0].name)
    name = frames_stage(recipe.config.method, recipe.config.frames_start)
    method = "finetune" if name == "frames" else recipe.config.method           # by the encoder that it starts from
    protocol = {"method": method} | protocol_of(recipe, "last")
    if valid:
        protocol["validation"] = "for the temperatures alone"
    known = split                                   # what the recogniser knows the labels of
    if method not in ("finetune", "tapt"):          # it starts from units of a recogniser that was selected on these
        known = dataclasses.replace(split, valid=recipe.splits(honest(recipe.config.selection))[0].valid)
    protocol["frames"] = model_card.TRUE_FRAMES if on_truth else model_card.ESTIMATED_FRAMES

    def make(folder: Path) -> None:
        run = TrainingRun(folder, recipe.device, recipe.config.precision)
        result = train_frames(lambda: load_encoder(start.model, recipe.config.seed), recipe.utterances, split,
                              recipe.classes, config, run, on_truth) | {"protocol": protocol}
        write_results(recipe, folder, result, [known])

    name += "-bound" if on_truth else ""
    settings = recipe.common | recipe.of_labels | {
        "frames": as_dict(config), "split": split_digest(split), "precision": recipe.config.precision}
    return Stage(name, recipe.fold / name, ("recogniser", "results.json", "predictions.csv"), settings, [start], make,
                 protocol=protocol, room=2 * preflight.training_bytes(recipe.base.config, config))


def seeded(config: PretrainConfig | FinetuneConfig | FramesConfig | ProbeConfig, recipe: Recipe
           ) -> PretrainConfig | FinetuneConfig | FramesConfig | ProbeConfig:
    """A preset's settings with the seed of this run."""
    return dataclasses.replace(config, seed=recipe.config.seed)


def protocol_of(recipe: Recipe, selection: str = "") -> dict:
    """What a stage's numbers mean, for records, results and the table. selection: of a stage that tests."""
    config, settings = recipe.config, recipe.preset.finetune
    protocol = {"hubert": config.hubert, "base_digest": recipe.base.digest, "preset": config.preset,
                "pretrain_data": config.pretrain_data, "seed": config.seed}
    if recipe.base.license:
        protocol["base_license"] = recipe.base.license
    if selection:
        protocol |= protocol_of_test(config, recipe.utterances, selection)
        protocol |= {"training_crop_seconds": settings.max_seconds or "none",
                     "test_crop_seconds": settings.test_max_seconds or "none"}
    return protocol


def recorded(run: Path) -> Iterator[tuple[Path, dict]]:
    """The folder and the recorded settings of each stage, finished or begun, of the folds that a run's folder holds."""
    records = [record for of_labels in ("", f"{SHARE}*/") for name in ("stage.json", "begun.json")
               for record in run.glob(f"{of_labels}session*/*/{name}")]
    for record in sorted(records):
        yield record.parent, files.read_json(record).get("settings") or {}


def check_folds(run: Path, wanted: str) -> None:
    """Raise ValueError where a run's folder holds other folds, finished or begun, than are wanted (`folds.described`).
    """
    for folder, settings in recorded(run):
        other = settings.get("folds", wanted)
        if other != wanted:
            raise ValueError(f"{run}: its folds are {other} ({folder}), not {wanted}; choose another --out folder")


def run_sessions(config: SessionConfig, overrides: dict[str, str], redo: Redo | None = None,
                 utterances: list[Utterance] | None = None, base: BaseModel | None = None) -> dict[str, dict]:
    """Run one fold, or with session = "all" every fold in turn: results by held-out session; none with `preflight`.

    redo: what was made again before, for another method; who gives it calls its `finish`. utterances, base: read
    before; None: read now, once for all folds.
    """
    again = redo or Redo(config.out, config.redo)
    utterances = read_utterances(config) if utterances is None else utterances
    base = base or read_base(config, with_overrides(preset(config.preset), overrides))
    check_folds(Path(config.out), folds.described(config.folds, config.folds_seed))
    recipes = {name: Recipe(dataclasses.replace(config, session=name), overrides, utterances, base)
               for name in held_out(config, utterances)}

    wanted = {}
    for recipe in recipes.values():                 # the last session's errors now, not after hours
        for split in recipe.splits(config.selection):
            if config.preflight:
                preflight.say_parts(split)
        wanted |= recipe.room()
    preflight.check_room(Path(config.out), wanted)

    tested: dict[str, dict] = {}
    if config.preflight:
        return tested
    with lock.held(config.out):
        for name, recipe in recipes.items():
            log.say(f"== {folds.kind_of(recipe.folds)} {name} held out, method {config.method}")
            tested[name] = recipe.run(again)
        if redo is None:
            again.finish()
    return tested
