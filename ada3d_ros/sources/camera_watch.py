"""What is odd about a camera though its frames can be used: each sentence once, and as a state."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from ada3d_ros.config import AgentConfig
from ada3d_ros.geometry.camera import is_unusual, size_of_matrix
from ada3d_ros.geometry.camera_axes import (
    CameraAxes,
    Matrix,
    axes_of,
    complaint_about,
    settings_cure,
)
from ada3d_ros.sources.messages import PosedSet
from ada3d_ros.types import RgbdFrame

JUDGED_AT = 20  # frames; from then on every 20
ALL_UP = 0.5  # how far the z axis points up in each of the first frames
KEPT_POSES = 400
MIN_FRAMES = 5  # of a whole recording


class CameraWatch:
    """Looks at frames that were taken: is D applied twice, is K of another size, are the poses of
    the optical frame? `warn(sentence)` is called once for each; `complaints` holds what is so now.
    """

    def __init__(self, config: AgentConfig, warn: Callable[[str], object]) -> None:
        self._config, self._warn = config, warn
        self._said: set[str] = set()
        self._found: dict[str, str] = {}
        self.complaints: tuple[str, ...] = ()
        self.axes = CameraAxes.UNKNOWN
        self._poses: deque[Matrix] = deque(maxlen=KEPT_POSES)
        self._num_poses = 0

    def clear(self) -> None:
        """Forget the poses: those of before a reset may be of another source."""
        self._poses.clear()
        self._num_poses = 0
        self.axes = CameraAxes.UNKNOWN
        self._set("axes", "")

    def note(self, frame: RgbdFrame, messages: PosedSet) -> None:
        """Look at one frame and what it was made of; its poses are judged by `judge_poses`."""
        # An image that says it is rectified, beside a lens.
        topic, D = messages.topics[0], [float(value) for value in messages.info.d]
        name = topic.removesuffix("/compressed").rpartition("/")[2]
        twice = name.startswith("image_rect") and any(D) and not self._config.camera.rectified
        self._set(
            "rectified",
            f"{topic} is named rectified, but camera_info has distortion coefficients {D}: they are"
            " applied to it. If its images are rectified, set camera.rectified: true."
            if twice
            else "",
        )

        # A principal point far from the middle.
        k = frame.intrinsics
        size = k.width, k.height
        unusual = is_unusual(k.cx, k.cy, size)
        self._set(
            "matrix",
            f"camera_info has cx = {k.cx:g}, cy = {k.cy:g}, the images are {k.width}x{k.height}: is"
            f" its matrix of another size ({size_of_matrix(k.cx, k.cy)})? Publish the camera_info"
            " of this image size."
            if unusual
            else "",
        )
        self._poses.append(frame.T_world_cam)
        self._num_poses += 1

    def judge_poses(self, finished: bool = False) -> None:
        """Judge the poses so far; of a stream at the 20th frame, and then every 20.

        A camera may look up for a while. So the first 20 must agree all together; later, and of a
        whole recording (`finished`), most of the frames.
        """
        # Whether it is time.
        if finished:
            if self._num_poses < MIN_FRAMES:
                return
        elif self._num_poses == 0 or self._num_poses % JUDGED_AT:
            return

        # What they look like.
        poses = np.stack(self._poses)
        axes = axes_of(poses)
        is_early = not finished and len(poses) == JUDGED_AT
        if is_early and axes is CameraAxes.BODY and not (poses[:, 2, 2] > ALL_UP).all():
            axes = CameraAxes.UNKNOWN
        self.axes = axes
        complaint = complaint_about(axes, len(poses))
        cure = settings_cure(axes, self._config.extrinsic.quat_xyzw) if complaint else ""
        self._set("axes", f"{complaint}; {cure}." if complaint else "", key=axes)

    def _set(self, subject: str, sentence: str, key: str = "") -> None:
        """Note what holds of a subject now; said when it is new."""
        if sentence == self._found.get(subject, ""):
            return
        self._found[subject] = sentence
        self.complaints = tuple(text for text in self._found.values() if text)
        if sentence and subject + key not in self._said:
            self._said.add(subject + key)
            self._warn(sentence)
