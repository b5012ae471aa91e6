"""The box of what stands in a recorded scene, from depth and poses alone, and a picture of it.

    python tools/measure_box.py BAG --out box.png [--region X Y Z DX DY DZ]

The frames go through the node's keyframe buffer; their depth is fused into 2 cm voxels that the
views agree on (geometry/fusion.py). No model takes part. docs/tutorial.md quotes the output.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import torch

from ada3d_ros.config import KeyframeConfig
from ada3d_ros.geometry.boxes import corners
from ada3d_ros.geometry.fusion import FusionSettings, fuse_depth, measure_box
from ada3d_ros.geometry.unproject import project_points
from ada3d_ros.scene.keyframes import KeyframeBuffer
from ada3d_ros.sources.bag import BagSource
from ada3d_ros.types import Box3D, RgbdFrame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EDGES = [(i, (i + 1) % 4) for i in range(4)]  # of geometry.boxes.corners: bottom, top, sides
EDGES += [(i + 4, j + 4) for i, j in EDGES] + [(i, i + 4) for i in range(4)]
GREEN, GREY = "#0a7d33", "#999999"


def read_keyframes(bag: Path) -> list[RgbdFrame]:
    """The frames that the node would keep of the bag."""
    buffer = KeyframeBuffer(KeyframeConfig())
    for frame in BagSource(bag):
        buffer.offer(frame)
    return [keyframe.frame for keyframe in buffer.keyframes]


def default_region(frames: list[RgbdFrame]) -> Box3D:
    """What the cameras stand around: the extent of their path, from the floor up."""
    path = np.array([frame.T_world_cam[:3, 3] for frame in frames])
    low, high = path.min(axis=0), path.max(axis=0)
    low[2] = 0.0
    return Box3D((low + high) / 2, high - low)


def describe(box: Box3D) -> str:
    """One line for a terminal."""
    center, size = (", ".join(f"{v:.3f}" for v in values) for values in (box.center_m, box.size_m))
    yaw = np.rad2deg(box.yaw_rad)
    return (
        f"box: centre ({center}) m, size ({size}) m, yaw {yaw:.1f} deg,"
        f" {box.support_points} depth readings inside"
    )


def draw(frames: list[RgbdFrame], region: Box3D, box: Box3D, path: Path) -> None:
    """The box on two views, and from above among the fused voxels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes: Any = figure.subplots(1, 3)
    for panel, frame in zip(axes, (frames[0], frames[len(frames) // 2]), strict=False):
        _draw_view(panel, frame, box)
    _draw_map(axes[2], frames, region, box)
    figure.savefig(path, dpi=90, bbox_inches="tight")


def _draw_view(axes: Axes, frame: RgbdFrame, box: Box3D) -> None:
    camera = frame.intrinsics
    uv_px, _ = project_points(
        torch.from_numpy(corners(box)),
        torch.from_numpy(camera.matrix),
        torch.from_numpy(frame.T_world_cam.copy()),
    )
    axes.imshow(frame.rgb)
    for i, j in EDGES:
        axes.plot(*uv_px[[i, j]].T.numpy(), color=GREEN, linewidth=2)
    axes.set(xlim=(0, camera.width), ylim=(camera.height, 0), xticks=[], yticks=[])
    axes.set_title("the box on a keyframe")


def _draw_map(axes: Axes, frames: list[RgbdFrame], region: Box3D, box: Box3D) -> None:
    settings = FusionSettings()
    voxels = fuse_depth(frames, region, settings)
    assert voxels is not None  # the box was measured from them
    agreed = voxels.xyz_m[voxels.agreement >= settings.min_agreement]
    above = agreed[agreed[:, 2] > settings.floor_z_m + settings.floor_clearance_m]
    outline = corners(box)[[0, 1, 2, 3, 0], :2]
    cameras = np.array([frame.T_world_cam[:2, 3] for frame in frames])
    axes.scatter(above[:, 0], above[:, 1], s=0.5, color=GREY, label="voxels above the floor")
    axes.plot(*outline.T, color=GREEN, linewidth=2, label="box")
    axes.plot(*cameras.T, ".-", color="red", linewidth=0.8, label="keyframes")
    axes.set(aspect="equal", xlabel="x (m)", ylabel="y (m)", title="from above")
    axes.legend(fontsize=7, loc="lower left")


def main(argv: list[str] | None = None) -> int:
    """Returns 0; 1 where nothing stands in the region."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bag", type=Path)
    parser.add_argument("--out", type=Path, help="PNG to draw")
    parser.add_argument(
        "--region",
        type=float,
        nargs=6,
        metavar=("X", "Y", "Z", "DX", "DY", "DZ"),
        help="centre and size in metres (default: what the cameras stand around)",
    )
    options = parser.parse_args(argv)
    frames = read_keyframes(options.bag)
    given = options.region
    region = Box3D(np.array(given[:3]), np.array(given[3:])) if given else default_region(frames)
    print(f"{len(frames)} keyframes")
    box = measure_box(frames, region, margin_m=0.0)
    if box is None:
        print("nothing that the views agree on stands there")
        return 1
    print(describe(box))
    if options.out:
        matplotlib.use("Agg")
        draw(frames, region, box, options.out)
        print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
