"""Layouts of data sets and apps, and what is said of a folder that has none of them."""

from __future__ import annotations

import json
import re
import shutil

import cv2
import numpy as np
import pytest

from ada3d_ros.errors import FrameReason, SourceError
from ada3d_ros.sources.folder import FolderOptions, FolderSource
from ada3d_ros.sources.make_bag import main
from test.support.posed_folders import (
    FOCAL_PX,
    HEIGHT,
    WIDTH,
    K,
    N,
    all_of,
    depth,
    numbers,
    pose,
    rgb,
    rows_of,
    save,
    save_text,
    told_by,
    write_7scenes,
    write_list,
    write_plain,
    write_posed,
    write_replica,
    write_scannet,
    write_stray,
    write_tum,
)

EVERY = all_of(*range(N))
WRITERS = {
    "plain": write_plain,
    "scannet": write_scannet,
    "tum": write_tum,
    "list": lambda folder: write_list(folder, lambda i: numbers(pose(i))),
    "posed": write_posed,
    "7scenes": write_7scenes,
    "stray": write_stray,
}


@pytest.mark.parametrize("layout", WRITERS)
def test_a_layout_is_recognised_and_companion_files_are_no_data(tmp_path, layout):
    """A file manager of another system leaves a `._` file beside each."""
    WRITERS[layout](tmp_path)
    for path in [p for p in tmp_path.rglob("*") if p.is_file()]:
        (path.parent / f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00\xb0\x00")
    source = FolderSource(tmp_path)
    assert source.layout == layout
    frames = list(source)
    assert [told_by(frame) for frame in frames] == EVERY
    np.testing.assert_allclose(frames[2].T_world_cam, pose(2), atol=1e-7)
    assert source.dropped == {}


def test_posed_images_with_colour_larger_than_depth(tmp_path):
    """As ScanNet's: colour is resampled into the depth camera."""
    write_posed(tmp_path)
    for i in range(N):
        save(tmp_path / f"{i:05d}.jpg", rgb(i, 2 * WIDTH, 2 * HEIGHT))
    K4 = np.eye(4)
    K4[:3, :3] = K
    K4[:2, :3] *= 2
    save_text(tmp_path / "intrinsic.txt", *rows_of(K4))
    frames = list(FolderSource(tmp_path))
    assert [told_by(frame) for frame in frames] == EVERY
    assert (frames[0].intrinsics.fx, frames[0].intrinsics.width) == (FOCAL_PX, WIDTH)


def test_7scenes_with_lost_depth_and_its_published_camera(tmp_path):
    write_7scenes(tmp_path)
    (tmp_path / "K.txt").unlink()
    with pytest.raises(SourceError, match="no camera matrix"):  # not the data set's size
        FolderSource(tmp_path)
    for i in range(N):
        deep = depth(i, width=640, height=480)
        deep[:, :400] = 65535
        save(tmp_path / f"frame-{i:06d}.color.png", rgb(i, 640, 480))
        save(tmp_path / f"frame-{i:06d}.depth.png", deep)
    source = FolderSource(tmp_path)
    frames = list(source)
    assert [told_by(frame) for frame in frames] == EVERY
    assert np.isnan(frames[0].depth_m).mean() == pytest.approx(400 / 640)
    assert (frames[0].intrinsics.fx, frames[0].intrinsics.cx) == (585.0, 320.0)
    assert any("as published with 7-Scenes" in note for note in source.notes)


def test_replica_with_the_camera_beside_the_scenes(tmp_path):
    write_replica(tmp_path / "room0")
    camera = {"w": WIDTH, "h": HEIGHT, "fx": 30, "fy": 31, "cx": 15.5, "cy": 11.5, "scale": 6553.5}
    (tmp_path / "cam_params.json").write_text(json.dumps({"camera": camera}))
    source = FolderSource(tmp_path / "room0")
    frames = list(source)
    assert (source.layout, source.depth_scale) == ("replica", 6553.5)
    assert [told_by(frame) for frame in frames] == EVERY
    assert float(np.nanmax(np.abs(frames[2].depth_m - 2.8))) < 1e-3
    assert (frames[0].intrinsics.fy, frames[0].intrinsics.cx) == (31.0, 15.5)
    (tmp_path / "cam_params.json").write_text("{}")
    with pytest.raises(SourceError, match=r"cam_params\.json is not `camera` with fx, fy"):
        FolderSource(tmp_path / "room0")


def test_replica_with_its_published_camera(tmp_path):
    write_replica(tmp_path, 1200, 680)
    source = FolderSource(tmp_path)
    assert next(iter(source)).intrinsics.cx == 599.5
    assert any("600 600 599.5 339.5 px, as published with Replica" in n for n in source.notes)


# -- Stray Scanner


def test_stray_scanner(tmp_path):
    """Its world is y up, colour is larger than depth, and depth of no confidence is no reading."""
    source = FolderSource(write_stray(tmp_path))
    frames = list(source)
    assert [frame.stamp_ns for frame in frames] == [50_000_000_000 + 10**8 * i for i in range(N)]
    np.testing.assert_allclose(frames[3].T_world_cam, pose(3), atol=1e-7)
    camera = frames[0].intrinsics
    assert (camera.width, camera.height, camera.fx, camera.cx, camera.cy) == (
        32,
        24,
        30,
        15.5,
        11.5,
    )
    np.testing.assert_array_equal(np.isnan(frames[0].depth_m[0]), np.arange(WIDTH) < WIDTH // 2)
    assert any("y up: turned to z up" in note for note in source.notes)
    kept = FolderSource(tmp_path, FolderOptions(rotate_world_xyzw=(0.0, 0.0, 0.0, 1.0)))
    np.testing.assert_allclose(next(iter(kept)).T_world_cam[:3, 3], [0.0, 1.2, 0.0], atol=1e-9)


def test_stray_scanner_with_its_video(tmp_path):
    """A lost pose in the middle leaves the frames after it in place."""
    write_stray(tmp_path)
    shutil.rmtree(tmp_path / "rgb")
    with pytest.raises(SourceError, match=r"neither rgb\.mp4 nor"):
        FolderSource(tmp_path)
    size, codec = (2 * WIDTH, 2 * HEIGHT), cv2.VideoWriter_fourcc(*"mp4v")
    video = cv2.VideoWriter(str(tmp_path / "rgb.mp4"), codec, 10.0, size)
    if not video.isOpened():
        pytest.skip("this OpenCV writes no mp4")
    for i in range(N):
        video.write(rgb(i, *size)[..., ::-1].copy())
    video.release()
    rows = (tmp_path / "odometry.csv").read_text().splitlines()
    rows[3] = "50.2, 000002, nan, nan, nan, nan, nan, nan, nan"
    save_text(tmp_path / "odometry.csv", *rows)
    source = FolderSource(tmp_path)
    assert [told_by(frame) for frame in source] == all_of(0, 1, 3, 4, 5)
    assert source.dropped == {FrameReason.NO_POSE: 1}
    (tmp_path / "rgb.mp4").write_bytes(b"no video")
    with pytest.raises(SourceError, match=r"cannot open .*rgb\.mp4 here.*ffmpeg -i rgb\.mp4"):
        FolderSource(tmp_path)


def test_stray_scanner_with_frames_counted_from_one(tmp_path):
    """ffmpeg begins at 1 unless it is told: every pose would be one frame off."""
    with pytest.raises(SourceError, match=r"numbered from 1, depth from 0\..*-start_number 0"):
        FolderSource(write_stray(tmp_path, first=1))


def test_a_row_of_stray_scanner_that_is_there_twice_is_one_frame(tmp_path):
    """The bag got two frames of one stamp."""
    write_stray(tmp_path)
    rows = (tmp_path / "odometry.csv").read_text().splitlines()
    save_text(tmp_path / "odometry.csv", *rows[:4], rows[3], *rows[4:])
    source = FolderSource(tmp_path)
    assert [told_by(frame) for frame in source] == EVERY
    assert source.dropped == {FrameReason.BACKWARD_STAMP: 1}
    assert "frame 2, is stamped no later" in source.dropped.first[FrameReason.BACKWARD_STAMP]


@pytest.mark.parametrize("number", ["9" * 5000, "-1", "1.5", "x"])
def test_stray_scanner_with_what_is_no_frame_number(tmp_path, number):
    write_stray(tmp_path)
    file = tmp_path / "odometry.csv"
    file.write_text(file.read_text().replace("000002,", f"{number},"))
    with pytest.raises(SourceError, match=r"odometry\.csv line 4: .* is not a (frame )?number"):
        FolderSource(tmp_path)


def test_stray_scanner_with_a_camera_matrix_for_each_frame(tmp_path):
    """Newer versions of the app write more columns."""
    write_stray(tmp_path)
    rows = (tmp_path / "odometry.csv").read_text().splitlines()
    rows = [rows[0] + ", fx, fy, cx, cy", *(f"{row}, 60, 60, 31.5, 23.5" for row in rows[1:])]
    save_text(tmp_path / "odometry.csv", *rows)
    assert [told_by(frame) for frame in FolderSource(tmp_path)] == EVERY
    save_text(tmp_path / "odometry.csv", rows[0], "50.0, 000000, 1, 2")
    with pytest.raises(SourceError, match=r"odometry\.csv line 2: .*4 columns, expected 9"):
        FolderSource(tmp_path)


# -- no layout


def test_what_a_folder_holds_is_said_where_no_layout_fits(tmp_path):
    write_plain(tmp_path / "a")
    (tmp_path / "a" / "poses").rename(tmp_path / "a" / "p")
    with pytest.raises(SourceError, match=r"none of the known.* Found: 1 \.txt in one") as e:
        FolderSource(tmp_path / "a")
    assert "depth/ with 6 .png; p/ with 6 .txt; rgb/ with 6 .png" in str(e.value)
    assert "Nearest is plain, which lacks poses/" in str(e.value)
    write_posed(tmp_path / "b")
    for path in (tmp_path / "b").glob("0*.txt"):
        path.unlink()
    with pytest.raises(SourceError, match=r"6 \.jpg, 6 \.png, 2 \.txt in one folder") as e:
        FolderSource(tmp_path / "b")
    assert "Nearest is posed, which lacks *.txt with numbers in their names" in str(e.value)
    with pytest.raises(SourceError, match=r"a/ with .*b/ with"):
        FolderSource(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="Found: nothing"):
        FolderSource(tmp_path / "empty")


# -- no frame


def shrink_depth(folder):
    for i in range(N):
        save(folder / "depth" / f"{i}.png", depth(i, width=16, height=12))


def depth_as(suffix):
    def change(folder):
        for i in range(N):
            (folder / "depth" / f"{i}.png").unlink()
            path = folder / "depth" / f"{i}{suffix}"
            if suffix == ".npy":
                np.save(path, depth(i))
            else:
                save(path, (depth(i) // 20).astype(np.uint8))

    return change


def jpeg_called_png(folder):
    depth_as(".jpg")(folder)
    for i in range(N):
        (folder / "depth" / f"{i}.jpg").rename(folder / "depth" / f"{i}.png")


def mark_all(folder):
    for i in range(N):
        save(folder / "depth" / f"{i}.png", np.full((HEIGHT, WIDTH), 65535, np.uint16))


NO_FRAME = {
    "marks alone": (mark_all, (), r"low_valid_depth 6, first: depth/0\.png: no pixel is a reading"),
    "sizes": (shrink_depth, (), r"bad_size 6, first: .*rgb/0\.png is 32x24 px, its depth 16x12"),
    "JPEG": (depth_as(".jpg"), (), r"bad_encoding 6, first: depth/0\.jpg: .*JPEG.*16-bit grey PNG"),
    "JPEG called PNG": (jpeg_called_png, (), r"depth/0\.png: .*JPEG.*16-bit grey PNG"),
    "8 bit": (depth_as(".png"), (), r"bad_encoding 6, first: depth/0\.png: .*expected 16-bit grey"),
    "npy": (depth_as(".npy"), (), r"depth holds 6 \.npy; images must be 16-bit \.png files"),
    "fy": (lambda folder: None, ("--intrinsics", "60", "-60", "32", "24"), "fy=-60 .*above 0"),
    "unit": (
        lambda folder: None,
        ("--depth-scale", "1"),
        r"bad_units 6, first: .*median is 3000 m",
    ),
}


@pytest.mark.parametrize("name", NO_FRAME)
def test_why_no_frame_can_be_made(tmp_path, capsys, name):
    change, options, words = NO_FRAME[name]
    change(write_plain(tmp_path / "in"))
    assert main([str(tmp_path / "in"), "-o", str(tmp_path / "out"), *options]) == 1
    said = capsys.readouterr().err
    assert re.search(words, said), said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["in"]  # no half bag either


def test_calibrate_and_analyze_say_it_too(tmp_path, capsys):
    from ada3d_ros.lab.analysis.analyze import main as analyze
    from ada3d_ros.lab.analysis.calibrate import main as calibrate

    shrink_depth(write_plain(tmp_path / "in"))
    for name, command in (("analysis", analyze), ("schedule.json", calibrate)):
        arguments = [str(tmp_path / "in"), "--model", "embedded", "--out", str(tmp_path / name)]
        assert command(arguments) == 2
        assert "32x24 px, its depth 16x12" in capsys.readouterr().err
