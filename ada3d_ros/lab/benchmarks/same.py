"""Suite `same` of `ada3d bench`: the embedded model's answers on this device against a CPU's.

Both in float32, on the same generated rooms, through the pipeline that the node runs. Texts must be
the same and boxes as near as float32 sums in another order leave them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.errors import Ada3DError
from ada3d_ros.lab.benchmarks.bench import Rows, Save, ignore
from ada3d_ros.lab.benchmarks.shapes import BenchShape
from ada3d_ros.lab.evaluation.pipelines import load_room
from ada3d_ros.lab.evaluation.selection import RoomSelection, rooms_of
from ada3d_ros.lab.world.questions import RoomQuestion
from ada3d_ros.model.startup import EMBEDDED
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, Question

ROOMS = 6
MAX_NEW_TOKENS = 12
BOX_M = 1e-3  # the largest difference of a box's centre or size


def run_shape(
    shape: BenchShape, options: argparse.Namespace, device: torch.device, save: Save = ignore
) -> dict[str, Any]:
    """A row per room; the model is the embedded one whatever the shape."""
    count = options.repetitions or ROOMS
    head = {
        "suite": "same",
        "shape": EMBEDDED,
        "n": count,
        "random_weights": False,
        "dtype": "float32",
        "box_tolerance_m": BOX_M,
    }
    rows = Rows(head, save)
    here, on_cpu = (open_embedded(name) for name in (str(device), "cpu"))
    if device.type == "cpu":
        torch.set_num_threads(1)
    selection = RoomSelection(seed=options.seed, scenes=count)
    for number, room in enumerate(rooms_of(selection, on_cpu.view_side)):
        answers = []
        for pipeline in (here, on_cpu):
            load_room(pipeline, room.frames)
            answers.append([ask(pipeline, question) for question in room.questions])
        rows.add([{"room": number, **compare(*answers)}])
    print(table(rows.rows))
    return rows.results


def open_embedded(device: str) -> Ada3DPipeline:
    """The node's pipeline with the embedded model, every view a keyframe, in float32."""
    values = {
        "model.path": EMBEDDED,
        "model.device": device,
        "model.precision": "fp32",
        "keyframe.min_translation_m": 0.0,
        "keyframe.min_rotation_deg": 0.0,
    }
    pipeline = Ada3DPipeline(from_flat(values, AgentConfig()))
    pipeline.check()
    pipeline.load()
    return pipeline


def ask(pipeline: Ada3DPipeline, question: RoomQuestion) -> Answer | str:
    """The answer, or the sentence of what was raised."""
    try:
        if question.phrase:
            return pipeline.ground(Question(question.phrase, max_new_tokens=MAX_NEW_TOKENS))
        asked = Question(question.text, want_boxes=False, max_new_tokens=MAX_NEW_TOKENS)
        return pipeline.ask(asked)
    except Ada3DError as error:
        return f"{type(error).__name__}: {error}"


def compare(ours: Sequence[Answer | str], theirs: Sequence[Answer | str]) -> dict[str, Any]:
    """How many are the same, and the largest difference of a box."""
    same, distance = 0, 0.0
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, str) or isinstance(b, str):
            same += a == b
            continue
        apart = box_distance(a, b)
        distance = max(distance, apart)
        same += a.text == b.text and apart <= BOX_M
    return {
        "questions": len(ours),
        "same": same,
        "box_difference_m": distance,
        "met": same == len(ours),
    }


def box_distance(a: Answer, b: Answer) -> float:
    """Largest difference of centres and sizes in metres; infinite for another number of boxes."""
    if len(a.boxes) != len(b.boxes):
        return float("inf")
    pairs = zip(a.boxes, b.boxes, strict=True)
    gaps = [
        max(np.abs(p.center_m - q.center_m).max(), np.abs(p.size_m - q.size_m).max())
        for p, q in pairs
    ]
    return float(max(gaps, default=0.0))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for a terminal."""
    lines = [f"{'room':>4} {'questions':>9} {'same':>5} {'boxes apart, m':>14}"]
    lines += [
        f"{r['room']:>4} {r['questions']:>9} {r['same']:>5} {r['box_difference_m']:>14.1e}"
        for r in rows
    ]
    return "\n".join(lines)
