"""Files of questions about single views: those of view_questions, as the benchmarks' readers take
them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from ada3d_ros.lab.evaluation.field.images import image_of
from ada3d_ros.lab.evaluation.field.mmbench import MM_BENCH
from ada3d_ros.lab.evaluation.field.mme import MME_BENCHMARK
from ada3d_ros.lab.evaluation.field.vqa import VQA_V2
from ada3d_ros.lab.evaluation.selection import Room, RoomSelection, rooms_of
from ada3d_ros.lab.world.graph import Thing
from ada3d_ros.lab.world.image_files import ImageFiles
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS
from ada3d_ros.lab.world.view_questions import MIN_SHARE

ROOM: Room = next(rooms_of(RoomSelection("val", 0, 1), 96))
THING = re.compile(r"(?:Is there|Do you see) an? (.*)\?")
COLOR_OF = re.compile(r"What (?:color is|is the color of) the (.*)\?")
WHAT_IS = re.compile(r"What (?:is the (.*) object|kind of object is (.*))\?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("images")
    files = ImageFiles(made)
    files.add_room(ROOM.frames, ROOM.graph, ROOM.seen)
    counts = files.write()
    assert min(counts.values()) > 0
    return made


def fitting(words: str) -> list[Thing]:
    """The room's things of that name."""
    wanted = set(words.split()) - {"object"}
    return [t for t in ROOM.graph.things if wanted <= {t.color, t.category}]


def true_answer(text: str, shares: Mapping[int, float]) -> str:
    """Of a question about a view in which so much of each thing is seen, from its words; "" where
    it should not have been asked.
    """
    if found := THING.fullmatch(text):
        most = max((shares.get(t.number, 0.0) for t in fitting(found[1])), default=0.0)
        return "yes" if most >= MIN_SHARE else "" if most else "no"
    found, is_color = COLOR_OF.fullmatch(text), True
    if not found:
        found, is_color = WHAT_IS.fullmatch(text), False
    assert found, text
    seen = [t for t in fitting(found[1] or found[2]) if shares.get(t.number)]
    if len(seen) != 1 or shares[seen[0].number] < MIN_SHARE:
        return ""
    return seen[0].color if is_color else seen[0].category


def test_the_same_rooms_give_the_same_files(folder: Path, tmp_path: Path) -> None:
    files = ImageFiles(tmp_path)
    files.add_room(ROOM.frames, ROOM.graph, ROOM.seen)
    files.write()
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert all((folder / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


def test_vqas_answers_are_what_the_views_pixels_show(folder: Path) -> None:
    """Derived from the words of each question again."""
    questions, annotations = folder / "vqa_questions.json", folder / "vqa_annotations.json"
    items = VQA_V2.read({"questions": questions, "annotations": annotations})
    said = set()
    for item in items:
        (answer,) = set(item.references)
        assert len(item.references) == 10
        assert answer == true_answer(item.text, ROOM.seen[int(item.source[-7:-4]) - 1])
        is_other = answer not in ("yes", "no")
        assert item.extra["answer_type"] == ("other" if is_other else "yes/no")
        said.add(answer)
    assert {"yes", "no"} < said
    assert said & set(COLORS)
    assert said & set(CATEGORIES)
    assert image_of(items[0], folder / "images").shape == (96, 96, 3)


def test_mme_asks_each_picture_once_with_yes_and_once_with_no(folder: Path) -> None:
    items = MME_BENCHMARK.read({"questions": folder / "mme"})
    assert {item.extra["subtask"] for item in items} == {"existence", "color"}
    for yes, no in zip(items[::2], items[1::2], strict=True):
        assert yes.extra["picture"] == no.extra["picture"]
        assert (yes.references, no.references) == (("yes",), ("no",))
        assert yes.text != no.text
    view = image_of(items[0], folder / "mme")
    number = int(items[0].extra["picture"]) - 1
    assert np.array_equal(view, ROOM.frames[number].rgb)


def test_mmbenchs_options_hold_the_true_answer_once(folder: Path) -> None:
    rotated = MM_BENCH.read({"questions": folder / "mmbench.tsv"})
    assert len(rotated) % 4 == 0
    kinds = set()
    for item in rotated:
        options = item.extra["options"]
        assert len(set(options.values())) == 4
        shares = ROOM.seen[int(item.id) % 1_000_000 // 10 - 1]
        assert options[item.references[0]] == true_answer(item.extra["stem"], shares)
        kinds |= set(item.extra["groups"])
    assert {"category: color", "category: category", "l2-category: object"} <= kinds
    first = rotated[0]
    assert np.array_equal(image_of(first, None), ROOM.frames[int(first.id) // 10 - 1].rgb)
