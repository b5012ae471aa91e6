"""The player: stamps, /clock, loops, pausing, bags of both kinds, and bags that are none."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy")

import rclpy
from geometry_msgs.msg import PoseStamped, TransformStamped
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String
from std_srvs.srv import SetBool

from ada3d_ros.errors import SourceError
from ada3d_ros.ros import cdr_stamps
from ada3d_ros.ros.cdr_stamps import (
    first_transform_ns,
    header_stamp_ns,
    shift_header_stamp,
    starts_with_header,
)
from ada3d_ros.ros.conversions import ns_to_time
from ada3d_ros.ros.replay import LOOP_GAP_NS, Player, ReplayOptions, main, message_class
from test.support import bags
from test.support.ros_harness import Harness, Spinner, wait_until

SECOND = 1_000_000_000
START_NS = 1_600_000_000 * SECOND
STORE = get_typestore(Stores.ROS2_JAZZY)
STORE.register(get_types_from_msg("int32 number\n", "nosuch_msgs/msg/Thing"))
POSE, TEXT, CLOCK, THING = (
    "geometry_msgs/msg/PoseStamped",
    "std_msgs/msg/String",
    "rosgraph_msgs/msg/Clock",
    "nosuch_msgs/msg/Thing",
)


# -- stamps in CDR bytes


def pose_cdr(stamp_ns: int, frame_id: str = "map") -> bytes:
    message = PoseStamped()
    message.header.stamp, message.header.frame_id = ns_to_time(stamp_ns), frame_id
    message.pose.position.x = 1.5
    return bytes(serialize_message(message))


def big_endian(cdr: bytes) -> bytes:
    """The header part of a little-endian PoseStamped as a big-endian writer would send it."""
    sec, nanosec, length = struct.unpack_from("<iII", cdr, 4)
    return b"\x00\x00\x00\x00" + struct.pack(">iII", sec, nanosec, length) + cdr[16:]


def stamp_in(cdr: bytes) -> int:
    sec, nanosec = struct.unpack_from("<iI" if cdr[1] & 1 else ">iI", cdr, 4)
    return int(sec) * SECOND + int(nanosec)


@pytest.mark.parametrize(
    "encode", [lambda cdr: cdr, big_endian], ids=["little-endian", "big-endian"]
)
@pytest.mark.parametrize(
    "shift_ns", [0, 1, -1, 999_999_999, 5 * SECOND + 7, -3 * SECOND - 123, -90 * SECOND]
)
def test_shift_header_stamp(encode: Callable[[bytes], bytes], shift_ns: int) -> None:
    stamp_ns = START_NS + 700_000_000
    cdr = encode(pose_cdr(stamp_ns))
    moved = shift_header_stamp(cdr, shift_ns)
    assert header_stamp_ns(cdr) == stamp_ns
    assert stamp_in(moved) == stamp_ns + shift_ns
    assert (moved[:4], moved[12:]) == (cdr[:4], cdr[12:])  # nothing else
    if cdr[1] & 1:
        message = deserialize_message(moved, PoseStamped)
        assert (message.header.frame_id, message.pose.position.x) == ("map", 1.5)


def test_a_stamp_that_is_not_set_stays_so_and_none_falls_below_zero() -> None:
    assert shift_header_stamp(pose_cdr(0), 5 * SECOND) == pose_cdr(0)
    assert stamp_in(shift_header_stamp(pose_cdr(SECOND), -10 * SECOND)) == 0
    assert stamp_in(shift_header_stamp(pose_cdr(SECOND), 2**40 * SECOND)) == 2**31 * SECOND - 1


def test_transforms_are_moved_each_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """tf2_msgs is not everywhere: the same list, carried by hand."""
    message = SimpleNamespace(transforms=[TransformStamped() for _ in range(3)])
    for transform, seconds in zip(message.transforms, (0, 1, 7), strict=True):
        transform.header.stamp = ns_to_time(seconds * SECOND)
    monkeypatch.setattr(cdr_stamps, "deserialize_message", lambda cdr, cls: message)
    monkeypatch.setattr(cdr_stamps, "serialize_message", lambda shown: b"written")
    assert cdr_stamps.shift_transforms(object, b"", -5 * SECOND) == b"written"
    assert [t.header.stamp.sec for t in message.transforms] == [0, 0, 2]


def test_the_transforms_of_a_real_message_are_moved() -> None:
    """Where tf2_msgs is: the rest of the message stays."""
    kind = message_class("tf2_msgs/msg/TFMessage")
    if kind is None:
        pytest.skip("tf2_msgs is not importable: run `make setup`")
    message = kind(transforms=[TransformStamped(child_frame_id="cam") for _ in range(2)])
    message.transforms[1].header.stamp = ns_to_time(START_NS)
    message.transforms[1].transform.translation.x = 1.5
    codec = cdr_stamps.stamp_codec(kind, "tf2_msgs/msg/TFMessage")
    moved = deserialize_message(codec.shift(bytes(serialize_message(message)), SECOND), kind)
    message.transforms[1].header.stamp = ns_to_time(START_NS + SECOND)
    assert moved == message


def test_damaged_transforms_are_passed_on() -> None:
    damaged = b"\x00\x01\x00\x00\xff\xff\xff\x7f"
    assert cdr_stamps.shift_transforms(PoseStamped, damaged, SECOND) == damaged


@pytest.mark.parametrize("size", [0, 1, 4, 8, 11])
def test_bytes_too_short_for_a_stamp_are_passed_on(size: int) -> None:
    """A damaged message in a bag ended the whole playback with struct.error."""
    cdr = pose_cdr(START_NS)[:size]
    assert shift_header_stamp(cdr, SECOND) == cdr
    assert header_stamp_ns(cdr) == 0


def test_message_classes() -> None:
    assert message_class(POSE) is PoseStamped
    for name in (THING, "std_msgs/msg/NoSuch", "nonsense", "a/b", "std_msgs/msg/__doc__", ""):
        assert message_class(name) is None, name
    assert starts_with_header(PoseStamped)
    assert not starts_with_header(String)
    assert not starts_with_header(Clock)


# -- a small bag


def pose_message(stamp_ns: int) -> Any:
    return STORE.deserialize_cdr(pose_cdr(stamp_ns), POSE)


def clock_message(stamp_ns: int) -> Any:
    return STORE.deserialize_cdr(bytes(serialize_message(Clock(clock=ns_to_time(stamp_ns)))), CLOCK)


TEXT_CDR = bytes(STORE.serialize_cdr(STORE.types[TEXT](data="hello"), TEXT))
Recorded = tuple[str, str, int, Any]  # topic, type, log time, message or bytes


def record(
    path: Path, messages: Sequence[Recorded], storage: StoragePlugin = StoragePlugin.MCAP
) -> Path:
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections = {}
        for topic, kind, log_ns, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            content = message if isinstance(message, bytes) else STORE.serialize_cdr(message, kind)
            writer.write(connections[topic], log_ns, content)
    return path


def small_bag(
    path: Path,
    count: int = 8,
    period_ns: int = 50_000_000,
    storage: StoragePlugin = StoragePlugin.MCAP,
) -> Path:
    """Poses on two topics with the same stamps, a text, a type that does not import.

    The second topic's poses are logged 40 ms later.
    """
    messages: list[Recorded] = []
    for index in range(count):
        stamp_ns = START_NS + index * period_ns
        messages += [
            ("/pose", POSE, stamp_ns, pose_message(stamp_ns)),
            ("/late_pose", POSE, stamp_ns + 40_000_000, pose_message(stamp_ns)),
        ]
    messages.append(("/text", TEXT, START_NS + 1, STORE.types[TEXT](data="hello")))
    messages.append(("/thing", THING, START_NS + 2, STORE.types[THING](number=3)))
    return record(path, sorted(messages, key=lambda m: m[2]), storage)


@dataclass
class Received:
    """What a subscriber got, in order of arrival."""

    poses: list[int]
    late_poses: list[int]
    clocks: list[int]
    texts: list[str]
    order: list[tuple[str, int]]


class Playback:
    """A player in a context of its own, its play() on a thread, and a node that listens."""

    def __init__(self, listener: Node, domain: int, bag: Path, **options: Any) -> None:
        self.heard = Received([], [], [], [], [])
        for topic, store in (("/pose", self.heard.poses), ("/late_pose", self.heard.late_poses)):
            listener.create_subscription(
                PoseStamped, topic, lambda m, s=store, t=topic: self._hear_pose(m, s, t), 200
            )
        listener.create_subscription(Clock, "/clock", self._hear_clock, 1000)
        listener.create_subscription(
            String, "/text", lambda m: self.heard.texts.append(m.data), 200
        )
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        say = options.pop("say", print)
        self.player = Player(bag, ReplayOptions(**options), say, context=self.context)
        self._spinner = Spinner(self.context)
        self._spinner.executor.add_node(self.player)
        self._spinner.start()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._play, daemon=True)

    def _hear_pose(self, message: Any, store: list[int], topic: str) -> None:
        stamp_ns = message.header.stamp.sec * SECOND + message.header.stamp.nanosec
        store.append(stamp_ns)
        self.heard.order.append((topic, stamp_ns))

    def _hear_clock(self, message: Any) -> None:
        self.heard.clocks.append(message.clock.sec * SECOND + message.clock.nanosec)
        self.heard.order.append(("/clock", self.heard.clocks[-1]))

    def _play(self) -> None:
        try:
            self.player.play()
        except BaseException as error:
            self.error = error

    def start(self) -> None:
        topics = [topic for topic in self.player.topics if topic != "/clock"]
        out = [p for p in self.player.publishers if p.topic_name in topics]
        assert len(out) == len(topics)
        assert wait_until(lambda: all(p.get_subscription_count() for p in out))
        self._thread.start()

    def finish(self, timeout_s: float = 10.0) -> Received:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "play() did not end"
        assert self.error is None, repr(self.error)
        return self.heard

    def close(self) -> None:
        rclpy.try_shutdown(context=self.context)
        if self._thread.ident is not None:
            self._thread.join(5.0)
            assert not self._thread.is_alive(), "play() goes on after ROS was shut down"
        self._spinner.stop()
        self.player.destroy_node()


@pytest.fixture
def replay(ros_context: Any, domain_id: int) -> Iterator[Callable[..., Playback]]:
    listener, spinner, started = (
        Node("listener", context=ros_context),
        Spinner(ros_context),
        list[Playback](),
    )
    spinner.executor.add_node(listener)
    spinner.start()

    def start(bag: Path, **options: Any) -> Playback:
        started.append(Playback(listener, domain_id, bag, **options))
        started[-1].start()
        return started[-1]

    yield start
    for playback in started:
        playback.close()
    spinner.stop()
    listener.destroy_node()


def rising(values: Sequence[int]) -> bool:
    return all(a < b for a, b in itertools.pairwise(values))


def never_falling(values: Sequence[int]) -> bool:
    return all(a <= b for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("storage", list(StoragePlugin), ids=lambda s: s.name.lower())
def test_a_bag_once(
    replay: Callable[..., Playback], tmp_path: Path, storage: StoragePlugin
) -> None:
    """Everything arrives with its own stamp; /clock never falls, and comes before what it dates."""
    playback = replay(small_bag(tmp_path / "bag", storage=storage))
    assert playback.player.wait_for_subscribers()
    assert playback.player.skipped == {"/thing": THING}  # listed, not fatal
    assert playback.player.topics == ["/late_pose", "/pose", "/text", "/clock"]
    heard = playback.finish()
    stamps = [START_NS + i * 50_000_000 for i in range(8)]
    assert wait_until(lambda: heard.poses == heard.late_poses == stamps), heard
    assert wait_until(lambda: heard.texts == ["hello"])
    assert playback.player.published == 17
    assert wait_until(lambda: bool(heard.clocks) and heard.clocks[-1] == stamps[-1] + 40_000_000)
    assert never_falling(heard.clocks)
    assert heard.clocks[0] == START_NS
    assert len(set(heard.clocks)) > 17  # also between the messages


def test_the_clock_does_not_fall_within_a_pass(
    replay: Callable[..., Playback], tmp_path: Path
) -> None:
    """As when a sleep took too long: the next message is dated before what was published last."""
    playback = replay(small_bag(tmp_path / "bag"), start_paused=True)
    for stamp_ns in (10, 30, 20, 40):
        playback.player._publish_clock(stamp_ns)
    assert wait_until(lambda: playback.heard.clocks == [10, 30, 30, 40]), playback.heard.clocks


def test_the_rate(replay: Callable[..., Playback], tmp_path: Path) -> None:
    bag = small_bag(tmp_path / "bag", count=21)  # 1.04 s
    for rate in (1.0, 4.0):
        playback = replay(bag, rate=rate)
        started = time.monotonic()
        assert wait_until(lambda p=playback: p.player.published == 43)
        elapsed = time.monotonic() - started
        assert 1.0 / rate <= elapsed < 1.04 / rate + 0.3, elapsed


def test_a_loop_keeps_stamps_rising(replay: Callable[..., Playback], tmp_path: Path) -> None:
    playback = replay(small_bag(tmp_path / "bag"), loop=True, rate=4.0)
    heard = playback.heard
    assert wait_until(lambda: len(heard.poses) >= 20)
    playback.close()
    assert rising(heard.poses)
    assert rising(heard.late_poses)
    assert never_falling(heard.clocks)
    passes = [heard.poses[i : i + 8] for i in (0, 8)]
    period_ns = passes[1][0] - passes[0][0]
    later_by = [b - a for a, b in zip(*passes, strict=True)]
    assert later_by == [period_ns] * 8
    duration_ns = 7 * 50_000_000 + 40_000_000
    assert duration_ns + LOOP_GAP_NS <= period_ns <= duration_ns + LOOP_GAP_NS + 10

    # the clock runs on between the passes: in one step it would make the last frame too old
    seam = [c for c in heard.clocks if START_NS + duration_ns < c < passes[1][0]]
    assert seam


def test_a_loop_costs_no_frame_and_no_warning(
    replay: Callable[..., Playback],
    start_agent: Callable[..., Harness],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A node on simulated time took the last frame of every pass for too old."""
    agent = start_agent(use_sim_time=True, **{"input.max_age_sec": 1.0, "input.max_rate_hz": 60.0})
    assert agent.ready()
    # at half speed a busy machine may be two seconds late
    replay(bags.record(tmp_path / "bag", bags.rows(4)), loop=True, rate=0.5)
    assert wait_until(lambda: agent.node.inputs.sets >= 14, 60.0), agent.drops()
    assert "stale" not in agent.drops()
    assert "differ from the node's clock" not in capfd.readouterr().err
    assert agent.node.pipeline.scene_state().epoch == 0


# -- times that do not belong together


def poses_at(times: Sequence[int], stamps: Sequence[int] = ()) -> list[Recorded]:
    """A pose for each bag time; its stamp is the same unless given."""
    return [
        ("/pose", POSE, bag_ns, pose_message(stamp_ns))
        for bag_ns, stamp_ns in zip(times, stamps or times, strict=True)
    ]


def every_50_ms(count: int, start_ns: int = START_NS) -> list[int]:
    return [start_ns + index * 50_000_000 for index in range(count)]


@pytest.mark.parametrize("storage", list(StoragePlugin), ids=lambda s: s.name.lower())
@pytest.mark.parametrize("loop", [False, True])
def test_messages_recorded_at_time_zero(
    replay: Callable[..., Playback], tmp_path: Path, storage: StoragePlugin, loop: bool
) -> None:
    """The player waited for 53 years behind them."""
    stamps = every_50_ms(30)
    messages: list[Recorded] = [
        ("/text", TEXT, number, STORE.types[TEXT](data=f"{number}")) for number in range(3)
    ]
    messages += poses_at([0, *stamps[1:]], stamps)
    said: list[str] = []
    bag = record(tmp_path / "bag", sorted(messages, key=lambda m: m[2]), storage)
    playback = replay(bag, loop=loop, say=said.append)
    heard = playback.heard
    assert wait_until(lambda: len(heard.poses) >= (45 if loop else 30))
    assert heard.poses[:30] == stamps
    assert heard.texts[:3] == ["0", "1", "2"]
    assert min(heard.clocks) == stamps[1]
    assert never_falling(heard.clocks)
    assert max(heard.clocks) < START_NS + 60 * SECOND
    assert said[0] == f"gap of {stamps[1] / SECOND:.0f} s after /text: skipped"


def test_a_message_of_another_time_in_the_middle(
    replay: Callable[..., Playback], tmp_path: Path
) -> None:
    """A file without an index keeps the order of recording."""
    times = every_50_ms(20)
    rows = [
        ("/pose", bag_ns, pose_cdr(stamp_ns)) for bag_ns, stamp_ns in zip(times, times, strict=True)
    ]
    rows[10] = ("/pose", 0, rows[10][2])
    rows[15] = ("/pose", 2 * START_NS, rows[15][2])
    said: list[str] = []
    types = {"/pose": POSE}
    path = bags.write_mcap(tmp_path / "bag.mcap", rows, types=types)
    heard = replay(path, say=said.append).finish()
    assert wait_until(lambda: heard.poses == times)
    assert never_falling(heard.clocks)
    assert (heard.clocks[0], heard.clocks[-1]) == (times[0], times[-1])
    assert len(said) == 2


@pytest.mark.parametrize("restamp", [False, True])
def test_a_long_pause_of_the_recording_is_cut(
    replay: Callable[..., Playback], tmp_path: Path, restamp: bool
) -> None:
    """Stamps and clock keep it; nobody waits for it."""
    first = every_50_ms(20)
    stamps = first + every_50_ms(20, first[-1] + 600 * SECOND)
    said: list[str] = []
    playback = replay(
        record(tmp_path / "bag", poses_at(stamps)), say=said.append, restamp=restamp, rate=2.0
    )
    heard = playback.finish()
    assert wait_until(lambda: len(heard.poses) == 40)
    assert said == ["gap of 600 s after /pose: skipped"]
    if restamp:
        assert abs(heard.poses[-1] - time.time_ns()) < 5 * SECOND
        assert rising(heard.poses)
    else:
        assert heard.poses == stamps
        assert heard.clocks[-1] == stamps[-1]


@pytest.mark.parametrize(
    "first_stamp_ns", [SECOND, START_NS - 3600 * SECOND, 2 * START_NS // 3 * 2]
)
def test_restamp_with_stamps_on_a_clock_of_their_own(
    replay: Callable[..., Playback], tmp_path: Path, first_stamp_ns: int
) -> None:
    """Bag time is wall time, stamps are of a simulation: they became stamps of the year 1973."""
    times = every_50_ms(10)
    stamps = every_50_ms(10, first_stamp_ns)
    messages = [
        *poses_at(times, stamps),
        *(
            ("/late_pose", POSE, bag_ns + 40_000_000, pose_message(stamp_ns))
            for bag_ns, stamp_ns in zip(times, stamps, strict=True)
        ),
    ]
    bag = record(tmp_path / "bag", sorted(messages, key=lambda m: m[2]))
    before = time.time_ns()
    heard = replay(bag, restamp=True).finish()
    after = time.time_ns()
    assert wait_until(lambda: len(heard.poses) == len(heard.late_poses) == 10)
    assert heard.poses == heard.late_poses
    assert before - SECOND // 2 < heard.poses[0]
    assert heard.poses[-1] < after + SECOND // 2
    assert [b - a for a, b in itertools.pairwise(heard.poses)] == pytest.approx(
        [50_000_000] * 9, abs=10
    )


def test_restamp_with_one_stamp_that_is_wrong(
    replay: Callable[..., Playback], tmp_path: Path
) -> None:
    times = every_50_ms(10)
    stamps = [*times]
    stamps[4] += 3600 * SECOND
    stamps[0] = SECOND
    before = time.time_ns()
    heard = replay(record(tmp_path / "bag", poses_at(times, stamps)), restamp=True).finish()
    after = time.time_ns()
    assert wait_until(lambda: len(heard.poses) == 10)
    assert all(before - SECOND // 2 < stamp < after + SECOND // 2 for stamp in heard.poses)
    assert rising(heard.poses)


def test_transforms_are_restamped_like_headers() -> None:
    """Their stamps lie inside a list: the first of them tells the clock."""
    header = struct.pack("<iI", 7, 5)
    assert first_transform_ns(b"\x00\x01\x00\x00" + struct.pack("<I", 2) + header) == 7 * SECOND + 5
    assert first_transform_ns(b"\x00\x01\x00\x00" + bytes(4) + header) == 0
    assert first_transform_ns(b"\x00\x01") == 0


def test_two_types_on_one_topic(replay: Callable[..., Playback], tmp_path: Path) -> None:
    """A topic of ROS has one: the second ended in an error of the middleware."""
    texts = [("/text", bag_ns, TEXT_CDR) for bag_ns in every_50_ms(3)]
    other = ("/text", CLOCK, "ros2msg", "cdr", b"builtin_interfaces/Time clock\n")
    path = bags.write_mcap(tmp_path / "bag.mcap", texts, [other], types={"/text": TEXT})
    playback = replay(path)
    heard = playback.finish()
    assert wait_until(lambda: heard.texts == ["hello"] * 3)
    (note,) = playback.player.notes
    assert note == f"/text: {TEXT} is played, the {CLOCK} recorded on the same topic is not."


def test_what_is_left_out_of_a_bag_is_printed_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], domain_id: int
) -> None:
    log = ("/log", "made.Log", "jsonschema", "json", b"{}")
    folder = tmp_path / "bag"
    folder.mkdir()
    bags.write_mcap(folder / "bag_0.mcap", bags.rows(2), [log])
    assert main([str(folder), "--wait-sec", "0"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("/log (json): not ROS 2, left out") == 1
    assert printed.count("metadata.yaml is not used (there is none): read from bag_0.mcap.") == 1
    assert "8 messages published" in printed


def test_a_bag_that_was_cut_off_names_the_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], domain_id: int
) -> None:
    bag = small_bag(tmp_path / "bag")
    truncate(storage_file(bag))
    assert main([str(bag), "--wait-sec", "0"]) == 2
    assert f"`mcap recover {storage_file(bag)} -o mended.mcap`" in capsys.readouterr().err


def test_a_loop_that_jumps_back(replay: Callable[..., Playback], tmp_path: Path) -> None:
    playback = replay(small_bag(tmp_path / "bag"), loop=True, loop_jumps_back=True, rate=4.0)
    heard = playback.heard
    assert wait_until(lambda: len(heard.poses) >= 20)
    playback.close()
    assert heard.poses[8:16] == heard.poses[:8]
    falls = sum(a > b for a, b in zip(heard.clocks, heard.clocks[1:], strict=False))
    assert falls == (len(heard.poses) - 1) // 8


@pytest.mark.parametrize("rate", [1.0, 4.0])
def test_restamped_messages_are_of_now(
    replay: Callable[..., Playback], tmp_path: Path, rate: float
) -> None:
    """And what had one stamp keeps one, though logged 40 ms apart: as colour and depth have."""
    before = time.time_ns()
    playback = replay(small_bag(tmp_path / "bag"), restamp=True, rate=rate)
    heard = playback.finish()
    after = time.time_ns()
    assert wait_until(lambda: len(heard.poses) == len(heard.late_poses) == 8)
    assert heard.poses == heard.late_poses
    assert before - 10**8 <= heard.poses[0]
    assert heard.poses[-1] <= after + 10**8
    gaps_ns = [b - a for a, b in zip(heard.poses, heard.poses[1:], strict=False)]
    assert gaps_ns == pytest.approx([50_000_000 / rate] * 7, abs=10)
    assert heard.clocks == []
    assert "/clock" not in playback.player.topics


def test_restamp_after_a_pause(replay: Callable[..., Playback], tmp_path: Path) -> None:
    """The stamps stayed those of the moment before the pause, so that every frame was stale."""
    playback = replay(small_bag(tmp_path / "bag"), restamp=True, start_paused=True)
    time.sleep(0.8)
    (set_paused,) = (s for s in playback.player.services if s.srv_name.endswith("/set_paused"))
    set_paused.callback(SetBool.Request(data=False), SetBool.Response())
    resumed_ns = time.time_ns()
    heard = playback.finish()
    assert wait_until(lambda: len(heard.poses) == 8)
    assert abs(heard.poses[0] - resumed_ns) < 3 * 10**8
    assert rising(heard.poses)


def test_start_paused_and_resume_by_service(
    replay: Callable[..., Playback], tmp_path: Path, ros_context: Any
) -> None:
    playback = replay(small_bag(tmp_path / "bag"), start_paused=True)
    heard = playback.heard
    caller = Node("caller", context=ros_context)
    spinner = Spinner(ros_context)
    spinner.executor.add_node(caller)
    spinner.start()

    def set_paused(paused: bool) -> str:
        future = client.call_async(SetBool.Request(data=paused))
        assert wait_until(future.done)
        assert future.result().success
        return str(future.result().message)

    try:
        client = caller.create_client(SetBool, "/ada3d_replay/set_paused")
        assert client.wait_for_service(5.0)
        time.sleep(0.3)
        assert (heard.poses, playback.player.published) == ([], 0)
        assert set_paused(False) == "playing."
        assert wait_until(lambda: len(heard.poses) >= 3)
        assert set_paused(True) == "paused."
        time.sleep(0.1)
        held = playback.player.published
        time.sleep(0.3)
        assert playback.player.published == held < 17
        assert set_paused(False) == "playing."
        playback.finish()
        assert wait_until(lambda: len(heard.poses) == 8)
        assert never_falling(heard.clocks)
        resumed_gaps = [b - a for a, b in zip(heard.clocks, heard.clocks[1:], strict=False)]
        assert max(resumed_gaps) < 200_000_000  # the pause is not made up for
    finally:
        spinner.stop()
        caller.destroy_node()


def test_no_clock(replay: Callable[..., Playback], tmp_path: Path) -> None:
    heard = replay(small_bag(tmp_path / "bag"), clock=False).finish()
    assert wait_until(lambda: len(heard.poses) == 8)
    assert heard.clocks == []


@pytest.mark.parametrize(
    "options", [{}, {"clock": False}, {"restamp": True}], ids=["clock", "no clock", "restamp"]
)
def test_a_recorded_clock_is_not_played(
    replay: Callable[..., Playback], tmp_path: Path, options: dict[str, Any]
) -> None:
    """Two clocks would contradict each other, and the recorded one falls back at every loop."""
    messages: list[Recorded] = []
    for index in range(8):
        now = START_NS + index * 50_000_000
        messages += [
            ("/pose", POSE, now, pose_message(now)),
            ("/clock", CLOCK, now, clock_message(5 * SECOND + index)),
        ]
    playback = replay(record(tmp_path / "bag", messages), loop=True, rate=4.0, **options)
    heard = playback.heard
    assert wait_until(lambda: len(heard.poses) >= 20)
    playback.close()
    assert never_falling(heard.clocks)
    assert bool(heard.clocks) == (not options)
    assert "/clock" in playback.player.skipped


def test_a_damaged_message_does_not_end_a_loop(
    replay: Callable[..., Playback], tmp_path: Path
) -> None:
    messages: list[Recorded] = [
        ("/pose", POSE, START_NS, pose_message(START_NS)),
        ("/pose", POSE, START_NS + 10**7, b"\x00\x01\x00\x00\x05"),
        ("/pose", POSE, START_NS + 2 * 10**7, pose_message(START_NS + 2 * 10**7)),
    ]
    playback = replay(record(tmp_path / "bag", messages), loop=True)
    assert wait_until(lambda: len(playback.heard.poses) >= 6), playback.error
    playback.close()
    assert rising(playback.heard.poses)


def test_sqlite_bags_of_older_distributions(
    replay: Callable[..., Playback], tmp_path: Path
) -> None:
    """Foxy to Humble wrote no message definitions; the player needs none."""
    bag = tmp_path / "bag"
    bag.mkdir()
    connection = sqlite3.connect(bag / "bag_0.db3")
    connection.execute(
        "CREATE TABLE topics(id INTEGER PRIMARY KEY, name, type, serialization_format,"
        " offered_qos_profiles)"
    )
    connection.execute("CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id, timestamp, data)")
    connection.execute("INSERT INTO topics VALUES (1, '/pose', ?, 'cdr', '')", (POSE,))
    stamps = [START_NS + index * 50_000_000 for index in range(5)]
    rows = [(1, stamp_ns, pose_cdr(stamp_ns)) for stamp_ns in stamps]
    connection.executemany("INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", rows)
    connection.commit()
    connection.close()
    topic = {
        "name": "/pose",
        "type": POSE,
        "serialization_format": "cdr",
        "offered_qos_profiles": "",
    }
    information = {
        "version": 5,
        "storage_identifier": "sqlite3",
        "duration": {"nanoseconds": stamps[-1] - stamps[0]},
        "starting_time": {"nanoseconds_since_epoch": stamps[0]},
        "message_count": 5,
        "topics_with_message_count": [{"topic_metadata": topic, "message_count": 5}],
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": ["bag_0.db3"],
        "files": [],
    }
    (bag / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": information}))
    heard = replay(bag).finish()
    assert wait_until(lambda: heard.poses == stamps)


# -- what is no bag


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def storage_file(bag: Path) -> Path:
    return next(p for p in bag.iterdir() if p.suffix in (".mcap", ".db3"))


BROKEN: dict[str, Callable[[Path], Path | None]] = {
    "nothing there": shutil.rmtree,
    "an empty folder": lambda bag: shutil.rmtree(bag) or bag.mkdir(),
    "no storage file": lambda bag: storage_file(bag).unlink(),
    "a storage file cut in half": lambda bag: truncate(storage_file(bag)),
    "an empty storage file": lambda bag: storage_file(bag).write_bytes(b"") and None,
    "a storage file of noise": lambda bag: storage_file(bag).write_bytes(os.urandom(5000)) and None,
    "a text file": lambda bag: Path(shutil.copy(__file__, bag.parent / "bag.txt")),
    "a text file called mcap": lambda bag: Path(shutil.copy(__file__, bag.parent / "bag.mcap")),
    "a text file called db3": lambda bag: Path(shutil.copy(__file__, bag.parent / "bag.db3")),
    "a ROS 1 bag": lambda bag: (
        (bag.parent / "old.bag").write_bytes(b"#ROSBAG V2.0\n") and bag.parent / "old.bag"
    ),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("storage", list(StoragePlugin), ids=lambda s: s.name.lower())
def test_a_bag_that_is_none_ends_with_a_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    domain_id: int,
    storage: StoragePlugin,
    name: str,
) -> None:
    bag = small_bag(tmp_path / "bag", storage=storage)
    path = BROKEN[name](bag) or bag
    assert main([str(path), "--wait-sec", "0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ada3d replay: ")
    assert str(tmp_path) in error
    assert len(error.splitlines()) <= 3
    assert not rclpy.ok()


def test_damage_found_while_playing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    domain_id: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The index is whole, a chunk of messages is not: what is before it is played."""
    real = Reader.messages

    def messages(self: Reader, *args: Any, **kwargs: Any) -> Iterator[Any]:
        yield from itertools.islice(real(self, *args, **kwargs), 5)
        raise struct.error("unpack requires\na buffer of 8 bytes")

    monkeypatch.setattr(Reader, "messages", messages)
    assert main([str(small_bag(tmp_path / "bag")), "--wait-sec", "0"]) == 1
    assert "is damaged after 5 messages: unpack requires a buffer" in capsys.readouterr().err
    assert not rclpy.ok()


def test_messages_missing_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], domain_id: int
) -> None:
    """A database whose last rows were lost: what is there is played, then a sentence."""
    bag = small_bag(tmp_path / "bag", storage=StoragePlugin.SQLITE3)
    connection = sqlite3.connect(storage_file(bag))
    connection.execute("DELETE FROM messages WHERE id > 10")
    connection.commit()
    connection.close()
    assert main([str(bag), "--wait-sec", "0"]) == 1
    assert "9 of 17 messages could be read" in capsys.readouterr().err
    assert not rclpy.ok()


def test_a_bag_without_messages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], domain_id: int
) -> None:
    """--loop would spin on it for ever."""
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection("/pose", POSE, typestore=STORE)
    assert main([str(tmp_path / "bag"), "--loop", "--wait-sec", "0"]) == 1
    assert "no message" in capsys.readouterr().err


def test_a_bag_of_unknown_types_alone(tmp_path: Path, domain_id: int) -> None:
    bag = record(tmp_path / "bag", [("/thing", THING, START_NS, STORE.types[THING](number=1))])
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain_id)
    with pytest.raises(SourceError, match="nosuch_msgs/msg/Thing"):
        Player(bag, ReplayOptions(), context=context)
    rclpy.try_shutdown(context=context)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rate", "0"],
        ["--rate", "-1"],
        ["--rate", "nan"],
        ["--rate", "fast"],
        ["--lopp"],
        ["extra"],
    ],
)
def test_wrong_options_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """A misspelled option was handed on to ROS, which said nothing."""
    with pytest.raises(SystemExit) as caught:
        main([str(small_bag(tmp_path / "bag")), *arguments])
    assert caught.value.code == 2
    assert arguments[-1] in capsys.readouterr().err


COMMAND = [sys.executable, "-m", "ada3d_ros", "replay"]


def test_the_command(tmp_path: Path, domain_id: int) -> None:
    """Skipped types are listed once; --ros-args are for ROS; Ctrl-C ends a loop with 130."""
    bag = small_bag(tmp_path / "bag")
    arguments = [
        str(bag),
        "--loop",
        "--rate",
        "2",
        "--wait-sec",
        "0.1",
        "--ros-args",
        "-r",
        "/pose:=/robot/pose",
    ]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain_id), "PYTHONUNBUFFERED": "1"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, *arguments], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    text = lambda: (tmp_path / "log").read_text()  # noqa: E731
    try:
        assert wait_until(lambda: "nobody has subscribed" in text(), 20.0), text()
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        assert process.wait(30.0) == 130, text()
    finally:
        if process.poll() is None:
            process.kill()
    assert "Traceback" not in text()
    assert text().count("/thing") == 1
    assert "skipped /thing: nosuch_msgs/msg/Thing cannot be imported here" in text()
    assert "messages" in text().splitlines()[-1]
