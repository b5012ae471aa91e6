"""The diagnostics tasks of the agent: Inputs, Synchronization, Scene, Inference, Pruning, Model and
GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ada3d_ros.errors import ConfigError
from ada3d_ros.msg import AgentStatus
from ada3d_ros.ros.diagnostics import ERROR, OK, WARN, DiagnosticsPublisher, inputs_task

if TYPE_CHECKING:
    from ada3d_ros.ros.node import AgentNode

Result = tuple[bytes, str, Mapping[str, object]]


def add_tasks(updater: DiagnosticsPublisher, node: AgentNode) -> None:
    """Register all tasks; they read the node's monitors when diagnostics are published."""
    updater.add("Inputs", lambda: _inputs(node))
    updater.add("Synchronization", lambda: _synchronization(node))
    updater.add("Scene", lambda: _scene(node))
    updater.add("Inference", lambda: _inference(node))
    updater.add("Pruning", lambda: _pruning(node))
    updater.add("Model and GPU", lambda: _model(node))


def _inputs(node: AgentNode) -> Result:
    monitors = node.inputs.monitors.values() if node.inputs else []
    return inputs_task(monitors, node.count_publishers, node.get_clock().now().nanoseconds)


def _synchronization(node: AgentNode) -> Result:
    drops = {f"dropped.{reason.value}": count for reason, count in node.drops.snapshot().items()}
    if node.inputs is None:
        return OK, "not active", drops
    inputs = node.inputs
    values: dict[str, object] = {
        "sets": inputs.sets,
        "dt_rgb_depth_ms_p50": inputs.gap_ms.percentile(50),
        "dt_rgb_depth_ms_p95": inputs.gap_ms.percentile(95),
        "waiting_for_pose": inputs.waiting_for_pose,
    }
    if node.intake is not None:
        values |= {
            "frames": node.intake.frames,
            "frame_cpu_ms_p50": node.intake.cpu_ms.percentile(50),
            "frame_cpu_ms_p95": node.intake.cpu_ms.percentile(95),
        }
    values |= drops
    starved = inputs.sets == 0 and all(m.received for m in inputs.monitors.values())
    return (WARN, inputs.missing(), values) if starved else (OK, f"{inputs.sets} sets", values)


def _scene(node: AgentNode) -> Result:
    if node.pipeline is None:
        return OK, "no scene yet", {}
    scene = node.pipeline.scene_state()
    now_ns = node.get_clock().now().nanoseconds
    values: dict[str, object] = {
        "keyframes": scene.num_keyframes,
        "epoch": scene.epoch,
        "version": scene.version,
        "oldest_age_s": (now_ns - scene.oldest_ns) / 1e9 if scene.num_keyframes else math.nan,
        "newest_age_s": (now_ns - scene.newest_ns) / 1e9 if scene.num_keyframes else math.nan,
    }
    cache = node.pipeline.cache_report()
    values |= {
        "cache.mode": node.config.cache.mode,
        "cache.version": cache.version,
        "cache.keyframes": cache.keyframes,
        "cache.spatial_tokens": cache.spatial,
        "cache.staleness": cache.staleness,
        "cache.kv_mib": cache.kv_bytes / 2**20,
        "cache.rows_to_build": cache.building,
        "cache.builds": cache.builds,
        "cache.appends": cache.appends,
    }
    if node.intake is not None:
        values |= {
            "valid_depth_fraction_p50": node.intake.valid_fraction.percentile(50),
            "camera_info_changes": node.intake.camera_info_changes,
        }
    return OK, f"{scene.num_keyframes} keyframes", values


def _inference(node: AgentNode) -> Result:
    monitor = node.inference
    values: dict[str, object] = {
        "requests": monitor.requests,
        "succeeded": monitor.succeeded,
        "canceled": monitor.failed["canceled"],
        "queue": node.worker.queued,
        "internal_errors": monitor.internal_errors,
        "last_error": monitor.last_error,
        "tokens_per_s": monitor.tokens_per_s.percentile(50),
    }
    values |= {f"failed.{name}": count for name, count in sorted(monitor.failed.items())}
    for stage, window in monitor.windows.items():
        values |= {
            f"{stage}_ms_p50": window.percentile(50),
            f"{stage}_ms_p95": window.percentile(95),
        }
    if monitor.internal_errors:
        return (
            WARN,
            f"{monitor.internal_errors} internal errors, the last: {monitor.last_error}",
            values,
        )
    return OK, f"{monitor.succeeded} of {monitor.requests} requests answered", values


def _pruning(node: AgentNode) -> Result:
    """The schedule in force, and what the last answer kept and cost."""
    config = node.config.pruning
    values: dict[str, object] = {"strategy": config.strategy, "keep_ratio": config.keep_ratio}
    level, words = OK, config.strategy
    if node.pipeline is not None:
        try:
            words, retention = node.pipeline.pruning_in_force()
            planned = " ".join(f"{share:.3f}" for share in retention)
            values["retention_per_layer"] = planned or (
                "all" if words == "none" else "decided by scene or question"
            )
        except ConfigError as error:  # what was measured last is shown all the same
            level, words = WARN, str(error)
    tokens = node.inference.last_tokens
    if tokens is not None:
        values |= {
            "last.strategy": tokens.strategy,
            "last.spatial_total": tokens.spatial_total,
            "last.kept_per_layer": " ".join(map(str, tokens.per_layer)),
            "last.keep_ratio": tokens.keep_ratio_achieved,
            "last.coverage_0.5m": tokens.coverage,
            "last.prefill_gflop": tokens.prefill_flops / 1e9,
            "last.unpruned_prefill_gflop": tokens.full_prefill_flops / 1e9,
            "last.rank_gflop": tokens.rank_flops / 1e9,
            "last.decode_gflop_per_token": tokens.decode_flops / 1e9,
            "last.unpruned_decode_gflop_per_token": tokens.full_decode_flops / 1e9,
            "last.kv_mib": tokens.kv_bytes / 2**20,
            "last.unpruned_kv_mib": tokens.full_kv_bytes / 2**20,
        }
    return level, words, values


def _model(node: AgentNode) -> Result:
    state, detail = node.state_and_detail()
    values: dict[str, object] = {}
    if node.pipeline is not None:
        used, total = node.pipeline.device_memory_mib()
        values |= {"gpu_memory_used_mib": used, "gpu_memory_free_mib": total - used}
        if node.pipeline.info is not None:
            info = node.pipeline.info
            values |= {
                "model": info.name,
                "sha256": info.sha256,
                "device": info.device,
                "precision": info.precision,
                "random_weights": info.random_weights,
            }
    return (ERROR, detail, values) if state == AgentStatus.ERROR else (OK, detail, values)
