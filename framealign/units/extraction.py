"""Features of every utterance, kept on the disk: MFCC, states of a layer, conv features."""
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from framealign.runtime import distributed, files
from framealign.sound.mfcc import mfcc
from framealign.corpus.utterance import corpus_digest
from framealign.hubert import fast, long_sound
from framealign.hubert.model import Hubert
from framealign.hubert.parameters import digest_of_state
from framealign.units.frame_store import FrameStore


def mfcc_store(utterances: list, directory: Path) -> FrameStore:
    """13 MFCC with deltas and delta-deltas of every utterance, from the waveform as it is in the file."""
    return FrameStore.fill(directory, utterances, 39, lambda waveforms: [mfcc(x) for x in waveforms],
                           files.digest_of(["mfcc", corpus_digest(utterances)]), do_normalize=False, what="MFCC")


def state_store(hubert: Hubert, layer: int, utterances: list, directory: Path, device: torch.device,
                precision: str = "float32") -> FrameStore:
    """States of one layer of every utterance; the layers above it are not computed. Nothing is masked."""
    if not 0 <= layer <= hubert.config.num_hidden_layers:
        raise ValueError(f"layer must be in [0, {hubert.config.num_hidden_layers}], got {layer}")
    return _filled(hubert, directory, utterances, hubert.config.hidden_size,
                   lambda waveforms: fast.states(hubert, waveforms, layer),
                   lambda waveform: long_sound.states(hubert, waveform, layer, device), f"layer {layer}", device,
                   precision)


def frontend_store(hubert: Hubert, utterances: list, directory: Path, device: torch.device,
                   dtype: str = "float16") -> FrameStore:
    """Output of the (frozen) conv encoder for every utterance: what training would otherwise compute every epoch."""
    return _filled(hubert, directory, utterances, hubert.config.conv_dim[-1],
                   lambda waveforms: [fast.conv_features(hubert, x) for x in waveforms],
                   lambda waveform: (x[0, kept] for kept, x in long_sound.features(hubert, waveform, device)), "frontend",
                   device, dtype=dtype)


def _filled(hubert: Hubert, directory: Path, utterances: list, width: int,
            forward: Callable[[list[Tensor]], list[Tensor]], by_windows: Callable[[Tensor], Iterator[Tensor]],
            what: str, device: torch.device, precision: str = "float32", dtype: str = "float16") -> FrameStore:
    """Compute and keep, or find kept, what `forward` gives for these utterances: (N,) each -> (T, width) each.

    by_windows: of one waveform (N,) longer than a window, the same in pieces (t, width). It comes alone in its batch.
    """
    hubert = hubert.to(device).eval()

    def compute(waveforms: list[Tensor]) -> list[Tensor | Iterator[Tensor]]:
        if len(waveforms) == 1 and hubert.num_frames(len(waveforms[0])) > long_sound.WHOLE:
            return [by_windows(waveforms[0])]
        return forward([x.to(device) for x in waveforms])

    state = hubert.feature_extractor.state_dict() if what == "frontend" else hubert.state_dict()
    key = files.digest_of([what, hubert.do_normalize, digest_of_state(state), corpus_digest(utterances), precision])
    # One context for all: weights are rounded to bfloat16 once. On a CPU longer groups leave the caches.
    with torch.inference_mode(), distributed.autocast(device, precision)():
        return FrameStore.fill(directory, utterances, width, compute, key, hubert.do_normalize, what, dtype,
                               20.0 if device.type == "cpu" else 120.0)


def padded(waveforms: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Waveforms (N,) as one zero-padded batch (B, N) and their lengths (B,), on `device`."""
    batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(device)
    return batch, torch.tensor([len(x) for x in waveforms], device=device)
