"""The floor's height: what counts as a floor, what does not, and when the height in force moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from ada3d_ros.config import KeyframeConfig
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.scene.floor import Floor, LevelPlaces, estimate_floor_m, level_places, stand_on_floor
from ada3d_ros.scene.keyframes import KeyframeBuffer
from ada3d_ros.sources.bag import BagSource
from ada3d_ros.sources.folder import FolderOptions, FolderSource
from ada3d_ros.types import Intrinsics, RgbdFrame

WIDTH, HEIGHT = 96, 72
CAMERA = Intrinsics(70.0, 70.0, 47.5, 35.5, WIDTH, HEIGHT)
Rectangle = tuple[float, float, float, float, float]  # x and y from, to; z
ALL_MOTION = KeyframeConfig(min_translation_m=0.0, min_rotation_deg=0.0)


@dataclass(frozen=True)
class Place:
    """Level rectangles, and walls: `wall_x_m` (a plane) and what is nearer than it hides it."""

    levels: tuple[Rectangle, ...]
    wall_x_m: float = 6.0
    noise: float = 0.0
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def seen(
        self, height_m: float, pitch_deg: float = 30.0, yaw_deg: float = 0.0, at: float = 0.0
    ) -> RgbdFrame:
        """From (at, 0, height_m), looking along x, turned left by yaw and down by pitch."""
        # The camera's axes in the world: x right, y down, z forward.
        yaw, pitch = np.deg2rad((yaw_deg, pitch_deg))
        ahead = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
        right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        T = np.eye(4)
        T[:3, :3] = np.column_stack((right, np.cross(ahead, right), ahead))
        T[:3, 3] = at, 0.0, height_m

        # The nearest surface along each ray; a ray's length in units of depth.
        v, u = np.mgrid[:HEIGHT, :WIDTH]
        rays = np.stack(((u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones_like(u)))
        rays = np.einsum("ij,jhw->ihw", T[:3, :3], rays)
        with np.errstate(divide="ignore"):
            wall = (self.wall_x_m - at) / rays[0]
        depth = np.where(wall > 0, wall, np.inf)
        for x0, x1, y0, y1, z in self.levels:
            with np.errstate(divide="ignore", invalid="ignore"):
                t = (z - height_m) / rays[2]
                x, y = at + t * rays[0], t * rays[1]
                hit = (t > 0) & (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
            depth = np.where(hit & (t < depth), t, depth)

        depth = np.where(depth < 8.0, depth, np.nan)
        depth = depth + self.noise * depth**2 * self.random.standard_normal(depth.shape)
        rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        return RgbdFrame(1, rgb, depth.astype(np.float32), CAMERA, T, "map")


FLOOR = (-6.0, 6.0, -6.0, 6.0, 0.0)
TABLE = (1.0, 1.8, -0.6, 0.6, 0.75)


def at_height(z_m: float, *levels: Rectangle) -> tuple[Rectangle, ...]:
    return tuple((*level[:4], level[4] + z_m) for level in levels)


def around(place: Place, height_m: float, count: int = 8) -> list[LevelPlaces]:
    return [level_places(place.seen(height_m, yaw_deg=360.0 * i / count)) for i in range(count)]


@pytest.mark.parametrize("z_m", [0.0, -1.5, -1.53, 3.2, 432.1])
@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_the_floor_is_found_wherever_the_map_has_its_origin(z_m: float, noise: float) -> None:
    place = Place(at_height(z_m, FLOOR, TABLE), noise=noise)
    assert estimate_floor_m(around(place, z_m + 1.4)) == pytest.approx(z_m, abs=0.011)


def test_one_view_of_the_floor_is_enough_and_a_low_camera_too() -> None:
    for height_m in (0.3, 1.4):
        views = [level_places(Place((FLOOR,)).seen(height_m, pitch_deg=20.0))]
        assert estimate_floor_m(views) == pytest.approx(0.0, abs=0.011)


def test_a_wall_or_a_ceiling_is_no_floor() -> None:
    assert estimate_floor_m([]) is None
    assert estimate_floor_m([level_places(Place(()).seen(1.4, pitch_deg=0.0))]) is None
    ceiling = Place(at_height(2.6, FLOOR))
    assert estimate_floor_m([level_places(ceiling.seen(1.4, pitch_deg=-30.0))]) is None
    both = Place((*at_height(2.6, FLOOR), *at_height(-0.4, FLOOR)))
    views = [level_places(both.seen(1.0, pitch_deg=p)) for p in (-30.0, 30.0)]
    assert estimate_floor_m(views) == pytest.approx(-0.4, abs=0.011)


def test_a_frame_without_depth_says_nothing() -> None:
    frame = replace(Place(()).seen(1.4), depth_m=np.full((HEIGHT, WIDTH), np.nan, np.float32))
    assert estimate_floor_m([level_places(frame)]) is None


def test_a_table_is_no_floor() -> None:
    """Alone it is too small; a large one has the floor under it, though little of that is seen."""
    assert estimate_floor_m([level_places(Place((TABLE,)).seen(1.4, pitch_deg=50.0))]) is None
    large = (0.3, 2.4, -0.75, 0.75, 0.75)
    patch = (0.3, 2.6, 0.9, 1.5, 0.0)
    views = [level_places(Place((large, patch)).seen(1.7, p)) for p in (40.0, 50.0, 60.0)]
    assert estimate_floor_m(views) is None


def test_the_lower_of_two_large_levels_counts() -> None:
    """Also where more of the upper one is seen: from a gallery."""
    for gallery in ((1.0, 6.0, -6.0, 6.0, 1.2), (-1.0, 6.0, -6.0, 6.0, 1.2)):
        views = around(Place((FLOOR, gallery)), 2.6)
        assert estimate_floor_m(views) == pytest.approx(0.0, abs=0.011)
    heights = np.concatenate([view.xyz_m[:, 2] for view in views])
    assert (heights > 1.0).sum() > (heights < 0.1).sum()


def test_steps_are_no_floor() -> None:
    """A stair that goes down beside a landing: the landing is."""
    steps = tuple((1.0 + 0.3 * i, 1.3 + 0.3 * i, -0.6, 0.6, -0.18 * (i + 1)) for i in range(6))
    landing = (-6.0, 1.0, -6.0, 6.0, 0.0)
    views = around(Place((landing, *steps)), 1.4)
    assert estimate_floor_m(views) == pytest.approx(0.0, abs=0.011)


def test_reflections_under_the_floor_do_not_lower_it() -> None:
    """A mirrored lamp and ceiling, seen through a shining patch of the floor."""
    frame = Place((FLOOR,)).seen(1.4, pitch_deg=35.0)
    views = []
    for column in range(0, 64, 8):
        depth = frame.depth_m.copy()
        depth[30:45, column : column + 14] *= 2.5
        views.append(level_places(replace(frame, depth_m=depth)))
    assert estimate_floor_m(views) == pytest.approx(0.0, abs=0.011)


def test_scattered_readings_under_the_floor_do_not_lower_it() -> None:
    random = np.random.default_rng(1)
    frame = Place((FLOOR,)).seen(1.4)
    depth = frame.depth_m.copy()
    wild = random.random(depth.shape) < 0.08
    depth[wild] *= random.uniform(1.0, 2.0, int(wild.sum())).astype(np.float32)
    assert estimate_floor_m([level_places(replace(frame, depth_m=depth))]) == pytest.approx(
        0.0, abs=0.011
    )


# -- the height in force


def levels_at(z_m: float, side_m: float = 3.0) -> LevelPlaces:
    x, y = (c.ravel() for c in np.meshgrid(*[np.arange(0.0, side_m, 0.1)] * 2))
    return LevelPlaces(np.column_stack((x, y, np.full(len(x), z_m))), np.full(len(x), z_m))


def in_force(*heights_m: float) -> list[float]:
    """After each estimate, every one of twenty views: no rule for few views is in force."""
    floor, floors = Floor(), []
    for z_m in heights_m:
        floor = floor.updated([levels_at(z_m)] * 20)
        floors.append(floor.z_m)
    return floors


def test_a_floor_near_zero_is_zero() -> None:
    """So that nothing changes where the world stands on its floor."""
    for z_m in (0.0, 0.05, -0.05, 0.031):
        assert Floor().updated([levels_at(z_m)]) == Floor(0.0, "estimated", 0)
    assert Floor().updated([levels_at(0.06)]) == Floor(0.06, "estimated", 1)


def test_the_height_in_force_moves_only_when_the_estimate_has_left_it() -> None:
    assert in_force(-1.5, -1.47, -1.54, -1.45, -1.5) == [-1.5] * 5
    assert in_force(-1.5, -1.56, -1.52, -1.5) == [-1.5, -1.56, -1.56, -1.5]
    assert in_force(-1.5, 0.04) == [-1.5, 0.0]


def test_what_few_views_say_is_put_right_once_there_are_twice_as_many() -> None:
    first = Floor().updated([levels_at(-1.46)])
    assert first.z_m == -1.46
    assert first.updated([levels_at(-1.5)]).z_m == -1.46
    second = first.updated([levels_at(-1.5)] * 2)
    assert (second.z_m, second.num_views) == (-1.5, 2)
    assert second.updated([levels_at(-1.46)] * 3).z_m == -1.5


def test_views_without_a_floor_leave_the_one_that_was_seen() -> None:
    seen = Floor().updated([levels_at(-1.5)])
    assert seen.updated([levels_at(-0.7, side_m=0.9)]) == seen
    assert not Floor().updated([levels_at(-0.7, side_m=0.9)]).known


def test_a_given_height_is_not_estimated() -> None:
    given = Floor.from_setting("-1.25")
    assert given == Floor(-1.25, "given")
    assert given.updated([levels_at(0.7)]) == given
    assert Floor.from_setting("auto") == Floor(0.0, "unknown")


def test_the_buffer_keeps_the_floor_of_its_keyframes_until_it_is_reset() -> None:
    frames = stand_on_floor(generate_room(3).frames, 1.5)
    buffer = KeyframeBuffer(ALL_MOTION)
    assert not buffer.snapshot().floor.known
    for frame in frames:
        buffer.offer(frame)
    assert (buffer.snapshot().floor.z_m, buffer.snapshot().floor.source) == (-1.5, "estimated")
    buffer.reset()
    assert buffer.snapshot().floor == Floor()
    given = KeyframeBuffer(ALL_MOTION, "-1.2")
    for frame in frames:
        given.offer(frame)
    given.reset()
    assert given.snapshot().floor == Floor(-1.2, "given")


def test_frames_are_moved_exactly_and_not_at_all_by_zero() -> None:
    frames = generate_room(3).frames[:2]
    assert stand_on_floor(frames, 0.0) is frames
    moved = stand_on_floor(stand_on_floor(frames, 1.5), -1.5)
    for frame, same in zip(frames, moved, strict=True):
        assert np.allclose(frame.T_world_cam, same.T_world_cam, atol=1e-12, rtol=0.0)
        assert same.depth_m is frame.depth_m


# -- recordings


def floors_of(frames: Sequence[RgbdFrame]) -> list[Floor]:
    buffer, floors = KeyframeBuffer(KeyframeConfig()), []
    for frame in frames:
        if buffer.offer(frame) is not None:
            floors.append(buffer.snapshot().floor)
    return floors


@pytest.mark.parametrize("by_m", [0.0, -1.53])
def test_the_cabinet_stands_on_its_floor_from_the_first_keyframe_on(
    shared_dir: Path, by_m: float
) -> None:
    bag = shared_dir / "data" / "tum_fr3_cabinet_ros2bag"
    floors = floors_of(stand_on_floor(list(BagSource(bag)), -by_m))
    heights = [floor.z_m for floor in floors]
    assert all(floor.known for floor in floors)
    if by_m == 0.0:
        assert heights == [0.0] * len(floors)
    assert np.abs(np.array(heights) - by_m).max() <= 0.06
    assert np.abs(np.array(heights[4:]) - by_m).max() <= 0.03
    assert len(set(heights)) <= 3


def test_a_desk_with_hardly_any_floor_in_view_leaves_it_unknown(shared_dir: Path) -> None:
    folder = shared_dir / "data" / "tum_fr1_rpy"
    options = FolderOptions(intrinsics=(517.3, 516.5, 318.6, 255.3))
    floors = floors_of(list(FolderSource(folder, options)))
    assert floors
    assert not any(floor.known for floor in floors)
