"""The scenes of many robots as they come over the network: lists, keyframes, who was asked last.

Any thread; knows no model. A scene is whole when all keyframes of its list are there. Beyond the
limits the least recently used scenes are forgotten.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, fields, replace
from typing import Generic, TypeVar

from ada3d_ros.errors import ConfigError, InvalidRequestError, KeyframesMissingError
from ada3d_ros.fleet.protocol import SceneList
from ada3d_ros.geometry.camera import is_of_another_size, size_of_matrix
from ada3d_ros.scene.floor import Floor
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.store.keyframe_bytes import unpack_keyframe
from ada3d_ros.types import Intrinsics, Keyframe

Key = tuple[str, str]  # robot and session
P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class HostLimits:
    """prefixes: scenes whose keys and values are kept at once, for which memory is planned;
    scenes: that are kept with their keyframes, of them a_robot of each robot; images_mib: of all
    their images; keyframe_bytes, pixels: of one keyframe; waiting: questions in the queue. Raises
    ConfigError for one below 1 (images_mib: 0).
    """

    prefixes: int = 8
    scenes: int = 64
    a_robot: int = 2
    images_mib: int = 4096
    keyframe_bytes: int = 4 << 20
    pixels: int = 1920 * 1200
    waiting: int = 16

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), int(field.name != "images_mib")
            if type(value) is not int or value < least:
                raise ConfigError(
                    f"{field.name} = {value!r} of a server's limits (--prefixes, --scenes,"
                    f" --waiting); allowed: a whole number from {least} on."
                )


@dataclass(frozen=True, slots=True)
class HostCounts:
    """In numbers since the start; scenes, prefixes and bytes as they are now."""

    scenes: int = 0
    prefixes: int = 0
    image_bytes: int = 0
    kv_bytes: int = 0
    answers: int = 0
    failed: int = 0
    canceled: int = 0  # answers that ended early, since nobody waited for them any more
    canceled_tokens: int = 0  # of those
    cache_hits: int = 0  # answered from a prefix that was there
    missing: int = 0  # calls about a scene that was not here, or not as it is now
    keyframes: int = 0
    keyframe_bytes: int = 0
    freed_prefixes: int = 0
    freed_scenes: int = 0


MAX_ASPECT = 32
NOTHING_LISTED = SceneList(-1, -1, Floor(), (0.0, 0.0), ())


class HostedScene(Generic[P]):
    """One robot's scene: its list, and the keyframes of it that came. pipeline: what answers about
    it, for the model's thread alone.
    """

    def __init__(self) -> None:
        self.wanted = NOTHING_LISTED
        self.digest = ""
        self.received: dict[int, Keyframe] = {}
        self.pipeline: P | None = None

    @property
    def missing(self) -> tuple[int, ...]:
        """Stamps in ns of the keyframes that are listed and not here."""
        listed = self.wanted.keyframes
        return tuple(stamp_ns for index, stamp_ns in listed if index not in self.received)

    @property
    def image_bytes(self) -> int:
        frames = [keyframe.frame for keyframe in self.received.values()]
        return sum(frame.rgb.nbytes + frame.depth_m.nbytes for frame in frames)

    def take(self, listed: SceneList) -> None:
        """The scene is this list from now on. Raises InvalidRequestError."""
        stamps, was = dict(listed.keyframes), self.wanted
        if was.epoch == listed.epoch:
            for index, stamp_ns in was.keyframes:
                if stamps.get(index, stamp_ns) != stamp_ns:
                    raise InvalidRequestError(
                        f"keyframe {index} is listed with stamp {stamps[index]} ns, it was"
                        f" {stamp_ns}: an index names one keyframe of an epoch. Begin a new epoch."
                    )
        if (listed.epoch, listed.version) <= (was.epoch, was.version) and listed != was:
            raise InvalidRequestError(
                f"a list of epoch {listed.epoch}, version {listed.version} comes after another one"
                f" of epoch {was.epoch}, version {was.version}: each change of a scene has a"
                " version of its own, and they rise."
            )
        self.received = {
            index: keyframe
            for index, keyframe in self.received.items()
            if stamps.get(index) == keyframe.frame.stamp_ns
        }
        self.wanted, self.digest = listed, listed.digest()


class SceneStore(Generic[P]):
    """Scenes by robot and session, the least recently used first."""

    def __init__(self, limits: HostLimits, max_views: int) -> None:
        self.limits, self._max_views = limits, max_views
        self._scenes: OrderedDict[Key, HostedScene[P]] = OrderedDict()
        self._lock = threading.Lock()
        self._counts, self._count_lock = HostCounts(), threading.Lock()

    def put_scene(self, key: Key, listed: SceneList) -> tuple[int, ...]:
        """A robot's scene is this list from now on; the stamps of the keyframes that are missing.
        Raises InvalidRequestError.
        """
        if len(listed.keyframes) > self._max_views:
            raise InvalidRequestError(
                f"a scene of {len(listed.keyframes)} keyframes; this server takes up to"
                f" {self._max_views}: lower keyframe.max_views on the robot."
            )
        with self._lock:
            scene = self._scenes.get(key) or HostedScene()
            scene.take(listed)
            self._scenes[key] = scene
            self._scenes.move_to_end(key)
            self._make_room(key)
            return scene.missing

    def put_keyframe(self, key: Key, data: bytes) -> int:
        """Take in a keyframe that is listed; how many are still missing. The same again changes
        nothing. Raises KeyframesMissingError for an unknown scene, InvalidRequestError.
        """
        with self._lock:
            self._known(key)
        keyframe = unpack_keyframe(data, self.limits.keyframe_bytes, self.limits.pixels)
        _check_camera(keyframe.frame.intrinsics)
        with self._lock:
            scene = self._known(key)
            pair = keyframe.index, keyframe.frame.stamp_ns
            if pair not in scene.wanted.keyframes:
                raise InvalidRequestError(
                    f"keyframe {pair[0]} of {pair[1]} ns is not in the scene's list: put the list"
                    " first."
                )
            scene.received.setdefault(keyframe.index, keyframe)
            self._make_room(key)
            missing = len(scene.missing)
        self.count(keyframes=1, keyframe_bytes=len(data))
        return missing

    def delete(self, key: Key) -> bool:
        """Forget a scene; whether there was one."""
        with self._lock:
            return self._scenes.pop(key, None) is not None

    def whole(self, key: Key, digest: str | None = None) -> tuple[HostedScene[P], SceneSnapshot]:
        """A scene that is used now. digest: of the list that is meant. Raises
        KeyframesMissingError unless it is that one, and all of it is here.
        """
        with self._lock:
            scene = self._known(key)
            missing = scene.missing
            if missing or (digest is not None and scene.digest != digest):
                raise KeyframesMissingError(
                    f"{len(missing)} keyframes are missing, or the list is another one.", missing
                )
            self._scenes.move_to_end(key)
            return scene, scene.wanted.snapshot(scene.received)

    def others(self, key: Key) -> list[HostedScene[P]]:
        """All scenes but this one, the least recently used first."""
        with self._lock:
            return [scene for other, scene in self._scenes.items() if other != key]

    def scenes(self) -> list[HostedScene[P]]:
        with self._lock:
            return list(self._scenes.values())

    def count(self, **more: int) -> None:
        """Add to the counts."""
        with self._count_lock:
            was = self._counts
            self._counts = replace(was, **{n: getattr(was, n) + more[n] for n in more})

    def counts(self) -> HostCounts:
        """Since the start; prefixes and kv_bytes are not known here."""
        scenes = self.scenes()
        total = sum(scene.image_bytes for scene in scenes)
        return replace(self._counts, scenes=len(scenes), image_bytes=total)

    def _known(self, key: Key) -> HostedScene[P]:
        """Raises KeyframesMissingError."""
        scene = self._scenes.get(key)
        if scene is None:
            raise KeyframesMissingError(f"robot {key[0]} has no scene of session {key[1]} here.")
        return scene

    def _make_room(self, newest: Key) -> None:
        """Forget the least recently used scenes beyond the limits, never this one."""
        limits, total = self.limits, sum(s.image_bytes for s in self._scenes.values())
        own = sum(robot == newest[0] for robot, _ in self._scenes)
        for key in [key for key in self._scenes if key != newest]:
            is_own = key[0] == newest[0]
            too_many = len(self._scenes) > limits.scenes or total > limits.images_mib << 20
            if too_many or (is_own and own > limits.a_robot):
                gone = self._scenes.pop(key)
                total, own = total - gone.image_bytes, own - is_own
                self.count(freed_scenes=1)


def _check_camera(camera: Intrinsics) -> None:
    """Raises InvalidRequestError for K of another image size, as every input of a robot does, and
    for an image so thin that it is huge once its short side is as long as a vision tower wants.
    """
    size = camera.width, camera.height
    if max(size) > MAX_ASPECT * min(size):
        raise InvalidRequestError(
            f"images of {size[0]}x{size[1]} px; allowed: one side up to {MAX_ASPECT} times the"
            " other. Cut them."
        )
    if is_of_another_size(camera.cx, camera.cy, size):
        raise InvalidRequestError(
            f"the principal point ({camera.cx:g}, {camera.cy:g}) px cannot be that of an image of"
            f" {size[0]}x{size[1]} px ({size_of_matrix(camera.cx, camera.cy)}): send the intrinsics"
            " of the image as it is."
        )
