"""What is checked before training: sound files, the codebook's width, who is in which part, room on the disk.

Sound files are compared with the manifest, by their headers. (Units are compared with frames where they are read, in
`Units.check`; speakers in two parts are refused where parts are made, in `protocols.split`.)
"""
import shutil
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path

from framealign.runtime import log
from framealign.sound import audio
from framealign.sound.frames import EVERY_20_MS, Framing
from framealign.corpus import manifest
from framealign.corpus.cropping import frame_counts
from framealign.corpus.importers import fairseq_list
from framealign.corpus.protocols import Split
from framealign.corpus.utterance import Utterance, by_corpus
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.parameters import shapes
from framealign.units.codebook import Codebook
from framealign.units.frame_store import kept_bytes
from framealign.training.training_config import FinetuneConfig, FramesConfig, PretrainConfig

WEIGHT_BYTES = 4                                    # of a number in float32


def read_corpus(path: str | Path) -> list[Utterance]:
    """The utterances of a manifest, of a table (its header names `path`) or of a fairseq .tsv, sound files checked.

    Raises ValueError for what is none of these, or where sound files are not as the corpus says.
    """
    utterances = fairseq_list.read(path) if fairseq_list.is_fairseq_list(path) else manifest.read(path)
    check_files(utterances)
    return utterances


def check_files(utterances: Sequence[Utterance]) -> None:
    """Compare every sound file's header with the manifest: it is there, readable, and as long as `num_samples` says.

    Raises one ValueError with the number of bad files and the first three.
    """
    with ThreadPoolExecutor(4) as pool:             # on a network's disk it is the waiting that counts
        differences = pool.map(_difference, utterances)
        bad = [text for text in log.progress(differences, len(utterances), "checking sound files") if text]
    if bad:
        raise ValueError(f"{len(bad)} of {len(utterances)} sound files are not as the manifest says: "
                         f"{' | '.join(bad[:3])}{' | ...' if len(bad) > 3 else ''}; repair them or make the manifest "
                         "again")


def _difference(utterance: Utterance) -> str:
    """What is wrong with an utterance's sound file by its header; "" where nothing is."""
    try:
        num_samples = audio.length(utterance.path)
    except (ValueError, OSError) as error:
        return str(error)
    if num_samples == utterance.num_samples:
        return ""
    return (f"{utterance.path}: {num_samples} samples at 16 kHz, the manifest says {utterance.num_samples} "
            "(num_samples counts at 16 kHz, whatever the file's rate)")


def given_codebook(path: str, width: int, source: dict) -> Codebook:
    """A codebook from a file. Raises ValueError where it does not label frames of that width from that source."""
    codebook = Codebook.read(path)
    if codebook.centroids.shape[1] != width:
        raise ValueError(f"{path}: a codebook of {codebook.centroids.shape[1]} dimensions cannot label frames of "
                         f"{width}; give one that was fitted on this model or feature")
    codebook.check_source(source, "give one that was fitted on them, or none")
    return codebook


def frames_bytes(utterances: list[Utterance], width: int, dtype: str = "float16", framing: Framing = EVERY_20_MS
                 ) -> int:
    """Bytes of the frames of these utterances in a frame store, `width` numbers of that type each.

    framing: where they lie. Raises ValueError for an utterance that is too short for one.
    """
    return kept_bytes(frame_counts(utterances, framing), width, dtype)


def means_bytes(utterances: Sequence[Utterance], model: HubertConfig) -> int:
    """Bytes of the means of all layers' states of these utterances (`extraction.layer_means`)."""
    return len(utterances) * (model.num_hidden_layers + 1) * model.hidden_size * WEIGHT_BYTES


def model_bytes(model: HubertConfig) -> int:
    """Bytes of an encoder's weights. Heads are small beside them and left out."""
    return sum(prod(shape) for shape in shapes(model).values()) * WEIGHT_BYTES


def training_bytes(model: HubertConfig, config: PretrainConfig | FinetuneConfig | FramesConfig) -> int:
    """Bytes of a training run at most: its checkpoints (weights and two moments), one being written, and the result.
    """
    return model_bytes(model) * (3 * (config.keep_checkpoints + 1) + 1)


def check_room(folder: Path, wanted: dict[Path, int]) -> None:
    """Say what will be written below `folder` and raise ValueError where the disk has no room for it.

    wanted: bytes of each folder when all of it is written; what is there already is subtracted.
    """
    missing = {place: size - bytes_in(place) for place, size in wanted.items()}
    needed = sum(max(0, size) for size in missing.values())
    disk = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(disk).free
    log.say(f"{folder}: up to {gigabytes(needed)} will be written, {gigabytes(free)} are free")
    if needed > free:
        largest = max(missing, key=missing.get)
        raise ValueError(f"{folder}: up to {gigabytes(needed)} will be written ({gigabytes(wanted[largest])} of it in "
                         f"{largest}), only {gigabytes(free)} are free; make room or choose another folder")


def bytes_in(folder: Path) -> int:
    """Bytes of the files below a folder; links are not followed."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def gigabytes(number: int) -> str:
    """Bytes in words: 1.50 GB."""
    return f"{number / 1e9:.2f} GB"


def say_parts(split: Split) -> None:
    """Say how many utterances of each class and corpus, and which speakers, each part of a split has."""
    for name in ("train", "valid", "test"):
        utterances = getattr(split, name)
        labels = Counter(utterance.label for utterance in utterances)
        speakers = sorted({utterance.speaker for utterance in utterances if utterance.speaker})
        classes = ", ".join(f"{number} {label}" for label, number in sorted(labels.items()))
        first_ten = ", ".join(speakers[:10]) + (" ..." if len(speakers) > 10 else "")
        corpora = ", ".join(f"{number} of {corpus}" for corpus, number in by_corpus(utterances).items())
        log.say(f"{split.name} {name}: {len(utterances)} utterances ({classes}), {len(speakers)} speakers "
                f"({first_ten}){f'; {corpora}' if corpora else ''}")
