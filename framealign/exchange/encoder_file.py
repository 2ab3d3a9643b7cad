"""An encoder from wherever it is: a model directory, or a file of fairseq, torchaudio, transformers or this project.

Which of them a file is of is seen in its content, never in its name; what is none of them is said to be what it is.
"""
from pathlib import Path

from torch import Tensor

from framealign.runtime import log
from framealign.hubert import model_directory
from framealign.hubert.model import Hubert
from framealign.hubert.model_directory import Directory
from framealign.exchange import fairseq_checkpoint, torch_file
from framealign.exchange.imported_weights import Imported, as_hubert
from framealign.exchange.inert_pickle import mapping
from framealign.exchange.torchaudio_weights import from_torchaudio

# Beginnings of files that are none of an encoder's, and what they are.
_OTHERS = ((b"RIFF", "a sound file"), (b"fLaC", "a sound file"), (b"OggS", "a sound file"), (b"ID3", "a sound file"),
           (b"\x93NUMPY", "an array of numpy"), (b"\x1f\x8b", "a gzip archive; unpack it"), (b"GGUF", "a GGUF file"),
           (b"version https://git-lfs", "a Git LFS pointer; fetch the file with git lfs pull"),
           (b"{", "JSON; give the directory that it is in"), (b"", "no file that holds one"))


def load(place: str | Path) -> Hubert:
    """The encoder in a directory or file, in evaluation mode. Raises ValueError as `read`."""
    return Hubert.of(read(place), place)


def read(place: str | Path) -> Directory:
    """What a directory or file holds.

    Raises ValueError, one line naming the file, for what is missing, damaged or no HuBERT; and for a bare file of
    weights whose configuration neither a config.json beside it tells nor their shapes.
    """
    path = Path(place)
    if not path.is_file():
        return model_directory.read(path)
    with open(path, "rb") as file:
        start = file.read(32)
    if start[8:9] == b"{":                          # after the header's length
        return of_weights(model_directory.WEIGHTS[".safetensors"](path), path)
    if not start.startswith((b"PK\3\4", b"\x80")):
        what = next(what for beginning, what in _OTHERS if start.startswith(beginning))
        raise ValueError(f"{path}: no encoder: {what if start else 'an empty file'}")

    try:
        content = torch_file.read(path)
        root = mapping(content.root)
        weights = {} if mapping(root.get("model")) else content.tensors(root)
    except ValueError as error:
        raise ValueError(f"{path}: no encoder: {str(error)[:300]}") from None
    if not root:
        raise ValueError(f"{path}: no encoder: holds no tensors by name (a program, perhaps)")
    return of_weights(weights, path) if weights else as_directory(fairseq_checkpoint.of_content(content, path))


def of_weights(weights: dict[str, Tensor], path: Path) -> Directory:
    """The encoder of a bare file's weights in torchaudio's or Hugging Face's names. Raises ValueError for others."""
    if any("encoder.transformer." in name for name in weights):
        say_assumed(path)
        return as_directory(from_torchaudio(weights, path))
    if not any("encoder.pos_conv_embed." in name for name in weights):
        known = {"centroids": "a codebook", "units": "units"}                   # by the names of their tensors
        what = next((known[name] for name in known if name in weights), "")
        what = what or f"holds {len(weights)} tensors of no HuBERT ({', '.join(list(weights)[:3])})"
        raise ValueError(f"{path}: no encoder: {what}")
    if (path.parent / "config.json").is_file():
        return model_directory.of_weights(model_directory.read_config(path.parent), weights, path)
    say_assumed(path)
    state, head = model_directory.without_head(weights)
    content = as_directory(as_hubert(state, {}, None, path))
    content.head = head
    return content


def say_assumed(path: Path) -> None:
    """Note that a file of weights comes without its settings."""
    log.say_once(f"{path}: no config.json goes with these weights: what shapes do not tell (heads, strides, dropout) "
                 "is as in the published model of that size")


def as_directory(imported: Imported) -> Directory:
    """The same in the words of a model directory."""
    return Directory(imported.config, imported.state, imported.head, imported.do_normalize, {}, None)
