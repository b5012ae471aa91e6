"""Detections of a topic: which array is a keyframe's, and where its boxes lie in that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ada3d_ros.config.objects import DetectorConfig
from ada3d_ros.errors import DetectorError
from ada3d_ros.geometry.camera import undistort_color
from ada3d_ros.perception.class_names import COCO_NAMES
from ada3d_ros.ros.detector_health import NO_NAME, NO_SUCH_NUMBER
from ada3d_ros.ros.topic_detector import ENOUGH, KEPT, TopicDetector
from ada3d_ros.types import Intrinsics, RgbdFrame
from test.support.vision_messages import detection, detection_array

SECOND = 1_000_000_000
CAMERA = Intrinsics(260.0, 250.0, 158.0, 121.0, 320, 240)
BOX = (100.0, 50.0, 140.0, 90.0)


def frame(stamp_ns: int, camera_frame: str = "optical") -> RgbdFrame:
    shape = CAMERA.height, CAMERA.width
    rgb, depth = np.zeros((*shape, 3), np.uint8), np.ones(shape, np.float32)
    return RgbdFrame(stamp_ns, rgb, depth, CAMERA, np.eye(4), "map", camera_frame)


def detector(slop_s: float = 0.02, rectified: bool = False, **settings: Any) -> TopicDetector:
    return TopicDetector("/yolo", DetectorConfig(path="topic", **settings), slop_s, rectified)


def labels(found: Any) -> list[str]:
    assert found is not None, "no array"
    return [one.label for one in found.detections]


def info(model: str = "plumb_bob", D: Sequence[float] = ()) -> Any:
    k = CAMERA.matrix.ravel().tolist()
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    size = {"width": CAMERA.width, "height": CAMERA.height, "binning_x": 0, "binning_y": 0}
    p = [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0]
    return SimpleNamespace(k=k, p=p, d=list(D), distortion_model=model, roi=roi, **size)


# -- which array


def test_the_array_of_the_images_stamp_whenever_it_comes() -> None:
    """Before the image or after it, and exactly its own where others are as near as may be."""
    source = detector(slop_s=0.05)
    source.add(detection_array(SECOND, detection("cup", 0.9, BOX)))
    source.add(detection_array(SECOND + 10_000_000, detection("tv", 0.9, BOX)))
    assert labels(source.detect(frame(SECOND))) == ["cup"]
    late = frame(2 * SECOND)
    assert source.detect(late) is None
    source.add(detection_array(2 * SECOND, detection("book", 0.9, BOX)))
    assert labels(source.detect(late)) == ["book"]
    assert source.matches().matched == 2


def test_the_nearest_within_the_slop_once_its_own_does_not_come() -> None:
    source, wanted = detector(slop_s=0.02), frame(SECOND)
    source.add(detection_array(SECOND - 15_000_000, detection("cup", 0.9, BOX)))
    assert source.detect(wanted) is None  # its own may be on its way
    source.add(detection_array(SECOND + 18_000_000, detection("tv", 0.9, BOX)))
    assert labels(source.detect(wanted)) == ["cup"]
    assert source.detect(frame(SECOND + 40_000_000)) is None
    source.add(detection_array(SECOND + 60_000_000))
    assert labels(source.detect(frame(SECOND + 40_000_000))) == []  # 20 ms, inclusive


def test_the_pictures_of_early_releases_are_not_kept() -> None:
    source, array = detector(), detection_array(SECOND, detection("cup", 0.9, BOX))
    array.detections[0].source_img = SimpleNamespace(data=bytes(1000))
    source.add(array)
    assert array.detections[0].source_img == SimpleNamespace()
    assert labels(source.detect(frame(SECOND))) == ["cup"]


def test_an_empty_array_says_that_there_is_nothing() -> None:
    source = detector()
    source.add(detection_array(SECOND))
    found = source.detect(frame(SECOND))
    assert found is not None
    assert (found.detections, found.refused) == ((), {})
    assert math.isnan(found.seconds)


def test_stamps_that_never_match_are_told_with_both() -> None:
    """The keyframe and the array that came nearest; a match ends it."""
    source = detector()
    for second in range(1, 4):
        source.add(detection_array(second * SECOND + 400_000_000))
        source.detect(frame(second * SECOND))
    report = source.matches()
    assert (report.received, report.matched, report.missed) == (3, 0, 3)
    assert abs(report.nearest_ns - report.missed_ns) == 400_000_000
    source.add(detection_array(5 * SECOND))
    assert source.detect(frame(5 * SECOND)) is not None
    for second in range(1, 4):  # those of before are asked for again
        source.detect(frame(second * SECOND))
    assert source.matches().missed == 0


def test_arrays_that_are_behind_all_images_are_missed_too() -> None:
    """Their clock is another: none of them is later than the image."""
    source, wanted = detector(), frame(1_000_000 * SECOND)
    for index in range(ENOUGH):
        source.add(detection_array((index + 1) * SECOND))
        source.detect(wanted)
        assert source.matches().missed == 0
    source.add(detection_array(100 * SECOND))
    assert source.matches().missed == 1


def test_an_array_of_another_camera_is_none() -> None:
    source = detector()
    source.add(detection_array(SECOND, detection("cup", 0.9, BOX), frame_id="left"))
    assert source.detect(frame(SECOND)) is None
    assert source.matches().other_frame == "left"
    for name in ("/optical", ""):
        source.add(detection_array(SECOND, detection("cup", 0.9, BOX), frame_id=name))
        assert labels(source.detect(frame(SECOND))) == ["cup"]
    assert source.matches().other_frame == ""


def test_what_is_kept_is_bounded_and_a_new_time_forgets_it() -> None:
    source = detector()
    source.add(detection_array(0))  # no stamp at all
    for index in range(1, KEPT + 11):
        source.add(detection_array(index * SECOND))
    assert source.detect(frame(10 * SECOND)) is None
    assert source.detect(frame(11 * SECOND)) is not None
    assert (source.matches().received, source.matches().unset_stamps) == (KEPT + 11, 1)
    source.clear()
    assert source.detect(frame(11 * SECOND)) is None
    source.add(detection_array(SECOND))
    assert source.detect(frame(SECOND)) is not None


# -- what it holds


@pytest.mark.parametrize("foxy", [False, True])
def test_boxes_scores_and_names_by_value(foxy: bool) -> None:
    """Both forms of the messages; best first; what is below the score is left out."""
    source = detector(min_score=0.4)
    source.add(
        detection_array(
            SECOND,
            detection("TV ", 0.5, (200.0, 60.0, 300.0, 130.0), foxy=foxy),
            detection("Dining  Table", 0.75, (-20.0, 150.0, 200.0, 260.0), foxy=foxy),
            detection("cup", 0.25, BOX, foxy=foxy),
        )
    )
    found = source.detect(frame(SECOND))
    assert found is not None
    assert [(one.label, one.score, one.box_px) for one in found.detections] == [
        ("dining table", 0.75, (0.0, 150.0, 200.0, 240.0)),
        ("tv", 0.5, (200.0, 60.0, 300.0, 130.0)),
    ]
    assert found.refused == {}


def test_a_turned_box_reaches_to_its_hull() -> None:
    """40 x 20 turned by 90 degrees is 20 x 40; by 30 degrees as trigonometry has it."""
    source = detector()
    box, thirty = (100.0, 90.0, 140.0, 110.0), math.radians(30)
    source.add(
        detection_array(
            SECOND,
            detection("cup", 0.9, box, theta=math.pi / 2),
            detection("book", 0.8, box, theta=-thirty),
        )
    )
    found = source.detect(frame(SECOND))
    assert found is not None
    upright, turned = (one.box_px for one in found.detections)
    assert upright == pytest.approx((110.0, 80.0, 130.0, 120.0))
    width = 40 * math.cos(thirty) + 20 * math.sin(thirty)
    height = 40 * math.sin(thirty) + 20 * math.cos(thirty)
    assert turned[2] - turned[0] == pytest.approx(width)
    assert turned[3] - turned[1] == pytest.approx(height)


def test_classes_as_numbers(tmp_path: Path) -> None:
    """Of COCO, or of the file of names; without a name they are counted."""
    source = detector()
    assert source.info.kinds == ()
    numbers = [detection(text, 0.9, BOX) for text in ("62", "80", "999999999", "")]
    source.add(detection_array(SECOND, *numbers))
    found = source.detect(frame(SECOND))
    assert found is not None
    assert labels(found) == ["tv"]
    assert found.refused == {NO_SUCH_NUMBER: 2, NO_NAME: 1}
    assert source.info.kinds == COCO_NAMES

    names = tmp_path / "names.txt"
    names.write_text("Drill\nVice\n")
    source = detector(names=str(names))
    assert source.info.kinds == ("drill", "vice")
    source.add(detection_array(SECOND, detection("1", 0.9, BOX), detection("2", 0.9, BOX)))
    assert labels(source.detect(frame(SECOND))) == ["vice"]
    with pytest.raises(DetectorError, match=r"absent\.txt"):
        detector(names=str(tmp_path / "absent.txt"))


def test_what_is_wrong_with_a_detection_is_counted_by_reason() -> None:
    source = detector()
    empty = detection("cup", 0.9, BOX)
    empty.results = []
    source.add(
        detection_array(
            SECOND,
            empty,
            detection("cup", math.nan, BOX),
            detection("cup", 55.0, BOX),
            detection("cup", 0.9, (400.0, 10.0, 500.0, 60.0)),
            detection("cup", 0.9, (math.nan, 10.0, 500.0, 60.0)),
            detection("cup", 0.9, BOX, theta=math.inf),
            detection("cup", 0.9, (140.0, 50.0, 100.0, 90.0)),
            detection("good", 0.9, BOX),
        )
    )
    found = source.detect(frame(SECOND))
    assert found is not None
    assert labels(found) == ["good"]
    assert found.refused == {
        NO_NAME: 1,
        "a score that is NaN": 1,
        "a score outside 0..1": 1,
        "a box outside the picture": 1,
        "a box whose corners are not numbers": 2,
        "a box without extent": 1,
    }


def test_it_takes_no_phrases() -> None:
    assert not detector().info.takes_phrases
    with pytest.raises(DetectorError, match="/yolo takes no phrases"):
        detector().find(frame(SECOND), ["cup"])


# -- where it lies without the lens

LENSES = {
    "barrel": ("plumb_bob", (-0.28, 0.09, 0.001, -0.0005, 0.0)),
    "pincushion": ("plumb_bob", (0.12, -0.02, 0.0, 0.0)),
    "rational": ("rational_polynomial", (0.5, -0.3, 0.0005, 0.0002, 0.1, 0.8, -0.2, 0.05)),
    "fisheye": ("equidistant", (-0.03, 0.01, -0.005, 0.001)),
    "none": ("plumb_bob", ()),
}


@pytest.mark.parametrize("name", LENSES)
@pytest.mark.parametrize("box", [(20.0, 15.0, 100.0, 90.0), (220.0, 140.0, 312.0, 225.0)])
def test_a_box_is_where_its_pixels_go(name: str, box: tuple[float, ...]) -> None:
    """A rectangle painted into the image as taken, undistorted by OpenCV's remap: the box is its
    hull within a pixel.
    """
    model, D = LENSES[name]
    painted = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    x0, y0, x1, y1 = map(int, box)
    painted[y0:y1, x0:x1] = 255
    rows, columns = np.nonzero(undistort_color(painted, CAMERA, model, D)[..., 0] > 127)
    hull = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)

    source = detector()
    source.note_camera(SECOND, info(model, D))
    source.add(detection_array(SECOND, detection("tv", 0.9, (box[0], box[1], box[2], box[3]))))
    found = source.detect(frame(SECOND))
    assert found is not None
    np.testing.assert_allclose(found.detections[0].box_px, hull, atol=1.0)
    if D:
        assert np.abs(np.subtract(hull, box)).max() >= 2  # the lens counts


def test_rectified_images_have_no_lens() -> None:
    source = detector(rectified=True)
    source.note_camera(SECOND, info(*LENSES["barrel"]))
    source.add(detection_array(SECOND, detection("tv", 0.9, (40.0, 30.0, 100.0, 90.0))))
    found = source.detect(frame(SECOND))
    assert found is not None
    assert found.detections[0].box_px == (40.0, 30.0, 100.0, 90.0)
