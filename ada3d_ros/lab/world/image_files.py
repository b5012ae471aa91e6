"""Questions about single views of generated rooms, in the official files of VQAv2, MME and MMBench.

What is asked, and what is in a view, is view_questions.py's. Of each view: one thing that is in it
and one that is not, a colour and a category. Files: images/, vqa_questions.json and
vqa_annotations.json (ten times the true answer), mme/ (existence and color, in the release's
layout), mmbench.tsv (color and category with four options).
"""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ada3d_ros.lab.world.graph import Graph
from ada3d_ros.lab.world.room_question import RoomQuestion
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS
from ada3d_ros.lab.world.view_questions import (
    ViewThings,
    category,
    color,
    existence,
    things_in_view,
)
from ada3d_ros.types import RgbdFrame

OPTIONS = "ABCD"
SUBSET = "generated"  # data_subtype: images are COCO_generated_000000000001.jpg
JPEG_QUALITY = 95
MME_PROMPT = "Please answer yes or no."
COLUMNS = ("index", "question", "hint", *OPTIONS, "answer", "category", "l2-category", "image")
WORDS = {"color": COLORS, "category": CATEGORIES}  # of the answers of a kind
GROUPS = {"color": "attribute", "category": "object"}  # MMBench's l2-category of a kind
ANSWER_TYPES = {"existence": "yes/no"}  # VQAv2's; all else "other"


@dataclass(slots=True)
class ImageFiles:
    """The files of many rooms: images are written as they come, all else by `write`.

    The same rooms give the same files.
    """

    folder: Path
    views: int = 0
    questions: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)
    mme: int = 0

    def add_room(
        self, frames: Sequence[RgbdFrame], graph: Graph, seen: Sequence[Mapping[int, float]]
    ) -> None:
        """A room's views; seen: of each, as `view_questions.shares_of` counts."""
        for frame, shares in zip(frames, seen, strict=True):
            self.views += 1
            self._add_view(self.views, frame, things_in_view(graph, shares))

    def _add_view(self, number: int, frame: RgbdFrame, things: ViewThings) -> None:
        """A view's image and questions; none where nothing is in it."""
        if not things.shown:
            return
        draw = random.Random(number)
        png, jpeg = _encoded(frame, "PNG"), _encoded(frame, "JPEG", quality=JPEG_QUALITY)
        _write(self.folder / "images" / f"COCO_{SUBSET}_{number:012d}.jpg", jpeg)

        there, absent = (existence(things, exists, draw) for exists in (True, False))
        about = color(things, draw), category(things, draw)
        asked = [question for question in (there, absent, *about) if question is not None]
        for i, question in enumerate(asked):
            self._ask(number, number * 10 + i, question)
        if there and absent:
            self._add_mme("existence", number, png, {there.text: "Yes", absent.text: "No"})
        for i, question in enumerate(question for question in about if question is not None):
            self._choose(number * 10 + i, question, png, draw)
        if about[0]:
            (name,), true = about[0].names, about[0].answer
            other = draw.choice([word for word in COLORS if word != true])
            shown = {f"Is the {name} {true}?": "Yes", f"Is the {name} {other}?": "No"}
            self._add_mme("color", number, png, shown)

    def _ask(self, view: int, number: int, question: RoomQuestion) -> None:
        """One question of VQAv2."""
        same = {"image_id": view, "question_id": number}
        self.questions.append({**same, "question": question.text})
        people = [{"answer": question.answer, "answer_id": person} for person in range(1, 11)]
        kind = ANSWER_TYPES.get(question.kind, "other")
        more = {"question_type": question.text.split()[0].lower(), "answer_type": kind}
        self.annotations.append({**same, "answers": people, **more})

    def _choose(self, number: int, question: RoomQuestion, png: bytes, draw: random.Random) -> None:
        """One question of MMBench: the true answer among three other words of its kind."""
        others = [word for word in WORDS[question.kind] if word != question.answer]
        options = draw.sample([question.answer, *draw.sample(others, 3)], 4)
        answer = OPTIONS[options.index(question.answer)]
        groups = question.kind, GROUPS[question.kind]
        image = base64.b64encode(png).decode()
        self.rows.append((str(number), question.text, "", *options, answer, *groups, image))

    def _add_mme(self, subtask: str, number: int, png: bytes, shown: Mapping[str, str]) -> None:
        """An image of MME with its two questions."""
        stem = self.folder / "mme" / subtask / f"{number:06d}"
        _write(stem.with_suffix(".png"), png)
        lines = [f"{question} {MME_PROMPT}\t{answer}\n" for question, answer in shown.items()]
        _write(stem.with_suffix(".txt"), "".join(lines).encode())
        self.mme += len(shown)

    def write(self) -> dict[str, int]:
        """The files of all views; the number of questions of each benchmark."""
        asked = {"data_subtype": SUBSET, "questions": self.questions}
        known = {"data_subtype": SUBSET, "annotations": self.annotations}
        _write(self.folder / "vqa_questions.json", (json.dumps(asked) + "\n").encode())
        _write(self.folder / "vqa_annotations.json", (json.dumps(known) + "\n").encode())
        table = "".join("\t".join(row) + "\n" for row in [COLUMNS, *self.rows])
        _write(self.folder / "mmbench.tsv", table.encode())
        return {"vqa": len(self.questions), "mme": self.mme, "mmbench": len(self.rows)}


def _encoded(frame: RgbdFrame, codec: str, **options: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame.rgb).save(out, codec, **options)
    return out.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
