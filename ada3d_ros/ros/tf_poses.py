"""The camera's pose from TF: world_frame to the optical frame at the image's stamp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import PoseError
from ada3d_ros.geometry.pose import PoseLookup
from ada3d_ros.geometry.stamped import PoseReason, PoseStatus
from ada3d_ros.ros.diagnostics import InputMonitor
from ada3d_ros.ros.guard import ThrottledWarning
from ada3d_ros.ros.pose_sources import PATIENCE, CameraMount
from ada3d_ros.ros.static_transforms import StaticTransforms
from ada3d_ros.ros.sync import MIN_JUMP_NS
from ada3d_ros.ros.transform_messages import make_buffer
from ada3d_ros.sources.tf_messages import newest_stamp_ns, placed

# What static transforms alone have told, nothing that comes on /tf mends.
OF_STATIC = (None, PoseReason.LOOP, PoseReason.TWO_PARENTS)


class TfPoses:
    """Transforms of /tf and /tf_static, asked at a stamp. Nothing here waits.

    `on_new` is called when static transforms have come: a frame that waits may be placed now.
    """

    def __init__(
        self,
        node: LifecycleNode,
        config: AgentConfig,
        monitor: InputMonitor,
        warn: ThrottledWarning,
        on_new: Callable[[], None],
    ) -> None:
        self.monitor, self._warn = monitor, warn
        self._world, self._child = config.world_frame, config.pose_child_frame
        self._buffer = make_buffer()
        self._mount = CameraMount(node, config, warn)
        self._static = StaticTransforms(node, warn, self._buffer, on_new)
        self._newest_ns = -1  # of the last message
        self.fault, self.stands_still = "", False

    def add(self, message: Any) -> None:
        """Keep the transforms of a TFMessage; say of each that cannot be used why."""
        for transform in message.transforms:
            try:
                parent, child, stamp_ns, where = placed(transform)
            except PoseError as error:
                self._static.refused.refuse(transform.child_frame_id, str(error))
                continue
            self._static.refused.forgive(child)
            back_s = self._buffer.add(parent, child, stamp_ns, where, static=False)
            if back_s:
                self._warn(
                    f"tf back {child}",
                    f"TF: {parent!r} -> {child!r} fell back by {back_s:.3f} s; its earlier"
                    " transforms are forgotten. Two publishers with clocks apart do the same.",
                )
        self._newest_ns = newest_stamp_ns(message)

    @property
    def warning(self) -> str:
        """What is wrong with static transforms, '' while nothing is."""
        return self._static.warning or self._mount.warning

    def lookup(self, stamp_ns: int, camera_frame: str, config: AgentConfig) -> PoseLookup:
        """T_world_cam (4, 4) at a stamp, through pose_child_frame where one is named."""
        child = self._child or camera_frame
        found = self._buffer.lookup(self._world, child, stamp_ns, config.pose.max_gap_sec)
        self.stands_still = found.reason in OF_STATIC and not self.monitor.received
        if found.pose is None:
            return self._static.refused.told(found)
        mount = self._mount.lookup(child, camera_frame, config)
        if mount.pose is None:
            return mount
        return PoseLookup(PoseStatus.FOUND, found.pose @ mount.pose)

    def waited(self, config: AgentConfig) -> str:
        """The setting that says how long a frame waits, and its value."""
        return f"tf.timeout_sec {config.tf.timeout_sec}"

    def patience_s(self, found: PoseLookup, config: AgentConfig) -> float:
        """How long a set waits; longer while TF comes in and is merely late."""
        timeout_s = config.tf.timeout_sec
        comes = self.monitor.silent_s < timeout_s and found.reason is PoseReason.AFTER
        return timeout_s * PATIENCE if comes else timeout_s

    def take_held(self) -> None:
        """Nothing is held: a transform stamped wrongly is forgotten when its next one comes."""

    def fell_back(self, new_ns: int) -> None:
        """The images fell back in time to this stamp."""
        if self._newest_ns > new_ns + MIN_JUMP_NS:  # TF has not jumped yet
            self._forget()

    def _forget(self) -> None:
        """All but static transforms."""
        self._buffer.clear()
        self._newest_ns = -1

    def clear(self) -> None:
        """The scene begins anew."""
        self._forget()
        self._static.clear()
        self._mount.clear()

    def close(self) -> None:
        """Destroy what it subscribes beside /tf."""
        self._static.close()
        self._mount.close()
