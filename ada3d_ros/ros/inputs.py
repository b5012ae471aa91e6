"""Subscriptions to colour, depth, camera_info and pose; out come complete, posed sets of messages.

Callbacks only look at stamps and queue; nothing here decodes an image. Every message that is given
up is counted under its FrameReason.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import FrameReason
from ada3d_ros.geometry.stamped import PoseReason, PoseStatus
from ada3d_ros.ros.camera_infos import CameraInfos
from ada3d_ros.ros.diagnostics import Drops, InputMonitor, Window
from ada3d_ros.ros.frame_rate import FrameRate
from ada3d_ros.ros.guard import ThrottledWarning, capped, guarded
from ada3d_ros.ros.health import IN_A_ROW
from ada3d_ros.ros.pose_sources import CameraMount, PoseSource, TopicPoses, future_text
from ada3d_ros.ros.subscription import InputSubscription, input_topics
from ada3d_ros.ros.sync import (
    SAME_TIME_NS,
    NearestStampMatcher,
    NearestStampSynchronizer,
)
from ada3d_ros.ros.tf_poses import TfPoses
from ada3d_ros.sources.messages import PosedSet, frame_name, stamp_of

POSE_POLL_S = 0.02
PUBLISHERS_POLL_S = 1.0
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

        topics = input_topics(config)
        self.monitors = {
            name: InputMonitor(name, topic, interface=topic) for name, (topic, _) in topics.items()
        }

        # their camera_info and poses
        self.infos = CameraInfos()
        self.poses = self._make_poses()
        self.no_pose = Counter[PoseReason]()  # why frames had no pose

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
        self.poses.close()
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
        why = capped(why)
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
        self._warn(f"future {topic}", future_text(topic, lead_ns))

    def _on_corrupt(self, text: str) -> None:
        self._refuse(FrameReason.CORRUPT, text)

    @guarded()
    def _jumped(self, old_ns: int, new_ns: int) -> None:
        """The images fell back in time: what still waits ahead of them is of before."""
        if self._is_stale(new_ns):
            return  # a camera's glitch: frames of that time will be refused one by one
        self.poses.fell_back(new_ns)
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
        self.poses.add(message)
        self._release_waiting()

    def _make_poses(self) -> PoseSource:
        """Of TF, or of the messages of a topic."""
        monitor, config = self.monitors["pose"], self.config
        if config.pose_source == "tf":
            return TfPoses(self._node, config, monitor, self._warn, self._release_waiting)
        mount = CameraMount(self._node, config, self._warn)
        return TopicPoses(config, monitor, mount, self.matcher, self._drops, self._warn)

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
        self.poses.take_held()
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
            camera = frame_name(item.messages[0].header.frame_id)
            pose = self.poses.lookup(stamp_ns, camera, self.config)
            is_late = time.monotonic() - item.since > self.poses.patience_s(pose, self.config)
            awaits = pose.status is PoseStatus.NOT_YET or self.infos.is_due(stamp_ns, slop_ns)
            if awaits and pose.status is not PoseStatus.NEVER and not is_late:
                still_waiting.append(item)
                continue
            info, T = self.infos.for_image(stamp_ns, slop_ns), pose.pose
            if not (item.is_due or self._rate.is_worth(stamp_ns, T, self.config)):
                self._drops.add(FrameReason.RATE_LIMIT)
            elif T is None:
                self.no_pose[pose.reason or PoseReason.AFTER] += 1
                self._refuse(FrameReason.NO_POSE, self._no_pose_text(stamp_ns, pose.why))
            elif info is None:
                self._refuse(FrameReason.NO_INFO, self._nothing_text("camera_info", stamp_ns))
            else:
                self._rate.note_taken(stamp_ns, T)
                self._on_ready(PosedSet(*item.messages, info, stamp_ns, T, self._camera_topics))
        self._waiting += still_waiting

        # an idle timer would wake the executor 50 times a second
        if not still_waiting:
            self._poll_timer.cancel()
        elif self._poll_timer.is_canceled():
            self._poll_timer.reset()

    def _nothing_text(self, name: str, stamp_ns: int) -> str:
        monitor = self.monitors[name]
        return (
            f"no {name} for the image at {stamp_ns / 1e9:.3f}: nothing received on"
            f" {monitor.topic} ({monitor.type_name})."
        )

    def _no_pose_text(self, stamp_ns: int, why: str) -> str:
        if self.monitors["pose"].received == 0 and not self.poses.stands_still:
            return self._nothing_text("pose", stamp_ns)
        if self.poses.fault:  # nothing else keeps them out
            return self.poses.fault
        return (
            f"no pose in {self.config.world_frame!r} for the image at {stamp_ns / 1e9:.3f} (waited"
            f" {self.poses.waited(self.config)}): {why}"
        )
