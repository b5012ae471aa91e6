"""Sizes and settings of one LLaVA-3D (or plain LLaVA-1.5) model, as its config.json has them.

Defaults are LLaVA-3D-7B (reference: llava/model/multimodal_encoder, scripts/train). Keys of ours
that the official file does not have: `mm_vision_config`, `mm_voxel_size_m`, `mm_token_cap`,
`ada3d_random_weights`, `ada3d_floor_at_zero`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ada3d_ros.errors import CheckpointError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
VIDEO_TOWER = "SpatialAwareModule"
VISION_ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh")  # of CLIP towers


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """LLaMA sizes; num_kv_heads below num_heads is grouped-query attention."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_layers: int = 32
    num_heads: int = 32
    num_kv_heads: int = 32
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_positions: int = 4096
    bos_id: int = 1
    eos_id: int = 2

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"config.json: hidden_size {self.hidden_size}, num_attention_heads {self.num_heads}"
                f" and num_key_value_heads {self.num_kv_heads} must divide each other in this"
                " order."
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """CLIP ViT sizes.

    select_layer indexes transformers' hidden_states: 0 = embeddings, -2 = all blocks but the last.
    """

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    patch_size: int = 14
    image_size: int = 336
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    select_layer: int = -2
    image_mean: tuple[float, float, float] = CLIP_MEAN
    image_std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        if not 0 <= self.num_run_layers <= self.num_hidden_layers:
            raise CheckpointError(
                f"config.json: mm_vision_select_layer {self.select_layer} does not exist in a tower"
                f" of {self.num_hidden_layers} layers (allowed: {-self.num_hidden_layers - 1} to"
                f" {self.num_hidden_layers})."
            )
        if self.hidden_act not in VISION_ACTIVATIONS:
            raise CheckpointError(
                f"config.json: hidden_act = {self.hidden_act!r} of the vision tower is not"
                f" supported (allowed: {', '.join(VISION_ACTIVATIONS)})."
            )

    @property
    def num_run_layers(self) -> int:
        """Blocks that are built and run; the last one's output is the selected hidden state."""
        return self.select_layer + (self.num_hidden_layers + 1 if self.select_layer < 0 else 0)

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @classmethod
    def from_json(cls, data: Mapping[str, Any], select_layer: int) -> VisionConfig:
        """From a CLIPVisionConfig dictionary (or a CLIPConfig, whose `vision_config` is taken)."""
        data = data.get("vision_config") or data
        names = {f.name for f in dataclasses.fields(cls)} - {"select_layer"}
        values = {name: data[name] for name in names if name in data}
        for name in ("image_mean", "image_std"):
            if name in values:
                values[name] = tuple(values[name])
        return cls(select_layer=select_layer, **values)


HUB_TOWERS = {  # CLIP sizes are not in LLaVA's config.json, only the tower's name
    "clip-vit-large-patch14-336": {"image_size": 336},
    "clip-vit-large-patch14": {"image_size": 224},
}


@dataclass(frozen=True, slots=True)
class LlavaConfig:
    """The whole model.

    has_video_tower False: a 2D-only LLaVA-1.5 without position embedding and click encoder.
    floor_at_zero: it was trained on places whose floor lies at z = 0, as LLaVA-3D was.
    """

    decoder: DecoderConfig = DecoderConfig()
    vision: VisionConfig = VisionConfig()
    has_video_tower: bool = True
    voxel_size_m: float = 0.2
    token_cap: int = 2560
    max_length: int = 4096
    image_aspect_ratio: str = "square"
    random_weights: bool = False
    floor_at_zero: bool = True

    def __post_init__(self) -> None:
        if self.image_aspect_ratio not in ("square", "pad"):
            raise CheckpointError(
                f"config.json: image_aspect_ratio {self.image_aspect_ratio!r} is not supported"
                " (square or pad)."
            )

    @property
    def position_embedding_width(self) -> int:
        """Of the 3D position embedding: it is added to CLIP features."""
        return self.vision.hidden_size

    @property
    def click_encoder_width(self) -> int:
        """Of the click encoder: its results stand among the decoder's embeddings."""
        return self.decoder.hidden_size

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], vision_data: Mapping[str, Any] | None = None
    ) -> LlavaConfig:
        """From an official config.json.

        vision_data: config.json of a CLIP folder, where one is given. Raises CheckpointError that
        names the setting, for an architecture that this package does not run.
        """
        # Only what this package implements.
        _check_supported(data)
        video_tower = data.get("mm_video_tower")
        if video_tower not in (None, VIDEO_TOWER):
            raise CheckpointError(
                f"config.json: mm_video_tower {video_tower!r} is not known (only {VIDEO_TOWER!r})."
            )

        # Ours are the keys that start with mm_voxel, mm_token and ada3d.
        return cls(
            decoder=_decoder_from_json(data),
            vision=_vision_from_json(data, vision_data),
            has_video_tower=video_tower is not None,
            voxel_size_m=float(data.get("mm_voxel_size_m", 0.2)),
            token_cap=int(data.get("mm_token_cap", 2560)),
            max_length=int(data.get("tokenizer_model_max_length", 4096)),
            image_aspect_ratio=data.get("image_aspect_ratio") or "square",
            random_weights=bool(data.get("ada3d_random_weights", False)),
            floor_at_zero=_flag(data, "ada3d_floor_at_zero", True),
        )

    def to_json(self) -> dict[str, Any]:
        """The config.json that `from_json` reads back to an equal config."""
        decoder, vision = self.decoder, dataclasses.asdict(self.vision)
        select_layer = vision.pop("select_layer")
        image = {name: list(vision[name]) for name in ("image_mean", "image_std")}
        data: dict[str, Any] = {
            # The decoder, as transformers writes a LlamaConfig.
            "architectures": ["LlavaLlamaForCausalLM"],
            "model_type": "llava_llama",
            "vocab_size": decoder.vocab_size,
            "hidden_size": decoder.hidden_size,
            "intermediate_size": decoder.intermediate_size,
            "num_hidden_layers": decoder.num_layers,
            "num_attention_heads": decoder.num_heads,
            "num_key_value_heads": decoder.num_kv_heads,
            "rms_norm_eps": decoder.rms_norm_eps,
            "rope_theta": decoder.rope_theta,
            "max_position_embeddings": decoder.max_positions,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "bos_token_id": decoder.bos_id,
            "eos_token_id": decoder.eos_id,
            "pad_token_id": 0,
            # What LLaVA-3D adds, and the sizes that it does not write down.
            "mm_projector_type": "mlp2x_gelu",
            "mm_hidden_size": self.vision.hidden_size,
            "mm_vision_select_layer": select_layer,
            "mm_vision_select_feature": "patch",
            "mm_vision_config": vision | image,
            "mm_voxel_size_m": self.voxel_size_m,
            "mm_token_cap": self.token_cap,
            "tokenizer_model_max_length": self.max_length,
            "image_aspect_ratio": self.image_aspect_ratio,
            "ada3d_random_weights": self.random_weights,
            "ada3d_floor_at_zero": self.floor_at_zero,
        }
        if self.has_video_tower:
            data["mm_video_tower"] = VIDEO_TOWER
        return data


SUPPORTED = {  # settings that change the arithmetic: the values that this package implements
    "hidden_act": ("silu",),
    "tie_word_embeddings": (False,),
    "attention_bias": (False,),
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": ("patch",),
    "mm_use_im_start_end": (False,),
    "mm_patch_merge_type": ("flat",),
    "partial_rotary_factor": (None, 1.0),
}


def _check_supported(data: Mapping[str, Any]) -> None:
    """Raises CheckpointError for a setting that changes the arithmetic in another way than ours."""
    for name, allowed in SUPPORTED.items():
        if name in data and data[name] not in allowed:
            raise CheckpointError(
                f"config.json: {name} = {data[name]!r} is not supported (only {allowed[0]!r})."
            )
    if data.get("quantization_config") is not None:
        raise CheckpointError(
            "config.json has a quantization_config: quantised weights are not supported; take the"
            " checkpoint in float32, float16 or bfloat16."
        )


def _rope_theta(data: Mapping[str, Any]) -> float:
    """From rope_theta or, as transformers 5 writes it, rope_parameters.

    Raises CheckpointError for scaled positions in either spelling, and for two different bases.
    """
    # Every spelling that is there; what a dictionary holds besides the base must change nothing.
    found = {"rope_theta": data.get("rope_theta")}
    for name in ("rope_scaling", "rope_parameters"):
        value = data.get(name)
        if value is None:
            continue
        rope = dict(value) if isinstance(value, Mapping) else {"rope_type": value}
        kind = rope.pop("rope_type", rope.pop("type", "default"))
        found[f"{name}.rope_theta"] = rope.pop("rope_theta", None)
        if kind != "default" or rope.pop("partial_rotary_factor", 1.0) != 1.0 or rope:
            raise CheckpointError(
                f"config.json: {name} = {value!r} is not supported (only rope_type 'default' with a"
                " rope_theta)."
            )

    # They must agree.
    given = {name: float(theta) for name, theta in found.items() if theta is not None}
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name} = {theta:g}" for name, theta in given.items())
        raise CheckpointError(f"config.json contradicts itself: {listed}.")
    return next(iter(given.values()), 10000.0)


def _flag(data: Mapping[str, Any], name: str, default: bool) -> bool:
    """true or false, null being the default."""
    value = data.get(name)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"config.json: {name} = {value!r}; allowed: true, false.")
    return default if value is None else value


def _token_id(data: Mapping[str, Any], name: str, default: int) -> int:
    """A token id; null is the default, a list of one id is that id."""
    value = data.get(name)
    if value is None:
        return default

    # transformers allows several; our decoding stops at one.
    ids = value if isinstance(value, list) else [value]
    if len(ids) != 1:
        raise CheckpointError(
            f"config.json: {name} = {value!r} is a list of {len(ids)} ids, exactly one is"
            " supported: write the id that tokenizer.model has."
        )
    if not isinstance(ids[0], int) or isinstance(ids[0], bool):
        raise CheckpointError(
            f"config.json: {name} = {value!r} is not a token id (a whole number)."
        )
    return ids[0]


REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)


def _decoder_from_json(data: Mapping[str, Any]) -> DecoderConfig:
    # The sizes that have no default.
    missing = [name for name in REQUIRED if name not in data]
    if missing:
        raise CheckpointError(
            f"config.json lacks {', '.join(missing)}: is this folder a LLaVA-3D or LLaVA-1.5"
            " checkpoint?"
        )

    # The others are LLaMA's.
    decoder = DecoderConfig(
        vocab_size=int(data["vocab_size"]),
        hidden_size=int(data["hidden_size"]),
        intermediate_size=int(data["intermediate_size"]),
        num_layers=int(data["num_hidden_layers"]),
        num_heads=int(data["num_attention_heads"]),
        num_kv_heads=int(data.get("num_key_value_heads") or data["num_attention_heads"]),
        rms_norm_eps=float(data.get("rms_norm_eps", 1e-5)),
        rope_theta=_rope_theta(data),
        max_positions=int(data.get("max_position_embeddings", 4096)),
        bos_id=_token_id(data, "bos_token_id", 1),
        eos_id=_token_id(data, "eos_token_id", 2),
    )

    # A width of its own, as transformers allows it, would need other projections.
    if data.get("head_dim") not in (None, decoder.head_dim):
        raise CheckpointError(
            f"config.json: head_dim {data['head_dim']} differs from hidden_size /"
            f" num_attention_heads = {decoder.head_dim}; other widths of a head are not supported."
        )
    return decoder


def _vision_from_json(
    data: Mapping[str, Any], vision_data: Mapping[str, Any] | None
) -> VisionConfig:
    # The sizes: written down by us, of the CLIP folder, or of the tower's name.
    select_layer = int(data.get("mm_vision_select_layer", -2))
    name = str(data.get("mm_vision_tower", "clip-vit-large-patch14-336"))
    tower = name.rstrip("/").rsplit("/", 1)[-1]
    sizes = data.get("mm_vision_config") or vision_data or HUB_TOWERS.get(tower)
    if sizes is None:
        raise CheckpointError(
            f"config.json: the sizes of mm_vision_tower {tower!r} are not known; set"
            " model.vision_path to the folder of that CLIP checkpoint (known by name:"
            f" {', '.join(HUB_TOWERS)})."
        )

    # They must fit the projector.
    vision = VisionConfig.from_json(sizes, select_layer)
    if data.get("mm_hidden_size", vision.hidden_size) != vision.hidden_size:
        raise CheckpointError(
            f"config.json: mm_hidden_size {data['mm_hidden_size']} differs from the vision tower's"
            f" width {vision.hidden_size}; model.vision_path must name the tower the checkpoint was"
            " trained with."
        )
    return vision
