"""`ada3d watch`: standing questions, and what happens to them, for a terminal.

The node does not load this module.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions

from ada3d_ros.asking.words import duration
from ada3d_ros.msg import AgentStatus, SceneEvent, StandingQuestion
from ada3d_ros.ros.client import (
    EXIT_CODES,
    add_node_options,
    call_service,
    describe_failure,
    parse_with_ros_args,
    report,
    to_plain,
)
from ada3d_ros.ros.conversions import time_to_ns
from ada3d_ros.srv import Unwatch, Watch

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
WAIT_S = 10.0
KINDS = {
    "ask": StandingQuestion.KIND_ASK,
    "ground": StandingQuestion.KIND_GROUND,
    "object": StandingQuestion.KIND_OBJECT,
}


def main(args: Sequence[str]) -> int:
    """`ada3d watch`."""
    parser = argparse.ArgumentParser(
        prog="ada3d watch",
        description="Have a question asked again whenever the scene has changed (a standing"
        f" question); list them, end them, or follow what changes. {EXIT_CODES}",
        epilog='Example: ada3d watch "Is the door open?" --every 30 && ada3d watch --follow',
    )
    add = parser.add_argument
    add("text", nargs="?", default="", help="a question, a phrase, or an object's id or label")
    add(
        "--kind",
        choices=sorted(KINDS),
        default="ask",
        help="of the text: a question, a phrase to find, an object kept with the scene",
    )
    add(
        "--every",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="not asked again sooner (default: the node's watch.min_period_sec)",
    )
    add("--list", action="store_true", help="the standing questions and their newest answers")
    add("--end", default="", metavar="ID", help="end one, or all of them with '*'")
    add("--follow", action="store_true", help="print what changes, until Ctrl-C")
    add_node_options(parser)
    options, ros_args = parse_with_ros_args(parser, args)
    if sum(map(bool, (options.text, options.list, options.end, options.follow))) != 1:
        parser.error("give a text, or one of --list, --end and --follow")
    if options.list:
        return _read(options, ros_args, AgentStatus, "status", LATCHED, _print_list)
    if options.follow:
        return _read(options, ros_args, SceneEvent, "events", QoSProfile(depth=20), _print_event)
    return _call(options, ros_args)


def _call(options: argparse.Namespace, ros_args: list[str]) -> int:
    """Begin or end one."""
    if options.end:
        ended = call_service(
            options, ros_args, Unwatch, "unwatch", Unwatch.Request(watch_id=options.end)
        )
        return report(options, ended, _described_end)
    request = Watch.Request(
        kind=KINDS[options.kind], question=options.text, min_period_sec=options.every
    )
    begun = call_service(options, ros_args, Watch, "watch", request)
    return report(options, begun, _described_begin)


def _described_end(response: Any) -> str:
    return f"ended: {response.ended}" if response.success else describe_failure(response)


def _described_begin(response: Any) -> str:
    if not response.success:
        return describe_failure(response)
    name = response.watch_id
    begun = (
        f"{name} begun: `ada3d watch --follow` prints news of it, `ada3d watch --end {name}` ends"
        " it"
    )
    return f"{begun}; {response.note}" if response.note else begun


def _read(
    options: argparse.Namespace,
    ros_args: list[str],
    message_type: type,
    topic: str,
    qos: QoSProfile,
    show: Callable[[Any, bool], bool],
) -> int:
    """Hand messages of the node's topic to `show` until it says that it is done."""
    rclpy.init(args=ros_args, signal_handler_options=SignalHandlerOptions.NO)
    node = Node("ada3d_watch")
    done: list[bool] = []

    def on_message(message: Any) -> None:
        if show(message, options.json):
            done.append(True)

    try:
        name = f"/{options.node.strip('/')}/{topic}"
        node.create_subscription(message_type, name, on_message, qos)
        if options.follow:
            print(f"news on {name}, until Ctrl-C:", file=sys.stderr)
        end = time.monotonic() + WAIT_S
        while not done:
            rclpy.spin_once(node, timeout_sec=0.2)
            if time.monotonic() > end and not node.count_publishers(name):
                print(f"no node publishes {name} (`ada3d doctor` says which are there)")
                return 2
        return 0
    except KeyboardInterrupt:
        return 0
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _print_list(status: Any, as_json: bool) -> bool:
    print(json.dumps(to_plain(status.watches), indent=1) if as_json else describe_list(status))
    return True


def _print_event(event: Any, as_json: bool) -> bool:
    print(json.dumps(to_plain(event)) if as_json else describe_event(event), flush=True)
    return False


def describe_list(status: Any) -> str:
    """The standing questions of an AgentStatus, a line each."""
    names = {number: name for name, number in KINDS.items()}
    now_ns = time_to_ns(status.header.stamp)
    lines = []
    for question in status.watches:
        kind = names.get(question.kind, str(question.kind))
        state = question.error_msg or question.last_text or "not asked yet"
        changed_ns = time_to_ns(question.last_changed)
        since = ""
        if 0 < changed_ns <= now_ns:  # else never, or the clock is behind it: a restart, a bag
            since = f" (for {duration((now_ns - changed_ns) / 1e9)})"
        lines.append(f"{question.watch_id}  {kind}  {question.question!r}: {state}{since}")
    return "\n".join(lines) or "no standing questions (`ada3d watch TEXT` begins one)"


def describe_event(event: Any) -> str:
    """A SceneEvent as one line."""
    return f"{event.watch_id}  {event.sentence}"
