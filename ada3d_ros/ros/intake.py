"""From a posed set of messages to the scene, on a thread of its own: decode, check, admit.

The newest set wins: one that waits while another is decoded is replaced and counted.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable

import numpy as np

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import FrameError, FrameReason, PoseError
from ada3d_ros.ros.diagnostics import Drops, Window
from ada3d_ros.ros.guard import ThrottledWarning
from ada3d_ros.ros.health import IN_A_ROW
from ada3d_ros.sources.camera_watch import CameraWatch
from ada3d_ros.sources.messages import ImageBridge, PosedSet, frame_of
from ada3d_ros.types import Keyframe, RgbdFrame
from ada3d_ros.worker import LatestWorker


def make_bridge() -> ImageBridge | None:
    """A distribution's cv_bridge; None where there is none that imports."""
    try:
        from cv_bridge import CvBridge
    except Exception:  # also: built for another numpy
        return None
    return CvBridge()


class FrameIntake:
    """Decodes sets and offers them to the scene; warnings are throttled per reason."""

    def __init__(
        self,
        config: AgentConfig,
        observe: Callable[[RgbdFrame], Keyframe | None],
        drops: Drops,
        warn: Callable[[str], object],
        report_error: Callable[[str, BaseException, str], None],
        on_keyframe: Callable[[], None] = lambda: None,
    ) -> None:
        self.config, self._on_keyframe = config, on_keyframe
        self._observe, self._drops, self._report_error = observe, drops, report_error
        self._warn = ThrottledWarning(warn)
        self._bridge = make_bridge()

        # what diagnostics tell of the frames
        self.frames = 0
        self.cpu_ms, self.valid_fraction = Window(), Window()
        self.camera_info_changes = 0
        self._last_intrinsics: object = None

        # frames that can be used, of a camera that is probably set up wrongly; `health` says it
        self.watch = CameraWatch(config, lambda sentence: None)
        self._watched_epoch = 0

        # the epoch grows at a reset: what came before it stays out of the new scene
        self._epoch = 0
        self._lock = threading.Lock()
        self._worker: LatestWorker[tuple[int, PosedSet]] = LatestWorker(
            "ada3d-frames", self._take, lambda _: drops.add(FrameReason.SUPERSEDED), self._failed
        )

    def put(self, messages: PosedSet) -> None:
        self._worker.put((self._epoch, messages))

    def clear(self) -> None:
        """Let nothing that was put before reach the scene; call it before the scene is reset."""
        with self._lock:
            self._epoch += 1

    def stop(self, join_s: float = 2.0) -> bool:
        return self._worker.stop(join_s)

    def _take(self, item: tuple[int, PosedSet]) -> None:
        started = time.thread_time()
        epoch, messages = item

        # decode and check; the scene takes it unless it was reset meanwhile
        try:
            config = self.config
            frame = frame_of(messages, config, self._bridge)
            with self._lock:
                if epoch != self._epoch:
                    raise FrameError(
                        FrameReason.SUPERSEDED, "the scene was reset while it was decoded."
                    )
                admitted = self._observe(frame) is not None
            if admitted:
                self._on_keyframe()
        except (FrameError, PoseError) as error:
            self._refuse(messages.stamp_ns, getattr(error, "reason", FrameReason.BAD_POSE), error)
            return

        self.frames += 1
        self._drops.clear_refusals()
        self.cpu_ms.add((time.thread_time() - started) * 1e3)
        self.valid_fraction.add(float(np.isfinite(frame.depth_m).mean()))
        self._note_camera(epoch, frame, messages)

    def _refuse(self, stamp_ns: int, reason: FrameReason, error: Exception) -> None:
        """Count a frame that is not used, and say why; from the tenth in a row `health` says it."""
        superseded = reason is FrameReason.SUPERSEDED
        self._drops.add(reason, "" if superseded else str(error))
        if self._drops.num_refused < IN_A_ROW:
            self._warn(reason, f"frame at {stamp_ns / 1e9:.3f} not used ({reason}): {error}")

    def _note_camera(self, epoch: int, frame: RgbdFrame, messages: PosedSet) -> None:
        if self._last_intrinsics not in (None, frame.intrinsics):
            self.camera_info_changes += 1
        self._last_intrinsics = frame.intrinsics

        # poses of before a reset may be of another source
        if epoch != self._watched_epoch:
            self._watched_epoch = epoch
            self.watch.clear()
        self.watch.note(frame, messages)
        self.watch.judge_poses()

    def _failed(self, error: BaseException) -> None:
        why = f"an internal error, the log has more: {type(error).__name__}: {error}"
        self._drops.add(FrameReason.SCENE_ERROR, why)
        self._report_error("frame intake", error, "".join(traceback.format_exception(error)))
