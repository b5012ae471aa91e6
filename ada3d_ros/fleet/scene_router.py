"""Which replica a robot is sent to: Ray Serve's ring, and a dead replica leaves it at once.

The ring is made anew when the controller says which replicas there are; of one that was killed it
learns at its next health check. Until then the ring would lead its robots to nobody, although the
router knows that it is dead.
"""

from __future__ import annotations

from ray.serve._private.common import ReplicaID
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter


class SceneRouter(ConsistentHashRouter):
    """By the robot's id; `num_fallback_replicas` as there."""

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self.update_replicas(list(self.curr_replicas.values()))
