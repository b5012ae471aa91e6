"""`ada3d agent`: the node as a process."""

from __future__ import annotations

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from ada3d_ros.ros.node import build_node


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted. Returns 0."""
    rclpy.init(args=args)
    node = build_node()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RuntimeError:  # rclpy's RCLError: a signal closed the context while the wait set was being built
        if rclpy.ok():
            raise
    finally:
        executor.remove_node(node)
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
