"""Each number on /diagnostics is the right one, in the right unit."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("rclpy")

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.cache_report import CacheReport
from ada3d_ros.errors import ErrorCode, FrameReason
from ada3d_ros.geometry.stamped import PoseReason
from ada3d_ros.msg import Answer as AnswerMsg
from ada3d_ros.ros.conversions import LATENCY_STAGES, Request, empty_answer_msg
from ada3d_ros.ros.diagnostics import (
    DiagnosticsPublisher,
    Drops,
    InferenceMonitor,
    InputMonitor,
    Window,
    add_tasks,
)
from ada3d_ros.ros.requests import RequestServer
from ada3d_ros.scene.floor import Floor
from ada3d_ros.types import Answer, ModelInfo, Question, SceneState, StopReason
from ada3d_ros.usage import StageTimings, TokenUsage
from ada3d_ros.worker import Job

SECOND = 1_000_000_000
NOW_NS = 1000 * SECOND
TOKENS = TokenUsage(
    spatial_total=600,
    strategy="adatoken3d",
    keep_ratio_achieved=0.375,
    kv_bytes=3 * 2**20,
    held_kv_bytes=int(2.5 * 2**20),
    unpruned_kv_bytes=8 * 2**20,
    attended_kv_bytes=2 * 2**20,
    full_kv_bytes=9 * 2**20,
    prefill_flops=3e9,
    unpruned_prefill_flops=5e9,
    full_prefill_flops=50e9,
    build_flops=20e9,
    unpruned_build_flops=40e9,
    rank_flops=1e9,
    decode_flops=2e9,
    full_decode_flops=4e9,
    per_layer=(600, 300, 150),
    coverage=0.625,
)


def window_of(*values: float) -> Window:
    window = Window()
    for value in values:
        window.add(value)
    return window


class Feed:
    """A pipeline that has seen keyframes of 900 s to 980 s."""

    remote_problem = ""
    info = ModelInfo("tiny", "r", "ab" * 32, "cpu", "fp32", 1, 2, 3, True, True, False)
    scene = SimpleNamespace(floor=Floor(-1.5, "estimated"))

    def scene_state(self) -> SceneState:
        return SceneState(7, 2, 31, oldest_ns=900 * SECOND, newest_ns=980 * SECOND)

    def cache_report(self) -> CacheReport:
        return CacheReport(30, 500, 6, 0.125, 5 * 2**20, 64, 4, 9)

    def pruning_in_force(self) -> tuple[str, tuple[float, ...]]:
        return "a schedule", (1.0, 0.5, 0.25)

    def device_memory_mib(self) -> tuple[float, float]:
        return 300.0, 1000.0

    def remote_report(self) -> dict[str, object]:
        return {}


def node_of(**changes: Any) -> Any:
    """What the diagnostics tasks read of a node."""
    clock = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=NOW_NS))
    values = {
        "get_clock": lambda: clock,
        "count_publishers": lambda topic: 2,
        "config": AgentConfig(),
        "pipeline": Feed(),
        "inputs": None,
        "intake": None,
        "drops": Drops(),
        "inference": InferenceMonitor(),
        "worker": SimpleNamespace(queued=3),
        "state_and_detail": lambda: (1, "fine"),
        "health": SimpleNamespace(faults=list),
        "objects": SimpleNamespace(report=lambda: {"objects.kept": 5}),
        "scene_outputs": SimpleNamespace(report=lambda: {"outputs.goal": ""}),
    }
    return SimpleNamespace(**(values | changes))


def shown(task: str, **changes: Any) -> dict[str, str]:
    """The values of one task, as they are published."""
    publisher = DiagnosticsPublisher("agent", "camera")
    add_tasks(publisher, cast(Any, node_of(**changes)))
    (status,) = [s for s in publisher.statuses() if s.name == f"agent: {task}"]
    assert "failed" not in status.message, status.message
    return {pair.key: pair.value for pair in status.values}


# -- windows


def test_percentiles_count_from_the_smallest() -> None:
    window = window_of(*np.random.default_rng(0).permutation(101).astype(float), math.nan, math.inf)
    assert [window.percentile(q) for q in (0, 5, 50, 95, 100)] == [0.0, 5.0, 50.0, 95.0, 100.0]
    assert math.isnan(Window().percentile(50))


def test_a_window_forgets_the_oldest() -> None:
    window = Window(size=10)
    for value in range(100):
        window.add(float(value))
    assert (window.percentile(0), window.percentile(100)) == (90.0, 99.0)
    window.clear()
    assert math.isnan(window.percentile(50))


# -- inputs


def test_stamps_that_do_not_rise_are_counted() -> None:
    monitor = InputMonitor("rgb")
    for stamp in (0, 10, 10, 5, 20, 20, 30):
        monitor.note(stamp)
    assert (monitor.received, monitor.non_increasing, monitor.last_stamp_ns) == (7, 3, 30)


def test_the_rate_is_of_the_last_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monitor = InputMonitor("rgb")
    for _ in range(5):
        monitor.note(0)
    for _ in range(21):
        clock[0] += 0.5
        monitor.note(0)
    assert monitor.rate_hz == pytest.approx(2.0)
    clock[0] += 4.0
    assert monitor.silent_s == pytest.approx(4.0)
    clock[0] += 96.0
    assert monitor.rate_hz == 0.0


def test_an_input_is_shown_with_its_age_in_milliseconds() -> None:
    monitor = InputMonitor("rgb", topic="/image", reliability="reliable")
    for stamp in (990 * SECOND, 989 * SECOND, 999 * SECOND + 750_000_000):
        monitor.note(stamp)
    monitor.wrong_frame, monitor.qos_incompatible = 4, 6
    other = InputMonitor("depth")
    values = shown("Inputs", inputs=SimpleNamespace(monitors={"rgb": monitor, "depth": other}))
    assert values["rgb.last_stamp_age_ms"] == "250.000"
    assert values["rgb.received"] == "3"
    assert values["rgb.non_increasing_stamps"] == "1"
    assert (values["rgb.wrong_frame"], values["rgb.qos_incompatible"]) == ("4", "6")
    assert (values["rgb.publishers"], values["rgb.qos"]) == ("2", "reliable")
    assert (values["depth.last_stamp_age_ms"], values["depth.received"]) == ("nan", "0")


def test_synchronisation_shows_its_windows_and_every_drop() -> None:
    drops = Drops()
    for count, reason in enumerate(FrameReason, start=1):
        for _ in range(count):
            drops.add(reason)
    inputs = SimpleNamespace(
        sets=12,
        waiting_for_pose=3,
        monitors={},
        gap_ms=window_of(*range(101)),
        infos=SimpleNamespace(lag_s=0.25),
        no_pose=Counter({PoseReason.AFTER: 4, PoseReason.LOOP: 2}),
    )
    intake = SimpleNamespace(frames=9, cpu_ms=window_of(*range(200, 301)))
    values = shown("Synchronization", drops=drops, inputs=inputs, intake=intake)
    assert (values["sets"], values["waiting_for_pose"], values["frames"]) == ("12", "3", "9")
    assert values["camera_info_lag_s"] == "0.250"
    assert (values["dt_rgb_depth_ms_p50"], values["dt_rgb_depth_ms_p95"]) == ("50.000", "95.000")
    assert (values["frame_cpu_ms_p50"], values["frame_cpu_ms_p95"]) == ("250.000", "295.000")
    for count, reason in enumerate(FrameReason, start=1):
        assert values[f"dropped.{reason.value}"] == str(count)
    reasons = {k.removeprefix("no_pose."): v for k, v in values.items() if k.startswith("no_pose")}
    assert {k: v for k, v in reasons.items() if v != "0"} == {"after": "4", "loop": "2"}
    assert len(reasons) == len(PoseReason)


# -- scene


def test_the_scene_has_its_ages_in_seconds_and_its_cache() -> None:
    fraction = SimpleNamespace(
        valid_fraction=window_of(0.25, 0.5, 0.875),
        camera_info_changes=8,
        watch=SimpleNamespace(axes="optical"),
    )
    values = shown("Scene", intake=fraction)
    assert (values["keyframes"], values["epoch"], values["version"]) == ("7", "2", "31")
    assert (values["oldest_age_s"], values["newest_age_s"]) == ("100.000", "20.000")
    assert (values["floor.z_m"], values["floor.source"]) == ("-1.500", "estimated")
    cached = {key.removeprefix("cache."): v for key, v in values.items() if key.startswith("cache")}
    assert cached == {
        "mode": "cached",
        "version": "30",
        "keyframes": "6",
        "spatial_tokens": "500",
        "staleness": "0.125",
        "kv_mib": "5.000",
        "rows_to_build": "64",
        "builds": "4",
        "appends": "9",
    }
    assert values["objects.kept"] == "5"
    assert values["valid_depth_fraction_p50"] == "0.500"
    assert values["camera_info_changes"] == "8"


# -- answers


def noted(*messages: AnswerMsg) -> InferenceMonitor:
    """The monitor after these outcomes."""
    monitor = InferenceMonitor()
    logger = SimpleNamespace(warning=lambda text: None)
    server: Any = SimpleNamespace(_node=SimpleNamespace(get_logger=lambda: logger))
    note = RequestServer._note
    for message in messages:
        note(server, message, monitor)
    return monitor


def answered(scale: float = 1.0, generated: int = 11) -> AnswerMsg:
    """Every stage took another time: 10 ms, 20 ms, ... in the order of LATENCY_STAGES."""
    message = AnswerMsg(success=True)
    for number, stage in enumerate(LATENCY_STAGES, start=1):
        setattr(message.latency, f"{stage}_ms", 10.0 * number * scale)
    message.tokens.generated = generated
    return message


def test_each_stage_has_its_own_window() -> None:
    monitor = noted(*[answered(scale) for scale in np.linspace(0.0, 2.0, 101)])
    values = shown("Inference", inference=monitor)
    for number, stage in enumerate(LATENCY_STAGES, start=1):
        assert values[f"{stage}_ms_p50"] == f"{10 * number:.3f}", stage
        assert values[f"{stage}_ms_p95"] == f"{19 * number:.3f}", stage
    assert (values["requests"], values["succeeded"], values["queue"]) == ("0", "101", "3")


def test_tokens_per_second_are_of_those_after_the_first() -> None:
    """Eleven tokens, ten of them in the time of decoding, 90 ms."""
    (decode_ms,) = [10.0 * n for n, s in enumerate(LATENCY_STAGES, start=1) if s == "decode"]
    monitor = noted(answered())
    assert monitor.tokens_per_s.percentile(50) == pytest.approx(10 / (decode_ms / 1e3))
    assert shown("Inference", inference=monitor)["tokens_per_s"] == f"{10 / decode_ms * 1e3:.3f}"
    assert math.isnan(noted(answered(generated=1)).tokens_per_s.percentile(50))


def test_a_failure_is_counted_by_its_name_and_gives_no_times() -> None:
    failures = [
        AnswerMsg(error_code=int(code), error_msg=f"because of {code.name}")
        for code in (ErrorCode.TIMEOUT, ErrorCode.CANCELED, ErrorCode.TIMEOUT)
    ]
    for failure in failures:
        failure.latency.total_ms = 5.0
    monitor = noted(*failures, answered())
    values = shown("Inference", inference=monitor)
    assert (values["failed.timeout"], values["failed.canceled"]) == ("2", "1")
    assert (values["canceled"], values["succeeded"]) == ("1", "1")
    assert values["last_error"] == "because of TIMEOUT"
    assert values["total_ms_p50"] == f"{10.0 * len(LATENCY_STAGES):.3f}"


def test_pruning_shows_the_last_answer_beside_the_unpruned_one() -> None:
    monitor = InferenceMonitor(last_tokens=TOKENS)
    values = shown("Pruning", inference=monitor)
    last = {key.removeprefix("last."): v for key, v in values.items() if key.startswith("last.")}
    assert last == {
        "strategy": "adatoken3d",
        "spatial_total": "600",
        "kept_per_layer": "600 300 150",
        "keep_ratio": "0.375",
        "coverage_0.5m": "0.625",
        "prefill_gflop": "3.000",
        "unpruned_prefill_gflop": "5.000",
        "uncached_prefill_gflop": "50.000",
        "build_gflop": "20.000",
        "unpruned_build_gflop": "40.000",
        "rank_gflop": "1.000",
        "decode_gflop_per_token": "2.000",
        "unpruned_decode_gflop_per_token": "4.000",
        "kv_mib": "3.000",
        "held_kv_mib": "2.500",
        "attended_kv_mib": "2.000",
        "unpruned_kv_mib": "8.000",
    }
    assert values["retention_per_layer"] == "1.000 0.500 0.250"


def test_the_model_shows_the_memory_that_is_used_and_free() -> None:
    values = shown("Model and GPU")
    assert (values["gpu_memory_used_mib"], values["gpu_memory_free_mib"]) == ("300.000", "700.000")
    assert (values["model"], values["device"], values["precision"]) == ("tiny", "cpu", "fp32")
    assert (values["sha256"], values["random_weights"]) == ("ab" * 32, "True")


def test_the_wait_is_from_acceptance_to_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepted at 10 s, begun at 10.3 s, done at 10.5 s, 40 ms to the first token from then on."""
    monkeypatch.setattr(time, "monotonic", lambda: 10.5)
    complete = RequestServer._complete
    server: Any = SimpleNamespace(_node=node_of())
    job = Job(lambda job: None, lambda *outcome: None, deadline=99.0)
    job.accepted, job.started, job.started_ns = 10.0, 10.3, NOW_NS
    answer = Answer(
        question="where?",
        text="there",
        boxes=(),
        stamp_ns=NOW_NS - 2 * SECOND,
        frame_id="map",
        keyframe_stamps_ns=(NOW_NS - 2 * SECOND,),
        stop_reason=StopReason.EOS,
        tokens=TOKENS,
        timings=StageTimings(first_token_s=0.04, total_s=0.2),
    )
    message = empty_answer_msg("where?", 1, "map", "tiny")
    asked = Request(Question("where?"), deadline_ms=499.0)
    complete(server, message, asked, job, answer, None)
    latency = message.latency
    assert latency.wait_ms == pytest.approx(300.0)
    assert latency.first_token_ms == pytest.approx(340.0)
    assert latency.total_ms == pytest.approx(500.0)
    assert (latency.input_age_ms, message.scene_age_s) == pytest.approx((2000.0, 2.0))
    assert not message.deadline_kept
    complete(server, message, replace(asked, deadline_ms=501.0), job, answer, None)
    assert message.deadline_kept
