"""The true boxes of ScanNet's objects, by scene and object id, as ScanRefer's evaluator has them.

An object's box is the smallest axis-aligned one around all mesh vertices of its instance, after the
scene was turned by its axisAlignment: world metres, centre and full extents. Read is either
ScanRefer's prepared SCENE_aligned_bbox.npy (columns 0..5 the box, the last one the object id), or
ScanNet's own files of a scene: SCENE_vh_clean_2.ply, SCENE_vh_clean_2.0.010000.segs.json,
SCENE.aggregation.json (or SCENE_vh_clean.aggregation.json) and SCENE.txt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ada3d_ros.errors import ConfigError, SourceError
from ada3d_ros.lab.evaluation.field.json_files import read_json
from ada3d_ros.lab.evaluation.field.scenes import read_alignment
from ada3d_ros.types import Box3D

Array = npt.NDArray[np.float64]
MESH, SEGMENTS = "_vh_clean_2.ply", "_vh_clean_2.0.010000.segs.json"
AGGREGATIONS = (".aggregation.json", "_vh_clean.aggregation.json")
PREPARED = "_aligned_bbox.npy"


class TrueBoxes:
    """Of the scenes under a folder, each read once. Raises SourceError for a folder that is not
    there.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise SourceError(f"no folder at {folder}; --boxes is that of the scenes' meshes.")
        self.folder = folder
        self._of_scene: dict[str, dict[int, list[float]]] = {}

    def box(self, scene: str, object_id: int) -> list[float]:
        """[cx, cy, cz, dx, dy, dz] in metres. Raises SourceError for a scene or an object that is
        not there, ConfigError where plyfile is missing.
        """
        name = scene.rsplit("/", 1)[-1]
        if name not in self._of_scene:
            self._of_scene[name] = self._read(name)
        boxes = self._of_scene[name]
        if object_id not in boxes:
            raise SourceError(
                f"{self.folder}: scene {name} has no object {object_id}, only"
                f" {min(boxes, default=0)} to {max(boxes, default=0)}. Is it another release?"
            )
        return boxes[object_id]

    def _read(self, name: str) -> dict[int, list[float]]:
        for folder in (self.folder, self.folder / name):
            if (folder / f"{name}{PREPARED}").is_file():
                return _prepared(folder / f"{name}{PREPARED}")
            if (folder / f"{name}{MESH}").is_file():
                return _of_mesh(folder, name)
        raise SourceError(
            f"{self.folder} has neither {name}{PREPARED} nor {name}/{name}{MESH}: the true boxes of"
            f" scene {name} come from one of them."
        )


def _prepared(path: Path) -> dict[int, list[float]]:
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} is no array of numpy ({error}).") from None
    if rows.ndim != 2 or rows.shape[1] < 8 or not np.isfinite(rows).all():
        raise SourceError(
            f"{path} is an array of shape {rows.shape}; rows of 8 finite numbers are expected:"
            " centre, size, class, object id."
        )
    return {int(row[-1]): row[:6].astype(float).tolist() for row in rows}


def _of_mesh(folder: Path, name: str) -> dict[int, list[float]]:
    # Vertices in the aligned world, and the segment of each.
    T_aligned_scan = read_alignment(folder / f"{name}.txt")
    if T_aligned_scan is None:
        raise SourceError(f"{folder}/{name}.txt with the scene's axisAlignment is not there.")
    xyz_m = _vertices(folder / f"{name}{MESH}") @ T_aligned_scan[:3, :3].T + T_aligned_scan[:3, 3]
    path = folder / f"{name}{SEGMENTS}"
    segments = np.asarray(_value(path, "segIndices"))
    if segments.shape != (len(xyz_m),):
        raise SourceError(f"{path} has {len(segments)} segments for {len(xyz_m)} vertices.")

    # What each object is made of.
    files = [folder / f"{name}{ending}" for ending in AGGREGATIONS]
    path = next((file for file in files if file.is_file()), files[0])
    boxes: dict[int, list[float]] = {}
    for group in _value(path, "segGroups"):
        try:
            number, parts = int(group["objectId"]), list(group["segments"])
        except (KeyError, TypeError, ValueError):
            raise SourceError(f"{path}: a group without objectId or segments.") from None
        held = xyz_m[np.isin(segments, parts)]
        if len(held):
            low, high = held.min(axis=0), held.max(axis=0)
            boxes[number] = [*((low + high) / 2).tolist(), *(high - low).tolist()]
    return boxes


def _vertices(path: Path) -> Array:
    """(N, 3) metres, as scanned. Raises SourceError, ConfigError."""
    try:
        from plyfile import PlyData, PlyParseError
    except ImportError:
        raise ConfigError(
            "reading ScanNet's meshes needs plyfile: pip install plyfile, or name the folder of"
            f" ScanRefer's prepared SCENE{PREPARED} files."
        ) from None
    try:
        vertex = PlyData.read(str(path))["vertex"]
        columns = [np.asarray(vertex[axis], dtype=np.float64) for axis in "xyz"]
    except (OSError, KeyError, ValueError, PlyParseError) as error:
        raise SourceError(f"{path} is no mesh with vertices ({error}).") from None
    return np.stack(columns, axis=1)


def _value(path: Path, key: str) -> list[Any]:
    data = read_json(path)
    value = data.get(key) if isinstance(data, dict) else None
    if not isinstance(value, list):
        raise SourceError(f"{path} has no list {key!r}. Is it ScanNet's file?")
    return value


# -- boxes of records and items


def box_of(numbers: list[float]) -> Box3D:
    """Of [cx, cy, cz, dx, dy, dz, ...]."""
    return Box3D(np.array(numbers[:3], dtype=float), np.array(numbers[3:6], dtype=float))
