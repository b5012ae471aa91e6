"""Questions about single views of generated rooms, in the official files of VQAv2, MME and MMBench.

What is seen in a view is known from its depth: a thing's pixels are those whose point lies in the
box that it was drawn as. Asked is about things with at least SEEN of the pixels; said to be absent
is what has none at all. Files: images/, vqa_questions.json and vqa_annotations.json (ten times the
true answer), mme/ (existence and color, in the release's layout), mmbench.tsv.
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

import torch
from PIL import Image

from ada3d_ros.geometry.boxes import points_inside
from ada3d_ros.geometry.unproject import unproject_depth
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS
from ada3d_ros.types import Box3D, RgbdFrame

SEEN = 0.01  # share of the view's pixels
NEAR_M = 0.03  # that a reading may lie outside its box: the sensor's noise
OPTIONS = "ABCD"
SUBSET = "generated"  # data_subtype: images are COCO_generated_000000000001.jpg
JPEG_QUALITY = 95
MME_PROMPT = "Please answer yes or no."
COLUMNS = ("index", "question", "hint", *OPTIONS, "answer", "category", "l2-category", "image")


@dataclass(frozen=True, slots=True)
class SeenThing:
    """color, category; share: of the view's pixels, 0..1."""

    color: str
    category: str
    share: float

    @property
    def name(self) -> str:
        """`red chair`."""
        return f"{self.color} {self.category}"


def seen_things(
    frame: RgbdFrame, boxes: Mapping[int, Box3D], solids: Mapping[int, Box3D]
) -> list[SeenThing]:
    """Of every thing of the room how much of the view it fills.

    boxes: labelled; solids: as the things were drawn, by the same numbers.
    """
    depth_m = torch.from_numpy(frame.depth_m.astype("float64"))
    K, pose = (torch.from_numpy(m.copy()) for m in (frame.intrinsics.matrix, frame.T_world_cam))
    xyz_m = unproject_depth(depth_m, K, pose).reshape(-1, 3).numpy()
    found = []
    for number, box in boxes.items():
        color, category = box.label.split()
        solid = solids[number]
        around = Box3D(solid.center_m.copy(), solid.size_m + 2 * NEAR_M, solid.yaw_rad)
        found.append(SeenThing(color, category, float(points_inside(xyz_m, around).mean())))
    return found


@dataclass(slots=True)
class ImageFiles:
    """The files of many rooms: images are written as they come, all else by `write`.

    per_view: things that a view is asked about at most. The same rooms give the same files.
    """

    folder: Path
    per_view: int = 2
    views: int = 0
    questions: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)
    mme: int = 0

    def add_room(
        self,
        frames: Sequence[RgbdFrame],
        boxes: Mapping[int, Box3D],
        solids: Mapping[int, Box3D],
    ) -> None:
        """A room's views. boxes, solids: as in seen_things."""
        for frame in frames:
            self.views += 1
            self._add_view(self.views, frame, seen_things(frame, boxes, solids))

    def _add_view(self, number: int, frame: RgbdFrame, things: Sequence[SeenThing]) -> None:
        """A view's image and questions; none where nothing is seen well."""
        draw = random.Random(number)
        there = {thing.name for thing in things if thing.share}
        absent = [f"{c} {k}" for c in COLORS for k in CATEGORIES if f"{c} {k}" not in there]
        seen = [thing for thing in things if thing.share >= SEEN]
        draw.shuffle(seen)
        if not seen:
            return
        png, jpeg = _encoded(frame, "PNG"), _encoded(frame, "JPEG", quality=JPEG_QUALITY)
        _write(self.folder / "images" / f"COCO_{SUBSET}_{number:012d}.jpg", jpeg)

        for thing in seen[: self.per_view]:
            self._ask(number, f"Is there a {thing.name}?", "yes", "yes/no")
            self._ask(number, f"Is there a {draw.choice(absent)}?", "no", "yes/no")
        shown = {f"Is there a {seen[0].name}?": "Yes", f"Is there a {draw.choice(absent)}?": "No"}
        self._add_mme("existence", number, png, shown)

        # Colours of what is alone of its category.
        alone = [
            thing
            for thing in seen
            if sum(other.category == thing.category and bool(other.share) for other in things) == 1
        ]
        for thing in alone[: self.per_view]:
            self._ask(number, f"What color is the {thing.category}?", thing.color, "other")
        for thing in alone[:1]:
            others = draw.sample([color for color in COLORS if color != thing.color], 3)
            shown = {
                f"Is the {thing.category} {thing.color}?": "Yes",
                f"Is the {thing.category} {others[0]}?": "No",
            }
            self._add_mme("color", number, png, shown)
            options = draw.sample([thing.color, *others], 4)
            answer = OPTIONS[options.index(thing.color)]
            question = f"What color is the {thing.category}?"
            image = base64.b64encode(png).decode()
            groups = ("color", "attribute")
            self.rows.append((str(number), question, "", *options, answer, *groups, image))

    def _ask(self, number: int, text: str, answer: str, kind: str) -> None:
        """One question of VQAv2."""
        name = number * 1000 + sum(each["image_id"] == number for each in self.questions)
        self.questions.append({"image_id": number, "question": text, "question_id": name})
        people = [{"answer": answer, "answer_id": person} for person in range(1, 11)]
        more = {"question_type": text.split()[0].lower(), "answer_type": kind}
        self.annotations.append(
            {"question_id": name, "image_id": number, "answers": people, **more}
        )

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
