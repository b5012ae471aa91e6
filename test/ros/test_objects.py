"""The objects of the scene on the ROS graph: ~/objects, ~/object_markers and ~/get_objects."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from geometry_msgs.msg import Point
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_srvs.srv import Trigger
from visualization_msgs.msg import Marker, MarkerArray

from ada3d_ros.errors import ErrorCode
from ada3d_ros.measures import ObjectsSnapshot, SceneObject
from ada3d_ros.msg import AgentStatus, SceneObjectArray
from ada3d_ros.ros.conversions import ns_to_time, time_to_ns
from ada3d_ros.ros.objects import is_due, objects_to_msg
from ada3d_ros.srv import GetObjects, QueryScene
from ada3d_ros.types import Box3D
from test.support.ros_harness import Harness, agent_of_its_own, scripted, wait_until

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SECOND = 1_000_000_000


def thing(number: int, label: str, at: tuple[float, float, float], **fields: Any) -> SceneObject:
    box = Box3D(
        np.array(at),
        np.array([0.5, 0.4, 0.25 * number]),
        label=label,
        score=0.5 + number / 16,
        support_points=100 * number,
        evidence_stamps_ns=(number * SECOND,),
    )
    stamps = {"first_seen_ns": SECOND, "last_seen_ns": number * SECOND}
    return SceneObject(str(number), label, box, **(stamps | fields))


THINGS = (
    thing(1, "red chair", (0.0, 0.0, 0.5), alternatives=("red sofa",)),
    thing(2, "blue chair", (2.0, 0.0, 0.5)),
    thing(3, "red sofa", (0.0, 3.0, 0.5)),
    thing(4, "green lamp", (0.0, 0.5, 1.0), gone_ns=5 * SECOND),
)
KEPT = ObjectsSnapshot(THINGS, 0, 7, complete=True, stamp_ns=6 * SECOND, frame_id="map")


class Kept(scripted("yes")):  # type: ignore[misc]
    """Keeps what the test says, and answers when it is told to."""

    kept = ObjectsSnapshot()
    gate = threading.Event()

    def objects(self) -> ObjectsSnapshot:
        return type(self).kept

    def ask(self, *args: Any) -> Any:
        assert self.gate.wait(30.0)
        return super().ask(*args)


@pytest.fixture(scope="module")
def agent(tiny_model: Path) -> Iterator[Harness]:
    with agent_of_its_own(tiny_model, Kept) as harness:
        harness.publish_scene(2)
        yield harness


@pytest.fixture(autouse=True)
def fresh() -> None:
    Kept.kept, Kept.gate = KEPT, threading.Event()
    Kept.gate.set()


def get(agent: Harness, **fields: Any) -> Any:
    return agent.call(GetObjects, "get_objects", GetObjects.Request(**fields))


# -- ~/objects


def newest(agent: Harness, topic: str, kind: type) -> list[Any]:
    """What somebody gets who comes late."""
    received = agent.collect(kind, f"/ada3d_agent/{topic}", LATCHED)
    assert wait_until(lambda: bool(received))
    return received


def test_the_latched_list_is_what_the_pipeline_keeps(agent: Harness) -> None:
    agent.node.objects.update()
    message = newest(agent, "objects", SceneObjectArray)[-1]
    assert (message.header.frame_id, time_to_ns(message.header.stamp)) == ("map", 6 * SECOND)
    assert (message.scene_epoch, message.scene_version, message.complete) == (0, 7, True)
    assert len(message.objects) == len(THINGS)
    for sent, kept in zip(message.objects, THINGS, strict=True):
        at, size = sent.box.center.position, sent.box.size
        assert [at.x, at.y, at.z] == kept.center_m.tolist()
        assert [size.x, size.y, size.z] == kept.box.size_m.tolist()
        assert (sent.id, sent.label, tuple(sent.alternatives)) == (
            kept.id,
            kept.label,
            kept.alternatives,
        )
        assert (sent.box.id, sent.box.label, sent.box.score) == (
            kept.id,
            kept.label,
            kept.box.score,
        )
        assert sent.box.support_points == kept.box.support_points
        assert time_to_ns(sent.first_seen) == kept.first_seen_ns
        assert time_to_ns(sent.last_seen) == kept.last_seen_ns
        assert (sent.gone, time_to_ns(sent.gone_at)) == (kept.is_gone, max(kept.gone_ns, 0))


def test_markers_show_what_is_there(agent: Harness) -> None:
    """A box and a label each, in namespaces of their own; what is gone is not shown."""
    agent.node.objects.update()
    first, *markers = newest(agent, "object_markers", MarkerArray)[-1].markers
    assert first.action == Marker.DELETEALL
    boxes = [m for m in markers if m.ns == "objects"]
    labels = [m for m in markers if m.ns == "object_labels"]
    assert len(boxes) + len(labels) == len(markers)
    assert [m.text for m in labels] == ["red chair #1", "blue chair #2", "red sofa #3"]
    assert [(m.pose.position.x, m.pose.position.y) for m in boxes] == [(0, 0), (2, 0), (0, 3)]
    assert [m.scale.z for m in boxes] == [0.25, 0.5, 0.75]
    assert labels[2].pose.position.z == pytest.approx(0.5 + 0.75 / 2 + 0.1)


def test_it_is_sent_once_a_scene_update(agent: Harness) -> None:
    """A scene that is being looked through, or an object that is seen again, is no news."""
    lists = newest(agent, "objects", SceneObjectArray)
    going_on = replace(KEPT, scene_version=8, complete=False)
    seen_again = (replace(THINGS[0], last_seen_ns=9 * SECOND), *THINGS[1:])
    done = replace(KEPT, scene_version=8, objects=seen_again)
    for snapshot in (going_on, replace(going_on, objects=seen_again), done, replace(done), done):
        Kept.kept = snapshot
        agent.node.objects.update()
    assert wait_until(lambda: lists[-1].scene_version == 8)
    Kept.kept = replace(done, objects=done.objects[1:])
    agent.node.objects.update()
    assert wait_until(lambda: len(lists[-1].objects) == 3)
    assert [message.scene_version for message in lists] == [7, 8, 8]
    assert time_to_ns(lists[1].objects[0].last_seen) == 9 * SECOND


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({}, False),
        ({"complete": False}, False),
        ({"scene_version": 8}, True),
        ({"scene_version": 8, "complete": False}, False),
        ({"scene_epoch": 1}, True),
        ({"scene_epoch": 1, "complete": False, "objects": ()}, True),
        ({"objects": (), "why_not": "no objects are kept: objects.enabled is false."}, True),
        ({"complete": False, "objects": (replace(THINGS[0], gone_ns=SECOND), *THINGS[1:])}, True),
        ({"complete": False, "objects": THINGS[:3]}, True),
    ],
)
def test_when_a_list_is_due(changes: dict[str, Any], due: bool) -> None:
    snapshot = replace(KEPT, **changes)
    published = objects_to_msg(KEPT, KEPT.objects)
    assert is_due(objects_to_msg(snapshot, snapshot.objects), published) is due


def test_a_reset_empties_the_list(agent: Harness) -> None:
    agent.node.objects.update()
    lists = newest(agent, "objects", SceneObjectArray)
    Kept.kept = ObjectsSnapshot(scene_epoch=1)
    assert agent.call(Trigger, "reset_scene").success
    assert wait_until(lambda: not lists[-1].objects)
    assert (lists[-1].scene_epoch, lists[-1].complete) == (1, False)
    assert get(agent).result.objects == []
    agent.publish_scene(2, first_s=20)


# -- ~/get_objects


@pytest.mark.parametrize(
    ("fields", "ids"),
    [
        ({}, "123"),
        ({"include_gone": True}, "1234"),
        ({"label": "red chair"}, "1"),
        ({"label": "chair"}, "12"),
        ({"label": "The Chairs"}, "12"),
        ({"label": "couch"}, "3"),  # a sofa
        ({"label": "unicorn"}, ""),
        ({"near": True, "radius_m": 1.0}, "1"),
        ({"near": True, "radius_m": 1.2, "include_gone": True}, "14"),
        ({"near": True, "place": Point(x=2.0, z=0.5), "radius_m": 2.0}, "12"),
        ({"near": True, "place": Point(x=2.0, z=0.5), "radius_m": 1.99}, "2"),
        ({"near": True, "radius_m": 100.0, "label": "red sofa"}, "3"),
        ({"radius_m": 0.0}, "123"),  # no place is asked about
        ({"seen_since": ns_to_time(2 * SECOND)}, "23"),
        ({"seen_since": ns_to_time(2 * SECOND + 1)}, "3"),
    ],
)
def test_objects_by_name_place_and_time(agent: Harness, fields: dict[str, Any], ids: str) -> None:
    response = get(agent, **fields)
    assert (response.success, response.error_code, response.error_msg) == (True, 0, "")
    assert [item.id for item in response.result.objects] == list(ids)
    assert response.result.scene_version == 7


@pytest.mark.parametrize("radius_m", [0.0, 0.04, 100.5, 1000.0, -1.0, math.inf, math.nan])
def test_a_radius_out_of_range_is_refused(agent: Harness, radius_m: float) -> None:
    response = get(agent, near=True, radius_m=radius_m)
    assert (response.success, response.error_code) == (False, ErrorCode.INVALID_REQUEST)
    assert f"radius_m = {radius_m:g} is out of range" in response.error_msg
    assert "allowed: 0.05 to 100 metres" in response.error_msg


def test_a_place_that_is_none_is_refused(agent: Harness) -> None:
    response = get(agent, near=True, place=Point(x=math.nan))
    assert (response.success, response.error_code) == (False, ErrorCode.INVALID_REQUEST)
    assert "is not finite" in response.error_msg


def test_it_never_waits_for_the_model(agent: Harness) -> None:
    Kept.gate.clear()
    question = agent.call_async(QueryScene, "query", QueryScene.Request(question="What is there?"))
    assert wait_until(lambda: agent.node.worker.busy)
    assert len(get(agent).result.objects) == 3
    assert agent.node.worker.busy
    Kept.gate.set()
    assert question().answer.text == "yes"


def test_a_vocabulary_that_cannot_be_read_is_a_fault(agent: Harness) -> None:
    """In the response, the status and so in `ada3d doctor`; a choice is in the response alone."""
    statuses = agent.collect(AgentStatus, "/ada3d_agent/status")
    why_not = "no objects are kept: words.txt cannot be used as a vocabulary (it holds no name)."
    for is_fault in (True, False):
        Kept.kept = ObjectsSnapshot(why_not=why_not, is_fault=is_fault)
        response = get(agent)
        assert (response.success, response.error_code) == (False, ErrorCode.NOT_ACTIVE)
        assert response.error_msg == why_not
        assert wait_until(
            lambda wanted=is_fault: bool(statuses) and (why_not in statuses[-1].faults) is wanted
        )


def test_paused_or_not_the_list_is_there_and_not_without_a_model(agent: Harness) -> None:
    agent.node.paused = True
    assert len(get(agent).result.objects) == 3
    agent.node.paused = False
    pipeline, agent.node.pipeline = agent.node.pipeline, None
    response = get(agent)
    agent.node.pipeline = pipeline
    assert (response.success, response.error_code) == (False, ErrorCode.NOT_ACTIVE)
    assert "the node is not active" in response.error_msg


def test_a_question_waits_for_one_background_step_at_most(agent: Harness) -> None:
    """Steps look for objects without end; a question that comes in one of them is the next."""
    events: list[str] = []
    first, go_on = threading.Event(), threading.Event()

    def step() -> bool:
        events.append("step")
        first.set()
        assert go_on.wait(30.0)
        return len(events) < 50  # there is always more to do

    pipeline = agent.node.pipeline
    ask, pipeline.run_background_step = pipeline.ask, step
    pipeline.ask = lambda *args: (events.append("ask"), ask(*args))[1]
    agent.node.worker.notify()
    assert first.wait(30.0)
    question = agent.call_async(QueryScene, "query", QueryScene.Request(question="What is there?"))
    assert wait_until(lambda: agent.node.worker.queued == 1)
    go_on.set()
    assert question().answer.success
    del pipeline.ask, pipeline.run_background_step
    assert events[:2] == ["step", "ask"]
    assert wait_until(lambda: not agent.node.worker.busy)
