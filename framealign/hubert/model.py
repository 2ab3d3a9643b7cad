"""HuBERT's encoder (Hsu et al. 2021, Sec. II; wav2vec 2.0, Sec. 2): waveform -> frames -> Transformer states.

Three parts, in Hugging Face's parameter names, so that a state dict is the export: `feature_extractor` (7 convolutions,
one frame every 20 ms), `feature_projection`, `encoder` (positional convolution, Transformer blocks; post-norm in base,
pre-norm in large). What is hidden from the encoder is an argument: nothing is ever masked by accident.
Padding never changes a result: statistics, convolutions and attention see only an utterance's own samples and frames.
"""
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framealign.runtime import log
from framealign.sound.frames import conv_length, valid_frames
from framealign.hubert import fast, model_directory
from framealign.hubert.dropout import Dropout, attend
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.initialisation import initialise


class ConvLayer(nn.Module):
    """Convolution, normalisation (group: per channel over the utterance's time; layer: per frame; none), GELU."""

    def __init__(self, config: HubertConfig, index: int):
        super().__init__()
        channels_in = 1 if index == 0 else config.conv_dim[index - 1]
        channels = config.conv_dim[index]
        self.conv = nn.Conv1d(channels_in, channels, config.conv_kernel[index], config.conv_stride[index],
                              bias=config.conv_bias)
        self.norm = config.feat_extract_norm if index == 0 or config.feat_extract_norm == "layer" else "none"
        if self.norm == "group":
            self.layer_norm = nn.GroupNorm(channels, channels)
        elif self.norm == "layer":
            self.layer_norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """x (B, C_in, N), lengths (B,) valid inputs of each or None for all N: (B, C, T)."""
        if self.norm == "group":                    # a bias of the convolution cancels out: it is left away
            scale, shift = self.group_norm_of(x, lengths)                       # (B, C, 1) each
            x = F.conv1d(x, self.conv.weight, None, self.conv.stride)           # (B, C, T)
            return F.gelu(torch.addcmul(shift.to(x), x, scale.to(x)))
        x = self.conv(x)                                                        # (B, C, T)
        if self.norm == "layer":
            x = self.layer_norm(x.transpose(1, 2)).transpose(1, 2)              # (B, C, T), normalised over C
        return F.gelu(x)

    def group_norm_of(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Group norm of this layer's output as scale and shift (B, C, 1), exact and without computing that output.

        The first layer has one input channel: with mu the mean of its input windows and R their covariance, channel c
        has mean w_c . mu and variance w_c' R w_c. Only an utterance's own windows count, so padding cannot matter.
        """
        (kernel,), (stride,) = self.conv.kernel_size, self.conv.stride
        exact = torch.float32 if x.device.type == "mps" else torch.float64
        windows = x[:, 0].to(exact).unfold(-1, kernel, stride)                  # (B, T, kernel)
        if lengths is None:
            counts = torch.full((len(x), 1, 1), windows.shape[1], dtype=exact, device=x.device)
        else:
            counts = conv_length(lengths, (kernel,), (stride,))
            windows = windows.masked_fill(~valid_frames(counts, windows.shape[1])[..., None], 0.0)
            counts = counts.to(exact)[:, None, None]
        mu = windows.sum(1, keepdim=True) / counts                              # (B, 1, kernel)
        covariance = windows.transpose(1, 2) @ windows / counts - mu.transpose(1, 2) @ mu   # (B, kernel, kernel)
        weight = self.conv.weight[:, 0].to(exact)                               # (C, kernel)
        mean = (mu @ weight.T).transpose(1, 2)                                  # (B, C, 1)
        variance = ((weight @ covariance) * weight).sum(-1, keepdim=True).clamp(min=0)      # (B, C, 1)
        scale = self.layer_norm.weight[:, None].to(exact) * torch.rsqrt(variance + self.layer_norm.eps)
        return scale, self.layer_norm.bias[:, None].to(exact) - mean * scale    # a bias of the conv cancels out


class FeatureExtractor(nn.Module):
    """The convolution stack: (B, N) samples -> (B, T, C) frames. HuBERT, Sec. II-A; 25 ms seen, every 20 ms."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.conv_layers = nn.ModuleList(ConvLayer(config, i) for i in range(len(config.conv_dim)))

    def forward(self, waveform: Tensor, num_samples: Tensor | None) -> Tensor:
        x, lengths = waveform[:, None], num_samples                             # (B, 1, N)
        for layer in self.conv_layers:
            x, lengths = layer(x, lengths), None    # only the first layer looks at lengths: the rest are frame-local
        return x.transpose(1, 2)                                                # (B, T, C)


class FeatureProjection(nn.Module):
    """Layer norm and one linear map: (B, T, C) -> (B, T, D)."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        if config.feat_proj_layer_norm:
            self.layer_norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size)
        self.dropout = Dropout(config.feat_proj_dropout)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "layer_norm"):
            x = self.layer_norm(x)
        return self.dropout(self.projection(x))


class PositionalConvolution(nn.Module):
    """Relative positions by a grouped, weight-normed convolution over frames. wav2vec 2.0, Sec. 2."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        kernel = config.num_conv_pos_embeddings
        conv = nn.Conv1d(config.hidden_size, config.hidden_size, kernel, padding=kernel // 2,
                         groups=config.num_conv_pos_embedding_groups)
        self.conv = nn.utils.parametrizations.weight_norm(conv, dim=2)

    def forward(self, x: Tensor, sizes: list[int] | None = None) -> Tensor:
        """x (B, T, D), or (1, S, D) of utterances of `sizes` frames end to end, each with zeros around: (B, T, D)."""
        weight, bias, conv = self.conv.weight, self.conv.bias, self.conv        # the weight norm is computed once
        if self.by_fft(x, sizes):
            y = fast.convolution(x.flatten(0, 1), weight, bias, conv.groups, sizes or [x.shape[1]] * len(x))
            return F.gelu(y).view(x.shape)
        # (B, D, T) of each; an even kernel gives T + 1 frames: the last is trimmed.
        apart = [F.conv1d(part, weight, bias, 1, conv.padding, 1, conv.groups)[..., :part.shape[2]]
                 for part in x.transpose(1, 2).split(sizes or x.shape[1], 2)]
        return F.gelu(torch.cat(apart, 2)).transpose(1, 2)                      # (B, T, D)

    def by_fft(self, x: Tensor, sizes: list[int] | None) -> bool:
        """Whether the fast path pays: for utterances end to end, and for training on a CPU (a tenth of its step)."""
        return x.device.type != "mps" if sizes else self.training and x.device.type == "cpu"


class Attention(nn.Module):
    """Multi-head self-attention over an utterance's real frames."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.num_heads, self.dropout = config.num_attention_heads, config.attention_dropout
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(config.hidden_size, config.hidden_size))

    def forward(self, x: Tensor, is_valid: Tensor | None, sizes: list[int] | None = None) -> Tensor:
        """x (B, T, D), is_valid (B, T) bool or None for all: (B, T, D).

        sizes: x is (1, S, D) and holds utterances of so many frames end to end; each attends to itself alone.
        """
        B, T, D = x.shape
        q, k, v = (proj(x).view(B, T, self.num_heads, -1).transpose(1, 2)       # (B, H, T, D / H) each
                   for proj in (self.q_proj, self.k_proj, self.v_proj))
        dropout = self.dropout if self.training else 0.0
        if sizes is None:
            real_keys = None if is_valid is None else is_valid[:, None, None, :]        # every query, real keys only
            y = attend(q, k, v, real_keys, dropout)                             # (B, H, T, D / H)
        else:
            y = fast.attention(q, k, v, sizes, dropout)                       # (1, H, S, D / H)
        return self.out_proj(y.transpose(1, 2).reshape(B, T, D))


class FeedForward(nn.Module):
    """Two linear maps with GELU between, frame by frame."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_dropout = Dropout(config.activation_dropout)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_dropout = Dropout(config.hidden_dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_dropout(self.output_dense(self.intermediate_dropout(F.gelu(self.intermediate_dense(x)))))


class Block(nn.Module):
    """One Transformer block; post-norm (base) or pre-norm (`do_stable_layer_norm`: large, xlarge)."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.pre_norm = config.do_stable_layer_norm
        self.attention = Attention(config)
        self.dropout = Dropout(config.hidden_dropout)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, is_valid: Tensor | None, sizes: list[int] | None = None) -> Tensor:
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.layer_norm(x), is_valid, sizes))
            return x + self.feed_forward(self.final_layer_norm(x))
        x = self.layer_norm(x + self.dropout(self.attention(x, is_valid, sizes)))
        return self.final_layer_norm(x + self.feed_forward(x))


class Encoder(nn.Module):
    """Positional convolution and the Transformer blocks."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.pre_norm = config.do_stable_layer_norm
        self.pos_conv_embed = PositionalConvolution(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, is_valid: Tensor | None, is_kept: list[bool] | None,
                sizes: list[int] | None = None) -> Iterator[Tensor]:
        """Yield layer 0 (the input), each block's output and, if pre-norm, that of the final norm: (B, T, D) each.

        Computed only as far as asked. sizes: x is (1, S, D), utterances of so many frames end to end.
        """
        x = x + self.pos_conv_embed(x, sizes)
        x = self.dropout(x if self.pre_norm else self.layer_norm(x))
        yield x
        for index, block in enumerate(self.layers):
            if is_kept is None or is_kept[index]:
                x = block(x, is_valid, sizes)
            yield x
        if self.pre_norm:
            yield self.layer_norm(x)


class Hubert(nn.Module):
    """The encoder. `Hubert(config)` is initialised as HuBERT's; `from_pretrained` reads a Hugging Face directory.

    `do_normalize` is what the model directory says about its input (zero mean, unit variance or as in the file). It is
    carried along here and applied by whoever reads the sound, never by the encoder.
    """

    def __init__(self, config: HubertConfig, do_normalize: bool = True):
        super().__init__()
        self.config, self.do_normalize = config, do_normalize
        self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size))
        self.feature_extractor = FeatureExtractor(config)
        self.feature_projection = FeatureProjection(config)
        self.encoder = Encoder(config)
        initialise(self)

    def frontend(self, waveform: Tensor, num_samples: Tensor | None = None) -> Tensor:
        """Conv encoder alone: waveform (B, N), num_samples (B,) or None for all N: features (B, T, C).

        Frames beyond an utterance's end hold what the padding gives; `layers` never looks at them. Raises ValueError
        for other shapes and for a waveform without one frame.
        """
        if waveform.ndim != 2 or not waveform.is_floating_point():
            raise ValueError(f"waveform must be float and (B, N), is {waveform.dtype} and {tuple(waveform.shape)}")
        if num_samples is not None and num_samples.shape != waveform.shape[:1]:
            raise ValueError(f"num_samples must be ({len(waveform)},), one for each waveform, is "
                             f"{tuple(num_samples.shape)}")
        shortest = conv_length(waveform.shape[-1], self.config.conv_kernel, self.config.conv_stride)
        if shortest < 1:
            raise ValueError(f"waveform must be long enough for one frame, got {waveform.shape[-1]} samples")
        return self.feature_extractor(waveform, num_samples)

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Frames of each utterance: (B,) samples -> (B,) frames, by this model's kernels and strides."""
        return conv_length(num_samples, self.config.conv_kernel, self.config.conv_stride)

    def layers(self, features: Tensor, num_frames: Tensor | None = None, is_masked: Tensor | None = None,
               is_kept: list[bool] | None = None, sizes: list[int] | None = None) -> Iterator[Tensor]:
        """Yield the states (B, T, D) of layers 0 ... L: stop asking and the layers above are never computed.

        Of pre-norm blocks one more follows, the final norm's: so the last one is always the encoder's output.
        features (B, T, C) from `frontend`; num_frames (B,) or None where all T are real; is_masked (B, T) bool: frames
        replaced by the mask embedding; is_kept: blocks that layer drop leaves in (None: all). Zeros beyond each end.
        sizes instead of num_frames: features are (1, S, C), utterances of so many frames end to end, without padding.
        """
        is_valid = None if num_frames is None else valid_frames(num_frames, features.shape[1])    # (B, T)
        x = self.feature_projection(features)                                   # (B, T, D)
        if is_masked is not None:
            x = torch.where(is_masked[..., None], self.masked_spec_embed.to(x), x)
        if is_valid is None:
            yield from self.encoder(x, None, is_kept, sizes)
            return
        padding = ~is_valid[..., None]
        x = x.masked_fill(padding, 0.0)             # the positional convolution must see zeros there, as at the ends
        for state in self.encoder(x, is_valid, is_kept):
            yield state.masked_fill(padding, 0.0)

    def states(self, waveform: Tensor, num_samples: Tensor | None = None, layer: int | None = None) -> Tensor:
        """States of one layer: waveform (B, N) float, num_samples (B,) int64: (B, T, D), zeros beyond each end.

        layer 0 is the block stack's input, n the output of block n; layers above are not computed. None is the
        encoder's output: the last layer, of pre-norm models after the final norm (transformers' last_hidden_state).
        Raises ValueError for a layer the model has not, or an utterance without one frame.
        """
        if layer is not None and not 0 <= layer <= self.config.num_hidden_layers:
            raise ValueError(f"layer must be in [0, {self.config.num_hidden_layers}], got {layer}")
        for index, state in enumerate(self._layers_of(waveform, num_samples)):
            if index == layer:
                break
        return state

    def states_of(self, waveforms: list[Tensor], layer: int | None = None) -> list[Tensor]:
        """States of one layer of utterances of any lengths, (N,) float each: a (T, D) for each. No gradients.

        The same as `states` up to rounding, without work for padding: convolutions as matrix products, utterance by
        utterance, then all frames end to end. Under autocast in its precision.
        """
        features = [self.features_of(waveform) for waveform in waveforms]
        sizes = [len(x) for x in features]
        *_, states = itertools.islice(self.layers(torch.cat(features)[None], sizes=sizes),
                                      None if layer is None else layer + 1)
        return list(states[0].split(sizes))

    @torch.no_grad()
    def features_of(self, waveform: Tensor) -> Tensor:
        """`frontend` of one utterance, the fastest way: (N,) float -> (T, C), in autocast's type where that is on."""
        device = waveform.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else waveform.dtype
        if device == "cpu" and dtype == torch.float32:
            return self.frontend(waveform[None])[0]     # a CPU's own convolutions are faster: docs/BENCHMARKS.md
        return fast.features(self.feature_extractor.conv_layers, waveform, dtype)

    def all_states(self, waveform: Tensor, num_samples: Tensor | None = None) -> tuple[Tensor, ...]:
        """States of layers 0 ... L as a tuple of (B, T, D); index n = layer n, as Hugging Face's hidden_states.

        Index L of a pre-norm model is before the final norm, as in fairseq, torchaudio and transformers >= 5; older
        transformers have `states(layer=None)` there.
        """
        return tuple(itertools.islice(self._layers_of(waveform, num_samples), self.config.num_hidden_layers + 1))

    def _layers_of(self, waveform: Tensor, num_samples: Tensor | None) -> Iterator[Tensor]:
        if num_samples is None:
            return self.layers(self.frontend(waveform))
        num_samples = num_samples.to(waveform.device)
        counts = self.num_frames(num_samples)
        if int(counts.min()) < 1 or int(num_samples.max()) > waveform.shape[-1]:
            raise ValueError(f"num_samples must be long enough for one frame and at most {waveform.shape[-1]}, got "
                             f"{num_samples.tolist()}")
        return self.layers(self.frontend(waveform, num_samples), counts)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "Hubert":
        """Read a Hugging Face directory, in evaluation mode. Strict: a missing or unexpected parameter is an error.

        What lies outside the encoder (a recogniser's or a CTC head) is left out, which is said. Raises ValueError.
        """
        found = model_directory.read(directory)
        hubert = cls(found.config, found.do_normalize)
        hubert.load(found.state, str(directory))
        if found.head:
            names = sorted({name.split(".")[0] for name in found.head})
            log.say_once(f"{directory}: read the encoder only, left out {', '.join(names)}")
        return hubert.eval()

    def load(self, state: dict[str, Tensor], where: str) -> None:
        """Copy `state` in; every parameter must be there, in its shape. Raises ValueError naming those that are not."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        for name in model_directory.check(state, shapes, where):
            log.say_once(f"{where}: has no {name} (it was never masked); initialised afresh")
        self.load_state_dict(state, strict=False)   # `check` was the strict part

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json, model.safetensors and preprocessor_config.json, Hugging Face's own format."""
        model_directory.write(directory, self.config, self.state_dict(), do_normalize=self.do_normalize)
