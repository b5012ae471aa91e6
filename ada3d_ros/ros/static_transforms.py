"""The subscription of /tf_static: transforms that hold at every time; and what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from ada3d_ros.errors import PoseError
from ada3d_ros.geometry.pose import PoseLookup, Transform, rotation_angle_rad
from ada3d_ros.geometry.transforms import TransformBuffer
from ada3d_ros.ros.guard import capped, guarded
from ada3d_ros.ros.transform_messages import Buffer, tf_message_type
from ada3d_ros.sources.tf_messages import TF_STATIC, placed

# as tf2_ros listens: every publisher's last, for those who come late
QOS = QoSProfile(
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
MAX_REFUSED = 100  # frames whose bad transform is remembered
MAX_TOLD = 3  # in a warning
SAME_M, SAME_DEG = 1e-3, 0.1  # two static transforms of one frame that are nearer are one


class RefusedTransforms:
    """Why the last transform of a frame was not used, by child frame."""

    def __init__(self, warn: Callable[[str, str], None]) -> None:
        self._warn = warn
        self._why: dict[str, str] = {}

    def refuse(self, child: str, why: str) -> None:
        child, why = capped(child), capped(why)
        self._warn(f"tf {child}", why)
        if len(self._why) < MAX_REFUSED:
            self._why[child.lstrip("/")] = why

    def forgive(self, child: str) -> None:
        """A good one came."""
        self._why.pop(child, None)

    def told(self, found: PoseLookup) -> PoseLookup:
        """The same, with the sentence of a transform that was not used and would have served."""
        named = [why for child, why in self._why.items() if repr(child) in found.why]
        if found.pose is not None or not named:
            return found
        return PoseLookup(found.status, reason=found.reason, why=f"{found.why} {' '.join(named)}")


class StaticTransforms:
    """Puts what is latched on /tf_static into a buffer; `available` where its message is there.

    node: a LifecycleNode that is a guard.Reporter. used: which of two places of one frame serves,
    in words; the buffer has the later one.
    """

    def __init__(
        self,
        node: Any,
        warn: Callable[[str, str], None],
        buffer: Buffer | None = None,
        on_new: Callable[[], None] = lambda: None,
        used: str = "the later one is used",
    ) -> None:
        self._node, self._warn, self._on_new, self._used = node, warn, on_new, used
        self.refused = RefusedTransforms(warn)
        self._places: dict[tuple[str, str], Transform] = {}  # by parent and child
        self._moved: dict[str, str] = {}  # child frame -> that it has two places, in words
        self._buffer = TransformBuffer() if buffer is None else buffer
        message_type, _ = tf_message_type()
        self.available = message_type is not None
        self._subscription = (
            node.create_subscription(message_type, TF_STATIC, self._on_static, QOS)
            if self.available
            else None
        )

    @property
    def publishers(self) -> int:
        """How many publish static transforms."""
        topic = self._subscription.topic_name if self._subscription is not None else TF_STATIC
        return int(self._node.count_publishers(topic))

    def report_error(self, where: str, error: BaseException, trace: str) -> None:
        self._node.report_error(where, error, trace)

    @guarded()
    def _on_static(self, message: Any) -> None:
        for transform in message.transforms:
            try:
                parent, child, stamp_ns, where = placed(transform)
            except PoseError as error:
                self.refused.refuse(transform.child_frame_id, str(error))
                continue
            self.refused.forgive(child)
            self._compare(parent, child, where)
            self._buffer.add(parent, child, stamp_ns, where, static=True)
        self._on_new()

    def _compare(self, parent: str, child: str, where: Transform) -> None:
        """Say where a frame gets another place in its parent: two publishers, or a camera that was
        mounted anew. Keyframes of before keep theirs.
        """
        before = self._places.get((parent, child), where)
        self._places[parent, child] = where
        away_m = math.dist(before.translation_m, where.translation_m)
        away_deg = math.degrees(rotation_angle_rad(before.matrix(), where.matrix()))
        if away_m <= SAME_M and away_deg <= SAME_DEG:
            return
        why = (
            f"TF: static {parent!r} -> {child!r} came with two values, {away_m:.3f} m and"
            f" {away_deg:.1f} deg apart: {self._used}. End one publisher; where the frame was moved"
            " on purpose, call ~/reset_scene."
        )
        self._warn(f"tf static {child}", why)
        self._moved[child] = why

    @property
    def warning(self) -> str:
        """Frames that came with two places since the scene began; '' where none did."""
        return " ".join(list(self._moved.values())[:MAX_TOLD])

    def clear(self) -> None:
        """The scene begins anew: the places that hold now are its own."""
        self._moved.clear()

    def lookup(self, target: str, source: str) -> PoseLookup:
        """T_target_source (4, 4) through static transforms alone."""
        return self.refused.told(self._buffer.lookup(target, source, 0, 0.0))

    def close(self) -> None:
        """Destroy the subscription."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
