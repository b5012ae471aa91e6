"""A box in a picture has its place in the world: what is before and behind it is not of it."""

from dataclasses import replace

import numpy as np
import pytest

from ada3d_ros.geometry.sparse_points import project_to_frame
from ada3d_ros.perception.detector import Detection2D
from ada3d_ros.perception.lifting import (
    MAX_POINTS,
    MIN_EXTENT_M,
    Candidate,
    lift,
    lift_all,
)
from ada3d_ros.perception.taken import LiftFailure, NotLifted
from ada3d_ros.types import GroundingMethod, RgbdFrame
from test.support.flat_things import LOOKING_ALONG_X, SIDE, WALL_M, Flat, frame_of

CHAIR = Flat(2.0, 0.3, -0.1)


def lifted(frame: RgbdFrame, detection: Detection2D) -> Candidate:
    result = lift(frame, detection)
    assert isinstance(result, Candidate), result
    return result


def refusal(frame: RgbdFrame, detection: Detection2D) -> LiftFailure:
    result = lift(frame, detection)
    assert isinstance(result, NotLifted)
    assert result.detection is detection
    return result.reason


def test_a_thing_before_a_wall_is_where_it_is() -> None:
    candidate = lifted(frame_of([CHAIR]), CHAIR.detection())
    box = candidate.box
    assert box.center_m == pytest.approx(CHAIR.center_m, abs=0.015)
    assert box.size_m[1:] == pytest.approx([0.5, 0.5], abs=0.04)
    assert box.size_m[0] == MIN_EXTENT_M  # it is flat
    assert (box.label, box.score, box.method) == ("chair", 0.8, GroundingMethod.DETECTOR)
    assert box.evidence_stamps_ns == (100,)
    assert candidate.color == "red"
    assert not candidate.is_cut
    # 40 x 40 px: 20 x 20 on every second row and column.
    assert box.support_points == pytest.approx(400, rel=0.1)


@pytest.mark.parametrize("grown_px", [0, 3, 6, 9])
@pytest.mark.parametrize("noise_m", [0.0, 0.01])
def test_what_is_behind_it_is_not_of_it(grown_px: int, noise_m: float) -> None:
    """Up to half of a box may be wall: the box around a chair never fits it."""
    candidate = lifted(frame_of([CHAIR], noise_m=noise_m), CHAIR.detection(grown_px))
    assert candidate.xyz_m[:, 0].max() < 2.2
    assert candidate.box.center_m == pytest.approx(CHAIR.center_m, abs=0.02)


def test_the_median_of_all_readings_would_be_the_wall() -> None:
    detection = CHAIR.detection(12)
    frame = frame_of([CHAIR])
    x0, y0, x1, y1 = (int(v) for v in detection.box_px)
    assert np.median(frame.depth_m[y0:y1, x0:x1]) == WALL_M
    assert lifted(frame, detection).box.center_m[0] == pytest.approx(2.0, abs=0.01)


def test_what_stands_before_a_corner_of_it_is_not_of_it() -> None:
    monitor = Flat(1.0, 0.0, -0.22, 0.3, 0.2, (0, 0, 0))
    candidate = lifted(frame_of([CHAIR, monitor]), CHAIR.detection())
    assert candidate.xyz_m[:, 0] == pytest.approx(2.0, abs=0.01)
    assert candidate.color == "red"


def test_a_thing_behind_a_pole_is_one_thing() -> None:
    pole = Flat(1.5, 0.225, 0.0, 0.03, 3.0)
    box = lifted(frame_of([CHAIR, pole]), CHAIR.detection()).box
    assert box.center_m == pytest.approx(CHAIR.center_m, abs=0.02)
    assert box.size_m[1] == pytest.approx(0.5, abs=0.05)


def test_a_hole_in_its_depth_leaves_the_rest() -> None:
    """Screens reflect no infrared: the wall shows through nothing, it is just missing."""
    frame = frame_of([CHAIR])
    depth = frame.depth_m.copy()
    x0, y0, x1, y1 = (int(v) for v in CHAIR.corners_px())
    depth[y0 + 6 : y1 - 6, x0 + 6 : x1 - 6] = np.nan
    box = lifted(replace(frame, depth_m=depth), CHAIR.detection()).box
    assert box.center_m == pytest.approx(CHAIR.center_m, abs=0.02)
    assert box.size_m[1:] == pytest.approx([0.5, 0.5], abs=0.05)


def on_a_table(height_m: float) -> tuple[RgbdFrame, Detection2D]:
    """A block 0.2 m wide on a level table 0.5 m under the camera, its front 1.5 m away."""
    v, u = np.mgrid[:SIDE, :SIDE] - 79.5
    with np.errstate(divide="ignore"):
        table = np.where(v > 0, 0.5 * 160 / v, WALL_M)
    depth = np.minimum(table, WALL_M)
    front = np.abs(u) * 1.5 / 160 <= 0.1
    bottom, top = 0.5 * 160 / 1.5, (0.5 - height_m) * 160 / 1.5
    block = front & (v <= bottom) & (v >= top)
    depth[block] = 1.5
    # Its top, level as well, 0.2 m deep.
    back = (0.5 - height_m) * 160 / 1.7
    on_top = (
        (v < top) & (v >= back) & (np.abs(u) * ((0.5 - height_m) * 160 / np.maximum(v, 1)) <= 16)
    )
    depth[on_top] = ((0.5 - height_m) * 160 / np.maximum(v, 1))[on_top]
    rows, columns = np.nonzero(block | on_top)
    px = (columns.min() - 3, rows.min() - 3, columns.max() + 4, rows.max() + 4)
    rgb = np.full((SIDE, SIDE, 3), 90, np.uint8)
    camera = frame_of([]).intrinsics
    frame = RgbdFrame(1, rgb, depth.astype(np.float32), camera, LOOKING_ALONG_X.copy(), "map")
    return frame, Detection2D(tuple(float(p) for p in px), "cup", 0.9)


def test_the_table_is_not_of_what_stands_on_it() -> None:
    candidate = lifted(*on_a_table(0.2))
    assert candidate.box.center_m == pytest.approx([1.6, 0.0, -0.4], abs=0.08)
    assert candidate.box.size_m[1:] == pytest.approx([0.2, 0.2], abs=0.06)
    assert candidate.xyz_m[:, 2].min() > -0.5 + 0.015  # none of the table


def test_a_flat_thing_on_a_table_keeps_all_its_points() -> None:
    """A keyboard is as high as what depth is off by: its box says how far it goes."""
    box = lifted(*on_a_table(0.02)).box
    assert box.size_m[1] == pytest.approx(0.2, abs=0.1)
    assert box.center_m[:2] == pytest.approx([1.6, 0.0], abs=0.1)
    assert -0.52 < box.center_m[2] < -0.46


@pytest.mark.parametrize(
    ("y", "z"),
    [(0.95, 0.0), (-0.95, 0.0), (0.0, 0.95), (0.0, -0.95)],
    ids=["left", "right", "up", "down"],
)
def test_a_thing_at_the_edge_of_the_picture_is_cut(y: float, z: float) -> None:
    candidate = lifted(frame_of([Flat(2.0, y, z)]), Flat(2.0, y, z).detection())
    assert candidate.is_cut
    axis = 1 if y else 2
    assert candidate.box.size_m[axis] < 0.4
    assert candidate.box.size_m[3 - axis] == pytest.approx(0.5, abs=0.04)


def test_a_mask_tells_what_is_of_it() -> None:
    """Half of the box is masked, though all of it lies at one depth."""
    mask = np.zeros((SIDE, SIDE), bool)
    x0, y0, x1, y1 = (round(v) for v in CHAIR.corners_px())
    mask[y0:y1, x0 : (x0 + x1) // 2] = True
    box = lifted(frame_of([CHAIR]), replace(CHAIR.detection(), mask=mask)).box
    assert box.size_m[1] == pytest.approx(0.25, abs=0.04)
    assert box.center_m[1] == pytest.approx(0.3 + 0.125, abs=0.02)


def test_points_are_of_the_surface_and_few() -> None:
    frame = frame_of([CHAIR], noise_m=0.005)
    candidate = lifted(frame, CHAIR.detection(4))
    assert candidate.xyz_m.shape == (MAX_POINTS, 3)
    uv, z_m = project_to_frame(frame, candidate.xyz_m)
    columns, rows = np.round(uv).astype(int).T
    assert z_m == pytest.approx(frame.depth_m[rows, columns], abs=1e-5)


# -- what has no place


def test_without_depth_there_is_no_place() -> None:
    frame = frame_of([CHAIR])
    nowhere = replace(frame, depth_m=np.full_like(frame.depth_m, np.nan))
    assert refusal(nowhere, CHAIR.detection()) is LiftFailure.NO_DEPTH
    zero = replace(frame, depth_m=np.zeros_like(frame.depth_m))
    assert refusal(zero, CHAIR.detection()) is LiftFailure.NO_DEPTH


def test_single_readings_make_no_surface() -> None:
    frame = frame_of([CHAIR])
    depth = np.full_like(frame.depth_m, np.nan)
    depth[::4, ::4] = frame.depth_m[::4, ::4] + np.arange(40) / 4
    assert refusal(replace(frame, depth_m=depth), CHAIR.detection()) is LiftFailure.NO_SURFACE


@pytest.mark.parametrize(
    "box",
    [(10, 10, 12, 90), (170, 10, 190, 40), (-50, -50, -1, -1), (40, 40, 40, 40)],
    ids=["thin", "beyond", "before", "empty"],
)
def test_a_box_that_holds_no_picture_has_no_place(box: tuple[float, ...]) -> None:
    assert refusal(frame_of([CHAIR]), Detection2D(box, "cup", 0.5)) is LiftFailure.TOO_SMALL
    nan = Detection2D((float("nan"), 10, 50, 50), "cup", 0.5)
    assert refusal(frame_of([CHAIR]), nan) is LiftFailure.TOO_SMALL


def test_a_mask_of_another_size_is_refused() -> None:
    detection = replace(CHAIR.detection(), mask=np.ones((SIDE, SIDE + 1), bool))
    assert refusal(frame_of([CHAIR]), detection) is LiftFailure.MASK_SIZE


def test_all_of_a_frame_with_reasons_counted() -> None:
    bad = [Detection2D((10, 10, 12, 12), "cup", 0.5)] * 2
    found = lift_all(frame_of([CHAIR]), [CHAIR.detection(), *bad])
    assert [candidate.label for candidate in found.candidates] == ["chair"]
    assert found.refused == {"a box under 4 px, or outside the picture": 2}
