"""What `ada3d doctor` says of running nodes: an agent, its state, its objects and its inputs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from ada3d_ros.msg import AgentStatus
from ada3d_ros.ros.discovery import (
    BUSY_TEXT,
    DEFAULT_NODE,
    LATE_S,
    find_agents,
    name_others,
    node_names,
    wait_for_graph,
)
from ada3d_ros.ros.doctor import BAD, NOTE, OK, WAIT_S, WRONG, Finding
from ada3d_ros.srv import GetObjects

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
ALONE_STATES = ("UNCONFIGURED", "INACTIVE", "LOADING", "ERROR", "PAUSED")  # their detail is more
SERVING_STATES = ("WAITING_FOR_DATA", "READY", "BUSY")
SEVERAL_S = 5.0  # for the status of each of several nodes of one name
FAULTS_S = 2.5  # a node judges its inputs once a second: so long no fault has come or gone


def check_graph(wanted: str, wait_s: float = WAIT_S) -> Iterator[Finding]:
    """The agent (`wanted`; empty: the one that is there) and its topics as they are alive now.

    What is absent is looked for `wait_s` seconds.
    """
    rclpy.init()
    node = Node("ada3d_doctor")
    try:
        # Without an agent: what starts it, and which topics it could take.
        node_name, findings = find_agent(node, wanted, wait_s)
        yield from findings
        if not node_name:
            yield from _list_candidates(node)
            return

        # With one: its state, what it says is wrong, and its topics.
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        count = node_names(node).count(node_name)
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
        told = []
        for finding in _check_status(node, node_name, count, wait_s):
            told.append(finding.text)
            yield finding
        if count == 1 and any(text.startswith(SERVING_STATES) for text in told):
            yield from _check_objects(node, node_name, " ".join(told), wait_s)
        yield from _list_topics(node, node_name, " ".join(told), wait_s)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def find_agent(node: Node, wanted: str, wait_s: float) -> tuple[str, list[Finding]]:
    """Its full name, empty without one, and what there is to say about it."""

    # The one that was named, or any.
    def there() -> bool:
        return wanted in node_names(node) if wanted else bool(find_agents(node))

    seen = wait_for_graph(node, there, wait_s)
    agents, name = find_agents(node), wanted or DEFAULT_NODE
    if seen and not wanted and name not in agents:  # perhaps not yet
        wait_for_graph(node, there, wait_s, LATE_S)
        agents = find_agents(node)
    if seen and (wanted or name in agents):
        return name, []

    # Others, or none.
    text, others = name_others(name, agents), [agent for agent in agents if agent != name]
    if not wanted and len(others) == 1:
        return others[0], [Finding(NOTE, name, f"not there; {text}")]
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    cure = text or "ada3d agent --ros-args -p model.path:=FOLDER -p autostart:=true"
    absent = f"no such node on ROS_DOMAIN_ID {domain}"
    if not others or wanted:
        absent += f": not seen within {wait_s:g} s; {BUSY_TEXT}"
    return "", [Finding(BAD, name, absent, cure)]


def _check_status(node: Node, node_name: str, count: int, wait_s: float) -> Iterator[Finding]:
    """The state of each node of that name and what it says is wrong, from ~/status."""
    # The last one of each node, kept for those who come late; of several, what comes for a while.
    received: list[Any] = []
    latched = QoSProfile(depth=count, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    topic = f"{node_name}/status"
    subscription = node.create_subscription(AgentStatus, topic, received.append, latched)
    start = time.monotonic()
    faults: list[str] = []
    since = start

    def settled() -> bool:
        """Whether its judgement is known; a node without frames needs seconds for it."""
        nonlocal faults, since
        now = time.monotonic()
        if count > 1:
            return now > start + SEVERAL_S and bool(received)
        if not received or received[-1].state != AgentStatus.WAITING_FOR_DATA:
            return bool(received)
        if received[-1].faults != faults:
            faults, since = list(received[-1].faults), now
        return bool(faults) and now > since + FAULTS_S

    while time.monotonic() < start + wait_s and not settled():
        rclpy.spin_once(node, timeout_sec=0.1)
    node.destroy_subscription(subscription)
    if not received:
        silent = f"silent for {wait_s:g} s: the node hangs or is of another version"
        yield Finding(BAD, topic, silent, "restart the node")
        return

    # Their states by name, the command that leads out of each, and their own sentences.
    names = {getattr(AgentStatus, name): name for name in STATE_LEVELS}
    for status in {status.state: status for status in received}.values():
        state = names.get(status.state, str(status.state))
        # What is wrong stands below.
        detail = status.detail if not status.faults or state in ALONE_STATES else "see below."
        text = f"{state}, {status.keyframes} keyframes: {detail}"
        steps = [f"ros2 lifecycle set {node_name} {step}" for step in STATE_STEPS.get(state, ())]
        cure = " && ".join(steps) + "; or start it with -p autostart:=true" if steps else ""
        yield Finding(STATE_LEVELS.get(state, NOTE), "state", text, cure)
        for fault in status.faults:
            yield Finding(WRONG, "health", fault)


def _check_objects(node: Node, node_name: str, told: str, wait_s: float) -> Iterator[Finding]:
    """Whether the node keeps objects and how many, else why not, where nothing is `told` of it."""
    # Asked of the node; one that keeps none says why.
    client = node.create_client(GetObjects, f"{node_name}/get_objects")
    client.wait_for_service(wait_s)
    future = client.call_async(GetObjects.Request(include_gone=True))
    rclpy.spin_until_future_complete(node, future, timeout_sec=wait_s)
    if not future.done():
        silent = f"~/get_objects gave no answer within {wait_s:g} s"
        yield Finding(BAD, "objects", silent, "restart the node")
        return
    response = future.result()
    if not response.success:
        if response.error_msg.rstrip(".") not in told:
            yield Finding(NOTE, "objects", response.error_msg)
        return

    # How many.
    objects = response.result.objects
    gone = sum(item.gone for item in objects)
    text = f"{len(objects) - gone} kept" + (f", {gone} gone" if gone else "")
    state = "" if response.result.complete else "; the scene is still being looked at"
    yield Finding(OK, "objects", text + state)


def input_topics(node: Node, node_name: str) -> dict[str, list[str]]:
    """Topic: types, of what that node listens to from others."""
    namespace, name = node_name.rsplit("/", 1)
    own = ("/clock", "/parameter_events")
    return {
        topic: types
        for topic, types in node.get_subscriber_names_and_types_by_node(name, namespace or "/")
        if topic not in own and not topic.startswith(f"{node_name}/")
    }


def _list_topics(node: Node, node_name: str, told: str, wait_s: float) -> Iterator[Finding]:
    """Who sends the node's inputs, and how; what is wrong with them the node itself says.

    The publishers of an input that nothing is `told` of are looked for `wait_s` seconds.
    """
    name = node_name.rsplit("/", 1)[1]
    inputs = input_topics(node, node_name)
    expected = [topic for topic in inputs if topic not in told]
    wait_for_graph(node, lambda: all(map(node.count_publishers, expected)), wait_s)
    for topic, types in inputs.items():
        publishers = node.get_publishers_info_by_topic(topic)
        mine = [s for s in node.get_subscriptions_info_by_topic(topic) if s.node_name == name]
        wanted = mine[0].qos_profile.reliability.name.lower() if mine else "unknown"
        offered = sorted({p.qos_profile.reliability.name.lower() for p in publishers})
        how = f"{len(publishers)} publisher(s) {'/'.join(offered)}" if offered else "no publisher"
        text = f"{types[0]}: {how}, subscribed {wanted}"
        yield Finding(OK if publishers else NOTE, topic, text)


def _list_candidates(node: Node) -> Iterator[Finding]:
    wanted = (
        "sensor_msgs/msg/Image",
        "sensor_msgs/msg/CompressedImage",
        "sensor_msgs/msg/CameraInfo",
        "geometry_msgs/msg/PoseStamped",
        "nav_msgs/msg/Odometry",
        "tf2_msgs/msg/TFMessage",
    )
    own = tuple(f"{agent}/" for agent in find_agents(node))  # what agents send
    for topic, types in node.get_topic_names_and_types():
        if any(t in wanted for t in types) and not topic.startswith(own):
            publishers = node.get_publishers_info_by_topic(topic)
            offered = sorted({p.qos_profile.reliability.name.lower() for p in publishers})
            how = "/".join(offered) or "no publisher"
            yield Finding(NOTE, topic, f"{', '.join(types)} ({how}): could be an input")
