"""Messages as the page shows them: points, cameras, answers, the times of one bar."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from geometry_msgs.msg import Point, Point32, Pose, Quaternion
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from ada3d_ros.errors import ErrorCode, SourceError
from ada3d_ros.msg import (
    AgentStatus,
    GroundedBox,
    Keyframe,
    KeyframeArray,
    SavedScene,
    SceneEvent,
    StandingQuestion,
)
from ada3d_ros.ros.conversions import empty_answer_msg, ns_to_time
from ada3d_ros.ros.page_messages import (
    STATES,
    answer_for_page,
    cloud_bytes,
    event_for_page,
    kept_bytes,
    keyframes_for_page,
    scenes_for_page,
    status_for_people,
    watches_for_page,
)
from ada3d_ros.srv import ListScenes

XYZ = [("x", 0, 7), ("y", 4, 7), ("z", 8, 7)]
POINTS = [(1.0, 2.0, 3.0), (math.nan, 0.0, 0.0), (-1.0, 0.5, 0.25)]
COLORS = [0xFF102030, 0x000000FF, 0x00FFFFFF]


def cloud(fields: list[Any], end: str = "<", row_bytes: int = 20, **options: Any) -> PointCloud2:
    """Three points of 20 bytes, colour at 16, each in a row of its own."""
    data = bytearray()
    for xyz, color in zip(POINTS, COLORS, strict=True):
        data += np.array(xyz, f"{end}f4").tobytes() + bytes(4)
        data += np.array([color], f"{end}u4").tobytes() + bytes(row_bytes - 20)
    made = [PointField(name=n, offset=o, datatype=d, count=1) for n, o, d in fields]
    given = {"height": 3, "width": 1, "point_step": 20, "row_step": row_bytes, "data": bytes(data)}
    return PointCloud2(fields=made, is_bigendian=end == ">", **(given | options))


@pytest.mark.parametrize("end", ["<", ">"])
@pytest.mark.parametrize("row_bytes", [20, 24])
@pytest.mark.parametrize("color", [("rgb", 16, 7), ("rgba", 16, 6)])
def test_points_and_their_colours(end: str, row_bytes: int, color: Any) -> None:
    data = cloud_bytes(cloud([*XYZ, color], end, row_bytes))
    assert len(data) == 2 * 15  # the one that is not finite is left out
    assert np.frombuffer(data[:24], "<f4").tolist() == [1.0, 2.0, 3.0, -1.0, 0.5, 0.25]
    assert list(data[24:]) == [0x10, 0x20, 0x30, 0xFF, 0xFF, 0xFF]


def test_no_points_at_all() -> None:
    empty = cloud([*XYZ, ("rgb", 16, 7)], height=1, width=0, row_step=0, data=b"")
    assert cloud_bytes(empty) == b""


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (cloud(XYZ), "fields x, y, z; needed"),
        (cloud([]), "fields none"),
        (cloud([("x", 0, 8), *XYZ[1:], ("rgb", 16, 7)]), "not float32"),
        (cloud([*XYZ, ("rgb", 16, 2)]), "colour is not 4 bytes"),
        (cloud([*XYZ, ("rgb", 16, 7)], data=bytes(19)), "too few for 3 points"),
        (cloud([*XYZ, ("rgb", 16, 7)], width=2), "too few for 6 points"),
    ],
)
def test_a_cloud_that_cannot_be_read(message: Any, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        cloud_bytes(message)


def test_every_state_has_words() -> None:
    numbers = {
        value
        for name, value in vars(AgentStatus).items()
        if name.isupper() and isinstance(value, int)
    }
    numbers |= {getattr(AgentStatus, name) for name in ("READY", "BUSY", "ERROR", "INACTIVE")}
    assert numbers <= set(STATES)
    assert set(STATES) == set(range(8))
    for state, (_, text) in STATES.items():
        told = status_for_people(AgentStatus(state=state, detail="~/rgb/image: none"))
        assert told["text"] == text
        assert "~/" not in told["text"]  # topic names are for the details
        assert told["detail"] == "~/rgb/image: none"


def test_who_waits_is_counted() -> None:
    for queued, words in ((1, "1 more waits"), (2, "2 more wait.")):
        status = AgentStatus(state=AgentStatus.BUSY, queued=queued)
        assert words in status_for_people(status)["text"]


def test_an_answer_with_a_box() -> None:
    answer = empty_answer_msg("the sofa", 7, "map", "m@1")
    turned = Quaternion(z=math.sin(0.25), w=math.cos(0.25))
    pose = Pose(position=Point(x=1.0, y=2.0, z=0.5), orientation=turned)
    answer.boxes = [GroundedBox(label="sofa", score=math.nan, center=pose)]
    answer.text, answer.success, answer.scene = "Here.", True, "kitchen"
    answer.tokens.spatial_total, answer.tokens.spatial_kept = 536, 107
    answer.kept_positions = [Point32(x=1.0, y=2.0, z=3.0)]
    told = answer_for_page(answer)
    assert (told["state"], told["scene"]) == ("done", "kitchen")
    assert told["boxes"][0]["center"] == [1.0, 2.0, 0.5]
    assert told["boxes"][0]["yaw"] == pytest.approx(0.5, abs=1e-4)
    assert told["boxes"][0]["score"] is None
    assert (told["tokens"]["kept"], told["tokens"]["total"]) == (107, 536)
    assert told["tokens"]["ratio"] is None
    assert told["total_ms"] is None
    assert told["times"] == []
    assert np.frombuffer(kept_bytes(answer), "<f4").tolist() == [1.0, 2.0, 3.0]


def test_the_boxes_of_a_measured_answer() -> None:
    answer = empty_answer_msg("How tall is the lamp?", 1, "map", "m@1")
    answer.places = [GroundedBox(label="place")]
    assert [box["label"] for box in answer_for_page(answer)["boxes"]] == ["place"]
    answer.method, answer.tokens.spatial_total = answer.METHOD_MEASURED, 945
    assert answer_for_page(answer)["tokens"] is None  # nothing was asked of the model
    answer.measurement.boxes = [GroundedBox(label="lamp")]
    assert [box["label"] for box in answer_for_page(answer)["boxes"]] == ["lamp"]


def test_the_times_of_one_bar_add_up_to_the_total() -> None:
    answer = empty_answer_msg("?", 1, "map", "m@1")
    latency = answer.latency
    latency.wait_ms, latency.prefill_ms, latency.rank_ms = 0.0, 9.0, 2.0
    latency.first_token_ms, latency.decode_ms, latency.total_ms = 9.5, 5.0, 16.0
    times = dict(answer_for_page(answer)["times"])
    assert times == {"prefill": 7.0, "rank": 2.0, "decode": 5.0, "other": 2.0}
    assert sum(times.values()) == latency.total_ms


@pytest.mark.parametrize(
    ("code", "state"), [(ErrorCode.CANCELED, "stopped"), (ErrorCode.BUSY, "failed")]
)
def test_what_failed_has_its_sentence(code: ErrorCode, state: str) -> None:
    answer = empty_answer_msg("?", 1, "map", "m@1")
    answer.error_code, answer.error_msg = int(code), "the queue is full"
    told = answer_for_page(answer)
    assert (told["state"], told["error"]) == (state, "the queue is full")


def test_keyframes_are_cameras_and_pictures() -> None:
    keyframe = Keyframe(id=5, width=160, height=120, intrinsics=[100.0, 50.0, 80.0, 60.0])
    keyframe.jpeg = b"jpeg"
    keyframe.pose.orientation.w = 1.0
    message = KeyframeArray(header=Header(frame_id="map"), scene_epoch=2, keyframes=[keyframe])
    told, pictures = keyframes_for_page(message)
    assert pictures == {"2-5": b"jpeg"}
    assert told["frame"] == "map"
    assert told["views"][0]["name"] == "2-5"
    assert told["views"][0]["edges"] == [-0.8, -1.2, 0.8, 1.2]  # left, top, right, bottom at 1 m


def test_a_keyframe_without_intrinsics_is_left_out() -> None:
    told, pictures = keyframes_for_page(KeyframeArray(keyframes=[Keyframe(id=1)]))
    assert told["views"] == []
    assert pictures == {}


@pytest.mark.parametrize(
    ("changed_s", "stands"),
    [(0, ""), (100, ""), (99.5, ""), (99, "1 s"), (60, "40 s"), (1, "99 s"), (200, "")],
)
def test_how_long_an_answer_stands(changed_s: float, stands: str) -> None:
    """By the status' own clock: never, just now, and a clock that is behind are not told."""
    question = StandingQuestion(
        watch_id="w1",
        kind=StandingQuestion.KIND_OBJECT,
        question="lamp",
        last_text="there",
        last_changed=ns_to_time(int(changed_s * 1e9)),
    )
    status = AgentStatus(header=Header(stamp=ns_to_time(100 * 10**9)), watches=[question])
    assert watches_for_page(status) == [
        {
            "watch": "w1",
            "kind": "kept object",
            "question": "lamp",
            "text": "there",
            "error": "",
            "stands": stands,
        }
    ]


@pytest.mark.parametrize(
    ("code", "text", "error"),
    [(ErrorCode.NOT_GROUNDED, "no box", ""), (ErrorCode.TIMEOUT, "there", "no box")],
)
def test_a_phrase_that_is_not_found_is_an_answer(code: ErrorCode, text: str, error: str) -> None:
    question = StandingQuestion(last_text="there", error_code=int(code), error_msg="no box")
    (told,) = watches_for_page(AgentStatus(watches=[question]))
    assert (told["text"], told["error"]) == (text, error)


def test_news_and_saved_scenes() -> None:
    event = SceneEvent(watch_id="w2", sentence="the lamp is gone")
    assert event_for_page(event) == {"watch": "w2", "sentence": "the lamp is gone"}
    scene = SavedScene(name="hall", keyframes=3, objects=1, bytes=1_260_000)
    scene.newest.sec, scene.problem = 7, "1 keyframe is damaged"
    response = ListScenes.Response(scenes=[scene], scene_in_use="kitchen")
    assert scenes_for_page(response) == {
        "scenes": [
            {
                "name": "hall",
                "keyframes": 3,
                "objects": 1,
                "megabytes": 1.3,
                "newest_s": 7,
                "problem": "1 keyframe is damaged",
            }
        ],
        "in_use": "kitchen",
    }
