"""`ada3d ask-recording`: questions about a bag or a posed folder, in one process without ROS.

Its frames go through the node's own pipeline as a library has it: every answer is about all of
them, and a detector misses none that it would take.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.create_pipeline import NO_MODEL_PATH, create_pipeline
from ada3d_ros.errors import FrameError, RequestError, SourceError
from ada3d_ros.lab.command_line import add_model_folders, model_folders, run_verb
from ada3d_ros.sources.bag import BagSource
from ada3d_ros.sources.bag_reader import is_bag
from ada3d_ros.sources.bag_writer import BagOptions
from ada3d_ros.sources.dropped import Dropped
from ada3d_ros.sources.folder import FolderSource
from ada3d_ros.sources.make_bag import add_folder_options, bag_from_folder, folder_options
from ada3d_ros.types import Answer, Box3D, GroundingMethod, Question, RgbdFrame

if TYPE_CHECKING:
    from ada3d_ros.create_pipeline import AnyPipeline


def open_recording(
    options: argparse.Namespace, config: AgentConfig, space: Path
) -> Iterable[RgbdFrame]:
    """The frames of a bag, or of a posed folder; space: for the bag that a folder whose images have
    a lens becomes first, since it is taken off where bags are read. Raises SourceError.
    """
    path: Path = options.recording
    if not path.exists():
        raise SourceError(f"{path} is not there: name a rosbag2 or a posed RGB-D folder.")
    if is_bag(path):
        return BagSource(path, config=config)
    if not options.distortion:
        return FolderSource(path, folder_options(options))
    options.folder = path
    with contextlib.redirect_stdout(sys.stderr):
        bag_from_folder(options, space / "bag", BagOptions(raw=True))
    return BagSource(space / "bag", config=config)


def show(pipeline: AnyPipeline, frames: Iterable[RgbdFrame]) -> str:
    """Let the pipeline see all frames; what became of them, in a sentence. Raises SourceError."""
    # A frame that cannot be used is left out, as at the node.
    count, refused = 0, Dropped()
    for frame in frames:
        try:
            pipeline.observe(frame)
            count += 1
        except FrameError as error:
            refused.note(error)

    dropped = getattr(frames, "dropped", None)
    lines = [*(dropped.lines() if dropped else ()), *refused.lines()]
    why = f"; left out: {'; '.join(lines)}" if lines else ""
    kept = pipeline.scene_state().num_keyframes
    if not kept:
        raise SourceError(f"none of {count} frames could become a keyframe{why}.")
    return f"{count} frames, {kept} keyframes{why}"


def describe(answer: Answer) -> str:
    """An answer as lines: its text, what it assumes, and its boxes."""
    lines = [answer.text or "(no text)"]
    if answer.measurement is not None:
        lines += [f"  assumed: {sentence}" for sentence in answer.measurement.assumptions]
    return "\n".join(lines + [f"  {describe_box(box, answer.frame_id)}" for box in answer.boxes])


def describe_box(box: Box3D, frame_id: str) -> str:
    """A box as one line."""
    (x, y, z), (w, d, h) = box.center_m.tolist(), box.size_m.tolist()
    of = " of the detector" if box.method is GroundingMethod.DETECTOR else ""
    of = " chosen among the detector's" if box.method is GroundingMethod.PROPOSAL else of
    return (
        f"box{of} {box.label!r}: centre ({x:.2f}, {y:.2f}, {z:.2f}) m, size ({w:.2f}, {d:.2f},"
        f" {h:.2f}) m in {frame_id!r}, score {box.score:.2f}"
    )


def ask_all(pipeline: AnyPipeline, options: argparse.Namespace) -> bool:
    """Print the answer to each question and phrase; whether all have one."""
    asked = [(text, pipeline.ask) for text in options.questions]
    asked += [(text, pipeline.ground) for text in options.ground]
    all_answered = True
    for text, ask in asked:
        print(f"> {text}")
        try:
            print(describe(ask(Question(text))))
        except RequestError as error:
            all_answered = False
            print(f"{error.code.name}: {error}")
    return all_answered


def main(args: Sequence[str]) -> int:
    """`ada3d ask-recording`. Returns 0 where all was answered, 1 where something was not, 2 where
    nothing could be.
    """
    parser = argparse.ArgumentParser(
        prog="ada3d ask-recording",
        description="Ask about a bag or a posed RGB-D folder, without a node or ROS. Exit code: 0"
        " answered, 1 a question was not, 2 the recording, the detector or the model is at fault.",
        epilog="Example: ada3d ask-recording office --detector picodet.onnx 'Is there a monitor?'",
    )
    add = parser.add_argument
    add("recording", type=Path, help="a rosbag2 folder or file, or a posed RGB-D folder")
    add("questions", nargs="*", metavar="QUESTION", help="each is asked about the whole recording")
    add("--ground", action="append", default=[], metavar="PHRASE", help="find its boxes, too")
    add(
        "--detector",
        default="",
        metavar="PATH",
        help="what finds objects: an ONNX file or the folder of a transformers detector",
    )
    add("--names", default="", metavar="FILE", help="its kinds, one a line in order")
    add_model_folders(add, "with a detector none, else the embedded one")
    add_folder_options(parser)
    options = parser.parse_args(list(args))
    if not (options.questions or options.ground):
        parser.error("name a QUESTION, or a PHRASE with --ground")
    model = NO_MODEL_PATH if options.detector else "embedded"
    settings = {"detector.path": options.detector, "detector.names": options.names}
    answered = False

    def work() -> None:
        nonlocal answered
        config = from_flat({"model.path": model, **model_folders(options), **settings})
        pipeline = create_pipeline(config)
        pipeline.check()
        with tempfile.TemporaryDirectory() as space:
            frames = open_recording(options, config, Path(space))
            pipeline.load()
            print(show(pipeline, frames), file=sys.stderr)
        answered = ask_all(pipeline, options)

    return run_verb("ask-recording", work) or (0 if answered else 1)
