"""The bond with nav2's lifecycle manager: heartbeats both ways while the node is active.

Loaded only where bondpy, which comes with a ROS distribution, can be found.
"""

from __future__ import annotations

from bondpy.bondpy import Bond
from rclpy.lifecycle import LifecycleNode

TOPIC = "bond"  # relative: the manager's, where it is in the same namespace
HEARTBEAT_TIMEOUT_S = 4.0  # as nav2's nodes have it


class ManagerBond:
    """A bond named as the node. A manager brings its nodes down when one of their bonds breaks."""

    def __init__(self, node: LifecycleNode, period_s: float) -> None:
        self._node, self._bond = node, Bond(node, TOPIC, node.get_name())
        self._bond.heartbeat_period = period_s
        self._bond.heartbeat_timeout = HEARTBEAT_TIMEOUT_S
        self._bond.start()

    def close(self) -> None:
        """Tell the manager, and take subscription and publisher out of the node as well."""
        try:
            self._bond.shutdown()
        finally:
            self._node.destroy_subscription(self._bond.sub)
            self._node.destroy_publisher(self._bond.pub)
