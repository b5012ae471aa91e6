"""The Ray Serve application: how many replicas, who is routed where, what waits.

`build` is what a Serve config file or a KubeRay manifest names (ada3d_ros.fleet.deployment:build).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray.serve import Application, deployment
from ray.serve.config import AutoscalingConfig

from ada3d_ros.config import from_flat
from ada3d_ros.errors import ConfigError
from ada3d_ros.fleet.ingress import Replica, ReplicaSettings
from ada3d_ros.fleet.scene_store import HostLimits

ROUTER = "ada3d_ros.fleet.scene_router.SceneRouter"
MIN_SECRET_BYTES = 16
BESIDE_QUESTIONS = 16  # requests of a replica that run at once and are no questions: uploads
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 5.0, 60.0
SHUTDOWN_S = 60.0  # for questions that run when their replica is replaced


@dataclass(frozen=True)
class FleetSettings:
    """replicas: least and most; equal: fixed. on_gpu: each has one of its own; cpus: processors
    each. queued: requests that wait at the proxy for one replica; waiting: see HostLimits.
    secret_file: with at least 16 bytes, that robots' tokens are made with.
    """

    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    limits: HostLimits = HostLimits()
    replicas: tuple[int, int] = (1, 1)
    on_gpu: bool = False
    cpus: float = 1.0
    queued: int = 64
    secret_file: str = ""


def application(fleet: FleetSettings, kind: type[Replica] = Replica) -> Application:
    """kind: of the replicas. Raises ConfigError."""
    from_flat(fleet.settings)
    least, most = fleet.replicas
    if not 1 <= least <= most:
        raise ConfigError(f"replicas {least} to {most}: at least 1, and the most not below it.")
    if not fleet.cpus > 0 or fleet.queued < 1:
        raise ConfigError(
            f"cpus = {fleet.cpus}, queued = {fleet.queued}; allowed: above 0, and from 1 on."
        )
    resources = {"num_cpus": fleet.cpus, "num_gpus": 1 if fleet.on_gpu else 0}
    ongoing = fleet.limits.waiting + 1 + BESIDE_QUESTIONS
    replica = deployment(
        name="ada3d",
        ray_actor_options=resources,
        max_ongoing_requests=ongoing,
        max_queued_requests=fleet.queued,
        autoscaling_config=AutoscalingConfig(
            min_replicas=least,
            initial_replicas=least,
            max_replicas=most,
            target_ongoing_requests=2,
            upscale_delay_s=5.0,
            downscale_delay_s=300.0,
        ),
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_wait_loop_s=1.0,
        graceful_shutdown_timeout_s=SHUTDOWN_S,
        request_router_config={
            "request_router_class": ROUTER,
            "request_router_kwargs": {"num_fallback_replicas": 0},
        },
    )(kind)
    secret = read_secret(fleet.secret_file) if fleet.secret_file else b""
    return replica.bind(ReplicaSettings(dict(fleet.settings), fleet.limits, secret))


def build(arguments: Mapping[str, Any]) -> Application:
    """From the arguments of a Serve config file: fields of FleetSettings, in `limits` those of
    HostLimits. Raises ConfigError.
    """
    values = dict(arguments)
    try:
        limits = HostLimits(**values.pop("limits", {}))
        least, most = values.pop("replicas", (1, 1))
        return application(FleetSettings(limits=limits, replicas=(least, most), **values))
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"arguments of the application: {error}.") from None


def read_secret(path: str) -> bytes:
    """The server's secret. Raises ConfigError."""
    try:
        file = Path(path).expanduser()
        secret, is_open = file.read_bytes().strip(), file.stat().st_mode & 0o077
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~ of nobody
        raise ConfigError(f"the file of the secret cannot be read: {error}.") from None
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(
            f"{path} holds {len(secret)} bytes: a secret has at least {MIN_SECRET_BYTES} (`openssl"
            " rand -hex 32`)."
        )
    if is_open:
        raise ConfigError(f"{path} can be read by others: chmod 600 {path}.")
    return secret


def default_replicas() -> int:
    """One for each GPU; one on a machine without."""
    return max(torch.cuda.device_count(), 1)
