"""Pruning in the node: changing parameters, what answers and diagnostics say, what is refused."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.parameter import Parameter

from ada3d_ros.errors import ErrorCode
from ada3d_ros.msg import AgentStatus
from ada3d_ros.pruning.calibration import Calibration, write_calibration
from ada3d_ros.pruning.information import Masses
from ada3d_ros.ros.guard import CoreLog
from ada3d_ros.srv import GetModelInfo, GroundObject, QueryScene
from test.support.ros_harness import Harness, scripted, wait_until

Start = Callable[..., Harness]
TEXT = "It is there."
LAYERS = 4  # of the tiny model


def ask(question: str = "What is there?", **fields: Any) -> Any:
    return QueryScene.Request(question=question, **fields)


def set_one(agent: Harness, name: str, value: Any) -> Any:
    return agent.node.set_parameters([Parameter(name, value=value)])[0]


@pytest.fixture
def agent(start_agent: Start) -> Harness:
    """A node that prunes for each question, and a scene; its words alone are scripted."""
    harness = start_agent(
        scripted(TEXT), **{"pruning.strategy": "adatoken3d", "cache.prune": "question"}
    )
    harness.publish_scene(3)
    return harness


def write_curve(path: Path, layers: int = LAYERS) -> Path:
    """A calibration whose information falls with depth."""
    information = tuple(1.0 - i / (layers - 1) for i in range(layers))
    masses = tuple(
        Masses(s, 0.5 * s, 1 - s) for s in (0.7 - 0.5 * i / (layers - 1) for i in range(layers))
    )
    calibration = Calibration(
        "test",
        "",
        information,
        information,
        masses,
        information,
        {},
        {"mode": "mean", "value": 0.41},
        0.41,
        1,
    )
    return write_calibration(path, calibration)


def test_the_answer_says_what_was_kept(agent: Harness) -> None:
    tokens = agent.call(QueryScene, "query", ask()).answer.tokens
    assert tokens.strategy == "adatoken3d"
    assert 8 <= tokens.spatial_kept < tokens.spatial_total
    assert tokens.keep_ratio_achieved == pytest.approx(
        0.41, abs=1.5 / tokens.spatial_total * LAYERS
    )
    assert math.isnan(tokens.keep_ratio_requested)
    assert tokens.prefill_flops > 0
    full = agent.call(QueryScene, "query", ask(keep_ratio=1.0)).answer.tokens
    assert (full.spatial_kept, full.keep_ratio_achieved, full.strategy) == (
        full.spatial_total,
        1.0,
        "none",
    )
    assert full.keep_ratio_requested == 1.0
    assert full.prefill_flops > tokens.prefill_flops
    assert tokens.kv_bytes > full.kv_bytes > 0  # the selected keys are held beside the scene's
    grounded = agent.call(
        GroundObject, "ground", GroundObject.Request(phrase="the wall", keep_ratio=0.7)
    ).answer.tokens
    assert grounded.keep_ratio_achieved == pytest.approx(0.7, abs=0.02)
    assert grounded.keep_ratio_requested == pytest.approx(0.7)


@pytest.mark.parametrize(
    "strategy", ["voxel_dpp", "fastv", "pdrop", "logistic", "cond_dpp+adatoken3d", "none"]
)
def test_the_strategy_changes_while_the_node_runs(agent: Harness, strategy: str) -> None:
    assert set_one(agent, "pruning.keep_ratio", 0.6).successful
    assert set_one(agent, "pruning.strategy", strategy).successful
    answer = agent.call(QueryScene, "query", ask()).answer
    assert answer.success, answer.error_msg
    assert answer.tokens.strategy == strategy
    wanted = 1.0 if strategy == "none" else 0.6
    assert answer.tokens.keep_ratio_achieved == pytest.approx(wanted, abs=0.03)
    info = agent.call(GetModelInfo, "get_model_info")
    assert info.pruning == ("none" if strategy == "none" else f"{strategy} keep_ratio 0.6")


def test_a_change_does_not_touch_the_running_question(start_agent: Start) -> None:
    agent = start_agent(scripted("word " * 30, step_s=0.03), **{"generation.max_new_tokens": 30})
    agent.publish_scene(2)
    running = agent.call_async(QueryScene, "query", ask())
    assert wait_until(lambda: agent.node.worker.busy)
    assert set_one(agent, "pruning.keep_ratio", 0.55).successful
    assert set_one(agent, "pruning.strategy", "fastv").successful
    first = running().answer
    assert (first.success, first.tokens.strategy, first.tokens.keep_ratio_achieved) == (
        True,
        "none",
        1.0,
    )
    second = agent.call(QueryScene, "query", ask()).answer
    assert (second.success, second.tokens.strategy) == (True, "fastv")


def test_what_is_refused_and_changes_nothing(agent: Harness, tmp_path: Path) -> None:
    before = agent.node.config
    for name, value, said in [
        ("pruning.strategy", "adatoken", "did you mean 'adatoken3d'?"),
        ("pruning.strategy", "fastv+voxel_dpp", "cannot be joined so"),
        ("pruning.keep_ratio", 1e-5, "0.0001 to 1"),
        (
            "pruning.keep_ratio",
            0.2,
            "keep_ratio = 0.2 cannot be met on this decoder; allowed: 0.25 to 1",
        ),
        ("pruning.adatoken3d.prune_layers", "2,9", "prune layer 9 is not one of the decoder's"),
        ("pruning.adatoken3d.prune_layers", "two", "not of the expected form"),
        ("pruning.adatoken3d.schedule", "fitted", "calibration_file is empty"),
        (
            "pruning.strategy",
            "fastv",
            "keep_ratio = 0.41 cannot be met on this decoder; allowed: 0.5 to 1",
        ),
        ("pruning.fastv.k", 0, "1 to 1000"),
    ]:
        result = set_one(agent, name, value)
        assert not result.successful, name
        assert said in result.reason or "out of range" in result.reason, result.reason
    wrong = write_curve(tmp_path / "wrong.yaml", 7)
    pair = agent.node.set_parameters_atomically(
        [
            Parameter("pruning.adatoken3d.schedule", value="fitted"),
            Parameter("pruning.adatoken3d.calibration_file", value=str(wrong)),
        ]
    )
    assert not pair.successful
    assert "7 layers, this decoder has 4" in pair.reason
    assert agent.node.config == before
    assert agent.call(QueryScene, "query", ask()).answer.success


def test_a_keep_ratio_out_of_reach_is_answered(agent: Harness) -> None:
    for keep, said in [
        (0.1, "cannot be met on this decoder; allowed: 0.25 to 1"),
        (1.5, "0.0001 to 1"),
    ]:
        answer = agent.call(QueryScene, "query", ask(keep_ratio=keep)).answer
        assert answer.error_code == ErrorCode.INVALID_REQUEST
        assert said in answer.error_msg
    assert agent.call(QueryScene, "query", ask()).answer.success


def test_a_fitted_schedule_from_a_file(start_agent: Start, tmp_path: Path) -> None:
    """Configure fails on the missing file and says so; with the file the schedule is fitted."""
    file = tmp_path / "schedule.yaml"
    settings = {
        "pruning.strategy": "adatoken3d",
        "pruning.adatoken3d.schedule": "fitted",
        "pruning.adatoken3d.calibration_file": str(file),
        "pruning.keep_ratio": 0.6,
    }
    agent = start_agent(scripted(TEXT), **settings)
    state, detail = agent.node.state_and_detail()
    assert state == AgentStatus.ERROR
    assert f"no calibration file at {file}" in detail
    assert "ada3d calibrate" in detail
    write_curve(file)
    for step in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        request = ChangeState.Request(transition=Transition(id=step))
        assert agent.call(ChangeState, "change_state", request).success
    agent.publish_scene(2)
    answer = agent.call(QueryScene, "query", ask()).answer
    assert answer.success, answer.error_msg
    assert answer.tokens.keep_ratio_achieved == pytest.approx(0.6, abs=0.03)


def test_diagnostics_show_the_schedule_and_the_costs(agent: Harness) -> None:
    arrays = agent.collect(DiagnosticArray, "/diagnostics")
    answer = agent.call(QueryScene, "query", ask()).answer
    count = len(arrays)
    assert wait_until(lambda: len(arrays) > count + 1)
    status = next(s for s in arrays[-1].status if s.name.endswith("Pruning"))
    values = {kv.key: kv.value for kv in status.values}
    assert status.message == "adatoken3d keep_ratio 0.41"
    retention = [float(share) for share in values["retention_per_layer"].split()]
    assert len(retention) == LAYERS
    assert sum(retention) / LAYERS == pytest.approx(0.41, abs=2e-3)
    kept = [int(count) for count in values["last.kept_per_layer"].split()]
    assert (kept[0], kept[-1]) == (answer.tokens.spatial_total, answer.tokens.spatial_kept)
    assert float(values["last.prefill_gflop"]) == pytest.approx(
        answer.tokens.prefill_flops / 1e9, abs=2e-3
    )
    assert float(values["last.prefill_gflop"]) < float(values["last.unpruned_prefill_gflop"])
    attended, full, held = (
        float(values[f"last.{name}kv_mib"]) for name in ("attended_", "unpruned_", "")
    )
    assert attended < full < held
    assert 0 < float(values["last.coverage_0.5m"]) <= 1
    inference = next(s for s in arrays[-1].status if s.name.endswith("Inference"))
    assert float({kv.key: kv.value for kv in inference.values}["rank_ms_p50"]) > 0


def test_warnings_of_the_core_reach_the_nodes_log() -> None:
    said: list[str] = []
    log = CoreLog(said.append)
    core = logging.getLogger("ada3d_ros.pruning.policy")
    core.warning("%d tokens", 3)
    core.warning("%d tokens", 4)  # the same line within ten seconds
    core.info("not this")
    log.close()
    core.warning("after closing")
    assert said == ["3 tokens"]


def test_a_calibration_file_that_goes_missing_blocks_nothing_else(
    start_agent: Start, tmp_path: Path
) -> None:
    """It refused every parameter, and the diagnostics lost what the last answer cost."""
    file = write_curve(tmp_path / "schedule.yaml")
    agent = start_agent(
        scripted(TEXT),
        **{
            "pruning.strategy": "adatoken3d",
            "pruning.adatoken3d.schedule": "fitted",
            "pruning.adatoken3d.calibration_file": str(file),
        },
    )
    agent.publish_scene(2)
    file.unlink()
    assert set_one(agent, "sync.slop_sec", 0.03).successful
    assert "no calibration file" in set_one(agent, "pruning.keep_ratio", 0.5).reason
    arrays = agent.collect(DiagnosticArray, "/diagnostics")
    assert agent.call(QueryScene, "query", ask()).answer.success
    count = len(arrays)
    assert wait_until(lambda: len(arrays) > count + 1)
    values = {
        kv.key: kv.value for s in arrays[-1].status if s.name.endswith("Pruning") for kv in s.values
    }
    assert len(values["retention_per_layer"].split()) == LAYERS
    assert "last.kept_per_layer" in values


def test_a_keep_ratio_is_what_the_caller_wrote(agent: Harness) -> None:
    """0.7 in 32 bits is 0.699999988: a token less of a thousand, below a pre_keep_ratio of 0.7."""
    assert set_one(agent, "pruning.pre_keep_ratio", 0.7).successful
    assert set_one(agent, "pruning.strategy", "uniform+adatoken3d").successful
    tokens = agent.call(QueryScene, "query", ask(keep_ratio=0.7)).answer.tokens
    assert tokens.spatial_kept == math.floor(0.7 * tokens.spatial_total + 1e-9)
