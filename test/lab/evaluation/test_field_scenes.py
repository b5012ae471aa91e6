"""Scenes of a benchmark out of folders and bags, their alignment, and the true boxes of ScanNet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Item
from ada3d_ros.lab.evaluation.field.scenes import ImageFolder, SceneFolder, read_alignment
from ada3d_ros.lab.evaluation.field.true_boxes import TrueBoxes
from ada3d_ros.lab.world.export import export_scene
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.sources.folder import spread
from test.support.bags import record, rows
from test.support.posed_folders import save, told_by, write_scannet

TURN = np.array([[0.0, -1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 2.0], [0, 0, 1.0, 0.5], [0, 0, 0, 1.0]])


def of(source: str) -> Item:
    return Item("0", source, "?")


def write_alignment(path: Path, T: np.ndarray = TURN) -> None:
    numbers = " ".join(f"{value:.6f}" for value in T.ravel())
    path.write_text(f"appVersion = 1.0\naxisAlignment = {numbers} \nnumDepthFrames = 6\n")


# -- which frames


@pytest.mark.parametrize(
    ("count", "most", "picked"),
    [
        (39, 20, list(range(20))),  # the tail is lost, as the reference loses it
        (40, 20, list(range(0, 40, 2))),
        (41, 20, list(range(0, 40, 2))),
        (3, 20, [0, 1, 2]),
        (20, 20, list(range(20))),
        (7, 3, [0, 2, 4]),
        (0, 3, []),
    ],
)
def test_views_are_picked_as_the_reference_does(count: int, most: int, picked: list[int]) -> None:
    assert list(spread(count, most)) == picked


def test_a_scene_is_found_by_its_whole_name_or_the_last_part(tmp_path: Path) -> None:
    write_scannet(tmp_path / "scene0011_00")
    write_scannet(tmp_path / "scannet" / "scene0012_00")
    folder = SceneFolder(tmp_path, 4)
    for source in ("scannet/scene0011_00", "scene0011_00", "scannet/scene0012_00"):
        assert folder.has(of(source))
        assert len(folder.frames(of(source))) == 4
    told = [told_by(frame) for frame in folder.frames(of("scene0011_00"))]
    assert [frame[0] for frame in told] == [0, 1, 2, 3]
    assert not folder.has(of("scene0012_00"))


@pytest.mark.parametrize("source", ["../secret", "/etc", "a/../../secret", "", "."])
def test_a_name_cannot_leave_the_folder(tmp_path: Path, source: str) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "scenes").mkdir()
    assert SceneFolder(tmp_path / "scenes", 4).find(source) is None


def test_a_bag_is_a_scene(tmp_path: Path) -> None:
    record(tmp_path / "hall", rows(6))
    frames = SceneFolder(tmp_path, 3).frames(of("ours/hall"))
    assert [round(frame.T_world_cam[0, 3], 3) for frame in frames] == [0.0, 0.6, 1.2]


def test_a_scene_that_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no folder at"):
        SceneFolder(tmp_path / "none", 4)
    folder = SceneFolder(tmp_path, 4)
    with pytest.raises(SourceError, match="has no scene 'scene0011_00'"):
        folder.frames(of("scene0011_00"))
    (tmp_path / "scene0011_00").mkdir()
    with pytest.raises(SourceError):
        folder.frames(of("scene0011_00"))


def test_poses_are_turned_by_the_scenes_alignment(tmp_path: Path) -> None:
    scene = write_scannet(tmp_path / "scene0011_00")
    before = SceneFolder(tmp_path, 2).frames(of("scene0011_00"))
    write_alignment(scene / "scene0011_00.txt")
    after = SceneFolder(tmp_path, 2).frames(of("scene0011_00"))
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new.T_world_cam, TURN @ old.T_world_cam, atol=1e-6)
    (scene / "scene0011_00.txt").unlink()
    np.savetxt(scene / "axis_align_matrix.txt", TURN)
    turned = SceneFolder(tmp_path, 2).frames(of("scene0011_00"))
    np.testing.assert_allclose(turned[1].T_world_cam, after[1].T_world_cam, atol=1e-6)


@pytest.mark.parametrize("numbers", ["1 2 3", "a " * 16, "2 " * 16, "nan " * 16])
def test_an_alignment_that_is_no_pose_is_refused(tmp_path: Path, numbers: str) -> None:
    path = tmp_path / "s.txt"
    path.write_text(f"axisAlignment = {numbers}\n")
    with pytest.raises(SourceError, match="16 numbers of a pose"):
        read_alignment(path)
    path.write_text("numDepthFrames = 6\n")
    assert read_alignment(path) is None


def test_an_image_is_looked_for_in_its_folder(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.full((8, 12, 3), 90, np.uint8))
    folder = ImageFolder(tmp_path)
    assert folder.has(of("a.png"))
    assert not folder.has(of("b.png"))
    assert not ImageFolder(None).has(of("a.png"))
    (frame,) = folder.frames(of("a.png"))
    assert frame.rgb.shape == (8, 12, 3)


def test_an_exported_room_is_the_room(tmp_path: Path) -> None:
    room = generate_room(3, side_px=64, split="val")
    export_scene(room.frames, tmp_path / "generated" / "val1_000003")
    read = SceneFolder(tmp_path, 99).frames(of("generated/val1_000003"))
    assert len(read) == len(room.frames)
    for ours, theirs in zip(read, room.frames, strict=True):
        np.testing.assert_array_equal(ours.rgb, theirs.rgb)
        np.testing.assert_allclose(ours.T_world_cam, theirs.T_world_cam, atol=1e-9)
        np.testing.assert_array_equal(ours.intrinsics.matrix, theirs.intrinsics.matrix)
        np.testing.assert_array_equal(np.isnan(ours.depth_m), ~(theirs.depth_m > 0.0005))
        np.testing.assert_allclose(
            np.nan_to_num(ours.depth_m), np.nan_to_num(theirs.depth_m), atol=0.00051
        )


# -- true boxes


def test_prepared_boxes_are_found_by_object_id(tmp_path: Path) -> None:
    table = np.array([[1, 2, 3, 4, 5, 6, 5, 0], [0, 0, 0, 1, 1, 1, 7, 4]], dtype=float)
    np.save(tmp_path / "scene0011_00_aligned_bbox.npy", table)
    boxes = TrueBoxes(tmp_path)
    assert boxes.box("scannet/scene0011_00", 0) == [1, 2, 3, 4, 5, 6]
    assert boxes.box("scene0011_00", 4) == [0, 0, 0, 1, 1, 1]
    with pytest.raises(SourceError, match="no object 1, only 0 to 4"):
        boxes.box("scene0011_00", 1)
    with pytest.raises(SourceError, match=r"neither scene0012_00_aligned_bbox\.npy nor"):
        boxes.box("scene0012_00", 0)


def test_an_array_of_another_shape_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "s_aligned_bbox.npy", np.zeros((2, 6)))
    with pytest.raises(SourceError, match="rows of 8 finite numbers"):
        TrueBoxes(tmp_path).box("s", 0)
    (tmp_path / "t_aligned_bbox.npy").write_text("no array")
    with pytest.raises(SourceError, match="no array of numpy"):
        TrueBoxes(tmp_path).box("t", 0)


def write_mesh(folder: Path, name: str) -> None:
    """Two objects of two segments each, before the alignment; one vertex belongs to none."""
    plyfile = pytest.importorskip("plyfile", reason="ScanNet's meshes need plyfile")
    folder.mkdir(parents=True, exist_ok=True)
    points = [(0, 0, 0), (2, 1, 0), (0, 1, 3), (5, 5, 5), (6, 7, 8), (90, 90, 90)]
    fields = [(axis, "f4") for axis in "xyz"]
    vertices = plyfile.PlyElement.describe(np.array(points, dtype=fields), "vertex")
    plyfile.PlyData([vertices]).write(str(folder / f"{name}_vh_clean_2.ply"))
    segments = {"segIndices": [10, 10, 11, 12, 13, 14]}
    (folder / f"{name}_vh_clean_2.0.010000.segs.json").write_text(json.dumps(segments))
    groups = [
        {"objectId": 0, "segments": [10, 11], "label": "chair"},
        {"objectId": 1, "segments": [12, 13], "label": "lamp"},
    ]
    (folder / f"{name}.aggregation.json").write_text(json.dumps({"segGroups": groups}))


def test_a_box_is_around_the_aligned_instance(tmp_path: Path) -> None:
    write_mesh(tmp_path / "s", "s")
    write_alignment(tmp_path / "s" / "s.txt")
    boxes = TrueBoxes(tmp_path)
    # x' = 1 - y, y' = 2 + x, z' = z + .5
    assert boxes.box("s", 0) == pytest.approx([0.5, 3.0, 2.0, 1.0, 2.0, 3.0])
    assert boxes.box("s", 1) == pytest.approx([-5.0, 7.5, 7.0, 2.0, 1.0, 3.0])


def test_a_mesh_without_its_companions_is_refused(tmp_path: Path) -> None:
    write_mesh(tmp_path / "s", "s")
    with pytest.raises(SourceError, match="axisAlignment is not there"):
        TrueBoxes(tmp_path).box("s", 0)
    write_alignment(tmp_path / "s" / "s.txt")
    (tmp_path / "s" / "s.aggregation.json").write_text("{}")
    with pytest.raises(SourceError, match="no list 'segGroups'"):
        TrueBoxes(tmp_path).box("s", 0)
    (tmp_path / "s" / "s_vh_clean_2.0.010000.segs.json").write_text('{"segIndices": [1]}')
    with pytest.raises(SourceError, match="1 segments for 6 vertices"):
        TrueBoxes(tmp_path).box("s", 0)
    (tmp_path / "s" / "s_vh_clean_2.ply").write_text("no mesh")
    with pytest.raises(SourceError, match="no mesh with vertices"):
        TrueBoxes(tmp_path).box("s", 0)
