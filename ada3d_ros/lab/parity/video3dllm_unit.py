"""Parity of Video-3D-LLM's `unit` folder: geometry, embedding, pooling, frame choice, prompts,
boxes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.geometry.unproject import unproject_depth
from ada3d_ros.lab.evaluation.field.multi3drefer import f1_of_ious
from ada3d_ros.lab.parity.comparison import Row, compare, exact, not_compared
from ada3d_ros.lab.parity.frame_sampling import (
    UNFORCED,
    CoverageRanking,
    coverage_candidates,
    pick_by_coverage,
    point_voxels,
    rank_by_coverage,
    spread_frames,
)
from ada3d_ros.lab.parity.golden_case import Tensors, read_json, read_tensors
from ada3d_ros.lab.parity.llava3d import NO_RULE
from ada3d_ros.lab.parity.video3dllm import check_array
from ada3d_ros.lab.parity.video3dllm_case import find_qwen_tokenizer, recorded_views
from ada3d_ros.lab.parity.video3dllm_reference import build_recorded_views, choose_one
from ada3d_ros.lab.parity.video3dllm_text import check_prompts
from ada3d_ros.model.video3dllm.config import Video3DConfig
from ada3d_ros.model.video3dllm.geometry import crop_color, mean_points, square_of
from ada3d_ros.model.video3dllm.ground import MASS, choose_several
from ada3d_ros.model.video3dllm.tokens import (
    place_voxels,
    pool_patches,
    rows_with_newlines,
    sine_embedding,
)
from ada3d_ros.types import Box3D

GEOMETRY, COVERAGE = "geometry.safetensors", "max_coverage.safetensors"
INPUTS = ("raw_rgb", "raw_depth", "pose", "intrinsic_depth", "axis_align_matrix")
RAW = "_raw_depth"
EMBEDDING, HALF = 5e-5, 5e-4  # of float32 and of float16 embeddings
IOU = 1e-6
OTHER_POOLING = "13x13 cells, for which the reference itself has no places"
DEFAULT = Video3DConfig()  # the folder has the real geometry and no configuration


def is_video3d_unit(folder: Path) -> bool:
    """Whether the folder holds this recorder's unit data."""
    return any((folder / name).is_file() for name in (GEOMETRY, COVERAGE))


@torch.inference_mode()
def check_video3d_unit(folder: Path) -> Iterator[Row]:
    """All rows of a `unit` folder; each of its files is optional."""
    label = folder.name
    if (folder / GEOMETRY).is_file():
        yield from _check_geometry(label, read_tensors(folder / GEOMETRY))
    if (folder / "geometry.json").is_file():
        for item in read_json(folder / "geometry.json")["geometries"]:
            square = square_of(tuple(item["depth_wh"]), DEFAULT.vision.image_size, portrait=False)
            yield exact(label, f"g{item['g']}.resized_width", square.size[0], item["resized_width"])
    if (folder / COVERAGE).is_file():
        yield from _check_coverage(label, read_tensors(folder / COVERAGE))
    if (folder / "sampling.json").is_file():
        yield from _check_sampling(label, read_json(folder / "sampling.json"))
    if (folder / "boxes.json").is_file():
        yield from _check_boxes(label, read_json(folder / "boxes.json"))
    if (folder / "prompts.json").is_file():
        tokenizer = find_qwen_tokenizer(folder)
        yield from check_prompts(label, tokenizer, read_json(folder / "prompts.json"))


def _check_geometry(label: str, arrays: Tensors) -> Iterator[Row]:
    """Frames `g0_*`, `g1_*`, ...: raw ones to cells; then functions on arrays."""
    frames = sorted(
        {match[1] for name in arrays if (match := re.match(r"(g\d+)_raw_depth$", name))}
    )
    for frame in frames:
        prefix = f"{frame}_"
        group = {k.removeprefix(prefix): t for k, t in arrays.items() if k.startswith(prefix)}
        ours = _preprocess(group)
        for key, golden in sorted(group.items()):
            if key not in INPUTS:
                yield replace(check_array(label, key, golden, ours), name=f"{frame}_{key}")
    functions = _functions(arrays)
    for key, golden in sorted(arrays.items()):
        if re.match(r"pool\d*_out_(average|max)$", key):
            yield not_compared(label, key, OTHER_POOLING)
        elif "_out" in key and key in functions:
            is_half, exactly = golden.dtype == torch.float16, key in ("disc_out", "grid_out")
            tolerance = 0.0 if exactly else HALF if is_half else EMBEDDING
            yield compare(label, key, functions[key], golden, tolerance=tolerance)
        elif "_out" in key:
            yield not_compared(label, key, NO_RULE)


def _preprocess(group: Tensors) -> Tensors:
    """One raw frame by the reference's rules; half_*: in float16 from the world coordinates on, as
    its evaluation has them, which moves some cells to the next voxel (decision 185: not served).
    """
    stacked = {k: group[k][None] for k in ("raw_rgb", "raw_depth")}
    others = {k: group[k] for k in ("intrinsic_depth", "axis_align_matrix")}
    recorded = recorded_views(stacked | others | {"poses": group["pose"][None]}, 1000)
    views = build_recorded_views(recorded, DEFAULT)
    height, width = group["raw_depth"].shape
    square = square_of((width, height), DEFAULT.vision.image_size, portrait=False)
    cells_m = mean_points(views.points_m, DEFAULT.cells_per_side, DEFAULT.cell_px)
    seen = DEFAULT.cells_per_side * DEFAULT.cell_px
    half = views.points_m[:, :seen, :seen].permute(0, 3, 1, 2).half()
    half_cells = F.avg_pool2d(half, DEFAULT.cell_px).permute(0, 2, 3, 1)
    return {
        "half_coords_pooled": half_cells,
        "half_voxel": place_voxels(group.get("half_coords_pooled", half_cells), DEFAULT),
        "cropped_rgb": torch.from_numpy(crop_color(recorded.rgb[0], square).copy()),
        "pixel_values": views.pixels[0],
        "world_coords": views.points_m[0],
        "coords_pooled": cells_m,
        "voxel": place_voxels(cells_m, DEFAULT),
    }


def _functions(arrays: Tensors) -> Tensors:
    """Discretisation, embedding, pooling and newlines of the recorded inputs, by output's name."""
    ours = {}
    for key, golden in arrays.items():
        embedded = re.fullmatch(r"(pe|pe_half)_out_(\d+)", key)
        pooled = re.fullmatch(r"(pool\d*)_out_bilinear", key)
        if embedded:
            voxels = arrays[f"{embedded[1]}_in"].float()
            ours[key] = sine_embedding(voxels, int(embedded[2])).to(golden.dtype)
        elif pooled:
            cells = round(golden.shape[1] ** 0.5)
            ours[key] = pool_patches(arrays[f"{pooled[1]}_in"], cells)
        elif key == "disc_out":
            ours[key] = place_voxels(arrays["disc_in"], DEFAULT)
        elif key == "grid_out":
            side = round(arrays["grid_in"].shape[1] ** 0.5)
            grids = arrays["grid_in"].unflatten(1, (side, side))
            ours[key] = torch.cat([rows_with_newlines(g, arrays["newline"])[0] for g in grids])
    return ours


def _check_coverage(label: str, arrays: Tensors) -> Iterator[Row]:
    """Raw depth frames to a ranking by what they cover of the cloud."""
    depth_m = arrays["raw_depth"].float() / 1000
    poses = (arrays["axis_align_matrix"] @ arrays["poses"]).float()
    points = unproject_depth(depth_m, arrays["intrinsic_depth"].float(), poses).numpy()
    frames = coverage_candidates(len(points))
    seen = [point_voxels(points[frame], DEFAULT.voxel_size_m) for frame in frames]
    ranking = rank_by_coverage(seen, arrays["cloud_voxels"].numpy().astype(np.int64))
    order = [frames[index] for index in ranking.frames]
    yield exact(label, "max_coverage.order", order, arrays["order"].tolist())
    new = list(ranking.new_voxels)
    yield exact(label, "max_coverage.new_voxels", new, arrays["new_voxels"].tolist())
    total, selected = int(arrays["num_all_voxels"]), int(arrays["num_select_voxels"])
    yield exact(label, "max_coverage.num_all_voxels", ranking.total, total)
    yield exact(label, "max_coverage.num_select_voxels", sum(new), selected)


def _check_sampling(label: str, data: Mapping[str, Any]) -> Iterator[Row]:
    for number, item in enumerate(data.get("uniform", [])):
        wanted = item["frames"] if item.get("force_sample", True) else UNFORCED
        ours = spread_frames(item["n"], wanted)
        yield exact(label, f"uniform[{number}]", ours, item["indices"], f"{wanted} of {item['n']}")
    for number, item in enumerate(data.get("max_coverage_pick", [])):
        ranking = CoverageRanking(
            tuple(item["ranked_frames"]), tuple(item["new_voxels"]), item["num_all_voxels"]
        )
        ours = pick_by_coverage(ranking, item["strategy"], item["frames_upbound"])
        name = f"max_coverage_pick[{number}]"
        yield exact(label, name, ours, item["chosen"], item["strategy"])


def _check_boxes(label: str, data: Mapping[str, Any]) -> Iterator[Row]:
    """Overlap of boxes, F1 of several, and which boxes scores choose."""
    for number, item in enumerate(data.get("iou", [])):
        ours, golden = _ious([item["a"]], [item["b"]])[0], [item["iou"]]
        yield compare(
            label, f"iou[{number}]", torch.tensor(ours), torch.tensor(golden), tolerance=IOU
        )
    for number, item in enumerate(data.get("multi3drefer_f1", [])):
        ious = _ious(item["pred"], item["gt"])
        for percent in (25, 50):
            f1 = f1_of_ious(ious, len(item["pred"]), len(item["gt"]), percent)
            name = f"multi3drefer_f1[{number}].{percent}"
            yield exact(label, name, round(f1, 9), round(item[f"f1_{percent}"], 9))
    for number, item in enumerate(data.get("selection", [])):
        scores = torch.tensor(item["scores"])
        one, several = choose_one(scores), choose_several(scores, DEFAULT.ground_temperature, MASS)
        yield exact(label, f"scanrefer[{number}]", one, item["scanrefer_index"])
        yield exact(label, f"multi3drefer[{number}]", several, item["multi3drefer_indices"])


def _ious(found: list[list[float]], true: list[list[float]]) -> list[list[float]]:
    """(found, true) of boxes given as centre and full size."""
    a, b = ([Box3D(np.array(x[:3]), np.array(x[3:])) for x in boxes] for boxes in (found, true))
    return [[iou_axis_aligned(x, y) for y in b] for x in a]
