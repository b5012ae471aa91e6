"""Which files of a folder make one frame, and what is said of the rest."""

from __future__ import annotations

import numpy as np
import pytest

from ada3d_ros.errors import FrameReason, SourceError
from ada3d_ros.sources.folder import FolderOptions, FolderSource
from test.support.posed_folders import (
    FIRST_NS,
    QUATERNION,
    N,
    all_of,
    numbers,
    pose,
    rgb,
    save,
    told_by,
    write_list,
    write_plain,
)

EVERY = all_of(*range(N))


def notes_of(source: FolderSource) -> str:
    return "\n".join(source.notes)


@pytest.mark.parametrize("stem", [str, "frame-{:06d}".format, "scene0011_00_{}".format])
def test_frames_that_lost_a_file(tmp_path, stem):
    """As many of each are left: by rank three of five would be wrong."""
    write_plain(tmp_path, stem=stem)
    for lost in (f"rgb/{stem(2)}.png", f"depth/{stem(4)}.png", f"poses/{stem(1)}.txt"):
        (tmp_path / lost).unlink()
    source = FolderSource(tmp_path)
    frames = list(source)
    assert [told_by(frame) for frame in frames] == all_of(0, 3, 5)
    assert source.dropped == {FrameReason.NO_DEPTH: 1, FrameReason.NO_POSE: 1}
    assert [frame.stamp_ns // 10**8 for frame in frames] == [10, 13, 15]  # the gaps stay
    said = notes_of(source)
    assert f"2 colour without partner: {stem(1)}.png, {stem(4)}.png" in said
    assert f"1 depth without partner: {stem(2)}.png" in said
    assert f"1 pose without partner: {stem(2)}.txt" in said


def test_colour_named_otherwise_than_depth_is_paired_by_number(tmp_path):
    """The constant number of a camera is no part of a frame's number."""
    write_plain(tmp_path, stem="cam0_{:04d}".format, depth_stem="cam1_{:04d}_depth".format)
    (tmp_path / "rgb" / "cam0_0003.png").unlink()
    assert [told_by(f) for f in FolderSource(tmp_path)] == all_of(0, 1, 2, 4, 5)


def test_names_without_a_number_are_paired_by_the_whole_name(tmp_path):
    """As many of each are left: by rank most would be wrong."""
    write_plain(tmp_path, stem="abcdef".__getitem__)
    for lost in ("rgb/b.png", "depth/e.png", "poses/c.txt"):
        (tmp_path / lost).unlink()
    source = FolderSource(tmp_path)
    assert [told_by(frame) for frame in source] == all_of(0, 3, 5)
    assert source.dropped == {FrameReason.NO_DEPTH: 1, FrameReason.NO_POSE: 1}
    assert "e.png has no depth image with its name" in "".join(source.dropped.lines())


def test_names_without_a_number_in_common_go_by_rank_only_if_the_counts_agree(tmp_path):
    write_plain(tmp_path, depth_stem=lambda i: i + 100)
    source = FolderSource(tmp_path)
    assert [told_by(frame) for frame in source] == EVERY
    assert "no number in common in their names: paired in the order" in notes_of(source)
    (tmp_path / "depth" / "103.png").unlink()
    with pytest.raises(SourceError, match=r"6 colour and 5 depth.*0\.png and 100\.png"):
        FolderSource(tmp_path)


def test_two_files_of_one_number_are_refused(tmp_path):
    save(write_plain(tmp_path) / "rgb" / "03.png", rgb(3))
    with pytest.raises(SourceError, match=r"03\.png and 3\.png.*colour number 3"):
        FolderSource(tmp_path)


def test_a_file_that_is_no_frame_is_named(tmp_path):
    (write_plain(tmp_path) / "poses" / "README.txt").write_text("poses of the camera")
    source = FolderSource(tmp_path)
    assert [told_by(frame) for frame in source] == EVERY
    assert "1 pose files named otherwise are left out, first: README.txt" in notes_of(source)


def test_names_that_are_decimal_stamps(tmp_path):
    """.15 comes before .2, and depth has stamps of its own."""

    def at(second):
        return lambda i: repr(round(second + 0.05 * i, 3))

    write_plain(tmp_path, stem=at(1305031102.1), depth_stem=at(1305031102.104))
    frames = list(FolderSource(tmp_path))
    assert [told_by(frame) for frame in frames] == EVERY
    assert [f.stamp_ns for f in frames] == [FIRST_NS + 50_000_000 * i for i in range(N)]
    assert [f.depth_stamp_ns - f.stamp_ns for f in frames] == [4_000_000] * N


@pytest.mark.parametrize(("digits", "unit"), [(3, "ms"), (6, "us"), (9, "ns")])
def test_names_that_are_whole_stamps(tmp_path, digits, unit):
    def stem(i):
        return (FIRST_NS + 50_000_000 * i) // 10 ** (9 - digits)

    write_plain(tmp_path, stem=stem, depth_stem=lambda i: stem(i) + 4 * 10 ** (digits - 3))
    frames = list(FolderSource(tmp_path))
    assert [told_by(frame) for frame in frames] == EVERY
    assert [f.stamp_ns for f in frames] == [FIRST_NS + 50_000_000 * i for i in range(N)]
    named = FolderSource(tmp_path, FolderOptions(stamp_unit=unit))
    assert [frame.stamp_ns for frame in named] == [frame.stamp_ns for frame in frames]


def test_names_of_seconds_and_nanoseconds(tmp_path):
    """As tools that unpack a recording name them; depth is 4 ms later."""

    def at(delay_ns):
        def stem(i):
            sec, nanosec = divmod(FIRST_NS + 300_000_000 * i + delay_ns, 10**9)
            return f"frame_{sec}_{nanosec:09d}"

        return stem

    write_plain(tmp_path, stem=at(0), depth_stem=at(4_000_000))
    frames = list(FolderSource(tmp_path))
    assert [told_by(frame) for frame in frames] == EVERY
    assert [f.stamp_ns for f in frames] == [FIRST_NS + 300_000_000 * i for i in range(N)]


def test_names_that_are_stamps_without_depth_near_say_how_far_it_is(tmp_path):
    write_plain(tmp_path, stem=lambda i: f"10.{i}", depth_stem=lambda i: f"10.{i}5")
    with pytest.raises(SourceError, match=r"no_depth 6, first: 10\.0\.png.*0\.05 s away"):
        list(FolderSource(tmp_path))


def test_names_below_zero(tmp_path):
    write_plain(tmp_path, stem=lambda i: f"{-0.25 + 0.1 * i:.2f}")
    source = FolderSource(tmp_path)
    frames = list(source)
    assert [told_by(frame) for frame in frames] == EVERY
    assert frames[0].stamp_ns > 0
    assert set(np.diff([frame.stamp_ns for frame in frames])) == {100_000_000}
    assert "stamps begin at -0.25 s" in notes_of(source)


# -- one file with all poses


ROWS = {
    "4x4": lambda i: numbers(pose(i)),
    "3x4, KITTI": lambda i: numbers(pose(i)[:3]),
    "TUM without stamp": lambda i: f"{0.3 * i} 0 1.2 {QUATERNION}",
    "TUM with frame numbers": lambda i: f"{i} {0.3 * i} 0 1.2 {QUATERNION}",
    "TUM with stamps": lambda i: f"{1305031102.1 + 0.1 * i:.1f} {0.3 * i} 0 1.2 {QUATERNION}",
    "frame number and 4x4": lambda i: f"{i} {numbers(pose(i))}",
    "stamp and 3x4": lambda i: f"{1305031102.1 + 0.1 * i:.1f} {numbers(pose(i)[:3])}",
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_list_of_poses(tmp_path, kind):
    write_list(tmp_path, ROWS[kind])
    source = FolderSource(tmp_path)
    frames = list(source)
    assert source.layout == "list"
    assert [told_by(frame) for frame in frames] == EVERY
    np.testing.assert_allclose(frames[3].T_world_cam, pose(3), atol=1e-9)
    first_ns = FIRST_NS if "stamp" in kind and "without" not in kind else 1_000_000_000
    assert [f.stamp_ns for f in frames] == [first_ns + 100_000_000 * i for i in range(N)]


def test_rows_go_to_the_images_of_their_number(tmp_path):
    """Colour 2 and depth 4 are lost, the list is whole; row 1 is lost in another."""
    write_list(tmp_path / "whole", ROWS["4x4"])
    (tmp_path / "whole" / "rgb" / "2.png").unlink()
    (tmp_path / "whole" / "depth" / "4.png").unlink()
    assert [told_by(f) for f in FolderSource(tmp_path / "whole")] == all_of(0, 1, 3, 5)
    write_list(tmp_path / "short", ROWS["frame number and 4x4"], rows=(0, 2, 3, 4, 5))
    source = FolderSource(tmp_path / "short")
    assert [told_by(frame) for frame in source] == all_of(0, 2, 3, 4, 5)
    assert source.dropped == {FrameReason.NO_POSE: 1}


def test_two_poses_of_one_frame_number_are_refused(tmp_path):
    """The second one counted, without a word."""
    write_list(tmp_path, ROWS["frame number and 4x4"], rows=(0, 1, 2, 2, 3, 4, 5))
    with pytest.raises(SourceError, match=r"poses\.txt line 4: .*frame 2 has a pose in line 3"):
        FolderSource(tmp_path)


def test_rows_that_cannot_be_told_apart_are_refused(tmp_path):
    """Images 1 to 5 and six rows: whether the first row is image 0 or 1 is anybody's guess."""
    write_list(tmp_path, ROWS["4x4"])
    for name in ("rgb", "depth"):
        (tmp_path / name / "0.png").unlink()
    with pytest.raises(SourceError, match=r"6 poses for 5 colour.*Number the images from 0"):
        FolderSource(tmp_path)
    write_list(tmp_path, ROWS["4x4"], rows=range(4))
    with pytest.raises(SourceError, match="4 poses for 6 colour"):
        FolderSource(tmp_path)


def test_a_list_of_another_format_is_refused(tmp_path):
    write_list(tmp_path, lambda i: "1 2 3 4 5")
    with pytest.raises(SourceError, match=r"poses\.txt line 1: `1 2 3 4 5`: 5 columns, expected"):
        FolderSource(tmp_path)
    write_list(tmp_path, lambda i: numbers(pose(i)) if i != 2 else "1 2 3")
    with pytest.raises(SourceError, match=r"poses\.txt line 3: `1 2 3`: 3 columns, the first row"):
        FolderSource(tmp_path)
