"""Folder layouts, written here as the data sets write them, read back; what is missing is named."""

import numpy as np
import pytest
from PIL import Image

from ada3d_ros.errors import FrameReason, SourceError
from ada3d_ros.geometry.pose import to_quaternion
from ada3d_ros.sources.bag_writer import to_millimetres
from ada3d_ros.sources.folder import FolderOptions, FolderSource, parse_rotation
from test.support.box_room import build_box_room

K = (128.0, 128.0, 79.5, 59.5)
K_TEXT = "128 0 79.5\n0 128 59.5\n0 0 1\n"


@pytest.fixture(scope="module")
def frames():
    return build_box_room(num_views=4, width=160, height=120).frames


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_tum(folder, frames, depth_delay_ns=8_000_000):
    lines = {
        "rgb": ["# timestamp filename"],
        "depth": [],
        "groundtruth": ["# timestamp tx ty tz qx qy qz qw"],
    }
    for f in frames:
        t, td = (f"{s // 10**9}.{s % 10**9:09d}" for s in (f.stamp_ns, f.stamp_ns + depth_delay_ns))
        save(folder / "rgb" / f"{t}.png", f.rgb)
        save(folder / "depth" / f"{td}.png", (to_millimetres(f.depth_m) * 5).astype(np.uint16))
        lines["rgb"].append(f"{t} rgb/{t}.png")
        lines["depth"].append(f"{td} depth/{td}.png")
        numbers = np.concatenate(to_quaternion(f.T_world_cam))
        lines["groundtruth"].append(" ".join([t, *(repr(float(n)) for n in numbers)]))
    for name, text in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(text) + "\n")


def write_plain(folder, frames, names=("rgb", "poses")):
    for i, f in enumerate(frames):
        save(folder / names[0] / f"{i}.png", f.rgb)
        save(folder / "depth" / f"{i}.png", to_millimetres(f.depth_m))
        (folder / names[1]).mkdir(exist_ok=True)
        np.savetxt(folder / names[1] / f"{i}.txt", f.T_world_cam)


def assert_same(read, frames):
    assert len(read) == len(frames)
    for got, want in zip(read, frames, strict=True):
        np.testing.assert_array_equal(got.rgb, want.rgb)
        np.testing.assert_allclose(got.depth_m, want.depth_m, atol=6e-4)
        np.testing.assert_allclose(got.T_world_cam, want.T_world_cam, atol=1e-9)
        assert got.intrinsics == want.intrinsics


def test_tum(tmp_path, frames):
    write_tum(tmp_path, frames)
    source = FolderSource(tmp_path, FolderOptions(intrinsics=K))
    assert source.layout == "tum"
    read = list(source)
    assert_same(read, frames)
    assert [f.stamp_ns for f in read] == [f.stamp_ns for f in frames]


def test_tum_counts_what_has_no_partner_or_pose(tmp_path, frames):
    write_tum(tmp_path, frames)
    depth = (tmp_path / "depth.txt").read_text().splitlines()
    (tmp_path / "depth.txt").write_text("\n".join(depth[1:]))
    poses = (tmp_path / "groundtruth.txt").read_text().splitlines()
    (tmp_path / "groundtruth.txt").write_text("\n".join(poses[:-1]))
    (tmp_path / "K.txt").write_text("128 128 79.5 59.5")
    source = FolderSource(tmp_path)
    assert_same(list(source), frames[1:-1])
    assert source.dropped == {FrameReason.NO_DEPTH: 1, FrameReason.NO_POSE: 1}


def test_plain_with_numeric_order_and_a_rotated_world(tmp_path, frames):
    write_plain(tmp_path, frames * 3)  # 12 frames: 10 sorts after 9
    (tmp_path / "K.txt").write_text(K_TEXT)
    source = FolderSource(tmp_path, FolderOptions(fps=4.0))
    read = list(source)
    assert_same(read, frames * 3)
    assert [f.stamp_ns for f in read[:3]] == [1_000_000_000, 1_250_000_000, 1_500_000_000]
    turned = next(
        iter(FolderSource(tmp_path, FolderOptions(rotate_world_xyzw=parse_rotation("y-up"))))
    )
    x, y, z = frames[0].T_world_cam[:3, 3]
    np.testing.assert_allclose(turned.T_world_cam[:3, 3], [x, -z, y], atol=1e-12)


def test_scannet_registers_colour_and_skips_lost_poses(tmp_path, frames):
    large = build_box_room(num_views=4, width=320, height=240).frames
    write_plain(tmp_path, frames, names=("color", "pose"))
    for i, f in enumerate(large):
        save(tmp_path / "color" / f"{i}.png", f.rgb)
    np.savetxt(tmp_path / "pose" / "2.txt", np.full((4, 4), -np.inf))
    (tmp_path / "intrinsic").mkdir()
    for name, f in (("depth", frames[0]), ("color", large[0])):
        K4 = np.eye(4)
        K4[:3, :3] = f.intrinsics.matrix
        np.savetxt(tmp_path / "intrinsic" / f"intrinsic_{name}.txt", K4)
    source = FolderSource(tmp_path)
    assert source.layout == "scannet"
    read = list(source)
    assert source.dropped == {FrameReason.NO_POSE: 1}
    assert [f.stamp_ns for f in read] == [1_000_000_000, 1_100_000_000, 1_300_000_000]
    # The same view at half the size, but for the edges.
    difference = np.abs(read[0].rgb.astype(int) - frames[0].rgb)
    assert np.median(difference) <= 4
    assert read[0].intrinsics == frames[0].intrinsics


def test_the_cabinet_layout(shared_dir):
    source = FolderSource(
        shared_dir / "data" / "tum_fr3_cabinet",
        FolderOptions(intrinsics=(535.4, 539.2, 320.1, 247.6)),
    )
    assert (source.layout, len(source)) == ("cabinet", 58)
    first = next(iter(source))
    assert first.stamp_ns == 1341841278842700000
    assert 0.5 < np.nanmedian(first.depth_m) < 4


def test_a_corrupt_image_is_counted_and_the_rest_is_read(tmp_path, frames):
    write_plain(tmp_path, frames)
    (tmp_path / "K.txt").write_text(K_TEXT)
    image = tmp_path / "rgb" / "1.png"
    image.write_bytes(image.read_bytes()[:100])
    save(tmp_path / "depth" / "2.png", frames[0].rgb)  # colour where depth should be
    save(tmp_path / "rgb" / "3.png", frames[0].rgb[:50])
    source = FolderSource(tmp_path)
    assert_same(list(source), frames[:1])
    assert source.dropped == {
        FrameReason.CORRUPT: 1,
        FrameReason.BAD_ENCODING: 1,
        FrameReason.BAD_SIZE: 1,
    }


def poses_as_npy(folder):
    for path in (folder / "poses").iterdir():
        path.rename(path.with_suffix(".npy"))


def empty_depth(folder):
    for path in (folder / "depth").iterdir():
        path.unlink()


def break_nothing_there(folder):
    for name in ("rgb", "depth", "poses"):
        for path in (folder / name).iterdir():
            path.unlink()


BREAKS = {
    "no camera matrix": (lambda d: (d / "K.txt").unlink(), "--intrinsics"),
    "no depth": (lambda d: (d / "depth").rename(d / "d"), "no folder depth/"),
    "pose not 4x4": (lambda d: (d / "poses" / "0.txt").write_text("1 2 3"), "4x4"),
    "pose of words": (lambda d: (d / "poses" / "0.txt").write_text("a b"), "0.txt line 1: `a b`"),
    "K of another shape": (lambda d: (d / "K.txt").write_text("1 2 3"), "fx fy cx cy"),
    "poses as npy": (poses_as_npy, r"poses holds 4 \.npy; poses must be 4x4 \.txt"),
    "empty depth": (empty_depth, "holds no frame: 4 colour, 0 depth, 4 pose files"),
    "empty": (break_nothing_there, "no frame"),
    "unknown": (lambda d: (d / "poses").rename(d / "p"), "none of the known layouts"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_missing_is_named(tmp_path, frames, name):
    write_plain(tmp_path, frames)
    (tmp_path / "K.txt").write_text(K_TEXT)
    break_it, words = BREAKS[name]
    break_it(tmp_path)
    with pytest.raises(SourceError, match=words):
        FolderSource(tmp_path)


def test_tum_files_that_are_broken_are_named(tmp_path, frames):
    write_tum(tmp_path, frames)
    (tmp_path / "rgb" / "1.000000000.png").unlink()
    with pytest.raises(SourceError, match=r"1 image files are missing.*1\.000000000"):
        FolderSource(tmp_path, FolderOptions(intrinsics=K))
    (tmp_path / "groundtruth.txt").write_text("1.0 0 0 0 0 0 0 0\n")
    with pytest.raises(SourceError, match=r"groundtruth.*all zero"):
        FolderSource(tmp_path, FolderOptions(intrinsics=K))
    (tmp_path / "rgb.txt").unlink()
    with pytest.raises(SourceError, match=r"rgb\.txt"):
        FolderSource(tmp_path, FolderOptions(intrinsics=K))
    with pytest.raises(SourceError, match="no folder at"):
        FolderSource(tmp_path / "nowhere")


def test_options_out_of_range(tmp_path, frames):
    write_plain(tmp_path, frames)
    (tmp_path / "K.txt").write_text(K_TEXT)
    for options in (
        FolderOptions(depth_scale=0.0),
        FolderOptions(depth_scale=float("inf")),
        FolderOptions(fps=-1.0),
        FolderOptions(fps=1e-300),
        FolderOptions(fps=float("nan")),
        FolderOptions(layout="kitti"),
    ):
        with pytest.raises(SourceError):
            FolderSource(tmp_path, options)
    with pytest.raises(SourceError, match="y-up"):
        parse_rotation("z-up")
    for text in ("nan,0,0,1", "0,0,0,inf"):  # typed, not of a pose source without a fix
        with pytest.raises(SourceError, match="four finite numbers"):
            parse_rotation(text)
    assert parse_rotation("0,0,0,1") == (0, 0, 0, 1)
