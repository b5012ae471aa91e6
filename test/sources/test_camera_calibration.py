"""A lens from the command line or from a calibration file."""

import pytest

from ada3d_ros.errors import SourceError
from ada3d_ros.sources.camera_calibration import CameraCalibration, parse_distortion

D5 = (0.21, -0.55, -0.004, 0.002, 0.4)
TOOL = """image_width: 64
image_height: 48
camera_name: narrow_stereo
camera_matrix:
  rows: 3
  cols: 3
  data: [61.0, 0.0, 31.5, 0.0, 62.0, 23.5, 0.0, 0.0, 1.0]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [0.21, -0.55, -0.004, 0.002, 0.4]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1, 0, 0, 0, 1, 0, 0, 0, 1]
projection_matrix:
  rows: 3
  cols: 4
  data: [58, 0, 31, 0, 0, 58, 23, 0, 0, 0, 1, 0]
"""
MESSAGE = """header:
  stamp: {sec: 1, nanosec: 0}
  frame_id: camera
height: 48
width: 64
distortion_model: equidistant
d: [0.01, 1e-3, -2.5e-05, 0.0]
k: [61.0, 0.0, 31.5, 0.0, 62.0, 23.5, 0.0, 0.0, 1.0]
roi: {x_offset: 0, y_offset: 0, height: 0, width: 0, do_rectify: false}
---
"""


@pytest.mark.parametrize(
    ("words", "model", "D"),
    [
        ([str(d) for d in D5], "plumb_bob", D5),
        (["0.1", "0.2", "0", "0"], "plumb_bob", (0.1, 0.2, 0.0, 0.0)),
        (["-5.5e-05,0.2,0,0"], "plumb_bob", (-5.5e-05, 0.2, 0.0, 0.0)),
        (["0.1,", "0.2,", "0,", "0"], "plumb_bob", (0.1, 0.2, 0.0, 0.0)),
        (["0.1"] * 8, "rational_polynomial", (0.1,) * 8),
        (["0.1"] * 14, "rational_polynomial", (0.1,) * 14),
        (["equidistant", "0.1", "0.2", "0.3", "0.4"], "equidistant", (0.1, 0.2, 0.3, 0.4)),
        (["plumb_bob", *["0.1"] * 5, "0", "0", "0"], "plumb_bob", (0.1,) * 5 + (0.0,) * 3),
        (["0", "0", "0", "0", "0"], "plumb_bob", (0.0,) * 5),
    ],
)
def test_coefficients(words, model, D):
    assert parse_distortion(words) == CameraCalibration(model, D)


def test_the_file_of_the_calibration_tool(tmp_path):
    (tmp_path / "camera.yaml").write_text(TOOL)
    found = parse_distortion([str(tmp_path / "camera.yaml")])
    assert found == CameraCalibration("plumb_bob", D5, (61.0, 62.0, 31.5, 23.5), (64, 48))


def test_a_printed_message(tmp_path):
    (tmp_path / "camera.yaml").write_text(MESSAGE)
    found = parse_distortion([str(tmp_path / "camera.yaml")])
    D = (0.01, 0.001, -2.5e-05, 0.0)
    assert found == CameraCalibration("equidistant", D, (61.0, 62.0, 31.5, 23.5), (64, 48))


BAD_WORDS = {
    "too few": (["0.1", "0.2"], "2 coefficients"),
    "no model has so many": (["0.1"] * 6, "6 coefficients"),
    "a folder behind": ([*map(str, D5), "room"], "'room' is not a finite number"),
    "not finite": (["0.1", "nan", "0", "0"], "'nan' is not"),
    "of another model": (["equidistant", *["0.1"] * 5], "5 distortion coefficients"),
    "a model alone": (["plumb_bob"], "0 coefficients"),
    "no such file": (["/nowhere/camera.yaml"], "cannot be read"),
}


@pytest.mark.parametrize("name", BAD_WORDS)
def test_what_is_no_lens_is_named(name):
    words, expected = BAD_WORDS[name]
    with pytest.raises(SourceError, match=expected) as caught:
        parse_distortion(words)
    assert "K1 K2 P1 P2" in str(caught.value) or "supported" in str(caught.value)


BAD_FILES = {
    "not YAML": (TOOL.replace("image_width: 64", "image_width: [64"), "not a camera_info YAML"),
    "a list": ("- 1\n- 2\n", "no `name: value`"),
    "empty": ("", "no `name: value`"),
    "no coefficients": (TOOL.replace("distortion_coefficients", "other"), "0 coefficients"),
    "unknown model": (TOOL.replace("plumb_bob", "kannala"), "'kannala' is not known"),
    "K of words": (TOOL.replace("61.0", "wide"), "camera_matrix is not made of finite"),
    "K cut short": (TOOL.replace("61.0, ", ""), "camera_matrix has 8 numbers"),
    "D of nan": (TOOL.replace("0.21", ".nan"), "distortion_coefficients is not made of finite"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_calibration_is_named(tmp_path, name):
    text, expected = BAD_FILES[name]
    (tmp_path / "camera.yaml").write_text(text)
    with pytest.raises(SourceError, match=expected):
        parse_distortion([str(tmp_path / "camera.yaml")])
