"""tf2_msgs/TFMessage by its fields, so that rosbags' and rclpy's messages both serve."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ada3d_ros.errors import PoseError
from ada3d_ros.geometry.pose import MAX_NORM_ERROR, Transform
from ada3d_ros.rigid import MAX_POSITION_M
from ada3d_ros.sources.messages import frame_name, stamp_of

TF, TF_STATIC = "/tf", "/tf_static"  # absolute, as tf2 has them


class Placed(NamedTuple):
    """One frame in its parent, at a stamp in ns."""

    parent: str
    child: str
    stamp_ns: int
    where: Transform


def placed(message: Any) -> Placed:
    """A TransformStamped. Raises PoseError, with the frames, for names or numbers that place
    nothing; cheap where all is well, since a robot sends thousands a second.
    """
    # Names.
    parent, child = frame_name(message.header.frame_id), frame_name(message.child_frame_id)
    if not parent or not child:
        raise PoseError(f"TF: {parent!r} -> {child!r} leaves a frame unnamed; not used.")
    if parent == child:
        raise PoseError(f"TF: {child!r} is placed in itself; not used.")

    # Numbers; `not` also for NaN.
    t, q = message.transform.translation, message.transform.rotation
    where = Transform((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))
    norm_error = abs(math.hypot(*where.quat_xyzw) - 1.0)
    if not (norm_error <= MAX_NORM_ERROR and math.hypot(t.x, t.y, t.z) <= MAX_POSITION_M):
        try:
            where.matrix()
        except PoseError as error:
            raise PoseError(f"TF: {parent!r} -> {child!r}: {error}") from None
    return Placed(parent, child, stamp_of(message), where)


def newest_stamp_ns(message: Any) -> int:
    """The newest stamp in a TFMessage, 0 where it is empty."""
    return max(map(stamp_of, message.transforms), default=0)
