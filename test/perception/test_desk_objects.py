"""A real desk through a real detector: which things are found, once each, and where they lie.

Truth by eye is in ../shared/data/README.md. Where the monitor and the keyboard lie was measured by
hand: their middles picked in two raw pictures each, the median depth of 7 x 7 px there, unprojected
with the lens and the pose at the depth image's stamp, without this package.
"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.transform import Rotation, Slerp

from ada3d_ros.config import KeyframeConfig
from ada3d_ros.config.objects import DetectorConfig
from ada3d_ros.geometry.camera import undistort_color, undistort_depth
from ada3d_ros.perception.lifting import lift_all
from ada3d_ros.perception.object_map import ObjectMap
from ada3d_ros.perception.open_detector import open_detector
from ada3d_ros.scene.keyframes import KeyframeBuffer
from ada3d_ros.scene.objects import ObjectMemory
from ada3d_ros.sources.folder import FolderOptions, FolderSource
from ada3d_ros.types import Box3D

K = (517.3, 516.5, 318.6, 255.3)
D = (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)
PRESENT = {"chair", "dining table", "tv", "keyboard", "cup", "book", "person"}
ABSENT = {
    *("couch", "potted plant", "backpack", "sink", "bed", "refrigerator", "microwave", "oven"),
    *("toilet", "clock", "bottle", "mouse"),
}
# Depth image, column, row: the middle of the screen and of the keyboard.
MONITOR = (("1305031239.839289", 490, 169), ("1305031240.039660", 491, 288))
KEYBOARD = (("1305031238.543264", 512, 298), ("1305031239.839289", 514, 397))
MONITOR_M, KEYBOARD_M = (0.476, 0.923, 1.095), (0.735, 0.934, 0.799)
APART_M = 0.393


@pytest.fixture(scope="module")
def desk(shared_dir: Path) -> Path:
    folder = shared_dir / "data/tum_fr1_rpy"
    if not folder.is_dir():
        pytest.skip(f"no recorded data: {folder} is absent")
    return folder


@pytest.fixture(scope="module")
def objects(desk: Path, shared_dir: Path) -> list[Box3D]:
    """What is known after the keyframes that the node's defaults admit."""
    model = shared_dir / "data/detectors/picodet_s_416_coco.onnx"
    if not model.is_file():
        pytest.skip(f"no recorded data: {model} is absent")
    detector = open_detector(DetectorConfig(path=str(model)))
    buffer, memory = KeyframeBuffer(KeyframeConfig()), ObjectMemory(200)
    map_ = ObjectMap(DetectorConfig().min_views, detector.info.min_score)
    for frame in FolderSource(desk, FolderOptions(intrinsics=K)):
        camera = frame.intrinsics
        rgb = undistort_color(frame.rgb, camera, "plumb_bob", D)
        depth_m = undistort_depth(frame.depth_m, camera, "plumb_bob", D)
        keyframe = buffer.offer(replace(frame, rgb=rgb, depth_m=depth_m))
        if keyframe is not None:
            said = detector.detect(keyframe.frame)
            assert said is not None
            map_.add(keyframe.frame, lift_all(keyframe.frame, said.detections).candidates)
            memory.update(map_.found(), buffer.snapshot())
    assert 5 <= len(buffer) <= 8
    assert all(not known.is_gone for known in memory.objects)
    return [known.box for known in memory.objects]


def kinds(objects: list[Box3D]) -> list[str]:
    """Without colours."""
    names = sorted(PRESENT | ABSENT, key=len, reverse=True)
    return [next((n for n in names if box.label.endswith(n)), box.label) for box in objects]


def by_hand(desk: Path, stamp: str, column: int, row: int) -> npt.NDArray[np.float64]:
    """The world point (3,) of a pixel of a raw depth image."""
    raw = cv2.imread(str(desk / f"depth/{stamp}.png"), cv2.IMREAD_UNCHANGED)
    assert raw is not None
    window = raw[row - 3 : row + 4, column - 3 : column + 4].astype(np.float64) / 5000
    z = np.median(window[window > 0])
    fx, fy, cx, cy = K
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    x, y = cv2.undistortPoints(np.array([[[column, row]]], np.float64), matrix, np.array(D))[0, 0]
    poses = np.loadtxt(desk / "groundtruth.txt")
    turn = Slerp(poses[:, 0], Rotation.from_quat(poses[:, 4:8]))(float(stamp))
    at = [np.interp(float(stamp), poses[:, 0], poses[:, i]) for i in (1, 2, 3)]
    return np.asarray(turn.apply([x * z, y * z, z]) + at)


def test_the_places_measured_by_hand_are_what_the_depth_says(desk: Path) -> None:
    monitor = np.mean([by_hand(desk, *pixel) for pixel in MONITOR], axis=0)
    keyboard = np.mean([by_hand(desk, *pixel) for pixel in KEYBOARD], axis=0)
    assert monitor == pytest.approx(MONITOR_M, abs=0.001)
    assert keyboard == pytest.approx(KEYBOARD_M, abs=0.001)
    assert np.linalg.norm(monitor - keyboard) == pytest.approx(APART_M, abs=0.001)


def test_17_of_19_kinds_are_told_right_and_at_most_one_is_false(objects: list[Box3D]) -> None:
    found = set(kinds(objects))
    right = len(PRESENT & found) + len(ABSENT - found)
    assert right >= 17, sorted(found)
    assert len(found - PRESENT) <= 1, sorted(found)


@pytest.mark.parametrize(("kind", "place"), [("tv", MONITOR_M), ("keyboard", KEYBOARD_M)])
def test_the_monitor_and_the_keyboard_are_one_each_where_they_lie(
    objects: list[Box3D], kind: str, place: tuple[float, ...]
) -> None:
    (box,) = [b for b, name in zip(objects, kinds(objects), strict=True) if name == kind]
    assert np.linalg.norm(box.center_m - place) <= 0.15
    assert box.support_points > 1000


def test_the_monitor_is_as_far_from_the_keyboard_as_by_hand(objects: list[Box3D]) -> None:
    boxes = dict(zip(kinds(objects), objects, strict=True))
    apart_m = np.linalg.norm(boxes["tv"].center_m - boxes["keyboard"].center_m)
    assert apart_m == pytest.approx(APART_M, abs=0.10)


def test_what_is_plainly_black_is_called_so(objects: list[Box3D]) -> None:
    labels = {box.label for box in objects}
    assert {"black tv", "black chair", "person"} <= labels
    assert not any(word in label for label in labels for word in ("red", "green", "yellow"))
