"""Files as other programs write them: a codebook of scikit-learn and joblib, a checkpoint's names of fairseq."""
import collections
import pickle

import numpy as np
import torch

from framealign.hubert.hubert_config import HubertConfig
from framealign.hubert.parameters import BATCHES_SEEN, shapes

CENTROIDS = np.array([[0.25, 0.5, 1.0], [8.5, 9.0, 8.25]])


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def plain(value: object) -> bytes:
    """Opcodes that push `value`: a protocol 2 pickle without its head and STOP."""
    return pickle.dumps(value, 2)[2:-1]


def array(shape=(2, 3), code="f8", content=CENTROIDS.tobytes(), order="C", byte_order="<", alignment=None,
          wrapper=b"joblib.numpy_pickle") -> bytes:
    """An array as joblib writes it: its wrapper, then (since joblib 1.2) padding, then the bytes."""
    state = plain((3, byte_order, None, None, None, -1, -1, 0))
    dtype = b"cnumpy\ndtype\n" + plain((code, False, True)) + b"R" + state + b"b"
    fields = plain("shape") + plain(shape) + plain("order") + plain(order) + plain("dtype") + dtype \
        + plain("subclass") + b"cnumpy\nndarray\n"
    if alignment is not None:
        fields += plain("numpy_array_alignment_bytes") + plain(16)
        content = bytes([alignment]) + b"\xff" * alignment + content
    return b"c" + wrapper + b"\nNumpyArrayWrapper\n)\x81}(" + fields + b"ub" + content


def k_means(centroids: bytes, module: bytes = b"sklearn.cluster._kmeans", more: bytes = b"") -> bytes:
    """A pickled MiniBatchKMeans; `more`: opcodes that push further key-value pairs of its state."""
    return b"\x80\x02c" + module + b"\nMiniBatchKMeans\n)\x81}(" + plain("n_clusters") + plain(2) + more \
        + plain("cluster_centers_") + centroids + b"ub."


# Of an encoder in fairseq's checkpoint.
SMALL = HubertConfig(conv_dim=(8,) * 7, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
                     intermediate_size=20, num_conv_pos_embeddings=6, num_conv_pos_embedding_groups=2, layerdrop=0.0)
CONV_LAYERS = "[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2"


def random_state(config: HubertConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes(config).items()}
    return {name: x.long() if name == BATCHES_SEEN else x for name, x in state.items()}


def fairseq_names(config: HubertConfig, state: dict, head: dict) -> dict:
    """fairseq's names, built from its module structure (not from the table under test)."""
    theirs = collections.OrderedDict()
    for name, x in state.items():
        part = name.split(".")
        if name == "masked_spec_embed":
            new = "mask_emb"
        elif part[0] == "feature_extractor":
            middle = "0" if part[3] == "conv" else "2.1" if config.feat_extract_norm == "layer" else "2"
            new = f"feature_extractor.conv_layers.{part[2]}.{middle}.{part[4]}"
        elif part[0] == "feature_projection":
            new = f"{'layer_norm' if part[1] == 'layer_norm' else 'post_extract_proj'}.{part[2]}"
        elif part[1] == "pos_conv_embed":
            place = "1" if config.conv_pos_batch_norm and part[2] == "conv" else "0"        # a batch norm stands first
            own = {"original0": "weight_g", "original1": "weight_v"}.get(part[-1], part[-1])
            new = f"encoder.pos_conv.{place}.{own}"
        elif part[1] == "layer_norm":
            new = name
        else:
            inner = {"attention": "self_attn", "layer_norm": "self_attn_layer_norm", "intermediate_dense": "fc1",
                     "output_dense": "fc2", "final_layer_norm": "final_layer_norm"}
            new = ".".join(["encoder.layers", part[2], *(inner.get(x, x) for x in part[3:] if x != "feed_forward")])
        theirs[new] = x
    theirs.update(head)
    theirs._metadata = {"": {"version": 1}}
    return theirs


def settings_of(config: HubertConfig) -> dict:
    """The settings of the model that a checkpoint of fairseq holds."""
    return {"_name": "hubert", "encoder_layers": config.num_hidden_layers, "layer_type": "transformer",
            "encoder_attention_heads": config.num_attention_heads, "layer_norm_first": config.do_stable_layer_norm,
            "dropout": 0.2, "attention_dropout": 0.0, "activation_dropout": 0.0, "dropout_input": 0.25,
            "encoder_layerdrop": 0.0, "activation_fn": "gelu", "conv_feature_layers": CONV_LAYERS, "final_dim": 16}
