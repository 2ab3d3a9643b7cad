"""HuBERT's encoder (Hsu et al. 2021, Sec. II-E; wav2vec 2.0, Sec. 2): waveform -> conv features -> Transformer states.

Three parts, in Hugging Face's parameter names, so that a state dict is the export: `feature_extractor` (7 convolutions,
one frame every 20 ms), `feature_projection`, `encoder` (positional convolution, Transformer blocks; post-norm in base,
pre-norm in large). This is the plain statement of the paper; what computes the same faster is in `fast.py`.

Which frames are masked is an argument: nothing is ever masked by accident. Padding never changes a result: statistics,
convolutions and attention use an utterance's own samples and frames only.
"""
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framealign.runtime import log
from framealign.runtime.distributed import exact_dtype
from framealign.sound.frames import conv_length, valid_frames
from framealign.hubert import fast, model_directory
from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.initialisation import initialise
from framealign.hubert.parameters import check


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

    def forward(self, x: Tensor, lengths: Tensor | None = None, group_norm: tuple[Tensor, Tensor] | None = None
                ) -> Tensor:
        """x (B, C_in, N), lengths (B,) valid inputs of each or None for all N: (B, C, T).

        group_norm: scale and shift where they are known already (`long_sound.py`), else those of x itself.
        """
        if self.norm == "group":
            scale, shift = group_norm or self.scale_and_shift(*self.input_sums(x, lengths))      # (B, C, 1) each
            x = F.conv1d(x, self.conv.weight, None, self.conv.stride)           # (B, C, T): the shift has the bias
            return F.gelu(torch.addcmul(shift.to(x), x, scale.to(x)))
        x = self.conv(x)                                                        # (B, C, T)
        if self.norm == "layer":
            x = self.layer_norm(x.transpose(1, 2)).transpose(1, 2)              # (B, C, T), normalised over C
        return F.gelu(x)

    def input_sums(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Over the kernel's windows of x (B, 1, N): number (B, 1, 1), sum (B, 1, k) and sum of products (B, k, k).

        Only the windows within an utterance's own `lengths` (B,) count, so padding cannot matter.
        """
        (kernel,), (stride,) = self.conv.kernel_size, self.conv.stride
        exact = exact_dtype(x.device)
        windows = x[:, 0].to(exact).unfold(-1, kernel, stride)                  # (B, T, kernel)
        if lengths is None:
            counts = torch.full((len(x), 1, 1), windows.shape[1], dtype=exact, device=x.device)
        else:
            counts = conv_length(lengths, (kernel,), (stride,)).to(x.device)    # (B,)
            windows = windows.masked_fill(~valid_frames(counts, windows.shape[1])[..., None], 0.0)
            counts = counts.to(exact)[:, None, None]
        return counts, windows.sum(1, keepdim=True), windows.transpose(1, 2) @ windows

    def scale_and_shift(self, counts: Tensor, sums: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
        """The group norm of this layer's output as scale and shift (B, C, 1), from the `input_sums` of an utterance.

        There is one input channel: with mean mu and covariance R of the windows, channel c of the output has mean
        w_c . mu and variance w_c' R w_c: exact, and known before that output is computed. A bias would cancel out.
        """
        mean = sums / counts                                                    # (B, 1, kernel)
        covariance = products / counts - mean.transpose(1, 2) @ mean            # (B, kernel, kernel)
        weight = self.conv.weight[:, 0].to(mean)                                # (C, kernel)
        mean = (mean @ weight.T).transpose(1, 2)                                # (B, C, 1)
        variance = ((weight @ covariance) * weight).sum(-1, keepdim=True).clamp(min=0)      # (B, C, 1)
        scale = self.layer_norm.weight[:, None].to(mean) * torch.rsqrt(variance + self.layer_norm.eps)
        return scale, self.layer_norm.bias[:, None].to(mean) - mean * scale


class FeatureExtractor(nn.Module):
    """The conv encoder: (B, N) samples -> (B, T, C) conv features. HuBERT, Sec. II-E; 25 ms every 20 ms."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.conv_layers = nn.ModuleList(ConvLayer(config, i) for i in range(len(config.conv_dim)))

    def forward(self, waveform: Tensor, num_samples: Tensor | None = None,
                group_norm: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """waveform (B, N), num_samples (B,) or None for all N; group_norm of the first layer, where it is known."""
        x = waveform[:, None]                                                   # (B, 1, N)
        first, *others = self.conv_layers
        x = first(x, num_samples, group_norm)       # its group norm is over time: padding must not count
        for layer in others:
            x = layer(x)                            # the others see single frames: padding stays behind the end
        return x.transpose(1, 2)                                                # (B, T, C)


class FeatureProjection(nn.Sequential):
    """Layer norm and one linear map, frame by frame: (B, T, C) -> (B, T, D)."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.layer_norm = nn.Identity()
        if config.feat_proj_layer_norm:
            self.layer_norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size)
        self.dropout = nn.Dropout(config.feat_proj_dropout)


class PositionalConvolution(nn.Module):
    """Relative positions by a grouped, weight-normed convolution over frames. wav2vec 2.0, Sec. 2.

    With `conv_pos_batch_norm` the weights are plain, and a batch norm stands before the convolution. Its mean and
    variance are the model's own, in training too (its scale and shift are trained): those of a batch would depend on
    padding, on masks and on the rank, and training and recognition would not be the same function.
    """

    def __init__(self, config: HubertConfig):
        super().__init__()
        kernel = config.num_conv_pos_embeddings
        self.conv = nn.Conv1d(config.hidden_size, config.hidden_size, kernel, padding=kernel // 2,
                              groups=config.num_conv_pos_embedding_groups)
        self.batch_norm = nn.BatchNorm1d(config.hidden_size) if config.conv_pos_batch_norm else None
        if self.batch_norm is None:
            self.conv = nn.utils.parametrizations.weight_norm(self.conv, dim=2)

    def normalised(self, x: Tensor) -> Tensor:
        """The batch norm, where there is one, of any frames (..., D): (..., D)."""
        norm = self.batch_norm
        y = F.batch_norm(x.flatten(0, -2), norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0,
                         norm.eps)                                              # (frames, D)
        return y.view_as(x)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """x (B, T, D), zero where `padding` (B, T, 1) is true -> (B, T, D)."""
        if self.batch_norm is not None:
            x = zero_where(padding, self.normalised(x))                         # around an utterance there are zeros
        y = self.conv(x.transpose(1, 2))[..., :x.shape[1]]      # (B, D, T); an even kernel gives T + 1: one is trimmed
        return F.gelu(y).transpose(1, 2)                                        # (B, T, D)


class Attention(nn.Module):
    """Multi-head self-attention over an utterance's real frames. Vaswani et al. 2017, Sec. 3.2."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.num_heads, self.dropout = config.num_attention_heads, config.attention_dropout
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(config.hidden_size, config.hidden_size))

    def forward(self, x: Tensor, is_valid: Tensor | None) -> Tensor:
        """x (B, T, D), is_valid (B, T) bool or None for all: (B, T, D)."""
        B, T, D = x.shape
        q, k, v = (proj(x).view(B, T, self.num_heads, -1).transpose(1, 2)       # (B, H, T, D / H) each
                   for proj in (self.q_proj, self.k_proj, self.v_proj))
        real_keys = None if is_valid is None else is_valid[:, None, None, :]    # (B, 1, 1, T): for every query
        y = F.scaled_dot_product_attention(q, k, v, real_keys, self.dropout if self.training else 0.0)
        return self.out_proj(y.transpose(1, 2).reshape(B, T, D))


class FeedForward(nn.Sequential):
    """Two linear maps with GELU between, frame by frame: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = nn.GELU()
        self.intermediate_dropout = nn.Dropout(config.activation_dropout)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_dropout = nn.Dropout(config.hidden_dropout)


class Block(nn.Module):
    """One Transformer block; post-norm (base) or pre-norm (`do_stable_layer_norm`: large, xlarge)."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.pre_norm = config.do_stable_layer_norm
        self.attention = Attention(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, is_valid: Tensor | None) -> Tensor:
        """x (B, T, D), is_valid (B, T) bool or None for all: (B, T, D)."""
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.layer_norm(x), is_valid))
            return x + self.feed_forward(self.final_layer_norm(x))
        x = self.layer_norm(x + self.dropout(self.attention(x, is_valid)))
        return self.final_layer_norm(x + self.feed_forward(x))


class Encoder(nn.Module):
    """Positional convolution and the Transformer blocks; `Hubert.layers` runs them one after the other."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.pre_norm = config.do_stable_layer_norm
        self.pos_conv_embed = PositionalConvolution(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))


def zero_where(padding: Tensor | None, x: Tensor) -> Tensor:
    """x (B, T, D) with zeros where `padding` (B, T, 1) is true; None: nowhere."""
    return x if padding is None else x.masked_fill(padding, 0.0)


class Hubert(nn.Module):
    """The encoder. `Hubert(config)` is initialised as HuBERT's; `from_pretrained` reads a Hugging Face directory.

    `do_normalize` is what the model directory says about its input (zero mean and unit variance, or as in the file). It
    is recorded here and applied by whoever reads the sound, never by the encoder.
    """

    def __init__(self, config: HubertConfig, do_normalize: bool = True):
        super().__init__()
        self.config, self.do_normalize = config, do_normalize
        self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size))
        self.feature_extractor = FeatureExtractor(config)
        self.feature_projection = FeatureProjection(config)
        self.encoder = Encoder(config)
        initialise(self)

    def forward(self, waveform: Tensor, num_samples: Tensor | None = None, is_masked: Tensor | None = None) -> Tensor:
        """The encoder's output: waveform (B, N) float, num_samples (B,) int64 or None for all N: (B, T, D).

        is_masked (B, T) bool: frames replaced by the mask embedding. Zeros beyond each utterance's end.
        """
        features = self.conv_features(waveform, num_samples)                    # (B, T, C)
        num_frames = None if num_samples is None else self.num_frames(num_samples)
        *_, output = self.layers(features, num_frames, is_masked)
        return output

    def conv_features(self, waveform: Tensor, num_samples: Tensor | None = None) -> Tensor:
        """Conv encoder alone: waveform (B, N), num_samples (B,) or None for all N: conv features (B, T, C).

        Frames beyond an utterance's end hold what the padding gives; `layers` never uses them. Raises ValueError for
        other shapes and for an utterance without one frame.
        """
        self._check_shapes(waveform, num_samples)
        return self.feature_extractor(waveform, num_samples)

    def num_frames(self, num_samples: Tensor | int) -> Tensor | int:
        """Frames of so many samples, by this model's kernels and strides: a number, or (B,) of (B,)."""
        return conv_length(num_samples, self.config.conv_kernel, self.config.conv_stride)

    def layers(self, features: Tensor, num_frames: Tensor | None = None, is_masked: Tensor | None = None,
               is_kept: list[bool] | None = None) -> Iterator[Tensor]:
        """Yield the states (B, T, D) of layers 0 ... L: stop asking and the layers above are never computed.

        Of pre-norm blocks one more follows, the final norm's: so the last one is always the encoder's output.
        features (B, T, C) from `conv_features`; num_frames (B,) or None where all T are real; is_masked (B, T) bool:
        frames replaced by the mask embedding; is_kept: blocks that layer drop leaves in (None: all). Zeros beyond each
        utterance's end.
        """
        encoder, is_valid, padding = self.encoder, None, None
        x = self.feature_projection(features)                                   # (B, T, D)
        if is_masked is not None:
            x = torch.where(is_masked[..., None], self.masked_spec_embed.to(x), x)
        if num_frames is not None:
            is_valid = valid_frames(num_frames.to(x.device), x.shape[1])        # (B, T)
            padding = ~is_valid[..., None]                                      # (B, T, 1)
            x = x.masked_fill(padding, 0.0)         # the positional convolution must see zeros there, as at the ends

        x = x + encoder.pos_conv_embed(x, padding)
        x = encoder.dropout(x if encoder.pre_norm else encoder.layer_norm(x))
        yield zero_where(padding, x)                                            # layer 0
        for index, block in enumerate(encoder.layers):
            if is_kept is None or is_kept[index]:
                x = block(x, is_valid)
            yield zero_where(padding, x)                                        # layer index + 1
        if encoder.pre_norm:
            yield zero_where(padding, encoder.layer_norm(x))

    def states(self, waveform: Tensor, num_samples: Tensor | None = None, layer: int | None = None) -> Tensor:
        """States of one layer: waveform (B, N) float, num_samples (B,) int64 or None for all N: (B, T, D).

        layer 0 is the block stack's input, n the output of block n; layers above are not computed. None is the
        encoder's output: the last layer, of pre-norm models after the final norm (transformers' last_hidden_state).
        Zeros beyond each utterance's end. Outside training, utterances of given lengths take the fast path, which
        computes no padding. Raises ValueError for a layer the model has not, or an utterance without one frame.
        """
        if layer is not None and not 0 <= layer <= self.config.num_hidden_layers:
            raise ValueError(f"layer must be in [0, {self.config.num_hidden_layers}], got {layer}")
        if num_samples is not None and not self.training:
            waveforms = self._unpadded(waveform, num_samples)
            return fast.padded(fast.states(self, waveforms, layer), self.num_frames(waveform.shape[1]))
        upto = None if layer is None else layer + 1
        *_, state = itertools.islice(self._layers_of(waveform, num_samples), upto)
        return state

    def all_states(self, waveform: Tensor, num_samples: Tensor | None = None) -> tuple[Tensor, ...]:
        """States of layers 0 ... L as a tuple of (B, T, D); index n = layer n, as Hugging Face's hidden_states.

        Index L of a pre-norm model is before the final norm, as in fairseq, torchaudio and transformers >= 5; older
        transformers have `states(layer=None)` there. Otherwise as `states`.
        """
        if num_samples is not None and not self.training:
            waveforms = self._unpadded(waveform, num_samples)
            T = self.num_frames(waveform.shape[1])
            return tuple(fast.padded(states, T) for states in fast.all_states(self, waveforms))
        layers = self._layers_of(waveform, num_samples)
        return tuple(itertools.islice(layers, self.config.num_hidden_layers + 1))

    def _layers_of(self, waveform: Tensor, num_samples: Tensor | None) -> Iterator[Tensor]:
        """`layers` of a waveform (B, N) and lengths (B,) or None."""
        num_frames = None if num_samples is None else self.num_frames(num_samples)
        return self.layers(self.conv_features(waveform, num_samples), num_frames)

    def _check_shapes(self, waveform: Tensor, num_samples: Tensor | None) -> None:
        """Raise ValueError unless waveform is float and (B, N), N long enough for one frame, and num_samples (B,)."""
        if waveform.ndim != 2 or not waveform.is_floating_point():
            raise ValueError(f"waveform must be float and (B, N), is {waveform.dtype} and {tuple(waveform.shape)}")
        if num_samples is not None and num_samples.shape != waveform.shape[:1]:
            raise ValueError(f"num_samples must be ({len(waveform)},), one for each waveform, is "
                             f"{tuple(num_samples.shape)}")
        if self.num_frames(waveform.shape[1]) < 1:
            raise ValueError(f"waveform must be long enough for one frame, got {waveform.shape[1]} samples")

    def _unpadded(self, waveform: Tensor, num_samples: Tensor) -> list[Tensor]:
        """Each utterance's own samples: (B, N), (B,) -> (n,) each. Raises ValueError for lengths that do not fit."""
        self._check_shapes(waveform, num_samples)
        lengths = num_samples.tolist()
        if not lengths or self.num_frames(min(lengths)) < 1 or max(lengths) > waveform.shape[1]:
            raise ValueError(f"num_samples must be long enough for one frame and at most {waveform.shape[1]}, got "
                             f"{lengths}")
        return [x[:length] for x, length in zip(waveform, lengths)]

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "Hubert":
        """Read a Hugging Face directory, in evaluation mode. Strict: a missing or unexpected parameter is an error.

        What lies outside the encoder (a recogniser's or a CTC head) is left out, which is said. Raises ValueError.
        """
        return cls.of(model_directory.read(directory), directory)

    @classmethod
    def of(cls, content: model_directory.Directory, where: str | Path) -> "Hubert":
        """The encoder of what `where` holds, in evaluation mode; that there is more, and what, is said."""
        hubert = cls(content.config, content.do_normalize)
        hubert.load(content.state, str(where))
        if content.head:
            log.say_once(f"{where}: {content.kind}: read the encoder only, left out "
                         f"{', '.join(sorted(content.modules))}")
        return hubert.eval()

    def load(self, state: dict[str, Tensor], where: str) -> None:
        """Copy `state` in; every parameter must be there, in its shape. Raises ValueError naming those that are not."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        for name in check(state, shapes, where):
            log.say_once(f"{where}: has no {name} (it was never masked); initialised afresh")
        self.load_state_dict(state, strict=False)   # `check` was the strict part

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json, model.safetensors and preprocessor_config.json, Hugging Face's own format."""
        model_directory.write(directory, self.config, self.state_dict(), do_normalize=self.do_normalize)
