"""Stamps, numbers and poses in text files: read exactly, or refused with file, line and text."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ada3d_ros.errors import FrameReason, SourceError
from ada3d_ros.sources.folder import FolderOptions, FolderSource
from ada3d_ros.sources.text_files import Row, stamps_to_ns
from test.support.posed_folders import (
    FIRST_NS,
    QUATERNION,
    N,
    all_of,
    numbers,
    pose,
    told_by,
    write_list,
    write_plain,
    write_tum,
)

EVERY = all_of(*range(N))
STAMPS_NS = [FIRST_NS + 100_000_000 * i for i in range(N)]


def rows_of(*stamps):
    return [Row(Path("rgb.txt"), i, s, (s,)) for i, s in enumerate(stamps, start=1)]


@pytest.mark.parametrize(
    ("text", "stamp_ns"),
    [
        ("1305031102.1", 1_305_031_102_100_000_000),
        ("1.305031102100000000e+09", 1_305_031_102_100_000_000),
        ("1305031102.123456789", 1_305_031_102_123_456_789),
        ("1305031102.1234567894", 1_305_031_102_123_456_789),
        ("-0.25", -250_000_000),
        ("-3.25", -3_250_000_000),
        ("+7", 7_000_000_000),
        (".5", 500_000_000),
        ("1e-9", 1),
        ("1305031102100", 1_305_031_102_100_000_000),
        ("1305031102100000", 1_305_031_102_100_000_000),
        ("1305031102100000000", 1_305_031_102_100_000_000),
    ],
)
def test_a_stamp_is_read_exactly(text, stamp_ns):
    assert stamps_to_ns(rows_of(text))[0] == [stamp_ns]


@pytest.mark.parametrize(
    ("stamps", "words"),
    [
        (["12:30:05"], r"rgb\.txt line 1: `12:30:05`: `12:30:05` is not a stamp"),
        (["1", "nan"], r"line 2: `nan`: `nan` is not a stamp: it is not finite"),
        (["inf"], "not finite"),
        (["1e999999999"], "too large for any unit"),
        (
            ["5000000000"],
            r"5000000000 is too large for seconds; is it in nanoseconds.*--stamp-unit",
        ),
        (["1305031102", "1305031102200000000"], r"line 2.*too large for seconds"),
    ],
)
def test_what_is_no_stamp_is_refused(stamps, words):
    with pytest.raises(SourceError, match=words):
        stamps_to_ns(rows_of(*stamps))


def test_the_unit_can_be_named(tmp_path):
    assert stamps_to_ns(rows_of("5000000000"), "ns") == (
        [5_000_000_000],
        "rgb.txt: stamps are in nanoseconds.",
    )
    with pytest.raises(SourceError, match="too large for milliseconds"):
        stamps_to_ns(rows_of("5000000000000"), "ms")
    write_tum(tmp_path, lambda i: str(5_000_000_000 + i * 100_000_000))
    with pytest.raises(SourceError, match="--stamp-unit"):
        FolderSource(tmp_path)
    frames = list(FolderSource(tmp_path, FolderOptions(stamp_unit="ns")))
    assert [frame.stamp_ns / 1e9 for frame in frames] == [5, 5.1, 5.2, 5.3, 5.4, 5.5]
    with pytest.raises(SourceError, match="choose one of auto, s, ms"):
        FolderSource(tmp_path, FolderOptions(stamp_unit="min"))


NOTATIONS = {
    "decimal": lambda i: f"1305031102.{1 + i}",
    "scientific": lambda i: f"{1305031102.1 + 0.1 * i:.18e}",
    "milliseconds": lambda i: str(STAMPS_NS[i] // 10**6),
    "microseconds": lambda i: str(STAMPS_NS[i] // 10**3),
    "nanoseconds": lambda i: str(STAMPS_NS[i]),
}


@pytest.mark.parametrize("poses", NOTATIONS)
@pytest.mark.parametrize("images", NOTATIONS)
def test_files_in_different_notations(tmp_path, images, poses):
    """A trajectory in scientific notation beside decimals; rounding of an end costs no frame."""
    write_tum(tmp_path, NOTATIONS[images])
    rows = (f"{NOTATIONS[poses](i)} {0.3 * i} 0 1.2 {QUATERNION}" for i in range(N))
    (tmp_path / "groundtruth.txt").write_text("\n".join(rows))
    source = FolderSource(tmp_path)
    frames = list(source)
    assert [told_by(frame) for frame in frames] == EVERY
    np.testing.assert_allclose([f.stamp_ns for f in frames], STAMPS_NS, rtol=0, atol=1000)
    said = any("groundtruth.txt: stamps are in " + poses in note for note in source.notes)
    assert said == poses.endswith("seconds")


@pytest.mark.parametrize("first", [-0.25, -3.25, -0.0, 0.0, -0.5])
def test_stamps_that_are_not_above_zero_are_moved_and_it_is_said(tmp_path, first):
    write_tum(tmp_path, lambda i: f"{first + 0.1 * i:.6f}")
    source = FolderSource(tmp_path)
    stamps = [frame.stamp_ns for frame in source]
    assert stamps[0] >= 1_000_000_000
    assert set(np.diff(stamps)) == {100_000_000}
    assert (stamps[0] - round(first * 1e9)) % 10**9 == 0
    assert any("s were added to all" in note for note in source.notes)


def test_images_out_of_order_and_twice(tmp_path):
    write_tum(tmp_path)
    rows = (tmp_path / "rgb.txt").read_text().splitlines()
    (tmp_path / "rgb.txt").write_text("\n".join([*rows[:0:-1], rows[2].replace("1.png", "5.png")]))
    source = FolderSource(tmp_path)
    assert [told_by(frame) for frame in source] == EVERY
    assert source.dropped == {FrameReason.BACKWARD_STAMP: 1}


# -- rows without a pose


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("nan nan nan nan nan nan nan", "not finite"),
        ("-nan(ind) " * 7, "not finite"),
        ("1.#QNAN " * 7 + "# lost", "not finite"),
        ("None None None null NA NA NA", "not finite"),
        ("0 0 0 0 0 0 0", "never set"),
        (f"inf 0 1 {QUATERNION}", "not finite"),
        ("1 2 3 9 9 9 9", "not a rotation"),
    ],
)
def test_a_lost_row_costs_its_frame_alone(tmp_path, row, reason):
    write_tum(
        tmp_path,
        lambda i: f"{10 + 0.3 * i:.1f}",
        lambda i: row if i == 3 else f"{0.3 * i} 0 1.2 {QUATERNION}",
    )
    source = FolderSource(tmp_path)
    assert [told_by(frame) for frame in source] == all_of(0, 1, 2, 4, 5)
    assert source.dropped == {FrameReason.NO_POSE: 1}
    (said,) = source.notes
    assert said.startswith("1 of 6 poses not usable, first: groundtruth.txt line 5: ")
    assert reason in said
    write_tum(tmp_path, pose_row=lambda i: row)
    with pytest.raises(SourceError, match=rf"none of the 6 poses.*line 2.*{reason}"):
        FolderSource(tmp_path)


def test_a_lost_row_is_bridged_within_the_allowed_gap(tmp_path):
    write_tum(tmp_path, pose_row=lambda i: "nan " * 7 if i == 3 else f"{0.3 * i} 0 1 {QUATERNION}")
    assert [told_by(frame) for frame in FolderSource(tmp_path)] == EVERY  # 0.2 s


# -- what editors and tools write


def with_bom(text):
    return b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()


def old_mac(text):
    return text.replace("\n", "\r").encode()


WRITTEN = {
    "byte order mark and CRLF": with_bom,
    "UTF-16": lambda text: text.encode("utf-16"),
    "line ends of old": old_mac,
    "tabs": lambda text: text.replace(" ", "\t").encode(),
    "commas": lambda text: text.replace(" ", ",").encode(),
    "commas and blanks": lambda text: text.replace(" ", ", ").encode(),
    "semicolons": lambda text: text.replace(" ", ";").encode(),
    "blank lines": lambda text: text.replace("\n", "\n\n  \n").encode(),
    "another comment": lambda text: text.replace("#", "%").encode(),
    "no end of line": lambda text: text.rstrip("\n").encode(),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_text_as_editors_and_tools_write_it(tmp_path, how):
    write_tum(tmp_path)
    for path in tmp_path.glob("*.txt"):
        path.write_bytes(WRITTEN[how](path.read_text()))
    assert [told_by(frame) for frame in FolderSource(tmp_path)] == EVERY


def test_a_header_of_column_names_is_no_row(tmp_path):
    write_tum(tmp_path)
    path = tmp_path / "groundtruth.txt"
    path.write_text(path.read_text().replace("# timestamp", "timestamp"))
    assert [told_by(frame) for frame in FolderSource(tmp_path)] == EVERY


def test_names_with_blanks_and_backslashes(tmp_path):
    write_tum(tmp_path)
    (tmp_path / "rgb").rename(tmp_path / "my images")
    path = tmp_path / "rgb.txt"
    path.write_text(path.read_text().replace("rgb/", "my images\\"))
    assert [told_by(frame) for frame in FolderSource(tmp_path)] == EVERY


REFUSED = {
    "an id column": (
        lambda text: text.replace("0.5\n", "0.5 7\n"),
        r"groundtruth\.txt line 2: `.*`: 9 columns, expected 8 \(timestamp tx",
    ),
    "a row cut short": (lambda text: text[:-20], r"line 7: `.*`: \d columns, expected 8"),
    "decimal commas": (lambda text: text.replace(".", ","), r"line 2.*decimal commas"),
    "decimal commas and semicolons": (
        lambda text: text.replace(".", ",").replace(" ", ";"),
        r"line 2.*decimal commas",
    ),
    "a word": (lambda text: text.replace("1.2", "lost", 1), r"line 2: `.*`: `lost` is not a num"),
    "nothing": (lambda text: "# empty\n", r"groundtruth\.txt holds no poses"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_cannot_be_read_is_named(tmp_path, how):
    write_tum(tmp_path)
    change, words = REFUSED[how]
    path = tmp_path / "groundtruth.txt"
    path.write_text(change(path.read_text()))
    with pytest.raises(SourceError, match=words):
        FolderSource(tmp_path)


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path):
    write_tum(tmp_path)
    path = tmp_path / "groundtruth.txt"
    path.write_bytes(path.read_bytes() + b"\xb0\xff")
    with pytest.raises(SourceError, match=r"groundtruth\.txt: line 8 is not text \(byte 0xb0\)"):
        FolderSource(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(SourceError, match=r"cannot read .*groundtruth\.txt"):
        FolderSource(tmp_path, FolderOptions(layout="tum"))


def test_lines_of_rgb_txt_without_a_name_are_named(tmp_path):
    write_tum(tmp_path)
    (tmp_path / "rgb.txt").write_text("# colour\n1305031102.1 rgb/0.png\n1305031102.2\n")
    with pytest.raises(SourceError, match=r"rgb\.txt line 3: `1305031102\.2`: every line must be"):
        FolderSource(tmp_path)


# -- matrices


def test_matrices_as_tools_write_them(tmp_path):
    """In one line, 3x4, in brackets with commas as numpy and JSON print them."""
    write_plain(tmp_path)
    for i, change in enumerate(
        (
            lambda T: " ".join(map(str, T.ravel())),
            lambda T: "\n".join(" ".join(map(str, row)) for row in T[:3]),
            lambda T: str(T.tolist()).replace("], ", "],\n"),
            lambda T: str(T),
        )
    ):
        path = tmp_path / "poses" / f"{i}.txt"
        path.write_text(change(np.loadtxt(path)))
    assert [told_by(frame) for frame in FolderSource(tmp_path)] == EVERY


def test_matrices_that_are_none_are_named(tmp_path):
    write_plain(tmp_path)
    path = tmp_path / "poses" / "2.txt"
    path.write_text("1 0 0 0\n0 1 0\n")
    with pytest.raises(SourceError, match=r"2\.txt line 2: `0 1 0`: 3 columns, the first row has"):
        FolderSource(tmp_path)
    path.write_text("1 0\n0 1\n")
    with pytest.raises(SourceError, match=r"2\.txt holds 2x2 numbers, expected a 4x4"):
        FolderSource(tmp_path)


def test_an_empty_pose_file_costs_its_frame_alone(tmp_path):
    write_plain(tmp_path)
    (tmp_path / "poses" / "3.txt").write_text("# lost\n")
    source = FolderSource(tmp_path)
    assert [told_by(frame) for frame in source] == all_of(0, 1, 2, 4, 5)
    assert source.dropped == {FrameReason.NO_POSE: 1}
    assert "3.txt is empty" in source.dropped.first[FrameReason.NO_POSE]


@pytest.mark.parametrize(
    "text",
    [
        "30 0 16\n0 30 12\n0 0 1",
        "30 0 16 0 30 12 0 0 1",
        "30 30 16 12",
        "30\n30\n16\n12",
        "30, 0, 16, 0\n0, 30, 12, 0\n0, 0, 1, 0",
        "30 0 16 0 0 30 12 0 0 0 1 0 0 0 0 1",
    ],
)
def test_camera_matrices_as_tools_write_them(tmp_path, text):
    (write_plain(tmp_path) / "K.txt").write_text(text)
    camera = next(iter(FolderSource(tmp_path))).intrinsics
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (30, 30, 16, 12)


def bad(change):
    T = np.eye(4)
    T[:3, :3] = [[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]]
    change(T)
    return T


BAD_POSES = {
    "all zero": (bad(lambda T: T.fill(0)), "is all zero"),
    "mirrored": (bad(lambda T: T[:3, 0].__imul__(-1)), "determinant -1"),
    "scaled": (bad(lambda T: T[:3, :3].__imul__(1.5)), r"has scale 1\.5"),
    "shrunk": (bad(lambda T: T[:3, :3].__imul__(0.01)), r"has scale 0\.01"),
    "scaled and mirrored": (bad(lambda T: T[:3, :3].__imul__(-2)), "scale 2 and is mirrored"),
    "sheared": (bad(lambda T: T.__setitem__((0, 0), 0.1)), "is not orthonormal"),
    "transposed": (bad(lambda T: T.__setitem__((3, 0), 2.0)), "bottom row.*transposed"),
    "huge": (bad(lambda T: T[:3, :3].__imul__(1e200)), "rotation of"),
}


@pytest.mark.parametrize("name", BAD_POSES)
@pytest.mark.parametrize("kind", ["files", "list"])
def test_a_pose_that_is_not_rigid_costs_its_frame_and_is_named(tmp_path, name, kind):
    T, words = BAD_POSES[name]
    if kind == "files":
        write_plain(tmp_path)
        np.savetxt(tmp_path / "poses" / "3.txt", T)
        place = "3.txt"
    else:
        write_list(tmp_path, lambda i: numbers(T if i == 3 else pose(i)))
        place = "poses.txt line 4"
    source = FolderSource(tmp_path)
    assert [told_by(frame) for frame in source] == all_of(0, 1, 2, 4, 5)
    reason = FrameReason.NO_POSE if (name, kind) == ("all zero", "list") else FrameReason.BAD_POSE
    assert source.dropped == {reason: 1}
    (said,) = source.notes
    assert said.startswith("1 of 6 poses not usable, first: ")
    assert place in said
    assert re.search(words, said)


@pytest.mark.parametrize("kind", ["files", "list"])
def test_a_scale_in_all_poses_is_refused(tmp_path, kind):
    def scaled(i):
        T = pose(i)
        T[:3, :3] *= 1.5
        return T

    if kind == "files":
        write_plain(tmp_path)
        for i in range(N):
            np.savetxt(tmp_path / "poses" / f"{i}.txt", scaled(i))
        words = r"rotation of 0\.txt has scale 1\.5"
    else:
        write_list(tmp_path, lambda i: numbers(scaled(i)))
        words = r"rotation of poses\.txt line 1 has scale 1\.5"
    with pytest.raises(SourceError, match=words):
        FolderSource(tmp_path)
