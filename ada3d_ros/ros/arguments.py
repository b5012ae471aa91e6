"""Command lines with ROS arguments behind --ros-args."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def parse_with_ros_args(
    parser: argparse.ArgumentParser, args: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
    """Our options, and what belongs to rclpy. A mistyped option is an error, not a ROS argument
    that nobody reads.
    """
    ours = list(args)
    split = ours.index("--ros-args") if "--ros-args" in ours else len(ours)
    return parser.parse_args(ours[:split]), ours[split:]
