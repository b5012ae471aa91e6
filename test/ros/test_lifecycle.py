"""Impossible lifecycle requests over real DDS, and what `ada3d doctor` says about them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

import rclpy
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState

import ada3d_ros.ros.discovery
from ada3d_ros.errors import ErrorCode
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.ros.doctor import BAD, Finding, check_graph
from ada3d_ros.srv import QueryScene
from test.support.ros_harness import Harness, free_domain, scripted, wait_until

Start = Callable[..., Harness]

# the transitions that are possible in each state
POSSIBLE = {
    State.PRIMARY_STATE_UNCONFIGURED: {
        Transition.TRANSITION_CONFIGURE: "configure",
        Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: "shutdown",
    },
    State.PRIMARY_STATE_INACTIVE: {
        Transition.TRANSITION_CLEANUP: "cleanup",
        Transition.TRANSITION_ACTIVATE: "activate",
        Transition.TRANSITION_INACTIVE_SHUTDOWN: "shutdown",
    },
    State.PRIMARY_STATE_ACTIVE: {
        Transition.TRANSITION_DEACTIVATE: "deactivate",
        Transition.TRANSITION_ACTIVE_SHUTDOWN: "shutdown",
    },
    State.PRIMARY_STATE_FINALIZED: {},
}
STEPS = {  # what leads into each state from a fresh node
    State.PRIMARY_STATE_UNCONFIGURED: (),
    State.PRIMARY_STATE_INACTIVE: (Transition.TRANSITION_CONFIGURE,),
    State.PRIMARY_STATE_ACTIVE: (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE),
    State.PRIMARY_STATE_FINALIZED: (Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,),
}
LABELS = (
    *("create", "configure", "cleanup", "activate", "deactivate", "shutdown", "destroy"),
    *("transition_success", "transition_failure", "transition_error", "fly", "a\nb", "x" * 2000),
)


def change(agent: Harness, number: int = 0, label: str = "") -> bool:
    request = ChangeState.Request(transition=Transition(id=number, label=label))
    return bool(agent.call(ChangeState, "change_state", request).success)


def state_of(agent: Harness) -> int:
    return int(agent.call(GetState, "get_state").current_state.id)


def refusals(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """Warnings since the last call; each refused request is to leave exactly one."""
    return [line for line in capfd.readouterr().err.splitlines() if not line.startswith("[INFO]")]


@pytest.mark.parametrize("state", STEPS, ids=["unconfigured", "inactive", "active", "finalized"])
def test_impossible_transitions_are_refused(
    start_agent: Start, capfd: pytest.CaptureFixture[str], state: int
) -> None:
    """rclpy's RCLError left the service callback, and the process was gone."""
    agent = start_agent(autostart=False)
    for step in STEPS[state]:
        assert change(agent, step)
    if state in (State.PRIMARY_STATE_INACTIVE, State.PRIMARY_STATE_ACTIVE):
        agent.ready()
    if state == State.PRIMARY_STATE_ACTIVE:
        agent.publish_scene(1)
    refusals(capfd)
    possible = POSSIBLE[state]

    # by every number
    for number in sorted(set(range(256)) - set(possible)):
        assert not change(agent, number), number
        lines = refusals(capfd)
        assert len(lines) == 1, lines
        assert f"(id {number}) is not possible" in lines[0]
        for label in possible.values():
            assert label in lines[0].split("possible:")[1]
    assert state_of(agent) == state

    # by every label, which counts more than the number
    for label in sorted(set(LABELS) - set(possible.values())):
        assert not change(agent, next(iter(possible), 0), label), label
        lines = refusals(capfd)
        assert len(lines) == 1, lines
        assert repr(label[:80]) in lines[0]
    assert state_of(agent) == state

    # the node serves on
    answer = agent.call(QueryScene, "query", QueryScene.Request(question="What is there?")).answer
    active = state == State.PRIMARY_STATE_ACTIVE
    assert answer.error_code == (ErrorCode.NONE if active else ErrorCode.NOT_ACTIVE)
    assert agent.node.inference.internal_errors == 0


@pytest.mark.parametrize(
    "steps",
    [
        ("configure", "activate", "deactivate", "cleanup", "configure", "shutdown"),
        (1, 3, 4, 2, 1, 3, Transition.TRANSITION_ACTIVE_SHUTDOWN),
    ],
    ids=["by label", "by number"],
)
def test_possible_transitions_work(start_agent: Start, steps: tuple[int | str, ...]) -> None:
    """Once around, and an end."""
    agent = start_agent(autostart=False)
    for step in steps:
        assert change(agent, step) if isinstance(step, int) else change(agent, label=step), step
    assert state_of(agent) == State.PRIMARY_STATE_FINALIZED


def test_transitions_while_the_weights_load(
    start_agent: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    """A second launch configures the node that is loading: refused, and the load goes on."""
    release = threading.Event()

    class Slow(scripted("yes")):  # type: ignore[misc]
        def load(self) -> None:
            release.wait(20.0)
            super().load()

    agent = start_agent(Slow)
    assert not agent.node.pipeline.ready
    refusals(capfd)
    for number in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        assert not change(agent, number)
        assert len(refusals(capfd)) == 1
    request = QueryScene.Request(question="What is there?")
    assert agent.call(QueryScene, "query", request).answer.error_code == ErrorCode.LOADING
    release.set()
    agent.publish_scene(1)
    assert agent.call(QueryScene, "query", request).answer.text == "yes"


# -- doctor


@pytest.fixture
def doctor(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """doctor(autostart, ...) -> what it finds where one agent is started for each argument."""
    agents: list[Harness] = []
    contexts: list[Any] = []
    with free_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))

        def check(*autostart: bool, steps: tuple[int, ...] = ()) -> dict[str, list[Finding]]:
            for value in autostart:
                contexts.append(rclpy.Context())
                rclpy.init(context=contexts[-1], domain_id=domain)
                agents.append(Harness(contexts[-1], tiny_model, Ada3DPipeline, autostart=value))
            for step in steps:
                assert change(agents[0], step)
            assert wait_until(lambda: all(a.node.pipeline is None or a.ready() for a in agents))
            time.sleep(1.2)  # until ~/status says so

            # by subject
            found: dict[str, list[Finding]] = {}
            for finding in check_graph("/ada3d_agent"):
                found.setdefault(finding.subject, []).append(finding)
            return found

        yield check
        for agent in agents:
            agent.close()
        for context in contexts:
            rclpy.try_shutdown(context=context)


def test_doctor_names_the_command_for_an_unconfigured_node(doctor: Any) -> None:
    found = doctor(False)
    assert "alive" in found["/ada3d_agent"][0].text
    (state,) = found["state"]
    assert state.level == BAD
    assert "UNCONFIGURED" in state.text
    assert "ros2 lifecycle set /ada3d_agent configure" in state.cure
    assert "ros2 lifecycle set /ada3d_agent activate" in state.cure


def test_doctor_names_the_command_for_an_inactive_node(doctor: Any) -> None:
    (state,) = doctor(False, steps=(Transition.TRANSITION_CONFIGURE,))["state"]
    assert state.level == BAD
    assert "INACTIVE" in state.text
    assert "configure" not in state.cure
    assert "ros2 lifecycle set /ada3d_agent activate" in state.cure


def test_doctor_names_two_nodes_of_one_name(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second launch: the first is active, the second stays unconfigured."""
    # on a busy machine an announcement may be lost; the middleware repeats it after 3 s
    monkeypatch.setattr(ada3d_ros.ros.discovery, "QUIET_S", 3.5)
    found = doctor(True, False)
    (name,) = found["/ada3d_agent"]
    assert name.level == BAD
    assert "2 nodes of this name" in name.text
    assert "__ns:=" in name.cure
    states = {finding.text.split(",")[0] for finding in found["state"]}
    assert states == {"WAITING_FOR_DATA", "UNCONFIGURED"}
