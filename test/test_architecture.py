"""Who may import whom, read from the source: layers, ROS at the border only, names and sizes.

types, errors <- config, geometry <- scene, sources, pruning, perception <- store, model <- engine
<- grounding <- asking <- pipeline <- ros <- cli; `lab` may import all of it, and nothing of the
robot imports `lab`.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from test.support.sources import PACKAGE, ROOT, files_under, report

_BOUNDARY = {"errors", "measures", "rigid", "token_rows", "types", "usage"}
_BASE = _BOUNDARY | {"config", "geometry"}
_ENGINE = _BASE | {"scene", "model", "pruning"}
_ASKING = _ENGINE | {"engine", "grounding", "perception"}
_PIPELINE = _ASKING | {"asking"}
_PIPELINES = {"scene_pipeline", "pipeline", "object_pipeline", "create_pipeline"}
_GENERATED = {"msg", "srv", "action"}
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "__main__": {"cli"},
    "errors": set(),
    "rigid": {"errors"},
    "types": {"errors", "measures", "rigid", "token_rows", "usage"},
    "token_rows": {"types"},
    "measures": {"errors", "types"},
    "usage": set(),
    "worker": {"errors"},
    "config": _BOUNDARY,
    "geometry": _BOUNDARY,
    "scene": _BASE,
    "sources": _BASE,
    "pruning": _BASE,
    "perception": _BASE | {"scene"},
    "store": _BASE | {"scene", "sources"},
    "model": _BASE | {"scene"},
    "engine": _ENGINE,
    "grounding": _ENGINE | {"engine"},
    "asking": _ASKING,
    "scene_pipeline": _PIPELINE,
    "pipeline": _PIPELINE | {"scene_pipeline"},
    "object_pipeline": _PIPELINE | {"scene_pipeline"},
    "fleet": _PIPELINE | _PIPELINES | {"store", "worker"},
    "create_pipeline": _PIPELINE | _PIPELINES | {"fleet"},
    "ros": _BASE
    | {"sources", "scene", "store", "perception", "grounding", "asking"}
    | _PIPELINES
    | _GENERATED
    | {"worker"},
    "lab": _PIPELINE | {"sources", "fleet"} | _PIPELINES,
    "web": _BASE | {"ros"},
    "cli": {"ros", "lab", "sources", "model", "msg", "fleet", "store", "web"} | _BASE,
}
# The laboratory's own clients of the node: the demo and the benchmark of the running process.
LAB_WITH_ROS = {
    "ada3d_ros/lab/demo.py",
    "ada3d_ros/lab/demo_node.py",
    "ada3d_ros/lab/recording_demo.py",
    "ada3d_ros/lab/benchmarks/node.py",
    "ada3d_ros/lab/benchmarks/node_detector.py",
    "ada3d_ros/lab/benchmarks/soak.py",
}
# `ada3d make-bag room:SEED` renders its room when it is asked to.
MAY_IMPORT_LAB_LATE = {"ada3d_ros/sources/make_bag.py"}
CLI_MAY_IMPORT_AT_ONCE = _BOUNDARY | {"config"}  # the rest inside the verb that needs it

ROS_MODULES = re.compile(
    r"rclpy|rcl_\w+|\w+_msgs|\w+_interfaces|std_srvs|tf2\w*|cv_bridge|message_filters|diagnostic_updater"
    r"|rosidl\w*|rosbag2\w*|ament\w*|rpyutils|ros2\w+"
)
LAUNCH_MODULES = re.compile(r"launch(_ros|_testing\w*|_xml|_yaml)?")
BAD_NAMES = re.compile(r"utils?|common|helpers?|misc|\w+_(utils?|helpers?|v\d+|legacy|old|new)")
GENERATED_NAMES = {"msg", "srv", "action"}
MAX_LINES = 400
MAX_PRIVATE_REACHES = 10
REACHING_CALLS = r"(set|get|del|has)attr$"
MAX_LINES_OF = {"ada3d_ros/model/decoder.py": 500}


@dataclass(frozen=True)
class Import:
    """One imported name with all its dots; at_once: when the module loads, not in a function."""

    name: str
    line: int
    at_once: bool


def imports_of(source: str, path: str) -> Iterator[Import]:
    """Every import of a file: absolute, relative, `from package import x`, by import_module."""
    tree = ast.parse(source, path)
    late = {id(inner) for node in ast.walk(tree) if _runs_late(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        for name in _names(node, path):
            yield Import(name, getattr(node, "lineno", 0), id(node) not in late)


def _runs_late(node: ast.AST) -> bool:
    """What is inside a function, or under TYPE_CHECKING, does not run when the module loads."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))


def _names(node: ast.AST, path: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        folder = path.split("/")[:-1]  # the package a relative import starts from
        above = folder[: len(folder) - (node.level - 1)] if node.level else []
        base = [*above, *([node.module] if node.module else [])]
        return [".".join([*base, alias.name]) for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = ast.unparse(node.func).rsplit(".", 1)[-1]
        if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            return [node.args[0].value]
    return []


def unit_of(path: str) -> str:
    """The layer a file belongs to: `ada3d_ros/scene/views.py` -> `scene`."""
    return path.split("/")[1].removesuffix(".py")


def violations(path: str, source: str) -> list[str]:
    """Every forbidden import of one file, as `path:line: what`."""
    found = [(item, why) for item in imports_of(source, path) if (why := _objection(path, item))]
    return [f"{path}:{item.line}: {why} ({item.name})" for item, why in found]


def _objection(path: str, item: Import) -> str:
    top, *rest = item.name.split(".")
    in_package = path.startswith(f"{PACKAGE}/")

    # Who may know ROS and its launch system.
    if LAUNCH_MODULES.fullmatch(top) and not path.startswith("launch/"):
        return "only launch/ imports launch"
    is_probe = in_package and unit_of(path) == "cli" and not item.at_once
    with_ros = in_package and (unit_of(path) == "ros" or path in LAB_WITH_ROS or is_probe)
    if ROS_MODULES.fullmatch(top) and in_package and not with_ros:
        return "only ros/ imports ROS"
    if top != PACKAGE or not in_package:
        return ""

    # Which layer may import which.
    unit, target = unit_of(path), rest[0] if rest else ""
    if target == unit or target in ("", "__version__"):
        return ""
    allowed = set(MAY_IMPORT.get(unit, set()))
    if path in LAB_WITH_ROS:
        allowed |= {"ros"} | _GENERATED
    if path in MAY_IMPORT_LAB_LATE and not item.at_once:
        allowed.add("lab")
    if target not in allowed:
        return f"{unit} must not import {target}"

    # The command starts fast.
    if unit == "cli" and item.at_once and target not in CLI_MAY_IMPORT_AT_ONCE:
        return f"cli imports {target} inside the verb that needs it"
    return ""


def test_imports_follow_the_layers() -> None:
    paths = list(files_under(PACKAGE, "launch", "tools"))
    assert len(paths) > 20
    report(line for path, file in paths for line in violations(path, file.read_text()))


def test_every_module_has_a_layer() -> None:
    report(
        f"{path}: {unit_of(path)} has no layer here"
        for path, _ in files_under(PACKAGE)
        if unit_of(path) not in MAY_IMPORT
    )


def test_names_say_what_is_inside() -> None:
    parts = [
        (path, part.removesuffix(".py"))
        for path, _ in files_under(PACKAGE, "test", "tools")
        for part in path.split("/")
    ]
    report(
        f"{path}: no folder or module called {name!r}"
        for path, name in parts
        if BAD_NAMES.fullmatch(name)
    )
    report(
        f"{path}: generated code lives at {PACKAGE}.{name}"
        for path, name in parts
        if path.startswith(PACKAGE) and name in GENERATED_NAMES
    )


def test_files_stay_short() -> None:
    sizes = [
        (path, len(file.read_text().splitlines())) for path, file in files_under(PACKAGE, "tools")
    ]
    report(
        f"{path}: {size} lines, at most {MAX_LINES_OF.get(path, MAX_LINES)}"
        for path, size in sizes
        if size > MAX_LINES_OF.get(path, MAX_LINES)
    )


def imports_of_tests(path: str, source: str) -> list[str]:
    """Where a file of test/ imports a test or a conftest; what is shared lives in test/support/."""
    return [
        f"{path}:{item.line}: share it through test/support/ ({item.name})"
        for item in imports_of(source, path)
        if item.name.startswith("test.")
        and any(part.startswith("test_") or part == "conftest" for part in item.name.split("."))
    ]


def test_no_test_imports_another() -> None:
    report(
        line
        for path, file in files_under("test")
        for line in imports_of_tests(path, file.read_text())
    )


@pytest.mark.parametrize(
    "source",
    [
        "from test.test_pipeline import start",
        "from test import test_pipeline",
        "from test.ros import conftest",
        "from .conftest import Harness",
        "from .. import test_pipeline",
        "def late():\n    import test.ros.test_node as node",
    ],
)
def test_a_planted_import_of_a_test_is_caught(source: str) -> None:
    assert len(imports_of_tests("test/ros/test_new.py", source)) == 1
    assert (
        imports_of_tests("test/ros/test_new.py", "from test.support.pipelines import start") == []
    )


def private_reaches(path: str, source: str) -> list[str]:
    """Where a test reads, imports or patches another's name with one leading underscore."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and re.search(REACHING_CALLS, ast.unparse(node.func)):
            texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
            names = [text.rsplit(".", 1)[-1] for text in texts if isinstance(text, str)]
        else:
            continue
        found += [(node.lineno, name) for name in names if re.match(r"_(?!_)", name)]
    return [f"{path}:{line}: {name}" for line, name in sorted(found)]


def test_tests_reach_into_few_private_names() -> None:
    """What a test needs to see is worth a public name, or can be injected."""
    found = [
        line
        for path, file in files_under("test")
        for line in private_reaches(path, file.read_text())
    ]
    assert len(found) <= MAX_PRIVATE_REACHES, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("pipeline._cache", 1),
        ("pipeline._cache._active", 2),
        ("from ada3d_ros.pruning.fit import _slsqp, fit_mean", 1),
        ("monkeypatch.setattr(startup, '_free', 1)", 1),
        ("monkeypatch.setattr('ada3d_ros.model.startup._free', 1)", 1),
        ("getattr(node, '_settings')", 1),
        ("self._thread.start(); cls._made; node.__class__; say('_free')", 0),
    ],
)
def test_a_planted_reach_is_counted(source: str, count: int) -> None:
    assert len(private_reaches("test/test_new.py", source)) == count


@pytest.mark.parametrize(
    "modules",
    ["ada3d_ros", "ada3d_ros.types, ada3d_ros.errors", "ada3d_ros.config", "ada3d_ros.cli"],
)
def test_importing_the_border_loads_neither_torch_nor_ros(modules: str) -> None:
    heavy = ("torch", "transformers", "rclpy", "cv2", "rosbags")
    code = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ada3d_ros/model/decoder.py", "from ada3d_ros.pruning.schedule import Schedule"),
        ("ada3d_ros/model/decoder.py", "import ada3d_ros.pruning.ranking as scores"),
        ("ada3d_ros/pruning/scores.py", "from ..model import decoder"),
        ("ada3d_ros/pruning/scores.py", "from .. import model"),
        ("ada3d_ros/pruning/scores.py", "from ada3d_ros import model"),
        ("ada3d_ros/pruning/deep/inner.py", "from ...engine.prefill import prefill"),
        ("ada3d_ros/geometry/camera.py", "def late():\n    from ada3d_ros.scene import views"),
        (
            "ada3d_ros/types.py",
            (
                "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .config import"
                " AgentConfig"
            ),
        ),
        (
            "ada3d_ros/config/agent.py",
            "import importlib\nimportlib.import_module('ada3d_ros.engine')",
        ),
        ("ada3d_ros/ros/node.py", "from ada3d_ros.engine.prefill import prefill"),
        ("ada3d_ros/lab/train/run.py", "from ada3d_ros.ros import client"),
        ("ada3d_ros/pipeline.py", "from ada3d_ros.msg import Answer"),
        ("ada3d_ros/pipeline.py", "import rclpy"),
        ("ada3d_ros/scene/views.py", "from sensor_msgs.msg import Image"),
        ("ada3d_ros/sources/bag.py", "import tf2_ros"),
        ("ada3d_ros/sources/bag.py", "def late():\n    import cv_bridge"),
        ("ada3d_ros/ros/node.py", "from launch_ros.actions import Node"),
        ("ada3d_ros/cli.py", "from ada3d_ros.lab.parity import parity"),
        ("ada3d_ros/cli.py", "try:\n    import ada3d_ros.ros.node\nexcept ImportError:\n    pass"),
        ("ada3d_ros/__init__.py", "from . import types"),
    ],
)
def test_a_planted_violation_is_caught(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "ada3d_ros/model/llava3d.py",
            (
                "import torch\nfrom . import decoder\nfrom .vision import VisionTower\nfrom ..types"
                " import Keyframe"
            ),
        ),
        (
            "ada3d_ros/ros/node.py",
            (
                "import rclpy\nfrom ada3d_ros.msg import Answer\nfrom ada3d_ros import pipeline,"
                " __version__"
            ),
        ),
        (
            "ada3d_ros/sources/bag.py",
            "import rosbags\nfrom rosbags.image import message_to_cvimage",
        ),
        (
            "ada3d_ros/cli.py",
            (
                "from ada3d_ros.errors import Ada3DError\ndef verb():\n    from ada3d_ros.lab"
                " import parity"
            ),
        ),
        ("launch/agent.launch.py", "from launch import LaunchDescription"),
    ],
)
def test_an_allowed_import_is_let_through(path: str, source: str) -> None:
    assert violations(path, source) == []
