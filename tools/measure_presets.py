"""How the presets `default` and `reference` differ on a recorded bag.

    python tools/measure_presets.py ../shared/data/tum_fr3_cabinet_ros2bag \\
        --json docs/results/presets_cabinet.json

docs/conventions.md quotes the result.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from ada3d_ros.config import KeyframeConfig
from ada3d_ros.geometry.voxel import voxel_coords, voxel_ids
from ada3d_ros.lab.results import write_results
from ada3d_ros.model.config import CLIP_MEAN, CLIP_STD
from ada3d_ros.model.spatial import sample_patch_points
from ada3d_ros.scene.keyframes import KeyframeBuffer
from ada3d_ros.scene.views import build_multiview
from ada3d_ros.sources.bag import BagSource
from ada3d_ros.types import RgbdFrame

SIDE, PATCH, VOXEL_M = 336, 14, 0.2


def count_voxels(xyz_m: torch.Tensor) -> int:
    """Occupied voxels of points (P, 3)."""
    return int(voxel_ids(voxel_coords(xyz_m, VOXEL_M))[1].shape[0])


def share_in_another_voxel(points: torch.Tensor, others: torch.Tensor) -> float:
    """Share of the points (P, 3) whose voxel is not that of the other point of the same number."""
    differs = voxel_coords(points, VOXEL_M) != voxel_coords(others, VOXEL_M)
    return float(differs.any(dim=1).float().mean())


def measure(frames: list[RgbdFrame]) -> dict[str, Any]:
    """Points of all patches under both presets, and of `reference` rounded to bfloat16."""
    # Where each patch lies: (P, 3), metres, world.
    points = {}
    for compat in ("default", "reference"):
        views = build_multiview(frames, SIDE, compat, CLIP_MEAN, CLIP_STD)
        points[compat] = sample_patch_points(views, SIDE // PATCH).reshape(-1, 3)
    default, reference = points["default"], points["reference"]
    rounded = reference.bfloat16().float()

    # A patch without depth is NaN in `default` and at the camera's centre in `reference`.
    valid = default.isfinite().all(dim=1)
    centres = torch.stack([torch.from_numpy(f.T_world_cam[:3, 3].copy()).float() for f in frames])
    without_depth = (reference[:, None] - centres).norm(dim=2).min(dim=1).values < 1e-3
    both = valid & ~without_depth
    shift = (default[both] - reference[both]).norm(dim=1)
    bf16_shift = (rounded - reference)[both].norm(dim=1)
    return {
        "n": int(both.numel()),
        "views": len(frames),
        "patches_without_depth_share": float(without_depth.float().mean()),
        "spatial_tokens_default": count_voxels(default[valid]),
        "spatial_tokens_reference": count_voxels(reference),
        "spatial_tokens_reference_at_camera_centres": count_voxels(reference[without_depth]),
        "point_shift_default_against_reference_m": {
            "median": float(shift.median()),
            "p95": float(shift.quantile(0.95)),
            "max": float(shift.max()),
        },
        "patches_in_another_voxel_share": share_in_another_voxel(default[both], reference[both]),
        "bfloat16_points_shift_m": {
            "median": float(bf16_shift.median()),
            "max": float(bf16_shift.max()),
        },
        "bfloat16_points_in_another_voxel_share": share_in_another_voxel(
            rounded[both], reference[both]
        ),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bag", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    buffer = KeyframeBuffer(KeyframeConfig())
    for frame in BagSource(options.bag):
        buffer.offer(frame)
    frames = [keyframe.frame for keyframe in buffer.keyframes]
    results = {"bag": options.bag.name, **measure(frames)}
    for name, value in results.items():
        print(f"{name}: {value}")
    if options.json:
        print(f"wrote {write_results(options.json, results, device='cpu')}")


if __name__ == "__main__":
    main()
