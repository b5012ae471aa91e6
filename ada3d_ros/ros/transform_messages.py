"""tf2_msgs and tf2_ros, which need not be there: the message of /tf, and tf2's buffer.

`make_buffer` gives tf2's where it imports, else `TransformBuffer`; both have `add`, `lookup` and
`clear`.
"""

from __future__ import annotations

import importlib
import os
import time
from importlib.util import find_spec
from typing import Any, Protocol

from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.time import Time

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import ConfigError
from ada3d_ros.geometry.pose import PoseLookup, Transform, pose_from_quaternion, to_quaternion
from ada3d_ros.geometry.stamped import PoseReason, PoseStatus
from ada3d_ros.geometry.transforms import JUMP_NS, TransformBuffer, two_parents_text
from ada3d_ros.ros.conversions import ns_to_time

DISTRIBUTION = os.environ.get("ROS_DISTRO", "jazzy")
INSTALL = f"apt install ros-{DISTRIBUTION}-tf2-msgs, or with ROS 2 from wheels: make setup"
CACHE_S = 10.0  # tf2's own default
LATELY_S = 2.0  # a frame that came since then is being published


def tf_message_type() -> tuple[type | None, str]:
    """tf2_msgs/TFMessage, else None; and why, in words."""
    if find_spec("tf2_msgs") is None:
        return None, "tf2_msgs is not installed"
    try:
        found: type = importlib.import_module("tf2_msgs.msg").TFMessage
    except Exception as error:  # also: built for another Python
        return None, f"tf2_msgs does not import: {error!r}"
    return found, ""


def check_pose_source(config: AgentConfig) -> None:
    """Raises ConfigError where poses are to come from TF and its message is not there."""
    found, why = tf_message_type()
    if config.pose_source == "tf" and found is None:
        raise ConfigError(
            f"pose_source is 'tf', and {why}: /tf is a tf2_msgs/TFMessage. Install it ({INSTALL}),"
            " or set pose_source to pose or odom."
        )


class Buffer(Protocol):
    """Where every frame is in its parent, by stamp."""

    def add(
        self, parent: str, child: str, stamp_ns: int, where: Transform, static: bool
    ) -> float: ...

    def lookup(self, target: str, source: str, stamp_ns: int, max_gap_s: float) -> PoseLookup: ...

    def clear(self) -> None: ...


def make_buffer() -> Buffer:
    """tf2's where it imports."""
    try:
        tf2: Any = importlib.import_module("tf2_ros")
    except Exception:  # also: built for another Python
        return TransformBuffer()
    return Tf2Buffer(tf2)


class Tf2Buffer:
    """tf2_ros's buffer, asked without ever waiting; its own sentences say why it has no answer.

    Of two parents that take turns it would follow the last; that is refused here. It interpolates
    over any gap within its ten seconds.
    """

    def __init__(self, tf2: Any) -> None:
        self._tf2 = tf2
        # without a node: it would offer a service in its name
        self._buffer = tf2.Buffer(Duration(seconds=CACHE_S))
        self._last_ns: dict[str, int] = {}  # by child frame
        self._came_s: dict[str, float] = {}  # by child frame, time.monotonic()
        self._fallen: set[str] = set()  # children whose time fell beyond what tf2 keeps
        self._parents: dict[str, list[str]] = {}  # by child frame, the one in force last
        self._contested: dict[str, int] = {}  # child frame -> stamp at which a parent came back

    def add(self, parent: str, child: str, stamp_ns: int, where: Transform, static: bool) -> float:
        """Keep one transform; returns by how many seconds its time has fallen back, else 0."""
        message = TransformStamped(child_frame_id=child)
        message.header.frame_id, message.header.stamp = parent, ns_to_time(stamp_ns)
        t, q = message.transform.translation, message.transform.rotation
        # tf2 refuses a quaternion that was rounded to two digits
        translation_m, quat = to_quaternion(where.matrix())
        t.x, t.y, t.z = map(float, translation_m)
        q.x, q.y, q.z, q.w = map(float, quat)
        self._note_parent(parent, child, stamp_ns)
        if static:
            self._buffer.set_transform_static(message, "ada3d")
            return 0.0

        # It ignores what is older than its ten seconds: after a bag loop, everything. One frame
        # alone is a publisher whose clock is behind: the others go on.
        back_ns = self._last_ns.get(child, stamp_ns) - stamp_ns
        now_s = time.monotonic()
        if back_ns > CACHE_S * 1e9:
            self._fallen.add(child)
            lately = {name for name, at_s in self._came_s.items() if now_s - at_s < LATELY_S}
            if lately <= self._fallen:
                self.clear()
        elif back_ns < 0:
            self._fallen.discard(child)
        self._last_ns[child], self._came_s[child] = stamp_ns, now_s
        self._buffer.set_transform(message, "ada3d")
        return back_ns / 1e9 if back_ns > JUMP_NS else 0.0

    def lookup(self, target: str, source: str, stamp_ns: int, max_gap_s: float) -> PoseLookup:
        """T_target_source (4, 4) at a stamp, else why not."""
        contested = self._contested_above(source) or self._contested_above(target)
        if contested:
            why = two_parents_text(contested, self._parents[contested])
            return PoseLookup(PoseStatus.NOT_YET, reason=PoseReason.TWO_PARENTS, why=why)
        try:
            found = self._buffer.lookup_transform_core(target, source, Time(nanoseconds=stamp_ns))
        except self._tf2.TransformException as error:
            return self._refused(error)
        t, q = found.transform.translation, found.transform.rotation
        pose = pose_from_quaternion((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))
        return PoseLookup(PoseStatus.FOUND, pose)

    def _note_parent(self, parent: str, child: str, stamp_ns: int) -> None:
        """Remember the parents of a frame; one that comes back takes turns with another."""
        parents = self._parents.setdefault(child, [])
        if parents and parents[-1] == parent:
            return
        if parent in parents:
            self._contested[child] = stamp_ns
            parents.remove(parent)
        parents.append(parent)

    def _contested_above(self, frame: str) -> str:
        """The first frame from this one to its root that has two parents lately; else ""."""
        seen = set[str]()
        while frame in self._parents and frame not in seen:
            seen.add(frame)
            since_ns = self._last_ns.get(frame, 0) - self._contested.get(frame, -(10**19))
            if since_ns < CACHE_S * 1e9:
                return frame
            frame = self._parents[frame][-1]
        return ""

    def _refused(self, error: Exception) -> PoseLookup:
        text = str(error).strip()
        reason = PoseReason.UNKNOWN_FRAME
        if isinstance(error, self._tf2.ExtrapolationException):
            reason = PoseReason.BEFORE if "into the past" in text else PoseReason.AFTER
        elif isinstance(error, self._tf2.ConnectivityException):
            reason = PoseReason.NOT_CONNECTED
        elif "loop" in text:
            reason = PoseReason.LOOP
        status = PoseStatus.NEVER if reason is PoseReason.BEFORE else PoseStatus.NOT_YET
        return PoseLookup(status, reason=reason, why=f"TF: {text}")

    def clear(self) -> None:
        """Forget all but static transforms."""
        self._buffer.clear()
        self._last_ns.clear()
        self._contested.clear()
        self._fallen.clear()
