"""`ada3d doctor --record`: the `ros2 bag record` line for what the agent listens to."""

from __future__ import annotations

import shlex
import sys

import rclpy
from rclpy.node import Node

from ada3d_ros.ros.discovery import wait_for_graph
from ada3d_ros.ros.doctor_graph import find_agent, input_topics

EXAMPLE = (
    "ros2 bag record -s mcap /camera/camera/color/image_raw/compressed"
    " /camera/camera/color/camera_info /camera/camera/aligned_depth_to_color/image_raw /tf"
    " /tf_static"
)


def record_command(topics: list[str]) -> str:
    """The command that records these topics into one bag of the kind that `ada3d replay` reads."""
    return "ros2 bag record -s mcap " + " ".join(shlex.quote(topic) for topic in topics)


def print_record(wanted: str, wait_s: float) -> int:
    """Print the command on stdout, and on stderr what there is to say. 0, or 1 where no agent is
    there or none of its inputs is sent.
    """
    rclpy.init()
    node = Node("ada3d_doctor")
    try:
        node_name, findings = find_agent(node, wanted, wait_s)
        for finding in findings:
            print(finding, file=sys.stderr)
        if not node_name:
            print(f"without an agent, for a RealSense for example: {EXAMPLE}", file=sys.stderr)
            return 1

        topics = sorted(input_topics(node, node_name))
        wait_for_graph(node, lambda: all(map(node.count_publishers, topics)), wait_s)
        sent = [topic for topic in topics if node.count_publishers(topic)]
        silent = [topic for topic in topics if topic not in sent]
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    if silent:
        print(f"nobody sends, so left out: {', '.join(silent)}", file=sys.stderr)
    if not sent:
        state = "is not active or has no inputs" if not topics else "gets none of its inputs"
        print(f"{node_name} {state}: nothing to record", file=sys.stderr)
        return 1
    print(record_command(sent))
    return 0
