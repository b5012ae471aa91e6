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
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool
from visualization_msgs.msg import Marker, MarkerArray

import ada3d_ros.ros.discovery
from ada3d_ros.errors import ErrorCode
from ada3d_ros.msg import AgentStatus
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.ros.doctor import BAD, Finding
from ada3d_ros.ros.doctor_graph import check_graph
from ada3d_ros.ros.health_state import MODEL
from ada3d_ros.ros.node import build_node
from ada3d_ros.srv import GroundObject, QueryScene
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
    if state == State.PRIMARY_STATE_FINALIZED:  # from which no transition leads out
        assert "start it again" in answer.error_msg
        assert "start it again" in agent.node.state_and_detail()[1]
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


def test_transitions_by_a_label_that_does_not_fit(
    start_agent: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    """The label counts: one that is unknown is refused, whatever the number beside it."""
    agent = start_agent(autostart=False)
    refusals(capfd)
    assert not change(agent, Transition.TRANSITION_CONFIGURE, "fly")
    assert not change(agent, Transition.TRANSITION_CONFIGURE, "activate")
    assert len(refusals(capfd)) == 2
    assert change(agent, Transition.TRANSITION_ACTIVATE, "configure")
    assert state_of(agent) == State.PRIMARY_STATE_INACTIVE


@pytest.mark.parametrize("step", ["configure", "activate", "deactivate", "cleanup", "shutdown"])
def test_transitions_in_the_middle_of_one(
    start_agent: Start, capfd: pytest.CaptureFixture[str], step: str
) -> None:
    """Nothing is possible in a transition state but what ends it, which is not for callers."""
    before = {
        "configure": (),
        "activate": ("configure",),
        "deactivate": ("configure", "activate"),
        "cleanup": ("configure",),
        "shutdown": ("configure",),
    }
    refused: list[bool] = []

    def in_between() -> None:
        """In the callback of the transition, as an executor of several threads would."""
        if refused or not armed:
            return
        services = {service.srv_name.split("/")[-1]: service for service in agent.node.services}
        asked = [Transition(id=number) for number in range(256)]
        asked += [Transition(label=label) for label in (*LABELS, "transition_failure")]
        for transition in asked:
            request, response = ChangeState.Request(transition=transition), ChangeState.Response()
            answer = services["change_state"].callback(request, response)
            refused.append(not answer.success)

    def before_it(method: Callable[..., Any]) -> Callable[..., Any]:
        """`method`, which the transition calls, after the requests."""

        def hooked(*args: Any, **options: Any) -> Any:
            in_between()
            return method(*args, **options)

        return hooked

    class Hooked(Ada3DPipeline):
        check = before_it(Ada3DPipeline.check)

    armed = step == "configure"
    agent = start_agent(Hooked, autostart=False)
    for label in before[step]:
        assert change(agent, label=label)
    armed = True
    agent.node.create_subscription = before_it(agent.node.create_subscription)  # activate
    agent.node.worker.cancel_all = before_it(agent.node.worker.cancel_all)  # what leads back
    assert change(agent, label=step)
    assert refused
    assert all(refused)
    assert agent.node.inference.internal_errors == 0


def test_a_transition_that_raises_is_one_that_fails(start_agent: Start) -> None:
    """The node stays in its state, says why, and can be asked again."""
    broken = [True]

    class Broken(Ada3DPipeline):
        def check(self) -> Any:
            if broken:
                raise RuntimeError(f"planted {broken.pop()}")
            return super().check()

    agent = start_agent(Broken, autostart=False)
    assert not change(agent, Transition.TRANSITION_CONFIGURE)
    assert "planted" in agent.node.state_and_detail()[1]
    assert state_of(agent) == State.PRIMARY_STATE_UNCONFIGURED
    assert change(agent, Transition.TRANSITION_CONFIGURE)


# -- cleanup


class Diagnostics:
    """/diagnostics, as they come."""

    def __init__(self, agent: Harness) -> None:
        self.received = agent.collect(DiagnosticArray, "/diagnostics", 100)

    def next(self) -> dict[str, str]:
        """What the node says from now on: task.key -> value."""
        count = len(self.received)
        assert wait_until(lambda: len(self.received) > count + 1, 30.0)
        return {
            f"{status.name.split(': ')[1]}.{pair.key}": pair.value
            for status in self.received[-1].status
            for pair in status.values
        }


def test_cleanup_leaves_a_node_as_new(start_agent: Start) -> None:
    """Pause, counters, percentiles and boxes of the old model went on."""
    text = "It is localized at [0.2, 2.0, 1.0, 1.0, 0.4, 1.0]."
    options = {"diagnostic_updater.period": 0.1, "generation.max_new_tokens": 64}
    agent = start_agent(scripted(text), **options)
    diagnostics = Diagnostics(agent)
    assert agent.ready()
    new = diagnostics.next()
    markers = agent.collect(MarkerArray, "/ada3d_agent/markers")
    statuses = agent.collect(AgentStatus, "/ada3d_agent/status")

    # a life: answers, refusals, lost frames, an internal error, a pause
    agent.publish_scene(2)
    for text in ("What is there?", "", "x" * 3000):
        agent.call(QueryScene, "query", QueryScene.Request(question=text))
    agent.call(GroundObject, "ground", GroundObject.Request(phrase="the box"))
    agent.publish_frame(3_000_000_000, x_m=2.0, rgb=Image(height=1, width=1, encoding="8UC7"))
    assert wait_until(lambda: bool(agent.drops()))
    agent.node.report_error("planted", RuntimeError("planted"), "")
    assert agent.call(SetBool, "set_paused", SetBool.Request(data=True)).success
    used = diagnostics.next()
    assert used["Inference.requests"] == "4"
    assert used["Inference.failed.question_too_long"] == "1"
    assert used["Inference.total_ms_p50"] != "nan"
    assert used["Pruning.last.spatial_total"] != ""
    assert wait_until(lambda: statuses[-1].state == AgentStatus.PAUSED)
    assert wait_until(lambda: len(markers[-1].markers) > 1)

    # another model
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
        assert change(agent, transition)
    shown = diagnostics.next()
    (inference,) = (s for s in diagnostics.received[-1].status if s.name.endswith("Inference"))
    assert inference.level == DiagnosticStatus.OK
    assert shown["Inference.requests"] == shown["Inference.internal_errors"] == "0"
    assert shown["Inference.last_error"] == ""
    assert {value for key, value in shown.items() if ".dropped." in key} == {"0"}
    assert {value for key, value in shown.items() if key.endswith(("_p50", "_p95"))} <= {"nan"}
    assert wait_until(lambda: statuses[-1].state == AgentStatus.UNCONFIGURED)
    assert statuses[-1].keyframes == statuses[-1].scene_version == 0
    assert wait_until(lambda: [m.action for m in markers[-1].markers] == [Marker.DELETEALL])
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        assert change(agent, transition)
    assert agent.ready()
    assert wait_until(lambda: statuses[-1].state == AgentStatus.WAITING_FOR_DATA)
    changing = "last_stamp_age_ms", "gpu_memory", "publishers", "subscri"
    again = diagnostics.next()
    assert again.keys() == {*new, *again}
    assert {
        key: value
        for key, value in again.items()
        if key in new and value != new[key] and not any(word in key for word in changing)
    } == {}


def test_a_question_in_flight_counts_where_it_was_asked(start_agent: Start) -> None:
    """One that cleanup stops is not the first of the next model."""
    gate = threading.Event()

    class Gated(scripted("yes")):  # type: ignore[misc]
        def ask(self, question: Any, hooks: Any) -> Any:
            assert gate.wait(60.0)
            hooks.check()

    agent = start_agent(Gated)
    agent.publish_scene(1)
    old = agent.node.inference
    request = QueryScene.Request(question="What is there?")
    answer = agent.call_async(QueryScene, "query", request)
    assert wait_until(lambda: agent.node.worker.busy)
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
        assert change(agent, transition)
    gate.set()
    assert answer().answer.error_code == ErrorCode.NOT_ACTIVE
    assert (old.requests, old.failed["not_active"]) == (1, 1)
    assert (agent.node.inference.requests, len(agent.node.inference.failed)) == (0, 0)


def test_an_answer_that_comes_after_cleanup_is_none_of_the_next_model(start_agent: Start) -> None:
    """Nor of this one, which has no scene any more: it is an error, counted where it was asked."""

    class CleanedUp(scripted("yes")):  # type: ignore[misc]
        def ask(self, question: Any, hooks: Any) -> Any:
            answer = super().ask(question, hooks)
            done = agent.node.executor.create_task(lambda: agent.node.on_cleanup(None))
            assert wait_until(done.done)
            return answer

    agent = start_agent(CleanedUp)
    agent.publish_scene(1)
    old = agent.node.inference
    request = QueryScene.Request(question="What is there?")
    answer = agent.call(QueryScene, "query", request).answer
    assert (answer.success, answer.error_code) == (False, ErrorCode.NOT_ACTIVE)
    assert (old.succeeded, old.failed["not_active"]) == (0, 1)
    assert agent.node.inference is not old
    assert not agent.node.inference.failed
    assert agent.node.inference.last_tokens is None


# -- two nodes of one name


def test_two_nodes_of_one_name_say_so(
    ros_context: Any, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Both, in log, ~/status and /diagnostics; and that it is over."""
    options = {"autostart": False, "diagnostic_updater.period": 0.1}
    agents = [Harness(ros_context, tiny_model, Ada3DPipeline, **options) for _ in range(2)]
    words = "2 nodes are called /ada3d_agent"
    statuses = agents[0].collect(AgentStatus, "/ada3d_agent/status")
    diagnostics = Diagnostics(agents[0])

    def newest() -> list[str]:
        """What both have said in the last second, on either topic."""
        model = [
            s
            for array in diagnostics.received[-20:]
            for s in array.status
            if s.name.endswith(MODEL)
        ]
        return [*(s.message for s in model), *(status.detail for status in statuses[-2:])]

    log = ""

    def both_logged() -> bool:
        nonlocal log
        log += capfd.readouterr().err
        return log.count(words) >= 2

    try:
        assert wait_until(lambda: all(agent.node.namesakes for agent in agents), 30.0)
        assert wait_until(lambda: all(words in text for text in newest()) and newest(), 30.0)
        task = next(s for s in diagnostics.received[-1].status if s.name.endswith(MODEL))
        assert task.level == DiagnosticStatus.WARN
        assert wait_until(both_logged, 30.0), log
        assert "__ns:=" in agents[0].node.namesakes
    finally:
        agents.pop().close()
    assert wait_until(lambda: not any(words in text for text in newest()), 30.0)
    assert wait_until(lambda: not agents[0].node.namesakes, 30.0)
    agents[0].close()


def test_the_same_name_in_another_namespace_is_another_node(ros_context: Any) -> None:
    nodes = [build_node(context=ros_context, namespace=name) for name in ("", "robot2")]
    assert wait_until(lambda: len(nodes[0].get_node_names()) >= 2)
    assert [node.namesakes for node in nodes] == ["", ""]
    for node in nodes:
        node.destroy_node()


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
