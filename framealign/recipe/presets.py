"""The presets: one size of model with the settings of every stage; single settings replaced by `--set`."""
import dataclasses
from dataclasses import dataclass

from framealign.hubert.hubert_config import BASE, LARGE, HubertConfig
from framealign.units.kmeans import KMeansConfig
from framealign.training.training_config import FinetuneConfig, FramesConfig, PretrainConfig, ProbeConfig


@dataclass(frozen=True)
class Preset:
    """One size: the encoder and the settings of every stage."""
    model: HubertConfig
    pretrain: PretrainConfig = PretrainConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    frames: FramesConfig = FramesConfig(lr=1e-4, batch_size=32)
    kmeans: KMeansConfig = KMeansConfig()
    do_normalize: bool = True                       # of a model made from scratch: zero mean, unit variance
    tapt_layer: int = 9                             # states clustered for phase 1 (stage tapt-units)
    tapt_clusters: int = 500
    align_layer: int = 9                            # states clustered into pseudo-emotion units
    align_clusters: int = 50
    multiscale_clusters: str = "32,64,128"          # of method multiscale: a codebook and a prediction head for each
    scratch_clusters: int = 100                     # of MFCC, when HuBERT is made from scratch
    scratch_layer: int = 6                          # states clustered for its second iteration
    scratch: PretrainConfig = PretrainConfig(freeze_conv=False)     # of each of the two iterations
    probe: ProbeConfig = ProbeConfig()


def parse_settings(settings: list[str]) -> dict[str, str]:
    """["pretrain.updates=500"] -> {"pretrain.updates": "500"}. Raises ValueError for a word without `=`."""
    for word in settings:
        if "=" not in word:
            raise ValueError(f"--set {word}: must read NAME=VALUE, for example pretrain.updates=500")
    return dict(word.split("=", 1) for word in settings)


def with_overrides(chosen: Preset, overrides: dict[str, str]) -> Preset:
    """A preset with settings replaced, all at once: {"pretrain.updates": "500", "align_clusters": "30"}.

    Raises ValueError for a setting that does not exist or has a flag of its own, or a value out of range.
    """
    given: dict[str, dict] = {}
    for name, text in overrides.items():
        part, _, item = name.rpartition(".")
        owner = getattr(chosen, part, None) if part else chosen
        kinds = {f.name: f.type for f in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else {}
        if kinds.get(item) not in (int, float, bool, str):
            raise ValueError(f"--set {name}: no such setting; for example pretrain.updates=500 or align_clusters=30")
        if item in ("seed", "selection"):
            raise ValueError(f"--set {name}: has a flag of its own, --{item}")
        try:
            value = {"true": True, "false": False}[text.lower()] if kinds[item] is bool else kinds[item](text)
        except (KeyError, ValueError):
            raise ValueError(f"--set {name}={text}: must be of type {kinds[item].__name__}") from None
        given.setdefault(part, {})[item] = value
    try:
        parts = {part: dataclasses.replace(getattr(chosen, part), **values) for part, values in given.items() if part}
        return dataclasses.replace(chosen, **parts, **given.get("", {}))
    except ValueError as error:
        raise ValueError(f"--set {', '.join(overrides)}: {error}") from None


# Of 25 frames a second: a masked span of 200 ms is 5 frames, as many of which are masked as of 10 with half the starts.
COMPACT_PRETRAINING = {"batch_seconds": 32, "micro_batch_seconds": 32, "max_seconds": 6, "projection_size": 64,
                       "unmasked_weight": 1.0, "mask_span_frames": 5, "mask_start_fraction": 0.16}
PRESETS = {
    "base": Preset(BASE),
    "large": Preset(LARGE),
    "small": Preset(HubertConfig(conv_dim=(256,) * 7, hidden_size=256, num_hidden_layers=9, num_attention_heads=4,
                                 intermediate_size=1024, num_conv_pos_embeddings=128),
                    tapt_layer=6, align_layer=6, scratch_layer=4),
    "compact": Preset(HubertConfig(conv_dim=(24, 32, 64, 96, 128, 192, 256, 256), conv_kernel=(10, 3, 3, 3, 3, 2, 2, 2),
                                   conv_stride=(5, 2, 2, 2, 2, 2, 2, 2), conv_bias=True, feat_extract_norm="layer",
                                   do_stable_layer_norm=True, hidden_size=256, num_hidden_layers=4,
                                   num_attention_heads=4, intermediate_size=1024, num_conv_pos_embeddings=16,
                                   feat_proj_dropout=0.0, hidden_dropout=0.05, attention_dropout=0.0, layerdrop=0.0),
                      PretrainConfig(updates=1500, warmup_updates=100, peak_lr=5e-4, **COMPACT_PRETRAINING),
                      FinetuneConfig(epochs=24, lr=3e-4, lr_decay=True, head_lr_factor=10.0, batch_size=16,
                                     micro_batch_size=16, max_seconds=0.0, mask_span_frames=5),
                      FramesConfig(lr=5e-4, epochs=24, mask_span_frames=5),
                      KMeansConfig(max_frames=100_000, seeding_frames=10_000, seeding_tries=2, seeding_candidates=16,
                                   seeding_passes=0),
                      tapt_layer=3, tapt_clusters=200, align_layer=3, align_clusters=50, scratch_layer=3,
                      scratch=PretrainConfig(updates=3000, warmup_updates=250, peak_lr=1e-3, freeze_conv=False,
                                             **COMPACT_PRETRAINING)),
    "tiny": Preset(HubertConfig(conv_dim=(16, 32, 32, 64, 64, 64, 64), conv_bias=True, feat_extract_norm="layer",
                                hidden_size=96, num_hidden_layers=2, num_attention_heads=4, intermediate_size=384,
                                num_conv_pos_embeddings=32, num_conv_pos_embedding_groups=8, feat_proj_dropout=0.0,
                                hidden_dropout=0.05, attention_dropout=0.0, layerdrop=0.0),
                   PretrainConfig(updates=1200, warmup_updates=60, peak_lr=1e-3, batch_seconds=32,
                                  micro_batch_seconds=32, max_seconds=6, projection_size=64, unmasked_weight=1.0,
                                  log_every_updates=50, valid_every_updates=200, save_every_updates=200),
                   FinetuneConfig(epochs=24, lr=3e-4, lr_decay=True, head_lr_factor=10.0, batch_size=16,
                                  micro_batch_size=16, max_seconds=0.0),
                   FramesConfig(),
                   KMeansConfig(max_frames=100_000, seeding_frames=10_000, seeding_tries=2, seeding_candidates=16,
                                seeding_passes=0),
                   tapt_layer=2, tapt_clusters=200, align_layer=1, align_clusters=50, scratch_layer=1,
                   scratch=PretrainConfig(updates=1300, warmup_updates=100, peak_lr=3e-3, batch_seconds=32,
                                          micro_batch_seconds=32, max_seconds=6, projection_size=64,
                                          unmasked_weight=1.0, freeze_conv=False, log_every_updates=100,
                                          valid_every_updates=500)),
}


def preset(name: str) -> Preset:
    """The preset of that name. Raises ValueError naming the known ones."""
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name}")
    return PRESETS[name]
