"""~/watch, ~/unwatch and ~/events of a node over DDS."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from ada3d_ros.errors import ErrorCode
from ada3d_ros.measures import ObjectsSnapshot, SceneObject
from ada3d_ros.msg import AgentStatus, Answer, SceneEvent, StandingQuestion
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.ros.client import ask_main as ask_command
from ada3d_ros.ros.client import ground_main as ground_command
from ada3d_ros.ros.outputs import LATCHED
from ada3d_ros.ros.scene_client import main as scene_command
from ada3d_ros.ros.watch_client import describe_list
from ada3d_ros.ros.watch_client import main as watch_command
from ada3d_ros.srv import LoadScene, QueryScene, SaveScene, Unwatch, Watch
from ada3d_ros.types import Answer as PipelineAnswer
from ada3d_ros.types import AskHooks, Box3D, Question
from test.support.ros_harness import Harness, wait_until

EVENTS, ANSWERS = "/ada3d_agent/events", "/ada3d_agent/answer"


class CountingPipeline(Ada3DPipeline):
    """Answers with how many keyframes there are, and keeps the objects that a test says."""

    told = ObjectsSnapshot(why_not="none are kept.")
    asked = 0

    def ask(self, question: Question, hooks: AskHooks = AskHooks()) -> PipelineAnswer:
        self.asked += 1
        answer = super().ask(question, hooks)
        return replace(answer, text=f"{min(self.scene_state().num_keyframes, 3)} views")

    def objects(self) -> ObjectsSnapshot:
        return self.told


def snapshot(*places: tuple[str, str, float, bool]) -> ObjectsSnapshot:
    """A complete list of (id, label, x in metres, gone)."""
    things = tuple(
        SceneObject(
            number, label, Box3D(np.array([x, 0.0, 0.5]), np.ones(3), label=label), gone_ns=gone - 1
        )
        for number, label, x, gone in places
    )
    return ObjectsSnapshot(things, complete=True, stamp_ns=10**9, frame_id="map")


def watch(agent: Harness, question: str = "How many?", **fields: Any) -> Any:
    fields.setdefault("min_period_sec", 0.1)
    return agent.call(Watch, "watch", Watch.Request(question=question, **fields))


def watches(agent: Harness) -> list[Any]:
    return agent.node.standing.to_msgs()  # as ~/status has them


@pytest.fixture
def agent(start_agent: Callable[..., Harness]) -> Harness:
    agent = start_agent(CountingPipeline)
    agent.publish_scene(1)
    return agent


def test_a_changed_answer_is_told_once_and_an_unchanged_one_never(agent: Harness) -> None:
    events, answers = agent.collect(SceneEvent, EVENTS), agent.collect(Answer, ANSWERS)
    statuses = agent.collect(AgentStatus, "/ada3d_agent/status", LATCHED)
    begun = watch(agent)
    assert (begun.success, begun.watch_id) == (True, "w1"), begun.error_msg
    (stands,) = watches(agent)
    assert (stands.last_text, stands.error_code) == ("1 views", 0)

    # Two more views: two other answers at most, the last of them told.
    for count in (2, 3):
        agent.publish_frame((10 + count) * 10**9, x_m=count)
        assert wait_until(lambda n=count: agent.node.pipeline.scene_state().num_keyframes == n)
    assert wait_until(lambda: bool(events) and events[-1].after == "3 views", 30.0)
    assert (events[-1].kind, events[-1].watch_id) == (SceneEvent.ANSWER_CHANGED, "w1")
    assert events[0].before == "1 views"
    assert events[-1].sentence == f'"How many?" was "{events[-1].before}", now "3 views".'
    assert wait_until(lambda: bool(answers) and answers[-1].text == "3 views")
    assert (answers[-1].watch_id, answers[-1].question) == ("w1", "How many?")

    # Another view that changes nothing: it is asked, and nobody is told.
    told, asked = len(events), agent.node.pipeline.asked
    agent.publish_frame(30 * 10**9, x_m=9.0)
    assert wait_until(lambda: agent.node.pipeline.asked > asked, 30.0)
    seen = agent.node.pipeline.scene_state().version
    standing = agent.node.standing.questions["w1"]
    assert wait_until(lambda: standing.seen == (0, seen), 30.0)
    assert len(events) == told
    assert wait_until(lambda: [w.last_text for w in statuses[-1].watches] == ["3 views"])


def test_a_request_goes_before_it(start_agent: Callable[..., Harness]) -> None:
    """action.policy reject: a standing question that runs does not make the node busy."""

    class SlowPipeline(CountingPipeline):
        running = 0

        def ask(self, question: Question, hooks: AskHooks = AskHooks()) -> PipelineAnswer:
            if question.text == "How many?":
                self.running += 1
                assert wait_until(lambda: _stops(hooks), 30.0)
                hooks.check()
            return super().ask(question, hooks)

    def _stops(hooks: AskHooks) -> bool:
        try:
            hooks.check()
        except Exception:
            return True
        return False

    agent = start_agent(SlowPipeline, **{"action.policy": "reject"})
    agent.publish_scene(1)
    begun = agent.call_async(
        Watch, "watch", Watch.Request(question="How many?", min_period_sec=0.1)
    )
    assert wait_until(lambda: agent.node.pipeline.running == 1, 30.0)
    assert (agent.node.worker.busy, agent.node.worker.queued) == (False, 0)
    answer = agent.call(QueryScene, "query", QueryScene.Request(question="Now?")).answer
    assert answer.success, answer.error_msg
    assert begun().success  # it stands all the same, and is asked again
    assert wait_until(lambda: agent.node.pipeline.running == 2, 30.0)
    assert agent.call(QueryScene, "query", QueryScene.Request(question="Now?")).answer.success


def test_an_object_that_moves_and_one_that_goes(agent: Harness) -> None:
    pipeline, events = agent.node.pipeline, agent.collect(SceneEvent, EVENTS)
    pipeline.told = snapshot(("1", "red chair", 0.0, False), ("2", "sofa", 5.0, False))
    assert wait_until(lambda: agent.node.count_subscribers(EVENTS) == 1)
    for name in ("chair", "2"):
        begun = watch(agent, name, kind=StandingQuestion.KIND_OBJECT)
        assert begun.success, begun.error_msg
    pipeline.told = snapshot(
        ("1", "red chair", 0.0, True), ("2", "sofa", 5.0, False), ("3", "red chair", 1.5, False)
    )
    assert wait_until(lambda: len(events) == 1, 30.0)
    assert (events[0].kind, events[0].watch_id) == (SceneEvent.OBJECT_MOVED, "w1")
    assert events[0].moved_m == pytest.approx(1.5)
    assert (events[0].object.id, events[0].object.box.center.position.x) == ("3", 1.5)
    assert events[0].box_before.center.position.x == 0.0
    assert events[0].header.frame_id == "map"
    pipeline.told = snapshot(("2", "sofa", 5.0, True), ("3", "red chair", 1.5, False))
    assert wait_until(lambda: len(events) == 2, 30.0)
    assert (events[1].kind, events[1].watch_id) == (SceneEvent.OBJECT_GONE, "w2")
    assert events[1].object.gone
    assert [w.last_text for w in watches(agent)][1].startswith("the sofa is gone")


def test_an_object_that_a_scene_begun_anew_does_not_have(agent: Harness) -> None:
    pipeline = agent.node.pipeline
    pipeline.told = snapshot(("1", "red chair", 0.0, False))
    assert watch(agent, "chair", kind=StandingQuestion.KIND_OBJECT).success

    def said(code: ErrorCode) -> bool:
        return [w.error_code for w in watches(agent)] == [int(code)]

    pipeline.told = replace(snapshot(("1", "sofa", 5.0, False)), scene_epoch=7)
    assert wait_until(lambda: said(ErrorCode.NOT_GROUNDED), 30.0)
    (lost,) = watches(agent)
    assert "not seen since the scene began anew" in lost.error_msg
    pipeline.told = replace(snapshot(("2", "red chair", 1.0, False)), scene_epoch=7)
    assert wait_until(lambda: said(ErrorCode.NONE), 30.0)


@pytest.mark.parametrize(
    ("stamp_s", "line"),
    [
        (9, "w1  ask  'Is it open?': Yes. (for 4 s)"),
        (2, "w1  ask  'Is it open?': Yes."),  # a clock behind the answer: a bag, a restart
    ],
)
def test_a_line_of_the_list(stamp_s: int, line: str) -> None:
    question = StandingQuestion(watch_id="w1", question="Is it open?", last_text="Yes.")
    question.last_changed.sec = 5
    status = AgentStatus(watches=[question])
    status.header.stamp.sec = stamp_s
    assert describe_list(status) == line


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"question": "  "}, ErrorCode.INVALID_REQUEST, "question is empty"),
        ({"kind": 9}, ErrorCode.INVALID_REQUEST, "kind = 9; allowed: 0 (ASK)"),
        ({"min_period_sec": -1.0}, ErrorCode.INVALID_REQUEST, "min_period_sec = -1"),
        ({"min_period_sec": math.nan}, ErrorCode.INVALID_REQUEST, "min_period_sec = nan"),
        ({"min_period_sec": 1e6}, ErrorCode.INVALID_REQUEST, "allowed: 0.1 to 86400"),
        ({"question": "a\x07b"}, ErrorCode.INVALID_REQUEST, "control character"),
        ({"question": "x" * 2001}, ErrorCode.QUESTION_TOO_LONG, "2001"),
        ({"question": "<image> ?"}, ErrorCode.INVALID_REQUEST, "<image>"),
        ({"kind": 2, "question": "chair"}, ErrorCode.NOT_ACTIVE, "none are kept."),
        ({"kind": 2, "question": "x" * 2001}, ErrorCode.QUESTION_TOO_LONG, "2001"),
        ({"kind": 2, "question": "a\nb\x1b"}, ErrorCode.INVALID_REQUEST, "control character"),
        ({"min_period_sec": math.inf}, ErrorCode.INVALID_REQUEST, "min_period_sec = inf"),
        ({"min_period_sec": 0.05}, ErrorCode.INVALID_REQUEST, "or 0 for the node's default"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(
    shared_agent: Harness, fields: dict[str, Any], code: ErrorCode, words: str
) -> None:
    refused = watch(shared_agent, **fields)
    assert (refused.success, refused.error_code) == (False, int(code)), refused
    assert words in refused.error_msg
    assert watches(shared_agent) == []


@pytest.fixture(scope="module")
def shared_agent(tiny_model: Path) -> Any:
    from test.support.ros_harness import agent_of_its_own

    with agent_of_its_own(tiny_model, CountingPipeline) as agent:
        agent.publish_scene(1)
        yield agent


@pytest.mark.parametrize("command", [ask_command, ground_command, watch_command, scene_command])
def test_bytes_that_are_no_text_are_a_usage_error(
    command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """As a shell hands them on; no node is needed to say so."""
    words = ["save"] if command is scene_command else []
    with pytest.raises(SystemExit) as ended:
        command([*words, "a\udcff"])
    assert ended.value.code == 2
    assert "'a\\udcff' is no UTF-8 text" in capsys.readouterr().err


def test_an_object_that_is_not_there_names_those_that_are(shared_agent: Harness) -> None:
    pipeline = shared_agent.node.pipeline
    pipeline.told = snapshot(("1", "red chair", 0.0, False))
    refused = watch(shared_agent, "piano", kind=StandingQuestion.KIND_OBJECT)
    pipeline.told = CountingPipeline.told
    assert refused.error_code == ErrorCode.NOT_GROUNDED
    assert refused.error_msg == (
        "no object 'piano' is kept, so there is nothing to watch; there are: red chair. To be told"
        ' when one comes, watch the question "Is there a piano?".'
    )


def test_ending_them(shared_agent: Harness) -> None:
    ids = [watch(shared_agent, f"{n}?").watch_id for n in range(3)]
    unknown = shared_agent.call(Unwatch, "unwatch", Unwatch.Request(watch_id="w99"))
    assert unknown.error_code == ErrorCode.INVALID_REQUEST
    assert f"there are: {', '.join(ids)}, or '*' for all" in unknown.error_msg
    long = shared_agent.call(Unwatch, "unwatch", Unwatch.Request(watch_id="w" * 10_000))
    assert "... (10000 characters) is none that stands" in long.error_msg
    assert len(long.error_msg) < 250
    assert shared_agent.call(Unwatch, "unwatch", Unwatch.Request(watch_id=ids[1])).ended == 1
    assert [w.watch_id for w in watches(shared_agent)] == [ids[0], ids[2]]
    assert shared_agent.call(Unwatch, "unwatch", Unwatch.Request(watch_id="*")).ended == 2
    assert watches(shared_agent) == []


def test_there_is_room_for_so_many(start_agent: Callable[..., Harness]) -> None:
    agent = start_agent(CountingPipeline, **{"watch.max_count": 1})
    agent.publish_scene(1)
    assert watch(agent).success
    refused = watch(agent)
    assert refused.error_code == ErrorCode.BUSY
    assert "1 questions stand already (watch.max_count 1)" in refused.error_msg


def test_they_stand_again_after_a_restart(
    start_agent: Callable[..., Harness], tmp_path: Path
) -> None:
    settings = {"scene.autosave": str(tmp_path), "scene.name": "kitchen"}
    first = start_agent(CountingPipeline, **settings)
    first.publish_scene(1)
    assert watch(first).watch_id == "w1"
    assert watch(first, "And now?").watch_id == "w2"
    assert first.call(Unwatch, "unwatch", Unwatch.Request(watch_id="w2")).success
    first.close()

    second = start_agent(CountingPipeline, **settings)
    assert second.ready()
    assert wait_until(lambda: [w.watch_id for w in watches(second)] == ["w1"], 30.0)
    assert watches(second)[0].last_text == "1 views"
    events = second.collect(SceneEvent, EVENTS)
    assert wait_until(lambda: second.node.count_subscribers(EVENTS) == 1)
    second.publish_frame(40 * 10**9, x_m=4.0)
    assert wait_until(lambda: bool(events), 30.0)
    assert (events[0].before, events[0].after) == ("1 views", "2 views")
    assert watch(second, "Another?").watch_id == "w3"  # no id is given twice


def test_each_scene_has_its_own(start_agent: Callable[..., Harness], tmp_path: Path) -> None:
    settings = {"scene.autosave": str(tmp_path), "scene.name": "kitchen"}
    agent = start_agent(CountingPipeline, **settings)
    agent.publish_scene(1)
    assert watch(agent, "In the kitchen?").watch_id == "w1"
    assert agent.call(SaveScene, "save_scene", SaveScene.Request(scene="office")).success
    events = agent.collect(SceneEvent, EVENTS)

    def load(name: str) -> list[str]:
        loaded = agent.call(LoadScene, "load_scene", LoadScene.Request(scene=name))
        assert loaded.success, loaded.error_msg
        assert wait_until(lambda: agent.node.standing.scene == name, 30.0)
        return [stands.question for stands in watches(agent)]

    assert load("office") == []
    assert watch(agent, "In the office?").success
    assert load("kitchen") == ["In the kitchen?"]
    assert load("office") == ["In the office?"]
    assert events == []
