"""The keyframe buffer: which frames are kept, and which goes when the buffer is full.

A pure state holder: time is the frames' stamps, there is no clock, thread or randomness, so the
same frames give the same keyframes. The caller serialises calls.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ada3d_ros.config import KeyframeConfig
from ada3d_ros.errors import FrameError, FrameReason, InvalidRequestError
from ada3d_ros.geometry.pose import rotation_angle_rad
from ada3d_ros.geometry.sparse_points import sparse_points
from ada3d_ros.scene.floor import Floor, LevelPlaces, level_places
from ada3d_ros.types import Keyframe, KeyframeReason, RgbdFrame, SceneState

COVERAGE_VOXEL_M = 0.2  # the model's voxel: what a view adds is counted in spatial tokens
COVERAGE_GRID = 32  # readings taken along each side of the image
ANCHOR_REACH_M = 10.0  # a camera farther from the anchor moves it; models know places to 15 m

Voxels = frozenset[tuple[int, int, int]]


@dataclass(frozen=True, eq=False, slots=True)
class _Kept:
    keyframe: Keyframe
    voxels: Voxels  # visible in it
    levels: LevelPlaces


def _taken(keyframe: Keyframe) -> _Kept:
    return _Kept(keyframe, visible_voxels(keyframe.frame), level_places(keyframe.frame))


NOTHING_SEEN = SceneState(0, 0, 0)
NO_FLOOR_SEEN = Floor()


@dataclass(frozen=True, eq=False, slots=True)
class SceneSnapshot:
    """The kept keyframes at one moment, in time order, their state in numbers, and the floor that
    they stand on. anchor_xy_m: what the model's world may begin under, to 0.1 m: where the camera
    of the epoch's first keyframe stood, or nearer to where the robot is now.
    """

    keyframes: tuple[Keyframe, ...] = ()
    state: SceneState = NOTHING_SEEN
    floor: Floor = NO_FLOOR_SEEN
    anchor_xy_m: tuple[float, float] = (0.0, 0.0)
    frames: tuple[RgbdFrame, ...] = field(init=False)
    version: tuple[int, int] = field(init=False)  # epoch and version of the state

    def __post_init__(self) -> None:
        # Computed once, since every question reads them.
        frames = tuple(keyframe.frame for keyframe in self.keyframes)
        object.__setattr__(self, "frames", frames)
        object.__setattr__(self, "version", (self.state.epoch, self.state.version))


class KeyframeBuffer:
    """Keyframes in time order, at most config.max_views.

    A frame is admitted when it is the first, or at least min_translation_m from every kept
    keyframe, or turned by at least min_rotation_deg against every keyframe nearer than that, or
    max_interval_sec after the last admission, or when at least min_new_coverage of the voxels
    visible in it are visible in no kept keyframe.

    When full, the keyframe goes that alone covers the fewest voxels, the oldest among equals; never
    the newest. So the place stays covered, and a robot that stands still renews its view instead of
    losing the others.

    floor_z: the setting `world.floor_z`. `version` grows with each change of the set, `epoch` with
    each reset; neither ever goes back.
    """

    def __init__(self, config: KeyframeConfig, floor_z: str = "auto") -> None:
        self._config = config
        self._floor = self._first_floor = Floor.from_setting(floor_z)
        self._kept: list[_Kept] = []
        self._coverage: Counter[tuple[int, int, int]] = Counter()  # kept keyframes of a voxel
        self._last_stamp_ns: int | None = None
        self._next_index = 0
        self._anchor_xy_m = 0.0, 0.0
        self.version = 0
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def keyframes(self) -> tuple[Keyframe, ...]:
        """The kept keyframes in time order; the last is the newest."""
        return tuple(kept.keyframe for kept in self._kept)

    @property
    def config(self) -> KeyframeConfig:
        return self._config

    def snapshot(self) -> SceneSnapshot:
        """What is kept now."""
        stamps = [kept.keyframe.frame.stamp_ns for kept in self._kept]
        oldest, newest = min(stamps, default=-1), max(stamps, default=-1)
        state = SceneState(len(stamps), self.epoch, self.version, oldest, newest)
        return SceneSnapshot(self.keyframes, state, self._floor, self._anchor_xy_m)

    def offer(self, frame: RgbdFrame) -> Keyframe | None:
        """Admits the frame and returns its keyframe, or None where it adds too little.

        Raises FrameError: BACKWARD_STAMP if the stamp is not newer than the last one offered,
        FRAME_MISMATCH if its world frame is not the kept keyframes'.
        """
        # Whether it is admitted.
        self._check(frame)
        self._last_stamp_ns = frame.stamp_ns
        reason = self._reason_to_admit(frame)
        if reason is None:
            return None

        # Keep it; the surplus goes.
        keyframe = Keyframe(frame, self._next_index, reason)
        if reason is KeyframeReason.FIRST:
            self._anchor_xy_m = _rounded(frame.T_world_cam[:2, 3])
        self._next_index += 1
        self._keep(_taken(keyframe))
        self._evict_surplus()
        self._note_change()
        return keyframe

    def restore(self, scene: SceneSnapshot) -> bool:
        """Hold exactly this scene's keyframes, with their indices, its epoch, version, floor and
        anchor, whatever the thresholds say; whether that changed anything. Frames are told by
        index and stamp: those that are held already stay, also where other pixels come.

        Raises InvalidRequestError, and changes nothing, where indices or stamps do not rise, world
        frames differ, or an index of this epoch is held with another stamp.
        """
        keyframes, state = scene.keyframes, scene.state
        order = [(keyframe.index, keyframe.frame.stamp_ns) for keyframe in keyframes]
        for before, after in itertools.pairwise(order):
            if not (before[0] < after[0] and before[1] < after[1]):
                raise InvalidRequestError(
                    f"keyframe {after[0]} of {after[1]} ns comes after {before[0]} of {before[1]}"
                    " ns: indices and stamps of a scene must rise."
                )
        names = sorted({keyframe.frame.frame_id for keyframe in keyframes})
        if len(names) > 1:
            raise InvalidRequestError(f"the keyframes of one scene are posed in {names}.")
        held = {kept.keyframe.index: kept for kept in self._kept}
        if state.epoch != self.epoch:
            held = {}
        for index, stamp_ns in order:
            known = held.get(index)
            if known is not None and known.keyframe.frame.stamp_ns != stamp_ns:
                raise InvalidRequestError(
                    f"keyframe {index} is held with stamp {known.keyframe.frame.stamp_ns} ns, not"
                    f" {stamp_ns}: an index names one keyframe of an epoch. Begin a new epoch."
                )

        now = self.epoch, self.version, self._floor, self._anchor_xy_m, [*held]
        wanted = state.epoch, state.version, scene.floor, scene.anchor_xy_m, [i for i, _ in order]
        if now == wanted:
            return False
        self._kept = [held.get(each.index) or _taken(each) for each in keyframes]
        self._coverage = Counter(voxel for kept in self._kept for voxel in kept.voxels)
        self._last_stamp_ns = order[-1][1] if order else None
        self._next_index = max(self._next_index, order[-1][0] + 1 if order else 0)
        self._floor, self._anchor_xy_m = scene.floor, scene.anchor_xy_m
        self.epoch, self.version = state.epoch, state.version
        return True

    def set_config(self, config: KeyframeConfig) -> None:
        """New thresholds from the next frame on; a smaller max_views evicts at once."""
        self._config = config
        if self._evict_surplus():
            self._note_change()

    def allow_earlier_stamps(self) -> None:
        """The next frame may be older than the last: the clock fell back and the scene is kept."""
        self._last_stamp_ns = None

    def reset(self) -> None:
        """Forgets everything, stamps included. Indices go on: a keyframe index is never reused."""
        self._kept.clear()
        self._coverage.clear()
        self._last_stamp_ns = None
        self._floor, self._anchor_xy_m = self._first_floor, (0.0, 0.0)
        self.version += 1
        self.epoch += 1

    def _check(self, frame: RgbdFrame) -> None:
        if self._last_stamp_ns is not None and frame.stamp_ns <= self._last_stamp_ns:
            raise FrameError(
                FrameReason.BACKWARD_STAMP,
                f"frame stamp {frame.stamp_ns} ns is not newer than the last one,"
                f" {self._last_stamp_ns} ns; stamps must rise. After a clock jump or a bag"
                " loop reset the scene (`ada3d scene reset`, ~/reset_scene).",
            )
        if self._kept and frame.frame_id != self._kept[0].keyframe.frame.frame_id:
            raise FrameError(
                FrameReason.FRAME_MISMATCH,
                f"frame is posed in {frame.frame_id!r}, the keyframes in"
                f" {self._kept[0].keyframe.frame.frame_id!r}; reset the scene to change the world"
                " frame.",
            )

    def _reason_to_admit(self, frame: RgbdFrame) -> KeyframeReason | None:
        if not self._kept:
            return KeyframeReason.FIRST

        # Far from every keyframe, or turned against all that are near.
        config, pose = self._config, frame.T_world_cam
        kept = [k.keyframe.frame for k in self._kept]
        distance_m = np.linalg.norm([f.T_world_cam[:3, 3] - pose[:3, 3] for f in kept], axis=1)
        near = [f for f, d in zip(kept, distance_m, strict=True) if d < config.min_translation_m]
        if not near:
            return KeyframeReason.TRANSLATION
        turned = np.rad2deg([rotation_angle_rad(f.T_world_cam, pose) for f in near])
        if (turned >= config.min_rotation_deg).all():
            return KeyframeReason.ROTATION

        # Late enough, or with enough that is new; 0 switches either off.
        since_s = (frame.stamp_ns - kept[-1].stamp_ns) * 1e-9
        if 0.0 < config.max_interval_sec <= since_s:
            return KeyframeReason.TIME
        if 0.0 < config.min_new_coverage <= self._share_of_new_voxels(frame):
            return KeyframeReason.COVERAGE
        return None

    def _share_of_new_voxels(self, frame: RgbdFrame) -> float:
        voxels = visible_voxels(frame)
        return sum(voxel not in self._coverage for voxel in voxels) / max(len(voxels), 1)

    def _keep(self, kept: _Kept) -> None:
        self._kept.append(kept)
        self._coverage.update(kept.voxels)

    def _evict_surplus(self) -> bool:
        """Evicts down to max_views, one at a time; whether any went."""
        surplus = max(len(self._kept) - self._config.max_views, 0)
        for _ in range(surplus):
            # The least that one alone covers; min() takes the first, that is the oldest, of equals.
            gone = min(self._kept[:-1], key=self._num_covered_alone)
            self._kept.remove(gone)
            self._coverage.subtract(gone.voxels)
            for voxel in gone.voxels:
                if not self._coverage[voxel]:
                    del self._coverage[voxel]
        return surplus > 0

    def _note_change(self) -> None:
        self.version += 1
        self._floor = self._floor.updated([kept.levels for kept in self._kept])
        self._follow_with_anchor()

    def _follow_with_anchor(self) -> None:
        """Move the anchor where the newest camera is out of its reach: amid all cameras, so that a
        robot that comes back moves it no more, or if that is too far too, under the newest.
        """
        cameras = np.array([kept.keyframe.frame.T_world_cam[:2, 3] for kept in self._kept])
        middle = (cameras.min(axis=0) + cameras.max(axis=0)) / 2
        for anchor in (self._anchor_xy_m, middle, cameras[-1]):
            if np.hypot(*(cameras[-1] - anchor)) <= ANCHOR_REACH_M:
                self._anchor_xy_m = _rounded(anchor)
                return

    def _num_covered_alone(self, kept: _Kept) -> int:
        return sum(self._coverage[voxel] == 1 for voxel in kept.voxels)


def _rounded(xy_m: Sequence[float] | npt.NDArray[np.float64]) -> tuple[float, float]:
    x, y = (round(float(value), 1) for value in xy_m)
    return x, y


def visible_voxels(frame: RgbdFrame) -> Voxels:
    """The world voxels of COVERAGE_VOXEL_M that a sparse grid of the frame's readings falls into.

    Empty without depth.
    """
    xyz_m = sparse_points(frame, COVERAGE_GRID).reshape(-1, 3)
    valid = xyz_m[np.isfinite(xyz_m).all(axis=1)]
    occupied = np.unique(np.round(valid / COVERAGE_VOXEL_M).astype(np.int64), axis=0)
    return frozenset((x, y, z) for x, y, z in occupied.tolist())
