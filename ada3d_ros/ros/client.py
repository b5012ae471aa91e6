"""`ada3d ask` and `ada3d ground`: call the node's services and print what a person wants to know.

The node does not load this module.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from ada3d_ros.config import SETTINGS
from ada3d_ros.errors import ErrorCode
from ada3d_ros.ros.conversions import LATENCY_STAGES
from ada3d_ros.ros.discovery import DEFAULT_NODE, WAIT_S, find_agents, name_others
from ada3d_ros.srv import GroundObject, QueryScene

MARGIN_S = 10.0  # beyond the request's own timeout
GONE_S = 2.0  # without the service in the graph: it went away
POLL_S = 0.2  # between two looks at the graph
CACHE_MODES = {  # Answer.cache_mode: how the cached scene was pruned
    "build": ", pruned while it was built",
    "question": ", pruned for this question",
    "none": ", not pruned",
}
EXIT_CODES = "Exit code: 0 answered, 1 the node gave an error, 2 no node."
RANDOM_WEIGHTS = (
    "NOTE: this model has random weights, it was never trained: the answer is meaningless."
)


def parse_with_ros_args(
    parser: argparse.ArgumentParser, args: Sequence[str], has_paths: bool = False
) -> tuple[argparse.Namespace, list[str]]:
    """Our options, and from --ros-args on what belongs to rclpy.

    A mistyped option is an error, not a ROS argument that nobody reads; so is what no message
    carries, as bytes that are no UTF-8; has_paths: files may be named so.
    """
    ours = list(args)
    for word in [] if has_paths else ours:
        try:
            word.encode()
        except UnicodeEncodeError:
            parser.error(f"{word[:60]!a} is no UTF-8 text: nodes take no other")
    split = ours.index("--ros-args") if "--ros-args" in ours else len(ours)
    return parser.parse_args(ours[:split]), ours[split:]


def to_plain(message: Any) -> Any:
    """A message as dicts, lists and numbers, ready for JSON; NaN becomes None."""
    if hasattr(message, "get_fields_and_field_types"):
        fields = message.get_fields_and_field_types()
        return {name: to_plain(getattr(message, name)) for name in fields}
    if isinstance(message, (bytes, str, bool, int)):
        return message
    if isinstance(message, float):
        return message if math.isfinite(message) else None
    return [to_plain(item) for item in message]


def describe_tokens(tokens: Any) -> str:
    """A TokenUsage message in words."""
    spatial = cost = ""
    if tokens.spatial_total:
        spatial = f" ({tokens.spatial_kept} of {tokens.spatial_total} spatial kept"
        if tokens.strategy != "none":
            spatial += " in the last layer"
            if not math.isnan(tokens.keep_ratio_achieved):
                spatial += f", keep ratio {tokens.keep_ratio_achieved:.2f}"
        spatial += f", {tokens.strategy})"
    if tokens.kv_bytes:
        held, full = tokens.held_kv_bytes / 2**20, tokens.unpruned_kv_bytes / 2**20
        cost = f"; prefill {tokens.prefill_flops / 1e9:.3g} GFLOP"
        cost += f" ({describe_savings(tokens)}), KV {held:.3g} of {full:.3g} MiB held"
    return f"{tokens.prompt} in{spatial}, {tokens.generated} out{cost}"


def describe_savings(tokens: Any) -> str:
    """What caching and pruning saved of a question's prefill, apart."""
    full, unpruned = tokens.full_prefill_flops, tokens.unpruned_prefill_flops
    cached = 1 - unpruned / full
    pruned = 1 - tokens.prefill_flops / unpruned
    return f"caching saved {cached:.0%} of {full / 1e9:.3g}, pruning {pruned:.0%} of the rest"


def describe_box(index: int, box: Any, frame_id: str) -> str:
    """A GroundedBox message as one line."""
    c, s, q = box.center.position, box.size, box.center.orientation
    yaw_deg = math.degrees(2 * math.atan2(q.z, q.w))
    score = "" if math.isnan(box.score) else f", score {box.score:.2f}"
    score += ", of the detector" if box.method == box.METHOD_DETECTOR else ""
    score += ", chosen among the detector's" if box.method == box.METHOD_PROPOSAL else ""
    return (
        f"box {index} {box.label!r}: centre ({c.x:.3f}, {c.y:.3f}, {c.z:.3f}) m, size"
        f" ({s.x:.3f}, {s.y:.3f}, {s.z:.3f}) m, yaw {yaw_deg:.1f} deg in"
        f" {frame_id!r}, {box.support_points} depth points{score}"
    )


def describe_places(places: Sequence[Any]) -> str:
    """What the model pointed at before it spoke, as one line."""
    told = []
    for number, place in enumerate(places, start=1):
        c, s = place.center.position, place.size
        size = f"size ({s.x:.2f}, {s.y:.2f}, {s.z:.2f})"
        told.append(f"{number}. [{c.x:.3f}, {c.y:.3f}, {c.z:.3f}] {size}")
    return f"pointed at: {'; '.join(told)} m"


def describe_measurement(measurement: Any, frame_id: str) -> list[str]:
    """A Measurement message as lines: values with their uncertainty, boxes, assumptions."""
    lines, unit = [], f" {measurement.unit}".rstrip()
    values = [f"{value:.6g}" if not unit else f"{value:.3f}" for value in measurement.values]
    if values:
        line = f"measured: {', '.join(values)}{unit}"
        if any(measurement.uncertainty):
            form = ".3f" if unit else ".6g"
            widths = ", ".join(f"{width:{form}}" for width in measurement.uncertainty)
            line += f" +- {widths}{unit} (in 90 % of cases)"
        lines.append(line)
    elif measurement.word:
        lines.append(f"measured: {measurement.word}")
    lines += [describe_box(i, box, frame_id) for i, box in enumerate(measurement.boxes)]
    return lines + [f"assumed: {sentence}" for sentence in measurement.assumptions]


def describe_failure(answer: Any) -> str:
    """Error code and sentence of an answer or response that is no success."""
    return f"{ErrorCode(answer.error_code).name} ({answer.error_code}): {answer.error_msg}"


def describe_answer(answer: Any) -> str:
    """An Answer message as text for a terminal: answer, evidence, tokens, latency."""
    # The answer, or what went wrong and how far it came.
    lines = [RANDOM_WEIGHTS] if "(random weights)" in answer.model else []
    if answer.success:
        lines.append(answer.text or "(no text)")
    else:
        lines.append(describe_failure(answer))
        if answer.text:
            lines.append(f"text so far: {answer.text}")

    # What it rests on.
    frame_id = answer.header.frame_id
    is_measured = answer.method == answer.METHOD_MEASURED
    if answer.places:
        lines.append(describe_places(answer.places))
    if is_measured:
        lines += describe_measurement(answer.measurement, frame_id)
    if not answer.measurement.boxes:  # else they are those
        lines += [describe_box(index, box, frame_id) for index, box in enumerate(answer.boxes)]

    # What it cost; a request that was refused cost nothing.
    if answer.tokens.prompt:
        line = f"tokens: {describe_tokens(answer.tokens)}; {len(answer.keyframe_stamps)} keyframes"
        if math.isnan(answer.scene_age_s):  # use_sim_time, and nothing on /clock
            line += ", newest image of unknown age (the node has no clock)"
        else:
            line += f", newest image {answer.scene_age_s:.1f} s old"
        if answer.scene_cached:
            stale = answer.scene_staleness
            line += ", cached scene" + ("" if math.isnan(stale) else f" ({stale:.0%} stale)")
            line += CACHE_MODES.get(answer.cache_mode, "")
        elif answer.cold_reason:
            line += f", scene not cached: {answer.cold_reason}"
        lines.append(line)
    if answer.tokens.prompt or is_measured:
        times = [(stage, getattr(answer.latency, f"{stage}_ms")) for stage in LATENCY_STAGES]
        measured = [f"{stage} {ms:.1f}" for stage, ms in times if not math.isnan(ms)]
        lines.append("latency ms: " + ", ".join(measured))
    return "\n".join(lines)


def add_node_options(parser: argparse.ArgumentParser) -> None:
    """The options of every verb that calls the node."""
    add = parser.add_argument
    add("--node", default=DEFAULT_NODE, help="full name of the agent node (default %(default)s)")
    add("--timeout", type=float, default=0.0, help="seconds for the answer (default: the node's)")
    add("--json", action="store_true", help="print the whole answer as JSON")


def _parser(verb: str, what: str, example: str) -> argparse.ArgumentParser:
    """The options that both verbs have."""
    parser = argparse.ArgumentParser(
        prog=f"ada3d {verb}",
        description=f"{what} {EXIT_CODES}",
        epilog=f'Example: ada3d {verb} "{example}"',
    )
    parser.add_argument("text", help=f"for example {example!r}")
    parser.add_argument("--scene", default="", help="of the store (default: the one in use)")
    add_node_options(parser)
    add = parser.add_argument
    add(
        "--keep-ratio",
        type=float,
        default=0.0,
        help="share of spatial tokens kept, mean over layers (default: the node's)",
    )
    add(
        "--deadline-ms",
        type=float,
        default=0.0,
        help="milliseconds the answer should take at most (default: none)",
    )
    return parser


def call_service(
    options: argparse.Namespace, ros_args: Sequence[str], service: type, name: str, request: Any
) -> Any | None:
    """The response of the node's service; None, and a sentence on stderr, without one."""
    # Ctrl-C is a KeyboardInterrupt here, as in every other program.
    rclpy.init(args=list(ros_args), signal_handler_options=SignalHandlerOptions.SIGTERM)
    node = Node("ada3d_client")
    try:
        # Find the service.
        client = node.create_client(service, f"{options.node.rstrip('/')}/{name}")
        if not client.wait_for_service(timeout_sec=WAIT_S):
            others = name_others(options.node, find_agents(node))
            cure = others or "start the node with `ada3d agent`, or name it with --node"
            print(
                f"no service {client.service_name} within {WAIT_S:.0f} s: {cure};"
                " `ada3d doctor` shows what is alive.",
                file=sys.stderr,
            )
            return None

        # Ask; the node keeps to the time itself, the margin is for one that hangs.
        limit_s = (options.timeout or SETTINGS["generation.timeout_sec"].high or 0.0) + MARGIN_S
        server = _Server(node, client, options.node)
        future = client.call_async(request)
        end = time.monotonic() + limit_s
        while not future.done() and time.monotonic() < end and not server.gone():
            rclpy.spin_until_future_complete(node, future, timeout_sec=POLL_S)
        if future.done():
            return future.result()

        # Without an answer: is it still there?
        what = f"no answer within {limit_s:.0f} s"
        if server.gone():
            what = f"{options.node}: the node went away while it worked"
        print(f"{what}; `ada3d doctor` shows what is alive.", file=sys.stderr)
        return None
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


class _Server:
    """Whether the node that was asked is still there, also where another takes its name.

    Known by the publishers of its ~/status, as far as they were discovered when it was asked; one
    that was killed is listed until its lease of 20 s runs out.
    """

    def __init__(self, node: Node, client: Any, name: str) -> None:
        self._node, self._client, self._topic = node, client, f"{name.rstrip('/')}/status"
        self._known = self._publishers()
        self._seen = time.monotonic()

    def _publishers(self) -> set[bytes]:
        infos = self._node.get_publishers_info_by_topic(self._topic)
        return {bytes(info.endpoint_gid) for info in infos}

    def gone(self) -> bool:
        """Whether it has not been seen for GONE_S seconds."""
        there = self._publishers()
        self._known = self._known or there
        if self._client.service_is_ready() and (not self._known or self._known & there):
            self._seen = time.monotonic()
        return time.monotonic() > self._seen + GONE_S


def report(
    options: argparse.Namespace, response: Any | None, describe: Callable[[Any], str]
) -> int:
    """Print what the node said, as JSON or in words, and return the exit code (EXIT_CODES)."""
    if response is None:
        return 2
    print(json.dumps(to_plain(response), indent=1) if options.json else describe(response))
    return 0 if response.success else 1


def ask_main(args: Sequence[str]) -> int:
    """`ada3d ask`."""
    parser = _parser("ask", "Ask the agent a question about the place.", "What is on the table?")
    parser.add_argument(
        "--latest-image", action="store_true", help="ask about the newest image alone, in 2D"
    )
    parser.add_argument("--max-new-tokens", type=int, default=0, help="(default: the node's)")
    options, ros_args = parse_with_ros_args(parser, args)

    # Zero in a request stands for the node's own setting.
    scopes = QueryScene.Request.SCOPE_SCENE, QueryScene.Request.SCOPE_LATEST_IMAGE
    request = QueryScene.Request(
        question=options.text,
        scene=options.scene,
        scope=scopes[options.latest_image],
        timeout_sec=options.timeout,
        deadline_ms=options.deadline_ms,
        keep_ratio=options.keep_ratio,
        max_new_tokens=options.max_new_tokens,
    )
    response = call_service(options, ros_args, QueryScene, "query", request)
    return report(options, response and response.answer, describe_answer)


def ground_main(args: Sequence[str]) -> int:
    """`ada3d ground`."""
    parser = _parser(
        "ground", "Find an object by a phrase; prints boxes in the world frame.", "the red chair"
    )
    parser.add_argument("--max-boxes", type=int, default=0, help="(default: the node's)")
    parser.add_argument("--min-score", type=float, default=0.0, help="0 to 1 (default: the node's)")
    options, ros_args = parse_with_ros_args(parser, args)

    request = GroundObject.Request(
        phrase=options.text,
        scene=options.scene,
        max_boxes=options.max_boxes,
        min_score=options.min_score,
        timeout_sec=options.timeout,
        deadline_ms=options.deadline_ms,
        keep_ratio=options.keep_ratio,
    )
    response = call_service(options, ros_args, GroundObject, "ground", request)
    return report(options, response and response.answer, describe_answer)
