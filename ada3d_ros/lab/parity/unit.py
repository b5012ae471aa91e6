"""Parity of a `unit` folder: preprocessing, voxel ids, frame sampling, prompts, box text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ada3d_ros.errors import InvalidRequestError, SourceError
from ada3d_ros.geometry.voxel import voxel_coords, voxel_ids
from ada3d_ros.lab.parity.comparison import Row, compare, exact, not_compared
from ada3d_ros.lab.parity.forward import homogeneous, reference_views, sample_reference_frames
from ada3d_ros.lab.parity.golden_case import Tensors, find_tokenizer, read_json, read_tensors
from ada3d_ros.lab.parity.llava3d import NO_RULE
from ada3d_ros.model.config import VisionConfig
from ada3d_ros.model.prompt import Tokenizer, parse_coordinates
from ada3d_ros.model.spatial import sample_patch_points

UNIT_FILES = ("preproc_voxel.safetensors", "sampling.json", "prompts.json", "boxes.json")


def is_unit(folder: Path) -> bool:
    """Whether the folder holds one of UNIT_FILES.

    A prompts.json that is no list is another model's (Video-3D-LLM's recorder uses the same names).
    """
    if not any((folder / name).is_file() for name in UNIT_FILES):
        return False
    try:
        prompts = folder / "prompts.json"
        return not prompts.is_file() or isinstance(read_json(prompts), list)
    except SourceError:
        return True  # check_unit then says what is wrong


def check_unit(folder: Path) -> Iterator[Row]:
    """All rows of a `unit` folder; each of its files is optional."""
    label = folder.name
    if (folder / UNIT_FILES[0]).is_file():
        yield from _check_preprocessing(folder, label)
    if (folder / "sampling.json").is_file():
        for item in read_json(folder / "sampling.json"):
            ours = sample_reference_frames(item["n_total"], item["num_frames"])
            name = f"sampling {item['n_total']}/{item['num_frames']}"
            yield exact(label, name, ours, item["ids"])
    if (folder / "prompts.json").is_file():
        tokenizer = find_tokenizer(folder)
        yield from _check_prompts(label, tokenizer, read_json(folder / "prompts.json"))
    if (folder / "boxes.json").is_file():
        yield from _check_boxes(label, read_json(folder / "boxes.json"))


def _check_preprocessing(folder: Path, label: str) -> Iterator[Row]:
    """Groups `NAME/in.*` and `NAME/out.*`: a scene's raw frames, or points to voxelise."""
    # By name, inputs and outputs apart.
    datasets = _read_dataset_table(folder / "README.md")
    groups: dict[str, Tensors] = {}
    for key, tensor in read_tensors(folder / UNIT_FILES[0]).items():
        name, _, field = key.partition("/")
        groups.setdefault(name, {})[field] = tensor

    for name, group in sorted(groups.items()):
        inputs = {k.removeprefix("in."): t for k, t in group.items() if k.startswith("in.")}
        golden = {k.removeprefix("out."): t for k, t in group.items() if k.startswith("out.")}

        # Points are voxelised, frames preprocessed.
        if "xyz" in inputs:
            ours = _voxelize(inputs["xyz"])
        else:
            ours = _preprocess(inputs, golden, *datasets.get(name, (None, None)))
        for field in sorted(golden):
            if field in ours:
                yield compare(label, f"{name}.{field}", ours[field], golden[field])
            else:
                yield not_compared(label, f"{name}.{field}", NO_RULE)


def _read_dataset_table(readme: Path) -> dict[str, tuple[str, float]]:
    """name -> (dataset, depth_scale) of the README's table; the folder has them nowhere else."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    rows = re.findall(r"^\|\s*(\w+)\s*\|\s*(\w+)\s*\|.*\|\s*(\d+)\s*\|\s*$", text, re.MULTILINE)
    return {name: (dataset, float(scale)) for name, dataset, scale in rows}


def _preprocess(
    inputs: Tensors, golden: Tensors, dataset: str | None, depth_scale: float | None
) -> Tensors:
    """Views and patch points of raw frames; where the README names no data set, by its camera."""
    dataset = dataset or ("scannet" if "intrinsic_depth" in inputs else "matterport3d")
    depth_scale = depth_scale or (4000.0 if dataset == "matterport3d" else 1000.0)
    side = golden["depth_m"].shape[-1]
    patches = golden["patch_xyz"].shape[1] if "patch_xyz" in golden else side // 14
    views = reference_views(inputs, dataset, depth_scale, VisionConfig(image_size=side))
    return {
        "pixel_values": views.pixels,
        "depth_m": views.depth_m,
        "poses_aligned": views.T_world_cam,
        "intrinsics_adjusted": homogeneous(views.K),
        "patch_xyz": sample_patch_points(views, patches),
    }


def _voxelize(xyz: torch.Tensor) -> Tensors:
    """xyz (B, P, 3) in metres, with the reference's voxels of 0.2 m."""
    coords = voxel_coords(xyz, 0.2)
    return {
        "voxel_coords": coords,
        "voxel_index": torch.stack([voxel_ids(item)[0] for item in coords]),
    }


def _check_prompts(label: str, tokenizer: Tokenizer, items: list[dict[str, Any]]) -> Iterator[Row]:
    for number, item in enumerate(items):
        ids, note = tokenizer.encode(item["prompt"]), item["note"][:40]
        yield exact(label, f"prompts[{number}]", ids, item["ids"], note)


def _check_boxes(label: str, data: dict[str, Any]) -> Iterator[Row]:
    for number, item in enumerate(data.get("query_parse", [])):
        name, clicks = f"boxes.query_parse[{number}]", item.get("clicks", [])
        if item.get("n_placeholders") == len(clicks) and all(len(click) == 3 for click in clicks):
            text, points = parse_coordinates(item["query"])
            ours = (text, [list(point) for point in points])
            yield exact(label, name, ours, (item["rewritten"], clicks), item["query"][:40])
        else:  # the reference crashes or drops a click; ours gives each group its click or refuses
            yield not_compared(label, name, f"reference bug; ours: {_outcome(item['query'])}")
    if "plain_box_formatter" in data:
        reason = "built but never called by the reference"
        yield not_compared(label, "boxes.plain_box_formatter", reason)


def _outcome(query: str) -> str:
    try:
        return f"{len(parse_coordinates(query)[1])} click(s)"
    except InvalidRequestError:
        return "refused"
