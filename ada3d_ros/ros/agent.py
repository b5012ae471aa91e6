"""`ada3d agent`: the node as a process, and its end: what was asked is answered first."""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from ada3d_ros.ros.node import AgentNode, build_node

# SIGINT or SIGTERM to the end of the process takes less than a second
ANSWER_S = 0.3  # for what was asked to be answered, or to be given up
JOIN_S = 0.2  # for a thread that reads weights or encodes an image: it ends with the process

USAGE = """usage: ada3d agent [--ros-args ...]

Run the lifecycle node ada3d_agent until it is interrupted. All options are ROS arguments:

  ada3d agent --ros-args -p model.path:=FOLDER -p autostart:=true    configure and activate at once
  ada3d agent --ros-args --params-file config/agent.yaml -r __ns:=/robot1
  ada3d agent --ros-args -r rgb/image:=/camera/color/image_raw \\
      -r depth/image:=/camera/depth/image_raw ...

Inputs: rgb/image, depth/image, rgb/camera_info, and pose, odom or /tf. Without autostart a
lifecycle manager (or `ros2 lifecycle set /ada3d_agent configure`, then `activate`) starts it.
docs/parameters.md lists all parameters."""


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; returns 0, or 2 for arguments that are not ROS's."""
    args = sys.argv[1:] if args is None else args
    if args and args[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if args and args[0] != "--ros-args":
        print(f"ada3d agent: unexpected {args[0]!r}.\n\n{USAGE}", file=sys.stderr)
        return 2

    # From here on a signal asks for an orderly end. rclpy's own handlers would close the context at
    # once, and nobody who waits for an answer would get one.
    ended = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: ended.set())
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        print(f"ada3d agent: {error}", file=sys.stderr)
        return 2

    # The node's callbacks run on a thread of their own; this one waits for a signal.
    spinner, node = _Spinner(ended), None
    try:
        node = build_node()
        spinner.start(node)
        ended.wait()
        _answer_what_was_asked(spinner, node)
    finally:
        spinner.stop()
        if node is not None:
            node.destroy_node(JOIN_S)
        rclpy.try_shutdown()
    if spinner.error is not None:
        raise spinner.error
    return 0


class _Spinner:
    """The executor on its thread; `ended` is set when it stops by itself."""

    def __init__(self, ended: threading.Event) -> None:
        self.executor = SingleThreadedExecutor()
        self.error: BaseException | None = None
        self._ended = ended
        self._thread = threading.Thread(target=self._spin, name="ada3d-executor", daemon=True)

    def start(self, node: AgentNode) -> None:
        self.executor.add_node(node)
        self._thread.start()

    def _spin(self) -> None:
        try:
            self.executor.spin()
        except ExternalShutdownException:
            pass
        except BaseException as error:
            self.error = error
        self._ended.set()

    def run(self, callback: Any, timeout_s: float) -> None:
        """Run `callback` between the node's own callbacks, and wait for it."""
        done = threading.Event()
        task = self.executor.create_task(callback)
        task.add_done_callback(lambda _: done.set())
        done.wait(timeout_s)

    def stop(self) -> None:
        self.executor.shutdown(timeout_sec=JOIN_S)
        if self._thread.is_alive():
            self._thread.join(JOIN_S)


def _answer_what_was_asked(spinner: _Spinner, node: AgentNode) -> None:
    """Stop every question, and send what became of it while the node still stands."""
    # What runs stops at its next token; what cannot stop is answered all the same.
    end = time.monotonic() + ANSWER_S
    spinner.run(node.close_requests, ANSWER_S)
    while node.open_requests and time.monotonic() < end:
        time.sleep(0.005)
    node.worker.give_up()

    # The last answer leaves in the turn of the executor that takes it; an action's result later.
    while node.open_requests and time.monotonic() < end + ANSWER_S:
        time.sleep(0.005)
    for _ in range(3):
        spinner.run(lambda: None, JOIN_S)
