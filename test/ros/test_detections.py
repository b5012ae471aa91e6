"""vision_msgs over DDS: the objects as a Detection3DArray, detections of a topic as they come.

Its interfaces are compiled into a scratch folder: the package's own from a checkout of
ros-perception/vision_msgs that $ADA3D_VISION_MSGS names, else those of test/support/vision_msgs,
which have the same fields.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from test.support.ros_harness import free_domain

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    *("BoundingBox3D", "Detection3D", "Detection3DArray"),
    *("BoundingBox2D", "Detection2D", "Detection2DArray", "Point2D", "Pose2D"),
    *("ObjectHypothesis", "ObjectHypothesisWithPose"),
)
STAND_IN = Path(__file__).resolve().parents[1] / "support" / "vision_msgs"
CMAKE = """cmake_minimum_required(VERSION 3.16)
project(vision_msgs)
find_package(ament_cmake REQUIRED)
find_package(geometry_msgs REQUIRED)
find_package(std_msgs REQUIRED)
find_package(rosidl_default_generators REQUIRED)
rosidl_generate_interfaces(${PROJECT_NAME} FILES DEPENDENCIES geometry_msgs std_msgs)
ament_package()
"""
# One process: the agent keeps three objects, one of them gone; what a late subscriber gets.
SCRIPT = """
import json, sys, time
import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from vision_msgs.msg import Detection3DArray
from ada3d_ros.measures import ObjectsSnapshot, SceneObject
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.ros.node import build_node
from ada3d_ros.ros.outputs import LATCHED
from ada3d_ros.types import Box3D

def thing(number, label, gone_ns=-1):
    box = Box3D(np.array([number, 0.5, 0.25]), np.array([0.5, 0.4, 0.3]), 0.5, label, 0.75)
    return SceneObject(str(number), label, box, gone_ns=gone_ns)

things = thing(1, "red chair"), thing(2, "blue sofa", 5), thing(3, "lamp")

class Kept(Ada3DPipeline):
    def objects(self):
        return ObjectsSnapshot(things, complete=True, stamp_ns=7 * 10**9, frame_id="map")

rclpy.init()
node, peer = build_node(Kept), Node("peer")
node.pipeline = Kept(node.config)
node.objects.update()
executor, received = SingleThreadedExecutor(), []
executor.add_node(node)
executor.add_node(peer)
peer.create_subscription(Detection3DArray, "/ada3d_agent/detections", received.append, LATCHED)
end = time.monotonic() + 60
while not received and time.monotonic() < end:
    executor.spin_once(timeout_sec=0.05)
message = received[0]
print(json.dumps({"frame": message.header.frame_id, "sec": message.header.stamp.sec, "found": [
    [d.id, d.results[0].hypothesis.class_id, d.results[0].hypothesis.score,
     d.bbox.center.position.x, d.bbox.center.orientation.z, d.bbox.size.x, d.bbox.size.z,
     d.results[0].pose.pose.position.y, d.header.frame_id] for d in message.detections]}))
node.destroy_node()
peer.destroy_node()
rclpy.shutdown()
"""


@pytest.fixture(scope="module")
def vision_msgs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which vision_msgs imports."""
    sources = Path(os.environ.get("ADA3D_VISION_MSGS") or STAND_IN)
    messages = next(
        (p for p in (sources / "msg", sources / "vision_msgs" / "msg") if p.is_dir()), None
    )
    if messages is None:
        pytest.skip(f"{sources} is no checkout of ros-perception/vision_msgs")
    if shutil.which("cmake") is None:
        pytest.skip("the interfaces cannot be compiled: cmake is not on PATH")

    # Compile the few messages that are used, with this environment's generators.
    folder, prefix = tmp_path_factory.mktemp("vision_msgs"), Path(sys.prefix)
    (folder / "msg").mkdir()
    for name in NAMES:
        shutil.copy(messages / f"{name}.msg", folder / "msg")
    shutil.copy(messages.parent / "package.xml", folder)
    files = " ".join(f"msg/{name}.msg" for name in NAMES)
    (folder / "CMakeLists.txt").write_text(CMAKE.replace("FILES", files))
    environment = os.environ | {
        "AMENT_PREFIX_PATH": f"{prefix}:{os.environ.get('AMENT_PREFIX_PATH', '')}".rstrip(":"),
        "PATH": f"{prefix}/bin:{os.environ['PATH']}",
    }
    configure = ("-S", folder, "-B", folder / "build", f"-DPython3_EXECUTABLE={sys.executable}")
    installed = folder / "installed"
    for command in (
        (*configure, f"-DCMAKE_INSTALL_PREFIX={installed}", "-DBUILD_TESTING=OFF"),
        ("--build", folder / "build"),
        ("--install", folder / "build"),
    ):
        done = subprocess.run(
            ["cmake", *map(str, command)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    (packages,) = installed.glob("lib/python3*/site-packages")
    return environment | {
        "PYTHONPATH": f"{packages}:{os.environ.get('PYTHONPATH', '')}".rstrip(":"),
        "LD_LIBRARY_PATH": f"{installed / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(
            ":"
        ),
    }


def run_script(script: str, environment: dict[str, str]) -> dict[str, Any]:
    """What a script prints last, as JSON; it runs in a domain of its own."""
    with free_domain() as domain:
        run = subprocess.run(
            [sys.executable, "-c", script],
            env=environment | {"ROS_DOMAIN_ID": str(domain)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert run.returncode == 0, run.stderr
    assert "no ~/detections" not in run.stderr
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def test_detections_are_the_objects_that_are_there(vision_msgs: dict[str, str]) -> None:
    found = run_script(SCRIPT, vision_msgs)
    assert (found["frame"], found["sec"]) == ("map", 7)
    yaw_z = pytest.approx(0.247404, abs=1e-6)  # sin of half of 0.5 rad
    assert found["found"] == [
        ["1", "red chair", 0.75, 1.0, yaw_z, 0.5, 0.3, 0.5, "map"],
        ["3", "lamp", 0.75, 3.0, yaw_z, 0.5, 0.3, 0.5, "map"],
    ]


# Another process: a best-effort publisher under a name of its own; what the detector keeps of it.
TOPIC_SCRIPT = """
import json, time
import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose
from ada3d_ros.ros.node import build_node
from ada3d_ros.types import Intrinsics, RgbdFrame

rclpy.init()
settings = {"model.path": "none", "detector.path": "topic", "autostart": True}
node = build_node(
    parameter_overrides=[Parameter(name, value=value) for name, value in settings.items()],
    cli_args=["--ros-args", "-r", "~/detections_2d:=/yolo/boxes"],
)
peer = Node("peer")
qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
publisher = peer.create_publisher(Detection2DArray, "/yolo/boxes", qos)
executor = SingleThreadedExecutor()
executor.add_node(node)
executor.add_node(peer)

message = Detection2DArray()
message.header.stamp.sec, message.header.frame_id = 5, "optical"
for label, score in (("tv", 0.75), ("62", float("nan"))):
    one = Detection2D()
    one.bbox.center.position.x, one.bbox.center.position.y = 30.0, 20.0
    one.bbox.size_x, one.bbox.size_y = 20.0, 10.0
    found = ObjectHypothesisWithPose()
    found.hypothesis.class_id, found.hypothesis.score = label, score
    one.results = [found]
    message.detections.append(one)

rgb, depth = np.zeros((48, 64, 3), np.uint8), np.ones((48, 64), np.float32)
camera = Intrinsics(60.0, 60.0, 32.0, 24.0, 64, 48)
frame = RgbdFrame(5 * 10**9, rgb, depth, camera, np.eye(4), "map", "optical")
end, kept = time.monotonic() + 60, None
while kept is None and time.monotonic() < end:
    publisher.publish(message)
    executor.spin_once(timeout_sec=0.05)
    kept = node.detections.detector.detect(frame)
boxes = [[d.label, d.score, *d.box_px] for d in kept.detections]
topic = node.detections.monitor.topic
print(json.dumps({"topic": topic, "boxes": boxes, "refused": dict(kept.refused)}))
node.destroy_node()
peer.destroy_node()
rclpy.shutdown()
"""


def test_detections_of_a_topic_arrive(vision_msgs: dict[str, str]) -> None:
    """Remapped, and from a best-effort publisher."""
    found = run_script(TOPIC_SCRIPT, vision_msgs)
    assert found["topic"] == "/yolo/boxes"
    assert found["boxes"] == [["tv", 0.75, 20.0, 15.0, 40.0, 25.0]]
    assert found["refused"] == {"a score that is NaN": 1}


def test_without_vision_msgs_there_is_one_line_and_no_topic() -> None:
    """As in every environment of `make setup`: the node says so once and serves the rest."""
    script = (
        "import rclpy; from ada3d_ros.ros.node import build_node; rclpy.init(); n = build_node();"
        " t = [t for t, _ in n.get_publisher_names_and_types_by_node('ada3d_agent', '/')];"
        " print('/ada3d_agent/objects' in t, '/ada3d_agent/detections' in t); n.destroy_node()"
    )
    probe = "import importlib.util as u, sys; sys.exit(u.find_spec('vision_msgs') is not None)"
    if subprocess.run([sys.executable, "-c", probe]).returncode:
        pytest.skip("vision_msgs is installed here")
    with free_domain() as domain:
        environment = os.environ | {"ROS_DOMAIN_ID": str(domain)}
        run = subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert run.stdout.split() == ["True", "False"], run.stderr
    assert run.stderr.count("no ~/detections: vision_msgs is not installed.") == 1
