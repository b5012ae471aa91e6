"""Where the camera was at a stamp: from poses of a topic (PoseStamped, Odometry), or from TF.

A source takes messages and is asked for a stamp; it never waits.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from rclpy.lifecycle import LifecycleNode

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import FrameReason, PoseError
from ada3d_ros.geometry.pose import Matrix, PoseBuffer, PoseLookup, pose_from_quaternion
from ada3d_ros.geometry.stamped import PoseReason, PoseStatus
from ada3d_ros.ros.diagnostics import Drops, InputMonitor
from ada3d_ros.ros.guard import ThrottledWarning
from ada3d_ros.ros.health import IN_A_ROW
from ada3d_ros.ros.static_transforms import StaticTransforms
from ada3d_ros.ros.sync import MIN_JUMP_NS, SAME_TIME_NS, NearestStampMatcher, stamps_between
from ada3d_ros.sources.messages import frame_name, pose_frame_fault, pose_of, stamp_of

MAX_HELD_POSES = 200
PATIENCE = 5  # times its timeout, while poses come in: a busy machine gets them late


def future_text(topic: str, lead_ns: int) -> str:
    """A sentence on a message whose stamp is ahead of all others."""
    return (
        f"{topic}: stamped {lead_ns / 1e9:.1f} s ahead of the other messages; not used."
        " Check the clock of its publisher."
    )


class PoseSource(Protocol):
    """What FrameInputs asks. fault: why the last message was not used, empty if it was.

    stands_still: nothing needs to come on the topic. warning: what is wrong with static transforms.
    """

    fault: str
    stands_still: bool
    monitor: InputMonitor

    @property
    def warning(self) -> str: ...

    def add(self, message: Any) -> None: ...

    def lookup(self, stamp_ns: int, camera_frame: str, config: AgentConfig) -> PoseLookup:
        """T_world_cam (4, 4) of the optical frame, or why not (yet)."""

    def patience_s(self, found: PoseLookup, config: AgentConfig) -> float:
        """How long a set may wait for what was not found."""

    def waited(self, config: AgentConfig) -> str:
        """The setting that says how long a frame waits, and its value."""

    def take_held(self) -> None: ...

    def fell_back(self, new_ns: int) -> None:
        """The images fell back in time to this stamp."""

    def clear(self) -> None: ...

    def close(self) -> None: ...


class CameraMount:
    """The optical frame in the frame that is posed: read once from TF's static transforms, else
    extrinsic.*.

    Without transforms of TF, or where they do not connect the two within tf.timeout_sec, it is
    extrinsic.*. Where that is not set and TF is published, it is nothing: identity is a guess.
    """

    def __init__(
        self, node: LifecycleNode, config: AgentConfig, warn: Callable[[str, str], None]
    ) -> None:
        self._node, self._warn = node, warn
        extrinsic = config.extrinsic
        self._given = pose_from_quaternion(np.array(extrinsic.xyz), np.array(extrinsic.quat_xyzw))
        self._is_given = not np.array_equal(self._given, np.eye(4))
        self._read: dict[tuple[str, str], Matrix] = {}  # by posed frame and optical frame
        self._since: dict[tuple[str, str], float] = {}  # first asked for, time.monotonic()
        poses_a_body = config.pose_source == "odom" or bool(config.pose_child_frame)
        used = "the first is used until the scene begins anew"
        self._static = StaticTransforms(node, warn, used=used) if poses_a_body else None

    @property
    def warning(self) -> str:
        """What is wrong with static transforms, '' while nothing is."""
        return self._static.warning if self._static is not None else ""

    def lookup(self, child: str, camera: str, config: AgentConfig) -> PoseLookup:
        """T_child_cam (4, 4)."""
        if not child or child == camera or self._static is None or not self._static.available:
            return PoseLookup(PoseStatus.FOUND, self._given)
        key = child, camera
        if key in self._read:
            return PoseLookup(PoseStatus.FOUND, self._read[key])

        found = self._static.lookup(child, camera)
        if found.pose is not None:
            self._read[key] = found.pose
            if self._is_given and not np.allclose(found.pose, self._given, atol=1e-3):
                self._warn("extrinsic", f"TF has {camera!r} in {child!r}: extrinsic.* is not used.")
            return found
        waited_s = time.monotonic() - self._since.setdefault(key, time.monotonic())
        if waited_s <= config.tf.timeout_sec:
            return found
        if self._is_given:
            self._read[key] = self._given
            return PoseLookup(PoseStatus.FOUND, self._given)
        if not self._static.publishers:
            self._warn(
                "extrinsic",
                f"the pose is of {child!r}, the image of {camera!r}, and nobody tells how the two"
                " lie: they are taken for one. Set extrinsic.xyz and extrinsic.quat_xyzw, or"
                " publish the static transform.",
            )
            return PoseLookup(PoseStatus.FOUND, self._given)
        why = (
            f"{found.why} The pose is of {child!r}, the image of {camera!r}: publish the static"
            " transform between the two, or set extrinsic.xyz and extrinsic.quat_xyzw."
        )
        return PoseLookup(PoseStatus.NEVER, reason=found.reason, why=why)

    def clear(self) -> None:
        """The scene begins anew: it is read once more."""
        self._read.clear()
        if self._static is not None:
            self._static.clear()

    def close(self) -> None:
        if self._static is not None:
            self._static.close()


class TopicPoses:
    """Poses of PoseStamped or Odometry messages, by stamp.

    One stamped far ahead of all inputs is held until the others get near it.
    """

    def __init__(
        self,
        config: AgentConfig,
        monitor: InputMonitor,
        mount: CameraMount,
        matcher: NearestStampMatcher,
        drops: Drops,
        warn: ThrottledWarning,
    ) -> None:
        self._config, self.monitor, self._mount = config, monitor, mount
        self._matcher, self._drops = matcher, drops
        self._warn = warn
        self._poses = PoseBuffer()
        self._last_ns = -1
        self._held: list[tuple[int, Matrix]] = []  # stamped far ahead of all inputs
        self._child = config.pose_child_frame  # the frame that is posed; "": the image's
        self.fault, self.stands_still = "", False

    @property
    def warning(self) -> str:
        return self._mount.warning

    def add(self, message: Any) -> None:
        """Keep the pose of a message; count and say why not."""
        stamp_ns = stamp_of(message)
        if stamp_ns <= 0:
            self._drops.add(FrameReason.ZERO_STAMP)
            return

        # only poses of our child frame in our world frame
        self.fault = pose_frame_fault(message, self.monitor.topic, self._config)
        if self.fault:
            self.monitor.wrong_frame += 1
            self._tell()
            return
        self._child = frame_name(getattr(message, "child_frame_id", self._config.pose_child_frame))

        try:
            self._keep(stamp_ns, pose_of(message))
        except PoseError as error:
            self._drops.add(FrameReason.BAD_POSE)
            self.fault = f"{self.monitor.topic}: {error}"
            self._tell()

    def _tell(self) -> None:
        if self._drops.num_refused < IN_A_ROW:
            self._warn("pose", self.fault)

    def _keep(self, stamp_ns: int, T_world_child: Matrix) -> None:
        """Keep a pose (4, 4); one far ahead of all inputs is held until the others get near it."""
        self.take_held()
        held = self._held
        known = min(self._last_ns, self._matcher.newest_ns) >= 0
        if known and stamp_ns > self._expected_until_ns() and len(held) < MAX_HELD_POSES:
            held.append((stamp_ns, T_world_child))
            return

        # Poses go on, fall back or have long gone ahead alone. Of those held the ones in between
        # are theirs; the others were stamped wrongly.
        last_ns, self._held = self._last_ns, []
        expected = stamps_between(last_ns, stamp_ns, len(held))
        for (held_ns, T_held), expected_ns in zip(held, expected, strict=True):
            if last_ns < held_ns < stamp_ns:
                self._poses.add(held_ns, T_held)
            else:
                self._drops.add(FrameReason.FUTURE_STAMP)
                topic = self.monitor.topic
                self._warn(f"future {topic}", future_text(topic, held_ns - expected_ns))
        if stamp_ns < last_ns - MIN_JUMP_NS:  # those of before belong to another run
            self._poses.clear()
        self._poses.add(stamp_ns, T_world_child)
        self._last_ns = stamp_ns

    def take_held(self) -> None:
        """Keep the poses held that the others have got near. One alone may be stamped wrongly: the
        images have to reach it.
        """
        held, self._held = sorted(self._held, key=operator.itemgetter(0)), []
        reached_ns = self._matcher.newest_ns + SAME_TIME_NS
        for stamp_ns, T_world_child in held:
            if stamp_ns <= (self._expected_until_ns() if len(held) > 1 else reached_ns):
                self._poses.add(stamp_ns, T_world_child)
                self._last_ns = stamp_ns
            else:
                self._held.append((stamp_ns, T_world_child))

    def _expected_until_ns(self) -> int:
        """Up to which stamp a pose may go on from what has arrived."""
        gap_ns = max(MIN_JUMP_NS, round(self._config.pose.max_gap_sec * 1e9))
        return max(self._last_ns, self._matcher.newest_ns) + gap_ns

    def lookup(self, stamp_ns: int, camera_frame: str, config: AgentConfig) -> PoseLookup:
        """T_world_cam (4, 4) at a stamp: the body's pose, and where the body carries the camera."""
        self._config = config
        found = self._poses.lookup(stamp_ns, config.pose.max_gap_sec)
        if found.pose is None:
            return found
        mount = self._mount.lookup(self._child, camera_frame, config)
        if mount.pose is None:
            return mount
        return PoseLookup(PoseStatus.FOUND, found.pose @ mount.pose)

    def waited(self, config: AgentConfig) -> str:
        """The setting that says how long a frame waits, and its value."""
        return f"pose.timeout_sec {config.pose.timeout_sec}"

    def patience_s(self, found: PoseLookup, config: AgentConfig) -> float:
        """How long a set waits; longer while poses come in: a busy machine gets them late."""
        timeout_s = config.pose.timeout_sec
        if found.reason not in (None, PoseReason.AFTER):  # the mount, which knows when to give up
            return config.tf.timeout_sec * PATIENCE
        comes = self.monitor.silent_s < timeout_s and not self.fault
        return timeout_s * PATIENCE if comes and found.pose is None else timeout_s

    def fell_back(self, new_ns: int) -> None:
        """The images fell back in time to this stamp."""
        if self._last_ns > new_ns + MIN_JUMP_NS:  # the poses have not jumped yet
            self._poses.clear()

    def clear(self) -> None:
        """Forget all poses: what comes next is taken as the first."""
        self._poses.clear()
        self._last_ns = -1
        self._held.clear()
        self._mount.clear()

    def close(self) -> None:
        """Destroy what it subscribes."""
        self._mount.close()
