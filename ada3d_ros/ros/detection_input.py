"""The subscription of ~/detections_2d: detections of another node, for `detector.path: topic`."""

from __future__ import annotations

from rclpy.lifecycle import LifecycleNode

from ada3d_ros.config import AgentConfig
from ada3d_ros.config.objects import TOPIC
from ada3d_ros.errors import DetectorError
from ada3d_ros.ros.diagnostics import InputMonitor
from ada3d_ros.ros.subscription import InputSubscription
from ada3d_ros.ros.topic_detector import TopicDetector
from ada3d_ros.ros.vision_messages import INSTALL, vision_type

INTERFACE = "~/detections_2d"  # the topic before remapping
TYPE = "Detection2DArray"


class DetectionInput:
    """Who publishes detections, and the detector that finds them again for a keyframe.

    Exists while the node is configured; messages come while it is active.
    """

    def __init__(self, node: LifecycleNode, config: AgentConfig) -> None:
        """Raises DetectorError where vision_msgs is not there, or for unreadable names."""
        found, why = vision_type(TYPE)
        if found is None:
            raise DetectorError(
                f"detector.path is {TOPIC!r}, and {why}: {INTERFACE} is a vision_msgs/{TYPE}."
                f" Install it ({INSTALL}), or set detector.path to a file of a detector."
            )
        self._node, self._type = node, found
        topic = node.resolve_topic_name(INTERFACE)
        self.monitor = InputMonitor("detections", topic, INTERFACE, TYPE)
        self.detector = TopicDetector(
            topic, config.detector, config.sync.slop_sec, config.camera.rectified
        )
        self._subscription: InputSubscription | None = None

    def open(self) -> None:
        """Subscribe."""
        self.monitor = InputMonitor("detections", INTERFACE, INTERFACE, TYPE)
        subscription = InputSubscription(
            self._node, self.monitor, self._type, "auto", lambda text: None
        )
        subscription.registerCallback(self.detector.add)
        self._subscription = subscription

    def close(self) -> None:
        """Destroy the subscription, where there is one; what was kept goes."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()
        self.detector.clear()
