"""What a running node has loaded: nothing of the laboratory, no plotting library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from test.support.ros_harness import free_domain

ROOT = Path(__file__).resolve().parents[2]

# one process: the node and a camera; prints what is loaded that should not be, at three moments
SCRIPT = """
import json, sys, time
import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image

import ada3d_ros.ros.agent
from ada3d_ros.ros.node import build_node
from ada3d_ros.srv import QueryScene

def unwanted():
    names = ("ada3d_ros.lab", "matplotlib")
    return sorted(m for m in sys.modules for n in names if m == n or m.startswith(n + "."))

def spin(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        executor.spin_once(timeout_sec=0.05)
    return condition()

found = {"imported": unwanted()}
rclpy.init()
values = {"model.path": "embedded", "autostart": True, "input.max_age_sec": 0.0}
node = build_node(parameter_overrides=[Parameter(n, value=v) for n, v in values.items()])
peer, executor = Node("peer"), SingleThreadedExecutor()
executor.add_node(node)
executor.add_node(peer)
assert spin(lambda: node.pipeline is not None and node.pipeline.ready), node.state_and_detail()
found["active"] = unwanted()

pose = PoseStamped()
pose.pose.position.z = 1.2
pose.pose.orientation.x, pose.pose.orientation.w = -(0.5**0.5), 0.5**0.5
info = CameraInfo(height=48, width=64, k=[60.0, 0.0, 32.0, 0.0, 60.0, 24.0, 0.0, 0.0, 1.0])
rgb = Image(height=48, width=64, encoding="rgb8", step=192, data=bytes(range(256)) * 36)
depth = Image(height=48, width=64, encoding="16UC1", step=128)
depth.data = np.full((48, 64), 2000, np.uint16).tobytes()
topics = {"pose": pose, "rgb/camera_info": info, "rgb/image": rgb, "depth/image": depth}
publishers = {t: peer.create_publisher(type(m), t, 10) for t, m in topics.items()}
assert spin(lambda: all(p.get_subscription_count() for p in publishers.values()))
for second in range(1, 20):
    for topic, message in topics.items():
        message.header.stamp.sec = second
        message.header.frame_id = "map" if topic == "pose" else "camera"
        publishers[topic].publish(message)
    if spin(lambda: node.pipeline.scene_state().num_keyframes > 0, 1.0):
        break

client = peer.create_client(QueryScene, "/ada3d_agent/query")
future = client.call_async(QueryScene.Request(question="Is there a box?"))
assert spin(future.done)
answer = future.result().answer
assert answer.success, answer.error_msg
found["answered"] = unwanted()
print(json.dumps(found))
node.destroy_node()
peer.destroy_node()
rclpy.shutdown()
"""


def test_the_node_loads_nothing_of_the_laboratory() -> None:
    with free_domain() as domain:
        environment = os.environ | {"ROS_DOMAIN_ID": str(domain)}
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found == {"imported": [], "active": [], "answered": []}
    assert "it knows rooms that a program drew" in run.stderr  # who asks about photographs is told
