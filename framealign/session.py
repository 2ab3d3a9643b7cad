"""The recipe: the stages of one fold in their order, each with a record, skipped when its record still matches.

Frame-level emotional state alignment (Li et al. 2024): phase 1 `tapt-units`, `tapt-pretrain`, `tapt-finetune`,
`align-units`; phase 2 `align-pretrain`; phase 3 `ser-finetune`. `--method tapt` and `--method finetune` are the paper's
ablation: they stop after phase 1's fine-tuning, or fine-tune the base HuBERT at once. Stages that do not depend on the
session (transductive pretraining) are made once and shared by all folds.
"""
import dataclasses
import json
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from framealign import __version__, corpus, distributed, files, log
from framealign.config import SELECTIONS, Preset, as_dict, preset
from framealign.finetune import finetune
from framealign.model import Hubert
from framealign.pretrain import pretrain
from framealign.units import Codebook, Units, identity, make_units, mfcc_store, state_store
from framealign.utterances import CLASSES

METHODS = ("finetune", "tapt", "align")
TINY = Path(__file__).parent / "tiny"               # the committed base model of the preset `tiny`


@dataclass(frozen=True)
class SessionConfig:
    """What is run: corpus, base model, method and protocol."""
    corpus: str = ""                                # manifest, or table with a header
    iemocap: str = ""                               # folder that holds Session1 ... Session5
    allow_partial: bool = False                     # take an IEMOCAP tree whose counts are not the published ones
    hubert: str = ""                                # model directory, `tiny` (comes with the project) or `scratch`
    codebook: str = ""                              # of tapt-units, e.g. the released 500 clusters; "": fitted
    preset: str = "base"                            # tiny, small, base or large
    run: str = "runs/session"                       # folder of all stages
    session: str = "1"                              # held out; `all`: each in turn
    method: str = "align"                           # finetune, tapt or align
    selection: str = "clean"                        # clean, last, speaker, reference or best-test
    pretrain_data: str = "transductive"             # or inductive: not even the held-out session's sound
    classes: str = ",".join(CLASSES)                # separated by commas, in the order of the classifier
    seed: int = 0                                   # of every random draw
    device: str = "auto"                            # auto, cpu, cuda or mps
    precision: str = "auto"                         # auto, float32 or bfloat16
    redo: str = ""                                  # a stage's name or `all`: remake it where it stands

    def __post_init__(self):
        for name, known in (("method", METHODS), ("selection", SELECTIONS),
                            ("pretrain_data", ("transductive", "inductive"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)}")
        if bool(self.corpus) == bool(self.iemocap):
            raise ValueError("give either a corpus (a manifest or table) or an iemocap folder")
        if not self.hubert:
            raise ValueError("give the base model: hubert = a model directory, tiny or scratch")


@dataclass
class Stage:
    """One step: `make(folder)` writes `products`; `settings` and `upstream` say when they are out of date."""
    name: str
    folder: Path
    products: tuple[str, ...]
    settings: dict
    upstream: list["Stage"]
    make: Callable[[Path], None] | None             # None: its product was given
    digests: dict[str, str] = field(default_factory=dict)       # of the products, once made

    def product(self, name: str) -> Path:
        return self.folder / name


def digest_product(path: Path) -> str:
    """Digest of a product: a file, or of a model directory its weights and configuration."""
    names = ["model.safetensors", "config.json", "preprocessor_config.json"] if path.is_dir() else [""]
    return files.digest_of([files.digest(path / name if name else path) for name in names])


def difference(found: dict, wanted: dict, prefix: str = "") -> str:
    """The first setting in which two records differ, in words; "" where there is none."""
    for key in sorted({*found, *wanted}):
        old, new = found.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            if inner := difference(old, new, f"{prefix}{key}."):
                return inner
        elif old != new:
            return f"{prefix}{key} was {old}, is {new}"
    return ""


def run_stage(stage: Stage, redo: str, remade: set[Path]) -> None:
    """Make a stage, or keep it where its record matches; continue one that was interrupted.

    Raises ValueError, with the reason, for a stage that is stale: it is remade only when asked (`redo`), or when a
    stage it builds on has just been remade because of that.
    """
    record_path = stage.folder / "stage.json"
    wanted = json.loads(json.dumps({"settings": stage.settings,
                                    "upstream": {up.name: up.digests for up in stage.upstream}}))
    if stage.folder not in remade and (redo in ("all", stage.name)
                                       or any(up.folder in remade for up in stage.upstream)):
        distributed.barrier()
        if distributed.rank() == 0:
            shutil.rmtree(stage.folder, ignore_errors=True)
        remade.add(stage.folder)
        distributed.barrier()
    if record_path.exists():
        record = files.read_json(record_path)
        reason = difference({key: record.get(key) for key in wanted}, wanted)
        absent = [name for name in stage.products if not stage.product(name).exists()]
        if reason or absent:
            raise ValueError(f"stage {stage.name} in {stage.folder} is stale: "
                             f"{reason or absent[0] + ' is gone'}; remake it and what builds on it with "
                             f"--redo {stage.name}, or choose another --run folder")
        stage.digests = record["products"]
        log.say(f"[{stage.name}] kept, made in {log.clock(record['seconds'])}")
        return
    began = time.monotonic()
    log.say(f"[{stage.name}] {stage.folder}")
    stage.make(stage.folder)
    stage.digests = {name: digest_product(stage.product(name)) for name in stage.products}
    seconds = round(time.monotonic() - began, 1)
    if distributed.rank() == 0:
        files.write_json(record_path, {"stage": stage.name, **wanted, "products": stage.digests, "seconds": seconds,
                                       "versions": {"framealign": __version__, "torch": torch.__version__,
                                                    "python": platform.python_version()},
                                       "ranks": distributed.world_size()})
    distributed.barrier()
    log.say(f"[{stage.name}] done in {log.clock(seconds)}")


class Recipe:
    """The stages of one configuration; `stages()` lists them in order, `run()` runs them and gives the results."""

    def __init__(self, config: SessionConfig, overrides: dict[str, str] | None = None):
        self.config = config
        self.preset = with_overrides(preset(config.preset), overrides or {})
        self.device = distributed.choose_device(config.device)
        self.classes = [name.strip() for name in config.classes.split(",")]
        self.utterances = corpus.from_iemocap(config.iemocap, config.allow_partial) if config.iemocap else \
            corpus.read(config.corpus, self.classes)
        self.root = Path(config.run)
        self.fold = self.root / f"session{config.session}"
        transductive = config.pretrain_data == "transductive"
        self.shared = self.root if transductive else self.fold      # where stages go that a fold may share
        self.heard = [] if config.session == "all" else \
            corpus.pretraining_utterances(self.utterances, config.session, config.pretrain_data)
        self.common = {"corpus": identity(self.utterances), "seed": config.seed, "preset": config.preset}

    def base(self) -> list[Stage]:
        """The base HuBERT: one stage with nothing to make (a directory that is there), or the four of `scratch`."""
        if self.config.hubert == "scratch":
            return self._scratch()
        folder = TINY if self.config.hubert == "tiny" else Path(self.config.hubert)
        Hubert.from_pretrained(folder)              # a clear error now, not after hours
        return [Stage("base", folder, (), {}, [], None, {"encoder": digest_product(folder)})]

    def stages(self) -> list[Stage]:
        """The stages of this method, in order, the last one being the fine-tuning that is tested."""
        before = self.base()
        method, base = self.config.method, before[-1]
        if method == "finetune":
            return [*before, self._finetune("finetune", base, self.config.selection)]
        units = self._units("tapt-units", base, base, self.preset.tapt_layer, self.preset.tapt_clusters, self.shared)
        tapt = self._pretrain("tapt-pretrain", base, units, self.shared)
        # Selecting the phase-1 recogniser must not look at the test session either, whatever is reported in the end.
        honest = self.config.selection if self.config.selection in ("clean", "last") else "clean"
        if method == "tapt":
            name = "tapt-finetune" if honest == self.config.selection else f"tapt-finetune-{self.config.selection}"
            return [*before, units, tapt, self._finetune(name, tapt, self.config.selection)]
        first = self._finetune("tapt-finetune", tapt, honest)
        pseudo = self._units("align-units", first, first, self.preset.align_layer, self.preset.align_clusters,
                             self.fold)
        align = self._pretrain("align-pretrain", base, pseudo, self.fold)
        last = self._finetune("ser-finetune", align, self.config.selection)
        return [*before, units, tapt, first, pseudo, align, last]

    def run(self, remade: set[Path] | None = None) -> dict:
        """Run what is not yet there; the tested fold's results. remade: stages redone before, for another fold."""
        corpus.split(self.utterances, self.config.session, self.config.selection, classes=self.classes)  # errors first
        stages, remade = self.stages(), set() if remade is None else remade
        redo = self.config.redo
        if redo and redo != "all" and redo not in [stage.name for stage in stages]:
            raise ValueError(f"--redo must be all or one of {', '.join(stage.name for stage in stages)}, got {redo}")
        if distributed.rank() == 0 and not (self.root / "corpus.tsv").exists():
            corpus.write(self.root / "corpus.tsv", self.utterances)
        for stage in stages:
            if stage.make is not None:
                run_stage(stage, redo, remade)
        last = stages[-1]
        if distributed.rank() == 0:
            link(self.fold / "recogniser", last.product("recogniser"))
        return files.read_json(last.product("results.json"))

    def _units(self, name: str, model: Stage, upstream: Stage, layer: int, clusters: int, place: Path) -> Stage:
        """Layer states of a model -> codebook -> units."""
        given = self.config.codebook if name == "tapt-units" else ""
        utterances = self.heard

        def make(folder: Path) -> None:
            hubert = Hubert.from_pretrained(self._model(model))
            store = state_store(hubert, layer, utterances, folder / "states", self.device)
            codebook = Codebook.read(given) if given else None
            record = {"layer": layer, "model": model.digests, "frame_rate": 50, "seed": self.config.seed,
                      "codebook": given or "fitted"}
            self._write_units(folder, *make_units(store, utterances, clusters, self._seeded(self.preset.kmeans),
                                                  codebook, record))

        settings = self.common | {"layer": layer, "clusters": clusters, "kmeans": as_dict(self.preset.kmeans),
                                   "heard": identity(utterances), "codebook": files.digest(given) if given else ""}
        return Stage(name, place / name, ("codebook.safetensors", "units.safetensors"), settings, [upstream], make)

    def _pretrain(self, name: str, start: Stage, units: Stage, place: Path) -> Stage:
        """Masked prediction of units, starting from the encoder of `start`."""
        config = self._seeded(self.preset.pretrain)

        def make(folder: Path) -> None:
            hubert = Hubert.from_pretrained(self._model(start))
            pretrain(hubert, self.heard, Units.read(units.product("units.safetensors")), config, folder, self.device,
                     self.config.precision, self.shared / "frontend")

        settings = self.common | {"pretrain": as_dict(config), "heard": identity(self.heard)}
        return Stage(name, place / name, ("encoder",), settings, [start, units], make)

    def _finetune(self, name: str, start: Stage, selection: str) -> Stage:
        """Fine-tuning, selection and test; both ways round where the protocol has two."""
        config = dataclasses.replace(self._seeded(self.preset.finetune), selection=selection)
        splits = corpus.split(self.utterances, self.config.session, selection, classes=self.classes)

        def make(folder: Path) -> None:
            found = []
            for index, part in enumerate(splits):
                place = folder if len(splits) == 1 else folder / f"way{index + 1}"
                hubert = Hubert.from_pretrained(self._model(start))
                found.append(finetune(hubert, self.utterances, part, self.classes, config, place, self.device,
                                      self.config.precision, self.root / "frontend"))
            if len(splits) > 1 and distributed.rank() == 0:
                both_ways(folder, found)

        settings = self.common | {"finetune": as_dict(config), "session": self.config.session,
                                   "classes": self.classes, "pretrain_data": self.config.pretrain_data}
        products = ("recogniser", "results.json", "predictions.csv")
        return Stage(name, self.fold / name, products, settings, [start], make)

    def _scratch(self) -> list[Stage]:
        """Stage 0: HuBERT as HuBERT was made: MFCC units, pretraining, layer states' units, pretraining."""
        place, chosen = self.shared / "scratch", self.preset
        config = self._seeded(chosen.scratch)

        def mfcc_units(folder: Path) -> None:
            store = mfcc_store(self.heard, folder / "mfcc")
            record = {"feature": "mfcc", "seed": self.config.seed, "frame_rate": 50}
            self._write_units(folder, *make_units(store, self.heard, chosen.scratch_clusters,
                                                  self._seeded(chosen.kmeans), None, record))

        def iteration(units: Stage) -> Callable[[Path], None]:
            def make(folder: Path) -> None:
                torch.manual_seed(self.config.seed)
                hubert = Hubert(chosen.model, chosen.do_normalize)
                pretrain(hubert, self.heard, Units.read(units.product("units.safetensors")), config,
                         folder, self.device, self.config.precision)
            return make

        heard = self.common | {"heard": identity(self.heard)}
        settings = heard | {"pretrain": as_dict(config), "model": as_dict(chosen.model)}
        mfcc = Stage("mfcc-units", place / "mfcc-units", ("codebook.safetensors", "units.safetensors"),
                     heard | {"clusters": chosen.scratch_clusters, "kmeans": as_dict(chosen.kmeans)}, [], mfcc_units)
        first = Stage("scratch-1", place / "scratch-1", ("encoder",), settings, [mfcc], iteration(mfcc))
        states = self._units("scratch-units", first, first, chosen.scratch_layer, chosen.tapt_clusters, place)
        second = Stage("scratch-2", place / "scratch-2", ("encoder",), settings, [states], iteration(states))
        return [mfcc, first, states, second]

    def _write_units(self, folder: Path, units: Units, codebook: Codebook) -> None:
        """Write both products and drop the features they were made of."""
        if distributed.rank() == 0:
            codebook.write(folder / "codebook.safetensors")
            units.write(folder / "units.safetensors")
            for kept in ("states", "mfcc"):
                shutil.rmtree(folder / kept, ignore_errors=True)
        distributed.barrier()

    def _model(self, stage: Stage) -> Path:
        """The directory of a stage's model."""
        return stage.product(stage.products[0]) if stage.products else stage.folder

    def _seeded(self, config):
        return dataclasses.replace(config, seed=self.config.seed)


def run_sessions(config: SessionConfig, overrides: dict[str, str]) -> dict[str, dict]:
    """Run one fold, or with session = "all" every fold in turn: results by held-out session."""
    recipe = Recipe(config, overrides)
    remade: set[Path] = set()
    if config.session != "all":
        return {config.session: recipe.run(remade)}
    sessions = sorted({u.session for u in recipe.utterances if u.label}, key=lambda name: (len(name), name))
    return {name: Recipe(dataclasses.replace(config, session=name), overrides).run(remade) for name in sessions}


def both_ways(folder: Path, found: list[dict]) -> None:
    """One result of the two trainings of a fold (each speaker tested once): means of the scores, all predictions."""
    lines = [(folder / f"way{i + 1}" / "predictions.csv").read_text(encoding="utf-8").splitlines()
             for i in range(len(found))]
    joined = lines[0][:1] + [line for part in lines for line in part[1:]]
    files.write_text(folder / "predictions.csv", "\n".join(joined) + "\n")
    mean = {name: sum(part["reported"][name] for part in found) / len(found) for name in found[0]["reported"]}
    files.write_json(folder / "results.json", found[0] | {"reported": mean, "ways": found})
    link(folder / "recogniser", folder / "way1" / "recogniser")


def link(name: Path, target: Path) -> None:
    """Point the relative symbolic link `name` at `target`, replacing what it pointed at."""
    temporary = name.with_name(f".{name.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, name.parent), target_is_directory=True)
    os.replace(temporary, name)


def parse_settings(settings: list[str]) -> dict[str, str]:
    """["pretrain.updates=500"] -> {"pretrain.updates": "500"}. Raises ValueError for a word without `=`."""
    for word in settings:
        if "=" not in word:
            raise ValueError(f"--set {word}: must read NAME=VALUE, for example pretrain.updates=500")
    return dict(word.split("=", 1) for word in settings)


def with_overrides(chosen: Preset, overrides: dict[str, str]) -> Preset:
    """A preset with single settings replaced: {"pretrain.updates": "500", "align_clusters": "30"}.

    Raises ValueError for a setting that does not exist or a value of another type.
    """
    for name, text in overrides.items():
        *part, item = name.split(".")
        owner = getattr(chosen, part[0], None) if part else chosen
        kinds = {f.name: f.type for f in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else {}
        if len(part) > 1 or kinds.get(item) not in (int, float, bool, str):
            raise ValueError(f"--set {name}: no such setting; for example pretrain.updates=500 or align_clusters=30")
        try:
            value = {"true": True, "false": False}[text.lower()] if kinds[item] is bool else kinds[item](text)
        except (KeyError, ValueError):
            raise ValueError(f"--set {name}={text}: must be of type {kinds[item].__name__}") from None
        owner = dataclasses.replace(owner, **{item: value})
        chosen = dataclasses.replace(chosen, **{part[0]: owner}) if part else owner
    return chosen
