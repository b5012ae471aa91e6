"""How images become pixels, as the processor says that transformers keeps beside its own layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.architectures import is_transformers_layout
from ada3d_ros.model.config_keys import Json, without_nulls
from ada3d_ros.model.weight_files import read_json

# The image processor's own file, and, since transformers 5, its part of the processor's.
OWN_FILE, JOINT_FILE, PART = "preprocessor_config.json", "processor_config.json", "image_processor"
PADDING = "LlavaImageProcessor"  # pads to a square where do_pad says so; CLIP's never does
ONLY: dict[str, tuple[Any, ...]] = {
    "do_resize": (True,),
    "do_center_crop": (True,),
    "do_rescale": (True,),
    "do_normalize": (True,),
    "resample": (3, "bicubic"),  # Pillow's number of it
}
SCALE = 1 / 255
STATISTICS = ("image_mean", "image_std")


def with_processor(data: Json, folder: Path) -> Json:
    """config.json in transformers' layout with what the image processor's file has: the image
    statistics, and whether images are padded. Another layout, or no such file: as it is.

    Raises CheckpointError for pixels that this package does not make, with key and value.
    """
    file = next((f for name in (JOINT_FILE, OWN_FILE) if (f := folder / name).is_file()), None)
    if file is None or not is_transformers_layout(data):
        return data
    settings = without_nulls(read_json(file))
    if file.name == JOINT_FILE and isinstance(settings.get(PART), Mapping):
        settings = settings[PART]
    elif file.name == JOINT_FILE:  # of the text alone; the images' is in a file of its own
        file = folder / OWN_FILE
        settings = without_nulls(read_json(file)) if file.is_file() else {}
    vision = data.get("vision_config")
    vision = dict(vision) if isinstance(vision, Mapping) else {}
    _check(settings, data, file.name, vision.get("image_size", 336))

    statistics = {key: settings[key] for key in STATISTICS if key in settings}
    found = {**data, "vision_config": vision | statistics} if vision and statistics else {**data}
    pads = settings.get("do_pad") is True and str(settings.get("image_processor_type")).startswith(
        PADDING
    )
    if pads and data.get("model_type") == "llava":
        found["image_aspect_ratio"] = "pad"
    return found


def _check(settings: Json, data: Json, name: str, side: Any) -> None:
    """Raises CheckpointError for what is made in another way, or contradicts config.json."""
    for key, allowed in ONLY.items():
        if key in settings and settings[key] not in allowed:
            raise CheckpointError(
                f"{name}: {key} = {settings[key]!r} is not supported (only {allowed[0]!r})."
            )
    scale = settings.get("rescale_factor", SCALE)
    if not isinstance(scale, (int, float)) or abs(scale - SCALE) > 1e-6:
        raise CheckpointError(f"{name}: rescale_factor = {scale!r} is not supported (only 1/255).")
    for key in ("size", "crop_size"):
        value = settings.get(key, side)
        sides = set(value.values()) if isinstance(value, Mapping) else {value}
        if sides != {side}:
            raise CheckpointError(
                f"{name}: {key} = {value!r} contradicts config.json, whose vision tower takes"
                f" images of {side} pixels: copy both files of one checkpoint."
            )
    pinpoints = data.get("image_grid_pinpoints")
    other = settings.get("image_grid_pinpoints", pinpoints)
    if pinpoints is not None and other != pinpoints:
        raise CheckpointError(
            f"{name}: image_grid_pinpoints = {other!r} contradicts config.json, which has"
            f" {pinpoints!r}: copy both files of one checkpoint."
        )
