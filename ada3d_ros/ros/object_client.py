"""`ada3d objects` and `ada3d measure`: what the node keeps, and what it measures, for a terminal.

The node does not load this module.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from geometry_msgs.msg import Point

from ada3d_ros.measures import NUMBER, RADIUS_M, MeasureKind
from ada3d_ros.ros.client import (
    EXIT_CODES,
    add_node_options,
    call_service,
    describe_failure,
    describe_measurement,
    parse_with_ros_args,
    report,
)
from ada3d_ros.ros.conversions import time_to_ns
from ada3d_ros.srv import GetObjects, Measure

# The fields of a request that the things on the command line fill, by kind and number of things.
ORDERS: dict[MeasureKind, tuple[tuple[str, ...], ...]] = {
    MeasureKind.DISTANCE: (("a", "b"),),
    MeasureKind.SIZE: (("a",),),
    MeasureKind.HEIGHT: (("a",),),
    MeasureKind.NEAREST: (("b",),),
    MeasureKind.WITHIN: (("b",),),
    MeasureKind.COUNT: ((), ("name",), ("name", "b")),
    MeasureKind.DIRECTION: (("a", "b"), ("a", "b", "c")),
    MeasureKind.ON: (("b",), ("a", "b")),
    MeasureKind.UNDER: (("b",), ("a", "b")),
    MeasureKind.BETWEEN: (("b", "c"), ("a", "b", "c")),
    MeasureKind.FREE_FLOOR: (("b",),),
    MeasureKind.EXISTS: (("name",),),
    MeasureKind.LARGEST: ((), ("name",)),
    MeasureKind.TALLEST: ((), ("name",)),
    MeasureKind.WHERE: (("a",),),
}
KINDS = {kind.name.lower().replace("_", "-"): kind for kind in ORDERS}
HEAD = ("id", "label", "centre (m)", "size (m)", "score", "seen (s ago)", "")


def objects_main(args: Sequence[str]) -> int:
    """`ada3d objects`."""
    parser = argparse.ArgumentParser(
        prog="ada3d objects",
        description="List the objects that the node keeps with the scene; how long ago each was"
        f" seen counts from the newest image. {EXIT_CODES}",
        epilog="Example: ada3d objects --label chair --near 1.0 0.5 0.0 --radius 2",
    )
    add = parser.add_argument
    add("--label", default="", help="only of this name, for example 'red chair' (default: all)")
    add(
        "--near",
        nargs=3,
        type=float,
        metavar=("X", "Y", "Z"),
        help="only around this place, metres in the world frame",
    )
    add(
        "--radius",
        type=float,
        default=1.0,
        help=f"of --near, {RADIUS_M[0]:g} to {RADIUS_M[1]:g} m (default %(default)s)",
    )
    add("--gone", action="store_true", help="also those that are gone")
    add_node_options(parser)
    options, ros_args = parse_with_ros_args(parser, args)

    request = GetObjects.Request(
        label=options.label, radius_m=options.radius, include_gone=options.gone
    )
    if options.near:
        request.near, request.place = True, Point(**dict(zip("xyz", options.near, strict=True)))
    response = call_service(options, ros_args, GetObjects, "get_objects", request)
    return report(options, response, describe_list)


def describe_list(response: Any) -> str:
    """A GetObjects response as a table."""
    if not response.success:
        return describe_failure(response)
    result = response.result
    newest_ns = time_to_ns(result.header.stamp)
    rows = [HEAD]
    for item in result.objects:
        at, size = item.box.center.position, item.box.size
        rows.append(
            (
                item.id,
                item.label,
                f"[{at.x:.2f}, {at.y:.2f}, {at.z:.2f}]",
                f"({size.x:.2f}, {size.y:.2f}, {size.z:.2f})",
                f"{item.box.score:.2f}",
                f"{(newest_ns - time_to_ns(item.last_seen)) / 1e9:.1f}",
                "gone" if item.gone else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    state = "" if result.complete else "; the scene is still being looked at"
    count = f"{len(result.objects)} object{'' if len(result.objects) == 1 else 's'}"
    if not result.header.frame_id:  # no keyframe yet
        return "no objects: no keyframe yet (`ada3d doctor` says why)"
    return "\n".join([f"{count} in {result.header.frame_id!r}{state}", *lines[: len(rows)]])


def measure_main(args: Sequence[str]) -> int:
    """`ada3d measure`."""
    parser = argparse.ArgumentParser(
        prog="ada3d measure",
        description="Measure something in the scene. Each thing is a phrase, a place"
        f" '[x, y, z]' in metres, or 'robot'; for count, exists, largest and tallest a name."
        f" {EXIT_CODES}",
        epilog='Example: ada3d measure distance "the red chair" "the table"',
    )
    add = parser.add_argument
    add("kind", choices=sorted(KINDS), help="what is measured")
    add("things", nargs="*", metavar="thing", help="what it is measured of, for example 'the sofa'")
    add("--name", default="", help="of what is looked for around a thing (default: everything)")
    add("--k", type=int, default=1, help="how many of the nearest (default %(default)s)")
    add(
        "--radius",
        type=float,
        default=0.0,
        help=f"of within and count, {RADIUS_M[0]:g} to {RADIUS_M[1]:g} m",
    )
    add("--centers", action="store_true", help="distance between centres, not surfaces")
    add_node_options(parser)
    options, ros_args = parse_with_ros_args(parser, args)

    # The things of a kind, by their number.
    kind = KINDS[options.kind]
    orders = {len(order): order for order in ORDERS[kind]}
    if len(options.things) not in orders:
        allowed = " or ".join(map(str, sorted(orders)))
        parser.error(f"{options.kind} takes {allowed} things, not {len(options.things)}")
    fields = {"name": options.name}
    fields |= dict(zip(orders[len(options.things)], options.things, strict=True))
    if not NUMBER[0] <= options.k <= NUMBER[1]:
        parser.error(f"--k {options.k}: allowed {NUMBER[0]} to {NUMBER[1]}")

    request = Measure.Request(
        kind=int(kind),
        k=options.k,
        radius_m=options.radius,
        centers=options.centers,
        timeout_sec=options.timeout,
        **fields,
    )
    response = call_service(options, ros_args, Measure, "measure", request)
    return report(options, response, describe_measured)


def describe_measured(response: Any) -> str:
    """A Measure response as text for a terminal."""
    if not response.success:
        return describe_failure(response)
    measurement = response.measurement
    lines = describe_measurement(measurement, response.header.frame_id)
    return "\n".join([measurement.sentence, *lines])
