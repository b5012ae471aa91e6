"""The program of docs/how-to/use-nav2.md, run with stand-ins for nav2 and the agent."""

from __future__ import annotations

import re
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from test.support.sources import ROOT

PAGE = ROOT / "docs" / "how-to" / "use-nav2.md"
MISSING = "no box for 'the red chair'"


class Stage:
    """What the program imports; `goal`: what the agent sends with its answer, None for nothing."""

    def __init__(self, success: bool, goal: str | None) -> None:
        self.success, self.goal, self.now_s = success, goal, 0.0
        self.driven: list[str] = []
        self.listener: Any = None
        stage = self

        class Navigator:
            def create_subscription(self, kind: Any, topic: str, work: Any, depth: int) -> None:
                assert topic == "/ada3d_agent/goal"
                stage.listener = work
                work("an old goal")  # somebody asked before

            def create_client(self, kind: Any, name: str) -> Any:
                assert name == "/ada3d_agent/ground"
                answer = SimpleNamespace(success=stage.success, error_msg=MISSING)
                future = SimpleNamespace(result=lambda: answer)
                return SimpleNamespace(
                    wait_for_service=lambda: True, call_async=lambda request: future
                )

            def goToPose(self, goal: str) -> None:
                stage.driven.append(goal)

        self.modules: dict[str, Any] = {
            "rclpy": SimpleNamespace(
                init=lambda: None,
                spin_until_future_complete=lambda node, future: None,
                spin_once=self.spin_once,
            ),
            "geometry_msgs": ModuleType("geometry_msgs"),
            "geometry_msgs.msg": SimpleNamespace(PoseStamped=object),
            "nav2_simple_commander": ModuleType("nav2_simple_commander"),
            "nav2_simple_commander.robot_navigator": SimpleNamespace(BasicNavigator=Navigator),
            "ada3d_ros.srv": SimpleNamespace(
                GroundObject=SimpleNamespace(Request=lambda phrase: phrase)
            ),
            "time": SimpleNamespace(monotonic=lambda: self.now_s),
        }

    def spin_once(self, node: Any, timeout_sec: float) -> None:
        self.now_s += timeout_sec
        if self.goal is not None:
            self.listener(self.goal)


def run(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    code = compile(found[1], str(PAGE), "exec")
    for name, module in stage.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    exec(code, {})


def test_it_drives_to_the_goal_of_its_own_question(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(success=True, goal="beside the chair")
    run(stage, monkeypatch)
    assert stage.driven == ["beside the chair"]


@pytest.mark.parametrize(("success", "says"), [(True, "no free floor beside it"), (False, MISSING)])
def test_it_ends_where_there_is_nowhere_to_go(
    success: bool, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(success, goal=None)
    with pytest.raises(SystemExit, match=says):
        run(stage, monkeypatch)
    assert stage.driven == []
    assert stage.now_s <= 5.2
