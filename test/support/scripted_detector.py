"""A detector that sees what stands in a generated room, and does what a script says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ada3d_ros.geometry.boxes import grow_box, points_inside
from ada3d_ros.perception.detector import Detection2D, DetectorInfo, FrameDetections
from ada3d_ros.types import Box3D, RgbdFrame

MIN_PIXELS = 12
SCORE = 0.9

Act = Callable[[RgbdFrame], FrameDetections | None]  # in place of seeing; may raise


class ScriptedDetector:
    """Boxes of the pixels whose depth lies in a true box, each labelled with its kind.

    script: what to do at the n-th call, from 0 on. calls: the stamps of the frames asked for.
    """

    def __init__(self, boxes: Sequence[Box3D], script: Mapping[int, Act] | None = None) -> None:
        self._boxes, self.script = boxes, dict(script or {})
        self.calls: list[int] = []
        self.scores: list[float] = []  # that it was told to use
        kinds = tuple(sorted({kind_of(box) for box in boxes}))
        self._info = DetectorInfo("scripted", "topic", kinds, 0.45)

    @property
    def info(self) -> DetectorInfo:
        return self._info

    def set_min_score(self, min_score: float) -> None:
        self.scores.append(min_score)
        self._info = replace(self._info, min_score=min_score or 0.45)

    def detect(self, frame: RgbdFrame) -> FrameDetections | None:
        number = len(self.calls)
        self.calls.append(frame.stamp_ns)
        act = self.script.get(number)
        return self.see(frame) if act is None else act(frame)

    def find(self, frame: RgbdFrame, phrases: Sequence[str]) -> FrameDetections:
        raise AssertionError("it takes no phrases")

    def see(self, frame: RgbdFrame) -> FrameDetections:
        """What a perfect detector would say."""
        height, width = frame.depth_m.shape
        rows, columns = np.mgrid[:height, :width]
        camera, depth_m = frame.intrinsics, frame.depth_m.astype(np.float64)
        x_m = (columns - camera.cx) / camera.fx * depth_m
        y_m = (rows - camera.cy) / camera.fy * depth_m
        points = np.stack([x_m, y_m, depth_m], axis=-1).reshape(-1, 3)
        points = points @ frame.T_world_cam[:3, :3].T + frame.T_world_cam[:3, 3]
        found = []
        for box in self._boxes:
            inside = points_inside(points, grow_box(box, 0.02)).reshape(height, width)
            if inside.sum() < MIN_PIXELS:
                continue
            ys, xs = np.nonzero(inside)
            corners = (float(xs.min()), float(ys.min()), xs.max() + 1.0, ys.max() + 1.0)
            found.append(Detection2D(corners, kind_of(box), SCORE))
        return FrameDetections(tuple(found), seconds=0.05)


def kind_of(box: Box3D) -> str:
    """`red chair` -> `chair`."""
    return box.label.split()[-1]


def raising(error: Exception) -> Act:
    def act(frame: RgbdFrame) -> FrameDetections | None:
        raise error

    return act


def knows_nothing(frame: RgbdFrame) -> FrameDetections | None:
    return None
