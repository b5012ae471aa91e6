"""`ada3d make-bag`: a posed RGB-D folder, or a generated room, as a bag for the node to replay."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ada3d_ros.errors import Ada3DError, SourceError
from ada3d_ros.sources.bag_writer import (
    DEPTH_TOPIC,
    INFO_TOPIC,
    POSE_TOPIC,
    RGB_TOPIC,
    BagOptions,
    write_bag,
)
from ada3d_ros.sources.camera_calibration import CameraCalibration, parse_distortion
from ada3d_ros.sources.data_sets import LAYOUTS
from ada3d_ros.sources.folder import (
    CAMERA_AXES,
    ROTATIONS_XYZW,
    FolderOptions,
    FolderSource,
    parse_rotation,
)
from ada3d_ros.sources.text_files import STAMP_UNITS
from ada3d_ros.types import RgbdFrame

if TYPE_CHECKING:
    from ada3d_ros.lab.world.generated import GeneratedRoom

NEGATIVE_NUMBERS = re.compile(r"-[\d.][-+\d.,e]*", re.IGNORECASE)
EPILOG = """layouts (depth units per metre):
  tum      rgb.txt depth.txt groundtruth.txt (TUM RGB-D SLAM Dataset); 5000
  cabinet  raw_imgs/ depth_imgs/ truth_cam_poses.txt; 5000
  scannet  color/ depth/ pose/ intrinsic/ (ScanNet export); 1000
  plain    rgb/ (or color/, images/), depth/, poses/ (one 4x4 camera-to-world text file per
           frame), K.txt; 1000
  list     rgb/ (or color/, images/), depth/, K.txt and all poses in one poses.txt, traj.txt,
           trajectory.txt, camera_poses.txt or CameraTrajectory.txt, a row each: 16 numbers (4x4),
           12 (3x4, KITTI) or tx ty tz qx qy qz qw; a stamp or frame number may go first; 1000
  posed    00000.jpg 00000.png 00000.txt ... intrinsic.txt depth_intrinsic.txt in one folder
           (posed_images of LLaVA-3D); 1000
  7scenes  frame-000000.color.png .depth.png .pose.txt ... in one folder (7-Scenes, whose worlds
           have y down: --rotate-world y-down); 1000
  replica  results/frame000000.jpg results/depth000000.png traj.txt (Replica by NICE-SLAM); 6553.5
  stray    rgb.mp4 (or its frames in rgb/), depth/, confidence/, odometry.csv, camera_matrix.csv
           (Stray Scanner, whose world has y up and is turned); 1000
Files of one frame have the same number or stamp in their names. Frames that lost their pose, depth
or colour are left out and counted. Depth of 0 and 65535 is no reading.

topics written:
  /camera/color/image_raw/compressed (or /camera/color/image_raw with --raw),
  /camera/color/camera_info, /camera/aligned_depth_to_color/image_raw (16UC1, millimetres),
  /camera/pose (PoseStamped of the optical frame), /tf, /tf_static

examples:
  ada3d make-bag ~/data/rgbd_dataset_freiburg3_long_office -o office \\
      --intrinsics 535.4 539.2 320.1 247.6
  ada3d make-bag scene0011_00 -o scene0011 --fps 30
  ada3d make-bag --synthetic --seed 3 --level 2 -o room
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ada3d make-bag",
        description="Write a posed RGB-D folder, or a generated room, into a rosbag2 mcap.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # -1e-3 is a number as well, and so is -0.5,0.5,-0.5,0.5
    parser._negative_number_matcher = NEGATIVE_NUMBERS
    add = parser.add_argument
    add("folder", nargs="?", type=Path, help="the posed RGB-D folder; leave out with --synthetic")
    add("-o", "--output", type=Path, required=True, metavar="BAG", help="bag folder to create")
    add("--raw", action="store_true", help="store colour as raw rgb8 (exact) instead of JPEG")
    add(
        "--jpeg-quality",
        type=_quality,
        default=95,
        metavar="1-100",
        help="of the JPEGs (default 95)",
    )
    add("--overwrite", action="store_true", help="replace an existing bag at BAG")
    add_folder_options(parser)
    _add_room_options(parser)
    return parser


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    """How a posed folder is read, of every verb that makes a bag of one."""
    folder = parser.add_argument_group("folder")
    folder._negative_number_matcher = NEGATIVE_NUMBERS
    folder.add_argument(
        "--layout",
        default="auto",
        choices=("auto", *LAYOUTS),
        help="how the folder is laid out (default auto)",
    )
    folder.add_argument(
        "--depth-scale",
        type=float,
        metavar="UNITS",
        help="depth image units per metre (default: the layout's)",
    )
    folder.add_argument(
        "--fps",
        type=float,
        default=10.0,
        help="frames per second where the folder has no stamps (default 10)",
    )
    folder.add_argument(
        "--stamp-unit",
        default="auto",
        choices=("auto", *STAMP_UNITS),
        help="of the stamps in text files and names (default auto: seconds, or what gives a date)",
    )
    folder.add_argument(
        "--intrinsics",
        type=float,
        nargs=4,
        metavar=("FX", "FY", "CX", "CY"),
        help="camera matrix in px, where the folder has none",
    )
    folder.add_argument(
        "--distortion",
        nargs="+",
        metavar="K1 K2 P1 P2 [K3 ...] | YAML",
        help=(
            "lens distortion of the images: coefficients of plumb_bob (4 or 5) or"
            " rational_polynomial (8, 12, 14), `equidistant` before four, or a camera_info YAML of"
            " the camera_calibration tool, which gives the camera matrix too; the images stay as"
            " they are (default: they are taken as undistorted)"
        ),
    )
    folder.add_argument(
        "--camera-axes",
        default="optical",
        choices=CAMERA_AXES,
        help=(
            "axes of the folder's camera poses: optical (z forward, y down), body (x forward, z"
            " up), opengl (y up, z backward; phone scanners, neural rendering) (default optical)"
        ),
    )
    folder.add_argument(
        "--rotate-world",
        metavar="ROTATION",
        help=(
            f"turn the folder's world to z up: {', '.join(ROTATIONS_XYZW)} or QX,QY,QZ,QW (default:"
            " the layout's; y-up for stray, else none)"
        ),
    )
    folder.add_argument("--frame-id", default="map", help="name of the world frame (default map)")


def _add_room_options(parser: argparse.ArgumentParser) -> None:
    from ada3d_ros.lab.world.rooms import NUM_VIEWS  # the laboratory, when it is asked for

    room = parser.add_argument_group("generated room")
    room.add_argument(
        "--synthetic",
        action="store_true",
        help="write a generated room; its true boxes go to BAG/boxes.json",
    )
    room.add_argument("--seed", type=int, default=0, help="of the room (default 0)")
    room.add_argument(
        "--level",
        type=int,
        default=1,
        choices=tuple(NUM_VIEWS),
        help="1: 8 views, objects turned by quarters; 2: up to 20 views",
    )
    room.add_argument(
        "--side", type=int, default=384, metavar="PX", help="of the square images (default 384)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 and a sentence on standard error for a missing or bad input; 2 for usage."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.synthetic == (args.folder is not None):
        parser.error("give either a FOLDER or --synthetic")
    options = BagOptions(raw=args.raw, jpeg_quality=args.jpeg_quality, overwrite=args.overwrite)
    try:
        if args.synthetic:
            _make_synthetic(args, options)
        else:
            bag_from_folder(args, args.output, options)
            print_how_to_play(args.output, options.raw, args.frame_id)
    except Ada3DError as error:
        print(f"ada3d make-bag: {error}", file=sys.stderr)
        return 1
    return 0


def bag_from_folder(args: argparse.Namespace, output: Path, options: BagOptions) -> None:
    """Write the posed folder `args.folder` as a bag; args: of add_folder_options.

    Raises SourceError.
    """
    # What the folder holds.
    lens = parse_distortion(args.distortion) if args.distortion else None
    reading = folder_options(args)
    if lens is not None and reading.intrinsics is None:
        reading = replace(reading, intrinsics=lens.intrinsics)
    source = FolderSource(args.folder, reading)
    if lens is not None:
        _check_lens(lens, source)
        options = replace(options, distortion_model=lens.model, D=lens.D)
    print(
        f"{args.folder}: layout {source.layout}, {len(source)} frames, {source.depth_scale:g} depth"
        " units per metre"
    )
    for note in source.notes:
        print(note)

    # What was written, and what was left out.
    frames = _with_progress(source, len(source))
    count = write_bag(frames, output, options, source.trajectory)
    for line in source.dropped.lines():
        print(f"left out: {line}")
    print(f"wrote {count} frames to {output}")


def folder_options(args: argparse.Namespace) -> FolderOptions:
    """What add_folder_options tells of a folder, but for its lens. Raises SourceError."""
    return FolderOptions(
        layout=args.layout,
        depth_scale=args.depth_scale,
        fps=args.fps,
        intrinsics=tuple(args.intrinsics) if args.intrinsics else None,
        rotate_world_xyzw=None if args.rotate_world is None else parse_rotation(args.rotate_world),
        camera_axes=args.camera_axes,
        frame_id=args.frame_id,
        stamp_unit=args.stamp_unit,
    )


def _check_lens(lens: CameraCalibration, source: FolderSource) -> None:
    """Raises SourceError where the distortion cannot be that of the source's images."""
    if source.resamples_color:
        raise SourceError(
            f"--distortion: {source.folder} has a camera matrix for colour and one for depth, and"
            " colour is resampled; give --intrinsics FX FY CX CY if both are of one camera."
        )
    if lens.size not in (None, source.size):
        raise SourceError(
            "--distortion: the calibration is of {}x{} px, the images are {}x{}: calibrate at"
            " their size.".format(*(lens.size or ()), *source.size)
        )


def _make_synthetic(args: argparse.Namespace, options: BagOptions) -> None:
    if args.side < 8:
        raise SourceError(f"--side {args.side}: at least 8 px.")
    from ada3d_ros.lab.world.generated import generate_room  # the laboratory, when it is asked for

    room = generate_room(args.seed, args.level, args.side)
    count = write_bag(_with_progress(room.frames, len(room.frames)), args.output, options)
    boxes = json.dumps(_to_json(room, args.seed), indent=1)
    (args.output / "boxes.json").write_text(boxes + "\n", encoding="utf-8")
    print(f"wrote {count} frames and {len(room.boxes)} true boxes (boxes.json) to {args.output}")
    print_how_to_play(args.output, options.raw, room.frames[0].frame_id)


def print_how_to_play(bag: Path, raw: bool, world_frame: str) -> None:
    """The commands that play this bag into a node: without a ROS distribution, and with one."""
    # In two terminals.
    path, transport = shlex.quote(str(bag.resolve())), "raw" if raw else "compressed"
    suffix = "" if raw else "/compressed"
    remapped = {
        f"rgb/image{suffix}": f"{RGB_TOPIC}{suffix}",
        "rgb/camera_info": INFO_TOPIC,
        "depth/image": DEPTH_TOPIC,
        "pose": POSE_TOPIC,
    }
    parameters = {
        "model.path": "embedded",
        "autostart": "true",
        "use_sim_time": "true",
        "rgb_transport": transport,
        "world_frame": world_frame,
    }
    options = [f"-p {shlex.quote(f'{name}:={value}')}" for name, value in parameters.items()]
    options += [f"-r {name}:={topic}" for name, topic in remapped.items()]
    print("to ask about it, in two terminals (another model: its folder instead of `embedded`):")
    print(f"ada3d agent --ros-args {' '.join(options)}")
    print(f"ada3d replay {path} --wait-sec 60")

    # In one.
    arguments = {
        "bag": str(bag.resolve()),
        "model_path": "embedded",
        "rgb_topic": RGB_TOPIC,
        "rgb_transport": transport,
        "depth_topic": DEPTH_TOPIC,
        "depth_transport": "raw",
        "camera_info_topic": INFO_TOPIC,
        "pose_topic": POSE_TOPIC,
        "pose_source": "pose",
        "world_frame": world_frame,
    }
    joined = " ".join(shlex.quote(f"{name}:={value}") for name, value in arguments.items())
    print("or both at once, with a ROS distribution:")
    print(f"ros2 launch ada3d_ros replay.launch.py {joined}")


def _to_json(room: GeneratedRoom, seed: int) -> dict[str, object]:
    boxes = [
        {
            "label": b.label,
            "center_m": b.center_m.tolist(),
            "size_m": b.size_m.tolist(),
            "yaw_rad": b.yaw_rad,
        }
        for b in room.boxes
    ]
    return {"seed": seed, "frame": room.frames[0].frame_id, "boxes": boxes}


def _with_progress(frames: Iterable[RgbdFrame], total: int) -> Iterator[RgbdFrame]:
    """The frames, with their number on standard error.

    Rewritten in place on a terminal, a line every tenth part elsewhere.
    """
    terminal = sys.stderr.isatty()
    every, end = (1, "\r") if terminal else (max(total // 10, 1), "\n")
    for number, frame in enumerate(frames, start=1):
        yield frame
        if number % every == 0 or number == total:
            print(f"{number}/{total} frames", end=end, file=sys.stderr, flush=True)
    if terminal:
        print(file=sys.stderr)


def _quality(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{value}, allowed 1 to 100")
    return value
