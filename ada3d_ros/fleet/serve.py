"""`ada3d serve`: one model for many robots, until it is interrupted."""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ada3d_ros.config import AgentConfig, as_options, from_flat, load_config, to_flat
from ada3d_ros.errors import Ada3DError, ConfigError, ModelError
from ada3d_ros.fleet.protocol import NAME, token_of
from ada3d_ros.fleet.scene_store import HostLimits

# What Ray's own processes read; a value that is set already stays.
RAY_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anybody
    "RAY_worker_niceness": "0",  # not 15: a replica is no background work
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # not 5: a busy machine takes longer
    # No threads between router, replica and our code, none of which waits: a millisecond a question
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
}
APPLICATION = "ada3d"
READY_S = 600.0  # for cluster, replicas and proxy to start
POLL_S = 0.5
CLUSTER_S = 5.0  # for a cluster to answer
MAX_PORT, MAX_REPLICAS, MAX_CPUS = 65535, 1000, 1024.0


def main(args: Sequence[str] | None = None) -> int:
    """Exit status: 0 ended by a signal, 2 for settings that do not work."""
    given = parser().parse_args(args)
    try:
        if given.token_of is not None:
            print(_token(given))
            return 0
        return _serve(given)
    except Ada3DError as error:
        print(f"ada3d serve: {as_options(str(error))}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    limits = HostLimits()
    made = argparse.ArgumentParser(
        prog="ada3d serve",
        description="Answer the questions of many robots (model.remote) with one model, on Ray"
        " Serve: a replica a GPU, each robot's scene on one of them. docs/fleet.md.",
    )
    add = made.add_argument
    add("--model", default="", help="folder of a checkpoint, or embedded")
    add(
        "--vision-path",
        default="",
        metavar="FOLDER",
        help="CLIP folder, for a checkpoint that holds no vision tower",
    )
    add("--config", default="", help="YAML with the agent's settings (model, pruning, cache, ...)")
    add("--host", default="127.0.0.1", help="address to listen at; default: this machine alone")
    add("--port", type=int, default=8000, help="where to listen; default: 8000")
    add("--replicas", default="auto", help="auto (one a GPU), a number, or least-most: 2-8")
    add("--cpus", type=float, default=1.0, help="processors a replica; default: 1")
    add(
        "--prefixes",
        type=int,
        default=limits.prefixes,
        help=f"scenes a replica keeps ready to be asked about; default: {limits.prefixes}. Memory"
        " is planned for so many",
    )
    add(
        "--scenes",
        type=int,
        default=limits.scenes,
        help=f"scenes a replica keeps with their keyframes; default: {limits.scenes}",
    )
    add(
        "--waiting",
        type=int,
        default=limits.waiting,
        help=f"questions that wait at a replica; beyond it BUSY; default: {limits.waiting}",
    )
    add("--secret-file", default="", help="secret that robots' tokens are made with; mode 600")
    add("--token-of", metavar="ROBOT", help="print this robot's token, and end")
    add("--tls-cert", default="", help="certificate (PEM); with --tls-key")
    add("--tls-key", default="", help="its private key (PEM)")
    add("--metrics-port", type=int, default=0, help="for Prometheus; default: as Ray chooses")
    add("--address", default="", help="of a Ray cluster that runs; default: one of its own")
    return made


def _token(given: argparse.Namespace) -> str:
    from ada3d_ros.fleet.deployment import read_secret  # loads ray

    if not given.secret_file:
        raise ConfigError("--token-of needs the server's secret: --secret-file.")
    if not re.fullmatch(NAME, given.token_of):
        raise ConfigError(f"--token-of {given.token_of!r:.80} is no robot's id; allowed: {NAME}.")
    return token_of(read_secret(given.secret_file), given.token_of)


def http_options(given: argparse.Namespace) -> dict[str, Any]:
    """Where and how Serve listens. Raises ConfigError for what would be open to everybody, and what
    is no port or certificate.
    """
    if not 1 <= given.port <= MAX_PORT:
        raise ConfigError(f"--port {given.port}; allowed: 1 to {MAX_PORT}.")
    tls = (given.tls_cert, given.tls_key)
    if any(tls) and not all(tls):
        raise ConfigError("--tls-cert and --tls-key belong together.")
    for path in tls:
        if path and not Path(path).is_file():
            raise ConfigError(f"no file {path}.")
    if not _is_loopback(given.host) and not given.secret_file:
        raise ConfigError(
            f"--host {given.host} is reached from other machines and nobody is asked for a token:"
            " give --secret-file, or listen at 127.0.0.1."
        )
    options: dict[str, Any] = {"host": given.host, "port": given.port}
    if all(tls):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*tls)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"--tls-cert {tls[0]} and --tls-key {tls[1]} are no certificate and its key, both"
                f" PEM, without a password ({error})."
            ) from None
        options |= {"ssl_certfile": given.tls_cert, "ssl_keyfile": given.tls_key}
    return options


def replicas_of(text: str, automatic: int) -> tuple[int, int]:
    """`auto`, `3` or `2-8` as least and most. Raises ConfigError."""
    if text == "auto":
        return automatic, automatic
    least, dash, most = text.partition("-")
    try:
        counts = int(least), int(most if dash else least)
    except ValueError:
        counts = 0, 0
    if not 1 <= counts[0] <= counts[1] <= MAX_REPLICAS:
        raise ConfigError(
            f"--replicas {text}; allowed: auto, a number from 1 to {MAX_REPLICAS}, or 2-8."
        )
    return counts


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _settings(given: argparse.Namespace) -> dict[str, Any]:
    """The agent's settings that differ from the defaults. Raises ConfigError."""
    flat = to_flat(load_config(given.config)) if given.config else to_flat(AgentConfig())
    if given.model:
        flat["model.path"] = given.model
    if given.vision_path:
        flat["model.vision_path"] = given.vision_path
    if not flat["model.path"]:
        raise ConfigError("no model: name one with --model (embedded is the package's small one).")
    defaults = to_flat(AgentConfig())
    return {name: value for name, value in flat.items() if value != defaults[name]}


def limits_of(given: argparse.Namespace) -> HostLimits:
    """Raises ConfigError for numbers that no replica works with."""
    if not 0.0 < given.cpus <= MAX_CPUS:  # NaN, too
        raise ConfigError(f"--cpus {given.cpus:g}; allowed: above 0, up to {MAX_CPUS:g}.")
    if not 0 <= given.metrics_port <= MAX_PORT:
        raise ConfigError(f"--metrics-port {given.metrics_port}; allowed: 0 to {MAX_PORT}.")
    return HostLimits(prefixes=given.prefixes, scenes=given.scenes, waiting=given.waiting)


def _check_listening(host: str, port: int) -> None:
    """Raises ConfigError where nobody can listen: a port in use, no address of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"--host {host} --port {port}: nobody can listen there ({error}). Take a free port,"
                " and an address of this machine (0.0.0.0 is all of them)."
            ) from None


def _check_cluster(address: str) -> None:
    """Raises ConfigError where nobody answers at HOST:PORT: Ray itself asks for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return  # `auto`, or a name that Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), CLUSTER_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--address {address}: no Ray cluster answers there ({error}): start one (`ray start"
            " --head`), or leave the option out to have one of its own."
        ) from None


def _serve(given: argparse.Namespace) -> int:
    # What would fail in a replica, or hang there, is told before anything is started.
    options, settings, limits = http_options(given), _settings(given), limits_of(given)
    replicas_of(given.replicas, 1)
    if given.address:
        _check_cluster(given.address)
    else:  # the replicas are on this machine
        from ada3d_ros.fleet.scene_host import check_host

        _check_listening(given.host, given.port)
        check_host(from_flat(settings), limits)
    prepare_environment()
    from ada3d_ros.fleet.deployment import FleetSettings, application, default_replicas

    fleet = FleetSettings(
        settings=settings,
        limits=limits,
        replicas=replicas_of(given.replicas, default_replicas()),
        on_gpu=_has_gpus(settings),
        cpus=given.cpus,
        secret_file=given.secret_file,
    )
    app = application(fleet)
    cluster: dict[str, Any] = {"address": given.address} if given.address else {}
    if not given.address:  # a machine of few processors runs as many replicas as it is told to
        cluster |= {"include_dashboard": False, "num_cpus": fleet.replicas[1] * given.cpus + 1}
        if given.metrics_port:
            cluster["_metrics_export_port"] = given.metrics_port
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with served(app, options, cluster):
        scheme = "https" if given.tls_cert else "http"
        host = f"[{given.host}]" if ":" in given.host else given.host
        print(f"ada3d serve: ready at {scheme}://{host}:{given.port}", flush=True)
        while not stop.wait(1.0):
            pass
    return 0


def prepare_environment() -> None:
    """Before ray is imported."""
    for name, value in RAY_DEFAULTS.items():
        os.environ.setdefault(name, value)


@contextmanager
def served(app: Any, options: dict[str, Any], cluster: dict[str, Any]) -> Iterator[None]:
    """The application, ready to be asked. options: of Serve's HTTP proxy; cluster: of ray.init.
    Raises ConfigError where no cluster is there, ModelError where it does not get ready.
    """
    import ray
    from ray import serve

    try:
        ray.init(**cluster)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = cluster.get("address", "this machine")
        raise ConfigError(f"no Ray cluster at {where} (--address): {_first_line(error)}") from error
    try:
        with suppress(ray.exceptions.GetTimeoutError):  # the proxy still starts: it has a minute
            serve.start(http_options=options)
        try:
            serve.run(app, name=APPLICATION, route_prefix="/")
        except RuntimeError as error:  # a replica that cannot be made, again and again
            text = f"the replicas did not start: {_first_line(error)} Ray's log says why."
            raise ModelError(text) from error
        _await_port(options["host"], options["port"])
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


def _await_port(host: str, port: int) -> None:
    """Until someone listens there."""
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection((host, port), 1.0):
            return
        time.sleep(POLL_S)
    raise ModelError(f"nobody listens at {host}:{port} after {READY_S:g} s.")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _has_gpus(settings: dict[str, Any]) -> bool:
    import torch

    return torch.cuda.device_count() > 0 and settings.get("model.device", "auto") != "cpu"
