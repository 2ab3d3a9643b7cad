"""Names and shapes of an encoder's parameters, as a table; strict comparison of weights with it; initial values.

The names are Hugging Face's (`HubertModel`), so that a state dict is the export. Everything that reads weights passes
them through `check`: a missing, unexpected or wrongly shaped parameter is named, never silently initialised.
"""
from torch import Tensor

from framealign.runtime import files
from framealign.runtime.settings import as_dict
from framealign.hubert.hubert_config import HubertConfig


# Fields of HubertConfig by which no state of a finished model changes.
OF_TRAINING = ("feat_proj_dropout", "hidden_dropout", "activation_dropout", "attention_dropout", "layerdrop",
               "initializer_range", "extra")
MASK_EMBEDDING = "masked_spec_embed"
_POSITIONAL = "encoder.pos_conv_embed.conv."
BATCH_NORM = "encoder.pos_conv_embed.batch_norm"    # of a model with `conv_pos_batch_norm`
BATCHES_SEEN = f"{BATCH_NORM}.num_batches_tracked"  # the one tensor of whole numbers; nothing is computed from it
# Weight norm g * v / |v| of the positional convolution: what older versions wrote, what torch >= 2.0 calls it.
_WEIGHT_NORM = {_POSITIONAL + "weight_g": _POSITIONAL + "parametrizations.weight.original0",     # g (1, 1, kernel)
                _POSITIONAL + "weight_v": _POSITIONAL + "parametrizations.weight.original1"}  # v (D, D/groups, kernel)


def shapes(config: HubertConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter and statistic of the encoder of `config`, in Hugging Face's names."""
    table: dict[str, tuple[int, ...]] = {MASK_EMBEDDING: (config.hidden_size,)}

    def affine(name: str, outputs: int, *weight: int) -> None:
        """A weight (outputs, *weight) and a bias (outputs,): of a linear layer, a convolution or a norm."""
        table[f"{name}.weight"], table[f"{name}.bias"] = (outputs, *weight), (outputs,)

    channels = (1, *config.conv_dim)
    for i, kernel in enumerate(config.conv_kernel):
        name = f"feature_extractor.conv_layers.{i}"
        affine(f"{name}.conv", channels[i + 1], channels[i], kernel)
        if not config.conv_bias:
            del table[f"{name}.conv.bias"]
        if i == 0 or config.feat_extract_norm == "layer":
            affine(f"{name}.layer_norm", channels[i + 1])
    if config.feat_proj_layer_norm:
        affine("feature_projection.layer_norm", channels[-1])
    width = config.hidden_size
    affine("feature_projection.projection", width, channels[-1])
    kernel = config.num_conv_pos_embeddings
    position = (width, width // config.num_conv_pos_embedding_groups, kernel)
    if config.conv_pos_batch_norm:
        affine(_POSITIONAL.removesuffix("."), *position)
        affine(BATCH_NORM, width)
        table |= {f"{BATCH_NORM}.running_mean": (width,), f"{BATCH_NORM}.running_var": (width,), BATCHES_SEEN: ()}
    else:
        table[_POSITIONAL + "bias"] = (width,)
        table[_WEIGHT_NORM[_POSITIONAL + "weight_g"]] = (1, 1, kernel)
        table[_WEIGHT_NORM[_POSITIONAL + "weight_v"]] = position
    affine("encoder.layer_norm", width)
    for i in range(config.num_hidden_layers):
        name = f"encoder.layers.{i}"
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            affine(f"{name}.attention.{projection}", width, width)
        affine(f"{name}.layer_norm", width)
        affine(f"{name}.feed_forward.intermediate_dense", config.intermediate_size, width)
        affine(f"{name}.feed_forward.output_dense", width, config.intermediate_size)
        affine(f"{name}.final_layer_norm", width)
    return table


def current_names(state: dict[str, Tensor], where: object) -> dict[str, Tensor]:
    """`state` with the positional convolution's weight norm in today's spelling, whichever of the two it came in.

    Raises ValueError where it holds both.
    """
    renamed = {_WEIGHT_NORM.get(name, name): tensor for name, tensor in state.items()}
    if len(renamed) != len(state):
        raise ValueError(f"{where}: holds the positional convolution's weights in both spellings (weight_g/weight_v "
                         f"and parametrizations.weight.original0/1)")
    return renamed


def check(state: dict[str, Tensor], expected: dict[str, tuple[int, ...]], where: object) -> list[str]:
    """Compare weights with the `expected` names and shapes; return the names that are missing and may be.

    Only `masked_spec_embed` may be missing: nothing but masking uses it, and transformers leaves it out of models that
    do not mask. Raises ValueError that names the missing, the unexpected and the wrongly shaped parameters.
    """
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    reshaped = [f"{name} {tuple(state[name].shape)}, not {shape}" for name, shape in expected.items()
                if name in state and tuple(state[name].shape) != tuple(shape)]
    allowed = [name for name in missing if name == MASK_EMBEDDING]
    missing = [name for name in missing if name != MASK_EMBEDDING]
    problems = [f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
                for names, what in ((missing, "missing"), (unexpected, "unexpected"), (reshaped, "of another shape"))
                if names]
    if problems:
        raise ValueError(f"{where}: parameters do not fit the configuration: {'; '.join(problems)}")
    return allowed


def check_depth(state: dict[str, Tensor], config: HubertConfig, where: object) -> None:
    """Compare the number of Transformer blocks, so that a configuration's number alone never costs time or memory."""
    blocks = {name.split(".")[2] for name in state if name.startswith("encoder.layers.") and name.count(".") > 2}
    if len(blocks) != config.num_hidden_layers:
        raise ValueError(f"{where}: the configuration has num_hidden_layers {config.num_hidden_layers}, the weights "
                         f"have {len(blocks)} blocks")


def digest_of_encoder(state: dict[str, Tensor], config: HubertConfig, do_normalize: bool) -> str:
    """Digest of what the states of unmasked sound depend on, to tell whose states a codebook was fitted on."""
    unmasked = {name: x for name, x in state.items() if name != MASK_EMBEDDING}
    shape = {name: value for name, value in as_dict(config).items() if name not in OF_TRAINING}
    return files.digest_of([digest_of_state(unmasked), shape, do_normalize])


def digest_of_state(state: dict[str, Tensor]) -> str:
    """Digest of names and values of a state dict."""
    return files.digest_of([(name, files.digest_bytes(x.detach().cpu().contiguous().numpy().tobytes()))
                            for name, x in sorted(state.items())])
