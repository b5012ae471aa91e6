"""A recorded rosbag2 (mcap or sqlite3) as an iterable of RgbdFrame, read without ROS, by rosbags.

Three passes: the first finds wrong stamps, the second reads camera_info and poses, and decides what
belongs together; the third decodes images in the order of the recording, holding only those whose
partner has not come yet.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import FrameError, FrameReason, PoseError, SourceError
from ada3d_ros.geometry.pose import PoseBuffer, PoseLookup, pose_from_quaternion
from ada3d_ros.geometry.transforms import TransformBuffer
from ada3d_ros.sources.association import STRAY_NS, pair_nearest, stray_leads
from ada3d_ros.sources.bag_reader import BagReader
from ada3d_ros.sources.camera_info import info_in_force
from ada3d_ros.sources.camera_watch import CameraWatch
from ada3d_ros.sources.dropped import Dropped
from ada3d_ros.sources.messages import (
    PosedSet,
    frame_name,
    frame_of,
    header_stamp_ns,
    pose_frame_fault,
    pose_of,
    stamp_of,
)
from ada3d_ros.sources.tf_messages import TF_STATIC, placed
from ada3d_ros.sources.topics import TF_MESSAGE, BagTopics, detect_topics, topic_types
from ada3d_ros.types import RgbdFrame

logger = logging.getLogger(__name__)

STORE = get_typestore(Stores.LATEST)  # the types of our inputs are alike in all distributions
LOST_PARTNER = {FrameReason.NO_DEPTH, FrameReason.NO_INFO, FrameReason.NO_POSE}
MAX_POSES = 10_000_000  # a recording's poses all stay: 28 h at 100 Hz


@dataclass(slots=True)
class _Index:
    """What the first pass found. Images by their place among the messages of their topic."""

    rgb: list[tuple[int, int]] = field(default_factory=list)  # (place, stamp_ns), stamps rising
    depth: list[tuple[int, int]] = field(default_factory=list)
    infos: list[tuple[int, Any]] = field(default_factory=list)  # (stamp_ns, message)
    stray_ns: list[int] = field(default_factory=list)  # where wrong stamps should have been
    poses: PoseBuffer = field(default_factory=lambda: PoseBuffer(MAX_POSES))
    transforms: TransformBuffer = field(default_factory=lambda: TransformBuffer(MAX_POSES, None))
    pose_faults: list[str] = field(default_factory=list)  # one sentence for each kind


@dataclass(slots=True)
class _Held:
    """The messages of one topic whose partner has not come yet, by their place."""

    wanted: set[int]
    messages: dict[int, Any] = field(default_factory=dict)
    next_place: int = 0

    def offer(self, message: Any) -> None:
        if self.next_place in self.wanted:
            self.messages[self.next_place] = message
        self.next_place += 1


class BagSource:
    """The frames of a bag in stamp order; iterate as often as needed.

    `dropped` counts what the last pass left out; what is odd about a camera whose frames can be
    used is logged once. `config` gives what the node would use: depth.*, sync.slop_sec,
    pose.max_gap_sec, world_frame, pose_child_frame, extrinsic.*, camera.*. Raises SourceError, at
    construction or while reading, for a bag that is missing, broken or lacks an input.
    """

    def __init__(
        self, path: str | Path, topics: BagTopics | None = None, config: AgentConfig | None = None
    ) -> None:
        self.path = Path(path)
        self.config = config or AgentConfig()
        with BagReader(path) as reader:
            types = _types(reader)
            for note in reader.notes:
                logger.warning("%s: %s", path, note)
        self.topics = detect_topics(types, topics or BagTopics())
        self._by_tf = types[self.topics.pose] == TF_MESSAGE
        self.dropped = Dropped()
        extrinsic = self.config.extrinsic
        self._T_child_cam = pose_from_quaternion(extrinsic.xyz, extrinsic.quat_xyzw)

    def __iter__(self) -> Iterator[RgbdFrame]:
        self.dropped = Dropped()
        with BagReader(self.path) as reader:
            # Which images belong together.
            index = self._read_index(reader)
            slop_s = self.config.sync.slop_sec
            pairs = pair_nearest(_stamps(index.rgb), _stamps(index.depth), slop_s)
            paired = {i for i, _ in pairs}
            for i, (_, stamp_ns) in enumerate(index.rgb):
                if i not in paired:
                    text = f"no depth image within {slop_s} s of colour at {stamp_ns} ns."
                    self._drop(FrameError(FrameReason.NO_DEPTH, text), stamp_ns, index)

            # Decode them in that order.
            places = [(index.rgb[i][0], index.depth[j][0]) for i, j in pairs]
            watch = CameraWatch(self.config, logger.warning)
            for rgb, depth in self._read_images(reader, places):
                try:
                    posed = self._posed(rgb, depth, index)
                    frame = frame_of(posed, self.config)
                except FrameError as error:
                    self._drop(error, stamp_of(rgb), index)
                    continue
                watch.note(frame, posed)
                yield frame
            watch.judge_poses(finished=True)
        self.dropped.drop_zeros()

    def _drop(self, error: FrameError, stamp_ns: int, index: _Index) -> None:
        """Count a lost frame; once, where a wrong stamp that is counted already cost it."""
        if error.reason in LOST_PARTNER and any(
            abs(stray_ns - stamp_ns) <= STRAY_NS for stray_ns in index.stray_ns
        ):
            return
        self.dropped.note(error)

    def _read_index(self, reader: BagReader) -> _Index:
        """Raises SourceError where the poses are of another world."""
        # Every message by its topic, but for those whose stamp is wrong.
        index = _Index()
        places: Counter[str] = Counter()
        leads = self._stray_leads(reader)
        names = {*_names(self.topics), *((TF_STATIC,) if self._by_tf else ())}
        for topic, message in _messages(reader, names):
            place = places[topic]
            places[topic] += 1
            lead_ns = leads.get(topic, {}).get(place, 0)
            if message is None:
                self.dropped[FrameReason.CORRUPT] += 1
            elif hasattr(message, "transforms"):
                self._index_transforms(index, message, topic == TF_STATIC)
            elif lead_ns:
                ahead = lead_ns > 0
                self.dropped[FrameReason.FUTURE_STAMP if ahead else FrameReason.BACKWARD_STAMP] += 1
                if topic != self.topics.rgb:
                    index.stray_ns.append(stamp_of(message) - lead_ns)
            elif topic == self.topics.rgb:
                self._index_rgb(index, place, stamp_of(message))
            elif topic == self.topics.depth:
                index.depth.append((place, stamp_of(message)))
            elif topic == self.topics.camera_info:
                index.infos.append((stamp_of(message), message))
            else:
                self._index_pose(index, message)

        # Poses of another world would drop every frame: say so at once.
        index.infos.sort(key=lambda item: item[0])
        if len(index.poses) == 0 and index.pose_faults:
            raise SourceError(f"{self.path}: {' '.join(index.pose_faults)}")
        return index

    def _stray_leads(self, reader: BagReader) -> dict[str, dict[int, int]]:
        """Of each topic the messages with a wrong stamp: place -> how far it is ahead, ns."""
        # All stamps that are set, and when they were recorded.
        stamped = [t for t in _names(self.topics) if not (self._by_tf and t == self.topics.pose)]
        rows: dict[str, list[tuple[int, int, int]]] = {topic: [] for topic in stamped}
        places: Counter[str] = Counter()
        for topic, bag_ns, data in _recorded(reader, set(rows)):
            stamp_ns = header_stamp_ns(data)
            if stamp_ns > 0:
                rows[topic].append((places[topic], stamp_ns, bag_ns))
            places[topic] += 1

        # Those that are far from their neighbours'.
        result = {}
        for topic, found in rows.items():
            table = np.array(found, dtype=np.int64).reshape(-1, 3)
            leads = stray_leads(table[:, 1], table[:, 2])
            at = np.flatnonzero(leads)
            result[topic] = dict(zip(table[at, 0].tolist(), leads[at].tolist(), strict=True))
        return result

    def _index_rgb(self, index: _Index, place: int, stamp_ns: int) -> None:
        if stamp_ns == 0:
            self.dropped[FrameReason.ZERO_STAMP] += 1
        elif index.rgb and stamp_ns <= index.rgb[-1][1]:
            self.dropped[FrameReason.BACKWARD_STAMP] += 1
        else:
            index.rgb.append((place, stamp_ns))

    def _index_pose(self, index: _Index, message: Any) -> None:
        fault = pose_frame_fault(message, self.topics.pose, self.config)
        if fault:
            self.dropped[FrameReason.FRAME_MISMATCH] += 1
            if fault not in index.pose_faults:
                index.pose_faults.append(fault)
            return
        try:
            index.poses.add(stamp_of(message), pose_of(message) @ self._T_child_cam)
        except PoseError as error:
            self.dropped.note(error)

    def _index_transforms(self, index: _Index, message: Any, static: bool) -> None:
        for transform in message.transforms:
            try:
                index.transforms.add(*placed(transform), static)
            except PoseError as error:
                self.dropped.note(error)

    def _read_images(
        self, reader: BagReader, places: list[tuple[int, int]]
    ) -> Iterator[tuple[Any, Any]]:
        """Pairs of messages in the order of `places` (colour place, depth place)."""
        rgb, depth = _Held({i for i, _ in places}), _Held({j for _, j in places})
        todo = iter(places)
        pair = next(todo, None)
        for topic, message in _messages(reader, {self.topics.rgb, self.topics.depth}):
            # Hold what is wanted.
            (rgb if topic == self.topics.rgb else depth).offer(message)

            # Every next pair that is complete.
            while pair is not None and pair[0] in rgb.messages and pair[1] in depth.messages:
                yield rgb.messages.pop(pair[0]), depth.messages.pop(pair[1])
                pair = next(todo, None)

    def _posed(self, rgb: Any, depth: Any, index: _Index) -> PosedSet:
        """Two images with their camera_info and pose. Raises FrameError (NO_INFO, NO_POSE)."""
        stamp_ns, slop_s, topics = stamp_of(rgb), self.config.sync.slop_sec, self.topics
        info = info_in_force(index.infos, stamp_ns, round(slop_s * 1e9))
        if info is None:
            raise FrameError(FrameReason.NO_INFO, f"{topics.camera_info} holds no message.")
        found = self._camera_pose(stamp_ns, frame_name(rgb.header.frame_id), index)
        if found.pose is None:
            raise FrameError(FrameReason.NO_POSE, f"no pose at {stamp_ns} ns: {found.why}")
        names = topics.rgb, topics.depth, topics.camera_info
        return PosedSet(rgb, depth, info, stamp_ns, found.pose.copy(), names)

    def _camera_pose(self, stamp_ns: int, camera_frame: str, index: _Index) -> PoseLookup:
        """Of the optical frame, from the pose's topic or from TF."""
        gap_s = self.config.pose.max_gap_sec
        if not self._by_tf:
            return index.poses.lookup(stamp_ns, gap_s)
        child = self.config.pose_child_frame or camera_frame
        found = index.transforms.lookup(self.config.world_frame, child, stamp_ns, gap_s)
        if found.pose is None:
            return found
        return PoseLookup(found.status, found.pose @ self._T_child_cam)


def _names(topics: BagTopics) -> tuple[str, ...]:
    return topics.rgb, topics.depth, topics.camera_info, topics.pose


def _stamps(places: list[tuple[int, int]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([stamp_ns for _, stamp_ns in places], dtype=np.int64)


def _types(reader: BagReader) -> dict[str, str]:
    return topic_types((c.topic, c.msgtype) for c in reader.connections)


def _recorded(reader: BagReader, topics: set[str]) -> Iterator[tuple[str, int, bytes]]:
    """(topic, bag time in ns, CDR bytes) in the order of the recording.

    Raises SourceError where the recording breaks off.
    """
    types = _types(reader)
    wanted = [c for c in reader.connections if c.topic in topics and c.msgtype == types[c.topic]]
    for connection, bag_ns, data in reader.messages(wanted):
        yield connection.topic, bag_ns, data


def _messages(reader: BagReader, topics: set[str]) -> Iterator[tuple[str, Any]]:
    """(topic, message) in the same order; None where one does not deserialise."""
    types = _types(reader)
    for topic, _, data in _recorded(reader, topics):
        try:
            message = STORE.deserialize_cdr(data, types[topic])
        except Exception:  # damaged CDR; the caller counts it
            message = None
        yield topic, message
