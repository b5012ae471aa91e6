"""Sizes and settings of one LLaVA-3D (or plain LLaVA-1.5) model.

Defaults are LLaVA-3D-7B (reference: llava/model/multimodal_encoder, scripts/train). Keys of ours
that the official config.json does not have: `mm_vision_config`, `mm_voxel_size_m`, `mm_token_cap`,
`ada3d_random_weights`, `ada3d_floor_at_zero`, `ada3d_point_ids`, `ada3d_question_kinds`.
config_file.py reads one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ada3d_ros.errors import CheckpointError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
FLOAT32_BYTES = 4
VIDEO_TOWER = "SpatialAwareModule"
VISION_ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh")  # of CLIP towers


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Sizes of LLaMA or Qwen2; num_kv_heads below num_heads is grouped-query attention. qkv_bias:
    queries, keys and values have biases, as Qwen2's.
    """

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
    eos_ids: tuple[int, ...] = (2,)  # each ends an answer
    qkv_bias: bool = False

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

    def to_json(self) -> dict[str, Any]:
        """The keys of a config.json that say the same, as transformers writes them."""
        eos = self.eos_ids
        return {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "max_position_embeddings": self.max_positions,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "bos_token_id": self.bos_id,
            "eos_token_id": eos[0] if len(eos) == 1 else list(eos),
        }


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
        if self.hidden_size % self.num_attention_heads:
            raise CheckpointError(
                f"config.json: num_attention_heads {self.num_attention_heads} of the vision tower"
                f" does not divide its hidden_size {self.hidden_size}."
            )
        if self.patch_size > self.image_size:
            raise CheckpointError(
                f"config.json: patch_size {self.patch_size} of the vision tower is larger than its"
                f" image_size {self.image_size}."
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

    def to_json(self) -> dict[str, Any]:
        """Ours of a config.json, `mm_vision_config`."""
        image = {"image_mean": list(self.image_mean), "image_std": list(self.image_std)}
        return dataclasses.asdict(self) | image


@dataclass(frozen=True, slots=True)
class BackboneConfig:
    """What engine and node know of any model (model/backbone.py).

    has_video_tower False: it takes images without 3D alone. voxel_size_m: of its spatial tokens;
    token_cap: spatial tokens of a scene at most. repetition_penalty: of the checkpoint's
    generation_config.json, 1 where there is none.
    floor_at_zero: it was trained on places whose floor lies at z = 0, as LLaVA-3D was. point_id:
    the token by which the model points at a place before it speaks, -1 where it does not;
    egocentric_point_id: the same, the place being told to it as (forward, left, z) of someone who
    stands at the last place but one and faces the last. question_kinds: what it was taught to
    answer; () = no such list, it is asked everything.
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
    point_id: int = -1
    egocentric_point_id: int = -1
    question_kinds: tuple[str, ...] = ()
    repetition_penalty: float = 1.0

    @property
    def squares_per_image(self) -> int:
        """Images that the vision tower sees of one view or image at most."""
        return 1

    @property
    def backbone(self) -> str:
        """Its model's name (Backbone.name)."""
        return "llava3d" if self.has_video_tower else "llava1.5"

    @property
    def text_has_places(self) -> bool:
        """Whether it was taught to write points and boxes of its world into its answers; else three
        numbers in brackets are no place, and stay as they are.
        """
        return False

    def max_spatial_tokens(self, max_views: int) -> int:
        """Spatial tokens that a scene of so many views has at most."""
        return self.token_cap

    def max_newlines(self, num_spatial: int) -> int:
        """How many of so many spatial tokens are newlines, which budgets do not count."""
        return 0

    @property
    def named_ids(self) -> tuple[tuple[str, str, int], ...]:
        """Tokens that the tokenizer must have under a name: piece, key of config.json, id or -1."""
        return ()

    @property
    def view_values(self) -> int:
        """Values that are kept of each view of a scene, in the model's format."""
        return self.vision.patches_per_side**2 * self.vision.hidden_size

    def pooling_bytes(self, views: int, itemsize: int) -> int:
        """Memory on the way from the features of so many views to their tokens, those included:
        with the position embedding added, and two float32 copies.
        """
        if not self.has_video_tower:
            return 0
        return views * self.view_values * (itemsize + 2 * FLOAT32_BYTES)

    def own_json(self) -> dict[str, Any]:
        """The keys of ours that are the same for every architecture."""
        data: dict[str, Any] = {
            "ada3d_random_weights": self.random_weights,
            "ada3d_floor_at_zero": self.floor_at_zero,
        }
        if self.point_id >= 0:
            data["ada3d_point_ids"] = [self.point_id, self.egocentric_point_id]
        if self.question_kinds:
            data["ada3d_question_kinds"] = list(self.question_kinds)
        return data

    def to_json(self) -> dict[str, Any]:
        """The config.json that `read_config` reads back to an equal config."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class LlavaConfig(BackboneConfig):
    """A LLaVA-3D, or a plain LLaVA-1.5 without position embedding and click encoder."""

    def __post_init__(self) -> None:
        if self.image_aspect_ratio not in ("square", "pad"):
            raise CheckpointError(
                f"config.json: image_aspect_ratio {self.image_aspect_ratio!r} is not supported"
                " (square or pad; anyres with mm_patch_merge_type 'spatial_unpad', as LLaVA-NeXT"
                " has it)."
            )

    @property
    def text_has_places(self) -> bool:
        return self.has_video_tower

    @property
    def position_embedding_width(self) -> int:
        """Of the 3D position embedding: it is added to CLIP features."""
        return self.vision.hidden_size

    @property
    def click_encoder_width(self) -> int:
        """Of the click encoder: its results stand among the decoder's embeddings."""
        return self.decoder.hidden_size

    def to_json(self) -> dict[str, Any]:
        """The config.json that `read_config` reads back to an equal config."""
        vision = self.vision.to_json()
        select_layer = vision.pop("select_layer")
        data: dict[str, Any] = {
            # The decoder, as transformers writes a LlamaConfig.
            "architectures": ["LlavaLlamaForCausalLM"],
            "model_type": "llava_llama",
            **self.decoder.to_json(),
            "pad_token_id": 0,
            # What LLaVA-3D adds, and the sizes that it does not write down.
            "mm_projector_type": "mlp2x_gelu",
            "mm_hidden_size": self.vision.hidden_size,
            "mm_vision_select_layer": select_layer,
            "mm_vision_select_feature": "patch",
            "mm_vision_config": vision,
            "mm_voxel_size_m": self.voxel_size_m,
            "mm_token_cap": self.token_cap,
            "tokenizer_model_max_length": self.max_length,
            "image_aspect_ratio": self.image_aspect_ratio,
            **self.own_json(),
        }
        if self.has_video_tower:
            data["mm_video_tower"] = VIDEO_TOWER
        return data
