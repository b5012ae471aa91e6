"""Subscriptions to colour, depth, camera_info and pose; out come complete, posed sets of messages.

Callbacks only look at stamps and queue; nothing here decodes an image. Every message that is given
up is counted under its FrameReason.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import FrameReason, PoseError
from ada3d_ros.geometry.pose import Matrix, PoseBuffer, PoseStatus, pose_from_quaternion
from ada3d_ros.ros.camera_infos import CameraInfos
from ada3d_ros.ros.diagnostics import Drops, InputMonitor, Window
from ada3d_ros.ros.frame_rate import FrameRate
from ada3d_ros.ros.guard import ThrottledWarning, guarded
from ada3d_ros.ros.health import IN_A_ROW
from ada3d_ros.ros.subscription import InputSubscription, input_topics
from ada3d_ros.ros.sync import (
    MIN_JUMP_NS,
    SAME_TIME_NS,
    NearestStampMatcher,
    NearestStampSynchronizer,
    stamps_between,
)
from ada3d_ros.sources.messages import PosedSet, pose_frame_fault, pose_of, stamp_of

POSE_POLL_S = 0.02
PATIENCE = 5  # times pose.timeout_sec, while poses come in
PUBLISHERS_POLL_S = 1.0
MAX_HELD_POSES = 200
IMAGES = ("rgb", "depth")  # in the order of the synchroniser's inputs


@dataclass(eq=False, slots=True)
class _Waiting:
    """Colour and depth of one moment whose pose or camera_info has not arrived."""

    messages: tuple[Any, Any]
    stamp_ns: int
    since: float  # time.monotonic()
    is_due: bool  # taken wherever the camera is


class FrameInputs:
    """All inputs of the node: subscribe, synchronise, wait for the pose, limit the rate.

    `on_ready(PosedSet)` gets each set; its stamp is older than the one before where time has fallen
    back on all inputs.
    """

    def __init__(
        self,
        node: LifecycleNode,
        config: AgentConfig,
        drops: Drops,
        on_ready: Callable[[PosedSet], None],
        report_error: Callable[[str, BaseException, str], None],
    ) -> None:
        self._node, self.config, self._drops = node, config, drops
        self._on_ready, self.report_error = on_ready, report_error
        self._warn = ThrottledWarning(node.get_logger().warning)
        self.sets = 0
        self.gap_ms = Window()

        # sets of one moment
        self.matcher = NearestStampMatcher(
            len(IMAGES),
            slop_ns=int(config.sync.slop_sec * 1e9),
            queue_size=config.sync.queue_size,
            missing=(FrameReason.NO_DEPTH,),
            on_drop=self._on_drop,
            on_jump=self._jumped,
        )
        self._rate = FrameRate()
        self._waiting: list[_Waiting] = []

        # their camera_info and poses
        self.infos = CameraInfos()
        self.poses = PoseBuffer()
        self._last_pose_ns = -1
        self._held_poses: list[tuple[int, Matrix]] = []  # stamped far ahead of all inputs
        self.pose_fault = ""  # why the last pose was not used
        extrinsic = config.extrinsic
        self._T_child_cam = pose_from_quaternion(
            np.array(extrinsic.xyz), np.array(extrinsic.quat_xyzw)
        )

        topics = input_topics(config)
        self.monitors = {
            name: InputMonitor(name, topic, interface=topic) for name, (topic, _) in topics.items()
        }
        self._subscriptions = {
            name: InputSubscription(
                node,
                self.monitors[name],
                message_type,
                getattr(config.qos, name),
                self._on_corrupt,
            )
            for name, (_, message_type) in topics.items()
        }
        rgb, depth, info, _ = (monitor.topic for monitor in self.monitors.values())  # as remapped
        self._camera_topics = rgb, depth, info
        images = [self._subscriptions[name] for name in IMAGES]
        self._sync = NearestStampSynchronizer(images, self.matcher, drops.add)
        self._sync.registerCallback(self._on_set)
        self._subscriptions["camera_info"].registerCallback(self._on_info)
        self._subscriptions["pose"].registerCallback(self._on_pose)

        # a steady clock fires also under use_sim_time without /clock
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._poll_timer = node.create_timer(
            POSE_POLL_S, self._release_waiting, clock=steady, autostart=False
        )
        self._publishers_timer = node.create_timer(
            PUBLISHERS_POLL_S, self._look_for_latched, clock=steady
        )

    def close(self) -> None:
        """Destroy all subscriptions; waiting sets are dropped."""
        for timer in (self._poll_timer, self._publishers_timer):
            self._node.destroy_timer(timer)
        for subscription in self._subscriptions.values():
            subscription.close()
        self.clear()

    def forget_sets(self) -> None:
        """Forget the images that wait for a partner or for their pose."""
        self.matcher.clear()
        self.infos.clear()
        self._waiting.clear()
        self._rate.clear()

    def clear(self) -> None:
        """Forget queued messages and poses: what comes next is taken as the first."""
        self.forget_sets()
        self.gap_ms.clear()
        self.poses.clear()
        self._last_pose_ns = -1
        self._held_poses.clear()

    def set_config(self, config: AgentConfig) -> None:
        """Apply the settings that may change while active."""
        self.config = config
        self.matcher.slop_ns = int(config.sync.slop_sec * 1e9)
        self.matcher.queue_size = config.sync.queue_size

    @property
    def waiting_for_pose(self) -> int:
        return len(self._waiting)

    def gaps_ns(self) -> dict[str, list[int]]:
        """Of each input that is matched by its stamp: by how much its last few did not fit."""
        return {name: list(self.matcher.misses_ns[i]) for i, name in enumerate(IMAGES)}

    # -- messages that are given up

    def _refuse(self, reason: FrameReason, why: str) -> None:
        """Count a frame that is not used, and say why; from the tenth in a row `health` says it."""
        self._drops.add(reason, why)
        if self._drops.num_refused < IN_A_ROW:
            self._warn(reason, why)

    def _on_drop(self, reason: FrameReason) -> None:
        self._drops.add(reason)
        if reason is FrameReason.FUTURE_STAMP:
            index, lead_ns = self.matcher.last_ahead
            self._warn_of_future(IMAGES[index], lead_ns)

    def _warn_of_future(self, name: str, lead_ns: int) -> None:
        topic = self.monitors[name].topic
        self._warn(
            f"future {topic}",
            f"{topic}: stamped {lead_ns / 1e9:.1f} s ahead of the other messages; not used."
            " Check the clock of its publisher.",
        )

    def _on_corrupt(self, text: str) -> None:
        self._refuse(FrameReason.CORRUPT, text)

    @guarded()
    def _jumped(self, old_ns: int, new_ns: int) -> None:
        """The images fell back in time: what still waits ahead of them is of before."""
        if self._is_stale(new_ns):
            return  # a camera's glitch: frames of that time will be refused one by one
        if self._last_pose_ns > new_ns + MIN_JUMP_NS:  # the poses have not jumped yet
            self.poses.clear()
        for item in self._waiting:
            if item.stamp_ns > new_ns:
                self._drops.add(FrameReason.NO_POSE)
        self._waiting = [item for item in self._waiting if item.stamp_ns <= new_ns]
        self._rate.clear()
        self.infos.clear(new_ns + SAME_TIME_NS)

    # -- camera_info

    @guarded()
    def _look_for_latched(self) -> None:
        self._subscriptions["camera_info"].follow_latching()

    @guarded()
    def _on_info(self, message: Any) -> None:
        stamp_ns = stamp_of(message)
        if stamp_ns <= 0:  # counted, and in force all the same: what it says has no time
            self._drops.add(FrameReason.ZERO_STAMP)
        for lead_ns in self.infos.add(stamp_ns, message, self.matcher.newest_ns):
            self._drops.add(FrameReason.FUTURE_STAMP)
            self._warn_of_future("camera_info", lead_ns)
        self._release_waiting()

    # -- poses

    @guarded()
    def _on_pose(self, message: Any) -> None:
        monitor = self.monitors["pose"]
        stamp_ns = stamp_of(message)
        if stamp_ns <= 0:
            self._drops.add(FrameReason.ZERO_STAMP)
            return

        # only poses of our child frame in our world frame
        self.pose_fault = pose_frame_fault(message, monitor.topic, self.config)
        if self.pose_fault:
            monitor.wrong_frame += 1
            self._warn_of_pose()
            return

        try:
            self._add_pose(stamp_ns, pose_of(message))
        except PoseError as error:
            self._drops.add(FrameReason.BAD_POSE)
            self.pose_fault = f"{monitor.topic}: {error}"
            self._warn_of_pose()
            return
        self._release_waiting()

    def _warn_of_pose(self) -> None:
        if self._drops.num_refused < IN_A_ROW:
            self._warn("pose", self.pose_fault)

    def _add_pose(self, stamp_ns: int, T_world_child: Matrix) -> None:
        """Keep a pose (4, 4); one far ahead of all inputs is held until the others get near it."""
        self._take_held_poses()
        held = self._held_poses
        known = min(self._last_pose_ns, self.matcher.newest_ns) >= 0
        if known and stamp_ns > self._expected_until_ns() and len(held) < MAX_HELD_POSES:
            held.append((stamp_ns, T_world_child))
            return

        # Poses go on, fall back or have long gone ahead alone. Of those held the ones in between
        # are theirs; the others were stamped wrongly.
        last_ns, self._held_poses = self._last_pose_ns, []
        expected = stamps_between(last_ns, stamp_ns, len(held))
        for (held_ns, T_held), expected_ns in zip(held, expected, strict=True):
            if last_ns < held_ns < stamp_ns:
                self.poses.add(held_ns, T_held)
            else:
                self._drops.add(FrameReason.FUTURE_STAMP)
                self._warn_of_future("pose", held_ns - expected_ns)
        if stamp_ns < last_ns - MIN_JUMP_NS:  # those of before belong to another run
            self.poses.clear()
        self.poses.add(stamp_ns, T_world_child)
        self._last_pose_ns = stamp_ns

    def _take_held_poses(self) -> None:
        """Keep the poses held that the others have got near. One alone may be stamped wrongly: the
        images have to reach it.
        """
        held, self._held_poses = sorted(self._held_poses, key=operator.itemgetter(0)), []
        reached_ns = self.matcher.newest_ns + SAME_TIME_NS
        for stamp_ns, T_world_child in held:
            if stamp_ns <= (self._expected_until_ns() if len(held) > 1 else reached_ns):
                self.poses.add(stamp_ns, T_world_child)
                self._last_pose_ns = stamp_ns
            else:
                self._held_poses.append((stamp_ns, T_world_child))

    def _expected_until_ns(self) -> int:
        """Up to which stamp a pose may go on from what has arrived."""
        gap_ns = max(MIN_JUMP_NS, round(self.config.pose.max_gap_sec * 1e9))
        return max(self._last_pose_ns, self.matcher.newest_ns) + gap_ns

    # -- sets

    @guarded()
    def _on_set(self, rgb: Any, depth: Any) -> None:
        self.sets += 1
        for monitor in self.monitors.values():
            monitor.received_at_set = monitor.received
        stamp_ns = stamp_of(rgb)
        self.gap_ms.add(abs(stamp_ns - stamp_of(depth)) / 1e6)
        if self._is_refused(stamp_ns):
            return
        is_due = self._rate.take_due(stamp_ns, self.config)
        if not is_due and not self._rate.may_be_taken(self.config):
            self._drops.add(FrameReason.RATE_LIMIT)
            return
        self._take_held_poses()
        self._waiting.append(_Waiting((rgb, depth), stamp_ns, time.monotonic(), is_due))
        self._release_waiting()

    def _is_refused(self, stamp_ns: int) -> bool:
        """Whether a set is of another time; it is counted then."""
        is_stale = self._is_stale(stamp_ns)
        if is_stale:
            late_s = (self._node.get_clock().now().nanoseconds - stamp_ns) / 1e9
            cure = "Replaying a bag: set use_sim_time and publish /clock."
            if self._node.get_parameter("use_sim_time").value:
                cure = "use_sim_time is true: stamp the images by /clock, or set it to false."
            self._refuse(
                FrameReason.STALE,
                f"image stamps differ from the node's clock by {late_s:.1f} s (input.max_age_sec"
                f" {self.config.input.max_age_sec}); frames are not used. {cure} Otherwise check"
                " the clocks, or set input.max_age_sec to 0.",
            )
        return is_stale

    def _is_stale(self, stamp_ns: int) -> bool:
        now_ns = self._node.get_clock().now().nanoseconds
        return now_ns > 0 and 0 < self.config.input.max_age_sec * 1e9 < abs(now_ns - stamp_ns)

    @guarded()
    def _release_waiting(self) -> None:
        """Hand on the sets whose pose and camera_info are there; drop those that get none."""
        # taken first: what raises is not tried again at every poll
        waiting, self._waiting = self._waiting, []
        still_waiting = []
        for item in waiting:
            stamp_ns, slop_ns = item.stamp_ns, self.matcher.slop_ns
            pose = self.poses.lookup(stamp_ns, self.config.pose.max_gap_sec)
            is_late = time.monotonic() - item.since > self._patience_s(pose.status)
            awaits = pose.status is PoseStatus.NOT_YET or self.infos.is_due(stamp_ns, slop_ns)
            if awaits and pose.status is not PoseStatus.NEVER and not is_late:
                still_waiting.append(item)
                continue
            info, T = self.infos.for_image(stamp_ns, slop_ns), pose.T_world_child
            if not (item.is_due or self._rate.is_worth(stamp_ns, T, self.config)):
                self._drops.add(FrameReason.RATE_LIMIT)
            elif T is None:
                self._refuse(FrameReason.NO_POSE, self._no_pose_text(stamp_ns, pose.why))
            elif info is None:
                self._refuse(FrameReason.NO_INFO, self._nothing_text("camera_info", stamp_ns))
            else:
                self._rate.note_taken(stamp_ns, T)
                T_world_cam, topics = T @ self._T_child_cam, self._camera_topics
                self._on_ready(PosedSet(*item.messages, info, stamp_ns, T_world_cam, topics))
        self._waiting += still_waiting

        # an idle timer would wake the executor 50 times a second
        if not still_waiting:
            self._poll_timer.cancel()
        elif self._poll_timer.is_canceled():
            self._poll_timer.reset()

    def _patience_s(self, status: PoseStatus) -> float:
        """How long a set waits; longer while poses come in: a busy machine gets them late."""
        timeout_s, monitor = self.config.pose.timeout_sec, self.monitors["pose"]
        come = monitor.silent_s < timeout_s and not self.pose_fault
        return timeout_s * PATIENCE if come and status is PoseStatus.NOT_YET else timeout_s

    def _nothing_text(self, name: str, stamp_ns: int) -> str:
        monitor = self.monitors[name]
        return (
            f"no {name} for the image at {stamp_ns / 1e9:.3f}: nothing received on"
            f" {monitor.topic} ({monitor.type_name})."
        )

    def _no_pose_text(self, stamp_ns: int, why: str) -> str:
        if self.monitors["pose"].received == 0:
            return self._nothing_text("pose", stamp_ns)
        if self.pose_fault:  # nothing else keeps them out
            return self.pose_fault
        return (
            f"no pose in {self.config.world_frame!r} for the image at {stamp_ns / 1e9:.3f} (waited"
            f" pose.timeout_sec {self.config.pose.timeout_sec}): {why}"
        )
