"""A checkpoint without its CLIP tower: every command and the launch file can name the tower."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from ada3d_ros.cli import VERBS, main
from ada3d_ros.config import SETTINGS, VISION_SETTING, as_options
from ada3d_ros.msg import AgentStatus
from ada3d_ros.srv import GetModelInfo
from test.support.checkpoints import move_tower, tensors_of, write_tensors
from test.support.ros_harness import Harness, wait_until

LAUNCH = Path(__file__).resolve().parents[2] / "launch" / "agent.launch.py"
HELP = {"eval": ["eval", "synthetic"]}


@pytest.fixture
def towerless(tiny_model: Path, tmp_path: Path) -> tuple[str, str]:
    """The folders of a checkpoint without tower, and of the tower."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    return str(folder), str(move_tower(folder, tmp_path / "clip"))


def help_of(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main([*HELP.get(verb, [verb]), "--help"])
    return capsys.readouterr().out


def test_every_verb_with_a_model_takes_its_tower(capsys: pytest.CaptureFixture[str]) -> None:
    helps = {verb: help_of(verb, capsys) for verb in VERBS if verb != "agent"}
    with_model = {verb for verb, text in helps.items() if "--model " in text}
    assert with_model >= {"doctor", "eval", "calibrate", "analyze", "demo", "bench-node"}
    assert {verb for verb in with_model if "--vision-path FOLDER" not in helps[verb]} == set()


def test_doctor(towerless: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    folder, clip = towerless
    command = ["doctor", "--no-graph", "--model", folder]
    assert main([*command, "--vision-path", clip]) == 0
    assert "ok        model: model: backbone llava3d, 2.5 M parameters" in capsys.readouterr().out
    assert main(command) == 1
    text = capsys.readouterr().out
    assert "holds no vision tower" in text
    assert "set --vision-path to" in text
    assert "model.vision_path" not in text


@pytest.mark.parametrize(
    "command",
    [
        ["eval", "synthetic", "--scenes", "1"],
        ["calibrate", "room:0", "--out", "OUT/schedule.yaml"],
        ["analyze", "room:0", "--out", "OUT/figures"],
        ["bench-node", "--seconds", "0.1"],
        ["demo", "--out", "OUT/demo"],
    ],
)
def test_without_it_a_text_names_the_option_of_the_command(
    towerless: tuple[str, str],
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [part.replace("OUT", str(tmp_path)) for part in command]
    assert main([*given, "--model", towerless[0]]) in (1, 2)
    text = capsys.readouterr().err
    assert "set --vision-path to a local folder" in text
    assert "model.vision_path" not in text


def test_with_it_a_model_is_measured(towerless: tuple[str, str], tmp_path: Path) -> None:
    folder, clip = towerless
    model = ["--model", folder, "--vision-path", clip]
    assert main(["eval", "synthetic", "--scenes", "1", *model]) == 0
    out = tmp_path / "schedule.yaml"
    assert main(["calibrate", "room:0", *model, "--out", str(out)]) == 0
    assert "tower:" in out.read_text()  # what it was measured on


def test_the_node_says_which_tower_it_answers_with(
    start_agent: Callable[..., Harness], towerless: tuple[str, str]
) -> None:
    folder, clip = towerless
    seen = []
    for _ in range(2):
        agent = start_agent(**{"model.path": folder, "model.vision_path": clip})
        assert agent.ready()
        seen.append(agent.call(GetModelInfo, "get_model_info").sha256)
        agent.close()  # two nodes of one name: either could answer the next call
        write_tensors(Path(clip), {k: t * 2 for k, t in tensors_of(Path(clip)).items()})
    assert seen[0].split()[0] == seen[1].split()[0]
    assert seen[0] != seen[1]


def test_without_it_the_node_names_the_parameter_and_the_launch_argument(
    start_agent: Callable[..., Harness], towerless: tuple[str, str]
) -> None:
    agent = start_agent(**{"model.path": towerless[0]})
    assert wait_until(lambda: agent.node.state_and_detail()[0] == AgentStatus.ERROR)
    detail = agent.node.state_and_detail()[1]
    assert "set model.vision_path (at launch: vision_path:=FOLDER) to a local folder" in detail


def test_options_stand_for_settings() -> None:
    assert as_options(f"set {VISION_SETTING} to X") == "set --vision-path to X"
    assert as_options("model.path is empty") == "--model is empty"


def test_the_launch_file_has_the_argument() -> None:
    """Its overrides are settings, and each is an argument."""
    tree = ast.parse(LAUNCH.read_text(encoding="utf-8"))
    values: dict[str, Any] = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    overrides = ast.literal_eval(values["OVERRIDES"])
    arguments = [
        call.args[0].value
        for call in values["ARGUMENTS"].elts  # argument("name", ...)
    ]
    assert overrides["vision_path"] == "model.vision_path"
    assert set(overrides.values()) <= {s.name for s in SETTINGS.values()}
    assert set(overrides) <= set(arguments)
