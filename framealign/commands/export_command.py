"""Write the encoder (or the recogniser) of any training checkpoint or model directory in Hugging Face's format.

    bin/export.py runs/iemocap/session1/align-pretrain hubert-emotion       # a run: its newest checkpoint
    bin/export.py runs/demo/session1/recogniser exported --encoder          # without pooling and classifier
    bin/export.py runs/demo/session1/recogniser exported --half             # weights of 16 bits: half the size
    bin/export.py runs/demo/session1/recogniser recogniser.pt2 --to torch-export        # for torch without framealign
    bin/export.py runs/demo/session1/recogniser recogniser.onnx --to onnx --int8        # for onnxruntime, without torch
"""
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from framealign.runtime import files, log
from framealign.hubert import model_directory
from framealign.exchange import encoder_file, torchaudio_weights
from framealign.emotion import calibration, exported_program, onnx_file
from framealign.training import checkpoint
from framealign.recipe import model_card, trained_on
from framealign.commands import command_line

PROGRAMS = ("torch-export", "onnx")                 # a recogniser with its preprocessing, in one file
FORMATS = ("huggingface", "torchaudio", *PROGRAMS)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line (`arguments`, or that of the process) and export."""
    parser = command_line.parser("export", __doc__, "source target")
    parser.add_argument("source", help="a run, one of its checkpoints, a model directory, or a file of weights "
                        "(fairseq's .pt)")
    parser.add_argument("target", help="directory to write (torchaudio, torch-export, onnx: file to write)")
    parser.add_argument("--encoder", action="store_true", help="leave out pooling, classifier and prediction head")
    parser.add_argument("--to", choices=FORMATS, default="huggingface",
                        help="torchaudio: a safetensors file of a state dict in torchaudio.models' names; "
                        "torch-export: a program that torch loads without framealign, from sound at 16 kHz on; "
                        "onnx: the same for onnxruntime (needs the packages onnx and onnxscript)")
    parser.add_argument("--int8", action="store_true",
                        help="of --to onnx: round the encoder's weights to 8 bits, for a file of a quarter of the size")
    parser.add_argument("--half", action="store_true",
                        help="of --to huggingface: round the weights to float16, for a file of half the size")
    args = parser.parse_args(arguments)

    run(args.source, args.target, args.encoder, args.to, args.int8, args.half)


def run(source: str, target: str, encoder_only: bool, form: str, int8: bool = False, half: bool = False) -> None:
    """Write a run's newest checkpoint, a checkpoint, a model directory or a file of weights in one of FORMATS.

    "huggingface": a model directory, half: its weights rounded to float16; "torchaudio": the encoder's state dict in
    torchaudio.models' names, as one safetensors file; "torch-export": the recogniser as one program
    (`exported_program`); "onnx": the same as an ONNX file (`onnx_file`), int8: with rounded weights. Raises ValueError
    for a source that cannot be read, flags that do not belong together, and where `target` exists already.
    """
    if int8 and form != "onnx":
        raise ValueError("--int8 rounds the weights of an ONNX file: give --to onnx with it")
    if half and form != "huggingface":
        raise ValueError("--half rounds the weights of a model directory: leave out --to")
    place = Path(source)
    if Path(target).exists():
        raise ValueError(f"{target}: exists already; choose another name or remove it")

    place = checkpoint.newest(place) or place
    content = encoder_file.read(place)
    if not content.is_recogniser and content.head and form not in PROGRAMS:
        log.say(f"{place}: {content.kind}: only its encoder is exported")
    head = content.head if content.is_recogniser and not encoder_only else {}

    if form in PROGRAMS and encoder_only:
        raise ValueError(f"--to {form} writes a recogniser: leave out --encoder")
    if form == "torch-export":
        exported_program.export(place, target, model_card.license_of(place))
    elif form == "onnx":
        onnx_file.export(place, target, model_card.license_of(place), int8)
    elif form == "torchaudio":
        weights = torchaudio_weights.to_torchaudio(content.state)
        with files.write_atomically(target) as temporary:
            license_name = model_card.license_of(place)
            save_file({name: x.contiguous() for name, x in weights.items()}, temporary,
                      {"license": license_name} if license_name else None)
    else:
        state, head = (rounded(content.state), rounded(head)) if half else (content.state, head)
        model_directory.write(target, content.config, state, head, do_normalize=bool(content.do_normalize),
                              labels=content.labels if head else None, preprocessor=content.preprocessor)
        # The model card, which names the licence; the temperatures; what its weights know:
        for name, wanted in ((model_card.NAME, True), (calibration.NAME, head), (trained_on.NAME, True)):
            if wanted and (place / name).exists():
                shutil.copyfile(place / name, Path(target) / name)
    log.say(f"{target}: {'recogniser' if head else 'encoder'} of {place}, {form} format")


def rounded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same as float16. Raises ValueError for a number that is too large for it."""
    as_half = {name: x.half() if x.is_floating_point() else x for name, x in weights.items()}
    for name, x in as_half.items():
        if x.is_floating_point() and not x.isfinite().all():
            raise ValueError(f"{name} has numbers above {torch.finfo(torch.float16).max:g}, the largest of float16; "
                             "export without --half")
    return as_half
