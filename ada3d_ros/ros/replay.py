"""Plays a rosbag2 (mcap or sqlite3) into ROS: raw CDR bytes, no deserialising, with /clock.

Recorded stamps are years old, so /clock is published by default and nodes should run with
use_sim_time. A loop keeps stamps rising: each pass is shifted to after the one before, and the
clock runs on between them. Pauses of the recording of more than a minute are cut. On a ROS
distribution `ros2 bag play --clock` does the same without loops.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from std_srvs.srv import SetBool

from ada3d_ros.errors import SourceError
from ada3d_ros.ros.cdr_stamps import MAX_STAMP_NS, StampCodec, stamp_codec
from ada3d_ros.ros.client import parse_with_ros_args
from ada3d_ros.ros.conversions import ns_to_time
from ada3d_ros.ros.peer import use_large_image_transport
from ada3d_ros.ros.playback import Pace, StampClocks, Turn, Turns
from ada3d_ros.sources.bag_reader import BagReader
from ada3d_ros.sources.topics import topic_types

CLOCK_PERIOD_S = 0.025  # as `ros2 bag play --clock` does: every tick wakes every node
LOOP_GAP_NS = 1_000_000_000  # between the last stamp of a pass and the first of the next
PAUSE_LEFT_NS = 1_000_000_000  # of a pause that is cut: time for the messages on their way


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How a bag is played."""

    rate: float = 1.0  # 1 = as recorded
    loop: bool = False  # play until interrupted
    loop_jumps_back: bool = False
    restamp: bool = False  # stamps become now
    clock: bool = True  # publish /clock
    start_paused: bool = False
    wait_s: float = 10.0  # for a subscriber


def message_class(type_name: str) -> type | None:
    """The rclpy class of 'pkg/msg/Name', None where it cannot be imported."""
    package, _, name = type_name.partition("/msg/")
    try:
        found = getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError, TypeError, ValueError):  # the last two: not a name at all
        return None
    return found if isinstance(found, type) else None


class Player(Node):
    """A node `ada3d_replay` that publishes one bag. `~/set_paused` (SetBool) pauses and resumes.

    Raises SourceError where the bag is absent, unreadable or holds no type that can be imported;
    `play` raises it where the bag turns out to be damaged or empty. `say` gets what a person should
    know while it plays.
    """

    def __init__(
        self,
        bag: Path,
        options: ReplayOptions,
        say: Callable[[str], object] = print,
        **node_options: Any,
    ) -> None:
        self._reader = BagReader(bag)
        super().__init__("ada3d_replay", **node_options)
        self.options, self._say = options, say
        self.published = 0
        self._clock_ns = 0
        self._pace: Pace | None = None  # from the first message on
        self._clocks = StampClocks()
        self._resumed = threading.Event()
        if not options.start_paused:
            self._resumed.set()

        # A publisher for every topic whose type is installed here.
        self._out: dict[tuple[str, str], tuple[Publisher, StampCodec]] = {}
        self.skipped: dict[str, str] = {}
        types = topic_types((c.topic, c.msgtype) for c in self._reader.connections)
        for topic, type_name in types.items():
            self._advertise(topic, type_name)
        for connection in self._reader.connections:  # a topic of ROS has one type
            if connection.msgtype != types[connection.topic]:
                self._reader.notes.append(
                    f"{connection.topic}: {types[connection.topic]} is played, the"
                    f" {connection.msgtype} recorded on the same topic is not."
                )
        if not self._out:
            self.destroy_node()
            names = ", ".join(sorted(set(self.skipped.values()))) or "it has none"
            left_out = "".join(f" {note}." for note in self._reader.notes)
            raise SourceError(
                f"{bag}: none of its message types can be imported ({names}); source their"
                f" packages.{left_out}"
            )

        # Time of its own: with stamps of now, everybody's clock is right already.
        with_clock = options.clock and not options.restamp
        self._clock_publisher = self.create_publisher(Clock, "/clock", 10) if with_clock else None
        self.create_service(SetBool, "~/set_paused", self._on_set_paused)

    @property
    def notes(self) -> list[str]:
        """What of the bag is not played, in sentences."""
        return self._reader.notes

    def destroy_node(self) -> None:
        """Destroy the node and close the bag."""
        super().destroy_node()
        self._reader.close()

    def _advertise(self, topic: str, type_name: str) -> None:
        # A recorded clock would contradict ours, and fall back at every loop.
        cls = message_class(type_name)
        if cls is None or topic == "/clock":
            self.skipped[topic] = type_name
            return

        # Reliable serves both kinds of subscriber; static transforms stay for those who come late.
        static = topic.endswith("tf_static")
        qos = QoSProfile(
            depth=50,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if static else DurabilityPolicy.VOLATILE,
        )
        publisher = self.create_publisher(cls, topic, qos)
        self._out[topic, type_name] = publisher, stamp_codec(cls, type_name)

    @property
    def topics(self) -> list[str]:
        return sorted(topic for topic, _ in self._out) + (
            ["/clock"] if self._clock_publisher is not None else []
        )

    def _on_set_paused(self, request: Any, response: Any) -> Any:
        if request.data:
            self._resumed.clear()
        else:
            self._resumed.set()
        response.success, response.message = True, "paused." if request.data else "playing."
        return response

    def wait_for_subscribers(self) -> bool:
        """Wait at most options.wait_s for a subscriber of any topic; True if there is one."""
        end = time.monotonic() + self.options.wait_s
        while time.monotonic() < end:
            if any(publisher.get_subscription_count() for publisher, _ in self._out.values()):
                time.sleep(0.5)  # let the other topics match too
                return True
            time.sleep(0.05)
        return False

    def play(self) -> None:
        """Publish the bag once, or for ever with options.loop; ends when ROS shuts down."""
        # Each pass, later than the one before unless time may jump back.
        shift_ns = 0
        while rclpy.ok(context=self.context):
            length_ns = self._play_once(shift_ns)
            if self.published == 0 and rclpy.ok(context=self.context):
                raise SourceError("the bag holds no message of a type that can be imported.")
            if not self.options.loop:
                break
            if self.options.loop_jumps_back:
                self._clock_ns = 0
            else:
                shift_ns += length_ns + LOOP_GAP_NS
                self._wait_until(self._clock_ns + LOOP_GAP_NS)

        # The last messages are out when their readers have them.
        for publisher, _ in self._out.values():
            with suppress(Exception):
                publisher.wait_for_all_acked(Duration(seconds=2.0))

    def _play_once(self, shift_ns: int) -> int:
        """Play one pass, its times moved by `shift_ns`; returns how long it is in ns.

        Raises SourceError for a damaged bag, at the latest when messages miss at its end.
        """
        # Every message in its turn.
        connections = [c for c in self._reader.connections if (c.topic, c.msgtype) in self._out]
        turns = Turns(self._reader.messages(connections))
        self._pace = None
        seen = 0
        for turn in turns:
            seen += 1
            if turn.gap_ns:
                self._say(f"gap of {turn.gap_ns / 1e9:.0f} s after {turn.after}: skipped")
            if not self._wait_for(turn, shift_ns):
                return 0
            self._send(turn, shift_ns)
        expected = sum(connection.msgcount for connection in connections)
        if seen < expected:
            raise SourceError(f"the bag is damaged: {seen} of {expected} messages could be read.")

        # Bag times of two clocks: the next pass is not shifted by what lies between these.
        length_ns = turns.last_ns - (turns.first_ns or 0)
        if turns.last_ns + shift_ns + length_ns >= MAX_STAMP_NS:
            length_ns = turns.last_ns - turns.clock_first_ns
        return length_ns

    def _wait_for(self, turn: Turn, shift_ns: int) -> bool:
        """Wait until a message is to be sent; False when ROS shuts down."""
        if turn.apart:
            return self._wait_until(None)
        at_ns = turn.message[1] + shift_ns
        if self._pace is None:
            self._pace = Pace(at_ns, self.options.rate)
        if turn.pause_ns:
            self._wait_until(at_ns - turn.pause_ns + PAUSE_LEFT_NS)
            self._pace.skip(turn.pause_ns - PAUSE_LEFT_NS)
        return self._wait_until(at_ns)

    def _wait_until(self, at_ns: int | None) -> bool:
        """Sleep until it is time for `at_ns` (None: at once), and while paused, keeping /clock
        alive; False when ROS shuts down.
        """
        while rclpy.ok(context=self.context):
            pace = self._pace
            if not self._resumed.is_set():
                if pace is not None:
                    pace.hold()
                time.sleep(0.01)
                continue
            if pace is None or at_ns is None or (left_s := pace.seconds_until(at_ns)) <= 0:
                return True
            self._publish_clock(pace.now_ns())
            time.sleep(min(left_s, CLOCK_PERIOD_S))
        return False

    def _send(self, turn: Turn, shift_ns: int) -> None:
        """Publish a message; its stamps moved, with restamp to when they are played."""
        # By how much.
        connection, bag_ns, cdr = turn.message
        publisher, codec = self._out[connection.topic, connection.msgtype]
        move_ns = shift_ns
        if self.options.restamp and (stamp_ns := codec.first_ns(cdr)):
            played_ns = time.time_ns()
            if self._pace is not None and not turn.apart:
                stamped_ns = self._clocks.bag_time_of(stamp_ns, bag_ns)
                played_ns = self._pace.wall_ns(stamped_ns + shift_ns)
            move_ns = played_ns - stamp_ns

        # The clock first: nobody gets a message from the future.
        if not turn.apart:
            self._publish_clock(bag_ns + shift_ns)
        publisher.publish(codec.shift(cdr, move_ns) if move_ns else cdr)
        self.published += 1

    def _publish_clock(self, stamp_ns: int) -> None:
        self._clock_ns = max(stamp_ns, self._clock_ns)  # falls back with loop_jumps_back alone
        if self._clock_publisher is not None:
            self._clock_publisher.publish(Clock(clock=ns_to_time(self._clock_ns)))


def _positive(text: str) -> float:
    value = float(text)
    if not 0.01 <= value <= 100.0:
        raise argparse.ArgumentTypeError(f"{value:g} is out of range; allowed: 0.01 to 100")
    return value


def parse_args(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="ada3d replay",
        description="Play a rosbag2 (mcap or sqlite3) into ROS. ROS arguments (remaps) go behind"
        " --ros-args.",
    )
    add = parser.add_argument
    add("bag", type=Path, help="bag folder or file")
    add(
        "--rate",
        type=_positive,
        default=1.0,
        help="speed; 2 = twice as fast (0.01 to 100, default 1)",
    )
    add("--loop", action="store_true", help="play until interrupted; stamps keep rising")
    add(
        "--loop-jumps-back",
        action="store_true",
        help="with --loop: play the recorded stamps again, so that time jumps back",
    )
    add(
        "--start-paused",
        action="store_true",
        help="wait for `ros2 service call /ada3d_replay/set_paused std_srvs/srv/SetBool '{data:"
        " false}'`",
    )
    add(
        "--restamp",
        action="store_true",
        help="stamps become now; no /clock (nodes run without use_sim_time)",
    )
    add("--no-clock", action="store_true", help="do not publish /clock")
    add(
        "--wait-sec",
        type=float,
        default=10.0,
        help="wait this long for a subscriber before playing (default 10)",
    )
    return parse_with_ros_args(parser, args, has_paths=True)


def main(args: Sequence[str]) -> int:
    """`ada3d replay`. 0; with a sentence on stderr 2, or 1 where damage is found while playing."""
    options, ros_args = parse_args(args)
    replay = ReplayOptions(
        rate=options.rate,
        loop=options.loop,
        loop_jumps_back=options.loop_jumps_back,
        restamp=options.restamp,
        clock=not options.no_clock,
        start_paused=options.start_paused,
        wait_s=options.wait_sec,
    )
    use_large_image_transport()
    try:
        rclpy.init(args=ros_args)
        player = Player(options.bag, replay)
    except (SourceError, RuntimeError) as error:  # RuntimeError: rclpy's, for a bad ROS argument
        print(f"ada3d replay: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2

    # What will be played, and what not.
    print(f"playing {options.bag}: {', '.join(player.topics)}")
    for note in player.notes:
        print(note)
    for topic, type_name in player.skipped.items():
        cannot = f"{type_name} cannot be imported here"
        own_clock = "the player has a clock of its own"
        print(f"skipped {topic}: {own_clock if topic == '/clock' else cannot}")

    # Play here, serve ~/set_paused on a thread.
    executor = SingleThreadedExecutor()
    executor.add_node(player)
    spinner = threading.Thread(target=_spin, args=(executor,), daemon=True)
    spinner.start()
    try:
        if not player.wait_for_subscribers():
            print(f"nobody has subscribed within {options.wait_sec:g} s; playing anyway")
        player.play()
        print(f"{player.published} messages published")
    except SourceError as error:
        print(f"ada3d replay: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        print(f"stopped after {player.published} messages")
    finally:
        executor.shutdown(timeout_sec=1.0)
        spinner.join(2.0)
        player.destroy_node()
        rclpy.try_shutdown()
    return 0


def _spin(executor: SingleThreadedExecutor) -> None:
    with suppress(ExternalShutdownException, KeyboardInterrupt):
        executor.spin()
