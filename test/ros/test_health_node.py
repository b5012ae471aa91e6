"""The node's judgement over DDS: log, ~/status, /diagnostics, answers and doctor say one sentence.

Which sentence for which state is tested in test_health.py.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

import ada3d_ros.ros.health
import ada3d_ros.ros.subscription
import ada3d_ros.ros.watch
from ada3d_ros.errors import ErrorCode
from ada3d_ros.msg import AgentStatus
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.ros.client import ask_main, describe_answer
from ada3d_ros.ros.conversions import empty_answer_msg, ns_to_time
from ada3d_ros.ros.doctor import main as doctor
from ada3d_ros.ros.health import IN_A_ROW, WAIT_TEXT
from ada3d_ros.ros.outputs import LATCHED
from ada3d_ros.srv import QueryScene
from test.support.ros_harness import (
    HEIGHT,
    TOPICS,
    WIDTH,
    Harness,
    NodeLog,
    Spinner,
    frame_messages,
    free_domain,
    wait_until,
)

SECOND = 1_000_000_000
Messages = dict[str, Any]
Start = Callable[..., Harness]


class Witness:
    """Everything that an agent says of its health, as it is now."""

    def __init__(self, agent: Harness, name: str = "/ada3d_agent") -> None:
        self.agent = agent
        self._statuses = agent.collect(AgentStatus, f"{name}/status", LATCHED)
        self._diagnostics = agent.collect(DiagnosticArray, "/diagnostics")
        self._indices = itertools.count(1)
        assert agent.ready()

    def status(self) -> Any:
        """A status of after this call."""
        count = len(self._statuses)
        assert wait_until(lambda: len(self._statuses) > count + 1)
        return self._statuses[-1]

    def has_fault(self, sentence: str) -> bool:
        return any(sentence in fault for status in self._statuses[-1:] for fault in status.faults)

    def task(self, name: str) -> Any:
        """A task of /diagnostics, of after this call."""
        count = len(self._diagnostics)
        assert wait_until(lambda: len(self._diagnostics) > count + 1)
        return next(s for s in self._diagnostics[-1].status if s.name == f"ada3d_agent: {name}")

    def ask(self) -> Any:
        return self.agent.call(QueryScene, "query", QueryScene.Request(question="Where?")).answer

    def next_frame(self) -> Messages:
        index = next(self._indices)
        return frame_messages(index * SECOND, x_m=0.5 * index)

    def send(self, messages: Messages) -> None:
        """The images when camera_info is there: one that comes later holds for the next."""
        info = self.agent.node.inputs.monitors["camera_info"]
        for names in (("pose", "info"), ("rgb", "depth")):
            before = info.received
            for name in names:
                publisher = self.agent.publisher(TOPICS[name], type(messages[name]))
                publisher.publish(messages[name])
            assert "info" not in names or wait_until(lambda n=before: info.received > n)


def words_of(fault: str) -> str:
    """A fault's sentence without its count, which grows."""
    return fault.split(" refused, ", 1)[-1]


# -- frames that are refused


def half_depth(messages: Messages) -> None:
    depth = messages["depth"]
    depth.height, depth.width, depth.step = HEIGHT // 2, WIDTH // 2, WIDTH
    depth.data = np.full((HEIGHT // 2, WIDTH // 2), 2000, np.uint16).tobytes()


def metres_as_millimetres(messages: Messages) -> None:
    messages["depth"].data = np.full((HEIGHT, WIDTH), 2, np.uint16).tobytes()


def no_calibration(messages: Messages) -> None:
    messages["info"].k = [0.0] * 9


def another_camera(messages: Messages) -> None:
    messages["depth"].header.frame_id = "depth_optical_frame"


def another_encoding(messages: Messages) -> None:
    messages["rgb"].encoding = "yuv422"


def another_world(messages: Messages) -> None:
    messages["pose"].header.frame_id = "odom"


def no_rotation(messages: Messages) -> None:
    messages["pose"].pose.orientation.x = 5.0


REFUSALS: dict[str, tuple[Callable[[Messages], None], str]] = {
    "depth of another size": (half_depth, "depth is 80x60, colour 160x120: "),
    "wrong units": (metres_as_millimetres, "the depth's median is 0.002 m"),
    "K of zeros": (no_calibration, "camera_info K has fx=0"),
    "depth of another frame": (another_camera, "colour (/rgb/image) is in frame "),
    "an unknown encoding": (another_encoding, "colour image has encoding 'yuv422'"),
    "poses in another frame": (another_world, "/pose is in frame 'odom', world_frame is 'map'"),
    "poses that are no rotation": (no_rotation, "/pose: quaternion (x, y, z, w)"),
}


@pytest.fixture(scope="module")
def witness(tiny_model: Any) -> Iterator[Witness]:
    with free_domain() as domain:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain)
        values = {"keyframe.max_views": 2, "pose.timeout_sec": 0.1}
        harness = Harness(context, tiny_model, Ada3DPipeline, **values)
        yield Witness(harness)
        harness.close()
        rclpy.try_shutdown(context=context)


@pytest.mark.parametrize("name", REFUSALS)
def test_frames_refused_and_good_again(
    witness: Witness, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """From the tenth refusal in a row on all say the sentence; a good frame ends it."""
    spoil, sentence = REFUSALS[name]
    node = witness.agent.node
    before = node.drops.num_refused
    for index in range(IN_A_ROW):
        messages = witness.next_frame()
        spoil(messages)
        witness.send(messages)
        assert wait_until(lambda n=before + index + 1: node.drops.num_refused >= n), (
            witness.agent.why_no_keyframe()
        )

    # status, diagnostics, log
    refused = f"10 frames refused, {sentence}"
    assert wait_until(lambda: witness.has_fault(refused)), witness.status()
    status = witness.status()
    (fault,) = [fault for fault in status.faults if refused in fault]
    assert fault in status.detail
    assert "{" not in status.detail
    task = witness.task("Synchronization")
    assert task.level in (DiagnosticStatus.WARN, DiagnosticStatus.ERROR)
    assert task.message == fault
    log = NodeLog(capfd)  # once in ten seconds, with other numbers
    assert wait_until(lambda: bool(log.lines(fault) or log.lines(words_of(fault)))), log.text

    # good frames again
    scene = node.pipeline.scene_state
    version = scene().version
    witness.send(witness.next_frame())
    assert wait_until(lambda: scene().version > version), witness.agent.why_no_keyframe()
    assert witness.status().detail.startswith("ask on ")
    assert witness.task("Synchronization").level == DiagnosticStatus.OK


def test_refusals_of_before_are_none_of_a_node_that_takes_no_frames(start_agent: Start) -> None:
    """Inactive it said for ever that frames are refused; active again, before the first came."""
    agent = start_agent()
    assert agent.ready()
    for index in range(IN_A_ROW):
        messages = frame_messages((index + 1) * SECOND)
        no_calibration(messages)
        agent.publish_frame((index + 1) * SECOND, info=messages["info"])
        assert wait_until(lambda n=index + 1: agent.node.drops.num_refused >= n)
    assert any("refused" in str(fault) for fault in agent.node.health.faults())
    for label in ("deactivate", "activate"):
        request = ChangeState.Request(transition=Transition(label=label))
        assert agent.call(ChangeState, "change_state", request).success
        assert not [str(f) for f in agent.node.health.faults() if "refused" in str(f)], label
    assert agent.drops()["bad_intrinsics"] >= IN_A_ROW  # the counters go on


def test_the_answer_and_doctor_say_the_same(
    start_agent: Start,
    domain_id: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """27 refused frames and one beyond the rate, which is no refusal."""
    witness = Witness(start_agent())
    for count in range(1, 28):
        messages = witness.next_frame()
        half_depth(messages)
        witness.send(messages)
        assert wait_until(lambda n=count: witness.agent.node.drops.num_refused == n)
    messages = frame_messages(27 * SECOND + SECOND // 100)
    witness.send(messages)
    assert wait_until(lambda: witness.agent.drops().get("rate_limit") == 1)

    refused = "27 frames refused, depth is 80x60, colour 160x120: "
    assert wait_until(lambda: witness.has_fault(refused))
    (fault,) = [fault for fault in witness.status().faults if refused in fault]
    answer = witness.ask()
    assert answer.error_code == ErrorCode.NO_FRAMES
    assert answer.error_msg.startswith(f"no keyframe yet: {fault}")
    assert "{" not in answer.error_msg

    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain_id))
    capfd.readouterr()
    assert doctor([]) == 1
    assert f"WRONG     health: {fault}" in capfd.readouterr().out.splitlines()


def test_stale_stamps(start_agent: Start) -> None:
    witness = Witness(start_agent(**{"input.max_age_sec": 1.0}))
    for count in range(1, IN_A_ROW + 1):
        witness.send(witness.next_frame())
        assert wait_until(lambda n=count: witness.agent.node.drops.num_refused == n)
    refused = "10 frames refused, image stamps differ from the node's clock by "
    assert wait_until(lambda: witness.has_fault(refused)), witness.status()
    assert witness.task("Synchronization").level == DiagnosticStatus.ERROR


def test_stamps_of_another_clock_than_the_simulated_one(start_agent: Start) -> None:
    """use_sim_time is set already: to set it is no cure."""
    witness = Witness(start_agent(**{"input.max_age_sec": 1.0, "use_sim_time": True}))
    agent = witness.agent
    clock = agent.peer.create_publisher(Clock, "/clock", 1)
    now = Clock(clock=ns_to_time(5000 * SECOND))

    def ticks() -> bool:
        clock.publish(now)
        return agent.node.get_clock().now().nanoseconds == 5000 * SECOND

    assert wait_until(ticks)
    witness.send(witness.next_frame())
    cure = (
        "frames are not used. use_sim_time is true: stamp the images by /clock, or set it to false."
    )
    assert wait_until(lambda: witness.has_fault(cure) or cure in witness.ask().error_msg)


# -- inputs


def test_the_log_speaks_though_nothing_comes_at_all(
    start_agent: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """At once and again while it lasts, also where no clock ticks."""
    monkeypatch.setattr(ada3d_ros.ros.health, "SILENT_AFTER_S", 0.5)
    monkeypatch.setattr(ada3d_ros.ros.health, "NO_CLOCK_AFTER_S", 0.5)
    monkeypatch.setattr(ada3d_ros.ros.watch, "LOG_PERIOD_S", 0.5)
    witness = Witness(start_agent(use_sim_time=True))
    log = NodeLog(capfd)
    nothing = "nothing received on /rgb/image (Image), "
    assert wait_until(lambda: len(log.lines(nothing)) >= 2), log.text
    status = witness.status()
    assert [fault.split(":")[0] for fault in status.faults] == [
        "use_sim_time is true, nothing publishes /clock",
        "nothing received on /rgb/image (Image), /depth/image (Image), /rgb/camera_info"
        " (CameraInfo), /pose (PoseStamped), 0 publishers",
    ]
    assert all(fault in status.detail and fault in log.text for fault in status.faults)
    assert witness.task("Inputs").level == DiagnosticStatus.WARN


def test_a_line_of_the_log_comes_once_in_ten_seconds(
    start_agent: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    watch = start_agent(autostart=False).node.health
    fault = ada3d_ros.ros.watch.Fault
    one = fault(ada3d_ros.ros.watch.Severity.WARN, "it leaks", "mend it", "Inputs", "leak")
    now = itertools.chain([100.0], [100.0 + second for second in range(1, 21)])
    monkeypatch.setattr(ada3d_ros.ros.watch, "time", SimpleNamespace(monotonic=lambda: next(now)))
    for _ in range(21):
        watch.log([one])
    assert capfd.readouterr().err.count("it leaks: mend it.") == 3  # at 0, 10 and 20 s


@pytest.mark.parametrize(
    ("parameters", "published", "cure"),
    [
        ({}, ("/rgb/image/compressed", CompressedImage), "set rgb_transport:=compressed."),
        ({"rgb_transport": "compressed"}, ("/rgb/image", Image), "set rgb_transport:=raw."),
        (
            {},
            ("/depth/image/compressedDepth", CompressedImage),
            "set depth_transport:=compressedDepth.",
        ),
        ({}, ("/depth/image/compressed", CompressedImage), "set depth_transport:=compressed."),
        (
            {"depth_transport": "compressedDepth"},
            ("/depth/image", Image),
            "set depth_transport:=raw.",
        ),
        ({}, ("/odom", Odometry), "set pose_source:=odom."),
        (
            {},
            ("/wheels", Odometry),
            "set pose_source:=odom and remap it: -r odom:=/wheels.",
        ),
        ({"pose_source": "odom"}, ("/pose", PoseStamped), "set pose_source:=pose."),
    ],
)
def test_an_input_in_another_form(
    start_agent: Start, parameters: dict[str, Any], published: tuple[str, type], cure: str
) -> None:
    """It is told with its setting, also when a bag has ended that published it."""
    topic, kind = published
    witness = Witness(start_agent(**parameters))
    publisher = witness.agent.peer.create_publisher(kind, topic, 10)
    sentence = f"{topic} is published: {cure}"
    assert wait_until(lambda: sentence in witness.status().detail), witness.status()
    witness.agent.peer.destroy_publisher(publisher)
    assert wait_until(lambda: not witness.agent.node.count_publishers(topic))
    assert sentence in witness.status().detail


def test_what_the_node_publishes_itself_is_no_input_of_its_own(
    start_agent: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """~/camera_pose is a PoseStamped, ~/annotated/compressed a picture: neither is advised."""
    monkeypatch.setattr(ada3d_ros.ros.health, "SILENT_AFTER_S", 0.5)
    witness = Witness(start_agent())
    assert wait_until(lambda: "nothing received on /rgb/image" in witness.status().detail)
    detail = witness.status().detail
    assert "camera_pose" not in detail
    assert "annotated" not in detail
    witness.agent.peer.create_publisher(PoseStamped, "/camera/pose", 10)
    assert wait_until(lambda: "-r pose:=/camera/pose" in witness.status().detail)


def test_a_topic_of_a_foreign_type_is_no_input_in_another_form(start_agent: Start) -> None:
    """Its setting would not cure it. Nor is anybody asked who publishes all topics there are."""
    agent = start_agent()
    agent.peer.create_publisher(String, "/rgb/image/compressed", 10)
    assert wait_until(lambda: agent.node.count_publishers("/rgb/image/compressed") == 1)
    asked: list[str] = []
    count = agent.node.count_publishers

    def noting(topic: str) -> int:
        asked.append(topic)
        return int(count(topic))

    agent.node.count_publishers = noting
    assert not [f for f in agent.node.health.faults() if "rgb_transport" in str(f)]
    assert not {"/rosout", "/ada3d_agent/status"} & set(asked)


def test_messages_that_the_middleware_loses(
    start_agent: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The middleware's own event is counted; between processes its loss is a matter of load."""
    events: list[Callable[[Any], None]] = []  # what the middleware would call; colour, depth, ...
    real = ada3d_ros.ros.subscription.SubscriptionEventCallbacks

    def note(message_lost: Callable[[Any], None], **others: Any) -> Any:
        events.append(message_lost)
        return real(message_lost=message_lost, **others)

    monkeypatch.setattr(ada3d_ros.ros.subscription, "SubscriptionEventCallbacks", note)
    witness = Witness(start_agent())
    events[1](SimpleNamespace(total_count_change=40))
    loses = " loses messages of /depth/image (40 of 40): "
    assert wait_until(lambda: witness.has_fault(loses)), witness.status()
    (fault,) = [fault for fault in witness.status().faults if loses in fault]
    assert "fastdds_large_images.xml" in fault or "sysctl" in fault
    assert fault in witness.task("Inputs").message


# -- stamps


def shifted(names: tuple[str, ...], shift_s: float) -> Callable[[Messages], None]:
    def spoil(messages: Messages) -> None:
        for name in names:
            stamp = messages[name].header.stamp
            ns = stamp.sec * SECOND + stamp.nanosec + round(shift_s * SECOND)
            messages[name].header.stamp = ns_to_time(ns)

    return spoil


def unset(*names: str) -> Callable[[Messages], None]:
    def spoil(messages: Messages) -> None:
        for name in names:
            messages[name].header.stamp = ns_to_time(0)

    return spoil


STAMPS: dict[str, tuple[Callable[[Messages], None], str]] = {
    "depth of another clock": (
        shifted(("depth",), 1e6),
        "/depth/image is 1000000.0 s ahead of colour",
    ),
    "depth out of slop": (
        shifted(("depth",), 0.05),
        "/depth/image is 0.05 s ahead of the nearest colour image: sync.slop_sec would need 0.05;",
    ),
    "no stamp at all": (
        unset("rgb", "depth", "info"),
        "/rgb/image, /depth/image, /rgb/camera_info: header.stamp is not set (zero) in ",
    ),
    "depth without stamps": (unset("depth"), "/depth/image: header.stamp is not set (zero) in "),
    "poses without stamps": (unset("pose"), "/pose: header.stamp is not set (zero) in "),
    "poses of another clock": (
        shifted(("pose",), -5e5),
        "/pose is 500000.0 s behind colour",
    ),
}


@pytest.mark.parametrize("name", STAMPS)
def test_stamps_that_fit_nothing(start_agent: Start, name: str) -> None:
    """The odd input is named, and how far off it is, in status and answer."""
    spoil, sentence = STAMPS[name]
    witness = Witness(start_agent(**{"pose.timeout_sec": 0.1}))
    monitors = witness.agent.node.inputs.monitors
    for count in range(1, 41):  # more than sync.queue_size
        messages = frame_messages(1_000_000 * SECOND + count * SECOND, x_m=0.5 * count)
        spoil(messages)
        witness.send(messages)
        assert wait_until(lambda n=count: all(m.received == n for m in monitors.values()))
    assert wait_until(lambda: witness.has_fault(sentence)), witness.status()
    detail = witness.status().detail
    assert sentence in detail
    assert sentence in witness.ask().error_msg
    assert ("sync.slop_sec" in detail) == (name == "depth out of slop")
    assert witness.task("Synchronization").level == DiagnosticStatus.ERROR


def test_the_slop_that_the_sentence_names_is_a_cure(start_agent: Start) -> None:
    witness = Witness(start_agent(**{"sync.slop_sec": 0.0334}))
    agent = witness.agent
    for count in range(1, 4):
        messages = frame_messages(count * SECOND, x_m=0.5 * count)
        shifted(("depth",), 0.03334)(messages)
        witness.send(messages)
    assert wait_until(lambda: agent.node.pipeline.scene_state().num_keyframes > 0)


# -- the clock


def test_no_clock_under_use_sim_time(start_agent: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames serve, and what is missing is told; `ask` prints no nan."""
    monkeypatch.setattr(ada3d_ros.ros.health, "NO_CLOCK_AFTER_S", 0.5)
    agent = start_agent(use_sim_time=True)
    witness = Witness(agent)
    agent.publish_scene(1)
    assert wait_until(lambda: witness.has_fault("use_sim_time is true, nothing publishes /clock"))
    text = describe_answer(witness.ask())
    assert "newest image of unknown age" in text
    assert "nan" not in text


def test_a_clock_that_is_not_used(start_agent: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ada3d_ros.ros.health, "NO_CLOCK_AFTER_S", 0.5)
    witness = Witness(start_agent())
    witness.agent.publisher("/clock", Clock)
    witness.agent.publish_scene(1)
    sentence = "/clock is published, use_sim_time is false"
    assert wait_until(lambda: witness.has_fault(sentence)), witness.status()


def test_no_number_that_is_none_is_printed() -> None:
    message = empty_answer_msg("Where?", 1, "map", "tiny")
    message.success, message.text = True, "here"
    message.tokens.prompt = message.tokens.spatial_total = message.tokens.spatial_kept = 4
    message.tokens.strategy, message.tokens.keep_ratio_achieved = "adatoken3d", math.nan
    message.scene_cached = True
    text = describe_answer(message)
    assert "nan" not in text
    assert "4 of 4 spatial kept in the last layer, adatoken3d" in text


# -- who is there


@pytest.fixture
def named_agents(domain_id: int, tiny_model: Any) -> Iterator[Callable[..., None]]:
    """named_agents("__ns:=/robot1", ...): an agent for each remap rule."""
    contexts, agents = [], []

    def start(*rules: str) -> None:
        for rule in rules:
            contexts.append(rclpy.Context())
            rclpy.init(args=["--ros-args", "-r", rule], context=contexts[-1], domain_id=domain_id)
            agents.append(Harness(contexts[-1], tiny_model, Ada3DPipeline))

    yield start
    for agent, context in zip(agents, contexts, strict=True):
        agent.close()
        rclpy.try_shutdown(context=context)


@pytest.mark.parametrize(
    ("rule", "name"),
    [("__ns:=/robot1", "/robot1/ada3d_agent"), ("ada3d_agent:__node:=seer", "/seer")],
)
def test_an_agent_of_another_name(
    named_agents: Callable[..., None],
    domain_id: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    rule: str,
    name: str,
) -> None:
    """Doctor goes on with the one that is there, ask names it."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain_id))
    named_agents(rule)
    there = f"{name} is there: --node {name}"
    capfd.readouterr()
    assert doctor([]) == 1  # it has no inputs
    lines = capfd.readouterr().out.splitlines()
    assert f"note      /ada3d_agent: not there; {there}" in lines
    assert f"ok        {name}: alive on ROS_DOMAIN_ID {domain_id}" in lines
    assert any(line.startswith("WRONG     health: nothing received on ") for line in lines)

    assert ask_main(["Is the door open?"]) == 2
    assert there in capfd.readouterr().err


def test_several_agents_are_all_named(
    named_agents: Callable[..., None],
    domain_id: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain_id))
    named_agents("__ns:=/robot1", "__ns:=/robot2")
    capfd.readouterr()
    assert doctor([]) == 1
    one, two = "/robot1/ada3d_agent", "/robot2/ada3d_agent"
    lines = capfd.readouterr().out
    assert f"{one}, {two} are there: --node {one} or --node {two}" in lines
    assert "alive on" not in lines


def test_doctor_waits_for_a_node_that_comes_late(
    start_agent: Start,
    ros_context: Any,
    domain_id: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """On a busy machine discovery takes seconds: it looked for three, and said `no such node`."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain_id))
    observer, spinner, codes = Node("observer", context=ros_context), Spinner(ros_context), []
    spinner.executor.add_node(observer)
    spinner.start()
    looking = threading.Thread(target=lambda: codes.append(doctor(["--wait-sec", "60"])))
    looking.start()
    assert wait_until(lambda: "ada3d_doctor" in observer.get_node_names(), 30.0)
    time.sleep(3.0)  # it has looked, and seen nothing
    start_agent()
    looking.join(90.0)
    spinner.stop()
    observer.destroy_node()
    assert codes == [1]  # no inputs
    assert f"ok        /ada3d_agent: alive on ROS_DOMAIN_ID {domain_id}" in capfd.readouterr().out


def test_before_anything_is_wrong_a_question_says_to_wait(start_agent: Start) -> None:
    agent = start_agent()
    assert agent.ready()
    everything = ada3d_ros.ros.health.why_no_keyframe(ada3d_ros.ros.health.HealthState())
    assert everything == WAIT_TEXT
