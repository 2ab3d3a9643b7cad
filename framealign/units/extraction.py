"""What units are made of, and training reads: MFCC, states of a layer or conv features of every utterance, kept.

HuBERT, Sec. II-A and IV-B: MFCC for the first units, states of a middle layer for those of the next iteration. Conv
features are not clustered: training on top of a frozen conv encoder reads them instead of sound. Nor are the means of
all layers' states, which are all that the frozen probe needs of an utterance.
"""
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from framealign.runtime import distributed, files
from framealign.sound.frames import EVERY_20_MS, Framing
from framealign.sound.mfcc import WIDTH, check_framing, mfcc
from framealign.corpus.utterance import Utterance, corpus_digest
from framealign.hubert import fast, long_sound
from framealign.hubert.model import Hubert
from framealign.hubert.parameters import digest_of_encoder, digest_of_state
from framealign.units.frame_store import Extraction, FrameStore

CPU_BATCH_SECONDS, GPU_BATCH_SECONDS = 20.0, 120.0  # on a CPU longer groups leave the caches


def mfcc_store(utterances: Sequence[Utterance], directory: Path, framing: Framing = EVERY_20_MS) -> FrameStore:
    """13 MFCC with deltas and delta-deltas (F = 39) of every utterance, of the waveform as it is in the file.

    framing: of the model that will predict their units. Raises ValueError for one that MFCC cannot follow.
    """
    check_framing(framing)

    def compute(waveforms: list[Tensor]) -> list[Tensor]:
        return [mfcc(waveform, framing) for waveform in waveforms]

    key = files.digest_of(["mfcc", str(framing), corpus_digest(utterances)])
    return FrameStore.fill(directory, utterances, Extraction("MFCC", key, WIDTH, compute, do_normalize=False,
                                                             framing=framing))


def state_store(hubert: Hubert, layer: int, utterances: Sequence[Utterance], directory: Path, device: torch.device,
                precision: str = "float32") -> FrameStore:
    """States (F = D) of one layer of every utterance; the layers above it are not computed. Nothing is masked.

    precision: as for `distributed.autocast`. Raises ValueError for a layer that the model does not have.
    """
    if not 0 <= layer <= hubert.config.num_hidden_layers:
        raise ValueError(f"layer must be in [0, {hubert.config.num_hidden_layers}], got {layer}")
    name = f"layer {layer}"
    hubert = hubert.to(device).eval()

    def of_group(waveforms: list[Tensor]) -> list[Tensor]:
        return fast.states(hubert, waveforms, layer)

    def of_long(waveform: Tensor) -> Iterator[Tensor]:
        return long_sound.states(hubert, waveform, layer, device)

    encoder = digest_of_encoder(hubert.state_dict(), hubert.config, hubert.do_normalize)
    key = files.digest_of([name, encoder, corpus_digest(utterances), precision])
    extraction = Extraction(name, key, hubert.config.hidden_size, _compute(hubert, device, of_group, of_long),
                            hubert.do_normalize, batch_seconds=_batch_seconds(device), framing=hubert.config.framing)
    # One context for all groups: weights are rounded to bfloat16 once.
    with torch.inference_mode(), distributed.autocast(device, precision)():
        return FrameStore.fill(directory, utterances, extraction)


def source_of_states(hubert: Hubert, layer: int) -> dict:
    """What a record says of the states that are clustered: compared by `Codebook.check_source`."""
    return {"layer": layer, "encoder": digest_of_encoder(hubert.state_dict(), hubert.config, hubert.do_normalize),
            "frame_rate": hubert.config.framing.rate}


def frontend_store(hubert: Hubert, utterances: Sequence[Utterance], directory: Path, device: torch.device,
                   dtype: str = "float16") -> FrameStore:
    """Conv features (F = C) of every utterance: what training on a frozen conv encoder would compute in every epoch.

    dtype: in which they are kept, float16, bfloat16 or float32; they are computed in float32.
    """
    hubert = hubert.to(device).eval()

    def of_group(waveforms: list[Tensor]) -> list[Tensor]:
        return [fast.conv_features(hubert, waveform) for waveform in waveforms]

    def of_long(waveform: Tensor) -> Iterator[Tensor]:
        for used, features in long_sound.features(hubert, waveform, device):
            yield features[0, used]                                             # (t, C)

    key = files.digest_of(["frontend", hubert.do_normalize, digest_of_state(hubert.feature_extractor.state_dict()),
                           hubert.config.conv_stride, corpus_digest(utterances), "float32"])
    extraction = Extraction("frontend", key, hubert.config.conv_dim[-1], _compute(hubert, device, of_group, of_long),
                            hubert.do_normalize, dtype, _batch_seconds(device), hubert.config.framing)
    with torch.inference_mode(), distributed.autocast(device, "float32")():
        return FrameStore.fill(directory, utterances, extraction)


def layer_means(hubert: Hubert, utterances: Sequence[Utterance], directory: Path, device: torch.device) -> FrameStore:
    """The mean over frames of the states of layers 0 ... L of every utterance: one row of (L + 1) D numbers, float32.

    Of long utterances the states are those of windows, as in recognition.
    """
    hubert = hubert.to(device).eval()
    num_layers = hubert.config.num_hidden_layers + 1

    def of_group(waveforms: list[Tensor]) -> list[Tensor]:
        of_layers = [torch.stack([states.mean(0) for states in layer]) for layer in fast.all_states(hubert, waveforms)]
        return list(torch.cat(of_layers, 1)[:, None])                           # (1, (L + 1) D) of each utterance

    def of_long(waveform: Tensor) -> Iterator[Tensor]:
        sums = torch.zeros(num_layers, hubert.config.hidden_size, dtype=torch.float64)
        for used, layers in long_sound.layers(hubert, waveform, device):
            of_layers = [states[0, used].sum(0) for states in itertools.islice(layers, num_layers)]
            sums += torch.stack(of_layers).cpu().double()
        yield (sums / hubert.num_frames(len(waveform))).flatten()[None]         # (1, (L + 1) D)

    encoder = digest_of_encoder(hubert.state_dict(), hubert.config, hubert.do_normalize)
    key = files.digest_of(["layer means", encoder, corpus_digest(utterances), "float32"])
    extraction = Extraction("layer means", key, num_layers * hubert.config.hidden_size,
                            _compute(hubert, device, of_group, of_long), hubert.do_normalize, "float32",
                            _batch_seconds(device), hubert.config.framing, per_utterance=True)
    with torch.inference_mode(), distributed.autocast(device, "float32")():
        return FrameStore.fill(directory, utterances, extraction)


def _compute(hubert: Hubert, device: torch.device, of_group: Callable[[list[Tensor]], list[Tensor]],
             of_long: Callable[[Tensor], Iterator[Tensor]]
             ) -> Callable[[list[Tensor]], list[Tensor | Iterator[Tensor]]]:
    """An `Extraction.compute`: waveforms (N,) go to `device` together; a long one, alone in its group, by windows."""
    def compute(waveforms: list[Tensor]) -> list[Tensor | Iterator[Tensor]]:
        if len(waveforms) == 1 and hubert.num_frames(len(waveforms[0])) > long_sound.WHOLE:
            return [of_long(waveforms[0])]
        return of_group([waveform.to(device) for waveform in waveforms])

    return compute


def _batch_seconds(device: torch.device) -> float:
    return CPU_BATCH_SECONDS if device.type == "cpu" else GPU_BATCH_SECONDS
