"""Sizes and settings of one Video-3D-LLM model.

Defaults are Video3D-LLM-LLaVA-Qwen-Uniform-32 (7B). The reference writes no sizes of the tower into
config.json: they are those of SigLIP so400m.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.config import BackboneConfig, DecoderConfig, VisionConfig

QWEN2_7B = DecoderConfig(
    vocab_size=151649,
    hidden_size=3584,
    intermediate_size=18944,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    rms_norm_eps=1e-6,
    rope_theta=1e6,
    max_positions=32768,
    bos_id=151643,
    eos_ids=(151645, 151643),
    qkv_bias=True,
)
SIGLIP_SO400M = VisionConfig(
    hidden_size=1152,
    intermediate_size=4304,
    num_hidden_layers=27,
    num_attention_heads=16,
    patch_size=14,
    image_size=384,
    hidden_act="gelu_pytorch_tanh",
    layer_norm_eps=1e-6,
    select_layer=-2,
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.5, 0.5, 0.5),
)
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Video3DConfig(BackboneConfig):
    """A Video-3D-LLM.

    voxel_size_m, min_xyz_m, max_xyz_m: how a place becomes a voxel of the sine embedding, in the
    model's world, whose floor lies at z = 0. coord_id: the token that a place in a question is
    added to; ground_id: the token whose state is compared with proposals, -1 without ground heads.
    coord_margin_px: rows and columns at the lower and right border that belong to no cell.
    """

    decoder: DecoderConfig = QWEN2_7B
    vision: VisionConfig = SIGLIP_SO400M
    voxel_size_m: float = 0.1
    max_length: int = 32768
    min_xyz_m: Triple = (-15.0, -15.0, -5.0)
    max_xyz_m: Triple = (15.0, 15.0, 5.0)
    coord_margin_px: int = 6
    coord_id: int = 151648
    ground_id: int = 151647
    ground_temperature: float = 0.07

    def __post_init__(self) -> None:
        cells, seen = self.cells_per_side, self.vision.image_size - self.coord_margin_px
        if not cells or seen <= 0 or seen % cells:
            raise CheckpointError(
                f"config.json: an image of {self.vision.image_size} px with patches of"
                f" {self.vision.patch_size} has {cells} cells a side, which must divide the"
                f" {seen} px that have places."
            )
        below = all(low < high for low, high in zip(self.min_xyz_m, self.max_xyz_m, strict=True))
        if not below or not self.voxel_size_m > 0:
            raise CheckpointError(
                f"config.json: min_xyz_range {list(self.min_xyz_m)} must lie below max_xyz_range"
                f" {list(self.max_xyz_m)}, and voxel_size {self.voxel_size_m} above 0."
            )

    @property
    def backbone(self) -> str:
        return "video3dllm"

    @property
    def cells_per_side(self) -> int:
        """Tokens along each side of a frame after pooling, m."""
        return -(-self.vision.patches_per_side // 2)

    @property
    def cell_px(self) -> int:
        """Side of the window of pixels whose mean place a token gets."""
        return (self.vision.image_size - self.coord_margin_px) // self.cells_per_side

    def max_spatial_tokens(self, max_views: int) -> int:
        """A newline after each row of every view; fewer where cells have no depth."""
        return max_views * self.cells_per_side * (self.cells_per_side + 1)

    def max_newlines(self, num_spatial: int) -> int:
        return -(-num_spatial // (self.cells_per_side + 1))

    @property
    def named_ids(self) -> tuple[tuple[str, str, int], ...]:
        return (
            ("<coord>", "coord_token_ids", self.coord_id),
            ("<ground>", "ground_token_ids", self.ground_id),
        )

    @property
    def view_values(self) -> int:
        """The tokens of a view, and its projected patches for the ground heads."""
        patches = self.vision.patches_per_side**2
        return (self.max_spatial_tokens(1) + patches) * self.decoder.hidden_size

    def pooling_bytes(self, views: int, itemsize: int) -> int:
        """Features of so many views, and the projector's three results."""
        patches = views * self.vision.patches_per_side**2
        return patches * (self.vision.hidden_size + 3 * self.decoder.hidden_size) * itemsize

    def to_json(self) -> dict[str, Any]:
        """The config.json that `read_config` reads back to an equal config, but for the repetition
        penalty, which generation_config.json has.
        """
        vision = self.vision.to_json()
        select_layer = vision.pop("select_layer")
        data: dict[str, Any] = {
            # The decoder, as transformers writes a Qwen2Config.
            "architectures": ["LlavaQwenForCausalLM"],
            "model_type": "llava_qwen",
            **self.decoder.to_json(),
            "use_sliding_window": False,
            # What LLaVA-Video and Video-3D-LLM add, and the sizes that they do not write down.
            "mm_vision_tower": "google/siglip-so400m-patch14-384",
            "mm_projector_type": "mlp2x_gelu",
            "mm_hidden_size": self.vision.hidden_size,
            "mm_vision_select_layer": select_layer,
            "mm_vision_select_feature": "patch",
            "mm_vision_config": vision,
            "mm_patch_merge_type": "spatial_unpad",
            "mm_newline_position": "grid",
            "mm_spatial_pool_mode": "bilinear",
            "mm_spatial_pool_stride": 2,
            "world_position_embedding_type": "avg-discrete-sin3d",
            "object_feature_type": "patch14-pe",
            "voxel_size": self.voxel_size_m,
            "min_xyz_range": list(self.min_xyz_m),
            "max_xyz_range": list(self.max_xyz_m),
            "tokenizer_model_max_length": self.max_length,
            **self.own_json(),
        }
        if self.coord_id >= 0:
            data["coord_token_ids"] = [self.coord_id]
        if self.ground_id >= 0:
            data |= {
                "ground_token_ids": [self.ground_id],
                "ground_head_type": "infonce",
                "ground_head_temperature": self.ground_temperature,
            }
        return data
