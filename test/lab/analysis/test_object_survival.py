"""Which voxels of real objects each strategy holds, against counts made pixel by pixel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import ConfigError, SourceError
from ada3d_ros.lab.analysis.object_survival import Measuring, measure, strategies, survey
from ada3d_ros.lab.analysis.object_voxels import (
    ObjectVoxels,
    RealScene,
    held_by_layer,
    object_voxels,
)
from ada3d_ros.lab.analysis.real_objects import read_objects
from ada3d_ros.lab.evaluation.pipelines import load_room, open_pipeline
from ada3d_ros.lab.world.generated import GeneratedRoom, generate_room
from ada3d_ros.pipeline import Ada3DPipeline

QUESTION = "What is in the room?"


@pytest.fixture(scope="module")
def room() -> GeneratedRoom:
    return generate_room(4, level=1, side_px=56)


@pytest.fixture(scope="module")
def pipeline(folder: Path, room: GeneratedRoom) -> Ada3DPipeline:
    made = open_pipeline(folder / "model", "none", None, {"cache.prune": "none"})
    load_room(made, room.frames)
    return made


@pytest.fixture
def measuring(folder: Path) -> Measuring:
    return Measuring(folder / "model", AgentConfig(), (QUESTION, "Find the chair."), (0, 1), {})


def test_shares_are_counted_by_hand() -> None:
    voxels = ObjectVoxels(np.array([[2, 0, 1, 0, 0], [0, 0, 1, 0, 0]]))
    kept = np.array([True, True, False, False, True])
    shares = voxels.shares(kept)
    assert shares == {"objects": 0.5, "patches": 0.5, "background": 2 / 3, "all": 0.6}
    assert voxels.of_each(kept) == [0.5, 0.0]


def test_an_object_has_the_voxels_that_its_pixels_fall_into(
    pipeline: Ada3DPipeline, room: GeneratedRoom
) -> None:
    _, xyz_m, mode = held_by_layer(pipeline, QUESTION)
    assert mode == "none"
    voxels = object_voxels(pipeline, room.boxes, xyz_m)

    # The same patch by patch in plain Python: 4 patches a side, the upper left pixel of each.
    size, seen = pipeline.model.model.config.voxel_size_m, {}
    for frame in room.frames:
        K, T = frame.intrinsics.matrix, frame.T_world_cam
        for row in range(0, 56, 14):
            for column in range(0, 56, 14):
                z = float(frame.depth_m[row, column])
                if not np.isfinite(z):
                    continue
                ray = np.linalg.inv(K) @ (column, row, 1.0) * z
                point = T[:3, :3] @ ray + T[:3, 3]
                key = tuple(np.round(point / size).astype(int).tolist())
                seen.setdefault(key, []).append(point)
    assert voxels.patches.shape == (len(room.boxes), len(seen))
    for box, patches in zip(room.boxes, voxels.patches, strict=True):
        low, high = box.center_m - box.size_m / 2, box.center_m + box.size_m / 2
        inside = [
            sum(bool(((p >= low) & (p <= high)).all()) for p in seen[key]) for key in sorted(seen)
        ]
        assert box.yaw_rad == 0.0
        assert np.abs(patches - inside).sum() <= 2  # float32 at a face
    assert voxels.of_any.any()
    assert not voxels.of_any.all()


def test_what_is_held_is_what_the_cached_scene_holds(folder: Path, room: GeneratedRoom) -> None:
    settings = {"cache.prune": "build", "cache.ranking": "values"}
    pruned = open_pipeline(folder / "model", "adatoken3d", 0.4, settings)
    load_room(pruned, room.frames)
    layers, xyz_m, mode = held_by_layer(pruned, QUESTION)
    assert mode == "build"
    assert pruned.prefix_cache is not None
    prefix = pruned.prefix_cache.active
    assert prefix is not None
    assert prefix.held is not None
    assert [np.flatnonzero(kept).tolist() for kept in layers] == [h.tolist() for h in prefix.held]
    assert len(layers[0]) == len(xyz_m)
    total = sum(map(int, map(np.sum, layers)))
    assert total / (4 * len(xyz_m)) == pytest.approx(0.4, abs=0.03)


def test_a_row_counts_every_seed_of_a_random_choice_and_every_question_of_a_ranking(
    measuring: Measuring, room: GeneratedRoom
) -> None:
    scene = RealScene("room", room.frames, room.boxes)
    names = "uniform before,random before,values,each question,fastv"
    found = {v.name: measure(measuring, scene, v) for v in strategies((0.4,), names)}
    assert found["uniform before"]["n"] == found["values"]["n"] == 1
    assert found["random before"]["n"] == found["each question"]["n"] == 2
    assert found["uniform before"]["held"]["all"].median == pytest.approx(0.4, abs=0.01)

    # Out of reach on four layers: a sentence.
    assert found["fastv"]["error"].startswith("keep_ratio = 0.4 cannot be met")


def test_uniform_holds_of_the_objects_what_its_indices_say(
    measuring: Measuring, pipeline: Ada3DPipeline, room: GeneratedRoom
) -> None:
    _, xyz_m, _ = held_by_layer(pipeline, QUESTION)
    voxels = object_voxels(pipeline, room.boxes, xyz_m)
    count = len(xyz_m)
    number = round(0.2 * count)
    kept = np.zeros(count, dtype=bool)
    kept[torch.arange(number).numpy() * count // number] = True
    scene = RealScene("room", room.frames, room.boxes)
    (chosen,) = strategies((0.2,), "uniform before")
    row = measure(measuring, scene, chosen)
    assert row["held"]["all"].median == pytest.approx(kept.mean(), abs=1.5 / count)
    assert row["held"]["objects"].median == pytest.approx(
        voxels.shares(kept)["objects"], abs=2 / voxels.of_any.sum()
    )


def test_a_survey_names_its_scenes_and_objects(measuring: Measuring, room: GeneratedRoom) -> None:
    lines: list[str] = []
    scene = RealScene("room", room.frames, room.boxes)
    results = survey(measuring, [scene], strategies((0.4,), "random before"), show=lines.append)
    (described,), (row,) = results["scenes"], results["rows"]
    assert described["views"] == len(room.frames)
    assert [each["label"] for each in described["objects"]] == [box.label for box in room.boxes]
    assert results["random_weights"] is True
    assert row["scene"] == "room"
    assert f"objects {row['held']['objects']['median']:.2f}" in lines[0]


def test_an_unknown_strategy_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="'nonsense': not among ada-unroped, pdrop"):
        strategies((0.4,), "nonsense")


def test_boxes_of_a_file_are_read(tmp_path: Path) -> None:
    one = {"label": "cabinet", "center_m": [1, 2, 3], "size_m": [1, 1, 2], "yaw_rad": 0.5}
    for data, count in ((one, 1), ({"boxes": [one, one]}, 2)):
        (tmp_path / "boxes.json").write_text(json.dumps(data))
        boxes = read_objects(str(tmp_path / "boxes.json"), ())
        assert len(boxes) == count
        assert boxes[-1].label == "cabinet"
        assert boxes[-1].center_m.tolist() == [1.0, 2.0, 3.0]
        assert boxes[-1].yaw_rad == 0.5
    (tmp_path / "boxes.json").write_text('{"label": "cabinet"}')
    with pytest.raises(SourceError, match="is no list of boxes"):
        read_objects(str(tmp_path / "boxes.json"), ())
