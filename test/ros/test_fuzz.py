"""Malformed messages over real DDS, drawn by hypothesis: nothing raises out of a callback.

2,000 messages here; `ADA3D_FUZZ_MESSAGES=100000 pytest test/ros/test_fuzz.py` sends as many as
said, `ADA3D_FUZZ_SEED` begins with other draws.
"""

from __future__ import annotations

import gc
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy")

from std_srvs.srv import Trigger

from ada3d_ros.srv import GetModelInfo, QueryScene
from test.support.malformed import SECOND_NS, malformed_messages, spoiled_frames
from test.support.ros_harness import TOPICS, Harness, agent_of_its_own, frame_messages, wait_until

MESSAGES = int(os.environ.get("ADA3D_FUZZ_MESSAGES", "2000"))
FIRST_SEED = int(os.environ.get("ADA3D_FUZZ_SEED", "0"))
ROUND = 1000  # messages; hypothesis keeps what it has drawn until its round is over
GROWTH_MIB = 20.0
REASONS = {"corrupt", "zero_stamp", "backward_stamp", "future_stamp", "bad_pose", "bad_encoding"}
REASONS |= {"bad_size", "bad_intrinsics", "frame_mismatch", "low_valid_depth"}
fuzzing = settings(
    max_examples=ROUND,  # until as many messages are sent
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def agent(tiny_model: Path) -> Iterator[Harness]:
    with agent_of_its_own(tiny_model) as harness:
        yield harness


def resident_mib() -> float:
    """Memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def send(agent: Harness, name: str, content: Any) -> None:
    message_type = type(frame_messages(1)[name])
    agent.publisher(TOPICS[name], message_type).publish(content)


def in_step(agent: Harness) -> None:
    """Return when the node has answered a service: its executor turns."""
    agent.call(GetModelInfo, "get_model_info")
    assert agent.agent_spinner.error is None, agent.agent_spinner.error


def send_round(agent: Harness, number: int, stamps: Iterator[int], raised: list[str]) -> int:
    """Malformed messages, in bursts that the queues of the node hold; how many were sent."""
    sent = 0
    draws = st.one_of(malformed_messages(), spoiled_frames(stamps))

    @seed(number)
    @fuzzing
    @given(st.lists(draws, min_size=1, max_size=4))
    def burst(drawn: list[list[tuple[str, Any]]]) -> None:
        nonlocal sent
        if sent >= ROUND:
            return
        for name, content in itertools.chain.from_iterable(drawn):
            send(agent, name, content)
            sent += 1
        in_step(agent)
        assert not raised, raised[0]

    burst()
    return sent


def test_malformed_messages(agent: Harness) -> None:
    """The executor turns on, no callback raised, memory is bounded, a good scene is answered."""
    raised: list[str] = []
    agent.node.report_error = lambda where, error, trace: raised.append(  # type: ignore[method-assign]
        f"{where}: {error!r}\n{trace}"
    )
    threads = threading.active_count()
    stamps = (SECOND_NS * second for second in itertools.count(1000))
    sent, resident = 0, []
    while sent < MESSAGES:
        sent += send_round(agent, FIRST_SEED + len(resident), stamps, raised)
        gc.collect()
        resident.append(resident_mib())
        print(f"{sent} messages, {resident[-1]:.1f} MiB; given up: {agent.drops()}")
    assert set(agent.drops()) >= REASONS  # they reached the node, and all the way
    assert threading.active_count() <= threads + 1

    # What the first fifth of the run needed, the rest of it may not add to.
    assert max(resident[-3:]) - max(resident[: 1 + len(resident) // 5]) < GROWTH_MIB

    # And good frames are taken. What was still under way at the reset may cost the first of them.
    assert agent.call(Trigger, "reset_scene").success
    for index in range(20):
        agent.publish_frame((10**8 + index) * SECOND_NS, x_m=0.5 * index)
        if wait_until(lambda: agent.node.pipeline.scene_state().num_keyframes >= 2, 1.0):
            break
    assert agent.node.pipeline.scene_state().num_keyframes >= 2, agent.why_no_keyframe()
    answer = agent.call(QueryScene, "query", QueryScene.Request(question="What is there?")).answer
    assert answer.success, answer.error_msg
    assert not raised, raised[0]
