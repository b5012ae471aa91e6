"""Suite `scene-update` of `ada3d bench`: what a new keyframe costs a scene that is cached.

A room's 20 views are in; then a keyframe comes that sees 85 new voxels and 15 % of the old ones,
and an old view goes. Every repetition starts from the same 20 views. Random weights: times are
real. That the voxel table afterwards is bit for bit the one that its views alone would make is
checked in every repetition.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ada3d_ros.config import from_flat
from ada3d_ros.engine.scene_prefix import PrefixOptions, ScenePrefix
from ada3d_ros.engine.token_selection import ChosenTokens, SceneContext
from ada3d_ros.errors import ConfigError, ModelError
from ada3d_ros.lab.benchmarks.bench import Timing, ratio_of, timed
from ada3d_ros.lab.benchmarks.models import (
    SYSTEM_TEXT,
    VIEWS,
    VOXEL_M,
    BenchShape,
    choose_dtype,
    head_of,
    make_model,
    make_scene,
)
from ada3d_ros.lab.benchmarks.spread import Spread
from ada3d_ros.model.config import VisionConfig
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.spatial import mean_tokens, sum_view
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene.voxel_table import VoxelSums, VoxelTable, find_voxels
from ada3d_ros.types import PromptSequence, SpatialTokens

NEW_VOXELS = 85  # that a keyframe adds
TOUCHED = 0.15  # share of the old voxels that it sees too
STEPS = ("look", "evict", "append", "rebuild", "longest_chunk")
TARGET_MS = 10.0  # append, p95, on a GPU
REPETITIONS = 20
SMALL_TOWER = VisionConfig(  # of a CPU: as many patches as a keyframe has voxels, and some more
    hidden_size=256,
    intermediate_size=1024,
    num_hidden_layers=6,
    num_attention_heads=4,
    image_size=224,
)


@torch.inference_mode()
def run_shape(
    shape: BenchShape, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """All scene sizes of one shape; a scene leaves room for the keyframe's voxels under the model's
    cap.
    """
    dtype = choose_dtype(shape, options.precision, device)
    repetitions = options.repetitions or REPETITIONS
    vision = shape.vision or (VisionConfig() if device.type == "cuda" else SMALL_TOWER)
    print(
        f"vision tower: {vision.num_run_layers} of {vision.num_hidden_layers} layers of"
        f" {vision.hidden_size}, {vision.image_size} px, {vision.patches_per_side**2} patches a"
        " view"
    )
    _, model = make_model(dataclasses.replace(shape, vision=vision), device, dtype)
    assert model is not None
    rows = []
    for count in shape.spatial:
        count = min(count, model.config.token_cap - NEW_VOXELS)
        keyframes = _Keyframes(model, count, repetitions + 1, options.seed)
        rows.append(keyframes.row(f"shape {shape.name}, N = {count}"))
    print(table(rows))
    return {
        **head_of("scene-update", shape, repetitions, dtype, device),
        "vision": {
            "hidden": vision.hidden_size,
            "layers": vision.num_run_layers,
            "image_px": vision.image_size,
            "patches": vision.patches_per_side**2,
        },
        "views": VIEWS,
        "chunk_tokens": chunk_tokens(),
        "target_ms": TARGET_MS if device.type == "cuda" else None,
        "rows": rows,
    }


def chunk_tokens() -> int:
    """Rows of a chunk, as the node builds by default."""
    return from_flat({}).cache.chunk_tokens


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class View:
    """pixels (1, 3, S, S), normalised; xyz_m (P, 3) float32: every patch's point, world."""

    pixels: torch.Tensor
    xyz_m: torch.Tensor


class _Keyframes:
    """A room with its first views in, and the keyframes that come then."""

    def __init__(self, model: Llava3D, count: int, keyframes: int, seed: int) -> None:
        self.model, self.device, self.count = model, model.device, count
        vision, made = model.config.vision, torch.Generator().manual_seed(seed)
        patches = vision.patches_per_side**2
        touched = round(TOUCHED * count)
        if patches < NEW_VOXELS + touched or VIEWS * patches < count:
            raise ConfigError(
                f"a view of {patches} patches is too small for {NEW_VOXELS} new and {touched} old"
                " voxels."
            )
        scene = make_scene(
            count + NEW_VOXELS, model.config.decoder.hidden_size, self.device, torch.float32, seed
        )
        self.system = scene.text[:SYSTEM_TEXT].to(model.decoder.dtype)
        order = torch.randperm(count + NEW_VOXELS, generator=made)
        old, new = order[:count].sort().values, order[count:].sort().values
        seen = [
            old[torch.arange(view * patches, (view + 1) * patches) % count] for view in range(VIEWS)
        ]
        for _ in range(keyframes):
            both = torch.cat((new, old[torch.randperm(count, generator=made)[:touched]]))
            seen.append(both[torch.arange(patches) % len(both)])
        side = vision.image_size
        self.views = [
            View(
                torch.randn(1, 3, side, side, generator=made).to(self.device),
                scene.candidates.xyz_m[rows.to(self.device)],
            )
            for rows in seen
        ]
        self.base = self.table_of(range(VIEWS))
        self.front = self.prefix_of(self.base)
        while self.front.step():
            pass

    def look(self, name: int) -> VoxelSums:
        """One view through the vision tower, summed per voxel."""
        features = self.model.encode_views(self.views[name].pixels)[0]
        return sum_view(features, self.views[name].xyz_m, self.model.position_embedding, VOXEL_M)

    def table_of(self, names: Sequence[int]) -> VoxelTable:
        """Made of these views, looked at anew."""
        table = VoxelTable()
        for name in names:
            table.add(name, self.look(name))
        return table

    def tokens(self, sums: VoxelSums) -> SpatialTokens:
        return mean_tokens(sums, self.model.decoder.dtype, VOXEL_M)

    def prefix_of(self, table: VoxelTable) -> ScenePrefix:
        """The exact prefix of a table, all its rows waiting."""
        tokens = self.tokens(table.sums)
        embeds = torch.cat((self.system, self.model.project(tokens.features)))
        span, positions = (SYSTEM_TEXT, len(embeds)), torch.arange(len(embeds), device=self.device)
        chosen = ChosenTokens(
            tokens, torch.arange(len(table.sums), device=self.device), len(table.sums)
        )
        prompt = PromptSequence(embeds, positions, span, tokens.xyz_m)
        context = SceneContext(SceneSnapshot(), tokens, chosen, embeds[SYSTEM_TEXT:])
        return ScenePrefix(self.model.decoder, prompt, context, PrefixOptions(chunk_tokens()))

    def append(self, table: VoxelTable) -> int:
        """The voxels of `table` that the front prefix lacks, put behind it in a copy that shares
        its keys and values (what is written behind them is forgotten by the next one); how many
        they were.
        """
        front = copy.copy(self.front)
        new = torch.nonzero(find_voxels(self.base.sums.coords, table.sums.coords) < 0)[:, 0]
        tokens = self.tokens(table.sums.at(new))
        front.append_tokens(self.model.project(tokens.features), tokens, SceneSnapshot())
        while front.step():
            pass
        return len(new)

    def rebuild(self, table: VoxelTable) -> list[Timing]:
        """The exact prefix of `table`: what making its rows took, then every chunk."""
        made: list[ScenePrefix] = []
        times = [timed(lambda: made.append(self.prefix_of(table)), self.device)]
        while not made[0].ready:
            times.append(timed(made[0].step, self.device))
        return times

    def keyframe(self, number: int) -> tuple[dict[str, Timing], VoxelTable, int]:
        """Keyframe `number` comes and an old view goes: seconds per step, the table afterwards, and
        how many voxels were put behind.
        """
        table, name = self.base.of_views(self.base.views), VIEWS + number
        appended: list[int] = []
        times = {
            "look": timed(lambda: table.add(name, self.look(name)), self.device),
            "evict": timed(lambda: table.remove(number % VIEWS), self.device),
            "append": timed(lambda: appended.append(self.append(table)), self.device),
        }
        making, *chunks = self.rebuild(table)
        whole = [making, *chunks]
        times["rebuild"] = Timing(sum(t.wall_s for t in whole), sum(t.cpu_s for t in whole))
        times["longest_chunk"] = max(chunks, key=lambda t: t.of(self.device))
        require_same(table, self.table_of(table.views))
        return times, table, appended[0]

    def row(self, label: str) -> dict[str, Any]:
        """All keyframes, the first as warm-up."""
        runs = [
            self.keyframe(number)
            for number in tqdm(range(len(self.views) - VIEWS), unit="keyframe", desc=label)
        ]
        times = {step: [run[0][step] for run in runs[1:]] for step in STEPS}
        steps = {step: milliseconds(values, self.device) for step, values in times.items()}
        judged = self.device.type == "cuda"
        return {
            "N": self.count,
            "new_voxels": runs[-1][2],
            "touched_voxels": round(TOUCHED * self.count),
            "voxels_after": len(runs[-1][1].sums),
            "steps": steps,
            "append_ratio": ratio_of(times["append"], times["rebuild"], self.device),
            "target_met": steps["append"]["p95_ms"] <= TARGET_MS if judged else None,
            "table_exact": True,  # or require_same had raised
        }


def require_same(table: VoxelTable, rebuilt: VoxelTable) -> None:
    """Raise ModelError unless both hold the same sums, bit for bit."""
    for field in dataclasses.fields(VoxelSums):
        if not torch.equal(getattr(table.sums, field.name), getattr(rebuilt.sums, field.name)):
            raise ModelError(
                "the voxel table after a keyframe came and one went is not the one its views make:"
                f" {field.name} differs."
            )


def milliseconds(times: Sequence[Timing], device: torch.device) -> dict[str, Any]:
    """p50 and p95 in ms, of what ratios are made of; all of them as a spread."""
    values = [t.of(device) * 1e3 for t in times]
    return {
        "p50_ms": float(np.percentile(values, 50)),
        "p95_ms": float(np.percentile(values, 95)),
        "ms": Spread.from_values(values),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for a terminal: p50 / p95 in ms."""
    lines = [
        f"{'N':>5} "
        + " ".join(f"{step.replace('_', ' '):>15}" for step in STEPS)
        + f" {'append / rebuild':>21}"
    ]
    for r in rows:
        cells = [
            f"{r['steps'][step]['p50_ms']:.1f} / {r['steps'][step]['p95_ms']:.1f}" for step in STEPS
        ]
        lines.append(
            f"{r['N']:>5} "
            + " ".join(f"{cell:>15}" for cell in cells)
            + f" {r['append_ratio']!s:>21}"
        )
        met = {True: "met", False: "missed", None: "not judged on a CPU"}[r["target_met"]]
        lines.append(f"      append p95 at most {TARGET_MS:g} ms: {met}; ms are p50 / p95")
    return "\n".join(lines)
