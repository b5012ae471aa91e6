"""Cameras of a folder: axes of its poses, camera matrix of another image size, lens distortion."""

import logging

import numpy as np
import pytest
from PIL import Image
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from ada3d_ros.errors import SourceError
from ada3d_ros.sources.bag import BagSource
from ada3d_ros.sources.bag_writer import to_millimetres
from ada3d_ros.sources.folder import FolderOptions, FolderSource
from ada3d_ros.sources.make_bag import build_parser, main
from test.support.box_room import build_box_room

FRAMES = build_box_room(num_views=12, width=64, height=48).frames
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
BODY = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])  # in the optical


SAME = np.eye(4)


def write(folder, turn=SAME, world=SAME, K=FRAMES[0].intrinsics.matrix):
    """A plain folder; poses T_world_cam @ turn in another world."""
    for name in ("rgb", "depth", "poses"):
        (folder / name).mkdir(parents=True)
    for i, f in enumerate(FRAMES):
        Image.fromarray(f.rgb).save(folder / "rgb" / f"{i}.png")
        Image.fromarray(to_millimetres(f.depth_m)).save(folder / "depth" / f"{i}.png")
        np.savetxt(folder / "poses" / f"{i}.txt", world @ f.T_world_cam @ turn)
    if K is not None:
        np.savetxt(folder / "K.txt", K)
    return folder


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


AXES = {"body": BODY, "opengl": OPENGL}


@pytest.mark.parametrize("axes", AXES)
def test_other_axes_are_told_and_turned(tmp_path, axes, caplog):
    """Poses of phone scanners became a bag without a word."""
    folder = write(tmp_path / "in", AXES[axes])
    assert main([str(folder), "-o", str(tmp_path / "as_it_is")]) == 0
    (text,) = warnings(caplog)
    assert f"--camera-axes {axes}" in text
    assert "12 frames" in text

    # turned, and nothing is odd any more
    caplog.clear()
    out = tmp_path / "bag"
    assert main([str(folder), "-o", str(out), "--camera-axes", axes]) == 0
    read = list(BagSource(out))
    for got, want in zip(read, FRAMES, strict=True):
        np.testing.assert_allclose(got.T_world_cam, want.T_world_cam, atol=1e-6)
    assert warnings(caplog) == []


def test_axes_that_do_not_fit_are_told(tmp_path, caplog):
    folder = write(tmp_path / "in")
    list(FolderSource(folder, FolderOptions(camera_axes="opengl")))
    (text,) = warnings(caplog)
    assert "camera axes opengl do not fit" in text
    with pytest.raises(SourceError, match="optical, body, opengl"):
        FolderSource(folder, FolderOptions(camera_axes="unity"))


def test_a_world_with_y_up_is_told(tmp_path, caplog):
    y_up = np.eye(4)
    y_up[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    folder = write(tmp_path / "in", world=y_up)
    FolderSource(folder)
    (text,) = warnings(caplog)
    assert "--rotate-world y-up" in text
    caplog.clear()
    assert main([str(folder), "-o", str(tmp_path / "bag"), "--rotate-world", "y-up"]) == 0
    assert warnings(caplog) == []


def test_a_bag_of_body_poses_is_told_with_the_setting(tmp_path, caplog):
    assert main([str(write(tmp_path / "in", BODY)), "-o", str(tmp_path / "bag")]) == 0
    caplog.clear()
    list(BagSource(tmp_path / "bag"))
    (text,) = warnings(caplog)
    assert "extrinsic.quat_xyzw: [-0.5, 0.5, -0.5, 0.5]" in text


# -- K


K = np.array([[450.0, 0, 240], [0, 450, 180], [0, 0, 1]])


@pytest.mark.parametrize("name", ["K.txt", "intrinsic.txt"])
def test_a_matrix_of_another_size_is_refused(tmp_path, name, capsys):
    folder = write(tmp_path / "in", K=None)
    np.savetxt(folder / name, K)
    assert main([str(folder), "-o", str(tmp_path / "bag")]) == 1
    error = capsys.readouterr().err
    assert f"{name} has cx = 240, cy = 180, the images are 64x48" in error
    assert "another size (about 480x360)" in error
    assert not (tmp_path / "bag").exists()
    given = ["--intrinsics", "60", "60", "32", "24"]
    assert main([str(folder), "-o", str(tmp_path / "bag"), *given]) == 0
    given[-1] = "48"
    assert main([str(folder), "-o", str(tmp_path / "bag"), "--overwrite", *given]) == 1
    assert "--intrinsics" in capsys.readouterr().err


@pytest.mark.parametrize("camera", ["color", "depth"])
def test_a_matrix_of_another_size_in_scannet_is_refused(tmp_path, camera):
    folder = write(tmp_path / "in", K=None)
    (folder / "rgb").rename(folder / "color")
    (folder / "poses").rename(folder / "pose")
    (folder / "intrinsic").mkdir()
    for name in ("color", "depth"):
        K4 = np.eye(4)
        K4[:3, :3] = FRAMES[0].intrinsics.matrix * (2 if name == camera else 1)
        np.savetxt(folder / "intrinsic" / f"intrinsic_{name}.txt", K4)
    with pytest.raises(SourceError, match=rf"intrinsic_{camera}\.txt has cx = 63, cy = 47.*64x48"):
        FolderSource(folder, FolderOptions(layout="scannet"))


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_distortion_of_scannet_needs_one_camera(tmp_path, factor, capsys):
    folder = write(tmp_path / "in", K=None)
    (folder / "rgb").rename(folder / "color")
    (folder / "poses").rename(folder / "pose")
    (folder / "intrinsic").mkdir()
    for name, by in (("color", 1.0), ("depth", factor)):
        K4 = np.diag([1.0, 1.0, 1.0, 1.0])
        K4[:3, :3] = FRAMES[0].intrinsics.matrix @ np.diag([by, by, 1.0])
        np.savetxt(folder / "intrinsic" / f"intrinsic_{name}.txt", K4)
    lens = ["--distortion", "0.1", "0", "0", "0"]
    refused = factor != 1.0
    assert main([str(folder), "-o", str(tmp_path / "bag"), *lens]) == refused
    assert ("one for depth" in capsys.readouterr().err) is refused


@pytest.mark.parametrize(("factor", "odd"), [(0.4, True), (1.0, False), (1.6, True)])
def test_an_unusual_matrix_is_told_and_taken(tmp_path, factor, odd, caplog):
    scaled = FRAMES[0].intrinsics.matrix * factor
    source = FolderSource(write(tmp_path / "in", K=scaled))
    assert len(list(source)) == len(FRAMES)
    assert len(warnings(caplog)) == odd
    assert not odd or "K.txt has cx" in warnings(caplog)[0]


# -- distortion


def camera_infos(bag):
    with AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        wanted = [c for c in reader.connections if c.topic.endswith("camera_info")]
        return [reader.deserialize(data, c.msgtype) for c, _, data in reader.messages(wanted)]


@pytest.mark.parametrize(
    ("words", "model", "D"),
    [
        (["0.21", "-0.55", "-0.004", "2e-3", "0.4"], "plumb_bob", [0.21, -0.55, -0.004, 2e-3, 0.4]),
        (["-1e-2", "-5.5e-05", "0", "0"], "plumb_bob", [-0.01, -5.5e-05, 0, 0]),
        (
            ["equidistant", "0.1", "-.02", "0", "0"],
            "equidistant",
            [0.1, -0.02, 0.0, 0.0],
        ),
    ],
)
def test_distortion_reaches_the_bag_and_the_images_stay(tmp_path, words, model, D):
    folder, bag = write(tmp_path / "in"), tmp_path / "bag"
    assert main([str(folder), "-o", str(bag), "--raw", "--distortion", *words]) == 0
    infos = camera_infos(bag)
    assert len(infos) == len(FRAMES)
    for message in infos:
        assert message.distortion_model == model
        np.testing.assert_allclose(message.d, D, atol=1e-9)

    # in the bag as they were; undistorted by who reads them
    assert main([str(folder), "-o", str(tmp_path / "plain"), "--raw"]) == 0
    bent, straight = next(iter(BagSource(bag))), next(iter(BagSource(tmp_path / "plain")))
    np.testing.assert_array_equal(straight.rgb, FRAMES[0].rgb)
    assert np.abs(bent.rgb.astype(int) - straight.rgb).max() > 5
    assert camera_infos(tmp_path / "plain")[0].d.tolist() == [0.0] * 5


YAML = """image_width: {width}
image_height: 48
camera_matrix: {{rows: 3, cols: 3, data: [50, 0, 31, 0, 51, 23, 0, 0, 1]}}
distortion_model: plumb_bob
distortion_coefficients: {{rows: 1, cols: 5, data: [0.1, 0, 0, 0, 0.3]}}
"""


def test_a_calibration_file_gives_matrix_and_distortion(tmp_path, capsys):
    folder, file = write(tmp_path / "in", K=None), tmp_path / "camera.yaml"
    file.write_text(YAML.format(width=64))
    options = [str(folder), "-o", str(tmp_path / "bag"), "--distortion", str(file)]
    assert main(options) == 0
    (message, *_) = camera_infos(tmp_path / "bag")
    assert message.d.tolist() == [0.1, 0, 0, 0, 0.3]
    assert message.k[[0, 4, 2, 5]].tolist() == [50, 51, 31, 23]

    # what is given goes before it
    assert main([*options, "--overwrite", "--intrinsics", "60", "60", "32", "24"]) == 0
    assert camera_infos(tmp_path / "bag")[0].k[0] == 60

    # of another size
    file.write_text(YAML.format(width=80))
    assert main([*options, "--overwrite"]) == 1
    assert "calibration is of 80x48 px, the images are 64x48" in capsys.readouterr().err


def test_help_says_that_images_are_taken_as_undistorted():
    text = " ".join(build_parser().format_help().split())
    assert "taken as undistorted" in text
    assert "--camera-axes" in text
