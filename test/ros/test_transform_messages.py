"""tf2_ros's buffer behind our two methods: how it is fed and asked, and what its errors become.

tf2 has no wheel: a stand-in records the calls and raises what tf2's own code says.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

pytest.importorskip("rclpy")

from geometry_msgs.msg import TransformStamped

from ada3d_ros.geometry.pose import Transform
from ada3d_ros.geometry.stamped import PoseReason, PoseStatus
from ada3d_ros.geometry.transforms import TransformBuffer
from ada3d_ros.ros.transform_messages import Tf2Buffer, make_buffer, tf_message_type

SECOND = 1_000_000_000
WHERE = Transform((1.0, 2.0, 3.0), (0.0, 0.0, 0.6, 0.8))


class TransformException(Exception):
    pass


class LookupException(TransformException):
    pass


class ConnectivityException(TransformException):
    pass


class ExtrapolationException(TransformException):
    pass


class Buffer:
    """The part of tf2_ros.Buffer that is used; `answer` is what it returns or raises."""

    made: ClassVar[list[Buffer]] = []

    def __init__(self, cache_time: Any) -> None:
        self.made.append(self)
        self.cache_s = cache_time.nanoseconds / 1e9
        self.fed: list[tuple[str, str, str, int]] = []
        self.asked: list[tuple[str, str, int]] = []
        self.answer: Any = None
        self.cleared = 0

    def _feed(self, kind: str, message: TransformStamped, authority: str) -> None:
        assert authority
        q = message.transform.rotation
        assert abs(np.linalg.norm((q.x, q.y, q.z, q.w)) - 1.0) < 1e-12
        stamp = message.header.stamp
        stamp_ns = stamp.sec * SECOND + stamp.nanosec
        self.fed.append((kind, message.header.frame_id, message.child_frame_id, stamp_ns))

    def set_transform(self, message: TransformStamped, authority: str) -> None:
        self._feed("moving", message, authority)

    def set_transform_static(self, message: TransformStamped, authority: str) -> None:
        self._feed("static", message, authority)

    def lookup_transform_core(self, target: str, source: str, when: Any) -> TransformStamped:
        self.asked.append((target, source, when.nanoseconds))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def clear(self) -> None:
        self.cleared += 1


@pytest.fixture
def tf2(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("tf2_ros")
    for part in (
        *(Buffer, TransformException, LookupException),
        *(ConnectivityException, ExtrapolationException),
    ):
        setattr(module, part.__name__, part)
    monkeypatch.setitem(sys.modules, "tf2_ros", module)
    return module


def test_the_buffer_is_tf2s_where_it_imports(tf2: ModuleType) -> None:
    assert isinstance(make_buffer(), Tf2Buffer)


def test_and_our_own_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    assert isinstance(make_buffer(), TransformBuffer)


def test_it_is_fed_and_asked_without_waiting(tf2: ModuleType) -> None:
    buffer = Tf2Buffer(tf2)
    inner = Buffer.made[-1]
    assert inner.cache_s == 10.0
    buffer.add("map", "base", SECOND + 5, WHERE, static=False)
    rounded = Transform(WHERE.translation_m, (0.0, 0.0, 0.61, 0.81))  # tf2 takes only norm 1
    buffer.add("base", "cam", 0, rounded, static=True)
    assert inner.fed == [("moving", "map", "base", SECOND + 5), ("static", "base", "cam", 0)]

    inner.answer = TransformStamped()
    t, q = inner.answer.transform.translation, inner.answer.transform.rotation
    t.x, t.y, t.z = WHERE.translation_m
    q.x, q.y, q.z, q.w = WHERE.quat_xyzw
    found = buffer.lookup("map", "cam", SECOND + 5, 0.2)
    assert inner.asked == [("map", "cam", SECOND + 5)]
    np.testing.assert_allclose(found.pose, WHERE.matrix(), atol=1e-12)


REFUSALS = {
    "future": (
        ExtrapolationException("Lookup would require extrapolation into the future.  Requested"),
        *(PoseReason.AFTER, PoseStatus.NOT_YET),
    ),
    "past": (
        ExtrapolationException("Lookup would require extrapolation into the past.  Requested"),
        *(PoseReason.BEFORE, PoseStatus.NEVER),
    ),
    "one sample": (
        ExtrapolationException("Lookup would require extrapolation at time 5, but only time 4"),
        *(PoseReason.AFTER, PoseStatus.NOT_YET),
    ),
    "not connected": (
        ConnectivityException("Could not find a connection between 'map' and 'cam'"),
        *(PoseReason.NOT_CONNECTED, PoseStatus.NOT_YET),
    ),
    "unknown": (
        LookupException('"cam" passed to lookupTransform argument source_frame does not exist. '),
        *(PoseReason.UNKNOWN_FRAME, PoseStatus.NOT_YET),
    ),
    "loop": (
        LookupException("The tf tree is invalid because it contains a loop."),
        *(PoseReason.LOOP, PoseStatus.NOT_YET),
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_tf2_refuses_keeps_its_words(tf2: ModuleType, name: str) -> None:
    error, reason, status = REFUSALS[name]
    buffer = Tf2Buffer(tf2)
    Buffer.made[-1].answer = error
    found = buffer.lookup("map", "cam", 5, 0.2)
    assert (found.pose, found.reason, found.status) == (None, reason, status)
    assert found.why == f"TF: {str(error).strip()}"


def test_two_parents_that_take_turns_are_refused(tf2: ModuleType) -> None:
    """tf2 follows the last; a frame that moves to another parent once is no fault."""
    buffer = Tf2Buffer(tf2)
    answer = Buffer.made[-1].answer = TransformStamped()
    answer.transform.rotation.w = 1.0
    buffer.add("base", "cam", 0, WHERE, static=True)
    for tick, parent in enumerate(("odom", "odom", "map")):
        buffer.add(parent, "base", SECOND + tick, WHERE, static=False)
    assert buffer.lookup("map", "cam", SECOND, 0.2).pose is not None
    buffer.add("odom", "base", SECOND + 3, WHERE, static=False)
    found = buffer.lookup("map", "cam", SECOND, 0.2)
    assert (found.reason, found.pose) == (PoseReason.TWO_PARENTS, None)
    assert "'base' in 'map' and 'odom' at once" in found.why
    buffer.add("odom", "base", 12 * SECOND, WHERE, static=False)  # alone for ten seconds
    assert buffer.lookup("map", "cam", 12 * SECOND, 0.2).pose is not None


def test_a_stamp_that_falls_back_clears_it(tf2: ModuleType) -> None:
    """tf2 would ignore all that is older than ten seconds: a bag's second pass."""
    buffer = Tf2Buffer(tf2)
    buffer.add("map", "base", 90 * SECOND, WHERE, static=False)
    assert buffer.add("map", "base", 89_900_000_000, WHERE, static=False) == 0.0
    assert buffer.add("map", "base", 5 * SECOND, WHERE, static=False) == pytest.approx(84.9)
    assert Buffer.made[-1].cleared == 1
    assert buffer.add("map", "base", 6 * SECOND, WHERE, static=False) == 0.0


def test_one_publisher_whose_clock_is_behind_blinds_nobody(tf2: ModuleType) -> None:
    """A gripper of two clocks, an hour apart; the camera's own frames go on."""
    buffer = Tf2Buffer(tf2)
    for tick in range(20):
        for parent, child in (("map", "base"), ("base", "cam"), ("base", "gripper")):
            buffer.add(parent, child, (5000 + tick) * SECOND, WHERE, static=False)
        fell = buffer.add("base", "gripper", (1400 + tick) * SECOND, WHERE, static=False)
        assert fell == pytest.approx(3600.0)
    assert Buffer.made[-1].cleared == 0
    # A bag's second pass: all of them fall.
    for parent, child in (("map", "base"), ("base", "cam"), ("base", "gripper")):
        buffer.add(parent, child, 10 * SECOND, WHERE, static=False)
    assert Buffer.made[-1].cleared == 1


def test_the_message_has_the_type_hash_that_others_record(shared_dir: Path) -> None:
    """What `make setup` generates is what a robot with tf2 speaks."""
    found, why = tf_message_type()
    if found is None:
        pytest.skip(why)
    bag = shared_dir / "data" / "tum_fr3_cabinet_ros2bag"
    share = Path(sys.prefix) / "share" / "tf2_msgs" / "msg" / "TFMessage.json"
    if not share.is_file():
        pytest.skip("tf2_msgs is a distribution's")
    recorded = (bag / "metadata.yaml").read_text().split("type: tf2_msgs/msg/TFMessage")[1]
    wanted = next(word for word in recorded.split() if word.startswith("RIHS01_"))
    assert wanted in share.read_text()
