"""Generated rooms and questions in the file shapes of ScanQA, SQA3D, ScanRefer and Scan2Cap.

Their evaluators read them. Shapes: reference/llava3d.md 5.2 (question lists and ground truth as
LLaVA-3D's scripts read them), ScanRefer's own annotation list with a box added. Points and boxes
are metres in the world frame, boxes centre and full extents.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ada3d_ros.lab.world.graph import Graph, Thing
from ada3d_ros.lab.world.room_question import RoomQuestion

FILES = (
    "scanqa_questions",
    "scanqa_answers",
    "sqa3d_questions",
    "sqa3d_answers",
    "scanrefer",
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

            # Captions are Scan2Cap's, phrases ScanRefer's (it has none of absent things),
            # situations SQA3D's, all else ScanQA's.
            if question.kind == "caption":
                thing = things[question.evidence[0]]
                files["scan2cap"].append(_scan2cap(name, scene, question, thing))
            elif question.phrase and question.target is not None:
                thing = things[question.target]
                files["scanrefer"].append(_scanrefer(scene, number, question, thing))
            elif not question.phrase:
                kind = "sqa3d" if question.kind == "relation" else "scanqa"
                asking = {"question_id": name, "video": scene, "text": question.text}
                files[f"{kind}_questions"].append(asking)
                files[f"{kind}_answers"].append(_answer(kind, name, question))

    folder.mkdir(parents=True, exist_ok=True)
    for file, entries in files.items():
        text = json.dumps(entries, indent=1) + "\n"
        (folder / f"{file}.json").write_text(text, encoding="utf-8")
    return {file: len(entries) for file, entries in files.items()}


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
