"""`ada3d scene`: save, load and reset the scene of the node, for a terminal.

The node does not load this module. `ada3d scenes` looks at a store without a node.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from std_srvs.srv import Trigger

from ada3d_ros.ros.client import (
    EXIT_CODES,
    add_node_options,
    call_service,
    describe_failure,
    parse_with_ros_args,
    report,
)
from ada3d_ros.srv import LoadScene, SaveScene


def main(args: Sequence[str]) -> int:
    """`ada3d scene`."""
    parser = argparse.ArgumentParser(
        prog="ada3d scene",
        description="Save the scene that the node has in use, have it go on with a saved one, or"
        f" forget all its keyframes. {EXIT_CODES}",
        epilog="Example: ada3d scene save kitchen && ada3d scene load hall",
    )
    add = parser.add_argument
    add("verb", choices=("save", "load", "reset"), help="what to do")
    add("name", nargs="?", default="", help="of the scene; save: default the one it has")
    add_node_options(parser)
    options, ros_args = parse_with_ros_args(parser, args)
    if options.verb == "load" and not options.name:
        parser.error("load needs the name of a scene (`ada3d scenes list STORE` lists them)")
    if options.verb == "reset" and options.name:
        parser.error("reset takes no name: it forgets the scene in use")

    return report(options, _call(options, ros_args), partial(_described, options))


def _call(options: argparse.Namespace, ros_args: list[str]) -> Any | None:
    if options.verb == "save":
        request = SaveScene.Request(scene=options.name)
        return call_service(options, ros_args, SaveScene, "save_scene", request)
    if options.verb == "load":
        request = LoadScene.Request(scene=options.name)
        return call_service(options, ros_args, LoadScene, "load_scene", request)
    return call_service(options, ros_args, Trigger, "reset_scene", Trigger.Request())


def _described(options: argparse.Namespace, response: Any) -> str:
    if options.verb == "reset":
        return str(response.message)
    if not response.success:
        return describe_failure(response)
    counts = f"{response.keyframes} keyframes, {response.objects} objects"
    if options.verb == "save":
        return f"saved {response.scene!r}: {counts}, in {response.path}"
    return f"{options.name!r} is in use: {counts}{'. ' * bool(response.note)}{response.note}"
