"""Which agents are alive: nodes that offer the agent's service, by whatever name they run.

For `ada3d ask`, `ground` and `doctor`; the node does not load this module.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rclpy.node import Node

DEFAULT_NODE = "/ada3d_agent"
WAIT_S = 10.0  # for what is not seen: discovery takes seconds on a busy machine
QUIET_S = 1.0  # nothing new for so long: all that is alive has been discovered
LATE_S = 3.5  # the same where the usual one is not there: a lost announcement comes again after 3 s
QUERY_TYPE = "ada3d_ros/srv/QueryScene"
BUSY_TEXT = "on a busy machine discovery takes longer (--wait-sec)"


def node_names(node: Node) -> list[str]:
    """The full names of all nodes; several of one name are listed several times."""
    return [f"{ns.rstrip('/')}/{name}" for name, ns in node.get_node_names_and_namespaces()]


def find_agents(node: Node) -> list[str]:
    """The full names of the nodes that answer questions, sorted, each once."""
    found = []
    for full_name in sorted(set(node_names(node))):
        namespace, name = full_name.rsplit("/", 1)
        try:
            services = node.get_service_names_and_types_by_node(name, namespace or "/")
        except Exception:  # it has gone meanwhile; rclpy's classes for that differ by version
            continue
        if any(QUERY_TYPE in types for _, types in services):
            found.append(full_name)
    return found


def wait_for_graph(
    node: Node, there: Callable[[], bool], wait_s: float, quiet_s: float | None = None
) -> bool:
    """Look until `there()` holds and the graph has been quiet, at most `wait_s` seconds.

    Quiet: nothing new for `quiet_s`, by default QUIET_S seconds. Returns whether it held at last.
    """
    quiet_s = QUIET_S if quiet_s is None else quiet_s
    endpoints: object = None
    changed = time.monotonic()
    end = changed + wait_s
    found = there()
    while time.monotonic() < end and not (found and time.monotonic() > changed + quiet_s):
        time.sleep(0.1)
        before, found = endpoints, there()
        topics = [topic for topic, _ in node.get_topic_names_and_types()]
        counts = [(t, node.count_publishers(t), node.count_subscribers(t)) for t in topics]
        endpoints = counts, sorted(node_names(node))
        if endpoints != before:
            changed = time.monotonic()
    return found


def name_others(wanted: str, agents: Sequence[str]) -> str:
    """What to say where `wanted` is not there and others are; empty without others."""
    others = [agent for agent in agents if agent != wanted]
    if not others:
        return ""
    options = " or ".join(f"--node {agent}" for agent in others)
    return f"{', '.join(others)} {'is' if len(others) == 1 else 'are'} there: {options}"
