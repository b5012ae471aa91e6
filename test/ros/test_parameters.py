"""ROS parameters: declared with description, unit and range; changes are checked, then applied."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.msg import ParameterDescriptor, ParameterType, ParameterValue
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.parameter import Parameter

from ada3d_ros.config import SETTINGS, Setting, to_flat
from ada3d_ros.msg import AgentStatus
from ada3d_ros.ros.node import build_node
from ada3d_ros.ros.parameters import descriptor
from ada3d_ros.srv import QueryScene
from test.support.ros_harness import Harness, agent_of_its_own, wait_until

Start = Callable[..., Harness]
GIVEN = {
    "model.path",
    "autostart",
    "generation.max_new_tokens",
    "input.max_age_sec",
    "pruning.strategy",
}  # by the harness


@pytest.fixture(scope="module")
def agent(tiny_model: Path) -> Iterator[Harness]:
    """One configured and active agent; tests put back what they change."""
    with agent_of_its_own(tiny_model) as harness:
        yield harness


def set_one(agent: Harness, name: str, value: Any) -> Any:
    """Over DDS, as `ros2 param set` does."""
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    return agent.call(SetParameters, "set_parameters", request).results[0]


def ids(setting: Setting) -> str:
    return setting.name


def test_every_setting_is_declared_and_nothing_else(agent: Harness) -> None:
    listed = set(agent.call(ListParameters, "list_parameters").result.names)
    foreign = {n for n in listed - set(SETTINGS) if not n.startswith("qos_overrides.")}
    assert set(SETTINGS) <= listed
    assert foreign <= {"use_sim_time", "start_type_description_service"}


def test_descriptors_over_dds_tell_description_unit_and_range(agent: Harness) -> None:
    names = list(SETTINGS)
    answer = agent.call(
        DescribeParameters, "describe_parameters", DescribeParameters.Request(names=names)
    )
    for setting, told in zip(SETTINGS.values(), answer.descriptors, strict=True):
        assert told.name == setting.name
        assert setting.description in told.description
        assert f"[{setting.unit}]" in told.description or not setting.unit
        assert all(choice in told.description for choice in setting.choices)
        assert ("fixed while configured" in told.description) == setting.read_only
        # The middleware's flag would forbid it for ever, not only while configured.
        assert not told.read_only
        low_high = [
            (r.from_value, r.to_value) for r in (*told.floating_point_range, *told.integer_range)
        ]
        if type(setting.default) in (int, float):
            assert low_high == [(setting.low, setting.high)]
        else:
            assert low_high == []


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=ids)
def test_the_descriptor_is_a_valid_message(setting: Setting) -> None:
    result = descriptor(setting)
    assert isinstance(result, ParameterDescriptor)
    assert len(result.floating_point_range) == (type(setting.default) is float)
    assert len(result.integer_range) == (type(setting.default) is int)


def test_values_over_dds_are_the_configs(agent: Harness) -> None:
    answer = agent.call(
        GetParameters, "get_parameters", GetParameters.Request(names=list(SETTINGS))
    )
    kinds = {
        bool: (ParameterType.PARAMETER_BOOL, "bool_value"),
        int: (ParameterType.PARAMETER_INTEGER, "integer_value"),
        float: (ParameterType.PARAMETER_DOUBLE, "double_value"),
        str: (ParameterType.PARAMETER_STRING, "string_value"),
        tuple: (ParameterType.PARAMETER_DOUBLE_ARRAY, "double_array_value"),
    }
    current = to_flat(agent.node.config)
    for setting, value in zip(SETTINGS.values(), answer.values, strict=True):
        kind, field = kinds[type(setting.default)]
        assert value.type == kind, setting.name
        told = getattr(value, field)
        told = tuple(told) if isinstance(setting.default, tuple) else told
        assert told == current[setting.name]
        if setting.name not in GIVEN:
            assert told == setting.default


READ_ONLY = [s for s in SETTINGS.values() if s.read_only]


ANOTHER = {
    "world.floor_z": "1.5",
    "extrinsic.xyz": [1.0, 0.0, 0.0],
    "extrinsic.quat_xyzw": [1.0, 0.0, 0.0, 0.0],
    "model.device": "cuda",
    "detector.device": "cuda",
    "detector.threads": 2,
    "model.revision_sha256": "a" * 64,
    "model.remote": "http://localhost:8000",
}


def another_value(setting: Setting, current: Any) -> Any:
    if setting.name in ANOTHER:
        return ANOTHER[setting.name]
    if setting.choices:
        return next(choice for choice in setting.choices if choice != current)
    if isinstance(current, float):
        return current + 1.0
    return not current if isinstance(current, bool) else "other"


@pytest.mark.parametrize("setting", READ_ONLY, ids=ids)
def test_what_is_fixed_while_configured(agent: Harness, setting: Setting) -> None:
    before = to_flat(agent.node.config)
    result = set_one(agent, setting.name, another_value(setting, before[setting.name]))
    assert not result.successful
    assert setting.name in result.reason
    assert "cleanup" in result.reason
    assert to_flat(agent.node.config) == before


@pytest.mark.parametrize("setting", READ_ONLY, ids=ids)
def test_the_same_value_again_is_no_change(agent: Harness, setting: Setting) -> None:
    """`ros2 param load` of the file that the node started with; lists were taken for new values."""
    value = to_flat(agent.node.config)[setting.name]
    result = set_one(agent, setting.name, list(value) if isinstance(value, tuple) else value)
    assert result.successful, result.reason


DYNAMIC = [s for s in SETTINGS.values() if not s.read_only and type(s.default) in (int, float)]


@pytest.mark.parametrize("setting", DYNAMIC, ids=ids)
def test_dynamic_numbers_change_within_their_range_only(agent: Harness, setting: Setting) -> None:
    before = to_flat(agent.node.config)[setting.name]
    kind = type(setting.default)
    assert setting.low is not None
    assert setting.high is not None
    for bad in (
        kind(setting.high) * 2 + 1,
        kind(setting.low) - 1,
        float("nan"),
        "many",
        True,
        [1.0, 2.0],
    ):
        result = set_one(agent, setting.name, bad)
        assert not result.successful, bad
        assert setting.name in result.reason
    assert to_flat(agent.node.config)[setting.name] == before
    good = kind(setting.high) if setting.name not in ("depth.min_m",) else 0.2
    assert set_one(agent, setting.name, good).successful
    assert to_flat(agent.node.config)[setting.name] == good
    assert set_one(agent, setting.name, before).successful


def test_an_int_for_a_float_and_back(agent: Harness) -> None:
    """`ros2 param set ... pose.timeout_sec 1` sends an integer."""
    assert set_one(agent, "pose.timeout_sec", 1).successful
    assert agent.node.config.pose.timeout_sec == 1.0
    assert set_one(agent, "pose.timeout_sec", 0.2).successful


def test_a_parameter_cannot_be_unset(agent: Harness) -> None:
    nothing = ParameterMsg(
        name="sync.slop_sec", value=ParameterValue(type=ParameterType.PARAMETER_NOT_SET)
    )
    result = agent.call(
        SetParameters, "set_parameters", SetParameters.Request(parameters=[nothing])
    ).results[0]
    assert not result.successful
    assert agent.node.has_parameter("sync.slop_sec")


def test_several_at_once_are_judged_together(agent: Harness) -> None:
    def atomically(**values: Any) -> Any:
        parameters = [
            Parameter(name.replace("__", "."), value=v).to_parameter_msg()
            for name, v in values.items()
        ]
        request = SetParametersAtomically.Request(parameters=parameters)
        return agent.call(SetParametersAtomically, "set_parameters_atomically", request).result

    # Either alone would be wrong.
    assert atomically(depth__min_m=20.0, depth__max_m=30.0).successful
    assert agent.node.config.depth.min_m == 20.0
    assert atomically(depth__min_m=0.1, depth__max_m=10.0).successful
    refused = atomically(sync__slop_sec=0.5, pose__timeout_sec=99.0)
    assert not refused.successful
    assert "pose.timeout_sec" in refused.reason
    assert agent.node.config.sync.slop_sec == 0.02  # nothing of it


def test_applied_settings_reach_every_part(agent: Harness) -> None:
    node = agent.node
    assert set_one(agent, "sync.slop_sec", 0.25).successful
    assert set_one(agent, "sync.queue_size", 7).successful
    assert set_one(agent, "keyframe.max_views", 3).successful
    assert (node.inputs.matcher.slop_ns, node.inputs.matcher.queue_size) == (250_000_000, 7)
    assert node.intake.config.sync.queue_size == node.pipeline.config.sync.queue_size == 7
    # The buffer takes it with the next frame or question.
    assert node.pipeline.config.keyframe.max_views == 3
    for name in ("sync.slop_sec", "sync.queue_size", "keyframe.max_views"):
        assert set_one(agent, name, SETTINGS[name].default).successful


def test_the_diagnostics_period_changes_while_running(agent: Harness) -> None:
    arrays = agent.collect(DiagnosticArray, "/diagnostics")
    assert wait_until(lambda: len(arrays) > 0)
    assert set_one(agent, "diagnostic_updater.period", 0.1).successful
    time.sleep(1.1)  # the period that had begun
    before = len(arrays)
    assert wait_until(lambda: len(arrays) >= before + 5, 1.5), len(arrays) - before
    assert set_one(agent, "diagnostic_updater.period", 1.0).successful


def test_fixed_settings_can_be_set_after_cleanup(start_agent: Start, tiny_model: Path) -> None:
    agent = start_agent(**{"extrinsic.xyz": [0.1, 0.2, 0.3]})
    assert not set_one(agent, "world_frame", "odom").successful
    agent.node.trigger_deactivate()
    agent.node.trigger_cleanup()
    assert set_one(agent, "world_frame", "odom").successful
    assert set_one(agent, "extrinsic.xyz", [1, 2, 3]).successful  # integers
    assert set_one(agent, "model.precision", "bf16").successful
    agent.node.trigger_configure()
    assert agent.ready()
    assert agent.node.pipeline.info.precision == "bfloat16"
    assert agent.node.config.extrinsic.xyz == (1.0, 2.0, 3.0)
    assert not set_one(agent, "world_frame", "map").successful


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"sync.slop_sec": "fast"}, "expected float, got str"),
        ({"keyframe.max_views": 2.5}, "expected int, got float"),
        ({"keyframe.max_views": 0}, "keyframe.max_views"),
        ({"sync.slop_sec": float("nan")}, "sync.slop_sec"),
        ({"qos.rgb": "best-effort"}, "did you mean 'best_effort'"),
        ({"extrinsic.xyz": [1.0, 2.0]}, "expected 3 numbers, got 2"),
        ({"extrinsic.quat_xyzw": [0.0, 0.0, 0.0, 0.5]}, "norm 0.5"),
        ({"depth.min_m": 20.0}, "must be below depth.max_m"),
    ],
)
def test_a_start_value_that_is_wrong(
    start_agent: Start, parameters: dict[str, Any], words: str
) -> None:
    """The node lives, says which and why, and works once it is set right."""
    agent = start_agent(**parameters)
    state, detail = agent.node.state_and_detail()
    assert state == AgentStatus.ERROR
    assert words in detail
    refused = agent.call(QueryScene, "query", QueryScene.Request(question="hi")).answer
    assert words in refused.error_msg
    for name in parameters:
        default = SETTINGS[name].default
        value = list(default) if isinstance(default, tuple) else default
        assert set_one(agent, name, value).successful
    agent.node.trigger_configure()
    agent.node.trigger_activate()
    agent.publish_scene(1)
    assert agent.call(QueryScene, "query", QueryScene.Request(question="hi")).answer.success


def test_start_values_that_contradict_each_other_leave_the_rest(start_agent: Start) -> None:
    """All of them were forgotten, autostart included, and mending one mended only that one."""
    agent = start_agent(**{"depth.min_m": 20.0, "depth.max_m": 15.0, "sync.slop_sec": 0.1})
    config = agent.node.config
    assert (config.autostart, config.sync.slop_sec, config.generation.max_new_tokens) == (
        True,
        0.1,
        8,
    )
    assert agent.node.state_and_detail()[0] == AgentStatus.ERROR
    assert set_one(agent, "depth.max_m", 30.0).successful
    config = agent.node.config
    assert (config.depth.min_m, config.depth.max_m, config.sync.slop_sec) == (20.0, 30.0, 0.1)
    agent.node.trigger_configure()
    assert agent.ready()


def test_start_values_as_integers_and_lists_of_integers(start_agent: Start) -> None:
    """As a YAML file written by hand has them: `xyz: [1, 0, 0]`."""
    agent = start_agent(
        **{
            "extrinsic.xyz": [1, 0, 0],
            "extrinsic.quat_xyzw": [0, 0, 0, 1],
            "depth.max_m": 8,
            "pose.timeout_sec": 1,
        }
    )
    assert agent.ready(), agent.node.state_and_detail()
    config = agent.node.config
    assert (config.extrinsic.xyz, config.depth.max_m, config.pose.timeout_sec) == (
        (1.0, 0.0, 0.0),
        8.0,
        1.0,
    )


def test_an_unknown_start_parameter_is_named_with_the_nearest(
    start_agent: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    agent = start_agent(**{"sync.slop_sek": 0.1})
    assert agent.ready()
    log = capfd.readouterr().err
    assert "unknown parameter 'sync.slop_sek' is ignored; did you mean 'sync.slop_sec'?" in log


def test_a_parameter_file_written_by_hand(tmp_path: Path, domain_id: int) -> None:
    """The whole way through rcl's own YAML parser, under a namespace."""
    file = tmp_path / "agent.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    extrinsic:\n      xyz: [1, 2, 3]\n    sync:\n      slop_sec:"
        " 1\n    world_frame: odom\n"
    )
    context = rclpy.Context()
    arguments = ["--ros-args", "--params-file", str(file), "-r", "__ns:=/robot"]
    rclpy.init(args=arguments, context=context, domain_id=domain_id)
    node = build_node(context=context)
    try:
        config = node.config
        assert node._settings.errors == {}
        assert (config.extrinsic.xyz, config.sync.slop_sec, config.world_frame) == (
            (1.0, 2.0, 3.0),
            1.0,
            "odom",
        )
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)
