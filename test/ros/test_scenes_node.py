"""A node whose scene survives: restart, names, other rooms, and a store in trouble."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from rclpy.qos import DurabilityPolicy, QoSProfile
from std_srvs.srv import Trigger

from ada3d_ros.errors import ErrorCode
from ada3d_ros.msg import AgentStatus
from ada3d_ros.ros.scene_client import main as scene_command
from ada3d_ros.ros.standing import ASIDE, KEY
from ada3d_ros.srv import GroundObject, ListScenes, LoadScene, QueryScene, SaveScene, Watch
from ada3d_ros.store.named_scenes import NamedScenes
from ada3d_ros.store.scene_index import SceneIndex
from test.support.ros_harness import Harness, wait_until

Start = Callable[..., Harness]
LIMIT_S = 60.0
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture
def start(start_agent: Start, tmp_path: Path) -> Start:
    """A node with an exact store; the one before it is closed."""
    running: list[Harness] = []

    def started(**parameters: Any) -> Harness:
        for agent in running:
            agent.close()
        defaults = {"scene.autosave": str(tmp_path), "scene.images": "lossless"}
        if "scene.store" in parameters:
            del defaults["scene.autosave"]
        agent = start_agent(**(defaults | parameters))
        running.append(agent)
        assert agent.ready()
        return agent

    return started


def seen(agent: Harness, count: int, first_s: int = 1) -> None:
    agent.publish_scene(count, first_s=first_s)
    newest_ns = (first_s + count - 1) * 1_000_000_000
    assert wait_until(lambda: agent.node.pipeline.scene_state().newest_ns == newest_ns, LIMIT_S)


def ask(agent: Harness, question: str = "What is there?", scene: str = "") -> Any:
    request = QueryScene.Request(question=question, scene=scene)
    return agent.call(QueryScene, "query", request, LIMIT_S).answer


def save(agent: Harness, scene: str = "") -> Any:
    return agent.call(SaveScene, "save_scene", SaveScene.Request(scene=scene), LIMIT_S)


def load(agent: Harness, scene: str) -> Any:
    return agent.call(LoadScene, "load_scene", LoadScene.Request(scene=scene), LIMIT_S)


def listed(agent: Harness) -> tuple[list[tuple[str, int, int]], str]:
    """Name, keyframes and newest second of each scene of the store; the name in use."""
    told = agent.call(ListScenes, "list_scenes", ListScenes.Request(), LIMIT_S)
    assert told.success, told.error_msg
    scenes = [(each.name, each.keyframes, each.newest.sec) for each in told.scenes]
    return scenes, told.scene_in_use


def watch(agent: Harness, question: str = "What is there?") -> Any:
    request = Watch.Request(question=question, min_period_sec=60.0)
    return agent.call(Watch, "watch", request, LIMIT_S)


def status_says(agent: Harness, *words: str) -> bool:
    statuses = agent.collect(AgentStatus, "/ada3d_agent/status", LATCHED)
    return wait_until(
        lambda: any(
            all(word in " ".join([s.detail, *s.faults]) for word in words) for s in statuses
        ),
        LIMIT_S,
    )


def test_after_a_restart_it_answers_the_same_and_goes_on(start: Start, tmp_path: Path) -> None:
    agent = start(**{"scene.name": "kitchen"})
    seen(agent, 4)
    before = ask(agent)
    assert before.success, before.error_msg
    assert before.scene == "kitchen"
    assert agent.call(Trigger, "reset_scene").success  # an epoch that is not the first
    seen(agent, 4, first_s=10)
    before = ask(agent)

    # Ended without being asked to save.
    again = start(**{"scene.name": "kitchen"})
    after = ask(again)
    assert after.success, after.error_msg
    assert (after.text, after.confidence) == (before.text, before.confidence)
    assert (after.scene, after.scene_epoch) == ("kitchen", 1)
    assert after.scene_version == before.scene_version
    assert after.keyframe_stamps == before.keyframe_stamps
    assert status_says(again, "scene 'kitchen' was loaded, 4 keyframes", "ago")

    # What comes is appended; what was seen before the reset is in the store.
    seen(again, 1, first_s=20)
    assert [k.index for k in again.node.pipeline.scene.keyframes] == [4, 5, 6, 7, 8]
    saved = save(again)
    assert (saved.success, saved.scene, saved.keyframes) == (True, "kitchen", 9)
    assert saved.path == str(tmp_path / "kitchen")
    asked = [row.text for row in NamedScenes(tmp_path).answers("kitchen")]
    assert asked.count(before.text) >= 2


def test_scenes_have_names_and_a_question_may_name_one(start: Start, tmp_path: Path) -> None:
    agent = start(**{"scene.store": str(tmp_path)})
    seen(agent, 3)
    assert listed(agent) == ([], "")
    assert save(agent).error_code == ErrorCode.INVALID_REQUEST  # it has no name yet
    assert save(agent, "kitchen").success
    kitchen = ask(agent)
    assert kitchen.scene == "kitchen"  # now it has
    assert listed(agent) == ([("kitchen", 3, 3)], "kitchen")

    # Another place.
    assert agent.call(Trigger, "reset_scene").success
    seen(agent, 2, first_s=30)
    assert save(agent, "hall").success
    assert NamedScenes(tmp_path).names() == ("hall", "kitchen")
    hall = ask(agent)
    assert len(hall.keyframe_stamps) == 2

    # The kitchen as it was saved, while the hall is in use; and the one in use by its own name.
    other = ask(agent, scene="hall")
    assert other.success, other.error_msg
    assert (other.scene, len(other.keyframe_stamps)) == ("hall", 2)
    request = GroundObject.Request(phrase="the chair", scene="attic")
    refused = agent.call(GroundObject, "ground", request, LIMIT_S)
    assert refused.error_code == ErrorCode.UNKNOWN_SCENE
    assert "hall, kitchen" in refused.error_msg

    # Load one in the place of the other.
    loaded = load(agent, "hall")
    assert (loaded.success, loaded.keyframes) == (True, 2), loaded.error_msg
    assert ask(agent).text == hall.text
    named = ask(agent, scene="kitchen")
    assert (named.scene, named.success) == ("kitchen", True), named.error_msg
    assert ask(agent).scene == "hall"


@pytest.mark.parametrize(
    "name", ["a/b", "..", ".hidden", "-all", "x" * 300, "two words", "ö"], ids=lambda name: name[:9]
)
def test_a_name_that_is_none_is_refused(start: Start, name: str) -> None:
    agent = start()
    seen(agent, 2)
    for response in (save(agent, name), load(agent, name), ask(agent, scene=name)):
        assert response.error_code == ErrorCode.INVALID_REQUEST
        assert "allowed: 1 to 64 letters, digits, _ and -" in response.error_msg
    assert load(agent, "").error_code == ErrorCode.INVALID_REQUEST
    assert ask(agent).success


def test_two_nodes_on_one_scene_are_told(start: Start, tmp_path: Path) -> None:
    first = start(**{"scene.name": "kitchen"})
    seen(first, 2)
    assert save(first).success
    first.close()
    with NamedScenes(tmp_path).open("kitchen", "map"):  # another process has it
        second = start(**{"scene.name": "kitchen"})
        assert status_says(second, "is being written by another process")
        assert len(ask(second).keyframe_stamps) == 2  # it goes on with what is there
        refused = save(second)
        assert refused.error_code == ErrorCode.STORE_ERROR
        assert "two nodes cannot share one" in refused.error_msg
        stands = watch(second)
        assert stands.success
        assert "it will not be there after a restart: the scene at" in stands.note

    # The other one has ended: it is saved from now on, and what came meanwhile too.
    assert wait_until(lambda: not second.node.scenes.problem, LIMIT_S)
    assert watch(second).note == ""
    seen(second, 1, first_s=20)
    assert save(second).keyframes == 3
    kept = NamedScenes(tmp_path).read("kitchen").states[KEY]
    assert '"watch_id": "w1"' in kept


def test_a_store_that_is_full_at_the_start_is_written_once_there_is_room(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    agent = start(**{"scene.name": "kitchen"})
    assert status_says(agent, "no room left for the store", "not saved")
    seen(agent, 2)
    assert ask(agent).success
    assert save(agent, "attic").error_code == ErrorCode.STORE_ERROR
    assert list(tmp_path.iterdir()) == []  # nothing that looks like a scene
    monkeypatch.undo()
    assert wait_until(lambda: not agent.node.scenes.problem, LIMIT_S)
    assert wait_until(lambda: agent.node.scenes.report()["scene.keyframes_waiting"] == 0, LIMIT_S)
    assert NamedScenes(tmp_path).summary("kitchen").keyframes == 2


def test_a_store_that_is_taken_away_is_begun_anew_once_it_may_be(
    start: Start, tmp_path: Path
) -> None:
    agent = start(**{"scene.name": "kitchen"})
    seen(agent, 2)
    assert save(agent).success
    stands = watch(agent)
    assert (stands.success, stands.note) == (True, "")
    away = tmp_path.with_name("taken out")
    tmp_path.rename(away)
    tmp_path.write_text("no folder")
    seen(agent, 1, first_s=20)
    assert status_says(agent, f"the store at {tmp_path / 'kitchen'} is gone: its folder was moved")
    assert ask(agent).success
    tmp_path.unlink()
    assert wait_until(lambda: not agent.node.scenes.problem, LIMIT_S)
    assert save(agent).keyframes == 3
    assert '"watch_id": "w1"' in NamedScenes(tmp_path).read("kitchen").states[KEY]
    assert NamedScenes(away).summary("kitchen").keyframes == 2


def test_a_scene_of_another_map_is_not_used(start: Start, tmp_path: Path) -> None:
    first = start(**{"scene.name": "kitchen"})
    seen(first, 2)
    assert save(first).success
    second = start(**{"scene.name": "kitchen", "world_frame": "odom"})
    assert status_says(second, "is posed in 'map', this node's world_frame is 'odom'")
    assert second.node.pipeline.scene_state().num_keyframes == 0
    refused = load(second, "kitchen")
    assert refused.error_code == ErrorCode.STORE_ERROR
    assert "'map'" in refused.error_msg
    assert "'odom'" in refused.error_msg


def test_without_a_store_it_says_so(start: Start) -> None:
    agent = start(**{"scene.autosave": ""})
    seen(agent, 2)
    assert save(agent, "kitchen").error_code == ErrorCode.STORE_ERROR
    for response in (load(agent, "kitchen"), ask(agent, scene="kitchen")):
        assert response.error_code == ErrorCode.UNKNOWN_SCENE
        assert "scene.autosave" in response.error_msg
    assert ask(agent).scene == ""
    stands = watch(agent)
    assert stands.success
    assert "this node has no store. Set scene.autosave" in stands.note


def test_standing_questions_that_cannot_be_read_are_told_and_set_aside(
    start: Start, tmp_path: Path
) -> None:
    agent = start(**{"scene.name": "kitchen"})
    seen(agent, 2)
    assert watch(agent).success
    assert save(agent).success
    agent.close()
    with NamedScenes(tmp_path).open("kitchen", "map") as folder:
        folder.put_state(KEY, '{"format": 2, "questions": []}')
    again = start(**{"scene.name": "kitchen"})
    assert status_says(again, "scene 'kitchen': its standing questions cannot be read", "format 2")
    assert again.node.standing.to_msgs() == []
    assert watch(again).watch_id == "w1"
    assert save(again).success
    states = NamedScenes(tmp_path).read("kitchen").states
    assert states[ASIDE] == '{"format": 2, "questions": []}'
    assert '"watch_id": "w1"' in states[KEY]


def test_a_damaged_scene_is_loaded_in_part_or_not_at_all(start: Start, tmp_path: Path) -> None:
    agent = start(**{"scene.name": "kitchen"})
    seen(agent, 3)
    assert save(agent, "hall").success
    first, *rest = sorted((tmp_path / "hall" / "keyframes").iterdir())
    first.write_bytes(first.read_bytes()[:100])
    loaded = load(agent, "hall")
    assert (loaded.success, loaded.keyframes) == (True, 2)
    assert f"the keyframe {first} is left out, it is damaged" in loaded.note
    assert status_says(agent, f"the keyframe {first} is left out")

    # Nothing of it is left: what is in use stays.
    assert load(agent, "kitchen").note == ""
    for segment in rest:
        segment.write_bytes(segment.read_bytes()[:100])
    refused = load(agent, "hall")
    assert (refused.success, refused.error_code) == (False, ErrorCode.STORE_ERROR)
    assert "scene 'hall' is not loaded, none of its 2 keyframes in use" in refused.error_msg
    answer = ask(agent)
    assert (answer.scene, len(answer.keyframe_stamps)) == ("kitchen", 3)


def test_a_clock_behind_the_saved_scene_is_waited_for(start: Start) -> None:
    first = start(**{"scene.name": "kitchen"})
    seen(first, 3, first_s=100_000)
    second = start(**{"scene.name": "kitchen"})
    second.publish_frame(50 * 1_000_000_000, x_m=3.0)
    assert wait_until(lambda: second.drops().get("backward_stamp") == 1, LIMIT_S)
    assert second.node.pipeline.scene_state().num_keyframes == 3
    assert ask(second).success

    # The clock is set, days ahead: that is no other recording.
    later_ns = 500_000 * 1_000_000_000
    second.publish_frame(later_ns, x_m=3.0)
    assert wait_until(lambda: second.node.pipeline.scene_state().newest_ns == later_ns, LIMIT_S)
    state = second.node.pipeline.scene_state()
    assert (state.num_keyframes, state.epoch) == (4, 0)


def test_a_disk_that_fills_up_is_told_and_the_node_serves_on(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = start(**{"scene.name": "kitchen"})
    seen(agent, 2)
    assert save(agent).success

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    state = agent.node.pipeline.scene_state
    for second, count in ((10, 3), (11, 4)):
        agent.publish_frame(second * 1_000_000_000, x_m=float(second))
        assert wait_until(lambda n=count: state().num_keyframes == n, LIMIT_S)
    assert status_says(agent, "no room left for the store", "not saved")
    assert ask(agent).success
    refused = save(agent)
    assert (refused.success, refused.error_code) == (False, ErrorCode.STORE_ERROR)
    assert agent.node.scenes.report()["scene.keyframes_waiting"] == 2
    monkeypatch.undo()
    assert save(agent).keyframes == 4
    assert wait_until(lambda: not agent.node.scenes.problem, LIMIT_S)


def test_the_command_saves_loads_and_resets(
    start: Start,
    domain_id: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain_id))
    agent = start(**{"scene.name": "hall"})
    seen(agent, 2)

    def run(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = scene_command(words)
        return code, capsys.readouterr().out.strip()

    assert run("save", "kitchen") == (
        0,
        f"saved 'kitchen': 2 keyframes, 0 objects, in {tmp_path / 'kitchen'}",
    )
    assert run("load", "kitchen") == (0, "'kitchen' is in use: 2 keyframes, 0 objects")
    code, said = run("load", "attic")
    assert code == 1
    assert said.startswith("UNKNOWN_SCENE (21021): no scene 'attic'")
    assert run("reset") == (0, "the scene starts anew.")
    assert agent.node.pipeline.scene_state().num_keyframes == 0
    for words in (("load",), ("reset", "kitchen")):
        with pytest.raises(SystemExit):
            scene_command(words)


def test_a_scene_saved_once_holds_the_standing_questions(start: Start, tmp_path: Path) -> None:
    agent = start(**{"scene.store": str(tmp_path)})
    seen(agent, 2)
    stands = watch(agent)
    assert stands.success
    assert "the scene is not saved by itself. Call ~/save_scene now" in stands.note
    assert save(agent, "kitchen").success

    again = start(**{"scene.store": str(tmp_path), "scene.name": "kitchen"})
    assert wait_until(lambda: list(again.node.standing.questions) == ["w1"], LIMIT_S)
    assert again.node.standing.questions["w1"].question == "What is there?"

    # Saved once more; a copy under another name has none.
    assert watch(again, "Is there a chair?").watch_id == "w2"
    assert "chair" not in NamedScenes(tmp_path).read("kitchen").states[KEY]
    assert save(again).success
    assert save(again, "attic").success
    assert "chair" in NamedScenes(tmp_path).read("kitchen").states[KEY]
    assert KEY not in NamedScenes(tmp_path).read("attic").states


def test_the_executor_waits_for_no_disk_where_questions_come_with_their_scene(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = start(**{"scene.store": str(tmp_path)})
    seen(agent, 2)
    assert watch(agent).success
    opened, open_index = set[str](), SceneIndex.__init__

    def open_here(index: SceneIndex, *args: Any, **kwargs: Any) -> None:
        opened.add(threading.current_thread().name)
        open_index(index, *args, **kwargs)

    monkeypatch.setattr(SceneIndex, "__init__", open_here)
    assert save(agent, "kitchen").success
    assert save(agent, "attic").success
    for name, standing in (("attic", []), ("kitchen", ["w1"])):
        assert load(agent, name).success
        assert list(agent.node.standing.questions) == standing  # at once: no timer is waited for
    assert opened == {"ada3d-scenes"}


def test_a_save_that_fails_lets_go_of_the_folder(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = start(**{"scene.store": str(tmp_path)})
    seen(agent, 2)

    def fail(*args: Any) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr("ada3d_ros.store.writer.SceneWriter.flush", fail)
    refused = save(agent, "kitchen")
    assert (refused.success, "no memory" in refused.error_msg) == (False, True)
    assert NamedScenes(tmp_path).names() == ()
    monkeypatch.undo()
    assert save(agent, "kitchen").success
