"""Fixtures of the tests over DDS: a domain, a context, an agent that is stopped after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip(
    "rclpy", reason="rclpy is not importable: run `make setup`, or source a ROS distribution"
)
pytest.importorskip(
    "ada3d_ros.msg", reason="the interfaces are not built: run `make setup` or colcon build"
)

from ada3d_ros.model.random_checkpoint import write_random_checkpoint  # noqa: E402
from ada3d_ros.pipeline import Ada3DPipeline  # noqa: E402
from test.support.ros_harness import Harness, free_domain  # noqa: E402


@pytest.fixture(scope="session")
def domain_id() -> Iterator[int]:
    with free_domain() as domain:
        yield domain


@pytest.fixture
def ros_context(domain_id: int) -> Iterator[Any]:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain_id)
    yield context
    rclpy.try_shutdown(context=context)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint with random weights."""
    return write_random_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def start_agent(ros_context: Any, tiny_model: Path) -> Iterator[Callable[..., Harness]]:
    """start_agent(factory=..., **parameters) -> Harness; everything is stopped after the test."""
    started: list[Harness] = []

    def start(factory: Callable[..., Ada3DPipeline] = Ada3DPipeline, **parameters: Any) -> Harness:
        harness = Harness(ros_context, tiny_model, factory, **parameters)
        started.append(harness)
        return harness

    yield start
    for harness in started:
        harness.close()
