"""Write config/sros2/ada3d_agent.policy.xml from the graph of the running node.

    python tools/write_sros2_policy.py             writes the committed file
    python tools/write_sros2_policy.py --ros-args -r __ns:=/robot1 -r rgb/image:=/camera/image ...
                                                   prints that of a robot, with its names

The node is activated once per choice of inputs; the policy allows all that it then offers and
uses, and nothing else. `ros2 security create_permission KEYSTORE ENCLAVE FILE` takes the file.
"""

from __future__ import annotations

import itertools
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import rclpy
from rclpy.action import get_action_server_names_and_types_by_node
from rclpy.node import Node
from rclpy.parameter import Parameter

from ada3d_ros.config import SETTINGS
from ada3d_ros.ros.node import build_node

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "config" / "sros2" / "ada3d_agent.policy.xml"
NAMESPACE = "/robot"  # tells relative names from absolute ones
# the settings that choose inputs, with all their values
CHOICES = {
    name: SETTINGS[name].choices for name in ("pose_source", "rgb_transport", "depth_transport")
}
# what is there with packages that need not be installed: nav2's bond, vision_msgs' detections
BOND, DETECTIONS = "bond", "~/detections"

# a permission: kind, verb and the attribute that allows it; the name of what is used
Permission = tuple[str, str, str]


def settings() -> Iterator[list[Parameter]]:
    """Parameters for every choice of inputs, with the time of a simulation."""
    for values in itertools.product(*CHOICES.values()):
        chosen = {"model.path": "embedded", "autostart": True, "use_sim_time": True}
        chosen |= dict(zip(CHOICES, values, strict=True))
        yield [Parameter(name, value=value) for name, value in chosen.items()]


def permissions_of(node: Node) -> Iterator[Permission]:
    """What a node offers and uses, as it stands in the graph."""
    own = node.get_name(), node.get_namespace()
    for kind, verb, names in (
        ("topic", "publish", node.get_publisher_names_and_types_by_node(*own)),
        ("topic", "subscribe", node.get_subscriber_names_and_types_by_node(*own)),
        ("service", "reply", node.get_service_names_and_types_by_node(*own)),
        ("service", "request", node.get_client_names_and_types_by_node(*own)),
        ("action", "execute", get_action_server_names_and_types_by_node(node, *own)),
    ):
        for name, _ in names:
            if "/_action/" not in name:  # an action's own topics and services come with it
                yield kind, verb, name


def collect(namespace: str | None = NAMESPACE) -> tuple[str, str, set[Permission]]:
    """Namespace and name of the node, and all it may need; names as the graph has them.

    Call it after rclpy.init. namespace: None takes that of the ROS arguments.
    """
    found: set[Permission] = set()
    for parameters in settings():
        options = {} if namespace is None else {"namespace": namespace}
        node = build_node(parameter_overrides=parameters, **options)
        found |= set(permissions_of(node))
        bond = node.resolve_topic_name(BOND)
        found |= {("topic", "publish", bond), ("topic", "subscribe", bond)}
        found |= {("topic", "publish", node.resolve_topic_name(DETECTIONS))}
        place = node.get_namespace(), node.get_name()
        node.destroy_node()
    return *place, found


def written(name: str, namespace: str, node_name: str) -> str:
    """A name as policies have it: ~/ below the node, relative in its namespace, or absolute."""
    space = namespace.rstrip("/")
    own = f"{space}/{node_name}/"
    if name.startswith(own):
        return f"~/{name.removeprefix(own)}"
    return name.removeprefix(f"{space}/") if space else name


def render(namespace: str, node_name: str, found: set[Permission], written_ns: str) -> str:
    """The policy file."""
    policy = ET.Element("policy", {"version": "0.2.0"})
    enclaves = ET.SubElement(policy, "enclaves")
    path = f"{written_ns.rstrip('/')}/{node_name}"
    profiles = ET.SubElement(ET.SubElement(enclaves, "enclave", {"path": path}), "profiles")
    profile = ET.SubElement(profiles, "profile", {"ns": written_ns, "node": node_name})
    for kind, verb in sorted({(kind, verb) for kind, verb, _ in found}):
        group = ET.SubElement(profile, f"{kind}s", {verb: "ALLOW"})
        names = {n for k, v, n in found if (k, v) == (kind, verb)}
        for name in sorted(written(n, namespace, node_name) for n in names):
            ET.SubElement(group, kind).text = name
    ET.indent(policy)
    comment = "<!-- made by tools/write_sros2_policy.py from the running node; docs/security.md -->"
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n{comment}\n'
    return head + ET.tostring(policy, encoding="unicode") + "\n"


def main(args: list[str]) -> None:
    """Write the committed file, or print the policy of a node with these ROS arguments."""
    rclpy.init(args=args)
    try:
        if args:
            namespace, name, found = collect(None)
            print(render(namespace, name, found, namespace), end="")
            return
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(render(*collect(), "/"), encoding="utf-8")
        print(f"wrote {TARGET}")
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
