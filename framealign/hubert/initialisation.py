"""Initial distributions of an encoder's parameters, as fairseq draws them."""
import math

import torch
from torch import nn


@torch.no_grad()
def initialise(hubert: nn.Module) -> None:
    """Every tensor's distribution before training, once. HuBERT as fairseq trains it (BERT's in the blocks).

    mask embedding: uniform in [0, 1); convolutions: normal, He et al. 2015 (variance 2 / fan-in), a bias (large only)
    uniform in +-1/sqrt(fan-in); projection: uniform in +-1/sqrt(C), bias too; positional convolution: normal with
    variance 4 / (kernel x D), its weight-norm gain the norm that gives, bias 0; linear maps of the blocks: normal with
    standard deviation 0.02 (`initializer_range`), biases 0; norms: 1 and 0, the statistics of a batch norm 0 and 1.
    """
    config = hubert.config
    hubert.masked_spec_embed.uniform_()
    for layer in hubert.feature_extractor.conv_layers:
        nn.init.kaiming_normal_(layer.conv.weight)
        if layer.conv.bias is not None:
            bound = 1 / math.sqrt(layer.conv.weight[0].numel())
            layer.conv.bias.uniform_(-bound, bound)
    bound = 1 / math.sqrt(config.conv_dim[-1])
    hubert.feature_projection.projection.weight.uniform_(-bound, bound)
    hubert.feature_projection.projection.bias.uniform_(-bound, bound)
    position = hubert.encoder.pos_conv_embed.conv
    weight = torch.randn_like(position.weight) * math.sqrt(4 / (config.num_conv_pos_embeddings * config.hidden_size))
    if config.conv_pos_batch_norm:
        position.weight.copy_(weight)
    else:
        position.weight = weight                    # sets both parts of the weight norm: gain and direction
    position.bias.zero_()
    for block in hubert.encoder.layers:
        for module in block.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0.0, config.initializer_range)
                module.bias.zero_()
