"""Each number of an answer's messages is the right one, in the right unit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from ada3d_ros.ros.conversions import (
    LATENCY_STAGES,
    box_to_msg,
    boxes_to_msg,
    boxes_to_poses,
    empty_answer_msg,
    fill_answer_msg,
)
from ada3d_ros.ros.markers import answer_to_markers
from ada3d_ros.types import Answer, Box3D, GroundingMethod, StopReason
from ada3d_ros.usage import StageTimings, TokenUsage

SECOND = 1_000_000_000
STAGES = ("preprocess", "vision", "spatial", "scene", "prefill", "rank", "decode", "postprocess")
TOKENS = TokenUsage(
    prompt=701,
    generated=11,
    spatial_total=600,
    spatial_kept=150,
    keep_ratio_requested=0.5,
    keep_ratio_achieved=0.375,
    strategy="adatoken3d",
    kv_bytes=7000,
    full_kv_bytes=9000,
    prefill_flops=3e9,
    full_prefill_flops=5e9,
    rank_flops=1e7,
    decode_flops=2e8,
)
BOX = Box3D(
    np.array([1.0, -2.0, 0.5]),
    np.array([2.0, 1.0, 0.8]),
    yaw_rad=0.5,
    label="red chair",
    score=0.75,
    support_points=42,
    method=GroundingMethod.HEAD,
    evidence_stamps_ns=(3 * SECOND, SECOND),
    evidence_xyz_m=((0.9, -2.1, 0.4), (1.1, -1.9, 0.6)),
    evidence_weights=(0.75, 0.25),
)


def answer_of(**changes: Any) -> Answer:
    """Every stage took another time: 1 ms, 2 ms, ... in the order of STAGES."""
    seconds = {f"{name}_s": 1e-3 * n for n, name in enumerate(STAGES, start=1)}
    answer = Answer(
        question="where?",
        text="there",
        boxes=(BOX,),
        stamp_ns=97 * SECOND + 250_000_000,
        frame_id="map",
        keyframe_stamps_ns=(90 * SECOND, 97 * SECOND + 250_000_000),
        stop_reason=StopReason.MAX_TOKENS,
        tokens=TOKENS,
        timings=StageTimings(first_token_s=0.020, total_s=0.050, **seconds),
        scene_epoch=3,
        scene_version=17,
        scene_cached=True,
        scene_staleness=0.125,
        confidence=0.875,
    )
    return replace(answer, **changes)


def filled(answer: Answer, started_ns: int = 98 * SECOND, now_ns: int = 100 * SECOND) -> Any:
    """Waited 300 ms, and took 400 ms in all."""
    message = empty_answer_msg("where?", 5, "map", "tiny")
    fill_answer_msg(message, answer, 0.300, 0.400, started_ns, now_ns)
    return message


def test_each_stage_has_its_own_time_in_milliseconds() -> None:
    latency = filled(answer_of()).latency
    for number, name in enumerate(STAGES, start=1):
        assert getattr(latency, f"{name}_ms") == pytest.approx(number, rel=1e-5), name
    assert latency.wait_ms == pytest.approx(300.0)
    assert latency.total_ms == pytest.approx(400.0)
    assert set(LATENCY_STAGES) == {*STAGES, "wait", "first_token", "total"}


def test_the_time_to_the_first_token_holds_the_wait() -> None:
    assert filled(answer_of()).latency.first_token_ms == pytest.approx(320.0)


def test_ages_are_seconds_of_the_scene_and_milliseconds_of_the_input() -> None:
    """The newest image is of 97.25 s; the work began at 98 s and ended at 100 s."""
    message = filled(answer_of())
    assert message.scene_age_s == pytest.approx(2.75)
    assert message.latency.input_age_ms == pytest.approx(750.0)
    without_clock = filled(answer_of(), started_ns=0, now_ns=0)
    assert math.isnan(without_clock.scene_age_s)
    assert math.isnan(without_clock.latency.input_age_ms)


def test_the_scene_is_named() -> None:
    message = filled(answer_of())
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (97, 250_000_000)
    assert [stamp.sec for stamp in message.keyframe_stamps] == [90, 97]
    assert (message.scene_epoch, message.scene_version, message.scene_cached) == (3, 17, True)
    assert (message.scene_staleness, message.confidence) == (0.125, 0.875)
    assert (message.text, message.stop_reason) == ("there", StopReason.MAX_TOKENS)


def test_tokens_and_costs_are_what_was_kept_and_not_what_was_there() -> None:
    tokens = filled(answer_of()).tokens
    assert (tokens.prompt, tokens.generated) == (701, 11)
    assert (tokens.spatial_total, tokens.spatial_kept) == (600, 150)
    assert (tokens.keep_ratio_requested, tokens.keep_ratio_achieved) == (0.5, 0.375)
    assert (tokens.strategy, tokens.prefill_flops, tokens.kv_bytes) == ("adatoken3d", 3e9, 7000)


# -- boxes


def rotated(q: Any, v: tuple[float, float, float]) -> np.ndarray[Any, Any]:
    """v turned by a quaternion, written out: v + 2 w (u x v) + 2 u x (u x v)."""
    u = np.array([q.x, q.y, q.z])
    return np.array(v) + 2 * q.w * np.cross(u, v) + 2 * np.cross(u, np.cross(u, v))


@pytest.mark.parametrize("yaw", [0.0, 0.5, -0.5, 2.5, -3.0])
def test_a_box_is_turned_by_its_yaw_to_the_left(yaw: float) -> None:
    message = box_to_msg(replace(BOX, yaw_rad=yaw))
    along = rotated(message.center.orientation, (1.0, 0.0, 0.0))
    assert along == pytest.approx([math.cos(yaw), math.sin(yaw), 0.0], abs=1e-12)


def test_a_box_message_has_the_full_extents_and_the_evidence() -> None:
    assert box_to_msg(replace(BOX, support_points=2**32)).support_points == 2**32 - 1
    message = box_to_msg(BOX)
    at, size = message.center.position, message.size
    assert (at.x, at.y, at.z) == (1.0, -2.0, 0.5)
    assert (size.x, size.y, size.z) == (2.0, 1.0, 0.8)
    assert (message.label, message.score, message.support_points) == ("red chair", 0.75, 42)
    assert message.method == GroundingMethod.HEAD
    assert [stamp.sec for stamp in message.evidence_stamps] == [3, 1]
    voxels = [(p.x, p.y, p.z) for p in message.evidence_voxels]
    assert voxels == [(0.9, -2.1, 0.4), (1.1, -1.9, 0.6)]
    assert list(message.evidence_weights) == [0.75, 0.25]


def test_markers_poses_and_boxes_show_the_same() -> None:
    message = filled(answer_of(boxes=(BOX, replace(BOX, label="lamp", score=math.nan))))
    markers = answer_to_markers(message, 2.5).markers
    clear, cube, label, second_cube, second_label = markers
    assert clear.action == clear.DELETEALL
    assert (cube.scale.x, cube.scale.y, cube.scale.z) == (2.0, 1.0, 0.8)
    assert cube.pose == message.boxes[0].center
    assert (cube.ns, cube.id, label.ns, label.id) == ("boxes", 0, "labels", 0)
    assert (second_cube.id, second_label.id) == (1, 1)
    assert (cube.lifetime.sec, cube.lifetime.nanosec) == (2, 500_000_000)
    assert (cube.header.frame_id, cube.header.stamp.sec) == ("map", 97)

    # The label: 10 cm above the top, with two digits of the score where there is one.
    at = label.pose.position
    assert (at.x, at.y, at.z) == pytest.approx((1.0, -2.0, 0.5 + 0.4 + 0.1))
    assert (label.text, second_label.text) == ("red chair 0.75", "lamp")
    assert boxes_to_poses(message).poses == [box.center for box in message.boxes]
    assert boxes_to_msg(message).boxes == message.boxes
