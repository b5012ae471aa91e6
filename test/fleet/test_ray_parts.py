"""What the server adds to Ray Serve, without a cluster: the ring, and what goes as one piece."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="ray is absent: pip install 'ada3d_ros[serve]'")

from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    ReplicaID,
)

from ada3d_ros.fleet.deployment import ROUTER
from ada3d_ros.fleet.ingress import PACE_S, next_lines
from ada3d_ros.fleet.scene_router import SceneRouter

ROBOTS = [f"robot{number}" for number in range(60)]
DEPLOYMENT = DeploymentID("ada3d", "ada3d")


class Running:
    """Of a replica, what the router looks at."""

    def __init__(self, name: str) -> None:
        self.replica_id = ReplicaID(name, DEPLOYMENT)
        self.multiplexed_model_ids: set[str] = set()
        self.node_id, self.availability_zone = "", None

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return 0


async def places(router: SceneRouter) -> dict[str, list[str]]:
    """Who may answer each robot."""
    found = {}
    for robot in ROBOTS:
        request: Any = SimpleNamespace(
            metadata=SimpleNamespace(session_id=robot, internal_request_id="r"),
            routing_context=SimpleNamespace(should_backoff=False),
        )
        ranks = await router.choose_replicas(list(router.curr_replicas.values()), request)
        found[robot] = [one.replica_id.unique_id for rank in ranks for one in rank]
    return found


def test_a_dead_replicas_robots_go_elsewhere_at_once_and_others_stay() -> None:
    async def kill() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        router = SceneRouter(DEPLOYMENT, DeploymentHandleSource.UNKNOWN)
        router.initialize_state(num_fallback_replicas=0)
        replicas: Any = [Running(name) for name in ("a", "b", "c")]
        router.update_replicas(replicas)
        before = await places(router)
        router.on_replica_actor_died(replicas[0].replica_id)
        return before, await places(router)

    before, after = asyncio.run(kill())
    assert {len(found) for found in before.values()} == {1}
    assert {found[0] for found in before.values()} == {"a", "b", "c"}
    for robot in ROBOTS:
        if before[robot] == ["a"]:
            assert after[robot] in (["b"], ["c"])
        else:
            assert after[robot] == before[robot]


def test_the_application_names_this_router() -> None:
    assert f"{SceneRouter.__module__}.{SceneRouter.__qualname__}" == ROUTER


@pytest.mark.parametrize(
    ("waiting", "taken"),
    [
        ([{"stage": 1}, {"stage": 2}, {"text": "a"}, {"answer": {}}], 4),
        ([{"text": "a"}, {"text": "b"}], 2),
        ([{"stage": 1}, {"stage": 2}], 2),
        ([{"error": {}}, {"text": "of another"}], 1),
    ],
)
def test_what_waits_goes_as_one_piece_up_to_the_answer(
    waiting: list[dict[str, Any]], taken: int
) -> None:
    async def take() -> tuple[list[dict[str, Any]], float]:
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any]]()
        for line in waiting:
            queue.put_nowait(line)
        begun = loop.time()
        return await next_lines(queue), loop.time() - begun

    lines, seconds = asyncio.run(take())
    assert lines == waiting[:taken]
    if "stage" in lines[-1]:
        assert seconds >= PACE_S * 0.9  # it waited for a text
