"""The node's publishers: answers, boxes, markers, status, diagnostics."""

from __future__ import annotations

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from ada3d_ros.msg import AgentStatus, Answer, GroundedBoxArray
from ada3d_ros.ros.conversions import boxes_to_markers, boxes_to_msg, boxes_to_poses
from ada3d_ros.ros.diagnostics import DiagnosticsPublisher

LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class AgentOutputs:
    """All publishers of the agent node. Plain publishers, not lifecycle-gated: an error must reach people in any state."""

    def __init__(self, node: Node, use_fqn: bool) -> None:
        self._answers = node.create_publisher(Answer, "~/answer", 10)
        self._texts = node.create_publisher(String, "~/answer_text", 10)
        self._boxes = node.create_publisher(GroundedBoxArray, "~/boxes", 10)
        self._poses = node.create_publisher(PoseArray, "~/poses", 10)
        self._markers = node.create_publisher(MarkerArray, "~/markers", LATCHED)
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self.statuses = node.create_publisher(AgentStatus, "~/status", LATCHED)
        name = node.get_fully_qualified_name() if use_fqn else node.get_name()
        self.updater = DiagnosticsPublisher(name, node.resolve_topic_name("rgb/image"))

    def publish_answer(self, message: Answer, marker_lifetime_s: float) -> None:
        """The answer on every topic; a failure goes to ~/answer and, as `[code] sentence`, to ~/answer_text."""
        self._answers.publish(message)
        self._texts.publish(
            String(data=message.text if message.success else f"[{message.error_code}] {message.error_msg}")
        )
        if message.success:
            self._boxes.publish(boxes_to_msg(message))
            self._poses.publish(boxes_to_poses(message))
            self._markers.publish(boxes_to_markers(message, marker_lifetime_s))

    def publish_diagnostics(self, stamp: Time) -> None:
        message = self.updater.build()
        message.header.stamp = stamp
        self._diagnostics.publish(message)
