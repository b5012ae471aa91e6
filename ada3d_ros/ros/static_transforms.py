"""The subscription of /tf_static: transforms that hold at every time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from ada3d_ros.errors import PoseError
from ada3d_ros.geometry.pose import PoseLookup
from ada3d_ros.geometry.transforms import TransformBuffer
from ada3d_ros.ros.guard import guarded
from ada3d_ros.ros.transform_messages import Buffer, tf_message_type
from ada3d_ros.sources.tf_messages import TF_STATIC, placed

# as tf2_ros listens: every publisher's last, for those who come late
QOS = QoSProfile(
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class StaticTransforms:
    """Puts what is latched on /tf_static into a buffer; `available` where its message is there.

    node: a LifecycleNode that is a guard.Reporter.
    """

    def __init__(
        self,
        node: Any,
        warn: Callable[[str, str], None],
        buffer: Buffer | None = None,
        on_new: Callable[[], None] = lambda: None,
    ) -> None:
        self._node, self._warn, self._on_new = node, warn, on_new
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
                self._warn(f"tf {transform.child_frame_id}", str(error))
                continue
            self._buffer.add(parent, child, stamp_ns, where, static=True)
        self._on_new()

    def lookup(self, target: str, source: str) -> PoseLookup:
        """T_target_source (4, 4) through static transforms alone."""
        return self._buffer.lookup(target, source, 0, 0.0)

    def close(self) -> None:
        """Destroy the subscription."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
