"""Subscriptions to colour, depth, camera_info and pose; out come complete, posed sets of messages.

Callbacks only look at stamps and queue; nothing here decodes an image. Every message that is given
up is counted under its FrameReason.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import FrameReason, PoseError
from ada3d_ros.geometry.pose import PoseBuffer, PoseStatus, pose_from_quaternion
from ada3d_ros.ros.diagnostics import Drops, InputMonitor, Window
from ada3d_ros.ros.guard import ThrottledWarning, guarded
from ada3d_ros.ros.subscription import InputSubscription
from ada3d_ros.ros.sync import MIN_JUMP_NS, NearestStampMatcher, NearestStampSynchronizer
from ada3d_ros.sources.messages import PosedSet, pose_of, stamp_of

POSE_POLL_S = 0.02


@dataclass(eq=False, slots=True)
class _Waiting:
    messages: tuple[Any, Any, Any]
    stamp_ns: int
    since: float  # time.monotonic()


class FrameInputs:
    """All inputs of the node: subscribe, synchronise, wait for the pose, limit the rate.

    `on_ready(PosedSet)` gets each set; `on_time_jump(old_ns, new_ns)` fires when stamps of all
    inputs fall back.
    """

    def __init__(
        self,
        node: LifecycleNode,
        config: AgentConfig,
        drops: Drops,
        on_ready: Callable[[PosedSet], None],
        on_time_jump: Callable[[int, int], None],
        report_error: Callable[[str, BaseException, str], None],
    ) -> None:
        self._node, self.config, self._drops = node, config, drops
        self._on_ready, self._on_time_jump, self.report_error = on_ready, on_time_jump, report_error
        self.monitors = {
            "rgb": InputMonitor(
                "rgb",
                "rgb/image/compressed" if config.rgb_transport == "compressed" else "rgb/image",
            ),
            "depth": InputMonitor(
                "depth",
                (
                    "depth/image/compressedDepth"
                    if config.depth_transport == "compressedDepth"
                    else "depth/image"
                ),
            ),
            "camera_info": InputMonitor("camera_info", "rgb/camera_info"),
            "pose": InputMonitor("pose", config.pose_source),
        }
        self._warn = ThrottledWarning(node.get_logger().warning)
        self.sets = 0
        self.gap_ms = Window()
        self.poses = PoseBuffer()
        self._last_accepted_ns = self._last_pose_ns = -1
        self._waiting: list[_Waiting] = []
        self._T_child_cam = pose_from_quaternion(
            np.array(config.extrinsic.xyz), np.array(config.extrinsic.quat_xyzw)
        )
        self.matcher = NearestStampMatcher(
            3,
            slop_ns=int(config.sync.slop_sec * 1e9),
            queue_size=config.sync.queue_size,
            missing=(FrameReason.NO_DEPTH, FrameReason.NO_INFO),
            on_drop=drops.add,
            on_jump=self._jumped,
        )
        self._subscriptions = self._subscribe_all()
        images = [self._subscriptions[name] for name in ("rgb", "depth", "camera_info")]
        self._sync = NearestStampSynchronizer(images, self.matcher, drops.add)
        self._sync.registerCallback(self._on_set)
        self._subscriptions["pose"].registerCallback(self._on_pose)
        steady = Clock(
            clock_type=ClockType.STEADY_TIME
        )  # fires also under use_sim_time without /clock
        self._poll_timer = node.create_timer(
            POSE_POLL_S, self._release_waiting, clock=steady, autostart=False
        )

    def _subscribe_all(self) -> dict[str, InputSubscription]:
        types = {
            "rgb": CompressedImage if self.config.rgb_transport == "compressed" else Image,
            "depth": CompressedImage if self.config.depth_transport == "compressedDepth" else Image,
            "camera_info": CameraInfo,
            "pose": Odometry if self.config.pose_source == "odom" else PoseStamped,
        }
        qos = self.config.qos
        modes = {
            "rgb": qos.rgb,
            "depth": qos.depth,
            "camera_info": qos.camera_info,
            "pose": qos.pose,
        }
        depths = {"rgb": 5, "depth": 5, "camera_info": 50, "pose": 50}  # small messages may wait
        return {
            name: InputSubscription(
                self._node,
                self.monitors[name],
                message_type,
                modes[name],
                depths[name],
                self._on_corrupt,
            )
            for name, message_type in types.items()
        }

    def close(self) -> None:
        """Destroy all subscriptions; waiting sets are dropped."""
        self._node.destroy_timer(self._poll_timer)
        for subscription in self._subscriptions.values():
            subscription.close()
        self.clear()

    def clear(self) -> None:
        """Forget queued messages and poses, as after a time jump."""
        self.matcher.clear()
        self.poses.clear()
        self._waiting.clear()
        self._last_accepted_ns = -1
        self.gap_ms.clear()

    def set_config(self, config: AgentConfig) -> None:
        """Apply the settings that may change while active."""
        self.config = config
        self.matcher.slop_ns = int(config.sync.slop_sec * 1e9)
        self.matcher.queue_size = config.sync.queue_size

    @property
    def waiting_for_pose(self) -> int:
        return len(self._waiting)

    def missing(self) -> str:
        """One sentence on what has not arrived, for people asking why there is no scene."""
        silent = [m.topic for m in self.monitors.values() if m.received == 0]
        if silent:
            return f"nothing received on {', '.join(silent)}."
        if self.sets == 0:
            gap = self.matcher.smallest_miss_ns
            hint = (
                f" (nearest stamps differ by {gap / 1e6:.1f} ms: raise sync.slop_sec above"
                f" {gap / 1e9:.4f})"
                if gap
                else ""
            )
            return (
                "all inputs arrive, but no colour, depth and camera_info within sync.slop_sec"
                f" {self.config.sync.slop_sec} s{hint}."
            )
        dropped = {reason.value: n for reason, n in self._drops.snapshot().items() if n}
        return (
            f"{self.sets} sets were synchronised, none became a keyframe; dropped:"
            f" {dropped or 'none'}."
        )

    @guarded()
    def _jumped(self, old_ns: int, new_ns: int) -> None:
        if self._is_stale(old_ns) or self._is_stale(new_ns):
            return  # a camera's glitch: frames of that time were, or will be, refused one by one
        if self._last_pose_ns > new_ns + MIN_JUMP_NS:  # the poses have not jumped yet
            self.poses.clear()
        self._waiting.clear()
        self._last_accepted_ns = -1
        self._on_time_jump(old_ns, new_ns)

    def _on_corrupt(self, text: str) -> None:
        self._drops.add(FrameReason.CORRUPT)
        self._warn("corrupt", text)

    @guarded()
    def _on_pose(self, message: Any) -> None:
        monitor = self.monitors["pose"]
        stamp_ns = stamp_of(message)
        if stamp_ns <= 0:
            self._drops.add(FrameReason.ZERO_STAMP)
            return
        if message.header.frame_id.lstrip("/") != self.config.world_frame:
            monitor.wrong_frame += 1
            self._warn(
                "wrong frame",
                f"{monitor.topic} is in frame {message.header.frame_id!r}, world_frame is"
                f" {self.config.world_frame!r}: pose not used. Set world_frame to the frame of the"
                " pose.",
            )
            return
        if (
            stamp_ns < self._last_pose_ns - MIN_JUMP_NS
        ):  # poses of before a time jump belong to another run
            self.poses.clear()
        self._last_pose_ns = stamp_ns
        child = getattr(message, "child_frame_id", self.config.pose_child_frame)
        if self.config.pose_child_frame not in ("", child):
            monitor.wrong_frame += 1
            self._warn(
                "wrong child",
                f"{monitor.topic} has child_frame_id {child!r}, pose_child_frame is"
                f" {self.config.pose_child_frame!r}: not used.",
            )
            return
        try:
            T_world_child = pose_of(message)
        except PoseError as error:
            self._drops.add(FrameReason.BAD_POSE)
            self._warn("bad pose", f"{monitor.topic}: {error}")
            return
        self.poses.add(stamp_ns, T_world_child)
        self._release_waiting()

    @guarded()
    def _on_set(self, rgb: Any, depth: Any, info: Any) -> None:
        self.sets += 1
        stamp_ns = stamp_of(rgb)
        self.gap_ms.add(abs(stamp_ns - stamp_of(depth)) / 1e6)
        reason = self._refuse(stamp_ns)
        if reason is not None:
            self._drops.add(reason)
            return
        self._last_accepted_ns = stamp_ns
        self._waiting.append(_Waiting((rgb, depth, info), stamp_ns, time.monotonic()))
        self._release_waiting()

    def _refuse(self, stamp_ns: int) -> FrameReason | None:
        if self._is_stale(stamp_ns):
            late_s = (self._node.get_clock().now().nanoseconds - stamp_ns) / 1e9
            self._warn(
                "stale",
                f"image stamps differ from the node's clock by {late_s:.1f} s (input.max_age_sec"
                f" {self.config.input.max_age_sec}); frames are not used. Replaying a bag: set"
                " use_sim_time and publish /clock. Otherwise check the clocks, or set"
                " input.max_age_sec to 0.",
            )
            return FrameReason.STALE
        period_ns = 1e9 / self.config.input.max_rate_hz
        if self._last_accepted_ns >= 0 and 0 <= stamp_ns - self._last_accepted_ns < 0.9 * period_ns:
            return FrameReason.RATE_LIMIT
        return None

    def _is_stale(self, stamp_ns: int) -> bool:
        now_ns = self._node.get_clock().now().nanoseconds
        return now_ns > 0 and 0 < self.config.input.max_age_sec * 1e9 < abs(now_ns - stamp_ns)

    @guarded()
    def _release_waiting(self) -> None:
        waiting, self._waiting = (
            self._waiting,
            [],
        )  # taken first: what raises is not tried again at every poll
        still_waiting = []
        for item in waiting:
            found = self.poses.lookup(item.stamp_ns, self.config.pose.max_gap_sec)
            if found.T_world_child is not None:
                T_world_cam = found.T_world_child @ self._T_child_cam
                self._on_ready(
                    PosedSet(*item.messages, stamp_ns=item.stamp_ns, T_world_cam=T_world_cam)
                )
            elif (
                found.status is PoseStatus.NEVER
                or time.monotonic() - item.since > self.config.pose.timeout_sec
            ):
                self._drops.add(FrameReason.NO_POSE)
                self._warn("no pose", self._no_pose_text(item.stamp_ns, found.why))
            else:
                still_waiting.append(item)
        self._waiting += still_waiting
        if still_waiting and self._poll_timer.is_canceled():
            self._poll_timer.reset()
        elif not still_waiting:  # an idle timer would wake the executor 50 times a second
            self._poll_timer.cancel()

    def _no_pose_text(self, stamp_ns: int, why: str) -> str:
        monitor = self.monitors["pose"]
        if monitor.received == 0:
            return (
                f"no pose for the image at {stamp_ns / 1e9:.3f}: nothing received on"
                f" {monitor.topic} ({monitor.type_name})."
            )
        return (
            f"no pose in {self.config.world_frame!r} for the image at {stamp_ns / 1e9:.3f} (waited"
            f" pose.timeout_sec {self.config.pose.timeout_sec}): {why}"
        )
