"""The scenes and images that benchmarks ask about, out of a folder, as frames.

A scene is a posed RGB-D folder of any layout of sources/, or a bag. Where its folder has SCENE.txt
with ScanNet's axisAlignment, or axis_align_matrix.txt, its poses are turned by it: the world that
questions and boxes of ScanNet's benchmarks are in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Item
from ada3d_ros.lab.evaluation.field.images import IMAGE, image_frame, image_of
from ada3d_ros.rigid import rigid_pose
from ada3d_ros.sources.bag import BagSource
from ada3d_ros.sources.bag_reader import is_bag
from ada3d_ros.sources.folder import FolderOptions, FolderSource, spread
from ada3d_ros.types import RgbdFrame

ALIGNMENT = "axis_align_matrix.txt"
BAG_SUFFIXES = ("", ".mcap", ".db3")


@dataclass(frozen=True, slots=True)
class SceneFolder:
    """Scenes under `folder`; of each at most `views` frames.

    Raises SourceError for a folder that is not there.
    """

    folder: Path
    views: int

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise SourceError(f"no folder at {self.folder}; name the one with the scenes.")

    def find(self, source: str) -> Path | None:
        """Where a scene lies: under its whole name, or the last part of it, also with the suffix of
        a bag's file. None where it is not there.
        """
        name = PurePosixPath(source)
        if name.is_absolute() or ".." in name.parts or not name.name:  # a file may say anything
            return None
        for place in (self.folder / name, self.folder / name.name):
            for suffix in BAG_SUFFIXES:
                found = place.with_name(place.name + suffix)
                if found.exists():
                    return found
        return None

    def has(self, item: Item) -> bool:
        """Whether the item's scene is there."""
        return self.find(item.source) is not None

    def frames(self, item: Item) -> list[RgbdFrame]:
        """Of the item's scene, aligned. Raises SourceError: not there, not readable."""
        path = self.find(item.source)
        if path is None:
            raise SourceError(f"{self.folder} has no scene {item.source!r}.")
        T_aligned_world = _alignment_in(path)
        frames = _picked(path, self.views)
        if T_aligned_world is not None:
            frames = [replace(f, T_world_cam=T_aligned_world @ f.T_world_cam) for f in frames]
        return frames


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Images under `folder`, None where the official files hold them."""

    folder: Path | None

    def has(self, item: Item) -> bool:
        """Whether the item's image is there."""
        inside = self.folder is not None and (self.folder / item.source).is_file()
        return IMAGE in item.extra or inside

    def frames(self, item: Item) -> list[RgbdFrame]:
        """The image as one frame. Raises SourceError."""
        return [image_frame(image_of(item, self.folder), 0)]


Shown = SceneFolder | ImageFolder


def read_alignment(path: Path) -> npt.NDArray[np.float64] | None:
    """T_aligned_scan (4, 4) of a ScanNet SCENE.txt (`axisAlignment = 16 numbers`) or of a file with
    16 numbers; None where there is no such file or line. Raises SourceError.
    """
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.name != ALIGNMENT:
        lines = [line.partition("=") for line in text.splitlines()]
        text = next((value for key, _, value in lines if key.strip() == "axisAlignment"), "")
        if not text:
            return None
    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
        return rigid_pose(np.reshape(numbers, (4, 4)), "axisAlignment")
    except ValueError as error:  # PoseError, too
        raise SourceError(
            f"{path}: axisAlignment should be the 16 numbers of a pose ({error})."
        ) from None


def _alignment_in(path: Path) -> npt.NDArray[np.float64] | None:
    if not path.is_dir():
        return None
    for file in (path / f"{path.name}.txt", path / ALIGNMENT):
        found = read_alignment(file)
        if found is not None:
            return found
    return None


def _picked(path: Path, views: int) -> list[RgbdFrame]:
    if not is_bag(path):
        return list(FolderSource(path, FolderOptions(max_frames=views)))
    bag = BagSource(path)
    wanted = set(spread(sum(1 for _ in bag), views))  # read twice: images of all would not fit
    return [frame for number, frame in enumerate(bag) if number in wanted]
