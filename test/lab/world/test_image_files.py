"""Questions about single views: what is seen, and files that the benchmarks' readers take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ada3d_ros.lab.evaluation.field.images import image_of
from ada3d_ros.lab.evaluation.field.mmbench import MM_BENCH
from ada3d_ros.lab.evaluation.field.mme import MME_BENCHMARK
from ada3d_ros.lab.evaluation.field.vqa import VQA_V2
from ada3d_ros.lab.evaluation.selection import Room, RoomSelection, rooms_of
from ada3d_ros.lab.world.image_questions import SEEN, ImageFiles, seen_things
from ada3d_ros.types import Box3D, Intrinsics, RgbdFrame

ROOM: Room = next(rooms_of(RoomSelection("val", 0, 1), 96))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("images")
    files = ImageFiles(made)
    files.add_room(ROOM.frames, ROOM.boxes, ROOM.solids)
    counts = files.write()
    assert min(counts.values()) > 0
    return made


def test_what_is_seen_by_hand() -> None:
    """A wall 2 m in front, its left half red: x from -1 to 0 m."""
    camera = Intrinsics(50.0, 50.0, 49.5, 49.5, 100, 100)
    wall = np.full((100, 100), 2.0, dtype=np.float32)
    wall[:10] = np.nan  # no reading
    frame = RgbdFrame(1, np.zeros((100, 100, 3), np.uint8), wall, camera, np.eye(4), "map")

    def box(x: float, z: float, label: str) -> Box3D:
        return Box3D(np.array([x, 0.0, z]), np.array([1.94, 9.0, 0.1]), label=label)

    boxes = {7: box(-1.0, 2.0, "red sofa"), 8: box(0.0, -2.0, "blue ball")}
    red, blue = seen_things(frame, boxes, boxes)
    assert (red.name, blue.name) == ("red sofa", "blue ball")
    assert red.share == pytest.approx(0.9 * 0.5)
    assert blue.share == 0.0


def test_the_same_rooms_give_the_same_files(folder: Path, tmp_path: Path) -> None:
    files = ImageFiles(tmp_path)
    files.add_room(ROOM.frames, ROOM.boxes, ROOM.solids)
    files.write()
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert all((folder / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


def test_vqas_answers_are_true(folder: Path) -> None:
    """Of every view again from what fills it."""
    items = VQA_V2.read(
        {
            "questions": folder / "vqa_questions.json",
            "annotations": folder / "vqa_annotations.json",
        }
    )
    shares = [
        {thing.name: thing.share for thing in seen_things(frame, ROOM.boxes, ROOM.solids)}
        for frame in ROOM.frames
    ]
    kinds = set()
    for item in items:
        (answer,) = set(item.references)
        assert len(item.references) == 10
        view = shares[int(item.source[-7:-4]) - 1]
        name = item.text.removeprefix("Is there a ").rstrip("?")
        if answer == "yes":
            assert view[name] >= SEEN
        elif answer == "no":
            assert not view.get(name)
        else:
            category = item.text.removeprefix("What color is the ").rstrip("?")
            seen = [each for each, share in view.items() if share and category in each]
            assert seen == [f"{answer} {category}"]
        kinds.add(item.extra["answer_type"])
    assert kinds == {"yes/no", "other"}
    assert image_of(items[0], folder / "images").shape == (96, 96, 3)


def test_mme_and_mmbench_read_theirs(folder: Path) -> None:
    items = MME_BENCHMARK.read({"questions": folder / "mme"})
    assert {item.extra["subtask"] for item in items} == {"existence", "color"}
    view = image_of(items[0], folder / "mme")
    number = int(items[0].extra["picture"]) - 1
    assert np.array_equal(view, ROOM.frames[number].rgb)

    rotated = MM_BENCH.read({"questions": folder / "mmbench.tsv"})
    assert len(rotated) % 4 == 0
    first, second = rotated[:2]
    assert (
        first.extra["options"][first.references[0]] == second.extra["options"][second.references[0]]
    )
    assert np.array_equal(image_of(first, None), ROOM.frames[int(first.id) - 1].rgb)
