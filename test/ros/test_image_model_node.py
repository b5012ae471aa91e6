"""A node with LLaVA-NeXT: the newest image is asked about, the scene is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from ada3d_ros.errors import ErrorCode
from ada3d_ros.model.random_checkpoint import TINY_NEXT, write_random_checkpoint
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.srv import QueryScene
from test.support.ros_harness import Harness

SCOPE = QueryScene.Request.SCOPE_LATEST_IMAGE


def test_llava_next_answers_about_the_newest_image(ros_context: Any, tmp_path: Path) -> None:
    model = write_random_checkpoint(tmp_path / "next", config=TINY_NEXT)
    agent = Harness(ros_context, model, Ada3DPipeline)
    try:
        agent.publish_scene()
        request = QueryScene.Request(question="What is it?", scope=SCOPE)
        image = agent.call(QueryScene, "query", request).answer
        assert image.success, image.error_msg
        assert image.tokens.spatial_total == 64 + 12 * (16 + 1)  # 4:3 in 2 x 2 crops of 8 x 8
        scene = agent.call(QueryScene, "query", QueryScene.Request(question="What is it?")).answer
        assert (scene.success, scene.error_code) == (False, ErrorCode.INVALID_REQUEST)
        assert "ask with scope LATEST_IMAGE" in scene.error_msg
    finally:
        agent.close()
