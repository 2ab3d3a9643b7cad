"""The recipe: the stages of one fold in their order, each with a record, skipped when its record still matches.

Frame-level emotional state alignment (Li et al. 2024): phase 1 `tapt-units`, `tapt-pretrain`, `tapt-finetune`,
`align-units`; phase 2 `align-pretrain`; phase 3 `ser-finetune`. `--method tapt` and `--method finetune` are the paper's
ablation: they stop after phase 1's fine-tuning, or fine-tune the base HuBERT at once. Stages that do not depend on the
session (transductive pretraining) are made once and shared by all folds.

`--method multiscale` goes beyond the paper: `align` with units of several codebooks, coarse and fine, at once.
"""
import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from framealign.runtime import distributed, files, lock, log
from framealign.runtime.files import link
from framealign.runtime.settings import as_dict, setting
from framealign.corpus import manifest, protocols
from framealign.corpus.importers import iemocap
from framealign.corpus.protocols import SELECTIONS, class_names, split_ids
from framealign.corpus.utterance import CLASSES, Utterance, described
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.model import Hubert
from framealign.hubert.parameters import digest_of_state
from framealign.units.codebook import Codebook
from framealign.units.extraction import mfcc_store, state_store
from framealign.units.frame_store import FrameStore
from framealign.units.units import Units, cluster_numbers, unit_files, write_units
from framealign.training.finetune import both_ways, finetune
from framealign.training.pretrain import pretrain
from framealign.recipe import model_card, preflight
from framealign.recipe.presets import preset, with_overrides
from framealign.recipe.stages import Redo, Stage, nothing_half_made, run_stage

PAPERS = ("finetune", "tapt", "align")              # the paper's methods
METHODS = (*PAPERS, "multiscale")
TESTED = {"finetune": "finetune", "tapt": "tapt-finetune", "align": "ser-finetune",     # the stage a method reports
          "multiscale": "multiscale-finetune"}
TINY = Path(__file__).parents[1] / "tiny"               # the committed base model of the preset `tiny`


@dataclass(frozen=True)
class SessionConfig:
    """What is run: corpus, base model, method and protocol."""
    corpus: str = setting("", "manifest, or table with a header")
    iemocap: str = setting("", "folder that holds Session1 ... Session5")
    allow_partial: bool = setting(False, "take an IEMOCAP tree whose counts are not the published ones")
    hubert: str = setting("", "base model: a model directory, `tiny` (comes with the project) or `scratch`")
    codebook: str = setting("", "codebook of tapt-units, e.g. the released 500 clusters; without it one is fitted")
    preset: str = setting("base", "size and settings: tiny, small, base or large")
    out: str = setting("runs/session", "folder of all stages")
    session: str = setting("1", "session held out for the test; `all`: each in turn")
    method: str = setting("", "finetune, tapt, align (default), multiscale; `all`: one by one")
    clusters: str = setting("", "clusters of align, e.g. 50, or of multiscale, e.g. 32,64,128; without it the preset's")
    selection: str = setting("clean", "protocol: clean, last, speaker, reference or best-test")
    validate_on: str = setting(
        "session", "what clean selection validates on: session (a whole training session) or speaker (one of it)")
    pretrain_data: str = setting("transductive", "transductive, or inductive: without the held-out session's audio")
    classes: str = setting(",".join(CLASSES), "separated by commas, in the order of the classifier")
    seed: int = setting(0, "of every random draw")
    seeds: str = setting("", "several seeds instead, e.g. 1,2,3: a run of each in `seed1`, `seed2` ...")
    device: str = setting("auto", "auto, cpu, cuda or mps")
    precision: str = setting("auto", "auto, float32 or bfloat16")
    redo: str = setting("", "a stage's name or `all`: remake it where it stands")
    preflight: bool = setting(False, "check all that can be checked before the hours of training, and stop there")

    def __post_init__(self):
        meant = method_of(self.clusters)
        if not self.method:
            object.__setattr__(self, "method", meant)
        if self.clusters and self.method not in (meant, "all"):
            raise ValueError(f"--clusters {self.clusters} is for --method {meant}, got {self.method}")
        for name, known in (("method", (*METHODS, "all")), ("selection", SELECTIONS),
                            ("validate_on", ("session", "speaker")),
                            ("pretrain_data", ("transductive", "inductive"))):
            if getattr(self, name) not in known:
                raise ValueError(f"--{name.replace('_', '-')} must be one of {', '.join(known)}, "
                                 f"got {getattr(self, name)}")
        if bool(self.corpus) == bool(self.iemocap):
            raise ValueError("give either --corpus (a manifest or table) or --iemocap (a folder)")
        if not self.hubert:
            raise ValueError("give the base model: --hubert with a model directory, tiny or scratch")
        class_names(self.classes)

    def of(self, method: str) -> "SessionConfig":
        """The same for one of the methods of `all`; clusters go to the one that takes so many."""
        return dataclasses.replace(self, method=method,
                                   clusters=self.clusters if method == method_of(self.clusters) else "")


def method_of(clusters: str) -> str:
    """Which method these numbers of clusters are for: one (or none) `align`, several `multiscale`."""
    return "multiscale" if clusters and len(cluster_numbers(clusters)) > 1 else "align"


def read_utterances(config: SessionConfig) -> list[Utterance]:
    """The corpus, its sound files' headers checked. IEMOCAP's utterances of a class left out become unlabelled."""
    classes = class_names(config.classes)
    if config.iemocap:
        found = iemocap.from_iemocap(config.iemocap, config.allow_partial)
        return [u if u.label in classes else dataclasses.replace(u, label="") for u in found]
    found = manifest.read(config.corpus, classes)
    preflight.check_files(found)
    return found


def tested_stage(method: str, selection: str) -> str:
    """The stage whose test a method reports. Phase 1's recogniser is also made for the methods that build on it."""
    aside = method == "tapt" and selection != honest(selection)
    return TESTED[method] + (f"-{selection}" if aside else "")


def honest(selection: str) -> str:
    """How phase 1's recogniser is selected: never by the test session, whatever is reported in the end."""
    return selection if selection in ("clean", "last") else "clean"


class Recipe:
    """The stages of one configuration; `stages()` lists them in order, `run()` runs them and gives the results."""

    def __init__(self, config: SessionConfig, overrides: dict[str, str] | None = None,
                 utterances: list[Utterance] | None = None):
        self.config = config
        self.preset = with_overrides(preset(config.preset), overrides or {})
        self.device = distributed.choose_device(config.device)
        distributed.autocast(self.device, config.precision)         # an unknown one is an error now
        self.classes = class_names(config.classes)
        self.utterances = read_utterances(config) if utterances is None else utterances
        self.root = Path(config.out)
        self.fold = self.root / f"session{config.session}"
        transductive = config.pretrain_data == "transductive"
        self.shared = self.root if transductive else self.fold      # where stages go that a fold may share
        self.heard = protocols.pretraining_utterances(self.utterances, config.session, config.pretrain_data)
        self.base_digest = "of this run"            # what `scratch` makes; of another base model see `base`
        self.common = {"corpus": described(self.utterances), "seed": config.seed, "preset": config.preset}

    def base(self) -> list[Stage]:
        """The base HuBERT: one stage with nothing to make (a directory that is there), or the four of `scratch`."""
        if self.config.hubert == "scratch":
            self._check(self.preset.model)
            return self._scratch()
        folder = TINY if self.config.hubert == "tiny" else Path(self.config.hubert)
        hubert = self._load(folder)                 # a clear error now, not after hours
        self._check(hubert.config)
        config = {name: value for name, value in as_dict(hubert.config).items() if name != "extra"}
        self.base_digest = files.digest_of([digest_of_state(hubert.state_dict()), config, hubert.do_normalize])
        return [Stage("base", folder, (), {}, [], None, {"encoder": self.base_digest})]

    def stages(self) -> list[Stage]:
        """The stages of this method, in order, the last one being the fine-tuning that is tested."""
        before = self.base()
        method, selection, base = self.config.method, self.config.selection, before[-1]
        if method == "finetune":
            return [*before, self._finetune(tested_stage(method, selection), base, selection)]
        units = self._units("tapt-units", base, self.preset.tapt_layer, [self.preset.tapt_clusters], self.shared)
        tapt = self._pretrain("tapt-pretrain", base, units, self.shared)
        if method == "tapt":
            return [*before, units, tapt, self._finetune(tested_stage(method, selection), tapt, selection)]
        first = self._finetune(TESTED["tapt"], tapt, honest(selection))
        default = self.preset.align_clusters if method == "align" else self.preset.multiscale_clusters
        pseudo = self._units(f"{method}-units", first, self.preset.align_layer,
                             cluster_numbers(self.config.clusters or str(default)), self.fold)
        align = self._pretrain(f"{method}-pretrain", base, pseudo, self.fold)
        return [*before, units, tapt, first, pseudo, align,
                self._finetune(tested_stage(method, selection), align, selection)]

    def room(self) -> dict[Path, int]:
        """Bytes that each folder may take on the disk at most, of stages that are not finished."""
        made = {stage.folder: stage.room for stage in self.stages()
                if stage.make and not (stage.folder / "stage.json").exists()}
        tuned = self.preset.finetune
        width = self.model.conv_dim[-1] if tuned.freeze_conv and tuned.cache_frontend else 0
        return made | {self.root / "frontend": preflight.frames_bytes(self.utterances, width, tuned.kept_type)}

    def splits(self, selection: str) -> list[protocols.Split]:
        """Who is trained, selected and tested on. Raises ValueError where the corpus does not allow the protocol."""
        return protocols.split(self.utterances, self.config.session, selection, self.config.validate_on, self.classes)

    def run(self, redo: Redo | None = None) -> dict:
        """Run what is not yet there; the tested fold's results. redo: what was made again before, for another fold."""
        self.splits(self.config.selection)          # errors first
        stages, redo = self.stages(), redo or Redo(self.root, self.config.redo)
        names = [stage.name for stage in stages if stage.make]
        if redo.name not in ("", "all", *names):
            raise ValueError(f"--redo must be all or one of {', '.join(names)}, got {redo.name}")
        with nothing_half_made(self.root / "frontend", self.shared / "frontend"):
            for stage in stages:
                if stage.make is not None:
                    run_stage(stage, redo)
        last = stages[-1]
        if distributed.rank() == 0:
            manifest.write(self.root / "corpus.tsv", self.utterances)
            link(self.fold / "recogniser", last.product("recogniser"))
        return files.read_json(last.product("results.json"))

    def _check(self, model: HubertConfig) -> None:
        """Raise ValueError where the base model lacks a layer whose states are wanted, or a given codebook's width."""
        self.model = model
        used = {"finetune": (), "tapt": ("tapt_layer",)}.get(self.config.method, ("tapt_layer", "align_layer"))
        for name in (*used, *(["scratch_layer"] if self.config.hubert == "scratch" else [])):
            if not 0 <= (layer := getattr(self.preset, name)) <= model.num_hidden_layers:
                raise ValueError(f"{name} is {layer}, the base model has blocks 1 to {model.num_hidden_layers}; choose "
                                 f"the --preset of the model's size (now {self.config.preset}), or --set {name}=...")
        if self.config.codebook and used:
            preflight.given_codebook(self.config.codebook, model.hidden_size)

    def _load(self, folder: Path) -> Hubert:
        """An encoder; what its directory may lack (the mask embedding) is drawn from the seed."""
        torch.manual_seed(self.config.seed)
        return Hubert.from_pretrained(folder)

    def _protocol(self, selection: str = "") -> dict:
        """What a stage's numbers mean, for records, results and the table."""
        config, tuned = self.config, self.preset.finetune
        told = {"hubert": config.hubert, "base_digest": self.base_digest, "preset": config.preset,
                "pretrain_data": config.pretrain_data, "seed": config.seed}
        if selection:
            told |= {"selection": selection, **({"validate_on": config.validate_on} if selection == "clean" else {}),
                     "classes": self.classes, "merged": "excited into happy" if config.iemocap else "none",
                     "training_crop_seconds": tuned.max_seconds or "none",
                     "test_crop_seconds": tuned.test_max_seconds or "none"}
        return told

    def _units(self, name: str, model: Stage, layer: int, clusters: list[int], place: Path) -> Stage:
        """Layer states of a model -> codebook -> units, for each number of clusters."""
        given = self.config.codebook if name == "tapt-units" else ""
        utterances = self.heard

        def make(folder: Path) -> None:
            codebook = Codebook.read(given) if given else None
            store = state_store(self._load(self._model(model)), layer, utterances, folder / "states", self.device)
            record = {"layer": layer, "model": model.digests, "frame_rate": 50, "seed": self.config.seed,
                      "codebook": given or "fitted"}
            self._write_units(folder, store, clusters, codebook, record)

        settings = self.common | {"layer": layer, "clusters": clusters, "kmeans": as_dict(self.preset.kmeans),
                                   "heard": described(utterances), "codebook": files.digest(given) if given else ""}
        return Stage(name, place / name, tuple(sum(unit_files(clusters), ())), settings, [model], make,
                     protocol=self._protocol(), room=preflight.frames_bytes(utterances, self.model.hidden_size))

    def _pretrain(self, name: str, start: Stage, units: Stage, place: Path) -> Stage:
        """Masked prediction of units, starting from the encoder of `start`."""
        config = self._seeded(self.preset.pretrain)

        def make(folder: Path) -> None:
            pretrain(self._load(self._model(start)), self.heard, self._read_units(units), config, folder, self.device,
                     self.config.precision, self.shared / "frontend")

        settings = self.common | {"pretrain": as_dict(config), "heard": described(self.heard),
                                  "precision": self.config.precision}
        return Stage(name, place / name, ("encoder",), settings, [start, units], make, protocol=self._protocol(),
                     room=preflight.training_bytes(self.model, config))

    def _finetune(self, name: str, start: Stage, selection: str) -> Stage:
        """Fine-tuning, selection and test; both ways round where the protocol has two."""
        config = dataclasses.replace(self._seeded(self.preset.finetune), selection=selection)
        splits, protocol = self.splits(selection), self._protocol(selection)

        def make(folder: Path) -> None:
            found = []
            for index, part in enumerate(splits):
                place = folder if len(splits) == 1 else folder / f"way{index + 1}"
                found.append(finetune(self._load(self._model(start)), self.utterances, part, self.classes, config,
                                      place, self.device, self.config.precision, self.root / "frontend"))
            if distributed.rank() == 0:
                results = found[0] if len(splits) == 1 else both_ways(folder, found, self.utterances)
                files.write_json(folder / "results.json", results | {"protocol": protocol})
                model_card.write(folder / "recogniser", results | {"protocol": protocol}, splits)
            distributed.barrier()

        settings = self.common | {"finetune": as_dict(config), "session": self.config.session, "classes": self.classes,
                                   "split": [split_ids(part) for part in splits], "precision": self.config.precision,
                                   "pretrain_data": self.config.pretrain_data}
        products = ("recogniser", "results.json", "predictions.csv")
        return Stage(name, self.fold / name, products, settings, [start], make, protocol=protocol,
                     room=preflight.training_bytes(self.model, config) * len(splits))

    def _scratch(self) -> list[Stage]:
        """Stage 0: HuBERT as HuBERT was made: MFCC units, pretraining, layer states' units, pretraining."""
        place, chosen = self.shared / "scratch", self.preset
        config = self._seeded(chosen.scratch)

        def mfcc_units(folder: Path) -> None:
            store = mfcc_store(self.heard, folder / "mfcc")
            record = {"feature": "mfcc", "seed": self.config.seed, "frame_rate": 50}
            self._write_units(folder, store, [chosen.scratch_clusters], None, record)

        def iteration(units: Stage) -> Callable[[Path], None]:
            def make(folder: Path) -> None:
                torch.manual_seed(self.config.seed)
                pretrain(Hubert(chosen.model, chosen.do_normalize), self.heard, self._read_units(units), config,
                         folder, self.device, self.config.precision)
            return make

        heard, protocol = self.common | {"heard": described(self.heard)}, self._protocol()
        settings = heard | {"pretrain": as_dict(config), "model": as_dict(chosen.model),
                            "do_normalize": chosen.do_normalize, "precision": self.config.precision}
        mfcc = Stage("mfcc-units", place / "mfcc-units", ("codebook.safetensors", "units.safetensors"),
                     heard | {"clusters": chosen.scratch_clusters, "kmeans": as_dict(chosen.kmeans)}, [], mfcc_units,
                     protocol=protocol)
        room = preflight.training_bytes(chosen.model, config)
        first = Stage("scratch-1", place / "scratch-1", ("encoder",), settings, [mfcc], iteration(mfcc),
                      protocol=protocol, room=room)
        states = self._units("scratch-units", first, chosen.scratch_layer, [chosen.tapt_clusters], place)
        second = Stage("scratch-2", place / "scratch-2", ("encoder",), settings, [states], iteration(states),
                       protocol=protocol, room=room)
        return [mfcc, first, states, second]

    def _write_units(self, folder: Path, store: FrameStore, clusters: list[int], codebook: Codebook | None,
                     record: dict) -> None:
        """Make and write a stage's products, and drop the features they were made of."""
        write_units(folder, store, self.heard, clusters, self._seeded(self.preset.kmeans), codebook, record)
        if distributed.rank() == 0:
            for kept in ("states", "mfcc"):
                shutil.rmtree(folder / kept, ignore_errors=True)
        distributed.barrier()

    def _read_units(self, stage: Stage) -> list[Units]:
        """The units of a stage, of each codebook."""
        return [Units.read(stage.product(name)) for name in stage.products if name.startswith("units")]

    def _model(self, stage: Stage) -> Path:
        """The directory of a stage's model."""
        return stage.product(stage.products[0]) if stage.products else stage.folder

    def _seeded(self, config):
        return dataclasses.replace(config, seed=self.config.seed)


def run_sessions(config: SessionConfig, overrides: dict[str, str], redo: Redo | None = None) -> dict[str, dict]:
    """Run one fold, or with session = "all" every fold in turn: results by held-out session.

    redo: what was made again before, for another method; who gives it calls its `finish`.
    """
    utterances, again = read_utterances(config), redo or Redo(config.out, config.redo)
    sessions = [config.session]
    if config.session == "all":
        sessions = sorted({u.session for u in utterances if u.label}, key=lambda name: (len(name), name)) or [""]
    recipes = {name: Recipe(dataclasses.replace(config, session=name), overrides, utterances) for name in sessions}
    wanted = {}
    for recipe in recipes.values():                 # the last session's errors now, not after hours
        for part in recipe.splits(config.selection):
            if config.preflight:
                preflight.say_parts(part)
        wanted |= recipe.room()
    preflight.check_room(Path(config.out), wanted)
    results = {}
    if config.preflight:
        return results
    with lock.held(config.out):
        for name, recipe in recipes.items():
            log.say(f"== session {name} held out, method {config.method}")
            results[name] = recipe.run(again)
        if redo is None:
            again.finish()
    return results
