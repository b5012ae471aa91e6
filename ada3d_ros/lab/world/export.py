"""Generated rooms and questions in the file shapes of ScanQA, SQA3D, ScanRefer, Multi3DRefer and
Scan2Cap, and their views in ScanNet's folder layout.

Their evaluators read them. Shapes: reference/llava3d.md 5.2 (question lists and ground truth as
LLaVA-3D's scripts read them), ScanRefer's and Multi3DRefer's own lists with boxes added. Points and
boxes are metres in the world frame, boxes centre and full extents.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ada3d_ros.lab.world.graph import Graph, Thing
from ada3d_ros.lab.world.room_question import RoomQuestion
from ada3d_ros.types import RgbdFrame

FILES = (
    "scanqa_questions",
    "scanqa_answers",
    "sqa3d_questions",
    "sqa3d_answers",
    "scanrefer",
    "multi3drefer",
    "scan2cap",
)
SQA3D_FIRST_WORDS = ("What", "Is", "How", "Can", "Which")  # of its question types 0..4; 5 = others
AskedRooms = Iterable[tuple[str, Graph, Sequence[RoomQuestion]]]


def scene_name(split: str, level: int, seed: int) -> str:
    """`generated/test1_000007`: the room that `make_rooms(split, [seed], level)` makes."""
    return f"generated/{split}{level}_{seed:06d}"


def export(asked: AskedRooms, folder: Path) -> dict[str, int]:
    """Writes one JSON list for each of FILES to the folder; the number of entries of each.

    asked: scene name, graph and questions per room.
    """
    files: dict[str, list[dict[str, Any]]] = {name: [] for name in FILES}
    for scene, graph, questions in asked:
        things = {thing.number: thing for thing in graph.things}
        for number, question in enumerate(questions):
            name = f"{scene.rsplit('/', 1)[-1]}_{number:03d}"

            # Captions are Scan2Cap's, phrases Multi3DRefer's and ScanRefer's (it has none of absent
            # things), situations SQA3D's, all else ScanQA's.
            if question.kind == "caption":
                thing = things[question.evidence[0]]
                files["scan2cap"].append(_scan2cap(name, scene, question, thing))
            elif question.phrase:
                target = None if question.target is None else things[question.target]
                entry = _multi3drefer(scene, number, question, target)
                if target is None and any(t.category in question.phrase for t in graph.things):
                    entry["eval_type"] = "zt_w_d"
                files["multi3drefer"].append(entry)
                if target is not None:
                    files["scanrefer"].append(_scanrefer(scene, number, question, target))
            else:
                kind = "sqa3d" if question.kind == "relation" else "scanqa"
                asking = {"question_id": name, "video": scene, "text": question.text}
                files[f"{kind}_questions"].append(asking)
                files[f"{kind}_answers"].append(_answer(kind, name, question))

    folder.mkdir(parents=True, exist_ok=True)
    for file, entries in files.items():
        text = json.dumps(entries, indent=1) + "\n"
        (folder / f"{file}.json").write_text(text, encoding="utf-8")
    return {file: len(entries) for file, entries in files.items()}


def export_scene(frames: Sequence[RgbdFrame], folder: Path) -> None:
    """Views as ScanNet's exporter lays them out: color/, depth/ (16-bit PNG, millimetres, 0 = no
    reading), pose/ (4x4, camera to world), intrinsic/; colour without loss.
    """
    for name in ("color", "depth", "pose", "intrinsic"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        depth_mm = np.round(np.nan_to_num(frame.depth_m.astype(np.float64)) * 1000.0)
        Image.fromarray(frame.rgb).save(folder / "color" / f"{number}.png")
        Image.fromarray(depth_mm.astype(np.uint16)).save(folder / "depth" / f"{number}.png")
        np.savetxt(folder / "pose" / f"{number}.txt", frame.T_world_cam)
    K = np.eye(4)
    K[:3, :3] = frames[0].intrinsics.matrix
    for name in ("color", "depth"):
        np.savetxt(folder / "intrinsic" / f"intrinsic_{name}.txt", K)


def _answer(kind: str, name: str, question: RoomQuestion) -> dict[str, Any]:
    """ScanQA: a list of answers; SQA3D: one string and the question's type 0..5."""
    if kind == "scanqa":
        return {"question_id": name, "text": [question.answer]}
    first = question.text.rsplit(". ", 1)[-1].split()[0]  # of the question, after the situation
    kinds = {word: number for number, word in enumerate(SQA3D_FIRST_WORDS)}
    return {"question_id": name, "text": question.answer, "type": kinds.get(first, len(kinds))}


def _box(thing: Thing) -> list[float]:
    return [round(value, 4) for value in (*thing.center_m, *thing.extents_m)]


def _scanrefer(scene: str, number: int, question: RoomQuestion, thing: Thing) -> dict[str, Any]:
    return {
        "scene_id": scene,
        "object_id": str(thing.number),
        "object_name": thing.category,
        "ann_id": str(number),
        "description": question.phrase,
        "unique": question.unique,
        "box": _box(thing),
    }


def _multi3drefer(
    scene: str, number: int, question: RoomQuestion, thing: Thing | None
) -> dict[str, Any]:
    """Of one object or none; with or without distractors: others of its category."""
    kind = "zt_wo_d" if thing is None else "st_wo_d" if question.unique else "st_w_d"
    return {
        "scene_id": scene,
        "object_ids": [] if thing is None else [thing.number],
        "object_name": "" if thing is None else thing.category,
        "ann_id": str(number),
        "eval_type": kind,
        "description": question.phrase,
        "boxes": [] if thing is None else [_box(thing)],
    }


def _scan2cap(name: str, scene: str, question: RoomQuestion, thing: Thing) -> dict[str, Any]:
    before, _, rest = question.text.partition("[")
    text = before + "<boxes>" + rest.partition("]")[2]
    return {
        "id": name,
        "video": scene,
        "conversations": [
            {"from": "human", "value": "<video>\n" + text},
            {"from": "gpt", "value": question.answer},
        ],
        "target": {"boxes": [_box(thing)]},
    }
