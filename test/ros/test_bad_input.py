"""Faulty camera messages over real DDS: each is counted under its reason and makes no keyframe.

The node serves on after every one.
"""

from __future__ import annotations

import io
import itertools
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

pytest.importorskip("rclpy")

import rclpy
from nav_msgs.msg import Odometry
from rclpy.serialization import serialize_message
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

import ada3d_ros.ros.intake
import ada3d_ros.ros.subscription
from ada3d_ros.errors import ErrorCode, FrameReason
from ada3d_ros.geometry.pose import pose_from_quaternion
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.ros.conversions import ns_to_time
from ada3d_ros.srv import QueryScene
from test.support.ros_harness import (
    FOCAL_PX,
    HEIGHT,
    TOPICS,
    WIDTH,
    Harness,
    NodeLog,
    frame_messages,
    free_domain,
    scripted,
    wait_until,
)

Messages = dict[str, Any]
Spoil = Callable[[Messages], object]
SECOND = 1_000_000_000


class Feed:
    """An agent, and a camera whose good frames are always admitted.

    It moves half a metre and a second per frame.
    """

    def __init__(
        self, agent: Harness, encode: Callable[[Messages], object] = lambda messages: None
    ) -> None:
        self.agent, self._encode = agent, encode
        self._frames = itertools.count(1)
        assert agent.ready()

    def next(self) -> Messages:
        """The messages of the next good frame, not sent yet."""
        index = next(self._frames)
        messages = frame_messages(index * SECOND, x_m=0.5 * index)
        self._encode(messages)
        return messages

    def send(self, messages: Messages) -> None:
        topics = dict(TOPICS)
        if isinstance(messages["pose"], Odometry):
            topics["pose"] = "/odom"
        if isinstance(messages["rgb"], CompressedImage):
            topics["rgb"] += "/compressed"
        if isinstance(messages["depth"], CompressedImage):
            topics["depth"] += "/compressedDepth"
        for name, topic in topics.items():
            if messages[name] is not None:
                self.agent.publisher(topic, type(messages[name])).publish(messages[name])

    @property
    def version(self) -> tuple[int, int]:
        """Grows with every keyframe and every reset."""
        scene = self.agent.node.pipeline.scene_state()
        return scene.epoch, scene.version

    def admit(self, messages: Messages | None = None) -> None:
        """Send a frame (a good one, if none is given) that must become a keyframe."""
        epoch, version = self.version
        self.send(messages or self.next())
        assert wait_until(lambda: self.version == (epoch, version + 1)), (
            f"{self.agent.why_no_keyframe()} {self.agent.drops()}"
        )

    def refuse(self, messages: Messages, *reasons: FrameReason) -> None:
        """Send a frame that must grow exactly these counters, by one, and make no keyframe."""
        before, version = self.agent.drops(), self.version
        expected = {**before, **{r.value: before.get(r.value, 0) + 1 for r in reasons}}
        self.send(messages)
        assert wait_until(lambda: self.agent.drops() == expected), (self.agent.drops(), expected)
        assert self.version == version

    def ask(self) -> Any:
        return self.agent.call(
            QueryScene, "query", QueryScene.Request(question="What is there?")
        ).answer

    def serves_on(self) -> None:
        self.admit()
        answer = self.ask()
        assert answer.success, answer.error_msg
        assert self.agent.node.inference.internal_errors == 0, self.agent.node.inference.last_error


def start_feed(
    tiny_model: Any, encode: Callable[[Messages], object], **parameters: Any
) -> Iterator[Feed]:
    """One agent in a domain of its own; few views and tokens keep a question short."""
    with free_domain() as domain:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain)
        limits = {"keyframe.max_views": 2, "generation.max_new_tokens": 2}
        harness = Harness(context, tiny_model, Ada3DPipeline, **{**limits, **parameters})
        yield Feed(harness, encode)
        harness.close()
        rclpy.try_shutdown(context=context)


@pytest.fixture(scope="module")
def feed(tiny_model: Any) -> Iterator[Feed]:
    yield from start_feed(tiny_model, lambda messages: None)


# -- raw transport


def image(like: Image, pixels: np.ndarray, encoding: str) -> Image:
    """`pixels` as an Image with the header of another."""
    result = Image(
        header=like.header, height=pixels.shape[0], width=pixels.shape[1], encoding=encoding
    )
    result.step, result.data = pixels.strides[0], pixels.tobytes()
    return result


def set_fields(name: str, **fields: Any) -> Spoil:
    def spoil(messages: Messages) -> None:
        for field, value in fields.items():
            setattr(messages[name], field, value)

    return spoil


def replace_pixels(name: str, pixels: np.ndarray, encoding: str) -> Spoil:
    return lambda messages: messages.update({name: image(messages[name], pixels, encoding)})


def shift_stamps(names: tuple[str, ...], shift_ns: int) -> Spoil:
    def spoil(messages: Messages) -> None:
        for name in names:
            stamp = messages[name].header.stamp
            messages[name].header.stamp = ns_to_time(stamp.sec * SECOND + stamp.nanosec + shift_ns)

    return spoil


def k_with(value: float) -> list[float]:
    return [value, 0.0, WIDTH / 2, 0.0, FOCAL_PX, HEIGHT / 2, 0.0, 0.0, 1.0]


def depth_of(value: float, dtype: type = np.float32) -> np.ndarray:
    return np.full((HEIGHT, WIDTH), value, dtype)


def marked(value: float, mark: float, dtype: type) -> np.ndarray:
    """Depth whose left two thirds hold a mark for no reading."""
    return np.where(
        np.arange(WIDTH) < 2 * WIDTH // 3, depth_of(mark, dtype), depth_of(value, dtype)
    )


GREY = np.zeros((HEIGHT, WIDTH), np.uint8)
HALF = (HEIGHT // 2, WIDTH // 2)
R = FrameReason

RAW_FAULTS: dict[str, tuple[Spoil, FrameReason]] = {
    "depth of another size": (
        replace_pixels("depth", np.full(HALF, 2000, np.uint16), "16UC1"),
        R.BAD_SIZE,
    ),
    "colour of another size": (
        replace_pixels("rgb", np.zeros((*HALF, 3), np.uint8), "rgb8"),
        R.BAD_SIZE,
    ),
    "camera_info of another size": (set_fields("info", height=HALF[0], width=HALF[1]), R.BAD_SIZE),
    "camera_info without a size": (set_fields("info", height=0, width=0), R.BAD_INTRINSICS),
    "colour without pixels": (set_fields("rgb", height=0, width=0, step=0, data=b""), R.BAD_SIZE),
    "depth without pixels": (set_fields("depth", height=0, width=0, step=0, data=b""), R.BAD_SIZE),
    "colour said to be huge": (
        set_fields("rgb", height=60_000, width=60_000, step=180_000),
        R.BAD_SIZE,
    ),
    "depth said to be huge": (
        set_fields("depth", height=2**32 - 1, width=2**32 - 1, step=2**32 - 1),
        R.BAD_SIZE,
    ),
    "colour cut short": (set_fields("rgb", data=bytes(3 * WIDTH * HEIGHT - 1)), R.CORRUPT),
    "depth cut short": (set_fields("depth", data=bytes(100)), R.CORRUPT),
    "colour without data": (set_fields("rgb", data=b""), R.CORRUPT),
    "step of one channel": (set_fields("rgb", step=WIDTH), R.CORRUPT),
    "step of zero": (set_fields("depth", step=0), R.CORRUPT),
    "depth on the colour topic": (
        replace_pixels("rgb", depth_of(2000, np.uint16), "16UC1"),
        R.BAD_ENCODING,
    ),
    "colour on the depth topic": (
        replace_pixels("depth", np.zeros((HEIGHT, WIDTH, 3), np.uint8), "rgb8"),
        R.BAD_ENCODING,
    ),
    "colour without encoding": (set_fields("rgb", encoding=""), R.BAD_ENCODING),
    "depth without encoding": (set_fields("depth", encoding=""), R.BAD_ENCODING),
    "yuv422 colour": (set_fields("rgb", encoding="yuv422"), R.BAD_ENCODING),
    "mono8 depth": (replace_pixels("depth", GREY, "mono8"), R.BAD_ENCODING),
    "64-bit depth": (replace_pixels("depth", depth_of(2.0, np.float64), "64FC1"), R.BAD_ENCODING),
    "an encoding that is no word": (set_fields("rgb", encoding="\x07🙂%s{}"), R.BAD_ENCODING),
    "depth of zeros": (replace_pixels("depth", depth_of(0, np.uint16), "16UC1"), R.LOW_VALID_DEPTH),
    "depth of NaN": (replace_pixels("depth", depth_of(np.nan), "32FC1"), R.LOW_VALID_DEPTH),
    "depth of inf": (replace_pixels("depth", depth_of(np.inf), "32FC1"), R.LOW_VALID_DEPTH),
    "depth of -inf": (replace_pixels("depth", depth_of(-np.inf), "32FC1"), R.LOW_VALID_DEPTH),
    "depth below zero": (replace_pixels("depth", depth_of(-2.0), "32FC1"), R.LOW_VALID_DEPTH),
    "depth beyond depth.max_m": (
        replace_pixels("depth", depth_of(30.0), "32FC1"),
        R.LOW_VALID_DEPTH,
    ),
    "millimetres as metres": (replace_pixels("depth", depth_of(2000.0), "32FC1"), R.BAD_UNITS),
    "metres as millimetres": (
        replace_pixels("depth", depth_of(2, np.uint16), "16UC1"),
        R.BAD_UNITS,
    ),
    "byte order swapped": (set_fields("depth", is_bigendian=1), R.BAD_UNITS),
    "K of zeros": (set_fields("info", k=[0.0] * 9), R.BAD_INTRINSICS),
    "K of NaN": (set_fields("info", k=k_with(float("nan"))), R.BAD_INTRINSICS),
    "K of inf": (set_fields("info", k=k_with(float("inf"))), R.BAD_INTRINSICS),
    "K of another size": (
        set_fields("info", k=[450.0, 0.0, 240.0, 0.0, 450.0, 180.0, 0.0, 0.0, 1.0]),
        R.BAD_INTRINSICS,
    ),
    "binning that was not applied": (set_fields("info", binning_x=2, binning_y=2), R.BAD_SIZE),
    "K below zero": (set_fields("info", k=k_with(-FOCAL_PX)), R.BAD_INTRINSICS),
    "unknown distortion": (
        set_fields("info", distortion_model="kannala", d=[0.1, 0.0, 0.0, 0.0]),
        R.BAD_DISTORTION,
    ),
    "no distortion model": (
        set_fields("info", distortion_model="", d=[0.1, 0.0, 0.0, 0.0, 0.0]),
        R.BAD_DISTORTION,
    ),
    "too few coefficients": (set_fields("info", d=[0.1, 0.01]), R.BAD_DISTORTION),
    "too many coefficients": (set_fields("info", d=[0.1] * 14), R.BAD_DISTORTION),
    "coefficient of NaN": (
        set_fields("info", d=[float("nan"), 0.0, 0.0, 0.0, 0.0]),
        R.BAD_DISTORTION,
    ),
}


@pytest.mark.parametrize("name", RAW_FAULTS)
def test_a_faulty_raw_frame(feed: Feed, name: str) -> None:
    spoil, reason = RAW_FAULTS[name]
    messages = feed.next()
    spoil(messages)
    feed.refuse(messages, reason)
    feed.serves_on()


@pytest.mark.parametrize("name", ["depth", "info"])
def test_another_camera_frame(feed: Feed, name: str) -> None:
    """A realsense without align_depth: depth belongs to another optical frame."""
    messages = feed.next()
    messages[name].header.frame_id = "camera_depth_optical_frame"
    feed.refuse(messages, R.FRAME_MISMATCH)
    feed.serves_on()


BAYER = np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1))
PADDED = np.pad(depth_of(2000, np.uint16), ((0, 0), (0, 7)))
GOOD_FRAMES: dict[str, Spoil] = {
    "zeros behind the coefficients": set_fields(
        "info", d=[-0.03, 0.035, -0.0001, -0.0001, -0.012, 0.0, 0.0, 0.0]
    ),
    "a binned sensor": set_fields(
        "info",
        height=2 * HEIGHT,
        width=2 * WIDTH,
        binning_x=2,
        binning_y=2,
        k=[2 * FOCAL_PX, 0.0, WIDTH, 0.0, 2 * FOCAL_PX, HEIGHT, 0.0, 0.0, 1.0],
    ),
    "slashes before the frames": lambda m: [
        setattr(m[name].header, "frame_id", f"/{m[name].header.frame_id}")
        for name in ("depth", "info", "pose")
    ],
    "32FC1 metres": replace_pixels("depth", depth_of(2.0), "32FC1"),
    "mono16 millimetres": set_fields("depth", encoding="mono16"),
    "big-endian": lambda m: set_fields(
        "depth", is_bigendian=1, data=depth_of(2000, np.uint16).byteswap().tobytes()
    )(m),
    "padded rows": set_fields("depth", step=PADDED.strides[0], data=PADDED.tobytes()),
    "more data than rows": set_fields("rgb", data=bytes(3 * WIDTH * HEIGHT + 999)),
    "half the depth missing": replace_pixels(
        "depth", np.where(np.arange(WIDTH) % 2, np.nan, depth_of(2.0)).astype(np.float32), "32FC1"
    ),
    "two thirds marked with 65535": replace_pixels(
        "depth", marked(2000, 65535, np.uint16), "16UC1"
    ),
    "a far plane of 1000 m": replace_pixels("depth", marked(2.0, 1000.0, np.float32), "32FC1"),
    "zero distortion of an unknown model": set_fields(
        "info", distortion_model="whatever", d=[0.0] * 3
    ),
    "mono8": replace_pixels("rgb", BAYER, "mono8"),
    **{
        f"bayer_{order}8": replace_pixels("rgb", BAYER, f"bayer_{order}8")
        for order in ("rggb", "bggr", "gbrg", "grbg")
    },
}


@pytest.mark.parametrize("name", GOOD_FRAMES)
def test_unusual_frames_that_are_good(feed: Feed, name: str) -> None:
    messages = feed.next()
    GOOD_FRAMES[name](messages)
    feed.admit(messages)
    depth_m = feed.agent.node.pipeline.scene.keyframes[-1].frame.depth_m
    assert np.nanmedian(depth_m) == pytest.approx(2.0)


def cdr(message: Any) -> bytes:
    return bytes(serialize_message(message))


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def not_utf8(content: bytes) -> bytes:
    assert b"camera_color" in content or b"map" in content
    return content.replace(b"camera_color", b"camera\xff\xfecolo").replace(b"map", b"m\xffp")


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": cut,
    "header alone": lambda content: content[:4],
    "not UTF-8": not_utf8,
    "string said to be huge": lambda content: content[:12] + b"\xff\xff\xff\x7f" + content[16:],
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["rgb", "depth", "info", "pose"])
def test_bytes_that_are_not_the_message(feed: Feed, name: str, damage: str) -> None:
    """What a faulty bridge puts on the wire; spin() must not end with it."""
    feed.admit()
    before = feed.agent.drops().get("corrupt", 0)
    feed.agent.publishers[TOPICS[name]].publish(DAMAGE[damage](cdr(feed.next()[name])))
    if name in ("rgb", "depth"):  # the others are read by the middleware, which lets them vanish
        assert wait_until(lambda: feed.agent.drops().get("corrupt", 0) == before + 1), (
            feed.agent.agent_spinner.error
        )
    feed.serves_on()


# -- stamps

IMAGES = ("rgb", "depth", "info")


@pytest.mark.parametrize("name", ["rgb", "depth"])
def test_a_stamp_that_is_not_set(feed: Feed, name: str) -> None:
    messages = feed.next()
    messages[name].header.stamp = ns_to_time(0)
    feed.send(messages)
    counts = feed.agent.drops
    before = counts().get("zero_stamp", 0)
    assert wait_until(lambda: counts().get("zero_stamp", 0) == before + 1 or before)
    feed.serves_on()


def test_a_camera_info_without_a_stamp_is_counted_and_costs_nothing(feed: Feed) -> None:
    """It lost its frame; but the one before it still holds."""
    feed.admit()
    messages = feed.next()
    messages["info"].header.stamp = ns_to_time(0)
    before = feed.agent.drops().get("zero_stamp", 0)
    feed.admit(messages)
    assert feed.agent.drops()["zero_stamp"] == before + 1
    feed.serves_on()


@pytest.mark.parametrize("sec", [-1, -(2**31)])
def test_stamps_before_1970(feed: Feed, sec: int) -> None:
    """header.stamp.sec is signed.

    The synchroniser took a negative stamp for a time jump, again and again, until the recursion
    limit ended spin().
    """
    feed.admit()
    messages, version = feed.next(), feed.version
    before = feed.agent.drops().get("zero_stamp", 0)
    for message in messages.values():
        message.header.stamp.sec = sec
    feed.send(messages)
    assert wait_until(lambda: feed.agent.drops().get("zero_stamp", 0) == before + 4), (
        feed.agent.drops()
    )
    assert feed.version == version
    feed.serves_on()


def test_a_zero_stamped_pose_is_counted_and_forgets_no_other(feed: Feed) -> None:
    """One such pose made the node forget all poses, since its stamp looked like a time jump."""
    feed.admit()
    messages = feed.next()
    good_pose = messages.pop("pose")
    feed.send({**messages, "pose": good_pose, "rgb": None, "depth": None, "info": None})
    broken = frame_messages(0)["pose"]
    before = feed.agent.drops().get("zero_stamp", 0)
    feed.send({"pose": broken, "rgb": None, "depth": None, "info": None})
    assert wait_until(lambda: feed.agent.drops().get("zero_stamp", 0) == before + 1)
    feed.admit({**messages, "pose": None})
    feed.serves_on()


def test_a_stray_pose_of_another_frame_forgets_no_other(feed: Feed) -> None:
    """A second publisher on the topic, in another frame and with another clock."""
    messages = feed.next()
    good_pose, stray = messages.pop("pose"), frame_messages(SECOND)["pose"]
    stray.header.frame_id = "odom"
    monitor = feed.agent.node.inputs.monitors["pose"]
    before = monitor.wrong_frame
    for pose in (good_pose, stray):
        feed.send({"pose": pose, "rgb": None, "depth": None, "info": None})
    assert wait_until(lambda: monitor.wrong_frame == before + 1)
    feed.admit({**messages, "pose": None})


def test_a_colour_stamp_that_falls_back_alone(feed: Feed) -> None:
    """One input's glitch is not a time jump: the scene stays."""
    feed.admit()
    epoch = feed.version[0]
    messages = feed.next()
    shift_stamps(
        ("rgb",), -3600 * SECOND if messages["rgb"].header.stamp.sec > 3600 else -5 * SECOND
    )(messages)
    before = feed.agent.drops()
    feed.send(messages)
    feed.serves_on()
    after = feed.agent.drops()
    assert sum(after.get(r, 0) - before.get(r, 0) for r in ("backward_stamp", "late")) >= 1
    assert feed.version[0] == epoch


def test_a_late_frame(feed: Feed) -> None:
    """Stamps a little back, as from a driver that delivers out of order."""
    feed.admit()
    messages = feed.next()
    shift_stamps(IMAGES, -SECOND - 100_000_000)(messages)
    feed.refuse({**messages, "pose": None}, R.LATE)
    feed.serves_on()


def test_the_same_stamp_twice(feed: Feed) -> None:
    messages = feed.next()
    feed.admit(messages)
    feed.refuse({**messages, "pose": None}, R.LATE)
    feed.serves_on()


@pytest.mark.parametrize(
    ("name", "ahead_s"),
    [("rgb", 3600), ("depth", 0.6), ("info", 315_360_000), ("pose", 3600), ("pose", 0.6)],
)
def test_one_stamp_ahead_costs_only_its_own_frame(
    start_agent: Callable[..., Harness],
    capfd: pytest.CaptureFixture[str],
    name: str,
    ahead_s: float,
) -> None:
    """60 frames at 5 Hz, one message of the tenth stamped ahead: no keyframe was made after it."""
    feed = Feed(start_agent(**{"input.max_rate_hz": 60.0, "keyframe.max_views": 2}))
    agent, inputs = feed.agent, feed.agent.node.inputs
    versions = []
    for index in range(60):
        messages = frame_messages(100 * SECOND + index * SECOND // 5, x_m=0.5 * index)
        if index == 10:
            shift_stamps((name,), round(ahead_s * SECOND))(messages)
        feed.send(messages)
        assert wait_until(
            lambda n=index + 1: all(m.received == n for m in inputs.monitors.values())
        )
        versions.append(feed.version[1])
        if index == 13:  # three frames after the wrong message the scene grows again
            assert wait_until(lambda: feed.version[1] > versions[11]), agent.why_no_keyframe()

    # at most the sets around it are lost, and it is counted and named, once
    assert wait_until(lambda: inputs.sets >= 58), agent.drops()
    assert feed.version[0] == 0
    assert agent.drops()["future_stamp"] == 1
    log = NodeLog(capfd)
    assert log.said("ahead of the other"), log.text
    log = log.lines("ahead of the other")
    assert len(log) == 1, log
    assert inputs.monitors["camera_info" if name == "info" else name].topic in log[0]
    assert f"{ahead_s:.1f} s ahead" in log[0]
    answer = feed.ask()
    assert answer.success, answer.error_msg
    assert answer.keyframe_stamps[-1].sec >= 111

    # after a reset the synchroniser starts empty
    assert agent.call(Trigger, "reset_scene").success
    assert inputs.matcher.num_queued == [0, 0]
    feed.send(frame_messages(SECOND))
    assert wait_until(lambda: agent.node.pipeline.scene_state().num_keyframes == 1), agent.drops()
    assert feed.version[0] == 1


def test_poses_that_jump_ahead_with_the_images_are_followed(feed: Feed) -> None:
    """All inputs half an hour ahead: a real jump, as behind a pause."""
    feed.admit()
    epoch = feed.version[0]
    for _ in range(3):
        messages = feed.next()
        shift_stamps((*IMAGES, "pose"), 1800 * SECOND)(messages)
        feed.admit(messages)
    assert feed.version[0] == epoch
    assert feed.agent.drops().get("future_stamp", 0) == 0
    feed.send(feed.next())  # and back: a new scene
    assert wait_until(lambda: feed.version[0] == epoch + 1)
    assert wait_until(lambda: feed.agent.node.pipeline.scene_state().num_keyframes == 1)
    feed.serves_on()


# -- poses


@pytest.mark.parametrize("rate_hz", [20, 400])
def test_a_pause_of_the_poses_costs_only_its_own_frames(
    start_agent: Callable[..., Harness], rate_hz: int
) -> None:
    """Odometry pauses for 0.7 s while images come 0.7 s late.

    All poses after the pause were taken for stamped ahead, and at a high rate dropped for good.
    """
    feed = Feed(start_agent(**{"input.max_rate_hz": 60.0, "keyframe.max_views": 2}))
    inputs = feed.agent.node.inputs
    sent = admitted = 0
    for step in range(25):  # of 0.2 s
        for n in range(rate_hz // 5):
            t = step / 5 + n / rate_hz
            if not 2 <= t < 2.7:
                pose = frame_messages(100 * SECOND + round(t * SECOND), x_m=2.5 * t)["pose"]
                feed.send({"pose": pose, "rgb": None, "depth": None, "info": None})
                sent += 1
                if sent % 40 == 0:  # no more than the subscription's queue holds
                    assert wait_until(lambda n=sent: inputs.monitors["pose"].received == n)
        assert wait_until(lambda n=sent: inputs.monitors["pose"].received == n)
        image_s = step / 5 - 0.6
        if image_s > 0:
            before = feed.version
            messages = frame_messages(100 * SECOND + round(image_s * SECOND))
            feed.send({**messages, "pose": None})
            if not 1.9 < image_s < 2.8:
                assert wait_until(lambda v=before: feed.version != v), feed.agent.drops()
                admitted += 1
    assert admitted == 17
    assert "future_stamp" not in feed.agent.drops()


def test_no_pose(feed: Feed) -> None:
    started = time.monotonic()
    feed.refuse({**feed.next(), "pose": None}, R.NO_POSE)
    assert time.monotonic() - started > 0.15  # it was waited for (pose.timeout_sec)
    feed.serves_on()


def test_poses_that_lag_behind_are_waited_for(feed: Feed) -> None:
    """A busy machine has taken the image in, and its poses one after the other."""
    image, version = feed.next(), feed.version
    feed.send({**image, "pose": None})
    nothing = dict.fromkeys(("rgb", "depth", "info"))
    stamp_ns = image["pose"].header.stamp.sec * SECOND
    for behind in range(12, -1, -1):  # 0.6 s in all, three times pose.timeout_sec
        assert feed.version == version, behind
        time.sleep(0.05)
        pose = frame_messages(stamp_ns - behind * SECOND // 100, x_m=0.5 * stamp_ns / SECOND)
        feed.send({**pose, **nothing})
    assert wait_until(lambda: feed.version != version), feed.agent.drops()
    feed.serves_on()


def test_poses_too_far_apart_are_not_interpolated(feed: Feed) -> None:
    feed.admit()
    messages = feed.next()
    shift_stamps(("pose",), 400_000_000)(messages)  # 1.4 s after the pose before it
    feed.refuse(messages, R.NO_POSE)
    feed.serves_on()


def test_a_pose_in_another_world_frame(
    start_agent: Callable[..., Harness], capfd: pytest.CaptureFixture[str]
) -> None:
    feed = Feed(start_agent())  # of its own: one that warned before holds the next warning back
    feed.admit()
    messages = feed.next()
    messages["pose"].header.frame_id = "odom"
    monitor = feed.agent.node.inputs.monitors["pose"]
    before = monitor.wrong_frame
    feed.refuse(messages, R.NO_POSE)
    assert monitor.wrong_frame == before + 1
    log = NodeLog(capfd)
    assert log.said("'odom'", "Set world_frame"), log.text
    feed.serves_on()


NAN = float("nan")


@pytest.mark.parametrize(
    "quaternion",
    [
        (0.0, 0.0, 0.0, 0.0),
        (0.0, 0.0, 0.0, 2.0),
        (NAN, 0.0, 0.0, 1.0),
        (0.0, float("inf"), 0.0, 1.0),
    ],
    ids=["zero", "norm 2", "NaN", "inf"],
)
def test_a_quaternion_that_is_no_rotation(feed: Feed, quaternion: tuple[float, ...]) -> None:
    messages = feed.next()
    q = messages["pose"].pose.orientation
    q.x, q.y, q.z, q.w = quaternion
    feed.refuse(messages, R.BAD_POSE, R.NO_POSE)
    feed.serves_on()


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_a_position_that_is_not_finite(feed: Feed, value: float) -> None:
    messages = feed.next()
    messages["pose"].pose.position.y = value
    feed.refuse(messages, R.BAD_POSE, R.NO_POSE)
    feed.serves_on()


# -- cameras that change


def test_a_camera_info_that_changes_is_counted(feed: Feed) -> None:
    feed.admit()
    before = feed.agent.node.intake.camera_info_changes
    messages = feed.next()
    messages["info"].k = k_with(FOCAL_PX + 7)
    feed.admit(messages)
    assert wait_until(lambda: feed.agent.node.intake.camera_info_changes == before + 1)
    focal = [k.frame.intrinsics.fx for k in feed.agent.node.pipeline.scene.keyframes]
    assert focal == [FOCAL_PX, FOCAL_PX + 7]  # each keyframe keeps its own
    feed.serves_on()
    assert feed.agent.node.intake.camera_info_changes == before + 2


def test_another_resolution_is_taken_over(feed: Feed) -> None:
    feed.admit()
    messages = feed.next()
    replace_pixels("rgb", np.zeros((*HALF, 3), np.uint8), "rgb8")(messages)
    replace_pixels("depth", np.full(HALF, 2000, np.uint16), "16UC1")(messages)
    set_fields(
        "info", height=HALF[0], width=HALF[1], k=[70.0, 0.0, 40.0, 0.0, 70.0, 30.0, 0.0, 0.0, 1.0]
    )(messages)
    feed.admit(messages)
    assert feed.ask().success  # one question about views of two sizes
    feed.serves_on()


def test_publishers_that_restart(feed: Feed) -> None:
    """A camera is plugged in again: the subscriptions stay, the scene stays."""
    feed.admit()
    epoch = feed.version[0]
    for topic in TOPICS.values():
        feed.agent.peer.destroy_publisher(feed.agent.publishers.pop(topic))
    for name in IMAGES:
        feed.agent.publisher(TOPICS[name], type(frame_messages(1)[name]))
    feed.serves_on()
    assert feed.version[0] == epoch


# -- logs, load


def test_the_log_line_says_what_to_do_and_is_throttled(
    start_agent: Callable[..., Harness], capfd: pytest.CaptureFixture[str]
) -> None:
    feed = Feed(start_agent())
    for count in range(1, 6):
        messages = feed.next()
        messages["rgb"].encoding = "yuv422"
        feed.send(messages)
        assert wait_until(lambda n=count: feed.agent.drops().get("bad_encoding") == n), (
            feed.agent.drops()
        )
    log = NodeLog(capfd)
    assert log.said("yuv422"), log.text
    lines = log.lines("yuv422")
    assert len(lines) == 1, lines
    assert "rgb8" in lines[0]
    answer = feed.ask()
    assert answer.error_code == ErrorCode.NO_FRAMES
    assert "5 frames refused, colour image has encoding 'yuv422'" in answer.error_msg


def test_a_fast_camera_is_limited_before_decoding(
    start_agent: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    """90 Hz: images beyond input.max_rate_hz cost no decoding and no memory."""
    decoded = itertools.count()
    real = ada3d_ros.ros.intake.frame_of
    monkeypatch.setattr(
        ada3d_ros.ros.intake, "frame_of", lambda *args: (next(decoded), real(*args))[1]
    )
    feed = Feed(start_agent(**{"input.max_rate_hz": 5.0}))
    agent = feed.agent
    feed.admit()
    inputs, num_frames = agent.node.inputs, 135

    # frames at their time; what is kept of them meanwhile
    start = time.monotonic()
    largest = 0
    for index in range(num_frames):
        time.sleep(max(0.0, start + index / 90 - time.monotonic()))
        feed.send(frame_messages(10 * SECOND + index * SECOND // 90, x_m=0.01 * index))
        largest = max(largest, *inputs.matcher.num_queued, inputs.waiting_for_pose)
    assert wait_until(lambda: inputs.monitors["rgb"].received > num_frames - 10)
    time.sleep(0.3)

    # sets of all that came, decoded only as many as the rate allows
    drops, sets = agent.drops(), inputs.sets
    assert sets > num_frames * 0.7, drops  # the rest was lost before the node, if any
    assert 5 <= next(decoded) <= 1 + 1.5 * 5 + 2
    assert drops["rate_limit"] >= 0.85 * sets
    assert largest <= agent.node.config.sync.queue_size
    feed_late = feed.next()
    shift_stamps(("rgb", "depth", "info", "pose"), 100 * SECOND)(feed_late)
    feed.admit(feed_late)


def test_partners_that_never_come_take_no_memory(start_agent: Callable[..., Harness]) -> None:
    feed = Feed(start_agent(**{"sync.queue_size": 4}))
    agent = feed.agent
    feed.admit()
    for index in range(12):
        feed.send(feed.next() | {"depth": None})
        received = index + 2
        assert wait_until(lambda n=received: agent.node.inputs.monitors["rgb"].received == n)
    assert all(count <= 4 for count in agent.node.inputs.matcher.num_queued)
    assert agent.drops().get("no_depth", 0) == 12 - 4, agent.drops()
    feed.serves_on()


def test_poses_that_never_come_take_no_memory(start_agent: Callable[..., Harness]) -> None:
    feed = Feed(start_agent(**{"pose.timeout_sec": 0.1}))
    for index in range(10):
        feed.send(feed.next() | {"pose": None})
        assert wait_until(lambda n=index + 1: feed.agent.node.inputs.sets == n)
    assert wait_until(lambda: feed.agent.drops().get("no_pose", 0) == 10), feed.agent.drops()
    assert feed.agent.node.inputs.waiting_for_pose == 0
    feed.serves_on()


# -- the node's clock


@pytest.mark.parametrize("years", [-10, 10], ids=["back", "ahead"])
def test_stamps_years_off_are_stale_and_change_nothing(
    start_agent: Callable[..., Harness], capfd: pytest.CaptureFixture[str], years: int
) -> None:
    """One such frame on every input looked like a time jump, and the scene was thrown away."""
    feed = Feed(start_agent(**{"input.max_age_sec": 1.0, "input.max_rate_hz": 60.0}))
    positions = itertools.count()

    def now(shift_ns: int = 0) -> Messages:
        return frame_messages(time.time_ns() + shift_ns, x_m=0.5 * next(positions))

    # each time the next good frame is admitted to the same scene
    feed.admit(now())
    for _ in range(2):
        before, version = feed.agent.drops().get("stale", 0), feed.version
        feed.send(now(years * 365 * 86400 * SECOND) | {"pose": None})
        assert wait_until(lambda n=before: feed.agent.drops().get("stale", 0) == n + 1), (
            feed.agent.drops()
        )
        assert feed.version == version
        time.sleep(0.02)
        feed.admit(now())
    assert feed.ask().scene_epoch == 0
    log = NodeLog(capfd)
    assert log.said("use_sim_time"), log.text


def test_a_frame_of_before_a_reset_does_not_enter_the_new_scene(
    start_agent: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bag loop: the last frame of the old pass is still being decoded at the reset.

    It was admitted after the reset, and every frame of the new pass refused as older.
    """
    decoding, go_on = threading.Event(), threading.Event()
    real = ada3d_ros.ros.intake.frame_of

    def slow(*args: Any) -> Any:
        frame = real(*args)
        if frame.stamp_ns == 99 * SECOND:
            decoding.set()
            assert go_on.wait(10.0)
        return frame

    monkeypatch.setattr(ada3d_ros.ros.intake, "frame_of", slow)
    feed = Feed(start_agent())
    feed.admit(frame_messages(98 * SECOND))

    # the loop comes while a frame is being decoded
    feed.send(frame_messages(99 * SECOND, x_m=1.0))
    assert decoding.wait(10.0)
    feed.send(frame_messages(5 * SECOND, x_m=2.0))
    assert wait_until(lambda: feed.version[0] == 1)
    go_on.set()

    # the new scene holds frames of the new pass alone
    assert wait_until(lambda: feed.agent.node.pipeline.scene_state().num_keyframes == 1)
    feed.send(frame_messages(6 * SECOND, x_m=3.0))
    assert wait_until(lambda: feed.agent.node.pipeline.scene_state().num_keyframes == 2), (
        feed.agent.drops()
    )
    stamps = [k.frame.stamp_ns // SECOND for k in feed.agent.node.pipeline.scene.keyframes]
    assert stamps == [5, 6]


def test_a_subscription_is_not_renewed_after_the_node_was_deactivated(
    start_agent: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best-effort fallback runs a moment after its event; the inputs may be closed by then."""
    events: list[Callable[[Any], None]] = []  # what the middleware would call, the first is colour
    real = ada3d_ros.ros.subscription.SubscriptionEventCallbacks

    def note(incompatible_qos: Callable[[Any], None], **others: Any) -> Any:
        events.append(incompatible_qos)
        return real(incompatible_qos=incompatible_qos, **others)

    monkeypatch.setattr(ada3d_ros.ros.subscription, "SubscriptionEventCallbacks", note)
    agent = start_agent()
    assert agent.ready()
    assert wait_until(lambda: agent.node.count_subscribers("/rgb/image") == 1)

    # the event and the end of the inputs in one turn of the executor
    done = []

    def close_at_once() -> None:
        events[0](None)
        agent.node.trigger_deactivate()
        done.append(True)

    agent.node.executor.create_task(close_at_once)
    assert wait_until(lambda: bool(done))
    time.sleep(0.3)
    assert wait_until(lambda: agent.node.count_subscribers("/rgb/image") == 0, 3.0)


def test_an_error_while_handling_a_time_jump_stays_inside(
    start_agent: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails there comes out of a subscription callback, and spin() would end."""
    feed = Feed(start_agent())
    feed.admit(frame_messages(98 * SECOND))

    def planted() -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(feed.agent.node.pipeline, "reset_scene", planted)
    feed.send(frame_messages(5 * SECOND, x_m=1.0))
    assert wait_until(lambda: feed.agent.node.inference.internal_errors > 0)
    inputs = feed.agent.node.inputs.monitors.values()
    assert wait_until(lambda: all(monitor.received == 2 for monitor in inputs))
    time.sleep(0.1)  # the last of them is handled: a jump that it tells of must not be taken later
    monkeypatch.undo()
    feed.admit(frame_messages(100 * SECOND, x_m=2.0))
    assert feed.ask().success


def test_a_scene_of_an_earlier_activation_does_not_shut_the_new_one_out(
    start_agent: Callable[..., Harness],
) -> None:
    """Time fell back while the inputs were closed: nothing saw the jump.

    Every frame was refused as older.
    """
    feed = Feed(start_agent())
    feed.admit(frame_messages(98 * SECOND))
    feed.agent.node.trigger_deactivate()
    feed.agent.node.trigger_activate()
    for publisher in feed.agent.publishers.values():
        assert wait_until(lambda p=publisher: p.get_subscription_count() == 1)
    time.sleep(0.2)  # the other way round, too
    feed.send(frame_messages(5 * SECOND, x_m=5.0))
    assert wait_until(lambda: feed.version[0] == 1), feed.agent.drops()
    assert wait_until(lambda: feed.agent.node.pipeline.scene_state().num_keyframes == 1), (
        feed.agent.drops()
    )
    feed.admit(frame_messages(6 * SECOND, x_m=6.0))
    assert feed.ask().scene_epoch == 1


# -- odometry


def test_odometry_and_extrinsic_give_the_camera_pose(start_agent: Callable[..., Harness]) -> None:
    """World from camera = world from body x body from camera, in that order."""
    xyz, quat = [0.1, -0.05, 0.4], [-0.5, 0.5, -0.5, 0.5]
    parameters = {"pose_source": "odom", "extrinsic.xyz": xyz, "extrinsic.quat_xyzw": quat}
    agent = start_agent(**parameters)
    feed = Feed(agent)
    messages = frame_messages(SECOND)
    odom, body = Odometry(header=messages["pose"].header), (1.0, 2.0, 0.3)
    odom.child_frame_id = "base_link"
    turn = Rotation.from_euler("z", 70, degrees=True).as_quat()
    p, q = odom.pose.pose.position, odom.pose.pose.orientation
    p.x, p.y, p.z = body
    q.x, q.y, q.z, q.w = (float(value) for value in turn)
    feed.admit({**messages, "pose": odom})
    got = agent.node.pipeline.scene.keyframes[0].frame.T_world_cam
    expected = pose_from_quaternion(body, turn) @ pose_from_quaternion(xyz, quat)
    np.testing.assert_allclose(got, expected, atol=1e-9)
    forward = got[:3, 2]  # the optical axis points where the body looks: 70 degrees from x
    np.testing.assert_allclose(
        forward, [np.cos(np.deg2rad(70)), np.sin(np.deg2rad(70)), 0.0], atol=1e-9
    )
    assert feed.ask().success


# -- compressed transports


def coded(pixels: np.ndarray, codec: str) -> bytes:
    buffer = io.BytesIO()
    Picture.fromarray(pixels).save(buffer, codec)
    return buffer.getvalue()


COLOR = np.broadcast_to(
    np.linspace(0, 255, WIDTH).astype(np.uint8)[None, :, None], (HEIGHT, WIDTH, 3)
).copy()
JPEG, PNG = coded(COLOR, "JPEG"), coded(COLOR, "PNG")
DEPTH_PNG = coded(depth_of(2000, np.uint16), "PNG")
DEPTH_HEADER = struct.pack("<iff", 0, 0.0, 0.0)
QUANT_A, QUANT_B = 10.0, 0.5


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(header))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + DEPTH_PNG[33:]
    )


def compress(messages: Messages) -> None:
    for name, text, content in (
        ("rgb", "rgb8; jpeg compressed bgr8", JPEG),
        ("depth", "16UC1; compressedDepth png", DEPTH_HEADER + DEPTH_PNG),
    ):
        messages[name] = CompressedImage(header=messages[name].header, format=text, data=content)


@pytest.fixture(scope="module")
def compressed_feed(tiny_model: Any) -> Iterator[Feed]:
    transports = {"rgb_transport": "compressed", "depth_transport": "compressedDepth"}
    yield from start_feed(tiny_model, compress, **transports)


COMPRESSED_FAULTS: dict[str, tuple[Spoil, FrameReason]] = {
    "JPEG cut in half": (set_fields("rgb", data=JPEG[: len(JPEG) // 2]), R.CORRUPT),
    "JPEG without its end": (set_fields("rgb", data=JPEG[:-20]), R.CORRUPT),
    "JPEG header alone": (set_fields("rgb", data=JPEG[:4]), R.CORRUPT),
    "colour of nothing": (set_fields("rgb", data=b""), R.CORRUPT),
    "colour of noise": (set_fields("rgb", data=bytes(range(256)) * 8), R.CORRUPT),
    "PNG cut in half": (set_fields("rgb", data=PNG[: len(PNG) // 2]), R.CORRUPT),
    "PNG with a flipped byte": (
        set_fields("rgb", data=PNG[:60] + bytes([PNG[60] ^ 0xFF]) + PNG[61:]),
        R.CORRUPT,
    ),
    "colour of another size": (set_fields("rgb", data=coded(COLOR[::2, ::2], "JPEG")), R.BAD_SIZE),
    "depth on the colour topic": (
        set_fields("rgb", format="16UC1; compressedDepth png", data=DEPTH_HEADER + DEPTH_PNG),
        R.BAD_ENCODING,
    ),
    "depth of nothing": (set_fields("depth", data=b""), R.CORRUPT),
    "header cut short": (set_fields("depth", data=DEPTH_HEADER[:7]), R.CORRUPT),
    "header alone": (set_fields("depth", data=DEPTH_HEADER), R.CORRUPT),
    "RVL depth": (set_fields("depth", format="16UC1; compressedDepth rvl"), R.BAD_ENCODING),
    "depth PNG cut in half": (
        set_fields("depth", data=DEPTH_HEADER + DEPTH_PNG[: len(DEPTH_PNG) // 2]),
        R.CORRUPT,
    ),
    "8-bit depth": (set_fields("depth", data=DEPTH_HEADER + coded(GREY, "PNG")), R.BAD_ENCODING),
    "colour as depth": (set_fields("depth", data=DEPTH_HEADER + PNG), R.BAD_ENCODING),
    "JPEG as depth": (
        set_fields("depth", format="rgb8; jpeg compressed bgr8", data=JPEG),
        R.BAD_ENCODING,
    ),
    "depth without format": (set_fields("depth", format=""), R.BAD_ENCODING),
    "depth said to be huge": (
        set_fields("depth", data=DEPTH_HEADER + png_claiming(60_000, 60_000)),
        R.BAD_SIZE,
    ),
    "quantisation of NaN": (
        set_fields(
            "depth",
            format="32FC1; compressedDepth png",
            data=struct.pack("<iff", 0, NAN, NAN) + DEPTH_PNG,
        ),
        R.CORRUPT,
    ),
    "depth of zeros": (
        set_fields("depth", data=DEPTH_HEADER + coded(depth_of(0, np.uint16), "PNG")),
        R.LOW_VALID_DEPTH,
    ),
}


@pytest.mark.parametrize("name", COMPRESSED_FAULTS)
def test_a_faulty_compressed_frame(compressed_feed: Feed, name: str) -> None:
    spoil, reason = COMPRESSED_FAULTS[name]
    messages = compressed_feed.next()
    spoil(messages)
    compressed_feed.refuse(messages, reason)
    compressed_feed.serves_on()


COMPRESSED_GOOD: dict[str, Spoil] = {
    "depth without the header": set_fields("depth", data=DEPTH_PNG),
    "depth of the plain transport": set_fields(
        "depth", format="16UC1; png compressed ", data=DEPTH_PNG
    ),
    "PNG colour": set_fields("rgb", format="rgb8; png compressed bgr8", data=PNG),
    "plain jpeg": set_fields("rgb", format="jpeg"),
    "32FC1 depth": set_fields(
        "depth",
        format="32FC1; compressedDepth png",
        data=struct.pack("<iff", 0, QUANT_A, QUANT_B)
        + coded(depth_of(round(QUANT_A / 2.0 + QUANT_B), np.uint16), "PNG"),
    ),
    "depth without a codec's name": set_fields("depth", format="16UC1; compressedDepth"),
}


@pytest.mark.parametrize("name", COMPRESSED_GOOD)
def test_compressed_frames_that_are_good(compressed_feed: Feed, name: str) -> None:
    messages = compressed_feed.next()
    COMPRESSED_GOOD[name](messages)
    compressed_feed.admit(messages)
    depth_m = compressed_feed.agent.node.pipeline.scene.keyframes[-1].frame.depth_m
    assert np.nanmedian(depth_m) == pytest.approx(2.0, abs=0.25)


def test_an_odd_answer_reaches_every_topic(start_agent: Callable[..., Harness]) -> None:
    """A yaw of inf in the model's text became a box, and its message raised."""
    text = "It is at [0.2, 2.0, 1.0, 1.0, 0.4, 1.0, 1e999]."
    feed = Feed(start_agent(scripted(text), **{"generation.max_new_tokens": 128}))
    feed.admit()
    answer = feed.ask()
    assert (answer.success, answer.error_msg) == (True, "")
    assert answer.boxes == []
    assert answer.text == text
