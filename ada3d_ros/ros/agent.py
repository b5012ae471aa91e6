"""`ada3d agent`: the node as a process."""

from __future__ import annotations

import signal
import sys

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import uninstall_signal_handlers

from ada3d_ros.ros.node import build_node

USAGE = """usage: ada3d agent [--ros-args ...]

Run the lifecycle node ada3d_agent until it is interrupted. All options are ROS arguments:

  ada3d agent --ros-args -p model.path:=FOLDER -p autostart:=true    configure and activate at once
  ada3d agent --ros-args --params-file config/agent.yaml -r __ns:=/robot1
  ada3d agent --ros-args -r rgb/image:=/camera/color/image_raw \\
      -r depth/image:=/camera/depth/image_raw ...

Inputs: rgb/image, depth/image, rgb/camera_info, pose or odom. Without autostart a lifecycle
manager (or `ros2 lifecycle set /ada3d_agent configure`, then `activate`) starts it.
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

    try:
        rclpy.init(args=args)
    except RuntimeError as error:
        print(f"ada3d agent: {error}", file=sys.stderr)
        return 2

    executor, node = SingleThreadedExecutor(), None
    try:
        node = build_node()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:  # a signal closed the context while the node or the wait set was being built
        if rclpy.ok():
            raise
    finally:
        # launch sends a second SIGINT while we are taking things down
        uninstall_signal_handlers()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if node is not None:
            executor.remove_node(node)
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
