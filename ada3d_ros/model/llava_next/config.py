"""Sizes and settings of a LLaVA-NeXT (v1.6) model, and what its config.json says of its images."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.config import LlavaConfig
from ada3d_ros.model.config_keys import Json
from ada3d_ros.model.llava_next.anyres import V1_6_PINPOINTS, Size, patch_grid_of

ANYRES = "anyres"
MERGE_TYPE = "spatial_unpad"  # of LLaVA's own config.json
TRANSFORMERS_TYPE = "llava_next"  # model_type in transformers' layout
MAX_CROPS = 64  # of one image; published ones have 4
EXAMPLE = "[[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]"


@dataclass(frozen=True, slots=True)
class LlavaNextConfig(LlavaConfig):
    """A 2D LLaVA whose images are seen whole and in crops.

    pinpoints: the sizes (height, width) in pixels that an image may be fitted into, in the order
    of the file, which decides between equal ones.
    """

    image_aspect_ratio: str = ANYRES
    has_video_tower: bool = False
    pinpoints: tuple[Size, ...] = V1_6_PINPOINTS

    def __post_init__(self) -> None:
        if self.image_aspect_ratio != ANYRES:
            raise CheckpointError(
                f"config.json: image_aspect_ratio {self.image_aspect_ratio!r} is not supported with"
                f" mm_patch_merge_type {MERGE_TYPE!r} (only {ANYRES!r}, of LLaVA-NeXT)."
            )
        if self.has_video_tower:
            raise CheckpointError(
                "config.json: mm_video_tower is not supported with image_aspect_ratio"
                f" {ANYRES!r}: LLaVA-3D's images are 'square' or 'pad'."
            )
        side = self.vision.image_size
        for size in self.pinpoints:
            if any(length % side for length in size) or size[0] * size[1] > MAX_CROPS * side**2:
                raise CheckpointError(
                    f"config.json: image_grid_pinpoints has {list(size)}: each length must be a"
                    f" multiple of the vision tower's image_size {side}, and there may be at most"
                    f" {MAX_CROPS} crops of that size."
                )

    @property
    def backbone(self) -> str:
        return "llava_next"

    @property
    def squares_per_image(self) -> int:
        """The whole image and the crops of the largest grid."""
        side = self.vision.image_size
        return 1 + max(height * width // side**2 for height, width in self.pinpoints)

    def max_spatial_tokens(self, max_views: int) -> int:
        """Of the largest image, newlines among them; there is no scene."""
        side, patches = self.vision.image_size, self.vision.patches_per_side
        grids = [patch_grid_of(size, size, side, patches) for size in self.pinpoints]
        return patches**2 + max(grid.rows * (grid.columns + 1) for grid in grids)

    def max_newlines(self, num_spatial: int) -> int:
        """One a row of the highest grid."""
        side, patches = self.vision.image_size, self.vision.patches_per_side
        return min(num_spatial, max(height // side for height, _ in self.pinpoints) * patches)

    def pooling_bytes(self, views: int, itemsize: int) -> int:
        """Features of so many squares, the projector's three results, and their tokens."""
        patches = views * self.vision.patches_per_side**2
        return patches * (self.vision.hidden_size + 4 * self.decoder.hidden_size) * itemsize

    def to_json(self) -> dict[str, Any]:
        """The config.json in the original layout, which has (width, height)."""
        return LlavaConfig.to_json(self) | {
            "mm_patch_merge_type": MERGE_TYPE,
            "image_grid_pinpoints": [[width, height] for height, width in self.pinpoints],
        }


def is_llava_next(data: Json) -> bool:
    """Whether the config.json of a LLaVA on LLaMA is one of LLaVA-NeXT, in either layout."""
    is_merged = data.get("mm_patch_merge_type") == MERGE_TYPE
    return is_merged or data.get("model_type") == TRANSFORMERS_TYPE


def as_next(config: LlavaConfig, data: Json, is_transformers: bool) -> LlavaNextConfig:
    """What was read of any LLaVA, with what its config.json says of LLaVA-NeXT's images."""
    known = {field.name: getattr(config, field.name) for field in fields(config)}
    known["image_aspect_ratio"] = data.get("image_aspect_ratio", ANYRES if is_transformers else "")
    return LlavaNextConfig(**known, pinpoints=read_pinpoints(data, is_transformers))


def read_pinpoints(data: Json, is_transformers: bool) -> tuple[Size, ...]:
    """image_grid_pinpoints as (height, width), in their order.

    LLaVA's own files have (width, height); transformers' have (height, width), and v1.6's five
    where they say nothing. Raises CheckpointError for none, and for what is no list of pairs.
    """
    value = data.get("image_grid_pinpoints")
    if value is None and is_transformers:
        return V1_6_PINPOINTS
    if value is None:
        raise CheckpointError(
            f"config.json: image_aspect_ratio {ANYRES!r} needs image_grid_pinpoints, which are"
            f" missing: copy config.json of the checkpoint again (v1.6 has {EXAMPLE})."
        )
    pairs = _as_list(value)
    if not pairs or not all(map(_is_pair, pairs)):
        raise CheckpointError(
            f"config.json: image_grid_pinpoints = {str(value)[:60]!r} must be a list of pairs of"
            f" sizes in pixels, as {EXAMPLE}."
        )
    if is_transformers:
        return tuple((int(first), int(second)) for first, second in pairs)
    return tuple((int(second), int(first)) for first, second in pairs)


def _as_list(value: Any) -> Sequence[Any]:
    """LLaVA writes a list, or the text of one."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return ()
    return value if isinstance(value, (list, tuple)) else ()


def _is_pair(value: Any) -> bool:
    is_list = isinstance(value, (list, tuple)) and len(value) == 2
    return is_list and all(type(length) is int and length > 0 for length in value)
