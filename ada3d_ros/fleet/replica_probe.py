"""Whether a replica still answers: one token about a small drawn scene."""

from __future__ import annotations

import threading
import time

import numpy as np

from ada3d_ros.errors import Ada3DError, BusyError, ModelError
from ada3d_ros.fleet.protocol import Call, SceneList
from ada3d_ros.fleet.scene_host import SceneHost
from ada3d_ros.scene.floor import Floor
from ada3d_ros.store.keyframe_bytes import pack_keyframe
from ada3d_ros.types import AskHooks, Intrinsics, Keyframe, KeyframeReason, Question, RgbdFrame

ROBOT, SESSION = "-probe", "-"  # no robot can have these names
WAIT_S = 45.0  # for an answer, of whatever question
POLL_S = 0.25
WIDTH, HEIGHT = 64, 48


class ReplicaProbe:
    """`check` now and then, on any thread."""

    def __init__(self, host: SceneHost) -> None:
        self._host = host
        keyframe = _keyframe()
        self._listed = SceneList(0, 1, Floor(), (0.0, 0.0), ((0, keyframe.frame.stamp_ns),))
        self._bytes = pack_keyframe(keyframe)
        self._finished = -1

    def check(self) -> None:
        """Raise what is wrong. Where a question ended since the last time, nothing is asked."""
        host = self._host
        if not host.alive:
            raise host.fault or ModelError("the model's thread has ended.")
        if host.finished != self._finished:
            self._finished = host.finished
            return
        done, failed = threading.Event(), []

        def on_done(answer: object, error: BaseException | None) -> None:
            if error is not None:
                failed.append(error)
            done.set()

        question = Question("Is there a chair?", max_new_tokens=1, want_boxes=False, routed=False)
        try:
            if host.put_scene(ROBOT, SESSION, self._listed):
                host.put_keyframe(ROBOT, SESSION, self._bytes)
            call = Call(self._listed.digest(), question, WAIT_S)
            host.start(ROBOT, SESSION, "ask", call, AskHooks(), on_done)
        except BusyError:
            pass  # others wait: one of them must end
        except Ada3DError as error:
            raise ModelError(f"the probe failed: {error}") from error
        end = time.monotonic() + WAIT_S
        while host.finished == self._finished and not done.wait(POLL_S):
            if time.monotonic() > end:
                raise ModelError(f"no question was answered within {WAIT_S:g} s.")
        self._finished = host.finished
        if failed:
            raise failed[0]


def _keyframe() -> Keyframe:
    """A wall with a gradient, 2 m away."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    rgb = np.stack([rows * 4, columns * 3, rows + columns], axis=-1).astype(np.uint8)
    depth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    pose = np.eye(4)
    pose[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]  # looking along x, z up
    pose[2, 3] = 1.0
    camera = Intrinsics(50.0, 50.0, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT)
    return Keyframe(RgbdFrame(1, rgb, depth, camera, pose, "map"), 0, KeyframeReason.FIRST)
