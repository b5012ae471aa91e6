"""The node's publishers: answers, boxes, markers, status, diagnostics."""

from __future__ import annotations

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String
from visualization_msgs.msg import Marker, MarkerArray

from ada3d_ros.msg import AgentStatus, Answer, GroundedBoxArray
from ada3d_ros.ros.conversions import boxes_to_msg, boxes_to_poses
from ada3d_ros.ros.diagnostics import DiagnosticsPublisher
from ada3d_ros.ros.markers import answer_to_markers

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


def create_publisher(
    node: Node, message_type: type, topic: str, qos: QoSProfile | int
) -> Publisher:
    """A publisher without rclpy's default events.

    They are two waitables a publisher, each of which every turn of the executor pays for. Whoever
    subscribes with an incompatible QoS is told on its own side.
    """
    events = PublisherEventCallbacks(use_default_callbacks=False)
    return node.create_publisher(message_type, topic, qos, event_callbacks=events)


class AgentOutputs:
    """All publishers of the agent node.

    Plain publishers, not lifecycle-gated: an error must reach people in any state.
    """

    def __init__(self, node: Node, use_fqn: bool) -> None:
        self._answers = create_publisher(node, Answer, "~/answer", 10)
        self._texts = create_publisher(node, String, "~/answer_text", 10)
        self._boxes = create_publisher(node, GroundedBoxArray, "~/boxes", 10)
        self._poses = create_publisher(node, PoseArray, "~/poses", 10)
        self._markers = create_publisher(node, MarkerArray, "~/markers", LATCHED)
        self._diagnostics = create_publisher(node, DiagnosticArray, "/diagnostics", 1)
        self.statuses = create_publisher(node, AgentStatus, "~/status", LATCHED)
        name = node.get_fully_qualified_name() if use_fqn else node.get_name()
        self.updater = DiagnosticsPublisher(name, node.resolve_topic_name("rgb/image"))

    def publish_answer(self, message: Answer, marker_lifetime_s: float, is_here: bool) -> None:
        """The answer on every topic; a failure, and one that is not to be shown (is_here), on
        ~/answer and, as text, on ~/answer_text.
        """
        failure = f"[{message.error_code}] {message.error_msg}"
        self._answers.publish(message)
        self._texts.publish(String(data=message.text if message.success else failure))
        if message.success and is_here:
            self._boxes.publish(boxes_to_msg(message))
            self._poses.publish(boxes_to_poses(message))
            self._markers.publish(answer_to_markers(message, marker_lifetime_s))

    def clear_markers(self) -> None:
        """Take the boxes of an old scene out of RViz."""
        self._markers.publish(MarkerArray(markers=[Marker(action=Marker.DELETEALL)]))

    def publish_diagnostics(self, stamp: Time) -> None:
        message = self.updater.build()
        message.header.stamp = stamp
        self._diagnostics.publish(message)
