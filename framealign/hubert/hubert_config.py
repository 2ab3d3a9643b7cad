"""Shape and dropout of an encoder, in the names of Hugging Face's config.json."""
from dataclasses import dataclass, field

from framealign.runtime.settings import require
from framealign.sound.frames import Framing


@dataclass(frozen=True)
class HubertConfig:
    """Shape and dropout of one encoder. The defaults are HuBERT base (HuBERT, Table I) in Hugging Face's names."""
    conv_dim: tuple[int, ...] = (512,) * 7          # C of each convolution
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    feat_extract_norm: str = "group"                # "group": after the first convolution; "layer": after each
    feat_extract_activation: str = "gelu"
    feat_proj_layer_norm: bool = True
    feat_proj_dropout: float = 0.1
    hidden_size: int = 768                          # D
    num_hidden_layers: int = 12
    num_attention_heads: int = 12                   # H
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout: float = 0.1
    activation_dropout: float = 0.0
    attention_dropout: float = 0.1
    layerdrop: float = 0.05                         # probability that a block is skipped in one training update
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    num_conv_pos_embeddings: int = 128              # kernel of the positional convolution, frames
    num_conv_pos_embedding_groups: int = 16
    conv_pos_batch_norm: bool = False               # of its input, instead of weight norm (a published 25 Hz model)
    do_stable_layer_norm: bool = False              # True: pre-norm blocks (large, xlarge)
    extra: dict = field(default_factory=dict, compare=False)    # Hugging Face's other fields, kept for the round trip

    def __post_init__(self):
        for name in ("conv_dim", "conv_kernel", "conv_stride"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        require(len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride) > 0,
                 "conv_dim, conv_kernel and conv_stride must have the same length, at least 1, got "
                 f"{len(self.conv_dim)}, {len(self.conv_kernel)} and {len(self.conv_stride)}")
        require(all(isinstance(x, int) and x > 0 for x in self.conv_dim + self.conv_kernel + self.conv_stride),
                 "conv_dim, conv_kernel and conv_stride must hold whole numbers above 0")
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
                     "num_conv_pos_embeddings", "num_conv_pos_embedding_groups"):
            value = getattr(self, name)
            require(isinstance(value, int) and value > 0, f"{name} must be a whole number above 0, got {value}")
        for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
            require(self.hidden_size % getattr(self, name) == 0,
                     f"{name} must divide hidden_size {self.hidden_size}, got {getattr(self, name)}")
        for name in ("feat_proj_dropout", "hidden_dropout", "activation_dropout", "attention_dropout", "layerdrop"):
            require(0 <= getattr(self, name) < 1, f"{name} must be in [0, 1), got {getattr(self, name)}")
        require(self.feat_extract_norm in ("group", "layer"),
                 f"feat_extract_norm must be group or layer, got {self.feat_extract_norm}")
        for name in ("hidden_act", "feat_extract_activation"):
            require(getattr(self, name) == "gelu", f"{name} must be gelu (all published HuBERTs), "
                                                    f"got {getattr(self, name)}")

    @property
    def framing(self) -> Framing:
        """Hop and receptive field that these convolutions have: 320 and 400 samples of every published size."""
        return Framing.of(self.conv_kernel, self.conv_stride)


BASE = HubertConfig()
LARGE = HubertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
                     feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True, hidden_dropout=0.0,
                     attention_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0)
