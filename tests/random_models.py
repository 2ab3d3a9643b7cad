"""Encoders of random weights, norms and biases too (their initial values would hide a swap), and random sound."""
from dataclasses import replace

import torch
from torch import Tensor

from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.model import Hubert

NARROW = HubertConfig(conv_dim=(16,) * 7, hidden_size=24, num_hidden_layers=3, num_attention_heads=3,
                      intermediate_size=40, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, layerdrop=0.0,
                      initializer_range=0.3)    # with 0.02 so narrow a block would hardly change its input
NARROW_PRE = replace(NARROW, feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True)
NARROWS = {"group, post-norm": NARROW, "layer, pre-norm": NARROW_PRE}
BATCH_NORM = replace(NARROW, conv_pos_batch_norm=True)
DROPOUTS = ("feat_proj_dropout", "hidden_dropout", "activation_dropout", "attention_dropout")


def make(config: HubertConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> Hubert:
    """A model in evaluation mode whose norms, statistics and biases are random too; of float64, the same weights."""
    torch.manual_seed(seed)
    hubert = Hubert(config, do_normalize=False)
    with torch.no_grad():
        for parameter in hubert.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        if config.conv_pos_batch_norm:
            norm = hubert.encoder.pos_conv_embed.batch_norm
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return hubert.to(dtype).eval()


def sound(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def padded(waveforms: list[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True), torch.tensor([len(x) for x in waveforms])
