"""The objects of a recording: boxes that somebody measured, or what a detector finds in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ada3d_ros.config import from_flat
from ada3d_ros.errors import SourceError
from ada3d_ros.types import Box3D, RgbdFrame

EVERY_FRAME: dict[str, object] = {  # that the buffer has room for
    "keyframe.min_translation_m": 0.0,
    "keyframe.min_rotation_deg": 0.0,
}


def read_objects(name: str, frames: Sequence[RgbdFrame]) -> list[Box3D]:
    """Boxes in the world frame of `frames`. name: a JSON file of boxes, else a detector.

    Raises SourceError, DetectorError.
    """
    path = Path(name)
    return true_boxes(path) if path.suffix == ".json" else detected_boxes(name, frames)


def true_boxes(path: Path) -> list[Box3D]:
    """Of a file with one box (label, center_m, size_m, yaw_rad), or with several as `boxes`.

    Raises SourceError.
    """
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        return [
            Box3D(
                np.array(each["center_m"], dtype=np.float64),
                np.array(each["size_m"], dtype=np.float64),
                float(each.get("yaw_rad", 0.0)),
                str(each["label"]),
            )
            for each in data.get("boxes", [data])
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"{path} is no list of boxes (label, center_m, size_m, yaw_rad): {error!r}."
        ) from None


def detected_boxes(path: str, frames: Sequence[RgbdFrame]) -> list[Box3D]:
    """What the detector finds in the frames, as the node lists it with no model, every frame being
    offered.

    Raises ConfigError, DetectorError.
    """
    from ada3d_ros.create_pipeline import create_pipeline  # where a detector is asked for

    settings = {"model.path": "none", "detector.path": path}
    pipeline = create_pipeline(from_flat({**settings, **EVERY_FRAME}), background=False)
    pipeline.check()
    pipeline.load()
    for frame in frames:
        pipeline.observe(frame)
    return [each.box for each in pipeline.inventory_now().present]
