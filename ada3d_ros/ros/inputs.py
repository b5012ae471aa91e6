"""Subscriptions to colour, depth, camera_info and pose; out come complete, posed sets of messages.

Callbacks only look at stamps and queue; nothing here decodes an image. Every message that is given up is counted
under its FrameReason.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import FrameReason, PoseError
from ada3d_ros.geometry.pose import PoseBuffer, PoseStatus, pose_from_quaternion
from ada3d_ros.ros.conversions import PosedSet
from ada3d_ros.ros.diagnostics import Drops, InputMonitor, Window
from ada3d_ros.ros.filters import Subscriber
from ada3d_ros.ros.guard import guarded
from ada3d_ros.ros.sync import MIN_JUMP_NS, NearestStampMatcher, NearestStampSynchronizer
from ada3d_ros.sources.messages import pose_of, stamp_of

POSE_POLL_S = 0.02


@dataclass(eq=False, slots=True)
class _Waiting:
    messages: tuple[Any, Any, Any]
    stamp_ns: int
    since: float  # time.monotonic()


class InputSubscription:
    """One subscription that is also a message filter, and finds a best-effort publisher by itself.

    `auto` starts reliable; when the middleware reports an incompatible publisher, it subscribes again best-effort,
    once, and warns.
    """

    def __init__(
        self,
        node: LifecycleNode,
        monitor: InputMonitor,
        message_type: type,
        mode: str,
        depth: int,
        on_renewed: Callable[[Subscriber], None],
    ) -> None:
        self._node, self.monitor, self._type, self._depth = node, monitor, message_type, depth
        self._may_fall_back = mode == "auto"
        self._on_renewed = on_renewed
        self.filter = self._subscribe(
            ReliabilityPolicy.BEST_EFFORT if mode == "best_effort" else ReliabilityPolicy.RELIABLE, first=True
        )

    def _subscribe(self, reliability: ReliabilityPolicy, first: bool) -> Subscriber:
        self.monitor.reliability = reliability.name.lower()
        self.monitor.type_name = self._type.__name__
        options: dict[str, Any] = {
            "event_callbacks": SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible_qos)
        }
        if first:  # qos_overrides./<topic>.subscription.* parameters
            options["qos_overriding_options"] = QoSOverridingOptions.with_default_policies()
        profile = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=self._depth, reliability=reliability)
        result = Subscriber(self._node, self._type, self.monitor.topic, qos_profile=profile, **options)
        self.monitor.topic = result.sub.topic_name
        return result

    def _on_incompatible_qos(self, event: Any) -> None:
        self.monitor.qos_incompatible += 1
        log = self._node.get_logger()
        if not self._may_fall_back:
            log.warning(
                f"{self.monitor.topic}: a publisher offers another reliability than the {self.monitor.reliability} one asked for; "
                f"nothing arrives from it. Set qos.{self.monitor.name} to 'auto' or 'best_effort'."
            )
            return
        self._may_fall_back = False
        log.warning(
            f"{self.monitor.topic}: the publisher is best-effort; subscribing again best-effort (images may be lost)."
        )
        assert self._node.executor is not None  # it runs this callback
        self._node.executor.create_task(self._renew)  # not from within the event of the subscription to destroy

    def _renew(self) -> None:
        self.close()
        self.filter = self._subscribe(ReliabilityPolicy.BEST_EFFORT, first=False)
        self._on_renewed(self.filter)

    def close(self) -> None:
        self._node.destroy_subscription(self.filter.sub)


class FrameInputs:
    """All inputs of the node: subscribe, synchronise, wait for the pose, limit the rate.

    `on_ready(PosedSet)` gets each set; `on_time_jump(old_ns, new_ns)` fires when stamps of all inputs fall back.
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
            "rgb": InputMonitor("rgb", "rgb/image/compressed" if config.rgb_transport == "compressed" else "rgb/image"),
            "depth": InputMonitor(
                "depth", "depth/image/compressedDepth" if config.depth_transport == "compressedDepth" else "depth/image"
            ),
            "camera_info": InputMonitor("camera_info", "rgb/camera_info"),
            "pose": InputMonitor("pose", config.pose_source),
        }
        self.sets = 0
        self.gap_ms = Window()
        self.poses = PoseBuffer()
        self._last_accepted_ns = -1
        self._waiting: list[_Waiting] = []
        self._T_child_cam = pose_from_quaternion(np.array(config.extrinsic.xyz), np.array(config.extrinsic.quat_xyzw))
        self.matcher = NearestStampMatcher(
            3,
            slop_ns=int(config.sync.slop_sec * 1e9),
            queue_size=config.sync.queue_size,
            missing=(FrameReason.NO_DEPTH, FrameReason.NO_INFO),
            on_drop=drops.add,
            on_jump=self._jumped,
        )
        self._subscriptions = self._subscribe_all()
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # fires also under use_sim_time without /clock
        self._poll_timer = node.create_timer(POSE_POLL_S, self._release_waiting, clock=steady, autostart=False)

    def _subscribe_all(self) -> list[InputSubscription]:
        types = {
            "rgb": CompressedImage if self.config.rgb_transport == "compressed" else Image,
            "depth": CompressedImage if self.config.depth_transport == "compressedDepth" else Image,
            "camera_info": CameraInfo,
            "pose": Odometry if self.config.pose_source == "odom" else PoseStamped,
        }
        modes = {
            "rgb": self.config.qos.rgb,
            "depth": self.config.qos.depth,
            "camera_info": self.config.qos.camera_info,
            "pose": self.config.qos.pose,
        }
        subscriptions = {}
        for name, message_type in types.items():
            depth = 5 if name in ("rgb", "depth") else 50  # small messages may wait
            subscriptions[name] = InputSubscription(
                self._node,
                self.monitors[name],
                message_type,
                modes[name],
                depth,
                partial(self._connect, name),
            )
        image_inputs = ("rgb", "depth", "camera_info")
        for name in image_inputs:
            self._watch(name, subscriptions[name].filter)
        self._sync = NearestStampSynchronizer(
            [subscriptions[n].filter for n in image_inputs], self.matcher, self._drops.add
        )
        self._sync.registerCallback(self._on_set)
        subscriptions["pose"].filter.registerCallback(self._on_pose)
        return list(subscriptions.values())

    def _connect(self, name: str, source: Subscriber) -> None:
        """Wire a subscription that was made anew."""
        if name == "pose":
            source.registerCallback(self._on_pose)
            return
        self._watch(name, source)
        self._sync.connect(("rgb", "depth", "camera_info").index(name), source)

    def _watch(self, name: str, source: Subscriber) -> None:
        source.registerCallback(lambda message: self.monitors[name].note(stamp_of(message)))

    def close(self) -> None:
        """Destroy all subscriptions; waiting sets are dropped."""
        self._node.destroy_timer(self._poll_timer)
        for subscription in self._subscriptions:
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
                f" (nearest stamps differ by {gap / 1e6:.1f} ms: raise sync.slop_sec above {gap / 1e9:.4f})"
                if gap
                else ""
            )
            return f"all inputs arrive, but no colour, depth and camera_info within sync.slop_sec {self.config.sync.slop_sec} s{hint}."
        dropped = {reason.value: n for reason, n in self._drops.snapshot().items() if n}
        return f"{self.sets} sets were synchronised, none became a keyframe; dropped: {dropped or 'none'}."

    def _jumped(self, old_ns: int, new_ns: int) -> None:
        if self.monitors["pose"].last_stamp_ns > new_ns + MIN_JUMP_NS:  # the poses have not jumped yet
            self.poses.clear()
        self._waiting.clear()
        self._last_accepted_ns = -1
        self._on_time_jump(old_ns, new_ns)

    @guarded()
    def _on_pose(self, message: Any) -> None:
        monitor = self.monitors["pose"]
        stamp_ns = stamp_of(message)
        if stamp_ns < monitor.last_stamp_ns - MIN_JUMP_NS:  # poses of before a time jump belong to another run
            self.poses.clear()
        monitor.note(stamp_ns)
        if message.header.frame_id.lstrip("/") != self.config.world_frame:
            monitor.wrong_frame += 1
            self._node.get_logger().warning(
                f"{monitor.topic} is in frame {message.header.frame_id!r}, world_frame is {self.config.world_frame!r}: pose not used. "
                "Set world_frame to the frame of the pose.",
                throttle_duration_sec=10.0,
            )
            return
        if stamp_ns == 0:
            self._drops.add(FrameReason.ZERO_STAMP)
            return
        try:
            T_world_child = pose_of(message)
        except PoseError as error:
            self._drops.add(FrameReason.BAD_POSE)
            self._node.get_logger().warning(f"{monitor.topic}: {error}", throttle_duration_sec=10.0)
            return
        self.poses.add(stamp_ns, T_world_child)
        self._release_waiting()

    @guarded()
    def _on_set(self, rgb: Any, depth: Any, info: Any) -> None:
        self.sets += 1
        stamp_ns = stamp_of(rgb)
        self.gap_ms.add(abs(stamp_ns - stamp_of(depth)) / 1e6)
        reason = self._refuse(stamp_ns, rgb, depth, info)
        if reason is not None:
            self._drops.add(reason)
            return
        self._last_accepted_ns = stamp_ns
        self._waiting.append(_Waiting((rgb, depth, info), stamp_ns, time.monotonic()))
        self._release_waiting()

    def _refuse(self, stamp_ns: int, rgb: Any, depth: Any, info: Any) -> FrameReason | None:
        now_ns = self._node.get_clock().now().nanoseconds
        max_age_s = self.config.input.max_age_sec
        if max_age_s > 0 and abs(now_ns - stamp_ns) > max_age_s * 1e9 and now_ns > 0:
            self._node.get_logger().warning(
                f"image stamps differ from the node's clock by {(now_ns - stamp_ns) / 1e9:.1f} s (input.max_age_sec {max_age_s}); frames are not used. "
                "Replaying a bag: set use_sim_time and publish /clock. Otherwise check the clocks, or set input.max_age_sec to 0.",
                throttle_duration_sec=10.0,
            )
            return FrameReason.STALE
        frames = {rgb.header.frame_id, depth.header.frame_id, info.header.frame_id}
        if len(frames) > 1:
            self._node.get_logger().warning(
                f"colour is in frame {rgb.header.frame_id!r}, depth in {depth.header.frame_id!r}, camera_info in {info.header.frame_id!r}; all "
                "must be the colour optical frame. RealSense: set align_depth.enable:=true and use aligned_depth_to_color.",
                throttle_duration_sec=10.0,
            )
            return FrameReason.FRAME_MISMATCH
        period_ns = 1e9 / self.config.input.max_rate_hz
        if self._last_accepted_ns >= 0 and 0 <= stamp_ns - self._last_accepted_ns < 0.9 * period_ns:
            return FrameReason.RATE_LIMIT
        return None

    @guarded()
    def _release_waiting(self) -> None:
        still_waiting = []
        for item in self._waiting:
            found = self.poses.lookup(item.stamp_ns, self.config.pose.max_gap_sec)
            if found.T_world_child is not None:
                T_world_cam = found.T_world_child @ self._T_child_cam
                self._on_ready(PosedSet(*item.messages, stamp_ns=item.stamp_ns, T_world_cam=T_world_cam))
            elif found.status is PoseStatus.NEVER or time.monotonic() - item.since > self.config.pose.timeout_sec:
                self._drops.add(FrameReason.NO_POSE)
                self._node.get_logger().warning(
                    self._no_pose_text(item.stamp_ns, found.why), throttle_duration_sec=10.0
                )
            else:
                still_waiting.append(item)
        self._waiting = still_waiting
        if still_waiting and self._poll_timer.is_canceled():
            self._poll_timer.reset()
        elif not still_waiting:  # an idle timer would wake the executor 50 times a second
            self._poll_timer.cancel()

    def _no_pose_text(self, stamp_ns: int, why: str) -> str:
        monitor = self.monitors["pose"]
        if monitor.received == 0:
            return f"no pose for the image at {stamp_ns / 1e9:.3f}: nothing received on {monitor.topic} ({monitor.type_name})."
        return f"no pose in {self.config.world_frame!r} for the image at {stamp_ns / 1e9:.3f} (waited pose.timeout_sec {self.config.pose.timeout_sec}): {why}"
