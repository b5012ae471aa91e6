"""The page's node beside a real agent over DDS: what it is told, and what becomes of questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rclpy.task import Future

from ada3d_ros.errors import ConfigError
from ada3d_ros.ros.page_node import PageNode
from ada3d_ros.ros.page_services import GONE, MAX_OPEN, TOO_MANY
from ada3d_ros.srv import GetModelInfo, QueryScene
from test.support.ros_harness import Harness, scripted, wait_until


class Listener:
    """Takes down what comes."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}
        self.points: list[bytes] = []
        self.turns: dict[str, dict[str, Any]] = {}
        self.kept: dict[str, bytes] = {}
        self.deltas: dict[str, str] = {}
        self.others: list[tuple[str, dict[str, Any]]] = []

    def status(self, status: dict[str, Any]) -> None:
        self.told["status"] = status

    def cloud(self, points: bytes) -> None:
        self.points.append(points)

    def keyframes(self, keyframes: dict[str, Any], pictures: dict[str, bytes]) -> None:
        self.told["keyframes"], self.told["pictures"] = keyframes, pictures

    def pose(self, pose: dict[str, Any]) -> None:
        self.told["pose"] = pose

    def settings(self, settings: dict[str, Any]) -> None:
        self.told["settings"] = {**self.told.get("settings", {}), **settings}

    def watches(self, watches: list[dict[str, Any]]) -> None:
        self.told["watches"] = watches

    def event(self, event: dict[str, Any]) -> None:
        self.told["event"] = event

    def text(self, turn: str, delta: str) -> None:
        self.deltas[turn] = self.deltas.get(turn, "") + delta

    def ended(self, turn: str, fields: dict[str, Any], kept: bytes) -> None:
        self.turns[turn], self.kept[turn] = fields, kept

    def elsewhere(self, question: str, fields: dict[str, Any], kept: bytes) -> None:
        self.others.append((question, fields))

    def end_of(self, turn: str) -> dict[str, Any]:
        assert wait_until(lambda: turn in self.turns, 30.0), turn
        return self.turns[turn]


Joined = Callable[[Harness], tuple[PageNode, Listener]]


@pytest.fixture
def join(domain_id: int) -> Iterator[Joined]:
    """join(agent) -> a page's node that has found it, and its listener."""
    started: list[PageNode] = []

    def start(agent: Harness) -> tuple[PageNode, Listener]:
        listener = Listener()
        page = PageNode("/ada3d_agent", listener, domain_id=domain_id)
        started.append(page)
        assert listener.told["status"]["text"].startswith("No robot yet")
        page.start()
        assert wait_until(lambda: listener.told["status"].get("ready", False), 30.0)
        return page, listener

    yield start
    for page in started:
        page.close()


def test_scene_questions_and_settings(start_agent: Callable[..., Harness], join: Joined) -> None:
    agent = start_agent()
    agent.publish_scene(1)
    page, told = join(agent)
    join(agent)  # a second page on this robot is a node of another name
    pages = [name for name in agent.node.get_node_names() if name.startswith("ada3d_page")]
    assert len(pages) == len(set(pages)) == 2

    # The scene: points, cameras with pictures; only while somebody looks.
    clouds = "/ada3d_agent/cloud"
    assert agent.node.count_subscribers(clouds) == 0
    page.watch(True)
    page.watch(True)
    assert wait_until(lambda: bool(told.points) and len(told.points[-1]) > 0, 30.0)
    xyz = np.frombuffer(told.points[-1][: len(told.points[-1]) // 15 * 12], "<f4")
    assert np.isfinite(xyz).all()
    assert wait_until(lambda: bool(told.told.get("pictures")), 30.0)
    view = told.told["keyframes"]["views"][0]
    assert told.told["pictures"][view["name"]].startswith(b"\xff\xd8")

    assert agent.node.count_subscribers(clouds) == 1
    page.watch(False)
    assert wait_until(lambda: agent.node.count_subscribers(clouds) == 0, 30.0)

    # A question: what it streams is what it ends with, as the service answers it.
    page.ask("t1", "What is there?", 0.0)
    ended = told.end_of("t1")
    assert ended["state"] == "done", ended
    assert ended["text"] in (told.deltas.get("t1", ""), told.deltas.get("t1", "").strip())
    assert len(told.kept["t1"]) == 12 * ended["tokens"]["kept"] == 12 * ended["kept"]
    answer = agent.call(QueryScene, "query", QueryScene.Request(question="What is there?")).answer
    assert answer.text == ended["text"]

    # That one was asked elsewhere; ours was not, though it came on ~/answer too.
    assert wait_until(lambda: len(told.others) == 1, 10.0)
    assert told.others[0][0] == "What is there?"
    assert told.others[0][1]["text"] == answer.text

    # A phrase that is not found, and a question that is none: sentences.
    page.find("t2", "the chair", 0.0)
    page.ask("t3", "   ", 0.0)
    page.ask("t4", "How?", 7.0)
    found = told.end_of("t2")
    assert (found["state"] == "done") == bool(found["boxes"])
    assert (found["state"] == "failed") == bool(found["error"])
    assert "empty" in told.end_of("t3")["error"]
    assert "keep_ratio = 7" in told.end_of("t4")["error"]
    assert len(told.others) == 1

    # Settings: those of the node, a change, a refusal.
    assert wait_until(lambda: told.told.get("settings", {}).get("strategy") == "none", 30.0)
    page.services.set_strategy("uniform")
    assert wait_until(lambda: told.told["settings"]["strategy"] == "uniform", 30.0)
    assert "uniform" in agent.call(GetModelInfo, "get_model_info", GetModelInfo.Request()).pruning
    page.services.set_strategy("guess")
    assert wait_until(lambda: "'guess'" in told.told["settings"].get("error", ""), 30.0)
    assert told.told["settings"]["strategy"] == "uniform"


def test_watches_and_scenes_by_the_nodes_services(
    start_agent: Callable[..., Harness], join: Joined, tmp_path: Path
) -> None:
    agent = start_agent(scripted("no", 0.0), **{"scene.store": str(tmp_path)})
    agent.publish_scene(1)
    page, told = join(agent)

    # A standing question, until it is ended; nonsense is refused.
    begun = page.services.begin_watch("ask", "Is the door open?", 0.0).result(30.0)
    assert begun == {"watch": "w1"}
    assert wait_until(lambda: bool(told.told.get("watches")), 30.0)
    watched = told.told["watches"][0]
    assert (watched["watch"], watched["kind"], watched["text"]) == ("w1", "question", "no")
    assert watched["question"] == "Is the door open?"
    refused = page.services.begin_watch("ask", "   ", 0.0).result(30.0)
    assert "question is empty" in refused["error"]
    assert (
        "is out of range" in page.services.begin_watch("ask", "Where?", 0.001).result(30.0)["error"]
    )
    assert "'w7' is none" in page.services.end_watch("w7").result(30.0)["error"]
    assert page.services.end_watch("w1").result(30.0) == {"ended": 1}
    assert wait_until(lambda: told.told["watches"] == [], 30.0)
    unsent = page.services.begin_watch("ask", "Is it \ud800?", 0.0).result(30.0)
    assert "cannot be sent" in unsent["error"]

    # Scenes: none yet, one that is saved, one that is none.
    assert page.services.list_scenes().result(30.0) == {"scenes": [], "in_use": ""}
    assert "has no name" in page.services.save_scene("").result(30.0)["error"]
    assert "'a/b'" in page.services.save_scene("a/b").result(30.0)["error"]
    saved = page.services.save_scene("kitchen").result(30.0)
    assert (saved["scene"], saved["keyframes"]) == ("kitchen", 1)
    listed = page.services.list_scenes().result(30.0)
    assert [(each["name"], each["keyframes"]) for each in listed["scenes"]] == [("kitchen", 1)]
    assert listed["in_use"] == "kitchen"
    assert listed["scenes"][0]["problem"] == ""
    assert "it has kitchen" in page.services.load_scene("hall").result(30.0)["error"]
    loaded = page.services.load_scene("kitchen").result(30.0)
    assert (loaded["scene"], loaded["keyframes"]) == ("kitchen", 1)


def test_what_waits_for_a_robot_that_goes_is_told(
    start_agent: Callable[..., Harness], join: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was sent; nothing stays open."""
    agent = start_agent()
    agent.publish_scene(1)
    page, _ = join(agent)
    monkeypatch.setattr("rclpy.client.Client.call_async", lambda client, request: Future())
    waiting = [page.services.list_scenes() for _ in range(MAX_OPEN)]
    assert page.services.save_scene("x").result(30.0)["error"] == TOO_MANY
    monkeypatch.setattr("ada3d_ros.ros.page_node.SILENT_S", 0.0)
    for each in waiting:
        assert each.result(30.0)["error"] == GONE


def test_a_question_is_stopped(start_agent: Callable[..., Harness], join: Joined) -> None:
    """While it is answered, and before it is accepted; what was said so far stays."""
    agent = start_agent(scripted("yes " * 500, 0.05), **{"generation.max_new_tokens": 400})
    agent.publish_scene(1)
    page, told = join(agent)
    page.ask("t1", "What is there?", 0.0)
    assert wait_until(lambda: "yes" in told.deltas.get("t1", ""), 30.0)
    page.stop("t1")
    assert told.end_of("t1")["state"] == "stopped"
    assert "yes" in told.end_of("t1")["text"]
    page.ask("t2", "Is there a chair?", 0.0)
    page.stop("t2")
    assert told.end_of("t2")["state"] == "stopped"
    page.stop("t2")  # once more, and one that never was
    page.stop("t9")
    page.ask("t3", "", 0.0)
    assert told.end_of("t3")["state"] == "failed"


@pytest.mark.parametrize("name", ["", "two words", "/1robot", "a//b"])
def test_a_name_that_is_none(name: str, domain_id: int) -> None:
    with pytest.raises(ConfigError, match="no name of a node"):
        PageNode(name, Listener(), domain_id=domain_id)


def test_a_robot_that_is_not_there(domain_id: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ada3d_ros.ros.page_node.FIND_S", 0.5)
    monkeypatch.setattr("ada3d_ros.ros.page_services.FIND_S", 0.5)
    listener = Listener()
    page = PageNode("/nobody", listener, domain_id=domain_id)
    page.start()
    try:
        page.ask("t1", "Is there anybody?", 0.0)
        page.find("t2", "the chair", 0.0)
        page.services.set_strategy("none")
        for turn in ("t1", "t2"):
            assert listener.end_of(turn)["state"] == "lost"
            assert "does not answer" in listener.end_of(turn)["error"]
        assert "does not answer" in listener.told["settings"]["error"]
        assert "does not answer" in page.services.list_scenes().result(30.0)["error"]
        assert listener.told["status"]["tone"] == "wait"
    finally:
        page.close()


def test_a_robot_of_another_name_is_named(
    start_agent: Callable[..., Harness], domain_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks for one that is not there is told which is."""
    start_agent()
    monkeypatch.setattr("ada3d_ros.ros.page_node.LOOK_S", 0.5)
    listener = Listener()
    page = PageNode("/robot1/ada3d_agent", listener, domain_id=domain_id)
    page.start()
    there = "/ada3d_agent is there: --node /ada3d_agent."
    try:
        assert wait_until(lambda: there in listener.told["status"]["faults"], 30.0)
        assert listener.told["status"]["faults"][0].startswith(
            "/robot1/ada3d_agent/status is silent;"
        )
        assert listener.told["status"]["text"].startswith("No robot yet")
    finally:
        page.close()


def test_what_cannot_be_sent_ends_and_blocks_nobody(
    start_agent: Callable[..., Harness], join: Joined
) -> None:
    agent = start_agent()
    agent.publish_scene(1)
    page, told = join(agent)
    page.ask("t1", "Is it \ud800?", 0.0)  # half of a surrogate pair: rclpy cannot encode it
    page.find("t2", "the \ud800", 0.0)
    page.ask("t3", "", 0.0)
    for turn in ("t1", "t2"):
        assert told.end_of(turn)["state"] == "failed"
        assert "cannot be sent" in told.end_of(turn)["error"]
    assert "empty" in told.end_of("t3")["error"]


def test_a_turn_without_a_sign_of_life_is_lost(
    start_agent: Callable[..., Harness], join: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of an agent that came back so soon that nobody missed it: it knows of no question."""
    agent = start_agent()
    agent.publish_scene(1)
    page, told = join(agent)
    monkeypatch.setattr("ada3d_ros.ros.page_node.FORGET_S", 0.5)
    monkeypatch.setattr("rclpy.client.Client.call_async", lambda client, request: Future())
    page.find("t1", "the chair", 0.0)
    assert told.end_of("t1")["state"] == "lost"

    # What others asked is shown again.
    monkeypatch.undo()
    agent.call(QueryScene, "query", QueryScene.Request(question="What is there?"))
    assert wait_until(lambda: len(told.others) == 1, 30.0)
