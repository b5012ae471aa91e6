"""Free rectangles against brute force, and against the true boxes of generated rooms."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ada3d_ros.errors import NotGroundedError
from ada3d_ros.geometry.boxes import corners, footprint_overlap_m2
from ada3d_ros.geometry.floor_grid import CELL_M
from ada3d_ros.geometry.measure import MeasuredScene
from ada3d_ros.geometry.measure.free_floor import (
    BESIDE_M,
    free_rectangle,
    largest_rectangle,
)
from ada3d_ros.lab.world.generated import GeneratedRoom, generate_room
from ada3d_ros.measures import MeasureKind
from ada3d_ros.scene.floor import stand_on_floor
from test.support.measured import ask, box

Bools = npt.NDArray[np.bool_]
grids = arrays(bool, (6, 7), elements=st.sampled_from([True, True, True, False]))


@pytest.fixture(scope="module")
def room() -> GeneratedRoom:
    return generate_room(11, side_px=96, split="val")


def largest_area(free: Bools, beside: Bools, least: int) -> int:
    rows, columns = free.shape
    return max(
        (
            (b - a) * (d - c)
            for a in range(rows)
            for b in range(a + least, rows + 1)
            for c in range(columns)
            for d in range(c + least, columns + 1)
            if free[a:b, c:d].all() and beside[a:b, c:d].any()
        ),
        default=0,
    )


@settings(max_examples=60, deadline=None)
@given(grids, arrays(bool, (6, 7)), st.integers(1, 3))
def test_the_largest_rectangle_is_that_of_brute_force(
    free: Bools, beside: Bools, least: int
) -> None:
    found = largest_rectangle(free, beside, least)
    if found is None:
        assert largest_area(free, beside, least) == 0
        return
    a, b, c, d = found
    assert free[a:b, c:d].all()
    assert beside[a:b, c:d].any()
    assert min(b - a, d - c) >= least
    assert (b - a) * (d - c) == largest_area(free, beside, least)


def test_no_true_box_stands_in_a_stated_rectangle(room: GeneratedRoom) -> None:
    found = 0
    for one in room.boxes:
        rectangle = free_rectangle(room.frames, one, 0.0)
        if rectangle is None:
            continue
        found += 1
        for other in room.boxes:
            assert footprint_overlap_m2(rectangle, other) <= 1e-4, (one.label, other.label)
        assert np.abs(corners(rectangle)[:, :2]).max() < 3.2  # the walls
        along = (
            np.abs(rectangle.center_m - one.center_m)[:2] - (rectangle.size_m + one.size_m)[:2] / 2
        )
        assert along.max() <= BESIDE_M + CELL_M
    assert found >= 4


def test_it_follows_the_floor_and_the_things_turn(room: GeneratedRoom) -> None:
    table = room.boxes[0]
    flat = free_rectangle(room.frames, table, 0.0)
    assert flat is not None
    raised = stand_on_floor(room.frames, 1.5)  # the world's origin 1.5 m above the floor
    thing = box(table.center_m - [0, 0, 1.5], table.size_m)
    below = free_rectangle(raised, thing, -1.5)
    assert below is not None
    assert below.center_m == pytest.approx(flat.center_m - [0, 0, 1.5], abs=2 * CELL_M)
    assert below.size_m == pytest.approx(flat.size_m, abs=4 * CELL_M)

    turned = box(table.center_m, table.size_m, yaw=0.5)
    rectangle = free_rectangle(room.frames, turned, 0.0)
    assert rectangle is not None
    assert rectangle.yaw_rad == 0.5


def test_an_obstacle_that_depth_does_not_show_is_kept_out(room: GeneratedRoom) -> None:
    table = room.boxes[0]
    free = free_rectangle(room.frames, table, 0.0)
    assert free is not None
    block = box([*free.center_m[:2], 0.3], [0.4, 0.4, 0.6])
    smaller = free_rectangle(room.frames, table, 0.0, [block])
    assert smaller is not None
    assert footprint_overlap_m2(smaller, block) == 0.0
    assert smaller.size_m[:2].prod() <= free.size_m[:2].prod()


def test_floor_that_no_view_shows_is_not_free(room: GeneratedRoom) -> None:
    far = box([40.0, 40.0, 0.3], label="crate")
    assert free_rectangle(room.frames, far, 0.0) is None
    assert free_rectangle((), room.boxes[0], 0.0) is None
    with pytest.raises(NotGroundedError, match=r"no free floor of 0\.2 x 0\.2 m .* the crate"):
        ask(MeasureKind.FREE_FLOOR, to=far, scene=MeasuredScene(room.frames))


def test_the_answer_has_the_rectangle_and_its_size(room: GeneratedRoom) -> None:
    one = box(room.boxes[0].center_m, room.boxes[0].size_m, "table")
    answer = ask(MeasureKind.FREE_FLOOR, to=one, scene=MeasuredScene(room.frames))
    rectangle = answer.boxes[1]
    assert answer.unit == "m"
    assert sorted(answer.values) == pytest.approx(sorted(rectangle.size_m[:2]))
    assert rectangle.size_m[2] == 0.0
    assert answer.uncertainty == (2 * CELL_M, 2 * CELL_M)
    assert "Beside the table" in answer.sentence
