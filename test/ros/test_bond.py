"""The bond with nav2's lifecycle manager, by a stand-in of bondpy's surface: it has no wheel."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

import pytest

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from std_msgs.msg import String

from ada3d_ros.errors import ErrorCode
from ada3d_ros.srv import QueryScene
from test.support.ros_harness import Harness, NodeLog, wait_until

Start = Callable[..., Harness]


class Bond:
    """bondpy.bondpy.Bond of ROS 2: names, order and effects as there, heartbeats as text."""

    alive: ClassVar[list[Bond]] = []

    def __init__(self, node: Any, topic: str, id: str, on_broken: Any = None) -> None:
        self.node, self.topic, self.id = node, topic, id
        self.heartbeat_period, self.heartbeat_timeout = 1.0, 4.0
        self.pub = node.create_publisher(String, topic, 1)

    def start(self) -> None:
        self.sub = self.node.create_subscription(String, self.topic, lambda _: None, 1)
        Bond.alive.append(self)
        self.pub.publish(String(data=f"{self.id} alive"))

    def shutdown(self) -> None:
        """As bondpy does: the node is not told that they are gone."""
        Bond.alive.remove(self)
        self.pub.publish(String(data=f"{self.id} dead"))
        self.sub.destroy()
        self.pub.destroy()


@pytest.fixture
def bondpy(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("bondpy"), ModuleType("bondpy.bondpy")
    package.__spec__ = importlib.machinery.ModuleSpec("bondpy", None, is_package=True)
    package.__path__ = []
    module.Bond = Bond  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bondpy", package)
    monkeypatch.setitem(sys.modules, "bondpy.bondpy", module)
    monkeypatch.delitem(sys.modules, "ada3d_ros.ros.bond", raising=False)
    monkeypatch.setattr(Bond, "alive", [])


def change(agent: Harness, transition: int) -> None:
    request = ChangeState.Request(transition=Transition(id=transition))
    assert agent.call(ChangeState, "change_state", request).success


def entities(agent: Harness) -> tuple[int, int]:
    return len(list(agent.node.publishers)), len(list(agent.node.subscriptions))


@pytest.mark.usefixtures("bondpy")
def test_a_bond_lives_while_the_node_is_active(start_agent: Start) -> None:
    """As nav2's nodes: named as the node, on the manager's topic, from activate to deactivate."""
    agent = start_agent(autostart=False, bond_heartbeat_period=0.5)
    heard = agent.collect(String, "/bond")
    change(agent, Transition.TRANSITION_CONFIGURE)
    before = entities(agent)
    for round_trip in (1, 2):
        assert Bond.alive == []
        change(agent, Transition.TRANSITION_ACTIVATE)
        (bond,) = Bond.alive
        assert (bond.id, bond.topic) == ("ada3d_agent", "bond")
        assert (bond.heartbeat_period, bond.heartbeat_timeout) == (0.5, 4.0)
        agent.publish_scene(1, first_s=round_trip)
        change(agent, Transition.TRANSITION_DEACTIVATE)
        assert Bond.alive == []
        assert entities(agent) == before
    assert wait_until(lambda: "ada3d_agent dead" in [message.data for message in heard])

    # the executor goes on without what was destroyed
    request = QueryScene.Request(question="What is there?")
    assert agent.call(QueryScene, "query", request).answer.error_code == ErrorCode.NOT_ACTIVE
    assert agent.node.inference.internal_errors == 0


@pytest.mark.usefixtures("bondpy")
@pytest.mark.parametrize("end", ["shutdown", "destroy"])
def test_a_bond_ends_with_the_node(start_agent: Start, end: str) -> None:
    agent = start_agent()
    assert len(Bond.alive) == 1
    if end == "shutdown":
        change(agent, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    else:
        agent.close()
        agent.close = lambda: None  # type: ignore[method-assign]
    assert Bond.alive == []


@pytest.mark.usefixtures("bondpy")
def test_no_bond_where_it_is_switched_off(start_agent: Start) -> None:
    start_agent(bond_heartbeat_period=0.0)
    assert Bond.alive == []


def test_without_bondpy_the_node_is_active_all_the_same(
    start_agent: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bondpy", "bondpy.bondpy", "ada3d_ros.ros.bond"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    agent = start_agent()
    agent.publish_scene(1)
    assert "ada3d_ros.ros.bond" not in sys.modules


@pytest.mark.usefixtures("bondpy")
def test_a_manager_brings_it_up_and_down_twice(start_agent: Start) -> None:
    """Its order of calls: configure, activate; deactivate, cleanup; and at its end shutdown."""
    agent = start_agent(autostart=False)
    for _ in range(2):
        change(agent, Transition.TRANSITION_CONFIGURE)
        change(agent, Transition.TRANSITION_ACTIVATE)
        assert len(Bond.alive) == 1
        change(agent, Transition.TRANSITION_DEACTIVATE)
        change(agent, Transition.TRANSITION_CLEANUP)
        assert Bond.alive == []
    change(agent, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert agent.node.inference.internal_errors == 0


@pytest.mark.usefixtures("bondpy")
def test_a_bondpy_that_fails_costs_the_bond_and_nothing_else(
    start_agent: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(sys.modules["bondpy.bondpy"], "Bond")
    agent = start_agent()
    agent.publish_scene(1)
    assert NodeLog(capfd).said("bond_timeout: 0.0")


@pytest.mark.usefixtures("bondpy")
@pytest.mark.parametrize("end", ["deactivate", "destroy"])
def test_a_bond_that_does_not_end_well_holds_nothing_up(
    start_agent: Start, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """bondpy tells the manager, which raises once somebody else has shut the context down."""
    agent = start_agent(autostart=False)
    change(agent, Transition.TRANSITION_CONFIGURE)
    before = entities(agent)
    change(agent, Transition.TRANSITION_ACTIVATE)

    def fail(self: Bond) -> None:
        raise RuntimeError("planted: context is not valid")

    monkeypatch.setattr(Bond, "shutdown", fail)
    if end == "deactivate":
        change(agent, Transition.TRANSITION_DEACTIVATE)
        assert entities(agent) == before
        assert agent.node.load_error == ""
        return
    agent.close()
    agent.close = lambda: None  # type: ignore[method-assign]
    assert not agent.node.worker.alive
