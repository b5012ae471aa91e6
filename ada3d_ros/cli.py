"""The `ada3d` command: one verb, one function elsewhere. Each is imported only when its verb is
used.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from ada3d_ros import __version__

# verb -> (module, function, needs ROS, one line)
VERBS: dict[str, tuple[str, str, bool, str]] = {
    "agent": (
        "ada3d_ros.ros.agent",
        "main",
        True,
        "run the node (ROS arguments behind --ros-args)",
    ),
    "ask": ("ada3d_ros.ros.client", "ask_main", True, "ask the node a question"),
    "ground": (
        "ada3d_ros.ros.client",
        "ground_main",
        True,
        "find an object by a phrase, as 3D boxes",
    ),
    "replay": ("ada3d_ros.ros.replay", "main", True, "play a rosbag2 into ROS, with /clock"),
    "doctor": (
        "ada3d_ros.ros.doctor",
        "main",
        False,
        "what is installed, what is alive, what is missing, and the cure",
    ),
    "demo": (
        "ada3d_ros.lab.demo",
        "main",
        True,
        "the whole path on a generated room: bag, node, questions, report",
    ),
    "make-bag": (
        "ada3d_ros.sources.make_bag",
        "main",
        False,
        "turn a posed RGB-D folder into a rosbag2",
    ),
    "random-model": (
        "ada3d_ros.model.random_checkpoint",
        "main",
        False,
        "write a small checkpoint with random weights, for trying things out",
    ),
    "parity": (
        "ada3d_ros.lab.parity.parity",
        "main",
        False,
        "compare with recorded arrays of the reference codes",
    ),
    "analyze": (
        "ada3d_ros.lab.analysis.analyze",
        "main",
        False,
        "figures: information, attention, answers, survivors",
    ),
    "calibrate": (
        "ada3d_ros.lab.analysis.calibrate",
        "main",
        False,
        "measure a model's information curve and fit AdaToken-3D's schedule",
    ),
    "bench": (
        "ada3d_ros.lab.benchmarks.bench",
        "main",
        False,
        "measure strategies against the unpruned model and their FLOPs",
    ),
    "eval": (
        "ada3d_ros.lab.evaluation.synthetic",
        "main",
        False,
        "measure a model's answers and boxes on generated rooms",
    ),
    "train": (
        "ada3d_ros.lab.train.run",
        "main",
        False,
        "train the embedded model from nothing, resumable",
    ),
    "bench-node": (
        "ada3d_ros.lab.benchmarks.node",
        "main",
        True,
        "measure the node: CPU per frame, drops, service latency",
    ),
}


def usage() -> str:
    """The text of `ada3d --help`."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {entry[3]}" for verb, entry in VERBS.items())
    return (
        f"ada3d {__version__}: ask a robot about the place it is in.\n\nusage: ada3d <verb>"
        f" [options]\n\n{verbs}\n\n`ada3d <verb> --help` tells more."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code; 2 for an unknown verb or a missing ROS."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] == "--version":
        print(__version__)
        return 0
    verb, rest = args[0], args[1:]
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, 1)
        print(
            f"ada3d: unknown verb {verb!r}"
            + (f"; did you mean {near[0]!r}?" if near else "")
            + "\n\n"
            + usage(),
            file=sys.stderr,
        )
        return 2
    module, function, needs_ros, _ = VERBS[verb]
    if needs_ros and not _has_ros():
        print(
            f"ada3d {verb}: rclpy or the interfaces of this package are not importable. Without ROS"
            " installed: run `make setup` and use .venv/bin/ada3d; with a ROS distribution: colcon"
            " build, then source install/setup.bash. `ada3d doctor` tells more.",
            file=sys.stderr,
        )
        return 2
    return int(getattr(importlib.import_module(module), function)(rest))


def _has_ros() -> bool:
    try:
        importlib.import_module("rclpy")
        importlib.import_module("ada3d_ros.msg")
    except ImportError:
        return False
    return True
