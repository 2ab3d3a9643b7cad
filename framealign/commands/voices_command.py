"""Make the models that come along, out of real voices: a HuBERT of unlabelled speech, and a recogniser on top of it.

    bin/voices.py speech.tsv emodb.tsv ravdess.tsv nemo.tsv --out runs/voices       # hours on a CPU; resumable
    bin/voices.py manifests --set scratch.updates=500 --target runs/mine            # every table of a folder

Tables without any label are the speech that the HuBERT `base` is pretrained on, in two iterations, from scratch
(HuBERT, Sec. II-D, IV-B): units of MFCC, then of its own states. Labelled tables, each a corpus, train `recogniser`:
the base is fine-tuned on degraded sound, corpora and classes drawn equally often, a group of speakers held out for the
test and one for the choice of an epoch and the temperatures; over time it says what it hears in windows. Both are
written as float16, each with `record.json`, a card and its licence.
"""
import dataclasses
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from framealign.runtime import distributed, files, lock, log, settings
from framealign.runtime.settings import setting
from framealign.sound.frames import SAMPLE_RATE
from framealign.corpus import manifest, several_corpora
from framealign.corpus.utterance import CLASSES, Utterance, corpus_description, natural_order
from framealign.exchange import encoder_file
from framealign.recipe import model_card, preflight, presets
from framealign.recipe.recipe import Recipe, base_stages, fine_tuning
from framealign.recipe.session_config import VOICES, SessionConfig
from framealign.recipe.stages import Redo, Stage, run_stages
from framealign.commands import command_line, export_command

# Of the recogniser, beside the preset's: sound as it is recorded elsewhere (half of the draws have no noise, room or
# line), by other microphones, voices that are higher or lower, no corpus above the others; the emotion over time in
# windows (a classifier of frames does not learn so many voices: docs/BENCHMARKS.md, "Real voices").
FOR_ANYONE = {"finetune.augment": "all", "finetune.augment_share": "0.2", "finetune.augment_speed": "0.15",
              "finetune.balance_corpora": "true", "finetune.epochs": "9", "finetune.window_seconds": "1.6"}

BASE_CARD = """
# HuBERT of real voices

A HuBERT encoder, {parameters:.1f} million parameters, {framing}, pretrained from scratch by
framealign's own commands (`bin/voices.py`) on speech without labels: masked prediction of {mfcc} clusters of MFCC for
{updates} updates of {seconds:g} s, then, again from scratch, of {clusters} clusters of the states of that model's
layer {layer}, as long. Weights are float16. `record.json` says with what settings, on what.

## Training data

{data}

## Use and limits

A start for fine-tuning (`bin/session.py --hubert voices --preset compact`), not a recogniser: it knows no emotion. It
is small and has heard hours of speech, not thousands: where a published HuBERT can be afforded, that one is better.
"""


@dataclass(frozen=True)
class VoicesRun:
    """Where the models go, and what their cards say."""
    out: str = setting("runs/voices", "folder of all stages")
    target: str = setting(str(VOICES), "folder that gets `base` and `recogniser`; default: where they come along")
    preset: str = setting("compact", "size and settings: tiny, compact, small, base or large")
    classes: str = setting(",".join(CLASSES), "the recogniser's, separated by commas")
    folds: str = setting("9", "groups of speakers, of which one is held out for the test and one for choosing an epoch "
                         "and the temperatures; or corpus: with --session, the one that is held out")
    session: str = setting("1", "group or corpus that is held out for the test")
    validate_on: str = setting("session", "who an epoch is chosen and the temperatures are fitted on: session (a whole "
                               "group or corpus) or speaker (one of it)")
    base_license: str = setting("", "of the card of `base`, e.g. cc-by-sa-4.0: that of the speech")
    license: str = setting("", "of the card of `recogniser`, e.g. cc-by-nc-sa-4.0: that of the labelled corpora")
    seed: int = setting(0, "seed of every random draw")
    device: str = setting("auto", "auto, cpu, cuda or mps")
    precision: str = setting("auto", "auto, float32 or bfloat16")

    def __post_init__(self):
        for name in (self.base_license, self.license):
            if name and not re.fullmatch("[a-z0-9][a-z0-9.-]*", name):
                raise ValueError("a licence must be a name as Hugging Face's cards have it, e.g. cc-by-4.0, got "
                                 f"{name!r}")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process) and make both models."""
    parser = command_line.parser("voices", __doc__, "table [table ...]")
    parser.add_argument("tables", nargs="+", metavar="table", help="manifests or tables of speech, labelled or not; a "
                        "folder stands for its .tsv files")
    settings.add_flags(parser, VoicesRun)
    command_line.add_overrides(parser, "the preset")
    args = parser.parse_args(arguments)

    config = settings.from_flags(args, VoicesRun())
    with command_line.ranks(config.device):
        run(args.tables, config, presets.parse_settings(args.overrides))


def run(names: Sequence[str], config: VoicesRun, overrides: dict[str, str]) -> None:
    """Make both models in `config.out`, then put them into `config.target`; the same command continues.

    Raises ValueError, before anything is made, for tables that are missing or do not belong together.
    """
    speech, labelled = read_tables(names)
    out = Path(config.out)
    files.check_writable(out)
    files.check_writable(config.target)
    with lock.held(out):
        base = make_base(config, overrides, written(out / "speech.tsv", speech))
        recogniser = make_recogniser(config, overrides, written(out / "labelled.tsv", labelled))
    log.say(f"{base} and {recogniser}: made of {corpus_description(speech)} without labels, "
            f"{corpus_description(labelled)} with labels")


def read_tables(names: Sequence[str]) -> tuple[list[Utterance], list[Utterance]]:
    """The utterances of the tables without labels, and of those with, as `several_corpora.together`.

    Raises ValueError where there are none of the one or the other kind.
    """
    paths = [path for name in names for path in (sorted(Path(name).glob("*.tsv")) if Path(name).is_dir() else [name])]
    tables = [(str(path), preflight.read_corpus(path)) for path in paths]
    kinds = []
    for with_labels, wanted in ((False, "speech without labels, for the base"), (True, "labelled speech")):
        some = [(path, table) for path, table in tables if any(one.label for one in table) == with_labels]
        if not some:
            raise ValueError(f"{', '.join(names)}: no table of {wanted}; name one")
        kinds.append(several_corpora.together(some))
    return kinds[0], kinds[1]


def written(path: Path, utterances: list[Utterance]) -> Path:
    """The manifest of these utterances, at `path`."""
    if distributed.rank() == 0:
        manifest.write(path, utterances)
    distributed.barrier()
    return path


def make_base(config: VoicesRun, overrides: dict[str, str], speech: Path) -> Path:
    """HuBERT from scratch, two iterations (`recipe.base_stages`): its directory in the target."""
    chosen = SessionConfig(corpus=str(speech), hubert="scratch", preset=config.preset, out=config.out,
                           seed=config.seed, device=config.device, precision=config.precision)
    recipe = Recipe(chosen, overrides)
    stages = base_stages(recipe)
    run_stages(stages, Redo(config.out))
    size = recipe.preset
    parameters = sum(x.numel() for x in encoder_file.load(stages[-1].model).parameters())
    card = BASE_CARD.format(parameters=parameters / 1e6, framing=size.model.framing, mfcc=size.scratch_clusters,
                            updates=size.scratch.updates, seconds=size.scratch.batch_seconds,
                            clusters=size.tapt_clusters, layer=size.scratch_layer, data=by_source(recipe.utterances))
    card = with_license(f"---\nlibrary_name: framealign\npipeline_tag: feature-extraction\n---\n{card}",
                        config.base_license)
    return put(config, "base", stages, card)


def make_recogniser(config: VoicesRun, overrides: dict[str, str], labelled: Path) -> Path:
    """A recogniser that starts from the base (`recipe.fine_tuning`): its directory in the target."""
    chosen = SessionConfig(corpus=str(labelled), hubert=str(Path(config.target) / "base"), preset=config.preset,
                           method="finetune", out=config.out, folds=config.folds, session=config.session,
                           validate_on=config.validate_on, classes=config.classes, seed=config.seed,
                           device=config.device, precision=config.precision)
    recipe = Recipe(chosen, FOR_ANYONE | overrides)
    base, = base_stages(recipe)
    stages = [fine_tuning(recipe, chosen.method, base, chosen.selection)]
    run_stages(stages, Redo(config.out))
    card = (stages[-1].model / model_card.NAME).read_text(encoding="utf-8")
    return put(config, "recogniser", stages, with_license(card, config.license))


def put(config: VoicesRun, name: str, stages: list[Stage], card: str) -> Path:
    """The last stage's model as float16 in the target, with its card and `record.json`, what stood there replaced."""
    target = Path(config.target) / name
    if distributed.rank() == 0:
        half = files.temporary_name(target)         # beside it: put there by a rename, or not at all
        shutil.rmtree(half, ignore_errors=True)
        export_command.run(str(stages[-1].model), str(half), False, "huggingface", half=True)
        settings_of_run = {key: value for key, value in dataclasses.asdict(config).items()
                           if key not in ("out", "target")}                     # folders of this machine
        record = {"command": "bin/voices.py", **settings_of_run,
                  "stages": {stage.name: files.read_json(stage.folder / "stage.json") for stage in stages}}
        base = json.dumps(str(Path(config.target) / "base"))[1:-1]
        files.write_json(half / "record.json", json.loads(json.dumps(record).replace(base, "voices")))
        files.write_text(half / model_card.NAME, card.replace(base, "voices"))
        shutil.rmtree(target, ignore_errors=True)
        half.rename(target)
    distributed.barrier()
    return target


def with_license(card: str, name: str) -> str:
    """A card whose front matter names the licence, where there is one."""
    return card.replace("---\n", f"---\nlicense: {name}\n", 1) if name else card


def by_source(utterances: list[Utterance]) -> str:
    """A table of where the speech is from, by the manifest's sessions: files, hours, speakers."""
    rows = ["| session | files | hours | speakers |", "|---|--:|--:|--:|"]
    for session in natural_order({utterance.session for utterance in utterances}):
        some = [utterance for utterance in utterances if utterance.session == session]
        hours = sum(utterance.num_samples for utterance in some) / SAMPLE_RATE / 3600
        rows.append(f"| {session} | {len(some)} | {hours:.2f} | {len({one.speaker for one in some if one.speaker})} |")
    return "\n".join(rows)
