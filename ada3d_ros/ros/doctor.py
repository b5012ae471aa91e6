"""`ada3d doctor`: what is installed, what is alive, what is missing, and the command that mends it.

Runs without ROS too: then it says how to get it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

OK, NOTE, BAD = "ok", "note", "MISSING"
DISCOVERY_S = 5.0  # for the node to be discovered
QUIET_S = 1.0  # nothing new for so long: all that is alive has been discovered

# module -> (what for, how to get it)
PYTHON_PACKAGES = {
    "numpy": ("arrays", "make setup"),
    "scipy": ("rotations, connected components", "make setup"),
    "torch": ("the model", "make setup (TORCH_INDEX=<index> chooses a build)"),
    "transformers": ("CLIP and configs", "make setup"),
    "sentencepiece": ("the tokenizer", "make setup"),
    "cv2": ("image decoding", "make setup, or on a distribution: apt install python3-opencv"),
    "rosbags": ("bag files", "make setup"),
}
ROS_PACKAGES = {
    "rclpy": ("ROS 2 in Python", "make setup, or source /opt/ros/<distribution>/setup.bash"),
    "ada3d_ros.msg": (
        "the interfaces of this package",
        "make setup, or colcon build and source install/setup.bash",
    ),
}
# Of AgentStatus.msg; what is neither good nor bad is a note.
STATE_LEVELS = {
    "UNCONFIGURED": BAD,
    "LOADING": NOTE,
    "WAITING_FOR_DATA": NOTE,
    "READY": OK,
    "BUSY": OK,
    "PAUSED": NOTE,
    "ERROR": BAD,
    "INACTIVE": BAD,
}
# The lifecycle transitions that lead out of a state.
STATE_STEPS = {"UNCONFIGURED": ("configure", "activate"), "INACTIVE": ("activate",)}
# absent ones have a stand-in, or switch one output off
OPTIONAL_ROS_PACKAGES = {
    "message_filters": "a stand-in of the same surface is used",
    "cv_bridge": "OpenCV converts the pixels",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: str
    subject: str
    text: str
    cure: str = ""

    def __str__(self) -> str:
        cure = f"\n{'':10}-> {self.cure}" if self.cure else ""
        return f"{self.level:<8}  {self.subject}: {self.text}{cure}"


def _version(module: str) -> str:
    names = (module, f"ros-{os.environ.get('ROS_DISTRO', 'jazzy')}-{module}")
    if module == "cv2":
        names = ("opencv-python-headless", "opencv-python")
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return str(getattr(sys.modules.get(module), "__version__", "version unknown"))


def _can_import(module: str) -> str:
    """Empty if it imports, else the reason."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken native library raises anything
        return f"{type(error).__name__}: {error}"
    return ""


def check_packages() -> Iterator[Finding]:
    """Python, the libraries, ROS."""
    # What must be there.
    yield Finding(OK, "python", f"{platform.python_version()} at {sys.executable}")
    for module, (purpose, cure) in {**PYTHON_PACKAGES, **ROS_PACKAGES}.items():
        problem = _can_import(module)
        if problem:
            yield Finding(BAD, module, f"{purpose}: {problem}", cure)
        else:
            yield Finding(OK, module, "importable" if "." in module else _version(module))

    # What may be there.
    for module, without in OPTIONAL_ROS_PACKAGES.items():
        if _can_import(module):
            yield Finding(NOTE, module, f"not installed: {without}")
        else:
            yield Finding(OK, module, "the distribution's")
    if shutil.which("ros2") is None:
        yield Finding(
            NOTE,
            "ros2 command",
            "not installed (it has no wheel): `ada3d agent`, `ask`, `ground` and `replay` do"
            " without it",
        )


def check_device() -> Iterator[Finding]:
    """What torch computes on."""
    if _can_import("torch"):
        return
    import torch

    if not torch.cuda.is_available():
        yield Finding(
            NOTE,
            "GPU",
            "torch sees none: the model runs on the CPU",
            "with an NVIDIA GPU: make setup TORCH_INDEX=<index of CUDA builds>",
        )
        return
    # One finding per GPU.
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        memory = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        yield Finding(OK, f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {memory}")


class _Said(logging.Handler):
    """Keeps the texts of what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def check_model(path: str, vision_path: str = "") -> Iterator[Finding]:
    """Whether a checkpoint folder would load, with the vision tower of a CLIP folder if any."""
    from ada3d_ros.config import as_options, from_flat
    from ada3d_ros.errors import Ada3DError
    from ada3d_ros.pipeline import Ada3DPipeline

    # What the check says besides is a note.
    said = _Said()
    logging.getLogger("ada3d_ros").addHandler(said)
    try:
        settings = {"model.path": path, "model.vision_path": vision_path}
        info = Ada3DPipeline(from_flat(settings)).check()
    except Ada3DError as error:
        yield Finding(BAD, "model", as_options(str(error)))
        return
    finally:
        logging.getLogger("ada3d_ros").removeHandler(said)
    for text in said.texts:
        yield Finding(NOTE, "model", as_options(text))
    note = ", RANDOM WEIGHTS: answers are meaningless" if info.random_weights else ""
    size = f"{info.parameters / 1e6:.1f} M parameters, {info.memory_bytes / 2**20:.0f} MiB"
    text = f"{info.name}: {size} in {info.precision} on {info.device}{note}"
    yield Finding(OK, "model", text)


def check_graph(node_name: str) -> Iterator[Finding]:
    """The agent and its topics as they are alive now."""
    import rclpy
    from rclpy.node import Node

    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    rclpy.init()
    node = Node("ada3d_doctor")
    try:
        # Without the node: what starts it, and which topics it could take.
        count = _count_nodes(node, node_name)
        if not count:
            yield Finding(
                BAD,
                node_name,
                f"no such node on ROS_DOMAIN_ID {domain}",
                "ada3d agent --ros-args -p model.path:=FOLDER -p autostart:=true",
            )
            yield from _list_candidates(node)
            return

        # With it: its state, and whether its inputs come.
        if count > 1:
            yield Finding(
                BAD,
                node_name,
                f"{count} nodes of this name on ROS_DOMAIN_ID {domain}: one of them answers, which"
                " one is chance",
                "end all but one (one that was killed is listed for some seconds more), or give"
                " each a namespace: ada3d agent --ros-args -r __ns:=/robot2",
            )
        else:
            yield Finding(OK, node_name, f"alive on ROS_DOMAIN_ID {domain}")
        yield from _check_status(node, node_name, count)
        yield from _check_topics(node, node_name)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _count_nodes(node: Any, name: str) -> int:
    """How many nodes of that full name there are, once the graph is quiet or DISCOVERY_S have
    passed; then their topics, which follow one by one, are there too.
    """
    names: list[str] = []
    endpoints: object = None
    changed = time.monotonic()
    end = changed + DISCOVERY_S
    while time.monotonic() < end and not (name in names and time.monotonic() > changed + QUIET_S):
        names = [f"{ns.rstrip('/')}/{n}" for n, ns in node.get_node_names_and_namespaces()]
        topics = [topic for topic, _ in node.get_topic_names_and_types()]
        before = endpoints
        counts = [(t, node.count_publishers(t), node.count_subscribers(t)) for t in topics]
        endpoints = counts, names.count(name)
        if endpoints != before:
            changed = time.monotonic()
        time.sleep(0.1)
    return names.count(name)


def _check_status(node: Any, node_name: str, count: int) -> Iterator[Finding]:
    """The state of each node of that name, from ~/status; equal ones once."""
    import rclpy
    from rclpy.qos import DurabilityPolicy, QoSProfile

    from ada3d_ros.msg import AgentStatus

    # The last one of each node, kept for those who come late; of several, what comes for a while.
    received: list[Any] = []
    latched = QoSProfile(depth=count, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    topic = f"{node_name}/status"
    subscription = node.create_subscription(AgentStatus, topic, received.append, latched)
    start = time.monotonic()
    while time.monotonic() < start + DISCOVERY_S and not (received and count == 1):
        rclpy.spin_once(node, timeout_sec=0.1)
    node.destroy_subscription(subscription)
    if not received:
        silent = "silent: the node hangs or is of another version"
        yield Finding(BAD, topic, silent, "restart the node")
        return

    # Their states by name, their own sentences, and the command that leads out of each.
    names = {getattr(AgentStatus, name): name for name in STATE_LEVELS}
    for status in {status.state: status for status in received}.values():
        state = names.get(status.state, str(status.state))
        text = f"{state}, {status.keyframes} keyframes: {status.detail}"
        steps = [f"ros2 lifecycle set {node_name} {step}" for step in STATE_STEPS.get(state, ())]
        cure = " && ".join(steps) + "; or start it with -p autostart:=true" if steps else ""
        yield Finding(STATE_LEVELS.get(state, NOTE), "state", text, cure)


def _check_topics(node: Any, node_name: str) -> Iterator[Finding]:
    name, namespace = node_name.rsplit("/", 1)[1], node_name.rsplit("/", 1)[0] or "/"
    for topic, types in node.get_subscriber_names_and_types_by_node(name, namespace):
        if topic in ("/clock", "/parameter_events") or topic.startswith(node_name):
            continue

        # Who sends it, and how.
        publishers = node.get_publishers_info_by_topic(topic)
        mine = [s for s in node.get_subscriptions_info_by_topic(topic) if s.node_name == name]
        wanted = mine[0].qos_profile.reliability.name.lower() if mine else "unknown"
        if not publishers:
            yield Finding(
                BAD,
                topic,
                f"{types[0]}: no publisher (subscribed {wanted})",
                "start the camera or bag, or remap the input: ada3d agent --ros-args -r"
                " INPUT:=TOPIC (INPUT: rgb/image, depth/image, rgb/camera_info, pose, odom;"
                " compressed ones end in /compressed, /compressedDepth)",
            )
            continue
        offered = sorted({p.qos_profile.reliability.name.lower() for p in publishers})
        wrong = [p.topic_type for p in publishers if p.topic_type not in types]

        # Whether it arrives: by type, by reliability.
        if wrong:
            yield Finding(
                BAD,
                topic,
                f"published as {wrong[0]}, subscribed as {types[0]}",
                "remap to the right topic, or set rgb_transport / depth_transport / pose_source",
            )
        elif wanted == "reliable" and offered == ["best_effort"]:
            yield Finding(
                BAD,
                topic,
                "published best-effort, subscribed reliable: nothing arrives",
                "set the parameter qos.<input> to auto or best_effort",
            )
        else:
            yield Finding(
                OK,
                topic,
                f"{types[0]}: {len(publishers)} publisher(s) {'/'.join(offered)}, subscribed"
                f" {wanted}",
            )


def _list_candidates(node: Any) -> Iterator[Finding]:
    wanted = (
        "sensor_msgs/msg/Image",
        "sensor_msgs/msg/CompressedImage",
        "sensor_msgs/msg/CameraInfo",
        "geometry_msgs/msg/PoseStamped",
        "nav_msgs/msg/Odometry",
    )
    for topic, types in node.get_topic_names_and_types():
        if any(t in wanted for t in types):
            publishers = node.get_publishers_info_by_topic(topic)
            offered = sorted({p.qos_profile.reliability.name.lower() for p in publishers})
            how = "/".join(offered) or "no publisher"
            yield Finding(NOTE, topic, f"{', '.join(types)} ({how}): could be an input")


def main(args: Sequence[str]) -> int:
    """`ada3d doctor`. Returns 0 if nothing is missing, 1 otherwise."""
    parser = argparse.ArgumentParser(
        prog="ada3d doctor",
        description="Check the installation, a model folder and the running node. Exit code 1 if"
        " something is missing.",
    )
    add = parser.add_argument
    add("--node", default="/ada3d_agent", help="full name of the agent node (default /ada3d_agent)")
    add("--model", default="", help="also check this checkpoint folder")
    add(
        "--vision-path",
        default="",
        metavar="FOLDER",
        help="CLIP folder, for a --model that holds no vision tower",
    )
    add("--no-graph", action="store_true", help="do not look for running nodes")
    options = parser.parse_args(list(args))

    # What is installed.
    findings = [*check_packages(), *check_device()]
    has_ros = not any(f.level == BAD and f.subject in ROS_PACKAGES for f in findings)
    if options.model:
        findings += check_model(options.model, options.vision_path)
    for finding in findings:
        print(finding)

    # What is alive, shown as it is found.
    if not options.no_graph and has_ros:
        for finding in check_graph(options.node):
            print(finding, flush=True)
            findings.append(finding)

    missing = sum(f.level == BAD for f in findings)
    print(f"\n{missing} missing." if missing else "\nnothing is missing.")
    return 1 if missing else 0
