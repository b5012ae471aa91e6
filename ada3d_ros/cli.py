"""The `ada3d` command: each verb is a function elsewhere, imported only when its verb is used."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ada3d_ros import __version__


class Verb(NamedTuple):
    """Where the function of a verb is, and its line in the help."""

    function: str  # module within ada3d_ros, and function
    description: str
    needs_ros: bool = False


VERBS = {
    "agent": Verb("ros.agent:main", "run the node (ROS arguments behind --ros-args)", True),
    "ask": Verb("ros.client:ask_main", "ask the node a question", True),
    "ground": Verb("ros.client:ground_main", "find an object by a phrase, as 3D boxes", True),
    "measure": Verb(
        "ros.object_client:measure_main",
        "measure distances, sizes, places and counts in the scene",
        True,
    ),
    "objects": Verb(
        "ros.object_client:objects_main", "list the objects that are kept with the scene", True
    ),
    "watch": Verb(
        "ros.watch_client:main",
        "have a question asked again when the scene changes, follow what changes",
        True,
    ),
    "scene": Verb("ros.scene_client:main", "save, load or reset the scene of the node", True),
    "scenes": Verb("store.command:main", "list, export and delete the scenes of a store"),
    "web": Verb(
        "web.command:main", "a page in the browser: the scene in 3D, questions, boxes", True
    ),
    "replay": Verb("ros.replay:main", "play a rosbag2 into ROS, with /clock", True),
    "serve": Verb(
        "fleet.serve:main", "answer the questions of many robots with one model, on Ray Serve"
    ),
    "doctor": Verb(
        "ros.doctor:main", "what is installed, what is alive, what is missing, and the cure"
    ),
    "demo": Verb(
        "lab.demo:main", "the whole path on a generated room: bag, node, questions, report", True
    ),
    "ask-recording": Verb(
        "lab.ask_recording:main",
        "ask about a bag or a posed RGB-D folder, without a node or ROS",
    ),
    "make-bag": Verb("sources.make_bag:main", "turn a posed RGB-D folder into a rosbag2"),
    "random-model": Verb(
        "model.random_checkpoint:main",
        "write a small checkpoint with random weights, for trying things out",
    ),
    "parity": Verb("lab.parity.parity:main", "compare with recorded arrays of the reference codes"),
    "analyze": Verb(
        "lab.analysis.analyze:main", "figures: information, attention, answers, survivors"
    ),
    "calibrate": Verb(
        "lab.analysis.calibrate:main",
        "measure a model's information curve and fit AdaToken-3D's schedule",
    ),
    "bench": Verb(
        "lab.benchmarks.bench:main",
        "measure strategies against the unpruned model and their FLOPs",
    ),
    "eval": Verb(
        "lab.evaluation.command:main",
        "measure a model's answers and boxes: generated rooms, benchmarks",
    ),
    "train": Verb("lab.train.run:main", "train the embedded model from nothing, resumable"),
    "bench-node": Verb(
        "lab.benchmarks.node:main",
        "measure the node: CPU per frame, drops, service latency",
        True,
    ),
    "soak": Verb(
        "lab.benchmarks.soak:main",
        "play a bag in a loop, ask all the time, watch memory, threads and answers",
        True,
    ),
}


DISTRIBUTIONS = {  # packages whose modules are called otherwise
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "yaml": "pyyaml",
}


def usage() -> str:
    """The text of `ada3d --help`."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {verb.description}" for name, verb in VERBS.items())
    return (
        f"ada3d {__version__}: ask a robot about the place it is in.\n\n"
        f"usage: ada3d <verb> [options]\n\n{verbs}\n\n`ada3d <verb> --help` tells more."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb of `argv`. Returns the exit code; 2 for an unknown verb or missing package."""
    return find_verb(sys.argv[1:] if argv is None else argv)()


def ends_at_once(args: Sequence[str]) -> bool:
    """Whether the process may end without the interpreter's teardown once the verb has returned."""
    return bool(args) and args[0] == "agent"


def find_verb(args: Sequence[str]) -> Callable[[], int]:
    """The function behind the arguments, its modules loaded; it returns the exit code."""
    # Help and version.
    if not args or args[0] in ("-h", "--help", "help"):
        return lambda: _say(usage())
    if args[0] == "--version":
        return lambda: _say(__version__)

    # An unknown verb: name the nearest.
    name, rest = args[0], list(args[1:])
    if name not in VERBS:
        import difflib

        near = difflib.get_close_matches(name, VERBS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return lambda: _refuse(f"ada3d: unknown verb {name!r}{hint}\n\n{usage()}")

    # A verb that needs ROS where there is none: say how to get it.
    verb, wants_help = VERBS[name], not {"-h", "--help"}.isdisjoint(rest)
    if verb.needs_ros and not has_ros():
        text = (
            f"ada3d {name}: rclpy or the interfaces of this package are not importable. Without ROS"
            " installed: run `make setup` and use .venv/bin/ada3d; with a ROS distribution: colcon"
            " build, then source install/setup.bash. `ada3d doctor` tells more."
        )
        return lambda: _refuse(text, name if wants_help else "")

    module, function = verb.function.split(":")
    try:
        work = getattr(importlib.import_module(f"ada3d_ros.{module}"), function)
    except ModuleNotFoundError as error:
        return _refusal_of_missing(name, error, wants_help)

    def run() -> int:
        try:
            return int(work(rest))
        except ModuleNotFoundError as error:  # of a package imported where it is needed
            return _refusal_of_missing(name, error, wants_help)()

    return run


def _refusal_of_missing(
    verb: str, error: ModuleNotFoundError, wants_help: bool
) -> Callable[[], int]:
    """Says which package a verb lacks and how to get it; raises the error where it is ours."""
    module = (error.name or "").partition(".")[0]
    if module in ("", "ada3d_ros"):
        raise error
    package = DISTRIBUTIONS.get(module, module)
    text = (
        f"ada3d {verb}: needs the Python package {package}, which is not installed: `pip install"
        f" -c constraints/python.txt {package}`, or run `make setup` and use .venv/bin/ada3d."
        " `ada3d doctor` tells what else is missing."
    )
    return lambda: _refuse(text, verb if wants_help else "")


def written_help(verb: str) -> str:
    """What docs/commands.md says of a verb, for where its parser cannot be loaded; a wheel holds
    that page beside this module. Empty without it.
    """
    package = Path(__file__).resolve().parent
    for page in (package / "commands.md", package.parent / "docs" / "commands.md"):
        if page.is_file():
            text = page.read_text(encoding="utf-8")
            found = re.search(
                rf"^## (`ada3d {verb}`\n.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
            )
            return re.sub(r"^```\n|`", "", found[1], flags=re.MULTILINE).strip() if found else ""
    return ""


def _say(text: str) -> int:
    print(text)
    return 0


def _refuse(text: str, help_of: str = "") -> int:
    """help_of: a verb whose help is asked for, which can be told all the same."""
    told = written_help(help_of) if help_of else ""
    if told:
        print(told, end="\n\n", flush=True)
    print(text, file=sys.stderr)
    return 0 if told else 2


def has_ros() -> bool:
    """Whether rclpy and our compiled messages can be imported."""
    try:
        importlib.import_module("rclpy")
        importlib.import_module("ada3d_ros.msg")
    except ImportError:
        return False
    return True
