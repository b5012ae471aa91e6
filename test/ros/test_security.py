"""What the node offers and uses on the ROS graph, and the SROS2 policy that allows just that."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

import rclpy

from test.support.ros_harness import free_domain
from test.support.sources import load

ROOT = Path(__file__).resolve().parents[2]
POLICY = ROOT / "config" / "sros2" / "ada3d_agent.policy.xml"
# ours, and what every rclpy node has
ABSOLUTE = {"/diagnostics", "/tf", "/tf_static", "/clock"} | {"/rosout", "/parameter_events"}


@pytest.fixture(scope="module")
def tool() -> Any:
    return load(ROOT / "tools" / "write_sros2_policy.py")


@pytest.fixture(scope="module")
def graph(tool: Any) -> Iterator[Any]:
    """Namespace, name and permissions of the node, over every choice of inputs."""
    with free_domain() as domain:
        rclpy.init(domain_id=domain)
        yield tool.collect()
        rclpy.try_shutdown()


def test_no_absolute_names(graph: Any) -> None:
    """Two robots share a network: what is not theirs alone is listed here."""
    namespace, _, found = graph
    names = {name for _, _, name in found}
    assert {name for name in names if not name.startswith(f"{namespace}/")} <= ABSOLUTE
    assert f"{namespace}/rgb/image" in names
    assert f"{namespace}/ada3d_agent/query" in names


def test_the_policy_is_that_of_the_node(tool: Any, graph: Any) -> None:
    """A topic or service more or less, and the file must be written anew."""
    text = tool.render(*graph, "/")
    assert text == POLICY.read_text(), "run tools/write_sros2_policy.py"


def test_the_policy_has_the_form_of_sros2() -> None:
    """As sros2's schema has it: policy, enclave, profile, permissions by kind and verb."""
    policy = ET.parse(POLICY).getroot()
    assert (policy.tag, policy.attrib) == ("policy", {"version": "0.2.0"})
    (profile,) = policy.findall("./enclaves/enclave[@path='/ada3d_agent']/profiles/profile")
    assert profile.attrib == {"ns": "/", "node": "ada3d_agent"}
    groups = [(group.tag, *group.attrib.items()) for group in profile]
    assert groups == [
        ("actions", ("execute", "ALLOW")),
        ("services", ("reply", "ALLOW")),
        ("topics", ("publish", "ALLOW")),
        ("topics", ("subscribe", "ALLOW")),
    ]
    for group in profile:
        assert {item.tag for item in group} == {group.tag.removesuffix("s")}
        assert all(item.text and "*" not in item.text for item in group)


def test_nothing_of_ours_is_missing(graph: Any) -> None:
    """Inputs of every choice, and the names that docs/interfaces.md lists."""
    namespace, name, found = graph
    used = {(verb, item.removeprefix(f"{namespace}/")) for _, verb, item in found}
    compressed = "rgb/image/compressed", "depth/image/compressedDepth", "depth/image/compressed"
    for topic in (*compressed, "rgb/image", "depth/image", "pose", "odom", "bond"):
        assert ("subscribe", topic) in used
    for service in ("query", "ground", "reset_scene", "set_paused", "change_state"):
        assert ("reply", f"{name}/{service}") in used
    assert ("execute", f"{name}/ask_scene") in used
    assert not [item for verb, item in used if verb == "request"]  # it calls nobody
