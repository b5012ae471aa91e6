"""The cached scene in the node: questions, deadlines, several robots at once, diagnostics."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from ada3d_ros.errors import ErrorCode
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.scene.floor import stand_on_floor
from ada3d_ros.srv import QueryScene
from test.support.ros_harness import Harness, wait_until

Start = Callable[..., Harness]
LIMIT_S = 60.0  # for an event that comes at once on a machine that is not busy
QUESTIONS = [
    "What is there?",
    "How many chairs are in the room?",
    "Is it at [0.1, 2.0, 1.0]?",
    "Where is the red box?",
]


def ask(question: str = QUESTIONS[0], **fields: Any) -> Any:
    return QueryScene.Request(question=question, **fields)


def settled(agent: Harness) -> bool:
    """Whether every keyframe is in the cached scene, in order."""

    def done() -> bool:
        assert agent.node.pipeline is not None
        report, scene = agent.node.pipeline.cache_report(), agent.node.pipeline.scene_state()
        return report.version == scene.version and report.staleness == 0.0 and not report.building

    return wait_until(done, LIMIT_S)


def test_the_scene_is_ready_before_anybody_asks(start_agent: Start) -> None:
    agent = start_agent(**{"cache.settle_sec": 0.0})
    agent.publish_scene(3)
    assert settled(agent)
    answer = agent.call(QueryScene, "query", ask()).answer
    assert answer.success
    assert answer.scene_cached
    assert answer.scene_staleness == 0.0
    assert len(answer.keyframe_stamps) == 3
    assert math.isnan(answer.latency.vision_ms)
    agent.publish_scene(4, first_s=10)  # the robot goes on
    assert wait_until(lambda: agent.node.pipeline.scene_state().newest_ns == 13_000_000_000)
    later = agent.call(QueryScene, "query", ask()).answer
    assert later.keyframe_stamps[-1].sec == 13  # what was seen last is in
    assert later.scene_version > answer.scene_version


def test_a_cold_node_answers_as_the_paper_does(start_agent: Start) -> None:
    cached = start_agent(**{"cache.settle_sec": 0.0})
    cached.publish_scene(3)
    assert settled(cached)
    warm = cached.call(QueryScene, "query", ask()).answer
    # Closed here: two nodes of one name would mix.
    cached.close = lambda: None  # type: ignore[method-assign]
    Harness.close(cached)
    paper = start_agent(**{"cache.mode": "paper"})
    paper.publish_scene(3)
    cold = paper.call(QueryScene, "query", ask()).answer
    assert (cold.scene_cached, math.isnan(cold.scene_staleness)) == (False, True)
    assert cold.text == warm.text
    assert cold.confidence == pytest.approx(warm.confidence, rel=1e-5)


def test_a_deadline_is_planned_for_and_reported(start_agent: Start) -> None:
    # A scene pruned while it is built serves one keep ratio.
    agent = start_agent(**{"pruning.strategy": "adatoken3d", "cache.prune": "question"})
    agent.publish_scene(3)
    easy = agent.call(QueryScene, "query", ask(deadline_ms=60_000.0)).answer
    assert easy.success
    assert easy.deadline_kept
    hopeless = agent.call(QueryScene, "query", ask(deadline_ms=1.0)).answer
    assert hopeless.success  # late, and said to be
    assert not hopeless.deadline_kept
    assert hopeless.deadline_ms == 1.0
    assert hopeless.tokens.keep_ratio_achieved < easy.tokens.keep_ratio_achieved
    refused = agent.call(QueryScene, "query", ask(deadline_ms=-1.0)).answer
    assert refused.error_code == ErrorCode.INVALID_REQUEST
    assert "deadline_ms = -1" in refused.error_msg


def test_several_robots_at_once_get_their_own_answers(start_agent: Start) -> None:
    """Four clients' questions wait together for a slow one, and run as one batch."""
    gate, sizes = threading.Event(), list[int]()

    class Gated(Ada3DPipeline):
        def ask(self, question: Any, hooks: Any = None) -> Any:
            if question.text == "wait":
                assert gate.wait(20.0)
            return super().ask(question, hooks)

        def ask_together(self, asked: Any) -> Any:
            sizes.append(len(asked))
            return super().ask_together(asked)

    agent = start_agent(Gated, **{"action.batch_size": 4})
    agent.publish_scene(3)
    alone = [agent.call(QueryScene, "query", ask(text)).answer for text in QUESTIONS]
    slow = ask("wait", keep_ratio=1.0)  # with a budget of its own it runs alone
    waiting = [
        agent.call_async(QueryScene, "query", request) for request in (slow, *map(ask, QUESTIONS))
    ]
    assert wait_until(lambda: agent.node.worker.queued == 4)
    gate.set()
    together = [result().answer for result in waiting][1:]
    assert sizes == [4]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert all(answer.success and answer.scene_cached for answer in together)
    assert len({answer.request_id for answer in together}) == 4


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("cache.held", "1,1,1", "one share above 0 and at most 1 for each of the 4 layers"),
        ("cache.held", "measured", "there is no file that says what each layer's share is worth"),
        ("cache.alive", "0.5,0.5,0.5,0.5", "the first layer computes all tokens"),
        ("cache.prompts", " | ", "cache.prompts is empty"),
        ("cache.prompts", "<image> there", "cache.prompts: the question contains '<image>'"),
        ("cache.queries_file", "/nowhere/queries", "there is no file at /nowhere/queries"),
    ],
)
def test_cache_settings_that_the_model_cannot_serve_are_refused(
    start_agent: Start, name: str, value: str, said: str
) -> None:
    """They were taken, and every question after that failed."""
    agent = start_agent(**{"pruning.strategy": "adatoken3d"})
    before = agent.node.config
    result = agent.node.set_parameters([Parameter(name, value=value)])[0]
    assert not result.successful
    assert said in result.reason
    assert agent.node.config == before


def test_diagnostics_and_reset(start_agent: Start) -> None:
    agent = start_agent(**{"cache.settle_sec": 0.0, "diagnostic_updater.period": 0.1})
    received = agent.collect(DiagnosticArray, "/diagnostics")
    agent.publish_scene(3)
    assert settled(agent)

    def shown() -> dict[str, str]:
        """The scene's values of the newest message."""
        tasks = received[-1].status if received else ()
        (scene,) = [task for task in tasks if task.name.endswith("Scene")] or [DiagnosticStatus()]
        return {pair.key: pair.value for pair in scene.values}

    def wait_for(**values: str) -> dict[str, str]:
        wanted = {f"cache.{key}": value for key, value in values.items()}
        assert wait_until(lambda: wanted.items() <= shown().items(), LIMIT_S), shown()
        return shown()

    built = wait_for(keyframes="3", staleness="0.000")
    assert built["cache.mode"] == "cached"
    assert float(built["cache.kv_mib"]) > 0
    assert agent.call(Trigger, "reset_scene").success
    assert agent.call(QueryScene, "query", ask()).answer.error_code == ErrorCode.NO_FRAMES
    wait_for(kv_mib="0.000")


@pytest.mark.parametrize(
    ("floor_z", "shown"),
    [("auto", ("-1.500", "estimated")), (-1.25, ("-1.250", "given"))],
)
def test_the_floor_is_shown(start_agent: Start, floor_z: object, shown: tuple[str, str]) -> None:
    """A number as it comes from a YAML file; `auto` finds what the room stands on."""
    agent = start_agent(**{"world.floor_z": floor_z, "diagnostic_updater.period": 0.1})
    received = agent.collect(DiagnosticArray, "/diagnostics")

    def floor() -> tuple[str, str]:
        tasks = [t for a in received[-1:] for t in a.status if t.name.endswith("Scene")]
        values = {pair.key: pair.value for task in tasks for pair in task.values}
        return values.get("floor.z_m", ""), values.get("floor.source", "")

    at_first = ("0.000", "unknown") if floor_z == "auto" else shown
    assert wait_until(lambda: floor() == at_first)
    for frame in stand_on_floor(generate_room(3, side_px=96).frames, 1.5):
        agent.node.pipeline.observe(frame)
    assert wait_until(lambda: floor() == shown)
    agent.node.pipeline.reset_scene()
    assert wait_until(lambda: floor() == at_first)
