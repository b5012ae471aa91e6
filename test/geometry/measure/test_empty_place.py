"""Something is at a place: a listed thing, or a surface that is not of the room itself."""

import numpy as np
import pytest

from ada3d_ros.errors import NotGroundedError
from ada3d_ros.geometry.measure import require_something_at
from ada3d_ros.measures import SceneObject
from ada3d_ros.types import Box3D
from test.support.box_room import BoxRoom, build_box_room


@pytest.fixture(scope="module")
def room() -> BoxRoom:
    return build_box_room(num_views=8, width=96, height=96)


def test_the_things_of_a_room_are_somewhere(room: BoxRoom) -> None:
    for box in room.boxes:
        require_something_at(box.center_m, room.frames, 0.0, ())


def test_the_air_is_empty_and_the_nearest_thing_is_told(room: BoxRoom) -> None:
    """1.2 m above the first box; 1.2 m from it, where it is listed."""
    box = room.boxes[0]
    above = box.center_m + np.array([0.0, 0.0, box.size_m[2] / 2 + 1.2])
    with pytest.raises(NotGroundedError, match=r"nothing is at .* the nearest thing is a surface"):
        require_something_at(above, room.frames, 0.0, ())
    listed = (SceneObject("1", "red chair", box),)
    with pytest.raises(NotGroundedError, match=r"the red chair, 1\.20 m away"):
        require_something_at(above, room.frames, 0.0, listed)


def test_a_listed_thing_suffices(room: BoxRoom) -> None:
    """Though no depth shows it; 10 cm around it belong to it."""
    nowhere = Box3D(np.array([50.0, 0.0, 1.0]), np.array([1.0, 1.0, 1.0]))
    listed = (SceneObject("1", "red chair", nowhere),)
    require_something_at(np.array([50.55, 0.0, 1.0]), room.frames, 0.0, listed)
    with pytest.raises(NotGroundedError, match=r"0\.20 m away"):
        require_something_at(np.array([50.7, 0.0, 1.0]), room.frames, 0.0, listed)


def test_without_depth_nothing_is_anywhere() -> None:
    with pytest.raises(NotGroundedError, match="no depth shows a thing"):
        require_something_at(np.zeros(3), (), 0.0, ())
