"""Parity with the recorded reference: every array of a golden folder against the production code,
one line each.

A LLaVA-3D case runs from raw images to greedy ids; `unit/` checks preprocessing, voxel ids, frame
sampling and prompts; pruning_parity.py has the cases of FastV, PyramidDrop and AdaToken-3D.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ada3d_ros.errors import Ada3DError, InvalidRequestError, SourceError
from ada3d_ros.geometry.voxel import voxel_coords, voxel_ids
from ada3d_ros.lab.benchmarks.comparison import Row, compare, exact
from ada3d_ros.lab.parity.golden_case import (
    CASE_FILES,
    GoldenCase,
    SceneContext,
    Tensors,
    build_rows,
    find_tokenizer,
    homogeneous,
    read_json,
    read_tensors,
    reference_views,
    run_batch,
    run_greedy,
)
from ada3d_ros.lab.parity.pruning import check_adatoken, check_pruned, is_adatoken, is_pruned
from ada3d_ros.model.config import VisionConfig
from ada3d_ros.model.prompt import TEMPLATES, Tokenizer, parse_coordinates, render_question
from ada3d_ros.model.spatial import sample_patch_points
from ada3d_ros.scene.views import sample_reference_frames

UNIT_FILES = ("preproc_voxel.safetensors", "sampling.json", "prompts.json", "boxes.json")


def check_case(folder: Path) -> Iterator[Row]:
    """All rows of one LLaVA-3D case."""
    case, label = GoldenCase(folder), folder.name
    yield from _check_text(case, label)
    for aspect in case.aspects:
        prefix = f"{aspect}." if aspect else ""
        visuals = case.run_visuals(aspect)
        prompts, taken = build_rows(case, visuals, prefix)
        ours = _by_name(case, visuals, taken, prefix) | run_batch(case, prompts)
        ours["prompt_features"] = case.model.encode_clicks(
            case.inputs["clicks"].tolist() if "clicks" in case.inputs else ()
        )
        if len(prompts) == 1 and prefix + "greedy_ids" in case.expected:
            ours |= run_greedy(case, prompts[0], len(case.expected[prefix + "greedy_ids"]))
        first = aspect == case.aspects[0]
        for key in sorted(case.expected):
            if key.startswith(prefix) or (
                first and not key.startswith(tuple(f"{a}." for a in case.aspects))
            ):
                yield _check_array(case, label, key, ours, key.removeprefix(prefix), prefix)
        if "greedy_logits" in ours and prefix + "logits" in case.expected:
            last = case.expected[prefix + "logits"][0, -1]
            yield compare(
                label,
                prefix + "prefill.logits",
                ours["greedy_logits"][0],
                last,
                "engine prefill, last row",
            )


def _by_name(
    case: GoldenCase, visuals: list[SceneContext], taken: list[SceneContext | None], prefix: str
) -> Tensors:
    """Arrays by recorded name: `s0.depth_m` of one visual, and without prefix those of all scenes
    in batch order.
    """
    named = {
        f"{v.name}.{name}": array for v in visuals for name, array in v.arrays.items() if v.name
    }
    used = [v for v in taken if v is not None]
    parts = [v for v in used if v.is_scene] or used
    if not parts:
        return named
    for name in parts[0].arrays:
        arrays, golden = [v.arrays[name] for v in parts], case.expected.get(prefix + name)
        stacked = golden is not None and golden.ndim == arrays[0].ndim + 1
        named[name] = torch.stack(arrays) if stacked else torch.cat(arrays)
    if parts[0].is_scene:
        counts = torch.tensor([len(v.arrays["pooled_features"]) for v in parts])
        named["batch_offset"] = counts.cumsum(0)
    return named


def _check_array(
    case: GoldenCase, label: str, key: str, ours: Tensors, name: str, prefix: str
) -> Row:
    golden = case.expected[key]
    if name not in ours:
        return Row(label, key, math.nan, 0.0, "no rule for an array of this name", compared=False)
    if name == "hidden_mid" and "hidden_mid_index" not in case.data.get("capture", {}):
        return Row(
            label,
            key,
            math.nan,
            0.0,
            "config.json does not say which layer (capture.hidden_mid_index)",
            compared=False,
        )
    value = ours[name]
    if value.ndim == golden.ndim + 1 and value.shape[0] == 1:
        value = value[0]
    mask = case.expected.get(prefix + "attention_mask")
    if (
        mask is not None
        and name in ("logits", "hidden_mid", "hidden_last")
        and value.shape == golden.shape
    ):
        keep = mask.bool()
        return compare(
            label,
            key,
            value[keep],
            golden[keep],
            f"{int(keep.sum())} of {keep.numel()} rows: the rest is padding",
        )
    return compare(label, key, value, golden)


def _check_text(case: GoldenCase, label: str) -> Iterator[Row]:
    """Frame choice, prompt text and prompt ids, where the case records them."""
    for prefix, inputs in case.groups.items():
        total = case.scene_settings(prefix).get("n_total_frames")
        if "sample_ids" in inputs and total is not None:
            chosen = sample_reference_frames(total, case.data["mm"]["num_frames"])
            yield exact(
                label,
                (prefix + "." if prefix else "") + "sample_ids",
                chosen,
                inputs["sample_ids"].tolist(),
            )
    prompts = case.text.get("prompts") or ([case.text["prompt"]] if "prompt" in case.text else [])
    questions = case.text.get("questions") or (
        [case.text["question"]] if "question" in case.text else []
    )
    for row, (prompt, ids) in enumerate(zip(prompts, case.row_ids, strict=False)):
        yield exact(label, f"input_ids[{row}]", case.tokenizer.encode(prompt), ids, "prompt -> ids")
    for row, (question, prompt) in enumerate(zip(questions, prompts, strict=False)):
        template = next(
            (name for name, t in TEMPLATES.items() if prompt.startswith(t.system)), "llava_v1"
        )
        yield exact(
            label,
            f"prompt[{row}]",
            render_question(question, template),
            prompt,
            f"{template} template",
        )
    if "greedy_text" in case.text and "greedy_ids" in case.expected:
        text = case.tokenizer.decode(case.expected["greedy_ids"].tolist())
        yield exact(label, "greedy_text", text.strip(), case.text["greedy_text"], "ids -> text")


def check_unit(folder: Path) -> Iterator[Row]:
    """All rows of a `unit` folder; each of its files is optional."""
    label = folder.name
    if (folder / UNIT_FILES[0]).is_file():
        yield from _check_preprocessing(folder, label)
    if (folder / "sampling.json").is_file():
        for item in read_json(folder / "sampling.json"):
            ours = sample_reference_frames(item["n_total"], item["num_frames"])
            yield exact(
                label, f"sampling {item['n_total']}/{item['num_frames']}", ours, item["ids"]
            )
    if (folder / "prompts.json").is_file():
        tokenizer = find_tokenizer(folder)
        yield from _check_prompts(label, tokenizer, read_json(folder / "prompts.json"))
    if (folder / "boxes.json").is_file():
        yield from _check_boxes(label, read_json(folder / "boxes.json"))


def _check_preprocessing(folder: Path, label: str) -> Iterator[Row]:
    tensors, datasets = (
        read_tensors(folder / UNIT_FILES[0]),
        _read_dataset_table(folder / "README.md"),
    )
    groups: dict[str, Tensors] = {}
    for key, tensor in tensors.items():
        name, _, field = key.partition("/")
        groups.setdefault(name, {})[field] = tensor
    for name, group in sorted(groups.items()):
        inputs = {
            key.removeprefix("in."): tensor
            for key, tensor in group.items()
            if key.startswith("in.")
        }
        ours = (
            _voxelize(inputs["xyz"])
            if "xyz" in inputs
            else _preprocess(inputs, group, *datasets.get(name, (None, None)))
        )
        for key in sorted(group):
            if key.startswith("out."):
                field = key.removeprefix("out.")
                if field in ours:
                    yield compare(label, f"{name}.{field}", ours[field], group[key])
                else:
                    yield Row(
                        label,
                        f"{name}.{field}",
                        math.nan,
                        0.0,
                        "no rule for an array of this name",
                        compared=False,
                    )


def _read_dataset_table(readme: Path) -> dict[str, tuple[str, float]]:
    """name -> (dataset, depth_scale) of the README's table: the folder records them nowhere else."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    rows = re.findall(r"^\|\s*(\w+)\s*\|\s*(\w+)\s*\|.*\|\s*(\d+)\s*\|\s*$", text, re.MULTILINE)
    return {name: (dataset, float(scale)) for name, dataset, scale in rows}


def _preprocess(
    inputs: Tensors, group: Tensors, dataset: str | None, depth_scale: float | None
) -> Tensors:
    dataset = dataset or ("scannet" if "intrinsic_depth" in inputs else "matterport3d")
    depth_scale = depth_scale or (4000.0 if dataset == "matterport3d" else 1000.0)
    side = group["out.depth_m"].shape[-1]
    views = reference_views(inputs, dataset, depth_scale, VisionConfig(image_size=side))
    return {
        "pixel_values": views.pixels,
        "depth_m": views.depth_m,
        "poses_aligned": views.T_world_cam,
        "intrinsics_adjusted": homogeneous(views.K),
        "patch_xyz": sample_patch_points(
            views, group["out.patch_xyz"].shape[1] if "out.patch_xyz" in group else side // 14
        ),
    }


def _voxelize(xyz: torch.Tensor) -> Tensors:
    coords = voxel_coords(xyz, 0.2)
    return {
        "voxel_coords": coords,
        "voxel_index": torch.stack([voxel_ids(item)[0] for item in coords]),
    }


def _check_prompts(label: str, tokenizer: Tokenizer, items: list[dict[str, Any]]) -> Iterator[Row]:
    for number, item in enumerate(items):
        yield exact(
            label,
            f"prompts[{number}]",
            tokenizer.encode(item["prompt"]),
            item["ids"],
            item["note"][:40],
        )


def _check_boxes(label: str, data: dict[str, Any]) -> Iterator[Row]:
    for number, item in enumerate(data.get("query_parse", [])):
        name, clicks = f"boxes.query_parse[{number}]", item.get("clicks", [])
        if item.get("n_placeholders") == len(clicks) and all(len(click) == 3 for click in clicks):
            parsed = parse_coordinates(item["query"])
            ours = (parsed.text, [list(click) for click in parsed.clicks])
            yield exact(label, name, ours, (item["rewritten"], clicks), item["query"][:40])
        else:  # the reference crashes or drops a click; ours gives each group its click or refuses
            yield Row(
                label,
                name,
                math.nan,
                0.0,
                f"reference bug; ours: {_outcome(item['query'])}",
                compared=False,
            )
    if "plain_box_formatter" in data:
        yield Row(
            label,
            "boxes.plain_box_formatter",
            math.nan,
            0.0,
            "built but never called by the reference",
            compared=False,
        )


def _outcome(query: str) -> str:
    try:
        return f"{len(parse_coordinates(query).clicks)} click(s)"
    except InvalidRequestError:
        return "refused"


def run_parity(path: str | Path) -> Iterator[Row | Ada3DError]:
    """Rows of a case folder, or of every case folder in it; an error in place of a folder that
    cannot be read.

    Folders of other golden data give one row that was not compared.
    """
    folder = Path(path)
    if not folder.is_dir():
        yield SourceError(
            f"{folder} is not a folder; give a golden case folder or a folder of them."
        )
        return
    if _find_checks(folder) is not None:
        yield from _run_folder(folder)
        return
    subfolders = _children(folder)
    if not any(
        _find_checks(child) or any(map(_find_checks, _children(child))) for child in subfolders
    ):
        yield SourceError(
            f"{folder} is no golden case: expected {', '.join(CASE_FILES)}, or one of"
            f" {', '.join(UNIT_FILES)}, or a case of FastV, PyramidDrop or AdaToken-3D."
        )
    for child in subfolders:
        yield from _run_folder(child)


def _children(folder: Path) -> list[Path]:
    return [child for child in sorted(folder.iterdir()) if child.is_dir()]


def _run_folder(folder: Path) -> Iterator[Row | Ada3DError]:
    checks = _find_checks(folder)
    if checks is None:
        inner = [child for child in _children(folder) if _find_checks(child) is not None]
        for child in inner:
            yield from _run_folder(child)
        if not inner:
            yield Row(
                folder.name,
                "-",
                math.nan,
                0.0,
                "no data that this command compares",
                compared=False,
            )
        return
    try:
        yield from checks(folder)
    except Ada3DError as error:
        yield error
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # arrays that do not fit each other
        yield SourceError(f"{folder} is not a usable golden case: {type(error).__name__}: {error}")


def _find_checks(folder: Path) -> Callable[[Path], Iterator[Row]] | None:
    if any((folder / name).is_file() for name in UNIT_FILES):
        return check_unit
    if is_adatoken(folder):
        return check_adatoken
    if is_pruned(folder):
        return check_pruned
    if not any((folder / name).is_file() for name in CASE_FILES[1:]):
        return None
    try:
        return check_case if "clip" in read_json(folder / "config.json") else None
    except SourceError:
        return check_case  # which then says what is wrong


def main(argv: list[str]) -> int:
    """`ada3d parity DIR`: prints the rows; returns 0 if all passed, 1 over a tolerance, 2 for an
    unreadable folder.
    """
    parser = argparse.ArgumentParser(
        prog="ada3d parity",
        description=(
            "Compares this package with recorded outputs of the reference codes (LLaVA-3D, FastV,"
            " PyramidDrop, AdaToken-3D), array by array."
        ),
        epilog=(
            "Tolerances (absolute): pixels, depth, poses 1e-6; intrinsics 1e-5 px; points 1e-5 m;"
            " features 1e-4; logits 5e-4; ids and voxel ids exact. Pruning: kept indices,"
            " positions, lengths, tokens exact; logits 1e-3; sums 1e-4; information 1e-6; curves"
            " 1e-3; losses 1e-6. Exit status: 0 all passed, 1 over a tolerance, 2 a folder that"
            " cannot be read."
        ),
    )
    parser.add_argument(
        "dir",
        type=Path,
        help=(
            "a golden case folder (config.json, inputs/expected/weights.safetensors), a "
            "unit or adatoken folder, or a folder that holds several of them"
        ),
    )
    parser.add_argument("--quiet", action="store_true", help="print failures and the summary only")
    options = parser.parse_args(argv)
    passed = failed = listed = errors = 0
    for result in run_parity(options.dir):
        if isinstance(result, Ada3DError):
            errors += 1
            print(f"ERROR {result}")
            continue
        passed += result.compared and result.passed
        failed += not result.passed
        listed += not result.compared
        if not options.quiet or not result.passed:
            print(result)
    print(
        f"{passed} passed, {failed} failed, {listed} not compared (reasons above), {errors}"
        " folder(s) not readable"
    )
    if errors or not passed + failed:
        return 2
    return 1 if failed else 0
