"""A map whose origin is not on the floor: the model sees the floor at 0, the caller the map."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.engine.emitted_text import move_coordinates
from ada3d_ros.lab.world.generated import GeneratedRoom, generate_room
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.scene.floor import stand_on_floor
from ada3d_ros.types import Answer, Question, RgbdFrame
from test.support.box_room import build_box_room
from test.support.pipelines import settle

EVERY_VIEW = {"keyframe.min_translation_m": 0.0, "keyframe.min_rotation_deg": 0.0}


def opened(
    folder: Path | None = None, background: bool = False, **settings: object
) -> Ada3DPipeline:
    values = {"model.path": str(folder or embedded_model_path()), "pruning.strategy": "none"}
    config = from_flat(values | EVERY_VIEW | settings, AgentConfig())
    pipeline = Ada3DPipeline(config, background=background)
    pipeline.check()
    pipeline.load()
    return pipeline


def see(pipeline: Ada3DPipeline, frames: Sequence[RgbdFrame]) -> Ada3DPipeline:
    for frame in frames:
        assert pipeline.observe(frame) is not None
    return pipeline


@pytest.fixture(scope="module")
def room() -> GeneratedRoom:
    return generate_room(3, side_px=96)


@pytest.fixture(scope="module")
def phrases(room: GeneratedRoom) -> list[str]:
    return [f"the {thing.name}" for thing in room.graph.things]


@pytest.fixture(scope="module")
def originals(room: GeneratedRoom, phrases: list[str]) -> list[Answer]:
    """Of the room on its floor: a box of each thing, then an answer about each thing's place."""
    return answers(see(opened(), room.frames), room, phrases, 0.0)


def place_of(room: GeneratedRoom, index: int, up_m: float) -> str:
    x, y, z = room.boxes[index].center_m
    return f"[{x:.3f}, {y:.3f}, {z + up_m:.3f}]"


def answers(
    pipeline: Ada3DPipeline, room: GeneratedRoom, phrases: list[str], up_m: float
) -> list[Answer]:
    found = [pipeline.ground(Question(phrase, max_new_tokens=12)) for phrase in phrases]
    asked = [
        Question(
            f"What is at {place_of(room, i, up_m)}?",
            want_boxes=False,
            max_new_tokens=12,
            routed=False,
        )
        for i in range(len(phrases))
    ]
    return found + [pipeline.ask(question) for question in asked]


def agree(moved: list[Answer], originals: list[Answer], up_m: float, within_m: float) -> None:
    """The same words, and the same boxes and places moved up."""
    up = np.array([0.0, 0.0, up_m])
    assert sum(len(answer.boxes) for answer in originals) >= 4
    for answer, original in zip(moved, originals, strict=True):
        assert answer.text == original.text
        assert len(answer.boxes) == len(original.boxes)
        for box, same in zip(answer.boxes, original.boxes, strict=True):
            assert box.center_m == pytest.approx(same.center_m + up, abs=within_m)
            assert box.size_m == pytest.approx(same.size_m, abs=within_m)
            evidence = np.array(same.evidence_xyz_m) + up
            assert np.array(box.evidence_xyz_m) == pytest.approx(evidence, abs=within_m)
        assert answer.kept_xyz_m is not None
        assert original.kept_xyz_m is not None
        assert answer.kept_xyz_m == pytest.approx(original.kept_xyz_m + up, abs=within_m)


@pytest.mark.parametrize(("floor_z", "up_m"), [("auto", -1.5), ("-1.5", -1.5), ("4.321", 4.321)])
def test_a_moved_room_gives_the_same_answers_and_moved_boxes(
    room: GeneratedRoom,
    phrases: list[str],
    originals: list[Answer],
    floor_z: str,
    up_m: float,
) -> None:
    pipeline = see(opened(**{"world.floor_z": floor_z}), stand_on_floor(room.frames, -up_m))
    floor = pipeline.scene.floor
    assert floor.z_m == pytest.approx(up_m)
    assert floor.source == ("estimated" if floor_z == "auto" else "given")
    agree(answers(pipeline, room, phrases, up_m), originals, up_m, within_m=1e-5)


def test_uncorrected_it_does_not(
    room: GeneratedRoom, phrases: list[str], originals: list[Answer]
) -> None:
    """The shift is what makes them agree."""
    pipeline = see(opened(**{"world.floor_z": 0}), stand_on_floor(room.frames, 1.5))
    wrong = answers(pipeline, room, phrases, -1.5)
    assert [a.text for a in wrong] != [a.text for a in originals]


def test_without_a_head_the_place_that_is_attended_to_is_in_the_world(
    room: GeneratedRoom, phrases: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "headless"
    shutil.copytree(embedded_model_path(), folder, ignore=shutil.ignore_patterns("grounding_head*"))
    grounded = []
    for up_m in (0.0, -1.5):
        pipeline = see(opened(folder), stand_on_floor(room.frames, -up_m))
        asked = [Question(p, max_new_tokens=12, min_score=0.01) for p in phrases]
        grounded.append([pipeline.ground(question) for question in asked])
    agree(grounded[1], grounded[0], -1.5, within_m=1e-5)


# -- the floor moves while the node runs


@pytest.mark.parametrize("settled", [True, False])
def test_a_floor_that_is_seen_late_makes_the_cached_scene_anew(
    room: GeneratedRoom, settled: bool
) -> None:
    """First views without a floor in them, then the whole room: as if it had been known, whether
    the question comes at once or later.
    """
    frames = stand_on_floor(room.frames, 1.5)
    upper = np.arange(96)[:, None] < 30  # rows: what stands above the horizon
    blind = [replace(f, depth_m=np.where(upper, f.depth_m, np.nan)) for f in frames[:2]]
    rest = [replace(f, stamp_ns=f.stamp_ns + 10**10) for f in frames]
    course = {"cache.settle_sec": 0.0} if settled else {"cache.settle_sec": 60.0}
    late = see(opened(background=True, **course, **{"cache.max_staleness": 1.0}), blind)
    settle(late)
    assert not late.scene.floor.known
    builds = late.cache_report().builds
    assert builds == 1
    see(late, rest)
    assert late.scene.floor.z_m == -1.5
    if settled:
        settle(late)
        assert late.cache_report().builds > builds

    known = see(opened(**{"world.floor_z": -1.5}), [*blind, *rest])
    for text in ("What color is the table?", f"What is at {place_of(room, 0, -1.5)}?"):
        answer, expected = (p.ask(Question(text, max_new_tokens=12)) for p in (late, known))
        assert answer.scene_cached
        assert (answer.text, answer.confidence) == (expected.text, expected.confidence)


def test_a_floor_that_stays_costs_no_new_scene(room: GeneratedRoom) -> None:
    """Keyframe after keyframe: the scene is extended, not begun anew, once the floor is known."""
    pipeline = opened(background=True, **{"cache.settle_sec": 60.0, "cache.max_staleness": 1.0})
    for frame in stand_on_floor(room.frames, 1.5):
        pipeline.observe(frame)
        settle(pipeline)
    assert pipeline.cache_report().builds == 1
    assert pipeline.cache_report().appends == len(room.frames) - 1


# -- which models want it


@pytest.mark.parametrize(
    ("key", "compat", "wants"),
    [
        (None, "default", True),
        (True, "default", True),
        (False, "default", False),
        (None, "reference", False),
    ],
)
def test_a_checkpoint_says_whether_it_wants_the_floor_at_zero(
    model: Path, tmp_path: Path, key: bool | None, compat: str, wants: bool
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    data = json.loads((folder / "config.json").read_text())
    del data["ada3d_floor_at_zero"]
    data |= {} if key is None else {"ada3d_floor_at_zero": key}
    (folder / "config.json").write_text(json.dumps(data))
    pipeline = opened(folder, **{"world.floor_z": -1.5, "model.compat": compat})
    frames = build_box_room(num_views=2, width=160, height=120).frames
    see(pipeline, frames)
    pipeline.ask(Question("What is there?", max_new_tokens=2))
    assert pipeline.prefix_cache is not None
    table = pipeline.prefix_cache.encoder.table.sums
    lowest = float((table.xyz_m[:, 2] / table.num_patches).min())
    plain = opened(folder, **{"world.floor_z": 0, "model.compat": compat})
    see(plain, frames)
    plain.ask(Question("What is there?", max_new_tokens=2))
    assert plain.prefix_cache is not None
    table = plain.prefix_cache.encoder.table.sums
    unmoved = float((table.xyz_m[:, 2] / table.num_patches).min())
    assert lowest == pytest.approx(unmoved + (1.5 if wants else 0.0), abs=0.1)


# -- coordinates in the answer's text


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("It is at [1.000, 2.000, 0.500].", "It is at [1.000, 2.000, -1.000]."),
        (
            "[1, 2, 0.5, 1, 1, 1] [0,0,1.5,1,1,1,0.3]",
            "[1, 2, -1.000, 1, 1, 1] [0,0, 0.000,1,1,1,0.3]",
        ),
        ("[1.0, 2.0, 0.12345, 1, 1, 1]", "[1.0, 2.0, -1.37655, 1, 1, 1]"),
        *[(text, text) for text in ("[1, 2]", "[a, b, c]", "[1, 2, 3, 4]", "open [1, 2, 3")],
        ("[1, 2, 1e0, 1, 1, 1, 0, 0, 0]", "[1, 2, -0.500, 1, 1, 1, 0, 0, 0]"),
    ],
)
def test_coordinates_in_a_text_are_moved(text: str, moved: str) -> None:
    assert move_coordinates(text, (0.0, 0.0, -1.5)) == moved
