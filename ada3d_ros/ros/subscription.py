"""One input: a message filter that counts what it sees and survives a change of its QoS."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ada3d_ros.config import AgentConfig
from ada3d_ros.ros.diagnostics import InputMonitor
from ada3d_ros.ros.sync import SimpleFilter, Subscriber
from ada3d_ros.ros.transform_messages import tf_message_type
from ada3d_ros.sources.messages import stamp_of
from ada3d_ros.sources.tf_messages import TF, newest_stamp_ns

# rclpy copies an image byte by byte into a Python array (0.6 ms for 640x480x3); rosbags reads the
# same CDR bytes as a view (0.03 ms). The fields are the same.
TYPES = get_typestore(Stores.LATEST)
READ_BY_ROSBAGS = {
    Image: "sensor_msgs/msg/Image",
    CompressedImage: "sensor_msgs/msg/CompressedImage",
}


def input_topics(config: AgentConfig) -> dict[str, tuple[str, type]]:
    """Topic, before remapping, and message type of every input."""
    depth = {
        "raw": ("depth/image", Image),
        "compressed": ("depth/image/compressed", CompressedImage),
        "compressedDepth": ("depth/image/compressedDepth", CompressedImage),
    }
    compressed_rgb = config.rgb_transport == "compressed"
    return {
        "rgb": ("rgb/image/compressed", CompressedImage)
        if compressed_rgb
        else ("rgb/image", Image),
        "depth": depth[config.depth_transport],
        "camera_info": ("rgb/camera_info", CameraInfo),
        "pose": (TF, tf_message_type()[0] or object)
        if config.pose_source == "tf"
        else (config.pose_source, Odometry if config.pose_source == "odom" else PoseStamped),
    }


class InputSubscription(SimpleFilter):
    """A subscription whose messages go through `monitor` to the registered callbacks.

    mode `auto` starts reliable and finds a best-effort publisher by itself: when the middleware
    reports an incompatible one, it subscribes again best-effort, once, and warns. Bytes that are
    not the message go to `on_corrupt(text)`.

    A latched message, sent before the subscription was there, reaches only one that is transient
    local; and that gets nothing from a publisher that is not. `follow_latching` looks who publishes
    and subscribes accordingly.
    """

    def __init__(
        self,
        node: LifecycleNode,
        monitor: InputMonitor,
        message_type: type,
        mode: str,
        on_corrupt: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._node, self._monitor, self._type = node, monitor, message_type
        self._on_corrupt = on_corrupt
        self._raw_name = READ_BY_ROSBAGS.get(message_type)
        self._may_fall_back = mode == "auto"
        self._closed = False
        reliable = mode != "best_effort"
        self._reliability = (
            ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        )
        self._durability = DurabilityPolicy.VOLATILE
        self._source = self._subscribe(first=True)

    def _subscribe(self, first: bool) -> Subscriber:
        events = SubscriptionEventCallbacks(
            incompatible_qos=self._on_incompatible_qos, message_lost=self._on_message_lost
        )
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=5 if self._raw_name else 50,  # small messages may wait
            reliability=self._reliability,
            durability=self._durability,
        )
        # parameters qos_overrides./<topic>.subscription.*; later they would undo the fallback
        overrides = QoSOverridingOptions.with_default_policies() if first else None
        source = Subscriber(
            self._node,
            self._type,
            self._monitor.topic,
            qos_profile=profile,
            event_callbacks=events,
            raw=self._raw_name is not None,
            qos_overriding_options=overrides,
        )
        self._monitor.reliability = self._reliability.name.lower()
        self._monitor.type_name = self._type.__name__
        self._monitor.topic = source.sub.topic_name  # as remapped
        source.registerCallback(self._on_message)
        return source

    def _on_message(self, message: Any) -> None:
        if self._raw_name is not None:
            try:
                message = TYPES.deserialize_cdr(message, self._raw_name)
            except Exception as error:  # damaged bytes make it raise almost anything
                self._on_corrupt(
                    f"{self._monitor.topic}: {len(message)} bytes are no {self._raw_name}: {error}"
                )
                return
        is_tf = hasattr(message, "transforms")
        stamp_ns = newest_stamp_ns(message) if is_tf else stamp_of(message)
        if stamp_ns or not is_tf:  # without transforms nothing has been sent
            self._monitor.note(stamp_ns)
        self.signalMessage(message)

    def follow_latching(self) -> None:
        """Be transient local while every publisher is, volatile otherwise."""
        publishers = self._node.get_publishers_info_by_topic(self._monitor.topic)
        latched = bool(publishers) and all(
            p.qos_profile.durability is DurabilityPolicy.TRANSIENT_LOCAL for p in publishers
        )
        wanted = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        if publishers and wanted is not self._durability:
            self._durability = wanted
            self._renew()

    def _on_message_lost(self, event: Any) -> None:
        self._monitor.losses.append((time.monotonic(), event.total_count_change))

    def _on_incompatible_qos(self, event: Any) -> None:
        # a publisher that does not latch has joined those that do
        latched = self._durability is DurabilityPolicy.TRANSIENT_LOCAL
        if latched and event.last_policy_kind == QoSPolicyKind.DURABILITY:
            self._durability = DurabilityPolicy.VOLATILE
            self._renew_later()
            return
        self._monitor.qos_incompatible += 1
        log = self._node.get_logger()

        # asked for by a parameter: only said
        if not self._may_fall_back:
            log.warning(
                f"{self._monitor.topic}: a publisher offers another reliability than the"
                f" {self._monitor.reliability} one asked for; nothing arrives from it. Set"
                f" qos.{self._monitor.name} to 'auto' or 'best_effort'."
            )
            return

        # found out by ourselves: once
        self._may_fall_back = False
        self._reliability = ReliabilityPolicy.BEST_EFFORT
        log.warning(
            f"{self._monitor.topic}: the publisher is best-effort; subscribing again best-effort"
            " (images may be lost)."
        )
        self._renew_later()

    def _renew_later(self) -> None:
        """Not from within the event of the subscription to destroy."""
        assert self._node.executor is not None  # it runs this callback
        self._node.executor.create_task(self._renew)

    def _renew(self) -> None:
        if self._closed:  # between the event and this task
            return
        self._node.destroy_subscription(self._source.sub)
        self._source = self._subscribe(first=False)

    def close(self) -> None:
        """Destroy the subscription."""
        self._closed = True
        self._node.destroy_subscription(self._source.sub)
