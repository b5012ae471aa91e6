"""`ada3d doctor`: what is installed, what is alive, what is missing, and the command that mends it.

Runs without ROS too: then it says how to get it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import logging
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

OK, NOTE, BAD, WRONG = "ok", "note", "MISSING", "WRONG"

# module -> (what for, how to get it)
PYTHON_PACKAGES = {
    "numpy": ("arrays", "make setup"),
    "scipy": ("rotations, connected components", "make setup"),
    "torch": ("the model", "make setup (TORCH_INDEX=<index> chooses a build)"),
    "transformers": ("CLIP and configs", "make setup"),
    "sentencepiece": ("the tokenizer", "make setup"),
    "cv2": ("image decoding", "make setup, or on a distribution: apt install python3-opencv"),
    "rosbags": ("bag files", "make setup"),
}
ROS_PACKAGES = {
    "rclpy": ("ROS 2 in Python", "make setup, or source /opt/ros/<distribution>/setup.bash"),
    "ada3d_ros.msg": (
        "the interfaces of this package",
        "make setup, or colcon build and source install/setup.bash",
    ),
}
WAIT_S = 10.0  # for what is not seen: discovery takes seconds on a busy machine
# absent ones have a stand-in, or switch one output off
OPTIONAL_ROS_PACKAGES = {
    "message_filters": "a stand-in of the same surface is used",
    "cv_bridge": "OpenCV converts the pixels",
    "vision_msgs": "there is no ~/detections; ~/objects has the same",
    "tf2_msgs": "poses do not come from TF: pose_source pose or odom",
    "tf2_ros": "a buffer of our own chains and interpolates what /tf tells",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: str
    subject: str
    text: str
    cure: str = ""

    def __str__(self) -> str:
        cure = f"\n{'':10}-> {self.cure}" if self.cure else ""
        return f"{self.level:<8}  {self.subject}: {self.text}{cure}"


def _version(module: str) -> str:
    names = (module, f"ros-{os.environ.get('ROS_DISTRO', 'jazzy')}-{module}")
    if module == "cv2":
        names = ("opencv-python-headless", "opencv-python")
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return str(getattr(sys.modules.get(module), "__version__", "version unknown"))


def _can_import(module: str) -> str:
    """Empty if it imports, else the reason."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken native library raises anything
        return f"{type(error).__name__}: {error}"
    return ""


def check_packages() -> Iterator[Finding]:
    """Python, the libraries, ROS."""
    # What must be there.
    yield Finding(OK, "python", f"{platform.python_version()} at {sys.executable}")
    for module, (purpose, cure) in {**PYTHON_PACKAGES, **ROS_PACKAGES}.items():
        problem = _can_import(module)
        if problem:
            yield Finding(BAD, module, f"{purpose}: {problem}", cure)
        else:
            yield Finding(OK, module, "importable" if "." in module else _version(module))

    # What may be there.
    for module, without in OPTIONAL_ROS_PACKAGES.items():
        if _can_import(module):
            yield Finding(NOTE, module, f"not installed: {without}")
        else:
            yield Finding(OK, module, "importable")
    if shutil.which("ros2") is None:
        yield Finding(
            NOTE,
            "ros2 command",
            "not installed (it has no wheel): `ada3d agent`, `ask`, `ground` and `replay` do"
            " without it",
        )


def check_device() -> Iterator[Finding]:
    """What torch computes on."""
    if _can_import("torch"):
        return
    import torch

    if not torch.cuda.is_available():
        yield Finding(
            NOTE,
            "GPU",
            "torch sees none: the model runs on the CPU",
            "with an NVIDIA GPU: make setup TORCH_INDEX=<index of CUDA builds>",
        )
        return
    # One finding per GPU.
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        memory = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        yield Finding(OK, f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {memory}")


class _Said(logging.Handler):
    """Keeps the texts of what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def check_model(path: str, vision_path: str = "") -> Iterator[Finding]:
    """Whether a checkpoint folder would load, with the vision tower of a CLIP folder if any."""
    from ada3d_ros.config import as_options, from_flat
    from ada3d_ros.create_pipeline import create_pipeline
    from ada3d_ros.errors import Ada3DError

    # What the check says besides is a note.
    said = _Said()
    logging.getLogger("ada3d_ros").addHandler(said)
    try:
        settings = {"model.path": path, "model.vision_path": vision_path}
        info = create_pipeline(from_flat(settings)).check()
    except Ada3DError as error:
        yield Finding(BAD, "model", as_options(str(error)))
        return
    finally:
        logging.getLogger("ada3d_ros").removeHandler(said)
    for text in said.texts:
        yield Finding(NOTE, "model", as_options(text))
    note = ", RANDOM WEIGHTS: answers are meaningless" if info.random_weights else ""
    size = f"{info.parameters / 1e6:.1f} M parameters, {info.memory_bytes / 2**20:.0f} MiB"
    kind = f"backbone {info.backbone}, " if info.backbone else ""
    text = f"{info.name}: {kind}{size} in {info.precision} on {info.device}{note}"
    yield Finding(OK, "model", text)


def _add_detector(parser: argparse.ArgumentParser) -> None:
    """The options about a detector."""
    add = parser.add_argument_group("a detector").add_argument
    add(
        "--detector",
        default="",
        metavar="PATH",
        help="also say what this is: an ONNX file, a folder of a transformers detector, or `topic`",
    )
    add("--names", default="", metavar="FILE", help="its kinds, one a line in order")
    add(
        "--min-score",
        type=_number(0, 1),
        default=0.0,
        help="score of a box at least (default: its own)",
    )
    add("--threads", type=int, default=1, help="processor threads of an ONNX detector (default 1)")
    add("--device", default="cpu", help="auto, cpu, cuda or cuda:N (default cpu)")
    add(
        "--image",
        default="",
        metavar="FILE",
        help="JPEG or PNG to try it on (default: a drawn one)",
    )
    add("--output", default="", metavar="FILE", help="picture with boxes (default NAME_boxes.png)")


def _detector_findings(options: argparse.Namespace) -> list[Finding]:
    """What there is to say of --detector."""
    from ada3d_ros.config import from_flat
    from ada3d_ros.errors import ConfigError
    from ada3d_ros.ros.doctor_detector import OPTIONS, DetectorCheck, check_detector, with_options

    given = vars(options)
    settings = {name: given[option[2:].replace("-", "_")] for name, option in OPTIONS.items()}
    try:
        config = from_flat(settings).detector
    except ConfigError as error:
        return [Finding(BAD, "detector", with_options(str(error)))]
    return list(check_detector(DetectorCheck(config, options.image, options.output)))


def _number(low: float, high: float) -> Callable[[str], float]:
    """A type for argparse: a number from low to high."""

    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text}, allowed {low:g} to {high:g}")
        return value

    return number


def main(args: Sequence[str]) -> int:
    """`ada3d doctor`. Returns 0 if nothing is missing or wrong, 1 otherwise."""
    parser = argparse.ArgumentParser(
        prog="ada3d doctor",
        description="Check the installation, a model folder and the running node. Exit code 1 if"
        " something is missing or wrong.",
    )
    add = parser.add_argument
    add("--node", default="", help="full name of the agent node (default: the one that is there)")
    add(
        "--wait-sec",
        type=_number(1, 600),
        default=WAIT_S,
        help="seconds to look for what is not seen (default 10; on a busy machine more)",
    )
    add("--model", default="", help="also check this checkpoint folder")
    add(
        "--vision-path",
        default="",
        metavar="FOLDER",
        help="CLIP folder, for a --model that holds no vision tower",
    )
    add("--no-graph", action="store_true", help="do not look for running nodes")
    add(
        "--record",
        action="store_true",
        help="print the `ros2 bag record` line for the running node's inputs, and nothing else",
    )
    _add_detector(parser)
    options = parser.parse_args(list(args))
    node_name = options.node and f"/{options.node.strip('/')}"
    if options.record:
        from ada3d_ros.ros.doctor_record import print_record

        return print_record(node_name, options.wait_sec)

    # What is installed.
    findings = [*check_packages(), *check_device()]
    has_ros = not any(f.level == BAD and f.subject in ROS_PACKAGES for f in findings)
    if options.model:
        findings += check_model(options.model, options.vision_path)
    if options.detector:
        findings += _detector_findings(options)
    for finding in findings:
        print(finding)

    # What is alive, shown as it is found.
    if not options.no_graph and has_ros:
        from ada3d_ros.ros.doctor_graph import check_graph  # where there is ROS

        for finding in check_graph(node_name, options.wait_sec):
            print(finding, flush=True)
            findings.append(finding)

    counts = {word: sum(f.level == word for f in findings) for word in (BAD, WRONG)}
    text = ", ".join(f"{count} {word.lower()}" for word, count in counts.items() if count)
    print(f"\n{text or 'nothing is missing'}.")
    return 1 if text else 0
